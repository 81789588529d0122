from collections.abc import Sequence
from typing import Any

from shardbroker.bench.board import Board

FETCH: int
AHEAD: int

class Pulls:
    board: Board
    def __init__(
        self,
        pullers: Sequence[int],
        *,
        subjects: Sequence[bytes],
        inbox: bytes,
        stream_subject: bytes,
        sizes: Sequence[int] = (16,),
        headers: bytes = b"",
        indexed: bool = False,
        batch: int = 500,
        mode: int = 0,
        acks: bool = True,
        due: int = 0,
        shared: bool = True,
        expires_seconds: float = 30.0,
        board: Board | None = None,
        group: int = 0,
        groups_all: int = 0,
        puller_first: int = 0,
        pullers_all: int = 0,
        stall_seconds: float = 20.0,
    ) -> None: ...
    def start(self, seconds: float, at_ns: int = 0) -> None: ...
    def run(self) -> None: ...
    def part(self) -> dict[str, Any]: ...
