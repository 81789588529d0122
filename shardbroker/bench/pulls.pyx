# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Consumers of a stream: pull requests, messages checked, acknowledged.

    [puller] --PUB $JS.API.CONSUMER.MSG.NEXT.s.c <inbox> {"batch":n}--> [ server ] --MSG subject, reply $JS.ACK...--> [puller]
       |-------PUB $JS.ACK... +ACK-------------------------------------> [ server ]        unit: one message (acknowledged)
    FETCH     the next request when all messages of the last one have come
    AHEAD     the next request when half of the last one's messages have come, so that the server never waits
Without acknowledging it is the reading of an ordered consumer. The stream was filled by one publisher of ours (calls.ACK),
so a message's stream sequence is its stamp's. Of every message the subject, length, headers and every byte are checked, and
what its reply subject says ($JS.ACK.stream.consumer.delivered.stream-sequence.consumer-sequence.time.pending, ADR-15):
delivered once; for one reader without a hole, for several growing, with counts and sums that agree in the end.
Needs no GIL in the loop; memory is allocated by the constructor.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, strlen

from shardbroker.bench.board cimport Board
from shardbroker.bench.net cimport (
    EPOLLIN, EPOLLOUT, EPOLL_CTL_ADD, EVENTS_MAX, LINE_MAX, LOAD_GROUPS_MAX, LOAD_REASON_BYTES, MARK, RECEIVE_BYTES,
    close, epoll_create1, epoll_event, get_index, load_board, load_claim, load_digits, load_fail, load_fail_errno,
    load_get, load_line, load_message, load_mix, load_now, load_number, load_parse, load_set, load_stamp, load_wait,
    load_watch, memmem,
)
from shardbroker.bench.wire cimport (
    copied, wire, wire_flush, wire_keep, wire_line, wire_make, wire_put, wire_read, wire_room,
)

from shardbroker.bench import LoadError

load_digits()

FETCH, AHEAD = range(2)


cdef enum:
    OUT_BYTES = 1024 * 1024
    WORDS_MAX = 16

cdef int64_t WAIT_NS = 10_000_000

cdef struct puller:
    wire w
    char* request            # the whole pull request
    size_t request_bytes
    char* inbox              # its own
    size_t inbox_bytes
    uint64_t wanted          # messages that were asked for and have not come
    uint64_t last            # stream sequence of the newest
    uint64_t received

cdef struct pulls:
    int pullers
    int pullers_all
    int groups_all
    puller* puller
    uint64_t batch
    bint ahead
    bint acks
    bint shared              # the pullers share the messages; else each gets all
    uint64_t due             # messages over all pullers
    char* subject            # whole, or the part before four letters
    size_t subject_bytes
    bint indexed
    uint32_t slots
    uint32_t* slot_payload
    char* filling
    char* headers
    size_t header_bytes
    size_t frame_most
    int group
    int64_t started_ns
    int64_t deadline_ns
    int64_t stall_ns
    load_board* board


cdef void puller_ask(pulls* c, puller* p) noexcept nogil:
    """Another pull request, when it is time for one. There is room (see pulls_read)."""
    cdef uint64_t least = c.batch // 2 if c.ahead else 0
    while p.wanted <= least and not load_get(&c.board.stop):
        wire_put(&p.w, p.request, p.request_bytes)
        p.wanted += c.batch


cdef int status_read(pulls* c, puller* p, load_message* m) noexcept nogil:
    """A status for a pull request: nothing there, or expired, ends it. Anything else that is not a heartbeat is a failure."""
    cdef uint64_t pending = 0
    cdef const char* found
    if m.header_bytes < 12 or memcmp(m.headers, b"NATS/1.0 ", 9):
        return load_fail(c.board, b"not a status", m.headers, m.header_bytes)
    if memcmp(m.headers + 9, b"100", 3) == 0:
        return 0
    if memcmp(m.headers + 9, b"404", 3) and memcmp(m.headers + 9, b"408", 3):
        return load_fail(c.board, b"the consumer says", m.headers, m.header_bytes)
    pending = c.batch
    found = <const char*>memmem(m.headers, m.header_bytes, b"Nats-Pending-Messages: ", 23)
    if found != NULL:
        load_number(found + 23, m.headers + m.header_bytes, &pending)
    p.wanted -= pending if pending < p.wanted else p.wanted
    return 0


