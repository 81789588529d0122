"""The stream side of one shard: its store, and the streams of every account that has JetStream.

    Services.on_event -> the account's Manager: a client's request, another shard's message, messages for Engine.sink()

Home shard only.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from shardbroker.auth.model import JetStreamLimits
from shardbroker.clock import Clock
from shardbroker.hot.engine import EVENTS, Engine
from shardbroker.store.handle import Store
from shardbroker.stream import consumer_api
from shardbroker.stream.api import PREFIX, refusal_of
from shardbroker.stream.capture import Streams
from shardbroker.stream.consumers import Consumers, ShardConsumers
from shardbroker.stream.errors import ApiError
from shardbroker.stream.manager import HOT, Logger, Manager
from shardbroker.stream.peers import decode
from shardbroker.stream.settings import Settings
from shardbroker.stream.stream import LOG_FAILED, Stream

EVENT_REQUEST: Final = EVENTS["request"]
EVENT_MESSAGE: Final = EVENTS["message"]
EVENT_PEER: Final = EVENTS["peer"]
EVENT_NOTE: Final = EVENTS["note"]
USAGE_SECONDS: Final = 0.25
# Streams and consumers described in one step for monitoring: a few tenths of a millisecond.
STREAMS_STEP: Final = 8
CONSUMERS_STEP: Final = 16
FAILED_MAX: Final = 100


class Services:
    """`accounts`: what each of those with JetStream may take. `client(slot, client id)` describes a client."""

    def __init__(
        self,
        engine: Engine,
        shard: int,
        shards: int,
        settings: Settings,
        accounts: Mapping[str, JetStreamLimits],
        clock: Clock,
        log: Logger,
        client: Callable[[int, int], dict[str, Any]],
    ) -> None:
        self.store = Store(settings.threads)
        self.native = Streams(engine, self.store)
        self._engine = engine
        self._settings = settings
        self._log = log
        self._sinks: dict[int, Callable[[bytes, bytes, bytes, bytes, bytes], None]] = {}
        self.managers = {
            name.encode(): Manager(
                self.native, shard, shards, settings, clock, log, client, self._sinks, name, limits
            )
            for name, limits in accounts.items()
        }
        self._consumers = ShardConsumers(engine, clock, log, synchronous=not settings.sync_interval_ns)
        for manager in self.managers.values():
            consumer_api.attach(self._consumers, manager)
        self._full = {"file": False, "memory": False}
        self._watch: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Open the streams that this shard owns. Waits for the disk: before the loop runs."""
        prefixes = [PREFIX.encode(), *(b"!" + (PREFIX + hot).encode() for hot in HOT)]
        if self._settings.domain:
            prefixes.append(f"$JS.{self._settings.domain}.API.".encode())
        self._engine.intercept(prefixes)
        for manager in self.managers.values():
            manager.open()
            manager.peers.serve("server_usage", self._usage)

    def run(self) -> None:
        """Start what goes by the clock. Once the loop runs."""
        for manager in self.managers.values():
            manager.run()
        self._watch = asyncio.get_running_loop().create_task(self._watch_usage())

    def close(self) -> None:
        """Write what is left and close everything. The loop does not run any more, or not for us."""
        if self._watch is not None:
            self._watch.cancel()
        for manager in self.managers.values():
            manager.close()
        self._consumers.stop()
        self.store.close()

    def on_event(self, event: tuple[Any, ...]) -> bool:
        """One event of the engine; whether it was ours."""
        kind = event[0]
        if kind == EVENT_NOTE:
            self.settle()
        elif kind == EVENT_REQUEST:
            manager = self.managers.get(event[-1])
            if manager is not None:
                manager.on_request(*event[1:-1])
            else:
                self._refuse(event[3], event[4], event[-1])
        elif kind == EVENT_PEER:
            fields, rest = decode(event[2])
            manager = self.managers.get(fields["account"].encode())
            if manager is not None:
                manager.peers.on_message(event[1], fields, rest)
        elif kind == EVENT_MESSAGE:
            sink = self._sinks.get(event[1])
            if sink is not None:
                sink(*event[2:7])
        else:
            return False
        return True

    def _refuse(self, subject: bytes, reply: bytes, account: bytes) -> None:
        """Answer a request of an account that has no JetStream."""
        refusal = refusal_of(subject.decode("latin-1"))
        if reply and refusal is not None:
            self._engine.publish(reply, refusal, b"", b"", None, account)

    def settle(self) -> None:
        """Let every stream decide on what waits for it."""
        for capture in self.native.work():
            capture.owner.on_batch()

    # -- monitoring, in steps that hold nobody up --

    def jsz(self, query: dict[str, Any]) -> dict[str, Any]:
        """This shard's part of /jsz: each account's usage, and how it is set up."""
        settings = self._settings
        return {
            "accounts": {manager.account: manager.usage({}) for manager in self.managers.values()},
            "limits": {
                manager.account: [manager.limits.max_memory, manager.limits.max_store]
                for manager in self.managers.values()
            },
            "config": {
                "max_memory": settings.max_memory,
                "max_storage": settings.max_store,
                "store_dir": f"{settings.store_dir}/jetstream",
                **(
                    {"sync_interval": settings.sync_interval_ns}
                    if settings.sync_interval_ns
                    else {"sync_always": True}
                ),
                **({"domain": settings.domain} if settings.domain else {}),
                "strict": settings.strict,
            },
        }

    def jsz_streams(self, query: dict[str, Any]) -> dict[str, Any]:
        """STREAMS_STEP streams of an account from the place `first` on, by name; `next`: where to go on, or -1."""
        manager = self.managers.get(query["acc"].encode())
        names = sorted(manager.streams) if manager is not None else []
        first = query["first"]
        rows = [
            _detail(manager.streams[name], query, manager.server_name)
            for name in names[first : first + STREAMS_STEP]
            if manager is not None
        ]
        return {"rows": rows, "next": first + STREAMS_STEP if first + STREAMS_STEP < len(names) else -1}

    def jsz_consumers(self, query: dict[str, Any]) -> dict[str, Any]:
        """The same of a stream's consumers; CONSUMERS_STEP of them. `direct`: instead those that clients do not list."""
        manager = self.managers.get(query["acc"].encode())
        stream = manager.streams.get(query["stream"]) if manager is not None else None
        if stream is None or not isinstance(stream.consumers, Consumers):
            return {"rows": [], "next": -1}
        entries = [entry for entry in stream.consumers.entries.values() if entry.config.direct == bool(query.get("direct"))]
        entries.sort(key=lambda entry: entry.name)
        first = query["first"]
        rows = [stream.consumers.info(entry) for entry in entries[first : first + CONSUMERS_STEP]]
        if not query.get("config"):
            for row in rows:
                row.pop("config", None)
        return {"rows": rows, "next": first + CONSUMERS_STEP if first + CONSUMERS_STEP < len(entries) else -1}

    def health(self, query: dict[str, Any]) -> dict[str, Any]:
        """What /healthz asks: whether an account, a stream, a consumer is here, and which streams cannot write.

        `failed`: [account, stream] of those; at most FAILED_MAX."""
        managers = self.managers.values()
        failed = [
            [manager.account, stream.name]
            for manager in managers
            for stream in manager.streams.values()
            if stream.log.status == LOG_FAILED
        ]
        manager = self.managers.get(query.get("account", "").encode())
        stream = manager.streams.get(query.get("stream", "")) if manager is not None else None
        consumers = stream.consumers if stream is not None else None
        wanted = query.get("consumer", "")
        return {
            "failed": failed[:FAILED_MAX],
            "account": manager is not None,
            "stream": stream is not None,
            "consumer": isinstance(consumers, Consumers) and any(e.name == wanted for e in consumers.public()),
        }

    def _usage(self, fields: dict[str, Any]) -> list[int]:
        return list(self.native.usage())

    async def _watch_usage(self) -> None:
        """Refuse messages while all shards' streams together are over what the server has."""
        settings = self._settings
        while self.managers and (settings.max_memory or settings.max_store):
            await asyncio.sleep(USAGE_SECONDS)
            peers = next(iter(self.managers.values())).peers
            with contextlib.suppress(ApiError):
                answers = await peers.ask_all("server_usage", {})
                for at, (storage, most) in enumerate(
                    (("file", settings.max_store), ("memory", settings.max_memory))
                ):
                    full = bool(most) and sum(answer[at] for answer in answers) > most
                    if full or self._full[storage]:
                        self._full[storage] = full
                        self.native.stop_storage(storage == "memory", full)


def _detail(stream: Stream, query: dict[str, Any], leader: str) -> dict[str, Any]:
    """A stream as /jsz shows it (monitor.go StreamDetail)."""
    info = stream.info(shown=False, leader=leader)
    out = {"name": stream.name, "created": info["created"], "cluster": info["cluster"]}
    if query.get("config"):
        out["config"] = info["config"]
    out["state"] = info["state"]
    for name in ("mirror", "sources"):
        if name in info:
            out[name] = info[name]
    return out
