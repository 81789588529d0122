# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Acknowledgements; see acks.pxd. Called by the hub for what its sinks took in; needs no GIL.

An acknowledgement with a reply subject is answered only when the state that has it is saved: then the message is not
delivered again whatever happens. Consumers whose state is in memory only are answered at once.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy

from shardbroker.hot.memory cimport mem_alloc
from shardbroker.stream.consumer cimport (
    ACK_ALL, ACK_EXPLICIT, EVENT_ACKED, EVENT_NAKED, EVENT_NAK_DELAY, EVENT_TERMINATED, RETENTION_LIMITS,
    consumer_changed, consumer_schedule, consumer_settled, consumer_t, entry_changed, entry_due, event_t, hub_event,
    hub_t, retained_settled, waiting_ack_t)
from shardbroker.stream.pending cimport PENDING_EXCEEDED, PENDING_QUEUED, pending_delay, pending_find, pending_t, pending_wait
from shardbroker.stream.requests cimport requests_on_message

cdef enum:
    NUMBERS = 5
    REPLY_BYTES_MAX = 65000


cdef inline bint blank(char c) noexcept nogil:
    return c == c' ' or c == c'\t' or c == c'\r' or c == c'\n'


cdef bint ack_parse(consumer_t* c, const char* subject, uint32_t n, ack_t* out) noexcept nogil:
    """The numbers behind the consumer's name; the sink's subscription has the tokens counted. False: no such thing."""
    cdef uint64_t v[NUMBERS]
    cdef uint32_t at = c.ack_prefix.n
    cdef uint32_t start
    cdef int i
    for i in range(NUMBERS):
        v[i] = 0
        start = at
        while at < n and c'0' <= subject[at] <= c'9' and at - start < 20:
            v[i] = v[i] * 10 + <uint64_t>(subject[at] - c'0')
            at += 1
        if at == start:
            return False
        if i < NUMBERS - 1:
            if at >= n or subject[at] != c'.':
                return False
            at += 1
    if at != n:
        return False
    out.deliveries = v[0]
    out.seq = v[1]
    out.dseq = v[2]
    return out.seq != 0


cdef void answer(consumer_t* c, const char* reply, uint32_t reply_bytes) noexcept nogil:
    """An empty message to whoever wants to know, when it is saved."""
    cdef hub_t* h = c.hub
    cdef waiting_ack_t* w
    cdef bint behind = False
    if reply_bytes == 0 or reply_bytes > REPLY_BYTES_MAX:
        return
    if not c.saved_on_disk or c.change == c.change_saved:
        h.host.publish(h.host.context, c.stream.account, reply, reply_bytes, NULL, 0, NULL, 0, -1, NULL, 0, NULL, 0, &behind)
        return
    w = <waiting_ack_t*>mem_alloc(sizeof(waiting_ack_t) + reply_bytes)
    w.next = NULL
    w.change = c.change
    w.reply_bytes = reply_bytes
    if reply_bytes:
        memcpy(w.reply, reply, reply_bytes)
    if c.acks_last != NULL:
        c.acks_last.next = w
    else:
        c.acks = w
    c.acks_last = w
    h.save_wanted = True


cdef void acks_answer(consumer_t* c, uint64_t change) noexcept nogil:
    """Its state is saved up to this change: answer those that waited for it."""
    cdef hub_t* h = c.hub
    cdef waiting_ack_t* w
    cdef bint behind = False
    if change > c.change_saved:
        c.change_saved = change
    while c.acks != NULL and c.acks.change <= c.change_saved:
        w = c.acks
        c.acks = w.next
        if c.acks == NULL:
            c.acks_last = NULL
        h.host.publish(h.host.context, c.stream.account, w.reply, w.reply_bytes, NULL, 0, NULL, 0, -1, NULL, 0, NULL, 0, &behind)
        free(w)


cdef void sample(consumer_t* c, pending_t* p, const ack_t* ack) noexcept nogil:
    """The time that an acknowledgement took, of as many in a hundred as are wanted."""
    cdef hub_t* h = c.hub
    cdef event_t* v
    if c.settings.sample_percent < 100:
        h.random ^= h.random >> 12
        h.random ^= h.random << 25
        h.random ^= h.random >> 27
        if (h.random * <uint64_t>0x2545F4914F6CDD1D >> 33) % 100 >= c.settings.sample_percent:
            return
    if not h.host.interest(h.host.context, c.stream.account, c.metric_acked.bytes, c.metric_acked.n):
        return
    v = hub_event(h, c, EVENT_ACKED, ack.seq, ack.dseq, ack.deliveries, NULL, 0)
    if v != NULL:
        v.ns = h.now_ns - p.sent_ns


cdef void settle_all(consumer_t* c, const ack_t* ack) noexcept nogil:
    """ack_policy all: everything up to this one."""
    cdef pending_t* p
    cdef bint retained = c.stream.retention != RETENTION_LIMITS
    if ack.dseq <= c.floor_dseq or ack.seq <= c.floor_seq:
        return
    while c.table.order.first != NULL and c.table.order.first.seq <= ack.seq:
        p = c.table.order.first
        if retained and p.seq != ack.seq:
            retained_settled(c.stream, c.hub, p.seq)
        consumer_settled(c, p)
    p = pending_find(&c.table, ack.seq)
    if p != NULL:
        consumer_settled(c, p)          # one that was delivered too often
    c.floor_dseq = ack.dseq
    c.floor_seq = ack.seq
    consumer_changed(c)


