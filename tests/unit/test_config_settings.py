"""What keys of a file mean, which are refused, which are warned about. Source: opts.go processConfigFileLine."""

from __future__ import annotations

from typing import Any

import pytest

from shardbroker.control.config.document import parse_text
from shardbroker.control.config.settings import SETTINGS, read_settings
from shardbroker.control.config.values import duration, size
from shardbroker.errors import ConfigError
from shardbroker.options import ClusterSettings, JetStreamSettings, Options, TlsSettings, WebSocketSettings


def read(text: str) -> tuple[dict[str, Any], list[str]]:
    return read_settings(parse_text(text, "f", {}), "f")


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("port: -1", {"port": -1}),
        ("PORT: 1; Host: a", {"port": 1, "host": "a"}),
        ("net: ::1", {"host": "::1"}),
        ("listen: 127.0.0.1:-1", {"host": "127.0.0.1", "port": -1}),
        ("listen: 4333", {"port": 4333}),
        ("listen: '[::1]:5'", {"host": "::1", "port": 5}),
        ("http: 127.0.0.1:-1", {"http_host": "127.0.0.1", "http_port": -1}),
        ("http: 8222", {"http_port": 8222}),
        ("http_port: 8222", {"http_port": 8222}),
        ("monitor_port: 1", {"http_port": 1}),
        ("server_name: 123", {"server_name": "123"}),
        ("server_tags: one", {"server_tags": ("one",)}),
        ("server_tags: [a:b\n 5]", {"server_tags": ("a:b", "5")}),
        ("server_metadata { a: b, n: 1 }", {"server_metadata": {"a": "b", "n": "1"}}),
        ("max_payload: 1MB", {"max_payload": 1 << 20}),
        ("max_payload: -1", {"max_payload": 2**31 - 1}),
        ("max_connections: 0", {"max_connections": -1}),
        ("max_conn: 7", {"max_connections": 7}),
        ("max_subs: -1", {"max_subscriptions": 0}),
        ("max_subscription_tokens: 8", {"max_sub_tokens": 8}),
        ("write_deadline: '200ms'", {"write_deadline": 0.2}),
        ("write_deadline: 200ms", {"write_deadline": 0.2}),
        ("ping_interval: 2m", {"ping_interval": 120.0}),
        ("ping_interval: '1h1m1.5s'", {"ping_interval": 3661.5}),
        ("lame_duck_duration: 30s; lame_duck_grace_period: 0", {"lame_duck_duration": 30.0, "lame_duck_grace_period": 0.0}),
        ("trace_verbose: true", {"trace": True, "trace_verbose": True}),
        ("debug: on; trace: yes; logtime: no", {"debug": True, "trace": True, "logtime": False}),
        ("logfile: /x/y; pidfile: z", {"log_file": "/x/y", "pid_file": "z"}),
        ("authorization { user: a, pass: b, timeout: 1 }",
         {"user": "a", "password": "b", "auth_timeout": 1.0, "auth_block": True}),
        ("authorization { username: a, password: 12 }", {"user": "a", "password": "12", "auth_block": True}),
        ("authorization { token: T0P, timeout: 0.5 }", {"token": "T0P", "auth_timeout": 0.5, "auth_block": True}),
        ("authorization { token: t, timeout: '2m' }", {"token": "t", "auth_timeout": 120.0, "auth_block": True}),
        ("workers: 3; ring_bytes: 64ki", {"workers": 3, "ring_bytes": 65536}),
        ("workers: auto; spin: 50us", {"workers": "auto", "spin": pytest.approx(50e-6)}),
        ("write_timeout: close", {}),
        ("allow_non_tls: true; no_system_account: true", {"allow_non_tls": True, "no_system_account": True}),
        ("tls: {}; accounts: {}; jetstream: false", {"tls": None, "jetstream": JetStreamSettings()}),
        ("shardbroker { workers: 2, ring_size: 64ki, control_ring_size: 8ki, overflow_size: 1mb, spin: 50us }",
         {"workers": 2, "ring_bytes": 65536, "control_ring_bytes": 8192, "overflow_bytes_max": 1 << 20,
          "spin": pytest.approx(50e-6)}),
        ("jetstream: enabled; store_dir: x", {"jetstream": JetStreamSettings(enabled=True, store_dir="x")}),
        ("jetstream { store_dir: x, max_mem: 1G, max_file: 10gb, domain: d, sync_interval: 2m }",
         {"jetstream": JetStreamSettings(True, "x", 10**9, 10 << 30, 120.0, "d")}),
        ("jetstream { sync_interval: always, max_mem: '1G', limits { max_ack_pending: 7, duplicate_window: 1h } }",
         {"jetstream": JetStreamSettings(True, max_memory=1 << 30, max_ack_pending=7, duplicate_window=3600.0)}),
        ("websocket { listen: '[::1]:-1', no_tls: true, origins: ['http://a'], compression: on, authorization { user: u } }",
         {"websocket": WebSocketSettings("::1", -1, no_tls=True, allowed_origins=("http://a",), compression=True, user="u")}),
        ("tls { cert_file: c, key_file: k, verify_and_map: true, handshake_first: auto, min_version: '1.3', timeout: 3 }",
         {"tls": TlsSettings("c", "k", verify=True, verify_and_map=True, timeout=3.0, min_version="1.3",
                             handshake_first=True, handshake_first_fallback=0.05)}),
        ("x: 5; port: $x", {"port": 5}),
    ],
)  # fmt: skip
def test_served(text: str, fields: dict[str, Any]) -> None:
    got, warnings = read(text)
    got.pop("lame_duck_grace_period", None) if "lame_duck_grace_period" not in fields else None
    assert got == fields
    assert all("should be converted" in w or "is high" in w for w in warnings)
    Options(**got)


