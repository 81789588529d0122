"""A randomised load over many connections in one process, and the checks of what came out of it.

A script of actions is drawn from one seed before anything runs, so that a seed reproduces the load (the
interleaving inside the broker is its own). Every message carries its publisher and that publisher's sequence
number, and every subscription keeps what it got per publisher. The checks follow from three facts about each
subscription and publisher, taking the publisher's messages on matching subjects in order as a row:

    row:        m0 m1 m2 m3 m4 m5 m6 m7 m8 m9
    got:               [m3 m4 m5 m6 m7]          always one gapless piece of the row, in order
                           ^ first message handed to its socket after the subscription's PONG came: the
                             piece starts here or before (flush promise)
                                               and it ends with the row when the subscription stays (no loss)

Queue groups: each message that was sent after a staying member's PONG comes to exactly one member.
"""

from __future__ import annotations

import random
import re
import select
import socket
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from harness.broker import WATCHDOG_SECONDS, Broker, wait_until

_FRAME = re.compile(
    rb"MSG (\S+) (\d+) (?:(\S+) )?(\d+)\r\n|HMSG (\S+) (\d+) (?:(\S+) )?\d+ (\d+)\r\n"
    rb"|(PONG|PING)\r\n|(-ERR [^\r]*)\r\n|INFO [^\n]*\n"
)
# Payload bodies are slices of this, so that a wrong byte anywhere is seen.
_BLOCK = random.Random(0).randbytes(70000)
# A connection does not get more to send while this much waits: the broker's back pressure reaches the script.
_UNSENT_BYTES_MAX = 1 << 17


