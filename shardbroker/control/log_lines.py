"""Log lines as the processes of a broker hand them to the one that writes them: records on a pipe; and the two forms of a line.

    text    [pid] 2026/11/24 10:02:11.482113 [INF] Server is ready               nats-server's (logger/log.go)
    json    {"time":"2026-11-24T10:02:11.482113Z","level":"info","process":"front","pid":7,"msg":"Server is ready"}

A record is at most PIPE_BUF bytes, so that the kernel never mixes those of several writers; a longer text is several.

    time ns u64 | pid u32 | process u16 | text bytes u16 | kind u8 | flags u8 | text
"""

from __future__ import annotations

import re
import select
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import orjson

HEADER: Final = struct.Struct("<QIHHBB")
RECORD_TEXT_MAX: Final = select.PIPE_BUF - HEADER.size
# Longer texts are cut: a trace of large messages would be nothing but payload.
TEXT_MAX: Final = 64 << 10
FIRST, LAST = 1, 2

# Kinds. The first are levels, in nats-server's labels; the others are for the writing process itself.
LABELS: Final = ("INF", "WRN", "ERR", "FTL", "DBG", "TRC")
INFO, WARNING, ERROR, FATAL, DEBUG, TRACE = range(6)
REOPEN, SETTINGS, FINISH = 100, 101, 102
_LEVELS: Final = ("info", "warn", "error", "fatal", "debug", "trace")

# Processes that are no shard, by number and by name.
FRONT: Final = 0xFFFF
PROCESSES: Final = {FRONT: "front", 0xFFFE: "monitor", 0xFFFD: "peers"}

# A line must stay one line, and a terminal must not be told what to do, whatever a client calls itself.
_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160)) if code != 9} | {
    10: "\\n",
    13: "\\r",
}
_CLIENT: Final = re.compile(r"(?P<client>\S+:\d+) - cid:(?P<cid>\d+) - (?P<rest>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Line:
    """One line, or order to the writing process. `process`: a shard's number, or one of PROCESSES."""

    time_ns: int
    pid: int
    process: int
    kind: int
    text: str


def one_line(text: str) -> str:
    """Without anything that begins a new line or steers a terminal."""
    return text if text.isprintable() else text.translate(_CONTROLS)


def records(line: Line) -> Iterator[bytes]:
    """The records that carry a line."""
    data = line.text.encode("utf-8", "backslashreplace")
    if len(data) > TEXT_MAX and line.kind < REOPEN:
        data = data[:TEXT_MAX] + f"... ({len(data) - TEXT_MAX} bytes more)".encode()
    for at in range(0, max(len(data), 1), RECORD_TEXT_MAX):
        part = data[at : at + RECORD_TEXT_MAX]
        flags = (FIRST if at == 0 else 0) | (LAST if at + RECORD_TEXT_MAX >= len(data) else 0)
        yield HEADER.pack(line.time_ns, line.pid, line.process, len(part), line.kind, flags) + part


class Assembler:
    """Bytes of a pipe to lines. A line whose rest was lost is given as far as it came."""

    def __init__(self) -> None:
        self._rest = b""
        self._parts: dict[int, tuple[Line, list[bytes]]] = {}

    def feed(self, data: bytes) -> Iterator[Line]:
        """What is complete now."""
        data = self._rest + data
        at = 0
        while len(data) - at >= HEADER.size:
            time_ns, pid, process, length, kind, flags = HEADER.unpack_from(data, at)
            end = at + HEADER.size + length
            if len(data) < end:
                break
            part = data[at + HEADER.size : end]
            at = end
            head = Line(time_ns, pid, process, kind, "")
            if flags & FIRST:
                yield from self._torn(pid)
                if flags & LAST:
                    yield _with_text(head, part)
                else:
                    self._parts[pid] = (head, [part])
            elif pid in self._parts:
                head, parts = self._parts[pid]
                parts.append(part)
                if flags & LAST:
                    del self._parts[pid]
                    yield _with_text(head, b"".join(parts))
        self._rest = data[at:]

    def end(self) -> Iterator[Line]:
        """What will never be complete."""
        for pid in list(self._parts):
            yield from self._torn(pid)

    def _torn(self, pid: int) -> Iterator[Line]:
        if pid in self._parts:
            head, parts = self._parts.pop(pid)
            if head.kind < REOPEN:
                yield _with_text(head, b"".join(parts) + b"...")


def _with_text(head: Line, data: bytes) -> Line:
    return Line(head.time_ns, head.pid, head.process, head.kind, data.decode("utf-8", "replace"))


class TextForm:
    """nats-server's form. Formatting a time costs more than the rest, so that of the last second is kept."""

    def __init__(self, *, logtime: bool, utc: bool) -> None:
        self._logtime = logtime
        self._utc = utc
        self._second = -1
        self._second_text = ""

    def __call__(self, line: Line) -> str:
        return f"[{line.pid}] {self._stamp(line.time_ns)}[{LABELS[line.kind]}] {one_line(line.text)}"

    def _stamp(self, time_ns: int) -> str:
        if not self._logtime:
            return ""
        second, rest = divmod(time_ns, 1_000_000_000)
        if second != self._second:
            moment = time.gmtime(second) if self._utc else time.localtime(second)
            self._second, self._second_text = second, time.strftime("%Y/%m/%d %H:%M:%S", moment)
        return f"{self._second_text}.{rest // 1000:06d} "


class JsonForm:
    """One object a line (RFC 3339 times in UTC, microseconds). What is said of a client has its address and number apart."""

    def __init__(self, *, logtime: bool) -> None:
        self._logtime = logtime

    def __call__(self, line: Line) -> str:
        body: dict[str, str | int] = {}
        if self._logtime:
            second, rest = divmod(line.time_ns, 1_000_000_000)
            moment = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            body["time"] = f"{moment}.{rest // 1000:06d}Z"
        body["level"] = _LEVELS[line.kind]
        body["process"] = name = PROCESSES.get(line.process, "shard")
        if name == "shard":
            body["shard"] = line.process
        body["pid"] = line.pid
        text = line.text
        if match := _CLIENT.fullmatch(text):
            body["client"], body["cid"], text = match["client"], int(match["cid"]), match["rest"]
        # What cannot be UTF-8 has been made so on the way through the pipe; not so where there was none.
        return orjson.dumps(body | {"msg": text.encode("utf-8", "backslashreplace").decode()}).decode()
