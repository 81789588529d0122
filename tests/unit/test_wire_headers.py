"""Header blocks of messages (ADR-4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbroker.wire.headers import NO_RESPONDERS, HeaderError, Headers, build, parse, strip

KEY = st.text("abcABC-_09", min_size=1, max_size=10)
VALUE = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), max_size=20)


@given(st.lists(st.tuples(KEY, VALUE), max_size=5), st.integers(0, 999), st.sampled_from(["", "No Messages"]))
def test_round_trip(fields: list[tuple[str, str]], status: int, description: str) -> None:
    headers = Headers(tuple(fields), status, description if status else "")
    assert parse(headers.encode()) == headers


def test_no_responders() -> None:
    assert build((), status=503) == NO_RESPONDERS
    assert parse(NO_RESPONDERS).status == 503


def test_lookup_is_exact() -> None:
    headers = parse(b"NATS/1.0\r\nA: 1\r\na: 2\r\nA:3\r\n\r\n")
    assert headers.fields == (("A", "1"), ("a", "2"), ("A", "3"))
    assert (headers.get("A"), headers.get("a"), headers.get("b")) == ("1", "2", None)


@pytest.mark.parametrize(
    "block",
    [b"", b"HTTP/1.0\r\n\r\n", b"NATS/1.0\r\n", b"NATS/1.0\r\nno colon\r\n\r\n", b"NATS/1.0 abc\r\n\r\n"],
)
def test_no_block(block: bytes) -> None:
    with pytest.raises(HeaderError):
        parse(block)


@pytest.mark.parametrize(("key", "value"), [("", "x"), ("a:b", "x"), ("a\r\n", "x"), ("a", "x\ny")])
def test_what_would_break_a_block(key: str, value: str) -> None:
    with pytest.raises(HeaderError):
        build([(key, value)])


def test_strip() -> None:
    assert strip(b"NATS/1.0\r\n\r\nbody", 12) == b"body"
    with pytest.raises(HeaderError):
        strip(b"abc", 4)