cdef int ack_words(load_message* m, uint64_t* delivered, uint64_t* sequence) noexcept nogil:
    """What a reply subject says; -1 when it is none of a consumer. ADR-15: nine words, or eleven and more with a domain."""
    cdef const char* word[WORDS_MAX]
    cdef const char* at = m.reply
    cdef const char* stop = m.reply + m.reply_bytes
    cdef int words = 1, first
    if m.reply == NULL or m.reply_bytes < 8 or memcmp(m.reply, b"$JS.ACK.", 8):
        return -1
    word[0] = at
    while at < stop:
        if at[0] == b'.':
            if words == WORDS_MAX:
                return -1
            word[words] = at + 1
            words += 1
        at += 1
    if words != 9 and words < 11:
        return -1
    first = 4 if words == 9 else 6
    if load_number(word[first], stop, delivered) == NULL or load_number(word[first + 1], stop, sequence) == NULL:
        return -1
    return 0


cdef int message_check(pulls* c, puller* p, load_message* m, load_line* line, const char* at,
                       size_t count) noexcept nogil:
    cdef uint64_t delivered = 0, sequence = 0
    cdef load_stamp stamp
    cdef const char* body = m.body
    cdef size_t payload = m.body_bytes
    cdef int64_t index = 0
    if ack_words(m, &delivered, &sequence):
        return load_fail(c.board, b"not a message of a consumer", at, count)
    if delivered != 1:
        return load_fail(c.board, b"delivered twice", at, count)
    if (m.subject_bytes != c.subject_bytes + (4 if c.indexed else 0)
            or memcmp(m.subject, c.subject, c.subject_bytes)):
        return load_fail(c.board, b"not the stream's subject", at, count)
    if c.indexed:
        index = get_index(m.subject + c.subject_bytes)
    if payload < 16 or index < 0:
        return load_fail(c.board, b"length", at, count)
    memcpy(&stamp, body, 16)
    if stamp.mark != MARK or stamp.sequence != sequence or stamp.subject != <uint32_t>index:
        return load_fail(c.board, b"payload is another message's", at, count)
    if (payload != c.slot_payload[(sequence - 1) % c.slots] or m.header_bytes != c.header_bytes
            or (c.header_bytes and memcmp(m.headers, c.headers, c.header_bytes))):
        return load_fail(c.board, b"length or headers are another message's", at, count)
    if payload >= 24 and (memcmp(body, body + payload - 8, 8) or memcmp(body + 16, c.filling, payload - 24)):
        return load_fail(c.board, b"payload has changed", at, count)
    if sequence <= p.last or (not c.shared and sequence != p.last + 1):
        if load_claim(c.board):
            snprintf(c.board.reason, LOAD_REASON_BYTES, b"order: message %llu of the stream came, %llu was due (%s)",
                     <unsigned long long>sequence, <unsigned long long>(p.last + 1),
                     b"lost, or overtaken" if sequence > p.last else b"twice, or late")
            load_set(&c.board.failed, 2)
        return -1
    p.last = sequence
    line.sum += load_mix(sequence, 0)
    return 0


