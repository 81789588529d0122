"""The store of one shard: its helper threads, and how work gets there and back.

    store_enqueue(job) -> a thread calls job.run -> finished list, eventfd -> store_collect calls job.done

    store.at_once, store_enqueue(quick job) -> job.run here -> store.did_at_once, store_collect calls job.done

The second way spares two wake-ups, of the thread and of the loop, half of what a lone publisher waits for on a disk that syncs
in 50 us. It stops the shard for one sync, so it is taken only when the home shard allows it (once each time), no thread has
work, and the last syncs took less than AT_ONCE_NS, as a moving average.

A log has at most one write job at a time; several logs are served at once, up to the number of threads. Threads run without
the GIL and touch nothing but the job and what it points to.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from shardbroker.store.files cimport files_t
from shardbroker.store.model cimport job_t, store_t

cdef enum:
    AT_ONCE_NS = 100000                 # a few bites of input, see shard/loop
    QUICK_BYTES = 4096

# `threads` 0: jobs run inside store_run, for tests and the simulator. `eventfd` (-1: none) is written when a job is done.
# NULL: no memory or no thread.
cdef store_t* store_new(const files_t* files, int threads, int eventfd) noexcept nogil
cdef void store_free(store_t* s) noexcept nogil                    # after its logs are closed
cdef uint32_t store_collect(store_t* s) noexcept nogil             # home shard: finished jobs -> callbacks. How many
cdef uint32_t store_run(store_t* s) noexcept nogil                 # threads 0: run what waits. How many
cdef bint store_idle(store_t* s) noexcept nogil                    # no job waits, runs or is to be collected
cdef void store_enqueue(store_t* s, job_t* job) noexcept nogil
cdef bint store_wait(store_t* s, int64_t timeout_ns) noexcept nogil        # until a job is finished; blocks
