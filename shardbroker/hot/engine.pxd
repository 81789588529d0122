"""One shard's engine: bytes and records in, bytes and records out. It knows no socket; shard/loop.pyx drives it.

    RING_BATCH bounds a ring's share of a turn, so that sockets get theirs.

    a turn:  engine_begin_turn -> engine_on_bytes (each connection read) -> engine_on_rings -> engine_sweep
             -> engine_end_turn (hooks, closed connections, expired waits) -> flush -> engine_after_flush
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t

from shardbroker.hot.model cimport account_t, connection_t, permissions_t, route_t
from shardbroker.hot.state cimport engine_t, hook_function_t, message_t

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
cdef void engine_hook(engine_t* e, hook_function_t function, void* context) noexcept nogil
cdef uint32_t engine_publish(engine_t* e, account_t* a, const char* subject, uint32_t subject_bytes, const char* shown,
                             uint32_t shown_bytes, const char* reply, uint32_t reply_bytes, int32_t header_bytes,
                             const char* payload, uint32_t payload_bytes) noexcept nogil
cdef uint32_t engine_publish_on(engine_t* e, account_t* a, const char* subject, uint32_t subject_bytes, const char* shown,
                                uint32_t shown_bytes, const char* reply, uint32_t reply_bytes, int32_t header_bytes,
                                const char* payload, uint32_t payload_bytes) noexcept nogil
cdef bint engine_interest(engine_t* e, account_t* a, const char* subject, uint32_t subject_bytes) noexcept nogil
cdef void engine_send_peer(engine_t* e, uint32_t shard, const char* data, uint32_t n) noexcept nogil
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
    cdef list sinks                     # addresses of the sinks of Python's own, None for one that was closed
    cdef object prefixes
    cdef object introduced              # what e.describe, e.traced and e.server_name point to
    cdef dict permissions               # auth.model.Permissions -> address of the permissions_t made of them
    cdef Py_ssize_t permissions_kept
    cdef object _settings
    cdef bint snapshots_reported
    cdef uint64_t changes_trimmed       # comings and goings when memory was last given back
    cdef uint64_t changes_seen
    cdef connection_t* find(self, uint32_t slot, uint64_t client_id)
    cdef account_t* account_of(self, bytes name) except NULL
    cdef permissions_t* permissions_of(self, permissions) except? NULL
    cdef list accounts_named(self, account)
    cdef void check_ready(self) noexcept
