"""The broker with one constant changed, or linked as one extension, beside the broker as it is.

    python -m perf.alternatives.variants receive       # bytes of one read: 32 to 512 KiB
    python -m perf.alternatives.variants reference     # from which payload bytes are referred to instead of copied
    python -m perf.alternatives.variants extension     # all of hot/, shm/ and shard/ linked into one, optimised as a whole
    python -m perf.alternatives.variants spin          # --spin before sleeping, 1 to 3 workers

A variant is a copy of the tree under build/variants, made once (--fresh makes it anew after a change of the tree), edited
and built. The loads then run on all of them in turn, as in perf.compare. Medians are kept in
perf/results/alternatives/<question>.json.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from perf.compare import choose, compare, medians, number, output
from perf.load.shapes import Shape
from perf.servers import ROOT
from shardbroker.bench.machine import machine

VARIANTS = ROOT / "build/variants"
COPIED = ("shardbroker", "perf", "tools", "pyproject.toml", "README.md", "LICENSE")
FLAGS = ("-O3", "-fPIC", "-w", "-flto=auto", "-fvisibility=hidden")
PARTS = ("shm", "hot", "shard")
DEFINITION = re.compile(r"^static [^;={}]*\b(__pyx_f_\w+)\([^;{}]*\) \{", re.M)


def tree(name: str, fresh: bool) -> tuple[Path, bool]:
    """A copy of what is built, and whether it is new."""
    made = VARIANTS / name
    if made.is_dir() and not fresh:
        return made, False
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    for part in COPIED:
        subprocess.run(["cp", "-a", str(ROOT / part), str(made / part)], check=True)
    return made, True


def edited(name: str, file: str, pattern: str, replacement: str, fresh: bool) -> Path:
    """A tree with one line of one file changed, built."""
    made, new = tree(name, fresh)
    if new:
        path = made / file
        text, count = re.subn(pattern, replacement, path.read_text(), count=1)
        if count != 1:
            raise SystemExit(f"{file} has no {pattern}")
        path.write_text(text)
        stem = path.stem if path.suffix == ".pxd" else ""
        for source in made.glob("shardbroker/**/*.pyx"):
            if stem and re.search(rf"\b{stem} cimport .*", source.read_text()):
                source.touch()
        subprocess.run([str(made / "tools/build")], cwd=made, check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, env={**os.environ, "PYTHON": sys.executable})
    return made


def one_extension(fresh: bool) -> Path:
    """The same C, but functions that other modules call are external and called by name, and all is one library."""
    made, new = tree("one_extension", fresh)
    if not new:
        return made
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    sources = [path for part in PARTS for path in sorted((made / "shardbroker" / part).glob("*.c")) if path.stem != "probe"]
    texts = {path: path.read_text() for path in sources}
    imported = {name for text in texts.values() for name in re.findall(r"^static [^;{}=]*\(\*(__pyx_f_\w+)\)\(", text, re.M)}
    defined = {name for text in texts.values() for name in DEFINITION.findall(text)}
    shared = imported & defined
    for path, text in texts.items():
        own = set(DEFINITION.findall(text)) & shared
        for name in own:
            text = re.sub(rf"^static (?:CYTHON_INLINE )?([^;={{}}\n]*\b{name}\()", r"\1", text, flags=re.M)
        for name in shared - own:
            text = re.sub(rf"^static ([^;{{}}=\n]*)\(\*{name}\)(\([^;\n]*\));", rf"extern \1 {name}\2;", text, flags=re.M)
            text = text.replace(f"(void (**)(void))&{name},", "&sb_imported,")
        path.write_text("static void (*sb_imported)(void);\n" + text)
    library = made / f"shardbroker/_all{suffix}"
    include = sysconfig.get_path("include")
    subprocess.run(["cc", "-shared", *FLAGS, f"-I{include}", f"-I{made}", *map(str, sources), "-o", str(library)],
                   cwd=made, check=True)
    for path in sources:
        target = path.with_name(path.stem + suffix)
        target.unlink()
        target.symlink_to(library)
    return made


def spec_of(label: str, made: Path, more: str = "") -> str:
    """A server spec (perf/servers.py) of a tree."""
    return f"{label}=env PYTHONPATH={made} {sys.executable} -m shardbroker --workers 1 -a 127.0.0.1 -p {{port}} {more}"


def receive(fresh: bool) -> list[str]:
    made = [(f"{k}KiB", edited(f"receive_{k}", "shardbroker/shard/loop.pyx", r"RECEIVE_BYTES = 256 << 10",
                               f"RECEIVE_BYTES = {k} << 10", fresh)) for k in (32, 64, 128, 512)]
    return [spec_of("256KiB", ROOT), *(spec_of(*one) for one in made)]


def reference(fresh: bool) -> list[str]:
    made = [(f"{n}B", edited(f"reference_{n}", "shardbroker/hot/state.pxd", r"REFERENCE_BYTES = 2048",
                             f"REFERENCE_BYTES = {n}", fresh)) for n in (1024, 4096, 8192)]
    return [spec_of("2048B", ROOT), *(spec_of(*one) for one in made)]


def extension(fresh: bool) -> list[str]:
    return [spec_of("many", ROOT), spec_of("one", one_extension(fresh))]


def spin(fresh: bool) -> list[str]:
    return [f"shardbroker:{workers}{more}" for workers in (1, 2, 3)
            for more in ("", " --spin 10us", " --spin 50us", " --spin 200us")]


@dataclass(frozen=True)
class Question:
    specs: Callable[[bool], list[str]]
    loads: str


QUESTIONS = {
    "receive": Question(receive, "1x1_16,1x1_128,1x1_1024,1x1_16384,fan_out_1x8_16,fan_out_1x64_128"),
    "reference": Question(
        reference, ",".join(f"{shape}_{n}" for shape in ("1x1", "fan_out_1x8") for n in (1024, 2048, 4096, 8192))
    ),
    "extension": Question(extension, "pub_only_16,1x1_16,1x1_128,fan_out_1x8_16,mesh_4x4x16_64,request_reply"),
    "spin": Question(spin, "request_reply"),
}


def shapes_of(loads: str) -> list[Shape]:
    """Loads of the table, and `1x1_N` and `fan_out_1xF_N` of any size."""
    from perf.load.shapes import SHAPES, stream

    made = []
    for name in loads.split(","):
        found = re.fullmatch(r"(?:1x1|fan_out_1x(\d+))_(\d+)", name)
        if name in SHAPES or not found:
            made += choose([name])
        else:
            made.append(Shape(name, "msg/s", stream(int(found.group(2)), 1, int(found.group(1) or 1))))
    return made


def label(spec: str) -> str:
    return spec.partition("=")[0] if " -m shardbroker" in spec else spec


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m perf.alternatives.variants", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("question", choices=QUESTIONS)
    parser.add_argument("--fresh", action="store_true", help="make the variants anew")
    parser.add_argument("--build", action="store_true", help="only build")
    parser.add_argument("--loads", help="others than the question's")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5)
    given = parser.parse_args()
    question = QUESTIONS[given.question]
    specs = question.specs(given.fresh)
    if given.build:
        return 0
    options: dict[str, Any] = {"servers": specs, "repeat": given.repeat, "seconds": given.seconds, "threads": 1}
    console = Console(width=None if sys.stdout.isatty() else 120)
    kept: dict[str, Any] = {
        "taken": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "machine": machine(),
        "commit": output("git", "describe", "--always", "--dirty", "--exclude", "*"),
        "options": {**options, "servers": [label(spec) for spec in specs]}, "loads": {},
    }
    failed = False
    for shape in shapes_of(given.loads or question.loads):
        runs, failures = compare(shape, options, Console(stderr=True, quiet=True))
        failed = failed or bool(failures)
        found = {label(spec): medians(ones) for spec, ones in runs.items()}
        kept["loads"][shape.name] = found
        table = Table(title=f"{shape.name} ({shape.unit})", title_justify="left")
        for column in ("variant", "median", "ratio", "MAD", "CPU us each", "CPU ratio", "p50/p99 us"):
            table.add_column(column, justify="left" if column == "variant" else "right")
        first = next(iter(found.values()))
        for name, m in found.items():
            if shape.metric not in m:
                table.add_row(name, "failed")
                continue
            cpu = m.get("cpu_us_each")
            table.add_row(
                name, number(m[shape.metric]["median"]), f"{m[shape.metric]['median'] / first[shape.metric]['median']:.3f}",
                f"{m[shape.metric]['mad'] / m[shape.metric]['median']:.1%}", f"{cpu['median']:.4f}" if cpu else "",
                f"{cpu['median'] / first['cpu_us_each']['median']:.3f}" if cpu else "",
                f"{m['p50_us']['median']:.1f}/{m['p99_us']['median']:.1f}" if "p50_us" in m else "",
            )
        console.print(table)
        for failure in failures:
            console.print(f"FAILED {failure['server'][:60]}: {failure['reason'][:300]}", markup=False)
    path = ROOT / f"perf/results/alternatives/{given.question}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(kept, option=orjson.OPT_INDENT_2) + b"\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
