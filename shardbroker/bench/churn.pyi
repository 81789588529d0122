from collections.abc import Sequence
from typing import Any

from shardbroker.bench.board import Board

class Lives:
    board: Board
    def __init__(
        self,
        host: bytes,
        port: int,
        *,
        width: int,
        hello: bytes,
        limit: int = ...,
        board: Board | None = None,
        group: int = 0,
        stall_seconds: float = 20.0,
    ) -> None: ...
    def start(self, seconds: float, at_ns: int = 0) -> None: ...
    def run(self) -> None: ...
    def part(self) -> dict[str, Any]: ...

class Subscriptions:
    board: Board
    def __init__(
        self,
        holders: Sequence[int],
        *,
        prefix: bytes,
        window: int,
        batch: int,
        limit: int = ...,
        board: Board | None = None,
        group: int = 0,
        holder_first: int = 0,
        stall_seconds: float = 20.0,
    ) -> None: ...
    def start(self, seconds: float, at_ns: int = 0) -> None: ...
    def run(self) -> None: ...
    def live(self) -> list[tuple[int, int]]: ...
    def part(self) -> dict[str, Any]: ...

def subject_index(holder: int, window: int, sid: int) -> int: ...
