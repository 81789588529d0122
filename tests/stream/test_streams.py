"""Streams by the API, as a client sees them: made, filled, read, changed, deleted. With one and with three workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from harness import Broker

Ask = Callable[..., Awaitable[dict[str, Any]]]


async def connected(broker: Broker) -> Client:
    return await nats.connect(f"nats://127.0.0.1:{broker.port}", allow_reconnect=False)


def asker(client: Client) -> Ask:
    async def ask(subject: str, payload: Any = "", **headers: str) -> dict[str, Any]:
        body = payload if isinstance(payload, str) else json.dumps(payload)
        said = {key.replace("_", "-"): value for key, value in headers.items()} or None
        answer: dict[str, Any] = json.loads(
            (await client.request(subject, body.encode(), timeout=60, headers=said)).data
        )
        return answer

    return ask


def run(test: Callable[[Client, Ask], Awaitable[None]], broker: Broker) -> None:
    async def main() -> None:
        client = await connected(broker)
        try:
            await test(client, asker(client))
        finally:
            await client.close()

    asyncio.run(main())


def test_the_server_says_that_it_has_streams(js: Broker) -> None:
    info = js.client().info
    assert info["jetstream"] is True
    assert info["api_lvl"] == 2


@pytest.mark.parametrize("storage", ["file", "memory"])
def test_from_creation_to_deletion(js: Broker, name: str, storage: str) -> None:
    async def test(client: Client, ask: Ask) -> None:
        made = await ask(
            f"$JS.API.STREAM.CREATE.{name}", {"name": name, "subjects": [f"{name}.>"], "storage": storage}
        )
        assert made["did_create"] and made["config"]["storage"] == storage
        again = await ask(
            f"$JS.API.STREAM.CREATE.{name}", {"name": name, "subjects": [f"{name}.>"], "storage": storage}
        )
        assert again["did_create"] and again["created"] == made["created"]
        for number in range(1, 101):
            assert await ask(f"{name}.{number % 7}", f"message {number}") == {"stream": name, "seq": number}
        info = await ask(f"$JS.API.STREAM.INFO.{name}", {"subjects_filter": ">"})
        assert info["state"]["messages"] == 100 and info["state"]["num_subjects"] == 7
        assert sum(info["state"]["subjects"].values()) == 100
        got = await ask(f"$JS.API.STREAM.MSG.GET.{name}", {"last_by_subj": f"{name}.3"})
        assert got["message"]["seq"] == 94
        assert (await ask(f"$JS.API.STREAM.PURGE.{name}", {"filter": f"{name}.3"}))["purged"] == 14
        assert (await ask(f"$JS.API.STREAM.MSG.DELETE.{name}", {"seq": 1}))["success"]
        info = await ask(f"$JS.API.STREAM.INFO.{name}", {"deleted_details": True})
        assert info["state"]["messages"] == 85 and info["state"]["first_seq"] == 2
        assert len(info["state"]["deleted"]) == 14
        assert (await ask(f"$JS.API.STREAM.DELETE.{name}"))["success"]
        assert (await ask(f"$JS.API.STREAM.INFO.{name}"))["error"]["err_code"] == 10059

    run(test, js)


def test_streams_of_all_shards_are_listed(js: Broker, name: str) -> None:
    async def test(client: Client, ask: Ask) -> None:
        names = [f"{name}-{number:02d}" for number in range(12)]
        for each in names:
            assert "error" not in await ask(
                f"$JS.API.STREAM.CREATE.{each}", {"name": each, "subjects": [f"{each}.x"]}
            )
        found = (await ask("$JS.API.STREAM.NAMES", {"subject": f"{name}-03.*"}))["streams"]
        assert found == [names[3]]
        found = (await ask("$JS.API.STREAM.NAMES"))["streams"]
        assert [each for each in found if each in names] == names
        listed = await ask("$JS.API.STREAM.LIST")
        assert [row["config"]["name"] for row in listed["streams"] if row["config"]["name"] in names] == names
        usage = await ask("$JS.API.INFO")
        assert usage["streams"] >= 12 and usage["api"]["level"] == 2
        overlap = await ask("$JS.API.STREAM.CREATE.other", {"name": "other", "subjects": [f"{name}-05.*"]})
        assert overlap["error"]["err_code"] == 10065
        for each in names:
            assert (await ask(f"$JS.API.STREAM.DELETE.{each}"))["success"]

    run(test, js)


def test_many_publishers_in_flight_are_acknowledged_in_order(js: Broker, name: str) -> None:
    async def test(client: Client, ask: Ask) -> None:
        await ask(f"$JS.API.STREAM.CREATE.{name}", {"name": name, "subjects": [f"{name}.>"]})

        async def publisher(number: int) -> None:
            own = await connected(js)
            inbox = own.new_inbox()
            seqs: list[int] = []
            done = asyncio.Event()

            async def on_ack(message: Any) -> None:
                seqs.append(json.loads(message.data)["seq"])
                if len(seqs) == 300:
                    done.set()

            await own.subscribe(inbox, cb=on_ack)
            for at in range(300):
                await own.publish(f"{name}.{number}", b"%d" % at, reply=inbox)
            await asyncio.wait_for(done.wait(), 60)
            await own.close()
            assert seqs == sorted(seqs)

        await asyncio.gather(*(publisher(number) for number in range(4)))
        info = await ask(f"$JS.API.STREAM.INFO.{name}", {"subjects_filter": ">"})
        assert info["state"]["messages"] == 1200
        for number in range(4):
            got = (
                await client.request(
                    f"$JS.API.DIRECT.GET.{name}",
                    json.dumps({"last_by_subj": f"{name}.{number}"}).encode(),
                    timeout=60,
                )
                if info["config"]["allow_direct"]
                else None
            )
            assert got is None
        await ask(f"$JS.API.STREAM.DELETE.{name}")

    run(test, js)


def test_tens_of_thousands_of_subjects_in_a_request(js: Broker, name: str) -> None:
    """Each of them is compared with the others, but not one by one: that would take the shard's time from everybody."""

    async def test(client: Client, ask: Ask) -> None:
        subjects = [f"{name}.{at}.*" for at in range(20_000)]
        made = await ask(f"$JS.API.STREAM.CREATE.{name}", {"name": name, "subjects": subjects})
        assert made["did_create"], made
        filters = [f"{name}.{at}.x" for at in range(20_000)]
        asked = {"stream_name": name, "config": {"name": "c", "filter_subjects": filters}}
        consumer = await ask(f"$JS.API.CONSUMER.CREATE.{name}.c", asked)
        assert consumer["config"]["filter_subjects"] == filters
        for more in (f"{name}.19999.>", f"{name}.0.*"):
            refused = await ask(f"$JS.API.STREAM.UPDATE.{name}", {"name": name, "subjects": [*subjects, more]})
            assert refused["error"]["err_code"] == 10052, refused
        await ask(f"$JS.API.STREAM.DELETE.{name}")

    run(test, js)


