"""The floors of the house and its three walls hold, and the tool that says so can see."""

from __future__ import annotations

from pathlib import Path

import check_floors
import pytest

TOP = Path(__file__).resolve().parents[2]


def test_every_file_stands_on_its_floor() -> None:
    assert check_floors.check(TOP) == []


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "shardbroker/hot/x.pyx",
            "from shardbroker.shard.loop cimport loop_t\n",
            "imports shardbroker.shard.loop",
        ),
        ("shardbroker/hot/x.pxd", "    from shardbroker.hot.engine import Engine\n", ""),
        ("shardbroker/shm/x.pyx", "cimport shardbroker.hot.model\n", "imports shardbroker.hot.model"),
        (
            "shardbroker/shard/x.py",
            "from shardbroker.front.placement import Placement\n",
            "shardbroker.front",
        ),
        ("shardbroker/limits.py", "import shardbroker.options\n", "imports shardbroker.options"),
        ("shardbroker/cli/x.py", "from shardbroker import limits, __version__\n", ""),
        ("shardbroker/__init__.py", "from shardbroker import limits\n", "the package itself imports"),
        ("shardbroker/attic/x.py", "", "stands on no floor"),
        ("shardbroker/hot/x.pyx", "import asyncio\n", "asyncio"),
        ("shardbroker/hot/x.pyx", '"""No asyncio here."""\nx = 1  # nor asyncio\n', ""),
        ("shardbroker/wire/x.py", "def f() -> None:\n    '''asyncio'''\n    import asyncio\n", "asyncio"),
        ("shardbroker/hot/x.pyx", "from posix.unistd cimport write\n", "no socket"),
        ("shardbroker/hot/x.h", "#include <sys/socket.h>\n", "no socket"),
        ("shardbroker/hot/x.h", "/* #include <sys/socket.h> */\n", ""),
        ("shardbroker/hot/x.h", "__atomic_load_n(p, 0);\n", "atomics"),
        ("shardbroker/shm/x.h", "__atomic_load_n(p, 0);\n", ""),
        ("shardbroker/shard/x.pyx", "from shardbroker.shm.atomics cimport fence_full\n", "atomics"),
    ],
)
def test_what_the_tool_sees(name: str, text: str, expected: str) -> None:
    found = list(check_floors.check_file(Path(name), text))
    assert len(found) == bool(expected)
    assert expected in "".join(found)
