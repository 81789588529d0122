"""Every page of monitoring by name, made of a Source: for HTTP (server.py) and for the system account (control/system.py).

Whoever serves them counts requests and turns BadQuery and NotFound into a status.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from shardbroker.monitor import accountz, connz, healthz, jsz, links, shardz, subsz, varz
from shardbroker.monitor.query import (
    AccountStatzQuery,
    Arguments,
    BadQuery,
    ConnzQuery,
    HealthzQuery,
    JszQuery,
    SubszQuery,
)
from shardbroker.monitor.sampler import Sampler
from shardbroker.monitor.source import Source
from shardbroker.shm.layout import SLOT_STATES

Body = dict[str, Any]


class NotFound(Exception):
    """There is nothing to show; the text is nats-server's, the status 404."""


class Pages:
    """The pages of one broker."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.sampler = Sampler(source.statistics)
        self._processes = shardz.Processes()
        self._identity: tuple[str, str] | None = None

    async def server(self) -> tuple[str, str]:
        """Its id and name."""
        if self._identity is None:
            front = await self.source.front("varz")
            self._identity = front["server_id"], front["server_name"]
        return self._identity

    # -- nats-server's --

    async def varz(self, http_requests: Mapping[str, int] = MappingProxyType({})) -> Body:
        self.sampler.refresh()
        front = await self.source.front("varz")
        totals = self.sampler.totals()
        usage = varz.Usage(totals["rss_bytes"], self.sampler.cpu_percent_all())
        streams: Body = {}
        if front["options"]["jetstream"]["enabled"]:
            streams = jsz.varz(await jsz.parts_of(self.source))
        return varz.varz(front, totals, usage, http_requests, time.time_ns(), self._shard_rows(), streams)

    def _shard_rows(self) -> list[Body]:
        """A few numbers of each shard; /shardz has all."""
        statistics = self.source.statistics
        rows = []
        for number in range(statistics.shards):
            slot, row = statistics.slot(number), statistics.row(number)
            names = ("connections", "subscriptions", "in_msgs", "out_msgs")
            rows.append(
                {"shard": number, "pid": slot.pid, "state": SLOT_STATES[slot.state], "epoch": slot.epoch,
                 "restarts": slot.restarts, **{name: row[name] for name in names}, "mem": row["rss_bytes"]}
            )  # fmt: skip
        return rows

    async def connz(self, given: Arguments) -> Body:
        return await self.connections(ConnzQuery.read(given))

    async def connections(self, query: ConnzQuery) -> Body:
        return await connz.connz(self.source, query, (await self.server())[0], time.time_ns())

    async def subsz(self, given: Arguments) -> Body:
        return await self.subscriptions(SubszQuery.read(given))

    async def subscriptions(self, query: SubszQuery) -> Body:
        return await subsz.subsz(self.source, query, (await self.server())[0], time.time_ns())

    async def jsz(self, given: Arguments) -> Body:
        return await self.streams(JszQuery.read(given))

    async def streams(self, query: JszQuery) -> Body:
        return await jsz.jsz(self.source, query, (await self.server())[0], time.time_ns())

    async def accountz(self, account: str) -> Body:
        body = await accountz.accountz(self.source, account, (await self.server())[0], time.time_ns())
        if body is None:
            raise BadQuery(f"Account {account} does not exist")
        return body

    async def accstatz(self, query: AccountStatzQuery) -> Body:
        return await accountz.accstatz(self.source, query, (await self.server())[0], time.time_ns())

    async def routez(self, given: Arguments) -> Body:
        given.subs()
        return links.routez(*await self.server(), time.time_ns())

    async def gatewayz(self, given: Arguments) -> Body:
        given.subs()
        given.flag("accs", "accounts")
        return links.gatewayz((await self.server())[0], time.time_ns())

    async def leafz(self, given: Arguments) -> Body:
        given.flag("subs", "subscriptions")
        return links.leafz((await self.server())[0], time.time_ns())

    async def healthz(self, given: Arguments) -> tuple[int, Body]:
        return await healthz.healthz(self.source, HealthzQuery.read(given))

    # -- ours --

    async def shardz(self) -> Body:
        self.sampler.refresh()
        front = await self.source.front("varz")
        statistics = self.source.statistics
        return shardz.shardz(
            front, statistics, self.sampler, self._processes, time.time_ns(), time.monotonic_ns()
        )

    async def livez(self) -> tuple[int, Body]:
        """The front answers."""
        await self.source.front("varz")
        return healthz.OK, {"status": "ok"}

    async def readyz(self) -> tuple[int, Body]:
        """Whether new clients should come here."""
        if (await self.source.front("varz"))["lame_duck"]:
            return healthz.UNAVAILABLE, {"status": "unavailable", "error": "lame duck mode"}
        return await healthz.healthz(self.source, HealthzQuery(js_server_only=True))

    async def metrics(
        self, requests: Mapping[str, int], rejected: Mapping[str, int], *, detailed: bool = False
    ) -> bytes:
        """Prometheus' text."""
        # Only the monitor makes it, and every broker's front has the other pages: its library costs a start 15 ms.
        from shardbroker.monitor import collect, metrics

        self.sampler.refresh()
        source, statistics, now_ns = self.source, self.source.statistics, time.time_ns()
        front = await source.front("varz")
        server_id = front["server_id"]
        families = metrics.Families()
        collect.pages(families, await self.varz(requests), await self.subscriptions(SubszQuery()), server_id)
        _, health = await healthz.healthz(source, HealthzQuery())
        collect.health(families, health["status"], server_id)
        await collect.connections(families, source, server_id)
        await collect.streams(families, source, front, now_ns, detailed=detailed)
        pids = {"front": front["pid"], "monitor": front["monitor_pid"]}
        usage = {name: self._processes.usage(pid) for name, pid in pids.items() if pid}
        found = metrics.own(front, statistics, self.sampler, time.monotonic_ns())
        found += metrics.of_processes(usage)
        found += metrics.of_monitor(requests, rejected, front["certificates"])
        if detailed:
            await collect.connections_detailed(families, source, server_id, now_ns)
            await collect.accounts(families, source, server_id, now_ns)
            found.append(metrics.ring_pairs(statistics))
        return metrics.text([*families.all(), *found])

    # -- nats-server's about itself --

    async def ipqueuesz(self, given: Arguments) -> Body:
        """Queues between our processes; nats-server's are within its own. What waits for each shard on rings that are full."""
        all_wanted, part = given.flag("all"), given.text("queues", "filter")
        body: Body = {}
        for shard in range(self.source.statistics.shards):
            name = f"shard {shard} ring overflow"
            pending = self.source.statistics.row(shard)["overflow_bytes"]
            if (all_wanted or pending) and part in name:
                body[name] = {"pending": pending}
        return body

    async def raftz(self, given: Arguments) -> Body:
        raise NotFound(links.NO_RAFT)
