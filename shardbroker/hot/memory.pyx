# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Memory that does not fail: without it the shard stops, and the front starts another. Needs no GIL.

Small things that come by the million (subscriptions, literal subjects) live in slabs: 64 KiB pages of equal pieces, in
steps of 8 bytes and without malloc's header. A page is found from a piece by its address, and given back when its
last piece is. In debug builds every piece is malloc's own, so that a sanitizer sees each.

Everything here is on cold paths; the hot path takes memory from pools.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdio cimport fprintf, stderr
from libc.stdlib cimport abort, calloc, free, malloc, realloc

from shardbroker.shm.layout cimport SB_DEBUG

cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void** p, size_t alignment, size_t n)

cdef extern from "<malloc.h>" nogil:
    int malloc_trim(size_t pad)

cdef enum:
    PAGE_BYTES = 65536
    SLAB_MOST = 256                     # larger pieces are malloc's
    CLASSES = SLAB_MOST // 8 + 1

cdef struct page_t:
    page_t* next                        # among the pages of its size that have room
    page_t* previous
    void* free                          # pieces given back, linked through their first word
    uint32_t used
    uint32_t fresh                      # offset of the first piece never used
    uint32_t piece_bytes
    uint32_t linked

cdef page_t* roomy[CLASSES]


cdef void mem_trim() noexcept nogil:
    """Give free memory back to the system: outgrown tables, buffers of a burst. Milliseconds."""
    malloc_trim(0)


cdef void no_memory() noexcept nogil:
    fprintf(stderr, b"out of memory\n")
    abort()


cdef void* mem_alloc(size_t n) noexcept nogil:
    cdef void* p = malloc(n)
    if p == NULL:
        no_memory()
    return p


cdef void* mem_zero(size_t n) noexcept nogil:
    cdef void* p = calloc(1, n)
    if p == NULL:
        no_memory()
    return p


cdef void* mem_resize(void* p, size_t n) noexcept nogil:
    p = realloc(p, n)
    if p == NULL:
        no_memory()
    return p


cdef void link(page_t* page) noexcept nogil:
    cdef uint32_t index = page.piece_bytes // 8
    page.linked = 1
    page.previous = NULL
    page.next = roomy[index]
    if page.next != NULL:
        page.next.previous = page
    roomy[index] = page


cdef void unlink(page_t* page) noexcept nogil:
    page.linked = 0
    if page.previous != NULL:
        page.previous.next = page.next
    else:
        roomy[page.piece_bytes // 8] = page.next
    if page.next != NULL:
        page.next.previous = page.previous


cdef page_t* new_page(uint32_t piece_bytes) noexcept nogil:
    cdef void* p = NULL
    cdef page_t* page
    if posix_memalign(&p, PAGE_BYTES, PAGE_BYTES) != 0:
        no_memory()
    page = <page_t*>p
    page.free = NULL
    page.used = 0
    page.fresh = sizeof(page_t)
    page.piece_bytes = piece_bytes
    link(page)
    return page


cdef void* slab_alloc(size_t n) noexcept nogil:
    """n bytes, 8-aligned. Give them back with slab_free and the same n."""
    cdef uint32_t piece = <uint32_t>((n + 7) & ~<size_t>7)
    cdef page_t* page
    cdef void* p
    if n > SLAB_MOST or SB_DEBUG:
        return mem_alloc(n)
    page = roomy[piece // 8]
    if page == NULL:
        page = new_page(piece)
    page.used += 1
    p = page.free
    if p != NULL:
        page.free = (<void**>p)[0]
    else:
        p = <char*>page + page.fresh
        page.fresh += piece
    if page.free == NULL and page.fresh + piece > PAGE_BYTES:
        unlink(page)
    return p


cdef void slab_free(void* p, size_t n) noexcept nogil:
    cdef page_t* page
    if n > SLAB_MOST or SB_DEBUG:
        free(p)
        return
    page = <page_t*>(<uint64_t>p & ~<uint64_t>(PAGE_BYTES - 1))
    page.used -= 1
    (<void**>p)[0] = page.free
    page.free = p
    if not page.linked:
        link(page)
    # One page with room is kept, so that a subscription that comes and goes does not ask for it every time.
    if page.used == 0 and (page.next != NULL or page.previous != NULL):
        unlink(page)
        free(page)
