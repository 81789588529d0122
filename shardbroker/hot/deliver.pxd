"""From a message to frames in the output of local connections.

    deliver_route      along a cached route: shared frames for equal sids
    deliver_match      along a fresh match: subjects seen once
    deliver_queue      to one member of a queue group on this shard

Home shard only. `m.delivered` counts.
"""
from libc.stdint cimport uint32_t, uint64_t

from shardbroker.hot.model cimport connection_t, queue_group_t, queue_t, route_t, subscription_t
from shardbroker.hot.state cimport engine_t, message_t

cdef bint deliver_to(engine_t* e, message_t* m, subscription_t* sub) noexcept nogil
cdef bint deliver_client(engine_t* e, message_t* m, subscription_t* sub) noexcept nogil
cdef bint deliver_sink(engine_t* e, message_t* m, subscription_t* sub) noexcept nogil
cdef void deliver_route(engine_t* e, message_t* m, route_t* r) noexcept nogil
cdef void deliver_match(engine_t* e, message_t* m) noexcept nogil
cdef bint deliver_queue(engine_t* e, message_t* m, queue_t** queues, uint32_t count) noexcept nogil


cdef inline void mark_dirty(engine_t* e, connection_t* c) noexcept nogil:
    """It has something to be written. The list is a stack: whoever flushes turns it round (shard/loop), so that a PONG, which
    comes after what its connection published, is not written before that."""
    if c.flags & DIRTY_FLAG == 0:
        c.flags |= DIRTY_FLAG
        c.dirty_next = e.dirty
        e.dirty = c


cdef enum:
    DIRTY_FLAG = 1 << 3                 # CONNECTION_DIRTY


cdef inline uint32_t random_below(engine_t* e, uint32_t n) noexcept nogil:
    """Uniform in [0, n): xorshift64*, high bits, multiplied down."""
    e.random ^= e.random >> 12
    e.random ^= e.random << 25
    e.random ^= e.random >> 27
    return <uint32_t>((((e.random * <uint64_t>0x2545F4914F6CDD1D) >> 32) * n) >> 32)
