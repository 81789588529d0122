# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""malloc that does not fail: without memory the shard stops, and the front starts another.

Called on cold paths only; the hot path takes memory from pools. Needs no GIL.
"""
from libc.stdio cimport fprintf, stderr
from libc.stdlib cimport abort, calloc, malloc, realloc


cdef void* mem_alloc(size_t n) noexcept nogil:
    cdef void* p = malloc(n)
    if p == NULL:
        fprintf(stderr, b"out of memory\n")
        abort()
    return p


cdef void* mem_zero(size_t n) noexcept nogil:
    cdef void* p = calloc(1, n)
    if p == NULL:
        fprintf(stderr, b"out of memory\n")
        abort()
    return p


cdef void* mem_resize(void* p, size_t n) noexcept nogil:
    p = realloc(p, n)
    if p == NULL:
        fprintf(stderr, b"out of memory\n")
        abort()
    return p
