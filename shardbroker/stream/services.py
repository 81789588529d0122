"""The stream side of one shard: its store, and the streams of every account that has JetStream.

    Services.on_event -> the account's Manager: a client's request, another shard's message, messages for Engine.sink()

Accounts of the configuration are there from the start. Those of an operator are opened when they have streams on the disk,
or else when somebody first asks for one: a shard's own client, or another shard that has such a client.

Home shard only.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from shardbroker.clock import Clock
from shardbroker.hot.engine import EVENTS, Engine
from shardbroker.store.handle import Store
from shardbroker.stream import consumer_api
from shardbroker.stream.api import PREFIX, refusal_of
from shardbroker.stream.capture import Streams
from shardbroker.stream.consumers import Consumers, ShardConsumers
from shardbroker.stream.errors import ApiError, Code
from shardbroker.stream.manager import HOT, Logger, Manager
from shardbroker.stream.peers import decode, encode
from shardbroker.stream.registry import name_of
from shardbroker.stream.settings import Settings, Tiers
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
    """`accounts`: what each of those with JetStream may take, by the configuration; `found(name)`: the same of an operator's
    account, None for no streams. `client(slot, client id)` describes a client."""

    def __init__(
        self,
        engine: Engine,
        shard: int,
        shards: int,
        settings: Settings,
        accounts: Mapping[str, Tiers],
        clock: Clock,
        log: Logger,
        client: Callable[[int, int], dict[str, Any]],
        found: Callable[[str], Tiers | None] = lambda name: None,
    ) -> None:
        self.store = Store(settings.threads)
        self.native = Streams(engine, self.store)
        self._engine = engine
        self._shard = shard
        self._shards = shards
        self._settings = settings
        self._clock = clock
        self._log = log
        self._client = client
        self._found = found
        self._sinks: dict[int, Callable[[bytes, bytes, bytes, bytes, bytes], None]] = {}
        self._consumers = ShardConsumers(engine, clock, log, synchronous=not settings.sync_interval_ns)
        # Changed by a reload
        self._accounts = dict(accounts)
        # State
        self.managers: dict[bytes, Manager] = {}
        self._running = False
        self._full = {"file": False, "memory": False}
        self._watch: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Open the streams that this shard owns. Waits for the disk: before the loop runs."""
        prefixes = [PREFIX.encode(), *(b"!" + (PREFIX + hot).encode() for hot in HOT)]
        if self._settings.domain:
            prefixes.append(f"$JS.{self._settings.domain}.API.".encode())
        self._engine.intercept(prefixes)
        for name, tiers in self._accounts.items():
            self._open(name, tiers)
        self._open_kept()

    def _open(self, name: str, tiers: Tiers) -> Manager:
        """Serve an account, with the streams that it has here."""
        manager = Manager(
            self.native, self._shard, self._shards, self._settings, self._clock, self._log, self._client, self._sinks,
            name, tiers,
        )  # fmt: skip
        consumer_api.attach(self._consumers, manager)
        manager.open()
        manager.peers.serve("server_usage", self._usage)
        self.managers[name.encode()] = manager
        if self._running:
            manager.run()
        return manager

    def _open_kept(self) -> None:
        """Those of an operator's accounts that have had streams: what is published to them is to be taken in."""
        for name in self.kept():
            if name.encode() not in self.managers:
                self._look_up(name.encode())

    def kept(self) -> list[str]:
        """Accounts that have, or had, streams on the disk."""
        directory = Path(self._settings.store_dir) / "jetstream"
        names = [name_of(entry.name) for entry in sorted(directory.iterdir())] if directory.is_dir() else []
        return [name for name in names if name is not None]

    def account_known(self, name: str) -> None:
        """An account of an operator is there that was not before; what is published to its streams is to be taken in."""
        if name in self.kept():
            self._look_up(name.encode())

    def _look_up(self, account: bytes) -> Manager | None:
        """The account's manager, opened if it may have streams and has none yet."""
        manager = self.managers.get(account)
        if manager is None:
            name = account.decode("utf-8", "surrogateescape")
            tiers = self._found(name)
            if tiers is not None:
                manager = self._open(name, tiers)
        return manager

    def apply(self, accounts: Mapping[str, Tiers]) -> None:
        """The configuration gives accounts other limits, or others streams."""
        self._accounts = dict(accounts)
        self.accounts_changed()

    def accounts_changed(self) -> None:
        """Accounts may have got other limits, streams, or none any more. What they have on the disk stays (removeJetStream)."""
        for account, manager in list(self.managers.items()):
            tiers = self._accounts.get(manager.account) or self._found(manager.account)
            if tiers is None:
                del self.managers[account]
                manager.close()
            else:
                manager.limit(tiers)
        for name, tiers in self._accounts.items():
            if name.encode() not in self.managers:
                self._open(name, tiers)
        self._open_kept()

    def run(self) -> None:
        """Start what goes by the clock. Once the loop runs."""
        self._running = True
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
        self.native.stop()
        self.store.close()

    def on_event(self, event: tuple[Any, ...]) -> bool:
        """One event of the engine; whether it was ours."""
        kind = event[0]
        if kind == EVENT_NOTE:
            self.settle()
        elif kind == EVENT_REQUEST:
            manager = self._look_up(event[-1])
            if manager is not None:
                manager.on_request(*event[1:-1])
            else:
                self._refuse(event[3], event[4], event[-1])
        elif kind == EVENT_PEER:
            fields, rest = decode(event[2])
            manager = self._look_up(fields["account"].encode())
            if manager is not None:
                manager.peers.on_message(event[1], fields, rest)
            else:
                self._turn_away(event[1], fields)
        elif kind == EVENT_MESSAGE:
            sink = self._sinks.get(event[1])
            if sink is not None:
                sink(*event[2:7])
        else:
            return False
        return True

    def _turn_away(self, shard: int, fields: dict[str, Any]) -> None:
        """Answer another shard that does not know yet that an account has no streams any more."""
        if fields["op"] == "request":
            self._refuse(fields["subject"].encode(), fields["reply"].encode("latin-1"), fields["account"].encode())
        elif fields["op"] == "ask":
            answer = {"op": "answer", "id": fields["id"], "failed": Code.NOT_ENABLED_FOR_ACCOUNT}
            self._engine.send_peer(shard, encode({"account": fields["account"], **answer}))

    def _refuse(self, subject: bytes, reply: bytes, account: bytes) -> None:
        """Answer a request of an account that has no JetStream."""
        refusal = refusal_of(subject.decode(errors="replace"))
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
                manager.account: list(manager.storage_limits)
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

    def _usage(self, fields: dict[str, Any]) -> dict[str, Any]:
        """What the streams here come to: of the whole shard, and of each account that has a limit; [file, memory]."""
        limited = {m.account: m.quota.used() for m in self.managers.values() if m.limited}
        return {"all": self.native.usage(), "accounts": {name: used for name, used in limited.items() if any(used)}}

    async def _watch_usage(self) -> None:
        """Refuse messages while all shards' streams together are over what the server or their account has."""
        while True:
            await asyncio.sleep(USAGE_SECONDS)
            managers = list(self.managers.values())
            limited = [manager for manager in managers if manager.limited]
            if managers and (self._settings.max_memory or self._settings.max_store or limited):
                with contextlib.suppress(ApiError):
                    self._judge(await managers[0].peers.ask_all("server_usage", {}), limited)

    def _judge(self, answers: list[Any], limited: list[Manager]) -> None:
        settings = self._settings
        for at, (storage, most) in enumerate((("file", settings.max_store), ("memory", settings.max_memory))):
            full = bool(most) and sum(answer["all"][at] for answer in answers) > most
            if full or self._full[storage]:
                self._full[storage] = full
                self.native.stop_storage(storage == "memory", full)
        for manager in limited:
            rows = [answer["accounts"].get(manager.account, (0, 0)) for answer in answers]
            rows.pop(self._shard)
            manager.quota.elsewhere(sum(row[0] for row in rows), sum(row[1] for row in rows))


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
