# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Connections whose bytes are transformed: see transport.pxd. Called by the engine's Python face and the loop; needs no
GIL; no system call. What is different from a socket is only who moves the bytes: limits, order and flow are the same code.
"""
from libc.stdint cimport uint32_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from shardbroker.hot.connection cimport connection_keep_behind, connection_sent, event_push
from shardbroker.hot.deliver cimport mark_dirty
from shardbroker.hot.engine cimport engine_catch_up, engine_on_bytes, engine_on_partial
from shardbroker.hot.memory cimport mem_alloc
from shardbroker.hot.model cimport (
    CONNECTION_BLOCKED, CONNECTION_CLOSING, CONNECTION_HELD, CONNECTION_PAUSED, CONNECTION_READABLE, CONNECTION_STALLED,
    connection_t)
from shardbroker.hot.state cimport EVENT_OUTPUT_END, engine_t

cdef enum:
    WAITING = CONNECTION_PAUSED | CONNECTION_STALLED | CONNECTION_HELD


cdef bint transport_hungry(connection_t* c) noexcept nogil:
    """Whether it may be fed. If not now, EVENT_ATTENTION says when."""
    if c.flags & WAITING:
        c.flags |= CONNECTION_READABLE
        return False
    c.flags &= ~<uint32_t>CONNECTION_READABLE
    return c.flags & CONNECTION_CLOSING == 0


cdef bint transport_feed(engine_t* e, connection_t* c, char* p, size_t n) noexcept nogil:
    """n bytes of input; p[n] must be writable, with SB_SLACK readable bytes behind. Whether it may be fed more."""
    cdef size_t piece
    e.alone_since_ns = e.now_ns
    if e.shards > 1:
        engine_catch_up(e)
    if c.partial != NULL and c.partial_need > c.partial_bytes:
        # The rest of a long payload, to where its beginning is.
        piece = c.partial_need - c.partial_bytes
        if piece > n:
            piece = n
        memcpy(c.partial + c.partial_bytes, p, piece)
        c.partial_bytes += <uint32_t>piece
        p += piece
        n -= piece
        if c.flags & WAITING == 0 and (c.partial_bytes == c.partial_need or (
                c.partial_bytes + 1 == c.partial_need and c.partial[c.partial_bytes - 1] != c'\r')):
            engine_on_partial(e, c)     # whole; or wrong behind the payload, which is told without waiting
    if n:
        if c.partial == NULL:
            engine_on_bytes(e, c, p, n)
        else:
            connection_keep_behind(e, c, p, n)
            if c.flags & WAITING == 0:
                engine_on_partial(e, c)
    if e.borrowed:
        e.flush(e)                      # output refers to the buffer
    return transport_hungry(c)


cdef size_t transport_take(engine_t* e, connection_t* c, char* p, size_t n) noexcept nogil:
    """Move up to n bytes of output to p; how many."""
    cdef size_t taken = 0
    cdef size_t piece
    cdef uint32_t i
    for i in range(c.spans_first, c.spans_end):
        piece = c.spans[i].bytes
        if piece > n - taken:
            piece = n - taken
        memcpy(p + taken, c.spans[i].data, piece)
        taken += piece
        if taken == n:
            break
    transport_sent(e, c, taken)
    return taken


cdef void transport_sent(engine_t* e, connection_t* c, size_t n) noexcept nogil:
    """The first n bytes of its output have been taken."""
    if n:
        connection_sent(e, c, n)
    if c.spans_first == c.spans_end:
        c.write_deadline_ns = 0


cdef void transport_blocked(engine_t* e, connection_t* c, bint blocked) noexcept nogil:
    """Its socket takes no more for now, or takes more again: output waits meanwhile, as behind a full socket."""
    if blocked:
        c.flags |= CONNECTION_BLOCKED
    elif c.flags & CONNECTION_BLOCKED:
        c.flags &= ~<uint32_t>CONNECTION_BLOCKED
        if c.spans_first < c.spans_end:
            mark_dirty(e, c)


cdef void transport_end(engine_t* e, connection_t* c) noexcept nogil:
    """Hand the last output of a closed connection to the control side."""
    cdef size_t n = c.pending_bytes
    cdef char* text = <char*>mem_alloc(n + 1)
    cdef int reason = <int>c.close_reason
    transport_take(e, c, text, n)
    event_push(e, EVENT_OUTPUT_END, c, reason, text, n)
    free(text)
