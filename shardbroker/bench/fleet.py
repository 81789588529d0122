"""The generator processes of one run: started, told what to do, watched, ended. None survives its Fleet."""

from __future__ import annotations

import mmap
import os
import selectors
import socket
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

import shardbroker
from shardbroker.bench import LoadError, interrupt
from shardbroker.bench.board import BYTES, Board
from shardbroker.bench.generator import (
    totals as totals,  # re-exported: what a fleet's stream parts are checked with
)

AHEAD_SECONDS = 0.03  # from the order to go until all go: longer than a process needs to wake up
TICK_SECONDS = 0.1
ANOTHER = "another part of the load failed"
Tick = Callable[[list[tuple[int, int, int, int]]], None]


def environment() -> dict[str, str]:
    """Of our own Python processes: they find the package where this one did."""
    top = str(Path(shardbroker.__file__).resolve().parent.parent)
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{top}{os.pathsep}{path}" if path else top}


@dataclass(frozen=True, slots=True)
class Answer:
    """What one generator process has to say of a phase. Seconds of its own CPU, of waiting for a processor, of wall."""

    part: dict[str, Any]
    cpu_seconds: float
    waited_seconds: float
    wall_seconds: float


@dataclass(slots=True)
class Member:
    """One generator process."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    pending: bytes = b""


@dataclass(frozen=True, slots=True)
class Phase:
    """What a phase brought. started_ns: when all went (CLOCK_MONOTONIC)."""

    answers: list[Answer]
    started_ns: int
    interrupted: bool = False
    lines: list[tuple[int, int, int, int]] = field(default_factory=list)


class Fleet:
    """A process per plan, with one board. A context manager; leaving it ends them all."""

    def __init__(self, plans: Sequence[dict[str, Any]], *, draws: bytes = b"") -> None:
        """plans: see worker.py; here they get their group and the place of `draws` in the shared memory."""
        self._plans = [
            {**plan, "group": i, "groups_all": len(plans), "draws_at": BYTES, "draws_bytes": len(draws)}
            for i, plan in enumerate(plans)
        ]
        self._draws = draws
        self._members: list[Member] = []

    def __enter__(self) -> Fleet:
        size = BYTES + len(self._draws)
        memory_fd = os.memfd_create("bench board")
        try:
            os.ftruncate(memory_fd, size)
            self._memory = mmap.mmap(memory_fd, size)
            self._memory[BYTES:] = self._draws
            self.board = Board(self._memory)
            for _ in self._plans:
                ours, theirs = socket.socketpair()
                with theirs:
                    process = subprocess.Popen(
                        [
                            sys.executable,
                            "-m",
                            "shardbroker.bench.worker",
                            str(theirs.fileno()),
                            str(memory_fd),
                        ],
                        stdin=subprocess.DEVNULL,
                        pass_fds=(theirs.fileno(), memory_fd),
                        env=environment(),
                    )
                self._members.append(Member(process, ours))
        except BaseException:
            self.close()
            raise
        finally:
            os.close(memory_fd)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        return [member.process.pid for member in self._members]

    def connect(self) -> None:
        """Make all connections. LoadError when the server does not let them."""
        for plan, member in zip(self._plans, self._members, strict=True):
            self._say(member, {"do": "connect", "plan": plan})
        self._answers()

    def make(self, limit: int = 2**62) -> None:
        """Make the loops of a phase of at most so many messages (of each publisher, requester ...)."""
        self.board.clear()
        self._all({"do": "make", "limit": limit})

    def go(self, seconds: float, tick: Tick | None = None) -> Phase:
        """Run a phase. tick: called every 0.1 s with the board's lines. The first Ctrl-C ends the phase in order: nothing
        more is sent, and what is under way is waited for and checked. LoadError when a check fails."""
        return self.finish(self.launch(seconds), tick)

    def launch(self, seconds: float) -> int:
        """Let the phase begin; when that is. `finish` waits for its end."""
        interrupt.check()
        at_ns = time.monotonic_ns() + round(AHEAD_SECONDS * 1e9)
        self._all({"do": "go", "at_ns": at_ns, "seconds": seconds}, wait=False)
        return at_ns

    def finish(self, started_ns: int, tick: Tick | None = None) -> Phase:
        answers, interrupted = self._answers(tick)
        return Phase(
            [
                Answer(
                    {key: _unpacked(key, value) for key, value in answer.pop("part").items()},
                    **answer,
                )
                for answer in answers
            ],
            started_ns,
            interrupted,
            self.board.lines(),
        )

    def check(self) -> None:
        """After a phase: nothing is left on the way to any connection."""
        self._all({"do": "check"})

    def close(self) -> None:
        """End all processes, whatever they do."""
        for member in self._members:
            member.control.close()
            member.process.kill()
        for member in self._members:
            member.process.wait()
        self._members.clear()

    def _say(self, member: Member, order: dict[str, Any]) -> None:
        try:
            member.control.sendall(orjson.dumps(order) + b"\n")
        except OSError:
            raise LoadError(f"a generator process has ended with {member.process.wait()}") from None

    def _all(self, order: dict[str, Any], wait: bool = True) -> None:
        for member in self._members:
            self._say(member, order)
        if wait:
            self._answers()

    def _answers(self, tick: Tick | None = None) -> tuple[list[dict[str, Any]], bool]:
        """One answer from each process, and whether Ctrl-C was pressed by then."""
        found: dict[int, dict[str, Any]] = {}
        interrupted = False
        with selectors.DefaultSelector() as selector:
            for i, member in enumerate(self._members):
                selector.register(member.control, selectors.EVENT_READ, i)
            while len(found) < len(self._members):
                for key, _ in selector.select(TICK_SECONDS):
                    answer = self._read(self._members[key.data])
                    if answer is not None:
                        found[key.data] = answer
                        selector.unregister(key.fileobj)
                        if "error" in answer:
                            self.board.fail(answer["error"])
                if tick is not None:
                    tick(self.board.lines())
                if interrupt.wanted() and not interrupted:
                    interrupted = True
                    self.board.stop()
        errors = [answer["error"] for answer in found.values() if "error" in answer]
        if errors:
            own = [error for error in errors if error != ANOTHER]
            raise LoadError(self.board.reason or (own or errors)[0])
        return [found[i] for i in range(len(self._members))], interrupted

    def _read(self, member: Member) -> dict[str, Any] | None:
        data = member.control.recv(1 << 20)
        if not data:
            return {"error": f"a generator process has ended with {member.process.wait()}"}
        member.pending += data
        if b"\n" not in member.pending:
            return None
        line, member.pending = member.pending.split(b"\n", 1)
        answer: dict[str, Any] = orjson.loads(line)
        return answer


def _unpacked(key: str, value: Any) -> Any:
    """Histograms came as text."""
    return [b64decode(one) for one in value] if key in ("latency", "lateness") else value
