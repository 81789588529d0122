"""The index by subject: name -> id, count, first, last, and the sequences between. Home shard only; no I/O."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from shardbroker.store.model cimport posting_t, subject_t, subjects_t

cdef void subjects_init(subjects_t* s) noexcept nogil
cdef void subjects_free(subjects_t* s) noexcept nogil
cdef uint32_t subjects_find(subjects_t* s, const char* name, uint32_t n) noexcept nogil     # id, 0: none
cdef uint32_t subjects_add(subjects_t* s, const char* name, uint32_t n, bint* fresh) noexcept nogil  # found or new
cdef void subjects_drop(subjects_t* s, uint32_t id) noexcept nogil                          # its count is 0
cdef void subject_push(subjects_t* s, subject_t* u, uint64_t seq) noexcept nogil            # seq > last
cdef bint subject_remove(subjects_t* s, subject_t* u, uint64_t seq) noexcept nogil
cdef uint32_t subject_rank(subject_t* u, uint64_t seq) noexcept nogil                       # messages below seq
cdef uint64_t subject_at(subject_t* u, uint32_t index) noexcept nogil                       # index < count


cdef inline uint32_t name_bytes(const subject_t* u) noexcept nogil:
    return (<uint16_t*>u.name)[0]


cdef inline const char* name_text(const subject_t* u) noexcept nogil:
    return u.name + 2
