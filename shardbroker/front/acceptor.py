"""The way of a connection through the front: accept, admit, number, hand to a shard.

    listener --accept--> Acceptor --(batch)--> Admission --place--> channel --sockets--> shard
                                                  |  no shard is ready: waits here, bounded
                                                  |  max_connections, or all that the shards' descriptors allow, reached:
                                                  |  goes to a shard too, to be told and closed

The front never reads from or writes to a client's socket, and closes its copy as soon as the packet has gone.
Front process only.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Protocol

from shardbroker.front.accept import accept_connection
from shardbroker.front.placement import Placement
from shardbroker.ipc.channel import Channel

# (descriptor, ip, port, kind of listener)
Accepted = tuple[int, str, int, str]

# Accepts in one turn of a listener; more would keep restarts and signals waiting.
ACCEPTS_PER_TURN = 256
# Sockets in one packet; the kernel allows 253 descriptors in a message.
SOCKETS_PER_PACKET = 128
# Connections that may wait for a shard to be ready; above it the kernel's accept queue holds them.
WAITING_MAX = 4096
# A shard whose channel has so many unsent packets is stopped: others get the connections.
BACKLOG_PACKETS_MAX = 32
# server.go acceptError doubles its sleep from 10 ms to 1 s; one middle value does, since nothing spins.
RECOUNT_SECONDS = 0.02
PAUSE_SECONDS = 0.1
OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
MAX_CONNECTIONS_EXCEEDED = "maximum connections exceeded"


class Logger(Protocol):
    def error(self, text: str, /) -> None: ...


def open_listener(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one. Raises OSError.

    Accepted sockets inherit TCP_NODELAY from it (tcp(7)), which saves a system call for every connection.
    """
    if host in ("0.0.0.0", ""):
        # Every address of both kinds, as in Go's net.Listen: clients may take "localhost" for ::1.
        try:
            return _open("::", port)
        except OSError as e:
            if e.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
    return _open(host, port)


def _open(host: str, port: int) -> socket.socket:
    infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # A name with both kinds of address means IPv4 first, as in Go's net.Listen.
    family, kind, protocol, _, address = sorted(infos, key=lambda info: info[0] != socket.AF_INET)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6 and host == "::":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(socket.SOMAXCONN)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


class Acceptor:
    """One listener. Takes what has arrived and gives it on in batches."""

    def __init__(
        self, listener: socket.socket, kind: str, on_accepted: Callable[[list[Accepted]], None], log: Logger
    ) -> None:
        # Whole life
        self.listener = listener
        self.kind = kind
        self.accepted_total = 0
        self._on_accepted = on_accepted
        self._log = log
        self._loop = asyncio.get_running_loop()
        # State
        self._accepting = False
        self._held = False
        self._closed = False
        self._said_at = -1e9

    def start(self) -> None:
        self._hear()

    def hold(self, held: bool) -> None:
        """Leave connections in the kernel's queue while `held`."""
        self._held = held
        self._hear()

    def close(self) -> None:
        """Stop listening. What was accepted lives on."""
        if not self._closed:
            self._closed = True
            self._hear()
            self.listener.close()

    def _hear(self) -> None:
        wanted = not (self._held or self._closed)
        if wanted and not self._accepting:
            self._loop.add_reader(self.listener, self._readable)
        elif self._accepting and not wanted:
            self._loop.remove_reader(self.listener)
        self._accepting = wanted

    def _readable(self) -> None:
        batch: list[Accepted] = []
        listener = self.listener.fileno()
        for _ in range(ACCEPTS_PER_TURN):
            try:
                descriptor, ip, port = accept_connection(listener)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in OUT_OF_DESCRIPTORS:
                    self._pause(error)
                    break
                # The connection itself had ended (ECONNABORTED and the like, accept(2)).
                continue
            batch.append((descriptor, ip, port, self.kind))
        if batch:
            self.accepted_total += len(batch)
            self._on_accepted(batch)

    def _pause(self, error: OSError) -> None:
        # The listener stays readable, so without a pause the loop would spin.
        now = self._loop.time()
        if now - self._said_at >= 1.0:
            self._said_at = now
            self._log.error(
                f"Temporary Client Accept Error({error.strerror}), sleeping {PAUSE_SECONDS * 1000:.0f}ms"
            )
        self.hold(True)
        self._loop.call_later(PAUSE_SECONDS, self.hold, False)


