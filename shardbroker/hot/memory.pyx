# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Memory that does not fail: without it the shard stops, and the front starts another. Needs no GIL.

Small things that come by the million (subscriptions, literal subjects) live in slabs: 64 KiB pages of equal pieces, in
steps of 8 bytes and without malloc's header. A page is found from a piece by its address, and given back when its
last piece is. Pages are cut from regions of our own: aligned ones from malloc leave touched gaps between them, a tenth of
their size. In debug builds every piece is malloc's own, so that a sanitizer sees each.

Everything here is on cold paths; the hot path takes memory from pools.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdio cimport fprintf, stderr
from libc.stdlib cimport abort, calloc, free, malloc, realloc

from shardbroker.shm.layout cimport SB_DEBUG

cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_READ
        PROT_WRITE
        MAP_PRIVATE
        MAP_ANONYMOUS
        MADV_DONTNEED
    void* MAP_FAILED
    void* mmap(void* p, size_t n, int protection, int flags, int fd, long offset)
    int madvise(void* p, size_t n, int advice)

cdef extern from "<malloc.h>" nogil:
    int malloc_trim(size_t pad)

cdef enum:
    PAGE_BYTES = 65536
    SLAB_MOST = 256                     # larger pieces are malloc's
    CLASSES = SLAB_MOST // 8 + 1
    REGION_FIRST = 256 << 10            # the first is too small for a huge page: a quiet shard stays small
    REGION_MOST = 4 << 20

cdef struct page_t:
    page_t* next                        # among the pages of its size that have room
    page_t* previous
    void* free                          # pieces given back, linked through their first word
    uint32_t used
    uint32_t fresh                      # offset of the first piece never used
    uint32_t piece_bytes
    uint32_t linked

cdef struct pages_t:
    char* region                        # what is left of the newest region
    size_t region_left
    size_t region_bytes
    void** free                         # pages given back: their address stays ours, their memory does not
    uint32_t free_count
    uint32_t free_capacity

cdef page_t* roomy[CLASSES]
cdef pages_t pages


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


cdef void* page_take() noexcept nogil:
    cdef void* p
    cdef size_t gap
    if pages.free_count:
        pages.free_count -= 1
        return pages.free[pages.free_count]
    if pages.region_left == 0:
        if pages.region_bytes < REGION_MOST:
            pages.region_bytes = pages.region_bytes * 2 if pages.region_bytes else REGION_FIRST
        p = mmap(NULL, pages.region_bytes + PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if p == MAP_FAILED:
            no_memory()
        gap = (PAGE_BYTES - (<uint64_t>p & (PAGE_BYTES - 1))) & (PAGE_BYTES - 1)
        pages.region = <char*>p + gap
        pages.region_left = pages.region_bytes
    p = pages.region
    pages.region += PAGE_BYTES
    pages.region_left -= PAGE_BYTES
    return p


cdef void page_give(void* p) noexcept nogil:
    if pages.free_count == pages.free_capacity:
        pages.free_capacity = pages.free_capacity * 2 if pages.free_capacity else 64
        pages.free = <void**>mem_resize(pages.free, pages.free_capacity * sizeof(void*))
    pages.free[pages.free_count] = p
    pages.free_count += 1
    madvise(p, PAGE_BYTES, MADV_DONTNEED)


cdef page_t* new_page(uint32_t piece_bytes) noexcept nogil:
    cdef page_t* page = <page_t*>page_take()
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
        page_give(page)
