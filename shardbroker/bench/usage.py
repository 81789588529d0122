"""What a server's processes have used: CPU seconds and memory, of all of them, whoever started them."""

from __future__ import annotations

import time
from pathlib import Path

import psutil


def processes(pid: int) -> list[int]:
    """pid and all its descendants."""
    try:
        root = psutil.Process(pid)
        return [pid, *(child.pid for child in root.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(pids: list[int]) -> float:
    """CPU time (user and system, all threads, also those that ended) of these processes, to the nanosecond.

    The process clock of another process: clock id (~pid << 3) | 2, CPUCLOCK_SCHED in <linux/posix-timers.h>;
    psutil's figures are the same in steps of 10 ms.
    """
    total = 0.0
    for pid in pids:
        try:
            total += time.clock_gettime((~pid << 3) | 2)
        except OSError:
            continue
    return total


def waited_seconds(pids: list[int]) -> float:
    """How long the living threads of these processes have waited for a processor while they could have run (schedstat)."""
    total = 0
    for pid in pids:
        for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                total += int(path.read_text().split()[1])
            except (OSError, IndexError, ValueError):
                continue
    return total / 1e9


def memory_bytes(pids: list[int]) -> dict[str, int]:
    """PSS (shared pages divided among their users) and RSS, summed over the processes."""
    total = {"Pss": 0, "Rss": 0}
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (OSError, ProcessLookupError):
            continue
        for line in text.splitlines():
            key, _, value = line.partition(":")
            if key in total:
                total[key] += int(value.split()[0]) * 1024
    return {"pss_bytes": total["Pss"], "rss_bytes": total["Rss"]}
