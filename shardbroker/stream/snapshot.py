"""Backups of a stream to a client, and from a client: $JS.API.STREAM.SNAPSHOT and RESTORE.

What travels is a tar archive in Snappy's framing format (which readers of S2 read too, so `nats stream backup` can look
into it): `meta.inf`, the configuration; `msgs/<n>.bin`, messages packed one behind the other; `consumers.json`. Each frame
has a checksum. A receiver acknowledges chunks, so that no more than a window of them is under way.

Source: jetstream_api.go jsStreamSnapshotRequest, streamSnapshot, jsStreamRestoreRequest, processStreamRestore.
"""

from __future__ import annotations

import asyncio
import io
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cramjam
import orjson

from shardbroker.stream import advisories
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
from shardbroker.subject import is_literal_subject, is_valid_subject

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
# Messages of one archive member, and so what is read of a stream without a pause.
MEMBER_BYTES: Final = 1024 * 1024
LOAD_MSGS: Final = 1000
_HEAD: Final = struct.Struct("<QqqIII")


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


# ---- the archive ------------------------------------------------------------------------------------------------


class _Collector(io.RawIOBase):
    """What tarfile writes, to be taken away again."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        out = b"".join(self.parts)
        self.parts.clear()
        return out


def archive(stream: Stream, *, consumers: bool) -> Iterator[bytes]:
    """The compressed archive of what is durable now, in pieces of about a megabyte before compression."""
    collector = _Collector()
    compressor = cramjam.snappy.Compressor()
    tar = tarfile.open(fileobj=collector, mode="w|")  # noqa: SIM115 (closed before the last piece)

    def add(name: str, data: bytes) -> bytes:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        member.mode = 0o600
        tar.addfile(member, io.BytesIO(data))
        compressor.compress(collector.take())
        return bytes(compressor.flush())

    meta = stream.config.to_json() | {
        "created": format_time(stream.created_ns),
        "last_seq": stream.log.durable_seq,
    }
    yield add("meta.inf", orjson.dumps(meta))
    snapshot = getattr(stream.consumers, "snapshot", None)
    if consumers and snapshot is not None:
        yield add("consumers.json", orjson.dumps(snapshot()))
    seq, end, number = stream.log.first_seq, stream.log.durable_seq, 0
    while seq <= end:
        parts, size = [], 0
        while size < MEMBER_BYTES:
            message = stream.log.next(seq)
            if message is None or message.seq > end:
                seq = end + 1
                break
            head = _HEAD.pack(
                message.seq, message.time_ns, message.expires_ns, len(message.subject), len(message.headers),
                len(message.payload),
            )  # fmt: skip
            parts += [head, message.subject, message.headers, message.payload]
            size += _HEAD.size + len(message.subject) + len(message.headers) + len(message.payload)
            seq = message.seq + 1
        if parts:
            number += 1
            yield add(f"msgs/{number}.bin", b"".join(parts))
    tar.close()
    compressor.compress(collector.take())
    yield bytes(compressor.finish())


Packed = tuple[int, int, int, bytes, bytes, bytes]  # sequence, time, TTL end, subject, headers, payload


def unpack(data: bytes) -> Iterator[Packed]:
    """The messages of one member. Raises ValueError for what cannot be."""
    at = 0
    while at < len(data):
        if len(data) - at < _HEAD.size:
            raise ValueError("a message is cut off")
        seq, time_ns, expires_ns, *sizes = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        fields = []
        for size in sizes:
            if size > len(data) - at:
                raise ValueError("a message is cut off")
            fields.append(data[at : at + size])
            at += size
        if not seq or not fields[0]:
            raise ValueError("a message without a place")
        yield seq, time_ns, expires_ns, fields[0], fields[1], fields[2]


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
    error, status = "", b"204"
    try:
        await manager._told()
        end = asyncio.get_running_loop().time() + INTEREST_SECONDS
        while not manager.face.interest(target) and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.01)
        index, rest = 0, b""
        for piece in archive(stream, consumers=not asked.get("no_consumers", False)):
            rest += piece
            while len(rest) >= chunk:
                index += 1
                async with asyncio.timeout(IDLE_SECONDS):
                    await slots.acquire()
                if not manager.face.interest(target):
                    return _ended(manager, target, "no interest", b"408 No Interest")
                reply = f"{ack}.{chunk}.{index}".encode()
                manager.face.publish(
                    target, rest[:chunk], reply, b"NATS/1.0 204\r\n\r\n" if index == 1 else b""
                )
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
    manager.face.publish(target, b"", b"", b"NATS/1.0 " + status + b"\r\n\r\n")
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
    await _Restore(request, config, fields.get("state", {}).get("last_seq", 0)).run()


class _Restore:
    """One restore under way: chunks go to a file, and become a stream when the last has come."""

    def __init__(self, request: Request, config: StreamConfig, last_seq: int) -> None:
        self._request = request
        self._manager = request.manager
        self._config = config
        self._last_seq = last_seq
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
        raw = await manager.in_thread(_members, path)
        stream = await manager.create(self._config, restored=True)
        try:
            await self._load(stream, raw)
        except BaseException:
            await manager.delete(stream)
            raise
        return stream

    async def _load(self, stream: Stream, members: Iterator[tuple[str, bytes]]) -> None:
        log, count, last_seq = stream.log, 0, self._last_seq
        now = self._manager.clock.time_ns()
        while (member := await self._manager.in_thread(next, members, None)) is not None:
            name, data = member
            if name == "consumers.json":
                load = getattr(stream.consumers, "restore", None)
                if load is not None:
                    load(orjson.loads(data))
                continue
            if name == "meta.inf":
                last_seq = max(last_seq, int(orjson.loads(data).get("last_seq", 0)))
                continue
            for seq, time_ns, expires_ns, subject, headers, payload in unpack(data):
                if seq > log.last_seq + 1:
                    log.skip(seq)
                log.append(subject, payload, headers, time_ns, max(expires_ns - now, 1) if expires_ns else 0)
                count += 1
                if count % LOAD_MSGS == 0:
                    stream.capture.touch()
                    await asyncio.sleep(0)
        if last_seq > log.last_seq:
            log.skip(last_seq + 1)
        if log.last_seq:
            await stream.durable()
        stream.loaded()


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """The archive's members that we know. Raises ValueError. Reads as it is asked: for a helper thread."""
    file = _Frames(path)
    try:
        tar = tarfile.open(fileobj=file, mode="r|")  # noqa: SIM115 (read as it is asked)
    except tarfile.TarError as error:
        raise ValueError(f"this is no archive of a stream: {error}") from None
    return _read(tar)


