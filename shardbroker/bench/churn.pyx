# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What comes and goes: connections, and subscriptions.

    Lives:   connect -> INFO -> CONNECT, PING -> PONG -> close, `width` of them at a time. Unit: one whole life.
    Subscriptions: each connection holds `window` subscriptions; in turns of `batch` it subscribes to so many new subjects,
             unsubscribes from the oldest, and sends PING; the PONG ends the turn. Unit: one SUB with its UNSUB.
Both run without the GIL, on the board's line of their group; times (a life, a turn) go into a histogram.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr, memcpy

from shardbroker.bench.board cimport Board
from shardbroker.bench.net cimport (
    EPOLLIN, EPOLLOUT, EPOLL_CTL_ADD, EVENTS_MAX, LINE_MAX, LOAD_GROUPS_MAX, MSG_DONTWAIT, MSG_NOSIGNAL, RECEIVE_BYTES,
    close, epoll_create1, epoll_event, load_board, load_dial, load_digits, load_fail, load_fail_errno, load_get,
    load_histogram, load_line, load_now, load_record, load_set, load_wait, load_watch, put_index, recv, send,
)
from shardbroker.bench.wire cimport wire, wire_flush, wire_keep, wire_line, wire_make, wire_read

from shardbroker.bench import LoadError

load_digits()


cdef enum:
    CHURN_WIDTH_MAX = 1024

cdef int64_t WAIT_NS = 10_000_000

cdef struct life:
    int fd
    bint greeted             # INFO has been seen and CONNECT sent
    int64_t born_ns
    size_t have
    char text[LINE_MAX]

cdef struct lives:
    int width
    unsigned char[16] host   # 4 or 16 bytes
    size_t host_bytes
    uint16_t port            # network order, as are source addresses
    bint loopback            # of IPv4
    uint64_t limit
    int64_t started_ns
    int64_t deadline_ns
    int64_t stall_ns
    const char* hello
    size_t hello_bytes
    int group
    load_board* board
    load_histogram* latency
    life* life


cdef int life_begin(lives* c, life* one, int epoll, uint32_t turn) noexcept nogil:
    one.fd = load_dial(c.host, c.host_bytes, c.port, source_of(c, turn))
    if one.fd < 0:
        return load_fail_errno(c.board, b"connect")
    one.greeted = False
    one.have = 0
    one.born_ns = load_now()
    return load_watch(epoll, EPOLL_CTL_ADD, one.fd, EPOLLIN, <uint64_t>(one - c.life))


cdef int life_read(lives* c, life* one) noexcept nogil:
    """What the server says to a new connection. 1: its life is over, 0: it goes on, -1: the run has failed."""
    cdef ssize_t got = recv(one.fd, one.text + one.have, LINE_MAX - 1 - one.have, MSG_DONTWAIT)
    cdef char* at
    cdef char* end
    cdef char* stop
    if got < 0:
        return load_fail_errno(c.board, b"connecting")
    if got == 0:
        return load_fail(c.board, b"server closed a new connection", one.text, one.have)
    one.have += <size_t>got
    at = one.text
    stop = one.text + one.have
    while at < stop:
        end = <char*>memchr(at, 10, stop - at)
        if end == NULL:
            break
        if at[0] == b'I':
            if not one.greeted:
                one.greeted = True
                if send(one.fd, c.hello, c.hello_bytes, MSG_NOSIGNAL | MSG_DONTWAIT) != <ssize_t>c.hello_bytes:
                    return load_fail_errno(c.board, b"could not send CONNECT")
        elif at[0] == b'P' and at[1] == b'O' and one.greeted:
            return 1
        elif not (at[0] == b'P' and at[1] == b'I'):
            return load_fail(c.board, b"a new connection got", at, end - at)
        at = end + 1
    one.have = stop - at
    if one.have == LINE_MAX - 1:
        return load_fail(c.board, b"line too long", at, 100)
    memcpy(one.text, at, one.have)
    return 0


