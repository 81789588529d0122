# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The part of the load generator that must never be what limits: epoll and the raw NATS protocol, no GIL.

                 flows                                            sinks
    [publisher 0] --PUB--+                             +--MSG--> [subscriber 0]
    [publisher 1] --PUB--+--> [ server under test ] ---+--MSG--> [subscriber 1]
    [SUB writer ] --SUB--+                             +--MSG--> ...

A *flow* is a connection that writes PUB frames (or SUB lines), then PING, and it is done when the PONG is back:
as fast as TCP takes it (closed loop), or at a `rate` (open loop). A *sink* is a connection that is subscribed
and checks each message it gets. Flows and sinks are dealt to *groups*; a group is one thread or one process with
its own epoll (`Stream.run`, called once per group, releases the GIL). What groups tell each other is on the
board (net.h), so one process can do the whole load, or any number of them a part each.

Every payload starts with a 16-byte stamp {sequence, subject index, publisher, mark}, and when it has 24
bytes or more it ends with the sequence again; between them are letters x. From it a sink checks: each publisher's
sequence has no hole, no repetition and no swap (`exact`; else it grows, and counts and sums agree in the end);
the subject, sid, headers and length are those of the stamp; every byte of the payload. Any difference ends the run with
the offending text (`LoadError`).

In an open loop message n of publisher p is due at start + (n - 1 + p / publishers) * period, whenever it was
really written; latencies count from then to the read that brought the message, so a stalled server is charged
for every message that it kept from being sent (no coordinated omission). How late the writes were is in
`lateness`: where that is much, the generator was what limited.

Sizes may differ: frames are made once, `sizes` in turn; message n has size (n - 1) mod len(sizes).

Units: times in ns of CLOCK_MONOTONIC, sizes in bytes. Connections arrive here as non-blocking descriptors
on which INFO/CONNECT/SUB/PONG are over (`shardbroker.bench.connect`); their owner closes them. Memory is allocated
in the constructors, never in the loops.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr, memcmp, memcpy, memmove, memset

from shardbroker.bench.board cimport Board
from shardbroker.bench.net cimport (
    EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EVENTS_MAX, LINE_MAX,
    LOAD_GROUPS_MAX, LOAD_REASON_BYTES, MARK, MSG_DONTWAIT, MSG_NOSIGNAL, RECEIVE_BYTES, close, epoll_create1,
    epoll_event, get_index, load_board, load_claim, load_digits, load_fail, load_fail_errno, load_get,
    load_histogram, load_line, load_mix, load_now, load_record, load_set, load_stamp, load_wait, load_watch,
    put_index, recv, send,
)

from shardbroker.bench import LoadError

load_digits()


cdef enum:
    BATCH_BYTES = 64 * 1024      # one write of a flow, when its frames are small
    BATCH_FRAMES_LEAST = 8       # frames of a batch when they are big
    FRAMES_PUB = 0
    FRAMES_SUB = 1
    WRITING = 0              # a flow's life: batches go out,
    FLUSHING = 1             # PING is out, PONG is awaited,
    FINISHED = 2             # PONG is here
    SIZE_TEXT_MAX = 4096     # "HMSG ... 12 140 CR LF" and the headers

cdef int64_t WAIT_NS = 10_000_000        # a wait's longest: other groups end, the parent wants the end
cdef int64_t SPIN_NS = 5_000             # due so soon: look again instead of sleeping
cdef int64_t QUIET_NS = 300_000_000      # nothing came for so long: nothing will
cdef int64_t SLOW_NS = 10_000_000        # between two reads of a slow sink

cdef struct flow:
    int fd
    int group
    uint16_t publisher
    uint8_t state            # WRITING, FLUSHING, FINISHED
    uint8_t pong_owed
    uint8_t blocked          # open loop: TCP takes no more, EPOLLOUT is awaited
    char* buffer             # all frames of a pattern (PUB), or a batch of lines (SUB)
    char* at                 # next byte to send
    char* end                # end of the batch
    uint32_t slot            # the pattern's next frame
    uint64_t sequence        # frames written so far, the batch in the buffer included
    uint64_t limit           # frames at most
    uint32_t subject         # index of the next frame's subject, or the place in `draws`
    int64_t finished_ns
    size_t carried           # bytes of a control line's beginning
    char carry[LINE_MAX]

cdef struct sink:
    int fd
    int group
    uint8_t slow             # read at a rate, may be cut
    uint8_t cut              # the server has closed it
    int64_t cut_ns
    uint64_t* next           # per publisher: the least sequence acceptable now
    uint64_t received
    uint64_t received_bytes
    size_t carried
    char* carry              # beginning of a frame or line that the last read cut

