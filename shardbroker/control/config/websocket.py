"""The block `websocket {}`, and what of it must agree with the rest of the file. Source: opts.go parseWebsocket, websocket.go
validateWebsocketOptions.

Without a port nothing listens, and nothing is checked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from shardbroker.control.config import values
from shardbroker.control.config.access import check_no_auth_user, read_timeout
from shardbroker.control.config.blocks import Exact, Report, keys, read_block
from shardbroker.control.config.document import Entry
from shardbroker.control.config.listeners import read_tls
from shardbroker.options import WebSocketSettings
from shardbroker.wire.info import parse_host_port

# Of the answer to an upgrade itself.
_HEADERS_OF_THE_ANSWER: Final = frozenset({"host", "content-length", "connection", "upgrade", "nats-no-masking"})
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\U0010ffff]*")


@dataclass(slots=True)
class WebSocket:
    """What has been read so far."""

    report: Report
    entry: Entry | None = None
    settings: WebSocketSettings = field(default_factory=WebSocketSettings)

    def read(self, entry: Entry) -> None:
        if not isinstance(entry.value, dict):
            raise Exact(f"Expected websocket to be a map, got {values.shown(entry)}")
        report = self.report
        fields = read_block(
            entry,
            keys(
                {
                    "listen": ("listen", values.read_listen),
                    "port": ("port", values.read_port),
                    "host net": ("host", values.read_string),
                    "advertise": ("advertise", values.read_string),
                    "no_tls": ("no_tls", values.read_bool),
                    "tls": ("tls", partial(read_tls, report=report)),
                    "same_origin": ("same_origin", values.read_bool),
                    "allowed_origins allowed_origin allow_origins allow_origin origins origin": (
                        "allowed_origins",
                        values.read_strings,
                    ),
                    "handshake_timeout": ("handshake_timeout", partial(read_timeout, report=report)),
                    "compress compression": ("compression", values.read_bool),
                    "authorization authentication": ("authorization", partial(_authorization, report=report)),
                    "jwt_cookie": ("jwt_cookie", values.read_string),
                    "user_cookie": ("user_cookie", values.read_string),
                    "pass_cookie": ("pass_cookie", values.read_string),
                    "token_cookie": ("token_cookie", values.read_string),
                    "no_auth_user": ("no_auth_user", values.read_string),
                    "headers": ("headers", _headers),
                    "ping_interval": ("ping_interval", values.read_duration),
                }
            ),
            report,
        )
        host, port = fields.pop("listen", ("", fields.get("port", 0)))
        fields |= {"port": port} | ({"host": host} if host else {})
        fields |= fields.pop("authorization", {})
        self.entry, self.settings = entry, WebSocketSettings(**fields)

    def finish(self, options: Mapping[str, Any], *, operators: bool) -> dict[str, Any]:
        """Fields of Options. `options`: those that the rest of the file sets; `operators`: some are trusted. What is wrong is in
        the report."""
        if self.entry is None:
            return {}
        if self.settings.port:
            for key, text in self._wrong(options, operators):
                self.report.error(self._at(key), text)
        return {"websocket": self.settings}

    def _wrong(self, options: Mapping[str, Any], operators: bool) -> list[tuple[str, str]]:
        """(key that it is about, what is wrong)."""
        ours = self.settings
        wrong = []
        if ours.tls is None and not ours.no_tls and "tls" not in self._keys():
            wrong.append(("", "websocket requires TLS configuration"))
        wrong += [("origin", text) for origin in ours.allowed_origins if (text := origin_problem(origin))]
        if ours.no_auth_user and operators:
            wrong.append(("no_auth_user", "no_auth_user not compatible with Trusted Operator"))
        elif text := check_no_auth_user(ours.no_auth_user, options.get("users", ())):
            wrong.append(("no_auth_user", text))
        if options.get("users"):
            for name, what in (("user", "username"), ("token", "token")):
                if getattr(ours, name):
                    text = f"websocket authentication {what} not compatible with presence of users/nkeys"
                    wrong.append(("auth", text))
        if ours.jwt_cookie and not operators:
            text = "trusted operators or trusted keys configuration is required for JWT authentication via cookie "
            wrong.append(("jwt_cookie", f'{text}"{ours.jwt_cookie}"'))
        if ours.advertise:
            try:
                parse_host_port(ours.advertise, 0)
            except ValueError as error:
                wrong.append(("advertise", f"advertise: {error}"))
        wrong += [("headers", text) for name, value in ours.headers.items() if (text := _header_problem(name, value))]
        return wrong

    def _keys(self) -> dict[str, Entry]:
        assert self.entry is not None
        return {key.lower(): inner for key, inner in values.read_map(self.entry).items()}

    def _at(self, part: str) -> Entry:
        """The key of the block that has this in its name; the block itself when there is none."""
        assert self.entry is not None
        return next((inner for key, inner in self._keys().items() if part and part in key and key != "same_origin"), self.entry)


def origin_problem(origin: str) -> str:
    """Why this is no origin of pages: scheme, host and perhaps a port; empty when it is one."""
    try:
        parts = urlsplit(origin)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        return f'unable to parse allowed origin "{origin}": {error}'
    if parts.scheme not in ("http", "https"):
        return f'unable to parse allowed origin "{origin}": allowed origins must be absolute URLs with http or https scheme'
    if not host or port == 0:
        return f'unable to parse allowed origin "{origin}": host is required'
    if not re.fullmatch(r"[^\s\x00-\x20<>\"\\^`{|}]+", host) or (":" in host and "[" not in parts.netloc):
        return f'unable to parse allowed origin "{origin}": invalid character in host name'
    return ""


def _header_problem(name: str, value: str) -> str:
    if name.lower() in _HEADERS_OF_THE_ANSWER:
        return f'websocket: invalid header "{name}" not allowed'
    if name.lower().startswith("sec-websocket-"):
        return f'websocket: invalid header "{name}", "Sec-WebSocket-" prefix not allowed'
    if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
        return f"websocket: header {name!r} cannot be sent: a character that HTTP does not have there"
    return ""


def _headers(entry: Entry) -> dict[str, str]:
    for key, value in values.read_map(entry).items():
        if not isinstance(value.value, str):
            raise Exact(f"error parsing header key {key}: expected a string, got {values.shown(value)}")
    return values.read_string_map(entry)


def _authorization(entry: Entry, report: Report) -> dict[str, Any]:
    return read_block(
        entry,
        keys(
            {
                "user username": ("user", values.read_string),
                "pass password": ("password", values.read_string),
                "token": ("token", values.read_string),
                "timeout": ("auth_timeout", partial(read_timeout, report=report)),
            }
        ),
        report,
    )
