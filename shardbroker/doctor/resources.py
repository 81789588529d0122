"""What the processes may use: descriptors, locked memory, processors, memory."""

from __future__ import annotations

from shardbroker.doctor.finding import Finding, size
from shardbroker.doctor.host import UNLIMITED, Host
from shardbroker.doctor.plan import Plan
from shardbroker.front.placement import connections_of
from shardbroker.ipc import cores

# Below this a shard is of no use: its own descriptors, and a few clients.
OPEN_FILES_MIN = 256
# The interpreter and the libraries of a shard, as measured, and as much again for connections and subscriptions.
SHARD_BYTES = 96 << 20


def open_files(host: Host, plan: Plan) -> Finding:
    hard = host.open_files[1]
    values = {"hard": hard, "soft": host.open_files[0]}
    means = "Each connection is one descriptor in its shard; the broker takes the hard limit by itself"
    do = "Raise the hard limit: LimitNOFILE= of the systemd unit, --ulimit nofile= of a container, or limits.conf"
    if hard == UNLIMITED:
        return Finding("open_files", "ok", "no limit", means, values=values)
    room = plan.workers * connections_of(hard, plan.workers)
    values["room_connections"] = room
    found = f"{hard} for each process: room for {room} connections with {plan.workers} workers"
    if hard < OPEN_FILES_MIN:
        return Finding(
            "open_files", "fail", found, f"{means}; under {OPEN_FILES_MIN} it cannot work", do, values
        )
    if plan.connections_max > room:
        less = f"{found}, while max_connections is {plan.connections_max}"
        return Finding(
            "open_files", "warn", less, f"{means}; who comes when there is no room is refused", do, values
        )
    return Finding("open_files", "ok", found, means, values=values)


def locked_memory(host: Host, plan: Plan) -> Finding:
    soft = host.locked_memory[0]
    found = "no limit" if soft == UNLIMITED else size(soft)
    means = "The broker locks no memory, so any limit will do; keep it from being swapped out by other means"
    swap = (host.meminfo("SwapTotal") or 0) - (host.meminfo("SwapFree") or 0)
    values = {"soft_bytes": soft, "swap_used_bytes": max(swap, 0)}
    if swap > (host.meminfo("MemTotal") or 0) // 20:
        return Finding(
            "locked_memory",
            "warn",
            f"{found}; {size(swap)} are swapped out",
            f"{means}. A shard that waits for a page to come back serves nobody meanwhile",
            "Give the machine more memory, or MemorySwapMax=0 to the unit",
            values,
        )
    return Finding("locked_memory", "ok", found, means, values=values)


def processors(host: Host, plan: Plan) -> Finding:
    quota = host.cpu_quota()
    values: dict[str, object] = {
        "processors": host.processors, "usable": host.usable, "workers": plan.workers,
    }  # fmt: skip
    found = f"{host.processors}, {host.usable} of them usable"
    if quota is not None:
        values["quota"] = quota
        found += f", {quota:g} by quota"
    found += f"; {plan.workers} workers"
    can = min(host.usable, quota if quota is not None else host.usable)
    if quota is not None and plan.workers > quota:
        means = "A group that has used up its quota stands still for the rest of the period, up to 0.1 s, with all shards"
        do = f"Set workers to at most {max(1, int(quota))}, or raise the quota (CPUQuota=, limits.cpu)"
        return Finding("processors", "warn", found, means, do, values)
    if plan.workers > can:
        means = "Shards share processors and wait for each other: more workers than processors are slower than fewer"
        do = f"Set workers to at most {max(1, int(can))}; `shardbroker tune` measures which number is best"
        return Finding("processors", "warn", found, means, do, values)
    means = "A shard uses one processor; leave some to clients and to the kernel's network stack"
    return Finding("processors", "ok", found, means, values=values)


def frequency(host: Host, plan: Plan) -> Finding:
    governor = host.text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    means = (
        "A shard sleeps and wakes for each batch; a processor that is slow to speed up adds to every delay"
    )
    if governor is None:
        return Finding("frequency", "ok", "not ours to set", f"{means}; the host of this machine decides")
    driver = host.text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_driver") or ""
    values = {"governor": governor, "driver": driver}
    # intel_pstate and amd-pstate-epp choose by themselves under this name.
    if governor == "powersave" and "pstate" not in driver:
        do = "cpupower frequency-set -g performance (or schedutil)"
        return Finding("frequency", "warn", f"governor {governor}", means, do, values)
    return Finding("frequency", "ok", f"governor {governor}", means, values=values)


def memory(host: Host, plan: Plan) -> Finding:
    bound = host.memory_bound()
    need = plan.rings_bytes + (plan.workers + 1) * SHARD_BYTES
    values = {"bound_bytes": bound, "processes_and_rings_bytes": need}
    found = f"{size(bound)}; processes and full rings take {size(need)}"
    means = (
        "Rings take memory as far as they are used, clients who read slowly up to max_pending each; "
        "out of memory, the kernel kills a shard, and it is replaced"
    )
    if need > bound:
        do = "Fewer workers or smaller rings (--ring-size), or a higher bound (MemoryMax=, limits.memory)"
        return Finding("memory", "warn", found, means, do, values)
    return Finding("memory", "ok", found, means, values=values)


def core_dumps(host: Host, plan: Plan) -> Finding:
    pattern = host.text(cores.CORE_PATTERN)
    soft, hard = host.core
    where = "core_pattern cannot be read" if pattern is None else f'core_pattern "{pattern}"'
    values: dict[str, object] = {"allowed": plan.core_dumps, "soft": soft, "hard": hard, "core_pattern": pattern}
    secrets = "A core has the secrets of the configuration and of clients, and their messages"
    if plan.core_dumps:
        if cores.forbids(pattern, soft):
            found = f"core_dumps is set, but the limit that the broker is started with is {soft}; {where}"
            do = "LimitCORE=infinity of the systemd unit, --ulimit core=-1 of a container, or ulimit -c unlimited"
            return Finding("core_dumps", "warn", found, "There will be none", do, values)
        found = f"allowed by core_dumps; {where}"
        do = "shardbroker { core_dumps: false } once the fault is found"
        return Finding("core_dumps", "warn", found, secrets, do, values)
    if cores.forbids(pattern, cores.LIMIT if hard != 0 else 0):
        return Finding("core_dumps", "ok", f"forbidden by a limit; {where}", f"{secrets}: so there are none", values=values)
    means = f"{secrets}: so there are none. /proc of its processes belongs to root, and only root can attach a debugger"
    return Finding("core_dumps", "ok", f"forbidden, the processes are not dumpable; {where}", means, values=values)
