"""Operator mode over the wire: accounts and users are JWTs, from the configuration or from a directory that clients push to."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import pytest

from harness import Broker, RawClient, msg
from harness.jwts import Estate, Signer

VIOLATION = b"-ERR 'Authorization Violation'\r\n"
estate = Estate()
USER, OTHER, ADMIN = (Signer("user", word) for word in ("u", "v", "admin"))


def config(*accounts: tuple[Signer, str], more: str = "") -> str:
    preload = "\n".join(f"  {signer.public}: {token}" for signer, token in accounts)
    return (
        f"operator: {estate.operator_token()}\nresolver: MEMORY\nresolver_preload {{\n{preload}\n}}\n{more}"
    )


PLAIN = tuple((signer, estate.account_token(signer)) for signer in (estate.a, estate.b, estate.system))


def login(client: RawClient, token: str, signer: Signer = USER, **more: Any) -> RawClient:
    said = {
        "jwt": token,
        "sig": signer.sign(client.info["nonce"]),
        "verbose": False,
        "pedantic": False,
        **more,
    }
    return client.send(f"CONNECT {json.dumps(said)}\r\nPING\r\n")


def user_of(broker: Broker, account: Signer, signer: Signer = USER, **more: Any) -> RawClient:
    token = estate.user_token(signer, account, **more)
    return login(broker.client(), token, signer).expect(b"PONG\r\n")


@pytest.fixture(scope="module")
def operated(workers: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Broker(tmp_path_factory.mktemp("operated"), workers=workers, config=config(*PLAIN)) as broker:
        yield broker


def test_accounts_are_apart(operated: Broker) -> None:
    mine, same, other = (user_of(operated, account) for account in (estate.a, estate.a, estate.b))
    for client in (mine, same, other):
        client.sub("x", 1).flush()
    mine.pub("x", "hi")
    mine.expect(msg("x", 1, "hi"))
    same.expect(msg("x", 1, "hi"))
    other.expect_nothing()


def test_who_may_not_come_in(operated: Broker) -> None:
    stranger = Signer("account", "stranger")
    for token, signer in (
        (estate.user_token(USER, estate.a), OTHER),
        (estate.user_token(USER, stranger), USER),
        (estate.user_token(USER, estate.a, expires=5), USER),
        (estate.account_token(estate.a), USER),
        ("", USER),
        ("a.b.c", USER),
    ):
        login(operated.client(), token, signer).expect_closed(VIOLATION)
    for said in ({}, {"user": "a", "pass": "b"}, {"nkey": USER.public}):
        operated.client().send(f"CONNECT {json.dumps(said)}\r\n").expect_closed(VIOLATION)
    assert "eyJ" not in operated.log()


def test_permissions_and_limits(operated: Broker) -> None:
    client = user_of(operated, estate.a, pub={"deny": ["secret"]}, subs=1, payload=10)
    client.pub("secret", "x").expect(b"-ERR 'Permissions Violation for Publish to \"secret\"'\r\n")
    client.send("SUB a 1\r\nSUB b 2\r\n").expect(b"-ERR 'maximum subscriptions exceeded'\r\n")
    client.pub("a", "x" * 11).expect_closed(b"-ERR 'Maximum Payload Violation'\r\n")


def test_it_ends_when_its_time_is_over(operated: Broker) -> None:
    client = user_of(operated, estate.a, expires=int(time.time()) + 6)
    client.send("PING\r\n").expect(b"PONG\r\n")
    client.expect_closed(b"-ERR 'User Authentication Expired'\r\n")


def test_an_account_ends_when_its_time_is_over(workers: int, tmp_path: Path) -> None:
    with Broker(tmp_path, workers=workers, config=config(*PLAIN)) as broker:
        client = user_of(broker, estate.a)
        # From a reload on it has an end, which may have come when the reload is done.
        ends = estate.a, estate.account_token(estate.a, expires=int(time.time()) + 2)
        (tmp_path / "server.conf").write_text(config(ends))
        os.kill(broker.pid, signal.SIGHUP)
        client.expect_closed(b"-ERR 'Account Authentication Expired'\r\n")
        login(broker.client(), estate.user_token(USER, estate.a)).expect_closed(VIOLATION)


def test_a_reload_with_other_accounts(workers: int, tmp_path: Path) -> None:
    with Broker(tmp_path, workers=workers, config=config(*PLAIN)) as broker:
        gone, revoked, stays = (
            user_of(broker, estate.b), user_of(broker, estate.a, OTHER, issued=100), user_of(broker, estate.a),
        )  # fmt: skip
        changed = estate.a, estate.account_token(estate.a, revocations={OTHER.public: 150})
        (tmp_path / "server.conf").write_text(config(changed))
        os.kill(broker.pid, signal.SIGHUP)
        gone.expect_closed(VIOLATION)
        revoked.expect_closed(b"-ERR 'User Authentication Revoked'\r\n")
        stays.send("PING\r\n").expect(b"PONG\r\n")


# -- a directory --


@pytest.fixture
def directory(workers: int, tmp_path: Path) -> Iterator[Broker]:
    path = tmp_path / "jwt"
    path.mkdir()
    (path / f"{estate.system.public}.jwt").write_text(estate.account_token(estate.system))
    text = (
        f"operator: {estate.operator_token()}\nresolver {{ type: full, dir: '{path}', allow_delete: true }}\n"
    )
    with Broker(tmp_path / "broker", workers=workers, config=text) as broker:
        yield broker


def test_a_directory_is_filled_from_the_file(tmp_path: Path) -> None:
    """What `nsc generate config --nats-resolver` writes: the system account stands in the file, to begin with."""
    path = tmp_path / "jwt"
    newer, older = (estate.account_token(estate.b, issued=issued, name=str(issued)) for issued in (200, 100))
    path.mkdir()
    (path / f"{estate.b.public}.jwt").write_text(newer)
    (path / f"{estate.a.public}.jwt").write_text(estate.account_token(estate.a, issued=100, limits={}))
    preload = {estate.system: estate.account_token(estate.system), estate.a: estate.account_token(estate.a), estate.b: older}
    text = f"operator: {estate.operator_token()}\nresolver {{ type: full, dir: '{path}' }}\nresolver_preload {{\n"
    text += "\n".join(f"  {key.public}: {token}" for key, token in preload.items()) + "\n}\n"
    with Broker(tmp_path / "broker", config=text) as broker:
        admin = Admin(broker)
        assert len(admin.ask("$SYS.REQ.CLAIMS.LIST")["data"]) == 3
        for key, token in ((estate.a, preload[estate.a]), (estate.b, newer)):
            assert admin.ask_raw(f"$SYS.REQ.ACCOUNT.{key.public}.CLAIMS.LOOKUP").decode() == token


class Admin:
    """A user of the system account that asks, and reads the answers."""

    def __init__(self, broker: Broker) -> None:
        self.client = user_of(broker, estate.system, ADMIN).sub("in.*", 9).flush()
        self.count = 0

    def ask_raw(self, subject: str, payload: str | bytes = b"") -> bytes:
        self.count += 1
        self.client.pub(subject, payload, f"in.{self.count}")
        found = self.client.messages(1)[0]
        assert found[0] == f"in.{self.count}"
        return found[2]

    def ask(self, subject: str, payload: str | bytes = b"") -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.ask_raw(subject, payload))
        assert body["server"]["ver"]
        return body


def test_push_list_look_up_pack_delete(directory: Broker) -> None:
    admin = Admin(directory)
    token = estate.account_token(estate.a)
    assert admin.ask("$SYS.REQ.CLAIMS.UPDATE", token)["data"] == {
        "account": estate.a.public, "code": 200, "message": "jwt updated",
    }  # fmt: skip
    client = user_of(directory, estate.a)
    client.sub("x", 1).pub("x", "hi").expect(msg("x", 1, "hi"))
    b_token = estate.account_token(estate.b)
    for subject in (
        f"$SYS.REQ.ACCOUNT.{estate.b.public}.CLAIMS.UPDATE",
        f"$SYS.ACCOUNT.{estate.b.public}.CLAIMS.UPDATE",
    ):
        assert admin.ask(subject, b_token)["data"]["code"] == 200
    assert admin.ask("$SYS.REQ.CLAIMS.LIST")["data"] == sorted(
        signer.public for signer in (estate.a, estate.b, estate.system)
    )
    assert admin.ask_raw(f"$SYS.REQ.ACCOUNT.{estate.a.public}.CLAIMS.LOOKUP") == token.encode()
    assert admin.ask_raw(f"$SYS.REQ.ACCOUNT.{Signer('account', 'none').public}.CLAIMS.LOOKUP") == b""
    admin.client.pub("$SYS.REQ.CLAIMS.PACK", b"", "in.pack")
    packed = [found[2] for found in admin.client.messages(4)]
    assert sorted(packed)[0] == b"" == packed[-1]
    assert f"{estate.a.public}|{token}".encode() in packed
    # Only the operator may delete, and not the system account.
    for signer, accounts in (
        (estate.a, [estate.b.public]), (Signer("operator", "stranger"), [estate.b.public]),
        (estate.operator, [estate.system.public]), (estate.operator, ["../x"]), (estate.operator, [5]), (estate.operator, []),
    ):  # fmt: skip
        request = signer.token("generic", signer.public, {"accounts": accounts})
        assert admin.ask("$SYS.REQ.CLAIMS.DELETE", request)["error"]["code"] == 500
    request = estate.operator.token("generic", estate.operator.public, {"accounts": [estate.a.public]})
    assert admin.ask("$SYS.REQ.CLAIMS.DELETE", request)["data"]["message"] == "deleted 1 accounts"
    client.expect_closed(VIOLATION)
    login(directory.client(), estate.user_token(USER, estate.a)).expect_closed(VIOLATION)


def test_what_is_not_stored(directory: Broker) -> None:
    admin = Admin(directory)
    for token in (
        "", "x", estate.account_token(estate.a, by=Signer("operator", "stranger")), estate.account_token(estate.a, by=estate.a),
        estate.user_token(USER, estate.a), estate.account_token(estate.a)[:-4],
    ):  # fmt: skip
        assert admin.ask("$SYS.REQ.CLAIMS.UPDATE", token)["error"]["code"] == 500
    another = admin.ask(f"$SYS.REQ.ACCOUNT.{estate.b.public}.CLAIMS.UPDATE", estate.account_token(estate.a))
    assert "does not match" in another["error"]["description"]
    assert admin.ask("$SYS.REQ.CLAIMS.LIST")["data"] == [estate.system.public]


def test_only_the_system_account_is_asked(directory: Broker) -> None:
    admin = Admin(directory)
    admin.ask("$SYS.REQ.CLAIMS.UPDATE", estate.account_token(estate.a))
    client = user_of(directory, estate.a).sub("in.*", 9).flush()
    client.pub("$SYS.REQ.CLAIMS.LIST", b"", "in.1").pub(
        "$SYS.REQ.CLAIMS.UPDATE", estate.account_token(estate.b), "in.2"
    ).flush()
    client.expect_nothing()
    assert len(admin.ask("$SYS.REQ.CLAIMS.LIST")["data"]) == 2


def test_a_pushed_change_holds_at_once(directory: Broker) -> None:
    """On every shard, for every user of the account."""
    admin = Admin(directory)
    admin.ask("$SYS.REQ.CLAIMS.UPDATE", estate.account_token(estate.a))
    revoked = [user_of(directory, estate.a, issued=100) for _ in range(6)]
    later = [user_of(directory, estate.a, OTHER, issued=200) for _ in range(6)]
    for client in later:
        client.sub("x", 1).flush()
    denied = {"sub": {"deny": ["x"]}}
    admin.ask(
        "$SYS.REQ.CLAIMS.UPDATE",
        estate.account_token(estate.a, revocations={"*": 150}, default_permissions=denied),
    )
    for client in revoked:
        client.expect_closed(b"-ERR 'User Authentication Revoked'\r\n")
    for client in later:
        client.expect_re(rb"-ERR 'Permissions Violation for Subscription to \"x\"[^']*'\r\n")
        client.send("PING\r\n").expect(b"PONG\r\n")


@pytest.mark.parametrize("deleted", [False, True], ids=["revoked", "deleted"])
def test_a_pushed_change_counts_when_it_is_answered(directory: Broker, deleted: bool) -> None:
    """Not when each shard next looks at the directory: who is revoked gets nothing that was sent after the answer."""
    admin = Admin(directory)
    admin.ask("$SYS.REQ.CLAIMS.UPDATE", estate.account_token(estate.a))
    admin.ask("$SYS.REQ.CLAIMS.UPDATE", estate.account_token(estate.b, exports=[{"subject": "x", "type": "stream"}]))
    sender = user_of(directory, estate.b, OTHER)
    taken = {"imports": [{"subject": "x", "account": estate.b.public, "type": "stream", "name": "x"}]}
    admin.ask("$SYS.REQ.CLAIMS.UPDATE", estate.account_token(estate.a, **taken))
    revoked = [user_of(directory, estate.a, issued=100).sub("x", 1).flush() for _ in range(6)]
    sender.pub("x", "1").flush()
    for client in revoked:
        client.expect(msg("x", 1, "1"))
    if deleted:
        request = {"accounts": [estate.a.public], "type": "generic", "version": 2}
        admin.ask("$SYS.REQ.CLAIMS.DELETE", estate.operator.token("generic", estate.operator.public, request))
        refusal = VIOLATION
    else:
        admin.ask("$SYS.REQ.CLAIMS.UPDATE", estate.account_token(estate.a, revocations={"*": 150}, **taken))
        refusal = b"-ERR 'User Authentication Revoked'\r\n"
    sender.pub("x", "2").flush()
    for client in revoked:
        client.expect_closed(refusal)


def test_real_clients_with_credentials(operated: Broker, tmp_path: Path) -> None:
    path = tmp_path / "user.creds"
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{estate.user_token(USER, estate.a)}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{USER.seed}\n------END USER NKEY SEED------\n"
    )

    async def talk() -> bytes:
        client = await nats.connect(f"nats://127.0.0.1:{operated.port}", user_credentials=str(path))
        sub = await client.subscribe("hello")
        await client.publish("hello", b"world")
        data: bytes = (await sub.next_msg(60)).data
        await client.close()
        return data

    assert asyncio.run(talk()) == b"world"
