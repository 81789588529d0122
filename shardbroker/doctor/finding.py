"""One thing that was looked at, with what it means and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Level = Literal["ok", "warn", "fail"]
LEVELS: Final[tuple[Level, ...]] = ("ok", "warn", "fail")  # from good to bad


@dataclass(frozen=True, slots=True)
class Finding:
    """`found`: what is so, in one line. `means`: what it does to the broker. `do`: empty when there is nothing to do.

    `values`: the numbers behind it, for programs; names end with their unit (`_bytes`, `_us`, `_ns`).
    """

    name: str
    level: Level
    found: str
    means: str
    do: str = ""
    values: Mapping[str, object] = field(default_factory=dict)


def worst(findings: list[Finding]) -> Level:
    """The worst level of all; ok for none."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")


def size(count: float) -> str:
    """Bytes for people, in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"
