"""Types of layout.pyx."""
from collections.abc import Sequence
from typing import Any, NamedTuple, final

MAGIC: int
VERSION: int
SHARDS_MAX: int
LAG_BUCKETS: int
RECORD_KIND_MAX: int
DIRECTORY_PARTITIONS: int
DIRECTORY_LEVELS: int
RING_BYTES_MIN: int
RING_BYTES_MAX: int
SLOT_EMPTY: int
SLOT_BOOTING: int
SLOT_READY: int
SLOT_DEAD: int
SLOT_STATES: tuple[str, ...]
LEVEL_BITS: tuple[int, int, int, int]

class LayoutError(Exception): ...

class Field(NamedTuple):
    name: str
    offset: int
    bytes: int
    count: int  # type: ignore[assignment]

class SlotRow(NamedTuple):
    pid: int
    epoch: int
    state: int
    restarts: int
    booted_unix_ns: int
    heartbeat_ns: int
    turn: int
    attached: int
    asleep: int

def structs() -> dict[str, tuple[int, tuple[Field, ...]]]: ...
def dtype_spec(name: str) -> Any: ...
def format_segment(
    fd: int, *, shards: int, ring_bytes: int, control_ring_bytes: int, level_bits: Sequence[int] = ...
) -> None: ...

@final
class SegmentMap:
    fd: int
    mapped_bytes: int
    writable: bool
    def __init__(self, fd: int, writable: bool = True) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    @property
    def shards(self) -> int: ...
    @property
    def ring_bytes(self) -> int: ...
    @property
    def control_ring_bytes(self) -> int: ...
    @property
    def segment_bytes(self) -> int: ...
    @property
    def membership(self) -> int: ...
    def header_fields(self) -> dict[str, Any]: ...
    def check(self) -> None: ...
    def close(self) -> None: ...
    def slot_row(self, shard: int) -> SlotRow: ...
    def ready_shards(self) -> list[int]: ...
    def mark_booting(self, shard: int) -> int: ...
    def set_pid(self, shard: int, pid: int) -> None: ...
    def mark_ready(self, shard: int) -> None: ...
    def mark_dead(self, shard: int) -> None: ...
