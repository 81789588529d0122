"""One client's state: its place in the table, its sids, what it is sent outside of messages, how it ends.

    connection_new -> ... -> connection_close -> connections_reap -> (the loop closes the socket) -> connection_free

Home shard only.
"""
from libc.stdint cimport uint32_t, uint64_t

from shardbroker.hot.model cimport connection_t, permissions_t, subscription_t
from shardbroker.hot.state cimport engine_t

cdef enum:
    LOG_ERROR = 1
    LOG_WARNING = 2
    LOG_NOTICE = 3
    LOG_DEBUG = 4

cdef connection_t* connection_new(engine_t* e, int fd, uint64_t client_id) noexcept nogil
cdef void connection_free(engine_t* e, connection_t* c) noexcept nogil
cdef void connection_close(engine_t* e, connection_t* c, uint32_t reason) noexcept nogil
cdef void connection_restrict(engine_t* e, connection_t* c, permissions_t* p) noexcept nogil
cdef bint connections_reap(engine_t* e) noexcept nogil
cdef void slots_trim(engine_t* e) noexcept nogil
cdef void events_trim(engine_t* e) noexcept nogil
cdef void connection_send(engine_t* e, connection_t* c, const char* data, size_t n) noexcept nogil
cdef void connection_error(engine_t* e, connection_t* c, const char* text) noexcept nogil
cdef void connection_violation(engine_t* e, connection_t* c, const char* what, const char* name, uint32_t name_bytes,
                               const char* behind) noexcept nogil
cdef void connection_violation_queue(engine_t* e, connection_t* c, const char* what, const char* name, uint32_t name_bytes,
                                     const char* behind, const char* queue, uint32_t queue_bytes) noexcept nogil
cdef void connection_ok(engine_t* e, connection_t* c) noexcept nogil
cdef void connection_keep(engine_t* e, connection_t* c, const char* p, size_t n, size_t need) noexcept nogil
cdef void connection_keep_behind(engine_t* e, connection_t* c, const char* p, size_t n) noexcept nogil
cdef void connection_sent(engine_t* e, connection_t* c, size_t n) noexcept nogil
cdef void connection_wait(engine_t* e, connection_t* c, uint32_t flag) noexcept nogil
cdef void connection_ready(engine_t* e, connection_t* c) noexcept nogil
cdef void connection_row(connection_t* c, uint64_t* row) noexcept nogil

cdef void unsubscribe(engine_t* e, subscription_t* sub) noexcept nogil

cdef void bury(engine_t* e, subscription_t* sub) noexcept nogil
cdef void garbage(engine_t* e, void* block) noexcept nogil
cdef void free_dead(engine_t* e) noexcept nogil
cdef void event_push(engine_t* e, int kind, connection_t* c, int number, const char* text, size_t n) noexcept nogil
