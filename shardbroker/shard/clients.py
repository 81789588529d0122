"""The connections of a shard as its control side knows them: who they are, what they said, why they ended.

The data path (Engine) owns sockets, subscriptions and counters; here is one small record for each, the answer to CONNECT,
the lines that go to the log, and the list of those that have closed. An idle connection costs under 400 bytes here.
Home shard only.
"""

from __future__ import annotations

import asyncio
import base64
import os
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from shardbroker import errors
from shardbroker.auth.gate import ANYBODY, Identity, Login, Refusal
from shardbroker.auth.model import Permissions
from shardbroker.clock import Clock
from shardbroker.errors import ClientError, CloseReason, ConfigError
from shardbroker.hot.engine import EVENTS, Engine
from shardbroker.options import Options
from shardbroker.shard.accounts import Accounts, Front
from shardbroker.shard.closed import ClosedConnections
from shardbroker.shard.connect import DEFAULTS, ConnectError, ConnectOptions, parse_connect
from shardbroker.shard.logins import Logins
from shardbroker.shard.report import ConnectionRow
from shardbroker.wire.redact import redact

if TYPE_CHECKING:
    from shardbroker.auth.trust import AccountBook, OperatorGate
    from shardbroker.shard.callout import Callout
    from shardbroker.shard.fetching import AccountFetches
    from shardbroker.shard.operator_callout import OperatorCallout
    from shardbroker.shard.tls import TlsState
    from shardbroker.shard.transports import Transports
    from shardbroker.shard.websocket import Upgrade

EVENT_CONNECT = EVENTS["connect"]
EVENT_CLOSED = EVENTS["closed"]
EVENT_ATTENTION = EVENTS["attention"]
EVENT_OUTPUT_END = EVENTS["output_end"]
EVENT_LOG = EVENTS["log"]
EVENT_TRACE = EVENTS["trace"]
EVENT_SNAPSHOTS_COMPLETE = EVENTS["snapshots_complete"]
LEVEL_ERROR, LEVEL_WARNING, LEVEL_NOTICE, LEVEL_DEBUG = 1, 2, 3, 4
TRACE_IN, TRACE_OUT, TRACE_PAYLOAD_IN, TRACE_PAYLOAD_OUT = 0, 1, 2, 3

SLOW_CONSUMERS = (CloseReason.SLOW_CONSUMER_PENDING_BYTES, CloseReason.SLOW_CONSUMER_WRITE_DEADLINE)

# What a nonce is made of; base64url makes 15 characters of it (nkey.go).
NONCE_BYTES = 11
# Clients of one kind say the same words: their records share one ConnectOptions. Long ones are not kept.
CACHED_CONNECTS_MAX = 256
CACHED_CONNECT_BYTES = 512
# Ends that are in the log without debug; see _log_closed.
_TOLD_REASONS = frozenset(
    {
        CloseReason.SLOW_CONSUMER_PENDING_BYTES,
        CloseReason.SLOW_CONSUMER_WRITE_DEADLINE,
        CloseReason.MAX_PAYLOAD_EXCEEDED,
        CloseReason.MAX_CONTROL_LINE_EXCEEDED,
        CloseReason.RING_OVERFLOW,
    }
)


class Logger(Protocol):
    def error(self, text: str, /) -> None: ...
    def warning(self, text: str, /) -> None: ...
    def notice(self, text: str, /) -> None: ...
    def debug(self, text: str, /) -> None: ...
    def trace(self, text: str, /) -> None: ...


class InfoSource(Protocol):
    """Makes INFO lines."""

    fields: dict[str, Any]

    def line(self, client_id: int, client_ip: str, nonce: bytes = b"", kind: str = "client") -> bytes: ...
    def connect_line(
        self,
        client_id: int,
        client_ip: str,
        nonce: bytes,
        account: str,
        is_system: bool,
        kind: str = "client",
    ) -> bytes: ...


@dataclass(slots=True)
class Facts:
    """Of a connection whose bytes are transformed: the kind of its listener, and what came of its handshakes."""

    kind: str
    tls: TlsState | None = None
    upgrade: Upgrade | None = None
    peer: str = ""  # the address of who has upgraded, where it has named another


