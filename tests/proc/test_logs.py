"""The log of a running broker: its own process, JSON, rotation, syslog, a reader that stops reading; and no secrets anywhere."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness import Broker, wait_until
from harness.broker import WATCHDOG_SECONDS

SECRET = "s3cr3t-of-the-test"
Start = Callable[..., Broker]


def log_pid(broker: Broker) -> int:
    """The process that writes."""
    return wait_until(
        lambda: next((pid for pid, title in broker.processes().items() if title == "shardbroker: log"), 0),
        "the process that writes the log",
    )


class Receiver:
    """A syslog server on loopback, or on a path."""

    def __init__(self, kind: int, path: str = "") -> None:
        self.socket = socket.socket(socket.AF_UNIX if path else socket.AF_INET, kind)
        self.socket.bind(path or ("127.0.0.1", 0))
        self.socket.settimeout(0.05)
        self.data = b""
        self.port = 0 if path else self.socket.getsockname()[1]
        self.stream: socket.socket | None = None
        if kind == socket.SOCK_STREAM:
            self.socket.listen()

    def messages(self) -> list[str]:
        """All until now."""
        try:
            if self.socket.type == socket.SOCK_STREAM and self.stream is None:
                self.stream, _ = self.socket.accept()
                self.stream.settimeout(0.05)
            while part := (self.stream or self.socket).recv(1 << 16):
                self.data += part
        except TimeoutError:
            pass
        return self.data.decode().splitlines()

    def wait(self, pattern: str) -> re.Match[str]:
        return wait_until(
            lambda: next((m for line in self.messages() if (m := re.fullmatch(pattern, line))), None), pattern
        )

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
            self.stream = None
        self.socket.close()


@pytest.fixture
def udp() -> Iterator[Receiver]:
    receiver = Receiver(socket.SOCK_DGRAM)
    yield receiver
    receiver.close()


class Elsewhere(Broker):
    """A broker whose log is not its stderr; `source` gives the text."""

    def __init__(self, directory: Path, source: Callable[[], str], **options: Any) -> None:
        super().__init__(directory, **options)
        self._source = source

    def log(self) -> str:
        return self._source()


def text_of(path: Path) -> Callable[[], str]:
    return lambda: path.read_text() if path.exists() else ""


def text_from(receiver: Receiver) -> Callable[[], str]:
    return lambda: "\n".join(receiver.messages())


def be_refused(broker: Broker) -> None:
    """Come in with a wrong password."""
    with broker.client() as client:
        client.send(f'CONNECT {{"user":"u","pass":"{SECRET}","name":"me"}}\r\nPING\r\n')
        client.expect("-ERR 'Authorization Violation'\r\n")


# -- the process --


@pytest.mark.ours
def test_the_log_survives_its_process(fresh_broker: Start) -> None:
    broker = fresh_broker()
    first = log_pid(broker)
    os.kill(first, signal.SIGKILL)
    broker.wait_log(rf"\[ERR\] Log \(pid {first}\) has died, killed by SIGKILL; replacing it")
    assert log_pid(broker) != first
    os.kill(broker.pid, signal.SIGHUP)
    broker.wait_log(r"Failed to reload server configuration")
    assert broker.stop() == 0
    assert broker.log().splitlines()[-1].endswith("[INF] Server Exiting..")


@pytest.mark.ours
def test_a_reader_that_stops_reading_stops_no_shard(tmp_path: Path) -> None:
    """The log goes into a pipe that nobody reads, and every message is traced: messages go on, and so does the end."""
    read, write = os.pipe()
    ports = tmp_path / "ports"
    ports.mkdir()
    command = [sys.executable, "-m", "shardbroker", "-a", "127.0.0.1", "-p", "-1", "-V", "--workers", "2"]
    process = subprocess.Popen(
        [*command, "--ports_file_dir", str(ports)],
        stdin=subprocess.DEVNULL,
        stderr=write,
        start_new_session=True,
    )
    os.close(write)
    try:
        file = wait_until(lambda: next(ports.glob("*.ports"), None), "the ports file")
        port = int(json.loads(file.read_bytes())["nats"][0].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.settimeout(WATCHDOG_SECONDS)
            client.sendall(b"CONNECT {}\r\nSUB a 1\r\n")
            # Far more than the pipe to the process that writes and the one behind it hold.
            for _ in range(40):
                client.sendall((b"PUB a 1000\r\n" + b"x" * 1000 + b"\r\n") * 50 + b"PING\r\n")
                data = b""
                while b"PONG\r\n" not in data:  # a PING may come behind it
                    data += client.recv(1 << 16)
                assert data.count(b"MSG a 1 1000\r\n") == 50
        process.send_signal(signal.SIGTERM)
        assert process.wait(WATCHDOG_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
        os.close(read)


# -- forms and files --


@pytest.mark.ours
def test_every_line_is_json_and_says_which_shard(workers: int, tmp_path: Path) -> None:
    path = tmp_path / "json.log"
    config = (
        f'log_file: "{path}"\nshardbroker {{ log_format: json }}\nauthorization {{ user: u, password: p }}\n'
    )
    with Elsewhere(tmp_path / "b", text_of(path), workers=workers, args=["-DV"], config=config) as broker:
        be_refused(broker)
        broker.wait_log("authentication error")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    refused = next(line for line in lines if "authentication error" in line["msg"])
    assert refused["level"] == "error"
    assert refused["client"].startswith("127.0.0.1:")
    assert refused["cid"] > 0
    assert 0 <= refused["shard"] < workers
    assert refused["time"].endswith("Z")
    assert {line["process"] for line in lines} == {"front", "shard"}
    assert lines[-1]["msg"] == "Server Exiting.."
    assert SECRET not in path.read_text()


def test_rotation_while_it_runs(workers: int, tmp_path: Path) -> None:
    """What the shards say makes the file grow, and it is rotated without the front saying anything."""
    path = tmp_path / "logs" / "a.log"
    path.parent.mkdir()
    config = f'log_file: "{path}"\nlog_size_limit: 20000\nlogfile_max_num: 3\n'

    def backups() -> list[Path]:
        return sorted(p for p in path.parent.iterdir() if p != path)

    def everything() -> str:
        text = ""
        for one in [*backups(), path]:
            with suppress(FileNotFoundError):  # it is renamed, or removed, while we look
                text += one.read_text()
        return text

    with Elsewhere(tmp_path / "b", everything, workers=workers, args=["-V"], config=config) as broker:
        with broker.client() as client:
            client.connect()
            for number in range(600):
                client.pub("a", str(number))
            client.flush()
        wait_until(lambda: len(backups()) == 2 and "Purged log file" in everything(), "two backups")
    assert all(re.fullmatch(r"a\.log\.\d{4}(\.\d\d){5}\.\d{9}", p.name) for p in backups())


def test_a_file_that_was_moved_away(workers: int, tmp_path: Path) -> None:
    path = tmp_path / "moved" / "a.log"
    path.parent.mkdir()
    with Elsewhere(tmp_path / "b", text_of(path), workers=workers, args=["-l", str(path), "-D"]) as broker:
        path.rename(path.with_suffix(".1"))
        os.kill(broker.pid, signal.SIGUSR1)
        broker.wait_log(r"\[INF\] File log re-opened$")
        with broker.client():
            broker.wait_log("Client connection created")


def test_no_file_to_open_anew(fresh_broker: Start) -> None:
    broker = fresh_broker()
    os.kill(broker.pid, signal.SIGUSR1)
    broker.wait_log(r"\[INF\] File log re-open ignored, not a file logger$")


@pytest.mark.ours
def test_a_reload_changes_the_form_and_the_place(fresh_broker: Start, tmp_path: Path) -> None:
    broker = fresh_broker(config="logtime: false\n")
    config = next(Path(word) for word in broker.command if word.endswith("server.conf"))
    other = tmp_path / "other.log"
    config.write_text(f'logtime: false\nlog_file: "{other}"\nlog_format: json\n')
    os.kill(broker.pid, signal.SIGHUP)
    wait_until(
        lambda: other.exists() and "Reloaded server configuration" in other.read_text(), "the new file"
    )
    said = [json.loads(line)["msg"] for line in other.read_text().splitlines()]
    assert {f"Reloaded: log_file = {other}", "Reloaded: log_format = json"} <= set(said)


# -- syslog --

TAG = r"(shardbroker|nats-server)\[\d+\]"
REMOTE = rf"<5>\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d) \S+ {TAG}: "


def test_syslog_over_udp(workers: int, tmp_path: Path, udp: Receiver) -> None:
    """Form, facility and severities are nats-server's; and no secret is in what is sent."""
    args = ["-r", f"udp://127.0.0.1:{udp.port}", "-DV", "--user", "u", "--pass", "p"]
    with Elsewhere(tmp_path / "b", text_from(udp), workers=workers, args=args) as broker:
        be_refused(broker)
        udp.wait(REMOTE.replace("<5>", "<3>") + r"127\.0\.0\.1:\d+ - cid:\d+ .*authentication error.*")
        udp.wait(REMOTE.replace("<5>", "<7>") + r"127\.0\.0\.1:\d+ - cid:\d+.*Client connection created")
        udp.wait(REMOTE + r"127\.0\.0\.1:\d+ - cid:\d+.* - <<- \[CONNECT .*")
    udp.wait(REMOTE + r"Server Exiting\.\.")
    assert SECRET not in udp.data.decode()
    assert broker.log_path.read_text() == ""


