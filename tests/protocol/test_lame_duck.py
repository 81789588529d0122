"""SIGUSR2: no new connections, INFO with ldm, gradual close, end. Source: server.go lameDuckMode."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable

from harness import Broker, msg, wait_until

Start = Callable[..., Broker]
QUICK = 'lame_duck_duration: "30s"\nlame_duck_grace_period: "300ms"\n'
# Behind the grace period one client a second is sent away.
GRACE = 'lame_duck_duration: "30s"\nlame_duck_grace_period: "5s"\n'


def refuses(broker: Broker) -> bool:
    """A SYN may still find its way into the queue of the closing listener; refused is what counts."""
    try:
        socket.create_connection(("127.0.0.1", broker.port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def test_without_clients_it_ends_at_once(fresh_broker: Start) -> None:
    assert fresh_broker(config=QUICK).stop(signal.SIGUSR2) == 0


def test_clients_are_told_served_and_closed(fresh_broker: Start) -> None:
    broker = fresh_broker(config=GRACE)
    clients = [broker.client().connect(protocol=protocol) for protocol in (1, 1, 0)]
    for client in clients:
        client.send("SUB a 1\r\nPING\r\n").expect_re(rb"(INFO [^\r]*\r\n)?PONG\r\n(INFO [^\r]*\r\n)?")
    os.kill(broker.pid, signal.SIGUSR2)
    for client in clients[:2]:
        while not client.read_info().get("ldm"):
            pass
    clients[0].pub("a", "still served")
    clients[2].expect(msg("a", 1, "still served"))
    wait_until(lambda: refuses(broker), "new connections to be refused")
    for client in clients:
        client.expect_closed_any()
    assert broker.ended() == 0


def test_term_is_ignored_meanwhile_and_kill_is_not(fresh_broker: Start) -> None:
    broker = fresh_broker(config='lame_duck_duration: "60s"\nlame_duck_grace_period: "30s"\n')
    client = broker.client().connect(protocol=1)
    os.kill(broker.pid, signal.SIGUSR2)
    while not client.read_info().get("ldm"):
        pass
    os.kill(broker.pid, signal.SIGTERM)
    client.send("PING\r\n").expect("PONG\r\n")
    client.expect_nothing()
    broker.kill_front()
    broker.ended()


def test_term_right_behind_does_not_overtake(fresh_broker: Start) -> None:
    """Both signals are pending when the process next runs; the kernel then calls the later one's handler first."""
    broker = fresh_broker(config='lame_duck_duration: "60s"\nlame_duck_grace_period: "30s"\n')
    clients = [broker.client().connect(protocol=1) for _ in range(3)]
    with broker.stopped_front():
        os.kill(broker.pid, signal.SIGUSR2)
        os.kill(broker.pid, signal.SIGTERM)
    for client in clients:
        while not client.read_info().get("ldm"):
            pass
        client.expect_nothing()
    broker.kill_front()
    broker.ended()
