# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The part of the load generator that must never be what limits: epoll and the raw NATS protocol, no GIL.

                 flows                                            sinks
    [publisher 0] --PUB--+                             +--MSG--> [subscriber 0]
    [publisher 1] --PUB--+--> [ server under test ] ---+--MSG--> [subscriber 1]
    [SUB writer ] --SUB--+                             +--MSG--> ...

A *flow* is a connection that writes as fast as TCP takes it: PUB frames (or SUB lines), then PING, and it
is done when the PONG is back. A *sink* is a connection that is subscribed and checks each message it gets.
Flows and sinks are dealt to *groups*; each group is one thread with its own epoll (`Stream.run`, called
once per group, releases the GIL), so the whole load can run in one thread on a machine with two cores.

Every payload starts with a 16-byte stamp {sequence, subject index, publisher, mark}, and when it has 24
bytes or more it ends with the sequence again. From it a sink checks: each publisher's sequence has no hole,
no repetition and no swap; the subject, sid and length in the header are those of the stamp; the last bytes
are the message's own. Any difference ends the run with the offending text (`LoadError`).

Units: times in ns of CLOCK_MONOTONIC, sizes in bytes. Connections arrive here as non-blocking descriptors
on which INFO/CONNECT/SUB/PONG are over (`shardbroker.bench.connect`); their owner closes them. Memory is allocated
in the constructors, never in the loops.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr, memcmp, memcpy, memmove, memset, strerror

from shardbroker.bench.net cimport (
    EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EVENTS_MAX, LINE_MAX, MARK,
    MSG_DONTWAIT, MSG_NOSIGNAL, REASON_BYTES, RECEIVE_BYTES, close, epoll_create1, epoll_event, epoll_wait,
    get_index, load_add, load_digits, load_get, load_now, load_set, load_stamp, load_watch, put_index, recv,
    send,
)

from shardbroker.bench import LoadError

load_digits()


cdef enum:
    BATCH_BYTES = 64 * 1024      # one write of a flow, when its frames are small
    BATCH_FRAMES_LEAST = 8       # frames of a batch when they are big
    GROUPS_MAX = 16
    FRAMES_PUB = 0
    FRAMES_SUB = 1
    WRITING = 0              # a flow's life: batches go out,
    FLUSHING = 1             # PING is out, PONG is awaited,
    FINISHED = 2             # PONG is here
    PONG_BYTES = 6           # "PONG\r\n", and PING is as long

cdef int64_t STALL_NS = 20_000_000_000   # nothing moved for so long: the run fails

cdef struct flow:
    int fd
    int group
    uint16_t publisher
    uint8_t state            # WRITING, FLUSHING, FINISHED
    uint8_t pong_owed
    char* buffer             # PONG\r\n, then `frames` frames of equal length (PUB) or as many as fit (SUB)
    size_t sent              # next byte to send
    size_t filled            # end of the batch
    uint64_t sequence        # frames written so far, the batch in the buffer included
    uint64_t limit           # frames at most
    uint32_t subject         # index of the next frame's subject
    int64_t finished_ns
    size_t carried           # bytes of a control line's beginning
    char carry[LINE_MAX]

cdef struct sink:
    int fd
    int group
    uint64_t* next           # per publisher: the least sequence acceptable now
    uint64_t received
    uint64_t received_bytes
    size_t carried
    char* carry              # beginning of a frame or line that the last read cut

cdef struct group_line:      # one cache line pair per group: written by its thread, read by all
    uint64_t received
    uint64_t sequence_sum
    uint64_t padding[14]

