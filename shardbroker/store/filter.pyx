# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Filters: patterns matched against the subjects of one log, each subject once. Needs no GIL.

Matching follows server/sublist.go matchLiteral: tokens between dots, `*` is one, `>` is one or more at the end, both only as
whole tokens.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset

from shardbroker.hot.memory cimport mem_alloc, mem_resize, mem_zero
from shardbroker.store.model cimport subject_t
from shardbroker.store.subjects cimport name_bytes, name_text


cdef bint pattern_matches(const char* p, uint32_t np, const char* s, uint32_t ns) noexcept nogil:
    cdef uint32_t i = 0
    cdef uint32_t j = 0
    while True:
        if i + 1 == np and p[i] == c'>':
            return j < ns
        if i < np and p[i] == c'*' and (i + 1 == np or p[i + 1] == c'.'):
            if j >= ns or s[j] == c'.':
                return False
            while j < ns and s[j] != c'.':
                j += 1
            i += 1
        else:
            while i < np and p[i] != c'.':
                if j >= ns or s[j] != p[i]:
                    return False
                i += 1
                j += 1
            if j < ns and s[j] != c'.':
                return False
        if i == np or j == ns:
            return i == np and j == ns
        i += 1
        j += 1


cdef bint has_wildcard(const char* p, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        if (p[i] == c'*' or p[i] == c'>') and (i == 0 or p[i - 1] == c'.') and (i + 1 == n or p[i + 1] == c'.'):
            return True
    return False


cdef filter_t* filter_new(log_t* log, const char** patterns, const uint32_t* lengths, uint32_t count) noexcept nogil:
    cdef filter_t* f = <filter_t*>mem_zero(sizeof(filter_t))
    cdef uint32_t i
    f.log = log
    f.count = count
    f.all = count == 0
    f.literal = count > 0
    f.patterns = <char**>mem_zero((count + 1) * sizeof(char*))
    f.pattern_bytes = <uint32_t*>mem_zero((count + 1) * sizeof(uint32_t))
    for i in range(count):
        f.patterns[i] = <char*>mem_alloc(lengths[i] + 1)
        memcpy(f.patterns[i], patterns[i], lengths[i])
        f.patterns[i][lengths[i]] = 0
        f.pattern_bytes[i] = lengths[i]
        if lengths[i] == 1 and patterns[i][0] == c'>':
            f.all = True
        if has_wildcard(patterns[i], lengths[i]):
            f.literal = False
    f.next = log.filters
    if f.next != NULL:
        f.next.previous = f
    log.filters = f
    return f


cdef void filter_free(filter_t* f) noexcept nogil:
    cdef uint32_t i
    if f.previous != NULL:
        f.previous.next = f.next
    elif f.log != NULL:
        f.log.filters = f.next
    if f.next != NULL:
        f.next.previous = f.previous
    for i in range(f.count):
        free(f.patterns[i])
    free(f.patterns)
    free(f.pattern_bytes)
    free(f.known)
    free(f)


cdef bint filter_subject(filter_t* f, const char* subject, uint32_t n) noexcept nogil:
    cdef uint32_t i
    if f.all:
        return True
    for i in range(f.count):
        if f.literal:
            if f.pattern_bytes[i] == n and memcmp(f.patterns[i], subject, n) == 0:
                return True
        elif pattern_matches(f.patterns[i], f.pattern_bytes[i], subject, n):
            return True
    return False


cdef void known_grow(filter_t* f, uint32_t id) noexcept nogil:
    """Room for the ids of the log's subjects, 32 to a word."""
    cdef uint32_t words = f.known_ids // 32
    cdef uint32_t wanted = (id + id // 2) // 32 + 4
    f.known = <uint64_t*>mem_resize(f.known, <size_t>wanted * 8)
    memset(f.known + words, 0, <size_t>(wanted - words) * 8)
    f.known_ids = wanted * 32


cdef bint filter_id(filter_t* f, uint32_t subject_id) noexcept nogil:
    cdef subject_t* u
    cdef uint32_t shift = (subject_id & 31) * 2
    cdef uint64_t answer
    if f.all:
        return True
    if subject_id >= f.known_ids:
        known_grow(f, subject_id)
    answer = (f.known[subject_id >> 5] >> shift) & 3
    if answer == 0:
        u = &f.log.subjects.items[subject_id]
        answer = 2 if filter_subject(f, name_text(u), name_bytes(u)) else 1
        f.known[subject_id >> 5] |= answer << shift
    return answer == 2


cdef void filter_forget(log_t* log, uint32_t subject_id) noexcept nogil:
    cdef filter_t* f = log.filters
    while f != NULL:
        if subject_id < f.known_ids:
            f.known[subject_id >> 5] &= ~(<uint64_t>3 << ((subject_id & 31) * 2))
        f = f.next


cdef void filter_reset(log_t* log) noexcept nogil:
    cdef filter_t* f = log.filters
    while f != NULL:
        if f.known_ids:
            memset(f.known, 0, f.known_ids // 4)
        f = f.next
