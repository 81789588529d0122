"""What a stream's configuration may be, and what may become of it: the rules of nats-server in its order.

`Others` is what the rules need to know of the account's other streams. Source: stream.go checkStreamCfgLocked,
addStreamWithAssignmentAndMode, configUpdateCheckLocked.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn, Protocol

from shardbroker.auth.model import JetStreamLimits
from shardbroker.stream.errors import ApiError, Code
from shardbroker.stream.gojson import format_duration
from shardbroker.stream.model import (
    DESCRIPTION_BYTES_MAX,
    DUPLICATES_DEFAULT_NS,
    DURATION_MIN_NS,
    METADATA_BYTES_MAX,
    NAME_BYTES_MAX,
    REPLICAS_MAX,
    Source,
    StreamConfig,
)
from shardbroker.subject import collides, is_literal_subject, is_subset, is_valid_subject
from shardbroker.subject_tree import NOBODY, SubjectTree
from shardbroker.transform import Transform, TransformError, check_mapping

_SECOND = 1_000_000_000
_BAD_SUBJECT = "invalid subject"


class Others(Protocol):
    """The account's streams."""

    def config(self, name: str) -> StreamConfig | None: ...


class ServerLimits(Protocol):
    """What the operator allows at the most; 0: no limit."""

    @property
    def max_duplicates_ns(self) -> int: ...


def is_asset_name(name: str) -> bool:
    """Whether a stream or consumer may be called so (isValidAssetName)."""
    return bool(name) and not any(c in name for c in " \t\r\n\f.*>\\/")


def _bad(text: str) -> NoReturn:
    raise ApiError(Code.STREAM_INVALID_CONFIG, err=text)


def _pedantic(text: str) -> NoReturn:
    raise ApiError(Code.PEDANTIC, err=text)


def check_config(
    given: StreamConfig, others: Others, *, pedantic: bool = False, max_duplicates_ns: int = 0,
    limits: JetStreamLimits | None = None,
) -> StreamConfig:  # fmt: skip
    """The configuration with its defaults filled in. limits: the account's. Raises ApiError for the first rule that it
    breaks."""
    if not is_asset_name(given.name):
        _bad("stream name is required and can not contain '.', '*', '>', '\\', '/'")
    if len(given.name.encode()) > NAME_BYTES_MAX:
        _bad(f"stream name is too long, maximum allowed is {NAME_BYTES_MAX}")
    if len(given.description.encode()) > DESCRIPTION_BYTES_MAX:
        _bad(f"stream description is too long, maximum allowed is {DESCRIPTION_BYTES_MAX}")
    if sum(len(k.encode()) + len(v.encode()) for k, v in (given.metadata or {}).items()) > METADATA_BYTES_MAX:
        _bad(f"stream metadata exceeds maximum size of {METADATA_BYTES_MAX} bytes")
    cfg = given.copy()
    if cfg.num_replicas == 0:
        cfg.num_replicas = 1
    if cfg.num_replicas > REPLICAS_MAX:
        _bad(f"maximum replicas is {REPLICAS_MAX}")
    if cfg.num_replicas < 0:
        raise ApiError(Code.REPLICAS_COUNT_CANNOT_BE_NEGATIVE)
    for name in ("max_msgs", "max_msgs_per_subject", "max_bytes", "max_msg_size", "max_consumers"):
        value = getattr(cfg, name)
        if pedantic and value < -1:
            _pedantic(f"{name} must be set to -1")
        if value <= 0:
            setattr(cfg, name, -1)
    _check_times(cfg, pedantic, max_duplicates_ns)
    if cfg.deny_purge and cfg.allow_rollup_hdrs:
        _bad("roll-ups require the purge permission")
    _check_discard_per_subject(cfg)
    _check_markers(cfg, pedantic)
    if cfg.persist_mode:
        if cfg.storage != "file":
            _bad("async persist mode is only supported on file storage")
        if cfg.num_replicas > 1:
            _bad("async persist mode is not supported on replicated streams")
    if cfg.mirror is not None:
        _check_mirror(cfg, cfg.mirror, others, pedantic)
    _check_sources(cfg, others)
    _check_external(cfg, others)
    _check_cycles(cfg, others)
    _check_subjects(cfg)
    if limits is not None:
        if limits.max_bytes_required and cfg.max_bytes <= 0:
            raise ApiError(Code.STREAM_MAX_BYTES_REQUIRED)
        if 0 < _most_bytes(cfg, limits) < cfg.max_bytes:
            raise ApiError(Code.STREAM_MAX_STREAM_BYTES_EXCEEDED)
    _check_transforms(cfg, pedantic)
    if cfg.placement is not None:
        # Tags that are there and none are an object without fields (a slice of Go's that is not nil).
        cfg.placement = {k: v for k, v in cfg.placement.items() if v} or (None if cfg.placement.get("tags") is None else {})
    if cfg.placement is not None and cfg.placement.get("preferred"):
        _bad("preferred server not permitted in placement")
    return cfg


