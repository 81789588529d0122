"""The universal scalability law: throughput X of N workers is g N / (1 + a (N - 1) + b N (N - 1)).

g: of one worker; a: the share that is serial (contention); b: the cost of keeping each two consistent (coherency). N. Gunther,
"A General Theory of Computational Scalability Based on Rational Functions". N / X is linear in 1/g, a/g and b/g, so the fit is a
least-squares one with none of them negative; residuals are weighted to be relative ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

COUNTS_TO_FIT = 3  # as many as parameters: the curve passes through all points, which proves nothing
COUNTS_TO_TRUST = 5


@dataclass(frozen=True, slots=True)
class Fit:
    """serial and crosstalk are a and b above. error: root mean square of (fitted / measured - 1). counts: different N."""

    single: float
    serial: float
    crosstalk: float
    r_squared: float
    error: float
    counts: int

    def at(self, workers: float) -> float:
        return (
            self.single
            * workers
            / (1 + self.serial * (workers - 1) + self.crosstalk * workers * (workers - 1))
        )

    @property
    def peak(self) -> float:
        """Workers at which throughput is greatest, at least 1; infinite without crosstalk."""
        if self.serial >= 1:
            return 1.0
        if self.crosstalk <= 0:
            return math.inf
        return max(1.0, math.sqrt((1 - self.serial) / self.crosstalk))

    @property
    def warning(self) -> str:
        """Why the fit is not to be trusted; empty when nothing speaks against it."""
        if self.serial > 1:
            return (
                "more workers did less than one from the start, which no serial share explains: they had too few cores, or "
                "the machine was not quiet; the law does not describe this"
            )
        if self.counts == COUNTS_TO_FIT and self.error > 0.1:
            return f"three worker counts for three parameters, and runs that differ by {self.error:.0%} from the curve"
        if self.counts == COUNTS_TO_FIT:
            return "three worker counts for three parameters: the curve passes through all points and proves nothing"
        if self.counts < COUNTS_TO_TRUST:
            return f"{self.counts} worker counts are few for three parameters; read it as a hint"
        if self.error > 0.1:
            return f"the curve is {self.error:.0%} off the points on average: the law does not describe this"
        return ""


def fit(points: Sequence[tuple[int, float]]) -> Fit | None:
    """From (workers, rate) of every run; None with fewer than three different counts, or without any rate."""
    counts = len({workers for workers, _ in points})
    if counts < COUNTS_TO_FIT or any(rate <= 0 for _, rate in points):
        return None
    n = np.array([workers for workers, _ in points], dtype=float)
    x = np.array([rate for _, rate in points], dtype=float)
    matrix = np.column_stack([np.ones_like(n), n - 1, n * (n - 1)]) * (x / n)[:, None]
    found: tuple[float, np.ndarray] | None = None
    for size in (
        3,
        2,
        1,
    ):  # least squares without negative parameters: the best of all sets that are left out
        for kept in combinations(range(3), size):
            if 0 not in kept:
                continue
            part, *_ = np.linalg.lstsq(matrix[:, kept], np.ones_like(n), rcond=None)
            if (part < 0).any() or part[0] <= 0:
                continue
            full = np.zeros(3)
            full[list(kept)] = part
            left = float(np.sum((matrix @ full - 1) ** 2))
            if found is None or left < found[0] - 1e-15:
                found = left, full
    if found is None:
        return None
    inverse, serial, crosstalk = (float(value) for value in found[1])
    made = Fit(1 / inverse, serial / inverse, crosstalk / inverse, 0.0, 0.0, counts)
    fitted = np.array([made.at(workers) for workers in n])
    spread = float(np.sum((x - x.mean()) ** 2))
    r_squared = 1 - float(np.sum((x - fitted) ** 2)) / spread if spread else 0.0
    error = float(np.sqrt(np.mean((fitted / x - 1) ** 2)))
    return Fit(made.single, made.serial, made.crosstalk, r_squared, error, counts)
