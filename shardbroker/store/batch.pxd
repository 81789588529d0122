"""From records in memory to the disk: the batch that gathers, segments that follow one another, the write job."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from shardbroker.store.model cimport log_t, segment_t

cdef enum:
    RETRY_NS = 250000000                # after LOG_NO_SPACE

# The active segment with `need` bytes of room and the batch's mark; NULL: log.state says why. `control`: for marks and
# removals, which may use the reserve at the segment's end.
cdef segment_t* batch_room(log_t* log, uint64_t need, bint control) noexcept nogil
cdef bint batch_quiet(log_t* log) noexcept nogil                   # nothing is under way
cdef void batch_moved(log_t* log, const char* directory) noexcept nogil  # its directory was renamed; while it is quiet
cdef void batch_roll(log_t* log) noexcept nogil                    # a new segment, if one can be had
cdef void batch_mark(log_t* log) noexcept nogil                    # says next_seq and first_seq as they are now
cdef void batch_skip(log_t* log, uint64_t next_seq) noexcept nogil  # the sequences before it are not used
cdef void batch_removed(log_t* log, uint64_t seq) noexcept nogil   # an interior message was removed by a call
cdef void batch_erase(log_t* log, segment_t* g, uint32_t i) noexcept nogil
cdef int batch_submit(log_t* log) noexcept nogil
cdef bint batch_pending(log_t* log) noexcept nogil                 # something waits for log_submit
cdef void batch_sync(log_t* log) noexcept nogil                    # SYNC_INTERVAL: start an fdatasync
cdef void batch_retry(log_t* log) noexcept nogil                   # LOG_NO_SPACE: once more
cdef int batch_open(log_t* log) noexcept nogil
cdef void batch_close(log_t* log) noexcept nogil
cdef int64_t wall_ns() noexcept nogil
