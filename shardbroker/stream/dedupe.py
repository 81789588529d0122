"""Which message ids were stored within a stream's duplicate window. Source: stream.go checkMsgId, storeMsgId, purgeMsgIds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class Window:
    """Message ids with their sequences, for `window_ns` after they were stored. About 250 bytes for each."""

    def __init__(self, window_ns: int) -> None:
        self.window_ns = window_ns
        self._seqs: dict[bytes, int] = {}
        self._order: deque[tuple[int, bytes, int]] = deque()

    def __len__(self) -> int:
        return len(self._seqs)

    def fill(self, found: Iterable[tuple[int, int, bytes]]) -> None:
        """(sequence, time, id) of stored messages, oldest first."""
        for seq, time_ns, msg_id in found:
            self.add(msg_id, seq, time_ns)

    def find(self, msg_id: bytes, now_ns: int) -> int:
        """The sequence that has this id; 0: it may be used."""
        self.forget(now_ns)
        return self._seqs.get(msg_id, 0)

    def add(self, msg_id: bytes, seq: int, now_ns: int) -> None:
        self._seqs[msg_id] = seq
        self._order.append((now_ns, msg_id, seq))

    def forget(self, now_ns: int) -> None:
        """Drop what is older than the window."""
        order, end = self._order, now_ns - self.window_ns
        while order and order[0][0] <= end:
            _, msg_id, seq = order.popleft()
            if self._seqs.get(msg_id) == seq:
                del self._seqs[msg_id]