cdef struct run:
    # the shape; constant while it runs
    int kind                 # FRAMES_PUB, FRAMES_SUB
    bint indexed             # subjects end in a four-letter index
    bint sid_per_subject     # sid = index + 1 (one literal subscription each); else sid 1
    bint exact               # every sink gets every message (else one sink does: queue group)
    uint32_t subjects
    uint32_t step            # subject of the next frame = (subject + step) mod subjects
    uint32_t payload
    uint64_t copies          # deliveries per message over all sinks
    char head[256]           # "MSG subject 1 16\r\n", or "MSG subject." of indexed subjects
    size_t head_bytes
    char size_text[16]       # "16\r\n"
    size_t size_bytes
    size_t frame_least       # shortest frame a sink can get
    char line[256]           # "PUB subject 16\r\n" / "SUB subject "
    size_t line_bytes
    size_t index_at          # where the four letters stand in line
    uint32_t frames          # PUB frames in a batch
    size_t frame_bytes       # of one PUB
    size_t buffer_bytes
    int flows
    int sinks
    flow* flow
    sink* sink
    int publishers
    # the run
    int64_t deadline_ns
    uint64_t flows_finished  # all groups
    uint64_t published       # all groups, complete when flows_finished == flows
    uint64_t published_sum   # sum of 1..sequence of each flow
    uint64_t failed          # 1: reason is set; all groups end
    uint64_t last_receive_ns
    char reason[REASON_BYTES]
    group_line line_of[GROUPS_MAX]


cdef int fail(run* r, const char* what, const char* text, size_t text_bytes) noexcept nogil:
    """Record why the run fails (the first reason wins, roughly) and return -1."""
    cdef int shown = <int>(text_bytes if text_bytes < 200 else 200)
    if not load_get(&r.failed):
        snprintf(r.reason, REASON_BYTES, b"%s: '%.*s'", what, shown, text)
        load_set(&r.failed, 1)
    return -1


cdef int fail_errno(run* r, const char* what) noexcept nogil:
    cdef const char* text = strerror(errno)
    cdef size_t n = 0
    while text[n]:
        n += 1
    return fail(r, what, text, n)


cdef void flow_fill(run* r, flow* f, int64_t now) noexcept nogil:
    """Make the next batch, or the closing PING."""
    cdef char* at
    cdef char* end
    cdef load_stamp* stamp
    cdef uint32_t i, frames = r.frames, subject = f.subject, n
    cdef uint64_t sequence = f.sequence, tail, sid
    cdef char digits[24]
    f.sent = PONG_BYTES
    if f.pong_owed:
        f.pong_owed = 0
        f.sent = 0
    if sequence >= f.limit or now >= r.deadline_ns:
        memcpy(f.buffer + PONG_BYTES, b"PING\r\n", 6)
        f.filled = PONG_BYTES + 6
        f.state = FLUSHING
        return
    at = f.buffer + PONG_BYTES
    if r.kind == FRAMES_SUB:
        end = f.buffer + r.buffer_bytes - 300
        while at < end and sequence < f.limit:
            memcpy(at, r.line, r.line_bytes)
            put_index(at + r.index_at, subject)
            at += r.line_bytes
            subject += 1
            sequence += 1
            sid = sequence
            n = 0
            while sid:
                digits[n] = <char>(48 + sid % 10)
                sid //= 10
                n += 1
            while n:
                n -= 1
                at[0] = digits[n]
                at += 1
            at[0] = 13
            at[1] = 10
            at += 2
        f.filled = at - f.buffer
    else:
        if f.limit - sequence < frames:
            frames = <uint32_t>(f.limit - sequence)
        tail = r.line_bytes + r.payload - 8
        for i in range(frames):  # no-cython-lint
            stamp = <load_stamp*>(at + r.line_bytes)
            sequence += 1
            memcpy(&stamp.sequence, &sequence, 8)
            if r.indexed:
                put_index(at + r.index_at, subject)
                memcpy(&stamp.subject, &subject, 4)
                subject += r.step
                if subject >= r.subjects:
                    subject -= r.subjects
            if r.payload >= 24:
                memcpy(at + tail, &sequence, 8)
            at += r.frame_bytes
        f.filled = at - f.buffer
    f.sequence = sequence
    f.subject = subject


cdef int flow_write(run* r, flow* f, int epoll, int number) noexcept nogil:
    """One write; at a batch's end the next is made. 0, or -1 when the run has failed."""
    cdef ssize_t n = send(f.fd, f.buffer + f.sent, f.filled - f.sent, MSG_NOSIGNAL | MSG_DONTWAIT)
    if n < 0:
        if errno == EAGAIN or errno == EINTR:
            return 0
        return fail_errno(r, b"publisher write")
    f.sent += <size_t>n
    if f.sent < f.filled:
        return 0
    if f.state == WRITING:
        flow_fill(r, f, load_now())
    else:                                           # the PING is out: only the answer is of interest now
        load_watch(epoll, EPOLL_CTL_MOD, f.fd, EPOLLIN, number)
    return 0


