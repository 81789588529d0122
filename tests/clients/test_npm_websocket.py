"""The npm clients over WebSocket, where they are installed: nats.ws 1.x and `wsconnect` of @nats-io/nats-core 3.x.

SHARDBROKER_TEST_NPM names the folder with node_modules (npm install nats.ws@1 @nats-io/nats-core@3 ws@8).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transports.conftest import Authority

from harness import Broker
from harness.jwts import Estate, Signer

Drive = Callable[..., None]
SCRIPT = Path(__file__).with_name("websocket_client.mjs")
MODULES = Path(os.environ.get("SHARDBROKER_TEST_NPM", "")) / "node_modules"
SECONDS = 120
ORIGIN = "https://app.example"
estate = Estate()
USER = Signer("user", "web")


@pytest.fixture(params=["nats.ws", "nats-core"])
def drive(request: pytest.FixtureRequest, subject: str) -> Drive:
    """Lets a client do its round over WebSocket at a broker, with options of the script."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    package = "nats.ws" if request.param == "nats.ws" else "@nats-io/nats-core"
    if not all((MODULES / name).is_dir() for name in (package, "ws")):
        pytest.skip("SHARDBROKER_TEST_NPM does not name a folder with this client")

    def run(broker: Broker, scheme: str = "ws", **options: Any) -> None:
        port = int(broker.wait_log(r"Listening for websocket clients on wss?://\S+").rpartition(":")[2])
        said = {"url": f"{scheme}://localhost:{port}", "subject": subject, **options}
        done = subprocess.run(
            [node, str(SCRIPT), str(MODULES), request.param, json.dumps(said)],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.stdout.split() == ["OK"], done.stdout + done.stderr

    return run


@pytest.mark.parametrize(("taken", "deflate"), [("true", "yes"), ("false", "no"), ("true", None)])
def test_compression(drive: Drive, fresh_broker: Callable[..., Broker], taken: str, deflate: str | None) -> None:
    """Taken when both want it; neither is disturbed when only one does."""
    broker = fresh_broker(config=f"websocket {{ port: -1, no_tls: true, compression: {taken} }}")
    drive(broker, **({} if deflate is None else {"deflate": deflate}))


def test_origins(drive: Drive, fresh_broker: Callable[..., Broker]) -> None:
    broker = fresh_broker(config=f'websocket {{ port: -1, no_tls: true, allowed_origins: ["{ORIGIN}"] }}')
    drive(broker, headers={"Origin": ORIGIN})
    # What a client library makes of an upgrade or handshake that fails is its own affair; that it is told so is ours.
    drive(broker, headers={"Origin": "https://evil.example"}, refused="")
    broker.wait_log("websocket handshake error: origin not allowed")


def test_certificates_of_clients(drive: Drive, fresh_broker: Callable[..., Broker], authority: Authority) -> None:
    block = authority.block(authority.trusted, "verify: true")
    broker = fresh_broker(config=f"websocket {{ port: -1\n{block} }}")
    shown = {"ca": authority.path("ca.pem"), "deflate": "no"}
    drive(
        broker, "wss", cert=authority.path("client.pem"), key=authority.path("client-key.pem"), **shown
    )
    drive(broker, "wss", refused="", **shown)
    broker.wait_log(r"TLS handshake error")


@pytest.fixture(scope="module")
def operated(workers: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    account = estate.account_token(estate.a)
    config = (
        f"operator: {estate.operator_token()}\nresolver: MEMORY\nresolver_preload {{ {estate.a.public}: {account} }}\n"
        "websocket { port: -1, no_tls: true, jwt_cookie: session }\n"
    )
    with Broker(tmp_path_factory.mktemp("operated"), workers=workers, config=config) as broker:
        yield broker


def test_jwts(drive: Drive, operated: Broker) -> None:
    token = estate.user_token(USER, estate.a)
    drive(operated, jwt=token, seed=USER.seed)
    drive(operated, jwt=token, seed=Signer("user", "other").seed, refused="authorization violation")


def test_a_jwt_in_a_cookie(drive: Drive, operated: Broker) -> None:
    """A browser cannot sign without its page having the key: a bearer token in a cookie is enough."""
    bearer = estate.user_token(USER, estate.a, bearer_token=True)
    drive(operated, headers={"Cookie": f"other=1; session={bearer}"})
    drive(operated, headers={"Cookie": f"other={bearer}"}, refused="authorization violation")
