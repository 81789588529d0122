"""Random histories of a pull consumer, on the native side and on the slow model: every message published and every number
of its info must be the same, after every step. One seed replays a history.
"""

from __future__ import annotations

import random

import pytest

from shardbroker.store.handle import Log, Store
from shardbroker.stream.consumer_store import State, state_of
from shardbroker.stream.hub import Consumer, Retained
from shardbroker.stream.probe import ProbeHub
from tests.oracle.consumer import Model

SECOND = 10**9
TEXTS = {
    "deliver": b"", "ack_prefix": b"$JS.ACK.S.c.", "flow_prefix": b"$JS.FC.S.c.", "advisory_naked": b"$N",
    "advisory_terminated": b"$T", "advisory_max_deliveries": b"$M", "metric_acked": b"$A", "over_batch": b"",
    "over_expires": b"", "over_bytes": b""}
SETTINGS = {
    "ack_policy": "explicit", "push": False, "headers_only": False, "flow_control": False, "replay_original": False,
    "direct": False, "max_ack_pending": 0, "max_deliver": 0, "max_waiting": 4, "max_batch": 0, "sample_percent": 0,
    "max_expires_ns": 0, "max_bytes": 0, "heartbeat_ns": 0, "inactive_ns": 0, "rate_bytes": 0, "rate_burst": 0}
SUBJECTS = ("a.b", "a.c", "d.e", "a.b.c")
INBOXES = (b"i.1", b"i.2", b"i.3")


