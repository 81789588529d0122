# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Requests and their answers: round trips to a responder, publishing into a stream, reading of keys.

    [caller] --PUB svc _INBOX.c.n--> [ server ] --MSG--> [responder]
       ^-------MSG _INBOX.c.n------- [ server ] <--PUB _INBOX.c.n--+     unit: one answered request
Each caller holds one wildcard subscription `<inbox>cccc.*`, as client libraries do, and every request has a new reply
subject under it: eight letters, the request's number. Up to `in_flight` requests of a caller are unanswered at a time.

What is the answer depends on the kind:
    ECHO   the request's payload again (a Calls has the responders too, or others have)
    ACK    a stream's PubAck: no error, no duplicate; the sequences of all acks together must be one whole range
    BATCH  `batch` messages are one request (ADR-50); the last commits and its PubAck counts them
    GET    the value of a key (ADR-31 direct get), whose stamp must be that key's
Open loop (`rate`): request n of caller c is due at start + (n - 1 + c / callers) * period; times count from then.
Needs no GIL in the loop; memory is allocated by the constructor.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

from shardbroker.bench.board cimport Board
from shardbroker.bench.net cimport (
    EPOLLIN, EPOLLOUT, EPOLL_CTL_ADD, EVENTS_MAX, LINE_MAX, LOAD_GROUPS_MAX, LOAD_REASON_BYTES, MARK, RECEIVE_BYTES,
    close, epoll_create1, epoll_event, get_index, load_board, load_claim, load_digits, load_fail, load_fail_errno,
    load_get, load_histogram, load_line, load_message, load_now, load_number, load_parse, load_record,
    load_set, load_stamp, load_wait, load_watch, memmem, put_index,
)
from shardbroker.bench.wire cimport (
    copied, wire, wire_flush, wire_keep, wire_line, wire_make, wire_put, wire_read, wire_room,
)

from shardbroker.bench import LoadError

load_digits()

ECHO, ACK, BATCH, GET = range(4)


cdef enum:
    KIND_ECHO = 0
    KIND_ACK = 1
    KIND_BATCH = 2
    KIND_GET = 3
    OUT_BYTES_MOST = 16 << 20
    OUT_BYTES = 128 * 1024   # output waiting for TCP; more where a request is long
    KEPT_MIN = 1024          # requests by which one may be overtaken, at least
    INBOX_BYTES = 13         # "cccc.nnnnnnnn" after the inbox's prefix

cdef int64_t WAIT_NS = 10_000_000
cdef int64_t SPIN_NS = 5_000

cdef struct caller:
    wire w
    uint32_t number              # over all processes
    uint32_t subject             # index, or the place in `draws`
    uint64_t sequence            # requests sent
    uint64_t answered
    uint64_t limit
    int64_t* sent_ns             # of request n at n & kept_mask; 0: not in flight
    uint32_t* asked              # GET: the subject it asked for

cdef struct calls:
    int kind
    int callers
    int responders
    int callers_all
    int groups_all
    caller* caller
    wire* responder
    uint64_t in_flight
    uint64_t kept_mask
    uint64_t batch               # messages of a request
    char* frames                 # one request of each slot, one after the other; both reply parts are patched
    uint32_t slots
    uint32_t* slot_at            # (slots + 1)
    uint32_t* slot_inbox         # (slots) where its inbox's letters begin
    uint32_t* slot_stamp         # (slots) where its payload begins
    uint32_t* slot_payload       # (slots) its size; 0: no stamp
    uint32_t values              # GET: sizes of the values, in turn as they were put
    uint32_t* value_payload
    size_t index_at              # where the subject's four letters are; 0: the subject has none
    uint32_t* batch_id_at        # (batch) of each frame of a batch, from the request's beginning: its id,
    uint32_t* batch_subject_at   # its subject's letters,
    uint32_t* batch_stamp_at     # its payload
    uint32_t subjects
    uint32_t step
    uint32_t* draws
    uint32_t draws_count
    size_t request_most          # of a whole request
    size_t frame_most            # of an answer
    char* inbox                  # "_INBOX.token."
    size_t inbox_bytes
    char* filling
    char* headers                # what an echo must begin with
    size_t header_bytes
    double period_ns
    int64_t started_ns
    int64_t deadline_ns
    int64_t stall_ns
    int group
    uint64_t seq_least           # of the acks
    uint64_t seq_most
    uint64_t seq_sum
    uint64_t served
    load_board* board
    load_histogram* latency
    load_histogram* lateness


