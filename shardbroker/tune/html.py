"""The report of a sweep: one HTML file that needs nothing else, no script and no network."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from shardbroker.bench.report import duration, number
from shardbroker.tune.advice import Advice, fragment
from shardbroker.tune.chart import Series, chart
from shardbroker.tune.sweep import Point, Sweep
from shardbroker.tune.usl import COUNTS_TO_FIT

STYLE = """
:root { --ink: #1c2430; --soft: #5b6675; --line: #dde2e9; --card: #fff; --page: #f5f7fa;
        --one: #2563c9; --two: #c2570c; --three: #0f7f6d; --warn: #8a5a00; --warn-card: #fff6e0; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaf0; --soft: #9aa6b5; --line: #323b48; --card: #1b222c; --page: #12171e;
          --one: #6ea3ff; --two: #ff9d5c; --three: #4fd1b8; --warn: #f0c063; --warn-card: #2c2412; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 32px 20px 64px; background: var(--page); color: var(--ink);
       font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 32px 0 10px; }
p, ul { margin: 0 0 8px; } ul { padding-left: 20px; } .soft { color: var(--soft); }
.answer { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px 22px; margin: 18px 0; }
.answer strong { font-size: 20px; }
.doubts { background: var(--warn-card); color: var(--warn); border-radius: 10px; padding: 14px 22px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 16px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 14px 6px; }
figcaption { font-weight: 600; padding-left: 6px; } figcaption span { font-weight: 400; color: var(--soft); }
svg { width: 100%; height: auto; display: block; }
.grid { stroke: var(--line); } .tick { fill: var(--soft); font-size: 12px; }
.name { font-size: 12.5px; font-weight: 600; }
.line { fill: none; stroke-width: 2.2; stroke-linejoin: round; } .dot { opacity: .45; }
.line.one { stroke: var(--one); } .mark.one, .dot.one, .name.one { fill: var(--one); }
.line.two { stroke: var(--two); } .mark.two, .dot.two, .name.two { fill: var(--two); }
.line.three { stroke: var(--three); } .mark.three, .dot.three, .name.three { fill: var(--three); }
.line.fit { stroke: var(--soft); stroke-dasharray: 5 4; stroke-width: 1.6; }
.name.fit { fill: var(--soft); font-weight: 400; }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: 8px 14px; text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; border-bottom: 1px solid var(--line); }
tr + tr td { border-top: 1px solid var(--line); }
th:first-child, td:first-child, .left { text-align: left; } tr.best td { font-weight: 600; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
      padding: 14px 18px; overflow-x: auto; margin: 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 0; } dt { color: var(--soft); }