class Connection:
    """One non-blocking connection; frames go to `on_message(sid, subject, reply, payload)`."""

    def __init__(
        self, swarm: Swarm, options: str = '{"verbose":false,"pedantic":false,"headers":true}'
    ) -> None:
        self.swarm = swarm
        self.socket = socket.create_connection(("127.0.0.1", swarm.broker.port), timeout=WATCHDOG_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.local_port: int = self.socket.getsockname()[1]
        self.socket.setblocking(False)
        self.unsent = bytearray()
        self.closed = False
        self._received = b""
        self._pongs: deque[Callable[[], None]] = deque()
        self.on_message: Callable[[int, bytes, bytes | None, bytes], None] = lambda *_: None
        swarm.add(self)
        self.send(f"CONNECT {options}\r\n".encode())

    def send(self, data: bytes) -> None:
        """Hand bytes to the socket, in order; what it does not take now goes out with a later poll."""
        was_empty = not self.unsent
        self.unsent += data
        if was_empty:
            self.swarm.unsent.add(self)

    def ping(self, then: Callable[[], None]) -> None:
        """PING, and call `then` when its PONG comes."""
        self._pongs.append(then)
        self.send(b"PING\r\n")

    def write(self) -> None:
        try:
            while self.unsent:
                del self.unsent[: self.socket.send(self.unsent[: 1 << 16])]
        except BlockingIOError:
            return
        except OSError:
            self.unsent.clear()
        self.swarm.unsent.discard(self)

    def read(self) -> None:
        try:
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError as error:
            data = b""
            self.swarm.problems.append(f"connection {self.local_port}: {error!r}")
        if not data:
            self.swarm.problems.append(
                f"connection {self.local_port}: closed by the broker; left {self._received[:200]!r}"
            )
            self.close()
            return
        self._received = self._frames(self._received + data)

    def _frames(self, data: bytes) -> bytes:
        """Take all whole frames from `data`; the rest."""
        at = 0
        match_frame, on_message = _FRAME.match, self.on_message
        while frame := match_frame(data, at):
            subject, sid, reply, size, h_subject, h_sid, h_reply, total, word, error = frame.groups()
            end = frame.end()
            if sid is not None:
                body_end = end + int(size)
                if len(data) < body_end + 2:
                    break
                on_message(int(sid), subject, reply, data[end:body_end])
                end = body_end + 2
            elif h_sid is not None:
                if len(data) < end + int(total) + 2:
                    break
                on_message(int(h_sid), h_subject, h_reply, data[end : end + int(total)])
                end += int(total) + 2
            elif word == b"PONG":
                self._pongs.popleft()()
            elif word == b"PING":
                self.send(b"PONG\r\n")
            elif error is not None:
                self.swarm.problems.append(f"connection {self.local_port}: {error!r}")
            if data[end - 2 : end] != b"\r\n":
                self.swarm.problems.append(f"frame does not end with CRLF: {data[at : end + 40]!r}")
            at = end
        rest = data[at:]
        if len(rest) > 5000 and not frame:
            raise AssertionError(f"connection {self.local_port}: not a frame: {rest[:200]!r}")
        return rest

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.swarm.remove(self)
            self.socket.close()


class Swarm:
    """Connections under one poll object."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.connections: dict[int, Connection] = {}
        self.unsent: set[Connection] = set()
        self.problems: list[str] = []
        self._poll = select.epoll()

    def add(self, connection: Connection) -> None:
        self.connections[connection.socket.fileno()] = connection
        self._poll.register(connection.socket.fileno(), select.EPOLLIN)

    def remove(self, connection: Connection) -> None:
        number = connection.socket.fileno()
        self._poll.unregister(number)
        self.unsent.discard(connection)
        del self.connections[number]

    def pump(self, seconds: float = 0.0) -> bool:
        """Write what can be written, read what comes (waiting up to `seconds`); whether anything came."""
        for connection in list(self.unsent):
            connection.write()
        events = self._poll.poll(min(seconds, 0.005) if self.unsent else seconds)
        for number, _ in events:
            connection = self.connections.get(number)  # type: ignore[assignment]
            if connection is not None:
                connection.read()
        return bool(events)

    def pump_until(
        self, condition: Callable[[], object], what: str, seconds: float = WATCHDOG_SECONDS
    ) -> None:
        end = time.monotonic() + seconds
        while not condition():
            self.pump(0.02)
            assert not self.problems, self.problems[:5]
            assert time.monotonic() < end, f"waited {seconds:g} s for {what}"

    def flush(self, connections: Iterable[Connection]) -> None:
        """PING on each and wait for every PONG."""
        waiting = set()
        for connection in connections:
            waiting.add(connection)
            connection.ping(lambda c=connection: waiting.discard(c))  # type: ignore[misc]
        self.pump_until(lambda: not waiting, f"PONGs of {len(waiting)} connections")

    def close(self) -> None:
        for connection in list(self.connections.values()):
            connection.close()
        self._poll.close()


def covering(swarm: Swarm, count: int) -> list[Connection]:
    """`count` connections, at least one on every shard, in the order of their shards."""
    broker = swarm.broker
    by_shard: dict[int, list[Connection]] = {n: [] for n in range(broker.workers)}

    def open_one() -> int:
        connection = Connection(swarm)
        swarm.flush([connection])
        by_shard[broker.shard_of(connection) if broker.ours else 0].append(connection)  # type: ignore[arg-type]
        return sum(map(len, by_shard.values()))

    wait_until(lambda: open_one() >= count and all(by_shard.values()), "connections on every shard")
    while sum(map(len, by_shard.values())) > count:
        max(by_shard.values(), key=len).pop().close()
    return [connection for connections in by_shard.values() for connection in connections]


# -- what is published and who gets it --


class Publisher:
    """Numbers its messages 0, 1, 2 ... and remembers subject, size and moment of handing over of each."""

    def __init__(self, load: Load, connection: Connection) -> None:
        self.load = load
        self.index = len(load.publishers)
        self.connection = connection
        self.subjects: list[int] = []
        self.sizes: list[int] = []
        self.moments: list[int] = []
        load.publishers.append(self)

    def publish(self, subject: int, size: int) -> None:
        sequence = len(self.subjects)
        self.subjects.append(subject)
        self.sizes.append(size)
        self.moments.append(self.load.moment())
        body = b"%d %d " % (self.index, sequence) + _BLOCK[sequence % 1000 : sequence % 1000 + size]
        self.connection.send(b"PUB %s %d\r\n%s\r\n" % (self.load.subjects[subject], len(body), body))


@dataclass(eq=False)
class Subscription:
    """One SUB and all it got: per publisher its sequence numbers, in the order they came."""

    load: Load
    connection: Connection
    sid: int
    pattern: str
    queue: str = ""
    confirmed: int | None = None  # moment of the PONG that followed the SUB
    ended: bool = False  # an UNSUB has been sent, or its connection closed
    got: dict[int, list[int]] = field(default_factory=dict)
    matching: frozenset[int] = frozenset()

    def __str__(self) -> str:
        stays = "left" if self.ended else "stays"
        return (
            f"[{self.pattern} {self.queue or '-'} sid {self.sid} port {self.connection.local_port}, {stays}]"
        )


class Load:
    """Publishers and subscriptions over a swarm, a script to run, and the checks."""

    def __init__(self, swarm: Swarm, subjects: list[str]) -> None:
        self.swarm = swarm
        self.subjects = [s.encode() for s in subjects]
        self.publishers: list[Publisher] = []
        self.subscriptions: dict[Connection, dict[int, Subscription]] = {}
        self.all: list[Subscription] = []
        self.marks: set[tuple[Connection, int]] = set()
        self._moment = 0
        self._numbers = {s: i for i, s in enumerate(self.subjects)}

    def moment(self) -> int:
        """A number that only grows: what has a smaller one happened before, seen by this process."""
        self._moment += 1
        return self._moment

    def listen(self, connection: Connection) -> None:
        self.subscriptions[connection] = {}
        connection.on_message = lambda sid, subject, reply, payload: self._on_message(
            connection, sid, subject, payload
        )

    def subscribe(self, connection: Connection, pattern: str, queue: str = "") -> Subscription:
        sid = len(self.all) + 1
        regex = re.compile(re.escape(pattern).replace(r"\*", "[^.]+").replace(">", ".+") + "$")
        matching = frozenset(i for i, s in enumerate(self.subjects) if regex.match(s.decode()))
        subscription = Subscription(self, connection, sid, pattern, queue, matching=matching)
        self.subscriptions[connection][sid] = subscription
        self.all.append(subscription)
        connection.send(f"SUB {pattern} {queue + ' ' if queue else ''}{sid}\r\n".encode())

        def confirm() -> None:
            subscription.confirmed = self.moment()

        connection.ping(confirm)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        subscription.ended = True
        subscription.connection.send(b"UNSUB %d\r\n" % subscription.sid)

    def leave(self, connection: Connection) -> None:
        """Close without a word."""
        for subscription in self.subscriptions[connection].values():
            subscription.ended = True
        connection.close()

    def _on_message(self, connection: Connection, sid: int, subject: bytes, payload: bytes) -> None:
        if sid == 0:
            self.marks.add((connection, int(payload)))
            return
        publisher, sequence, body = payload.split(b" ", 2)
        source, number = self.publishers[int(publisher)], int(sequence)
        subscription = self.subscriptions[connection][sid]
        subscription.got.setdefault(source.index, []).append(number)
        if (
            number >= len(source.subjects)
            or source.subjects[number] != self._numbers[subject]
            or body != _BLOCK[number % 1000 : number % 1000 + source.sizes[number]]
            or self._numbers[subject] not in subscription.matching
        ):
            self.swarm.problems.append(
                f"{subscription} got a wrong message: {subject!r} {payload[:60]!r} ({len(payload)})"
            )

    def ready(self, connection: Connection) -> bool:
        """Whether a connection may be given more; when not, poll until it has sent something."""
        return len(connection.unsent) < _UNSENT_BYTES_MAX

    def settle(self) -> None:
        """Wait until all that was published has come to the connections that stay.

        Each publisher sends a mark behind its messages. A message for a queue group whose member has just
        gone is drawn again and may come behind the mark, so a check that fails is tried again while anything
        moves.
        """
        stay = [c for c in self.subscriptions if not c.closed]
        for connection in stay:
            connection.send(b"SUB end.of.load 0\r\n")
        self.swarm.flush(stay)
        for publisher in self.publishers:
            publisher.connection.send(
                b"PUB end.of.load %d\r\n%d\r\n" % (len(str(publisher.index)), publisher.index)
            )
        self.swarm.pump_until(
            lambda: len(self.marks) >= len(stay) * len(self.publishers),
            "the end marks of all publishers everywhere",
        )
        while self.errors() and self.swarm.pump(5.0):
            pass

    def check(self, note: str) -> None:
        errors = self.swarm.problems + self.errors()
        assert not errors, f"{note}: {len(errors)} errors, the first:\n" + "\n".join(errors[:6])

    def errors(self) -> list[str]:
        found = []
        groups: dict[str, list[Subscription]] = {}
        rows: dict[tuple[int, frozenset[int]], list[int]] = {}
        for subscription in self.all:
            if subscription.queue:
                groups.setdefault(subscription.queue, []).append(subscription)
                found += self._order_errors(subscription)
                continue
            for publisher in self.publishers:
                key = publisher.index, subscription.matching
                if key not in rows:
                    rows[key] = [n for n, s in enumerate(publisher.subjects) if s in subscription.matching]
                error = self._piece_error(subscription, publisher, rows[key])
                if error:
                    found.append(f"{subscription} publisher {publisher.index}: {error}")
        for name, members in groups.items():
            found += self._group_errors(name, members)
        return found

    def _piece_error(self, subscription: Subscription, publisher: Publisher, row: list[int]) -> str:
        """What is wrong with the piece that a subscription got of one publisher's row, or nothing."""
        got = subscription.got.get(publisher.index, [])
        due = len(row)  # place in the row of the first message that it must have
        if subscription.confirmed is not None:
            due = bisect_left(row, bisect_left(publisher.moments, subscription.confirmed))
        if not got:
            return (
                "" if subscription.ended or due == len(row) else f"nothing, but {row[due:][:5]} ... were due"
            )
        start = bisect_left(row, got[0])
        if got != row[start : start + len(got)]:
            place = next((i for i, n in enumerate(got) if row[start + i : start + i + 1] != [n]), 0)
            near = slice(max(0, place - 2), place + 4)
            return f"not a gapless piece at {place}: got {got[near]}, row {row[start:][near]}"
        if start > due:
            return f"flush promise: begins with {got[0]}, but {row[due]} was sent after its PONG"
        if not subscription.ended and start + len(got) != len(row):
            return f"lost the end: last is {got[-1]}, {row[-1]} was sent"
        return ""

    def _order_errors(self, member: Subscription) -> list[str]:
        """Order within a member; a message drawn again may come late, so groups with churn are let off."""
        return [
            f"{member} publisher {p}: out of order"
            for p, got in member.got.items()
            if got != sorted(got) and not any(s.ended and s.queue == member.queue for s in self.all)
        ]

    def _group_errors(self, name: str, members: list[Subscription]) -> list[str]:
        found = []
        counts = Counter((p, n) for member in members for p, got in member.got.items() for n in got)
        twice = [key for key, count in counts.items() if count > 1]
        if twice:
            found.append(f"group {name}: delivered more than once: {twice[:5]} of {len(twice)}")
        stable = [m for m in members if not m.ended and m.confirmed is not None]
        for publisher in self.publishers:
            lost = []
            for number, (subject, moment) in enumerate(
                zip(publisher.subjects, publisher.moments, strict=True)
            ):
                if (publisher.index, number) not in counts and any(
                    m.confirmed is not None and m.confirmed < moment and subject in m.matching for m in stable
                ):
                    lost.append(number)
            if lost:
                total = len(publisher.subjects)
                found.append(
                    f"group {name} publisher {publisher.index}: lost {lost[:5]} ({len(lost)} of {total})"
                )
        return found
