#!/usr/bin/env python3
"""Check the floors of the house: a file imports, and cimports, only from lower floors and its own directory.

    tools/check_floors.py [top]      prints what breaks a rule, one line each; exit status 1 when there is any

Three walls stand beside the floors: atomics are used in shm/ only; asyncio is never in hot/, shm/ or wire/; hot/ knows
no socket. Comments and docstrings do not count. tests/source runs this; docs/architecture.md says what the floors are.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PACKAGE: Final = "shardbroker"

# From the ground up. What stands on one floor does not know its neighbours.
FLOORS: Final[tuple[tuple[str, ...], ...]] = (
    ("", "errors", "limits", "subject", "clock"),  # words and numbers; "" is the package itself
    ("transform", "subject_tree"),  # subjects made of subjects
    ("auth",),  # who may come in, and do what
    ("options",),  # every setting with its default
    ("wire", "shm", "ipc"),  # bytes, memory, sockets between ourselves
    ("hot", "bench"),  # the engine, without a loop; the load generator, which is no part of the broker
    ("store",),  # the messages of streams; uses the engine's byte routines, knows no engine
    ("stream",),  # what rides on the engine
    ("front", "shard"),  # the two kinds of process
    ("tune", "doctor"),  # measure how many there should be, and whether the machine will carry them
    ("monitor",),  # shows them
    ("control",),  # runs them all
    ("cli",),  # faces
    ("__main__",),
)
FLOOR_OF: Final = {name: number for number, names in enumerate(FLOORS) for name in names}

SUFFIXES: Final = (".py", ".pyx", ".pxd", ".h")

# One line of import in either language; Cython's files are not Python, so they are read line by line.
_FROM: Final = re.compile(rf"^\s*from\s+({PACKAGE}[\w.]*)\s+c?import\s+\(?\s*([\w, ]*)", re.MULTILINE)
_IMPORT: Final = re.compile(rf"^\s*c?import\s+({PACKAGE}[\w.]*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Wall:
    """What must not be found where. `inside`: only there it may; else `outside`: there it may not."""

    what: str
    pattern: re.Pattern[str]
    inside: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()

    def stands_in(self, area: str) -> bool:
        return area not in self.inside if self.inside else area in self.outside


WALLS: Final = (
    Wall(
        "atomics are for shm/ only",  # and for the load generator's own threads and processes
        re.compile(r"__atomic_|__sync_|stdatomic|std::atomic|\bmemory_order|shm\.atomics\b"),
        inside=("shm", "bench"),
    ),
    Wall("asyncio is not for the data path", re.compile(r"\basyncio\b"), outside=("hot", "shm", "wire")),
    Wall(
        "hot/ knows no socket",
        re.compile(
            r"\bimport\s+(socket|select|selectors)\b|sys/(socket|epoll|uio)\.h|netinet/|posix\.unistd"
        ),
        outside=("hot",),
    ),
)


def check(top: Path) -> list[str]:
    """Everything under `top`/shardbroker that breaks a rule, as "file: what"."""
    found = []
    for path in sorted((top / PACKAGE).rglob("*")):
        if path.suffix in SUFFIXES:
            name = path.relative_to(top)
            found += [f"{name}: {what}" for what in check_file(name, path.read_text())]
    return found


def check_file(name: Path, text: str) -> Iterator[str]:
    """What breaks a rule in one file, given by its name from the top and its text."""
    area = area_of(".".join(name.with_suffix("").parts))
    if area not in FLOOR_OF:
        yield f"{area or name} stands on no floor: add it to FLOORS"
        return
    code = without_prose(text, name.suffix)
    if name.suffix != ".h":
        for module in sorted(imports(code)):
            other = area_of(module)
            if other not in FLOOR_OF:
                yield f"imports {module}, which stands on no floor"
            elif other != area and FLOOR_OF[other] >= FLOOR_OF[area] and area:
                yield f"imports {module} from floor {FLOOR_OF[other]}, and stands on {FLOOR_OF[area]}"
            elif not area and other:
                yield f"the package itself imports {module}"
    for wall in WALLS:
        if wall.stands_in(area) and (hit := wall.pattern.search(code)):
            yield f"{wall.what}: {hit[0]!r}"


def area_of(module: str) -> str:
    """The part of the house that a module is in: shardbroker.hot.engine -> hot, shardbroker.limits -> limits."""
    parts = module.split(".")
    return "" if len(parts) < 2 or parts[1] == "__init__" else parts[1]


def imports(code: str) -> set[str]:
    """Our own modules that a text imports or cimports; `from shardbroker import limits` names shardbroker.limits."""
    found = set(_IMPORT.findall(code))
    for module, names in _FROM.findall(code):
        if module == PACKAGE:
            for name in re.split(r"[\s,]+", names.strip()):
                found.add(f"{PACKAGE}.{name}" if name in FLOOR_OF else PACKAGE)
        else:
            found.add(module)
    return found


def without_prose(text: str, suffix: str) -> str:
    """The text without comments, docstrings and other string literals that stand alone."""
    if suffix == ".h":
        return re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)
    if suffix == ".py":
        tree = ast.parse(text)
        lines = text.splitlines()
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                end = node.end_lineno or node.lineno
                lines[node.lineno - 1 : end] = [""] * (end - node.lineno + 1)
        text = "\n".join(lines)
    else:
        text = re.sub(r'^\s*[rb]?"""[\s\S]*?"""', "", text, flags=re.MULTILINE)
    return re.sub(r"(^|\s)#[^\n]*", r"\1", text)


def main(arguments: list[str]) -> int:
    top = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    found = check(top)
    for line in found:
        print(line)
    print(f"{len(found)} things out of place" if found else "every file stands on its floor")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