cdef int puller_read(pulls* c, puller* p, load_line* line, char* buffer) noexcept nogil:
    """Read messages, check and acknowledge them. Bytes read, or -1."""
    cdef ssize_t n, used
    cdef const char* at = buffer
    cdef const char* stop
    cdef load_message m
    cdef uint64_t received = 0
    if wire_room(&p.w) < RECEIVE_BYTES + c.frame_most + p.request_bytes * 4:
        return 0                                            # an acknowledgement is never longer than its message
    n = wire_read(&p.w, c.board, buffer, b"server closed a consumer")
    if n <= 0:
        return <int>n
    stop = buffer + n
    while at < stop:
        if at[0] != b'M' and at[0] != b'H':
            used = wire_line(&p.w, c.board, at, stop)
            if used < 0:
                return -1
            if used == 0:
                break
            at += used
            continue
        used = load_parse(at, stop, c.frame_most, &m)
        if used < 0 or used > 0 and m.sid != 1:
            return load_fail(c.board, b"not a message that was awaited", at, stop - at)
        if used == 0:
            break
        if m.subject_bytes == p.inbox_bytes and memcmp(m.subject, p.inbox, p.inbox_bytes) == 0:
            if status_read(c, p, &m):
                return -1
        else:
            if message_check(c, p, &m, line, at, used):
                return -1
            if p.wanted == 0:
                return load_fail(c.board, b"more messages than were asked for", at, used)
            p.wanted -= 1
            received += 1
            if c.acks:
                wire_put(&p.w, b"PUB ", 4)
                wire_put(&p.w, m.reply, m.reply_bytes)
                wire_put(&p.w, b" 4\r\n+ACK\r\n", 10)
        at += used
    if wire_keep(&p.w, c.board, at, stop - at):
        return -1
    if received:
        p.received += received
        load_set(&line.count, line.count + received)
        load_set(&line.last_ns, <uint64_t>load_now())
    return <int>n


cdef uint64_t received_of_all(pulls* c) noexcept nogil:
    cdef uint64_t total = 0
    cdef int i
    for i in range(c.groups_all):
        total += load_get(&c.board.line[i].count)
    return total


