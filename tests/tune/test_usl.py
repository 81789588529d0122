"""The scalability law: a fit finds the parameters that made the points, and says when it knows nothing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbroker.tune.usl import fit


def law(single: float, serial: float, crosstalk: float, n: int) -> float:
    return single * n / (1 + serial * (n - 1) + crosstalk * n * (n - 1))


@given(
    single=st.floats(1e3, 1e8), serial=st.floats(0, 0.5), crosstalk=st.floats(0, 0.05),
    counts=st.lists(st.integers(1, 64), min_size=4, max_size=8, unique=True),
)  # fmt: skip
def test_exact_points_give_their_parameters(
    single: float, serial: float, crosstalk: float, counts: list[int]
) -> None:
    found = fit([(n, law(single, serial, crosstalk, n)) for n in counts])
    assert found is not None
    assert found.error < 1e-3
    for n in counts:
        assert found.at(n) == pytest.approx(law(single, serial, crosstalk, n), rel=1e-3)


def test_parameters_are_never_negative() -> None:
    found = fit([(1, 100.0), (2, 230.0), (4, 520.0), (8, 1100.0)])  # better than linear
    assert found is not None
    assert found.serial >= 0 and found.crosstalk >= 0 and found.single > 0
    assert found.peak == math.inf


def test_the_peak() -> None:
    found = fit([(n, law(1e6, 0.05, 0.01, n)) for n in (1, 2, 4, 8, 16, 32)])
    assert found is not None
    assert found.peak == pytest.approx(math.sqrt(0.95 / 0.01), rel=0.01)
    assert found.warning == ""
    assert found.r_squared > 0.999


@pytest.mark.parametrize(("counts", "word"), [((1, 2, 4), "proves nothing"), ((1, 2, 4, 8), "few")])
def test_few_counts_are_warned_of(counts: tuple[int, ...], word: str) -> None:
    found = fit([(n, law(1e6, 0.05, 0.01, n)) for n in counts])
    assert found is not None
    assert word in found.warning


def test_two_counts_are_no_curve() -> None:
    assert fit([(1, 1.0), (1, 1.1), (2, 2.0)]) is None
    assert fit([]) is None
    assert fit([(1, 1.0), (2, 0.0), (4, 1.0)]) is None


def test_points_off_the_law_are_warned_of() -> None:
    found = fit([(1, 100.0), (2, 20.0), (4, 300.0), (8, 30.0), (16, 500.0)])
    assert found is not None
    assert "does not describe" in found.warning


def test_workers_that_do_less_than_one_are_no_law() -> None:
    """As on a machine with fewer cores than workers: no share of the work is more than all of it."""
    law = fit([(1, 200.0), (2, 140.0), (3, 118.0)])
    assert law is not None
    assert law.serial > 1
    assert law.peak == 1.0
    assert "does not describe this" in law.warning


def test_three_counts_whose_runs_differ() -> None:
    law = fit([(1, 100.0), (1, 160.0), (2, 200.0), (2, 300.0), (3, 280.0), (3, 410.0)])
    assert law is not None
    assert "runs that differ by" in law.warning
