"""What a consumer is configured to do: the fields of a request, their defaults, and what is refused.

    decode_request -> ConsumerConfig.from_fields -> with_defaults -> check            a new consumer
                                                                  -> check_update     of one that exists

Source: nats-server's consumer.go (setConsumerConfigDefaults, checkConsumerCfg, checkNewConsumerConfig); its errors and
their texts are in errors.py. Priority groups, and acknowledgement by flow control, are not served: their fields and
words are unknown here, and refused as by a server that never heard of them. Durations are ns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Protocol

from shardbroker import subject
from shardbroker.stream import gojson
from shardbroker.stream.errors import ApiError, Code
from shardbroker.subject_tree import NOBODY, SubjectTree

MILLISECOND: Final = 1_000_000
SECOND: Final = gojson.SECOND

ACK_WAIT: Final = 30 * SECOND
INACTIVE_THRESHOLD: Final = 5 * SECOND
MAX_ACK_PENDING: Final = 1000
MAX_WAITING: Final = 512
SMALLEST_HEARTBEAT: Final = 100 * MILLISECOND
NAME_BYTES_MAX: Final = 255
DESCRIPTION_BYTES_MAX: Final = 4 * 1024
METADATA_BYTES_MAX: Final = 128 * 1024

API_LEVEL: Final = 2
LEVEL_KEY: Final = "_nats.level"
VERSION_KEY: Final = "_nats.ver"
REQUIRED_LEVEL_KEY: Final = "_nats.req.level"


class StreamLike(Protocol):
    """What a consumer's configuration is checked against."""

    @property
    def name(self) -> str: ...
    @property
    def subjects(self) -> list[str]: ...
    @property
    def retention(self) -> str: ...
    @property
    def num_replicas(self) -> int: ...
    @property
    def consumer_limits(self) -> Mapping[str, int]: ...


@dataclass(frozen=True)
class Limits:
    """The server's and the account's, whichever is less; 0 or less is none."""

    max_ack_pending: int = 0
    max_request_batch: int = 0
    max_consumers: int = 0      # of a stream


@dataclass(frozen=True)
class ConsumerConfig:
    """In the order in which nats-server writes them. What is empty is not written, but for the policies and replicas."""

    durable_name: str = ""
    name: str = ""
    description: str = ""
    deliver_policy: str = "all"
    opt_start_seq: int = 0
    opt_start_time: gojson.Time | None = None
    ack_policy: str = "none"
    ack_wait: int = 0
    max_deliver: int = 0
    backoff: tuple[int, ...] = ()
    filter_subject: str = ""
    filter_subjects: tuple[str, ...] = ()
    replay_policy: str = "instant"
    rate_limit_bps: int = 0
    sample_freq: str = ""
    max_waiting: int = 0
    max_ack_pending: int = 0
    flow_control: bool = False
    headers_only: bool = False
    max_batch: int = 0
    max_expires: int = 0
    max_bytes: int = 0
    deliver_subject: str = ""
    deliver_group: str = ""
    idle_heartbeat: int = 0
    inactive_threshold: int = 0
    num_replicas: int = 0
    mem_storage: bool = False
    direct: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    pause_until: gojson.Time | None = None

    @classmethod
    def from_fields(cls, given: Mapping[str, Any]) -> ConsumerConfig:
        """Of what decode() gave."""
        known = dict(given)
        for name in ("backoff", "filter_subjects"):
            if name in known:
                known[name] = tuple(known[name])
        return cls(**known)

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, gojson.Time):
                out[f.name] = str(value)
            elif value or f.name in _ALWAYS:
                out[f.name] = list(value) if isinstance(value, tuple) else value
        return out

    # ---- what it amounts to ----

    @property
    def is_push(self) -> bool:
        return bool(self.deliver_subject)

    @property
    def is_durable(self) -> bool:
        return bool(self.durable_name)

    @property
    def filters(self) -> tuple[str, ...]:
        """All filters of both fields, in nats-server's order."""
        return self.filter_subjects + ((self.filter_subject,) if self.filter_subject else ())

    @property
    def sample_percent(self) -> int:
        return _percent(self.sample_freq) if self.sample_freq else 0


