"""A disk that can lose power: files with a durable state and a list of writes that no sync has made durable yet.

    current state    what the process reads: every write so far
    durable state    what is on the platter
    pending          writes, truncations, names since the last sync, in order

crash() makes a new disk from the durable state and some of what is pending: all of it (the process was killed, the machine
went on), none, a prefix, any subset in order, writes torn at sectors, an earlier write repeated after later ones. Names are
pending until the directory is synced. Faults can be planned: no space, an error at a sync (after which, as Linux does, the
pages count as clean and are lost), an error in the middle of a write, bits that flip.
"""

from __future__ import annotations

import errno
import random
from dataclasses import dataclass, field
from typing import Final

SECTOR: Final = 512


def failure(number: int) -> OSError:
    return OSError(number, errno.errorcode[number])


@dataclass
class Inode:
    data: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[str, int, bytes]] = field(
        default_factory=list
    )  # ("write", offset, bytes), ("size", n, b"")

    def apply(self, target: bytearray, op: tuple[str, int, bytes]) -> None:
        kind, n, data = op
        if kind == "write":
            if len(target) < n + len(data):
                target.extend(bytes(n + len(data) - len(target)))
            target[n : n + len(data)] = data
        elif len(target) < n:
            target.extend(bytes(n - len(target)))
        else:
            del target[n:]

    def change(self, op: tuple[str, int, bytes]) -> None:
        self.apply(self.data, op)
        self.pending.append(op)

    def sync(self) -> None:
        for op in self.pending:
            self.apply(self.durable, op)
        self.pending.clear()


