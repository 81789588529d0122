"""Servers of a cluster tell each other where clients can go: the process behind `cluster {}` and `--routes`.

    dialling side   waits for INFO, sends CONNECT and its own INFO
    both            INFO again whenever something in it changes; PING, PONG

An INFO names the server's addresses for clients, and the routes of the servers that it is linked with, so that those named
nowhere are found through others. Clients get all addresses in the `connect_urls` of their INFO. **Messages do not cross**: each
server keeps its own subjects, and the start says so. The lines are those of nats-server's routes (route.go); since its
servers would send messages over them, a server that does not call itself a shardbroker is sent away in words.

Its own process, as it talks to the network and resolves names, which takes threads and time. It tells the front what it
knows over its channel: {"op": "peers", "client": [...], "websocket": [...]}.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson

from shardbroker.control.logs import Log
from shardbroker.ipc.channel import Channel, Message
from shardbroker.options import ClusterSettings
from shardbroker.wire.info import join_host_port, parse_host_port

# What one server may make another keep. A line holds MEMBERS_MAX routes and as many addresses with room to spare.
LINE_BYTES_MAX = 64 << 10
MEMBERS_MAX = 64
ADDRESSES_MAX = 64
ADDRESS_BYTES_MAX = 255
# What waits for a server that does not read; then it is gone.
UNREAD_BYTES_MAX = 1 << 20
# Links that have not said yet who they are.
STRANGERS_MAX = 32
# route.go: DEFAULT_ROUTE_CONNECT, DEFAULT_ROUTE_DIAL
RETRY_SECONDS = 1.0
DIAL_SECONDS = 1.0
PINGS_OUT_MAX = 2
# How INFO and CONNECT say that nobody expects messages over this link.
KIND = "shardbroker peer"


class PeerError(Exception):
    """The other side cannot be a peer; the text is for both logs."""


@dataclass(frozen=True, slots=True)
class Member:
    """What a server says of itself."""

    server_id: str
    name: str
    cluster: str
    route: str  # host:port at which others reach it, empty when nobody shall
    client: tuple[str, ...]
    websocket: tuple[str, ...]


@dataclass(eq=False, slots=True)
class Link:
    """A connection to another server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    dialled: bool
    member: Member | None = None
    routes: dict[str, str] = field(default_factory=dict)  # of the servers that it is linked with, by id
    pings_out: int = 0

    def send(self, op: bytes, fields: dict[str, Any] | None = None) -> None:
        if self.writer.transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            self.writer.transport.abort()
        self.writer.write(op + (b" " + orjson.dumps(fields) if fields is not None else b"") + b"\r\n")

    async def line(self, seconds: float | None) -> tuple[bytes, bytes]:
        """The next operation and its argument. Raises PeerError, TimeoutError, OSError, EOFError."""
        async with asyncio.timeout(seconds):
            try:
                line = await self.reader.readuntil(b"\n")
            except asyncio.LimitOverrunError:
                raise PeerError("Maximum Control Line Exceeded") from None
        op, _, argument = line.strip().partition(b" ")
        return op.upper(), argument.strip()