def test_unknown_keys_are_all_told_with_their_place() -> None:
    assert refused('port: 1\nfoo: 3\n  bar = 2\n"baz" {\n port: 2 }') == (
        'f:2:1: unknown field "foo"\nf:3:3: unknown field "bar"\nf:4:2: unknown field "baz"'
    )
    assert refused("authorization {\n  user: a\n  usr: b\n}") == 'f:3:3: unknown field "usr"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\nport: x", "f:2:1: port: expected an integer, got a string"),
        ("port: 70000", "f:1:1: port: 70000 is no port"),
        ("port: 1.5", "f:1:1: port: expected an integer"),
        ("listen: x", 'f:1:1: listen: could not parse address string "x"'),
        ("listen: a:b", 'could not parse port "b"'),
        ("debug: 1", "f:1:1: debug: expected true or false, got a number"),
        ("host: {}", "expected a string, got a map"),
        ("server_name: 'a b'", "server name cannot contain spaces"),
        ("server_tags: {a: b}", "expected a string"),
        ("server_metadata: x", "expected a map"),
        ("max_payload: 3g", "max_payload: value is too big"),
        ("max_control_line: 4294967296", "max_control_line: value is too big"),
        ("max_sub_tokens: 256", "value is too big"),
        ("max_sub_tokens: 0", "value can not be negative"),
        ("write_deadline: soon", 'time: invalid duration "soon"'),
        ("write_deadline: '5'", 'time: missing unit in duration "5"'),
        ("write_deadline: '-5s'", "needs to be positive"),
        # More than what a shard's clock can be told.
        ("write_deadline: '9999999h'", 'time: invalid duration "9999999h"'),
        ("ping_interval: 9223372036854775807", "more than 100 years"),
        ("authorization { timeout: 9223372036854775807 }", "timeout: more than 100 years"),
        ("authorization { timeout: -1 }", "timeout: needs to be positive"),
        ("websocket { handshake_timeout: '-1s' }", "needs to be positive"),
        ("ping_max: -1", "value can not be negative"),
        ("ping_max: 4294967296", "value is too big"),
        ("max_subscriptions: 9223372036854775807", "value is too big"),
        ("jetstream { domain: a.b }", "invalid domain name: may not contain ., * or >"),
        ("jetstream { domain: 'a b' }", 'derived "$JS.a b.API.>" is not a valid subject'),
        ("authorization { users: [{user: a, password: b}], auth_callout { auth_users: [a], allowed_accounts: [Z], issuer: "
         "ABJHLOVMPA4CI6R5KLNGOB4GSLNIY7IOUPAJC4YFNDLQVIOBYQGUWVLA } }",
         'f:1:1: auth_callout allowed account "Z" not found in configured accounts'),
        ("lame_duck_duration: 29s", "minimum is 30 seconds"),
        ("write_timeout: maybe", "write_timeout must be"),
        ("workers: 65", "1 to 64"),
        ("ring_bytes: 5000", "power of two"),
        ("authorization { user: a, pass: b, token: c }", "Cannot have a user/pass and token"),
        ("authorization: { user: a, passwrd: b }", 'unknown field "passwrd"'),
        ("jetstream { store_dir: x }; store_dir: y", "Duplicate 'store_dir'"),
        ("jetstream { max_mem: '10X' }", "sizes defined as strings must end in K, M, G, T"),
        ("jetstream { key: secret }", "f:1:13: key: stores are not encrypted, so messages would lie in the clear; put "),
        ("jetstream { cipher: aes }", "an encrypted file system instead"),
        ("jetstream { tpm { keys_file: x } }", "an encrypted file system instead"),
        ("ocsp { mode: must }", "instead: certificates of short life, or a proxy that staples"),
        ("tls { cert_file: c }", "missing 'key_file'"),
        ("tls { cert_file: c, key_file: k, cipher_suites: [TLS_X] }", "unrecognized cipher TLS_X"),
        ("tls { cert_file: c, key_file: k, cipher_suites: [TLS_RSA_WITH_RC4_128_SHA] }", "insecure cipher suites"),
        ("tls { cert_file: c, key_file: k, cipher_suites: [] }", "'cipher_suites' cannot be empty"),
        ("tls { cert_file: c, key_file: k, min_version: '1.1' }", "unsupported TLS version"),
        ("tls { cert_file: c, key_file: k, pinned_certs: [ab] }", "does not look like hex-encoded sha256"),
        ("websocket { prt: 1 }", 'unknown field "prt"'),
        ("authorization: x", "expected a map"),
    ],
)
def test_wrong_values(text: str, message: str) -> None:
    assert message in refused(text)


