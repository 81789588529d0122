"""The stream generator's checks find what they are there to find: every kind of fault, with every kind of frame.

[flow] --PUB--> the test, playing the server --MSG, true or false--> [sink]
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from shardbroker.bench import LoadError, generator, index_text
from shardbroker.bench.histogram import Histogram

MESSAGES = 1000
Change = Callable[[list[bytes]], list[bytes]]


@dataclass(frozen=True)
class Form:
    """What the frames look like."""

    subjects: int = 1
    sizes: tuple[int, ...] = (32,)
    headers: bytes = b""
    more: dict[str, Any] = field(default_factory=dict)


FORMS = {
    "plain": Form(),
    "subjects": Form(subjects=7),
    "least": Form(sizes=(16,)),
    "big": Form(sizes=(3000,)),
    "sizes": Form(sizes=(16, 40, 17, 500, 24)),
    "headers": Form(headers=b"NATS/1.0\r\nKind: test\r\n\r\n"),
    "all": Form(subjects=7, sizes=(16, 40, 17, 500, 24), headers=b"NATS/1.0\r\nA: b\r\nC: d\r\n\r\n"),
    "any": Form(more={"exact": False}),
    "drawn": Form(subjects=7, more={"draws": bytes([0, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0])}),
}


def frames_of(data: bytes) -> list[bytes]:
    """What a server makes of PUBs and HPUBs: (H)MSG, sid = index + 1."""
    made = []
    at = 0
    sids = {b"t": 1} | {b"t." + index_text(i): i + 1 for i in range(100)}
    while data[at : at + 4] != b"PING":
        end = data.index(b"\r\n", at)
        verb, subject, *sizes = data[at:end].split()
        body = data[end + 2 : end + 4 + int(sizes[-1])]
        made.append(
            b"%s %s %d %s\r\n%s"
            % (b"HMSG" if verb == b"HPUB" else b"MSG", subject, sids[subject], b" ".join(sizes), body)
        )
        at = end + 2 + len(body)
    return made


def play(change: Change, form: Form = FORMS["plain"], **more: Any) -> dict[str, Any]:
    """One publisher, one subscriber; the frames pass through `change` on their way. The stream's result."""
    flow, flow_server = socket.socketpair()
    sink, sink_server = socket.socketpair()
    stream = generator.Stream(
        [flow.fileno()], [sink.fileno()], subject=b"t." if form.subjects > 1 else b"t", sizes=form.sizes,
        subjects=form.subjects, headers=form.headers, copies=1, limit=MESSAGES, **form.more, **more,
    )  # fmt: skip

    def serve() -> None:
        data = b""
        while not data.endswith(b"PING\r\n"):
            data += flow_server.recv(1 << 20)
        changed = change(frames_of(data))
        sent = b"".join(changed)
        with suppress(BrokenPipeError, ConnectionResetError):  # who found the fault reads no more
            for i in range(0, len(sent), 777):  # cut anywhere
                sink_server.sendall(sent[i : i + 777])
        flow_server.sendall(b"PONG\r\n")
        if len(changed) < MESSAGES:  # or the sink would wait for them
            sink_server.close()

    with flow, sink, flow_server, sink_server:
        server = threading.Thread(target=serve)
        server.start()
        try:
            stream.start(60)
            stream.run(0)
        finally:
            sink.close()
            server.join()
        result: dict[str, Any] = stream.result()
        return {**result, "part": stream.part()}


def swap(frames: list[bytes]) -> list[bytes]:
    return [*frames[:10], frames[11], frames[10], *frames[12:]]


def payload_at(frame: bytes, place: int) -> int:
    """Where the payload's byte `place` is in a frame; negative from its end."""
    size = int(frame[: frame.index(b"\r\n")].split()[-1])
    headers = int(frame.split()[3]) if frame.startswith(b"HMSG") else 0
    body = frame.index(b"\r\n") + 2 + headers
    return body + place if place >= 0 else frame.index(b"\r\n") + 2 + size + place