cdef int run_pulls(pulls* c, char* buffer) noexcept nogil:
    cdef epoll_event events[EVENTS_MAX]
    cdef int epoll = epoll_create1(0), i, n, number, got, moved, result = 0
    cdef int64_t now = load_now(), progress_ns
    cdef bint waiting
    cdef load_line* line = &c.board.line[c.group]
    cdef puller* p
    while now < c.started_ns and not load_get(&c.board.failed):
        load_wait(epoll, events, 1, c.started_ns - now)
        now = load_now()
    progress_ns = now
    for i in range(c.pullers):
        load_watch(epoll, EPOLL_CTL_ADD, c.puller[i].w.fd, EPOLLIN, i)
        puller_ask(c, &c.puller[i])
        if wire_flush(&c.puller[i].w, c.board, epoll, i, b"the server is gone: consumer write"):
            result = -1
    while result == 0:
        if load_get(&c.board.failed):
            result = -1
            break
        waiting = False                                     # acknowledgements that TCP has not taken yet
        for i in range(c.pullers):
            if c.puller[i].w.out_filled:
                waiting = True
        if not waiting and (received_of_all(c) >= c.due or load_get(&c.board.stop)):
            break
        n = load_wait(epoll, events, EVENTS_MAX, WAIT_NS)
        if n < 0 and errno != EINTR:
            result = load_fail_errno(c.board, b"epoll_wait")
            break
        moved = 0
        for i in range(n):
            number = <int>events[i].data.u64
            p = &c.puller[number]
            got = 0
            if events[i].events & ~<uint32_t>EPOLLOUT:
                got = puller_read(c, p, line, buffer)
            if got >= 0 and received_of_all(c) < c.due:
                puller_ask(c, p)
            if got < 0 or wire_flush(&p.w, c.board, epoll, number, b"the server is gone: consumer write"):
                result = -1
                break
            moved += got
        if moved:
            progress_ns = load_now()
        elif result == 0 and load_now() - progress_ns > c.stall_ns:
            if load_claim(c.board):
                snprintf(c.board.reason, LOAD_REASON_BYTES, b"no message for %lld s; %llu of %llu came",
                         <long long>(c.stall_ns // 1000000000), <unsigned long long>received_of_all(c),
                         <unsigned long long>c.due)
                load_set(&c.board.failed, 2)
            result = -1
    close(epoll)
    load_set(&line.finished, 1)
    return result


cdef class Pulls:
    """The pullers of this process.

    pullers: descriptors; number i, `puller_first` + i over all processes, is subscribed (sid 1) to `inbox` +
    index_text(that number). subjects: of the pull requests, one for each puller. stream_subject, sizes, headers: of the
    messages, as they were published; with `indexed` the subject ends in four letters.
    batch: messages of a request. mode: FETCH or AHEAD. acks: acknowledge each. due: messages over all pullers.
    shared: they share one consumer.
    """
    cdef pulls c
    cdef char* buffer
    cdef readonly Board board

    def __cinit__(self, pullers, *, subjects, bytes inbox, bytes stream_subject, sizes=(16,), bytes headers=b"",
                  bint indexed=False, int batch=500, int mode=0, bint acks=True, uint64_t due=0, bint shared=True,
                  double expires_seconds=30.0, Board board=None, int group=0, int groups_all=0, int puller_first=0,
                  int pullers_all=0, double stall_seconds=20.0):
        cdef pulls* c = &self.c
        cdef puller* p
        cdef int i, j, number
        payloads = list(sizes)
        if not 1 <= batch <= 1 << 20 or not 0 <= group < LOAD_GROUPS_MAX or not payloads or len(payloads) > 4096:
            raise ValueError("batch, group or sizes out of range")
        if len(subjects) != len(pullers) or len(stream_subject) > 200 or len(inbox) > 60:
            raise ValueError("subjects or inbox out of range")
        self.board = board if board is not None else Board()
        c.board = self.board.b
        c.pullers = len(pullers)
        c.pullers_all = pullers_all or c.pullers
        c.group = group
        c.groups_all = groups_all or group + 1
        c.batch = batch
        c.ahead = mode == 1
        c.acks = acks
        c.due = due
        c.shared = shared
        c.indexed = indexed
        c.stall_ns = <int64_t>(stall_seconds * 1e9)
        c.subject = copied(stream_subject)
        c.subject_bytes = len(stream_subject)
        c.headers = copied(headers)
        c.header_bytes = len(headers)
        c.filling = copied(b"x" * max(payloads))
        c.frame_most = max(payloads) + len(headers) + 8192
        c.slots = len(payloads)
        c.slot_payload = <uint32_t*>calloc(c.slots, 4)
        c.puller = <puller*>calloc(max(c.pullers, 1), sizeof(puller))
        self.buffer = <char*>malloc(RECEIVE_BYTES + c.frame_most + 2 * LINE_MAX)
        if c.slot_payload == NULL or c.puller == NULL or self.buffer == NULL:
            raise MemoryError
        for i in range(<int>c.slots):
            c.slot_payload[i] = payloads[i]
        for i in range(c.pullers):
            p = &c.puller[i]
            number = puller_first + i
            own = inbox + bytes([b"abcdefghijklmnopqrstuvwxyz234567"[number >> j & 31] for j in (15, 10, 5, 0)])
            p.inbox = copied(own)
            p.inbox_bytes = len(own)
            body = b'{"batch":%d,"expires":%d}' % (batch, <int64_t>(expires_seconds * 1e9))
            request = b"PUB %s %s %d\r\n%s\r\n" % (subjects[i], own, len(body), body)
            p.request = copied(request)
            p.request_bytes = strlen(p.request)
            wire_make(&p.w, pullers[i], OUT_BYTES + 2 * c.frame_most, c.frame_most + LINE_MAX)

    def start(self, double seconds, int64_t at_ns=0):
        """Set the clock: from now or `at_ns`. It ends when `due` messages have come, not by time."""
        self.c.started_ns = at_ns or load_now()

    def run(self):
        """The loop, to its end. LoadError when a check fails."""
        cdef int result
        with nogil:
            result = run_pulls(&self.c, self.buffer)
        if result:
            raise LoadError(self.board.reason or "another part of the load failed")

    def part(self):
        """answered: messages received; per_puller of them."""
        cdef int i
        counts = [self.c.puller[i].received for i in range(self.c.pullers)]
        return {"answered": sum(counts), "per_puller": counts, "latency": []}

    def __dealloc__(self):
        cdef int i
        if self.c.puller != NULL:
            for i in range(self.c.pullers):
                free(self.c.puller[i].w.out)
                free(self.c.puller[i].w.carry)
                free(self.c.puller[i].request)
                free(self.c.puller[i].inbox)
        free(self.c.puller)
        free(self.c.subject)
        free(self.c.headers)
        free(self.c.filling)
        free(self.c.slot_payload)
        free(self.buffer)