cdef struct run:
    # the shape; constant while it runs
    int kind                 # FRAMES_PUB, FRAMES_SUB
    bint indexed             # subjects end in a four-letter index
    bint sid_per_subject     # sid = index + 1 (one literal subscription each); else sid 1
    bint exact               # every sink gets every message (else one sink does: queue group, parts of the subjects)
    bint varied              # sizes differ
    uint32_t subjects
    uint32_t step            # subject of the next frame = (subject + step) mod subjects
    uint32_t* draws          # or the subjects in this order, again and again
    uint32_t draws_count
    uint32_t payload         # of all messages, when they do not vary
    uint32_t payload_most
    uint64_t copies          # deliveries per message over all sinks, slow ones left out
    char head[256]           # "MSG subject 1 16\r\n", or "MSG subject." of indexed subjects
    size_t head_bytes
    char* size_text          # "16\r\n", or of messages with headers "12 28\r\nNATS/1.0..."; varied: the headers only
    size_t size_bytes
    uint32_t header_bytes    # of the headers; 0: none
    size_t frame_least       # shortest and longest frame that a sink can get
    size_t frame_most
    char line[256]           # "SUB subject "
    size_t line_bytes
    size_t index_at          # where the four letters stand in a frame or line
    uint32_t slots           # frames of a pattern
    uint32_t* slot_at        # (slots + 1) where each begins
    uint32_t* slot_payload   # (slots) its payload's size
    uint32_t batch           # frames in a write
    size_t buffer_bytes
    char* filling            # payload_most letters x
    int flows
    int sinks
    int slows                # of the sinks
    flow* flow
    sink* sink
    int publishers           # in all processes
    int flows_all            # the same, or the SUB writers
    int publisher_first      # of this process
    size_t slow_bytes        # a slow sink reads so much every SLOW_NS
    # the run
    int64_t started_ns
    int64_t deadline_ns
    double period_ns         # between two messages of a publisher; 0: closed loop
    bint stuck               # open loop: TCP takes no more on some flow
    int groups_all           # of all processes
    int64_t stall_ns         # nothing moved for so long: the run fails
    load_board* board
    load_histogram* latency[LOAD_GROUPS_MAX]     # one per thread, or NULL: closed loop
    load_histogram* lateness[LOAD_GROUPS_MAX]


cdef inline int64_t due_ns(run* r, uint32_t publisher, uint64_t sequence) noexcept nogil:
    """Open loop: when this message should be written. Publishers are spread evenly over a period."""
    return r.started_ns + <int64_t>((<double>(sequence - 1) + <double>publisher / r.publishers) * r.period_ns)


cdef void flow_fill_lines(run* r, flow* f) noexcept nogil:
    """The next batch of SUB lines."""
    cdef char* at = f.buffer
    cdef char* end = f.buffer + r.buffer_bytes - 300
    cdef uint32_t n
    cdef uint64_t sid
    cdef char digits[24]
    while at < end and f.sequence < f.limit:
        memcpy(at, r.line, r.line_bytes)
        put_index(at + r.index_at, f.subject)
        at += r.line_bytes
        f.subject += 1
        f.sequence += 1
        sid = f.sequence
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
    f.at = f.buffer
    f.end = at


cdef void flow_fill(run* r, flow* f, int group, int64_t now) noexcept nogil:
    """Make the next batch, or the closing PING. Open loop: what is due; nothing when nothing is."""
    cdef char* at
    cdef load_stamp* stamp
    cdef uint32_t i, frames = r.batch, subject = f.subject
    cdef uint64_t sequence = f.sequence, sum = 0
    cdef int64_t due
    cdef load_line* line = &r.board.line[group]
    if sequence >= f.limit or now >= r.deadline_ns or load_get(&r.board.stop):
        memcpy(f.carry + LINE_MAX - 8, b"PING\r\n", 6)       # the carry's end is kept for it
        f.at = f.carry + LINE_MAX - 8
        f.end = f.at + 6
        f.state = FLUSHING
        return
    if r.kind == FRAMES_SUB:
        flow_fill_lines(r, f)
        load_set(&line.sent, line.sent + f.sequence - sequence)
        return
    if f.slot == r.slots:
        f.slot = 0
    if f.limit - sequence < frames:
        frames = <uint32_t>(f.limit - sequence)
    if r.slots - f.slot < frames:
        frames = r.slots - f.slot
    if r.period_ns > 0:
        due = due_ns(r, f.publisher, sequence + 1)
        if due > now:
            return
        load_record(r.lateness[group], now - due)
        i = 1
        while i < frames and due_ns(r, f.publisher, sequence + 1 + i) <= now:
            i += 1
        frames = i
    f.at = f.buffer + r.slot_at[f.slot]
    for i in range(f.slot, f.slot + frames):  # no-cython-lint
        at = f.buffer + r.slot_at[i + 1] - 2 - r.slot_payload[i]
        stamp = <load_stamp*>at
        sequence += 1
        memcpy(&stamp.sequence, &sequence, 8)
        if r.indexed:
            if r.draws != NULL:
                put_index(f.buffer + r.slot_at[i] + r.index_at, r.draws[subject])
                memcpy(&stamp.subject, &r.draws[subject], 4)
                subject += 1
                if subject == r.draws_count:
                    subject = 0
            else:
                put_index(f.buffer + r.slot_at[i] + r.index_at, subject)
                memcpy(&stamp.subject, &subject, 4)
                subject += r.step
                if subject >= r.subjects:
                    subject -= r.subjects
        if r.slot_payload[i] >= 24:
            memcpy(at + r.slot_payload[i] - 8, &sequence, 8)
        if not r.exact:
            sum += load_mix(sequence, f.publisher)
    f.slot += frames
    f.end = f.buffer + r.slot_at[f.slot]
    f.sequence = sequence
    f.subject = subject
    line.sent_sum += sum
    load_set(&line.sent, line.sent + frames)


