"""Types of plain.pyx."""
from collections.abc import Sequence

class Plain:
    def __init__(
        self,
        flows: Sequence[int],
        sinks: Sequence[int],
        *,
        pub_head: bytes,
        pub_tail: bytes,
        message_head: bytes,
        message_tail: bytes,
        answer: bytes,
        ping: bytes,
        pong: bytes,
        payload_bytes: int,
        limit: int = ...,
    ) -> None: ...
    def run(self, seconds: float) -> dict[str, float]: ...
