# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Loops over single parts of hot/, as the broker calls them: native, without the GIL, no Python for an operation.

Each class has `run(passes)`: do the whole input so often and return the sum of what every operation gave (bytes,
targets), which the caller compares with what a plain model says. A pass leaves everything as it found it, so that
the instructions of one pass are those of any other. Memory is allocated in the constructors and by the code under
measurement, as in the broker.

    Parser      parse_next over a receive buffer
    Matcher     sublist_match, for each of a list of subjects
    Router      route_of, the same with the routes that are kept
    Shards      one engine, or two on one segment: bytes in, rings, bytes out; sockets only count what they are given
    Output      out_reserve, out_borrow, out_keep, out_gather on one connection
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t  # no-cython-lint
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from shardbroker.hot.bytes cimport SB_SLACK, sb_hash
from shardbroker.hot.connection cimport free_dead
from shardbroker.hot.engine cimport (
    RING_BATCH, Engine, engine_after_flush, engine_begin_turn, engine_catch_up, engine_end_turn, engine_on_bytes,
    engine_on_rings, route_of)
from shardbroker.hot.interest cimport interest_control, interest_drain_spills, interest_membership, interest_publish
from shardbroker.hot.model cimport CONNECTION_DIRTY, connection_t, route_t
from shardbroker.hot.outbound cimport (
    out_borrow, out_commit, out_drop, out_free_pools, out_gather, out_iov_t, out_keep, out_reserve, out_sent,
    outbound_t)
from shardbroker.hot.parser cimport PARSE_DONE, operation_t, parse_limits_t, parse_next
from shardbroker.hot.state cimport engine_t, flush_t, message_t
from shardbroker.hot.sublist cimport match_t, routes_free_dead, sublist_match

cdef enum:
    IOVECS_MAX = 512                    # as shard/loop.pyx


# ---- parser -----------------------------------------------------------------------------------------------------

cdef class Parser:
    """data: whole operations, at most a few hundred KiB, as one read brings them.

    The sum is of kind + length of subject, reply, queue, sid and payload over all operations.
    """
    cdef char* data
    cdef size_t n

    def __cinit__(self, bytes data):
        self.n = len(data)
        self.data = <char*>calloc(1, self.n + SB_SLACK)
        if self.data == NULL:
            raise MemoryError
        memcpy(self.data, <char*>data, self.n)

    def __dealloc__(self):
        free(self.data)

    def run(self, int passes):
        cdef parse_limits_t limits
        cdef operation_t op
        cdef uint64_t total = 0
        cdef int status = PARSE_DONE
        cdef int i
        cdef char* p
        cdef char* end = self.data + self.n
        memset(&op, 0, sizeof(op))
        limits.max_control_line = 4096
        limits.max_payload = 1 << 20
        limits.headers = True
        with nogil:
            for i in range(passes):  # no-cython-lint
                p = self.data
                while p < end:
                    op.subject_bytes = 0
                    op.queue_bytes = 0
                    op.sid_bytes = 0
                    op.reply_bytes = 0
                    op.payload_bytes = 0
                    status = parse_next(p, end, &limits, &op)
                    if status != PARSE_DONE:
                        break
                    total += <uint64_t>op.kind + op.subject_bytes + op.reply_bytes + op.queue_bytes + op.sid_bytes
                    total += op.payload_bytes
                    p += op.bytes
                if status != PARSE_DONE:
                    break
        if status != PARSE_DONE:
            raise AssertionError(f"parse_next said {status} at byte {p - self.data} of {self.n}")
        return total


# ---- sublist and routes -----------------------------------------------------------------------------------------

cdef struct subject_t:
    const char* text
    uint32_t bytes


cdef class _Subjects:
    """Subjects one behind the other, as C sees them."""
    cdef bytes joined
    cdef subject_t* items
    cdef int count

    def __cinit__(self, list subjects):
        cdef int i
        cdef size_t at = 0
        self.joined = b" ".join(subjects)
        self.count = len(subjects)
        self.items = <subject_t*>malloc(max(self.count, 1) * sizeof(subject_t))
        if self.items == NULL:
            raise MemoryError
        for i in range(self.count):
            self.items[i].text = <char*>self.joined + at
            self.items[i].bytes = <uint32_t>len(subjects[i])
            at += self.items[i].bytes + 1

    def __dealloc__(self):
        free(self.items)


