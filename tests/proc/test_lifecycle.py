"""Start, files, signals, reload, end of a whole broker."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import Broker, RawClient, msg, wait_until
from shardbroker.cli.status import ShardStatus, problems
from shardbroker.front.placement import connections_of

Start = Callable[..., Broker]
pytestmark = pytest.mark.ours


def reload(broker: Broker, config: str, expect: str) -> str:
    """Write another configuration, SIGHUP, wait for a line of the log."""
    (broker.directory / "server.conf").write_text(config)
    before = len(re.findall(expect, broker.log()))
    os.kill(broker.pid, signal.SIGHUP)
    return broker.wait_log(expect, before + 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_term_and_int_end_it_with_0(fresh_broker: Start, number: int) -> None:
    broker = fresh_broker()
    client = broker.client().connect()
    assert broker.stop(number) == 0
    client.expect_closed_any()
    log = broker.log()
    for words in (
        "Starting nats-server",
        "Listening for client connections on 127.0.0.1:",
        "Server is ready",
    ):
        assert words in log
    assert log.index("Initiating Shutdown...") < log.index("Server Exiting..")


def test_titles_say_what_each_process_is_and_no_secret(fresh_broker: Start) -> None:
    broker = fresh_broker(args=["--user", "someone", "--pass", "s3cret", "-m", "-1"])
    shards = [f"shardbroker: shard {n} of {broker.workers}" for n in range(broker.workers)]
    titles = sorted([f"shardbroker: front 127.0.0.1:{broker.port}", *shards, "shardbroker: log", "shardbroker: monitor"])
    # Each says what it is when it gets to it.
    wait_until(lambda: sorted(broker.processes().values()) == titles, f"the titles {titles}")
    assert "s3cret" not in broker.log()


def test_shards_end_when_the_front_is_killed(fresh_broker: Start) -> None:
    broker = fresh_broker(args=["-m", "-1"])
    client = broker.client().connect()
    broker.kill_front()
    broker.ended()
    client.expect_closed_any()


def test_signals_of_a_terminal_reach_shards_without_harm(fresh_broker: Start) -> None:
    broker = fresh_broker()
    client = broker.client().connect()
    for pid in broker.shard_pids().values():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(pid, number)
    client.flush().flush()
    assert broker.shard_pids()
    broker.stop()
    assert "has died" not in broker.log()


def test_a_shard_that_dies_again_and_again_is_replaced_again_and_again(fresh_broker: Start) -> None:
    broker = fresh_broker(workers=2)
    client = broker.client().connect()
    mine = broker.shard_of(client)
    for _ in range(8):
        pid = broker.kill_shard(1 - mine)
        broker.wait_shards(without=[pid])
    client.flush()
    broker.wait_log(r"\[ERR\] Shard \d \(pid \d+\) has died, killed by SIGKILL", 8)
    assert broker.log().count("has died") == 8
    wait_until(lambda: status(broker)["total"]["state"] == "READY", "all shards to serve")
    assert status(broker)["total"]["restarts"] == 8


def test_pid_and_ports_files(fresh_broker: Start, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    broker = fresh_broker(args=["-P", str(pid_file), "--ports_file_dir", str(tmp_path), "-m", "-1"])
    assert pid_file.read_text() == str(broker.pid)
    ports_file = tmp_path / f"shardbroker_{broker.pid}.ports"
    ports = json.loads(ports_file.read_bytes())
    assert ports["nats"] == [f"nats://127.0.0.1:{broker.port}"]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", ports["monitoring"][0])
    broker.stop()
    assert not ports_file.exists()


@pytest.mark.parametrize("flag", ["-p", "-m"])
def test_a_taken_port_is_named_and_the_status_is_1(flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "shardbroker", "-a", "127.0.0.1", "-p", "-1", flag, port]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert f"127.0.0.1:{port}" in result.stderr.splitlines()[-1]
    assert "[FTL]" in result.stderr
    assert "address already in use" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_same_port_at_once_after_a_kill(fresh_broker: Start) -> None:
    broker = fresh_broker()
    broker.client().connect().flush()
    broker.kill_front()
    broker.ended()
    again = fresh_broker(port=broker.port)
    again.client().connect().flush()


def test_usr1_opens_the_log_anew(fresh_broker: Start, tmp_path: Path) -> None:
    log, moved = tmp_path / "file.log", tmp_path / "moved.log"
    broker = Broker(tmp_path / "b", workers=2, args=["-l", str(log), "-D"])
    broker.log_path = log
    # What goes to stderr before the file is opened is nothing.
    process = subprocess.Popen(
        [*broker.command, "-p", "-1"], stderr=subprocess.DEVNULL, start_new_session=True
    )
    broker._process, broker.pid = process, process.pid
    wait_until(broker._ready, "the broker to start")
    log.rename(moved)
    os.kill(broker.pid, signal.SIGUSR1)
    wait_until(log.exists, "a new log file")
    clients = [broker.client().connect() for _ in range(4)]
    broker.wait_log("Client connection created", 4)
    for client in clients:
        client.close()
    assert broker.stop() == 0
    assert "Client connection created" not in moved.read_text()


def test_reload_changes_limits_on_every_shard(fresh_broker: Start) -> None:
    broker = fresh_broker(config="max_payload: 1000\n")
    old = broker.client().connect()
    reload(broker, "max_payload: 500\ndebug: true\n", "Reloaded server configuration")
    for words in ("Reloaded: max_payload = 500", "Reloaded: debug = true"):
        assert words in broker.log()

    with contextlib.ExitStack() as stack:
        told: set[int] = set()

        def by_all() -> bool:
            client = stack.enter_context(broker.client())
            if client.info["max_payload"] == 500:
                told.add(broker.shard_of(client))
            return len(told) == broker.workers

        wait_until(by_all, "every shard to tell the new limit")
    old.send("PUB a 501\r\n").expect("-ERR 'Maximum Payload Violation'\r\n").expect_closed()
    broker.wait_log(r"\[DBG\] .* Client connection created")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("http_port: 1\n", "config reload not supported for http_port"),
        ("server_name: other\n", "config reload not supported for server_name"),
        ("accounts { S {} }\nsystem_account: S\n", "config reload not supported for system_account: old=, new=S"),
        ("jetstream { store_dir: /nowhere }\n",
         "config reload not supported for jetstream: enabled: old=false, new=true, store_dir: old=, new=/nowhere"),
        ("max_payload: nonsense\n", "max_payload"),
        ("max_control_line: 65537\n", "max_control_line can be at most 65536 without a restart"),
        ("max_payload: {\n", "server.conf"),
        ("unknown_key: 1\n", "unknown"),
    ],
)
def test_a_bad_reload_changes_nothing(fresh_broker: Start, config: str, words: str) -> None:
    broker = fresh_broker(workers=1, config="max_payload: 1000\n")
    line = reload(
        broker, f"max_payload: 2000\n{config}", r"\[ERR\] Failed to reload server configuration: .*"
    )
    assert words in line
    client = broker.client().connect()
    assert client.info is not None
    assert client.info["max_payload"] == 1000
    client.flush()


def test_a_longer_control_line_after_a_reload(fresh_broker: Start) -> None:
    """Both what a shard keeps of a line and what it tells the others of it have room for the longest."""
    broker = fresh_broker(config="max_control_line: 1000\n")
    reload(broker, "max_control_line: 65536\n", "Reloaded server configuration")
    subject = "a." + "b" * 65000 + ".*"
    for _ in range(broker.workers):
        client = broker.client().connect()
        client.send("SUB" + " " * 900 + subject)
        wait_until(lambda c=client: broker.has_read([c]), "the beginning of the line to be read")  # type: ignore[misc]
        client.send(" 7\r\n").flush()
        for _ in range(broker.workers):
            broker.client().connect().pub(subject[:-1] + "c", "x")
            client.expect(msg(subject[:-1] + "c", 7, "x"))
        client.send("SUB " + "c" * 65537 + "\r\n").expect("-ERR 'maximum control line exceeded'\r\n")


def test_a_reload_without_a_file_is_refused(fresh_broker: Start) -> None:
    broker = fresh_broker(workers=1)
    os.kill(broker.pid, signal.SIGHUP)
    broker.wait_log("Failed to reload server configuration: can only reload config when a file is provided")
    broker.client().connect().flush()


def test_a_reload_of_the_password_closes_those_who_had_the_old(fresh_broker: Start) -> None:
    broker = fresh_broker(config='authorization { user: "u", password: "one" }\n')
    clients = [broker.client().connect(user="u", **{"pass": "one"}) for _ in range(4)]
    for client in clients:
        client.flush()
    reload(broker, 'authorization { user: "u", password: "two" }\n', "Reloaded server configuration")
    for client in clients:
        client.expect("-ERR 'Authorization Violation'\r\n").expect_closed()
    broker.client().connect(user="u", **{"pass": "two"}).flush()
    assert "two" not in broker.log()


def test_connections_beyond_what_descriptors_allow_are_told(fresh_broker: Start, workers: int) -> None:
    """A shard without a free descriptor would have its sockets dropped by the kernel, without a word."""
    limit = 128
    shell = ["sh", "-c", f'ulimit -n {limit} && exec "$@"', "sh"]
    command = [*shell, sys.executable, "-m", "shardbroker", "--workers", str(workers)]
    broker = fresh_broker(executable=command)
    room = workers * connections_of(limit, workers)
    broker.wait_log(rf"\[WRN\] max_connections is 65536, but {limit} descriptors .* room for {room} connections")
    clients = [broker.client() for _ in range(room)]
    for _ in range(3):
        refused = [broker.client() for _ in range(10)]
        for client in refused:
            client.expect_closed(b"-ERR 'maximum connections exceeded'\r\n")
    for client in clients:
        client.connect()
    clients.pop().close()

    def taken() -> bool:
        client = broker.client().send("PING\r\n")
        return client.expect_re(rb"PONG|-ERR")[0] == b"PONG"

    wait_until(taken, "the room that one has left to be given to another")
    assert "connections dropped" not in broker.log()


def test_a_lower_max_connections_closes_the_newest(fresh_broker: Start) -> None:
    broker = fresh_broker(workers=1, config="max_connections: 10\n")
    clients = [broker.client().connect() for _ in range(6)]
    for client in clients:
        client.flush()
    reload(broker, "max_connections: 2\n", "Reloaded server configuration")
    for client in clients[2:]:
        client.expect("-ERR 'maximum connections exceeded'\r\n").expect_closed()
    for client in clients[:2]:
        client.flush()


# -- status --


def run_status(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shardbroker", "status", "--interval", "0.1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def status(broker: Broker) -> dict[str, Any]:
    result = run_status("--json", "--pid", str(broker.pid))
    assert result.returncode in (0, 3), result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_status(fresh_broker: Start) -> None:
    broker = fresh_broker()
    clients: list[RawClient] = [broker.client().connect() for _ in range(5)]
    for client in clients:
        client.send("SUB a 1\r\nSUB b.* 2\r\n").flush()
    found = status(broker)
    assert found["pid"] == broker.pid
    assert found["port"] == broker.port
    assert len(found["shards"]) == broker.workers
    assert {row["shard"]: row["pid"] for row in found["shards"]} == broker.shard_pids()
    assert (found["total"]["connections"], found["total"]["subscriptions"]) == (5, 10)
    assert found["total"]["rss_bytes"] > 1 << 20
    shown = run_status("--pid", str(broker.pid))
    assert shown.returncode == 0
    assert re.search(r"^shard +pid +up +conns +subs", shown.stdout, re.M)
    assert re.search(r"^total +5 +10 ", shown.stdout, re.M)
    last = shown.stdout.splitlines()[-1]
    assert re.fullmatch(rf"\S+ on 127\.0\.0\.1:{broker.port}, pid {broker.pid}, up \S+: .*", last)
    assert found["problems"] == [] or all("shard" in problem for problem in found["problems"])


def test_status_names_what_is_wrong() -> None:
    good = ShardStatus(0, 1, "READY", 1, 0, 0, 0, 0, 0, 0, 1e6, 0.5, 0, 1, 0, 0, 0)
    total = dataclasses.replace(good, shard=-1)
    assert problems([good, total]) == []
    bad = [
        dataclasses.replace(good, shard=0, lag_ns_p99=3e8),
        dataclasses.replace(good, shard=1, ring_fill=0.95),
        dataclasses.replace(good, shard=2, overflow_bytes=2048),
        dataclasses.replace(good, shard=3, state="DEAD", lag_ns_p99=9e9),
    ]
    assert problems([*bad, total]) == [
        "shard 3 is DEAD",
        "turns of shard 0 take 300.0 ms",
        "a ring of shard 1 is 95 % full",
        "shard 2 has 2 KiB for shards that do not take them",
    ]


def test_status_of_no_broker() -> None:
    result = run_status("--pid", "1")
    assert result.returncode == 1
    assert "no broker" in result.stderr
    assert "Traceback" not in result.stderr