_ALWAYS: Final = frozenset({"deliver_policy", "ack_policy", "replay_policy", "num_replicas"})


def _words(*words: str) -> gojson.Enum:
    return gojson.Enum({w: w for w in words})


CONFIG: Final = gojson.Struct("ConsumerConfig", {
    "durable_name": gojson.STRING, "name": gojson.STRING, "description": gojson.STRING,
    "deliver_policy": gojson.Enum({
        **{w: w for w in ("all", "last", "new", "by_start_sequence", "by_start_time", "last_per_subject")}, "undefined": "all"}),
    "opt_start_seq": gojson.UINT64, "opt_start_time": gojson.TIME,
    "ack_policy": _words("none", "all", "explicit"), "ack_wait": gojson.DURATION, "max_deliver": gojson.INT,
    "backoff": gojson.List(gojson.DURATION),
    "filter_subject": gojson.STRING, "filter_subjects": gojson.List(gojson.STRING),
    "replay_policy": _words("instant", "original"), "rate_limit_bps": gojson.UINT64, "sample_freq": gojson.STRING,
    "max_waiting": gojson.INT, "max_ack_pending": gojson.INT, "flow_control": gojson.BOOL, "headers_only": gojson.BOOL,
    "max_batch": gojson.INT, "max_expires": gojson.DURATION, "max_bytes": gojson.INT,
    "deliver_subject": gojson.STRING, "deliver_group": gojson.STRING, "idle_heartbeat": gojson.DURATION,
    "inactive_threshold": gojson.DURATION, "num_replicas": gojson.INT, "mem_storage": gojson.BOOL, "direct": gojson.BOOL,
    "metadata": gojson.STRINGS, "pause_until": gojson.TIME,
})
CREATE_REQUEST: Final = gojson.Struct("CreateConsumerRequest", {
    "stream_name": gojson.STRING, "config": CONFIG, "pedantic": gojson.BOOL,
    "action": gojson.Enum({w: w for w in ("", "create", "update")}, lambda given: f"unknown consumer action: {given}"),
})


# ---- names and small checks -------------------------------------------------------------------------------------

_BAD_NAME: Final = re.compile(r"[ \t\r\n\f.*>/\\]")


def is_valid_name(name: str) -> bool:
    """jetstream.go isValidAssetName."""
    return bool(name) and not _BAD_NAME.search(name)


def _percent(text: str) -> int:
    """Of sample_freq; ApiError when it is none. Go's strconv.Atoi behind a trimmed %."""
    digits = text.removesuffix("%")
    if not re.fullmatch(r"[+-]?\d{1,18}", digits, re.ASCII):
        raise ApiError(Code.CONSUMER_INVALID_SAMPLING, err=f'strconv.Atoi: parsing "{digits}": invalid syntax')
    if int(digits) < 0:
        raise ApiError(Code.CONSUMER_INVALID_SAMPLING, err="<nil>")
    return int(digits)


def _invalid(text: str) -> ApiError:
    return ApiError(Code.STREAM_INVALID_CONFIG, err=text)


# ---- defaults ---------------------------------------------------------------------------------------------------

