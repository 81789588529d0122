"""What a running server does, watched for a while: over its monitoring port, or in a broker's shared statistics."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import orjson

from shardbroker.bench import LoadError, interrupt
from shardbroker.tune.workload import Seen

ANSWER_BYTES_MAX = 64 << 20
CONNECTIONS_MAX = 10_000
ANSWER_SECONDS = 10.0


def get(url: str) -> dict[str, Any]:
    """A monitoring endpoint's answer. Raises LoadError."""
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_SECONDS) as answer:
            data: dict[str, Any] = orjson.loads(answer.read(ANSWER_BYTES_MAX))
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise LoadError(f"{url}: {getattr(error, 'reason', None) or error}") from None
    if not isinstance(data, dict):
        raise LoadError(f"{url} is no monitoring endpoint of a NATS server")
    return data


def watch_url(url: str, seconds: float, sleep: Callable[[float], None] = interrupt.sleep) -> Seen:
    """Over /varz and /connz of any NATS server: http://host:8222. Connections that ended meanwhile are not seen."""
    base = url.rstrip("/")
    before = get(f"{base}/varz"), _connections(base)
    began = time.monotonic()
    sleep(seconds)
    after = get(f"{base}/varz"), _connections(base)
    took = time.monotonic() - began
    try:
        came, size, went = (
            int(after[0][key]) - int(before[0][key]) for key in ("in_msgs", "in_bytes", "out_msgs")
        )
    except (KeyError, TypeError, ValueError):
        raise LoadError(f"{base}/varz has no in_msgs, in_bytes and out_msgs") from None
    publishers = subscribers = requesters = asked = 0
    answering: list[int] = []
    for cid, now in after[1].items():
        then = before[1].get(cid, {})
        sent = int(now.get("in_msgs", 0)) - int(then.get("in_msgs", 0))
        got = int(now.get("out_msgs", 0)) - int(then.get("out_msgs", 0))
        publishers += sent > 0
        subscribers += got > 0
        inbox = any(str(subject).startswith("_INBOX.") for subject in now.get("subscriptions_list", ()))
        if inbox and sent > 0 and got > 0:
            requesters += 1
            asked += sent
        elif 0 < sent <= got:
            answering.append(sent)
    return Seen(
        took, came, size, went, len(after[1]), publishers, subscribers, requesters, asked, responders(answering, asked)
    )


def responders(answering: list[int], asked: int) -> int:
    """How many of the connections that sent no more than they got it takes to answer all requests, the busiest first.
    `answering`: what each sent. What is left over are relays: they publish of their own."""
    count = 0
    for sent in sorted(answering, reverse=True):
        if asked <= 0:
            break
        count += 1
        asked -= sent
    return count


def _connections(base: str) -> dict[int, dict[str, Any]]:
    rows = get(f"{base}/connz?subs=1&limit={CONNECTIONS_MAX}").get("connections", [])
    return {int(row["cid"]): row for row in rows if isinstance(row, dict) and "cid" in row}


def watch_statistics(
    read: Callable[[], list[dict[str, int]]], seconds: float, sleep: Callable[[float], None] = interrupt.sleep
) -> Seen:
    """From a broker's per-shard counters, which say nothing of single connections."""
    before, began = read(), time.monotonic()
    sleep(seconds)
    after, took = read(), time.monotonic() - began

    def grown(name: str) -> int:
        return sum(row[name] for row in after) - sum(row[name] for row in before)

    connections = sum(row["connections"] for row in after)
    return Seen(took, grown("in_msgs"), grown("in_bytes"), grown("out_msgs"), connections)
