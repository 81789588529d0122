"""Imports of streams and services, and mappings, on one and several shards, against the slow rules of transform.py."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardbroker.auth.model import (
    Account,
    Export,
    Import,
    MapDestination,
    Mapping,
    Permissions,
    SubjectPermission,
)
from shardbroker.clock import SystemClock
from shardbroker.options import Options
from shardbroker.shard.accounts import Accounts
from shardbroker.subject import is_literal_subject, matches
from shardbroker.transform import Transform, TransformError, tokenize
from sim.test_accounts import World, patterns, subjects, violation


def tell(world: World, *accounts: Account) -> None:
    """These records hold on every shard from now on."""
    for shard in world.shards:
        Accounts(shard.engine, Options(accounts=accounts), None, SystemClock())
    world.turns()


def stream(account: str, subject: str, to: str = "") -> Import:
    return Import("stream", account, subject, to or subject)


def service(account: str, subject: str, to: str = "") -> Import:
    return Import("service", account, subject, to or subject)


# ---- mappings ----

destinations = st.lists(
    st.sampled_from(
        [
            "x", "$1", "$2", "{{wildcard(1)}}", "{{partition(10,1)}}", "{{partition(3)}}", "{{partition(5,2,1)}}",
            "{{split(1,-)}}", "{{splitfromleft(1,2)}}", "{{splitFromRight(1,2)}}", "{{sliceFromLeft(1,2)}}",
            "{{SliceFromRight(1,2)}}", "{{left(1,2)}}", "{{right(2,3)}}", ">",
        ]
    ),
    min_size=1, max_size=4,
).map(".".join)  # fmt: skip
sources = st.sampled_from(["m.*", "m.*.*", "m.*.>", "m.>", "*.*", "m.a-b.c"])
texts = st.text(st.sampled_from("ab-_"), min_size=1, max_size=9)
published = st.lists(texts, min_size=1, max_size=4).map(lambda parts: ".".join(["m", *parts]))


@settings(max_examples=200, deadline=None)
@given(sources, destinations, st.lists(published, min_size=1, max_size=5))
def test_what_is_published_goes_where_the_transform_says(source: str, destination: str, sent: list[str]) -> None:
    try:
        transform = Transform(source, destination)
    except TransformError:
        return
    world = World(1)
    tell(world, Account("A", mappings=(Mapping(source, (MapDestination(destination),)),)))
    user = world.add(1, 0, "A", None)
    world.say(user, b"SUB > 1\r\n")
    for subject in sent:
        became = transform.apply(subject)
        became = subject if became is None else became
        # What is no subject, of a split that leaves nothing, is nobody's.
        delivered = f"MSG {became} 1 1\r\nx\r\n".encode() if is_literal_subject(became) else b""
        assert world.say(user, f"PUB {subject} 1\r\nx\r\n".encode()) == delivered


def test_weights_and_loss() -> None:
    world = World(1)
    rest = Mapping("rest", (MapDestination("a", 20), MapDestination("b", 30)))
    loss = Mapping("loss", (MapDestination("c", 50), MapDestination("loss", 10)))
    tell(world, Account("A", mappings=(rest, loss)))
    user = world.add(1, 0, "A", None)
    world.say(user, b"SUB > 1\r\n")
    out = world.say(user, b"PUB rest 0\r\n\r\n" * 2000)
    counts = {name: out.count(b"MSG %b 1" % name) for name in (b"a", b"b", b"rest")}
    assert sum(counts.values()) == 2000
    assert 300 < counts[b"a"] < 500 and 480 < counts[b"b"] < 720 and 850 < counts[b"rest"] < 1150
    out = world.say(user, b"PUB loss 0\r\n\r\n" * 2000)
    assert 850 < out.count(b"MSG c 1") < 1150 and 130 < out.count(b"MSG loss 1") < 280
    # Who asks for an answer hears that nobody got it.
    out = world.say(user, b"PUB loss in 0\r\n\r\n" * 50)
    assert out.count(b"503") > 5


def test_permissions_are_about_what_it_becomes() -> None:
    world = World(1)
    tell(world, Account("A", mappings=(Mapping("open", (MapDestination("closed"),)), Mapping("in", (MapDestination("out"),)))))
    user = world.add(1, 0, "A", Permissions(publish=SubjectPermission(deny=("closed", "in"))))
    assert world.say(user, b"PUB open 0\r\n\r\n") == violation("Publish", "closed")
    assert world.say(user, b"PUB in 0\r\n\r\n") == b""
    # Nothing stays of a mapping that is gone, for connections that were there.
    tell(world, Account("A"))
    world.shards[0].engine.set_account(b"A", [], [])
    assert world.say(user, b"PUB open 0\r\n\r\n") == b""
    assert world.say(user, b"PUB in 0\r\n\r\n") == violation("Publish", "in")


# ---- streams ----


@pytest.mark.parametrize("shards", [1, 3])
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(patterns, st.sampled_from(["", "p", "swap"])), min_size=1, max_size=3, unique_by=lambda one: one[0]),
    st.lists(st.tuples(st.integers(0, 2), patterns), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 3), subjects), min_size=1, max_size=8),
    st.booleans(),
)
def test_streams(
    shards: int, made: list[tuple[str, str]], subs: list[tuple[int, str]], pubs: list[tuple[int, str]], late: bool
) -> None:
    """Importers get what is published in the exporter's account under their names for it, as often as they want it."""
    imports = []
    for pattern, kind in made:
        to = tokenize(pattern)
        if kind == "p":
            to = f"p.{pattern}"
        elif kind == "swap" and pattern.count("*") == 2:
            to = to.replace("$1", "$3").replace("$2", "$1").replace("$3", "$2")
        imports.append(stream("A", pattern, to if kind else pattern))
    accounts = (Account("A", exports=(Export("stream", ">"),)), Account("B", imports=tuple(imports)))
    world = World(shards)
    if not late:
        tell(world, *accounts)
    users = [world.add(10 + n, n % shards, account, None) for n, account in enumerate(["B", "B", "C", "A"])]
    for whose, pattern in subs:
        user = users[whose]
        for text in (pattern, f"p.{pattern}"):
            user.subs[user.next_sid] = (text, "")
            world.say(user, f"SUB {text} {user.next_sid}\r\n".encode())
            user.next_sid += 1
    if late:
        tell(world, *accounts)
    transforms = [Transform(one.subject, tokenize(one.to)) for one in imports]
    for number, (whose, subject) in enumerate(pubs):
        publisher = users[whose]
        expected: dict[int, list[tuple[str, int]]] = {n: [] for n in range(4)}
        for n, user in enumerate(users):
            names = [subject] if user.account == publisher.account else []
            if (publisher.account, user.account) == ("A", "B"):
                for one, transform in zip(imports, transforms, strict=True):
                    if matches(one.subject, subject):
                        names.append(transform.fill(subject.split(".")))
            expected[n] = sorted((name, sid) for name in names for sid, (p, _) in user.subs.items() if matches(p, name))
        answer = world.say(publisher, f"PUB {subject} 4\r\n{number:04}\r\n".encode())
        for n, user in enumerate(users):
            assert received(answer if user is publisher else world.got(user)) == expected[n]
    # All is gone with the subscriptions.
    for user in users[:3]:
        world.say(user, b"".join(b"UNSUB %d\r\n" % sid for sid in user.subs))
    world.turns()
    assert world.corrupt() == 0
    assert sum(shard.engine.memory()["subscriptions"] for shard in world.shards) == 0


