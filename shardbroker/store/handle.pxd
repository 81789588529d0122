"""Store and Log as Python objects, for the control side and for tests. The compiled side takes `.store` and `.log`."""
from shardbroker.store.model cimport filter_t, log_t, log_view_t, store_t

cdef class Store:
    cdef store_t* store                 # NULL after close()
    cdef readonly int eventfd
    cdef object files                   # keeps a simulator alive

cdef class Filter:
    cdef filter_t* filter               # NULL after close()
    cdef Log owner

cdef class Log:
    cdef log_t* log                     # NULL after close()
    cdef readonly Store store
    cdef object filters
    cdef public object on_removed       # (seq, subject, subject_empty, reason)
    cdef public object on_durable       # ()
    cdef public object on_damage        # (first, last)
    cdef log_t* open_log(self) except NULL
    cdef object message(self, int answer, log_view_t* v)
