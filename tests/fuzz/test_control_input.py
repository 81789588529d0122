"""Text that comes from outside to the control side: configuration files, JWTs, the JSON of a CONNECT.

Whatever it is, what comes back is a result or the module's own error, in bounded time. Inputs are good ones, damaged: cut,
doubled, with parts of each other and with bytes that mean something. One seed repeats a run; SHARDBROKER_FUZZ_RUNS says how many.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from fuzz.seeds import RUNS, seeds
from harness.jwts import Estate, Signer, part
from shardbroker.auth.claims import account_claims, activates, operator_claims, user_claims
from shardbroker.auth.gate import Login
from shardbroker.auth.jwt import JwtError
from shardbroker.auth.model import Export, Import, OperatorMode, Resolver
from shardbroker.auth.trust import AccountBook, OperatorGate
from shardbroker.control.config.document import Entry, digest, parse_text
from shardbroker.control.config.explain import excerpt
from shardbroker.control.config.settings import read_settings
from shardbroker.errors import ConfigError
from shardbroker.options import Options
from shardbroker.shard.connect import ConnectError, ConnectOptions, parse_connect

SEEDS = seeds(4)

CONFIGS = [
    "port: 4222\nhost = '::1'; max_payload 1MB\nserver_tags [a, b\nc]\n# x\n// y\n",
    "authorization { users: [ {user: a, password: $2a$11$abc, permissions { pub: [a, 'b.>'], sub { deny: 'x q' }}} ] }",
    "accounts { A { exports: [{stream: 'a.*'}, {service: s, latency: {subject: r, sampling: 5%}}] }\n"
    "B { imports: [{stream: {account: A, subject: 'a.*'}, to: 'x.$1'}], mappings: { a: [{dest: b, weight: 5}] } } }",
    "x: 5; port: $x; include 'other.conf'; y: $y",
    "jetstream { store_dir: (\n text\n )\n max_mem: 1G }; websocket { port: -1 }; tls { cert_file: a, key_file: b }",
    '{"port": 1, "authorization": {"token": "a\\x41\\n"}, "ping_interval": "2m", "write_deadline": 2s}',
    "operator: eyJ.x.y; resolver: MEMORY; system_account: A; ping: 2024-01-02T03:04:05Z; f: -1.5; b: yes",
]
MEANINGFUL = [
    *"{}[]()'\"#/\\,;:=$\n\r\t \0é", "include ", "$x", "\\x4", "1e9", "-", "(\n", "\n)\n", "true", "{{", "9" * 20,
]  # fmt: skip


def damaged(rng: random.Random, texts: list[str]) -> str:
    text = rng.choice(texts)
    for _ in range(rng.randrange(1, 6)):
        at, length = rng.randrange(len(text) + 1), rng.randrange(1, 8)
        change = rng.randrange(5)
        if change == 0:
            text = text[:at] + text[at + length :]
        elif change == 1:
            text = text[:at] + rng.choice(MEANINGFUL) + text[at:]
        elif change == 2:
            text = text[:at] + rng.choice(texts)[rng.randrange(40) :]
        elif change == 3:
            text = text[:at] + text[at : at + length] * rng.randrange(2, 20) + text[at:]
        else:
            text = text[: at + length]
    return text


@pytest.mark.parametrize("seed", SEEDS)
def test_configuration(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(RUNS // len(SEEDS)):
        text = damaged(rng, CONFIGS)
        try:
            entries: dict[str, Entry] = parse_text(text, "/no/such/f", {"y": "[1, {a: b}]"})
            assert digest(entries).startswith("sha256:")
            fields, _ = read_settings(entries, "f")
            assert Options(**fields).engine_settings()
        except ConfigError as error:
            said = str(error)
        else:
            continue
        # What is said of it is something, and finds no line of a file that does not exist.
        assert (bool(said), excerpt(said)) == (True, "")


def test_deep_and_long_files() -> None:
    """What recurses is bounded; what repeats is linear."""
    for text in (
        "a: " + "[" * 5000,
        "a: " + "{ b: " * 5000,
        "a: " + "[" * 5000 + "]" * 5000,
        "(" * 9999,
        "'" * 9999,
    ):
        with pytest.raises(ConfigError):
            parse_text(text, "f", {})
    assert len(parse_text("\n".join(f"k{n}: [{n}, x]" for n in range(20_000)), "f", {})) == 20_000


def test_includes_and_variables_that_go_in_circles(tmp_path: Path) -> None:
    path = tmp_path / "a.conf"
    path.write_text("include 'a.conf'")
    with pytest.raises(ConfigError, match="too deeply"):
        parse_text("include 'a.conf'", str(path), {})
    for environment in ({"a": "$a"}, {"a": "$b", "b": "[$a]"}, {"a": "{x: $b}", "b": "$a"}):
        with pytest.raises(ConfigError, match="cycle"):
            parse_text("x: $a", "f", environment)


# -- JWTs --


def tokens() -> list[str]:
    estate = Estate()
    user, key = Signer("user", "u"), Signer("account", "k")
    return [
        estate.operator_token(signing_keys=[Signer("operator", "p").public]),
        estate.account_token(
            estate.a,
            exports=[{"subject": "a.*", "type": "stream", "token_req": True}],
            imports=[{"subject": "b", "account": estate.b.public, "type": "service", "token": "x"}],
            signing_keys=[{"key": key.public, "template": {"pub": {"allow": ["{{name()}}"]}}}],
            revocations={"*": 5},
        ),
        estate.user_token(
            user, estate.a, src=["10.0.0.0/8"], times=[{"start": "01:00:00", "end": "02:00:00"}]
        ),
        estate.a.token("activation", estate.b.public, {"subject": "a.b", "kind": "stream"}),
    ]


READERS: list[Callable[[str], Any]] = [operator_claims, account_claims, user_claims]


@pytest.mark.parametrize("seed", SEEDS)
def test_tokens(seed: int) -> None:
    """Damaged on the wire: the signature does not hold. Damaged before it was signed: it does, and the claims are nonsense."""
    rng, good, estate = random.Random(seed), tokens(), Estate()
    export, made = (
        Export("stream", "a.*", token_required=True),
        Import("stream", estate.a.public, "a.b", "a.b"),
    )
    for _ in range(RUNS // len(SEEDS)):
        token = damaged(rng, good)
        for read in READERS:
            try:
                read(token)
                assert token in good
            except JwtError:
                continue
        whole = activates(token, account_claims(good[1]), export, made, estate.b.public, 1.8e9)
        assert whole == (token == good[3])
        head, body, _ = rng.choice(good).split(".")
        payload = damaged(rng, [orjson.dumps(orjson.loads(_unpart(body))).decode()])
        signer = rng.choice([estate.operator, estate.a])
        signed = f"{head}.{part(payload.encode())}"
        for read in READERS:
            try:
                read(f"{signed}.{signer.sign(signed)}")
            except JwtError:
                continue


def _unpart(text: str) -> bytes:
    import base64

    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@pytest.mark.parametrize("seed", SEEDS)
def test_logins_with_damaged_tokens(seed: int) -> None:
    rng, good, estate = random.Random(seed), tokens(), Estate()
    mode = OperatorMode((good[0],), (), Resolver(), ((estate.a.public, good[1]),))
    gate = OperatorGate(mode, AccountBook(mode), "")
    for _ in range(RUNS // len(SEEDS)):
        token = damaged(rng, good)
        answer = gate.check(Login(jwt=token, signature=damaged(rng, good), nonce=b"n", ip="10.0.0.1"), 1.8e9)
        assert type(answer).__name__ == "Refusal"


# -- CONNECT --

CONNECTS = [
    '{"verbose":false,"pedantic":false,"user":"a","pass":"b","lang":"go","version":"1","protocol":1,"echo":true}',
    '{"jwt":"a.b.c","nkey":"U","sig":"AAAA","headers":true,"no_responders":true,"name":"\\u00e9\\ud800"}',
    '{"import":{"allow":[">"]},"export":null,"tls_required":false,"auth_token":"t","new":[[[{}]]],"x":1e400}',
]


@pytest.mark.parametrize("seed", SEEDS)
def test_connect(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(RUNS // len(SEEDS)):
        data = damaged(rng, CONNECTS).encode("utf-8", "surrogatepass")
        if rng.random() < 0.3:
            at = rng.randrange(len(data) + 1)
            data = data[:at] + rng.randbytes(3) + data[at:]
        try:
            options = parse_connect(data)
        except ConnectError as error:
            said = str(error)
        else:
            said = ""
        assert "\n" not in said  # it goes to the log
        if said:
            continue
        assert isinstance(options, ConnectOptions)
        assert isinstance(options.user, str) and isinstance(options.protocol, int)
