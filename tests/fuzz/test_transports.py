"""Bytes below NATS: WebSocket frames and TLS records, good ones and damaged, in pieces of any size.

What comes out of a layer is what an independent client put in, or the beginning of it and then the layer's own error; never
another exception, never more than the limits. One seed repeats a run; SHARDBROKER_FUZZ_RUNS says how many.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Iterator

import pytest
from transports.conftest import Authority
from transports.conftest import authority as authority
from websockets.client import ClientProtocol
from websockets.exceptions import ProtocolError
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.uri import parse_uri

from fuzz.seeds import FIRST, RUNS, seeds
from shardbroker.options import TlsSettings, WebSocketSettings
from shardbroker.shard.tls import TlsLayer, server_context
from shardbroker.shard.websocket import (
    UNKNOWN_FRAME_BYTES_MAX,
    UPGRADE_BYTES_MAX,
    UpgradeError,
    WebSocketLayer,
)

SEEDS = seeds(2)
PATHS = (b"/", b"//[x", b"/a?b=/mqtt", b"/%zz", b"/leafnode", b"http://[::1/", b"*")
COOKIES = ("a=b; jwt=x", "::1", "é", "x" * 5000, 'jwt="' + '\\"' * 3000, ";=" * 3000)
# Lengths at which frames change their form, and near the limit.
LENGTHS = (0, 1, 63, 64, 125, 126, 127, 128, 65535, 65536, 65537)
PAYLOAD_MAX = 4096


def pieces_of(rng: random.Random, data: bytes) -> Iterator[bytes]:
    """The same bytes as reads of a socket might give them."""
    at = 0
    while at < len(data):
        size = rng.choice((1, 2, 7, 100, 1 << 12, 1 << 18))
        yield data[at : at + size]
        at += size


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Cut, doubled, with single bytes changed: above all in the first ones, where lengths and kinds are."""
    out = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(min(len(out), rng.choice((4, 16, 1 << 20))) or 1)
        change = rng.randrange(4)
        if change == 0 and out:
            out[at] = rng.choice((0, 1, 0x7E, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)))
        elif change == 1:
            del out[at : at + rng.randrange(1, 9)]
        elif change == 2:
            out[at:at] = rng.randbytes(rng.randrange(1, 9))
        else:
            out[at:at] = out[at : at + rng.randrange(1, 200)]
    return bytes(out)


# -- WebSocket --


def client_bytes(rng: random.Random, layer: WebSocketLayer, deflate: bool) -> tuple[bytes, list[bytes]]:
    """A client that is upgraded, then its frames, and the messages in them."""
    factories = [ClientPerMessageDeflateFactory(client_no_context_takeover=True, server_no_context_takeover=True)]
    client = ClientProtocol(parse_uri("ws://localhost/"), extensions=factories if deflate else None)
    client.send_request(client.connect())
    request = b"".join(client.data_to_send())
    for piece in pieces_of(rng, request):
        assert layer.receive(piece) == []
    client.receive_data(layer.take())
    assert layer.upgrade is not None and client.handshake_exc is None
    messages = []
    for _ in range(rng.randrange(1, 6)):
        # A little of what compresses to nothing, and of what does not at all.
        length = rng.choice((*LENGTHS[:-1], rng.randrange(300)))
        message = rng.choice((rng.randbytes, bytes))(length)
        messages.append(message)
        if length > 2 and rng.random() < 0.3:
            cut = rng.randrange(1, length)
            client.send_binary(message[:cut], fin=False)
            if rng.random() < 0.5:
                client.send_ping(b"between")
            client.send_continuation(message[cut:], fin=True)
        else:
            client.send_binary(message)
    return b"".join(client.data_to_send()), messages


