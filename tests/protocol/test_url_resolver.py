"""Operator mode with accounts that a web server gives: resolver: URL(...)."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import Broker, RawClient, msg
from harness.account_server import AccountServer as Web
from harness.broker import wait_until
from harness.jwts import Estate, Signer
from protocol.test_operator import VIOLATION, login, user_of

estate = Estate()
USER, ADMIN = Signer("user", "u"), Signer("user", "admin")


@pytest.fixture
def web() -> Iterator[Web]:
    accounts = (estate.a, estate.b, estate.system)
    with Web(*((signer, estate.account_token(signer)) for signer in accounts)) as made:
        yield made


def config(web: Web, **url: str) -> str:
    """Nobody is cut because the server that is asked, which is in this process, is not let run for a while."""
    return f"operator: {estate.operator_token()}\nresolver: URL({web.url(**url)})\nauthorization {{ timeout: 60 }}\n"


def refused(client: RawClient, account: Signer) -> None:
    login(client, estate.user_token(USER, account)).expect_closed(VIOLATION)


def test_accounts_are_asked_for_once(workers: int, tmp_path: Path, web: Web) -> None:
    with Broker(tmp_path, workers=workers, config=config(web)) as broker:
        mine, same, other = (user_of(broker, account) for account in (estate.a, estate.a, estate.b))
        for client in (mine, same, other):
            client.sub("x", 1).flush()
        mine.pub("x", "hi")
        mine.expect(msg("x", 1, "hi"))
        same.expect(msg("x", 1, "hi"))
        other.expect_nothing()
        for _ in range(4):
            user_of(broker, estate.a).close()
    assert web.asked[""] == 1
    assert web.asked[estate.b.public] == 1
    # Shards may ask at the same time; what one has got the others have.
    assert 1 <= web.asked[estate.a.public] <= workers


def test_who_is_not_there_or_not_trusted(tmp_path: Path, web: Web) -> None:
    stranger, forged = Signer("account", "stranger"), Signer("account", "forged")
    web.tokens[forged.public] = estate.account_token(forged, by=Signer("operator", "nobody"))
    # Another's token under this one's name, and one that is too large.
    swapped, large = Signer("account", "swapped"), Signer("account", "large")
    web.tokens[swapped.public] = web.tokens[estate.a.public]
    web.tokens[large.public] = "x" * (1 << 21)
    with Broker(tmp_path, config=config(web)) as broker:
        for account in (stranger, forged, swapped, large):
            refused(broker.client(), account)
        user_of(broker, estate.a)
        broker.wait_log("not signed by a trusted operator")
        # It is there now, and asked for again.
        web.tokens[stranger.public] = estate.account_token(stranger)

        def comes_in() -> bool:
            client = login(broker.client(), estate.user_token(USER, stranger))
            return client.expect_re(rb"PONG\r\n|-ERR [^\r]*\r\n")[0] == b"PONG\r\n"

        wait_until(comes_in, "the account to be asked for again")
        assert "eyJ" not in broker.log()


def test_others_are_served_while_one_is_asked_for(tmp_path: Path, web: Web) -> None:
    with Broker(tmp_path, config=config(web)) as broker:
        served = user_of(broker, estate.b)
        web.gate.clear()
        waiting = login(broker.client(), estate.user_token(USER, estate.a))
        wait_until(lambda: web.asked[estate.a.public] == 1, "the account to be asked for")
        served.send("PING\r\n").expect(b"PONG\r\n")
        web.gate.set()
        # Where the machine is so slow that the question has timed out, it is told so.
        waiting.expect_re(rb"PONG\r\n|-ERR 'Authorization Violation'\r\n")


def test_a_server_that_does_not_answer(tmp_path: Path, web: Web) -> None:
    with Broker(tmp_path, config=config(web)) as broker:
        web.gate.clear()
        refused(broker.client(), estate.a)
        broker.wait_log("could not fetch")


def test_imports_are_asked_for_as_well(workers: int, tmp_path: Path, web: Web) -> None:
    exports = [{"name": "s", "subject": "news.>", "type": "stream"}]
    imports = [{"name": "s", "subject": "news.>", "account": estate.b.public, "type": "stream"}]
    web.tokens[estate.b.public] = estate.account_token(estate.b, exports=exports)
    web.tokens[estate.a.public] = estate.account_token(estate.a, imports=imports)
    with Broker(tmp_path, workers=workers, config=config(web)) as broker:
        reader = user_of(broker, estate.a).sub("news.*", 1).flush()
        assert web.asked[estate.b.public] >= 1
        writer = user_of(broker, estate.b)
        writer.pub("news.x", "hi").flush()
        reader.expect(msg("news.x", 1, "hi"))


def test_a_reload_asks_again(workers: int, tmp_path: Path, web: Web) -> None:
    with Broker(tmp_path, workers=workers, config=config(web)) as broker:
        gone, cut, stays = user_of(broker, estate.b), user_of(broker, estate.a, issued=100), user_of(broker, estate.a, ADMIN)
        del web.tokens[estate.b.public]
        web.tokens[estate.a.public] = estate.account_token(estate.a, revocations={USER.public: 150})
        os.kill(broker.pid, signal.SIGHUP)
        cut.expect_closed(b"-ERR 'User Authentication Revoked'\r\n")
        gone.expect_closed(VIOLATION)
        stays.send("PING\r\n").expect(b"PONG\r\n")
        # A web server that is broken takes nobody's account away.
        web.broken = True
        before = sum(web.asked.values())
        os.kill(broker.pid, signal.SIGHUP)
        wait_until(lambda: sum(web.asked.values()) > before, "the reload to ask")
        broker.wait_log("could not fetch")
        user_of(broker, estate.a, ADMIN)
        stays.send("PING\r\n").expect(b"PONG\r\n")


def test_a_newer_one_may_be_sent(workers: int, tmp_path: Path, web: Web) -> None:
    with Broker(tmp_path, workers=workers, config=config(web)) as broker:
        admin, user = user_of(broker, estate.system, ADMIN), user_of(broker, estate.a, issued=100)
        admin.sub("answers", 1).flush()

        def say(account: Signer, token: str) -> dict[str, Any]:
            admin.pub(f"$SYS.REQ.ACCOUNT.{account.public}.CLAIMS.UPDATE", token, reply="answers")
            answer: dict[str, Any] = json.loads(admin.messages(1)[0][2])
            return answer

        assert say(estate.b, estate.account_token(estate.b))["data"]["message"] == "jwt update skipped"
        assert "error" in say(estate.a, estate.account_token(estate.a, by=Signer("operator", "nobody")))
        newer = estate.account_token(estate.a, revocations={USER.public: 150})
        assert say(estate.a, newer)["data"] == {
            "account": estate.a.public, "code": 200, "message": "jwt updated",
        }  # fmt: skip
        user.expect_closed(b"-ERR 'User Authentication Revoked'\r\n")
