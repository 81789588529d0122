"""/accountz and /accstatz. Source: monitor.go Accountz, AccountInfo, AccountStatz; events.go AccountStat."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

import orjson

from shardbroker.monitor.query import AccountStatzQuery
from shardbroker.monitor.source import Source
from shardbroker.monitor.subsz import sublist_stats
from shardbroker.monitor.times import SECOND_NS, rfc3339

COUNTED: Final = ("conns", "subs", "in_msgs", "in_bytes", "out_msgs", "out_bytes", "slow")
_RESPONSES: Final = {"singleton": "Singleton", "stream": "Streamed", "chunked": "Chunked"}
# (the system account's subject, the account's own), and what the system account offers for it.
_OF_ITSELF: Final = (
    ("$SYS.REQ.ACCOUNT.{}.CONNZ", "$SYS.REQ.ACCOUNT.PING.CONNZ"), ("$SYS.REQ.ACCOUNT.{}.CONNZ", "$SYS.REQ.SERVER.PING.CONNZ"),
    ("$SYS.REQ.ACCOUNT.{}.STATZ", "$SYS.REQ.ACCOUNT.PING.STATZ"), ("$SYS.REQ.USER.{}.INFO", "$SYS.REQ.USER.INFO"),
)  # fmt: skip
_SYSTEM_EXPORTS: Final = (
    ("$SYS.REQ.ACCOUNT.*.CONNZ", "Streamed"), ("$SYS.REQ.ACCOUNT.*.STATZ", "Streamed"), ("$SYS.REQ.USER.*.INFO", "Singleton"),
)  # fmt: skip
_NO_TRAFFIC: Final = {"msgs": 0, "bytes": 0}


async def account_rows(source: Source) -> dict[str, dict[str, int]]:
    """What accounts come to, by name, summed over the shards."""
    sums: dict[str, dict[str, int]] = {}
    for shard in range(source.statistics.shards):
        part = await source.ask(shard, "accounts", {})
        for name, *values in part["rows"] if part is not None else ():
            row = sums.setdefault(name, dict.fromkeys(COUNTED, 0))
            for key, value in zip(COUNTED, values, strict=True):
                row[key] += value
    return sums


async def accstatz(source: Source, query: AccountStatzQuery, server_id: str, now_ns: int) -> dict[str, Any]:
    """The page: accounts that have connections, or all that are known."""
    rows = await account_rows(source)
    known = {*(await source.front("names"))["accounts"], *rows}
    names = [name for name in query.accounts if name in known] if query.accounts else sorted(known)
    stats = [account_stat(name, rows.get(name, {})) for name in names]
    if not query.unused:
        stats = [stat for stat in stats if stat["conns"]]
    return {"server_id": server_id, "now": rfc3339(now_ns), "account_statz": stats}


def account_stat(name: str, row: Mapping[str, int]) -> dict[str, Any]:
    """AccountStat. `sent` is what went to the account's clients."""
    links = {"gateways": _NO_TRAFFIC, "routes": _NO_TRAFFIC, "leafs": _NO_TRAFFIC}
    return {
        "acc": name, "name": name, "conns": row.get("conns", 0), "leafnodes": 0, "total_conns": row.get("conns", 0),
        "num_subscriptions": row.get("subs", 0),
        "sent": {"msgs": row.get("out_msgs", 0), "bytes": row.get("out_bytes", 0), **links},
        "received": {"msgs": row.get("in_msgs", 0), "bytes": row.get("in_bytes", 0), **links},
        "slow_consumers": row.get("slow", 0),
    }  # fmt: skip


async def accountz(source: Source, account: str, server_id: str, now_ns: int) -> dict[str, Any] | None:
    """The page; None when there is no such account."""
    front = await source.front("varz")
    body: dict[str, Any] = {"server_id": server_id, "now": rfc3339(now_ns)}
    system = front["options"]["system_account"]
    if system:
        body["system_account"] = system
    if not account:
        known = await source.front("names")
        return body | {"accounts": sorted({*known["accounts"], *await account_rows(source)})}
    detail = await account_info(source, account)
    return body | {"account_detail": detail} if detail is not None else None