@pytest.mark.ours
def test_syslog_over_tcp_comes_back(tmp_path: Path) -> None:
    receiver = Receiver(socket.SOCK_STREAM)
    args = ["-r", f"tcp://127.0.0.1:{receiver.port}"]
    with Elsewhere(tmp_path / "b", text_from(receiver), args=args) as broker:
        assert receiver.stream is not None
        receiver.stream.close()
        receiver.stream, receiver.data = None, b""

        # That a connection has gone is noticed by the line after the one that was lost with it.
        def speak() -> str:
            os.kill(broker.pid, signal.SIGHUP)
            return next((line for line in receiver.messages() if "Failed to reload" in line), "")

        assert re.fullmatch(
            rf"<3>.* {TAG}: Failed to reload server configuration.*", wait_until(speak, "a line")
        )
    receiver.close()


@pytest.mark.ours
def test_syslog_of_this_machine(tmp_path: Path) -> None:
    """A path stands for /dev/log: time without a year, facility daemon, as Go writes it to local sockets."""
    path = tmp_path / "log"
    receiver = Receiver(socket.SOCK_STREAM, str(path))
    with Elsewhere(tmp_path / "b", text_from(receiver), args=["-r", f"unix://{path}"]):
        receiver.wait(rf"<29>[A-Z][a-z][a-z] [ \d]\d \d\d:\d\d:\d\d {TAG}: Server is ready")
    receiver.close()


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("http://127.0.0.1:1", 'error invalid network type: "http"'),
        ("tcp://127.0.0.1:1", "error connecting to syslog: "),
        ("unix:///no/such/log", "error connecting to syslog: "),
    ],
)
def test_a_receiver_that_cannot_be(address: str, says: str) -> None:
    command = [sys.executable, "-m", "shardbroker", "-a", "127.0.0.1", "-p", "-1", "-r", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert says in done.stderr
