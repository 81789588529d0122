"""Each check of the doctor on a machine made of files: good ones pass, and what is bad is said."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from shardbroker.doctor import clock, kernel, resources, storage
from shardbroker.doctor.finding import Finding, worst
from shardbroker.doctor.host import UNLIMITED, Host
from shardbroker.doctor.plan import Plan
from shardbroker.options import JetStreamSettings, Options

MIB = 1 << 20
GIB = 1 << 30
CLOCK = "/sys/devices/system/clocksource/clocksource0/"
HUGE = "/sys/kernel/mm/transparent_hugepage/"
CPU = "/sys/devices/system/cpu/cpu0/cpufreq/"
PLAN = Plan(workers=2, connections_max=1000, rings_bytes=8 * MIB, port=4222, store=None, sync_always=True)
GOOD = {
    "/proc/meminfo": "MemTotal: 8388608 kB\nSwapTotal: 1024 kB\nSwapFree: 1024 kB",
    "/proc/self/cgroup": "0::/",
    "/proc/sys/kernel/core_pattern": "core",
    "/proc/sys/net/core/somaxconn": "4096",
    "/proc/sys/net/ipv4/ip_local_port_range": "32768\t60999",
    "/proc/sys/vm/overcommit_memory": "0",
    HUGE + "enabled": "always [madvise] never",
    HUGE + "shmem_enabled": "always within_size advise [never] deny force",
    HUGE + "defrag": "always defer defer+madvise [madvise] never",
    CLOCK + "current_clocksource": "tsc",
    CLOCK + "available_clocksource": "tsc hpet acpi_pm",
    CPU + "scaling_governor": "performance",
    CPU + "scaling_driver": "acpi-cpufreq",
}


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., Host]:
    """A good machine with these files changed (None: missing), and these fields of Host."""

    def make(files: dict[str, str | None] | None = None, **fields: object) -> Host:
        for name, text in {**GOOD, **(files or {})}.items():
            path = tmp_path / name[1:]
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                path.unlink(missing_ok=True)
            else:
                path.write_text(text + "\n")
        host = Host(tmp_path, (1024, 100_000), (8 * MIB, 8 * MIB), core=(0, UNLIMITED), processors=8, usable=4)
        return dataclasses.replace(host, **fields)  # type: ignore[arg-type]

    return make


MACHINE = (
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
)


@pytest.mark.parametrize("check", MACHINE, ids=lambda check: check.__name__)
def test_a_good_machine(machine: Callable[..., Host], check: Callable[[Host, Plan], Finding]) -> None:
    found = check(machine(), PLAN)
    assert (found.level, found.name, found.do) == ("ok", check.__name__, "")
    assert found.found
    assert found.means


@pytest.mark.parametrize("check", [*MACHINE, kernel.clock_source], ids=lambda check: check.__name__)
def test_a_container_that_hides_everything(tmp_path: Path, check: Callable[[Host, Plan], Finding]) -> None:
    """Files that cannot be read are no error of the broker's, and no exception."""
    host = Host(tmp_path / "nothing", (UNLIMITED, UNLIMITED), (UNLIMITED, UNLIMITED), processors=4, usable=4)
    assert check(host, PLAN).level in ("ok", "warn")


@pytest.mark.parametrize(
    ("hard", "level"), [(100, "fail"), (255, "fail"), (400, "warn"), (100_000, "ok"), (UNLIMITED, "ok")]
)
def test_open_files(machine: Callable[..., Host], hard: int, level: str) -> None:
    found = resources.open_files(machine(open_files=(64, hard)), PLAN)
    assert found.level == level
    assert bool(found.do) == (level != "ok")


def test_open_files_are_judged_by_what_is_promised(machine: Callable[..., Host]) -> None:
    plan = dataclasses.replace(PLAN, connections_max=10_000_000)
    found = resources.open_files(machine(), plan)
    assert found.level == "warn"
    assert "max_connections is 10000000" in found.found
    assert found.values["room_connections"] == 2 * (100_000 - 32 - 2 - 256)


