"""Payload sizes and subjects that are drawn: from a few words to numbers, the same ones for the same seed."""

from __future__ import annotations

import math
import re
from statistics import NormalDist

import numpy as np

SIZE_LEAST = 16  # the stamp by which every message is checked
SIZE_MOST = 64 << 20
SIZES = 256  # how many sizes stand for a distribution
DRAWS = 1 << 18  # subjects drawn before they are repeated
UNITS = {"": 1, "b": 1, "k": 1024, "kb": 1024, "kib": 1024, "m": 1 << 20, "mb": 1 << 20, "mib": 1 << 20}
HELP = "128, 4KB, 64..4096, lognormal:MEDIAN,SIGMA or weights such as 64=80,1KB=20"


def one_size(text: str) -> int:
    """Bytes of "128", "128B", "4KB" (1024, as nats bench). Raises ValueError."""
    found = re.fullmatch(r"(\d+)\s*([a-zA-Z]*)", text.strip())
    if not found or found[2].lower() not in UNITS:
        raise ValueError(f"{text!r} is no size; give {HELP}")
    size = int(found[1]) * UNITS[found[2].lower()]
    if not SIZE_LEAST <= size <= SIZE_MOST:
        raise ValueError(
            f"a size of {size} B: {SIZE_LEAST} B to {SIZE_MOST >> 20} MB can be had (the first {SIZE_LEAST} bytes are "
            "the stamp by which a message is checked)"
        )
    return size


def sizes(text: str, seed: int = 1) -> list[int]:
    """The sizes that a specification stands for, to be used in turn: one, or SIZES of a distribution.

    A distribution is represented by its quantiles (i + 1/2) / SIZES, shuffled by the seed: exact to 0.2 % of the
    messages, and what lies beyond the last quantile is not met. Raises ValueError.
    """
    text = text.strip()
    if "=" in text:
        return _shuffled(_weighted(text), seed)
    if text.startswith("lognormal:"):
        try:
            median, sigma = text.removeprefix("lognormal:").split(",")
            middle, deviation = one_size(median), float(sigma)
        except ValueError as error:
            raise ValueError(
                f"{text!r}: lognormal:MEDIAN,SIGMA is wanted, such as lognormal:512,1.0"
            ) from error
        if not 0 < deviation <= 4:
            raise ValueError(f"{text!r}: SIGMA is the deviation of the logarithm, above 0 and at most 4")
        normal = NormalDist(math.log(middle), deviation)
        drawn = [math.exp(normal.inv_cdf((i + 0.5) / SIZES)) for i in range(SIZES)]
        return _shuffled([min(max(round(size), SIZE_LEAST), SIZE_MOST) for size in drawn], seed)
    if ".." in text:
        low, _, high = text.partition("..")
        least, most = one_size(low), one_size(high)
        if least > most:
            raise ValueError(f"{text!r}: the first size is the smaller one")
        return _shuffled([least + int((most - least + 1) * (i + 0.5) / SIZES) for i in range(SIZES)], seed)
    return [one_size(text)]


def _weighted(text: str) -> list[int]:
    pairs: list[tuple[int, float]] = []
    for part in text.split(","):
        words, _, weight = part.partition("=")
        try:
            pairs.append((one_size(words), float(weight)))
        except ValueError as error:
            raise ValueError(f"{part!r}: SIZE=WEIGHT is wanted, such as 64=80 ({error})") from error
    total = sum(weight for _, weight in pairs)
    if total <= 0 or any(not 0 <= weight < math.inf for _, weight in pairs):
        raise ValueError(f"{text!r}: weights are numbers of 0 or more, and not all 0")
    edges = np.cumsum([weight for _, weight in pairs])
    places = np.searchsorted(edges, (np.arange(SIZES) + 0.5) / SIZES * total, side="right")
    return [pairs[place][0] for place in places]


def _shuffled(values: list[int], seed: int) -> list[int]:
    np.random.default_rng(seed).shuffle(values)
    return values


def zipf(subjects: int, exponent: float, seed: int = 1, count: int = DRAWS) -> bytes:
    """`count` subject indexes (uint32) of which number k, 0 the first, is drawn in proportion to 1 / (k + 1)**exponent."""
    if not 0 < exponent <= 10:
        raise ValueError("the exponent of Zipf's law is above 0 and at most 10")
    weights = 1.0 / np.arange(1, subjects + 1) ** exponent
    edges = np.cumsum(weights)
    drawn = np.searchsorted(edges, np.random.default_rng(seed).random(count) * edges[-1], side="right")
    return bytes(np.minimum(drawn, subjects - 1).astype(np.uint32))


def coprime_step(count: int) -> int:
    """A step that visits all of `count` subjects, far from the last one each time (golden section)."""
    step = max(1, round(count * 0.618))
    while math.gcd(step, count) != 1:
        step += 1
    return step
