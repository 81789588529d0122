"""Output of connections: what a turn adds, what a socket takes, what stays.

    out_reserve -> out_commit     bytes of one connection, copied into memory it owns
    out_borrow                    bytes that several connections share, or large payloads: by reference
    out_gather -> out_sent        the flush: spans as iovecs, then what the socket took
    out_keep                      after the flush: whatever is still borrowed is copied

Home shard only.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from shardbroker.hot.model cimport chunk_t, connection_t, span_t

cdef enum:
    CHUNK_SIZES = 3                     # 2, 16 and 64 KiB: an idle connection has none, a busy one large ones
    CHUNK_SMALL = 2048
    CHUNK_MEDIUM = 16384
    CHUNK_LARGE = 65536
    CHUNK_POOL_BYTES = 8 << 20          # kept for reuse per size; what comes back above that is freed

cdef struct out_iov_t:
    void* base
    size_t bytes

cdef struct chunk_pool_t:
    chunk_t* free
    uint64_t free_bytes

cdef struct outbound_t:
    chunk_pool_t pools[CHUNK_SIZES]
    uint64_t bytes_owned                # in chunks held by connections

cdef char* out_reserve_slow(outbound_t* o, connection_t* c, size_t n) noexcept nogil
cdef void out_grow_spans(connection_t* c) noexcept nogil
cdef uint32_t out_gather(connection_t* c, out_iov_t* iov, uint32_t most, size_t* total) noexcept nogil
cdef void out_sent(outbound_t* o, connection_t* c, size_t n) noexcept nogil
cdef void out_keep(outbound_t* o, connection_t* c) noexcept nogil
cdef void out_drop(outbound_t* o, connection_t* c) noexcept nogil
cdef void out_append(outbound_t* o, connection_t* c, const char* data, size_t n) noexcept nogil
cdef void out_free_pools(outbound_t* o) noexcept nogil


cdef inline char* chunk_data(chunk_t* k) noexcept nogil:
    return <char*>k + sizeof(chunk_t)


cdef inline char* out_reserve(outbound_t* o, connection_t* c, size_t n) noexcept nogil:
    """Room for n bytes (and SB_SLACK) that follow everything appended so far. out_commit makes them count."""
    cdef chunk_t* k = c.tail
    cdef span_t* s
    if k != NULL and k.capacity - k.used >= n:
        if c.spans_end > c.spans_first:
            s = &c.spans[c.spans_end - 1]
            if s.chunk == k and s.data + s.bytes == chunk_data(k) + k.used:
                return s.data + s.bytes
    return out_reserve_slow(o, c, n)


cdef inline void out_commit(connection_t* c, size_t n) noexcept nogil:
    c.tail.used += <uint32_t>n
    c.spans[c.spans_end - 1].bytes += n
    c.pending_bytes += n


cdef inline bint out_extends(connection_t* c, const char* data) noexcept nogil:
    """Whether borrowed bytes at `data` would continue the last span."""
    cdef span_t* s
    if c.spans_end == c.spans_first:
        return False
    s = &c.spans[c.spans_end - 1]
    return s.chunk == NULL and s.data + s.bytes == data


cdef inline void out_borrow(connection_t* c, const char* data, size_t n) noexcept nogil:
    cdef span_t* s
    if c.spans_end > c.spans_first:
        s = &c.spans[c.spans_end - 1]
        if s.chunk == NULL and s.data + s.bytes == data:
            s.bytes += n
            c.pending_bytes += n
            return
    if c.spans_end == c.spans_capacity:
        out_grow_spans(c)
    s = &c.spans[c.spans_end]
    c.spans_end += 1
    s.data = <char*>data
    s.bytes = n
    s.chunk = NULL
    c.pending_bytes += n
