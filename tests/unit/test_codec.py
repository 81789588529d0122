"""The plain-Python protocol: what is encoded is parsed again, however it is split; mistakes are told apart."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardbroker.wire.codec import FROM_CLIENTS, FROM_SERVERS, Mistake, Parser, ProtocolError, encode
from shardbroker.wire.ops import Connect, Err, Info, Msg, Ok, Operation, Ping, Pong, Pub, Sub, Unsub

WORD = st.text("abcXYZ019._*>$-", min_size=1, max_size=12).map(str.encode)
MAYBE_WORD = st.one_of(st.just(b""), WORD)
BODY = st.binary(max_size=40)
HEADERS = st.one_of(st.none(), st.just(b"NATS/1.0\r\n\r\n"), st.just(b"NATS/1.0 503\r\n\r\n"))
JSON = st.just(b'{"a":1}')
FROM_CLIENT: st.SearchStrategy[Operation] = st.one_of(
    st.builds(Pub, WORD, BODY, MAYBE_WORD, HEADERS),
    st.builds(Sub, WORD, WORD, MAYBE_WORD),
    st.builds(Unsub, WORD, st.integers(0, 10**9 - 1)),
    st.builds(Connect, JSON),
    st.just(Ping()),
    st.just(Pong()),
)
FROM_SERVER: st.SearchStrategy[Operation] = st.one_of(
    st.builds(Msg, WORD, WORD, BODY, MAYBE_WORD, HEADERS),
    st.builds(Info, JSON),
    st.builds(Err, st.just(b"'Stale Connection'")),
    st.just(Ping()),
    st.just(Pong()),
    st.just(Ok()),
)


def feed(parser: Parser, data: bytes) -> tuple[list[Operation], Mistake | None]:
    """All operations, and the mistake at the end if there is one."""
    try:
        found = parser.feed(data)
        parser.feed(b"")
    except ProtocolError as error:
        try:
            return found, error.mistake
        except UnboundLocalError:
            return [], error.mistake
    return found, None


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


@pytest.mark.parametrize(("verbs", "strategy"), [(FROM_CLIENTS, FROM_CLIENT), (FROM_SERVERS, FROM_SERVER)])
@given(data=st.data())
def test_what_is_encoded_is_parsed_again(
    verbs: dict[bytes, object], strategy: st.SearchStrategy[Operation], data: st.DataObject
) -> None:
    operations = data.draw(st.lists(strategy, max_size=6))
    stream = b"".join(map(encode, operations))
    parser = Parser(verbs)  # type: ignore[arg-type]
    found = []
    for piece in pieces(stream, data.draw(st.lists(st.integers(0, 1000), max_size=8))):
        found += parser.feed(piece)
    assert found == operations
    assert parser.pending == b""


@given(
    st.binary(max_size=60), st.sampled_from([b"PUB a 2\r\n", b"SUB ", b"", b"HPUB a 1 2\r\n", b"PING\r\nUNS"])
)
def test_any_input_means_the_same_in_any_pieces(noise: bytes, start: bytes) -> None:
    stream = start + noise
    whole, mistake = feed(Parser(FROM_CLIENTS), stream)
    parser = Parser(FROM_CLIENTS)
    found: list[Operation] = []
    seen = None
    for at in range(len(stream)):
        try:
            found += parser.feed(stream[at : at + 1])
        except ProtocolError as error:
            seen = error.mistake
            break
    assert found == whole
    assert seen == mistake


def test_wire_forms() -> None:
    assert encode(Pub(b"a", b"hi")) == b"PUB a 2\r\nhi\r\n"
    assert encode(Pub(b"a", b"hi", b"r", b"NATS/1.0\r\n\r\n")) == b"HPUB a r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"
    assert encode(Msg(b"a", b"9", b"hi", b"r")) == b"MSG a 9 r 2\r\nhi\r\n"
    assert encode(Sub(b"a", b"1", b"q")) == b"SUB a q 1\r\n"
    assert encode(Unsub(b"1")) == b"UNSUB 1\r\n"
    assert encode(Unsub(b"1", 5)) == b"UNSUB 1 5\r\n"
    assert encode(Err(b"'x'")) == b"-ERR 'x'\r\n"


@pytest.mark.parametrize(
    ("line", "operation"),
    [
        (b"pub a 2\r\nhi\r\n", Pub(b"a", b"hi")),
        (b"PUB\ta \t r\t 2 \r\nhi\r\n", Pub(b"a", b"hi", b"r")),
        (b"PUB a 2\nhi\r\n", Pub(b"a", b"hi")),
        (b"PING abc\r\n", Ping()),
        (b"pInG\n", Ping()),
        (b"CONNECT{}\r\n", Connect(b"{}")),
        (b"SUB  a  q  1\r\n", Sub(b"a", b"1", b"q")),
        (b"UNSUB 1 x\r\n", Unsub(b"1")),
        (b"PUB a 002\r\nhi\r\n", Pub(b"a", b"hi")),
    ],
)
def test_odd_but_right(line: bytes, operation: Operation) -> None:
    assert Parser(FROM_CLIENTS).feed(line) == [operation]


@pytest.mark.parametrize(
    ("data", "mistake"),
    [
        (b"Px", Mistake.UNKNOWN), (b"PUBS", Mistake.UNKNOWN), (b"PUB\r", Mistake.UNKNOWN), (b"\r\n", Mistake.UNKNOWN),
        (b"MSG a 1 2\r\n", Mistake.UNKNOWN), (b"PUB a 2\r\nhiX", Mistake.UNKNOWN), (b"PUB a 2\r\nhi\rX", Mistake.UNKNOWN),
        (b"PUB a\r\n", Mistake.ARGUMENTS), (b"PUB a b c 2\r\n", Mistake.ARGUMENTS), (b"PUB a -1\r\n", Mistake.ARGUMENTS),
        (b"PUB a 1234567890\r\n", Mistake.ARGUMENTS), (b"HPUB a 5 2\r\n", Mistake.ARGUMENTS), (b"SUB a\r\n", Mistake.ARGUMENTS),
        (b"SUB a b c d\r\n", Mistake.ARGUMENTS), (b"UNSUB \r\n", Mistake.ARGUMENTS),
        (b"PUB a 1048577\r\n", Mistake.PAYLOAD_TOO_LARGE), (b"PUB " + b"x" * 4097, Mistake.LINE_TOO_LONG),
        (b"SUB " + b"x" * 5000 + b"\r\n", Mistake.LINE_TOO_LONG),
    ],
)  # fmt: skip
def test_mistakes(data: bytes, mistake: Mistake) -> None:
    assert feed(Parser(FROM_CLIENTS), b"PING\r\n" + data) == ([Ping()], mistake)


def test_a_line_as_long_as_allowed_passes() -> None:
    name = b"x" * (4096 - len(b" 1"))
    assert Parser(FROM_CLIENTS).feed(b"SUB %b 1\r\n" % name) == [Sub(name, b"1")]