@pytest.mark.parametrize(
    ("pattern", "core", "allowed", "level", "words"),
    [
        ("core", (0, UNLIMITED), False, "ok", "forbidden by a limit"),
        ("|/bin/x", (UNLIMITED, UNLIMITED), False, "ok", "forbidden by a limit"),
        ("|/bin/x", (0, 0), False, "ok", "not dumpable"),
        ("@/run/x", (0, UNLIMITED), False, "ok", "not dumpable"),
        (None, (0, UNLIMITED), False, "ok", "not dumpable"),
        ("core", (UNLIMITED, UNLIMITED), True, "warn", "allowed by core_dumps"),
        ("|/bin/x", (0, 0), True, "warn", "allowed by core_dumps"),
        ("core", (0, UNLIMITED), True, "warn", "the limit that the broker is started with is 0"),
    ],
)  # fmt: skip
def test_core_dumps(
    machine: Callable[..., Host], pattern: str | None, core: tuple[int, int], allowed: bool, level: str, words: str
) -> None:
    host = machine({"/proc/sys/kernel/core_pattern": pattern}, core=core)
    found = resources.core_dumps(host, dataclasses.replace(PLAN, core_dumps=allowed))
    assert (found.level, bool(found.do)) == (level, level == "warn")
    assert words in found.found
    assert ("not dumpable" in words) == ("only root can attach" in found.means)


@pytest.mark.parametrize(
    ("files", "usable", "workers", "level"),
    [
        ({}, 4, 4, "ok"),
        ({}, 4, 5, "warn"),
        ({"/sys/fs/cgroup/cpu.max": "max 100000"}, 4, 4, "ok"),
        ({"/sys/fs/cgroup/cpu.max": "150000 100000"}, 4, 1, "ok"),
        ({"/sys/fs/cgroup/cpu.max": "150000 100000"}, 4, 2, "warn"),
        # The group above is the tighter one.
        (
            {
                "/proc/self/cgroup": "0::/a/b",
                "/sys/fs/cgroup/a/b/cpu.max": "400000 100000",
                "/sys/fs/cgroup/a/cpu.max": "100000 100000",
            },
            4,
            2,
            "warn",
        ),
        # Version 1.
        (
            {
                "/proc/self/cgroup": "4:cpu,cpuacct:/x\n1:name=systemd:/",
                "/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "50000",
                "/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000",
            },
            4,
            1,
            "warn",
        ),
    ],
)
def test_processors(
    machine: Callable[..., Host], files: dict[str, str], usable: int, workers: int, level: str
) -> None:
    found = resources.processors(machine(files, usable=usable), dataclasses.replace(PLAN, workers=workers))
    assert found.level == level


def test_memory_is_the_groups(machine: Callable[..., Host]) -> None:
    host = machine({"/sys/fs/cgroup/memory.max": str(256 * MIB)})
    assert host.memory_bound() == 256 * MIB
    assert resources.memory(host, PLAN).level == "warn"
    assert machine({"/sys/fs/cgroup/memory.max": "max"}).memory_bound() == 8 * GIB


@pytest.mark.parametrize(
    ("check", "files", "says"),
    [
        (resources.locked_memory, {"/proc/meminfo": "MemTotal: 1000 kB\nSwapTotal: 900 kB\nSwapFree: 0 kB"}, "swapped out"),
        (resources.frequency, {CPU + "scaling_governor": "powersave"}, "powersave"),
        (kernel.listen_queue, {"/proc/sys/net/core/somaxconn": "128"}, "somaxconn 128"),
        (kernel.port_range, {"/proc/sys/net/ipv4/ip_local_port_range": "1024 60999"}, "4222"),
        (kernel.port_range, {"/proc/sys/net/ipv4/ip_local_port_range": "60000 60999"}, "60000 to 60999"),
        (kernel.overcommit, {"/proc/sys/vm/overcommit_memory": "2"}, "strict"),
        (kernel.huge_pages, {HUGE + "shmem_enabled": "[always] never"}, "shmem_enabled always"),
        (kernel.huge_pages, {HUGE + "enabled": "[always]", HUGE + "defrag": "[always]"}, "defrag always"),
        (kernel.clock_source, {CLOCK + "current_clocksource": "hpet"}, "hpet"),
    ],
)  # fmt: skip
def test_a_bad_setting(
    machine: Callable[..., Host], check: Callable[[Host, Plan], Finding], files: dict[str, str], says: str
) -> None:
    found = check(machine(files), PLAN)
    assert found.level == "warn"
    assert says in found.found
    assert found.do