cdef bint settle(consumer_t* c, const ack_t* ack, bint sampled) noexcept nogil:
    """Acknowledge one (consumer.go processAckMsg). False: it is about what was never delivered, and is not answered."""
    cdef pending_t* p
    if ack.seq >= c.seq and ack.seq > c.delivered_seq and not c.settings.flow_control:
        return False
    if c.settings.ack_policy == ACK_EXPLICIT:
        p = pending_find(&c.table, ack.seq)
        if p != NULL:
            if sampled and c.settings.sample_percent and p.state != PENDING_EXCEEDED:
                sample(c, p, ack)
            consumer_settled(c, p)
    elif c.settings.ack_policy == ACK_ALL:
        settle_all(c, ack)
    else:
        return False
    c.acked_time = <int64_t>c.hub.now_ns + c.hub.time_offset
    if c.stream.retention != RETENTION_LIMITS:
        retained_settled(c.stream, c.hub, ack.seq)
    return True


cdef void progress(consumer_t* c, uint64_t seq) noexcept nogil:
    cdef pending_t* p = pending_find(&c.table, seq)
    # One that is queued for redelivery stays so: it was given up before its worker spoke.
    if p != NULL and p.state != PENDING_EXCEEDED and p.state != PENDING_QUEUED:
        pending_wait(&c.table, p, c.hub.now_ns)
        entry_changed(c, p)
        consumer_schedule(c)


cdef void nak_delayed(consumer_t* c, uint64_t seq, int64_t delay_ns) noexcept nogil:
    """Again, not before delay_ns from now."""
    cdef pending_t* p = pending_find(&c.table, seq)
    if p == NULL or p.state == PENDING_EXCEEDED:
        return
    pending_delay(&c.table, p, c.hub.now_ns + <uint64_t>(delay_ns if delay_ns > 0 else 0))
    entry_changed(c, p)
    consumer_schedule(c)


cdef bint read_delay(const char* p, uint32_t n, int64_t* out) noexcept nogil:
    """{"delay": ns} as clients write it; anything else is Python's to read."""
    cdef uint32_t at = 0
    cdef uint32_t start
    cdef int64_t v = 0
    while n and blank(p[n - 1]):
        n -= 1
    if n < 11 or p[0] != c'{' or p[n - 1] != c'}':
        return False
    at = 1
    while at < n and blank(p[at]):
        at += 1
    if n - at < 9 or memcmp(p + at, b'"delay"', 7) != 0:
        return False
    at += 7
    while at < n and blank(p[at]):
        at += 1
    if at >= n or p[at] != c':':
        return False
    at += 1
    while at < n and blank(p[at]):
        at += 1
    start = at
    while at < n and c'0' <= p[at] <= c'9' and at - start < 18:
        v = v * 10 + (p[at] - c'0')
        at += 1
    if at == start:
        return False
    while at < n and blank(p[at]):
        at += 1
    out[0] = v
    return at == n - 1


cdef void refuse(consumer_t* c, const ack_t* ack, const char* arg, uint32_t n) noexcept nogil:
    """-NAK: told to who listens, then again at once, or after the delay."""
    cdef hub_t* h = c.hub
    cdef pending_t* p = pending_find(&c.table, ack.seq)
    cdef int64_t delay
    if ack.dseq <= c.floor_dseq or ack.dseq > c.dseq or p == NULL or p.state == PENDING_EXCEEDED:
        return
    if h.host.interest(h.host.context, c.stream.account, c.advisory_naked.bytes, c.advisory_naked.n):
        hub_event(h, c, EVENT_NAKED, ack.seq, ack.dseq, ack.deliveries, NULL, 0)
    while n and blank(arg[0]):
        arg += 1
        n -= 1
    if n == 0:
        entry_due(c, p)
    elif read_delay(arg, n, &delay):
        nak_delayed(c, ack.seq, delay)
    else:
        hub_event(h, c, EVENT_NAK_DELAY, ack.seq, 0, 0, arg, n)


cdef void terminate(consumer_t* c, const ack_t* ack, const char* reason, uint32_t n) noexcept nogil:
    cdef hub_t* h = c.hub
    while n and blank(reason[0]):
        reason += 1
        n -= 1
    while n and blank(reason[n - 1]):
        n -= 1
    if h.host.interest(h.host.context, c.stream.account, c.advisory_terminated.bytes, c.advisory_terminated.n):
        hub_event(h, c, EVENT_TERMINATED, ack.seq, ack.dseq, ack.deliveries, reason, n)


cdef inline bint says(const char* p, uint32_t n, const char* word, uint32_t length) noexcept nogil:
    return n >= length and memcmp(p, word, length) == 0


cdef void acks_on_message(consumer_t* c, const char* subject, uint32_t subject_bytes, const char* reply, uint32_t reply_bytes,
                          const char* payload, uint32_t payload_bytes) noexcept nogil:
    """Carry one out. The payload is without headers."""
    cdef ack_t ack
    cdef bint answered = True
    c.used_ns = c.hub.now_ns
    if not ack_parse(c, subject, subject_bytes, &ack):
        return
    if payload_bytes == 0 or (payload_bytes == 4 and says(payload, 4, b"+ACK", 4)) or (
            payload_bytes == 3 and says(payload, 3, b"+OK", 3)):
        answered = settle(c, &ack, True)
    elif says(payload, payload_bytes, b"+NXT", 4):
        settle(c, &ack, True)
        requests_on_message(c, reply, reply_bytes, payload + 4, payload_bytes - 4)
        return
    elif says(payload, payload_bytes, b"-NAK", 4):
        refuse(c, &ack, payload + 4, payload_bytes - 4)
    elif payload_bytes == 4 and says(payload, 4, b"+WPI", 4):
        progress(c, ack.seq)
    elif says(payload, payload_bytes, b"+TERM", 5):
        answered = settle(c, &ack, False)
        terminate(c, &ack, payload + 5, payload_bytes - 5)
    if answered:
        answer(c, reply, reply_bytes)
