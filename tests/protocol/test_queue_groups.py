"""Queue groups: one member gets each message, over all shards. Source: client.go processMsgResults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from harness import RawClient, msg, pub

Connect = Callable[..., RawClient]
OnShards = Callable[..., list[RawClient]]


def drained(clients: list[RawClient], publisher: RawClient, mark: str) -> list[list[tuple[str, str, bytes]]]:
    """What each client has got of all that `publisher` sent so far: up to a mark that follows it."""
    found = []
    for client in clients:
        client.send(f"SUB {mark} {mark}\r\nPING\r\n")
        found.append(client.messages_until(None))
    publisher.pub(mark)
    for client, part in zip(clients, found, strict=True):
        part += client.messages_until(mark)
    return found


def test_members_of_one_client_share(connect: Connect, subject: str) -> None:
    client = connect().sub(subject, 22, "g").sub(subject, 32, "g")
    client.send(pub(subject, "ok") * 200)
    shares = Counter(sid for _, sid, _ in client.messages(200))
    assert set(shares) == {"22", "32"} and min(shares.values()) >= 50
    client.expect_nothing()


def test_members_on_all_shards_share_and_none_is_delivered_twice(on_shards: OnShards, subject: str) -> None:
    members, publishers = on_shards() + on_shards(), on_shards()
    for client in members:
        client.sub(subject, 1, "g")
    for number, publisher in enumerate(publishers):
        publisher.send(b"".join(pub(subject, f"{number}-{i}") for i in range(1000)))
    got: list[list[tuple[str, str, bytes]]] = [[] for _ in members]
    for number, publisher in enumerate(publishers):
        for part, more in zip(got, drained(members, publisher, f"{subject}.end.{number}"), strict=True):
            part += more
    payloads = Counter(payload for part in got for _, _, payload in part)
    assert payloads == {f"{n}-{i}".encode(): 1 for n in range(len(publishers)) for i in range(1000)}
    share = 1000 * len(publishers) / len(members)
    assert all(0.7 * share < len(part) < 1.3 * share for part in got), [len(part) for part in got]


def test_order_within_a_member(on_shards: OnShards, subject: str) -> None:
    members, publisher = on_shards(), on_shards()[0]
    for client in members:
        client.sub(subject + ".*", 1, "g")
    publisher.send(b"".join(pub(f"{subject}.{i % 7}", str(i)) for i in range(3000)))
    for part in drained(members, publisher, subject + "end"):
        numbers = [int(payload) for _, _, payload in part]
        assert numbers == sorted(numbers) and numbers


def test_groups_and_plain_subscriptions_beside_each_other(on_shards: OnShards, subject: str) -> None:
    """Each group gets one copy, each plain subscription one, by literal and by wildcard."""
    clients = on_shards()
    for number, client in enumerate(clients):
        client.sub(subject + ".a", f"g1-{number}", "g1").sub(subject + ".*", f"g2-{number}", "g2")
        client.sub(subject + ".>", f"p-{number}")
    clients[0].send(b"".join(pub(subject + ".a", str(i)) for i in range(300)))
    got = [
        m for part in drained(clients, clients[0], subject + "end") for m in part if m[0] == subject + ".a"
    ]
    per_kind = Counter((sid[:2], payload) for _, sid, payload in got)
    for i in range(300):
        payload = str(i).encode()
        assert per_kind["g1", payload] == 1 and per_kind["g2", payload] == 1
        assert per_kind["p-", payload] == len(clients)


def test_a_group_is_its_name_whatever_the_pattern(on_shards: OnShards, subject: str) -> None:
    """Members of one name that match by different patterns are one group (sublist.go findQSlot)."""
    clients = on_shards()
    for client, pattern in zip(clients, (".a", ".*", ".>"), strict=True):
        client.sub(subject + pattern, 1, "g")
    clients[0].send(b"".join(pub(subject + ".a", str(i)) for i in range(300)))
    got = drained(clients, clients[0], subject + "end")
    assert Counter(payload for part in got for _, _, payload in part) == {
        str(i).encode(): 1 for i in range(300)
    }
    assert all(len(part) > 50 for part in got), [len(part) for part in got]


def test_a_member_that_unsubscribes_or_leaves_gets_none(
    on_shards: OnShards, connect: Connect, subject: str
) -> None:
    members, publisher = on_shards(), connect()
    for client in members:
        client.sub(subject, 1, "g")
    members[0].send("UNSUB 1\r\n").flush()
    publisher.send(pub(subject, "x") * 50)
    got = drained(members, publisher, subject + ".end")
    assert not got[0] and sum(len(part) for part in got) == 50
    members[1].finish_sending()
    assert members[1].expect_closed_any() == b""
    last = members[2]
    # A closed connection's interest goes in a moment: until then a message may still be drawn for it.
    seen = 0
    while seen < 20:
        publisher.pub(subject, "y").send(pub(subject + ".end")).flush()
        seen = seen + 1 if last.messages_until(subject + ".end") else 0


def test_no_echo_passes_over_own_members(on_shards: OnShards, subject: str) -> None:
    mute, other, *_ = on_shards(echo=False)
    mute.sub(subject, 1, "g")
    other.sub(subject, 2, "g")
    mute.send(pub(subject, "x") * 30)
    other.expect(msg(subject, 2, "x") * 30)
    mute.expect_nothing()


def test_one_member_alone_gets_all(on_shards: OnShards, subject: str) -> None:
    publisher, member, *_ = on_shards()
    member.sub(subject, 1, "g")
    publisher.send(pub(subject, "x") * 100)
    member.expect(msg(subject, 1, "x") * 100)


def test_maximum_of_a_member(connect: Connect, subject: str) -> None:
    client = connect().sub(subject, 1, "g").sub(subject, 2, "g").send("UNSUB 1 1\r\n").flush()
    client.send(pub(subject, "x") * 40)
    shares = Counter(sid for _, sid, _ in client.messages(40))
    assert shares["1"] <= 1 and shares["2"] >= 39
    client.expect_nothing()


def test_blanks_around_the_name(connect: Connect, subject: str) -> None:
    connect().send(f"SUB {subject}  bar  1 \r\n").pub(subject, "x").expect(msg(subject, 1, "x"))
