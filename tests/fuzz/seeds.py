"""How much the fuzz targets try, and where they begin: by default always the same, and little.

    SHARDBROKER_FUZZ_RUNS=100000 SHARDBROKER_FUZZ_SEED=7 python -m pytest tests/fuzz
"""

from __future__ import annotations

import os

RUNS = int(os.environ.get("SHARDBROKER_FUZZ_RUNS", "400"))
FIRST = int(os.environ.get("SHARDBROKER_FUZZ_SEED", "0"))


def seeds(count: int) -> range:
    """That many seeds; others for each SHARDBROKER_FUZZ_SEED."""
    return range(FIRST * count, (FIRST + 1) * count)
