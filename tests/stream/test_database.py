"""Several processes at one file, as shards are when they start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import multiprocess
import pytest

from shardbroker.stream.registry import Registry

PROCESSES = 8


def create(path: Path, gate: Any, results: Any) -> None:
    registry = Registry(path)
    gate.wait()
    try:
        results.put(len(registry.read()))
    except Exception as e:
        results.put(repr(e))
    finally:
        registry.close()


@pytest.mark.parametrize("attempt", range(5))
def test_all_may_create_it_at_once(tmp_path: Path, attempt: int) -> None:
    context = multiprocess.get_context("fork")
    gate, results = context.Barrier(PROCESSES), context.Queue()
    processes = [context.Process(target=create, args=(tmp_path / "a" / "registry.db", gate, results)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    try:
        assert [results.get(timeout=60) for _ in processes] == [0] * PROCESSES
    finally:
        for process in processes:
            process.join()
