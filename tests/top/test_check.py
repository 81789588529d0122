"""`shardbroker check connection|health|jetstream` of a running server: one line, perfdata, exit status."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import Broker, wait_until
from shardbroker.cli.plugin import Result
from shardbroker.cli.probe import uptime_seconds

Start = Callable[..., Broker]


def check(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shardbroker", "check", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | environment,
    )


def monitoring(broker: Broker, ports: Path) -> str:
    file = wait_until(lambda: next(ports.glob("*.ports"), None), "the ports file")
    url: str = wait_until(lambda: json.loads(file.read_bytes()), "the ports")["monitoring"][0]
    return url


def test_a_connection(fresh_broker: Start) -> None:
    broker = fresh_broker(args=["--user", "u", "--pass", "p w"])
    url = f"127.0.0.1:{broker.port}"
    easy = [
        "--connect-critical",
        "100",
        "--connect-warn",
        "100",
        "--rtt-critical",
        "100",
        "--rtt-warn",
        "100",
    ]
    easy += ["--req-critical", "100", "--req-warn", "100"]
    done = check("connection", url, *easy, NATS_USER="u", NATS_PASSWORD="p w")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(
        r"CONNECTION OK - connected to \S+ 2\.\S+ "
        r"\| connect_time=[\d.]+s;100;100 rtt=[\d.]+s;100;100 request_time=[\d.]+s;100;100\n",
        done.stdout,
    )
    done = check(
        "connection",
        url,
        "--rtt-warn",
        "0",
        "--rtt-critical",
        "100",
        *easy[:4],
        NATS_USER="u",
        NATS_PASSWORD="p w",
    )
    assert done.returncode == 1
    assert done.stdout.startswith("CONNECTION WARNING - connected")
    done = check("connection", url, NATS_USER="u", NATS_PASSWORD="wrong-one")
    assert done.returncode == 2
    assert done.stdout == "CONNECTION CRITICAL - -ERR 'Authorization Violation'\n"
    done = check("connection", f"nats://u:secret@{url}")
    assert done.returncode == 2
    assert "secret" not in done.stdout + done.stderr


def test_nobody_there() -> None:
    for name in ("connection", "health", "jetstream"):
        done = check(name, "127.0.0.1:1")
        assert done.returncode == 2
        assert done.stdout.startswith(f"{name.upper()} CRITICAL - ")
        assert "refused" in done.stdout


@pytest.mark.parametrize(
    ("greeting", "says"),
    [
        (b"HTTP/1.1 400\r\n", "does not begin with INFO"),
        (b"INFO {\r\n", "not JSON"),
        (b"x" * 4_000_000, "without an end"),
    ],
)
def test_something_else_there(greeting: bytes, says: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    connection.sendall(greeting)
                    connection.recv(1)
                except OSError:
                    return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        done = check("connection", f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join(20)
    assert done.returncode == 2
    assert says in done.stdout


def test_health(fresh_broker: Start, tmp_path: Path) -> None:
    ports = tmp_path / "ports"
    ports.mkdir()
    broker = fresh_broker(args=["-m", "-1", "--ports_file_dir", str(ports)])
    url = monitoring(broker, ports)
    with broker.client() as client:
        client.connect().flush()
        done = check("health", url, "--connections-warn", "1", "--connections-critical", "2")
        assert (done.returncode, done.stderr) == (0, "")
        assert re.match(
            r"HEALTH OK - \S+ 2\.\S+, up \S+ \| connections=1;1;2 cpu=[\d.]+%;; memory=\d+B;; uptime=",
            done.stdout,
        )
        done = check("health", url, "--connections-warn", "0", "--connections-critical", "2")
        assert (done.returncode, done.stdout[:15]) == (1, "HEALTH WARNING ")
        assert "connections 1 is over 0" in done.stdout
    done = check("health", url, "--uptime-critical", "100000")
    assert (done.returncode, "s only" in done.stdout) == (2, True)
    # Streams are off.
    done = check("jetstream", url)
    assert (done.returncode, done.stdout) == (2, "JETSTREAM CRITICAL - JetStream is not enabled\n")


def test_jetstream(fresh_broker: Start, tmp_path: Path) -> None:
    ports = tmp_path / "ports"
    ports.mkdir()
    config = f'jetstream {{ store_dir: "{tmp_path}/js", max_mem: 1M, max_file: 10M }}\n'
    broker = fresh_broker(args=["-m", "-1", "--ports_file_dir", str(ports)], config=config)
    url = monitoring(broker, ports)
    done = check("jetstream", url)
    assert (done.returncode, done.stderr) == (0, "")
    for part in ("JETSTREAM OK", "storage_pct=0%;75;90", "streams=0;;", "consumers=0;;"):
        assert part in done.stdout
    done = check("jetstream", url, "--streams-warn", "2", "--streams-critical", "1")
    assert (done.returncode, "streams 0 is under 1" in done.stdout) == (2, True)


@pytest.mark.ours
def test_health_while_a_shard_is_missing(fresh_broker: Start, tmp_path: Path) -> None:
    """A stopped front answers nothing: critical, in time."""
    ports = tmp_path / "ports"
    ports.mkdir()
    broker = fresh_broker(args=["-m", "-1", "--ports_file_dir", str(ports)], workers=1)
    url = monitoring(broker, ports)
    with broker.stopped_front():
        done = check("health", url, "--timeout", "0.5")
    assert done.returncode == 2
    assert done.stdout.startswith("HEALTH CRITICAL - ")


@pytest.mark.parametrize(
    ("value", "warn", "critical", "status"),
    [(1, 2, 3, 0), (2, 2, 3, 0), (2.5, 2, 3, 1), (4, 2, 3, 2), (5, 4, 3, 0), (3.5, 4, 3, 1), (2, 4, 3, 2), (9, None, None, 0)],
)  # fmt: skip
def test_thresholds(value: float, warn: float | None, critical: float | None, status: int) -> None:
    result = Result("X")
    result.measure("v", value, "s", warn, critical)
    assert result.status == status


def test_a_line() -> None:
    result = Result("X")
    result.say("a|b")
    result.measure("t", 0.0000741, "s", 0.5)
    assert result.line() == "X OK - a/b | t=0.000074s;0.5;"


@pytest.mark.parametrize(("text", "seconds"), [("0s", 0), ("1m5s", 65), ("1y2d3h4m5s", 31536000 + 183845)])
def test_uptimes(text: str, seconds: int) -> None:
    assert uptime_seconds(text) == seconds
