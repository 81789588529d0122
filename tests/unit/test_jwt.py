"""JWTs, and the trust between operators, accounts and users. Source: the jwt library; auth.go, accounts.go, jwt.go."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.jwts import UNLIMITED, USER_UNLIMITED, Estate, Signer, part
from shardbroker.auth.claims import account_claims, operator_claims, user_claims
from shardbroker.auth.gate import Identity, Login, Refusal
from shardbroker.auth.jwt import JwtError, decode, undecorated
from shardbroker.auth.model import (
    Export,
    Import,
    JetStreamLimits,
    MapDestination,
    Mapping,
    OperatorMode,
    Permissions,
    Resolver,
    ResponsePermission,
    ServiceLatency,
    SubjectPermission,
)
from shardbroker.auth.resolver import DirectoryStore, ResolverError
from shardbroker.auth.trust import AccountBook, OperatorGate, allowed_until, source_allowed

NOW = 1_800_000_000.0
NONCE = b"PXoWU7zWAMt75FY"
estate = Estate()
USER = Signer("user", "u")


def gate(*accounts: tuple[Signer, str], operator: str = "", **mode: Any) -> OperatorGate:
    preload = tuple((signer.public, token) for signer, token in accounts)
    made = OperatorMode((operator or estate.operator_token(),), (), Resolver(), preload, **mode)
    return OperatorGate(made, AccountBook(made), estate.system.public)


def login(token: str, signer: Signer = USER, **more: Any) -> Login:
    return Login(jwt=token, signature=signer.sign(NONCE), nonce=NONCE, ip="10.1.2.3", **more)


def reason(gate: OperatorGate, login: Login, now: float = NOW) -> str:
    answer = gate.check(login, now)
    assert isinstance(answer, Refusal)
    return answer.reason


def identity(gate: OperatorGate, login: Login, now: float = NOW) -> Identity:
    answer = gate.check(login, now)
    assert isinstance(answer, Identity), answer
    return answer


A = (estate.a, estate.account_token(estate.a))


# -- tokens --


def test_a_token() -> None:
    claims = decode(
        estate.user_token(USER, estate.a, name="joe", tags=["x:y"], expires=5, not_before=3), "user"
    )
    assert (claims.subject, claims.issuer, claims.name, claims.tags) == (
        USER.public, estate.a.public, "joe", ("x:y",),
    )  # fmt: skip
    assert [claims.valid_at(now) for now in (2.9, 3, 4.9, 5)] == [False, True, True, False]
    old = estate.a.token("user", USER.public, {"subs": -1}, old=True)
    assert decode(old, "user").subject == USER.public
    assert undecorated(f"-----BEGIN NATS USER JWT-----\n{old}\n------END NATS USER JWT------\n\n") == old


def test_tokens_of_version_1() -> None:
    """What they left out, and what stood elsewhere in them; as in the credentials of nats-py's own tests."""

    def old(signer: Signer, kind: str, nats: dict[str, Any], **top: Any) -> str:
        claims = {"iss": signer.public, "sub": USER.public, "type": kind, "nats": nats, **top}
        first, second = (part(json.dumps(value).encode()) for value in ({"typ": "jwt", "alg": "ed25519"}, claims))
        return f"{first}.{second}.{signer.sign(second)}"

    nothing_said = user_claims(old(estate.a, "user", {}, tags=["x:y"], issuer_account=estate.b.public))
    assert (nothing_said.limits.max_subscriptions, nothing_said.limits.max_payload) == (-1, -1)
    assert (nothing_said.claims.tags, nothing_said.account) == (("x:y",), estate.b.public)
    said = user_claims(old(estate.a, "user", {"subs": 3, "payload": 0, "src": "10.0.0.0/8,::1"}))
    assert (said.limits.max_subscriptions, said.limits.max_payload) == (3, 0)
    assert said.limits.sources == ("10.0.0.0/8", "::1")
    activation = decode(old(estate.a, "activation", {"subject": "x", "type": "stream"}), "activation")
    assert (activation.nats["kind"], activation.nats["subject"]) == ("stream", "x")
    for version in (0, 3, None):
        with pytest.raises(JwtError):
            decode(estate.a.token("user", USER.public, version=version), "user")


