"""Starting our own processes from the front: fork, and what a child must undo before it is a process of its own.

The front forks inside its running event loop, so a child starts with copies of everything: the front's loop, its epoll
descriptor, listeners, other children's channels. Rules that follow:
- Signals are blocked over the fork: until the child has let go of the front's wake-up descriptor, a signal to the
  child would look like one to the front.
- A child never unregisters from the inherited epoll (that would change the front's); it closes the descriptors, all but
  those it was told to keep, and never again looks at the objects that held them. `gc.freeze` keeps the collector from
  finalising such an object, which would close a descriptor number that has a new owner.
- The kernel kills the child when the front dies (PR_SET_PDEATHSIG); an orderly child sees its channel end before.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterable

import multiprocess
from multiprocess.process import BaseProcess

PR_SET_PDEATHSIG = 1
_FORK = multiprocess.get_context("fork")
_prctl: Callable[[int, int], int] = ctypes.CDLL(None, use_errno=True).prctl

# What the front acts on for everybody: a terminal or a service manager signals all processes of a group at once.
_FOR_THE_FRONT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_BLOCKED = (*_FOR_THE_FRONT, signal.SIGCHLD)


class Child:
    """A process that the front has started, and the descriptor that tells of its end. Front only."""

    def __init__(self, main: Callable[[], int], keep: Collection[int], name: str) -> None:
        """Fork and run `main` with only these descriptors (and 0, 1, 2) open. `main` gives the exit status."""
        front = os.getpid()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
        try:
            self.process: BaseProcess = _FORK.Process(
                target=_enter, args=(main, frozenset(keep), front, before), name=name, daemon=True
            )
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.pid: int = self.process.pid
        self.pidfd = os.pidfd_open(self.pid)
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def watch(self, on_end: Callable[[], None]) -> None:
        """Call `on_end` once in the running loop when the process has ended; it is reaped then."""
        asyncio.get_running_loop().add_reader(self.pidfd, self._readable, on_end)

    def _readable(self, on_end: Callable[[], None]) -> None:
        asyncio.get_running_loop().remove_reader(self.pidfd)
        status = self.process.exitcode
        os.close(self.pidfd)
        self.process.close()
        self.ended.set_result(0 if status is None else status)
        on_end()

    def kill(self) -> None:
        """SIGKILL, when it has not ended yet."""
        if not self.ended.done():
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)


def describe_end(status: int) -> str:
    """An exit status in words: "killed by SIGKILL" or "exit status 1"."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def _enter(main: Callable[[], int], keep: frozenset[int], front: int, mask: Iterable[int]) -> None:
    signal.set_wakeup_fd(-1)
    for number in _FOR_THE_FRONT:
        signal.signal(number, signal.SIG_IGN)
    asyncio.events._set_running_loop(None)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != front:
        os._exit(1)
    gc.freeze()
    _close_but(keep)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    status = main()
    sys.stderr.flush()
    os._exit(status)


def _close_but(keep: frozenset[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor > 2 and descriptor not in keep:
            try:
                os.close(descriptor)
            except OSError:
                # The descriptor that listed the directory.
                continue
