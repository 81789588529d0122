"""What arguments may be, and the bodies of /connz and /subsz from shards that are a few lists. Source: monitor.go."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shardbroker.errors import CloseReason
from shardbroker.monitor.connz import SORTS, connz, sorted_briefs
from shardbroker.monitor.query import (
    INT_MAX,
    BadQuery,
    ConnzQuery,
    HealthzQuery,
    JsonArguments,
    JszQuery,
    SubszQuery,
    UrlArguments,
)
from shardbroker.monitor.sampler import percentile
from shardbroker.monitor.source import Statistics
from shardbroker.monitor.subsz import subsz
from shardbroker.monitor.times import go_duration, rfc3339, rtt_duration, uptime
from shardbroker.shard.closed import ClosedConnections
from shardbroker.shard.report import ROWS_STEP, SUBSCRIPTIONS_STEP, TABLE_ROW, ConnectionRow, SubscriptionRow

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
        ConnzQuery.read(UrlArguments(args))
    assert words in str(error.value)


def test_bad_arguments_of_subsz() -> None:
    for args, words in (
        ({"test": "a..b"}, "invalid test subject, must be valid publish subject: a..b"),
        ({"test": "a.*"}, "invalid test subject"),
        ({"limit": "x"}, "Error decoding int for 'limit'"),
    ):
        with pytest.raises(BadQuery, match=words):
            SubszQuery.read(UrlArguments(args))


def test_good_arguments() -> None:
    query = connz_query(offset="-5", limit="0", subs="DETAIL", state="ANY", auth="t")
    assert (query.offset, query.limit, query.subs, query.state, query.auth) == (
        0,
        1024,
        "detail",
        "all",
        True,
    )
    assert connz_query(cid="7", limit="100").limit == 1
    assert connz_query(state="all", sort="rtt").sort == "rtt"
    assert SubszQuery.read(UrlArguments({"subs": "1", "limit": "-1"})).limit == 1024
    jsz = JszQuery.read(UrlArguments({"consumers": "1", "limit": "-3", "offset": "-1"}))
    assert (jsz.accounts, jsz.streams, jsz.consumers, jsz.limit, jsz.offset) == (True, True, True, INT_MAX, 0)
    assert not JszQuery.read(UrlArguments({"streams": "1", "acc": "A"})).accounts
    assert HealthzQuery.read(UrlArguments({"js-enabled": "1"})).js_enabled_only


@pytest.mark.parametrize(
    "options",
    [
        {"sort": 1}, {"offset": "1"}, {"limit": True}, {"cid": -1}, {"cid": "1"}, {"auth": 1}, {"offset": 1 << 63},
        {"state": "open"}, {"acc": []}, {"filter_subject": "a"}, {"sort": "none"},
    ],
)  # fmt: skip
def test_bad_options_of_a_request(options: dict[str, Any]) -> None:
    with pytest.raises(BadQuery):
        ConnzQuery.read(JsonArguments(options))


def test_options_of_a_request_are_the_same_query() -> None:
    url = connz_query(sort="subs", auth="1", subs="detail", limit="3", state="closed", acc="A", filter_subject="a.>")
    options = {
        "sort": "subs", "auth": True, "subscriptions_detail": True, "limit": 3, "state": 1, "acc": "A", "filter_subject": "a.>",
        "unknown": {},
    }  # fmt: skip
    assert ConnzQuery.read(JsonArguments(options)) == url
    assert ConnzQuery.read(JsonArguments({"filter_subject": ">", "user": None})) == ConnzQuery()


def connz_query(**args: str) -> ConnzQuery:
    return ConnzQuery.read(UrlArguments(args))


# ---- shards that are lists ----


def row(cid: int, **fields: Any) -> ConnectionRow:
    values: dict[str, Any] = dict.fromkeys(ConnectionRow._fields, 0)
    values |= {"ip": "127.0.0.1", "name": "", "lang": "", "version": "", "user": "", "account": "$G", "more": None}
    return ConnectionRow(
        **(values | {"cid": cid, "start_ns": NOW - cid * SECOND, "last_activity_ns": NOW} | fields)
    )


class Shards:
    """A Source. What a shard does with more steps is shard/monitoring.py's; here one row a step, so that all are taken."""

    def __init__(self, *shards: list[ConnectionRow], subs: Mapping[int, list[SubscriptionRow]] | None = None) -> None:
        self.shards = shards
        self.subs = subs or {}
        self.statistics = cast(Statistics, SimpleNamespace(shards=len(shards)))
        self.stats = {
            "num_subscriptions": 2, "num_cache": 1, "num_inserts": 3, "num_removes": 1, "num_matches": 10,
            "cache_hit_rate": 0.5, "max_fanout": 4, "avg_fanout": 2.0,
        }  # fmt: skip

    async def front(self, op: str) -> Mapping[str, Any]:
        return {}

    async def ask(self, shard: int, op: str, query: Mapping[str, Any]) -> Mapping[str, Any] | None:
        answer: Mapping[str, Any] | None = getattr(self, op)(self.shards[shard], query)
        return answer

    def table(self, rows: list[ConnectionRow], query: Mapping[str, Any]) -> dict[str, Any]:
        opened = [r for r in rows if not r.stop_ns]
        at = query["first"]
        some = [
            r
            for r in opened[at : at + 1]
            if query["acc"] in ("", r.account) and query.get("user", "") in ("", r.user)
        ]
        data = b"".join(
            TABLE_ROW.pack(
                r.cid, opened.index(r), r.in_msgs, r.in_bytes, r.out_msgs, r.out_bytes, r.pending_bytes, r.subscriptions,
                r.rtt_ns, r.last_activity_ns - NOW + 5, r.stalls,
            )
            for r in some
        )  # fmt: skip
        return {
            "rows": base64.b64encode(data).decode(), "next": at + 1 if at + 1 < len(opened) else -1, "offset_ns": NOW - 5,
            **({"starts": [r.start_ns for r in some]} if query.get("starts") else {}),
        }  # fmt: skip

    def rows(self, rows: list[ConnectionRow], query: Mapping[str, Any]) -> dict[str, Any]:
        assert len(query["ids"]) <= ROWS_STEP
        wanted = {cid for _, cid in query["ids"]}
        return {"rows": [tuple(r) for r in rows if r.cid in wanted]}

    def subscriptions(self, rows: list[ConnectionRow], query: Mapping[str, Any]) -> dict[str, Any]:
        subs = self.subs[query["ids"][0][1]]
        most = min(query["most"], 2, SUBSCRIPTIONS_STEP)
        found = subs[query["first"] : query["first"] + most]
        more = query["first"] + most < len(subs)
        return {"rows": found, "done": 0 if more else 1, "next": query["first"] + most if more else 0}

    def closed(self, rows: list[ConnectionRow], query: Mapping[str, Any]) -> dict[str, Any]:
        ended = ClosedConnections(1000)
        for r in rows:
            if r.stop_ns:
                ended.append(r)
        blocks, recent, following = ended.packed(query["first"], 1)
        return {
            "blocks": [base64.b64encode(block).decode() for block in blocks], "recent": recent, "next": following,
            "most": ended.most,
        }  # fmt: skip

    def sublist(self, rows: list[ConnectionRow], query: Mapping[str, Any]) -> dict[str, Any]:
        return {"stats": self.stats}

    def matching(self, rows: list[ConnectionRow], query: Mapping[str, Any]) -> dict[str, Any]:
        found = [sub for r in rows for sub in self.subs.get(r.cid, []) if sub.subject == query["test"]]
        return {"total": len(found), "rows": found[: query["most"]]}


