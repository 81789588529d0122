"""Requests of the JetStream API: from a client's message to the handler on the right shard, and the answer.

    client -> its home shard: intercept -> Api.on_request
              OWNER    the shard that owns the stream handles it, here or over a ring (behind the client's messages)
              GATHER   the home shard asks all shards and puts their answers together
    handler(request) -> request.respond(...) | raise ApiError

Handlers register in HANDLERS under the words of their subject ("STREAM.CREATE"), with the class of it. They may be async.
Source: jetstream_api.go apiDispatch.
"""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson

from shardbroker.stream import advisories
from shardbroker.stream.direct import wants_too_much
from shardbroker.stream.errors import ApiError, Code
from shardbroker.stream.gojson import DecodeError, Struct, decode, is_empty
from shardbroker.subject import shard_of
from shardbroker.subject_tree import TooIntricate

if TYPE_CHECKING:
    from shardbroker.stream.manager import Manager
    from shardbroker.stream.stream import Stream

PREFIX: Final = "$JS.API."
TYPE: Final = "io.nats.jetstream.api.v1."


@dataclass(slots=True)
class Request:
    """One request, on the shard that handles it. `words` are what follows $JS.API in its subject."""

    api: Api
    account: str
    subject: str
    reply: bytes
    headers: bytes
    payload: bytes
    client: dict[str, Any] = field(default_factory=dict)
    type: str = ""
    words: list[str] = field(default_factory=list)
    answered: bool = False

    @property
    def manager(self) -> Manager:
        return self.api.manager

    @property
    def stream_name(self) -> str:
        """The stream that the subject names."""
        at = operation_of(self.words)
        return self.words[at.stream_at] if at is not None else ""

    @property
    def stream(self) -> Stream:
        """The stream that the subject names. Raises ApiError when there is none."""
        found = self.manager.streams.get(self.stream_name)
        if found is None:
            raise ApiError(Code.STREAM_NOT_FOUND)
        return found

    def decode(self, kind: Struct) -> dict[str, Any]:
        """The payload's fields. Raises ApiError."""
        try:
            return decode(self.payload, kind, strict=self.manager.settings.strict)
        except DecodeError as error:
            raise ApiError(Code.INVALID_JSON, err=error) from None

    def need_payload(self) -> None:
        if is_empty(self.payload):
            raise ApiError(Code.BAD_REQUEST)

    def need_no_payload(self) -> None:
        if not is_empty(self.payload):
            raise ApiError(Code.NOT_EMPTY_REQUEST)

    def respond(self, fields: dict[str, Any] | None = None, *, audit: bool = True) -> None:
        """Send the answer: the type, and `fields` behind it."""
        self._send({"type": TYPE + self.type, **(fields or {})}, audit)

    def fail(self, error: ApiError) -> None:
        """Send an error, and behind it what this kind of answer always has."""
        self.api.errors += 1
        operation = operation_of(self.words)
        always = operation.beside_error if operation is not None else {}
        self._send({"type": TYPE + self.type, "error": error.to_json(), **always}, True)

    def _send(self, said: dict[str, Any], audit: bool) -> None:
        text = orjson.dumps(said)
        self.answered = True
        # Counted when answered, and only what has an audit (trackAPI)
        self.api.total += audit
        if self.reply:
            self.manager.face.publish(self.reply, text)
        if audit:
            advisories.api_audit(
                self.manager, self.client, self.subject, self.payload.decode(errors="replace"), text.decode()
            )


Handler = Callable[[Request], Awaitable[None] | None]
Place = Literal["owner", "home"]


@dataclass(frozen=True, slots=True)
class Operation:
    """What a subject asks for. `most`: words at the most, None for any number; stream_at: which word is the stream."""

    handler: Handler
    type: str
    place: Place
    least: int
    most: int | None
    stream_at: int
    beside_error: dict[str, Any]


HANDLERS: Final[dict[str, Operation]] = {}


def serve(
    words: str,
    answer: str,
    *,
    parts: int | tuple[int, int | None] = 1,
    place: Place = "owner",
    beside_error: dict[str, Any] | None = None,
) -> Callable[[Handler], Handler]:
    """Register a handler for `$JS.API.<words>` with so many parts behind it, the first of them the stream's name.

    beside_error: fields that an answer with an error has too (those without Go's omitempty).
    """
    least, most = (parts, parts) if isinstance(parts, int) else parts

    def register(handler: Handler) -> Handler:
        size = len(words.split("."))
        HANDLERS[words] = Operation(
            handler,
            answer,
            place,
            size + least,
            None if most is None else size + most,
            size,
            beside_error or {},
        )
        return handler

    return register


