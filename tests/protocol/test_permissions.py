"""Permissions, accounts and their limits over sockets; reloads. Source: client.go, reload.go, test/user_authorization_test.go.

The rules themselves are tried against a model in sim/test_accounts.py.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import Broker, RawClient, msg, wait_until

CONFIG = """
accounts {
  A { users [ {user: a, password: a}, {user: a2, password: a, permissions: {
        subscribe: { allow: ["x.>", "jobs workers.*"], deny: "x.secret" }, publish: { allow: ["y"] }, allow_responses: true } } ]
      limits { max_connections: 3, max_payload: 100, max_subscriptions: 2 } }
  B { users [ {user: b, password: b} ] }
}
no_auth_user: b
"""


def as_user(broker: Broker, user: str) -> RawClient:
    return broker.client().connect(user=user, **{"pass": user[0]})


def violation(what: str) -> str:
    return f"-ERR 'Permissions Violation for {what}'\r\n"


def reload_with(broker: Broker, config: str) -> None:
    path = Path(broker.command[broker.command.index("-c") + 1])
    path.write_text(config)
    before = broker.log().count("Reloaded server configuration")
    os.kill(broker.pid, signal.SIGHUP)
    wait_until(lambda: broker.log().count("Reloaded server configuration") > before, "the reload")


@pytest.fixture
def guarded(fresh_broker: Callable[..., Broker]) -> Broker:
    return fresh_broker(config=CONFIG)


def test_accounts_are_apart(guarded: Broker) -> None:
    a, b, nobody = as_user(guarded, "a"), as_user(guarded, "b"), guarded.client().connect()
    for client in (a, b, nobody):
        client.sub(">", 1)
    a.pub("x", "1").expect(msg("x", 1, "1"))
    b.expect_nothing()
    b.pub("y", "2").expect(msg("y", 1, "2"))
    nobody.expect(msg("y", 1, "2"))
    a.expect_nothing()


def test_the_limits_of_an_account_hold_over_all_shards(guarded: Broker) -> None:
    clients = [as_user(guarded, "a") for _ in range(3)]
    more = guarded.client().send('CONNECT {"user":"a","pass":"a","verbose":false}\r\nPING\r\n')
    more.expect("-ERR 'maximum account active connections exceeded'\r\n").expect_closed()
    assert as_user(guarded, "b")
    clients[0].send("SUB a 1\r\nSUB b 2\r\nSUB c 3\r\n").expect("-ERR 'maximum subscriptions exceeded'\r\n")
    clients[1].send("PUB a 101\r\n").expect("-ERR 'Maximum Payload Violation'\r\n").expect_closed()
    # Who has gone makes room.
    wait_until(lambda: _may_come(guarded), "room for another connection")


def _may_come(broker: Broker) -> bool:
    client = broker.client().send('CONNECT {"user":"a","pass":"a","verbose":true}\r\n')
    return client.expect_re(rb"\+OK|-ERR [^\r]+").group() == b"+OK"


def test_queues_denied_subjects_and_answers(guarded: Broker) -> None:
    owner, user = as_user(guarded, "a"), as_user(guarded, "a2")
    user.sub("x.*", 1)
    user.send("SUB jobs 2\r\n").expect(violation('Subscription to "jobs"'))
    user.send("SUB jobs others 2\r\n").expect(violation('Subscription to "jobs" using queue "others"'))
    user.sub("jobs", 2, queue="workers.eu")
    owner.pub("x.secret", "no").pub("x.open", "yes").pub("jobs", "do", reply="answer.me").flush()
    user.expect(msg("x.open", 1, "yes") + msg("jobs", 2, "do", reply="answer.me"))
    owner.sub("answer.*", 1)
    user.pub("answer.me", "done").pub("answer.me", "again").expect(violation('Publish to "answer.me"'))
    owner.expect(msg("answer.me", 1, "done"))
    user.pub("x.open").expect(violation('Publish to "x.open"'))


def test_a_reload_restricts_at_once(guarded: Broker) -> None:
    user = as_user(guarded, "a2")
    user.sub("x.a", 1).sub("jobs", 2, queue="workers.eu")
    changed = CONFIG.replace('"jobs workers.*"', '"jobs workers.us"').replace('allow: ["y"]', 'allow: ["z"]')
    reload_with(guarded, changed)
    user.expect(violation('Subscription to "jobs" using queue "workers.eu" (sid "2")'))
    user.pub("y").expect(violation('Publish to "y"'))
    user.pub("z").flush()
    as_user(guarded, "a").pub("x.a", "still").pub("jobs", "gone").flush()
    user.expect(msg("x.a", 1, "still")).expect_nothing()
    # Shards hear of it a moment after the front has said so.
    reload_with(guarded, CONFIG)
    wait_until(lambda: user.pub("y").send("PING\r\n").expect_re(rb"(?:-ERR .*\r\n)?PONG\r\n").group() == b"PONG\r\n", "y")
