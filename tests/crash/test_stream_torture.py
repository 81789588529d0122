"""tools/stream_torture.py for a few seconds: publishers and consumers under kill -9 of workers, the front and all of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from stream_torture import Torture

SECONDS = 3.0


@pytest.mark.ours
def test_nothing_promised_is_broken(tmp_path: Path, workers: int) -> None:
    torture = Torture(tmp_path, workers, streams=2, publishers=1, every=0.5, pause=0.05, seed=workers)
    report = asyncio.run(torture.run(SECONDS))
    assert sum(report.kills.values())
    assert all(row["acknowledged"] for row in report.rows if "acknowledged" in row), report.rows
    assert not +report.wrong, (report.wrong, report.rows)
