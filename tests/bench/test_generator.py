"""The generator's checks find what they are there to find.

    [flow] --PUB--> the test, playing the server --MSG, true or false--> [sink]
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable

import pytest

from shardbroker.bench import LoadError, generator, index_text

MESSAGES = 1000
Change = Callable[[list[bytes]], list[bytes]]


def play(change: Change, *, subjects: int = 1, payload_bytes: int = 32) -> dict[str, object]:
    """One publisher, one subscriber; the frames pass through `change` on their way. The stream's result."""
    flow, flow_server = socket.socketpair()
    sink, sink_server = socket.socketpair()
    subject = b"t." if subjects > 1 else b"t"
    stream = generator.Stream(
        [flow.fileno()], [sink.fileno()], subject=subject, payload_bytes=payload_bytes, subjects=subjects,
        copies=1, limit=MESSAGES,
    )

    def serve() -> None:
        data = b""
        while not data.endswith(b"PING\r\n"):
            data += flow_server.recv(1 << 20)
        size = b"%d" % payload_bytes
        frames = re.findall(rb"PUB (\S+) %s\r\n(.{%d})\r\n" % (size, payload_bytes), data, re.S)
        sids = {b"t." + index_text(i): i + 1 for i in range(subjects)} if subjects > 1 else {b"t": 1}
        made = [b"MSG %s %d %s\r\n%s\r\n" % (name, sids[name], size, body) for name, body in frames]
        changed = change(made)
        sent = b"".join(changed)
        for i in range(0, len(sent), 777):          # cut anywhere
            sink_server.sendall(sent[i : i + 777])
        flow_server.sendall(b"PONG\r\n")
        if len(changed) < MESSAGES:                 # or the sink would wait for them
            sink_server.close()

    with flow, sink, flow_server, sink_server:
        server = threading.Thread(target=serve)
        server.start()
        try:
            stream.start(60)
            stream.run(0)
        finally:
            server.join()
        result: dict[str, object] = stream.result()
        return result


def swap(frames: list[bytes]) -> list[bytes]:
    return [*frames[:10], frames[11], frames[10], *frames[12:]]


@pytest.mark.parametrize("subjects", [1, 7])
@pytest.mark.parametrize("payload_bytes", [16, 32, 3000])
def test_a_true_server_passes(subjects: int, payload_bytes: int) -> None:
    result = play(lambda frames: frames, subjects=subjects, payload_bytes=payload_bytes)
    assert (result["published"], result["received"]) == (MESSAGES, MESSAGES)


@pytest.mark.parametrize("subjects", [1, 7])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: f[:500] + f[501:], "order: .*message 502 came, 501 was due"),
        (lambda f: f[:500] + f[499:], "order: .*message 500 came, 501 was due"),
        (swap, "order: "),
        (lambda f: f[:-1], "server closed a subscriber"),
        (lambda f: [*f[:3], f[3].replace(b" 1 ", b" 2 ").replace(b" 4 ", b" 5 "), *f[4:]], "header|sid"),
        (lambda f: [*f[:3], f[3].replace(b" 32\r\n", b" 31\r\n"), *f[4:]], "header|length"),
        (lambda f: [*f[:3], f[3][:-10] + b"01234567\r\n", *f[4:]], "end is another"),
        (lambda f: [*f[:3], f[3][:-2] + b"xx", *f[4:]], "no CR LF"),
        (lambda f: [*f[:3], b"-ERR 'Slow Consumer'\r\n", *f[3:]], "Slow Consumer"),
    ],
    ids=["lost", "twice", "swapped", "last-lost", "sid", "length", "changed", "unterminated", "error"],
)
def test_a_false_server_fails(change: Change, reason: str, subjects: int) -> None:
    with pytest.raises(LoadError, match=reason):
        play(change, subjects=subjects)