cdef int flow_line(run* r, flow* f, const char* line, size_t n) noexcept nogil:
    if line[0] == b'P' and line[1] == b'I':         # PING: the answer goes with the next batch
        f.pong_owed = 1
    elif line[0] == b'P' and line[1] == b'O':
        if f.state != FLUSHING:
            return fail(r, b"a PONG that no one asked for", line, n)
        f.state = FINISHED
        f.finished_ns = load_now()
        load_add(&r.published, f.sequence)
        load_add(&r.published_sum, f.sequence * (f.sequence + 1) // 2)
        load_add(&r.flows_finished, 1)
    elif line[0] != b'I':                           # INFO may come again at any time
        return fail(r, b"publisher got", line, n)
    return 0


cdef int flow_read(run* r, flow* f) noexcept nogil:
    cdef ssize_t n = recv(f.fd, f.carry + f.carried, LINE_MAX - f.carried, MSG_DONTWAIT)
    cdef char* at = f.carry
    cdef char* end
    cdef char* stop
    if n <= 0:
        if n < 0 and (errno == EAGAIN or errno == EINTR):
            return 0
        if n == 0:
            return fail(r, b"server closed a publisher", f.carry, f.carried)
        return fail_errno(r, b"publisher read")
    stop = f.carry + f.carried + n
    while at < stop:
        end = <char*>memchr(at, 10, stop - at)
        if end == NULL:
            break
        if flow_line(r, f, at, end - at):
            return -1
        at = end + 1
    f.carried = stop - at
    if f.carried == LINE_MAX:
        return fail(r, b"line too long", at, 100)
    memmove(f.carry, at, f.carried)
    if f.pong_owed and f.state != WRITING and f.sent == f.filled:
        f.pong_owed = 0
        send(f.fd, b"PONG\r\n", 6, MSG_NOSIGNAL | MSG_DONTWAIT)
    return 0


cdef ssize_t sink_frames(run* r, sink* s, group_line* line, char* data, size_t count) noexcept nogil:
    """Check the frames in data[0:count]. Bytes of whole frames and lines, or -1: the run failed."""
    cdef char* at = data
    cdef char* stop = data + count
    cdef char* body
    cdef char* end
    cdef load_stamp stamp
    cdef int64_t index
    cdef uint64_t sid, wanted, closing, received = 0, total = 0
    cdef uint32_t payload = r.payload
    while at < stop:
        if at[0] == b'M':
            if <size_t>(stop - at) < r.frame_least:
                break
            if memcmp(at, r.head, r.head_bytes):
                return fail(r, b"not the header awaited", at, stop - at)
            body = at + r.head_bytes
            index = 0
            if r.indexed:
                index = get_index(body)
                if index < 0 or body[4] != 32:
                    return fail(r, b"subject", at, stop - at)
                body += 5
                sid = 0
                while 48 <= body[0] <= 57 and sid <= 99999999:   # 9 bytes at most: inside frame_least
                    sid = sid * 10 + <uint64_t>(body[0] - 48)
                    body += 1
                if body[0] != 32 or sid != (<uint64_t>index + 1 if r.sid_per_subject else 1):
                    return fail(r, b"sid", at, stop - at)
                body += 1
                if <size_t>(stop - body) < r.size_bytes + payload + 2:
                    break
                if memcmp(body, r.size_text, r.size_bytes):
                    return fail(r, b"length", at, stop - at)
                body += r.size_bytes
            end = body + payload
            if end[0] != 13 or end[1] != 10:
                return fail(r, b"no CR LF after the payload", at, stop - at)
            memcpy(&stamp, body, 16)
            if stamp.mark != MARK or stamp.publisher >= r.publishers or stamp.subject != <uint32_t>index:
                return fail(r, b"payload is not the subject's", at, stop - at)
            wanted = s.next[stamp.publisher]
            if stamp.sequence != wanted and (r.exact or stamp.sequence < wanted):
                if not load_get(&r.failed):
                    snprintf(r.reason, REASON_BYTES, b"order: publisher %u, message %llu came, "
                             b"%llu was due: sink %d", <unsigned int>stamp.publisher,
                             <unsigned long long>stamp.sequence, <unsigned long long>wanted,
                             <int>(s - r.sink))
                    load_set(&r.failed, 1)
                return -1
            s.next[stamp.publisher] = stamp.sequence + 1
            if payload >= 24:
                memcpy(&closing, end - 8, 8)
                if closing != stamp.sequence:
                    return fail(r, b"payload's end is another message's", at, stop - at)
            received += 1
            total += stamp.sequence
            at = end + 2
        else:
            end = <char*>memchr(at, 10, stop - at)
            if end == NULL:
                break
            if at[0] == b'P' and at[1] == b'I':
                send(s.fd, b"PONG\r\n", 6, MSG_NOSIGNAL | MSG_DONTWAIT)
            elif at[0] != b'I':
                return fail(r, b"subscriber got", at, end - at)
            at = end + 1
    s.received += received
    line.sequence_sum += total
    load_set(&line.received, line.received + received)
    return at - data


cdef int sink_read(run* r, sink* s, group_line* line, char* buffer) noexcept nogil:
    """One read, checked. Bytes read, or -1 when the run has failed."""
    cdef ssize_t n, used
    cdef size_t count
    if s.carried:
        memcpy(buffer, s.carry, s.carried)
    n = recv(s.fd, buffer + s.carried, RECEIVE_BYTES, MSG_DONTWAIT)
    if n <= 0:
        if n < 0 and (errno == EAGAIN or errno == EINTR):
            return 0
        if n == 0:
            return fail(r, b"server closed a subscriber", s.carry, s.carried)
        return fail_errno(r, b"subscriber read")
    count = s.carried + <size_t>n
    used = sink_frames(r, s, line, buffer, count)
    if used < 0:
        return -1
    s.carried = count - <size_t>used
    if s.carried > r.frame_least + LINE_MAX:
        return fail(r, b"line too long", buffer + used, 100)
    memcpy(s.carry, buffer + used, s.carried)
    s.received_bytes += <uint64_t>n
    return <int>n


cdef uint64_t received_by_all(run* r) noexcept nogil:
    cdef uint64_t total = 0
    cdef int i
    for i in range(GROUPS_MAX):
        total += load_get(&r.line_of[i].received)
    return total


cdef int run_group(run* r, int group, char* buffer) noexcept nogil:
    """The loop of one thread. 0, or -1 with r.reason set."""
    cdef epoll_event events[EVENTS_MAX]
    cdef int epoll = epoll_create1(0)
    cdef int i, n, number, moved, mine = 0, mine_sinks = 0, result = 0
    cdef int64_t progress_ns = load_now()
    cdef flow* f
    for i in range(r.flows):
        if r.flow[i].group == group:
            mine += 1
            flow_fill(r, &r.flow[i], progress_ns)
            load_watch(epoll, EPOLL_CTL_ADD, r.flow[i].fd, EPOLLIN | EPOLLOUT, i)
    for i in range(r.sinks):
        if r.sink[i].group == group:
            mine_sinks += 1
            load_watch(epoll, EPOLL_CTL_ADD, r.sink[i].fd, EPOLLIN, r.flows + i)
    while True:
        if load_get(&r.failed):
            result = -1
            break
        if load_get(&r.flows_finished) == <uint64_t>r.flows:
            if mine_sinks == 0 or received_by_all(r) >= r.published * r.copies:
                break
        n = epoll_wait(epoll, events, EVENTS_MAX, 10)
        if n < 0 and errno != EINTR:
            result = fail_errno(r, b"epoll_wait")
            break
        moved = 0
        for i in range(n):              # deliveries first: what is read here the server need not keep
            number = <int>events[i].data.u64
            if number >= r.flows:
                result = sink_read(r, &r.sink[number - r.flows], &r.line_of[group], buffer)
                if result < 0:
                    break
                moved += result
        if result < 0:
            break
        if moved:
            load_set(&r.last_receive_ns, <uint64_t>load_now())
        for i in range(n):
            number = <int>events[i].data.u64
            if number < r.flows:
                f = &r.flow[number]
                result = 0
                if events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP):
                    result = flow_read(r, f)
                if result == 0 and events[i].events & EPOLLOUT:
                    result = flow_write(r, f, epoll, number)
                if result < 0:
                    break
                moved += 1
        if result < 0:
            break
        if moved:
            progress_ns = load_now()
        elif load_now() - progress_ns > STALL_NS:
            if not load_get(&r.failed):
                snprintf(r.reason, REASON_BYTES,
                         b"no progress: %llu of %llu deliveries, %llu of %d publishers finished",
                         <unsigned long long>received_by_all(r), <unsigned long long>(r.published * r.copies),
                         <unsigned long long>load_get(&r.flows_finished), r.flows)
                load_set(&r.failed, 1)
            result = -1
            break
    close(epoll)
    return -1 if result < 0 else 0


