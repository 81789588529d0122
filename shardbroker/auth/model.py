"""Accounts, users and what they may do: frozen records, built from the configuration file or from a JWT.

    Account  1 --- n  User           a user is in one account, by name
       |- exports, imports           what it gives to others and takes from them, by account name
       |- mappings                   subjects that are changed at the publisher's shard, before matching
       |- default_permissions        of users that have none of their own: already applied to User.permissions
       `- limits, jetstream

Everything here has been checked: subjects are valid, accounts that are named exist, imports have an export that allows them
and form no cycle. Lists of subjects are tuples of str. Times are seconds, sizes bytes. Source of names and defaults:
nats-server's opts.go parseAccounts, parseUsers, parseUserPermissions; auth.go; accounts.go.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

# The account of those who name none, and the one of $SYS.> (server.go globalAccountName, DEFAULT_SYSTEM_ACCOUNT).
GLOBAL_ACCOUNT: Final = "$G"
SYSTEM_ACCOUNT: Final = "$SYS"
# const.go DEFAULT_ALLOW_RESPONSE_*, DEFAULT_SERVICE_EXPORT_RESPONSE_THRESHOLD, DEFAULT_SERVICE_LATENCY_SAMPLING
RESPONSES_MAX: Final = 1
RESPONSE_SECONDS: Final = 120.0
SERVICE_RESPONSE_SECONDS: Final = 120.0
LATENCY_SAMPLING: Final = 100
CONNECTION_TYPES: Final = (
    "STANDARD", "WEBSOCKET", "LEAFNODE", "LEAFNODE_WS", "MQTT", "MQTT_WS", "IN_PROCESS",
)  # fmt: skip
NO_LIMIT: Final = -1


@dataclass(frozen=True, slots=True)
class SubjectPermission:
    """What is allowed and what denied. `allow` None: everything that is not denied; empty: nothing.

    For subscriptions an entry may be `SUBJECT QUEUE`: only with that queue group (a pattern too); client.go canSubscribe.
    """

    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ResponsePermission:
    """A right to publish to the reply subject of each message that was delivered: so often, so long; negative: no limit."""

    max_messages: int = RESPONSES_MAX
    expires: float = RESPONSE_SECONDS


@dataclass(frozen=True, slots=True)
class Permissions:
    """Of one user. None: no restriction. With `responses` and no publish.allow, publish.allow is empty, not None."""

    publish: SubjectPermission | None = None
    subscribe: SubjectPermission | None = None
    responses: ResponsePermission | None = None


@dataclass(frozen=True, slots=True)
class User:
    """Who may come in: by name and password, or by nkey (a public user key, U...); one of the two is empty."""

    name: str = ""
    password: str = field(default="", repr=False)  # plain text, or a bcrypt hash ($2a$...); may be empty
    nkey: str = ""
    account: str = GLOBAL_ACCOUNT
    permissions: Permissions | None = None
    connection_types: tuple[str, ...] = ()  # of CONNECTION_TYPES; empty: all
    proxy_required: bool = False

    @property
    def key(self) -> str:
        """What identifies it among all users: its nkey, else its name."""
        return self.nkey or self.name


@dataclass(frozen=True, slots=True)
class ServiceLatency:
    """Where to publish how long a service took, and for how many percent of the requests; 0: those that ask by header."""

    subject: str
    sampling: int = LATENCY_SAMPLING


ResponseType = Literal["singleton", "stream", "chunked"]


@dataclass(frozen=True, slots=True)
class Export:
    """What an account gives to others: a stream (they receive), or a service (they ask).

    Who may import it, in this order (accounts.go checkAuth): all, when `accounts` is None, no token is required and there
    is no position; those whose name stands at `account_token_position`; those with an activation token; those in `accounts`.
    """

    kind: Literal["stream", "service"]
    subject: str
    accounts: tuple[str, ...] | None = None
    account_token_position: int = 0  # 1 is the first token, which is `*` in the subject; 0: none
    token_required: bool = False
    revocations: tuple[
        tuple[str, int], ...
    ] = ()  # account -> no activation issued at or before; `*`: all accounts
    # Services only
    response_type: ResponseType = "singleton"
    response_seconds: float = SERVICE_RESPONSE_SECONDS
    latency: ServiceLatency | None = None
    allow_trace: bool = False


@dataclass(frozen=True, slots=True)
class Import:
    """What an account takes from another.

    stream: what is published there to `subject` arrives here as `to` (the subject itself, or with place holders `$1`).
    service: a request here to `to` is one there to `subject`. `to` may be a pattern with the wildcards of `subject`, where
    `$1` stands for the first; it is never empty here.
    """

    kind: Literal["stream", "service"]
    account: str
    subject: str
    to: str
    share: bool = False  # services: tell the other side who asks (Nats-Request-Info)
    allow_trace: bool = False  # streams
    token: str = field(default="", repr=False)  # activation, a JWT


@dataclass(frozen=True, slots=True)
class MapDestination:
    """One destination of a mapping and its weight, 0 to 100 percent."""

    destination: str
    weight: int = 100
    cluster: str = ""  # only for servers of this cluster; we have none


@dataclass(frozen=True, slots=True)
class Mapping:
    """Messages published to `source` go to one of `destinations`, as weighted; what is missing to 100 stays as it is.

    Unless the source itself is among the destinations: then what is missing to 100 is dropped (AddWeightedMappings).
    """

    source: str
    destinations: tuple[MapDestination, ...]


@dataclass(frozen=True, slots=True)
class AccountLimits:
    """Negative: no limit."""

    max_connections: int = NO_LIMIT
    max_subscriptions: int = NO_LIMIT
    max_payload: int = NO_LIMIT
    max_leafnodes: int = NO_LIMIT
    # JWT only
    max_imports: int = NO_LIMIT
    max_exports: int = NO_LIMIT
    wildcard_exports: bool = True


@dataclass(frozen=True, slots=True)
class JetStreamLimits:
    """What an account's streams may take; negative: no limit. Bytes and counts."""

    max_memory: int = NO_LIMIT
    max_store: int = NO_LIMIT
    max_streams: int = NO_LIMIT
    max_consumers: int = NO_LIMIT
    max_ack_pending: int = NO_LIMIT
    memory_max_stream_bytes: int = NO_LIMIT
    store_max_stream_bytes: int = NO_LIMIT
    max_bytes_required: bool = False


