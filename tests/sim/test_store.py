"""Logs on a simulated disk that loses power, tears and reorders writes, flips bits, fails and fills up: what was acknowledged is
there afterwards, unchanged. tools/store_sim runs any number of seeds; here is a bounded number of them."""

from __future__ import annotations

import os

import pytest

from sim import consumer_world
from sim.store_world import run_seed

SEEDS = int(os.environ.get("SHARDBROKER_STORE_SEEDS", "160"))


@pytest.mark.parametrize("first", range(0, SEEDS, 20))
def test_what_was_acknowledged_survives(first: int) -> None:
    crashes = sum(run_seed(seed) for seed in range(first, min(first + 20, SEEDS)))
    assert crashes >= 20


@pytest.mark.parametrize("first", range(0, SEEDS, 40))
def test_acknowledgements_and_definitions_survive(first: int) -> None:
    crashes = sum(consumer_world.run_seed(seed) for seed in range(first, min(first + 40, SEEDS)))
    assert crashes >= 40
