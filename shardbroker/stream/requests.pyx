# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Pull requests; see requests.pxd. Called by the sink (one comes), the loop (one is served) and the timer; needs no GIL.

Requests are served round robin, a message each, as nats-server does: several workers that ask for large batches share
what there is. Nobody walks the queue for a message: times are kept as the earliest, interest is seen when a message
finds nobody.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy

from shardbroker.hot.memory cimport mem_alloc
from shardbroker.stream.consumer cimport (
    EVENT_REQUEST, consumer_heartbeat, consumer_schedule, consumer_status, consumer_t, consumer_wake, count_new, event_t,
    hub_event, hub_t, request_t, requests_free)

cdef enum:
    SECOND_NS = 1000000000
    REPLY_BYTES_MAX = 65000
    ALL_DAY_NS = 86400000000000000      # a thousand days: no request waits longer, so that no sum overflows


# ---- reading ----------------------------------------------------------------------------------------------------

cdef inline bint blank(char c) noexcept nogil:
    return c == c' ' or c == c'\t' or c == c'\r' or c == c'\n'


cdef inline uint32_t skip_blank(const char* p, uint32_t n, uint32_t at) noexcept nogil:
    while at < n and blank(p[at]):
        at += 1
    return at


cdef uint32_t read_number(const char* p, uint32_t n, uint32_t at, int64_t* out) noexcept nogil:
    """Where the number ends; 0: there is none that fits."""
    cdef bint negative = False
    cdef uint32_t start
    cdef int64_t v = 0
    if at < n and p[at] == c'-':
        negative = True
        at += 1
    start = at
    while at < n and c'0' <= p[at] <= c'9':
        if at - start >= 18:
            return 0
        v = v * 10 + (p[at] - c'0')
        at += 1
    if at == start:
        return 0
    out[0] = -v if negative else v
    return at


cdef inline bint is_key(const char* p, uint32_t n, const char* word, uint32_t length) noexcept nogil:
    return n == length and memcmp(p, word, length) == 0


cdef int request_parse(const char* p, uint32_t n, pull_t* out) noexcept nogil:
    """An object of the known fields, a bare number, or nothing. What is not plainly that is left to Python."""
    cdef uint32_t at = skip_blank(p, n, 0)
    cdef uint32_t key, key_bytes
    cdef int64_t v = 0
    cdef bint flag
    out.batch = 1
    out.expires_ns = out.max_bytes = out.heartbeat_ns = 0
    out.no_wait = False
    while n > at and blank(p[n - 1]):
        n -= 1
    if at == n:
        return PULL_READ
    if p[at] != c'{':
        at = read_number(p, n, at, &v)
        if at == n:
            out.batch = v
            return PULL_READ
        return PULL_ODD
    out.batch = 0
    at = skip_blank(p, n, at + 1)
    if at + 1 == n and p[at] == c'}':
        return PULL_READ
    while True:
        at = skip_blank(p, n, at)
        if at >= n or p[at] != c'"':
            return PULL_ODD
        key = at + 1
        at = key
        while at < n and p[at] != c'"' and p[at] != c'\\':
            at += 1
        if at >= n or p[at] != c'"':
            return PULL_ODD
        key_bytes = at - key
        at = skip_blank(p, n, at + 1)
        if at >= n or p[at] != c':':
            return PULL_ODD
        at = skip_blank(p, n, at + 1)
        if at >= n:
            return PULL_ODD
        if is_key(p + key, key_bytes, b"no_wait", 7):
            if n - at >= 4 and memcmp(p + at, b"true", 4) == 0:
                flag = True
                at += 4
            elif n - at >= 5 and memcmp(p + at, b"false", 5) == 0:
                flag = False
                at += 5
            else:
                return PULL_ODD
            out.no_wait = flag
        else:
            at = read_number(p, n, at, &v)
            if at == 0:
                return PULL_ODD
            if is_key(p + key, key_bytes, b"batch", 5):
                out.batch = v
            elif is_key(p + key, key_bytes, b"expires", 7):
                out.expires_ns = v
            elif is_key(p + key, key_bytes, b"max_bytes", 9):
                out.max_bytes = v
            elif is_key(p + key, key_bytes, b"idle_heartbeat", 14):
                out.heartbeat_ns = v
            else:
                return PULL_ODD
        at = skip_blank(p, n, at)
        if at >= n:
            return PULL_ODD
        if p[at] == c'}':
            return PULL_READ if at + 1 == n else PULL_ODD
        if p[at] != c',':
            return PULL_ODD
        at += 1


