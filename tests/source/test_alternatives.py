"""The C programs of perf/alternatives are here, compile without a warning, and carry what they are given."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[2] / "perf/alternatives"
COMPILER = shutil.which("cc") or shutil.which("gcc")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler")


def built(name: str, directory: Path) -> str:
    program = directory / name
    done = subprocess.run(
        [str(COMPILER), "-O2", "-Wall", "-Wextra", "-Werror", str(HERE / f"{name}.c"), "-o", str(program)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return str(program)


def numbers(program: str, *words: str) -> list[int]:
    done = subprocess.run([program, *words], capture_output=True, text=True, timeout=60)
    if done.returncode == 3:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def test_arena(tmp_path: Path) -> None:
    program = built("arena", tmp_path)
    for design in ("inline", "arena"):
        # Rings of 4 MiB are gone round several times.
        assert numbers(program, design, "3", "16384", "all", "2000")[0] == 6000
        assert numbers(program, design, "3", "100", "one", "90000")[0] == 90_000


@pytest.mark.parametrize("design", ["sendmsg", "uring", "sqpoll"])
def test_uring(tmp_path: Path, design: str) -> None:
    assert numbers(built("uring", tmp_path), design, "6400", "20")[0] == 64 * 20
