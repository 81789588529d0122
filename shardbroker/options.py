"""Every setting of the broker with its default, as frozen dataclasses.

Times are seconds, sizes bytes. Names and defaults are nats-server's where it has the setting (opts.go setBaselineOptions).
Built by control/config from flags and file; given to every process; never changed: a reload makes a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from shardbroker import limits


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What the compiled data path needs to know. Times in nanoseconds, sizes in bytes, 0 means no limit where said."""

    max_payload: int
    max_control_line: int
    max_pending: int
    max_subscriptions: int  # for each connection; 0: no limit
    max_subscription_tokens: int  # 0: no limit
    write_deadline_ns: int
    ping_interval_ns: int
    ping_max: int
    auth_timeout_ns: int
    headers: bool
    auth_required: bool
    overflow_bytes_max: int
    trace: bool
    debug: bool
    max_traced_bytes: int  # 0: no limit
    spin_ns: int
    stall: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The whole configuration. `port` and `http_port` -1 mean any free port."""

    # Processes
    workers: int | Literal["auto"] = "auto"
    ring_bytes: int = limits.RING_BYTES
    control_ring_bytes: int = limits.CONTROL_RING_BYTES
    overflow_bytes_max: int = limits.OVERFLOW_BYTES_MAX
    spin: float = limits.SPIN_SECONDS

    # Addresses and names
    host: str = limits.HOST_DEFAULT
    port: int = limits.PORT_DEFAULT
    http_host: str = ""  # empty: as host
    http_port: int = 0  # 0: no monitoring
    http_base_path: str = "/"
    client_advertise: str = ""
    server_name: str = ""  # empty: the server's id
    server_tags: tuple[str, ...] = ()
    server_metadata: Mapping[str, str] = field(default_factory=dict)

    # Files
    config_file: str = ""
    config_digest: str = ""
    pid_file: str = ""
    ports_file_dir: str = ""

    # Logging
    log_file: str = ""
    log_size_limit: int = 0  # 0: no limit
    log_max_files: int = 0  # 0: keep all backups
    logtime: bool = True
    logtime_utc: bool = False
    debug: bool = False
    trace: bool = False
    trace_verbose: bool = False
    trace_headers: bool = False
    max_traced_msg_len: int = 0  # 0: no limit

    # Who may come in. A token and a user exclude each other.
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    auth_timeout: float = limits.AUTH_TIMEOUT

    # Limits
    max_payload: int = limits.PAYLOAD_BYTES
    max_control_line: int = limits.CONTROL_LINE_BYTES
    max_connections: int = limits.CONNECTIONS  # 0: no limit; negative: nobody may connect
    max_subscriptions: int = 0  # for each connection; 0: no limit
    max_sub_tokens: int = 0  # 0: no limit
    max_pending: int = limits.PENDING_BYTES
    write_deadline: float = limits.WRITE_DEADLINE
    ping_interval: float = limits.PING_INTERVAL
    ping_max: int = limits.PINGS_OUT_MAX
    max_closed_clients: int = 10000
    lame_duck_duration: float = limits.LAME_DUCK_DURATION
    lame_duck_grace_period: float = limits.LAME_DUCK_GRACE_PERIOD
    no_header_support: bool = False
    no_fast_producer_stall: bool = False

    # Where this comes from. The command line is kept for a reload; it may hold a password.
    program: str = "shardbroker"  # basename of argv[0]: names the ports file and begins messages
    arguments: tuple[str, ...] = field(default=(), repr=False)
    warnings: tuple[str, ...] = ()  # what was accepted without effect, in plain words, for the log

    @property
    def headers(self) -> bool:
        return not self.no_header_support

    @property
    def auth_required(self) -> bool:
        return bool(self.user or self.password or self.token)

    @property
    def monitoring_host(self) -> str:
        """Where HTTP listens: next to the clients' port unless told otherwise (opts.go setBaselineOptions)."""
        return self.http_host or self.host

    def engine_settings(self) -> EngineSettings:
        """The part of it that the compiled data path reads."""
        return EngineSettings(
            max_payload=self.max_payload,
            max_control_line=self.max_control_line,
            max_pending=self.max_pending,
            max_subscriptions=self.max_subscriptions,
            max_subscription_tokens=self.max_sub_tokens,
            write_deadline_ns=_nanoseconds(self.write_deadline),
            ping_interval_ns=_nanoseconds(self.ping_interval),
            ping_max=self.ping_max,
            auth_timeout_ns=_nanoseconds(self.auth_timeout),
            headers=self.headers,
            auth_required=self.auth_required,
            overflow_bytes_max=self.overflow_bytes_max,
            trace=self.trace,
            debug=self.debug,
            max_traced_bytes=self.max_traced_msg_len,
            spin_ns=_nanoseconds(self.spin),
            stall=not self.no_fast_producer_stall,
        )

    def worker_count(self, cpus: int) -> int:
        """How many shards to run on `cpus` usable processors: auto is 1 up to two, else about half of them."""
        if self.workers == "auto":
            return min(limits.WORKERS_MAX, max(1, cpus // 2)) if cpus > 2 else 1
        return self.workers


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1_000_000_000)