def test_what_is_no_token() -> None:
    good = estate.user_token(USER, estate.a)
    header, payload, signature = good.split(".")
    other = estate.user_token(USER, estate.b).split(".")
    bad = [
        "", ".", "..", "a.b.c", "a" * 2_000_000, f"{header}.{payload}", f"{header}.{payload}.", f"{header}.{payload}.AAAA",
        f"{header}.{other[1]}.{signature}", f"{header}.{payload}.{other[2]}", good + ".x", "é." * 2,
        f"{part(b'[]')}.{payload}.{signature}", f"{part(b'{')}.{payload}.{signature}", f"{header}.{part(b'1')}.{signature}",
        estate.operator.token("user", USER.public), USER.token("user", USER.public),
        estate.a.token("account", USER.public), estate.a.token("user", USER.public, {"tags": [1]}),
        estate.a.token("user", USER.public, expires="soon"),  # type: ignore[arg-type]
    ]  # fmt: skip
    for token in bad:
        with pytest.raises(JwtError):
            decode(token, "user")
    # An algorithm that asks for no signature, or for another.
    for algorithm in ("none", "HS256", "", None):
        false = part(json.dumps({"typ": "JWT", "alg": algorithm}).encode())
        with pytest.raises(JwtError):
            decode(f"{false}.{payload}.{estate.a.sign(f'{false}.{payload}')}", "user")


def test_the_length_of_an_issuer_is_checked_first() -> None:
    """2026-23: keys of any length, in the place of one of 56 characters."""
    for issuer in (
        "",
        "A",
        "A" * 55,
        "A" * 56,
        "A" * 57,
        "A" * 10_000,
        estate.a.public.lower(),
        "U" + estate.a.public[1:],
    ):
        payload = part(json.dumps({"iss": issuer, "sub": USER.public, "nats": {"type": "user"}}).encode())
        header = part(b'{"typ":"JWT","alg":"ed25519-nkey"}')
        with pytest.raises(JwtError):
            decode(f"{header}.{payload}.{estate.a.sign(f'{header}.{payload}')}", "user")


TEXT = st.text("aA.*>{}é ", max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        "pub",
        "sub",
        "resp",
        "subs",
        "data",
        "payload",
        "src",
        "times",
        "times_location",
        "bearer_token",
        "allowed_connection_types",
        "issuer_account",
        "tags",
        "imports",
        "exports",
        "limits",
        "signing_keys",
        "revocations",
        "default_permissions",
        "mappings",
        "authorization",
        "trace",
        "type",
        "version",
    ]
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(FIELDS, JSON, max_size=4), st.sampled_from(["user", "account", "operator"]))
def test_claims_of_any_form(nats: dict[str, Any], kind: str) -> None:
    """What is signed may still be nonsense: it is refused in words, never a traceback."""
    signer = estate.operator if kind != "user" else estate.a
    token = signer.token(
        kind, {"user": USER, "account": estate.a, "operator": estate.operator}[kind].public, nats
    )
    read = {"user": user_claims, "account": account_claims, "operator": operator_claims}[kind]
    with contextlib.suppress(JwtError):
        assert read(token)


# -- claims --


def test_operators() -> None:
    other = Signer("operator", "other")
    claims = operator_claims(estate.operator_token(signing_keys=[other.public]))
    assert claims.keys == (estate.operator.public, other.public)
    assert claims.system_account == estate.system.public
    strict = operator_claims(
        estate.operator_token(signing_keys=[other.public], strict_signing_key_usage=True)
    )
    assert strict.keys == (other.public,)
    with pytest.raises(JwtError):
        operator_claims(estate.operator_token(signing_keys=[estate.a.public]))


