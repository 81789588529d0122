"""What each key of the configuration file means; which are not served yet, and what is done about these.

A key that nats-server knows and we do not serve is refused where ignoring it would be unsafe (who may come in, what is
encrypted, where messages go), else accepted with a warning in plain words. A key nobody knows is an error
(opts.go processConfigFileLine). All errors are collected and told together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final

from shardbroker import limits
from shardbroker.control.config import listeners, values
from shardbroker.control.config.access import Access
from shardbroker.control.config.blocks import Exact, Keys, Report, keys, read_block, read_value
from shardbroker.control.config.cluster import read_cluster
from shardbroker.control.config.document import Entry
from shardbroker.control.config.operators import Operators
from shardbroker.control.config.websocket import WebSocket
from shardbroker.errors import ConfigError
from shardbroker.options import JetStreamSettings

Fields = dict[str, Any]


class _File(Report):
    """What has been read so far."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: Fields = {}
        self.access = Access(self)
        self.operators = Operators(self)
        self.websocket = WebSocket(self)


def read_settings(
    entries: dict[str, Entry], file: str, places: dict[str, str] | None = None
) -> tuple[Fields, list[str]]:
    """Fields of Options that a file sets, and warnings. Raises ConfigError with all that is wrong.

    `places` gets FILE:LINE:COLUMN of the key that made a field.
    """
    into = _File()
    if not entries:
        into.warnings.append(f"{file}: config has no values or is empty")
    for key, entry in entries.items():
        before = dict(into.fields)
        _read_entry(key, entry, into)
        if places is not None:
            changed = (name for name, value in into.fields.items() if before.get(name, before) is not value)
            places.update(dict.fromkeys(changed, entry.place))
    operators = into.operators.entry is not None
    into.fields |= into.access.finish(
        operators=operators, no_system=into.fields.get("no_system_account", False)
    )
    into.fields |= into.operators.finish(into.fields)
    into.fields |= into.websocket.finish(into.fields, operators=operators)
    if places is not None:
        places.update(_places(into))
    _join_store_dir(into)
    if into.errors:
        raise ConfigError("\n".join(into.errors))
    return into.fields, into.warnings


def _places(into: _File) -> dict[str, str]:
    """FILE:LINE:COLUMN of what made the fields that come of several keys."""
    found = into.access.places()
    if into.operators.entry is not None:
        # A system account that the file does not name is the operator's.
        found = {"operator_mode": into.operators.entry.place, "system_account": into.operators.entry.place} | found
    if into.websocket.entry is not None:
        found["websocket"] = into.websocket.entry.place
    return found


def _join_store_dir(into: _File) -> None:
    """store_dir stands at the top or in jetstream {}, not in both (opts.go)."""
    store_dir = into.fields.pop("store_dir", None)
    if store_dir is None:
        return
    settings = into.fields.get("jetstream", JetStreamSettings())
    if settings.store_dir:
        into.errors.append("Duplicate 'store_dir' configuration")
    into.fields["jetstream"] = dataclasses.replace(settings, store_dir=store_dir)


def _read_entry(key: str, entry: Entry, into: _File) -> None:
    name = key.lower()
    try:
        if (handler := SETTINGS.get(name)) is not None:
            handler(key, entry, into)
        elif not entry.used:
            into.error(entry, f'unknown field "{key}"')
    except Exact as error:
        into.error(entry, str(error))
    except ValueError as error:
        into.error(entry, f"{name}: {error}")


Handler = Callable[[str, Entry, _File], None]


# -- keys that are served --


def _set(field: str, read: Callable[[Entry], Any]) -> Handler:
    def handler(key: str, entry: Entry, into: _File) -> None:
        ok, value = read_value(key, entry, read, into)
        if ok:
            into.fields[field] = value

    return handler


def _operators(read: Callable[[Operators, Entry], None]) -> Handler:
    def handler(key: str, entry: Entry, into: _File) -> None:
        read(into.operators, entry)

    return handler


def _block(field: str, read: Callable[[Entry, Report], Any]) -> Handler:
    def handler(key: str, entry: Entry, into: _File) -> None:
        into.fields[field] = read(entry, into)

    return handler


def _access(read: Callable[[Access, Entry], None]) -> Handler:
    def handler(key: str, entry: Entry, into: _File) -> None:
        read(into.access, entry)

    return handler


