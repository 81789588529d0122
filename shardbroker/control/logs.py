"""The log as front and shards see it: levels, and a pipe to the process that writes.

No process of the broker waits for a disk, a terminal or a network because it has something to say: a line is one write to
a pipe that does not block, and `shardbroker: log` does the rest. Lines that find the pipe full are lost and counted; the
count is in the next line that finds room. Before that process runs, and after it has ended, the front writes itself.

Log helpers of clients' test suites read these lines, so their form is nats-server's (logger/log.go). A Log may be used
after a fork. Nothing here may be given a password or token; wire/redact.py takes them out of what a client sent.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import time
from collections.abc import Callable
from typing import Final, Self

import orjson
from setproctitle import setproctitle

from shardbroker.control.log_lines import (
    DEBUG,
    ERROR,
    FATAL,
    FINISH,
    FRONT,
    INFO,
    PROCESSES,
    REOPEN,
    SETTINGS,
    TRACE,
    WARNING,
    Assembler,
    Line,
    records,
)
from shardbroker.control.log_writer import LogSettings, Writer, check
from shardbroker.errors import BrokerError
from shardbroker.options import Options

# Linux lets anybody have a pipe of 1 MiB (pipe-max-size): ten thousand lines.
PIPE_BYTES: Final = 1 << 20
READ_BYTES: Final = 1 << 16
# An order to the writing process must not be lost; the front waits so long for room.
ORDER_SECONDS: Final = 1.0


class Log:
    """The log of one broker. Front and shards each use their copy of it (by fork)."""

    def __init__(self, options: Options, *, time_ns: Callable[[], int] = time.time_ns) -> None:
        # Whole life
        self._time_ns = time_ns
        self._settings = LogSettings.of(options)
        self._writer = Writer(self._settings, time_ns=time_ns)
        self._owner = os.getpid()
        # Of this process
        self._process = FRONT
        self._lost = 0
        # While a process writes for us
        self._input, self._output = -1, -1
        self._set_levels(options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- lines --

    def notice(self, text: str, /) -> None:
        self._say(INFO, text)

    def warning(self, text: str, /) -> None:
        self._say(WARNING, text)

    def error(self, text: str, /) -> None:
        self._say(ERROR, text)

    def fatal(self, text: str, /) -> None:
        """The last line before the end; ending is the caller's."""
        self._say(FATAL, text)

    def debug(self, text: str, /) -> None:
        if self._debug:
            self._say(DEBUG, text)

    def trace(self, text: str, /) -> None:
        if self._trace:
            self._say(TRACE, text)

    def of_shard(self, shard: int) -> None:
        """What this process says from now on, this shard says."""
        self._process = shard

    def of_helper(self, name: str) -> None:
        """The same for a process of this name that is no shard."""
        self._process = next(number for number, known in PROCESSES.items() if known == name)

    def _say(self, kind: int, text: str) -> None:
        line = Line(self._time_ns(), os.getpid(), self._process, kind, text)
        if self._output < 0:
            self._writer.write([line])
            return
        if self._lost:
            words = f"{self._lost} log lines were lost: they came faster than they could be written"
            if not self._send(Line(line.time_ns, line.pid, line.process, WARNING, words)):
                self._lost += 1
                return
            self._lost = 0
        if not self._send(line):
            self._lost += 1

    def _send(self, line: Line) -> bool:
        try:
            for record in records(line):
                os.write(self._output, record)
        except OSError:
            # Full; or the process that reads has died, and its successor will find what is in the pipe.
            return False
        return True

    # -- settings --

    def apply(self, options: Options) -> None:
        """Use these settings from the next line on. Raises BrokerError when the file cannot be opened."""
        settings = LogSettings.of(options)
        if self._output < 0:
            self._writer.apply(settings)
        elif os.getpid() == self._owner:
            check(settings)
            self._order(SETTINGS, orjson.dumps(settings.as_dict()).decode())
        self._settings = settings
        self._set_levels(options)

    def reopen(self) -> None:
        """Open the file by its name again, after someone has moved it away (SIGUSR1)."""
        if self._output < 0:
            self._writer.reopen()
        else:
            self._order(REOPEN, "")

    def _set_levels(self, options: Options) -> None:
        self._debug = options.debug
        self._trace = options.trace

    def _order(self, kind: int, text: str) -> None:
        line = Line(self._time_ns(), os.getpid(), self._process, kind, text)
        poll = select.poll()
        poll.register(self._output, select.POLLOUT)
        for record in records(line):
            poll.poll(ORDER_SECONDS * 1000)
            try:
                os.write(self._output, record)
            except OSError:
                raise BrokerError("the log does not take its new settings: it cannot be written") from None

    # -- the process that writes --

    def open_pipe(self) -> int:
        """From now on lines go into a pipe; the descriptor from which `write_for` reads them. The front only, once."""
        self._input, self._output = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(self._input, True)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._output, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return self._input

    def write_for(self) -> int:
        """Write what comes through the pipe until nobody has its other end; the exit status. The writing process."""
        setproctitle("shardbroker: log")
        writer, assembler = self._writer, Assembler()
        self._follow()
        finish = False
        while not finish and (data := os.read(self._input, READ_BYTES)):
            finish = _take(writer, list(assembler.feed(data)))
        writer.write(assembler.end())
        writer.close()
        return 0

    def finish(self) -> bool:
        """Ask the writing process to end when it has written what was said until now. Whether it will hear it."""
        try:
            self._order(FINISH, "")
        except BrokerError:
            return False
        return True

    def close_pipe(self) -> None:
        """The writing process has ended: what is said now is written here again, behind its lines."""
        if self._output >= 0:
            os.close(self._output)
            os.close(self._input)
            self._input, self._output = -1, -1
            self._follow()

    def _follow(self) -> None:
        """The settings may have changed since this process's writer was made, and another one has rotated the file."""
        with contextlib.suppress(BrokerError):
            self._writer.apply(self._settings)
        self._writer.follow()

    def close(self) -> None:
        """Close the file; lines go to stderr from here on."""
        self._writer.close()

    def descriptors(self) -> list[int]:
        """What a forked process must keep open to say something."""
        return [self._output] if self._output >= 0 else self._writer.descriptors()

    def writers_descriptors(self) -> list[int]:
        """What the writing process must keep open."""
        return [self._input, *self._writer.descriptors()]


def _take(writer: Writer, lines: list[Line]) -> bool:
    """Write lines and follow orders; whether one of these was to finish."""
    finish = False
    said: list[Line] = []
    for line in lines:
        if line.kind < REOPEN:
            said.append(line)
            continue
        writer.write(said)
        said = []
        if line.kind == FINISH:
            finish = True
        elif line.kind == REOPEN:
            writer.reopen()
        elif line.kind == SETTINGS:
            try:
                writer.apply(LogSettings(**orjson.loads(line.text)))
            except BrokerError as error:
                writer.say(ERROR, f"The log stays as it was: {error}")
    writer.write(said)
    return finish
