"""WebSocket: the upgrade of a connection, and its frames. A sans-IO library does the protocol (RFC 6455, RFC 7692).

    bytes -> receive -> [pieces of NATS protocol]          frame(NATS protocol) -> bytes

Source of the rules: websocket.go wsUpgrade, checkOrigin, wsEnqueueCloseMessage.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from websockets.exceptions import ProtocolError
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from shardbroker.errors import CloseReason
from shardbroker.options import WebSocketSettings

# Before CONNECT is accepted a client can make us keep so much and no more: its request line and headers, then one frame.
UPGRADE_BYTES_MAX = 32 << 10
UNKNOWN_FRAME_BYTES_MAX = 64 << 10
# websocket.go wsMaxMessageSize: clients put several messages of max_payload into a frame.
FRAME_PAYLOADS = 8
FRAME_BYTES_MAX = 64 << 20
# Below this, deflating costs more than it saves (websocket.go wsCompressThreshold).
COMPRESS_BYTES_MIN = 64
PATHS_OF_OTHERS = ("/leafnode", "/mqtt")
_COOKIE_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_COOKIE_VALUE = re.compile(r"[\x20!#-:<-\[\]-~]*")
EARLY = "client sent data before handshake is complete"

_CLOSE_CODES = {
    CloseReason.CLIENT_CLOSED: 1000,
    CloseReason.TLS_HANDSHAKE_ERROR: 1015,
    CloseReason.PARSE_ERROR: 1002,
    CloseReason.PROTOCOL_VIOLATION: 1002,
    CloseReason.BAD_CLIENT_PROTOCOL_VERSION: 1002,
    CloseReason.MAX_PAYLOAD_EXCEEDED: 1009,
    CloseReason.WRITE_ERROR: 1001,
    CloseReason.READ_ERROR: 1001,
    CloseReason.STALE_CONNECTION: 1001,
    CloseReason.SERVER_SHUTDOWN: 1001,
} | dict.fromkeys(
    (
        CloseReason.AUTHENTICATION_TIMEOUT,
        CloseReason.AUTHENTICATION_VIOLATION,
        CloseReason.SLOW_CONSUMER_PENDING_BYTES,
        CloseReason.SLOW_CONSUMER_WRITE_DEADLINE,
        CloseReason.MAX_ACCOUNT_CONNECTIONS_EXCEEDED,
        CloseReason.MAX_CONNECTIONS_EXCEEDED,
        CloseReason.MAX_CONTROL_LINE_EXCEEDED,
        CloseReason.MAX_SUBSCRIPTIONS_EXCEEDED,
        CloseReason.MISSING_ACCOUNT,
        CloseReason.AUTHENTICATION_EXPIRED,
        CloseReason.REVOCATION,
    ),
    1008,
)
_CODE_OTHER = 1011

_quiet = logging.getLogger("shardbroker.websocket")
_quiet.disabled = True  # the library's own words; what matters is raised and logged by us
_deflate = [
    ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True),
]


class UpgradeError(Exception):
    """The request was no acceptable upgrade; the answer is in `take`."""


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What a client's request said beside the protocol."""

    client_ip: str = ""  # X-Forwarded-For, of a proxy
    jwt: str = ""  # from cookies, each only when the settings name one
    user: str = ""
    password: str = ""
    token: str = ""


