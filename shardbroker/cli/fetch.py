"""JSON of a monitoring port, shardbroker's or nats-server's. What comes is bounded and checked: it is another program's."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

import orjson

from shardbroker.errors import BrokerError

BODY_BYTES_MAX = 64 << 20
DEFAULT_URL = "http://127.0.0.1:8222"


class FetchError(BrokerError):
    """The server does not answer, or not with what it should. `status`: of HTTP, 0 without one."""

    def __init__(self, text: str, status: int = 0, body: bytes = b"") -> None:
        super().__init__(text)
        self.status = status
        self.body = body


def base_url(text: str) -> str:
    """http://host:port[/path] of what a person types; raises FetchError."""
    if "://" not in text:
        text = f"http://{text}"
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise FetchError(f"{text}: {error}") from None
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
        raise FetchError(f"{text}: not the address of a monitoring port, like {DEFAULT_URL}")
    if url.username is not None:
        raise FetchError("credentials in an address can be seen by all users of the machine; leave them out")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"{url.scheme}://{host}:{port or (8222 if url.scheme == 'http' else 443)}{url.path.rstrip('/')}"


def get_json(url: str, seconds: float, ca_file: str = "") -> dict[str, Any]:
    """The object at an address; raises FetchError."""
    context = ssl.create_default_context(cafile=ca_file or None) if url.startswith("https:") else None
    # No proxy: a monitoring port is asked, not a web site.
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=seconds) as answer:
            data = answer.read(BODY_BYTES_MAX + 1)
    except urllib.error.HTTPError as error:
        raise FetchError(f"{url}: {error.code} {error.reason}", error.code, error.read(4096)) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise FetchError(f"{url}: {getattr(reason, 'strerror', None) or reason}") from None
    if len(data) > BODY_BYTES_MAX:
        raise FetchError(f"{url}: the answer is longer than {BODY_BYTES_MAX >> 20} MiB")
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise FetchError(f"{url}: the answer is not JSON") from None
    if not isinstance(body, dict):
        raise FetchError(f"{url}: the answer is not an object")
    return body