cdef inline int64_t due_ns(calls* c, uint32_t number, uint64_t sequence) noexcept nogil:
    return c.started_ns + <int64_t>((<double>(sequence - 1) + <double>number / c.callers_all) * c.period_ns)


cdef void caller_request(calls* c, caller* a, int64_t sent_ns) noexcept nogil:
    """Append one request; there is room."""
    cdef uint64_t n = a.sequence + 1
    cdef uint32_t slot = <uint32_t>(a.sequence % c.slots), subject = 0, i, payload = c.slot_payload[slot]
    cdef size_t count = c.slot_at[slot + 1] - c.slot_at[slot]
    cdef char* at = a.w.out + a.w.out_filled
    cdef char* body
    cdef load_stamp stamp
    wire_put(&a.w, c.frames + c.slot_at[slot], count)
    if c.draws != NULL:
        subject = c.draws[a.subject]
        a.subject += 1
        if a.subject == c.draws_count:
            a.subject = 0
    elif c.index_at:
        subject = a.subject
        a.subject += c.step
        if a.subject >= c.subjects:
            a.subject -= c.subjects
    if c.index_at:
        put_index(at + c.index_at, subject)
    put_index(at + c.slot_inbox[slot], a.number)
    put_index(at + c.slot_inbox[slot] + 5, <uint32_t>(n >> 20) & 0xfffff)
    put_index(at + c.slot_inbox[slot] + 9, <uint32_t>n & 0xfffff)
    if c.kind == KIND_BATCH:
        # Every frame of a batch: its id (caller and number) and its stamp; slot_stamp is of the first.
        for i in range(<uint32_t>c.batch):
            put_index(at + c.batch_id_at[i], a.number)
            put_index(at + c.batch_id_at[i] + 4, <uint32_t>(n >> 20) & 0xfffff)
            put_index(at + c.batch_id_at[i] + 8, <uint32_t>n & 0xfffff)
            if c.index_at and i:
                put_index(at + c.batch_subject_at[i], subject)
            stamp.sequence = (n - 1) * c.batch + i + 1
            stamp.subject = subject
            stamp.publisher = <uint32_t>a.number & 0xffff
            stamp.mark = MARK
            memcpy(at + c.batch_stamp_at[i], &stamp, 16)
            if payload >= 24:
                memcpy(at + c.batch_stamp_at[i] + payload - 8, &stamp.sequence, 8)
    elif payload:
        stamp.sequence = n
        stamp.subject = subject
        stamp.publisher = <uint32_t>a.number & 0xffff
        stamp.mark = MARK
        body = at + c.slot_stamp[slot]
        memcpy(body, &stamp, 16)
        if payload >= 24:
            memcpy(body + payload - 8, &n, 8)
    a.sent_ns[n & c.kept_mask] = sent_ns
    if c.kind == KIND_GET:
        a.asked[n & c.kept_mask] = subject
    a.sequence = n


cdef bint is_ending(calls* c, caller* a, int64_t now) noexcept nogil:
    return a.sequence >= a.limit or now >= c.deadline_ns or load_get(&c.board.stop) != 0


