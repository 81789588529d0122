"""Between the control sides of shards: requests that belong to an owner, and questions to all of them.

A message is a JSON object, its length before it, and bytes behind it. Everything goes over the data rings, so it arrives
behind the messages that the sender's clients had published before.

    forward    a request of a client, to the stream's owner, who answers the client itself
    ask        a question with a number; `answer` brings the result back
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import orjson

from shardbroker.stream.api import operation_of
from shardbroker.stream.errors import ApiError, Code

if TYPE_CHECKING:
    from shardbroker.stream.api import Request
    from shardbroker.stream.manager import Manager

# How long a shard that is being replaced is waited for. Clients give up after 5 s.
WAIT_SECONDS = 4.0

# An answer is what JSON can hold, or a pair of that and bytes.
Question = Callable[[dict[str, Any]], Any]


class Peers:
    """The other shards, as the stream side of this one sees them."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._questions: dict[str, Question] = {}
        self._told: dict[str, Callable[[dict[str, Any]], None]] = {}
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self, name: str, question: Question) -> None:
        """Answer questions of this name with question(fields): what JSON can hold. It runs at once, on the loop."""
        self._questions[name] = question

    def hear(self, name: str, told: Callable[[dict[str, Any]], None]) -> None:
        """Call told(fields) when a shard tells something of this name."""
        self._told[name] = told

    def tell(self, shard: int, name: str, fields: dict[str, Any]) -> None:
        """Tell a shard something; it may be lost when that shard is being replaced."""
        if shard == self._manager.shard:
            self._told[name](fields)
        else:
            self._send(shard, {"op": "tell", "name": name, "fields": fields})

    def forward(self, shard: int, request: Request) -> None:
        """Let the owner handle a request. While it is being replaced that waits, then fails."""
        fields = {
            "op": "request",
            "subject": request.subject,
            "reply": request.reply.decode("latin-1"),
            "headers": len(request.headers),
            "client": request.client,
        }
        rest = request.headers + request.payload
        if self._manager.engine.peer_ready(shard):
            self._send(shard, fields, rest)
            return

        async def later() -> None:
            if await self._ready(shard):
                self._send(shard, fields, rest)
                return
            operation = operation_of(request.words)
            request.type = operation.type if operation is not None else ""
            request.fail(ApiError(Code.CLUSTER_NOT_AVAIL))

        self._spawn(later())

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ready(self, shard: int) -> bool:
        end = asyncio.get_running_loop().time() + WAIT_SECONDS
        while not self._manager.engine.peer_ready(shard):
            if asyncio.get_running_loop().time() > end:
                return False
            await asyncio.sleep(0.01)
        return True

    async def ask(self, shard: int, name: str, fields: dict[str, Any]) -> Any:
        """The answer of one shard to a question. Raises ApiError when it does not come."""
        if shard == self._manager.shard:
            return self._questions[name](fields)
        if not await self._ready(shard):
            raise ApiError(Code.CLUSTER_NOT_AVAIL)
        self._number += 1
        number = self._number
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self._send(shard, {"op": "ask", "id": number, "name": name, "fields": fields})
            async with asyncio.timeout(WAIT_SECONDS):
                return await answer
        except TimeoutError:
            raise ApiError(Code.CLUSTER_NOT_AVAIL) from None
        finally:
            del self._waiting[number]

    async def ask_all(self, name: str, fields: dict[str, Any]) -> list[Any]:
        """The answers of all shards, this one's too. Raises ApiError when one does not come."""
        shards = range(self._manager.shards)
        if len(shards) == 1:
            return [self._questions[name](fields)]
        return list(await asyncio.gather(*(self.ask(shard, name, fields) for shard in shards)))

    def on_message(self, shard: int, fields: dict[str, Any], rest: bytes) -> None:
        """What another shard's side of this account has sent."""
        op = fields["op"]
        if op == "request":
            self._manager.on_forwarded(fields, rest)
        elif op == "ask":
            answer = {"op": "answer", "id": fields["id"]}
            try:
                result = self._questions[fields["name"]](fields["fields"])
                if isinstance(result, tuple):
                    result, rest = result
                    answer["bytes"] = True
                else:
                    rest = b""
                answer["result"] = result
            except Exception as error:
                self._manager.log.error(f"Internal error at a question of shard {shard}: {error!r}")
                answer["failed"] = Code.CLUSTER_NOT_AVAIL
                rest = b""
            self._send(shard, answer, rest)
        elif op == "answer":
            waiting = self._waiting.get(fields["id"])
            if waiting is not None and not waiting.done():
                if "failed" in fields:
                    waiting.set_exception(ApiError(Code(fields["failed"])))
                else:
                    waiting.set_result((fields["result"], rest) if "bytes" in fields else fields["result"])
        elif op == "tell":
            told = self._told.get(fields["name"])
            if told is not None:
                told(fields["fields"])

    def _send(self, shard: int, fields: dict[str, Any], rest: bytes = b"") -> None:
        self._manager.engine.send_peer(shard, encode({"account": self._manager.account, **fields}, rest))

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()


def encode(fields: dict[str, Any], rest: bytes = b"") -> bytes:
    head = orjson.dumps(fields)
    return len(head).to_bytes(4, "little") + head + rest


def decode(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(data[:4], "little")
    return orjson.loads(data[4 : 4 + size]), data[4 + size :]
