"""Direct gets that are more than one message by sequence or by literal subject, which the native side answers itself.

Source: stream.go processDirectGetRequest, getDirectRequest, getDirectMulti; ADR-31.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from shardbroker.limits import PENDING_BYTES
from shardbroker.store.handle import Filter, Message
from shardbroker.stream import headers as h
from shardbroker.stream.gojson import (
    BOOL,
    INT,
    STRING,
    TIME,
    UINT64,
    DecodeError,
    List,
    Struct,
    Time,
    decode,
    format_time,
)
from shardbroker.stream.model import API_LEVEL, unix_ns
from shardbroker.subject import bytes_of

if TYPE_CHECKING:
    from shardbroker.stream.stream import Stream

REQUEST: Final = Struct(
    "JSApiMsgGetRequest",
    {
        "seq": UINT64, "last_by_subj": STRING, "next_by_subj": STRING, "batch": INT, "max_bytes": INT, "start_time": TIME,
        "multi_last": List(STRING), "up_to_seq": UINT64, "up_to_time": TIME, "no_hdr": BOOL,
    },
)  # fmt: skip
MULTI_MAX: Final = 1024
SCAN_YIELD: Final = 10_000


def wants_too_much(block: bytes) -> bool:
    """Whether a request's headers ask for a level of the API that this is not (errorOnRequiredApiLevel)."""
    level = h.get(block, h.REQUIRED_API_LEVEL)
    return bool(level) and not (level.isdigit() and len(level) < 10 and int(level) <= API_LEVEL)


