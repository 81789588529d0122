# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""From a message to frames. Called by the engine for messages of local publishers and of rings; needs no GIL, takes
no system call; allocates only when an output buffer has to grow.

What follows the subject in a PUB line is byte for byte what follows the sid in a MSG line, so a frame is three copies:
"MSG subject " (kept with the route), "sid ", and the tail. Subscribers with equal sids get equal frames: those are
built once, in the arena, and every connection's output refers to them. Long payloads are not copied at all.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from shardbroker.hot.bytes cimport SB_SLACK, sb_copy, sb_digits, sb_likely, sb_unlikely
from shardbroker.hot.connection cimport event_push
from shardbroker.hot.exchange cimport exchange_deliver
from shardbroker.hot.memory cimport mem_alloc, mem_resize
from shardbroker.hot.model cimport (
    CONNECTION_BLOCKED, CONNECTION_CLOSING, CONNECTION_FILTERED, CONNECTION_HEADERS, CONNECTION_NO_ECHO, CONNECTION_SINK,
    CONNECTION_TRANSPORT, SUBSCRIPTION_CLOSED, SUBSCRIPTION_SHADOW, connection_t, members_t, queue_t, route_t,
    subscription_t, target_t)
from shardbroker.hot.outbound cimport out_append, out_borrow, out_commit, out_extends, out_reserve
from shardbroker.hot.permissions cimport permissions_receive, replies_note
from shardbroker.hot.state cimport ARENA_BYTES, EVENT_TRACE, REFERENCE_BYTES, engine_t, message_t, sink_t
from shardbroker.hot.sublist cimport match_t, member_at, sublist_queue

cdef enum:
    SUBSCRIPTION_ODD = SUBSCRIPTION_CLOSED | SUBSCRIPTION_SHADOW
    SHARED_RUN_MIN = 512                # a shared frame that does not continue the last one is copied below this


cdef inline void message_head(engine_t* e, message_t* m) noexcept nogil:
    """Have "HMSG subject " at m.head: a route brings it, else it is written once."""
    if sb_unlikely(m.head == NULL):
        message_head_write(e, m)


cdef void message_head_write(engine_t* e, message_t* m) noexcept nogil:
    """For a message without a route, or one that shows another subject."""
    cdef const char* subject = m.subject if m.shown == NULL else m.shown
    cdef uint32_t subject_bytes = m.subject_bytes if m.shown == NULL else m.shown_bytes
    cdef size_t n = 6 + <size_t>subject_bytes
    if n + SB_SLACK > e.scratch_capacity:
        e.scratch_capacity = 2 * n + SB_SLACK
        e.scratch = <char*>mem_resize(e.scratch, e.scratch_capacity)
    memcpy(e.scratch, b"HMSG ", 5)
    memcpy(e.scratch + 5, subject, subject_bytes)
    e.scratch[n - 1] = c' '
    m.head = e.scratch
    m.head_bytes = <uint32_t>n


cdef void message_bare(engine_t* e, message_t* m) noexcept nogil:
    """Write "[reply ]size CRLF" of the payload without its headers."""
    cdef size_t n = 0
    if m.bare_line != NULL:
        return
    if m.reply_bytes + 24 > e.bare_capacity:
        e.bare_capacity = 2 * m.reply_bytes + 64
        e.bare = <char*>mem_resize(e.bare, e.bare_capacity)
    if m.reply_bytes:
        memcpy(e.bare, m.reply, m.reply_bytes)
        n = m.reply_bytes
        e.bare[n] = c' '
        n += 1
    n += sb_digits(e.bare + n, m.payload_bytes - <uint32_t>m.header_bytes)
    e.bare[n] = c'\r'
    e.bare[n + 1] = c'\n'
    m.bare_line = e.bare
    m.bare_line_bytes = <uint32_t>n + 2


cdef inline void copy_sid(char* dst, subscription_t* sub) noexcept nogil:
    memcpy(dst, sub.sid, 4)
    if sb_unlikely(sub.sid_bytes > 4):
        memcpy(dst + 4, sub.sid + 4, sub.sid_bytes - 4)


