"""Single-writer counters: one row of shard_stats_t per shard, written by that shard only.

Relaxed is enough everywhere: a reader (monitor, front) wants each number whole and lately, not several numbers of one
moment; an aligned 64-bit store is never torn. No locked instruction: only one process writes a row.
"""
from libc.stdint cimport uint64_t
from shardbroker.shm.atomics cimport load_relaxed_u64, store_relaxed_u64
from shardbroker.shm.layout cimport shard_stats_t


cdef extern from *:
    """
    static inline int sb_binary_digits(uint64_t v) { return v ? 64 - __builtin_clzll(v) : 0; }
    """
    int binary_digits "sb_binary_digits"(uint64_t value) noexcept nogil


cdef inline void counter_add(uint64_t *counter, uint64_t amount) noexcept nogil:
    """Add to a counter of the own row. Home shard only."""
    store_relaxed_u64(counter, load_relaxed_u64(counter) + amount)


cdef inline void counter_sub(uint64_t *counter, uint64_t amount) noexcept nogil:
    """Take from a gauge of the own row. Home shard only."""
    store_relaxed_u64(counter, load_relaxed_u64(counter) - amount)


cdef inline void counter_set(uint64_t *counter, uint64_t value) noexcept nogil:
    """Set a gauge of the own row. Home shard only."""
    store_relaxed_u64(counter, value)


cdef inline void counter_max(uint64_t *counter, uint64_t value) noexcept nogil:
    """Raise a high-water mark of the own row. Home shard only."""
    if value > load_relaxed_u64(counter):
        store_relaxed_u64(counter, value)


cdef inline void counter_loop_lag(shard_stats_t *row, uint64_t lag_ns) noexcept nogil:
    """Count one turn's length in the histogram (bucket = binary digits of lag_ns, at most 31). Home shard only."""
    cdef int digits = binary_digits(lag_ns)
    counter_add(&row.loop_lag_buckets[digits if digits < 31 else 31], 1)
    counter_max(&row.loop_lag_ns_max, lag_ns)
    counter_add(&row.loop_lag_ns_sum, lag_ns)
