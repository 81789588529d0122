"""One shard's engine: bytes and records in, bytes and records out. It knows no socket; shard/loop.pyx drives it.

    RING_BATCH bounds a ring's share of a turn, so that sockets get theirs.

    a turn:  engine_begin_turn -> engine_on_bytes (each connection read) -> engine_on_rings -> engine_sweep
             -> engine_end_turn (closed connections, expired waits) -> flush -> engine_after_flush
"""
from libc.stdint cimport uint32_t, uint64_t

from shardbroker.hot.model cimport connection_t, route_t
from shardbroker.hot.state cimport engine_t, message_t

cdef void engine_begin_turn(engine_t* e, uint64_t now_ns) noexcept nogil
cdef void engine_on_bytes(engine_t* e, connection_t* c, char* p, size_t n) noexcept nogil
cdef void engine_on_partial(engine_t* e, connection_t* c) noexcept nogil
cdef bint engine_on_rings(engine_t* e, uint32_t most) noexcept nogil
cdef void engine_catch_up(engine_t* e) noexcept nogil
cdef bint engine_rings_waiting(engine_t* e) noexcept nogil
cdef void engine_sweep(engine_t* e) noexcept nogil
cdef uint64_t engine_sweep_interval(engine_t* e) noexcept nogil
cdef bint engine_end_turn(engine_t* e) noexcept nogil
cdef bint engine_resume(engine_t* e) noexcept nogil
cdef void engine_after_flush(engine_t* e) noexcept nogil
cdef route_t* route_of(engine_t* e, message_t* m) noexcept nogil

cdef enum:
    RING_BATCH = 4096                   # records
    RING_ALL = 0xFFFFFFFF               # as many as a ring holds: the writer needs us to release before it can add more

ctypedef void (*attach_t)(engine_t* e, connection_t* c) noexcept nogil
ctypedef void (*detach_t)(engine_t* e, connection_t* c) noexcept nogil

cdef class Engine:
    cdef engine_t e
    cdef attach_t attach                # set by the loop: register, and close, a socket
    cdef detach_t detach
    cdef object segment
    cdef tuple rings                    # RingWriters and RingReaders, which own the mappings
    cdef object _settings
    cdef bint snapshots_reported
    cdef uint64_t changes_trimmed       # comings and goings when memory was last given back
    cdef uint64_t changes_seen
    cdef connection_t* find(self, uint32_t slot, uint64_t client_id)
    cdef void check_ready(self) noexcept
