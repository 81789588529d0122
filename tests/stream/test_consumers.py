"""Consumers as clients see them, with one and with three workers: pull, push and ordered; what is acknowledged and how; what
they say of themselves. Texts and numbers were compared with a nats-server.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, RetentionPolicy, StreamConfig
from nats.js.client import JetStreamContext

from harness import Broker

SECONDS = 60.0


class Bench:
    """A client with a stream of its own: `name`, which takes `name.>`."""

    def __init__(self, client: Client, name: str) -> None:
        self.client = client
        self.name = name
        self.js: JetStreamContext = client.jetstream(timeout=SECONDS)

    async def stream(self, messages: int = 0, subject: str = "a", **given: Any) -> None:
        await self.js.add_stream(StreamConfig(name=self.name, subjects=[f"{self.name}.>"], **given))
        for i in range(messages):
            await self.js.publish(f"{self.name}.{subject}", b"%d" % i)

    async def ask(self, what: str, payload: Any = "") -> dict[str, Any]:
        body = payload if isinstance(payload, str) else json.dumps(payload)
        answer = await self.client.request(f"$JS.API.CONSUMER.{what}", body.encode(), timeout=SECONDS)
        said: dict[str, Any] = json.loads(answer.data)
        return said

    async def make(self, consumer: str = "c", **config: Any) -> dict[str, Any]:
        """A durable pull consumer with explicit acknowledgements, unless said otherwise."""
        config = {"durable_name": consumer, "name": consumer, "ack_policy": "explicit", **config}
        return await self.ask(f"CREATE.{self.name}.{consumer}", {"stream_name": self.name, "config": config})

    async def info(self, consumer: str = "c") -> dict[str, Any]:
        return await self.ask(f"INFO.{self.name}.{consumer}")

    async def until(self, check: Callable[[dict[str, Any]], bool], consumer: str = "c") -> dict[str, Any]:
        """Its info, once it is so."""
        async with asyncio.timeout(SECONDS):
            while not check(info := await self.info(consumer)):
                await asyncio.sleep(0.02)
        return info

    async def pull(self, request: Any = "", consumer: str = "c") -> Pull:
        pull = Pull(self, consumer)
        await pull.open()
        await pull.ask(request)
        return pull


class Pull:
    """Requests of one inbox, and what comes of them."""

    def __init__(self, bench: Bench, consumer: str) -> None:
        self.bench = bench
        self.subject = f"$JS.API.CONSUMER.MSG.NEXT.{bench.name}.{consumer}"
        self.inbox = bench.client.new_inbox()

    async def open(self) -> None:
        self.subscription = await self.bench.client.subscribe(self.inbox)

    async def ask(self, request: Any) -> None:
        body = request if isinstance(request, str) else json.dumps(request)
        await self.bench.client.publish(self.subject, body.encode(), reply=self.inbox)

    async def next(self) -> Msg:
        return await self.subscription.next_msg(timeout=SECONDS)

    async def messages(self, count: int) -> list[Msg]:
        out = [await self.next() for _ in range(count)]
        assert all(m.reply.startswith("$JS.ACK.") for m in out), [(m.headers, m.reply) for m in out]
        return out

    async def status(self) -> dict[str, str]:
        """The headers of a status message."""
        message = await self.next()
        assert message.headers is not None and "Status" in message.headers, (message.subject, message.data)
        return dict(message.headers)


def run(test: Callable[[Bench], Awaitable[None]], broker: Broker, name: str) -> None:
    async def main() -> None:
        client = await nats.connect(f"nats://127.0.0.1:{broker.port}", allow_reconnect=False)
        try:
            await test(Bench(client, name))
        finally:
            await client.close()

    asyncio.run(main())


def numbers(info: dict[str, Any]) -> tuple[int, ...]:
    """delivered (consumer, stream), floor (consumer, stream), ack pending, redelivered, waiting, pending"""
    return (info["delivered"]["consumer_seq"], info["delivered"]["stream_seq"], info["ack_floor"]["consumer_seq"],
            info["ack_floor"]["stream_seq"], info["num_ack_pending"], info["num_redelivered"], info["num_waiting"],
            info["num_pending"])


@pytest.mark.parametrize("storage", ["file", "memory"])
def test_pull_and_acknowledge(js: Broker, name: str, storage: str) -> None:
    async def test(b: Bench) -> None:
        await b.stream(5, storage=storage)
        assert numbers(await b.make()) == (0, 0, 0, 0, 0, 0, 0, 5)
        pull = await b.pull({"batch": 3})
        got = await pull.messages(3)
        assert [m.data for m in got] == [b"0", b"1", b"2"] and {m.subject for m in got} == {f"{name}.a"}
        meta = got[2].metadata
        assert (meta.stream, meta.consumer, meta.sequence.stream, meta.sequence.consumer) == (name, "c", 3, 3)
        assert (meta.num_delivered, meta.num_pending) == (1, 2)
        assert numbers(await b.info()) == (3, 3, 0, 0, 3, 0, 0, 2)
        await got[1].ack_sync(SECONDS)
        assert numbers(await b.info()) == (3, 3, 0, 0, 2, 0, 0, 2)
        await got[0].ack_sync(SECONDS)
        assert numbers(await b.info()) == (3, 3, 2, 2, 1, 0, 0, 2)
        await got[2].ack_sync(SECONDS)
        assert numbers(await b.info()) == (3, 3, 3, 3, 0, 0, 0, 2)

    run(test, js, name)


def test_requests_for_none_or_less_have_one_and_are_told_as_they_came(js: Broker, name: str) -> None:
    async def test(b: Bench) -> None:
        await b.stream(2)
        await b.make()
        for at, batch in enumerate((0, -1)):
            pull = await b.pull({"batch": batch, "max_bytes": -7, "expires": 5_000_000_000})
            assert len(await pull.messages(1)) == 1, at
        for batch, size in ((0, 0), (-1, 0), (2, -7), (-3, -9)):
            pull = await b.pull({"batch": batch, "max_bytes": size, "expires": 100_000_000})
            assert await pull.status() == {
                "Status": "408", "Description": "Request Timeout", "Nats-Pending-Messages": str(batch),
                "Nats-Pending-Bytes": str(size)}

    run(test, js, name)


def test_statuses_of_requests(js: Broker, name: str) -> None:
    async def test(b: Bench) -> None:
        await b.stream(1)
        await b.make(max_waiting=1, max_batch=10, max_expires=5_000_000_000, max_bytes=1000)
        pull = await b.pull({"batch": 3, "expires": 100_000_000})
        await pull.messages(1)
        assert await pull.status() == {
            "Status": "408", "Description": "Request Timeout", "Nats-Pending-Messages": "2", "Nats-Pending-Bytes": "0"}
        for request, status, text in (
                ({"batch": 1, "no_wait": True}, "404", "No Messages"), ({"batch": 11}, "409", "Exceeded MaxRequestBatch of 10"),
                ({"batch": 1, "expires": 6_000_000_000}, "409", "Exceeded MaxRequestExpires of 5s"),
                ({"batch": 1, "max_bytes": 1001}, "409", "Exceeded MaxRequestMaxBytes of 1000"),
                ({"batch": 1, "expires": 1000, "idle_heartbeat": 900}, "400", "Bad Request - heartbeat value too large"),
                ({"batch": "x"}, "400", "Bad Request - json: cannot unmarshal string into Go struct field "
                                        "JSApiConsumerGetNextRequest.batch of type int")):
            await pull.ask(request)
            assert await pull.status() == {"Status": status, "Description": text}
        await pull.ask({"batch": 1, "unknown": 5})       # ignored, as there; it waits
        await b.until(lambda info: bool(info["num_waiting"] == 1))
        await pull.ask({"batch": 1})
        assert await pull.status() == {"Status": "409", "Description": "Exceeded MaxWaiting"}
        await b.js.publish(f"{name}.a", b"x" * 30)
        await pull.messages(1)
        await b.js.publish(f"{name}.a", b"x" * 300)
        await pull.ask({"batch": 5, "max_bytes": 100})
        assert (await pull.status())["Description"] == "Message Size Exceeds MaxBytes"
        await pull.ask({"batch": 1, "max_bytes": 1000})
        await pull.messages(1)
        done = await pull.status()
        assert done["Description"] == "Batch Completed" and done["Nats-Pending-Messages"] == "0"
        assert 500 < int(done["Nats-Pending-Bytes"]) < 700
        await pull.ask({"batch": 1})
        await b.until(lambda info: bool(info["num_waiting"] == 1))
        assert (await b.ask(f"DELETE.{name}.c"))["success"] is True
        assert await pull.status() == {"Status": "409", "Description": "Consumer Deleted"}

    run(test, js, name)


def test_a_request_whose_inbox_is_gone(js: Broker, name: str) -> None:
    async def test(b: Bench) -> None:
        await b.stream()
        await b.make()
        gone = await b.pull({"batch": 5})
        await b.until(lambda info: bool(info["num_waiting"] == 1))
        await gone.subscription.unsubscribe()
        await b.until(lambda info: bool(info["num_waiting"] == 0))
        pull = await b.pull({"batch": 1})
        await b.js.publish(f"{name}.a", b"x")
        assert (await pull.messages(1))[0].metadata.num_delivered == 1

    run(test, js, name)


def test_idle_heartbeats_of_a_request(js: Broker, name: str) -> None:
    async def test(b: Bench) -> None:
        await b.stream(1)
        await b.make()
        pull = await b.pull({"batch": 2, "expires": 10_000_000_000, "idle_heartbeat": 100_000_000})
        await pull.messages(1)
        assert await pull.status() == {
            "Status": "100", "Description": "Idle Heartbeat", "Nats-Last-Consumer": "1", "Nats-Last-Stream": "1"}

    run(test, js, name)


def test_redelivery(js: Broker, name: str) -> None:
    async def test(b: Bench) -> None:
        await b.stream(3)
        await b.make(ack_wait=1_000_000_000, max_deliver=3)
        advisories = await b.client.subscribe(f"$JS.EVENT.ADVISORY.CONSUMER.*.{name}.c")
        pull = await b.pull({"batch": 3})
        one, two, three = await pull.messages(3)
        await one.nak()
        await pull.ask({"batch": 1})
        again, = await pull.messages(1)
        assert (again.data, again.metadata.num_delivered, again.metadata.sequence.consumer) == (b"0", 2, 4)
        said = json.loads((await advisories.next_msg(timeout=SECONDS)).data)
        assert said["type"] == "io.nats.jetstream.advisory.v1.nak"
        assert (said["consumer_seq"], said["stream_seq"], said["deliveries"]) == (1, 1, 1)
        await two.term()
        said = json.loads((await advisories.next_msg(timeout=SECONDS)).data)
        assert said["type"] == "io.nats.jetstream.advisory.v1.terminated" and said["stream_seq"] == 2
        await three.ack()
        # Of the first nobody speaks any more: it comes a third time, and then never again.
        await pull.ask({"batch": 5})
        last, = await pull.messages(1)
        assert (last.data, last.metadata.num_delivered) == (b"0", 3)
        said = json.loads((await advisories.next_msg(timeout=SECONDS)).data)
        assert said["type"] == "io.nats.jetstream.advisory.v1.max_deliver" and (said["stream_seq"], said["deliveries"]) == (1, 3)
        info = await b.info()
        assert (info["num_ack_pending"], info["num_redelivered"]) == (0, 1)

    run(test, js, name)


def test_delays_and_progress(js: Broker, name: str) -> None:
    async def test(b: Bench) -> None:
        await b.stream(1)
        await b.make("steps", backoff=[100_000_000, 60_000_000_000], max_deliver=5)
        pull = await b.pull({"batch": 2}, "steps")
        assert [m.metadata.num_delivered for m in await pull.messages(2)] == [1, 2]
        await b.make(ack_wait=60_000_000_000)
        pull = await b.pull({"batch": 5})
        first = await pull.next()
        await first.nak(delay=0.1)
        second = await pull.next()
        await second.in_progress()
        await second.respond(b"-NAK 50ms")
        third = await pull.next()
        await third.respond(b"-NAK nonsense")   # at once, not after the wait for an acknowledgement
        fourth = await pull.next()
        assert [m.metadata.num_delivered for m in (first, second, third, fourth)] == [1, 2, 3, 4]

    run(test, js, name)


def test_max_ack_pending(js: Broker, name: str) -> None:
    async def test(b: Bench) -> None:
        await b.stream(5)
        await b.make(max_ack_pending=2)
        pull = await b.pull({"batch": 5})
        one, _ = await pull.messages(2)
        info = await b.info()
        assert (info["num_ack_pending"], info["num_pending"], info["num_waiting"]) == (2, 3, 1)
        await one.ack()
        third, = await pull.messages(1)
        assert third.data == b"2"

    run(test, js, name)


def test_acknowledge_all(js: Broker, name: str) -> None:
    async def test(b: Bench) -> None:
        await b.stream(5)
        await b.make(ack_policy="all")
        pull = await b.pull({"batch": 5})
        got = await pull.messages(5)
        await got[2].ack_sync(SECONDS)
        assert numbers(await b.info()) == (5, 5, 3, 3, 2, 0, 0, 0)

    run(test, js, name)


def test_ack_and_next(js: Broker, name: str) -> None:
    async def test(b: Bench) -> None:
        await b.stream(3)
        await b.make()
        pull = await b.pull()
        one, = await pull.messages(1)
        await b.client.publish(one.reply, b"+NXT", reply=pull.inbox)
        two, = await pull.messages(1)
        await b.client.publish(two.reply, b'+NXT {"batch":1}', reply=pull.inbox)
        three, = await pull.messages(1)
        assert (two.data, three.data) == (b"1", b"2")
        assert (await b.info())["num_ack_pending"] == 1

    run(test, js, name)


@pytest.mark.parametrize(("policy", "more", "expected"), [
    ("all", {}, [0, 1, 2, 3, 4, 5]), ("last", {}, [5]), ("new", {}, []), ("by_start_sequence", {"opt_start_seq": 4}, [3, 4, 5]),
    ("last_per_subject", {"filter_subject": "%s.>"}, [4, 5]), ("last", {"filter_subject": "%s.a"}, [4]),
    ("all", {"filter_subject": "%s.b"}, [1, 3, 5]), ("all", {"filter_subjects": ["%s.a", "%s.x"]}, [0, 2, 4])])
def test_where_it_begins(js: Broker, name: str, policy: str, more: dict[str, Any], expected: list[int]) -> None:
    async def test(b: Bench) -> None:
        await b.stream()
        for i in range(6):
            await b.js.publish(f"{name}.{'ab'[i % 2]}", b"%d" % i)
        given = json.loads(json.dumps(more).replace("%s", name))
        info = await b.make(deliver_policy=policy, **given)
        assert info["num_pending"] == len(expected), info
        pull = await b.pull({"batch": 10, "no_wait": True})
        if expected:
            assert [int(m.data) for m in await pull.messages(len(expected))] == expected
        assert (await pull.status())["Status"] == "404"
        await b.js.publish(f"{name}.a", b"9")
        await b.js.publish(f"{name}.b", b"9")
        await pull.ask({"batch": 1})
        assert (await pull.messages(1))[0].data == b"9"

    run(test, js, name)


def test_start_by_time_and_headers_only(js: Broker, name: str) -> None:
    async def test(b: Bench) -> None:
        await b.stream(2)
        third = await b.js.publish(f"{name}.a", b"payload", headers={"X": "y"})
        found = await b.js.get_msg(name, third.seq)
        time = json.loads((await b.client.request(f"$JS.API.STREAM.MSG.GET.{name}", b'{"seq":3}')).data)["message"]["time"]
        await b.make(deliver_policy="by_start_time", opt_start_time=time, headers_only=True)
        message, = await (await b.pull({"batch": 1})).messages(1)
        assert (message.data, message.headers, found.data) == (b"", {"X": "y", "Nats-Msg-Size": "7"}, b"payload")

    run(test, js, name)


def test_push(js: Broker, name: str) -> None:
    async def test(b: Bench) -> None:
        await b.stream(100)
        inbox = b.client.new_inbox()
        info = await b.make(deliver_subject=inbox)
        assert "push_bound" not in info
        sub = await b.client.subscribe(inbox)
        got = [await sub.next_msg(timeout=SECONDS) for _ in range(100)]
        assert [int(m.data) for m in got] == list(range(100))
        assert [m.metadata.num_pending for m in got] == list(range(99, -1, -1))
        assert (await b.info())["push_bound"] is True
        for message in got[:-1]:
            await message.ack()
        info = await b.until(lambda info: bool(info["num_ack_pending"] == 1))
        assert info["ack_floor"]["stream_seq"] == 99
        await sub.unsubscribe()
        await b.until(lambda info: "push_bound" not in info)
        pull = await b.pull()
        assert await pull.status() == {"Status": "409", "Description": "Consumer is push based"}

    run(test, js, name)


def test_a_new_push_consumer_says_what_it_begins_with(js: Broker, name: str) -> None:
    """Clients count from the answer how many messages there were: it is as before the first delivery."""

    async def test(b: Bench) -> None:
        await b.stream(5)
        for consumer in ("c", "d", "e"):
            inbox = b.client.new_inbox()
            sub = await b.client.subscribe(inbox)
            said = await b.make(consumer, deliver_subject=inbox, ack_policy="none")
            assert (said["num_pending"], said["delivered"]) == (5, {"consumer_seq": 0, "stream_seq": 0}), said
            assert said["push_bound"] is True
            assert [(await sub.next_msg(timeout=SECONDS)).data for _ in range(5)] == [b"%d" % n for n in range(5)]
            info = await b.until(lambda info: bool(info["num_pending"] == 0), consumer)
            assert (info["delivered"]["consumer_seq"], info["delivered"]["stream_seq"]) == (5, 5)

    run(test, js, name)


@pytest.mark.parametrize(("subject", "group"), [("{}.here", ""), ("{}.*", ""), ("{}.here", "g"), ("{}.>", "g")])
def test_push_starts_and_stops_with_who_listens(js: Broker, name: str, subject: str, group: str) -> None:
    """On whatever shard: clients come one after the other, so that every shard has its turn. Nobody asks for the info, which
    would look for interest itself."""

    async def test(b: Bench) -> None:
        to = f"_to.{name}"
        others = [await nats.connect(f"nats://127.0.0.1:{js.port}", allow_reconnect=False) for _ in range(5)]
        try:
            await b.stream()
            given = {"deliver_group": group} if group else {}
            await b.make(deliver_subject=f"{to}.here", ack_policy="none", **given)
            for number, client in enumerate([*others, *others]):
                # Stored while nobody listens, and not lost.
                await b.js.publish(f"{name}.a", b"%d" % number)
                sub = await client.subscribe(subject.format(to), queue=group)
                assert (await sub.next_msg(timeout=SECONDS)).data == b"%d" % number
                await b.js.publish(f"{name}.a", b"more")
                assert (await sub.next_msg(timeout=SECONDS)).data == b"more"
                await sub.unsubscribe()
                await client.flush(10)
            assert "push_bound" not in await b.info()
            # A connection that ends has no time to say UNSUB.
            sub = await others[0].subscribe(subject.format(to), queue=group)
            await others[0].flush(10)
            await b.js.publish(f"{name}.a", b"one")
            assert (await sub.next_msg(timeout=SECONDS)).data == b"one"
            await others[0].close()
            await b.until(lambda info: "push_bound" not in info)
            await b.js.publish(f"{name}.a", b"two")
            sub = await others[1].subscribe(subject.format(to), queue=group)
            assert (await sub.next_msg(timeout=SECONDS)).data == b"two"
        finally:
            for client in others:
                await client.close()

    run(test, js, name)


def test_push_to_a_queue_group(js: Broker, name: str) -> None:
    async def test(b: Bench) -> None:
        await b.stream()
        inbox = b.client.new_inbox()
        await b.make(deliver_subject=inbox, deliver_group="g", ack_policy="none")
        counts = [0, 0]

        def taker(at: int) -> Callable[[Msg], Awaitable[None]]:
            async def take(message: Msg) -> None:
                counts[at] += 1

            return take

        for at in range(2):
            await b.client.subscribe(inbox, queue="g", cb=taker(at))
        for i in range(100):
            await b.js.publish(f"{name}.a", b"%d" % i)
        async with asyncio.timeout(SECONDS):
            while sum(counts) < 100:
                await asyncio.sleep(0.02)
        assert min(counts) > 10 and sum(counts) == 100

    run(test, js, name)


def test_flow_control_and_heartbeats(js: Broker, name: str) -> None:
    async def test(b: Bench) -> None:
        await b.stream()
        payload = b"x" * 20000
        for _ in range(200):
            await b.js.publish(f"{name}.a", payload)
        inbox = b.client.new_inbox()
        sub = await b.client.subscribe(inbox)
        await b.make(deliver_subject=inbox, ack_policy="none", flow_control=True, idle_heartbeat=100_000_000)
        got, asked, beats = 0, "", []
        # A beat that says nothing of it comes where the shard was not let run for a while.
        while not any("Nats-Consumer-Stalled" in beat for beat in beats):
            message = await sub.next_msg(timeout=SECONDS)
            status = (message.headers or {}).get("Status")
            if status is None:
                got += 1
            elif message.headers is not None and message.headers["Description"] == "FlowControl Request":
                asked = message.reply
            elif message.headers is not None:
                beats.append(dict(message.headers))
        # Over its window it waits for the answer, and says so.
        assert got < 200 and beats[-1]["Nats-Consumer-Stalled"] == asked and beats[-1]["Nats-Last-Consumer"] == str(got)
        while got < 200:
            if asked:
                await b.client.publish(asked, b"")
                asked = ""
            message = await sub.next_msg(timeout=SECONDS)
            if message.headers is None:
                got += 1
            elif message.reply:
                asked = message.reply

    run(test, js, name)


def test_ordered(js: Broker, name: str) -> None:
    async def test(b: Bench) -> None:
        await b.stream()
        for i in range(2000):
            await b.client.publish(f"{name}.a", b"%d" % i)
        await b.client.flush()
        sub = await b.js.subscribe(f"{name}.>", ordered_consumer=True)
        got = [int((await sub.next_msg(timeout=SECONDS)).data) for _ in range(2000)]
        assert got == list(range(2000))

    run(test, js, name)


def test_original_replay_and_rate(js: Broker, name: str) -> None:
    async def test(b: Bench) -> None:
        await b.stream(1)
        await asyncio.sleep(0.2)
        await b.js.publish(f"{name}.a", b"1")
        loop = asyncio.get_running_loop()
        inbox = b.client.new_inbox()
        sub = await b.client.subscribe(inbox)
        start = loop.time()
        await b.make(deliver_subject=inbox, ack_policy="none", replay_policy="original")
        for _ in range(2):
            await sub.next_msg(timeout=SECONDS)
        assert loop.time() - start > 0.19
        inbox = b.client.new_inbox()
        sub = await b.client.subscribe(inbox)
        # What may come at once is as long as the longest message; behind it 100,000 bytes a second.
        await b.js.update_stream(StreamConfig(name=name, subjects=[f"{name}.>"], max_msg_size=20000))
        for _ in range(3):
            await b.js.publish(f"{name}.b", b"x" * 19000)
        start = loop.time()
        await b.make("r", deliver_subject=inbox, ack_policy="none", rate_limit_bps=800_000, filter_subject=f"{name}.b")
        for _ in range(3):
            await sub.next_msg(timeout=SECONDS)
        assert loop.time() - start > 0.3

    run(test, js, name)


@pytest.mark.parametrize("storage", ["file", "memory"])
def test_a_work_queue(js: Broker, name: str, storage: str) -> None:
    async def test(b: Bench) -> None:
        await b.stream(3, retention=RetentionPolicy.WORK_QUEUE, storage=storage)
        await b.make(filter_subject=f"{name}.a")
        for filter in (f"{name}.*", f"{name}.a"):
            refused = await b.make("d", filter_subject=filter)
            assert refused["error"]["err_code"] == 10100
        assert (await b.make("d"))["error"]["err_code"] == 10099
        assert (await b.make("d", filter_subject=f"{name}.b", ack_policy="all"))["error"]["err_code"] == 10098
        pull = await b.pull({"batch": 3})
        got = await pull.messages(3)
        await got[1].ack_sync(SECONDS)
        async with asyncio.timeout(SECONDS):
            while (state := (await b.js.stream_info(name)).state).messages != 2:
                await asyncio.sleep(0.02)
        assert (state.first_seq, state.last_seq) == (1, 3)
        await got[0].ack()
        await got[2].term()
        async with asyncio.timeout(SECONDS):
            while (await b.js.stream_info(name)).state.messages:
                await asyncio.sleep(0.02)

    run(test, js, name)


def test_interest(js: Broker, name: str) -> None:
    async def test(b: Bench) -> None:
        await b.stream(2, retention=RetentionPolicy.INTEREST)
        assert (await b.js.stream_info(name)).state.messages == 0
        await b.make("one")
        await b.make("two", filter_subject=f"{name}.b")
        await b.js.publish(f"{name}.a", b"0")
        await b.js.publish(f"{name}.b", b"1")
        got = await (await b.pull({"batch": 2}, "one")).messages(2)
        for message in got:
            await message.ack_sync(SECONDS)
        async with asyncio.timeout(SECONDS):
            while (await b.js.stream_info(name)).state.messages != 1:
                await asyncio.sleep(0.02)
        assert (await b.js.get_msg(name, 4)).data == b"1"
        await b.js.delete_consumer(name, "two")
        async with asyncio.timeout(SECONDS):
            while (await b.js.stream_info(name)).state.messages:
                await asyncio.sleep(0.02)

    run(test, js, name)


def test_limits_become_interest(js: Broker, name: str) -> None:
    """What all consumers have had already goes with the update."""

    async def test(b: Bench) -> None:
        await b.stream(5)
        await b.make("one")
        await b.make("two", ack_policy="all")
        for message in await (await b.pull({"batch": 4}, "one")).messages(4):
            await message.ack_sync(SECONDS)
        last = (await (await b.pull({"batch": 3}, "two")).messages(3))[-1]
        await last.ack_sync(SECONDS)
        assert (await b.js.stream_info(name)).state.messages == 5
        await b.js.update_stream(name=name, subjects=[f"{name}.>"], retention=RetentionPolicy.INTEREST)
        async with asyncio.timeout(SECONDS):
            while (state := (await b.js.stream_info(name)).state).messages != 2:
                await asyncio.sleep(0.02)
        assert (state.first_seq, state.last_seq) == (4, 5)

    run(test, js, name)


def test_pause(js: Broker, name: str) -> None:
    async def test(b: Bench) -> None:
        await b.stream(1)
        await b.make()
        advisories = await b.client.subscribe(f"$JS.EVENT.ADVISORY.CONSUMER.PAUSE.{name}.c")
        said = await b.ask(f"PAUSE.{name}.c", {"pause_until": "2100-01-01T00:00:00Z"})
        assert said["paused"] is True and said["pause_until"] == "2100-01-01T00:00:00Z" and said["pause_remaining"] > 0
        info = await b.info()
        assert info["paused"] is True and info["config"]["metadata"]["_nats.req.level"] == "1"
        assert json.loads((await advisories.next_msg(timeout=SECONDS)).data)["paused"] is True
        pull = await b.pull({"batch": 1, "expires": 300_000_000})
        assert (await pull.status())["Status"] == "408"
        await pull.ask({"batch": 1})
        assert (await b.ask(f"PAUSE.{name}.c"))["paused"] is False
        await pull.messages(1)
        # The nats CLI sends what Go has for no time; and there are times that no clock of ours can hold.
        for time in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"):
            made = await b.make(f"t{time[:4]}", pause_until=time)
            assert made["config"]["pause_until"] == time and made.get("paused", False) is (time > "2")
            made = await b.make(f"s{time[:4]}", deliver_policy="by_start_time", opt_start_time=time)
            assert made["name"] == f"s{time[:4]}"

    run(test, js, name)


def test_times_of_a_pause_that_no_clock_has(js: Broker, name: str) -> None:
    """Clients send Go's zero time for no pause, and may send any year that JSON can say."""

    async def test(b: Bench) -> None:
        await b.stream(1)
        assert "error" not in await b.make(pause_until="0001-01-01T00:00:00Z")
        await (await b.pull({"batch": 1})).messages(1)
        said = await b.ask(f"PAUSE.{name}.c", {"pause_until": "9999-12-31T00:00:00Z"})
        assert said["paused"] is True
        assert (await b.info())["paused"] is True

    run(test, js, name)