cdef class Matcher:
    """Hash and sublist_match of each subject on a shard's sublist. The sum: subscriptions and queue groups found."""
    cdef Engine engine
    cdef _Subjects subjects

    def __cinit__(self, Engine engine, list subjects):
        self.engine = engine
        self.subjects = _Subjects(subjects)

    def run(self, int passes):
        cdef engine_t* e = &self.engine.e
        cdef match_t* m = &e.match
        cdef uint64_t total = 0
        cdef subject_t* s
        cdef uint32_t k
        cdef int i, j
        with nogil:
            for i in range(passes):  # no-cython-lint
                for j in range(self.subjects.count):
                    s = &self.subjects.items[j]
                    sublist_match(e.account, s.text, s.bytes, sb_hash(s.text, s.bytes, e.account.seed), m)
                    for k in range(m.lists_count):
                        total += m.lists[k].count
                    total += m.groups_count
        return total


cdef class Router:
    """Hash and route_of of each subject: the kept route or, as in the broker, match and perhaps a new route.

    The sum: subscriptions and queue groups found.
    """
    cdef Engine engine
    cdef _Subjects subjects

    def __cinit__(self, Engine engine, list subjects):
        self.engine = engine
        self.subjects = _Subjects(subjects)

    def run(self, int passes):
        cdef engine_t* e = &self.engine.e
        cdef message_t m
        cdef uint64_t total = 0
        cdef subject_t* s
        cdef route_t* r
        cdef uint32_t k
        cdef int i, j
        memset(&m, 0, sizeof(m))
        m.account = e.account
        with nogil:
            for i in range(passes):  # no-cython-lint
                for j in range(self.subjects.count):
                    s = &self.subjects.items[j]
                    m.subject = s.text
                    m.subject_bytes = s.bytes
                    m.hash = sb_hash(s.text, s.bytes, e.account.seed)
                    r = route_of(e, &m)
                    if r != NULL:
                        total += <uint64_t>r.targets_count + r.queue_groups_count
                    else:
                        for k in range(e.match.lists_count):
                            total += e.match.lists[k].count
                        total += e.match.groups_count
                routes_free_dead()
        return total


# ---- engines ----------------------------------------------------------------------------------------------------

cdef struct sockets_t:
    uint64_t bytes                      # that all sockets have taken


cdef void flush(engine_t* e) noexcept nogil:
    """As shard/loop.pyx does: rings, then sockets; these take everything and count it."""
    cdef out_iov_t iov[IOVECS_MAX]
    cdef connection_t* c
    cdef size_t total = 0
    cdef sockets_t* sockets = <sockets_t*>e.io
    if e.shards > 1:
        if e.spilled_shards | e.control_spilled_shards:
            interest_drain_spills(e)
        interest_publish(e)
    while e.dirty != NULL:
        c = e.dirty
        e.dirty = c.dirty_next
        c.flags &= ~<uint32_t>CONNECTION_DIRTY
        while c.spans_first < c.spans_end:
            out_gather(c, iov, IOVECS_MAX, &total)
            out_sent(&e.out, c, total)
            sockets.bytes += total
    engine_after_flush(e)


cdef void end_turn(engine_t* e) noexcept nogil:
    engine_end_turn(e)
    flush(e)
    if e.dead_count:
        free_dead(e)
    routes_free_dead()


