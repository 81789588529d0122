"""Whether the wall clock is kept right. Times in streams, expiry of JWTs and deduplication windows depend on it."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Final

from shardbroker.doctor.finding import Finding
from shardbroker.doctor.host import Host
from shardbroker.doctor.plan import Plan

STA_UNSYNC: Final = 0x0040
TIME_ERROR: Final = 5
ERROR_LARGE_US: Final = 1_000_000


class _Timex(ctypes.Structure):
    """struct timex (adjtimex(2)), as far as it is read here, and room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


@dataclass(frozen=True, slots=True)
class Kept:
    """What the kernel says of its clock. Errors in microseconds."""

    state: int
    status: int
    error_max_us: int


def ask_kernel() -> Kept:
    """adjtimex without changing anything. Raises OSError where it is forbidden."""
    block = _Timex()
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(block))
    if state < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return Kept(state, int(block.status), int(block.maxerror))


def clock_sync(host: Host, plan: Plan) -> Finding:
    try:
        return judge(ask_kernel())
    except OSError as error:
        why = error.strerror or str(error)
        return Finding(
            "clock_sync", "warn", f"cannot be told: {why}", _MEANS, "Look at it on the host: timedatectl"
        )


_MEANS: Final = "Times of messages, ages of streams and the expiry of credentials are by the wall clock; time-outs are not"


def judge(kept: Kept) -> Finding:
    """What it means that the kernel says this."""
    values = {"state": kept.state, "status": kept.status, "error_max_us": kept.error_max_us}
    if kept.state == TIME_ERROR or kept.status & STA_UNSYNC:
        do = "Run chronyd or systemd-timesyncd here, or on the host when this is a container"
        return Finding("clock_sync", "warn", "not synchronised", _MEANS, do, values)
    found = f"synchronised, at most {kept.error_max_us / 1000:.0f} ms off"
    if kept.error_max_us > ERROR_LARGE_US:
        do = "Look at what the time daemon says: chronyc tracking"
        return Finding("clock_sync", "warn", found, _MEANS, do, values)
    return Finding("clock_sync", "ok", found, _MEANS, values=values)
