"""The grammar of subjects, slow and obvious: the oracle for hot/ and good enough for cold paths.

A subject is tokens between dots. `*` as a whole token stands for any one token, `>` as the last token for one or more.
Source: nats-server's sublist.go (IsValidSubject, IsValidLiteralSubject, matchLiteral, SubjectsCollide, SubjectIsSubsetMatch).
Where nats-server works on bytes, give text decoded as latin-1.
"""

from __future__ import annotations

import hashlib
from typing import Final

ONE: Final = "*"
REST: Final = ">"
WHITESPACE: Final = frozenset(" \t\n\r\f")


def split(subject: str) -> list[str]:
    """Its tokens; empty ones too, so that the caller can see them."""
    return subject.split(".")


def is_valid_subject(subject: str) -> bool:
    """Whether one may subscribe to it: no empty token, no white space, `>` only as the last token."""
    tokens = split(subject)
    return (
        all(token and WHITESPACE.isdisjoint(token) for token in tokens)
        # `>` within a longer token is an ordinary character.
        and REST not in tokens[:-1]
    )


def is_literal_subject(subject: str) -> bool:
    """Whether a pedantic client may publish to it: no empty token, no token that is a wildcard.

    White space is not looked for, since none can come through the protocol (sublist.go isValidLiteralSubject).
    """
    return all(token not in ("", ONE, REST) for token in split(subject))


def has_wildcard(subject: str) -> bool:
    """Whether some token is a wildcard; `foo*` and `a>b` are literal tokens."""
    return any(token in (ONE, REST) for token in split(subject))


def matches(pattern: str, subject: str) -> bool:
    """Whether a subscription to `pattern` gets what is published to the literal `subject`."""
    wanted, given = split(pattern), split(subject)
    for at, token in enumerate(wanted):
        if token == REST and at == len(wanted) - 1:
            return len(given) > at
        if at >= len(given) or token not in (ONE, given[at]):
            return False
    return len(wanted) == len(given)


def collides(one: str, other: str) -> bool:
    """Whether some literal subject matches both patterns. Both must be valid."""
    a, b = split(one), split(other)
    for at in range(max(len(a), len(b))):
        if at >= len(a) or at >= len(b):
            return False
        if a[at] == REST or b[at] == REST:
            return True
        if ONE not in (a[at], b[at]) and a[at] != b[at]:
            return False
    return True


def is_subset(inner: str, outer: str) -> bool:
    """Whether every subject that `inner` matches is matched by `outer`. Both must be valid."""
    a, b = split(inner), split(outer)
    for at, token in enumerate(b):
        if at >= len(a):
            return False
        if token == REST:
            return True
        if a[at] == REST or (token != ONE and a[at] != token):
            return False
    return len(a) == len(b)


def shard_of(account: str, name: str, shards: int) -> int:
    """The shard that owns a stream: the same on every shard and for every run with as many of them."""
    digest = hashlib.blake2b(f"{account}\0{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % shards


def text_of(subject: bytes) -> str:
    """A subject as text. It is UTF-8 by convention only: bytes that are none come back as they were by bytes_of()."""
    return subject.decode("utf-8", "surrogateescape")


def bytes_of(text: str) -> bytes:
    """The same back; what no subject can be made of is `?`."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")
