"""Reading a log. See store.log, which names these for those outside."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from shardbroker.store.model cimport filter_t, log_t, log_view_t, range_t, segment_t, subject_t

cdef enum:
    SCAN_MESSAGES_MAX = 1 << 20         # looked at by one log_next

cdef int log_get(log_t* log, uint64_t seq, log_view_t* view) noexcept nogil
cdef int log_last_for(log_t* log, const char* subject, uint32_t n, log_view_t* view) noexcept nogil
cdef int log_first_for(log_t* log, const char* subject, uint32_t n, log_view_t* view) noexcept nogil
cdef int log_last(log_t* log, log_view_t* view) noexcept nogil
# The first message with seq >= from_seq that matches. LOG_NOT_FOUND: none up to next_seq - 1. LOG_MORE: looked at
# SCAN_MESSAGES_MAX without a match; view.seq is where to go on. A message found damaged is passed over and reported.
cdef int log_next(log_t* log, uint64_t from_seq, filter_t* filter, log_view_t* view) noexcept nogil
cdef uint64_t seek(log_t* log, uint64_t from_seq, filter_t* filter, segment_t** segment, uint32_t* index) noexcept nogil
cdef int log_previous(log_t* log, uint64_t from_seq, filter_t* filter, log_view_t* view) noexcept nogil   # seq <= from_seq
cdef uint64_t log_pending(log_t* log, filter_t* filter, uint64_t from_seq) noexcept nogil   # messages that match, seq >= from_seq
cdef uint64_t log_pending_subjects(log_t* log, filter_t* filter, uint64_t from_seq) noexcept nogil  # last >= from_seq
cdef uint64_t log_seq_at(log_t* log, int64_t time_ns) noexcept nogil       # of the first message not older; next_seq: none
cdef bint log_has(log_t* log, uint64_t seq) noexcept nogil
cdef subject_t* log_subject(log_t* log, const char* subject, uint32_t n) noexcept nogil    # count, first, last; NULL: none
# Sequences of the last message of every subject that matches, ascending, with seq <= up_to (0: all). malloc'ed; free it.
cdef uint64_t* log_last_seqs(log_t* log, filter_t* filter, uint64_t up_to, uint64_t* count) noexcept nogil
# Ranges without live messages between first_seq and last_seq. free() it. At most `most`, 0: all. `messages`: how many in all.
cdef range_t* log_deleted(log_t* log, uint32_t most, uint32_t* count, uint64_t* messages) noexcept nogil
