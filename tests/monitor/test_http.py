"""The monitoring endpoints of a running broker, as test suites of clients poll them."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
from collections.abc import Callable
from typing import Any

import pytest

from harness import Broker, wait_until

Start = Callable[..., Broker]
pytestmark = pytest.mark.ours


class Http:
    """Requests to one broker's monitor."""

    def __init__(self, broker: Broker) -> None:
        found = re.search(r"Starting http monitor on 127\.0\.0\.1:(\d+)", broker.log())
        assert found
        self.port = int(found[1])

    def get(self, path: str) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read().decode()
        connection.close()
        return response.status, dict(response.getheaders()), body

    def json(self, path: str) -> Any:
        status, _, body = self.get(path)
        assert status == 200, body
        return json.loads(body)


@pytest.fixture
def monitored(fresh_broker: Start) -> Callable[..., tuple[Broker, Http]]:
    def start(**options: Any) -> tuple[Broker, Http]:
        broker = fresh_broker(**{"args": ["-m", "-1"], **options})
        return broker, Http(broker)

    return start


Monitored = Callable[..., tuple[Broker, Http]]


def test_counts_are_exact_over_all_shards(monitored: Monitored) -> None:
    broker, web = monitored()
    clients = [broker.client().connect(name=f"n{n}") for n in range(6)]
    for client in clients:
        client.send("SUB a 1\r\nSUB b q 2\r\n").flush()
    for client in clients:
        client.send("PUB a 3\r\nabc\r\n" * 5 + "PUB nobody 2\r\nxx\r\n")

    def told(*names: str) -> tuple[int, ...]:
        varz = web.json("/varz")
        return tuple(varz[name] for name in names)

    # The last message but one, which nobody gets, is read when the last that is delivered has been.
    names = ("in_msgs", "in_bytes", "out_msgs", "out_bytes")
    wait_until(lambda: told(*names) == (36, 102, 180, 540), "all messages to be delivered")
    varz = web.json("/varz")
    assert (varz["connections"], varz["total_connections"], varz["subscriptions"]) == (6, 6, 12)
    connections = web.json("/connz?subs=1&sort=cid")["connections"]
    assert [one["name"] for one in connections] == [f"n{n}" for n in range(6)]
    for one in connections:
        assert (one["in_msgs"], one["in_bytes"], one["out_msgs"], one["out_bytes"]) == (6, 17, 30, 90)
        assert sorted(one["subscriptions_list"]) == ["a", "b"]
    assert {one["shard"] for one in connections} == set(range(broker.workers))
    assert web.json("/subsz")["num_subscriptions"] == 12
    listed = web.json("/subsz?subs=1&test=a")
    assert (listed["total"], {one["subject"] for one in listed["subscriptions_list"]}) == (6, {"a"})


def test_varz_says_how_it_is_configured(monitored: Monitored) -> None:
    _, web = monitored(
        config='max_payload: 1000\nping_interval: "7s"\nserver_name: alpha\nwrite_deadline: "3s"\n'
    )
    varz = web.json("/varz")
    assert varz["max_payload"] == 1000
    assert varz["ping_interval"] == 7_000_000_000
    assert varz["write_deadline"] == 3_000_000_000
    assert (varz["server_name"], varz["proto"], varz["http_port"]) == ("alpha", 1, web.port)
    assert varz["http_req_stats"] == {"/varz": 1}
    status, headers, body = web.get("/varz")
    assert status == 200
    headers = {name.lower(): value for name, value in headers.items()}
    assert headers["access-control-allow-origin"] == "*"
    assert headers["content-type"] == "application/json"
    assert body.startswith('{\n  "server_id": "')


def test_closed_connections_are_kept_and_say_why(monitored: Monitored) -> None:
    broker, web = monitored()
    first = broker.client().connect(name="goes")
    first.flush().close()
    broker.client().connect(name="errs").send("BAD\r\n").expect_closed_any()
    wait_until(lambda: len(web.json("/connz?state=closed")["connections"]) == 2, "both to be closed")
    reasons = {one["name"]: one["reason"] for one in web.json("/connz?state=closed")["connections"]}
    assert reasons == {"goes": "Client Closed", "errs": "Protocol Violation"}
    assert web.json("/connz")["connections"] == []
    assert web.json("/connz?state=any")["total"] == 2
    assert web.json("/connz?cid=1&state=any")["connections"][0]["name"] == "goes"