def received(output: bytes) -> list[tuple[str, int]]:
    found = re.findall(rb"MSG (\S+) (\d+) \d+\r\n.*?\r\n", output)
    assert output.count(b"MSG") == len(found)
    return sorted((name.decode(), int(sid)) for name, sid in found)


@pytest.mark.parametrize("shards", [1, 2])
def test_limits_groups_and_denials_of_a_shadow(shards: int) -> None:
    world = World(shards)
    tell(world, Account("A", exports=(Export("stream", ">"),)), Account("B", imports=(stream("A", "s.*", "t.$1"),)))
    source = world.add(1, 0, "A", None)
    one = world.add(2, shards - 1, "B", Permissions(subscribe=SubjectPermission(deny=("t.no",))))
    other = world.add(3, 0, "B", None)
    world.say(one, b"SUB t.* 1\r\nUNSUB 1 2\r\nSUB t.> 2\r\n")
    world.say(source, b"PUB s.no 0\r\n\r\nPUB s.a 0\r\n\r\nPUB s.b 0\r\n\r\nPUB s.c 0\r\n\r\n")
    assert received(world.got(one)) == [("t.a", 1), ("t.a", 2), ("t.b", 1), ("t.b", 2), ("t.c", 2)]
    for user in (one, other):
        world.say(user, b"SUB t.q workers 7\r\n")
    world.say(one, b"UNSUB 2\r\n")
    world.say(source, b"PUB s.q 0\r\n\r\n" * 40)
    counts = [len(received(world.got(user))) for user in (one, other)]
    assert sum(counts) == 40 and min(counts) > 4
    assert world.say(source, b"PUB nobody in.x 0\r\n\r\nSUB in.x 1\r\nPUB nobody in.x 0\r\n\r\n").count(b"503") == 1
    assert b"503" not in world.say(source, b"PUB s.q in.x 0\r\n\r\n")


