"""`shardbroker doctor` as a process: what it says, in words and JSON, and its exit status."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

COMMAND = [sys.executable, "-m", "shardbroker", "doctor"]


def doctor(*arguments: str, open_files: int = 0, processors: int = 0) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        if open_files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))
        if processors:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:processors])

    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        preexec_fn=limit if open_files or processors else None,
    )


def test_json_names_everything(tmp_path: Path) -> None:
    config = tmp_path / "a.conf"
    config.write_text(
        f'jetstream {{ store_dir: "{tmp_path}/js" }}\nshardbroker {{ workers: 2 }}\nmax_connections: 10\n'
    )
    done = doctor("--json", "-c", str(config))
    body = json.loads(done.stdout)
    by_name = {finding["name"]: finding for finding in body["findings"]}
    assert list(by_name) == [
        "versions", "libraries", "extensions", "open_files", "locked_memory", "processors", "frequency", "memory",
        "core_dumps", "listen_queue", "port_range", "overcommit", "huge_pages", "system_calls", "clock_source", "clock_sync",
        "shared_memory", "store_file_system", "store_sync",
    ]  # fmt: skip
    assert by_name["processors"]["values"]["workers"] == 2
    assert str(tmp_path / "js") in by_name["store_file_system"]["found"]
    assert not (tmp_path / "js").exists()
    for finding in body["findings"]:
        assert finding["found"]
        assert finding["means"]
        assert bool(finding["do"]) == (finding["level"] != "ok")
    assert (done.returncode == 3) == (body["level"] == "fail")
    assert done.stderr == ""


def test_what_fails_makes_the_exit_status_and_is_explained() -> None:
    done = doctor("-q", open_files=200)
    assert done.returncode == 3
    assert "fail open_files        200 for each process" in done.stdout
    assert "LimitNOFILE=" in done.stdout
    assert "\nok " not in done.stdout


def test_warnings_fail_when_asked_to(tmp_path: Path) -> None:
    # More workers than there are processors to use are warned about wherever this runs.
    assert doctor("--workers", "2", processors=1).returncode == 0
    assert doctor("--workers", "2", "--strict", processors=1).returncode == 3


def test_a_configuration_that_cannot_be_read() -> None:
    done = doctor("-c", "/no/such.conf")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "shardbroker doctor: open /no/such.conf: no such file or directory\n"
