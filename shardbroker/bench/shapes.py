"""The shapes of load: their names, what the user may say of one, and what each generator process does for it.

A load is written SHAPE[:COUNTS][:SIZE][@RATE], such as `fanout:1x8:128B` or `pubsub:1x1:16@50000`. COUNTS are
publishers x subscribers, requesters x responders, or one number; what is left out is the shape's own default or comes from
the command's options. `plans` deals a load to generator processes.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

from shardbroker.bench import SUBJECTS_MAX, LoadError, calls
from shardbroker.bench.connect import Endpoint
from shardbroker.bench.sizes import coprime_step, one_size, sizes, zipf

Kind = Literal["stream", "calls", "lives", "subscriptions", "idle", "publish", "consume", "kv"]
COUNT_MAX = 60_000
CONNECTIONS_FROM_ONE_ADDRESS = 20_000


@dataclass(frozen=True, slots=True)
class Shape:
    """A row of the table. left, right: the default counts, 0: there is no such side."""

    name: str
    kind: Kind
    left: int
    right: int
    unit: str
    text: str
    aliases: tuple[str, ...] = ()


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("pub", "stream", 1, 0, "msg/s", "P publishers, nobody subscribed"),
        Shape(
            "pubsub",
            "stream",
            1,
            1,
            "msg/s",
            "P publishers, S subscribers, one subject: 1x1, or N x M",
            ("sub", "mesh"),
        ),
        Shape(
            "fanout",
            "stream",
            1,
            8,
            "msg/s",
            "1 publisher, S subscribers who all get all",
            ("fan-out", "fan_out"),
        ),
        Shape("fanin", "stream", 8, 1, "msg/s", "P publishers, 1 subscriber", ("fan-in", "fan_in")),
        Shape(
            "wildcard",
            "stream",
            1,
            8,
            "msg/s",
            "many subjects (--subjects), each subscriber has one wildcard",
        ),
        Shape(
            "subjects",
            "stream",
            1,
            1,
            "msg/s",
            "many subjects, literal subscriptions dealt to the subscribers",
            ("multisubject",),
        ),
        Shape("queue", "stream", 2, 8, "msg/s", "P publishers, S members of one queue group"),
        Shape(
            "slow", "stream", 1, 4, "msg/s", "S subscribers that keep up, beside --slow others that do not"
        ),
        Shape(
            "request",
            "calls",
            1,
            1,
            "requests/s",
            "R requesters with --in-flight each, S responders (a queue group)",
            ("service", "request-reply"),
        ),
        Shape(
            "connect", "lives", 8, 0, "connections/s", "connect, greet, close; so many at a time", ("churn",)
        ),
        Shape(
            "subscribe",
            "subscriptions",
            4,
            0,
            "SUB/s",
            "C connections that hold --window subscriptions and replace them",
        ),
        Shape("idle", "idle", 1000, 0, "connections", "N connections that do nothing: memory and CPU"),
        Shape("js-pub-sync", "publish", 1, 0, "msg/s", "publish into a stream, each waits for its PubAck"),
        Shape(
            "js-pub-async",
            "publish",
            1,
            0,
            "msg/s",
            "publish into a stream, --in-flight (500) acks awaited",
            ("js-pub",),
        ),
        Shape(
            "js-pub-batch",
            "publish",
            1,
            0,
            "msg/s",
            "publish atomic batches of --batch messages",
            ("js-pub-atomic",),
        ),
        Shape(
            "js-ordered",
            "consume",
            1,
            0,
            "msg/s",
            "C clients read a stream, each all of it (ordered consumer)",
        ),
        Shape(
            "js-consume",
            "consume",
            1,
            0,
            "msg/s",
            "C clients share a durable consumer, pulling ahead, and ack each",
        ),
        Shape(
            "js-fetch",
            "consume",
            1,
            0,
            "msg/s",
            "C clients share a durable consumer, --batch at a time, and ack each",
        ),
        Shape("kv-put", "kv", 1, 0, "msg/s", "put values of --subjects keys, --in-flight at a time"),
        Shape(
            "kv-get", "kv", 1, 0, "msg/s", "get values of --subjects keys (direct get), --in-flight at a time"
        ),
    )
}
NAMES = {alias: shape.name for shape in SHAPES.values() for alias in (shape.name, *shape.aliases)}
OWN_SUBJECTS = {"wildcard": 500, "subjects": 100_000, "kv-put": 1000, "kv-get": 1000}
OWN_IN_FLIGHT = {"js-pub-async": 500, "kv-put": 1, "kv-get": 1}


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be done. rate 0: closed loop. msgs 0: as many as `seconds` allow. Sizes in bytes, times in seconds."""

    shape: str
    left: int = 1
    right: int = 0
    size: str = "128"
    rate: float = 0.0
    msgs: int = 0
    seconds: float = 3.0
    subjects: int = 1
    zipf: float = 0.0
    headers: tuple[str, ...] = ()
    in_flight: int = 1
    batch: int = 500
    slow: int = 1
    slow_rate: int = 0
    window: int = 1000
    seed: int = 1
    storage: str = "file"
    stream: str = "benchstream"
    bucket: str = "benchbucket"
    consumer: str = "nats-bench"
    token: str = field(default_factory=lambda: secrets.token_hex(4))

    @property
    def row(self) -> Shape:
        return SHAPES[self.shape]

    @property
    def is_jetstream(self) -> bool:
        return self.row.kind in ("publish", "consume", "kv")

    def describe(self) -> str:
        """As it would be written, without what the command's options say."""
        counts = f"{self.left}x{self.right}" if self.row.right else f"{self.left}"
        has_size = self.row.kind in ("stream", "calls", "publish", "kv")
        size = f":{self.size}B" if self.size.isdigit() else f":{self.size}"
        return f"{self.shape}:{counts}{size if has_size else ''}{f'@{self.rate:g}' if self.rate else ''}"

    def header_block(self) -> bytes:
        """As it stands before the payload; empty without headers."""
        if not self.headers:
            return b""
        lines = []
        for header in self.headers:
            key, colon, value = header.partition(":")
            if not colon or not key.strip() or not header.isprintable():
                raise LoadError(f"{header!r} is no header; give KEY:VALUE")
            lines.append(f"{key.strip()}: {value.strip()}\r\n")
        return b"NATS/1.0\r\n" + "".join(lines).encode() + b"\r\n"


