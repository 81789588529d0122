"""One stream on the shard that owns it: its configuration, its log, what it takes in and what it says of itself.

    Stream.open -> (native) messages in, acknowledgements out        capture.pyx
                -> batches that Python decides on                    publish.py
                -> consumers                                         consumer_*.py
    Stream.update, purge, remove, close, delete

Home shard only.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import orjson

from shardbroker.clock import Clock
from shardbroker.hot.engine import Engine
from shardbroker.store.handle import Filter, Log, State, StoreError
from shardbroker.stream import headers as h
from shardbroker.stream.capture import Capture, Quota, Streams
from shardbroker.stream.dedupe import Window
from shardbroker.stream.direct import DirectGets
from shardbroker.stream.errors import ApiError, Code
from shardbroker.stream.face import Face
from shardbroker.stream.gojson import format_duration, format_time
from shardbroker.stream.model import StreamConfig
from shardbroker.stream.publish import Intake, refusal_json

# What nats-server prints for the time of a message that there is not.
NO_TIME = "0001-01-01T00:00:00Z"
SUBJECT_DETAILS_MAX = 100_000


class Consumers(Protocol):
    """A stream's consumers, as the stream needs them."""

    def count(self) -> int: ...
    def on_updated(self, config: StreamConfig) -> None: ...
    def close(self) -> None: ...
    def on_deleted(self) -> None: ...


class Logger(Protocol):
    def error(self, text: str, /) -> None: ...


class Shard(Protocol):
    """What a stream finds around it."""

    account: str
    domain: str
    engine: Engine
    face: Face
    streams: Streams
    quota: Quota
    clock: Clock
    sync_interval_ns: int
    make_consumers: Callable[[Stream], Consumers] | None

    @property
    def log(self) -> Logger: ...
    def make_origin(self, stream: Stream) -> Any: ...
    def on_durable(self, stream: Stream) -> None: ...


