"""One stream's log on a simulated disk: random operations, a crash, recovery, what must hold; again and again, from one seed.

What must hold after a crash, where A is the model when the last change was acknowledged (for losing power under a sync
interval: synced) and B the model when it happened, with everything that was still under way:
    1. every message that is there has the bytes that were appended under its sequence;
    2. none is there that was removed before A;
    3. every message that A has and B still has is there;
    4. the appends between A and B that are there are a prefix of them;
    5. when nothing was under way, the state is exactly A's.
With damage (bits flipped on the platter) 1 must hold, and everything that 2 to 5 miss must have been reported.
"""

from __future__ import annotations

import errno
import random
from dataclasses import asdict, dataclass, field

from oracle.log import Limits, ModelLog, Stored
from shardbroker.store.handle import Log, Store, StoreError
from shardbroker.store.probe import Files
from sim.disk import Disk
from store.machine import (
    NOT_NOW,
    SECOND_NS,
    START_NS,
    append,
    change,
    draw_limits,
    same,
    same_answers,
    stored,
)

DIRECTORY = "/s"


class Broken(AssertionError):
    """A promise does not hold."""


def holds(condition: bool, *what: object) -> None:
    if not condition:
        raise Broken(*what)


@dataclass
class World:
    seed: int
    draw: random.Random = field(init=False)
    disk: Disk = field(default_factory=Disk)
    model: ModelLog = field(default_factory=ModelLog)
    base: ModelLog = field(init=False)  # acknowledged before the first ticket of this life
    now: int = START_NS
    crashes: int = 0
    story: list[str] = field(default_factory=list)
    scars: set[tuple[int, int]] = field(default_factory=set)  # damage that was reported before
    scarred: bool = False

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        self.interval = self.draw.random() < 0.3
        self.model.limits = draw_limits(self.draw) if self.draw.random() < 0.6 else Limits()
        self.base = self.model.copy()

    # ---- lives ----

    def open(self) -> None:
        self.files = Files(self.disk)
        self.store = Store(0, self.files)
        self.log = Log(
            self.store,
            DIRECTORY,
            sync_interval_ns=SECOND_NS if self.interval else 0,
            segment_bytes_max=1 << 14,
            now_ns=self.now,
            **asdict(self.model.limits),
        )
        self.snapshots: dict[int, ModelLog] = {}
        self.appended: dict[int, Stored] = {}
        self.acked_ticket = 0
        self.synced_ticket = 0

    def die(self) -> None:
        """The old process's memory goes; what it still writes goes nowhere."""
        self.files.disk = Disk(dict(self.disk.names))
        self.disk.hook = None
        self.disk.space = None
        self.log.close()
        self.store.close()

    # ---- a turn ----

    def note(self) -> None:
        """After anything that may have handed over a batch or been told of one."""
        ticket = self.log.ticket
        for passed in range(max(self.snapshots, default=0) + 1, ticket):
            self.snapshots[passed] = self.model.copy()
        self.acked_ticket = self.log.durable_ticket
        self.synced_ticket = self.log.synced_ticket

    def turn(self) -> None:
        self.now += self.draw.choice([0, 1, SECOND_NS // 4, SECOND_NS])
        try:
            self.story.append(change(self.log, self.model, self.draw, self.now, self.appended))
        except StoreError as e:
            # No space, or no more: the model has what the log has not.
            holds(e.code in NOT_NOW, "refused", e)
            self.model = self.snapshot_of_log()
            self.story.append("refused")
        if self.draw.random() < 0.5:
            self.log.submit()
            self.note()
        if self.draw.random() < 0.5:
            self.store.run()
        if self.draw.random() < 0.5:
            self.store.collect()
            self.note()

    def snapshot_of_log(self) -> ModelLog:
        """The model that has what the log has."""
        log = self.log
        state = log.state()
        model = ModelLog(
            limits=self.model.limits, next_seq=state.last_seq + 1, last_time_ns=state.last_time_ns
        )
        at = state.first_seq
        while (m := stored(log.next(at))) is not None:
            model.messages[m.seq] = m
            at = m.seq + 1
        return model

    # ---- checks ----

    def expired(self, model: ModelLog, limits: Limits) -> ModelLog:
        after = model.copy()
        after.limits = limits
        after.tick(self.now)
        after.set_limits(limits)
        return after

    def check_recovered(self, a: ModelLog, b: ModelLog, appended: dict[int, Stored], damaged: bool) -> None:
        found = self.snapshot_of_log()
        limits = self.model.limits
        exact = a.messages == b.messages and a.next_seq == b.next_seq
        # What the limits would have taken out of A may stand where others, which they take first, were removed since.
        was = a.messages
        a, b = self.expired(a, limits), self.expired(b, limits)
        kept = self.expired(found, limits)
        holds(kept.messages == found.messages, "limits are not kept", kept.messages.keys() ^ found.messages.keys())
        report = self.log.recovered()
        reported = damaged and any(report.values())
        lost = self.log.lost()
        for seq, m in found.messages.items():
            holds(
                m in (was.get(seq), appended.get(seq)) or (reported and m == self.ever.get(seq)),
                "altered",
                seq,
                m,
            )
        for seq in a.messages.keys() & b.messages.keys():
            holds(
                seq in found.messages
                or self.pushed_out(found, a.messages[seq])
                or (reported and (any(x <= seq <= y for x, y in lost) or seq >= found.next_seq)),
                "missing", seq, found.next_seq, lost,
            )  # fmt: skip
        if not reported:
            holds(
                a.next_seq <= found.next_seq <= b.next_seq, "next_seq", a.next_seq, found.next_seq, b.next_seq
            )
            for seq, m in b.messages.items():
                if seq < found.next_seq and m == appended.get(seq):
                    holds(
                        seq in found.messages or self.pushed_out(found, m),
                        "not a prefix",
                        seq,
                        found.next_seq,
                    )
            holds(set(lost) <= self.scars, "lost without damage", lost)
            if exact:
                same(self.log, a)
        self.scarred |= damaged
        if not self.scarred:
            told = report["damaged_bytes"], report["damaged_segments"], report["lost_msgs"]
            holds(told == (0, 0, 0), "damage that is none was reported", told)
        self.scars = set(lost)
        self.model = found

    def pushed_out(self, found: ModelLog, m: Stored) -> bool:
        """Limits are kept by others and may be newer than what a crash left: something that was to go stood in its place."""
        limits = found.limits
        of_subject = [s for s, x in found.messages.items() if x.subject == m.subject]
        if (
            limits.max_msgs_per_subject
            and len(of_subject) == limits.max_msgs_per_subject
            and m.seq < of_subject[0]
        ):
            return True
        if limits.discard_new or m.seq > found.first_seq:
            return False
        too_many = 0 < limits.max_msgs <= len(found.messages)
        return too_many or 0 < limits.max_bytes < found.bytes + max(
            found.counted(x) for x in self.ever.values()
        )

    def run(self, lives: int = 3) -> int:
        """How many crashes were survived."""
        self.ever: dict[int, Stored] = {}
        self.open()
        for _ in range(lives):
            self.one_life()
        self.die()
        return self.crashes

    def one_life(self) -> None:
        draw = self.draw
        kind = draw.choice(
            ["power", "power", "power", "killed", "damage", "clean", "sync error", "write error", "full"]
        )
        self.story.append(f"life {kind}")
        crashed: list[Disk] = []
        known: list[tuple[int, int]] = []
        countdown = draw.randint(1, 60)

        def on_operation(what: str) -> None:
            nonlocal countdown
            countdown -= 1
            if countdown == 0:
                crashed.append(self.disk.killed() if kind == "killed" else self.disk.crash(draw_crash))
                known.append((self.acked_ticket, self.synced_ticket))
                self.story.append(f"crash before {what}")

        draw_crash = random.Random(draw.random())
        if kind in ("power", "killed") and draw.random() < 0.7:
            self.disk.hook = on_operation
        if kind == "sync error":
            self.disk.sync_errors = draw.randint(1, 3)
        for step in range(draw.randint(1, 60)):
            if kind == "write error" and step == 5:
                self.disk.write_error = draw.choice([errno.EIO, errno.ENOSPC])
            if kind == "full" and step == 5:
                self.disk.space = draw.choice([0, 20_000, 60_000])
            if kind == "full" and step == 40:
                self.disk.space = None
                self.log.retry()
            self.turn()
            if crashed:
                break
            same_answers(self.log, self.model, draw)
        else:
            same(self.log, self.model)
        if kind in ("full", "write error"):
            self.store.run()
            self.store.collect()
            self.note()
        if kind in ("full", "write error") and self.log.status != -3:
            self.resume()
        if self.log.status == -3:
            self.refuses()
        settled = kind in ("clean", "damage") and self.log.status == 0
        if settled:
            self.settle()
        self.ever.update(self.base.messages)
        for snapshot in self.snapshots.values():
            self.ever.update(snapshot.messages)
        self.ever.update(self.appended)
        self.ever.update(self.model.messages)
        acked, synced = known[0] if known else (self.log.durable_ticket, self.log.synced_ticket)
        a = self.snapshots.get(synced if self.interval and kind != "killed" else acked, self.base)
        b = self.model.copy()
        if kind == "clean":
            self.log.close()
            after = self.disk.crash(draw) if not self.interval or draw.random() < 0.5 else self.disk.killed()
            a = b
        else:
            after = (
                crashed[0] if crashed else (self.disk.killed() if kind == "killed" else self.disk.crash(draw))
            )
            if kind == "damage":
                for _ in range(draw.choice([1, 1, 2, 5])):
                    self.story.append(f"flip {after.flip(draw)}")
        appended = self.appended
        self.die()
        self.disk = after
        self.wreck = {name: bytes(inode.data) for name, inode in after.names.items()}  # for whoever debugs
        self.crashes += 1
        self.open()
        self.check_recovered(a, b, appended, kind == "damage")
        self.base = self.model.copy()
        # What opening removed, to keep the limits, is made durable like any change.
        self.settle()
        self.snapshots.clear()
        self.note()

    def refuses(self) -> None:
        """After a failed sync nothing is accepted, and nothing more becomes durable."""
        durable = self.log.durable_ticket
        try:
            self.log.append(b"a", b"", b"", self.now)
        except StoreError as e:
            holds(e.code == -3, "refused for another reason", e)
        else:
            raise Broken("accepted after a failed sync")
        self.settle_only()
        holds(self.log.durable_ticket == durable, "durable after a failed sync")

    def resume(self) -> None:
        """There is space again: it goes on by itself."""
        self.disk.space = None
        self.disk.write_error = 0
        self.log.retry()
        self.log.tick(self.now)
        self.model.tick(self.now)
        self.settle()
        append(self.log, self.model, self.draw, self.now, self.appended)
        self.settle()
        holds(self.log.status == 0, "still refusing", self.log.status, self.log.error_number)

    def settle_only(self) -> None:
        for _ in range(20):
            self.log.submit()
            self.note()
            self.store.run()
            self.store.collect()
            self.note()
        if self.interval:
            self.log.sync()
            self.store.run()
            self.store.collect()
            self.note()

    def settle(self) -> None:
        self.settle_only()
        if not self.interval:
            holds(
                self.log.durable_ticket == self.log.ticket - 1,
                "never durable",
                self.log.durable_ticket,
                self.log.ticket,
            )


def run_seed(seed: int, lives: int = 3) -> int:
    """Crashes survived; Broken, with the story, if a promise was not kept."""
    world = World(seed)
    try:
        return world.run(lives)
    except Exception as e:
        raise Broken(f"seed {seed}: {e!r}; story: {world.story[-80:]}") from e
