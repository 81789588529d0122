"""Subject transforms. Source: ADR-30, nats-server's subject_transform.go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbroker.transform import Transform, TransformError, check_mapping, fnv1a, tokenize, untokenize


@pytest.mark.parametrize(
    ("source", "destination", "subject", "result"),
    [
        ("foo", "bar", "foo", "bar"),
        ("foo", "bar", "foz", None),
        ("foo.*.*", "req.$2.$1", "foo.a.b", "req.b.a"),
        ("foo.*.*", "req.{{wildcard(2)}}.{{ Wildcard( 1 ) }}", "foo.a.b", "req.b.a"),
        ("foo.*", "$JS.$1.x$1", "foo.a", "$JS.a.x$1"),
        ("foo.>", "bar.>", "foo.a.b", "bar.a.b"),
        (">", "bar.>", "a.b", "bar.a.b"),
        ("", ">", "a.b", "a.b"),
        ("a.*.>", "b.$1.x.>", "a.1.2.3", "b.1.x.2.3"),
        ("*.*", "{{splitFromLeft(1,3)}}.{{splitfromright(2,2)}}", "12345.67890", "123.45.678.90"),
        ("*", "{{splitFromLeft(1,9)}}", "12345", "12345"),
        ("*", "{{sliceFromLeft(1,3)}}", "1234567890", "123.456.789.0"),
        ("*", "{{SliceFromRight(1,3)}}", "1234567890", "1.234.567.890"),
        ("*", "{{split(1,-)}}", "-abc-def--ghi-", "abc.def.ghi"),
        ("*", "{{left(1,2)}}.{{right(1,2)}}", "abcde", "ab.de"),
        ("*", "{{left(1,9)}}.{{right(1,0)}}", "abc", "abc.abc"),
        ("*", "bar.{{partition(10,1)}}", "foo", "bar.3"),
        ("*.*", "bar.{{partition(10,1,2)}}", "foo.bar", f"bar.{fnv1a(b'foobar') % 10}"),
        ("foo.bar", "x.{{partition(3)}}", "foo.bar", f"x.{fnv1a(b'foo.bar') % 3}"),
        ("*", "x.{{partition(0,1)}}.{{random(0)}}", "a", "x.0.0"),
        ("*", "x.{{random(1)}}", "a", "x.0"),
        ("foo.*", "bar", "foo.a.b", None),
        ("foo.*", "bar", "foo.*", None),
    ],
)
def test_apply(source: str, destination: str, subject: str, result: str | None) -> None:
    assert Transform(source, destination).apply(subject) == result


def test_the_hash_is_fnv_1a() -> None:
    assert [fnv1a(text) for text in (b"", b"a", b"foobar")] == [0x811C9DC5, 0xE40C292C, 0xBF9CF968]


@pytest.mark.parametrize(
    ("source", "destination", "message"),
    [
        ("foo..", "bar", "invalid subject"),
        ("foo", "b..r", "invalid subject"),
        ("foo.*", "bar.*", "invalid subject"),
        ("foo.>", "bar", "invalid subject"),
        ("foo", "bar.>", "invalid subject"),
        ("foo.*", "bar.$2", "wildcard index out of range"),
        ("foo", "bar.$1", "wildcard index out of range"),
        ("foo.*", "bar.{{wildcard(2)}}", "wildcard index out of range"),
        ("foo.*", "bar.{{wildcard()}}", "not enough arguments"),
        ("foo.*", "bar.{{wildcard(1,2)}}", "too many arguments"),
        ("foo.*", "bar.{{wildcard(a)}}", "argument is invalid"),
        ("foo.*", "bar.{{partition(2147483648)}}", "argument is invalid"),
        ("foo.*", "bar.{{split(1)}}", "not enough arguments"),
        ("foo.*", "bar.{{split(1,-,x)}}", "too many arguments"),
        ("foo.*", "bar.{{sliceFromLeft(1,x)}}", "argument is invalid"),
        ("foo.*", "bar.{{random(1,2)}}", "not enough arguments"),
        ("foo.*", "bar.{{unknown(1)}}", "unknown function"),
    ],
)
def test_what_cannot_be(source: str, destination: str, message: str) -> None:
    with pytest.raises(TransformError, match=message):
        Transform(source, destination)


def test_strict_ones_are_reversible() -> None:
    there = Transform("foo.*.*", "bar.$2.$1", strict=True)
    assert there.reverse().apply("bar.b.a") == "foo.a.b"
    with pytest.raises(TransformError, match="not using all of the token wildcard"):
        Transform("foo.*.*", "bar.$2", strict=True)
    with pytest.raises(TransformError, match="only mapping function allowed"):
        Transform("foo.*", "bar.{{left(1,1)}}", strict=True)


def test_mappings_take_no_white_space_and_nothing_behind_the_rest() -> None:
    for destination in ("a b", "a.>.b", "", "a..b", "{{nothing(1)}}"):
        with pytest.raises(TransformError):
            check_mapping("foo", destination)
    assert check_mapping("foo.*", "bar.{{left(1,1)}}").apply("foo.xy") == "bar.x"


TOKENS = st.text("abcdef0", min_size=1, max_size=12)


@given(st.lists(st.one_of(st.just("*"), TOKENS), min_size=1, max_size=6), st.data())
def test_there_and_back(pattern: list[str], data: st.DataObject) -> None:
    source = ".".join(pattern)
    count = pattern.count("*")
    order = data.draw(st.permutations(range(1, count + 1)))
    destination = ".".join(["x", *(f"${number}" for number in order), "y"])
    there = Transform(source, destination, strict=True)
    subject = ".".join(data.draw(TOKENS) if token == "*" else token for token in pattern)
    moved = there.apply(subject)
    assert moved is not None
    assert there.reverse().apply(moved) == subject


@given(TOKENS, st.integers(-3, 15))
def test_cutting_keeps_the_characters(token: str, number: int) -> None:
    for name in ("splitFromLeft", "splitFromRight", "sliceFromLeft", "sliceFromRight"):
        cut = Transform("*", f"{{{{{name}(1,{number})}}}}").apply(token)
        assert cut is not None
        assert cut.replace(".", "") == token
        assert all(cut.split("."))


def test_place_holders() -> None:
    assert tokenize("foo.*.bar.*.>") == "foo.$1.bar.$2.>"
    assert untokenize("foo.$2.{{wildcard(1)}}.$x.>") == ("foo.*.*.$x.>", ["$2", "{{wildcard(1)}}"])
