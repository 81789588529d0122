"""What every event and report of the broker has: its type, an id, the time (events.go TypedEvent)."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime
from typing import Any


def event_head(kind: str, now_ns: int = 0) -> dict[str, Any]:
    """What every event begins with; 0: it is made now."""
    return {"type": kind, "id": secrets.token_hex(11), "timestamp": time_text(now_ns or time.time_ns())}


def time_text(ns: int) -> str:
    """RFC 3339 with nanoseconds, UTC."""
    moment = datetime.fromtimestamp(ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{moment}.{ns % 1_000_000_000:09d}Z"
