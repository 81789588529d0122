"""The byte ring from one writer shard to one reader shard: a log of records of which the newest `capacity` bytes exist.

    ring_claim -> fill the body -> ring_commit   any number of times a turn     (private: the reader sees nothing)
    ring_publish                                 once a turn, then the doorbell
    ring_readable -> ring_next ... -> copy out   any number of records          (pointers into the ring)
    ring_release                                 once a batch: the pointers are dead, the writer has the space back

The bytes are mapped twice back to back, so a record is contiguous wherever it starts and no wrap case exists:

    position & mask      0                    capacity              2 x capacity
                         |....[ record A ]...[rec|ord B].............|
                          <- the ring's bytes -> <- the same again ->

A record is {body_bytes u32, kind u16, flags u16} and the body, padded to 8 bytes; at most capacity / 2 in all. What a
reader finds is input: a writer gone mad makes ring_next() say -1, never read outside the two mappings.
"""
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport abort
from libc.string cimport memcpy
from shardbroker.shm.atomics cimport load_acquire_u64, load_relaxed_u64, store_release_u64
from shardbroker.shm.layout cimport (
    SB_DEBUG, SB_RECORD_KIND_MAX, SegmentMap, record_header_t, ring_header_t)


ctypedef struct ring_writer:
    char *data                  # the first of the two mappings
    ring_header_t *header
    uint64_t capacity           # bytes, a power of two
    uint64_t tail               # committed, perhaps not yet published
    uint64_t published
    uint64_t head_cached        # the reader's position when last looked at: it is only ever further on
    uint64_t claimed            # bytes of the claimed record, 0 when there is none


ctypedef struct ring_reader:
    char *data
    ring_header_t *header
    uint64_t capacity
    uint64_t head               # taken, perhaps not yet released
    uint64_t released
    uint64_t tail_cached        # the writer's position when last looked at
    bint peek                   # a tool looks on: the mapping is read-only, nothing is released


ctypedef struct record_view:
    char *body                  # 8-aligned; valid until ring_release
    uint32_t bytes
    uint16_t kind
    uint16_t flags


# ---- writer ----

cdef inline uint64_t ring_used(ring_writer *w) noexcept nogil:
    """Bytes that the reader has not released (committed ones included). Ring writer only."""
    # SYNC head: acquire pairs with the release store in ring_release(). Without it bytes could be overwritten that the
    #            reader still copies.
    w.head_cached = load_acquire_u64(&w.header.head)
    return w.tail - w.head_cached


cdef inline uint64_t ring_free_bytes(ring_writer *w) noexcept nogil:
    """Bytes for new records, their 8-byte headers and padding included. Ring writer only."""
    cdef uint64_t used = ring_used(w)
    return w.capacity - used if used <= w.capacity else 0


cdef inline uint32_t ring_body_bytes_max(ring_writer *w) noexcept nogil:
    """The longest body that ring_claim ever accepts: what is larger must be cut by the caller."""
    return <uint32_t> ((w.capacity >> 1) - sizeof(record_header_t))


cdef inline void *ring_claim(ring_writer *w, uint32_t bytes, uint16_t kind, uint16_t flags) noexcept nogil:
    """Space for one record: the address of its body (8-aligned, contiguous), or NULL when the ring is full.

    Nothing counts before ring_commit; a second claim without it takes the place of the first. Kind: 1 to
    SB_RECORD_KIND_MAX. NULL also for a body over ring_body_bytes_max(), for ever. Ring writer only.
    """
    cdef uint64_t total = sizeof(record_header_t) + ((<uint64_t> bytes + 7) & ~<uint64_t> 7)
    cdef record_header_t record
    cdef char *place
    if w.tail - w.head_cached + total > w.capacity:             # unlikely: at most once a lap
        # A reader's head that makes no sense (used > capacity) is a full ring: the overflow policy deals with it.
        if ring_used(w) > w.capacity or w.tail - w.head_cached + total > w.capacity:
            return NULL
    if total > w.capacity >> 1:
        return NULL
    place = w.data + (w.tail & (w.capacity - 1))
    record.body_bytes = bytes
    record.kind = kind
    record.flags = flags
    memcpy(place, &record, sizeof(record))
    w.claimed = total
    return place + sizeof(record)


