"""Line charts as inline SVG: worker counts across, one or several series up. Colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 560, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 84, 16, 44


@dataclass(frozen=True, slots=True)
class Series:
    """A line through `points` (x, y), named at its end. dots: single runs, without a line. kind: a CSS class."""

    name: str
    kind: str
    points: Sequence[tuple[float, float]]
    dots: Sequence[tuple[float, float]] = field(default_factory=tuple)
    marked: bool = True


def steps(most: float, count: int = 4) -> list[float]:
    """Round numbers from 0 to `most` or a little more, about so many."""
    if most <= 0:
        return [0.0, 1.0]
    rough = most / count
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    return [step * i for i in range(math.ceil(most / step - 1e-9) + 1)]


def chart(
    title: str, unit: str, series: Sequence[Series], ticks: Sequence[int], label: Callable[[float], str]
) -> str:
    """One chart. ticks: the worker counts (the axis is logarithmic). label: writes a value of the vertical axis."""
    points = [point for one in series for point in (*one.points, *one.dots)]
    levels = steps(max((y for _, y in points), default=0.0))
    low, high = math.log2(min(ticks)), math.log2(max(ticks))
    inner = WIDTH - LEFT - RIGHT

    def across(x: float) -> float:
        if high == low:
            return LEFT + inner / 2
        return LEFT + 16 + (inner - 32) * (math.log2(x) - low) / (high - low)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / levels[-1]

    parts = [
        f"<figure><figcaption>{escape(title)} <span>{escape(unit)}</span></figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}, {escape(unit)}, by workers">'
    ]
    for level in levels:
        y = up(level)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(label(level))}</text>'
        )
    for tick in ticks:
        parts.append(
            f'<text class="tick" x="{across(tick):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{tick}</text>'
        )
    parts.append(
        f'<text class="tick" x="{LEFT + inner / 2:.1f}" y="{HEIGHT - 6}" text-anchor="middle">workers</text>'
    )
    ends: list[float] = []
    for one in sorted(series, key=lambda one: -one.points[-1][1] if one.points else 0.0):
        parts += [
            f'<circle class="dot {one.kind}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="3">'
            f"<title>{escape(label(y))}</title></circle>"
            for x, y in one.dots
        ]
        if not one.points:
            continue
        line = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in one.points)
        parts.append(f'<polyline class="line {one.kind}" points="{line}"/>')
        if one.marked:
            parts += [
                f'<circle class="mark {one.kind}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="4.5">'
                f"<title>{x:g} workers: {escape(label(y))}</title></circle>"
                for x, y in one.points
            ]
        x, y = one.points[-1]
        at = up(y) + 4
        for end in ends:  # names of lines that end together stand below each other
            if abs(at - end) < 14:
                at = end + 14
        ends.append(at)
        parts.append(
            f'<text class="name {one.kind}" x="{across(x) + 12:.1f}" y="{at:.1f}">{escape(one.name)}</text>'
        )
    return "".join([*parts, "</svg></figure>"])