cdef class Stream:
    """One load of flows and sinks; see the module's picture. Made, `run` once per group, read with `result`.

    flows, sinks: descriptors. subject: whole, or the part before the four letters when subjects > 1 (or
    `indexed`).
    copies: deliveries per message (sinks if exact; 1 for one queue group; 0 without sinks).
    limit: frames per flow at most. payload_bytes: 16 or more. groups: threads; of two or more, one half gets
    the flows and the other the sinks.
    """
    cdef run* r
    cdef char* buffers[GROUPS_MAX]
    cdef readonly int groups
    cdef int64_t started_ns

    def __cinit__(self, flows, sinks, *, bytes subject, int payload_bytes=16, int subjects=1,
                  bint indexed=False, bint wildcard=False, bint exact=True, uint64_t copies=0,
                  uint64_t limit=2 ** 62, int groups=1, bint subscribe=False, int step=1):
        cdef int i, j
        cdef flow* f
        cdef run* r
        cdef bytes text
        if not 16 <= payload_bytes <= 64 << 20 or not 1 <= groups <= GROUPS_MAX or len(subject) > 200:
            raise ValueError("payload_bytes, groups or subject out of range")
        if not 1 <= subjects <= 32 ** 4:
            raise ValueError("subjects out of range")
        r = self.r = <run*>calloc(1, sizeof(run))
        if r == NULL:
            raise MemoryError
        self.groups = groups
        r.indexed = indexed or subjects > 1
        r.kind = FRAMES_SUB if subscribe else FRAMES_PUB
        r.sid_per_subject = r.indexed and not wildcard
        r.exact = exact
        r.subjects = subjects
        r.step = step % subjects
        r.payload = payload_bytes
        r.copies = copies
        tail = b"aaaa" if r.indexed else b""
        size = b"%d\r\n" % payload_bytes
        text = b"MSG %s" % subject if r.indexed else b"MSG %s 1 %s" % (subject, size)
        r.head_bytes = len(text)
        memcpy(r.head, <const char*>text, r.head_bytes)
        r.size_bytes = len(size)
        memcpy(r.size_text, <const char*>size, r.size_bytes)
        r.frame_least = r.head_bytes + payload_bytes + 2 + (4 + 3 + r.size_bytes if r.indexed else 0)
        text = b"SUB %s%s " % (subject, tail) if subscribe else b"PUB %s%s %s" % (subject, tail, size)
        r.line_bytes = len(text)
        memcpy(r.line, <const char*>text, r.line_bytes)
        r.index_at = 4 + len(subject)
        r.frame_bytes = r.line_bytes + payload_bytes + 2
        r.frames = max(BATCH_BYTES // <int>r.frame_bytes, BATCH_FRAMES_LEAST)
        r.buffer_bytes = PONG_BYTES + max(<int>(r.frames * r.frame_bytes), BATCH_BYTES) + 16
        r.flows = len(flows)
        r.sinks = len(sinks)
        r.publishers = r.flows
        r.flow = <flow*>calloc(max(r.flows, 1), sizeof(flow))
        r.sink = <sink*>calloc(max(r.sinks, 1), sizeof(sink))
        if r.flow == NULL or r.sink == NULL:
            raise MemoryError
        for i in range(groups):
            self.buffers[i] = <char*>malloc(RECEIVE_BYTES + r.frame_least + 2 * LINE_MAX)
            if self.buffers[i] == NULL:
                raise MemoryError
        half = groups // 2
        for i in range(r.flows):
            f = &r.flow[i]
            f.fd = flows[i]
            f.group = i % half if half else 0
            f.publisher = i
            f.limit = limit
            # of indexed subjects each publisher begins elsewhere; a SUB writer has its own stretch of them
            f.subject = i * <uint32_t>limit if subscribe else i * <uint32_t>(subjects // r.flows)
            f.buffer = <char*>malloc(r.buffer_bytes)
            if f.buffer == NULL:
                raise MemoryError
            memset(f.buffer, b'x', r.buffer_bytes)
            memcpy(f.buffer, b"PONG\r\n", 6)
            if not subscribe:
                for j in range(<int>r.frames):
                    frame_init(r, f, j)
        for i in range(r.sinks):
            r.sink[i].fd = sinks[i]
            r.sink[i].group = half + i % (groups - half) if half else 0
            r.sink[i].next = <uint64_t*>calloc(max(r.flows, 1), 8)
            r.sink[i].carry = <char*>malloc(r.frame_least + 2 * LINE_MAX)
            if r.sink[i].next == NULL or r.sink[i].carry == NULL:
                raise MemoryError
            for j in range(r.flows):
                r.sink[i].next[j] = 1

    def start(self, double seconds):
        """Set the clock: flows stop at the first batch end after `seconds`."""
        self.started_ns = load_now()
        self.r.deadline_ns = self.started_ns + <int64_t>(seconds * 1e9)

    def run(self, int group):
        """Run one group to its end; call it from `groups` threads. LoadError when a check fails."""
        cdef int result
        cdef char* buffer = self.buffers[group]
        with nogil:
            result = run_group(self.r, group, buffer)
        if result:
            raise LoadError(self.r.reason.decode("utf-8", "backslashreplace"))

    def result(self):
        """Check the totals; then published, received, received_bytes, per_sink (counts) and seconds."""
        cdef run* r = self.r
        cdef uint64_t total = 0
        cdef int64_t ended_ns = 0
        cdef int i
        received = received_by_all(r)
        per_sink = [r.sink[i].received for i in range(r.sinks)]
        if received != r.published * r.copies:
            raise LoadError(f"{received} messages received, {r.published * r.copies} were due")
        for i in range(GROUPS_MAX):
            total += r.line_of[i].sequence_sum
        if r.copies and total != r.published_sum * r.copies:    # both modulo 2^64
            raise LoadError("some messages came twice and others not at all")
        if r.exact and any(count != r.published for count in per_sink):
            raise LoadError(f"sinks received {per_sink}, each was due {r.published}")
        for i in range(r.flows):
            ended_ns = max(ended_ns, r.flow[i].finished_ns)
        if r.copies:
            ended_ns = max(ended_ns, <int64_t>r.last_receive_ns)
        return {
            "published": r.published, "received": received,
            "received_bytes": sum([r.sink[i].received_bytes for i in range(r.sinks)]),
            "per_sink": per_sink, "seconds": (ended_ns - self.started_ns) / 1e9,
        }

    def __dealloc__(self):
        cdef int i
        if self.r == NULL:
            return
        for i in range(GROUPS_MAX):
            free(self.buffers[i])
        if self.r.flow != NULL:
            for i in range(self.r.flows):
                free(self.r.flow[i].buffer)
        if self.r.sink != NULL:
            for i in range(self.r.sinks):
                free(self.r.sink[i].next)
                free(self.r.sink[i].carry)
        free(self.r.flow)
        free(self.r.sink)
        free(self.r)


cdef void frame_init(run* r, flow* f, int j) noexcept:
    """Write what never changes of frame j of a batch; flow_fill writes the rest."""
    cdef char* at = f.buffer + PONG_BYTES + <size_t>j * r.frame_bytes
    cdef load_stamp stamp
    memset(&stamp, 0, sizeof(stamp))
    stamp.publisher = f.publisher
    stamp.mark = MARK
    memcpy(at, r.line, r.line_bytes)
    memcpy(at + r.line_bytes, &stamp, 16)
    memcpy(at + r.frame_bytes - 2, b"\r\n", 2)