def test_no_secret_is_in_a_message() -> None:
    for text in (
        "authorization { pass: [s3cret] }",
        "authorization { pass: $2a$s3cret, foo: 1 }",
        "authorization { token: s3cret, user: s3cret }",
    ):
        assert "s3cret" not in refused(text)


@pytest.mark.parametrize(
    "text",
    [
        "gateway { name: x }",
        "cluster { listen: 1, routes: [ tls://a:1 ] }", "cluster { tls { cert_file: x } }",
        "leafnodes { remotes: [ {url: nats://a} ] }",
        "authorization { proxy_required: true }",
    ],
)  # fmt: skip
def test_what_would_be_unsafe_to_ignore_is_refused(text: str) -> None:
    message = refused(text)
    assert message.startswith("f:1:")
    assert "not served yet" in message


@pytest.mark.parametrize(
    "text",
    [
        "leafnodes { listen: 127.0.0.1:-1 }", "mqtt { port: 1883 }",
        "prof_port: 1", "disable_sublist_cache: true", "ocsp: true", "ocsp {}", "ocsp { mode: auto }",
        "connect_error_reports: 1", "feature_flags { x: true }", "write_timeout: retry",
    ],
)  # fmt: skip
def test_what_is_harmless_is_warned_about(text: str) -> None:
    fields, warnings = read(text)
    assert fields == {}
    assert len(warnings) == 1
    assert warnings[0].startswith("f:1:1: ")


@pytest.mark.parametrize("text", ["ocsp: false", "ocsp { mode: never }", "ocsp { mode: Never, url: x }"])
def test_no_staple_is_wanted(text: str) -> None:
    assert read(text) == ({}, [])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ocsp { mode: always }", "cannot be stapled"), ("ocsp { mode: MUST, urls: [x] }", "cannot be stapled"),
        ("ocsp { mode: perhaps }", "unsupported ocsp mode"), ("ocsp { mood: never }", "unsupported field"),
        ("ocsp: 5", "a truth value or a block"),
    ],
)  # fmt: skip
def test_staples_that_are_promised_are_refused(text: str, says: str) -> None:
    message = refused(text)
    assert message.startswith("f:1:1: ") and says in message


