"""A stream's configuration: as clients send it, as it is kept, and as they get it back.

Field names are JSON's; times in ns. Source: nats-server's stream.go StreamConfig, StreamSource; ADR-1 and its successors.
Fields that a later version of the API has (counters, batches, schedules) are unknown here, so a request that sets one is
refused in strict mode as by a server that lacks them; a request that says `false` there asks for nothing.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from shardbroker import limits
from shardbroker.stream.gojson import (
    BOOL,
    DURATION,
    INT,
    INT32,
    INT64,
    STRING,
    STRINGS,
    TIME,
    UINT64,
    DecodeError,
    Enum,
    Kind,
    List,
    Struct,
    Time,
    decode,
)

API_LEVEL: Final = limits.API_LEVEL
REQUIRED_LEVEL: Final = "_nats.req.level"
SERVER_VERSION: Final = "_nats.ver"
SERVER_LEVEL: Final = "_nats.level"
NAME_BYTES_MAX: Final = 255
DESCRIPTION_BYTES_MAX: Final = 4096
METADATA_BYTES_MAX: Final = 128 * 1024
REPLICAS_MAX: Final = 5
DUPLICATES_DEFAULT_NS: Final = 120 * 1_000_000_000
DURATION_MIN_NS: Final = 100_000_000

Retention = Literal["limits", "interest", "workqueue"]
Discard = Literal["old", "new"]
Storage = Literal["file", "memory"]


def unix_ns(time: Time) -> int:
    """A time as the store takes it: what lies before 1970, or beyond 63 bits, is the nearest that it has."""
    return min(max(time.ns, 0), (1 << 63) - 1)


class _Later(Kind):
    """A field of a later version: what asks for nothing is let through, everything else is an unknown field."""

    null_is_absent = False

    def take(self, value: Any, where: str) -> None:
        if value not in (None, False, "", "0"):
            name = where.rpartition(".")[2]
            raise DecodeError(f'json: unknown field "{name}"')


class _NoCase(Enum):
    """An enumeration that is read without regard to case."""

    def take(self, value: Any, where: str) -> str:
        return super().take(value.lower() if type(value) is str else value, where)


TRANSFORM: Final = Struct("SubjectTransformConfig", {"src": STRING, "dest": STRING})
SOURCE: Final = Struct(
    "StreamSource",
    {
        "name": STRING,
        "opt_start_seq": UINT64,
        "opt_start_time": TIME,
        "filter_subject": STRING,
        "subject_transforms": List(TRANSFORM),
        "external": Struct("ExternalStream", {"api": STRING, "deliver": STRING}),
        "consumer": _Later(),
    },
)
_FIELDS: Final[dict[str, Kind]] = {
    "name": STRING,
    "description": STRING,
    "subjects": List(STRING),
    "retention": Enum({word: word for word in ("limits", "interest", "workqueue")}),
    "max_consumers": INT,
    "max_msgs": INT64,
    "max_bytes": INT64,
    "max_age": DURATION,
    "max_msgs_per_subject": INT64,
    "max_msg_size": INT32,
    "discard": _NoCase({"old": "old", "new": "new"}),
    "storage": Enum({"file": "file", "memory": "memory"}),
    "num_replicas": INT,
    "no_ack": BOOL,
    "duplicate_window": DURATION,
    "placement": Struct("Placement", {"cluster": STRING, "tags": List(STRING), "preferred": STRING}),
    "mirror": SOURCE,
    "sources": List(SOURCE, "*"),
    "compression": Enum({"none": "none", "s2": "s2"}, lambda given: "unknown compression algorithm", read_as_string=True),
    "first_seq": UINT64,
    "subject_transform": TRANSFORM,
    "republish": Struct("RePublish", {"src": STRING, "dest": STRING, "headers_only": BOOL}),
    "allow_direct": BOOL,
    "mirror_direct": BOOL,
    "discard_new_per_subject": BOOL,
    "sealed": BOOL,
    "deny_delete": BOOL,
    "deny_purge": BOOL,
    "allow_rollup_hdrs": BOOL,
    "consumer_limits": Struct(
        "StreamConsumerLimits", {"inactive_threshold": DURATION, "max_ack_pending": INT}
    ),
    "allow_msg_ttl": BOOL,
    "subject_delete_marker_ttl": DURATION,
    "allow_msg_counter": _Later(),
    "allow_atomic": _Later(),
    "allow_msg_schedules": _Later(),
    "persist_mode": Enum({"default": "", "": "", "async": "async"}),
    "allow_batched": _Later(),
    "metadata": STRINGS,
}
CONFIG: Final = Struct("StreamConfig", _FIELDS)
# Go names the embedded struct on the way to a field, and the outer one as the type.
CONFIG_REQUEST: Final = Struct("StreamConfigRequest.StreamConfig", _FIELDS | {"pedantic": BOOL})
CONFIG_REQUEST.go = "server.StreamConfigRequest"


@dataclass(slots=True)
class SubjectTransform:
    src: str = ""
    dest: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"src": self.src, "dest": self.dest}


@dataclass(slots=True)
class Source:
    """Where a mirror or a sourcing stream takes its messages from."""

    name: str = ""
    opt_start_seq: int = 0
    opt_start_time: Time | None = None
    filter_subject: str = ""
    subject_transforms: list[SubjectTransform] = field(default_factory=list)
    external: dict[str, str] | None = None

    @property
    def index_name(self) -> str:
        """What tells sources of one stream apart (stream.go composeIName)."""
        name = self.name
        if self.external is not None:
            # The server hashes the API prefix here; what matters is that it is a name for it.
            name += ":" + self.external.get("api", "")
        if not self.subject_transforms:
            return f"{name} {self.filter_subject or '>'} >"
        sources = "\f".join(t.src or ">" for t in self.subject_transforms)
        destinations = "\f".join(t.dest or ">" for t in self.subject_transforms)
        return f"{name} {sources} {destinations}"

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"name": self.name}
        if self.opt_start_seq:
            out["opt_start_seq"] = self.opt_start_seq
        if self.opt_start_time is not None:
            out["opt_start_time"] = str(self.opt_start_time)
        out |= self.shown()
        return out

    def shown(self) -> dict[str, Any]:
        """The fields that an info of it has too."""
        out: dict[str, Any] = {}
        if self.filter_subject:
            out["filter_subject"] = self.filter_subject
        if self.subject_transforms:
            out["subject_transforms"] = [t.to_json() for t in self.subject_transforms]
        if self.external is not None:
            out["external"] = {
                "api": self.external.get("api", ""),
                "deliver": self.external.get("deliver", ""),
            }
        return out


@dataclass(slots=True)
class Republish:
    src: str = ""
    dest: str = ""
    headers_only: bool = False

    def to_json(self) -> dict[str, Any]:
        return _given({"src": self.src}) | {"dest": self.dest} | _given({"headers_only": self.headers_only})


@dataclass(slots=True)
class StreamConfig:
    """A stream's configuration. Limits are -1 for none once checks.check_config has seen them."""

    name: str = ""
    description: str = ""
    subjects: list[str] = field(default_factory=list)
    retention: Retention = "limits"
    max_consumers: int = 0
    max_msgs: int = 0
    max_bytes: int = 0
    max_age: int = 0
    max_msgs_per_subject: int = 0
    max_msg_size: int = 0
    discard: Discard = "old"
    storage: Storage = "file"
    num_replicas: int = 0
    no_ack: bool = False
    duplicate_window: int = 0
    placement: dict[str, Any] | None = None
    mirror: Source | None = None
    sources: list[Source] = field(default_factory=list)
    compression: str = "none"
    first_seq: int = 0
    subject_transform: SubjectTransform | None = None
    republish: Republish | None = None
    allow_direct: bool = False
    mirror_direct: bool = False
    discard_new_per_subject: bool = False
    sealed: bool = False
    deny_delete: bool = False
    deny_purge: bool = False
    allow_rollup_hdrs: bool = False
    consumer_limits: dict[str, int] = field(default_factory=dict)
    allow_msg_ttl: bool = False
    subject_delete_marker_ttl: int = 0
    persist_mode: str = ""
    metadata: dict[str, str] | None = None

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> StreamConfig:
        """From what decode() gave for CONFIG or CONFIG_REQUEST."""
        made = {name: value for name, value in fields.items() if name in _NAMES and value is not None}
        for name in ("mirror",):
            if name in made:
                made[name] = _source(made[name])
        if "sources" in made:
            made["sources"] = [_source(source) for source in made["sources"]]
        if "subject_transform" in made:
            made["subject_transform"] = SubjectTransform(**made["subject_transform"])
        if "republish" in made:
            made["republish"] = Republish(**made["republish"])
        if "consumer_limits" in made:
            made["consumer_limits"] = _given(made["consumer_limits"])
        return cls(**made)

    @classmethod
    def from_json(cls, text: bytes) -> StreamConfig:
        """From what to_json() was written as. Raises DecodeError."""
        return cls.from_fields(decode(text, CONFIG))

    def copy(self) -> StreamConfig:
        """One of its own, all the way down."""
        return StreamConfig(**{f.name: _copied(getattr(self, f.name)) for f in dataclasses.fields(self)})

    def to_json(self, *, shown: bool = False) -> dict[str, Any]:
        """In nats-server's order, what is empty left out where it leaves it out. shown: with the server's own metadata."""
        out: dict[str, Any] = {"name": self.name}
        out |= _given({"description": self.description, "subjects": self.subjects})
        out |= {
            "retention": self.retention,
            "max_consumers": self.max_consumers,
            "max_msgs": self.max_msgs,
            "max_bytes": self.max_bytes,
            "max_age": self.max_age,
            "max_msgs_per_subject": self.max_msgs_per_subject,
        }
        out |= _given({"max_msg_size": self.max_msg_size})
        out |= {"discard": self.discard, "storage": self.storage, "num_replicas": self.num_replicas}
        out |= _given({"no_ack": self.no_ack, "duplicate_window": self.duplicate_window})
        if self.placement is not None:
            out["placement"] = _given(self.placement)
        if self.mirror is not None:
            out["mirror"] = self.mirror.to_json()
        if self.sources:
            out["sources"] = [source.to_json() for source in self.sources]
        out["compression"] = self.compression
        out |= _given({"first_seq": self.first_seq})
        if self.subject_transform is not None:
            out["subject_transform"] = self.subject_transform.to_json()
        if self.republish is not None:
            out["republish"] = self.republish.to_json()
        out |= {"allow_direct": self.allow_direct, "mirror_direct": self.mirror_direct}
        out |= _given({"discard_new_per_subject": self.discard_new_per_subject})
        out |= {
            "sealed": self.sealed,
            "deny_delete": self.deny_delete,
            "deny_purge": self.deny_purge,
            "allow_rollup_hdrs": self.allow_rollup_hdrs,
            "consumer_limits": self.consumer_limits,
            "allow_msg_ttl": self.allow_msg_ttl,
        }
        out |= _given(
            {"subject_delete_marker_ttl": self.subject_delete_marker_ttl, "persist_mode": self.persist_mode}
        )
        metadata = dict(self.metadata or {})
        if shown:
            metadata |= {SERVER_VERSION: limits.PROTOCOL_VERSION, SERVER_LEVEL: str(API_LEVEL)}
        out |= _given({"metadata": dict(sorted(metadata.items()))})
        return out

    def set_required_level(self) -> None:
        """Note which level of the API it needs, and forget what only answers have (setStaticStreamMetadata)."""
        metadata = self.metadata if self.metadata is not None else {}
        metadata.pop(SERVER_VERSION, None)
        metadata.pop(SERVER_LEVEL, None)
        level = 0
        if self.allow_msg_ttl or self.subject_delete_marker_ttl > 0:
            level = 1
        if self.persist_mode:
            level = 2
        metadata[REQUIRED_LEVEL] = str(level)
        self.metadata = metadata

    def same_as(self, stored: StreamConfig) -> bool:
        """Whether creating it again changes nothing: metadata of the server's own does not count."""
        mine = self.copy()
        metadata = {
            k: v
            for k, v in (mine.metadata or {}).items()
            if k not in (SERVER_VERSION, SERVER_LEVEL, REQUIRED_LEVEL)
        }
        if stored.metadata is not None and REQUIRED_LEVEL in stored.metadata:
            metadata[REQUIRED_LEVEL] = stored.metadata[REQUIRED_LEVEL]
        mine.metadata = metadata or None
        return mine == stored


_NAMES: Final = frozenset(f.name for f in dataclasses.fields(StreamConfig))


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    """Without what Go's omitempty leaves out."""
    return {name: value for name, value in fields.items() if value}


def _source(fields: dict[str, Any]) -> Source:
    fields = {name: value for name, value in fields.items() if name != "consumer"}
    transforms = [SubjectTransform(**t) for t in fields.pop("subject_transforms", [])]
    return Source(**fields, subject_transforms=transforms)


def _copied(value: Any) -> Any:
    if isinstance(value, list):
        return [_copied(item) for item in value]
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, Source):
        return dataclasses.replace(value, subject_transforms=_copied(value.subject_transforms))
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and not isinstance(value, Time):
        return dataclasses.replace(value)
    return value
