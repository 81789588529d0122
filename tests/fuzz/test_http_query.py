"""Whatever stands behind the question mark, or in a request's JSON: an answer or a 400, soon, and never more than was asked for.

SHARDBROKER_FUZZ_RUNS says how many.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import quote

from hypothesis import given, settings
from hypothesis import strategies as st

from shardbroker.monitor.pages import Pages
from shardbroker.monitor.query import (
    INT_MAX,
    STATES,
    BadQuery,
    ConnzQuery,
    HealthzQuery,
    JsonArguments,
    JszQuery,
    SubszQuery,
    UrlArguments,
)
from shardbroker.monitor.server import QUERY_BYTES_MAX, Monitor
from shardbroker.monitor.source import FIELDS, Statistics

EXAMPLES = int(os.environ.get("SHARDBROKER_FUZZ_RUNS", "100"))
NAMES = (
    "sort", "auth", "subs", "offset", "limit", "cid", "state", "user", "acc", "mqtt_client", "filter_subject", "test", "account",
    "accounts", "streams", "consumers", "direct-consumers", "config", "leader-only", "raft", "js-enabled", "js-server-only",
    "details", "stream", "consumer", "unused", "all", "queues", "subscriptions", "subscriptions_detail",
)  # fmt: skip
VALUES = st.one_of(
    st.text(max_size=30), st.integers().map(str), st.sampled_from(["1", "true", "detail", "closed", "any", "", "-1", ">", "a.*"]),
    st.integers(0, 400).map(lambda n: "9" * n),
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
PATHS = (
    "/connz", "/subsz", "/jsz", "/healthz", "/accountz", "/accstatz", "/leafz", "/gatewayz", "/routez", "/ipqueuesz", "/raftz",
)  # fmt: skip


class Empty:
    """A broker of one shard that has nothing and does not answer."""

    statistics = cast(
        Statistics,
        SimpleNamespace(
            shards=1, ready=lambda: 1, row=lambda shard: dict.fromkeys(FIELDS, 0), lag_buckets=lambda shard: [0] * 32
        ),
    )

    async def front(self, op: str) -> Mapping[str, Any]:
        options = {"jetstream": {"enabled": True}, "system_account": "S"}
        varz = {"server_id": "ID", "server_name": "N", "options": options, "config_load_ns": 0}
        return varz | {"accounts": ["A"], "stream_accounts": []}

    async def ask(self, shard: int, op: str, query: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return None


def check(query: object) -> None:
    """What every page relies on."""
    if isinstance(query, ConnzQuery):
        assert query.state in STATES and query.subs in ("", "list", "detail")
        assert 0 <= query.cid < 1 << 64
    if isinstance(query, ConnzQuery | SubszQuery | JszQuery):
        assert 0 <= query.offset <= INT_MAX and 0 < query.limit <= INT_MAX


def read_all(given: Any) -> None:
    for kind in (ConnzQuery, SubszQuery, JszQuery, HealthzQuery):
        with contextlib.suppress(BadQuery):
            check(kind.read(given))


@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6))
@settings(max_examples=EXAMPLES, deadline=None)
def test_arguments_of_a_url(values: dict[str, str]) -> None:
    read_all(UrlArguments(values))


@given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=6))
@settings(max_examples=EXAMPLES, deadline=None)
def test_options_of_a_request(values: dict[str, Any]) -> None:
    read_all(JsonArguments(values))


async def fetch(app: Any, path: str, query: bytes) -> tuple[int, bytes]:
    """Status and body."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "path": path, "raw_path": path.encode(),
        "query_string": query, "root_path": "", "headers": [], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }  # fmt: skip
    async with asyncio.timeout(60):
        await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


RAW = st.one_of(
    st.binary(max_size=200),
    st.binary(min_size=QUERY_BYTES_MAX - 2, max_size=QUERY_BYTES_MAX + 2),
    st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=5).map(
        lambda pairs: "&".join(f"{name}={quote(value)}" for name, value in pairs).encode()
    ),
)


@given(st.sampled_from(PATHS), RAW)
@settings(max_examples=EXAMPLES, deadline=None)
def test_query_strings(path: str, query: bytes) -> None:
    # A query string is ASCII on the wire; uvicorn refuses what is not.
    query = bytes(byte & 0x7F for byte in query)

    async def work() -> tuple[int, bytes]:
        return await fetch(Monitor(Pages(Empty())).app("/"), path, query)

    status, body = asyncio.run(work())
    assert status in (200, 400, 404, 414), (status, body)
    assert (status == 414) == (len(query) > QUERY_BYTES_MAX)
    assert len(body) < 16 << 10
