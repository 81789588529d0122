"""The process that writes the log, watched and replaced like the others; last to end, so that it has heard everything."""

from __future__ import annotations

import asyncio

from shardbroker.control.logs import Log
from shardbroker.ipc.child import Child, describe_end

RESTART_SECONDS = 0.1
# For what is in the pipe at the end. Who reads our stderr may have stopped doing so.
DRAIN_SECONDS = 2.0


class LogProcess:
    """Front process only."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._child: Child | None = None
        self._stopping = False

    def start(self) -> None:
        """The first one."""
        self._log.open_pipe()
        self._fork()

    def _fork(self) -> None:
        if self._stopping:
            return
        log = self._log
        try:
            self._child = Child(log.write_for, log.writers_descriptors(), "log")
        except OSError:
            asyncio.get_running_loop().call_later(RESTART_SECONDS, self._fork)
            return
        self._child.watch(self._ended)

    def _ended(self) -> None:
        assert self._child is not None
        if not self._stopping:
            self._log.error(
                f"Log (pid {self._child.pid}) has died, {describe_end(self._child.ended.result())}; replacing it"
            )
            asyncio.get_running_loop().call_later(RESTART_SECONDS, self._fork)

    async def stop(self) -> None:
        """Let it write what it has been told, but not for ever. The front's next lines are written by itself."""
        self._stopping = True
        child = self._child
        if child is not None and not child.ended.done():
            hears = self._log.finish()
            await asyncio.wait([asyncio.shield(child.ended)], timeout=DRAIN_SECONDS if hears else 0)
            child.kill()
            await asyncio.shield(child.ended)
        self._log.close_pipe()
