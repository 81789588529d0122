"""The store of one shard: its helper threads, and the way of a batch to the disk.

    log_submit -> job_t -> helper thread: write, fdatasync -> finished list, eventfd -> store_collect -> on_durable

A log has at most one job with the helpers; several logs are served at the same time, up to the number of threads. Threads
run without the GIL and touch nothing but the job.
"""
from libc.stdint cimport uint32_t, uint64_t

from shardbroker.store.files cimport files_t
from shardbroker.store.model cimport log_t, store_t

# `threads` 0: jobs run inside store_run, for tests and the simulator. `eventfd` (-1: none) is written when a job is done.
cdef store_t* store_new(const files_t* files, int threads, int eventfd) noexcept nogil
cdef void store_free(store_t* s) noexcept nogil                    # after its logs are closed
cdef uint32_t store_collect(store_t* s) noexcept nogil             # home shard: finished jobs -> callbacks. How many
cdef uint32_t store_run(store_t* s) noexcept nogil                 # threads 0: run what waits
cdef bint store_idle(store_t* s) noexcept nogil                    # no job waits, runs or is to be collected
