"""Histograms of times: what numpy says of the values themselves, within the width of a bucket."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbroker.bench import board
from shardbroker.bench.histogram import Histogram, upper_edges

WIDTH = 1 / 128  # of a bucket, relative to its values


@given(values=st.lists(st.integers(0, 2**42 - 1), min_size=1, max_size=300), percent=st.floats(0, 100))
def test_percentiles_are_numpys_within_a_bucket(values: list[int], percent: float) -> None:
    found = Histogram.of([board.record(values)]).percentile(percent)
    true = int(np.percentile(np.array(values, dtype=np.int64), percent, method="inverted_cdf"))
    assert true <= found <= true * (1 + WIDTH) + 1e-9


def test_percentiles_of_many() -> None:
    values = np.random.default_rng(5).lognormal(11, 1.2, 100_000).astype(np.int64)
    made = Histogram.of([board.record(part.tolist()) for part in np.array_split(values, 7)])
    for percent in (50, 90, 99, 99.9, 100):
        assert made.percentile(percent) == pytest.approx(np.percentile(values, percent), rel=WIDTH * 1.01)
    assert made.count == len(values)
    assert made.mean == pytest.approx(values.mean())
    figures = made.figures()
    assert figures["max_us"] == values.max() / 1e3
    assert figures["min_us"] == values.min() / 1e3
    assert list(figures) == ["count", "min_us", "mean_us", "p50_us", "p90_us", "p99_us", "p99_9_us", "max_us"]


@given(st.integers(0, 2**64 - 1))
def test_every_time_has_its_bucket(ns: int) -> None:
    bucket = board.bucket_of(ns)
    edges = upper_edges()
    assert 0 <= bucket < board.BUCKETS
    if ns < 2**42:
        assert ns <= int(edges[bucket])
        assert bucket == 0 or ns > int(edges[bucket - 1])
    else:
        assert bucket == board.BUCKETS - 1


def test_edges_grow_and_are_narrow() -> None:
    edges = upper_edges().astype(np.float64)
    assert (np.diff(edges) > 0).all()
    assert (np.diff(edges)[256:] / (edges[256:-1] + 1) <= WIDTH).all()
    assert edges[-1] == 2**42 - 1


def test_nothing_was_counted() -> None:
    made = Histogram.of([])
    assert (made.count, made.mean, made.percentile(99), made.figures()) == (0, 0.0, 0, {})
    assert Histogram.of([board.record([])]).count == 0


def test_a_time_before_its_beginning_counts_as_none() -> None:
    assert Histogram.of([board.record([-5])]).percentile(100) == 0