class WebSocketLayer:
    """One connection's frames. Never blocks, touches no socket."""

    __slots__ = ("_deflates", "_protocol", "_received", "_settings", "_tail", "_tls", "upgrade")

    def __init__(self, settings: WebSocketSettings, *, tls: bool) -> None:
        self._settings = settings
        self._tls = tls
        self._deflates = False
        self._received = 0
        self._tail = b""  # the last bytes of the request so far, which may end in the middle of its end
        self._protocol = ServerProtocol(
            extensions=_deflate if settings.compression else None,
            max_size=UNKNOWN_FRAME_BYTES_MAX,
            logger=_quiet,
        )
        self.upgrade: Upgrade | None = None  # None before it is done

    def trust(self, max_payload: int) -> None:
        """The client's CONNECT was accepted: frames may be as long as nats-server takes them."""
        self._protocol.max_message_size = min(FRAME_PAYLOADS * max_payload, FRAME_BYTES_MAX)

    def receive(self, data: bytes | memoryview) -> list[bytes]:
        """Bytes of the client; the pieces of NATS protocol in them. Raises UpgradeError."""
        if self.upgrade is None:
            self._received += len(data)
            if self._received > UPGRADE_BYTES_MAX:
                raise UpgradeError("the request is too long")
            self._tail = self._tail[-3:] + bytes(data)
        self._protocol.receive_data(bytes(data))
        pieces = []
        for event in self._protocol.events_received():
            if isinstance(event, Request):
                self._accept(event, early=not self._tail.endswith((b"\r\n\r\n", b"\n\n")))
                self._tail = b""
            elif isinstance(event, Frame) and event.opcode in (Opcode.BINARY, Opcode.TEXT, Opcode.CONT):
                pieces.append(bytes(event.data))
        if self.upgrade is None and self._protocol.handshake_exc is not None:
            raise UpgradeError(str(self._protocol.handshake_exc))
        return pieces

    def check_open(self) -> None:
        """Ask behind each `receive`, once its pieces are used. Raises ProtocolError, or EOFError when the client has said
        goodbye."""
        if self._protocol.state is State.OPEN or self.upgrade is None:
            return
        failure = self._protocol.parser_exc
        if failure is None or isinstance(failure, EOFError):
            raise EOFError
        raise failure if isinstance(failure, ProtocolError) else ProtocolError(str(failure))

    def _accept(self, request: Request, *, early: bool) -> None:
        protocol = self._protocol
        if protocol.parser_exc is not None:
            # What came behind the request is no frame, and the library has ended the stream: nothing can be answered.
            raise UpgradeError(EARLY)
        refused = self._refusal(request)
        if early and refused is None:
            refused = 400, EARLY
        if refused is not None:
            status, text = refused
            protocol.send_response(protocol.reject(status, text + "\n"))
            raise UpgradeError(text)
        response = protocol.accept(request)
        if response.status_code == 101:
            for name, value in self._settings.headers.items():
                response.headers[name] = value
        protocol.send_response(response)
        if protocol.state is not State.OPEN:
            raise UpgradeError(str(protocol.handshake_exc))
        self._deflates = bool(protocol.extensions)
        self.upgrade = _upgrade(request, self._settings)

    def _refusal(self, request: Request) -> tuple[int, str] | None:
        if request.path.partition("?")[0].endswith(PATHS_OF_OTHERS):
            return 404, "nothing is served at this path"
        host = request.headers.get_all("Host")
        if len(host) != 1 or not host[0]:
            return 400, "'Host' missing in request"
        origin = (request.headers.get_all("Origin") or request.headers.get_all("Sec-WebSocket-Origin") or [""])[0]
        if origin and not origin_allowed(origin, host[0], self._settings, tls=self._tls):
            return 403, "origin not allowed"
        return None

    def frame(self, data: bytes) -> None:
        """NATS protocol to the client, as one frame; `take` gives its bytes."""
        protocol = self._protocol
        if protocol.state is not State.OPEN:
            return
        if self._deflates and len(data) < COMPRESS_BYTES_MIN:
            extensions, protocol.extensions = protocol.extensions, []
            protocol.send_binary(data)
            protocol.extensions = extensions
        else:
            protocol.send_binary(data)

    def close(self, reason: int) -> None:
        """Say why the connection ends."""
        if self._protocol.state is State.OPEN:
            code = _CLOSE_CODES.get(CloseReason(reason), _CODE_OTHER)
            if code == 1015:
                code = _CODE_OTHER  # never on the wire (RFC 6455 7.4.1)
            self._protocol.send_close(code, CloseReason(reason).text[:100])

    def take(self) -> bytes:
        """Bytes for the client."""
        return b"".join(self._protocol.data_to_send())


def _upgrade(request: Request, settings: WebSocketSettings) -> Upgrade:
    forwarded = (request.headers.get_all("X-Forwarded-For") or [""])[0]
    try:
        client_ip = str(ipaddress.ip_address(forwarded))
    except ValueError:
        client_ip = ""
    cookies = read_cookies(request.headers.get_all("Cookie"))
    return Upgrade(
        client_ip,
        jwt=cookies.get(settings.jwt_cookie, ""),
        user=cookies.get(settings.user_cookie, ""),
        password=cookies.get(settings.pass_cookie, ""),
        token=cookies.get(settings.token_cookie, ""),
    )


def read_cookies(lines: list[str]) -> Mapping[str, str]:
    """The cookies of a request, of equal names the last; what is none is left out (Go's readCookies).

    The standard library's reader is for what servers set, and takes a time that grows with the square of a value's escapes.
    """
    found: dict[str, str] = {}
    for line in lines:
        for part in line.split(";"):
            name, _, value = part.strip().partition("=")
            if len(value) > 1 and value[0] == value[-1] == '"':
                value = value[1:-1]
            if _COOKIE_NAME.fullmatch(name) and _COOKIE_VALUE.fullmatch(value):
                found[name] = value
    return found


def origin_allowed(origin: str, host: str, settings: WebSocketSettings, *, tls: bool) -> bool:
    """Whether a page of this origin may connect (websocket.go checkOrigin): same_origin, then the list."""
    if not settings.same_origin and not settings.allowed_origins:
        return True
    theirs = _origin(origin)
    if theirs is None:
        return False
    if settings.same_origin and theirs != _origin(f"{'https' if tls else 'http'}://{host}"):
        return False
    return not settings.allowed_origins or theirs in map(_origin, settings.allowed_origins)


def _origin(url: str) -> tuple[str, str, int] | None:
    """(scheme, host, port) of an http or https URL."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme.lower()]
    except (ValueError, KeyError):
        return None
    return (parts.scheme.lower(), parts.hostname or "", port) if parts.hostname else None