cdef inline void expire(engine_t* e, subscription_t* sub) noexcept nogil:
    if e.expired_count == e.expired_capacity:
        e.expired_capacity = e.expired_capacity * 2 if e.expired_capacity else 16
        e.expired = <subscription_t**>mem_resize(e.expired, e.expired_capacity * sizeof(subscription_t*))
    e.expired[e.expired_count] = sub
    e.expired_count += 1


cdef inline void count_out(engine_t* e, connection_t* c, uint32_t payload_bytes) noexcept nogil:
    c.out_msgs += 1
    c.out_bytes += payload_bytes
    e.stats.out_msgs += 1
    e.stats.out_bytes += payload_bytes


cdef inline void watch_pending(engine_t* e, connection_t* c) noexcept nogil:
    """A receiver that is behind: the publisher is slowed before the receiver is cut (client.go stalledWait)."""
    if sb_unlikely(c.flags & CONNECTION_BLOCKED != 0) and c.pending_bytes > e.limits.max_pending // 4 * 3:
        e.stall_publisher = True
        c.stalls += 1


cdef void append_frame(engine_t* e, message_t* m, connection_t* c, subscription_t* sub) noexcept nogil:
    """One frame into the connection's own memory; a long payload by reference, unless it will be read only after the flush."""
    cdef const char* head = m.head
    cdef uint32_t head_bytes = m.head_bytes
    cdef size_t n
    cdef char* p
    if m.header_bytes < 0:
        head += 1
        head_bytes -= 1
    n = head_bytes + sub.sid_bytes
    if sb_likely(m.tail_bytes < REFERENCE_BYTES):
        p = out_reserve(&e.out, c, n + m.tail_bytes)
        sb_copy(p, head, head_bytes)
        copy_sid(p + head_bytes, sub)
        sb_copy(p + n, m.tail, m.tail_bytes)
        out_commit(c, n + m.tail_bytes)
        e.dirty_bytes += n + m.tail_bytes
    else:
        p = out_reserve(&e.out, c, n)
        sb_copy(p, head, head_bytes)
        copy_sid(p + head_bytes, sub)
        out_commit(c, n)
        if c.flags & CONNECTION_TRANSPORT:
            out_append(&e.out, c, m.tail, m.tail_bytes)
            e.dirty_bytes += n + m.tail_bytes
        else:
            out_borrow(c, m.tail, m.tail_bytes)
            e.borrowed = True
    mark_dirty(e, c)


cdef void append_bare_frame(engine_t* e, message_t* m, connection_t* c, subscription_t* sub) noexcept nogil:
    """One frame for a client without headers: MSG, and the payload behind the headers."""
    cdef const char* body = m.payload + m.header_bytes
    cdef size_t body_bytes = m.payload_bytes - <uint32_t>m.header_bytes + 2
    cdef size_t n = m.head_bytes - 1 + sub.sid_bytes
    cdef char* p
    message_bare(e, m)
    p = out_reserve(&e.out, c, n + m.bare_line_bytes)
    memcpy(p, m.head + 1, m.head_bytes - 1)
    copy_sid(p + m.head_bytes - 1, sub)
    memcpy(p + n, m.bare_line, m.bare_line_bytes)
    out_commit(c, n + m.bare_line_bytes)
    if body_bytes < REFERENCE_BYTES or c.flags & CONNECTION_TRANSPORT:
        out_append(&e.out, c, body, body_bytes)
        e.dirty_bytes += n + m.bare_line_bytes + body_bytes
    else:
        out_borrow(c, body, body_bytes)
        e.borrowed = True
    mark_dirty(e, c)


cdef void trace_out(engine_t* e, message_t* m, connection_t* c, subscription_t* sub) noexcept nogil:
    """The line of a frame, for the log: MSG or HMSG, subject, sid, reply, sizes."""
    cdef bint whole = m.header_bytes > 0 and c.flags & CONNECTION_HEADERS != 0
    cdef const char* line = m.tail
    cdef size_t line_bytes = m.tail_bytes - m.payload_bytes - 4
    cdef size_t skip = 0 if whole else 1
    cdef size_t n = m.head_bytes - skip + sub.sid_bytes
    cdef char* text
    if m.header_bytes > 0 and not whole:
        message_bare(e, m)
        line = m.bare_line
        line_bytes = m.bare_line_bytes - 2
    text = <char*>mem_alloc(n + line_bytes)
    memcpy(text, m.head + skip, m.head_bytes - skip)
    memcpy(text + m.head_bytes - skip, sub.sid, sub.sid_bytes)
    memcpy(text + n, line, line_bytes)
    event_push(e, EVENT_TRACE, c, 1, text, n + line_bytes)
    free(text)


