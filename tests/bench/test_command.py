"""`shardbroker bench` as users call it: every shape on a broker of ours, what it prints, what it writes, how it fails."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from harness import RawClient
from harness.broker import Broker, wait_until
from harness.processes import family
from shardbroker.bench import interrupt
from shardbroker.bench.server import free_port
from shardbroker.cli.bench import bench as command

SECONDS_MAX = 120.0
QUICK = ("--duration", "0.1", "--warm-up", "0.05", "--generators", "1")


def bench(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shardbroker", "bench", *words],
        capture_output=True, text=True, timeout=SECONDS_MAX, env={**os.environ, **(env or {})},
    )  # fmt: skip


def figures(tmp_path: Path, *words: str) -> list[dict[str, Any]]:
    """Runs of a bench that must go well."""
    path = tmp_path / "out.json"
    done = bench(*words, "--json", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    runs: list[dict[str, Any]] = orjson.loads(path.read_bytes())["runs"]
    return runs


@pytest.mark.parametrize("workers", [1, 2])
def test_every_core_shape(tmp_path: Path, workers: int) -> None:
    loads = [
        "pub", "pubsub:2x2:16", "pubsub:1x1:64..4096", "fanout:1x8:16", "fanin:4x1", "wildcard", "subjects:1x2",
        "queue", "slow:1x2", "request:2x2", "connect:4", "subscribe:2", "idle:20",
    ]  # fmt: skip
    with Broker(tmp_path / "broker", workers=workers) as broker:
        runs = figures(
            tmp_path, *loads, *QUICK, "--msgs", "3000", "--window", "50", "--server", f"127.0.0.1:{broker.port}",
            "--header", "Kind: test",
        )  # fmt: skip
    assert [run["load"].split(":")[0] for run in runs] == [load.split(":")[0] for load in loads]
    for run in runs:
        assert run["count"] > 0
        assert run["server"]["workers"] == workers
        assert len(run["shards"]) == workers
        assert run["server_cpu_seconds"] >= 0
    by_name = {run["shape"]: run for run in runs}
    assert by_name["fanout"]["count"] == 8 * by_name["fanout"]["published"]
    assert by_name["fanin"]["count"] == by_name["fanin"]["published"]
    assert by_name["request"]["latency"]["p50_us"] <= by_name["request"]["latency"]["p99_us"]
    assert by_name["idle"]["count"] == 20
    assert by_name["pubsub"]["published"] == by_name["request"]["count"] == 3000


def test_several_generators_share_a_load(tmp_path: Path) -> None:
    runs = figures(
        tmp_path, "pubsub:3x4:64", "subjects:2x3", "queue:3x3", "request:3x2", *QUICK[:-1], "4", "--subjects", "1"
    )  # fmt: skip
    assert [len(run["generator_cpu_shares"]) for run in runs] == [4, 4, 4, 4]


def test_an_open_loop_keeps_its_rate_and_has_latencies(tmp_path: Path) -> None:
    [run] = figures(tmp_path, "pubsub:2x2:32", "--rate", "2000", "--duration", "0.5", "--warm-up", "0.1")
    assert run["published"] == 1000
    assert run["count"] == 2000
    assert run["latency"]["count"] == 2000
    assert run["generator_lateness"]["count"] > 0


def test_messages_are_counted(tmp_path: Path) -> None:
    runs = figures(tmp_path, "pubsub:2x3", "request", "connect:3", "--msgs", "60", "--warm-up", "0")
    assert [run["published"] for run in runs] == [60, 60, 60]
    assert runs[0]["count"] == 180


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nonsense",), "no shape is called 'nonsense'"),
        (("pubsub:0x1",), "counts are 1 to"),
        (("pub:1:3",), "a size of 3 B"),
        (("pub:1:lots",), "'lots' is no size"),
        (("pub", "--size", "4096..64"), "the first size is the smaller one"),
        (("pub", "--zipf", "1"), "--zipf wants several --subjects"),
        (("idle:5@100",), "only what publishes or asks has one"),
        (("pub", "--server", "tls://localhost"), "TLS is not spoken"),
        (("pub", "--server", "http://localhost"), "must look like nats://"),
        (("pub", "--server", "nats://localhost:99999"), "cannot be read"),
        (("pub", "--header", "nothing"), "give KEY:VALUE"),
        (("pub", "--background", "request"), "--background wants a shape that publishes"),
        (("js-pub-sync", "--start", f"{sys.executable} -m shardbroker -a 127.0.0.1 -p {{port}}"), "no JetStream"),
    ],
)
def test_bad_arguments_are_told_in_one_line(
    words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupt, "install", lambda: None)  # pytest keeps its own Ctrl-C
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 1
    assert said in done.stderr
    assert done.stderr.startswith("shardbroker bench: ")
    assert done.stderr.count("\n") == 1


def test_a_free_port_is_for_who_names_it() -> None:
    port = free_port()
    text = Path("/proc/net/tcp").read_text()
    for chosen in (False, True):
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(chosen))
            if chosen:
                s.bind(("127.0.0.1", port))
                s.listen()
            elif f" 0100007F:{port:04X} " in text:  # the end that waits; not every kernel keeps it
                with pytest.raises(OSError, match="in use"):
                    s.bind(("127.0.0.1", port))


def test_no_server_there() -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        done = bench("pub", "--server", f"127.0.0.1:{s.getsockname()[1]}")
    assert done.returncode == 1
    assert "Connection refused" in done.stderr


def test_credentials(tmp_path: Path) -> None:
    with Broker(tmp_path / "broker", config='authorization { user: "me", password: "s3cret" }') as broker:
        where = f"127.0.0.1:{broker.port}"
        for wrong in (f"nats://me:wrong@{where}", f"nats://{where}"):
            done = bench("pub", *QUICK, "--server", wrong)
            assert done.returncode == 1
            assert "Authorization Violation" in done.stderr
            assert "wrong" not in done.stderr
        assert bench("pub", "connect:2", *QUICK, "--server", f"nats://me:s3cret@{where}").returncode == 0
        env = {"NATS_URL": where, "NATS_USER": "me", "NATS_PASSWORD": "s3cret"}
        assert bench("pub", *QUICK, env=env).returncode == 0


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM]])
def test_an_interrupt_ends_the_run_in_order(tmp_path: Path, signals: list[signal.Signals]) -> None:
    path = tmp_path / "out.json"
    words = ["pubsub:1x2", "--duration", "600", "--warm-up", "0", "--json", str(path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "shardbroker", "bench", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    # The generator is one child, our broker (front and shard) the other; a listener of ours hears when it works.

    def at_work() -> bool:
        port = _port(family(process.pid))
        try:
            with RawClient(port) as listener:
                listener.connect().send("SUB > 1\r\n").expect_re(rb"MSG ")
        except OSError:
            return False  # it has said its port, and does not listen yet
        return True

    wait_until(at_work, "the run to begin")
    everyone = family(process.pid)
    for number in signals:
        process.send_signal(number)
    out, err = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 130, err
    assert "interrupted" in err
    [run] = orjson.loads(path.read_bytes())["runs"]
    assert run["interrupted"]
    assert run["count"] == 2 * run["published"] > 0
    assert "pubsub:1x2" in out
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in everyone), "all processes to end")


def _port(pids: list[int]) -> int:
    """The port of the broker that is one of these processes, by its title; 0 until it says it."""
    for pid in pids:
        with suppress(OSError):
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
            if found := re.match(rb"shardbroker: front 127\.0\.0\.1:(\d+)", title):
                return int(found[1])
    return 0


def test_a_server_that_goes_away(tmp_path: Path) -> None:
    with Broker(tmp_path / "broker") as broker:
        process = subprocess.Popen(
            [sys.executable, "-m", "shardbroker", "bench", "pubsub", "--duration", "600", "--server",
             f"127.0.0.1:{broker.port}"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_until(lambda: _clients(broker) >= 2, "the run to begin")
        broker.stop()
        _, err = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 1
    assert "server closed" in err or "the server is gone" in err


def _clients(broker: Broker) -> int:
    """Connections of the broker that are established (state 01 in proc(5))."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{broker.port:04X}") and row[3] == "01" for row in rows)


def test_a_stream_that_is_written_beside_another_load(tmp_path: Path) -> None:
    """The background's stream is made, counted and removed like any other."""
    server = f"{sys.executable} -m shardbroker -js -sd {tmp_path}/store -a 127.0.0.1 -p {{port}}"
    path = tmp_path / "out.json"
    done = bench("request:1x1:16", "js-pub-async:1:16", *QUICK, "--background", "js-pub-async:1:64", "--start", server,
                 "--json", str(path))  # fmt: skip
    assert done.returncode == 0, done.stderr
    runs = orjson.loads(path.read_bytes())["runs"]
    assert [run["background"]["load"] for run in runs] == ["js-pub-async:1:64B"] * 2
    assert all(run["background"]["rate"] > 0 for run in runs)
