"""What the front tells a service manager: one that is a socket of the test. Source: sd_notify(3), sd_watchdog_enabled(3)."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import Broker, wait_until
from shardbroker.control.notify import Notifier

pytestmark = pytest.mark.ours


class Manager:
    """The manager's end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(0.02)
        self.seen: list[dict[str, str]] = []

    def messages(self) -> list[dict[str, str]]:
        """All until now, as names and values."""
        try:
            while True:
                text = self.socket.recv(4096).decode()
                self.seen.append(dict(line.split("=", 1) for line in text.splitlines()))
        except TimeoutError:
            return self.seen

    def wait(self, name: str, count: int = 1) -> dict[str, str]:
        return wait_until(
            lambda: next(iter([m for m in self.messages() if name in m][count - 1 :]), {}),
            f"{name}: {self.seen}",
        )

    def count(self, name: str) -> int:
        return sum(name in message for message in self.messages())


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Manager]:
    name = f"shardbroker-test-{os.getpid()}"
    address = str(tmp_path / "notify") if request.param == "path" else f"\0{name}"
    made = Manager(address)
    monkeypatch.setenv("NOTIFY_SOCKET", address.replace("\0", "@"))
    yield made
    made.socket.close()


def test_from_the_start_to_the_end(fresh_broker: Callable[..., Broker], manager: Manager) -> None:
    broker = fresh_broker(config="debug: false\n")
    assert manager.wait("READY")["STATUS"] == f"{broker.workers} workers, 0 connections"
    assert manager.count("WATCHDOG") == 0
    os.kill(broker.pid, signal.SIGHUP)
    assert int(manager.wait("RELOADING")["MONOTONIC_USEC"]) > 0
    manager.wait("READY", 2)
    assert broker.stop() == 0
    names = [next(iter(message)) for message in manager.messages()]
    assert names == ["READY", "RELOADING", "READY", "STOPPING"]


def test_a_lame_duck_stops(fresh_broker: Callable[..., Broker], manager: Manager) -> None:
    config = 'lame_duck_grace_period: "0s"\nlame_duck_duration: "30s"\n'
    broker = fresh_broker(config=config)
    with broker.client() as client:
        client.connect().flush()
        os.kill(broker.pid, signal.SIGUSR2)
        assert manager.wait("STOPPING")["STATUS"].startswith("Lame duck")
        assert broker.alive


def test_the_watchdogs_beat_stops_with_a_shard(
    fresh_broker: Callable[..., Broker], manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    broker = fresh_broker()
    with broker.client() as client:
        client.connect().flush()
        wait_until(
            lambda: any(
                m.get("STATUS", "").endswith(" 1 connections") for m in manager.messages() if "WATCHDOG" in m
            ),
            "a beat that counts the connection",
        )
    beats = manager.count("WATCHDOG")
    manager.wait("WATCHDOG", beats + 2)
    with broker.stopped_shard(0):
        # A beat that was due before the shard's last turn is older than the interval may still come.
        def silent() -> bool:
            before = manager.count("WATCHDOG")
            wait_until(lambda: _turns(), "three intervals")
            return manager.count("WATCHDOG") == before

        _turns = _Clock(1.5)
        wait_until(silent, "the beat to stop")
    manager.wait("WATCHDOG", manager.count("WATCHDOG") + 1)


class _Clock:
    """True once every so many seconds: how long nothing happens can only be seen by waiting."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = 0.0

    def __call__(self) -> bool:
        now = time.monotonic()
        if not self._end:
            self._end = now + self._seconds
        if now < self._end:
            return False
        self._end = 0.0
        return True


def test_the_environment_is_not_for_children() -> None:
    environment = {
        "NOTIFY_SOCKET": "/x",
        "WATCHDOG_USEC": "2000000",
        "WATCHDOG_PID": str(os.getpid()),
        "A": "b",
    }
    assert Notifier(environment).watchdog_seconds == 2
    assert environment == {"A": "b"}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_USEC": "2000000"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": "vsock:2:1", "WATCHDOG_USEC": "2000000"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "-1"},
    ],
)
def test_no_watchdog(environment: dict[str, str]) -> None:
    assert Notifier(dict(environment)).watchdog_seconds == 0


def test_nobody_listens(tmp_path: Path) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "none"), "WATCHDOG_USEC": "1000"})
    notifier.ready("a")
    notifier.reloading()
    notifier.stopping("b")

    async def beat() -> int:
        asked = 0

        def healthy(seconds: float) -> bool:
            nonlocal asked
            asked += 1
            assert seconds == 0.0005
            return True

        notifier.watch(healthy, lambda: "c")
        while asked < 3:
            await asyncio.sleep(0)
        notifier.close()
        return asked

    assert asyncio.run(beat()) >= 3
