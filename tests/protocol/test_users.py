"""Users with passwords, hashes and nkeys over the wire, no_auth_user, and reloads of who may come in."""

from __future__ import annotations

import base64
import json
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from harness import Broker, RawClient, msg, wait_until
from shardbroker.auth import nkey

VIOLATION = b"-ERR 'Authorization Violation'\r\n"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
USER_KEY = nkey.public_text("user", KEY.public_key().public_bytes_raw())
HASH = bcrypt.hashpw(b"s3cret", bcrypt.gensalt(4)).decode()

CONFIG = f"""
authorization {{
  users = [
    {{ user: alice, password: wonder }}
    {{ user: bob, password: {HASH.replace("$2b$", "$2a$")} }}
    {{ user: web, password: w, allowed_connection_types: [WEBSOCKET] }}
    {{ nkey: {USER_KEY} }}
  ]
}}
"""


@pytest.fixture(scope="module")
def users(workers: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Broker(tmp_path_factory.mktemp("users"), workers=workers, config=CONFIG) as broker:
        yield broker


def signature(client: RawClient) -> str:
    return base64.urlsafe_b64encode(KEY.sign(client.info["nonce"].encode())).rstrip(b"=").decode()


def try_to_connect(client: RawClient, **options: Any) -> RawClient:
    return client.send(f"CONNECT {json.dumps({'verbose': False, **options})}\r\nPING\r\n")


@pytest.mark.parametrize(("user", "password"), [("alice", "wonder"), ("bob", "s3cret")])
def test_right(users: Broker, user: str, password: str) -> None:
    for _ in range(3):
        # What comes behind the CONNECT in the same write is carried out when the password has been compared.
        client = try_to_connect(users.client(), user=user, **{"pass": password})
        client.send("SUB a 1\r\nPUB a 2\r\nhi\r\n").expect(b"PONG\r\n").expect(msg("a", "1", b"hi"))


@pytest.mark.parametrize(
    "said",
    [
        {}, {"user": "alice"}, {"user": "alice", "pass": "s3cret"}, {"user": "bob", "pass": "wonder"},
        {"user": "bob", "pass": HASH}, {"user": "bob"}, {"user": "web", "pass": "w"}, {"user": "x", "pass": "wonder"},
        {"auth_token": "wonder"}, {"nkey": USER_KEY}, {"nkey": USER_KEY, "sig": "AAAA"}, {"jwt": "a.b.c"},
        {"user": "alice", "pass": "wonder", "account": "A"}, {"user": "alice", "pass": "wonder", "new_account": True},
    ],
)  # fmt: skip
def test_wrong(users: Broker, said: dict[str, Any]) -> None:
    try_to_connect(users.client(), **said).expect_closed(VIOLATION)


def test_an_nkey_signs_the_nonce(users: Broker) -> None:
    client = users.client()
    assert client.info["auth_required"] is True
    assert len(client.info["nonce"]) == 15
    try_to_connect(client, nkey=USER_KEY, sig=signature(client)).expect(b"PONG\r\n")
    # A nonce is of one connection.
    other = users.client()
    assert other.info["nonce"] != client.info["nonce"]
    try_to_connect(other, nkey=USER_KEY, sig=signature(client)).expect_closed(VIOLATION)


def test_no_secret_is_logged(users: Broker) -> None:
    try_to_connect(users.client(), user="alice", **{"pass": "hush-hush"}).expect_closed(VIOLATION)
    users.wait_log('authentication error - User "alice"')
    log = users.log()
    assert not any(word in log for word in ("hush-hush", "wonder", "s3cret", HASH[7:]))


@pytest.mark.parametrize(
    "line",
    [
        b'CONECT {"pass":"hush-hush"}\r\n',
        b' CONNECT {"auth_token":"hush-hush"}\r\n',
        b'{"sig":"hush-hush"}\r\n',
        b'CONNECT {"PASS":"hush-hush"}\r\n',
        b'CONNECT {"p\\u0061ss":"hush-hush"}\r\n',
        b'CONNECT {"pass" "hush-hush"}\r\n',
        b'CONNECT {"pass":["hush-hush"]}\r\n',
    ],
)
def test_no_secret_is_logged_of_what_is_no_good_connect(tmp_path: Path, line: bytes) -> None:
    """Neither where an operation cannot be read, which is logged without debug, nor in a trace."""
    with Broker(tmp_path, args=["-DV"]) as broker:
        broker.client().send(line).finish_sending()
        broker.wait_log("REDACTED")
        assert "hush-hush" not in broker.log()


def test_others_are_served_while_hashes_are_compared(workers: int, tmp_path: Path, big_hash: str) -> None:
    config = f"authorization {{ timeout: 30, users: [{{user: slow, pass: '{big_hash}'}}, {{user: fast, pass: f}}] }}"
    with Broker(tmp_path, workers=workers, config=config) as broker:
        fast = try_to_connect(broker.client(), user="fast", **{"pass": "f"}).expect(b"PONG\r\n")

        def served_before_all_are_done() -> bool:
            """A comparison takes a tenth of a second or more, and there are eight: that is too short for nobody but a test that
            was not let run meanwhile."""
            slow = [try_to_connect(broker.client(), user="slow", **{"pass": "x"}) for _ in range(8)]
            fast.send("PING\r\n").expect(b"PONG\r\n")
            ready, _, _ = select.select([client.socket for client in slow], [], [], 0)
            for client in slow:
                client.expect_closed(VIOLATION)
            return len(ready) < len(slow)

        wait_until(served_before_all_are_done, "others to be served meanwhile")


@pytest.fixture(scope="session")
def big_hash() -> str:
    return bcrypt.hashpw(b"slow", bcrypt.gensalt(11)).decode()


def test_who_leaves_while_its_hash_is_compared(workers: int, tmp_path: Path, big_hash: str) -> None:
    config = f"authorization {{ timeout: 30, users: [{{user: slow, pass: '{big_hash}'}}] }}"
    with Broker(tmp_path, workers=workers, config=config) as broker:
        for _ in range(5):
            try_to_connect(broker.client(), user="slow", **{"pass": "slow"}).close()
        try_to_connect(broker.client(), user="slow", **{"pass": "slow"}).expect(b"PONG\r\n")


def test_a_hash_outlasts_the_time_to_connect(workers: int, tmp_path: Path, big_hash: str) -> None:
    config = f"authorization {{ timeout: 0.01, users: [{{user: slow, pass: '{big_hash}'}}] }}"
    with Broker(tmp_path, workers=workers, config=config) as broker:
        client = broker.client()
        try_to_connect(client, user="slow", **{"pass": "slow"}).expect_closed(
            b"-ERR 'Authentication Timeout'\r\n"
        )


# -- no_auth_user --


@pytest.fixture(scope="module")
def open_door(workers: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    config = "authorization { timeout: 3, users: [{user: a, pass: b}, {user: guest, pass: g}] }\nno_auth_user: guest"
    with Broker(tmp_path_factory.mktemp("guest"), workers=workers, config=config) as broker:
        yield broker


def test_guests(open_door: Broker) -> None:
    client = open_door.client()
    assert "auth_required" not in client.info
    try_to_connect(client).expect(b"PONG\r\n")
    for wrong in ({"user": "guest"}, {"user": "a", "pass": "x"}, {"pass": "b"}, {"auth_token": "g"}):
        try_to_connect(open_door.client(), **wrong).expect_closed(VIOLATION)


def test_a_guest_need_not_say_connect(open_door: Broker) -> None:
    client = open_door.client().send("SUB a 1\r\nPUB a 2\r\nhi\r\nPING\r\n")
    # Without CONNECT a client is verbose.
    client.expect(b"+OK\r\n+OK\r\n").expect(msg("a", "1", b"hi")).expect(b"PONG\r\n")
    # A CONNECT that comes later is looked at like any other.
    try_to_connect(client, user="a", **{"pass": "x"}).expect_closed(VIOLATION)


def test_a_guest_that_says_nothing_is_cut(open_door: Broker) -> None:
    open_door.client().expect_closed(b"-ERR 'Authentication Timeout'\r\n")


def test_a_guest_of_another_kind_must_say_connect(workers: int, tmp_path: Path) -> None:
    """The way without CONNECT has the same checks (2026-16, 2026-24)."""
    config = "authorization { users: [{user: g, pass: g, clients: [WEBSOCKET]}] }\nno_auth_user: g"
    with Broker(tmp_path, workers=workers, config=config) as broker:
        for data in ("PING\r\n", "SUB a 1\r\n", "PUB a 0\r\n\r\n", "x", "CONNECT {}\r\n"):
            broker.client().send(data).expect_closed(VIOLATION)


# -- reload --


class Reloading:
    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.path = broker.directory / "server.conf"

    def __call__(self, config: str) -> None:
        self.path.write_text(config)
        before = self._answers()
        os.kill(self.broker.pid, signal.SIGHUP)
        wait_until(lambda: self._answers() > before, "the reload")

    def _answers(self) -> int:
        log = self.broker.log()
        return log.count("Reloaded server configuration") + log.count("Failed to reload server configuration")


def users_config(*users: str) -> str:
    return f"authorization {{ users: [ {', '.join(f'{{user: {u}, pass: p}}' for u in users)} ] }}"


def test_a_removed_user_is_cut_and_others_stay(workers: int, tmp_path: Path) -> None:
    with Broker(tmp_path, workers=workers, config=users_config("a", "b")) as broker:
        reload = Reloading(broker)
        clients = {u: [broker.client().connect(user=u, **{"pass": "p"}) for _ in range(4)] for u in "ab"}
        reload(users_config("b", "c"))
        for client in clients["a"]:
            client.expect_closed(VIOLATION)
        for client in clients["b"]:
            client.send("PING\r\n").expect(b"PONG\r\n")
        broker.client().connect(user="c", **{"pass": "p"})
        try_to_connect(broker.client(), user="a", **{"pass": "p"}).expect_closed(VIOLATION)
        assert "Reloaded: authorization users" in broker.log()
        assert ": p" not in broker.log()


def test_a_bad_file_changes_nothing(workers: int, tmp_path: Path) -> None:
    with Broker(tmp_path, workers=workers, config=users_config("a")) as broker:
        client = broker.client().connect(user="a", **{"pass": "p"})
        reload = Reloading(broker)
        for bad in (
            "authorization { users: [ {usr: x} ] }",
            "authorization {",
            "no_auth_user: x; " + users_config("b"),
        ):
            reload(bad)
            client.send("PING\r\n").expect(b"PONG\r\n")
            broker.client().connect(user="a", **{"pass": "p"})
        assert broker.log().count("Failed to reload server configuration") == 3


def test_a_new_hash_is_compared_with_what_clients_said(workers: int, tmp_path: Path) -> None:
    with Broker(tmp_path, workers=workers, config=users_config("a")) as broker:
        reload = Reloading(broker)
        client = broker.client().connect(user="a", **{"pass": "p"})
        same = bcrypt.hashpw(b"p", bcrypt.gensalt(4)).decode()
        reload(f"authorization {{ users: [ {{user: a, pass: '{same}'}} ] }}")
        client.send("PING\r\n").expect(b"PONG\r\n")
        reload(f"authorization {{ users: [ {{user: a, pass: '{HASH}'}} ] }}")
        client.expect_closed(VIOLATION)