def operation_of(words: list[str]) -> Operation | None:
    """The operation of a subject's words behind $JS.API; None: there is none."""
    for size in (3, 2, 1):
        found = HANDLERS.get(".".join(words[:size]))
        if (
            found is not None
            and found.least <= len(words)
            and (found.most is None or len(words) <= found.most)
        ):
            return found
    return None


def refusal_of(subject: str) -> bytes | None:
    """What an account without JetStream is answered (jetstream_api.go: every handler asks for it first); None: nothing."""
    operation = operation_of(subject[len(PREFIX) :].split("."))
    if operation is None:
        return None
    error = ApiError(Code.NOT_ENABLED_FOR_ACCOUNT)
    return orjson.dumps({"type": TYPE + operation.type, "error": error.to_json(), **operation.beside_error})


def _too_intricate(request: Request, error: TooIntricate) -> ApiError:
    """nats-server compares pair by pair instead, for as long as that takes."""
    about_stream = request.words[0] == "STREAM"
    return ApiError(Code.STREAM_INVALID_CONFIG if about_stream else Code.CONSUMER_CREATE, err=error)


class Api:
    """The API on one shard."""

    def __init__(self, manager: Manager) -> None:
        self.manager = manager
        self.total = 0
        self.errors = 0
        self.inflight = 0
        self._tasks: dict[asyncio.Task[None], Request] = {}

    def on_request(
        self, client: dict[str, Any], subject: str, reply: bytes, headers: bytes, payload: bytes
    ) -> None:
        """A client's message to $JS.API.>, on the client's shard."""
        request = Request(self, self.manager.account, subject, reply, headers, payload, client)
        request.words = subject[len(PREFIX) :].split(".")
        operation = operation_of(request.words)
        if operation is None:
            return  # nobody answers, as from a server without a system account
        if self.inflight >= self.manager.settings.inflight_max:
            advisories.advise(
                self.manager,
                f"{advisories.PREFIX}.API.LIMIT_REACHED",
                "advisory.v1.api_limit_reached",
                {"server": self.manager.server_name, "dropped": 1},
            )
            return
        if operation.place == "owner":
            owner = shard_of(request.account, request.words[operation.stream_at], self.manager.shards)
            if owner != self.manager.shard:
                self.manager.peers.forward(owner, request)
                return
        self.handle(request)

    def handle(self, request: Request) -> None:
        """Carry a request out on this shard."""
        operation = operation_of(request.words)
        if operation is None:
            return
        request.type = operation.type
        try:
            if wants_too_much(request.headers):
                raise ApiError(Code.REQUIRED_API_LEVEL)
            self.manager.settle()
            result = operation.handler(request)
        except ApiError as error:
            request.fail(error)
            return
        except TooIntricate as error:
            request.fail(_too_intricate(request, error))
            return
        except Exception:
            self._broken(request)
            return
        if inspect.isawaitable(result):
            self.inflight += 1
            task = asyncio.ensure_future(self._finish(request, result))
            self._tasks[task] = request
            task.add_done_callback(lambda ended: self._tasks.pop(ended))

    async def _finish(self, request: Request, result: Awaitable[None]) -> None:
        try:
            await result
        except ApiError as error:
            request.fail(error)
        except TooIntricate as error:
            request.fail(_too_intricate(request, error))
        except asyncio.CancelledError:
            raise
        except Exception:
            self._broken(request)
        finally:
            self.inflight -= 1

    def _broken(self, request: Request) -> None:
        self.manager.log.error(
            f"Internal error at {request.subject!r:.200}: {traceback.format_exc()}".replace("\n", "\\n")
        )
        if not request.answered:
            request.fail(ApiError(Code.STREAM_GENERAL_ERROR, err="internal error"))

    def stop(self) -> None:
        """Whoever waits for an answer is told that there are no streams (any more)."""
        for task, request in self._tasks.items():
            if not request.answered:
                request.fail(ApiError(Code.NOT_ENABLED_FOR_ACCOUNT))
            task.cancel()
