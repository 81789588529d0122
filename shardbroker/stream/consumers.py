"""The consumers of one stream, and of a shard: made, changed, deleted, saved, told of.

    ShardConsumers   the hub, the writer, who is who; one for each shard
      Consumers      of a stream: create, update, delete, info
        Entry        one consumer: its configuration and its native side

Deliveries and acknowledgements never come here: consumer.pxd. What comes are events of the hub: advisories, answers that
wait for the disk, consumers that nobody uses.

Home shard only: the stream's owner. Source of the rules: nats-server's consumer.go (addConsumer, updateConfig, delete).
"""

from __future__ import annotations

import asyncio
import random
import secrets
import string
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import orjson

from shardbroker.clock import Clock
from shardbroker.hot.engine import Engine
from shardbroker.limits import PROTOCOL_VERSION
from shardbroker.store.handle import Filter, Log
from shardbroker.stream import archive, gojson
from shardbroker.stream import consumer_model as model
from shardbroker.stream import consumer_store as disk
from shardbroker.stream.consumer_model import ConsumerConfig, Limits
from shardbroker.stream.errors import ApiError, Code
from shardbroker.stream.host import EngineHub
from shardbroker.stream.hub import EVENTS, Consumer, Retained

SAVE_SECONDS: Final = 0.05               # a change is on its way to the disk after at most this
CHANGE_BYTES_LEAST: Final = 64 << 10     # of changes, before a whole state replaces them
JITTER_NS: Final = 1_000_000_000
NAME_CHARACTERS: Final = string.ascii_letters + string.digits
ADVISORY: Final = "$JS.EVENT.ADVISORY.CONSUMER."
METRIC: Final = "$JS.EVENT.METRIC.CONSUMER.ACK."
DURATION_MAX_NS: Final = (1 << 63) - 1   # Go's longest
TIME_MAX_NS: Final = 1 << 62             # the year 2116: no sum of times overflows


class StreamLike(Protocol):
    """A stream, as its consumers need it (stream.Stream)."""

    name: str
    directory: Path
    config: Any
    log: Log
    capture: Any
    face: Any


class Logger(Protocol):
    def error(self, text: str, /) -> None: ...
    def warning(self, text: str, /) -> None: ...


# subject, type behind io.nats.jetstream., fields
Advise = Callable[[str, str, dict[str, Any]], None]

# One of Hub.take_events(): (kind, consumer id, seq, dseq, deliveries, ns, text, reply)
Event = tuple[int, int, int, int, int, int, bytes, bytes]

_PULL: Final = gojson.Struct("JSApiConsumerGetNextRequest", {
    "expires": gojson.DURATION, "batch": gojson.INT, "max_bytes": gojson.INT, "no_wait": gojson.BOOL,
    "idle_heartbeat": gojson.DURATION})


@dataclass
class Entry:
    """A consumer. `owner`: the Consumers that has it."""

    owner: Consumers
    name: str
    config: ConsumerConfig
    created_ns: int
    native: Consumer
    on_disk: bool
    change_bytes: int = 0                # written since the last whole state
    whole_bytes: int = -1                # of that; -1: there is none


