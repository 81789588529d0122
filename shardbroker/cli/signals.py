"""`-sl command[=pid]`: send a signal to a running broker. Source: signal.go ProcessSignal, opts.go processSignal.

pid is a number, a file that holds one, or the beginning of numbers with `*` behind it (`*` alone: all). Without it there
must be exactly one broker. Brokers are found by their control sockets, so whatever name they were started under.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

from shardbroker.errors import BrokerError

COMMANDS: Final = {
    "stop": signal.SIGKILL,
    "quit": signal.SIGINT,
    "term": signal.SIGTERM,
    "reopen": signal.SIGUSR1,
    "reload": signal.SIGHUP,
    "ldm": signal.SIGUSR2,
}
# The control socket's name in /proc/net/unix: @shardbroker.<pid of the front>.
_SOCKET: Final = re.compile(r"\s@shardbroker\.(\d+)$", re.MULTILINE)


class SignalError(BrokerError):
    """No such broker, no such command, or no right to it."""


def send_signal(
    text: str,
    program: str = "shardbroker",
    *,
    kill: Callable[[int, int], None] = os.kill,
    running: Callable[[], list[int]] | None = None,
) -> list[int]:
    """Do `command` or `command=pid`; the processes that got the signal. Raises SignalError."""
    command, _, where = text.partition("=")
    if "=" in where:
        raise SignalError(f"invalid signal parameters: {where.split('=')[1:]}")
    where = _read_pid_file(where)
    prefix, several = where.removesuffix("*"), where.endswith("*")
    if prefix and not prefix.isdecimal():
        raise SignalError(f"invalid pid: {prefix}")
    if prefix and not several:
        pids = [int(prefix)]
    else:
        found = (running or brokers)()
        pids = [pid for pid in found if str(pid).startswith(prefix)]
        if len(pids) > 1 and not several:
            raise SignalError(f"multiple {program} processes running:\n" + "\n".join(map(str, pids)))
        if not found:
            raise SignalError(f"no {program} processes running")
    if command not in COMMANDS:
        raise SignalError(f'unknown signal "{command}"')
    errors = []
    for pid in pids:
        try:
            kill(pid, COMMANDS[command])
        except OSError as error:
            errors.append(f'signal "{command}" {pid}: {(error.strerror or str(error)).lower()}')
    if errors:
        raise SignalError("\n".join(errors))
    return pids


def _read_pid_file(where: str) -> str:
    if where:
        try:
            return Path(where).read_text().strip()
        except (OSError, ValueError):
            pass
    return where


def brokers() -> list[int]:
    """Process numbers of the fronts that run in this network namespace, but not this process."""
    try:
        found = {int(pid) for pid in _SOCKET.findall(Path("/proc/net/unix").read_text())}
    except OSError:
        raise SignalError("unable to resolve pid, try providing one") from None
    return sorted(found - {os.getpid()})
