"""The monitoring process: HTTP or HTTPS on a socket that the front has bound, answered from shared memory and by the front.

Slow or dead, it harms nobody: shards are asked through the front, in steps of a fraction of a millisecond, for one large
page at a time. Ends when its channel to the front ends.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from shardbroker.errors import ConfigError
from shardbroker.ipc.channel import Channel, ChannelClosed, Message
from shardbroker.ipc.records import from_plain
from shardbroker.monitor.index import index_page
from shardbroker.monitor.listener import Listener
from shardbroker.monitor.metrics import CONTENT_TYPE
from shardbroker.monitor.pages import NotFound, Pages
from shardbroker.monitor.query import AccountStatzQuery, BadQuery, UrlArguments
from shardbroker.monitor.sampler import WINDOW_SECONDS
from shardbroker.monitor.source import Statistics
from shardbroker.options import TlsSettings
from shardbroker.shm.segment import Segment

METHODS: Final = ["GET", "HEAD", "POST"]
HEADERS: Final = {"Access-Control-Allow-Origin": "*"}
QUERY_BYTES_MAX: Final = 4096
# Pages that may be large: so many are made and sent at once, the others wait.
HEAVY: Final = ("/connz", "/subsz", "/subscriptionsz", "/jsz", "/accountz", "/accstatz", "/metrics", "/metrics/detailed")
HEAVY_MAX: Final = 2


class RemoteSource:
    """What pages are made of, as the monitoring process gets it: through the front."""

    def __init__(self, segment: Segment, channel: Channel) -> None:
        self.statistics = Statistics(segment.map)
        self._channel = channel

    async def front(self, op: str) -> Mapping[str, Any]:
        return await self._channel.request({"op": op})

    async def ask(self, shard: int, op: str, query: Mapping[str, Any]) -> Mapping[str, Any] | None:
        answer = await self._channel.request({"op": "ask", "shard": shard, "ask": op, "query": dict(query)})
        part: Mapping[str, Any] | None = answer["part"]
        return part


class Monitor:
    """The endpoints."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._requests: Counter[str] = Counter()
        self._heavy = asyncio.Semaphore(HEAVY_MAX)
        # Whom the door has turned away; set by who opens it
        self.rejected: Mapping[str, int] = {}

    def app(self, base_path: str) -> ASGIApp:
        """The ASGI application, under `base_path`."""
        base = base_path.rstrip("/")
        pages = self._pages
        bodies: dict[str, Callable[[UrlArguments], Awaitable[dict[str, Any]]]] = {
            "/varz": lambda given: pages.varz(self._requests),
            "/connz": pages.connz,
            "/routez": pages.routez,
            "/gatewayz": pages.gatewayz,
            "/leafz": pages.leafz,
            "/subsz": pages.subsz,
            "/subscriptionsz": pages.subsz,
            "/accountz": lambda given: pages.accountz(given.text("acc")),
            "/accstatz": lambda given: pages.accstatz(AccountStatzQuery(given.flag("unused"))),
            "/jsz": pages.jsz,
            "/ipqueuesz": pages.ipqueuesz,
            "/raftz": pages.raftz,
            "/shardz": lambda given: pages.shardz(),
        }
        routes = [Route(base + path, self._json(path, body), methods=METHODS) for path, body in bodies.items()]
        routes += [
            Route(base + "/healthz", self._health("/healthz", pages.healthz), methods=METHODS),
            Route(base + "/livez", self._health("/livez", lambda given: pages.livez()), methods=METHODS),
            Route(base + "/readyz", self._health("/readyz", lambda given: pages.readyz()), methods=METHODS),
            Route(base + "/metrics", self._metrics("/metrics", detailed=False), methods=METHODS),
            Route(base + "/metrics/detailed", self._metrics("/metrics/detailed", detailed=True), methods=METHODS),
            Route(base or "/", self._index(base), methods=METHODS),
        ]
        if base:
            routes.append(Route(base + "/", self._index(base), methods=METHODS))
        inner = Starlette(
            routes=routes,
            exception_handlers={
                404: _no_page, BadQuery: _bad_query, NotFound: _not_found, ChannelClosed: _gone, Exception: _broken,
            },
        )  # fmt: skip
        # A slash too many is another page, as there.
        inner.router.redirect_slashes = False
        return self._bounded(inner, base)

    def _bounded(self, inner: ASGIApp, base: str) -> ASGIApp:
        heavy = {base + path for path in HEAVY}

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if len(scope["query_string"]) > QUERY_BYTES_MAX:
                await _text("query string too long", 414)(scope, receive, send)
            elif scope["path"] in heavy:
                async with self._heavy:
                    await inner(scope, receive, send)
            else:
                await inner(scope, receive, send)

        return app

    def _json(
        self, path: str, body: Callable[[UrlArguments], Awaitable[dict[str, Any]]]
    ) -> Callable[[Request], Awaitable[Response]]:
        # nats-server counts an alias as what it stands for.
        counted = "/subsz" if path == "/subscriptionsz" else path

        async def page(request: Request) -> Response:
            self._requests[counted] += 1
            found = await body(_arguments(request))
            data = orjson.dumps(found, option=orjson.OPT_INDENT_2)
            return Response(data, media_type="application/json", headers=HEADERS)

        return page

    def _index(self, base: str) -> Callable[[Request], Awaitable[Response]]:
        async def page(request: Request) -> Response:
            self._requests["/"] += 1
            return HTMLResponse(index_page(base))

        return page

    def _health(
        self, path: str, check: Callable[[UrlArguments], Awaitable[tuple[int, dict[str, Any]]]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def page(request: Request) -> Response:
            self._requests[path] += 1
            status, body = await check(_arguments(request))
            return Response(orjson.dumps(body), status, media_type="application/json", headers=HEADERS)

        return page

    def _metrics(self, path: str, *, detailed: bool) -> Callable[[Request], Awaitable[Response]]:
        async def page(request: Request) -> Response:
            self._requests[path] += 1
            data = await self._pages.metrics(self._requests, self.rejected, detailed=detailed)
            return Response(data, headers={"Content-Type": CONTENT_TYPE})

        return page


def _arguments(request: Request) -> UrlArguments:
    # Of several values the first counts, as in Go's url.Values.Get.
    return UrlArguments(dict(reversed(request.query_params.multi_items())))


def _text(text: str, status: int) -> Response:
    return PlainTextResponse(text, status, {"X-Content-Type-Options": "nosniff"})


async def _no_page(request: Request, error: Exception) -> Response:
    return _text("404 page not found\n", 404)


async def _bad_query(request: Request, error: Exception) -> Response:
    return _text(str(error), 400)


async def _not_found(request: Request, error: Exception) -> Response:
    return _text(str(error), 404)


async def _gone(request: Request, error: Exception) -> Response:
    return _text("the broker is stopping", 503)


async def _broken(request: Request, error: Exception) -> Response:
    return _text("internal error", 500)


def run_monitor(
    segment: Segment, channel: Channel, listener: socket.socket, base_path: str, tls: dict[str, Any] | None
) -> int:
    """Serve until the front has gone; the exit status. `tls`: fields of TlsSettings, for HTTPS."""
    asyncio.run(_serve(segment, channel, listener, base_path, tls))
    return 0


async def _serve(
    segment: Segment, channel: Channel, sock: socket.socket, base_path: str, tls: dict[str, Any] | None
) -> None:
    pages = Pages(RemoteSource(segment, channel))
    monitor = Monitor(pages)
    listener = Listener(monitor.app(base_path), sock, tls_context(tls) if tls is not None else None)
    monitor.rejected = listener.rejected
    ended = asyncio.Event()

    def on_message(channel: Channel, message: Message, descriptors: list[int]) -> None:
        # A reload: for connections to come. The front has read the same files already.
        if message.get("op") == "tls" and message["tls"] is not None:
            try:
                listener.tls = tls_context(message["tls"])
            except ConfigError:
                return

    channel.start(on_message, lambda _: ended.set())
    serving = asyncio.get_running_loop().create_task(listener.serve())
    sampling = asyncio.get_running_loop().create_task(_sample(pages))
    await ended.wait()
    serving.cancel()
    sampling.cancel()


async def _sample(pages: Pages) -> None:
    while True:
        await asyncio.sleep(WINDOW_SECONDS - time.monotonic() % WINDOW_SECONDS + 0.001)
        pages.sampler.refresh()


def tls_context(fields: dict[str, Any]) -> ssl.SSLContext:
    """As for clients, but nobody is asked for a certificate (server.go startMonitoring). Raises ConfigError."""
    # Only here: the library behind it is large.
    from shardbroker.shard.tls import server_context

    plain = {**fields, "verify": False, "verify_and_map": False, "pinned_certs": ()}
    return server_context(from_plain(TlsSettings, plain))
