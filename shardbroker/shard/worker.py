"""The main of a shard's process: the data path's loop with the control side as ordinary asyncio code beside it.

Started by fork from the front (ipc/child.py), so everything is imported already and `setup` is handed over as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import orjson
from setproctitle import setproctitle

from shardbroker.auth.model import GLOBAL_ACCOUNT
from shardbroker.clock import SystemClock
from shardbroker.hot.engine import EVENTS, Engine
from shardbroker.ipc.channel import Channel, ChannelClosed
from shardbroker.ipc.records import from_plain
from shardbroker.options import Options
from shardbroker.shard.clients import Clients, InfoSource, Logger
from shardbroker.shard.gauges import Gauges, ProcessUsage
from shardbroker.shard.intake import Intake
from shardbroker.shard.internal import InternalClients, message_of
from shardbroker.shard.latency import traced
from shardbroker.shard.loop import Selector
from shardbroker.shard.monitoring import Monitoring
from shardbroker.shard.system import ServerInfo, System
from shardbroker.shm.layout import SegmentMap
from shardbroker.stream.settings import Tiers, stream_accounts, stream_settings
from shardbroker.wire.info import NO_ADDRESSES, Addresses

if TYPE_CHECKING:
    from shardbroker.shard.account_claims import AccountClaimsService, FetchedClaimsService
    from shardbroker.shard.callout import Callout
    from shardbroker.shard.operator_callout import OperatorCallout
    from shardbroker.stream.services import Services

USAGE_SECONDS = 1.0
EVENT_MESSAGE = EVENTS["message"]
# How long a stopping shard tries to get its last bytes out; less than control/supervisor.py waits for it.
STOP_SECONDS = 2.0


class ShardLogger(Logger, Protocol):
    """A log that can also be told of new settings, and whose process this is."""

    def of_shard(self, shard: int) -> None: ...
    def apply(self, options: Options) -> None: ...


@dataclass(frozen=True, slots=True)
class ShardSetup:
    """What a shard is given. `eventfds`: one for each shard, by shard. `control_line_max`: bytes, the most that a reload may
    allow. `info(options, ldm, addresses)` makes INFO lines."""

    shard: int
    shards: int
    segment: SegmentMap
    eventfds: Sequence[int]
    control_line_max: int
    options: Options
    channel: Channel
    info: Callable[[Options, bool, Addresses], InfoSource]
    log: ShardLogger
    seed: bytes  # of the key whose public half is the server's id; empty when nothing has to be signed


def run_shard(setup: ShardSetup) -> int:
    """Serve until the front says stop or has gone; the exit status."""
    setproctitle(f"shardbroker: shard {setup.shard} of {setup.shards}")
    setup.log.of_shard(setup.shard)
    worker = Worker(setup)
    loop = asyncio.SelectorEventLoop(worker.selector)
    loop.set_exception_handler(log_exception(setup.log))
    loop.run_until_complete(worker.run())
    return 0


class Worker:
    """One shard."""

    def __init__(self, setup: ShardSetup) -> None:
        # Whole life
        self._setup = setup
        self._log = setup.log
        self._usage = ProcessUsage(Gauges(setup.segment), setup.shard)
        self._engine = Engine(
            setup.shard, setup.shards, setup.segment, list(setup.eventfds), setup.options.engine_settings()
        )
        self.clients = Clients(
            self._engine,
            setup.options,
            setup.info(setup.options, False, NO_ADDRESSES),
            setup.log,
            SystemClock(),
            closed_max=setup.options.max_closed_clients // setup.shards,
            on_ready=self._ready,
            front=setup.channel,
            shards=setup.shards,
        )
        eventfd = setup.eventfds[setup.shard] if setup.shards > 1 else -1
        self.selector = Selector(self._engine, self.clients.on_events, eventfd, setup.control_line_max)
        self._intake = Intake(
            setup.channel,
            self.clients,
            on_settings=self._apply,
            on_lame_duck=self._lame_duck,
            on_addresses=self._take_addresses,
            on_stop=self._stop,
            on_client_ldm=self._client_lame_duck,
            on_answer=lambda message: self.system.on_answer(message),
            on_broker_event=lambda message: self.system.on_broker_event(message),
            questions=Monitoring(self._engine, self.clients, SystemClock()).ops
            | self._stream_questions()
            | {"fetched": self._fetched},
        )
        self._engine.introduce(
            orjson.dumps(setup.info(setup.options, False, NO_ADDRESSES).fields["server_name"]), self.clients.introduce, traced
        )
        # Changed by a reload
        self._options = setup.options
        self.internal = InternalClients(self._engine)
        self.system = self._make_system()
        self.streams = self._make_streams()
        self.clients.on_other = self._on_other
        if self.streams is not None:
            self.clients.on_accounts = self.streams.accounts_changed
        # State
        self._lame = False
        self._addresses = NO_ADDRESSES
        self._claims: AccountClaimsService | FetchedClaimsService | None = None
        self._stopped = asyncio.Event()

    def _make_system(self) -> System:
        setup, options = self._setup, self._setup.options
        said = setup.info(options, False, NO_ADDRESSES).fields
        server = ServerInfo(said["server_id"], said["server_name"], said["host"], options)
        system = System(self._engine, setup.shard, options, server, self.clients, setup.channel)
        system.open()
        self.clients.watcher = system
        return system

    def _make_streams(self) -> Services | None:
        """The stream side, with its streams open. Waits for the disk: nobody is served yet."""
        setup, options = self._setup, self._setup.options
        if not options.jetstream.enabled:
            return None
        name = setup.info(options, False, NO_ADDRESSES).fields["server_name"]
        # Large, and only for who has streams; the front has it imported before the fork then (control/lifecycle).
        from shardbroker.stream.services import Services

        services = Services(
            self._engine,
            setup.shard,
            setup.shards,
            stream_settings(options, name),
            stream_accounts(options),
            SystemClock(),
            setup.log,
            lambda slot, client_id: self.clients.describe(slot, client_id, name),
            self._operators_account,
        )
        services.open()
        self.selector.watch_hooks(services.store.eventfd)
        return services

    def _operators_account(self, name: str) -> Tiers | None:
        """What an account of the operator may keep in streams; None: nothing, or there is no such account."""
        book = self.clients.account_book
        account = book.get(name) if book is not None and name != self._options.system_account else None
        return Tiers(account.jetstream) if account is not None and account.jetstream else None

    def _stream_questions(self) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        """What monitoring asks about streams; there may be none yet, or at all."""

        def asks(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
            def answer(query: dict[str, Any]) -> dict[str, Any]:
                found: dict[str, Any] = getattr(self.streams, name)(query) if self.streams is not None else {}
                return found

            return answer

        return {name: asks(name) for name in ("jsz", "jsz_streams", "jsz_consumers", "health")}

    def _on_other(self, event: tuple[Any, ...]) -> bool:
        """Messages to what the broker itself serves; all else is the streams'. Whether it was for anyone."""
        if self.system.on_event(event):
            return True
        if event[0] == EVENT_MESSAGE and self.internal.on_message(*message_of(event)):
            return True
        return self.streams is not None and self.streams.on_event(event)

    def _make_callout(self) -> Callout | OperatorCallout | None:
        settings, options = self._options.auth_callout, self._options
        if settings is None and options.operator_mode is None:
            return None
        from shardbroker.shard.callout import Asker, Callout

        server = self._server()
        fields = {"name": server["name"], "host": server["host"], "id": server["id"], "version": server["ver"]}
        fields |= {"tags": list(options.server_tags)} if options.server_tags else {}
        asker = Asker(self.internal, fields, self._setup.seed, SystemClock(), options.auth_timeout)
        if settings is None:
            from shardbroker.shard.operator_callout import OperatorCallout

            return OperatorCallout(asker, lambda: self.clients.operator, self._know_account)
        known = {GLOBAL_ACCOUNT, *(account.name for account in options.accounts)}
        return Callout(settings, asker, known.__contains__)

    async def _know_account(self, name: str) -> None:
        if self.clients.fetches is not None:
            await self.clients.fetches.complete(name)

    def _fetched(self, query: dict[str, Any]) -> dict[str, Any]:
        """Another shard has an account from a web server, or (no name) was sent one or told to delete one."""
        if not query:
            self.clients.watch_accounts(pushed=True)
            return {}
        return self.clients.fetches.learn(query) if self.clients.fetches is not None else {}

    async def _tell_accounts(self) -> None:
        """Have the other shards look at the accounts now."""
        if self._setup.shards > 1:
            with contextlib.suppress(ChannelClosed):
                await self._setup.channel.request({"op": "system_fetched", "query": {}})

    def _serve_claims(self) -> None:
        """The requests about account JWTs, on one shard for all; what a reload changed counts."""
        if self._claims is not None:
            self._claims.stop()
            self._claims = None
        book, system = self.clients.account_book, self._options.system_account
        if self._setup.shard or book is None or not system:
            return
        from shardbroker.auth.resolver import DirectoryStore
        from shardbroker.shard.account_claims import AccountClaimsService, FetchedClaimsService

        look = partial(self.clients.watch_accounts, pushed=True)
        if isinstance(book.store, DirectoryStore):
            self._claims = AccountClaimsService(
                self.internal, book, book.store, system, self._server, self._log, look, self._tell_accounts
            )
            self._claims.start()
        elif self.clients.fetches is not None:
            self._claims = FetchedClaimsService(
                self.internal, self.clients.fetches, system, self._server, self._log, look, self._tell_accounts
            )
            self._claims.start()

    def _server(self) -> dict[str, Any]:
        """This server as answers name it (events.go ServerInfo)."""
        fields = self._info().fields
        return {
            "name": fields["server_name"],
            "host": fields["host"],
            "id": fields["server_id"],
            "ver": fields["version"],
            "jetstream": self._options.jetstream.enabled,
        }

    async def run(self) -> None:
        if self.streams is not None:
            self.streams.run()
        self._serve_claims()
        self.clients.use_callout(self._make_callout())
        self._intake.start()
        if self.clients.fetches is not None and self.streams is not None:
            # They take in messages though nobody of theirs is there.
            self.clients.use_account(self.streams.account_known)
            self.clients.fetches.refresh(*self.streams.kept())
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(self._watch_usage()), loop.create_task(self.system.tell_statistics())]
        await self._stopped.wait()
        for task in tasks:
            task.cancel()
        self.clients.end()
        self._engine.stop()
        # Closing many subscriptions takes several turns; a turn of the data path is an iteration of this loop.
        try:
            async with asyncio.timeout(STOP_SECONDS):
                while self.clients.open_count:
                    await asyncio.sleep(0.001)
        except TimeoutError:
            self._log.error(
                f"Shard {self._setup.shard}: {self.clients.open_count} connections did not close in time"
            )
        await self.clients.drain_transports()
        await asyncio.sleep(0)
        if self.streams is not None:
            self.streams.close()

    async def _watch_usage(self) -> None:
        while True:
            self._usage.update()
            self._engine.trim(self._forget)
            self.clients.watch_accounts()
            await asyncio.sleep(USAGE_SECONDS)

    def _forget(self) -> None:
        self.clients.trim()
        # Beside garbage a collection gives back what the interpreter keeps of freed tuples, thousands of each length. What
        # came with the fork is frozen and not looked at.
        gc.collect()

    def _ready(self) -> None:
        self._intake.ready()

    def _stop(self) -> None:
        self._stopped.set()

    def _apply(self, fields: dict[str, Any]) -> None:
        self._options = from_plain(Options, fields)
        self._log.apply(self._options)
        self.clients.use_callout(self._make_callout())
        self.clients.apply(self._options, self._info())
        if self.streams is not None:
            self.streams.apply(stream_accounts(self._options))
        self._serve_claims()

    def _client_lame_duck(self, client_id: int) -> bool:
        return self.clients.tell_lame_duck(client_id, self._info(lame=True))

    def _lame_duck(self) -> None:
        self._lame = True
        self.clients.announce(self._info())

    def _take_addresses(self, fields: dict[str, Any]) -> None:
        addresses = from_plain(Addresses, fields)
        if addresses != self._addresses:
            self._addresses = addresses
            self.clients.announce(self._info())

    def _info(self, *, lame: bool = False) -> InfoSource:
        return self._setup.info(self._options, self._lame or lame, self._addresses)


def log_exception(log: Logger) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """A handler for errors of callbacks and tasks: to the log, in one line, and life goes on."""

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        trace = "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else ""
        log.error(f"Internal error: {context['message']} {trace}".strip().replace("\n", "\\n"))

    return handle