def _most_bytes(cfg: StreamConfig, limits: JetStreamLimits) -> int:
    return limits.memory_max_stream_bytes if cfg.storage == "memory" else limits.store_max_stream_bytes


def _check_times(cfg: StreamConfig, pedantic: bool, max_duplicates_ns: int) -> None:
    if cfg.max_age < 0:
        _bad("max age can not be negative")
    if 0 < cfg.max_age < DURATION_MIN_NS:
        _bad("max age needs to be >= 100ms")
    if cfg.duplicate_window == 0 and cfg.mirror is None and not cfg.sources:
        window = DUPLICATES_DEFAULT_NS
        if 0 < max_duplicates_ns < window:
            if pedantic:
                _pedantic("duplicate window limits are higher than current limits")
            window = max_duplicates_ns
        if 0 < cfg.max_age < window:
            if pedantic:
                _pedantic("duplicate window cannot be bigger than max age")
            window = cfg.max_age
        cfg.duplicate_window = window
    if cfg.duplicate_window < 0:
        _bad("duplicates window can not be negative")
    if 0 < cfg.max_age < cfg.duplicate_window:
        _bad("duplicates window can not be larger then max age")
    if 0 < max_duplicates_ns < cfg.duplicate_window:
        _bad(f"duplicates window can not be larger then server limit of {format_duration(max_duplicates_ns)}")
    if 0 < cfg.duplicate_window < DURATION_MIN_NS:
        _bad("duplicates window needs to be >= 100ms")


def _check_discard_per_subject(cfg: StreamConfig) -> None:
    if cfg.discard_new_per_subject:
        if cfg.discard != "new":
            _bad("discard new per subject requires discard new policy to be set")
        if cfg.max_msgs_per_subject <= 0:
            _bad("discard new per subject requires max msgs per subject > 0")


def _check_markers(cfg: StreamConfig, pedantic: bool) -> None:
    if cfg.subject_delete_marker_ttl < 0:
        _bad("subject delete marker TTL must not be negative")
    if cfg.subject_delete_marker_ttl == 0:
        return
    if cfg.subject_delete_marker_ttl < _SECOND:
        _bad("subject delete marker TTL must be at least 1 second")
    if not cfg.allow_msg_ttl:
        if pedantic:
            _bad("subject delete marker cannot be set if message TTLs are disabled")
        cfg.allow_msg_ttl = True
    if not cfg.allow_rollup_hdrs:
        if pedantic:
            _bad("subject delete marker cannot be set if roll-ups are disabled")
        cfg.allow_rollup_hdrs, cfg.deny_purge = True, False


def _check_mirror(cfg: StreamConfig, mirror: Source, others: Others, pedantic: bool) -> None:
    if cfg.first_seq > 0:
        raise ApiError(Code.MIRROR_WITH_FIRST_SEQ)
    if cfg.subjects:
        raise ApiError(Code.MIRROR_WITH_SUBJECTS)
    if cfg.sources:
        raise ApiError(Code.MIRROR_WITH_SOURCES)
    if mirror.filter_subject and mirror.subject_transforms:
        raise ApiError(Code.MIRROR_MULTIPLE_FILTERS_NOT_ALLOWED)
    if cfg.subject_delete_marker_ttl > 0:
        _bad("subject delete markers forbidden on mirrors")
    tree = _tree(transform.src or ">" for transform in mirror.subject_transforms)
    for at, transform in enumerate(mirror.subject_transforms):
        if transform.src and not is_valid_subject(transform.src):
            raise ApiError(Code.MIRROR_INVALID_SUBJECT_FILTER, err=f"{_BAD_SUBJECT} {transform.src}")
        try:
            check_mapping(transform.src, transform.dest)
        except TransformError as error:
            raise ApiError(Code.MIRROR_INVALID_TRANSFORM_DESTINATION, err=error) from None
        if tree.collides(transform.src or ">", at) != NOBODY:
            raise ApiError(Code.MIRROR_OVERLAPPING_SUBJECT_FILTERS)
    if mirror.external is not None:
        return
    if not is_asset_name(mirror.name):
        raise ApiError(Code.MIRROR_INVALID_STREAM_NAME)
    origin = others.config(mirror.name)
    if origin is not None:
        if 0 < cfg.max_msg_size < origin.max_msg_size:
            raise ApiError(Code.MIRROR_MAX_MESSAGE_SIZE_TOO_BIG)
        if pedantic and cfg.mirror_direct != origin.allow_direct:
            _pedantic("origin stream has direct get set, mirror has it disabled")
        cfg.mirror_direct = origin.allow_direct