cdef int flow_write(run* r, flow* f, int group, int epoll, int number) noexcept nogil:
    """One write of at most a batch; the next is made where the loop is closed. -1: the run has failed."""
    cdef ssize_t n
    if f.at == f.end:
        if f.state != WRITING:
            return 0
        if f.pong_owed and send(f.fd, b"PONG\r\n", 6, MSG_NOSIGNAL | MSG_DONTWAIT) == 6:
            f.pong_owed = 0
        flow_fill(r, f, group, load_now())
    if f.at < f.end:
        n = send(f.fd, f.at, f.end - f.at, MSG_NOSIGNAL | MSG_DONTWAIT)
        if n < 0 and errno != EAGAIN and errno != EINTR:
            return load_fail_errno(r.board, b"the server is gone: publisher write")
        if n > 0:
            f.at += n
        if f.at == f.end:
            if f.state != WRITING:                      # the PING is out: only the answer is of interest now
                f.blocked = 0
                load_watch(epoll, EPOLL_CTL_MOD, f.fd, EPOLLIN, number)
                return 0
            if r.period_ns == 0:
                flow_fill(r, f, group, load_now())
                return 0
    if r.period_ns > 0 and f.blocked != (f.at < f.end):
        f.blocked = f.at < f.end
        load_watch(epoll, EPOLL_CTL_MOD, f.fd, EPOLLIN | EPOLLOUT if f.blocked else EPOLLIN, number)
    return 0


cdef int flow_line(run* r, flow* f, int group, const char* line, size_t n) noexcept nogil:
    if line[0] == b'P' and line[1] == b'I':         # PING: the answer goes between two batches
        f.pong_owed = 1
    elif line[0] == b'P' and line[1] == b'O':
        if f.state != FLUSHING:
            return load_fail(r.board, b"a PONG that no one asked for", line, n)
        f.state = FINISHED
        f.finished_ns = load_now()
        load_set(&r.board.line[group].finished, r.board.line[group].finished + 1)
    elif line[0] != b'I':                           # INFO may come again at any time
        return load_fail(r.board, b"publisher got", line, n)
    return 0


cdef int flow_read(run* r, flow* f, int group) noexcept nogil:
    cdef size_t room = LINE_MAX - 8
    cdef ssize_t n = recv(f.fd, f.carry + f.carried, room - f.carried, MSG_DONTWAIT)
    cdef char* at = f.carry
    cdef char* end
    cdef char* stop
    if n <= 0:
        if n < 0 and (errno == EAGAIN or errno == EINTR):
            return 0
        if n == 0:
            return load_fail(r.board, b"server closed a publisher", f.carry, f.carried)
        return load_fail_errno(r.board, b"the server is gone: publisher read")
    stop = f.carry + f.carried + n
    while at < stop:
        end = <char*>memchr(at, 10, stop - at)
        if end == NULL:
            break
        if flow_line(r, f, group, at, end - at):
            return -1
        at = end + 1
    f.carried = stop - at
    if f.carried == room:
        return load_fail(r.board, b"line too long", at, 100)
    memmove(f.carry, at, f.carried)
    if f.pong_owed and f.at == f.end:
        if send(f.fd, b"PONG\r\n", 6, MSG_NOSIGNAL | MSG_DONTWAIT) == 6:
            f.pong_owed = 0
    return 0


