# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""A door for tests and tools only: the compiled functions of hot/ from Python, without a socket.

    parse       one call of parse_next, on memory that ends where it may end
    Outbound    the output of one connection
    Shard       an engine with sockets made of bytearrays; a turn is what shard/loop.pyx does in one

Input is copied to blocks of exactly the allowed size, so that a sanitizer sees each byte too far.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from shardbroker.hot.bytes cimport SB_SLACK, sb_hash
from shardbroker.hot.connection cimport connection_close, connection_free, connection_ready, free_dead
from shardbroker.hot.deliver cimport mark_dirty
from shardbroker.hot.engine cimport (
    RING_BATCH, Engine, engine_after_flush, engine_begin_turn, engine_catch_up, engine_end_turn, engine_on_bytes,
    engine_on_partial, engine_on_rings, engine_resume, engine_rings_waiting, engine_sweep, route_of)
from shardbroker.hot.interest cimport (
    interest_control, interest_drain_spills, interest_lookup, interest_membership, interest_publish, interest_route)
from shardbroker.hot.memory cimport mem_alloc
from shardbroker.hot.model cimport (
    CONNECTION_BLOCKED, CONNECTION_CLOSING, CONNECTION_DIRTY, CONNECTION_HANGUP, CONNECTION_HELD, CONNECTION_PAUSED,
    CONNECTION_READABLE, CONNECTION_READY, CONNECTION_STALLED, LITERAL_PARTS, connection_t, queue_t, route_t,
    subscription_t)
from shardbroker.hot.outbound cimport (
    out_append, out_borrow, out_drop, out_free_pools, out_gather, out_iov_t, out_keep, out_sent, outbound_t)
from shardbroker.hot.parser cimport (
    OPERATION_CONNECT, OPERATION_ERR, OPERATION_INFO, OPERATION_OK, OPERATION_PING, OPERATION_PONG, OPERATION_PUB,
    OPERATION_SUB, OPERATION_UNSUB, PARSE_ARGUMENTS, PARSE_DONE, PARSE_HEADERS, PARSE_LINE_TOO_LONG, PARSE_MORE,
    PARSE_PAYLOAD_TOO_LARGE, PARSE_UNKNOWN, operation_t, parse_limits_t, parse_next)
from shardbroker.hot.reasons cimport REASON_CLIENT_CLOSED
from shardbroker.hot.sink cimport sinks_free_dead
from shardbroker.hot.state cimport engine_t, message_t, watch_t
from shardbroker.hot.sublist cimport (
    match_t, member_at, routes_free_dead, sublist_match, sublist_remote_forget, sublist_remote_plain,
    sublist_remote_queue)
from shardbroker.hot.watch cimport watch_add, watch_remove
from shardbroker.shm.directory cimport directory_add, directory_remove

KINDS = {OPERATION_PUB: "PUB", OPERATION_SUB: "SUB", OPERATION_UNSUB: "UNSUB", OPERATION_PING: "PING",
         OPERATION_PONG: "PONG", OPERATION_CONNECT: "CONNECT", OPERATION_INFO: "INFO", OPERATION_OK: "+OK",
         OPERATION_ERR: "-ERR"}
STATUSES = {PARSE_MORE: "more", PARSE_UNKNOWN: "unknown", PARSE_LINE_TOO_LONG: "line too long",
            PARSE_PAYLOAD_TOO_LARGE: "payload too large", PARSE_ARGUMENTS: "arguments", PARSE_HEADERS: "headers"}

cdef enum:
    IOVECS = 3                          # few, so that an output takes several writes
    STOPPED = CONNECTION_PAUSED | CONNECTION_STALLED | CONNECTION_HELD


# ---- parser -----------------------------------------------------------------------------------------------------

cdef char* block_of(bytes data) except NULL:
    """The bytes, a NUL, and slack that is full of what a parser that reads too far would fall for."""
    cdef char* p = <char*>mem_alloc(len(data) + SB_SLACK)
    memset(p + len(data), c'\n', SB_SLACK)
    memcpy(p, <char*>data, len(data))
    p[len(data)] = 0
    return p


