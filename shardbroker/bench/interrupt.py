"""Ctrl-C (and SIGTERM) while a load runs: noted by the handler, acted upon where it is safe.

An exception out of a signal handler can be lost: it may strike in a callback whose exceptions nobody sees (a fork hook, a
finalizer), and the run would go on. So the first signal only sets a flag; `check` raises KeyboardInterrupt between steps,
and a phase that runs is ended in order (Fleet). The second signal raises at once, for those who will not wait.
"""

from __future__ import annotations

import signal
import time

_signals = 0


def install() -> None:
    """From now on signals are noted. Main thread only."""
    signal.signal(signal.SIGINT, _noted)
    signal.signal(signal.SIGTERM, _noted)


def _noted(number: int, frame: object) -> None:
    global _signals
    _signals += 1
    if _signals > 1:
        raise KeyboardInterrupt


def wanted() -> bool:
    """Whether the end is wanted."""
    return _signals > 0


def check() -> None:
    """Raise KeyboardInterrupt if the end is wanted."""
    if _signals:
        raise KeyboardInterrupt


def sleep(seconds: float) -> None:
    """Sleep, but not beyond the wish for the end."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        check()
        time.sleep(min(left, 0.1))