@pytest.mark.parametrize("deflate", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_websocket_frames(seed: int, deflate: bool) -> None:
    rng = random.Random(f"{seed} {deflate}")
    refused = 0
    for run in range(RUNS // 4):
        layer = WebSocketLayer(WebSocketSettings(port=1, compression=deflate), tls=False)
        data, messages = client_bytes(rng, layer, deflate)
        good = run % 3 == 0
        trusted = rng.random() < 0.5
        if trusted:
            layer.trust(PAYLOAD_MAX)
        limit = 8 * PAYLOAD_MAX if trusted else UNKNOWN_FRAME_BYTES_MAX
        # Deflated, what cannot be compressed becomes a little longer.
        fits, too_long = all(len(m) + 64 <= limit for m in messages), any(len(m) > limit for m in messages)
        got = b""
        try:
            for piece in pieces_of(rng, data if good else damaged(rng, data)):
                for part in layer.receive(piece):
                    assert len(part) <= limit
                    got += part
                layer.check_open()
        except (ProtocolError, EOFError):
            refused += 1
            assert not (good and fits)
        else:
            assert not good or (not too_long and got == b"".join(messages))
        layer.frame(b"PING\r\n")
        layer.close(1)
        layer.take()
    assert refused


@pytest.mark.parametrize("seed", SEEDS)
def test_websocket_requests(seed: int) -> None:
    rng = random.Random(seed)
    refused = upgraded = 0
    for _ in range(RUNS):
        client = ClientProtocol(parse_uri("ws://localhost/"), origin=rng.choice(("http://a.example", None)))
        request = client.connect()
        for _ in range(rng.randrange(3)):
            request.headers[rng.choice(("Cookie", "X", "X-Forwarded-For"))] = rng.choice(COOKIES)
        client.send_request(request)
        data = b"".join(client.data_to_send()).replace(b"GET / ", b"GET %b " % rng.choice(PATHS), 1)
        settings = WebSocketSettings(port=1, same_origin=True, jwt_cookie="jwt", compression=True)
        layer = WebSocketLayer(settings, tls=False)
        taken = 0
        try:
            for piece in pieces_of(rng, damaged(rng, data) if rng.random() < 0.7 else data):
                assert layer.receive(piece) == [] or layer.upgrade is not None
                taken += len(piece) if layer.upgrade is None else 0
                assert taken <= UPGRADE_BYTES_MAX
                layer.check_open()
        except (UpgradeError, ProtocolError, EOFError):
            refused += 1
        else:
            upgraded += layer.upgrade is not None
        layer.take()
    assert refused and upgraded


# -- TLS --


def shaken(layer: TlsLayer, context: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    """A client behind its handshake with the layer."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    done = False
    while not (done and layer.done):
        try:
            client.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            pass
        if data := outgoing.read():
            layer.feed(data)
        if not layer.done:
            layer.handshake()
        incoming.write(layer.take())
    return client, incoming, outgoing


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_records(authority: Authority, version: ssl.TLSVersion) -> None:
    rng = random.Random(int(version) + FIRST * 10_000)
    context = server_context(TlsSettings(authority.path("server.pem"), authority.path("server-key.pem")))
    theirs = authority.context()
    theirs.minimum_version = theirs.maximum_version = version
    buffer = memoryview(bytearray(1 << 16))
    refused = 0
    for run in range(max(RUNS // 8, 4)):
        layer = TlsLayer(context)
        client, _, outgoing = shaken(layer, theirs)
        sent = rng.randbytes(rng.choice((1, 100, 16384, 16385, 50000)))
        client.write(sent)
        data = outgoing.read()
        got = b""
        try:
            for piece in pieces_of(rng, data if run % 3 == 0 else damaged(rng, data)):
                layer.feed(piece)
                while n := layer.read_into(buffer):
                    got += buffer[:n]
        except (ssl.SSLError, EOFError):
            refused += 1
            assert run % 3 != 0
        assert sent.startswith(got)
        assert run % 3 != 0 or got == sent
        layer.close()
        layer.take()
    assert refused


def test_tls_handshakes(authority: Authority) -> None:
    """A damaged handshake is refused or waits for more; what is said to the client stays small."""
    rng = random.Random(1 + FIRST)
    context = server_context(TlsSettings(authority.path("server.pem"), authority.path("server-key.pem")))
    refused = 0
    for _ in range(max(RUNS // 4, 4)):
        outgoing = ssl.MemoryBIO()
        client = authority.context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        layer = TlsLayer(context)
        try:
            for piece in pieces_of(rng, damaged(rng, outgoing.read())):
                layer.feed(piece)
                assert not layer.handshake()
        except ssl.SSLError:
            refused += 1
        assert len(layer.take()) < 8192
    assert refused
