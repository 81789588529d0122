"""A generator process: `python -m shardbroker.bench.worker CONTROL MEMORY`, two inherited descriptors.

CONTROL is a stream socket to the parent: a line of JSON each way. What the parent says, and what is answered:

    {"do": "connect", "plan": {...}}                     ready: the connections, and what they are subscribed to, are there
    {"do": "make", "limit": n}                           ready: the loop object is made, for one phase (warm-up, or measured)
    {"do": "go", "at_ns": t, "seconds": s}               the loop's part, with this process's own CPU and waiting time
    {"do": "check"}                                      ready: nothing is left on the way
    {"do": "quit"}, or the end of the stream             it ends

An error is answered by {"error": text}. MEMORY is mapped: the board, and behind it the subjects that were drawn. Credentials
come over CONTROL, so no process list shows them. The process dies with its parent, and leaves Ctrl-C to it. No numpy here:
it must start fast.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import socket
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from typing import Any, Protocol

import orjson

from shardbroker.bench import LoadError, index_text, pulls
from shardbroker.bench.board import BYTES, Board
from shardbroker.bench.calls import Calls
from shardbroker.bench.churn import Lives, Subscriptions, subject_index
from shardbroker.bench.connect import Connection, Endpoint, hello
from shardbroker.bench.generator import Stream

PR_SET_PDEATHSIG, PR_SET_TIMERSLACK = 1, 29
LINE_BYTES_MAX = 64 << 20


class Loop(Protocol):
    """What all compiled loops have."""

    def start(self, seconds: float, at_ns: int = 0) -> None: ...
    def run(self) -> None: ...
    def part(self) -> dict[str, Any]: ...


class Kind:
    """One kind of load: makes connections, then one loop per phase."""

    def __init__(self, plan: dict[str, Any], memory: mmap.mmap) -> None:
        self.plan = plan
        self.endpoint = Endpoint(**plan["endpoint"])
        self.board = Board(memory)
        begin = plan.get("draws_at", 0)
        self.draws = bytes(memory[begin : begin + plan.get("draws_bytes", 0)])
        self.connections: list[Connection] = []

    def connect(self) -> None:
        """Make the connections and subscribe them."""

    def make(self, limit: int) -> Loop:
        """The loop of a phase, of so many messages at most (of each publisher, caller ...)."""
        raise NotImplementedError

    def check(self) -> None:
        """After a phase: nothing is left on the way."""
        for connection in self.connections:
            connection.silent()

    def text(self, key: str) -> bytes:
        return str(self.plan.get(key, "")).encode("latin-1")

    def dial(self, name: str, number: int = 0, receive_bytes: int = 0) -> Connection:
        """Connections of many come from several loopback addresses: one has only 28,000 ports."""
        host = self.endpoint.host
        source = (
            f"127.0.0.{1 + number // 20_000 % 200}" if host.startswith("127.") and number >= 20_000 else ""
        )
        made = Connection(
            host,
            self.endpoint.port,
            name=f"bench {name}",
            endpoint=self.endpoint,
            source=source,
            receive_bytes=receive_bytes,
            timeout_seconds=self.plan["timeout"],
        )
        self.connections.append(made)
        return made

    def common(self) -> dict[str, Any]:
        """Arguments that all loops have."""
        return {
            "board": self.board,
            "stall_seconds": self.plan["timeout"],
        }


class StreamKind(Kind):
    """Publishers and subscribers."""

    def connect(self) -> None:
        plan = self.plan
        self.sinks = [self.dial("subscriber") for _ in range(plan["sinks"])]
        # Little kernel memory for a slow one, so that the server notices soon.
        self.sinks += [self.dial("slow subscriber", receive_bytes=16384) for _ in range(plan["slow"])]
        for i, sink in enumerate(self.sinks):
            sink.subscribe(*self.subscriptions(plan["sink_first"] + i))
        self.flows = [self.dial("publisher") for _ in range(plan["flows"])]

    def subscriptions(self, sink: int) -> list[bytes]:
        """SUB lines of a subscriber."""
        plan, subject, queue = self.plan, self.text("subject"), self.text("queue")
        group = b"%s " % queue if queue else b""
        subjects = range(plan["subjects"])
        match plan["subscribe"]:
            case "wildcard":
                return [b"%s* %s1" % (subject, group)]
            case "each":
                return [b"%s%s %s%d" % (subject, index_text(i), group, i + 1) for i in subjects]
            case "slice":  # of all subjects every n-th
                mine = subjects[sink :: plan["sinks_all"]]
                return [b"%s%s %s%d" % (subject, index_text(i), group, i + 1) for i in mine]
        return [b"%s %s1" % (subject, group)]

    def make(self, limit: int) -> Loop:
        plan = self.plan
        return Stream(
            [flow.fd for flow in self.flows],
            [sink.fd for sink in self.sinks],
            subject=self.text("subject"),
            sizes=plan["sizes"],
            subjects=plan["subjects"],
            indexed=plan["subjects"] > 1,
            wildcard=plan["subscribe"] == "wildcard",
            exact=plan["exact"],
            copies=plan["copies"],
            limit=limit,
            step=plan["step"],
            headers=self.text("headers"),
            draws=self.draws,
            rate=plan["rate"],
            slow=plan["slow"],
            slow_bytes=plan["slow_bytes"],
            group_first=plan["group"],
            groups_all=plan["groups_all"],
            publishers=plan["flows_all"],
            publisher_first=plan["flow_first"],
            **self.common(),
        )

    def check(self) -> None:
        for connection in self.connections:
            if connection not in self.sinks[self.plan["sinks"] :]:
                connection.silent()


class CallsKind(Kind):
    """Requesters and responders."""

    def connect(self) -> None:
        plan = self.plan
        inbox = self.text("inbox")
        queue = self.text("queue")
        for _ in range(plan["responders"]):
            self.dial("responder").subscribe(
                b"%s %s1" % (self.text("serves"), b"%s " % queue if queue else b"")
            )
        self.responders = list(self.connections)
        for i in range(plan["callers"]):
            self.dial("requester").subscribe(b"%s%s.* 1" % (inbox, index_text(plan["caller_first"] + i)))
        self.callers = self.connections[len(self.responders) :]

    def make(self, limit: int) -> Loop:
        plan = self.plan
        return Calls(
            [caller.fd for caller in self.callers],
            [responder.fd for responder in self.responders],
            subject=self.text("subject"),
            inbox=self.text("inbox"),
            kind=plan["calls"],
            sizes=plan["sizes"],
            headers=self.text("headers"),
            values=plan.get("values", [16]),
            subjects=plan["subjects"],
            step=plan["step"],
            draws=self.draws,
            in_flight=plan["in_flight"],
            limit=limit,
            rate=plan["rate"],
            batch=plan["batch"],
            group=plan["group"],
            groups_all=plan["groups_all"],
            callers_all=plan["callers_all"],
            caller_first=plan["caller_first"],
            **self.common(),
        )


class LivesKind(Kind):
    """Connection churn."""

    def connect(self) -> None:
        self.dial("probe").close()  # wrong credentials and the like are told in words
        self.connections.clear()

    def make(self, limit: int) -> Loop:
        return Lives(
            self.endpoint.packed,
            self.endpoint.port,
            width=self.plan["width"],
            hello=hello("bench churn", self.endpoint),
            limit=min(limit * self.plan["width"], 2**62),  # the limit is of one at a time
            group=self.plan["group"],
            **self.common(),
        )


class SubscriptionsKind(Kind):
    """Subscription churn; afterwards each connection must have exactly the subscriptions that it was left with."""

    def connect(self) -> None:
        plan = self.plan
        for i in range(plan["holders"]):
            number = plan["holder_first"] + i
            self.dial("subscriber").subscribe(
                *(b"%s %d" % (self.subject(number, sid), sid) for sid in range(1, plan["window"] + 1))
            )

    def subject(self, number: int, sid: int) -> bytes:
        return self.text("subject") + index_text(subject_index(number, self.plan["window"], sid))

    def make(self, limit: int) -> Loop:
        plan = self.plan
        if getattr(self, "loop", None) is not None:  # of the warm-up: begin again from sids 1..window
            for connection in self.connections:
                connection.close()
            self.connections.clear()
            self.connect()
        self.loop = Subscriptions(
            [connection.fd for connection in self.connections],
            prefix=self.text("subject"),
            window=plan["window"],
            batch=plan["batch"],
            limit=limit,
            group=plan["group"],
            holder_first=plan["holder_first"],
            **self.common(),
        )
        return self.loop

    def check(self) -> None:
        window = self.plan["window"]
        publisher = self.dial("publisher")
        self.connections.pop()
        with publisher:
            for i, ((first, last), connection) in enumerate(
                zip(self.loop.live(), self.connections, strict=True)
            ):
                number = self.plan["holder_first"] + i
                sids = range(max(1, last - 2 * window + 1), last + 1)
                publisher.send(*(b"PUB %s 2\r\nhi" % self.subject(number, sid) for sid in sids))
                got = sorted(int(line.split()[2]) for line, _ in connection.messages())
                if got != list(range(first, last + 1)):
                    raise LoadError(
                        f"after the churn a connection is not subscribed as it should be: messages for "
                        f"{len(got)} sids came, {window} are subscribed"
                    )


class Idle:
    """Connections that do nothing; a PING is answered. It ends after the time, or when the board says so."""

    def __init__(self, connections: list[Connection], board: Board, group: int) -> None:
        self.connections, self.board, self.group = connections, board, group
        self.seconds, self.at_ns = 0.0, 0

    def start(self, seconds: float, at_ns: int = 0) -> None:
        self.seconds, self.at_ns = seconds, at_ns or time.monotonic_ns()

    def run(self) -> None:
        import selectors

        end_ns = self.at_ns + round(self.seconds * 1e9)
        with selectors.DefaultSelector() as selector:
            for connection in self.connections:
                selector.register(connection.fd, selectors.EVENT_READ, connection)
            while (left := end_ns - time.monotonic_ns()) > 0 and not self.board.stopped:
                if self.board.reason:
                    raise LoadError(self.board.reason)
                for key, _ in selector.select(min(left / 1e9, 0.05)):
                    key.data.silent()

    def part(self) -> dict[str, Any]:
        return {"answered": len(self.connections), "latency": []}


class IdleKind(Kind):
    """Idle connections."""

    def connect(self) -> None:
        for i in range(self.plan["count"]):
            self.dial("idle", self.plan["count_first"] + i)

    def make(self, limit: int) -> Loop:
        return Idle(self.connections, self.board, self.plan["group"])


class PullsKind(Kind):
    """Consumers of a stream."""

    def connect(self) -> None:
        inbox = self.text("inbox")
        for i in range(self.plan["pullers"]):
            number = index_text(self.plan["puller_first"] + i)
            self.dial("consumer").subscribe(b"%s%s 1" % (inbox, number))

    def make(self, limit: int) -> Loop:
        plan = self.plan
        return pulls.Pulls(
            [connection.fd for connection in self.connections],
            subjects=[name.encode() for name in plan["next"]],
            inbox=self.text("inbox"),
            stream_subject=self.text("subject"),
            sizes=plan["sizes"],
            headers=self.text("headers"),
            batch=plan["batch"],
            indexed=plan["subjects"] > 1,
            mode=plan["mode"],
            acks=plan["acks"],
            due=plan["due"],
            shared=plan["shared"],
            group=plan["group"],
            groups_all=plan["groups_all"],
            puller_first=plan["puller_first"],
            pullers_all=plan["pullers_all"],
            **self.common(),
        )


KINDS: dict[str, type[Kind]] = {
    "stream": StreamKind,
    "calls": CallsKind,
    "lives": LivesKind,
    "subscriptions": SubscriptionsKind,
    "idle": IdleKind,
    "pulls": PullsKind,
}


def waited_ns() -> int:
    """How long this process has waited for a processor while it could have run (proc(5), schedstat); 0 if unknown."""
    try:
        with open("/proc/self/schedstat") as file:
            return int(file.read().split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def words(value: Any) -> Any:
    """Bytes for JSON."""
    if isinstance(value, bytes):
        return b64encode(value).decode()
    raise TypeError(type(value))


class Worker:
    """This process. One load, phase after phase."""

    def __init__(self, memory: mmap.mmap) -> None:
        self.memory = memory
        self.kind: Kind | None = None
        self.loop: Loop | None = None

    def do(self, order: dict[str, Any]) -> dict[str, Any]:
        """Obey one order; the answer. LoadError, ValueError."""
        if order["do"] == "connect":
            plan = order["plan"]
            if plan.get("cpus"):
                os.sched_setaffinity(0, plan["cpus"])
            os.nice(plan.get("nice", 0))
            self.kind = KINDS[plan["kind"]](plan, self.memory)
            self.kind.connect()
            return {"ready": "connect"}
        assert self.kind is not None
        if order["do"] == "make":
            self.loop = self.kind.make(order["limit"])
            return {"ready": "make"}
        if order["do"] == "check":
            self.kind.check()
            return {"ready": "check"}
        assert self.loop is not None and order["do"] == "go"
        self.loop.start(order["seconds"], order["at_ns"])
        if (ahead := order["at_ns"] - time.monotonic_ns()) > 0:
            time.sleep(ahead / 1e9)
        cpu, waited, began = time.process_time(), waited_ns(), time.monotonic()
        self.loop.run()
        return {
            "part": self.loop.part(),
            "cpu_seconds": time.process_time() - cpu,
            "waited_seconds": (waited_ns() - waited) / 1e9,
            "wall_seconds": time.monotonic() - began,
        }


def orders(control: socket.socket) -> Iterator[dict[str, Any]]:
    """What the parent says, until it says no more."""
    data = b""
    while True:
        while b"\n" not in data:
            part = control.recv(1 << 20)
            if not part or len(data) > LINE_BYTES_MAX:
                return
            data += part
        line, data = data.split(b"\n", 1)
        order = orjson.loads(line)
        if order["do"] == "quit":
            return
        yield order


def main() -> int:
    control_fd, memory_fd = int(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the run and asks us to
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(PR_SET_TIMERSLACK, 1)
    memory = mmap.mmap(memory_fd, os.fstat(memory_fd).st_size)
    assert len(memory) >= BYTES
    with socket.socket(fileno=control_fd) as control:
        worker = Worker(memory)
        for order in orders(control):
            try:
                answer = worker.do(order)
            except (LoadError, ValueError, OSError, MemoryError) as error:
                answer = {"error": str(error) or type(error).__name__}
            try:
                control.sendall(orjson.dumps(answer, default=words) + b"\n")
            except OSError:
                return 1
    return 0


if __name__ == "__main__":
    # Quick and without destructors: loops and mappings go with the process.
    status = main()
    sys.stdout.flush()
    os._exit(status)
