#!/usr/bin/env python3
"""Real clients publish to streams and consume from them while workers, the front and all of them are killed; then it is counted.

    tools/stream_torture.py [--workers 3] [--seconds 60] [--streams 3] [--publishers 2] [--every 1.0] [--pause 0.01] [--seed N]

    stream i   `publishers` that send again under the same Nats-Msg-Id until they have an acknowledgement ("sure"),
               as many that have several on their way and never send again ("fast"),
               a durable consumer whose worker acknowledges and waits for the answer; stream 0 is a work queue
    killer     every so often kill -9: a worker, all workers at once, or the front, which is then started again

Promised is, and the exit status 1 says that it was not so:

    lost         what was acknowledged is there, under the sequence that the acknowledgement named, unchanged
    duplicated   what was sent again is there once (but for the work queue, whose removed messages' ids a death forgets)
    reordered    the messages of a publisher are there in its order
    unseen       everything that is there has been delivered
    again        what the consumer acknowledged, and was answered for, is not delivered once more

A round of a consumer is a request with an inbox of its own, made when the acknowledgements of the rounds before are answered.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error
from nats.js.api import ConsumerConfig, RetentionPolicy, StreamConfig

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parent.parent / place) for place in ("tests", "")]

from harness import Broker  # type: ignore[import-not-found]

ACK_SECONDS = 2.0
DRAIN_SECONDS = 120.0
WINDOW = 16
BATCH = 20
READ_BATCH = 200


@dataclass
class Publisher:
    """What one publisher knows of its messages: their numbers, and the sequences that acknowledgements named."""

    name: str
    stream: str
    sure: bool
    sent: int = 0
    acknowledged: dict[int, int] = field(default_factory=dict)


@dataclass
class Worker:
    """What came to a stream's consumer: sequence -> payload, and what it may not get again."""

    stream: str
    seen: dict[int, bytes] = field(default_factory=dict)
    answered: set[int] = field(default_factory=set)
    again: list[int] = field(default_factory=list)


@dataclass
class Report:
    """What was counted, by publisher or consumer; `wrong`: broken promises."""

    rows: list[dict[str, object]] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)


