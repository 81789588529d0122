"""Operator mode in the configuration file. Source: opts.go, jwt.go validateTrustedOperators."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from harness.jwts import Estate, Signer
from shardbroker.auth.model import OperatorMode, Resolver
from shardbroker.control.config.document import parse_text
from shardbroker.control.config.settings import read_settings
from shardbroker.errors import ConfigError
from shardbroker.ipc.records import from_plain
from shardbroker.options import Options

estate = Estate()
OPERATOR, A = estate.operator_token(), estate.account_token(estate.a)
PLAIN = Signer("operator", "o").token("operator", estate.operator.public, {})


def options(text: str) -> Options:
    fields, warnings = read_settings(parse_text(text, "f", {}), "f")
    assert not warnings
    return Options(**fields)


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        options(text)
    return str(caught.value)


def test_a_memory_resolver(tmp_path: Path) -> None:
    file = tmp_path / "o.jwt"
    file.write_text(f"-----BEGIN NATS OPERATOR JWT-----\n{OPERATOR}\n------END NATS OPERATOR JWT------\n")
    for operator in (OPERATOR, f"'{file}'", f"[ {OPERATOR} ]"):
        made = options(f"operator: {operator}\nresolver: MEMORY\nresolver_preload: {{ {estate.a.public}: {A} }}")
        assert made.operator_mode == OperatorMode((OPERATOR,), (), Resolver(), ((estate.a.public, A),))
        assert made.system_account == estate.system.public
        assert (made.auth_required, made.nonce_required, made.system_users_only) == (True, True, False)
        assert from_plain(Options, orjson.loads(orjson.dumps(made))) == made


def test_a_directory(tmp_path: Path) -> None:
    made = options(
        f"operator: {OPERATOR}\nresolver {{ type: full, dir: '{tmp_path}/x', allow_delete: true, "
        "interval: '2m', limit: 1000, timeout: 1.9s }"
    ).operator_mode
    assert made is not None
    assert made.resolver == Resolver(
        "full", "", f"{tmp_path}/x", True, limit=1000, interval=120.0, timeout=pytest.approx(1.9)
    )


def test_a_web_server() -> None:
    made = options(
        f"operator: {OPERATOR}\nresolver: URL(https://me:s3cret@h:9090/jwt)\n"
        "resolver_tls { ca_file: a, cert_file: c, key_file: k, insecure: true }"
    ).operator_mode
    assert made is not None
    resolver = Resolver("url", "https://me:s3cret@h:9090/jwt", ca_file="a", cert_file="c", key_file="k", insecure=True)
    assert made.resolver == resolver
    assert "s3cret" not in repr(made)
    # The operator's own JWT may say where it is; what a file says goes before.
    says = estate.operator_token(account_server_url="http://h:9090/jwt/v1/")
    implied = options(f"operator: {says}").operator_mode
    assert implied is not None
    assert implied.resolver == Resolver("url", "http://h:9090/jwt/v1/accounts")
    stated = options(f"operator: {says}; resolver: MEMORY").operator_mode
    assert stated is not None
    assert stated.resolver == Resolver()
    # nsc writes the address of a server of NATS there.
    nsc = estate.operator_token(account_server_url="nats://localhost:4222")
    assert "require an account resolver" in refused(f"operator: {nsc}")


def test_trusted_keys_and_the_rest() -> None:
    made = options(
        f"trusted_keys: [{estate.operator.public}]; resolver: MEM; system_account: {estate.system.public}; "
        f"resolver_pinned_accounts: [{estate.a.public}]"
    )
    assert made.operator_mode == OperatorMode(
        (), (estate.operator.public,), Resolver(), (), (estate.a.public,)
    )
    # A resolver that nobody asks is no operator mode.
    assert options("resolver: MEMORY").operator_mode is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("operator: nothing.jwt; resolver: MEMORY", "f:1:1: error parsing operator JWT: No such file"),
        (f"operator: {A}; resolver: MEMORY", "error parsing operator JWT: it is of kind"),
        (f"operator: {OPERATOR}", "operators require an account resolver"),
        (f"operator: {OPERATOR}; resolver: NOTHING", "error parsing account resolver"),
        (f"operator: {OPERATOR}; resolver: URL(nats://localhost:4222)", "begins with http:// or https://"),
        (f"operator: {OPERATOR}; resolver: URL(http://:80/x)", "begins with http:// or https://"),
        (f"operator: {OPERATOR}; resolver: URL(http://h:99999/x)", "begins with http:// or https://"),
        (f"operator: {OPERATOR}; resolver: URL(http://h/x); resolver_preload {{ {estate.a.public}: {A} }}", "only available for"),
        (f"operator: {OPERATOR}; resolver: URL(http://h/x); resolver_tls {{ cert_file: c }}", "missing 'key_file'"),
        (f"operator: {OPERATOR}; resolver: URL(http://h/x); resolver_tls {{ nonsense: c }}", 'unknown field "nonsense"'),
        (f"operator: {OPERATOR}; resolver {{ type: cache, dir: x }}", "a cache needs other servers"),
        (f"operator: {OPERATOR}; resolver {{ type: full }}", "dir has no value"),
        (f"operator: {OPERATOR}; resolver {{ type: full, dir: /dev/null }}", "accessible directory"),
        (f"operator: {OPERATOR}; resolver {{ type: full, dir: x, ttl: 1m }}", "does not accept ttl"),
        (f"operator: {OPERATOR}; resolver {{ type: full, dir: x, hard_delete: true }}", "no effect without delete"),
        (f"operator: {OPERATOR}; resolver: MEMORY; resolver_preload {{ A: b }}", "invalid account JWT"),
        (f"operator: {OPERATOR}; resolver: MEMORY; accounts {{ A {{}} }}", "do not allow Accounts"),
        (f"operator: {OPERATOR}; resolver: MEMORY; authorization {{ users: [{{user: a}}] }}", "do not allow users"),
        (f"operator: {OPERATOR}; resolver: MEMORY; no_auth_user: x", "no_auth_user not compatible"),
        (f"operator: {OPERATOR}; resolver: MEMORY; system_account: {estate.a.public}", "must be identical"),
        (f"operator: {PLAIN}; resolver {{ type: full, dir: x }}", "the system account needs to be specified"),
        (f"operator: {PLAIN}; resolver: MEM; system_account: X", "no public account key"),
        (f"operator: {OPERATOR}; resolver: MEM; trusted_keys: [{estate.operator.public}]", "conflicting options"),
        (f"operator: {estate.operator_token(assert_server_version='9.0.0')}; resolver: MEM", "expects version 9.0.0"),
        ("trusted_keys: [x]; resolver: MEM", "valid public operator nkey"),
        ("resolver_pinned_accounts: [x]", "not a valid public account nkey"),
        ("default_sentinel: x", "default sentinel JWT not valid"),
        (f"default_sentinel: {estate.user_token(Signer('user', 'u'), estate.a)}", "must be a bearer token"),
        (f"default_sentinel: {estate.user_token(Signer('user', 'u'), estate.a, bearer_token=True)}", "requires operators"),
    ],
)  # fmt: skip
def test_wrong(text: str, message: str) -> None:
    assert message in refused(text)
