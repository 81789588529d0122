"""Requests, acknowledgements, keys, pulled messages: each check finds what it is there to find.

[caller] --PUB--> the test, playing server, responder and stream --MSG, true or false--> [caller]
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from shardbroker.bench import LoadError, calls, pulls
from shardbroker.bench.board import sum_of
from shardbroker.bench.histogram import Histogram

REQUESTS = 200
# Without progress for so long a run fails: of a test that waits for it, and of one that must not see it on a slow machine.
STALL_SECONDS, PATIENT_SECONDS = 0.5, 60.0
REQUEST = re.compile(rb"(?:H?PUB) (\S+) (?:(_INBOX\S+) )?(?:(\d+) )?(\d+)\r\n")
Answer = Callable[
    [int, bytes, bytes, bytes], bytes
]  # number from 1, inbox, headers, payload -> what the caller gets


def arrived(sock: socket.socket) -> bytes:
    """What comes next; nothing when the other end is gone."""
    try:
        return sock.recv(1 << 20)
    except ConnectionResetError:
        return b""


@contextmanager
def played(answer: Answer) -> Iterator[socket.socket]:
    """A caller's socket; what it asks is answered by `answer`."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        data, number = b"", 0
        while part := arrived(theirs):
            data += part
            while (found := REQUEST.match(data)) and len(data) >= found.end() + int(found[4]) + 2:
                body = data[found.end() : found.end() + int(found[4])]
                headers = int(found[3] or 0)
                data = data[found.end() + int(found[4]) + 2 :]
                if found[2]:
                    number += 1
                    with suppress(OSError):
                        theirs.sendall(answer(number, found[2], body[:headers], body[headers:]))

    server = threading.Thread(target=serve)
    server.start()
    try:
        yield ours
    finally:
        ours.close()
        server.join()
        theirs.close()


def ask(
    answer: Answer, requests: int = REQUESTS, *, stall_seconds: float = PATIENT_SECONDS, **more: Any
) -> dict[str, Any]:
    """One caller, so many requests, four at a time; its part."""
    with played(answer) as mine:
        made = calls.Calls(
            [mine.fileno()],
            subject=b"svc",
            inbox=b"_INBOX.x.",
            in_flight=4,
            limit=requests,
            stall_seconds=stall_seconds,
            **more,
        )
        made.start(60)
        made.run()
        return made.part()


def msg(inbox: bytes, body: bytes, headers: bytes = b"") -> bytes:
    if headers:
        return b"HMSG %s 1 %d %d\r\n%s%s\r\n" % (inbox, len(headers), len(headers) + len(body), headers, body)
    return b"MSG %s 1 %d\r\n%s\r\n" % (inbox, len(body), body)


def echo(number: int, inbox: bytes, headers: bytes, body: bytes) -> bytes:
    return msg(inbox, body, headers)


@pytest.mark.parametrize("headers", [b"", b"NATS/1.0\r\nA: b\r\n\r\n"])
@pytest.mark.parametrize("sizes", [(16,), (40,), (16, 300, 17)])
def test_true_answers_pass(headers: bytes, sizes: tuple[int, ...]) -> None:
    part = ask(echo, headers=headers, sizes=sizes)
    assert (part["asked"], part["answered"]) == (REQUESTS, REQUESTS)
    assert Histogram.of(part["latency"]).count == REQUESTS


@pytest.mark.parametrize("overtaken_by", [17, 400, 1023])
def test_an_answer_may_come_long_after_others(overtaken_by: int) -> None:
    """As from one of several responders that has no processor for a while. 1023: as many as a caller lets by."""
    held = b""

    def answer(number: int, inbox: bytes, headers: bytes, body: bytes) -> bytes:
        nonlocal held
        if number == 1:
            held = msg(inbox, body)
            return b""
        return (held if number == 1 + overtaken_by else b"") + msg(inbox, body)

    part = ask(answer, 3000, sizes=(16,))
    assert (part["asked"], part["answered"]) == (3000, 3000)


def at(place: int, instead: Answer) -> Answer:
    """True answers, but for one."""
    return lambda number, *rest: (instead if number == place else echo)(number, *rest)


