"""Advisories: what happened to streams, as messages to whoever listens. Source: jetstream_events.go; ADR-1."""

from __future__ import annotations

import base64
import os
from typing import Any, Protocol

import orjson

from shardbroker.clock import Clock
from shardbroker.stream.face import Face
from shardbroker.stream.gojson import format_time

PREFIX = "$JS.EVENT.ADVISORY"


class Where(Protocol):
    face: Face
    clock: Clock
    domain: str
    server_name: str


def new_id() -> str:
    """22 characters of the kind that nuid makes: letters and digits."""
    return base64.b32encode(os.urandom(14)).decode()[:22]


def advise(where: Where, subject: str, kind: str, fields: dict[str, Any]) -> None:
    """Publish one, if anyone wants it. `kind` is its type behind io.nats.jetstream.advisory.v1 (or metric.v1)."""
    name = subject.encode("utf-8", "replace")
    if not where.face.interest(name):
        return
    said: dict[str, Any] = {
        "type": f"io.nats.jetstream.{kind}",
        "id": new_id(),
        "timestamp": format_time(where.clock.time_ns()),
        **fields,
    }
    if where.domain:
        said["domain"] = where.domain
    where.face.publish(name, orjson.dumps(said))


def stream_action(where: Where, stream: str, action: str) -> None:
    """create, delete or modify (JSStreamActionAdvisory)."""
    word = {"create": "CREATED", "delete": "DELETED", "modify": "UPDATED"}[action]
    advise(
        where,
        f"{PREFIX}.STREAM.{word}.{stream}",
        "advisory.v1.stream_action",
        {"stream": stream, "action": action},
    )


def api_audit(where: Where, client: dict[str, Any], subject: str, request: str, response: str) -> None:
    """A request of the API and its answer (JSAPIAudit)."""
    fields: dict[str, Any] = {"server": where.server_name, "client": client, "subject": subject}
    if request:
        fields["request"] = request
    advise(where, f"{PREFIX}.API", "advisory.v1.api_audit", fields | {"response": response})
