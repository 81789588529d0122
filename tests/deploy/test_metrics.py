"""Alerts and dashboards ask for metrics that the broker has, in words that Prometheus understands."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.tools import run, tool
from harness import Broker, wait_until

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
BOARDS = sorted((DEPLOY / "grafana").glob("*.json"))


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panels(board: Path) -> Iterator[dict[str, Any]]:
    for panel in json.loads(board.read_text())["panels"]:
        if panel["type"] != "row":
            yield panel


def expressions() -> dict[str, str]:
    """What is asked for where, with Grafana's variables filled in."""
    found = {f"alert {rule['alert']}": rule["expr"] for rule in rules()}
    for board in BOARDS:
        for panel in panels(board):
            for target in panel["targets"]:
                expr = (
                    target["expr"]
                    .replace("$__rate_interval", "1m")
                    .replace("$instance", ".*")
                    .replace("$shard", ".*")
                )
                assert "$" not in expr
                found[f"{board.stem} {panel['title']} {target['refId']}"] = expr
    return found


METRIC = re.compile(r"\b(?:shardbroker|gnatsd|jetstream)_[a-z0-9_]+\b")


def test_promtool_reads_alerts_and_configuration() -> None:
    promtool = tool("promtool")
    run(promtool, "check", "rules", str(ALERTS))
    run(promtool, "check", "config", str(DEPLOY / "prometheus" / "prometheus.yml"))


def test_alerts_fire_when_they_should() -> None:
    run(tool("promtool"), "test", "rules", str(Path(__file__).with_name("alerts_test.yml")))


def test_promtool_reads_what_the_boards_ask(tmp_path: Path) -> None:
    promtool = tool("promtool")
    asked = [{"record": f"a{n}", "expr": expr} for n, expr in enumerate(expressions().values())]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "boards", "rules": asked}]}))
    run(promtool, "check", "rules", str(path))


def test_alerts_say_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names)) >= 10
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "description"}


@pytest.mark.parametrize("board", BOARDS, ids=lambda path: path.stem)
def test_boards(board: Path) -> None:
    body = json.loads(board.read_text())
    assert body["uid"] == f"shardbroker-{board.stem}"
    every = body["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    taken: set[tuple[int, int]] = set()
    for panel in every:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    for panel in panels(board):
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["targets"]
    for link in body["links"]:
        assert link["url"].rpartition("-")[2] in {other.stem for other in BOARDS}


def test_every_metric_that_is_asked_for_is_there(fresh_broker: Callable[..., Broker], tmp_path: Path) -> None:
    ports = tmp_path / "ports"
    ports.mkdir()
    config = f'jetstream {{ store_dir: "{tmp_path}/js" }}\n'
    fresh_broker(args=["-m", "-1", "--ports_file_dir", str(ports)], config=config)
    file = wait_until(lambda: next(ports.glob("*.ports"), None), "the ports file")
    url = wait_until(lambda: json.loads(file.read_bytes()), "the ports")["monitoring"][0]
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    there = set(METRIC.findall(text))
    # Listeners with TLS only.
    there.add("shardbroker_tls_certificate_expiry_seconds")
    for where, expr in expressions().items():
        missing = set(METRIC.findall(expr)) - there
        assert not missing, f"{where}: {missing}"
