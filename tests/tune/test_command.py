"""`shardbroker tune` as users call it: a small sweep, a recorded workload, bad arguments, Ctrl-C."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from harness.broker import Broker, wait_until
from harness.processes import family
from shardbroker.bench import interrupt
from shardbroker.cli.tune import tune as command

SECONDS_MAX = 120.0


def tune(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    top = str(Path(__file__).resolve().parents[2])
    return subprocess.run(
        [sys.executable, "-m", "shardbroker", "tune", *words],
        capture_output=True, text=True, timeout=SECONDS_MAX, cwd=directory, env={"PYTHONPATH": top, "PATH": "/usr/bin:/bin"},
    )  # fmt: skip


def test_a_sweep(tmp_path: Path) -> None:
    done = tune(
        tmp_path, "-w", "fanout:1x3:64", "-w", "request", "--workers", "1,2", "--repeat", "2", "--duration", "0.4",
        "--warm-up", "0.05", "--json", "all.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"^Use [12] worker", done.stdout, re.M)
    assert "What this machine could not tell" in done.stdout
    found = orjson.loads((tmp_path / "all.json").read_bytes())
    assert [point["workers"] for point in found["points"]] == [1, 2]
    for point in found["points"]:
        assert len(point["rates"]) == 2 and min(point["rates"]) > 0
        assert point["latency"]["count"] > 0
        assert point["cpu_seconds_per_million"] > 0
        assert [len(runs) for runs in point["throughput_runs"]] == [2, 2]
    assert found["points"][0]["cross_shard"] == 0
    assert found["points"][1]["cross_shard"] > 0
    assert "<svg" in (tmp_path / "shardbroker-tune.html").read_text()
    with Broker(tmp_path / "broker", args=["-c", str(tmp_path / "shardbroker-tune.conf")]) as broker:
        assert broker.port > 0


@contextmanager
def traffic(port: int) -> Iterator[None]:
    """Something to record: a publisher and two subscribers, until the end of the block."""
    words = ["pubsub:1x2:256@2000", "--duration", "600", "--warm-up", "0", "--server", f"127.0.0.1:{port}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "shardbroker", "bench", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(SECONDS_MAX)


@pytest.mark.parametrize("by", ["url", "pid"])
def test_a_recorded_workload(tmp_path: Path, by: str) -> None:
    with Broker(tmp_path / "broker", workers=2, args=["-m", "-1"]) as broker, traffic(broker.port):
        from shardbroker.cli.bench import statistics_of

        read = statistics_of(broker.pid)
        http = re.search(r"Starting http monitor on (127\.0\.0\.1:\d+)", broker.log())
        assert read is not None and http is not None
        wait_until(lambda: sum(row["out_msgs"] for row in read()) > 100, "traffic")
        done = tune(
            tmp_path, "--record", f"http://{http[1]}" if by == "url" else str(broker.pid), "--record-seconds", "1",
            "--write-workload", "w.toml", "--workers", "1", "--repeat", "1", "--duration", "0.1", "--warm-up", "0",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "w.toml").read_text()
    # Of what two readings at slightly different moments say: the sizes are exact, the fan-out nearly.
    assert re.search(r'shape = "pubsub:1x[12]:256B"' if by == "url" else r'shape = "pubsub:\dx[12]:256B"', text), text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "what is it tuned for"),
        (("-w", "nope"), "no shape is called"),
        (("-w", "pub", "--workers", "0"), "counts of 1 to 64"),
        (("-w", "pub", "--workers", "a,b"), "numbers with commas"),
        (("-w", "pub", "--record", "1"), "exclude each other"),
        (("-w", "missing.toml"), "No such file"),
        (("--record", "ftp://x"), "a server's monitoring"),
        (("--record", "http://127.0.0.1:1"), "refused"),
        (("--record", "1"), "no broker of ours"),
        (("-w", "pub", "--report", "no/such/place.html"), "no such directory"),
        (("-w", "kv-get"), "cannot be tuned for"),
    ],
)
def test_bad_arguments_are_told(
    words: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupt, "install", lambda: None)  # pytest keeps its own Ctrl-C
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 1
    assert said in done.stderr
    assert done.stderr.startswith("shardbroker tune: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_behind_and_prints_what_there_is(
    tmp_path: Path, number: signal.Signals
) -> None:
    words = ["-w", "pub", "--workers", "1", "--repeat", "90", "--duration", "0.1", "--warm-up", "0", "--generators", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "shardbroker", "tune", *words], cwd=tmp_path, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )  # fmt: skip
    seen: set[int] = set()

    def several_runs() -> bool:
        seen.update(family(process.pid))
        return len(seen) > 10  # each run has a broker of two processes and a generator

    wait_until(several_runs, "some runs", SECONDS_MAX)
    process.send_signal(number)
    out, err = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Use 1 worker" in out
    assert "was interrupted" in out
    seen -= {process.pid}
    wait_until(lambda: not any(_ours(pid) for pid in seen), "all processes to end")


def _ours(pid: int) -> bool:
    try:
        return b"shardbroker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
