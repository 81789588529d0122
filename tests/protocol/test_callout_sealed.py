"""Auth callout with curve keys, and of accounts in operator mode. Source: ADR-26, nats-server's auth_callout.go, xkeys.go."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nacl.exceptions import CryptoError
from nacl.public import Box, PrivateKey, PublicKey

from harness import Broker, RawClient, msg
from harness.jwts import UNLIMITED, USER_UNLIMITED, Signer
from protocol.test_callout import CONFIG, ISSUER, VIOLATION, decide, response, user
from protocol.test_callout import login as say
from protocol.test_operator import PLAIN, USER, config, estate, login
from shardbroker.auth import nkey
from shardbroker.auth.jwt import Claims, decode

SECRET, STRANGER_SECRET = PrivateKey(b"\5" * 32), PrivateKey(b"\6" * 32)
PUBLIC = nkey.public_text("curve", bytes(SECRET.public_key))
CLIENT = Signer("user", "client")


def opened(secret: PrivateKey, other: str, sealed: bytes) -> bytes:
    raw = nkey.public_bytes(other, "curve")
    assert raw is not None and sealed[:4] == b"xkv1"
    return bytes(Box(secret, PublicKey(raw)).decrypt(sealed[28:], sealed[4:28]))


def sealed(secret: PrivateKey, other: str, text: bytes) -> bytes:
    raw = nkey.public_bytes(other, "curve")
    assert raw is not None
    nonce = os.urandom(24)
    return b"xkv1" + nonce + Box(secret, PublicKey(raw)).encrypt(text, nonce).ciphertext


class SealedService(threading.Thread):
    """Answers sealed requests until the broker goes; `client` has logged in and subscribed."""

    def __init__(self, client: RawClient, answer: Any) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.client.socket.settimeout(None)  # nobody may ask for a long time
        self.answer = answer
        self.requests: list[Claims] = []
        self.keys: list[str] = []
        self.start()

    def run(self) -> None:
        try:
            while True:
                head = self.client.expect_re(rb"HMSG \$SYS\.REQ\.USER\.AUTH 1 (\S+) (\d+) (\d+)\r\n")
                body = self.client.expect_re(rb"(?s)(.{%d})\r\n" % int(head[3]))[1]
                block, text = body[: int(head[2])].decode(), body[int(head[2]) :]
                key = block.split("Nats-Server-Xkey: ")[1].split("\r\n")[0]
                request = decode(opened(SECRET, key, text).decode(), "authorization_request")
                self.keys.append(key)
                self.requests.append(request)
                self.client.pub(head[1].decode(), self.answer(request, key))
        except (AssertionError, OSError):
            return

    def end(self) -> None:
        self.client.socket.shutdown(2)
        self.join()


def config_answer(request: Claims, key: str) -> bytes:
    """By user name: as the plain service answers, sealed or not."""
    name = request.nats["connect_opts"].get("user", "")
    good = response(request, user(request, name="good", account="FOO")).encode()
    return {
        "sealed": lambda: sealed(SECRET, key, good),
        "plain": lambda: good,
        "stranger": lambda: sealed(STRANGER_SECRET, key, good),
        "for-another": lambda: sealed(SECRET, nkey.public_text("curve", b"\7" * 32), good),
        "cut": lambda: sealed(SECRET, key, good)[:-1],
        "short": lambda: b"xkv1",
    }.get(name, lambda: decide(request, request.nats["connect_opts"]).encode())()


@pytest.fixture(scope="module")
def called(workers: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, SealedService]]:
    text = CONFIG.replace("auth_callout {", f"auth_callout {{ xkey: {PUBLIC},")
    with Broker(tmp_path_factory.mktemp("sealed"), workers=workers, config=text) as broker:
        client = broker.client().connect(user="auth", headers=True, **{"pass": "pwd"}).sub("$SYS.REQ.USER.AUTH", 1).flush()
        service = SealedService(client, config_answer)
        yield broker, service
        service.end()


@pytest.mark.parametrize("name", ["sealed", "plain"])
def test_requests_are_sealed_and_answers_may_be(called: tuple[Broker, SealedService], name: str) -> None:
    broker, service = called
    client = say(broker, name).expect(b"PONG\r\n")
    client.sub("a", 1).pub("a", "hi").expect(msg("a", 1, "hi"))
    request = next(found for found in service.requests if found.nats["connect_opts"]["user"] == name)
    assert request.nats["connect_opts"]["pass"] == "secret" and request.subject == ISSUER.public
    # One key for the whole broker, which it names in what it has signed, too.
    assert set(service.keys) == {request.nats["server_id"]["xkey"]}
    with pytest.raises(CryptoError):
        opened(STRANGER_SECRET, service.keys[0], sealed(SECRET, PUBLIC, b"x"))


@pytest.mark.parametrize("name", ["stranger", "for-another", "cut", "short", "no", "empty", "issuer", "other-user", "server"])
def test_what_lets_nobody_in(called: tuple[Broker, SealedService], name: str) -> None:
    say(called[0], name).expect_closed(VIOLATION)


# -- operator mode --


def operator_answer(request: Claims, key: str) -> bytes:
    """By the client's name, for account A, which may place users in B."""
    name = request.nats["connect_opts"].get("name", "")
    by = {"b": estate.b, "system": estate.system}.get(name, estate.a)
    about = CLIENT.public if name == "other" else request.nats["user_nkey"]
    token = by.token("user", about, USER_UNLIMITED | {"pub": {"deny": ["no"]}}, name="placed")
    answer = response(request, token, by=Signer("account", "nobody") if name == "issuer" else estate.a).encode()
    return sealed(SECRET, key, answer) if name == "sealed" else answer


