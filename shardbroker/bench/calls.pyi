from collections.abc import Sequence
from typing import Any

from shardbroker.bench.board import Board

ECHO: int
ACK: int
BATCH: int
GET: int

class Calls:
    board: Board
    def __init__(
        self,
        callers: Sequence[int],
        responders: Sequence[int] = (),
        *,
        subject: bytes,
        inbox: bytes,
        kind: int = ...,
        sizes: Sequence[int] = (16,),
        headers: bytes = b"",
        values: Sequence[int] = (16,),
        subjects: int = 1,
        step: int = 1,
        draws: bytes = b"",
        in_flight: int = 1,
        limit: int = ...,
        rate: float = 0.0,
        batch: int = 1,
        board: Board | None = None,
        group: int = 0,
        groups_all: int = 0,
        callers_all: int = 0,
        caller_first: int = 0,
        stall_seconds: float = 20.0,
    ) -> None: ...
    def start(self, seconds: float, at_ns: int = 0) -> None: ...
    def run(self) -> None: ...
    def part(self) -> dict[str, Any]: ...
