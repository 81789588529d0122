"""Charts as SVG text: small, made of rectangles, lines and words, readable on light and on dark pages.

Colours are classes, and the viewer's preference chooses between two sets of them, so one file does for both. No library:
a plotting library's SVG is fifty times as long, has one background and changes with its version.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH = 860
STYLE = """
text{font:13px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#1f2328}
.t{font-size:16px;font-weight:600}.s{fill:#656d76;font-size:12px}.n{font-weight:600}
.g{stroke:#d8dee4}.one{stroke:#656d76;stroke-dasharray:4 3}
.a{fill:#0969da}.b{fill:#8250df}.c{fill:#bf8700}.d{fill:#1a7f37}.e{fill:#cf222e}.f{fill:#656d76}
.la{stroke:#0969da}.lb{stroke:#8250df}.lc{stroke:#bf8700}.ld{stroke:#1a7f37}.le{stroke:#cf222e}.lf{stroke:#656d76}
polyline{fill:none;stroke-width:2}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9198a1}.g{stroke:#30363d}.one{stroke:#9198a1}
.a{fill:#4493f8}.b{fill:#ab7df8}.c{fill:#d29922}.d{fill:#3fb950}.e{fill:#f85149}.f{fill:#9198a1}
.la{stroke:#4493f8}.lb{stroke:#ab7df8}.lc{stroke:#d29922}.ld{stroke:#3fb950}.le{stroke:#f85149}.lf{stroke:#9198a1}}
""".replace("\n", "")
COLOURS = "abcdef"


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "") -> str:
    """One line of words; y is its baseline."""
    given = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{x:g}" y="{y:g}"{given}>{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, kind: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:g}" rx="2" class="{kind}"/>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def document(height: float, title: str, parts: Sequence[str], width: float = WIDTH) -> str:
    """The whole file. title: for those who do not see it."""
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
        f'role="img">\n<title>{escape(title)}</title>\n<style>{STYLE}</style>\n{body}\n</svg>\n'
    )


def ratios(title: str, subtitle: str, names: Sequence[str], rows: Sequence[tuple[str, Sequence[float | None]]]) -> str:
    """Bars from 1 to the right (better) or left (worse), logarithmic; for each row (label, values) a bar of each name that
    has a value."""
    found = [value for _, values in rows for value in values if value]
    low = min(1.0, *found) / 1.15
    high = max(2.0, *found) * 1.5
    left, right, top = 210.0, WIDTH - 20.0, 74.0
    thick, gap = 9.0, 11.0
    heights = [thick * sum(map(bool, values)) + gap for _, values in rows]

    def at(value: float) -> float:
        return left + (right - left) * math.log(value / low) / math.log(high / low)

    bottom = top + sum(heights)
    parts = [text(20, 26, title, "t"), text(20, 45, subtitle, "s")]
    x = WIDTH - 20.0
    for i in reversed(range(len(names))):
        parts.append(text(x, 26, names[i], anchor="end"))
        x -= 8 * len(names[i]) + 18
        parts.append(box(x, 16, 11, 11, COLOURS[i]))
        x -= 16
    for tick in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100):
        if low <= tick <= high:
            parts.append(line(at(tick), top - 6, at(tick), bottom, "one" if tick == 1 else "g"))
            parts.append(text(at(tick), top - 10, f"{tick:g}×", "s", "middle"))
    for row, (label, values) in enumerate(rows):
        y = top + sum(heights[:row]) + gap / 2
        parts.append(text(left - 12, y + heights[row] / 2, label, anchor="end"))
        shown = [(i, value) for i, value in enumerate(values) if value]
        for at_bar, (i, value) in enumerate(shown):
            begin, end = sorted((at(1), at(value)))
            parts.append(box(begin, y + thick * at_bar, max(end - begin, 1), thick - 1, COLOURS[i]))
            if at_bar == 0:
                said = f"{value:.1f}×" if value >= 0.95 else f"{value:.2f}×"
                parts.append(text(end + 5, y + 8.5, said, "n s"))
    return document(bottom + 14, title, parts)


@dataclass
class Panel:
    """One plot of lines: title, names of the axes, and for each name the points (x, y). Both axes may be logarithmic."""

    title: str
    x: str
    y: str
    lines: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    log_x: bool = True
    log_y: bool = False


def panels(title: str, subtitle: str, plots: Sequence[Panel], columns: int = 2) -> str:
    """Several plots in a grid."""
    width, height = (WIDTH - 20.0) / columns, 250.0
    parts = [text(20, 26, title, "t"), text(20, 45, subtitle, "s")]
    for i, plot in enumerate(plots):
        parts += _panel(plot, 10 + width * (i % columns), 60 + height * (i // columns), width, height)
    return document(70 + height * -(-len(plots) // columns), title, parts)


def _panel(plot: Panel, x0: float, y0: float, width: float, height: float) -> list[str]:
    points = [point for values in plot.lines.values() for point in values]
    if not points:
        return []
    left, right, top, bottom = x0 + 58, x0 + width - 14, y0 + 52, y0 + height - 42
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    x_low, x_high = min(xs), max(xs)
    y_low, y_high = (min(ys) / 1.2, max(ys) * 1.2) if plot.log_y else (0.0, max(ys) * 1.1)

    def scale(value: float, low: float, high: float, log: bool) -> float:
        if high <= low:
            return 0.5
        return math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)

    def at(point: tuple[float, float]) -> tuple[float, float]:
        return (
            left + (right - left) * scale(point[0], x_low, x_high, plot.log_x),
            bottom - (bottom - top) * scale(point[1], y_low, y_high, plot.log_y),
        )

    parts = [text(x0 + 8, y0 + 16, plot.title, "n"), text((left + right) / 2, bottom + 34, plot.x, "s", "middle")]
    parts.append(text(x0 + 8, top - 10, plot.y, "s"))
    for tick in _ticks(y_low, y_high, plot.log_y):
        y = at((x_low, tick))[1]
        parts += [line(left, y, right, y, "g"), text(left - 6, y + 4, _short(tick), "s", "end")]
    for tick in sorted(set(xs)) if len(set(xs)) <= 6 or not plot.log_x else _ticks(x_low, x_high, True):
        parts.append(text(at((tick, y_low or 1))[0], bottom + 16, _short(tick), "s", "middle"))
    x = right
    for i, name in reversed(list(enumerate(plot.lines))):
        if len(plot.lines) > 1:
            parts.append(text(x, y0 + 34, name, "s", "end"))
            x -= 6.6 * len(name) + 15
            parts.append(box(x, y0 + 25, 10, 10, COLOURS[i]))
            x -= 14
    for i, values in enumerate(plot.lines.values()):
        drawn = [at(point) for point in values]
        joined = " ".join(f"{px:.1f},{py:.1f}" for px, py in drawn)
        parts.append(f'<polyline points="{joined}" class="l{COLOURS[i]}"/>')
        parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" class="{COLOURS[i]}"/>' for px, py in drawn]
    return parts


def _ticks(low: float, high: float, log: bool) -> list[float]:
    """Round numbers between low and high."""
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        steps = (1, 2, 5) if last - first <= 2 else (1,)
        return [s * 10.0**e for e in range(first, last + 1) for s in steps if low <= s * 10.0**e <= high]
    rough = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(s * unit for s in (1, 2, 5, 10) if s * unit >= rough)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _short(value: float) -> str:
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:g}{suffix}"
    return f"{value:g}"
