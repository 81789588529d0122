"""Subjects that the broker itself answers, in any account, and requests that it makes itself.

    serve(account, subject, handler)    handler(request) for every message to it, from whatever shard
    request(account, subject, ...)      ask someone, and wait for the answer

Each account that is used has one sink in the engine; its messages come as events (Clients.on_events). A service that must
answer once is served by one shard only, or in a queue group. Home shard only, in its loop.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from shardbroker.hot.engine import Engine

INBOX: Final = b"_INBOX."


@dataclass(frozen=True, slots=True)
class Request:
    """A message to a service. `subject` is what was published to."""

    account: str
    subject: str
    reply: bytes
    headers: bytes
    payload: bytes


Handler = Callable[[Request], None]


class NoAnswer(Exception):
    """Nobody is there to answer, or nobody did in time."""


class InternalClients:
    """The sinks of one shard, and what their messages are for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sinks: dict[str, int] = {}  # by account
        self._accounts: dict[int, str] = {}
        self._handlers: dict[tuple[int, bytes], Handler] = {}  # by sink and sid
        # Inboxes: one pattern for each account, a token for each request
        self._inboxes: dict[str, bytes] = {}
        self._waiting: dict[bytes, asyncio.Future[Request]] = {}

    def serve(self, account: str, subject: str, handler: Handler, queue: str = "") -> Callable[[], None]:
        """Call `handler` for each message to a subject or pattern; what is returned ends that. Raises ValueError."""
        sink = self._sink(account)
        sid = self._engine.sink_subscribe(sink, subject.encode(), queue.encode())
        self._handlers[sink, sid] = handler

        def end() -> None:
            if self._handlers.pop((sink, sid), None) is not None:
                self._engine.sink_unsubscribe(sink, sid)

        return end

    def answer(self, request: Request, payload: bytes, headers: bytes = b"") -> None:
        """Reply to a request, if it wants one."""
        if request.reply:
            self._engine.publish(request.reply, payload, b"", headers, None, request.account.encode())

    async def request(
        self, account: str, subject: str, payload: bytes, *, headers: bytes = b"", seconds: float
    ) -> Request:
        """Ask, and wait for the first answer. Raises NoAnswer."""
        if not self._engine.interest(subject.encode(), account.encode()):
            raise NoAnswer("nobody listens")
        inbox = self._inbox(account)
        token = secrets.token_urlsafe(12).encode()
        future: asyncio.Future[Request] = asyncio.get_running_loop().create_future()
        self._waiting[token] = future
        try:
            self._engine.publish(
                subject.encode(), payload, inbox + b"." + token, headers, None, account.encode()
            )
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            raise NoAnswer("no answer in time") from None
        finally:
            self._waiting.pop(token, None)

    def on_message(
        self, sink: int, sid: bytes, subject: bytes, reply: bytes, headers: bytes, payload: bytes
    ) -> bool:
        """A message event of the engine; False when the sink is none of ours."""
        account = self._accounts.get(sink)
        if account is None:
            return False
        handler = self._handlers.get((sink, sid))
        if handler is not None:
            handler(Request(account, subject.decode("utf-8", "replace"), reply, headers, payload))
        return True

    def _sink(self, account: str) -> int:
        sink = self._sinks.get(account)
        if sink is None:
            sink = self._sinks[account] = self._engine.sink(account.encode())
            self._accounts[sink] = account
        return sink

    def _inbox(self, account: str) -> bytes:
        inbox = self._inboxes.get(account)
        if inbox is None:
            inbox = self._inboxes[account] = INBOX + secrets.token_urlsafe(12).encode()
            self.serve(account, inbox.decode() + ".*", self._on_answer)
        return inbox

    def _on_answer(self, request: Request) -> None:
        future = self._waiting.get(request.subject.rpartition(".")[2].encode())
        if future is not None and not future.done():
            future.set_result(request)


def message_of(event: tuple[Any, ...]) -> tuple[int, bytes, bytes, bytes, bytes, bytes]:
    """(sink, sid, subject, reply, headers, payload) of a `message` event."""
    _, sink, sid, subject, reply, headers, payload = event[:7]
    return sink, sid, subject, reply, headers, payload
