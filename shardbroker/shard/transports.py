"""Connections that speak TLS or WebSocket, or begin with a proxy's header: their sockets, and the way of their bytes to the
engine and back.

    socket -> recv -> TLS -> WebSocket frames -> Engine.feed            plain NATS from here on, natively
    socket <- send <- TLS <- WebSocket frame  <- Engine.output          when the engine says "attention"

One Python call chain moves as much as there is, so its cost is spread over all messages of a read or a flush. Limits hold
before anything is known of a client: one receive buffer serves all, a handshake has its time and its bytes, and what a
socket does not take stays in the engine, where max_pending and the write deadline count it. Home shard only.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

from websockets.exceptions import ProtocolError

from shardbroker import errors
from shardbroker.errors import CloseReason
from shardbroker.hot.engine import FEED_SLACK, Engine
from shardbroker.options import Options
from shardbroker.shard import proxy
from shardbroker.shard.tls import TlsLayer, TlsState, pinned, server_context
from shardbroker.shard.websocket import Upgrade, UpgradeError, WebSocketLayer

RECEIVE_BYTES = 256 << 10
OUTPUT_BYTES = 256 << 10
# How long a closed connection's last bytes may take to leave, and its client to end its side.
LINGER_SECONDS = 0.5
TLS_RECORD_HANDSHAKE = 0x16
WEBSOCKET_HANDSHAKE_SECONDS = 2.0
# nats-server's proxyProtoReadTimeout
PROXY_SECONDS = 5.0


class Owner(Protocol):
    """What the transports tell the side that knows the clients."""

    def secured(self, slot: int, client_id: int, state: TlsState) -> None: ...
    def proxied(self, slot: int, client_id: int, ip: str, port: int) -> None: ...
    def upgraded(self, slot: int, client_id: int, upgrade: Upgrade) -> None: ...
    def transport_failed(self, slot: int, client_id: int, text: str, *, probe: bool) -> None: ...


# OpenSSL's words for bytes that are another protocol's.
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST")


class Transports:
    """All connections of a shard whose bytes are transformed."""

    def __init__(self, engine: Engine, options: Options, owner: Owner, shards: int = 1) -> None:
        # Whole life
        self.engine = engine
        self.owner = owner
        self.buffer = bytearray(RECEIVE_BYTES + FEED_SLACK)
        self.view = memoryview(self.buffer)[:RECEIVE_BYTES]
        # What comes off a socket, until its layers have it: allocating so much for each read costs more than the copy.
        self.raw = memoryview(bytearray(RECEIVE_BYTES))
        self._open: dict[int, Transport] = {}  # by client id
        self._shards = shards
        # Handshakes begun in the second that ends then
        self._handshakes = 0
        self._second_ends = 0.0
        # Changed by a reload
        self.options = options
        self._client_context: ssl.SSLContext | None = None
        self._websocket_context: ssl.SSLContext | None = None
        self.apply(options)

    def apply(self, options: Options) -> None:
        """Other settings, for connections to come; certificates are read anew. Raises ConfigError."""
        client = server_context(options.tls) if options.tls is not None else None
        tls = options.websocket.tls if options.websocket.port else None
        self._websocket_context = server_context(tls) if tls is not None else None
        self._client_context = client
        self.options = options

    def wanted(self, kind: str) -> bool:
        """Whether connections of this kind of listener are for us."""
        return kind == "websocket" or self._client_context is not None or self.options.proxy_protocol

    def handshake_seconds(self, kind: str) -> float:
        """Time that a connection has before it must send CONNECT, on top of the time for that."""
        options = self.options
        if kind == "websocket":
            tls = options.websocket.tls
            return (options.websocket.handshake_timeout or WEBSOCKET_HANDSHAKE_SECONDS) + (tls.timeout if tls else 0.0)
        seconds = PROXY_SECONDS if options.proxy_protocol else 0.0
        return seconds + (options.tls.timeout + options.tls.handshake_first_fallback if options.tls is not None else 0.0)

    def add(self, kind: str, descriptor: int, slot: int, client_id: int, greeting: bytes) -> None:
        """Own a connection. `greeting`: its INFO, when that is sent in the clear before the handshake."""
        self._open[client_id] = Transport(self, kind, descriptor, slot, client_id, greeting)
        self._open[client_id].start()

    def admits(self) -> bool:
        """Whether one more handshake may begin in this second (rate_counter.go)."""
        limit = self.options.tls.connection_rate_limit if self.options.tls is not None else 0
        if limit <= 0:
            return True
        now = asyncio.get_running_loop().time()
        if now > self._second_ends:
            self._second_ends, self._handshakes = now + 1.0, 0
        self._handshakes += 1
        # Each shard has its part; of a limit below the number of shards each has one.
        return self._handshakes <= max(1, limit // self._shards)

    def greets_in_clear(self, kind: str) -> bool:
        """Whether the INFO goes out before the handshake."""
        return kind != "websocket" and (self.options.tls is None or not self.options.tls.handshake_first)

    def context(self, kind: str) -> ssl.SSLContext | None:
        return self._websocket_context if kind == "websocket" else self._client_context

    def attention(self, client_id: int) -> None:
        """The engine has output for it, or can be fed again."""
        transport = self._open.get(client_id)
        if transport is not None:
            transport.service()

    def trust(self, client_id: int) -> None:
        """Its CONNECT was accepted."""
        transport = self._open.get(client_id)
        if transport is not None and transport.websocket is not None:
            transport.websocket.trust(self.options.max_payload)

    def ended(self, client_id: int, reason: int, last: bytes) -> None:
        """The engine has closed it; these are its last bytes."""
        transport = self._open.get(client_id)
        if transport is not None:
            transport.end(reason, last)

    def forget(self, client_id: int) -> None:
        """Take one out of the engine's hands: the data path has its socket."""
        self._open.pop(client_id, None)

    async def drain(self) -> None:
        """Until the last bytes of all closed ones are out, or it has taken too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * LINGER_SECONDS):
                while self._open:
                    await asyncio.sleep(0.005)


class Transport:
    """One connection: its socket and layers."""

    __slots__ = (
        "_client_id",
        "_closing",
        "_greeting",
        "_kind",
        "_loop",
        "_plain",
        "_reading",
        "_slot",
        "_socket",
        "_timer",
        "_tls",
        "_transports",
        "_unsent",
        "websocket",
    )

    def __init__(
        self, transports: Transports, kind: str, descriptor: int, slot: int, client_id: int, greeting: bytes
    ) -> None:
        # Whole life
        self._transports = transports
        self._kind = kind
        self._socket = socket.socket(fileno=descriptor)
        self._slot = slot
        self._client_id = client_id
        self._loop = asyncio.get_running_loop()
        # Layers; None where there is none, or none yet
        self._tls: TlsLayer | None = None
        self.websocket: WebSocketLayer | None = None
        # State
        self._greeting = greeting
        self._plain = False  # layers are set up: plain bytes flow
        self._reading = False
        self._closing = False
        self._unsent = b""
        self._timer: asyncio.TimerHandle | None = None

    # -- beginning: greet, look who speaks, handshake, upgrade --

    def start(self) -> None:
        transports, options = self._transports, self._transports.options
        context = transports.context(self._kind)
        if self._kind == "websocket":
            self.websocket = WebSocketLayer(options.websocket, tls=context is not None)
            if context is not None:
                self._tls = TlsLayer(context)
            self._limit(transports.handshake_seconds(self._kind), "websocket handshake timeout")
            self._read(self._readable)
            return
        if self._greeting:
            self._send(self._greeting)
        if options.proxy_protocol:
            fallback = options.tls.handshake_first_fallback if options.tls is not None else 0.0
            if fallback and not self._greeting:
                self._timer = self._loop.call_later(fallback, self._greet_late)
            else:
                self._await_proxy()
            self._read(self._proxy_bytes)
        else:
            self._look()

    def _greet_late(self) -> None:
        """Neither a proxy's header nor TLS came in time: a client waits for INFO."""
        self._greeting = self._transports.engine.take_greeting(self._slot, self._client_id)
        self._send(self._greeting)
        self._await_proxy()

    def _await_proxy(self) -> None:
        self._limit(PROXY_SECONDS, "timeout reading PROXY protocol header", CloseReason.PROTOCOL_VIOLATION)

    def _proxy_bytes(self) -> None:
        """A proxy's header, or the first bytes of a client that comes without one. They stay in the socket until they are whole;
        it is not readable again before there are more."""
        try:
            data = self._socket.recv(proxy.HEADER_BYTES_MAX, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        try:
            header = proxy.read(data) if data else proxy.Header(0)
        except proxy.ProxyError as error:
            self._fail(f"Error reading PROXY protocol header: {error}", CloseReason.PROTOCOL_VIOLATION)
            return
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(data) + 1 if header is None else 1)
        if header is None:
            if _has_ended(self._socket):
                self._gone(CloseReason.CLIENT_CLOSED)
            return
        self._stop_waiting()
        self._unread()
        if header.bytes:
            self._socket.recv(header.bytes)
        if header.source is not None:
            self._transports.owner.proxied(self._slot, self._client_id, *header.source)
        self._look()

    def _look(self) -> None:
        """Find out whether it is to be TLS."""
        options, context = self._transports.options, self._transports.context(self._kind)
        if options.tls is None or context is None:
            self._settle()
        elif self._greeting and options.allow_non_tls:
            self._timer = self._loop.call_later(options.tls.timeout, self._settle)
            self._read(self._first_bytes)
        elif not self._greeting and options.tls.handshake_first_fallback:
            self._timer = self._loop.call_later(options.tls.handshake_first_fallback, self._fall_back)
            self._read(self._begin_tls)
        else:
            self._begin_tls()

    def _first_bytes(self) -> None:
        """What comes first tells whether this client wants TLS."""
        try:
            first = self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            first = b""
        if first and first[0] == TLS_RECORD_HANDSHAKE:
            self._begin_tls()
        else:
            self._settle()

    def _settle(self) -> None:
        """No TLS: the data path takes the socket."""
        self._stop_waiting()
        self._unread()
        descriptor = self._socket.detach()
        self._transports.forget(self._client_id)
        self._transports.engine.settle(self._slot, self._client_id, descriptor)

    def _fall_back(self) -> None:
        """Nobody began TLS in time: greet as a server does that does not do TLS first."""
        self._timer = None
        self._greeting = self._transports.engine.take_greeting(self._slot, self._client_id)
        self._send(self._greeting)
        if self._transports.options.allow_non_tls:
            tls = self._transports.options.tls
            assert tls is not None
            self._timer = self._loop.call_later(tls.timeout, self._settle)
            self._read(self._first_bytes)
        else:
            self._begin_tls()

    def _begin_tls(self) -> None:
        self._stop_waiting()
        options, context = self._transports.options, self._transports.context(self._kind)
        if options.tls is None or context is None:
            # A reload has taken TLS away meanwhile.
            self._fail("TLS is not served any more", CloseReason.TLS_HANDSHAKE_ERROR)
            return
        if not self._transports.admits():
            text = errors.CONNECTION_THROTTLED.text
            self._send(f"-ERR '{text}'\r\n".encode())
            self._fail(text, CloseReason.MAX_CONNECTIONS_EXCEEDED, probe=True)
            return
        self._tls = TlsLayer(context)
        self._timer = self._loop.call_later(options.tls.timeout, self._never_shook_hands)
        self._read(self._readable)
        self._readable()

    def _limit(
        self, seconds: float, text: str, reason: CloseReason = CloseReason.TLS_HANDSHAKE_ERROR
    ) -> None:
        self._timer = self._loop.call_later(seconds, self._fail, text, reason)

    def _never_shook_hands(self) -> None:
        # Not an error of ours to look into: whoever scans the network does so (server.go tlsTimeout).
        self._fail("TLS handshake timeout", CloseReason.TLS_HANDSHAKE_ERROR, probe=True)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _read(self, call: Callable[[], None]) -> None:
        self._loop.add_reader(self._socket, call)
        self._reading = True

    def _unread(self) -> None:
        if self._reading:
            self._loop.remove_reader(self._socket)
            self._reading = False

    def _handshake(self) -> bool:
        """Whether plain bytes flow now."""
        tls = self._tls
        if tls is not None and not tls.done:
            try:
                done = tls.handshake()
            except ssl.SSLError as error:
                self._send(tls.take())
                probe = error.reason in (*_NO_TLS, "UNEXPECTED_EOF_WHILE_READING")
                self._fail(f"TLS handshake error: {_words(error)}", CloseReason.TLS_HANDSHAKE_ERROR, probe=probe)
                return False
            self._send(tls.take())
            if not done:
                return False
            pins = self._pins()
            if pins and not pinned(tls.state(), pins):
                self._fail("TLS handshake error: certificate not pinned", CloseReason.TLS_HANDSHAKE_ERROR)
                return False
            first = self._kind != "websocket" and not self._greeting
            self._transports.owner.secured(self._slot, self._client_id, replace(tls.state(), first=first))
        if self.websocket is None and not self._plain:
            self._flows()
        return True

    def _pins(self) -> tuple[str, ...]:
        options = self._transports.options
        tls = options.websocket.tls if self._kind == "websocket" else options.tls
        return tls.pinned_certs if tls is not None else ()

    def _flows(self) -> None:
        """Every layer is there: output may leave."""
        self._plain = True
        self._stop_waiting()
        self._transports.engine.transport_blocked(self._slot, self._client_id, bool(self._unsent))

    # -- bytes in --

    def _readable(self) -> None:
        raw = self._transports.raw
        try:
            data = raw[: self._socket.recv_into(raw)]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._gone(CloseReason.READ_ERROR)
            return
        if self._closing:
            if not data:
                self._close()
            return
        if self._tls is None:
            if data:
                self._frames(data)
            else:
                self._gone(CloseReason.CLIENT_CLOSED)
            return
        self._tls.feed(data)
        if not self._tls.done and not data:
            self._fail("TLS handshake error: EOF", CloseReason.TLS_HANDSHAKE_ERROR, probe=True)
        elif self._handshake():
            self._decrypt()

    def _decrypt(self) -> None:
        """Plain bytes that TLS has, to the engine, as long as it takes them."""
        tls, transports = self._tls, self._transports
        assert tls is not None
        try:
            while not self._closing:
                n = tls.read_into(transports.view)
                if n == 0:
                    break
                if self.websocket is not None:
                    if not self._frames(transports.view[:n]):
                        return
                elif not transports.engine.feed(self._slot, self._client_id, transports.buffer, n):
                    self._unread()  # until service()
                    return
        except EOFError:
            self._gone(CloseReason.CLIENT_CLOSED)
        except ssl.SSLError:
            self._gone(CloseReason.READ_ERROR)
        else:
            if (out := tls.take()) and not self._closing:
                self._send(out)  # an answer to a change of keys

    def _frames(self, data: bytes | memoryview) -> bool:
        """NATS protocol in WebSocket frames, to the engine; whether it takes more."""
        websocket, transports = self.websocket, self._transports
        assert websocket is not None
        hungry = True
        try:
            pieces = websocket.receive(data)
            self._write(websocket.take())
            if websocket.upgrade is not None and not self._plain:
                transports.owner.upgraded(self._slot, self._client_id, websocket.upgrade)
                self._flows()
            for piece in pieces:
                for at in range(0, len(piece), RECEIVE_BYTES):
                    part = piece[at : at + RECEIVE_BYTES]
                    transports.buffer[: len(part)] = part
                    hungry = transports.engine.feed(self._slot, self._client_id, transports.buffer, len(part))
            websocket.check_open()
        except UpgradeError as error:
            self._write(websocket.take())
            self._fail(f"websocket handshake error: {error}", CloseReason.CLIENT_CLOSED)
            return False
        except ProtocolError as error:
            self._fail(f"websocket: {error}", CloseReason.PROTOCOL_VIOLATION)
            return False
        except EOFError:
            self._gone(CloseReason.CLIENT_CLOSED)
            return False
        if not hungry:
            self._unread()
        return hungry

    # -- bytes out --

    def service(self) -> None:
        """Send what the engine has, and go on reading if it is hungry again."""
        if self._closing:
            return
        engine = self._transports.engine
        if self._plain:
            while not self._unsent and (data := self._gather()):
                self._send(data)
        if self._plain and not self._reading and not self._closing and engine.hungry(self._slot, self._client_id):
            self._read(self._readable)
            if self._tls is not None:
                self._decrypt()

    def _gather(self) -> bytes:
        """The engine's next output, through all layers. A piece is the engine's own memory until `output_taken`: what stands
        between must not have the engine write, close or turn. When a layer fails the piece is not looked at again."""
        engine = self._transports.engine
        taken = 0
        while taken < OUTPUT_BYTES and (piece := engine.output(self._slot, self._client_id)):
            if not self._wrap(piece):
                return b""
            taken += len(piece)
            engine.output_taken(self._slot, self._client_id, len(piece))
        return self._wrapped()

    def _wrap(self, data: bytes | memoryview) -> bool:
        """Plain bytes, into all layers; whether it went well."""
        if self.websocket is None:
            return self._encrypt(data)
        self.websocket.frame(bytes(data))
        return self._tls is None or self._encrypt(self.websocket.take())

    def _wrapped(self) -> bytes:
        """What has come out of the layers, for the socket."""
        if self._tls is not None:
            return self._tls.take()
        return self.websocket.take() if self.websocket is not None else b""

    def _encrypt(self, data: bytes | memoryview) -> bool:
        assert self._tls is not None
        try:
            self._tls.write(data)
        except ssl.SSLError:
            self._gone(CloseReason.WRITE_ERROR)
            return False
        return True

    def _write(self, data: bytes) -> None:
        """Bytes below WebSocket, through TLS."""
        if data and self._tls is not None:
            data = self._tls.take() if self._encrypt(data) else b""
        self._send(data)

    def _send(self, data: bytes) -> None:
        if not data:
            return
        if self._unsent:
            self._unsent += data
            return
        try:
            n = self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            n = 0
        except OSError:
            self._gone(CloseReason.WRITE_ERROR)
            return
        if n < len(data):
            self._unsent = data[n:]
            self._transports.engine.transport_blocked(self._slot, self._client_id, True)
            self._loop.add_writer(self._socket, self._writable)

    def _writable(self) -> None:
        try:
            n = self._socket.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._unsent = b""
            self._loop.remove_writer(self._socket)
            self._gone(CloseReason.WRITE_ERROR)
            return
        self._unsent = self._unsent[n:]
        if self._unsent:
            return
        self._loop.remove_writer(self._socket)
        if self._closing:
            self._shut()
        elif self._plain:
            self._transports.engine.transport_blocked(self._slot, self._client_id, False)
            self.service()

    # -- the end --

    def _fail(self, text: str, reason: CloseReason, *, probe: bool = False) -> None:
        """It never came to speak NATS, or spoke wrongly."""
        self._transports.owner.transport_failed(self._slot, self._client_id, text, probe=probe)
        self._gone(reason)

    def _gone(self, reason: CloseReason) -> None:
        """Let the engine close it; `end` follows."""
        self._stop_waiting()
        if not self._closing:
            self._unread()
            self._transports.engine.close(self._slot, self._client_id, reason)

    def end(self, reason: int, last: bytes) -> None:
        """The engine has let go: the last bytes, goodbyes, and the socket's end."""
        if self._closing:
            return
        self._stop_waiting()
        tls = self._tls
        alive = reason not in (CloseReason.CLIENT_CLOSED, CloseReason.READ_ERROR, CloseReason.WRITE_ERROR)
        if self._plain and alive:
            if last and self._wrap(last):
                self._send(self._wrapped())
            if self.websocket is not None:
                self.websocket.close(reason)
                self._write(self.websocket.take())
        if tls is not None and tls.done and reason not in (CloseReason.READ_ERROR, CloseReason.WRITE_ERROR):
            tls.close()
            self._send(tls.take())
        self._closing = True
        self._timer = self._loop.call_later(LINGER_SECONDS, self._close)
        if not self._unsent:
            self._shut()

    def _shut(self) -> None:
        """All is sent: end our side, and wait a moment for the client's end, so that no reset overtakes the last bytes."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._close()
            return
        if not self._reading:
            self._read(self._readable)

    def _close(self) -> None:
        self._stop_waiting()
        self._unread()
        if self._unsent:
            self._loop.remove_writer(self._socket)
            self._unsent = b""
        self._socket.close()
        self._transports.forget(self._client_id)


def _has_ended(sock: socket.socket) -> bool:
    """Whether the other side sends no more, though there are bytes left to read."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


def _words(error: ssl.SSLError) -> str:
    """OpenSSL's reason in words, without its file and line; what is no TLS at all in nats-server's."""
    if error.reason in _NO_TLS:
        return "tls: first record does not look like a TLS handshake"
    return (error.reason or str(error)).replace("_", " ").lower()