cdef ssize_t sink_frames(run* r, sink* s, load_line* line, load_histogram* latency, char* data, size_t count,
                         int64_t now) noexcept nogil:
    """Check the frames in data[0:count]. Bytes of whole frames and lines, or -1: the run failed."""
    cdef char* at = data
    cdef char* stop = data + count
    cdef char* body
    cdef char* end
    cdef load_stamp stamp
    cdef int64_t index
    cdef uint64_t sid, wanted, closing, received = 0, total = 0, number
    cdef uint32_t payload = r.payload
    while at < stop:
        if at[0] == r.head[0]:
            if <size_t>(stop - at) < r.frame_least:
                break
            if memcmp(at, r.head, r.head_bytes):
                return load_fail(r.board, b"not the header awaited", at, stop - at)
            body = at + r.head_bytes
            index = 0
            if r.indexed:
                index = get_index(body)
                if index < 0 or body[4] != 32:
                    return load_fail(r.board, b"subject", at, stop - at)
                body += 5
                sid = 0
                while 48 <= body[0] <= 57 and sid <= 99999999:   # 9 bytes at most: inside frame_least
                    sid = sid * 10 + <uint64_t>(body[0] - 48)
                    body += 1
                if body[0] != 32 or sid != (<uint64_t>index + 1 if r.sid_per_subject else 1):
                    return load_fail(r.board, b"sid", at, stop - at)
                body += 1
            if r.varied:
                if r.header_bytes:                      # "12 140\r\n": the first is always the same
                    while body < stop and body[0] != 32:
                        body += 1
                    body += 1
                number = 0
                while body < stop and 48 <= body[0] <= 57 and number <= 99999999:
                    number = number * 10 + <uint64_t>(body[0] - 48)
                    body += 1
                if stop - body < 2:
                    break
                if body[0] != 13 or number < r.header_bytes + 16 or number > r.header_bytes + r.payload_most:
                    return load_fail(r.board, b"length", at, stop - at)
                body += 2
                payload = <uint32_t>number - r.header_bytes
                if <size_t>(stop - body) < number + 2:
                    break
            if r.varied or r.indexed:
                if <size_t>(stop - body) < r.size_bytes + payload + 2:
                    break
                if memcmp(body, r.size_text, r.size_bytes):
                    return load_fail(r.board, b"length or headers", at, stop - at)
                body += r.size_bytes
            end = body + payload
            if end[0] != 13 or end[1] != 10:
                return load_fail(r.board, b"no CR LF after the payload", at, stop - at)
            memcpy(&stamp, body, 16)
            if (stamp.mark != MARK or stamp.publisher >= r.publishers or stamp.subject != <uint32_t>index
                    or stamp.sequence == 0):
                return load_fail(r.board, b"payload is not the subject's", at, stop - at)
            if r.varied and payload != r.slot_payload[(stamp.sequence - 1) % r.slots]:
                return load_fail(r.board, b"length is another message's", at, stop - at)
            wanted = s.next[stamp.publisher]
            if stamp.sequence != wanted and (r.exact or stamp.sequence < wanted):
                if load_claim(r.board):
                    snprintf(r.board.reason, LOAD_REASON_BYTES, b"order: publisher %u, message %llu came, "
                             b"%llu was due (%s): sink %d", <unsigned int>stamp.publisher,
                             <unsigned long long>stamp.sequence, <unsigned long long>wanted,
                             b"lost, or overtaken" if stamp.sequence > wanted else b"twice, or late",
                             <int>(s - r.sink))
                    load_set(&r.board.failed, 2)
                return -1
            s.next[stamp.publisher] = stamp.sequence + 1
            if payload >= 24:
                memcpy(&closing, end - 8, 8)
                if closing != stamp.sequence:
                    return load_fail(r.board, b"payload's end is another message's", at, stop - at)
                if memcmp(body + 16, r.filling, payload - 24):
                    return load_fail(r.board, b"payload has changed", at, stop - at)
            elif payload > 16 and memcmp(body + 16, r.filling, payload - 16):
                return load_fail(r.board, b"payload has changed", at, stop - at)
            received += 1
            if not r.exact:
                total += load_mix(stamp.sequence, stamp.publisher)
            if latency != NULL:
                load_record(latency, now - due_ns(r, stamp.publisher, stamp.sequence))
            at = end + 2
        else:
            end = <char*>memchr(at, 10, stop - at)
            if end == NULL:
                break
            if at[0] == b'P' and at[1] == b'I':
                send(s.fd, b"PONG\r\n", 6, MSG_NOSIGNAL | MSG_DONTWAIT)
            elif at[0] != b'I' and not (s.slow and at[0] == b'-'):
                return load_fail(r.board, b"subscriber got", at, end - at)
            at = end + 1
    s.received += received
    if not s.slow:
        line.sum += total
        load_set(&line.count, line.count + received)
    return at - data


cdef int sink_read(run* r, sink* s, int group, char* buffer, size_t room) noexcept nogil:
    """One read of at most `room`, checked. Bytes read, or -1 when the run has failed."""
    cdef ssize_t n, used
    cdef size_t count
    cdef load_histogram* latency = NULL if s.slow else r.latency[group]
    if s.carried:
        memcpy(buffer, s.carry, s.carried)
    n = recv(s.fd, buffer + s.carried, room, MSG_DONTWAIT)
    if n <= 0:
        if n < 0 and (errno == EAGAIN or errno == EINTR):
            return 0
        if s.slow:
            s.cut = 1
            s.cut_ns = load_now()
            return 0
        if n == 0:
            return load_fail(r.board, b"server closed a subscriber", s.carry, s.carried)
        return load_fail_errno(r.board, b"the server is gone: subscriber read")
    count = s.carried + <size_t>n
    used = sink_frames(r, s, &r.board.line[group], latency, buffer, count, load_now() if latency != NULL else 0)
    if used < 0:
        return -1
    s.carried = count - <size_t>used
    if s.carried > r.frame_most + LINE_MAX:
        return load_fail(r.board, b"line too long", buffer + used, 100)
    memcpy(s.carry, buffer + used, s.carried)
    s.received_bytes += <uint64_t>n
    return <int>n


cdef uint64_t total_of(run* r, int which) noexcept nogil:
    """The sum over all groups of one word of their lines: 0 count, 1 sent, 2 finished."""
    cdef uint64_t total = 0
    cdef int i
    for i in range(r.groups_all):
        if which == 0:
            total += load_get(&r.board.line[i].count)
        elif which == 1:
            total += load_get(&r.board.line[i].sent)
        else:
            total += load_get(&r.board.line[i].finished)
    return total


