"""The bodies of /varz, /connz and /subsz, and what their arguments may be. Source: monitor.go, monitor_test.go."""

from __future__ import annotations

from typing import Any

import pytest

from shardbroker.errors import CloseReason
from shardbroker.monitor.endpoints import (
    BadQuery,
    connz,
    connz_query,
    go_duration,
    rfc3339,
    rtt_duration,
    subsz,
    subsz_query,
    uptime,
)
from shardbroker.shard.report import SORTS, ConnectionRow, sort_rows

SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (0.999, "0s"), (59, "59s"), (60, "1m0s"), (3599, "59m59s"), (3600, "1h0m0s"), (86400, "1d0h0m0s"),
        (86400 * 365 + 86400 * 2 + 3 * 3600 + 4 * 60 + 5, "1y2d3h4m5s"), (-5, "0s"),
    ],
)  # fmt: skip
def test_uptime(seconds: float, text: str) -> None:
    assert uptime(int(seconds * SECOND)) == text


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0s"), (1, "1ns"), (999, "999ns"), (1000, "1µs"), (1500, "1.5µs"), (123456, "123.456µs"), (250_000_000, "250ms"),
        (1_000_000, "1ms"), (1_500_000, "1.5ms"), (SECOND, "1s"), (1_050_000_000, "1.05s"), (60 * SECOND, "1m0s"),
        (3600 * SECOND, "1h0m0s"), (62_500_000_000, "1m2.5s"),
    ],
)  # fmt: skip
def test_go_durations(ns: int, text: str) -> None:
    assert go_duration(ns) == text


def test_round_trips_are_cut_to_microseconds() -> None:
    assert [rtt_duration(ns) for ns in (0, 900, 123_456, 1_234_567)] == ["0s", "900ns", "123µs", "1.234567ms"]


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (NOW, "2023-11-14T22:13:20Z"),
        (NOW + 1, "2023-11-14T22:13:20.000000001Z"),
        (NOW + 120_000_000, "2023-11-14T22:13:20.12Z"),
    ],
)
def test_times(ns: int, text: str) -> None:
    assert rfc3339(ns) == text


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"limit": "abc"}, "Error decoding int for 'limit': strconv.Atoi: parsing \"abc\": invalid syntax"),
        ({"offset": "1.5"}, "Error decoding int for 'offset': strconv.Atoi: parsing \"1.5\": invalid syntax"),
        ({"offset": "9" * 20}, "value out of range"),
        ({"limit": "9223372036854775808"}, "value out of range"),
        ({"limit": "1" * 5000}, "value out of range"),
        ({"limit": "\u0661"}, "invalid syntax"),
        ({"cid": "-1"}, "Error decoding uint64 for 'cid': strconv.ParseUint: parsing \"-1\": invalid syntax"),
        ({"cid": "18446744073709551616"}, "value out of range"),
        (
            {"auth": "maybe"},
            "Error decoding boolean for 'auth': strconv.ParseBool: parsing \"maybe\": invalid syntax",
        ),
        ({"subs": "x"}, "Error decoding boolean for 'subs'"),
        ({"state": "foo"}, "Error decoding state for foo"),
        ({"sort": "foo"}, "invalid sorting option: foo"),
        ({"sort": "stop"}, "sort by stop only valid on closed connections"),
        ({"sort": "reason", "state": "open"}, "sort by reason only valid on closed connections"),
    ],
)
def test_bad_arguments_of_connz(args: dict[str, str], words: str) -> None:
    with pytest.raises(BadQuery) as error:
        connz_query(args)
    assert words in str(error.value)


def test_bad_arguments_of_subsz() -> None:
    for args, words in (
        ({"test": "a..b"}, "invalid test subject, must be valid publish subject: a..b"),
        ({"test": "a.*"}, "invalid test subject"),
        ({"limit": "x"}, "Error decoding int for 'limit'"),
    ):
        with pytest.raises(BadQuery, match=words):
            subsz_query(args)


def test_good_arguments() -> None:
    query = connz_query({"offset": "-5", "limit": "0", "subs": "DETAIL", "state": "ANY", "auth": "t"})
    assert (query.offset, query.limit, query.subs, query.state, query.auth) == (
        0,
        1024,
        "detail",
        "all",
        True,
    )
    assert connz_query({"cid": "7", "limit": "100"}).limit == 1
    assert (
        connz_query({"offset": "9223372036854775807", "limit": "9223372036854775807"}).for_shards()["offset"]
        < 1 << 32
    )
    assert subsz_query({"subs": "1", "limit": "-1"}).limit == 1024


def row(cid: int, **fields: Any) -> ConnectionRow:
    values: dict[str, Any] = dict.fromkeys(ConnectionRow._fields, 0)
    values |= {"ip": "127.0.0.1", "name": "", "lang": "", "version": "", "user": "", "account": "$G", "subs": None}
    return ConnectionRow(
        **(values | {"cid": cid, "start_ns": NOW - cid * SECOND, "last_activity_ns": NOW} | fields)
    )


def parts(*shards: list[ConnectionRow], total: int | None = None) -> dict[str, dict[str, Any]]:
    return {
        str(number): {"total": len(rows) if total is None else total, "rows": [list(one) for one in rows]}
        for number, rows in enumerate(shards)
    }


