"""A stream with a consumer on a simulated disk: its log, its meta.db, its definition in registry.db; crashes, recovery, again.

One turn publishes, asks, acknowledges, changes the stream, or lets one of the two writers go on: the log's helper, and the
transaction of a consumer's state, as ShardConsumers hands it over. What must hold after a crash:
    1. a message whose acknowledgement was answered (double ack) never comes again;
    2. every message that is in the log, and that nobody acknowledged or removed, comes (again);
    3. what comes is what was published under its sequence;
    4. with work queue retention, what was acknowledged leaves the log, also when a crash came between the two files;
    5. a stream's definition is the last whose change was answered, or the one that was under way.
Losing power under a sync interval may take back the end of all of it, in the log and in the consumer apart: then 2 and 3.
The log's own promises are store_world's.
"""

from __future__ import annotations

import itertools
import random
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import apsw
import orjson

from shardbroker.store.handle import Log, Store, StoreError
from shardbroker.store.probe import Files
from shardbroker.stream import consumer_store
from shardbroker.stream.database import harden
from shardbroker.stream.hub import Consumer, Retained
from shardbroker.stream.model import StreamConfig
from shardbroker.stream.probe import ProbeHub
from shardbroker.stream.registry import Definitions, make_table
from sim.disk import Disk
from sim.sqlite_disk import DiskVFS
from sim.store_world import Broken, holds

SECOND: Final = 10**9
DIRECTORY: Final = "/s"
META: Final = DIRECTORY + "/" + consumer_store.FILE
REGISTRY: Final = "/r/registry.db"
INBOX: Final = b"inbox"
ANSWERS: Final = b"answers"
TEXTS: Final = {
    "deliver": b"", "ack_prefix": b"$JS.ACK.S.c.", "flow_prefix": b"$JS.FC.S.c.", "advisory_naked": b"$N",
    "advisory_terminated": b"$T", "advisory_max_deliveries": b"$M", "metric_acked": b"$A", "over_batch": b"",
    "over_expires": b"", "over_bytes": b""}  # fmt: skip
SETTINGS: Final = {
    "ack_policy": "explicit", "push": False, "headers_only": False, "flow_control": False, "replay_original": False,
    "direct": False, "max_ack_pending": 0, "max_deliver": 0, "max_waiting": 512, "max_batch": 0, "sample_percent": 0,
    "max_expires_ns": 0, "max_bytes": 0, "heartbeat_ns": 0, "inactive_ns": 0, "rate_bytes": 0, "rate_burst": 0}  # fmt: skip
NUMBERS: Final = itertools.count()


