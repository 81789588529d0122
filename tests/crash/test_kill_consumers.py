"""kill -9 of shards while consumers work: what was acknowledged, and said to be, never comes again; everything else comes.

A round is a request of its own inbox: what a round gets was sent after all acknowledgements of the rounds before it were
answered, so none of those may be among it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.errors import Error
from nats.js.api import ConsumerConfig, RetentionPolicy, StreamConfig

from harness import Broker

MESSAGES = 150
BATCH = 15
KILLS = 3
SECONDS = 60.0

pytestmark = pytest.mark.ours


async def connect(broker: Broker) -> Client:
    async def quiet(error: Exception) -> None:
        """Connections break: that is what is tested."""

    return await nats.connect(f"nats://127.0.0.1:{broker.port}", reconnect_time_wait=0.05, max_reconnect_attempts=-1,
                              error_cb=quiet)


async def publish_all(client: Client, retention: RetentionPolicy) -> set[int]:
    js = client.jetstream(timeout=60)
    await js.add_stream(StreamConfig(name="S", subjects=["s.>"], retention=retention))
    await js.add_consumer("S", ConsumerConfig(durable_name="c", ack_wait=2, max_ack_pending=-1))
    return {(await js.publish("s.a", b"%d" % i)).seq for i in range(MESSAGES)}


async def all_done(client: Client) -> bool:
    try:
        info = await client.jetstream(timeout=1).consumer_info("S", "c")
    except Error:
        return False
    return info.num_pending == 0 and info.num_ack_pending == 0


async def work(client: Client) -> set[int]:
    """Rounds until the consumer has nothing more; all that came. An acknowledgement whose answer a kill took away may hold
    all the same."""
    acknowledged: set[int] = set()
    seen: set[int] = set()
    while not await all_done(client):
        inbox = client.new_inbox()
        sub = await client.subscribe(inbox)
        answered = set()
        try:
            await client.publish("$JS.API.CONSUMER.MSG.NEXT.S.c", b'{"batch":%d,"expires":400000000}' % BATCH, reply=inbox)
            for _ in range(BATCH):
                message = await sub.next_msg(timeout=1.0)
                if not message.reply:
                    break               # the request is over
                seq = message.metadata.sequence.stream
                assert seq not in acknowledged, f"{seq} came again after its acknowledgement was answered"
                seen.add(seq)
                await message.ack_sync(timeout=1.0)
                answered.add(seq)
        except Error:
            await asyncio.sleep(0.05)   # nobody there, or no answer in time: another round
        acknowledged |= answered
        with suppress(Error):
            await sub.unsubscribe()
    return seen


@pytest.mark.parametrize("retention", [RetentionPolicy.LIMITS, RetentionPolicy.WORK_QUEUE])
def test_killed_shards(tmp_path: Path, workers: int, retention: RetentionPolicy) -> None:
    async def main(broker: Broker) -> None:
        client = await connect(broker)
        published = await publish_all(client, retention)
        worker = asyncio.create_task(work(client))
        for i in range(KILLS):
            await asyncio.sleep(0.3)
            pid = await asyncio.to_thread(broker.kill_shard, i % workers)
            await asyncio.to_thread(broker.wait_shards, without=[pid])
        async with asyncio.timeout(SECONDS):
            assert await worker == published
            js = client.jetstream(timeout=60)
            while retention is RetentionPolicy.WORK_QUEUE and (await js.stream_info("S")).state.messages:
                await asyncio.sleep(0.05)
        await client.close()

    with Broker(tmp_path, workers=workers, args=["-js", "-sd", str(tmp_path / "store")]) as broker:
        asyncio.run(main(broker))
