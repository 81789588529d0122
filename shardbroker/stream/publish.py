"""Messages that say something to the stream in their headers, or whose stream transforms or republishes: a batch at a time.

The rules and their order are nats-server's (stream.go processJetStreamMsg). Whatever is refused is answered in the place
that its acknowledgement would have had.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from shardbroker.stream import headers as h
from shardbroker.stream.errors import ApiError, Code
from shardbroker.stream.gojson import DecodeError, format_time, parse_duration
from shardbroker.subject import bytes_of, is_literal_subject, is_valid_subject, text_of
from shardbroker.transform import Transform

if TYPE_CHECKING:
    from shardbroker.stream.stream import Stream

SECOND_NS = 1_000_000_000
TTL_NEVER = -1


class Refused(Exception):
    """The message is not stored; the answer says why."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.description)
        self.error = error


# As a stream that has these switched off: to store such a message as it is would not be what its publisher means.
DISABLED: Final = (
    (h.BATCH_ID, Code.ATOMIC_PUBLISH_DISABLED),
    (h.INCREMENT, Code.MESSAGE_INCR_DISABLED),
    (h.SCHEDULE, Code.MESSAGE_SCHEDULES_DISABLED),
)


def refusal_json(name: str, error: ApiError) -> bytes:
    """What a publisher gets instead of an acknowledgement."""
    return orjson.dumps({"error": error.to_json(), "stream": name, "seq": 0})


def parse_ttl(value: bytes) -> int:
    """ns of a Nats-TTL; TTL_NEVER for `never`, 0 when nothing is said. Raises ApiError (getMessageTTL)."""
    text = value.decode("latin-1")
    if not text:
        return 0
    if text.lower() == "never":
        return TTL_NEVER
    try:
        ns = parse_duration(text)
    except DecodeError:
        seconds = h.number(value)
        if seconds < 0:
            raise ApiError(Code.MESSAGE_TTL_INVALID) from None
        return seconds * SECOND_NS
    if ns < SECOND_NS:
        raise ApiError(Code.MESSAGE_TTL_INVALID)
    return ns // SECOND_NS * SECOND_NS


