"""One broker process under test: started on a free port, watched, stopped and proved to be gone.

The broker is `python -m shardbroker --workers N`. With SHARDBROKER_TEST_SERVER set to another server's
executable (nats-server), that one is started with the same flags and configuration, so that the rules in
the tests can be checked against the reference; tests of what is ours only ask `Broker.ours` and skip.

Every process of a broker is in one session (setsid), so that orphans are found by session number even
after the front has died. Nothing here sleeps blindly: `wait_until` polls a condition under a watchdog.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from harness.raw import RawClient

SERVER = os.environ.get("SHARDBROKER_TEST_SERVER", "")
# Long enough for a machine that has much else to do; a healthy wait takes milliseconds.
WATCHDOG_SECONDS = 60.0
SHARED_MEMORY = Path("/dev/shm")

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str, seconds: float = WATCHDOG_SECONDS) -> T:
    """The first true value of `condition`, polled ever more rarely; an AssertionError at the watchdog."""
    end = time.monotonic() + seconds
    pause = 0.0001
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:g} s for {what}; last value {value!r}")
        time.sleep(pause)
        pause = min(2 * pause, 0.01)


def session_processes(session: int) -> dict[int, str]:
    """pid -> title of every living process of a session (zombies left out)."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path(f"/proc/{entry}/stat").read_text()
            state, _, _, number = stat[stat.rindex(")") + 2 :].split()[:4]
            if int(number) == session and state != "Z":
                title = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").strip()
                found[int(entry)] = title.decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError, ValueError):
            continue
    return found


class Broker:
    """A running broker. Use as a context manager, or call stop() once; both prove that nothing is left."""

    ours = not SERVER

    def __init__(
        self,
        directory: Path,
        *,
        workers: int = 1,
        args: Sequence[str] = (),
        config: str = "",
        port: int = -1,
        own_args: Sequence[str] = (),
        executable: Sequence[str] = (),
    ) -> None:
        """`own_args` are given to shardbroker only; `config` is the text of a file for `-c`."""
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.workers = workers if self.ours else 1
        self.log_path = directory / "broker.log"
        command = [*executable] or (
            [SERVER]
            if SERVER
            else [sys.executable, "-m", "shardbroker", "--workers", str(workers), *own_args]
        )
        command += ["-a", "127.0.0.1", "-p", str(port)]
        if config:
            path = directory / "server.conf"
            path.write_text(config)
            command += ["-c", str(path)]
        self.command = [*command, *args]
        self.port = 0
        self.pid = 0
        self._listener = ""
        self._shared_memory_before = set(os.listdir(SHARED_MEMORY))
        self._process: subprocess.Popen[bytes] | None = None

    # -- life --

    def start(self) -> Broker:
        """Start and wait until it says that it is ready; the port is then in `port`."""
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.pid = self._process.pid
        try:
            wait_until(self._ready, f"the broker to start: {' '.join(self.command)}")
        except BaseException:
            self._kill_session()
            raise
        return self

    def _ready(self) -> bool:
        log = self.log()
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"broker ended with {self._process.returncode}: {self.command}\n{log}")
        listening = re.search(r"Listening for client connections on \S+:(\d+)", log)
        if listening is None or "Server is ready" not in log:
            return False
        self.port = int(listening[1])
        self._listener = _listening(self.port)
        return True

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop with a signal; the exit status. Afterwards no process, shared memory or port is left."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """Wait for the end, however it was caused, and prove that nothing is left; the exit status."""
        assert self._process is not None
        process = self._process
        try:
            status = process.wait(WATCHDOG_SECONDS)
            wait_until(lambda: not self.processes(), f"all processes to end: {self.processes()}")
        except BaseException:
            print(self.log(), file=sys.stderr)
            self._kill_session()
            raise
        wait_until(lambda: not self.shared_memory(), f"shared memory to be gone: {self.shared_memory()}")
        if self._listener:
            # Not by binding it: the port may be another's by now.
            wait_until(lambda: _listening(self.port) != self._listener, f"port {self.port} to be free")
        assert "Traceback" not in self.log(), self.log()
        return status

    def _kill_session(self) -> None:
        for pid in self.processes():
            _signal(pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def __enter__(self) -> Broker:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- looking at it --

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def wait_log(self, pattern: str, count: int = 1) -> str:
        """Wait until the log has `count` matches; the last match."""
        compiled = re.compile(pattern, re.M)
        found = wait_until(
            lambda: (m := [x.group() for x in compiled.finditer(self.log())])[count - 1 :] and m,
            f"{pattern!r} in the log:\n{self.log()[-2000:]}",
        )
        return found[-1]

    def processes(self) -> dict[int, str]:
        return session_processes(self.pid) if self.pid else {}

    def shard_pids(self) -> dict[int, int]:
        """shard number -> pid, by process title."""
        found = {}
        for pid, title in self.processes().items():
            number = re.search(r"\bshard[ -](\d+)\b", title)
            if number:
                found[int(number[1])] = pid
        return found

    def shared_memory(self) -> set[str]:
        """Names in /dev/shm that look like ours and were not there before the start."""
        return {
            name
            for name in set(os.listdir(SHARED_MEMORY)) - self._shared_memory_before
            if "shardbroker" in name
        }

    def descriptors(self) -> dict[int, int]:
        """pid -> number of open descriptors, of every process of the broker."""
        counts = {}
        for pid in self.processes():
            try:
                counts[pid] = len(os.listdir(f"/proc/{pid}/fd"))
            except (FileNotFoundError, PermissionError):
                continue
        return counts

    def shard_of(self, client: RawClient) -> int:
        """The shard whose process holds the server side of a client's connection."""
        if not self.ours:
            return 0
        inode = wait_until(
            lambda: _server_inode(self.port, client.local_port), "the connection in /proc/net/tcp"
        )

        def holder() -> list[int]:
            return [number for number, pid in self.shard_pids().items() if f"socket:[{inode}]" in links(pid)]

        return wait_until(holder, "a shard to hold the connection")[0]

    def shards_in_use(self) -> list[int]:
        """The shards that hold at least one client connection now."""
        inodes = {f"socket:[{inode}]" for inode in _established(self.port)}
        return [number for number, pid in self.shard_pids().items() if inodes & links(pid)]

    def holds(self, client: RawClient) -> bool:
        """Whether the server's side of a client's connection is still open, read or not."""
        return bool(_server_inode(self.port, client.local_port))

    def has_read(self, clients: Iterable[RawClient]) -> bool:
        """Whether the server has taken what these clients sent out of its sockets' receive buffers.

        Loopback puts bytes there before send() returns; waiting for acknowledgements would add delayed ones.
        """
        ports = {f":{client.local_port:04X}" for client in clients}
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[2][8:] in ports and int(fields[4].split(":")[1], 16):
                return False
        return True

    # -- doing it harm --

    def kill_front(self) -> None:
        _signal(self.pid, signal.SIGKILL)

    def kill_shard(self, number: int) -> int:
        """kill -9 of one shard's process; its pid."""
        pid = self.shard_pids()[number]
        _signal(pid, signal.SIGKILL)
        return pid

    @contextmanager
    def stopped_shard(self, number: int) -> Iterator[None]:
        """SIGSTOP on entry (and wait until it stands still), SIGCONT on exit."""
        with _stopped(self.shard_pids()[number]):
            yield

    @contextmanager
    def stopped_front(self) -> Iterator[None]:
        """The same for the front: signals sent meanwhile are all pending when it goes on."""
        with _stopped(self.pid):
            yield

    def wait_shards(self, *, without: Iterable[int] = ()) -> dict[int, int]:
        """Wait until every shard has a process that is none of the pids `without`."""
        gone = set(without)

        def complete() -> dict[int, int]:
            pids = self.shard_pids()
            return pids if len(pids) == self.workers and not gone & set(pids.values()) else {}

        return wait_until(complete, "a process for every shard")

    # -- clients --

    def client(self, *, info: bool = True, receive_buffer: int = 0, pings: bool = False) -> RawClient:
        """A connection without CONNECT; see RawClient."""
        return RawClient(
            self.port, timeout=WATCHDOG_SECONDS, info=info, receive_buffer=receive_buffer, pings=pings
        )


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    _signal(pid, signal.SIGSTOP)
    try:
        wait_until(
            lambda: "\nState:\tT" in Path(f"/proc/{pid}/status").read_text(), "the process to stand still"
        )
        yield
    finally:
        _signal(pid, signal.SIGCONT)