def with_defaults(config: ConsumerConfig, stream: StreamLike, limits: Limits, pedantic: bool = False) -> ConsumerConfig:
    """What was left out, filled in. Pedantic: an ApiError where a value would have been changed."""
    change: dict[str, Any] = {}

    def pedantic_error(text: str) -> None:
        if pedantic:
            raise ApiError(Code.PEDANTIC, err=text)

    if config.max_deliver == 0 or config.max_deliver < -1:
        if config.max_deliver < -1:
            pedantic_error("max_deliver must be set to -1")
        change["max_deliver"] = -1
    if config.max_ack_pending < -1:
        pedantic_error("max_ack_pending must be set to -1")
        change["max_ack_pending"] = -1
    for name in ("max_waiting", "max_batch", "max_expires", "max_bytes", "idle_heartbeat", "inactive_threshold"):
        if getattr(config, name) < 0:
            pedantic_error(f"{name} must not be negative")
            change[name] = 0
    config = replace(config, **change)
    change = {}
    if not config.is_push and config.max_waiting == 0:
        change["max_waiting"] = MAX_WAITING
    if config.ack_wait == 0 and config.ack_policy != "none":
        change["ack_wait"] = ACK_WAIT
    if config.backoff:
        if config.backoff[0] != change.get("ack_wait", config.ack_wait):
            pedantic_error("first backoff value has to equal batch AckWait")
        change["ack_wait"] = config.backoff[0]
    pending = config.max_ack_pending
    if pending == 0:
        pending = stream.consumer_limits.get("max_ack_pending", 0)
        if pending > 0:
            pedantic_error("max_ack_pending must be set if it's configured in stream limits")
    if config.inactive_threshold == 0:
        change["inactive_threshold"] = stream.consumer_limits.get("inactive_threshold", 0)
        if change["inactive_threshold"] > 0:
            pedantic_error("inactive_threshold must be set if it's configured in stream limits")
    if pending == 0 and config.ack_policy != "none":
        pending = min(MAX_ACK_PENDING, limits.max_ack_pending) if limits.max_ack_pending > 0 else MAX_ACK_PENDING
    change["max_ack_pending"] = pending
    if not config.is_push and config.max_batch == 0 and limits.max_request_batch > 0:
        pedantic_error("max_request_batch must be set if it's JetStream limits are set")
        change["max_batch"] = limits.max_request_batch
    return replace(config, **change)


# ---- checks -----------------------------------------------------------------------------------------------------

def check(config: ConsumerConfig, stream: StreamLike, limits: Limits) -> None:
    """ApiError for the first thing that is wrong, in nats-server's order."""
    if config.name and not is_valid_name(config.name):
        raise _invalid("consumer name can not contain '.', '*', '>', '\\', '/'")
    if config.durable_name and not is_valid_name(config.durable_name):
        raise _invalid("consumer durable name can not contain '.', '*', '>', '\\', '/'")
    if config.num_replicas > 0 and config.num_replicas > stream.num_replicas:
        raise ApiError(Code.CONSUMER_REPLICAS_EXCEEDS_STREAM)
    if config.num_replicas < 0:
        raise ApiError(Code.REPLICAS_COUNT_CANNOT_BE_NEGATIVE)
    if any(wait < 0 for wait in config.backoff):
        raise ApiError(Code.CONSUMER_BACK_OFF_NEGATIVE)
    if config.ack_wait < 0:
        raise ApiError(Code.CONSUMER_ACK_WAIT_NEGATIVE)
    if config.backoff and config.max_deliver != -1 and len(config.backoff) > config.max_deliver:
        raise ApiError(Code.CONSUMER_MAX_DELIVER_BACKOFF)
    if len(config.description.encode()) > DESCRIPTION_BYTES_MAX:
        raise ApiError(Code.CONSUMER_DESCRIPTION_TOO_LONG, max=DESCRIPTION_BYTES_MAX)
    if config.is_push:
        _check_push(config, stream)
    else:
        _check_pull(config, stream, limits)
    most = stream.consumer_limits.get("max_ack_pending", 0)
    for limit in (limits.max_ack_pending, most):
        if 0 < limit < config.max_ack_pending:
            raise ApiError(Code.CONSUMER_MAX_PENDING_ACK_EXCESS, limit=limit)
    longest = stream.consumer_limits.get("inactive_threshold", 0)
    if 0 < longest < config.inactive_threshold:
        raise ApiError(Code.CONSUMER_INACTIVE_THRESHOLD_EXCESS, limit=gojson.format_duration(longest))
    if config.direct and not config.is_push:
        raise ApiError(Code.CONSUMER_DIRECT_REQUIRES_PUSH)
    if config.direct and config.is_durable:
        raise ApiError(Code.CONSUMER_DIRECT_REQUIRES_EPHEMERAL)
    _check_filters(config)
    _check_start(config)
    if config.sample_freq:
        _percent(config.sample_freq)
    if config.flow_control and config.idle_heartbeat == 0:
        raise ApiError(Code.CONSUMER_WITH_FLOW_CONTROL_NEEDS_HEARTBEATS)
    if config.durable_name and config.name and config.name != config.durable_name:
        raise ApiError(Code.CONSUMER_CREATE_DURABLE_AND_NAME_MISMATCH)
    if sum(len(k.encode()) + len(v.encode()) for k, v in config.metadata.items()) > METADATA_BYTES_MAX:
        raise ApiError(Code.CONSUMER_METADATA_LENGTH, limit=f"{METADATA_BYTES_MAX // 1024}KB")