def test_update(js: Broker, name: str) -> None:
    async def test(b: Bench) -> None:
        await b.stream()
        for i in range(4):
            await b.js.publish(f"{name}.{'ab'[i % 2]}", b"%d" % i)
        await b.make()
        assert (await b.make(ack_policy="all"))["error"]["description"] == "ack policy can not be updated"
        info = await b.make(filter_subject=f"{name}.b", description="d", max_ack_pending=7)
        assert (info["num_pending"], info["config"]["description"], info["config"]["max_ack_pending"]) == (2, "d", 7)
        got = await (await b.pull({"batch": 2})).messages(2)
        assert [m.data for m in got] == [b"1", b"3"]

    run(test, js, name)


def test_nobody_uses_it(js: Broker, name: str) -> None:
    async def test(b: Bench) -> None:
        await b.stream(1)
        advisories = await b.client.subscribe(f"$JS.EVENT.ADVISORY.CONSUMER.*.{name}.*")
        made = await b.ask(f"CREATE.{name}", {"stream_name": name, "config": {
            "ack_policy": "none", "inactive_threshold": 200_000_000, "mem_storage": True}})
        assert len(made["name"]) == 8 and made["config"]["inactive_threshold"] == 200_000_000
        async with asyncio.timeout(SECONDS):
            while "error" not in await b.info(made["name"]):
                await asyncio.sleep(0.6)
        actions = [json.loads((await advisories.next_msg(timeout=SECONDS)).data)["action"] for _ in range(2)]
        assert actions == ["create", "delete"]

    run(test, js, name)


