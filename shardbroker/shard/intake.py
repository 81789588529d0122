"""What the front tells a shard: sockets, other settings, lame duck, the end; and what monitoring asks.

    op         fields                    what happens
    sockets    rows, refuse              non-blocking descriptors, [client id, ip, port, listener] each; refuse: text of an -ERR
    settings   options                   a reload
    shed       count                     close so many connections, the newest first
    lame_duck                            INFO with ldm to those who understand it
    addresses {addresses}                where else clients can go: INFO to those who understand it
    close_all  id, spread                close all connections within so many seconds; answered when that is done
    jsz, and monitoring.py's   id, query   answered with this shard's part
    kick, client_ldm   id, cid           close a client, or tell it to go elsewhere; answered with whether it is here
    system_answer  subject, payload, account   to be published
    system_event   id, and the same      to be published if anyone listens; answered with whether
    stop                                 flush, close, end the process

Home shard only.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any

from shardbroker.ipc.channel import Channel, Message
from shardbroker.shard.clients import Clients

# server.go lameDuckMode: no need to wait longer than this for the next one.
CLOSE_INTERVAL_MAX_SECONDS = 1.0


class Intake:
    """The shard's end of the channel to the front."""

    def __init__(
        self,
        channel: Channel,
        clients: Clients,
        *,
        on_settings: Callable[[dict[str, Any]], None],
        on_lame_duck: Callable[[], None],
        on_addresses: Callable[[dict[str, Any]], None],
        on_stop: Callable[[], None],
        on_client_ldm: Callable[[int], bool],
        on_answer: Callable[[Message], None],
        on_broker_event: Callable[[Message], bool],
        questions: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]],
    ) -> None:
        # Whole life
        self._channel = channel
        self._clients = clients
        self._on_settings = on_settings
        self._on_lame_duck = on_lame_duck
        self._on_addresses = on_addresses
        self._on_stop = on_stop
        self._on_client_ldm = on_client_ldm
        self._on_answer = on_answer
        self._on_broker_event = on_broker_event
        self._questions = questions
        self._closing: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._channel.start(self._on_message, lambda channel: self._on_stop())

    def ready(self) -> None:
        """Tell the front that this shard takes connections."""
        self._channel.send({"op": "ready"})

    def _on_message(self, channel: Channel, message: Message, descriptors: list[int]) -> None:
        op = message["op"]
        if op == "sockets":
            self._sockets(message, descriptors)
        elif op in self._questions:
            channel.send({"re": message["id"], **self._questions[op](message["query"])})
        elif op == "kick":
            channel.send({"re": message["id"], "found": self._clients.kick(message["cid"])})
        elif op == "client_ldm":
            channel.send({"re": message["id"], "found": self._on_client_ldm(message["cid"])})
        elif op == "system_answer":
            self._on_answer(message)
        elif op == "system_event":
            channel.send({"re": message["id"], "wanted": self._on_broker_event(message)})
        elif op == "settings":
            self._on_settings(message["options"])
        elif op == "shed":
            self._clients.shed(message["count"])
        elif op == "lame_duck":
            self._on_lame_duck()
        elif op == "addresses":
            self._on_addresses(message["addresses"])
        elif op == "close_all":
            self._closing = asyncio.get_running_loop().create_task(
                self._close_all(message["id"], message["spread"])
            )
        elif op == "stop":
            self._on_stop()

    def _sockets(self, message: Message, descriptors: list[int]) -> None:
        rows, refuse = message["rows"], message["refuse"]
        for descriptor, (client_id, ip, port, kind) in zip(descriptors, rows, strict=False):
            if refuse is None:
                self._clients.adopt(descriptor, client_id, ip, port, kind)
            else:
                self._clients.refuse(descriptor, client_id, ip, port, refuse)
        lost = len(rows) - len(descriptors)
        if lost:
            # The kernel closed what we had no room for; the front counts it as ours until told.
            self._channel.send({"op": "lost", "count": lost})

    async def _close_all(self, request: int, spread: float) -> None:
        slots = self._clients.slots()
        interval = min(spread / len(slots), CLOSE_INTERVAL_MAX_SECONDS) if slots else 0.0
        # As many as fit in a millisecond go at once.
        batch = max(1, int(0.001 / interval)) if interval > 0 else len(slots)
        for at, (slot, client_id) in enumerate(slots):
            if at and at % batch == 0:
                await asyncio.sleep(interval * batch * random.uniform(0.5, 1.0))
            self._clients.close(slot, client_id)
        self._channel.send({"re": request})