def _check_push(config: ConsumerConfig, stream: StreamLike) -> None:
    to = config.deliver_subject
    if subject.has_wildcard(to):
        raise ApiError(Code.CONSUMER_DELIVER_TO_WILDCARDS)
    if not subject.is_valid_subject(to):
        raise ApiError(Code.CONSUMER_INVALID_DELIVER_SUBJECT)
    if any(subject.is_subset(to, captured) for captured in stream.subjects):
        raise ApiError(Code.CONSUMER_DELIVER_CYCLE)
    if config.max_waiting != 0:
        raise ApiError(Code.CONSUMER_PUSH_MAX_WAITING)
    if config.max_ack_pending > 0 and config.ack_policy == "none":
        raise ApiError(Code.CONSUMER_MAX_PENDING_ACK_POLICY_REQUIRED)
    if 0 < config.idle_heartbeat < SMALLEST_HEARTBEAT:
        raise ApiError(Code.CONSUMER_SMALL_HEARTBEAT)


def _check_pull(config: ConsumerConfig, stream: StreamLike, limits: Limits) -> None:
    if config.ack_policy == "none" and stream.retention == "workqueue":
        raise ApiError(Code.CONSUMER_PULL_REQUIRES_ACK)
    if config.rate_limit_bps > 0:
        raise ApiError(Code.CONSUMER_PULL_WITH_RATE_LIMIT)
    if config.idle_heartbeat > 0:
        raise ApiError(Code.CONSUMER_HB_REQUIRES_PUSH)
    if config.flow_control:
        raise ApiError(Code.CONSUMER_FC_REQUIRES_PUSH)
    if config.max_expires != 0 and config.max_expires < MILLISECOND:
        raise ApiError(Code.CONSUMER_MAX_REQUEST_EXPIRES_TOO_SMALL)
    if 0 < limits.max_request_batch < config.max_batch:
        raise ApiError(Code.CONSUMER_MAX_REQUEST_BATCH_EXCEEDED, limit=limits.max_request_batch)


def _check_filters(config: ConsumerConfig) -> None:
    if config.filter_subject and config.filter_subjects:
        raise ApiError(Code.CONSUMER_DUPLICATE_FILTER_SUBJECTS)
    if config.filter_subject and not subject.is_valid_subject(config.filter_subject):
        raise _invalid("invalid subject")
    if "" in config.filter_subjects:
        raise ApiError(Code.CONSUMER_EMPTY_FILTER)
    filters = config.filters
    tree = SubjectTree()
    for at, one in enumerate(filters):
        if subject.is_valid_subject(one):
            tree.add(one, at)
    for at, one in enumerate(filters):
        if not subject.is_valid_subject(one):
            raise _invalid("invalid subject")
        if tree.covers(one, at) != NOBODY:
            raise ApiError(Code.CONSUMER_OVERLAPPING_SUBJECT_FILTERS)


# deliver_policy: the word in messages, which start it needs
_STARTS: Final = {
    "all": ("all", None), "last": ("last", None), "new": ("new", None), "last_per_subject": ("last per subject", None),
    "by_start_sequence": ("by start sequence", "sequence"), "by_start_time": ("by start time", "time")}


def _check_start(config: ConsumerConfig) -> None:
    word, needs = _STARTS[config.deliver_policy]
    has_sequence, has_time = config.opt_start_seq > 0, config.opt_start_time is not None

    def error(text: str) -> ApiError:
        return ApiError(Code.CONSUMER_INVALID_POLICY, err=f"consumer delivery policy is deliver {word}, but optional {text}")

    if (needs == "sequence" and not has_sequence) or (needs == "time" and not has_time):
        raise error(f"start {needs} is not set")
    # By start time, a sequence too is called "start sequence" with the word doubled, as there.
    if has_sequence and needs != "sequence":
        raise error("start start sequence is also set" if needs == "time" else "start sequence is also set")
    if has_time and needs != "time":
        raise error("start time is also set")
    if config.deliver_policy == "last_per_subject" and not config.filters:
        raise error("filter subject is not set")


