"""Mirrors and sources, with origin and copy on shards as it comes: filters, starts, transforms, deletions, death.

Names are drawn so that with several workers a copy is on another shard than its origin.
"""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import nats
import pytest

from harness import Broker
from shardbroker.subject import shard_of
from stream.client import Asker, run

pytestmark = pytest.mark.ours


def apart(name: str, workers: int) -> tuple[str, str]:
    """Names of two streams that different shards own, if there are several."""
    first = f"{name}-O"
    for n in range(100):
        second = f"{name}-C{n}"
        if workers == 1 or shard_of("$G", first, workers) != shard_of("$G", second, workers):
            return first, second
    raise AssertionError("no two names apart")


async def contents(asker: Asker, stream: str) -> list[tuple[int, str, str]]:
    """(sequence, subject, payload) of all messages."""
    state = await asker.state(stream)
    found = []
    for seq in range(state["first_seq"], state["last_seq"] + 1):
        answer = await asker.api(f"STREAM.MSG.GET.{stream}", {"seq": seq})
        if "error" not in answer:
            message = answer["message"]
            found.append((seq, message["subject"], base64.b64decode(message.get("data", "")).decode()))
    return found


async def copied(asker: Asker, stream: str, wanted: list[tuple[int, str, str]]) -> None:
    """Wait until the stream has these and no others."""
    found: list[Any] = []

    async def there() -> bool:
        found[:] = await contents(asker, stream)
        return found == wanted

    try:
        await asker.until(there, "the copies")
    except TimeoutError:
        assert found == wanted
        raise


async def fill(asker: Asker, name: str, count: int) -> None:
    for n in range(count):
        await asker.publish(f"{name}.{'ab'[n % 2]}", str(n))


def test_a_mirror_has_sequences_and_gaps(js: Broker, workers: int, name: str) -> None:
    async def test(asker: Asker) -> None:
        origin, copy = apart(name, workers)
        await asker.create(origin, subjects=[f"{name}.*"])
        await fill(asker, name, 4)
        await asker.api(f"STREAM.MSG.DELETE.{origin}", {"seq": 2})
        await asker.create(copy, mirror={"name": origin})
        a, b = f"{name}.a", f"{name}.b"
        await copied(asker, copy, [(1, a, "0"), (3, a, "2"), (4, b, "3")])
        await fill(asker, name, 2)
        await copied(asker, copy, [(1, a, "0"), (3, a, "2"), (4, b, "3"), (5, a, "0"), (6, b, "1")])
        info = await asker.api(f"STREAM.INFO.{copy}")
        assert (info["mirror"]["name"], info["mirror"]["lag"]) == (origin, 0)
        # What goes from the origin stays in the mirror.
        await asker.api(f"STREAM.PURGE.{origin}")
        assert len(await contents(asker, copy)) == 5

    run(test, js)


@pytest.mark.parametrize(
    ("how", "kept"),
    [
        ({"filter_subject": "{}.b"}, [(1, "b"), (3, "b")]),
        ({"opt_start_seq": 3}, [(2, "a"), (3, "b")]),
        ({"subject_transforms": [{"src": "{}.a", "dest": "{}.x"}]}, [(0, "x"), (2, "x")]),
        ({"subject_transforms": [{"src": "{}.*", "dest": "{}.z.{{{{wildcard(1)}}}}"}]},
         [(0, "z.a"), (1, "z.b"), (2, "z.a"), (3, "z.b")]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["mirror", "sources"])
def test_what_is_copied(
    js: Broker, workers: int, name: str, kind: str, how: dict[str, Any], kept: list[tuple[int, str]]
) -> None:
    def filled(value: Any) -> Any:
        if isinstance(value, str):
            return value.format(name)
        if isinstance(value, list):
            return [{key: text.format(name) for key, text in item.items()} for item in value]
        return value

    async def test(asker: Asker) -> None:
        origin, copy = apart(name, workers)
        await asker.create(origin, subjects=[f"{name}.*"])
        await fill(asker, name, 4)
        given = {"name": origin, **{key: filled(value) for key, value in how.items()}}
        await asker.create(copy, **({"mirror": given} if kind == "mirror" else {"sources": [given]}))
        # A mirror keeps the sequences of its origin, a stream with sources has its own.
        wanted = [(n + 1 if kind == "mirror" else at + 1, f"{name}.{subject}", str(n)) for at, (n, subject) in enumerate(kept)]
        await copied(asker, copy, wanted)

    run(test, js)


def test_several_sources_and_messages_of_its_own(js: Broker, workers: int, name: str) -> None:
    async def test(asker: Asker) -> None:
        origin, copy = apart(name, workers)
        second = f"{name}-P"
        await asker.create(origin, subjects=[f"{name}.*"])
        await asker.create(second, subjects=[f"{name}.second.*"])
        await asker.create(copy, subjects=[f"{name}.own.*"], sources=[{"name": origin}, {"name": second}])
        for n in range(5):
            await asker.publish(f"{name}.a", f"o{n}")
            await asker.publish(f"{name}.second.a", f"p{n}")
            await asker.publish(f"{name}.own.a", f"q{n}")

        async def all_there() -> bool:
            return bool((await asker.state(copy))["messages"] == 15)

        await asker.until(all_there, "15 messages")
        found = [text for _, _, text in await contents(asker, copy)]
        for letter in "opq":
            assert [text for text in found if text[0] == letter] == [f"{letter}{n}" for n in range(5)]
        message = (await asker.api(f"STREAM.MSG.GET.{copy}", {"last_by_subj": f"{name}.a"}))["message"]
        assert f"Nats-Stream-Source: {origin} 5 ".encode() in base64.b64decode(message["hdrs"])

    run(test, js)


def test_nothing_is_lost_or_twice_when_shards_die(tmp_path: Path, workers: int) -> None:
    async def main(broker: Broker) -> None:
        client = await nats.connect(f"nats://127.0.0.1:{broker.port}", reconnect_time_wait=0.05, max_reconnect_attempts=-1)
        asker = Asker(client)
        origin, copy = apart("K", workers)
        await asker.create(origin, subjects=["k.*"])
        await asker.create(copy, mirror={"name": origin})
        await asker.create(f"{copy}-S", sources=[{"name": origin}])
        js = client.jetstream(timeout=2)
        sent = 0
        for kill in range(3):
            for _ in range(20):
                sent += 1
                while True:
                    try:
                        await js.publish("k.a", b"%d" % sent, headers={"Nats-Msg-Id": str(sent)})
                        break
                    except nats.errors.Error:
                        await asyncio.sleep(0.02)
                if sent % 20 == 10:
                    pid = await asyncio.to_thread(broker.kill_shard, kill % workers)
                    await asyncio.to_thread(broker.wait_shards, without=[pid])
        await client.close()

        async def count(asker: Asker) -> None:
            wanted = [(n, "k.a", str(n)) for n in range(1, sent + 1)]

            async def serves() -> bool:
                """A shard that has just been started again has its streams to open."""
                try:
                    return "error" not in await asker.api(f"STREAM.INFO.{stream}")
                except nats.errors.Error:
                    return False

            for stream in (origin, copy, f"{copy}-S"):
                await asker.until(serves, "the stream")
                await copied(asker, stream, wanted)

        fresh = await nats.connect(f"nats://127.0.0.1:{broker.port}", allow_reconnect=False)
        await count(Asker(fresh))
        await fresh.close()

    with Broker(tmp_path, workers=workers, args=["-js", "-sd", str(tmp_path / "store")]) as broker:
        asyncio.run(main(broker))
