# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The selector that is the data path: asyncio calls select(), and here the shard's sockets and rings are served.

One epoll set holds the client sockets (edge triggered, registered once for reading and writing), this shard's doorbell
and whatever descriptors asyncio watches (level triggered). select() runs turns without the GIL and returns to asyncio
only when that has something to do: a descriptor of its own, a timer, or an event for the control side.

    turn:  epoll_wait -> read each ready socket once, light ones first: recv, all rings, parse and route -> data rings -> timers
           -> hooks (streams) -> closed connections -> flush: publish rings, wake shards, and only then write sockets -> close sockets

While light connections are about, a turn either reads bulk or runs the hooks: each is some 20 us, and a request waits for one
of them instead of both.

Some facts about edges: after a read that filled less than it was given the socket is empty, and new bytes make a new
edge, so it is not read again; a socket that has hung up is read to its end. After a write that took less than it was
given, an edge says when there is room again.

Needs the GIL only to return. Never logs. Blocks only in epoll_wait.
"""
import selectors

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport close

from shardbroker.hot.bytes cimport SB_SLACK, sb_unlikely
from shardbroker.hot.connection cimport (
    connection_close, connection_free, connection_keep_behind, connection_ready, connection_sent)
from shardbroker.hot.deliver cimport mark_dirty
from shardbroker.hot.engine cimport (
    RING_BATCH, Engine, engine_after_flush, engine_begin_turn, engine_catch_up, engine_end_turn, engine_on_bytes,
    engine_on_partial, engine_on_rings,
    engine_resume, engine_rings_waiting, engine_sweep)
from shardbroker.hot.connection cimport free_dead
from shardbroker.hot.interest cimport (
    interest_control, interest_drain_spills, interest_membership, interest_publish)
from shardbroker.hot.memory cimport mem_alloc
from shardbroker.hot.model cimport (
    CONNECTION_AUTH_PENDING, CONNECTION_BLOCKED, CONNECTION_CLOSING, CONNECTION_DIRTY, CONNECTION_HANGUP,
    CONNECTION_HELD, CONNECTION_LINGERING, CONNECTION_PAUSED, CONNECTION_READABLE, CONNECTION_READY, CONNECTION_STALLED,
    CONNECTION_TRANSPORT, connection_t)
from shardbroker.hot.outbound cimport out_drop, out_gather, out_iov_t, out_keep
from shardbroker.hot.reasons cimport (
    REASON_CLIENT_CLOSED, REASON_READ_ERROR, REASON_SERVER_SHUTDOWN, REASON_SLOW_CONSUMER_PENDING_BYTES,
    REASON_WRITE_ERROR)
from shardbroker.hot.sink cimport sinks_free_dead
from shardbroker.hot.state cimport engine_t
from shardbroker.hot.sublist cimport routes_free_dead
from shardbroker.hot.transport cimport transport_end
from shardbroker.shm.counters cimport counter_loop_lag
from shardbroker.shm.doorbell cimport doorbell_awake, doorbell_drain, doorbell_set_asleep
from shardbroker.shm.layout cimport slot_beat

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLLERR
        EPOLLHUP
        EPOLLRDHUP
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD
        EPOLL_CLOEXEC
    unsigned int EPOLLET
    union epoll_data_t:
        void* ptr
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event* event)
    int epoll_wait(int epfd, epoll_event* events, int most, int timeout)

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    ssize_t readv(int fd, const iovec* iov, int count)

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_NOSIGNAL
        MSG_DONTWAIT
        SHUT_WR
    struct msghdr:
        void* msg_name
        uint32_t msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags
    ssize_t recv(int fd, void* p, size_t n, int flags)
    ssize_t send(int fd, const void* p, size_t n, int flags)
    ssize_t sendmsg(int fd, const msghdr* m, int flags)
    int shutdown(int fd, int how)

cdef enum:
    RECEIVE_BYTES = 256 << 10           # 256 KiB beat 32, 64 and 128: see docs/performance.md
    # Light and bulk: whose reads usually bring less than LIGHT_BYTES is served first; and when one of those was heard of
    # within LIGHT_NS, the others are read in bites, each some BITE_NS of work: 16 KiB of a flood, less of what is stored.
    # See docs/performance.md, fairness.
    LIGHT_BYTES = 4 << 10
    LIGHT_NS = 5000000
    RECEIVE_BYTES_BITE = 16 << 10
    RECEIVE_BYTES_BITE_LEAST = 2 << 10
    BITE_NS = 16000
    HEADROOM = 4096                     # before it: room for the beginning of a control line, and its verb and blanks
    CONTROL_LINE_BYTES = 64 << 10
    EVENTS_MAX = 512
    IOVECS_MAX = 512
    SLEEP_CAP_MS = 100                  # with rings: if a wake-up were ever lost, it costs this and is counted
    POLL_SPILL_MS = 1                   # how often a full ring is tried again
    LINGER_NS = 500000000
    MILLISECOND_NS = 1000000
    TAG_PYTHON = 1                      # in epoll's data: fd << 2 | tag; connections are pointers, aligned
    TAG_DOORBELL = 2
    TAGS = 3


cdef uint64_t clock() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t>t.tv_sec * 1000000000 + <uint64_t>t.tv_nsec


# ---- sockets ----------------------------------------------------------------------------------------------------

cdef void attach(engine_t* e, connection_t* c) noexcept nogil:
    """Watch a new connection's socket; TCP_NODELAY it has from its listener."""
    cdef loop_t* l = <loop_t*>e.io
    cdef epoll_event ev
    ev.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET
    ev.data.ptr = c
    if epoll_ctl(l.epoll, EPOLL_CTL_ADD, c.fd, &ev) < 0:
        connection_close(e, c, REASON_READ_ERROR)