def page(source: Shards, query: ConnzQuery, now: int = NOW) -> dict[str, Any]:
    return asyncio.run(connz(source, query, "ID", now))


def test_connections_of_all_shards_are_one_list() -> None:
    answer = page(Shards([row(1), row(4)], [], [row(2), row(3)]), ConnzQuery())
    assert [one["cid"] for one in answer["connections"]] == [1, 2, 3, 4]
    assert [one["shard"] for one in answer["connections"]] == [0, 2, 2, 0]
    assert (answer["num_connections"], answer["total"], answer["offset"], answer["limit"]) == (4, 4, 0, 1024)
    assert list(answer) == ["server_id", "now", "num_connections", "total", "offset", "limit", "connections"]


def test_pages_over_all_shards_have_everyone_once() -> None:
    everyone = [row(cid, in_msgs=cid % 7, user=f"u{cid % 2}") for cid in range(1, 101)]
    source = Shards(*(everyone[n::3] for n in range(3)))
    for sort in ("cid", "msgs_from"):
        seen: list[int] = []
        for offset in range(0, 110, 10):
            answer = page(source, connz_query(sort=sort, offset=str(offset), limit="10"))
            assert answer["total"] == 100
            seen += [one["cid"] for one in answer["connections"]]
        assert sorted(seen) == list(range(1, 101))
        if sort == "msgs_from":
            assert [cid % 7 for cid in seen] == sorted((cid % 7 for cid in seen), reverse=True)
    assert page(source, connz_query(offset=str(INT_MAX), limit=str(INT_MAX)))["connections"] == []
    mine = page(source, connz_query(user="u1"))
    assert [one["cid"] for one in mine["connections"]] == list(range(1, 101, 2))
    assert page(source, connz_query(mqtt_client="x"))["connections"] == []


