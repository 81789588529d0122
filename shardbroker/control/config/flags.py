"""nats-server's flags, and ours, read as Go's flag package reads them.

One dash or two, `-f=v` or `-f v`; a truth value stands alone or has `=`; the first word without a dash ends the flags.
A flag given twice counts the last time. Source: nats-server's main.go and opts.go ConfigureOptions; Go's flag.parseOne.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from shardbroker import limits
from shardbroker.control.config import values

Kind = Literal["bool", "int", "string", "size", "duration", "workers"]


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag under all its names. `field` of Options it sets; empty: looked at by load.py under its first name."""

    names: tuple[str, ...]
    kind: Kind
    field: str = ""


def _flag(names: str, kind: Kind, field: str = "") -> Flag:
    return Flag(tuple(names.split()), kind, field)


FLAGS: Final = (
    # Ours
    _flag("workers", "workers", "workers"),
    _flag("ring-size ring_size ring_bytes", "size", "ring_bytes"),
    _flag("control-ring-size control_ring_size control_ring_bytes", "size", "control_ring_bytes"),
    _flag("overflow-size overflow_size overflow_bytes_max", "size", "overflow_bytes_max"),
    _flag("spin", "duration", "spin"),
    # nats-server's that are served
    _flag("h help", "bool"),
    _flag("v version", "bool"),
    _flag("help_tls", "bool"),
    _flag("c config", "string"),
    _flag("t", "bool"),
    _flag("sl signal", "string"),
    _flag("p port", "int", "port"),
    _flag("a addr net", "string", "host"),
    _flag("n name server_name", "string", "server_name"),
    _flag("m http_port", "int", "http_port"),
    _flag("ms https_port", "int", "https_port"),
    _flag("P pid", "string", "pid_file"),
    _flag("ports_file_dir", "string", "ports_file_dir"),
    _flag("client_advertise", "string", "client_advertise"),
    _flag("cluster_name", "string", "cluster_name"),
    _flag("l log", "string", "log_file"),
    _flag("log_size_limit", "int", "log_size_limit"),
    _flag("log-format log_format", "string", "log_format"),
    _flag("s syslog", "bool", "syslog"),
    _flag("r remote_syslog", "string", "remote_syslog"),
    _flag("max_traced_msg_len", "int", "max_traced_msg_len"),
    _flag("T logtime", "bool", "logtime"),
    _flag("logtime_utc", "bool", "logtime_utc"),
    _flag("D debug", "bool", "debug"),
    _flag("V trace", "bool", "trace"),
    _flag("VV", "bool"),
    _flag("DV", "bool"),
    _flag("DVV", "bool"),
    _flag("user", "string", "user"),
    _flag("pass", "string", "password"),
    _flag("auth", "string", "token"),
    # load.py makes one setting of these
    _flag("tls", "bool"),
    _flag("tlsverify", "bool"),
    _flag("tlscert", "string"),
    _flag("tlskey", "string"),
    _flag("tlscacert", "string"),
    _flag("routes", "string"),
    _flag("cluster cluster_listen", "string"),
    _flag("cluster_advertise", "string"),
    _flag("no_advertise", "bool"),
    _flag("connect_retries", "int"),
    # nats-server's that are not: load.py refuses or warns
    _flag("js jetstream", "bool"),
    _flag("sd store_dir", "string"),
    _flag("profile", "int"),
)
_BY_NAME: Final = {name: flag for flag in FLAGS for name in flag.names}

# strconv.ParseBool
_BOOLS: Final = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}


class FlagError(Exception):
    """The command line cannot be read; the text is Go's. Status 2, with the usage."""


@dataclass(slots=True)
class CommandLine:
    """What was given. `given` has first names, in the order of the last mention; `rest` what follows the flags."""

    given: dict[str, Any] = field(default_factory=dict)
    rest: tuple[str, ...] = ()


def parse_flags(arguments: Sequence[str]) -> CommandLine:
    """Read a command line without its program name. Raises FlagError."""
    line = CommandLine()
    at = 0
    while at < len(arguments):
        word = arguments[at]
        if len(word) < 2 or word[0] != "-":
            break
        at += 1
        if word == "--":
            break
        name = word[2:] if word[1] == "-" else word[1:]
        if not name or name[0] in "-=":
            raise FlagError(f"bad flag syntax: {word}")
        name, equals, text = name.partition("=")
        flag = _BY_NAME.get(name)
        if flag is None:
            raise FlagError(f"flag provided but not defined: -{name}")
        if not equals:
            if flag.kind == "bool":
                text = "true"
            elif at < len(arguments):
                text = arguments[at]
                at += 1
            else:
                raise FlagError(f"flag needs an argument: -{name}")
        given = line.given
        given.pop(flag.names[0], None)
        given[flag.names[0]] = _value(flag, name, text)
    line.rest = tuple(arguments[at:])
    return line