def covered(broker: Broker, connect: Callable[[], RawClient], each: int = 1) -> dict[int, list[RawClient]]:
    """`each` connections on every shard, in shard order. Placement takes the shard with the fewest connections of those that
    serve and take turns: on a busy machine, or behind a death, it may be a while until all of them do."""
    found: dict[int, list[RawClient]] = {n: [] for n in range(broker.workers)}
    more: list[RawClient] = []

    def whole() -> bool:
        client = connect()
        here = found[broker.shard_of(client)]
        (here if len(here) < each else more).append(client)
        # The ones too many stay open for a while, or the next would come to the same shard.
        if len(more) > 8 * broker.workers:
            more.pop(0).close()
        return all(len(clients) == each for clients in found.values())

    wait_until(whole, "connections on every shard")
    for client in more:
        client.close()
    return found


def _listening(server_port: int) -> str:
    """The inode of the socket that listens on a port of 127.0.0.1; nothing if there is none."""
    local = f"0100007F:{server_port:04X}"
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return next((fields[9] for fields in rows if fields[1] == local and fields[3] == "0A"), "")


def _server_inode(server_port: int, client_port: int) -> str:
    local, remote = f":{server_port:04X}", f":{client_port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(local) and fields[2].endswith(remote) and fields[9] != "0":
            return fields[9]
    return ""


def _established(server_port: int) -> set[str]:
    local = f":{server_port:04X}"
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return {fields[9] for fields in rows if fields[1].endswith(local) and fields[3] == "01"}


def links(pid: int) -> set[str]:
    """What the descriptors of a process are open on."""
    found = set()
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
            except FileNotFoundError:
                continue
    except (FileNotFoundError, PermissionError):
        pass
    return found
