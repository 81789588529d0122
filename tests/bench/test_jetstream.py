"""Shapes on streams and buckets, against a broker of ours and a nats-server with JetStream where one is found."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

SECONDS_MAX = 120.0
SHAPES = [
    "js-pub-sync",
    "js-pub-async:2",
    "js-ordered:2:64..512",
    "js-consume:2",
    "js-fetch",
    "kv-put:2",
    "kv-get:2",
]
BATCHES_SINCE = (2, 12)


def found() -> tuple[str, tuple[int, ...]]:
    """A nats-server that is not ours under its name, and its version."""
    program = os.environ.get("SHARDBROKER_TEST_JETSTREAM") or shutil.which("nats-server") or ""
    if not program:
        return "", ()
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"v(\d+)\.(\d+)", said)
    if not version or "shardbroker" in Path(program).resolve().name:
        return "", ()
    return program, tuple(map(int, version.groups()))


PROGRAM, VERSION = found()
SERVERS = [
    "workers1",
    "workers3",
    pytest.param("nats-server", marks=pytest.mark.skipif(not PROGRAM, reason="no nats-server with JetStream is on PATH")),
]


def bench(tmp_path: Path, server: str, *words: str) -> subprocess.CompletedProcess[str]:
    store = tmp_path / "store"
    store.mkdir()
    if server == "nats-server":
        on = ["--start", f"{PROGRAM} -js -sd {store} -a 127.0.0.1 -p {{port}}"]
    else:
        on = ["--workers", server.removeprefix("workers"), "--store-dir", str(store)]
    return subprocess.run(
        [sys.executable, "-m", "shardbroker", "bench", *words, *on], capture_output=True, text=True, timeout=SECONDS_MAX,
    )  # fmt: skip


@pytest.mark.parametrize("server", SERVERS)
def test_every_shape(tmp_path: Path, server: str) -> None:
    path = tmp_path / "out.json"
    shapes = [*SHAPES, "js-pub-batch"] if server == "nats-server" and VERSION >= BATCHES_SINCE else SHAPES
    done = bench(tmp_path, server, *shapes, "--msgs", "3000", "--batch", "100", "--json", str(path))
    assert done.returncode == 0, done.stderr
    runs: dict[str, dict[str, Any]] = {run["shape"]: run for run in orjson.loads(path.read_bytes())["runs"]}
    assert {name: run["count"] for name, run in runs.items()} == {
        shape.split(":")[0]: 6000 if shape.startswith("js-ordered") else 3000 for shape in shapes
    }
    assert runs["js-pub-async"]["acks"] == {"first": 1, "last": 3000, "count": 3000}
    assert runs["js-consume"]["acknowledged"] == 3000
    assert runs["kv-get"]["bucket"]["keys"] == 1000
    assert runs["js-pub-sync"]["latency"]["count"] == 3000
    if server != "nats-server":
        assert not list((tmp_path / "store").iterdir())


@pytest.mark.parametrize("server", SERVERS)
def test_many_subjects_and_headers_in_a_stream(tmp_path: Path, server: str) -> None:
    words = ("js-fetch", "js-pub-async", "--subjects", "50", "--header", "A: b", "--msgs", "2000")
    done = bench(tmp_path, server, *words)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("server", SERVERS)
def test_a_batch_is_refused_in_the_servers_words(tmp_path: Path, server: str) -> None:
    if server == "nats-server" and VERSION >= BATCHES_SINCE:
        pytest.skip("this server takes batches")
    done = bench(tmp_path, server, "js-pub-batch", "--msgs", "1000", "--timeout", "2")
    assert done.returncode == 1
    assert re.search('unknown field "allow_atomic"|counts another batch', done.stderr), done.stderr
