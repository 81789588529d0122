"""What is to be tuned for: one or several weighted loads, from words, a TOML file, or a running broker's statistics.

    [[load]]
    shape = "fanout:1x8:128B"      # as `shardbroker bench` has it
    weight = 3                     # its share of the published messages; 1 unless said
    subjects = 100                 # any other option of bench, by its name: size, headers, zipf, in_flight ...

Several loads are measured one after the other, and their rates joined by weight: a mix of which a share w_i is load i
passes at 1 / sum(w_i / rate_i) messages per second.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardbroker.bench import LoadError, shapes
from shardbroker.bench.shapes import Load

# What a load of a file may say, besides shape and weight: fields of Load by the option's name, and their types.
OPTIONS: dict[str, type | tuple[type, ...]] = {
    "size": str,
    "subjects": int,
    "zipf": (int, float),
    "headers": list,
    "in_flight": int,
    "batch": int,
    "slow": int,
    "slow_rate": int,
    "window": int,
}
PUBLISHERS_MAX = 64  # of a load that was derived: more say nothing more about shards
SUBSCRIBERS_MAX = 256


@dataclass(frozen=True, slots=True)
class Part:
    """One load and its share of the messages; shares of a workload sum to 1."""

    load: Load
    share: float


@dataclass(frozen=True, slots=True)
class Workload:
    """What is measured. `story`: how it was found, for the report."""

    parts: tuple[Part, ...]
    story: str

    def joined(self, rates: Sequence[float]) -> float:
        """Messages per second of the mix, from each part's own published rate."""
        if any(rate <= 0 for rate in rates):
            return 0.0
        return 1.0 / sum(part.share / rate for part, rate in zip(self.parts, rates, strict=True))

    def to_toml(self) -> str:
        """A workload file that says the same."""
        lines = [f"# {self.story}"]
        for part in self.parts:
            lines += ["", "[[load]]", f'shape = "{part.load.describe()}"', f"weight = {part.share:.4g}"]
            if part.load.subjects != shapes.OWN_SUBJECTS.get(part.load.shape, 1):
                lines.append(f"subjects = {part.load.subjects}")
        return "\n".join(lines) + "\n"


def weighted(loads: Sequence[tuple[Load, float]], story: str) -> Workload:
    """A workload of loads and weights. Raises LoadError."""
    total = sum(weight for _, weight in loads)
    if not loads or any(not 0 < weight < math.inf for _, weight in loads):
        raise LoadError("a workload wants one load at least, with weights above 0")
    for load, _ in loads:
        if load.is_jetstream or load.row.kind == "idle":
            raise LoadError(f"{load.shape} says nothing about the number of shards; it cannot be tuned for")
    return Workload(tuple(Part(load, weight / total) for load, weight in loads), story)


def from_words(words: Sequence[str]) -> Workload:
    """Loads as bench has them, all of one weight."""
    return weighted([(shapes.parse(text), 1.0) for text in words], "given on the command line")


def from_file(path: Path) -> Workload:
    """A TOML file; see the module's text. Raises LoadError with the place."""
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise LoadError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LoadError(f"{path}: {error}") from None
    rows = document.get("load")
    if set(document) - {"load"} or not isinstance(rows, list) or not rows:
        raise LoadError(f"{path}: a workload is a list of [[load]] tables, and nothing else")
    return weighted([_row(f"{path}: load {i + 1}", row) for i, row in enumerate(rows)], f"from {path.name}")


def _row(place: str, row: Mapping[str, Any]) -> tuple[Load, float]:
    given = dict(row)
    shape, weight = given.pop("shape", None), given.pop("weight", 1)
    if not isinstance(shape, str):
        raise LoadError(f'{place}: shape is missing, such as shape = "fanout:1x8:128B"')
    if not isinstance(weight, int | float) or isinstance(weight, bool):
        raise LoadError(f"{place}: weight is a number")
    for key, value in given.items():
        if key not in OPTIONS:
            raise LoadError(f"{place}: unknown key {key!r}; there are shape, weight, {', '.join(OPTIONS)}")
        if not isinstance(value, OPTIONS[key]) or isinstance(value, bool):
            raise LoadError(f"{place}: {key} has the wrong type")
    if "headers" in given:
        given["headers"] = tuple(str(one) for one in given["headers"])
    try:
        return shapes.parse(shape, **given), float(weight)
    except LoadError as error:
        raise LoadError(f"{place}: {error}") from None


@dataclass(frozen=True, slots=True)
class Seen:
    """What a running server did for a while. Counts per `seconds`; 0 from publishers on where they are unknown."""

    seconds: float
    in_msgs: int
    in_bytes: int
    out_msgs: int
    connections: int
    publishers: int = 0
    subscribers: int = 0
    requesters: int = 0
    request_msgs: int = 0  # that came in from requesters
    responders: int = 0  # publishers whose messages were answers


def derived(seen: Seen, source: str) -> Workload:
    """The workload that does to a broker what was seen.

    Mean payload and deliveries per message are kept. A fractional fan-out becomes a mix: 1.4 deliveries per message are
    60 % with one subscriber and 40 % with two; 0.3 are 70 % with none. Messages of connections with an inbox that both send
    and receive are requests; each has an answer, which came in, too. Raises LoadError when there was no traffic to speak of.
    """
    if seen.in_msgs < 10:
        raise LoadError(
            f"{source} got {seen.in_msgs} messages in {seen.seconds:.0f} s: nothing to derive a workload from"
        )
    size = max(16, round(seen.in_bytes / seen.in_msgs))
    requests = min(2 * seen.request_msgs, seen.in_msgs)
    rest_in = seen.in_msgs - requests
    rest_out = max(0, seen.out_msgs - requests)
    loads: list[tuple[Load, float]] = []
    if requests:
        requesters = min(max(seen.requesters, 1), PUBLISHERS_MAX)
        loads.append((shapes.parse(f"request:{requesters}x1:{size}B"), requests / 2))
    if rest_in and max(rest_in, rest_out) > requests // 100:
        ratio = min(rest_out / rest_in, SUBSCRIBERS_MAX)
        publishers = (
            seen.publishers - seen.requesters - seen.responders
            if seen.publishers
            else max(1, round(seen.connections / (1 + ratio)))
        )
        publishers = min(max(publishers, 1), PUBLISHERS_MAX)
        low = math.floor(ratio)
        for subscribers, share in ((low, 1 - (ratio - low)), (low + 1, ratio - low)):
            if share >= 0.02:
                text = (
                    f"pubsub:{publishers}x{subscribers}:{size}B"
                    if subscribers
                    else f"pub:{publishers}:{size}B"
                )
                loads.append((shapes.parse(text), share * rest_in))
    rates = (
        f"{seen.in_msgs / seen.seconds:,.0f} msg/s in, {seen.out_msgs / seen.seconds:,.0f} out, {size} B each"
    )
    known = "" if seen.publishers else "; how many publish was not to be seen, so it is a guess"
    return weighted(loads, f"recorded from {source} for {seen.seconds:.0f} s: {rates}{known}")
