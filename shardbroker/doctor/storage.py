"""Shared memory, and the disk that streams lie on; the second is measured, by a file of our own that is taken away again."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

from shardbroker.doctor.finding import Finding, size
from shardbroker.doctor.host import Host
from shardbroker.doctor.plan import Plan

# Gone after a restart, of another machine, or not to be relied upon for fdatasync and locks.
VOLATILE: Final = frozenset({"tmpfs", "ramfs", "devtmpfs"})
LAYERED: Final = frozenset({"overlay", "aufs", "overlayfs"})
DISTANT: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "fuse.sshfs", "fuse.s3fs"}
)
FREE_BYTES_MIN: Final = 1 << 30
FREE_PART_MIN: Final = 0.05
INODES_PART_MIN: Final = 0.05

SYNCS: Final = 30
SYNC_BYTES: Final = 4096
SYNC_SECONDS_MAX: Final = 3.0  # of the whole measurement, on a disk that is slow
SYNC_SLOW_US: Final = 20_000.0
SYNC_VERY_FAST_US: Final = 15.0  # no disk does it in that time


def shared_memory(host: Host, plan: Plan, directory: Path = Path("/dev/shm")) -> Finding:
    means = (
        "The shards' rings and statistics lie here, without a name; where it is too small, in a memfd instead"
    )
    try:
        space = os.statvfs(directory)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        found = f"{directory}: {error.strerror}"
        do = "Mount a tmpfs there that the broker's user may write to (containers: --shm-size, an emptyDir of medium Memory)"
        return Finding("shared_memory", "fail", found, means, do)
    free = space.f_bavail * space.f_frsize
    found = f"{size(free)} free of {size(space.f_blocks * space.f_frsize)}; rings take up to {size(plan.rings_bytes)}"
    values = {"free_bytes": free, "rings_bytes": plan.rings_bytes}
    if free < plan.rings_bytes:
        do = f"Nothing has to be done; --shm-size={plan.rings_bytes >> 20}m makes it appear as shared memory again"
        return Finding("shared_memory", "warn", found, means, do, values)
    return Finding("shared_memory", "ok", found, means, values=values)


def existing(path: Path) -> Path:
    """The path, or the nearest directory above it that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def mount_of(path: Path, mountinfo: str) -> tuple[str, str, set[str]]:
    """(mount point, type, options) of the file system that has a path; proc(5), /proc/PID/mountinfo."""
    best = ("/", "unknown", set[str]())
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kinds = left.split(), right.split()
        if len(fields) < 6 or not kinds:
            continue
        point = fields[4].encode().decode("unicode_escape")
        # Of two mounts on one point the later hides the earlier.
        if path.is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, kinds[0], set(fields[5].split(",")) | set((kinds[2:] or [""])[0].split(",")))
    return best


def store_file_system(host: Host, plan: Plan) -> Finding:
    assert plan.store is not None
    path = existing(plan.store).resolve()
    point, kind, options = mount_of(path, host.text("/proc/self/mountinfo") or "")
    space = os.statvfs(path)
    free, whole = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
    found = f"{plan.store}: {kind} on {point}, {size(free)} free of {size(whole)}"
    values = {"type": kind, "mount": point, "free_bytes": free, "size_bytes": whole}
    if not os.access(path, os.W_OK | os.X_OK) or "ro" in options:
        means = "Streams cannot be written, so the broker does not start"
        do = f"Let the broker's user write to {path} (ReadWritePaths= of the unit, a volume of the container)"
        return Finding("store_file_system", "fail", f"{found}; not writable", means, do, values)
    for kinds, means in (
        (VOLATILE, "Streams are gone when the machine starts again, however they are synchronised"),
        (LAYERED, "A container's own layer: streams are gone with the container, and writing is slow"),
        (
            DISTANT,
            "Over a network fdatasync takes long, and may promise what it does not keep; locks may not hold",
        ),
    ):
        if kind in kinds:
            do = (
                "A local file system (ext4, xfs) on a disk of its own: store_dir of jetstream {}, or a volume"
            )
            return Finding("store_file_system", "warn", found, means, do, values)
    if free < FREE_BYTES_MIN or (whole and free < FREE_PART_MIN * whole):
        means = "When it is full, publishes are refused until there is room again; nothing that was stored is lost"
        do = "Free some, or bound streams by max_file_store and their max_bytes"
        return Finding("store_file_system", "warn", found, means, do, values)
    if space.f_files and space.f_favail < INODES_PART_MIN * space.f_files:
        do = "Remove files, or make the file system anew with more inodes"
        return Finding(
            "store_file_system",
            "warn",
            f"{found}; {space.f_favail} inodes left",
            "No new segments",
            do,
            values,
        )
    return Finding("store_file_system", "ok", found, "Streams are written here", values=values)


def store_sync(host: Host, plan: Plan) -> Finding:
    assert plan.store is not None
    means = (
        "A publish is acknowledged after fdatasync; all that arrive meanwhile share the next one"
        if plan.sync_always
        else "The disk is synchronised in the background, and what came since is lost with the machine's power"
    )
    try:
        times = sync_times_us(existing(plan.store))
    except OSError as error:
        do = "See store_file_system"
        return Finding("store_sync", "fail", f"cannot be measured: {error.strerror}", means, do)
    middle, most = statistics.median(times), max(times)
    values = {"median_us": round(middle, 1), "max_us": round(most, 1), "count": len(times)}
    found = (
        f"{SYNC_BYTES} bytes and fdatasync: {_time(middle)} median, {_time(most)} at most, {len(times)} times"
    )
    if middle > SYNC_SLOW_US:
        do = "A disk with a write cache that survives power cuts, or sync_interval, if the loss may be"
        return Finding("store_sync", "warn", found, f"{means}; each publisher waits so long", do, values)
    if middle < SYNC_VERY_FAST_US:
        means += ". No disk is so fast: it is memory, or synchronising is switched off somewhere below"
        do = "Make sure that the host does not ignore flushes (cache=unsafe, nobarrier, eatmydata)"
        return Finding("store_sync", "warn", found, means, do, values)
    return Finding("store_sync", "ok", found, means, values=values)


def sync_times_us(directory: Path) -> list[float]:
    """Microseconds of appending a little and synchronising, as the store does; raises OSError."""
    times: list[float] = []
    with tempfile.TemporaryFile(dir=directory, prefix=".shardbroker-doctor-", buffering=0) as file:
        # The length is allocated before, as in the store: else each sync writes the file's size as well.
        os.posix_fallocate(file.fileno(), 0, SYNC_BYTES * SYNCS)
        os.fsync(file.fileno())
        end = time.monotonic() + SYNC_SECONDS_MAX
        while len(times) < SYNCS and (not times or time.monotonic() < end):
            block = os.urandom(SYNC_BYTES)
            begin = time.perf_counter_ns()
            file.write(block)
            os.fdatasync(file.fileno())
            times.append((time.perf_counter_ns() - begin) / 1e3)
    return times


def _time(us: float) -> str:
    return f"{us / 1e6:.2f} s" if us >= 1e6 else f"{us / 1e3:.2f} ms" if us >= 1e3 else f"{us:.0f} µs"
