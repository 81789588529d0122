"""Clients over TLS: what is negotiated, who is let in, and that the bytes are those of a plain connection."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import nats
import pytest
from nats.aio.msg import Msg
from protocol.test_callout import CONFIG as CALLOUT
from protocol.test_callout import Service

from harness import Broker, RawClient, wait_until
from harness.raw import CONNECT, msg, pub
from transports.conftest import CLIENT_EMAIL, CLIENT_SUBJECT, Authority

Start = Callable[..., Broker]


class TlsClient(RawClient):
    """A raw client that does the handshake: behind INFO, or first."""

    def __init__(self, port: int, context: ssl.SSLContext, *, first: bool = False, name: str = "localhost") -> None:
        super().__init__(port, info=not first)
        self.socket = context.wrap_socket(self.socket, server_hostname=name)
        if first:
            self.read_info()

    @property
    def tls(self) -> ssl.SSLSocket:
        assert isinstance(self.socket, ssl.SSLSocket)
        return self.socket


def test_publish_and_subscribe(fresh_broker: Start, authority: Authority) -> None:
    broker = fresh_broker(config=authority.block())
    one, two = (TlsClient(broker.port, authority.context()) for _ in range(2))
    assert one.info["tls_required"] is True
    one.connect()
    two.connect()
    two.sub("a.*", 7)
    one.send(b"".join(pub("a.b", b"%d" % n) for n in range(5000)))
    two.expect(b"".join(msg("a.b", 7, b"%d" % n) for n in range(5000)))


def test_large_payloads_and_what_is_sent_byte_by_byte(fresh_broker: Start, authority: Authority) -> None:
    broker = fresh_broker(config=authority.block())
    client = TlsClient(broker.port, authority.context()).connect()
    client.sub("big", 1)
    payload = bytes(range(256)) * 4096
    client.send(pub("big", payload)).expect(msg("big", 1, payload))
    for byte in pub("big", b"slow"):
        client.send(bytes([byte]))
    client.expect(msg("big", 1, b"slow"))


def test_plain_clients_are_refused(fresh_broker: Start, authority: Authority) -> None:
    broker = fresh_broker(config=authority.block())
    client = broker.client()
    client.send(f"CONNECT {CONNECT}\r\nPING\r\n".encode())
    client.expect_closed_any()
    TlsClient(broker.port, authority.context()).connect()


def test_tls_may_be_optional(fresh_broker: Start, authority: Authority) -> None:
    broker = fresh_broker(config=authority.block() + "allow_non_tls: true\n")
    plain, secure = broker.client(), TlsClient(broker.port, authority.context())
    for info in (plain.info, secure.info):
        assert info["tls_available"] is True
        assert "tls_required" not in info
    plain.connect().sub("x", 1)
    secure.connect().pub("x", b"over")
    plain.expect(msg("x", 1, b"over"))


@pytest.mark.parametrize("fallback", [False, True], ids=["always", "auto"])
def test_handshake_first(fresh_broker: Start, authority: Authority, fallback: bool) -> None:
    first = "handshake_first: auto" if fallback else "handshake_first: true"
    broker = fresh_broker(config=authority.block(first))
    context = authority.context()

    def comes_in() -> bool:
        try:
            TlsClient(broker.port, context, first=True).connect()
        except ssl.SSLError:
            assert fallback
            return False  # it had INFO, since its handshake did not begin within 50 ms
        return True

    wait_until(comes_in, "a client whose handshake comes first")
    if fallback:
        TlsClient(broker.port, context).connect()


def test_a_client_that_never_shakes_hands_is_cut(fresh_broker: Start, authority: Authority) -> None:
    broker = fresh_broker(config=authority.block("timeout: 0.2"), args=["-D"])
    broker.client().expect_closed_any()
    # Whoever scans the network does so: no error of the server's.
    broker.wait_log(r"\[DBG\].*TLS handshake timeout")


@pytest.mark.parametrize("said", [b"CONNECT {}\r\nPING\r\n", b"GET / HTTP/1.1\r\n\r\n", b"PING\r\n"])
def test_a_client_that_does_no_tls_is_told_of(fresh_broker: Start, authority: Authority, said: bytes) -> None:
    broker = fresh_broker(config=authority.block(), args=["-D"])
    client = broker.client()
    client.send(said)
    client.expect_closed_any()
    broker.wait_log(r"\[DBG\].*TLS handshake error: tls: first record does not look like a TLS handshake")


@pytest.mark.parametrize(
    ("settings", "after", "says"),
    [
        ("", "", [r"\[INF\] TLS required for client connections$"]),
        ("", "allow_non_tls: true", [r"\[INF\] TLS available for client connections$"]),
        ("handshake_first: auto", "allow_non_tls: true", [r"\[INF\] TLS available for client connections$"]),
        ("handshake_first: true", "allow_non_tls: true", [
            r"\[INF\] TLS required for client connections$",
            r'\[WRN\] Clients that are not using "TLS Handshake First" option will fail to connect$',
        ]),
    ],
)  # fmt: skip
def test_the_start_says_whether_tls_is_a_must(
    fresh_broker: Start, authority: Authority, settings: str, after: str, says: list[str]
) -> None:
    broker = fresh_broker(config=f"{authority.block(settings)}\n{after}\n")
    for line in says:
        broker.wait_log(line)
    assert len(re.findall("TLS .* for client connections|TLS Handshake First", broker.log())) == len(says)


def test_certificates_of_clients(fresh_broker: Start, authority: Authority) -> None:
    broker = fresh_broker(config=authority.block(authority.trusted, "verify: true"))
    client = TlsClient(broker.port, authority.context("client"))
    assert client.info["tls_verify"] is True
    client.connect()
    for context in (authority.context(), authority.context("stranger")):
        with pytest.raises((ssl.SSLError, AssertionError, OSError)):
            TlsClient(broker.port, context).connect()
    broker.wait_log(r"\[ERR\].*TLS handshake error")
    client.flush()


@pytest.mark.parametrize("user", [CLIENT_EMAIL, CLIENT_SUBJECT, "OU=tests, CN=client.example"])
def test_users_by_certificate(fresh_broker: Start, authority: Authority, user: str) -> None:
    users = f'authorization {{ users: [ {{ user: "{user}" }}, {{ user: other }} ] }}\n'
    broker = fresh_broker(
        config=authority.block(authority.trusted, "verify_and_map: true") + users, args=["-m", "-1"]
    )
    client = TlsClient(broker.port, authority.context("client")).connect()
    port = broker.wait_log(r"Starting http monitor on \S+").rpartition(":")[2]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/connz?auth=1") as answer:
        (row,) = json.load(answer)["connections"]
    assert row["authorized_user"] == user
    assert row["tls_version"] == "1.3" and row["tls_cipher_suite"].startswith("TLS_")
    (certificate,) = row["tls_peer_certs"]
    assert certificate["subject"] == CLIENT_SUBJECT
    assert len(certificate["spki_sha256"]) == len(certificate["cert_sha256"]) == 64
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/connz") as answer:
        assert "tls_peer_certs" not in json.load(answer)["connections"][0]
    client.flush()


def test_users_by_certificate_are_refused(fresh_broker: Start, authority: Authority) -> None:
    users = "authorization { users: [ { user: somebody, password: else } ] }\n"
    broker = fresh_broker(config=authority.block(authority.trusted, "verify_and_map: true") + users)
    client = TlsClient(broker.port, authority.context("client"))
    client.send('CONNECT {"user":"somebody","pass":"else"}\r\n').expect(b"-ERR 'Authorization Violation'\r\n")
    client.expect_closed_any()


def test_a_callout_is_told_of_the_certificate(fresh_broker: Start, authority: Authority) -> None:
    tls = authority.block(authority.trusted, "verify: true") + "allow_non_tls: true\n"
    broker = fresh_broker(config=CALLOUT + tls)
    service = Service(broker)
    client = TlsClient(broker.port, authority.context("client"))
    client.send('CONNECT {"verbose":false,"user":"good","pass":"secret"}\r\nPING\r\n').expect(b"PONG\r\n")
    told = service.requests[-1].nats["client_tls"]
    version = client.tls.version()
    assert version is not None
    assert (told["version"], told["cipher"]) == (version.removeprefix("TLSv"), client.tls.cipher()[0])  # type: ignore[index]
    pem = Path(authority.path("client.pem")).read_text()
    ((certificate,),) = told["verified_chains"]
    assert ssl.PEM_cert_to_DER_cert(certificate) == ssl.PEM_cert_to_DER_cert(pem)
    broker.client().send('CONNECT {"verbose":false,"user":"good","pass":"secret"}\r\nPING\r\n').expect(b"PONG\r\n")
    assert "client_tls" not in service.requests[-1].nats


def test_versions(fresh_broker: Start, authority: Authority) -> None:
    broker = fresh_broker(config=authority.block('min_version: "1.3"'))
    context = authority.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, OSError)):
        TlsClient(broker.port, context)
    assert TlsClient(broker.port, authority.context()).connect() is not None


def test_the_certificate_is_chosen_by_name(fresh_broker: Start, authority: Authority) -> None:
    pairs = [
        f'{{ cert_file: "{authority.path(n + ".pem")}", key_file: "{authority.path(n + "-key.pem")}" }}'
        for n in ("server", "other")
    ]
    broker = fresh_broker(config=f"tls {{ certs: [ {', '.join(pairs)} ] }}\n")
    shown = {}
    for name in ("localhost", "other.example"):
        client = TlsClient(broker.port, authority.context(), name=name)
        certificate = client.tls.getpeercert()
        assert certificate is not None
        shown[name] = dict(pair[0] for pair in certificate["subject"])["commonName"]  # type: ignore[misc, index]
    assert shown == {"localhost": "server", "other.example": "other"}


def test_certificates_are_read_anew_by_a_reload(fresh_broker: Start, authority: Authority, tmp_path: Path) -> None:
    for end in (".pem", "-key.pem"):
        shutil.copy(authority.path("server" + end), tmp_path / ("now" + end))
    config = f'tls {{ cert_file: "{tmp_path}/now.pem", key_file: "{tmp_path}/now-key.pem" }}\n'
    broker = fresh_broker(config=config)
    before = TlsClient(broker.port, authority.context()).connect()
    for end in (".pem", "-key.pem"):
        shutil.copy(authority.path("other" + end), tmp_path / ("now" + end))
    os.kill(broker.pid, signal.SIGHUP)
    broker.wait_log("Reloaded server configuration")
    after = TlsClient(broker.port, authority.context(), name="other.example").connect()
    before.flush()
    after.flush()
    (tmp_path / "now.pem").write_text("no certificate")
    os.kill(broker.pid, signal.SIGHUP)
    broker.wait_log(r"\[ERR\] Failed to reload server configuration: .*now\.pem")
    TlsClient(broker.port, authority.context(), name="other.example").connect()


def test_tls_comes_and_goes_by_a_reload(fresh_broker: Start, authority: Authority, tmp_path: Path) -> None:
    for end in (".pem", "-key.pem"):
        shutil.copy(authority.path("server" + end), tmp_path / ("now" + end))
    clear = "max_payload: 1000\n"
    secret = f'{clear}tls {{ cert_file: "{tmp_path}/now.pem", key_file: "{tmp_path}/now-key.pem" }}\n'
    broker = fresh_broker(config=clear)
    done = 0

    def reload(config: str, *, good: bool) -> None:
        nonlocal done
        (broker.directory / "server.conf").write_text(config)
        refused = len(re.findall("Failed to reload", broker.log()))
        os.kill(broker.pid, signal.SIGHUP)
        if good:
            done += 1
            broker.wait_log("Reloaded server configuration", done)
        else:
            broker.wait_log(r"\[ERR\] Failed to reload server configuration: .*now\.pem", refused + 1)

    def served_in_the_clear() -> None:
        """By every shard: the least busy one gets the next."""
        clients = [broker.client() for _ in range(2 * broker.workers)]
        assert not any(client.info.get("tls_required") for client in clients)
        for client in clients:
            client.connect().flush().close()

    def served_by_tls() -> None:
        for client in [TlsClient(broker.port, authority.context()).connect() for _ in range(2 * broker.workers)]:
            client.flush().close()
        plain = broker.client()
        assert plain.info["tls_required"] is True
        plain.send(b"CONNECT {}\r\nPING\r\n")
        assert b"PONG" not in plain.expect_closed_any()

    plain = broker.client().connect()
    (tmp_path / "now.pem").rename(tmp_path / "away.pem")
    reload(secret.replace("1000", "2000"), good=False)
    served_in_the_clear()
    # Nothing of it has been taken.
    assert broker.client().info["max_payload"] == 1000
    (tmp_path / "away.pem").rename(tmp_path / "now.pem")
    reload(secret, good=True)
    served_by_tls()
    secured = TlsClient(broker.port, authority.context()).connect()
    # Who was there stays as he came.
    plain.flush()
    (tmp_path / "now.pem").unlink()
    reload(secret, good=False)
    served_by_tls()
    reload(clear, good=True)
    served_in_the_clear()
    plain.sub("both", 1).flush()
    secured.pub("both", "hello").flush()
    plain.expect(msg("both", 1, b"hello"))


def test_a_certificate_among_the_flags_is_tls(fresh_broker: Start, authority: Authority) -> None:
    """Also without --tls, as with nats-server: whoever names one must not be served in the clear."""
    broker = fresh_broker(args=["--tlscert", authority.path("server.pem"), "--tlskey", authority.path("server-key.pem")])
    assert broker.client().info["tls_required"] is True
    TlsClient(broker.port, authority.context()).connect()


def test_flags(fresh_broker: Start, authority: Authority) -> None:
    cert, key = authority.path("server.pem"), authority.path("server-key.pem")
    broker = fresh_broker(
        args=["--tlsverify", "--tlscert", cert, "--tlskey", key, "--tlscacert", authority.path("ca.pem")]
    )
    TlsClient(broker.port, authority.context("client")).connect()


@pytest.mark.ours
@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--tls"], "TLS Server certificate must be present and valid"),
        (["--tls", "--tlscert", "/nowhere.pem"], "TLS Server private key must be present and valid"),
        (["--tls", "--tlscert", "/nowhere.pem", "--tlskey", "/nowhere.key"], "/nowhere.pem"),
    ],
)
def test_bad_flags(args: list[str], says: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "shardbroker", "-p", "-1", *args], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert says in ended.stderr


def test_slow_consumers_are_cut(fresh_broker: Start, authority: Authority) -> None:
    """A TLS client that does not read is held to max_pending like any other, and its publisher goes on."""
    broker = fresh_broker(config=authority.block() + "max_pending: 2MB\nmax_payload: 1MB\nwrite_deadline: 30s\n")
    slow = TlsClient(broker.port, authority.context()).connect()
    slow.sub("flood", 1)
    publisher = TlsClient(broker.port, authority.context()).connect()
    payload = b"x" * 65536
    for _ in range(400):
        publisher.send(pub("flood", payload))
    publisher.flush()
    broker.wait_log("Slow Consumer Detected: MaxPending of 2097152 Exceeded|Slow Consumer")


def test_garbage_costs_one_connection(fresh_broker: Start, authority: Authority) -> None:
    """Bytes that are no handshake, cut anywhere, close their connection and harm nobody."""
    broker = fresh_broker(config=authority.block())
    good = TlsClient(broker.port, authority.context()).connect()
    hello = ssl.MemoryBIO()
    theirs = authority.context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        theirs.do_handshake()
    start = hello.read()
    for cut in (1, 2, 5, 6, 9, len(start) // 2):
        client = broker.client()
        client.send(start[:cut])
        client.socket.shutdown(socket.SHUT_WR)
        client.expect_closed_any()
    for garbage in (b"\x16\x03\x01\xff\xff" + b"\0" * 300, b"\x16\x03\x01\x00\x05\xff\xff\xff\xff\xff", bytes(1000)):
        broker.client().send(garbage).expect_closed_any()
    good.flush()


def test_nats_py(fresh_broker: Start, authority: Authority) -> None:
    broker = fresh_broker(config=authority.block())

    async def talk() -> None:
        nc = await nats.connect(f"tls://127.0.0.1:{broker.port}", tls=authority.context())

        async def answer(message: Msg) -> None:
            await message.respond(message.data.upper())

        await nc.subscribe("svc", cb=answer)
        assert (await nc.request("svc", b"hello", timeout=60)).data == b"HELLO"
        await nc.close()

    asyncio.run(talk())