@dataclass
class Disk:
    """All names are in one directory: paths are not looked into."""

    names: dict[str, Inode] = field(default_factory=dict)
    durable_names: dict[str, Inode] = field(default_factory=dict)
    pending_names: list[tuple[str, str, Inode | None]] = field(default_factory=list)
    space: int | None = None  # bytes that may still be allocated; None: any
    sync_errors: int = 0  # so many of the next syncs fail
    write_error: int = 0  # errno of the next write, half of which is done
    counts: dict[str, int] = field(default_factory=dict)
    hook: object = None  # called with (operation) before it is done: to crash in the middle

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1
        if callable(self.hook):
            self.hook(what)

    # ---- the file interface ----

    def open(self, path: str, create: bool) -> Inode:
        self._count("open")
        if path not in self.names:
            if not create:
                raise failure(errno.ENOENT)
            self.names[path] = Inode()
            self.pending_names.append(("link", path, self.names[path]))
        return self.names[path]

    def write(self, inode: Inode, data: bytes, offset: int) -> None:
        self._count("write")
        if self.write_error:
            number, self.write_error = self.write_error, 0
            inode.change(("write", offset, data[: len(data) // 2]))
            raise failure(number)
        inode.change(("write", offset, data))

    def read(self, inode: Inode, n: int, offset: int) -> bytes:
        return bytes(inode.data[offset : offset + n])

    def sync(self, inode: Inode) -> None:
        self._count("sync")
        if self.sync_errors:
            self.sync_errors -= 1
            inode.pending.clear()
            raise failure(errno.EIO)
        inode.sync()

    def allocate(self, inode: Inode, n: int) -> None:
        self._count("allocate")
        more = n - len(inode.data)
        if more <= 0:
            return
        if self.space is not None:
            if more > self.space:
                raise failure(errno.ENOSPC)
            self.space -= more
        inode.change(("size", n, b""))

    def truncate(self, inode: Inode, n: int) -> None:
        self._count("truncate")
        if self.space is not None:
            self.space += max(0, len(inode.data) - n)
        inode.change(("size", n, b""))

    def size(self, inode: Inode) -> int:
        return len(inode.data)

    def rename(self, source: str, target: str) -> None:
        self._count("rename")
        if source not in self.names:
            raise failure(errno.ENOENT)
        self.names[target] = self.names.pop(source)
        self.pending_names.append(("rename", f"{source}\0{target}", None))

    def remove(self, path: str) -> None:
        self._count("remove")
        if path not in self.names:
            raise failure(errno.ENOENT)
        inode = self.names.pop(path)
        if self.space is not None:
            self.space += len(inode.data)
        self.pending_names.append(("unlink", path, None))

    def list(self, path: str) -> list[str]:
        return [name[len(path) + 1 :] for name in self.names if name.startswith(path + "/")]

    def sync_directory(self, path: str) -> None:
        self._count("sync_directory")
        if self.sync_errors:
            self.sync_errors -= 1
            raise failure(errno.EIO)
        for op in self.pending_names:
            apply_name(self.durable_names, op)
        self.pending_names.clear()

    # ---- what goes wrong ----

    def killed(self) -> Disk:
        """The process dies and the machine goes on: nothing is lost yet, and nothing more is durable."""
        copies: dict[int, Inode] = {}
        for inode in [*self.names.values(), *self.durable_names.values()]:
            copies[id(inode)] = Inode(bytearray(inode.data), bytearray(inode.durable), list(inode.pending))
        pending = [
            (kind, path, copies.get(id(inode)) or (None if inode is None else Inode()))
            for kind, path, inode in self.pending_names
        ]
        return Disk(
            {name: copies[id(inode)] for name, inode in self.names.items()},
            {name: copies[id(inode)] for name, inode in self.durable_names.items()},
            pending,
        )

    def crash(self, draw: random.Random) -> Disk:
        """The power goes."""
        names = dict(self.durable_names)
        for op in survivors(self.pending_names, draw):
            apply_name(names, op)
        after = Disk()
        copies: dict[int, Inode] = {}
        for name, inode in names.items():
            if id(inode) not in copies:
                copies[id(inode)] = crashed(inode, draw)
            after.names[name] = copies[id(inode)]
        after.durable_names = dict(after.names)
        return after

    def flip(self, draw: random.Random, suffix: str = ".seg") -> str | None:
        """One bit, or a few bytes, of one file change on the platter. Where."""
        files = sorted(name for name in self.names if name.endswith(suffix) and self.names[name].data)
        if not files:
            return None
        name = draw.choice(files)
        inode = self.names[name]
        at = draw.randrange(len(inode.data))
        for k in range(draw.choice([1, 1, 1, 8, 700])):
            if at + k < len(inode.data):
                changed = inode.data[at + k] ^ (1 << draw.randrange(8))
                inode.data[at + k] = changed
                if at + k < len(inode.durable):
                    inode.durable[at + k] = changed
        return f"{name}:{at}"


def apply_name(names: dict[str, Inode], op: tuple[str, str, Inode | None]) -> None:
    kind, path, inode = op
    if kind == "link" and inode is not None:
        names[path] = inode
    elif kind == "unlink":
        names.pop(path, None)
    else:
        source, target = path.split("\0")
        if source in names:
            names[target] = names.pop(source)


def survivors(ops: list, draw: random.Random) -> list:  # type: ignore[type-arg]
    kind = draw.choice(["all", "none", "prefix", "prefix", "subset"])
    if kind == "all":
        return list(ops)
    if kind == "none":
        return []
    if kind == "prefix":
        return ops[: draw.randint(0, len(ops))]
    return [op for op in ops if draw.random() < 0.5]


def crashed(inode: Inode, draw: random.Random) -> Inode:
    after = Inode(bytearray(inode.durable))
    ops = survivors(inode.pending, draw)
    for op in ops:
        kind, offset, data = op
        if kind == "write" and draw.random() < 0.2:
            for part in torn(offset, data, draw):
                after.apply(after.data, part)
        else:
            after.apply(after.data, op)
    writes = [op for op in ops if op[0] == "write"]
    if writes and draw.random() < 0.1:
        after.apply(after.data, draw.choice(writes))  # repeated by a confused controller
    after.durable = bytearray(after.data)
    return after


def torn(offset: int, data: bytes, draw: random.Random) -> list[tuple[str, int, bytes]]:
    """Some sectors of one write, or its beginning."""
    if draw.random() < 0.5:
        return [("write", offset, data[: draw.randint(0, len(data))])]
    parts, at = [], 0
    while at < len(data):
        end = min(len(data), at + SECTOR - (offset + at) % SECTOR)
        if draw.random() < 0.6:
            parts.append(("write", offset + at, data[at:end]))
        at = end
    return parts
