"""Accounts and permissions on one and several shards, against a slow model: who gets what, and who is told what.

Random users with random permissions in three accounts, on random shards, subscribe and publish; after every publish each
client must have got exactly what the rules of client.go (canSubscribe, pubAllowed, checkDenySub) give it, in its account only.
"""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardbroker.auth.model import Permissions, ResponsePermission, SubjectPermission
from shardbroker.hot.probe import Shard
from shardbroker.shm.segment import Segment
from shardbroker.shm.stats import snapshot
from shardbroker.subject import collides, is_subset, matches
from sim.shards import accept, boot, small_segment

ACCOUNTS = ("$G", "A", "B")
tokens = st.sampled_from(["a", "b", "c"])
subjects = st.lists(tokens, min_size=1, max_size=3).map(".".join)
patterns = st.lists(st.sampled_from(["a", "b", "c", "*"]), min_size=1, max_size=3).flatmap(
    lambda parts: st.sampled_from([".".join(parts), ".".join([*parts, ">"]), ".".join([*parts[:-1], ">"])])
)
queues = st.sampled_from(["q", "r", "q.*"])
entries = st.one_of(patterns, st.builds(lambda p, q: f"{p} {q}", patterns, queues))


def lists(of: st.SearchStrategy[str]) -> st.SearchStrategy[SubjectPermission | None]:
    return st.one_of(
        st.none(),
        st.builds(
            SubjectPermission,
            st.one_of(st.none(), st.lists(of, max_size=3).map(tuple)),
            st.lists(of, max_size=3).map(tuple),
        ),
    )


permissions = st.one_of(st.none(), st.builds(Permissions, lists(patterns), lists(entries)))


# ---- the rules, slowly ----


def may_publish(p: Permissions | None, subject: str) -> bool:
    rules = p.publish if p is not None else None
    if rules is None:
        return True
    if rules.allow is not None and not any(matches(entry, subject) for entry in rules.allow):
        return False
    return not any(matches(entry, subject) for entry in rules.deny)


def _about(rules: tuple[str, ...], subject: str, cover: bool) -> tuple[bool, list[str]]:
    """Whether a plain entry is about the subject, and the queues of the entries with one that are."""
    test = is_subset if cover else matches
    found = [entry.partition(" ") for entry in rules]
    hits = [(pattern, queue) for pattern, _, queue in found if (test(subject, pattern) if cover else test(pattern, subject))]
    return any(not queue for _, queue in hits), [queue for _, queue in hits if queue]


def _queue_matches(queue: str, names: list[str]) -> bool:
    return any(queue == name or is_subset(queue, name) for name in names)


def denied(p: Permissions | None, subject: str, queue: str) -> bool:
    if p is None or p.subscribe is None:
        return False
    plain, names = _about(p.subscribe.deny, subject, False)
    return plain or bool(queue and names and _queue_matches(queue, names))


def may_subscribe(p: Permissions | None, subject: str, queue: str) -> bool:
    if p is None or p.subscribe is None:
        return True
    allowed = True
    if p.subscribe.allow is not None:
        allowed, names = _about(p.subscribe.allow, subject, True)
        if queue and names:
            allowed = _queue_matches(queue, names)
    return allowed and not denied(p, subject, queue)


def gets(p: Permissions | None, subscription: tuple[str, str], subject: str) -> bool:
    """Whether no deny is against it: looked at for subscriptions that can overlap one."""
    return not denied(p, subject, subscription[1])


# ---- the world ----


@dataclass
class User:
    client: int
    shard: int
    account: str
    permissions: Permissions | None
    subs: dict[int, tuple[str, str]] = field(default_factory=dict)
    next_sid: int = 1


class World:
    def __init__(self, shards: int) -> None:
        self.segment: Segment = small_segment(shards, 1 << 14, 1 << 14)
        self.now = 1_000_000_000
        self.shards: list[Shard] = [boot(self.segment, number) for number in range(shards)]
        self.turns()

    def turns(self, count: int = 4) -> None:
        for _ in range(count):
            self.now += 1_000_000
            for shard in self.shards:
                shard.turn(self.now)

    def add(self, client: int, shard: int, account: str, p: Permissions | None, **options: bool) -> User:
        where = self.shards[shard]
        where.open(client)
        where.engine.enter(where.slots[client], client, account.encode(), p)
        accept(where, client, **options)
        self.turns(1)
        where.take_output(client)
        return User(client, shard, account, p)

    def say(self, user: User, data: bytes) -> bytes:
        """What it gets for it at once."""
        assert self.shards[user.shard].feed(user.client, data + b"PING\r\n")
        self.turns()
        return self.got(user)

    def got(self, user: User) -> bytes:
        return self.shards[user.shard].take_output(user.client).replace(b"PONG\r\n", b"")

    def corrupt(self) -> int:
        return sum(int(row["ring_corrupt"]) for row in snapshot(self.segment))


