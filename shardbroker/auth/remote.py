"""Account JWTs that a web server gives: resolver: URL(...).

    GET <url>/<account key>    200 and the JWT        asked for when somebody logs in whose account is not known yet

What has come stays, in the memory of each shard, until it is asked for again: when it has ended, at a reload, or when someone
sends a newer one (shard/fetching.py). Only tokens that somebody trusted has signed get in here, so that their number is the
operator's. Source: nats-server's accounts.go URLAccResolver, server.go fetchAccount and updateAccount.
"""

from __future__ import annotations

import base64
import http.client
import ssl
import time
from typing import Final
from urllib import error, parse, request

from shardbroker.auth.jwt import TOKEN_BYTES_MAX
from shardbroker.auth.model import Resolver
from shardbroker.auth.resolver import ResolverError

# const.go DEFAULT_ACCOUNT_FETCH_TIMEOUT: less than the two seconds that a client has for its login.
FETCH_SECONDS: Final = 1.9
_CHUNK_BYTES: Final = 1 << 16


class AccountAbsent(ResolverError):
    """The server says that there is no such account."""


class HttpSource:
    """The web server. Its calls block; several threads may be in them."""

    def __init__(self, resolver: Resolver) -> None:
        parts = parse.urlsplit(resolver.url)
        host = parts.netloc.rpartition("@")[2]
        self._url = parse.urlunsplit(parts._replace(netloc=host))
        if not self._url.endswith("/"):
            self._url += "/"
        self._credentials = ""
        if parts.username is not None:
            said = f"{parse.unquote(parts.username)}:{parse.unquote(parts.password or '')}"
            self._credentials = "Basic " + base64.b64encode(said.encode()).decode()
        self._resolver = resolver
        self._opener: request.OpenerDirector | None = None

    def open(self) -> request.OpenerDirector:
        """What asks. Raises ResolverError when a file of resolver_tls is no certificate."""
        # Neither a proxy of the environment nor other kinds of URL, which urllib's usual opener has.
        opener = request.OpenerDirector()
        handlers: tuple[request.BaseHandler, ...] = (
            request.HTTPHandler(),
            request.HTTPSHandler(context=_context(self._resolver)),
            request.HTTPDefaultErrorHandler(),
            request.HTTPRedirectHandler(),
            request.HTTPErrorProcessor(),
            request.UnknownHandler(),
        )
        for handler in handlers:
            opener.add_handler(handler)
        return opener

    def get(self, key: str) -> str:
        """What the server has under an account's key; empty key: whether it is there. Raises ResolverError."""
        url = self._url + key
        asked = request.Request(url)
        if self._credentials:
            # Not for where a redirect leads.
            asked.add_unredirected_header("Authorization", self._credentials)
        end = time.monotonic() + FETCH_SECONDS
        body = bytearray()
        if self._opener is None:
            self._opener = self.open()
        try:
            with self._opener.open(asked, timeout=FETCH_SECONDS) as answer:
                if answer.status != 200:
                    raise ResolverError(f'could not fetch <"{url}">: {answer.status} {answer.reason}')
                while chunk := answer.read1(_CHUNK_BYTES):
                    body += chunk
                    if len(body) > TOKEN_BYTES_MAX:
                        raise ResolverError(f'could not fetch <"{url}">: more than {TOKEN_BYTES_MAX} bytes')
                    if time.monotonic() > end:
                        raise ResolverError(f'could not fetch <"{url}">: timed out')
        except error.HTTPError as problem:
            with problem:
                kind = AccountAbsent if problem.code in (404, 410) else ResolverError
                raise kind(f'could not fetch <"{url}">: {problem.code} {problem.reason}') from None
        except (OSError, http.client.HTTPException, ValueError) as problem:
            why = problem.reason if isinstance(problem, error.URLError) else problem
            raise ResolverError(f'could not fetch <"{url}">: {str(why) or type(why).__name__}') from None
        return body.decode("ascii", "replace").strip()


def _context(resolver: Resolver) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=resolver.ca_file or None)
        if resolver.cert_file:
            context.load_cert_chain(resolver.cert_file, resolver.key_file, password=lambda: "")
    except (OSError, ValueError) as problem:
        raise ResolverError(f"resolver_tls: {problem}") from None
    if resolver.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class UrlStore:
    """What has been fetched. One shard's, in its loop; it asks nobody itself."""

    writable = False

    def __init__(self, resolver: Resolver) -> None:
        self.source = HttpSource(resolver)
        self._tokens: dict[str, tuple[int, str]] = {}
        self._stamp = 0
        self._changes = 0

    def inherit(self, before: UrlStore) -> None:
        """After a reload: what was known stays known until it has been asked for again."""
        self._tokens = dict(before._tokens)
        self._stamp, self._changes = before._stamp, before._changes

    def load(self, key: str) -> str | None:
        kept = self._tokens.get(key)
        return kept[1] if kept is not None else None

    def stamp(self, key: str) -> object:
        kept = self._tokens.get(key)
        return kept[0] if kept is not None else None

    def changes(self) -> object:
        return self._changes

    def keys(self) -> list[str]:
        return list(self._tokens)

    def keep(self, key: str, token: str, *, late: bool) -> None:
        """An account's JWT, which has been verified. `late`: somebody is in already who would have needed it. One that nobody
        has missed is no change, so that those who are in need not be looked at again."""
        kept = self._tokens.get(key)
        if kept is None or kept[1] != token:
            self._stamp += 1
            self._tokens[key] = self._stamp, token
            self._changes += late or kept is not None

    def drop(self, key: str) -> None:
        """There is no such account any more."""
        if self._tokens.pop(key, None) is not None:
            self._changes += 1