cdef void detach(engine_t* e, connection_t* c) noexcept nogil:
    cdef loop_t* l = <loop_t*>e.io
    epoll_ctl(l.epoll, EPOLL_CTL_DEL, c.fd, NULL)
    close(c.fd)
    c.fd = -1


cdef void receive_failed(engine_t* e, connection_t* c, ssize_t n) noexcept nogil:
    if n == 0:
        connection_close(e, c, REASON_CLIENT_CLOSED)
    elif errno == EAGAIN:
        c.flags &= ~<uint32_t>CONNECTION_READABLE
    elif errno != EINTR:
        connection_close(e, c, REASON_READ_ERROR)


cdef inline size_t read_bytes(loop_t* l) noexcept nogil:
    """How much one read may bring: a bite, while light connections are about, and while anyone waits for room (what
    cannot be carried out yet has to be kept)."""
    if l.e.light_until_ns >= l.e.now_ns:
        return l.bite
    return RECEIVE_BYTES if l.e.waiting == NULL else RECEIVE_BYTES_BITE


cdef void read_connection(loop_t* l, connection_t* c) noexcept nogil:
    """One read, and everything that it brings."""
    cdef engine_t* e = l.e
    cdef char* buffer = l.buffer + l.headroom
    cdef iovec iov[2]
    cdef ssize_t n
    cdef size_t asked, missing, kept
    if c.partial_need > c.partial_bytes:
        # The rest of a long payload goes where its beginning is, what follows it to the shared buffer.
        missing = c.partial_need - c.partial_bytes
        iov[0].iov_base = c.partial + c.partial_bytes
        iov[0].iov_len = missing
        iov[1].iov_base = buffer
        iov[1].iov_len = read_bytes(l)
        asked = missing + iov[1].iov_len
        n = readv(c.fd, iov, 2)
        if n <= 0:
            receive_failed(e, c, n)
            return
        if <size_t>n < missing:
            c.partial_bytes += <uint32_t>n
            missing = n
            n = 0
        else:
            c.partial_bytes = c.partial_need
            n -= missing
        if e.shards > 1:
            engine_catch_up(e)
        if c.partial_bytes == c.partial_need or (
                c.partial_bytes + 1 == c.partial_need and c.partial[c.partial_bytes - 1] != c'\r'):
            engine_on_partial(e, c)     # whole; or wrong behind the payload, which is told without waiting
        if n:
            if c.partial != NULL:
                # Parsing stopped inside the kept input: the rest joins it.
                connection_keep_behind(e, c, buffer, n)
            else:
                engine_on_bytes(e, c, buffer, n)
        n += missing
    else:
        kept = c.partial_bytes
        if kept:
            # The beginning of a control line: parsed again with what follows.
            memcpy(buffer - kept, c.partial, kept)
            free(c.partial)
            c.partial = NULL
            c.partial_bytes = 0
        asked = read_bytes(l)
        if sb_unlikely(c.flags & CONNECTION_AUTH_PENDING != 0 and asked > RECEIVE_BYTES_BITE):
            asked = RECEIVE_BYTES_BITE       # what comes behind a CONNECT that is being looked at has to be kept
        n = recv(c.fd, buffer, asked, MSG_DONTWAIT)
        if n <= 0:
            if kept:
                connection_keep_behind(e, c, buffer - kept, kept)
            receive_failed(e, c, n)
            return
        if e.shards > 1:
            engine_catch_up(e)
        engine_on_bytes(e, c, buffer - kept, kept + n)
    if <size_t>n < asked and c.flags & CONNECTION_HANGUP == 0:
        c.flags &= ~<uint32_t>CONNECTION_READABLE
    if c.client_id != e.reader:
        e.reader = c.client_id
        e.alone_since_ns = e.now_ns
    if <size_t>n == asked and n < RECEIVE_BYTES_BITE:
        n = RECEIVE_BYTES_BITE          # a small bite that was filled: there is more, and that makes nobody light
    c.read_bytes_usual += (<uint32_t>n >> 3) - (c.read_bytes_usual >> 3)
    if c.read_bytes_usual < LIGHT_BYTES:
        e.light_until_ns = e.now_ns + LIGHT_NS
    if e.borrowed:
        flush(e)                        # output refers to the buffer that the next read overwrites