cdef inline void ring_commit(ring_writer *w) noexcept nogil:
    """The claimed record counts; the reader sees it after ring_publish. Ring writer only."""
    w.tail += w.claimed
    w.claimed = 0


cdef inline bint ring_publish(ring_writer *w) noexcept nogil:
    """Show everything committed to the reader. True when there was something new: then ring its doorbell.

    Ring writer only. A writer killed before this has published nothing of its turn.
    """
    if w.tail == w.published:
        return False
    if SB_DEBUG and load_relaxed_u64(&w.header.tail) != w.published:
        abort()                                                 # a second writer
    # SYNC tail: release pairs with the acquire load in ring_readable() and ring_next(). Without it the reader could
    #            see the new tail before the record bytes.
    store_release_u64(&w.header.tail, w.tail)
    w.published = w.tail
    return True


cdef bint ring_give_back(ring_writer *w) noexcept nogil

# ---- reader ----

cdef inline bint ring_readable(ring_reader *r) noexcept nogil:
    """Is there anything that ring_next has not taken? Ring reader only."""
    # SYNC tail: pairs with ring_publish().
    return (load_acquire_u64(&r.header.tail) & ~<uint64_t> 7) != r.head


cdef inline uint64_t ring_unread_bytes(ring_reader *r) noexcept nogil:
    """Bytes published and not taken; may be more than the capacity when the writer is corrupt. Ring reader only."""
    return load_acquire_u64(&r.header.tail) - r.head


cdef inline int ring_next(ring_reader *r, record_view *out) noexcept nogil:
    """Take the next record: 1 and *out, 0 when there is none, -1 when what stands there cannot be a record.

    After -1 nothing more can be read: count it and call ring_reader_skip(). The length and kind are checked from one
    copy of the header; the bytes of the body are the caller's to check. Ring reader only.
    """
    cdef uint64_t unread
    cdef uint64_t total
    cdef record_header_t record
    cdef char *place
    if r.head == r.tail_cached:                                 # once a batch
        # SYNC tail: pairs with ring_publish().
        r.tail_cached = load_acquire_u64(&r.header.tail)
        if (r.tail_cached & ~<uint64_t> 7) == r.head:
            r.tail_cached = r.head
            return 0
    unread = r.tail_cached - r.head
    if (unread & 7) or unread > r.capacity:
        return -1
    place = r.data + (r.head & (r.capacity - 1))
    memcpy(&record, place, sizeof(record))
    total = sizeof(record) + ((<uint64_t> record.body_bytes + 7) & ~<uint64_t> 7)
    if total > unread or total > r.capacity >> 1 or record.kind == 0 or record.kind > SB_RECORD_KIND_MAX:
        return -1
    out.body = place + sizeof(record)
    out.bytes = record.body_bytes
    out.kind = record.kind
    out.flags = record.flags
    r.head += total
    return 1


cdef inline void ring_release(ring_reader *r) noexcept nogil:
    """Give everything taken back to the writer; pointers from ring_next are dead from here. Ring reader only."""
    if r.head == r.released or r.peek:
        return
    # SYNC head: release pairs with the acquire load in ring_used(). Without it the writer could overwrite bytes before
    #            they are copied out.
    store_release_u64(&r.header.head, r.head)
    r.released = r.head


cdef inline void ring_reader_skip(ring_reader *r) noexcept nogil:
    """Drop everything published so far, corrupt or not, and release it. Ring reader only."""
    r.tail_cached = load_acquire_u64(&r.header.tail) & ~<uint64_t> 7
    r.head = r.tail_cached
    ring_release(r)


cdef class RingWriter:
    """Owns one ring's mapping in the writer's process; `w` is what the inline functions work on."""
    cdef ring_writer w
    cdef char *mapping
    cdef size_t mapping_bytes


cdef class RingReader:
    """Owns one ring's mapping in the reader's process; `r` is what the inline functions work on."""
    cdef ring_reader r
    cdef char *mapping
    cdef size_t mapping_bytes
