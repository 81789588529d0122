"""The selector that is the data path."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from shardbroker.hot.engine cimport Engine
from shardbroker.hot.model cimport connection_t
from shardbroker.hot.state cimport engine_t

cdef enum:
    PYTHON_EVENTS_MAX = 64

cdef struct loop_t:
    engine_t* e
    int epoll
    int eventfd                         # this shard's doorbell; -1 with one shard
    char* buffer                        # headroom, then RECEIVE_BYTES, then SB_SLACK
    size_t headroom
    bint ready_told                     # the control side knows that all interest is here
    bint more                           # rings have more, or closed connections have subscriptions left
    bint bitten                         # bulk was read in bites: the hooks get the next turn
    size_t bite                         # how much of a bulk connection is read meanwhile: some BITE_NS of work
    # asyncio's descriptors that are ready
    int python_fds[PYTHON_EVENTS_MAX]
    uint32_t python_masks[PYTHON_EVENTS_MAX]
    uint32_t python_count

cdef class Selector:
    cdef loop_t l
    cdef readonly Engine engine
    cdef object on_events
    cdef dict keys
    cdef bint closed
