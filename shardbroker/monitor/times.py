"""Times and durations as Go prints them. Source: monitor.go myUptime, time.Duration.String, client.go getRTT."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

SECOND_NS: Final = 1_000_000_000


def uptime(ns: int) -> str:
    """monitor.go myUptime: "1y2d3h4m5s", whole seconds, from the largest unit that is not 0."""
    seconds = max(ns, 0) // SECOND_NS
    minutes, hours, days, years = seconds // 60, seconds // 3600, seconds // 86400, seconds // (86400 * 365)
    text = f"{seconds % 60}s"
    if minutes:
        text = f"{minutes % 60}m{text}"
    if hours:
        text = f"{hours % 24}h{text}"
    if days:
        text = f"{days % 365}d{text}"
    return f"{years}y{text}" if years else text


def go_duration(ns: int) -> str:
    """Go's time.Duration.String: "0s", "1.5µs", "250ms", "1m2.5s"."""
    if ns <= 0:
        return "0s"
    if ns < SECOND_NS:
        for unit, size in (("ms", 1_000_000), ("µs", 1_000), ("ns", 1)):
            if ns >= size:
                return f"{_decimal(ns, size)}{unit}"
    seconds, rest = divmod(ns, SECOND_NS)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(seconds * SECOND_NS + rest, SECOND_NS)}s"
    if minutes or hours:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text


def _decimal(value: int, size: int) -> str:
    whole, rest = divmod(value, size)
    return f"{whole}.{rest:0{len(str(size)) - 1}d}".rstrip("0") if rest else str(whole)


def rtt_duration(ns: int) -> str:
    """client.go getRTT: whole microseconds between a microsecond and a millisecond."""
    return go_duration(ns // 1000 * 1000 if 1_000 < ns < 1_000_000 else ns)


def rfc3339(ns: int) -> str:
    """Go's RFC3339Nano in UTC."""
    moment = datetime.fromtimestamp(ns // SECOND_NS, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f"{ns % SECOND_NS:09d}".rstrip("0")
    return f"{moment}.{fraction}Z" if fraction else f"{moment}Z"


def nanoseconds(seconds: float) -> int:
    """Go's time.Duration as JSON has it."""
    return round(seconds * SECOND_NS)