def _value(flag: Flag, name: str, text: str) -> Any:
    if flag.kind == "string":
        return text
    try:
        if flag.kind == "bool":
            return _BOOLS[text]
        if flag.kind == "int":
            return _int(text)
        if flag.kind == "size":
            return values.size(text)
        if flag.kind == "duration":
            return values.duration(text)
        return "auto" if text == "auto" else _int(text)
    except (ValueError, KeyError) as error:
        what = "boolean value" if flag.kind == "bool" else "value"
        why = str(error) if isinstance(error, ValueError) and flag.kind == "duration" else "parse error"
        dash = " for " if flag.kind == "bool" else " for flag "
        raise FlagError(f'invalid {what} "{text}"{dash}-{name}: {why}') from None


def _int(text: str) -> int:
    # strconv.ParseInt with base 0: 0x10, 0b1, 0o17, 017 and 1_000 are numbers.
    if re.fullmatch(r"[-+]?0[0-7_]*[0-7]", text):
        return int(text.replace("0", "0o0", 1), 0)
    return int(text, 0)


USAGE: Final = f"""
Usage: {{program}} [options]
       {{program}} status [--json]
       {{program}} check config <file> | connection <url> | health <url> | jetstream <url>
       {{program}} doctor [-c <file>] [--json]
       {{program}} top [<url>]

Server Options:
        --workers <number>|auto      Worker processes, 1 to {limits.WORKERS_MAX} (default: auto, by the processors)
    -a, --addr, --net <host>         Bind to host address (default: 0.0.0.0)
    -p, --port <port>                Use port for clients (default: 4222; -1 picks a free one)
    -n, --name
        --server_name <server_name>  Server name (default: auto)
    -P, --pid <file>                 File to store PID
    -m, --http_port <port>           Use port for http monitoring
    -ms,--https_port <port>          Use port for https monitoring
    -c, --config <file>              Configuration file
    -t                               Test configuration and exit
    -sl,--signal <signal>[=<pid>]    Send signal to a running server (ldm, stop, quit, term, reopen, reload)
                                     <pid> can be either a PID (e.g. 1) or the path to a PID file, or a PID's
                                     beginning with * for several
        --client_advertise <string>  Client URL to advertise to clients
        --ports_file_dir <dir>       Creates a ports file in the specified directory (<executable_name>_<pid>.ports).

Logging Options:
    -l, --log <file>                 File to redirect log output
    -T, --logtime                    Timestamp log entries (default: true)
        --logtime_utc                Timestamps in UTC instead of local timezone (default: false)
    -D, --debug                      Enable debugging output
    -V, --trace                      Trace the raw protocol
    -VV                              Verbose trace
    -DV                              Debug and trace
    -DVV                             Debug and verbose trace
    -s, --syslog                     Log to syslog
    -r, --remote_syslog <addr>       Log to a syslog server (udp://localhost:514, tcp://..., unix:///path)
        --log-format text|json       Form of log lines (default: text, nats-server's)
        --log_size_limit <limit>     Logfile size limit (default: none)
        --max_traced_msg_len <len>   Maximum printable length for traced messages (default: unlimited)

Authorization Options:
        --user <user>                User required for connections
        --pass <password>            Password required for connections
        --auth <token>               Authorization token required for connections

JetStream Options:
    -js, --jetstream                 Enable JetStream functionality
    -sd, --store_dir <dir>           Set the storage directory

TLS Options:
        --tls                        Enable TLS, do not verify clients (default: false)
        --tlscert <file>             Server certificate file
        --tlskey <file>              Private key for server certificate
        --tlsverify                  Enable TLS, verify client certificates
        --tlscacert <file>           Client certificate CA for verification

Cluster Options (servers tell each other where clients can go; messages do not cross):
        --routes <rurl-1, rurl-2>    Routes to solicit and connect
        --cluster
        --cluster_listen <url>       Cluster URL for solicited routes
        --cluster_name <string>      Cluster name that clients are told
        --no_advertise               Do not advertise known cluster information to clients
        --cluster_advertise <string> Cluster URL to advertise to other servers
        --connect_retries <number>   For implicit routes, number of connect retries

Tuning Options:
        --ring-size <bytes>          Each ring between two workers, a power of two (default: 4MiB)
        --control-ring-size <bytes>  Each ring for interest changes, a power of two (default: 256KiB)
        --overflow-size <bytes>      Most that waits for a worker whose rings are full (default: 256MiB)
        --spin <duration>            Look so long for work before sleeping (default: 0s)

Common Options:
    -h, --help                       Show this message
    -v, --version                    Show version

Accepted, without effect yet: --profile
"""
