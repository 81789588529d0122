"""What the request that opens a WebSocket says beside the protocol: cookies, and whom a proxy speaks for."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shardbroker.auth.gate import Identity, Login, Refusal
from shardbroker.clock import ManualClock
from shardbroker.options import Options, WebSocketSettings
from shardbroker.shard.clients import Client, Clients, Facts
from shardbroker.shard.logins import Logins
from shardbroker.shard.throttle import FAILURES_MAX
from shardbroker.shard.websocket import UPGRADE_BYTES_MAX, Upgrade, UpgradeError, WebSocketLayer, read_cookies


@pytest.mark.parametrize(
    ("lines", "cookies"),
    [
        ([], {}),
        (["a=1; b=2;c=3"], {"a": "1", "b": "2", "c": "3"}),
        (["a=1", "b=2; a=3"], {"a": "3", "b": "2"}),
        (['a="quoted"; b="'], {"a": "quoted"}),
        (["a=x=y; b=; c; =d; ;"], {"a": "x=y", "b": "", "c": ""}),
        (["a b=1; é=2; a=é; b=\x01; $Version=1; c=\\"], {"$Version": "1"}),
        (["jwt=eyJ0eXAi.eyJ.-_x"], {"jwt": "eyJ0eXAi.eyJ.-_x"}),
    ],
)
def test_cookies(lines: list[str], cookies: dict[str, str]) -> None:
    assert read_cookies(lines) == cookies


@pytest.mark.parametrize("piece", ['\\"', "\\111", ";", "a=", "a=b;", '"', " ", "=", "\\", 'a="'])
def test_the_time_of_cookies_grows_with_their_length(piece: str) -> None:
    """A request has so many bytes at the most; a hundred of them are nothing. The standard library takes minutes for that."""
    line = f'a="{piece * (UPGRADE_BYTES_MAX // len(piece))}"'
    for _ in range(100):
        assert len(read_cookies([line])) <= 1


@pytest.mark.parametrize("piece", [1, 700, 1 << 20])
def test_a_request_is_bounded(piece: int) -> None:
    """Each line of it is short, and it never ends: what is kept of it before anybody has logged in has a bound all the same."""
    begin = b"GET / HTTP/1.1\r\nHost: x\r\n"
    lines = b"".join(b"X-%d: %s\r\n" % (n, b"x" * 1000) for n in range(100))
    layer = WebSocketLayer(WebSocketSettings(port=-1, no_tls=True), tls=False)
    # The longest that may come: nothing is said of it yet.
    request = (begin + lines)[:UPGRADE_BYTES_MAX]
    for at in range(0, len(request), piece):
        assert layer.receive(request[at : at + piece]) == []
    assert layer.take() == b""
    with pytest.raises(UpgradeError, match="the request is too long"):
        layer.receive(b"x")


class Quiet:
    def debug(self, text: str, /) -> None: ...
    def warning(self, text: str, /) -> None: ...


def test_failures_count_for_who_is_at_the_other_end() -> None:
    """Whoever guesses passwords may name another address each time (X-Forwarded-For)."""

    async def work() -> None:
        logins = Logins(Options(user="u", password="right"), ManualClock(5, time_ns=5), Quiet())

        def begin(password: str, **more: str) -> Identity | Refusal | None:
            return logins.begin(Login("u", password, **more), lambda: True, lambda answer: None, dict)

        for number in range(FAILURES_MAX):
            assert isinstance(begin("wrong", ip=f"198.51.100.{number}", peer="192.0.2.1"), Refusal)
        # From now on it waits its turn; others do not, and neither does a client at an address that was named.
        assert begin("right", ip="203.0.113.1", peer="192.0.2.1") is None
        assert isinstance(begin("right", ip="198.51.100.1"), Identity)
        assert isinstance(begin("right", ip="203.0.113.1", peer="192.0.2.2"), Identity)
        logins.close()

    asyncio.run(work())


@pytest.mark.parametrize(("named", "ip", "peer"), [("203.0.113.7", "203.0.113.7", "192.0.2.1"), ("", "192.0.2.1", "")])
def test_the_other_end_is_remembered(named: str, ip: str, peer: str) -> None:
    client = Client(1, "192.0.2.1", 5, 0)
    client.transport = Facts("websocket")
    shard = cast("Any", SimpleNamespace(_client=lambda slot, client_id: client))
    Clients.upgraded(shard, 0, 1, Upgrade(named))
    assert (client.login().ip, client.login().peer) == (ip, peer)