def _check_sources(cfg: StreamConfig, others: Others) -> None:
    names = set()
    for source in cfg.sources:
        if not is_asset_name(source.name):
            raise ApiError(Code.SOURCE_INVALID_STREAM_NAME)
        if source.index_name in names:
            raise ApiError(Code.SOURCE_DUPLICATE_DETECTED)
        names.add(source.index_name)
        if source.filter_subject and source.subject_transforms:
            raise ApiError(Code.SOURCE_MULTIPLE_FILTERS_NOT_ALLOWED)
        for transform in source.subject_transforms:
            if transform.src and not is_valid_subject(transform.src):
                raise ApiError(Code.SOURCE_INVALID_SUBJECT_FILTER, err=f"{_BAD_SUBJECT} {transform.src}")
            try:
                check_mapping(transform.src, transform.dest)
            except TransformError as error:
                raise ApiError(Code.SOURCE_INVALID_TRANSFORM_DESTINATION, err=error) from None
        tree = _tree(transform.src or ">" for transform in source.subject_transforms)
        for at, transform in enumerate(source.subject_transforms):
            if tree.covers(transform.src or ">", at) != NOBODY:
                raise ApiError(Code.SOURCE_OVERLAPPING_SUBJECT_FILTERS)
        if source.external is None:
            origin = others.config(source.name)
            if origin is not None and 0 < cfg.max_msg_size < origin.max_msg_size:
                raise ApiError(Code.SOURCE_MAX_MESSAGE_SIZE_TOO_BIG)


def _check_external(cfg: StreamConfig, others: Others) -> None:
    sources = ([cfg.mirror] if cfg.mirror is not None else []) + cfg.sources
    subjects = []
    for source in sources:
        if source.external is None and (origin := others.config(source.name)) is not None:
            subjects += origin.subjects
    for source in sources:
        prefix = (source.external or {}).get("deliver", "")
        if not prefix:
            continue
        if not (is_valid_subject(prefix) and is_literal_subject(prefix)):
            raise ApiError(Code.STREAM_INVALID_EXTERNAL_DELIVERY_SUBJ, prefix=prefix)
        for subject in subjects:
            if collides(subject, f"{prefix}.{subject}"):
                raise ApiError(Code.STREAM_EXTERNAL_DEL_PREFIX_OVERLAPS, prefix=prefix, subject=subject)
    for source in sources:
        prefix = (source.external or {}).get("api", "")
        if not prefix:
            continue
        if not (is_valid_subject(prefix) and is_literal_subject(prefix)):
            _bad(f'stream external api prefix "{prefix}" must be a valid subject without wildcards')
        if collides(prefix, "$JS.API"):
            raise ApiError(Code.STREAM_EXTERNAL_API_OVERLAP, prefix=prefix, subject="$JS.API")


def _check_cycles(cfg: StreamConfig, others: Others) -> None:
    to_visit, visited = [cfg], set()
    while to_visit:
        at = to_visit.pop(0)
        visited.add(at.name)
        for source in at.sources:
            if source.external is not None:
                continue
            if source.name in visited:
                wanted = source.filter_subject
                if not wanted or any(collides(subject, wanted) for subject in at.subjects):
                    _bad("detected cycle")
            elif (origin := others.config(source.name)) is not None:
                to_visit.append(origin)
        if at.mirror is not None and at.mirror.external is None:
            if at.mirror.name in visited:
                _bad("detected cycle")
            if (origin := others.config(at.mirror.name)) is not None:
                to_visit.append(origin)


def _check_subjects(cfg: StreamConfig) -> None:
    if not cfg.subjects:
        if cfg.mirror is None and not cfg.sources:
            cfg.subjects = [cfg.name]
        return
    tree = _tree(cfg.subjects)
    for at, subject in enumerate(cfg.subjects):
        if not is_valid_subject(subject):
            _bad("invalid subject")
        if subject == ">":
            if not cfg.no_ack:
                _bad("capturing all subjects requires no-ack to be true")
            if cfg.num_replicas != 1:
                _bad("capturing all subjects requires replicas of 1")
        if not cfg.no_ack:
            for namespace in ("$JS.>", "$JSC.>", "$NRG.>"):
                if collides(subject, namespace) and not is_subset(subject, "$JS.EVENT.>"):
                    _bad("subjects that overlap with jetstream api require no-ack to be true")
            if collides(subject, "$SYS.>") and not is_subset(subject, "$SYS.ACCOUNT.>"):
                _bad("subjects that overlap with system api require no-ack to be true")
        if tree.collides(subject, at) != NOBODY:
            other = next(other for other in cfg.subjects[at + 1 :] if collides(other, subject))
            _bad(f'subject "{subject}" overlaps with "{other}"')


