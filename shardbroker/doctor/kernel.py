"""Settings and facilities of the kernel."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

from shardbroker.doctor.finding import Finding
from shardbroker.doctor.host import Host
from shardbroker.doctor.plan import Plan

LISTEN_QUEUE_MIN = 1024  # of a reconnect storm; Linux's default since 5.4 is 4096
PORTS_MIN = 10_000
# Sources that are read without a system call.
CLOCKS_FAST = ("tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter", "xen", "pvclock")
CLOCK_READ_SLOW_NS = 1000.0
SLEEP_LATE_US = 1000.0


def listen_queue(host: Host, plan: Plan) -> Finding:
    value = host.number("/proc/sys/net/core/somaxconn")
    means = "So many connections may wait for the front; in a reconnect storm more are dropped, and try again after a second"
    if value is None:
        return Finding(
            "listen_queue", "warn", "net.core.somaxconn cannot be read", means, "Look at it on the host"
        )
    if value < LISTEN_QUEUE_MIN:
        do = f"sysctl -w net.core.somaxconn=4096 (at least {LISTEN_QUEUE_MIN})"
        return Finding("listen_queue", "warn", f"net.core.somaxconn {value}", means, do, {"somaxconn": value})
    return Finding("listen_queue", "ok", f"net.core.somaxconn {value}", means, values={"somaxconn": value})


def port_range(host: Host, plan: Plan) -> Finding:
    words = (host.text("/proc/sys/net/ipv4/ip_local_port_range") or "").split()
    means = "Ports that outgoing connections take: a client on this machine, or behind one address, is limited by their number"
    if len(words) != 2 or not all(word.isdigit() for word in words):
        return Finding("port_range", "ok", "net.ipv4.ip_local_port_range cannot be read", means)
    low, high = map(int, words)
    values = {"low": low, "high": high}
    found = f"net.ipv4.ip_local_port_range {low} to {high}"
    reserved = host.text("/proc/sys/net/ipv4/ip_local_reserved_ports") or ""
    if low <= plan.port <= high and not _in_ranges(plan.port, reserved):
        worse = f"{found}, which has the clients' port {plan.port} in it"
        means = "Any program's outgoing connection may have the port when the broker starts, which then cannot listen"
        do = f"sysctl -w net.ipv4.ip_local_reserved_ports={plan.port}, or another port"
        return Finding("port_range", "warn", worse, means, do, values)
    if high - low + 1 < PORTS_MIN:
        do = 'sysctl -w net.ipv4.ip_local_port_range="32768 60999"'
        return Finding("port_range", "warn", found, means, do, values)
    return Finding("port_range", "ok", found, means, values=values)


def _in_ranges(port: int, text: str) -> bool:
    for part in text.split(","):
        low, _, high = part.strip().partition("-")
        if low.isdigit() and int(low) <= port <= int(high if high.isdigit() else low):
            return True
    return False


def overcommit(host: Host, plan: Plan) -> Finding:
    value = host.number("/proc/sys/vm/overcommit_memory")
    means = "The segment that shards share is large and mostly never touched"
    if value == 2:
        do = "sysctl -w vm.overcommit_memory=0, or give it room with vm.overcommit_ratio"
        worse = f"{means}; with strict accounting the start may fail for lack of memory"
        return Finding("overcommit", "warn", "vm.overcommit_memory 2 (strict)", worse, do, {"mode": 2})
    found = "vm.overcommit_memory " + ("cannot be read" if value is None else str(value))
    return Finding("overcommit", "ok", found, means)


def huge_pages(host: Host, plan: Plan) -> Finding:
    top = "/sys/kernel/mm/transparent_hugepage"
    enabled, shared, defrag = (
        host.chosen(f"{top}/{name}") for name in ("enabled", "shmem_enabled", "defrag")
    )
    if enabled is None:
        return Finding(
            "huge_pages", "ok", "the kernel has no transparent huge pages", "Nothing to look after"
        )
    values = {"enabled": enabled, "shmem_enabled": shared or "", "defrag": defrag or ""}
    found = f"enabled {enabled}, shmem_enabled {shared or 'unknown'}, defrag {defrag or 'unknown'}"
    if shared in ("always", "force", "within_size") and plan.workers > 1:
        means = (
            "Every touched part of a ring takes 2 MiB instead of 4 KiB: a little faster, and much more memory"
        )
        do = f"echo never > {top}/shmem_enabled, unless memory does not matter"
        return Finding("huge_pages", "warn", found, means, do, values)
    if enabled == "always" and defrag == "always":
        means = (
            "A page fault may wait for the kernel to make a huge page: shards stand still for milliseconds"
        )
        do = f"echo madvise > {top}/defrag"
        return Finding("huge_pages", "warn", found, means, do, values)
    return Finding(
        "huge_pages", "ok", found, "No page of the rings is made huge behind their back", values=values
    )


def clock_source(host: Host, plan: Plan) -> Finding:
    top = "/sys/devices/system/clocksource/clocksource0"
    source = host.text(f"{top}/current_clocksource") or "unknown"
    cost = _cost_ns(time.monotonic_ns)
    values = {"source": source, "read_ns": round(cost, 1)}
    found = f"{source}, {cost:.0f} ns a reading"
    means = "Every turn of a shard reads the clock several times"
    if cost > CLOCK_READ_SLOW_NS or source not in (*CLOCKS_FAST, "unknown"):
        others = (host.text(f"{top}/available_clocksource") or "").split()
        fast = next((name for name in CLOCKS_FAST if name in others), "")
        means += "; this source is asked by a system call, which costs a hundred times as much"
        do = (
            f"echo {fast} > {top}/current_clocksource"
            if fast
            else "Ask whoever runs the host for a better one (tsc)"
        )
        return Finding("clock_source", "warn", found, means, do, values)
    return Finding("clock_source", "ok", found, means, values=values)


def _cost_ns(call: Callable[[], int], rounds: int = 2000) -> float:
    """The cheapest of some rounds: what else runs here makes the others dear."""
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter_ns()
        for _ in range(rounds):
            call()
        best = min(best, (time.perf_counter_ns() - begin) / rounds)
    return best


def system_calls(host: Host, plan: Plan) -> Finding:
    """Tried, not looked up: kernels are old, and containers forbid."""
    missing = []
    for name, attempt in (
        ("pidfd_open", _pidfd),
        ("eventfd", _eventfd),
        ("memfd_create", _memfd),
        ("AF_UNIX", _pair),
    ):
        try:
            attempt()
        except (OSError, AttributeError) as error:
            missing.append(f"{name} ({getattr(error, 'strerror', None) or error})")
    means = "Shards are watched with pidfd_open, woken with eventfd, and get connections over AF_UNIX"
    if missing:
        do = "A kernel of 5.4 or newer; in a container, a seccomp profile that allows these calls"
        found = "cannot be used: " + ", ".join(missing)
        return Finding("system_calls", "fail", found, means, do, {"missing": missing})
    return Finding("system_calls", "ok", "all that is needed can be used", means)


def _pidfd() -> None:
    os.close(os.pidfd_open(os.getpid()))


def _eventfd() -> None:
    os.close(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))


def _memfd() -> None:
    os.close(os.memfd_create("shardbroker-doctor"))


def _pair() -> None:
    for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET):
        end.close()
