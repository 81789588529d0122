"""Looking at logs on the disk: every record of every segment, without changing anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shardbroker.store.handle import Log, State, Store


@dataclass(frozen=True, slots=True)
class Report:
    """What is in one stream's directory."""

    directory: Path
    state: State
    segments: int
    torn_bytes: int  # behind the last whole batch; opening the log cuts them off
    damaged_bytes: int
    damaged_segments: int  # without a readable header
    lost: list[tuple[int, int]]  # sequences that should be there

    @property
    def sound(self) -> bool:
        return not (self.damaged_bytes or self.damaged_segments or self.lost)


def directories(top: Path) -> list[Path]:
    """Those with segments, `top` itself or below it."""
    return sorted({path.parent for path in top.rglob("*.seg")})


def verify(directory: Path) -> Report:
    """Reads all of it and compares every checksum. OSError when that cannot be done. Run it on a log that no broker has open, or
    what is being written looks torn."""
    store = Store(0, read_only=True)
    try:
        log = Log(store, str(directory), now_ns=1)  # nothing has expired
        found = log.recovered()
        report = Report(
            directory,
            log.state(),
            len(log.segments()),
            found["torn_bytes"],
            found["damaged_bytes"],
            found["damaged_segments"],
            log.lost(),
        )
        log.close()
        return report
    finally:
        store.close()
