"""Auth callout: a service in an account decides who comes in. Source: ADR-26, nats-server's auth_callout.go."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import Broker, RawClient, msg
from harness.jwts import USER_UNLIMITED, Signer
from shardbroker.auth.jwt import Claims, decode

VIOLATION = b"-ERR 'Authorization Violation'\r\n"
ISSUER, STRANGER = Signer("account", "issuer"), Signer("account", "stranger")
CONFIG = f"""
authorization {{
  timeout: 60
  users: [ {{user: auth, password: pwd}} ]
  auth_callout {{ issuer: {ISSUER.public}, auth_users: [auth] }}
}}
accounts {{ FOO {{}} BAR {{}} }}
""".replace("} BAR", "}\n BAR")

Decide = Callable[[Claims, dict[str, Any]], str]


def response(
    request: Claims,
    user: str = "",
    *,
    by: Signer = ISSUER,
    subject: str = "",
    audience: str = "",
    **more: Any,
) -> str:
    nats = {"jwt": user} if user else {}
    return by.token(
        "authorization_response", subject or request.nats["user_nkey"], nats | more,
        audience=audience or request.nats["server_id"]["id"],
    )  # fmt: skip


def user(request: Claims, *, by: Signer = ISSUER, account: str = "FOO", name: str = "", expires: int = 0, subject: str = "",
         **nats: Any) -> str:  # fmt: skip
    return by.token(
        "user",
        subject or request.nats["user_nkey"],
        USER_UNLIMITED | nats,
        name=name,
        audience=account,
        expires=expires,
    )


def decide(request: Claims, said: dict[str, Any]) -> str:
    """By user name what a service might answer."""
    name = said.get("user", "")
    return {
        "good": lambda: response(request, user(request, name="good", pub={"allow": ["a", "b"]})),
        "bar": lambda: response(request, user(request, account="BAR")),
        "no": lambda: response(request, error="not today"),
        "empty": lambda: "",
        "nonsense": lambda: "eyJ.a.b",
        "issuer": lambda: response(request, user(request), by=STRANGER),
        "user-issuer": lambda: response(request, user(request, by=STRANGER)),
        "other-user": lambda: response(request, user(request), subject=Signer("user", "x").public),
        "other-inner": lambda: response(request, user(request, subject=Signer("user", "x").public)),
        "server": lambda: response(request, user(request), audience="NOTME"),
        "account": lambda: response(request, user(request, account="NONE")),
        "expired": lambda: response(request, user(request, expires=5)),
        "short": lambda: response(request, user(request, expires=int(time.time()) + 6)),
        "issuer-account": lambda: response(request, user(request, issuer_account=ISSUER.public)),
        "here": lambda: response(request, user(request, src=["127.0.0.0/8"])),
        "elsewhere": lambda: response(request, user(request, src=["10.0.0.0/8"])),
        "proxy": lambda: response(request, user(request, proxy_required=True)),
        "web": lambda: response(request, user(request, allowed_connection_types=["WEBSOCKET"])),
    }.get(name, lambda: response(request, error="unknown"))()


class Service(threading.Thread):
    """Answers requests until the broker goes."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(daemon=True)
        self.client = broker.client().connect(user="auth", **{"pass": "pwd"}).sub("$SYS.REQ.USER.AUTH", 1)
        self.client.socket.settimeout(None)  # nobody may ask for a long time
        self.requests: list[Claims] = []
        self.bounded: set[int] = set()
        self.start()

    def answer(self, request: Claims) -> str:
        """The first time no end, from then on soon: for a client that is asked about again."""
        said = request.nats["connect_opts"]
        if said.get("user") != "bounded":
            return decide(request, said)
        client_id = request.nats["client_info"]["id"]
        again = client_id in self.bounded
        self.bounded.add(client_id)
        return response(request, user(request, expires=int(time.time()) + 2 if again else 0))

    def run(self) -> None:
        try:
            while True:
                head = self.client.expect_re(rb"MSG \$SYS\.REQ\.USER\.AUTH 1 (\S+) (\d+)\r\n")
                size = int(head[2])
                body = self.client.expect_re(rb"(?s)(.{%d})\r\n" % size)[1]
                request = decode(body.decode(), "authorization_request")
                self.requests.append(request)
                self.client.pub(head[1].decode(), self.answer(request))
        except (AssertionError, OSError):
            return


