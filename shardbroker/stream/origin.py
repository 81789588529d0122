"""Mirrors and sources: a stream that follows others of this server, whatever shards own them.

    Origin (of the follower)  --ask "follow", from a sequence-->  Followed (of the origin stream's shard)
                              <--a batch of messages, and how many are left--
                              <--tell "more"-- once there is more

A mirror has its origin's sequences and times; what the origin lacks is a gap. What comes from a source gets a sequence of
its own, and Nats-Stream-Source says where it was. Only what is durable at the origin travels, so a follower never has
what its origin may lose. Source: stream.go processInboundMirrorMsg, processInboundSourceMsg, genSourceHeader; ADR-59.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Any, Final

from shardbroker.store.handle import Filter, StoreError
from shardbroker.stream import headers as h
from shardbroker.stream.errors import ApiError, Code
from shardbroker.stream.model import Source, unix_ns
from shardbroker.subject import bytes_of, is_literal_subject, matches, shard_of, text_of
from shardbroker.transform import Transform, TransformError

if TYPE_CHECKING:
    from shardbroker.stream.manager import Manager
    from shardbroker.stream.stream import Stream

BATCH_MSGS: Final = 500
BATCH_BYTES: Final = 256 * 1024
RETRY_SECONDS: Final = 0.5
# What is told may be lost with a shard: look again by oneself.
LOOK_SECONDS: Final = 5.0
# How far back a stream is searched for what it has of its sources.
RESUME_MSGS: Final = 1_000_000
_HEAD: Final = struct.Struct("<QqqIII")  # sequence, time, TTL end, bytes of subject, headers, payload


class Followed:
    """The origin's side, on every shard: batches of durable messages for whoever follows."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        # Stream -> (shard, follower's name, index of its source) that want to be told
        self._waiting: dict[str, set[tuple[int, str, int]]] = {}
        manager.peers.serve("follow", self.batch)

    def batch(self, asked: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """Messages from `seq` (0: from `start_ns`) on that match: {next, left, last} and the messages, packed."""
        stream = self._manager.streams.get(asked["stream"])
        if stream is None:
            return {"missing": True}, b""
        log = stream.log
        seq = asked["seq"]
        if not seq:
            seq = log.seq_at(asked["start_ns"]) if asked["start_ns"] else max(log.first_seq, 1)
        out, size, count = [], 0, 0
        only = Filter(log, [pattern.encode() for pattern in asked["filters"]])
        try:
            while count < BATCH_MSGS and size < BATCH_BYTES:
                message = log.next(seq, only)
                if message is None or message.seq > log.durable_seq:
                    seq = max(seq, log.durable_seq + 1)
                    break
                head = _HEAD.pack(
                    message.seq, message.time_ns, message.expires_ns, len(message.subject), len(message.headers),
                    len(message.payload),
                )  # fmt: skip
                out += [head, message.subject, message.headers, message.payload]
                size += len(message.subject) + len(message.headers) + len(message.payload) + _HEAD.size
                count += 1
                seq = message.seq + 1
            left = log.pending(only, seq)
        finally:
            only.close()
        if not out:
            self._waiting.setdefault(stream.name, set()).add(
                (asked["shard"], asked["follower"], asked["index"])
            )
            stream.capture.follow(True)
        return {"next": seq, "left": left, "last": log.last_seq}, b"".join(out)

    def more(self, stream: Stream) -> None:
        """More of it is durable, or it is gone: tell those who wait, once."""
        waiting = self._waiting.pop(stream.name, None)
        if not stream.closed:
            stream.capture.follow(False)
        for shard, follower, index in waiting or ():
            self._manager.peers.tell(shard, "more", {"follower": follower, "index": index})


class Follow:
    """One origin of a stream."""

    def __init__(self, stream: Stream, manager: Manager, source: Source, index: int) -> None:
        # Whole life
        self.stream = stream
        self.source = source
        self.index = index
        self.mirror = stream.config.mirror is not None
        self._manager = manager
        self._moves = [
            (t.src or ">", Transform(t.src, t.dest) if t.dest else None) for t in source.subject_transforms
        ]
        name, _, rest = source.index_name.partition(" ")
        self._said_before, self._said_behind = name.encode() + b" ", b" " + rest.encode() + b" "
        # State
        self.next_seq = 0  # of the origin; 0: from its start
        self.lag = 0
        self.seen_ns = 0  # monotonic; 0: never
        self.error: ApiError | None = None
        self._more = asyncio.Event()

    @property
    def filters(self) -> list[str]:
        if self._moves:
            return [pattern for pattern, _ in self._moves]
        return [self.source.filter_subject] if self.source.filter_subject else []

    def wake(self) -> None:
        self._more.set()

    def info(self, now_ns: int) -> dict[str, Any]:
        """StreamSourceInfo."""
        out: dict[str, Any] = {"name": self.source.name}
        shown = self.source.shown()
        if "external" in shown:
            out["external"] = shown.pop("external")
        out |= {"lag": self.lag, "active": now_ns - self.seen_ns if self.seen_ns else -1}
        if self.error is not None:
            out["error"] = self.error.to_json()
        return out | shown

    def resume(self) -> None:
        """Where to go on, from what the stream has already."""
        log = self.stream.log
        if self.mirror:
            self.next_seq = log.last_seq + 1 if log.last_seq else self.source.opt_start_seq
            return
        self.next_seq = self.source.opt_start_seq
        seq, end = log.last_seq, max(log.first_seq, log.last_seq - RESUME_MSGS)
        while seq >= end and seq:
            message = log.previous(seq)
            if message is None:
                return
            found = h.get(message.headers, h.STREAM_SOURCE)
            if found.startswith(self._said_before) and self._said_behind in found + b" ":
                self.next_seq = h.number(found.split(b" ")[1]) + 1
                return
            seq = message.seq - 1

    async def run(self) -> None:
        """Follow for good."""
        self.resume()
        while True:
            self._more.clear()
            try:
                arrived = await self._step()
                self.error = None
            except ApiError as error:
                self.error = error
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if not arrived:
                try:
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._more.wait()
                except TimeoutError:
                    continue

    async def _step(self) -> bool:
        """One batch; whether there was one. Raises ApiError."""
        source, manager = self.source, self._manager
        external = (source.external or {}).get("api", "")
        if external not in ("", "$JS.API", f"$JS.{manager.domain}.API" if manager.domain else ""):
            raise ApiError(Code.STREAM_NOT_FOUND)
        answer = await manager.peers.ask(
            shard_of(self.stream.account, source.name, manager.shards),
            "follow",
            {
                "stream": source.name,
                "seq": self.next_seq,
                "start_ns": unix_ns(source.opt_start_time) if source.opt_start_time is not None else 0,
                "filters": self.filters,
                "shard": manager.shard,
                "follower": self.stream.name,
                "index": self.index,
            },
        )
        said, data = answer
        if "missing" in said:
            raise ApiError(Code.STREAM_NOT_FOUND)
        if self.stream.closed:
            raise asyncio.CancelledError
        self.seen_ns = manager.clock.monotonic_ns()
        if self.mirror and said["last"] + 1 < self.next_seq:
            # The origin was made anew: wait until it is where we are (nats-server does the same).
            self.lag = 0
            return False
        at = 0
        while at < len(data):
            at = self._take(data, at)
        if self.mirror and said["next"] > self.stream.log.last_seq + 1 and not self.filters:
            self._skip(said["next"])
        self.next_seq, self.lag = said["next"], said["left"]
        return bool(data)

    def _take(self, data: bytes, at: int) -> int:
        seq: int
        payload_bytes: int
        seq, time_ns, expires_ns, subject_bytes, header_bytes, payload_bytes = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        subject = data[at : at + subject_bytes]
        at += subject_bytes
        block = data[at : at + header_bytes]
        at += header_bytes
        payload = data[at : at + payload_bytes]
        moved = self._moved(subject)
        ttl = 0
        if expires_ns:
            ttl = max(expires_ns - self._manager.clock.time_ns(), 1)
        if self.mirror:
            self._skip(seq)
            self._keep(self.stream.capture.store(moved, block, payload, b"", ttl, time_ns))
        else:
            said = self._said_before + b"%d" % seq + self._said_behind + subject
            block = h.add(h.remove(block, h.STREAM_SOURCE), h.STREAM_SOURCE, said)
            self.stream.intake.sourced(moved, block, payload, ttl)
        return at + payload_bytes

    def _keep(self, stored: int) -> None:
        if not stored:
            raise ApiError(Code.STREAM_STORE_FAILED, err="the mirror could not store a message")

    def _skip(self, seq: int) -> None:
        """Sequences that the origin does not have, or that are not for us."""
        if seq > self.stream.log.last_seq + 1:
            try:
                self.stream.log.skip(seq)
            except StoreError as error:
                raise ApiError(Code.STREAM_STORE_FAILED, err=error) from None
            self.stream.capture.touch()

    def _moved(self, subject: bytes) -> bytes:
        text = text_of(subject)
        for pattern, transform in self._moves:
            if matches(pattern, text):
                moved = transform.apply(text) if transform is not None else None
                return bytes_of(moved) if moved is not None and is_literal_subject(moved) else subject
        return subject


class Origin:
    """All that a stream follows."""

    def __init__(self, stream: Stream, manager: Manager) -> None:
        config = stream.config
        sources = [config.mirror] if config.mirror is not None else config.sources
        self._stream = stream
        self._manager = manager
        try:
            self._follows = [Follow(stream, manager, source, index) for index, source in enumerate(sources)]
        except TransformError as error:
            raise ApiError(Code.STREAM_CREATE, err=error) from None
        self._tasks = [asyncio.ensure_future(follow.run()) for follow in self._follows]

    def wake(self, index: int) -> None:
        if index < len(self._follows):
            self._follows[index].wake()

    def info(self) -> dict[str, Any]:
        """`mirror` or `sources` of a StreamInfo."""
        now = self._manager.clock.monotonic_ns()
        infos = [follow.info(now) for follow in self._follows]
        return {"mirror": infos[0]} if self._stream.config.mirror is not None else {"sources": infos}

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
