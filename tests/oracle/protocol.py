"""The client protocol as one slow function of the whole input: the oracle for hot/parser.

It says the same as nats-server's parser.go and client.go, with three rules of our own: a control line that is too long is
refused in every verb, so is one with more than a few blanks before its arguments, and so is a CR among those of a PUB.
"""

from __future__ import annotations

import re
from typing import Any

VERBS = ("PUB", "HPUB", "SUB", "UNSUB", "CONNECT", "INFO", "PING", "PONG", "+OK", "-ERR")
WITHOUT_ARGUMENTS = ("PING", "PONG", "+OK")
BLANK_NEEDED = ("PUB", "HPUB", "SUB", "UNSUB", "-ERR")
# max_control_line counts what stands behind the verb and its blanks; those may be so many bytes.
BLANKS_MAX = 1024

Result = tuple[str, int, dict[str, Any]]


def first_operation(data: bytes, max_control_line: int, max_payload: int, headers: bool) -> Result:
    """(status, length of the operation or 0, its fields), as hot.probe.parse gives them."""
    given = data[:7].upper().decode("latin-1")
    verb = next((v for v in VERBS if given.startswith(v)), "")
    if not verb:
        return ("more" if any(v.startswith(given) for v in VERBS) else "unknown"), 0, {}
    rest = data[len(verb) :]
    if verb in WITHOUT_ARGUMENTS:
        blanks = b""
    else:
        blanks = re.match(rb"[ \t]*", rest)[0]  # type: ignore[index]
        if not rest:
            return "more", 0, {}
        if verb in BLANK_NEEDED and not blanks:
            return "unknown", 0, {}
    arguments, newline, payload = rest[len(blanks) :].partition(b"\n")
    arguments = arguments.removesuffix(b"\r")
    line_bytes = len(verb) + len(blanks) + len(arguments)
    if len(arguments) > max_control_line or line_bytes > max_control_line + BLANKS_MAX:
        return "line too long", 0, {}
    if not newline:
        return "more", 0, {}
    length = len(data) - len(payload)
    cr_is_blank = verb in ("SUB", "UNSUB")
    words = [word for word in re.split(rb"[ \t\r]+" if cr_is_blank else rb"[ \t]+", arguments) if word]
    cr = b"\r" in arguments
    match verb:
        case "PUB" | "HPUB":
            if verb == "HPUB" and not headers:
                return "headers", 0, {}
            return ("arguments", 0, {}) if cr else _publish(verb, words, length, payload, max_payload)
        case "SUB":
            if len(words) not in (2, 3):
                return "arguments", 0, {}
            queue = words[1] if len(words) == 3 else b""
            return "done", length, {"kind": "SUB", "subject": words[0], "queue": queue, "sid": words[-1]}
        case "UNSUB":
            if len(words) not in (1, 2):
                return "arguments", 0, {}
            return "done", length, {"kind": "UNSUB", "sid": words[0], "max": _size(words[1]) if words[1:] else -1}
        case "CONNECT" | "INFO" | "-ERR":
            return "done", length, {"kind": verb, "argument": arguments}
    return "done", length, {"kind": verb}


def _size(word: bytes) -> int:
    return int(word) if re.fullmatch(rb"[0-9]{1,9}", word) else -1


def _publish(verb: str, words: list[bytes], at: int, payload: bytes, max_payload: int) -> Result:
    sizes = [_size(word) for word in words[-2 if verb == "HPUB" else -1 :]]
    names = words[: -len(sizes)]
    if len(names) not in (1, 2) or min(sizes) < 0:
        return "arguments", 0, {}
    if sizes[-1] > max_payload:
        return "payload too large", 0, {}
    if sizes[0] > sizes[-1]:
        return "arguments", 0, {}
    size = sizes[-1]
    end = payload[size : size + 2]
    if not b"\r\n".startswith(end):
        return "unknown", 0, {}
    if len(end) < 2:
        return "more", at + size + 2, {}
    return (
        "done",
        at + size + 2,
        {
            "kind": "PUB",
            "subject": names[0],
            "reply": names[1] if names[1:] else b"",
            "header_bytes": sizes[0] if verb == "HPUB" else -1,
            "payload": payload[:size],
        },
    )