class Client:
    """What is known of one connection beyond its socket and counters."""

    __slots__ = ("client_id", "identity", "ip", "nonce", "options", "port", "start_ns", "transport")

    def __init__(self, client_id: int, ip: str, port: int, start_ns: int, nonce: bytes = b"") -> None:
        self.client_id = client_id
        self.ip = ip
        self.port = port
        self.start_ns = start_ns  # since 1970
        self.nonce = nonce  # what its INFO asked it to sign
        self.options: ConnectOptions | None = None  # None before CONNECT
        self.identity: Identity | None = None  # None before it is in
        self.transport: Facts | None = None  # None where NATS comes as it is

    def __str__(self) -> str:
        """How log lines name it (client.go String)."""
        host = f"[{self.ip}]" if ":" in self.ip else self.ip
        text = f"{host}:{self.port} - cid:{self.client_id}"
        options = self.options
        if options is None:
            return text
        said = [f"v{options.version}" if options.version else "", options.lang, options.name]
        if any(said):
            text += f" - {_quoted(':'.join(filter(None, said)))}"
        if self.identity is not None and self.identity.kind:
            text += f" - {_quoted(self.identity.label)}"
        return text

    @property
    def user(self) -> str:
        """As /connz shows it with auth=1 (client.go getRawAuthUser)."""
        if self.identity is not None and self.identity.kind:
            return self.identity.name or "[REDACTED]"
        if self.options is None:
            return ""
        return self.options.nkey or self.options.user or ("[REDACTED]" if self.options.auth_token else "")

    @property
    def account(self) -> str:
        """The account it is in; before it is in, the global one."""
        return (self.identity or ANYBODY).account

    @property
    def kind(self) -> str:
        """Of the listener that it came to: client or websocket."""
        return self.transport.kind if self.transport is not None else "client"

    @property
    def connection_type(self) -> str:
        """The same in the words of allowed_connection_types."""
        return "WEBSOCKET" if self.kind == "websocket" else "STANDARD"

    def with_cookies(self, options: ConnectOptions) -> ConnectOptions:
        """What a WebSocket client's cookies say where its CONNECT says nothing (client.go processConnect)."""
        upgrade = self.transport.upgrade if self.transport is not None else None
        if upgrade is None:
            return options
        return replace(
            options,
            jwt=options.jwt or upgrade.jwt,
            user=options.user or upgrade.user,
            password=options.password or upgrade.password,
            auth_token=options.auth_token or upgrade.token,
        )

    def more(self) -> dict[str, Any]:
        """What only some have of what /connz shows, by its name there; no secrets."""
        more: dict[str, Any] = {}
        if self.transport is not None:
            if self.kind == "websocket":
                more["type"] = "websocket"
            tls = self.transport.tls
            if tls is not None:
                more["tls_version"] = tls.version.removeprefix("TLSv")
                more["tls_cipher_suite"] = tls.suite
                if tls.first:
                    more["tls_first"] = True
        identity = self.identity
        if identity is not None:
            # client.go issuerForClient
            if identity.bearer is not None:
                more["issuer_key"] = identity.bearer.issuer
            elif identity.kind == "nkey":
                more["issuer_key"] = identity.account
            if identity.tags:
                more["tags"] = list(identity.tags)
        return more

    def about(self) -> dict[str, Any]:
        """What a callout is told of it beside its login."""
        said = self.options or DEFAULTS
        tls = self.transport.tls if self.transport is not None else None
        return {
            "id": self.client_id, "name": said.name, "lang": said.lang, "version": said.version, "protocol": said.protocol,
            "tls": None if tls is None else tls.for_callout(),
        }  # fmt: skip

    def login(self) -> Login:
        """What it has said to come in."""
        said = self.options or DEFAULTS
        return Login(
            said.user,
            said.password,
            said.auth_token,
            said.nkey,
            said.jwt,
            said.sig,
            self.nonce,
            self.ip,
            self.connection_type,
            self.transport.tls.names if self.transport is not None and self.transport.tls is not None else (),
            self.transport.peer if self.transport is not None else "",
        )


class Watcher(Protocol):
    """Is told who comes and goes (shard/system.py)."""

    def entered(self, slot: int, client_id: int, account: str, /) -> None: ...
    def left(
        self, describe: Callable[[], dict[str, Any]], account: str, counts: tuple[int, int, int, int], reason: int, /
    ) -> None: ...
    def refused(self, described: dict[str, Any], account: str, reason: int, /) -> None: ...


