"""Where each message is, and what goes when one goes. Used by the log, recovery and compaction. Home shard only."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from shardbroker.store.format cimport record_t
from shardbroker.store.model cimport log_t, range_t, segment_t

# The message of entry `i` goes: counts, subject, first_seq, and the segment when it was its last. Reports it when log.on_removed
# is set. The record's bytes stay where they are until the turn's end.
cdef void index_drop(log_t* log, segment_t* g, uint32_t i, int reason) noexcept nogil
cdef void index_put(log_t* log, segment_t* g, uint64_t seq, uint64_t offset) noexcept nogil    # of the record that stands there
cdef void index_check(log_t* log, segment_t* g) noexcept nogil             # after a checksum failed in it
cdef void index_add(log_t* log, segment_t* g, uint64_t seq, uint64_t offset, uint32_t id) noexcept nogil   # of this subject
cdef uint64_t index_counts(log_t* log, const record_t* r) noexcept nogil   # towards log.bytes
cdef void index_first(log_t* log, uint64_t from_seq) noexcept nogil        # find first_seq again, not below from_seq
cdef segment_t* index_find(log_t* log, uint64_t seq, uint32_t* i) noexcept nogil               # live message, or NULL
cdef void index_retire(log_t* log, segment_t* g) noexcept nogil            # its file goes behind this batch
cdef void index_empty(log_t* log, segment_t* g) noexcept nogil
cdef void index_sweep(log_t* log) noexcept nogil                           # retires what is empty at the front
cdef void index_clear(log_t* log) noexcept nogil                           # all messages and all segments go, unreported
cdef void index_lost(log_t* log, uint64_t first, uint64_t last) noexcept nogil     # damage: noted and told
cdef void expiry_push(log_t* log, int64_t expires_ns, uint64_t seq) noexcept nogil
cdef void expiry_pop(log_t* log) noexcept nogil


cdef inline void* grown(void* items, uint32_t* capacity, uint32_t count, size_t size) noexcept nogil:
    """The array with room for one more than `count`."""
    if count < capacity[0]:
        return items
    return grow(items, capacity, size)

cdef void* grow(void* items, uint32_t* capacity, size_t size) noexcept nogil
