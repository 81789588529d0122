from collections.abc import Sequence
from typing import Any

def request_reply(
    requesters: Sequence[int], responder: int, *, seconds: float, in_flight: int = 1, payload_bytes: int = 16
) -> dict[str, Any]: ...
