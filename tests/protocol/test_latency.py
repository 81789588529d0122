"""What services in other accounts are told of who asks, and what their exporters are told of how long they took.

Source: accounts.go, client.go processServiceImport. The messages were compared with those of nats-server 2.15.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import nats
import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from harness import Broker
from protocol.test_system import run
from protocol.test_users import Reloading

CONFIG = """
server_name: one
accounts {
  A {
    users [ {user: a, password: a} ]
    exports [
      {service: "help.*", latency: {subject: took, sampling: "100%"}}
      {service: traced, latency: {subject: took, sampling: headers}}
      {service: slow, latency: took, response_threshold: "300ms"}
      {service: many, response_type: stream}
      {service: plain}
    ]
  }
  B {
    users [ {user: b, password: b} ]
    imports [
      {service: {account: A, subject: help.me}, to: ask}
      {service: {account: A, subject: help.you}, to: share, share: true}
      {service: {account: A, subject: traced}}
      {service: {account: A, subject: slow}}
      {service: {account: A, subject: many}}
      {service: {account: A, subject: plain}}
    ]
    exports [ {service: ask}, {service: share} ]
  }
  C { users [ {user: c, password: c} ], imports [ {service: {account: B, subject: ask}, to: chain},
                                                  {service: {account: B, subject: share}, to: hidden} ] }
}
"""


class Scene:
    """A service, who pays for it, and those who ask. On three shards they are on different ones."""

    def __init__(self, helper: Client, watcher: Client, asker: Client, chain: Client) -> None:
        self.helper, self.watcher, self.asker, self.chain = helper, watcher, asker, chain
        self.asked: list[dict[str, Any]] = []
        self.reports: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def serve(self, subject: str) -> Any:
        async def answer(message: Msg) -> None:
            self.asked.append(json.loads((message.headers or {})["Nats-Request-Info"]))
            if message.reply:
                await message.respond(b"well")

        subscription = await self.helper.subscribe(subject, cb=answer)
        await self.helper.flush()
        return subscription


@asynccontextmanager
async def scene(broker: Broker) -> AsyncIterator[Scene]:
    async def take(message: Msg) -> None:
        await made.reports.put(json.loads(message.data))

    clients = [
        await nats.connect(f"nats://127.0.0.1:{broker.port}", user=user, password=user, name=name, allow_reconnect=False)
        for user, name in (("a", "helper"), ("a", "watcher"), ("b", "asker"), ("c", "chain"))
    ]
    made = Scene(*clients)
    try:
        await made.watcher.subscribe("took", cb=take)
        await made.watcher.flush()
        yield made
    finally:
        for client in clients:
            await client.close()


@pytest.fixture
def served(fresh_broker: Callable[..., Broker]) -> Broker:
    return fresh_broker(config=CONFIG)


def test_answers_are_measured(served: Broker) -> None:
    async def work() -> None:
        async with scene(served) as at:
            await at.serve("help.*")
            for subject, client, account in (("ask", at.asker, "B"), ("chain", at.chain, "C"), ("ask", at.asker, "B")):
                assert (await client.request(subject, b"?", timeout=60)).data == b"well"
                metric = await at.reports.get()
                assert (metric["type"], metric["status"]) == ("io.nats.server.metric.v1.service_latency", 200)
                assert metric["id"] and metric["timestamp"] > metric["start"]
                # Of who asks no more than the account, and the round trip that is part of the total.
                assert metric["requestor"].keys() == {"acc", "rtt"} and metric["requestor"]["acc"] == account
                assert metric["responder"].items() >= {
                    "id": at.helper.client_id, "acc": "A", "user": "a", "name": "helper", "server": "one", "kind": "Client",
                }.items()  # fmt: skip
                assert metric["total"] >= metric["service"] >= 0 and metric["total"] > metric["requestor"]["rtt"]
                assert "header" not in metric and "description" not in metric
            # What is not exported with a latency is not measured.
            await at.serve("plain")
            await at.asker.request("plain", b"?", timeout=60)
            await at.asker.request("ask", b"?", timeout=60)
            assert (await at.reports.get())["requestor"]["acc"] == "B" and at.reports.empty()

    run(work())


def test_who_asks_is_told_where_it_is_shared(served: Broker) -> None:
    async def work() -> None:
        async with scene(served) as at:
            await at.serve("help.*")
            for subject, client in (("ask", at.asker), ("share", at.asker), ("chain", at.chain), ("hidden", at.chain)):
                # Whatever a client says of itself.
                headers = {"nats-request-info": '{"acc":"SYS"}', "X": "y"}
                await client.request(subject, b"?", timeout=60, headers=headers)
                assert (await at.reports.get())["status"] == 200
            plain, shared, chained, hidden = at.asked
            assert plain.keys() == {"acc", "rtt"} and plain["acc"] == "B"
            told = {
                "id": at.asker.client_id, "acc": "B", "user": "b", "name": "asker", "lang": "python3", "host": "127.0.0.1",
                "server": "one", "kind": "Client", "client_type": "nats",
            }  # fmt: skip
            assert shared.items() >= told.items() and shared.keys() == told.keys() | {"start", "ver", "rtt"}
            # A chain tells whose request it is, and who passed it on; what the first account does not share stays hidden.
            assert chained == {"acc": "C", "svc": "B", "rtt": chained["rtt"]}
            assert hidden == {"acc": "C", "svc": "B", "rtt": hidden["rtt"], "server": "one"}

    run(work())


def test_requests_that_nobody_answers(served: Broker) -> None:
    async def work() -> None:
        async with scene(served) as at:
            with pytest.raises(nats.errors.NoRespondersError):
                await at.asker.request("ask", b"?", timeout=60)
            metric = await at.reports.get()
            assert (metric["status"], metric["description"]) == (503, "Service Unavailable")
            await at.serve("help.*")
            await at.asker.publish("ask", b"no reply")
            metric = await at.reports.get()
            assert (metric["status"], metric["description"]) == (400, "Bad Request")

            async def silent(message: Msg) -> None:
                pass

            await at.helper.subscribe("slow", cb=silent)
            await at.helper.flush()
            waits = await at.asker.subscribe("inbox")
            await at.asker.publish("slow", b"?", reply="inbox")
            metric = await at.reports.get()
            assert (metric["status"], metric["description"]) == (504, "Service Timeout")
            assert (metric["requestor"]["acc"], metric["total"]) == ("B", 0) and "responder" not in metric
            await at.asker.publish("slow", b"?", reply="inbox")
            await waits.unsubscribe()
            metric = await at.reports.get()
            # It is looked now and then whether someone still waits: the time may be over before.
            assert (metric["status"], metric["description"]) in ((408, "Request Timeout"), (504, "Service Timeout"))

    run(work())


def test_headers_of_tracing_ask_for_a_measurement(served: Broker) -> None:
    async def work() -> None:
        async with scene(served) as at:
            await at.serve("traced")
            context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0"
            for headers, expected in (
                ({}, None),
                ({"traceparent": f"{context}0"}, None),
                ({"traceparent": f"{context}1", "x": "y"}, {"Traceparent": [f"{context}1"]}),
                ({"X-B3-TraceId": "80f1", "x-b3-spanid": "12"}, {"X-B3-Traceid": ["80f1"], "X-B3-Spanid": ["12"]}),
            ):
                await at.asker.request("traced", b"?", timeout=60, headers=headers or None)
                if expected is not None:
                    assert (await at.reports.get())["header"] == expected
            assert at.reports.empty()

    run(work())


def test_a_reload_changes_what_is_measured_and_shared(served: Broker) -> None:
    async def work() -> None:
        reload = Reloading(served)
        async with scene(served) as at:
            await at.serve("help.*")
            await at.asker.request("ask", b"?", timeout=60)
            assert (await at.reports.get())["status"] == 200
            # Shards take the change over on their own; a request shows when.
            unmeasured = CONFIG.replace(', latency: {subject: took, sampling: "100%"}', "")
            reload(unmeasured.replace("to: ask}", "to: ask, share: true}"))
            while "user" not in at.asked[-1]:
                await at.asker.request("ask", b"?", timeout=60)
            unshared = len(at.asked) - 1
            for _ in range(unshared - 1):
                await at.reports.get()
            other = await at.watcher.subscribe("other")
            await at.watcher.flush()
            reload(CONFIG.replace("took", "other"))
            while "user" in at.asked[-1]:
                await at.asker.request("ask", b"?", timeout=60)
            assert json.loads((await other.next_msg(60)).data)["status"] == 200
            assert at.reports.empty()

    run(work())


def test_several_answers_are_passed_on_and_not_measured(served: Broker) -> None:
    async def work() -> None:
        async with scene(served) as at:

            async def count(message: Msg) -> None:
                for number in range(5):
                    await message.respond(b"%d" % number)
                await message.respond(b"")

            await at.helper.subscribe("many", cb=count)
            await at.helper.flush()
            answers = await at.asker.subscribe("answers")
            await at.asker.publish("many", b"?", reply="answers")
            assert [(await answers.next_msg(60)).data for _ in range(6)] == [b"0", b"1", b"2", b"3", b"4", b""]
            assert at.reports.empty()

    run(work())
