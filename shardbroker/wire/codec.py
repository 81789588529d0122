"""Plain-Python encoder and parser of the whole client protocol, both directions: for tools, and the oracle for hot/parser.

The parser gives the same operations for every split of its input. It says that a verb is unknown at the first byte that no
verb can have, without waiting for the line's end, as nats-server does (parser.go parse).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from shardbroker import limits
from shardbroker.wire.ops import Connect, Err, Info, Msg, Ok, Operation, Ping, Pong, Pub, Sub, Unsub

# Longer numbers are no sizes: parser.go parseSize counts digits.
SIZE_DIGITS_MAX: Final = 9


class Mistake(Enum):
    """What is wrong with an input; errors.py has what a client is told of it."""

    UNKNOWN = auto()  # no such verb, or a payload without CRLF behind it
    LINE_TOO_LONG = auto()
    PAYLOAD_TOO_LARGE = auto()
    ARGUMENTS = auto()  # the verb is known, its arguments make no sense


class ProtocolError(Exception):
    """The input cannot be parsed from here on; what came before it has been given out."""

    def __init__(self, mistake: Mistake, line: bytes) -> None:
        super().__init__(f"{mistake.name}: {line[:128]!r}")
        self.mistake = mistake


# -- encoding --


def encode(operation: Operation) -> bytes:
    """The bytes of one operation as they are sent."""
    match operation:
        case Pub(subject, payload, reply, headers):
            return _message(b"PUB", subject + b" " + (reply + b" " if reply else b""), payload, headers)
        case Msg(subject, sid, payload, reply, headers):
            return _message(
                b"MSG", b"%b %b %b" % (subject, sid, reply + b" " if reply else b""), payload, headers
            )
        case Sub(subject, sid, queue):
            return b"SUB %b %b%b\r\n" % (subject, queue + b" " if queue else b"", sid)
        case Unsub(sid, max_messages):
            return b"UNSUB %b%b\r\n" % (sid, b" %d" % max_messages if max_messages else b"")
        case Connect(json):
            return b"CONNECT " + json + b"\r\n"
        case Info(json):
            return b"INFO " + json + b"\r\n"
        case Err(text):
            return b"-ERR " + text + b"\r\n"
        case Ping():
            return b"PING\r\n"
        case Pong():
            return b"PONG\r\n"
        case Ok():
            return b"+OK\r\n"


def _message(verb: bytes, head: bytes, payload: bytes, headers: bytes | None) -> bytes:
    if headers is None:
        return b"%b %b%d\r\n%b\r\n" % (verb, head, len(payload), payload)
    total = len(headers) + len(payload)
    return b"H%b %b%d %d\r\n%b%b\r\n" % (verb, head, len(headers), total, headers, payload)


# -- parsing --


class Parser:
    """Takes bytes in any pieces, gives operations. `FROM_CLIENTS` or `FROM_SERVERS` says which verbs there are."""

    def __init__(
        self,
        verbs: dict[bytes, _Verb],
        *,
        max_control_line: int = limits.CONTROL_LINE_BYTES,
        max_payload: int = limits.PAYLOAD_BYTES,
    ) -> None:
        self._verbs = verbs
        self._max_control_line = max_control_line
        self._max_payload = max_payload
        self._input = b""
        self._failed: ProtocolError | None = None

    def feed(self, data: bytes) -> list[Operation]:
        """The operations that are whole now. An error is raised by the call after the one that gave what came before."""
        if self._failed is not None:
            raise self._failed
        self._input += data
        found: list[Operation] = []
        at = 0
        try:
            while at < len(self._input) and (step := self._next(at)) is not None:
                operation, at = step
                found.append(operation)
        except ProtocolError as error:
            self._failed = error
            if not found:
                raise
        self._input = self._input[at:]
        return found

    @property
    def pending(self) -> bytes:
        """What has come of an operation that is not whole yet."""
        return self._input

    def _next(self, at: int) -> tuple[Operation, int] | None:
        """The operation at an offset and where it ends; None when it is not whole."""
        name = self._verb(at)
        if name is None:
            return None
        verb = self._verbs[name]
        start = at + len(name)
        end = self._input.find(b"\n", start)
        line = self._input[start : len(self._input) if end < 0 else end]
        if verb.blank_needed:
            # A verb whose arguments cannot begin is wrong at once, and what the arguments are begins behind the blanks.
            if not line and end < 0:
                return None
            if line[:1] not in (b" ", b"\t"):
                raise ProtocolError(Mistake.UNKNOWN, name + line)
        arguments = line.lstrip(b" \t")
        if len(arguments.removesuffix(b"\r")) > self._max_control_line and verb.limited:
            raise ProtocolError(Mistake.LINE_TOO_LONG, name + line)
        if end < 0:
            return None
        arguments = arguments.removesuffix(b"\r")
        if verb.size_words:
            return self._message(verb, arguments, end + 1)
        return verb.make(arguments, b"", None), end + 1

    def _verb(self, at: int) -> bytes | None:
        """The verb at an offset as the table has it; None when it may become one."""
        longest = max(map(len, self._verbs))
        given = self._input[at : at + longest].upper()
        for name in self._verbs:
            if given.startswith(name):
                return name
        # More may come only if what is there is the beginning of a verb.
        if any(name.startswith(given) for name in self._verbs):
            return None
        raise ProtocolError(Mistake.UNKNOWN, given)

    def _message(self, verb: _Verb, arguments: bytes, at: int) -> tuple[Operation, int] | None:
        if b"\r" in arguments:
            raise ProtocolError(Mistake.ARGUMENTS, arguments)
        words = _words(arguments)
        least = verb.words_min
        if not least <= len(words) <= least + 1:
            raise ProtocolError(Mistake.ARGUMENTS, arguments)
        sizes = [_size(word) for word in words[-verb.size_words :]]
        headers_bytes, total = (sizes[0], sizes[1]) if verb.size_words == 2 else (0, sizes[0])
        if min(sizes) < 0 or (total <= self._max_payload and headers_bytes > total):
            raise ProtocolError(Mistake.ARGUMENTS, arguments)
        if total > self._max_payload:
            raise ProtocolError(Mistake.PAYLOAD_TOO_LARGE, arguments)
        end = at + total
        tail = self._input[end : end + 2]
        if not b"\r\n".startswith(tail):
            raise ProtocolError(Mistake.UNKNOWN, tail)
        if len(tail) < 2:
            return None
        body = self._input[at:end]
        headers = body[:headers_bytes] if verb.size_words == 2 else None
        return verb.make(b" ".join(words[: -verb.size_words]), body[headers_bytes:], headers), end + 2


class _Verb:
    """How one verb is parsed. `size_words`: how many of its last words are sizes of what follows the line."""

    __slots__ = ("blank_needed", "limited", "make", "size_words", "words_min")

    def __init__(
        self,
        make: Callable[[bytes, bytes, bytes | None], Operation],
        *,
        size_words: int = 0,
        words_min: int = 0,
        blank_needed: bool = True,
        limited: bool = True,
    ) -> None:
        self.make = make
        self.size_words = size_words
        self.words_min = words_min
        self.blank_needed = blank_needed
        self.limited = limited


def _words(line: bytes) -> list[bytes]:
    return [word for word in line.replace(b"\t", b" ").split(b" ") if word]


def _size(word: bytes) -> int:
    """A number without sign, or -1 (util.go parseSize)."""
    return int(word) if word.isdigit() and len(word) <= SIZE_DIGITS_MAX else -1


def _pub(line: bytes, payload: bytes, headers: bytes | None) -> Operation:
    subject, *reply = line.split(b" ")
    return Pub(subject, payload, reply[0] if reply else b"", headers)


def _msg(line: bytes, payload: bytes, headers: bytes | None) -> Operation:
    subject, sid, *reply = line.split(b" ")
    return Msg(subject, sid, payload, reply[0] if reply else b"", headers)


def _sub(line: bytes, payload: bytes, headers: bytes | None) -> Operation:
    match _words(line.replace(b"\r", b" ")):
        case [subject, sid]:
            return Sub(subject, sid)
        case [subject, queue, sid]:
            return Sub(subject, sid, queue)
    raise ProtocolError(Mistake.ARGUMENTS, line)


def _unsub(line: bytes, payload: bytes, headers: bytes | None) -> Operation:
    match _words(line.replace(b"\r", b" ")):
        case [sid]:
            return Unsub(sid)
        case [sid, count]:
            # client.go processUnsub: what is no number means at once.
            return Unsub(sid, max(0, _size(count)))
    raise ProtocolError(Mistake.ARGUMENTS, line)


_PING: Final = _Verb(lambda *_: Ping(), blank_needed=False, limited=False)
_PONG: Final = _Verb(lambda *_: Pong(), blank_needed=False, limited=False)
_OK: Final = _Verb(lambda *_: Ok(), blank_needed=False, limited=False)
_ERR: Final = _Verb(lambda line, *_: Err(line))
_INFO: Final = _Verb(lambda line, *_: Info(line), blank_needed=False)

FROM_CLIENTS: Final = {
    b"PUB": _Verb(_pub, size_words=1, words_min=2),
    b"HPUB": _Verb(_pub, size_words=2, words_min=3),
    b"SUB": _Verb(_sub),
    b"UNSUB": _Verb(_unsub),
    b"CONNECT": _Verb(lambda line, *_: Connect(line), blank_needed=False),
    b"PING": _PING,
    b"PONG": _PONG,
    # A client has no business with these, but nats-server takes them.
    b"INFO": _INFO,
    b"+OK": _OK,
    b"-ERR": _ERR,
}
FROM_SERVERS: Final = {
    b"MSG": _Verb(_msg, size_words=1, words_min=3),
    b"HMSG": _Verb(_msg, size_words=2, words_min=4),
    b"INFO": _Verb(lambda line, *_: Info(line), limited=False),
    b"PING": _PING,
    b"PONG": _PONG,
    b"+OK": _OK,
    b"-ERR": _ERR,
}
