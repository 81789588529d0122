"""Where facts about the machine are read: files of /proc and /sys below a directory, which tests replace, and limits.

A file that is not there, or may not be read, is None: containers hide many of them, and that is no error.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass, field
from pathlib import Path

from shardbroker.ipc import cores

UNLIMITED = -1


def _affinity() -> int:
    return len(os.sched_getaffinity(0))


def _limit(name: int) -> tuple[int, int]:
    soft, hard = resource.getrlimit(name)
    return (
        UNLIMITED if soft == resource.RLIM_INFINITY else soft,
        UNLIMITED if hard == resource.RLIM_INFINITY else hard,
    )


@dataclass(frozen=True, slots=True)
class Host:
    """`root`: what stands for `/`. Limits are (soft, hard), UNLIMITED where there is none."""

    root: Path = Path("/")
    open_files: tuple[int, int] = field(default_factory=lambda: _limit(resource.RLIMIT_NOFILE))
    locked_memory: tuple[int, int] = field(default_factory=lambda: _limit(resource.RLIMIT_MEMLOCK))
    core: tuple[int, int] = field(default_factory=cores.inherited)
    processors: int = field(default_factory=lambda: os.cpu_count() or 1)
    usable: int = field(default_factory=_affinity)  # by this process's affinity mask

    def text(self, path: str) -> str | None:
        """A file's text without white space around it. `path` begins with a slash."""
        try:
            return (self.root / path[1:]).read_text(errors="replace").strip()
        except (OSError, ValueError):
            return None

    def number(self, path: str) -> int | None:
        """A file that holds one whole number."""
        text = self.text(path)
        try:
            return int(text) if text else None
        except ValueError:
            return None

    def chosen(self, path: str) -> str | None:
        """The word in brackets: "always [madvise] never"."""
        text = self.text(path) or ""
        return text.partition("[")[2].partition("]")[0] or None

    # -- control groups --

    def cpu_quota(self) -> float | None:
        """Processors that the control groups of this process allow; None: no bound."""
        quotas = []
        for text in self._cgroup_files("cpu", "cpu.max"):
            quota, _, period = text.partition(" ")
            if quota.isdigit() and period.isdigit() and int(period):
                quotas.append(int(quota) / int(period))
        periods = self._cgroup_files("cpu", "cpu.cfs_period_us")
        for text, period in zip(self._cgroup_files("cpu", "cpu.cfs_quota_us"), periods, strict=False):
            if text.isdigit() and period.isdigit() and int(period):
                quotas.append(int(text) / int(period))
        return min(quotas, default=None)

    def memory_bound(self) -> int:
        """Bytes that this process may use: of the machine, or of its control groups where that is less."""
        bounds = [int(text) for text in self._cgroup_files("memory", "memory.max") if text.isdigit()]
        bounds += [
            int(text) for text in self._cgroup_files("memory", "memory.limit_in_bytes") if text.isdigit()
        ]
        return min([self.meminfo("MemTotal") or (1 << 63), *bounds])

    def meminfo(self, name: str) -> int | None:
        """A line of /proc/meminfo in bytes."""
        for line in (self.text("/proc/meminfo") or "").splitlines():
            key, _, rest = line.partition(":")
            if key == name and (words := rest.split()) and words[0].isdigit():
                return int(words[0]) << 10
        return None

    def _cgroup_files(self, controller: str, name: str) -> list[str]:
        """This file of the process's group and of all above it, version 2 and version 1 of the file system."""
        found = []
        for line in (self.text("/proc/self/cgroup") or "0::/").splitlines():
            _, controllers, path = [*line.split(":", 2), "", ""][:3]
            if controllers and controller not in controllers.split(","):
                continue
            top = f"/sys/fs/cgroup/{controllers}" if controllers else "/sys/fs/cgroup"
            parts = [part for part in path.split("/") if part not in ("", "..")]
            # A container sees its own group as the root, whatever /proc says of the path.
            for depth in range(len(parts), -1, -1):
                text = self.text("/".join([top, *parts[:depth], name]))
                if text is not None:
                    found.append(text)
        return found