cdef void read_lingering(loop_t* l, connection_t* c) noexcept nogil:
    """Throw input away until the peer has ended too, so that our last bytes reach it instead of a reset."""
    cdef ssize_t n = recv(c.fd, l.buffer, RECEIVE_BYTES, MSG_DONTWAIT)
    if n > 0 or (n < 0 and errno == EINTR):
        return
    if n < 0 and errno == EAGAIN:
        c.flags &= ~<uint32_t>CONNECTION_READABLE
        return
    c.flags &= ~<uint32_t>(CONNECTION_LINGERING | CONNECTION_READABLE)
    c.close_next = l.e.closing
    l.e.closing = c


cdef void write_connection(engine_t* e, connection_t* c) noexcept nogil:
    """Give the socket what it takes; keep the rest. A receiver that is too far behind is cut."""
    cdef out_iov_t iov[IOVECS_MAX]
    cdef msghdr m
    cdef uint32_t count
    cdef size_t total
    cdef ssize_t n
    if sb_unlikely(c.flags & CONNECTION_TRANSPORT != 0):
        if c.flags & (CONNECTION_BLOCKED | CONNECTION_HELD | CONNECTION_CLOSING) == 0:
            connection_ready(e, c)      # the control side takes it (hot/transport)
    elif c.flags & (CONNECTION_BLOCKED | CONNECTION_HELD | CONNECTION_LINGERING) == 0:
        while c.spans_first < c.spans_end:
            count = out_gather(c, iov, IOVECS_MAX, &total)
            if count == 1:
                n = send(c.fd, iov[0].base, total, MSG_NOSIGNAL | MSG_DONTWAIT)
            else:
                memset(&m, 0, sizeof(m))
                m.msg_iov = <iovec*>&iov[0]
                m.msg_iovlen = count
                n = sendmsg(c.fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT)
            if n < 0:
                if errno == EINTR:
                    continue
                if errno != EAGAIN:
                    out_drop(&e.out, c)
                    connection_close(e, c, REASON_WRITE_ERROR)
                    return
                n = 0
            connection_sent(e, c, n)
            if <size_t>n < total:
                c.flags |= CONNECTION_BLOCKED
                break
    if c.spans_first == c.spans_end:
        c.write_deadline_ns = 0
        return
    out_keep(&e.out, c)
    if c.write_deadline_ns == 0:
        c.write_deadline_ns = e.now_ns + e.limits.write_deadline_ns
        c.write_deadline_bytes = c.pending_bytes
    if sb_unlikely(c.pending_bytes > e.limits.max_pending) and c.flags & CONNECTION_CLOSING == 0:
        e.stats.slow_consumers += 1
        connection_close(e, c, REASON_SLOW_CONSUMER_PENDING_BYTES)


