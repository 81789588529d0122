# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Sinks: see sink.pxd. Called by the engine and by what rides on it; needs no GIL; no system call.

A sink function runs while a message is being delivered, so it only takes note (copies, queues) and announces work for a
hook, which may publish. Whatever it is handed is gone when it returns.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from shardbroker.hot.bytes cimport sb_digits
from shardbroker.hot.connection cimport bury, event_push
from shardbroker.hot.exchange cimport exchange_subscribe, exchange_unsubscribe
from shardbroker.hot.interest cimport interest_subscribe, interest_unsubscribe
from shardbroker.hot.memory cimport mem_alloc, mem_zero
from shardbroker.hot.model cimport (
    CONNECTION_CLOSING, CONNECTION_HEADERS, CONNECTION_OPEN, CONNECTION_SINK, SUBSCRIPTION_CLOSED, SUBSCRIPTION_SHADOWED,
    account_t, connection_t, subscription_t)
from shardbroker.hot.sids cimport sid_add, sid_at, sid_remove, sids_end, sids_free
from shardbroker.hot.state cimport EVENT_MESSAGE, engine_t, event_t, message_t, sink_t

cdef enum:
    NO_SLOT = 0xFFFFFFFF                # in no table: nobody finds it by slot


cdef connection_t* sink_new(engine_t* e, sink_t sink, void* context) noexcept nogil:
    """A sink without subscriptions, in the global account."""
    return sink_new_in(e, e.account, sink, context)


cdef connection_t* sink_new_in(engine_t* e, account_t* a, sink_t sink, void* context) noexcept nogil:
    """The same in another account."""
    cdef connection_t* c = <connection_t*>mem_zero(sizeof(connection_t))
    c.fd = -1
    c.slot = NO_SLOT
    c.account = a
    c.flags = CONNECTION_OPEN | CONNECTION_SINK | CONNECTION_HEADERS
    c.spans = &c.spans_inline[0]
    c.spans_capacity = 1
    c.started_ns = e.now_ns
    c.sink = <void*>sink
    c.sink_context = context
    return c


cdef subscription_t* sink_subscribe(engine_t* e, connection_t* c, const char* subject, uint32_t subject_bytes,
                                    const char* queue, uint32_t queue_bytes, uint64_t sid) noexcept nogil:
    """Subscribe to a subject that was checked. sid: a number that is free, 0 for the one behind the last that was so given."""
    cdef char digits[24]
    cdef subscription_t* sub
    if sid == 0:
        c.sid_last += 1
        sid = c.sid_last
    sub = sid_add(e, c, digits, <uint32_t>sb_digits(digits, sid))
    interest_subscribe(e, c.account, sub, subject, subject_bytes, queue, queue_bytes)
    if c.account.streams_count:
        exchange_subscribe(e, c.account, sub, subject, subject_bytes, queue, queue_bytes)
    return sub


cdef void sink_unsubscribe(engine_t* e, subscription_t* sub) noexcept nogil:
    """Take one out; it is freed at the end of the turn."""
    if sub.flags & SUBSCRIPTION_CLOSED:
        return
    sub.flags |= SUBSCRIPTION_CLOSED
    sid_remove(e, sub.connection, sub)
    if sub.flags & SUBSCRIPTION_SHADOWED:
        exchange_unsubscribe(e, sub)
    interest_unsubscribe(e, sub.connection.account, sub)
    bury(e, sub)


cdef void sink_free(engine_t* e, connection_t* c) noexcept nogil:
    """Take all its subscriptions out. The function is not called any more; the memory goes at the end of the turn."""
    cdef subscription_t* sub
    cdef uint32_t i = 0
    if c.flags & CONNECTION_CLOSING:
        return
    c.flags |= CONNECTION_CLOSING
    while c.subscriptions:
        sub = sid_at(c, i % sids_end(c))
        if sub != NULL:
            sink_unsubscribe(e, sub)
        else:
            i += 1
    c.close_next = e.sinks_dead
    e.sinks_dead = c


cdef void sinks_free_dead(engine_t* e) noexcept nogil:
    """At the end of a turn, when no route and no list refers to them."""
    cdef connection_t* c
    while e.sinks_dead != NULL:
        c = e.sinks_dead
        e.sinks_dead = c.close_next
        sids_free(c)
        free(c)


cdef void to_events(engine_t* e, message_t* m, subscription_t* sub, void* context) noexcept nogil:
    """The message as an event: sid, subject, reply, payload in one block, their lengths beside it."""
    cdef size_t sid_bytes = sub.sid_bytes - 1
    cdef size_t n = sid_bytes + m.subject_bytes + m.reply_bytes + m.payload_bytes
    cdef char* text = <char*>mem_alloc(n + 1)
    cdef event_t* v
    memcpy(text, sub.sid, sid_bytes)
    memcpy(text + sid_bytes, m.subject, m.subject_bytes)
    if m.reply_bytes:
        memcpy(text + sid_bytes + m.subject_bytes, m.reply, m.reply_bytes)
    memcpy(text + n - m.payload_bytes, m.payload, m.payload_bytes)
    event_push(e, EVENT_MESSAGE, NULL, 0, NULL, 0)
    v = &e.events[e.events_count - 1]
    v.text = text
    v.text_bytes = n
    v.client_id = <uint64_t>context
    v.slot = <uint32_t>m.from_shard
    v.values[0] = sid_bytes
    v.values[1] = m.subject_bytes
    v.values[2] = m.reply_bytes
    v.values[3] = <uint64_t>m.header_bytes if m.header_bytes > 0 else 0
    e.events_bytes += n


cdef sink_t sink_to_events() noexcept nogil:
    return to_events
