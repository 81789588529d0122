"""What nats-server answers to some hundred requests, and we: as recorded (nats_server.json), and live where one is found.

tools/jetstream_cases.py has the requests, tools/jetstream_diff.py what may differ. A nats-server of 2.12 or later is
looked for in $SHARDBROKER_REFERENCE_SERVER and on PATH.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jetstream_diff import CASES, differences, run_case

from harness import Broker

RECORDED: dict[str, list[Any]] = json.loads((Path(__file__).parent / "nats_server.json").read_text())
REFERENCE = os.environ.get("SHARDBROKER_REFERENCE_SERVER") or shutil.which("nats-server") or ""


def is_new_enough(executable: str) -> bool:
    said = subprocess.run([executable, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"v(\d+)\.(\d+)\.", said)
    return found is not None and (int(found[1]), int(found[2])) >= (2, 12)


@pytest.fixture(scope="module")
def own(workers: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker whose account is empty before each case."""
    directory = tmp_path_factory.mktemp(f"same{workers}-")
    with Broker(directory, workers=workers, args=["-js", "-sd", str(directory / "store")]) as broker:
        yield broker


@pytest.mark.ours
@pytest.mark.parametrize("case", CASES)
def test_as_recorded(own: Broker, case: str) -> None:
    mine = asyncio.run(run_case(CASES[case], f"nats://127.0.0.1:{own.port}", expected=RECORDED[case]))
    found = differences(case, mine, RECORDED[case])
    assert not found, "\n".join(found)


@pytest.mark.ours
@pytest.mark.skipif(
    not REFERENCE or not is_new_enough(REFERENCE), reason="no nats-server of 2.12 or later to compare with"
)
@pytest.mark.parametrize("case", CASES)
def test_as_live(own: Broker, case: str, tmp_path: Path) -> None:
    args = ["-js", "-sd", str(tmp_path / "store")]
    with Broker(tmp_path / "reference", args=args, executable=[REFERENCE]) as reference:
        other = asyncio.run(run_case(CASES[case], f"nats://127.0.0.1:{reference.port}"))
    mine = asyncio.run(run_case(CASES[case], f"nats://127.0.0.1:{own.port}", expected=other))
    found = differences(case, mine, other)
    assert not found, "\n".join(found)
