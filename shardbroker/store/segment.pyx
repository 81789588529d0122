# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Segments: address space, files, arrays. Called by the log, by recovery and by compaction; needs no GIL.

    base                                                                     capacity
     | header page | records ...........................|...................... |  one page more, for copies that overrun
     |<-- mapping of the file, read only -->|<-- private memory: written or waiting -->|
                                          mapped          written   used
A record is built in its place, and the helper thread writes from there. What is in the file is then mapped over the private
memory, so that a stream that is written keeps a few hundred KiB of its own, and the page cache the rest.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free
from libc.string cimport memcpy, memmove, memset

from shardbroker.hot.memory cimport mem_resize, mem_zero
from shardbroker.store.format cimport (
    SEGMENT_COPY_AT, SEGMENT_MAGIC, SEGMENT_VERSION, page_down, page_up, sb_crc32c, sb_crc32c_init)

cdef extern from "shardbroker/store/bytes.h" nogil:
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MAP_FIXED
    void* MAP_FAILED
    void* mmap(void* at, size_t n, int protection, int flags, int fd, int64_t offset)
    int munmap(void* at, size_t n)

cdef extern from "shardbroker/store/fault.h" nogil:
    void sb_fault_init()
    void sb_fault_add(const char* base, uint64_t n)
    void sb_fault_remove(const char* base)
    uint64_t sb_faults()

sb_crc32c_init()


