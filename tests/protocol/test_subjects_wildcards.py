"""Which subject matches which pattern, and odd subjects. Source: sublist.go, test in sublist_test.go."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from harness import RawClient, msg

Connect = Callable[..., RawClient]
OnShards = Callable[..., list[RawClient]]

# pattern, subjects that match, subjects that do not; all behind the test's own first token
TABLE = [
    ("a", ["a"], ["b", "a.b", "a.b.c", "aa"]),
    ("a.*", ["a.b", "a.c", "a.*", "a.>"], ["a", "a.b.c", "b.a"]),
    ("a.*.c", ["a.b.c", "a.a.c"], ["a.c", "a.b", "a.b.b.c", "a.b.d"]),
    ("*.b", ["a.b", "b.b"], ["b", "a.b.c", "a.c"]),
    ("*.*", ["a.b"], ["a", "a.b.c"]),
    ("*.>", ["a.b", "a.b.c"], ["a"]),
    ("a.>", ["a.b", "a.b.c.d", "a.>"], ["a", "b.a"]),
    (">", ["a", "a.b.c", "$X.y"], []),
    ("a.*.>", ["a.b.c", "a.b.c.d"], ["a.b", "a"]),
    ("foo*", ["foo*"], ["foo", "foob"]),
    ("*foo.bar", ["*foo.bar"], ["xfoo.bar", "foo.bar"]),
    ("foo.>bar", ["foo.>bar"], ["foo.bar", "foo.x.bar"]),
    ("foo.bar,*,>,baz", ["foo.bar,*,>,baz"], ["foo.bar,x,y,baz"]),
    ("foo.**", ["foo.**"], ["foo.a", "foo.ab"]),
    ("foo.>>", ["foo.>>"], ["foo.a", "foo.a.b"]),
]


@pytest.mark.parametrize("queue", ["", "q"])
@pytest.mark.parametrize(("pattern", "matching", "other"), TABLE, ids=[row[0] for row in TABLE])
def test_table(
    on_shards: OnShards, subject: str, pattern: str, matching: list[str], other: list[str], queue: str
) -> None:
    publisher, receiver, *_ = on_shards()
    for client in (receiver, publisher):
        client.sub(f"{subject}.{pattern}", "p", queue)
        client.sub(subject + "-end", "end")
        for name in other + matching:
            publisher.pub(f"{subject}.{name}", "x")
        publisher.pub(subject + "-end")
        got = client.messages_until(subject + "-end")
        assert got == [(f"{subject}.{name}", "p", b"x") for name in matching]
        client.send("UNSUB p\r\nUNSUB end\r\n").flush()


def matches(pattern: list[str], name: list[str]) -> bool:
    """The slow model."""
    if not pattern or not name:
        return not pattern and not name
    if pattern[0] == ">":
        return True
    return pattern[0] in ("*", name[0]) and matches(pattern[1:], name[1:])


def test_random_patterns_against_a_model(on_shards: OnShards, subject: str) -> None:
    rng = random.Random(11)
    clients = on_shards()
    patterns: list[list[list[str]]] = []
    for client in clients:
        own = []
        for sid in range(120):
            tokens = [rng.choice(["a", "b", "c", "*"]) for _ in range(rng.randint(1, 4))]
            if rng.random() < 0.25:
                tokens.append(">")
            own.append(tokens)
            client.send(f"SUB {subject}.{'.'.join(tokens)} {sid}\r\n")
        patterns.append(own)
        client.flush()
    names = [[rng.choice("abcd") for _ in range(rng.randint(1, 5))] for _ in range(300)]
    for index, publisher in enumerate(clients):
        for name in names[index::3]:
            publisher.pub(f"{subject}.{'.'.join(name)}", "x")
    for client, own in zip(clients, patterns, strict=True):
        got = []
        for index, publisher in enumerate(clients):
            mark = f"{subject}-end.{client.local_port}.{index}"
            client.send(f"SUB {mark} {mark}\r\nPING\r\n")
            got += client.messages_until(None)
            publisher.pub(mark)
            got += client.messages_until(mark)
        found = sorted((name, int(sid)) for name, sid, _ in got)
        wanted = sorted(
            (f"{subject}.{'.'.join(name)}", sid)
            for name in names
            for sid, pattern in enumerate(own)
            if matches(pattern, name)
        )
        assert found == wanted


@pytest.mark.parametrize("form", ["{}.", ".{}", "{}..b", "{}.>.b", "{}." + "." * 3000, "." * 4000])
def test_invalid_sub(connect: Connect, subject: str, form: str) -> None:
    connect().send(f"SUB {form.format(subject)} 1\r\n").expect("-ERR 'Invalid Subject'\r\n").flush()


@pytest.mark.parametrize("tokens", [16, 17, 32, 200, 1000])
def test_many_tokens(on_shards: OnShards, subject: str, tokens: int) -> None:
    publisher, receiver, *_ = on_shards()
    name = ".".join([subject, *("t" for _ in range(tokens))])
    receiver.sub(name, 1).sub(name[: name.rindex(".")] + ".*", 2).sub(subject + ".>", 3)
    publisher.pub(name, "x")
    receiver.expect_set(*(msg(name, sid, "x") for sid in (1, 2, 3)))


@pytest.mark.parametrize("length", [15, 16, 31, 32, 63, 64, 127, 128, 255, 256, 1000, 4000])
def test_long_names(on_shards: OnShards, subject: str, length: int) -> None:
    publisher, receiver, *_ = on_shards()
    name = subject + "x" * (length - len(subject))
    receiver.sub(name).sub(name[:-1] + "y", 2)
    publisher.pub(name, "x")
    receiver.expect(msg(name, 1, "x")).expect_nothing()


@pytest.mark.parametrize("name", ["a\0b", "a\x01b", "ü.ö", "$SYSTEM.x", "a\x7f", "a\xa0b", "*a", "a'b\"c"])
def test_bytes_of_any_kind(on_shards: OnShards, subject: str, name: str) -> None:
    publisher, receiver, *_ = on_shards()
    receiver.sub(f"{subject}.{name}")
    publisher.pub(f"{subject}.{name}", "x")
    receiver.expect(msg(f"{subject}.{name}", 1, "x"))


@pytest.mark.parametrize("form", ["{}.", ".{}", "{}..b", "{}.*", "{}.>"])
def test_published_to_a_bad_subject(on_shards: OnShards, subject: str, form: str) -> None:
    """Not pedantic: no error, and the neighbours stay well."""
    clients = on_shards()
    for client in clients:
        client.sub(subject + ".ok")
    clients[0].pub(form.format(subject), "x").pub(subject + ".ok", "y")
    for client in clients:
        client.expect(msg(subject + ".ok", 1, "y"))


def test_literal_publish_to_wildcard_signs(on_shards: OnShards, subject: str) -> None:
    """A published * or > is a token like others; literal subscriptions beside it do not see it."""
    publisher, receiver, *_ = on_shards()
    receiver.sub(subject + ".a", 1).sub(subject + ".*", 2)
    publisher.pub(subject + ".*", "x")
    receiver.expect(msg(subject + ".*", 2, "x")).expect_nothing()


def test_thrash_of_the_route_cache(on_shards: OnShards, subject: str) -> None:
    """Many subjects once each, more than any cache holds, while subscriptions come and go."""
    publisher, receiver, *_ = on_shards()
    receiver.sub(subject + ".>", 1)
    for turn in range(4):
        receiver.sub(f"{subject}.{turn}.*", f"t{turn}")
        names = [f"{subject}.{turn}.{i}" for i in range(3000)]
        publisher.send("".join(f"PUB {name} 1\r\nx\r\n" for name in names))
        got = receiver.messages(6000)
        assert sorted(n for n, sid, _ in got if sid == "1") == sorted(names)
        assert [n for n, sid, _ in got if sid == f"t{turn}"] == names
        receiver.send(f"UNSUB t{turn}\r\n").flush()
