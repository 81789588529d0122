"""All that is looked at, in the order in which it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from shardbroker.doctor import clock, kernel, resources, software, storage
from shardbroker.doctor.finding import Finding
from shardbroker.doctor.host import Host
from shardbroker.doctor.plan import Plan
from shardbroker.options import Options

OF_MACHINE: Final[tuple[Callable[[Host, Plan], Finding], ...]] = (
    resources.open_files,
    resources.locked_memory,
    resources.processors,
    resources.frequency,
    resources.memory,
    resources.core_dumps,
    kernel.listen_queue,
    kernel.port_range,
    kernel.overcommit,
    kernel.huge_pages,
    kernel.system_calls,
    kernel.clock_source,
    clock.clock_sync,
    storage.shared_memory,
)
OF_STORE: Final[tuple[Callable[[Host, Plan], Finding], ...]] = (storage.store_file_system, storage.store_sync)


def examine(read: Callable[[], Options], host: Host) -> list[Finding]:
    """Findings for the broker that `read()` describes. What `read` raises goes through.

    When the compiled modules cannot be used nothing but the installation is looked at: options are read with them.
    """
    found = [software.versions(), software.libraries(), software.extensions()]
    if any(finding.level == "fail" for finding in found):
        return found
    plan = Plan.of(read(), host.usable)
    found += [check(host, plan) for check in OF_MACHINE]
    if plan.store is not None:
        found += [check(host, plan) for check in OF_STORE]
    return found