def _websocket(key: str, entry: Entry, into: _File) -> None:
    into.websocket.read(entry)


def _address(host_field: str, port_field: str) -> Handler:
    def handler(key: str, entry: Entry, into: _File) -> None:
        host, into.fields[port_field] = values.read_listen(entry)
        if host:
            into.fields[host_field] = host

    return handler


def _size(entry: Entry) -> int:
    number = values.read_int(entry)
    if number > limits.SIZE_MAX:
        raise ValueError("value is too big")
    if number == -1:
        return limits.SIZE_MAX
    if number < 0:
        raise ValueError("value can not be negative")
    return number


def _count(entry: Entry) -> int:
    """0 and negative numbers: no limit."""
    return max(0, values.read_int(entry))


def _small_count(entry: Entry) -> int:
    """As `_count`, of what a connection counts in 32 bits."""
    number = _count(entry)
    if number > limits.SIZE_MAX:
        raise ValueError("value is too big")
    return number


def _pings(entry: Entry) -> int:
    number = _small_count(entry)
    if values.read_int(entry) < 0:
        raise ValueError("value can not be negative")
    return number


def _positive(entry: Entry) -> int:
    number = values.read_int(entry)
    if number <= 0:
        raise ValueError("value needs to be positive")
    return number


def _connections(entry: Entry) -> int:
    # opts.go: 0 in a file becomes -1, and a negative number admits nobody (server.go createClient).
    return values.read_int(entry) or -1


def _tokens(entry: Entry) -> int:
    number = values.read_int(entry)
    if number > limits.SUBSCRIPTION_TOKENS_MAX:
        raise ValueError("value is too big")
    if number <= 0:
        raise ValueError("value can not be negative")
    return number


def _server_name(entry: Entry) -> str:
    name = values.read_string(entry)
    if " " in name:
        raise ValueError("server name cannot contain spaces")
    return name


def _lame_duck_duration(entry: Entry) -> float:
    seconds = values.read_duration(entry)
    if seconds < limits.LAME_DUCK_DURATION_MIN:
        raise ValueError(f"invalid lame_duck_duration of {entry.text or entry.value}, minimum is 30 seconds")
    return seconds


def _workers(entry: Entry) -> int | str:
    if entry.value == "auto":
        return "auto"
    number = values.read_int(entry)
    if not 1 <= number <= limits.WORKERS_MAX:
        raise ValueError(f"1 to {limits.WORKERS_MAX}, or auto")
    return number


def ring_bytes(number: int) -> int:
    """A ring's size as it can be: a power of two from a page on. Raises ValueError."""
    if not limits.RING_BYTES_MIN <= number <= limits.RING_BYTES_MAX or number & (number - 1):
        raise ValueError(
            f"{number} is no ring size: a power of two from {limits.RING_BYTES_MIN} to {limits.RING_BYTES_MAX} bytes"
        )
    return number


def _ring(entry: Entry) -> int:
    return ring_bytes(values.read_int(entry))


def _trace_verbose(key: str, entry: Entry, into: _File) -> None:
    into.fields["trace_verbose"] = into.fields["trace"] = values.read_bool(entry)


def _trace_headers(key: str, entry: Entry, into: _File) -> None:
    into.fields["trace_headers"] = into.fields["trace"] = values.read_bool(entry)


OURS: Final[Keys] = keys(
    {
        "workers": ("workers", _workers),
        "ring_size ring_bytes": ("ring_bytes", _ring),
        "control_ring_size control_ring_bytes": ("control_ring_bytes", _ring),
        "overflow_size overflow_bytes_max": ("overflow_bytes_max", _positive),
        "spin": ("spin", values.read_duration),
        "log_format": ("log_format", values.read_string),
        "core_dumps": ("core_dumps", values.read_bool),
    }
)


def _ours(key: str, entry: Entry, into: _File) -> None:
    """`shardbroker { workers, ring_size, ... }`; the same keys at the top were those of the first releases."""
    into.fields |= read_block(entry, OURS, into)


def _store_dir(key: str, entry: Entry, into: _File) -> None:
    into.fields["store_dir"] = values.read_string(entry)


# -- keys that are not --


