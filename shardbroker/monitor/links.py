"""/routez, /gatewayz, /leafz, /raftz, /ipqueuesz: a broker without links to others says so as nats-server does without them."""

from __future__ import annotations

from typing import Any, Final

from shardbroker.monitor.times import rfc3339

# The answer of /raftz, with the status 404.
NO_RAFT: Final = "No Raft nodes registered"


def routez(server_id: str, server_name: str, now_ns: int) -> dict[str, Any]:
    return {
        "server_id": server_id, "server_name": server_name, "now": rfc3339(now_ns), "num_routes": 0, "routes": [],
    }  # fmt: skip


def gatewayz(server_id: str, now_ns: int) -> dict[str, Any]:
    return {"server_id": server_id, "now": rfc3339(now_ns), "outbound_gateways": {}, "inbound_gateways": {}}


def leafz(server_id: str, now_ns: int) -> dict[str, Any]:
    return {"server_id": server_id, "now": rfc3339(now_ns), "leafnodes": 0, "leafs": []}
