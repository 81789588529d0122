"""Who may come in: users, tokens, nkeys, no_auth_user, and failures by address. Source: auth.go."""

from __future__ import annotations

import base64
from dataclasses import replace

import bcrypt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shardbroker.auth import nkey
from shardbroker.auth.gate import ANYBODY, Gate, Identity, Login, PasswordHash, Refusal
from shardbroker.auth.model import Account, Permissions, SubjectPermission, User
from shardbroker.options import Options
from shardbroker.shard.passwords import compare
from shardbroker.shard.throttle import ADDRESSES_MAX, FAILURES_MAX, REFILL_PER_SECOND, Throttle

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
USER_KEY = nkey.public_text("user", KEY.public_key().public_bytes_raw())
NONCE = b"PXoWU7zWAMt75FY"


def signed(key: Ed25519PrivateKey = KEY, nonce: bytes = NONCE) -> str:
    return base64.urlsafe_b64encode(key.sign(nonce)).rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("options", "login", "accepted"),
    [
        (Options(), Login("any", "thing", "goes"), True),
        (Options(user="u", password="p"), Login("u", "p"), True),
        (Options(user="u", password="p"), Login("u", "P"), False),
        (Options(user="u", password="p"), Login("v", "p"), False),
        (Options(user="u", password="p"), Login(), False),
        (Options(user="u", password="p"), Login("u", "", "p"), False),
        (Options(token="t"), Login("", "", "t"), True),
        (Options(token="t"), Login(), False),
        (Options(token="t"), Login("t", "t", "x"), False),
        (Options(token="t"), Login("\0token", "t"), False),
        (Options(user="ü", password="pä"), Login("ü", "pä"), True),
    ],
)
def test_one_user_or_a_token(options: Options, login: Login, accepted: bool) -> None:
    assert isinstance(Gate(options).check(login), Identity) is accepted


USERS = Options(
    users=(
        User("alice", "a", account="A", permissions=Permissions(publish=SubjectPermission(("x",)))),
        User("bob", "b", connection_types=("WEBSOCKET",)),
        User("empty"),
        User(nkey=USER_KEY, account="B"),
    )
)


@pytest.mark.parametrize(
    ("login", "name"),
    [
        (Login("alice", "a"), "alice"),
        (Login("alice", "b"), None),
        (Login("alice"), None),
        (Login("nobody", "a"), None),
        (Login("\0", "\0" * 24), None),
        (Login("bob", "b"), None),
        (Login("bob", "b", connection_type="WEBSOCKET"), "bob"),
        (Login("empty"), "empty"),
        (Login("empty", "x"), None),
        (Login(), None),
        (Login(token="a"), None),
        (Login(nkey=USER_KEY, signature=signed(), nonce=NONCE), USER_KEY),
        (Login(nkey=USER_KEY, signature=base64.b64encode(KEY.sign(NONCE)).decode(), nonce=NONCE), USER_KEY),
        (Login(nkey=USER_KEY, signature="", nonce=NONCE), None),
        (Login(nkey=USER_KEY, signature="*", nonce=NONCE), None),
        (Login(nkey=USER_KEY, signature=signed(), nonce=b"another"), None),
        (Login(nkey=USER_KEY, signature=signed(nonce=b""), nonce=b""), None),
        (Login(nkey=USER_KEY, signature=signed(Ed25519PrivateKey.generate()), nonce=NONCE), None),
        (Login("alice", "a", nkey=USER_KEY, nonce=NONCE), None),
        (Login(nkey="U", signature=signed(), nonce=NONCE), None),
    ],
)
def test_users(login: Login, name: str | None) -> None:
    answer = Gate(USERS).check(login)
    assert (answer.name if isinstance(answer, Identity) else None) == name
    if isinstance(answer, Refusal):
        assert answer.reason


def test_an_identity_says_where_and_what() -> None:
    answer = Gate(USERS).check(Login("alice", "a"))
    assert isinstance(answer, Identity)
    assert (answer.account, answer.label, answer.permissions) == (
        "A", "A/user:alice", Permissions(publish=SubjectPermission(("x",))),
    )  # fmt: skip
    assert ANYBODY.label == ""
    assert Gate(Options(token="t")).check(Login(token="t")).label == "$G/token"  # type: ignore[union-attr]


@pytest.mark.parametrize("default", ["alice", USER_KEY])
def test_who_says_nothing_is_no_auth_user(default: str) -> None:
    gate = Gate(replace(USERS, no_auth_user=default))
    answer = gate.check(Login())
    assert isinstance(answer, Identity)
    assert answer.name == default
    # Who says anything must be right.
    for login in (
        Login("alice", "b"),
        Login("nobody"),
        Login(password="x"),
        Login(token="x"),
        Login(nkey="U"),
    ):
        assert isinstance(gate.check(login), Refusal)
    # The name alone, without the password, is no way in; nor is the nkey without its signature, said by the client.
    assert isinstance(gate.check(Login("alice")), Refusal)
    assert isinstance(gate.check(Login(nkey=USER_KEY, nonce=NONCE)), Refusal)


