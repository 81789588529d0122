"""Loads on streams and buckets: what has to be there before, and what is checked after.

The stream or bucket is made for the run and removed after it; one that is there already is never touched. Messages to
read are published first, by one publisher of ours, so that a message's place in the stream is its stamp's sequence.
JSON API of JetStream: subjects and fields as in nats-server's server/jetstream_api.go; direct get ADR-31; batches ADR-50.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from shardbroker.bench import LoadError, calls, pulls
from shardbroker.bench.board import sum_of
from shardbroker.bench.connect import Connection, Endpoint
from shardbroker.bench.fleet import Fleet
from shardbroker.bench.shapes import Load, dealt, message_fields, request_plans
from shardbroker.bench.sizes import sizes

if TYPE_CHECKING:
    from shardbroker.bench.run import Progress, Settings

MESSAGES = 100_000  # to be read, unless --msgs says otherwise; nats bench's default
FILL_IN_FLIGHT = 500
ACK_WAIT_SECONDS = 120


@dataclass(slots=True)
class Prepared:
    """plans: of the generators. due: units that end the run; 0: it ends by time. check: what the server must say then."""

    plans: list[dict[str, Any]]
    due: int
    check: Callable[[int, bool], dict[str, Any]]


class Api:
    """JetStream's API over one connection of ours."""

    def __init__(self, connection: Connection, token: str) -> None:
        if not connection.info.get("jetstream"):
            raise LoadError("this server has no JetStream (its INFO says so); start it with -js")
        self._connection = connection
        self._token = token
        self._asked = 0

    def ask(self, what: str, **fields: Any) -> dict[str, Any]:
        """One call. Raises LoadError with the server's own words."""
        self._asked += 1
        inbox = f"_INBOX.{self._token}.api.{self._asked}".encode()
        payload = orjson.dumps(fields) if fields else b""
        _, body = self._connection.request(f"$JS.API.{what}".encode(), payload, inbox)
        try:
            answer: dict[str, Any] = orjson.loads(body)
        except ValueError:
            raise LoadError(f"$JS.API.{what} answered {body[:100]!r}") from None
        if "error" in answer:
            raise LoadError(f"$JS.API.{what}: {answer['error'].get('description', answer['error'])}")
        return answer


@contextmanager
def prepare(load: Load, endpoint: Endpoint, settings: Settings, tell: Progress) -> Iterator[Prepared]:
    """Make the stream or bucket, fill it where the load reads, give the plans; remove it in the end."""
    with Connection(
        endpoint.host, endpoint.port, endpoint=endpoint, timeout_seconds=settings.timeout
    ) as connection:
        api = Api(connection, load.token)
        name = f"KV_{load.bucket}" if load.row.kind == "kv" else load.stream
        _create(api, load, name)
        try:
            match load.row.kind:
                case "publish":
                    yield _publish(api, load, endpoint, settings, name)
                case "kv":
                    yield _keys(api, load, endpoint, settings, name, tell)
                case _:
                    yield _consume(api, load, endpoint, settings, name, tell)
        finally:
            with suppress(
                LoadError, OSError
            ):  # the server is gone, or the run has failed for a better reason
                api.ask(f"STREAM.DELETE.{name}")


def _create(api: Api, load: Load, name: str) -> None:
    config: dict[str, Any] = {
        "name": name,
        "subjects": [f"{prefix(load)}>"],
        "storage": load.storage,
        "retention": "limits",
        "discard": "old",
        "num_replicas": 1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_msgs_per_subject": -1,
        "allow_direct": True,
    }
    if load.row.kind == "kv":  # as ADR-8 makes a bucket
        config |= {
            "max_msgs_per_subject": 1,
            "discard": "new",
            "deny_delete": True,
            "allow_rollup_hdrs": True,
        }
    if load.shape == "js-pub-batch":
        config["allow_atomic"] = True
    try:
        api.ask(f"STREAM.INFO.{name}")
    except LoadError as error:
        if "not found" not in str(error):
            raise
    else:
        raise LoadError(f"a stream {name!r} is there already and is left alone; name another one")
    api.ask(f"STREAM.CREATE.{name}", **config)


