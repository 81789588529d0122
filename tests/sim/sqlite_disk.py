"""SQLite on a simulated disk: a VFS whose files are those of a Disk, so that a power cut tears its journals as it tears segments.

    vfs = DiskVFS(name, draw); vfs.disk = disk; db = vfs.open_db("/s/meta.db", "FULL")
"""

from __future__ import annotations

import errno
import random
from typing import Any

import apsw

from sim.disk import Disk, Inode

READ_WRITE = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
JOURNALS = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL


def as_sqlite(error: OSError, other: int) -> Exception:
    return apsw.exception_for(apsw.SQLITE_FULL if error.errno == errno.ENOSPC else other)


class File:
    """What SQLite's unix VFS does, on an Inode. Locks are not needed: there is one connection at a time."""

    def __init__(self, disk: Disk, path: str, inode: Inode, flags: int, created: bool) -> None:
        self.disk = disk
        self.path = path
        self.inode = inode
        self.flags = flags
        self.created = created

    def xRead(self, amount: int, offset: int) -> bytes:
        return self.disk.read(self.inode, amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        try:
            more = offset + len(data) - len(self.inode.data)
            if more > 0 and self.disk.space is not None:
                if more > self.disk.space:
                    raise OSError(errno.ENOSPC, "no space")
                self.disk.space -= more
            self.disk.write(self.inode, bytes(data), offset)
        except OSError as e:
            raise as_sqlite(e, apsw.SQLITE_IOERR_WRITE) from None

    def xTruncate(self, size: int) -> None:
        self.disk.truncate(self.inode, size)

    def xSync(self, flags: int) -> None:
        try:
            self.disk.sync(self.inode)
            if self.created and self.flags & JOURNALS:
                self.disk.sync_directory(self.path.rpartition("/")[0])
                self.created = False
        except OSError as e:
            raise as_sqlite(e, apsw.SQLITE_IOERR_FSYNC) from None

    def xFileSize(self) -> int:
        return self.disk.size(self.inode)

    def xClose(self) -> None:
        pass

    def xLock(self, level: int) -> None:
        pass

    def xUnlock(self, level: int) -> None:
        pass

    def xCheckReservedLock(self) -> bool:
        return False

    def xFileControl(self, op: int, ptr: int) -> bool:
        return False

    def xSectorSize(self) -> int:
        return 512

    def xDeviceCharacteristics(self) -> int:
        return 0


class DiskVFS(apsw.VFS):
    """One disk after another: `disk` is set anew after each crash."""

    def __init__(self, name: str, draw: random.Random) -> None:
        self.name = name
        self.disk = Disk()
        self.draw = draw
        super().__init__(name, base="")

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None:
            raise apsw.exception_for(apsw.SQLITE_CANTOPEN)      # a temporary file: nothing here needs one
        created = path not in self.disk.names
        try:
            inode = self.disk.open(path, bool(flags[0] & apsw.SQLITE_OPEN_CREATE))
        except OSError:
            raise apsw.exception_for(apsw.SQLITE_CANTOPEN) from None
        flags[1] = flags[0]
        return File(self.disk, path, inode, flags[0], created)

    def xDelete(self, path: str, sync_directory: bool) -> None:
        try:
            self.disk.remove(path)
            if sync_directory:
                self.disk.sync_directory(path.rpartition("/")[0])
        except OSError as e:
            code = apsw.SQLITE_IOERR_DELETE_NOENT if e.errno == errno.ENOENT else apsw.SQLITE_IOERR_DELETE
            raise apsw.exception_for(code) from None

    def xAccess(self, path: str, flags: int) -> bool:
        return path in self.disk.names

    def xFullPathname(self, path: str) -> str:
        return path

    def xRandomness(self, n: int) -> bytes:
        return self.draw.randbytes(n)

    def open_db(self, path: str, synchronous: str) -> apsw.Connection:
        """As database.connect does it, but that the write-ahead log's index is in memory, since there
        is nothing to share it with."""
        db = apsw.Connection(path, flags=READ_WRITE, vfs=self.name)
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {synchronous}")
        return db
