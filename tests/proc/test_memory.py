"""What many connections took is given back when they have gone; tools/soak is the longer version."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import Broker, connect_line, pub, wait_until

Start = Callable[..., Broker]
CONNECTIONS = 1300  # with fewer a shard does not find it worth giving memory back
PAYLOAD = b"x" * 30000


def resident(broker: Broker) -> int:
    """Kilobytes of all processes."""
    total = 0
    for pid in broker.processes():
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1])
    return total


def settled(broker: Broker) -> int:
    """`resident` once it has not changed for half a second: the start's own memory, in both directions, is no part of this."""
    found = [resident(broker)]

    def same() -> bool:
        time.sleep(0.1)
        found.append(resident(broker))
        return len(set(found[-6:])) == 1 < len(found[-6:])

    wait_until(same, "the memory to stay the same")
    return found[-1]


def test_memory_of_a_cold_start_comes_back(tmp_path: Path) -> None:
    """Within a tenth: structures of connections and subscriptions, rings that have gone round, what the interpreter keeps."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < CONNECTIONS + 200:
        pytest.skip(f"{hard} open files are too few")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    broker = Broker(tmp_path, workers=2).start()
    try:
        before = settled(broker)
        clients = [broker.client() for _ in range(CONNECTIONS)]
        for number, client in enumerate(clients):
            client.send(connect_line() + f"SUB m.{number} 1\r\nSUB m.{number}.* 1\r\nPING\r\n".encode()).expect("PONG\r\n")
        for number, client in enumerate(clients):
            client.send(pub(f"m.{(number + 1) % CONNECTIONS}", PAYLOAD))
        for client in clients:
            client.messages(1)
        most = resident(broker)
        for client in clients:
            client.close()
        wait_until(
            lambda: resident(broker) <= 1.1 * before,
            f"memory to be back at {before} kB, from {most}",
        )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        broker.stop()
    assert most > 1.1 * before, (before, most)
