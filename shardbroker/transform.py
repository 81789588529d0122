"""Subject transforms: a source pattern, and a destination made of its wildcards. Slow and exact; for cold paths, and the oracle.

    orders.*.*  ->  orders.{{partition(3,1)}}.$2.{{splitFromLeft(1,2)}}

Where they are used: account mappings, imports, a stream's subject_transform, republish, sources. Source of the rules:
ADR-30; nats-server's subject_transform.go NewSubjectTransformWithStrict, indexPlaceHolders, TransformTokenizedSubject;
sublist.go ValidateMapping. Works on str; where nats-server works on bytes, give text decoded as latin-1.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Final

from shardbroker.subject import ONE, REST, is_literal_subject, matches, split

INT32_MAX: Final = 2**31 - 1
WHITESPACE: Final = re.compile(r"[\t\n\f\r ]")

# Name of a function -> what its arguments are: wildcard numbers, then numbers or text.
FUNCTIONS: Final = (
    "wildcard", "partition", "splitfromleft", "splitfromright", "slicefromleft", "slicefromright", "right", "left",
    "split", "random",
)  # fmt: skip
# Each word of a name may begin with a capital, as the regular expressions of nats-server allow.
_CALL: Final = re.compile(
    r"\{\{\s*([wW]ildcard|[pP]artition|[sS]plit[fF]rom[lL]eft|[sS]plit[fF]rom[rR]ight|[sS]lice[fF]rom[lL]eft"
    r"|[sS]lice[fF]rom[rR]ight|[rR]ight|[lL]eft|[sS]plit|[rR]andom)\s*\((.*)\)\s*\}\}"
)
_INTEGER: Final = re.compile(r"[-+]?\d+")


class TransformError(ValueError):
    """The text is nats-server's."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One token of a destination. `function` is empty for a token that stands for itself."""

    text: str
    function: str = ""
    wildcards: tuple[int, ...] = ()  # numbers of the source's wildcards, from 1
    tokens: tuple[int, ...] = ()  # the same as positions of the source's tokens, from 0
    number: int = 0  # partitions, a position, a length
    delimiter: str = ""


class Transform:
    """One transform, checked. `strict`: for imports, which must be reversible: only wildcards, and all of them."""

    __slots__ = ("destination", "pieces", "source")

    def __init__(self, source: str, destination: str, *, strict: bool = False) -> None:
        """Raises TransformError. An empty source stands for everything."""
        self.source = source or REST
        self.destination = destination
        source_tokens = _tokens(self.source)
        destination_tokens = _tokens(destination)
        if (
            source_tokens is None
            or destination_tokens is None
            or ONE in destination_tokens
            or (source_tokens[-1] == REST) != (destination_tokens[-1] == REST)
        ):
            raise TransformError("invalid subject")
        at = [position for position, token in enumerate(source_tokens) if token == ONE]
        plain = not at and source_tokens[-1] != REST
        pieces = []
        used = 0
        for token in destination_tokens:
            piece = parse_piece(token)
            if piece.function:
                if strict and piece.function != "wildcard":
                    raise _mapping(
                        "the only mapping function allowed for import transforms is {{Wildcard()}}", token
                    )
                if plain and piece.function not in ("random", "partition"):
                    raise _mapping("wildcard index out of range", token)
                positions = []
                for number in () if plain else piece.wildcards:
                    if number > len(at):
                        raise _mapping("wildcard index out of range", f"{token}: [{number}]")
                    # nats-server takes a number below 1 for the first token.
                    positions.append(at[number - 1] if number > 0 else 0)
                used += len(positions)
                piece = Piece(
                    token, piece.function, piece.wildcards, tuple(positions), piece.number, piece.delimiter
                )
            pieces.append(piece)
        if strict and used < len(at):
            raise _mapping("not using all of the token wildcard(s)", destination)
        self.pieces = tuple(pieces)

    def apply(self, subject: str) -> str | None:
        """What a literal subject becomes; None when it does not match the source, or is no literal subject."""
        if self.source == REST and self.destination == REST:
            return subject
        if not is_literal_subject(subject) or not matches(self.source, subject):
            return None
        return self.fill(split(subject))

    def fill(self, tokens: list[str]) -> str:
        """The destination for the tokens of a subject that matches the source."""
        parts = [_piece_text(piece, tokens) for piece in self.pieces if piece.text != REST]
        if self.pieces[-1].text == REST:
            parts += tokens[len(split(self.source)) - 1 :]
        return ".".join(parts)

    def reverse(self) -> Transform:
        """The transform that leads back; for strict ones. Raises TransformError.

        nats-server's is wrong when three or more wildcards change places in a circle.
        """
        source = untokenize(self.destination)[0]
        order = [piece.tokens[0] for piece in self.pieces if piece.function]
        destination = ".".join(
            f"${order.index(at) + 1}" if token == ONE else token
            for at, token in enumerate(split(self.source))
        )
        return Transform(source, destination, strict=True)


