"""`-sl command[=pid]`. Source: signal_test.go."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from shardbroker.cli.signals import COMMANDS, SignalError, brokers, send_signal


class Machine:
    """Processes that only exist here."""

    def __init__(self, *pids: int) -> None:
        self.pids = list(pids)
        self.sent: list[tuple[int, int]] = []

    def kill(self, pid: int, number: int) -> None:
        if pid == 666:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        self.sent.append((pid, number))

    def send(self, text: str) -> list[int]:
        return send_signal(text, kill=self.kill, running=lambda: self.pids)


@pytest.mark.parametrize(
    ("command", "number"),
    [("stop", signal.SIGKILL), ("quit", signal.SIGINT), ("term", signal.SIGTERM), ("reopen", signal.SIGUSR1),
     ("reload", signal.SIGHUP), ("ldm", signal.SIGUSR2)],
)  # fmt: skip
def test_commands(command: str, number: int) -> None:
    machine = Machine(123)
    assert machine.send(command) == [123]
    assert machine.sent == [(123, number)]
    assert COMMANDS[command] == number


def test_a_pid_needs_no_search() -> None:
    machine = Machine()
    machine.send("reload=77")
    assert machine.sent == [(77, signal.SIGHUP)]


def test_a_pid_file(tmp_path: Path) -> None:
    (tmp_path / "pid").write_text("78\n")
    machine = Machine()
    machine.send(f"quit={tmp_path}/pid")
    assert machine.sent == [(78, signal.SIGINT)]


def test_globs() -> None:
    machine = Machine(123, 124, 210)
    assert machine.send("reopen=12*") == [123, 124]
    assert machine.send("reopen=*") == [123, 124, 210]
    assert machine.send("reopen=9*") == []


@pytest.mark.parametrize(
    ("machine", "text", "message"),
    [
        (Machine(), "stop", "no shardbroker processes running"),
        (Machine(1, 2), "stop", "multiple shardbroker processes running:\n1\n2"),
        (Machine(1), "foo", 'unknown signal "foo"'),
        (Machine(1), "stop=x", "invalid pid: x"),
        (Machine(1), "stop=1=2", "invalid signal parameters: ['2']"),
        (Machine(), "term=666", 'signal "term" 666: operation not permitted'),
    ],
)
def test_refusals(machine: Machine, text: str, message: str) -> None:
    with pytest.raises(SignalError) as caught:
        machine.send(text)
    assert str(caught.value) == message
    assert machine.sent == []


def test_this_process_is_no_broker() -> None:
    assert os.getpid() not in brokers()
