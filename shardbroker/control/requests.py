"""What monitoring and the tools ask of a running broker, and the socket at which the tools ask.

    op        answer
    attach    the segment's descriptor, and who we are
    varz      everything about the broker that is not in the shared statistics
    names     {"accounts": [...], "stream_accounts": [...]}
    ask       {"part": what one shard answers to one step (shard/monitoring.py), or null}; fields shard, ask, query
    healthz   {"ready": whether every shard serves}

The control socket is an abstract Unix socket, `\\0shardbroker.<pid of the front>`: it vanishes with the process and is found
in /proc/net/unix. Only root and the user of the broker may use it. The monitor has a channel of its own. Front only.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

from shardbroker.control.supervisor import Supervisor
from shardbroker.ipc.channel import Channel, Message

SOCKET_PREFIX = "shardbroker."
# A shard that is stopped is left out of an answer after so long.
ANSWER_SECONDS = 2.0
TOOLS_MAX = 64
# What shards may be asked: nothing here changes anything.
ASKS = frozenset(
    {
        "table", "rows", "subscriptions", "matching", "closed", "sublist", "accounts", "account", "jsz", "jsz_streams",
        "jsz_consumers", "health",
    }
)  # fmt: skip
_CREDENTIALS = struct.Struct("3i")


class Requests:
    """Answers requests on any number of channels."""

    def __init__(
        self,
        supervisor: Supervisor,
        describe: Callable[[], dict[str, Any]],
        names: Callable[[], dict[str, list[str]]],
        segment_fd: int,
    ) -> None:
        self._supervisor = supervisor
        self._describe = describe
        self._names = names
        self._segment_fd = segment_fd
        self._tasks: set[asyncio.Task[None]] = set()

    def on_message(self, channel: Channel, message: Message, descriptors: list[int]) -> None:
        """Handler for Channel.start. Unknown requests get an answer that says so."""
        for descriptor in descriptors:
            os.close(descriptor)
        op = message.get("op")
        answer: Message = {"re": message.get("id", 0)}
        if op == "attach":
            answer |= self._describe()
            channel.send(answer, [os.dup(self._segment_fd)])
        elif op == "varz":
            channel.send(answer | self._describe())
        elif op == "healthz":
            channel.send(answer | {"ready": all(slot.ready for slot in self._supervisor.shards)})
        elif op == "names":
            channel.send(answer | self._names())
        elif op == "ask" and message.get("ask") in ASKS and isinstance(message.get("shard"), int):
            task = asyncio.get_running_loop().create_task(self._ask(channel, answer, message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            channel.send(answer | {"error": f"unknown request {op!r}"})

    async def _ask(self, channel: Channel, answer: Message, message: Message) -> None:
        question = {"op": message["ask"], "query": message.get("query")}
        part = await self._supervisor.ask(message["shard"], question, ANSWER_SECONDS)
        channel.send(answer | {"part": part})


class ControlSocket:
    """The listener for tools."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._channels: set[Channel] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(f"\0{SOCKET_PREFIX}{os.getpid()}")
        self._listener.listen(16)
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener, self._readable)

    def _readable(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        if not _may_ask(sock) or len(self._channels) >= TOOLS_MAX:
            sock.close()
            return
        channel = Channel(sock)
        self._channels.add(channel)
        channel.start(self._requests.on_message, self._channels.discard)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        for channel in list(self._channels):
            channel.close()


def _may_ask(sock: socket.socket) -> bool:
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(raw)
    return uid in (0, os.geteuid())
