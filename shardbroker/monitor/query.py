"""What monitoring is asked for: the arguments of a URL, or the options of a request to the system account.

Each endpoint has one frozen dataclass, read from either form. Values, defaults and the words of errors are nats-server's:
monitor.go decodeBool, decodeInt, decodeUint64, decodeState, decodeSubs, and its ...Options structs. An argument that
nats-server does not know is passed over, as it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from shardbroker.subject import is_literal_subject

LIMIT_DEFAULT: Final = 1024
INT_MAX: Final = (1 << 63) - 1
UINT64_MAX: Final = (1 << 64) - 1
SORTS: Final = frozenset(
    ("", "cid", "start", "subs", "pending", "msgs_to", "msgs_from", "bytes_to", "bytes_from", "last", "idle", "uptime",
     "stop", "reason", "rtt")
)  # fmt: skip
STATES: Final = ("open", "closed", "all")


class BadQuery(Exception):
    """An argument that cannot be; the text is nats-server's, the status 400."""


class BadJson(BadQuery):
    """A request's JSON that is none, or of which a field is of another type."""


class Arguments(Protocol):
    """Where the values come from. A value that is not there is empty, False or 0; one that cannot be raises BadQuery."""

    def text(self, name: str, option: str = "") -> str: ...
    def flag(self, name: str, option: str = "") -> bool: ...
    def number(self, name: str, option: str = "") -> int: ...
    def unsigned(self, name: str, option: str = "") -> int: ...
    def subs(self) -> str: ...
    def state(self) -> str: ...


class UrlArguments:
    """Of a URL: the first of several values of one name counts."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def text(self, name: str, option: str = "") -> str:
        return self._values.get(name, "")

    def flag(self, name: str, option: str = "") -> bool:
        text = self._values.get(name, "")
        if text in ("1", "t", "T", "TRUE", "true", "True"):
            return True
        if text in ("", "0", "f", "F", "FALSE", "false", "False"):
            return False
        raise BadQuery(
            f"Error decoding boolean for '{name}': strconv.ParseBool: parsing {go_quoted(text)}: invalid syntax"
        )

    def number(self, name: str, option: str = "") -> int:
        text = self._values.get(name, "")
        if not text:
            return 0
        digits = text[1:] if text[0] in "+-" else text
        what = f"Error decoding int for '{name}': strconv.Atoi: parsing {go_quoted(text)}"
        if not (digits.isascii() and digits.isdigit()):
            raise BadQuery(f"{what}: invalid syntax")
        # Twenty digits are over 64 bits, whatever they are.
        value = int(digits) if len(digits.lstrip("0")) < 20 else INT_MAX + 2
        if value > INT_MAX + (text[0] == "-"):
            raise BadQuery(f"{what}: value out of range")
        return -value if text[0] == "-" else value

    def unsigned(self, name: str, option: str = "") -> int:
        text = self._values.get(name, "")
        if not text:
            return 0
        what = f"Error decoding uint64 for '{name}': strconv.ParseUint: parsing {go_quoted(text)}"
        if not (text.isascii() and text.isdigit()):
            raise BadQuery(f"{what}: invalid syntax")
        if len(text.lstrip("0")) > 20 or int(text) > UINT64_MAX:
            raise BadQuery(f"{what}: value out of range")
        return int(text)

    def subs(self) -> str:
        if self._values.get("subs", "").lower() == "detail":
            return "detail"
        return "list" if self.flag("subs") else ""

    def state(self) -> str:
        text = self._values.get("state", "")
        try:
            return {"": "open", "open": "open", "closed": "closed", "any": "all", "all": "all"}[text.lower()]
        except KeyError:
            raise BadQuery(f"Error decoding state for {text}") from None


class JsonArguments:
    """Of a request's JSON object. Names that differ from a URL's are given as `option`."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def _get(self, name: str, kind: type, empty: Any) -> Any:
        value = self._values.get(name)
        if value is None:
            return empty
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise BadJson(f"json: cannot unmarshal into field {name}")
        return value

    def text(self, name: str, option: str = "") -> str:
        return str(self._get(option or name, str, ""))

    def flag(self, name: str, option: str = "") -> bool:
        return bool(self._get(option or name, bool, False))

    def number(self, name: str, option: str = "") -> int:
        value = int(self._get(option or name, int, 0))
        if not -INT_MAX - 1 <= value <= INT_MAX:
            raise BadJson(f"json: cannot unmarshal number {value} into field {option or name}")
        return value

    def unsigned(self, name: str, option: str = "") -> int:
        value = int(self._get(option or name, int, 0))
        if not 0 <= value <= UINT64_MAX:
            raise BadJson(f"json: cannot unmarshal number {value} into field {option or name}")
        return value

    def subs(self) -> str:
        detail = self.flag("subscriptions_detail")
        listed = self.flag("subscriptions")
        return "detail" if detail else "list" if listed else ""

    def state(self) -> str:
        number = self.number("state")
        # Others are open to nobody (monitor.go Connz has no case for them); we take them for open.
        return STATES[number] if 0 <= number < len(STATES) else "open"