cdef segment_t* segment_new(uint64_t id, uint64_t first_seq, uint64_t capacity) noexcept nogil:
    """Address space and no file. NULL when there is none to be had."""
    cdef segment_t* g
    cdef void* base
    capacity = page_up(capacity)
    base = mmap(NULL, capacity + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if base == MAP_FAILED:
        return NULL
    sb_fault_init()
    sb_fault_add(<const char*>base, capacity)
    g = <segment_t*>mem_zero(sizeof(segment_t))
    g.id = g.covers = id
    g.first_seq = first_seq
    g.end_seq = first_seq
    g.capacity = capacity
    g.base = <char*>base
    g.used = SEGMENT_HEADER_BYTES
    return g


cdef void segment_free(segment_t* g) noexcept nogil:
    if g.file != NULL:
        g.file.files.close(g.file)
    sb_fault_remove(g.base)
    munmap(g.base, g.capacity + 4096)
    free(g.offsets)
    free(g.ids)
    free(g.deltas)
    free(g)


cdef uint64_t segment_faults() noexcept nogil:
    """Pages of mapped files that could not be read, in this process."""
    return sb_faults()


cdef void segment_header_write(char* base, const segment_header_t* header) noexcept nogil:
    """Fills in what is the same in all, and the checksum; twice, in different sectors."""
    cdef segment_header_t h = header[0]
    h.magic = SEGMENT_MAGIC
    h.version = SEGMENT_VERSION
    h.crc = sb_crc32c(0, <const char*>&h, sizeof(segment_header_t) - 4)
    memset(base, 0, SEGMENT_HEADER_BYTES)
    memcpy(base, &h, sizeof(segment_header_t))
    memcpy(base + SEGMENT_COPY_AT, &h, sizeof(segment_header_t))


cdef bint segment_header_read(const char* page, segment_header_t* h) noexcept nogil:
    cdef int i
    for i in range(2):
        memcpy(h, page + (SEGMENT_COPY_AT if i else 0), sizeof(segment_header_t))
        if (h.magic == SEGMENT_MAGIC and h.version == SEGMENT_VERSION
                and h.crc == sb_crc32c(0, <const char*>h, sizeof(segment_header_t) - 4)):
            return True
    return False


cdef void segment_path(char* out, const char* directory, uint64_t id, const char* suffix) noexcept nogil:
    """PATH_BYTES_MAX bytes at `out`."""
    snprintf(out, PATH_BYTES_MAX, b"%s/%016llx%s", directory, <unsigned long long>id, suffix)


# ---- arrays ----

cdef void segment_grow(segment_t* g, uint32_t entries) noexcept nogil:
    cdef uint32_t capacity = g.entries_capacity + g.entries_capacity // 2 + 16
    if capacity < entries:
        capacity = entries
    g.offsets = <uint32_t*>mem_resize(g.offsets, <size_t>capacity * 4)
    g.ids = <uint32_t*>mem_resize(g.ids, <size_t>capacity * 4)
    if g.deltas != NULL:
        g.deltas = <uint32_t*>mem_resize(g.deltas, <size_t>capacity * 4)
    g.entries_capacity = capacity


cdef void segment_add(segment_t* g, uint64_t seq, uint64_t offset, uint32_t id) noexcept nogil:
    """An entry for seq, which is not below end_seq, and less than 2^32 above first_seq."""
    cdef uint32_t i
    cdef uint64_t gap
    if g.entries == 0:
        g.first_seq = seq
        g.end_seq = seq
    gap = seq - g.end_seq
    if gap and g.deltas == NULL:
        # From here on it says which sequences it has.
        g.deltas = <uint32_t*>mem_resize(NULL, <size_t>(g.entries_capacity + 1) * 4)
        for i in range(g.entries):
            g.deltas[i] = i
    if g.entries >= g.entries_capacity:
        segment_grow(g, g.entries + 1)
    i = g.entries
    g.offsets[i] = <uint32_t>(offset >> 3)
    g.ids[i] = id
    if g.deltas != NULL:
        g.deltas[i] = <uint32_t>(seq - g.first_seq)
    g.entries += 1
    g.end_seq = seq + 1


cdef void segment_shrink(segment_t* g) noexcept nogil:
    if g.entries_capacity > g.entries and g.entries:
        g.offsets = <uint32_t*>mem_resize(g.offsets, <size_t>g.entries * 4)
        g.ids = <uint32_t*>mem_resize(g.ids, <size_t>g.entries * 4)
        if g.deltas != NULL:
            g.deltas = <uint32_t*>mem_resize(g.deltas, <size_t>g.entries * 4)
        g.entries_capacity = g.entries


cdef void segment_map(segment_t* g) noexcept nogil:
    cdef uint64_t end = page_down(g.written)
    if g.file == NULL or not g.file.files.maps:
        return
    if g.sealed and g.written == g.used:
        end = page_up(g.written)        # the file ends in this page, the rest of it reads as zeros
    if end > g.mapped and g.file.files.map(g.file, g.base + g.mapped, g.mapped, end - g.mapped) == 0:
        g.mapped = end


cdef void segment_private(segment_t* g, uint64_t from_page) noexcept nogil:
    """From this page on `base` is private memory; what the first page has of records is kept, the rest is zero."""
    cdef char page[4096]
    cdef uint64_t kept = g.used - from_page if g.used > from_page else 0
    if from_page >= g.mapped:
        return
    memcpy(page, g.base + from_page, kept)
    mmap(g.base + from_page, g.capacity - from_page, PROT_READ | PROT_WRITE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0)
    memcpy(g.base + from_page, page, kept)
    g.mapped = from_page


# ---- the log's list ----

cdef void segments_link(log_t* log, segment_t* g, segment_t* after) noexcept nogil:
    cdef uint32_t i = 0
    cdef uint32_t at = log.order_count
    if log.order_count == log.order_capacity:
        log.order_capacity = log.order_capacity * 2 if log.order_capacity else 8
        log.order = <segment_t**>mem_resize(log.order, log.order_capacity * sizeof(segment_t*))
    if after != log.last:
        at = 0
        for i in range(log.order_count):
            if log.order[i] == after:
                at = i + 1
        memmove(log.order + at + 1, log.order + at, (log.order_count - at) * sizeof(segment_t*))
    log.order[at] = g
    log.order_count += 1
    g.previous = after
    g.next = after.next if after != NULL else log.first
    if g.next != NULL:
        g.next.previous = g
    else:
        log.last = g
    if after != NULL:
        after.next = g
    else:
        log.first = g


cdef void segments_unlink(log_t* log, segment_t* g) noexcept nogil:
    cdef uint32_t i
    for i in range(log.order_count):
        if log.order[i] == g:
            memmove(log.order + i, log.order + i + 1, (log.order_count - i - 1) * sizeof(segment_t*))
            log.order_count -= 1
            break
    if g.previous != NULL:
        g.previous.next = g.next
    else:
        log.first = g.next
    if g.next != NULL:
        g.next.previous = g.previous
    else:
        log.last = g.previous
    g.next = g.previous = NULL
    if log.cursor == g:
        log.cursor = NULL


cdef segment_t* segments_find(log_t* log, uint64_t seq) noexcept nogil:
    cdef segment_t* g = log.cursor
    cdef uint32_t low = 0
    cdef uint32_t high = log.order_count
    cdef uint32_t middle
    if g != NULL and seq >= g.first_seq and (g.next == NULL or seq < g.next.first_seq):
        return g
    while low < high:
        middle = (low + high) >> 1
        if log.order[middle].first_seq <= seq:
            low = middle + 1
        else:
            high = middle
    if low == 0:
        return NULL
    log.cursor = log.order[low - 1]
    return log.cursor