def test_no_auth_user_of_a_connection_type_that_it_may_not_have() -> None:
    gate = Gate(replace(USERS, no_auth_user="bob"))
    assert isinstance(gate.check(Login()), Refusal)
    assert isinstance(gate.check(Login(connection_type="WEBSOCKET")), Identity)


def test_only_the_system_account_has_users() -> None:
    """CVE-2023-47090: then all others come in, but not when an authorization block asks who they are."""
    system = Options(
        users=(User("sys", "s", account="SYS"),), accounts=(Account("SYS"),), system_account="SYS"
    )
    assert Gate(system).check(Login()) == ANYBODY
    assert isinstance(Gate(system).check(Login("sys", "x")), Refusal)
    assert isinstance(Gate(replace(system, auth_block=True)).check(Login()), Refusal)
    more = replace(system, accounts=(Account("SYS"), Account("A")))
    assert isinstance(Gate(more).check(Login()), Refusal)


def test_a_hash_is_compared_elsewhere() -> None:
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    gate = Gate(Options(users=(User("u", hashed),)))
    for password in ("secret", "wrong"):
        question = gate.check(Login("u", password))
        assert isinstance(question, PasswordHash)
        assert "secret" not in repr(question)
        assert compare(question.hash, question.password) is (password == "secret")
    assert isinstance(gate.check(Login("v", "secret")), Refusal)
    # The hash is not the password.
    assert not compare(hashed, hashed)


@pytest.mark.parametrize("hashed", ["$2a$04$short", "$2a$99$" + "a" * 53, "$2a$04$" + "ü" * 53])
def test_what_is_no_hash_matches_nothing(hashed: str) -> None:
    assert not compare(hashed, "")
    assert not compare(hashed, hashed)


def test_every_version_of_a_hash() -> None:
    hashed = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
    for letter in "abxy":
        assert compare(f"$2{letter}" + hashed[3:], "x" * 72)


def test_after_a_reload() -> None:
    alice = Gate(USERS).check(Login("alice", "a"))
    assert isinstance(alice, Identity)
    assert Gate(USERS).same(alice) == alice
    user = USERS.users[0]
    other = replace(user, permissions=None)
    now = Gate(replace(USERS, users=(other,))).same(alice)
    assert now is not None and now.permissions is None
    for changed in ((), (replace(user, password="n"),), (replace(user, account="B"),)):
        assert Gate(replace(USERS, users=changed)).same(alice) is None
    single = Gate(Options(user="u", password="p"))
    known = single.check(Login("u", "p"))
    assert isinstance(known, Identity)
    assert single.same(known) == known
    assert Gate(Options(user="u", password="q")).same(known) is None


# -- nkeys --


@pytest.mark.parametrize("kind", ["account", "curve", "cluster", "server", "operator", "user"])
def test_public_keys(kind: nkey.Kind) -> None:
    text = nkey.public_text(kind, b"\x01" * 32)
    assert (len(text), text[0]) == (56, {"curve": "X", "server": "N"}.get(kind, kind[0].upper()))
    assert nkey.public_bytes(text, kind) == b"\x01" * 32
    assert not nkey.is_public(text, "account" if kind != "account" else "user")
    for damaged in (
        text[:-1],
        text + "A",
        text.lower(),
        text[:20] + ("A" if text[20] != "A" else "B") + text[21:],
    ):
        assert not nkey.is_public(damaged, kind)


def test_signatures() -> None:
    public = KEY.public_key().public_bytes_raw()
    assert nkey.verify(public, NONCE, KEY.sign(NONCE))
    assert not nkey.verify(public, NONCE, KEY.sign(NONCE)[:-1])
    assert not nkey.verify(b"\xff" * 32, NONCE, KEY.sign(NONCE))
    assert not nkey.verify(b"", NONCE, b"")
    assert nkey.decode_signature("é") is None


# -- failures by address --


def test_an_address_that_fails_waits() -> None:
    throttle, now = Throttle(), 100.0
    for _ in range(FAILURES_MAX):
        assert throttle.wait("10.0.0.1", now) == 0
        throttle.failed("10.0.0.1", now)
    waits = [throttle.wait("10.0.0.1", now) for _ in range(5)]
    assert waits == pytest.approx([(n + 1) / REFILL_PER_SECOND for n in range(5)])
    assert throttle.wait("10.0.0.2", now) == 0
    # The budget fills again, and the address is forgotten when it is full.
    assert throttle.wait("10.0.0.1", now + 1) == 0
    assert throttle.wait("10.0.0.1", now + 1000) == 0
    assert not throttle._full_at


def test_an_ipv6_network_is_one_address() -> None:
    throttle = Throttle()
    for number in range(FAILURES_MAX + 1):
        throttle.failed(f"2001:db8::{number:x}", 0.0)
    assert throttle.wait("2001:db8::ffff", 0.0) > 0
    assert throttle.wait("2001:db8:0:1::1", 0.0) == 0


def test_the_memory_of_failures_is_bounded() -> None:
    throttle = Throttle()
    for number in range(ADDRESSES_MAX + 100):
        throttle.failed(f"a{number}", 0.0)
    assert len(throttle._full_at) == ADDRESSES_MAX