def flipped(place: int, number: int = 3) -> Change:
    """One bit of one payload byte of one message is changed."""

    def change(frames: list[bytes]) -> list[bytes]:
        frame = bytearray(frames[number])
        frame[payload_at(bytes(frame), place)] ^= 1
        return [*frames[:number], bytes(frame), *frames[number + 1 :]]

    return change


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_true_server_passes(form: Form) -> None:
    result = play(lambda frames: frames, form)
    assert (result["published"], result["received"]) == (MESSAGES, MESSAGES)


FAULTS: dict[str, tuple[Change, str]] = {
    "lost": (lambda f: f[:500] + f[501:], "order: .*message 502 came, 501 was due|closed a subscriber"),
    "twice": (lambda f: f[:500] + f[499:], "order: .*message 500 came, 501 was due"),
    "swapped": (swap, "order: "),
    "last-lost": (lambda f: f[:-1], "server closed a subscriber"),
    "lost-and-another-twice": (
        lambda f: [*f[:10], *f[11:20], f[20], f[20], *f[21:]],
        "order: .*message",
    ),
    "sid": (lambda f: [*f[:3], re.sub(rb"^(\S+ \S+) \d+ ", rb"\1 77 ", f[3]), *f[4:]], "header|sid"),
    "subject": (lambda f: [*f[:3], f[3].replace(b" t", b" u", 1), *f[4:]], "header"),
    "unterminated": (lambda f: [*f[:3], f[3][:-2] + b"xx", *f[4:]], "no CR LF"),
    "error": (lambda f: [*f[:3], b"-ERR 'Slow Consumer'\r\n", *f[3:]], "Slow Consumer"),
    "first-byte": (flipped(0), "order: |payload|length"),
    "mark": (flipped(15), "payload is not the subject's"),
    "last-byte": (flipped(-1), "payload"),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(("change", "reason"), FAULTS.values(), ids=FAULTS)
def test_a_false_server_fails(change: Change, reason: str, form: Form) -> None:
    with pytest.raises(LoadError, match=reason):
        play(change, form)


@pytest.mark.parametrize("place", range(32))
def test_every_byte_of_the_payload_is_looked_at(place: int) -> None:
    with pytest.raises(LoadError, match=r"order|payload"):
        play(flipped(place))


def test_a_changed_header_is_found() -> None:
    form = FORMS["headers"]
    with pytest.raises(LoadError, match="header"):
        play(lambda f: [*f[:3], f[3].replace(b"Kind", b"kind"), *f[4:]], form)


def test_another_messages_size_is_found() -> None:
    """A payload cut short and given a header that agrees with it."""

    def cut(frames: list[bytes]) -> list[bytes]:
        frame = frames[3]
        head = frame[: frame.index(b"\r\n")].rsplit(b" ", 1)[0]
        return [
            *frames[:3],
            b"%s 480\r\n%s\r\n" % (head, frame[frame.index(b"\r\n") + 2 :][:480]),
            *frames[4:],
        ]

    with pytest.raises(LoadError, match="length is another message's"):
        play(cut, FORMS["sizes"])


def test_of_a_group_what_one_loses_and_another_gets_twice_is_found() -> None:
    """Two sinks; each sees growing numbers, and the count is right: only the sums tell."""
    flow, flow_server = socket.socketpair()
    sinks = [socket.socketpair() for _ in range(2)]
    stream = generator.Stream(
        [flow.fileno()], [mine.fileno() for mine, _ in sinks], subject=b"t", exact=False, copies=1, limit=10
    )

    def serve() -> None:
        data = b""
        while not data.endswith(b"PING\r\n"):
            data += flow_server.recv(1 << 20)
        frames = frames_of(data)
        sinks[0][1].sendall(b"".join(frames[:5]))
        sinks[1][1].sendall(b"".join(frames[4:6] + frames[7:]))  # 5 again, 7 never
        flow_server.sendall(b"PONG\r\n")

    server = threading.Thread(target=serve)
    server.start()
    stream.start(60)
    stream.run(0)
    server.join()
    with pytest.raises(LoadError, match="some messages came twice and others not at all"):
        stream.result()
    for one in (flow, flow_server, *(end for pair in sinks for end in pair)):
        one.close()


def test_an_open_loop_charges_what_a_stalled_server_kept_from_being_sent() -> None:
    """Coordinated omission: the server stops for 0.2 s at 1000 messages/s; two hundred of 500 are late, not one."""
    flow, flow_server = socket.socketpair()
    sink, sink_server = socket.socketpair()
    stream = generator.Stream(
        [flow.fileno()], [sink.fileno()], subject=b"t", copies=1, limit=500, rate=1000.0
    )
    stalled = threading.Event()

    def serve() -> None:
        data, sent = b"", 0
        while not data.endswith(b"PING\r\n"):
            data += flow_server.recv(1 << 20)
            whole = data[: data.rindex(b"\r\n") + 2]
            frames = re.findall(rb"PUB t 16\r\n.{16}\r\n", whole, re.S)
            if len(frames) > 200 and not stalled.is_set():
                stalled.set()
                threading.Event().wait(0.2)
            for frame in frames[sent:]:
                sink_server.sendall(frame.replace(b"PUB t 16", b"MSG t 1 16", 1))
            sent = len(frames)
        flow_server.sendall(b"PONG\r\n")

    with flow, flow_server, sink, sink_server:
        server = threading.Thread(target=serve)
        server.start()
        stream.start(60)
        stream.run(0)
        server.join()
    latency = Histogram.of(stream.part()["latency"])
    assert latency.count == stream.result()["received"] == 500
    # The first that waited did so for 0.2 s, the next one for 1 ms less ...: a fifth and more waited over 0.1 s in between.
    late = sum(int(n) for n, edge in zip(latency.buckets, edges_ns(), strict=True) if edge > 100_000_000)
    assert late >= 80


def edges_ns() -> list[int]:
    from shardbroker.bench.histogram import upper_edges

    return [int(edge) for edge in upper_edges()]


def test_a_slow_sink_may_be_cut_but_gets_no_holes() -> None:
    def run(frames: Change) -> dict[str, Any]:
        flow, flow_server = socket.socketpair()
        good, good_server = socket.socketpair()
        slow, slow_server = socket.socketpair()
        stream = generator.Stream(
            [flow.fileno()], [good.fileno(), slow.fileno()], subject=b"t", copies=1, limit=50, slow=1
        )

        def serve() -> None:
            data = b""
            while not data.endswith(b"PING\r\n"):
                data += flow_server.recv(1 << 20)
            made = frames_of(data)
            good_server.sendall(b"".join(made))
            slow_server.sendall(b"".join(frames(made)) + b"-ERR 'Slow Consumer'\r\n")
            slow_server.close()
            flow_server.sendall(b"PONG\r\n")

        with flow, flow_server, good, good_server, slow, slow_server:
            server = threading.Thread(target=serve)
            server.start()
            stream.start(60)
            try:
                stream.run(0)
            finally:
                server.join()
            return stream.part()

    [(received, cut, _)] = run(lambda made: made[:20])["slow"]
    assert (received, cut) == (20, True)
    with pytest.raises(LoadError, match="order"):
        run(lambda made: made[:10] + made[11:20])


@pytest.mark.parametrize(
    "wrong",
    [{"sizes": (8,)}, {"subjects": 0}, {"groups": 65}, {"draws": b"123"}, {"draws": b"\x09\0\0\0", "subjects": 3},
     {"publisher_first": 5, "publishers": 3}, {"headers": b"x" * 5000}],
)  # fmt: skip
def test_what_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="out of range"):
        generator.Stream([0], [], subject=b"t", **wrong)
