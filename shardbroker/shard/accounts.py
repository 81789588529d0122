"""The accounts as a shard's control side knows them: who is let in where, and with what limits.

    admit(account)       when the front has said that the account has room, if it is counted       (max_connections)
    enter(slot, client id, identity)     the engine is told the account, the permissions, the limits
    left(identity)                       a connection has gone

Connections of an account with a limit are counted by the front, since they may be on any shard (front/tenants.py). Source of
the rules: client.go applyAccountLimits, registerWithAccount. Home shard only, in its loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

from shardbroker.auth.gate import Identity
from shardbroker.auth.imports import find_export
from shardbroker.auth.model import SERVICE_RESPONSE_SECONDS, Account, AccountLimits, Export, Import, Mapping
from shardbroker.clock import Clock
from shardbroker.hot.engine import Engine
from shardbroker.ipc.channel import ChannelClosed, Message
from shardbroker.options import Options
from shardbroker.transform import Transform, tokenize, untokenize

_NO_LIMITS = AccountLimits()


class Front(Protocol):
    """The channel to the front."""

    def send(self, message: Message, /) -> None: ...
    async def request(self, message: Message, /) -> Message: ...


class Book(Protocol):
    """Accounts of an operator: auth.trust.AccountBook."""

    def get(self, name: str, /) -> Account | None: ...
    def checked(self, name: str, now: float, /) -> Account | None: ...
    def imports_until(self, name: str, now: float, /) -> float: ...


class Accounts:
    """All accounts of this broker."""

    def __init__(self, engine: Engine, options: Options, front: Front | None, clock: Clock) -> None:
        # Whole life
        self._engine = engine
        self._clock = clock
        self._front = front
        # Changed by a reload
        self._by_name: dict[str, Account] = {}
        self._book: Book | None = None
        # Operator's accounts that someone here has been in
        self._met: set[str] = set()
        # When imports of theirs begin or end with an activation token, seconds since 1970
        self._until: dict[str, float] = {}
        # What the engine knows of each account that maps or imports
        self._told: dict[str, object] = {}
        # Questions to the front; kept here because the loop keeps no tasks
        self._tasks: set[asyncio.Task[None]] = set()
        self.apply(options)

    def apply(self, options: Options) -> None:
        """Other records; connections that are in keep theirs until they are entered again."""
        self._system = options.system_account
        before, self._by_name = self._by_name, {account.name: account for account in options.accounts}
        for name in before.keys() | self._by_name.keys():
            self._tell(name)

    def watch(self, book: Book | None) -> None:
        """Where accounts are looked up that the configuration does not have: those of an operator."""
        self._book = book
        self.changed()

    def record(self, account: str) -> Account | None:
        """What is known of an account; None: nothing, it has no limits and gives and takes nothing."""
        return self._by_name.get(account) or (self._book.get(account) if self._book is not None else None)

    def _tell(self, name: str) -> None:
        """Give the engine an account's mappings and imports, if they have changed."""
        record = self._by_name.get(name) or self._imported(name)
        told = (record.mappings, [_parts(made, self.record(made.account)) for made in record.imports]) if record else None
        if told is not None and not any(told):
            told = None
        if self._told.get(name) == told:
            return
        if told is None or record is None:
            del self._told[name]
            self._engine.set_account(name.encode(), [], [])
            return
        self._told[name] = told
        imports = [_native_import(made, self.record(made.account), self._system) for made in record.imports]
        self._engine.set_account(name.encode(), [_native_mapping(mapping) for mapping in record.mappings], imports)

    def _imported(self, name: str) -> Account | None:
        """An operator's account, with those of its imports that it may have now."""
        if self._book is None:
            return None
        now = self._clock.time_ns() / 1e9
        until = self._book.imports_until(name, now)
        if until:
            self._until[name] = until
        return self._book.checked(name, now)

    def changed(self) -> None:
        """Accounts of an operator have other claims: what they import, or what others export to them."""
        for name in self._met:
            self._tell(name)

    def expire(self) -> None:
        """Imports whose activation has ended, or begun, since this was called last (accounts.go activationExpired)."""
        now = self._clock.time_ns() / 1e9
        for name in [name for name, until in self._until.items() if until <= now]:
            del self._until[name]
            self._tell(name)

    def limits(self, account: str) -> AccountLimits:
        record = self.record(account)
        return record.limits if record is not None else _NO_LIMITS

    def counted(self, account: str) -> bool:
        """Whether the account has a limit of connections: then they have to be admitted."""
        return self._front is not None and self.limits(account).max_connections >= 0

    def admit(self, account: str, wanted: Callable[[], bool], settle: Callable[[bool], None]) -> None:
        """Let `settle` know whether a counted account has room for one more, unless `wanted` says that the client has gone."""
        self._start(self._ask(account, self.limits(account).max_connections, wanted, settle))

    async def _ask(
        self, account: str, limit: int, wanted: Callable[[], bool], settle: Callable[[bool], None]
    ) -> None:
        assert self._front is not None
        try:
            answer = await self._front.request({"op": "account_enter", "account": account, "limit": limit})
        except ChannelClosed:
            return
        if wanted():
            settle(answer["ok"])
        elif answer["ok"]:
            self._front.send({"op": "account_leave", "account": account})

    def enter(self, slot: int, client_id: int, identity: Identity) -> None:
        """Tell the engine who a connection is; before its CONNECT is accepted."""
        if self._book is not None and identity.account not in self._met:
            self._met.add(identity.account)
            self._tell(identity.account)
        max_payload, max_subscriptions = self.limits_of(identity)
        self._engine.enter(
            slot,
            client_id,
            identity.account.encode(),
            identity.permissions,
            max_payload=max_payload,
            max_subscriptions=max_subscriptions,
        )

    def limits_of(self, identity: Identity) -> tuple[int, int]:
        """Largest payload, most subscriptions of a connection: the account's and the user's own; negative: no limit."""
        limits = self.limits(identity.account)
        return (
            _least(limits.max_payload, identity.max_payload),
            _least(limits.max_subscriptions, identity.max_subscriptions),
        )

    def left(self, identity: Identity) -> None:
        """A connection that was admitted has gone, or has become someone else."""
        if self._front is not None and self.counted(identity.account):
            self._front.send({"op": "account_leave", "account": identity.account})

    def recount(self, identities: Iterable[Identity]) -> None:
        """After a reload: accounts may have a limit that had none."""
        if self._front is not None:
            counts = Counter(
                identity.account for identity in identities if self.counted(identity.account)
            )
            self._front.send({"op": "account_counts", "counts": counts})

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _least(one: int, other: int) -> int:
    """The lesser of two limits, of which a negative one is none."""
    if one < 0:
        return other
    return one if other < 0 else min(one, other)


