"""Connections for the load generator: all before and after the measured part, in blocking Python."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson

from shardbroker.bench import LoadError
from shardbroker.bench.credentials import signed

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
PORT = 4222
MESSAGE_BYTES_MAX = 64 << 20


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server is, and as whom it is asked. `host` is a name or an address."""

    host: str
    port: int = PORT
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    # Of an nkey, with a JWT or alone
    seed: str = field(default="", repr=False)
    jwt: str = field(default="", repr=False)

    @classmethod
    def of(
        cls, url: str, *, user: str = "", password: str = "", token: str = "", seed: str = "", jwt: str = ""
    ) -> Endpoint:
        """From nats://[user:password@|token@]host[:port]; what is given beside it wins. Raises LoadError."""
        text = url if "://" in url else f"nats://{url}"
        try:
            parts = urlsplit(text)
            port = parts.port or PORT
        except ValueError as error:
            raise LoadError(f"the server's URL cannot be read: {error}") from None
        if parts.scheme == "tls":
            raise LoadError("TLS is not spoken by the load generator (docs/load-testing.md says why); give a nats:// URL")
        if parts.scheme != "nats" or not parts.hostname or parts.path.strip("/"):
            raise LoadError("the server's URL must look like nats://[user:password@]host[:port]")
        name, secret = unquote(parts.username or ""), unquote(parts.password or "")
        if name and not secret and not user:
            token, name = token or name, ""
        return cls(parts.hostname, port, user or name, password or secret, token, seed, jwt)

    @property
    def address(self) -> str:
        """Without credentials, for people."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether it is on a loopback address of this machine."""
        return self.host.startswith("127.") or self.host == "::1"

    @property
    def packed(self) -> bytes:
        """The address as 4 or 16 bytes. Resolved endpoints only."""
        return ipaddress.ip_address(self.host).packed

    def resolve(self) -> Endpoint:
        """The same with an address in numbers, IPv4 where there is one. Raises LoadError."""
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise LoadError(f"no address is known of {self.host!r}: {error.strerror}") from None
        found.sort(key=lambda one: one[0] != socket.AF_INET)
        host = str(found[0][4][0])
        if "%" in host:
            raise LoadError(f"{host} is of one interface only; give an address that needs no scope")
        return replace(self, host=host)

    def credentials(self, nonce: str = "") -> dict[str, str]:
        """What CONNECT says of who asks. `nonce`: what the server's INFO wants to have signed."""
        if self.seed:
            return signed(self.seed, nonce, self.jwt)
        if self.token:
            return {"auth_token": self.token}
        return {"user": self.user, "pass": self.password} if self.user else {}


def hello(name: str = "load", endpoint: Endpoint | None = None, nonce: str = "") -> bytes:
    """CONNECT and PING, as every connection of a load begins."""
    credentials = endpoint.credentials(nonce) if endpoint else {}
    return b"CONNECT " + orjson.dumps({**OPTIONS, "name": name, **credentials}) + b"\r\nPING\r\n"


