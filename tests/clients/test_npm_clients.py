"""The npm clients `nats` 2.x and `@nats-io/transport-node` 3.x with what is made on it, where they are installed.

SHARDBROKER_TEST_NPM names the folder with node_modules (npm install nats@2 @nats-io/transport-node@3 @nats-io/kv@3
@nats-io/obj@3).
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


def test_stores(js: Broker, name: str) -> None:
    """Buckets of keys and of objects."""
    node = shutil.which("node")
    if node is None or not (MODULES / "@nats-io/obj").is_dir() or not (MODULES / "@nats-io/kv").is_dir():
        pytest.skip("SHARDBROKER_TEST_NPM does not name a folder with @nats-io/kv and @nats-io/obj")
    script = SCRIPT.with_name("node_stores.mjs")
    done = subprocess.run(
        [node, str(script), str(MODULES), str(js.port), name, "5"],
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