cdef void flush(engine_t* e) noexcept nogil:
    """Publish rings, wake shards, then write sockets: nobody can learn of what others cannot see yet."""
    cdef connection_t* c
    cdef connection_t* first
    if e.shards > 1:
        if e.spilled_shards | e.control_spilled_shards:
            interest_drain_spills(e)
        interest_publish(e)
    while e.dirty != NULL:
        # The last that was marked is the first in the list. It may have a PONG, which is to follow what the others get.
        first = NULL
        while e.dirty != NULL:
            c = e.dirty
            e.dirty = c.dirty_next
            c.dirty_next = first
            first = c
        while first != NULL:
            c = first
            first = c.dirty_next
            c.flags &= ~<uint32_t>CONNECTION_DIRTY
            write_connection(e, c)
    engine_after_flush(e)
    if sb_unlikely(e.told_shards != 0):
        interest_publish(e)             # receipts for what has just been written


cdef bint lingers(connection_t* c) noexcept nogil:
    """Whether a closed connection was told why, and may have input that we have not read."""
    return (c.close_reason != REASON_CLIENT_CLOSED and c.close_reason != REASON_READ_ERROR
            and c.close_reason != REASON_WRITE_ERROR and c.close_reason != REASON_SERVER_SHUTDOWN
            and c.pending_bytes == 0 and c.flags & CONNECTION_HANGUP == 0)


cdef void close_connections(engine_t* e) noexcept nogil:
    """Close the sockets of connections that are done with, and free them once they are in no list."""
    cdef connection_t* c
    cdef connection_t* left = NULL
    while e.closing != NULL:
        c = e.closing
        e.closing = c.close_next
        if c.flags & (CONNECTION_READY | CONNECTION_STALLED | CONNECTION_HELD | CONNECTION_DIRTY):
            c.close_next = left
            left = c
        elif c.flags & CONNECTION_TRANSPORT:
            transport_end(e, c)
            connection_free(e, c)
        elif c.write_deadline_ns == 0 and lingers(c):
            shutdown(c.fd, SHUT_WR)
            c.flags |= CONNECTION_LINGERING | CONNECTION_READABLE
            c.write_deadline_ns = e.now_ns + LINGER_NS
            connection_ready(e, c)
        else:
            detach(e, c)
            connection_free(e, c)
    e.closing = left


# ---- turns ------------------------------------------------------------------------------------------------------

cdef void on_event(loop_t* l, epoll_event* ev) noexcept nogil:
    cdef connection_t* c
    if ev.data.u64 & TAGS == 0:
        c = <connection_t*>ev.data.ptr
        if ev.events & EPOLLOUT and c.flags & CONNECTION_BLOCKED:
            c.flags &= ~<uint32_t>CONNECTION_BLOCKED
            mark_dirty(l.e, c)
        if ev.events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            c.flags |= CONNECTION_HANGUP | CONNECTION_READABLE
            connection_ready(l.e, c)
        elif ev.events & EPOLLIN:
            c.flags |= CONNECTION_READABLE
            connection_ready(l.e, c)
    elif ev.data.u64 & TAGS == TAG_DOORBELL:
        doorbell_drain(<int>(ev.data.u64 >> 2))
        if <int>(ev.data.u64 >> 2) != l.eventfd:
            l.e.hooks_at_ns = 0
    elif l.python_count < PYTHON_EVENTS_MAX:
        l.python_fds[l.python_count] = <int>(ev.data.u64 >> 2)
        l.python_masks[l.python_count] = ev.events
        l.python_count += 1


