"""A stream's log as plain dicts and lists: what shardbroker.store must do, with no thought of speed or disks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from shardbroker.subject import matches

MAX_MSGS, MAX_BYTES, MAX_MSGS_PER_SUBJECT = -4, -5, -6


@dataclass(frozen=True)
class Stored:
    seq: int
    time_ns: int
    subject: bytes
    headers: bytes
    payload: bytes
    expires_ns: int


@dataclass(frozen=True)
class Limits:
    max_msgs: int = 0
    max_bytes: int = 0
    max_msgs_per_subject: int = 0
    max_age_ns: int = 0
    discard_new: bool = False
    discard_new_per_subject: bool = False


class Refused(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class ModelLog:
    memory: bool = False
    limits: Limits = Limits()
    next_seq: int = 1
    last_time_ns: int = 0
    messages: dict[int, Stored] = field(default_factory=dict)  # in order of sequence
    last: Stored | None = None  # appended

    # ---- what it is ----

    def counted(self, m: Stored) -> int:
        """filestore.go fileStoreMsgSizeRaw, memstore.go memStoreMsgSizeRaw."""
        size = len(m.subject) + len(m.headers) + len(m.payload)
        if self.memory:
            return size + 16
        return size + 30 + (4 if m.headers else 0)

    @property
    def bytes(self) -> int:
        return sum(self.counted(m) for m in self.messages.values())

    @property
    def first_seq(self) -> int:
        return next(iter(self.messages), self.next_seq)

    def subjects(self) -> dict[bytes, list[int]]:
        found: dict[bytes, list[int]] = {}
        for m in self.messages.values():
            found.setdefault(m.subject, []).append(m.seq)
        return found

    def matching(self, patterns: list[bytes]) -> list[Stored]:
        return [m for m in self.messages.values() if wanted(patterns, m.subject)]

    def deleted(self) -> list[tuple[int, int]]:
        ranges, expected = [], self.first_seq
        for seq in [*self.messages, self.next_seq]:
            if seq > expected and self.messages:
                ranges.append((expected, seq - 1))
            expected = seq + 1
        return ranges

    # ---- what changes it ----

    def append(self, subject: bytes, payload: bytes, headers: bytes, time_ns: int, ttl_ns: int) -> int:
        time_ns = max(time_ns, self.last_time_ns)
        expires = min(time_ns + ttl_ns, 2**63 - 1) if ttl_ns else 0
        m = Stored(self.next_seq, time_ns, subject, headers, payload, expires)
        limits = self.limits
        of_subject = self.subjects().get(subject, [])
        full = 0 < limits.max_msgs_per_subject <= len(of_subject)
        if limits.discard_new:
            if full and limits.discard_new_per_subject:
                raise Refused(MAX_MSGS_PER_SUBJECT)
            if limits.max_msgs and len(self.messages) >= limits.max_msgs and not full:
                raise Refused(MAX_MSGS)
            if (
                limits.max_bytes
                and self.bytes + self.counted(m) > limits.max_bytes
                and not (full and self.counted(self.messages[of_subject[0]]) >= self.counted(m))
            ):
                raise Refused(MAX_BYTES)
        self.messages[m.seq] = self.last = m
        self.next_seq += 1
        self.last_time_ns = time_ns
        if full:
            del self.messages[of_subject[0]]
        self.make_room()
        return m.seq

    def make_room(self) -> None:
        limits = self.limits
        if limits.discard_new:
            return
        while limits.max_msgs and len(self.messages) > limits.max_msgs:
            del self.messages[self.first_seq]
        while limits.max_bytes and self.bytes > limits.max_bytes:
            del self.messages[self.first_seq]

    def set_limits(self, limits: Limits) -> None:
        self.limits = limits
        if limits.max_msgs_per_subject:
            for seqs in self.subjects().values():
                for seq in seqs[: -limits.max_msgs_per_subject]:
                    del self.messages[seq]
        self.make_room()

    def remove(self, seq: int) -> bool:
        return self.messages.pop(seq, None) is not None

    def purge(self, patterns: list[bytes], before_seq: int, keep: int) -> int:
        """filestore.go PurgeEx."""
        if before_seq == 1:
            return 0
        everything = not patterns or b">" in patterns
        found = [m.seq for m in self.matching(patterns)]
        if everything and before_seq:
            keep = 0
        if keep:
            found = found[:-keep]
        if before_seq:
            found = [seq for seq in found if seq < before_seq]
        for seq in found:
            del self.messages[seq]
        if everything and before_seq > self.next_seq:
            self.next_seq = before_seq
        return len(found)

    def skip(self, next_seq: int) -> None:
        self.next_seq = max(self.next_seq, next_seq)

    def tick(self, now_ns: int) -> None:
        age = self.limits.max_age_ns
        if age:
            for m in list(self.messages.values()):
                if m.time_ns > now_ns - age:
                    break
                del self.messages[m.seq]
        for m in list(self.messages.values()):
            if m.expires_ns and m.expires_ns <= now_ns:
                del self.messages[m.seq]

    def copy(self) -> ModelLog:
        return replace(self, messages=dict(self.messages))


def wanted(patterns: list[bytes], subject: bytes) -> bool:
    text = subject.decode("latin-1")
    return not patterns or any(matches(p.decode("latin-1"), text) for p in patterns)
