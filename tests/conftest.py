"""Fixtures of the black-box tests.

`broker` is a broker that many tests share, one per worker count and test process; a test of it must use
subjects of its own (`subject`). `fresh_broker` starts one with options of its own. Both prove when they end
that no process, port, shared memory or descriptor is left.
"""

from __future__ import annotations

import compileall
import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.js.client import JetStreamContext

import shardbroker
from harness import Broker, RawClient, wait_until
from harness.broker import SERVER, WATCHDOG_SECONDS, covered

# How long an example takes says something of the machine and nothing of what is tested.
hypothesis.settings.register_profile(
    "shardbroker", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("shardbroker")


def _patient(method: Any, name: str, seconds: float) -> Any:
    """`method`, whose argument `name` is so many seconds where a test does not say otherwise."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(*arguments: Any, **named: Any) -> Any:
        if name not in signature.bind(*arguments, **named).arguments:
            named[name] = seconds
        return method(*arguments, **named)

    return call


# nats-py gives up after 0.5 to 10 seconds unless told otherwise, which a loaded machine may take.
for _kind, _method, _name in (
    (Client, "connect", "connect_timeout"), (Client, "flush", "timeout"), (Client, "request", "timeout"),
    (JetStreamContext, "__init__", "timeout"), (Subscription, "next_msg", "timeout"),
):  # fmt: skip
    setattr(_kind, _method, _patient(getattr(_kind, _method), _name, WATCHDOG_SECONDS))

# nats-py writes the PING of flush() at once, and a SUB a little later: only behind the second PING is it certain that the broker
# has what came before.
_flush = Client.flush


async def _flush_twice(self: Client, *arguments: Any, **named: Any) -> None:
    await _flush(self, *arguments, **named)
    await _flush(self, *arguments, **named)


Client.flush = _flush_twice  # type: ignore[method-assign]

WORKER_COUNTS = [1] if SERVER else [1, 3]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "ours: about what only shardbroker has; skipped against another server"
    )
    # Brokers start by the hundred. Where Python is told to write no bytecode, each would compile all of ours again.
    if sys.dont_write_bytecode and not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(shardbroker.__file__).parent, quiet=1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if SERVER:
        skip = pytest.mark.skip(reason="about shards, which only shardbroker has")
        for item in items:
            if item.get_closest_marker("ours"):
                item.add_marker(skip)


def pytest_report_header() -> str:
    return f"server under test: {SERVER or 'shardbroker'}"


@pytest.fixture(scope="session", params=WORKER_COUNTS, ids=lambda n: f"workers{n}")
def workers(request: pytest.FixtureRequest) -> int:
    """Number of shards; a test that asks for it, or for `broker`, runs once with each."""
    count: int = request.param
    return count


@pytest.fixture(scope="session")
def _shared_broker(workers: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Broker]]:
    """Gives the shared broker, started anew when a test has taken it down."""
    started: list[tuple[Broker, dict[int, int]]] = []

    def get() -> Broker:
        if not started or not started[-1][0].alive:
            broker = Broker(tmp_path_factory.mktemp(f"broker{workers}-"), workers=workers).start()
            started.append((broker, broker.descriptors()))
        return started[-1][0]

    yield get
    for broker, descriptors in started:
        if broker.alive and broker.ours:
            wait_until(
                lambda b=broker, d=descriptors: {**d, **b.descriptors()} == d,  # type: ignore[misc]
                f"descriptors to be back at {descriptors}; now {broker.descriptors()}",
            )
        broker.stop()


@pytest.fixture
def broker(_shared_broker: Callable[[], Broker]) -> Iterator[Broker]:
    """A shared broker with default options. No test may cost it a process."""
    instance = _shared_broker()
    before = instance.shard_pids()
    yield instance
    assert instance.alive, f"the broker has ended:\n{instance.log()[-3000:]}"
    assert instance.shard_pids() == before, f"a shard has been replaced:\n{instance.log()[-3000:]}"


@pytest.fixture
def fresh_broker(workers: int, tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Starts brokers with options of their own (see Broker); stops what still runs at the end."""
    started: list[Broker] = []

    def start(**options: Any) -> Broker:
        options.setdefault("workers", workers)
        instance = Broker(tmp_path / f"broker{len(started)}", **options)
        started.append(instance)
        return instance.start()

    yield start
    for instance in started:
        if instance.alive:
            instance.stop()
        print(f"{' '.join(instance.command)}\n{instance.log()[-4000:]}")  # shown when the test failed


@pytest.fixture
def connect(broker: Broker) -> Iterator[Callable[..., RawClient]]:
    """Opens connections to `broker` that have sent CONNECT; closes them at the end.

    connect(headers=True, ...) gives CONNECT options; connect(None) opens without CONNECT.
    """
    opened: list[RawClient] = []

    def open_one(*bare: None, **options: Any) -> RawClient:
        client = broker.client()
        opened.append(client)
        return client if bare else client.connect(**options)

    yield open_one
    for client in opened:
        client.close()


@pytest.fixture
def on_shards(broker: Broker, connect: Callable[..., RawClient]) -> Callable[..., list[RawClient]]:
    """on_shards(**options) opens one connection on every shard, in shard order (three with one process)."""

    def open_all(**options: Any) -> list[RawClient]:
        if broker.workers == 1:
            return [connect(**options) for _ in range(3)]
        return [client for (client,) in covered(broker, lambda: connect(**options)).values()]

    return open_all


@pytest.fixture
def subject(request: pytest.FixtureRequest) -> str:
    """A subject prefix that no other test uses: brokers are shared, old interest may linger a moment."""
    _SUBJECTS[0] += 1
    return f"t{os.getpid()}n{_SUBJECTS[0]}"


_SUBJECTS = [0]