def test_permissions_of_a_user() -> None:
    claims = user_claims(
        estate.user_token(
            USER,
            estate.a,
            pub={"allow": ["a"], "deny": ["b"]},
            sub={"allow": ["c q"]},
            resp={"max": 3, "ttl": 10**9},
        )
    )
    assert claims.limits.permissions == Permissions(
        SubjectPermission(("a",), ("b",)), SubjectPermission(("c q",)), ResponsePermission(3, 1.0)
    )
    assert user_claims(estate.user_token(USER, estate.a, pub={"allow": []})).limits.permissions is None
    answers = user_claims(estate.user_token(USER, estate.a, resp={"max": 0, "ttl": 0})).limits.permissions
    assert answers == Permissions(SubjectPermission(()), None, ResponsePermission(1, 120.0))
    for wrong in (
        {"pub": {"allow": ["a..b"]}},
        {"pub": {"allow": ["a b"]}},
        {"sub": {"deny": ["a b c"]}},
        {"resp": 1},
    ):
        with pytest.raises(JwtError):
            user_claims(estate.user_token(USER, estate.a, **wrong))


def test_an_account_with_everything() -> None:
    b = estate.b.public
    claims = account_claims(
        estate.account_token(
            estate.a,
            exports=[
                {"subject": "pub.>", "type": "stream"},
                {
                    "subject": "svc",
                    "type": "service",
                    "response_type": "Chunked",
                    "response_threshold": 5 * 10**9,
                },
                {"subject": "own.*", "type": "stream", "token_req": True, "revocations": {b: 7}},
                {
                    "subject": "lat",
                    "type": "service",
                    "service_latency": {"sampling": "headers", "results": "r"},
                },
                {"subject": "bad..", "type": "stream"},
            ],
            imports=[
                {"account": b, "subject": "s.*", "type": "stream", "to": "pre"},
                {"account": b, "subject": "t.*", "type": "stream", "local_subject": "here.$1"},
                {"account": b, "subject": "local", "to": "remote", "type": "service", "share": True},
                {"account": b, "subject": "remote2", "local_subject": "local2", "type": "service"},
            ],
            mappings={"m.*": [{"subject": "n.$1", "weight": 60}], "bad..": [{"subject": "x"}]},
            default_permissions={"sub": {"deny": ["x"]}},
            limits=UNLIMITED
            | {"conn": 3, "disk_storage": 100, "streams": 2, "consumer": 5, "disk_max_stream_bytes": 7},
            trace={"dest": "t", "sampling": 500},
        )
    )
    account = claims.account
    assert account.exports == (
        Export("stream", "pub.>"),
        Export("service", "svc", response_type="chunked", response_seconds=5.0),
        Export("stream", "own.*", token_required=True, revocations=((b, 7),)),
        Export("service", "lat", latency=ServiceLatency("r", 0)),
    )
    assert account.imports == (
        Import("stream", b, "s.*", "pre.s.*"),
        Import("stream", b, "t.*", "here.$1"),
        Import("service", b, "remote", "local", share=True),
        Import("service", b, "remote2", "local2"),
    )
    assert account.mappings == (Mapping("m.*", (MapDestination("n.$1", 60),)),)
    assert account.default_permissions == Permissions(None, SubjectPermission(None, ("x",)))
    assert (account.limits.max_connections, account.limits.max_subscriptions) == (3, -1)
    assert dict(account.jetstream)[""] == JetStreamLimits(0, 100, 2, 5, store_max_stream_bytes=7)
    assert account.trace is not None and account.trace.sampling == 100


# -- who comes in --


