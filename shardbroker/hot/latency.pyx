# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""See latency.pxd. Called by exchange for requests to exports that are measured; nobody else comes here. Needs the GIL only
where a request has a header of tracing. Only single answers are measured, and only of clients.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from shardbroker.hot.bytes cimport SB_NEVER
from shardbroker.hot.connection cimport event_push
from shardbroker.hot.deliver cimport random_below
from shardbroker.hot.engine cimport engine_interest
from shardbroker.hot.memory cimport mem_alloc
from shardbroker.hot.model cimport account_t, connection_t, import_t, measure_t, response_t
from shardbroker.hot.person cimport TELL_ACCOUNT, TELL_ALL, person_text
from shardbroker.hot.state cimport EVENT_LATENCY, engine_t, event_t

cdef enum:
    # How often it is looked whether someone still waits, and how many are looked at in one turn.
    SWEEP_NS = 100_000_000
    SWEEP_NS_MANY = 10_000_000
    SWEEP_MEASURES = 256


cdef uint64_t monotonic_ns() noexcept nogil:
    """A turn has one time; an answer may come in the same one."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec


# ---- whether ----------------------------------------------------------------------------------------------------

cdef bint says(const char* line, uint32_t n, const char* name, uint32_t name_bytes) noexcept nogil:
    """Whether a header line has this name (in lower case)."""
    cdef uint32_t i
    cdef char b
    if n <= name_bytes or line[name_bytes] != c':':
        return False
    for i in range(name_bytes):
        b = line[i]
        if c'A' <= b <= c'Z':
            b += 32
        if b != name[i]:
            return False
    return True


cdef bint traced(const char* headers, uint32_t n) noexcept nogil:
    """Whether any header may ask for a measurement; what it says is for Python to read."""
    cdef uint32_t at = 0
    cdef uint32_t left
    while at < n:
        left = n - at
        if (says(headers + at, left, b"uber-trace-id", 13) or says(headers + at, left, b"traceparent", 11)
                or says(headers + at, left, b"b3", 2) or says(headers + at, left, b"x-b3-sampled", 12)
                or says(headers + at, left, b"x-b3-traceid", 12)):
            return True
        while at < n and headers[at] != c'\n':
            at += 1
        at += 1
    return False


cdef bint latency_wanted(engine_t* e, const import_t* made, int32_t header_bytes, const char* payload, char** why,
                         uint32_t* why_bytes) noexcept nogil:
    """Whether this request is measured. why: the headers that ask for it, as JSON, for the caller to free; NULL if none do."""
    cdef bint wanted = False
    why[0] = NULL
    why_bytes[0] = 0
    if made.results == NULL:
        return False
    if made.sampling and random_below(e, 100) < made.sampling:
        return True
    if header_bytes <= 0 or e.traced == NULL or not traced(payload, <uint32_t>header_bytes):
        return False
    with gil:
        try:
            text = (<object>e.traced)(payload[:header_bytes])
        except Exception:
            text = None                 # what cannot be read asks for nothing
        if text is not None:
            why[0] = <char*>mem_alloc(<size_t>len(text) + 1)
            memcpy(why[0], <char*>text, len(text))
            why_bytes[0] = <uint32_t>len(text)
            wanted = True
    return wanted


# ---- measuring --------------------------------------------------------------------------------------------------

cdef measure_t* measure_new(engine_t* e, const import_t* made, connection_t* c, const char* why, uint32_t why_bytes) noexcept nogil:
    cdef uint32_t person_bytes
    # Of who asks more is told only where its account shares it.
    cdef char* person = person_text(e, c, c.account, NULL, TELL_ALL if made.tell == TELL_ALL else TELL_ACCOUNT, &person_bytes)
    cdef measure_t* m = <measure_t*>mem_alloc(sizeof(measure_t) + <size_t>made.results_bytes + person_bytes + why_bytes)
    memset(m, 0, sizeof(measure_t))
    m.started_ns = monotonic_ns()
    m.rtt_ns = c.rtt_ns
    m.results_bytes = made.results_bytes
    m.person_bytes = person_bytes
    m.why_bytes = why_bytes
    memcpy(m.text, made.results, made.results_bytes)
    if person_bytes:
        memcpy(m.text + made.results_bytes, person, person_bytes)
    if why_bytes:
        memcpy(m.text + made.results_bytes + person_bytes, why, why_bytes)
    free(person)
    return m


cdef void report(engine_t* e, measure_t* m, account_t* exporter, int status, const responder_t* responder) noexcept nogil:
    cdef event_t* v
    event_push(e, EVENT_LATENCY, NULL, status, m.text, <size_t>m.results_bytes + m.person_bytes + m.why_bytes)
    v = &e.events[e.events_count - 1]
    v.values[0] = m.results_bytes
    v.values[1] = m.person_bytes
    v.values[2] = monotonic_ns() - m.started_ns
    v.values[3] = m.rtt_ns
    v.values[4] = <uint64_t>exporter
    v.values[5] = 0
    if responder != NULL:
        v.slot = responder.slot
        v.client_id = responder.client_id
        v.values[5] = <uint64_t>responder.shard


cdef void latency_begin(engine_t* e, const import_t* made, connection_t* c, response_t* r, const char* why,
                        uint32_t why_bytes) noexcept nogil:
    cdef measure_t* m = measure_new(e, made, c, why, why_bytes)
    m.response = r
    r.measure = m
    m.before = e.measures_last
    if e.measures_last != NULL:
        e.measures_last.next = m
    else:
        e.measures_first = m
        e.measures_at_ns = e.now_ns + SWEEP_NS
    e.measures_last = m
    e.measures_count += 1
    if e.hooks_at_ns > e.measures_at_ns:
        e.hooks_at_ns = e.measures_at_ns


cdef void latency_refuse(engine_t* e, const import_t* made, connection_t* c, const char* why,
                         uint32_t why_bytes) noexcept nogil:
    """A request that nobody can answer, as it has no reply subject."""
    cdef measure_t* m = measure_new(e, made, c, why, why_bytes)
    report(e, m, made.exporter, LATENCY_NO_REPLY, NULL)
    free(m)


cdef void latency_end(engine_t* e, response_t* r, int status, const responder_t* responder) noexcept nogil:
    if r.measure != NULL:
        report(e, r.measure, r.answerer, status, responder)
        latency_forget(e, r)


cdef void latency_forget(engine_t* e, response_t* r) noexcept nogil:
    """No report; or none any more."""
    cdef measure_t* m = r.measure
    if m == NULL:
        return
    if m.before != NULL:
        m.before.next = m.next
    else:
        e.measures_first = m.next
    if m.next != NULL:
        m.next.before = m.before
    else:
        e.measures_last = m.before
    e.measures_count -= 1
    r.measure = NULL
    free(m)


cdef response_t* latency_sweep(engine_t* e, uint32_t* budget) noexcept nogil:
    """A response whose end has been reported, for the caller to drop; NULL when there is none (for now). Those that were
    looked at go behind the others. budget: how many may be looked at, SWEEP_MEASURES at first."""
    cdef measure_t* m
    cdef response_t* r
    if e.now_ns < e.measures_at_ns:
        return NULL
    if budget[0] == 0:
        budget[0] = 1 + (SWEEP_MEASURES if e.measures_count > SWEEP_MEASURES else e.measures_count)
    while budget[0] > 1 and e.measures_first != NULL:
        budget[0] -= 1
        m = e.measures_first
        r = m.response
        if r.expires_ns <= e.now_ns:
            latency_end(e, r, LATENCY_TOO_LATE, NULL)
            return r
        if not engine_interest(e, r.asker, r.reply, r.reply_bytes):
            latency_end(e, r, LATENCY_NOBODY_WAITS, NULL)
            return r
        if m.next != NULL:
            e.measures_first = m.next
            m.next.before = NULL
            m.next = NULL
            m.before = e.measures_last
            e.measures_last.next = m
            e.measures_last = m
    e.measures_at_ns = e.now_ns + (SWEEP_NS_MANY if e.measures_count > SWEEP_MEASURES else SWEEP_NS)
    return NULL


cdef uint64_t latency_next_ns(engine_t* e) noexcept nogil:
    """When to sweep again."""
    return e.measures_at_ns if e.measures_first != NULL else SB_NEVER