cdef int64_t caller_fill(calls* c, caller* a, load_line* line, int64_t now) noexcept nogil:
    """As many requests as may be out (and are due). When the next is due in an open loop."""
    cdef uint64_t before = a.sequence
    cdef int64_t due = now
    # One that is overtaken by many keeps its place: what would take it waits.
    while (a.sequence - a.answered < c.in_flight and a.sent_ns[(a.sequence + 1) & c.kept_mask] == 0
            and wire_room(&a.w) >= c.request_most + 64 and not is_ending(c, a, now)):
        if c.period_ns > 0:
            due = due_ns(c, a.number, a.sequence + 1)
            if due > now:
                break
            load_record(c.lateness, now - due)
        caller_request(c, a, due)
    if a.sequence != before:
        load_set(&line.sent, line.sent + (a.sequence - before) * c.batch)
    return due if c.period_ns > 0 else now + WAIT_NS


cdef int is_payload(calls* c, const char* body, size_t count) noexcept nogil:
    """The letters between stamp and end are untouched, and the end repeats the stamp."""
    if count >= 24:
        return memcmp(body, body + count - 8, 8) == 0 and memcmp(body + 16, c.filling, count - 24) == 0
    return count == 16 or memcmp(body + 16, c.filling, count - 16) == 0


cdef int answer_check(calls* c, caller* a, load_message* m, uint64_t number, const char* at,
                      size_t count) noexcept nogil:
    """Is this message the answer to that request? -1 with the reason when it is not."""
    cdef load_stamp stamp
    cdef uint64_t seq = 0, counted = 0
    cdef const char* found
    cdef const char* stop = m.body + m.body_bytes
    cdef uint32_t slot = <uint32_t>((number - 1) % c.slots)
    if m.header_bytes > 12 and c.kind != KIND_ECHO or m.header_bytes > 12 and m.body_bytes == 0:
        if memcmp(m.headers, b"NATS/1.0 503", 12) == 0:
            return load_fail(c.board, b"no responders: nobody serves the requests", at, count)
        if memcmp(m.headers, b"NATS/1.0 ", 9) == 0:
            return load_fail(c.board, b"answered with a status", m.headers, m.header_bytes)
    if c.kind == KIND_ECHO:
        if m.body_bytes < 16:
            return load_fail(c.board, b"not the answer awaited", at, count)
        memcpy(&stamp, m.body, 16)
        if (stamp.mark != MARK or stamp.sequence != number or stamp.publisher != (a.number & 0xffff)
                or m.body_bytes != c.slot_payload[slot] or m.header_bytes != c.header_bytes
                or (c.header_bytes and memcmp(m.headers, c.headers, c.header_bytes))):
            return load_fail(c.board, b"not the answer awaited", at, count)
        if not is_payload(c, m.body, m.body_bytes):
            return load_fail(c.board, b"payload has changed", at, count)
        return 0
    if c.kind == KIND_GET:
        if m.body_bytes < 16:
            return load_fail(c.board, b"not the value awaited", at, count)
        memcpy(&stamp, m.body, 16)
        if (stamp.mark != MARK or stamp.subject != a.asked[number & c.kept_mask] or stamp.sequence == 0
                or m.body_bytes != c.value_payload[(stamp.sequence - 1) % c.values]):
            return load_fail(c.board, b"not the key's value", at, count)
        if not is_payload(c, m.body, m.body_bytes):
            return load_fail(c.board, b"payload has changed", at, count)
        return 0
    if memmem(m.body, m.body_bytes, b"\"error\"", 7) != NULL or m.body_bytes < 8:
        return load_fail(c.board, b"the stream refused a message", m.body, m.body_bytes)
    if memmem(m.body, m.body_bytes, b"\"duplicate\"", 11) != NULL:
        return load_fail(c.board, b"the stream calls a new message a duplicate", m.body, m.body_bytes)
    found = <const char*>memmem(m.body, m.body_bytes, b"\"seq\":", 6)
    if found == NULL or load_number(found + 6, stop, &seq) == NULL or seq == 0:
        return load_fail(c.board, b"not a PubAck", m.body, m.body_bytes)
    if c.kind == KIND_BATCH:
        found = <const char*>memmem(m.body, m.body_bytes, b"\"count\":", 8)
        if found == NULL or load_number(found + 8, stop, &counted) == NULL or counted != c.batch:
            return load_fail(c.board, b"the stream counts another batch", m.body, m.body_bytes)
    if seq < c.seq_least or c.seq_least == 0:
        c.seq_least = seq
    if seq > c.seq_most:
        c.seq_most = seq
    c.seq_sum += seq
    return 0


