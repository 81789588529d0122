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

    def rows(self) -> list[ConnectionRow]:
        """All of them, oldest first."""
        packed = [row for block in self._blocks for row in orjson.loads(zlib.decompress(block))]
        packed += map(orjson.loads, self._recent)
        return [ConnectionRow._make(row) for row in packed[max(0, len(packed) - self.most) :]]
