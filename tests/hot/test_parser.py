"""The compiled parser: the same for every split, and the same as two slow models."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oracle.protocol import first_operation
from shardbroker.hot import probe
from shardbroker.wire import codec, ops

LINE, PAYLOAD = 64, 100  # small limits, so that inputs around them are short

word = st.binary(min_size=1, max_size=8).map(lambda b: bytes(c for c in b if c not in b" \t\r\n") or b"x")
words = st.one_of(st.sampled_from([b"foo", b"a.b", b"_INBOX.x", b"*", b">", b"1", "\u00fc.\u20ac".encode(), b"a\0b"]), word)
gap = st.sampled_from([b" ", b" ", b" ", b"\t", b"  ", b" \t ", b" " * 14, b" " * 40])
# In SUB and UNSUB a CR is a blank too, once the arguments have begun.
cr_gap = st.one_of(gap, gap, st.sampled_from([b"\r", b" \r", b"\r \t", b"\r\r"]))
end_of_line = st.sampled_from([b"\r\n", b"\r\n", b"\n", b" \r\n", b"\t\n", b"\r\r\n"])
number = st.one_of(
    st.integers(0, 12),
    st.sampled_from([PAYLOAD - 1, PAYLOAD, PAYLOAD + 1, 999_999_999, 1_000_000_000, 9_999_999_999]),
)
leading = st.sampled_from(["%d", "%d", "%d", "0%d", "00000000%d", "-%d", "+%d", "%dx", "%d.0"])


@st.composite
def verbs(draw: st.DrawFn, name: bytes) -> bytes:
    """A verb in some mixture of cases."""
    return bytes(c | 0x20 if draw(st.booleans()) and chr(c).isalpha() else c for c in name)


@st.composite
def publishes(draw: st.DrawFn) -> bytes:
    headers = draw(st.booleans())
    size = draw(number)
    header_bytes = draw(st.one_of(st.integers(0, size), st.sampled_from([0, size, size + 1]))) if headers else 0
    parts = [draw(verbs(b"HPUB" if headers else b"PUB")), draw(words)]
    if draw(st.booleans()):
        parts.append(draw(words))
    if headers:
        parts.append((draw(leading) % header_bytes).encode())
    parts.append((draw(leading) % size).encode())
    line = b"".join(part + draw(gap) for part in parts[:-1]) + parts[-1]
    body = draw(st.binary(min_size=min(size, 300), max_size=min(size, 300)))
    return line + draw(end_of_line) + body + draw(st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n\r", b"\r", b"", b"x\r\n"]))


@st.composite
def subscribes(draw: st.DrawFn) -> bytes:
    name = draw(st.sampled_from([b"SUB", b"UNSUB"]))
    arguments = draw(st.lists(st.one_of(words, number.map(lambda n: b"%d" % n)), max_size=5))
    return draw(verbs(name)) + b"".join(draw(cr_gap) + a for a in arguments) + draw(end_of_line)


@st.composite
def others(draw: st.DrawFn) -> bytes:
    name = draw(st.sampled_from([b"CONNECT", b"INFO", b"PING", b"PONG", b"+OK", b"-ERR"]))
    argument = draw(st.sampled_from([b"", b" ", b" {}", b"{\"a\": 1}", b" 'x' ", b"\tx", b"x" * (LINE - 1), b" \0"]))
    return draw(verbs(name)) + argument + draw(end_of_line)


@st.composite
def long_lines(draw: st.DrawFn) -> bytes:
    """Lines of about the greatest length, arguments or blanks."""
    name = draw(st.sampled_from([b"PUB ", b"SUB ", b"UNSUB\t", b"CONNECT ", b"PING", b"HPUB  ", b"-ERR "]))
    blanks = b" " * draw(st.sampled_from([0, 0, 0, 10, 1017, 1019, 1020, 1021, 1022]))
    tail = draw(st.sampled_from([b"", b" 0", b" 1", b" a 3"]))
    room = LINE + draw(st.integers(-3, 3))
    return name + blanks + b"s" * (room - len(tail)) + tail + draw(end_of_line) + b"\r\n"


operations = st.one_of(publishes(), publishes(), subscribes(), others(), long_lines())


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """An operation with some bytes put in, taken out or changed, and something behind it."""
    data = bytearray(draw(operations))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        piece = draw(st.sampled_from([b"", b" ", b"\r", b"\n", b"\r\n", b"\0", b"\xff", b"0", b"9", b"PUB "]))
        data[at : at + draw(st.integers(0, 2))] = piece
    return bytes(data) + draw(st.sampled_from([b"", b"PING\r\n", b"\r\n", b"P"]))


def parse(data: bytes, headers: bool = True) -> tuple[str, int, dict[str, Any]]:
    """As probe.parse with the small limits; checks `tail` and takes it out."""
    status, length, fields = probe.parse(data, max_control_line=LINE, max_payload=PAYLOAD, headers=headers)
    tail = fields.pop("tail", None)
    if tail is not None:
        line = fields["reply"] + b" " if fields["reply"] else b""
        first, rest = tail[: len(line)], tail[len(line) :]
        sizes, crlf, body = rest.partition(b"\r\n")
        assert first == line and crlf and body == fields["payload"] + b"\r\n"
        numbers = [int(n) for n in sizes.split(b" ")]
        assert numbers[-1] == len(fields["payload"])
        assert numbers[:-1] == ([fields["header_bytes"]] if fields["header_bytes"] >= 0 else [])
    return status, length, fields


@settings(max_examples=1500, deadline=None)
@given(mutated(), st.booleans())
@example(b"PUB foo 5 \r\nhello\r\n", True)
@example(b"PUB foo bar 5 \r\nhello\r\n", True)
@example(b"SUB" + b" " * 1021 + b"s" * (LINE - 2) + b" 1\r\n", True)
@example(b"SUB" + b" " * 1022 + b"s" * (LINE - 2) + b" 1\r\n", True)
@example(b"SUB" + b" " * 1300, True)
@example(b"HPUB foo 0 5\r\nhello\r\n", False)
@example(b"PUB foo 000000005\r\nhello\r\n", True)
@example(b"SUB foo\rq\r1\r\r\n", True)
@example(b"SUB \rfoo\t1\n", True)
@example(b"SUB foo\r1\n", True)
@example(b"SUB\rfoo 1\r\n", True)
@example(b"UNSUB 1\r2\r\n", True)
@example(b"PUB foo\r 5\r\nhello\r\n", True)
@example(b"PUB foo 0000000005\r\nhello\r\n", True)
def test_every_split_gives_the_same_and_the_model_agrees(data: bytes, headers: bool) -> None:
    if not data:
        return
    whole = parse(data, headers)
    assert whole == first_operation(data, LINE, PAYLOAD, headers)
    for cut in range(1, len(data)):
        part = parse(data[:cut], headers)
        if part[0] == "more":
            assert part[1] in (0, whole[1]) or whole[0] in ("unknown", "more"), cut
            assert whole[0] != "done" or cut < whole[1]
        else:
            assert part == whole, cut
            # Whatever follows does not count any more.
            assert parse(data[:cut] + b"\xff\r\n", headers) == whole


@settings(max_examples=300, deadline=None)
@given(st.lists(operations, min_size=1, max_size=6).map(b"".join))
def test_a_stream_of_operations_agrees_with_the_codec(data: bytes) -> None:
    """One after the other, until the first mistake, as wire/codec.py has it."""
    found: list[ops.Operation] = []
    mistake = ""
    rest = data
    while rest and not mistake:
        status, length, fields = parse(rest)
        if status == "more":
            break
        if status != "done":
            mistake = status
            break
        found.append(operation_of(fields))
        rest = rest[length:]
    # The codec lets some lines be longer.
    if mistake == "line too long":
        return
    parser = codec.Parser(codec.FROM_CLIENTS, max_control_line=LINE, max_payload=PAYLOAD)
    if found:
        assert parser.feed(data) == found
        data = b""
    if mistake:
        with pytest.raises(codec.ProtocolError, match=mistake.upper().replace(" ", "_")):
            parser.feed(data)
    else:
        assert parser.feed(data) == []
        assert parser.pending == rest


def operation_of(fields: dict[str, Any]) -> ops.Operation:
    match fields["kind"]:
        case "PUB":
            n = fields["header_bytes"]
            payload, headers = fields["payload"][max(n, 0) :], fields["payload"][:n] if n >= 0 else None
            return ops.Pub(fields["subject"], payload, fields["reply"], headers)
        case "SUB":
            return ops.Sub(fields["subject"], fields["sid"], fields["queue"])
        case "UNSUB":
            return ops.Unsub(fields["sid"], max(0, fields["max"]))
        case "CONNECT":
            return ops.Connect(fields["argument"])
        case "INFO":
            return ops.Info(fields["argument"])
        case "-ERR":
            return ops.Err(fields["argument"])
    simple: dict[str, ops.Operation] = {"PING": ops.Ping(), "PONG": ops.Pong(), "+OK": ops.Ok()}
    return simple[fields["kind"]]


def test_every_first_two_bytes() -> None:
    """A verb is unknown at the first byte that no verb can have."""
    for first in range(256):
        for second in range(256):
            data = bytes([first, second])
            assert parse(data) == first_operation(data, LINE, PAYLOAD, True)
        assert parse(data[:1]) == first_operation(data[:1], LINE, PAYLOAD, True)


@pytest.mark.parametrize("size", [0, 1, 30, 31, 32, 33, 63, 64, 65, 2047, 2048, 65535, 65536, 1048576])
def test_payload_sizes(size: int) -> None:
    """The length of a payload's operation is known as soon as its line is whole."""
    line = b"PUB a.b r %d\r\n" % size
    data = line + b"\r" * size + b"\r\n"
    status, length, fields = probe.parse(data)
    assert (status, length, fields["payload"]) == ("done", len(data), b"\r" * size)
    assert fields["tail"] == data[8:]
    assert probe.parse(line)[:2] == ("more", len(data))
    assert probe.parse(data[:-1])[:2] == ("more", len(data))


def test_a_payload_over_the_limit_is_refused_by_its_line() -> None:
    assert probe.parse(b"PUB a 1048577\r\n")[0] == "payload too large"
    assert probe.parse(b"PUB a 999999999\r\n")[0] == "payload too large"
    assert probe.parse(b"PUB a 1000000000\r\n")[0] == "arguments"
    assert probe.parse(b"HPUB a 5 4\r\n")[0] == "arguments"
