"""Every setting of the broker with its default, as frozen dataclasses.

Times are seconds, sizes bytes. Names and defaults are nats-server's where it has the setting (opts.go setBaselineOptions).
Built by control/config from flags and file; given to every process; never changed: a reload makes a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from shardbroker import limits
from shardbroker.auth.model import GLOBAL_ACCOUNT, Account, AuthCallout, OperatorMode, User


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """A `tls {}` block. Files are as named, not yet read; times in seconds (opts.go parseTLS)."""

    cert_file: str = ""
    key_file: str = ""
    ca_file: str = ""
    certificates: tuple[tuple[str, str], ...] = ()  # more (cert_file, key_file), chosen by name
    verify: bool = False
    verify_and_map: bool = False
    timeout: float = limits.TLS_TIMEOUT
    min_version: str = ""  # 1.2 or 1.3; empty: 1.2
    cipher_suites: tuple[str, ...] = ()
    curve_preferences: tuple[str, ...] = ()
    connection_rate_limit: int = 0  # handshakes a second; 0: no limit
    pinned_certs: tuple[str, ...] = ()  # SHA-256 of public keys, lower-case hex
    # Whether the handshake comes before INFO: never, always, or INFO goes out after so many seconds without one.
    handshake_first: bool = False
    handshake_first_fallback: float = 0.0


@dataclass(frozen=True, slots=True)
class WebSocketSettings:
    """A `websocket {}` block (opts.go parseWebsocket). `port` 0: no listener, -1: any free one."""

    host: str = ""  # empty: as the clients'
    port: int = 0
    advertise: str = ""
    no_tls: bool = False
    tls: TlsSettings | None = None
    same_origin: bool = False
    allowed_origins: tuple[str, ...] = ()
    handshake_timeout: float = 0.0  # 0: the default
    compression: bool = False
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    auth_timeout: float = 0.0  # 0: as for other clients
    no_auth_user: str = ""
    jwt_cookie: str = ""
    user_cookie: str = ""
    pass_cookie: str = ""
    token_cookie: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    ping_interval: float = 0.0  # 0: as for other clients


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """A `cluster {}` block as far as it is served: servers that tell each other where clients can go (opts.go
    ClusterOpts). `port` 0: no listener, -1: any free one. Times in seconds."""

    host: str = ""  # empty: as the clients'
    port: int = 0
    advertise: str = ""
    no_advertise: bool = False
    routes: tuple[str, ...] = field(default=(), repr=False)  # URLs, which may hold passwords
    connect_retries: int = 0
    user: str = ""
    password: str = field(default="", repr=False)
    auth_timeout: float = limits.AUTH_TIMEOUT
    ping_interval: float = limits.CLUSTER_PING_INTERVAL


@dataclass(frozen=True, slots=True)
class JetStreamSettings:
    """A `jetstream {}` block (opts.go parseJetStream). Sizes in bytes, -1: chosen by the machine."""

    enabled: bool = False
    store_dir: str = ""  # empty: below the system's directory for temporary files, as nats-server
    max_memory: int = -1
    max_store: int = -1
    sync_interval: float = 0.0  # seconds; 0: before each acknowledgement (`always`)
    domain: str = ""
    strict: bool = True
    # limits {}: of what a client may ask for; 0: no limit
    max_ack_pending: int = 0
    max_request_batch: int = 0
    duplicate_window: float = 0.0
    request_queue_limit: int = 0  # 0: the default


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
    implicit_connect: bool  # a client may begin without CONNECT: it is no_auth_user


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The whole configuration. `port`, `http_port`, `https_port` -1 mean any free port."""

    # Processes
    workers: int | Literal["auto"] = "auto"
    ring_bytes: int = limits.RING_BYTES
    control_ring_bytes: int = limits.CONTROL_RING_BYTES
    overflow_bytes_max: int = limits.OVERFLOW_BYTES_MAX
    spin: float = limits.SPIN_SECONDS
    core_dumps: bool = False  # as the processes' limits allow; else none

    # Addresses and names
    host: str = limits.HOST_DEFAULT
    port: int = limits.PORT_DEFAULT
    http_host: str = ""  # empty: as host
    http_port: int = 0  # 0: no monitoring
    https_port: int = 0  # 0: not over HTTPS; the certificate is that of `tls`
    http_base_path: str = "/"
    client_advertise: str = ""
    server_name: str = ""  # empty: the server's id
    cluster_name: str = ""
    cluster: ClusterSettings = ClusterSettings()
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
    log_format: Literal["text", "json"] = "text"
    syslog: bool = False  # the machine's; a log_file goes before it
    remote_syslog: str = ""  # udp://host:port, tcp://host:port, unix:///path
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
    users: tuple[User, ...] = field(default=(), repr=False)  # of all accounts
    accounts: tuple[Account, ...] = ()  # those of the file, and the global one when it has mappings
    no_auth_user: str = ""  # a user's name or nkey: who says nothing is this one
    system_account: str = ""  # empty: the usual one, unless no_system_account
    no_system_account: bool = False
    proxy_protocol: bool = False  # connections to the clients' port may begin with a proxy's header
    auth_block: bool = False  # there is an authorization {} in the file
    auth_callout: AuthCallout | None = None
    operator_mode: OperatorMode | None = field(default=None, repr=False)

    # Other listeners and stores
    tls: TlsSettings | None = None
    allow_non_tls: bool = False
    websocket: WebSocketSettings = WebSocketSettings()
    jetstream: JetStreamSettings = JetStreamSettings()

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
        """Whether anyone is asked who he is."""
        return bool(self.user or self.token or self.users or self.operator_mode)

    @property
    def system_users_only(self) -> bool:
        """Only the system account has been set up, to have users: all others come in as without it (configureAccounts).

        With an authorization block that is not so: nobody may come in unasked who has begun to ask (CVE-2023-47090).
        """
        return (
            [account.name for account in self.accounts if account.name != GLOBAL_ACCOUNT] == [self.system_account]
            and not self.no_auth_user
            and not self.auth_block
            and not self.operator_mode
        )

    @property
    def auth_announced(self) -> bool:
        """Whether INFO says that credentials are needed (server.go createClient)."""
        return self.auth_required and not self.no_auth_user

    @property
    def nonce_required(self) -> bool:
        """Whether INFO carries a nonce for clients to sign (server.go nonceRequired)."""
        return bool(self.operator_mode) or any(user.nkey for user in self.users)

    @property
    def monitoring_host(self) -> str:
        """Where HTTP listens: next to the clients' port unless told otherwise (opts.go setBaselineOptions)."""
        return self.http_host or self.host

    @property
    def maps_certificates(self) -> frozenset[str]:
        """Kinds of connection whose user is the one that the client's certificate names (verify_and_map)."""
        kinds = {"STANDARD": self.tls, "WEBSOCKET": self.websocket.tls if self.websocket.port else None}
        return frozenset(kind for kind, tls in kinds.items() if tls is not None and tls.verify_and_map)

    def of_websocket(self) -> Options:
        """The same with the credentials that the websocket block asks for instead, if it does (websocket.go wsConfigAuth)."""
        own = self.websocket
        if not (own.user or own.token or own.no_auth_user):
            return self
        return replace(
            self,
            user=own.user or ("" if own.token else self.user),
            password=own.password if own.user else ("" if own.token else self.password),
            token=own.token or ("" if own.user else self.token),
            no_auth_user=own.no_auth_user or self.no_auth_user,
        )

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
            implicit_connect=bool(self.no_auth_user) or self.system_users_only,
        )

    def worker_count(self, cpus: int) -> int:
        """How many shards to run on `cpus` usable processors: auto is 1 up to two, else about half of them."""
        if self.workers == "auto":
            return min(limits.WORKERS_MAX, max(1, cpus // 2)) if cpus > 2 else 1
        return self.workers


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1_000_000_000)
