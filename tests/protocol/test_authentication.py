"""User and password, token, time to CONNECT. Source: auth.go, client.go, test/auth_test.go."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import Broker, msg, wait_until

VIOLATION = b"-ERR 'Authorization Violation'\r\n"
KINDS = {"user": ["--user", "derek", "--pass", "foobar"], "token": ["--auth", "_YZZ22_"]}
RIGHT = {"user": {"user": "derek", "pass": "foobar"}, "token": {"auth_token": "_YZZ22_"}}
WRONG = {
    "user": [
        {},
        {"user": "derek"},
        {"user": "derek", "pass": ""},
        {"user": "derek", "pass": "ZZ"},
        {"user": "derek", "pass": "foobarx"},
        {"user": "Derek", "pass": "foobar"},
        {"user": "", "pass": "foobar"},
        {"auth_token": "foobar"},
    ],
    "token": [
        {},
        {"auth_token": ""},
        {"auth_token": "ZZZ"},
        {"auth_token": "_YZZ22_x"},
        {"user": "_YZZ22_", "pass": ""},
    ],
}


@pytest.fixture(scope="module", params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def guarded(kind: str, workers: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    path: Path = tmp_path_factory.mktemp("guarded")
    with Broker(path, workers=workers, args=KINDS[kind]) as broker:
        yield broker


def test_right(guarded: Broker, kind: str) -> None:
    for _ in range(4):
        client = guarded.client().connect(verbose=True, **RIGHT[kind])
        client.send("SUB a 1\r\n").expect("+OK\r\n")


@pytest.mark.parametrize("number", range(8))
def test_wrong(guarded: Broker, kind: str, number: int) -> None:
    if number >= len(WRONG[kind]):
        pytest.skip("fewer wrong ways for this kind")
    client = guarded.client().send(f"CONNECT {json.dumps({'verbose': True, **WRONG[kind][number]})}\r\n")
    client.expect_closed(VIOLATION)


@pytest.mark.parametrize(
    "data",
    [
        b"PUB foo 2\r\nok\r\n",
        b"SUB foo 1\r\n",
        b"UNSUB 1\r\n",
        b"PING\r\n",
        b"PONG\r\n",
        b"HPUB",
        b"x",
        b"\r\n",
        b"INFO {}\r\n",
        b"+OK\r\n",
    ],
)
def test_anything_before_connect(guarded: Broker, data: bytes) -> None:
    guarded.client().send(data).expect_closed(VIOLATION)


def test_what_follows_a_refused_connect_is_not_done(guarded: Broker, kind: str) -> None:
    inside = guarded.client().connect(**RIGHT[kind]).sub("a")
    guarded.client().send("CONNECT {}\r\nPUB a 1\r\nx\r\n").expect_closed(VIOLATION)
    inside.expect_nothing()


def test_second_connect(guarded: Broker, kind: str) -> None:
    client = guarded.client().connect(verbose=True, **RIGHT[kind])
    client.connect(**RIGHT[kind]).sub("b").pub("b", "x").expect(msg("b", 1, "x"))
    client.send('CONNECT {"user":"derek","pass":"no","auth_token":"no"}\r\n').expect_closed(VIOLATION)


def test_no_connect_in_time(guarded: Broker, kind: str) -> None:
    """Two seconds by default; slow bytes of a CONNECT do not lengthen it, and others are served meanwhile."""
    silent, slow = guarded.client(), guarded.client()
    other = guarded.client().connect(**RIGHT[kind]).sub("c")
    slow.send("CONNECT {")
    slow.socket.settimeout(0.1)
    parts: list[bytes] = []

    def ended() -> bool:
        other.pub("c", "x").expect(msg("c", 1, "x"))
        try:
            slow.send(" ")
            parts.append(slow.socket.recv(4096))
        except TimeoutError:
            return False
        except ConnectionResetError:
            return True
        return not parts[-1]

    wait_until(ended, "the slow connection to be closed")
    assert b"".join(parts) == b"-ERR 'Authentication Timeout'\r\n"
    silent.expect_closed(b"-ERR 'Authentication Timeout'\r\n")


def test_no_time_limit_without_authentication(fresh_broker: Callable[..., Broker]) -> None:
    """A client that has not sent CONNECT is served as it is; the default ping interval has not come."""
    fresh_broker().client().send("SUB a 1\r\n").expect("+OK\r\n").flush()
