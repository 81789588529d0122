"""Private exports over the wire: an account imports them with an activation token that the exporter has signed.

Source: accounts.go checkActivation, activationExpired; CVE-2021-3127.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import Broker, RawClient, wait_until
from harness.jwts import Signer
from protocol.test_operator import OTHER, Admin, estate, user_of

EXPORTS = [
    {"name": "s", "subject": "priv.*", "type": "stream", "token_req": True},
    {"name": "q", "subject": "ask.*", "type": "service", "token_req": True},
    {"name": "m", "subject": "mark.*", "type": "stream"},
]


@pytest.fixture
def private(workers: int, tmp_path: Path) -> Iterator[Broker]:
    """A directory of accounts in which A exports to those with a token, and B imports nothing."""
    path = tmp_path / "jwt"
    path.mkdir()
    for signer, exports in ((estate.system, []), (estate.a, EXPORTS), (estate.b, [])):
        (path / f"{signer.public}.jwt").write_text(estate.account_token(signer, exports=exports))
    text = f"operator: {estate.operator_token()}\nresolver {{ type: full, dir: '{path}' }}\n"
    with Broker(tmp_path / "broker", workers=workers, config=text) as broker:
        yield broker


def activation(kind: str, subject: str, *, by: Signer = estate.a, to: Signer = estate.b, **more: Any) -> str:
    return by.token("activation", to.public, {"subject": subject, "kind": kind}, **more)


def importing(stream: str, service: str, mark: int = 0) -> str:
    """B's token, with imports that have these activations, and one that needs none: it shows when the token holds."""
    return estate.account_token(
        estate.b,
        imports=[
            {"account": estate.a.public, "subject": "priv.x", "type": "stream", "token": stream},
            {"account": estate.a.public, "subject": "ask.x", "local_subject": "please", "type": "service", "token": service},
            {"account": estate.a.public, "subject": f"mark.{mark}", "type": "stream"},
        ],
    )


def push(admin: Admin, token: str) -> None:
    assert admin.ask("$SYS.REQ.CLAIMS.UPDATE", token)["data"]["code"] == 200


class Traffic:
    """A publisher and a service in A, and someone in B."""

    def __init__(self, broker: Broker) -> None:
        self.a: RawClient = user_of(broker, estate.a).sub("ask.*", 1).flush()
        self.b: RawClient = user_of(broker, estate.b, OTHER)
        self.b.sub("priv.>", 1).sub("done", 2).sub("mark.*", 3).flush()

    def streams(self, subject: str = "priv.x") -> bool:
        """Whether what A publishes comes to B now: a message of B's own tells when it would have been there."""
        self.a.pub(subject, "s").flush()
        self.b.pub("done", "d")
        found = self.b.messages(1)[0]
        if found[0] == "done":
            return False
        self.b.messages(1)
        return True

    def serves(self) -> bool:
        """Whether a request of B comes to A now."""
        self.b.pub("please", "q").flush()
        self.a.pub("ask.end", "e")
        found = self.a.messages(1)[0]
        if found[0] == "ask.end":
            return False
        self.a.messages(1)
        return True


def test_a_token_lets_an_account_import_and_a_change_ends_it(private: Broker) -> None:
    admin, traffic = Admin(private), Traffic(private)
    assert not traffic.streams() and not traffic.serves()
    push(admin, importing(activation("stream", "priv.x"), activation("service", "ask.x")))
    wait_until(traffic.streams, "the stream")
    wait_until(traffic.serves, "the service")
    # The exporter revokes what it has given to that account so far.
    revoked = [dict(export, revocations={estate.b.public: int(time.time())}) for export in EXPORTS]
    push(admin, estate.account_token(estate.a, exports=revoked))
    wait_until(lambda: not traffic.streams(), "the end of the stream")
    wait_until(lambda: not traffic.serves(), "the end of the service")


def test_tokens_that_let_nobody_import(private: Broker) -> None:
    admin, traffic = Admin(private), Traffic(private)
    cases = (
        ("", ""),
        (activation("stream", "priv.y"), activation("service", "ask.y")),
        (activation("stream", "priv.x", to=estate.system), activation("service", "ask.x", to=estate.system)),
        (activation("stream", "priv.x", by=estate.b), activation("service", "ask.x", by=estate.b)),
        (activation("service", "priv.x"), activation("stream", "ask.x")),
        (activation("stream", "priv.x", expires=1), activation("service", "ask.x", not_before=1 << 40)),
    )
    for number, (stream, service) in enumerate(cases):
        push(admin, importing(stream, service, number))
        wait_until(lambda number=number: traffic.streams(f"mark.{number}"), "the change")  # type: ignore[misc]
        assert not traffic.streams() and not traffic.serves()


def test_an_import_ends_with_its_token(private: Broker) -> None:
    admin, traffic = Admin(private), Traffic(private)
    ends = int(time.time()) + 3
    push(admin, importing(activation("stream", "priv.x", expires=ends), activation("service", "ask.x", expires=ends)))
    wait_until(lambda: traffic.streams() or time.time() >= ends, "the stream, or its end")
    wait_until(lambda: not traffic.streams(), "the end of the stream")
    wait_until(lambda: not traffic.serves(), "the end of the service")
    assert time.time() >= ends