class Intake:
    """The way into one stream for what the native side leaves to Python."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._transform: Transform | None = None
        self._republish: Transform | None = None
        self._last_id = b""
        self._last_id_seq = 0
        self.configure()

    def configure(self) -> None:
        """The stream's configuration is another."""
        config = self._stream.config
        self._transform = (
            Transform(config.subject_transform.src, config.subject_transform.dest)
            if config.subject_transform is not None and config.subject_transform.dest
            else None
        )
        self._republish = (
            Transform(config.republish.src, config.republish.dest)
            if config.republish is not None and config.republish.dest
            else None
        )

    @property
    def by_python(self) -> bool:
        """Whether it wants every message."""
        return self._transform is not None or self._republish is not None

    def recovered(self, seq: int, msg_id: bytes) -> None:
        """The last message there is has this id."""
        self._last_id, self._last_id_seq = msg_id, seq

    @property
    def last_id(self) -> bytes:
        return self._last_id if self._last_id_seq == self._stream.log.last_seq else b""

    def _moved(self, subject: bytes) -> bytes:
        """As the stream's transform has it. What a split leaves nothing of keeps its subject, and is not lost."""
        moved = self._transform.apply(text_of(subject)) if self._transform is not None else None
        return bytes_of(moved) if moved is not None and is_literal_subject(moved) else subject

    def publish(self, subject: bytes, reply: bytes, block: bytes, payload: bytes) -> int:
        """One message of a publisher: its sequence, 0 when it was refused or is a duplicate."""
        stream = self._stream
        subject = self._moved(subject)
        try:
            return self._publish(subject, reply, block, payload)
        except ApiError as error:
            stream.capture.answer(reply, refusal_json(stream.name, error))
            return 0

    def sourced(self, subject: bytes, block: bytes, payload: bytes, ttl: int) -> int:
        """A message of another stream: its sequence here, 0 when it is not stored. No condition of its publisher holds."""
        stream = self._stream
        subject = self._moved(subject)
        msg_id = h.get(block, h.MSG_ID)
        if msg_id and stream.window.find(msg_id, stream.capture.streams.now()):
            return 0
        rollup = (
            h.get(block, h.ROLLUP).lower()
            if stream.config.allow_rollup_hdrs and not stream.config.deny_purge
            else b""
        )
        return self._store(
            subject,
            b"",
            block,
            payload,
            msg_id=msg_id,
            ttl=ttl,
            rollup=rollup if rollup in (b"sub", b"all") else b"",
        )

    def _publish(self, subject: bytes, reply: bytes, block: bytes, payload: bytes) -> int:
        stream, config = self._stream, self._stream.config
        if config.sealed:
            raise ApiError(Code.STREAM_SEALED)
        msg_id, ttl, rollup = b"", 0, b""
        if block:
            block = h.without_status(block)
            block = h.remove(block, h.REQUEST_INFO)
        if b"\nNats-" in block:
            for name, code in DISABLED:
                if h.get(block, name):
                    raise ApiError(code)
            self._expected(block, subject)
            msg_id = h.get(block, h.MSG_ID)
            if msg_id and config.mirror is None:
                seq = stream.window.find(msg_id, stream.capture.streams.now())
                if seq:
                    stream.capture.answer(reply, stream.answer_head + b'%d,"duplicate": true}' % seq, seq)
                    return 0
            expected = h.get(block, h.EXPECTED_LAST_MSG_ID)
            if expected and expected != self.last_id:
                raise ApiError(Code.STREAM_WRONG_LAST_MSG_ID, id=self.last_id.decode(errors="replace"))
            rollup = h.get(block, h.ROLLUP).lower()
            if rollup:
                if not config.allow_rollup_hdrs or config.deny_purge:
                    raise ApiError(Code.STREAM_ROLLUP_FAILED, err="rollup not permitted")
                if rollup not in (b"sub", b"all"):
                    shown = rollup.decode(errors="replace")
                    raise ApiError(Code.STREAM_ROLLUP_FAILED, err=f'rollup value invalid: "{shown}"')
            ttl = parse_ttl(h.get(block, h.TTL))
            if 0 < ttl < config.subject_delete_marker_ttl and config.max_msgs_per_subject != 1:
                # Else a marker could be missed that is there for this subject.
                ttl = config.subject_delete_marker_ttl // SECOND_NS * SECOND_NS
                block = h.add(h.remove(block, h.TTL), h.TTL, b"%d" % (ttl // SECOND_NS))
        return self._store(subject, reply, block, payload, msg_id=msg_id, ttl=ttl, rollup=rollup)

    def _expected(self, block: bytes, subject: bytes) -> None:
        """The conditions that a publisher may set."""
        stream, log = self._stream, self._stream.log
        name = h.get(block, h.EXPECTED_STREAM)
        if name and name != stream.name.encode():
            raise ApiError(Code.STREAM_NOT_MATCH)
        ttl = h.get(block, h.TTL)
        if ttl and not stream.config.allow_msg_ttl and _asks_for_ttl(ttl):
            raise ApiError(Code.MESSAGE_TTL_DISABLED)
        of_subject = h.get(block, h.EXPECTED_LAST_SUBJECT_SEQ)
        other = h.get(block, h.EXPECTED_LAST_SUBJECT_SEQ_SUBJECT)
        if of_subject:
            last = stream.last_seq_of(other or subject)
            if last != h.number(of_subject):
                raise ApiError(Code.STREAM_WRONG_LAST_SEQUENCE, seq=last)
        elif other:
            raise ApiError(Code.STREAM_EXPECTED_LAST_SEQ_PER_SUBJECT_INVALID)
        expected = h.get(block, h.EXPECTED_LAST_SEQ)
        if expected and h.number(expected) != log.last_seq:
            raise ApiError(Code.STREAM_WRONG_LAST_SEQUENCE, seq=log.last_seq)

    def _store(
        self,
        subject: bytes,
        reply: bytes,
        block: bytes,
        payload: bytes,
        *,
        msg_id: bytes,
        ttl: int,
        rollup: bytes,
    ) -> int:
        stream = self._stream
        target, before = b"", 0
        if self._republish is not None:
            target, before = self._republish_target(subject)
        seq = stream.capture.store(subject, block, payload, reply, ttl)
        if not seq:
            return 0
        now = stream.capture.streams.now()
        if msg_id:
            stream.window.add(msg_id, seq, now)
            self._last_id, self._last_id_seq = msg_id, seq
        if rollup:
            # What there was before is gone: of its subject, or all of it.
            kept = 1 if stream.log.has(seq) else 0
            stream.purge(subject if rollup == b"sub" else b"", keep=kept)
        if target:
            self._send(target, subject, seq, now, before, block, payload)
        return seq

    def _republish_target(self, subject: bytes) -> tuple[bytes, int]:
        assert self._republish is not None
        moved = self._republish.apply(text_of(subject))
        if moved is None or not (is_valid_subject(moved) and is_literal_subject(moved)):
            return b"", 0
        return bytes_of(moved), self._stream.last_seq_of(subject)

    def _send(
        self, target: bytes, subject: bytes, seq: int, now: int, before: int, block: bytes, payload: bytes
    ) -> None:
        """The stored message once more, with where it stands."""
        republish = self._stream.config.republish
        assert republish is not None
        name, when = self._stream.name.encode(), format_time(now).encode()
        said = b"Nats-Stream: %b\r\nNats-Subject: %b\r\nNats-Sequence: %d\r\n" % (name, subject, seq)
        said += b"Nats-Time-Stamp: %b\r\nNats-Last-Sequence: %d\r\n" % (when, before)
        if republish.headers_only:
            said += b"Nats-Msg-Size: %d\r\n" % len(payload)
            payload = b""
        head = (block[:-2] if block else h.VERSION) + said + b"\r\n"
        self._stream.capture.send(target, head, payload, seq)


def _asks_for_ttl(value: bytes) -> bool:
    try:
        return parse_ttl(value) != 0
    except ApiError:
        return False
