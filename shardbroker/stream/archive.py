"""Archives of streams: what STREAM.SNAPSHOT sends and STREAM.RESTORE takes, the same as nats-server's.

    write(meta, last_seq, consumers, messages) -> pieces of an archive
    read(path) -> batches of what an archive has: State, SavedConsumer, Message; ValueError for what is none

Written is the format of nats-server up to 2.14, which later ones read too: a tar of `meta.inf`, `msgs/<n>.blk`, and
`obs/<consumer>/meta.inf` and `o.dat`, in the framing of Snappy or S2 (filestore.go streamSnapshot,
rebuildStateFromBufLocked; store.go encodeConsumerState). Read is that, and the format of 2.15 (archive.go: `NATSARC1`, then
entries of a name, a time, a sequence, two sizes, and the bytes of both). All of an archive is checked by the framing's own
checksums.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import cramjam
import orjson

from shardbroker.stream.highway import highway64
from shardbroker.stream.s2 import decode_block, masked_crc

MAGIC: Final = b"NATSARC1"
# Raw bytes of one piece that is written, and of one batch that is read.
PIECE_BYTES: Final = 1024 * 1024
NAME_BYTES_MAX: Final = 1 << 20
# A message with its headers; a consumer with its state; a block of messages.
ENTRY_BYTES_MAX: Final = 256 << 20
_FRAME_BYTES_MAX: Final = 8 << 20
_BLOCK: Final = re.compile(r"msgs/(\d+)\.blk")
_CONSUMER: Final = re.compile(r"obs/([^/]+)/(meta\.inf|o\.dat)")
_RECORD: Final = struct.Struct("<IQqH")
_HAS_HEADERS, _ERASED, _TOMBSTONE = 1 << 31, 1 << 63, 1 << 62
_SECOND: Final = 1_000_000_000


class State(NamedTuple):
    """What the archive says of the stream: fields of its state, or of its older `meta.inf`."""

    fields: dict[str, Any]


class Message(NamedTuple):
    """`headers`: the whole block, or empty. Times are Unix ns."""

    seq: int
    time_ns: int
    subject: bytes
    headers: bytes
    payload: bytes


class SavedConsumer(NamedTuple):
    """`delivered` and `floor`: (consumer sequence, stream sequence). pending: stream sequence -> (consumer sequence, sent)."""

    name: str
    config: dict[str, Any]
    delivered: tuple[int, int]
    floor: tuple[int, int]
    pending: dict[int, tuple[int, int]]
    redelivered: dict[int, int]

    @classmethod
    def from_json(cls, name: str, fields: Any) -> SavedConsumer:
        """Raises ValueError."""
        try:
            state = fields["state"]
            return cls(
                name,
                dict(fields["config"]),
                (int(state["delivered"]["consumer_seq"]), int(state["delivered"]["stream_seq"])),
                (int(state["ack_floor"]["consumer_seq"]), int(state["ack_floor"]["stream_seq"])),
                {
                    int(seq): (int(one["Sequence"]), int(one["Timestamp"]))
                    for seq, one in (state.get("pending") or {}).items()
                },
                {int(seq): int(count) for seq, count in (state.get("redelivered") or {}).items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"consumer {name!r} cannot be read: {error}") from None


Item = State | SavedConsumer | Message


# ---- writing ----------------------------------------------------------------------------------------------------


def write(
    meta: dict[str, Any], last_seq: int, consumers: Iterable[SavedConsumer], messages: Iterable[Message]
) -> Iterator[bytes]:
    """An archive, in pieces of about a megabyte before compression. `meta`: the configuration, and `created`."""
    compressor = cramjam.snappy.Compressor()
    collector = _Collector()
    stream = meta["name"]

    def piece() -> bytes:
        compressor.compress(collector.take())
        return bytes(compressor.flush())

    with tarfile.open(fileobj=collector, mode="w|") as tar:
        for name, data in _with_sum("meta.inf", stream, orjson.dumps(meta)):
            _add(tar, name, data)
        number = last = size = 0
        records: list[bytes] = []
        for message in messages:
            if not records:
                number += 1
                key = _key(f"{stream}-{number}")
            records.append(_record(key, message))
            size += len(records[-1])
            last = message.seq
            if size >= PIECE_BYTES:
                _add(tar, f"msgs/{number}.blk", b"".join(records))
                yield piece()
                records, size = [], 0
        if last < last_seq:
            # What was last is gone; an erased record keeps its place.
            if not records:
                number += 1
                key = _key(f"{stream}-{number}")
            records.append(_record(key, Message(last_seq, 0, b"", b"", b""), _ERASED))
        if records:
            _add(tar, f"msgs/{number}.blk", b"".join(records))
        for consumer in consumers:
            about = {"created": meta["created"], **consumer.config, "name": consumer.name}
            place = f"obs/{consumer.name}"
            for name, data in _with_sum(f"{place}/meta.inf", f"{stream}/{consumer.name}", orjson.dumps(about)):
                _add(tar, name, data)
            _add(tar, f"{place}/o.dat", state_of(consumer))
    compressor.compress(collector.take())
    yield bytes(compressor.finish())


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


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    member.mode = 0o600
    tar.addfile(member, io.BytesIO(data))


def _key(of: str) -> bytes:
    return hashlib.sha256(of.encode()).digest()


def _with_sum(name: str, of: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    yield name, data
    yield name.removesuffix(".inf") + ".sum", highway64(_key(of), data).hex().encode()


def _record(key: bytes, message: Message, flag: int = 0) -> bytes:
    head = len(message.headers).to_bytes(4, "little") if message.headers else b""
    subject, rest = message.subject, message.headers + message.payload
    size = _RECORD.size + len(subject) + len(head) + len(rest) + 8
    start = _RECORD.pack(
        size | (_HAS_HEADERS if head else 0), message.seq | flag, message.time_ns, len(subject)
    )
    return b"".join((start, subject, head, rest, highway64(key, start[4:20] + subject + rest)))


def state_of(consumer: SavedConsumer) -> bytes:
    """The bytes of `o.dat`."""
    (floor_dseq, floor_seq), (dseq, seq) = consumer.floor, consumer.delivered
    parts = [b"\x16\x02", *map(_unsigned, (floor_dseq, floor_seq, dseq, seq, len(consumer.pending)))]
    if consumer.pending:
        base = max(sent for _, sent in consumer.pending.values()) // _SECOND
        parts.append(_signed(base))
        for at, (number, sent) in consumer.pending.items():
            parts += (
                _unsigned(at - floor_seq),
                _unsigned(max(number - floor_dseq, 0)),
                _signed(base - sent // _SECOND),
            )
    redelivered = {at: count for at, count in consumer.redelivered.items() if at > floor_seq}
    parts.append(_unsigned(len(redelivered)))
    for at, count in redelivered.items():
        parts += (_unsigned(at - floor_seq), _unsigned(count))
    return b"".join(parts)


def _unsigned(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _signed(value: int) -> bytes:
    return _unsigned(value << 1 if value >= 0 else (-value << 1) - 1)


# ---- reading ----------------------------------------------------------------------------------------------------


def read(path: Path) -> Iterator[list[Item]]:
    """Batches of what is in an archive. Raises ValueError; reads as it is asked: for a helper thread."""
    with path.open("rb") as file:
        frames = _Frames(file)
        if frames.peek(len(MAGIC)) == MAGIC:
            yield from _batches(_entries(frames))
            return
    erased: set[int] = set()
    with path.open("rb") as file:
        for block in _blocks(file):
            erased.update(seq for seq, _ in _records(block) if isinstance(seq, int))
    with path.open("rb") as file:
        yield from _batches(_members(file, erased))


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item.payload) + len(item.headers) + 64 if isinstance(item, Message) else 64
        if size >= PIECE_BYTES:
            yield batch
            batch, size = [], 0
    yield batch


def _entries(frames: _Frames) -> Iterator[Item]:
    """Of the new format."""
    frames.exactly(len(MAGIC))
    ended = False
    while not ended:
        name_bytes = frames.uvarint()
        zigzag, seq, header_bytes, payload_bytes = (frames.uvarint() for _ in range(4))
        if name_bytes > NAME_BYTES_MAX or header_bytes + payload_bytes > ENTRY_BYTES_MAX:
            raise ValueError("an entry of the archive is too long")
        name = frames.exactly(name_bytes)
        headers, payload = frames.exactly(header_bytes), frames.exactly(payload_bytes)
        time_ns = zigzag >> 1 if not zigzag & 1 else -(zigzag >> 1) - 1
        if seq:
            yield Message(seq, time_ns, name, headers, payload)
        elif name == b"state.json":
            yield State(_json(payload))
        elif name.startswith(b"consumers/"):
            label = name.removeprefix(b"consumers/").decode(errors="replace")
            yield SavedConsumer.from_json(label, _json(payload))
        elif name or time_ns or header_bytes or payload_bytes:
            raise ValueError("an entry of the archive is neither a message nor a consumer")
        else:
            ended = True


def _json(data: bytes) -> dict[str, Any]:
    value = orjson.loads(data)
    if not isinstance(value, dict):
        raise ValueError("an entry of the archive is no JSON object")
    return value


def _tar(file: io.BufferedReader) -> Iterator[tuple[str, bytes]]:
    """The members of the older format."""
    try:
        with tarfile.open(fileobj=_Frames(file), mode="r|") as tar:
            for member in tar:
                if not member.isfile() or member.size > ENTRY_BYTES_MAX:
                    raise ValueError("the archive has something that is no file, or is too long")
                data = tar.extractfile(member)
                yield member.name.removeprefix("./"), data.read() if data is not None else b""
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"this is no archive of a stream: {error}") from None


def _blocks(file: io.BufferedReader) -> Iterator[bytes]:
    for name, data in _tar(file):
        if _BLOCK.fullmatch(name):
            yield data


def _members(file: io.BufferedReader, erased: set[int]) -> Iterator[Item]:
    """All that an archive of the older format has, without what was erased later. Messages ascend."""
    known, last = False, 0
    configs: dict[str, dict[str, Any]] = {}
    for name, data in _tar(file):
        if name == "meta.inf":
            known = True
            yield State(_json(data))
        elif _BLOCK.fullmatch(name):
            for _, message in _records(data):
                if message is not None and message.seq > last and message.seq not in erased:
                    last = message.seq
                    yield message
        elif (found := _CONSUMER.fullmatch(name)) is not None:
            if found[2] == "meta.inf":
                configs[found[1]] = {key: v for key, v in _json(data).items() if key.lower() != "created"}
            elif found[1] in configs:
                yield consumer_of(found[1], configs.pop(found[1]), data)
    for name, config in configs.items():
        yield SavedConsumer(name, config, (0, 0), (0, 0), {}, {})
    if not known:
        raise ValueError("this is no archive of a stream")


def _records(block: bytes) -> Iterator[tuple[int | None, Message | None]]:
    """A message, or the sequence of one that went, for each record of a block."""
    at = 0
    while at < len(block):
        if len(block) - at < _RECORD.size:
            raise ValueError("a block of messages is cut off")
        size, seq, time_ns, subject_bytes = _RECORD.unpack_from(block, at)
        has_headers, size = bool(size & _HAS_HEADERS), size & ~_HAS_HEADERS
        start, end = at + _RECORD.size, at + size - 8
        header_bytes, head = 0, start + subject_bytes
        if has_headers and head + 4 <= end:
            header_bytes, head = int.from_bytes(block[head : head + 4], "little"), head + 4
        if end > len(block) - 8 or end < head + header_bytes:
            raise ValueError("a record of a block is damaged")
        at += size
        if seq & _TOMBSTONE or seq & _ERASED or not seq:
            yield seq & ~(_TOMBSTONE | _ERASED), None
        else:
            body = head + header_bytes
            subject, headers = block[start : start + subject_bytes], block[head:body]
            yield None, Message(seq, time_ns, subject, headers, block[body:end])


def consumer_of(name: str, config: dict[str, Any], data: bytes) -> SavedConsumer:
    """From the bytes of `o.dat`. Raises ValueError."""
    if not data:
        return SavedConsumer(name, config, (0, 0), (0, 0), {}, {})
    if len(data) < 2 or data[0] != 22 or data[1] not in (1, 2):
        raise ValueError(f"the state of consumer {name!r} has another form")
    source = _Numbers(data, 2)
    newer = data[1] == 2
    floor = (source.unsigned(), source.unsigned())
    delivered = (source.unsigned(), source.unsigned())
    if not newer:
        delivered = (delivered[0] + max(floor[0] - 1, 0), delivered[1] + max(floor[1] - 1, 0))
    pending, redelivered = {}, {}
    if count := source.unsigned():
        base = source.signed()
        for _ in range(count):
            seq = source.unsigned() + floor[1]
            dseq = source.unsigned() + floor[0] if newer else 0
            seconds = source.signed()
            pending[seq] = (dseq, (base - seconds if newer else base + seconds) * _SECOND)
    for _ in range(source.unsigned()):
        seq = source.unsigned() + floor[1]
        redelivered[seq] = source.unsigned()
    return SavedConsumer(name, config, delivered, floor, pending, redelivered)


class _Numbers:
    """Go's variable length integers out of some bytes."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    def unsigned(self) -> int:
        value = shift = 0
        while True:
            if self._at >= len(self._data) or shift > 63:
                raise ValueError("a number is cut off")
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def signed(self) -> int:
        value = self.unsigned()
        return value >> 1 if not value & 1 else -(value >> 1) - 1