def violation(what: str, subject: str, queue: str = "") -> bytes:
    using = f' using queue "{queue}"' if queue else ""
    return f"-ERR 'Permissions Violation for {what} to \"{subject}\"{using}'\r\n".encode()


actions = st.one_of(
    st.tuples(st.just("sub"), st.integers(0, 5), patterns, st.sampled_from(["", "", "q", "r", "q.x"])),
    st.tuples(st.just("pub"), st.integers(0, 5), subjects, st.just("")),
    st.tuples(st.just("unsub"), st.integers(0, 5), st.just(""), st.just("")),
    st.tuples(st.just("restrict"), st.integers(0, 5), permissions, st.just("")),
)


@pytest.mark.parametrize("shards", [1, 3])
@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(ACCOUNTS), permissions), min_size=6, max_size=6),
    st.lists(actions, min_size=5, max_size=40),
)
def test_who_gets_what(shards: int, who: list[tuple[str, Permissions | None]], steps: list[tuple]) -> None:  # type: ignore[type-arg]
    world = World(shards)
    users = [world.add(10 + n, n % shards, account, p) for n, (account, p) in enumerate(who)]
    for number, (kind, whose, what, queue) in enumerate(steps):
        user = users[whose]
        if kind == "sub":
            sid, user.next_sid = user.next_sid, user.next_sid + 1
            answer = world.say(user, f"SUB {what} {queue + ' ' if queue else ''}{sid}\r\n".encode())
            if may_subscribe(user.permissions, what, queue):
                assert answer == b""
                user.subs[sid] = (what, queue)
            else:
                assert answer == violation("Subscription", what, queue)
        elif kind == "unsub":
            if user.subs:
                sid = min(user.subs)
                del user.subs[sid]
                assert world.say(user, b"UNSUB %d\r\n" % sid) == b""
        elif kind == "restrict":
            user.permissions = what
            engine = world.shards[user.shard].engine
            removed = engine.restrict(world.shards[user.shard].slots[user.client], user.client, what)
            gone = {sid for sid, (s, q) in user.subs.items() if not may_subscribe(what, s, q)}
            assert {int(sid) for _, _, sid in removed} == gone
            for sid in gone:
                del user.subs[sid]
            world.turns()
        else:
            answer = world.say(user, f"PUB {what} 4\r\n{number:04}\r\n".encode())
            if may_publish(user.permissions, what):
                check_delivery(world, users, user, what, b"%04d" % number, answer)
            else:
                assert answer == violation("Publish", what)
                assert all(world.got(other) == b"" for other in users if other is not user)
    assert world.corrupt() == 0


def check_delivery(world: World, users: list[User], publisher: User, subject: str, payload: bytes, answer: bytes) -> None:
    groups: dict[str, int] = {}
    eligible: set[str] = set()
    for user in users:
        output = answer if user is publisher else world.got(user)
        found = re.findall(rb"MSG (\S+) (\d+) 4\r\n(.{4})\r\n", output)
        assert b"".join(b"MSG %b %b 4\r\n%b\r\n" % one for one in found) == output
        assert all((s, body) == (subject.encode(), payload) for s, _, body in found)
        sids = sorted(int(sid) for _, sid, _ in found)
        matching = {
            sid: q
            for sid, (pattern, q) in user.subs.items()
            if user.account == publisher.account and matches(pattern, subject) and gets(user.permissions, (pattern, q), subject)
        }
        assert [sid for sid in sids if not matching.get(sid, "?")] == sorted(s for s, q in matching.items() if not q)
        assert set(sids) <= set(matching) and len(set(sids)) == len(sids)
        for sid in sids:
            if matching[sid]:
                groups[matching[sid]] = groups.get(matching[sid], 0) + 1
        eligible |= {q for q in matching.values() if q}
    assert all(count == 1 for count in groups.values())
    if not any(user.permissions and user.permissions.subscribe and user.permissions.subscribe.deny for user in users):
        assert set(groups) == eligible


@given(patterns, subjects, patterns)
def test_the_model_agrees_with_itself(pattern: str, subject: str, other: str) -> None:
    """What one pattern covers, it matches; what two match, collides."""
    if is_subset(other, pattern) and matches(other, subject):
        assert matches(pattern, subject)
    if matches(pattern, subject) and matches(other, subject):
        assert collides(pattern, other)