def parse(text: str, **options: Any) -> Load:
    """A load from SHAPE[:COUNTS][:SIZE][@RATE] and the command's options (fields of Load). Raises LoadError."""
    rest, at, rate = text.partition("@")
    if re.match(r"\d+x\d+(:|$)", rest):  # 1x1:16
        rest = f"pubsub:{rest}"
    name, *words = rest.split(":", 2)
    if len(words) == 2 and not words[0]:
        words = words[1:]
    if name not in NAMES:
        raise LoadError(f"no shape is called {name!r}; there are: {', '.join(SHAPES)}")
    shape = SHAPES[NAMES[name]]
    given: dict[str, Any] = {"left": shape.left, "right": shape.right}
    clients = options.pop("clients", 0)
    if clients:
        given["left"] = clients
    options = {key: value for key, value in options.items() if value is not None}
    if words and (counts := re.fullmatch(r"(\d+)(?:x(\d+))?", words[0])):
        given["left"] = int(counts[1])
        if counts[2] is not None:
            given["right"] = int(counts[2])
        elif shape.right and shape.name in ("fanout", "slow"):
            given["left"], given["right"] = 1, int(counts[1])
        words = words[1:]
    if words:
        options["size"] = ":".join(words).removesuffix("B") if words[-1][:-1].isdigit() else ":".join(words)
    if at:
        try:
            options["rate"] = float(rate)
        except ValueError:
            raise LoadError(f"{text!r}: behind the @ is a rate in messages per second") from None
    options.setdefault("subjects", OWN_SUBJECTS.get(shape.name, 1))
    options.setdefault("in_flight", OWN_IN_FLIGHT.get(shape.name, 1))
    return checked(Load(shape.name, **{**given, **options}))