@pytest.fixture(scope="module")
def delegated(workers: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, SealedService]]:
    """Account A delegates to a service of its own, whose requests are sealed; it may place users in B."""
    claims = {"auth_users": [USER.public], "allowed_accounts": [estate.b.public], "xkey": PUBLIC}
    account = estate.account_token(estate.a, authorization=claims, limits=UNLIMITED)
    text = config((estate.a, account), *PLAIN[1:], more="authorization { timeout: 60 }\n")
    with Broker(tmp_path_factory.mktemp("delegated"), workers=workers, config=text) as broker:
        client = login(broker.client(), estate.user_token(USER, estate.a), headers=True).expect(b"PONG\r\n")
        service = SealedService(client.sub("$SYS.REQ.USER.AUTH", 1).flush(), operator_answer)
        yield broker, service
        service.end()


def come(broker: Broker, name: str, signer: Signer = CLIENT, account: Signer = estate.a) -> RawClient:
    return login(broker.client(), estate.user_token(CLIENT, account), signer, name=name)


def test_the_service_of_an_account_places_its_users(delegated: tuple[Broker, SealedService]) -> None:
    broker, service = delegated
    mine, same, placed = (come(broker, name).expect(b"PONG\r\n") for name in ("a", "sealed", "b"))
    for client in (same, placed):
        client.sub("x", 1).flush()
    mine.pub("x", "hi").pub("no", "").expect(b"-ERR 'Permissions Violation for Publish to \"no\"'\r\n")
    same.expect(msg("x", 1, "hi"))
    placed.pub("x", "own").expect(msg("x", 1, "own"))
    # Nobody in the account may ask in the server's name.
    mine.pub("$SYS.REQ.USER.AUTH", "").expect_re(rb"-ERR 'Permissions Violation for Publish to [^']*'\r\n")
    request = next(found for found in service.requests if found.nats["connect_opts"]["name"] == "a")
    assert request.subject == estate.a.public and request.nats["client_info"]["user"] == CLIENT.public
    assert request.nats["connect_opts"]["jwt"]


@pytest.mark.parametrize("name", ["system", "other", "issuer"])
def test_what_a_service_may_not_do(delegated: tuple[Broker, SealedService], name: str) -> None:
    come(delegated[0], name).expect_closed(VIOLATION)


def test_a_token_that_is_not_good_is_not_asked_about(delegated: tuple[Broker, SealedService]) -> None:
    broker, service = delegated
    before = len(service.requests)
    come(broker, "a", Signer("user", "thief")).expect_closed(VIOLATION)
    # Another account's users are its own affair.
    come(broker, "a", account=estate.b).expect(b"PONG\r\n")
    assert len(service.requests) == before


def test_nobody_answers(workers: int, tmp_path: Path) -> None:
    account = estate.account_token(estate.a, authorization={"auth_users": [USER.public]})
    with Broker(tmp_path, workers=workers, config=config((estate.a, account), *PLAIN[1:])) as broker:
        come(broker, "a").expect_closed(VIOLATION)
