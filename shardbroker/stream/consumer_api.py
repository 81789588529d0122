"""The requests about consumers: $JS.API.CONSUMER.*. Handled by the owner of the stream.

Source: nats-server's jetstream_api.go (jsConsumerCreateRequest and its neighbours): what is checked in which order, and
what answers hold beside an error. Requests for the next message do not come here: requests.pxd.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from shardbroker.stream import advisories, gojson
from shardbroker.stream import consumer_model as model
from shardbroker.stream.api import Request, serve
from shardbroker.stream.consumer_model import ConsumerConfig, Limits
from shardbroker.stream.consumers import DURATION_MAX_NS, Consumers, ShardConsumers
from shardbroker.stream.errors import ApiError, Code

if TYPE_CHECKING:
    from shardbroker.stream.manager import Manager

NAMES_MAX: Final = 1024
LIST_MAX: Final = 256

_PAGE: Final = gojson.Struct("JSApiConsumersRequest", {"offset": gojson.INT})
_PAUSE: Final = gojson.Struct("JSApiConsumerPauseRequest", {"pause_until": gojson.TIME})
# What answers hold beside an error
_NO_PAGE: Final[dict[str, Any]] = {"total": 0, "offset": 0, "limit": 0, "consumers": []}
_NO_PAUSE: Final[dict[str, Any]] = {"paused": False, "pause_until": gojson.format_time(gojson.ZERO_TIME_NS)}


def _consumers(request: Request) -> Consumers:
    found = request.stream.consumers
    if not isinstance(found, Consumers):
        raise ApiError(Code.STREAM_NOT_FOUND)       # it is being restored
    return found


# ---- create -----------------------------------------------------------------------------------------------------

@serve("CONSUMER.CREATE", "consumer_create_response", parts=(1, None))
async def create(request: Request) -> None:
    """Of $JS.API.CONSUMER.CREATE.<stream>[.<consumer>[.<filter>]]."""
    rest = request.words[2:]
    await _create(request, rest[0], rest[1] if len(rest) > 1 else None, ".".join(rest[2:]), durable=False)


@serve("CONSUMER.DURABLE.CREATE", "consumer_create_response", parts=2)
async def create_durable(request: Request) -> None:
    """Of $JS.API.CONSUMER.DURABLE.CREATE.<stream>.<consumer>."""
    await _create(request, request.words[3], request.words[4], "", durable=True)


async def _create(request: Request, stream: str, name: str | None, filter: str, *, durable: bool) -> None:
    asked = request.decode(model.CREATE_REQUEST)
    if stream != asked.get("stream_name", ""):
        raise ApiError(Code.STREAM_MISMATCH)
    config = named(ConsumerConfig.from_fields(asked.get("config", {})), name, filter, durable=durable)
    if config.num_replicas > 1:
        raise ApiError(Code.STREAM_REPLICAS_NOT_SUPPORTED)
    consumers = _consumers(request)
    existing = consumers.entries.get(config.durable_name or config.name)
    if existing is not None:
        config = replace(config, pause_until=existing.config.pause_until)       # only a pause request changes it
    config = model.with_static_metadata(config)
    entry, said = await consumers.create(config, asked.get("action", ""), pedantic=asked.get("pedantic", False))
    await consumers.shard.told()
    request.respond(said)
    if existing is None and said.get("paused"):
        consumers.advise_pause(entry)


def named(config: ConsumerConfig, name: str | None, filter: str, *, durable: bool) -> ConsumerConfig:
    """With the name that the subject has, if that fits; ApiError otherwise. None: the oldest form, without a name."""
    given = config.name if name is None else name
    if "/" in given or "\\" in given:
        raise ApiError(Code.CONSUMER_NAME_CONTAINS_PATH_SEPARATORS)
    if durable:
        if not config.durable_name:
            raise ApiError(Code.CONSUMER_DURABLE_NAME_NOT_SET)
        if config.durable_name != name:
            raise ApiError(Code.CONSUMER_DURABLE_NAME_NOT_MATCH_SUBJECT)
    elif name is None:
        if config.durable_name:
            raise ApiError(Code.CONSUMER_EPHEMERAL_WITH_DURABLE_NAME)
    elif config.durable_name and config.durable_name != name:
        raise ApiError(Code.CONSUMER_DURABLE_NAME_NOT_MATCH_SUBJECT)
    if filter and config.filter_subjects:
        raise ApiError(Code.CONSUMER_MULTIPLE_FILTERS_NOT_ALLOWED)
    if filter and config.filter_subject != filter:
        raise ApiError(Code.CONSUMER_CREATE_FILTER_SUBJECT_MISMATCH)
    return config if name is None else replace(config, name=name)


# ---- what there is ----------------------------------------------------------------------------------------------

def _offset(request: Request) -> int:
    if not gojson.is_object_or_array(request.payload):
        return 0
    return max(int(request.decode(_PAGE).get("offset", 0)), 0)


@serve("CONSUMER.NAMES", "consumer_names_response", beside_error=_NO_PAGE)
def names(request: Request) -> None:
    offset = _offset(request)
    found = [entry.name for entry in _consumers(request).public()]
    offset = min(offset, len(found))
    request.respond({"total": len(found), "offset": offset, "limit": NAMES_MAX, "consumers": found[offset:offset + NAMES_MAX]})


@serve("CONSUMER.LIST", "consumer_list_response", beside_error=_NO_PAGE)
def list_(request: Request) -> None:
    offset = _offset(request)
    consumers = _consumers(request)
    found = consumers.public()
    offset = min(offset, len(found))
    page: list[dict[str, Any]] = [consumers.info(entry, dynamic=False) for entry in found[offset:offset + LIST_MAX]]
    request.respond({"total": len(found), "offset": offset, "limit": LIST_MAX, "consumers": page})


@serve("CONSUMER.INFO", "consumer_info_response", parts=2)
def info(request: Request) -> None:
    request.need_no_payload()
    consumers = _consumers(request)
    request.respond(consumers.info(consumers.find(request.words[3])))


# ---- delete, pause ----------------------------------------------------------------------------------------------

@serve("CONSUMER.DELETE", "consumer_delete_response", parts=2)
async def delete(request: Request) -> None:
    request.need_no_payload()
    consumers = _consumers(request)
    await consumers.delete(consumers.find(request.words[3]))
    await consumers.shard.told()
    request.respond({"success": True})


@serve("CONSUMER.PAUSE", "consumer_pause_response", parts=2, beside_error=_NO_PAUSE)
async def pause(request: Request) -> None:
    asked = request.decode(_PAUSE) if gojson.is_object_or_array(request.payload) else {}
    consumers = _consumers(request)
    entry = consumers.find(request.words[3])
    until = asked.get("pause_until", gojson.Time(gojson.ZERO_TIME_NS)).utc()
    await consumers.pause(entry, None if until.is_zero else until)
    left = until.ns - request.manager.clock.time_ns()
    answer: dict[str, Any] = {"paused": left > 0, "pause_until": str(until)}
    if left > 0:
        answer["pause_remaining"] = min(left, DURATION_MAX_NS)
    request.respond(answer)


@serve("CONSUMER.LEADER.STEPDOWN", "consumer_leader_stepdown_response", parts=2)
def step_down(request: Request) -> None:
    """There is one server: nobody to step down for."""
    raise ApiError(Code.CLUSTER_REQUIRED)


def attach(shard: ShardConsumers, manager: Manager) -> None:
    """Give the streams of an account their consumers. Before they are opened."""
    settings = manager.settings

    def limits() -> Limits:
        own = manager.limits
        given = [most for most in (settings.max_ack_pending, own.max_ack_pending) if most > 0]
        return Limits(min(given, default=0), settings.max_request_batch, own.max_consumers)

    def advise(subject: str, kind: str, fields: dict[str, Any]) -> None:
        advisories.advise(manager, subject, kind, fields)

    manager.make_consumers = lambda stream: shard.make(stream, advise, limits)