@dataclass(frozen=True, slots=True)
class MessageTrace:
    """Where traces of messages with `traceparent` go, and of how many percent."""

    destination: str
    sampling: int = 100


@dataclass(frozen=True, slots=True)
class Account:
    """One isolated space of subjects. In operator mode its name is its public key (A...)."""

    name: str
    nkey: str = ""
    exports: tuple[Export, ...] = ()
    imports: tuple[Import, ...] = ()
    mappings: tuple[Mapping, ...] = ()
    default_permissions: Permissions | None = None
    limits: AccountLimits = AccountLimits()
    # Tier ("" or R1, R3) -> limits. Empty: no JetStream for this account, unless it is the global one (server.go).
    jetstream: tuple[tuple[str, JetStreamLimits], ...] = ()
    trace: MessageTrace | None = None
    # Operator mode
    tag: str = ""  # the name in the claims, for people
    issuer: str = ""


@dataclass(frozen=True, slots=True)
class AuthCallout:
    """An external service decides who may come in (ADR-26)."""

    issuer: str  # public account key that signs the answers
    account: str = GLOBAL_ACCOUNT  # where the service is
    auth_users: tuple[str, ...] = ()  # who is not asked about: the service itself
    xkey: str = ""  # public curve key: requests are encrypted to it
    allowed_accounts: tuple[str, ...] = ()  # where it may place users; empty: everywhere


@dataclass(frozen=True, slots=True)
class Resolver:
    """Where account JWTs come from (operator mode)."""

    kind: Literal["memory", "url", "full", "cache"] = "memory"
    url: str = field(default="", repr=False)  # may have a password
    directory: str = ""
    allow_delete: bool = False
    hard_delete: bool = False
    limit: int = 0  # 0: no limit
    ttl: float = 0.0  # 0: for ever
    interval: float = 0.0
    timeout: float = 0.0  # 0: the default
    # resolver_tls, of kind url only: files as named
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    insecure: bool = False  # whoever answers is taken for the server


@dataclass(frozen=True, slots=True)
class OperatorMode:
    """Trust in operators: accounts and users are JWTs that they, or those whom they trust, have signed."""

    operators: tuple[str, ...] = ()  # JWTs
    trusted_keys: tuple[str, ...] = ()  # public operator keys
    resolver: Resolver | None = None
    preload: tuple[tuple[str, str], ...] = ()  # account key -> JWT
    pinned_accounts: tuple[str, ...] = ()
    default_sentinel: str = field(default="", repr=False)