def prefix(load: Load) -> str:
    """Of the messages' subjects."""
    return f"$KV.{load.bucket}." if load.row.kind == "kv" else f"bench.{load.token}.js."


def _message_subject(load: Load) -> str:
    return prefix(load) + (
        "t" if load.subjects == 1 and load.row.kind != "kv" else "" if load.subjects > 1 else "aaaa"
    )


def _full(
    load: Load, made: Sequence[dict[str, Any]], endpoint: Endpoint, settings: Settings
) -> list[dict[str, Any]]:
    return [{**plan, "endpoint": asdict(endpoint), "timeout": settings.timeout} for plan in made]


def acks(found: Sequence[Sequence[int]], unit: int) -> dict[str, int]:
    """The PubAcks of all callers (least, greatest, sum and number of sequences; Calls.part), of `unit` messages each.

    The stream is the run's own, so together they must be one whole range; LoadError when they are not.
    """
    some = [one for one in found if one[3]]
    least, most = min(one[0] for one in some), max(one[1] for one in some)
    total, count = sum(one[2] for one in some), sum(one[3] for one in some)
    if most - least != unit * (count - 1) or total != count * (least + most) // 2:
        raise LoadError(f"{count} acknowledgements name sequences from {least} to {most}, but not each once")
    return {"first": least - unit + 1, "last": most, "count": count}


def _publish(api: Api, load: Load, endpoint: Endpoint, settings: Settings, name: str) -> Prepared:
    batch = load.batch if load.shape == "js-pub-batch" else 1
    in_flight = 1 if load.shape != "js-pub-async" else load.in_flight
    base = {
        "calls": calls.BATCH if batch > 1 else calls.ACK,
        "subject": _message_subject(load),
        "batch": batch,
        "in_flight": in_flight if not load.rate else max(in_flight, 4096),
    }

    def check(count: int, interrupted: bool) -> dict[str, Any]:
        state = api.ask(f"STREAM.INFO.{name}")["state"]
        if state["messages"] != count or state["last_seq"] != count:
            raise LoadError(f"{count} messages were acknowledged, the stream holds {state['messages']}")
        return {"stream": {"messages": state["messages"], "bytes": state["bytes"]}}

    made = request_plans(load, base, settings.generators)
    return Prepared(_full(load, made, endpoint, settings), 0, check)


def _fill(load: Load, endpoint: Endpoint, settings: Settings, count: int, tell: Progress) -> None:
    """Publish `count` messages, in order."""
    one = replace(load, left=1, rate=0.0, zipf=0.0)
    base = {
        "calls": calls.ACK,
        "subject": _message_subject(load),
        "in_flight": FILL_IN_FLIGHT,
    }
    if load.row.kind == "kv":
        base["step"] = 1
    with Fleet(_full(one, request_plans(one, base, 1), endpoint, settings)) as fleet:
        fleet.connect()
        fleet.make(count)
        phase = fleet.go(1e9, lambda lines: tell("filling", sum(line[0] for line in lines) / count, 0))
        if phase.interrupted:
            raise KeyboardInterrupt


def _keys(
    api: Api, load: Load, endpoint: Endpoint, settings: Settings, name: str, tell: Progress
) -> Prepared:
    get = load.shape == "kv-get"
    if get:
        _fill(load, endpoint, settings, load.subjects, tell)
    subject = f"$JS.API.DIRECT.GET.{name}.{_message_subject(load)}" if get else _message_subject(load)
    base: dict[str, Any] = {"calls": calls.GET if get else calls.ACK, "subject": subject}
    if get:
        base |= {"sizes": [0], "values": sizes(load.size, load.seed)}

    def check(count: int, interrupted: bool) -> dict[str, Any]:
        state = api.ask(f"STREAM.INFO.{name}")["state"]
        last = load.subjects if get else count
        if state["last_seq"] != last:
            raise LoadError(f"{last} puts were acknowledged, the bucket counts {state['last_seq']}")
        if (get and state["messages"] != load.subjects) or state["messages"] > load.subjects:
            raise LoadError(f"the bucket has {state['messages']} values of {load.subjects} keys")
        return {"bucket": {"keys": state["messages"], "bytes": state["bytes"]}}

    made = request_plans(load, base, settings.generators)
    return Prepared(_full(load, made, endpoint, settings), 0, check)