class Connection:
    """One client connection that has been greeted; non-blocking once `fd` is handed to a compiled loop."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        name: str = "load",
        source: str = "",
        timeout_seconds: float = 20.0,
        endpoint: Endpoint | None = None,
        receive_bytes: int = 0,
    ) -> None:
        """endpoint: for its credentials. receive_bytes: of the socket's receive buffer; 0: the kernel's choice."""
        self._timeout_seconds = timeout_seconds
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_seconds)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if receive_bytes:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            if source:
                self._socket.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24), 1)
                self._socket.bind((source, 0))
            try:
                self._socket.connect((host, port))
            except OSError as error:
                said = error.strerror or "no answer in time"
                raise LoadError(f"no server at {host}:{port}: {said}") from None
            self._pending = b""
            line = self._line()
            if not line.startswith(b"INFO "):
                raise LoadError(f"{host}:{port} is no NATS server, it said {line[:80]!r} instead of INFO")
            try:
                self.info: dict[str, Any] = orjson.loads(line[5:])
            except ValueError:
                raise LoadError(f"{host}:{port} sent an INFO that is no JSON: {line[:80]!r}") from None
            if self.info.get("tls_required"):
                raise LoadError(f"{host}:{port} wants TLS, which the load generator does not speak")
            self._socket.sendall(hello(name, endpoint, str(self.info.get("nonce", ""))))
            self._await_pong()
        except TimeoutError:
            self._socket.close()
            raise LoadError(f"{host}:{port} does not answer within {timeout_seconds:g} s") from None
        except OSError as error:
            self._socket.close()
            raise LoadError(f"{host}:{port} broke the connection: {error.strerror}") from None
        except BaseException:
            self._socket.close()
            raise

    @property
    def fd(self) -> int:
        self._socket.setblocking(False)
        return self._socket.fileno()

    def subscribe(self, *lines: bytes) -> None:
        """Send SUB lines (without the verb and CR LF) and wait until the server has them."""
        self.send(*(b"SUB %s" % line for line in lines))

    def send(self, *lines: bytes) -> None:
        """Send whole lines (without CR LF) and wait until the server has dealt with them."""
        self._socket.settimeout(self._timeout_seconds)
        for begin in range(0, len(lines), 10_000):  # its answer, if any, comes after each part
            part = lines[begin : begin + 10_000]
            self._socket.sendall(b"".join(b"%s\r\n" % line for line in part) + b"PING\r\n")
            self._await_pong()

    def silent(self) -> None:
        """Check that nothing is left on the way: after a PING comes its PONG, not one message more."""
        self._socket.settimeout(self._timeout_seconds)
        self._socket.sendall(b"PING\r\n")
        self._await_pong()

    def messages(self, *lines: bytes) -> list[tuple[bytes, bytes]]:
        """Send whole lines and PING; the messages (header words, payload) that come before its PONG."""
        self._socket.settimeout(self._timeout_seconds)
        self._socket.sendall(b"".join(b"%s\r\n" % line for line in lines) + b"PING\r\n")
        found = []
        while (line := self._line()) != b"PONG":
            if line.startswith((b"MSG ", b"HMSG ")):
                found.append((line, self._bytes(int(line.split()[-1]) + 2)[:-2]))
            else:
                self._control(line)
        return found

    def request(
        self, subject: bytes, payload: bytes, inbox: bytes, seconds: float = 10.0
    ) -> tuple[bytes, bytes]:
        """Ask and wait for one answer on `inbox`, which is not subscribed yet. Its headers and payload; LoadError."""
        self._socket.settimeout(seconds)
        self._socket.sendall(
            b"SUB %s 90001\r\nUNSUB 90001 1\r\nPUB %s %s %d\r\n%s\r\n"
            % (inbox, subject, inbox, len(payload), payload)
        )
        try:
            while True:
                line = self._line()
                if line.startswith((b"MSG ", b"HMSG ")):
                    words = line.split()
                    headers = int(words[-2]) if line[:1] == b"H" else 0
                    body = self._bytes(int(words[-1]) + 2)[:-2]
                    if headers and body.startswith(b"NATS/1.0 503"):
                        raise LoadError(f"nobody answers {subject.decode(errors='replace')}")
                    return body[:headers], body[headers:]
                self._control(line)
        except TimeoutError:
            raise LoadError(f"no answer to {subject.decode(errors='replace')} within {seconds:g} s") from None

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
            self._more()
        line, self._pending = self._pending.split(b"\r\n", 1)
        return line

    def _bytes(self, count: int) -> bytes:
        if count > MESSAGE_BYTES_MAX:
            raise LoadError(f"a message of {count} bytes")
        while len(self._pending) < count:
            self._more()
        data, self._pending = self._pending[:count], self._pending[count:]
        return data

    def _more(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise LoadError(f"server closed the connection: {self._pending[:200]!r}")
        self._pending += data

    def _control(self, line: bytes) -> None:
        """A line that is not what is waited for: a PING is answered, an error raised."""
        if line == b"PING":
            self._socket.sendall(b"PONG\r\n")
        elif line.startswith(b"-ERR"):
            raise LoadError(f"the server refused: {line[5:200].decode(errors='replace')}")
        elif not line.startswith(b"INFO ") and line != b"+OK":
            raise LoadError(f"PONG was awaited, got {line[:200]!r}")

    def _await_pong(self) -> None:
        while (line := self._line()) != b"PONG":
            self._control(line)


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
