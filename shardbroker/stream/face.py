"""The engine as one account sees it: what is published, and who listens, is of that account alone."""

from __future__ import annotations

from shardbroker.hot.engine import Engine


class Face:
    """An account's part of a shard's engine."""

    def __init__(self, engine: Engine, account: str) -> None:
        self.engine = engine
        self._account = account.encode()

    def publish(
        self,
        subject: bytes,
        payload: bytes,
        reply: bytes = b"",
        headers: bytes = b"",
        shown: bytes | None = None,
    ) -> int:
        """Publish from inside the shard; to how many it went."""
        return self.engine.publish(subject, payload, reply, headers, shown, self._account)

    def interest(self, subject: bytes) -> bool:
        """Whether anyone of the account, on any shard, would get what is published to this literal subject."""
        return self.engine.interest(subject, self._account)

    def sink(self) -> int:
        """A sink whose messages become events, in this account."""
        return self.engine.sink(self._account)