def _refused(why: str) -> Handler:
    def handler(key: str, entry: Entry, into: _File) -> None:
        if entry.value in ({}, [], False, ""):
            return
        into.errors.append(f"{entry.place}: {key}: {why}")

    return handler


def _warned(why: str) -> Handler:
    def handler(key: str, entry: Entry, into: _File) -> None:
        if entry.value in (False, "disabled", ""):
            return
        into.warnings.append(f"{entry.place}: {key}: {why}")

    return handler


def _links(inner: str, what: str) -> Handler:
    """A block that only listens does no harm; one that should connect somewhere must not be ignored."""

    def handler(key: str, entry: Entry, into: _File) -> None:
        links = values.read_map(entry).get(inner)
        if links is not None and links.value:
            into.errors.append(
                f"{links.place}: {key}.{inner}: {what} are not served yet; messages would not travel"
            )
        else:
            into.warnings.append(f"{entry.place}: {key}: {what} are not served yet; nothing listens for them")

    return handler


def _ocsp(key: str, entry: Entry, into: _File) -> None:
    """Python's ssl cannot staple. To go without is what `never` says, and what `auto` may come to; the other modes promise
    clients a staple in every handshake (opts.go, ADR-38)."""
    mode = entry.value
    if isinstance(mode, dict):
        if unknown := mode.keys() - {"mode", "url", "urls"}:
            raise ValueError(f"unsupported field {sorted(unknown)[0]!r}")
        mode = values.read_string(mode["mode"]).lower() if "mode" in mode else "auto"
        if mode not in ("always", "must", "never", "auto"):
            raise ValueError(f"unsupported ocsp mode {mode!r}")
    elif not isinstance(mode, bool):
        raise ValueError("expected a truth value or a block")
    if mode in ("always", "must"):
        into.errors.append(
            f"{entry.place}: {key}: certificates cannot be stapled, and mode {mode} promises that to clients; instead: "
            "certificates of short life, or a proxy that staples (docs/security.md)"
        )
    elif mode in (True, "auto"):
        into.warnings.append(f"{entry.place}: {key}: certificates are not stapled; clients may ask the authority themselves")


def _cluster(key: str, entry: Entry, into: _File) -> None:
    into.fields |= read_cluster(entry, into)


def _write_timeout(key: str, entry: Entry, into: _File) -> None:
    policy = values.read_string(entry)
    if policy not in ("default", "close", "retry"):
        raise ValueError("write_timeout must be 'default', 'close' or 'retry'")
    if policy == "retry":
        into.warnings.append(
            f"{entry.place}: write_timeout: retry is not served yet; slow connections are closed"
        )


