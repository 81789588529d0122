"""Telling a service manager how we are (sd_notify(3)): one datagram to $NOTIFY_SOCKET for each change, and the watchdog's beat.

Without that variable nothing is sent. The variables are taken out of the environment, as what we start is not to speak for us.
The beat says more than that the front lives: it is left out while a shard that should serve has not taken a turn for as long as
the beat's interval, so that a broker that is stuck is started anew. Front process only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, MutableMapping

# As sd_watchdog_enabled(3) asks for: twice in the time after which we are taken for dead.
BEATS = 2


class Notifier:
    """One front's line to its service manager."""

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        address = environment.pop("NOTIFY_SOCKET", "")
        usec, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        # An address is a path or, with @, an abstract name; others (vsock:) are for machines, not services.
        self._address = (
            "\0" + address[1:] if address.startswith("@") else address if address.startswith("/") else ""
        )
        mine = pid in ("", str(os.getpid()))
        self.watchdog_seconds = int(usec) / 1e6 if usec.isdigit() and mine and self._address else 0.0
        self._beat: asyncio.Task[None] | None = None

    def ready(self, status: str) -> None:
        """The start, or a reload, has ended."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        self._send(
            "RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=Reading the configuration"
        )

    def stopping(self, status: str) -> None:
        self._send("STOPPING=1", f"STATUS={status}")

    def watch(self, healthy: Callable[[float], bool], status: Callable[[], str]) -> None:
        """Beat from now on while `healthy(seconds)` holds, with what is so now. Needs a running loop."""
        if self.watchdog_seconds:
            self._beat = asyncio.get_running_loop().create_task(self._beats(healthy, status))

    async def _beats(self, healthy: Callable[[float], bool], status: Callable[[], str]) -> None:
        interval = self.watchdog_seconds / BEATS
        while True:
            if healthy(interval):
                self._send("WATCHDOG=1", f"STATUS={status()}")
            await asyncio.sleep(interval)

    def close(self) -> None:
        """No more beats."""
        if self._beat is not None:
            self._beat.cancel()

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        # A manager that does not listen is no reason to stop serving.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(lines).encode(), self._address)
