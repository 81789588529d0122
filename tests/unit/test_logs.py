"""Log lines: nats-server's form, levels, files, rotation, and no secrets."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import pytest

from shardbroker.control.logs import Log
from shardbroker.errors import BrokerError
from shardbroker.options import Options
from shardbroker.wire.redact import redact

NOON = 1_795_521_731_482_113_999  # 2026-11-24 12:02:11.482113999 UTC


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "broker.log"


def test_the_form(path: Path) -> None:
    with Log(
        Options(log_file=str(path), logtime_utc=True, debug=True, trace=True), time_ns=lambda: NOON
    ) as log:
        log.notice("Server is ready")
        log.warning("w")
        log.error("e")
        log.fatal("f")
        log.debug("d")
        log.trace("t")
    head = f"[{os.getpid()}] 2026/11/24 12:02:11.482113 "
    assert lines(path) == [
        head + rest
        for rest in ("[INF] Server is ready", "[WRN] w", "[ERR] e", "[FTL] f", "[DBG] d", "[TRC] t")
    ]


def test_stderr_without_times(capfd: pytest.CaptureFixture[str]) -> None:
    log = Log(Options(logtime=False))
    log.notice("a")
    log.debug("not said")
    log.trace("not said")
    log.error("é \udcff")
    assert capfd.readouterr().err == f"[{os.getpid()}] [INF] a\n[{os.getpid()}] [ERR] é \\udcff\n"
    assert log.descriptors() == [2]


def test_local_time(path: Path) -> None:
    with Log(Options(log_file=str(path))) as log:
        log.notice("x")
    assert re.fullmatch(r"\[\d+\] \d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6} \[INF\] x", lines(path)[0])


def test_a_file_is_appended_to_and_others_may_not_read_it(path: Path) -> None:
    path.write_text("before\n")
    with Log(Options(log_file=str(path), logtime=False)) as log:
        log.notice("x")
    assert lines(path)[0] == "before"
    fresh = path.with_name("fresh.log")
    with Log(Options(log_file=str(fresh))):
        assert fresh.stat().st_mode & 0o007 == 0


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="no such file or directory"):
        Log(Options(log_file=str(tmp_path / "no" / "file")))


def test_reopen_goes_to_the_new_file(path: Path) -> None:
    with Log(Options(log_file=str(path), logtime=False)) as log:
        log.notice("one")
        path.rename(path.with_suffix(".1"))
        log.notice("two")
        log.reopen()
        log.notice("three")
    assert [line.split("] ", 2)[2] for line in lines(path.with_suffix(".1"))] == ["one", "two"]
    assert [line.split("] ", 2)[2] for line in lines(path)] == [f'File log re-opened: "{path}"', "three"]


def test_apply_changes_levels_and_file(path: Path) -> None:
    options = Options(log_file=str(path), logtime=False)
    other = path.with_name("other.log")
    with Log(options) as log:
        log.debug("no")
        log.apply(dataclasses.replace(options, debug=True))
        log.debug("yes")
        log.apply(dataclasses.replace(options, log_file=str(other)))
        log.notice("there")
        with pytest.raises(BrokerError):
            log.apply(dataclasses.replace(options, log_file=str(path / "no")))
        log.notice("still there")
    assert len(lines(path)) == 1
    assert len(lines(other)) == 2


def test_rotation_names_backups_as_nats_server_does(path: Path) -> None:
    now = iter(range(NOON, NOON + 10**12, 1000))
    with Log(
        Options(log_file=str(path), log_size_limit=200, log_max_files=3), time_ns=lambda: next(now)
    ) as log:
        for number in range(40):
            log.notice(f"line {number:03d}")
    backups = sorted(p.name for p in path.parent.iterdir() if p != path)
    assert len(backups) == 2
    assert all(re.fullmatch(r"broker\.log\.2026(\.\d\d){5}\.\d{9}", name) for name in backups)
    text = "".join((path.parent / name).read_text() for name in [*backups, path.name])
    assert f'[INF] Rotated log, backup saved as "{path}.2026.' in text
    assert "[INF] Purged log file" in text
    numbers = [int(n) for n in re.findall(r"line (\d+)", text)]
    assert numbers == list(range(numbers[0], 40))


def test_another_process_follows_the_rotation(path: Path) -> None:
    with Log(Options(log_file=str(path), logtime=False, log_size_limit=1 << 30)) as log:
        log.notice("one")
        path.rename(path.with_suffix(".1"))
        path.touch()
        pid = os.fork()
        if pid == 0:
            log.notice("two")
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        log.notice("three")
    assert [line.split("] ")[2] for line in lines(path)] == ["two"]
    assert [line.split("] ")[2] for line in lines(path.with_suffix(".1"))] == ["one", "three"]


def test_many_processes_share_a_file_line_by_line(path: Path) -> None:
    log = Log(Options(log_file=str(path)))
    children = []
    for child in range(4):
        pid = os.fork()
        if pid == 0:
            for number in range(200):
                log.notice(f"child {child} line {number} " + "x" * 300)
            os._exit(0)
        children.append(pid)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    log.close()
    assert len(lines(path)) == 800
    for line in lines(path):
        assert re.fullmatch(r"\[\d+\] \S+ \S+ \[INF\] child \d line \d+ x{300}", line)
    assert {int(line[1 : line.index("]")]) for line in lines(path)} == set(children)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ('{"user":"u","pass":"s3cr3t","name":"n"}', '{"user":"u","pass":"[REDACTED]","name":"n"}'),
        ('{"auth_token":"s3cr3t"}', '{"auth_token":"[REDACTED]"}'),
        ('{"pass" : "s3cr3t" , "x":1}', '{"pass" : "[REDACTED]" , "x":1}'),
        ("pass=s3cr3t, x", "pass=[REDACTED], x"),
        (
            '{"jwt":"ey.s3cr3t","sig":"s3cr3t","nkey":"s3cr3t"}',
            '{"jwt":"[REDACTED]","sig":"[REDACTED]","nkey":"[REDACTED]"}',
        ),
        ('{"proxy_sig":"s3cr3t"}', '{"proxy_sig":"[REDACTED]"}'),
        ('{"pass":"a","pass":"s3cr3t"}', '{"pass":"[REDACTED]","pass":"[REDACTED]"}'),
        ('{"verbose":false,"lang":"go","design":"x"}', '{"verbose":false,"lang":"go","design":"x"}'),
    ],
)
def test_redact(text: str, clean: str) -> None:
    assert redact(text.encode()) == clean.encode()


@pytest.mark.parametrize(
    "secret", [r"abc\"s3cr3t", "abc,s3cr3t}", "abc}s3cr3t", r"\\", "s3cr3t\nx", "a:s3cr3t"]
)
def test_redact_takes_a_quoted_secret_as_a_whole(secret: str) -> None:
    assert redact(f'{{"pass":"{secret}","name":"n"}}'.encode()) == b'{"pass":"[REDACTED]","name":"n"}'


def test_redact_of_a_line_that_is_cut() -> None:
    assert redact(b'{"user":"u","pass":"s3cr3t') == b'{"user":"u","pass":"[REDACTED]'