# ---- services ----


def services(world: World, response_type: str = "singleton", seconds: float = 120.0) -> None:
    export = Export("service", "help.*", response_type=response_type, response_seconds=seconds)  # type: ignore[arg-type]
    tell(
        world,
        Account("A", exports=(export,)),
        Account("B", imports=(service("A", "help.*", "ask.$1"),), exports=(Export("service", "ask.*"),)),
        Account("C", imports=(service("B", "ask.me", "relay"),)),
    )


REQUEST = re.compile(rb"H?MSG (\S+) (\d+) (_R_\.\S+) \d+( \d+)?\r\n")


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("headers", [True, False])
def test_a_request_goes_there_and_its_answer_comes_back(shards: int, headers: bool) -> None:
    world = World(shards)
    services(world)
    helper = world.add(1, 0, "A", None, headers=headers)
    asker = world.add(2, shards - 1, "B", None)
    far = world.add(3, shards // 2, "C", None)
    spy = world.add(4, 0, "B", None)
    nosy = world.add(5, 0, "A", None)
    world.say(helper, b"SUB help.> 1\r\n")
    world.say(asker, b"SUB in.> 9\r\n")
    world.say(far, b"SUB in.> 8\r\n")
    for round_ in range(3):
        for user, subject, there in ((asker, "ask.it", b"help.it"), (far, "relay", b"help.me")):
            world.say(user, f"PUB {subject} in.{round_} 2\r\nhi\r\n".encode())
            got = world.got(helper)
            found = REQUEST.match(got)
            assert found is not None and found[1] == there, got
            info = b'Nats-Request-Info: {"acc":"%b"' % user.account.encode()
            assert (info in got) == headers or user is far
            assert got.endswith(b"hi\r\n")
            # Not the reply subject of who asked: that is the other account's.
            assert b"in." not in got
            world.say(nosy, b"PUB in.%d 1\r\n?\r\n" % round_)
            world.say(spy, b"PUB %b 1\r\n?\r\n" % found[3])
            assert world.got(user) == b""
            world.say(helper, b"PUB %b 2\r\nok\r\nPUB %b 3\r\ntwo\r\n" % (found[3], found[3]))
            assert world.got(user) == b"MSG in.%d %d 2\r\nok\r\n" % (round_, 9 if user is asker else 8)
    assert world.got(spy) == b"" and world.corrupt() == 0


@pytest.mark.parametrize("shards", [1, 2])
def test_several_answers_to_one_request(shards: int) -> None:
    world = World(shards)
    services(world, "stream", seconds=5.0)
    helper, asker = world.add(1, 0, "A", None), world.add(2, shards - 1, "B", None)
    world.say(helper, b"SUB help.> 1\r\n")
    world.say(asker, b"SUB in 9\r\nPUB ask.x in 0\r\n\r\n")
    found = REQUEST.match(world.got(helper))
    assert found is not None
    answer = b"PUB %b 1\r\n1\r\n" % found[3]
    for _ in range(3):
        world.now += 4_000_000_000  # each answer is given as long again
        world.say(helper, answer * 2)
        assert received(world.got(asker)) == [("in", 9)] * 2
    world.say(helper, b"PUB %b 0\r\n\r\n" % found[3] + answer)
    assert received(world.got(asker)) == [("in", 9)]
    world.say(asker, b"PUB ask.x in 0\r\n\r\n")
    found = REQUEST.match(world.got(helper))
    assert found is not None
    world.now += 6_000_000_000
    world.say(helper, b"PUB %b 1\r\n1\r\n" % found[3])
    assert world.got(asker) == b""


@pytest.mark.parametrize("shards", [1, 2])
def test_nobody_is_there(shards: int) -> None:
    """503 comes over imports and chains of them, and nothing is remembered."""
    world = World(shards)
    services(world)
    helper = world.add(3, 0, "A", None)
    for user in (world.add(1, shards - 1, "B", None), world.add(2, 0, "C", None)):
        subject = b"ask.x" if user.account == "B" else b"relay"
        assert world.say(user, b"SUB in 9\r\nPUB %b in 0\r\n\r\n" % subject).count(b"503") == 1
    # A subscriber of the importing account is one too.
    local = world.add(4, 0, "C", None)
    world.say(local, b"SUB relay 1\r\n")
    assert b"503" not in world.say(user, b"PUB relay in 0\r\n\r\n")
    world.say(helper, b"SUB help.me 1\r\n")
    assert world.say(user, b"PUB relay in 0\r\n\r\n") == b""
    assert world.got(local).count(b"MSG relay 1 in 0") == 2


def test_nobody_may_say_who_asks() -> None:
    world = World(1)
    services(world)
    helper, asker = world.add(1, 0, "A", None), world.add(2, 0, "B", None)
    world.say(helper, b"SUB help.> 1\r\n")
    block = b'NATS/1.0\r\nA: b\r\nNats-Request-Info: {"acc":"$SYS"}\r\nnats-request-INFO: x\r\nC: d\r\n\r\n'
    world.say(asker, b"HPUB ask.x in %d %d\r\n%b--\r\n" % (len(block), len(block) + 2, block))
    got = world.got(helper)
    assert b'NATS/1.0\r\nA: b\r\nC: d\r\nNats-Request-Info: {"acc":"B"' in got and got.endswith(b"}\r\n\r\n--\r\n")
    assert got.lower().count(b"nats-request-info") == 1 and b"$SYS" not in got


def test_requests_under_way_are_bounded() -> None:
    world = World(1)
    services(world)
    helper, asker = world.add(1, 0, "A", None), world.add(2, 0, "B", None)
    world.say(helper, b"SUB help.> 1\r\n")
    replies = []
    for number in range(0, 67_000, 1000):
        world.say(asker, b"".join(b"PUB ask.x in.%d 0\r\n\r\n" % n for n in range(number, number + 1000)))
        replies += [one[2] for one in REQUEST.findall(world.got(helper))]
    assert len(set(replies)) == 67_000
    world.say(asker, b"SUB in.> 9\r\n")
    world.say(helper, b"PUB %b 0\r\n\r\nPUB %b 0\r\n\r\n" % (replies[0], replies[-1]))
    assert received(world.got(asker)) == [("in.66999", 9)]