def test_a_user_of_an_account() -> None:
    made = identity(
        gate(A), login(estate.user_token(USER, estate.a, pub={"allow": ["x"]}, subs=5, name="joe"))
    )
    assert (made.account, made.name, made.label) == (
        estate.a.public, USER.public, f"{estate.a.public}/jwt:{USER.public}",
    )  # fmt: skip
    assert made.permissions == Permissions(SubjectPermission(("x",)))
    assert (made.max_subscriptions, made.max_payload, made.expires, made.name_tag) == (5, -1, 0, "joe")


def test_the_trust() -> None:
    stranger, key = Signer("operator", "stranger"), Signer("account", "signing")
    token = estate.user_token(USER, estate.a)
    by_key = estate.user_token(USER, key, account=estate.a)
    own = gate((estate.a, estate.account_token(estate.a)))
    with_key = gate((estate.a, estate.account_token(estate.a, signing_keys=[key.public])))
    assert identity(with_key, login(by_key)).account == estate.a.public
    assert identity(with_key, login(token)).account == estate.a.public
    assert reason(own, login(by_key)) == "User JWT issuer is not known"
    assert (
        reason(own, login(estate.user_token(USER, estate.b, account=estate.a)))
        == "User JWT issuer is not known"
    )
    assert reason(gate(), login(token)) == "Account JWT lookup error"
    for wrong in (
        estate.account_token(estate.a, by=stranger),
        estate.account_token(estate.a, by=estate.a),
        estate.account_token(estate.b),
    ):
        assert reason(gate((estate.a, wrong)), login(token)) == "Account JWT lookup error"
    assert reason(own, Login()) == "Authentication requires a user JWT"
    assert reason(own, Login("a", "b", "c")) == "Authentication requires a user JWT"
    assert reason(own, login(token + "x")) == "Authentication requires a user JWT"
    # The signature is of this connection's nonce, by the user.
    assert reason(own, login(token, Signer("user", "other"))) == "Signature not verified"
    assert reason(own, Login(jwt=token, nonce=NONCE)) == "Signature missing"
    assert (
        reason(own, Login(jwt=token, nonce=b"other", signature=USER.sign(NONCE))) == "Signature not verified"
    )


def test_strict_signing_keys() -> None:
    signing, key = Signer("operator", "signing"), Signer("account", "signing")
    strict = estate.operator_token(signing_keys=[signing.public], strict_signing_key_usage=True)
    token, by_key = estate.user_token(USER, estate.a), estate.user_token(USER, key, account=estate.a)
    account = estate.account_token(estate.a, by=signing, signing_keys=[key.public])
    assert reason(gate((estate.a, account), operator=strict), login(token)) == "User JWT issuer is not known"
    assert identity(gate((estate.a, account), operator=strict), login(by_key))
    assert reason(gate(A, operator=strict), login(by_key)) == "Account JWT lookup error"


def test_times_of_validity() -> None:
    soon = int(NOW) + 60
    made = identity(gate(A), login(estate.user_token(USER, estate.a, expires=soon)))
    assert made.expires == soon
    for token in (
        estate.user_token(USER, estate.a, expires=int(NOW)),
        estate.user_token(USER, estate.a, not_before=soon),
    ):
        assert reason(gate(A), login(token)) == "User JWT no longer valid"
    expired = estate.a, estate.account_token(estate.a, expires=int(NOW))
    assert reason(gate(expired), login(estate.user_token(USER, estate.a))) == "Account JWT has expired"


def test_revocations() -> None:
    old, new = (estate.user_token(USER, estate.a, issued=at) for at in (100, 200))
    for revoked in ({USER.public: 150}, {"*": 150}, {"*": 100, USER.public: 120}):
        account = gate((estate.a, estate.account_token(estate.a, revocations=revoked)))
        assert reason(account, login(old)) == "User authentication revoked"
        assert identity(account, login(new))


def test_bearers() -> None:
    token = estate.user_token(USER, estate.a, bearer_token=True)
    assert identity(gate(A), Login(jwt=token, ip="::1"))
    no = estate.a, estate.account_token(estate.a, limits=UNLIMITED | {"disallow_bearer": True})
    assert reason(gate(no), Login(jwt=token)) == "Account does not allow bearer tokens"


