"""The store directory: one broker at a time, also behind one that was killed; what an interrupted deletion left is nobody's."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from stream.client import Asker, run

from harness import Broker
from harness.broker import links

pytestmark = pytest.mark.ours


def with_store(directory: Path, store: Path, workers: int = 1) -> Broker:
    return Broker(directory, workers=workers, args=["-js", "-sd", str(store)])


def test_a_second_broker_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with with_store(tmp_path / "first", store) as first:
        second = subprocess.run(
            [sys.executable, "-m", "shardbroker", "-a", "127.0.0.1", "-p", "-1", "-js", "-sd", str(store)],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        said = second.stdout + second.stderr
        assert second.returncode == 1, said
        assert f"another broker has its streams in {store / 'jetstream'}" in said

        async def test(ask: Asker) -> None:
            await ask.create("S", subjects=["s"])
            assert (await ask.publish("s", "x"))["seq"] == 1

        run(test, first)


def test_behind_a_killed_broker(tmp_path: Path, workers: int) -> None:
    """The next one begins at once, with all that was acknowledged."""
    store = tmp_path / "store"
    first = with_store(tmp_path / "first", store, workers).start()

    async def fill(ask: Asker) -> None:
        await ask.create("S", subjects=["s"])
        for seq in range(1, 21):
            assert (await ask.publish("s", f"{seq}"))["seq"] == seq
        first.kill_front()

    run(fill, first)
    with with_store(tmp_path / "second", store, workers) as second:

        async def look(ask: Asker) -> None:
            state = await ask.state("S")
            assert (state["messages"], state["first_seq"], state["last_seq"]) == (20, 1, 20)
            assert (await ask.publish("s", "more"))["seq"] == 21

        run(look, second)
    assert first.ended() == -signal.SIGKILL


def test_the_shards_hold_the_lock_too(tmp_path: Path, workers: int) -> None:
    """Each process that may write has the file open, so that the lock lasts as long as any of them."""
    store = tmp_path / "store"
    with with_store(tmp_path / "one", store, workers) as broker:
        lock = str(store / "jetstream" / "LOCK")
        pids = broker.shard_pids().values()
        assert len(pids) == workers
        for pid in [broker.pid, *pids]:
            assert lock in links(pid), pid


def test_what_an_interrupted_deletion_left_does_not_come_back(tmp_path: Path) -> None:
    store = tmp_path / "store"
    kept = tmp_path / "kept"

    async def fill(ask: Asker) -> None:
        await ask.create("S", subjects=["s"])
        for _ in range(5):
            await ask.publish("s", "old")

    async def delete(ask: Asker) -> None:
        assert (await ask.api("STREAM.DELETE.S"))["success"]

    async def again(ask: Asker) -> None:
        await ask.create("S", subjects=["s"])
        assert (await ask.state("S"))["messages"] == 0
        assert (await ask.publish("s", "new"))["seq"] == 1

    with with_store(tmp_path / "first", store) as broker:
        run(fill, broker)
    (directory,) = store.glob("jetstream/*/streams/S")
    shutil.copytree(directory, kept)
    with with_store(tmp_path / "second", store) as broker:
        run(delete, broker)
    assert not directory.exists()
    shutil.copytree(kept, directory)
    with with_store(tmp_path / "third", store) as broker:
        run(again, broker)
