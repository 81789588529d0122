from collections.abc import Sequence
from typing import Any

class Stream:
    groups: int
    def __init__(
        self,
        flows: Sequence[int],
        sinks: Sequence[int],
        *,
        subject: bytes,
        payload_bytes: int = 16,
        subjects: int = 1,
        indexed: bool = False,
        wildcard: bool = False,
        exact: bool = True,
        copies: int = 0,
        limit: int = ...,
        groups: int = 1,
        subscribe: bool = False,
        step: int = 1,
    ) -> None: ...
    def start(self, seconds: float) -> None: ...
    def run(self, group: int) -> None: ...
    def result(self) -> dict[str, Any]: ...