@dataclass(frozen=True, slots=True)
class ConnzQuery:
    """/connz. `subs`: "", "list" or "detail"; `state`: open, closed or all."""

    sort: str = ""
    auth: bool = False
    subs: str = ""
    offset: int = 0
    limit: int = LIMIT_DEFAULT
    cid: int = 0
    state: str = "open"
    user: str = ""
    acc: str = ""
    mqtt_client: str = ""
    filter_subject: str = ""

    @classmethod
    def read(cls, given: Arguments) -> ConnzQuery:
        sort = given.text("sort")
        auth = given.flag("auth")
        subs = given.subs()
        offset, limit = given.number("offset"), given.number("limit")
        cid = given.unsigned("cid")
        state = given.state()
        if sort not in SORTS:
            raise BadQuery(f"invalid sorting option: {sort}")
        if sort in ("stop", "reason") and state != "closed":
            raise BadQuery(f"sort by {sort} only valid on closed connections")
        account, subject = given.text("acc"), given.text("filter_subject")
        if subject == ">":
            subject = ""
        if subject and not account:
            raise BadQuery("filter by subject only valid with account filtering")
        limit = 1 if cid else limit if limit > 0 else LIMIT_DEFAULT
        return cls(
            sort, auth, subs, max(offset, 0), limit, cid, state, given.text("user"), account, given.text("mqtt_client"), subject
        )


@dataclass(frozen=True, slots=True)
class SubszQuery:
    """/subsz."""

    subs: bool = False
    offset: int = 0
    limit: int = LIMIT_DEFAULT
    test: str = ""
    acc: str = ""

    @classmethod
    def read(cls, given: Arguments) -> SubszQuery:
        subs = given.flag("subs", "subscriptions")
        offset, limit = given.number("offset"), given.number("limit")
        test = given.text("test")
        if test and not is_literal_subject(test):
            raise BadQuery(f"invalid test subject, must be valid publish subject: {test}")
        return cls(subs, max(offset, 0), limit if limit > 0 else LIMIT_DEFAULT, test, given.text("acc", "account"))


@dataclass(frozen=True, slots=True)
class JszQuery:
    """/jsz. Consumers are of streams, streams of accounts: what is asked for implies what holds it."""

    account: str = ""
    accounts: bool = False
    streams: bool = False
    consumers: bool = False
    direct_consumers: bool = False
    config: bool = False
    leader_only: bool = False
    raft: bool = False
    offset: int = 0
    limit: int = LIMIT_DEFAULT

    @classmethod
    def read(cls, given: Arguments) -> JszQuery:
        accounts, streams = given.flag("accounts"), given.flag("streams")
        consumers = given.flag("consumers", "consumer")
        direct = given.flag("direct-consumers", "direct_consumer")
        config = given.flag("config")
        offset, limit = given.number("offset"), given.number("limit")
        leader, raft = given.flag("leader-only", "leader_only"), given.flag("raft")
        given.flag("stream-leader-only", "stream_leader_only")
        account = given.text("acc", "account")
        streams = streams or consumers
        accounts = accounts or (streams and not account)
        # monitor.go Jsz: 0 is the default, and what is negative is no limit.
        limit = INT_MAX if limit < 0 else limit or LIMIT_DEFAULT
        return cls(account, accounts, streams, consumers, direct, config, leader, raft, max(offset, 0), limit)


@dataclass(frozen=True, slots=True)
class HealthzQuery:
    """/healthz."""

    js_enabled_only: bool = False
    js_server_only: bool = False
    details: bool = False
    account: str = ""
    stream: str = ""
    consumer: str = ""

    @classmethod
    def read(cls, given: Arguments) -> HealthzQuery:
        enabled = given.flag("js-enabled")
        enabled = given.flag("js-enabled-only") or enabled
        server = given.flag("js-server-only")
        given.flag("js-meta-only")
        details = given.flag("details")
        return cls(enabled, server, details, given.text("account"), given.text("stream"), given.text("consumer"))


@dataclass(frozen=True, slots=True)
class AccountStatzQuery:
    """/accstatz. `accounts` empty: all of them."""

    unused: bool = False
    accounts: tuple[str, ...] = ()


def go_quoted(text: str) -> str:
    """Go's %q, as far as query arguments need it."""
    shown = "".join(
        f"\\{c}"
        if c in '"\\'
        else c
        if c.isprintable()
        else f"\\u{ord(c):04x}"
        if ord(c) > 255
        else f"\\x{ord(c):02x}"
        for c in text
    )
    return f'"{shown}"'