def _read(tar: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    known = False
    try:
        for member in tar:
            name = member.name.removeprefix("./")
            if name.endswith(".blk"):
                raise ValueError("archives of nats-server's own format cannot be read")
            if not member.isfile() or member.size > 64 * MEMBER_BYTES:
                continue
            if name in ("meta.inf", "consumers.json") or (name.startswith("msgs/") and name.endswith(".bin")):
                known = True
                data = tar.extractfile(member)
                yield name, data.read() if data is not None else b""
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"this is no archive of a stream: {error}") from None
    if not known:
        raise ValueError("this is no archive of a stream")


class _Frames(io.RawIOBase):
    """A file in Snappy's framing format, decompressed frame by frame."""

    HEADER = b"\xff\x06\x00\x00sNaPpY"

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._rest = b""
        if self._file.read(len(self.HEADER)) != self.HEADER:
            raise ValueError("this is no archive of a stream: it is not in Snappy's framing format")

    def readable(self) -> bool:
        return True

    def read(self, n: int = -1) -> bytes:
        while n < 0 or len(self._rest) < n:
            frame = self._frame()
            if not frame:
                break
            self._rest += frame
        n = len(self._rest) if n < 0 else n
        out, self._rest = self._rest[:n], self._rest[n:]
        return out

    def _frame(self) -> bytes:
        while True:
            head = self._file.read(4)
            if len(head) < 4:
                self._file.close()
                return b""
            body = self._file.read(int.from_bytes(head[1:], "little"))
            if head[0] in (0x00, 0x01):
                try:
                    return bytes(cramjam.snappy.decompress(self.HEADER + head + body))
                except cramjam.DecompressionError as error:
                    raise ValueError(f"a frame is damaged: {error}") from None
            if 0x02 <= head[0] <= 0x7F:
                raise ValueError("a frame of a kind that cannot be skipped")