# ---- records as the engine takes them ----

NativeMapping = tuple[bytes, list[tuple[int, Transform]]]
NativeImport = tuple[bool, bytes, bytes, bytes, Transform | None, Transform | None, int, int, int, bytes, int]
# What is told of who asks (hot/person.pxd)
_TELL_ACCOUNT, _TELL_SERVER, _TELL_ALL = 0, 1, 2
_RESPONSE_TYPES = {"singleton": 0, "stream": 1, "chunked": 2}


def _native_mapping(mapping: Mapping) -> NativeMapping:
    """Destinations by weight, with the source itself for what is missing to 100 (accounts.go AddWeightedMappings)."""
    source = mapping.source
    shares = [(one.weight, one.destination) for one in mapping.destinations if not one.cluster]
    total = sum(weight for weight, _ in shares)
    if total < 100 and all(one.destination != source for one in mapping.destinations):
        shares.append((100 - total, tokenize(source)))
    below, rows = 0, []
    for weight, destination in shares:
        below += weight
        if weight:
            rows.append((below, Transform(source, tokenize(source) if destination == source else destination)))
    return _bytes(source), rows


def _export_of(made: Import, exporter: Account | None) -> Export | None:
    return find_export(exporter, made.kind, made.subject) if exporter is not None else None


def _parts(made: Import, exporter: Account | None) -> tuple[Import, Export | None]:
    """All that an import depends on."""
    return made, _export_of(made, exporter)


def _native_import(made: Import, exporter: Account | None, system: str) -> NativeImport:
    local = untokenize(made.to)[0]
    to_local = to_remote = None
    if made.to != made.subject:
        if made.kind == "service":
            to_remote = Transform(made.subject, tokenize(made.to), strict=True).reverse()
        else:
            to_local = Transform(made.subject, tokenize(made.to), strict=True)
            to_remote = to_local.reverse()
    export = _export_of(made, exporter) if made.kind == "service" else None
    latency = export.latency if export is not None else None
    return (
        made.kind == "service",
        made.account.encode(),
        _bytes(local),
        _bytes(made.subject),
        to_local,
        to_remote,
        _RESPONSE_TYPES[export.response_type] if export is not None else 0,
        round((export.response_seconds if export is not None else SERVICE_RESPONSE_SECONDS) * 1e9),
        _TELL_ALL if made.share else _TELL_SERVER if made.account == system else _TELL_ACCOUNT,
        _bytes(latency.subject) if latency is not None else b"",
        latency.sampling if latency is not None else 0,
    )


def _bytes(subject: str) -> bytes:
    return subject.encode("utf-8", "surrogateescape")