def check_mapping(source: str, destination: str) -> Transform:
    """The transform of an account's mapping, checked (ValidateMapping). Raises TransformError.

    Differs from nats-server in that left() and right() may be used, which it knows and forgot here.
    """
    tokens = split(destination)
    for at, token in enumerate(tokens):
        if not token or REST in tokens[:at]:
            raise _mapping("invalid transform", token)
        if _looks_like_call(token):
            if not _CALL.search(token):
                raise _mapping("unknown function", token)
        elif WHITESPACE.search(token):
            raise _mapping("invalid transform", "")
    return Transform(source, destination)


def parse_piece(token: str) -> Piece:
    """What a token of a destination says (indexPlaceHolders). Raises TransformError."""
    if len(token) > 1 and token[0] == "$":
        # Other tokens begin with $ too: $JS.
        if _INTEGER.fullmatch(token[1:]):
            return Piece(token, "wildcard", (int(token[1:]),))
        return Piece(token)
    if not _looks_like_call(token):
        return Piece(token)
    call = _CALL.search(token)
    if call is None:
        raise _mapping("unknown function", token)
    name, arguments = call[1].lower(), re.split(r",\s*", call[2])
    if name == "wildcard":
        if len(arguments) > 1:
            raise _mapping("too many arguments passed to the function", token)
        if not arguments[0]:
            raise _mapping("not enough arguments passed to the function", token)
        return Piece(token, name, (_number(arguments[0], token),))
    if name == "partition":
        wildcards = tuple(_number(text, token) for text in arguments[1:])
        return Piece(token, name, wildcards, number=_number(arguments[0], token, INT32_MAX))
    if name == "random":
        if len(arguments) != 1:
            raise _mapping("not enough arguments passed to the function", token)
        return Piece(token, name, number=_number(arguments[0], token, INT32_MAX))
    if len(arguments) != 2:
        few = "not enough" if len(arguments) < 2 else "too many"
        raise _mapping(f"{few} arguments passed to the function", token)
    wildcards = (_number(arguments[0], token),)
    if name == "split":
        if " " in arguments[1] or "." in arguments[1]:
            raise _mapping("function argument is invalid or in the wrong format", token)
        return Piece(token, name, wildcards, delimiter=arguments[1])
    return Piece(token, name, wildcards, number=_number(arguments[1], token, INT32_MAX))


def tokenize(pattern: str) -> str:
    """A pattern's wildcards as place holders: `foo.*.*` is `foo.$1.$2` (transformTokenize)."""
    count = 0
    tokens = []
    for token in split(pattern):
        count += token == ONE
        tokens.append(f"${count}" if token == ONE else token)
    return ".".join(tokens)


def untokenize(destination: str) -> tuple[str, list[str]]:
    """A destination's place holders as wildcards, and the place holders: `foo.$2.$1` is `foo.*.*` (transformUntokenize)."""
    tokens, holders = [], []
    for token in split(destination):
        call = _CALL.search(token)
        is_holder = (len(token) > 1 and token[0] == "$" and token[1] in "123456789") or (
            call is not None and call[1].lower() == "wildcard" and call[2] != "" and "," not in call[2]
        )
        if is_holder:
            holders.append(token)
        tokens.append(ONE if is_holder else token)
    return ".".join(tokens), holders


def fnv1a(data: bytes) -> int:
    """The 32-bit hash that partition() uses."""
    value = 0x811C9DC5
    for byte in data:
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


# -- parts --


def _tokens(subject: str) -> list[str] | None:
    """The tokens of a valid subject, else None (subjectInfo). White space is not looked at."""
    tokens = split(subject)
    return None if "" in tokens or REST in tokens[:-1] else tokens


def _looks_like_call(token: str) -> bool:
    return len(token) > 4 and token.startswith("{{") and token.endswith("}}")


def _number(text: str, token: str, most: int = 2**63 - 1) -> int:
    text = text.strip(" ")
    if not _INTEGER.fullmatch(text) or not -most - 1 <= int(text) <= most:
        raise _mapping("function argument is invalid or in the wrong format", token)
    return int(text)


def _mapping(what: str, where: str) -> TransformError:
    return TransformError(f"invalid mapping destination: {what}" + (f" in {where}" if where else ""))


def _piece_text(piece: Piece, tokens: list[str]) -> str:
    function, number = piece.function, piece.number
    if not function:
        return piece.text
    if function == "partition":
        key = "".join(tokens[at] for at in piece.tokens) if piece.tokens else ".".join(tokens)
        count = number & 0xFFFFFFFF
        return str(fnv1a(key.encode("utf-8", "surrogateescape")) % count) if count else "0"
    if function == "random":
        return str(random.randrange(abs(number))) if number else "0"
    token = tokens[piece.tokens[0]]
    if function == "wildcard":
        return token
    if function == "split":
        return (
            ".".join(part for part in token.split(piece.delimiter) if part)
            if piece.delimiter
            else ".".join(token)
        )
    if not 0 < number < len(token):
        return token
    if function == "splitfromleft":
        return f"{token[:number]}.{token[number:]}"
    if function == "splitfromright":
        return f"{token[:-number]}.{token[-number:]}"
    if function == "left":
        return token[:number]
    if function == "right":
        return token[-number:]
    first = 0 if function == "slicefromleft" else len(token) % number
    parts = [token[at : at + number] for at in range(first, len(token), number)]
    return ".".join([token[:first], *parts] if first else parts)