async def account_info(
    source: Source, name: str, rows: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any] | None:
    """AccountInfo, as far as it is about one server; None when there is no such account. `rows`: of account_rows, if known."""
    front, names = await source.front("varz"), await source.front("names")
    if rows is None:
        rows = await account_rows(source)
    parts = [await source.ask(shard, "account", {"acc": name}) for shard in range(source.statistics.shards)]
    there = [part for part in parts if part is not None]
    found = next((part for part in there if part["found"]), None)
    if found is None and name not in names["accounts"] and name not in rows:
        return None
    record: Mapping[str, Any] = found["account"] if found is not None else {}
    row = rows.get(name, {})
    body: dict[str, Any] = {
        "account_name": name,
        "update_time": rfc3339(front["config_load_ns"]),
        "expired": bool(found and found.get("expired")),
        "complete": True,
        # By the configuration, or by an operator's JWT
        "jetstream_enabled": name in names["stream_accounts"]
        or (bool(record.get("jetstream")) and front["options"]["jetstream"]["enabled"]),
        "leafnode_connections": 0,
        "client_connections": row.get("conns", 0),
        "subscriptions": row.get("subs", 0),
    }
    if name == front["options"]["system_account"]:
        body = {**dict(list(body.items())[:2]), "is_system": True, **body}
    body |= _given(record, name, front["options"]["system_account"])
    if found is not None and found.get("jwt"):
        body["jwt"] = found["jwt"]
    if record.get("issuer"):
        body["issuer_key"] = record["issuer"]
    body["name_tag"] = record.get("tag") or name
    if found is not None and found.get("tags"):
        body["tags"] = found["tags"]
    if found is not None and found.get("jwt"):
        body["decoded_jwt"] = _payload(found["jwt"])
    if found is not None and found.get("revoked"):
        body["revoked_user"] = {user: rfc3339(at * SECOND_NS) for user, at in found["revoked"].items()}
    stats = [part["stats"] for part in there if part["found"]]
    return body | {"sublist_stats": sublist_stats(stats)} if stats else body


def _payload(token: str) -> Any:
    """What a JWT says, which has been checked when it was taken in."""
    part = token.split(".")[1]
    return orjson.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def _given(record: Mapping[str, Any], name: str, system: str) -> dict[str, Any]:
    """Mappings, exports and imports of an account (auth.model), as nats-server shows them; what is empty is left out.

    `system`: the name of the system account. What each account may ask it about itself is shown as imports, which it is there
    (accounts.go addSystemAccountExports, registerSystemImports); here a shard answers (shard/system.py).
    """
    mappings = {
        made["source"]: [
            {"subject": to["destination"], "weight": to["weight"]}
            | ({"cluster": to["cluster"]} if to["cluster"] else {})
            for to in made["destinations"]
        ]
        for made in record.get("mappings", ())
    }
    exports = [_export(made) for made in record.get("exports", ())]
    imports = [_import(made) for made in record.get("imports", ())]
    if system:
        imports += [
            _import({"subject": subject.format(name), "account": system, "kind": "service", "to": to, "share": "USER" in to})
            for subject, to in (_OF_ITSELF[-1:] if name == system else _OF_ITSELF)
        ]
    if name == system:
        exports += [{"subject": subject, "type": "service", "response_type": kind} for subject, kind in _SYSTEM_EXPORTS]
    found = {"mappings": mappings, "exports": exports, "imports": imports}
    return {name: value for name, value in found.items() if value}


def _export(made: Mapping[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {"subject": made["subject"], "type": made["kind"]}
    if made["token_required"]:
        body["token_req"] = True
    if made["kind"] == "service":
        body["response_type"] = _RESPONSES[made["response_type"]]
    if made["latency"]:
        sampling = made["latency"]["sampling"] or "headers"
        body["service_latency"] = {"sampling": sampling, "results": made["latency"]["subject"]}
    if made["account_token_position"]:
        body["account_token_position"] = made["account_token_position"]
    if made["accounts"]:
        body["approved_accounts"] = list(made["accounts"])
    if made["revocations"]:
        body["revoked_activations"] = {name: rfc3339(at * SECOND_NS) for name, at in made["revocations"]}
    return body


def _import(made: Mapping[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {"subject": made["subject"], "account": made["account"]}
    if made["kind"] == "service":
        body["to"] = made["to"]
    body |= {"local_subject": made["to"], "type": made["kind"]}
    return body | {"invalid": False, "share": made["share"], "tracking": False}