def test_users_are_shown_when_asked_for(monitored: Monitored) -> None:
    broker, web = monitored(args=["-m", "-1", "--user", "me", "--pass", "s3cret"])
    client = broker.client().connect(user="me", **{"pass": "s3cret"})
    client.flush()
    assert web.json("/connz?auth=1")["connections"][0]["authorized_user"] == "me"
    assert "authorized_user" not in web.json("/connz")["connections"][0]
    assert len(web.json("/connz?user=me")["connections"]) == 1
    assert web.json("/connz?user=other")["connections"] == []
    for path in ("/varz", "/connz?auth=1&subs=detail", "/subsz?subs=1", "/accountz?acc=$G", "/accstatz?unused=1"):
        assert "s3cret" not in web.get(path)[2]


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/", 200, "/connz"),
        ("/healthz", 200, '{"status":"ok"}'),
        ("/subscriptionsz", 200, "num_subscriptions"),
        ("/nope", 404, "404 page not found"),
        ("/varz/", 404, "404 page not found"),
        ("/../../etc/passwd", 404, "404"),
        ("/connz?limit=x", 400, "Error decoding int for 'limit'"),
        ("/connz?sort=stop", 400, "sort by stop only valid on closed connections"),
        ("/connz?offset=99999999999999999999", 400, "value out of range"),
        ("/connz?offset=9223372036854775807&limit=9223372036854775807", 200, '"connections": []'),
        ("/subsz?test=a..b", 400, "invalid test subject"),
        ("/connz?" + "x" * 5000, 414, "query string too long"),
        ("/jsz?consumers=1&config=1&raft=1", 200, '"disabled": true'),
        ("/jsz?leader-only=1", 400, "filtered response: not leader"),
        ("/connz?auth=0&auth=x", 200, "connections"),
        ("/connz?%00=%ff&%c3%a9=1;2", 200, "connections"),
        ("/varz?%0d%0aX: y", 200, "server_id"),
    ],
)
def test_answers(monitored: Monitored, path: str, status: int, words: str) -> None:
    _, web = monitored(workers=1)
    found, _, body = web.get(path.replace(" ", "%20"))
    assert (found, words in body) == (status, True), body


def test_a_base_path(monitored: Monitored) -> None:
    _, web = monitored(workers=1, config='http_base_path: "/nats"\n')
    assert web.json("/nats/varz")["http_base_path"] == "/nats"
    assert 'href="/nats/connz"' in web.get("/nats")[2]
    assert web.get("/nats/")[0] == 200
    assert web.get("/varz")[0] == web.get("/")[0] == web.get("/natsvarz")[0] == 404


def test_many_connections_are_gathered_in_steps(monitored: Monitored) -> None:
    """More than a shard tells at once, of connections and of subscriptions."""
    broker, web = monitored()
    clients = [broker.client().connect(name=f"n{n}") for n in range(700)]
    for number, client in enumerate(clients):
        client.send("".join(f"SUB s.{number}.{n} {n}\r\n" for n in range(3))).flush()
    clients[0].send("".join(f"SUB more.{n} x{n}\r\n" for n in range(500))).flush()
    page = web.json("/connz?subs=1&sort=subs&limit=2000")
    assert (page["total"], page["num_connections"], len({one["name"] for one in page["connections"]})) == (700, 700, 700)
    assert page["connections"][0]["name"] == "n0" and len(page["connections"][0]["subscriptions_list"]) == 503
    assert all(len(one["subscriptions_list"]) == 3 for one in page["connections"][1:])
    everything = web.json("/subsz?subs=1&limit=5000")
    subjects = [one["subject"] for one in everything["subscriptions_list"]]
    assert (everything["total"], len(subjects), len(set(subjects))) == (2600, 2600, 2600)
    parts = [web.json(f"/subsz?subs=1&limit=900&offset={offset}")["subscriptions_list"] for offset in (0, 900, 1800)]
    assert [one["subject"] for part in parts for one in part] == subjects
    assert web.json("/subsz?subs=1&test=s.5.1")["total"] == 1
    names = [one["name"] for offset in range(0, 700, 100) for one in web.json(f"/connz?offset={offset}&limit=100")["connections"]]
    assert sorted(names) == sorted(f"n{n}" for n in range(700))
    for client in clients[:300]:
        client.close()
    wait_until(lambda: web.json("/connz?state=closed&limit=1")["total"] == 300, "all to be closed")
    ended = web.json("/connz?state=closed")["connections"]
    assert sorted(one["name"] for one in ended) == sorted(f"n{n}" for n in range(300))


def test_a_stopped_shard_is_left_out(monitored: Monitored) -> None:
    broker, web = monitored(workers=2)
    clients = [broker.client().connect() for _ in range(4)]
    for client in clients:
        client.flush()
    with broker.stopped_shard(0):
        assert {one["shard"] for one in web.json("/connz")["connections"]} == {1}
        assert web.json("/varz")["connections"] == 4
    wait_until(lambda: len(web.json("/connz")["connections"]) == 4, "the shard to answer again")


def test_the_monitor_is_replaced_and_harms_nobody(monitored: Monitored) -> None:
    broker, web = monitored()
    client = broker.client().connect()
    (pid,) = (pid for pid, title in broker.processes().items() if title == "shardbroker: monitor")
    os.kill(pid, signal.SIGKILL)
    client.flush()
    broker.wait_log(r"Monitor \(pid \d+\) has died, killed by SIGKILL")
    assert web.json("/varz")["connections"] == 1
