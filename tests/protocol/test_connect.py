"""CONNECT: defaults, options, refusals. Source: client.go processConnect."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness import RawClient, msg

Connect = Callable[..., RawClient]


@pytest.mark.parametrize(
    "line",
    [
        b"CONNECT {}\r\n",
        b"connect {}\r\n",
        b"CONNECT{}\r\n",
        b"CONNECT   {}\r\n",
        b"CONNECT\t{}\r\n",
        b"CONNECT {}  \r\n",
        b'CONNECT {"verbose":true,"tls_required":true,"user":"a","pass":"b","auth_token":"c"}\r\n',
        b'CONNECT {"name":"caf\xc3\xa9","lang":"x","protocol":1,"echo":true,"unknown":[1,{"a":null}]}\r\n',
        b'CONNECT {"VERBOSE":true}\r\n',
        b'CONNECT {"verbose":false,"verbose":true}\r\n',
        b'CONNECT {"verbose":null}\r\n',
        b"CONNECT {}\n",
    ],
)
def test_taken_and_answered_by_ok(connect: Connect, line: bytes) -> None:
    """Verbose is the default; unknown fields, case of names and repeated names follow Go's JSON decoder."""
    connect(None).send(line).expect("+OK\r\n").flush()


def test_not_verbose_is_answered_by_nothing(connect: Connect) -> None:
    connect(None).send(b'CONNECT {"verbose":false}\r\n').expect_nothing()


def test_options_keep_their_values_when_a_second_connect_leaves_them_out(connect: Connect) -> None:
    client = connect(verbose=True)
    client.send('CONNECT {"verbose":false}\r\nCONNECT {"pedantic":true}\r\nSUB a 1\r\n').expect_nothing()


@pytest.mark.parametrize(
    "line",
    [
        b"CONNECT {bad}\r\n",
        b"CONNECT \r\n",
        b"CONNECT x\r\n",
        b"CONNECTED {}\r\n",
        b'CONNECT {"verbose":"yes"}\r\n',
        b'CONNECT {"protocol":1.5}\r\n',
        b'CONNECT {"name":1}\r\n',
        b'CONNECT {"verbose":NaN}\r\n',
        b'CONNECT {"verbose":true\r\n',
        b'CONNECT {"verbose":true}}\r\n',
        b"CONNECT [1]\r\n",
    ],
)
def test_bad_json_closes_without_words(connect: Connect, line: bytes) -> None:
    connect(None).send(line).expect_closed()


@pytest.mark.parametrize("line", [b"CONNECT null\r\n"])
def test_json_null_changes_nothing(connect: Connect, line: bytes) -> None:
    connect(None).send(line).expect("+OK\r\n")


@pytest.mark.parametrize("protocol", [-1, 2, 100])
def test_unknown_protocol_number(connect: Connect, protocol: int) -> None:
    client = connect(None).send(f'CONNECT {{"verbose":false,"protocol":{protocol}}}\r\n')
    client.expect_closed(b"-ERR 'invalid client protocol'\r\n")


@pytest.mark.parametrize("option", ['"account":"ABC"', '"new_account":true'])
def test_account_by_name_is_refused(connect: Connect, option: str) -> None:
    client = connect(None).send(f'CONNECT {{"verbose":false,{option}}}\r\n')
    client.expect_closed(b"-ERR 'Authorization Violation'\r\n")


def test_no_responders_needs_headers(connect: Connect) -> None:
    client = connect(None).send('CONNECT {"verbose":false,"no_responders":true}\r\n')
    client.expect_closed(b"-ERR 'no responders requires headers support'\r\n")


def test_second_connect_changes_verbose_and_echo(connect: Connect, subject: str) -> None:
    client = connect(verbose=True)
    client.send('CONNECT {"verbose":false,"echo":true}\r\n')
    client.sub(subject).pub(subject, "a").expect(msg(subject, 1, "a"))
    client.send('CONNECT {"echo":false}\r\n').flush()
    client.pub(subject, "b").expect_nothing()


@pytest.mark.parametrize("verb", ["SUB {0} 1\r\n", "PUB {0} 1\r\nx\r\n", "UNSUB 1\r\n"])
def test_verbs_before_connect_are_served_verbosely(connect: Connect, subject: str, verb: str) -> None:
    connect(None).send(verb.format(subject)).expect("+OK\r\n").flush()


def test_no_echo_holds_for_all_own_subscriptions_and_no_others(connect: Connect, subject: str) -> None:
    other = connect().sub(subject + ".>", 9)
    mute = connect(echo=False).sub(subject + ".a", 1).sub(subject + ".*", 2).sub(subject + ".a", 3, "q")
    mute.pub(subject + ".a", "x").expect_nothing()
    other.expect(msg(subject + ".a", 9, "x"))
    other.pub(subject + ".a", "y")
    mute.expect_set(*(msg(subject + ".a", sid, "y") for sid in (1, 2, 3)))


def test_long_but_legal_connect(connect: Connect) -> None:
    connect(None).connect(name="n" * 3000, lang="l" * 500)


def test_deeply_nested_value_of_an_unknown_field(connect: Connect) -> None:
    depth = 500
    client = connect(None).send('CONNECT {"x":' + "[" * depth + "]" * depth + "}\r\n")
    client.expect("+OK\r\n").flush()