class DirectGets:
    """Direct gets of one stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def get(self, subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
        """Answer one request. By subject the key stands behind the stream's name."""
        if wants_too_much(block):
            self._status(reply, b"412 Required Api Level")
            return
        words = subject.split(b".", 5)
        key = words[5].decode("utf-8", "surrogateescape") if len(words) > 5 else ""
        try:
            asked = _decode(payload) if payload else {}
        except DecodeError:
            self._status(reply, b"408 Malformed Request")
            return
        if key:
            if any(name not in ("max_bytes", "no_hdr") for name in asked):
                self._status(reply, b"408 Bad Request")
                return
            asked["last_by_subj"] = key
        elif not any(
            name in asked for name in ("seq", "last_by_subj", "next_by_subj", "multi_last", "start_time")
        ):
            self._status(reply, b"408 Empty Request")
            return
        elif _conflict(asked):
            self._status(reply, b"408 Bad Request")
            return
        if "multi_last" in asked:
            self._multi(asked, reply)
        else:
            self._read(asked, reply)

    def fail(self, reply: bytes) -> None:
        """Answer one that could not be carried out."""
        self._status(reply, b"500 Internal Error")

    def _status(self, reply: bytes, text: bytes, more: bytes = b"") -> None:
        self._stream.face.publish(reply, b"", b"", b"NATS/1.0 " + text + b"\r\n" + more + b"\r\n")

    def _send(self, reply: bytes, message: Message, said: bytes, with_headers: bool) -> int:
        """One message; its size as max_bytes counts it."""
        block = b""
        if with_headers:
            name = self._stream.name.encode()
            block = (message.headers[:-2] if message.headers else h.VERSION) + (
                b"Nats-Stream: %b\r\nNats-Subject: %b\r\nNats-Sequence: %d\r\nNats-Time-Stamp: %b\r\n%b\r\n"
                % (name, message.subject, message.seq, format_time(message.time_ns).encode(), said)
            )
        self._stream.face.publish(reply, message.payload, b"", block)
        return len(message.subject) + len(message.headers) + len(message.payload)

    def _read(self, asked: dict[str, Any], reply: bytes) -> None:
        log = self._stream.log
        with_headers = not asked.get("no_hdr")
        seq = log.seq_at(unix_ns(asked["start_time"])) if "start_time" in asked else asked.get("seq", 0)
        pattern = asked.get("next_by_subj", "")
        batch = asked.get("batch", 0)
        only = Filter(log, [bytes_of(pattern)] if pattern else [])
        try:
            if "last_by_subj" in asked and batch >= 0:
                message = self._last(bytes_of(asked["last_by_subj"]))
            elif not batch and not pattern:
                message = log.get(seq)
            elif batch < 0:
                message = None
            else:
                message = log.next(max(seq, 1), only)
            if message is None and batch >= 0:
                self._status(reply, b"404 Message Not Found")
                return
            if message is not None and not batch:
                self._send(reply, message, b"", with_headers)
                return
            left = log.pending(only, max(seq, 1))
            most = asked.get("max_bytes") or PENDING_BYTES
            last, sent = 0, 0
            # Of a batch below 0 only the end is sent.
            while message is not None and batch > 0:
                batch -= 1
                left = max(left - 1, 0)
                said = b"Nats-Num-Pending: %d\r\nNats-Last-Sequence: %d\r\n" % (left, last)
                sent += self._send(reply, message, said, with_headers)
                last = message.seq
                if sent >= most:
                    break
                message = log.next(last + 1, only)
        finally:
            only.close()
        self._status(reply, b"204 EOB", b"Nats-Num-Pending: %d\r\nNats-Last-Sequence: %d\r\n" % (left, last))

    def _last(self, subject: bytes) -> Message | None:
        log = self._stream.log
        seq = self._stream.last_seq_of(subject)
        return log.get(seq) if seq else None

    def _multi(self, asked: dict[str, Any], reply: bytes) -> None:
        """The last message of each subject that matches, as of a sequence or a time."""
        log = self._stream.log
        up_to = asked.get("up_to_seq", 0)
        if "up_to_time" in asked:
            up_to = log.seq_at(unix_ns(asked["up_to_time"]))
            if up_to <= log.first_seq:
                self._status(reply, b"404 No Results")
                return
            up_to -= 1
        up_to = min(up_to, log.last_seq) if up_to else log.last_seq
        only = Filter(log, [bytes_of(pattern) for pattern in asked["multi_last"]])
        try:
            seqs = [seq for seq in log.last_seqs(only, up_to) if seq >= asked.get("seq", 0)]
        finally:
            only.close()
        if not seqs:
            self._status(reply, b"404 No Results")
            return
        if len(seqs) > MULTI_MAX:
            self._status(reply, b"413 Too Many Results")
            return
        most = asked.get("max_bytes") or PENDING_BYTES
        batch = asked.get("batch", 0)
        last, sent, left = 0, 0, len(seqs)
        for count, seq in enumerate(seqs, 1):
            message = log.get(seq)
            if message is None:
                self._status(reply, b"404 Message Not Found")
                return
            left -= 1
            said = b"Nats-Num-Pending: %d\r\nNats-Last-Sequence: %d\r\n" % (left, last)
            sent += self._send(reply, message, said, True)
            last = seq
            if sent >= most or count == batch:
                break
        end = b"Nats-Num-Pending: %d\r\nNats-Last-Sequence: %d\r\nNats-UpTo-Sequence: %d\r\n" % (
            left,
            last,
            up_to,
        )
        self._status(reply, b"204 EOB", end)


def _decode(payload: bytes) -> dict[str, Any]:
    """What is asked, without what asks for nothing (0, "", [])."""
    # Direct gets do not mind what they do not know.
    try:
        known = {k: v for k, v in orjson.loads(payload).items() if k.lower() in REQUEST.folded}
    except (ValueError, AttributeError):
        raise DecodeError("malformed") from None
    asked = decode(orjson.dumps(known), REQUEST)
    return {name: value for name, value in asked.items() if value or isinstance(value, Time)}


def _conflict(asked: dict[str, Any]) -> bool:
    """Options that exclude each other (processDirectGetRequest)."""
    if asked.get("batch", 0) > 0 and "last_by_subj" in asked:
        return True
    return any(
        one in asked and other in asked
        for one, other in (
            ("seq", "last_by_subj"), ("seq", "start_time"), ("start_time", "last_by_subj"), ("last_by_subj", "next_by_subj"),
            ("last_by_subj", "multi_last"), ("next_by_subj", "multi_last"),
            ("up_to_seq", "up_to_time"),
        )
    )  # fmt: skip
