"""The system account: requests, events, commands, as `nats server` and `nats account` use them. Source: events.go.

Bodies were compared with nats-server 2.15's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import nats
import nats.errors
import pytest
from nats.aio.client import Client

from harness import Broker, wait_until

CONFIG = """
server_name: one
server_tags: ["a:b"]
server_metadata { x: y }
accounts {
  S { users [ {user: s, password: s} ] }
  A { users [ {user: a, password: a, permissions: {publish: {allow: [">"], deny: ["no"]}, subscribe: ["_INBOX.>", "x"]}} ] }
  B { users [ {user: b, password: b} ] }
}
system_account: S
"""


@pytest.fixture
def watched(fresh_broker: Callable[..., Broker]) -> Broker:
    return fresh_broker(config=CONFIG)


@asynccontextmanager
async def connected(broker: Broker, *users: str) -> AsyncIterator[list[Client]]:
    clients = [
        await nats.connect(f"nats://127.0.0.1:{broker.port}", user=user, password=user, name=f"{user}name", allow_reconnect=False)
        for user in users
    ]
    try:
        yield clients
    finally:
        for client in clients:
            await client.close()


async def ask(client: Client, subject: str, payload: Any = None) -> dict[str, Any]:
    body = json.dumps(payload).encode() if payload is not None else b""
    answer: dict[str, Any] = json.loads((await client.request(subject, body, timeout=60)).data)
    return answer


def run(work: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(180):
            await work

    asyncio.run(bounded())


def test_the_broker_is_one_server(watched: Broker, workers: int) -> None:
    async def work() -> None:
        async with connected(watched, "s", "a", "b", "a") as (system, *_):
            answers: list[dict[str, Any]] = []
            inbox = system.new_inbox()

            async def take(message: Any) -> None:
                answers.append(json.loads(message.data))

            await system.subscribe(inbox, cb=take)
            await system.publish("$SYS.REQ.SERVER.PING", b"", reply=inbox)
            statsz = await ask(system, "$SYS.REQ.SERVER.PING.STATSZ")
            await ask(system, "$SYS.REQ.SERVER.PING.IDZ")
            while not answers:
                await asyncio.sleep(0.01)
            assert len(answers) == 1 and answers[0]["server"]["name"] == "one"
            assert (statsz["statsz"]["connections"], statsz["statsz"]["active_accounts"]) == (4, 3)
            server = statsz["server"]["id"]
            assert (await ask(system, f"$SYS.REQ.SERVER.{server}.VARZ"))["data"]["connections"] == 4
            connz = await ask(system, "$SYS.REQ.SERVER.PING.CONNZ", {"auth": True, "acc": "A", "limit": 1})
            assert (connz["data"]["num_connections"], connz["data"]["total"]) == (1, 2)
            assert connz["data"]["connections"][0]["account"] == "A"
            accounts = (await ask(system, "$SYS.REQ.SERVER.PING.ACCOUNTZ"))["data"]
            assert (accounts["system_account"], accounts["accounts"]) == ("S", ["$G", "A", "B", "S"])
            assert (await ask(system, "$SYS.REQ.SERVER.PING.HEALTHZ"))["data"]["status"] == "ok"
            info = (await ask(system, "$SYS.REQ.ACCOUNT.A.INFO"))["data"]
            assert info["client_connections"] == 2
            # What it may ask the system account about itself are imports.
            assert sorted((one["to"], one["subject"], one["share"]) for one in info["imports"] if one["account"] == "S") == [
                ("$SYS.REQ.ACCOUNT.PING.CONNZ", "$SYS.REQ.ACCOUNT.A.CONNZ", False),
                ("$SYS.REQ.ACCOUNT.PING.STATZ", "$SYS.REQ.ACCOUNT.A.STATZ", False),
                ("$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.ACCOUNT.A.CONNZ", False),
                ("$SYS.REQ.USER.INFO", "$SYS.REQ.USER.A.INFO", True),
            ]
            info = (await ask(system, "$SYS.REQ.ACCOUNT.S.INFO"))["data"]
            assert [one["to"] for one in info["imports"]] == ["$SYS.REQ.USER.INFO"]
            exported = {one["subject"] for one in info["exports"]}
            # It has one more for the debugging of subscriptions.
            assert exported - {"$SYS.DEBUG.SUBSCRIBERS"} == {
                "$SYS.REQ.ACCOUNT.*.CONNZ", "$SYS.REQ.ACCOUNT.*.STATZ", "$SYS.REQ.USER.*.INFO",
            }  # fmt: skip
            (stat,) = (await ask(system, "$SYS.REQ.ACCOUNT.A.STATZ"))["data"]["account_statz"]
            assert (stat["acc"], stat["conns"]) == ("A", 2)
            assert (await ask(system, "$SYS.REQ.ACCOUNT.A.CONNS"))["total_conns"] == 2
            assert "SUB" not in (await ask(system, "$SYS.REQ.ACCOUNT.A.SUBSZ"))["data"]
            # Of an account that there is not, also when it is called as what accounts ask for themselves.
            for name in ("NONE", "PING"):
                none = (await ask(system, f"$SYS.REQ.ACCOUNT.{name}.CONNZ"))["data"]
                assert (none["num_connections"], none["total"], none["connections"]) == (0, 0, [])
                with pytest.raises(nats.errors.TimeoutError):
                    await system.request(f"$SYS.REQ.ACCOUNT.{name}.CONNS", b"no json", timeout=0.3)
            # Who is not meant does not answer; nonsense is an error.
            with pytest.raises(nats.errors.TimeoutError):
                await system.request("$SYS.REQ.SERVER.PING.VARZ", b'{"server_name": "two"}', timeout=0.3)
            # What the page refuses is a failure of the server's (events.go zReq); JSON that is none is a bad request.
            for options, code in (({"sort": "x"}, 500), ({"filter_subject": "x"}, 500), ({"state": "x"}, 400)):
                refused = await ask(system, "$SYS.REQ.SERVER.PING.CONNZ", options)
                assert (refused["error"]["code"], "data" in refused) == (code, code == 500)
            assert (refused["server"]["tags"], refused["server"]["metadata"]) == (["a:b"], {"x": "y"})
            with pytest.raises(nats.errors.NoRespondersError):
                await system.request("$SYS.REQ.SERVER.PING.NONE", b"", timeout=60)

    run(work())


def test_users_ask_about_themselves_only(watched: Broker) -> None:
    async def work() -> None:
        async with connected(watched, "s", "a", "b") as (system, a, b):
            info = (await ask(a, "$SYS.REQ.USER.INFO"))["data"]
            assert info == {
                "user": "a", "account": "A", "account_name": "A",
                "permissions": {"publish": {"allow": [">"], "deny": ["no"]}, "subscribe": {"allow": ["_INBOX.>", "x"]}},
            }  # fmt: skip
            assert (await ask(system, "$SYS.REQ.USER.INFO"))["data"]["account"] == "S"
            for subject in ("$SYS.REQ.ACCOUNT.PING.CONNZ", "$SYS.REQ.SERVER.PING.CONNZ"):
                mine = (await ask(b, subject, {"acc": "A", "auth": True}))["data"]
                assert [one["name"] for one in mine["connections"]] == ["bname"]
            (stat,) = (await ask(b, "$SYS.REQ.ACCOUNT.PING.STATZ"))["data"]["account_statz"]
            assert stat["acc"] == "B"
            # What is the system's is not for others, neither requests nor events.
            for subject in ("$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.PING.VARZ", "$SYS.REQ.ACCOUNT.A.CONNZ"):
                with pytest.raises((nats.errors.NoRespondersError, nats.errors.TimeoutError)):
                    await b.request(subject, b"", timeout=0.3)
            seen: list[str] = []

            async def take(message: Any) -> None:
                seen.append(message.subject)

            await b.subscribe("$SYS.>", cb=take)
            await b.flush()
            async with connected(watched, "a"):
                await ask(system, "$SYS.REQ.SERVER.PING.IDZ")
            await b.flush()
            assert seen == []

    run(work())


def test_connections_are_told_kicked_and_sent_away(watched: Broker) -> None:
    async def work() -> None:
        async with connected(watched, "s") as (system,):
            events: dict[str, list[dict[str, Any]]] = {}

            async def take(message: Any) -> None:
                events.setdefault(message.subject, []).append(json.loads(message.data))

            await system.subscribe("$SYS.ACCOUNT.A.>", cb=take)
            await system.flush()
            server = (await ask(system, "$SYS.REQ.SERVER.PING.IDZ"))["id"]
            async with connected(watched, "a") as (a,):
                await a.publish("x", b"12")
                await a.flush()
                cid = a.client_id
                assert "error" not in await ask(system, f"$SYS.REQ.SERVER.{server}.LDM", {"cid": cid})
                assert "error" not in await ask(system, f"$SYS.REQ.SERVER.{server}.KICK", {"cid": cid})
                unknown = await ask(system, f"$SYS.REQ.SERVER.{server}.KICK", {"cid": 10**9})
                assert unknown["error"] == {"code": 500, "description": "no such client or leafnode id"}
                unknown = await ask(system, f"$SYS.REQ.SERVER.{server}.LDM", {"cid": 10**9})
                assert unknown["error"] == {"code": 500, "description": "no such client id"}
                while not a.is_closed:
                    await asyncio.sleep(0.01)
            while "$SYS.ACCOUNT.A.DISCONNECT" not in events:
                await asyncio.sleep(0.01)
            (connect,), (disconnect,) = events["$SYS.ACCOUNT.A.CONNECT"], events["$SYS.ACCOUNT.A.DISCONNECT"]
            assert connect["type"] == "io.nats.server.advisory.v1.client_connect"
            assert {key: connect["client"][key] for key in ("id", "acc", "user", "name", "kind")} == {
                "id": cid, "acc": "A", "user": "a", "name": "aname", "kind": "Client",
            }  # fmt: skip
            assert (disconnect["reason"], disconnect["sent"]) == ("Kicked", {"msgs": 1, "bytes": 2})
            while not events.get("$SYS.ACCOUNT.A.SERVER.CONNS"):
                await asyncio.sleep(0.01)
            assert events["$SYS.ACCOUNT.A.SERVER.CONNS"][0]["acc"] == "A"

    run(work())


def test_requests_are_answered_after_a_shard_has_died(watched: Broker, workers: int) -> None:
    async def work() -> None:
        async with connected(watched, *"sssss") as clients:
            pid = watched.kill_shard(0)
            watched.wait_shards(without=[pid])
            (alive,) = [one for one in clients if not await closed(one)][:1] or [None]
            if alive is not None:
                assert await name(alive) == "one"
        async with connected(watched, "s") as (system,):
            assert await name(system) == "one"

    async def name(client: Client) -> str:
        """Shard 0 takes the requests: while it has no process that serves, nobody is there."""
        while True:
            try:
                return str((await ask(client, "$SYS.REQ.SERVER.PING.IDZ"))["name"])
            except nats.errors.NoRespondersError:
                await asyncio.sleep(0.01)

    async def closed(client: Client) -> bool:
        try:
            await client.flush(timeout=5)
        except Exception:
            return True
        return client.is_closed

    run(work())
    wait_until(lambda: watched.alive, "the broker")


@pytest.mark.parametrize("text", ["", "no_system_account: true"])
def test_without_a_system_account_of_its_own(fresh_broker: Callable[..., Broker], text: str) -> None:
    """Accounts ask about themselves, unless there shall be none; the `nats` command's reports do."""
    broker = fresh_broker(config=text)

    async def work() -> None:
        client = await nats.connect(f"nats://127.0.0.1:{broker.port}", name="me", allow_reconnect=False)
        try:
            if text:
                with pytest.raises(nats.errors.NoRespondersError):
                    await client.request("$SYS.REQ.SERVER.PING.CONNZ", b"", timeout=60)
                return
            (mine,) = (await ask(client, "$SYS.REQ.SERVER.PING.CONNZ"))["data"]["connections"]
            assert mine["name"] == "me"
            (stat,) = (await ask(client, "$SYS.REQ.ACCOUNT.PING.STATZ"))["data"]["account_statz"]
            assert (stat["acc"], stat["conns"]) == ("$G", 1)
            assert (await ask(client, "$SYS.REQ.USER.INFO"))["data"]["account"] == "$G"
        finally:
            await client.close()

    asyncio.run(work())
