"""A server that is started for a run: on a free port, its end guaranteed, its processes found."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Any, Self

import psutil

from shardbroker.bench import LoadError, interrupt
from shardbroker.bench.connect import wait_for_info
from shardbroker.bench.fleet import environment
from shardbroker.bench.usage import cpu_seconds, memory_bytes, processes

HOST = "127.0.0.1"
START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 10.0
PR_SET_PDEATHSIG = 1
COMPLAINT = re.compile(r"\[(ERR|FTL)\]|panic|Traceback|Error")


def free_port() -> int:
    """A port that nobody is given by chance before a server has started on it.

    A connection of it is ended from its own side: for a minute (TIME_WAIT) the kernel chooses the port for nobody, while who
    names it and has set SO_REUSEADDR, as servers do, may have it.
    """
    with socket.create_server((HOST, 0)) as s:
        port = int(s.getsockname()[1])
        with socket.create_connection((HOST, port)) as other:
            s.accept()[0].close()
            other.recv(1)
    return port


def shardbroker_words(workers: int, port: int, *more: str) -> list[str]:
    """The command line of a broker of ours."""
    words = [sys.executable, "-m", "shardbroker", "--workers", str(workers)]
    return [*words, "-a", HOST, "-p", str(port), *more]


def listener(port: int) -> int:
    """The process that listens on a TCP port of this machine; 0 if there is none, or we may not know."""
    try:
        found = psutil.net_connections(kind="tcp4") + psutil.net_connections(kind="tcp6")
    except (psutil.Error, OSError):
        return 0
    pids = [c.pid for c in found if c.status == psutil.CONN_LISTEN and c.laddr.port == port and c.pid]
    return min(pids, default=0)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Process:
    """One server process of a command line; a context manager. `start_seconds`: from exec to the first INFO."""

    def __init__(
        self,
        words: Sequence[str],
        port: int,
        *,
        name: str = "",
        cpus: Sequence[int] = (),
        start_seconds_max: float = START_SECONDS_MAX,
        stop_seconds_max: float = STOP_SECONDS_MAX,
    ) -> None:
        """name: for messages. cpus: the processors it may use; none: all that we may."""
        self.words, self.port = list(words), port
        self.name = name or " ".join(words)
        self.cpus = list(cpus)
        self.start_seconds_max, self.stop_seconds_max = start_seconds_max, stop_seconds_max
        self.start_seconds = 0.0
        self.info: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile()
        began = time.monotonic()
        try:
            # A session of its own: Ctrl-C is for us, who end the run in order and then the server.
            self._process = subprocess.Popen(
                self.words,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                cwd=tempfile.gettempdir(),
                env=environment(),
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        except OSError as error:
            self._log.close()
            raise LoadError(f"cannot start {self.words[0]}: {error.strerror}") from None
        try:
            if self.cpus:
                os.sched_setaffinity(self._process.pid, self.cpus)
            self.start_seconds = self.wait_until_ready() - began
        except BaseException:
            self.stop()
            raise
        return self

    def wait_until_ready(self) -> float:
        """Until it says INFO, which is kept. When that was, by time.monotonic()."""
        ready, self.info = wait_for_info(HOST, self.port, self.check_alive, self.start_seconds_max)
        return ready

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def check_alive(self) -> None:
        interrupt.check()
        if self._process is not None and self._process.poll() is not None:
            raise LoadError(f"{self.name} ended with {self._process.returncode}: {self.log_tail()}")

    def log_tail(self, count: int = 1500) -> str:
        assert self._log is not None
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-count:].strip()

    def complaints(self, count: int = 5) -> str:
        """What its log says of errors, the last lines; all that it said last when it has ended."""
        said = self.log_tail(1 << 20).splitlines()
        if self._process is None or self._process.poll() is None:
            said = [line for line in said if COMPLAINT.search(line)]
        return "\n".join(said[-count:])

    def cpu_seconds(self) -> float:
        return cpu_seconds(processes(self.pid))

    def memory(self) -> dict[str, int]:
        return memory_bytes(processes(self.pid))

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for the whole family when that is not enough."""
        if self._process is None:
            return
        family = processes(self._process.pid)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(self.stop_seconds_max)
            except BaseException as error:  # a second Ctrl-C, too, leaves nothing behind
                for pid in family:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        continue
                self._process.wait()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
        if self._log is not None:
            self._log.close()
        self._process = None
