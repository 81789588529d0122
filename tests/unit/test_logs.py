"""Log lines: nats-server's form, levels, files, rotation, and no secrets."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import select
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from harness import wait_until
from shardbroker.control.log_lines import ERROR, FRONT, HEADER, INFO, TEXT_MAX, Assembler, Line, records
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
    assert [line.split("] ", 2)[2] for line in lines(path)] == ["File log re-opened", "three"]


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


def test_a_rotation_that_fails_goes_on_in_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with Log(Options(log_file=str(path), logtime=False, log_size_limit=50)) as log:
        monkeypatch.setattr(os, "rename", fails)
        for number in range(5):
            log.notice(f"line {number:020d}")
        monkeypatch.undo()
        assert len(lines(path)) == 5
        log.notice("x" * 60)
    (backup,) = (p for p in path.parent.iterdir() if p != path)
    assert len(lines(backup)) == 6
    assert "Rotated log" in lines(path)[0]


# -- through the pipe --


def in_another_process(work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = int(work() or 0)
        finally:
            os._exit(status)
    return pid


def writing(log: Log) -> int:
    """The process that writes for a log."""
    log.open_pipe()

    def work() -> int:
        for descriptor in log.descriptors():
            os.close(descriptor)
        return log.write_for()

    return in_another_process(work)


def finish(log: Log, writer: int) -> None:
    assert log.finish()
    assert os.waitpid(writer, 0)[1] == 0
    log.close_pipe()


def test_many_processes_share_a_file_line_by_line(path: Path) -> None:
    log = Log(Options(log_file=str(path)))
    writer = writing(log)

    def work(child: int) -> None:
        for number in range(100):
            log.notice(f"child {child} line {number} " + "x" * (9000 if number == 50 else number * 20))

    children = [in_another_process(partial(work, child)) for child in range(4)]
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    finish(log, writer)
    log.notice("the end")
    log.close()
    found = [
        re.fullmatch(r"\[(\d+)\] \S+ \S+ \[INF\] child (\d) line (\d+) (x*)", line)
        for line in lines(path)[:-1]
    ]
    assert len(found) == 400
    for match in found:
        assert match is not None
        assert len(match[4]) == (9000 if match[3] == "50" else int(match[3]) * 20)
        assert int(match[1]) == children[int(match[2])]
    assert lines(path)[-1].endswith("] the end")


def test_settings_and_reopening_travel_with_the_lines(path: Path) -> None:
    options = Options(log_file=str(path), logtime=False)
    other = path.with_name("other.log")
    log = Log(options)
    writer = writing(log)
    log.notice("one")
    log.apply(dataclasses.replace(options, log_file=str(other)))
    log.notice("two")
    wait_until(lambda: other.exists() and lines(other), "the line in the new file")
    other.rename(path.with_name("moved.log"))
    log.reopen()
    log.notice("three")
    with pytest.raises(BrokerError):
        log.apply(dataclasses.replace(options, log_file=str(path / "no")))
    finish(log, writer)
    log.notice("four")
    log.close()
    assert [line.split("] ", 2)[2] for line in lines(path)] == ["one"]
    assert [line.split("] ", 2)[2] for line in lines(path.with_name("moved.log"))] == ["two"]
    assert [line.split("] ", 2)[2] for line in lines(other)] == [
        "File log re-opened",
        "three",
        "four",
    ]


def test_a_full_pipe_costs_lines_not_time_and_they_are_counted(path: Path) -> None:
    """Nobody reads at first: what finds no room is lost, at once; the next line that finds some says how many."""
    log = Log(Options(log_file=str(path), logtime=False))
    log.open_pipe()
    for number in range(3000):
        log.notice(f"{number:04d} " + "x" * 1000)
    assert log.finish() is False

    def work() -> int:
        for descriptor in log.descriptors():
            os.close(descriptor)
        return log.write_for()

    writer = in_another_process(work)
    while not log._send(Line(0, 0, FRONT, INFO, "room")):
        pass
    log.notice("after")
    finish(log, writer)
    log.close()
    said = [line.split("] ", 2)[-1] for line in lines(path)]
    kept = [text for text in said if text.endswith("x")]
    assert kept == [f"{number:04d} " + "x" * 1000 for number in range(len(kept))]
    assert 900 < len(kept) < 3000
    assert f"{3000 - len(kept)} log lines were lost: they came faster than they could be written" in said
    assert said[-1] == "after"


@pytest.mark.parametrize("size", [0, 1, 4078, 4079, 9000, TEXT_MAX, TEXT_MAX + 1])
@pytest.mark.parametrize("step", [1 << 20, 4096, 1000, 7])
def test_records_come_together_however_they_are_cut(size: int, step: int) -> None:
    made = [Line(5, 7, 3, INFO, "é" * (size // 2) + "a" * (size % 2)), Line(6, 8, FRONT, ERROR, "b")]
    data = b"".join(record for line in made for record in records(line))
    assembler = Assembler()
    found = [line for at in range(0, len(data), step) for line in assembler.feed(data[at : at + step])]
    assert list(assembler.end()) == []
    if size > TEXT_MAX:
        assert found[0].text.endswith("... (1 bytes more)")
        assert found[0].text.startswith(made[0].text[: TEXT_MAX // 2])
        found[0] = made[0]
    assert found == made
    assert all(len(record) <= select.PIPE_BUF for line in made for record in records(line))


def test_a_line_whose_rest_was_lost(path: Path) -> None:
    long = list(records(Line(1, 7, 0, INFO, "x" * 10_000)))
    assembler = Assembler()
    short = Line(2, 7, 0, INFO, "next")
    found = list(assembler.feed(long[0] + long[1] + b"".join(records(short)) + long[0]))
    assert [line.text[-4:] for line in found] == ["x...", "next"]
    assert found[1] == short
    assert len(found[0].text) == 2 * (select.PIPE_BUF - HEADER.size) + 3
    assert [len(line.text) for line in assembler.end()] == [select.PIPE_BUF - HEADER.size + 3]
    # A rest without its beginning is nothing.
    assert list(Assembler().feed(long[1] + long[2])) == []


# -- forms --


def test_json(path: Path) -> None:
    with Log(Options(log_file=str(path), log_format="json"), time_ns=lambda: NOON) as log:
        log.notice("Server is ready")
        log.of_shard(2)
        log.error('127.0.0.1:5000 - cid:7 - "v1:go:a" - authentication error')
        log.of_helper("peers")
        log.warning("[::1]:5000 - cid:8 - x\ny\x1b[31m \udcff")
    pid = os.getpid()
    head = {"time": "2026-11-24T12:02:11.482113Z", "pid": pid}
    assert [json.loads(line) for line in lines(path)] == [
        head | {"level": "info", "process": "front", "msg": "Server is ready"},
        head
        | {"level": "error", "process": "shard", "shard": 2, "client": "127.0.0.1:5000", "cid": 7}
        | {"msg": '"v1:go:a" - authentication error'},
        head
        | {"level": "warn", "process": "peers", "client": "[::1]:5000", "cid": 8}
        | {"msg": "x\ny\x1b[31m \\udcff"},
    ]


def test_a_line_stays_one_line(path: Path) -> None:
    with Log(Options(log_file=str(path), logtime=False)) as log:
        log.notice("a\nb\r\x00\x1b[31mc\td\x9b")
    assert lines(path) == [f"[{os.getpid()}] [INF] a\\nb\\r\\x00\\x1b[31mc\td\\x9b"]


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
        ('{"PASS":"s3cr3t","Auth_Token":"s3cr3t"}', '{"PASS":"[REDACTED]","Auth_Token":"[REDACTED]"}'),
        ('{"JWT":"s3cr3t","NKey":"s3cr3t"}', '{"JWT":"[REDACTED]","NKey":"[REDACTED]"}'),
        ('{"p\\u0061ss":"s3cr3t","\\u0073ig":"s3cr3t"}', '{"pass":"[REDACTED]","sig":"[REDACTED]"}'),
        ('{"name":"\\u0061","p\\u0041SS":"s3cr3t"}', '{"name":"\\u0061","pASS":"[REDACTED]"}'),
        ('{"pass":["s3cr3t"],"x":1}', '{"pass":[REDACTED]'),
        ('{"pass" : {"a":"s3cr3t"}}', '{"pass" : [REDACTED]'),
        ('{"pass":12345,"x":1}', '{"pass":[REDACTED],"x":1}'),
        ('CONNECT {"pass" "s3cr3t"}', 'CONNECT {"pass" "[REDACTED]"}'),
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
