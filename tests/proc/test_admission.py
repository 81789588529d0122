"""Where the front sends connections."""

from __future__ import annotations

import asyncio
import errno
import functools
import gc
import operator
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shardbroker.front import acceptor as module
from shardbroker.front.accept import accept_connection
from shardbroker.front.acceptor import Accepted, Acceptor, Admission, open_listener
from shardbroker.front.placement import Placement


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def watched() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(watched())


def open_descriptors() -> int:
    """Of this process, once what earlier tests left to the collector is gone."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


class FakeChannel:
    """Takes what is sent; the descriptors are closed at once."""

    def __init__(self) -> None:
        self.backlog: list[Any] = []
        self.rows: list[Any] = []
        self.refused: list[Any] = []

    def send(self, message: dict[str, Any], descriptors: list[int]) -> None:
        assert len(message["rows"]) == len(descriptors)
        (self.rows if message["refuse"] is None else self.refused).extend(message["rows"])
        for descriptor in descriptors:
            os.close(descriptor)


class Shards:
    """An Admission over shards that are lists."""

    def __init__(self, count: int, connections_max: int = 0) -> None:
        self.closed = [0] * count
        self.placement = Placement(count, self.closed.__getitem__)
        self.admission = Admission(self.placement, connections_max=connections_max)
        self.channels = [FakeChannel() for _ in range(count)]

    def ready(self, *shards: int) -> None:
        for shard in shards:
            self.placement.forget(shard)
            self.admission.shard_ready(shard, self.channels[shard])  # type: ignore[arg-type]

    def accept(self, count: int) -> None:
        batch: list[Accepted] = [
            (os.open("/dev/null", os.O_RDONLY), "127.0.0.1", n, "client") for n in range(count)
        ]
        self.admission.accepted(batch)

    def counts(self) -> list[int]:
        return [len(channel.rows) for channel in self.channels]


def test_the_emptiest_shard_takes_the_next() -> None:
    async def main() -> None:
        shards = Shards(3)
        shards.ready(0, 1, 2)
        for _ in range(30):
            shards.accept(1)
        assert shards.counts() == [10, 10, 10]
        shards.closed[1] = 8
        shards.accept(8)
        assert shards.counts() == [10, 18, 10]
        shards.accept(9)
        assert [shards.placement.open(n) for n in range(3)] == [13, 13, 13]
        ids = [row[0] for channel in shards.channels for row in channel.rows]
        assert sorted(ids) == list(range(1, 48))

    run(main)


def test_a_replaced_shard_begins_with_none() -> None:
    async def main() -> None:
        shards = Shards(2)
        shards.ready(0, 1)
        shards.accept(20)
        shards.closed[0] = 3  # the row of the dead process goes on
        shards.admission.shard_gone(0)
        shards.accept(4)
        assert shards.counts() == [10, 14]
        shards.ready(0)
        assert shards.placement.open(0) == 0
        shards.accept(14)
        assert shards.counts() == [24, 14]

    run(main)


def test_connections_wait_for_a_shard_and_the_listener_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    # Fewer than a process may have open by default.
    waiting_max = 64
    monkeypatch.setattr(module, "WAITING_MAX", waiting_max)

    async def main() -> None:
        shards = Shards(1)
        held: list[bool] = []
        shards.admission.on_waiting = held.append
        shards.accept(waiting_max - 1)
        assert held == []
        shards.accept(1)
        assert held == [True]
        shards.ready(0)
        assert held == [True, False]
        assert shards.counts() == [waiting_max]
        assert [row[0] for row in shards.channels[0].rows] == list(range(1, waiting_max + 1))

    before = open_descriptors()
    run(main)
    assert open_descriptors() == before


def test_what_still_waits_is_closed() -> None:
    async def main() -> None:
        shards = Shards(1)
        shards.accept(10)
        shards.admission.close()

    before = open_descriptors()
    run(main)
    assert open_descriptors() == before


@pytest.mark.parametrize("connections_max", [5, -1])
def test_max_connections(connections_max: int) -> None:
    async def main() -> None:
        shards = Shards(2, connections_max)
        shards.ready(0, 1)
        shards.accept(9)
        allowed = max(connections_max, 0)
        while sum(len(channel.refused) for channel in shards.channels) < 9 - allowed:
            await asyncio.sleep(0.001)
        assert sum(shards.counts()) == allowed

    run(main)


def test_no_shard_gets_more_than_it_can_hold() -> None:
    async def main() -> None:
        shards = Shards(3)
        shards.placement.shard_max = 4
        shards.ready(0, 1)
        shards.accept(7)
        shards.ready(2)
        shards.accept(8)
        while sum(len(channel.refused) for channel in shards.channels) < 3:
            await asyncio.sleep(0.001)
        assert shards.counts() == [4, 4, 4]

    run(main)


def test_a_connection_that_ends_makes_room_for_the_next() -> None:
    async def main() -> None:
        shards = Shards(1, 1)
        shards.ready(0)
        shards.accept(1)
        shards.accept(1)  # the end of the first is not known yet, but will be in a moment
        shards.closed[0] = 1
        while sum(shards.counts()) < 2:
            await asyncio.sleep(0.001)
        assert not shards.channels[0].refused

    run(main)


def test_a_shard_with_a_backlog_or_without_turns_comes_last() -> None:
    async def main() -> None:
        shards = Shards(3)
        shards.ready(0, 1, 2)
        shards.channels[0].backlog = [None] * module.BACKLOG_PACKETS_MAX
        shards.admission.watch(lambda shard: shard != 1)
        shards.accept(6)
        assert shards.counts() == [0, 0, 6]
        shards.admission.watch(lambda shard: False)
        shards.accept(6)
        assert shards.counts() == [0, 6, 6]

    run(main)


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def error(self, text: str, /) -> None:
        self.lines.append(text)


def test_accepts_in_batches() -> None:
    async def main() -> None:
        listener = open_listener("127.0.0.1", 0)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(20)]
        batches: list[list[Accepted]] = []
        acceptor = Acceptor(listener, "client", batches.append, Log())
        acceptor.start()
        while sum(map(len, batches)) < 20:
            await asyncio.sleep(0.001)
        ports = [
            port for batch in batches for _, ip, port, kind in batch if (ip, kind) == ("127.0.0.1", "client")
        ]
        assert ports == [client.getsockname()[1] for client in clients]
        assert len(batches) < 20
        acceptor.close()
        for descriptor, *_ in functools.reduce(operator.iadd, batches, []):
            os.close(descriptor)
        for client in clients:
            client.close()

    run(main)


def test_out_of_descriptors_is_a_pause_and_not_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def full_for_a_while(listener: int) -> tuple[int, str, int]:
        nonlocal calls
        calls += 1
        if calls <= 3:
            raise OSError(errno.EMFILE, "Too many open files")
        return accept_connection(listener)

    async def main() -> None:
        monkeypatch.setattr(module, "PAUSE_SECONDS", 0.02)
        monkeypatch.setattr(module, "accept_connection", full_for_a_while)
        listener, log = open_listener("127.0.0.1", 0), Log()
        client = socket.create_connection(listener.getsockname())
        batches: list[list[Accepted]] = []
        acceptor = Acceptor(listener, "client", batches.append, log)
        acceptor.start()
        while not batches:
            await asyncio.sleep(0.001)
        assert calls <= 5
        assert len(log.lines) == 1
        assert "Too many open files" in log.lines[0]
        acceptor.close()
        os.close(batches[0][0][0])
        client.close()

    run(main)


@pytest.mark.parametrize(
    ("host", "to", "ip"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "::1", "::1"),
        ("::1", "::1", "::1"),
    ],
)
def test_what_is_accepted_is_non_blocking_and_has_its_address(host: str, to: str, ip: str) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        if ":" in ip:
            pytest.skip("no IPv6 here")
    with open_listener(host, 0) as listener:
        with pytest.raises(BlockingIOError):
            accept_connection(listener.fileno())
        with socket.create_connection((to, listener.getsockname()[1])) as client:
            descriptor, said, port = accept_connection(listener.fileno())
            try:
                assert (said, port) == (ip, client.getsockname()[1])
                assert not os.get_blocking(descriptor)
                assert not os.get_inheritable(descriptor)
            finally:
                os.close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        accept_connection(-1)
