"""What a large stream costs to open and to hold, on any NATS server: start to INFO with a full store, memory of all processes.

    python -m perf.streams                                   a million messages of 1 KiB: fill, start warm, start cold
    python -m perf.streams --messages 10e6 --subjects 1e6 --payload 32
    python -m perf.streams --servers nats-server=/opt/nats-server,shardbroker:1

"Cold" drops the store's own pages from the page cache first (posix_fadvise, which needs no rights). `anonymous` is memory of the
processes' own, `mapped` pages of files, which the kernel takes back when it wants them. One line of JSON a server.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from perf.servers import Server, default_specs
from shardbroker.bench.usage import processes

STREAM = "PERF"
BATCH = 2000


class Client:
    """Enough of NATS to fill a stream and ask about it."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=600)
        self.file = self.socket.makefile("rb")
        self.file.readline()
        self.socket.sendall(b'CONNECT {"verbose":false,"headers":true}\r\nSUB inbox 1\r\nPING\r\n')
        self.until(b"PONG")

    def until(self, start: bytes) -> bytes:
        while not (line := self.file.readline()).startswith(start):
            if not line:
                raise SystemExit("the server has closed the connection")
        return line

    def flush(self) -> None:
        self.socket.sendall(b"PING\r\n")
        self.until(b"PONG")

    def ask(self, subject: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        text = json.dumps(body).encode() if body else b""
        self.socket.sendall(b"PUB $JS.API.%s inbox %d\r\n%s\r\n" % (subject.encode(), len(text), text))
        line = self.until(b"MSG inbox")
        answer: dict[str, Any] = json.loads(self.file.read(int(line.split()[-1]) + 2))
        if "error" in answer:
            raise SystemExit(f"{subject}: {answer['error']}")
        return answer

    def messages(self) -> int:
        return int(self.ask(f"STREAM.INFO.{STREAM}")["state"]["messages"])

    def fill(self, messages: int, subjects: int, payload: int) -> None:
        """Without asking for acknowledgements; until all are there. Never more than a batch ahead of an answered PING."""
        body = b"x" * payload
        self.ask(f"STREAM.CREATE.{STREAM}", {"name": STREAM, "subjects": ["perf.>"]})
        for first in range(0, messages, BATCH):
            end = min(first + BATCH, messages)
            lines = [b"PUB perf.%d %d\r\n%s\r\n" % (n % subjects, payload, body) for n in range(first, end)]
            self.socket.sendall(b"".join(lines))
            self.flush()
        while self.messages() < messages:
            time.sleep(0.05)

    def close(self) -> None:
        self.file.close()
        self.socket.close()


def memory(pid: int) -> dict[str, int]:
    """MB of a server's processes."""
    total = {"anonymous": 0, "mapped": 0}
    for each in processes(pid):
        status = Path(f"/proc/{each}/smaps_rollup").read_text()
        pss, own = (int(re.search(rf"^{name}:\s+(\d+)", status, re.M)[1]) for name in ("Pss", "Pss_Anon"))  # type: ignore[index]
        total["anonymous"] += own
        total["mapped"] += pss - own
    return {name: kib * 1024 // 1_000_000 for name, kib in total.items()}


def drop(store: Path) -> int:
    """Its files leave the page cache; their bytes."""
    total = 0
    for path in store.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                total += path.stat().st_size
    return total


def start(spec: str, store: Path, messages: int) -> tuple[float, float, dict[str, int]]:
    """Seconds to INFO, seconds until the stream answers with all its messages, memory then."""
    began = time.monotonic()
    with Server(f"{spec} -js -sd {store}", start_seconds_max=600) as server:
        client = Client(server.port)
        count = client.messages()
        answered = time.monotonic() - began
        if count != messages:
            raise SystemExit(f"{spec}: {count} messages came back of {messages}")
        held = memory(server.pid)
        client.close()
        return server.start_seconds, answered, held


def measure(spec: str, messages: int, subjects: int, payload: int, directory: Path) -> dict[str, Any]:
    store = Path(tempfile.mkdtemp(prefix="perf-streams-", dir=directory))
    try:
        with Server(f"{spec} -js -sd {store}") as server:
            empty = memory(server.pid)
            client = Client(server.port)
            began = time.monotonic()
            client.fill(messages, subjects, payload)
            seconds = time.monotonic() - began
            full = memory(server.pid)
            client.close()
        warm, warm_answered, held = start(spec, store, messages)
        size = drop(store)
        cold, cold_answered, _ = start(spec, store, messages)
    finally:
        shutil.rmtree(store)
    return {
        "server": spec, "messages": messages, "subjects": subjects, "payload": payload, "store_mb": size // 1_000_000,
        "fill_rate": round(messages / seconds), "empty_mb": empty, "full_mb": full, "opened_mb": held,
        "bytes_a_message": round((held["anonymous"] - empty["anonymous"]) * 1e6 / messages, 1),
        "warm_seconds": round(warm, 2), "warm_answered": round(warm_answered, 2),
        "cold_seconds": round(cold, 2), "cold_answered": round(cold_answered, 2),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", help="specs of perf/servers.py, with commas")
    parser.add_argument("--messages", type=float, default=1e6)
    parser.add_argument("--subjects", type=float, default=1)
    parser.add_argument("--payload", type=int, default=1024, help="bytes")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="where stores are made")
    given = parser.parse_args()
    specs = given.servers.split(",") if given.servers else default_specs()[:2]
    for spec in specs:
        row = measure(spec, int(given.messages), int(given.subjects), given.payload, given.directory)
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
