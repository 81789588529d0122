"""What a consumer wants of a log: no pattern (everything), one or many, literal or with wildcards.

A filter belongs to one log and remembers, per subject of it, whether that matches. Home shard only.
"""
from libc.stdint cimport uint32_t, uint64_t

from shardbroker.store.model cimport filter_t, log_t

# `patterns`: count pointers with their lengths; copied. Overlapping patterns count a message once.
cdef filter_t* filter_new(log_t* log, const char** patterns, const uint32_t* lengths, uint32_t count) noexcept nogil
cdef void filter_free(filter_t* f) noexcept nogil                  # before its log is closed
cdef bint filter_id(filter_t* f, uint32_t subject_id) noexcept nogil           # does this subject of the log match?
cdef bint filter_subject(filter_t* f, const char* subject, uint32_t n) noexcept nogil
cdef void filter_forget(log_t* log, uint32_t subject_id) noexcept nogil        # the id will mean another subject
cdef void filter_reset(log_t* log) noexcept nogil                              # all ids will
