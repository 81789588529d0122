"""Servers under test: found, started, accounted for (CPU seconds, memory of all their processes), stopped.

A server is named by a *spec*:

    nats-server                the first one found (~/go/bin, then PATH)
    nats-server=/usr/sbin/x    that program, with nats-server's flags
    shardbroker:2              this tree's broker with --workers 2
    shardbroker:2 --flag x     the same with more options
    NAME=cmd -p {port} ...     any other command; {port} is replaced
    redis-server, mosquitto    for plain publish and subscribe, without the limits that would drop messages
                               (NAME=/path/to/redis-server as well)
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shardbroker.bench import LoadError
from shardbroker.bench.server import HOST, Process, free_port

ROOT = Path(__file__).resolve().parent.parent
NATS = "nats"
DIALECTS = {"redis-server": "redis", "mosquitto": "mqtt"}       # what a program speaks, by its name; others NATS

# No persistence, and no limit at which messages are dropped: what is compared is the carrying of messages.
REDIS_OPTIONS = [
    "--save", "", "--appendonly", "no", "--protected-mode", "no", "--client-output-buffer-limit", "pubsub", "0", "0", "0",
]
MOSQUITTO_CONFIGURATION = """\
listener {port} {host}
allow_anonymous true
persistence false
max_queued_messages 0
set_tcp_nodelay true
log_dest none
user root
"""


def find_nats_server() -> str | None:
    """The program, newest habit first: go install's directory, then PATH."""
    own = Path.home() / "go/bin/nats-server"
    return str(own) if os.access(own, os.X_OK) else shutil.which("nats-server")


def default_specs() -> list[str]:
    """What is on this machine: nats-server first (it is 1), then this tree's broker if it is built."""
    specs = ["nats-server"] if find_nats_server() else []
    if any((ROOT / "shardbroker/hot").glob("engine*.so")):
        specs += ["shardbroker:1", "shardbroker:2"]
        cpus = len(os.sched_getaffinity(0))
        specs += [f"shardbroker:{cpus}"] if cpus > 2 else []
    return specs + [name for name in DIALECTS if shutil.which(name)]


def dialect(spec: str) -> str:
    """What the server of a spec speaks: NATS, or a name of perf/load/dialects.py."""
    words = shlex.split(spec.partition("=")[2] or spec)
    return DIALECTS.get(Path(words[0]).name, NATS) if words else NATS


def command(spec: str, port: int, main: str = "shardbroker") -> list[str]:
    """The command line of a spec (see the module's text). main: the module that is this tree's broker."""
    name, _, given = spec.partition("=")
    first, *rest = shlex.split(spec)
    if first.partition(":")[0] == "shardbroker":
        workers = first.partition(":")[2] or "auto"
        return [sys.executable, "-m", main, "--workers", workers, "-a", HOST, "-p", str(port), *rest]
    if "{port}" in given:
        return [word.replace("{port}", str(port)) for word in shlex.split(given)]
    if dialect(spec) != NATS:
        program, *rest = shlex.split(given) or [first, *rest]
        if not shutil.which(program):
            raise LoadError(f"no program for {spec!r}")
        if dialect(spec) == "redis":
            return [program, "--port", str(port), "--bind", HOST, *REDIS_OPTIONS, *rest]
        return [program, "-c", "{configuration}", *rest]         # it has no flags for what must be said; see Server
    program, *rest = shlex.split(given) if given and " " not in name else [find_nats_server() or "", *rest]
    if not program or not shutil.which(program):
        raise LoadError(f"no program for {spec!r}")
    return [program, "-a", HOST, "-p", str(port), *rest]


class Server(Process):
    """One running server of a spec; a context manager."""

    def __init__(
        self, spec: str, *, under: Sequence[str] = (), main: str = "shardbroker", **more: Any
    ) -> None:
        """under: a command to run it under, such as valgrind. main: the module that is this tree's broker."""
        port = free_port()
        words = [*under, *command(spec, port, main)]
        if "{configuration}" in words:
            self._configuration = tempfile.NamedTemporaryFile("w", suffix=".conf")  # noqa: SIM115  it lives as long as we
            self._configuration.write(MOSQUITTO_CONFIGURATION.format(port=port, host=HOST))
            self._configuration.flush()
            words[words.index("{configuration}")] = self._configuration.name
        super().__init__(words, port, name=spec, **more)
        self.spec = spec
        self.dialect = dialect(spec)

    def wait_until_ready(self) -> float:
        """Until it says INFO, or, where the client has to speak first, takes a connection."""
        if self.dialect == NATS:
            return super().wait_until_ready()
        deadline = time.monotonic() + self.start_seconds_max
        while True:
            self.check_alive()
            try:
                socket.create_connection((HOST, self.port), timeout=1).close()
                return time.monotonic()
            except OSError:
                if time.monotonic() > deadline:
                    raise LoadError(f"{self.name} takes no connection within {self.start_seconds_max:g} s") from None
                time.sleep(0.001)
