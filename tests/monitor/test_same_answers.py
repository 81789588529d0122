"""Monitoring says what nats-server says: fields, their order and types, words of errors, statuses. Recorded by
tools/monitor_diff.py from nats-server 2.15.3; what is left out of the comparison, and why, is said there."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from monitor_diff import CONFIG, PATHS, answers, unlike

from harness import Broker

RECORDED = Path(__file__).with_name("nats_server.json")
pytestmark = pytest.mark.ours


def test_as_recorded(fresh_broker: Callable[..., Broker], tmp_path: Path) -> None:
    config = re.sub(r"^listen: .*$", "", CONFIG.format(directory=f"{tmp_path}/js"), flags=re.M)
    broker = fresh_broker(config=config)
    http = re.search(r"Starting http monitor on 127\.0\.0\.1:(\d+)", broker.log())
    assert http

    async def ask() -> dict[str, object]:
        async with asyncio.timeout(120):
            return await answers(broker.port, int(http[1]))

    ours, theirs = asyncio.run(ask()), json.loads(RECORDED.read_text())
    assert set(theirs) == set(PATHS)
    different = ["\n".join([path, *lines]) for path in PATHS if (lines := unlike(ours[path], theirs[path]))]
    assert not different, "\n".join(different)
