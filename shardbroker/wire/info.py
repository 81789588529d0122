"""The INFO line: what a server says of itself to a client. Source: server.go Info, client.go generateClientInfoJSON.

Fields that do not apply are left out, as Go's omitempty does; the order is nats-server's.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from shardbroker import limits
from shardbroker.options import Options

# nkeys: the first byte of a server's public key makes its text begin with N.
_SERVER_PREFIX = 13 << 3


def new_server_id() -> str:
    """56 characters of the form of a server's public nkey: prefix, 32 random bytes, CRC-16, in base 32."""
    raw = bytes([_SERVER_PREFIX]) + os.urandom(32)
    return base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).decode()


@dataclass(frozen=True, slots=True)
class Addresses:
    """host:port where clients can go, as the servers of a cluster know: here, and at the others."""

    own_client: tuple[str, ...] = ()
    client: tuple[str, ...] = ()
    own_websocket: tuple[str, ...] = ()
    websocket: tuple[str, ...] = ()


NO_ADDRESSES = Addresses()


class InfoLines:
    """Makes the INFO lines of one server under one set of options.

    `options.port` is the port that is listened on (not -1). What is the same for all clients is encoded once.
    """

    __slots__ = ("_heads", "_tails", "fields")

    def __init__(
        self,
        options: Options,
        *,
        server_id: str,
        cluster: str = "",
        addresses: Addresses = NO_ADDRESSES,
        lame_duck: bool = False,
    ) -> None:
        host, port = advertised(options)
        tls = options.tls
        self.fields: dict[str, Any] = {
            "server_id": server_id,
            "server_name": options.server_name or server_id,
            "version": limits.PROTOCOL_VERSION,
            "proto": limits.PROTOCOL_LEVEL,
            "go": limits.GO_VERSION,
            "host": host,
            "port": port,
            "headers": options.headers,
            **({"auth_required": True} if options.auth_announced else {}),
            **({"tls_required": True} if tls is not None and not options.allow_non_tls else {}),
            **({"tls_verify": True} if tls is not None and (tls.verify or tls.verify_and_map) else {}),
            **({"tls_available": True} if tls is not None and options.allow_non_tls else {}),
            "max_payload": options.max_payload,
            **({"jetstream": True} if options.jetstream.enabled else {}),
        }
        tail: dict[str, Any] = {"cluster": cluster} if cluster else {}
        if options.jetstream.enabled:
            tail["api_lvl"] = limits.API_LEVEL
        # A lame duck names others only (server.go sendLDMToClients).
        own = [] if lame_duck else list(addresses.own_client) or connect_urls(options)
        own_websocket = [] if lame_duck else list(addresses.own_websocket)
        ldm = {"ldm": True} if lame_duck else {}
        tails = {
            "client": tail | _connect_urls(own, addresses.client) | ldm,
            "websocket": tail | _connect_urls(own_websocket, addresses.websocket) | ldm,
        }
        self._heads = {
            "client": b"INFO " + orjson.dumps(self.fields)[:-1],
            "websocket": b"INFO " + orjson.dumps(_of_websocket(self.fields, options))[:-1],
        }
        self._tails = {kind: b"," + orjson.dumps(tail)[1:-1] if tail else b"" for kind, tail in tails.items()}
        self.fields |= tails["client"]

    def line(self, client_id: int, client_ip: str, nonce: bytes = b"", kind: str = "client") -> bytes:
        """The line that greets a client, and that tells it of a change. `nonce`: what it has to sign, base64url. `kind`:
        of its listener, client or websocket. Without an address there is none in it: a proxy has yet to say it."""
        return b"%b%b%b} \r\n" % (self._heads[kind], _client(client_id, client_ip, nonce), self._tails[kind])

    def connect_line(
        self, client_id: int, client_ip: str, nonce: bytes, account: str, is_system: bool, kind: str = "client"
    ) -> bytes:
        """The line behind the first PONG: what the CONNECT came to (client.go processPing)."""
        connected = b',"connect_info":true,"remote_account":%b' % orjson.dumps(account)
        if is_system:
            connected += b',"acc_is_sys":true'
        return b"%b%b%b%b} \r\n" % (self._heads[kind], _client(client_id, client_ip, nonce), self._tails[kind], connected)


def _connect_urls(own: Sequence[str], others: Sequence[str]) -> dict[str, list[str]]:
    urls = list(dict.fromkeys((*own, *others)))
    return {"connect_urls": urls} if urls else {}


def _of_websocket(fields: dict[str, Any], options: Options) -> dict[str, Any]:
    """The same for a client of the WebSocket listener (client.go generateClientInfoJSON)."""
    settings = options.websocket
    host, port = settings.host or options.host, settings.port
    if settings.advertise:
        host, port = parse_host_port(settings.advertise, port)
    auth = {"auth_required": True} if settings.user or settings.token else {}
    tls = {"tls_required": True, "tls_available": True} if settings.tls is not None else {}
    left = {key: value for key, value in fields.items() if not key.startswith("tls_")}
    payload = left.pop("max_payload")
    return {**left, **auth, "host": host, "port": port, **tls, "max_payload": payload}


def _client(client_id: int, client_ip: str, nonce: bytes) -> bytes:
    signed = b',"nonce":"%b"' % nonce if nonce else b""
    address = b',"client_ip":%b' % orjson.dumps(client_ip) if client_ip else b""
    return b',"client_id":%d%b%b' % (client_id, address, signed)


def advertised(options: Options) -> tuple[str, int]:
    """Host and port that INFO names (server.go setInfoHostPort). Raises ValueError when client_advertise is none."""
    if options.client_advertise:
        return parse_host_port(options.client_advertise, options.port)
    return options.host, options.port


def connect_urls(options: Options) -> list[str]:
    """`host:port` of where clients can come back to: what the operator advertises, else nothing.

    As of nats-server without a cluster: with one server a client knows already where it is, and the addresses of its
    interfaces may be no good from where the client stands.
    """
    if not options.client_advertise:
        return []
    return [join_host_port(*parse_host_port(options.client_advertise, options.port))]


def parse_host_port(text: str, port_default: int) -> tuple[str, int]:
    """`host`, `host:port` or `[v6]:port`; the default for no port, 0 and -1 (util.go parseHostPort). Raises ValueError."""
    text = text.strip()
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"address {text}: missing ']' or port")
        port = rest[1:]
    elif text.count(":") == 1:
        host, port = text.split(":")
    elif ":" in text:
        raise ValueError(f"address {text}: too many colons in address")
    if not text:
        raise ValueError("no hostport specified")
    try:
        number = int(port) if port else 0
    except ValueError:
        raise ValueError(f"address {text}: invalid port") from None
    if not -1 <= number <= 65535:
        raise ValueError(f"address {text}: invalid port")
    return host.strip(), number if number > 0 else port_default


def join_host_port(host: str, port: int) -> str:
    """Go's net.JoinHostPort: IPv6 addresses in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
