"""Several shards, their clients and a model of what each must get, driven by one random number generator.

Nothing here is parallel: a shard runs one turn at a time, in any order, so every interleaving of whole turns can come up,
and one seed is one history. Payloads say who sent them: "publisher:number".
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from dataclasses import dataclass, field

from shardbroker.hot.engine import EVENTS
from shardbroker.hot.probe import Shard
from shardbroker.shm.directory import Directory
from shardbroker.shm.stats import snapshot
from shardbroker.subject import matches
from sim.shards import boot, connect, small_segment

MESSAGE = re.compile(rb"(?:MSG|(HMSG)) (\S+) (\S+) (?:(\S+) )?(?(1)(\d+) )(\d+)\r\n")
TOKENS = ("a", "b", "c")
FOR_EVER = 1 << 60


@dataclass
class Subscription:
    client: Client
    sid: str
    subject: str
    queue: str
    asked: int  # number of the PING that was sent behind it
    since: int = FOR_EVER  # time (world.step) when its PONG had come
    until: int = FOR_EVER  # when UNSUB was sent, or the client or its shard ended
    ended: int = FOR_EVER  # the PING behind UNSUB
    got: list[tuple[int, int]] = field(default_factory=list)

    def wants(self, subject: str) -> bool:
        return matches(self.subject, subject)


@dataclass
class Message:
    publisher: Client
    number: int
    subject: str
    reply: str
    step: int
    ping: int  # of the publisher, sent behind it
    confirmed: int = FOR_EVER  # time when that PONG had come


@dataclass
class Client:
    number: int
    shard: int
    echo: bool
    headers: bool
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    sent: int = 0
    pings: int = 0
    pongs: int = 0
    ping_steps: list[int] = field(default_factory=list)
    alive: bool = True
    killed: bool = False  # with its shard: what it was to get is gone; one that has closed still gets it
    output: bytes = b""
    # (sid, publisher, number) and how many PONGs had come before it
    inbox: list[tuple[str, int, int, int]] = field(default_factory=list)
    no_responders: set[str] = field(default_factory=set)


class World:
    def __init__(self, seed: int, shards: int) -> None:
        self.draw = random.Random(seed)
        self.segment = small_segment(shards, key=self.draw.randbytes(16))
        self.directory = Directory(self.segment.map)
        # A killed process's engine is kept: its memory must not be given back through the segment.
        self.killed: list[Shard] = []
        self.shards: dict[int, Shard] = {}
        self.ready: set[int] = set()
        self.clients: list[Client] = []
        self.gone: list[Subscription] = []
        self.messages: dict[tuple[int, int], Message] = {}
        self.step = 0
        self.now = 1
        self.kills: list[int] = []  # steps
        for number in range(shards):
            self.segment.map.mark_booting(number)
        for number in self.draw.sample(range(shards), shards):
            self.shards[number] = self.start(number)
        while len(self.ready) < shards:
            self.turn()

    # ---- shards ----

    def start(self, number: int) -> Shard:
        return boot(
            self.segment, number, marked=True, read_bytes=self.draw.choice([7, 100, 1000, 100_000]), max_pending=4000,
            max_payload=6000, overflow_bytes_max=FOR_EVER,
        )  # fmt: skip

    def kill(self, number: int) -> None:
        """End a shard between or within turns, and put another in its place, as the front does."""
        shard = self.shards[number]
        if self.draw.random() < 0.5:
            shard.turn(self.now, killed=True)
        self.kills.append(self.step)
        self.ready.discard(number)
        for client in self.clients:
            if client.shard == number and not client.killed:
                client.killed = True
                self.end(client)
        self.killed.append(shard)
        self.segment.map.mark_dead(number)
        del self.shards[number]
        for _ in range(self.draw.randint(0, 3)):
            self.turn()
        self.directory.clear_shard(number)
        for _ in range(self.draw.randint(0, 3)):
            self.turn()
        self.segment.map.mark_booting(number)
        for _ in range(self.draw.randint(0, 3)):
            self.turn()
        self.shards[number] = self.start(number)

    def turn(self) -> None:
        """One shard, or an idle moment."""
        self.step += 1
        self.now += self.draw.choice([1000, 1_000_000, 10_000_000])
        number = self.draw.choice(list(self.shards))
        shard = self.shards[number]
        shard.turn(self.now)
        for kind, *_ in shard.engine.take_events():
            if kind == EVENTS["snapshots_complete"]:
                self.ready.add(number)
        for client in self.clients:
            if client.shard == number and not client.killed:
                self.read(client)

    def settle(self) -> None:
        """Until nobody has anything to do; a world that never comes to rest has lost something."""
        for client in self.clients:
            if client.alive:
                self.shards[client.shard].accept(client.number, None)
        quiet = 0
        for _ in range(3000 * len(self.shards)):
            self.turn()
            quiet = 0 if any(shard.busy() for shard in self.shards.values()) else quiet + 1
            if quiet > 8 * len(self.shards):
                break
        else:
            raise AssertionError("never quiet")
        assert len(self.ready) == len(self.shards)
        for client in self.clients:
            if client.alive:
                assert client.pongs == client.pings, f"client {client.number} waits for a PONG"

    # ---- clients ----

    def feed(self, client: Client, line: str) -> None:
        """Send it, and a PING behind it."""
        client.pings += 1
        client.ping_steps.append(self.step)
        assert self.shards[client.shard].feed(client.number, line.encode("latin-1") + b"PING\r\n"), client

    def open(self) -> None:
        if not self.ready:
            return
        client = Client(len(self.clients) + 1, self.draw.choice(sorted(self.ready)), self.draw.random() < 0.8,
                        self.draw.random() < 0.7)  # fmt: skip
        shard = self.shards[client.shard]
        connect(shard, client.number, echo=client.echo, headers=client.headers, no_responders=client.headers)
        self.clients.append(client)
        if client.headers:
            # Where it is told that nobody is there
            self.subscribe(client, f"_INBOX.{client.number}.*", "")

    def end(self, client: Client) -> None:
        client.alive = False
        for subscription in client.subscriptions.values():
            subscription.until = min(subscription.until, self.step)
            self.gone.append(subscription)
        client.subscriptions.clear()

    def close(self, client: Client) -> None:
        self.shards[client.shard].accept(client.number, None)
        self.shards[client.shard].hang_up(client.number)
        self.end(client)

    def subscribe(self, client: Client, subject: str, queue: str) -> None:
        # Every subject has its own sid; the same ones on every client, so that frames are shared.
        sid = f"{subject}/{queue}".replace("*", "+")
        if sid in client.subscriptions or any(s.client is client and s.sid == sid for s in self.gone):
            return
        subscription = Subscription(client, sid, subject, queue, client.pings)
        client.subscriptions[sid] = subscription
        self.feed(client, f"SUB {subject} {queue} {sid}\r\n")

    def unsubscribe(self, client: Client, sid: str) -> None:
        subscription = client.subscriptions.pop(sid)
        subscription.until = self.step
        subscription.ended = client.pings
        self.gone.append(subscription)
        self.feed(client, f"UNSUB {sid}\r\n")

    def publish(self, client: Client, subject: str, request: bool) -> None:
        number = client.sent
        client.sent += 1
        reply = f"_INBOX.{client.number}.{number}" if request and client.headers else ""
        payload = f"{client.number}:{number}:" + "x" * self.draw.choice([0, 0, 5, 300, 1900, 2100, 5000])
        message = Message(client, number, subject, reply, self.step, client.pings)
        self.messages[client.number, number] = message
        if client.headers and self.draw.random() < 0.3:
            headers = "NATS/1.0\r\nA: b\r\n\r\n"
            line = f"HPUB {subject} {reply} {len(headers)} {len(headers) + len(payload)}\r\n{headers}{payload}\r\n"
        else:
            line = f"PUB {subject} {reply} {len(payload)}\r\n{payload}\r\n"
        self.feed(client, line)

    def read(self, client: Client) -> None:
        client.output += self.shards[client.shard].take_output(client.number)
        data, at = client.output, 0
        while at < len(data):
            end = data.find(b"\r\n", at)
            if end < 0:
                break
            line = data[at : end + 2]
            if line == b"PONG\r\n":
                client.pongs += 1
                self.on_pong(client)
            elif found := MESSAGE.fullmatch(line):
                size = int(found[6])
                if len(data) < end + 2 + size + 2:
                    break
                headers = int(found[5]) if found[1] else 0
                assert client.headers or not found[1]
                self.on_message(client, found, data[end + 2 + headers : end + 2 + size])
                assert data[end + 2 + size : end + 4 + size] == b"\r\n"
                end += size + 2
            else:
                assert line.startswith((b"INFO ", b"PING\r")), line
            at = end + 2
        client.output = data[at:]

    def on_pong(self, client: Client) -> None:
        for subscription in client.subscriptions.values():
            if subscription.asked < client.pongs and subscription.since == FOR_EVER:
                subscription.since = self.step
        for number in range(client.sent - 1, -1, -1):
            message = self.messages[client.number, number]
            if message.confirmed != FOR_EVER:
                break
            if message.ping < client.pongs:
                message.confirmed = self.step

    def on_message(self, client: Client, found: re.Match[bytes], payload: bytes) -> None:
        subject, sid = found[2].decode(), found[3].decode()
        if subject.startswith("_INBOX") and found[5]:
            assert not payload
            client.no_responders.add(subject)
            return
        publisher, number, _ = payload.split(b":")
        message = self.messages[int(publisher), int(number)]
        assert (message.subject, message.reply) == (subject, (found[4] or b"").decode())
        client.inbox.append((sid, message.publisher.number, message.number, client.pongs))

    # ---- a history ----

    def act(self) -> None:
        draw = self.draw
        living = [client for client in self.clients if client.alive]
        action = draw.random()
        if len(living) < 4 or action < 0.02:
            self.open()
            return
        client = draw.choice(living)
        if action < 0.16:
            parts = [draw.choice([*TOKENS, *TOKENS, "*"]) for _ in range(draw.randint(1, 2))]
            if draw.random() < 0.2:
                parts.append(">")
            self.subscribe(client, ".".join(parts), draw.choice(["", "", "q", "r"]))
        elif action < 0.22:
            plain = [sid for sid in client.subscriptions if not sid.startswith("_INBOX")]
            if plain:
                self.unsubscribe(client, draw.choice(plain))
        elif action < 0.235 and len(living) > 4:
            self.close(client)
        elif action < 0.3:
            self.shards[client.shard].accept(client.number, draw.choice([None, None, 0, 10, 3000]))
        else:
            subject = ".".join(draw.choice(TOKENS) for _ in range(draw.randint(1, 2)))
            for _ in range(draw.choice([1, 1, 1, 5, 20])):
                self.publish(client, subject, draw.random() < 0.3)

    def total(self, counter: str) -> int:
        return int(snapshot(self.segment)[counter].sum())


def check(world: World) -> None:
    """What every history has to keep, once the world is quiet."""
    assert world.total("ring_corrupt") == 0
    everyone = [s for client in world.clients for s in client.subscriptions.values()] + world.gone
    redraws = world.total("redraws")
    by_key = {(s.client.number, s.sid): s for s in everyone}
    got: dict[tuple[int, int], dict[tuple[int, str], int]] = defaultdict(dict)
    for client in world.clients:
        last: dict[tuple[str, int], int] = {}
        for sid, publisher, number, pongs in client.inbox:
            subscription, message = by_key[client.number, sid], world.messages[publisher, number]
            where = f"message {publisher}:{number} to {sid} of client {client.number}"
            assert subscription.wants(message.subject), where
            assert client.echo or publisher != client.number, where
            # Order of each publisher. A message that is drawn again makes a detour.
            before = last.get((sid, publisher), -1)
            in_order = number > before or (subscription.queue and redraws)
            assert in_order, f"{where}: comes after {before}"
            last[sid, publisher] = number
            assert (client.number, sid) not in got[publisher, number], f"{where}: comes twice"
            got[publisher, number][client.number, sid] = pongs
            # Nothing after UNSUB was answered
            assert pongs <= subscription.ended, f"{where}: comes after the end"
    for key, message in world.messages.items():
        check_message(world, message, everyone, got[key])


def check_message(
    world: World, message: Message, everyone: list[Subscription], got: dict[tuple[int, str], int]
) -> None:
    publisher = message.publisher
    name = f"message {publisher.number}:{message.number} to {message.subject}"
    whole = message.confirmed != FOR_EVER
    able = [
        s for s in everyone if s.wants(message.subject) and (s.client is not publisher or publisher.echo)
    ]
    stable = [s for s in able if s.since < message.step and s.until == FOR_EVER]
    groups: dict[str, list[Subscription]] = defaultdict(list)
    for s in able:
        key = (s.client.number, s.sid)
        if s.queue:
            groups[s.queue].append(s)
        elif whole and s in stable:
            assert key in got, f"{name}: lost for {key}"
        # The promise of a PONG: what was confirmed before I asked comes before my answer.
        if not s.queue and whole and s.since < message.step and s.client.alive:
            for n, asked in enumerate(s.client.ping_steps):
                if asked > message.confirmed and n <= min(s.ended, s.client.pongs - 1):
                    assert got.get(key, FOR_EVER) <= n, f"{name}: comes to {key} after PONG {n}"
                    break
    for queue, members in groups.items():
        hits = [s for s in members if (s.client.number, s.sid) in got]
        assert len(hits) <= 1, f"{name}: group {queue} got it {len(hits)} times"
        certain = [s for s in members if s in stable]
        if whole and certain and not hits:
            killed = any(s.client.killed for s in members)
            assert killed or world.total("redraws_lost"), f"{name}: nobody of group {queue} got it"
    if message.reply and whole:
        told = message.reply in publisher.no_responders
        # A 503 only when nobody could have it, and always when there was never anybody.
        sure = [s for s in stable if s.client is not publisher or publisher.echo]
        assert not (told and (sure or got)), f"{name}: 503, but there was somebody"
        if not able and publisher.alive:
            assert told, f"{name}: nobody was there, and no 503 came"
