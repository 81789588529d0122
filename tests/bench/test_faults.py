"""A server that is not faithful makes the command fail loudly: status 1, the fault in words, no figure.

bench --TCP--> proxy that harms what the server sends --TCP--> a broker of ours
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import orjson
import pytest

from harness.broker import Broker

SECONDS_MAX = 120.0
HARM_AT = 20_000  # bytes of messages on a connection before it is harmed: past the greeting
Harm = Callable[[bytes], bytes]  # a chunk from the server that has a whole message in it -> what is passed on
MESSAGE = re.compile(rb"MSG \S+ 1 (?:\d+)\r\n(.{64})\r\n", re.DOTALL)


@contextmanager
def proxied(port: int, harm: Harm) -> Iterator[int]:
    """The port of a proxy; the first connection on which enough messages have come is harmed once."""
    listener = socket.create_server(("127.0.0.1", 0))
    harmed = threading.Event()
    threads: list[threading.Thread] = []
    sockets: list[socket.socket] = []

    def pass_on(source: socket.socket, sink: socket.socket, from_server: bool) -> None:
        came = 0
        with suppress(OSError):
            while data := source.recv(1 << 16):
                came += len(data)
                if from_server and came > HARM_AT and not harmed.is_set() and MESSAGE.search(data):
                    # A read may have too little in it for this harm; another will have more.
                    changed = harm(data)
                    if changed != data:
                        harmed.set()
                        data = changed
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", port))
                sockets.extend((client, server))
                for words in ((client, server, False), (server, client, True)):
                    threads.append(threading.Thread(target=pass_on, args=words))
                    threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for one in sockets:
            one.close()
        assert harmed.is_set()


def lost(data: bytes) -> bytes:
    return MESSAGE.sub(b"", data, count=1)


def doubled(data: bytes) -> bytes:
    return MESSAGE.sub(lambda found: found[0] * 2, data, count=1)


def corrupted(data: bytes) -> bytes:
    found = MESSAGE.search(data)
    assert found
    at = found.start(1) + 40
    return data[:at] + b"?" + data[at + 1 :]


def reordered(data: bytes) -> bytes:
    twice = re.compile(
        rb"(" + MESSAGE.pattern.replace(b"(.{64})", b".{64}") + rb")(MSG \S+ 1 (?:\d+)\r\n.{64}\r\n)",
        re.DOTALL,
    )
    return twice.sub(rb"\2\1", data, count=1)


@pytest.mark.parametrize("shape", ["pubsub:1x2:64", "queue:1x2:64"])
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lost, "order|messages received"),
        (doubled, "order|twice"),
        (reordered, "order"),
        (corrupted, "payload has changed"),
    ],
)
def test_what_a_proxy_harms_is_found(tmp_path: Path, shape: str, harm: Harm, words: str) -> None:
    patience = "60"
    if harm is lost and shape.startswith("queue"):
        # Of a group nobody knows which one should have had it: the count stays short.
        words, patience = "no progress|" + words, "2"
    out = tmp_path / "out.json"
    with Broker(tmp_path / "broker") as broker, proxied(broker.port, harm) as port:
        done = subprocess.run(
            [sys.executable, "-m", "shardbroker", "bench", shape, "--server", f"127.0.0.1:{port}", "--msgs", "20000",
             "--warm-up", "0", "--generators", "1", "--timeout", patience, "--json", str(out)],
            capture_output=True, text=True, timeout=SECONDS_MAX,
        )  # fmt: skip
    assert done.returncode == 1
    assert re.search(words, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    record = orjson.loads(out.read_bytes())
    assert record["runs"] == []
    assert re.search(words, record["failure"])
