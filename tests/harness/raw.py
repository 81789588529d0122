"""A blocking client of raw bytes: send, expect exactly this, expect nothing, expect the end.

Each read has a watchdog, so that a wrong server fails a test and never hangs it. `expect_nothing` does not
wait for a time: it asks with PING twice and accepts only the two PONGs. The server's own PINGs (the first
comes two seconds after CONNECT) are answered and taken out of what a test sees, unless it asks for them.
"""

from __future__ import annotations

import json
import re
import socket
from contextlib import suppress
from typing import Any

# What most tests say first: no +OK, no checks of published subjects.
CONNECT = '{"verbose":false,"pedantic":false}'


def connect_line(**options: Any) -> bytes:
    """A CONNECT line that is neither verbose nor pedantic, changed by `options`."""
    return b"CONNECT " + json.dumps({"verbose": False, "pedantic": False, **options}).encode() + b"\r\n"


def pub(subject: str, payload: bytes | str = b"", reply: str = "") -> bytes:
    body = payload.encode() if isinstance(payload, str) else payload
    return f"PUB {subject} {reply + ' ' if reply else ''}{len(body)}\r\n".encode() + body + b"\r\n"


def msg(subject: str, sid: int | str, payload: bytes | str = b"", reply: str = "") -> bytes:
    body = payload.encode() if isinstance(payload, str) else payload
    return f"MSG {subject} {sid} {reply + ' ' if reply else ''}{len(body)}\r\n".encode() + body + b"\r\n"


