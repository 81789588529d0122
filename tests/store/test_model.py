"""The log against its model: random operations, memory and file, reopened now and then."""

from __future__ import annotations

import random
from dataclasses import asdict
from pathlib import Path

import pytest

from oracle.log import ModelLog
from shardbroker.store.handle import Log, Store
from store.machine import SECOND_NS, START_NS, change, draw_limits, same, same_answers


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("storage", ["memory", "always", "interval"])
def test_random_operations(storage: str, seed: int, tmp_path: Path) -> None:
    draw = random.Random(f"{storage} {seed}")
    store = Store(draw.choice([0, 1, 3]))
    limits = draw_limits(draw)
    model = ModelLog(memory=storage == "memory", limits=limits)

    def opened() -> Log:
        return Log(
            store,
            None if storage == "memory" else str(tmp_path),
            sync_interval_ns=SECOND_NS if storage == "interval" else 0,
            segment_bytes_max=1 << 16,
            now_ns=now,
            **asdict(model.limits),
        )

    now = START_NS
    log = opened()
    for step in range(300):
        now += draw.choice([0, 1, SECOND_NS // 4, SECOND_NS])
        change(log, model, draw, now)
        if draw.random() < 0.3:
            log.submit()
        if draw.random() < 0.3:
            store.run()
            store.collect()
        if step % 7 == 0:
            same(log, model)
        same_answers(log, model, draw)
        if storage != "memory" and draw.random() < 0.02:
            log.close()
            log = opened()
            log.tick(now)
            model.tick(now)
            same(log, model)
            assert not log.lost() and not any(log.recovered().values())
    same(log, model)
    log.close()
    store.close()