class Clients:
    """All connections of this shard, and the handler of the engine's events."""

    def __init__(
        self,
        engine: Engine,
        options: Options,
        info: InfoSource,
        log: Logger,
        clock: Clock,
        *,
        closed_max: int,
        on_ready: Callable[[], None],
        front: Front | None = None,
        shards: int = 1,
    ) -> None:
        # Whole life
        self._engine = engine
        self._shards = shards
        self._log = log
        self._clock = clock
        self._on_ready = on_ready
        # Events of what rides on the engine (stream/): whether they were its own
        self.watcher: Watcher | None = None
        self.on_other: Callable[[tuple[Any, ...]], bool] | None = None
        # Told when accounts of an operator have other claims
        self.on_accounts: Callable[[], None] | None = None
        # Changed by a reload
        self._info = info
        self._set_options(options)
        self._logins = Logins(options, clock, log, front)
        self.accounts = Accounts(engine, options, front, clock)
        self.accounts.watch(self._logins.accounts)
        self._transports: Transports | None = None
        self._apply_transports(options)
        # Connections by slot, and those that have ended
        self._by_slot: list[Client | None] = []
        self.closed = ClosedConnections(closed_max)
        self.slow_consumers: Counter[str] = Counter()  # by account
        self._connects: dict[bytes, ConnectOptions] = {}
        self._expiries: dict[int, asyncio.TimerHandle] = {}  # by client id
        self.open_count = 0

    def _set_options(self, options: Options) -> None:
        """Keep what each connection needs of them, which may be a walk over all users."""
        self._options = options
        self._nonce_required = options.nonce_required
        websocket = options.websocket
        asked = options.auth_required
        self._auth_required = {"client": asked, "websocket": asked or bool(websocket.user or websocket.token)}

    # -- come --

    def adopt(self, descriptor: int, client_id: int, ip: str, port: int, kind: str = "client") -> None:
        """Take a connection that the front has accepted; its INFO goes out at the end of this turn. `kind`: of the
        listener that it came to, client or websocket."""
        nonce = b""
        if self._nonce_required:
            nonce = base64.urlsafe_b64encode(os.urandom(NONCE_BYTES)).rstrip(b"=")
        # Of a connection that a proxy may speak for first, the address is not known yet.
        proxied = kind == "client" and self._options.proxy_protocol
        line = self._info.line(client_id, "" if proxied else ip, nonce, kind)
        client = Client(client_id, ip, port, self._clock.time_ns(), nonce)
        required = self._auth_required[kind]
        if self._transports is None or not self._transports.wanted(kind):
            self._add(self._engine.adopt(descriptor, client_id, line, auth_required=required), client)
            return
        in_clear = self._transports.greets_in_clear(kind)
        slot = self._engine.adopt_transport(
            client_id,
            b"" if in_clear else line,
            auth_required=required,
            handshake_ns=round(self._transports.handshake_seconds(kind) * 1e9),
        )
        client.transport = Facts(kind)
        self._add(slot, client)
        self._transports.add(kind, descriptor, slot, client_id, line if in_clear else b"")

    def refuse(self, descriptor: int, client_id: int, ip: str, port: int, text: str) -> None:
        """Tell a connection why it may not stay."""
        line = self._info.line(client_id, ip)
        slot = self._engine.refuse(descriptor, client_id, line, text.encode())
        client = Client(client_id, ip, port, self._clock.time_ns())
        self._add(slot, client)
        self._log.error(f"{client} - {text}")

    # -- what the transports tell --

    def _apply_transports(self, options: Options) -> None:
        if self._transports is not None:
            self._transports.apply(options)
        elif options.tls is not None or options.websocket.port or options.proxy_protocol:
            # The libraries behind it cost memory and time to import: only who needs them has them.
            from shardbroker.shard.transports import Transports

            self._transports = Transports(self._engine, options, self, self._shards)

    async def drain_transports(self) -> None:
        """Until the last bytes of closed TLS and WebSocket connections are out."""
        if self._transports is not None:
            await self._transports.drain()

    def secured(self, slot: int, client_id: int, state: TlsState) -> None:
        """The TLS handshake of a connection is done."""
        client = self._client(slot, client_id)
        if client is not None and client.transport is not None:
            client.transport.tls = state

    def proxied(self, slot: int, client_id: int, ip: str, port: int) -> None:
        """A proxy has said whose connection it passes on."""
        client = self._client(slot, client_id)
        if client is not None:
            client.ip, client.port = ip, port

    def upgraded(self, slot: int, client_id: int, upgrade: Upgrade) -> None:
        """A WebSocket client's upgrade is done."""
        client = self._client(slot, client_id)
        if client is not None and client.transport is not None:
            client.transport.upgrade = upgrade
            if upgrade.client_ip:
                # Shown, and what a user's networks are compared with, as there. What anybody may write counts for no more.
                client.transport.peer, client.ip = client.ip, upgrade.client_ip

    def transport_failed(self, slot: int, client_id: int, text: str, *, probe: bool) -> None:
        """A connection never came to speak NATS. `probe`: as of a load balancer that looks whether we are there."""
        client = self._client(slot, client_id)
        if client is not None:
            (self._log.debug if probe else self._log.error)(f"{client} - {text}")

    def _add(self, slot: int, client: Client) -> None:
        by_slot = self._by_slot
        while len(by_slot) <= slot:
            by_slot.append(None)
        by_slot[slot] = client
        self.open_count += 1
        if self._options.debug:
            self._log.debug(f"{client} - Client connection created")

    def trim(self) -> None:
        """Forget the highest slots when nobody is in them."""
        by_slot = self._by_slot
        while by_slot and by_slot[-1] is None:
            by_slot.pop()

    # -- events of the data path --

    def on_events(self, events: list[tuple[Any, ...]]) -> None:
        """What Engine.take_events gave. A mistake in here costs one connection, not the shard."""
        for event in events:
            kind = event[0]
            try:
                if kind == EVENT_CONNECT:
                    self._on_connect(event[1], event[2], event[3])
                elif kind == EVENT_ATTENTION and self._transports is not None:
                    self._transports.attention(event[2])
                elif kind == EVENT_CLOSED:
                    self._on_closed(event[1], event[2], event[3], event[4])
                elif kind == EVENT_OUTPUT_END and self._transports is not None:
                    self._transports.ended(event[1], event[2], event[3])
                elif kind == EVENT_LOG:
                    self._on_log(event[1], event[2], event[3], event[4])
                elif kind == EVENT_TRACE:
                    self._on_trace(event[1], event[2], event[3], event[4])
                elif kind == EVENT_SNAPSHOTS_COMPLETE:
                    self._on_ready()
                elif self.on_other is not None:
                    self.on_other(event)
            except Exception:
                # Not what a client said: a CONNECT has its password.
                shown = event[:3] if kind == EVENT_CONNECT else event
                self._log.error(f"Internal error at event {shown!r:.200}: {traceback.format_exc()}")
                if kind == EVENT_CONNECT:
                    self._engine.close(event[1], event[2], CloseReason.INTERNAL_CLIENT)

    def describe(self, slot: int, client_id: int, server: str) -> dict[str, Any]:
        """A client as advisories name it (client.go ClientInfo)."""
        client = self._client(slot, client_id)
        if client is None:
            return {}
        row = self._engine.connection(slot, client_id)
        return self._described(client, row[8] if row is not None else 0) | {"server": server}

    def _described(self, client: Client, rtt_ns: int) -> dict[str, Any]:
        # Only streams ask.
        from shardbroker.stream.gojson import format_time

        options = client.options
        said: dict[str, Any] = {
            "start": format_time(client.start_ns),
            "host": client.ip,
            "id": client.client_id,
            "acc": (client.identity or ANYBODY).account,
        }
        if options is not None:
            named = {"user": client.user, "name": options.name, "lang": options.lang, "ver": options.version}
            said |= {name: value for name, value in named.items() if value}
        if rtt_ns:
            said["rtt"] = rtt_ns
        return said | {"kind": "Client", "client_type": client.more().get("type", "nats")}

    def introduce(self, slot: int, client_id: int) -> bytes:
        """What services of other accounts are told of a client whose account shares it (client.go getClientInfo), but for the
        account and the round trip: the members of a JSON object. A bearer's JWT is not told: who has it is in."""
        client = self._client(slot, client_id)
        if client is None:
            return b""
        try:
            said = self._described(client, 0)
            del said["acc"]
            more = client.more()
            said |= {key: more[key] for key in ("issuer_key", "tags") if key in more}
            record = self.accounts.record(client.account)
            if record is not None and record.tag:
                said["name_tag"] = record.tag
            bearer = client.identity.bearer if client.identity is not None else None
            if bearer is not None and not bearer.bearer:
                said["jwt"] = bearer.token
            return orjson.dumps(said | {"server": self._info.fields["server_name"]})[1:-1]
        except Exception:
            self._log.error(f"{client} - Internal error: {traceback.format_exc()}")
            return b""

    def client(self, slot: int, client_id: int) -> Client | None:
        """The client at a slot, if it is still the same."""
        return self._client(slot, client_id)

    def permissions(self, slot: int, client_id: int) -> tuple[Permissions | None, int]:
        """What a client may do, and when it must go (seconds since 1970; 0: never)."""
        client = self._client(slot, client_id)
        identity = (client.identity if client is not None else None) or ANYBODY
        return identity.permissions, identity.expires

    def kick(self, client_id: int) -> bool:
        """Close a client by its id; whether it is here."""
        for slot, client in self._each():
            if client.client_id == client_id:
                self._engine.close(slot, client_id, CloseReason.KICKED)
                return True
        return False

    def tell_lame_duck(self, client_id: int, info: InfoSource) -> bool:
        """Send one client an INFO that says that it should go elsewhere; whether it is here."""
        for slot, client in self._each():
            if client.client_id == client_id:
                if client.options is not None and client.options.protocol >= 1:
                    self._engine.send(slot, client_id, info.line(client_id, client.ip, client.nonce, client.kind))
                return True
        return False

    def _client(self, slot: int, client_id: int) -> Client | None:
        client = self._by_slot[slot] if slot < len(self._by_slot) else None
        return client if client is not None and client.client_id == client_id else None

    def _on_connect(self, slot: int, client_id: int, arg: bytes | None) -> None:
        """client.go processConnect, in its order. No argument: the client began without CONNECT."""
        client = self._client(slot, client_id)
        if client is None:
            return
        try:
            options = self._parse(arg, client.options) if arg is not None else DEFAULTS
        except ConnectError as error:
            self._log.error(f"{client} - {error}")
            self._engine.close(slot, client_id, CloseReason.PROTOCOL_VIOLATION)
            return
        first = client.options is None
        if not first:
            self._engine.drop_subscriptions(slot, client_id)
        client.options = options = client.with_cookies(options)
        self._leave(client)
        answer: Identity | Refusal | None = self._logins.unasked(client.connection_type)
        if answer is None:

            def settle(answer: Identity | Refusal) -> None:
                self._on_answer(slot, client, answer, first=first, implicit=arg is None)

            answer = self._logins.begin(
                client.login(), lambda: self._client(slot, client_id) is client, settle, client.about
            )
        if answer is not None:
            self._on_answer(slot, client, answer, first=first, implicit=arg is None)

    def _on_answer(
        self, slot: int, client: Client, answer: Identity | Refusal, *, first: bool, implicit: bool
    ) -> None:
        """The rest of processConnect, once it is known who the client is."""
        options = client.options
        assert options is not None
        if isinstance(answer, Refusal) or options.new_account or options.account:
            self._violation(slot, client, answer)
        elif not 0 <= options.protocol <= 1:
            self._refuse_connect(slot, client, errors.INVALID_CLIENT_PROTOCOL)
        elif options.no_responders and not (options.headers and self._options.headers):
            self._refuse_connect(slot, client, errors.NO_RESPONDERS_REQUIRES_HEADERS)
        elif not self.accounts.counted(answer.account):
            self._enter(slot, client, answer, options, first=first, implicit=implicit)
        else:
            identity = answer

            def settle(has_room: bool) -> None:
                if has_room:
                    self._enter(slot, client, identity, options, first=first, implicit=implicit)
                else:
                    self._refuse_connect(slot, client, errors.MAXIMUM_ACCOUNT_CONNECTIONS)

            self.accounts.admit(identity.account, lambda: self._client(slot, client.client_id) is client, settle)

    def _enter(
        self, slot: int, client: Client, identity: Identity, options: ConnectOptions, *, first: bool, implicit: bool
    ) -> None:
        """The client is in."""
        client.identity = identity
        self._expire_later(slot, client)
        if client.transport is not None and self._transports is not None:
            self._transports.trust(client.client_id)
        self.accounts.enter(slot, client.client_id, identity)
        pong_info = b""
        if first and options.protocol >= 1:
            account = identity.account
            pong_info = self._info.connect_line(
                client.client_id,
                client.ip,
                client.nonce,
                account,
                account == self._options.system_account,
                client.kind,
            )
        self._engine.connected(
            slot,
            client.client_id,
            verbose=options.verbose,
            pedantic=options.pedantic,
            echo=options.echo,
            headers=options.headers,
            no_responders=options.no_responders,
            protocol=options.protocol,
            first_pong_info=pong_info,
            implicit=implicit,
        )
        if self.watcher is not None:
            self.watcher.entered(slot, client.client_id, identity.account)

    def _leave(self, client: Client) -> None:
        """It has gone, or says anew who it is."""
        identity, client.identity = client.identity, None
        if identity is not None:
            self.accounts.left(identity)

    def _parse(self, arg: bytes, before: ConnectOptions | None) -> ConnectOptions:
        if before is not None:
            return parse_connect(arg, before)
        options = self._connects.get(arg)
        if options is None:
            options = parse_connect(arg, DEFAULTS)
            if len(arg) <= CACHED_CONNECT_BYTES:
                if len(self._connects) >= CACHED_CONNECTS_MAX:
                    self._connects.clear()
                self._connects[arg] = options
        return options

    def _expire_later(self, slot: int, client: Client) -> None:
        """Close it when what let it in is no longer valid (auth.go setExpiration)."""
        if self._expiries and (timer := self._expiries.pop(client.client_id, None)):
            timer.cancel()
        identity = client.identity
        if identity is None or not identity.expires:
            return
        left = identity.expires - self._clock.time_ns() / 1e9

        def expire() -> None:
            self._expiries.pop(client.client_id, None)
            if self._client(slot, client.client_id) is client and client.identity is not None:
                # The account may have got another date meanwhile, and sets the timer anew.
                self._check_again(slot, client, client.identity, accounts_only=True)

        self._expiries[client.client_id] = asyncio.get_running_loop().call_later(max(left, 0.0), expire)

    def _violation(self, slot: int, client: Client, answer: Identity | Refusal) -> None:
        if isinstance(answer, Refusal) and self._options.debug:
            self._log.debug(f"{client} - {answer.reason}")
        self._log.error(f"{client} - authentication error{_who(client.options)}")
        if self.watcher is not None:
            self.watcher.refused(self._described(client, 0), client.account, CloseReason.AUTHENTICATION_VIOLATION)
        self._send_error(slot, client, errors.AUTHORIZATION_VIOLATION)

    def _expel(self, slot: int, client: Client, answer: Refusal) -> None:
        """Close one that was in, in the words for it."""
        error = errors.EXPULSIONS.get(answer.error)
        if error is None:
            self._violation(slot, client, answer)
            return
        self._log.error(f"{client} - {error.text}")
        self._send_error(slot, client, error)

    def _refuse_connect(self, slot: int, client: Client, error: ClientError) -> None:
        self._log.error(f"{client} - {error.text}")
        self._send_error(slot, client, error)

    def _send_error(self, slot: int, client: Client, error: ClientError) -> None:
        self._engine.error(slot, client.client_id, error.text.encode(), error.closes)

    def _on_closed(self, slot: int, client_id: int, reason: int, row: tuple[Any, ...]) -> None:
        client = self._client(slot, client_id)
        if client is None:
            return
        self._by_slot[slot] = None
        self.open_count -= 1
        if timer := self._expiries.pop(client_id, None):
            timer.cancel()
        stop_ns = self._clock.time_ns()
        offset = stop_ns - self._clock.monotonic_ns()
        facts = client.transport
        if facts is None or facts.kind != "websocket" or facts.upgrade is not None:
            # Before its upgrade it is no client, there either.
            self.closed.append(self.row(client, row[2:11], offset, stop_ns, reason))
        if reason in SLOW_CONSUMERS:
            self.slow_consumers[client.account] += 1
        if reason in _TOLD_REASONS or self._options.debug:
            self._log_closed(client, reason)
        if self.watcher is not None and client.identity is not None:
            self.watcher.left(lambda: self._described(client, row[8]), client.identity.account, row[2:6], reason)
        self._leave(client)

    def _log_closed(self, client: Client, reason: int) -> None:
        log, options = self._log, self._options
        if reason == CloseReason.SLOW_CONSUMER_PENDING_BYTES:
            log.notice(f"{client} - Slow Consumer Detected: MaxPending of {options.max_pending} Exceeded")
        elif reason == CloseReason.SLOW_CONSUMER_WRITE_DEADLINE:
            log.notice(
                f"{client} - Slow Consumer Detected: WriteDeadline of {options.write_deadline:g}s exceeded"
            )
        elif reason == CloseReason.MAX_PAYLOAD_EXCEEDED:
            log.error(f"{client} - maximum payload exceeded")
        elif reason == CloseReason.MAX_CONTROL_LINE_EXCEEDED:
            log.error(f"{client} - maximum control line exceeded")
        elif reason == CloseReason.RING_OVERFLOW:
            log.error(f"{client} - another shard is too far behind to take its messages")
        if options.debug:
            if reason == CloseReason.STALE_CONNECTION:
                log.debug(f"{client} - Stale Client Connection - Closing")
            elif reason == CloseReason.AUTHENTICATION_TIMEOUT:
                log.debug(f"{client} - Authentication Timeout")
            log.debug(f"{client} - Client connection closed: {errors.close_text(reason)}")

    def _on_log(self, level: int, slot: int, client_id: int, text: bytes) -> None:
        client = self._client(slot, client_id)
        # Input that we cannot read may be most of a CONNECT.
        shown = _printable(redact(text) if level == LEVEL_ERROR else text)
        if level == LEVEL_ERROR and client is not None:
            # A client's own -ERR has its text in quotes; what else is logged as an error is input we cannot read.
            shown = (
                f"Client Error {shown}" if text.startswith(b"'") else f"Client parser ERROR, proto='{shown}'"
            )
        line = f"{client} - {shown}" if client is not None else shown
        log = self._log
        {LEVEL_ERROR: log.error, LEVEL_WARNING: log.warning, LEVEL_NOTICE: log.notice}.get(level, log.debug)(
            line
        )

    def _on_trace(self, slot: int, client_id: int, direction: int, text: bytes) -> None:
        arrow = "->>" if direction in (TRACE_OUT, TRACE_PAYLOAD_OUT) else "<<-"
        if direction in (TRACE_PAYLOAD_IN, TRACE_PAYLOAD_OUT):
            if not text:
                return
            most = self._options.max_traced_msg_len
            shown = _printable(text[:most]) + "..." if 0 < most < len(text) else _printable(text)
            line = f'{arrow} MSG_PAYLOAD: ["{shown}"]'
        else:
            line = f"{arrow} [{_printable(without_secrets(text))}]"
        client = self._client(slot, client_id)
        # Before its CONNECT is answered a connection has no record yet when the event overtakes it.
        self._log.trace(f"{client} - {line}" if client is not None else f"cid:{client_id} - {line}")

    # -- reload, lame duck --

    def apply(self, options: Options, info: InfoSource) -> None:
        """Other settings; clients that may not stay under them are told and closed."""
        self._set_options(options)
        self._info = info
        self._engine.apply(options.engine_settings())
        self._logins.apply(options)
        self.accounts.apply(options)
        self.accounts.watch(self._logins.accounts)
        try:
            self._apply_transports(options)
        except ConfigError as error:
            # The front has read the files a moment ago. Whoever must go must go all the same.
            self._log.error(f"{error}; connections to come get the certificates of before")
            if self._transports is None:
                # There are none of before, and what should be encrypted would come in the clear: begin anew.
                raise SystemExit(1) from None
        for slot, client in self._each():
            if client.identity is not None:
                self._check_again(slot, client, client.identity)
            self._limit(slot, client)
        self.accounts.recount(client.identity for _, client in self._each() if client.identity is not None)

    def use_callout(self, callout: Callout | OperatorCallout | None) -> None:
        """Who decides on logins beside the configuration, from now on."""
        self._logins.callout = callout

    @property
    def operator(self) -> OperatorGate | None:
        """The rules of the operator, if there is one."""
        return self._logins.operator

    @property
    def fetches(self) -> AccountFetches | None:
        """Who asks a web server for accounts, if that is where they are."""
        return self._logins.fetches

    def use_account(self, known: Callable[[str], None]) -> None:
        """Whom to tell of accounts that were not known before (resolver: URL)."""
        self._logins.on_account = known

    @property
    def account_book(self) -> AccountBook | None:
        """The accounts of the operator, if there is one."""
        return self._logins.accounts

    def watch_accounts(self, *, pushed: bool = False) -> None:
        """Look whether accounts of an operator have other claims: then their users are restricted or cut.

        `pushed`: they have. (The directory's time may be as it was, since it is counted in ticks of milliseconds.)
        """
        self.accounts.expire()
        if not self._logins.accounts_changed() and not pushed:
            return
        self.accounts.changed()
        if self.on_accounts is not None:
            self.on_accounts()
        for slot, client in self._each():
            if client.identity is not None:
                self._check_again(slot, client, client.identity, accounts_only=True)

    def _check_again(
        self, slot: int, client: Client, before: Identity, *, accounts_only: bool = False
    ) -> None:
        """Whether a client may stay under the rules of a reload, and as whom (reload.go reloadAuthorization)."""
        still = self._logins.still(before, accounts_only=accounts_only)
        if isinstance(still, Identity):
            self._changed(slot, client, still)
            return
        if isinstance(still, Refusal):
            self._expel(slot, client, still)
            return

        def settle(answer: Identity | Refusal) -> None:
            if isinstance(answer, Refusal):
                self._violation(slot, client, answer)
            elif answer.account != before.account:
                # It comes back, and is then in its new account.
                self._engine.close(slot, client.client_id, CloseReason.CLIENT_CLOSED)
            else:
                self._changed(slot, client, answer)

        answer = self._logins.begin(
            client.login(), lambda: self._client(slot, client.client_id) is client, settle, client.about
        )
        if answer is not None:
            settle(answer)

    def _changed(self, slot: int, client: Client, identity: Identity) -> None:
        """It stays, but what it may do may have changed (client.go processSubsOnConfigReload)."""
        before, client.identity = client.identity, identity
        self._expire_later(slot, client)
        if before is not None and before.permissions == identity.permissions:
            return
        for subject, queue, sid in self._engine.restrict(slot, client.client_id, identity.permissions):
            using = b" using queue " + _go_quoted(queue) if queue is not None else b""
            what = b"%b%b (sid %b)" % (_go_quoted(subject), using, _go_quoted(sid))
            self._engine.error(slot, client.client_id, b"Permissions Violation for Subscription to " + what)
            self._log.notice(f"Removed sub {_printable(what)} for {client.user} - not authorized")

    def _limit(self, slot: int, client: Client) -> None:
        max_payload, max_subscriptions = self.accounts.limits_of(client.identity or ANYBODY)
        if not self._engine.limit(slot, client.client_id, max_payload, max_subscriptions):
            self._log.error(f"{client} - {errors.MAXIMUM_SUBSCRIPTIONS.text}")
            text = errors.MAXIMUM_SUBSCRIPTIONS.text.encode()
            self._engine.error(slot, client.client_id, text, CloseReason.MAX_SUBSCRIPTIONS_EXCEEDED)

    def shed(self, count: int) -> None:
        """Close the newest `count` connections: max_connections is lower now."""
        newest = sorted(self._each(), key=lambda item: -item[1].client_id)[:count]
        for slot, client in newest:
            self._log.error(f"{client} - maximum connections exceeded")
            self._send_error(slot, client, errors.MAXIMUM_CONNECTIONS)

    def announce(self, info: InfoSource) -> None:
        """Send a new INFO to every client that takes it after CONNECT; later connections get it too."""
        self._info = info
        for slot, client in self._each():
            if client.options is not None and client.options.protocol >= 1:
                line = info.line(client.client_id, client.ip, client.nonce, client.kind)
                self._engine.send(slot, client.client_id, line)

    def slots(self) -> list[tuple[int, int]]:
        """(slot, client id) of each open connection."""
        return [(slot, client.client_id) for slot, client in self._each()]

    def end(self) -> None:
        """No answer that is still awaited will be given."""
        self._logins.close()
        self.accounts.close()

    def close(self, slot: int, client_id: int) -> None:
        self._engine.close(slot, client_id, CloseReason.SERVER_SHUTDOWN)

    def _each(self) -> list[tuple[int, Client]]:
        return [(slot, client) for slot, client in enumerate(self._by_slot) if client is not None]

    # -- monitoring --

    def row(
        self, client: Client, numbers: tuple[int, ...], offset_ns: int, stop_ns: int = 0, reason: int = 0
    ) -> ConnectionRow:
        """A connection for monitoring. numbers: engine.CONNECTION_FIELDS from in_msgs to stalls; offset_ns: of their clock to
        the time since 1970."""
        in_msgs, in_bytes, out_msgs, out_bytes, pending, subscriptions, rtt_ns, activity_ns, stalls = numbers
        said = client.options or DEFAULTS
        more = client.more()
        record = self.accounts.record(client.account) if more else None
        if record is not None and record.tag:
            more["name_tag"] = record.tag
        return ConnectionRow(
            client.client_id,
            client.ip,
            client.port,
            client.start_ns,
            activity_ns + offset_ns if activity_ns else client.start_ns,
            stop_ns,
            reason,
            rtt_ns,
            pending,
            in_msgs,
            out_msgs,
            in_bytes,
            out_bytes,
            stalls,
            subscriptions,
            said.name,
            said.lang,
            said.version,
            client.user,
            client.account,
            more or None,
        )