def test_subjects_that_take_too_long_to_compare_are_refused(js: Broker, name: str) -> None:
    async def test(client: Client, ask: Ask) -> None:
        subjects = [s for at in range(1500) for s in (f"{name}.a{at}.*.b{at}", f"{name}.*.c{at}.d{at}")]
        refused = await ask(f"$JS.API.STREAM.CREATE.{name}", {"name": name, "subjects": subjects})
        assert refused["error"] == {
            "code": 500, "err_code": 10052, "description": "too many subjects with wildcards to compare"}
        made = await ask(f"$JS.API.STREAM.CREATE.{name}", {"name": name, "subjects": subjects[::2]})
        assert made["did_create"], made
        await ask(f"$JS.API.STREAM.DELETE.{name}")

    run(test, js)


def test_odd_numbers_of_a_direct_get_and_odd_placement(js: Broker, name: str) -> None:
    """As nats-server has them: a batch below 0 has only its end."""

    async def test(client: Client, ask: Ask) -> None:
        made = await ask(
            f"$JS.API.STREAM.CREATE.{name}",
            {"name": name, "subjects": [name], "allow_direct": True, "placement": {"tags": []}},
        )
        assert made["config"]["placement"] == {}
        again = await ask(f"$JS.API.STREAM.CREATE.{name}", made["config"] | {"placement": {"tags": []}})
        assert again["config"]["placement"] == {}
        updated = await ask(f"$JS.API.STREAM.UPDATE.{name}", made["config"] | {"placement": {"cluster": ""}})
        assert "placement" not in updated["config"]
        for _ in range(3):
            await ask(name, "x")
        for asked, left in (
            ({"seq": 100, "batch": -1}, "0"), ({"seq": 2, "batch": -5}, "2"),
            ({"seq": 1, "batch": -1, "next_by_subj": name}, "3"), ({"seq": 1, "batch": -1, "next_by_subj": "none"}, "0"),
            ({"last_by_subj": "none", "batch": -1}, "3"),
        ):  # fmt: skip
            said = (await client.request(f"$JS.API.DIRECT.GET.{name}", json.dumps(asked).encode(), timeout=60)).headers
            assert said is not None
            assert (said["Status"], said["Nats-Num-Pending"], said["Nats-Last-Sequence"]) == ("204", left, "0"), asked
        await ask(f"$JS.API.STREAM.DELETE.{name}")

    run(test, js)
