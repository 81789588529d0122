from collections.abc import Sequence
from typing import Any

from shardbroker.bench.board import Board

class Stream:
    groups: int
    board: Board
    def __init__(
        self,
        flows: Sequence[int],
        sinks: Sequence[int],
        *,
        subject: bytes,
        payload_bytes: int = 16,
        sizes: Sequence[int] | None = None,
        subjects: int = 1,
        indexed: bool = False,
        wildcard: bool = False,
        exact: bool = True,
        copies: int = 0,
        limit: int = ...,
        groups: int = 1,
        subscribe: bool = False,
        step: int = 1,
        headers: bytes = b"",
        draws: bytes = b"",
        rate: float = 0.0,
        slow: int = 0,
        slow_bytes: int = 0,
        board: Board | None = None,
        group_first: int = 0,
        groups_all: int = 0,
        publishers: int = 0,
        publisher_first: int = 0,
        stall_seconds: float = 20.0,
    ) -> None: ...
    def start(self, seconds: float, at_ns: int = 0) -> None: ...
    def run(self, group: int = 0) -> None: ...
    def part(self) -> dict[str, Any]: ...
    def result(self) -> dict[str, Any]: ...

def totals(
    board: Board, parts: list[dict[str, Any]], started_ns: int, *, copies: int, exact: bool
) -> dict[str, Any]: ...