dd { margin: 0; }
"""


def report(made: Sweep, advice: Advice, about: Mapping[str, Any]) -> str:
    """The page. about: what it was measured on and with, plain words to plain values."""
    workload = made.workload
    points = made.measured()
    mix = ", ".join(
        f"{escape(part.load.describe())}{f' ({part.share:.0%})' if len(workload.parts) > 1 else ''}"
        for part in workload.parts
    )
    answer = f"{advice.workers} worker{'s' if advice.workers > 1 else ''}"
    if advice.workers > 1:
        answer += f", rings of {advice.ring_bytes >> 20} MiB"
    body = [
        f"<h1>shardbroker tune</h1><p class=soft>{mix} · {escape(workload.story)} · {escape(str(about.get('taken', '')))}</p>",
        f"<div class=answer><p><strong>{answer}</strong></p><ul>{_items(advice.reasons)}</ul></div>",
        f"<div class=doubts><p><b>What this machine could not tell</b></p><ul>{_items(advice.doubts)}</ul></div>"
        if advice.doubts
        else "",
        f"<h2>By workers</h2><div class=charts>{''.join(_charts(made, advice))}</div>",
        f"<h2>Figures</h2><div class=wide>{_table(made, points, advice)}</div>",
        _loads(made, points) if len(workload.parts) > 1 else "",
        f"<h2>Universal scalability law</h2>{_law(advice)}",
        f"<h2>Configuration</h2><pre>{escape(fragment(advice, made))}</pre>",
        f"<h2>Measured on</h2><dl>{_terms(about)}</dl>",
        "<h2>How to read it</h2><p class=soft>Throughput is published messages per second in a closed loop, the median of "
        "the runs (dots); of several loads the mix. Latency is from when a message was due to when it was read, in an open "
        "loop at one rate for all worker counts, half of what the slowest count reached. CPU is user and system time of all "
        "processes of the broker. Every message was checked.</p>",
    ]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>shardbroker tune: {mix}</title><style>{STYLE}</style><main>{''.join(body)}</main></html>\n"
    )


def _items(words: tuple[str, ...]) -> str:
    return "".join(f"<li>{escape(word)}</li>" for word in words)


def _terms(about: Mapping[str, Any]) -> str:
    return "".join(f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>" for key, value in about.items())


def _charts(made: Sweep, advice: Advice) -> list[str]:
    workload = made.workload
    points = made.measured()
    ticks = [point.workers for point in points]
    rates = Series(
        "median", "one",
        [(point.workers, point.rate(workload)) for point in points],
        [(point.workers, rate) for point in points for rate in point.rates(workload)],
    )  # fmt: skip
    throughput = [rates]
    if advice.fit is not None and len(ticks) > 1:
        law = advice.fit
        curve = [(float(x), law.at(float(x))) for x in np.geomspace(ticks[0], ticks[-1], 60)]
        throughput.append(Series("USL", "fit", curve, marked=False))
    found = [chart("Throughput", "messages/s published", throughput, ticks, number)]
    timed = [(point.workers, point.times()) for point in points if point.times().count]
    if timed:
        found.append(
            chart(
                "Latency",
                "at a common rate" if any(made.common_rates) else "of a round",
                [
                    Series("p50", "three", [(x, times.percentile(50) / 1e3) for x, times in timed]),
                    Series("p99", "two", [(x, times.percentile(99) / 1e3) for x, times in timed]),
                ],
                ticks,
                duration,
            )
        )
    cpu = [
        (point.workers, value)
        for point in points
        if (value := point.cpu_seconds_per_million(workload)) is not None
    ]
    if cpu:
        found.append(
            chart(
                "Broker CPU",
                "seconds per million messages",
                [Series("CPU", "one", cpu)],
                ticks,
                lambda y: f"{y:.3g} s",
            )
        )
    if len(points) > 1:
        base = points[0].rate(workload) or 1.0
        found.append(
            chart(
                "Speed-up", f"times {points[0].workers} worker{'s' if points[0].workers > 1 else ''}",
                [Series("measured", "one", [(point.workers, point.rate(workload) / base) for point in points])],
                ticks, lambda y: f"{y:.2g}",
            )
        )  # fmt: skip
    return found


HEADINGS = (
    "workers",
    "messages/s",
    "range",
    "speed-up",
    "p50",
    "p99",
    "CPU s/million",
    "crossings",
    "bound by",
)


def cells(made: Sweep, point: Point) -> list[str]:
    """A row of the table, here and on the terminal."""
    workload = made.workload
    rates = point.rates(workload)
    base = made.measured()[0].rate(workload)
    times = point.times()
    cpu, cross = point.cpu_seconds_per_million(workload), point.cross_shard(workload)
    return [
        str(point.workers),
        number(point.rate(workload)),
        f"{number(min(rates))}..{number(max(rates))}",
        f"{point.rate(workload) / base:.2f}" if base else "",
        duration(times.percentile(50) / 1e3) if times.count else "",
        duration(times.percentile(99) / 1e3) if times.count else "",
        f"{cpu:.3g}" if cpu is not None else "",
        f"{cross:.2f}" if cross is not None else "",
        point.bound_by(),
    ]


def _table(made: Sweep, points: list[Point], advice: Advice) -> str:
    rows = [f"<tr>{''.join(f'<th>{heading}</th>' for heading in HEADINGS)}</tr>"]
    for point in points:
        best = " class=best" if point.workers == advice.knee else ""
        rows.append(f"<tr{best}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells(made, point))}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _loads(made: Sweep, points: list[Point]) -> str:
    """Of several loads each one's own rate."""
    head = "".join(f"<th>{point.workers} worker{'s' if point.workers > 1 else ''}</th>" for point in points)
    rows = [f"<tr><th>load</th><th>share</th>{head}</tr>"]
    for i, part in enumerate(made.workload.parts):
        each = [[one.published / one.seconds for one in point.throughput[i]] for point in points]
        rates = "".join(f"<td>{number(float(np.median(found))) if found else ''}</td>" for found in each)
        rows.append(f"<tr><td>{escape(part.load.describe())}</td><td>{part.share:.0%}</td>{rates}</tr>")
    return f"<h2>Each load alone</h2><div class=wide><table>{''.join(rows)}</table></div>"


def _law(advice: Advice) -> str:
    law = advice.fit
    if law is None:
        return (
            f"<p><b>Not fitted:</b> it needs {COUNTS_TO_FIT} worker counts at least, and a rate at each. Measure on a machine "
            "with more cores.</p>"
        )
    peak = f"{law.peak:.1f} workers" if law.peak < 1e4 else "none: no crosstalk was found"
    warning = f"<p class=doubts><b>Careful:</b> {escape(law.warning)}.</p>" if law.warning else ""
    return (
        f"{warning}<dl><dt>one worker</dt><dd>{number(law.single)} messages/s</dd>"
        f"<dt>contention (serial share)</dt><dd>{law.serial:.4f}</dd><dt>crosstalk</dt><dd>{law.crosstalk:.6f}</dd>"
        f"<dt>greatest throughput at</dt><dd>{peak}</dd>"
        f"<dt>quality</dt><dd>R² {law.r_squared:.3f}, off by {law.error:.1%} on average, {law.counts} worker counts</dd></dl>"
    )