def parse(bytes data, *, uint32_t max_control_line=4096, int64_t max_payload=1048576, bint headers=True):
    """The first operation of at least one byte: (status, bytes, fields).

    status: "done" or one of STATUSES. bytes: the operation's length, when done; when more has to come, the length if it
    is known, else 0. fields: of a whole operation, "kind" (KINDS) and what that kind has.
    """
    cdef parse_limits_t limits
    cdef operation_t op
    cdef char* p = block_of(data)
    cdef char* end = p + len(data)
    cdef int status
    limits.max_control_line = max_control_line
    limits.max_payload = max_payload
    limits.headers = headers
    memset(&op, 0, sizeof(op))
    try:
        with nogil:
            status = parse_next(p, end, &limits, &op)
        if status != PARSE_DONE:
            return STATUSES[status], op.bytes if status == PARSE_MORE else 0, {}
        fields = {"kind": KINDS[op.kind]}
        if op.kind == OPERATION_PUB:
            fields["subject"] = op.subject[:op.subject_bytes]
            fields["reply"] = op.reply[:op.reply_bytes] if op.reply_bytes else b""
            fields["header_bytes"] = op.header_bytes
            fields["payload"] = op.payload[:op.payload_bytes]
            fields["tail"] = op.tail[:op.tail_bytes] if op.tail != NULL else None
        elif op.kind == OPERATION_SUB:
            fields["subject"] = op.subject[:op.subject_bytes]
            fields["queue"] = op.queue[:op.queue_bytes] if op.queue_bytes else b""
            fields["sid"] = op.sid[:op.sid_bytes]
        elif op.kind == OPERATION_UNSUB:
            fields["sid"] = op.sid[:op.sid_bytes]
            fields["max"] = op.max
        elif op.kind == OPERATION_CONNECT or op.kind == OPERATION_INFO or op.kind == OPERATION_ERR:
            fields["argument"] = op.argument[:op.argument_bytes]
        return "done", op.bytes, fields
    finally:
        free(p)


# ---- output -----------------------------------------------------------------------------------------------------

cdef class Outbound:
    """The output of one connection, and what it borrows: blocks that live until keep() or drop()."""
    cdef outbound_t o
    cdef connection_t c
    cdef list borrowed                  # addresses

    def __cinit__(self):
        memset(&self.o, 0, sizeof(self.o))
        memset(&self.c, 0, sizeof(self.c))
        self.c.spans = &self.c.spans_inline[0]
        self.c.spans_capacity = 1
        self.borrowed = []

    def __dealloc__(self):
        out_drop(&self.o, &self.c)
        out_free_pools(&self.o)
        self.give_back()

    cdef void give_back(self):
        for address in self.borrowed:
            free(<void*><size_t>address)
        self.borrowed = []

    def append(self, bytes data):
        """Copy bytes behind what is there."""
        out_append(&self.o, &self.c, data, len(data))

    def borrow(self, bytes data, size_t cut=0):
        """Refer to bytes behind what is there; with `cut` in two pieces that follow each other in memory."""
        cdef char* p
        if not data:
            return
        p = <char*>mem_alloc(len(data))
        memcpy(p, <char*>data, len(data))
        self.borrowed.append(<size_t>p)
        if 0 < cut < <size_t>len(data):
            out_borrow(&self.c, p, cut)
            out_borrow(&self.c, p + cut, len(data) - cut)
        else:
            out_borrow(&self.c, p, len(data))

    def send(self, size_t most, uint32_t spans=IOVECS):
        """One write of at most so many bytes from at most so many (up to 64) spans: what the socket got."""
        cdef out_iov_t iov[64]
        cdef size_t total = 0
        cdef uint32_t i
        cdef uint32_t n = out_gather(&self.c, iov, min(spans, 64), &total)
        got = b"".join([(<char*>iov[i].base)[:iov[i].bytes] for i in range(n)])
        assert len(got) == total
        got = got[:most]
        out_sent(&self.o, &self.c, len(got))
        return got

    def keep(self):
        """Own everything; what was borrowed is freed."""
        out_keep(&self.o, &self.c)
        self.give_back()

    def drop(self):
        """Forget everything."""
        out_drop(&self.o, &self.c)
        self.give_back()

    @property
    def pending(self):
        return self.c.pending_bytes

    @property
    def owned(self):
        """Bytes of chunks in use."""
        return self.o.bytes_owned

    @property
    def spans(self):
        return self.c.spans_end - self.c.spans_first