def test_an_account_that_delegates_its_users() -> None:
    """The token alone is not enough, but for the service's own user."""
    account = gate((estate.a, estate.account_token(estate.a, authorization={"auth_users": [USER.public]})))
    other = Signer("user", "other")
    assert not identity(account, login(estate.user_token(USER, estate.a))).delegated
    assert identity(account, login(estate.user_token(other, estate.a), other)).delegated
    assert "signature" in reason(account, login(estate.user_token(other, estate.a), USER)).lower()


def test_connection_types() -> None:
    web = estate.user_token(USER, estate.a, allowed_connection_types=["websocket", "FUTURE"])
    assert reason(gate(A), login(web)) == "Connection type not allowed"
    assert identity(gate(A), login(web, connection_type="WEBSOCKET"))
    # None that is known here: not the same as none at all.
    future = estate.user_token(USER, estate.a, allowed_connection_types=["FUTURE"])
    assert reason(gate(A), login(future)) == "Connection type not allowed"


def test_who_must_come_through_a_proxy_may_not_come() -> None:
    """No proxy is trusted here (auth.go ErrAuthProxyRequired)."""
    proxied = estate.user_token(USER, estate.a, proxy_required=True)
    assert reason(gate(A), login(proxied)) == "Proxy connection required"


def test_sources() -> None:
    near = estate.user_token(USER, estate.a, src=["192.168.0.0/16", "10.1.0.0/16"])
    far = estate.user_token(USER, estate.a, src=["192.168.0.0/16"])
    assert identity(gate(A), login(near))
    assert reason(gate(A), login(far)) == "Bad src Ip 10.1.2.3"
    assert source_allowed(("::1/128",), "::1") and not source_allowed(("10.0.0.0/8",), "::1")
    assert not source_allowed(("10.0.0.0/8",), "nonsense")
    with pytest.raises(JwtError):
        user_claims(estate.user_token(USER, estate.a, src=["10.0.0.0/99"]))


@pytest.mark.parametrize(
    ("times", "clock", "left"),
    [
        ([("08:00:00", "12:00:00")], "09:00:00", 3 * 3600),
        ([("08:00:00", "12:00:00")], "12:30:00", None),
        ([("08:00:00", "12:00:00"), ("11:00:00", "13:00:00")], "11:30:00", 90 * 60),
        ([("22:00:00", "02:00:00")], "23:00:00", 3 * 3600),
        ([("22:00:00", "02:00:00")], "01:00:00", 3600),
        ([("22:00:00", "02:00:00")], "12:00:00", None),
    ],
)
def test_times_of_day(times: list[tuple[str, str]], clock: str, left: int | None) -> None:
    limits = user_claims(
        estate.user_token(
            USER, estate.a, times=[{"start": a, "end": b} for a, b in times], times_location="Etc/UTC"
        )
    ).limits
    hour, minute, second = map(int, clock.split(":"))
    now = 20_000 * 86400 + hour * 3600 + minute * 60 + second
    until = allowed_until(limits, now)
    assert until == (None if left is None else now + left)


def test_pinned_accounts() -> None:
    token = estate.user_token(USER, estate.a)
    assert identity(gate(A, pinned_accounts=(estate.a.public,)), login(token))
    assert "pinned" in reason(gate(A, pinned_accounts=(estate.b.public,)), login(token))


def test_the_default_sentinel() -> None:
    guest = estate.user_token(USER, estate.a, bearer_token=True, name="guest")
    assert identity(gate(A, default_sentinel=guest), Login()).name_tag == "guest"
    assert identity(gate(A, default_sentinel=guest), Login(jwt="nonsense")).name_tag == "guest"


# -- scopes --


