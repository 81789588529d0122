"""Rewriting segments of which less than half is alive, neighbours into one. Home shard only; the work is a helper's."""
from shardbroker.store.model cimport log_t

cdef void compact_start(log_t* log) noexcept nogil                 # if there is something to do and the log is at rest enough
cdef void compact_poke(log_t* log) noexcept nogil                  # synced_ticket has moved
cdef void compact_cancel(log_t* log) noexcept nogil                # the log closes