@pytest.mark.parametrize("sort", sorted({*SORTS, "uptime"}))
def test_every_order_is_an_order(sort: str) -> None:
    source = Shards([row(cid, stop_ns=NOW + cid % 3, reason=cid % 4, rtt_ns=cid % 5) for cid in range(1, 300)])
    answer = page(source, connz_query(sort=sort, state="closed"), NOW + 9 * SECOND)
    assert sorted(one["cid"] for one in answer["connections"]) == list(range(1, 300))
    assert sorted_briefs([], sort, NOW) == []
    if sort == "reason":
        reasons = [one["reason"] for one in answer["connections"]]
        assert reasons == sorted(reasons) and len(set(reasons)) == 4


def test_uptime_sorts_open_and_closed_ones() -> None:
    source = Shards([row(5), row(1)], [row(3, stop_ns=NOW - SECOND)])
    answer = page(source, connz_query(sort="uptime", state="all"))
    assert [one["uptime"] for one in answer["connections"]] == ["1s", "2s", "5s"]


def test_one_connection_in_detail() -> None:
    more = {
        "type": "websocket", "tls_version": "1.3", "tls_cipher_suite": "TLS_AES_128_GCM_SHA256", "tls_first": True,
        "jwt": "J", "issuer_key": "K", "tags": ["t"], "tls_peer_certs": [{"subject": "CN=x"}],
    }  # fmt: skip
    one = row(
        9, port=5000, in_msgs=1, out_msgs=2, in_bytes=3, out_bytes=4, subscriptions=2, rtt_ns=1_500_000, name="n",
        lang="go", version="1.0", user="me", stalls=3, more=more,
    )  # fmt: skip
    source = Shards([one], subs={9: [SubscriptionRow("a.*", None, "1", 7, 0, 9), SubscriptionRow("b", "q", "x", 0, 5, 9)]})
    (shown,) = page(source, connz_query(auth="1", subs="detail"))["connections"]
    assert list(shown.items()) == list({
        "cid": 9, "kind": "Client", "type": "websocket", "ip": "127.0.0.1", "port": 5000, "start": rfc3339(NOW - 9 * SECOND),
        "last_activity": rfc3339(NOW), "rtt": "1.5ms", "uptime": "9s", "idle": "0s", "pending_bytes": 0, "in_msgs": 1,
        "out_msgs": 2, "in_bytes": 3, "out_bytes": 4, "stalls": 3, "subscriptions": 2, "name": "n", "lang": "go",
        "version": "1.0", "tls_version": "1.3", "tls_cipher_suite": "TLS_AES_128_GCM_SHA256",
        "tls_peer_certs": [{"subject": "CN=x"}], "tls_first": True, "authorized_user": "me",
        "subscriptions_list_detail": [
            {"subject": "a.*", "sid": "1", "msgs": 7, "cid": 9},
            {"subject": "b", "qgroup": "q", "sid": "x", "msgs": 0, "max": 5, "cid": 9},
        ],
        "jwt": "J", "issuer_key": "K", "name_tag": "$G", "tags": ["t"], "shard": 0,
    }.items())  # fmt: skip
    (shown,) = page(source, connz_query(subs="1"))["connections"]
    assert shown["subscriptions_list"] == ["a.*", "b"]
    assert not {"jwt", "issuer_key", "name_tag", "tags", "authorized_user", "tls_peer_certs", "account"} & shown.keys()


