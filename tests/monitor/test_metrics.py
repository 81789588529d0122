"""/metrics, /shardz, /livez, /readyz: readable by Prometheus, true, bounded."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness import Broker, wait_until
from harness.jwts import Estate, Signer

Start = Callable[..., Broker]
pytestmark = pytest.mark.ours
ANSWER = rb"MSG r 1 \d+\r\n.*\r\n"


def url(broker: Broker, path: str) -> str:
    found = re.search(r"Starting http monitor on 127\.0\.0\.1:(\d+)", broker.log())
    assert found
    return f"http://127.0.0.1:{found[1]}{path}"


def get(broker: Broker, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url(broker, path), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def page(broker: Broker, path: str = "/shardz") -> Any:
    return json.loads(get(broker, path)[1])


def samples(broker: Broker, path: str = "/metrics") -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """(name, labels) -> value; every series once."""
    status, text = get(broker, path)
    assert status == 200
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation and family.samples is not None
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def named(found: dict[tuple[str, tuple[tuple[str, str], ...]], float], name: str) -> dict[str, float]:
    """Shard (or nothing) -> value."""
    return {dict(labels).get("shard", ""): value for (n, labels), value in found.items() if n == name}


def test_what_is_told_is_true(fresh_broker: Start, workers: int) -> None:
    broker = fresh_broker(args=["-m", "-1"])
    clients = [broker.client().connect(name=f"n{n}") for n in range(6)]
    for client in clients:
        client.send("SUB a 1\r\n").flush()
    clients[0].send("PUB a 3\r\nabc\r\n" * 10)

    def all_sent() -> bool:
        return sum(named(samples(broker), "shardbroker_sent_messages_total").values()) == 60

    wait_until(all_sent, "all messages to be delivered")
    found = samples(broker)
    shards = {str(n) for n in range(workers)}
    assert set(named(found, "shardbroker_shard_up")) == shards
    assert sum(named(found, "shardbroker_shard_up").values()) == workers
    assert sum(named(found, "shardbroker_connections").values()) == 6
    assert sum(named(found, "shardbroker_received_messages_total").values()) == 10
    assert sum(named(found, "shardbroker_sent_bytes_total").values()) == 180
    crossing = sum(named(found, "shardbroker_cross_shard_sent_messages_total").values())
    assert crossing == 10 * (workers - 1)
    # As the exporter names them.
    (server,) = {dict(labels)["server_id"] for (name, labels) in found if name == "gnatsd_varz_connections"}
    for name, value in (
        ("gnatsd_varz_connections", 6), ("gnatsd_varz_in_msgs", 10), ("gnatsd_varz_slow_consumer_stats_clients", 0),
        ("gnatsd_connz_num_connections", 6), ("gnatsd_connz_out_bytes", 180), ("gnatsd_connz_subscriptions", 6),
        ("gnatsd_healthz_status", 0), ("jetstream_server_jetstream_disabled", 1),
    ):  # fmt: skip
        (got,) = named(found, name).values()
        assert got == value, name
    assert page(broker, "/varz")["server_id"] == server
    # Each turn is in one bucket, and those add up.
    for shard in shards:
        counts = [
            (float(dict(labels)["le"]), value)
            for (name, labels), value in found.items()
            if name == "shardbroker_loop_lag_seconds_bucket" and dict(labels)["shard"] == shard
        ]
        values = [value for _, value in sorted(counts)]
        assert values == sorted(values) and len(values) == 22
        assert values[-1] == named(found, "shardbroker_loop_lag_seconds_count")[shard]
        assert named(found, "shardbroker_loop_lag_seconds_sum")[shard] > 0
    # A connection of its own has a series only where they are asked for.
    assert not any("cid" in dict(labels) for _, labels in found)
    detailed = samples(broker, "/metrics/detailed")
    cids = {dict(labels)["cid"] for (name, labels) in detailed if name == "gnatsd_connz_in_msgs" and "cid" in dict(labels)}
    assert len(cids) == 6


def test_streams_have_series(fresh_broker: Start, tmp_path: Path) -> None:
    broker = fresh_broker(workers=2, args=["-m", "-1", "-js", "-sd", str(tmp_path)])
    client = broker.client().connect()
    client.send("SUB r 1\r\n")
    config = '{"name":"ST","subjects":["st.>"],"storage":"memory"}'
    client.send(f"PUB $JS.API.STREAM.CREATE.ST r {len(config)}\r\n{config}\r\n").expect_re(ANSWER)
    consumer = '{"stream_name":"ST","config":{"durable_name":"C","ack_policy":"explicit"}}'
    client.send(f"PUB $JS.API.CONSUMER.DURABLE.CREATE.ST.C r {len(consumer)}\r\n{consumer}\r\n")
    client.expect_re(ANSWER)
    client.send("PUB st.x r 2\r\nhi\r\n").expect_re(ANSWER)
    found = samples(broker, "/metrics/detailed")
    values = {name: value for (name, labels), value in found.items() if dict(labels).get("stream_name") == "ST"}
    assert values["jetstream_stream_total_messages"] == values["jetstream_stream_consumer_count"] == 1
    assert values["jetstream_consumer_num_pending"] == 1
    assert sum(named(samples(broker), "jetstream_server_total_streams").values()) == 1


def test_sources_and_mirrors_have_series(fresh_broker: Start, tmp_path: Path) -> None:
    broker = fresh_broker(workers=2, args=["-m", "-1", "-js", "-sd", str(tmp_path)])
    client = broker.client().connect()
    client.send("SUB r 1\r\n")
    for config in (
        '{"name":"ORIGIN","subjects":["st.>"],"storage":"memory"}',
        '{"name":"MIRROR","mirror":{"name":"ORIGIN"},"storage":"memory"}',
        '{"name":"SUM","sources":[{"name":"ORIGIN"}],"storage":"memory"}',
    ):
        name = json.loads(config)["name"]
        client.send(f"PUB $JS.API.STREAM.CREATE.{name} r {len(config)}\r\n{config}\r\n").expect_re(ANSWER)
    client.send("PUB st.x r 2\r\nhi\r\n").expect_re(ANSWER)

    def seen() -> bool:
        found = samples(broker, "/metrics/detailed")
        values = {(dict(labels).get("stream_name"), name): (value, dict(labels)) for (name, labels), value in found.items()}
        for stream, kind in (("MIRROR", "mirror"), ("SUM", "source")):
            assert values[stream, f"jetstream_stream_{kind}_lag"][1][f"{kind}_name"] == "ORIGIN"
            if values[stream, "jetstream_stream_total_messages"][0] != 1 or values[stream, f"jetstream_stream_{kind}_lag"][0]:
                return False
            assert values[stream, f"jetstream_stream_{kind}_active_duration_ns"][0] > 0
        return True

    wait_until(seen, "mirror and source to have the message")


def test_accounts_have_series(fresh_broker: Start) -> None:
    estate = Estate()
    limits = {"subs": 7, "data": -1, "payload": 99, "imports": 1, "exports": 2, "wildcards": True, "conn": 5, "leaf": 0}
    accounts = {estate.a: estate.account_token(estate.a, name="ACC", limits=limits)}
    accounts[estate.system] = estate.account_token(estate.system)
    preload = "\n".join(f"  {signer.public}: {token}" for signer, token in accounts.items())
    config = f"operator: {estate.operator_token()}\nresolver: MEMORY\nresolver_preload {{\n{preload}\n}}\n"
    broker = fresh_broker(workers=2, config=config, args=["-m", "-1"])
    user, client = Signer("user", "u"), broker.client()
    said = {"jwt": estate.user_token(user, estate.a), "sig": user.sign(client.info["nonce"]), "verbose": False}
    client.send(f"CONNECT {json.dumps(said)}\r\nSUB x 1\r\nPING\r\n").expect(b"PONG\r\n")
    found = {
        name.removeprefix("gnatsd_accountz_"): value
        for (name, labels), value in samples(broker, "/metrics/detailed").items()
        if name.startswith("gnatsd_accountz_") and dict(labels)["account_id"] == estate.a.public
    }
    assert found == {
        "client_connections": 1, "leafnode_connections": 0, "subscriptions": 1, "is_system": 0, "expired": 0, "complete": 1,
        "jetstream_enabled": 0, **{f"limit_{name}": float(value) for name, value in limits.items()},
    }  # fmt: skip
    assert page(broker, f"/accountz?acc={estate.a.public}")["account_detail"]["decoded_jwt"]["nats"]["limits"] == limits


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool, of the package prometheus")
def test_promtool_is_content(fresh_broker: Start, tmp_path: Path) -> None:
    broker = fresh_broker(workers=2, args=["-m", "-1", "-js", "-sd", str(tmp_path)])
    for path in ("/metrics", "/metrics/detailed"):
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=get(broker, path)[1], capture_output=True, text=True, timeout=60
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_shards_one_by_one(fresh_broker: Start, workers: int) -> None:
    broker = fresh_broker(args=["-m", "-1"])
    client = broker.client().connect()
    home = broker.shard_of(client)
    client.send("SUB a 1\r\n" + "PUB a 1\r\nx\r\n" * 5)
    wait_until(lambda: page(broker)["total"]["out_msgs"] == 5, "the messages to be counted")
    body = page(broker)
    assert [row["shard"] for row in body["shards"]] == list(range(workers))
    assert [row["pid"] for row in body["shards"]] == [broker.shard_pids()[n] for n in range(workers)]
    assert [row["connections"] for row in body["shards"]] == [int(n == home) for n in range(workers)]
    assert body["total"]["in_msgs"] == body["shards"][home]["in_msgs"] == 5
    assert body["shards_ready"] == workers and body["processes"]["front"]["pid"] == broker.pid
    assert all(row["mem"] > 1 << 20 and row["descriptors"] > 0 and row["heartbeat_age"] < 20 for row in body["shards"])
    assert set(body["shards"][0]) - {"shard", "pid", "state", "epoch", "start", "uptime", "heartbeat_age"} <= set(
        body["total"]
    )
    # Rates are of a whole second, however often somebody asks.
    wait_until(lambda: page(broker)["interval_seconds"] >= 1.0, "a second to be over")
    assert page(broker)["total"]["rates"]["turns"] > 0
    assert "gnatsd" not in get(broker, "/shardz")[1]


def test_readiness(fresh_broker: Start) -> None:
    broker = fresh_broker(
        workers=2, config='lame_duck_duration: "30s"\nlame_duck_grace_period: "20s"\n', args=["-m", "-1"]
    )
    assert get(broker, "/livez") == get(broker, "/readyz") == (200, '{"status":"ok"}')
    client = broker.client().connect()
    with broker.stopped_shard(0):
        # Nothing hangs on a shard that does not answer.
        assert get(broker, "/livez")[0] == 200
        assert page(broker)["shards"][0]["state"] == "READY"
    client.flush()
    os.kill(broker.pid, signal.SIGUSR2)
    wait_until(lambda: get(broker, "/readyz")[0] == 503, "lame duck mode")
    assert page(broker, "/readyz") == {"status": "unavailable", "error": "lame duck mode"}
    assert get(broker, "/livez")[0] == 200
    # It would take its time, and does not mind a TERM meanwhile.
    broker.stop(signal.SIGINT)
