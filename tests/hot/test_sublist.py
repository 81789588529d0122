"""The sublist and its routes against subject.matches() over a plain list."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from shardbroker.hot.probe import Shard
from shardbroker.shm.segment import Segment
from shardbroker.subject import has_wildcard, matches
from sim.shards import boot, connect, small_segment

SHARDS = 4
CLIENTS = (1, 2, 3)
TOKENS = ("a", "b", "foo", "a*", ">b", "**")
tokens = st.sampled_from(TOKENS)
subjects = st.lists(tokens, min_size=1, max_size=4).map(".".join)
patterns = st.lists(st.one_of(tokens, st.just("*")), min_size=1, max_size=4).flatmap(
    lambda parts: st.sampled_from([".".join(parts), ".".join([*parts, ">"]), ".".join([*parts[:-1], ">"])])
)
# What nobody can be subscribed to is matched by nothing.
odd = st.sampled_from(["", ".", "a.", ".a", "a..b", "..", "a.b.c.d.e.foo.a.b"])
queues = st.sampled_from(["", "", "", "q", "r", "queue_with_a_longer_name"])
clients = st.sampled_from(CLIENTS)
others = st.integers(1, SHARDS - 1)


class Interest:
    """One shard of four, and a list of everything that it and the others want."""

    def __init__(self) -> None:
        self.segment: Segment = small_segment(SHARDS, control_ring_bytes=1 << 20)  # that nobody reads
        self.shard: Shard = boot(self.segment, 0)
        self.now = 1
        self.local: dict[tuple[int, bytes], tuple[str, str]] = {}
        self.remote_plain: set[tuple[int, str]] = set()
        self.remote_queues: dict[tuple[int, str, str], int] = {}
        self.sid = 0
        for client in CLIENTS:
            connect(self.shard, client)
        self.turn()

    def turn(self) -> None:
        self.now += 1_000_000
        self.shard.turn(self.now)

    def feed(self, client: int, data: bytes) -> None:
        assert self.shard.feed(client, data)
        self.turn()

    def subscribe(self, client: int, subject: str, queue: str) -> None:
        self.sid += 1
        # Sids that several clients share stand together in a route.
        sid = b"%d" % (self.sid % 20 * 37)
        if (client, sid) in self.local:
            return
        self.feed(client, b"SUB %b %b %b\r\n" % (subject.encode(), queue.encode(), sid))
        self.local[client, sid] = (subject, queue)

    def unsubscribe(self, client: int, sid: bytes) -> None:
        self.feed(client, b"UNSUB %b\r\n" % sid)
        del self.local[client, sid]

    def want(self, shard: int, subject: str, wanted: bool) -> None:
        if has_wildcard(subject):
            self.shard.remote_plain(shard, wanted, subject.encode())
        else:
            self.shard.remote_literal(shard, wanted, subject.encode())
        (self.remote_plain.add if wanted else self.remote_plain.discard)((shard, subject))

    def want_queue(self, shard: int, subject: str, queue: str, members: int) -> None:
        self.shard.remote_queue(shard, members, subject.encode(), queue.encode())
        self.remote_queues[shard, subject, queue] = members

    def forget(self, shard: int) -> None:
        self.shard.remote_forget(shard)
        # Literal subjects are in the directory, which the front clears.
        self.remote_plain = {(s, p) for s, p in self.remote_plain if s != shard or not has_wildcard(p)}
        self.remote_queues = {key: n for key, n in self.remote_queues.items() if key[0] != shard}

    def check(self, subject: str) -> None:
        plain = sorted(key for key, (p, q) in self.local.items() if not q and matches_published(p, subject))
        groups: dict[bytes, tuple[list[tuple[int, bytes]], int]] = {}
        for key, (pattern, queue) in sorted(self.local.items()):
            if queue and matches_published(pattern, subject):
                groups.setdefault(queue.encode(), ([], 0))[0].append(key)
        for (_, pattern, queue), count in self.remote_queues.items():
            if count and matches_published(pattern, subject):
                members, n = groups.get(queue.encode(), ([], 0))
                groups[queue.encode()] = (members, n + count)
        remote = sum({1 << s for s, p in self.remote_plain if matches_published(p, subject)})
        name = subject.encode()
        assert self.shard.match(name) == (plain, groups, remote)
        # At the first time there is no route, at the second it is made, at the third it is used.
        for _ in range(3):
            assert self.shard.route(name)[:3] == (plain, groups, remote)
        assert self.shard.route(name)[3]

    def clear(self) -> None:
        for client, sid in list(self.local):
            self.unsubscribe(client, sid)
        for shard in range(1, SHARDS):
            self.forget(shard)
        for shard, subject in list(self.remote_plain):
            self.want(shard, subject, False)
        assert_empty(self.shard)


def matches_published(pattern: str, subject: str) -> bool:
    """A subject with an empty token matches nothing; one with a wildcard is taken literally."""
    if "" in subject.split("."):
        return False
    return pattern == subject if not has_wildcard(pattern) else matches(pattern, subject)


def assert_empty(shard: Shard) -> None:
    assert shard.sizes() == {
        "root": False, "literals": 0, "literal_slots": 0, "patterns": 0, "subscriptions": 0, "expired": 0, "dead": 0,
        "garbage": 0, "out_bytes": 0,
    }  # fmt: skip


class SublistModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.interest = Interest()

    @rule(client=clients, subject=st.one_of(subjects, patterns), queue=queues)
    def subscribe(self, client: int, subject: str, queue: str) -> None:
        self.interest.subscribe(client, subject, queue)

    @rule(data=st.data())
    def unsubscribe(self, data: st.DataObject) -> None:
        if self.interest.local:
            self.interest.unsubscribe(*data.draw(st.sampled_from(sorted(self.interest.local))))

    @rule(shard=others, subject=st.one_of(subjects, patterns), wanted=st.booleans())
    def want(self, shard: int, subject: str, wanted: bool) -> None:
        self.interest.want(shard, subject, wanted)

    @rule(shard=others, subject=st.one_of(subjects, patterns), queue=queues.filter(bool), members=st.integers(0, 3))
    def want_queue(self, shard: int, subject: str, queue: str, members: int) -> None:
        self.interest.want_queue(shard, subject, queue, members)

    @rule(shard=others)
    def forget(self, shard: int) -> None:
        self.interest.forget(shard)

    @rule(subject=st.one_of(subjects, subjects, odd))
    def check(self, subject: str) -> None:
        self.interest.check(subject)

    def teardown(self) -> None:
        for subject in ("a", "a.b", "foo.a.b", "b.**"):
            self.interest.check(subject)
        self.interest.clear()


TestSublist = SublistModel.TestCase
TestSublist.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("seed", range(4))
def test_long_random_lives(seed: int) -> None:
    """A small set of subjects, thousands of changes, a look at a routed subject after each."""
    draw = random.Random(seed)
    interest = Interest()

    def subject(wild: float) -> str:
        parts = [draw.choice(TOKENS) for _ in range(draw.randint(1, 3))]
        parts = ["*" if draw.random() < wild else part for part in parts]
        return ".".join([*parts, ">"] if draw.random() < wild else parts)

    for _ in range(1500):
        action = draw.random()
        if action < 0.35:
            interest.subscribe(draw.choice(CLIENTS), subject(0.3), draw.choice(["", "", "q", "r"]))
        elif action < 0.65 and interest.local:
            interest.unsubscribe(*draw.choice(sorted(interest.local)))
        elif action < 0.8:
            interest.want(draw.randrange(1, SHARDS), subject(0.3), draw.random() < 0.5)
        elif action < 0.98:
            interest.want_queue(draw.randrange(1, SHARDS), subject(0.3), draw.choice("qr"), draw.randrange(3))
        else:
            interest.forget(draw.randrange(1, SHARDS))
        interest.check(subject(0))
    interest.clear()


def test_tables_grow_and_shrink() -> None:
    """Tens of thousands of literals and of children of one node: all are found, and nothing is left of them."""
    shard = boot(small_segment(1), 0)
    count = 40_000
    for client in (1, 2):
        connect(shard, client)
        shard.feed(client, b"".join(b"SUB l.%d %d\r\nSUB p.%d.* w%d\r\n" % (i, i, i, i) for i in range(count)))
    now = 1
    while shard.busy():
        now += 1
        shard.turn(now)
    assert shard.sizes()["subscriptions"] == 4 * count
    for i in range(0, count, 97):
        assert shard.match(b"l.%d" % i)[0] == [(1, b"%d" % i), (2, b"%d" % i)]
        assert shard.match(b"p.%d.x" % i)[0] == [(1, b"w%d" % i), (2, b"w%d" % i)]
    # The one goes sid by sid in another order, the other all at once by closing.
    order = list(range(count))
    random.Random(1).shuffle(order)
    for half in (order[: count // 2], order[count // 2 :]):
        shard.feed(1, b"".join(b"UNSUB %d\r\nUNSUB w%d\r\n" % (i, i) for i in half))
        while shard.busy():
            now += 1
            shard.turn(now)
        for i in half[:50]:
            assert shard.match(b"l.%d" % i)[0] == [(2, b"%d" % i)]
            assert shard.match(b"p.%d.x" % i)[0] == [(2, b"w%d" % i)]
    shard.hang_up(2)
    while shard.busy():
        now += 1
        shard.turn(now)
    shard.take_output(1)
    assert_empty(shard)
    assert not shard.is_open(2)


def test_queue_members_are_drawn_evenly() -> None:
    """Over patterns of one name and over shards, each member is as likely as every other."""
    segment = small_segment(2, 65536)
    shards = [boot(segment, 0), boot(segment, 1)]
    members = {1: (0, b"a.b"), 2: (0, b"a.*"), 3: (1, b"a.b"), 4: (1, b">")}
    for client, (number, subject) in members.items():
        connect(shards[number], client)
        shards[number].feed(client, b"SUB %b q 1\r\n" % subject)
    connect(shards[0], 9)
    now = 0
    drawn: Counter[int] = Counter()
    for _ in range(20):
        shards[0].feed(9, b"PUB a.b 0\r\n\r\n" * 100)
        for _ in range(6):
            now += 1_000_000
            for shard in shards:
                shard.turn(now)
        for client, (number, _) in members.items():
            drawn[client] += shards[number].take_output(client).count(b"MSG a.b 1 0\r\n\r\n")
    assert drawn.total() == 2000
    # 500 each; 6 standard deviations are 116.
    assert all(384 < drawn[client] < 616 for client in members), drawn
