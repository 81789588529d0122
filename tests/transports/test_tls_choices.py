"""Which curves and cipher suites a client may use: those that the file names, or it is said that they cannot be had."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from harness import Broker
from shardbroker.control.config.document import parse_text
from shardbroker.control.config.settings import read_settings
from shardbroker.errors import ConfigError
from shardbroker.shard.tls import TAKES_CURVES, server_context
from transports.conftest import Authority
from transports.test_tls import TlsClient

Start = Callable[..., Broker]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a broker with one shard."""
    broker: list[Broker] = []

    def begin(config: str, args: Sequence[str] = ()) -> Broker:
        broker.append(Broker(tmp_path / "broker", config=config, args=list(args)))
        return broker[0].start()

    yield begin
    for each in broker:
        each.stop()


def _reachable(
    port: int, authority: Authority, *, curve: str = "", suites: str = "", version: ssl.TLSVersion | None = None
) -> bool:
    """Whether a client that can do so much gets through."""
    context = authority.context()
    if curve:
        context.set_ecdh_curve(curve)
    if suites:
        context.set_ciphers(suites)
    if version is not None:
        context.maximum_version = version
    try:
        TlsClient(port, context).connect()
    except (ssl.SSLError, AssertionError, OSError):
        return False
    return True


def test_a_curve_of_choice(start: Start, authority: Authority) -> None:
    broker = start(config=authority.block("curve_preferences: [CurveP384]"))
    assert "curve_preferences" not in broker.log()
    assert [_reachable(broker.port, authority, curve=name) for name in ("prime256v1", "secp384r1")] == [False, True]


def test_of_several_curves_the_first_counts_and_is_said(start: Start, authority: Authority) -> None:
    broker = start(config=authority.block("curve_preferences: [CurveP384, CurveP256]"))
    said = "curve_preferences: CurveP384 is used, and who cannot do it is refused; CurveP256 are not used" in broker.log()
    # Where Python's ssl takes a list (3.15), both are taken and nothing is said.
    assert said is not TAKES_CURVES
    found = [_reachable(broker.port, authority, curve=name) for name in ("prime256v1", "secp384r1", "secp521r1")]
    assert found == [TAKES_CURVES, True, False]


def test_several_curves_by_openssls_configuration(
    start: Start, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openssl.cnf").write_text(
        "openssl_conf = init\n[init]\nssl_conf = ssl\n[ssl]\nsystem_default = tls\n[tls]\nGroups = P-384:P-256\n"
    )
    monkeypatch.setenv("OPENSSL_CONF", str(tmp_path / "openssl.cnf"))
    broker = start(config=authority.block())
    found = [_reachable(broker.port, authority, curve=name) for name in ("prime256v1", "secp384r1", "secp521r1")]
    assert found == [True, True, False]


def test_suites_of_choice(start: Start, authority: Authority) -> None:
    suite, older = "ECDHE-ECDSA-AES128-GCM-SHA256", ssl.TLSVersion.TLSv1_2
    broker = start(config=authority.block("cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]"))
    assert _reachable(broker.port, authority, suites=suite, version=older)
    assert not _reachable(broker.port, authority, suites="ECDHE-ECDSA-AES256-GCM-SHA384", version=older)
    assert _reachable(broker.port, authority)


def test_only_suites_of_the_newest_version(start: Start, authority: Authority) -> None:
    broker = start(config=authority.block("cipher_suites: [TLS_AES_128_GCM_SHA256]"))
    assert not _reachable(broker.port, authority, version=ssl.TLSVersion.TLSv1_2)
    assert _reachable(broker.port, authority)


def test_what_openssl_does_not_have(authority: Authority) -> None:
    tls = authority.block("cipher_suites: [TLS_ECDHE_RSA_WITH_RC4_128_SHA]", "allow_insecure_cipher_suites: true")
    settings, _ = read_settings(parse_text(tls, "f", {}), "f")
    with pytest.raises(ConfigError, match="OpenSSL does not have TLS_ECDHE_RSA_WITH_RC4_128_SHA"):
        server_context(settings["tls"])


@pytest.mark.parametrize("names", ["CurveP256", "CurveP384", "X25519MLKEM768, CurveP521", "X25519, CurveP256"])
def test_every_curve_is_taken_or_refused_in_words(authority: Authority, names: str) -> None:
    warnings, problem = [], ""
    try:
        settings, warnings = read_settings(parse_text(authority.block(f"curve_preferences: [{names}]"), "f", {}), "f")
        server_context(settings["tls"])
    except ConfigError as error:
        problem = str(error)
    if problem:
        assert "curve_preferences" in problem
    else:
        assert bool(warnings) == ("," in names and not TAKES_CURVES)


@pytest.mark.parametrize("tls", [[], ["--tls"]])
def test_flags_leave_what_the_file_says_of_suites(start: Start, authority: Authority, tls: list[str]) -> None:
    """CVE-2021-32026: there a certificate among the flags took the file's choice of suites away."""
    flags = [*tls, "--tlscert", authority.path("server.pem"), "--tlskey", authority.path("server-key.pem")]
    broker = start(authority.block("cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]"), flags)
    suites = ("ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256")
    limit = ssl.TLSVersion.TLSv1_2
    assert [_reachable(broker.port, authority, suites=name, version=limit) for name in suites] == [False, True]
