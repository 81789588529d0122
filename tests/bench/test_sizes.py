"""Sizes and subjects that are drawn have the distribution that was asked for."""

from __future__ import annotations

import math
import statistics
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbroker.bench import SUBJECTS_MAX, index_text
from shardbroker.bench.shapes import dealt, parse
from shardbroker.bench.sizes import coprime_step, sizes, zipf


def test_one_size() -> None:
    assert [sizes(text) for text in ("128", "128B", "2KB", "1mb", "16")] == [
        [128],
        [128],
        [2048],
        [1 << 20],
        [16],
    ]


def test_uniform() -> None:
    drawn = sizes("64..4096")
    assert min(drawn) >= 64 and max(drawn) <= 4096 and max(drawn) > 4000 and min(drawn) < 100
    assert statistics.mean(drawn) == pytest.approx(2080, rel=0.01)
    assert drawn != sorted(drawn)
    assert drawn == sizes("64..4096") != sizes("64..4096", seed=2)


def test_lognormal() -> None:
    drawn = sizes("lognormal:512,0.7")
    assert statistics.median(drawn) == pytest.approx(512, rel=0.02)
    assert statistics.stdev(math.log(one) for one in drawn) == pytest.approx(0.7, rel=0.05)


def test_weights() -> None:
    counts = Counter(sizes("64=80,1KB=15,4KB=5"))
    assert {size: count / 256 for size, count in counts.items()} == pytest.approx(
        {64: 0.80, 1024: 0.15, 4096: 0.05}, abs=1 / 256
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "-5",
        "8",
        "1GB",
        "9..8",
        "..",
        "lognormal:1",
        "lognormal:64,9",
        "64=x",
        "64=0",
        "64=nan",
        "64=-1",
    ],
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        sizes(text)


def test_zipf() -> None:
    drawn = np.frombuffer(zipf(1000, 1.0, count=200_000), dtype=np.uint32)
    counts = np.bincount(drawn, minlength=1000)
    assert drawn.max() < 1000
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.1)
    assert counts[0] / len(drawn) == pytest.approx(1 / sum(1 / k for k in range(1, 1001)), rel=0.03)


@given(st.integers(1, SUBJECTS_MAX))
def test_a_step_visits_all(count: int) -> None:
    assert math.gcd(coprime_step(count), count) == 1


@given(st.integers(0, SUBJECTS_MAX - 2))
def test_index_texts_are_distinct_and_sorted(index: int) -> None:
    assert len(index_text(index)) == 4
    assert index_text(index) != index_text(index + 1)


@given(count=st.integers(0, 1000), parts=st.integers(1, 64))
def test_dealing_gives_each_thing_once(count: int, parts: int) -> None:
    found = [first + i for first, many in dealt(count, parts) for i in range(many)]
    assert found == list(range(count))
    many = [many for _, many in dealt(count, parts)]
    assert max(many) - min(many) <= 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pub", ("pub", 1, 0, "128", 0)),
        ("1x1:16", ("pubsub", 1, 1, "16", 0)),
        ("fanout:1x8:128B", ("fanout", 1, 8, "128", 0)),
        ("fanout:64", ("fanout", 1, 64, "128", 0)),
        ("pubsub:2x3:64..4096@5000", ("pubsub", 2, 3, "64..4096", 5000)),
        ("pubsub::1KB", ("pubsub", 1, 1, "1KB", 0)),
        ("pubsub:lognormal:512,1", ("pubsub", 1, 1, "lognormal:512,1", 0)),
        ("request:4@100", ("request", 4, 1, "128", 100)),
        ("queue:2x8:64=80,1KB=20", ("queue", 2, 8, "64=80,1KB=20", 0)),
        ("churn:16", ("connect", 16, 0, "128", 0)),
    ],
)
def test_how_a_load_is_written(text: str, expected: tuple[str, int, int, str, float]) -> None:
    load = parse(text)
    assert (load.shape, load.left, load.right, load.size, load.rate) == expected
