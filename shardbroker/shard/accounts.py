"""The accounts as a shard's control side knows them: who is let in where, and with what limits.

    admit(identity) -> at once, or when the front has said that the account has room        (max_connections)
    enter(slot, client id, identity)     the engine is told the account, the permissions, the limits
    left(identity)                       a connection has gone

Connections of an account with a limit are counted by the front, since they may be on any shard (front/tenants.py). Source of
the rules: client.go applyAccountLimits, registerWithAccount. Home shard only, in its loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Protocol

from shardbroker.auth.gate import Identity
from shardbroker.auth.model import Account, AccountLimits
from shardbroker.hot.engine import Engine
from shardbroker.ipc.channel import ChannelClosed, Message
from shardbroker.options import Options

_NO_LIMITS = AccountLimits()


class Front(Protocol):
    """The channel to the front."""

    def send(self, message: Message, /) -> None: ...
    async def request(self, message: Message, /) -> Message: ...


class Accounts:
    """All accounts of this broker."""

    def __init__(self, engine: Engine, options: Options, front: Front | None) -> None:
        # Whole life
        self._engine = engine
        self._front = front
        # Changed by a reload
        self._by_name: dict[str, Account] = {}
        self._book: Mapping[str, Account] | None = None
        # Questions to the front; kept here because the loop keeps no tasks
        self._tasks: set[asyncio.Task[None]] = set()
        self.apply(options)

    def apply(self, options: Options) -> None:
        """Other records; connections that are in keep theirs until they are entered again."""
        self._by_name = {account.name: account for account in options.accounts}

    def watch(self, book: Mapping[str, Account] | None) -> None:
        """Where accounts are looked up that the configuration does not have: those of an operator."""
        self._book = book

    def record(self, account: str) -> Account | None:
        """What is known of an account; None: nothing, it has no limits and gives and takes nothing."""
        return self._by_name.get(account) or (self._book.get(account) if self._book is not None else None)

    def limits(self, account: str) -> AccountLimits:
        record = self.record(account)
        return record.limits if record is not None else _NO_LIMITS

    def admit(self, identity: Identity, wanted: Callable[[], bool], settle: Callable[[bool], None]) -> bool | None:
        """Whether the account has room for one more; None: `settle` gets the answer later, unless `wanted` says that the
        client has gone."""
        limit = self.limits(identity.account).max_connections
        if limit < 0 or self._front is None:
            return True
        self._start(self._ask(identity.account, limit, wanted, settle))
        return None

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
        if self._front is not None and self.limits(identity.account).max_connections >= 0:
            self._front.send({"op": "account_leave", "account": identity.account})

    def recount(self, identities: Iterable[Identity]) -> None:
        """After a reload: accounts may have a limit that had none."""
        if self._front is not None:
            counts = Counter(
                identity.account for identity in identities if self.limits(identity.account).max_connections >= 0
            )
            self._front.send({"op": "account_counts", "counts": counts})

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _least(*values: int) -> int:
    """The least of those that are limits; -1: none is."""
    return min((value for value in values if value >= 0), default=-1)
