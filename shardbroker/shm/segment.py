"""Create and attach the shared segment.

The front creates it before it starts any shard; shards get it by fork, tools by descriptor over the control socket. The
name in /dev/shm is taken away at once, so nothing is left behind however the processes end.
"""
from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import posix_ipc  # type: ignore[import-not-found]  # it has no types

from shardbroker.shm.layout import LEVEL_BITS, SegmentMap, format_segment

RING_BYTES = 4 * 1024 * 1024            # a turn of one shard (256 KiB received) many times over, and L3-sized
CONTROL_RING_BYTES = 256 * 1024         # thousands of wildcard and queue interest changes in one turn


class Segment:
    """One segment and its descriptor, which it owns. `map` is what compiled code takes."""

    def __init__(self, segment_map: SegmentMap) -> None:
        self.map = segment_map

    @classmethod
    def create(cls, shards: int, ring_bytes: int = RING_BYTES, control_ring_bytes: int = CONTROL_RING_BYTES,
               level_bits: Sequence[int] = LEVEL_BITS) -> Segment:
        """A new segment, mapped and without a name. Commits two pages; everything else when first touched.

        shards: 1 to 64; with one there are no rings. Ring sizes: bytes, powers of two from one page. level_bits: log2
        of the slots of the directory's four levels. Raises LayoutError (a size) or OSError. The front only.
        """
        name = f"/shardbroker.{os.getpid()}.{secrets.token_hex(8)}"
        fd: int = posix_ipc.SharedMemory(name, flags=posix_ipc.O_CREX, mode=0o600).fd
        try:
            posix_ipc.unlink_shared_memory(name)
            format_segment(fd, shards=shards, ring_bytes=ring_bytes, control_ring_bytes=control_ring_bytes,
                           level_bits=level_bits)
            space = os.fstatvfs(fd)
            if space.f_blocks and space.f_bavail * space.f_frsize < os.fstat(fd).st_size:
                # A small /dev/shm (64 MiB in containers): touching a page too many would kill with SIGBUS. A memfd
                # is bounded by memory only.
                named, fd = fd, os.memfd_create("shardbroker")
                os.close(named)
                format_segment(fd, shards=shards, ring_bytes=ring_bytes, control_ring_bytes=control_ring_bytes,
                               level_bits=level_bits)
            return cls(SegmentMap(fd))
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def attach(cls, fd: int, *, writable: bool = True) -> Segment:
        """Map a segment that another process created; takes over the descriptor.

        Raises LayoutError when it is none, or of another layout version. Tools attach with writable=False.
        """
        return cls(SegmentMap(fd, writable))

    def check(self) -> None:
        """LayoutError unless the header is still whole and the file as long as it says."""
        self.map.check()

    def close(self) -> None:
        """Unmap and close; BufferError while a view of it is in use. Other processes are not concerned."""
        self.map.close()

    @property
    def fd(self) -> int:
        """The descriptor, to be sent or inherited; -1 when closed."""
        return self.map.fd

    @property
    def buffer(self) -> memoryview:
        """Header, slots, statistics and directory as bytes. Release it before close()."""
        return memoryview(self.map)

    def memory_bytes(self) -> int:
        """Memory that the segment holds now: pages touched by any process."""
        return os.fstat(self.map.fd).st_blocks * 512

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()