class Admission:
    """Numbers connections, applies max_connections, and hands them to shards."""

    def __init__(self, placement: Placement, *, connections_max: int) -> None:
        # Whole life
        self.placement = placement
        self.connections_max = connections_max
        self.client_id = 0
        self.on_waiting: Callable[[bool], None] = lambda full: None
        # State
        self._channels: dict[int, Channel] = {}
        self._responsive: Callable[[int], bool] = lambda shard: True
        self._waiting: deque[Accepted] = deque()
        self._full = False
        self._retrying = False

    def watch(self, responsive: Callable[[int], bool]) -> None:
        """`responsive(shard)` says whether a shard takes turns; those that do not come last."""
        self._responsive = responsive

    def shard_ready(self, shard: int, channel: Channel) -> None:
        """The shard takes connections from here on; those that wait go out now."""
        self._channels[shard] = channel
        self._hand_waiting()

    def shard_gone(self, shard: int) -> None:
        """The shard's process has ended, or is about to."""
        self._channels.pop(shard, None)

    def accepted(self, batch: list[Accepted]) -> None:
        """Take a batch from a listener."""
        if self._waiting:
            self._waiting.extend(batch)
            self._hand_waiting()
        else:
            self._hand(batch)

    def close(self) -> None:
        """Drop what still waits."""
        while self._waiting:
            os.close(self._waiting.popleft()[0])

    def _ready(self) -> list[int]:
        writable = [n for n, channel in self._channels.items() if len(channel.backlog) < BACKLOG_PACKETS_MAX]
        if len(writable) < 2:
            return writable
        return [shard for shard in writable if self._responsive(shard)] or writable

    def _hand_waiting(self) -> None:
        while self._waiting and self._ready():
            count = min(len(self._waiting), ACCEPTS_PER_TURN)
            self._hand([self._waiting.popleft() for _ in range(count)])
        full = len(self._waiting) >= WAITING_MAX
        if full != self._full:
            self._full = full
            self.on_waiting(full)
        self._retry_later()

    def _retry_later(self) -> None:
        if self._waiting and self._channels and not self._retrying:
            # Every channel is full: nothing tells when one has room.
            self._retrying = True
            asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._retry)

    def _retry(self) -> None:
        self._retrying = False
        self._hand_waiting()

    def _hand(self, batch: list[Accepted], recount: bool = True) -> None:
        ready = self._ready()
        if not ready:
            self._waiting.extend(batch)
            self._hand_waiting()
            return
        room = min(len(batch), self.placement.room(ready))
        if self.connections_max:
            room = min(room, max(0, self.connections_max - self.placement.open_all()))
        at = 0
        for shard, count in self.placement.choose(ready, room):
            self.placement.count(shard, count)
            self._send(shard, batch[at : at + count], None)
            at += count
        if at < len(batch) and recount:
            # A client that closes one connection and opens another must not be refused because its shard has not
            # seen the end of the first yet: count once more in a moment.
            asyncio.get_running_loop().call_later(RECOUNT_SECONDS, self._hand, batch[at:], False)
        elif at < len(batch):
            for shard, count in self.placement.choose(self._ready(), len(batch) - at):
                self.placement.count(shard, count)  # the shard counts their end too
                self._send(shard, batch[at : at + count], MAX_CONNECTIONS_EXCEEDED)
                at += count

    def _send(self, shard: int, batch: list[Accepted], refuse: str | None) -> None:
        channel = self._channels[shard]
        for at in range(0, len(batch), SOCKETS_PER_PACKET):
            rows: list[tuple[int, str, int, str]] = []
            part = batch[at : at + SOCKETS_PER_PACKET]
            for _, ip, port, kind in part:
                self.client_id += 1
                rows.append((self.client_id, ip, port, kind))
            channel.send({"op": "sockets", "rows": rows, "refuse": refuse}, [row[0] for row in part])
