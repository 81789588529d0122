"""Randomised load with checkers: order, flush, exactly one, no loss. One seed reproduces a script.

SHARDBROKER_TEST_SEEDS=5,6,7 runs other seeds than the default; SHARDBROKER_TEST_STOPS=3,5 stops shards for other times than a
second.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness import Broker
from harness.load import Connection, Load, Publisher, Subscription, Swarm, covering

SEEDS = [int(s) for s in os.environ.get("SHARDBROKER_TEST_SEEDS", "1,2").split(",")]
STOPS = [float(s) for s in os.environ.get("SHARDBROKER_TEST_STOPS", "1").split(",")]
SHARDS = [2, 4] if Broker.ours else [1]
Start = Callable[..., Swarm]


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Start]:
    """swarm(shards, *own_args) starts a broker and gives an empty swarm on it; both are closed at the end."""
    with ExitStack() as stack:

        def start(shards: int, *own_args: str) -> Swarm:
            broker = stack.enter_context(Broker(tmp_path / "broker", workers=shards, own_args=own_args))
            instance = Swarm(broker)
            stack.callback(instance.close)
            return instance

        yield start


def random_pattern(rng: random.Random) -> str:
    first, second = str(rng.randrange(4)), str(rng.randrange(10))
    return rng.choice(
        [f"s.{first}.{second}"] * 3 + [f"s.*.{second}", f"s.{first}.*", f"s.{first}.>", "s.*.*", "s.>"]
    )


def run(swarm: Swarm, seed: int, *, steps: int, sizes: list[int], stop: float = 0.0) -> Load:
    """Publish, subscribe, unsubscribe, open and close at random; `stop` halts one shard for so many seconds."""
    rng = random.Random(seed)
    load = Load(swarm, [f"s.{i}.{j}" for i in range(4) for j in range(10)])
    broker = swarm.broker
    publishers = [Publisher(load, c) for c in covering(swarm, 2 * broker.workers + 1)]
    listeners = covering(swarm, 3 * broker.workers)
    for connection in listeners:
        load.listen(connection)
        for _ in range(6):
            load.subscribe(connection, random_pattern(rng))
    groups = [(random_pattern(rng), f"g{n}") for n in range(6)]
    for pattern, queue in groups:
        for connection in rng.sample(listeners, 3):
            load.subscribe(connection, pattern, queue)
    swarm.flush(listeners)

    guests: list[Connection] = []  # connections that come and go
    passing: list[Subscription] = []  # subscriptions that come and go on connections that stay
    halted = ExitStack()
    # Not by the load itself, which may be waiting for the shard that stands still.
    resume = threading.Timer(stop, halted.close)
    for step in range(steps):
        action = rng.random()
        if action < 0.70:
            publisher = rng.choice(publishers)
            for _ in range(rng.randint(1, 12)):
                publisher.publish(rng.randrange(len(load.subjects)), rng.choice(sizes))
            swarm.pump_until(lambda p=publisher: load.ready(p.connection), "a publisher to send")  # type: ignore[misc]
        elif action < 0.78:
            passing.append(load.subscribe(rng.choice(listeners), random_pattern(rng)))
        elif action < 0.82:
            pattern, queue = rng.choice(groups)
            passing.append(load.subscribe(rng.choice(listeners), pattern, queue))
        elif action < 0.90 and passing:
            load.unsubscribe(passing.pop(rng.randrange(len(passing))))
        elif action < 0.93:
            guest = Connection(swarm)
            load.listen(guest)
            guests.append(guest)
            for _ in range(rng.randint(1, 4)):
                load.subscribe(guest, random_pattern(rng))
        elif action < 0.95 and guests:
            load.leave(guests.pop(rng.randrange(len(guests))))
        elif action < 0.99 and not resume.is_alive():
            # The flush promise at its sharpest: everybody publishes the moment the PONG is here.
            subject = rng.randrange(len(load.subjects))
            pattern = load.subjects[subject].decode() if rng.random() < 0.5 else f"s.*.{subject % 10}"
            fresh = load.subscribe(rng.choice(listeners), pattern)
            swarm.pump_until(lambda f=fresh: f.confirmed is not None, "the PONG after a SUB")  # type: ignore[misc]
            for publisher in publishers:
                publisher.publish(subject, 10)
            passing.append(fresh)
        if step % 4 == 0:
            swarm.pump()
        if stop and step == steps // 3:
            halted.enter_context(broker.stopped_shard(rng.randrange(broker.workers)))
            resume.start()
    while resume.is_alive():
        swarm.pump(0.05)
    load.settle()
    load.check(f"seed {seed}")
    return load


@pytest.mark.parametrize("shards", SHARDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_random_load(swarm: Start, shards: int, seed: int) -> None:
    run(swarm(shards), seed, steps=2500, sizes=[0, 1, 16, 100, 1000])


@pytest.mark.parametrize("shards", SHARDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_rings_that_fill_all_the_time(swarm: Start, shards: int, seed: int) -> None:
    """The smallest rings, with payloads up to a few times their size."""
    run(swarm(shards, "--ring-size", "8KiB"), seed, steps=1500, sizes=[0, 10, 300, 1500, 4000, 20000])


@pytest.mark.ours
@pytest.mark.parametrize("ring", ["8KiB", "4MiB"])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("seconds", STOPS)
def test_a_shard_that_stands_still(swarm: Start, seed: int, ring: str, seconds: float) -> None:
    run(swarm(2 + seed % 3, "--ring-size", ring), seed, steps=1500, sizes=[0, 10, 300, 1500], stop=seconds)


@pytest.mark.parametrize("shards", SHARDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_group_members_that_come_and_go_alone_on_their_shard(swarm: Start, shards: int, seed: int) -> None:
    """A record may find the last member of its shard gone and is drawn again: exactly one gets it all the same."""
    rng = random.Random(seed)
    instance = swarm(shards)
    listeners = covering(instance, 2 * shards)
    load = Load(instance, ["g.a", "g.b"])
    for connection in listeners:
        load.listen(connection)
    load.subscribe(listeners[0], "g.*", "g")
    publishers = [Publisher(load, c) for c in covering(instance, 2 * shards)]
    instance.flush(listeners)
    passing: list[Subscription] = []
    for _ in range(3000):
        if passing and (len(passing) > 2 or rng.random() < 0.5):
            load.unsubscribe(passing.pop(rng.randrange(len(passing))))
        else:
            passing.append(load.subscribe(rng.choice(listeners[1:]), rng.choice(["g.*", "g.a"]), "g"))
        for _ in range(rng.randint(0, 6)):
            rng.choice(publishers).publish(rng.randrange(2), 4)
        if rng.random() < 0.3:
            instance.pump()
    load.settle()
    load.check(f"seed {seed}")


@pytest.mark.parametrize("shards", SHARDS)
@pytest.mark.parametrize("layout", [(1, 1, 1, 1), (6, 1, 1, 2), (1, 0, 5, 1)])
def test_fairness(swarm: Start, shards: int, layout: tuple[int, ...]) -> None:
    """Members share evenly, however unevenly they are spread over shards and connections."""
    instance = swarm(shards)
    connections = covering(instance, 2 * shards)
    load = Load(instance, ["f.a", "f.b"])
    for connection, members in zip(connections, layout, strict=False):
        load.listen(connection)
        for _ in range(members):
            load.subscribe(connection, "f.*", "g")
    publishers = [Publisher(load, c) for c in covering(instance, 2 * shards)]
    instance.flush(load.subscriptions)
    rng = random.Random(4)
    for _ in range(4000):
        publisher = rng.choice(publishers)
        for _ in range(10):
            publisher.publish(rng.randrange(2), 4)
        instance.pump_until(lambda p=publisher: load.ready(p.connection), "a publisher to send")  # type: ignore[misc]
    load.settle()
    load.check("fairness")
    shares = [sum(map(len, member.got.values())) for member in load.all]
    assert sum(shares) == 40000
    assert max(shares) <= 1.2 * min(shares), shares


@pytest.mark.parametrize("shards", SHARDS)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("inbox", ["new", "shared"])
def test_requests_never_lose_their_reply(swarm: Start, shards: int, seed: int, inbox: str) -> None:
    """Requesters and services on all shards, an inbox per request or one wildcard; no 503, one reply each."""
    instance = swarm(shards, "--ring-size", "16KiB")
    rng = random.Random(seed)
    services = covering(instance, 2 * shards + 1)
    for number, service in enumerate(services):

        def answer(
            sid: int, subject: bytes, reply: bytes | None, payload: bytes, to: Connection = service
        ) -> None:
            to.send(b"PUB %s %d\r\n%s\r\n" % (reply, len(payload), payload))

        service.on_message = answer
        service.send(f"SUB svc.{number % 3} q 1\r\n".encode())
    asking = '{"verbose":false,"pedantic":false,"headers":true,"no_responders":true}'
    askers = [Connection(instance, asking) for _ in range(3 * shards)]
    instance.flush(services + askers)
    open_requests: set[bytes] = set()
    answered: list[bytes] = []
    for number, asker in enumerate(askers):

        def take(sid: int, subject: bytes, reply: bytes | None, payload: bytes) -> None:
            if payload not in open_requests:
                instance.problems.append(f"reply nobody waits for on {subject!r}: {payload!r}")
            open_requests.discard(payload)
            answered.append(payload)

        asker.on_message = take
        if inbox == "shared":
            asker.send(f"SUB inbox.{number}.* 1\r\n".encode())
    instance.flush(askers)
    total = 4000
    for request in range(total):
        number = rng.randrange(len(askers))
        token = b"r%d" % request
        reply = b"inbox.%d.%d" % (number, request)
        open_requests.add(token)
        if inbox == "new":
            askers[number].send(b"SUB %s %d\r\nUNSUB %d 1\r\n" % (reply, request + 2, request + 2))
        askers[number].send(b"PUB svc.%d %s %d\r\n%s\r\n" % (rng.randrange(3), reply, len(token), token))
        if request % 8 == 0:
            instance.pump()
        instance.pump_until(
            lambda: len(open_requests) < 100, f"replies; open are {sorted(open_requests)[:5]}"
        )
    instance.pump_until(
        lambda: not open_requests, f"the last replies, seed {seed}: {sorted(open_requests)[:5]}"
    )
    instance.flush(askers)
    assert len(answered) == total and not instance.problems, instance.problems[:5]
