"""The system account on a shard: events of connections, and requests to the broker, most of which the front answers.

    connect, disconnect     published on the shard that has the connection, when someone on any shard listens
    latency                 of services, published by the shard that has the asker (shard/latency.py)
    requests                one shard (0) holds the subscriptions, so that the broker answers as one server; they go to the
                            front (control/system.py), which asks all shards, and its answer is published here
    $SYS.REQ.USER.INFO      any user, in any account: answered by the shard that has the connection
    $SYS.REQ.*.PING.CONNZ   any account, about itself: as if it had asked for its own name

Source of subjects and bodies: nats-server's events.go. Home shard only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, Protocol

import orjson

from shardbroker import limits
from shardbroker.auth.model import Permissions
from shardbroker.errors import close_text
from shardbroker.hot.engine import EVENTS, Engine
from shardbroker.ipc.channel import Message
from shardbroker.options import Options
from shardbroker.shard.events import event_head, time_text
from shardbroker.shard.latency import Measurement, report

EVENT_REQUEST: Final = EVENTS["request"]
EVENT_MESSAGE: Final = EVENTS["message"]
EVENT_LATENCY: Final = EVENTS["latency"]
SERVER_REQUESTS: Final = (
    "IDZ", "STATSZ", "VARZ", "SUBSZ", "CONNZ", "ROUTEZ", "GATEWAYZ", "LEAFZ", "ACCOUNTZ", "JSZ", "HEALTHZ", "IPQUEUESZ",
    "RAFTZ",
)  # fmt: skip
SERVER_COMMANDS: Final = ("KICK", "LDM", "RELOAD")
ACCOUNT_REQUESTS: Final = ("CONNZ", "SUBSZ", "LEAFZ", "JSZ", "INFO", "CONNS", "STATZ")
ACCOUNT_PINGS: Final = ("STATZ", "CONNZ")
# The first STATSZ event comes soon, then ever more rarely (events.go startStatszTimer, heartbeatStatsz).
STATSZ_SECONDS_MIN: Final = 0.25
STATSZ_SECONDS_MAX: Final = 10.0
USER_INFO: Final = b"$SYS.REQ.USER.INFO"
# What an account that is not the system's may ask about itself, and which request that is.
OWN_REQUESTS: Final = {
    b"$SYS.REQ.ACCOUNT.PING.CONNZ": "CONNZ",
    b"$SYS.REQ.SERVER.PING.CONNZ": "CONNZ",
    b"$SYS.REQ.ACCOUNT.PING.STATZ": "STATZ",
}
# An intercept takes what is longer than its prefix; _on_request looks at the whole subject.
PREFIXES: Final = (b"$SYS.REQ.USER.INF", b"$SYS.REQ.ACCOUNT.PING.", b"$SYS.REQ.SERVER.PING.CONN")


class Front(Protocol):
    """The channel to the front."""

    def send(self, message: Message, /) -> None: ...


class Person(Protocol):
    """A client as Clients knows it."""

    @property
    def client_id(self) -> int: ...
    @property
    def account(self) -> str: ...
    @property
    def user(self) -> str: ...


class Register(Protocol):
    """The connections of this shard."""

    def client(self, slot: int, client_id: int) -> Person | None: ...
    def describe(self, slot: int, client_id: int, server: str) -> dict[str, Any]: ...
    def permissions(self, slot: int, client_id: int) -> tuple[Permissions | None, int]: ...


class ServerInfo:
    """How messages of the broker name it (events.go ServerInfo)."""

    def __init__(self, server_id: str, name: str, host: str, options: Options) -> None:
        self.server_id = server_id
        self.name = name
        self._fields: dict[str, Any] = {"name": name, "host": host, "id": server_id}
        self._jetstream = options.jetstream.enabled
        if self._jetstream and options.jetstream.domain:
            self._fields["domain"] = options.jetstream.domain
        self._fields["ver"] = limits.PROTOCOL_VERSION
        if options.server_tags:
            self._fields["tags"] = list(options.server_tags)
        if options.server_metadata:
            self._fields["metadata"] = dict(options.server_metadata)
        self._seq = 0

    def fields(self) -> dict[str, Any]:
        """With the number of the message, counted by each process, and the time."""
        self._seq += 1
        return self._fields | {
            "jetstream": self._jetstream, "flags": 1 if self._jetstream else 0, "seq": self._seq,
            "time": time_text(time.time_ns()),
        }  # fmt: skip


class System:
    """Events and requests of one shard. Without a system account that anyone can be in only what accounts ask about
    themselves is answered, with no_system_account nothing."""

    def __init__(
        self, engine: Engine, shard: int, options: Options, server: ServerInfo, clients: Register, front: Front
    ) -> None:
        self._engine = engine
        self._shard = shard
        self._account = options.system_account.encode()
        # Where none is configured nobody is in the system account; but accounts ask about themselves all the same
        # (events.go registerSystemImports).
        self._own_requests = bool(options.system_account) or not options.no_system_account
        self._server = server
        self._clients = clients
        self._front = front
        self._sink = -1

    def open(self) -> None:
        """Be there for requests; on shard 0 for all."""
        if self._own_requests:
            self._engine.intercept(PREFIXES)
        if not self._account or self._shard != 0:
            return
        self._sink = self._engine.sink(self._account)
        subjects = ["$SYS.REQ.SERVER.PING"]
        for name in SERVER_REQUESTS:
            subjects += [f"$SYS.REQ.SERVER.PING.{name}", f"$SYS.REQ.SERVER.{self._server.server_id}.{name}"]
        subjects += [f"$SYS.REQ.SERVER.{self._server.server_id}.{name}" for name in SERVER_COMMANDS]
        subjects += [f"$SYS.REQ.ACCOUNT.*.{name}" for name in ACCOUNT_REQUESTS]
        for subject in subjects:
            self._engine.sink_subscribe(self._sink, subject.encode())

    # -- events --

    def entered(self, slot: int, client_id: int, account: str) -> None:
        """A connection is in (accountConnectEvent)."""
        subject = event_subjects(account)[0]
        if self._wanted(subject):
            client = self._person(self._clients.describe(slot, client_id, ""), account)
            self._publish(subject, self._event("client_connect") | {"client": client})
        self._count(account)

    def left(
        self, describe: Callable[[], dict[str, Any]], account: str, counts: tuple[int, int, int, int], reason: int
    ) -> None:
        """A connection that was in has gone (accountDisconnectEvent). counts: messages and bytes from it, and to it.
        `describe()`: who it was."""
        subject = event_subjects(account)[1]
        if self._wanted(subject):
            event = self._event("client_disconnect")
            client = self._person(describe(), account) | {"stop": event["timestamp"]}
            in_msgs, in_bytes, out_msgs, out_bytes = counts
            event |= {
                "client": client, "sent": {"msgs": in_msgs, "bytes": in_bytes},
                "received": {"msgs": out_msgs, "bytes": out_bytes}, "reason": close_text(reason),
            }  # fmt: skip
            self._publish(subject, event)
        self._count(account)

    def refused(self, described: dict[str, Any], account: str, reason: int) -> None:
        """A connection was closed for want of credentials (sendAuthErrorEvent); nobody knows whose it is."""
        subject = f"$SYS.SERVER.{self._server.server_id}.CLIENT.AUTH.ERR".encode()
        if self._wanted(subject):
            event = self._event("client_disconnect")
            client = self._person(described, account) | {"stop": event["timestamp"]}
            nothing = {"msgs": 0, "bytes": 0}
            event |= {"client": client, "sent": nothing, "received": nothing, "reason": close_text(reason)}
            self._publish(subject, event)

    async def tell_statistics(self) -> None:
        """Have the front publish STATSZ while someone listens; on the shard that answers requests. Ends when cancelled."""
        subject = f"$SYS.SERVER.{self._server.server_id}.STATSZ"
        pause = STATSZ_SECONDS_MIN
        while self._account and self._shard == 0:
            await asyncio.sleep(pause)
            pause = min(2 * pause, STATSZ_SECONDS_MAX)
            if self._wanted(subject.encode()):
                self._front.send({"op": "system_statsz", "subject": subject})

    def on_broker_event(self, message: Message) -> bool:
        """Something that the front says of the whole broker; whether anyone listens."""
        wanted = self._wanted(message["subject"].encode())
        if wanted:
            self.on_answer(message)
        return wanted

    def _count(self, account: str) -> None:
        """Let the front tell how many connections the account has now (accConnsUpdate)."""
        for subject in event_subjects(account)[2:]:
            if self._wanted(subject):
                self._front.send({"op": "system_conns", "account": account, "subject": subject.decode()})

    @staticmethod
    def _person(described: dict[str, Any], account: str) -> dict[str, Any]:
        return {key: value for key, value in described.items() if key != "server"} | {"name_tag": account}

    def _event(self, kind: str) -> dict[str, Any]:
        return event_head(f"io.nats.server.advisory.v1.{kind}") | {"server": self._server.fields()}

    def _wanted(self, subject: bytes) -> bool:
        return bool(self._account) and self._engine.interest(subject, self._account)

    def _publish(self, subject: bytes, body: dict[str, Any]) -> None:
        self._engine.publish(subject, orjson.dumps(body), account=self._account)

    # -- requests --

    def on_event(self, event: tuple[Any, ...]) -> bool:
        """An event of the engine; whether it was ours."""
        kind = event[0]
        if kind == EVENT_MESSAGE and event[1] == self._sink and self._sink >= 0:
            _, _, _, subject, reply, _, payload = event
            self._ask(subject.decode("latin-1"), reply, payload, self._account)
            return True
        if kind == EVENT_REQUEST and event[3].startswith(b"$SYS.REQ."):
            _, slot, client_id, subject, reply, _, payload, account = event
            self._on_request(slot, client_id, subject, reply, payload, account)
            return True
        if kind == EVENT_LATENCY:
            self._measured(Measurement(*event[1:]))
            return True
        return False

    # -- how long services took --

    def _measured(self, made: Measurement) -> None:
        """Tell those who export a service. Who answered from another shard is known there: the front asks."""
        if not self._engine.interest(made.subject, made.account):
            return
        responder: dict[str, Any] = {}
        if made.responder is not None:
            shard, slot, client_id = made.responder
            if shard != self._shard:
                self._front.send({"op": "system_latency", "measurement": made.plain()})
                return
            responder = self._clients.describe(slot, client_id, self._server.name)
        self._engine.publish(made.subject, orjson.dumps(report(made, responder)), account=made.account)

    def _ask(self, subject: str, reply: bytes, payload: bytes, account: bytes) -> None:
        self._front.send(
            {
                "op": "system_request", "subject": subject, "reply": reply.decode("latin-1"),
                "payload": payload.decode("utf-8", "replace"), "account": account.decode(),
            }
        )  # fmt: skip

    def _on_request(
        self, slot: int, client_id: int, subject: bytes, reply: bytes, payload: bytes, account: bytes
    ) -> None:
        if subject == USER_INFO and reply:
            self._engine.publish(reply, orjson.dumps(self._user_info(slot, client_id)), account=account)
        elif account != self._account and subject in OWN_REQUESTS:
            # Whatever the payload says: about itself only.
            self._ask(f"$SYS.REQ.ACCOUNT.{account.decode()}.{OWN_REQUESTS[subject]}", reply, payload, account)

    def _user_info(self, slot: int, client_id: int) -> dict[str, Any]:
        """events.go userInfoReq."""
        client = self._clients.client(slot, client_id)
        if client is None:
            return {"server": self._server.fields(), "error": {"code": 400, "description": ""}}
        permissions, expires = self._clients.permissions(slot, client_id)
        data: dict[str, Any] = {"user": client.user, "account": client.account, "account_name": client.account}
        if permissions is not None:
            data["permissions"] = permissions_body(permissions)
        if expires:
            data["expires"] = max(0, expires * 1_000_000_000 - time.time_ns())
        return {"server": self._server.fields(), "data": data}

    def on_answer(self, message: Message) -> None:
        """The front's answer to a request, or an event that it has made."""
        self._engine.publish(
            message["subject"].encode("latin-1"), message["payload"].encode(), account=message["account"].encode()
        )


@lru_cache(maxsize=1024)
def event_subjects(account: str) -> tuple[bytes, bytes, bytes, bytes]:
    """Where an account's events go: connect, disconnect, and the two subjects of its number of connections."""
    name = account.encode()
    return (
        b"$SYS.ACCOUNT.%b.CONNECT" % name,
        b"$SYS.ACCOUNT.%b.DISCONNECT" % name,
        b"$SYS.ACCOUNT.%b.SERVER.CONNS" % name,
        b"$SYS.SERVER.ACCOUNT.%b.CONNS" % name,
    )


def permissions_body(permissions: Permissions) -> dict[str, Any]:
    """As nats-server shows them (client.go publicPermissions): lists sorted, what is empty left out."""
    body: dict[str, Any] = {}
    for name, lists in (("publish", permissions.publish), ("subscribe", permissions.subscribe)):
        if lists is not None:
            both = {"allow": sorted(lists.allow or ()), "deny": sorted(lists.deny)}
            body[name] = {key: value for key, value in both.items() if value}
    if permissions.responses is not None:
        responses = permissions.responses
        body["responses"] = {"max": responses.max_messages, "ttl": round(responses.expires * 1e9)}
    return body