def test_purged_and_deleted_messages(js: Broker, name: str) -> None:
    async def test(b: Bench) -> None:
        await b.stream(10)
        await b.make()
        pull = await b.pull({"batch": 4})
        await pull.messages(4)
        await b.js.delete_msg(name, 2)
        await b.js.delete_msg(name, 7)
        info = await b.until(lambda info: bool(info["num_ack_pending"] == 3))
        assert info["num_pending"] == 5
        await b.js.purge_stream(name)
        info = await b.until(lambda info: bool(info["num_pending"] == 0))
        assert numbers(info)[2:] == (4, 10, 0, 0, 0, 0)
        await b.js.publish(f"{name}.a", b"new")
        await pull.ask({"batch": 1})
        assert (await pull.messages(1))[0].data == b"new"

    run(test, js, name)


def test_samples(js: Broker, name: str) -> None:
    async def test(b: Bench) -> None:
        await b.stream(1)
        await b.make(sample_freq="100%")
        metrics = await b.client.subscribe(f"$JS.EVENT.METRIC.CONSUMER.ACK.{name}.c")
        message, = await (await b.pull({"batch": 1})).messages(1)
        await message.ack()
        said = json.loads((await metrics.next_msg(timeout=SECONDS)).data)
        assert said["type"] == "io.nats.jetstream.metric.v1.consumer_ack"
        assert [said[k] for k in ("stream", "consumer", "consumer_seq", "stream_seq", "deliveries")] == [name, "c", 1, 1, 1]
        assert said["ack_time"] > 0

    run(test, js, name)