def test_a_clock_is_chosen_from_those_that_are_there(machine: Callable[..., Host]) -> None:
    assert "echo tsc >" in kernel.clock_source(machine({CLOCK + "current_clocksource": "hpet"}), PLAN).do
    other = {CLOCK + "current_clocksource": "hpet", CLOCK + "available_clocksource": "hpet"}
    assert "echo" not in kernel.clock_source(machine(other), PLAN).do


def test_a_port_that_is_reserved_may_lie_in_the_range(machine: Callable[..., Host]) -> None:
    files = {
        "/proc/sys/net/ipv4/ip_local_port_range": "1024 60999",
        "/proc/sys/net/ipv4/ip_local_reserved_ports": "80,4000-4300",
    }
    assert kernel.port_range(machine(files), PLAN).level == "ok"


def test_powersave_of_a_driver_that_chooses_by_itself(machine: Callable[..., Host]) -> None:
    files = {CPU + "scaling_governor": "powersave", CPU + "scaling_driver": "intel_pstate"}
    assert resources.frequency(machine(files), PLAN).level == "ok"


@pytest.mark.parametrize(
    ("state", "status", "error_us", "level"),
    [(0, 0x2001, 1500, "ok"), (0, 0x2001, 5_000_000, "warn"), (5, 0x40, 16_000_000, "warn"), (0, 0x41, 10, "warn")],
)  # fmt: skip
def test_the_clock(state: int, status: int, error_us: int, level: str) -> None:
    assert clock.judge(clock.Kept(state, status, error_us)).level == level


def test_the_kernel_is_asked_for_real() -> None:
    try:
        kept = clock.ask_kernel()
    except PermissionError:
        pytest.skip("adjtimex is forbidden here")
    assert 0 <= kept.state <= clock.TIME_ERROR
    assert kept.error_max_us >= 0


