"""A subject transform as the data path applies it: mappings, imports. The rules are in shardbroker/transform.py.

    transform_make      from a Transform: one block of memory                       (control side)
    transform_apply     a literal subject (or pattern) that matches its source -> bytes in e.transformed

Home shard only.
"""
from libc.stdint cimport int64_t, uint32_t

from shardbroker.hot.model cimport account_t, transform_t
from shardbroker.hot.state cimport engine_t

cdef transform_t* transform_make(object transform) except NULL
cdef const char* transform_apply(engine_t* e, const transform_t* t, const char* subject, uint32_t n, uint32_t* bytes) noexcept nogil
cdef bint mapping_apply(engine_t* e, account_t* a, const char** subject, uint32_t* n) noexcept nogil
cdef int mappings_set(account_t* a, list mappings) except -1
cdef void mappings_free(account_t* a) noexcept nogil
