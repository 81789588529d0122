"""The block `cluster {}` and its flags. Source: opts.go parseCluster, overrideCluster, RoutesFromStr.

Servers that are linked tell each other where clients can go and nothing else (control/peers): what says how messages travel has
no effect, and is said to have none.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from shardbroker.control.config import values
from shardbroker.control.config.access import read_timeout
from shardbroker.control.config.blocks import Exact, Report, keys, read_block, read_list
from shardbroker.control.config.document import Entry
from shardbroker.options import ClusterSettings

NO_MESSAGES: Final = (
    "servers of a cluster tell each other where clients can go; messages do not cross between them, each serves its own"
)
_OF_MESSAGES: Final = (
    "accounts", "compression", "connect_backoff", "permissions", "ping_max", "pool_size", "write_deadline", "write_timeout",
)  # fmt: skip


def read_cluster(entry: Entry, report: Report) -> dict[str, Any]:
    """The fields of Options that the block sets."""
    fields = read_block(
        entry,
        keys(
            {
                "name": ("name", _name),
                "listen": ("listen", values.read_listen),
                "port": ("port", values.read_port),
                "host net": ("host", values.read_string),
                "cluster_advertise advertise": ("advertise", values.read_string),
                "no_advertise": ("no_advertise", values.read_bool),
                "routes": ("routes", partial(_routes, report=report)),
                "connect_retries": ("connect_retries", values.read_int),
                "authorization": ("authorization", partial(_authorization, report=report)),
                "ping_interval": ("ping_interval", values.read_duration),
                "tls": ("ignored", _tls),
                " ".join(_OF_MESSAGES): ("ignored", partial(_ignored, report=report)),
            }
        ),
        report,
    )
    fields.pop("ignored", None)
    named = {"cluster_name": fields.pop("name")} if "name" in fields else {}
    host, port = fields.pop("listen", ("", fields.get("port", 0)))
    fields |= {"port": port} | ({"host": host} if host else {})
    fields |= fields.pop("authorization", {})
    settings = ClusterSettings(**fields)
    if settings.routes and not settings.port:
        report.error(entry, "cluster: routes need a port to listen on, as others dial back")
    if settings.port:
        report.warning(entry, f"cluster: {NO_MESSAGES}")
    return named | {"cluster": settings}


def cluster_of_flags(given: dict[str, Any], settings: ClusterSettings) -> ClusterSettings:
    """What the flags say, over what the file says. Raises ValueError."""
    if "cluster" in given:
        settings = dataclasses.replace(settings, **_listener(given["cluster"]))
    if given.get("routes"):
        routes = tuple(route.strip() for route in given["routes"].split(","))
        for route in routes:
            read_route(route)
        settings = dataclasses.replace(settings, routes=routes)
    for flag, field in _FLAGS.items():
        if flag in given:
            settings = dataclasses.replace(settings, **{field: given[flag]})
    if settings.routes and not settings.port:
        raise ValueError("solicited routes require cluster capabilities, e.g. --cluster")
    return settings


_FLAGS: Final = {
    "cluster_advertise": "advertise",
    "no_advertise": "no_advertise",
    "connect_retries": "connect_retries",
}


def _listener(text: str) -> dict[str, Any]:
    """Of --cluster nats://[user:password@]host:port; an empty one switches it off."""
    if not text:
        return {"port": 0}
    parts = urlsplit(text if "://" in text else f"nats://{text}")
    host, number = values.split_host_port(parts.netloc.rpartition("@")[2])
    if not number.lstrip("-").isdigit():
        raise ValueError(f'could not parse port "{number}"')
    if parts.username and parts.password is None:
        raise ValueError("expected cluster password to be set")
    return {
        "host": host,
        "port": values.port(int(number)),
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
    }


def read_route(text: str) -> SplitResult:
    """The parts of a route's URL, with a host and a port. Raises ValueError, which shows no password."""
    parts = urlsplit(text if "://" in text else f"nats://{text}")
    where = parts.netloc.rpartition("@")[2]
    try:
        complete = parts.hostname and parts.port
    except ValueError:
        complete = None
    if not complete:
        raise ValueError(f'error parsing route url ["{where}"]: host and port are needed')
    if parts.scheme == "tls":
        raise ValueError(f'route "{where}": TLS between servers is not served yet')
    return parts


def _name(entry: Entry) -> str:
    name = values.read_string(entry)
    if " " in name:
        raise Exact("cluster name cannot contain spaces or new lines")
    return name


def _routes(entry: Entry, report: Report) -> tuple[str, ...]:
    routes: list[str] = []
    for item in read_list(entry, "routes"):
        route = values.read_string(item).strip()
        if route in routes:
            report.warning(item, "Duplicate route entry detected")
            continue
        read_route(route)
        routes.append(route)
    return tuple(routes)


def _authorization(entry: Entry, report: Report) -> dict[str, Any]:
    def refused(what: str) -> Any:
        def read(entry: Entry) -> None:
            raise Exact(f"Cluster authorization does not {what}")

        return read

    fields = read_block(
        entry,
        keys(
            {
                "user username": ("user", values.read_string),
                "pass password": ("password", values.read_string),
                "timeout": ("auth_timeout", partial(read_timeout, report=report)),
                "users": ("ignored", refused("allow multiple users")),
                "token": ("ignored", refused("support tokens")),
                "auth_callout auth_hook": ("ignored", refused("support callouts")),
                "permissions permission": ("ignored", partial(_ignored, report=report)),
            }
        ),
        report,
    )
    fields.pop("ignored", None)
    return fields


def _tls(entry: Entry) -> None:
    if entry.value != {}:
        raise Exact("cluster.tls: TLS between servers is not served yet, so they would talk in the clear")


def _ignored(entry: Entry, report: Report) -> None:
    report.warning(entry, f"{entry.key}: has no effect: no messages travel between servers")