def scoped(template: dict[str, Any], token: str, **account: Any) -> Identity | Refusal:
    key = Signer("account", "scope")
    scope = {"kind": "user_scope", "key": key.public, "role": "r", "template": USER_UNLIMITED | template}
    holder = estate.a, estate.account_token(estate.a, signing_keys=[scope], **account)
    return gate(holder).check(login(token), NOW)


def scoped_user(**more: Any) -> str:
    nats = {"issuer_account": estate.a.public, **{k: v for k, v in more.items() if k != "name"}}
    return Signer("account", "scope").token("user", USER.public, nats, name=more.get("name", ""))


def test_a_scope_says_what_its_users_may() -> None:
    template = {
        "pub": {"allow": ["u.{{name()}}.>", "{{subject()}}"]},
        "sub": {"deny": ["{{account-name()}}.x"]},
        "subs": 3,
    }
    made = scoped(template, scoped_user(name="joe"), name="acc")
    assert isinstance(made, Identity)
    assert made.permissions == Permissions(
        SubjectPermission(("u.joe.>", USER.public)), SubjectPermission(None, ("acc.x",))
    )
    assert made.max_subscriptions == 3
    # Its users say nothing themselves.
    for own in ({"pub": {"allow": [">"]}}, {"subs": -1}, {"bearer_token": True}, {"src": ["10.0.0.0/8"]}):
        refused = scoped(template, scoped_user(name="joe", **own))
        assert isinstance(refused, Refusal) and "scoped users require" in refused.reason


def test_templates_with_tags() -> None:
    template = {"pub": {"allow": ["{{tag(team)}}.{{account-tag(zone)}}.>"]}}
    made = scoped(template, scoped_user(tags=["team:x", "team:y", "other:z"]), tags=["zone:1", "zone:2"])
    assert (
        isinstance(made, Identity) and made.permissions is not None and made.permissions.publish is not None
    )
    assert made.permissions.publish.allow == ("x.1.>", "x.2.>", "y.1.>", "y.2.>")
    # Nothing comes of an allow: then nothing is allowed. Nothing comes of a deny: then nobody comes in.
    none = scoped(template, scoped_user())
    assert isinstance(none, Identity) and none.permissions is not None
    assert none.permissions.publish == SubjectPermission((), (">",))
    for denied in ("{{tag(team)}}.x", "{{what()}}"):
        assert isinstance(scoped({"pub": {"deny": [denied]}}, scoped_user()), Refusal)


def test_a_name_makes_no_subject_of_its_own() -> None:
    """A blank would make a queue group of the rest, an empty name or a dot another subject."""
    template = {"sub": {"allow": ["u.{{name()}}"]}}
    for name in ("a b", "", "a..b", "\t"):
        made = scoped(template, scoped_user(name=name))
        assert isinstance(made, Identity) and made.permissions is not None
        assert made.permissions.subscribe == SubjectPermission((), (">",))


def test_the_number_of_subjects_is_bounded() -> None:
    template = {"pub": {"allow": ["{{tag(a)}}.{{tag(a)}}.{{tag(a)}}.{{tag(a)}}"]}}
    assert isinstance(scoped(template, scoped_user(tags=[f"a:{n}" for n in range(9)])), Refusal)


# -- imports --