cdef class Shards:
    """Turns of one shard that reads `data` from a client, and of a second one that reads the rings, if it is given.

    data: whole operations, no longer than one read. The sum: bytes that all clients' sockets were given.
    """
    cdef Engine home
    cdef Engine other
    cdef uint32_t slot
    cdef char* data
    cdef size_t n
    cdef uint64_t client_id

    def __cinit__(self, Engine home, uint32_t slot, uint64_t client_id, bytes data, Engine other=None):
        self.home = home
        self.other = other
        self.slot = slot
        self.client_id = client_id
        self.n = len(data)
        self.data = <char*>calloc(1, self.n + SB_SLACK)
        if self.data == NULL:
            raise MemoryError
        memcpy(self.data, <char*>data, self.n)

    def __dealloc__(self):
        free(self.data)

    def run(self, int passes):
        cdef engine_t* e = &self.home.e
        cdef engine_t* o = NULL
        cdef connection_t* c = self.home.find(self.slot, self.client_id)
        cdef sockets_t sockets
        cdef flush_t flush_before = e.flush
        cdef void* io_before = e.io
        cdef flush_t other_flush_before = NULL
        cdef void* other_io_before = NULL
        cdef int i
        cdef bint more
        if c == NULL:
            raise AssertionError("the client is gone")
        sockets.bytes = 0
        if self.other is not None:
            o = &self.other.e
            other_flush_before = o.flush
            other_io_before = o.io
            o.flush = flush
            o.io = &sockets
        e.flush = flush
        e.io = &sockets
        with nogil:
            for i in range(passes):  # no-cython-lint
                engine_begin_turn(e, e.now_ns)
                if e.shards > 1:
                    interest_membership(e)
                    interest_control(e)
                    engine_catch_up(e)
                engine_on_bytes(e, c, self.data, self.n)
                if e.borrowed:
                    flush(e)
                if e.shards > 1:
                    interest_control(e)
                    engine_on_rings(e, RING_BATCH)
                end_turn(e)
                more = o != NULL
                while more:
                    engine_begin_turn(o, o.now_ns)
                    interest_membership(o)
                    interest_control(o)
                    more = engine_on_rings(o, RING_BATCH)
                    end_turn(o)
        e.flush = flush_before
        e.io = io_before
        if o != NULL:
            o.flush = other_flush_before
            o.io = other_io_before
        if e.spilled_shards or e.waiting != NULL:
            raise AssertionError("a ring was too small for the input of a turn")
        return sockets.bytes


# ---- output -----------------------------------------------------------------------------------------------------

cdef class Output:
    """Frames of `frame_bytes` on one connection, `frames` a turn, then one gather and one send.

    how: "append" copies frames into the connection's memory, "borrow" refers to them where they are (no two of them
    neighbours), "keep" borrows and lets the socket take half, so that the rest is copied. The sum: bytes sent.
    """
    cdef outbound_t out
    cdef connection_t c
    cdef char* frame
    cdef size_t frame_bytes
    cdef int frames
    cdef int how

    def __cinit__(self, str how, size_t frame_bytes, int frames):
        memset(&self.out, 0, sizeof(self.out))
        memset(&self.c, 0, sizeof(self.c))
        self.c.spans = &self.c.spans_inline[0]
        self.c.spans_capacity = 1
        self.how = ("append", "borrow", "keep").index(how)
        self.frame_bytes = frame_bytes
        self.frames = frames
        self.frame = <char*>calloc(1, (frame_bytes + 64) * frames + SB_SLACK)
        if self.frame == NULL:
            raise MemoryError

    def __dealloc__(self):
        out_drop(&self.out, &self.c)
        out_free_pools(&self.out)
        free(self.frame)

    def run(self, int passes):
        cdef out_iov_t iov[IOVECS_MAX]
        cdef connection_t* c = &self.c
        cdef size_t n = self.frame_bytes
        cdef size_t total = 0
        cdef size_t part
        cdef uint64_t sent = 0
        cdef int i, j
        cdef char* p
        with nogil:
            for i in range(passes):  # no-cython-lint
                p = self.frame
                for j in range(self.frames):  # no-cython-lint
                    if self.how == 0:
                        memcpy(out_reserve(&self.out, c, n), p, n)
                        out_commit(c, n)
                    else:
                        out_borrow(c, p, n)
                    p += n + 64
                out_gather(c, iov, IOVECS_MAX, &total)
                if self.how == 2:
                    part = total // 2
                    out_sent(&self.out, c, part)
                    sent += part
                    out_keep(&self.out, c)
                    out_gather(c, iov, IOVECS_MAX, &total)
                out_sent(&self.out, c, total)
                sent += total
        if c.pending_bytes:
            raise AssertionError(f"{c.pending_bytes} bytes left")
        return sent
