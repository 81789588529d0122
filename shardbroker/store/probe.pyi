"""A door for tests, tools and benchmarks. Nothing of the broker uses it."""

from typing import Any

from shardbroker.store.handle import Filter, Log

def crc32c(data: bytes, seed: int = 0) -> int: ...
def crc32c_each(data: bytes, seed: int = 0) -> tuple[int | None, int]:
    """(by the processor or None, by tables)."""

class Files:
    """A file interface whose functions are the methods of `disk`; see tests/sim/disk.py. They raise OSError."""

    disk: Any
    def __init__(self, disk: Any) -> None: ...
    @property
    def address(self) -> int: ...

def fill(
    log: Log, subjects: list[bytes], payload: bytes, count: int, turn: int = 256, time_ns: int = 1
) -> int:
    """Appends `count` messages, over the subjects in turn; submits after every `turn`. How many were taken."""

def walk(log: Log, filter: Filter | None = None, from_seq: int = 1) -> tuple[int, int]:
    """Reads every message that matches: (how many, bytes of their tails)."""

def gets(log: Log, seqs: list[int]) -> int:
    """Reads these sequences; how many are there."""

def faults() -> int:
    """Pages of mapped files that could not be read so far, in this process."""