def test_connections_of_all_shards_are_one_list() -> None:
    answer = connz("ID", parts([row(1), row(4)], [], [row(2), row(3)]), connz_query({}), NOW)
    assert [one["cid"] for one in answer["connections"]] == [1, 2, 3, 4]
    assert [one["shard"] for one in answer["connections"]] == [0, 2, 2, 0]
    assert (answer["num_connections"], answer["total"], answer["offset"], answer["limit"]) == (4, 4, 0, 1024)
    assert list(answer) == ["server_id", "now", "num_connections", "total", "offset", "limit", "connections"]


def test_pages_over_all_shards_have_everyone_once() -> None:
    everyone = [row(cid, in_msgs=cid % 7) for cid in range(1, 101)]
    for sort in ("cid", "msgs_from"):
        seen: list[int] = []
        for offset in range(0, 110, 10):
            query = connz_query({"sort": sort, "offset": str(offset), "limit": "10"})
            asked = query.for_shards()
            shards = [
                sort_rows(everyone[n::3], asked["sort"])[: asked["offset"] + asked["limit"]] for n in range(3)
            ]
            answer = connz("ID", parts(*shards), query, NOW)
            seen += [one["cid"] for one in answer["connections"]]
        assert sorted(seen) == list(range(1, 101))
        if sort == "msgs_from":
            assert [cid % 7 for cid in seen] == sorted((cid % 7 for cid in seen), reverse=True)


@pytest.mark.parametrize("sort", sorted(SORTS))
def test_every_order_is_an_order(sort: str) -> None:
    rows = [row(cid, stop_ns=NOW + cid % 3, reason=cid % 4, rtt_ns=cid % 5) for cid in range(1, 20)]
    once = sort_rows(rows, sort)
    assert sort_rows(once, sort) == once
    assert sorted(once) == sorted(rows)


def test_one_connection_in_detail() -> None:
    query = connz_query({"auth": "1", "subs": "detail"})
    one = row(
        9, port=5000, in_msgs=1, out_msgs=2, in_bytes=3, out_bytes=4, subscriptions=2, rtt_ns=1_500_000, name="n",
        lang="go", version="1.0", user="me", stalls=3, subs=[["a.*", None, "1", 7, 0], ["b", "q", "x", 0, 5]],
    )  # fmt: skip
    (shown,) = connz("ID", parts([one]), query, NOW)["connections"]
    assert shown == {
        "cid": 9, "kind": "Client", "type": "nats", "ip": "127.0.0.1", "port": 5000, "start": rfc3339(NOW - 9 * SECOND),
        "last_activity": rfc3339(NOW), "rtt": "1.5ms", "uptime": "9s", "idle": "0s", "pending_bytes": 0, "in_msgs": 1,
        "out_msgs": 2, "in_bytes": 3, "out_bytes": 4, "stalls": 3, "subscriptions": 2, "name": "n", "lang": "go",
        "version": "1.0", "authorized_user": "me", "name_tag": "$G", "shard": 0,
        "subscriptions_list_detail": [
            {"subject": "a.*", "sid": "1", "msgs": 7, "cid": 9},
            {"subject": "b", "qgroup": "q", "sid": "x", "msgs": 0, "max": 5, "cid": 9},
        ],
    }  # fmt: skip


def test_a_closed_connection_says_why() -> None:
    one = row(1, stop_ns=NOW, start_ns=NOW - 61 * SECOND, reason=int(CloseReason.STALE_CONNECTION))
    (shown,) = connz("ID", parts([one]), connz_query({"state": "closed"}), NOW + 5 * SECOND)[
        "connections"
    ]
    assert (shown["stop"], shown["reason"], shown["uptime"]) == (rfc3339(NOW), "Stale Connection", "1m1s")


def test_accounts_are_named() -> None:
    """Not the global one (monitor.go Connz); shards are asked for those of one account."""
    query = connz_query({"acc": "OTHER", "auth": "1"})
    assert query.for_shards()["acc"] == "OTHER"
    (shown,) = connz("ID", parts([row(1, account="OTHER")]), query, NOW)["connections"]
    assert (shown["account"], shown["name_tag"]) == ("OTHER", "OTHER")


def test_subscriptions_are_summed() -> None:
    stats = {
        "num_subscriptions": 2, "num_cache": 1, "num_inserts": 3, "num_removes": 1, "num_matches": 10,
        "cache_hit_rate": 0.5, "max_fanout": 4, "avg_fanout": 2.0,
    }  # fmt: skip
    shards = {
        "0": {"stats": stats, "total": 2, "rows": [["a", None, "1", 0, 0, 1], ["b", "q", "2", 5, 9, 1]]},
        "1": {
            "stats": stats | {"num_matches": 30, "cache_hit_rate": 0.9},
            "total": 1,
            "rows": [["c", None, "1", 0, 0, 2]],
        },
    }
    answer = subsz("ID", shards, subsz_query({"subs": "1", "offset": "1", "limit": "1"}), NOW)
    assert (answer["num_subscriptions"], answer["num_matches"], answer["max_fanout"]) == (4, 40, 4)
    assert (answer["cache_hit_rate"], answer["avg_fanout"]) == (0.8, 2.0)
    assert (answer["total"], answer["offset"], answer["limit"]) == (3, 1, 1)
    assert answer["subscriptions_list"] == [
        {"account": "$G", "account_tag": "$G", "subject": "b", "qgroup": "q", "sid": "2", "msgs": 5, "max": 9, "cid": 1}
    ]
    assert subsz("ID", {}, subsz_query({}), NOW)["cache_hit_rate"] == 0
