"""The subscriptions of one connection by sid.

    numbered   indexed by the sid's number. Clients count their subscriptions, so nearly all are here: no hash, no probe
    sids       a hash table for the others: words, and numbers far above what a connection has subscriptions

An entry is in one of the two; a number may stand in the table although the array has since grown past it, so who looks a
number up looks in both. The table's hash is keyed by the account: a connection changes accounts without subscriptions only.
A walk goes over sid_at(c, i) for i below sids_end(c). Home shard only.
"""
from libc.stdint cimport uint32_t

from shardbroker.hot.model cimport connection_t, subscription_t
from shardbroker.hot.state cimport engine_t

cdef subscription_t* sid_find(connection_t* c, const char* sid, uint32_t n) noexcept nogil
cdef subscription_t* sid_add(engine_t* e, connection_t* c, const char* sid, uint32_t n) noexcept nogil
cdef void sid_remove(engine_t* e, connection_t* c, subscription_t* sub) noexcept nogil
cdef void sids_free(connection_t* c) noexcept nogil
cdef size_t subscription_bytes(uint32_t sid_bytes) noexcept nogil


cdef inline uint32_t sids_end(connection_t* c) noexcept nogil:
    return c.numbered_capacity + c.sids_capacity


cdef inline subscription_t* sid_at(connection_t* c, uint32_t i) noexcept nogil:
    """NULL: nothing is there."""
    return c.numbered[i] if i < c.numbered_capacity else c.sids[i - c.numbered_capacity]


cdef inline void sid_clear(connection_t* c, uint32_t i) noexcept nogil:
    """Forget an entry where nothing is looked up any more: the counts are not kept."""
    if i < c.numbered_capacity:
        c.numbered[i] = NULL
    else:
        c.sids[i - c.numbered_capacity] = NULL