cdef int run_lives(lives* c) noexcept nogil:
    cdef epoll_event events[EVENTS_MAX]
    cdef int epoll = epoll_create1(0), i, n, living = 0, result = 0
    cdef uint32_t turn = 0
    cdef uint64_t begun = 0
    cdef life* one
    cdef int64_t now = load_now(), progress_ns
    cdef load_line* line = &c.board.line[c.group]
    while now < c.started_ns and not load_get(&c.board.failed):
        load_wait(epoll, events, 1, c.started_ns - now)
        now = load_now()
    progress_ns = now
    for i in range(c.width):
        if begun < c.limit and result == 0:
            result = life_begin(c, &c.life[i], epoll, turn)
            turn += 1
            begun += 1
            living += 1
    while living and result == 0 and not load_get(&c.board.failed):
        n = load_wait(epoll, events, EVENTS_MAX, WAIT_NS)
        if n == 0 and load_now() - progress_ns > c.stall_ns:
            result = load_fail(c.board, b"no answer to a new connection", b"", 0)
        for i in range(n):
            one = &c.life[events[i].data.u64]
            result = life_read(c, one)
            now = load_now()
            progress_ns = now
            if result < 0:
                break
            if result == 0:
                continue
            result = 0
            close(one.fd)
            one.fd = -1
            load_record(c.latency, now - one.born_ns)
            load_set(&line.count, line.count + 1)
            load_set(&line.sent, line.sent + 1)
            load_set(&line.last_ns, <uint64_t>now)
            if now >= c.deadline_ns or begun >= c.limit or load_get(&c.board.stop):
                living -= 1
            else:
                result = life_begin(c, one, epoll, turn)
                turn += 1
                begun += 1
                if result:
                    break
    for i in range(c.width):
        if c.life[i].fd >= 0:
            close(c.life[i].fd)
            c.life[i].fd = -1
    close(epoll)
    load_set(&line.finished, 1)
    return -1 if result < 0 or load_get(&c.board.failed) else 0


cdef uint32_t source_of(const lives* c, uint32_t turn) noexcept nogil:
    """127.0.0.1 .. 127.0.0.8 in turn when the server is on the loopback, in network order; 0 otherwise."""
    return 127 | (1 + turn % 8) << 24 if c.loopback else 0


cdef class Lives:
    """Connections that are made, greet and are closed, `width` at a time.

    host: 4 or 16 bytes. hello: CONNECT and PING. limit: how many at most. Of a server on the loopback, eight source addresses
    take turns, because one has only 28,000 ports.
    """
    cdef lives c
    cdef readonly Board board
    cdef object _hello

    def __cinit__(self, bytes host, int port, *, int width, bytes hello, uint64_t limit=2 ** 62, Board board=None,
                  int group=0, double stall_seconds=20.0):
        cdef lives* c = &self.c
        cdef int i
        if not 1 <= width <= CHURN_WIDTH_MAX or len(host) not in (4, 16) or not 0 <= group < LOAD_GROUPS_MAX:
            raise ValueError("width, host or group out of range")
        self.board = board if board is not None else Board()
        c.board = self.board.b
        c.group = group
        c.width = width
        memcpy(c.host, <const char*>host, len(host))
        c.host_bytes = len(host)
        c.port = <uint16_t>(port >> 8 | (port & 255) << 8)
        c.loopback = len(host) == 4 and host[0] == 127
        c.limit = limit
        c.stall_ns = <int64_t>(stall_seconds * 1e9)
        self._hello = hello
        c.hello = hello
        c.hello_bytes = len(hello)
        c.life = <life*>calloc(width, sizeof(life))
        c.latency = <load_histogram*>calloc(1, sizeof(load_histogram))
        if c.life == NULL or c.latency == NULL:
            raise MemoryError
        for i in range(width):
            c.life[i].fd = -1

    def start(self, double seconds, int64_t at_ns=0):
        """Set the clock: from now or `at_ns`; no new connection after `seconds`."""
        self.c.started_ns = at_ns or load_now()
        self.c.deadline_ns = self.c.started_ns + <int64_t>(min(seconds, 1e9) * 1e9)

    def run(self):
        """The loop, to its end. LoadError when a connection is refused or gets something else than PONG."""
        cdef int result
        with nogil:
            result = run_lives(&self.c)
        if result:
            raise LoadError(self.board.reason or "another part of the load failed")

    def part(self):
        """answered: whole lives; latency: histograms' bytes, from connect to PONG."""
        return {"answered": self.board.b.line[self.c.group].count,
                "latency": [(<char*>self.c.latency)[:sizeof(load_histogram)]]}

    def __dealloc__(self):
        free(self.c.life)
        free(self.c.latency)