# ---- a shard without sockets ------------------------------------------------------------------------------------

cdef class Shard:
    """Shard(engine, read_bytes): runs an engine's turns. Everything is named by client id, which must be unique.

    read_bytes: the most that one read brings. `engine` takes whatever the control side does (connected, close, ...).
    A shard that is abandoned between two calls is a process that was killed there.
    """
    cdef readonly Engine engine
    cdef public size_t read_bytes
    cdef readonly dict slots            # client id -> slot
    cdef dict inboxes                   # client id -> bytes on their way here
    cdef dict outputs                   # client id -> bytes that the socket took
    cdef dict budgets                   # client id -> bytes that the socket still takes; not there: all
    cdef set ended                      # client ids whose peer has closed
    cdef dict watches                   # subject -> (address, what `called` is given)
    cdef public list told               # watched subjects whose interest may have changed, as told
    cdef bint more

    def __cinit__(self, Engine engine, size_t read_bytes=65536):
        self.engine = engine
        self.read_bytes = read_bytes
        self.slots = {}
        self.inboxes = {}
        self.outputs = {}
        self.budgets = {}
        self.ended = set()
        self.watches = {}
        self.told = []
        engine.e.io = <void*>self
        engine.e.flush = flush

    def open(self, uint64_t client_id, bytes info=b"INFO {}\r\n", *, bint auth_required=False):
        """A new connection; returns its slot."""
        self.inboxes[client_id] = bytearray()
        self.outputs[client_id] = bytearray()
        self.slots[client_id] = self.engine.adopt(-1, client_id, info, auth_required=auth_required)
        return self.slots[client_id]

    cdef connection_t* find(self, uint64_t client_id):
        return self.engine.find(self.slots[client_id], client_id)

    def feed(self, uint64_t client_id, bytes data):
        """The client sends; False when the connection is gone."""
        cdef connection_t* c = self.find(client_id)
        if c == NULL:
            return False
        self.inboxes[client_id] += data
        c.flags |= CONNECTION_READABLE
        connection_ready(&self.engine.e, c)
        return True

    def hang_up(self, uint64_t client_id):
        """The client closes its side after what it has sent."""
        cdef connection_t* c = self.find(client_id)
        if c != NULL:
            self.ended.add(client_id)
            c.flags |= CONNECTION_HANGUP | CONNECTION_READABLE
            connection_ready(&self.engine.e, c)

    def accept(self, uint64_t client_id, budget):
        """From now on the client's socket takes so many bytes and no more; None: all."""
        cdef connection_t* c = self.find(client_id)
        if budget is None:
            self.budgets.pop(client_id, None)
        else:
            self.budgets[client_id] = budget
        if c != NULL and c.flags & CONNECTION_BLOCKED and budget != 0:
            c.flags &= ~<uint32_t>CONNECTION_BLOCKED
            mark_dirty(&self.engine.e, c)

    def take_output(self, uint64_t client_id):
        """What the client's socket has got since the last call; also after the connection has ended."""
        taken = bytes(self.outputs[client_id])
        self.outputs[client_id].clear()
        return taken

    def is_open(self, uint64_t client_id):
        """Whether the connection is there and not closing."""
        cdef connection_t* c = self.find(client_id)
        return c != NULL and c.flags & CONNECTION_CLOSING == 0

    # One turn, in the order of shard/loop.pyx

    def turn(self, uint64_t now_ns, bint killed=False):
        """Read every ready connection once, then rings, timers, ends and the flush. killed: stops before the flush,
        and the shard must not be used again."""
        cdef engine_t* e = &self.engine.e
        self.engine.check_ready()
        if e.dirty != NULL or e.told_shards or e.wake_shards:
            flush(e)
        engine_begin_turn(e, now_ns)
        self.more = False
        if e.shards > 1:
            interest_membership(e)
            interest_control(e)
        self.read_ready()
        if e.shards > 1:
            interest_control(e)
            if engine_on_rings(e, RING_BATCH):
                self.more = True
        if killed:
            return
        if e.sweep_next_ns <= e.now_ns:
            engine_sweep(e)
        self.end_turn()
        self.engine.check_ready()

    cdef end_turn(self):
        cdef engine_t* e = &self.engine.e
        if e.waiting != NULL:
            engine_resume(e)
        if engine_end_turn(e):
            self.more = True
        flush(e)
        if e.waiting != NULL and e.spilled_shards | e.control_spilled_shards == 0:
            engine_resume(e)
        self.close_connections()
        if e.dead_count:
            free_dead(e)
        sinks_free_dead(e)
        routes_free_dead()

    def busy(self):
        """Whether another turn has something to do."""
        cdef engine_t* e = &self.engine.e
        return bool(self.more or e.ready_first != NULL or e.dirty != NULL or e.reaping != NULL or e.closing != NULL
                    or e.told_shards or e.wake_shards or e.waiting != NULL
                    or e.spilled_shards | e.control_spilled_shards or e.snapshots_awaited
                    or (e.shards > 1 and engine_rings_waiting(e)))

    cdef read_ready(self):
        cdef engine_t* e = &self.engine.e
        cdef connection_t* c
        cdef connection_t* last = e.ready_last
        while e.ready_first != NULL:
            c = e.ready_first
            e.ready_first = c.ready_next
            if e.ready_first == NULL:
                e.ready_last = NULL
            c.flags &= ~<uint32_t>CONNECTION_READY
            if c.flags & (CONNECTION_CLOSING | STOPPED) == 0:
                self.read(c)
            if c.flags & CONNECTION_READABLE and c.flags & (CONNECTION_CLOSING | STOPPED) == 0:
                connection_ready(e, c)
            if c == last:
                break

    cdef read(self, connection_t* c):
        cdef engine_t* e = &self.engine.e
        cdef bytearray inbox = self.inboxes[c.client_id]
        cdef size_t missing = 0
        cdef size_t n
        cdef bytes taken
        cdef char* block
        if c.partial_need > c.partial_bytes:
            missing = c.partial_need - c.partial_bytes
        taken = bytes(inbox[:missing + self.read_bytes])
        del inbox[:len(taken)]
        if not inbox and c.client_id not in self.ended:
            c.flags &= ~<uint32_t>CONNECTION_READABLE
        if not taken:
            if c.client_id in self.ended:
                connection_close(e, c, REASON_CLIENT_CLOSED)
            return
        if missing:
            missing = min(missing, <size_t>len(taken))
            memcpy(c.partial + c.partial_bytes, <char*>taken, missing)
            c.partial_bytes += <uint32_t>missing
            taken = taken[missing:]
            if e.shards > 1:
                engine_catch_up(e)
            if c.partial_bytes == c.partial_need:
                with nogil:
                    engine_on_partial(e, c)
            if taken and c.partial != NULL:
                if c.flags & CONNECTION_CLOSING == 0:
                    self.keep_behind(c, taken)
                taken = b""
        elif c.partial_bytes:
            taken = c.partial[:c.partial_bytes] + taken
            free(c.partial)
            c.partial = NULL
            c.partial_bytes = 0
        if taken:
            block = block_of(taken)
            n = len(taken)
            if e.shards > 1:
                engine_catch_up(e)
            with nogil:
                engine_on_bytes(e, c, block, n)
            if e.borrowed:
                flush(e)
            free(block)
        elif e.borrowed:
            flush(e)

    cdef keep_behind(self, connection_t* c, bytes data):
        cdef bytes joined = c.partial[:c.partial_bytes] + data
        free(c.partial)
        c.partial = block_of(joined)
        c.partial_bytes = <uint32_t>len(joined)
        c.partial_need = 0

    cdef void write(self, connection_t* c) noexcept:
        cdef engine_t* e = &self.engine.e
        cdef out_iov_t iov[IOVECS]
        cdef size_t total = 0
        cdef size_t n
        cdef uint32_t i, count
        budget = self.budgets.get(c.client_id)
        output = self.outputs[c.client_id]
        if c.flags & (CONNECTION_BLOCKED | CONNECTION_HELD) == 0:
            while c.spans_first < c.spans_end:
                count = out_gather(c, iov, IOVECS, &total)
                data = b"".join([(<char*>iov[i].base)[:iov[i].bytes] for i in range(count)])
                if budget is not None:
                    data = data[:budget]
                    budget -= len(data)
                    self.budgets[c.client_id] = budget
                output += data
                n = len(data)
                out_sent(&e.out, c, n)
                if n < total:
                    c.flags |= CONNECTION_BLOCKED
                    break
        if c.spans_first < c.spans_end:
            out_keep(&e.out, c)

    cdef close_connections(self):
        cdef engine_t* e = &self.engine.e
        cdef connection_t* c
        cdef connection_t* left = NULL
        while e.closing != NULL:
            c = e.closing
            e.closing = c.close_next
            if c.flags & (CONNECTION_READY | CONNECTION_STALLED | CONNECTION_HELD | CONNECTION_DIRTY):
                c.close_next = left
                left = c
            else:
                connection_free(e, c)
        e.closing = left

    # ---- the sublist, seen directly ----

    def match(self, bytes subject):
        """What a match finds: (plain, groups, remote).

        plain: sorted (client id, sid). groups: queue name -> (sorted local members, members on other shards). remote:
        set of other shards with plain interest, as bits.
        """
        cdef engine_t* e = &self.engine.e
        cdef message_t m
        self.message(&m, subject)
        sublist_match(e.account, m.subject, m.subject_bytes, m.hash, &e.match)
        return self.matched(&m)

    def route(self, bytes subject):
        """What a message would follow: the same, and whether it was a cached route."""
        cdef engine_t* e = &self.engine.e
        cdef message_t m
        cdef route_t* r
        cdef uint32_t i, j
        self.message(&m, subject)
        r = route_of(e, &m)
        if r == NULL:
            return (*self.matched(&m), False)
        plain = []
        i = 0
        for j in range(r.groups_count):
            if len({r.targets[i + k].subscription.sid[:r.targets[i + k].subscription.sid_bytes]
                    for k in range(r.groups[j])}) != 1:
                raise AssertionError("a run of a route has several sids")
            i += r.groups[j]
        if i != r.targets_count:
            raise AssertionError("the runs of a route are not its targets")
        for i in range(r.targets_count):
            if r.targets[i].connection != r.targets[i].subscription.connection:
                raise AssertionError("a target's connection is not its subscription's")
            plain.append(key_of(r.targets[i].subscription))
        groups = {}
        for i in range(r.queue_groups_count):
            for j in range(r.queue_groups[i].count):
                add_queue(groups, r.queues[r.queue_groups[i].first + j])
        return sorted(plain), sorted_groups(groups), interest_route(e, &m, r), True

    cdef void message(self, message_t* m, bytes subject):
        memset(m, 0, sizeof(message_t))
        m.account = self.engine.e.account
        m.subject = subject
        m.subject_bytes = <uint32_t>len(subject)
        m.hash = sb_hash(m.subject, m.subject_bytes, m.account.seed)

    cdef matched(self, message_t* m):
        cdef match_t* found = &self.engine.e.match
        cdef uint32_t i, j
        plain = [key_of(member_at(found.lists[i], j)) for i in range(found.lists_count)
                 for j in range(found.lists[i].count)]
        groups = {}
        numbers = {}
        for i in range(found.queues_count):
            add_queue(groups, found.queues[i].queue)
            name = found.queues[i].queue.name[:found.queues[i].queue.name_bytes]
            if numbers.setdefault(name, found.queues[i].group) != found.queues[i].group:
                raise AssertionError("one queue name has two groups")
        if len(numbers) != found.groups_count:
            raise AssertionError("groups are counted wrongly")
        return sorted(plain), sorted_groups(groups), interest_lookup(&self.engine.e, m)

    def watch(self, bytes subject):
        """Have a literal subject of $G in `told` when interest in it may have changed."""
        cdef tuple given = (self.told, subject)
        cdef watch_t* w = watch_add(&self.engine.e, self.engine.e.account, subject, <uint32_t>len(subject), called, <void*>given)
        if w == NULL:
            raise MemoryError("no room in the directory")
        self.watches[subject] = (<size_t>w, given)

    def unwatch(self, bytes subject):
        watch_remove(&self.engine.e, <watch_t*><size_t>self.watches[subject][0])
        del self.watches[subject]

    def remote_plain(self, uint32_t shard, bint wanted, bytes pattern):
        """Another shard has (or has not) a plain subscription of a pattern."""
        sublist_remote_plain(self.engine.e.account, shard, wanted, pattern, len(pattern))

    def remote_literal(self, uint32_t shard, bint wanted, bytes subject):
        """The same of a literal subject: in the directory."""
        cdef uint64_t hash = self.hash(subject)
        if wanted:
            directory_add(&self.engine.e.directory, hash, shard)
        else:
            directory_remove(&self.engine.e.directory, hash, shard)

    def remote_queue(self, uint32_t shard, uint32_t members, bytes subject, bytes queue):
        """Another shard has so many members of a queue group."""
        sublist_remote_queue(self.engine.e.account, shard, self.engine.e.shards, members, subject, len(subject), queue,
                             len(queue))

    def remote_forget(self, uint32_t shard):
        """Another shard is gone."""
        sublist_remote_forget(self.engine.e.account, shard)

    def hash(self, bytes subject):
        """The hash and fingerprint of a subject."""
        return sb_hash(subject, len(subject), self.engine.e.account.seed)

    def sizes(self):
        """What the sublist has allocated, and what waits, to prove that nothing is left."""
        cdef engine_t* e = &self.engine.e
        return {
            "root": e.account.root != NULL,
            "literals": sum([e.account.literals[i].count for i in range(LITERAL_PARTS)]),
            "literal_slots": sum([e.account.literals[i].capacity for i in range(LITERAL_PARTS)]),
            "patterns": e.account.patterns, "subscriptions": e.account.subscriptions,
            "expired": e.expired_count, "dead": e.dead_count, "garbage": e.garbage_count, "out_bytes": e.out.bytes_owned,
        }


cdef tuple key_of(subscription_t* sub):
    return sub.connection.client_id, sub.sid[:sub.sid_bytes - 1]


cdef add_queue(dict groups, queue_t* q):
    cdef uint32_t i
    members, remote = groups.setdefault(q.name[:q.name_bytes], ([], [0]))
    members.extend([key_of(member_at(&q.members, i)) for i in range(q.members.count)])
    remote[0] += q.remote_total


cdef dict sorted_groups(dict groups):
    return {name: (sorted(members), remote[0]) for name, (members, remote) in groups.items()}


cdef void called(void* given) noexcept nogil:
    with gil:
        (<tuple>given)[0].append((<tuple>given)[1])


cdef void flush(engine_t* e) noexcept nogil:
    """As the loop does: rings first, then what clients get."""
    cdef connection_t* c
    if e.shards > 1:
        if e.spilled_shards | e.control_spilled_shards:
            interest_drain_spills(e)
        interest_publish(e)
    while e.dirty != NULL:
        c = e.dirty
        e.dirty = c.dirty_next
        c.flags &= ~<uint32_t>CONNECTION_DIRTY
        with gil:
            (<Shard>e.io).write(c)
    engine_after_flush(e)
    if e.told_shards:
        interest_publish(e)
