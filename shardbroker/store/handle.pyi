"""Store and Log as Python objects. Every call is one shard's thread only; times are Unix nanoseconds."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

class StoreError(Exception):
    """A call that could not be done; `code` is one of the LOG_ numbers of store/model.pxd."""

    code: int

class Message(NamedTuple):
    seq: int
    time_ns: int
    subject: bytes
    headers: bytes  # with the version line and the empty line; b"" if there are none
    payload: bytes  # without headers
    expires_ns: int  # 0: no TTL of its own

class SubjectState(NamedTuple):
    msgs: int
    first: int
    last: int

class State(NamedTuple):
    msgs: int
    bytes: int
    first_seq: int
    first_time_ns: int
    last_seq: int
    last_time_ns: int
    num_subjects: int
    num_deleted: int

class Store:
    """The helper threads of one shard. With threads=0 jobs run inside run(): for tests and the simulator."""

    eventfd: Final[int]
    def __init__(self, threads: int = 2, files: object | None = None, read_only: bool = False) -> None:
        """read_only: nothing on the disk is changed, whatever is done; for tools that look."""
    def collect(self) -> int:
        """Finished jobs become durable_seq and callbacks; call when `eventfd` is readable. How many."""
    def run(self) -> int: ...
    at_once: bool
    """Whether the next small write may be synced in the caller's thread, where that is quick. Ends with the first that is."""
    @property
    def quick_ns(self) -> int:
        """What a small write and its sync take, a moving average; 0 before the first."""
    def idle(self) -> bool: ...
    def wait(self, seconds: float = 10.0) -> None:
        """Collect until nothing is left to do. Blocks: tests, shutdown. TimeoutError."""
    def close(self) -> None: ...

class Filter:
    """What a consumer wants of a log: patterns, none for everything. Close it before the log."""

    def __init__(self, log: Log, patterns: Sequence[bytes] = ()) -> None: ...
    def matches(self, subject: bytes) -> bool: ...
    def close(self) -> None: ...

class Log:
    """The messages of one stream. `directory` None: in memory."""

    store: Final[Store]
    on_removed: Callable[[int, bytes, bool, int], None] | None
    on_durable: Callable[[], None] | None
    on_damage: Callable[[int, int], None] | None
    def __init__(
        self,
        store: Store,
        directory: str | None = None,
        *,
        sync_interval_ns: int = 0,
        segment_bytes_max: int = 0,
        first_seq: int = 0,
        max_msgs: int = 0,
        max_bytes: int = 0,
        max_msgs_per_subject: int = 0,
        max_age_ns: int = 0,
        discard_new: bool = False,
        discard_new_per_subject: bool = False,
        now_ns: int = 0,
    ) -> None:
        """Opens, reading what is there: blocks. sync_interval_ns 0: fdatasync before anything is durable. What has expired
        by `now_ns` (0: the clock's) is not there."""
    @property
    def first_seq(self) -> int: ...
    @property
    def last_seq(self) -> int: ...
    @property
    def durable_seq(self) -> int: ...
    @property
    def ticket(self) -> int:
        """Changes made now are durable when `durable_ticket` reaches it."""
    @property
    def durable_ticket(self) -> int: ...
    @property
    def synced_ticket(self) -> int:
        """Like durable_ticket, for losing power: the same, but with a sync interval."""
    @property
    def status(self) -> int:
        """LOG_OK, LOG_NO_SPACE or LOG_FAILED."""
    @property
    def error_number(self) -> int: ...
    def set_limits(
        self,
        *,
        max_msgs: int = 0,
        max_bytes: int = 0,
        max_msgs_per_subject: int = 0,
        max_age_ns: int = 0,
        discard_new: bool = False,
        discard_new_per_subject: bool = False,
        now_ns: int = 0,
    ) -> None: ...
    def append(
        self, subject: bytes, payload: bytes, headers: bytes = b"", time_ns: int = 0, ttl_ns: int = 0
    ) -> int:
        """The new sequence. time_ns 0: now. StoreError with the limit that refused it."""
    def skip(self, next_seq: int) -> None: ...
    def remove(self, seq: int, erase: bool = False) -> bool: ...
    def purge(self, filter: Filter | None = None, before_seq: int = 0, keep: int = 0) -> int: ...
    def submit(self) -> int: ...
    def sync(self) -> None:
        """With a sync interval: start an fdatasync now."""
    def tick(self, now_ns: int) -> bool:
        """Ages, TTLs, intervals. True: there is more to do, call again."""
    def retry(self) -> None:
        """After LOG_NO_SPACE: do not wait, the next change or tick may try again."""
    def deadline(self) -> int: ...
    def get(self, seq: int) -> Message | None: ...
    def tail(self, seq: int) -> bytes | None:
        """What is sent behind "subject sid ": sizes, CRLF, headers, payload, CRLF. None: no such message."""
    def last_for(self, subject: bytes) -> Message | None: ...
    def first_for(self, subject: bytes) -> Message | None: ...
    def next(self, from_seq: int, filter: Filter | None = None) -> Message | None: ...
    def previous(self, from_seq: int, filter: Filter | None = None) -> Message | None: ...
    def pending(self, filter: Filter | None = None, from_seq: int = 0) -> int: ...
    def pending_subjects(self, filter: Filter | None = None, from_seq: int = 0) -> int: ...
    def seq_at(self, time_ns: int) -> int: ...
    def has(self, seq: int) -> bool: ...
    def subject(self, subject: bytes) -> SubjectState | None: ...
    def subjects(self, filter: Filter | None = None) -> dict[bytes, int]: ...
    def last_seqs(self, filter: Filter | None = None, up_to: int = 0) -> list[int]: ...
    def deleted(self, most: int = 0) -> list[tuple[int, int]]:
        """Ranges (first, last) without messages, between first_seq and last_seq; at most `most`, 0: all."""
    def lost(self) -> list[tuple[int, int]]:
        """Sequences found damaged, by recovery or by reading."""
    def recovered(self) -> dict[str, int]:
        """What opening found: torn_bytes, damaged_bytes, damaged_segments, lost_msgs."""
    def state(self) -> State: ...
    def quiet(self) -> bool:
        """Whether nothing is being written: then, and in the same turn, its directory may be renamed; moved() says so."""
    def moved(self, directory: str) -> None: ...
    def segments(self) -> list[tuple[int, int, int, int, int, int, bool]]:
        """(id, first_seq, live, dead, used bytes, live bytes, sealed) of each, oldest first: for tests and tools."""
    def close(self) -> None: ...
