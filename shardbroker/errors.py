"""Why connections are closed, and every error a client may see: wire text, closing or not, and the rule's source.

Close reasons have nats-server's numbers and words (client.go ClosedState, monitor.go ClosedState.String), since /connz and
tools show them. hot/reasons.pxd repeats the numbers that the data path uses; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class CloseReason(IntEnum):
    """Why a connection ended. Up to 99 nats-server's numbering; ours from 100 on."""

    CLIENT_CLOSED = 1
    AUTHENTICATION_TIMEOUT = 2
    AUTHENTICATION_VIOLATION = 3
    TLS_HANDSHAKE_ERROR = 4
    SLOW_CONSUMER_PENDING_BYTES = 5
    SLOW_CONSUMER_WRITE_DEADLINE = 6
    WRITE_ERROR = 7
    READ_ERROR = 8
    PARSE_ERROR = 9
    STALE_CONNECTION = 10
    PROTOCOL_VIOLATION = 11
    BAD_CLIENT_PROTOCOL_VERSION = 12
    WRONG_PORT = 13
    MAX_ACCOUNT_CONNECTIONS_EXCEEDED = 14
    MAX_CONNECTIONS_EXCEEDED = 15
    MAX_PAYLOAD_EXCEEDED = 16
    MAX_CONTROL_LINE_EXCEEDED = 17
    MAX_SUBSCRIPTIONS_EXCEEDED = 18
    DUPLICATE_ROUTE = 19
    ROUTE_REMOVED = 20
    SERVER_SHUTDOWN = 21
    AUTHENTICATION_EXPIRED = 22
    WRONG_GATEWAY = 23
    MISSING_ACCOUNT = 24
    REVOCATION = 25
    INTERNAL_CLIENT = 26
    MSG_HEADER_VIOLATION = 27
    NO_RESPONDERS_REQUIRES_HEADERS = 28
    CLUSTER_NAME_CONFLICT = 29
    DUPLICATE_REMOTE_LEAFNODE_CONNECTION = 30
    DUPLICATE_CLIENT_ID = 31
    DUPLICATE_SERVER_NAME = 32
    MINIMUM_VERSION_REQUIRED = 33
    CLUSTER_NAMES_IDENTICAL = 34
    KICKED = 35
    PROXY_NOT_TRUSTED = 36
    PROXY_REQUIRED = 37
    # A shard did not read its ring for so long that what waits for it passed the bound.
    RING_OVERFLOW = 100

    @property
    def text(self) -> str:
        """The words that logs and /connz use."""
        return CLOSE_TEXTS[self]


CLOSE_TEXTS: Final[dict[CloseReason, str]] = {
    CloseReason.CLIENT_CLOSED: "Client Closed",
    CloseReason.AUTHENTICATION_TIMEOUT: "Authentication Timeout",
    CloseReason.AUTHENTICATION_VIOLATION: "Authentication Failure",
    CloseReason.TLS_HANDSHAKE_ERROR: "TLS Handshake Failure",
    CloseReason.SLOW_CONSUMER_PENDING_BYTES: "Slow Consumer (Pending Bytes)",
    CloseReason.SLOW_CONSUMER_WRITE_DEADLINE: "Slow Consumer (Write Deadline)",
    CloseReason.WRITE_ERROR: "Write Error",
    CloseReason.READ_ERROR: "Read Error",
    CloseReason.PARSE_ERROR: "Parse Error",
    CloseReason.STALE_CONNECTION: "Stale Connection",
    CloseReason.PROTOCOL_VIOLATION: "Protocol Violation",
    CloseReason.BAD_CLIENT_PROTOCOL_VERSION: "Bad Client Protocol Version",
    CloseReason.WRONG_PORT: "Incorrect Port",
    CloseReason.MAX_ACCOUNT_CONNECTIONS_EXCEEDED: "Maximum Account Connections Exceeded",
    CloseReason.MAX_CONNECTIONS_EXCEEDED: "Maximum Connections Exceeded",
    CloseReason.MAX_PAYLOAD_EXCEEDED: "Maximum Message Payload Exceeded",
    CloseReason.MAX_CONTROL_LINE_EXCEEDED: "Maximum Control Line Exceeded",
    CloseReason.MAX_SUBSCRIPTIONS_EXCEEDED: "Maximum Subscriptions Exceeded",
    CloseReason.DUPLICATE_ROUTE: "Duplicate Route",
    CloseReason.ROUTE_REMOVED: "Route Removed",
    CloseReason.SERVER_SHUTDOWN: "Server Shutdown",
    CloseReason.AUTHENTICATION_EXPIRED: "Authentication Expired",
    CloseReason.WRONG_GATEWAY: "Wrong Gateway",
    CloseReason.MISSING_ACCOUNT: "Missing Account",
    CloseReason.REVOCATION: "Credentials Revoked",
    CloseReason.INTERNAL_CLIENT: "Internal Client",
    CloseReason.MSG_HEADER_VIOLATION: "Message Header Violation",
    CloseReason.NO_RESPONDERS_REQUIRES_HEADERS: "No Responders Requires Headers",
    CloseReason.CLUSTER_NAME_CONFLICT: "Cluster Name Conflict",
    CloseReason.DUPLICATE_REMOTE_LEAFNODE_CONNECTION: "Duplicate Remote LeafNode Connection",
    CloseReason.DUPLICATE_CLIENT_ID: "Duplicate Client ID",
    CloseReason.DUPLICATE_SERVER_NAME: "Duplicate Server Name",
    CloseReason.MINIMUM_VERSION_REQUIRED: "Minimum Version Required",
    CloseReason.CLUSTER_NAMES_IDENTICAL: "Cluster Names Identical",
    CloseReason.KICKED: "Kicked",
    CloseReason.PROXY_NOT_TRUSTED: "Proxy Not Trusted",
    CloseReason.PROXY_REQUIRED: "Proxy Required",
    CloseReason.RING_OVERFLOW: "Ring Overflow",
}


