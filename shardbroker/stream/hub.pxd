"""Hub, Retained and Consumer as Python objects. The compiled side takes `.h`, `.s` and `.c`."""
from libc.stdint cimport uint64_t

from shardbroker.store.handle cimport Log
from shardbroker.stream.consumer cimport consumer_t, host_t, hub_t, retained_t

cdef class Hub:
    cdef hub_t h
    cdef void set_host(self, const host_t* host, seed) except *

cdef class Retained:
    cdef retained_t s
    cdef readonly Hub hub
    cdef readonly Log log

cdef class Consumer:
    cdef consumer_t* c                  # NULL after close()
    cdef readonly Retained stream
    cdef readonly object id
    cdef consumer_t* open(self) except NULL
    cdef void set_skips(self, skips, uint64_t resume) except *
