"""Read one setting's value from an entry of the configuration file, or from a flag's text.

Every reader takes an Entry and returns the value, or raises ValueError with what is wrong; the caller adds the place.
Times come out in seconds.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from shardbroker.control.config.document import Entry

DURATION_UNITS: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
# Go's are at most 292 years; sums of two of ours in nanoseconds are to be whole numbers of 64 bits as well.
DURATION_SECONDS_MAX: Final = 100 * 365 * 86400.0
_DURATION: Final = re.compile(r"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+")
_PART: Final = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


class Warned(ValueError):
    """The value can be used, with a word of warning: args are (value, text)."""


def duration(text: str) -> float:
    """Seconds of a duration as Go writes it: 1h30m, 200ms, 1.5s, 0. Raises ValueError (time.ParseDuration)."""
    if text in ("0", "+0", "-0"):
        return 0.0
    if not _DURATION.fullmatch(text):
        if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)", text):
            raise ValueError(f'time: missing unit in duration "{text}"')
        raise ValueError(f'time: invalid duration "{text}"')
    seconds = sum(float(number) * DURATION_UNITS[unit] for number, unit in _PART.findall(text))
    if seconds > DURATION_SECONDS_MAX:
        raise ValueError(f'time: invalid duration "{text}": more than 100 years')
    return -seconds if text[0] == "-" else seconds


def read_duration(entry: Entry) -> float:
    """A quoted or bare duration. A plain number means seconds, and is warned about (opts.go parseDuration).

    nats-server reads a bare `2m` as two million; nobody can have meant that, so it is two minutes here.
    """
    if isinstance(entry.value, str):
        return _not_negative(duration(entry.value))
    if type(entry.value) is int:
        if _DURATION.fullmatch(entry.text):
            return _not_negative(duration(entry.text))
        if entry.value > DURATION_SECONDS_MAX:
            raise ValueError(f"{entry.value} seconds are more than 100 years")
        raise Warned(_not_negative(float(entry.value)), "should be converted to a duration")
    raise ValueError(f"expected a duration such as 2s, got {shown(entry)}")


def _not_negative(seconds: float) -> float:
    if seconds < 0:
        raise ValueError("needs to be positive")
    return seconds


def read_any_duration(entry: Entry) -> float:
    """A duration with its unit, quoted or bare; it may be negative. Raises ValueError."""
    return duration(entry.value if isinstance(entry.value, str) else entry.text)


def read_string(entry: Entry) -> str:
    if isinstance(entry.value, str):
        return entry.value
    # A bare word that looks like a number is meant as text where text is wanted, as in `user: 123`.
    if entry.text and isinstance(entry.value, int | float) and not isinstance(entry.value, bool):
        return entry.text
    raise ValueError(f"expected a string, got {shown(entry)}")


def read_bool(entry: Entry) -> bool:
    if isinstance(entry.value, bool):
        return entry.value
    raise ValueError(f"expected true or false, got {shown(entry)}")


def read_int(entry: Entry) -> int:
    if type(entry.value) is int:
        return entry.value
    raise ValueError(f"expected an integer, got {shown(entry)}")


def read_map(entry: Entry) -> dict[str, Entry]:
    if isinstance(entry.value, dict):
        return entry.value
    raise ValueError(f"expected a map, got {shown(entry)}")


def read_strings(entry: Entry) -> tuple[str, ...]:
    """One string or a list of them."""
    if isinstance(entry.value, list):
        return tuple(read_string(item) for item in entry.value)
    return (read_string(entry),)


def read_string_map(entry: Entry) -> dict[str, str]:
    return {key: read_string(value) for key, value in read_map(entry).items()}


def read_port(entry: Entry) -> int:
    return port(read_int(entry))


def read_listen(entry: Entry) -> tuple[str, int]:
    """Host and port of `4222` or `host:4222`; the host is empty where none is given (opts.go parseListen)."""
    if type(entry.value) is int:
        return "", port(entry.value)
    host, text = split_host_port(read_string(entry))
    if not re.fullmatch(r"[-+]?\d+", text):
        raise ValueError(f'could not parse port "{text}"')
    return host, port(int(text))


def split_host_port(text: str) -> tuple[str, str]:
    """`host:port` or `[v6]:port` in two (net.SplitHostPort). Raises ValueError."""
    match = re.fullmatch(r"(?:\[([^\[\]]*)\]|([^:\[\]]*)):([^:]*)", text)
    if match is None:
        raise ValueError(f'could not parse address string "{text}"')
    return match[1] or match[2] or "", match[3]


def port(number: int) -> int:
    if not -1 <= number <= 65535:
        raise ValueError(f"{number} is no port: 1 to 65535, or -1 for any free one")
    return number


def size(text: str) -> int:
    """Bytes of `4194304`, `64k` (times 1000) or `4MiB`, `4mb` (times 1024), as in the file. Raises ValueError."""
    match = re.fullmatch(r"(\d+)\s*(?:([kmg])(b|ib?)?)?", text.lower())
    if match is None:
        raise ValueError("parse error")
    base = 1024 if match[3] else 1000
    power = " kmg".index(match[2]) if match[2] else 0
    return int(match[1]) * int(base**power)


def shown(entry: Entry) -> str:
    """A value for a message; what may be a secret is in no message, since only its kind is said."""
    kinds = {
        bool: "a truth value",
        int: "a number",
        float: "a fraction",
        str: "a string",
        list: "a list",
        dict: "a map",
    }
    return kinds.get(type(entry.value), "a date")
