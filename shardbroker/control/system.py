"""What the system account may ask the broker: one server to it, whatever the number of shards.

    shard 0 (shard/system.py) --system_request--> here --asks all shards--> body --system_answer--> shard, which publishes it

Subjects, options and bodies are nats-server's (events.go initEventTracking, zReq); the bodies are those of the monitoring
endpoints. Front process only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import orjson

from shardbroker.control.supervisor import Supervisor
from shardbroker.ipc.channel import Message
from shardbroker.monitor import endpoints
from shardbroker.monitor.endpoints import BadQuery, ConnzQuery, SubszQuery, Usage
from shardbroker.shard.gauges import Gauges
from shardbroker.shard.report import LIMIT_DEFAULT, SORTS
from shardbroker.shard.system import ServerInfo, event_head
from shardbroker.shm.layout import structs

ANSWER_SECONDS = 2.0
_STATES = {0: "open", 1: "closed", 2: "all"}
_FIELDS = tuple(field.name for field in structs()["shard_stats"][1] if field.name != "loop_lag_buckets")
_NO_TRAFFIC = {"msgs": 0, "bytes": 0}


class Logger(Protocol):
    def error(self, text: str, /) -> None: ...


class _Filtered(Exception):
    """The request is for other servers: no answer."""


class Requests:
    """Answers to the system account."""

    def __init__(
        self,
        supervisor: Supervisor,
        gauges: Gauges,
        server: ServerInfo,
        describe: Callable[[], dict[str, Any]],
        reload: Callable[[], None],
        accounts: Callable[[], tuple[str, list[str]]],
        log: Logger,
    ) -> None:
        self._supervisor = supervisor
        self._gauges = gauges
        self._server = server
        self._describe = describe
        self._reload = reload
        self._accounts = accounts
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()
        self._cpu = (time.monotonic(), 0)

    def on_message(self, shard: int, message: Message) -> None:
        """A shard's word; `op` begins with system_."""
        work = self._conns_event(shard, message) if message["op"] == "system_conns" else self._answer(shard, message)
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- answers --

    async def _answer(self, shard: int, message: Message) -> None:
        subject, reply = message["subject"], message["reply"]
        words = subject.split(".")
        about, name = words[3] if len(words) > 4 else "PING", words[-1] if len(words) > 4 else "STATSZ"
        try:
            options = _options(message["payload"])
            self._check_filter(options)
            if words[2] == "ACCOUNT":
                body = await self._about_account(about, name, options)
            else:
                body = await self._about_server(name, options)
        except _Filtered:
            return
        except BadQuery as error:
            body = self._wrapped(error={"code": 400, "description": str(error)})
        except LookupError as error:
            body = self._wrapped(error={"code": 500, "description": str(error.args[0])})
        except Exception as error:
            self._log.error(f"Internal error at system request {subject!r:.100}: {error!r}")
            body = self._wrapped(error={"code": 500, "description": "internal error"})
        if reply:
            self._send(shard, reply, body, message["account"])

    def _send(self, shard: int, subject: str, body: Mapping[str, Any], account: str) -> None:
        channel = self._supervisor.shards[shard].channel
        if channel is not None:
            channel.send(
                {"op": "system_answer", "subject": subject, "payload": orjson.dumps(body).decode(), "account": account}
            )

    def _wrapped(self, **fields: Any) -> dict[str, Any]:
        return {"server": self._server.fields(), **fields}

    def _check_filter(self, options: Mapping[str, Any]) -> None:
        """events.go filterRequest: we are in no cluster and no domain."""
        front = self._describe()
        exact = bool(options.get("exact_match"))
        for key, ours in (("server_name", front["server_name"]), ("host", front["options"]["host"]), ("cluster", "")):
            asked = str(options.get(key) or "")
            if asked and (asked != ours if exact else asked not in ours):
                raise _Filtered
        tags = options.get("tags") or []
        if options.get("domain") or not set(map(str, tags)) <= set(front["options"]["server_tags"]):
            raise _Filtered

    async def _about_server(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        if name == "IDZ":
            fields = self._server.fields()
            return {key: fields[key] for key in ("name", "host", "id")}
        if name == "STATSZ":
            return self._wrapped(statsz=await self._statsz())
        handlers: dict[str, Callable[[Mapping[str, Any]], Awaitable[Any]]] = {
            "VARZ": self._varz, "CONNZ": self._connz, "SUBSZ": self._subsz, "ACCOUNTZ": self._accountz,
            "HEALTHZ": self._healthz, "KICK": self._kick, "LDM": self._lame_duck, "RELOAD": self._reload_now,
            "ROUTEZ": self._routez, "GATEWAYZ": self._gatewayz, "LEAFZ": self._leafz,
        }  # fmt: skip
        data = await handlers[name](options)
        return self._wrapped() if data is None else self._wrapped(data=data)

    async def _about_account(self, account: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        if account == "PING" and name == "CONNZ":
            return self._wrapped(data=await self._connz(options))
        if name == "STATZ":
            wanted = None if account == "PING" else [account]
            return self._wrapped(data=self._head() | {"account_statz": await self._account_stats(wanted)})
        if name == "CONNZ":
            return self._wrapped(data=await self._connz({**options, "acc": account}))
        if name == "SUBSZ":
            return self._wrapped(data=await self._subsz({"subscriptions": True, **options, "account": account}))
        if name == "CONNS":
            return await self._conns(account)
        return self._wrapped(data=await self._account_info(account))

    # -- bodies --

    def _head(self) -> dict[str, Any]:
        return {"server_id": self._server.server_id, "now": endpoints.rfc3339(time.time_ns())}

    def _totals(self) -> dict[str, int]:
        shards = range(len(self._supervisor.shards))
        return {name: sum(self._gauges.read(shard, name) for shard in shards) for name in _FIELDS}

    def _usage(self, totals: Mapping[str, int]) -> Usage:
        now, used = time.monotonic(), totals["cpu_user_us"] + totals["cpu_system_us"]
        before, self._cpu = self._cpu, (now, used)
        return Usage(totals["rss_bytes"], round(max(0.0, (used - before[1]) / 1e4 / max(now - before[0], 0.001)), 1))

    async def _varz(self, options: Mapping[str, Any]) -> dict[str, Any]:
        totals = self._totals()
        shards = self._supervisor.describe()
        return endpoints.varz(self._describe(), totals, self._usage(totals), {}, time.time_ns(), shards)

    async def _statsz(self) -> dict[str, Any]:
        totals = self._totals()
        usage = self._usage(totals)
        sent = {"msgs": totals["out_msgs"], "bytes": totals["out_bytes"]}
        received = {"msgs": totals["in_msgs"], "bytes": totals["in_bytes"]}
        rows = await self._account_stats(None)
        return {
            "start": endpoints.rfc3339(self._describe()["start_ns"]), "mem": usage.rss_bytes,
            "cores": len(self._supervisor.shards), "cpu": usage.cpu_percent, "connections": totals["connections"],
            "total_connections": totals["connections_total"], "active_accounts": sum(row["conns"] > 0 for row in rows),
            "subscriptions": totals["subscriptions"], "sent": sent, "sent_to_clients": sent, "received": received,
            "received_from_clients": received, "slow_consumers": totals["slow_consumers"], "active_servers": 1,
            "gomaxprocs": len(self._supervisor.shards),
        }  # fmt: skip

    async def _ask(self, op: str, query: Mapping[str, Any]) -> dict[str, Any]:
        answers = await self._supervisor.ask_all({"op": op, "query": query}, ANSWER_SECONDS)
        return {str(shard): part for shard, part in answers.items()}

    async def _connz(self, options: Mapping[str, Any]) -> dict[str, Any]:
        sort = _text(options, "sort")
        if sort not in SORTS:
            raise BadQuery(f"invalid sorting option: {sort}")
        detail, cid, limit = _flag(options, "subscriptions_detail"), _number(options, "cid"), _number(options, "limit")
        query = ConnzQuery(
            sort=sort,
            auth=_flag(options, "auth"),
            subs="detail" if detail else "list" if _flag(options, "subscriptions") else "",
            offset=_number(options, "offset"),
            limit=1 if cid else limit or LIMIT_DEFAULT,
            cid=cid,
            state=_STATES.get(_number(options, "state"), "open"),
            user=_text(options, "user"),
            acc=_text(options, "acc"),
            mqtt_client=_text(options, "mqtt_client"),
        )
        return endpoints.connz(self._server.server_id, await self._ask("connz", query.for_shards()), query, time.time_ns())

    async def _subsz(self, options: Mapping[str, Any]) -> dict[str, Any]:
        query = SubszQuery(
            subs=_flag(options, "subscriptions"),
            offset=_number(options, "offset"),
            limit=_number(options, "limit") or LIMIT_DEFAULT,
            test=_text(options, "test"),
            acc=_text(options, "account"),
        )
        return endpoints.subsz(self._server.server_id, await self._ask("subsz", query.for_shards()), query, time.time_ns())

    async def _healthz(self, options: Mapping[str, Any]) -> dict[str, Any]:
        ready = all(slot.ready for slot in self._supervisor.shards)
        return {"status": "ok", "status_code": 200} if ready else {"status": "unavailable", "status_code": 503}

    async def _routez(self, options: Mapping[str, Any]) -> dict[str, Any]:
        head = self._head()
        return {"server_id": head["server_id"], "server_name": "", "now": head["now"], "num_routes": 0, "routes": []}

    async def _gatewayz(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return self._head() | {"outbound_gateways": {}, "inbound_gateways": {}}

    async def _leafz(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return self._head() | {"leafnodes": 0, "leafs": []}

    # -- accounts --

    async def _account_rows(self) -> dict[str, dict[str, int]]:
        """By name, summed over the shards."""
        sums: dict[str, dict[str, int]] = {}
        for part in (await self._ask("accounts", {})).values():
            for name, *values in part["rows"]:
                keys = ("conns", "subs", "in_msgs", "in_bytes", "out_msgs", "out_bytes")
                row = sums.setdefault(name, dict.fromkeys(keys, 0))
                for key, value in zip(keys, values, strict=True):
                    row[key] += value
        return sums

    async def _account_stats(self, wanted: list[str] | None) -> list[dict[str, Any]]:
        """events.go AccountStat: of the accounts that are asked for, else of those that have connections."""
        rows = await self._account_rows()
        known = set(self._accounts()[1])
        names = [name for name, row in rows.items() if row["conns"]] if wanted is None else wanted
        empty = dict.fromkeys(("conns", "subs", "in_msgs", "in_bytes", "out_msgs", "out_bytes"), 0)
        return [_account_stat(name, rows.get(name, empty)) for name in names if name in rows or name in known]

    async def _conns(self, account: str) -> dict[str, Any]:
        (stat,) = await self._account_stats([account]) or [_account_stat(account, {})]
        return event_head("io.nats.server.advisory.v1.account_connections") | {"server": self._server.fields()} | stat

    async def _conns_event(self, shard: int, message: Message) -> None:
        system = self._accounts()[0]
        self._send(shard, message["subject"], await self._conns(message["account"]), system)

    async def _account_info(self, account: str) -> dict[str, Any]:
        """monitor.go AccountInfo, as far as it is about one server."""
        system, names = self._accounts()
        rows = await self._account_rows()
        if account not in names and account not in rows:
            raise LookupError(f"Account {account} does not exist")
        row = rows.get(account, {})
        return {
            "account_name": account, "update_time": endpoints.rfc3339(self._describe()["config_load_ns"]),
            **({"is_system": True} if account == system else {}), "expired": False, "complete": True,
            "jetstream_enabled": False, "leafnode_connections": 0, "client_connections": row.get("conns", 0),
            "subscriptions": row.get("subs", 0), "name_tag": account,
        }  # fmt: skip

    async def _accountz(self, options: Mapping[str, Any]) -> dict[str, Any]:
        system, names = self._accounts()
        account = _text(options, "account")
        body = self._head() | {"system_account": system}
        if account:
            return body | {"account_detail": await self._account_info(account)}
        return body | {"accounts": sorted({*names, *await self._account_rows()})}

    # -- commands --

    async def _kick(self, options: Mapping[str, Any]) -> None:
        await self._command("kick", options)

    async def _lame_duck(self, options: Mapping[str, Any]) -> None:
        await self._command("client_ldm", options)

    async def _command(self, op: str, options: Mapping[str, Any]) -> None:
        answers = await self._supervisor.ask_all({"op": op, "cid": _number(options, "cid")}, ANSWER_SECONDS)
        if not any(answer["found"] for answer in answers.values()):
            raise LookupError("no such client or leafnode id")

    async def _reload_now(self, options: Mapping[str, Any]) -> None:
        self._reload()


def _account_stat(name: str, row: Mapping[str, int]) -> dict[str, Any]:
    links = {"gateways": _NO_TRAFFIC, "routes": _NO_TRAFFIC, "leafs": _NO_TRAFFIC}
    return {
        "acc": name, "name": name, "conns": row.get("conns", 0), "leafnodes": 0, "total_conns": row.get("conns", 0),
        "num_subscriptions": row.get("subs", 0),
        "sent": {"msgs": row.get("out_msgs", 0), "bytes": row.get("out_bytes", 0), **links},
        "received": {"msgs": row.get("in_msgs", 0), "bytes": row.get("in_bytes", 0), **links}, "slow_consumers": 0,
    }  # fmt: skip


# ---- options: JSON from a client ----


def _options(payload: str) -> dict[str, Any]:
    if not payload:
        return {}
    try:
        options = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise BadQuery(str(error)) from None
    if not isinstance(options, dict):
        raise BadQuery("json: cannot unmarshal into options")
    return options


def _wrong(key: str) -> BadQuery:
    return BadQuery(f"json: cannot unmarshal into field {key}")


def _text(options: Mapping[str, Any], key: str) -> str:
    value = options.get(key) or ""
    if not isinstance(value, str):
        raise _wrong(key)
    return value


def _flag(options: Mapping[str, Any], key: str) -> bool:
    value = options.get(key) or False
    if not isinstance(value, bool):
        raise _wrong(key)
    return value


def _number(options: Mapping[str, Any], key: str) -> int:
    value = options.get(key) or 0
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(key)
    return max(0, min(value, 2**63 - 1))
