"""A pull consumer, slow and obvious: lists and dicts, every rule once, nothing clever. For tests/stream/test_consumer_random.

What it publishes is kept as (to, shown, reply, header bytes, payload), as the hub's host gets it. Times are ns. Source of
the rules: nats-server's consumer.go.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from shardbroker import subject

Published = tuple[bytes, bytes | None, bytes, int, bytes]


@dataclass
class Pending:
    dseq: int
    redeliveries: int = 0
    due: int | None = None               # None: it is queued to be delivered again
    rank: tuple[int, int] = (0, 0)       # among those due together: put off by a NAK by age, then in the order of sending


@dataclass
class Request:
    reply: bytes
    left: int
    bytes_left: int
    expires: int
    no_wait: bool
    given: int = 0


@dataclass
class Model:
    """One consumer named c of a stream S. `times`: by sequence, as the log stamped them."""

    ack_policy: str
    filters: list[str]
    waits: list[int]
    max_ack_pending: int = 0
    max_deliver: int = 0
    max_waiting: int = 4
    messages: dict[int, tuple[str, bytes, int]] = field(default_factory=dict)
    last_seq: int = 0
    seq: int = 1
    dseq: int = 1
    delivered_seq: int = 0
    floor: tuple[int, int] = (0, 0)      # dseq, seq
    pending: dict[int, Pending] = field(default_factory=dict)
    exceeded: set[int] = field(default_factory=set)
    queue: list[int] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    listeners: set[bytes] = field(default_factory=set)
    published: list[Published] = field(default_factory=list)
    checked: int = 0                     # when the requests were last looked at
    now: int = 0
    sent: int = 0

    # ---- what it says ----

    def status(self, reply: bytes, line: str, messages: int | None = None, size: int = 0) -> None:
        if messages is not None:
            line += f"\r\nNats-Pending-Messages: {messages}\r\nNats-Pending-Bytes: {size}"
        block = f"NATS/1.0 {line}\r\n\r\n".encode()
        if reply in self.listeners:
            self.published.append((reply, None, b"", len(block), block))

    def wanted(self, seq: int) -> bool:
        name = self.messages[seq][0]
        return not self.filters or any(subject.matches(f, name) for f in self.filters)

    def left(self) -> int:
        return sum(1 for seq in self.messages if seq >= self.seq and self.wanted(seq))

    def info(self) -> dict[str, int]:
        self.sweep(False)
        return {
            "delivered_dseq": self.dseq - 1, "delivered_seq": self.delivered_seq, "floor_dseq": self.floor[0],
            "floor_seq": self.floor[1], "ack_pending": len(self.pending), "waiting": len(self.requests), "pending": self.left(),
            "redelivered": sum(1 for p in self.pending.values() if p.redeliveries) + len(self.exceeded),
            "queued": len(self.queue)}

    # ---- what is done to it ----

    def settle(self, seq: int) -> None:
        if seq in self.exceeded:
            self.exceeded.remove(seq)
        if seq not in self.pending:
            return
        first = min(self.pending)
        del self.pending[seq]
        if seq in self.queue:
            self.queue.remove(seq)
        self.move_floor(first, seq)

    def move_floor(self, first: int, seq: int) -> None:
        if not self.pending:
            self.floor = self.dseq - 1, self.delivered_seq
        elif seq == first:
            head = min(self.pending)
            self.floor = self.pending[head].dseq - 1, head - 1

    def again(self, seq: int) -> None:
        """Its wait is over, or it was refused."""
        p = self.pending[seq]
        if seq in self.queue:
            return
        if self.max_deliver and p.redeliveries + 1 >= self.max_deliver:
            first = min(self.pending)
            del self.pending[seq]
            self.exceeded.add(seq)
            self.move_floor(first, seq)
        else:
            p.due = None
            self.queue.append(seq)

    def wait(self, p: Pending) -> None:
        step = min(p.redeliveries, len(self.waits) - 1)
        self.sent += 1
        p.due, p.rank = self.now + self.waits[step], (1 + step, self.sent)

    def ack(self, seq: int, dseq: int, payload: bytes, reply: bytes) -> None:
        answered = True
        if payload in (b"", b"+ACK", b"+OK") or payload.startswith(b"+TERM"):
            answered = self.acknowledge(seq, dseq)
        elif payload.startswith(b"-NAK"):
            delay = payload[4:].strip()
            if self.floor[0] < dseq <= self.dseq and seq in self.pending:
                if delay:
                    if seq in self.queue:
                        self.queue.remove(seq)
                    self.pending[seq].due, self.pending[seq].rank = self.now + int(delay[len(b'{"delay":'):-1]), (0, seq)
                else:
                    self.again(seq)
        elif payload == b"+WPI" and seq in self.pending and seq not in self.queue:
            self.wait(self.pending[seq])
        if reply and answered and reply in self.listeners:
            self.published.append((reply, None, b"", -1, b""))

    def acknowledge(self, seq: int, dseq: int) -> bool:
        if seq >= self.seq and seq > self.delivered_seq:
            return False
        if self.ack_policy == "explicit":
            self.settle(seq)
        elif dseq > self.floor[0] and seq > self.floor[1]:
            for other in sorted(self.pending):
                if other <= seq:
                    self.settle(other)
            self.exceeded.discard(seq)
            self.floor = dseq, seq
        return True

    def remove(self, seq: int) -> None:
        """A message goes from the stream."""
        del self.messages[seq]
        self.settle(seq)

    def request(self, reply: bytes, batch: int, expires: int, max_bytes: int, no_wait: bool) -> None:
        if len(self.requests) >= self.max_waiting and self.now - self.checked > 10**9:
            self.sweep(False)
        if no_wait:
            left = self.left() + len(self.queue)
            if left == 0 and not expires:
                return self.status(reply, "404 No Messages")
            if left > 0 and self.requests:
                self.sweep(False)
                if left < sum(max(r.left, 1) for r in self.requests):
                    return self.status(reply, "408 Requests Pending")
        if len(self.requests) >= self.max_waiting:
            return self.status(reply, "409 Exceeded MaxWaiting")
        self.requests.append(Request(reply, batch, max_bytes, self.now + expires if expires else 0, no_wait))
        return None

    def sweep(self, end: bool) -> None:
        self.checked = self.now
        kept = []
        for r in self.requests:
            if r.expires and r.expires <= self.now:
                self.status(r.reply, "408 Request Timeout", r.left, r.bytes_left)
            elif end and r.no_wait and (not r.expires or r.given):
                self.status(r.reply, "404 No Messages")
            elif r.reply in self.listeners:
                kept.append(r)
        self.requests = kept

    # ---- a turn ----

    def run(self) -> None:
        due = sorted((p.due, p.rank, seq) for seq, p in self.pending.items() if p.due is not None and p.due <= self.now)
        for _, _, seq in due:
            self.again(seq)
        if any(r.expires and r.expires <= self.now for r in self.requests):
            self.sweep(True)
        while self.requests:
            if self.queue:
                seq = self.queue[0]
            elif self.max_ack_pending and len(self.pending) >= self.max_ack_pending:
                return
            else:
                found = [seq for seq in sorted(self.messages) if seq >= self.seq and self.wanted(seq)]
                if not found:
                    self.seq = self.last_seq + 1
                    self.sweep(True) if any(r.no_wait for r in self.requests) else None
                    return
                seq = found[0]
            if not self.deliver(seq):
                return

    def deliver(self, seq: int) -> bool:
        name, payload, time_ns = self.messages[seq]
        p = self.pending.get(seq)
        count = p.redeliveries + 2 if p is not None else 1
        left = self.left() - (p is None)
        reply = f"$JS.ACK.S.c.{count}.{seq}.{self.dseq}.{time_ns}.{left}".encode()
        size = len(name) + len(reply) + len(payload)
        while self.requests:
            r = self.requests[0]
            if r.expires and r.expires <= self.now:
                self.status(r.reply, "408 Request Timeout", r.left, r.bytes_left)
            elif r.bytes_left and r.bytes_left < size:
                self.status(r.reply, "409 Message Size Exceeds MaxBytes", r.left, r.bytes_left)
            elif r.reply in self.listeners:
                break
            self.requests.pop(0)
        else:
            return False
        if r.bytes_left == size:
            r.left = 1
        self.published.append((r.reply, name.encode(), reply, -1, payload))
        r.bytes_left -= size if r.bytes_left else 0
        dseq = self.dseq
        self.dseq += 1
        if p is None:
            self.seq = seq + 1
            self.delivered_seq = max(seq, self.delivered_seq)
        else:
            self.queue.remove(seq)
            p.redeliveries += 1
        if self.ack_policy == "none":
            self.floor = dseq, seq
        else:
            p = self.pending.setdefault(seq, Pending(dseq))
            self.wait(p)
        if r.left <= 1 and r.bytes_left > 0:
            self.status(r.reply, "409 Batch Completed", 0, r.bytes_left)
        r.left -= 1
        r.given += 1
        self.requests.pop(0)
        if r.left > 0:
            self.requests.append(r)
        return True
