"""A consumer's configuration: defaults, what is refused and in which words (each compared with a nats-server)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from shardbroker.stream import consumer_model as model
from shardbroker.stream import gojson
from shardbroker.stream.consumer_model import ConsumerConfig, Limits
from shardbroker.stream.errors import ApiError, Code


@dataclass
class Stream:
    name: str = "S"
    subjects: list[str] = field(default_factory=lambda: ["a.>"])
    retention: str = "limits"
    num_replicas: int = 1
    consumer_limits: dict[str, int] = field(default_factory=dict)


def made(stream: Stream | None = None, limits: Limits | None = None, pedantic: bool = False, **given: Any) -> ConsumerConfig:
    """The configuration that a request with these fields makes."""
    text = gojson.decode(orjson.dumps(given), model.CONFIG)
    config = model.with_defaults(ConsumerConfig.from_fields(text), stream or Stream(), limits or Limits(), pedantic)
    model.check(config, stream or Stream(), limits or Limits())
    return config


def refused(**given: Any) -> tuple[int, str]:
    with pytest.raises(ApiError) as e:
        made(**given)
    return int(e.value.err_code), e.value.description


def test_defaults() -> None:
    pull = made(ack_policy="explicit")
    assert (pull.ack_wait, pull.max_deliver, pull.max_waiting, pull.max_ack_pending) == (30 * 10**9, -1, 512, 1000)
    push = made(deliver_subject="x")
    assert (push.ack_wait, push.max_waiting, push.max_ack_pending) == (0, 0, 0)
    assert made(ack_policy="explicit", backoff=[5, 6], max_deliver=3).ack_wait == 5
    assert made(ack_policy="explicit", limits=Limits(max_ack_pending=10)).max_ack_pending == 10
    limited = Stream(consumer_limits={"max_ack_pending": 7, "inactive_threshold": 9})
    assert (made(limited).max_ack_pending, made(limited).inactive_threshold) == (7, 9)


def test_as_json() -> None:
    time = "2020-01-01T00:00:00.123+02:00"
    config = made(name="n", ack_policy="explicit", opt_start_time=time, deliver_policy="by_start_time",
                  filter_subjects=["a.b", "a.c"])
    assert config.to_json() == {
        "name": "n", "deliver_policy": "by_start_time", "opt_start_time": time, "ack_policy": "explicit",
        "ack_wait": 30 * 10**9, "max_deliver": -1, "filter_subjects": ["a.b", "a.c"], "replay_policy": "instant",
        "max_waiting": 512, "max_ack_pending": 1000, "num_replicas": 0}


@pytest.mark.parametrize(("given", "code", "text"), [
    ({"name": "a.b"}, 10052, "consumer name can not contain '.', '*', '>', '\\', '/'"),
    ({"num_replicas": 3}, 10126, "consumer config replica count exceeds parent stream"),
    ({"num_replicas": -1}, 10133, "replicas count cannot be negative"),
    ({"ack_wait": -1}, 10183, "consumer ack wait needs to be positive"),
    ({"backoff": [-1]}, 10184, "consumer backoff needs to be positive"),
    ({"backoff": [1, 2, 3], "max_deliver": 2}, 10116, "max deliver is required to be > length of backoff values"),
    ({"description": "x" * 5000}, 10107, "consumer description is too long, maximum allowed is 4096"),
    ({"deliver_subject": "x.*"}, 10079, "consumer deliver subject has wildcards"),
    ({"deliver_subject": "x..y"}, 10112, "invalid push consumer deliver subject"),
    ({"deliver_subject": "a.b"}, 10081, "consumer deliver subject forms a cycle"),
    ({"deliver_subject": "x", "max_waiting": 3}, 10080, "consumer in push mode can not set max waiting"),
    ({"deliver_subject": "x", "max_ack_pending": 5}, 10082, "consumer requires ack policy for max ack pending"),
    ({"deliver_subject": "x", "idle_heartbeat": 3}, 10083, "consumer idle heartbeat needs to be >= 100ms"),
    ({"deliver_subject": "x", "flow_control": True}, 10108, "consumer with flow control also needs heartbeats"),
    ({"rate_limit_bps": 5}, 10086, "consumer in pull mode can not have rate limit set"),
    ({"idle_heartbeat": 10**9}, 10088, "consumer idle heartbeat requires a push based consumer"),
    ({"flow_control": True}, 10089, "consumer flow control requires a push based consumer"),
    ({"max_expires": 5}, 10115, "consumer max request expires needs to be >= 1ms"),
    ({"direct": True}, 10090, "consumer direct requires a push based consumer"),
    ({"filter_subject": "a..b"}, 10052, "invalid subject"),
    ({"filter_subjects": ["a.b", ""]}, 10139, "consumer filter in FilterSubjects cannot be empty"),
    ({"filter_subjects": ["a.b", "a.*"]}, 10138, "consumer subject filters cannot overlap"),
    ({"filter_subject": "a.b", "filter_subjects": ["a.c"]}, 10136,
     "consumer cannot have both FilterSubject and FilterSubjects specified"),
    ({"sample_freq": "x"}, 10095, 'failed to parse consumer sampling configuration: strconv.Atoi: parsing "x": invalid syntax'),
    ({"sample_freq": "-3"}, 10095, "failed to parse consumer sampling configuration: <nil>"),
    ({"durable_name": "d", "name": "e"}, 10132, "Consumer Durable and Name have to be equal if both are provided"),
    ({"metadata": {"k": "x" * 140000}}, 10135, "consumer metadata exceeds maximum size of 128KB"),
    ({"deliver_policy": "by_start_time"}, 10094,
     "consumer delivery policy is deliver by start time, but optional start time is not set"),
    ({"deliver_policy": "by_start_time", "opt_start_seq": 3, "opt_start_time": "2020-01-01T00:00:00Z"}, 10094,
     "consumer delivery policy is deliver by start time, but optional start start sequence is also set"),
    ({"deliver_policy": "by_start_sequence"}, 10094,
     "consumer delivery policy is deliver by start sequence, but optional start sequence is not set"),
    ({"deliver_policy": "last", "opt_start_seq": 3}, 10094,
     "consumer delivery policy is deliver last, but optional start sequence is also set"),
    ({"opt_start_time": "2020-01-01T00:00:00Z"}, 10094,
     "consumer delivery policy is deliver all, but optional start time is also set"),
    ({"deliver_policy": "last_per_subject"}, 10094,
     "consumer delivery policy is deliver last per subject, but optional filter subject is not set"),
    ({"max_deliver": -5, "pedantic": True}, 10157, "pedantic mode: max_deliver must be set to -1"),
    ({"max_batch": 5, "limits": Limits(max_request_batch=4)}, 10125, "consumer max request batch exceeds server limit of 4"),
    ({"ack_policy": "none", "stream": Stream(retention="workqueue")}, 10084,
     "consumer in pull mode requires explicit ack policy on workqueue stream"),
    ({"ack_policy": "all", "max_ack_pending": 9, "stream": Stream(consumer_limits={"max_ack_pending": 8})}, 10121,
     "consumer max ack pending exceeds system limit of 8"),
    ({"inactive_threshold": 2 * 10**9, "stream": Stream(consumer_limits={"inactive_threshold": 10**9})}, 10153,
     "consumer inactive threshold exceeds system limit of 1s"),
])
def test_what_is_refused(given: dict[str, Any], code: int, text: str) -> None:
    assert refused(**given) == (code, text)


@pytest.mark.parametrize(("change", "text"), [
    ({"ack_policy": "all"}, "ack policy can not be updated"),
    ({"deliver_policy": "new"}, "deliver policy can not be updated"),
    ({"replay_policy": "original"}, "replay policy can not be updated"),
    ({"mem_storage": True}, "storage type can not be updated"),
    ({"max_waiting": 3}, "max waiting can not be updated"),
    ({"deliver_subject": "x", "max_waiting": 0}, "can not update pull consumer to push based"),
])
def test_what_can_not_be_changed(change: dict[str, Any], text: str) -> None:
    old = made(ack_policy="explicit", name="n")
    new = made(**{"ack_policy": "explicit", "name": "n", **change})
    with pytest.raises(ApiError) as e:
        model.check_update(old, new, lambda subject: False)
    assert (e.value.code, e.value.err_code, e.value.description) == (500, Code.CONSUMER_CREATE, text)


def test_what_can_be_changed() -> None:
    old = made(ack_policy="explicit", name="n")
    for change in ({"description": "x"}, {"ack_wait": 5}, {"max_deliver": 3}, {"max_ack_pending": 5}, {"filter_subject": "a.b"},
                   {"sample_freq": "5"}, {"headers_only": True}, {"inactive_threshold": 5}, {"metadata": {"a": "b"}}):
        model.check_update(old, made(**{"ack_policy": "explicit", "name": "n", **change}), lambda subject: False)
    push = made(deliver_subject="x")
    model.check_update(push, made(deliver_subject="y"), lambda subject: False)
    with pytest.raises(ApiError, match="consumer name already in use"):
        model.check_update(push, made(deliver_subject="y"), lambda subject: subject == "x")


def test_work_queue() -> None:
    one = made(ack_policy="explicit", filter_subject="a.b")
    rest = {"one": one}

    def error(others: dict[str, ConsumerConfig], **given: Any) -> int:
        with pytest.raises(ApiError) as e:
            model.check_work_queue(made(**given), others)
        return int(e.value.err_code)

    model.check_work_queue(made(ack_policy="explicit"), {})
    model.check_work_queue(made(ack_policy="explicit", filter_subject="a.c"), rest)
    assert error({}, ack_policy="all") == 10098
    assert error({}, ack_policy="explicit", deliver_policy="new") == 10101
    assert error(rest, ack_policy="explicit") == 10099
    assert error(rest, ack_policy="explicit", filter_subject="a.*") == 10100
    assert error({"all": made(ack_policy="explicit")}, ack_policy="explicit", filter_subject="a.c") == 10100


def test_metadata() -> None:
    config = model.with_static_metadata(made(metadata={"k": "v", "_nats.ver": "9", "_nats.level": "9"}))
    assert config.metadata == {"k": "v", "_nats.req.level": "0"}
    paused = model.with_static_metadata(made(pause_until="2030-01-01T00:00:00Z"))
    assert paused.metadata["_nats.req.level"] == "1"
    assert model.dynamic_metadata(config.metadata, "2.12.0") == {
        "_nats.level": "2", "_nats.req.level": "0", "_nats.ver": "2.12.0", "k": "v"}