def test_key_value_watch_and_object(js: Broker, name: str) -> None:
    async def test(b: Bench) -> None:
        kv = await b.js.create_key_value(bucket=name, history=3)
        for i in range(5):
            await kv.put(f"k{i % 2}", b"%d" % i)
        watcher = await kv.watchall()
        seen = {}
        while (entry := await watcher.updates(timeout=SECONDS)) is not None:
            seen[entry.key] = entry.value
        assert seen == {"k0": b"4", "k1": b"3"}
        await kv.put("k2", b"new")
        update = await watcher.updates(timeout=SECONDS)
        assert update is not None and (update.key, update.value) == ("k2", b"new")
        assert [e.value for e in await kv.history("k0")] == [b"0", b"2", b"4"]
        assert sorted(await kv.keys()) == ["k0", "k1", "k2"]
        store = await b.js.create_object_store(f"{name}o")
        data = bytes(range(256)) * 2000
        await store.put("thing", data)
        assert (await store.get("thing")).data == data

    run(test, js, name)


def test_state_survives_a_restart(tmp_path: Any, workers: int) -> None:
    args = ["-js", "-sd", str(tmp_path / "store")]

    async def first(b: Bench) -> None:
        await b.stream(10)
        await b.make(max_deliver=5)
        await b.js.add_consumer("S", ConsumerConfig(
            durable_name="all", ack_policy=AckPolicy.ALL, deliver_policy=DeliverPolicy.NEW))
        got = await (await b.pull({"batch": 6})).messages(6)
        for message in (got[0], got[1], got[3]):
            await message.ack_sync(SECONDS)
        await got[2].nak(delay=0.01)
        await b.info()  # behind it

    async def second(b: Bench) -> None:
        info = await b.info()
        assert numbers(info)[:5] == (6, 6, 2, 2, 3) and info["num_pending"] == 4 and info["config"]["max_deliver"] == 5
        assert (await b.info("all"))["delivered"]["stream_seq"] == 10
        names = (await b.ask("NAMES.S"))["consumers"]
        assert names == ["all", "c"]
        # What was refused comes again, and then what is new; what was acknowledged never.
        got = await (await b.pull({"batch": 5})).messages(5)
        assert [m.metadata.sequence.stream for m in got] == [3, 7, 8, 9, 10]
        assert got[0].metadata.num_delivered == 2

    for test in (first, second):
        with Broker(tmp_path, workers=workers, args=args) as broker:
            run(test, broker, "S")