def test_a_closed_connection_says_why() -> None:
    one = row(1, stop_ns=NOW, start_ns=NOW - 61 * SECOND, reason=int(CloseReason.STALE_CONNECTION))
    (shown,) = page(Shards([one]), connz_query(state="closed"), NOW + 5 * SECOND)["connections"]
    assert (shown["stop"], shown["reason"], shown["uptime"]) == (rfc3339(NOW), "Stale Connection", "1m1s")
    assert page(Shards([one]), connz_query(cid="1", state="any"))["connections"] != []
    assert page(Shards([one]), connz_query(cid="1"))["connections"] == []


def test_accounts_are_named() -> None:
    """Not the global one (monitor.go Connz); shards are asked for those of one account."""
    source = Shards([row(1, account="OTHER"), row(2), row(3, account="OTHER", stop_ns=NOW)])
    answer = page(source, connz_query(acc="OTHER", auth="1", state="any"))
    assert answer["total"] == 2
    assert {(one["account"], one["name_tag"]) for one in answer["connections"]} == {("OTHER", "OTHER")}


def test_one_that_is_asked_for_is_all_there_is() -> None:
    source = Shards([row(1), row(2), row(3)])
    for cid, count in ((2, 1), (9, 0)):
        answer = page(source, connz_query(cid=str(cid)))
        assert [one["cid"] for one in answer["connections"]] == [cid] * count
        assert (answer["num_connections"], answer["total"], answer["limit"]) == (count, count, 1)


def test_connections_with_interest_in_a_subject() -> None:
    subs = {
        1: [SubscriptionRow(subject, None, "1", 0, 0, 1) for subject in ("x", "y", "a.*")],
        2: [SubscriptionRow("b", None, "1", 0, 0, 2)],
    }  # fmt: skip
    source = Shards([row(1, subscriptions=3, account="A"), row(2, subscriptions=1, account="A"), row(3, account="A")], subs=subs)
    for subject, cids in (("a.b", [1]), ("*", [1, 2]), ("c", []), ("not..valid", [])):
        answer = page(source, connz_query(acc="A", filter_subject=subject))
        assert [one["cid"] for one in answer["connections"]] == cids


def test_subscriptions_are_summed_and_paged() -> None:
    subs = {cid: [SubscriptionRow(f"s{cid}.{n}", "q", "2", 5, 9, cid) for n in range(3)] for cid in (1, 2, 3)}
    source = Shards([row(1, subscriptions=3), row(2, subscriptions=3)], [row(3, subscriptions=3), row(4)], subs=subs)

    def ask(**args: str) -> dict[str, Any]:
        return asyncio.run(subsz(source, SubszQuery.read(UrlArguments(args)), "ID", NOW))

    answer = ask()
    assert (answer["num_subscriptions"], answer["num_matches"], answer["max_fanout"]) == (4, 20, 4)
    assert (answer["cache_hit_rate"], answer["avg_fanout"]) == (0.5, 2.0)
    assert (answer["total"], answer["offset"], answer["limit"]) == (0, 0, 1024)
    assert "subscriptions_list" not in answer
    seen = []
    for offset in range(0, 11, 2):
        answer = ask(subs="1", offset=str(offset), limit="2")
        assert answer["total"] == 9
        seen += [one["subject"] for one in answer.get("subscriptions_list", [])]
    assert seen == [f"s{cid}.{n}" for cid in (1, 2, 3) for n in range(3)]
    answer = ask(subs="1", test="s2.1")
    assert (answer["total"], answer["subscriptions_list"]) == (1, [
        {"account": "$G", "account_tag": "$G", "subject": "s2.1", "qgroup": "q", "sid": "2", "msgs": 5, "max": 9, "cid": 2}
    ])  # fmt: skip


def test_percentiles() -> None:
    assert percentile([0] * 32, 0.99) == 0.0
    assert percentile([0, 0, 0, 10], 0.5) == 6.0
    assert percentile([0, 100] + [0] * 8 + [1], 0.999) > 512