class ShardConsumers:
    """What the consumers of a shard share."""

    def __init__(self, engine: Engine, clock: Clock, log: Logger, *, synchronous: bool = True) -> None:
        self.engine = engine
        self.clock = clock
        self.log = log
        self.hub = EngineHub(engine, self._on_events, self._on_error)
        self.writer = disk.Writer(synchronous=synchronous)
        self.by_id: dict[int, Entry] = {}
        self._last_id = 0
        self._saving: set[int] = set()   # ids that a save is under way for
        self._again: set[int] = set()    # and those of them that have changed since
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def make(self, stream: StreamLike, advise: Advise, limits: Callable[[], Limits]) -> Consumers:
        """The consumers of a stream that was just opened. Waits for the disk. limits(): the account's now; may raise ApiError."""
        consumers = Consumers(self, stream, advise, limits)
        consumers.recover()
        return consumers

    def next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    async def told(self) -> None:
        """Until the other shards know what we listen to: who gets an answer now may use it at once."""
        while not self.engine.interest_told():
            await asyncio.sleep(0.001)

    def stop(self) -> None:
        """Save what is not saved, and end. Every Consumers is closed already."""
        self.writer.stop()

    # ---- events ----

    def _on_error(self, error: Exception) -> None:
        self.log.error(f"Consumers: {type(error).__name__}: {error}")

    def _on_events(self) -> None:
        for event in self.hub.take_events():
            if event[0] == EVENTS["save"]:
                self._save_soon(urgent=event[2] != 0)
                continue
            entry = self.by_id.get(event[1])
            if entry is not None:
                self._on_event(entry, event)

    def _on_event(self, entry: Entry, event: Event) -> None:
        kind, _, seq, dseq, deliveries, ns, text, reply = event
        names = {"stream": entry.owner.stream.name, "consumer": entry.name}
        ending = f"{names['stream']}.{names['consumer']}"
        advise = entry.owner.advise
        if kind == EVENTS["request"]:
            _odd_request(entry, reply, text)
        elif kind == EVENTS["nak_delay"]:
            _odd_delay(entry.native, seq, text)
        elif kind == EVENTS["inactive"]:
            entry.owner.forget(entry)
        elif kind == EVENTS["resumed"]:
            entry.owner.advise_pause(entry)
        elif kind == EVENTS["max_deliveries"]:
            advise(ADVISORY + "MAX_DELIVERIES." + ending, "advisory.v1.max_deliver",
                    {**names, "stream_seq": seq, "deliveries": deliveries})
        elif kind == EVENTS["naked"]:
            advise(ADVISORY + "MSG_NAKED." + ending, "advisory.v1.nak",
                    {**names, "consumer_seq": dseq, "stream_seq": seq, "deliveries": deliveries})
        elif kind == EVENTS["terminated"]:
            reason = {"reason": text.decode(errors="replace")} if text else {}
            advise(ADVISORY + "MSG_TERMINATED." + ending, "advisory.v1.terminated",
                    {**names, "consumer_seq": dseq, "stream_seq": seq, "deliveries": deliveries, **reason})
        elif kind == EVENTS["acked"]:
            advise(METRIC + ending, "metric.v1.consumer_ack",
                    {**names, "consumer_seq": dseq, "stream_seq": seq, "ack_time": ns, "deliveries": deliveries})

    # ---- saving ----

    def _save_soon(self, *, urgent: bool) -> None:
        """At once when an answer waits for it; else with whatever else changes in the next moment. Comes from inside of
        the loop's select(), so a timer has to be set from the loop itself."""
        if urgent:
            self.save()
            return
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._loop.call_soon_threadsafe(self._set_timer)

    def _set_timer(self) -> None:
        if self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(SAVE_SECONDS, self.save)

    def save(self) -> None:
        """Hand all changed states to the writer. One that is being written follows when that is done."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for id in self.hub.dirty():
            entry = self.by_id.get(id)
            if entry is None:
                continue
            if id in self._saving:
                self._again.add(id)
            else:
                self._write(entry)

    def _write(self, entry: Entry) -> None:
        whole = entry.whole_bytes < 0 or entry.change_bytes > max(CHANGE_BYTES_LEAST, 4 * entry.whole_bytes)
        change, blob = entry.native.save(whole)
        if disk.is_whole(blob):
            entry.whole_bytes, entry.change_bytes = len(blob), 0
            work = disk.save_whole(entry.name, blob)
        else:
            entry.change_bytes += len(blob)
            work = disk.save_change(entry.name, blob)
        id = entry.native.id
        self._saving.add(id)

        def done(error: BaseException | None) -> None:
            self._saving.discard(id)
            again = id in self._again
            self._again.discard(id)
            if self.by_id.get(id) is not entry:
                return
            if error is None:
                entry.native.saved(change)
                if again:
                    self._write(entry)
                return
            self.log.error(f"Consumer '{entry.owner.stream.name} > {entry.name}' error on write store state: {error}")
            entry.whole_bytes = -1
            entry.native.save_failed()

        self.writer.submit(entry.owner.stream.directory, work, done)


def _odd_request(entry: Entry, reply: bytes, payload: bytes) -> None:
    """A pull request that the native side left to us: unknown fields, spellings, mistakes."""
    native = entry.native
    if entry.config.is_push:
        native.status(reply, b"409 Consumer is push based")
        return
    asked = {"batch": 1}
    if payload.lstrip()[:1] == b"{":
        try:
            asked = gojson.decode(_known_fields(payload), _PULL)
        except gojson.DecodeError as e:
            # Go's other words for it: this request is not read from a stream.
            why = "unexpected end of JSON input" if str(e) == "unexpected EOF" else str(e)
            native.status(reply, f"400 Bad Request - {why}".encode()[:180])
            return
    native.request(reply, asked.get("batch", 0), asked.get("expires", 0), asked.get("max_bytes", 0), bool(asked.get("no_wait")),
                   asked.get("idle_heartbeat", 0))


def _known_fields(payload: bytes) -> bytes:
    """Without the fields that we do not know, which this request may have."""
    try:
        given = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return payload
    if not isinstance(given, dict):
        return payload
    return orjson.dumps({k: v for k, v in given.items() if k.lower() in _PULL.fields})


def _odd_delay(native: Consumer, seq: int, text: bytes) -> None:
    """The delay of a -NAK in an odd shape; with one that is none the message comes again at once (processNak)."""
    try:
        if text[:1] == b"{":
            delay = orjson.loads(text).get("delay", 0)
        else:
            delay = gojson.parse_duration(text.decode(errors="replace"))
    except (gojson.DecodeError, orjson.JSONDecodeError):
        delay = 0
    native.nak(seq, delay if type(delay) is int and abs(delay) < 1 << 62 else 0)


class Consumers:
    """The consumers of one stream, by name."""

    def __init__(self, shard: ShardConsumers, stream: StreamLike, advise: Advise, limits: Callable[[], Limits]) -> None:
        self.shard = shard
        self.stream = stream
        self.advise = advise
        self._limits = limits            # the account's
        self._retention: str = stream.config.retention
        self.retained = Retained(shard.hub, stream.log, self._retention)
        shard.hub.bind(self.retained, stream.capture)
        self.entries: dict[str, Entry] = {}
        self.closed = False

    # ---- what there is ----

    def count(self) -> int:
        return len(self.entries)

    def public(self) -> list[Entry]:
        """All but those of clients that are told not to be listed, by name."""
        return [e for _, e in sorted(self.entries.items()) if not e.config.direct]

    def find(self, name: str) -> Entry:
        """The consumer of this name. Raises ApiError."""
        entry = self.entries.get(name)
        if entry is None:
            raise ApiError(Code.CONSUMER_NOT_FOUND)
        return entry

    def info(self, entry: Entry, *, dynamic: bool = True) -> dict[str, Any]:
        """ConsumerInfo. dynamic: with the server's own metadata, which lists have not."""
        state = entry.native.info()
        now = self.shard.clock.time_ns()
        config = entry.config.to_json()
        if dynamic:
            config["metadata"] = model.dynamic_metadata(entry.config.metadata, PROTOCOL_VERSION)
        if "pause_until" in config:
            config["pause_until"] = config.pop("pause_until")
        out: dict[str, Any] = {
            "stream_name": self.stream.name, "name": entry.name, "created": gojson.format_time(entry.created_ns),
            "config": config,
            "delivered": _sequence(state["delivered_dseq"], state["delivered_seq"], state["delivered_time"]),
            "ack_floor": _sequence(state["floor_dseq"], state["floor_seq"], state["acked_time"]),
            "num_ack_pending": state["ack_pending"],
            "num_redelivered": 0 if entry.config.max_deliver == 1 else state["redelivered"],
            "num_waiting": state["waiting"], "num_pending": state["pending"]}
        if entry.config.is_push and state["active"]:
            out["push_bound"] = True
        until = entry.config.pause_until
        if until is not None and until.ns > now:
            out["paused"] = True
            out["pause_remaining"] = min(until.ns - now, DURATION_MAX_NS)
        out["ts"] = gojson.format_time(now)
        return out

    # ---- making and changing ----

    async def create(
        self, given: ConsumerConfig, action: str, *, pedantic: bool = False
    ) -> tuple[Entry, dict[str, Any]]:
        """Create, or update, as asked (addConsumerWithAction). Raises ApiError. Returns when it is on the disk.

        With it comes what it says of itself: of a new one as it was before its first delivery, since clients count from there how
        many messages there were (initialInfo)."""
        stream = self.stream.config
        limits = self._limits()
        config = model.with_defaults(given, stream, limits, pedantic)
        model.check(config, stream, limits)
        name = config.durable_name or config.name
        existing = self.entries.get(name) if name else None
        if existing is not None:
            if action == "create" and not _same(config, existing.config):
                raise ApiError(Code.CONSUMER_ALREADY_EXISTS)
            if stream.retention == "workqueue":
                model.check_partition(config, self._others(name))
            await self.update(existing, config)
            return existing, self.info(existing)
        if action == "update":
            raise ApiError(Code.CONSUMER_DOES_NOT_EXIST)
        # Looked at only where it counts: there may be a hundred thousand of them.
        most = min((n for n in (stream.max_consumers, limits.max_consumers) if n > 0), default=0)
        if most and len(self._others(name)) >= most:
            raise ApiError(Code.MAXIMUM_CONSUMERS_LIMIT)
        if stream.retention == "workqueue" and not config.direct:
            model.check_work_queue(config, self._others(name))
        if len(name.encode()) > model.NAME_BYTES_MAX:
            raise ApiError(Code.CONSUMER_NAME_TOO_LONG, max=model.NAME_BYTES_MAX)
        while not name or (name in self.entries):
            name = "".join(secrets.choice(NAME_CHARACTERS) for _ in range(8))
        entry = self._build(name, _stamped(config), self.shard.clock.time_ns())
        entry.native.start_at(*self._start(config))
        self._run(entry)
        # It delivers at the end of this turn at the earliest.
        said = self.info(entry)
        if entry.on_disk:
            _, blob = entry.native.save(True)
            entry.whole_bytes = len(blob)
            try:
                await self.shard.writer.run(self.stream.directory, disk.define(name, _definition(entry), blob))
            except Exception as e:
                self._drop(entry)
                self.shard.log.warning(f"Consumer create failed for '{self.stream.name} > {name}': {e}")
                raise ApiError(Code.CONSUMER_STORE_FAILED, err="error creating store for consumer") from None
        self._advise("CREATED", entry, "create")
        return entry, said

    def _others(self, name: str) -> dict[str, ConsumerConfig]:
        return {n: e.config for n, e in self.entries.items() if n != name and not e.config.direct}

    def _build(self, name: str, config: ConsumerConfig, created_ns: int) -> Entry:
        """Known by its name from now on; to be placed and run."""
        on_disk = self.stream.config.storage == "file" and not config.mem_storage and not config.direct
        texts = self._texts(name, config)
        native = Consumer(self.retained, self.shard.next_id(), _patterns(config), _waits(config), texts,
                          self._settings(config), on_disk)
        entry = Entry(self, name, config, created_ns, native, on_disk)
        self.entries[name] = entry
        self.shard.by_id[native.id] = entry
        return entry

    def _run(self, entry: Entry) -> None:
        """Listen to its clients, and deliver."""
        config = entry.config
        prefix = f"{self.stream.name}.{entry.name}".encode()
        self.shard.hub.listen(
            entry.native,
            b"$JS.ACK." + prefix + b".*.*.*.*.*" if config.ack_policy != "none" else b"",
            b"$JS.API.CONSUMER.MSG.NEXT." + prefix,
            b"$JS.FC." + prefix + b".*" if config.flow_control else b"")
        entry.native.start()
        if _until(config):
            entry.native.pause(_until(config))

    def _texts(self, name: str, config: ConsumerConfig) -> dict[str, bytes]:
        ending = f"{self.stream.name}.{name}".encode()
        return {
            "deliver": config.deliver_subject.encode(),
            "ack_prefix": b"$JS.ACK." + ending + b".", "flow_prefix": b"$JS.FC." + ending + b".",
            "advisory_naked": ADVISORY.encode() + b"MSG_NAKED." + ending,
            "advisory_terminated": ADVISORY.encode() + b"MSG_TERMINATED." + ending,
            "advisory_max_deliveries": ADVISORY.encode() + b"MAX_DELIVERIES." + ending,
            "metric_acked": METRIC.encode() + ending,
            "over_batch": b"409 Exceeded MaxRequestBatch of %d" % config.max_batch,
            "over_expires": f"409 Exceeded MaxRequestExpires of {gojson.format_duration(config.max_expires)}".encode(),
            "over_bytes": b"409 Exceeded MaxRequestMaxBytes of %d" % config.max_bytes}

    def _settings(self, config: ConsumerConfig) -> dict[str, Any]:
        # A pull consumer's threshold has up to a second more, so that many do not end at once (updateInactiveThreshold).
        inactive = max(config.inactive_threshold, 0)    # the stream's default may be negative
        if inactive and not (config.is_push and config.is_durable):
            inactive += random.randrange(JITTER_NS // 10, JITTER_NS)
        size = self.stream.config.max_msg_size
        return {
            "ack_policy": config.ack_policy, "push": config.is_push, "headers_only": config.headers_only,
            "flow_control": config.flow_control, "replay_original": config.replay_policy == "original",
            "direct": config.direct, "max_ack_pending": max(config.max_ack_pending, 0),
            "max_deliver": max(config.max_deliver, 0), "max_waiting": config.max_waiting, "max_batch": config.max_batch,
            "sample_percent": config.sample_percent, "max_expires_ns": config.max_expires, "max_bytes": config.max_bytes,
            "heartbeat_ns": config.idle_heartbeat, "inactive_ns": inactive, "rate_bytes": config.rate_limit_bps // 8,
            "rate_burst": size if size > 0 else self.shard.engine.settings.max_payload}

    def _start(self, config: ConsumerConfig) -> tuple[int, list[int], int]:
        """Where it begins: (sequence, skips, resume), as Consumer.start_at takes them (selectStartingSeqNo)."""
        log = self.stream.log
        first, last = log.first_seq, log.last_seq
        seq, skips = first, list[int]()
        if config.opt_start_seq:
            return max(config.opt_start_seq, first), [], 0
        if config.deliver_policy == "last":
            seq = last
            if config.filters:
                with _filtered(log, config) as only:
                    found = log.previous(last, only)
                seq = found.seq if found is not None else 0
        elif config.deliver_policy == "new":
            seq = last + 1
        elif config.deliver_policy == "by_start_time" and config.opt_start_time is not None:
            seq = log.seq_at(min(max(config.opt_start_time.ns, 0), TIME_MAX_NS))
            if config.filters and seq <= last:
                with _filtered(log, config) as only:
                    found = log.next(first, only)
                if found is not None and seq < found.seq < last:
                    seq = found.seq
        elif config.deliver_policy == "last_per_subject" and self.stream.config.max_msgs_per_subject != 1:
            with _filtered(log, config) as only:
                skips = log.last_seqs(only)
            seq = skips[0] if skips else last
        seq = min(max(seq, first), last + 1)
        return seq, skips, last if skips else 0

    async def update(self, entry: Entry, config: ConsumerConfig) -> None:
        """Another configuration. Raises ApiError. Returns when it is on the disk."""
        old = entry.config
        model.check_update(old, config, lambda subject: self.stream.face.interest(subject.encode()))
        if config.pause_until is not None:
            config = replace(config, pause_until=config.pause_until.utc())
        if not old.is_durable:
            # One that was durable does not begin to end by itself because an update left its durable_name out.
            config = _stamped(config)
        self._apply(entry, config)
        if entry.on_disk:
            try:
                await self.shard.writer.run(self.stream.directory, disk.define(entry.name, _definition(entry)))
            except Exception as e:
                raise ApiError(Code.CONSUMER_STORE_FAILED, err=e) from None

    def _apply(self, entry: Entry, config: ConsumerConfig) -> None:
        old, entry.config = entry.config, config
        native = entry.native
        native.set_texts({**self._texts(entry.name, config), "deliver": old.deliver_subject.encode()})
        native.set_settings(self._settings(config))
        if _waits(config) != _waits(old):
            native.set_waits(_waits(config))
        if config.deliver_subject != old.deliver_subject:
            native.set_deliver(config.deliver_subject.encode())
        if _until(config) != _until(old):
            native.pause(_until(config))
            self.advise_pause(entry)
        if sorted(config.filters) != sorted(old.filters):
            native.set_filter(_patterns(config))
            native.recount()
            if self.stream.config.retention == "interest":
                self._settle()

    async def pause(self, entry: Entry, until: gojson.Time | None) -> None:
        """Deliver nothing before then; None: go on."""
        await self.update(entry, model.with_static_metadata(replace(entry.config, pause_until=until)))

    # ---- ends ----

    async def delete(self, entry: Entry) -> None:
        """Gone when this returns. Raises ApiError."""
        self._end(entry)
        if entry.on_disk:
            try:
                await self.shard.writer.run(self.stream.directory, disk.remove(entry.name))
            except Exception as e:
                raise ApiError(Code.STREAM_GENERAL_ERROR, err=e) from None

    def forget(self, entry: Entry) -> None:
        """Nobody uses it: deleted, and nobody waits for that."""
        if self.entries.get(entry.name) is not entry:
            return
        self._end(entry)
        if entry.on_disk:
            self.shard.writer.submit(self.stream.directory, disk.remove(entry.name), lambda error: None)

    def _end(self, entry: Entry) -> None:
        self._advise("DELETED", entry, "delete")
        entry.native.release(b"409 Consumer Deleted")
        self._drop(entry)
        if self.stream.config.retention == "interest":
            self._settle()

    def _drop(self, entry: Entry) -> None:
        self.entries.pop(entry.name, None)
        self.shard.by_id.pop(entry.native.id, None)
        self.shard.hub.unlisten(entry.native)
        entry.native.close()

    def _settle(self) -> None:
        """Let go of what no consumer wants any more."""
        log = self.stream.log
        at, last = log.first_seq, log.last_seq
        while at <= last:
            at = self.retained.settle_unneeded(at, last)

    def on_updated(self, config: Any) -> None:
        """The stream has another configuration."""
        changed = config.retention != self._retention
        self._retention = config.retention
        self.retained.set_retention(config.retention)
        for entry in self.entries.values():
            entry.native.set_settings(self._settings(entry.config))
        if changed and config.retention == "interest" and self.entries:
            self._settle()          # what all of them have had already

    def check_limits(self, old: Any, config: Any) -> None:
        """ApiError when consumers that stand are over a stream's new limits; limits that stay as they are were checked
        when each of them came."""
        if old.consumer_limits == config.consumer_limits:
            return
        most = config.consumer_limits.get("max_ack_pending", 0)
        longest = config.consumer_limits.get("inactive_threshold", 0)
        over = [
            name
            for name, entry in sorted(self.entries.items())
            if 0 < most < entry.config.max_ack_pending or 0 < longest < entry.config.inactive_threshold
        ]
        if over:
            error = f"change to limits violates consumers: {', '.join(over)}"
            raise ApiError(Code.STREAM_UPDATE, err=error)

    def on_deleted(self) -> None:
        """The stream goes, and its directory with it."""
        for entry in list(self.entries.values()):
            self._advise("DELETED", entry, "delete")
            entry.native.release(b"409 Consumer Deleted")
        self.shard.writer.forget(self.stream.directory)
        for entry in list(self.entries.values()):
            self._drop(entry)

    def close(self) -> None:
        """Before the log is closed: what has changed is saved, everything is freed."""
        if self.closed:
            return
        self.closed = True
        for entry in list(self.entries.values()):
            if entry.on_disk:
                _, blob = entry.native.save(True)
                self.shard.writer.submit_quietly(self.stream.directory, disk.save_whole(entry.name, blob))
            self._drop(entry)
        self.shard.hub.unbind(self.retained, self.stream.capture)

    # ---- start ----

    def recover(self) -> None:
        """As the disk has them. Waits for it."""
        if self.stream.config.storage != "file":
            return
        try:
            found = disk.read(self.stream.directory)
        except Exception as e:
            self.shard.log.error(f"Consumers of stream '{self.stream.name}' cannot be read: {e}")
            return
        for saved in found:
            try:
                self._recover(saved)
            except Exception as e:
                self.shard.log.error(f"Consumer '{self.stream.name} > {saved.name}' cannot be opened: {e}")
        if self.stream.config.retention != "limits":
            self._settle()

    def _recover(self, saved: disk.Saved) -> None:
        fields = gojson.decode(orjson.dumps(saved.definition["config"]), model.CONFIG)
        config = ConsumerConfig.from_fields(fields)
        entry = self._build(saved.name, config, int(saved.definition["created_ns"]))
        state = saved.state
        log = self.stream.log
        if state is None:
            entry.native.start_at(*self._start(config))
        else:
            if state.cut(log.last_seq):
                self.shard.log.warning(f"Consumer '{self.stream.name} > {saved.name}' had delivered more than the stream has: "
                                       f"it goes on behind sequence {log.last_seq}")
            skips: list[int] = []
            if state.resume and state.seq <= state.resume:
                with _filtered(log, config) as only:
                    skips = [s for s in log.last_seqs(only, state.resume) if s >= state.seq]
            entry.native.load(state.dseq, max(state.seq, log.first_seq), state.delivered_seq, state.floor_dseq, state.floor_seq,
                              [state.entries[s] for s in sorted(state.entries)],
                              [state.exceeded[s] for s in sorted(state.exceeded)],
                              state.delivered_time, state.acked_time, skips, state.resume if skips else 0)
        self._run(entry)

    def snapshot(self) -> list[archive.SavedConsumer]:
        """All that are kept, with their states."""
        out = []
        for entry in self.public():
            _, blob = entry.native.save(True)
            entry.whole_bytes = -1       # that was not written: the next save has everything again
            state = disk.state_of(blob, [])
            if state is None:
                continue
            redelivered = {e[0]: e[4] for e in state.entries.values() if e[4]}
            redelivered |= {e[0]: e[2] for e in state.exceeded.values()}
            out.append(archive.SavedConsumer(
                entry.name, entry.config.to_json(), (state.dseq - 1, max(state.seq, 1) - 1),
                (state.floor_dseq, state.floor_seq), {e[0]: (e[1], e[2]) for e in state.entries.values()}, redelivered))
        return out

    def restore(self, found: list[archive.SavedConsumer]) -> None:
        """Those of an archive, into a stream that has none. Raises ApiError."""
        now = self.shard.clock.time_ns()
        for one in found:
            (dseq, seq), (floor_dseq, floor_seq) = one.delivered, one.floor
            state = disk.State(
                dseq + 1, seq + 1, seq, floor_dseq, floor_seq,
                entries={s: (s, d, sent, 0, one.redelivered.get(s, 0)) for s, (d, sent) in one.pending.items()})
            saved = disk.Saved(one.name, {"config": one.config, "created_ns": now}, state)
            try:
                if not model.is_valid_name(saved.name) or saved.name in self.entries:
                    raise ValueError(f"a consumer named {saved.name!r}")
                self._recover(saved)
            except (KeyError, TypeError, ValueError, OverflowError, ApiError, disk.StateError) as e:
                raise ApiError(Code.STREAM_RESTORE, err=f"consumer {one.name!r} cannot be read: {e}") from None
            entry = self.entries[saved.name]
            if entry.on_disk:
                _, blob = entry.native.save(True)
                entry.whole_bytes = len(blob)
                self.shard.writer.submit_quietly(self.stream.directory, disk.define(entry.name, _definition(entry), blob))
        if self.stream.config.retention != "limits":
            self._settle()

    # ---- advisories ----

    def _advise(self, word: str, entry: Entry, action: str) -> None:
        self.advise(f"{ADVISORY}{word}.{self.stream.name}.{entry.name}", "advisory.v1.consumer_action",
                          {"stream": self.stream.name, "consumer": entry.name, "action": action})

    def advise_pause(self, entry: Entry) -> None:
        until = entry.config.pause_until
        self.advise(
            f"{ADVISORY}PAUSE.{self.stream.name}.{entry.name}", "advisory.v1.consumer_pause",
            {"stream": self.stream.name, "consumer": entry.name,
             "paused": until is not None and until.ns > self.shard.clock.time_ns(),
             "pause_until": str(until) if until is not None else gojson.format_time(gojson.ZERO_TIME_NS)})


def _definition(entry: Entry) -> dict[str, Any]:
    return {"config": entry.config.to_json(), "created_ns": str(entry.created_ns)}


def _sequence(consumer: int, stream: int, time_ns: int) -> dict[str, Any]:
    out: dict[str, Any] = {"consumer_seq": consumer, "stream_seq": stream}
    if time_ns:
        out["last_active"] = gojson.format_time(time_ns)
    return out


def _patterns(config: ConsumerConfig) -> list[bytes]:
    return [f.encode() for f in config.filters]


def _waits(config: ConsumerConfig) -> list[int]:
    return list(config.backoff) or [config.ack_wait or model.ACK_WAIT]


def _until(config: ConsumerConfig) -> int:
    """When a pause ends, in Unix ns that the native side can hold; 0: there is none."""
    return min(max(config.pause_until.ns, 0), TIME_MAX_NS) if config.pause_until is not None else 0


def _stamped(config: ConsumerConfig) -> ConsumerConfig:
    """An ephemeral consumer always has a threshold."""
    if not config.is_durable and config.inactive_threshold <= 0:
        return replace(config, inactive_threshold=model.INACTIVE_THRESHOLD)
    return config


def _same(one: ConsumerConfig, other: ConsumerConfig) -> bool:
    """Equal, but for the versions that the server itself writes into the metadata."""
    own = (model.VERSION_KEY, model.LEVEL_KEY, model.REQUIRED_LEVEL_KEY)
    a, b = ({k: v for k, v in c.metadata.items() if k not in own} for c in (one, other))
    return a == b and replace(one, metadata={}) == replace(other, metadata={})


class _filtered:
    """A Filter of a configuration, closed behind a with block."""

    def __init__(self, log: Log, config: ConsumerConfig) -> None:
        self._filter = Filter(log, _patterns(config))

    def __enter__(self) -> Filter:
        return self._filter

    def __exit__(self, *_: object) -> None:
        self._filter.close()
