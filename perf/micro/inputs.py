"""What the micro benchmarks are fed: subjects, protocol text and engines, the same at every run.

Every function that makes protocol text also gives what a plain model says of it, so that a loop's sum can be checked.
"""

from __future__ import annotations

import dataclasses
import random

from shardbroker.hot.engine import Engine
from shardbroker.hot.probe import Shard
from shardbroker.options import Options
from shardbroker.shm.layout import structs
from shardbroker.shm.segment import Segment
from shardbroker.subject import matches

SEED = 20261126
HASH_KEY = b"perf/micro hash."          # 16 bytes: all hashes and draws of the engines depend on it
HOUR_NS = 3_600_000_000_000
PUBLISHER = 1                           # its client id; subscribers follow
PUB, SUB = 1, 2                         # kinds of operations (hot/parser.pxd)

_WORDS = ("orders", "quotes", "sensor", "eu", "us", "state", "log", "user", "created", "price", "x", "temperature")


def subjects(count: int, tokens: int = 4, prefix: str = "") -> list[bytes]:
    """Different literal subjects of so many tokens, 10 to 45 bytes, one of which is a number."""
    draw = random.Random(SEED)
    width = len(str(count - 1))
    made = []
    for i in range(count):
        words = [draw.choice(_WORDS) for _ in range(tokens - 1)]
        words.insert(draw.randrange(tokens), f"{i:0{width}}")
        made.append((prefix + ".".join(words)).encode())
    return made


def patterns(count: int, literals: list[bytes]) -> list[bytes]:
    """Patterns made from subjects: one token in three a `*`, one pattern in four ends in `>`; all different."""
    draw = random.Random(SEED + 1)
    made: dict[bytes, None] = {}
    while len(made) < count:
        tokens = draw.choice(literals).split(b".")
        changed = [b"*" if draw.random() < 1 / 3 else token for token in tokens]
        if draw.random() < 1 / 4:
            changed = [*changed[: draw.randrange(1, len(changed))], b">"]
        if b"*" in changed or changed[-1] == b">":
            made[b".".join(changed)] = None
    return list(made)


def publishes(names: list[bytes], payload_bytes: int, *, reply: bytes = b"", headers: bool = False) -> tuple[bytes, int]:
    """PUB (or HPUB) of each subject in turn; and the parser's sum for it."""
    body = b"NATS/1.0\r\nTrace: 00112233\r\n\r\n" if headers else b""
    sizes = b"%d %d" % (len(body), len(body) + payload_bytes) if headers else b"%d" % payload_bytes
    tail = b"%s%s\r\n%s%s\r\n" % (reply + b" " if reply else b"", sizes, body, b"x" * payload_bytes)
    text = b"".join((b"HPUB " if headers else b"PUB ") + name + b" " + tail for name in names)
    each = PUB + len(reply) + len(body) + payload_bytes
    return text, sum(len(name) for name in names) + each * len(names)


def subscribes(names: list[bytes], queue: bytes = b"") -> tuple[bytes, int]:
    """SUB of each subject with sids from 1; and the parser's sum for it."""
    middle = b" " + queue + b" " if queue else b" "
    sids = [b"%d" % sid for sid in range(1, len(names) + 1)]
    text = b"".join(b"SUB " + name + middle + sid + b"\r\n" for name, sid in zip(names, sids, strict=True))
    return text, sum(SUB + len(name) + len(queue) + len(sid) for name, sid in zip(names, sids, strict=True))


def found(names: list[bytes], interest: list[bytes]) -> int:
    """How many (subject, subscription) pairs match, by the plain model."""
    literal = {text for text in interest if b"*" not in text and b">" not in text}
    wild = [text.decode() for text in interest if text not in literal]
    count = sum(interest.count(name) for name in names) if len(interest) < 100 else sum(n in literal for n in names)
    return count + sum(matches(pattern, name.decode()) for pattern in wild for name in names)


def delivered_bytes(names: list[bytes], payload_bytes: int, subscribers: int, *, sid: int = 1, reply: bytes = b"") -> int:
    """Bytes of the MSG frames when each message goes to so many subscribers with this sid."""
    rest = b" %d %s%d\r\n" % (sid, reply + b" " if reply else b"", payload_bytes)
    each = len(b"MSG ") + len(rest) + payload_bytes + 2
    return subscribers * sum(len(name) + each for name in names)


# ---- engines ----------------------------------------------------------------------------------------------------


def segment(shards: int) -> Segment:
    """A segment whose hash key is ours."""
    made = Segment.create(shards)
    at = next(field.offset for field in structs()["header"][1] if field.name == "fingerprint_key")
    made.buffer[at : at + 16] = HASH_KEY
    return made


def engines(shards: int = 1) -> list[Shard]:
    """Engines on one segment that know each other. Default settings, but no timer within an hour."""
    shared = segment(shards)
    settings = dataclasses.replace(
        Options().engine_settings(), ping_interval_ns=HOUR_NS, write_deadline_ns=HOUR_NS, auth_timeout_ns=HOUR_NS
    )
    for number in range(shards):
        shared.map.mark_booting(number)
    made = [
        Shard(Engine(number, shards, shared.map, [-1] * shards, settings), 65536) for number in range(shards)
    ]
    settle(made)
    return made


def settle(shards: list[Shard]) -> None:
    """Turns until nobody has anything to do."""
    for _ in range(10_000):
        for shard in shards:
            shard.turn(1)
        if not any(shard.busy() for shard in shards):
            return
    raise AssertionError("the engines do not come to rest")


def client(shards: list[Shard], number: int, client_id: int, text: bytes = b"") -> int:
    """A client of one shard that has said CONNECT and then `text`. Its slot."""
    shard = shards[number]
    slot = shard.open(client_id)
    shard.engine.connected(
        slot, client_id, verbose=False, pedantic=False, echo=True, headers=True, no_responders=True, protocol=1
    )
    if text:
        shard.feed(client_id, text)
    settle(shards)
    shard.take_output(client_id)
    return slot
