"""+OK in verbose mode, subject checks in pedantic mode.

Source: client.go, test/verbose_test.go, pedantic_test.go.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness import RawClient, msg

Connect = Callable[..., RawClient]
OK = b"+OK\r\n"
BAD_SUBJECTS = ["{}.", ".{}", "{}..b", ".{}.", "{}.>.b", "{}.*..b"]


def test_each_verb_is_answered_once(connect: Connect, subject: str) -> None:
    client = connect(verbose=True)
    for line in (
        f"SUB {subject} 1\r\n",
        f"SUB {subject} 1\r\n",
        f"PUB {subject}x 1\r\nx\r\n",
        "UNSUB 1 5\r\n",
        "UNSUB 1\r\n",
        "UNSUB 9\r\n",
    ):
        client.send(line).expect(OK)
    client.send('CONNECT {"verbose":true}\r\n').expect(OK)
    client.send("PONG\r\n").flush()


def test_header_publish(connect: Connect, subject: str) -> None:
    connect(verbose=True, headers=True).send(f"HPUB {subject} 12 14\r\nNATS/1.0\r\n\r\nok\r\n").expect(OK)


def test_answers_and_own_message(connect: Connect, subject: str) -> None:
    client = connect(verbose=True).send(f"SUB {subject} 1\r\n").expect(OK)
    client.pub(subject, "x").expect_set(OK, msg(subject, 1, "x"))
    client.expect_nothing()


def test_answers_come_in_the_order_of_the_verbs(connect: Connect, subject: str) -> None:
    client = connect(verbose=True)
    client.send(f"SUB {subject} 1\r\nPING\r\nSUB {subject}..x 2\r\nUNSUB 1\r\nPING\r\n")
    client.expect(OK + b"PONG\r\n-ERR 'Invalid Subject'\r\n" + OK + b"PONG\r\n")


def test_refusals_have_no_ok(connect: Connect) -> None:
    connect(verbose=True).send("SUB foo..bar 1\r\n").expect("-ERR 'Invalid Subject'\r\n").flush()
    connect(verbose=True).send("PUB foo 1048577\r\n").expect_closed(b"-ERR 'Maximum Payload Violation'\r\n")
    connect(verbose=True).send("ZZZ\r\n").expect_closed(b"-ERR 'Unknown Protocol Operation'\r\n")


@pytest.mark.parametrize("pedantic", [False, True])
@pytest.mark.parametrize("form", BAD_SUBJECTS)
def test_bad_sub(connect: Connect, subject: str, form: str, pedantic: bool) -> None:
    """SUB is checked in either mode; the connection stays and the sid is free."""
    client = (
        connect(pedantic=pedantic)
        .send(f"SUB {form.format(subject)} 1\r\n")
        .expect("-ERR 'Invalid Subject'\r\n")
    )
    client.sub(subject, 1).pub(subject, "x").expect(msg(subject, 1, "x"))


@pytest.mark.parametrize("form", [*BAD_SUBJECTS, "{}.*", "{}.>", "*", ">"])
def test_bad_pub_when_pedantic(connect: Connect, subject: str, form: str) -> None:
    client = connect(pedantic=True).send(f"PUB {form.format(subject)} 2\r\nok\r\n")
    client.expect("-ERR 'Invalid Publish Subject'\r\n").flush()


def test_bad_pub_when_verbose_too(connect: Connect, subject: str) -> None:
    client = connect(verbose=True, pedantic=True).send(f"PUB {subject}.* 2\r\nok\r\n")
    client.expect(b"-ERR 'Invalid Publish Subject'\r\n" + OK).expect_nothing()


def test_bad_hpub_when_pedantic(connect: Connect, subject: str) -> None:
    client = connect(pedantic=True, headers=True).send(f"HPUB {subject}.* 12 14\r\nNATS/1.0\r\n\r\nok\r\n")
    client.expect("-ERR 'Invalid Publish Subject'\r\n").flush()


@pytest.mark.parametrize("form", BAD_SUBJECTS)
def test_bad_pub_when_not_pedantic_is_no_error(connect: Connect, subject: str, form: str) -> None:
    connect().pub(form.format(subject), "ok").expect_nothing()


def test_good_subjects_when_pedantic(connect: Connect, subject: str) -> None:
    client = connect(pedantic=True).sub(subject + ".*").sub(subject + ".foo*bar", 2)
    client.pub(subject + ".a", "x").expect(msg(subject + ".a", 1, "x")).expect_nothing()
