"""$JS.API.STREAM.* about streams as a whole, and $JS.API.INFO. Source: jetstream_api.go, in its order of checks."""

from __future__ import annotations

from typing import Any, Final

from shardbroker.auth.model import JetStreamLimits
from shardbroker.stream.api import Request, serve
from shardbroker.stream.checks import check_config, check_create, check_replicas, check_update
from shardbroker.stream.errors import ApiError, Code
from shardbroker.stream.gojson import BOOL, INT, STRING, UINT64, Struct, is_object_or_array
from shardbroker.stream.model import CONFIG_REQUEST, StreamConfig
from shardbroker.stream.registry import Definitions
from shardbroker.stream.stream import SUBJECT_DETAILS_MAX
from shardbroker.subject import collides
from shardbroker.subject_tree import NOBODY, SubjectTree

NAMES_LIMIT: Final = 1024
LIST_LIMIT: Final = 256
NO_PAGE: Final = {"total": 0, "offset": 0, "limit": 0}
USED: Final = ("memory", "storage", "reserved_memory", "reserved_storage", "streams", "consumers")
# What stands for the limits of an account that has some for each tier
NOTHING: Final = JetStreamLimits(0, 0, 0, 0, 0, 0, 0)
PAGE: Final = Struct("JSApiStreamNamesRequest", {"offset": INT, "subject": STRING})
INFO: Final = Struct(
    "JSApiStreamInfoRequest", {"offset": INT, "deleted_details": BOOL, "subjects_filter": STRING}
)
PURGE: Final = Struct("JSApiStreamPurgeRequest", {"seq": UINT64, "filter": STRING, "keep": UINT64})


def _config(request: Request) -> tuple[StreamConfig, bool]:
    fields = request.decode(CONFIG_REQUEST)
    return StreamConfig.from_fields(fields), bool(fields.get("pedantic"))


@serve("STREAM.CREATE", "stream_create_response")
async def create(request: Request) -> None:
    given, pedantic = _config(request)
    given.set_required_level()
    name = request.stream_name
    if given.name != name:
        raise ApiError(Code.STREAM_MISMATCH)
    if "/" in name or "\\" in name:
        raise ApiError(Code.STREAM_NAME_CONTAINS_PATH_SEPARATORS)
    if given.sealed:
        raise ApiError(Code.STREAM_INVALID_CONFIG, err="stream configuration for create can not be sealed")
    if given.mirror_direct and given.mirror is None:
        raise ApiError(Code.STREAM_INVALID_CONFIG, err="stream has no mirror but does have mirror direct")
    stream = await request.manager.create(given, pedantic=pedantic)
    request.respond(stream.info(domain=False) | {"did_create": True})


@serve("STREAM.UPDATE", "stream_update_response")
async def update(request: Request) -> None:
    given, pedantic = _config(request)
    stream = await request.manager.update(request.stream_name, given, pedantic=pedantic)
    request.respond(stream.info())


@serve("STREAM.DELETE", "stream_delete_response")
async def delete(request: Request) -> None:
    request.need_no_payload()
    await request.manager.delete(request.stream)
    request.respond({"success": True})


@serve("STREAM.INFO", "stream_info_response", beside_error=NO_PAGE)
def info(request: Request) -> None:
    asked = request.decode(INFO) if is_object_or_array(request.payload) else {}
    stream = request.stream
    said = stream.info(deleted=asked.get("deleted_details", False), leader=request.manager.server_name)
    page = dict(NO_PAGE)
    pattern = asked.get("subjects_filter", "")
    if pattern:
        counts = stream.subject_counts(pattern.encode())
        if counts:
            offset = max(asked.get("offset", 0), 0)
            page = {"total": len(counts), "offset": offset, "limit": SUBJECT_DETAILS_MAX}
            if offset or len(counts) > SUBJECT_DETAILS_MAX:
                names = sorted(counts)
                counts = {name: counts[name] for name in names[offset : offset + SUBJECT_DETAILS_MAX]}
            if counts:
                said["state"]["subjects"] = counts
    request.respond(page | said)


@serve("STREAM.PURGE", "stream_purge_response", beside_error={"purged": 0})
async def purge(request: Request) -> None:
    asked: dict[str, Any] = {}
    if is_object_or_array(request.payload):
        asked = request.decode(PURGE)
        if asked.get("seq") and asked.get("keep"):
            raise ApiError(Code.BAD_REQUEST)
    stream = request.stream
    if stream.config.sealed:
        raise ApiError(Code.STREAM_SEALED)
    if stream.config.deny_purge:
        raise ApiError(Code.STREAM_PURGE_FAILED, err="stream purge not permitted")
    purged = stream.purge(
        asked.get("filter", "").encode(), before_seq=asked.get("seq", 0), keep=asked.get("keep", 0)
    )
    if purged:
        await stream.durable()
    request.respond({"success": True, "purged": purged})


# ---- over all shards --------------------------------------------------------------------------------------------


@serve(
    "STREAM.NAMES", "stream_names_response", parts=0, place="home", beside_error=NO_PAGE | {"streams": None}
)
async def names(request: Request) -> None:
    found, page, offset = await _page(request, NAMES_LIMIT)
    said = {"total": len(found), "offset": offset, "limit": NAMES_LIMIT}
    request.respond(said | {"streams": page or None})


@serve("STREAM.LIST", "stream_list_response", parts=0, place="home", beside_error=NO_PAGE | {"streams": []})
async def list_streams(request: Request) -> None:
    found, page, offset = await _page(request, LIST_LIMIT)
    answers = await request.manager.peers.ask_all("infos", {"names": page})
    infos = {row["config"]["name"]: row for answer in answers for row in answer}
    said = {"total": len(found), "offset": offset, "limit": LIST_LIMIT}
    # One that was deleted in between is not there any more.
    request.respond(said | {"streams": [infos[name] for name in page if name in infos]})