class RawClient:
    """One connection. INFO is read on opening unless `info` is false; `pings` shows the server's PINGs."""

    def __init__(
        self,
        port: int,
        *,
        timeout: float = 60.0,
        info: bool = True,
        receive_buffer: int = 0,
        pings: bool = False,
    ) -> None:
        self.timeout = timeout
        self.pings = pings
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.local_port: int = self.socket.getsockname()[1]
        self.buffer = b""
        self._partial = b""
        self.ended = False
        self.info: dict[str, Any] = {}
        if info:
            self.read_info()

    # -- sending --

    def send(self, data: bytes | str) -> RawClient:
        """Write all; a server that has closed already is noticed by the next expectation."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data.encode() if isinstance(data, str) else data)
        return self

    def connect(self, **options: Any) -> RawClient:
        """CONNECT (quiet unless told otherwise) and wait until it is taken."""
        self.send(connect_line(**options) + b"PING\r\n")
        return self.expect(b"+OK\r\nPONG\r\n" if options.get("verbose") else b"PONG\r\n")

    def sub(self, subject: str, sid: int | str = 1, queue: str = "") -> RawClient:
        """Subscribe and flush: after this no message published by anyone is missed."""
        return self.send(f"SUB {subject} {queue + ' ' if queue else ''}{sid}\r\n").flush()

    def pub(self, subject: str, payload: bytes | str = b"", reply: str = "") -> RawClient:
        return self.send(pub(subject, payload, reply))

    def flush(self) -> RawClient:
        """PING, and PONG as the very next thing."""
        return self.send(b"PING\r\n").expect(b"PONG\r\n")

    # -- expecting --

    def _fill(self, what: str) -> bool:
        """Read once; False at the end of the stream."""
        if self.ended:
            return False
        try:
            data = self.socket.recv(1 << 20)
        except TimeoutError:
            raise AssertionError(f"timed out waiting for {what}; have {self.buffer[:300]!r}") from None
        except ConnectionResetError:
            data = b""
        self.ended = not data
        if self.pings:
            self.buffer += data
        else:
            self._without_pings(data)
        return not self.ended

    def _without_pings(self, data: bytes) -> None:
        """Move whole frames to `buffer`, answering PINGs; at the end of the stream whatever is left."""
        self._partial += data
        start = at = 0
        while (end := self._partial.find(b"\n", at)) >= 0:
            line = self._partial[at : end + 1]
            if line == b"PING\r\n":
                self.send(b"PONG\r\n")
                self.buffer += self._partial[start:at]
                start = at = end + 1
                continue
            after = end + 1
            if line.startswith((b"MSG ", b"HMSG ")):
                after += int(line.rsplit(None, 1)[1]) + 2
                if after > len(self._partial):
                    break
            at = after
        if self.ended:
            at = len(self._partial)
        self.buffer += self._partial[start:at]
        self._partial = self._partial[at:]

    def expect(self, data: bytes | str) -> RawClient:
        """Exactly these bytes next."""
        wanted = data.encode() if isinstance(data, str) else data
        while len(self.buffer) < len(wanted) and wanted.startswith(self.buffer):
            if not self._fill(repr(wanted[:200])):
                raise AssertionError(f"stream ended; wanted {wanted[:200]!r}, have {self.buffer[:300]!r}")
        if not self.buffer.startswith(wanted):
            at = next(i for i, (a, b) in enumerate(zip(wanted, self.buffer, strict=False)) if a != b)
            near = f" (differs at byte {at}: {self.buffer[at : at + 80]!r})" if at > 100 else ""
            raise AssertionError(
                f"wanted {wanted[:200]!r}, got {self.buffer[: len(wanted) + 80][:300]!r}{near}"
            )
        self.buffer = self.buffer[len(wanted) :]
        return self

    def expect_re(self, pattern: bytes) -> re.Match[bytes]:
        """A match at the front of what comes, consumed."""
        compiled = re.compile(pattern, re.S)
        while True:
            match = compiled.match(self.buffer)
            if match:
                self.buffer = self.buffer[match.end() :]
                return match
            if not self._fill(repr(pattern)):
                raise AssertionError(f"stream ended; wanted {pattern!r}, have {self.buffer[:300]!r}")

    def expect_set(self, *frames: bytes) -> RawClient:
        """All of these, in any order."""
        left = list(frames)
        while left:
            found = next((x for x in left if self.buffer.startswith(x)), None)
            if found is not None:
                left.remove(found)
                self.buffer = self.buffer[len(found) :]
            elif self.buffer and not any(x.startswith(self.buffer) for x in left):
                raise AssertionError(f"wanted one of {left!r}, got {self.buffer[:300]!r}")
            elif not self._fill(repr(left)):
                raise AssertionError(f"stream ended; wanted {left!r}, have {self.buffer[:300]!r}")
        return self

    def expect_nothing(self) -> RawClient:
        """Two PINGs are answered and nothing else comes: whatever was on its way has had its turn."""
        return self.flush().flush()

    def expect_closed(self, before: bytes = b"") -> RawClient:
        """These bytes, then the end of the stream."""
        while self._fill(f"the end of the stream after {before!r}"):
            pass
        assert self.buffer == before, f"wanted {before!r} and the end, got {self.buffer[:300]!r}"
        return self

    def expect_closed_any(self) -> bytes:
        """The end of the stream, whatever comes before it; what came."""
        while self._fill("the end of the stream"):
            pass
        return self.buffer

    def message(self) -> tuple[str, str, bytes] | None:
        """The next MSG frame without reply as (subject, sid, payload), or None for a PONG."""
        match = self.expect_re(rb"PONG\r\n|MSG (\S+) (\S+) (\d+)\r\n")
        if match[1] is None:
            return None
        size = int(match[3])
        while len(self.buffer) < size + 2:
            assert self._fill("a payload"), "stream ended inside a payload"
        assert self.buffer[size : size + 2] == b"\r\n", self.buffer[: size + 20]
        found = (match[1].decode(), match[2].decode(), self.buffer[:size])
        self.buffer = self.buffer[size + 2 :]
        return found

    def messages(self, count: int) -> list[tuple[str, str, bytes]]:
        """The next `count` messages."""
        found = [m for _ in range(count) if (m := self.message())]
        assert len(found) == count, "a PONG among the messages"
        return found

    def messages_until(self, subject: str | None) -> list[tuple[str, str, bytes]]:
        """The messages before one on `subject`, or before a PONG (None)."""
        found = []
        while (message := self.message()) is not None and message[0] != subject:
            found.append(message)
        assert (message is None) == (subject is None), f"got {message} before {subject}"
        return found

    def read_info(self) -> dict[str, Any]:
        """One INFO line; kept in `info`."""
        self.info = json.loads(self.expect_re(rb"INFO (\{[^\r\n]*\})[ \t]*\r\n")[1])
        return self.info

    # -- ending --

    def finish_sending(self) -> None:
        """FIN; no matter when the other side has closed already."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
