"""Random operations on a log and on its model, compared after each: the parts that every test of this kind shares."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, replace

import pytest

from oracle.log import Limits, ModelLog, Refused, Stored
from shardbroker.store.handle import Filter, Log, Message, StoreError

START_NS = 1_700_000_000_000_000_000
SECOND_NS = 1_000_000_000
NOT_NOW = (-2, -3)  # LOG_NO_SPACE, LOG_FAILED
SUBJECTS = [
    b"a",
    b"b",
    b"a.b",
    b"a.c",
    b"a.b.c",
    b"orders.eu.1",
    b"orders.us.1",
    b"orders.us.2",
    b"x.y.z",
    b"x.*y",
]
FILTERS = [
    [], [b">"], [b"a"], [b"a.b"], [b"a.*"], [b"a.>"], [b"orders.*.1"], [b"*"], [b"x.y.z", b"a"], [b"orders.us.*", b"a.c"],
    [b"none"], [b"a", b"a"], [b"x.*y"],
]  # fmt: skip


def stored(m: Message | None) -> Stored | None:
    return None if m is None else Stored(*m)


def same(log: Log, model: ModelLog) -> None:
    """Everything that can be asked about the whole."""
    state = log.state()
    assert (state.msgs, state.bytes) == (len(model.messages), model.bytes)
    assert (state.first_seq, state.last_seq) == (model.first_seq, model.next_seq - 1)
    first = model.messages.get(model.first_seq)
    assert state.first_time_ns == (first.time_ns if first else 0)
    subjects = model.subjects()
    assert log.subjects() == {name: len(seqs) for name, seqs in subjects.items()}
    assert state.num_subjects == len(subjects)
    assert log.deleted() == model.deleted()
    assert state.num_deleted == sum(b - a + 1 for a, b in model.deleted())
    for name, seqs in subjects.items():
        assert log.subject(name) == (len(seqs), seqs[0], seqs[-1])


def same_answers(log: Log, model: ModelLog, draw: random.Random) -> None:
    """A few questions, drawn."""
    seq = draw.randint(max(0, model.first_seq - 2), model.next_seq + 1)
    assert stored(log.get(seq)) == model.messages.get(seq)
    assert log.has(seq) == (seq in model.messages)
    patterns = draw.choice(FILTERS)
    found = model.matching(patterns)
    wanted = Filter(log, patterns)
    try:
        assert stored(log.next(seq, wanted)) == next((m for m in found if m.seq >= seq), None)
        assert stored(log.previous(seq, wanted)) == next((m for m in reversed(found) if m.seq <= seq), None)
        assert log.pending(wanted, seq) == sum(m.seq >= seq for m in found)
        last = {m.subject: m.seq for m in found}
        assert log.pending_subjects(wanted, seq) == sum(s >= seq for s in last.values())
        last = {m.subject: m.seq for m in found if m.seq <= seq or seq == 0}
        assert log.last_seqs(wanted, seq) == sorted(last.values())
    finally:
        wanted.close()
    name = draw.choice(SUBJECTS)
    own = model.subjects().get(name)
    assert stored(log.last_for(name)) == (model.messages[own[-1]] if own else None)
    assert stored(log.first_for(name)) == (model.messages[own[0]] if own else None)
    when = model.last_time_ns - draw.randint(-2, 40) * SECOND_NS // 4
    assert log.seq_at(when) == next(
        (m.seq for m in model.messages.values() if m.time_ns >= when), model.next_seq
    )


def append(
    log: Log, model: ModelLog, draw: random.Random, now_ns: int, record: dict[int, Stored] | None = None
) -> int:
    """One message to both, and into `record`; the sequence, 0 when both refused it."""
    subject = draw.choice(SUBJECTS)
    size = draw.choice([0, 1, 10, 100, draw.randint(0, 3000)])
    payload = draw.randbytes(size)
    headers = (
        b"NATS/1.0\r\nK: " + bytes(draw.choices(b"abc", k=draw.randint(1, 40))) + b"\r\n\r\n"
        if draw.random() < 0.3
        else b""
    )
    ttl = draw.randint(1, 20) * SECOND_NS if draw.random() < 0.1 else 0
    refused = expected = 0
    try:
        expected = model.append(subject, payload, headers, now_ns, ttl)
    except Refused as e:
        refused = e.code
    if refused:
        with pytest.raises(StoreError) as caught:
            log.append(subject, payload, headers, now_ns, ttl)
        assert caught.value.code in (refused, *NOT_NOW)
        return 0
    assert log.append(subject, payload, headers, now_ns, ttl) == expected
    if record is not None:
        record[expected] = model.last
    return expected


def draw_limits(draw: random.Random) -> Limits:
    maybe: Callable[[int], int] = lambda most: draw.randint(1, most) if draw.random() < 0.3 else 0  # noqa: E731
    return Limits(
        max_msgs=maybe(60),
        max_bytes=maybe(60_000),
        max_msgs_per_subject=maybe(6),
        max_age_ns=maybe(30) * SECOND_NS,
        discard_new=draw.random() < 0.3,
        discard_new_per_subject=draw.random() < 0.3,
    )


def change(
    log: Log, model: ModelLog, draw: random.Random, now_ns: int, record: dict[int, Stored] | None = None
) -> str:
    """One operation on both, drawn; its name. What is appended goes into `record` as well."""
    kind = draw.choices(
        ["append", "remove", "erase", "purge", "skip", "limits", "tick"], [60, 10, 4, 3, 1, 2, 6]
    )[0]
    if kind == "append":
        for _ in range(draw.choice([1, 1, 3, 20])):
            append(log, model, draw, now_ns, record)
    elif kind in ("remove", "erase"):
        live = list(model.messages)
        seq = draw.choice(live) if live and draw.random() < 0.9 else draw.randint(0, model.next_seq + 1)
        assert log.remove(seq, erase=kind == "erase") == model.remove(seq)
    elif kind == "purge":
        patterns = draw.choice(FILTERS)
        before = draw.choice([0, 0, draw.randint(1, model.next_seq + 3)])
        keep = draw.choice([0, 0, draw.randint(1, 5)])
        wanted = Filter(log, patterns)
        assert log.purge(wanted, before, keep) == model.purge(patterns, before, keep)
        wanted.close()
    elif kind == "skip":
        to = model.next_seq + draw.choice([0, 1, 5, 1000])
        log.skip(to)
        model.skip(to)
    elif kind == "limits":
        # A wider age would bring back what no one was told is gone: that is not written down.
        limits = replace(draw_limits(draw), max_age_ns=model.limits.max_age_ns)
        log.set_limits(**asdict(limits), now_ns=now_ns)
        model.set_limits(limits)
    else:
        while log.tick(now_ns):
            pass
        model.tick(now_ns)
    return kind