def checked(load: Load) -> Load:
    """The load itself if it can be done. Raises LoadError with what is wrong."""
    shape = load.row
    if not 1 <= load.left <= COUNT_MAX or not (1 if shape.right else 0) <= load.right <= COUNT_MAX:
        raise LoadError(
            f"{load.describe()}: counts are 1 to {COUNT_MAX}" + ("" if shape.right else ", and one number")
        )
    if (shape.name == "fanout" and load.left != 1) or (shape.name == "fanin" and load.right != 1):
        raise LoadError(f"{load.describe()}: several on both sides is pubsub:PxS")
    try:
        sizes(load.size)
    except ValueError as error:
        raise LoadError(str(error)) from None
    if not 1 <= load.subjects <= SUBJECTS_MAX:
        raise LoadError(f"{load.subjects} subjects: 1 to {SUBJECTS_MAX} can be had")
    if load.zipf and (load.subjects < 2 or load.zipf < 0 or load.zipf > 10):
        raise LoadError("--zipf wants several --subjects, and an exponent above 0 and at most 10")
    if load.subjects > 1 and (shape.kind in ("lives", "subscriptions", "idle") or shape.name == "request"):
        raise LoadError(f"{shape.name} has no --subjects")
    if (
        load.rate < 0
        or load.rate > 1e9
        or (load.rate and shape.kind in ("lives", "subscriptions", "idle", "consume"))
    ):
        raise LoadError(f"{shape.name} with a rate of {load.rate:g}: only what publishes or asks has one")
    if shape.kind == "subscriptions" and load.left * 2 * load.window > SUBJECTS_MAX:
        raise LoadError("connections x 2 x --window are the subjects: a million at most")
    if shape.name == "slow" and not 1 <= load.slow <= COUNT_MAX:
        raise LoadError("--slow is how many do not keep up: 1 or more")
    if shape.name == "js-pub-batch" and not 2 <= load.batch <= 1000:
        raise LoadError("--batch: 2 to 1000 messages (ADR-50)")
    if shape.name == "js-pub-batch" and not load.size.isdigit():
        one_size_or_fail(load.size)
    if shape.kind in ("publish", "kv", "consume") and load.headers and shape.kind == "kv":
        raise LoadError("kv shapes have no headers")
    load.header_block()
    return load


def one_size_or_fail(text: str) -> int:
    try:
        return one_size(text)
    except ValueError:
        raise LoadError(f"this shape has one size for all messages, not {text!r}") from None