cdef bint is_over(run* r, int sinks) noexcept nogil:
    """All publishers have their PONG, and what they sent has arrived everywhere."""
    if total_of(r, 2) < <uint64_t>r.flows_all:
        return False
    return sinks == 0 or total_of(r, 0) >= total_of(r, 1) * r.copies


cdef int64_t flows_pace(run* r, int group, int epoll, int64_t now) noexcept nogil:
    """Open loop: write what is due on all flows of the group. When the next is due, or -1: the run has failed."""
    cdef int i
    cdef int64_t due, next = now + WAIT_NS
    cdef bint stuck = False
    cdef flow* f
    for i in range(r.flows):
        f = &r.flow[i]
        if f.group != group or f.state != WRITING:
            continue
        if f.blocked:
            stuck = True
            continue
        due = due_ns(r, f.publisher, f.sequence + 1)
        if due <= now or f.sequence >= f.limit or now >= r.deadline_ns or load_get(&r.board.stop):
            if flow_write(r, f, group, epoll, i):
                return -1
            due = due_ns(r, f.publisher, f.sequence + 1)
        if due < next:
            next = due
    r.stuck = stuck
    return next


cdef int sinks_slow(run* r, int group, char* buffer) noexcept nogil:
    """A look at each slow sink of the group."""
    cdef int i
    for i in range(r.sinks):
        if r.sink[i].group == group and r.sink[i].slow and not r.sink[i].cut and r.slow_bytes:
            if sink_read(r, &r.sink[i], group, buffer, r.slow_bytes) < 0:
                return -1
    return 0


cdef int run_group(run* r, int group, char* buffer) noexcept nogil:
    """The loop of one group. 0, or -1 with the board's reason set."""
    cdef epoll_event events[EVENTS_MAX]
    cdef int epoll = epoll_create1(0)
    cdef int i, n, number, moved, mine_sinks = 0, result = 0
    cdef int64_t progress_ns, now, next_ns, slow_ns = 0
    cdef load_line* line = &r.board.line[group]
    cdef flow* f
    for i in range(r.sinks):
        if r.sink[i].group == group and not r.sink[i].slow:
            mine_sinks += 1
            load_watch(epoll, EPOLL_CTL_ADD, r.sink[i].fd, EPOLLIN, r.flows + i)
    now = load_now()
    while now < r.started_ns and not load_get(&r.board.failed):      # all groups begin at one moment
        load_wait(epoll, events, 1, r.started_ns - now)
        now = load_now()
    progress_ns = now
    for i in range(r.flows):
        if r.flow[i].group == group:
            if r.period_ns == 0:
                flow_fill(r, &r.flow[i], group, now)
            load_watch(epoll, EPOLL_CTL_ADD, r.flow[i].fd, EPOLLIN | EPOLLOUT if r.period_ns == 0 else EPOLLIN, i)
    while True:
        if load_get(&r.board.failed):
            result = -1
            break
        if is_over(r, mine_sinks):
            break
        now = load_now()
        next_ns = now + WAIT_NS
        if r.period_ns > 0:
            next_ns = flows_pace(r, group, epoll, now)
            if next_ns < 0:
                result = -1
                break
        if r.slows:
            if now >= slow_ns:
                slow_ns = now + SLOW_NS
                if sinks_slow(r, group, buffer):
                    result = -1
                    break
            if slow_ns < next_ns:
                next_ns = slow_ns
        n = load_wait(epoll, events, EVENTS_MAX, next_ns - now if next_ns - now > SPIN_NS else 0)
        if n < 0 and errno != EINTR:
            result = load_fail_errno(r.board, b"epoll_wait")
            break
        moved = 0
        for i in range(n):              # deliveries first: what is read here the server need not keep
            number = <int>events[i].data.u64
            if number >= r.flows:
                result = sink_read(r, &r.sink[number - r.flows], group, buffer, RECEIVE_BYTES)
                if result < 0:
                    break
                moved += result
        if result < 0:
            break
        if moved:
            load_set(&line.last_ns, <uint64_t>load_now())
        for i in range(n):
            number = <int>events[i].data.u64
            if number < r.flows:
                f = &r.flow[number]
                result = 0
                if events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP):
                    result = flow_read(r, f, group)
                if result == 0 and events[i].events & EPOLLOUT:
                    result = flow_write(r, f, group, epoll, number)
                if result < 0:
                    break
                moved += 1
        if result < 0:
            break
        if moved or r.period_ns > 0 and not r.stuck and total_of(r, 2) < <uint64_t>r.flows_all:
            progress_ns = load_now()
        elif load_now() - progress_ns > r.stall_ns:
            if load_claim(r.board):
                snprintf(r.board.reason, LOAD_REASON_BYTES,
                         b"no progress: %llu of %llu deliveries, %llu of %d publishers finished",
                         <unsigned long long>total_of(r, 0), <unsigned long long>(total_of(r, 1) * r.copies),
                         <unsigned long long>total_of(r, 2), r.flows_all)
                load_set(&r.board.failed, 2)
            result = -1
            break
    if r.slow_bytes == 0 and r.slows and result == 0:
        result = sinks_drain(r, group, buffer)
    close(epoll)
    return -1 if result < 0 else 0


