"""Monitoring shows who is in, and nothing that would let anyone else in. Source: monitor.go Connz, redactBearerJWT."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from harness import Broker
from harness.jwts import Estate, Signer

Start = Callable[..., Broker]
pytestmark = pytest.mark.ours
PATHS = (
    "/varz", "/connz", "/connz?auth=1&subs=detail", "/connz?auth=1&state=any", "/subsz?subs=1", "/accountz", "/accstatz",
    "/shardz", "/metrics", "/metrics/detailed",
)  # fmt: skip


def get(broker: Broker, path: str) -> str:
    found = re.search(r"Starting http monitor on 127\.0\.0\.1:(\d+)", broker.log())
    assert found
    with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}{path}", timeout=60) as answer:
        return str(answer.read().decode())


def test_jwts_but_not_those_of_bearers(fresh_broker: Start) -> None:
    estate = Estate()
    user, bearer = Signer("user", "u"), Signer("user", "bearer")
    tokens = {
        "plain": estate.user_token(user, estate.a, name="U", tags=["one"]),
        "bearer": estate.user_token(bearer, estate.a, bearer_token=True),
    }
    accounts = {estate.a: estate.account_token(estate.a, name="ACC"), estate.system: estate.account_token(estate.system)}
    preload = "\n".join(f"  {signer.public}: {token}" for signer, token in accounts.items())
    config = f"operator: {estate.operator_token()}\nresolver: MEMORY\nresolver_preload {{\n{preload}\n}}\n"
    broker = fresh_broker(config=config, args=["-m", "-1"])
    clients = []
    for name, signer in (("plain", user), ("bearer", bearer)):
        client = broker.client()
        clients.append(client)
        said: dict[str, Any] = {"jwt": tokens[name], "name": name, "verbose": False, "pedantic": False}
        said |= {"sig": signer.sign(client.info["nonce"])} if name == "plain" else {}
        client.send(f"CONNECT {json.dumps(said)}\r\nPING\r\n").expect(b"PONG\r\n")
    rows = {one["name"]: one for one in json.loads(get(broker, "/connz?auth=1"))["connections"]}
    assert rows["plain"]["jwt"] == tokens["plain"] and "jwt" not in rows["bearer"]
    assert rows["plain"]["tags"] == ["one"]
    for row, signer in ((rows["plain"], user), (rows["bearer"], bearer)):
        assert row["authorized_user"] == signer.public
        assert (row["account"], row["issuer_key"], row["name_tag"]) == (estate.a.public, estate.a.public, "ACC")
    everything = "".join(get(broker, path) for path in PATHS)
    assert tokens["bearer"] not in everything
    detail = json.loads(get(broker, f"/accountz?acc={estate.a.public}"))["account_detail"]
    assert (detail["jwt"], detail["name_tag"]) == (accounts[estate.a], "ACC")
    assert detail["issuer_key"] == estate.operator.public


def test_no_password_anywhere(fresh_broker: Start) -> None:
    config = """
    accounts {
      A { users [ {user: a, password: s3cret-a} ]
          exports [ {service: x, accounts: [B], latency: {subject: lat, sampling: 50}} ] }
      B { users [ {user: b, password: s3cret-b} ], imports [ {service: {account: A, subject: x}} ] }
    }
    """
    broker = fresh_broker(config=config, args=["-m", "-1"])
    clients = [broker.client().connect(user=name, **{"pass": f"s3cret-{name}"}) for name in "ab"]
    for client in clients:
        client.send("SUB x 1\r\n").flush()
    (export,) = json.loads(get(broker, "/accountz?acc=A"))["account_detail"]["exports"]
    assert export == {
        "subject": "x", "type": "service", "response_type": "Singleton", "service_latency": {"sampling": 50, "results": "lat"},
        "approved_accounts": ["B"],
    }  # fmt: skip
    for path in (*PATHS, "/accountz?acc=A", "/accountz?acc=B"):
        assert "s3cret" not in get(broker, path), path
