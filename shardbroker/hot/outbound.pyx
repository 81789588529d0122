# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Output of connections. Called by the engine (append) and the loop (flush); needs no GIL; never blocks.

Small frames are copied into chunks that the connection owns, because one long run is one cheap send. Frames that
many connections share, and large payloads, are referenced where they lie: the flush at the end of the turn sends
them from there, and only what a socket did not take is copied. An idle connection owns no output memory.
"""
from libc.stdlib cimport free
from libc.string cimport memcpy, memmove

from shardbroker.hot.bytes cimport SB_SLACK
from shardbroker.hot.memory cimport mem_alloc, mem_resize
from shardbroker.hot.model cimport chunk_t, connection_t, span_t

cdef enum:
    PIECE_LEAST = 256                   # less room at a chunk's end is left
    KEEP_BYTES = 1024                   # shorter spans of our own between kept ones are copied too


cdef chunk_t* chunk_take(outbound_t* o, uint32_t size_class, size_t capacity) noexcept nogil:
    cdef chunk_t* k
    cdef chunk_pool_t* pool
    if size_class:
        pool = &o.pools[size_class - 1]
        k = pool.free
        if k != NULL:
            pool.free = k.next
            pool.free_bytes -= k.capacity
            k.used = 0
            k.spans = 0
            o.bytes_owned += k.capacity
            return k
    k = <chunk_t*>mem_alloc(sizeof(chunk_t) + capacity + SB_SLACK)
    k.next = NULL
    k.capacity = <uint32_t>capacity
    k.used = 0
    k.spans = 0
    k.size_class = size_class
    o.bytes_owned += capacity
    return k


cdef void chunk_give(outbound_t* o, chunk_t* k) noexcept nogil:
    cdef chunk_pool_t* pool
    o.bytes_owned -= k.capacity
    if k.size_class:
        pool = &o.pools[k.size_class - 1]
        if pool.free_bytes + k.capacity <= CHUNK_POOL_BYTES:
            pool.free_bytes += k.capacity
            k.next = pool.free
            pool.free = k
            return
    free(k)


cdef void out_grow_spans(connection_t* c) noexcept nogil:
    cdef uint32_t live = c.spans_end - c.spans_first
    cdef uint32_t capacity
    if c.spans_first > 0:
        memmove(c.spans, c.spans + c.spans_first, live * sizeof(span_t))
        c.spans_first = 0
        c.spans_end = live
        if live * 2 <= c.spans_capacity:
            return
    capacity = c.spans_capacity * 4
    if c.spans == &c.spans_inline[0]:
        c.spans = <span_t*>mem_alloc(capacity * sizeof(span_t))
        memcpy(c.spans, &c.spans_inline[0], live * sizeof(span_t))
    else:
        c.spans = <span_t*>mem_resize(c.spans, capacity * sizeof(span_t))
    c.spans_capacity = capacity


cdef char* out_reserve_slow(outbound_t* o, connection_t* c, size_t n) noexcept nogil:
    cdef chunk_t* k = c.tail
    cdef span_t* s
    cdef uint32_t size_class
    if k == NULL or k.capacity - k.used < n:
        # The next chunk is of the next size: quiet connections stay small, busy ones get long runs.
        if k == NULL and n <= CHUNK_SMALL:
            size_class = 1
        elif (k == NULL or k.size_class == 1) and n <= CHUNK_MEDIUM:
            size_class = 2
        elif n <= CHUNK_LARGE:
            size_class = 3
        else:
            size_class = 0
        k = chunk_take(o, size_class,
                       CHUNK_SMALL if size_class == 1 else CHUNK_MEDIUM if size_class == 2
                       else CHUNK_LARGE if size_class == 3 else n)
        c.tail = k
    if c.spans_end == c.spans_capacity:
        out_grow_spans(c)
    s = &c.spans[c.spans_end]
    c.spans_end += 1
    s.data = chunk_data(k) + k.used
    s.bytes = 0
    s.chunk = k
    k.spans += 1
    return s.data


cdef void out_append(outbound_t* o, connection_t* c, const char* data, size_t n) noexcept nogil:
    """Copy n bytes behind what is there; many go in pieces, so that no chunk stays half empty."""
    cdef size_t room, piece
    while n > CHUNK_SMALL:
        room = 0 if c.tail == NULL else c.tail.capacity - c.tail.used
        if room < PIECE_LEAST:
            room = CHUNK_LARGE
        piece = n if n < room else room
        memcpy(out_reserve(o, c, piece), data, piece)
        out_commit(c, piece)
        data += piece
        n -= piece
    if n:
        memcpy(out_reserve(o, c, n), data, n)
        out_commit(c, n)


cdef uint32_t out_gather(connection_t* c, out_iov_t* iov, uint32_t most, size_t* total) noexcept nogil:
    """The first spans as iovecs; how many, and their bytes in `total`."""
    cdef uint32_t n = 0
    cdef uint32_t i = c.spans_first
    cdef size_t bytes = 0
    while i < c.spans_end and n < most:
        iov[n].base = c.spans[i].data
        iov[n].bytes = c.spans[i].bytes
        bytes += c.spans[i].bytes
        n += 1
        i += 1
    total[0] = bytes
    return n


cdef inline void out_release(outbound_t* o, connection_t* c, chunk_t* k) noexcept nogil:
    k.spans -= 1
    if k.spans == 0:
        if c.tail == k:
            c.tail = NULL
        chunk_give(o, k)


cdef void out_sent(outbound_t* o, connection_t* c, size_t n) noexcept nogil:
    """The socket took the first n bytes."""
    cdef span_t* s
    c.pending_bytes -= n
    while c.spans_first < c.spans_end:
        s = &c.spans[c.spans_first]
        if n < s.bytes:
            s.data += n
            s.bytes -= n
            return
        n -= s.bytes
        c.spans_first += 1
        if s.chunk != NULL:
            out_release(o, c, s.chunk)
    c.spans_first = 0
    c.spans_end = 0
    if c.spans_capacity > 4:
        # A burst of spans is over: back to the inline one.
        free(c.spans)
        c.spans = &c.spans_inline[0]
        c.spans_capacity = 1


cdef void out_keep(outbound_t* o, connection_t* c) noexcept nogil:
    """Make everything that is still borrowed the connection's own. Pending bytes stay as they are."""
    cdef uint32_t i
    cdef uint32_t live = c.spans_end - c.spans_first
    cdef uint64_t pending
    cdef span_t* old
    cdef bint borrowed = False
    for i in range(c.spans_first, c.spans_end):
        if c.spans[i].chunk == NULL:
            borrowed = True
            break
    if not borrowed:
        return
    # Rebuild the list: long owned spans move over, all else is copied, so that neighbours join and chunks are full.
    old = <span_t*>mem_alloc(live * sizeof(span_t))
    memcpy(old, c.spans + c.spans_first, live * sizeof(span_t))
    pending = c.pending_bytes
    c.spans_first = 0
    c.spans_end = 0
    borrowed = False
    for i in range(live):
        if old[i].chunk == NULL or (borrowed and old[i].bytes < KEEP_BYTES):
            out_append(o, c, old[i].data, old[i].bytes)
            if old[i].chunk != NULL:
                out_release(o, c, old[i].chunk)
            borrowed = True
        else:
            if c.spans_end == c.spans_capacity:
                out_grow_spans(c)
            c.spans[c.spans_end] = old[i]
            c.spans_end += 1
    c.pending_bytes = pending
    free(old)


cdef void out_drop(outbound_t* o, connection_t* c) noexcept nogil:
    """Forget all output and give its memory back."""
    cdef uint32_t i
    for i in range(c.spans_first, c.spans_end):
        if c.spans[i].chunk != NULL:
            out_release(o, c, c.spans[i].chunk)
    c.spans_first = 0
    c.spans_end = 0
    c.tail = NULL
    c.pending_bytes = 0
    if c.spans != &c.spans_inline[0]:
        free(c.spans)
        c.spans = &c.spans_inline[0]
        c.spans_capacity = 1


cdef void out_free_pools(outbound_t* o) noexcept nogil:
    cdef int i
    cdef chunk_t* k
    for i in range(CHUNK_SIZES):
        while o.pools[i].free != NULL:
            k = o.pools[i].free
            o.pools[i].free = k.next
            free(k)
        o.pools[i].free_bytes = 0
