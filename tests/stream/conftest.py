"""Brokers with streams: `js` is one that many tests share, one per worker count; each test uses names of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from harness import Broker

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def js(workers: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker with JetStream on a store of its own."""
    directory = tmp_path_factory.mktemp(f"js{workers}-")
    with Broker(directory, workers=workers, args=["-js", "-sd", str(directory / "store")]) as broker:
        yield broker


@pytest.fixture
def name() -> str:
    """A stream name, and first token of its subjects, that no other test has."""
    return f"S{next(_NUMBERS)}"
