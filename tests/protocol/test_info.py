"""The INFO line that greets every connection. Source: server.go Info, createClientEx."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from harness import Broker, RawClient

Connect = Callable[..., RawClient]
Start = Callable[..., Broker]


def test_fields_of_a_plain_server(connect: Connect, broker: Broker) -> None:
    info = connect(None).info
    assert re.fullmatch(r"N[A-Z2-7]{55}", info["server_id"])
    assert isinstance(info["server_name"], str) and info["server_name"]
    assert re.match(r"\d+\.\d+\.\d+", info["version"])
    assert info["proto"] == 1
    assert (info["host"], info["port"]) == ("127.0.0.1", broker.port)
    assert info["headers"] is True
    assert info["max_payload"] == 1048576
    assert info["client_id"] > 0
    assert info["client_ip"] == "127.0.0.1"
    for absent in (
        "auth_required",
        "tls_required",
        "tls_verify",
        "tls_available",
        "nonce",
        "jetstream",
        "ldm",
        "cluster",
    ):
        assert not info.get(absent), absent


def test_connect_urls_are_what_is_advertised(connect: Connect) -> None:
    assert not connect(None).info.get("connect_urls")


def test_client_ids_are_unique_and_the_server_is_one(connect: Connect) -> None:
    infos = [connect(None).info for _ in range(12)]
    assert len({i["client_id"] for i in infos}) == 12
    for field in ("server_id", "server_name", "version", "port"):
        assert len({i[field] for i in infos}) == 1


def test_old_clients_see_one_info_only(connect: Connect) -> None:
    connect(None).connect(protocol=0).expect_nothing()


def test_first_pong_may_be_followed_by_what_connect_came_to(connect: Connect) -> None:
    """Newer servers tell clients of protocol 1 their account, once (client.go processPing)."""
    client = connect(None).connect(protocol=1)
    first = client.info
    client.send("PING\r\n")
    if client.expect_re(rb"(INFO (?=\{)|PONG\r\n)")[1] != b"PONG\r\n":
        client.buffer = b"INFO " + client.buffer
        info = client.read_info()
        assert info["connect_info"] is True and info["remote_account"] == "$G"
        assert info["client_id"] == first["client_id"]
        client.expect("PONG\r\n")
    client.expect_nothing()


def test_server_name_by_flag(fresh_broker: Start) -> None:
    broker = fresh_broker(args=["-n", "alpha"])
    assert broker.client().info["server_name"] == "alpha"


@pytest.mark.parametrize(
    ("setting", "field", "value"),
    [
        ("max_payload: 2KB", "max_payload", 2048),
        ("max_payload = 1024", "max_payload", 1024),
        ("server_name: b", "server_name", "b"),
    ],
)
def test_settings_show(fresh_broker: Start, setting: str, field: str, value: object) -> None:
    broker = fresh_broker(config=setting + "\n")
    assert broker.client().info[field] == value


@pytest.mark.parametrize("args", [["--user", "derek", "--pass", "foobar"], ["--auth", "token"]])
def test_auth_required(fresh_broker: Start, args: list[str]) -> None:
    assert fresh_broker(args=args).client().info["auth_required"] is True


def test_a_restarted_server_has_another_id(fresh_broker: Start) -> None:
    first = fresh_broker()
    port, server_id = first.port, first.client().info["server_id"]
    first.stop()
    assert fresh_broker(port=port).client().info["server_id"] != server_id