@pytest.mark.parametrize("shards", [1, 2])
def test_a_right_to_answer_is_for_requests_that_came(shards: int) -> None:
    """allow_responses: so many answers to each request, in so much time (client.go responseAllowed)."""
    world = World(shards)
    asker = world.add(1, 0, "A", None)
    right = Permissions(
        publish=SubjectPermission(allow=("fixed",)),
        subscribe=SubjectPermission(allow=("service",)),
        responses=ResponsePermission(max_messages=2, expires=1.0),
    )
    service = world.add(2, shards - 1, "A", right)
    assert world.say(service, b"SUB service 1\r\n") == b""
    assert world.say(asker, b"SUB in.> 1\r\n") == b""
    refused = violation("Publish", "in.1")
    assert world.say(service, b"PUB in.1 1\r\nx\r\n") == refused
    world.say(asker, b"PUB service in.1 1\r\n?\r\n")
    assert world.got(service) == b"MSG service 1 in.1 1\r\n?\r\n"
    for _ in range(2):
        assert world.say(service, b"PUB in.1 1\r\nx\r\n") == b""
        assert world.got(asker) == b"MSG in.1 1 1\r\nx\r\n"
    assert world.say(service, b"PUB in.1 1\r\nx\r\n") == refused
    # A new request to the same subject is a new right, and it ends with its time.
    world.say(asker, b"PUB service in.1 1\r\n?\r\n")
    world.say(asker, b"PUB service in.2 1\r\n?\r\n")
    assert world.say(service, b"PUB in.1 1\r\nx\r\n").endswith(b"?\r\n")
    world.now += 1_000_000_000
    world.turns()
    assert world.say(service, b"PUB in.2 1\r\nx\r\n") == violation("Publish", "in.2")
    # A message that others get, or a subscription that does not match, gives no right.
    world.say(asker, b"SUB other 9\r\nPUB other in.3 1\r\n?\r\n")
    assert world.say(service, b"PUB in.3 1\r\nx\r\n") == violation("Publish", "in.3")


def test_rights_to_answer_are_bounded() -> None:
    world = World(1)
    asker = world.add(1, 0, "A", None)
    right = Permissions(publish=SubjectPermission(allow=()), responses=ResponsePermission(max_messages=-1, expires=-1))
    service = world.add(2, 0, "A", right)
    world.say(service, b"SUB s 1\r\n")
    for number in range(0, 70_000, 1000):
        world.say(asker, b"".join(b"PUB s in.%d 0\r\n\r\n" % n for n in range(number, number + 1000)))
        world.got(service)
    world.say(asker, b"SUB in.> 1\r\n")
    # The oldest are forgotten; without limits the others stay, however often they are used.
    assert world.say(service, b"PUB in.1 0\r\n\r\n") == violation("Publish", "in.1")
    for _ in range(3):
        assert world.say(service, b"PUB in.69999 0\r\n\r\nPUB in.10000 0\r\n\r\n") == b""


@pytest.mark.parametrize("shards", [1, 3])
def test_equal_subjects_of_many_accounts_are_strangers(shards: int) -> None:
    """Also their directory bits, routes, queue groups and what is told to a shard that comes later."""
    world = World(shards)
    users = [world.add(100 + n, n % shards, f"T{n}", None) for n in range(60)]
    for user in users:
        world.say(user, b"SUB same 1\r\nSUB same.* 2\r\nSUB same.x q 3\r\nSUB > 4\r\n")
    draw = random.Random(1)
    for _, user in itertools.product(range(3), draw.sample(users, 20)):
        assert world.say(user, b"PUB same 1\r\n1\r\nPUB same.x 1\r\n2\r\n").count(b"MSG") == 5
        assert all(world.got(other) == b"" for other in users if other is not user)
    rows = {row[0]: row[1:] for shard in world.shards for row in shard.engine.account_rows() if row[1]}
    assert len(rows) == 60
    assert rows[b"T7"][:2] == (1, 4)


def test_a_connection_that_becomes_someone_else_leaves_its_subscriptions() -> None:
    world = World(1)
    user = world.add(1, 0, "A", None)
    other = world.add(2, 0, "B", None)
    world.say(user, b"SUB x 1\r\n")
    shard = world.shards[0]
    shard.engine.enter(shard.slots[1], 1, b"B", None)
    assert world.say(other, b"PUB x 1\r\n1\r\n") == b""
    assert world.got(user) == b""
    world.say(user, b"SUB x 1\r\n")
    world.say(other, b"PUB x 1\r\n2\r\n")
    assert world.got(user) == b"MSG x 1 1\r\n2\r\n"
    # Its own limits: what it may send, and hold.
    shard.engine.enter(shard.slots[1], 1, b"B", None, max_payload=3, max_subscriptions=1)
    assert world.say(user, b"SUB y 2\r\n") == b"-ERR 'maximum subscriptions exceeded'\r\n"
    assert b"Maximum Payload Violation" in world.say(user, b"PUB x 4\r\n1234\r\n")