class Peers:
    """The links of one server."""

    def __init__(
        self, own: Member, settings: ClusterSettings, told: Callable[[list[str], list[str]], None], log: Log
    ) -> None:
        """`told(client addresses, websocket addresses)` is called when those of the other servers have changed."""
        self._own = own
        self._settings = settings
        self._told = told
        self._log = log
        self._links: dict[str, Link] = {}
        self._strangers = 0
        self._dialling: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, listener: socket.socket) -> None:
        """Accept and dial until cancelled."""
        server = await asyncio.start_server(self._accepted, sock=listener, limit=LINE_BYTES_MAX)
        for url in self._settings.routes:
            self._start(self._dial(url, explicit=True))
        async with server:
            await server.serve_forever()

    def leave(self) -> None:
        """Our clients shall go elsewhere: nobody is to be sent here any more."""
        self._own = Member(self._own.server_id, self._own.name, self._own.cluster, self._own.route, (), ())
        self._tell_peers()

    # -- making links --

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._strangers >= STRANGERS_MAX:
            writer.close()
            return
        link = Link(reader, writer, dialled=False)
        self._strangers += 1
        await self._run(link, self._greet(link))

    async def _greet(self, link: Link) -> None:
        """Our INFO, their CONNECT and INFO."""
        self._send_info(link)
        op, argument = await link.line(self._settings.auth_timeout)
        if op != b"CONNECT":
            raise PeerError("Parser Error")
        fields = _fields(argument)
        user, password = self._settings.user, self._settings.password
        if user or password:
            given = (f"{fields.get('user', '')}", f"{fields.get('pass', '')}")
            same = [hmac.compare_digest(a.encode(), b.encode()) for a, b in zip(given, (user, password), strict=True)]
            if not all(same):
                raise PeerError("Authorization Violation")
        op, argument = await link.line(self._settings.auth_timeout)
        if op != b"INFO":
            raise PeerError("Parser Error")
        self._join(link, _fields(argument))

    async def _dial(self, url: str, *, explicit: bool) -> None:
        """Keep a link to a route. One that others told us of is given up after `connect_retries` more attempts."""
        parts = urlsplit(url if "//" in url else f"nats://{url}")
        host, port = parts.hostname or "", parts.port or 0
        where = join_host_port(host, port)
        if where in self._dialling or (not explicit and len(self._dialling) >= MEMBERS_MAX):
            return
        self._dialling.add(where)
        user = unquote(parts.username or "") or self._settings.user
        password = unquote(parts.password or "") or self._settings.password
        attempts = 0
        try:
            while explicit or attempts <= self._settings.connect_retries:
                attempts += 1
                try:
                    async with asyncio.timeout(DIAL_SECONDS):
                        reader, writer = await asyncio.open_connection(host, port, limit=LINE_BYTES_MAX)
                except (OSError, TimeoutError) as error:
                    if attempts == 1:
                        reason = str(error) or "timeout"
                        self._log.error(f"Error trying to connect to route (attempt {attempts}): {where}: {reason}")
                else:
                    link = Link(reader, writer, dialled=True)
                    await self._run(link, self._introduce(link, user, password))
                    if link.member is not None:
                        attempts = 0
                        if link.member.server_id == self._own.server_id:
                            return
                        # The other of two links to one server serves as well.
                        while link.member.server_id in self._links:
                            await asyncio.sleep(RETRY_SECONDS)
                await asyncio.sleep(RETRY_SECONDS)
        finally:
            self._dialling.discard(where)

    async def _introduce(self, link: Link, user: str, password: str) -> None:
        """Their INFO, our CONNECT and INFO."""
        op, argument = await link.line(self._settings.auth_timeout)
        if op != b"INFO":
            raise PeerError("is no server of a cluster")
        fields = _fields(argument)
        member = _member(fields, link)
        if member.server_id == self._own.server_id:
            link.member = member
            raise PeerError("")
        connect = {"kind": KIND, "name": self._own.name, "verbose": False, "pedantic": False}
        if user or password:
            connect |= {"user": user, "pass": password}
        link.send(b"CONNECT", connect)
        self._send_info(link)
        self._join(link, fields)

    # -- a link's life --

    async def _run(self, link: Link, begin: Any) -> None:
        where = join_host_port(*link.writer.get_extra_info("peername", ("?", 0))[:2])
        pings = None
        try:
            try:
                await begin
            finally:
                self._strangers -= not link.dialled
            pings = asyncio.get_running_loop().create_task(self._ping(link))
            while True:
                op, argument = await link.line(None)
                if op == b"INFO":
                    self._heard(link, _fields(argument))
                elif op == b"PING":
                    link.send(b"PONG")
                elif op == b"PONG":
                    link.pings_out = 0
                elif op == b"-ERR":
                    raise PeerError(_text(argument.decode("latin-1").strip("'")) or "has refused the link")
                else:
                    raise PeerError("Unknown Protocol Operation")
        except PeerError as error:
            if str(error):
                self._log.error(f"Route {where} - {error}")
                link.send(b"-ERR '%b'" % str(error).encode())
        except TimeoutError:
            self._log.error(f"Route {where} - Authentication Timeout")
            link.send(b"-ERR 'Authentication Timeout'")
        except (OSError, EOFError):
            pass
        finally:
            if pings is not None:
                pings.cancel()
            self._gone(link, where)
            link.writer.close()

    async def _ping(self, link: Link) -> None:
        while True:
            await asyncio.sleep(self._settings.ping_interval)
            if link.pings_out >= PINGS_OUT_MAX:
                link.writer.transport.abort()
                return
            link.pings_out += 1
            link.send(b"PING")

    def _join(self, link: Link, fields: dict[str, Any]) -> None:
        """The link's server is known now. Of two links to it that stays which the server with the lower id dialled; both
        ends decide alike."""
        link.member = member = _member(fields, link)
        if member.server_id == self._own.server_id:
            raise PeerError("")
        if member.cluster and self._own.cluster and member.cluster != self._own.cluster:
            raise PeerError(f"Cluster Name Conflict: {self._own.cluster} and {member.cluster}")
        other = self._links.get(member.server_id)
        if other is None and len(self._links) >= MEMBERS_MAX:
            raise PeerError(f"more than {MEMBERS_MAX} servers")
        if other is not None and self._dialler(other) < self._dialler(link):
            raise PeerError("")
        self._links[member.server_id] = link
        if other is not None:
            other.writer.close()
        else:
            self._log.notice(f"Route to {member.name} ({member.route or 'no route back'}) created")
        self._heard(link, fields)
        self._tell_peers()

    def _dialler(self, link: Link) -> str:
        return self._own.server_id if link.dialled else (link.member.server_id if link.member else "")

    def _heard(self, link: Link, fields: dict[str, Any]) -> None:
        assert link.member is not None
        before = link.member
        link.member = _member(fields | {"server_id": before.server_id}, link)
        link.routes = _routes(fields.get("routes"))
        for server_id, route in link.routes.items():
            if server_id != self._own.server_id and server_id not in self._links and self._own.server_id < server_id:
                self._start(self._dial(route, explicit=False))
        self._tell_front()

    def _gone(self, link: Link, where: str) -> None:
        if link.member is not None and self._links.get(link.member.server_id) is link:
            del self._links[link.member.server_id]
            self._log.notice(f"Route to {link.member.name} ({where}) closed")
            self._tell_front()
            self._tell_peers()

    # -- telling --

    def _send_info(self, link: Link) -> None:
        own, settings = self._own, self._settings
        host, _, port = own.route.rpartition(":")
        fields = {
            "server_id": own.server_id,
            "server_name": own.name,
            "kind": KIND,
            "cluster": own.cluster,
            "host": host.strip("[]"),
            "port": int(port or 0),
            "auth_required": bool(settings.user or settings.password),
            "connect_urls": own.client,
            "ws_connect_urls": own.websocket,
            "routes": {peer.server_id: peer.route for peer in self._members() if peer.route},
        }
        link.send(b"INFO", fields)

    def _tell_peers(self) -> None:
        for link in self._links.values():
            self._send_info(link)

    def _tell_front(self) -> None:
        members = self._members()
        self._told(
            sorted({address for member in members for address in member.client}),
            sorted({address for member in members for address in member.websocket}),
        )

    def _members(self) -> list[Member]:
        return [link.member for link in self._links.values() if link.member is not None]


