# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What a consumer is and what it remembers: position, counts, floors, changes to be saved, timers, events. See consumer.pxd.

Called by deliver.pyx (the loop), requests.pyx and acks.pyx; needs no GIL; no system call. Rules: nats-server's consumer.go,
whose words for the numbers are sseq (seq), dseq, asflr and adflr (floor_seq, floor_dseq), npc (pending).
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memmove, memset

from shardbroker.hot.bytes cimport sb_digits
from shardbroker.hot.memory cimport mem_alloc, mem_resize, mem_zero
from shardbroker.store.filter cimport filter_free, filter_subject
from shardbroker.store.log cimport log_get, log_has, log_next, log_pending, log_remove
from shardbroker.store.model cimport (
    LOG_MORE, LOG_OK, REMOVED_DELETED, REMOVED_PURGED, REMOVED_UNWRITTEN, log_view_t)
from shardbroker.stream.pending cimport (
    PENDING_EXCEEDED, PENDING_QUEUED, pending_exceed, pending_find, pending_free, pending_init, pending_next_ns,
    pending_queue, pending_remove, pending_set_waits, pending_t)

cdef enum:
    EVENTS_MAX = 100000                 # advisories beyond are dropped: Python is stuck
    CHANGES_MAX = 1 << 16               # of one save; more are saved as a whole state
    INTEREST_POLL_MS = 20               # how soon a push consumer sees that its subscriber is back
    INTEREST_WATCH_MS = 200             # and that it has gone, when there is nothing to deliver


# ---- the hub's lists --------------------------------------------------------------------------------------------

cdef void hub_init(hub_t* h, const host_t* host, uint64_t seed) noexcept nogil:
    memset(h, 0, sizeof(hub_t))
    h.host = host[0]
    h.random = seed | 1
    h.scratch_capacity = 2048
    h.scratch = <char*>mem_alloc(h.scratch_capacity)


cdef void hub_free(hub_t* h) noexcept nogil:
    """Its consumers have been freed before."""
    cdef uint32_t i
    for i in range(h.events_count):
        free(h.events[i].text)
    free(h.events)
    free(h.inbox)
    free(h.inbox_spare)
    free(h.timers)
    free(h.scratch)
    memset(h, 0, sizeof(hub_t))


cdef void hub_refresh(hub_t* h) noexcept nogil:
    """Outside of a turn: what time it is."""
    cdef int64_t time_ns
    h.host.clock(h.host.context, &h.now_ns, &time_ns)
    h.time_offset = time_ns - <int64_t>h.now_ns


cdef void hub_announce(hub_t* h) noexcept nogil:
    if not h.announced:
        h.announced = True
        h.host.announce(h.host.context)


cdef event_t* hub_event(hub_t* h, consumer_t* c, int kind, uint64_t seq, uint64_t dseq, uint64_t deliveries,
                        const char* text, uint32_t text_bytes) noexcept nogil:
    """Tell Python. NULL when too much waits for it already."""
    cdef event_t* v
    if h.events_count >= EVENTS_MAX:
        return NULL
    if h.events_count == h.events_capacity:
        h.events_capacity = h.events_capacity * 2 if h.events_capacity else 64
        h.events = <event_t*>mem_resize(h.events, h.events_capacity * sizeof(event_t))
    v = &h.events[h.events_count]
    h.events_count += 1
    memset(v, 0, sizeof(event_t))
    v.kind = kind
    v.consumer = c.id if c != NULL else 0
    v.seq = seq
    v.dseq = dseq
    v.deliveries = deliveries
    if text_bytes:
        v.text = <char*>mem_alloc(text_bytes)
        memcpy(v.text, text, text_bytes)
        v.text_bytes = text_bytes
    hub_announce(h)
    return v


cdef size_t letter_size(const letter_t* l) noexcept nogil:
    return sizeof(letter_t) + ((<size_t>l.subject_bytes + l.reply_bytes + l.payload_bytes + 7) & ~<size_t>7)


