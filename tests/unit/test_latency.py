"""Which headers ask for a measurement: by the conventions of Jaeger, Zipkin and W3C (accounts.go shouldSample)."""

from __future__ import annotations

import json

import pytest

from shardbroker.shard.latency import TRACE_BYTES_MAX, traced


def asked(*lines: str) -> dict[str, list[str]] | None:
    found = traced("\r\n".join(["NATS/1.0", *lines, "", ""]).encode())
    return json.loads(found) if found is not None else None


@pytest.mark.parametrize(
    "lines",
    [
        ["uber-trace-id: 479fefe9525eddb:5adb976bfc1f95c1:479fefe9525eddb:1", "Uberctx-User: u", "x: y"],
        ["Uber-Trace-Id: 1:2:3:0f"],
        ["X-B3-Sampled: 1"],
        ["X-B3-Sampled: 1", "X-B3-TraceId: 80f1", "X-B3-SpanId: 5", "X-B3-ParentSpanId: 4"],
        ["x-b3-traceid: 80f1"],
        ["b3: 80f1-e457-1-05e3"], ["b3: 80f1-e457-d"], ["b3: 80f1-e457"], ["b3: 1"],
        ["traceparent: 00-4bf9-00f0-01", "tracestate: k=v"],
    ],
)  # fmt: skip
def test_asked_for(lines: list[str]) -> None:
    found = asked(*lines)
    expected = [line.split(": ") for line in lines if not line.startswith("x:")]
    assert found is not None and {name.lower(): values for name, values in found.items()} == {
        name.lower(): [value] for name, value in expected
    }


@pytest.mark.parametrize(
    "lines",
    [
        [], ["x: y"],
        ["uber-trace-id: 1:2:3:0"], ["uber-trace-id: 1:2:3"], ["uber-trace-id: 1:2:3:zz"], ["uber-trace-id: 1:2:3:"],
        ["uber-trace-id: 1:2:3:001"], ["uber-trace-id: 1:2:3:0", "traceparent: 00-4bf9-00f0-01"],
        ["X-B3-Sampled: 0"], ["X-B3-Sampled: 0", "X-B3-TraceId: 80f1"],
        ["b3: 0"], ["b3: 80f1-e457-0"], ["b3: 80f1-e457-0-05e3"],
        ["traceparent: 00-4bf9-00f0-00"], ["traceparent: 00-4bf9-00f0-1"], ["traceparent: 00-4bf9-00f0"],
        ["traceparent: 00-4bf9-00f0-é1"],
    ],
)  # fmt: skip
def test_not_asked_for(lines: list[str]) -> None:
    assert asked(*lines) is None


def test_what_is_kept_is_bounded() -> None:
    found = asked("uber-trace-id: 1:2:3:1", *(f"uberctx-{n}: {'x' * 1000}" for n in range(50)))
    assert found is not None and "Uber-Trace-Id" in found and len(json.dumps(found)) < TRACE_BYTES_MAX + 200
