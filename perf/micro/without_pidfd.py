"""`shardbroker` for valgrind, which (as of 3.19) has no pidfd_open: a pipe and a thread take its place.

The descriptor becomes readable when the process ends, as a pidfd does; signals go by process id.
"""

from __future__ import annotations

import os
import signal
import threading

from shardbroker.cli.main import main

_pid_of: dict[int, int] = {}


def _pidfd_open(pid: int, flags: int = 0) -> int:
    readable, held = os.pipe()
    _pid_of[readable] = pid

    def wait() -> None:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        os.close(held)

    threading.Thread(target=wait, daemon=True).start()
    return readable


def _pidfd_send_signal(pidfd: int, number: int, info: None = None, flags: int = 0) -> None:
    os.kill(_pid_of[pidfd], number)


if __name__ == "__main__":
    os.pidfd_open = _pidfd_open
    signal.pidfd_send_signal = _pidfd_send_signal
    main()
