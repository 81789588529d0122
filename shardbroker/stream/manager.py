"""All streams of one shard: opened at start, made, changed and deleted on request, and what they use.

    <store_dir>/jetstream/<account>/registry.db                 all definitions (registry.py)
                                   /streams/<stream>/           a stream's own files
                                   /trash/                      what is being deleted

Home shard only. Names from clients become file names in registry.file_name, and nowhere else.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, Protocol

from shardbroker.auth.model import JetStreamLimits
from shardbroker.clock import Clock
from shardbroker.store.directories import make_directory, sync_directory
from shardbroker.stream import advisories, message_api, snapshot, stream_api
from shardbroker.stream.api import PREFIX, Api, Request
from shardbroker.stream.capture import Quota, Streams
from shardbroker.stream.errors import ApiError, Code
from shardbroker.stream.face import Face
from shardbroker.stream.model import API_LEVEL, StreamConfig
from shardbroker.stream.origin import Followed, Origin
from shardbroker.stream.peers import Peers
from shardbroker.stream.registry import Definitions, Registry, file_name
from shardbroker.stream.settings import Settings, Tiers
from shardbroker.stream.stream import Consumers, Stream
from shardbroker.subject import shard_of

ALL_THERE_IS: Final = Tiers()
# Subjects that streams and consumers subscribe to themselves: found, or answered with "no responders".
HOT: Final = ("CONSUMER.MSG.NEXT.", "DIRECT.GET.")


class Logger(Protocol):
    def error(self, text: str, /) -> None: ...
    def warning(self, text: str, /) -> None: ...
    def notice(self, text: str, /) -> None: ...


class Manager:
    """The streams of one account on one shard. `client(slot, client id)` describes a client.

    `native` and `sinks` are the shard's own, shared by the accounts; tiers: what the account may take.
    """

    def __init__(
        self,
        native: Streams,
        shard: int,
        shards: int,
        settings: Settings,
        clock: Clock,
        log: Logger,
        client: Callable[[int, int], dict[str, Any]],
        sinks: dict[int, Callable[[bytes, bytes, bytes, bytes, bytes], None]],
        account: str = "$G",
        tiers: Tiers = ALL_THERE_IS,
    ) -> None:
        # Whole life
        self.engine = native.engine
        self.face = Face(native.engine, account)
        self.quota = Quota()
        self.shard = shard
        self.shards = shards
        self.settings = settings
        self.clock = clock
        self.log = log
        self.account = account
        self.domain = settings.domain
        self.server_name = settings.server_name
        self.sync_interval_ns = settings.sync_interval_ns
        self.api_level = API_LEVEL
        self._client = client
        self.directory = Path(settings.store_dir) / "jetstream" / file_name(account)
        self.store = native.store
        self.streams_native = native
        self.registry = Registry(self.directory / "registry.db")
        self.api = Api(self)
        self.peers = Peers(self)
        self.followed = Followed(self)
        # Set by whoever has consumers, before open()
        self.make_consumers: Callable[[Stream], Consumers] | None = None
        # Who gets the messages of an Engine.sink(): by its number
        self.sinks = sinks
        # Changed by a reload, or by other claims of the account
        self.tiers = tiers
        self.limit(tiers)
        # State
        self.streams: dict[str, Stream] = {}
        self.staged: set[Stream] = set()
        self._changing: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- start and end --

    def open(self) -> None:
        """Open the streams that this shard owns. Waits for the disk: before the loop runs."""
        for name in ("streams", "trash"):
            make_directory(self.directory / name)
        definitions = self.registry.read()
        for definition in definitions.values():
            if self._owns(definition.config.name):
                self._open(definition.config, definition.created_ns)
        self.peers.serve("names", self._names)
        self.peers.serve("infos", self._infos)
        self.peers.serve("usage", self.usage)
        self.peers.hear("more", self._on_more)
        for stream in self.streams.values():
            stream.start()

    def _owns(self, name: str) -> bool:
        return shard_of(self.account, name, self.shards) == self.shard

    def _directory(self, name: str) -> Path:
        return self.directory / "streams" / file_name(name)

    def _open(self, config: StreamConfig, created_ns: int) -> Stream | None:
        directory = self._directory(config.name)
        make_directory(directory)
        try:
            stream = Stream(self.view, config, created_ns, directory)
        except ApiError as error:
            self.log.error(f"Stream {config.name!r} cannot be opened: {error.description}")
            return None
        self.streams[config.name] = stream
        return stream

    def run(self) -> None:
        """Start what goes by the clock. Once the loop runs."""
        for stream in self.streams.values():
            stream.follow()
        if self.shard == 0:
            self._spawn(self._empty_trash())

    def close(self) -> None:
        """Write what is left and close everything. The loop does not run any more, or not for us."""
        for task in self._tasks:
            task.cancel()
        self.api.stop()
        self.peers.stop()
        for stream in [*self.streams.values(), *self.staged]:
            stream.close()
        self.registry.close()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def view(self) -> ShardView:
        """What a stream is given of all this."""
        return ShardView(self)

    # -- events of the engine --

    def settle(self) -> None:
        """Let every stream of the shard decide on what waits for it."""
        for capture in self.streams_native.work():
            capture.owner.on_batch()

    def on_request(
        self, slot: int, client_id: int, subject: bytes, reply: bytes, headers: bytes, payload: bytes
    ) -> None:
        if not subject.startswith(PREFIX.encode()):
            # Of our domain: the same under the plain name.
            subject = PREFIX.encode() + subject.partition(b".API.")[2]
            if subject.startswith(tuple((PREFIX + hot).encode() for hot in HOT)):
                self.face.publish(subject, payload, reply, headers)
                return
        # Names are text: no stream has one that is no UTF-8.
        name = subject.decode(errors="replace")
        client = self._client(slot, client_id) if self.face.interest(b"$JS.EVENT.ADVISORY.API") else {}
        self.api.on_request(client, name, reply, headers, payload)

    def on_forwarded(self, fields: dict[str, Any], rest: bytes) -> None:
        """A request that another shard passed on to us as the owner."""
        request = Request(
            self.api,
            fields["account"],
            fields["subject"],
            fields["reply"].encode("latin-1"),
            rest[: fields["headers"]],
            rest[fields["headers"] :],
            fields["client"],
        )
        request.words = request.subject[len(PREFIX) :].split(".")
        self.api.handle(request)

    # -- what the account may take --

    def limit(self, tiers: Tiers) -> None:
        """Other limits, from now on; what is there already stays."""
        self.tiers = tiers
        memory, store = self.storage_limits
        self.quota.limit(store, memory)

    @property
    def limits(self) -> JetStreamLimits:
        """Those that count for all streams here. Raises ApiError when the account has none for streams with one replica."""
        found = self.tiers.limits
        if found is None:
            raise ApiError(Code.NO_LIMITS)
        return found

    @property
    def storage_limits(self) -> tuple[int, int]:
        """(bytes in memory, bytes in files) that its messages may take; negative: no limit."""
        found = self.tiers.limits
        return (found.max_memory, found.max_store) if found is not None else (0, 0)

    @property
    def limited(self) -> bool:
        return max(self.storage_limits) >= 0

    # -- streams --

    def _lock(self, name: str) -> asyncio.Lock:
        """One change of a stream at a time."""
        lock = self._changing.get(name)
        if lock is None:
            lock = self._changing[name] = asyncio.Lock()
        return lock

    def _planned(
        self, definitions: Definitions, given: StreamConfig, *, pedantic: bool = False
    ) -> tuple[StreamConfig, int, bool]:
        return stream_api.plan_create(
            definitions,
            given,
            self.clock.time_ns(),
            pedantic=pedantic,
            max_duplicates_ns=self.settings.max_duplicates_ns,
            limits=self.tiers.limits,
            check_reserved=self._check_reserved,
        )

    async def create(self, given: StreamConfig, *, pedantic: bool = False) -> Stream:
        """Make a stream, or find that it is there just so. Raises ApiError."""
        async with self._lock(given.name):
            directory = self._directory(given.name)

            def plan(definitions: Definitions) -> tuple[StreamConfig, int, bool, Path | None]:
                config, created_ns, new = self._planned(definitions, given, pedantic=pedantic)
                # What a deletion left that was interrupted goes before the stream is there: it is not its own.
                old = self._set_aside(directory) if new else None
                make_directory(directory)
                return config, created_ns, new, old

            config, created_ns, new, old = await self.registry.run(plan)
            if old is not None:
                await self.in_thread(shutil.rmtree, old, True)
            existing = self.streams.get(given.name)
            if existing is not None:
                return existing
            stream = self._open(config, created_ns)
            if stream is None:
                if new:
                    await self.registry.run(lambda definitions: definitions.remove(given.name))
                raise ApiError(Code.STREAM_STORE_FAILED, err="error creating store for stream")
            await self._begin(stream)
            return stream

    async def _begin(self, stream: Stream, prepare: Callable[[], None] = lambda: None) -> None:
        stream.start()
        prepare()
        stream.follow()
        await self._told()
        advisories.stream_action(self, stream.name, "create")

    async def stage(self, given: StreamConfig) -> Stream:
        """A stream that is there for nobody yet, to be filled: in a directory among the trash, without a definition, so that
        nothing is left of it after a crash. Then adopt() or discard(). Raises ApiError, as create() would now."""

        def look(definitions: Definitions) -> tuple[StreamConfig, int]:
            if given.name in definitions.all:
                raise ApiError(Code.STREAM_NAME_EXIST_RESTORE_FAILED)
            config, created_ns, _ = self._planned(definitions, given)
            definitions.remove(given.name)
            return config, created_ns

        config, created_ns = await self.registry.run(look)
        directory = self.directory / "trash" / f"staged-{advisories.new_id()}"
        make_directory(directory)
        stream = Stream(self.view, config, created_ns, directory)
        self.staged.add(stream)
        return stream

    async def adopt(self, stream: Stream, prepare: Callable[[], None]) -> None:
        """What was staged, and is durable, becomes a stream like others; `prepare` is called before anyone sees it. Raises
        ApiError: it is for discard() then."""
        async with self._lock(stream.name):
            directory = self._directory(stream.name)
            while not stream.log.quiet():
                await asyncio.sleep(0.001)
                stream.capture.touch()
            if stream.name in self.streams:
                raise ApiError(Code.STREAM_NAME_EXIST_RESTORE_FAILED)
            # Without a pause in between: what the log writes from here on goes to the new place.
            old = self._set_aside(directory)
            stream.directory.rename(directory)
            stream.directory = directory
            stream.log.moved(str(directory))
            await self.in_thread(sync_directory, directory.parent)

            def plan(definitions: Definitions) -> None:
                if stream.name in definitions.all:
                    raise ApiError(Code.STREAM_NAME_EXIST_RESTORE_FAILED)
                self._planned(definitions, stream.config)

            await self.registry.run(plan)
            self.staged.discard(stream)
            self.streams[stream.name] = stream
            await self._begin(stream, prepare)
            if old is not None:
                await self.in_thread(shutil.rmtree, old, True)

    async def discard(self, stream: Stream) -> None:
        """What was staged goes."""
        self.staged.discard(stream)
        stream.close(deleted=True)
        await self.in_thread(shutil.rmtree, stream.directory, True)

    async def update(self, name: str, given: StreamConfig, *, pedantic: bool = False) -> Stream:
        """Change a stream. Raises ApiError."""
        async with self._lock(name):
            config = await self.registry.run(
                lambda definitions: stream_api.plan_update(
                    definitions,
                    name,
                    given,
                    pedantic=pedantic,
                    max_duplicates_ns=self.settings.max_duplicates_ns,
                    limits=self.tiers.limits,
                    check_reserved=self._check_reserved,
                    check_consumers=self._check_consumers,
                )
            )
            stream = self.streams.get(name)
            if stream is None:
                raise ApiError(Code.STREAM_NOT_FOUND)
            stream.update(config)
            await self._told()
            advisories.stream_action(self, name, "modify")
            return stream

    async def delete(self, stream: Stream) -> None:
        """Delete a stream with all its messages and consumers. Raises ApiError."""
        async with self._lock(stream.name):
            if self.streams.get(stream.name) is not stream:
                raise ApiError(Code.STREAM_NOT_FOUND)
            await self.registry.run(lambda definitions: definitions.remove(stream.name))
            del self.streams[stream.name]
            stream.close(deleted=True)
            self.followed.more(stream)
            await self.in_thread(self._discard, stream.directory)
            await self._told()
            advisories.stream_action(self, stream.name, "delete")
        self._changing.pop(stream.name, None)

    def _discard(self, directory: Path) -> None:
        """Delete a stream's directory: out of the way first, so that a crash in between leaves none under its name."""
        trash = self._set_aside(directory)
        if trash is not None:
            shutil.rmtree(trash, ignore_errors=True)

    def _set_aside(self, directory: Path) -> Path | None:
        """Where it went, if there was one; durable."""
        if not directory.exists():
            return None
        trash = self.directory / "trash" / f"{os.getpid()}-{self.clock.monotonic_ns()}"
        directory.rename(trash)
        sync_directory(directory.parent)
        return trash

    async def _empty_trash(self) -> None:
        trash = self.directory / "trash"

        def empty() -> None:
            for entry in trash.iterdir():
                shutil.rmtree(entry, ignore_errors=True)

        await self.in_thread(empty)

    async def in_thread(self, work: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, work, *args)

    async def _told(self) -> None:
        """Until the other shards are told of our subscriptions: who gets our answer may publish at once."""
        while not self.engine.interest_told():
            await asyncio.sleep(0.001)

    # -- limits --

    def _check_reserved(
        self, definitions: Definitions, config: StreamConfig, old: StreamConfig | None
    ) -> None:
        """max_bytes of all streams together fit into what the account and the server have (checkAllLimits); a stream
        without needs room for one byte."""
        memory, limits = config.storage == "memory", self.limits
        if 0 < limits.max_consumers < config.max_consumers:
            raise ApiError(Code.MAXIMUM_CONSUMERS_LIMIT)
        server = self.settings.max_memory if memory else self.settings.max_store
        own = limits.max_memory if memory else limits.max_store
        most = min((n for n in (server or -1, own) if n >= 0), default=-1)
        if most < 0 or (old is not None and config.max_bytes <= max(old.max_bytes, 0)):
            return
        reserved = sum(
            max(d.config.max_bytes, 0)
            for d in definitions.all.values()
            if d.config.storage == config.storage and d.config.name != config.name
        )
        if reserved + (config.max_bytes if config.max_bytes >= 0 else 1) > most:
            if config.storage == "memory":
                raise ApiError(Code.MEMORY_RESOURCES_EXCEEDED)
            raise ApiError(Code.STORAGE_RESOURCES_EXCEEDED)

    def _check_consumers(self, old: StreamConfig, config: StreamConfig) -> None:
        """Consumers that stand may not be over limits that are new (updateWithAdvisory)."""
        stream = self.streams.get(config.name)
        check = getattr(stream.consumers, "check_limits", None) if stream is not None else None
        if check is not None:
            check(old, config)

    # -- questions of other shards --

    def _on_more(self, fields: dict[str, Any]) -> None:
        stream = self.streams.get(fields["follower"])
        if stream is not None and stream.origin is not None:
            stream.origin.wake(fields["index"])

    def _names(self, fields: dict[str, Any]) -> list[str]:
        return [
            s.name for s in self.streams.values() if stream_api.matches_filter(s.config, fields["subject"])
        ]

    def _infos(self, fields: dict[str, Any]) -> list[dict[str, Any]]:
        return [self.streams[name].info(shown=False) for name in fields["names"] if name in self.streams]

    def usage(self, fields: dict[str, Any]) -> dict[str, int]:
        """What this shard's streams of the account come to."""
        states = [(stream.config.storage, stream.log.state()) for stream in self.streams.values()]
        storage = sum(state.bytes for kind, state in states if kind == "file")
        memory = sum(state.bytes for kind, state in states if kind == "memory")
        configs = [stream.config for stream in self.streams.values()]
        return {
            "memory": memory,
            "storage": storage,
            "reserved_memory": sum(max(c.max_bytes, 0) for c in configs if c.storage == "memory"),
            "reserved_storage": sum(max(c.max_bytes, 0) for c in configs if c.storage == "file"),
            "streams": len(configs),
            "consumers": sum(s.consumers.count() for s in self.streams.values() if s.consumers is not None),
            "messages": sum(state.msgs for _, state in states),
            "api_total": self.api.total,
            "api_errors": self.api.errors,
            "api_inflight": self.api.inflight,
        }


class ShardView:
    """What a stream finds around it (stream.Shard)."""

    def __init__(self, manager: Manager) -> None:
        self.manager = manager
        self.account = manager.account
        self.domain = manager.domain
        self.engine = manager.engine
        self.face = manager.face
        self.streams = manager.streams_native
        self.quota = manager.quota
        self.clock = manager.clock
        self.log = manager.log
        self.sync_interval_ns = manager.sync_interval_ns
        self.make_consumers = manager.make_consumers

    def make_origin(self, stream: Stream) -> Origin:
        return Origin(stream, self.manager)

    def on_durable(self, stream: Stream) -> None:
        self.manager.followed.more(stream)


__all__ = ["Manager", "Settings", "message_api", "snapshot"]