async def _page(request: Request, limit: int) -> tuple[list[str], list[str], int]:
    """All names that match, those of the page, and where that begins."""
    asked = request.decode(PAGE) if is_object_or_array(request.payload) else {}
    answers = await request.manager.peers.ask_all("names", {"subject": asked.get("subject", "")})
    found = sorted((name for answer in answers for name in answer), key=str.encode)
    offset = min(max(asked.get("offset", 0), 0), len(found))
    return found, found[offset : offset + limit], offset


@serve("INFO", "account_info_response", parts=0, place="home")
async def account_info(request: Request) -> None:
    answers = await request.manager.peers.ask_all("usage", {})
    total = {name: sum(answer[name] for answer in answers) for name in answers[0]}
    manager = request.manager
    used = {name: total[name] for name in USED}
    tiers = manager.tiers
    said = used | {"limits": _limits(NOTHING if tiers.tiered else manager.limits)}
    if tiers.tiered:
        # All streams have one replica. What it adds up to stands in the tier and beside it (JetStreamUsage).
        said["tiers"] = {
            name: (used if name == "R1" else dict.fromkeys(USED, 0)) | {"limits": _limits(limits)}
            for name, limits in tiers.by_name
        }
    if manager.domain:
        said["domain"] = manager.domain
    api: dict[str, Any] = {
        "level": manager.api_level,
        "total": total["api_total"],
        "errors": total["api_errors"],
    }
    if total["api_inflight"]:
        api["inflight"] = total["api_inflight"]
    request.respond(said | {"api": api})


def _limits(limits: JetStreamLimits) -> dict[str, Any]:
    """JetStreamAccountLimits."""
    return {
        "max_memory": limits.max_memory,
        "max_storage": limits.max_store,
        "max_streams": limits.max_streams,
        "max_consumers": limits.max_consumers,
        "max_ack_pending": limits.max_ack_pending,
        "memory_max_stream_bytes": limits.memory_max_stream_bytes,
        "storage_max_stream_bytes": limits.store_max_stream_bytes,
        "max_bytes_required": limits.max_bytes_required,
    }


def matches_filter(config: StreamConfig, wanted: str) -> bool:
    """Whether a stream is meant by a list's subject filter (filteredStreams)."""
    return not wanted or any(collides(subject, wanted) for subject in config.subjects)


# ---- what only a cluster has ------------------------------------------------------------------------------------


def _cluster_only(request: Request) -> None:
    raise ApiError(Code.CLUSTER_REQUIRED)


for _words, _type, _parts in (
    ("STREAM.LEADER.STEPDOWN", "stream_leader_stepdown_response", 1),
    ("CONSUMER.LEADER.STEPDOWN", "consumer_leader_stepdown_response", 2),
    ("STREAM.PEER.REMOVE", "stream_remove_peer_response", 1),
):
    serve(_words, _type, parts=_parts, place="home")(_cluster_only)


# ---- the registry's part ----------------------------------------------------------------------------------------


def plan_create(
    definitions: Definitions, given: StreamConfig, now_ns: int, *, pedantic: bool, max_duplicates_ns: int,
    limits: JetStreamLimits | None, check_reserved: Any,
) -> tuple[StreamConfig, int, bool]:  # fmt: skip
    """Check a new stream against all that there are, and write it down: its configuration, when it was made, whether it
    is new. limits: the account's. Runs in the registry's thread, inside its transaction. Raises ApiError."""
    found = definitions.all.get(given.name)
    if limits is None:
        raise ApiError(Code.NO_LIMITS)
    if 0 < limits.max_streams <= len(definitions.all) and found is None:
        raise ApiError(Code.MAXIMUM_STREAMS_LIMIT)
    config = check_config(given, definitions, pedantic=pedantic, max_duplicates_ns=max_duplicates_ns, limits=limits)
    check_replicas(config)
    if found is not None:
        if config.same_as(found.config):
            return found.config, found.created_ns, False
        raise ApiError(Code.STREAM_NAME_EXIST)
    check_reserved(definitions, config, None)
    check_create(config)
    _check_overlap(definitions, config)
    definitions.put(config, now_ns)
    return config, now_ns, True


def plan_update(
    definitions: Definitions, name: str, given: StreamConfig, *, pedantic: bool, max_duplicates_ns: int,
    limits: JetStreamLimits | None, check_reserved: Any, check_consumers: Any,
) -> StreamConfig:  # fmt: skip
    """The same for an update."""
    config = check_config(given, definitions, pedantic=pedantic, max_duplicates_ns=max_duplicates_ns, limits=limits)
    if config.name != name:
        raise ApiError(Code.STREAM_MISMATCH)
    found = definitions.all.get(name)
    if found is None:
        raise ApiError(Code.STREAM_NOT_FOUND)
    config.set_required_level()
    config = check_update(
        found.config, config, definitions, pedantic=pedantic, max_duplicates_ns=max_duplicates_ns
    )
    if limits is None:
        raise ApiError(Code.NO_LIMITS)
    check_reserved(definitions, config, found.config)
    check_consumers(found.config, config)
    _check_overlap(definitions, config)
    definitions.put(config, found.created_ns)
    return config


def _check_overlap(definitions: Definitions, config: StreamConfig) -> None:
    mine = SubjectTree(config.subjects)
    for other in definitions.all.values():
        if other.config.name != config.name and any(
            mine.collides(theirs) != NOBODY for theirs in other.config.subjects
        ):
            raise ApiError(Code.STREAM_SUBJECT_OVERLAP)
