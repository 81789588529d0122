"""Every construct that the samples of nats.conf in NATS's documentation show, in configurations of our own.

A sample's form (what stands between key and value, quotes, commas, variables, blocks) and its keys are what counts; each
line here says what must take effect, be warned about, or be refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.jwts import Estate, Signer
from shardbroker.control.config.document import parse_text
from shardbroker.control.config.settings import read_settings
from shardbroker.errors import ConfigError
from shardbroker.options import Options

estate = Estate()
ISSUER, XKEY = Signer("account", "issuer").public, "XAMHJVPKHHPYZQQM2IVWXKJH36KDDZZMSJ32QKSQBUODFX4I4HARO4GL"
NKEY = Signer("user", "n").public
HASH = "$2a$11$DRh4C0KNbNnD8K/hb/buWe1zPxEHrLEiDmuq1Mi0rRJiH/W25Qidm"
OPERATOR, ACCOUNT = estate.operator_token(), estate.account_token(estate.a)
ENVIRONMENT = {"TOKEN": "of-the-environment", "LEVEL": "true"}


def read(text: str) -> tuple[Options, list[str]]:
    fields, warnings = read_settings(parse_text(text, "f", ENVIRONMENT), "f")
    return Options(**fields), warnings


def user(o: Options, name: str) -> Any:
    (found,) = [user for user in o.users if name in (user.name, user.nkey)]
    return found


def account(o: Options, name: str) -> Any:
    (found,) = [account for account in o.accounts if account.name == name]
    return found


SERVED: list[tuple[str, Callable[[Options], object], object]] = [
    # -- forms --
    ("listen: 127.0.0.1:4333", lambda o: (o.host, o.port), ("127.0.0.1", 4333)),
    ("listen=4333\nserver_name=one-two", lambda o: (o.port, o.server_name), (4333, "one-two")),
    ("port:4333\nhost: 0.0.0.0", lambda o: (o.port, o.host), (4333, "0.0.0.0")),
    ("port 4333; host '::1'", lambda o: (o.port, o.host), (4333, "::1")),
    ("{ port: 4333, debug: yes }", lambda o: (o.port, o.debug), (4333, True)),
    ("  # a comment\n// another\nport: 4333 # and one behind", lambda o: o.port, 4333),
    ('"port": 4333,\n\'debug\': true', lambda o: (o.port, o.debug), (4333, True)),
    ("PORT: 4333", lambda o: o.port, 4333),
    ("port: 4333\n}\n", lambda o: o.port, 4333),
    ("mappings: {\n a.> b.a.>}\n}\n", lambda o: account(o, "$G").mappings[0].source, "a.>"),
    ("max_payload: 2M", lambda o: o.max_payload, 2_000_000),
    ("max_payload: 2MB", lambda o: o.max_payload, 2 << 20),
    ("max_pending: 1Gi", lambda o: o.max_pending, 1 << 30),
    ("ping_interval: 20s\nwrite_deadline: '3s'", lambda o: (o.ping_interval, o.write_deadline), (20.0, 3.0)),
    ("lame_duck_duration: 1m30s", lambda o: o.lame_duck_duration, 90.0),
    ("debug: $LEVEL", lambda o: o.debug, True),
    ("server_tags: [ 'a:b', c\n d ]", lambda o: o.server_tags, ("a:b", "c", "d")),
    ("server_tags: one", lambda o: o.server_tags, ("one",)),
    # -- who may come in --
    ("authorization: { token: 3x }", lambda o: o.token, "3x"),
    ('authorization: { token: "3x" }', lambda o: o.token, "3x"),
    ("T: word\nauthorization { token: $T }", lambda o: o.token, "word"),
    ("authorization { token: $TOKEN }", lambda o: o.token, "of-the-environment"),
    (f'authorization {{ token: "{HASH}" }}', lambda o: o.token, HASH),
    ("authorization { user: a, password: b, timeout: 3 }", lambda o: (o.user, o.auth_timeout), ("a", 3.0)),
    ("authorization: { users: [ {user: a, password b}, {user: b, password a} ] }", lambda o: user(o, "b").password, "a"),
    (f"authorization {{ users = [ {{user: a, pass: {HASH}}} ] }}", lambda o: user(o, "a").password, HASH),
    (f"authorization: {{ users: [ {{ nkey: {NKEY} }} ] }}", lambda o: user(o, NKEY).nkey, NKEY),
    ('authorization { users = [ {user: "CN=x y,O=a b"} ] }', lambda o: user(o, "CN=x y,O=a b").name, "CN=x y,O=a b"),
    ("""authorization {
          perms = { publish = ["a"], subscribe = ["b", "$MQTT.sub.>"] }
          users = [ {user: m, password: p, permissions: $perms, allowed_connection_types: ["MQTT"]} ] }""",
     lambda o: (user(o, "m").permissions.subscribe.allow, user(o, "m").connection_types), (("b", "$MQTT.sub.>"), ("MQTT",))),
    ("authorization { default_permissions = { publish = SANDBOX.*, subscribe = [PUBLIC.>, _INBOX.>] }\n"
     " ADMIN = { publish = '>', subscribe = '>' }\n"
     " users = [ {user: a, password: x, permissions: $ADMIN}, {user: b, password: y} ] }",
     lambda o: (user(o, "a").permissions.publish.allow, user(o, "b").permissions.publish.allow), ((">",), ("SANDBOX.*",))),
    ("authorization { users: [ {user: a, password: x, permissions: { publish: { deny: '>' }, subscribe: { allow: c.> }\n"
     " allow_responses: { max: 5, expires: 1m } } } ] }",
     lambda o: (user(o, "a").permissions.publish.deny, user(o, "a").permissions.responses.max_messages,
                user(o, "a").permissions.responses.expires), ((">",), 5, 60.0)),
    ("authorization { users: [ {user: a, password: x, permissions: { allow_responses: true } } ] }",
     lambda o: user(o, "a").permissions.responses.max_messages, 1),
    ("accounts: { A: { users: [ {user: a, password: a} ] }, B: { users: [ {user: b, password: b} ] }, }\nno_auth_user: a",
     lambda o: (user(o, "b").account, o.no_auth_user), ("B", "a")),
    (f"accounts {{ $SYS {{ users = [ {{ user: \"a\",\n pass: \"{HASH}\"\n }} ] }} }}", lambda o: user(o, "a").account, "$SYS"),
    ("accounts { SYS: { users: [ {user: s, password: s} ] }, APP: {} }\nsystem_account: SYS", lambda o: o.system_account, "SYS"),
    (f"accounts {{ N {{ nkey: {estate.a.public}, users [ {{nkey: {NKEY}}} ] }} }}",
     lambda o: account(o, "N").nkey, estate.a.public),
    ("""accounts: { A: { users: [ {user: a, password: a} ]
            exports: [ {stream: p.>}, {service: q.>}, {stream: b.>, accounts: [B]}, {service: s, accounts: [B]
                       response_type: stream} ] },
          B: { imports: [ {stream: {account: A, subject: p.>}, prefix: from}
                          {service: {account: A, subject: q.B}, to: Q} ] } }""",
     lambda o: (len(account(o, "A").exports), [made.to for made in account(o, "B").imports]), (4, ["from.p.>", "Q"])),
    ("accounts { A { msg_trace { dest: t.a, sampling: 5 } } }",
     lambda o: (account(o, "A").trace.destination, account(o, "A").trace.sampling), ("t.a", 5)),
    (f"authorization {{ users: [ {{ user: auth, password: auth }} ]\n"
     f" auth_callout {{ issuer: {ISSUER}, auth_users: [ auth ] }} }}",
     lambda o: (o.auth_callout.account, o.auth_callout.issuer) if o.auth_callout else None, ("$G", ISSUER)),
    (f"accounts {{ AUTH: {{ users: [ {{ user: auth, password: auth }} ] }}, APP: {{}}, SYS: {{}} }}\nsystem_account: SYS\n"
     f"authorization {{ auth_callout {{ issuer: {ISSUER}, auth_users: [ auth ], account: AUTH, xkey: {XKEY} }} }}",
     lambda o: (o.auth_callout.account, o.auth_callout.xkey) if o.auth_callout else None, ("AUTH", XKEY)),
    # -- mappings --
    ("mappings = { a: b, c.*.*: d.$2.$1\n e.f : [ { destination: g, weight:100% } ] }",
     lambda o: [m.source for m in account(o, "$G").mappings], ["a", "c.*.*", "e.f"]),
    ("mappings = { a.*: [ { destination: b.$1, weight: 80% }, { destination: c.$1, weight: 20% } ]\n"
     " d.>: [ {destination: d.>, weight: 50%} ] }",
     lambda o: [[(d.destination, d.weight) for d in m.destinations] for m in account(o, "$G").mappings],
     [[("b.$1", 80), ("c.$1", 20)], [("d.>", 50)]]),
    ('mappings = { "a.*": "b.{{partition(3,1)}}.{{wildcard(1)}}" }',
     lambda o: account(o, "$G").mappings[0].destinations[0].destination, "b.{{partition(3,1)}}.{{wildcard(1)}}"),
    ("accounts: { A: { mappings: { o.*: p.$1 } } }", lambda o: account(o, "A").mappings[0].destinations[0].destination, "p.$1"),
    # A destination for servers of a cluster, which this is not.
    ("mappings { a: [ { destination: b, weight: 100%, cluster: c1 } ] }",
     lambda o: account(o, "$G").mappings[0].destinations[0].cluster, "c1"),
    # -- streams --
    ("jetstream: enabled", lambda o: o.jetstream.enabled, True),
    ("jetstream: true\nstore_dir: /s", lambda o: (o.jetstream.enabled, o.jetstream.store_dir), (True, "/s")),
    ("jetstream { store_dir=/n/s }", lambda o: (o.jetstream.enabled, o.jetstream.store_dir), (True, "/n/s")),
    ("jetstream { store_dir: n, max_memory_store: 1073741824, max_file_store: 2G }",
     lambda o: (o.jetstream.max_memory, o.jetstream.max_store), (1 << 30, 2_000_000_000)),
    ("jetstream { max_mem: 1G, max_file: 100G, domain: acme, sync_interval: always, strict: false, request_queue_limit: 1000 }",
     lambda o: (o.jetstream.domain, o.jetstream.max_memory), ("acme", 10**9)),
    ("jetstream {}\naccounts { A: { jetstream: enabled }, B { jetstream { max_mem: 512M, max_file: 1G, max_streams: 10\n"
     " max_consumers: 100 } }, C { jetstream { } } }",
     lambda o: [bool(account(o, name).jetstream) for name in "ABC"] + [account(o, "B").jetstream[0][1].max_streams],
     [True, True, True, 10]),
    # -- listeners, logs --
    ("http_port: 8333", lambda o: o.http_port, 8333),
    ("http: localhost:8333", lambda o: (o.http_host, o.http_port), ("localhost", 8333)),
    ("https: 127.0.0.1:8333", lambda o: (o.http_host, o.https_port), ("127.0.0.1", 8333)),
    ("debug:   false\ntrace:   true\nlogtime: false\nlogfile_size_limit: 1GB\nlogfile_max_num: 9\nlog_file: '/l'",
     lambda o: (o.debug, o.trace, o.logtime, o.log_size_limit, o.log_max_files, o.log_file),
     (False, True, False, 1 << 30, 9, "/l")),
    ("tls: { cert_file: 'c', key_file: \"./k\", timeout: 5 }\nallow_non_tls: true",
     lambda o: (o.tls.cert_file, o.tls.key_file, o.tls.timeout, o.allow_non_tls) if o.tls else None, ("c", "./k", 5.0, True)),
    ("tls { cert_file: c, key_file: k, ca_file: a, verify: true, connection_rate_limit: 9, handshake_first: 300ms }",
     lambda o: (o.tls.verify, o.tls.connection_rate_limit, o.tls.handshake_first_fallback) if o.tls else None, (True, 9, 0.3)),
    ("tls { cert_file: c, key_file: k, ca_file: a, verify_and_map: true, min_version: '1.3' }",
     lambda o: (o.tls.verify, o.tls.verify_and_map, o.tls.min_version) if o.tls else None, (True, True, "1.3")),
    ("websocket { port: 8080, no_tls: true, same_origin: false, compression: true, handshake_timeout: '3s' }",
     lambda o: (o.websocket.port, o.websocket.no_tls, o.websocket.compression), (8080, True, True)),
    ("websocket { listen: 'h:443', tls { cert_file: c, key_file: k }, allowed_origins ['http://a', 'https://b:1']\n"
     " user_cookie: j, authorization { username: u, password: p, timeout: 1 } }",
     lambda o: (o.websocket.host, o.websocket.port, o.websocket.allowed_origins), ("h", 443, ("http://a", "https://b:1"))),
    # -- operators --
    (f"operator: {OPERATOR}\nresolver: MEMORY\nresolver_preload: {{ {estate.a.public}: {ACCOUNT} }}",
     lambda o: o.operator_mode.preload[0][0] if o.operator_mode else "", estate.a.public),
    (f"operator: {OPERATOR}\nresolver: {{ type: full\n dir: './jwt'\n allow_delete: false\n interval: \"2m\"\n limit: 1000 }}",
     lambda o: o.operator_mode.resolver.directory if o.operator_mode and o.operator_mode.resolver else "", "./jwt"),
    (f"operator: {OPERATOR}\nresolver: URL(http://localhost:9090/jwt/v1/accounts/)",
     lambda o: o.operator_mode.resolver.url if o.operator_mode and o.operator_mode.resolver else "",
     "http://localhost:9090/jwt/v1/accounts/"),
    (f"operator: {OPERATOR}\nresolver: URL(https://h/x)\nresolver_tls {{ ca_file: a, cert_file: c, key_file: k }}",
     lambda o: o.operator_mode.resolver.ca_file if o.operator_mode and o.operator_mode.resolver else "", "a"),
    ("ocsp: false", lambda o: o.tls, None),
    ("shardbroker { workers: 3, ring_size: 8MiB }", lambda o: (o.workers, o.ring_bytes), (3, 8 << 20)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "get", "wanted"), SERVED, ids=[text[:40].split("\n")[0] for text, _, _ in SERVED])
def test_takes_effect(text: str, get: Callable[[Options], object], wanted: object) -> None:
    made, warnings = read(text)
    assert get(made) == wanted
    assert warnings == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cluster { name: C1, listen: 0.0.0.0:6333, routes: [ nats://b:6222\n nats://c:6222 ] }", "cluster: "),
        ("cluster { host: 127.0.0.1, port: 4248 }", "cluster: "),
        ("cluster { name: x, listen: localhost:4244, authorization { user: r, password: p, timeout: 0.5 } }", "cluster: "),
        ("cluster { port: 1, pool_size: 3 }", "pool_size"),
        ("cluster { port: 1, accounts: [a, b] }", "accounts"),
        ("cluster { port: 1, compression: { mode: s2_auto, rtt_thresholds: [10ms, 50ms] } }", "compression"),
        ("leafnodes { port: 7422 }", "leaf nodes are not served"),
        ("leafnodes: { port: 7422, tls { handshake_first: true } }", "leaf nodes are not served"),
        ("mqtt { listen: 127.0.0.1:1883 }", "MQTT is not served"),
        ("mqtt { port: 1883, tls { cert_file: c }, no_auth_user: m, ack_wait: '1m', max_ack_pending: 9 }", "MQTT is not served"),
        ("jetstream { limits { max_ha_assets = 2000 } }", "max_ha_assets"),
        ("jetstream { max_buffered_msgs: 50000, max_buffered_size: 268435456 }", "max_buffered_msgs"),
        ("jetstream { unique_tag: az }", "unique_tag"),
        ("prof_port: 65432", "prof_port"),
        ("ocsp: true", "ocsp"),
        ("feature_flags { js_ack_fc_v2: true }", "feature_flags"),
    ],
)  # fmt: skip
def test_is_warned_about(text: str, says: str) -> None:
    _, warnings = read(text)
    assert any(says in warning and warning.startswith("f:") for warning in warnings), warnings


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gateway { name: A, listen: 'localhost:7222', gateways: [ {name: A, url: 'nats://u:p@h:7222'} ] }", "gateways"),
        ("leafnodes { remotes: [ { url: 'nats://u:p@localhost' } ] }", "leaf nodes are not served"),
        ("leafnodes { remotes = [ { urls: ['tls://h:1'], account: $SYS, credentials: '/c' } ] }", "leaf nodes are not served"),
        ("cluster { listen: 'h:1', tls { cert_file: c, key_file: k, ca_file: a } }", "talk in the clear"),
        ("ocsp { mode: must, url: 'http://o' }", "mode must promises"),
        ("ocsp { mode: always }", "mode always promises"),
        ("jetstream { cipher: chachapoly, key: abc }", "stores are not encrypted"),
        (f"operator: {OPERATOR}\nresolver: {{ type: cache, dir: './', limit: 1000, ttl: '2m' }}", "a cache needs other servers"),
        ("tls { cert_file: c, key_file: k, ocsp_peer: true }", "ocsp_peer"),
        ("authorization { token: $NOWHERE }", "variable reference for 'NOWHERE'"),
        ("streaming { cluster_id: x }", 'unknown field "streaming"'),
    ],
)  # fmt: skip
def test_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text.replace("$SYS", "'$SYS'"))
    assert says in str(caught.value)