def dealt(count: int, parts: int) -> list[tuple[int, int]]:
    """(first, how many) of `count` things for each of `parts` processes, as evenly as it goes."""
    ends = [count * i // parts for i in range(parts + 1)]
    return [(first, last - first) for first, last in pairwise(ends)]


def drawn(load: Load) -> bytes:
    """The subjects in the order in which they are published, where they are not simply in turn."""
    return zipf(load.subjects, load.zipf, load.seed) if load.zipf else b""


def plans(load: Load, endpoint: Endpoint, generators: int, timeout: float) -> list[dict[str, Any]]:
    """What each generator process does (worker.py); at most `generators` of them, fewer where there is less to deal."""
    common = {"endpoint": asdict(endpoint), "timeout": timeout}
    prefix = f"bench.{load.token}."
    match load.row.kind:
        case "stream":
            made = _stream(load, prefix, generators)
        case "calls":
            made = _calls(load, prefix, generators)
        case "lives":
            made = [
                {"kind": "lives", "width": count} for _, count in dealt(load.left, min(generators, load.left))
            ]
            if any(plan["width"] > 1024 for plan in made):
                raise LoadError("connect: at most 1024 at a time for each generator process")
        case "subscriptions":
            made = [
                {
                    "kind": "subscriptions",
                    "subject": prefix,
                    "holders": count,
                    "holder_first": first,
                    "window": load.window,
                    "batch": min(load.window, 100),
                }
                for first, count in dealt(load.left, min(generators, load.left))
            ]
        case "idle":
            made = [
                {"kind": "idle", "count": count, "count_first": first}
                for first, count in dealt(load.left, min(generators, load.left))
            ]
        case _:
            raise LoadError(f"{load.shape} has no plan of its own")
    return [{**plan, **common} for plan in made]


def message_fields(load: Load) -> dict[str, Any]:
    """What all kinds with messages have."""
    return {
        "sizes": sizes(load.size, load.seed),
        "headers": load.header_block().decode("latin-1"),
        "subjects": load.subjects,
        "step": coprime_step(load.subjects),
        "rate": load.rate,
    }


SUBSCRIBE = {"wildcard": "wildcard", "subjects": "slice"}


def _stream(load: Load, prefix: str, generators: int) -> list[dict[str, Any]]:
    sinks = load.right if load.row.right else 0
    slow = load.slow if load.shape == "slow" else 0
    spread = load.shape in SUBSCRIBE or load.subjects > 1
    mode = SUBSCRIBE.get(load.shape, "each" if load.subjects > 1 else "one")
    queue = "workers" if load.shape == "queue" else ""
    base = {
        **message_fields(load),
        "kind": "stream",
        "subject": prefix if spread and load.subjects > 1 else f"{prefix}t",
        "subscribe": mode if load.subjects > 1 else "one",
        "queue": queue,
        # of a queue group one gets a message; of parts of the subjects, too
        "exact": not queue and not (mode == "slice" and load.subjects > 1),
        "copies": 0 if not sinks else 1 if queue or (mode == "slice" and load.subjects > 1) else sinks,
        "flows_all": load.left,
        "sinks_all": sinks,
        "slow_bytes": load.slow_rate // 100 if load.slow_rate else 0,
        "flows": 0,
        "flow_first": 0,
        "sinks": 0,
        "sink_first": 0,
        "slow": 0,
    }
    receivers = min(generators // 2, sinks) if sinks else 0
    publishers = max(1, min(generators - receivers, load.left))
    made = [{**base, "flows": count, "flow_first": first} for first, count in dealt(load.left, publishers)]
    if not receivers:
        made[0].update(sinks=sinks, slow=slow)
        return made
    for first, count in dealt(sinks, receivers):
        made.append({**base, "sinks": count, "sink_first": first})
    made[-1]["slow"] = slow
    return made


def _calls(load: Load, prefix: str, generators: int) -> list[dict[str, Any]]:
    base = {
        **message_fields(load),
        "kind": "calls",
        "calls": calls.ECHO,
        "subject": f"{prefix}service",
        "serves": f"{prefix}service",
        "queue": "responders" if load.right > 1 else "",
        "inbox": f"_INBOX.{load.token}.",
        "in_flight": load.in_flight if not load.rate else max(load.in_flight, 4096),
        "batch": 1,
        "callers_all": load.left,
        "callers": 0,
        "caller_first": 0,
        "responders": 0,
    }
    servers = min(generators // 2, load.right)
    askers = max(1, min(generators - servers, load.left))
    made = [{**base, "callers": count, "caller_first": first} for first, count in dealt(load.left, askers)]
    if not servers:
        made[0]["responders"] = load.right
        return made
    return made + [{**base, "responders": count} for _, count in dealt(load.right, servers)]


def request_plans(load: Load, base: dict[str, Any], generators: int) -> list[dict[str, Any]]:
    """Callers without responders: what a stream or a bucket answers itself."""
    parts: Sequence[tuple[int, int]] = dealt(load.left, max(1, min(generators, load.left)))
    full = {
        **message_fields(load),
        "kind": "calls",
        "queue": "",
        "inbox": f"_INBOX.{load.token}.",
        "in_flight": load.in_flight if not load.rate else max(load.in_flight, 4096),
        "batch": 1,
        "callers_all": load.left,
        "responders": 0,
        **base,
    }
    return [{**full, "callers": count, "caller_first": first} for first, count in parts]


def background(text: str, load: Load) -> Load:
    """The load that goes on beside another one: a stream of its own subjects."""
    made = parse(text, seconds=1e6, token=secrets.token_hex(4))
    if made.row.kind not in ("stream", "publish") or made.shape == "slow":
        raise LoadError("--background wants a shape that publishes, such as pubsub:1x1:128@10000")
    return replace(made, seed=load.seed + 1, stream=f"{load.stream}-background", storage=load.storage)
