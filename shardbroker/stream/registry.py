"""The definitions of an account's streams: one SQLite file that all shards share, <store>/jetstream/<account>/registry.db.

Whoever creates or changes a stream does so inside BEGIN IMMEDIATE, with all definitions before its eyes: so names and
subjects are checked over all shards, without a leader, and whatever dies in between has written all or nothing.

Everything here waits for the disk: call it in a helper thread (Registry.run), never on the loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote_to_bytes

import orjson

from shardbroker.store.directories import make_directory
from shardbroker.stream.database import Database, connect, harden, is_final
from shardbroker.stream.model import StreamConfig

T = TypeVar("T")
# File systems allow names of 255 bytes; what is longer when encoded is named by its hash.
FILE_NAME_BYTES_MAX = 200
KNOWN_MIN = 64
_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


def file_name(name: str) -> str:
    """A name that came from a client, as a file name of its own: never empty, never with a dot or a slash."""
    raw = name.encode("utf-8", "surrogatepass")
    text = "".join(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in raw)
    if len(text) <= FILE_NAME_BYTES_MAX:
        return text or "%"
    return f"{text[:100]}%%{hashlib.blake2b(raw, digest_size=20).hexdigest()}"


def name_of(file: str) -> str | None:
    """The name that file_name() made a file name of; None when it cannot be told."""
    if "%%" in file or file == "%":
        return None
    try:
        return unquote_to_bytes(file).decode()
    except UnicodeDecodeError:
        return None


@dataclass(frozen=True, slots=True)
class Definition:
    """A stream as the registry has it."""

    config: StreamConfig
    created_ns: int


class Definitions:
    """All definitions of the account, inside one transaction. `known`: texts that were read before."""

    def __init__(self, db: Database, known: dict[bytes, StreamConfig]) -> None:
        self._db = db
        rows = db.execute("SELECT config, created_ns FROM stream ORDER BY name").fetchall()
        self.all: dict[str, Definition] = {}
        for text, created_ns in rows:
            config = known.get(text)
            if config is None:
                config = known[text] = StreamConfig.from_json(text)
            self.all[config.name] = Definition(config, created_ns)
        if len(known) > 2 * len(rows) + KNOWN_MIN:
            known.clear()

    def config(self, name: str) -> StreamConfig | None:
        found = self.all.get(name)
        return found.config if found is not None else None

    def put(self, config: StreamConfig, created_ns: int) -> None:
        """Add, or replace, the stream of this name."""
        self._db.execute(
            "INSERT INTO stream (name, config, created_ns) VALUES (?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET config = excluded.config",
            (config.name, orjson.dumps(config.to_json()), created_ns),
        )

    def remove(self, name: str) -> bool:
        removed: bool = self._db.execute("DELETE FROM stream WHERE name = ?", (name,)).rowcount > 0
        return removed


class Registry:
    """One account's registry, from one process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        make_directory(path.parent)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="registry")
        self._db: sqlite3.Connection | None = None
        self._failed: sqlite3.Error | None = None
        # Helper thread only. Nobody changes a configuration that is in here: checks work on copies.
        self._known: dict[bytes, StreamConfig] = {}

    async def run(self, work: Callable[[Definitions], T]) -> T:
        """Do `work` in one write transaction, in the helper thread; an exception of its undoes everything."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._write, work)

    def read(self) -> dict[str, Definition]:
        """All definitions. Waits for the disk: at start, before there is a loop."""
        found: dict[str, Definition] = self._thread.submit(
            self._write, lambda definitions: definitions.all
        ).result()
        return found

    def _write(self, work: Callable[[Definitions], T]) -> T:
        with self._transaction() as db:
            return work(Definitions(db, self._known))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        if self._failed is not None:
            raise self._failed
        try:
            if self._db is None:
                db = connect(self._path, make_table)
                harden(db)
                self._db = db
            db = self._db
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
        except sqlite3.Error as e:
            if is_final(e):
                self._failed = e
            raise

    def close(self) -> None:
        self._thread.submit(self._close).result()
        self._thread.shutdown()

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def make_table(db: Database) -> None:
    db.execute(
        "CREATE TABLE IF NOT EXISTS stream (name TEXT PRIMARY KEY, config BLOB NOT NULL, created_ns INTEGER NOT NULL)"
        " WITHOUT ROWID"
    )
