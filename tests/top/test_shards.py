"""`shardbroker top --by shard` on a running broker."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import Broker, wait_until
from shardbroker.cli.top_poll import SHARD_COLUMNS


@pytest.mark.ours
def test_shards(fresh_broker: Callable[..., Broker], tmp_path: Path) -> None:
    ports = tmp_path / "ports"
    ports.mkdir()
    broker = fresh_broker(args=["-m", "-1", "--ports_file_dir", str(ports)])
    file = wait_until(lambda: next(ports.glob("*.ports"), None), "the ports file")
    url = wait_until(lambda: json.loads(file.read_bytes()), "the ports")["monitoring"][0]
    command = [sys.executable, "-m", "shardbroker", "top", url, "--by", "shard", "-o", "-", "-r", "1", "-d", "0.1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    rows = list(csv.reader(io.StringIO(done.stdout)))
    assert rows[0] == ["TIME", *SHARD_COLUMNS]
    assert {int(row[1]): int(row[2]) for row in rows[1:]} == broker.shard_pids()
    assert {row[3] for row in rows[1:]} == {"READY"}
