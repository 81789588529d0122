"""Backups of a stream to a client, and from a client: $JS.API.STREAM.SNAPSHOT and RESTORE.

What travels is an archive of archive.py, which nats-server restores as well. A receiver acknowledges chunks, so that no
more than a window of them is under way.

Source: jetstream_api.go jsStreamSnapshotRequest, streamSnapshot, jsStreamRestoreRequest, processStreamRestore.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from shardbroker.store.handle import Log
from shardbroker.stream import advisories, archive
from shardbroker.stream import headers as h
from shardbroker.stream.api import TYPE, Request, serve
from shardbroker.stream.checks import check_config
from shardbroker.stream.errors import ApiError, Code
from shardbroker.stream.gojson import (
    BOOL,
    INT,
    INT64,
    STRING,
    TIME,
    UINT64,
    Kind,
    List,
    Struct,
    format_time,
)
from shardbroker.stream.model import CONFIG, StreamConfig
from shardbroker.stream.publish import parse_ttl
from shardbroker.subject import is_literal_subject, is_valid_subject, text_of

if TYPE_CHECKING:
    from shardbroker.stream.manager import Manager
    from shardbroker.stream.stream import Stream

CHUNK_DEFAULT: Final = 128 * 1024
CHUNK_MIN: Final = 1024
CHUNK_MAX: Final = 1024 * 1024
WINDOW_DEFAULT: Final = 8 * 1024 * 1024
WINDOW_MAX: Final = 32 * 1024 * 1024
IDLE_SECONDS: Final = 5.0
INTEREST_SECONDS: Final = 2.0
# The `nats` command subscribes to its inbox after it has the answer, and till then a wildcard of its requests' inboxes shows
# interest there.
SETTLE_SECONDS: Final = 0.5
LOAD_MSGS: Final = 1000


class _Anything(Kind):
    """Said by clients, not needed by us."""

    def take(self, value: Any, where: str) -> Any:
        return value


SNAPSHOT: Final = Struct(
    "JSApiStreamSnapshotRequest",
    {"deliver_subject": STRING, "no_consumers": BOOL, "chunk_size": INT, "window_size": INT, "jsck": BOOL},
)
STATE: Final = Struct(
    "StreamState",
    {
        "messages": UINT64, "bytes": UINT64, "first_seq": UINT64, "first_ts": TIME, "last_seq": UINT64, "last_ts": TIME,
        "num_subjects": INT64, "subjects": _Anything(), "num_deleted": INT64, "deleted": List(UINT64), "lost": _Anything(),
        "consumer_count": INT64,
    },
)  # fmt: skip
RESTORE: Final = Struct("JSApiStreamRestoreRequest", {"config": CONFIG, "state": STATE})


# ---- what is archived -------------------------------------------------------------------------------------------


def archived(stream: Stream, *, consumers: bool) -> Iterator[bytes]:
    """The archive of what is durable now, in pieces."""
    take = getattr(stream.consumers, "snapshot", None)
    saved = take() if consumers and take is not None else []
    end = stream.log.durable_seq
    meta = {"created": format_time(stream.created_ns), **stream.config.to_json()}
    return archive.write(meta, end, saved, _messages(stream, end))


def _messages(stream: Stream, end: int) -> Iterator[archive.Message]:
    seq = stream.log.first_seq
    while seq <= end and (message := stream.log.next(seq)) is not None and message.seq <= end:
        yield archive.Message(message.seq, message.time_ns, message.subject, message.headers, message.payload)
        seq = message.seq + 1


def ends_at(message: archive.Message, config: StreamConfig) -> int:
    """When a message's own time is over, Unix ns; 0: never."""
    if not config.allow_msg_ttl or b"\nNats-" not in message.headers:
        return 0
    ttl = parse_ttl(h.get(message.headers, h.TTL))
    return message.time_ns + ttl if ttl > 0 else 0


# ---- out --------------------------------------------------------------------------------------------------------


@serve("STREAM.SNAPSHOT", "stream_snapshot_response")
async def snapshot(request: Request) -> None:
    request.need_payload()
    stream, manager = request.stream, request.manager
    asked = request.decode(SNAPSHOT)
    target = asked.get("deliver_subject", "")
    if not (target and is_valid_subject(target) and is_literal_subject(target)):
        raise ApiError(Code.SNAPSHOT_DELIVER_SUBJECT_INVALID)
    manager.log.notice(f"Starting snapshot for stream '{stream.account} > {stream.name}'")
    state = stream.state()
    start = format_time(manager.clock.time_ns())
    request.respond({"config": stream.config.to_json(), "state": state})
    advisories.advise(
        manager, f"{advisories.PREFIX}.STREAM.SNAPSHOT_CREATE.{stream.name}", "advisory.v1.snapshot_create",
        {"stream": stream.name, "state": state, "client": request.client},
    )  # fmt: skip
    error = await _send(manager, stream, asked)
    fields = {
        "stream": stream.name,
        "start": start,
        "end": format_time(manager.clock.time_ns()),
        "client": request.client,
    }
    if error:
        fields["error"] = error
        manager.log.warning(f"Snapshot for stream '{stream.account} > {stream.name}' failed: {error}")
    else:
        manager.log.notice(f"Completed snapshot for stream '{stream.account} > {stream.name}'")
    advisories.advise(
        manager,
        f"{advisories.PREFIX}.STREAM.SNAPSHOT_COMPLETE.{stream.name}",
        "advisory.v1.snapshot_complete",
        fields,
    )