cdef void read_one(loop_t* l, connection_t* c) noexcept nogil:
    """One read, if it may be read; back into the list when there may be more."""
    if c.flags & CONNECTION_LINGERING:
        read_lingering(l, c)
    elif c.flags & (CONNECTION_CLOSING | CONNECTION_PAUSED | CONNECTION_STALLED | CONNECTION_HELD) == 0:
        read_connection(l, c)
    if c.flags & CONNECTION_READABLE and c.flags & (CONNECTION_PAUSED | CONNECTION_STALLED | CONNECTION_HELD) == 0:
        if c.flags & CONNECTION_CLOSING == 0 or c.flags & CONNECTION_LINGERING:
            connection_ready(l.e, c)


cdef void read_bite(loop_t* l, connection_t* c) noexcept nogil:
    """One small read, and what the next is to be, by what this one cost."""
    cdef uint64_t spent = clock()
    read_one(l, c)
    spent = clock() - spent
    if spent > BITE_NS:
        l.bite = l.bite * BITE_NS // spent
        if l.bite < RECEIVE_BYTES_BITE_LEAST:
            l.bite = RECEIVE_BYTES_BITE_LEAST
    elif c.flags & CONNECTION_READABLE:
        l.bite += l.bite // 8
        if l.bite > RECEIVE_BYTES_BITE:
            l.bite = RECEIVE_BYTES_BITE


cdef void read_ready(loop_t* l, bint bitten) noexcept nogil:
    """One read from each connection that was ready when the turn began. Those that send little come first, and what
    they brought is written before the others' bulk is read, so that a request does not wait for a flood. When the last
    turn has bitten, bulk stays where it is, and this turn is the hooks'."""
    cdef engine_t* e = l.e
    cdef connection_t* c
    cdef connection_t* following = e.ready_first
    cdef connection_t* bulk = NULL
    cdef connection_t** bulk_end = &bulk
    e.ready_first = NULL
    e.ready_last = NULL
    while following != NULL:
        c = following
        following = c.ready_next
        if c.read_bytes_usual >= LIGHT_BYTES:
            bulk_end[0] = c             # READY until it is read: in this list or in the engine's
            bulk_end = &c.ready_next
        else:
            c.flags &= ~<uint32_t>CONNECTION_READY
            read_one(l, c)
    bulk_end[0] = NULL
    if bulk != NULL and e.dirty != NULL:
        flush(e)
    while bulk != NULL:
        c = bulk
        bulk = c.ready_next
        c.flags &= ~<uint32_t>CONNECTION_READY
        if e.light_until_ns < e.now_ns:
            read_one(l, c)
        elif bitten and e.hooks_at_ns <= e.now_ns:
            connection_ready(e, c)
        else:
            l.bitten = True
            read_bite(l, c)


cdef void end_turn(loop_t* l) noexcept nogil:
    cdef engine_t* e = l.e
    if e.waiting != NULL:
        engine_resume(e)
    if not l.bitten and engine_end_turn(e):     # bitten: the next turn begins at once, see has_work
        l.more = True
    flush(e)
    if e.waiting != NULL and e.spilled_shards | e.control_spilled_shards == 0:
        engine_resume(e)
    if e.closing != NULL:
        close_connections(e)
    if e.dead_count:
        free_dead(e)
    if e.sinks_dead != NULL:
        sinks_free_dead(e)
    routes_free_dead()


cdef bint has_work(loop_t* l) noexcept nogil:
    """Whether the next turn has something to do without waiting."""
    cdef engine_t* e = l.e
    return (l.more or e.ready_first != NULL or e.dirty != NULL or e.reaping != NULL or e.closing != NULL
            or e.told_shards or e.wake_shards or e.events_count or e.hooks_at_ns == 0)


