"""One stream's messages: append, read, find, remove. Streams and consumers use this file and `store.filter`.

    log_append ... log_remove ... log_submit        a turn: changes, then once the hand-over to the disk
    store_collect -> on_durable                      the disk is done: log.durable_seq has moved
    log_get, log_next, log_last_for, log_pending     reading, from memory or mapped files, without copies
    log_tick                                         ages, TTLs, intervals; at log_deadline() at the latest

Home shard only; nothing here blocks on the disk except log_open, log_close, and log_submit under SYNC_INTERVAL, which writes to
the page cache.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from shardbroker.store.files cimport files_t
from shardbroker.store.model cimport filter_t, log_limits_t, log_t, log_view_t, range_t, store_t, subject_t

cdef struct log_options_t:
    const char* directory               # of the stream; exists. Ignored by STORAGE_MEMORY
    int storage
    int sync
    int64_t sync_interval_ns
    uint64_t segment_bytes_max          # 0: SEGMENT_BYTES_MAX
    uint64_t first_seq                  # of an empty log; 0 is 1
    log_limits_t limits
    int64_t now_ns                      # Unix time; what has expired by then is not there. 0: the clock's

# ---- life: log_open reads the directory (blocking, see also store.handle for opening in a helper) ----
cdef int log_open(store_t* store, const log_options_t* options, log_t** log) noexcept nogil
cdef void log_close(log_t* log) noexcept nogil                     # writes and syncs what is left, frees
cdef void log_set_limits(log_t* log, const log_limits_t* limits, int64_t now_ns) noexcept nogil

# ---- change ----
# The new sequence, or 0 and log.error. `payload` begins with header_bytes of headers; -1: none. `time_ns` is Unix time and is
# raised to the last message's. `ttl_ns` 0: none. Limits are kept here: what has to go is reported through on_removed.
cdef uint64_t log_append(log_t* log, const char* subject, uint32_t subject_bytes, int32_t header_bytes,
                         const char* payload, uint32_t payload_bytes, int64_t time_ns, int64_t ttl_ns) noexcept nogil
cdef int log_skip(log_t* log, uint64_t next_seq) noexcept nogil    # sequences up to it are not used (mirrors, restore)
cdef int log_remove(log_t* log, uint64_t seq, bint erase, int reason) noexcept nogil
# Removes messages that match `filter` (NULL: all) and are below `before_seq` (0: no bound), but the newest `keep` of them.
# How many. (PurgeEx in filestore.go, with sequence and keep as there.)
cdef uint64_t log_purge(log_t* log, filter_t* filter, uint64_t before_seq, uint64_t keep) noexcept nogil
cdef int log_submit(log_t* log) noexcept nogil                     # the turn's end; views end here. LOG_OK or log.state
cdef void log_sync(log_t* log) noexcept nogil                      # SYNC_INTERVAL: an fdatasync now, in a helper
cdef int log_tick(log_t* log, int64_t now_ns) noexcept nogil       # LOG_MORE: call again in the next turn
cdef int64_t log_deadline(log_t* log) noexcept nogil               # Unix ns of the next log_tick; 0: none

# ---- read: see read.pxd ----
from shardbroker.store.read cimport (
    log_deleted, log_first_for, log_get, log_has, log_last, log_last_for, log_last_seqs, log_next, log_pending,
    log_pending_subjects, log_previous, log_seq_at, log_subject)
