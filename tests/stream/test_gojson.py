"""Decoding of API requests: what is taken, and Go's words for what is refused (each compared with a nats-server)."""

from __future__ import annotations

import pytest

from shardbroker.stream import gojson
from shardbroker.stream.gojson import (
    BOOL,
    DURATION,
    INT,
    STRING,
    STRINGS,
    TIME,
    UINT64,
    DecodeError,
    Enum,
    List,
    Struct,
    Time,
)

FIELD = "Go struct field ConsumerConfig.config."

CONFIG = Struct(
    "ConsumerConfig",
    {
        "durable_name": STRING,
        "max_deliver": INT,
        "opt_start_seq": UINT64,
        "flow_control": BOOL,
        "opt_start_time": TIME,
        "backoff": List(DURATION),
        "filter_subjects": List(STRING),
        "metadata": STRINGS,
        "ack_policy": Enum({"none": "none", "all": "all"}),
    },
)
REQUEST = Struct(
    "CreateConsumerRequest",
    {
        "stream_name": STRING,
        "config": CONFIG,
        "action": Enum({"": "", "create": "create"}, lambda given: f"unknown consumer action: {given}"),
    },
)


def config(text: str) -> str:
    with pytest.raises(DecodeError) as e:
        gojson.decode(f'{{"stream_name":"S","config":{text}}}'.encode(), REQUEST)
    return str(e.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"max_deliver":"x"}', f"json: cannot unmarshal string into {FIELD}max_deliver of type int"),
        ('{"max_deliver":1.5}', f"json: cannot unmarshal number 1.5 into {FIELD}max_deliver of type int"),
        ('{"max_deliver":1e30}', f"json: cannot unmarshal number 1e30 into {FIELD}max_deliver of type int"),
        (
            '{"max_deliver":99999999999999999999}',
            f"json: cannot unmarshal number 99999999999999999999 into {FIELD}max_deliver of type int",
        ),
        (
            '{"opt_start_seq":-1}',
            f"json: cannot unmarshal number -1 into {FIELD}opt_start_seq of type uint64",
        ),
        ('{"durable_name":5}', f"json: cannot unmarshal number into {FIELD}durable_name of type string"),
        ('{"flow_control":"x"}', f"json: cannot unmarshal string into {FIELD}flow_control of type bool"),
        ('{"backoff":5}', f"json: cannot unmarshal number into {FIELD}backoff of type []time.Duration"),
        ('{"backoff":["x"]}', f"json: cannot unmarshal string into {FIELD}backoff of type time.Duration"),
        (
            '{"filter_subjects":["a",5]}',
            f"json: cannot unmarshal number into {FIELD}filter_subjects of type string",
        ),
        ('{"metadata":{"a":5}}', f"json: cannot unmarshal number into {FIELD}metadata of type string"),
        ('{"ack_policy":"bogus"}', 'can not unmarshal "\\"bogus\\""'),
        ('{"ack_policy":5}', 'can not unmarshal "5"'),
        ('{"ack_policy":null}', 'can not unmarshal "null"'),
        ('{"foo":1}', 'json: unknown field "foo"'),
        (
            "5",
            "json: cannot unmarshal number into Go struct field CreateConsumerRequest.config of type server.ConsumerConfig",
        ),
        ('{"opt_start_time":5}', "Time.UnmarshalJSON: input is not a JSON string"),
        (
            '{"opt_start_time":"xx"}',
            'parsing time "xx" as "2006-01-02T15:04:05Z07:00": cannot parse "xx" as "2006"',
        ),
        (
            '{"opt_start_time":"2020-01-01"}',
            'parsing time "2020-01-01" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "T"',
        ),
        ("{", "unexpected EOF"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    assert config(text) == message


def test_other_refusals() -> None:
    for payload, message in (
        (b"[]", "json: cannot unmarshal array into Go value of type server.CreateConsumerRequest"),
        (b'{"stream_name":"S"} {"foo":1}', 'json: unknown field "foo"'),
        (b'{"action":"zzz"}', 'unknown consumer action: "zzz"'),
        (b'{"config":' * 1000, "exceeded max depth"),
    ):
        with pytest.raises(DecodeError) as e:
            gojson.decode(payload, REQUEST)
        assert str(e.value) == message


def test_what_is_taken() -> None:
    given = gojson.decode(
        b'{"STREAM_NAME":"S","config":{"backoff":[1,2],"durable_name":null,'
        b'"opt_start_time":"2020-01-01T00:00:00.123+02:00"}}',
        REQUEST,
    )
    assert given["stream_name"] == "S"
    assert given["config"]["backoff"] == [1, 2]
    assert "durable_name" not in given["config"]
    assert str(given["config"]["opt_start_time"]) == "2020-01-01T00:00:00.123+02:00"
    assert str(given["config"]["opt_start_time"].utc()) == "2019-12-31T22:00:00.123Z"
    assert gojson.decode(b"", REQUEST) == {} == gojson.decode(b" null ", REQUEST)
    assert gojson.decode(b'{"action":"create"}\n{"stream_name":"x"}', REQUEST) == {
        "action": "create",
        "stream_name": "x",
    }


def test_time() -> None:
    assert Time.parse("0001-01-01T00:00:00Z").is_zero
    assert str(Time.parse("0001-01-01T00:00:00Z")) == "0001-01-01T00:00:00Z"
    assert Time.parse("1970-01-01T00:00:01.5Z").ns == 1_500_000_000
    assert gojson.format_time(1_700_000_000_123_456_789) == "2023-11-14T22:13:20.123456789Z"
    with pytest.raises(DecodeError):
        Time.parse("2020-13-01T00:00:00Z")


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0", 0),
        ("1s", 10**9),
        ("1.5h", 5400 * 10**9),
        ("-2ms", -2_000_000),
        ("1h2m3.5s", 3723_500_000_000),
        ("3us", 3000),
        (".5s", 500_000_000),
    ],
)
def test_durations_are_read(text: str, ns: int) -> None:
    assert gojson.parse_duration(text) == ns


@pytest.mark.parametrize("text", ["", "5", "s", "1x", "1s2", "9999999999h", "1 s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(DecodeError):
        gojson.parse_duration(text)


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1500, "1.5µs"),
        (300_000_000, "300ms"),
        (1_500_000_000, "1.5s"),
        (60 * 10**9, "1m0s"),
        (3600 * 10**9, "1h0m0s"),
        (3723_500_000_000, "1h2m3.5s"),
        (-(10**9), "-1s"),
    ],
)
def test_durations_are_written(ns: int, text: str) -> None:
    assert gojson.format_duration(ns) == text


def test_empty_requests() -> None:
    assert all(map(gojson.is_empty, (b"", b"{}", b" { } ")))
    assert not any(map(gojson.is_empty, (b"x", b"[]", b'{"a":1}')))
    assert (
        gojson.is_object_or_array(b" \n{")
        and not gojson.is_object_or_array(b"5")
        and not gojson.is_object_or_array(b"")
    )