cdef struct holder:
    wire w
    uint32_t number
    uint64_t sid             # the newest
    int64_t turn_ns          # when this turn began; 0: done

cdef struct subscriptions:
    int holders
    holder* holder
    uint32_t window
    uint32_t batch
    char* prefix
    size_t prefix_bytes
    uint64_t limit           # of each holder
    int64_t started_ns
    int64_t deadline_ns
    int64_t stall_ns
    int group
    load_board* board
    load_histogram* latency


cdef void holder_turn(subscriptions* c, holder* h, int64_t now) noexcept nogil:
    """Append a turn: SUBs, UNSUBs, PING. There is room for it."""
    cdef uint32_t i
    cdef char* at = h.w.out + h.w.out_filled
    for i in range(c.batch):  # no-cython-lint
        h.sid += 1
        memcpy(at, b"SUB ", 4)
        memcpy(at + 4, c.prefix, c.prefix_bytes)
        at += 4 + c.prefix_bytes
        put_index(at, h.number * 2 * c.window + <uint32_t>(h.sid % (2 * c.window)))
        at += 4
        at += snprintf(at, 32, b" %llu\r\n", <unsigned long long>h.sid)
    for i in range(c.batch):
        at += snprintf(at, 40, b"UNSUB %llu\r\n", <unsigned long long>(h.sid - c.batch + 1 + i - c.window))
    memcpy(at, b"PING\r\n", 6)
    h.w.out_filled = at + 6 - h.w.out
    h.turn_ns = now


cdef int holder_read(subscriptions* c, holder* h, char* buffer, int64_t* now) noexcept nogil:
    """Look for the turn's PONG. 1: it is here, 0: not yet, -1: the run has failed."""
    cdef ssize_t n = wire_read(&h.w, c.board, buffer, b"server closed a subscriber"), used
    cdef const char* at = buffer
    cdef const char* stop
    cdef int pongs = 0
    if n <= 0:
        return <int>n
    stop = buffer + n
    while at < stop:
        used = wire_line(&h.w, c.board, at, stop)        # a message would be wrong: nobody publishes
        if used < 0:
            return -1
        if used == 0:
            break
        if at[0] == b'P' and at[1] == b'O':
            pongs += 1
        at += used
    if wire_keep(&h.w, c.board, at, stop - at):
        return -1
    if pongs > 1 or pongs and h.turn_ns == 0:
        return load_fail(c.board, b"a PONG that no one asked for", b"", 0)
    if pongs:
        now[0] = load_now()
        load_record(c.latency, now[0] - h.turn_ns)
        h.turn_ns = 0
    return pongs


cdef int run_subscriptions(subscriptions* c, char* buffer) noexcept nogil:
    cdef epoll_event events[EVENTS_MAX]
    cdef int epoll = epoll_create1(0), i, n, got, living = c.holders, result = 0
    cdef int64_t now = load_now(), progress_ns
    cdef load_line* line = &c.board.line[c.group]
    cdef holder* h
    while now < c.started_ns and not load_get(&c.board.failed):
        load_wait(epoll, events, 1, c.started_ns - now)
        now = load_now()
    progress_ns = now
    for i in range(c.holders):
        h = &c.holder[i]
        load_watch(epoll, EPOLL_CTL_ADD, h.w.fd, EPOLLIN, i)
        holder_turn(c, h, now)
        if wire_flush(&h.w, c.board, epoll, i, b"the server is gone: subscriber write"):
            result = -1
    while living and result == 0 and not load_get(&c.board.failed):
        n = load_wait(epoll, events, EVENTS_MAX, WAIT_NS)
        if n < 0 and errno != EINTR:
            result = load_fail_errno(c.board, b"epoll_wait")
        if n <= 0 and load_now() - progress_ns > c.stall_ns:
            result = load_fail(c.board, b"no PONG after SUB and UNSUB", b"", 0)
        for i in range(n):
            h = &c.holder[events[i].data.u64]
            got = 0
            if events[i].events & ~<uint32_t>EPOLLOUT:
                got = holder_read(c, h, buffer, &now)
            if got > 0:
                progress_ns = now
                load_set(&line.count, line.count + c.batch)
                load_set(&line.sent, line.sent + c.batch)
                load_set(&line.last_ns, <uint64_t>now)
                if now >= c.deadline_ns or h.sid - c.window >= c.limit or load_get(&c.board.stop):
                    living -= 1
                else:
                    holder_turn(c, h, now)
            if got < 0 or wire_flush(&h.w, c.board, epoll, <int>(h - c.holder), b"the server is gone: subscriber write"):
                result = -1
                break
    close(epoll)
    load_set(&line.finished, 1)
    return -1 if result < 0 or load_get(&c.board.failed) else 0


