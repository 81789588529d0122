"""`websocket {}` and what of it must agree with the rest of the file. Source: websocket.go validateWebsocketOptions."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.jwts import Estate
from shardbroker.control.config.document import parse_text
from shardbroker.control.config.explain import explain
from shardbroker.control.config.load import load
from shardbroker.control.config.settings import read_settings
from shardbroker.errors import ConfigError
from shardbroker.options import WebSocketSettings

LISTENS = "websocket {{ port: -1, no_tls: true\n{} }}"
USERS = "\nauthorization { users: [{user: a, password: b}] }"
OPERATOR = f"\noperator: {Estate().operator_token()}; resolver: MEMORY"


def websocket(text: str) -> WebSocketSettings:
    fields, warnings = read_settings(parse_text(text, "f", {}), "f")
    assert not warnings
    found: WebSocketSettings = fields["websocket"]
    return found


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        websocket(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("inside", "rest", "message"),
    [
        ("jwt_cookie: x", "", 'trusted keys configuration is required for JWT authentication via cookie "x"'),
        ("jwt_cookie: x", USERS, "trusted operators or trusted keys"),
        ("no_auth_user: x", "", 'no_auth_user: "x" present, but users/nkeys are not defined'),
        ("no_auth_user: x", "\nauthorization { user: x, password: y }", "users/nkeys are not defined"),
        ("no_auth_user: x", USERS, 'no_auth_user: "x" not present as user or nkey'),
        ("no_auth_user: x", OPERATOR, "no_auth_user not compatible with Trusted Operator"),
        ("authorization { user: u, password: p }", USERS, "websocket authentication username not compatible with presence"),
        ("authorization { token: t }", USERS, "websocket authentication token not compatible with presence of users/nkeys"),
        ("authorization { token: t }", "\naccounts { A { users: [{user: a, password: b}] } }", "token not compatible"),
        ("advertise: 'a:b:c'", "", "advertise: address a:b:c: too many colons"),
        ("headers { Host: x }", "", 'websocket: invalid header "Host" not allowed'),
        ("headers { connection: x }", "", 'invalid header "connection" not allowed'),
        ("headers { Content-Length: '3' }", "", 'invalid header "Content-Length" not allowed'),
        ("headers { UPGRADE: x }", "", 'invalid header "UPGRADE" not allowed'),
        ("headers { Nats-No-Masking: x }", "", 'invalid header "Nats-No-Masking" not allowed'),
        ("headers { sec-WebSocket-Foo: x }", "", '"Sec-WebSocket-" prefix not allowed'),
        ("headers { X-Foo: 3 }", "", "error parsing header key X-Foo: expected a string"),
        ("headers { X-Foo: \"a\\r\\nX-Bar: b\" }", "", "a character that HTTP does not have there"),
        ("headers { 'X Foo': a }", "", "a character that HTTP does not have there"),
        *((f"allowed_origins: ['{origin}']", "", "unable to parse allowed origin") for origin in (
            "localhost", "ftp://localhost", "http://", "/b", "http://a:xyz", "http://a:-1", "http://a:99999", "http://a:0",
            "http://::1", "*", "", "http://a b", "http://:80", "a.example:443",
        )),
    ],
)  # fmt: skip
def test_what_cannot_be(inside: str, rest: str, message: str) -> None:
    said = refused(LISTENS.format(inside) + rest)
    # The line of the key that it is about.
    assert said.startswith("f:2:") and message in said
    # Nobody listens, nobody minds (but for what is no value of its key).
    if "error parsing header key" not in message:
        websocket(f"websocket {{ {inside} }}{rest}")


@pytest.mark.parametrize(
    ("inside", "rest"),
    [
        ("jwt_cookie: x", OPERATOR), ("user_cookie: x, pass_cookie: y", ""), ("no_auth_user: a", USERS),
        ("authorization { user: u, password: p }", ""),
        ("authorization { user: u, password: p }", "\nauthorization { user: q, password: r }"),
        ("headers { X-Foo: 'a, b', Strict-Transport-Security: max-age=1 }", ""),
        ("origins: ['http://a', 'https://b:1', 'HTTP://C.example', 'http://[::1]:80', 'https://a/']", ""),
    ],
)  # fmt: skip
def test_what_can_be(inside: str, rest: str) -> None:
    assert websocket(LISTENS.format(inside) + rest).port == -1


def test_tls_is_not_forgotten() -> None:
    assert refused("\nwebsocket { port: 80 }") == "f:2:1: websocket requires TLS configuration"
    assert websocket("websocket { same_origin: true }") == WebSocketSettings(same_origin=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port: 1\nmax_pending: 1000", "2:1: max_payload (1048576) cannot be higher than max_pending (1000)"),
        ("\nlame_duck_duration: 30s\nlame_duck_grace_period: 31s", "3:1: lame duck grace period (31s) should be strictly lower"),
        ("\ntls { cert_file: /nowhere/c, key_file: /nowhere/k }", "2:1: error parsing X509 certificate"),
        ("\nwebsocket { port: -1, tls { cert_file: /nowhere/c, key_file: /nowhere/k } }", "2:1: error parsing X509 certificate"),
        ("\nclient_advertise: 'a:b:c'", "2:1: client_advertise: address a:b:c: too many colons"),
        ("jetstream {}\nstore_dir: /nowhere\naccounts { A { jetstream: enabled } }\nsystem_account: A",
         "4:1: Not allowed to enable JetStream on the system account"),
        ("jetstream: enabled\naccounts { $SYS { jetstream: enabled } }", "2:1: Not allowed to enable JetStream"),
    ],
)  # fmt: skip
def test_where_settings_that_disagree_stand(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "a.conf"
    file.write_text(text)
    (error,) = explain(str(file)).errors
    assert error.startswith(f"{file}:{message}")


def test_a_flag_is_not_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.conf"
    file.write_text("max_control_line: 4096\nclient_advertise: 'a:1'")
    with pytest.raises(ConfigError) as caught:
        load(["-c", str(file), "--client_advertise", "a:b:c"])
    assert str(caught.value) == "client_advertise: address a:b:c: too many colons in address"


def test_each_setting_has_its_place(tmp_path: Path) -> None:
    file = tmp_path / "a.conf"
    file.write_text(
        "accounts { S { users: [{user: s, password: p}] } }\nsystem_account: S\nno_auth_user: s\n"
        "authorization { timeout: 5 }\nwebsocket { port: -1, no_tls: true }\n"
    )
    found = {setting.name: setting.place.removeprefix(f"{file}:") for setting in explain(str(file)).settings}
    assert found == {"system_account": "2:1", "no_auth_user": "3:1", "auth_timeout": "4:1", "websocket": "5:1"}
    estate = Estate()
    file.write_text(f"resolver: MEMORY\noperator: {estate.operator_token()}")
    found = {setting.name: setting.place.removeprefix(f"{file}:") for setting in explain(str(file)).settings}
    assert found == {"system_account": "2:1"}
