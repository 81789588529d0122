"""Accounts, users, permissions and mappings in the configuration file. Source: opts.go, accounts.go."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from shardbroker.auth.model import (
    Account,
    AccountLimits,
    AuthCallout,
    Export,
    Import,
    JetStreamLimits,
    MapDestination,
    Mapping,
    MessageTrace,
    Permissions,
    ResponsePermission,
    ServiceLatency,
    SubjectPermission,
    User,
)
from shardbroker.control.config.document import parse_text
from shardbroker.control.config.settings import read_settings
from shardbroker.errors import ConfigError
from shardbroker.ipc.records import from_plain
from shardbroker.options import Options

USER_KEY = "UCNGL4W5QX66CFX6A6DCBVDH5VOHMI7B2UZZU7TXAUQQSI2JPHULCKBR"
ACCOUNT_KEY = "ABJHLOVMPA4CI6R5KLNGOB4GSLNIY7IOUPAJC4YFNDLQVIOBYQGUWVLA"


def options(text: str) -> Options:
    fields, warnings = read_settings(parse_text(text, "f", {}), "f")
    assert not warnings
    return Options(**fields)


def account(text: str, name: str = "A") -> Account:
    return {account.name: account for account in options(text).accounts}[name]


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        options(text)
    return str(caught.value)


def permissions(text: str) -> Permissions | None:
    (user,) = options(f"authorization {{ users: [{{user: u, permissions: {{ {text} }} }}] }}").users
    return user.permissions


def test_users_of_the_global_account() -> None:
    made = options(
        f"""
        authorization {{
          timeout: 0.5
          default_permissions: {{ publish: "d.>" }}
          users = [
            {{ user: alice, password: s3cret, permissions: {{ sub: a }} }}
            {{ username: "bob", pass: $2a$10$UHR6GhotWhpLsKtVP0/i6.Nh9.fuY73cWjLoJjb2sKT8KISBcUW5q
               clients: [standard, "WEBSOCKET"] }}
            {{ nkey: {USER_KEY} }}
          ]
        }}
        no_auth_user: bob"""
    )
    default = Permissions(publish=SubjectPermission(("d.>",)))
    assert made.users == (
        User("alice", "s3cret", permissions=Permissions(subscribe=SubjectPermission(("a",)))),
        User(
            "bob", "$2a$10$UHR6GhotWhpLsKtVP0/i6.Nh9.fuY73cWjLoJjb2sKT8KISBcUW5q",
            permissions=default, connection_types=("STANDARD", "WEBSOCKET"),
        ),
        User(nkey=USER_KEY, permissions=default),
    )  # fmt: skip
    assert (made.auth_timeout, made.no_auth_user, made.accounts, made.auth_required) == (0.5, "bob", (), True)
    assert "s3cret" not in repr(made)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("publish: a", Permissions(SubjectPermission(("a",)))),
        ("pub: [a, b.*]", Permissions(SubjectPermission(("a", "b.*")))),
        ("publish: []", Permissions(SubjectPermission(()))),
        ("publish: {}", Permissions()),
        ("publish: {deny: x}", Permissions(SubjectPermission(None, ("x",)))),
        ("sub: {allow: ['a q', 'b.> q.*'], deny: ['> *']}", Permissions(None, SubjectPermission(("a q", "b.> q.*"), ("> *",)))),
        ("allow_responses: true", Permissions(SubjectPermission(()), None, ResponsePermission())),
        ("allow_responses: false", Permissions()),
        ("publish: {deny: x}, allow_responses: {max: 5, expires: '1m'}",
         Permissions(SubjectPermission((), ("x",)), None, ResponsePermission(5, 60.0))),
        ("allow_responses: {max: -1, ttl: '-1s'}, publish: a",
         Permissions(SubjectPermission(("a",)), None, ResponsePermission(-1, -1.0))),
        ("allow_responses: {max: 0, expires: 0}", Permissions(SubjectPermission(()), None, ResponsePermission(1, 120.0))),
    ],
)  # fmt: skip
def test_permissions(text: str, expected: Permissions) -> None:
    assert permissions(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("publish: 'a b'", 'subject "a b" is not a valid subject'),
        ("publish: 'a..b'", 'subject "a..b" is not a valid subject'),
        ("subscribe: 'a b c'", 'subject "a b c" is not a valid subject'),
        ("subscribe: 'a. b'", 'subject "a." is not a valid subject'),
        ("subscribe: 'a b.'", 'queue "b." is not a valid queue'),
        ("subscribe: [{}]", "Expected subject permissions to be a subject"),
        ("publish: {alow: x}", "only 'allow' or 'deny' are permitted"),
        ("sb: x", 'Unknown field "sb" parsing permissions'),
        ("allow_responses: 5", "expected a boolean or a map"),
        ("allow_responses: {expires: soon}", "error parsing expires"),
    ],
)
def test_wrong_permissions(text: str, message: str) -> None:
    assert message in refused(f"authorization {{ users: [{{user: u, permissions: {{ {text} }} }}] }}")


def test_an_account_with_everything() -> None:
    made = options(
        f"""
        accounts {{
          A {{
            nkey: {ACCOUNT_KEY}
            users: [ {{user: a, password: x}}, {{nkey: {USER_KEY}}} ]
            default_permissions {{ subscribe {{ deny: x }} }}
            limits {{ max_conn: 5, max_subs: 6, max_pay: 1kb, max_leafs: 0 }}
            jetstream {{ max_mem: 1mb, max_file: 2GB, max_streams: 3, max_consumers: 4, max_bytes_required: true }}
            mappings {{ foo: bar, "o.*": [ {{dest: "p.$1", weight: 40%}}, {{destination: "q.$1", weight: 60}} ] }}
            msg_trace {{ dest: traces, sampling: "50%" }}
            exports: [
              {{ stream: "pub.>" }}
              {{ stream: "priv.*", accounts: [B] }}
              {{ stream: "own.*", account_token_position: 2 }}
              {{ service: "svc", response_type: stream, threshold: "5s", allow_trace: true }}
              {{ service: "lat", latency: {{ subject: lat.results, sampling: headers }} }}
              {{ service: "lat2", latency: lat2.results }}
            ]
          }}
          B {{
            users: [{{user: b}}]
            imports: [
              {{ stream: {{account: A, subject: "pub.x"}}, prefix: from_a }}
              {{ stream: {{account: A, subject: "priv.*"}}, to: "p.$1.q" }}
              {{ service: {{account: A, subject: svc}}, to: a.svc, share: true }}
              {{ stream: {{account: A, subject: "own.B"}}, allow_trace: true }}
            ]
          }}
          SYS {{ users: [{{user: s, pass: s}}] }}
        }}
        system_account: SYS"""
    )
    a, b, _ = made.accounts
    denied = Permissions(subscribe=SubjectPermission(None, ("x",)))
    assert a == Account(
        "A", ACCOUNT_KEY,
        exports=(
            Export("stream", "pub.>"),
            Export("stream", "priv.*", ("B",)),
            Export("stream", "own.*", account_token_position=2),
            Export("service", "svc", response_type="stream", response_seconds=5.0, allow_trace=True),
            Export("service", "lat", latency=ServiceLatency("lat.results", 0)),
            Export("service", "lat2", latency=ServiceLatency("lat2.results", 100)),
        ),
        mappings=(
            Mapping("foo", (MapDestination("bar"),)),
            Mapping("o.*", (MapDestination("p.$1", 40), MapDestination("q.$1", 60))),
        ),
        default_permissions=denied,
        limits=AccountLimits(5, 6, 1024, 0),
        jetstream=(("", JetStreamLimits(1 << 20, 2 << 30, 3, 4, max_bytes_required=True)),),
        trace=MessageTrace("traces", 50),
    )  # fmt: skip
    assert b.imports == (
        Import("stream", "A", "pub.x", "from_a.pub.x"),
        Import("stream", "A", "priv.*", "p.$1.q"),
        Import("service", "A", "svc", "a.svc", share=True),
        Import("stream", "A", "own.B", "own.B", allow_trace=True),
    )
    assert made.system_account == "SYS"
    assert made.users == (
        User("a", "x", account="A", permissions=denied),
        User(nkey=USER_KEY, account="A", permissions=denied),
        User("b", account="B"),
        User("s", "s", account="SYS"),
    )
    # A reload sends all of it to the shards.
    assert from_plain(Options, orjson.loads(orjson.dumps(made))) == made


def test_small_forms() -> None:
    assert [a.name for a in options("accounts: [A, B]").accounts] == ["A", "B"]
    assert options("mappings: { foo: bar }").accounts == (
        Account("$G", mappings=(Mapping("foo", (MapDestination("bar"),)),)),
    )
    assert options("accounts { '$SYS' { users: [{user: s, pass: t}] } }").system_account == "$SYS"
    assert account("accounts { A { jetstream: enabled } }").jetstream == (("", JetStreamLimits()),)
    assert account("accounts { A { jetstream: disabled } }").jetstream == ()
    assert account("accounts { A { trace_dest: t } }").trace == MessageTrace("t", 100)
    # A variable inside a block is no account.
    assert [a.name for a in options("accounts { p: 5, A { limits {max_conn: $p} } }").accounts] == ["A"]


A_EXPORTS = """A { exports: [
    {service: a}, {stream: s}, {service: 'w.*.*'}, {stream: 'own.*', account_token_position: 2}, {stream: p, accounts: [C]}
] }, C {}"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("accounts { A { userz: [] } }", 'f:1:16: unknown field "userz"'),
        ("accounts { $G { } }", '"$G" is a Reserved Account'),
        ("accounts { '$G' { } }", '"$G" is a Reserved Account'),
        ("accounts [A, A]", "Duplicate Account Entry: A"),
        ("accounts { A: b }", "Expected map entries for accounts"),
        ("accounts { A { nkey: x } }", "Not a valid public nkey for an account"),
        ("accounts { A { users: b } }", "Expected users field to be an array"),
        ("accounts { A { users: [b] } }", "Expected user entry to be a map/struct"),
        ("accounts { A { users: [{pass: b}] } }", "User entry requires a user"),
        ("accounts { A { users: [{nkey: b}] } }", "Not a valid public nkey for a user"),
        (f"accounts {{ A {{ users: [{{nkey: {USER_KEY}, user: a}}] }} }}", "do not take usernames or passwords"),
        ("accounts { A { users: [{user: b, clients: [X]}] } }", "invalid connection types"),
        ("accounts { A { users: [{user: b}] }, B { users: [{user: b}] } }", 'Duplicate user "b" detected'),
        ("accounts { A { users: [{user: b}] } }; authorization { user: x }", "single user/pass and a users array"),
        ("accounts { A { users: [{user: b}] } }; authorization { token: x }", "token and a users array"),
        ("accounts { A { limits { max_foo: 1 } } }", 'Unknown field "max_foo" parsing account limits'),
        ("accounts { A { limits { max_conn: 5000000000 } } }", "too big"),
        ("accounts { A { exports: x } }", "Exports should be an array"),
        ("accounts { A { exports: [x] } }", "Export Items should be a map with type entry"),
        ("accounts { A { exports: [{stream: a, service: b}] } }", "already saw a service"),
        ("accounts { A { exports: [{accounts: [A]}] } }", "needs a stream or a service"),
        ("accounts { A { exports: [{stream: a, response_type: stream}] } }", "response directive on non-service"),
        ("accounts { A { exports: [{stream: a, latency: b}] } }", "latency directive on non-service"),
        ("accounts { A { exports: [{service: a, response_type: x}] } }", 'Unknown response type: "x"'),
        ("accounts { A { exports: [{service: a, threshold: x}] } }", "parseable time duration"),
        ("accounts { A { exports: [{service: a, latency: {sampling: 5}}] } }", "Latency subject required"),
        ("accounts { A { exports: [{service: a, latency: {subject: b, sampling: 101}}] } }", "1 to 100"),
        ("accounts { A { exports: [{service: a, latency: {subject: a}}] } }", "invalid publish subject"),
        ("accounts { A { exports: [{service: a, response: stream, latency: b}] } }", "bad service response type"),
        ("no_system_account: true\naccounts { A { exports: [{service: a, latency: b}] } }", "system account not setup"),
        ("accounts { A { exports: [{stream: 'a..b'}] } }", "invalid subject"),
        ("accounts { A { exports: [{stream: 'a.b', account_token_position: 2}] } }", "invalid subject"),
        ("accounts { A { exports: [{stream: a, accounts: [X]}] } }", '"X" account not defined for stream export'),
        ("accounts { A { imports: [{stream: x}] } }", "Stream entry should be an account map"),
        ("accounts { A { imports: [{stream: {account: X, subject: y}}] } }", '"X" account not defined for stream import'),
        ("mappings { foo: [{dest: a}] }", 'Missing weight for mapping destination "a"'),
        ("mappings { foo: [{dest: a, weight: 60}, {dest: b, weight: 60}] }", "total weight needs to be <= 100"),
        ("mappings { foo: [{dest: a, weight: 101}] }", "0 to 100"),
        ("mappings { foo: [{dest: a, weight: 10}, {dest: a, weight: 5}] }", 'duplicate entry for "a"'),
        ("mappings { 'foo.*': 'bar.$2' }", "wildcard index out of range"),
        ("mappings { 'foo..': bar }", 'Subject "foo.." is not a valid subject'),
        ("no_auth_user: x", "but users/nkeys are not defined"),
        ("no_auth_user: x; authorization { users: [{user: y}] }", "not present as user or nkey"),
        ("system_account: X", "account missing"),
        ("authorization { users: [], auth_callout { issuer: x } }", "valid public account nkey"),
    ],
)  # fmt: skip
def test_wrong(text: str, message: str) -> None:
    assert message in refused(text)