def test_imports_of_accounts() -> None:
    activation = estate.a.token(
        "activation", estate.b.public, {"subject": "priv.x", "kind": "stream"}, issued=50
    )
    exports = [
        {"subject": "pub", "type": "stream"},
        {"subject": "priv.*", "type": "stream", "token_req": True, "revocations": {"*": 10}},
    ]

    def imports(*items: dict[str, Any], exports: list[dict[str, Any]] = exports) -> list[str]:
        made = gate(
            (estate.a, estate.account_token(estate.a, exports=exports)),
            (
                estate.b,
                estate.account_token(
                    estate.b,
                    imports=[{"account": estate.a.public, "type": "stream", **item} for item in items],
                ),
            ),
        )
        account = made.accounts.checked(estate.b.public, NOW)
        assert account is not None
        return [one.subject for one in account.imports]

    assert imports({"subject": "pub"}, {"subject": "nothing"}, {"subject": "priv.x"}) == ["pub"]
    assert imports({"subject": "priv.x", "token": activation}) == ["priv.x"]
    # CVE-2021-3127: a token for another subject, another account, of another issuer, revoked, expired.
    for token in (
        activation + "x",
        estate.a.token("activation", estate.b.public, {"subject": "other", "kind": "stream"}),
        estate.a.token("activation", estate.system.public, {"subject": "priv.x", "kind": "stream"}),
        estate.a.token("activation", estate.b.public, {"subject": "priv.x", "kind": "service"}),
        estate.b.token("activation", estate.b.public, {"subject": "priv.x", "kind": "stream"}),
        estate.b.token(
            "activation",
            estate.b.public,
            {"subject": "priv.x", "kind": "stream", "issuer_account": estate.a.public},
        ),
        estate.a.token("activation", estate.b.public, {"subject": "priv.x", "kind": "stream"}, issued=10),
        estate.a.token("activation", estate.b.public, {"subject": "priv.x", "kind": "stream"}, expires=60),
    ):
        assert imports({"subject": "priv.x", "token": token}) == []
    # One token is for what it says: not for more.
    assert imports({"subject": "priv.*", "token": activation}) == []


# -- changes --


def test_what_changes_after_coming_in(tmp_path: Path) -> None:
    store = DirectoryStore(str(tmp_path / "jwt"), allow_delete=True, hard_delete=False, limit=2)
    store.prepare()
    mode = OperatorMode((estate.operator_token(),), (), Resolver("full", directory=str(tmp_path / "jwt")))
    made = OperatorGate(mode, AccountBook(mode), estate.system.public)
    token = estate.user_token(USER, estate.a, issued=100)
    assert reason(made, login(token)) == "Account JWT lookup error"
    store.save(estate.a.public, A[1])
    who = identity(made, login(token))
    assert made.still(who, NOW) == who
    changed = estate.account_token(estate.a, default_permissions={"sub": {"deny": ["x"]}})
    store.save(estate.a.public, changed)
    now = made.still(who, NOW)
    assert isinstance(now, Identity) and now.permissions == Permissions(None, SubjectPermission(None, ("x",)))
    for text, error in (
        (estate.account_token(estate.a, revocations={"*": 150}), "User Authentication Revoked"),
        (estate.account_token(estate.a, expires=int(NOW) - 1), "Account Authentication Expired"),
    ):
        store.save(estate.a.public, text)
        refused = made.still(who, NOW)
        assert isinstance(refused, Refusal) and refused.error == error
    store.delete(estate.a.public)
    assert isinstance(made.still(who, NOW), Refusal)
    assert store.keys() == []
    assert (tmp_path / "jwt" / f"{estate.a.public}.jwt.deleted").exists()


def test_the_directory_is_bounded_and_closed(tmp_path: Path) -> None:
    store = DirectoryStore(str(tmp_path / "d"), allow_delete=False, hard_delete=False, limit=1)
    store.prepare()
    store.save(estate.a.public, "x.y.z")
    store.save(estate.a.public, "x.y.w")
    assert store.load(estate.a.public) == "x.y.w"
    with pytest.raises(ResolverError, match="full"):
        store.save(estate.b.public, "x")
    with pytest.raises(ResolverError, match="delete must be enabled"):
        store.delete(estate.a.public)
    (tmp_path / "secret.jwt").write_text("s")
    for name in ("../secret", "..", "", "/etc/passwd", estate.a.public + "/../x", estate.a.public.lower()):
        assert store.load(name) is None
        with pytest.raises(ResolverError):
            store.save(name, "x")
    assert store.keys() == [estate.a.public]
    assert not list((tmp_path / "d").glob("*.tmp"))