# What can not be changed, and how it is said.
_FIXED: Final[tuple[tuple[str, str], ...]] = (
    ("deliver_policy", "deliver policy"), ("mem_storage", "storage type"), ("direct", "direct"),
    ("opt_start_seq", "start sequence"), ("opt_start_time", "start time"), ("ack_policy", "ack policy"),
    ("replay_policy", "replay policy"), ("idle_heartbeat", "heart beats"), ("flow_control", "flow control"))


def check_update(old: ConsumerConfig, new: ConsumerConfig, has_interest: Callable[[str], bool]) -> None:
    """ApiError when `old` can not become `new`. has_interest: whether anyone subscribes to a subject."""
    if old == new:
        return

    def error(text: str) -> ApiError:
        return ApiError(Code.CONSUMER_CREATE, err=text)

    for name, words in _FIXED:
        before, after = getattr(old, name), getattr(new, name)
        if isinstance(before, gojson.Time) and isinstance(after, gojson.Time):
            before, after = before.ns, after.ns
        if before != after:
            raise error(f"{words} can not be updated")
    if old.deliver_subject != new.deliver_subject:
        if not old.deliver_subject:
            raise error("can not update pull consumer to push based")
        if not new.deliver_subject:
            raise error("can not update push consumer to pull based")
        if has_interest(old.deliver_subject):
            raise ApiError(Code.CONSUMER_NAME_EXIST)
    if old.max_waiting != new.max_waiting:
        raise error("max waiting can not be updated")
    if new.backoff and new.max_deliver != -1 and len(new.backoff) > new.max_deliver:
        raise ApiError(Code.CONSUMER_MAX_DELIVER_BACKOFF)


def check_work_queue(config: ConsumerConfig, others: Mapping[str, ConsumerConfig]) -> None:
    """ApiError when a new consumer does not fit on a work queue stream beside those that it has, by name."""
    if config.ack_policy != "explicit":
        raise ApiError(Code.CONSUMER_WQ_REQUIRES_EXPLICIT_ACK)
    if config.deliver_policy != "all":
        raise ApiError(Code.CONSUMER_WQ_CONSUMER_NOT_DELIVER_ALL)
    if not others:
        return
    if not config.filters:
        raise ApiError(Code.CONSUMER_WQ_MULTIPLE_UNFILTERED)
    check_partition(config, others)


def check_partition(config: ConsumerConfig, others: Mapping[str, ConsumerConfig]) -> None:
    """ApiError when a filter of this one may match what another consumer of a work queue takes."""
    tree = SubjectTree(config.filters)
    for other in others.values():
        if config.filters and not other.filters:
            raise ApiError(Code.CONSUMER_WQ_CONSUMER_NOT_UNIQUE)
        if any(tree.collides(theirs) != NOBODY for theirs in other.filters):
            raise ApiError(Code.CONSUMER_WQ_CONSUMER_NOT_UNIQUE)


# ---- metadata ---------------------------------------------------------------------------------------------------

def with_static_metadata(config: ConsumerConfig) -> ConsumerConfig:
    """With the API level that it needs, as it is stored (jetstream_versioning.go setStaticConsumerMetadata)."""
    kept = {k: v for k, v in config.metadata.items() if k not in (VERSION_KEY, LEVEL_KEY)}
    paused = config.pause_until is not None and not config.pause_until.is_zero
    kept[REQUIRED_LEVEL_KEY] = "1" if paused else "0"
    return replace(config, metadata=kept)


def dynamic_metadata(metadata: Mapping[str, str], version: str) -> dict[str, str]:
    """As answers show it: with the server's version and level, in order."""
    return dict(sorted({**metadata, VERSION_KEY: version, LEVEL_KEY: str(API_LEVEL)}.items()))