class History:
    """Both sides of one history, and the operations on them."""

    def __init__(self, seed: int) -> None:
        self.random = r = random.Random(seed)
        policy = r.choice(["explicit", "explicit", "all", "none"])
        filters = r.choice([[], ["a.b"], ["a.*"], ["a.b", "d.>"]])
        waits = r.choice([[30 * SECOND], [5 * SECOND], [SECOND, 3 * SECOND, 2 * SECOND]])
        most = r.choice([0, 0, 1, 3]) if policy != "none" else 0
        deliveries = r.choice([0, 0, 1, 2, 4])
        self.store = Store(0)
        self.log = Log(self.store)
        self.hub = ProbeHub()
        self.retained = Retained(self.hub, self.log, "limits")
        self.log.on_removed = self.removed
        self.model = Model(policy, filters, waits, most, deliveries, now=self.hub.now)
        self.settings = {**SETTINGS, "ack_policy": policy, "max_ack_pending": most, "max_deliver": deliveries}
        self.native = self.make()
        self.native.start_at(1)
        self.native.start()
        self.state = State()

    def make(self) -> Consumer:
        return Consumer(self.retained, 1, [f.encode() for f in self.model.filters], self.model.waits, TEXTS, self.settings, True)

    def removed(self, seq: int, subject: bytes, empty: bool, reason: int) -> None:
        self.retained.on_removed(seq, subject, reason)

    def close(self) -> None:
        self.native.close()
        self.log.close()
        self.store.close()

    def step(self) -> str:
        """One operation on both; its description."""
        r, model = self.random, self.model
        kind = r.choices(["publish", "request", "ack", "time", "listen", "remove", "restart"], [6, 6, 8, 4, 3, 1, 1])[0]
        if kind == "publish":
            for _ in range(r.randint(1, 3)):
                subject, payload = r.choice(SUBJECTS), b"x" * r.randint(0, 20)
                seq = self.log.append(subject.encode(), payload)
                message = self.log.get(seq)
                assert message is not None
                model.messages[seq] = subject, payload, message.time_ns
                model.last_seq = seq
            self.log.submit()
            self.retained.on_stored()
        elif kind == "request":
            reply, batch = r.choice(INBOXES), r.randint(0, 4)
            expires, size, no_wait = r.choice([0, 0, SECOND, 40 * SECOND]), r.choice([0, 0, 60, 150]), r.random() < 0.3
            fields = [f'"batch":{batch}', f'"expires" : {expires}', f'"max_bytes":{size}', f'"no_wait":{str(no_wait).lower()}']
            r.shuffle(fields)
            self.native.post("request", b"", reply, ("{" + ",".join(fields) + "}").encode())
            model.request(reply, batch, expires, size, no_wait)
        elif kind == "ack" and model.dseq > 1 and model.ack_policy != "none":
            seq = r.choice([*model.pending, *model.exceeded, r.randint(1, model.last_seq + 1)])
            dseq = model.pending[seq].dseq if seq in model.pending else r.randint(1, model.dseq)
            payload = r.choice([b"", b"+ACK", b"+OK", b"-NAK", b"-NAK", b'-NAK {"delay":2000000000}', b"+WPI", b"+TERM",
                                b"+TERM no"])
            reply = r.choice([b"", b"", b"i.1"])
            self.native.post("ack", f"$JS.ACK.S.c.1.{seq}.{dseq}.5.5".encode(), reply, payload)
            # Answers wait for the disk: everything is saved, and said to be, before they are compared.
            model.ack(seq, dseq, payload, reply)
            kind += f" {seq} {payload!r}"
        elif kind == "time":
            model.now += r.choice([SECOND // 2, 2 * SECOND, 31 * SECOND])
        elif kind == "listen":
            inbox = r.choice(INBOXES)
            for side in (self.hub.listeners, model.listeners):
                side ^= {inbox}
        elif kind == "remove" and model.messages:
            seq = r.choice([*model.messages])
            model.remove(seq)
            self.log.remove(seq)
            self.log.submit()
        elif kind == "restart":
            self.restart()
        return kind

    def restart(self) -> None:
        """The state is saved, in changes, and another consumer begins from it. Requests are gone."""
        self.save()
        entries, exceeded = self.state.entries, self.state.exceeded
        self.native.close()
        self.native = self.make()
        s = self.state
        self.native.load(s.dseq, s.seq, s.delivered_seq, s.floor_dseq, s.floor_seq, [entries[k] for k in sorted(entries)],
                         [exceeded[k] for k in sorted(exceeded)])
        self.native.start()
        self.model.requests.clear()
        for seq in self.model.queue:
            self.model.pending[seq].due, self.model.pending[seq].rank = 0, (0, seq)     # at once, oldest first
        self.model.queue.clear()
        # Of what was sent together the order is not saved.
        for at, (_, p) in enumerate(sorted(self.model.pending.items(), key=lambda item: (item[1].due, item[0]))):
            if p.rank[0]:
                p.rank = p.rank[0], at

    def save(self) -> None:
        change, blob = self.native.save(self.random.random() < 0.2)
        if self.state.dseq == 1 and not self.state.entries and self.native.entries():
            change, blob = self.native.save(True)
        self.state.lay(blob)
        self.hub.dirty()
        self.native.saved(change)

    def run(self) -> None:
        """Turns until nothing is to be done at once; what waited for a save is answered."""
        for _ in range(50):
            if self.hub.run(self.model.now) != 0:
                break
        self.save()
        self.model.run()


@pytest.mark.parametrize("block", range(8))
def test_histories(block: int) -> None:
    for seed in range(block * 40, block * 40 + 40):
        history = History(seed)
        steps: list[str] = []
        try:
            for _ in range(60):
                steps.append(history.step())
                history.run()
                told, expected = sorted(history.hub.published, key=repr), sorted(history.model.published, key=repr)
                assert told == expected, f"seed {seed}: {steps}"
                history.hub.published.clear()
                history.model.published.clear()
                said = history.native.info()
                wanted = history.model.info()
                assert {k: said[k] for k in wanted} == wanted, f"seed {seed}: {steps}"
                assert [e[0] for e in history.native.entries()] == sorted(history.model.pending), f"seed {seed}: {steps}"
                history.hub.published.clear()
                history.model.published.clear()
        finally:
            history.close()


def test_state_of_nothing() -> None:
    assert state_of(None, []) is None
