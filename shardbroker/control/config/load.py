"""One command line in, Options out: flags, the file they name, and what is wrong with either.

Flags win over the file. What is recognised but not served is refused where going without would be unsafe, else warned
about (settings.py does the same for the file).
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from shardbroker import limits
from shardbroker.control.config.flags import FLAGS, CommandLine, parse_flags
from shardbroker.control.config.values import port
from shardbroker.errors import ConfigError
from shardbroker.options import ClusterSettings, JetStreamSettings, Options, TlsSettings

_WARNED: Final = {
    "profile": "profiling over HTTP is a facility of Go; nothing listens for it",
}
# -DV and its like: one flag, several settings.
_COMBINED: Final = {
    "DV": ("debug", "trace"),
    "VV": ("trace", "trace_verbose"),
    "DVV": ("debug", "trace", "trace_verbose"),
}


def load(arguments: Sequence[str]) -> Options:
    """The options of a command line without its program name. Raises FlagError or ConfigError."""
    return options_of(parse_flags(arguments), arguments)


def options_of(line: CommandLine, arguments: Sequence[str]) -> Options:
    """The options of a command line that has been parsed. Raises ConfigError."""
    fields: dict[str, Any] = {}
    warnings: list[str] = []
    places: dict[str, str] = {}
    file: str = line.given.get("c", "")
    if file:
        # The parser library is imported only for this.
        from shardbroker.control.config.document import digest, parse_file
        from shardbroker.control.config.settings import read_settings

        entries = parse_file(file)
        fields, warnings = read_settings(entries, file, places)
        fields |= {"config_file": file, "config_digest": digest(entries)}
    fields |= (from_flags := _from_flags(line.given, warnings))
    fields |= _jetstream(line.given, fields)
    fields |= _cluster(line.given, fields, warnings)
    if tls := _tls_flags(line.given):
        # Of the file's block all counts but the certificates: what it says of suites, versions and clients is not lost.
        fields["tls"] = dataclasses.replace(fields.get("tls") or TlsSettings(), certificates=(), **tls)
    elif line.given.get("tls") is False:
        fields.pop("tls", None)
    if fields.get("tls") is not None:
        # A handshake takes its part of it (opts.go getDefaultAuthTimeout).
        fields.setdefault("auth_timeout", fields["tls"].timeout + 1.0)
    _check(fields, {name: place for name, place in places.items() if name not in from_flags})
    return Options(**fields, program=program_name(), arguments=tuple(arguments), warnings=tuple(warnings))


def _from_flags(given: dict[str, Any], warnings: list[str]) -> dict[str, Any]:
    warnings += [f"flag -{name}: {why}" for name, why in _WARNED.items() if given.get(name)]
    fields: dict[str, Any] = {}
    for name, value in given.items():
        if (flag := _FLAG_FIELDS.get(name)) is not None:
            fields[flag] = value
        elif name in _COMBINED:
            fields |= dict.fromkeys(_COMBINED[name], value)
    # A port 0 is the flag's default, so it says nothing (opts.go).
    for name, default in (("port", limits.PORT_DEFAULT), ("http_port", 0), ("https_port", 0)):
        if fields.get(name) == 0:
            fields[name] = default
    # The other way of authorization in the file does not count beside one on the command line.
    if fields.get("token"):
        fields = {"user": "", "password": ""} | fields
    elif fields.get("user"):
        fields = {"token": ""} | fields
    return fields


def _jetstream(given: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """-js switches streams on, -sd says where they lie (opts.go)."""
    settings = fields.get("jetstream", JetStreamSettings())
    if "js" in given:
        settings = dataclasses.replace(settings, enabled=given["js"])
    if given.get("sd"):
        settings = dataclasses.replace(settings, store_dir=given["sd"])
    return {"jetstream": settings}


def _cluster(given: dict[str, Any], fields: dict[str, Any], warnings: list[str]) -> dict[str, Any]:
    """--cluster, --routes and their like, over what the file says (opts.go overrideCluster)."""
    if not given.keys() & {"cluster", "routes", "cluster_advertise", "no_advertise", "connect_retries"}:
        return {}
    from shardbroker.control.config.cluster import NO_MESSAGES, cluster_of_flags

    try:
        settings = cluster_of_flags(given, fields.get("cluster", ClusterSettings()))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if settings.port and "cluster" in given:
        warnings.append(f"flag -cluster: {NO_MESSAGES}")
    return {"cluster": settings}


def _tls_flags(given: dict[str, Any]) -> dict[str, Any]:
    """What --tls and its like say, over what the file says (opts.go overrideTLS)."""
    names = {"tlscert": "cert_file", "tlskey": "key_file", "tlscacert": "ca_file", "tlsverify": "verify"}
    tls = {field: given[flag] for flag, field in names.items() if given.get(flag)}
    # Whoever names a certificate wants TLS, also without --tls; --tls=false wins over all of them.
    if not given.get("tls", bool(given.keys() & names.keys())):
        return {}
    for flag, what in (("tlscert", "certificate"), ("tlskey", "private key")):
        if not given.get(flag):
            raise ConfigError(f"TLS Server {what} must be present and valid")
    return tls


_FLAG_FIELDS: Final = {flag.names[0]: flag.field for flag in FLAGS if flag.field}


def _check(fields: dict[str, Any], places: Mapping[str, str]) -> None:
    """What single settings cannot tell (server.go validateOptions). Raises ConfigError.

    `places`: FILE:LINE:COLUMN of the settings that the file makes.
    """
    o = Options(**fields)
    errors = []

    def at(*names: str) -> str:
        """Where the first of these settings that the file makes stands."""
        return next((f"{places[name]}: " for name in names if name in places), "")

    for name, number in (("port", o.port), ("http_port", o.http_port), ("https_port", o.https_port)):
        try:
            port(number)
        except ValueError as error:
            errors.append(f"{name}: {error}")
    if o.workers != "auto" and not 1 <= o.workers <= limits.WORKERS_MAX:
        errors.append(f"workers: {o.workers} is none of 1 to {limits.WORKERS_MAX}, or auto")
    for name, number in (("ring-size", o.ring_bytes), ("control-ring-size", o.control_ring_bytes)):
        if not limits.RING_BYTES_MIN <= number <= limits.RING_BYTES_MAX or number & (number - 1):
            errors.append(
                f"{name}: {number} is not a power of two from {limits.RING_BYTES_MIN} to {limits.RING_BYTES_MAX} bytes"
            )
    if o.max_control_line > limits.CONTROL_LINE_BYTES_MAX:
        text = f"max_control_line: {o.max_control_line} is more than {limits.CONTROL_LINE_BYTES_MAX}"
        errors.append(at("max_control_line") + text)
    if o.overflow_bytes_max <= 0:
        errors.append("overflow-size: needs to be positive")
    if o.spin < 0:
        errors.append("spin: needs to be positive")
    if o.max_payload > o.max_pending:
        text = f"max_payload ({o.max_payload}) cannot be higher than max_pending ({o.max_pending})"
        errors.append(at("max_payload", "max_pending") + text)
    if o.lame_duck_grace_period >= o.lame_duck_duration:
        errors.append(
            f"{at('lame_duck_grace_period', 'lame_duck_duration')}lame duck grace period "
            f"({o.lame_duck_grace_period:g}s) should be strictly lower than lame duck duration ({o.lame_duck_duration:g}s)"
        )
    if " " in o.server_name:
        errors.append("server name cannot contain spaces")
    if o.token and (o.user or o.password):
        errors.append("Cannot have a user/pass and token")
    if o.log_format not in ("text", "json"):
        errors.append(f'log-format: "{o.log_format}" is neither text nor json')
    if o.remote_syslog:
        from shardbroker.control.syslog import parse_address

        try:
            parse_address(o.remote_syslog)
        except ConfigError as error:
            errors.append(str(error))
    if o.client_advertise:
        from shardbroker.wire.info import advertised

        try:
            advertised(o)
        except ValueError as error:
            errors.append(f"{at('client_advertise')}client_advertise: {error}")
    if o.jetstream.enabled and o.system_account:
        system = next((account for account in o.accounts if account.name == o.system_account), None)
        if system is not None and system.jetstream:
            errors.append(f"{at('system_account', 'accounts')}Not allowed to enable JetStream on the system account")
    served = [
        (at(name), tls)
        for name, tls in (("tls", o.tls), ("websocket", o.websocket.tls if o.websocket.port else None))
        if tls is not None
    ]
    if served:
        # The library is imported only for this; the files are read now, so that a bad one is told before anything starts.
        from shardbroker.shard.tls import server_context

        for place, tls in served:
            try:
                server_context(tls)
            except ConfigError as error:
                errors.append(f"{place}{error}")
    resolver = o.operator_mode.resolver if o.operator_mode is not None else None
    if resolver is not None and resolver.kind == "url":
        # Likewise.
        from shardbroker.auth.remote import HttpSource
        from shardbroker.auth.resolver import ResolverError

        try:
            HttpSource(resolver).open()
        except ResolverError as error:
            errors.append(str(error))
    if errors:
        raise ConfigError("\n".join(errors))


def program_name() -> str:
    """The name under which we were started: begins messages, and names the ports file (server.go portFile)."""
    name = os.path.basename(sys.argv[0] if sys.argv else "")
    return "shardbroker" if name in ("", "__main__.py", "-c", "-m") else name
