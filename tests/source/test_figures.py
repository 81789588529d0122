"""The figures that users read are those of the newest results file, as perf.figures enters them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import orjson
import pytest

from perf import figures
from perf.servers import ROOT


@pytest.mark.parametrize("name", [figures.CHART, "README.md", "docs/performance.md"])
def test_figures_are_of_the_newest_results(name: str) -> None:
    """After a comparison that is kept: python -m perf.figures."""
    record = orjson.loads(figures.newest().read_bytes())
    assert (ROOT / name).read_text() == figures.files(record, figures.with_others(record))[name]


def test_the_chart_has_a_bar_for_every_ratio() -> None:
    record = orjson.loads(figures.newest().read_bytes())
    others = figures.with_others(record)
    drawing = ElementTree.fromstring(figures.picture(record, others))
    ns = "{http://www.w3.org/2000/svg}"
    bars = [one for one in drawing.iter(f"{ns}rect") if one.get("height") == "8"]
    rows = figures.rows(record, others)
    assert len(bars) == sum(value is not None for _, values in rows for value in values)
    words = {one.text for one in drawing.iter(f"{ns}text")}
    assert {name for name, _ in rows} <= words


def test_a_result_without_a_failed_run() -> None:
    """What is shown was checked message by message."""
    record = orjson.loads(figures.newest().read_bytes())
    assert record["failures"] == figures.with_others(record)["failures"] == []
