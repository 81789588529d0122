"""The grammar of nats.conf: examples from nats-server's conf/parse_test.go, exact places of errors, round trips."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbroker.control.config.document import Entry, digest, parse_file, parse_text
from shardbroker.errors import ConfigError


def plain(value: Any) -> Any:
    if isinstance(value, Entry):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return value


def read(text: str, **environment: str) -> Any:
    return plain(parse_text(text, "f.conf", environment))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("\n\n  # nothing\n// here\n", {}),
        ("foo='1'; bar=2.2; baz=true; boo=22", {"foo": "1", "bar": 2.2, "baz": True, "boo": 22}),
        ("foo:1\nbar 2\nbaz=3", {"foo": 1, "bar": 2, "baz": 3}),
        ("foo = yes\nbar = OFF\nbaz = on", {"foo": True, "bar": False, "baz": True}),
        (
            "a: 8k, b: 8kb, c: 1m, d: 1MiB, e: 2g, f: 1Ki",
            {"a": 8000, "b": 8192, "c": 10**6, "d": 2**20, "e": 2 * 10**9, "f": 1024},
        ),
        ("a: -1; b: -1k; c: -0.5", {"a": -1, "b": -1000, "c": -0.5}),
        (
            "a: 127.0.0.1; b: 127.0.0.1:-1; c: 10.0.0.1:4222",
            {"a": "127.0.0.1", "b": "127.0.0.1:-1", "c": "10.0.0.1:4222"},
        ),
        ("a: 2m3s\nb: 200ms\nc: 1h", {"a": "2m3s", "b": "200ms", "c": "1h"}),
        ("d: 2016-05-04T18:53:41Z", {"d": datetime(2016, 5, 4, 18, 53, 41, tzinfo=UTC)}),
        ("listen: nats://u:p@h:4222/x#y // no", {"listen": "nats://u:p@h:4222/x#y"}),
        ("store: /var/x/../y  # c", {"store": "/var/x/../y"}),
        ("a = #no comment", None),
        ("a: #word\nb: //word", {"a": "#word", "b": "//word"}),
        ('a: "x # y // z" # c', {"a": "x # y // z"}),
        (r'a: "\t\n\r\"\\\x41"', {"a": '\t\n\r"\\A'}),
        (r"a: '\t'", {"a": r"\t"}),
        (r"a: b\\c", {"a": "b\\c"}),
        ("'a b': 1\n\"c:d\" 2", {"a b": 1, "c:d": 2}),
        ("a {\n  b: 1\n  c { d = x }\n}\n", {"a": {"b": 1, "c": {"d": "x"}}}),
        ("a\n{\n}", {"a": {}}),
        ("a: {b: 1, c: 2}\nd: {\n}", {"a": {"b": 1, "c": 2}, "d": {}}),
        ("a: [1, 2, 'x'\n3 # c\n\n // c\n y]", {"a": [1, 2, "x", 3, "y"]}),
        ("a [\n nats://a:1\n nats://b:2,\n]", {"a": ["nats://a:1", "nats://b:2"]}),
        ("a: [[1], [ ], {b: [2]}]", {"a": [[1], [], {"b": [2]}]}),
        ("a: (\nline 1\n  line) 2\n)\nb: 1", {"a": "\nline 1\n  line) 2\n", "b": 1}),
        ("a: $2a$11$abc./", {"a": "$2a$11$abc./"}),
        ("a: 1\na: 2", {"a": 2}),
        ('{ "host": "x", "n": {"a": [1,2]}, }\n', {"host": "x", "n": {"a": [1, 2]}}),
        ("foo.*: 1\n$SYS: 2\nbar.>: 3", {"foo.*": 1, "$SYS": 2, "bar.>": 3}),
        ("include: 3", {"include": 3}),
        ("a: 1\r\nb: 2\r\n", {"a": 1, "b": 2}),
        ("a: föö", {"a": "föö"}),
        ("a: x=y", {"a": "x=y"}),
        ('a: p@ss{w"rd', {"a": 'p@ss{w"rd'}),
    ],
)
def test_meaning(text: str, expected: Any) -> None:
    if expected is None:
        expected = {"a": "#no"}
        with pytest.raises(ConfigError):
            read(text)
        text = "a = #no"
    assert read(text) == expected


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("= 3", "1:1", "Unexpected key separator '='"),
        ("a: 1\n  : 2", "2:3", "Unexpected key separator ':'"),
        ("a:\n3", "1:3", "Expected value but found new line"),
        ("a", "1:2", "Expected value"),
        ("port: 1\nfoo", "2:4", "Expected value"),
        ("a 1 2", "1:5", "Expected a top-level value to end"),
        ("a {} b {}", "1:6", "Expected a top-level value to end"),
        ("\n\na: [1 2]", "3:7", "Expected an array value terminator"),
        ("a: {b: 1\n   c: 2 d: 3}", "2:9", "Expected a map value terminator"),
        ("a {\n b: 1\n", "3:1", "terminator"),
        ("a {", "1:4", "Unexpected EOF"),
        ("a: [1,\n2", "2:2", "Expected an array value terminator"),
        ("a: {b: [1,\n 2 }", "2:4", "Expected an array value terminator"),
        ('a: "x\ny', "1:4", "Unexpected EOF"),
        ("a: 'x", "1:4", "Unexpected EOF"),
        ("a: (\nx", "1:4", "Unexpected EOF"),
        ('a: "x\\q"', "1:6", "Invalid escape character 'q'"),
        ('b: 1\na: "x\n\\q"', "3:1", "Invalid escape character 'q'"),
        ("a: -x", "1:5", "Expected a digit but got 'x'"),
        ("a: 99999999999999999999", "1:4", "out of the range"),
        ("a: 10e", "1:4", "out of the range"),
        ("a: 2016-13-04T18:53:41Z", "1:4", "DateTime"),
        ("a: 1\nb: $nothing", "2:4", "variable reference for 'nothing' on line 2 can not be found"),
        ("a: [1,2\n}", "2:1", "Expected an array value or its end"),
        ("include 'no-such-file'", "1:1", "error parsing include file 'no-such-file'"),
        ("include [a]", "1:1", "include needs the name"),
    ],
)  # fmt: skip
def test_malformed(text: str, place: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_text(text, "dir/f.conf", {})
    line = place.split(":")[0]
    assert str(caught.value).startswith(f"Parse error on line {line}: '")
    assert f"(dir/f.conf:{place})" in str(caught.value)
    assert words in str(caught.value)


def test_places_are_those_of_keys_and_items() -> None:
    entries = parse_text('a: 1\n  "bc" {\n\td = [x,\n {e 1}]\n}\n', "f")
    assert entries["a"].place == "f:1:1"
    assert entries["bc"].place == "f:2:4"
    inner = entries["bc"].value
    assert isinstance(inner, dict)
    assert inner["d"].place == "f:3:2"
    items = inner["d"].value
    assert isinstance(items, list)
    assert items[0].place == "f:3:7"
    inmost = items[1].value
    assert isinstance(inmost, dict)
    assert inmost["e"].place == "f:4:3"


# -- variables --


def test_variables_come_from_the_nearest_block_then_the_environment() -> None:
    text = "x: 1\na { x: 2; b: $x; c { d: $x, e: $ENV } }\nf: $x\ng: $LIST"
    assert read(text, ENV="200ms", LIST="[1, two]", x="no") == {
        "x": 1, "a": {"x": 2, "b": 2, "c": {"d": 2, "e": "200ms"}}, "f": 1, "g": [1, "two"],
    }  # fmt: skip


def test_a_variable_must_come_before_its_use() -> None:
    with pytest.raises(ConfigError, match="can not be found"):
        read("a: $b\nb: 1")


def test_variables_in_the_environment_may_name_others_but_not_in_a_circle() -> None:
    assert read("a: $X", X="$Y", Y="5") == {"a": 5}
    with pytest.raises(ConfigError, match="cycle for 'X'"):
        read("a: $X", X="$Y", Y="$X")


def test_a_bare_word_keeps_the_functions_of_mappings() -> None:
    text = "m { a.* b.{{wildcard(1)}}\n c.* d.{{partition(3,1)}}}\nl: [x.{{split(1,-)}}, {d: y.{{a}}}]"
    assert read(text) == {
        "m": {"a.*": "b.{{wildcard(1)}}", "c.*": "d.{{partition(3,1)}}"},
        "l": ["x.{{split(1,-)}}", {"d": "y.{{a}}"}],
    }


def test_a_quoted_dollar_is_text() -> None:
    assert read("a: '$X'\nb: \"$Y\"") == {"a": "$X", "b": "$Y"}


def test_use_is_noted() -> None:
    entries = parse_text("p: 1\nport: $p", "f")
    assert entries["p"].used
    assert not entries["port"].used


# -- includes --


def test_includes_are_relative_to_their_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "main.conf").write_text("a: 1\ninclude ./sub/one.conf\nm { include 'sub/two.conf' }\n")
    (tmp_path / "sub" / "one.conf").write_text("b: 2\ninclude two.conf # beside it\n")
    (tmp_path / "sub" / "two.conf").write_text("c: 3\n")
    entries = parse_file(str(tmp_path / "main.conf"))
    assert plain(entries) == {"a": 1, "b": 2, "c": 3, "m": {"c": 3}}
    assert entries["c"].place == f"{tmp_path}/sub/two.conf:1:1"


def test_a_file_that_includes_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.conf"
    path.write_text("include a.conf\n")
    with pytest.raises(ConfigError, match="nested too deeply"):
        parse_file(str(path))


def test_a_mistake_in_an_included_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "a.conf").write_text("\ninclude b.conf\n")
    (tmp_path / "b.conf").write_text("\n\n b: [\n")
    with pytest.raises(ConfigError, match=r"b\.conf:4:1.*a\.conf:2:1"):
        parse_file(str(tmp_path / "a.conf"))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"open .*none: no such file or directory"):
        parse_file(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="no file can have this name"):
        read(r'include "a\x00b"')


# -- laws --

JSON = st.recursive(
    st.one_of(
        st.booleans(), st.integers(-(2**63), 2**63 - 1), st.text("ab9é\\\"'#/{}[]()$ \n\t,;:=", max_size=12)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text("abc_.*>$-", min_size=1, max_size=6), inner, max_size=4),
    ),
    max_leaves=12,
)


def escaped(text: str) -> str:
    """A double-quoted string in this language: of JSON's escapes it has only some."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def written(value: Any, separator: str) -> str:
    if isinstance(value, dict):
        return "{" + separator.join(f"{escaped(k)}: {written(v, separator)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + separator.join(written(v, separator) for v in value) + "]"
    return escaped(value) if isinstance(value, str) else json.dumps(value)


