"""Instructions per operation of the micro cases: one Python under callgrind, two lengths of each, the difference.

    (instructions of MANY passes - instructions of FEW passes) / (operations of a pass x (MANY - FEW))

User mode only, no cache simulation; a system call is one instruction. The same build gives the same figure to about
one in ten thousand, on a busy machine as on a quiet one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from perf.micro import counting
from perf.micro.counted import FEW, MANY
from perf.servers import ROOT

SECONDS_MAX = 1800
# memcpy of some KiB and more is `rep movsb` otherwise, which callgrind counts byte by byte.
GLIBC_TUNABLES = "GLIBC_TUNABLES=glibc.cpu.x86_rep_movsb_threshold=0x40000000"


class CannotCount(Exception):
    """There is no callgrind here, or it does not run: the text says why."""


def check_callgrind() -> None:
    """CannotCount when instructions cannot be counted on this machine."""
    if not shutil.which("valgrind"):
        raise CannotCount("valgrind is not installed (apt install valgrind)")
    if not counting.HAVE_CALLGRIND:
        raise CannotCount("perf/ was built without valgrind/callgrind.h: install valgrind, then perf/build -f")
    tried = subprocess.run(["valgrind", "--tool=none", "-q", "true"], capture_output=True, text=True)
    if tried.returncode:
        raise CannotCount(f"valgrind does not run here: {tried.stderr.strip()[-300:]}")


def count(names: Sequence[str]) -> dict[str, float]:
    """Instructions per operation of each case. CannotCount; RuntimeError when a case fails its own check."""
    check_callgrind()
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryDirectory(prefix="perf-callgrind-") as directory:
        done = subprocess.run(
            ["env", GLIBC_TUNABLES, "valgrind", "--tool=callgrind", "--instr-atstart=no", "--quiet",
             f"--callgrind-out-file={directory}/out", sys.executable, "-m", "perf.micro.counted", *names],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS_MAX,
        )
        if done.returncode:
            raise RuntimeError(f"perf.micro.counted ended with {done.returncode}: {done.stderr.strip()[-1500:]}")
        found: dict[str, dict[int, int]] = defaultdict(dict)
        operations: dict[str, int] = {}
        for path in Path(directory).iterdir():
            text = path.read_text(errors="replace")
            label = re.search(r"^desc: Trigger: Client Request: (\S+)/(\d+)/(\d+)$", text, re.M)
            totals = re.findall(r"^(?:totals|summary): (\d+)", text, re.M)
            if label and totals:
                found[label.group(1)][int(label.group(2))] = int(totals[-1])
                operations[label.group(1)] = int(label.group(3))
    missing = [name for name in names if set(found[name]) != {FEW, MANY}]
    if missing:
        raise RuntimeError(f"callgrind left no figures of {', '.join(missing)}")
    return {
        name: (found[name][MANY] - found[name][FEW]) / ((MANY - FEW) * operations[name]) for name in names
    }
