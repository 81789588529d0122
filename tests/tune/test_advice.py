"""What is read from a sweep: the knee, the ring size, what could not be told, the configuration, the report."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from shardbroker import limits
from shardbroker.tune.advice import advise, fragment, knee, rings_to_try
from shardbroker.tune.chart import steps
from shardbroker.tune.html import report
from tune.sweeps import made


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({1: [100], 2: [190], 4: [200]}, 2),
        ({1: [100], 2: [190], 4: [350]}, 4),
        ({1: [100], 2: [90], 4: [80]}, 1),
        ({1: [100], 2: [105], 4: [150]}, 4),  # a dip before a gain is no knee
        ({1: [80, 100, 120], 2: [110, 115, 135]}, 1),  # within the spread
        ({1: [100]}, 1),
    ],
)
def test_the_knee(rates: dict[int, list[float]], expected: int) -> None:
    sweep = made(rates)
    assert knee(sweep).workers == expected
    assert advise(sweep, 1, 8).workers == expected


def test_what_could_not_be_told() -> None:
    quiet = advise(made({n: [100.0 * n, 101.0 * n] for n in (1, 2, 4)}), 1, 16)
    assert quiet.doubts == ()
    assert "generators were the limit" in " ".join(advise(made({1: [100, 100]}, bound="generator"), 1, 8).doubts)
    assert "cores were exhausted" in " ".join(advise(made({1: [100, 100]}, bound="cores"), 1, 8).doubts)
    assert "shared cores with the load" in " ".join(advise(made({1: [9, 9], 2: [9, 9]}), 1, 2).doubts)
    assert "too few for a scalability curve" in " ".join(advise(made({1: [9, 9], 2: [9, 9]}), 1, 8).doubts)
    assert "differ by over 20 %" in " ".join(advise(made({1: [100, 150]}), 1, 8).doubts)
    assert "only one run" in " ".join(advise(made({1: [100]}), 1, 8).doubts)
    assert "sent late" in " ".join(advise(made({1: [100, 100]}, late=True), 1, 8).doubts)


def test_rings_are_tried_when_they_were_full() -> None:
    rates = {1: [100_000.0], 2: [190_000.0]}
    assert rings_to_try(made(rates)) == []
    full = made(rates, ring_full=100)
    sizes = rings_to_try(full)
    assert sizes[0] == limits.RING_BYTES < sizes[1]
    full.rings = [(sizes[0], [100.0, 101.0]), (sizes[1], [150.0, 151.0]), (sizes[2], [152.0, 153.0])]
    assert advise(full, 1, 8).ring_bytes == sizes[1]
    full.rings = [(sizes[0], [100.0, 101.0]), (sizes[1], [102.0, 99.0])]
    assert advise(full, 1, 8).ring_bytes == sizes[0]


def test_the_configuration_is_accepted(tmp_path: Path) -> None:
    sweep = made({1: [100.0], 2: [190.0], 4: [200.0]})
    path = tmp_path / "tune.conf"
    path.write_text(fragment(advise(sweep, 1, 8), sweep))
    words = [sys.executable, "-m", "shardbroker", "-c", str(path), "-t"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^workers: 2$", path.read_text(), re.M)
    assert re.search(rf"^ring_bytes: {limits.RING_BYTES}$", path.read_text(), re.M)


def test_the_report_stands_alone() -> None:
    sweep = made({n: [100.0 * n, 104.0 * n] for n in (1, 2, 4, 8)})
    page = report(sweep, advise(sweep, 1, 16), {"processor": "<script>alert(1)</script>"})
    assert page.count("<svg") == 4
    assert "Universal scalability law" in page and "USL" in page
    assert "<script" not in page
    assert not re.search(r"""(src|href)\s*=|https?://|url\(|@import""", page)
    assert "p99" in page and "fanout:1x8:128B" in page


def test_the_report_says_when_there_is_no_curve() -> None:
    sweep = made({1: [100.0], 2: [150.0]})
    assert "Not fitted" in report(sweep, advise(sweep, 1, 2), {})


@pytest.mark.parametrize("most", [0.0, 0.3, 1, 7, 99, 100, 101, 3.3e6])
def test_axis_steps_are_round_and_cover(most: float) -> None:
    found = steps(most)
    assert found[0] == 0 and found[-1] >= most and 2 <= len(found) <= 7
