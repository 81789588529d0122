"""How many connections each account with a limit has, over all shards.

A shard asks before it lets one in, and tells when one has gone; what a shard had goes with it. Front process only.
"""

from __future__ import annotations

from collections import Counter

from shardbroker.ipc.channel import Message


class Tenants:
    """Counts by account, of each shard."""

    def __init__(self, shards: int) -> None:
        self._counts: list[Counter[str]] = [Counter() for _ in range(shards)]

    def on_message(self, shard: int, message: Message) -> Message | None:
        """A shard's word; the answer to a question, None to what is none. `op` begins with account_."""
        op, counts = message["op"], self._counts[shard]
        if op == "account_enter":
            account = message["account"]
            has_room = self.count(account) < message["limit"]
            if has_room:
                counts[account] += 1
            return {"re": message["id"], "ok": has_room}
        if op == "account_leave":
            account = message["account"]
            counts[account] -= 1
            if counts[account] <= 0:
                del counts[account]
        elif op == "account_counts":
            self._counts[shard] = Counter(message["counts"])
        return None

    def count(self, account: str) -> int:
        """Its connections on all shards."""
        return sum(counts[account] for counts in self._counts)

    def shard_gone(self, shard: int) -> None:
        """Its connections went with it."""
        self._counts[shard].clear()
