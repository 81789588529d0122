"""Header blocks of messages, as the broker reads and writes them: the first field of a name counts, case matters.

Source: nats-server's client.go getHeader, sliceHeader, genHeader, removeHeaderIfPresent.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = b"NATS/1.0\r\n"
EXPECTED_STREAM: Final = b"Nats-Expected-Stream"
EXPECTED_LAST_SEQ: Final = b"Nats-Expected-Last-Sequence"
EXPECTED_LAST_SUBJECT_SEQ: Final = b"Nats-Expected-Last-Subject-Sequence"
EXPECTED_LAST_SUBJECT_SEQ_SUBJECT: Final = b"Nats-Expected-Last-Subject-Sequence-Subject"
EXPECTED_LAST_MSG_ID: Final = b"Nats-Expected-Last-Msg-Id"
MSG_ID: Final = b"Nats-Msg-Id"
ROLLUP: Final = b"Nats-Rollup"
TTL: Final = b"Nats-TTL"
MARKER_REASON: Final = b"Nats-Marker-Reason"
STREAM_SOURCE: Final = b"Nats-Stream-Source"
REQUIRED_API_LEVEL: Final = b"Nats-Required-Api-Level"
KV_OPERATION: Final = b"KV-Operation"
REQUEST_INFO: Final = b"Nats-Request-Info"
# Of features that no stream here has
BATCH_ID: Final = b"Nats-Batch-Id"
INCREMENT: Final = b"Nats-Incr"
SCHEDULE: Final = b"Nats-Schedule"


def get(block: bytes, name: bytes) -> bytes:
    """The value of the first field of that name without blanks before it; empty when there is none."""
    at = _find(block, name)
    if at < 0:
        return b""
    start = at + len(name) + 1
    end = block.find(b"\r\n", start)
    return block[start:end].lstrip(b" ") if end >= 0 else b""


def _find(block: bytes, name: bytes) -> int:
    at = block.find(b"\n" + name + b":")
    return at + 1 if at >= 0 else -1


def add(block: bytes, name: bytes, value: bytes) -> bytes:
    """With one field more, behind the others."""
    if not block:
        block = VERSION + b"\r\n"
    return b"%b%b: %b\r\n\r\n" % (block[:-2], name, value)


def remove(block: bytes, name: bytes) -> bytes:
    """Without the fields of that name; empty when nothing is left."""
    while (at := _find(block, name)) >= 0:
        end = block.find(b"\r\n", at)
        if end < 0:
            break
        block = block[:at] + block[end + 2 :]
    return b"" if block == VERSION + b"\r\n" else block


def ends_subject(block: bytes) -> bool:
    """Whether a message says by itself that its subject has ended: no marker follows it (sdm.go isSubjectDeleteMarker)."""
    return bool(get(block, MARKER_REASON)) or get(block, KV_OPERATION) == b"PURGE"


def without_status(block: bytes) -> bytes:
    """A stored message has no status behind the version; nothing is left of a block that is nothing else."""
    if block and not block.startswith(VERSION):
        end = block.find(b"\r\n")
        block = VERSION + block[end + 2 :] if end >= 0 and block.startswith(b"NATS/1.0") else block
    return b"" if block == VERSION + b"\r\n" else block


def number(value: bytes) -> int:
    """parseInt64: digits only, else -1."""
    return int(value) if value.isdigit() and len(value) <= 19 else -1
