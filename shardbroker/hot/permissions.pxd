"""What a connection may publish and receive.

    permissions_new -> (Python adds patterns) -> permissions_ready      one for each set of permissions, shared by its users
    permissions_publish      may it publish to this subject                  (on_pub, restricted connections only)
    permissions_subscribe    may it make this subscription                   (on_sub, the same)
    permissions_overlap      must what the subscription gets be looked at    (a deny within a wider subscription)
    permissions_receive      may it get this message, by that subscription   (deliver_to, filtered connections only)
    replies_note             it has got a request: it may answer it          (deliver_to, the same)

Home shard only.
"""
from libc.stdint cimport uint32_t, uint64_t

from shardbroker.hot.model cimport connection_t, patterns_t, permissions_t
from shardbroker.hot.state cimport engine_t

cdef enum:
    CACHE_ENTRIES = 256
    REPLIES_MAX = 1 << 16               # that one connection may answer at a time; above it the oldest are forgotten

cdef permissions_t* permissions_new(uint64_t seed) noexcept nogil
cdef void permissions_free(permissions_t* p) noexcept nogil
cdef void patterns_add(patterns_t* list, const char* subject, uint32_t n, const char* queue, uint32_t queue_bytes) noexcept nogil
cdef void permissions_ready(permissions_t* p) noexcept nogil
cdef bint permissions_publish(engine_t* e, connection_t* c, const char* subject, uint32_t n) noexcept nogil
cdef bint permissions_subscribe(permissions_t* p, const char* subject, uint32_t n, const char* queue,
                                uint32_t queue_bytes) noexcept nogil
cdef bint permissions_overlap(permissions_t* p, const char* subject, uint32_t n, bint queue) noexcept nogil
cdef bint permissions_receive(permissions_t* p, const char* subject, uint32_t n, const char* queue,
                              uint32_t queue_bytes) noexcept nogil
cdef void replies_note(engine_t* e, connection_t* c, const char* reply, uint32_t n) noexcept nogil
cdef void replies_free(connection_t* c) noexcept nogil
cdef bint pattern_matches(const char* pattern, uint32_t pattern_bytes, const char* subject, uint32_t n) noexcept nogil
cdef bint pattern_covers(const char* pattern, uint32_t pattern_bytes, const char* inner, uint32_t n) noexcept nogil
cdef bint patterns_collide(const char* one, uint32_t one_bytes, const char* other, uint32_t n) noexcept nogil