def test_a_cluster_says_that_it_carries_no_messages() -> None:
    fields, warnings = read(
        "cluster { name: east, listen: 127.0.0.1:-1, routes: [ nats://a:1, nats://a:1, nats://u:p@b:2 ], pool_size: 3,"
        " authorization { user: u, password: p, timeout: 3 }, no_advertise: true, advertise: x:7, connect_retries: 2 }"
    )
    assert fields == {
        "cluster_name": "east",
        "cluster": ClusterSettings(
            host="127.0.0.1", port=-1, advertise="x:7", no_advertise=True, routes=("nats://a:1", "nats://u:p@b:2"),
            connect_retries=2, user="u", password="p", auth_timeout=3.0,
        ),
    }  # fmt: skip
    duplicate, pool, messages = warnings
    assert "Duplicate route" in duplicate and "no effect" in pool and "messages do not cross" in messages
    assert "u:p" not in repr(fields) and "'p'" not in repr(fields)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cluster { routes: [ nats://a:1 ] }", "routes need a port"),
        ("cluster { name: 'a b' }", "cannot contain spaces"),
        ("cluster { listen: 1, routes: [ nats://u:s3cret@a ] }", 'error parsing route url ["a"]'),
        ("cluster { listen: 1, authorization { users: [] } }", "does not allow multiple users"),
        ("cluster { listen: 1, authorization { token: s3cret } }", "does not support tokens"),
        ("cluster { foo: 1 }", 'unknown field "foo"'),
    ],
)
def test_a_cluster_that_is_wrong(text: str, message: str) -> None:
    said = refused(text)
    assert message in said
    assert "s3cret" not in said


def test_plain_numbers_as_times_are_seconds_with_a_warning() -> None:
    fields, warnings = read("ping_interval: 5\nwrite_deadline: 3")
    assert fields == {"ping_interval": 5.0, "write_deadline": 3.0}
    assert warnings == [
        'f:1:1: invalid use of field "ping_interval": ping_interval should be converted to a duration',
        'f:2:1: invalid use of field "write_deadline": write_deadline should be converted to a duration',
    ]


def test_an_empty_file_is_warned_about() -> None:
    assert read("# nothing\n") == ({}, ["f: config has no values or is empty"])


def test_every_key_of_nats_server_is_known() -> None:
    theirs = """listen host port net client_advertise server_name server_tags server_metadata debug trace trace_verbose
    trace_headers logtime logtime_utc log_file log_size_limit logfile_max_num syslog remote_syslog pid_file
    ports_file_dir      prof_port prof_block_rate http https http_port https_port http_base_path max_control_line
    max_payload max_pending max_connections max_subscriptions     max_sub_tokens max_traced_msg_len
    max_closed_clients ping_interval ping_max write_deadline write_timeout lame_duck_duration
    lame_duck_grace_period no_fast_producer_stall disable_sublist_cache no_header_support proxy_protocol proxies
    authorization     accounts no_auth_user system_account no_system_account mappings operator resolver
    resolver_preload resolver_tls     resolver_pinned_accounts trusted_keys default_sentinel tls allow_non_tls
    ocsp ocsp_cache cluster gateway leafnodes jetstream     store_dir default_js_domain websocket mqtt
    connect_error_reports reconnect_error_reports feature_flags"""
    assert set(theirs.split()) <= set(SETTINGS)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("1s", 1),
        ("1.5s", 1.5),
        (".5m", 30),
        ("2h45m", 9900),
        ("-1s", -1),
        ("300ms", 0.3),
        ("5us", 5e-6),
        ("7µs", 7e-6),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "1", "s", "1x", "1s2", "1 s", "--1s", "."])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="time: "):
        duration(text)


def test_sizes() -> None:
    assert [size(t) for t in ("5", "64k", "64kb", "4MiB", "1g", "1gi")] == [
        5,
        64000,
        65536,
        4 << 20,
        10**9,
        1 << 30,
    ]
    for text in ("", "k", "-1", "1.5m", "1tb"):
        with pytest.raises(ValueError, match="parse"):
            size(text)