def _consume(
    api: Api, load: Load, endpoint: Endpoint, settings: Settings, name: str, tell: Progress
) -> Prepared:
    messages = load.msgs or MESSAGES
    _fill(load, endpoint, settings, messages, tell)
    ordered = load.shape == "js-ordered"
    names = [f"{load.consumer}-{i}" if ordered else load.consumer for i in range(load.left)]
    for consumer in dict.fromkeys(names):
        config: dict[str, Any] = {"name": consumer, "deliver_policy": "all", "replay_policy": "instant"}
        if ordered:  # as clients make an ordered consumer (ADR-17, ADR-37)
            config |= {
                "ack_policy": "none",
                "max_deliver": 1,
                "mem_storage": True,
                "num_replicas": 1,
                "inactive_threshold": 300 * 10**9,
            }
        else:
            config |= {
                "durable_name": consumer,
                "ack_policy": "explicit",
                "ack_wait": ACK_WAIT_SECONDS * 10**9,
                "max_ack_pending": max(10_000, 4 * load.left * load.batch),
            }
        api.ask(f"CONSUMER.CREATE.{name}.{consumer}", stream_name=name, config=config)
    due = messages * (load.left if ordered else 1)
    base = {
        **message_fields(load),
        "kind": "pulls",
        "subject": _message_subject(load),
        "inbox": f"_INBOX.{load.token}.",
        "batch": load.batch,
        "mode": pulls.FETCH if load.shape == "js-fetch" else pulls.AHEAD,
        "acks": not ordered,
        "due": due,
        "shared": not ordered,
        "pullers_all": load.left,
    }
    made = [
        {
            **base,
            "pullers": count,
            "puller_first": first,
            "next": [f"$JS.API.CONSUMER.MSG.NEXT.{name}.{one}" for one in names[first : first + count]],
        }
        for first, count in dealt(load.left, max(1, min(settings.generators, load.left)))
    ]

    def check(count: int, interrupted: bool) -> dict[str, Any]:
        if interrupted:
            return {}
        if count != due:
            raise LoadError(f"{count} messages came, {due} were due")
        return {} if ordered else _acknowledged(api, name, load.consumer, messages, settings.timeout)

    return Prepared(_full(load, made, endpoint, settings), due, check)


def _acknowledged(api: Api, name: str, consumer: str, messages: int, seconds: float) -> dict[str, Any]:
    """Wait until the server has dealt with all acknowledgements; LoadError when it does not, or delivered one again."""
    deadline = time.monotonic() + seconds
    while True:
        info = api.ask(f"CONSUMER.INFO.{name}.{consumer}")
        if info["num_redelivered"]:
            raise LoadError(
                f"{info['num_redelivered']} messages were delivered again though they were acknowledged"
            )
        if info["num_ack_pending"] == 0 and info["ack_floor"]["stream_seq"] == messages:
            return {"acknowledged": info["ack_floor"]["consumer_seq"]}
        if time.monotonic() > deadline:
            raise LoadError(f"{info['num_ack_pending']} acknowledgements have not arrived")
        time.sleep(0.01)


def check_sums(load: Load, received_sum: int) -> None:
    """What readers received is every message of the stream, once for each of them, or once for all. LoadError."""
    readers = load.left if load.shape == "js-ordered" else 1
    if received_sum != sum_of(load.msgs or MESSAGES) * readers % 2**64:
        raise LoadError("some messages came twice and others not at all")
