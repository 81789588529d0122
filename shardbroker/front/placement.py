"""Which shard takes a connection: the one with the fewest.

The front knows how many connections it has handed to each shard; how many of these have ended it reads from the
shard's statistics. The difference counts connections that are still on their way, so a burst is spread evenly.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

# A shard that has not finished a turn for so long is stopped or stuck: others are preferred. A turn's sleep is capped
# at 0.1 s, so this is twenty missed turns.
UNRESPONSIVE_SECONDS = 2.0


# Of a shard's descriptors so many are not for connections that stay: its own, one doorbell a shard, and those who come
# only to be told that there is no room and linger until they have read it.
DESCRIPTORS_OWN = 32
DESCRIPTORS_REFUSED_MAX = 256


def connections_of(descriptors_max: int, shards: int) -> int:
    """How many connections a shard that may open so many descriptors can hold."""
    return max(1, descriptors_max - DESCRIPTORS_OWN - shards - min(DESCRIPTORS_REFUSED_MAX, descriptors_max // 8))


class Placement:
    """Counts for each shard. Front process only."""

    def __init__(self, shards: int, closed_total: Callable[[int], int], shard_max: int = sys.maxsize) -> None:
        """`closed_total(shard)` is the number of connections that a shard has seen the end of. `shard_max`: connections
        that one can hold."""
        self.shard_max = shard_max
        self._closed_total = closed_total
        self._handed = [0] * shards
        self._base = [0] * shards

    def forget(self, shard: int) -> None:
        """The shard's process is a new one and has no connections yet; call before it is given any."""
        self._handed[shard] = 0
        self._base[shard] = self._closed_total(shard)

    def open(self, shard: int) -> int:
        """Connections that this shard has, or will have in a moment."""
        return self._handed[shard] - (self._closed_total(shard) - self._base[shard])

    def open_all(self) -> int:
        return sum(self.open(shard) for shard in range(len(self._handed)))

    def room(self, ready: Sequence[int]) -> int:
        """How many more connections these shards can hold."""
        return sum(max(0, self.shard_max - self.open(shard)) for shard in ready)

    def count(self, shard: int, connections: int) -> None:
        """So many more connections have been handed to a shard (or fewer: they were lost on the way)."""
        self._handed[shard] += connections

    def choose(self, ready: Sequence[int], connections: int) -> list[tuple[int, int]]:
        """Spread a number of connections over the shards that are ready: (shard, how many), sums to the number.

        The emptiest gets the next, so a number within `room` takes no shard over what it can hold.
        """
        if not ready or connections <= 0:
            return []
        # Most batches are of one connection.
        if connections == 1 or len(ready) == 1:
            return [(min(ready, key=self.open), connections)]
        level = {shard: self.open(shard) for shard in ready}
        given = dict.fromkeys(ready, 0)
        for _ in range(connections):
            shard = min(ready, key=level.__getitem__)
            level[shard] += 1
            given[shard] += 1
        return [(shard, count) for shard, count in given.items() if count]