cdef class Subscriptions:
    """Connections that each hold `window` subscriptions and replace them in turns of `batch`.

    holders: descriptors; number i, `holder_first` + i over all processes, has sids 1..window, subscribed as `subject_of`
    says. prefix: of the subjects, before the four letters.
    """
    cdef subscriptions c
    cdef char* buffer
    cdef readonly Board board

    def __cinit__(self, holders, *, bytes prefix, int window, int batch, uint64_t limit=2 ** 62, Board board=None,
                  int group=0, int holder_first=0, double stall_seconds=20.0):
        cdef subscriptions* c = &self.c
        cdef int i
        if not 1 <= batch <= window <= 1 << 18 or len(prefix) > 200 or not 0 <= group < LOAD_GROUPS_MAX:
            raise ValueError("batch, window, prefix or group out of range")
        if (holder_first + len(holders)) * 2 * window > 32 ** 4:
            raise ValueError("more than a million subjects")
        self.board = board if board is not None else Board()
        c.board = self.board.b
        c.group = group
        c.holders = len(holders)
        c.window = window
        c.batch = batch
        c.limit = limit
        c.stall_ns = <int64_t>(stall_seconds * 1e9)
        c.prefix = <char*>malloc(len(prefix) + 1)
        c.holder = <holder*>calloc(max(c.holders, 1), sizeof(holder))
        c.latency = <load_histogram*>calloc(1, sizeof(load_histogram))
        self.buffer = <char*>malloc(RECEIVE_BYTES + 2 * LINE_MAX)
        if c.prefix == NULL or c.holder == NULL or c.latency == NULL or self.buffer == NULL:
            raise MemoryError
        c.prefix_bytes = len(prefix)
        memcpy(c.prefix, <const char*>prefix, len(prefix))
        for i in range(c.holders):
            c.holder[i].number = holder_first + i
            c.holder[i].sid = window
            wire_make(&c.holder[i].w, holders[i], batch * (len(prefix) + 120) + 256, LINE_MAX)

    def start(self, double seconds, int64_t at_ns=0):
        """Set the clock: from now or `at_ns`; no new turn after `seconds`."""
        self.c.started_ns = at_ns or load_now()
        self.c.deadline_ns = self.c.started_ns + <int64_t>(min(seconds, 1e9) * 1e9)

    def run(self):
        """The loop, to its end. LoadError when a connection gets something else than PONG."""
        cdef int result
        with nogil:
            result = run_subscriptions(&self.c, self.buffer)
        if result:
            raise LoadError(self.board.reason or "another part of the load failed")

    def live(self):
        """For each connection the first and the last sid that it holds now."""
        cdef int i
        return [(self.c.holder[i].sid - self.c.window + 1, self.c.holder[i].sid) for i in range(self.c.holders)]

    def part(self):
        """answered: SUBs with their UNSUBs; latency: histograms' bytes, of turns."""
        return {"answered": self.board.b.line[self.c.group].count,
                "latency": [(<char*>self.c.latency)[:sizeof(load_histogram)]]}

    def __dealloc__(self):
        cdef int i
        if self.c.holder != NULL:
            for i in range(self.c.holders):
                free(self.c.holder[i].w.out)
                free(self.c.holder[i].w.carry)
        free(self.c.holder)
        free(self.c.prefix)
        free(self.c.latency)
        free(self.buffer)


def subject_index(int holder, int window, uint64_t sid):
    """The number that the subject of a holder's subscription ends in."""
    return holder * 2 * window + sid % (2 * window)
