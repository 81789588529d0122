"""The installation itself: versions, libraries, and whether the compiled parts are of one piece.

Imports nothing that is compiled: that they cannot be imported is one of the things to be found out.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final

import shardbroker
from shardbroker.doctor.finding import Finding

PACKAGE: Final = Path(shardbroker.__file__).resolve().parent
PYTHON_MIN: Final = (3, 11)
KERNEL_MIN: Final = (5, 4)  # pidfd_open of children, and what containers run on
IMPORT_SECONDS: Final = 60.0

# Cython checks the types and signatures that modules share when they are imported; a type that has grown is only warned of.
_IMPORT_ALL: Final = """
import importlib, sys, warnings
warnings.filterwarnings("error", ".*size changed.*")
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException as error:
        print(f"{name}: {type(error).__name__}: {error}".splitlines()[0])
"""


def versions() -> Finding:
    release = platform.release()
    kernel = tuple(map(int, re.findall(r"\d+", release)[:2]))
    python = platform.python_version()
    values: dict[str, object] = {
        "shardbroker": shardbroker.__version__, "python": python, "kernel": release, "machine": platform.machine(),
    }  # fmt: skip
    found = f"shardbroker {shardbroker.__version__}, Python {python}, Linux {release}, {platform.machine()}"
    means = "What it runs on"
    if sys.platform != "linux":
        return Finding(
            "versions", "fail", found, "It needs Linux: epoll, eventfd, pidfd", "Use Linux", values
        )
    if sys.version_info < PYTHON_MIN:
        return Finding("versions", "fail", found, "It needs Python 3.11", "Install with a newer one", values)
    if kernel < KERNEL_MIN:
        means = f"Kernels before {'.'.join(map(str, KERNEL_MIN))} lack calls that it needs"
        return Finding("versions", "fail", found, means, "Use a newer kernel", values)
    return Finding("versions", "ok", found, means, values=values)


def libraries() -> Finding:
    """The distributions that ours requires, by its own metadata."""
    means = "Libraries that the control side is built on"
    try:
        required = importlib.metadata.requires("shardbroker") or []
    except importlib.metadata.PackageNotFoundError:
        return Finding("libraries", "ok", "not installed as a distribution; run from its source tree", means)
    wrong, present = [], {}
    for line in required:
        if "extra ==" in line:
            continue
        name, bound = requirement(line)
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        present[name] = version
        if bound and numbers(version) < numbers(bound):
            wrong.append(f"{name} {version} is older than {bound}")
    values = {"versions": [f"{name} {version}" for name, version in present.items()]}
    if wrong:
        do = "Install it again with pip, which brings them along"
        return Finding("libraries", "fail", "; ".join(wrong), means, do, values)
    return Finding("libraries", "ok", f"all {len(present)} present", means, values=values)


def requirement(line: str) -> tuple[str, str]:
    """("orjson", "3.10") of "orjson>=3.10"; the only form that ours has, beside a bare name."""
    name, _, bound = re.sub(r"[\s;].*", "", line.replace(" ", "")).partition(">=")
    return name, bound.partition(",")[0]


def numbers(version: str) -> tuple[int, ...]:
    """The release numbers of a version, without trailing zeros: 3.10 equals 3.10.0."""
    found = re.match(r"\d+(\.\d+)*", version)
    parts = [int(part) for part in found[0].split(".")] if found else []
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def extensions(package: Path = PACKAGE) -> Finding:
    """Each source has a module made for this interpreter, of the same build as the others, and not changed since."""
    sources = sorted(package.rglob("*.pyx"))
    names = {
        ".".join((package.name, *path.relative_to(package).with_suffix("").parts)): path for path in sources
    }
    missing = [name for name, path in names.items() if module_of(path) is None]
    means = "The data path; parts of two builds would disagree on what lies where in memory"
    rebuild = "pip install --force-reinstall shardbroker; in a source tree, tools/build"
    if missing:
        suffix = EXTENSION_SUFFIXES[0]
        return _bad("not built for this Python (" + suffix + ")", missing, means, rebuild)
    failed = import_all(list(names), package.parent)
    if failed:
        return _bad("cannot be imported", failed, means, rebuild)
    if broken := changed(package):
        return _bad("not as installed", broken, means, rebuild)
    if old := stale(package):
        return _bad("older than its source", old, means, rebuild, fails=False)
    return Finding(
        "extensions", "ok", f"{len(names)} modules, of one build", means, values={"modules": len(names)}
    )


def _bad(what: str, which: list[str], means: str, do: str, *, fails: bool = True) -> Finding:
    some = ", ".join(which[:3]) + (f" and {len(which) - 3} more" if len(which) > 3 else "")
    return Finding(
        "extensions", "fail" if fails else "warn", f"{what}: {some}", means, do, {"modules": which}
    )


def module_of(source: Path) -> Path | None:
    """The compiled module of a source that this interpreter would load."""
    for suffix in EXTENSION_SUFFIXES:
        if (path := source.with_suffix(suffix)).is_file():
            return path
    return None


def import_all(names: Iterable[str], top: Path) -> list[str]:
    """What goes wrong when all are imported, in a process of its own: one that was built for another processor crashes."""
    command = [sys.executable, "-c", _IMPORT_ALL, *names]
    try:
        done = subprocess.run(
            command, cwd=top, capture_output=True, text=True, timeout=IMPORT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return [f"the import does not end within {IMPORT_SECONDS:g} s"]
    found = done.stdout.splitlines()
    if done.returncode:
        found.append(f"the import ended with status {done.returncode}")
    return found


def changed(package: Path) -> list[str]:
    """Compiled modules whose digest is not the one that was recorded when they were installed (PEP 376, RECORD)."""
    try:
        distribution = importlib.metadata.distribution(package.name)
    except importlib.metadata.PackageNotFoundError:
        return []
    found = []
    for file in distribution.files or ():
        path = Path(str(file.locate()))
        if path.suffix != ".so" or file.hash is None or package not in path.resolve().parents:
            continue
        if not path.is_file():
            found.append(f"{file}: missing")
        elif digest(path, file.hash.mode) != file.hash.value:
            found.append(str(file))
    return found


def digest(path: Path, mode: str) -> str:
    """As RECORD has it: urlsafe base64 without padding."""
    return base64.urlsafe_b64encode(hashlib.new(mode, path.read_bytes()).digest()).rstrip(b"=").decode()


def stale(package: Path) -> list[str]:
    """In a source tree: modules that are older than their own source. An installed copy has no such order of times."""
    if not (package.parent / "pyproject.toml").is_file():
        return []
    found = []
    for source in sorted(package.rglob("*.pyx")):
        module = module_of(source)
        inputs = [path for path in (source, source.with_suffix(".pxd")) if path.is_file()]
        if module is not None and module.stat().st_mtime < max(path.stat().st_mtime for path in inputs):
            found.append(str(source.relative_to(package)))
    return found
