"""The connections of a shard that have ended, for /connz: the last so many, compactly.

    recent   rows as JSON, fewer than BLOCK_ROWS of them
    blocks   BLOCK_ROWS rows each, compressed: connections of one kind differ in their numbers only, so that a row takes
             60 bytes or so instead of 300. A block is no object of pymalloc's, whose arenas stay for one small object
             that lives on among thousands that came and went

Home shard only.
"""

from __future__ import annotations

import zlib
from collections import deque
from typing import Any

import orjson

from shardbroker.shard.report import ConnectionRow

BLOCK_ROWS = 128
# Of zlib: the fastest. A block is a quarter of a millisecond.
LEVEL = 1


class ClosedConnections:
    """The newest `most` rows; oldest first."""

    def __init__(self, most: int) -> None:
        self.most = max(most, 0)
        self._blocks: deque[bytes] = deque()
        self._dropped = 0  # blocks that are no longer kept: the first one's number
        self._recent: list[bytes] = []

    def __len__(self) -> int:
        return min(self.most, len(self._blocks) * BLOCK_ROWS + len(self._recent))

    def append(self, row: ConnectionRow) -> None:
        """Add the newest row; what is older than `most` rows goes, a block at a time."""
        if not self.most:
            return
        # A copy, since orjson's own bytes keep the kilobytes that they were written in.
        self._recent.append(bytes(memoryview(orjson.dumps(tuple(row)))))
        if len(self._recent) == BLOCK_ROWS:
            self._blocks.append(zlib.compress(b"[" + b",".join(self._recent) + b"]", LEVEL))
            self._recent = []
            while (len(self._blocks) - 1) * BLOCK_ROWS >= self.most:
                self._blocks.popleft()
                self._dropped += 1

    def packed(self, first: int, most: int) -> tuple[list[bytes], list[list[Any]], int]:
        """(blocks, recent rows, number to go on with or -1): `most` blocks from the number `first` on (0: the oldest), with the
        last ones the recent rows. All together they may be up to BLOCK_ROWS more than `self.most`: the oldest ones too many."""
        start = max(first - self._dropped, 0)
        blocks = [self._blocks[at] for at in range(start, min(start + most, len(self._blocks)))]
        if start + most < len(self._blocks):
            return blocks, [], self._dropped + start + most
        return blocks, [orjson.loads(row) for row in self._recent], -1

    @staticmethod
    def unpack(block: bytes) -> list[list[Any]]:
        """The rows of a block. Any process."""
        rows: list[list[Any]] = orjson.loads(zlib.decompress(block))
        return rows
