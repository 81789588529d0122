"""The source archive has every file of the repository but those that only the repository needs, and nothing that was built."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
# About the repository, not the program.
LEFT_OUT = (".ci/", ".editorconfig", ".git")
MADE = {"PKG-INFO", "setup.cfg"}


def test_the_source_archive(tmp_path: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=TOP, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("no git repository here")
    tracked = [name for name in listed.stdout.decode().split("\0") if name and (TOP / name).is_file()]
    # A copy, so that nothing is written beside the sources; with something that must stay outside.
    copy = tmp_path / "copy"
    for name in tracked:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TOP / name, copy / name)
    for name in ("shardbroker/hot/engine.c", "shardbroker/hot/engine.so", "tests/__pycache__/a.pyc"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).touch()
    code = f"import setuptools.build_meta as build; build.build_sdist({str(tmp_path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {member.name.partition("/")[2] for member in tar.getmembers() if member.isfile()}
    wanted = {name for name in tracked if not name.startswith(LEFT_OUT)}
    assert wanted - names == set()
    assert {name for name in names - wanted if ".egg-info/" not in name} == MADE
