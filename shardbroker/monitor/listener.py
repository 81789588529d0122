"""The door of the monitor: connections to uvicorn's HTTP protocol, bounded before a byte of them is read.

    accept -> fewer than CONNECTIONS_MAX? -> TLS handshake (HANDSHAKE_SECONDS) -> one request after the other
                                                                                   |  REQUEST_SECONDS for its head
                                                                                   v  ANSWER_SECONDS to take the answer

Whoever is too slow is closed; who comes while all places are taken is closed at once. A head is HEAD_BYTES at the most.
uvicorn's own server accepts without a bound and waits for a head for ever, so only its protocol is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections import Counter
from email.utils import formatdate
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

CONNECTIONS_MAX: Final = 64
HEAD_BYTES: Final = 16 << 10
# monitor.go: ReadHeaderTimeout. Also how long a connection may wait for its next request.
REQUEST_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 30.0
HANDSHAKE_SECONDS: Final = 5.0
SWEEP_SECONDS: Final = 0.5


class Connection(H11Protocol):
    """One client, with the time since when it owes us something."""

    since: float
    answered: int = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.since = time.monotonic()
        super().connection_made(transport)

    def late(self, now: float) -> bool:
        """Whether it has been waited for long enough."""
        cycle = self.cycle
        answering = cycle is not None and not cycle.response_complete
        return now - self.since > (ANSWER_SECONDS if answering else REQUEST_SECONDS)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self.since = time.monotonic()

    def on_response_complete(self) -> None:
        self.since = time.monotonic()
        super().on_response_complete()


class Listener:
    """Accepts for one application. `rejected` counts whom it turned away, by why."""

    def __init__(self, app: Any, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        self.tls = tls
        self.rejected: Counter[str] = Counter()
        self._socket = sock
        self._config = uvicorn.Config(
            app,
            log_config=None,
            log_level="critical",
            access_log=False,
            lifespan="off",
            interface="asgi3",
            http=Connection,
            ws="none",
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(REQUEST_SECONDS),
            h11_max_incomplete_event_size=HEAD_BYTES,
        )
        self._config.load()
        self._state = ServerState()
        self._tasks: set[asyncio.Task[None]] = set()
        self._shaking = 0

    async def serve(self) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()
        self._socket.setblocking(False)
        sweep = loop.create_task(self._sweep())
        try:
            while True:
                try:
                    sock, _ = await loop.sock_accept(self._socket)
                except OSError:
                    # No descriptors, or a client that has gone already.
                    self.rejected["accept"] += 1
                    await asyncio.sleep(0.05)
                    continue
                if len(self._state.connections) + self._shaking >= CONNECTIONS_MAX:
                    self.rejected["connections"] += 1
                    sock.close()
                    continue
                self._shaking += 1
                task = loop.create_task(self._welcome(sock))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            sweep.cancel()

    async def _welcome(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()

        def protocol() -> Connection:
            return Connection(config=self._config, server_state=self._state, app_state={}, _loop=loop)

        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            timeout = HANDSHAKE_SECONDS if self.tls is not None else None
            await loop.connect_accepted_socket(protocol, sock, ssl=self.tls, ssl_handshake_timeout=timeout)
        except (OSError, ssl.SSLError, TimeoutError):
            self.rejected["handshake"] += 1
            with contextlib.suppress(OSError):
                sock.close()
        finally:
            self._shaking -= 1

    async def _sweep(self) -> None:
        while True:
            self._state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
            now = time.monotonic()
            for connection in list(self._state.connections):
                if isinstance(connection, Connection) and connection.late(now):
                    self.rejected["slow"] += 1
                    connection.transport.abort()
            await asyncio.sleep(SWEEP_SECONDS)
