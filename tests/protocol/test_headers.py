"""HPUB and HMSG, and what clients without headers get.

Source: client.go processHeaderPub, deliverMsg; ADR-4.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness import Broker, RawClient, msg

Connect = Callable[..., RawClient]
OnShards = Callable[..., list[RawClient]]

BLOCK = b"NATS/1.0\r\nA: 1\r\nA: 2\r\nbb:  x \r\n\r\n"


def hpub(subject: str, block: bytes, payload: bytes, reply: str = "") -> bytes:
    reply = reply and reply + " "
    return (
        f"HPUB {subject} {reply}{len(block)} {len(block) + len(payload)}\r\n".encode()
        + block
        + payload
        + b"\r\n"
    )


def hmsg(subject: str, sid: int, block: bytes, payload: bytes, reply: str = "") -> bytes:
    reply = reply and reply + " "
    return (
        f"HMSG {subject} {sid} {reply}{len(block)} {len(block) + len(payload)}\r\n".encode()
        + block
        + payload
        + b"\r\n"
    )


@pytest.mark.parametrize("payload", [b"", b"hello", b"\r\n", b"p" * 5000])
@pytest.mark.parametrize("reply", ["", "inbox.22"])
@pytest.mark.parametrize(
    "block",
    [
        BLOCK,
        b"NATS/1.0\r\n\r\n",
        b"\0\xff\r\n",
        b"name:derek\r\n",
        b"NATS/1.0\r\nk:" + b"v" * 60000 + b"\r\n\r\n",
    ],
)
def test_block_passes_unchecked_and_unchanged(
    on_shards: OnShards, subject: str, block: bytes, reply: str, payload: bytes
) -> None:
    clients = on_shards(headers=True)
    for client in clients:
        client.sub(subject, 5)
    clients[0].send(hpub(subject, block, payload, reply) + hpub(subject, BLOCK, b"next"))
    for client in clients:
        client.expect(hmsg(subject, 5, block, payload, reply) + hmsg(subject, 5, BLOCK, b"next"))


@pytest.mark.parametrize("queue", ["", "q"])
def test_receivers_without_headers_get_the_payload_only(
    on_shards: OnShards, subject: str, queue: str
) -> None:
    plain, rich = on_shards(), on_shards(headers=True)
    for number, client in enumerate(plain):
        client.sub(subject, 1, queue and f"{queue}{number}")
    rich[0].send(
        hpub(subject, BLOCK, b"OK", "rep") + hpub(subject, BLOCK, b"") + hpub(subject, BLOCK, b"x" * 3000)
    )
    for client in plain:
        client.expect(
            msg(subject, 1, b"OK", "rep") + msg(subject, 1) + msg(subject, 1, b"x" * 3000)
        ).expect_nothing()


def test_receivers_with_and_without_beside_each_other(on_shards: OnShards, subject: str) -> None:
    plain, rich = on_shards(), on_shards(headers=True)
    for client in plain + rich:
        client.sub(subject)
    rich[1].send(hpub(subject, BLOCK, b"both"))
    for client in plain:
        client.expect(msg(subject, 1, "both"))
    for client in rich:
        client.expect(hmsg(subject, 1, BLOCK, b"both"))


def test_pub_reaches_header_clients_as_msg(on_shards: OnShards, subject: str) -> None:
    plain, rich = on_shards(), on_shards(headers=True)
    for client in rich:
        client.sub(subject)
    plain[0].pub(subject, "x")
    for client in rich:
        client.expect(msg(subject, 1, "x"))


def test_header_size_zero(connect: Connect, subject: str) -> None:
    client = connect(headers=True).sub(subject)
    client.send(f"HPUB {subject} 0 5\r\nHELLO\r\n")
    client.expect_re(rb"(HMSG \S+ 1 0 5|MSG \S+ 1 5)\r\nHELLO\r\n")
    client.flush()


def test_blanks_tabs_and_case(connect: Connect, subject: str) -> None:
    client = connect(headers=True).sub(subject)
    client.send(f"hpub\t {subject} \t bar  12 \t 14 \r\nName:Derek\r\nOK\r\n")
    client.expect(hmsg(subject, 1, b"Name:Derek\r\n", b"OK", "bar"))


@pytest.mark.parametrize("options", [{}, {"headers": False}])
def test_hpub_of_a_client_that_did_not_ask_for_headers(connect: Connect, options: dict[str, bool]) -> None:
    connect(**options).send("HPUB foo 0 2\r\nok\r\n").expect_closed()


@pytest.mark.parametrize(
    "line",
    [
        "HPUB foo 12",
        "HPUB foo 14 12",
        "HPUB foo x 12",
        "HPUB foo 12 x",
        "HPUB foo -1 12",
        "HPUB foo 12 -1",
        "HPUB foo a b 12 14",
        "HPUB foo",
    ],
)
def test_bad_arguments_close_without_words(connect: Connect, line: str) -> None:
    connect(headers=True).send(line + "\r\n").expect_closed()


def test_bare_hpub(connect: Connect) -> None:
    connect(headers=True).send("HPUB\r\n").expect_closed(b"-ERR 'Unknown Protocol Operation'\r\n")


def test_total_size_counts_against_max_payload(connect: Connect) -> None:
    client = connect(headers=True).send("HPUB foo 12 1048577\r\n")
    client.expect_closed(b"-ERR 'Maximum Payload Violation'\r\n")


def test_a_server_without_headers(fresh_broker: Callable[..., Broker]) -> None:
    broker = fresh_broker(config="no_header_support: true\n")
    client = broker.client()
    assert not client.info.get("headers")
    client.connect(headers=True).send("HPUB foo 0 2\r\nok\r\n").expect_closed()


TRACED = """
accounts {
  A { users [ {user: own, password: p}, {user: few, password: p, permissions { publish: "a.>" }} ]
      exports: [ {stream: "a.>"}, {service: "a.service"} ], msg_trace: own.trace }
  B { users [ {user: other, password: p} ], imports: [ {stream: {account: A, subject: "a.>"}} ] }
  S { users [ {user: sys, password: p} ] }
}
system_account: S
"""


@pytest.mark.parametrize(
    "names",
    [
        ("Nats-Trace-Dest",),
        ("nats-trace-dest",),
        ("Nats-Trace-Dest", "Nats-Trace-Only"),
        ("Nats-Trace-Dest", "Nats-Trace-Hop", "Nats-Trace-Origin-Account"),
        ("Nats-Trace-Dest", "Accept-Encoding", "traceparent"),
        ("traceparent",),
    ],
)
def test_headers_of_tracing_make_nobody_publish(
    fresh_broker: Callable[..., Broker], names: tuple[str, ...]
) -> None:
    """Traces are not served: a message goes where its subject goes, and nothing goes to the subject that a header names,
    be it one where the sender may not publish, another account's, the system's, or an answer's (CVE-2026-33249)."""
    values = {
        "nats-trace-only": "true",
        "nats-trace-hop": "1",
        "nats-trace-origin-account": "B",
        "accept-encoding": "gzip",
        "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
    }
    broker = fresh_broker(config=TRACED)
    watchers = [
        broker.client().connect(user=user, headers=True, **{"pass": "p"}).sub(">").flush()
        for user in ("own", "other")
        for _ in range(broker.workers)
    ]
    system = broker.client().connect(user="sys", **{"pass": "p"})
    system.sub("$SYS.REQ.SERVER.>").sub("_INBOX.>", 2).flush()
    few = broker.client().connect(user="few", headers=True, **{"pass": "p"})
    for number, where in enumerate(
        ("own.trace", "other.x", "a.allowed", "$SYS.REQ.SERVER.PING", "_INBOX.x", ">", "a b\t", "")
    ):
        lines = "".join(f"{name}: {values.get(name.lower(), where)}\r\n" for name in names)
        block = f"NATS/1.0\r\n{lines}\r\n".encode()
        few.send(hpub("a.it", block, b"%d" % number, "_INBOX.reply")).flush()
        for client in watchers:
            client.expect(hmsg("a.it", 1, block, b"%d" % number, "_INBOX.reply"))
    for client in (*watchers, system):
        client.expect_nothing()
