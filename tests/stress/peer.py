"""The other process of a stress test: `peer.py ACTION SEGMENT_FD ARGUMENT...`, driven by peers() below."""
from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import shardbroker
from shardbroker.shm import probe
from shardbroker.shm.directory import Directory
from shardbroker.shm.doorbell import Doorbell
from shardbroker.shm.ring import RingReader, RingWriter
from shardbroker.shm.segment import Segment

ROOT = Path(shardbroker.__file__).parent.parent


@contextmanager
def peers(segment: Segment, *calls: tuple[str, ...],
          fds: tuple[int, ...] = ()) -> Iterator[list[subprocess.Popen[str]]]:
    """Start one process for each (action, argument...); each prints a line when it is about to begin.

    At the end the ones that still run are killed.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen([sys.executable, __file__, action, str(segment.fd), *arguments], text=True,
                         env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(segment.fd, *fds))
        for action, *arguments in calls]
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def go(processes: list[subprocess.Popen[str]]) -> None:
    """Let them all begin."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def results(processes: list[subprocess.Popen[str]]) -> list[str]:
    """What each printed at its end; AssertionError when one failed."""
    printed = [process.communicate(timeout=100)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return printed


def main(action: str, fd: int, *arguments: str) -> None:
    segment = Segment.attach(fd)
    numbers = [int(argument) for argument in arguments]
    print("ready", flush=True)
    if sys.stdin.readline() != "go\n":
        return
    if action == "pump":
        print(probe.pump(RingWriter(segment.map, 0, 1), *numbers))
    elif action == "ping":
        rounds, own, peer, processor = numbers
        os.sched_setaffinity(0, {processor})
        print(*probe.ping_pong(RingWriter(segment.map, 1, 0), RingReader(segment.map, 0, 1),
                               Doorbell(segment.map, 1, own), Doorbell(segment.map, 0, peer), rounds, False))
    elif action == "sleep":
        rounds, processor = numbers
        os.sched_setaffinity(0, {processor})
        print(*probe.wake_race(RingWriter(segment.map, 1, 0), RingReader(segment.map, 0, 1),
                               Doorbell(segment.map, 1, -1), rounds, False, 0))
    elif action == "hammer":
        print(*probe.hammer(Directory(segment.map), *numbers))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