class World:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.draw = draw = random.Random(seed)
        self.interval = draw.random() < 0.3
        self.work_queue = draw.random() < 0.5
        self.vfs = DiskVFS(f"disk-{next(NUMBERS)}", draw)
        self.disk = Disk()
        self.story: list[str] = []
        self.crashes = 0
        self.now = SECOND
        self.published: dict[int, bytes] = {}
        self.sent: set[int] = set()  # acknowledgements sent, answered or not
        self.answered: set[int] = set()
        self.removed: set[int] = set()  # asked to be, whether that survives or not: no consumer has to have them
        self.config = StreamConfig.from_json(orjson.dumps({"name": "S", "subjects": ["a.>"], "max_msgs": -1}))
        self.configs: list[StreamConfig | None] = [None]  # those that a crash may leave; None: nothing was written yet
        self.open()

    # ---- lives ----

    def open(self) -> None:
        """As Manager.open and Consumers.recover do it."""
        self.vfs.disk = self.disk
        self.meta_failed = self.registry_failed = False
        synchronous = "NORMAL" if self.interval else "FULL"
        self.registry = self.vfs.open_db(REGISTRY, "FULL")
        make_table(self.registry)
        harden(self.registry)
        found = Definitions(self.registry, {}).all.get("S")
        kept = found.config if found is not None else None
        holds(kept in self.configs, "not the last definition", kept, self.configs)
        self.config = kept or self.config
        self.configs = [kept]
        self.files = Files(self.disk)
        self.store = Store(0, self.files)
        self.log = Log(self.store, DIRECTORY, sync_interval_ns=SECOND if self.interval else 0, segment_bytes_max=1 << 14,
                       max_msgs=max(self.config.max_msgs, 0))  # fmt: skip
        told = self.log.recovered()
        holds(not (told["damaged_bytes"] or told["damaged_segments"] or told["lost_msgs"]), "damage that is none", told)
        self.hub = ProbeHub()
        self.hub.now = self.now
        self.hub.listeners |= {INBOX, ANSWERS}
        self.retained = Retained(self.hub, self.log, "workqueue" if self.work_queue else "limits")
        self.log.on_removed = lambda seq, subject, empty, reason: self.retained.on_removed(seq, subject, reason)
        self.consumer = Consumer(self.retained, 1, [], [2 * SECOND], TEXTS, SETTINGS, True)
        self.meta = self.vfs.open_db(META, synchronous)
        consumer_store.make_tables(self.meta)
        harden(self.meta)
        saved = {one.name: one for one in consumer_store.read_all(self.meta)}
        state = saved["c"].state if "c" in saved else None
        if "c" not in saved:
            holds(not self.answered or self.interval, "the consumer is gone")
            self.transaction([consumer_store.define("c", {})])
        if state is None:
            self.consumer.start_at(1)
        else:
            state.cut(self.log.last_seq)
            self.consumer.load(
                state.dseq, max(state.seq, self.log.first_seq), state.delivered_seq, state.floor_dseq, state.floor_seq,
                [state.entries[s] for s in sorted(state.entries)], [state.exceeded[s] for s in sorted(state.exceeded)],
            )  # fmt: skip
        self.whole = True
        self.consumer.start()
        self.settle_unneeded()
        self.pending: dict[int, bytes] = {}  # sequences that came, and where to acknowledge them
        self.asked: dict[bytes, int] = {}

    def settle_unneeded(self) -> None:
        """What everybody has acknowledged goes from a work queue (Consumers._settle)."""
        at = self.log.first_seq
        while self.work_queue and at and at <= self.log.last_seq:
            at = self.retained.settle_unneeded(at, self.log.last_seq)

    def die(self) -> None:
        self.files.disk = Disk(dict(self.disk.names))
        self.vfs.disk = Disk()
        self.disk.hook = None
        self.consumer.close()
        self.log.close()
        self.store.close()
        for db in (self.meta, self.registry):
            with suppress(apsw.Error):
                db.close(True)

    # ---- what happens ----

    def transaction(self, works: list[consumer_store.Work]) -> bool:
        """Writer._transaction."""
        if self.meta_failed:
            return False
        try:
            consumer_store.transact(self.meta, works)
        except apsw.Error as e:
            self.meta_failed = isinstance(e, apsw.IOError)
            return False
        return True

    def save(self) -> None:
        """ShardConsumers.save: one state is written, then what waited for it is answered."""
        if not self.hub.dirty():
            return
        change, blob = self.consumer.save(self.whole or self.draw.random() < 0.1)
        whole = consumer_store.is_whole(blob)
        if self.transaction([consumer_store.save_whole("c", blob) if whole else consumer_store.save_change("c", blob)]):
            self.whole = False
            self.consumer.saved(change)
        else:
            self.whole = True
            self.consumer.save_failed()
        self.turn_hub()

    def turn_hub(self) -> None:
        for _ in range(50):
            if self.hub.run(self.now) != 0:
                break
        self.hub.take_events()
        for subject, shown, reply, _, payload in self.hub.published:
            if subject == INBOX and reply:
                seq = int(reply.split(b".")[5])
                holds(seq not in self.answered, "acknowledged, and came again", seq)
                holds(self.published.get(seq) == payload, "not what was published", seq)
                holds(shown == b"a.b", "under another subject", shown)
                self.pending[seq] = reply
            elif subject.startswith(ANSWERS + b".") and not payload:
                self.answered.add(self.asked.pop(subject))
        self.hub.published.clear()

    def act(self) -> None:
        draw = self.draw
        kind = draw.choices(
            ["publish", "ask", "ack", "double", "time", "save", "update", "submit", "run", "collect", "remove"],
            [20, 15, 10, 20, 8, 20, 3, 20, 15, 15, 2],
        )[0]
        if kind == "publish":
            payload = b"%d " % draw.randrange(1 << 40) + b"x" * draw.choice([0, 10, 1000])
            with suppress(StoreError):
                self.published[self.log.append(b"a.b", payload)] = payload
        elif kind == "ask":
            self.consumer.request(INBOX, draw.randint(1, 5), 0, 0, True, 0)
        elif kind in ("ack", "double") and self.pending:
            seq = draw.choice(list(self.pending))
            answer = b""
            if kind == "double":
                answer = ANSWERS + b".%d" % next(NUMBERS)
                self.hub.listeners.add(answer)
                self.asked[answer] = seq
            self.sent.add(seq)
            self.consumer.post("ack", self.pending.pop(seq), answer, b"+ACK")
        elif kind == "time":
            self.now += draw.choice([SECOND // 10, SECOND, 3 * SECOND])
            while self.log.tick(self.now + 1_700_000_000 * SECOND):
                pass
        elif kind == "save":
            self.save()
        elif kind == "update":
            self.update()
        elif kind == "submit":
            self.log.submit()
        elif kind == "run":
            self.store.run()
        elif kind == "collect":
            self.store.collect()
            self.retained.on_stored()
        elif kind == "remove" and self.published:
            seq = draw.choice(list(self.published))
            self.removed.add(seq)
            self.log.remove(seq)
        self.turn_hub()
        self.story.append(kind)

    def update(self) -> None:
        """Manager.update: the definition is written, then the log hears of it."""
        if self.registry_failed:
            return
        config = replace(self.config, max_msgs=self.draw.choice([-1, -1, 30, 100]), description=str(self.draw.random()))
        self.configs.append(config)
        try:
            consumer_store.transact(self.registry, [lambda db: Definitions(db, {}).put(config, 1)])
        except apsw.Error as e:
            # It may be found all the same: its end may have been in the file when the rest had no room.
            self.registry_failed = isinstance(e, apsw.IOError)
            return
        self.config = config
        self.configs = [config]
        self.log.set_limits(max_msgs=max(config.max_msgs, 0))

    # ---- a crash ----

    def one_life(self) -> None:
        draw = self.draw
        kind = draw.choice(["power", "power", "power", "killed", "killed", "sync error", "full"])
        self.story.append(f"life {kind}")
        crashed: list[Disk] = []
        known: list[tuple[set[int], list[Any]]] = []
        draw_crash = random.Random(draw.random())
        countdown = draw.randint(1, 120)

        def on_operation(what: str) -> None:
            nonlocal countdown
            countdown -= 1
            if countdown == 0:
                crashed.append(self.disk.killed() if kind == "killed" else self.disk.crash(draw_crash))
                known.append((set(self.answered), list(self.configs)))
                self.story.append(f"crash before {what}")

        if draw.random() < 0.7:
            self.disk.hook = on_operation
        for step in range(draw.randint(5, 120)):
            if kind == "sync error" and step == 5:
                self.disk.sync_errors = draw.randint(1, 2)
            if kind == "full" and step == 5:
                self.disk.space = draw.choice([0, 5_000, 30_000])
            self.act()
            if crashed:
                break
        after = crashed[0] if crashed else self.disk.killed() if kind == "killed" else self.disk.crash(draw)
        if known:
            self.answered, self.configs = known[0]
        self.die()
        self.disk = after
        self.crashes += 1
        if self.interval and kind != "killed":
            self.forget_the_end()
        self.open()
        self.check()

    def forget_the_end(self) -> None:
        """Power is lost under an interval: answers may be taken back."""
        self.answered.clear()

    def check(self) -> None:
        """Everything that is to come comes; nothing else."""
        kept = {}
        at = self.log.first_seq
        while (m := self.log.next(at)) is not None:
            holds(self.published.get(m.seq) == m.payload, "altered", m.seq)
            kept[m.seq] = m.payload
            at = m.seq + 1
        # What a crash took has not been published, and its sequences come anew.
        self.published = {seq: payload for seq, payload in self.published.items() if seq <= self.log.last_seq}
        self.removed = {seq for seq in self.removed if seq <= self.log.last_seq}
        self.sent = {seq for seq in self.sent if seq <= self.log.last_seq}
        self.answered = {seq for seq in self.answered if seq <= self.log.last_seq}
        came: set[int] = set()
        for _ in range(6):
            self.consumer.request(INBOX, 1000, 0, 0, True, 0)
            self.turn_hub()
            came |= self.pending.keys()
            self.now += 3 * SECOND
        if not self.interval:
            missing = kept.keys() - came - self.sent - self.removed
            holds(not missing, "never came", missing)
        self.settle()
        if self.work_queue:
            left = [seq for seq in self.answered if self.log.has(seq)]
            holds(not left, "acknowledged, and in the work queue", left)

    def settle(self) -> None:
        for _ in range(4):
            self.log.submit()
            self.store.run()
            self.store.collect()
            self.save()
        holds(self.log.status == 0, "does not go on", self.log.status)

    def run(self, lives: int = 3) -> int:
        for _ in range(lives):
            self.one_life()
        self.die()
        return self.crashes


def run_seed(seed: int, lives: int = 3) -> int:
    """Crashes survived; Broken, with the story, if a promise was not kept."""
    world = World(seed)
    try:
        return world.run(lives)
    except Exception as e:
        raise Broken(f"seed {seed}: {e!r}; story: {world.story[-60:]}") from e
    finally:
        world.vfs.unregister()
