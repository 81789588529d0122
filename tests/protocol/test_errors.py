"""Every -ERR text and whether it closes; parse errors come without waiting for a line end.

Source: parser.go, client.go.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness import RawClient, msg, pub

Connect = Callable[..., RawClient]
OnShards = Callable[..., list[RawClient]]
UNKNOWN = b"-ERR 'Unknown Protocol Operation'\r\n"


@pytest.mark.parametrize(
    "data",
    [
        *b"Px PINx POx PONx PUx -x -Ex -ERx +x +Ox Cx COx CONNECx SUx UNSUx Ux Ix INx INFx".split(),
        *b"Hx HPx HPUx HMx A L R M".split(),
        b"\r\n", b"\n", b" ", b"\0", b"GET / HTTP/1.1\r\n", b"RS+ $G foo\r\n", b"LS+ foo\r\n", b"A+ $G\r\n",
        b"MSG foo 1 2\r\nok\r\n", b"RMSG $G foo 2\r\nok\r\n", b"\x16\x03\x01\x02\x00",
        b"*1\r\n$4\r\nPING\r\n",
    ],
)  # fmt: skip
def test_unknown_verb(connect: Connect, data: bytes) -> None:
    connect().send(data).expect_closed(UNKNOWN)


@pytest.mark.parametrize(
    "data",
    [b"PUBS foo 2\r\nok\r\n", b"SUBS foo 1\r\n", b"UNSUB_2\r\n", b"PUB\r\n", b"SUB\r\n", b"HPUBx 1\r\n"],
)
def test_a_verb_is_followed_by_a_blank(connect: Connect, data: bytes) -> None:
    connect(headers=True).send(data).expect_closed(UNKNOWN)


@pytest.mark.parametrize("end", [b"XX", b"X\n", b"\rX", b"\n\r", b"\n"])
def test_a_payload_ends_with_crlf(on_shards: OnShards, subject: str, end: bytes) -> None:
    """A message with another end is not delivered."""
    publisher, receiver, *_ = on_shards()
    receiver.sub(subject)
    publisher.send(f"PUB {subject} 2\r\nok".encode() + end + b"\r\n").expect_closed(UNKNOWN)
    receiver.expect_nothing()


def test_too_short_a_payload_swallows_what_follows(connect: Connect, subject: str) -> None:
    client = connect().send(pub(subject, b"A" * 10000))
    client.send(f"PUB {subject} 10000\r\n".encode() + b"B" * 3371 + b"\r\n" + pub(subject, b"C" * 10000))
    client.expect_closed(UNKNOWN)


def test_what_comes_before_a_bad_verb_is_done_and_what_comes_after_is_not(
    on_shards: OnShards, subject: str
) -> None:
    publisher, receiver, *_ = on_shards()
    receiver.sub(subject)
    publisher.send(pub(subject, "before") + b"ZZZ\r\n" + pub(subject, "after")).expect_closed(UNKNOWN)
    receiver.expect(msg(subject, 1, "before")).expect_nothing()


@pytest.mark.parametrize(
    "line",
    ["PUB foo", "PUB foo bar baz 2", "PUB foo -1", "PUB foo 2x", "PUB foo abc", "PUB foo 1.5", "PUB foo 1e3",
     "PUB foo +2", "PUB foo 0x10", "PUB foo 18446744073709551615123", "PUB foo " + "3" * 64,
     "PUB foo 9999999999",
     "PUB  ", "PUB 5",
     "SUB  ", "SUB foo", "SUB foo a b c", "-ERR 'x'"],
)  # fmt: skip
def test_bad_arguments_close_without_words(connect: Connect, line: str) -> None:
    connect().send(line + "\r\n").expect_closed()


@pytest.mark.parametrize("line", ["+OK", "INFO {}", 'INFO {"ldm":true}'])
def test_a_servers_words_from_a_client_are_taken_silently(connect: Connect, line: str) -> None:
    connect().send(line + "\r\n").expect_nothing()


def test_invalid_subject_keeps_the_connection(connect: Connect, subject: str) -> None:
    client = connect().send("SUB foo..bar 1\r\n" * 50).expect(b"-ERR 'Invalid Subject'\r\n" * 50)
    client.sub(subject).pub(subject, "x").expect(msg(subject, 1, "x"))


def test_an_error_is_the_last_word_after_all_that_was_due(connect: Connect, subject: str) -> None:
    client = connect().sub(subject)
    client.send(pub(subject, "x" * 100) * 200 + b"PING\r\nZZZ\r\n")
    client.expect_closed(msg(subject, 1, "x" * 100) * 200 + b"PONG\r\n" + UNKNOWN)