SETTINGS: Final[dict[str, Handler]] = {
    # Processes: ours
    "shardbroker": _ours,
    **{name: _set(field, read) for name, (field, read) in OURS.items()},
    # Addresses and names
    "listen": _address("host", "port"),
    "host": _set("host", values.read_string),
    "net": _set("host", values.read_string),
    "port": _set("port", values.read_port),
    "client_advertise": _set("client_advertise", values.read_string),
    "http": _address("http_host", "http_port"),
    "http_port": _set("http_port", values.read_port),
    "monitor_port": _set("http_port", values.read_port),
    "https": _address("http_host", "https_port"),
    "https_port": _set("https_port", values.read_port),
    "http_base_path": _set("http_base_path", values.read_string),
    "server_name": _set("server_name", _server_name),
    "server_tags": _set("server_tags", values.read_strings),
    "server_metadata": _set("server_metadata", values.read_string_map),
    # Files and logs
    "pid_file": _set("pid_file", values.read_string),
    "pidfile": _set("pid_file", values.read_string),
    "ports_file_dir": _set("ports_file_dir", values.read_string),
    "log_file": _set("log_file", values.read_string),
    "logfile": _set("log_file", values.read_string),
    "log_size_limit": _set("log_size_limit", _count),
    "logfile_size_limit": _set("log_size_limit", _count),
    "log_max_num": _set("log_max_files", _count),
    "logfile_max_num": _set("log_max_files", _count),
    "syslog": _set("syslog", values.read_bool),
    "remote_syslog": _set("remote_syslog", values.read_string),
    "logtime": _set("logtime", values.read_bool),
    "logtime_utc": _set("logtime_utc", values.read_bool),
    "debug": _set("debug", values.read_bool),
    "trace": _set("trace", values.read_bool),
    "trace_verbose": _trace_verbose,
    "trace_headers": _trace_headers,
    "max_traced_msg_len": _set("max_traced_msg_len", _count),
    # Limits
    "max_payload": _set("max_payload", _size),
    "max_control_line": _set("max_control_line", _size),
    "max_connections": _set("max_connections", _connections),
    "max_conn": _set("max_connections", _connections),
    "max_subscriptions": _set("max_subscriptions", _small_count),
    "max_subs": _set("max_subscriptions", _small_count),
    "max_sub_tokens": _set("max_sub_tokens", _tokens),
    "max_subscription_tokens": _set("max_sub_tokens", _tokens),
    "max_pending": _set("max_pending", _positive),
    "max_closed_clients": _set("max_closed_clients", _count),
    "write_deadline": _set("write_deadline", values.read_duration),
    "write_timeout": _write_timeout,
    "ping_interval": _set("ping_interval", values.read_duration),
    "ping_max": _set("ping_max", _pings),
    "lame_duck_duration": _set("lame_duck_duration", _lame_duck_duration),
    "lame_duck_grace_period": _set("lame_duck_grace_period", values.read_duration),
    "no_header_support": _set("no_header_support", values.read_bool),
    "no_fast_producer_stall": _set("no_fast_producer_stall", values.read_bool),
    # Who may come in
    "authorization": _access(Access.read_authorization),
    "accounts": _access(Access.read_accounts),
    "mappings": _access(Access.read_mappings),
    "maps": _access(Access.read_mappings),
    "no_auth_user": _access(Access.read_no_auth_user),
    "system_account": _access(Access.read_system_account),
    "system": _access(Access.read_system_account),
    "no_system_account": _set("no_system_account", values.read_bool),
    "no_system": _set("no_system_account", values.read_bool),
    "no_sys_acc": _set("no_system_account", values.read_bool),
    # Operator mode
    **dict.fromkeys(
        ("operator", "operators", "root", "roots", "root_operator", "root_operators"),
        _operators(Operators.read_operators),
    ),
    **dict.fromkeys(
        ("resolver", "account_resolver", "accounts_resolver"), _operators(Operators.read_resolver)
    ),
    "resolver_preload": _operators(Operators.read_preload),
    "resolver_pinned_accounts": _operators(Operators.read_pinned),
    "resolver_tls": _operators(Operators.read_tls),
    "trusted": _operators(Operators.read_trusted_keys),
    "trusted_keys": _operators(Operators.read_trusted_keys),
    "default_sentinel": _operators(Operators.read_sentinel),
    # Other listeners and stores
    "tls": _block("tls", listeners.read_tls),
    "allow_non_tls": _set("allow_non_tls", values.read_bool),
    "websocket": _websocket,
    "ws": _websocket,
    "jetstream": _block("jetstream", listeners.read_jetstream),
    "store_dir": _store_dir,
    "storedir": _store_dir,
    # Unsafe to ignore
    "gateway": _refused("gateways are not served yet; messages would not travel"),
    "proxies": _refused("proxies are not served yet, so the server would admit whom it should not"),
    "proxy_protocol": _set("proxy_protocol", values.read_bool),
    # Harmless to go without
    "cluster": _cluster,
    "leafnodes": _links("remotes", "leaf nodes"),
    "leaf": _links("remotes", "leaf nodes"),
    "mqtt": _warned("MQTT is not served yet; nothing listens for it"),
    "default_js_domain": _warned("there are no leaf nodes yet, so this has no effect"),
    "prof_port": _warned("profiling over HTTP is a facility of Go; nothing listens for it"),
    "prof_block_rate": _warned("profiling over HTTP is a facility of Go"),
    "ocsp": _ocsp,
    "ocsp_cache": _warned("OCSP answers are not asked for, so this has no effect"),
    "disable_sublist_cache": _warned("the route cache cannot be switched off"),
    "no_sublist_cache": _warned("the route cache cannot be switched off"),
    "connect_error_reports": _warned("there are no leaf nodes yet, so this has no effect"),
    "reconnect_error_reports": _warned("there are no leaf nodes yet, so this has no effect"),
    "feature_flags": _warned("nats-server's feature flags have no effect here"),
}
