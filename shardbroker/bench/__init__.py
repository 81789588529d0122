"""The load generator: compiled loops that load a NATS server and check what comes back, in processes of their own."""

_DIGITS = b"abcdefghijklmnopqrstuvwxyz234567"

SUBJECTS_MAX = 32**4


class LoadError(Exception):
    """The server did not do what was asked: a message lost, doubled, swapped or changed, or no progress."""


def index_text(index: int) -> bytes:
    """The four letters that stand for `index` (0 .. 32**4 - 1) at the end of an indexed subject (net.h)."""
    return bytes(_DIGITS[index >> shift & 31] for shift in (15, 10, 5, 0))
