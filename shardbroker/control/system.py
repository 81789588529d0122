"""What the system account may ask the broker: one server to it, whatever the number of shards.

    shard 0 (shard/system.py) --system_request--> here --asks shards in steps--> body --system_answer--> shard, which publishes it

Subjects, options and bodies are nats-server's (events.go initEventTracking, zReq); the bodies are those of the monitoring
endpoints (monitor/pages.py). Front process only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

import orjson

from shardbroker.control.supervisor import Supervisor
from shardbroker.ipc.channel import Message
from shardbroker.monitor import accountz, jsz
from shardbroker.monitor.pages import NotFound, Pages
from shardbroker.monitor.query import (
    AccountStatzQuery,
    BadJson,
    BadQuery,
    ConnzQuery,
    JsonArguments,
    JszQuery,
    SubszQuery,
)
from shardbroker.monitor.source import Statistics
from shardbroker.monitor.times import rfc3339
from shardbroker.shard.events import event_head
from shardbroker.shard.latency import Measurement, report
from shardbroker.shard.system import ServerInfo
from shardbroker.shm.layout import SegmentMap

ANSWER_SECONDS: Final = 2.0
# How long the end of the broker may wait until it has been told.
FAREWELL_SECONDS: Final = 1.0


class Logger(Protocol):
    def error(self, text: str, /) -> None: ...


class Broker(Protocol):
    """The front."""

    def describe(self) -> dict[str, Any]: ...
    def account_names(self) -> dict[str, list[str]]: ...


class LocalSource:
    """What pages are made of, in the front itself."""

    def __init__(self, supervisor: Supervisor, segment: SegmentMap, broker: Broker) -> None:
        self.statistics = Statistics(segment)
        self._supervisor = supervisor
        self._broker = broker

    async def front(self, op: str) -> Mapping[str, Any]:
        return self._broker.account_names() if op == "names" else self._broker.describe()

    async def ask(self, shard: int, op: str, query: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return await self._supervisor.ask(shard, {"op": op, "query": dict(query)}, ANSWER_SECONDS)


class _Filtered(Exception):
    """The request is for other servers: no answer."""


class Requests:
    """Answers to the system account, and what the broker says of itself."""

    def __init__(
        self,
        supervisor: Supervisor,
        segment: SegmentMap,
        server: ServerInfo,
        broker: Broker,
        reload: Callable[[], None],
        log: Logger,
    ) -> None:
        self._supervisor = supervisor
        self._server = server
        self._broker = broker
        self._reload = reload
        self._log = log
        self._source = LocalSource(supervisor, segment, broker)
        self._pages = Pages(self._source)
        self._tasks: set[asyncio.Task[None]] = set()

    def on_message(self, shard: int, message: Message) -> None:
        """A shard's word; `op` begins with system_."""
        others = {
            "system_conns": self._conns_event, "system_statsz": self._statsz_event, "system_latency": self._latency,
            "system_fetched": self._fetched,
        }  # fmt: skip
        work = others.get(message["op"], self._answer)
        task = asyncio.get_running_loop().create_task(work(shard, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def farewell(self, what: str) -> None:
        """Say that the broker goes: SHUTDOWN or LAMEDUCK (events.go sendShutdownEvent). Done when every shard has passed it
        on, or after a moment."""
        event = {
            "op": "system_event", "subject": f"$SYS.SERVER.{self._server.server_id}.{what}",
            "payload": orjson.dumps(self._server.fields()).decode(), "account": self._system(),
        }  # fmt: skip
        told = await self._supervisor.ask(0, event, FAREWELL_SECONDS)
        if told is not None and told["wanted"]:
            # An answer from each means that a turn has been taken since: what came by its rings is on its way.
            for _ in range(2):
                await self._supervisor.ask_all({"op": "sublist", "query": {"acc": self._system()}}, FAREWELL_SECONDS)

    def _system(self) -> str:
        return str(self._broker.describe()["options"]["system_account"])

    # -- answers --

    async def _answer(self, shard: int, message: Message) -> None:
        subject, reply = message["subject"], message["reply"]
        words = subject.split(".")
        about, name = words[3] if len(words) > 4 else "PING", words[-1] if len(words) > 4 else "STATSZ"
        try:
            # Nobody reads what is asked with CONNS (events.go connsRequest).
            options = _options(message["payload"]) if name != "CONNS" else {}
            self._check_filter(options)
            if words[2] == "ACCOUNT":
                body = await self._about_account(about, name, options)
            else:
                body = await self._about_server(name, options)
        except _Filtered:
            return
        except BadJson as error:
            body = self._wrapped(error={"code": 400, "description": str(error)})
        except BadQuery as error:
            # Here it is the page that fails (events.go zReq), whose place stays empty.
            body = self._wrapped(data=None, error={"code": 500, "description": str(error)})
        except NotFound as error:
            body = self._wrapped(error={"code": 404, "description": str(error)})
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
        """events.go filterRequest: we are in no domain."""
        front = self._broker.describe()
        exact = bool(options.get("exact_match"))
        ours = {
            "server_name": front["server_name"],
            "host": front["options"]["host"],
            "cluster": front["options"]["cluster_name"],
        }
        for key, own in ours.items():
            asked = str(options.get(key) or "")
            if asked and (asked != own if exact else asked not in own):
                raise _Filtered
        tags = options.get("tags") or []
        domain = options.get("domain")
        if domain and domain != front["options"]["jetstream"]["domain"]:
            raise _Filtered
        if not isinstance(tags, list) or not set(map(str, tags)) <= set(front["options"]["server_tags"]):
            raise _Filtered

    async def _about_server(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        pages, given = self._pages, JsonArguments(options)
        if name == "IDZ":
            fields = self._server.fields()
            return {key: fields[key] for key in ("name", "host", "id")}
        if name == "STATSZ":
            return self._wrapped(statsz=await self._statsz())
        if name in ("KICK", "LDM", "RELOAD"):
            await self._command(name, given)
            return self._wrapped()
        if name == "HEALTHZ":
            status, body = await pages.healthz(given)
            data: Mapping[str, Any] = {"status": body["status"], "status_code": status} | body
        elif name == "VARZ":
            data = await pages.varz()
        elif name == "ACCOUNTZ":
            data = await self._accountz(given.text("account"))
        else:
            makers: dict[str, Callable[[JsonArguments], Awaitable[dict[str, Any]]]] = {
                "CONNZ": pages.connz, "SUBSZ": pages.subsz, "JSZ": self._jsz, "ROUTEZ": pages.routez,
                "GATEWAYZ": pages.gatewayz, "LEAFZ": pages.leafz, "IPQUEUESZ": pages.ipqueuesz, "RAFTZ": pages.raftz,
            }  # fmt: skip
            data = await makers[name](given)
        return self._wrapped(data=data)

    async def _jsz(self, given: JsonArguments) -> dict[str, Any]:
        query = JszQuery.read(given)
        if query.leader_only and not self._broker.describe()["options"]["jetstream"]["enabled"]:
            raise _Filtered
        return await self._pages.streams(query)

    async def _accountz(self, account: str) -> dict[str, Any]:
        try:
            return await self._pages.accountz(account)
        except BadQuery as error:
            raise LookupError(str(error)) from None

    async def _about_account(self, account: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        pages, given = self._pages, JsonArguments(options)
        if name == "STATZ":
            return self._wrapped(data=await self._statz(account, options))
        if name == "CONNZ":
            # `PING` too is the name of an account, and mostly of none: what an account asks so about itself comes with its name.
            return self._wrapped(data=await pages.connections(ConnzQuery.read(JsonArguments({**options, "acc": account}))))
        if name == "SUBSZ":
            own = {**options, "subscriptions": True, "account": account}
            return self._wrapped(data=await pages.subscriptions(SubszQuery.read(JsonArguments(own))))
        if name == "LEAFZ":
            return self._wrapped(data=await pages.leafz(given))
        if name == "JSZ":
            return self._wrapped(data=await self._jsz_account(account, given))
        if name == "CONNS":
            return await self._conns(account)
        info = await accountz.account_info(self._source, account)
        if info is None:
            raise LookupError(f"Account {account} does not exist")
        return self._wrapped(data=info)

    async def _statz(self, account: str, options: Mapping[str, Any]) -> dict[str, Any]:
        asked = options.get("accounts") or []
        if not isinstance(asked, list):
            raise BadJson("json: cannot unmarshal into field accounts")
        names = tuple(map(str, asked)) if account == "PING" else (account,)
        query = AccountStatzQuery(JsonArguments(options).flag("include_unused"), names)
        body = await self._pages.accstatz(query)
        if not body["account_statz"] and not query.unused:
            raise _Filtered
        return body

    async def _jsz_account(self, account: str, given: JsonArguments) -> dict[str, Any]:
        """monitor.go JszAccount."""
        parts = await jsz.parts_of(self._source)
        if not parts.config:
            raise LookupError("jetstream not enabled")
        if account not in parts.accounts:
            known = {*self._broker.account_names()["accounts"], *await accountz.account_rows(self._source)}
            why = "jetstream enabled" if account in known else "found"
            raise LookupError(f'account "{account}" not {why}')
        return await jsz.account_detail(self._source, account, parts, JszQuery.read(given))

    # -- events --

    async def _statsz(self) -> dict[str, Any]:
        """events.go ServerStats."""
        pages = self._pages
        pages.sampler.refresh()
        totals = pages.sampler.totals()
        front = self._broker.describe()
        rows = await accountz.account_rows(self._source)
        sent = {"msgs": totals["out_msgs"], "bytes": totals["out_bytes"]}
        received = {"msgs": totals["in_msgs"], "bytes": totals["in_bytes"]}
        shards = self._source.statistics.shards
        body: dict[str, Any] = {
            "start": rfc3339(front["start_ns"]), "mem": totals["rss_bytes"], "cores": shards,
            "cpu": pages.sampler.cpu_percent_all(), "connections": totals["connections"],
            "total_connections": totals["connections_total"],
            "active_accounts": sum(row["conns"] > 0 for row in rows.values()), "subscriptions": totals["subscriptions"],
            "sent": sent, "sent_to_clients": sent, "received": received, "received_from_clients": received,
            "slow_consumers": totals["slow_consumers"],
        }  # fmt: skip
        for count, name, kinds in (
            ("slow_consumers", "", "slow_consumer_stats"),
            ("stale_connections", "stale_connections", "stale_connection_stats"),
        ):
            if totals[count]:
                body |= {name: totals[count]} if name else {}
                body[kinds] = {"clients": totals[count], "routes": 0, "gateways": 0, "leafs": 0}
        if totals["stalls"]:
            body["stalled_clients"] = totals["stalls"]
        body["active_servers"] = 1
        if front["options"]["jetstream"]["enabled"]:
            streams = jsz.varz(await jsz.parts_of(self._source))
            # Where they lie is nobody's business elsewhere.
            streams["config"] = {name: value for name, value in streams.get("config", {}).items() if name != "store_dir"}
            body["jetstream"] = streams
        return body | {"gomaxprocs": shards}

    async def _statsz_event(self, shard: int, message: Message) -> None:
        self._send(shard, message["subject"], self._wrapped(statsz=await self._statsz()), self._system())

    async def _conns(self, account: str) -> dict[str, Any]:
        rows = await accountz.account_rows(self._source)
        if account not in rows and account not in self._broker.account_names()["accounts"]:
            raise _Filtered
        stat = accountz.account_stat(account, rows.get(account, {}))
        return event_head("io.nats.server.advisory.v1.account_connections") | {"server": self._server.fields()} | stat

    async def _conns_event(self, shard: int, message: Message) -> None:
        self._send(shard, message["subject"], await self._conns(message["account"]), self._system())

    async def _latency(self, shard: int, message: Message) -> None:
        """Of a service whose answer came from another shard: who that was."""
        made = Measurement.from_plain(message["measurement"])
        assert made.responder is not None
        where, slot, client_id = made.responder
        query = {"slot": slot, "client_id": client_id, "server": self._server.name}
        found = await self._source.ask(where, "describe", query)
        body = report(made, found["client"] if found is not None else {})
        self._send(shard, made.subject.decode("latin-1"), body, made.account.decode())

    async def _fetched(self, shard: int, message: Message) -> None:
        """To all others: an account that a web server had (shard/fetching.py), or that some have changed (account_claims.py)."""
        others = (slot.shard for slot in self._supervisor.shards if slot.shard != shard)
        told = {"op": "fetched", "query": message["query"]}
        await asyncio.gather(*(self._supervisor.ask(other, told, ANSWER_SECONDS) for other in others))
        channel = self._supervisor.shards[shard].channel
        if channel is not None:
            channel.send({"re": message["id"]})

    # -- commands --

    async def _command(self, name: str, given: JsonArguments) -> None:
        if name == "RELOAD":
            self._reload()
            return
        op = "kick" if name == "KICK" else "client_ldm"
        answers = await self._supervisor.ask_all({"op": op, "cid": given.unsigned("cid")}, ANSWER_SECONDS)
        if not any(answer["found"] for answer in answers.values()):
            raise LookupError(f"no such client{' or leafnode' if op == 'kick' else ''} id")


def _options(payload: str) -> dict[str, Any]:
    """JSON from a client."""
    if not payload:
        return {}
    try:
        options = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise BadJson(str(error)) from None
    if not isinstance(options, dict):
        raise BadJson("json: cannot unmarshal into options")
    return options
