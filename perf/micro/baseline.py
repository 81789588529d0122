"""What was counted once: perf/micro/baselines/<architecture>-<compiler>.json, and to which builds it applies.

Instruction counts depend on the compiler, on Cython, which writes the C, and on the C library and the processor's vector
width, which choose memcpy and memcmp. A baseline is for one set of these; on any other it says nothing, and that is said.
"""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Any

import Cython
import orjson

from perf.micro import counting

DIRECTORY = Path(__file__).resolve().parent / "baselines"


def conditions() -> dict[str, str]:
    """What instruction counts depend on besides our source."""
    flags = set(re.findall(r"^(?:flags|Features)\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)[0].split())
    return {
        "architecture": platform.machine(),
        "compiler": counting.COMPILER,
        "cython": ".".join(Cython.__version__.split(".")[:2]),
        "libc": " ".join(platform.libc_ver()),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "vectors": "avx2" if "avx2" in flags else "sse2" if "sse2" in flags else "neon",
    }


def path_of(what: dict[str, str]) -> Path:
    """One file an architecture and compiler version."""
    compiler = re.match(r"\w+ [\d.]+", what["compiler"])
    name = f"{what['architecture']}-{compiler.group() if compiler else 'unknown'}".replace(" ", "-")
    return DIRECTORY / f"{name}.json"


def load(what: dict[str, str]) -> tuple[dict[str, float], str]:
    """The baseline for these conditions, or ({}, why there is none)."""
    path = path_of(what)
    if not path.is_file():
        return {}, f"no baseline was recorded for {what['architecture']} and {what['compiler']}"
    kept: dict[str, Any] = orjson.loads(path.read_bytes())
    other = {key: (kept["conditions"].get(key), what[key]) for key in what if kept["conditions"].get(key) != what[key]}
    if other:
        differences = ", ".join(f"{key} was {before}, is {now}" for key, (before, now) in other.items())
        return {}, f"{path.name} was recorded under other conditions: {differences}"
    return kept["instructions"], ""


def save(what: dict[str, str], instructions: dict[str, float]) -> Path:
    """Write it, sorted as counted."""
    path = path_of(what)
    path.parent.mkdir(exist_ok=True)
    kept = {"conditions": what, "instructions": {name: round(count, 2) for name, count in instructions.items()}}
    path.write_bytes(orjson.dumps(kept, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    return path
