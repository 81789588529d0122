"""503 for a request that nobody can answer. Source: client.go processInboundClientMsg; ADR-4."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness import RawClient, msg

Connect = Callable[..., RawClient]
OnShards = Callable[..., list[RawClient]]


def no_responders(sid: object, inbox: str, subject: str) -> bytes:
    """A regular expression: from 2.12 the header names the subject asked."""
    return rf"HMSG {inbox} {sid} (\d+) \1\r\nNATS/1\.0 503\r\n(Nats-Subject: {subject}\r\n)?\r\n\r\n".encode()


@pytest.fixture
def asker(connect: Connect, subject: str) -> RawClient:
    return connect(headers=True, no_responders=True).sub(subject + ".inbox", 1)


@pytest.mark.parametrize(
    "verb", ["PUB {0} {0}.inbox 2\r\nok\r\n", "HPUB {0} {0}.inbox 12 14\r\nNATS/1.0\r\n\r\nok\r\n"]
)
def test_nobody_there(asker: RawClient, subject: str, verb: str) -> None:
    asker.send(verb.format(subject)).expect_re(no_responders(1, subject + ".inbox", subject))
    asker.expect_nothing()


def test_wildcard_inbox(connect: Connect, subject: str) -> None:
    client = connect(headers=True, no_responders=True).sub(subject + ".inbox.*", 8)
    client.pub(subject, "x", subject + ".inbox.77").expect_re(
        no_responders(8, subject + ".inbox.77", subject)
    )


def test_not_without_a_reply(asker: RawClient, subject: str) -> None:
    asker.pub(subject, "x").expect_nothing()


def test_not_unless_asked_for(connect: Connect, subject: str) -> None:
    client = connect(headers=True).sub(subject + ".inbox")
    client.pub(subject, "x", subject + ".inbox").expect_nothing()


def test_not_to_others(on_shards: OnShards, connect: Connect, subject: str) -> None:
    """The inbox of another connection hears nothing, nor does the asker without an inbox of its own."""
    asker = connect(headers=True, no_responders=True)
    others = on_shards(headers=True, no_responders=True)
    for other in others:
        other.sub(subject + ".inbox")
    asker.pub(subject, "x", subject + ".inbox").expect_nothing()
    for other in others:
        other.expect_nothing()


@pytest.mark.parametrize("queue", ["", "q"])
@pytest.mark.parametrize("pattern", ["{}.a", "{}.*", "{}.>"])
def test_not_when_anyone_is_there_on_any_shard(
    on_shards: OnShards, asker: RawClient, subject: str, pattern: str, queue: str
) -> None:
    for client in on_shards():
        client.sub(pattern.format(subject), 1, queue)
        asker.pub(subject + ".a", "q", subject + ".inbox").flush()
        client.expect(msg(subject + ".a", 1, "q", subject + ".inbox"))
        client.send("UNSUB 1\r\n").flush()
        asker.pub(subject + ".a", "q", subject + ".inbox").expect_re(
            no_responders(1, subject + ".inbox", subject + r"\.a")
        )


def test_when_only_oneself_is_there_and_there_is_no_echo(connect: Connect, subject: str) -> None:
    client = connect(headers=True, no_responders=True, echo=False).sub(subject, 1).sub(subject + ".inbox", 2)
    client.pub(subject, "x", subject + ".inbox").expect_re(no_responders(2, subject + ".inbox", subject))


def test_jetstream_request_without_jetstream(asker: RawClient, subject: str) -> None:
    asker.pub("$JS.API.INFO", "", subject + ".inbox").expect_re(
        no_responders(1, subject + ".inbox", r"\$JS\.API\.INFO")
    )


def test_requests_and_replies_over_shards(on_shards: OnShards, subject: str) -> None:
    """A request never loses its reply, however new its inbox is; one inbox subscription a request."""
    services, askers = on_shards(), on_shards(headers=True, no_responders=True)
    for number, service in enumerate(services):
        service.sub(f"{subject}.{number}", "s", "q")
    for number in range(150):
        asker, target = askers[number % 3], number // 3 % 3
        inbox = f"{subject}.inbox.{number}"
        asker.send(f"SUB {inbox} {number}\r\nUNSUB {number} 1\r\nPUB {subject}.{target} {inbox} 1\r\n?\r\n")
        services[target].expect(msg(f"{subject}.{target}", "s", "?", inbox)).pub(inbox, "!")
        asker.expect(msg(inbox, number, "!"))
