"""Messages between our own processes: JSON objects and descriptors over a SOCK_SEQPACKET socket pair.

The front has one channel to every shard and one to the monitor; a tool that asks `status` gets one too. A message is
one object; what is larger than a packet goes in parts:

    "{...}"           a whole message, with the descriptors that belong to it
    "+bytes"          a part, more follow          (parts of one message are never mixed with others)
    ".bytes"          the last part

A message with "id" is a request; its answer carries the same number as "re". Sending never blocks: what the socket
does not take waits in `backlog`, in order, and the owner looks at its length before it adds what can wait elsewhere.
asyncio side of any process; one thread.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from shardbroker.ipc.handoff import receive_packet, send_packet

Message = dict[str, Any]
MessageHandler = Callable[["Channel", Message, list[int]], None]

# One packet must fit the socket's send buffer (212,992 bytes by default, of which bookkeeping takes a part), else
# the kernel refuses it with EMSGSIZE for ever.
PACKET_BYTES_MAX = 150 << 10
# A peer that does not stop sending parts is not ours.
MESSAGE_BYTES_MAX = 1 << 30
# Packets taken in one call of the loop, so that others have their turn.
PACKETS_PER_TURN = 64
# ETOOMANYREFS (too many descriptors in flight) has no event that says when it ends.
RETRY_SECONDS = 0.01


class ChannelClosed(Exception):
    """The other side has gone; the request gets no answer."""


class Channel:
    """One end of a channel. Call `start` inside the loop that shall serve it."""

    def __init__(self, sock: socket.socket) -> None:
        # Whole life
        self.sock = sock
        sock.setblocking(False)
        self.closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_message: MessageHandler | None = None
        self._on_close: Callable[[Channel], None] | None = None
        self._next_id = 0
        self._requests: dict[int, asyncio.Future[Message]] = {}
        # Sending
        self.backlog: deque[tuple[bytes, Sequence[int]]] = deque()
        self._writing = False
        # Receiving: the parts of a message under way
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._parts_descriptors: list[int] = []

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        return self.sock.fileno()

    def start(self, on_message: MessageHandler, on_close: Callable[[Channel], None]) -> None:
        """Serve in the running loop: on_message(channel, message, descriptors), on_close(channel) once at the end.

        The descriptors belong to `on_message`.
        """
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._on_close = on_close
        self._loop.add_reader(self.sock, self._readable)
        if self.backlog:
            self._writable()

    # -- sending --

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send, or keep for later. The descriptors are ours from here on, and are closed when they have gone."""
        if self.closed:
            _close_all(descriptors)
            return
        data = orjson.dumps(message)
        if len(data) <= PACKET_BYTES_MAX:
            self.backlog.append((data, descriptors))
        else:
            for at in range(0, len(data), PACKET_BYTES_MAX):
                mark = b"." if at + PACKET_BYTES_MAX >= len(data) else b"+"
                self.backlog.append((mark + data[at : at + PACKET_BYTES_MAX], descriptors if at == 0 else ()))
        if not self._writing:
            self._writable()

    async def request(self, message: Message) -> Message:
        """Send a request and wait for its answer; ChannelClosed when the other side ends."""
        if self.closed:
            raise ChannelClosed
        self._next_id += 1
        number = self._next_id
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._requests[number] = future
        try:
            self.send({**message, "id": number})
            return await future
        finally:
            self._requests.pop(number, None)

    def _writable(self) -> None:
        backlog = self.backlog
        retry = False
        while backlog:
            data, descriptors = backlog[0]
            try:
                send_packet(self.sock, data, descriptors)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in (errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS):
                    retry = True
                    break
                # The reader sees the end of the stream and tells the owner.
                self._drop_backlog()
                break
            backlog.popleft()
            _close_all(descriptors)
        self._wait_writable(bool(backlog), retry)

    def _wait_writable(self, waiting: bool, retry: bool) -> None:
        loop = self._loop
        if loop is None or self.closed:
            return
        if waiting and retry:
            if self._writing:
                loop.remove_writer(self.sock)
            self._writing = True
            loop.call_later(RETRY_SECONDS, self._retry)
        elif waiting and not self._writing:
            self._writing = True
            loop.add_writer(self.sock, self._writable)
        elif not waiting and self._writing:
            self._writing = False
            loop.remove_writer(self.sock)

    def _retry(self) -> None:
        if not self.closed:
            self._writing = False
            self._writable()

    def _drop_backlog(self) -> None:
        while self.backlog:
            _close_all(self.backlog.popleft()[1])

    # -- receiving --

    def _readable(self) -> None:
        for _ in range(PACKETS_PER_TURN):
            try:
                data, descriptors = receive_packet(self.sock, PACKET_BYTES_MAX + 1)
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            if not data:
                _close_all(descriptors)
                self.close()
                return
            if not self._on_packet(data, descriptors) or self.closed:
                return

    def _on_packet(self, data: bytes, descriptors: list[int]) -> bool:
        if data[0] in b"+.":
            self._parts.append(data[1:])
            self._parts_bytes += len(data) - 1
            self._parts_descriptors += descriptors
            if data[0] == 0x2B and self._parts_bytes <= MESSAGE_BYTES_MAX:
                return True
            data, descriptors = b"".join(self._parts), self._parts_descriptors
            self._parts, self._parts_bytes, self._parts_descriptors = [], 0, []
        try:
            message = orjson.loads(data)
        except orjson.JSONDecodeError:
            message = None
        if not isinstance(message, dict):
            _close_all(descriptors)
            self.close()
            return False
        answered = self._requests.pop(message.get("re", 0), None)
        if answered is not None:
            _close_all(descriptors)
            if not answered.done():
                answered.set_result(message)
        elif self._on_message is not None:
            self._on_message(self, message, descriptors)
        return True

    # -- end --

    def close(self) -> None:
        """Close; requests under way end with ChannelClosed, what was not sent is dropped."""
        if self.closed:
            return
        self.closed = True
        if self._loop is not None:
            self._loop.remove_reader(self.sock)
            if self._writing:
                self._loop.remove_writer(self.sock)
        self._drop_backlog()
        _close_all(self._parts_descriptors)
        self.sock.close()
        requests, self._requests = self._requests, {}
        for future in requests.values():
            if not future.done():
                future.set_exception(ChannelClosed())
        if self._on_close is not None:
            self._on_close(self)


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