cdef void requests_on_message(consumer_t* c, const char* reply, uint32_t reply_bytes, const char* payload,
                              uint32_t payload_bytes) noexcept nogil:
    """What was published to $JS.API.CONSUMER.MSG.NEXT, or behind +NXT, without its headers."""
    cdef pull_t pull
    cdef event_t* v
    cdef char* text
    if reply_bytes == 0 or reply_bytes > REPLY_BYTES_MAX:
        return
    if request_parse(payload, payload_bytes, &pull) == PULL_READ:
        requests_add(c, &pull, reply, reply_bytes)
        return
    v = hub_event(c.hub, c, EVENT_REQUEST, 0, 0, 0, NULL, 0)
    if v != NULL:
        text = <char*>mem_alloc(payload_bytes + reply_bytes)
        memcpy(text, payload, payload_bytes)
        memcpy(text + payload_bytes, reply, reply_bytes)
        v.text = text
        v.text_bytes = payload_bytes
        v.reply_bytes = reply_bytes


# ---- the queue --------------------------------------------------------------------------------------------------

cdef void append(consumer_t* c, request_t* r) noexcept nogil:
    r.next = NULL
    if c.requests_last != NULL:
        c.requests_last.next = r
    else:
        c.requests = r
    c.requests_last = r
    c.requests_count += 1
    if r.no_wait:
        c.one_shots += 1


cdef void unlink(consumer_t* c, request_t* before, request_t* r) noexcept nogil:
    if before != NULL:
        before.next = r.next
    else:
        c.requests = r.next
    if c.requests_last == r:
        c.requests_last = before
    c.requests_count -= 1
    if r.no_wait:
        c.one_shots -= 1


cdef void requests_drop_first(consumer_t* c) noexcept nogil:
    """Nobody is there to take it."""
    cdef request_t* r = c.requests
    unlink(c, NULL, r)
    free(r)


cdef inline void watch(consumer_t* c, uint64_t ns) noexcept nogil:
    if ns and (c.requests_next_ns == 0 or ns < c.requests_next_ns):
        c.requests_next_ns = ns


cdef int64_t messages_left(consumer_t* c) noexcept nogil:
    count_new(c)
    return <int64_t>(c.pending + c.table.queued)


cdef void requests_add(consumer_t* c, const pull_t* pull, const char* reply, uint32_t reply_bytes) noexcept nogil:
    """Check a request against the consumer and queue it, or say why not."""
    cdef hub_t* h = c.hub
    cdef request_t* r
    cdef int64_t left
    cdef uint64_t expires_ns = 0
    if c.settings.push:
        consumer_status(c, reply, reply_bytes, b"409 Consumer is push based", 0, 0, False)
        return
    if pull.heartbeat_ns > 0 and pull.heartbeat_ns > pull.expires_ns // 2:
        consumer_status(c, reply, reply_bytes, b"400 Bad Request - heartbeat value too large", 0, 0, False)
        return
    if c.settings.max_batch and pull.batch > <int64_t>c.settings.max_batch:
        consumer_status(c, reply, reply_bytes, c.over_batch.bytes, 0, 0, False)
        return
    if c.settings.max_expires_ns and pull.expires_ns > <int64_t>c.settings.max_expires_ns:
        consumer_status(c, reply, reply_bytes, c.over_expires.bytes, 0, 0, False)
        return
    if c.settings.max_bytes and pull.max_bytes > <int64_t>c.settings.max_bytes:
        consumer_status(c, reply, reply_bytes, c.over_bytes.bytes, 0, 0, False)
        return
    if pull.expires_ns:
        if pull.expires_ns < 0:
            expires_ns = h.now_ns
        else:
            expires_ns = h.now_ns + <uint64_t>(pull.expires_ns if pull.expires_ns < ALL_DAY_NS else ALL_DAY_NS)
    c.used_ns = h.now_ns
    if c.requests_count >= c.settings.max_waiting and h.now_ns - c.requests_checked_ns > SECOND_NS:
        requests_sweep(c, False)
    if pull.no_wait:
        left = messages_left(c)
        if left == 0 and expires_ns == 0:
            consumer_status(c, reply, reply_bytes, b"404 No Messages", 0, 0, False)
            return
        if left > 0 and c.requests_count and left < requests_sweep(c, False):
            consumer_status(c, reply, reply_bytes, b"408 Requests Pending", 0, 0, False)
            return
    if c.requests_count >= c.settings.max_waiting:
        # A client with heartbeats would ask again at once; it notices by their absence.
        if pull.heartbeat_ns <= 0:
            consumer_status(c, reply, reply_bytes, b"409 Exceeded MaxWaiting", 0, 0, False)
        return
    r = <request_t*>mem_alloc(sizeof(request_t) + reply_bytes)
    memcpy(r.reply, reply, reply_bytes)
    r.reply_bytes = reply_bytes
    r.left = pull.batch             # 0 or less is told as it came, and has one
    r.bytes_left = pull.max_bytes
    r.given = 0
    r.no_wait = pull.no_wait
    r.expires_ns = expires_ns
    r.heartbeat_ns = <uint64_t>pull.heartbeat_ns if pull.heartbeat_ns > 0 else 0
    r.heartbeat_next_ns = h.now_ns + r.heartbeat_ns if r.heartbeat_ns else 0
    append(c, r)
    watch(c, r.expires_ns)
    watch(c, r.heartbeat_next_ns)
    consumer_wake(c)
    consumer_schedule(c)


