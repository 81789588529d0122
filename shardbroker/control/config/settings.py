"""What each key of the configuration file means; which are not served yet, and what is done about these.

A key that nats-server knows and we do not serve is refused where ignoring it would be unsafe (who may come in, what is
encrypted, where messages go), else accepted with a warning in plain words. A key nobody knows is an error
(opts.go processConfigFileLine). All errors are collected and told together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from shardbroker import limits
from shardbroker.control.config import values
from shardbroker.control.config.document import Entry
from shardbroker.errors import ConfigError

Fields = dict[str, Any]


class _File:
    """What has been read so far."""

    def __init__(self) -> None:
        self.fields: Fields = {}
        self.errors: list[str] = []
        self.warnings: list[str] = []


def read_settings(entries: dict[str, Entry], file: str) -> tuple[Fields, list[str]]:
    """Fields of Options that a file sets, and warnings. Raises ConfigError with all that is wrong."""
    into = _File()
    if not entries:
        into.warnings.append(f"{file}: config has no values or is empty")
    for key, entry in entries.items():
        _read_entry(key, entry, SETTINGS, into)
    if into.errors:
        raise ConfigError("\n".join(into.errors))
    return into.fields, into.warnings


def _read_entry(key: str, entry: Entry, table: dict[str, Handler], into: _File) -> None:
    name = key.lower()
    try:
        if (handler := table.get(name)) is not None:
            handler(key, entry, into)
        elif not entry.used:
            into.errors.append(f'{entry.place}: unknown field "{key}"')
    except ValueError as error:
        into.errors.append(f"{entry.place}: {name}: {error}")


Handler = Callable[[str, Entry, _File], None]


# -- keys that are served --


def _set(field: str, read: Callable[[Entry], Any]) -> Handler:
    def handler(key: str, entry: Entry, into: _File) -> None:
        try:
            value = read(entry)
        except values.Warned as warned:
            value = warned.args[0]
            into.warnings.append(
                f"{entry.place}: invalid use of field {key!r}: {key} {warned.args[1]}".replace("'", '"')
            )
        into.fields[field] = value

    return handler


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


def secret(text: str) -> str:
    """A password or token in plain text. Raises ValueError for a bcrypt hash, which nothing would ever equal."""
    if text.startswith(("$2a$", "$2b$", "$2x$", "$2y$")):
        raise ValueError("a bcrypt hash is not served yet: give it in plain text")
    return text


def _secret(entry: Entry) -> str:
    return secret(values.read_string(entry))


def _auth_timeout(key: str, entry: Entry, into: _File) -> None:
    seconds = float(entry.value) if type(entry.value) in (int, float) else values.read_duration(entry)  # type: ignore[arg-type]
    if entry.text and type(entry.value) is int and not entry.text.lstrip("-").isdigit():
        seconds = values.duration(entry.text)
    if seconds > 60:
        into.warnings.append(
            f"{entry.place}: timeout of {seconds:g} seconds is high, consider keeping it under 60 seconds"
        )
    into.fields["auth_timeout"] = seconds


def _authorization(key: str, entry: Entry, into: _File) -> None:
    for name, value in values.read_map(entry).items():
        _read_entry(name, value, AUTHORIZATION, into)
    if into.fields.get("token") and (into.fields.get("user") or into.fields.get("password")):
        into.errors.append(f"{entry.place}: Cannot have a user/pass and token")


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


def _write_timeout(key: str, entry: Entry, into: _File) -> None:
    policy = values.read_string(entry)
    if policy not in ("default", "close", "retry"):
        raise ValueError("write_timeout must be 'default', 'close' or 'retry'")
    if policy == "retry":
        into.warnings.append(
            f"{entry.place}: write_timeout: retry is not served yet; slow connections are closed"
        )


def _nothing(key: str, entry: Entry, into: _File) -> None:
    """It asks for what is always so."""


_NO_USERS: Final = (
    "several users and permissions are not served yet, so the server would admit whom it should not"
)
_NO_ACCOUNTS: Final = "accounts are not served yet, so the server would not separate what it should"
_NO_TLS: Final = "TLS is not served yet, so the server would talk in the clear"
_NO_OPERATOR: Final = "operator mode (JWT) is not served yet, so the server would admit whom it should not"
_NO_JETSTREAM: Final = "JetStream is not served yet; the server runs without it"

AUTHORIZATION: Final[dict[str, Handler]] = {
    "user": _set("user", values.read_string),
    "username": _set("user", values.read_string),
    "pass": _set("password", _secret),
    "password": _set("password", _secret),
    "token": _set("token", _secret),
    "timeout": _auth_timeout,
    "users": _refused(_NO_USERS),
    "permissions": _refused(_NO_USERS),
    "default_permission": _refused(_NO_USERS),
    "default_permissions": _refused(_NO_USERS),
    "auth_callout": _refused("auth callout is not served yet, so the server would admit whom it should not"),
    "auth_hook": _refused("auth callout is not served yet, so the server would admit whom it should not"),
    "proxy_required": _refused("proxies are not served yet, so the server would admit whom it should not"),
}

SETTINGS: Final[dict[str, Handler]] = {
    # Processes: ours
    "workers": _set("workers", _workers),
    "ring_bytes": _set("ring_bytes", _ring),
    "control_ring_bytes": _set("control_ring_bytes", _ring),
    "overflow_bytes_max": _set("overflow_bytes_max", _positive),
    "spin": _set("spin", values.read_duration),
    # Addresses and names
    "listen": _address("host", "port"),
    "host": _set("host", values.read_string),
    "net": _set("host", values.read_string),
    "port": _set("port", values.read_port),
    "client_advertise": _set("client_advertise", values.read_string),
    "http": _address("http_host", "http_port"),
    "http_port": _set("http_port", values.read_port),
    "monitor_port": _set("http_port", values.read_port),
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
    "logtime": _set("logtime", values.read_bool),
    "logtime_utc": _set("logtime_utc", values.read_bool),
    "debug": _set("debug", values.read_bool),
    "trace": _set("trace", values.read_bool),
    "trace_verbose": _trace_verbose,
    "trace_headers": _trace_headers,
    "max_traced_msg_len": _set("max_traced_msg_len", _count),
    # Limits
    "authorization": _authorization,
    "max_payload": _set("max_payload", _size),
    "max_control_line": _set("max_control_line", _size),
    "max_connections": _set("max_connections", _connections),
    "max_conn": _set("max_connections", _connections),
    "max_subscriptions": _set("max_subscriptions", _count),
    "max_subs": _set("max_subscriptions", _count),
    "max_sub_tokens": _set("max_sub_tokens", _tokens),
    "max_subscription_tokens": _set("max_sub_tokens", _tokens),
    "max_pending": _set("max_pending", _positive),
    "max_closed_clients": _set("max_closed_clients", _count),
    "write_deadline": _set("write_deadline", values.read_duration),
    "write_timeout": _write_timeout,
    "ping_interval": _set("ping_interval", values.read_duration),
    "ping_max": _set("ping_max", values.read_int),
    "lame_duck_duration": _set("lame_duck_duration", _lame_duck_duration),
    "lame_duck_grace_period": _set("lame_duck_grace_period", values.read_duration),
    "no_header_support": _set("no_header_support", values.read_bool),
    "no_fast_producer_stall": _set("no_fast_producer_stall", values.read_bool),
    # Unsafe to ignore
    "tls": _refused(_NO_TLS),
    "https": _refused(_NO_TLS),
    "https_port": _refused(_NO_TLS),
    "accounts": _refused(_NO_ACCOUNTS),
    "system_account": _refused(_NO_ACCOUNTS),
    "system": _refused(_NO_ACCOUNTS),
    "mappings": _refused("subject mappings are not served yet; messages would go to the wrong subjects"),
    "maps": _refused("subject mappings are not served yet; messages would go to the wrong subjects"),
    "no_auth_user": _refused(_NO_USERS),
    "default_sentinel": _refused(_NO_OPERATOR),
    **dict.fromkeys(
        ("operator", "operators", "root", "roots", "root_operator", "root_operators"), _refused(_NO_OPERATOR)
    ),
    **dict.fromkeys(
        ("resolver", "account_resolver", "accounts_resolver", "resolver_tls"), _refused(_NO_OPERATOR)
    ),
    **dict.fromkeys(
        ("resolver_preload", "resolver_pinned_accounts", "trusted", "trusted_keys"), _refused(_NO_OPERATOR)
    ),
    "gateway": _refused("gateways are not served yet; messages would not travel"),
    "proxies": _refused("proxies are not served yet, so the server would admit whom it should not"),
    "proxy_protocol": _refused("the PROXY protocol is not served yet; no client could connect"),
    # Harmless to go without
    "cluster": _links("routes", "routes to other servers"),
    "leafnodes": _links("remotes", "leaf nodes"),
    "leaf": _links("remotes", "leaf nodes"),
    "websocket": _warned("WebSocket is not served yet; nothing listens for it"),
    "ws": _warned("WebSocket is not served yet; nothing listens for it"),
    "mqtt": _warned("MQTT is not served yet; nothing listens for it"),
    "jetstream": _warned(_NO_JETSTREAM),
    "store_dir": _warned(_NO_JETSTREAM),
    "storedir": _warned(_NO_JETSTREAM),
    "default_js_domain": _warned(_NO_JETSTREAM),
    "syslog": _warned("logging to syslog is not served yet; log lines go to stderr or log_file"),
    "remote_syslog": _warned("logging to syslog is not served yet; log lines go to stderr or log_file"),
    "prof_port": _warned("profiling over HTTP is a facility of Go; nothing listens for it"),
    "prof_block_rate": _warned("profiling over HTTP is a facility of Go"),
    "ocsp": _warned("TLS is not served yet, so this has no effect"),
    "ocsp_cache": _warned("TLS is not served yet, so this has no effect"),
    "disable_sublist_cache": _warned("the route cache cannot be switched off"),
    "no_sublist_cache": _warned("the route cache cannot be switched off"),
    "connect_error_reports": _warned("there are no routes or leaf nodes yet, so this has no effect"),
    "reconnect_error_reports": _warned("there are no routes or leaf nodes yet, so this has no effect"),
    "feature_flags": _warned("nats-server's feature flags have no effect here"),
    "allow_non_tls": _nothing,
    "no_system_account": _nothing,
    "no_system": _nothing,
    "no_sys_acc": _nothing,
}