def close_text(reason: int) -> str:
    """The words for a number that another process gave; unknown ones as nats-server says them."""
    try:
        return CloseReason(reason).text
    except ValueError:
        return "Unknown State"


@dataclass(frozen=True, slots=True)
class ClientError:
    """One -ERR. `text` may have the field {subject}; `closes` is the reason of the close that follows, or None."""

    text: str
    closes: CloseReason | None
    source: str

    def wire(self, **fields: str) -> bytes:
        """The line as it is sent."""
        return b"-ERR '" + self.text.format(**fields).encode() + b"'\r\n"


_R = CloseReason
UNKNOWN_PROTOCOL_OPERATION: Final = ClientError(
    "Unknown Protocol Operation", _R.PROTOCOL_VIOLATION, "parser.go parseErr"
)
MAXIMUM_CONTROL_LINE: Final = ClientError(
    "maximum control line exceeded", _R.MAX_CONTROL_LINE_EXCEEDED, "parser.go overMaxControlLineLimit"
)
MAXIMUM_PAYLOAD: Final = ClientError(
    "Maximum Payload Violation", _R.MAX_PAYLOAD_EXCEEDED, "client.go maxPayloadViolation"
)
MAXIMUM_CONNECTIONS: Final = ClientError(
    "maximum connections exceeded", _R.MAX_CONNECTIONS_EXCEEDED, "client.go maxConnExceeded"
)
CONNECTION_THROTTLED: Final = ClientError(
    "Connection throttling is active. Please try again later.", _R.MAX_CONNECTIONS_EXCEEDED, "server.go createClientEx"
)
MAXIMUM_ACCOUNT_CONNECTIONS: Final = ClientError(
    "maximum account active connections exceeded",
    _R.MAX_ACCOUNT_CONNECTIONS_EXCEEDED,
    "client.go maxAccountConnExceeded",
)
MAXIMUM_SUBSCRIPTIONS: Final = ClientError(
    "maximum subscriptions exceeded", None, "client.go maxSubsExceeded"
)
TOO_MANY_TOKENS: Final = ClientError(
    'Permissions Violation for Subscription to "{subject}", too many tokens',
    None,
    "client.go maxTokensViolation",
)
AUTHORIZATION_VIOLATION: Final = ClientError(
    "Authorization Violation", _R.AUTHENTICATION_VIOLATION, "client.go authViolation"
)
AUTHENTICATION_TIMEOUT: Final = ClientError(
    "Authentication Timeout", _R.AUTHENTICATION_TIMEOUT, "client.go authTimeout"
)
STALE_CONNECTION: Final = ClientError("Stale Connection", _R.STALE_CONNECTION, "client.go processPingTimer")
SLOW_CONSUMER: Final = ClientError(
    "Slow Consumer",
    _R.SLOW_CONSUMER_PENDING_BYTES,
    "the protocol's documentation; nats-server closes without words",
)
INVALID_SUBJECT: Final = ClientError("Invalid Subject", None, "client.go parseSub, processSubEx")
INVALID_PUBLISH_SUBJECT: Final = ClientError(
    "Invalid Publish Subject", None, "client.go processPub, pedantic only"
)
INVALID_CLIENT_PROTOCOL: Final = ClientError(
    "invalid client protocol", _R.BAD_CLIENT_PROTOCOL_VERSION, "client.go processConnect"
)
NO_RESPONDERS_REQUIRES_HEADERS: Final = ClientError(
    "no responders requires headers support", _R.NO_RESPONDERS_REQUIRES_HEADERS, "client.go processConnect"
)

USER_EXPIRED: Final = ClientError(
    "User Authentication Expired", _R.AUTHENTICATION_EXPIRED, "client.go authExpired"
)
ACCOUNT_EXPIRED: Final = ClientError(
    "Account Authentication Expired", _R.AUTHENTICATION_EXPIRED, "client.go accountAuthExpired"
)
USER_REVOKED: Final = ClientError(
    "User Authentication Revoked", _R.REVOCATION, "accounts.go updateAccountClaimsWithRefresh"
)
# How clients that were in are told that they may no longer be, by what auth/ says.
EXPULSIONS: Final = {error.text: error for error in (USER_EXPIRED, ACCOUNT_EXPIRED, USER_REVOKED)}

CLIENT_ERRORS: Final[tuple[ClientError, ...]] = (
    UNKNOWN_PROTOCOL_OPERATION, MAXIMUM_CONTROL_LINE, MAXIMUM_PAYLOAD, MAXIMUM_CONNECTIONS, CONNECTION_THROTTLED,
    MAXIMUM_ACCOUNT_CONNECTIONS, MAXIMUM_SUBSCRIPTIONS,
    TOO_MANY_TOKENS, AUTHORIZATION_VIOLATION, AUTHENTICATION_TIMEOUT, STALE_CONNECTION, SLOW_CONSUMER, INVALID_SUBJECT,
    INVALID_PUBLISH_SUBJECT, INVALID_CLIENT_PROTOCOL, NO_RESPONDERS_REQUIRES_HEADERS, USER_EXPIRED, ACCOUNT_EXPIRED,
    USER_REVOKED,
)  # fmt: skip


class BrokerError(Exception):
    """What people are told in one line and then the command ends with status 1; no traceback."""


class ConfigError(BrokerError):
    """The configuration cannot be used. `str()` is all its problems, one on a line."""