async def _send(manager: Manager, stream: Stream, asked: dict[str, Any]) -> str:
    """The chunks, as fast as they are acknowledged, and what ends them; why it failed, or nothing."""
    target = asked["deliver_subject"].encode()
    chunk = min(max(asked.get("chunk_size") or CHUNK_DEFAULT, CHUNK_MIN), CHUNK_MAX)
    window = max(min(max(asked.get("window_size") or WINDOW_DEFAULT, CHUNK_MIN), WINDOW_MAX), chunk)
    slots = asyncio.Semaphore(window // chunk)
    ack = f"$JS.SNAPSHOT.ACK.{stream.name}.{advisories.new_id()}"
    sink = manager.face.sink()
    manager.sinks[sink] = lambda *_: slots.release()
    manager.engine.sink_subscribe(sink, f"{ack}.>".encode())
    # What is no whole chunk long ends without a status.
    error, status = "", b""
    try:
        await manager._told()
        end = asyncio.get_running_loop().time() + INTEREST_SECONDS
        while not manager.face.interest(target) and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.01)
        await asyncio.sleep(SETTLE_SECONDS)
        index, rest = 0, b""
        for piece in archived(stream, consumers=not asked.get("no_consumers", False)):
            rest += piece
            while len(rest) >= chunk:
                index += 1
                async with asyncio.timeout(IDLE_SECONDS):
                    await slots.acquire()
                if not manager.face.interest(target):
                    return _ended(manager, target, "no interest", b"408 No Interest")
                reply = f"{ack}.{chunk}.{index}".encode()
                manager.face.publish(target, rest[:chunk], reply)
                status = b"204"
                rest = rest[chunk:]
            await asyncio.sleep(0)
            if stream.closed:
                return _ended(manager, target, "stream closed", b"500 stream closed")
        if rest:
            manager.face.publish(target, rest)
    except TimeoutError:
        error, status = "no flow response", b"408 No Flow Response"
    finally:
        manager.engine.sink_close(sink)
        del manager.sinks[sink]
    return _ended(manager, target, error, status)


def _ended(manager: Manager, target: bytes, error: str, status: bytes) -> str:
    manager.face.publish(target, b"", b"", b"NATS/1.0 " + status + b"\r\n\r\n" if status else b"")
    return error


# ---- in ---------------------------------------------------------------------------------------------------------


@serve("STREAM.RESTORE", "stream_restore_response", beside_error={"deliver_subject": ""})
async def restore(request: Request) -> None:
    request.need_payload()
    fields = request.decode(RESTORE)
    config = StreamConfig.from_fields(fields.get("config", {}))
    name, manager = request.stream_name, request.manager
    if not config.name:
        config.name = name
    if config.name != name:
        raise ApiError(Code.STREAM_MISMATCH)
    if "/" in name or "\\" in name:
        raise ApiError(Code.STREAM_NAME_CONTAINS_PATH_SEPARATORS)
    await manager.registry.run(lambda definitions: check_config(config, definitions) and None)
    if name in manager.streams:
        raise ApiError(Code.STREAM_NAME_EXIST_RESTORE_FAILED)
    await _Restore(request, config, fields.get("state", {})).run()