cdef void close_first(consumer_t* c, const char* line) noexcept nogil:
    """Tell the first request why it is over."""
    cdef request_t* r = c.requests
    consumer_status(c, r.reply, r.reply_bytes, line, r.left, r.bytes_left, True)
    requests_drop_first(c)


cdef request_t* requests_next(consumer_t* c, uint64_t size) noexcept nogil:
    """The request whose turn it is and that can take a message of so many bytes; NULL: none."""
    cdef request_t* r
    while c.requests != NULL:
        r = c.requests
        if r.expires_ns and r.expires_ns <= c.hub.now_ns:
            close_first(c, b"408 Request Timeout")
        elif r.bytes_left > 0 and <uint64_t>r.bytes_left < size:
            close_first(c, b"409 Message Size Exceeds MaxBytes")
        else:
            if r.bytes_left > 0 and <uint64_t>r.bytes_left == size:
                r.left = 1              # with this one it has had its bytes
            return r
    return NULL


cdef void request_given(consumer_t* c, request_t* r) noexcept nogil:
    """The first request had a message: to the end of the queue, or out when it had all."""
    r.given += 1
    unlink(c, NULL, r)
    if r.left <= 1:
        free(r)
        return
    r.left -= 1
    if r.heartbeat_ns:
        r.heartbeat_next_ns = c.hub.now_ns + r.heartbeat_ns
    append(c, r)


cdef int64_t requests_sweep(consumer_t* c, bint end_of_stream) noexcept nogil:
    """Look at all: those out of time, one-shot ones when there is nothing more, those nobody listens for go; heartbeats are sent.
    Returns how many messages the others wait for."""
    cdef hub_t* h = c.hub
    cdef request_t* r = c.requests
    cdef request_t* before = NULL
    cdef request_t* following
    cdef bint gone
    cdef int64_t wanted = 0
    c.requests_checked_ns = h.now_ns
    c.requests_next_ns = 0
    while r != NULL:
        following = r.next
        gone = False
        if r.expires_ns and r.expires_ns <= h.now_ns:
            consumer_status(c, r.reply, r.reply_bytes, b"408 Request Timeout", r.left, r.bytes_left, True)
            gone = True
        elif end_of_stream and r.no_wait and (r.expires_ns == 0 or r.given):
            consumer_status(c, r.reply, r.reply_bytes, b"404 No Messages", 0, 0, False)
            gone = True
        elif not h.host.interest(h.host.context, c.stream.account, r.reply, r.reply_bytes):
            gone = True
        if gone:
            unlink(c, before, r)
            free(r)
            r = following
            continue
        wanted += r.left if r.left > 0 else 1
        if r.heartbeat_next_ns:
            if r.heartbeat_next_ns <= h.now_ns:
                consumer_heartbeat(c, r.reply, r.reply_bytes)
                r.heartbeat_next_ns = h.now_ns + r.heartbeat_ns
            watch(c, r.heartbeat_next_ns)
        watch(c, r.expires_ns)
        before = r
        r = following
    return wanted


cdef void requests_release(consumer_t* c, const char* line) noexcept nogil:
    """All are over: the consumer goes."""
    cdef request_t* r = c.requests
    while r != NULL:
        consumer_status(c, r.reply, r.reply_bytes, line, 0, 0, False)
        r = r.next
    requests_free(c)
