"""No process of a broker leaves its memory in a core dump, unless the configuration says so."""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import shardbroker
from harness import Broker, wait_until
from shardbroker.ipc.cores import CORE_PATTERN

Start = Callable[..., Broker]
pytestmark = [pytest.mark.ours, pytest.mark.parametrize("workers", [2])]

SECRET = "s3cret-of-the-file"
HARD = resource.getrlimit(resource.RLIMIT_CORE)[1]
SHOWN = "unlimited" if HARD == resource.RLIM_INFINITY else str(HARD)
# Started with all that the machine allows, in a directory that a relative core_pattern writes to.
START = 'ulimit -S -c "$(ulimit -H -c)" && cd "$0" && export PYTHONPATH="$1" && shift && exec "$@"'


def start(fresh_broker: Start, directory: Path, settings: str) -> Broker:
    directory.mkdir()
    package = str(Path(shardbroker.__file__).parents[1])
    config = f"authorization {{ user: someone, password: {SECRET} }}\nshardbroker {{ workers: 2, {settings} }}\n"
    return fresh_broker(
        args=["-m", "-1"],
        config=config,
        executable=["/bin/sh", "-c", START, str(directory), package, sys.executable, "-m", "shardbroker"],
    )


def limits(broker: Broker) -> dict[str, str]:
    """title -> soft limit of core dumps, of every process."""
    found = {}
    for pid, title in broker.processes().items():
        try:
            text = Path(f"/proc/{pid}/limits").read_text()
        except (FileNotFoundError, ProcessLookupError):
            # Just killed.
            continue
        line = re.search(r"^Max core file size +(\S+)", text, re.M)
        assert line is not None
        found[re.sub(r" 127\S*", "", title)] = line[1]
    return found


def everybody(soft: str) -> dict[str, str]:
    names = ("front", "shard 0 of 2", "shard 1 of 2", "monitor", "log")
    return {f"shardbroker: {name}": soft for name in names}


def test_none_by_default(fresh_broker: Start, tmp_path: Path) -> None:
    where = tmp_path / "cwd"
    broker = start(fresh_broker, where, "")
    # With a hard limit of 0 nothing is left to set.
    wait_until(lambda: limits(broker) == everybody("1" if HARD else "0"), "all processes to have their names")
    os.kill(broker.shard_pids()[1], signal.SIGABRT)
    broker.wait_log("Shard 1 .* has died, killed by SIGABRT")
    # The one that replaces it as well.
    wait_until(lambda: limits(broker) == everybody("1" if HARD else "0"), "the shard to be replaced")
    os.kill(broker.pid, signal.SIGABRT)
    assert broker.ended() == -signal.SIGABRT
    assert list(where.iterdir()) == []


@pytest.mark.skipif(HARD == 0, reason="this machine's hard limit allows no core")
def test_as_the_limits_allow_when_the_file_says_so(fresh_broker: Start, tmp_path: Path) -> None:
    where = tmp_path / "cwd"
    broker = start(fresh_broker, where, "core_dumps: true")
    wait_until(lambda: limits(broker) == everybody(SHOWN), "all processes to have their names")
    broker.wait_log(r"\[WRN\] core_dumps: a core has the secrets")
    # Not while it runs.
    file = broker.directory / "server.conf"
    file.write_text(file.read_text().replace("core_dumps: true", "core_dumps: false"))
    os.kill(broker.pid, signal.SIGHUP)
    broker.wait_log("config reload not supported for core_dumps: old=true, new=false")


@pytest.mark.skipif(HARD != resource.RLIM_INFINITY, reason="this machine's hard limit cuts cores")
@pytest.mark.skipif(
    not re.fullmatch(r"[\w.%-]+", Path(CORE_PATTERN).read_text().strip()),
    reason="this machine's cores go elsewhere than to the working directory",
)
def test_a_core_has_the_secrets(fresh_broker: Start, tmp_path: Path) -> None:
    """Why there are none: with this setting the same death leaves the password behind."""
    where = tmp_path / "cwd"
    broker = start(fresh_broker, where, "core_dumps: true")
    shard = broker.shard_pids()[1]
    # Private memory is enough, and less to write.
    Path(f"/proc/{shard}/coredump_filter").write_text("0x1")
    os.kill(shard, signal.SIGABRT)
    broker.wait_log("Shard 1 .* has died, killed by SIGABRT")
    (core,) = where.iterdir()
    found = SECRET.encode() in core.read_bytes()
    core.unlink()
    assert found
