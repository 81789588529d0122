"""What the repository says of itself is true: extensions, types, the README's table, no trace of one machine."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
PACKAGE = TOP / "shardbroker"
SOURCES = sorted(PACKAGE.rglob("*.pyx"))
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())

# A row of the README's table: | what happens | `file` | `function` ... |
TABLE_ROW = re.compile(r"^\|(?P<what>[^|]*)\|\s*`(?P<file>[^`|]+)`\s*\|(?P<functions>[^|]*)\|", re.MULTILINE)
# Absolute paths of one machine, and addresses of package registries.
ONE_MACHINE = re.compile(
    rb"(^|[^A-Za-z0-9_.~-])/(work|farm|root|home/[a-z]+)/"
    rb"|https?://[^\s]*(/simple\b|registry|goproxy|index-url)"
    rb"|\bpypi\.|\bfiles\.pythonhosted",
    re.MULTILINE,
)


def tracked() -> list[Path]:
    """Every file of the repository; skips where there is none (an unpacked archive)."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=TOP, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("no git repository here")
    return [TOP / name for name in listed.stdout.decode().split("\0") if name and (TOP / name).is_file()]


def test_every_extension_is_declared_and_every_declaration_has_a_source() -> None:
    declared = {module["name"]: module["sources"] for module in PROJECT["tool"]["setuptools"]["ext-modules"]}
    here = {
        ".".join(path.relative_to(TOP).with_suffix("").parts): [str(path.relative_to(TOP))]
        for path in SOURCES
    }
    assert declared == here


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_compiled_module_has_a_docstring_and_types(path: Path) -> None:
    code = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).lstrip()
    assert code.startswith('"""'), "its file opens with what it does and who calls it"
    stub = path.with_suffix(".pyi")
    assert stub.is_file(), "mypy needs its types"
    ast.parse(stub.read_text())


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_python_module_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not tree.body or ast.get_docstring(tree)


def readme_rows() -> list[tuple[str, list[str]]]:
    rows = TABLE_ROW.finditer((TOP / "README.md").read_text())
    return [(row["file"], re.findall(r"`([A-Za-z_.]+)`", row["functions"])) for row in rows]


def test_readme_has_its_table() -> None:
    assert len(readme_rows()) >= 10


@pytest.mark.parametrize(("file", "functions"), readme_rows())
def test_file_and_functions_of_the_readme_exist(file: str, functions: list[str]) -> None:
    """The tour of a PUB names a file and the functions that are defined in it."""
    path = PACKAGE / file
    assert path.is_file()
    assert functions
    text = path.read_text()
    for function in functions:
        name = function.rpartition(".")[2]
        assert re.search(
            rf"^\s*(c?def|cdef inline|async def|class)\b[^=\n]*\b{name}\s*\(", text, re.MULTILINE
        ), name


@pytest.mark.parametrize(
    "document", ["README.md", *sorted(str(p.relative_to(TOP)) for p in TOP.glob("docs/*.md"))]
)
def test_links_and_files_of_the_documents_exist(document: str) -> None:
    path = TOP / document
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
        assert (path.parent / target).exists(), target
    # Files of ours named in code marks: hot/engine.pyx, tools/build
    for name in re.findall(r"`((?:hot|shm|shard|front|control|wire|ipc|auth|monitor|cli)/[\w/]+\.\w+)", text):
        assert (PACKAGE / name).exists(), name
    for name in re.findall(r"`((?:tools|tests|perf|docs)/[\w/.]+\w)`", text):
        assert (TOP / name).exists(), name


def test_nothing_names_one_machine_or_a_package_registry() -> None:
    found = [
        f"{path.relative_to(TOP)}: {hit[0]!r}"
        for path in tracked()
        if path != Path(__file__)
        for hit in ONE_MACHINE.finditer(path.read_bytes())
    ]
    assert found == []


def test_nothing_that_is_built_is_kept() -> None:
    built = {".so", ".c", ".pyc", ".o", ".egg-info"}
    written = TOP / "perf/alternatives"  # programs in C of our own
    assert [str(path) for path in tracked() if path.suffix in built and path.parent != written] == []


def test_the_tests_that_security_names_are_there() -> None:
    named, last = 0, ""
    for file, test in re.findall(r"`(tests/[\w/]+\.py)?(?:::(\w+))?`", (TOP / "docs/security.md").read_text()):
        last = file or last
        if file or test:
            named += 1
            assert f"def {test}" in (TOP / last).read_text(), (last, test)
    assert named > 50