def _who(said: ConnectOptions | None) -> str:
    """Who a client says it is, for the log (client.go getAuthUser)."""
    if said is None:
        return ""
    if said.nkey:
        return f" - Nkey {_quoted(said.nkey)}"
    if said.user:
        return f" - User {_quoted(said.user)}"
    if said.jwt:
        return " - JWT User"
    return ' - Token "[REDACTED]"' if said.auth_token else ""


def without_secrets(text: bytes) -> bytes:
    """A traced operation with its passwords, tokens and signatures blacked out (client.go removeSecretsFromTrace)."""
    if text[:7].upper() == b"CONNECT":
        return redact(text)
    return text


def _printable(text: bytes) -> str:
    """Bytes from a client as a log may show them: one line, nothing that a terminal obeys."""
    return text.decode("utf-8", "replace").translate(_CONTROLS)


def _go_quoted(name: bytes) -> bytes:
    """As hot/connection.pyx quote."""
    escaped = name.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return b'"%b"' % b"".join(b"\\x%02x" % b if b < 32 or b == 127 else bytes([b]) for b in escaped)


def _quoted(text: str) -> str:
    return '"' + text.translate(_CONTROLS).replace('"', '\\"') + '"'


_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {
    9: "\\t",
    10: "\\n",
    13: "\\r",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}
