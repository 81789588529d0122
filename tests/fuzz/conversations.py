"""Conversations of a client with all verbs, spoiled in places; a seed gives one, always the same."""

from __future__ import annotations

import random

SUBJECTS = (b"a", b"a.b", b"a.b.c", b"b", b"_INBOX.x.1", b"$SYS.x", b"_R_.a", b"\xc3\xbc.b", b"x" * 300)
PATTERNS = (*SUBJECTS, b"*", b">", b"a.*", b"a.>", b"*.b", b"_INBOX.x.*", b"a.*.c")
WRONG = (
    b"",
    b"a..b",
    b".a",
    b"a.",
    b"a.>.b",
    b"a b",
    b"\0",
    b"\xff\xfe",
    b"*a",
    b"a.>>",
    b"$NRG.x",
    b"_GR_.y",
    b"$JS.ACK.z",
)
GAPS = (b" ", b" ", b" ", b"\t", b"  ", b" \t ", b" " * 40)
ENDS = (b"\r\n",) * 8 + (b"\n", b" \r\n", b"\r\r\n", b"")
PIECES = (
    b"",
    b" ",
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b"\xff",
    b"0",
    b"9",
    b"-",
    b"PUB ",
    b"PING\r\n",
    b"MSG a 1 0\r\n\r\n",
)
SIZES = (0, 1, 2, 5, 30, 31, 32, 33, 100, 511, 2047, 2048, 2049, 3000, 4096, 5000, 9000)


def conversation(r: random.Random, *, max_payload: int) -> bytes:
    """Some operations, some of them wrong, some bytes of the whole changed: most conversations get far."""
    parts = [_operation(r, max_payload) for _ in range(r.choice((1, 5, 20, 60)))]
    if r.random() < 0.3:
        at = r.randrange(len(parts))
        parts[at] = _spoiled(r, parts[at])
    return b"".join(parts)


def pieces(r: random.Random, data: bytes) -> list[bytes]:
    """The same bytes as a socket may bring them: byte by byte in places, at once in others."""
    found = []
    most = r.choice((1, 3, 20, 200, 5000))
    while data:
        n = r.randint(1, most) if r.random() < 0.9 else r.randint(1, 10000)
        found.append(data[:n])
        data = data[n:]
    return found


def _subject(r: random.Random, choice: tuple[bytes, ...]) -> bytes:
    return r.choice(WRONG) if r.random() < 0.03 else r.choice(choice)


def _line(r: random.Random, *words: bytes) -> bytes:
    verb = bytes(c ^ 0x20 if 65 <= c <= 90 and r.random() < 0.1 else c for c in words[0])
    tidy = r.random() < 0.8
    line = b"".join((b" " if tidy else r.choice(GAPS)) + word for word in words[1:])
    return verb + line + (b"\r\n" if tidy else r.choice(ENDS))


def _publish(r: random.Random, max_payload: int) -> bytes:
    size = r.choice(SIZES) if r.random() < 0.98 else max_payload + r.choice((-1, 0, 1))
    body = r.choice((b"PUB a 1\r\n", b"\r\n", b"z", b"\0")) * size
    body = body[:size]
    words = [_subject(r, SUBJECTS)]
    if r.random() < 0.4:
        words.append(_subject(r, SUBJECTS))
    end = b"\r\n" if r.random() < 0.99 else r.choice((b"\n\r", b"\r", b"", b"x\r\n"))
    if r.random() < 0.7:
        return _line(r, b"PUB", *words, b"%d" % size) + body + end
    headers = b"NATS/1.0\r\nA: b\r\n\r\n"
    shown = len(headers) + (0 if r.random() < 0.97 else r.choice((-1, 1, 5, 100000)))
    return _line(r, b"HPUB", *words, b"%d" % shown, b"%d" % (len(headers) + size)) + headers + body + end


def _operation(r: random.Random, max_payload: int) -> bytes:
    sid = b"%d" % r.randint(1, 9) if r.random() < 0.95 else r.choice((b"sid-x", b"y" * 200, b"\xff"))
    kind = r.random()
    if kind < 0.5:
        return _publish(r, max_payload)
    if kind < 0.7:
        queue = [r.choice((b"q", b"p", b"_sys_"))] if r.random() < 0.3 else []
        return _line(r, b"SUB", _subject(r, PATTERNS), *queue, sid)
    if kind < 0.8:
        return _line(
            r, b"UNSUB", sid, *([r.choice((b"0", b"1", b"3", b"x", b"-1"))] if r.random() < 0.5 else [])
        )
    if kind < 0.97:
        return _line(r, r.choice((b"PING", b"PING", b"PING", b"PONG", b"+OK")))
    if kind < 0.985:
        return _line(r, b"CONNECT", r.choice((b"{}", b'{"verbose":true}', b'{"pedantic":true}', b"nonsense")))
    if kind < 0.99:
        return _line(r, b"INFO", r.choice((b"{}", b"x")))
    return r.choice(
        (
            b"-ERR 'x'\r\n",
            b"MSG a 1 0\r\n\r\n",
            b"SUB " + b"s" * 5000,
            b"PUB " + b"p" * 5000 + b" 0\r\n\r\n",
            b"\0",
        )
    )


def _spoiled(r: random.Random, part: bytes) -> bytes:
    data = bytearray(part)
    for _ in range(r.randint(1, 3)):
        at = r.randint(0, len(data))
        data[at : at + r.randint(0, 2)] = r.choice(PIECES)
    return bytes(data)
