"""Servers under test: found, started, accounted for (CPU seconds, memory of all their processes), stopped.

A server is named by a *spec*:

    nats-server                the first one found (~/go/bin, then PATH)
    nats-server=/usr/sbin/x    that program, with nats-server's flags
    shardbroker:2              this tree's broker with --workers 2
    shardbroker:2 --flag x     the same with more options
    NAME=cmd -p {port} ...     any other command; {port} is replaced
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from shardbroker.bench import LoadError
from shardbroker.bench.connect import wait_for_info
from shardbroker.bench.usage import cpu_seconds, memory_bytes, processes

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 10.0


def find_nats_server() -> str | None:
    """The program, newest habit first: go install's directory, then PATH."""
    own = Path.home() / "go/bin/nats-server"
    return str(own) if os.access(own, os.X_OK) else shutil.which("nats-server")


def default_specs() -> list[str]:
    """What is on this machine: nats-server first (it is 1), then this tree's broker if it is built."""
    specs = ["nats-server"] if find_nats_server() else []
    if any((ROOT / "shardbroker/hot").glob("engine*.so")):
        specs += ["shardbroker:1", "shardbroker:2"]
    return specs


def command(spec: str, port: int, main: str = "shardbroker") -> list[str]:
    """The command line of a spec (see the module's text). main: the module that is this tree's broker."""
    name, _, given = spec.partition("=")
    first, *rest = shlex.split(spec)
    if first.partition(":")[0] == "shardbroker":
        workers = first.partition(":")[2] or "auto"
        return [sys.executable, "-m", main, "--workers", workers, "-a", HOST, "-p", str(port), *rest]
    if "{port}" in given:
        return [word.replace("{port}", str(port)) for word in shlex.split(given)]
    program, *rest = shlex.split(given) if given and " " not in name else [find_nats_server() or "", *rest]
    if not program or not shutil.which(program):
        raise LoadError(f"no program for {spec!r}")
    return [program, "-a", HOST, "-p", str(port), *rest]


def free_port() -> int:
    with socket.socket() as s:
        s.bind((HOST, 0))
        return int(s.getsockname()[1])


@dataclass
class Server:
    """One running server; a context manager. `start_seconds`: from exec to the first INFO."""

    spec: str
    port: int = 0
    under: list[str] = field(default_factory=list)      # a command to run it under, such as valgrind
    main: str = "shardbroker"
    start_seconds_max: float = START_SECONDS_MAX
    stop_seconds_max: float = STOP_SECONDS_MAX
    start_seconds: float = 0.0
    info: dict[str, Any] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None
    _log: IO[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Server:
        self.port = self.port or free_port()
        self._log = tempfile.TemporaryFile()
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        began = time.monotonic()
        self._process = subprocess.Popen(
            [*self.under, *command(self.spec, self.port, self.main)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            cwd=tempfile.gettempdir(),
            env=environment,
        )
        try:
            ready, self.info = wait_for_info(HOST, self.port, self.check_alive, self.start_seconds_max)
        except BaseException:
            self.stop()
            raise
        self.start_seconds = ready - began
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def check_alive(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            raise LoadError(f"{self.spec} ended with {self._process.returncode}: {self.log_tail()}")

    def log_tail(self, count: int = 1500) -> str:
        assert self._log is not None
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-count:]

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
            except subprocess.TimeoutExpired:
                for pid in family:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        continue
                self._process.wait()
        if self._log is not None:
            self._log.close()
        self._process = None
