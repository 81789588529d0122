"""kill -9 of a worker and of the front. Tests of shards: they need shardbroker's processes."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable

import pytest

from harness import Broker, RawClient, msg, pub, wait_until
from harness.broker import covered

pytestmark = pytest.mark.ours
Start = Callable[..., Broker]


@pytest.fixture
def broker(fresh_broker: Start, workers: int) -> Broker:
    if workers == 1:
        pytest.skip("needs a shard that stays")
    return fresh_broker()


def by_shard(broker: Broker, each: int = 1, **options: object) -> dict[int, list[RawClient]]:
    """`each` connections on every shard."""
    return covered(broker, lambda: broker.client().connect(**options), each)


def replaced(broker: Broker, dead: int, victim: int) -> list[RawClient]:
    """Wait for the new process of a dead shard and for connections to come to it; two of them."""
    broker.wait_shards(without=[dead])
    found: list[RawClient] = []
    # The others stay open until the end: placement takes the shard with the fewest connections.
    elsewhere: list[RawClient] = []

    def two_there() -> bool:
        client = broker.client().connect()
        (found if broker.shard_of(client) == victim else elsewhere).append(client)
        return len(found) == 2

    wait_until(two_there, "two connections on the new shard")
    for client in elsewhere:
        client.close()
    return found


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_the_others_notice_nothing_and_lose_nothing(broker: Broker, victim: int) -> None:
    """Messages among the living flow during the death, gapless; the dead shard's clients see the end."""
    clients = by_shard(broker, 2)
    living = [c for n, pair in clients.items() if n != victim for c in pair]
    for client in living:
        client.sub("live.>", 1)
    for client in clients[victim]:
        client.sub("live.>", 1).sub("only.dead", 2)
    sent = [0] * len(living)

    def publish_some() -> None:
        for number, client in enumerate(living):
            client.send(b"".join(pub(f"live.{number}", str(sent[number] + i)) for i in range(50)))
            sent[number] += 50

    publish_some()
    dead = broker.kill_shard(victim)
    publish_some()
    for client in clients[victim]:
        client.expect_closed_any()
    publish_some()
    broker.wait_shards(without=[dead])
    publish_some()
    for client in living:
        got: dict[str, list[int]] = {}
        for name, _, payload in client.messages(sum(sent)):
            got.setdefault(name, []).append(int(payload))
        assert got == {f"live.{number}": list(range(count)) for number, count in enumerate(sent)}
        client.expect_nothing()
    assert len(broker.shard_pids()) == broker.workers


def test_interest_of_the_dead_is_gone(broker: Broker) -> None:
    """Literal, wildcard and queue interest: requests get their 503 again."""
    clients = by_shard(broker, 1, headers=True, no_responders=True)
    asker, dying = clients[0][0], clients[1][0]
    dying.sub("svc.literal", 1).sub("svc.wild.*", 2).sub("svc.queue", 3, "q").sub("svc.wq.*", 4, "q")
    asker.sub("inbox", 9)
    subjects = ["svc.literal", "svc.wild.a", "svc.queue", "svc.wq.a"]
    for subject in subjects:
        asker.pub(subject, "x", "inbox").flush()
    assert len(dying.expect_re(rb"(MSG \S+ \d inbox 1\r\nx\r\n){4}")[0]) > 0
    dead = broker.kill_shard(1)
    dying.expect_closed_any()
    broker.wait_shards(without=[dead])
    for subject in subjects:

        def refused(subject: str = subject) -> bool:
            asker.pub(subject, "x", "inbox").send("PING\r\n")
            return (
                asker.expect_re(
                    rb"(HMSG inbox 9 (\d+) \2\r\nNATS/1\.0 503\r\n(Nats-Subject: \S+\r\n)?\r\n\r\n)?PONG\r\n"
                )[1]
                is not None
            )

        wait_until(refused, f"a 503 for {subject}")


def test_interest_of_the_living_is_known_to_the_new_shard(broker: Broker) -> None:
    """A new shard takes connections only when it knows the wildcards and queue groups of the others."""
    clients = by_shard(broker)
    clients[0][0].sub("a.*", 1).sub("b.>", 2).sub("lit", 3).sub("q.x", 4, "q").sub("q.*", 5, "r")
    clients[2][0].sub("a.*", 1).sub("q.x", 4, "q").sub("q.*", 5, "r")
    dead = broker.kill_shard(1)
    clients[1][0].expect_closed_any()
    for client in replaced(broker, dead, 1):
        client.pub("a.1", "w").pub("b.1.2", "g").pub("lit", "l").flush()
        clients[0][0].expect(msg("a.1", 1, "w") + msg("b.1.2", 2, "g") + msg("lit", 3, "l"))
        clients[2][0].expect(msg("a.1", 1, "w"))
        client.send(pub("q.x", "m") * 60).flush()
        got = collect(clients[0][0]) + collect(clients[2][0])
        assert sorted(sid for _, sid, _ in got) == ["4"] * 60 + ["5"] * 60


def collect(client: RawClient) -> list[tuple[str, str, bytes]]:
    """All messages up to the answer of a second PING: the first may overtake what is on its way."""
    client.send("PING\r\n")
    got = client.messages_until(None)
    client.send("PING\r\n")
    return got + client.messages_until(None)