@pytest.fixture(scope="module")
def called(workers: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, Service]]:
    with Broker(tmp_path_factory.mktemp("callout"), workers=workers, config=CONFIG) as broker:
        service = Service(broker)
        yield broker, service
        service.client.socket.shutdown(2)
        service.join()


def login(broker: Broker, who: str, **more: Any) -> RawClient:
    said = {"verbose": False, "pedantic": False, "user": who, "pass": "secret", **more}
    return broker.client().send(f"CONNECT {json.dumps(said)}\r\nPING\r\n")


def test_the_service_places_a_user(called: tuple[Broker, Service]) -> None:
    broker, service = called
    one, two = (login(broker, "good", name="n", lang="l").expect(b"PONG\r\n") for _ in range(2))
    other = login(broker, "bar").expect(b"PONG\r\n")
    for client in (two, other):
        client.sub("a", 1)
    one.pub("a", "hi").pub("c", "no").expect(b"-ERR 'Permissions Violation for Publish to \"c\"'\r\n")
    two.expect(msg("a", 1, "hi"))
    other.expect_nothing()
    request = next(found for found in service.requests if found.nats["connect_opts"]["user"] == "good")
    assert (request.subject, request.audience) == (ISSUER.public, "nats-authorization-request")
    assert request.issuer == request.nats["server_id"]["id"] == one.info["server_id"]
    assert request.nats["connect_opts"]["pass"] == "secret"
    assert (request.nats["client_info"]["host"], request.nats["client_info"]["name"]) == ("127.0.0.1", "n")
    assert "secret" not in broker.log()


@pytest.mark.parametrize(
    "name",
    ["no", "empty", "nonsense", "issuer", "user-issuer", "other-user", "other-inner", "server", "account", "expired",
     "issuer-account", "elsewhere", "proxy", "web", "whoever"],
)  # fmt: skip
def test_what_lets_nobody_in(called: tuple[Broker, Service], name: str) -> None:
    login(called[0], name).expect_closed(VIOLATION)


def test_where_a_user_may_come_from(called: tuple[Broker, Service]) -> None:
    login(called[0], "here").expect(b"PONG\r\n")


def test_it_ends_when_its_time_is_over(called: tuple[Broker, Service]) -> None:
    client = login(called[0], "short").expect(b"PONG\r\n")
    client.expect_closed(b"-ERR 'User Authentication Expired'\r\n")


def test_a_reload_asks_again_and_may_set_an_end(workers: int, tmp_path: Path) -> None:
    with Broker(tmp_path, workers=workers, config=CONFIG) as broker:
        service = Service(broker)
        clients = [login(broker, "bounded").expect(b"PONG\r\n") for _ in range(3)]
        (tmp_path / "server.conf").write_text(CONFIG.replace("password: pwd}", "password: pwd}, {user: more, password: x}"))
        os.kill(broker.pid, signal.SIGHUP)
        for client in clients:
            client.expect_closed(b"-ERR 'User Authentication Expired'\r\n")
        service.client.socket.shutdown(2)
        service.join()


def test_the_service_itself_is_not_asked_about(called: tuple[Broker, Service]) -> None:
    broker, service = called
    before = len(service.requests)
    login(broker, "auth", **{"pass": "wrong"}).expect_closed(VIOLATION)
    auth = login(broker, "auth", **{"pass": "pwd"}).expect(b"PONG\r\n")
    auth.pub("$SYS.REQ.USER.AUTH", "x").expect_re(rb"-ERR 'Permissions Violation for Publish to [^']*'\r\n")
    assert len(service.requests) == before


def test_nobody_answers(workers: int, tmp_path: Path) -> None:
    with Broker(tmp_path, workers=workers, config=CONFIG.replace("timeout: 60", "timeout: 3")) as broker:
        login(broker, "good").expect_closed(VIOLATION)