def _tree(subjects: Iterable[str]) -> SubjectTree:
    """Of those that are subjects at all, numbered as they stand there."""
    tree = SubjectTree()
    for at, subject in enumerate(subjects):
        if is_valid_subject(subject):
            tree.add(subject, at)
    return tree


def _check_transforms(cfg: StreamConfig, pedantic: bool) -> None:
    transform = cfg.subject_transform
    if transform is not None:
        if transform.src and not is_valid_subject(transform.src):
            raise ApiError(Code.STREAM_TRANSFORM_INVALID_SOURCE, err=f"{_BAD_SUBJECT} {transform.src}")
        try:
            # Without a destination it does nothing, and may stand there (NewSubjectTransform).
            if transform.dest:
                check_mapping(transform.src, transform.dest)
        except TransformError as error:
            raise ApiError(Code.STREAM_TRANSFORM_INVALID_DESTINATION, err=error) from None
    republish = cfg.republish
    if republish is None:
        return
    if not republish.src:
        if pedantic:
            _pedantic("republish source can not be empty")
        republish.src = ">"
    if (
        republish.dest == ">"
        and republish.src == ">"
        and transform is not None
        and cfg.subjects == [transform.src]
    ):
        if pedantic:
            _pedantic("implicit republish based on subject transform")
        republish.src = republish.dest = transform.dest
    if not republish.dest:
        return
    if any(collides(republish.dest, subject) for subject in cfg.subjects):
        _bad("stream configuration for republish destination forms a cycle")
    try:
        Transform(republish.src, republish.dest)
    except TransformError:
        _bad(
            f"stream configuration for republish with transform from '{republish.src}' to '{republish.dest}' not valid"
        )


def check_create(cfg: StreamConfig) -> None:
    """The rest of what creating looks at, once check_config is content (addStreamWithAssignmentAndMode)."""
    if cfg.mirror is not None:
        _check_filter(cfg.mirror, "subject filter '{}' for the mirror invalid subject")
    for source in cfg.sources:
        _check_filter(source, "subject filter '{}' for the source: invalid subject")


def _check_filter(source: Source, text: str) -> None:
    if (
        not source.subject_transforms
        and source.filter_subject
        and not is_valid_subject(source.filter_subject)
    ):
        raise ApiError(Code.STREAM_CREATE, err=text.format(source.filter_subject))


def check_replicas(cfg: StreamConfig) -> None:
    """A server that is alone keeps one copy."""
    if cfg.num_replicas > 1:
        raise ApiError(Code.STREAM_REPLICAS_NOT_SUPPORTED)


def check_update(
    old: StreamConfig,
    given: StreamConfig,
    others: Others,
    *,
    pedantic: bool = False,
    max_duplicates_ns: int = 0,
) -> StreamConfig:
    """What `old` becomes. Raises ApiError for the first rule that is broken."""
    cfg = check_config(given, others, pedantic=pedantic, max_duplicates_ns=max_duplicates_ns)
    if cfg.name != old.name:
        _bad("stream configuration name must match original")
    check_replicas(cfg)
    if cfg.storage != old.storage:
        _bad("stream configuration update can not change storage type")
    if cfg.retention != old.retention and "workqueue" in (cfg.retention, old.retention):
        _bad("stream configuration update can not change retention policy to/from workqueue")
    if old.sealed and not cfg.sealed:
        _bad("stream configuration update can not unseal a sealed stream")
    if old.deny_delete and not cfg.deny_delete:
        _bad("stream configuration update can not cancel deny message deletes")
    if old.deny_purge and not cfg.deny_purge:
        _bad("stream configuration update can not cancel deny purge")
    if cfg.mirror is not None and cfg.mirror != old.mirror:
        raise ApiError(Code.STREAM_MIRROR_NOT_UPDATABLE)
    if old.allow_msg_ttl and not cfg.allow_msg_ttl:
        _bad("message TTL status can not be disabled")
    if cfg.persist_mode != old.persist_mode:
        _bad("stream configuration update can not change persist mode")
    if cfg.sealed:
        cfg.max_age = 0
        cfg.discard = "new"
        cfg.deny_delete = cfg.deny_purge = True
        cfg.allow_rollup_hdrs = False
    return cfg