cdef bint deliver_sink(engine_t* e, message_t* m, subscription_t* sub) noexcept nogil:
    """Hand it to a subscription of the broker's own; nothing for one that is closed."""
    cdef connection_t* c = sub.connection
    sub.delivered += 1
    m.delivered += 1
    (<sink_t>c.sink)(e, m, sub, c.sink_context)
    return True


cdef bint deliver_odd(engine_t* e, message_t* m, subscription_t* sub) noexcept nogil:
    """One that is closed, no client's, or may not get everything."""
    cdef connection_t* c = sub.connection
    if c.flags & CONNECTION_CLOSING or sub.flags & SUBSCRIPTION_CLOSED:
        return False
    if sub.flags & SUBSCRIPTION_SHADOW:
        return exchange_deliver(e, m, sub)
    if c.flags & CONNECTION_SINK:
        return deliver_sink(e, m, sub)
    return deliver_client(e, m, sub)


cdef bint deliver_looked_at(engine_t* e, message_t* m, subscription_t* sub) noexcept nogil:
    """deliver_to, which is one function for speed, when what is odd about the receiver has been dealt with."""
    cdef bint done
    e.looked_at = True
    done = deliver_to(e, m, sub)
    e.looked_at = False
    return done


cdef bint deliver_client(engine_t* e, message_t* m, subscription_t* sub) noexcept nogil:
    """To a client that may not get everything."""
    cdef connection_t* c = sub.connection
    cdef queue_t* q
    if c.flags & CONNECTION_FILTERED == 0:
        return deliver_looked_at(e, m, sub)
    q = sublist_queue(sub.home)
    if not permissions_receive(c.permissions, m.subject if m.shown == NULL else m.shown,
                               m.subject_bytes if m.shown == NULL else m.shown_bytes,
                               q.name if q != NULL else NULL, q.name_bytes if q != NULL else 0):
        return False
    if not deliver_looked_at(e, m, sub):
        return False
    if m.reply_bytes and c.permissions.responses:
        replies_note(e, c, m.reply, m.reply_bytes)
    return True


cdef bint deliver_to(engine_t* e, message_t* m, subscription_t* sub) noexcept nogil:
    """One subscription, all rules. Whether it counts as delivered (client.go deliverMsg)."""
    cdef connection_t* c = sub.connection
    if sb_unlikely(c.flags & (CONNECTION_CLOSING | CONNECTION_SINK | CONNECTION_FILTERED) or sub.flags & SUBSCRIPTION_ODD):
        if not e.looked_at:
            return deliver_odd(e, m, sub)
    if c == m.publisher and c.flags & CONNECTION_NO_ECHO:
        return False
    if sub.max:
        if sub.delivered >= sub.max:
            return False
        if sub.delivered + 1 == sub.max:
            expire(e, sub)
    sub.delivered += 1
    watch_pending(e, c)
    message_head(e, m)
    if sb_unlikely(e.limits.trace):
        trace_out(e, m, c, sub)
    if m.header_bytes > 0 and c.flags & CONNECTION_HEADERS == 0:
        append_bare_frame(e, m, c, sub)
        count_out(e, c, m.payload_bytes - <uint32_t>m.header_bytes)
    else:
        append_frame(e, m, c, sub)
        count_out(e, c, m.payload_bytes)
    m.delivered += 1
    return True


