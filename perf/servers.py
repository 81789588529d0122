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
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shardbroker.bench import LoadError
from shardbroker.bench.server import HOST, Process, free_port

ROOT = Path(__file__).resolve().parent.parent


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


class Server(Process):
    """One running server of a spec; a context manager."""

    def __init__(
        self, spec: str, *, under: Sequence[str] = (), main: str = "shardbroker", **more: Any
    ) -> None:
        """under: a command to run it under, such as valgrind. main: the module that is this tree's broker."""
        port = free_port()
        super().__init__([*under, *command(spec, port, main)], port, name=spec, **more)
        self.spec = spec
