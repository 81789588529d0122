"""A web server of account JWTs, as nats-account-server is one, for resolver: URL(...)."""

from __future__ import annotations

import base64
import contextlib
import ssl
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from harness.jwts import Signer


class AccountServer:
    """A web server of account JWTs under /jwt/v1/accounts/; counts what it is asked for."""

    def __init__(self, *accounts: tuple[Signer, str], context: ssl.SSLContext | None = None, word: str = "") -> None:
        self.tokens = {signer.public: token for signer, token in accounts}
        self.asked: Counter[str] = Counter()
        self.broken = False
        # A request for the account waits until the gate is open.
        self.gate = threading.Event()
        self.gate.set()
        expected = "Basic " + base64.b64encode(word.encode()).decode() if word else None
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                root, _, key = self.path.rpartition("/")
                web.asked[key] += 1
                if key:
                    web.gate.wait(60)
                token = web.tokens.get(key, "" if key else "here")
                status = 200 if token else 404
                if web.broken:
                    status = 500
                elif root != "/jwt/v1/accounts" or self.headers["Authorization"] != expected:
                    status = 403
                self.send_response(status)
                self.end_headers()
                self.wfile.write(token.encode() if status == 200 else b"no")

            def handle(self) -> None:
                # The broker does not wait for ever.
                with contextlib.suppress(OSError):
                    super().handle()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def url(self, scheme: str = "http", user: str = "", path: str = "/jwt/v1/accounts/") -> str:
        return f"{scheme}://{user}127.0.0.1:{self.port}{path}"

    def __enter__(self) -> AccountServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
