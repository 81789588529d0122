"""Segments: their memory, their files, their arrays. No policy. Home shard only, or the thread that opens the log."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from shardbroker.store.format cimport SEGMENT_HEADER_BYTES, record_t, segment_header_t
from shardbroker.store.model cimport log_t, segment_t

cdef segment_t* segment_new(uint64_t id, uint64_t first_seq, uint64_t capacity) noexcept nogil
cdef void segment_free(segment_t* g) noexcept nogil                # memory and descriptor, not the file's name
cdef uint64_t segment_faults() noexcept nogil
cdef void segment_header_write(char* base, const segment_header_t* h) noexcept nogil
cdef bint segment_header_read(const char* page, segment_header_t* h) noexcept nogil
cdef void segment_path(char* out, const char* directory, uint64_t id, const char* suffix) noexcept nogil
cdef void segment_add(segment_t* g, uint64_t seq, uint64_t offset, uint32_t id) noexcept nogil
cdef void segment_shrink(segment_t* g) noexcept nogil              # arrays to their size
cdef void segment_map(segment_t* g) noexcept nogil                 # what is written becomes a mapping of the file
cdef void segment_private(segment_t* g, uint64_t from_page) noexcept nogil     # from there on it is private memory again
cdef void segments_link(log_t* log, segment_t* g, segment_t* after) noexcept nogil   # after NULL: as the first
cdef void segments_unlink(log_t* log, segment_t* g) noexcept nogil
cdef segment_t* segments_find(log_t* log, uint64_t seq) noexcept nogil     # the last with first_seq <= seq, or NULL

cdef enum:
    PATH_BYTES_MAX = 4096


cdef inline int64_t segment_index(const segment_t* g, uint64_t seq) noexcept nogil:
    """Index of seq in the arrays, -1: not there."""
    cdef uint64_t delta = seq - g.first_seq
    cdef uint32_t low, high, middle
    if seq < g.first_seq or seq >= g.end_seq:
        return -1
    if g.deltas == NULL:
        return <int64_t>delta if delta < g.entries else -1
    low = 0
    high = g.entries
    while low < high:
        middle = (low + high) >> 1
        if g.deltas[middle] < delta:
            low = middle + 1
        else:
            high = middle
    return <int64_t>low if low < g.entries and g.deltas[low] == delta else -1


cdef inline uint32_t segment_index_from(const segment_t* g, uint64_t seq) noexcept nogil:
    """Index of the first entry with a sequence >= seq; `entries` when there is none."""
    cdef uint64_t delta
    cdef uint32_t low, high, middle
    if seq <= g.first_seq:
        return 0
    if seq >= g.end_seq:
        return g.entries
    delta = seq - g.first_seq
    if g.deltas == NULL:
        return <uint32_t>delta if delta < g.entries else g.entries
    low = 0
    high = g.entries
    while low < high:
        middle = (low + high) >> 1
        if g.deltas[middle] < delta:
            low = middle + 1
        else:
            high = middle
    return low


cdef inline uint64_t segment_seq(const segment_t* g, uint32_t i) noexcept nogil:
    return g.first_seq + (g.deltas[i] if g.deltas != NULL else i)


cdef inline record_t* segment_record(const segment_t* g, uint32_t i) noexcept nogil:
    return <record_t*>(g.base + (<uint64_t>g.offsets[i] << 3))