class Stream:
    """An open stream. `directory`: of its own, there already; None in memory."""

    def __init__(self, shard: Shard, config: StreamConfig, created_ns: int, directory: Path) -> None:
        # Whole life
        self.shard = shard
        self.name = config.name
        self.account = shard.account
        self.engine = shard.engine
        self.face = shard.face
        self.directory = directory
        self.created_ns = created_ns
        # Changed by updates
        self.config = config
        self.log = open_log(shard, config, directory)
        said = {"stream": self.name, **({"domain": shard.domain} if shard.domain else {})}
        self.answer_head = orjson.dumps(said)[:-1] + b',"seq":'
        self.capture = Capture(
            shard.streams, self.log, self, shard.account.encode(), shard.quota, self.name.encode(), self.answer_head,
            refusals(self.name),
        )  # fmt: skip
        self.window = Window(config.duplicate_window)
        self.intake = Intake(self)
        self.direct = DirectGets(self)
        self.consumers: Consumers | None = None
        self.origin: Any = None  # mirror.Origin of a mirror or of sources
        self.closed = False
        # Whether its first sequence is known before the first message: it was given, or there was a purge.
        self._numbered = config.first_seq > 0

    def start(self) -> None:
        """Take messages, serve consumers. After the log was read."""
        self._recover_ids()
        if self.shard.make_consumers is not None:
            self.consumers = self.shard.make_consumers(self)
        self._configure()
        self.capture.subscribe([subject.encode() for subject in self.config.subjects])

    def follow(self) -> None:
        """Follow the origins that the configuration has, from where the stream is. Needs a running loop."""
        if self.origin is not None:
            self.origin.close()
            self.origin = None
        if self.config.mirror is not None or self.config.sources:
            self.origin = self.shard.make_origin(self)

    def _recover_ids(self) -> None:
        """The duplicate window as it was (rebuildDedupe)."""
        if not self.window.window_ns:
            return
        found = self.capture.msg_ids(self.shard.clock.time_ns() - self.window.window_ns)
        self.window.fill(found)
        if found and found[-1][0] == self.log.last_seq:
            self.intake.recovered(found[-1][0], found[-1][2])

    def _configure(self) -> None:
        config = self.config
        self.capture.configure(
            no_ack=config.no_ack,
            sealed=config.sealed,
            by_python=self.intake.by_python,
            interest=config.retention == "interest",
            markers=config.subject_delete_marker_ttl > 0,
            max_msg_size=config.max_msg_size,
        )
        names = [self.name.encode()] if config.allow_direct else []
        if config.mirror is not None and config.mirror_direct:
            names.append(config.mirror.name.encode())
        self.capture.serve_gets(names)

    # -- messages --

    def on_batch(self) -> None:
        """What the native side left to us: publishers' messages, direct gets, ends of subjects."""
        for subject, reply, block, payload in self.capture.batch():
            gets = subject.startswith(b"$JS.API.DIRECT.GET.")
            try:
                (self.direct.get if gets else self.intake.publish)(subject, reply, block, payload)
            except Exception:
                # One message, and an answer for it too: those behind it have done nothing.
                self.shard.log.error(f"Internal error at {subject!r:.200}: {traceback.format_exc()}".replace("\n", "\\n"))
                if gets:
                    self.direct.fail(reply)
                else:
                    error = ApiError(Code.STREAM_GENERAL_ERROR, err="internal error")
                    self.capture.answer(reply, refusal_json(self.name, error))
        for subject, block in self.capture.take_ended():
            if not h.ends_subject(block):
                self._mark_end(subject)
        self.shard.on_durable(self)

    def _mark_end(self, subject: bytes) -> None:
        """A marker for a subject whose last message has aged out (filestore.go handleRemovalOrSdm)."""
        if self.log.subject(subject) is not None:
            return
        ttl = format_duration(self.config.subject_delete_marker_ttl // 1_000_000_000 * 1_000_000_000)
        block = (
            b"NATS/1.0\r\nNats-Marker-Reason: MaxAge\r\nNats-TTL: %b\r\nNats-Rollup: sub\r\n\r\n"
            % ttl.encode()
        )
        self.intake.publish(subject, b"", block, b"")

    def last_seq_of(self, subject: bytes) -> int:
        """The sequence of the last message of a subject (a pattern too); 0: none."""
        if b"*" not in subject and b">" not in subject:
            state = self.log.subject(subject)
            return state.last if state is not None else 0
        with filtered(self.log, subject) as only:
            message = self.log.previous(self.log.last_seq, only)
        return message.seq if message is not None else 0

    def purge(self, subject: bytes = b"", *, before_seq: int = 0, keep: int = 0) -> int:
        """Remove messages: of one subject or pattern (empty: of all), below a sequence, but the newest `keep`. How many."""
        self.on_batch()
        if subject in (b"", b">") and not (before_seq or keep):
            self._numbered = True
        if not subject:
            purged = self.log.purge(None, before_seq, keep)
        else:
            with filtered(self.log, subject) as only:
                purged = self.log.purge(only, before_seq, keep)
        if purged:
            self.capture.purged()
        return purged

    def remove(self, seq: int, *, erase: bool) -> bool:
        """Remove one message; with `erase` its bytes are overwritten too."""
        removed = self.log.remove(seq, erase)
        self.capture.touch()
        return removed

    async def durable(self, ticket: int | None = None) -> None:
        """Until what was changed is on the disk: just now, then something must have been; or when the log had that ticket.

        ApiError when it cannot be.
        """
        if self.config.storage == "memory":
            return
        if ticket is None:
            ticket = self.log.ticket
        self.capture.touch()
        pause = 0.0
        while self.log.durable_ticket < ticket and not self.closed:
            if self.log.status == LOG_FAILED:
                raise ApiError(Code.STREAM_STORE_FAILED, err="the stream's storage has failed")
            await asyncio.sleep(pause)
            pause = 0.0002

    # -- what it says of itself --

    def state(self, *, deleted: bool = False) -> dict[str, Any]:
        """StreamState."""
        state = self.log.state()
        out: dict[str, Any] = {
            "messages": state.msgs,
            "bytes": state.bytes,
            "first_seq": self._first_seq(state),
            "first_ts": format_time(state.first_time_ns) if state.first_time_ns else NO_TIME,
            "last_seq": state.last_seq,
            "last_ts": format_time(state.last_time_ns) if state.last_time_ns else NO_TIME,
        }
        if state.num_subjects:
            out["num_subjects"] = state.num_subjects
        if state.num_deleted:
            out["num_deleted"] = state.num_deleted
            if deleted:
                out["deleted"] = [seq for first, last in self.log.deleted() for seq in range(first, last + 1)]
        lost = self.log.lost()
        if lost:
            out["lost"] = {
                "msgs": [seq for first, last in lost for seq in range(first, last + 1)],
                "bytes": 0,
            }
        out["consumer_count"] = self.consumers.count() if self.consumers is not None else 0
        return out

    def _first_seq(self, state: State) -> int:
        # A stream that never had a message has none.
        if state.last_seq == 0 and state.msgs == 0:
            return 1 if self._numbered else 0
        return state.first_seq

    def info(
        self, *, deleted: bool = False, domain: bool = True, shown: bool = True, leader: str = ""
    ) -> dict[str, Any]:
        """StreamInfo. Only some answers of nats-server have the domain, the server's metadata, the leader."""
        out: dict[str, Any] = {
            "config": self.config.to_json(shown=shown),
            "created": format_time(self.created_ns),
            "state": self.state(deleted=deleted),
        }
        if domain and self.shard.domain:
            out["domain"] = self.shard.domain
        if leader:
            out["cluster"] = {"leader": leader}
        if self.origin is not None:
            out |= self.origin.info()
        out["ts"] = format_time(self.shard.clock.time_ns())
        return out

    def subject_counts(self, pattern: bytes) -> dict[str, int]:
        """Messages of each subject that matches."""
        with filtered(self.log, pattern) as only:
            return {subject.decode(errors="replace"): count for subject, count in self.log.subjects(only).items()}

    # -- change and end --

    def update(self, config: StreamConfig) -> None:
        """Another configuration, which was checked and is written down."""
        old, self.config = self.config, config
        self.log.set_limits(**limits_of(config), now_ns=self.shard.clock.time_ns())
        self.window.window_ns = config.duplicate_window
        self.intake.configure()
        self._configure()
        if config.subjects != old.subjects:
            self.capture.subscribe([subject.encode() for subject in config.subjects])
        if config.mirror != old.mirror or config.sources != old.sources:
            self.follow()
        if self.consumers is not None:
            self.consumers.on_updated(config)

    def close(self, *, deleted: bool = False) -> None:
        """Take and answer nothing more; what is in the log is written."""
        if self.closed:
            return
        self.closed = True
        if self.origin is not None:
            self.origin.close()
        if self.consumers is not None:
            if deleted:
                self.consumers.on_deleted()
            self.consumers.close()
        self.capture.close()
        self.log.close()


LOG_FAILED = -3


class filtered:
    """A Filter for one pattern, closed behind a with block."""

    def __init__(self, log: Log, pattern: bytes) -> None:
        self._filter = Filter(log, [pattern])

    def __enter__(self) -> Filter:
        return self._filter

    def __exit__(self, *_: object) -> None:
        self._filter.close()


def limits_of(config: StreamConfig) -> dict[str, Any]:
    """A configuration's limits as Log takes them."""
    return {
        "max_msgs": max(config.max_msgs, 0),
        "max_bytes": max(config.max_bytes, 0),
        "max_msgs_per_subject": max(config.max_msgs_per_subject, 0),
        "max_age_ns": config.max_age,
        "discard_new": config.discard == "new",
        "discard_new_per_subject": config.discard_new_per_subject,
    }


ASYNC_SYNC_NS = 120 * 1_000_000_000


def open_log(shard: Shard, config: StreamConfig, directory: Path) -> Log:
    """The log of a stream; one on disk is read. Raises ApiError."""
    interval = shard.sync_interval_ns
    if config.persist_mode == "async" and not interval:
        interval = ASYNC_SYNC_NS
    try:
        return Log(
            shard.streams.store,
            str(directory) if config.storage == "file" else None,
            sync_interval_ns=interval,
            first_seq=config.first_seq,
            **limits_of(config),
        )
    except (StoreError, OSError) as error:
        raise ApiError(Code.STREAM_STORE_FAILED, err=error) from None


def refusals(name: str) -> list[bytes]:
    """The prepared answers of capture.pxd, REFUSED_*, in order."""
    errors = [
        ApiError(Code.STREAM_SEALED),
        ApiError(Code.STREAM_MESSAGE_EXCEEDS_MAXIMUM),
        ApiError(Code.STREAM_HEADER_EXCEEDS_MAXIMUM),
        ApiError(Code.INSUFFICIENT_RESOURCES),
        ApiError(Code.STREAM_STORE_FAILED, err="maximum messages exceeded"),
        ApiError(Code.STREAM_STORE_FAILED, err="maximum bytes exceeded"),
        ApiError(Code.STREAM_STORE_FAILED, err="maximum messages per subject exceeded"),
        ApiError(Code.STREAM_STORE_FAILED, err="message too large"),
        ApiError(Code.STREAM_STORE_FAILED, err="no space left on device"),
        ApiError(Code.STREAM_STORE_FAILED, err="the stream's storage has failed"),
        ApiError(Code.ACCOUNT_RESOURCES_EXCEEDED),
    ]
    return [b""] + [refusal_json(name, error) for error in errors]


__all__ = ["Consumers", "Shard", "Stream", "filtered", "h"]
