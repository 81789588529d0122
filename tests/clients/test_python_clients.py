"""Clients from the package index that no one here wrote: nats-py, natsrpy (Rust), nats-python (pynats)."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from harness import Broker, wait_until

Start = Callable[..., Broker]
SECONDS = 60.0


async def eventually(condition: Callable[[], object], what: str) -> None:
    """Let the loop run until `condition` holds."""

    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0.005)

    try:
        await asyncio.wait_for(poll(), SECONDS)
    except TimeoutError:
        raise AssertionError(f"waited for {what}") from None


def kill_shards_in_use(broker: Broker) -> list[int]:
    """kill -9 of every worker that holds a client; the front stays."""
    return [broker.kill_shard(number) for number in broker.shards_in_use()]


# -- nats-py --


async def nats_py(broker: Broker, **options: Any) -> Any:
    nats = pytest.importorskip("nats")
    return await nats.connect(f"nats://127.0.0.1:{broker.port}", reconnect_time_wait=0.05, **options)


def run_with_nats_py(
    broker: Broker, body: Callable[..., Awaitable[None]], clients: int, **options: Any
) -> None:
    async def main() -> None:
        opened = [await nats_py(broker, **options) for _ in range(clients)]
        try:
            await asyncio.wait_for(body(*opened), 2 * SECONDS)
        finally:
            for client in opened:
                await client.close()

    asyncio.run(main())


def test_nats_py_publish_and_subscribe(broker: Broker, subject: str) -> None:
    async def body(*clients: Any) -> None:
        subscriptions = [await c.subscribe(f"{subject}.*") for c in clients]
        for client in clients:
            await client.flush()
        for number, client in enumerate(clients):
            for i in range(100):
                await client.publish(f"{subject}.{number}", str(i).encode(), headers={"n": str(i)})
        for subscription in subscriptions:
            got: dict[str, list[int]] = {}
            for _ in range(100 * len(clients)):
                message = await subscription.next_msg(SECONDS)
                got.setdefault(message.subject, []).append(int(message.data))
                assert message.headers == {"n": message.data.decode()}
            assert got == {f"{subject}.{n}": list(range(100)) for n in range(len(clients))}

    run_with_nats_py(broker, body, 4)


@pytest.mark.parametrize("old_style", [False, True])
def test_nats_py_requests(broker: Broker, subject: str, old_style: bool) -> None:
    from nats.errors import NoRespondersError

    async def body(*clients: Any) -> None:
        async def answer(message: Any) -> None:
            await message.respond(message.data[::-1])

        for client in clients[:2]:
            await client.subscribe(subject, "workers", cb=answer)
            await client.flush()
        for client in clients:
            replies = await asyncio.gather(
                *(
                    client.request(subject, b"ab%d" % i, timeout=SECONDS, old_style=old_style)
                    for i in range(50)
                )
            )
            assert [r.data for r in replies] == [(b"ab%d" % i)[::-1] for i in range(50)]
            with pytest.raises(NoRespondersError):
                await client.request(subject + ".nobody", b"", timeout=SECONDS)

    run_with_nats_py(broker, body, 4)


def test_nats_py_queue_groups(broker: Broker, subject: str) -> None:
    async def body(*clients: Any) -> None:
        got: Counter[int] = Counter()
        members: Counter[int] = Counter()

        def receiver(member: int) -> Callable[[Any], Awaitable[None]]:
            async def receive(message: Any) -> None:
                got[int(message.data)] += 1
                members[member] += 1

            return receive

        for number, client in enumerate(clients):
            await client.subscribe(subject, "q", cb=receiver(number))
            await client.flush()
        for i in range(400):
            await clients[i % len(clients)].publish(subject, str(i).encode())
        await eventually(lambda: len(got) == 400, "400 messages")
        for client in clients:
            await client.flush()
        assert set(got.values()) == {1} and min(members.values()) > 40, members

    run_with_nats_py(broker, body, 5)


def test_nats_py_drain(broker: Broker, subject: str) -> None:
    """Draining a subscription and a connection loses nothing that was sent before."""

    async def body(*clients: Any) -> None:
        publisher, one, two = clients
        got: list[bytes] = []

        async def receive(message: Any) -> None:
            await asyncio.sleep(0)
            got.append(message.data)

        first = await one.subscribe(subject, cb=receive)
        await two.subscribe(subject, cb=receive)
        await one.flush()
        await two.flush()
        for i in range(200):
            await publisher.publish(subject, str(i).encode())
        await publisher.flush()
        await first.drain()
        await two.drain()
        await eventually(lambda: two.is_closed, "the drained connection to close")
        await eventually(lambda: len(got) >= 400, "the callbacks of all messages")
        assert Counter(got) == {str(i).encode(): 2 for i in range(200)}
        await publisher.publish(subject, b"late")
        await publisher.flush()
        await one.flush()
        assert len(got) == 400

    run_with_nats_py(broker, body, 3)


@pytest.mark.ours
def test_nats_py_reconnects_after_kill_of_a_worker(fresh_broker: Start, subject: str) -> None:
    broker = fresh_broker()

    async def body(*clients: Any) -> None:
        got: list[bytes] = []

        async def receive(message: Any) -> None:
            got.append(message.data)
            if message.reply:
                await message.respond(b"!")

        for client in clients:
            await client.subscribe(subject + ".>", cb=receive)
            await client.flush()
        for turn in range(2):
            before = [client.stats["reconnects"] for client in clients]
            kill_shards_in_use(broker)
            await eventually(
                lambda b=before: all(
                    c.is_connected and c.stats["reconnects"] > n for c, n in zip(clients, b, strict=True)
                ),  # type: ignore[misc]
                "all clients to reconnect",
            )
            got.clear()
            for client in clients:
                await client.flush()
            for client in clients:
                assert (await client.request(subject + ".again", b"x", timeout=SECONDS)).data == b"!"
            await eventually(lambda: len(got) == len(clients) ** 2, f"messages after kill {turn}")

    run_with_nats_py(broker, body, 3, max_reconnect_attempts=-1)


@pytest.mark.parametrize("flags", [["--user", "u", "--pass", "p"], ["--auth", "t"]])
def test_nats_py_authentication(fresh_broker: Start, flags: list[str], subject: str) -> None:
    broker = fresh_broker(args=flags)
    right = {"user": "u", "password": "p"} if len(flags) == 4 else {"token": "t"}

    async def body(client: Any) -> None:
        subscription = await client.subscribe(subject)
        await client.publish(subject, b"x")
        assert (await subscription.next_msg(SECONDS)).data == b"x"

    run_with_nats_py(broker, body, 1, **right)
    with pytest.raises(Exception, match=r"(?i)authorization"):
        run_with_nats_py(broker, body, 1, allow_reconnect=False)


# -- natsrpy --


def run_with_natsrpy(broker: Broker, body: Callable[..., Awaitable[None]], clients: int) -> None:
    natsrpy = pytest.importorskip("natsrpy")

    async def main() -> None:
        opened = [natsrpy.Nats(addrs=[f"nats://127.0.0.1:{broker.port}"]) for _ in range(clients)]
        for client in opened:
            await client.startup()
        try:
            await asyncio.wait_for(body(*opened), 2 * SECONDS)
        finally:
            for client in opened:
                await client.shutdown()

    asyncio.run(main())


async def round_trip(clients: tuple[Any, ...], subject: str) -> None:
    """Each client answers requests in a queue group and asks the others; all hear every publication."""
    got: Counter[bytes] = Counter()

    async def receive(message: Any) -> None:
        got[message.payload] += 1

    async def answering(client: Any) -> Callable[[Any], Awaitable[None]]:
        async def answer(message: Any) -> None:
            await client.publish(message.reply, b"re:" + message.payload, headers={"k": "v"})

        return answer

    kept = []
    for client in clients:
        kept.append(await client.subscribe(f"{subject}.*", callback=receive).detatch())
        kept.append(
            await client.subscribe(f"{subject}svc", callback=await answering(client), queue="q").detatch()
        )
        await client.flush()
    # natsrpy's flush ends when the bytes are written; a request that comes back says that they are read.
    for client in clients:
        for i in range(20):
            reply = await client.request(f"{subject}svc", b"%d" % i)
            assert reply.payload == b"re:%d" % i and reply.headers == {"k": "v"}
    for client in clients:
        for i in range(20):
            await client.publish(f"{subject}.{i}", b"%d" % i, headers={"h": "1"})
    await eventually(lambda: set(got.values()) == {len(clients) ** 2} and len(got) == 20, "all copies")


def test_natsrpy(broker: Broker, subject: str) -> None:
    async def body(*clients: Any) -> None:
        await round_trip(clients, subject)

    run_with_natsrpy(broker, body, 3)


@pytest.mark.ours
def test_natsrpy_reconnects_after_kill_of_a_worker(fresh_broker: Start, subject: str) -> None:
    broker = fresh_broker()

    async def body(client: Any) -> None:
        got: list[bytes] = []

        async def receive(message: Any) -> None:
            got.append(message.payload)

        kept = await client.subscribe(subject, callback=receive).detatch()
        await client.publish(subject, b"before")
        await eventually(lambda: got == [b"before"], "the first message")
        dead = kill_shards_in_use(broker)
        await asyncio.to_thread(broker.wait_shards, without=dead)

        async def until_heard() -> None:
            while b"after" not in got:
                await client.publish(subject, b"after")
                await asyncio.sleep(0.05)

        await asyncio.wait_for(until_heard(), SECONDS)
        del kept

    run_with_natsrpy(broker, body, 1)


# -- nats-python --


@pytest.fixture
def pynats(monkeypatch: pytest.MonkeyPatch) -> Any:
    """It asks pkg_resources for its own version, which new setuptools no longer have."""
    stand_in = SimpleNamespace(get_distribution=lambda name: SimpleNamespace(version="0"))
    monkeypatch.setitem(sys.modules, "pkg_resources", stand_in)
    pynats = pytest.importorskip("pynats")
    from pynats.client import PING_RE, PONG_OP, PONG_RE

    def ping(client: Any) -> None:
        """As it is, but that the server may ask, too, and be the first: it does so after two seconds."""
        client._send(b"PING")
        while client._recv(PONG_RE, PING_RE)[0] is PING_RE:
            client._send(PONG_OP)

    monkeypatch.setattr(pynats.NATSClient, "ping", ping)
    return pynats


def test_pynats(pynats: Any, broker: Broker, subject: str) -> None:
    url = f"nats://127.0.0.1:{broker.port}"
    with (
        pynats.NATSClient(url=url, socket_timeout=SECONDS) as first,
        pynats.NATSClient(url=url, socket_timeout=SECONDS) as second,
    ):
        got: list[bytes] = []
        first.subscribe(subject + ".*", callback=lambda m: got.append(m.payload))
        first.subscribe(subject + ".q", queue="g", callback=lambda m: got.append(b"q" + m.payload))
        first.ping()
        second.publish(subject + ".a", payload=b"hello")
        second.publish(subject + ".q", payload=b"x")
        first.wait(count=3)
        assert sorted(got) == [b"hello", b"qx", b"x"]
        reply = []
        second.subscribe(
            subject + "svc", callback=lambda m: second.publish(m.reply, payload=b"re:" + m.payload)
        )
        second.ping()
        inbox = subject + "inbox"
        first.subscribe(inbox, callback=lambda m: reply.append(m.payload))
        first.ping()
        first.publish(subject + "svc", payload=b"1", reply=inbox)
        second.wait(count=1)
        first.wait(count=1)
        assert reply == [b"re:1"]


@pytest.mark.ours
def test_pynats_sees_the_end_and_can_come_back(pynats: Any, fresh_broker: Start) -> None:
    broker = fresh_broker()
    with pynats.NATSClient(url=f"nats://127.0.0.1:{broker.port}", socket_timeout=SECONDS) as client:
        client.ping()
        dead = kill_shards_in_use(broker)
        broker.wait_shards(without=dead)

        def back() -> bool:
            try:
                client.reconnect()
                client.ping()
            except OSError:
                return False
            return True

        wait_until(back, "the client to be back")
        got: list[bytes] = []
        client.subscribe("a", callback=lambda m: got.append(m.payload))
        client.publish("a", payload=b"x")
        client.wait(count=1)
        assert got == [b"x"]