class Torture:
    """One run. `directory`: where the store and the logs are, empty. every: seconds between kills, on average; pause: seconds
    between messages of a publisher. Everything random comes from `seed`, but for time."""

    def __init__(
        self, directory: Path, workers: int, streams: int, publishers: int, every: float, pause: float, seed: int
    ) -> None:
        # Whole life
        self._directory = directory
        self._workers = workers
        self._every = every
        self._pause = pause
        self._random = random.Random(seed)
        self._streams = [f"S{n}" for n in range(streams)]
        self._publishers = [
            Publisher(f"{'sure' if sure else 'fast'}{n}", stream, sure)
            for stream in self._streams for sure in (True, False) for n in range(publishers)
        ]  # fmt: skip
        self._consumers = [Worker(stream) for stream in self._streams]
        # State
        self._lives = 0
        self._broker = self._start(-1)
        self._stopping = False
        self.report = Report()

    def _start(self, port: int) -> Broker:
        self._lives += 1
        args = ["-js", "-sd", str(self._directory / "store")]
        return Broker(self._directory / f"life{self._lives}", workers=self._workers, args=args, port=port).start()

    async def run(self, seconds: float) -> Report:
        """Load and kill for so long, let the consumers finish, count."""
        try:
            client = await self._connect()
            for stream in self._streams:
                await self._make(client, stream)
            clients = [await self._connect() for _ in self._publishers]
            publishing = [asyncio.create_task(self._publish(c, p)) for c, p in zip(clients, self._publishers, strict=True)]
            consuming = [asyncio.create_task(self._consume(await self._connect(), worker)) for worker in self._consumers]
            await self._kill(seconds)
            self._stopping = True
            async with asyncio.timeout(DRAIN_SECONDS):
                await asyncio.gather(*publishing)
                await asyncio.gather(*consuming)
                for worker in self._consumers:
                    await self._count(client, worker)
            for one in (client, *clients):
                await one.close()
            return self.report
        finally:
            if self._broker.alive:
                await asyncio.to_thread(self._broker.stop)

    async def _connect(self) -> Client:
        async def quiet(error: Exception) -> None:
            """Connections break: that is what is done to them."""

        return await nats.connect(
            f"nats://127.0.0.1:{self._broker.port}", reconnect_time_wait=0.05, max_reconnect_attempts=-1, error_cb=quiet
        )

    async def _make(self, client: Client, stream: str) -> None:
        js = client.jetstream(timeout=20)
        retention = RetentionPolicy.WORK_QUEUE if stream == self._streams[0] else RetentionPolicy.LIMITS
        await js.add_stream(StreamConfig(name=stream, subjects=[f"{stream}.>"], retention=retention, allow_direct=True))
        await js.add_consumer(stream, ConsumerConfig(durable_name="c", ack_wait=5, max_ack_pending=-1))

    # -- load --

    async def _publish(self, client: Client, publisher: Publisher) -> None:
        while not self._stopping:
            if publisher.sure:
                publisher.sent += 1
                while not await self._send(client, publisher, publisher.sent):
                    await asyncio.sleep(0.02)
                await asyncio.sleep(self._pause)
            else:
                first = publisher.sent + 1
                publisher.sent += WINDOW
                await asyncio.gather(*(self._send(client, publisher, n) for n in range(first, first + WINDOW)))
                await asyncio.sleep(self._pause * WINDOW)

    async def _send(self, client: Client, publisher: Publisher, number: int) -> bool:
        text = f"{publisher.name}:{number}"
        try:
            ack = await client.jetstream(timeout=ACK_SECONDS).publish(
                f"{publisher.stream}.{publisher.name}", text.encode(),
                headers={"Nats-Msg-Id": text} if publisher.sure else None,
            )  # fmt: skip
        except Error:
            return False
        publisher.acknowledged[number] = ack.seq
        return True

    async def _consume(self, client: Client, worker: Worker) -> None:
        while not (self._stopping and await self._nothing_left(client, worker.stream)):
            inbox = client.new_inbox()
            answered: set[int] = set()
            subscription = await client.subscribe(inbox)
            try:
                request = b'{"batch":%d,"expires":500000000}' % BATCH
                await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{worker.stream}.c", request, reply=inbox)
                got: dict[int, Msg] = {}
                for _ in range(BATCH):
                    message = await subscription.next_msg(timeout=1.0)
                    if not message.reply:
                        break  # the request is over, or nobody is there
                    seq = message.metadata.sequence.stream
                    if seq in worker.answered:
                        worker.again.append(seq)
                    worker.seen[seq] = message.data
                    got[seq] = message
                acks = [message.ack_sync(timeout=1.0) for message in got.values()]
                said = await asyncio.gather(*acks, return_exceptions=True)
                answered |= {seq for seq, answer in zip(got, said, strict=True) if not isinstance(answer, BaseException)}
            except Error:
                await asyncio.sleep(0.02)
            worker.answered |= answered
            with contextlib.suppress(Error):
                await subscription.unsubscribe()
        await client.close()

    async def _nothing_left(self, client: Client, stream: str) -> bool:
        if any(p.sure and len(p.acknowledged) < p.sent for p in self._publishers if p.stream == stream):
            return False
        try:
            info = await client.jetstream(timeout=2).consumer_info(stream, "c")
        except Error:
            return False
        return bool(info.num_pending == 0 and info.num_ack_pending == 0)

    # -- harm --

    async def _kill(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            await asyncio.sleep(self._every * self._random.uniform(0.3, 1.7))
            whom = self._random.choices(("worker", "all", "front"), (6, 1, 2))[0]
            self.report.kills[whom] += 1
            await asyncio.to_thread(self._strike, whom)

    def _strike(self, whom: str) -> None:
        broker = self._broker
        if whom == "front":
            broker.kill_front()
            broker.ended()
            self._broker = self._start(broker.port)
            return
        shards = list(range(self._workers)) if whom == "all" else [self._random.randrange(self._workers)]
        broker.wait_shards(without=[broker.kill_shard(shard) for shard in shards])

    # -- the count --

    async def _count(self, client: Client, worker: Worker) -> None:
        stream = worker.stream
        stored = await self._read(client, stream)
        queue = stream == self._streams[0]
        if queue and stored:
            self.report.wrong["left in the work queue"] += len(stored)
        # What was in a work queue is what its consumer got.
        there = dict(worker.seen) if queue else stored
        wrong = self.report.wrong
        for publisher in self._publishers:
            if publisher.stream != stream:
                continue
            mine = [(seq, int(data.split(b":")[1])) for seq, data in sorted(there.items())
                    if data.startswith(publisher.name.encode() + b":")]  # fmt: skip
            numbers = [number for _, number in mine]
            places = set(mine)
            lost = [n for n, seq in publisher.acknowledged.items() if (seq, n) not in places]
            twice = sum(count - 1 for count in Counter(numbers).values())
            reordered = sum(b < a for a, b in itertools.pairwise(numbers))
            wrong["lost"] += len(lost)
            wrong["reordered"] += reordered
            # Ids are found again in what is stored: what a consumer has taken out of a queue is forgotten by a death.
            wrong["duplicated"] += 0 if queue else twice
            self.report.rows.append(
                {"who": f"{stream} {publisher.name}", "sent": publisher.sent, "acknowledged": len(publisher.acknowledged),
                 "stored": len(numbers), "lost": len(lost), "duplicated": twice, "reordered": reordered}
            )  # fmt: skip
        unseen = [seq for seq in there if seq not in worker.seen]
        wrong["unseen"] += len(unseen)
        wrong["again"] += len(worker.again)
        self.report.rows.append(
            {"who": f"{stream} consumer", "seen": len(worker.seen), "acked": len(worker.answered), "unseen": len(unseen),
             "again": len(worker.again)}
        )  # fmt: skip

    async def _read(self, client: Client, stream: str) -> dict[int, bytes]:
        """All that is stored: sequence -> payload."""
        found: dict[int, bytes] = {}
        state = (await client.jetstream(timeout=20).stream_info(stream)).state
        at = state.first_seq
        while state.messages and at <= state.last_seq:
            inbox = client.new_inbox()
            subscription = await client.subscribe(inbox)
            await client.publish(f"$JS.API.DIRECT.GET.{stream}", b'{"batch":%d,"seq":%d}' % (READ_BATCH, at), reply=inbox)
            count = 0
            while True:
                message = await subscription.next_msg(timeout=20)
                if not message.headers or "Nats-Sequence" not in message.headers:
                    break
                at = int(message.headers["Nats-Sequence"])
                found[at] = message.data
                count += 1
            await subscription.unsubscribe()
            at += 1
            if not count:
                break
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--streams", type=int, default=3)
    parser.add_argument("--publishers", type=int, default=2, help="of each kind, for each stream")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between kills, on average")
    parser.add_argument("--pause", type=float, default=0.01, help="seconds between messages of a publisher")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stream-torture-") as directory:
        torture = Torture(Path(directory), given.workers, given.streams, given.publishers, given.every, given.pause, given.seed)
        report = asyncio.run(torture.run(given.seconds))
    for row in report.rows:
        print("  ".join(f"{name} {value}" if name != "who" else f"{value!s:12}" for name, value in row.items()))
    wrong = +report.wrong
    print(f"seed {given.seed}, kills: {dict(report.kills)}, broken promises: {dict(wrong) or 'none'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
