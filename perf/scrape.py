"""What a scrape costs those who are served: request and reply, with and without someone who reads /connz of 10,000 connections.

    requester --PUB--> shard --MSG--> responder --PUB--> shard --MSG--> requester        one request at a time, as fast as it goes
    10,000 idle connections                            |
    scraper   --GET--> monitor --steps of 256 rows-----+     once a second, or again and again

    python -m perf.scrape [--workers 1] [--connections 10000] [--seconds 2] [--rounds 5]

Prints the median and the 99th percentile of the round trip in each case, medians of several rounds; the pass mark is twice that
of no scrapes at all, for one scrape a second. Needs a quiet machine: with other work on it the percentile is the scheduler's.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

WARM_SECONDS = 4.0
PATHS = ("", "/varz", "/connz", "/connz?limit=10000&auth=1&subs=1", "/metrics", "/metrics/detailed")


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(b'CONNECT {"verbose":false,"lang":"perf","name":"idle"}\r\nSUB idle 1\r\nPING\r\n')
    data = b""
    while b"PONG\r\n" not in data:
        data += sock.recv(4096)
    return sock


def round_trips(port: int, seconds: float) -> list[float]:
    """Microseconds of each."""
    asks, answers = connect(port), connect(port)
    asks.sendall(b"SUB r 2\r\nPING\r\n")
    answers.sendall(b"SUB q 2\r\nPING\r\n")
    for sock in (asks, answers):
        while not sock.recv(4096).endswith(b"PONG\r\n"):
            pass
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter_ns()
        asks.sendall(b"PUB q r 2\r\nhi\r\n")
        _message(answers)
        answers.sendall(b"PUB r 2\r\nok\r\n")
        _message(asks)
        times.append((time.perf_counter_ns() - began) / 1e3)
    return times


def _message(sock: socket.socket) -> None:
    while True:
        data = sock.recv(4096)
        if data.startswith(b"MSG"):
            return
        if b"PING" in data:
            sock.sendall(b"PONG\r\n")


class Scraper:
    """GET again and again in a process of its own, so that the client's interpreter does not measure itself."""

    def __init__(self, url: str, pause: float) -> None:
        program = (
            "import sys,time,urllib.request\n"
            "while True:\n"
            " urllib.request.urlopen(sys.argv[1]).read()\n"
            " time.sleep(float(sys.argv[2]))\n"
        )
        self._process = subprocess.Popen([sys.executable, "-c", program, url, str(pause)])

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


def percentile(times: list[float], quantile: float) -> float:
    return sorted(times)[min(int(len(times) * quantile), len(times) - 1)]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a case in a round")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        flags = ["--workers", str(given.workers), "-a", "127.0.0.1", "-p", "-1", "-m", "-1", "-l", str(log)]
        broker = subprocess.Popen([sys.executable, "-m", "shardbroker", *flags])
        try:
            while not log.exists() or "Server is ready" not in log.read_text():
                time.sleep(0.05)
            text = log.read_text()
            port, web = (
                int(found[1])
                for found in (
                    re.search(r"client connections on \S+:(\d+)", text), re.search(r"http monitor on \S+:(\d+)", text),
                )
                if found
            )  # fmt: skip
            idle = [connect(port) for _ in range(given.connections)]
            with urllib.request.urlopen(f"http://127.0.0.1:{web}/varz") as answer:
                assert json.load(answer)["connections"] == len(idle)
            # The first PING to each of them comes two seconds after it did.
            round_trips(port, WARM_SECONDS)
            cases = [(path, pause) for path in PATHS for pause in ((1.0, 0.0) if path else (0.0,))]
            # Interleaved, so that whatever else the machine does meets all of them.
            medians: dict[tuple[str, float], list[float]] = {case: [] for case in cases}
            lates: dict[tuple[str, float], list[float]] = {case: [] for case in cases}
            for _ in range(given.rounds):
                for path, pause in cases:
                    scraper = Scraper(f"http://127.0.0.1:{web}{path}", pause) if path else None
                    times = round_trips(port, given.seconds)
                    if scraper is not None:
                        scraper.stop()
                    medians[path, pause].append(percentile(times, 0.5))
                    lates[path, pause].append(percentile(times, 0.99))
            base = statistics.median(lates[cases[0]])
            failed = False
            for path, pause in cases:
                p99 = statistics.median(lates[path, pause])
                failed |= bool(pause) and p99 > 2 * base
                how = "" if not path else "once a second" if pause else "again and again"
                print(
                    f"{path or 'no scrapes':36} {how:16} median {statistics.median(medians[path, pause]):6.1f} us"
                    f"  p99 {p99:7.1f} us (least {min(lates[path, pause]):7.1f})  {p99 / base:5.2f} times"
                )
            return int(failed)
        finally:
            broker.terminate()
            broker.wait()


if __name__ == "__main__":

    sys.exit(main())