def _fields(argument: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(argument)
    except orjson.JSONDecodeError:
        raise PeerError("Parser Error") from None
    if not isinstance(fields, dict):
        raise PeerError("Parser Error")
    return fields


def _member(fields: dict[str, Any], link: Link) -> Member:
    """What an INFO says of its server. Raises PeerError."""
    if fields.get("kind") != KIND:
        raise PeerError("only shardbroker's servers can be linked, and they carry no messages")
    server_id = fields.get("server_id")
    if not isinstance(server_id, str) or not 0 < len(server_id) <= ADDRESS_BYTES_MAX:
        raise PeerError("Parser Error")
    host, port = fields.get("host"), fields.get("port")
    route = ""
    if isinstance(host, str) and type(port) is int and port:
        # Who listens on all addresses is where we see it.
        if host in ("", "0.0.0.0", "::"):
            host = link.writer.get_extra_info("peername", ("", 0))[0]
        route = next(iter(_addresses([join_host_port(host, port)])), "")
    return Member(
        server_id, _text(fields.get("server_name")) or server_id, _text(fields.get("cluster")), route,
        _addresses(fields.get("connect_urls")), _addresses(fields.get("ws_connect_urls")),
    )  # fmt: skip


def _text(value: Any) -> str:
    return value if isinstance(value, str) and len(value) <= ADDRESS_BYTES_MAX and value.isprintable() else ""


def _addresses(value: Any) -> tuple[str, ...]:
    """Those of a list that are host:port."""
    if not isinstance(value, list):
        return ()
    good = []
    for text in value[:ADDRESSES_MAX]:
        with contextlib.suppress(ValueError):
            if _text(text) and " " not in text and parse_host_port(text, 0)[1] > 0:
                good.append(text)
    return tuple(good)


def _routes(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    pairs = [(server_id, _addresses([route])) for server_id, route in list(value.items())[:MEMBERS_MAX]]
    return {server_id: route[0] for server_id, route in pairs if route and len(server_id) <= ADDRESS_BYTES_MAX}


def run_peers(own: Member, settings: ClusterSettings, channel: Channel, listener: socket.socket, log: Log) -> int:
    """The process: serve until the front says stop or has gone; the exit status."""

    async def main() -> None:
        def tell(client: list[str], websocket: list[str]) -> None:
            channel.send({"op": "peers", "client": client, "websocket": websocket})

        peers = Peers(own, settings, tell, log)
        ended = asyncio.Event()

        def on_message(channel: Channel, message: Message, descriptors: list[int]) -> None:
            if message.get("op") == "lame_duck":
                peers.leave()

        channel.start(on_message, lambda channel: ended.set())
        # What a process before this one told counts no more, though nobody ever links again.
        tell([], [])
        serving = asyncio.get_running_loop().create_task(peers.serve(listener))
        await ended.wait()
        serving.cancel()

    asyncio.run(main())
    return 0
