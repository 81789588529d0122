"""A process beside the shards that the front starts, and starts anew when it dies: the monitor, the peers.

It has no state that would be missed, so it is killed in the end.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Callable, Sequence

from shardbroker.control.logs import Log
from shardbroker.ipc.channel import Channel, Message, MessageHandler
from shardbroker.ipc.child import Child, describe_end

RESTART_SECONDS = 0.5


class Helper:
    """One such process, with a channel to the front."""

    def __init__(
        self,
        name: str,
        main: Callable[[Channel], int],
        listeners: Sequence[socket.socket],
        descriptors: Sequence[int],
        on_message: MessageHandler,
        log: Log,
    ) -> None:
        """`main(channel)` runs in the process, with the listeners and descriptors; what it sends goes to `on_message`."""
        # Whole life
        self._name = name
        self._main = main
        self._listeners = listeners
        self._descriptors = descriptors
        self._on_message = on_message
        self._log = log
        # State
        self._child: Child | None = None
        self._channel: Channel | None = None
        self._stopping = False

    def start(self) -> None:
        ours, theirs = Channel.pair()
        keep = [theirs.fileno(), *(listener.fileno() for listener in self._listeners), *self._descriptors]
        self._child = Child(functools.partial(self._run, theirs), keep, self._name.lower())
        theirs.close()
        ours.start(self._on_message, lambda channel: None)
        self._channel = ours
        self._child.watch(self._ended)

    @property
    def pid(self) -> int:
        """0 before it has one."""
        return self._child.pid if self._child is not None else 0

    def _run(self, channel: Channel) -> int:
        self._log.of_helper(self._name.lower())
        return self._main(channel)

    def send(self, message: Message) -> None:
        if self._channel is not None:
            self._channel.send(message)

    def _ended(self) -> None:
        assert self._child is not None and self._channel is not None
        self._channel.close()
        if not self._stopping:
            self._log.error(
                f"{self._name} (pid {self._child.pid}) has died, {describe_end(self._child.ended.result())}; replacing it"
            )
            asyncio.get_running_loop().call_later(RESTART_SECONDS, self._restart)

    def _restart(self) -> None:
        if not self._stopping:
            self.start()

    async def stop(self) -> None:
        """No need to ask."""
        self._stopping = True
        for listener in self._listeners:
            listener.close()
        if self._child is not None and not self._child.ended.done():
            self._child.kill()
            await asyncio.shield(self._child.ended)