@given(
    st.dictionaries(st.text("abc_", min_size=1, max_size=6), JSON, max_size=5),
    st.sampled_from([",", "\n", ", \n\t", " # c\n"]),
)
def test_what_is_written_is_read_again(value: dict[str, Any], separator: str) -> None:
    assert read(written(value, separator)) == value
    lines = "\n".join(f"{k} {written(v, separator)}" for k, v in value.items())
    assert read(lines) == value


@given(st.text("ab:=,;{}[]\"'()#/$\\ \n\t-1.k", max_size=30))
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    said = "Parse error on line 1: '' (f:1:1)"
    try:
        parse_text(text, "f", {})
    except ConfigError as error:
        said = str(error)
    assert re.search(r"^Parse error on line (\d+): '[\s\S]*' \(f:\d+:\d+\)", said)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("port: -1\n", "7ea4cc5c6864139d814ce940a40ee6546b7ac5285eec3c390a4ce11e34dc1102"),
        ("port: 14999\n", "863d2fb90b76abd8b0ef70f512332b7aea1c3145b330f6f8dc2d30ccbe2c0fab"),
        (
            "host: 127.0.0.1\nport: -1\nhttp: 127.0.0.1:-1\nleafnodes {\n listen: 127.0.0.1:-1\n}\nserver_tags: [\n foo:bar\n"
            " baz\n]\nwebsocket {\n port: -1\n no_tls: true\n}\nports_file_dir: /run/x\n",
            "a2287a6f03dba581cbbab75b6f5c17896c516f8a55faea4ff15f0b95ef343165",
        ),
    ],
)
def test_the_digest_is_nats_servers(text: str, expected: str) -> None:
    assert digest(parse_text(text, "f")) == f"sha256:{expected}"