class _Frames(io.RawIOBase):
    """A file in the framing format of Snappy or S2, decompressed frame by frame."""

    HEADS: Final = (b"\xff\x06\x00\x00sNaPpY", b"\xff\x06\x00\x00S2sTwO")

    def __init__(self, file: io.BufferedReader) -> None:
        super().__init__()
        self._file = file
        self._data = b""
        self._at = 0
        if file.read(10) not in self.HEADS:
            raise ValueError("this is no archive of a stream: it is compressed by neither Snappy nor S2")

    def readable(self) -> bool:
        return True

    def read(self, n: int = -1) -> bytes:
        self._fill(n)
        end = len(self._data) if n < 0 else self._at + n
        out = self._data[self._at : end]
        self._at += len(out)
        return out

    def peek(self, n: int) -> bytes:
        """The next bytes, which stay."""
        self._fill(n)
        return self._data[self._at : self._at + n]

    def exactly(self, n: int) -> bytes:
        out = self.read(n)
        if len(out) < n:
            raise ValueError("the archive is cut off")
        return out

    def uvarint(self) -> int:
        value = shift = 0
        while shift <= 63:
            if self._at >= len(self._data):
                self._fill(1)
            if self._at >= len(self._data):
                break
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
        raise ValueError("the archive is cut off")

    def _fill(self, n: int) -> None:
        parts = [self._data[self._at :]]
        have = len(parts[0])
        if 0 <= n <= have:
            return
        while (n < 0 or have < n) and (frame := self._frame()) is not None:
            parts.append(frame)
            have += len(frame)
        self._data = b"".join(parts)
        self._at = 0

    def _frame(self) -> bytes | None:
        while True:
            head = self._file.read(4)
            if not head:
                return None
            size = int.from_bytes(head[1:], "little")
            body = self._file.read(size)
            if len(head) < 4 or len(body) < size:
                raise ValueError("a frame of the archive is cut off")
            if head[0] in (0x00, 0x01):
                crc, rest = int.from_bytes(body[:4], "little"), body[4:]
                data = decode_block(rest, _FRAME_BYTES_MAX) if head[0] == 0x00 else rest
                if size < 4 or masked_crc(data) != crc:
                    raise ValueError("a frame of the archive is damaged")
                return data
            if 0x02 <= head[0] <= 0x7F:
                raise ValueError("a frame of a kind that cannot be skipped")
