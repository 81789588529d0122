"""How long services take: which headers ask for a measurement, and the message that reports it.

    traced(headers)     what the data path asks about a request with headers of tracing (hot/latency.pyx)
    report(...)         the body of a report, once it is known who answered

Types, fields and rules are nats-server's (accounts.go shouldSample, ServiceLatency, sendTrackingLatency). Home shard, and the
front for answers that came from another shard.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

import orjson

from shardbroker.shard.events import event_head, time_text

# What the headers of one request may take in its report, which is kept until it is answered.
TRACE_BYTES_MAX: Final = 4096
_DESCRIPTIONS: Final = {
    400: "Bad Request", 408: "Request Timeout", 503: "Service Unavailable", 504: "Service Timeout",
}  # fmt: skip

Headers = dict[str, list[str]]


def traced(block: bytes) -> bytes | None:
    """The headers by which a request asks to be measured, as a JSON object of lists; None when it does not."""
    asked = _asked(_read(block))
    if asked is None:
        return None
    kept: Headers = {}
    size = 0
    for name, values in asked.items():
        size += len(name) + sum(map(len, values))
        if size <= TRACE_BYTES_MAX:
            kept[name] = values
    return orjson.dumps(kept)


def _read(block: bytes) -> Headers:
    """A header block with names as Go writes them (textproto.CanonicalMIMEHeaderKey)."""
    fields: Headers = {}
    for line in block.decode("utf-8", "replace").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            name = "-".join(part[:1].upper() + part[1:].lower() for part in name.split("-"))
            fields.setdefault(name, []).append(value.strip(" \t"))
    return fields


def _asked(fields: Headers) -> Headers | None:
    """By the conventions of Jaeger, Zipkin (B3, in several headers or one) and W3C, the first that is there."""
    if jaeger := fields.get("Uber-Trace-Id"):
        words = jaeger[0].split(":")
        wanted = len(words) == 4 and 1 <= len(words[3]) <= 2 and _is_odd(words[3])
        return {"Uber-Trace-Id": jaeger} | _those(fields, "Uberctx-") if wanted else None
    sampled = fields.get("X-B3-Sampled", [""])[0]
    if sampled == "1" or (sampled != "0" and "X-B3-Traceid" in fields):
        names = ("X-B3-Sampled", "X-B3-Traceid", "X-B3-Parentspanid", "X-B3-Spanid")
        return {name: fields[name] for name in names if name in fields}
    if sampled == "0":
        return None
    if single := fields.get("B3"):
        words = single[0].split("-")
        denied = words[2] == "0" if len(words) > 2 else words == ["0"]
        return None if denied else {"B3": single}
    if context := fields.get("Traceparent"):
        words = context[0].split("-")
        wanted = len(words) == 4 and len(words[3]) == 2 and _is_odd(words[3])
        state = {"Tracestate": fields["Tracestate"]} if "Tracestate" in fields else {}
        return {"Traceparent": context} | state if wanted else None
    return None


def _those(fields: Headers, prefix: str) -> Headers:
    return {name: values for name, values in fields.items() if name.startswith(prefix)}


def _is_odd(digits: str) -> bool:
    """Whether the lowest bit of a hexadecimal number is set."""
    return all(digit in "0123456789abcdefABCDEF" for digit in digits) and int(digits, 16) & 1 == 1


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the data path measured of one request (Engine's event `latency`)."""

    status: int
    account: bytes  # that exports the service
    subject: bytes  # where the report goes
    requestor: bytes  # JSON
    headers: bytes  # JSON, or empty: none asked for it
    took_ns: int
    requestor_rtt_ns: int
    responder: tuple[int, int, int] | None  # shard, slot, client id

    def plain(self) -> list[Any]:
        """For a channel between processes."""
        text = [part.decode("latin-1") for part in (self.account, self.subject, self.requestor, self.headers)]
        return [self.status, *text, self.took_ns, self.requestor_rtt_ns, self.responder]

    @classmethod
    def from_plain(cls, plain: list[Any]) -> Measurement:
        status, *text, took_ns, rtt_ns, responder = plain
        account, subject, requestor, headers = (part.encode("latin-1") for part in text)
        return cls(
            status, account, subject, requestor, headers, took_ns, rtt_ns, tuple(responder) if responder else None
        )


def report(made: Measurement, responder: dict[str, Any]) -> dict[str, Any]:
    """The body. responder: who answered, as advisories say it; empty: nobody, or the broker itself."""
    now = time.time_ns()
    body = event_head("io.nats.server.metric.v1.service_latency", now) | {"status": made.status}
    if made.status in _DESCRIPTIONS:
        body["description"] = _DESCRIPTIONS[made.status]
    body["requestor"] = orjson.Fragment(made.requestor)
    if responder:
        body["responder"] = responder
    if made.headers:
        body["header"] = orjson.Fragment(made.headers)
    body["start"] = time_text(now - made.took_ns - made.requestor_rtt_ns)
    answered = made.status == 200
    body["service"] = max(0, made.took_ns - int(responder.get("rtt", 0))) if answered else 0
    body["system"] = 0
    body["total"] = made.requestor_rtt_ns + made.took_ns if answered else 0
    return body
