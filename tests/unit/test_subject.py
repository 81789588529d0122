"""The subject grammar: examples from nats-server's sublist_test.go, and laws that hold for all subjects."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbroker.subject import (
    collides,
    has_wildcard,
    is_literal_subject,
    is_subset,
    is_valid_subject,
    matches,
)

TOKENS = st.sampled_from(["a", "b", "*"])
LITERALS = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join)
PATTERNS = st.builds(
    lambda tokens, rest: ".".join([*tokens, ">"] if rest else tokens),
    st.lists(TOKENS, min_size=1, max_size=4),
    st.booleans(),
)
ALL_LITERALS = [".".join(t) for n in range(1, 7) for t in itertools.product("abc", repeat=n) if n < 5] + [
    "a.a.a.a.a.a"
]


@pytest.mark.parametrize(
    ("subject", "valid"),
    [
        ("foo", True), (".foo", False), ("foo.", False), ("foo..bar", False), ("foo.bar.*", True), ("foo.bar.>", True),
        ("*", True), (">", True), ("foo*", True), ("foo**", True), ("foo.>.bar", False), (">.bar", False), ("", False),
        (".", False), ("foo.b>ar", True), ("foo. bar", False), ("foo\t.bar", False), ("a.\n", False), ("\f", False),
        ("föö", True),
    ],
)  # fmt: skip
def test_valid(subject: str, valid: bool) -> None:
    assert is_valid_subject(subject) is valid


@pytest.mark.parametrize(
    ("subject", "literal"),
    [
        ("foo", True), (".foo", False), ("foo..bar", False), ("foo.bar.*", False), (">", False), ("*", False),
        ("foo*.bar", True), ("foo.b>ar", True), (">>", True), ("", False),
    ],
)  # fmt: skip
def test_literal(subject: str, literal: bool) -> None:
    assert is_literal_subject(subject) is literal


@pytest.mark.parametrize(
    ("pattern", "subject", "does"),
    [
        ("foo", "foo", True), ("foo", "bar", False), ("*", "foo", True), ("*", "foo.bar", False), (">", "foo", True),
        (">", "foo.bar", True), ("foo.>", "foo.bar", True), ("foo.>", "foo.bar.bar", True), ("foo.>", "foo", False),
        ("*.>", "foo", False), ("stats.>", "stats.test.foos", True), ("stats.test.*.*", "stats.test.foos", False),
        ("foo.bar", "foo", False), ("*bar", "*bar", True), ("*bar", "foobar", False), ("foo*", "foo*", True),
    ],
)  # fmt: skip
def test_matches(pattern: str, subject: str, does: bool) -> None:
    assert matches(pattern, subject) is does


@pytest.mark.parametrize(
    ("one", "other", "do"),
    [
        ("foo.*", "foo.*.bar.>", False), ("foo.*.bar.>", "foo.>", True), ("foo.*", "*.bar", True),
        ("foo.*.22", "foo.bar.22", True), ("foo", "foo", True), ("foo.>", "foo", False), ("*.a", "b.*", True),
        ("a.>", "*.*.c", True), ("a.*", "b.>", False),
    ],
)  # fmt: skip
def test_collides(one: str, other: str, do: bool) -> None:
    assert collides(one, other) is do
    assert collides(other, one) is do


@given(PATTERNS, LITERALS)
def test_a_literal_collides_as_it_matches(pattern: str, subject: str) -> None:
    assert collides(pattern, subject) == matches(pattern, subject) == is_subset(subject, pattern)


@given(PATTERNS, PATTERNS)
def test_collision_means_a_common_subject(one: str, other: str) -> None:
    common = any(matches(one, s) and matches(other, s) for s in ALL_LITERALS)
    if common:
        assert collides(one, other)
    if is_subset(one, other):
        assert all(matches(other, s) for s in ALL_LITERALS if matches(one, s))


@given(st.text(alphabet="a.*> \t", max_size=8))
def test_validity(subject: str) -> None:
    if is_valid_subject(subject):
        assert is_literal_subject(subject) is not has_wildcard(subject)
        assert matches(subject, subject) or has_wildcard(subject)
        assert matches(">", subject)