cdef int sleep_ms(loop_t* l, uint64_t now, uint64_t deadline) noexcept nogil:
    """How long epoll_wait may wait."""
    cdef engine_t* e = l.e
    cdef uint64_t until = deadline if deadline < e.sweep_next_ns else e.sweep_next_ns
    cdef uint64_t ms
    if e.hooks_at_ns < until:
        until = e.hooks_at_ns
    if until <= now:
        return 0
    ms = (until - now + MILLISECOND_NS - 1) // MILLISECOND_NS
    if e.waiting != NULL or e.spilled_shards | e.control_spilled_shards:
        ms = POLL_SPILL_MS
    elif e.shards > 1 and ms > SLEEP_CAP_MS:
        ms = SLEEP_CAP_MS
    return <int>ms if ms < 1000 else 1000


cdef int wait(loop_t* l, epoll_event* events, uint64_t deadline) noexcept nogil:
    """Wait for something to do. Before sleeping, say so and look at the rings once more."""
    cdef engine_t* e = l.e
    cdef uint64_t now
    cdef uint64_t spin_until
    cdef int ms, n
    if has_work(l):
        return epoll_wait(l.epoll, events, EVENTS_MAX, 0)
    now = clock()
    ms = sleep_ms(l, now, deadline)
    if ms == 0:
        return epoll_wait(l.epoll, events, EVENTS_MAX, 0)
    if e.limits.spin_ns:
        spin_until = now + e.limits.spin_ns
        while now < spin_until:
            n = epoll_wait(l.epoll, events, EVENTS_MAX, 0)
            if n or (e.shards > 1 and engine_rings_waiting(e)):
                return n
            now = clock()
    if e.shards == 1:
        return epoll_wait(l.epoll, events, EVENTS_MAX, ms)
    doorbell_set_asleep(e.slot)
    if engine_rings_waiting(e):
        doorbell_awake(e.slot)
        return epoll_wait(l.epoll, events, EVENTS_MAX, 0)
    n = epoll_wait(l.epoll, events, EVENTS_MAX, ms)
    if n == 0 and engine_rings_waiting(e):
        # Slept out with work waiting. Its writer may be about to ring: only if it does not, a wake-up was lost.
        n = epoll_wait(l.epoll, events, EVENTS_MAX, 1)
        if n == 0 and e.slot.asleep:
            e.stats.wakeups_missed += 1
    doorbell_awake(e.slot)
    return n


cdef void run(loop_t* l, uint64_t deadline) noexcept nogil:
    """Turns, until asyncio or the control side has something to do, or the deadline has come."""
    cdef epoll_event events[EVENTS_MAX]
    cdef engine_t* e = l.e
    cdef uint64_t started
    cdef bint bitten
    cdef int i, n
    while True:
        if e.dirty != NULL or e.told_shards or e.wake_shards:
            flush(e)                    # what the control side has queued
        n = wait(l, events, deadline)
        started = clock()
        engine_begin_turn(e, started)
        slot_beat(e.slot, started)
        e.stats.turns += 1
        l.more = False
        bitten = l.bitten
        l.bitten = False
        for i in range(n):
            on_event(l, &events[i])
        if e.shards > 1:
            interest_membership(e)
            interest_control(e)
        if e.ready_first != NULL:
            read_ready(l, bitten)
        if e.shards > 1:
            interest_control(e)
            if engine_on_rings(e, RING_BATCH):
                l.more = True
        if e.sweep_next_ns <= e.now_ns:
            engine_sweep(e)
        end_turn(l)
        counter_loop_lag(e.stats, clock() - started)
        if l.python_count or e.events_count or e.now_ns >= deadline or n < 0:
            return                      # n < 0: a signal, for Python's handlers
        if e.snapshots_awaited == 0 and not l.ready_told:
            l.ready_told = True
            return