cdef int caller_answers(calls* c, caller* a, load_line* line, char* buffer, int64_t* now) noexcept nogil:
    """Read answers and check them. How many bytes, or -1."""
    cdef ssize_t n = wire_read(&a.w, c.board, buffer, b"server closed a requester"), used
    cdef const char* at = buffer
    cdef const char* stop
    cdef load_message m
    cdef int64_t x, y, z, sent
    cdef uint64_t number, answered = 0
    if n <= 0:
        return <int>n
    stop = buffer + n
    now[0] = load_now()
    while at < stop:
        if at[0] != b'M' and at[0] != b'H':
            used = wire_line(&a.w, c.board, at, stop)
            if used < 0:
                return -1
            if used == 0:
                break
            at += used
            continue
        used = load_parse(at, stop, c.frame_most, &m)
        if used < 0:
            return load_fail(c.board, b"not a message that was awaited", at, stop - at)
        if used == 0:
            break
        if (m.subject_bytes != c.inbox_bytes + INBOX_BYTES or memcmp(m.subject, c.inbox, c.inbox_bytes)
                or m.sid != 1):
            return load_fail(c.board, b"not the answer awaited", at, used)
        x = get_index(m.subject + c.inbox_bytes)
        y = get_index(m.subject + c.inbox_bytes + 5)
        z = get_index(m.subject + c.inbox_bytes + 9)
        if x != a.number or y < 0 or z < 0:
            return load_fail(c.board, b"not the answer awaited", at, used)
        number = <uint64_t>(y << 20 | z)
        sent = a.sent_ns[number & c.kept_mask]
        if number == 0 or number > a.sequence or sent == 0 or a.sequence - number > c.kept_mask:
            return load_fail(c.board, b"answered twice or never asked", at, used)
        if answer_check(c, a, &m, number, at, used):
            return -1
        a.sent_ns[number & c.kept_mask] = 0
        a.answered += 1
        answered += 1
        load_record(c.latency, now[0] - sent)
        at += used
    if wire_keep(&a.w, c.board, at, stop - at):
        return -1
    if answered:
        load_set(&line.count, line.count + answered * c.batch)
        load_set(&line.last_ns, <uint64_t>now[0])
    return <int>n


cdef int responder_serve(calls* c, wire* w, char* buffer) noexcept nogil:
    """Read requests, make the answers: headers and payload go back as they came. Bytes read, or -1."""
    cdef ssize_t n, used
    cdef const char* at = buffer
    cdef const char* stop
    cdef load_message m
    cdef int words
    if wire_room(w) < RECEIVE_BYTES:                     # TCP takes no answers: nor are requests read
        return 0
    n = wire_read(w, c.board, buffer, b"server closed a responder")
    if n <= 0:
        return <int>n
    stop = buffer + n
    while at < stop:
        if at[0] != b'M' and at[0] != b'H':
            used = wire_line(w, c.board, at, stop)
            if used < 0:
                return -1
            if used == 0:
                break
            at += used
            continue
        used = load_parse(at, stop, c.frame_most, &m)
        if used < 0 or used > 0 and (m.reply == NULL or m.sid != 1):
            return load_fail(c.board, b"not a request", at, stop - at)
        if used == 0:
            break
        if wire_room(w) < <size_t>used + 64:
            return load_fail(c.board, b"no room for answers", at, used)
        if m.header_bytes:
            words = snprintf(w.out + w.out_filled, m.reply_bytes + 64, b"HPUB %.*s %zu %zu\r\n",
                             <int>m.reply_bytes, m.reply, m.header_bytes, m.header_bytes + m.body_bytes)
        else:
            words = snprintf(w.out + w.out_filled, m.reply_bytes + 64, b"PUB %.*s %zu\r\n", <int>m.reply_bytes,
                             m.reply, m.body_bytes)
        w.out_filled += <size_t>words
        wire_put(w, m.headers, m.header_bytes + m.body_bytes + 2)
        c.served += 1
        at += used
    if wire_keep(w, c.board, at, stop - at):
        return -1
    return <int>n