cdef void hub_post(hub_t* h, consumer_t* c, uint32_t kind, const char* subject, uint32_t subject_bytes, const char* reply,
                   uint32_t reply_bytes, const char* payload, uint32_t payload_bytes) noexcept nogil:
    """Take in a message from a sink, which may do nothing but copy: a delivery is under way. The hub reads it in its run."""
    cdef letter_t l
    cdef size_t n
    cdef char* p
    l.consumer = c
    l.kind = kind
    l.subject_bytes = subject_bytes
    l.reply_bytes = reply_bytes
    l.payload_bytes = payload_bytes
    n = letter_size(&l)
    if h.inbox_bytes + n > h.inbox_capacity:
        h.inbox_capacity = 2 * (h.inbox_bytes + n)
        h.inbox = <char*>mem_resize(h.inbox, h.inbox_capacity)
    p = h.inbox + h.inbox_bytes
    h.inbox_bytes += n
    memcpy(p, &l, sizeof(letter_t))
    p += sizeof(letter_t)
    memcpy(p, subject, subject_bytes)
    if reply_bytes:
        memcpy(p + subject_bytes, reply, reply_bytes)
    memcpy(p + subject_bytes + reply_bytes, payload, payload_bytes)
    hub_announce(h)


cdef void forget_letters(hub_t* h, consumer_t* c) noexcept nogil:
    cdef size_t at = 0
    cdef letter_t* l
    while at < h.inbox_bytes:
        l = <letter_t*>(h.inbox + at)
        if l.consumer == c:
            l.consumer = NULL
        at += letter_size(l)


cdef inline void timer_put(hub_t* h, consumer_t* c, uint32_t at) noexcept nogil:
    h.timers[at] = c
    c.timer_place = at