def test_new_connections_on_the_new_shard_are_whole(broker: Broker) -> None:
    """Its subscriptions, literal and wildcard, in groups and not, reach and are reached by everybody."""
    clients = by_shard(broker)
    dead = broker.kill_shard(2)
    clients[2][0].expect_closed_any()
    fresh, second = replaced(broker, dead, 2)
    fresh.sub("f.lit", 1).sub("f.*", 2).sub("f.q", 3, "q")
    for client in (clients[0][0], clients[1][0], second, fresh):
        client.pub("f.lit", "x").pub("f.q", "y")
        fresh.expect_set(msg("f.lit", 1, "x"), msg("f.lit", 2, "x"), msg("f.q", 2, "y"), msg("f.q", 3, "y"))
    for client in (clients[0][0], clients[1][0], second):
        client.sub("back", 1)
        fresh.pub("back", "z")
        client.expect(msg("back", 1, "z"))
        client.send("UNSUB 1\r\n").flush()


def test_queue_groups_go_on_with_the_living_members(broker: Broker) -> None:
    clients = by_shard(broker)
    for pair in clients.values():
        pair[0].sub("q", 1, "g")
    dead = broker.kill_shard(0)
    clients[0][0].expect_closed_any()
    broker.wait_shards(without=[dead])
    publisher = broker.client().connect()
    publisher.send(b"".join(pub("q", str(i)) for i in range(200))).flush()
    got = []
    for n in (1, 2):
        got += collect(clients[n][0])
    assert sorted(int(payload) for _, _, payload in got) == list(range(200))


def test_every_shard_dies_in_turn_under_load(broker: Broker) -> None:
    rng = random.Random(6)
    for turn in range(4):
        victim = rng.randrange(broker.workers)
        clients = by_shard(broker)
        for pair in clients.values():
            pair[0].sub(f"t{turn}.*", 1)
        dead = broker.kill_shard(victim)
        broker.wait_shards(without=[dead])
        living = [pair[0] for n, pair in clients.items() if n != victim]
        for number, client in enumerate(living):
            client.pub(f"t{turn}.{number}", "x")
        for client in living:
            client.expect_set(*(msg(f"t{turn}.{number}", 1, "x") for number in range(len(living))))
        for pair in clients.values():
            pair[0].close()


def test_all_shards_at_once(broker: Broker) -> None:
    clients = by_shard(broker)
    dead = [broker.kill_shard(n) for n in range(broker.workers)]
    for pair in clients.values():
        pair[0].expect_closed_any()
    broker.wait_shards(without=dead)
    fresh = by_shard(broker)
    for pair in fresh.values():
        pair[0].sub("a.*", 1)
    fresh[0][0].pub("a.b", "x")
    for pair in fresh.values():
        pair[0].expect(msg("a.b", 1, "x"))


def test_the_only_shard(tmp_path_factory: pytest.TempPathFactory) -> None:
    """With one worker the port stays open and the new process serves."""
    with Broker(tmp_path_factory.mktemp("only"), workers=1) as broker:
        client = broker.client().connect().sub("a")
        dead = broker.kill_shard(0)
        client.expect_closed_any()
        broker.wait_shards(without=[dead])
        broker.client().connect().sub("a").pub("a", "x").expect(msg("a", 1, "x"))


def test_death_of_a_full_rings_reader(fresh_broker: Start, workers: int) -> None:
    """A writer that waits for room in a dead shard's ring goes on; its other receivers lose nothing."""
    if workers == 1:
        pytest.skip("no rings")
    broker = fresh_broker(own_args=["--ring-size", "8KiB"])
    clients = by_shard(broker)
    publisher, dying, living = clients[0][0], clients[1][0], clients[2][0]
    dying.sub("a", 1)
    living.sub("a", 1)
    with broker.stopped_shard(1):
        publisher.send(b"".join(pub("a", b"%04d" % i + b"x" * 500) for i in range(400)))
        dead = broker.kill_shard(1)
    living.expect(b"".join(msg("a", 1, b"%04d" % i + b"x" * 500) for i in range(400)))
    publisher.flush()
    broker.wait_shards(without=[dead])


def test_kill_of_the_front_ends_everything(fresh_broker: Start) -> None:
    """Workers end, the port is free, nothing is left in shared memory; the same port can be had at once."""
    broker = fresh_broker()
    clients = [broker.client().connect().sub("a") for _ in range(6)]
    broker.kill_front()
    for client in clients:
        client.expect_closed_any()
    assert broker.ended() == -signal.SIGKILL
    again = fresh_broker(port=broker.port)
    again.client().connect().sub("a").pub("a", "x").expect(msg("a", 1, "x"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_and_start_on_the_same_port(fresh_broker: Start, number: int) -> None:
    """Three times in a row with clients connected: nothing is left over that would hinder the next."""
    port = -1
    for _ in range(3):
        broker = fresh_broker(port=port)
        port = broker.port
        clients = [broker.client().connect().sub("a") for _ in range(4)]
        assert broker.stop(number) in (0, 1)
        for client in clients:
            client.expect_closed_any()


def test_stop_while_a_shard_stands_still(broker: Broker) -> None:
    """A worker that does not answer does not keep the broker from ending."""
    with broker.stopped_shard(1):
        broker.stop()


def test_stop_with_receivers_that_do_not_read(fresh_broker: Start) -> None:
    broker = fresh_broker()
    slow = broker.client(receive_buffer=4096).connect().sub("a")
    publisher = broker.client().connect()
    for _ in range(100):
        publisher.pub("a", b"x" * 100000)
    publisher.flush()
    broker.stop()
    slow.close()
