"""Which way core dumps are forbidden, by what the kernel does with them; and the way back."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from shardbroker.ipc.cores import forbids

UNLIMITED = resource.RLIM_INFINITY
# Prints the soft limit and whether the process is dumpable: as forbidden, in a child, and as allowed again.
SHOW = """
import ctypes, os, resource, sys
from shardbroker.ipc import cores

def show():
    print(resource.getrlimit(resource.RLIMIT_CORE)[0], ctypes.CDLL(None).prctl(cores.PR_GET_DUMPABLE, 0), flush=True)

cores.forbid(sys.argv[1])
show()
if os.fork() == 0:
    show()
    os._exit(0)
os.wait()
cores.allow()
show()
"""


@pytest.mark.parametrize(
    ("pattern", "soft", "expected"),
    [
        ("core", UNLIMITED, False), ("core", 0, True), ("core", 1, True), ("core", 1 << 20, False), ("", 1, True),
        # A program gets the core whatever the limit says, unless it says 1.
        ("|/usr/lib/systemd/systemd-coredump %P", UNLIMITED, False), ("|/bin/x", 0, False), ("|/bin/x", 1, True),
        # A socket gets it always.
        ("@/run/cores.socket", 1, False), ("@@/run/cores.socket", 0, False), (None, 0, False), (None, 1, False),
    ],
)  # fmt: skip
def test_what_a_limit_forbids(pattern: str | None, soft: int, expected: bool) -> None:
    assert forbids(pattern, soft) is expected


@pytest.mark.parametrize(
    ("pattern", "hard_zero", "forbidden"),
    [
        ("core", False, "1 1"), ("/var/crash/%p", True, "0 1"), ("|/bin/x %c", False, "1 1"), ("|/bin/x %c", True, "0 0"),
        ("@/run/cores.socket", False, "1 0"), (None, False, "1 0"),
    ],
)  # fmt: skip
def test_forbidden_inherited_and_allowed_again(
    tmp_path: Path, pattern: str | None, hard_zero: bool, forbidden: str
) -> None:
    hard = 0 if hard_zero else resource.getrlimit(resource.RLIMIT_CORE)[1]
    if hard == 0 and not hard_zero:
        pytest.skip("this machine's own hard limit is 0")
    file = tmp_path / "core_pattern"
    if pattern is not None:
        file.write_text(pattern + "\n")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))

    done = subprocess.run(
        [sys.executable, "-c", SHOW, str(file)], capture_output=True, text=True, check=True, preexec_fn=limit, timeout=120
    )
    assert done.stdout.splitlines() == [forbidden, forbidden, f"{hard} 1"]
