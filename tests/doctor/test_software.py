"""Whether the compiled modules are of one piece, on packages that are broken on purpose; and the libraries."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from shardbroker.doctor import software

SUFFIX = EXTENSION_SUFFIXES[0]


def test_this_installation() -> None:
    assert software.versions().level == "ok"
    assert software.libraries().level == "ok"
    found = software.extensions()
    assert found.level != "fail", found.found
    assert software.import_all(["shardbroker.hot.engine"], software.PACKAGE.parent) == []


@pytest.fixture
def package(tmp_path: Path) -> Callable[..., Path]:
    """A package `broken` with one source, and its module with this content."""

    def make(module: bytes | None) -> Path:
        directory = tmp_path / "broken"
        directory.mkdir()
        (directory / "__init__.py").write_text("")
        (directory / "part.pyx").write_text('"""A part."""\n')
        if module is not None:
            (directory / f"part{SUFFIX}").write_bytes(module)
        return directory

    return make


def test_a_module_that_was_not_built(package: Callable[..., Path]) -> None:
    found = software.extensions(package(None))
    assert (found.level, found.values["modules"]) == ("fail", ["broken.part"])
    assert "not built for this Python" in found.found


def test_a_module_that_cannot_be_loaded(package: Callable[..., Path]) -> None:
    found = software.extensions(package(b"no object file"))
    assert found.level == "fail"
    assert "cannot be imported: broken.part: ImportError" in found.found


def test_a_module_whose_neighbour_is_of_another_build(tmp_path: Path) -> None:
    """The engine imports types of its neighbours; one that another Python file stands for has none of them."""
    copy = tmp_path / "shardbroker"
    shutil.copytree(software.PACKAGE, copy, ignore=shutil.ignore_patterns("*.c", "__pycache__"))
    module = software.module_of(copy / "hot" / "sublist.pyx")
    assert module is not None
    shutil.copy(software.module_of(copy / "hot" / "memory.pyx") or "", module)
    failed = software.import_all(["shardbroker.hot.engine"], tmp_path)
    assert len(failed) == 1
    assert failed[0].startswith("shardbroker.hot.engine: ")


def test_a_module_that_crashes_the_interpreter(tmp_path: Path) -> None:
    (tmp_path / "crash.py").write_text("import os\nos.kill(os.getpid(), 4)\n")
    assert software.import_all(["crash"], tmp_path) == ["the import ended with status -4"]


def test_a_module_that_is_older_than_its_source(package: Callable[..., Path], tmp_path: Path) -> None:
    directory = package(b"")
    source = directory / "part.pyx"
    os.utime(source, (1e9, 1e9))
    os.utime(directory / f"part{SUFFIX}", (1e9 - 1, 1e9 - 1))
    assert software.stale(directory) == []  # no source tree: the order of times says nothing
    (tmp_path / "pyproject.toml").write_text("")
    assert software.stale(directory) == ["part.pyx"]
    os.utime(directory / f"part{SUFFIX}", (1e9 + 1, 1e9 + 1))
    assert software.stale(directory) == []


def test_a_module_that_is_not_as_it_was_installed(
    package: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = package(b"as installed")
    module = directory / f"part{SUFFIX}"
    info = tmp_path / "broken-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (info / "RECORD").write_text(f"broken/part{SUFFIX},sha256={software.digest(module, 'sha256')},12\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert software.changed(directory) == []
    module.write_bytes(b"not that any more")
    assert software.changed(directory) == [f"broken/part{SUFFIX}"]
    module.unlink()
    assert software.changed(directory) == [f"broken/part{SUFFIX}: missing"]


@pytest.mark.parametrize(
    ("line", "name", "bound"),
    [("orjson>=3.10", "orjson", "3.10"), ("bcrypt", "bcrypt", ""), ("numpy >= 1.26, <3", "numpy", "1.26")],
)
def test_requirements(line: str, name: str, bound: str) -> None:
    assert software.requirement(line) == (name, bound)


@pytest.mark.parametrize(
    ("a", "b", "older"),
    [("3.9", "3.10", True), ("3.10.0", "3.10", False), ("4", "4.0.1", True), ("0.30.0rc1", "0.30", False)],
)
def test_versions_are_compared_by_number(a: str, b: str, older: bool) -> None:
    assert (software.numbers(a) < software.numbers(b)) == older


def test_libraries_that_are_missing_or_old(monkeypatch: pytest.MonkeyPatch) -> None:
    present = {"orjson": "3.9", "click": "8.2"}
    monkeypatch.setattr(
        importlib.metadata,
        "requires",
        lambda name: ["orjson>=3.10", "click>=8.1", "lark", 'pytest>=8; extra == "test"'],
    )

    def version(name: str) -> str:
        if name not in present:
            raise importlib.metadata.PackageNotFoundError(name)
        return present[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = software.libraries()
    assert (found.level, found.found) == ("fail", "orjson 3.9 is older than 3.10; lark is missing")