def flip(number: int, inbox: bytes, headers: bytes, body: bytes) -> bytes:
    changed = bytearray(body)
    changed[20] ^= 1
    return msg(inbox, bytes(changed), headers)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda n, i, h, b: b"", "no answer for .* lost: "),
        (lambda n, i, h, b: msg(i, b) * 2, "answered twice"),
        (lambda n, i, h, b: msg(i[:-1] + b"z", b), "answered twice or never asked|not the answer"),
        (lambda n, i, h, b: msg(i.replace(b"aaaa.", b"aaab."), b), "not the answer awaited"),
        (flip, "payload has changed"),
        (lambda n, i, h, b: msg(i, b[:-1]), "not the answer awaited"),
        (lambda n, i, h, b: msg(i, b"\x01" + b[1:]), "not the answer awaited"),
        (lambda n, i, h, b: msg(i, b, b"NATS/1.0\r\nX: y\r\n\r\n"), "not the answer awaited"),
        (lambda n, i, h, b: b"HMSG %s 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n" % i, "no responders"),
        (lambda n, i, h, b: b"-ERR 'Permissions Violation'\r\n", "Permissions Violation"),
        (lambda n, i, h, b: msg(i, b)[:-2] + b"xx", "not a message"),
        (lambda n, i, h, b: b"MSG %s 1 99999999999\r\n" % i, "not a message"),
        (lambda n, i, h, b: b"MSG " + b"a" * 9000, "not a message"),
    ],
)
def test_false_answers_fail(wrong: Answer, reason: str) -> None:
    waits = reason.startswith("no answer")
    with pytest.raises(LoadError, match=reason):
        ask(at(50, wrong), sizes=(40,), stall_seconds=STALL_SECONDS if waits else PATIENT_SECONDS)


def test_an_open_loop_counts_from_when_a_request_was_due() -> None:
    stop = threading.Event()

    def slow(number: int, inbox: bytes, headers: bytes, body: bytes) -> bytes:
        if number == 20:
            stop.wait(0.15)
        return echo(number, inbox, headers, body)

    part = ask(slow, rate=1000.0)
    latency = Histogram.of(part["latency"])
    assert latency.count == REQUESTS
    assert latency.most > 100_000_000  # it is one time that is long, but many requests waited for it
    assert latency.percentile(50) > 5_000_000


def ack(number: int, inbox: bytes, headers: bytes, body: bytes) -> bytes:
    return msg(inbox, b'{"stream":"S","seq":%d}' % number)


def test_acks_are_counted() -> None:
    part = ask(ack, kind=calls.ACK)
    assert part["acks"] == (1, REQUESTS, REQUESTS * (REQUESTS + 1) // 2, REQUESTS)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"error":{"code":503,"description":"no space"}}', "refused a message.*no space"),
        (b'{"stream":"S","seq":50,"duplicate":true}', "duplicate"),
        (b'{"stream":"S"}', "not a PubAck"),
        (b"", "refused a message|status"),
    ],
)
def test_false_acks_fail(body: bytes, reason: str) -> None:
    def answer(number: int, inbox: bytes, headers: bytes, payload: bytes) -> bytes:
        return msg(inbox, body) if number == 50 else ack(number, inbox, headers, payload)

    with pytest.raises(LoadError, match=reason):
        ask(answer, kind=calls.ACK)


def test_a_batch_has_its_id_its_numbers_and_a_commit() -> None:
    seen: list[bytes] = []

    def commit(number: int, inbox: bytes, headers: bytes, body: bytes) -> bytes:
        seen.append(headers)
        return msg(inbox, b'{"stream":"S","seq":%d,"batch":"x","count":3}' % (number * 3))

    part = ask(commit, kind=calls.BATCH, batch=3, sizes=(24,))
    assert (part["asked"], part["answered"]) == (3 * REQUESTS, 3 * REQUESTS)
    assert len(set(seen)) == REQUESTS
    assert all(b"Nats-Batch-Sequence:3\r\n" in one and b"Nats-Batch-Commit:1\r\n" in one for one in seen)
    with pytest.raises(LoadError, match="counts another batch"):
        ask(lambda n, i, h, b: msg(i, b'{"stream":"S","seq":3,"count":2}'), kind=calls.BATCH, batch=3)


def value(sequence: int, subject: int, size: int) -> bytes:
    stamp = sequence.to_bytes(8, "little") + subject.to_bytes(4, "little") + b"\0\0" + b"\x42\x53"
    if size < 24:
        return stamp + b"x" * (size - 16)
    return stamp + b"x" * (size - 24) + sequence.to_bytes(8, "little")


GOT = b"NATS/1.0\r\nNats-Stream: KV\r\nNats-Sequence: 1\r\n\r\n"


@pytest.mark.parametrize(
    ("body", "headers", "reason"),
    [
        (value(1, 0, 40), GOT, ""),
        (value(1, 1, 40), GOT, "not the key's value"),
        (value(1, 0, 41), GOT, "not the key's value"),
        (value(1, 0, 40).replace(b"xx", b"xy", 1), GOT, "payload has changed"),
        (b"", b"NATS/1.0 404 Message Not Found\r\n\r\n", "answered with a status.*404"),
    ],
)
def test_values_of_keys(body: bytes, headers: bytes, reason: str) -> None:
    def run() -> dict[str, Any]:
        return ask(lambda n, i, h, b: msg(i, body, headers), kind=calls.GET, sizes=(0,), values=(40,))

    if reason:
        with pytest.raises(LoadError, match=reason):
            run()
    else:
        assert run()["answered"] == REQUESTS