cdef void timer_up(hub_t* h, consumer_t* c, uint32_t at) noexcept nogil:
    while at > 0 and h.timers[(at - 1) // 2].timer_ns > c.timer_ns:
        timer_put(h, h.timers[(at - 1) // 2], at)
        at = (at - 1) // 2
    timer_put(h, c, at)


cdef void timer_down(hub_t* h, consumer_t* c, uint32_t at) noexcept nogil:
    cdef uint32_t child
    while True:
        child = 2 * at + 1
        if child >= h.timers_count:
            break
        if child + 1 < h.timers_count and h.timers[child + 1].timer_ns < h.timers[child].timer_ns:
            child += 1
        if h.timers[child].timer_ns >= c.timer_ns:
            break
        timer_put(h, h.timers[child], at)
        at = child
    timer_put(h, c, at)


cdef void timer_remove(consumer_t* c) noexcept nogil:
    cdef hub_t* h = c.hub
    cdef consumer_t* moved
    if c.timer_ns == 0:
        return
    h.timers_count -= 1
    moved = h.timers[h.timers_count]
    if moved != c:
        if moved.timer_ns < c.timer_ns:
            timer_up(h, moved, c.timer_place)
        else:
            timer_down(h, moved, c.timer_place)
    c.timer_ns = 0


cdef void timer_set(consumer_t* c, uint64_t ns) noexcept nogil:
    cdef hub_t* h = c.hub
    timer_remove(c)
    if ns == 0:
        return
    if h.timers_count == h.timers_capacity:
        h.timers_capacity = h.timers_capacity * 2 if h.timers_capacity else 64
        h.timers = <consumer_t**>mem_resize(h.timers, h.timers_capacity * sizeof(consumer_t*))
    c.timer_ns = ns
    h.timers_count += 1
    timer_up(h, c, h.timers_count - 1)
    if h.timers[0] == c:
        hub_announce(h)                 # the turn must learn of the earlier time


cdef uint64_t hub_next_ns(hub_t* h) noexcept nogil:
    """When a timer is due; NEVER: there is none."""
    return h.timers[0].timer_ns if h.timers_count else NEVER


# ---- life -------------------------------------------------------------------------------------------------------

cdef consumer_t* consumer_new(hub_t* h, retained_t* stream, uint64_t id) noexcept nogil:
    """In the stream's list; settings, texts and position are the caller's to fill in, then consumer_start."""
    cdef consumer_t* c = <consumer_t*>mem_zero(sizeof(consumer_t))
    cdef uint64_t wait = 30000 * <uint64_t>MILLISECOND_NS
    c.hub = h
    c.stream = stream
    c.id = id
    c.seq = c.dseq = 1
    pending_init(&c.table, &wait, 1)
    if stream.count == stream.capacity:
        stream.capacity = stream.capacity * 2 if stream.capacity else 4
        stream.consumers = <consumer_t**>mem_resize(stream.consumers, stream.capacity * sizeof(consumer_t*))
    stream.consumers[stream.count] = c
    stream.count += 1
    return c


cdef void requests_free(consumer_t* c) noexcept nogil:
    cdef request_t* following
    while c.requests != NULL:
        following = c.requests.next
        free(c.requests)
        c.requests = following
    c.requests_last = NULL
    c.requests_count = c.one_shots = 0


cdef void unlink_run(consumer_t* c) noexcept nogil:
    cdef hub_t* h = c.hub
    cdef consumer_t* at = h.run_first
    cdef consumer_t* before = NULL
    if not c.runnable:
        return
    while at != NULL and at != c:
        before = at
        at = at.run_next
    if at == NULL:
        return
    if before == NULL:
        h.run_first = c.run_next
    else:
        before.run_next = c.run_next
    if h.run_last == c:
        h.run_last = before
    c.runnable = False


cdef void consumer_free(consumer_t* c) noexcept nogil:
    """Out of every list, and gone."""
    cdef hub_t* h = c.hub
    cdef retained_t* s = c.stream
    cdef consumer_t** dirty = &h.dirty
    cdef waiting_ack_t* following
    cdef uint32_t i
    forget_letters(h, c)
    unwatch(c)
    unlink_run(c)
    timer_remove(c)
    while c.dirty and dirty[0] != NULL:
        if dirty[0] == c:
            dirty[0] = c.dirty_next
            break
        dirty = &dirty[0].dirty_next
    for i in range(s.count):
        if s.consumers[i] == c:
            memmove(s.consumers + i, s.consumers + i + 1, (s.count - i - 1) * sizeof(consumer_t*))
            s.count -= 1
            break
    requests_free(c)
    while c.acks != NULL:
        following = c.acks.next
        free(c.acks)
        c.acks = following
    pending_free(&c.table)
    if c.filter != NULL:
        filter_free(c.filter)
    free(c.deliver.bytes)
    free(c.ack_prefix.bytes)
    free(c.flow_prefix.bytes)
    free(c.advisory_naked.bytes)
    free(c.advisory_terminated.bytes)
    free(c.advisory_max_deliveries.bytes)
    free(c.metric_acked.bytes)
    free(c.over_batch.bytes)
    free(c.over_expires.bytes)
    free(c.over_bytes.bytes)
    free(c.skips)
    free(c.removed)
    free(c.changed)
    free(c)


cdef void consumer_set_waits(consumer_t* c, const uint64_t* waits, uint32_t n) noexcept nogil:
    """ack_wait alone, or the steps of backoff."""
    pending_set_waits(&c.table, waits, n)


cdef bint consumer_interest(consumer_t* c) noexcept nogil:
    """Whether someone listens to a push consumer; its state follows."""
    cdef hub_t* h = c.hub
    cdef bint interest = h.host.interest(h.host.context, c.stream.account, c.deliver.bytes, c.deliver.n)
    if interest != c.active:
        c.active = interest
        c.used_ns = h.now_ns
    c.told = False
    c.interest_next_ns = 0
    if c.watch == NULL:
        c.interest_next_ns = h.now_ns + (INTEREST_WATCH_MS if interest else INTEREST_POLL_MS) * <uint64_t>MILLISECOND_NS
    return interest


cdef void consumer_told(consumer_t* c) noexcept nogil:
    """Interest in its subject may have changed: it looks before the flush."""
    c.told = True
    consumer_wake(c)


cdef void consumer_watch(consumer_t* c) noexcept nogil:
    """Be told of interest in the subject that it delivers to now, and no more of the one before."""
    cdef hub_t* h = c.hub
    unwatch(c)
    if h.host.watch != NULL and c.settings.push:
        c.watch = h.host.watch(h.host.context, c.stream.account, c.deliver.bytes, c.deliver.n, c)


cdef void unwatch(consumer_t* c) noexcept nogil:
    if c.watch != NULL:
        c.hub.host.unwatch(c.hub.host.context, c.watch)
        c.watch = NULL


cdef void consumer_refused(consumer_t* c) noexcept nogil:
    """Push: nobody took a message. When there is interest all the same (it is just going, or coming), it is tried again."""
    if consumer_interest(c):
        c.active = False
        c.interest_next_ns = c.hub.now_ns + INTEREST_POLL_MS * <uint64_t>MILLISECOND_NS


cdef void consumer_start(consumer_t* c) noexcept nogil:
    """Settings and position are there: count what it has before it, and let it run."""
    cdef hub_t* h = c.hub
    c.used_ns = h.now_ns
    c.tokens = <double>c.settings.rate_burst
    c.tokens_ns = h.now_ns
    c.replay_to = c.stream.log.next_seq - 1 if c.settings.replay_original else 0
    if c.settings.flow_control:
        c.window_bytes_max = 32 << 20
        c.window_bytes = c.window_bytes_max // 16
    if c.settings.push:
        c.active = True
        consumer_watch(c)
        consumer_interest(c)
        if c.settings.heartbeat_ns:
            c.heartbeat_next_ns = h.now_ns + c.settings.heartbeat_ns
    consumer_recount(c)
    consumer_wake(c)
    consumer_schedule(c)


cdef void consumer_wake(consumer_t* c) noexcept nogil:
    """It may have something to deliver: the hub runs it before the flush."""
    cdef hub_t* h = c.hub
    if c.runnable or c.closed:
        return
    c.runnable = True
    c.run_next = NULL
    if h.run_last != NULL and h.run_first != NULL:
        h.run_last.run_next = c
    else:
        h.run_first = c
    h.run_last = c
    hub_announce(h)


cdef inline uint64_t sooner(uint64_t a, uint64_t b) noexcept nogil:
    """Of two times, where 0 is none."""
    if a == 0 or (b != 0 and b < a):
        return b
    return a


cdef void consumer_schedule(consumer_t* c) noexcept nogil:
    """Put its timer where its first deadline is, when the one that is set comes too late."""
    cdef settings_t* s = &c.settings
    cdef uint64_t now = c.hub.now_ns
    cdef uint64_t ns = 0
    if c.closed:
        return
    if s.ack_policy != ACK_NONE:
        ns = pending_next_ns(&c.table)
    if s.pause_until_ns > now:
        ns = sooner(ns, s.pause_until_ns)
    if c.hold_until_ns > now:
        ns = sooner(ns, c.hold_until_ns)
    if s.push:
        ns = sooner(ns, c.heartbeat_next_ns)
        ns = sooner(ns, c.interest_next_ns)
    else:
        ns = sooner(ns, c.requests_next_ns)
    if s.inactive_ns and not (s.push and c.active):
        ns = sooner(ns, c.used_ns + s.inactive_ns)
    if ns and (c.timer_ns == 0 or ns < c.timer_ns):
        timer_set(c, ns)


# ---- counts and floors ------------------------------------------------------------------------------------------

cdef void consumer_recount(consumer_t* c) noexcept nogil:
    """num_pending from the log. For last per subject: what is left of the list, and what came after it."""
    cdef uint64_t start = c.seq
    c.pending = 0
    if c.skips_at < c.skips_count:
        c.pending = c.skips_count - c.skips_at
        start = c.skips_resume + 1
    c.counted_to = c.stream.log.next_seq - 1
    if start <= c.counted_to:
        c.pending += log_pending(c.stream.log, c.filter, start)


cdef void count_new(consumer_t* c) noexcept nogil:
    """Up to what the log has by now. A pattern looks at each new message once, everything else asks the index."""
    cdef uint64_t last = c.stream.log.next_seq - 1
    cdef uint64_t at
    cdef int status
    cdef log_view_t v
    if c.counted_to >= last:
        return
    at = c.counted_to + 1
    c.counted_to = last
    if c.filter == NULL or c.filter.all or c.filter.literal:
        c.pending += log_pending(c.stream.log, c.filter, at)
        return
    while at <= last:
        status = log_next(c.stream.log, at, c.filter, &v)
        if status == LOG_MORE:
            at = v.seq
        elif status != LOG_OK:
            break
        else:
            c.pending += 1
            at = v.seq + 1


cdef void consumer_changed(consumer_t* c) noexcept nogil:
    """Its state is other than what was saved."""
    cdef hub_t* h = c.hub
    c.change += 1
    if c.dirty or not c.saved_on_disk:
        return
    c.dirty = True
    c.dirty_next = h.dirty
    h.dirty = c
    hub_announce(h)


cdef void note(uint64_t** list, uint32_t* count, uint32_t* capacity, bint* whole, uint64_t seq) noexcept nogil:
    if count[0] >= CHANGES_MAX:
        whole[0] = True
        return
    if count[0] == capacity[0]:
        capacity[0] = capacity[0] * 2 if capacity[0] else 64
        list[0] = <uint64_t*>mem_resize(list[0], capacity[0] * sizeof(uint64_t))
    list[0][count[0]] = seq
    count[0] += 1


cdef void entry_changed(consumer_t* c, pending_t* p) noexcept nogil:
    """An entry is new, or was delivered again, put off, or worked on."""
    if c.saved_on_disk and not p.changed:
        p.changed = 1
        if not c.save_whole:
            note(&c.changed, &c.changed_count, &c.changed_capacity, &c.save_whole, p.seq)
    consumer_changed(c)


cdef void entry_removed(consumer_t* c, pending_t* p) noexcept nogil:
    if c.saved_on_disk and p.saved and not c.save_whole:
        note(&c.removed, &c.removed_count, &c.removed_capacity, &c.save_whole, p.seq)
    consumer_changed(c)


cdef void move_floor(consumer_t* c, bint was_first) noexcept nogil:
    """consumer.go moveAckFloor: everything below the oldest that is pending is acknowledged."""
    if c.table.count == 0:
        c.floor_dseq = c.dseq - 1
        c.floor_seq = c.delivered_seq
    elif was_first:
        c.floor_dseq = c.table.order.first.dseq - 1
        c.floor_seq = c.table.order.first.seq - 1


cdef void consumer_settled(consumer_t* c, pending_t* p) noexcept nogil:
    """An entry is acknowledged, terminated, or its message is gone: it goes, and the floor moves."""
    cdef bint pending = p.state != PENDING_EXCEEDED
    cdef bint was_first = p == c.table.order.first
    if pending and c.settings.max_ack_pending and c.table.count >= c.settings.max_ack_pending:
        consumer_wake(c)
    entry_removed(c, p)
    pending_remove(&c.table, p)
    if pending:
        move_floor(c, was_first)


cdef void entry_exceeded(consumer_t* c, pending_t* p) noexcept nogil:
    """Delivered as often as it may be: told once, no longer pending, kept in mind until its message is gone."""
    cdef bint was_first = p == c.table.order.first
    cdef hub_t* h = c.hub
    if h.host.interest(h.host.context, c.stream.account, c.advisory_max_deliveries.bytes, c.advisory_max_deliveries.n):
        hub_event(h, c, EVENT_MAX_DELIVERIES, p.seq, p.dseq, p.redeliveries + 1, NULL, 0)
    if c.settings.max_ack_pending and c.table.count >= c.settings.max_ack_pending:
        consumer_wake(c)
    pending_exceed(&c.table, p)
    entry_changed(c, p)
    move_floor(c, was_first)


cdef void entry_due(consumer_t* c, pending_t* p) noexcept nogil:
    """To be delivered again, if it may."""
    if p.state == PENDING_QUEUED or p.state == PENDING_EXCEEDED:
        return
    if c.settings.max_deliver and p.redeliveries + 1 >= c.settings.max_deliver:
        entry_exceeded(c, p)
    else:
        pending_queue(&c.table, p)
        entry_changed(c, p)
        consumer_wake(c)


cdef void consumer_expire_all(consumer_t* c) noexcept nogil:
    """Everything that is pending is delivered again, oldest first: a push consumer goes to another subject."""
    cdef pending_t* p = c.table.order.first
    cdef pending_t* following
    while p != NULL:
        following = p.order_next
        entry_due(c, p)
        p = following
    consumer_wake(c)


cdef void entry_terminated(consumer_t* c, pending_t* p, const char* reason, uint32_t reason_bytes) noexcept nogil:
    """Its message is gone: as if the client had given up on it, with a reason. Comes from the middle of an append too, so
    whether anyone listens is not asked here."""
    hub_event(c.hub, c, EVENT_TERMINATED, p.seq, p.dseq, p.redeliveries + 1, reason, reason_bytes)
    consumer_settled(c, p)


cdef void consumer_advance(consumer_t* c, uint64_t first_seq, bint forget) noexcept nogil:
    """After a purge: nothing below first_seq is left for it. forget: entries whose messages are gone go, wherever."""
    cdef pending_t* p
    cdef pending_t* following
    if c.seq < first_seq:
        c.seq = first_seq
        c.delivered_seq = first_seq - 1 if c.delivered_seq < first_seq - 1 else c.delivered_seq
    p = c.table.order.first
    while p != NULL:
        following = p.order_next
        if p.seq < first_seq or (forget and not log_has(c.stream.log, p.seq)):
            consumer_settled(c, p)
        p = following
    if c.table.count == 0:
        c.floor_dseq = c.dseq - 1
        c.floor_seq = c.seq - 1
    elif c.floor_seq < first_seq - 1:
        c.floor_dseq = c.table.order.first.dseq - 1
        c.floor_seq = c.table.order.first.seq - 1
    consumer_changed(c)
    consumer_recount(c)
    consumer_wake(c)


# ---- status messages --------------------------------------------------------------------------------------------

cdef void consumer_status(consumer_t* c, const char* reply, uint32_t reply_bytes, const char* line,
                          int64_t msgs, int64_t bytes, bint with_pending) noexcept nogil:
    """ "NATS/1.0 408 Request Timeout" and the like to a request, with what it still might have had."""
    cdef char out[STATUS_BYTES]
    cdef uint32_t n = 0
    cdef hub_t* h = c.hub
    cdef bint behind = False
    n = text_add(out, n, b"NATS/1.0 ")
    n = text_add(out, n, line)
    n = text_add(out, n, b"\r\n")
    if with_pending:
        n = text_add(out, n, b"Nats-Pending-Messages: ")
        n = number_add(out, n, msgs)
        n = text_add(out, n, b"\r\nNats-Pending-Bytes: ")
        n = number_add(out, n, bytes)
        n = text_add(out, n, b"\r\n")
    n = text_add(out, n, b"\r\n")
    h.host.publish(h.host.context, c.stream.account, reply, reply_bytes, NULL, 0, NULL, 0, <int32_t>n, out, n, NULL, 0, &behind)


cdef void consumer_heartbeat(consumer_t* c, const char* to, uint32_t to_bytes) noexcept nogil:
    """Nothing to deliver, and still here: how far it is, and whether it waits for an answer to flow control."""
    cdef char* out = c.hub.scratch      # a flow id may be as long as its names
    cdef uint32_t n = 0
    cdef hub_t* h = c.hub
    cdef bint behind = False
    n = text_add(out, n, b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: ")
    n += <uint32_t>sb_digits(out + n, c.dseq - 1)
    n = text_add(out, n, b"\r\nNats-Last-Stream: ")
    n += <uint32_t>sb_digits(out + n, c.seq - 1)
    n = text_add(out, n, b"\r\n")
    if c.flow_id_bytes:
        n = text_add(out, n, b"Nats-Consumer-Stalled: ")
        memcpy(out + n, c.flow_id, c.flow_id_bytes)
        n += c.flow_id_bytes
        memcpy(out + n, b"\r\n", 2)
        n += 2
    memcpy(out + n, b"\r\n", 2)
    n += 2
    h.host.publish(h.host.context, c.stream.account, to, to_bytes, NULL, 0, NULL, 0, <int32_t>n, out, n, NULL, 0, &behind)


cdef uint32_t text_add(char* out, uint32_t at, const char* text) noexcept nogil:
    """Copy a NUL-terminated text; callers' texts are short constants."""
    cdef uint32_t i = 0
    while text[i] != 0 and at < STATUS_BYTES - 48:
        out[at] = text[i]
        at += 1
        i += 1
    return at


cdef uint32_t number_add(char* out, uint32_t at, int64_t number) noexcept nogil:
    """Add a number of 20 characters at the most."""
    if number < 0:
        out[at] = c'-'
        return at + 1 + <uint32_t>sb_digits(out + at + 1, 0 - <uint64_t>number)
    return at + <uint32_t>sb_digits(out + at, <uint64_t>number)


# ---- what the stream tells --------------------------------------------------------------------------------------

cdef void retained_on_stored(retained_t* s) noexcept nogil:
    """durable_seq has moved: those that wait for messages run."""
    cdef uint32_t i
    cdef consumer_t* c
    for i in range(s.count):
        c = s.consumers[i]
        if c.settings.push or c.requests != NULL:
            consumer_wake(c)


cdef bint skips_have(consumer_t* c, uint64_t seq) noexcept nogil:
    """Whether it is among those of the list that are left: they ascend."""
    cdef uint64_t low = c.skips_at
    cdef uint64_t high = c.skips_count
    cdef uint64_t middle
    while low < high:
        middle = (low + high) // 2
        if c.skips[middle] < seq:
            low = middle + 1
        else:
            high = middle
    return low < c.skips_count and c.skips[low] == seq


cdef void uncount(consumer_t* c, uint64_t seq, const char* subject, uint32_t subject_bytes, int reason) noexcept nogil:
    """A message that is gone before it was delivered is not pending any more."""
    if c.skips_at < c.skips_count and seq <= c.skips_resume:
        if skips_have(c, seq) and c.pending:
            c.pending -= 1
    elif seq >= c.seq and seq <= c.counted_to and c.pending:
        if c.filter == NULL or filter_subject(c.filter, subject, subject_bytes):
            c.pending -= 1
    if reason == REMOVED_UNWRITTEN and seq <= c.counted_to:
        c.counted_to = seq - 1          # its sequence will be another message's


cdef void retained_on_removed(retained_t* s, uint64_t seq, const char* subject, uint32_t subject_bytes,
                              int reason) noexcept nogil:
    """A message is gone (consumer.go decStreamPending): out of the counts, and no longer waited for."""
    cdef uint32_t i
    cdef consumer_t* c
    cdef pending_t* p
    for i in range(s.count):
        c = s.consumers[i]
        if seq >= c.seq:
            uncount(c, seq, subject, subject_bytes, reason)
        if c.table.used == 0:
            continue
        p = pending_find(&c.table, seq)
        if p == NULL:
            continue
        if p.state == PENDING_EXCEEDED or reason == REMOVED_PURGED:
            consumer_settled(c, p)
        else:
            entry_terminated(c, p, b"Unacknowledged message was deleted", 34)


cdef void retained_on_purged(retained_t* s) noexcept nogil:
    """Many are gone, or sequences were skipped."""
    cdef uint32_t i
    for i in range(s.count):
        consumer_advance(s.consumers[i], s.log.first_seq, True)


cdef bint retained_wants(retained_t* s, const char* subject, uint32_t subject_bytes) noexcept nogil:
    """Interest retention: whether any consumer would get it."""
    cdef uint32_t i
    for i in range(s.count):
        if s.consumers[i].filter == NULL or filter_subject(s.consumers[i].filter, subject, subject_bytes):
            return True
    return False


cdef bint consumer_needs(consumer_t* c, uint64_t seq, const char* subject, uint32_t n) noexcept nogil:
    """consumer.go needAck: whether this consumer's interest keeps a message."""
    cdef pending_t* p
    if c.filter != NULL and not filter_subject(c.filter, subject, n):
        return False
    p = pending_find(&c.table, seq)
    if p != NULL:
        return True                     # pending, or delivered too often and kept for that
    if c.settings.ack_policy == ACK_EXPLICIT:
        return seq > c.floor_seq and seq >= c.seq
    return seq > c.floor_seq


cdef void retained_settled(retained_t* s, hub_t* h, uint64_t seq) noexcept nogil:
    """A consumer is done with a message: the hook looks whether anyone else wants it."""
    if s.settled_count == s.settled_capacity:
        s.settled_capacity = s.settled_capacity * 2 if s.settled_capacity else 64
        s.settled = <uint64_t*>mem_resize(s.settled, s.settled_capacity * sizeof(uint64_t))
    s.settled[s.settled_count] = seq
    s.settled_count += 1
    if not s.settling:
        s.settling = True
        s.settled_next = h.settled
        h.settled = s
        hub_announce(h)


cdef void retained_settle(retained_t* s) noexcept nogil:
    """Remove what nobody needs any more (stream.go ackMsg)."""
    cdef uint32_t i, k
    cdef log_view_t v
    cdef bint needed
    cdef bint removed = False
    for i in range(s.settled_count):
        if log_get(s.log, s.settled[i], &v) != LOG_OK:
            continue
        needed = False
        for k in range(s.count):
            if consumer_needs(s.consumers[k], v.seq, v.subject, v.subject_bytes):
                needed = True
                break
        if not needed:
            log_remove(s.log, s.settled[i], False, REMOVED_DELETED)
            removed = True
    s.settled_count = 0
    if removed and s.touch != NULL:
        s.touch(s.owner)
