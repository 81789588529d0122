"""Log lines in nats-server's form, to stderr or a file that all processes of the broker append to.

    [pid] 2026/11/24 10:02:11.482113 [INF] Server is ready

Every line is one write to a descriptor opened with O_APPEND, so lines of several processes never mix. Log helpers of
clients' test suites read these lines. Source: logger/log.go and log.go. A Log may be used after a fork: the process id in
a line is that of the process that writes it. Nothing here may be given a password or token; wire/redact.py
takes them out of what a client sent.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable
from typing import Final, Self

from shardbroker.errors import BrokerError
from shardbroker.options import Options

STDERR: Final = 2
FILE_MODE: Final = 0o640

# year.month.day.hour.minute.second.nanosecond behind the file's name, as logger/log.go names backups.
_BACKUP: Final = re.compile(r"\d{4}(\.\d\d){5}\.\d{1,9}")


class Log:
    """The log of one broker. Front, shards and monitor each use their copy of it (by fork).

    Only the process that created it rotates the file; the others notice by its inode, at most once a second.
    """

    def __init__(self, options: Options, *, time_ns: Callable[[], int] = time.time_ns) -> None:
        # Whole life
        self._time_ns = time_ns
        self._owner = os.getpid()
        # Changed by apply()
        self._path = ""
        self._descriptor = STDERR
        self._second = -1  # the last line's second and its text: formatting a time costs more than the rest
        self._second_text = ""
        self._looked_ns = 0
        self.apply(options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- lines --

    def notice(self, text: str, /) -> None:
        self._write("INF", text)

    def warning(self, text: str, /) -> None:
        self._write("WRN", text)

    def error(self, text: str, /) -> None:
        self._write("ERR", text)

    def fatal(self, text: str, /) -> None:
        """The last line before the end; ending is the caller's."""
        self._write("FTL", text)

    def debug(self, text: str, /) -> None:
        if self._debug:
            self._write("DBG", text)

    def trace(self, text: str, /) -> None:
        if self._trace:
            self._write("TRC", text)

    def _write(self, label: str, text: str) -> None:
        line = f"[{os.getpid()}] {self._stamp()}[{label}] {text}\n".encode("utf-8", "backslashreplace")
        if self._path:
            self._look_after_file(len(line))
        # A full disk or a closed pipe: the line is lost, the broker goes on.
        with contextlib.suppress(OSError):
            os.write(self._descriptor, line)

    def _stamp(self) -> str:
        if not self._logtime:
            return ""
        now = self._time_ns()
        second, rest = divmod(now, 1_000_000_000)
        if second != self._second:
            moment = time.gmtime(second) if self._utc else time.localtime(second)
            self._second, self._second_text = second, time.strftime("%Y/%m/%d %H:%M:%S", moment)
        return f"{self._second_text}.{rest // 1000:06d} "

    # -- the file --

    def apply(self, options: Options) -> None:
        """Use these settings from the next line on. Raises BrokerError when the file cannot be opened."""
        self._debug = options.debug
        self._trace = options.trace
        self._logtime = options.logtime
        self._utc = options.logtime_utc
        self._limit = options.log_size_limit
        self._files_max = options.log_max_files
        self._second = -1
        if options.log_file != self._path:
            descriptor = _open(options.log_file) if options.log_file else STDERR
            self._replace(descriptor)
            self._path = options.log_file

    def reopen(self) -> None:
        """Open the file by its name again, after someone has moved it away (SIGUSR1). Without a file: nothing."""
        if not self._path:
            return
        try:
            self._replace(_open(self._path))
        except BrokerError as error:
            self.error(f"{error}; the old file is kept")
            return
        if os.getpid() == self._owner:
            self.notice(f'File log re-opened: "{self._path}"')

    def close(self) -> None:
        """Close the file; lines go to stderr from here on."""
        self._replace(STDERR)
        self._path = ""

    def descriptors(self) -> list[int]:
        """What a forked process must keep open to write lines."""
        return [self._descriptor]

    def _replace(self, descriptor: int) -> None:
        old, self._descriptor = self._descriptor, descriptor
        if old not in (STDERR, descriptor):
            os.close(old)

    def _look_after_file(self, more: int) -> None:
        if not self._limit:
            return
        if os.getpid() != self._owner:
            now = time.monotonic_ns()
            if now - self._looked_ns > 1_000_000_000:
                self._looked_ns = now
                self._follow()
            return
        try:
            if os.fstat(self._descriptor).st_size > self._limit:
                self._rotate()
        except OSError:
            # Tried again with the next line.
            return

    def _follow(self) -> None:
        with contextlib.suppress(OSError, BrokerError):
            if not os.path.samestat(os.fstat(self._descriptor), os.stat(self._path)):
                self._replace(_open(self._path))

    def _rotate(self) -> None:
        now = self._time_ns()
        stamp = time.strftime("%Y.%m.%d.%H.%M.%S", time.localtime(now // 1_000_000_000))
        backup = f"{self._path}.{stamp}.{now % 1_000_000_000:09d}"
        os.rename(self._path, backup)
        self._replace(_open(self._path))
        limit, self._limit = self._limit, 0
        self.notice(f'Rotated log, backup saved as "{backup}"')
        if self._files_max:
            self._purge()
        self._limit = limit

    def _purge(self) -> None:
        """Keep log_max_num files in all, the newest (logger/log.go logPurge)."""
        directory, base = os.path.split(self._path)
        names = os.listdir(directory or ".")
        backups = sorted(
            name for name in names if name.startswith(base + ".") and _BACKUP.fullmatch(name[len(base) + 1 :])
        )
        for name in backups[: max(0, len(backups) - (self._files_max - 1))]:
            os.remove(os.path.join(directory, name))
            self.notice(f'Purged log file "{name}"')


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    except OSError as error:
        raise BrokerError(
            f"error opening file: open {path}: {(error.strerror or str(error)).lower()}"
        ) from None
