"""Consumers on disk: their definitions and states, in the meta.db of their stream.

    consumer         name, definition (JSON), state (a whole one, see state.pyx)
    consumer_change  what has changed since, in order; dropped when a whole state is written

A Writer has one thread for all streams of a shard. What is submitted while it works is done together afterwards: one
transaction, and one wait for the disk, per stream. Answers come back on the loop.
"""

from __future__ import annotations

import asyncio
import sqlite3
import struct
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from shardbroker.stream import database
from shardbroker.stream.database import Database, harden, is_final
from shardbroker.stream.state import ENTRY, HEAD, WHOLE_FLAG

FILE: Final = "meta.db"
OPEN_MAX: Final = 64                     # connections kept; one costs about 100 KiB
_HEAD: Final = struct.Struct(HEAD)
_ENTRY: Final = struct.Struct(ENTRY)
_VERSION: Final = 1


Work = Callable[[Database], None]
Done = Callable[[BaseException | None], None]


class StateError(Exception):
    """A saved state that cannot be read."""


# ---- states -----------------------------------------------------------------------------------------------------

@dataclass
class State:
    """A consumer's state, read back. Times are Unix ns, 0: never."""

    dseq: int = 1
    seq: int = 1
    delivered_seq: int = 0
    floor_dseq: int = 0
    floor_seq: int = 0
    resume: int = 0
    delivered_time: int = 0
    acked_time: int = 0
    # seq: (seq, dseq, sent, due, redeliveries), and of those delivered too often (seq, dseq, redeliveries)
    entries: dict[int, tuple[int, int, int, int, int]] = field(default_factory=dict)
    exceeded: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    def lay(self, blob: bytes) -> None:
        """Lay a whole state, or a change, over it. StateError when it is none."""
        if len(blob) < _HEAD.size:
            raise StateError("a state is too short")
        version, removed, count, _, *numbers = _HEAD.unpack_from(blob)
        if version & 0xFF != _VERSION or len(blob) != _HEAD.size + 8 * removed + _ENTRY.size * count:
            raise StateError("a state has another form")
        if version & WHOLE_FLAG:
            self.entries.clear()
            self.exceeded.clear()
        (self.dseq, self.seq, self.delivered_seq, self.floor_dseq, self.floor_seq, self.resume, self.delivered_time,
         self.acked_time) = numbers
        for seq in struct.unpack_from(f"<{removed}Q", blob, _HEAD.size):
            self.entries.pop(seq, None)
            self.exceeded.pop(seq, None)
        for seq, dseq, sent, due, redeliveries, exceeded in _ENTRY.iter_unpack(blob[_HEAD.size + 8 * removed:]):
            self.entries.pop(seq, None)
            if exceeded:
                self.exceeded[seq] = seq, dseq, redeliveries
            else:
                self.entries[seq] = seq, dseq, sent, due, redeliveries

    def cut(self, last_seq: int) -> bool:
        """Reconcile it with a log that ends before what it has delivered (consumer.go reconcileStateWithStream).
        Whether it had to be."""
        if self.delivered_seq <= last_seq:
            return False
        for table in (self.entries, self.exceeded):
            for seq in [seq for seq in table if seq > last_seq]:
                del table[seq]
        self.floor_seq = min(self.floor_seq, last_seq)
        self.delivered_seq = max(self.entries, default=self.floor_seq)
        self.seq = self.delivered_seq + 1
        return True


@dataclass(frozen=True)
class Saved:
    """A consumer as the disk has it."""

    name: str
    definition: dict[str, Any]
    state: State | None


# ---- transactions -----------------------------------------------------------------------------------------------

def transact(db: Database, works: Iterable[Work]) -> None:
    """All of it in one transaction, or nothing and the error."""
    db.execute("BEGIN IMMEDIATE")
    try:
        for work in works:
            work(db)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


# ---- the writer -------------------------------------------------------------------------------------------------

