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
from shardbroker.stream.api import PREFIX
from shardbroker.stream.capture import Streams
from shardbroker.stream.consumers import Consumers, ShardConsumers
from shardbroker.stream.errors import ApiError
from shardbroker.stream.manager import HOT, Logger, Manager, Settings
from shardbroker.stream.peers import decode
from shardbroker.stream.stream import Stream

EVENT_REQUEST: Final = EVENTS["request"]
EVENT_MESSAGE: Final = EVENTS["message"]
EVENT_PEER: Final = EVENTS["peer"]
EVENT_NOTE: Final = EVENTS["note"]
USAGE_SECONDS: Final = 0.25


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

    def settle(self) -> None:
        """Let every stream decide on what waits for it."""
        for capture in self.native.work():
            capture.owner.on_batch()

    def jsz(self, query: dict[str, Any]) -> dict[str, Any]:
        """This shard's part of /jsz: each account's usage, and with `streams`, `consumers`, `config` what it has."""
        wanted = query.get("acc") or None
        accounts = {}
        for manager in self.managers.values():
            if wanted is not None and manager.account != wanted:
                continue
            part: dict[str, Any] = {"usage": manager.usage({})}
            accounts[manager.account] = part
            if query.get("streams"):
                part["streams"] = [
                    _detail(stream, query, manager.server_name) for stream in manager.streams.values()
                ]
        settings = self._settings
        return {
            "accounts": accounts,
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
    if query.get("consumers") and isinstance(stream.consumers, Consumers):
        found = [stream.consumers.info(entry) for entry in stream.consumers.public()]
        if not query.get("config"):
            for row in found:
                row.pop("config", None)
        out["consumer_detail"] = found
    for name in ("mirror", "sources"):
        if name in info:
            out[name] = info[name]
    return out