cdef int sinks_drain(run* r, int group, char* buffer) noexcept nogil:
    """Read what is on its way to sinks that have read nothing, until nothing comes: whole and in order up to a cut.

    Their windows were closed, so the end of a connection that the server has cut comes only behind all of it.
    """
    cdef epoll_event events[EVENTS_MAX]
    cdef int epoll = epoll_create1(0), i, n, living = 0, result = 0
    for i in range(r.sinks):
        if r.sink[i].group == group and r.sink[i].slow and not r.sink[i].cut:
            load_watch(epoll, EPOLL_CTL_ADD, r.sink[i].fd, EPOLLIN, i)
            living += 1
    while living and result == 0:
        n = load_wait(epoll, events, EVENTS_MAX, QUIET_NS)
        if n == 0:
            break
        for i in range(n):
            if sink_read(r, &r.sink[events[i].data.u64], group, buffer, RECEIVE_BYTES) < 0:
                result = -1
                break
            if r.sink[events[i].data.u64].cut:
                load_watch(epoll, EPOLL_CTL_DEL, r.sink[events[i].data.u64].fd, 0, 0)
                living -= 1
    close(epoll)
    return result


cdef class Stream:
    """One load of flows and sinks, or this process's part; see the module's picture. Made, `start`ed, `run` once per
    group, read with `result`.

    flows, sinks: descriptors. subject: whole, or the part before the four letters when subjects > 1 (or
    `indexed`).
    copies: deliveries per message over the sinks of all processes (sinks if exact; 1 for one queue group; 0 without).
    limit: frames per flow at most. payload_bytes: 16 or more; `sizes`: several, in turn. headers: the whole block.
    draws: bytes of uint32, subject indexes to publish in turn; else `step` through all of them.
    rate: messages/s of all publishers together (open loop); 0: as fast as it goes.
    slow: how many of the sinks, from the end, are slow; each reads slow_bytes every 10 ms, 0: nothing before the end.
    groups: threads; of two or more, one half gets the flows and the other the sinks. group_first, groups_all: the first
    of this process on `board`, and how many all have. publishers, publisher_first: likewise.
    stall_seconds: nothing moved for so long: the run fails.
    """
    cdef run* r
    cdef char* buffers[LOAD_GROUPS_MAX]
    cdef readonly int groups
    cdef int group_first
    cdef readonly Board board
    cdef object _draws

    def __cinit__(self, flows, sinks, *, bytes subject, int payload_bytes=16, sizes=None, int subjects=1,
                  bint indexed=False, bint wildcard=False, bint exact=True, uint64_t copies=0,
                  uint64_t limit=2 ** 62, int groups=1, bint subscribe=False, int step=1, bytes headers=b"",
                  bytes draws=b"", double rate=0.0, int slow=0, int slow_bytes=0, Board board=None,
                  int group_first=0, int groups_all=0, int publishers=0, int publisher_first=0,
                  double stall_seconds=20.0):
        cdef int i, j
        cdef flow* f
        cdef run* r
        cdef bytes text
        payloads = list(sizes) if sizes else [payload_bytes]
        if not all(16 <= size <= 64 << 20 for size in payloads) or len(subject) > 200:
            raise ValueError("payload_bytes or subject out of range")
        if groups < 1 or group_first < 0 or group_first + groups > LOAD_GROUPS_MAX:
            raise ValueError("groups out of range")
        if not 1 <= subjects <= 32 ** 4:
            raise ValueError("subjects out of range")
        if len(headers) > SIZE_TEXT_MAX - 64 or len(payloads) > 4096 or len(draws) % 4:
            raise ValueError("headers, sizes or draws out of range")
        r = self.r = <run*>calloc(1, sizeof(run))
        if r == NULL:
            raise MemoryError
        self.board = board if board is not None else Board()
        r.board = self.board.b
        self.groups = groups
        self.group_first = group_first
        r.groups_all = groups_all or group_first + groups
        r.stall_ns = <int64_t>(stall_seconds * 1e9)
        r.indexed = indexed or subjects > 1
        r.kind = FRAMES_SUB if subscribe else FRAMES_PUB
        r.sid_per_subject = r.indexed and not wildcard
        r.exact = exact
        r.subjects = subjects
        r.step = step % subjects
        if draws:
            self._draws = draws
            r.draws = <uint32_t*><char*>draws
            r.draws_count = len(draws) // 4
            for i in range(<int>r.draws_count):
                if r.draws[i] >= r.subjects:
                    raise ValueError("draws out of range")
        r.varied = len(set(payloads)) > 1
        r.payload = payloads[0]
        r.payload_most = max(payloads)
        r.copies = copies
        r.header_bytes = len(headers)
        verb = b"HMSG" if headers else b"MSG"
        size = size_words(r.payload, headers)
        text = b"%s %s" % (verb, subject) if r.indexed else b"%s %s 1 " % (verb, subject)
        if not r.varied and not r.indexed and len(size) + len(text) < 256:
            text += size                     # one comparison for the whole header
            size = b""
        elif r.varied:
            size = headers
        if len(text) > 255:
            raise ValueError("subject too long")
        r.head_bytes = len(text)
        memcpy(r.head, <const char*>text, r.head_bytes)
        r.size_bytes = len(size)
        r.size_text = <char*>malloc(r.size_bytes + 1)
        if r.size_text == NULL:
            raise MemoryError
        memcpy(r.size_text, <const char*>size, r.size_bytes)
        # What a size that varies can look like at least and at most, "16 CR LF" and its like.
        r.frame_least = r.head_bytes + min(payloads) + 2 + (7 if r.indexed else 0) + r.size_bytes
        r.frame_least += 4 if r.varied else 0
        r.frame_most = r.frame_least + r.payload_most + len(headers) + 64
        r.filling = <char*>malloc(r.payload_most)
        if r.filling == NULL:
            raise MemoryError
        memset(r.filling, b'x', r.payload_most)
        r.index_at = 4 + len(subject) + (1 if headers else 0)
        if subscribe:
            text = b"SUB %s%s " % (subject, b"aaaa" if r.indexed else b"")
            r.line_bytes = len(text)
            memcpy(r.line, <const char*>text, r.line_bytes)
        self._pattern(payloads, subject + (b"aaaa" if r.indexed else b""), headers)
        r.flows = len(flows)
        r.sinks = len(sinks)
        r.slows = slow
        r.slow_bytes = min(slow_bytes, RECEIVE_BYTES)
        r.publishers = publishers or r.flows
        r.flows_all = r.publishers
        r.publisher_first = publisher_first
        if r.publishers > 65535 or publisher_first + r.flows > r.publishers:
            raise ValueError("publishers out of range")
        r.period_ns = r.publishers * 1e9 / rate if rate > 0 else 0.0
        r.flow = <flow*>calloc(max(r.flows, 1), sizeof(flow))
        r.sink = <sink*>calloc(max(r.sinks, 1), sizeof(sink))
        if r.flow == NULL or r.sink == NULL:
            raise MemoryError
        for i in range(group_first, group_first + groups):
            self.buffers[i] = <char*>malloc(RECEIVE_BYTES + r.frame_most + 2 * LINE_MAX)
            if self.buffers[i] == NULL:
                raise MemoryError
            if rate > 0:
                r.latency[i] = <load_histogram*>calloc(1, sizeof(load_histogram))
                r.lateness[i] = <load_histogram*>calloc(1, sizeof(load_histogram))
                if r.latency[i] == NULL or r.lateness[i] == NULL:
                    raise MemoryError
        half = groups // 2
        for i in range(r.flows):
            f = &r.flow[i]
            f.fd = flows[i]
            f.group = group_first + (i % half if half else 0)
            f.publisher = publisher_first + i
            f.limit = limit
            # of indexed subjects each publisher begins elsewhere; a SUB writer has its own stretch of them
            f.subject = f.publisher * <uint32_t>limit if subscribe else (
                f.publisher * ((r.draws_count if draws else subjects) // r.publishers))
            f.buffer = <char*>malloc(r.buffer_bytes)
            if f.buffer == NULL:
                raise MemoryError
            f.at = f.end = f.buffer
            if not subscribe:
                self._frames(f, payloads, subject + (b"aaaa" if r.indexed else b""), headers)
        for i in range(r.sinks):
            r.sink[i].fd = sinks[i]
            r.sink[i].slow = i >= r.sinks - slow
            r.sink[i].group = group_first + (half + i % (groups - half) if half else 0)
            r.sink[i].next = <uint64_t*>calloc(max(r.publishers, 1), 8)
            r.sink[i].carry = <char*>malloc(r.frame_most + 2 * LINE_MAX)
            if r.sink[i].next == NULL or r.sink[i].carry == NULL:
                raise MemoryError
            for j in range(r.publishers):
                r.sink[i].next[j] = 1

    cdef _pattern(self, list payloads, bytes subject, bytes headers):
        """How many frames a pattern has, and where each stands."""
        cdef run* r = self.r
        cdef uint32_t at = 0
        cdef int i, count = len(payloads)
        least = len(pub_line(subject, payloads[0], headers)) + sum(payloads) // count + 2
        r.batch = <uint32_t>max(<int>(BATCH_BYTES // least), <int>BATCH_FRAMES_LEAST)
        r.slots = r.batch if not r.varied else count
        r.slot_at = <uint32_t*>calloc(r.slots + 1, 4)
        r.slot_payload = <uint32_t*>calloc(r.slots, 4)
        if r.slot_at == NULL or r.slot_payload == NULL:
            raise MemoryError
        for i in range(<int>r.slots):
            r.slot_at[i] = at
            r.slot_payload[i] = payloads[i % count]
            at += len(pub_line(subject, payloads[i % count], headers)) + r.slot_payload[i] + 2
            if at > 1 << 30:
                raise ValueError("sizes too big")
        r.slot_at[r.slots] = at
        r.buffer_bytes = max(<size_t>at, <size_t>BATCH_BYTES) + 512

    cdef _frames(self, flow* f, list payloads, bytes subject, bytes headers):
        """Write what never changes of a flow's frames; flow_fill writes the rest."""
        cdef run* r = self.r
        cdef load_stamp stamp
        cdef char* at
        cdef bytes line
        cdef int i
        memset(&stamp, 0, sizeof(stamp))
        stamp.publisher = f.publisher
        stamp.mark = MARK
        memset(f.buffer, b'x', r.buffer_bytes)
        for i in range(<int>r.slots):
            line = pub_line(subject, payloads[i % len(payloads)], headers)
            at = f.buffer + r.slot_at[i]
            memcpy(at, <const char*>line, len(line))
            memcpy(at + len(line), &stamp, 16)
            memcpy(f.buffer + r.slot_at[i + 1] - 2, b"\r\n", 2)

    def start(self, double seconds, int64_t at_ns=0):
        """Set the clock: from now or `at_ns`; flows stop at the first batch end after `seconds`."""
        self.r.started_ns = at_ns or load_now()
        self.r.deadline_ns = self.r.started_ns + <int64_t>(min(seconds, 1e9) * 1e9)

    def run(self, int group=0):
        """Run one group of this process to its end; call it from `groups` threads. LoadError when a check fails."""
        cdef int result, number = self.group_first + group
        if not 0 <= group < self.groups:
            raise ValueError("no such group")
        with nogil:
            result = run_group(self.r, number, self.buffers[number])
        if result:
            raise LoadError(self.board.reason or "another part of the load failed")

    def part(self):
        """What this process's part has to say: published, per_sink (counts; slow ones left out), received_bytes,
        finished_ns, latency and lateness (histograms' bytes; empty in a closed loop), slow (received, cut, cut_ns)."""
        cdef run* r = self.r
        cdef int i
        cdef list latency = [], lateness = []
        for i in range(LOAD_GROUPS_MAX):
            if r.latency[i] != NULL:
                latency.append((<char*>r.latency[i])[:sizeof(load_histogram)])
                lateness.append((<char*>r.lateness[i])[:sizeof(load_histogram)])
        return {
            "published": sum([r.flow[i].sequence for i in range(r.flows)]),
            "per_sink": [r.sink[i].received for i in range(r.sinks) if not r.sink[i].slow],
            "received_bytes": sum([r.sink[i].received_bytes for i in range(r.sinks)]),
            "finished_ns": max([r.flow[i].finished_ns for i in range(r.flows)], default=0),
            "latency": latency,
            "lateness": lateness,
            "slow": [(r.sink[i].received, bool(r.sink[i].cut),
                      r.sink[i].cut_ns - r.started_ns if r.sink[i].cut else 0)
                     for i in range(r.sinks) if r.sink[i].slow],
        }

    def result(self):
        """The whole load's figures, when this process has done all of it: `totals` of its one part."""
        return totals(self.board, [self.part()], self.r.started_ns, copies=self.r.copies, exact=self.r.exact)

    def __dealloc__(self):
        cdef int i
        if self.r == NULL:
            return
        for i in range(LOAD_GROUPS_MAX):
            free(self.buffers[i])
            free(self.r.latency[i])
            free(self.r.lateness[i])
        if self.r.flow != NULL:
            for i in range(self.r.flows):
                free(self.r.flow[i].buffer)
        if self.r.sink != NULL:
            for i in range(self.r.sinks):
                free(self.r.sink[i].next)
                free(self.r.sink[i].carry)
        free(self.r.flow)
        free(self.r.sink)
        free(self.r.size_text)
        free(self.r.filling)
        free(self.r.slot_at)
        free(self.r.slot_payload)
        free(self.r)


def totals(Board board, list parts, int64_t started_ns, *, uint64_t copies, bint exact):
    """Check what all parts of a run sent and received against each other; published, received, received_bytes, per_sink
    and seconds. LoadError when something is missing or too much."""
    cdef uint64_t received_sum, sent_sum
    lines = board.lines()
    published = sum([part["published"] for part in parts])
    per_sink = [count for part in parts for count in part["per_sink"]]
    received = sum(per_sink)
    if received != published * copies:
        raise LoadError(f"{received} messages received, {published * copies} were due")
    received_sum, sent_sum = board.sums()
    if copies and not exact and received_sum != sent_sum * copies:          # both modulo 2^64
        raise LoadError("some messages came twice and others not at all")
    if exact and copies and any([count != published for count in per_sink]):
        raise LoadError(f"sinks received {per_sink}, each was due {published}")
    ended_ns = max([part["finished_ns"] for part in parts])
    if copies:
        ended_ns = max(ended_ns, max([line[3] for line in lines]))
    return {
        "published": published, "received": received,
        "received_bytes": sum([part["received_bytes"] for part in parts]),
        "per_sink": per_sink, "seconds": (ended_ns - started_ns) / 1e9,
    }


cdef bytes size_words(int payload, bytes headers):
    """What follows the sid: the size, or of a message with headers both sizes and these."""
    if headers:
        return b"%d %d\r\n%s" % (len(headers), len(headers) + payload, headers)
    return b"%d\r\n" % payload


cdef bytes pub_line(bytes subject, int payload, bytes headers):
    return b"%s %s %s" % (b"HPUB" if headers else b"PUB", subject, size_words(payload, headers))
