# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Request and reply: round trips and their times.

    [requester] --PUB svc _INBOX.n--> [ server ] --MSG--> [responder]
         ^------------MSG _INBOX.n--- [ server ] <--PUB _INBOX.n----+     unit: one round trip
Each requester holds one wildcard subscription `_INBOX.<four letters>.*`, as client libraries do, and every
request has a new reply subject under it.
"""

from libc.errno cimport EAGAIN, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr, memcmp, memcpy, memmove, memset

from shardbroker.bench.net cimport (
    EPOLLIN, EPOLL_CTL_ADD, EVENTS_MAX, LINE_MAX, MARK, MSG_DONTWAIT, MSG_NOSIGNAL, REASON_BYTES,
    RECEIVE_BYTES, close, epoll_create1, epoll_event, epoll_wait, get_index, load_digits, load_now,
    load_stamp, load_watch, put_index, recv, send,
)

from shardbroker.bench import LoadError

load_digits()


cdef enum:
    REQUESTS_KEPT = 1024     # power of two: requests in flight on one connection

cdef uint64_t NUMBER_MASK = (<uint64_t>1 << 40) - 1   # a reply subject's eight digits

cdef struct caller:
    int fd
    uint64_t sequence                    # requests sent
    uint64_t answered
    int64_t sent_ns[REQUESTS_KEPT]       # of request n at n % REQUESTS_KEPT; 0: not in flight
    size_t carried
    char carry[LINE_MAX]

cdef struct calls:
    int callers
    int in_flight
    uint32_t payload
    char request[256]                    # "PUB svc _INBOX.aaaa.aaaaaaaa 16\r\n"; both reply parts are patched
    size_t request_bytes
    size_t request_inbox_at
    char answer_head[256]                # "MSG _INBOX." as the requester gets it
    size_t answer_head_bytes
    char call_head[256]                  # "MSG svc 1 " as the responder gets it
    size_t call_head_bytes
    char size_text[16]
    size_t size_bytes
    uint64_t answered
    uint64_t samples
    uint64_t samples_max
    int64_t deadline_ns
    char reason[REASON_BYTES]

cdef enum:
    INBOX_BYTES = 20                     # "_INBOX.cccc.nnnnnnnn"
    INBOX_AT_CALLER = 7
    INBOX_AT_NUMBER = 12


cdef int calls_fail(calls* c, const char* what, const char* text, size_t text_bytes) noexcept nogil:
    cdef int shown = <int>(text_bytes if text_bytes < 200 else 200)
    snprintf(c.reason, REASON_BYTES, b"%s: '%.*s'", what, shown, text)
    return -1


cdef size_t caller_request(calls* c, caller* a, uint32_t number, char* out, int64_t now) noexcept nogil:
    """Append one request to out; how many bytes."""
    cdef load_stamp stamp
    cdef uint64_t n = a.sequence
    cdef char* inbox = out + c.request_inbox_at
    cdef char* at
    a.sequence += 1
    a.sent_ns[n & (REQUESTS_KEPT - 1)] = now
    memcpy(out, c.request, c.request_bytes)
    put_index(inbox + INBOX_AT_CALLER, number)
    put_index(inbox + INBOX_AT_NUMBER, <uint32_t>(n >> 20) & 0xfffff)
    put_index(inbox + INBOX_AT_NUMBER + 4, <uint32_t>n & 0xfffff)
    at = out + c.request_bytes
    memset(at, b'x', c.payload)
    stamp.sequence = n
    stamp.subject = number
    stamp.publisher = 0
    stamp.mark = MARK
    memcpy(at, &stamp, 16)
    memcpy(at + c.payload, b"\r\n", 2)
    return c.request_bytes + c.payload + 2


cdef ssize_t caller_line(calls* c, int fd, const char* at, const char* stop) noexcept nogil:
    """A line that is no message: its bytes, 0 when it is not whole yet, -1 for a failure."""
    cdef const char* end = <const char*>memchr(at, 10, stop - at)
    if end == NULL:
        return 0
    if at[0] == b'P' and at[1] == b'I':
        send(fd, b"PONG\r\n", 6, MSG_NOSIGNAL | MSG_DONTWAIT)
    elif at[0] != b'I':
        return calls_fail(c, b"got", at, end - at)
    return end + 1 - at


cdef ssize_t caller_read(calls* c, caller* a, uint32_t number, char* out, uint32_t* samples) noexcept nogil:
    """Read answers, make the next requests. Bytes of requests in out, or -1."""
    cdef ssize_t n = recv(a.fd, a.carry + a.carried, LINE_MAX - a.carried, MSG_DONTWAIT)
    cdef char* at = a.carry
    cdef char* stop
    cdef char* body
    cdef size_t made = 0
    cdef size_t frame = c.answer_head_bytes + INBOX_BYTES - INBOX_AT_CALLER + 3 + c.size_bytes + c.payload + 2
    cdef int64_t now = load_now(), x, y, z, sent
    cdef load_stamp stamp
    if n <= 0:
        if n < 0 and errno == EAGAIN:
            return 0
        return calls_fail(c, b"server closed a requester", a.carry, a.carried)
    stop = a.carry + a.carried + n
    while at < stop:
        if at[0] != b'M':
            n = caller_line(c, a.fd, at, stop)
            if n < 0:
                return -1
            if n == 0:
                break
            at += n
            continue
        if <size_t>(stop - at) < frame:
            break
        body = at + c.answer_head_bytes
        x = get_index(body)
        y = get_index(body + 5)
        z = get_index(body + 9)
        memcpy(&stamp, at + frame - 2 - c.payload, 16)
        if (memcmp(at, c.answer_head, c.answer_head_bytes) or x != number or y < 0 or z < 0
                or memcmp(body + 13, b" 1 ", 3) or memcmp(body + 16, c.size_text, c.size_bytes)
                or at[frame - 1] != 10 or stamp.mark != MARK or stamp.subject != number
                or (stamp.sequence & NUMBER_MASK) != <uint64_t>(y << 20 | z)):
            return calls_fail(c, b"not the answer awaited", at, frame)
        sent = a.sent_ns[stamp.sequence & (REQUESTS_KEPT - 1)]
        if sent == 0 or stamp.sequence >= a.sequence:
            return calls_fail(c, b"answered twice or never asked", at, frame)
        a.sent_ns[stamp.sequence & (REQUESTS_KEPT - 1)] = 0
        a.answered += 1
        c.answered += 1
        if c.samples < c.samples_max:
            samples[c.samples] = <uint32_t>(now - sent)
            c.samples += 1
        if now < c.deadline_ns:
            made += caller_request(c, a, number, out + made, now)
        at += frame
    a.carried = stop - at
    memmove(a.carry, at, a.carried)
    return <ssize_t>made


cdef ssize_t responder_read(calls* c, int fd, char* carry, size_t* carried, char* out) noexcept nogil:
    """Read requests, make the answers: the payload goes back as it came. Bytes in out, or -1."""
    cdef ssize_t n = recv(fd, carry + carried[0], RECEIVE_BYTES - carried[0], MSG_DONTWAIT)
    cdef char* at = carry
    cdef char* stop
    cdef char* to = out
    cdef char* body
    cdef size_t head = c.call_head_bytes, frame = head + INBOX_BYTES + 1 + c.size_bytes + c.payload + 2
    if n <= 0:
        if n < 0 and errno == EAGAIN:
            return 0
        return calls_fail(c, b"server closed the responder", carry, carried[0])
    stop = carry + carried[0] + n
    while at < stop:
        if at[0] != b'M':
            n = caller_line(c, fd, at, stop)
            if n < 0:
                return -1
            if n == 0:
                break
            at += n
            continue
        if <size_t>(stop - at) < frame:
            break
        body = at + head
        if memcmp(at, c.call_head, head) or memcmp(body + INBOX_BYTES + 1, c.size_text, c.size_bytes):
            return calls_fail(c, b"not the request awaited", at, frame)
        memcpy(to, b"PUB ", 4)
        memcpy(to + 4, body, frame - head)
        to += 4 + frame - head
        at += frame
    carried[0] = stop - at
    memmove(carry, at, carried[0])
    return to - out


cdef int send_all(calls* c, int fd, const char* data, size_t count) noexcept nogil:
    """These loads keep little in flight, so a full socket here is a fault."""
    if count and send(fd, data, count, MSG_NOSIGNAL | MSG_DONTWAIT) != <ssize_t>count:
        return calls_fail(c, b"could not send", b"", 0)
    return 0


cdef int run_calls(calls* c, caller* a, int responder, char* carry, char* out,
                   uint32_t* samples) noexcept nogil:
    cdef epoll_event events[EVENTS_MAX]
    cdef int epoll = epoll_create1(0), i, j, n, number
    cdef size_t carried = 0
    cdef ssize_t made
    cdef uint64_t asked
    cdef int result = 0
    load_watch(epoll, EPOLL_CTL_ADD, responder, EPOLLIN, c.callers)
    for i in range(c.callers):
        load_watch(epoll, EPOLL_CTL_ADD, a[i].fd, EPOLLIN, i)
    for i in range(c.callers):
        made = 0
        for j in range(c.in_flight):  # no-cython-lint
            made += <ssize_t>caller_request(c, &a[i], i, out + made, load_now())
        if send_all(c, a[i].fd, out, made):
            result = -1
    while result == 0:
        asked = 0
        for i in range(c.callers):
            asked += a[i].sequence
        if load_now() >= c.deadline_ns and asked == c.answered:
            break
        n = epoll_wait(epoll, events, EVENTS_MAX, 20000)
        if n == 0:
            result = calls_fail(c, b"no answer for 20 s", b"", 0)
        for i in range(n):
            number = <int>events[i].data.u64
            if number == c.callers:
                made = responder_read(c, responder, carry, &carried, out)
                if made < 0 or send_all(c, responder, out, made):
                    result = -1
            else:
                made = caller_read(c, &a[number], number, out, samples)
                if made < 0 or send_all(c, a[number].fd, out, made):
                    result = -1
            if result:
                break
    close(epoll)
    return result


def request_reply(requesters, int responder, *, double seconds, int in_flight=1, int payload_bytes=16):
    """Round trips for `seconds` with `in_flight` requests on each requester; the responder echoes.

    requesters: descriptors, number i subscribed (sid 1) to `_INBOX.<index_text(i)>.*`; responder:
    subscribed (sid 1) to `load.service`. Returns answered, seconds, latencies_ns (bytes of uint32).
    """
    cdef calls c
    cdef caller* a
    cdef char* carry
    cdef char* out
    cdef uint32_t* samples
    cdef bytes text, size = b"%d\r\n" % payload_bytes
    cdef int result, i
    cdef int64_t started_ns
    if (not 1 <= in_flight <= 64 or not 16 <= payload_bytes <= 1024
            or in_flight * (payload_bytes + 64) > LINE_MAX):
        raise ValueError("in_flight or payload_bytes out of range")
    memset(&c, 0, sizeof(c))
    c.callers = len(requesters)
    c.in_flight = in_flight
    c.payload = payload_bytes
    text = b"PUB load.service _INBOX.aaaa.aaaaaaaa " + size
    c.request_bytes = len(text)
    c.request_inbox_at = text.index(b"_INBOX")
    memcpy(c.request, <const char*>text, len(text))
    text = b"MSG _INBOX."
    c.answer_head_bytes = len(text)
    memcpy(c.answer_head, <const char*>text, len(text))
    text = b"MSG load.service 1 "
    c.call_head_bytes = len(text)
    memcpy(c.call_head, <const char*>text, len(text))
    c.size_bytes = len(size)
    memcpy(c.size_text, <const char*>size, len(size))
    c.samples_max = 8 << 20
    a = <caller*>calloc(max(c.callers, 1), sizeof(caller))
    carry = <char*>malloc(RECEIVE_BYTES)
    out = <char*>malloc(2 * RECEIVE_BYTES)
    samples = <uint32_t*>malloc(c.samples_max * 4)
    try:
        if a == NULL or carry == NULL or out == NULL or samples == NULL:
            raise MemoryError
        for i in range(c.callers):
            a[i].fd = requesters[i]
        started_ns = load_now()
        c.deadline_ns = started_ns + <int64_t>(seconds * 1e9)
        with nogil:
            result = run_calls(&c, a, responder, carry, out, samples)
        if result:
            raise LoadError(c.reason.decode("utf-8", "backslashreplace"))
        return {"answered": c.answered, "seconds": (load_now() - started_ns) / 1e9,
                "latencies_ns": (<char*>samples)[:c.samples * 4]}
    finally:
        free(a)
        free(carry)
        free(out)
        free(samples)
