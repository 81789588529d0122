"""SQLite as definitions and consumers use it: a write-ahead log, a commit that waits for the disk, and other processes that may
be at the same file."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

BUSY_SECONDS: Final = 10.0
BUSY_WAIT_SECONDS: Final = 0.005
SQLITE_BUSY: Final = 5
SQLITE_IOERR: Final = 10


class Database(Protocol):
    """What is used of a connection: sqlite3's, or the simulator's."""

    def execute(self, statement: str, bindings: Any = ..., /) -> Any: ...


    @property
    def in_transaction(self) -> bool: ...


def connect(path: Path, make_tables: Callable[[Database], None], synchronous: str = "FULL") -> sqlite3.Connection:
    """Open the file, or create it. Waits for other processes, BUSY_SECONDS at most."""
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as e:
            # When several create the file at once, those that come second are refused at once: SQLite does not wait where it
            # has to raise a lock that it holds, for two that did so would wait for each other.
            if not is_busy(e) or time.monotonic() > until:
                db.close()
                raise
            time.sleep(BUSY_WAIT_SECONDS)
    db.execute(f"PRAGMA synchronous = {synchronous}")
    make_tables(db)
    return db


def harden(db: Database) -> None:
    """Make durable what is read. Whoever was killed may have written it without having synced it, and we are going to act on it
    and to tell of it."""
    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def is_busy(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == SQLITE_BUSY


def is_final(error: BaseException) -> bool:
    """Whether nothing that is written to this file may be believed any more, until it is opened by another process. After a sync
    that failed the kernel takes pages for clean that the disk never got. They may be parts of the write-ahead log that SQLite
    wrote before, and without them nothing behind them counts: the next commit would succeed, and be gone after a power cut."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == SQLITE_IOERR
