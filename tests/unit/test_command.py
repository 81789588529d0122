"""The command as a process: what is done at once, exit status, streams, and what is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def command(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", code] if code else [sys.executable, "-m", "shardbroker"]
    return subprocess.run([*words, *arguments], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("flag", ["-v", "--version", "--v", "version"])
def test_version(flag: str) -> None:
    done = command(flag)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "shardbroker: v0.1.0 (nats-server: v2.12.0)\n",
        "",
    )


def test_version_under_nats_servers_name() -> None:
    done = command(
        "-v", code="import sys; sys.argv[0] = '/x/nats-server'; from shardbroker.cli.main import main; main()"
    )
    assert (done.returncode, done.stdout) == (0, "nats-server: v2.12.0\n")


@pytest.mark.parametrize("flag", ["-h", "--help", "help"])
def test_help(flag: str) -> None:
    done = command(flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: shardbroker [options]" in done.stdout


def test_unknown_flag() -> None:
    done = command("-xyz")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("flag provided but not defined: -xyz\n")
    assert "Usage: shardbroker" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["foo"], 'shardbroker: unrecognized command: "foo"\n'),
        (["-t"], "shardbroker: must specify [-c, --config] option to check configuration file syntax\n"),
        (["--tls"], "shardbroker: TLS Server certificate must be present and valid\n"),
        (["-c", "/no/file"], "shardbroker: open /no/file: no such file or directory\n"),
        (["-sl", "foo=1"], 'shardbroker: unknown signal "foo"\n'),
        (
            ["-l", "/no/dir/file"],
            "shardbroker: error opening file: open /no/dir/file: no such file or directory\n",
        ),
    ],
)
def test_refusals(arguments: list[str], message: str) -> None:
    done = command(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)


def test_test_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.conf"
    path.write_text("port: -1\n")
    done = command("-t", "-c", str(path))
    digest = "sha256:7ea4cc5c6864139d814ce940a40ee6546b7ac5285eec3c390a4ce11e34dc1102"
    assert (done.returncode, done.stderr) == (
        0,
        f"shardbroker: configuration file {path} is valid ({digest})\n",
    )
    path.write_text("port: -1\nmax_payload: [\n1 2]\n")
    done = command("-c", str(path))
    assert done.returncode == 1
    assert done.stderr.startswith("shardbroker: Parse error on line 3: '")
    path.write_text("port: -1\nfoo: 1\n")
    done = command("-c", str(path), "-t")
    assert (done.returncode, done.stderr) == (1, f'shardbroker: {path}:2:1: unknown field "foo"\n')


def test_tools_are_clicks() -> None:
    done = command("status", "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout


def imported(arguments: list[str]) -> set[str]:
    code = (
        "import sys; from shardbroker.control.config.load import load; import shardbroker.cli.serve; "
        "load(sys.argv[1:]); print(*sys.modules)"
    )
    done = command(*arguments, code=code)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_reading_flags_imports_little(tmp_path: Path) -> None:
    """Start-up time counts: a client's test suite starts hundreds of servers."""
    heavy = {"numpy", "lark", "rich", "click", "asyncio", "psutil", "starlette", "uvicorn", "hypothesis"}
    assert not heavy & imported(
        ["--workers", "2", "-p", "-1", "-a", "127.0.0.1", "-DV", "--user", "a", "--pass", "b"]
    )
    path = tmp_path / "a.conf"
    path.write_text("port: -1\n")
    assert heavy & imported(["-c", str(path)]) == {"lark"}


def test_serving_imports_no_tools() -> None:
    """What the front imports its shards inherit: nothing of numpy, the console or the parser."""
    code = "import sys; import shardbroker.cli.serve, shardbroker.control.lifecycle; print(*sys.modules)"
    done = command(code=code)
    assert done.returncode == 0, done.stderr
    assert not {"numpy", "lark", "rich", "click", "starlette", "uvicorn"} & set(done.stdout.split())
