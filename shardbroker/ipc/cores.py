"""No core dumps: a process's memory has the secrets of its configuration, and of those who log in.

Where the kernel writes a core to a file, a limit of less than a page forbids it. Where it gives the core to a program
(`core_pattern` begins with `|`) it looks at the limit for one value only, 1, which says that this process is to be let die
without (core(5) says that the limit counts for nothing there; fs/coredump.c has the exception). So the limit is 1, not 0. It
leaves /proc/PID, profilers and debuggers to the broker's own user, and `prlimit --core` can undo it while the broker runs.

What the limit cannot forbid, an undumpable process does (PR_SET_DUMPABLE): cores that go to a socket (`@`, Linux 6.16), and a
hard limit of 0 with a program. /proc/PID then belongs to root, and only root can attach a debugger.

Both are inherited by fork, so the shards have it from the front.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Final

CORE_PATTERN: Final = "/proc/sys/kernel/core_pattern"
LIMIT: Final = 1
PR_GET_DUMPABLE: Final = 3
PR_SET_DUMPABLE: Final = 4

# As this process was started: (soft, hard). None: nothing has been forbidden.
_inherited: tuple[int, int] | None = None
_dumpable_before: int | None = None


def forbids(pattern: str | None, soft: int) -> bool:
    """Whether this soft limit, in bytes, forbids cores where `core_pattern` is this (None: it cannot be read)."""
    if pattern is None or pattern.startswith("@"):
        return False
    return soft == LIMIT or (soft == 0 and not pattern.startswith("|"))


def forbid(pattern_file: str = CORE_PATTERN) -> None:
    """Forbid cores of this process and of those that it forks. Before anything secret is read."""
    global _inherited, _dumpable_before
    _inherited = inherited()
    hard = _inherited[1]
    if hard != 0:
        # What fails is a sandbox without this call.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (LIMIT, hard))
    if not forbids(_read(pattern_file), resource.getrlimit(resource.RLIMIT_CORE)[0]):
        prctl = _prctl()
        _dumpable_before = prctl(PR_GET_DUMPABLE, 0)
        prctl(PR_SET_DUMPABLE, 0)


def allow() -> None:
    """What `forbid` found when it was called."""
    global _inherited, _dumpable_before
    if _inherited is not None:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, _inherited)
        _inherited = None
    if _dumpable_before is not None:
        _prctl()(PR_SET_DUMPABLE, _dumpable_before)
        _dumpable_before = None


def inherited() -> tuple[int, int]:
    """The limits (soft, hard) in bytes that this process was started with."""
    return _inherited if _inherited is not None else resource.getrlimit(resource.RLIMIT_CORE)


def _read(pattern_file: str) -> str | None:
    try:
        return Path(pattern_file).read_text()
    except OSError:
        return None


def _prctl() -> Callable[[int, int], int]:
    # Only here: two milliseconds that most commands can do without.
    import ctypes

    call: Callable[[int, int], int] = ctypes.CDLL(None, use_errno=True).prctl
    return call
