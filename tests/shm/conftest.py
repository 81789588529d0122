"""Small segments: rings of one page that fill all the time, directory levels that overflow at once."""
from __future__ import annotations

from collections.abc import Iterator

import pytest

from shardbroker.shm.segment import Segment


@pytest.fixture
def segment() -> Iterator[Segment]:
    """Three shards, rings of 4096 bytes, directory levels of 8 to 64 slots."""
    with Segment.create(3, 4096, 4096, level_bits=(3, 4, 5, 6)) as created:
        yield created