# -- pulled messages --

GONE = b"HMSG _INBOX.p.aaaa 1 30 30\r\nNATS/1.0 409 Consumer Gone\r\n\r\n\r\n"
PULL = re.compile(rb'PUB (next\S*) (\S+) (\d+)\r\n(\{"batch":(\d+).*?\})\r\n')


def delivered(sequence: int, delivered: int = 1, subject: bytes = b"s", body: bytes | None = None) -> bytes:
    body = value(sequence, 0, 40) if body is None else body
    reply = b"$JS.ACK.S.C.%d.%d.%d.1700000000.0" % (delivered, sequence, sequence)
    return b"MSG %s 1 %s %d\r\n%s\r\n" % (subject, reply, len(body), body)


def pull(
    change: Callable[[list[bytes]], list[bytes]],
    due: int = 40,
    stall_seconds: float = PATIENT_SECONDS,
    **more: Any,
) -> tuple[dict[str, Any], bytes]:
    """One puller, ten at a time; its part, and all that it sent."""
    ours, theirs = socket.socketpair()
    messages = change([delivered(i + 1) for i in range(due)])
    sent = bytearray()

    def serve() -> None:
        at = pulled = 0
        while part := arrived(theirs):
            sent.extend(part)
            requests = list(PULL.finditer(bytes(sent)))
            for request in requests[pulled:]:
                count = int(request[5])
                with suppress(OSError):
                    theirs.sendall(b"".join(messages[at : at + count]))
                at += count
            pulled = len(requests)

    server = threading.Thread(target=serve)
    server.start()
    made = pulls.Pulls(
        [ours.fileno()], subjects=[b"next"], inbox=b"_INBOX.p.", stream_subject=b"s", sizes=(40,), batch=10, due=due,
        stall_seconds=stall_seconds, **more,
    )  # fmt: skip
    made.start(60)
    try:
        made.run()
    finally:
        ours.close()
        server.join()
        theirs.close()
    received, _ = made.board.sums()
    return {**made.part(), "whole": received == sum_of(due)}, bytes(sent)


@pytest.mark.parametrize("mode", [pulls.FETCH, pulls.AHEAD])
@pytest.mark.parametrize("acks", [True, False])
def test_true_messages_pass_and_are_acknowledged(mode: int, acks: bool) -> None:
    part, sent = pull(lambda messages: messages, mode=mode, acks=acks)
    assert part["answered"] == 40 and part["whole"]
    assert sent.count(b" 4\r\n+ACK\r\n") == (40 if acks else 0)
    if acks:
        assert re.findall(rb"PUB \$JS\.ACK\.S\.C\.1\.(\d+)\.", sent) == [b"%d" % i for i in range(1, 41)]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: [*m[:5], m[6], m[5], *m[7:]], "order: "),
        (lambda m: [*m[:5], m[4], *m[5:]], "order: .*twice"),
        (lambda m: [*m[:5], delivered(6, delivered=2), *m[6:]], "delivered twice"),
        (lambda m: [*m[:5], delivered(6, subject=b"other"), *m[6:]], "not the stream's subject"),
        (lambda m: [*m[:5], delivered(6, body=value(7, 0, 40)), *m[6:]], "another message's"),
        (lambda m: [*m[:5], delivered(6, body=value(6, 0, 39)), *m[6:]], "length or headers"),
        (lambda m: [*m[:5], m[5].replace(b"xxx", b"xyx", 1), *m[6:]], "payload has changed"),
        (lambda m: m[:-1], "no message for .*39 of 40 came"),
        (lambda m: [m[0], GONE, *m[1:]], "the consumer says.*409|status"),
        (lambda m: [m[0].replace(b"$JS.ACK", b"$JS.NAK"), *m[1:]], "not a message of a consumer"),
        (lambda m: [*m[:9], m[9] + m[10], *m[11:]], "more messages than were asked for|order"),
    ],
)  # fmt: skip
def test_false_messages_fail(change: Callable[[list[bytes]], list[bytes]], reason: str, shared: bool) -> None:
    waits = reason.startswith("no message")
    with pytest.raises(LoadError, match=reason):
        pull(change, shared=shared, stall_seconds=STALL_SECONDS if waits else PATIENT_SECONDS)


def test_one_readers_hole_is_found() -> None:
    with pytest.raises(LoadError, match=r"order: .*message 7 of the stream came, 6 was due"):
        pull(lambda m: [*m[:5], *m[6:]], shared=False)
