"""Servers of a cluster tell each other, and their clients, where clients can go. Source: route.go, server.go updateInfo."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from typing import Any
from urllib.request import urlopen

import pytest

from harness import Broker, RawClient, wait_until
from shardbroker.bench.server import free_port

Start = Callable[..., Broker]
pytestmark = pytest.mark.skipif(not Broker.ours, reason="the servers of the reference carry messages, too")


def cluster(start: Start, *routes: int, user: str = "", name: str = "", **options: Any) -> tuple[Broker, int]:
    """A broker with routes to these ports; it, and the port of its own route."""
    login = f"{user}@" if user else ""
    args = ["--cluster", f"nats://{login}127.0.0.1:-1", *options.pop("args", [])]
    if routes:
        args += ["--routes", ",".join(f"nats://{login}127.0.0.1:{port}" for port in routes)]
    if name:
        args += ["--cluster_name", name]
    broker = start(args=args, **options)
    line = broker.wait_log(r"Listening for route connections on \S+:\d+")
    return broker, int(line.rpartition(":")[2])


def address(broker: Broker) -> str:
    return f"127.0.0.1:{broker.port}"


def urls(broker: Broker) -> set[str]:
    with broker.client() as client:
        return set(client.connect().info.get("connect_urls", ()))


def wait_urls(broker: Broker, *others: Broker) -> None:
    expected = {address(one) for one in (broker, *others)} if others else set()
    wait_until(lambda: urls(broker) == expected, f"the addresses {expected}")


def test_all_learn_of_all_through_one(fresh_broker: Start) -> None:
    first, route = cluster(fresh_broker)
    assert urls(first) == set()
    watcher = first.client().connect(protocol=1)
    old = first.client().connect(protocol=0)
    second, _ = cluster(fresh_broker, route)
    third, _ = cluster(fresh_broker, route)
    wait_urls(first, second, third)
    wait_urls(second, first, third)
    wait_urls(third, first, second)
    # Clients that came before are told, in whatever steps; an old one is not.
    expected = {address(one) for one in (first, second, third)}
    while set(watcher.read_info().get("connect_urls", ())) != expected:
        pass
    old.send("PING\r\n").expect("PONG\r\n").expect_nothing()


def test_who_has_gone_is_told_of_no_more(fresh_broker: Start) -> None:
    first, route = cluster(fresh_broker)
    second, _ = cluster(fresh_broker, route)
    third, _ = cluster(fresh_broker, route)
    wait_urls(third, first, second)
    second.kill_front()
    second.ended()
    wait_urls(third, first)
    third.stop()
    wait_urls(first)


def test_a_lame_duck_names_the_others_and_they_name_it_no_more(fresh_broker: Start) -> None:
    lame, route = cluster(fresh_broker, config='lame_duck_duration: "30s"\nlame_duck_grace_period: "20s"\n')
    other, _ = cluster(fresh_broker, route)
    wait_urls(lame, other)
    client = lame.client().connect(protocol=1)
    os.kill(lame.pid, signal.SIGUSR2)
    while not (info := client.read_info()).get("ldm"):
        pass
    assert info["connect_urls"] == [address(other)]
    wait_urls(other)
    lame.kill_front()
    lame.ended()


def test_a_link_that_breaks_comes_back(fresh_broker: Start) -> None:
    first, route = cluster(fresh_broker)
    second, _ = cluster(fresh_broker, route)
    wait_urls(first, second)
    (peers,) = [pid for pid, title in first.processes().items() if "peers" in title]
    os.kill(peers, signal.SIGKILL)
    first.wait_log(r"Peers \(pid \d+\) has died, killed by SIGKILL; replacing it")
    second.wait_log(r"Route to \S+ \(\S+\) created", 2)
    wait_urls(first, second)
    wait_urls(second, first)


def test_what_was_known_does_not_outlive_who_knew_it(fresh_broker: Start) -> None:
    first, route = cluster(fresh_broker)
    second, _ = cluster(fresh_broker, route)
    wait_urls(first, second)
    (peers,) = [pid for pid, title in first.processes().items() if "peers" in title]
    os.kill(peers, signal.SIGSTOP)
    second.kill_front()
    second.ended()
    os.kill(peers, signal.SIGKILL)
    wait_urls(first)


def test_varz_shows_them_and_no_password(fresh_broker: Start) -> None:
    first, route = cluster(fresh_broker, user="ann:s3cret")
    second, own = cluster(fresh_broker, route, user="ann:s3cret", args=["-m", "-1"])
    wait_urls(second, first)
    port = int(second.wait_log(r"Starting http monitor on \S+:\d+").rpartition(":")[2])
    text = urlopen(f"http://127.0.0.1:{port}/varz", timeout=60).read().decode()
    varz = json.loads(text)
    assert set(varz["connect_urls"]) == {address(first), address(second)}
    assert varz["cluster"] == {
        "name": second.client().info["cluster"], "addr": "127.0.0.1", "cluster_port": own, "auth_timeout": 2,
        "urls": [f"127.0.0.1:{route}"],
    }  # fmt: skip
    assert "s3cret" not in text


def test_a_route_to_itself_is_none(fresh_broker: Start) -> None:
    port = free_port()
    broker = fresh_broker(args=["--cluster", f"nats://127.0.0.1:{port}", "--routes", f"nats://127.0.0.1:{port}"])
    second, _ = cluster(fresh_broker, port)
    wait_urls(broker, second)
    broker.wait_log(r"Route to \S+ \(\S+\) created")
    assert broker.log().count("created") == 1


def test_messages_do_not_cross_and_the_log_says_so(fresh_broker: Start) -> None:
    first, route = cluster(fresh_broker)
    second, _ = cluster(fresh_broker, route)
    wait_urls(first, second)
    subscriber = first.client().connect().sub("a").flush()
    second.client().connect().pub("a", "x").flush()
    subscriber.flush().expect_nothing()
    first.wait_log(r"\[WRN\] .*messages do not cross")


def test_no_advertise_is_told_to_nobody(fresh_broker: Start) -> None:
    first, route = cluster(fresh_broker)
    silent, _ = cluster(fresh_broker, route, args=["--no_advertise"])
    third, _ = cluster(fresh_broker, route)
    # All know each other by now, so that whoever told would have.
    for broker in (first, silent, third):
        broker.wait_log(r"Route to \S+ \(\S+\) created", 2)
    wait_urls(third, first)
    wait_urls(first, third)
    assert urls(silent) == set()


def test_who_does_not_know_the_password_is_no_member(fresh_broker: Start) -> None:
    first, route = cluster(fresh_broker, user="ann:s3cret")
    stranger, _ = cluster(fresh_broker, route, user="ann:wrong")
    first.wait_log(r"Route 127.0.0.1:\d+ - Authorization Violation")
    stranger.wait_log(r"Route \S+ - Authorization Violation")
    member, _ = cluster(fresh_broker, route, user="ann:s3cret")
    wait_urls(first, member)
    for broker in (first, stranger, member):
        assert "s3cret" not in broker.log() and "wrong" not in broker.log()
        assert not any("s3cret" in title for title in helper_titles(broker))


def helper_titles(broker: Broker) -> list[str]:
    return [title for title in broker.processes().values() if title.startswith("shardbroker: ")]


def test_clusters_of_two_names_do_not_mix(fresh_broker: Start) -> None:
    east, route = cluster(fresh_broker, name="east")
    west, _ = cluster(fresh_broker, route, name="west")
    east.wait_log("Cluster Name Conflict")
    assert urls(east) == set() == urls(west)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"CONNECT {}\r\nINFO {\"server_id\":\"x\"}\r\n", b"only shardbroker's servers can be linked"),
        (b"CONNECT {\r\n", b"Parser Error"),
        (b"CONNECT {}\r\nINFO []\r\n", b"Parser Error"),
        (b"SUB a 1\r\n", b"Parser Error"),
        (b"A" * (70 << 10), b"Maximum Control Line Exceeded"),
    ],
)
def test_strangers_are_sent_away(fresh_broker: Start, sent: bytes, said: bytes) -> None:
    broker, port = cluster(fresh_broker)
    stranger = RawClient(port)
    info = stranger.info
    assert re.fullmatch("N[A-Z2-7]{55}", info["server_id"])
    stranger.send(sent)
    assert said in stranger.expect_closed_any()
    broker.client().connect().send("PING\r\n").expect("PONG\r\n")


def test_what_a_peer_says_is_checked(fresh_broker: Start) -> None:
    broker, port = cluster(fresh_broker)
    peer = RawClient(port)
    bad = ["", "no port:", "x y:1", "a:99999", "h" * 300 + ":1", 7, None, "\x00:1", "good.example:4222"]
    info = {
        "kind": peer.info["kind"], "server_id": "N1", "server_name": "\x1b[31m", "connect_urls": bad,
        "routes": {"N2": "nonsense", "N3": 5},
    }  # fmt: skip
    peer.send(b"CONNECT {}\r\nINFO " + json.dumps(info).encode() + b"\r\nPING\r\n")
    wait_until(lambda: "good.example:4222" in urls(broker), "the good one")
    assert urls(broker) == {address(broker), "good.example:4222"}
    assert "\x1b" not in broker.log()
    # A text for the log.
    other = RawClient(port)
    other.send(b"CONNECT {}\r\nINFO " + json.dumps(info | {"server_id": "N4"}).encode() + b"\r\n-ERR '\x1b[31m'\r\n")
    other.expect_closed_any()
    broker.wait_log("has refused the link")
    assert "\x1b" not in broker.log()
    peer.send(b"NONSENSE\r\n")
    assert b"Unknown Protocol Operation" in peer.expect_closed_any()
    wait_urls(broker)


def test_the_ports_file_and_the_name(fresh_broker: Start, tmp_path: Any) -> None:
    broker, port = cluster(fresh_broker, args=["--ports_file_dir", str(tmp_path)])
    (file,) = tmp_path.glob("*.ports")
    assert json.loads(file.read_text())["cluster"] == [f"nats://127.0.0.1:{port}"]
    assert len(broker.client().info["cluster"]) == 22