class _Restore:
    """One restore under way: chunks go to a file, and become a stream when the last has come."""

    def __init__(self, request: Request, config: StreamConfig, state: dict[str, Any]) -> None:
        self._request = request
        self._manager = request.manager
        self._config = config
        # As whoever asks knows the stream: the file has messages that had been removed from its front.
        self._first_seq = state.get("first_seq", 0)
        self._last_seq = state.get("last_seq", 0)
        self._chunks: asyncio.Queue[tuple[bytes, bytes]] = asyncio.Queue()
        self.bytes = 0

    async def run(self) -> None:
        manager, name = self._manager, self._config.name
        start = format_time(manager.clock.time_ns())
        manager.log.notice(f"Starting restore for stream '{manager.account} > {name}'")
        client = self._request.client
        advisories.advise(
            manager, f"{advisories.PREFIX}.STREAM.RESTORE_CREATE.{name}", "advisory.v1.restore_create",
            {"stream": name, "client": client},
        )  # fmt: skip
        subject = f"$JS.SNAPSHOT.RESTORE.{name}.{advisories.new_id()}"
        sink = manager.face.sink()
        manager.sinks[sink] = lambda sid, subj, reply, headers, payload: self._chunks.put_nowait(
            (reply, payload)
        )
        manager.engine.sink_subscribe(sink, subject.encode())
        path = manager.directory / "trash" / f"restore-{advisories.new_id()}"
        try:
            await manager._told()
            self._request.respond({"deliver_subject": subject})
            reply = await self._receive(path)
            if reply is None:
                manager.log.warning(f"restore for stream '{manager.account} > {name}' is stalled")
                return
            answer: dict[str, Any]
            try:
                stream = await self._build(path)
                answer = stream.info(domain=False)
            except (ApiError, ValueError, OSError) as error:
                if not isinstance(error, ApiError):
                    error = ApiError(Code.STREAM_RESTORE, err=error)
                answer = {"error": error.to_json()}
                manager.log.warning(f"Restore failed for stream '{manager.account} > {name}': {error}")
            else:
                manager.log.notice(f"Completed restore for stream '{manager.account} > {name}'")
            advisories.advise(
                manager, f"{advisories.PREFIX}.STREAM.RESTORE_COMPLETE.{name}", "advisory.v1.restore_complete",
                {"stream": name, "start": start, "end": format_time(manager.clock.time_ns()), "bytes": self.bytes,
                 "client": client},
            )  # fmt: skip
            manager.face.publish(reply, orjson.dumps({"type": TYPE + "stream_create_response", **answer}))
        finally:
            manager.engine.sink_close(sink)
            del manager.sinks[sink]
            await manager.in_thread(lambda: path.unlink(missing_ok=True))

    async def _receive(self, path: Path) -> bytes | None:
        """Write all chunks to a file; the reply of the empty one that ends them, None when no more came."""
        with path.open("wb") as file:
            while True:
                try:
                    async with asyncio.timeout(IDLE_SECONDS):
                        reply, chunk = await self._chunks.get()
                except TimeoutError:
                    return None
                if not chunk:
                    return reply
                self.bytes += len(chunk)
                await self._manager.in_thread(file.write, chunk)
                if reply:
                    self._manager.face.publish(reply, b"")

    async def _build(self, path: Path) -> Stream:
        """The stream from the archive; nothing is left of it when that fails."""
        manager = self._manager
        raw = archive.read(path)
        stream = await manager.stage(self._config)
        try:
            consumers = await self._load(stream, raw)
            await manager.adopt(stream, lambda: self._consumers(stream, consumers))
        except BaseException:
            await manager.discard(stream)
            raise
        return stream

    def _consumers(self, stream: Stream, saved: list[archive.SavedConsumer]) -> None:
        load = getattr(stream.consumers, "restore", None)
        if saved and load is not None:
            load(saved)

    async def _load(self, stream: Stream, batches: Iterator[list[archive.Item]]) -> list[archive.SavedConsumer]:
        """All messages, durable; the consumers that there were."""
        log, count, last_seq = stream.log, 0, self._last_seq
        now = self._manager.clock.time_ns()
        consumers: list[archive.SavedConsumer] = []
        ticket: int | None = None  # while threads read on, what came before may have been written already
        while (batch := await self._manager.in_thread(next, batches, None)) is not None:
            for item in batch:
                if isinstance(item, archive.SavedConsumer):
                    consumers.append(item)
                elif isinstance(item, archive.State):
                    said = item.fields.get("last_seq", 0)
                    last_seq = max(last_seq, said if isinstance(said, int) else 0)
                elif item.seq >= self._first_seq:
                    self._append(log, item, now)
                    ticket = log.ticket
                    count += 1
                    if count % LOAD_MSGS == 0:
                        stream.capture.touch()
                        await asyncio.sleep(0)
        if last_seq > log.last_seq:
            log.skip(last_seq + 1)
            ticket = log.ticket
        if ticket is not None:
            await stream.durable(ticket)
        return consumers

    def _append(self, log: Log, message: archive.Message, now: int) -> None:
        subject = text_of(message.subject)
        if not (is_valid_subject(subject) and is_literal_subject(subject)) or message.seq <= log.last_seq:
            raise ValueError(f"a message that cannot be, at sequence {message.seq}")
        if message.seq > log.last_seq + 1:
            log.skip(message.seq)
        ends = ends_at(message, self._config)
        ttl = max(ends - now, 1) if ends else 0
        log.append(message.subject, message.payload, message.headers, message.time_ns, ttl)
