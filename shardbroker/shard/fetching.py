"""Ask a web server for the accounts of those who log in (resolver: URL(...)), while their connections wait.

    lacking(login) --"": all is known--> the login is decided at once
          `--account--> complete(account): it, and those that its imports name, in threads; then the login is decided

What one shard has got the others are told (`learn`), by way of the front. An account is asked for once at a time and at most once
a second. Source of the rules: server.go lookupOrFetchAccount, updateAccount; events.go accountClaimUpdate. Home shard only, in
its loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

from shardbroker.auth.claims import user_claims
from shardbroker.auth.gate import Login
from shardbroker.auth.jwt import JwtError
from shardbroker.auth.remote import AccountAbsent, UrlStore
from shardbroker.auth.resolver import ResolverError
from shardbroker.auth.trust import AccountBook
from shardbroker.clock import Clock
from shardbroker.ipc.channel import ChannelClosed, Message

THREADS: Final = 4
# server.go updateAccount: one is not asked for again sooner.
AGAIN_SECONDS: Final = 1.0
# What imports of imports may lead to, for one login.
ACCOUNTS_MAX: Final = 256
# Accounts of which it is remembered when they were asked for; of those beyond, the oldest are forgotten.
ASKED_MAX: Final = 4096
SLOW_SECONDS: Final = 1.0
_NS: Final = 1e9


class Logger(Protocol):
    def debug(self, text: str, /) -> None: ...
    def warning(self, text: str, /) -> None: ...


class Front(Protocol):
    """The channel to the front."""

    async def request(self, message: Message, /) -> Message: ...


class AccountFetches:
    """The questions of one shard. `sentinel`: the JWT of who shows none; `on_known(account)`: one that was not known before."""

    def __init__(
        self,
        book: AccountBook,
        store: UrlStore,
        sentinel: str,
        clock: Clock,
        log: Logger,
        on_known: Callable[[str], None],
        front: Front | None,
    ) -> None:
        self._book = book
        self._store = store
        self._sentinel = sentinel
        self._clock = clock
        self._log = log
        self._on_known = on_known
        self._front = front
        self._executor: ThreadPoolExecutor | None = None
        self._asked: dict[str, float] = {}  # account -> seconds of the monotonic clock
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._warned = -AGAIN_SECONDS
        self._again: asyncio.Task[None] | None = None

    def lacking(self, login: Login) -> str:
        """The account that has to be asked for, or has imports from such, before this login can be decided; empty: none."""
        try:
            account = user_claims(login.jwt or self._sentinel).account if login.jwt or self._sentinel else ""
        except JwtError:
            return ""
        return account if account and any(map(self._due, self._named(account))) else ""

    async def complete(self, account: str) -> None:
        """Ask for an account and for those that it imports from, as far as they are not known."""
        asked: set[str] = set()
        while due := [name for name in self._named(account) if name not in asked and self._due(name)]:
            asked.update(due)
            await self._fetch_all(due)

    def refresh(self, *more: str) -> None:
        """Ask for all that are known, since a reload may mean that they have changed, and for others."""
        if self._again is not None:
            self._again.cancel()
        self._again = asyncio.get_running_loop().create_task(self._fetch_all([*self._store.keys(), *more]))

    async def update(self, name: str, token: str) -> bool:
        """Somebody has sent a JWT of an account. Whether it is one that is known here. Raises JwtError."""
        self._book.verify(token, name)
        if self._store.load(name) is None:
            return False
        self._store.keep(name, token, late=False)
        await self._share(name, token)
        return True

    def learn(self, query: dict[str, Any]) -> dict[str, Any]:
        """What another shard has got: `name`, and `token` or null."""
        name, token = query["name"], query["token"]
        if token is None:
            self._store.drop(name)
        else:
            with contextlib.suppress(JwtError):
                self._keep(name, token)
        return {}

    def close(self) -> None:
        for task in (*self._under_way.values(), self._again):
            if task is not None:
                task.cancel()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def _named(self, account: str) -> list[str]:
        """An account, and all that it imports from, directly or by way of others."""
        found = [account]
        seen = {account}
        for name in found:
            claims = self._book.claims(name)
            for made in claims.account.imports if claims is not None else ():
                if made.account not in seen and len(seen) < ACCOUNTS_MAX:
                    seen.add(made.account)
                    found.append(made.account)
        return found

    def _due(self, name: str) -> bool:
        if name in self._under_way:
            return True
        if self._book.claims(name, self._clock.time_ns() / _NS) is not None:
            return False
        return self._now() - self._asked.get(name, -AGAIN_SECONDS) >= AGAIN_SECONDS

    async def _fetch_all(self, names: Iterable[str]) -> None:
        await asyncio.gather(*(asyncio.shield(self._begin(name)) for name in names), return_exceptions=True)

    def _begin(self, name: str) -> asyncio.Task[None]:
        task = self._under_way.get(name)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._fetch(name))
            self._under_way[name] = task
            task.add_done_callback(lambda _: self._under_way.pop(name, None))
        return task

    async def _fetch(self, name: str) -> None:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(THREADS, "accounts")
        began = self._now()
        try:
            token = await asyncio.get_running_loop().run_in_executor(self._executor, self._store.source.get, name)
            if self._keep(name, token):
                await self._share(name, token)
        except AccountAbsent as error:
            # Whoever makes up accounts must not fill the log.
            self._log.debug(f"Account fetch failed: {error}")
            if self._store.load(name) is not None:
                self._store.drop(name)
                await self._share(name, None)
        except (ResolverError, JwtError) as error:
            self._failed(str(error))
        took = self._now() - began
        if took > SLOW_SECONDS:
            self._log.warning(f"Account [{name}] fetch took {took:.3f}s")
        else:
            self._log.debug(f"Account [{name}] fetch took {took:.3f}s")
        self._asked.pop(name, None)
        if len(self._asked) >= ASKED_MAX:
            del self._asked[next(iter(self._asked))]
        self._asked[name] = self._now()

    def _keep(self, name: str, token: str) -> bool:
        """Take a JWT in; whether it is another than before. Raises JwtError."""
        self._book.verify(token, name)
        before = self._store.load(name)
        self._store.keep(name, token, late=name in self._asked)
        if before is None:
            self._on_known(name)
        return before != token

    async def _share(self, name: str, token: str | None) -> None:
        """Give it to the other shards, and wait until they have it: the next message of who logs in may be for them."""
        if self._front is not None:
            with contextlib.suppress(ChannelClosed):
                await self._front.request({"op": "system_fetched", "query": {"name": name, "token": token}})

    def _failed(self, why: str) -> None:
        if self._now() - self._warned >= AGAIN_SECONDS:
            self._warned = self._now()
            self._log.warning(f"Account fetch failed: {why}")

    def _now(self) -> float:
        return self._clock.monotonic_ns() / _NS
