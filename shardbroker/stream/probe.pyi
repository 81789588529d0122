from shardbroker.stream.hub import Hub

TIME_OFFSET: int

class ProbeHub(Hub):
    published: list[tuple[bytes, bytes | None, bytes, int, bytes]]
    listeners: set[bytes]
    behind: bool
    announced: bool
    now: int
    def __init__(self) -> None: ...
    def run(self, now: int | None = None) -> int | None: ...
