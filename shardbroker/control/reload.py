"""What a reload (SIGHUP) may change, and the words for it. Source: reload.go diffOptions.

The file and the command line are read again; the new options replace the old ones as a whole, or, if anything in them is
wrong or cannot change while the broker runs, not at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from shardbroker.errors import ConfigError
from shardbroker.options import Options

# What the processes and sockets were made from.
FIXED = frozenset(
    {
        "workers", "ring_bytes", "control_ring_bytes", "host", "port", "http_host", "http_port", "https_port",
        "http_base_path", "server_name", "cluster_name", "cluster", "websocket",
        "jetstream", "system_account", "no_system_account", "auth_callout", "proxy_protocol",
        "core_dumps",
    }
)  # fmt: skip
# Said without the values.
SECRETS = {
    "user": "authorization username",
    "password": "authorization password",
    "token": "authorization token",
    "users": "authorization users",
    "accounts": "accounts",
    "no_auth_user": "no_auth_user",
    "auth_callout": "authorization callout",
    "operator_mode": "operators and trusted keys",
    "tls": "tls",
    "server_tags": "tags",
    "server_metadata": "metadata",
}
# Changed by every reload, or part of another setting's line.
SILENT = frozenset({"arguments", "config_file", "config_digest", "program", "warnings"})
DURATIONS = frozenset(
    {
        "ping_interval",
        "write_deadline",
        "auth_timeout",
        "lame_duck_duration",
        "lame_duck_grace_period",
        "spin",
    }
)
_NAMES = {"auth_timeout": "authorization timeout"}


def check_reload(old: Options, new: Options) -> list[str]:
    """The lines `Reloaded: ...` for what differs; ConfigError when a setting differs that cannot change."""
    lines = []
    for field in dataclasses.fields(Options):
        name = field.name
        before, after = getattr(old, name), getattr(new, name)
        if before == after or name in SILENT:
            continue
        if name in ("cluster", "websocket"):
            # They may hold passwords.
            raise ConfigError(f"config reload not supported for {name}")
        if name in FIXED:
            raise ConfigError(f"config reload not supported for {name}: {_difference(before, after)}")
        if name in SECRETS:
            lines.append(f"Reloaded: {SECRETS[name]}")
        elif name == "no_fast_producer_stall":
            lines.append(f"Reloaded: fast producers will {'not ' if after else ''}be stalled")
        else:
            lines.append(f"Reloaded: {_NAMES.get(name, name)} = {_shown(name, after)}")
    return lines


def reload_options(
    current: Options, read: Callable[[Sequence[str]], Options], control_line_max: int
) -> tuple[Options, list[str]]:
    """The options as they are now on disk and command line, and what has changed.

    `read(arguments)` parses a command line and the file it names. `control_line_max`: bytes, what rings and buffers were
    made for at the start. Raises ConfigError, and then nothing may change.
    """
    if not current.config_file:
        raise ConfigError("can only reload config when a file is provided using -c or --config")
    new = read(current.arguments)
    # "Any free port" and "the usual address" were answered at the start; asking again is no change.
    if new.port == -1:
        new = dataclasses.replace(new, port=current.port)
    if new.http_port == -1:
        new = dataclasses.replace(new, http_port=current.http_port)
    if new.https_port == -1:
        new = dataclasses.replace(new, https_port=current.https_port)
    if new.websocket.port and current.websocket.port:
        websocket = dataclasses.replace(
            new.websocket,
            host=new.websocket.host or current.websocket.host,
            port=current.websocket.port if new.websocket.port == -1 else new.websocket.port,
        )
        new = dataclasses.replace(new, websocket=websocket)
    if new.cluster.port and current.cluster.port:
        cluster = dataclasses.replace(
            new.cluster,
            host=new.cluster.host or current.cluster.host,
            port=current.cluster.port if new.cluster.port == -1 else new.cluster.port,
        )
        new = dataclasses.replace(new, cluster=cluster)
    if not new.http_host:
        new = dataclasses.replace(new, http_host=current.http_host)
    if new.max_control_line > control_line_max:
        raise ConfigError(
            f"max_control_line can be at most {control_line_max} without a restart, as control rings are no larger"
        )
    return new, check_reload(current, new)


def _difference(before: object, after: object) -> str:
    """Old and new; of a block (`jetstream {}`) only the keys that differ."""
    if dataclasses.is_dataclass(before) and type(before) is type(after):
        pairs = ((f.name, getattr(before, f.name), getattr(after, f.name)) for f in dataclasses.fields(before))
        return ", ".join(f"{key}: {_difference(old, new)}" for key, old, new in pairs if old != new)
    return f"old={_shown('', before)}, new={_shown('', after)}"


def _shown(name: str, value: object) -> str:
    if name in DURATIONS and isinstance(value, (int, float)):
        return f"{value:g}s"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
