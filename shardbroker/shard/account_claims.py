"""Requests about account JWTs in the system account: push, list, look up, pack, delete (as `nsc push` and its like send).

    $SYS.REQ.CLAIMS.UPDATE             a JWT                        {"server", "data": {"account", "code", "message"}}
    $SYS.REQ.ACCOUNT.<key>.CLAIMS.UPDATE, $SYS.ACCOUNT.<key>.CLAIMS.UPDATE        the same, for one account
    $SYS.REQ.CLAIMS.LIST               -                            {"server", "data": [keys]}
    $SYS.REQ.CLAIMS.DELETE             a JWT of the operator        as for UPDATE
    $SYS.REQ.CLAIMS.PACK               a hash                       KEY|JWT, one a message, then an empty one
    $SYS.REQ.ACCOUNT.<key>.CLAIMS.LOOKUP    -                       the JWT

A JWT is stored only if someone trusted has signed it, and is answered when it counts on all shards: a user that it revokes is
cut by then. (A file that somebody else changes in the directory counts within a second.) Source: nats-server's accounts.go
DirAccResolver.Start, handleListRequest, handleDeleteRequest, respondToUpdate; dirstore.go Hash; events.go accountClaimUpdate.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from shardbroker.auth import nkey
from shardbroker.auth.jwt import JwtError, decode, get
from shardbroker.auth.resolver import DirectoryStore, ResolverError
from shardbroker.auth.trust import AccountBook
from shardbroker.shard.internal import InternalClients, Request

if TYPE_CHECKING:
    from shardbroker.shard.fetching import AccountFetches


class Logger(Protocol):
    def error(self, text: str, /) -> None: ...
    def debug(self, text: str, /) -> None: ...


class _Service:
    """Requests of the system account that are answered as those about JWTs are.

    `on_change()`: look here at what has changed; `tell()`: have the other shards do so, and wait until they have.
    """

    def __init__(
        self,
        services: InternalClients,
        system_account: str,
        server: Callable[[], dict[str, Any]],
        log: Logger,
        on_change: Callable[[], None],
        tell: Callable[[], Awaitable[None]],
    ) -> None:
        self._services = services
        self._system = system_account
        self._server = server
        self._log = log
        self._on_change = on_change
        self._tell = tell
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends: list[Callable[[], None]] = []

    def _serve(self, handlers: Mapping[str, Callable[[Request], None]]) -> None:
        for subject, handler in handlers.items():
            self._ends.append(self._services.serve(self._system, subject, handler))

    def stop(self) -> None:
        for end in self._ends:
            end()
        self._ends.clear()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- answers --

    async def _changed(self) -> None:
        self._on_change()
        await self._tell()

    async def _accept_changed(self, request: Request, account: str, message: str) -> None:
        """Yes, when what has changed counts everywhere."""
        await self._changed()
        self._accept(request, account, message)

    def _accept(self, request: Request, account: str, message: str) -> None:
        self._log.debug(f"{message} - {account}" if account else message)
        named = {"account": account} if account else {}
        self._reply(request, {"data": {**named, "code": 200, "message": message}})

    def _refuse(self, request: Request, account: str, message: str, why: str) -> None:
        self._log.error(f"{message} - {account} - {why}" if account else f"{message} - {why}")
        named = {"account": account} if account else {}
        self._reply(request, {"error": {**named, "code": 500, "description": f"{message} - {why}"}})

    def _reply(self, request: Request, body: dict[str, Any]) -> None:
        self._services.answer(request, orjson.dumps({"server": self._server(), **body}))


class AccountClaimsService(_Service):
    """The requests of one broker with a directory; on one shard only."""

    def __init__(
        self,
        services: InternalClients,
        book: AccountBook,
        store: DirectoryStore,
        system_account: str,
        server: Callable[[], dict[str, Any]],
        log: Logger,
        on_change: Callable[[], None],
        tell: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(services, system_account, server, log, on_change, tell)
        self._book = book
        self._store = store

    def start(self) -> None:
        self._serve(
            {
                "$SYS.REQ.CLAIMS.UPDATE": self._update,
                "$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE": self._update_one,
                "$SYS.ACCOUNT.*.CLAIMS.UPDATE": self._update_one,
                "$SYS.REQ.CLAIMS.LIST": self._list,
                "$SYS.REQ.CLAIMS.DELETE": self._delete,
                "$SYS.REQ.CLAIMS.PACK": self._pack,
                "$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP": self._look_up,
            }
        )

    # -- requests --

    def _update(self, request: Request) -> None:
        self._store_token(request, "")

    def _update_one(self, request: Request) -> None:
        self._store_token(request, _named(request))

    def _store_token(self, request: Request, named: str) -> None:
        token = request.payload.decode("ascii", "replace").strip()
        account = named or "n/a"
        try:
            claims = self._book.verify(token)
            account = claims.account.name
            if named and account != named:
                raise JwtError("subject does not match jwt content")
            self._store.save(account, token)
        except (JwtError, ResolverError) as error:
            self._refuse(request, account, "jwt update resulted in error", str(error))
            return
        self._start(self._accept_changed(request, account, "jwt updated"))

    def _list(self, request: Request) -> None:
        self._reply(request, {"data": sorted(self._store.keys())})

    def _look_up(self, request: Request) -> None:
        key = request.subject.split(".")[3]
        self._services.answer(request, (self._store.load(key) or "").encode())

    def _pack(self, request: Request) -> None:
        tokens = {key: self._store.load(key) or "" for key in sorted(self._store.keys())}
        if request.payload != pack_hash(tokens):
            for key, token in tokens.items():
                self._services.answer(request, f"{key}|{token}".encode())
        self._services.answer(request, b"")

    def _delete(self, request: Request) -> None:
        """Only an operator, or one of its signing keys, may, by a JWT about itself (handleDeleteRequest)."""
        try:
            claims = decode(request.payload.decode("ascii", "replace").strip(), "generic")
            if claims.subject != claims.issuer:
                raise JwtError("not self signed")
            if claims.issuer not in self._book.trusted:
                raise JwtError("not trusted")
            names = get(claims.nats, "accounts", list)
            if not names or not all(
                isinstance(name, str) and nkey.is_public(name, "account") for name in names
            ):
                raise JwtError("malformed request")
            if self._system in names:
                raise JwtError("not allowed to delete system account")
        except JwtError as error:
            self._refuse(request, "", "delete accounts request failed", str(error))
            return
        errors = []
        for name in names:
            try:
                self._store.delete(name)
            except ResolverError as error:
                errors.append(str(error))
        done = len(names) - len(errors)
        if errors:
            self._start(self._changed())
            self._refuse(request, "", f"deleted {done} accounts, failed for {len(errors)}", "; ".join(errors))
        else:
            self._start(self._accept_changed(request, "", f"deleted {done} accounts"))


class FetchedClaimsService(_Service):
    """Where a web server has the accounts, a newer JWT of one that is known here; on one shard, which tells the others."""

    def __init__(
        self,
        services: InternalClients,
        fetches: AccountFetches,
        system_account: str,
        server: Callable[[], dict[str, Any]],
        log: Logger,
        on_change: Callable[[], None],
        tell: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(services, system_account, server, log, on_change, tell)
        self._fetches = fetches

    def start(self) -> None:
        self._serve({"$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE": self._update, "$SYS.ACCOUNT.*.CLAIMS.UPDATE": self._update})

    def _update(self, request: Request) -> None:
        self._start(self._take(request))

    async def _take(self, request: Request) -> None:
        account = _named(request)
        try:
            known = await self._fetches.update(account, request.payload.decode("ascii", "replace").strip())
        except JwtError as error:
            self._refuse(request, account, "jwt update resulted in error", str(error))
            return
        await self._accept_changed(request, account, "jwt updated" if known else "jwt update skipped")


def _named(request: Request) -> str:
    """The account in the subject of a request about one."""
    tokens = request.subject.split(".")
    return tokens[3] if tokens[1] == "REQ" else tokens[2]


def pack_hash(tokens: dict[str, str]) -> bytes:
    """The hash of a store that PACK compares: of each JWT's SHA-256, all of them exclusive-or'd (dirstore.go)."""
    total = 0
    for token in tokens.values():
        total ^= int.from_bytes(hashlib.sha256(token.encode()).digest(), "big")
    return total.to_bytes(32, "big")