class Writer:
    """The thread that writes. submit and stop: the loop's thread."""

    def __init__(self, *, synchronous: bool = True) -> None:
        """synchronous: every commit waits for the disk; else for the page cache only (sync_interval)."""
        self._synchronous = "FULL" if synchronous else "NORMAL"
        self._jobs: deque[tuple[Path, Work | None, Done]] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._open: OrderedDict[Path, sqlite3.Connection] = OrderedDict()
        self._failed: dict[Path, BaseException] = {}
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(self, directory: Path, work: Work, done: Done) -> None:
        """Run `work` in a transaction on a stream's meta.db, then done(error or None) on the loop that runs now."""
        self._put(directory, work, done)

    async def run(self, directory: Path, work: Work) -> None:
        """The same, awaited. Raises what went wrong."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        self._put(directory, work, done)
        await future

    def submit_quietly(self, directory: Path, work: Work) -> None:
        """Write it before stop() returns; nobody is told."""
        self._put(directory, work, lambda error: None)

    def forget(self, directory: Path) -> None:
        """Close its connection: the directory is going to be deleted."""
        self._put(directory, None, lambda error: None)

    def _put(self, directory: Path, work: Work | None, done: Done) -> None:
        if self._loop is None:
            with suppress(RuntimeError):    # the loop has not begun, or is over: nobody waits for the answer
                self._loop = asyncio.get_running_loop()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="consumers", daemon=True)
            self._thread.start()
        with self._wake:
            self._jobs.append((directory, work, done))
            self._wake.notify()

    def stop(self) -> None:
        """Write what was submitted, and end the thread. Blocks."""
        if self._thread is not None:
            with self._wake:
                self._stopping = True
                self._wake.notify()
            self._thread.join()
            self._thread = None

    # ---- its thread ----

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._jobs and not self._stopping:
                    self._wake.wait()
                jobs = list(self._jobs)
                self._jobs.clear()
                if not jobs:
                    break
            groups: dict[Path, list[tuple[Work | None, Done]]] = {}
            for directory, work, done in jobs:
                groups.setdefault(directory, []).append((work, done))
            for directory, group in groups.items():
                self._answer(self._write(directory, group))
        for db in self._open.values():
            db.close()
        self._open.clear()

    def _answer(self, answers: list[tuple[Done, BaseException | None]]) -> None:
        def call() -> None:
            for done, error in answers:
                done(error)

        if self._loop is None:
            return
        with suppress(RuntimeError):        # the loop has closed: the shard is going, nobody waits
            self._loop.call_soon_threadsafe(call)

    def _write(self, directory: Path, group: list[tuple[Work | None, Done]]) -> list[tuple[Done, BaseException | None]]:
        """In order: what comes behind a forget() may be of another directory under the same name."""
        answers: list[tuple[Done, BaseException | None]] = []
        together: list[tuple[Work, Done]] = []
        for work, done in group:
            if work is not None:
                together.append((work, done))
                continue
            answers += self._write_together(directory, together)
            together = []
            self._failed.pop(directory, None)
            db = self._open.pop(directory, None)
            if db is not None:
                db.close()
            answers.append((done, None))
        return answers + self._write_together(directory, together)

    def _write_together(self, directory: Path, group: list[tuple[Work, Done]]) -> list[tuple[Done, BaseException | None]]:
        """One transaction for all. When it fails each is tried alone, so that one error is one's own."""
        if not group:
            return []
        error = self._transaction(directory, [work for work, _ in group])
        if error is None or len(group) == 1:
            return [(done, error) for _, done in group]
        return [(done, self._transaction(directory, [work])) for work, done in group]

    def _transaction(self, directory: Path, works: Iterable[Work]) -> BaseException | None:
        failed = self._failed.get(directory)
        if failed is not None:
            return failed
        try:
            transact(self._connection(directory), works)
        except Exception as e:
            if is_final(e):
                self._failed[directory] = e
            return e
        return None

    def _connection(self, directory: Path) -> sqlite3.Connection:
        db = self._open.get(directory)
        if db is None:
            db = connect(directory, self._synchronous)
            self._open[directory] = db
            if len(self._open) > OPEN_MAX:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(directory)
        return db


def connect(directory: Path, synchronous: str = "FULL") -> sqlite3.Connection:
    """A stream's meta.db, with our tables."""
    return database.connect(directory / FILE, make_tables, synchronous)


def make_tables(db: Database) -> None:
    db.execute("CREATE TABLE IF NOT EXISTS consumer (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, definition BLOB NOT NULL,"
               " state BLOB)")
    db.execute("CREATE TABLE IF NOT EXISTS consumer_change (at INTEGER PRIMARY KEY AUTOINCREMENT, consumer INTEGER NOT NULL,"
               " blob BLOB NOT NULL)")
    db.execute("CREATE INDEX IF NOT EXISTS consumer_change_of ON consumer_change (consumer, at)")


# ---- what is written and read -----------------------------------------------------------------------------------

def define(name: str, definition: dict[str, Any], state: bytes | None = None) -> Work:
    """Add a consumer, or change its definition; a state is written when there is one."""
    text = orjson.dumps(definition)

    def work(db: Database) -> None:
        db.execute("INSERT INTO consumer (name, definition) VALUES (?, ?)"
                   " ON CONFLICT (name) DO UPDATE SET definition = excluded.definition", (name, text))
        if state is not None:
            save_whole(name, state)(db)

    return work


def save_whole(name: str, state: bytes) -> Work:
    def work(db: Database) -> None:
        row = db.execute("UPDATE consumer SET state = ? WHERE name = ? RETURNING id", (state, name)).fetchone()
        if row is not None:
            db.execute("DELETE FROM consumer_change WHERE consumer = ?", row)

    return work


def save_change(name: str, change: bytes) -> Work:
    def work(db: Database) -> None:
        db.execute("INSERT INTO consumer_change (consumer, blob) SELECT id, ? FROM consumer WHERE name = ?", (change, name))

    return work


def remove(name: str) -> Work:
    def work(db: Database) -> None:
        row = db.execute("DELETE FROM consumer WHERE name = ? RETURNING id", (name,)).fetchone()
        if row is not None:
            db.execute("DELETE FROM consumer_change WHERE consumer = ?", row)

    return work


def read(directory: Path) -> list[Saved]:
    """All consumers of a stream. Waits for the disk: at start. One whose state cannot be read has none, and starts anew."""
    if not (directory / FILE).exists():
        return []
    db = connect(directory)
    try:
        harden(db)
        return read_all(db)
    finally:
        db.close()


def read_all(db: Database) -> list[Saved]:
    out = []
    for row, name, definition, whole in db.execute("SELECT id, name, definition, state FROM consumer ORDER BY id").fetchall():
        changes = db.execute("SELECT blob FROM consumer_change WHERE consumer = ? ORDER BY at", (row,)).fetchall()
        try:
            state = state_of(whole, [blob for blob, in changes])
        except StateError:
            state = None
        out.append(Saved(name, orjson.loads(definition), state))
    return out


def is_whole(blob: bytes) -> bool:
    return bool(struct.unpack_from("<I", blob)[0] & WHOLE_FLAG)


def state_of(whole: bytes | None, changes: Iterable[bytes]) -> State | None:
    if whole is None:
        return None
    state = State()
    for blob in (whole, *changes):
        state.lay(blob)
    return state