def test_calls_that_are_forbidden_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernel.system_calls(Host(), PLAN).level == "ok"

    def forbidden(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.pidfd_open", forbidden)
    found = kernel.system_calls(Host(), PLAN)
    assert (found.level, found.found) == ("fail", "cannot be used: pidfd_open (Operation not permitted)")


# -- disks --

MOUNTS = r"""
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:26 / /dev/shm rw,nosuid - tmpfs tmpfs rw,size=65536k
31 22 0:27 / /srv/a\040b rw - nfs4 server:/x rw,vers=4.2
32 22 0:28 / /srv/ro rw - xfs /dev/vdb ro
33 31 0:29 / /srv/a\040b/c rw shared:1 master:2 - xfs /dev/vdc rw
"""


@pytest.mark.parametrize(
    ("path", "point", "kind"),
    [
        ("/var/lib", "/", "ext4"),
        ("/dev/shm/x", "/dev/shm", "tmpfs"),
        ("/dev/shmx", "/", "ext4"),
        ("/srv/a b/d", "/srv/a b", "nfs4"),
        ("/srv/a b/c/d", "/srv/a b/c", "xfs"),
    ],
)
def test_the_mount_of_a_path(path: str, point: str, kind: str) -> None:
    assert storage.mount_of(Path(path), MOUNTS)[:2] == (point, kind)


def test_a_mount_whose_file_system_is_read_only() -> None:
    assert "ro" in storage.mount_of(Path("/srv/ro/x"), MOUNTS)[2]


@pytest.mark.parametrize(
    ("line", "level", "says"),
    [
        ("1 0 0:1 / / rw - ext4 d rw", "ok", ""),
        ("1 0 0:1 / / rw - tmpfs d rw", "warn", "gone when the machine"),
        ("1 0 0:1 / / rw - overlay d rw", "warn", "gone with the container"),
        ("1 0 0:1 / / rw - nfs4 d rw", "warn", "Over a network"),
        ("1 0 0:1 / / ro - ext4 d rw", "fail", "does not start"),
        ("1 0 0:1 / / rw - ext4 d ro", "fail", "does not start"),
    ],
)
def test_the_file_system_of_the_store(
    machine: Callable[..., Host],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    level: str,
    says: str,
) -> None:
    monkeypatch.setattr(storage, "FREE_BYTES_MIN", 0)
    monkeypatch.setattr(storage, "FREE_PART_MIN", 0)
    plan = dataclasses.replace(PLAN, store=tmp_path / "not" / "yet")
    found = storage.store_file_system(machine({"/proc/self/mountinfo": line}), plan)
    assert found.level == level
    assert says in found.means


def test_a_disk_that_is_nearly_full(
    machine: Callable[..., Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "FREE_BYTES_MIN", 1 << 62)
    host = machine({"/proc/self/mountinfo": "1 0 0:1 / / rw - ext4 d rw"})
    found = storage.store_file_system(host, dataclasses.replace(PLAN, store=tmp_path))
    assert (found.level, "refused" in found.means) == ("warn", True)


def test_synchronising_is_measured_and_leaves_nothing(tmp_path: Path) -> None:
    plan = dataclasses.replace(PLAN, store=tmp_path / "a" / "b")
    found = storage.store_sync(Host(), plan)
    assert found.level in ("ok", "warn")
    assert 1 <= found.values["count"] <= storage.SYNCS  # type: ignore[operator]
    assert 0 < found.values["median_us"] <= found.values["max_us"]  # type: ignore[operator]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("us", "level"), [(3.0, "warn"), (400.0, "ok"), (50_000.0, "warn")])
def test_how_long_synchronising_may_take(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, us: float, level: str
) -> None:
    monkeypatch.setattr(storage, "sync_times_us", lambda directory: [us, us, 10 * us])
    found = storage.store_sync(Host(), dataclasses.replace(PLAN, store=tmp_path))
    assert found.level == level


def test_a_directory_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(directory: Path) -> list[float]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(storage, "sync_times_us", fails)
    found = storage.store_sync(Host(), dataclasses.replace(PLAN, store=tmp_path))
    assert (found.level, found.found) == ("fail", "cannot be measured: Permission denied")


def test_shared_memory(tmp_path: Path) -> None:
    assert storage.shared_memory(Host(), PLAN, tmp_path).level == "ok"
    assert storage.shared_memory(Host(), PLAN, tmp_path / "none").level == "fail"
    large = dataclasses.replace(PLAN, rings_bytes=1 << 60)
    assert storage.shared_memory(Host(), large, tmp_path).level == "warn"


def test_the_plan_is_the_options() -> None:
    options = Options(
        workers=4,
        ring_bytes=MIB,
        control_ring_bytes=MIB,
        max_connections=-1,
        jetstream=JetStreamSettings(enabled=True, store_dir="/data", sync_interval=2.0),
    )
    plan = Plan.of(options, 8)
    assert plan == Plan(4, 0, 24 * MIB, 4222, Path("/data"), False)
    assert Plan.of(Options(), 1).store is None


def test_the_worst_decides() -> None:
    assert worst([]) == "ok"
    assert worst([Finding("a", level, "", "") for level in ("ok", "fail", "warn")]) == "fail"  # type: ignore[arg-type]
