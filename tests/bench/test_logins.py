"""How the load generator says who it is: nkeys, credentials files; and servers on IPv6."""

from __future__ import annotations

import base64
import binascii
import socket
from pathlib import Path

import nkeys
import pytest
from cryptography.hazmat.primitives import serialization

from bench.test_command import QUICK, bench
from harness import Broker
from harness.jwts import Estate, Signer
from shardbroker.auth.nkey import PREFIXES, Kind
from shardbroker.bench import LoadError
from shardbroker.bench.connect import Endpoint
from shardbroker.bench.credentials import read_credentials, read_nkey, seed_bytes

SHAPES = ("pubsub:1x1", "request", "subscribe:1", "idle:3")


def seed_of(signer: Signer, kind: Kind = "user") -> str:
    """As `nk` writes it (strkey.go EncodeSeed)."""
    raw = signer.key.private_bytes(
        serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    )
    prefix = PREFIXES[kind]
    data = bytes([18 << 3 | prefix >> 5, (prefix & 31) << 3]) + raw
    return base64.b32encode(data + binascii.crc_hqx(data, 0).to_bytes(2, "little")).decode().rstrip("=")


def credentials(path: Path, jwt: str, seed: str) -> Path:
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        "************************* IMPORTANT *************************\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
    return path


def test_seeds_are_those_of_the_nkeys_library(tmp_path: Path) -> None:
    seed = seed_of(Signer("user", "x"))
    assert nkeys.from_seed(seed.encode()).public_key.decode() == Signer("user", "x").public
    path = tmp_path / "user.nk"
    path.write_text(f"# mine\n{seed}\n")
    assert read_nkey(path) == seed
    assert read_credentials(credentials(tmp_path / "u.creds", "a.b.c", seed)) == ("a.b.c", seed)


@pytest.mark.parametrize("text", ["", "SUAA", seed_of(Signer("user", "y"))[:20] + seed_of(Signer("user", "x"))[20:], "no seed"])
def test_what_is_no_seed_is_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    path = tmp_path / "user.nk"
    path.write_text(text)
    with pytest.raises(LoadError) as told:
        read_nkey(path)
    assert not text or text not in str(told.value)
    with pytest.raises(LoadError):
        read_credentials(path)
    with pytest.raises(LoadError):
        read_nkey(tmp_path)
    with pytest.raises(LoadError, match="no seed of a user"):
        seed_bytes(seed_of(Signer("user", "x"), "account"))


def test_an_nkey_and_a_credentials_file(tmp_path: Path) -> None:
    user, estate = Signer("user", "bench"), Estate()
    nkey, creds = tmp_path / "user.nk", tmp_path / "user.creds"
    nkey.write_text(seed_of(user))
    credentials(creds, estate.user_token(user, estate.a), seed_of(user))
    by_nkey = f"authorization {{ users = [{{ nkey: {user.public} }}] }}"
    by_jwt = (
        f"operator: {estate.operator_token()}\nresolver: MEMORY\n"
        f"resolver_preload {{ {estate.a.public}: {estate.account_token(estate.a)}\n"
        f"{estate.system.public}: {estate.account_token(estate.system)} }}"
    )
    for option, path, config in (("--nkey", nkey, by_nkey), ("--creds", creds, by_jwt)):
        with Broker(tmp_path / option[2:], config=config) as broker:
            server = ("--server", f"127.0.0.1:{broker.port}")
            done = bench(*SHAPES, *QUICK, *server, option, str(path))
            assert done.returncode == 0, done.stderr
            assert bench("pub", *QUICK, *server).returncode == 1
            done = bench("connect:2", *QUICK, *server, option, str(path))
            assert (done.returncode, done.stderr.count("\n")) == (1, 1)
            assert "each connection has to sign" in done.stderr


def test_a_server_on_ipv6(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with Broker(tmp_path / "broker", args=("-a", "0.0.0.0")) as broker:
        done = bench(*SHAPES, "connect:2", *QUICK, "--server", f"nats://[::1]:{broker.port}")
    assert done.returncode == 0, done.stderr


def test_addresses() -> None:
    assert Endpoint.of("[::1]:1").resolve().packed == socket.inet_pton(socket.AF_INET6, "::1")
    assert Endpoint.of("[::1]:1").address == "[::1]:1"
    assert Endpoint.of("127.0.0.1").resolve().packed == bytes([127, 0, 0, 1])
    assert Endpoint.of("[::1]").is_local and not Endpoint.of("10.0.0.1").is_local
    with pytest.raises(LoadError, match="no address is known"):
        Endpoint.of("no.such.host.invalid").resolve()
