"""The command line: Go's flag syntax, nats-server's flags, precedence over the file."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from shardbroker.control.config.flags import FLAGS, USAGE, FlagError, parse_flags
from shardbroker.control.config.load import load
from shardbroker.errors import ConfigError


@pytest.mark.parametrize(
    ("arguments", "given", "rest"),
    [
        ("", {}, ()),
        ("-p 1", {"p": 1}, ()),
        ("--p=1", {"p": 1}, ()),
        ("--port=1 -p 2", {"p": 2}, ()),
        ("-port -1", {"p": -1}, ()),
        ("-p 0x10", {"p": 16}, ()),
        ("-p 017", {"p": 15}, ()),
        ("-D --trace=false -T=0", {"D": True, "V": False, "T": False}, ()),
        ("-D false", {"D": True}, ("false",)),
        ("-DV", {"DV": True}, ()),
        ("-a h stop -D", {"a": "h"}, ("stop", "-D")),
        ("-D -- -V", {"D": True}, ("-V",)),
        ("-D - -V", {"D": True}, ("-", "-V")),
        ("--pass=a=b", {"pass": "a=b"}, ()),
        ("-l= -c x", {"l": "", "c": "x"}, ()),
        (
            "--ring-size 64kb --workers auto --spin 20us",
            {"ring-size": 65536, "workers": "auto", "spin": pytest.approx(2e-5)},
            (),
        ),
        ("-js -sd=/x", {"js": True, "sd": "/x"}, ()),
    ],
)
def test_syntax(arguments: str, given: dict[str, Any], rest: tuple[str, ...]) -> None:
    line = parse_flags(arguments.split())
    assert (line.given, line.rest) == (given, rest)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-xyz"], "flag provided but not defined: -xyz"),
        (["--xyz=1"], "flag provided but not defined: -xyz"),
        (["-p"], "flag needs an argument: -p"),
        (["--port"], "flag needs an argument: -port"),
        (["-p", "abc"], 'invalid value "abc" for flag -p: parse error'),
        (["-D=maybe"], 'invalid boolean value "maybe" for -D: parse error'),
        (["---p"], "bad flag syntax: ---p"),
        (["-=x"], "bad flag syntax: -=x"),
        (["--spin", "5"], 'invalid value "5" for flag -spin: time: missing unit in duration "5"'),
        (["--ring-size", "big"], 'invalid value "big" for flag -ring-size: parse error'),
    ],
)
def test_go_says_it_so(arguments: list[str], message: str) -> None:
    with pytest.raises(FlagError) as caught:
        parse_flags(arguments)
    assert str(caught.value) == message


def test_every_flag_of_nats_server_is_known() -> None:
    theirs = """a addr net p port n name server_name P pid m http_port ms https_port c config t sl signal client_advertise
    ports_file_dir l log T logtime logtime_utc s syslog r remote_syslog D debug V trace VV DV DVV log_size_limit
    max_traced_msg_len js jetstream sd store_dir user pass auth tls tlscert tlskey tlsverify tlscacert routes
    cluster cluster_listen cluster_name     no_advertise cluster_advertise connect_retries profile h help v
    version help_tls"""
    names = [name for flag in FLAGS for name in flag.names]
    assert len(names) == len(set(names))
    assert set(theirs.split()) <= set(names)


def test_usage_names_every_flag() -> None:
    for flag in FLAGS:
        assert any(f"-{name}" in USAGE for name in flag.names if name != "help_tls") or flag.names == (
            "help_tls",
        ), flag


def test_what_flags_set() -> None:
    text = "-a 127.0.0.1 -p -1 -m 8222 -n alpha -P pid -l log --ports_file_dir d --user u --pass w -DV --log_size_limit 9"
    more = "--max_traced_msg_len 10 --client_advertise h:1 -T=false --logtime_utc --workers 2"
    options = load([*text.split(), *more.split()])
    assert (options.host, options.port, options.http_port, options.server_name) == (
        "127.0.0.1",
        -1,
        8222,
        "alpha",
    )
    assert (options.pid_file, options.log_file, options.ports_file_dir) == ("pid", "log", "d")
    assert (options.user, options.password, options.token) == ("u", "w", "")
    assert (options.debug, options.trace, options.trace_verbose) == (True, True, False)
    assert (options.log_size_limit, options.max_traced_msg_len, options.client_advertise) == (9, 10, "h:1")
    assert (options.logtime, options.logtime_utc, options.workers) == (False, True, 2)
    assert load(options.arguments) == options


@pytest.mark.parametrize(
    ("flag", "debug", "trace", "verbose"),
    [
        ("-D", 1, 0, 0),
        ("-V", 0, 1, 0),
        ("-VV", 0, 1, 1),
        ("-DV", 1, 1, 0),
        ("-DVV", 1, 1, 1),
        ("-DV=false", 0, 0, 0),
    ],
)
def test_logging_flags(flag: str, debug: int, trace: int, verbose: int) -> None:
    options = load([flag])
    assert (options.debug, options.trace, options.trace_verbose) == (bool(debug), bool(trace), bool(verbose))


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.conf"
    path.write_text("port: 5\nhost: a\ndebug: true\nmax_payload: 99\nauthorization { user: u, pass: p }\n")
    options = load(["-p", "4222", "--debug=false", "-c", str(path)])
    assert (options.port, options.host, options.debug, options.max_payload) == (4222, "a", False, 99)
    assert options.config_file == str(path)
    assert options.config_digest.startswith("sha256:")
    by_token = load(["--auth", "t", "--config", str(path)])
    assert (by_token.user, by_token.password, by_token.token) == ("", "", "t")


def test_port_zero_on_the_command_line_says_nothing(tmp_path: Path) -> None:
    assert load(["-p", "0", "-m", "0"]).port == 4222


@pytest.mark.parametrize("flags", [["--tls"], ["--tlsverify"], ["--tls", "--tlscert=x"], ["--tlskey=x"], ["--tlscacert=x"]])
def test_tls_needs_a_certificate_and_a_key(flags: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"TLS Server .* must be present and valid"):
        load(flags)


def test_tls_gives_logins_more_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardbroker.shard.tls.server_context", lambda settings: None)
    path = tmp_path / "f.conf"
    for text, seconds in (("", 2), ("tls { cert_file: c, key_file: k, timeout: 5 }", 6),
                          ("tls { cert_file: c, key_file: k }\nauthorization { timeout: 1 }", 1)):  # fmt: skip
        path.write_text("port: 1\n" + text)
        assert load(["-c", str(path)]).auth_timeout == seconds


def test_tls_that_is_switched_off_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardbroker.shard.tls.server_context", lambda settings: None)
    assert load(["--tls=false"]).warnings == ()
    path = tmp_path / "f.conf"
    path.write_text("port: 1\ntls { cert_file: c, key_file: k }")
    assert load(["-c", str(path)]).tls is not None
    for flags in (["--tls=false"], ["--tls=false", "--tlscert=x", "--tlskey=y"]):
        assert load(["-c", str(path), *flags]).tls is None


def test_a_certificate_among_the_flags_is_tls_and_leaves_the_rest_of_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """opts.go ConfigureOptions: any flag of TLS is TLS. CVE-2021-32026: what the file restricts stays restricted."""
    monkeypatch.setattr("shardbroker.shard.tls.server_context", lambda settings: None)
    path = tmp_path / "f.conf"
    path.write_text(
        "port: 1\ntls { certs: [{cert_file: c, key_file: k}], ca_file: a, verify: true, min_version: '1.3', "
        "cipher_suites: [TLS_AES_128_GCM_SHA256] }"
    )
    for file in ([], ["-c", str(path)]):
        tls = load([*file, "--tlscert", "x", "--tlskey", "y"]).tls
        assert tls is not None
        assert (tls.cert_file, tls.key_file, tls.certificates) == ("x", "y", ())
        if file:
            assert (tls.verify, tls.ca_file, tls.min_version) == (True, "a", "1.3")
            assert tls.cipher_suites == ("TLS_AES_128_GCM_SHA256",)


def test_a_cluster_has_a_name() -> None:
    options = load(["--cluster_name", "east"])
    assert (options.cluster_name, options.warnings) == ("east", ())


def test_a_cluster() -> None:
    options = load(["--cluster", "nats://u:p%20q@127.0.0.1:-1", "--routes=nats://a:1, nats://b:2", "--no_advertise"])
    cluster = options.cluster
    assert (cluster.host, cluster.port, cluster.user, cluster.password) == ("127.0.0.1", -1, "u", "p q")
    assert (cluster.routes, cluster.no_advertise) == (("nats://a:1", "nats://b:2"), True)
    assert "p q" not in repr(options.cluster)
    assert load(["--cluster="]).cluster.port == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--routes=nats://a:1"], "solicited routes require cluster capabilities, e.g. --cluster"),
        (["--cluster=nats://a"], "could not parse address"),
        (["--cluster=nats://u@a:1"], "expected cluster password to be set"),
        (["--cluster=nats://a:1", "--routes=nats://u:s3cret@b"], "host and port are needed"),
    ],
)
def test_a_cluster_that_is_wrong(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(arguments)
    assert message in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_streams() -> None:
    assert not load([]).jetstream.enabled
    assert load(["-js"]).jetstream.enabled and load(["--jetstream"]).warnings == ()
    assert load(["-js", "-sd", "/x"]).jetstream.store_dir == "/x"
    assert not load(["-sd=/x"]).jetstream.enabled


def test_where_the_log_goes() -> None:
    assert load([]).log_format == "text"
    options = load(["-s", "-r=udp://[::1]:514", "--log-format", "json"])
    assert (options.syslog, options.remote_syslog, options.log_format) == (True, "udp://[::1]:514", "json")
    assert options.warnings == ()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["-r", "http://x:1"], 'error invalid network type: "http"'),
        (["-r", "udp://x"], 'missing host or port in address "x"'),
        (["-r", "udp://x:99999"], "remote_syslog: Port out of range"),
        (["-r", "unix://"], "error invalid network type"),
        (["--log-format", "xml"], 'log-format: "xml" is neither text nor json'),
    ],
)
def test_where_the_log_cannot_go(flags: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        load(flags)


@pytest.mark.parametrize(
    "flag",
    ["--profile=1", "--cluster=nats://x:1", "--cluster_listen=nats://x:1"],
)
def test_harmless_flags_are_warned_about(flag: str) -> None:
    (warning,) = load([flag]).warnings
    assert warning.startswith("flag -")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("-p 70000", "port: 70000 is no port"),
        ("-m -2", "http_port: -2 is no port"),
        ("-ms -2", "https_port: -2 is no port"),
        ("--workers 0", "workers: 0 is none"),
        ("--workers 65", "workers: 65 is none"),
        ("--ring-size 5000", "ring-size: 5000 is not a power of two"),
        ("--control-ring-size 1024", "control-ring-size: 1024 is not"),
        ("--overflow-size 0", "overflow-size"),
        ("--user a --auth b", "Cannot have a user/pass and token"),
        ("--client_advertise a:b", "client_advertise: address a:b: invalid port"),
        ("-c /no/such/file", "open /no/such/file: no such file or directory"),
    ],
)
def test_what_cannot_be_is_refused(arguments: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(arguments.split())
    assert message in str(caught.value)


def test_limits_must_fit_each_other(tmp_path: Path) -> None:
    path = tmp_path / "a.conf"
    path.write_text(
        "max_payload: 2MB\nmax_pending: 1MB\nlame_duck_duration: 30s\nlame_duck_grace_period: 30s\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(["-c", str(path)])
    assert str(caught.value).splitlines() == [
        f"{path}:1:1: max_payload (2097152) cannot be higher than max_pending (1048576)",
        f"{path}:4:1: lame duck grace period (30s) should be strictly lower than lame duck duration (30s)",
    ]


@pytest.mark.parametrize(
    ("argv0", "name"),
    [
        ("/usr/bin/nats-server", "nats-server"),
        ("shardbroker", "shardbroker"),
        ("/x/shardbroker/__main__.py", "shardbroker"),
        ("-c", "shardbroker"),
    ],
)
def test_program_name(argv0: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [argv0])
    assert load([]).program == name
