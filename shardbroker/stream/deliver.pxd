"""The loop of the consumers: what came in, what is due, what can be delivered. See consumer.pxd for the structs.

    hub_run     once a turn, before the flush, when work was announced or a time has come
"""
from libc.stdint cimport int64_t, uint64_t

from shardbroker.stream.consumer cimport consumer_t, hub_t

cdef uint64_t hub_run(hub_t* h, uint64_t now_ns, int64_t time_ns) noexcept nogil     # when to run again; 0 at once, NEVER
cdef bint consumer_run(consumer_t* c) noexcept nogil