cdef void deliver_run(engine_t* e, message_t* m, target_t* targets, uint32_t count) noexcept nogil:
    """Subscriptions with equal sids: one frame in the arena for all."""
    cdef const char* head = m.head
    cdef uint32_t head_bytes = m.head_bytes
    cdef subscription_t* sub = targets[0].subscription
    cdef connection_t* c
    cdef char* frame = e.arena + e.arena_used
    cdef size_t line_bytes, frame_bytes
    cdef uint32_t i
    cdef uint32_t odd_flags = (
        CONNECTION_CLOSING | CONNECTION_BLOCKED | CONNECTION_SINK | CONNECTION_FILTERED | CONNECTION_TRANSPORT)
    cdef uint32_t need_flags = 0
    cdef uint32_t done = 0
    cdef bint by_reference = m.tail_bytes >= REFERENCE_BYTES
    if m.publisher != NULL and m.publisher.flags & CONNECTION_NO_ECHO:
        odd_flags |= CONNECTION_NO_ECHO
    if m.header_bytes > 0:
        need_flags = CONNECTION_HEADERS
    if m.header_bytes < 0:
        head += 1
        head_bytes -= 1
    line_bytes = head_bytes + sub.sid_bytes
    frame_bytes = line_bytes if by_reference else line_bytes + m.tail_bytes
    if e.arena_used + frame_bytes + SB_SLACK > ARENA_BYTES or e.limits.trace:
        for i in range(count):
            deliver_to(e, m, targets[i].subscription)
        return
    sb_copy(frame, head, head_bytes)
    copy_sid(frame + head_bytes, sub)
    if by_reference:
        e.borrowed = True
    else:
        sb_copy(frame + line_bytes, m.tail, m.tail_bytes)
    e.arena_used += frame_bytes
    for i in range(count):
        c = targets[i].connection
        sub = targets[i].subscription
        if sb_unlikely((c.flags & odd_flags) != 0 or (c.flags & need_flags) != need_flags or sub.max
                       or sub.flags & SUBSCRIPTION_ODD):
            deliver_to(e, m, sub)
            continue
        sub.delivered += 1
        if by_reference:
            out_borrow(c, frame, line_bytes)
            out_borrow(c, m.tail, m.tail_bytes)
        elif sb_likely(c.spans_end == c.spans_first or out_extends(c, frame) or frame_bytes >= SHARED_RUN_MIN):
            out_borrow(c, frame, frame_bytes)
        else:
            # Something else came between: a copy joins the run of owned bytes, where spans would only pile up.
            sb_copy(out_reserve(&e.out, c, frame_bytes), frame, frame_bytes)
            out_commit(c, frame_bytes)
            e.dirty_bytes += frame_bytes
        c.out_msgs += 1
        c.out_bytes += m.payload_bytes
        done += 1
        mark_dirty(e, c)
    e.stats.out_msgs += done
    e.stats.out_bytes += <uint64_t>done * m.payload_bytes
    m.delivered += done


cdef void deliver_route(engine_t* e, message_t* m, route_t* r) noexcept nogil:
    cdef uint32_t i
    cdef uint32_t at = 0
    if sb_likely(m.shown == NULL):
        m.head = r.head
        m.head_bytes = r.subject_bytes + 6
    else:
        message_head(e, m)
    for i in range(r.groups_count):
        if r.groups[i] == 1:
            deliver_to(e, m, r.targets[at].subscription)
        else:
            deliver_run(e, m, r.targets + at, r.groups[i])
        at += r.groups[i]


cdef void deliver_match(engine_t* e, message_t* m) noexcept nogil:
    """Plain subscriptions of e.match. Queue groups are the caller's, because other shards may have members."""
    cdef match_t* match = &e.match
    cdef members_t* list
    cdef uint32_t i, j
    for i in range(match.lists_count):
        list = match.lists[i]
        for j in range(list.count):
            deliver_to(e, m, member_at(list, j))


cdef bint deliver_queue(engine_t* e, message_t* m, queue_t** queues, uint32_t count) noexcept nogil:
    """One local member of the group made of these queues: a random one, or the next that can take it."""
    cdef uint32_t total = 0
    cdef uint32_t i, k, start
    for i in range(count):
        total += queues[i].members.count
    if total == 0:
        return False
    start = random_below(e, total) if total > 1 else 0
    for k in range(total):  # no-cython-lint
        i = 0
        start = start % total
        while start >= queues[i].members.count:
            start -= queues[i].members.count
            i += 1
        if deliver_to(e, m, member_at(&queues[i].members, start)):
            return True
        # the next one, counted over all parts again
        start += 1
        while i > 0:
            i -= 1
            start += queues[i].members.count
    return False
