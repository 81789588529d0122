"""The npm clients `nats` 2.x and `@nats-io/transport-node` 3.x, where they are installed.

SHARDBROKER_TEST_NPM names the folder with node_modules (npm install nats@2 @nats-io/transport-node@3).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import Broker

Start = Callable[..., Broker]
SCRIPT = Path(__file__).with_name("node_client.mjs")
MODULES = Path(os.environ.get("SHARDBROKER_TEST_NPM", "")) / "node_modules"
SECONDS = 60


@pytest.fixture(params=["nats", "transport-node"])
def command(request: pytest.FixtureRequest) -> list[str]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    package = MODULES / ("nats" if request.param == "nats" else "@nats-io/transport-node")
    if not package.is_dir():
        pytest.skip("SHARDBROKER_TEST_NPM does not name a folder with this client")
    return [node, str(SCRIPT), str(MODULES), request.param]


def test_core(command: list[str], broker: Broker, subject: str) -> None:
    done = subprocess.run(
        [*command, str(broker.port), subject, "core"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.stdout.split() == ["OK"], done.stdout + done.stderr


@pytest.mark.ours
def test_reconnect_after_kill_of_a_worker(command: list[str], fresh_broker: Start, subject: str) -> None:
    broker = fresh_broker()
    client = subprocess.Popen(
        [*command, str(broker.port), subject, "reconnect"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert client.stdout is not None
        assert client.stdout.readline() == "READY\n", client.communicate()
        for number in broker.shards_in_use():
            broker.kill_shard(number)
        out, err = client.communicate(timeout=SECONDS)
        assert out == "OK\n", out + err
    finally:
        client.kill()
        client.communicate()
