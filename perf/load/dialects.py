"""Servers that do not speak NATS, as far as plain publish and subscribe goes: Redis (RESP2) and MQTT 3.1.1 with QoS 0.

A dialect says how a connection is greeted and subscribed, and what stands around a payload. Sources: redis.io/docs,
"Redis serialization protocol specification" and "Pub/Sub"; MQTT Version 3.1.1, OASIS, sections 2.2.3, 3.1, 3.3, 3.8, 3.12.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from perf.load.plain import Plain
from shardbroker.bench import LoadError

TOPIC = b"load.topic"
SECONDS_MAX = 20.0


@dataclass(frozen=True)
class Dialect:
    """topic: as this protocol writes it. The functions give bytes for a topic or a payload's size."""

    name: str
    greeting: Callable[[int], tuple[bytes, bytes]]      # by client number: what is said, what must come back
    subscribe: Callable[[bytes], tuple[bytes, bytes]]
    publish: Callable[[bytes, int], tuple[bytes, bytes]]        # head and tail on the way in
    message: Callable[[bytes, int], tuple[bytes, bytes]]        # and out
    answer: Callable[[int], bytes]                      # to each message, by the number of subscribers
    ping: bytes
    pong: bytes


def _bulk(text: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text)


REDIS = Dialect(
    "redis",
    greeting=lambda number: (b"PING\r\n", b"+PONG\r\n"),
    subscribe=lambda topic: (b"*2\r\n" + _bulk(b"SUBSCRIBE") + _bulk(topic),
                             b"*3\r\n" + _bulk(b"subscribe") + _bulk(topic) + b":1\r\n"),
    publish=lambda topic, size: (b"*3\r\n" + _bulk(b"PUBLISH") + _bulk(topic) + b"$%d\r\n" % size, b"\r\n"),
    message=lambda topic, size: (b"*3\r\n" + _bulk(b"message") + _bulk(topic) + b"$%d\r\n" % size, b"\r\n"),
    answer=lambda subscribers: b":%d\r\n" % subscribers,
    ping=b"PING\r\n",
    pong=b"+PONG\r\n",
)


def _length(value: int) -> bytes:
    """MQTT's remaining length: seven bits a byte, the lowest first (section 2.2.3)."""
    made = bytearray()
    while True:
        value, digit = value >> 7, value & 127
        made.append(digit | (128 if value else 0))
        if not value:
            return bytes(made)


def _string(text: bytes) -> bytes:
    return len(text).to_bytes(2, "big") + text


def _mqtt_connect(number: int) -> tuple[bytes, bytes]:
    """CONNECT with a clean session and no keep-alive; CONNACK accepted."""
    body = _string(b"MQTT") + bytes((4, 2, 0, 0)) + _string(b"load%d" % number)
    return b"\x10" + _length(len(body)) + body, b"\x20\x02\x00\x00"


def _mqtt_subscribe(topic: bytes) -> tuple[bytes, bytes]:
    body = b"\x00\x01" + _string(topic) + b"\x00"
    return b"\x82" + _length(len(body)) + body, b"\x90\x03\x00\x01\x00"


def _mqtt_publish(topic: bytes, size: int) -> tuple[bytes, bytes]:
    return b"\x30" + _length(2 + len(topic) + size) + _string(topic), b""


MQTT = Dialect(
    "mqtt",
    greeting=_mqtt_connect,
    subscribe=_mqtt_subscribe,
    publish=_mqtt_publish,
    message=_mqtt_publish,
    answer=lambda subscribers: b"",
    ping=b"\xc0\x00",
    pong=b"\xd0\x00",
)


def ask(s: socket.socket, said: bytes, due: bytes) -> None:
    """Send and compare the answer. LoadError when it is another."""
    s.sendall(said)
    got = b""
    while len(got) < len(due):
        part = s.recv(len(due) - len(got))
        if not part:
            break
        got += part
    if got != due:
        raise LoadError(f"{due!r} was due, the server said {got!r}")


def run_plain(dialect: Dialect, host: str, port: int, payload_bytes: int, publishers: int, subscribers: int,
              seconds: float, limit: int) -> dict[str, float]:
    """One plain load. {published, received, seconds}; LoadError."""
    with ExitStack() as stack:
        connections = []
        for number in range(publishers + subscribers):
            s = stack.enter_context(socket.create_connection((host, port), timeout=SECONDS_MAX))
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ask(s, *dialect.greeting(number))
            if number >= publishers:
                ask(s, *dialect.subscribe(TOPIC))
            connections.append(s)
        for s in connections:
            s.setblocking(False)
        fds = [s.fileno() for s in connections]
        pub_head, pub_tail = dialect.publish(TOPIC, payload_bytes)
        message_head, message_tail = dialect.message(TOPIC, payload_bytes)
        load = Plain(
            fds[:publishers], fds[publishers:], pub_head=pub_head, pub_tail=pub_tail, message_head=message_head,
            message_tail=message_tail, answer=dialect.answer(subscribers), ping=dialect.ping, pong=dialect.pong,
            payload_bytes=payload_bytes, limit=limit,
        )
        return load.run(seconds)
