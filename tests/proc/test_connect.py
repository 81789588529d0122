"""The JSON of CONNECT. Expectations: Go's encoding/json with client.go ClientOpts."""

from __future__ import annotations

import pytest

from shardbroker.shard.connect import DEFAULTS, ConnectError, parse_connect


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ('{"verbose":false}', "verbose", False),
        ('{"VERBOSE":false}', "verbose", False),
        ('{"verbose":false,"verbose":true,"Verbose":false}', "verbose", False),
        ('{"verbose":null}', "verbose", True),
        ("null", "verbose", True),
        ("{}", "echo", True),
        ('{"pass":"secret"}', "password", "secret"),
        ('{"password":"secret"}', "password", ""),
        ('{"protocol":-1}', "protocol", -1),
        ('{"protocol":9223372036854775807}', "protocol", 2**63 - 1),
        ('{"unknown":[1e999,{"a":[]}],"name":"n"}', "name", "n"),
        ('{"name":"\\ud800x"}', "name", "�x"),
        (' \t{"import":{},"export":null,"name":"n"} ', "name", "n"),
        ('{"x":' + "[" * 2000 + '"]"' + "]" * 2000 + ',"name":"n"}', "name", "n"),
    ],
)
def test_fields(text: str, field: str, value: object) -> None:
    assert getattr(parse_connect(text.encode()), field) == value


def test_what_is_not_utf8_is_replaced() -> None:
    assert parse_connect(b'{"name":"a\xff"}').name == "a�"


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "{bad}", "[]", "5", '"x"', "true", "NaN", '{"a":NaN}', '{"a":Infinity}', "{} {}", '{"a":1,}',
        '{"verbose":1}', '{"verbose":"true"}', '{"name":1}', '{"protocol":1.0}', '{"protocol":true}', '{"protocol":"1"}',
        '{"protocol":9223372036854775808}', '{"user":[]}', '{"import":[]}', '{"name":"a\nb"}', '{"name":"\\x"}',
        "{'name':'x'}", "[" * 4000, '{"a":' * 5000, "]", '{"a":[[1,]]}', '{"a":' + "[" * 10001 + "]" * 10001 + "}",
    ],
)  # fmt: skip
def test_errors(text: str) -> None:
    with pytest.raises(ConnectError) as error:
        parse_connect(text.encode())
    assert "\n" not in str(error.value)


def test_a_second_connect_changes_what_it_names() -> None:
    first = parse_connect(b'{"verbose":false,"user":"u","pass":"p","headers":true}')
    second = parse_connect(b'{"pedantic":false,"user":"v"}', first)
    assert (second.verbose, second.pedantic, second.user, second.password, second.headers) == (
        False, False, "v", "p", True,
    )  # fmt: skip
    assert parse_connect(b"{}", DEFAULTS) is DEFAULTS
