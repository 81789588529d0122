"""From a CONNECT to an Identity: what auth/ decides at once, and what has to wait meanwhile.

    begin(login) --Gate--> Identity or Refusal        at once: nearly always
                    `----> None, and later settle()   a password hash, an address that has failed too often, an account to ask for

The connection is paused until then, and its auth_timeout runs on. Home shard only, in its loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from shardbroker.auth.gate import ANYBODY, Answer, Gate, Identity, Login, PasswordHash, Refusal
from shardbroker.clock import Clock
from shardbroker.options import Options
from shardbroker.shard.passwords import Passwords
from shardbroker.shard.throttle import Throttle

if TYPE_CHECKING:
    from shardbroker.auth.trust import AccountBook, OperatorGate
    from shardbroker.shard.callout import Callout
    from shardbroker.shard.fetching import AccountFetches, Front, Logger
    from shardbroker.shard.operator_callout import OperatorCallout

Settle = Callable[[Identity | Refusal], None]


class Logins:
    """The logins of one shard."""

    def __init__(self, options: Options, clock: Clock, log: Logger, front: Front | None = None) -> None:
        # Whole life
        self._clock = clock
        self._log = log
        self._front = front
        self.on_account: Callable[[str], None] = lambda name: None  # one has been asked for and was not known before
        self._passwords = Passwords()
        self._throttle = Throttle()
        self._changes: object = None  # of the operator's accounts, as last seen
        # Changed by a reload
        self.callout: Callout | OperatorCallout | None = None  # set by whoever has what it needs
        self.operator: OperatorGate | None = None
        self.fetches: AccountFetches | None = None  # if accounts are asked for over HTTP
        self.apply(options)
        # Under way; kept here because the loop keeps no tasks
        self._tasks: set[asyncio.Task[None]] = set()

    def apply(self, options: Options) -> None:
        self.gate = Gate(options)
        self._websocket_gate = Gate(options.of_websocket())
        before, self.operator = self.accounts, None
        if self.fetches is not None:
            self.fetches.close()
            self.fetches = None
        mode = options.operator_mode
        if mode is not None:
            # Large, and only for who has operators.
            from shardbroker.auth.trust import AccountBook, OperatorGate

            book = AccountBook(mode)
            self.operator = OperatorGate(mode, book, options.system_account)
            if mode.resolver is not None and mode.resolver.kind == "url":
                self._ask_for_accounts(book, before, mode.default_sentinel)

    def _ask_for_accounts(self, book: AccountBook, before: AccountBook | None, sentinel: str) -> None:
        from shardbroker.auth.remote import UrlStore
        from shardbroker.shard.fetching import AccountFetches

        assert isinstance(book.store, UrlStore)
        self.fetches = AccountFetches(
            book, book.store, sentinel, self._clock, self._log, lambda name: self.on_account(name), self._front
        )
        if before is not None and isinstance(before.store, UrlStore):
            book.store.inherit(before.store)
            self.fetches.refresh()

    @property
    def accounts(self) -> AccountBook | None:
        """The accounts of the operator, if there is one."""
        return self.operator.accounts if self.operator is not None else None

    def gate_of(self, connection_type: str) -> Gate:
        """The rules for connections of a type, when there is no operator."""
        return self._websocket_gate if connection_type == "WEBSOCKET" else self.gate

    def required(self, login: Login) -> bool:
        """Whether a client like this is asked who it is."""
        return self.operator is not None or self.gate_of(login.connection_type).required

    def unasked(self, connection_type: str) -> Identity | None:
        """Who every client of a type is, whatever it says; None: it depends on what it says."""
        if self.operator is not None or self.callout is not None or self.gate_of(connection_type).required:
            return None
        return ANYBODY

    def check(self, login: Login) -> Answer:
        """What can be said at once."""
        if self.operator is not None:
            return self.operator.check(login, self._clock.time_ns() / 1e9)
        return self.gate_of(login.connection_type).check(login)

    def still(self, identity: Identity, *, accounts_only: bool) -> Answer | None:
        """Who a client is under other rules; None: it has to log in again to tell.

        `accounts_only`: no reload, but the accounts of an operator have changed.
        """
        if self.operator is not None and identity.bearer is not None:
            found = self.operator.still(identity, self._clock.time_ns() / 1e9)
            return self.callout.guarded(found) if self.callout is not None and isinstance(found, Identity) else found
        if identity.expires and identity.expires <= self._clock.time_ns() / 1e9:
            return Refusal("User JWT no longer valid", "User Authentication Expired")
        return identity if accounts_only else self.gate.same(identity)

    def accounts_changed(self) -> bool:
        """Whether accounts of the operator have changed since this was asked last."""
        if self.operator is None:
            return False
        before, self._changes = self._changes, self.operator.accounts.store.changes()
        return before != self._changes

    def begin(
        self, login: Login, wanted: Callable[[], bool], settle: Settle, about: Callable[[], dict[str, Any]]
    ) -> Identity | Refusal | None:
        """The answer, or None: then `settle` gets it later, unless `wanted` says that the client has gone.

        `about()`: what a callout is told of it beside its login (callout.py).
        """
        callout = self.callout

        def done(answer: Identity | Refusal) -> None:
            if callout is not None and callout.wanted(login, answer):
                self._start(self._ask(callout, login, about(), answer, wanted, settle))
            else:
                settle(self._counted(login, answer))

        if not self.required(login):
            answer = self.check(login)
        else:
            wait = self._throttle.wait(login.peer or login.ip, self._now())
            if wait > 0 or (self.fetches is not None and self.fetches.lacking(login)):
                self._start(self._later(login, wait, wanted, done))
                return None
            answer = self.check(login)
        if isinstance(answer, PasswordHash):
            self._start(self._compare(login, answer, wanted, done))
            return None
        if callout is not None and callout.wanted(login, answer):
            self._start(self._ask(callout, login, about(), answer, wanted, settle))
            return None
        return self._counted(login, answer)

    async def _ask(
        self,
        callout: Callout | OperatorCallout,
        login: Login,
        client: dict[str, Any],
        before: Identity | Refusal,
        wanted: Callable[[], bool],
        settle: Settle,
    ) -> None:
        answer = await callout.decide(login, client, before)
        if wanted():
            settle(self._counted(login, answer))

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._passwords.close()
        if self.fetches is not None:
            self.fetches.close()

    async def _later(self, login: Login, wait: float, wanted: Callable[[], bool], settle: Settle) -> None:
        await asyncio.sleep(wait)
        # A reload may change whom to ask.
        while wanted() and (fetches := self.fetches) is not None and (account := fetches.lacking(login)):
            await fetches.complete(account)
        if not wanted():
            return
        answer = self.check(login)
        if isinstance(answer, PasswordHash):
            await self._compare(login, answer, wanted, settle)
        else:
            settle(answer)

    async def _compare(
        self, login: Login, question: PasswordHash, wanted: Callable[[], bool], settle: Settle
    ) -> None:
        gate = self.gate
        matches = await self._passwords.matches(question.hash, question.password, wanted)
        if not wanted():
            return
        if gate is not self.gate:
            # A reload came between: the answer was to an old question.
            answer = self.check(login)
            if answer != question:
                if isinstance(answer, PasswordHash):
                    await self._compare(login, answer, wanted, settle)
                else:
                    settle(answer)
                return
        settle(question.identity if matches else Refusal("wrong password"))

    def _counted(self, login: Login, answer: Identity | Refusal) -> Identity | Refusal:
        if isinstance(answer, Identity) and answer.delegated:
            # Its token alone must not do.
            answer = Refusal("Account delegates its users to an auth callout")
        if isinstance(answer, Refusal):
            self._throttle.failed(login.peer or login.ip, self._now())
        elif self.callout is not None:
            return self.callout.guarded(answer)
        return answer

    def _now(self) -> float:
        return self._clock.monotonic_ns() / 1e9

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
