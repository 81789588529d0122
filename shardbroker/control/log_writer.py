"""Where log lines end: stderr, a file that is rotated, or syslog.

A file is rotated when it has grown over its limit, and its backups are named and kept as nats-server does
(logger/log.go fileLogger). Every write is whole lines to a descriptor opened with O_APPEND.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from shardbroker.control.log_lines import ERROR, FRONT, INFO, JsonForm, Line, TextForm
from shardbroker.control.syslog import Syslog
from shardbroker.errors import BrokerError
from shardbroker.options import Options

STDERR: Final = 2
FILE_MODE: Final = 0o640

# year.month.day.hour.minute.second.nanosecond behind the file's name, as logger/log.go names backups.
_BACKUP: Final = re.compile(r"\d{4}(\.\d\d){5}\.\d{1,9}")


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The part of the options that the writing process needs."""

    file: str = ""
    size_limit: int = 0  # bytes; 0: none
    max_files: int = 0  # with the one in use; 0: all are kept
    syslog: bool = False
    remote_syslog: str = ""
    form: str = "text"
    logtime: bool = True
    utc: bool = False
    tag: str = "shardbroker"

    @classmethod
    def of(cls, options: Options) -> LogSettings:
        return cls(
            file=options.log_file,
            size_limit=options.log_size_limit,
            max_files=options.log_max_files,
            syslog=options.syslog,
            remote_syslog=options.remote_syslog,
            form=options.log_format,
            logtime=options.logtime,
            utc=options.logtime_utc,
            tag=options.program,
        )

    @property
    def to_syslog(self) -> bool:
        """A file goes before syslog (log.go ConfigureLogger)."""
        return not self.file and bool(self.syslog or self.remote_syslog)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class Writer:
    """One process's end of the log. Lines of a file that cannot be written are lost; the broker goes on."""

    def __init__(self, settings: LogSettings, *, time_ns: Callable[[], int] = time.time_ns) -> None:
        """Opens; raises BrokerError when that is impossible."""
        self._time_ns = time_ns
        self._descriptor = STDERR
        self._written = 0
        self._syslog: Syslog | None = None
        self._settings = LogSettings()
        self._batch: list[bytes] = []
        self.apply(settings)

    def apply(self, settings: LogSettings) -> None:
        """From the next line on. Raises BrokerError, and then all is as before."""
        old = self._settings
        if settings.file != old.file:
            self._replace(_open(settings.file) if settings.file else STDERR)
        wanted = (settings.to_syslog, settings.remote_syslog, settings.tag)
        if wanted != (old.to_syslog, old.remote_syslog, old.tag):
            syslog = Syslog(settings.remote_syslog, settings.tag) if settings.to_syslog else None
            if self._syslog is not None:
                self._syslog.close()
            self._syslog = syslog
        self._settings = settings
        form = JsonForm(logtime=settings.logtime) if settings.form == "json" else None
        self._form = form or TextForm(logtime=settings.logtime, utc=settings.utc)
        self._json = form is not None

    def write(self, lines: Iterable[Line]) -> None:
        """All of them, in as few system calls as there are files."""
        for line in lines:
            self._write(line)
        self._flush()

    def say(self, kind: int, text: str) -> None:
        """A line of the writer's own."""
        self.write([Line(self._time_ns(), os.getpid(), FRONT, kind, text)])

    def _write(self, line: Line) -> None:
        if self._syslog is not None:
            self._syslog.write(line, self._form(line) if self._json else line.text)
            return
        data = self._form(line).encode("utf-8", "backslashreplace") + b"\n"
        self._batch.append(data)
        self._written += len(data)
        if self._settings.file and 0 < self._settings.size_limit < self._written:
            self._flush()
            self._rotate()

    def _flush(self) -> None:
        data, self._batch = b"".join(self._batch), []
        # A full disk or a closed pipe: the lines are lost, the broker goes on.
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._descriptor, data) :]

    def reopen(self) -> None:
        """Open the file by its name again, after someone has moved it away (SIGUSR1; log.go ReOpenLogFile)."""
        if not self._settings.file:
            self.say(INFO, "File log re-open ignored, not a file logger")
            return
        self._flush()
        try:
            self._replace(_open(self._settings.file))
        except BrokerError as error:
            self.say(ERROR, f"{error}; the old file is kept")
            return
        self.say(INFO, "File log re-opened")

    def follow(self) -> None:
        """Open the file again without a word: another process has written, and perhaps rotated it."""
        with contextlib.suppress(BrokerError):
            if self._settings.file:
                self._replace(_open(self._settings.file))

    def descriptors(self) -> list[int]:
        """What a process that writes with this must keep open."""
        return [self._descriptor, *([self._syslog.fileno()] if self._syslog is not None else [])]

    def close(self) -> None:
        """Lines go to stderr from here on."""
        self._flush()
        self._replace(STDERR)
        if self._syslog is not None:
            self._syslog.close()
            self._syslog = None
        self._settings = LogSettings(
            form=self._settings.form, logtime=self._settings.logtime, utc=self._settings.utc
        )

    def _replace(self, descriptor: int) -> None:
        old, self._descriptor = self._descriptor, descriptor
        self._written = os.fstat(descriptor).st_size if descriptor != STDERR else 0
        if old not in (STDERR, descriptor):
            os.close(old)

    def _rotate(self) -> None:
        path = self._settings.file
        now = self._time_ns()
        stamp = time.strftime("%Y.%m.%d.%H.%M.%S", time.localtime(now // 1_000_000_000))
        backup = f"{path}.{stamp}.{now % 1_000_000_000:09d}"
        try:
            os.rename(path, backup)
            self._replace(_open(path))
        except (OSError, BrokerError):
            # Goes on in the old file, and tries again when as much has been written once more.
            self._written = 0
            return
        limit, self._settings = self._settings.size_limit, dataclasses.replace(self._settings, size_limit=0)
        self.say(INFO, f'Rotated log, backup saved as "{backup}"')
        if self._settings.max_files:
            self._purge()
        self._settings = dataclasses.replace(self._settings, size_limit=limit)

    def _purge(self) -> None:
        """Keep log_max_num files in all, the newest (logger/log.go logPurge)."""
        directory, base = os.path.split(self._settings.file)
        try:
            names = os.listdir(directory or ".")
            backups = sorted(
                name
                for name in names
                if name.startswith(base + ".") and _BACKUP.fullmatch(name[len(base) + 1 :])
            )
            for name in backups[: max(0, len(backups) - (self._settings.max_files - 1))]:
                os.remove(os.path.join(directory, name))
                self.say(INFO, f'Purged log file "{name}"')
        except OSError as error:
            self.say(
                ERROR, f"Unable to remove backup log files ({error.strerror}), will attempt next rotation"
            )


def check(settings: LogSettings) -> None:
    """Whether a file could be opened now; raises BrokerError."""
    if settings.file:
        os.close(_open(settings.file))


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    except OSError as error:
        raise BrokerError(
            f"error opening file: open {path}: {(error.strerror or str(error)).lower()}"
        ) from None
