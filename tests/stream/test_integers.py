"""Numbers in requests for streams and consumers: counts of replicas, sizes, times, limits, at all their ends.

The class of CVE-2022-42708, where an update to another count of replicas ended the server: whatever number a client writes,
also into an update of what exists, is answered, and the stream goes on. Codes and texts are nats-server's.
"""

from __future__ import annotations

from typing import Any

import pytest
from nats.aio.client import Client

from harness import Broker
from stream.test_streams import Ask, run

EXTREMES = (-(2**63), -1, 2**31, 2**63 - 1, 2**63, 10**40, 1.5, 1e300, "3", None)
STREAM_FIELDS = (
    "num_replicas", "max_msgs", "max_bytes", "max_age", "max_msg_size", "max_msgs_per_subject", "max_consumers",
    "duplicate_window", "first_seq",
)  # fmt: skip
CONSUMER_FIELDS = (
    "num_replicas", "ack_wait", "max_deliver", "max_ack_pending", "max_waiting", "max_batch", "max_expires",
    "inactive_threshold", "opt_start_seq", "max_bytes", "rate_limit_bps", "idle_heartbeat",
)  # fmt: skip


@pytest.mark.parametrize("replicas", [2, 3, 5])
def test_more_than_one_replica_is_refused(js: Broker, name: str, replicas: int) -> None:
    async def test(client: Client, ask: Ask) -> None:
        config = {"name": name, "subjects": [f"{name}.>"], "storage": "memory"}
        none = {"code": 500, "err_code": 10074, "description": "replicas > 1 not supported in non-clustered mode"}
        assert (await ask(f"$JS.API.STREAM.CREATE.{name}", config | {"num_replicas": replicas}))["error"] == none
        await ask(f"$JS.API.STREAM.CREATE.{name}", config)
        assert (await ask(f"$JS.API.STREAM.UPDATE.{name}", config | {"num_replicas": replicas}))["error"] == none
        assert (await ask(f"$JS.API.STREAM.INFO.{name}"))["config"]["num_replicas"] == 1
        consumer = {"stream_name": name, "config": {"durable_name": "c", "ack_policy": "explicit", "num_replicas": replicas}}
        refused = await ask(f"$JS.API.CONSUMER.CREATE.{name}.c", consumer)
        assert refused["error"] == none

    run(test, js)


@pytest.mark.parametrize("replicas", [-(2**63), -1, 6, 2**31, 2**63 - 1])
def test_replicas_that_no_server_has_are_refused(js: Broker, name: str, replicas: int) -> None:
    async def test(client: Client, ask: Ask) -> None:
        config = {"name": name, "subjects": [f"{name}.>"], "storage": "memory"}
        text = "replicas count cannot be negative" if replicas < 0 else "maximum replicas is 5"
        code = 10133 if replicas < 0 else 10052
        for verb in ("CREATE", "UPDATE"):
            refused = await ask(f"$JS.API.STREAM.{verb}.{name}", config | {"num_replicas": replicas})
            assert (refused["error"]["err_code"], refused["error"]["description"]) == (code, text)
            await ask(f"$JS.API.STREAM.CREATE.{name}", config)
        assert (await ask(f"$JS.API.STREAM.INFO.{name}"))["config"]["num_replicas"] == 1

    run(test, js)


@pytest.mark.parametrize("field", STREAM_FIELDS)
def test_any_number_in_a_stream(js: Broker, name: str, field: str) -> None:
    async def test(client: Client, ask: Ask) -> None:
        config: dict[str, Any] = {"name": name, "subjects": [f"{name}.>"], "storage": "memory", "allow_direct": True}
        for number in EXTREMES:
            made = await ask(f"$JS.API.STREAM.CREATE.{name}", config | {field: number})
            assert ("error" in made) != ("config" in made)
            await ask(f"$JS.API.STREAM.DELETE.{name}")
            await ask(f"$JS.API.STREAM.CREATE.{name}", config)
            changed = await ask(f"$JS.API.STREAM.UPDATE.{name}", config | {field: number})
            assert ("error" in changed) != ("config" in changed)
            # Whatever came of it, this stream lives, says what it is and can be put right.
            shown = (await ask(f"$JS.API.STREAM.INFO.{name}"))["config"].get(field, 0)
            assert type(shown) is int and -(2**63) <= shown < 2**64
            await ask(f"$JS.API.STREAM.DELETE.{name}")
        assert (await ask(f"$JS.API.STREAM.CREATE.{name}", config))["did_create"]
        assert (await ask(f"{name}.x", "hello"))["seq"] == 1

    run(test, js)


@pytest.mark.parametrize("field", CONSUMER_FIELDS)
def test_any_number_in_a_consumer(js: Broker, name: str, field: str) -> None:
    async def test(client: Client, ask: Ask) -> None:
        config = {"name": name, "subjects": [f"{name}.>"], "storage": "memory"}
        await ask(f"$JS.API.STREAM.CREATE.{name}", config)
        for number in EXTREMES:
            for target in ({}, {"deliver_subject": f"{name}-to"}):
                wanted = {"durable_name": "c", "ack_policy": "explicit", field: number, **target}
                if field == "opt_start_seq":
                    wanted["deliver_policy"] = "by_start_sequence"
                made = await ask(f"$JS.API.CONSUMER.CREATE.{name}.c", {"stream_name": name, "config": wanted})
                assert ("error" in made) != ("config" in made)
                await ask(f"$JS.API.CONSUMER.DELETE.{name}.c")
        assert (await ask(f"{name}.x", "hello"))["stream"] == name
        plain = {"durable_name": "c", "ack_policy": "explicit"}
        await ask(f"$JS.API.CONSUMER.CREATE.{name}.c", {"stream_name": name, "config": plain})
        # What a consumer delivers has the message's own subject, which nats-py's other way of asking does not look for.
        given = await client.request(f"$JS.API.CONSUMER.MSG.NEXT.{name}.c", b"1", timeout=60, old_style=True)
        assert given.data == b"hello"

    run(test, js)
