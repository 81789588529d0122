"""Time, behind one small protocol, so that a simulation can give its own."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What our code may ask about time."""

    def monotonic_ns(self) -> int:
        """Nanoseconds that only grow, for intervals and time-outs."""

    def time_ns(self) -> int:
        """Nanoseconds since 1970 UTC, for what people read."""


class SystemClock:
    """The machine's clock."""

    __slots__ = ()

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def time_ns(self) -> int:
        return time.time_ns()


class ManualClock:
    """A clock that moves when it is told to, for tests."""

    __slots__ = ("_monotonic_ns", "_offset_ns")

    def __init__(self, monotonic_ns: int = 0, *, time_ns: int = 0) -> None:
        self._monotonic_ns = monotonic_ns
        self._offset_ns = time_ns - monotonic_ns

    def monotonic_ns(self) -> int:
        return self._monotonic_ns

    def time_ns(self) -> int:
        return self._monotonic_ns + self._offset_ns

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass; time never goes back."""
        if seconds < 0:
            raise ValueError("time does not go back")
        self._monotonic_ns += round(seconds * 1_000_000_000)