cdef class Selector:
    """A selector for asyncio.SelectorEventLoop that serves `engine` while it waits.

    on_events: called from select() with Engine.take_events() whenever there are any. eventfd: this shard's doorbell,
    -1 with one shard. control_line_max: the largest max_control_line, in bytes, that the engine will ever be given.
    Shard thread only.
    """

    def __cinit__(self, Engine engine, on_events, int eventfd=-1, size_t control_line_max=CONTROL_LINE_BYTES):
        cdef epoll_event ev
        memset(&self.l, 0, sizeof(loop_t))
        self.engine = engine
        self.on_events = on_events
        self.keys = {}
        self.l.e = &engine.e
        self.l.eventfd = eventfd
        self.l.bite = RECEIVE_BYTES_BITE
        self.l.headroom = control_line_max + HEADROOM
        self.l.buffer = <char*>mem_alloc(self.l.headroom + RECEIVE_BYTES + SB_SLACK)
        self.l.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.l.epoll < 0:
            raise OSError(errno, "epoll_create1")
        if eventfd >= 0:
            ev.events = EPOLLIN
            ev.data.u64 = <uint64_t>eventfd << 2 | TAG_DOORBELL
            if epoll_ctl(self.l.epoll, EPOLL_CTL_ADD, eventfd, &ev) < 0:
                raise OSError(errno, "epoll_ctl")
        engine.e.io = &self.l
        engine.e.flush = flush
        engine.attach = attach
        engine.detach = detach
        engine.e.now_ns = clock()

    def __dealloc__(self):
        if self.l.epoll > 0:
            close(self.l.epoll)
        free(self.l.buffer)

    def fileno(self):
        return self.l.epoll

    def watch_hooks(self, int eventfd):
        """From now on, when a helper thread writes to this (non-blocking) eventfd, the engine's hooks run."""
        cdef epoll_event ev
        ev.events = EPOLLIN
        ev.data.u64 = <uint64_t>eventfd << 2 | TAG_DOORBELL
        if epoll_ctl(self.l.epoll, EPOLL_CTL_ADD, eventfd, &ev) < 0:
            raise OSError(errno, "epoll_ctl")

    # The interface of selectors.BaseSelector

    def register(self, fileobj, events, data=None):
        cdef epoll_event ev
        cdef int fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        if fd in self.keys:
            raise KeyError(f"{fileobj!r} is already registered")
        key = selectors.SelectorKey(fileobj, fd, events, data)
        ev.events = (EPOLLIN if events & selectors.EVENT_READ else 0) | (EPOLLOUT if events & selectors.EVENT_WRITE else 0)
        ev.data.u64 = <uint64_t>fd << 2 | TAG_PYTHON
        if epoll_ctl(self.l.epoll, EPOLL_CTL_ADD, fd, &ev) < 0:
            raise OSError(errno, "epoll_ctl")
        self.keys[fd] = key
        return key

    def unregister(self, fileobj):
        cdef int fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        key = self.keys.pop(fd)
        epoll_ctl(self.l.epoll, EPOLL_CTL_DEL, fd, NULL)
        return key

    def modify(self, fileobj, events, data=None):
        self.unregister(fileobj)
        return self.register(fileobj, events, data)

    def get_map(self):
        return None if self.closed else self.keys

    def get_key(self, fileobj):
        if self.closed:
            raise RuntimeError("selector is closed")
        return self.keys[fileobj if isinstance(fileobj, int) else fileobj.fileno()]

    def close(self):
        if not self.closed:
            self.closed = True
            self.keys.clear()

    def select(self, timeout=None):
        """Serve the shard until asyncio is needed, `timeout` seconds at the most. [(key, events)] that are ready."""
        cdef uint64_t deadline = <uint64_t>-1
        cdef uint64_t now = clock()
        cdef uint32_t i
        cdef list ready = []
        if timeout is not None:
            deadline = now + <uint64_t>(max(0.0, timeout) * 1e9)
        self.l.python_count = 0
        self.engine.e.now_ns = now
        self.engine.check_ready()
        with nogil:
            run(&self.l, deadline)
        self.engine.e.stats.turns_python += 1
        self.engine.check_ready()
        if self.engine.e.events_count:
            self.on_events(self.engine.take_events())
            with nogil:
                end_turn(&self.l)
        for i in range(self.l.python_count):
            key = self.keys.get(self.l.python_fds[i])
            if key is None:
                continue
            events = 0
            if self.l.python_masks[i] & ~<uint32_t>EPOLLOUT:
                events |= selectors.EVENT_READ
            if self.l.python_masks[i] & ~<uint32_t>EPOLLIN:
                events |= selectors.EVENT_WRITE
            if events & key.events:
                ready.append((key, events & key.events))
        return ready
