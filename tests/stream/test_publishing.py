"""What a publisher's headers and a stream's configuration make of a message, beyond what test_same_answers compares."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest

from harness import Broker
from harness.raw import msg, pub
from stream.client import Asker, run


def test_fast_and_slow_messages_keep_their_order(js: Broker, name: str) -> None:
    """Those with headers for the broker go another way inside; nobody may see that."""

    async def test(asker: Asker) -> None:
        await asker.create(name, subjects=[f"{name}.>"])
        client, acks = asker.client, []
        inbox, done = client.new_inbox(), asyncio.Event()

        async def on_ack(message: Any) -> None:
            acks.append(json.loads(message.data)["seq"])
            if len(acks) == 600:
                done.set()

        await client.subscribe(inbox, cb=on_ack)
        for number in range(600):
            headers = (
                {"Nats-Msg-Id": f"{number}"} if number % 3 == 0 else {"A": "b"} if number % 3 == 1 else None
            )
            await client.publish(f"{name}.x", b"%d" % number, reply=inbox, headers=headers)
        await asyncio.wait_for(done.wait(), 60)
        assert acks == list(range(1, 601))
        for number in (0, 1, 2, 300, 599):
            got = (await asker.api(f"STREAM.MSG.GET.{name}", {"seq": number + 1}))["message"]
            assert base64.b64decode(got["data"]) == b"%d" % number

    run(test, js)


@pytest.mark.parametrize("storage", ["file", "memory"])
def test_thousands_in_flight_are_answered_in_order(js: Broker, name: str, storage: str) -> None:
    """A sync makes them due at once; a turn answers a part of them. Whoever asks meanwhile gets an answer, too."""
    count = 5000

    async def test(asker: Asker) -> None:
        await asker.create(name, subjects=[name], storage=storage)
        with js.client() as publisher, js.client() as other:
            publisher.connect().sub("_INBOX.acks").flush()
            other.connect().sub(f"{name}.other").flush()
            publisher.send(pub(name, "x", "_INBOX.acks") * count)
            for _ in range(50):
                other.pub(f"{name}.other").expect(msg(f"{name}.other", 1))
            acks = [json.loads(payload)["seq"] for _, _, payload in publisher.messages(count)]
        assert acks == list(range(1, count + 1))

    run(test, js)


def test_duplicates_within_the_window_only(js: Broker, name: str) -> None:
    async def test(asker: Asker) -> None:
        await asker.create(name, subjects=[name], duplicate_window=2_000_000_000)
        first = await asker.publish(name, "1", Nats_Msg_Id="a")
        assert await asker.publish(name, "2", Nats_Msg_Id="a") == {**first, "duplicate": True}

        async def stored_again() -> bool:
            return "duplicate" not in await asker.publish(name, "3", Nats_Msg_Id="a")

        await asker.until(stored_again, "the window to pass")
        assert (await asker.state(name))["messages"] == 2

    run(test, js)


def test_transform_and_republish(js: Broker, name: str) -> None:
    async def test(asker: Asker) -> None:
        await asker.create(
            name,
            subjects=[f"{name}.*"],
            subject_transform={"src": f"{name}.*", "dest": f"{name}.moved.{{{{wildcard(1)}}}}"},
            republish={"src": f"{name}.moved.*", "dest": f"re.{name}.{{{{wildcard(1)}}}}"},
        )
        subscription = await asker.client.subscribe(f"re.{name}.*")
        await asker.client.flush()
        for number in range(3):
            await asker.publish(f"{name}.a", f"{number}", Own="header")
        assert (await asker.state(name, subjects_filter=">"))["subjects"] == {f"{name}.moved.a": 3}
        for number in range(3):
            got = await subscription.next_msg(60)
            assert got.subject == f"re.{name}.a" and got.data == b"%d" % number
            assert got.headers["Own"] == "header" and got.headers["Nats-Stream"] == name
            assert got.headers["Nats-Subject"] == f"{name}.moved.a"
            assert got.headers["Nats-Sequence"] == str(number + 1)
            assert got.headers["Nats-Last-Sequence"] == str(number)

    run(test, js)


def test_a_marker_is_left_where_a_subject_ends(js: Broker, name: str) -> None:
    async def test(asker: Asker) -> None:
        await asker.create(
            name, subjects=[f"{name}.>"], subject_delete_marker_ttl=4_000_000_000, max_age=2_000_000_000
        )
        await asker.publish(f"{name}.a", "1")
        await asker.publish(f"{name}.a", "2")

        async def marker() -> Any:
            found = await asker.api(f"STREAM.MSG.GET.{name}", {"seq": 3})
            return found.get("message")

        got = await asker.until(marker, "a marker")
        assert got["subject"] == f"{name}.a" and "data" not in got
        assert b"Nats-Marker-Reason: MaxAge\r\n" in base64.b64decode(got["hdrs"])

        async def empty() -> bool:
            return (await asker.state(name))["messages"] == 0

        # A marker's own end is marked by nothing, nor is that of a key-value store's purge.
        await asker.until(empty, "the marker's end")
        await asker.publish(f"{name}.b", "", KV_Operation="PURGE", Nats_Rollup="sub")
        await asker.until(empty, "the end of what a purge left")
        assert (await asker.state(name))["last_seq"] == 4

    run(test, js)


def test_conditions_hold_across_shards(js: Broker, name: str) -> None:
    """Of many who set the same condition at the same time, from anywhere, exactly one succeeds."""

    async def test(asker: Asker) -> None:
        await asker.create(name, subjects=[f"{name}.>"])

        async def try_it(number: int) -> bool:
            answer = await asker.publish(f"{name}.k", f"{number}", Nats_Expected_Last_Subject_Sequence="0")
            return "error" not in answer

        assert sum(await asyncio.gather(*(try_it(number) for number in range(20)))) == 1
        assert (await asker.state(name))["messages"] == 1

    run(test, js)


@pytest.mark.ours
def test_what_was_acknowledged_is_there_after_a_restart(tmp_path: Path, workers: int) -> None:
    """Messages, definitions, the duplicate window, deleted sequences and the sequence that comes next."""
    args = ["-js", "-sd", str(tmp_path / "store")]

    async def before(asker: Asker) -> None:
        for each in ("A", "B", "C", "weird name!".replace(" ", "_"), "%2E"):
            await asker.create(each, subjects=[f"{each}.>"], max_msgs_per_subject=5)
            for number in range(20):
                await asker.publish(f"{each}.{number % 3}", f"{number}", Nats_Msg_Id=f"{number}")
        await asker.api("STREAM.MSG.DELETE.A", {"seq": 18})
        await asker.api("STREAM.DELETE.C")
        await asker.api("STREAM.PURGE.B")

    async def after(asker: Asker) -> None:
        assert (await asker.api("STREAM.NAMES"))["streams"] == sorted(["%2E", "A", "B", "weird_name!"])
        state = await asker.state("A", subjects_filter=">", deleted_details=True)
        assert state["subjects"] == {"A.0": 5, "A.1": 5, "A.2": 4} and 18 in state["deleted"]
        assert (await asker.publish("A.0", "x", Nats_Msg_Id="19"))["duplicate"] is True
        assert (await asker.publish("A.0", "x"))["seq"] == 21
        assert (await asker.publish("B.0", "x"))["seq"] == 21
        await asker.create("C", subjects=["C.>"])
        assert (await asker.publish("C.0", "x"))["seq"] == 1

    with Broker(tmp_path / "one", workers=workers, args=args) as broker:
        run(before, broker)
    # As many shards or others: who owns what changes, what is there does not.
    with Broker(tmp_path / "two", workers=4 - workers, args=args) as broker:
        run(after, broker)


@pytest.mark.ours
def test_a_shard_that_is_killed_comes_back_with_its_streams(tmp_path: Path) -> None:
    """Publishers on the other shards go on; nothing acknowledged is lost; nothing is there twice that has an id."""
    names = [f"K{number}" for number in range(6)]

    async def main(asker: Asker) -> None:
        acknowledged: dict[str, list[int]] = {name: [] for name in names}
        for each in names:
            await asker.create(each, subjects=[each])

        async def publish(each: str, number: int) -> None:
            while True:
                try:
                    answer = await asker.client.request(
                        each, b"%d" % number, timeout=1, headers={"Nats-Msg-Id": f"{each}-{number}"}
                    )
                except Exception:
                    await asyncio.sleep(0.05)
                    continue
                said = json.loads(answer.data)
                if "error" not in said:
                    acknowledged[each].append(number)
                    return

        for number in range(30):
            if number == 10:
                used = broker.shards_in_use()
                broker.kill_shard(next(shard for shard in broker.shard_pids() if shard not in used))
            await asyncio.gather(*(publish(each, number) for each in names))
        for each in names:
            state = await asker.state(each)
            assert state["messages"] == 30, each
            assert sorted(acknowledged[each]) == list(range(30))

    with Broker(tmp_path / "broker", workers=3, args=["-js", "-sd", str(tmp_path / "store")]) as broker:
        run(main, broker)