@pytest.mark.parametrize(
    ("imports", "message"),
    [
        ("{stream: {account: A, subject: x}}", "stream import not authorized"),
        ("{stream: {account: A, subject: p}}", "stream import not authorized"),
        ("{stream: {account: A, subject: own.C}}", "stream import not authorized"),
        ("{stream: {account: A, subject: 'own.*'}}", "stream import not authorized"),
        ("{service: {account: A, subject: s}}", "service import not authorized"),
        ("{service: {account: A, subject: 'w.*.*'}, to: 'x.$1'}", "not using all"),
        ("{stream: {account: A, subject: s}}, {stream: {account: A, subject: s}, to: t}", "already exists"),
        ("{stream: {account: A, subject: s}, to: t, prefix: q}", "'prefix' and a 'to'"),
        ("{stream: {account: A, subject: s}, prefix: 'q.*'}", "can not contain wildcard"),
    ],
)
def test_wrong_imports(imports: str, message: str) -> None:
    assert message in refused(f"accounts {{ {A_EXPORTS}, B {{ imports: [{imports}] }} }}")


@pytest.mark.parametrize("kind", ["stream", "service"])
def test_imports_form_no_cycle(kind: str) -> None:
    """CVE-2020-28466, CVE-2022-42709: over two accounts, over three, and by wildcards."""

    def account(name: str, other: str, exported: str, imported: str) -> str:
        return (
            f"{name} {{ exports: [{{{kind}: '{exported}'}}], "
            f"imports: [{{{kind}: {{account: {other}, subject: '{imported}'}}}}] }}"
        )

    two = account("A", "B", "x", "x"), account("B", "A", "x", "x")
    three = account("A", "B", "x.>", "x.y"), account("B", "C", "x.*", "x.*"), account("C", "A", ">", "x.>")
    for accounts in (two, three):
        assert "import forms a cycle" in refused(f"accounts {{ {', '.join(accounts)} }}")
    own = account("A", "A", "x", "x")
    assert "import forms a cycle" in refused(f"accounts {{ {own} }}")
    chain = account("A", "B", "a", "b"), account("B", "C", "b", "c"), f"C {{ exports: [{{{kind}: c}}] }}"
    assert len(options(f"accounts {{ {', '.join(chain)} }}").accounts) == 3


def test_many_imports_are_checked_in_time() -> None:
    """A ladder of accounts has 2**n ways from its top to its bottom; each step is looked at once."""
    steps = []
    for at in range(60):
        imports = (
            [] if at == 59 else [f"{{stream: {{account: {side}{at + 1}, subject: s}}}}" for side in "LR"]
        )
        steps += [
            f"{side}{at} {{ exports: [{{stream: s}}], imports: [{', '.join(imports)}] }}" for side in "LR"
        ]
    assert len(options(f"accounts {{ {', '.join(reversed(steps))} }}").accounts) == 120


def test_callout() -> None:
    made: Any = options(
        f"authorization {{ users: [{{user: auth, pass: p}}], auth_callout {{ issuer: {ACCOUNT_KEY}, auth_users: [auth], "
        "allowed_accounts: [B] } }; accounts { B {} }"
    ).auth_callout
    assert made == AuthCallout(ACCOUNT_KEY, "$G", ("auth",), "", ("B",))


def test_all_errors_are_told() -> None:
    text = "accounts {\n A { users: [{pass: x}]\n  foo: 1 }\n B { limits { bar: 1 } }\n}\nno_auth_user: z"
    assert len(refused(text).splitlines()) == 4
