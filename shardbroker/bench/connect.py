"""Connections for the load generator: all before and after the measured part, in blocking Python."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import orjson

from shardbroker.bench import LoadError

OPTIONS = {
    "verbose": False,
    "pedantic": False,
    "echo": True,
    "headers": True,
    "no_responders": True,
    "protocol": 1,
    "lang": "perf",
    "version": "1",
}


def hello(name: str = "load") -> bytes:
    """CONNECT and PING, as every connection of a load begins."""
    return b"CONNECT " + orjson.dumps({**OPTIONS, "name": name}) + b"\r\nPING\r\n"


class Connection:
    """One client connection that has been greeted; non-blocking once `fd` is handed to a compiled loop."""

    def __init__(
        self, host: str, port: int, *, name: str = "load", source: str = "", timeout_seconds: float = 20.0
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_seconds)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if source:
                self._socket.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24), 1)
                self._socket.bind((source, 0))
            self._socket.connect((host, port))
            self._pending = b""
            line = self._line()
            if not line.startswith(b"INFO "):
                raise LoadError(f"not INFO: {line!r}")
            self.info: dict[str, Any] = orjson.loads(line[5:])
            self._socket.sendall(hello(name))
            self._await_pong()
        except BaseException:
            self._socket.close()
            raise

    @property
    def fd(self) -> int:
        self._socket.setblocking(False)
        return self._socket.fileno()

    def subscribe(self, *lines: bytes) -> None:
        """Send SUB lines (without the verb and CR LF) and wait until the server has them."""
        self._socket.settimeout(self._timeout_seconds)
        self._socket.sendall(b"".join(b"SUB %s\r\n" % line for line in lines) + b"PING\r\n")
        self._await_pong()

    def silent(self) -> None:
        """Check that nothing is left on the way: after a PING comes its PONG, not one message more."""
        self._socket.settimeout(self._timeout_seconds)
        self._socket.sendall(b"PING\r\n")
        self._await_pong()

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _line(self) -> bytes:
        while b"\r\n" not in self._pending:
            data = self._socket.recv(65536)
            if not data:
                raise LoadError(f"server closed the connection: {self._pending!r}")
            self._pending += data
        line, self._pending = self._pending.split(b"\r\n", 1)
        return line

    def _await_pong(self) -> None:
        while (line := self._line()) != b"PONG":
            if line == b"PING":
                self._socket.sendall(b"PONG\r\n")
            elif not line.startswith(b"INFO "):
                raise LoadError(f"PONG was awaited, got {line[:200]!r}")


def wait_for_info(
    host: str, port: int, alive: Callable[[], None], timeout_seconds: float
) -> tuple[float, dict[str, Any]]:
    """Try until a server on host:port sends INFO. When that was (time.monotonic()) and what it said.

    alive: called between attempts; raises when waiting has no sense any more.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        alive()
        try:
            with socket.create_connection((host, port), timeout=timeout_seconds) as s:
                data = b""
                while b"\r\n" not in data:
                    part = s.recv(65536)
                    if not part:
                        break
                    data += part
                if data.startswith(b"INFO "):
                    return time.monotonic(), orjson.loads(data[5:].split(b"\r\n", 1)[0])
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise LoadError(f"no INFO from {host}:{port} within {timeout_seconds} s")
        time.sleep(0.001)