cdef uint64_t finished_of_all(calls* c) noexcept nogil:
    cdef uint64_t total = 0
    cdef int i
    for i in range(c.groups_all):
        total += load_get(&c.board.line[i].finished)
    return total


cdef int run_calls(calls* c, char* buffer) noexcept nogil:
    cdef epoll_event events[EVENTS_MAX]
    cdef int epoll = epoll_create1(0), i, n, number, moved, got, result = 0
    cdef int64_t now = load_now(), progress_ns, next_ns, due
    cdef uint64_t finished
    cdef bint stuck
    cdef load_line* line = &c.board.line[c.group]
    cdef caller* a
    for i in range(c.responders):
        load_watch(epoll, EPOLL_CTL_ADD, c.responder[i].fd, EPOLLIN, c.callers + i)
    while now < c.started_ns and not load_get(&c.board.failed):
        load_wait(epoll, events, 1, c.started_ns - now)
        now = load_now()
    for i in range(c.callers):
        load_watch(epoll, EPOLL_CTL_ADD, c.caller[i].w.fd, EPOLLIN, i)
    progress_ns = now
    for i in range(c.callers):
        if c.period_ns == 0:
            caller_fill(c, &c.caller[i], line, now)
            if wire_flush(&c.caller[i].w, c.board, epoll, i, b"the server is gone: requester write"):
                result = -1
    while result == 0:
        if load_get(&c.board.failed):
            result = -1
            break
        now = load_now()
        next_ns = now + WAIT_NS
        finished = 0
        stuck = False
        for i in range(c.callers):
            a = &c.caller[i]
            if is_ending(c, a, now):
                if a.answered == a.sequence and a.w.out_filled == 0:
                    finished += 1
                else:
                    stuck = True
            elif c.period_ns > 0:
                due = caller_fill(c, a, line, now)
                if due < next_ns:
                    next_ns = due
                if a.sequence - a.answered >= c.in_flight:
                    stuck = True
                    if next_ns <= now:
                        next_ns = now + WAIT_NS
                if wire_flush(&a.w, c.board, epoll, i, b"the server is gone: requester write"):
                    result = -1
                    break
            else:
                stuck = True
        if result:
            break
        load_set(&line.finished, finished)
        if finished_of_all(c) == <uint64_t>c.callers_all:
            break
        n = load_wait(epoll, events, EVENTS_MAX, next_ns - now if next_ns - now > SPIN_NS else 0)
        if n < 0 and errno != EINTR:
            result = load_fail_errno(c.board, b"epoll_wait")
            break
        moved = 0
        for i in range(n):
            number = <int>events[i].data.u64
            if number >= c.callers:
                got = 0
                if events[i].events & ~<uint32_t>EPOLLOUT:
                    got = responder_serve(c, &c.responder[number - c.callers], buffer)
                if got < 0 or wire_flush(&c.responder[number - c.callers], c.board, epoll, number,
                                         b"the server is gone: responder write"):
                    result = -1
                    break
            else:
                a = &c.caller[number]
                got = 0
                if events[i].events & ~<uint32_t>EPOLLOUT:
                    got = caller_answers(c, a, line, buffer, &now)
                if got >= 0 and c.period_ns == 0:
                    caller_fill(c, a, line, now)
                if got < 0 or wire_flush(&a.w, c.board, epoll, number, b"the server is gone: requester write"):
                    result = -1
                    break
            moved += got
        if result:
            break
        if moved or not stuck:
            progress_ns = load_now()
        elif load_now() - progress_ns > c.stall_ns:
            if load_claim(c.board):
                snprintf(c.board.reason, LOAD_REASON_BYTES, b"no answer for %lld s; lost: %llu of %llu requests",
                         <long long>(c.stall_ns // 1000000000),
                         <unsigned long long>(line.sent - line.count), <unsigned long long>line.sent)
                load_set(&c.board.failed, 2)
            result = -1
    close(epoll)
    return result


cdef class Calls:
    """The callers and responders of this process.

    callers: descriptors, number i subscribed (sid 1) to `inbox` + index_text(caller_first + i) + `.*`.
    responders: subscribed (sid 1) to what the callers ask; for ECHO only.
    subject: of the requests, less the four letters of its index when `subjects` > 1 (draws, step: as in Stream).
    sizes: payloads in turn, each 16 or more; [0] for GET, whose `values` have these sizes in turn. headers: the whole
    block of a request.
    limit: requests of a caller at most. rate: requests/s of all callers together; 0: closed loop, `in_flight` each.
    batch: messages of a request, BATCH only.
    """
    cdef calls c
    cdef char* buffer
    cdef readonly Board board
    cdef object _draws

    def __cinit__(self, callers, responders=(), *, bytes subject, bytes inbox, int kind=KIND_ECHO, sizes=(16,),
                  bytes headers=b"", values=(16,), int subjects=1, int step=1, bytes draws=b"", int in_flight=1,
                  uint64_t limit=2 ** 62, double rate=0.0, int batch=1, Board board=None, int group=0,
                  int groups_all=0, int callers_all=0, int caller_first=0, double stall_seconds=20.0):
        cdef calls* c = &self.c
        cdef int i
        cdef caller* a
        payloads = list(sizes)
        if not 1 <= in_flight <= 1 << 20 or not 0 <= kind <= KIND_GET or not 0 <= group < LOAD_GROUPS_MAX:
            raise ValueError("in_flight, kind or group out of range")
        if not payloads or len(payloads) > 4096 or not all(
                size == 0 and kind == KIND_GET or 16 <= size <= 64 << 20 for size in payloads):
            raise ValueError("sizes out of range")
        if not 1 <= subjects <= 32 ** 4 or len(draws) % 4 or len(subject) > 200 or len(inbox) > 60:
            raise ValueError("subject, subjects, draws or inbox out of range")
        if not 1 <= batch <= 1000 or batch > 1 and (kind != KIND_BATCH or len(payloads) > 1):
            raise ValueError("batch out of range")
        self.board = board if board is not None else Board()
        c.board = self.board.b
        c.kind = kind
        c.group = group
        c.groups_all = groups_all or group + 1
        c.callers = len(callers)
        c.responders = len(responders)
        c.callers_all = callers_all or c.callers
        c.in_flight = in_flight
        c.kept_mask = KEPT_MIN // 2
        while c.kept_mask < <uint64_t>in_flight * 2:
            c.kept_mask = c.kept_mask * 2
        c.kept_mask = c.kept_mask * 2 - 1
        c.batch = batch
        c.subjects = subjects
        c.step = step % subjects
        if draws:
            self._draws = draws
            c.draws = <uint32_t*><char*>draws
            c.draws_count = len(draws) // 4
            for i in range(<int>c.draws_count):
                if c.draws[i] >= c.subjects:
                    raise ValueError("draws out of range")
        c.period_ns = c.callers_all * 1e9 / rate if rate > 0 else 0.0
        c.stall_ns = <int64_t>(stall_seconds * 1e9)
        c.inbox = copied(inbox)
        c.inbox_bytes = len(inbox)
        c.headers = copied(headers)
        c.header_bytes = len(headers)
        c.values = len(values)
        c.value_payload = <uint32_t*>calloc(max(c.values, 1), 4)
        if c.value_payload == NULL:
            raise MemoryError
        for i in range(<int>c.values):
            c.value_payload[i] = values[i]
        c.filling = copied(b"x" * max(max(payloads), max(values)))
        c.frame_most = max(max(payloads), max(values), 64 * 1024) + len(headers) + 8192
        self._requests(subject, inbox, payloads, headers)
        c.latency = <load_histogram*>calloc(1, sizeof(load_histogram))
        c.lateness = <load_histogram*>calloc(1, sizeof(load_histogram))
        c.caller = <caller*>calloc(max(c.callers, 1), sizeof(caller))
        c.responder = <wire*>calloc(max(c.responders, 1), sizeof(wire))
        self.buffer = <char*>malloc(RECEIVE_BYTES + c.frame_most + 2 * LINE_MAX)
        if (c.latency == NULL or c.lateness == NULL or c.caller == NULL or c.responder == NULL
                or self.buffer == NULL):
            raise MemoryError
        for i in range(c.callers):
            a = &c.caller[i]
            # All that may be in flight has room: else a buffer's worth would be, whatever was asked for.
            room = min(<int64_t>in_flight * (c.request_most + 64), OUT_BYTES_MOST) + c.request_most + 64
            wire_make(&a.w, callers[i], max(OUT_BYTES, 2 * <int>c.request_most, room), c.frame_most + LINE_MAX)
            a.number = caller_first + i
            a.limit = limit
            a.subject = a.number * ((c.draws_count if draws else subjects) // max(c.callers_all, 1))
            a.sent_ns = <int64_t*>calloc(c.kept_mask + 1, 8)
            a.asked = <uint32_t*>calloc(c.kept_mask + 1, 4)
            if a.sent_ns == NULL or a.asked == NULL:
                raise MemoryError
        for i in range(c.responders):
            wire_make(&c.responder[i], responders[i], 4 * (RECEIVE_BYTES + <int>c.frame_most), c.frame_most + LINE_MAX)

    cdef _requests(self, bytes subject, bytes inbox, list payloads, bytes headers):
        """Make one request of each size, and note where it is patched."""
        cdef calls* c = &self.c
        cdef int i
        made = b""
        c.slots = len(payloads)
        c.slot_at = <uint32_t*>calloc(c.slots + 1, 4)
        c.slot_inbox = <uint32_t*>calloc(c.slots, 4)
        c.slot_stamp = <uint32_t*>calloc(c.slots, 4)
        c.slot_payload = <uint32_t*>calloc(c.slots, 4)
        c.batch_id_at = <uint32_t*>calloc(c.batch, 4)
        c.batch_subject_at = <uint32_t*>calloc(c.batch, 4)
        c.batch_stamp_at = <uint32_t*>calloc(c.batch, 4)
        if (c.slot_at == NULL or c.slot_inbox == NULL or c.slot_stamp == NULL or c.slot_payload == NULL
                or c.batch_id_at == NULL or c.batch_subject_at == NULL or c.batch_stamp_at == NULL):
            raise MemoryError
        name = subject + (b"aaaa" if c.subjects > 1 else b"")
        reply = inbox + b"aaaa.aaaaaaaa"
        for i in range(<int>c.slots):
            c.slot_at[i] = len(made)
            c.slot_payload[i] = payloads[i]
            if c.kind == KIND_BATCH:
                request, inbox_at = self._batch(name, reply, payloads[i], headers, len(subject))
            else:
                line = b"%s %s " % (b"HPUB" if headers else b"PUB", name)
                inbox_at = len(line) + len(inbox)
                sizes = b"%d %d" % (len(headers), len(headers) + payloads[i]) if headers else b"%d" % payloads[i]
                line += b"%s %s\r\n%s" % (reply, sizes, headers)
                c.slot_stamp[i] = len(line)
                request = line + b"x" * payloads[i] + b"\r\n"
            c.slot_inbox[i] = inbox_at
            made += request
            c.request_most = max(c.request_most, <size_t>len(request))
            if len(made) > 1 << 30:
                raise ValueError("sizes too big")
        c.slot_at[c.slots] = len(made)
        c.index_at = len(subject) + (5 if headers or c.kind == KIND_BATCH else 4) if c.subjects > 1 else 0
        c.frames = copied(made)

    cdef tuple _batch(self, bytes name, bytes reply, int payload, bytes headers, int subject_bytes):
        """The frames of a batch (ADR-50): all have its id and their number in it, the last commits and wants an answer."""
        cdef calls* c = &self.c
        cdef int i
        made = b""
        inbox_at = 0
        own = headers[10:len(headers) - 2] if headers else b""
        for i in range(<int>c.batch):
            last = i == <int>c.batch - 1
            block = b"NATS/1.0\r\nNats-Batch-Id:"
            id_at = len(block)
            block += b"aaaaaaaaaaaa\r\nNats-Batch-Sequence:%d\r\n%s%s\r\n" % (
                i + 1, b"Nats-Batch-Commit:1\r\n" if last else b"", own)
            line = b"HPUB %s " % name
            if last:
                inbox_at = len(made) + len(line) + len(reply) - INBOX_BYTES
                line += reply + b" "
            line += b"%d %d\r\n" % (len(block), len(block) + payload)
            c.batch_subject_at[i] = len(made) + 5 + subject_bytes
            c.batch_id_at[i] = len(made) + len(line) + id_at
            c.batch_stamp_at[i] = len(made) + len(line) + len(block)
            made += line + block + b"x" * payload + b"\r\n"
        return made, inbox_at

    def start(self, double seconds, int64_t at_ns=0):
        """Set the clock: from now or `at_ns`; no new request after `seconds`."""
        self.c.started_ns = at_ns or load_now()
        self.c.deadline_ns = self.c.started_ns + <int64_t>(min(seconds, 1e9) * 1e9)

    def run(self):
        """The loop, to its end. LoadError when a check fails."""
        cdef int result
        with nogil:
            result = run_calls(&self.c, self.buffer)
        if result:
            raise LoadError(self.board.reason or "another part of the load failed")

    def part(self):
        """This process's figures: asked and answered (messages), latency and lateness (histograms' bytes), served (by the
        responders), acks (least, greatest and sum of the sequences in PubAcks, and how many)."""
        cdef calls* c = &self.c
        cdef int i
        answered = sum([c.caller[i].answered for i in range(c.callers)])
        return {
            "asked": sum([c.caller[i].sequence for i in range(c.callers)]) * c.batch, "answered": answered * c.batch,
            "latency": [(<char*>c.latency)[:sizeof(load_histogram)]],
            "lateness": [(<char*>c.lateness)[:sizeof(load_histogram)]] if c.period_ns > 0 else [],
            "served": c.served, "acks": (c.seq_least, c.seq_most, c.seq_sum, answered),
        }

    def __dealloc__(self):
        cdef calls* c = &self.c
        cdef int i
        if c.caller != NULL:
            for i in range(c.callers):
                free(c.caller[i].w.out)
                free(c.caller[i].w.carry)
                free(c.caller[i].sent_ns)
                free(c.caller[i].asked)
        if c.responder != NULL:
            for i in range(c.responders):
                free(c.responder[i].out)
                free(c.responder[i].carry)
        free(c.caller)
        free(c.responder)
        free(c.latency)
        free(c.lateness)
        free(c.inbox)
        free(c.headers)
        free(c.filling)
        free(c.frames)
        free(c.value_payload)
        free(c.slot_at)
        free(c.slot_inbox)
        free(c.slot_stamp)
        free(c.slot_payload)
        free(c.batch_id_at)
        free(c.batch_subject_at)
        free(c.batch_stamp_at)
        free(self.buffer)
