"""What the broker says of itself to the system account, and its monitoring pages there. Source: events.go."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest

from harness import Broker

from .test_system import ask, connected, run

CONFIG = """
server_name: one
jetstream {{ store_dir: "{store}" }}
accounts {{
  S {{ users [ {{user: s, password: s}} ] }}
  A {{ jetstream: enabled, users [ {{user: a, password: a}} ] }}
  B {{ users [ {{user: b, password: b}} ] }}
}}
system_account: S
"""


@pytest.fixture
def watched(fresh_broker: Callable[..., Broker], tmp_path: Path) -> Broker:
    return fresh_broker(config=CONFIG.format(store=tmp_path))


def test_pages_are_those_of_http(watched: Broker, workers: int) -> None:
    async def work() -> None:
        async with connected(watched, "s", "a") as (system, a):
            streams = a.jetstream()
            await streams.add_stream(name="ST", subjects=["st.>"])
            await streams.publish("st.x", b"1")
            jsz = (await ask(system, "$SYS.REQ.SERVER.PING.JSZ", {"accounts": True, "streams": True}))["data"]
            assert (jsz["streams"], jsz["messages"]) == (1, 1)
            (account,) = jsz["account_details"]
            assert (account["name"], account["stream_detail"][0]["state"]["messages"]) == ("A", 1)
            mine = (await ask(system, "$SYS.REQ.ACCOUNT.A.JSZ", {"streams": True}))["data"]
            assert mine["stream_detail"][0]["name"] == "ST"
            for name, words in (("B", "not jetstream enabled"), ("NONE", "not found")):
                error = (await ask(system, f"$SYS.REQ.ACCOUNT.{name}.JSZ"))["error"]
                assert error["code"] == 500 and words in error["description"]
            assert (await ask(system, "$SYS.REQ.ACCOUNT.A.LEAFZ"))["data"]["leafs"] == []
            health = (await ask(system, "$SYS.REQ.SERVER.PING.HEALTHZ", {"account": "A", "stream": "NONE"}))["data"]
            assert health == {
                "status": "unavailable", "status_code": 404, "error": 'JetStream stream "NONE" not found on account "A"',
            }  # fmt: skip
            varz = (await ask(system, "$SYS.REQ.SERVER.PING.VARZ"))["data"]
            assert (varz["system_account"], len(varz["shards"]), varz["jetstream"]["stats"]["accounts"]) == ("S", workers, 1)
            assert (await ask(system, "$SYS.REQ.SERVER.PING.RAFTZ"))["error"]["code"] == 404
            await a.subscribe("want.*")
            await a.flush()
            connz = await ask(system, "$SYS.REQ.SERVER.PING.CONNZ", {"acc": "A", "filter_subject": "want.it"})
            assert [one["name"] for one in connz["data"]["connections"]] == ["aname"]
            refused = await ask(system, "$SYS.REQ.SERVER.PING.CONNZ", {"filter_subject": "want.it"})
            assert refused["error"]["description"] == "filter by subject only valid with account filtering"
            for options in ({"limit": "x"}, {"cid": -1}, {"cid": "1" * 5000}, {"state": []}):
                assert (await ask(system, "$SYS.REQ.SERVER.PING.CONNZ", options))["error"]["code"] == 400

    run(work())


def test_the_broker_is_heard(watched: Broker) -> None:
    async def work() -> None:
        async with connected(watched, "s", "s", "s") as systems:
            events: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()

            async def take(message: Any) -> None:
                await events.put((message.subject, json.loads(message.data)))

            # On whatever shards they are, each hears everything.
            for system in systems:
                await system.subscribe("$SYS.SERVER.>", cb=take)
                await system.flush()
            server = (await ask(systems[0], "$SYS.REQ.SERVER.PING.IDZ"))["id"]

            async def next_of(name: str) -> list[dict[str, Any]]:
                found: list[dict[str, Any]] = []
                while len(found) < len(systems):
                    subject, body = await events.get()
                    if subject == f"$SYS.SERVER.{server}.{name}":
                        found.append(body)
                return found

            for body in await next_of("STATSZ"):
                assert (body["server"]["id"], body["statsz"]["connections"]) == (server, 3)
                assert "store_dir" not in body["statsz"]["jetstream"]["config"]
            with pytest.raises(nats.errors.Error):
                await nats.connect(
                    f"nats://127.0.0.1:{watched.port}", user="a", password="s3cret", name="stranger", allow_reconnect=False,
                    max_reconnect_attempts=0, connect_timeout=60,
                )  # fmt: skip
            for body in await next_of("CLIENT.AUTH.ERR"):
                assert (body["client"]["name"], body["reason"]) == ("stranger", "Authentication Failure")
                assert "s3cret" not in json.dumps(body)
            os.kill(watched.pid, signal.SIGUSR2)
            assert {body["id"] for body in await next_of("LAMEDUCK")} == {server}
            os.kill(watched.pid, signal.SIGINT)
            assert {body["name"] for body in await next_of("SHUTDOWN")} == {"one"}

    run(work())


NATS = shutil.which("nats")


@pytest.mark.skipif(NATS is None, reason="needs the nats CLI")
def test_the_command_line_tool(watched: Broker) -> None:
    assert NATS is not None
    system, user = (f"nats://{name}:{name}@127.0.0.1:{watched.port}" for name in "sa")
    client = watched.client().connect(user="a", **{"pass": "a"}, name="it")
    client.send("SUB x 1\r\n").flush()
    for server, command, words in (
        (system, "server list", "Server Overview"),
        (system, "server info", "Server information for one"),
        (system, "server report connections", "it "),
        (system, "server report accounts", "Accounts Overview"),
        (system, "server report jetstream", "JetStream Summary"),
        (system, "server report health", "ok (200)"),
        (system, "server check server --name one --js-required", "OK one"),
        (system, "server account info A", "Account information for account A"),
        (user, "server check connection", "OK Connection"),
        (user, "server check jetstream", "OK JetStream"),
        (user, "account info", "User: a"),
    ):
        said = subprocess.run([NATS, "-s", server, *command.split()], capture_output=True, text=True, timeout=60)
        assert words in said.stdout + said.stderr, f"{command}: {said.stdout}{said.stderr}"
