"""`shardbroker top`: looks, rates and rows of any NATS server's monitoring; the screen with its keys, and lines for scripts."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness import Broker, wait_until
from harness.broker import WATCHDOG_SECONDS
from shardbroker.cli.fetch import FetchError, base_url, get_json
from shardbroker.cli.top import Hosts, View, render
from shardbroker.cli.top_poll import COLUMNS, SHARD_COLUMNS, SORTS, Poller, connection_row, shard_row, short

COMMAND = [sys.executable, "-m", "shardbroker", "top"]


@pytest.fixture
def monitored(fresh_broker: Callable[..., Broker], tmp_path: Path) -> tuple[Broker, str]:
    """A broker and the address of its monitoring."""
    ports = tmp_path / "ports"
    ports.mkdir()
    broker = fresh_broker(args=["-m", "-1", "--ports_file_dir", str(ports)])
    file = wait_until(lambda: next(ports.glob("*.ports"), None), "the ports file")
    found = wait_until(lambda: json.loads(file.read_bytes()), "the ports")
    return broker, found["monitoring"][0]


def top(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_one_look(monitored: tuple[Broker, str]) -> None:
    broker, url = monitored
    with broker.client() as client:
        client.connect(name="a\x1b[31mb", lang="go", version="1.2").sub("x").flush()
        client.pub("x", "abc").expect("MSG x 1 3\r\nabc\r\n")
        done = top(url, "--once", "-d", "0.1", "-u", "-b")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("NATS server version 2.")
    assert "Slow Consumers: 0" in lines[2]
    assert "In:   Msgs: 1  Bytes: 3 " in lines[3]
    assert "Connections Polled: 1 of 1, by cid" in lines
    assert lines[-2].split() == [*COLUMNS, "SUBSCRIPTIONS"]
    row = lines[-1].split()
    assert row[0].startswith("127.0.0.1:")
    assert row[2:11] == ["a?[31mb", "1", "0", "1", "1", "3", "3", "go", "1.2"]
    assert row[-1] == "x"


def test_lines_for_scripts(monitored: tuple[Broker, str], tmp_path: Path) -> None:
    broker, url = monitored
    file = tmp_path / "out.csv"
    with broker.client() as client:
        client.connect(name="one;two").flush()
        done = top(url, "-o", str(file), "-l", ";", "-r", "2", "-d", "0.1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    rows = list(csv.reader(io.StringIO(file.read_text()), delimiter=";"))
    assert rows[0] == ["TIME", *COLUMNS]
    assert len(rows) == 3
    assert rows[1][3] == rows[2][3] == "one;two"


def test_a_narrow_terminal_shows_whole_columns(monitored: tuple[Broker, str]) -> None:
    _, url = monitored
    look = Poller(url, 60).look("cid", 9, subscriptions=False, shards=True)
    for by, columns in (("shard", SHARD_COLUMNS), ("connection", COLUMNS)):
        for width in (1, 20, 80, 100, 200):
            console = Console(file=io.StringIO(), width=width)
            console.print(render(look, View("cid", 9, by), hosts := Hosts()))
            hosts.close()
            assert isinstance(console.file, io.StringIO)
            said = console.file.getvalue()
            if width < 80:
                continue
            assert "…" not in said
            lines = said.splitlines()
            heading = next(line for line in lines if line.lstrip().startswith(columns[0])).split()
            assert tuple(heading) == columns[: len(heading)]
            left = [line for line in lines if line.startswith("No room for: ")]
            assert (width == 200) == (not left)
            assert len(heading) == len(columns) or left


def test_the_screen_and_its_keys(monitored: tuple[Broker, str]) -> None:
    _, url = monitored
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (40, 200))
    before = termios.tcgetattr(slave)
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "200", "LINES": "40"}
    process = subprocess.Popen([*COMMAND, url, "-d", "0.2"], stdin=slave, stdout=slave, stderr=slave, env=environment)
    shown = b""

    def see(text: bytes) -> None:
        nonlocal shown
        end = time.monotonic() + WATCHDOG_SECONDS
        while text not in shown:
            assert time.monotonic() < end, shown[-3000:]
            if select.select([master], [], [], 0.1)[0]:
                shown += os.read(master, 1 << 16)
        shown = b""

    try:
        see(b"by cid")
        os.write(master, b"o")
        see(b"by subs")
        os.write(master, b"O")
        see(b"by cid")
        os.write(master, b"?")
        see(b"sort by the next column")
        os.write(master, b"s")
        see(b"SUBSCRIPTIONS")
        os.write(master, b"q")
        assert process.wait(WATCHDOG_SECONDS) == 0
        assert termios.tcgetattr(slave)[3] == before[3]
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)


def test_without_a_server() -> None:
    done = top("127.0.0.1:1", "--once")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "shardbroker top: http://127.0.0.1:1/varz: Connection refused\n"


def test_without_a_terminal() -> None:
    done = top("127.0.0.1:1")
    assert (done.returncode, "use --once" in done.stderr) == (1, True)


# -- without processes --


def test_rates_are_between_looks_at_one_server() -> None:
    answers: list[dict[str, Any]] = [
        {"server_id": "A", "in_msgs": 100, "out_bytes": 0},
        {"connections": [], "total": 0},
        {"server_id": "A", "in_msgs": 400, "out_bytes": 50},
        {"connections": [1, {"cid": 2}], "total": 1},
        {"server_id": "B", "in_msgs": 5, "out_bytes": 5},
        {"connections": None},
    ]
    asked = []

    def fetch(path: str) -> dict[str, Any]:
        asked.append(path)
        return answers.pop(0)

    poller = Poller("", 1, fetch=fetch)
    assert set(poller.look("cid", 5).rates.values()) == {0.0}
    second = poller.look("subs", 6, subscriptions=True)
    assert second.rates["in_msgs"] > 0 < second.rates["out_bytes"]
    assert second.rates["in_msgs"] / second.rates["out_bytes"] == pytest.approx(6)
    assert second.connections == [{"cid": 2}]
    assert set(poller.look("cid", 5).rates.values()) == {0.0}
    assert asked[1] == "/connz?limit=5&sort=cid"
    assert asked[3] == "/connz?limit=6&sort=subs&subs=1"


def test_a_server_without_shards_is_asked_once() -> None:
    asked = []

    def fetch(path: str) -> dict[str, Any]:
        asked.append(path)
        if path == "/shardz":
            raise FetchError("no", 404)
        return {}

    poller = Poller("", 1, fetch=fetch)
    assert poller.look("cid", 1, shards=True).shards is None
    assert poller.look("cid", 1, shards=True).shards is None
    assert asked.count("/shardz") == 1


def test_rows() -> None:
    row = {
        "ip": "::1",
        "port": 5,
        "cid": 9,
        "name": "n",
        "out_msgs": 2048,
        "in_bytes": 10,
        "pending_bytes": "x",
    }
    assert connection_row(row, lambda ip: f"host-{ip}", False)[:9] == [
        "host-::1:5", "9", "n", "", "0", "2.0K", "0", "0", "10",
    ]  # fmt: skip
    assert connection_row(row, str, True)[5] == "2048"
    assert len(connection_row({}, str, True)) == len(COLUMNS)
    assert len(shard_row({}, True)) == len(SHARD_COLUMNS)
    shard = {
        "shard": 1,
        "rates": {"in_msgs": 1500.4},
        "loop_lag": {"p99_us": 12.6},
        "rings": {"fill": 0.5},
        "cpu": 99.94,
    }
    cells = dict(
        zip(SHARD_COLUMNS, shard_row(shard | {"cross_shard": {"out_share": 0.25}}, False), strict=True)
    )
    assert (cells["IN_MSGS/S"], cells["LAG_P99_US"], cells["RING%"]) == ("1.5K", "13", "50")
    assert (cells["CPU%"], cells["CROSS%"], cells["SHARD"]) == ("99.9", "25", "1")


@pytest.mark.parametrize(("count", "shown"), [(0, "0"), (1023, "1023"), (1024, "1.0K"), (1 << 50, "1024.0T")])
def test_short(count: int, shown: str) -> None:
    assert short(count) == shown


def test_keys() -> None:
    view = View("cid", 16, "connection")
    assert view.key("O")
    assert view.sort == SORTS[-1]
    assert all(view.key(key) for key in "oNsbdw?x")
    assert (view.sort, view.limit, view.by) == ("cid", 1, "shard")
    assert view.subscriptions
    assert view.raw
    assert view.names
    assert view.help
    assert not view.key("q")


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("h", "http://h:8222"),
        ("h:1", "http://h:1"),
        ("https://h/base/", "https://h:443/base"),
        ("http://[::1]:5", "http://[::1]:5"),
    ],
)
def test_addresses(given: str, url: str) -> None:
    assert base_url(given) == url


@pytest.mark.parametrize(
    "given", ["ftp://h", "http://", "h:x", "http://u:p@h", "http://h/?a=1", "http://h:99999"]
)
def test_addresses_that_cannot_be(given: str) -> None:
    with pytest.raises(FetchError):
        base_url(given)


@pytest.mark.ours
def test_answers_that_are_not_what_is_wanted(monitored: tuple[Broker, str]) -> None:
    _, url = monitored
    with pytest.raises(FetchError) as caught:
        get_json(f"{url}/none", 20)
    assert caught.value.status == 404
    with pytest.raises(FetchError, match="not JSON"):
        get_json(f"{url}/", 20)
