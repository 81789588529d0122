# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The index of a log: sequence -> record by the segments' arrays, subject -> sequences, first_seq, times that end.

Needs no GIL; reads records where they lie, does no other I/O.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free

from shardbroker.hot.memory cimport mem_resize
from shardbroker.store.filter cimport filter_forget, filter_reset
from shardbroker.store.format cimport (
    FLAG_EXPIRES, KIND_MASK, KIND_MESSAGE, SEGMENT_HEADER_BYTES, counted_bytes, padded, record_check, record_expires,
    record_payload_bytes, record_subject, record_t)
from shardbroker.store.model cimport REMOVED_DAMAGED, REMOVED_MAX_AGE, REMOVED_TTL, STORAGE_MEMORY, expiry_t, subject_t
from shardbroker.store.segment cimport (
    segment_add, segment_index, segment_index_from, segment_record, segment_seq, segments_find, segments_unlink)
from shardbroker.store.subjects cimport (
    name_bytes, name_text, subject_push, subject_remove, subjects_add, subjects_drop, subjects_free, subjects_init)


cdef void* grow(void* items, uint32_t* capacity, size_t size) noexcept nogil:
    capacity[0] = capacity[0] * 2 if capacity[0] else 8
    return mem_resize(items, capacity[0] * size)


cdef uint64_t index_counts(log_t* log, const record_t* r) noexcept nogil:
    return counted_bytes(log.storage == STORAGE_MEMORY, r.subject_bytes, r.header_bytes, record_payload_bytes(r))


cdef void index_put(log_t* log, segment_t* g, uint64_t seq, uint64_t offset) noexcept nogil:
    cdef const record_t* r = <const record_t*>(g.base + offset)
    cdef bint fresh
    index_add(log, g, seq, offset, subjects_add(&log.subjects, record_subject(r), r.subject_bytes, &fresh))


cdef void index_add(log_t* log, segment_t* g, uint64_t seq, uint64_t offset, uint32_t id) noexcept nogil:
    cdef const record_t* r = <const record_t*>(g.base + offset)
    cdef uint64_t counted = index_counts(log, r)
    segment_add(g, seq, offset, id)
    subject_push(&log.subjects, &log.subjects.items[id], seq)
    g.live += 1
    g.live_bytes += padded(r.bytes)
    g.counted += counted
    if log.msgs == 0:
        log.first_seq = seq
        log.first_time_ns = r.time_ns
    log.msgs += 1
    log.bytes += counted
    log.next_seq = seq + 1
    log.last_time_ns = r.time_ns
    if r.kind & FLAG_EXPIRES:
        expiry_push(log, record_expires(r)[0], seq)


cdef void index_drop(log_t* log, segment_t* g, uint32_t i, int reason) noexcept nogil:
    # The record's checksum is not compared here: what a damaged length would take too much is bounded, and put right when
    # the segment is empty.
    cdef const record_t* r = segment_record(g, i)
    cdef uint64_t seq = segment_seq(g, i)
    cdef uint64_t stored = min(padded(r.bytes), g.live_bytes)
    cdef uint64_t counted = min(index_counts(log, r), g.counted)
    cdef uint32_t id = g.ids[i]
    cdef subject_t* u = &log.subjects.items[id]
    if g.live == 1:
        counted = g.counted
        stored = g.live_bytes
    subject_remove(&log.subjects, u, seq)
    g.offsets[i] = 0
    g.ids[i] = 0
    g.live -= 1
    g.dead += 1
    g.live_bytes -= stored
    g.counted -= counted
    log.msgs -= 1
    log.bytes -= counted
    if g.sealed and g.live_bytes * 2 < g.used - SEGMENT_HEADER_BYTES:
        log.compact_wanted = True
    if log.on_removed != NULL and not log.recovering:
        log.removing = NULL
        if (u.count == 0 and (reason == REMOVED_MAX_AGE or reason == REMOVED_TTL)
                and record_check(<const char*>r, g.used - (<uint64_t>(<const char*>r - g.base)), g.salt)):
            log.removing = r
        log.on_removed(log.context, log, seq, name_text(u), name_bytes(u), u.count == 0, reason)
    if u.count == 0:
        filter_forget(log, id)
        subjects_drop(&log.subjects, id)
    if seq == log.first_seq:
        index_first(log, seq + 1)
    if g.live == 0 and g.sealed and not log.recovering:
        index_empty(log, g)


cdef void index_check(log_t* log, segment_t* g) noexcept nogil:
    """Damage was met in this segment: find all of it, and count again what is left."""
    cdef const record_t* r
    cdef uint64_t stored = 0
    cdef uint64_t counted = 0
    cdef uint64_t offset, seq
    cdef uint32_t i
    g.damaged = True
    for i in range(g.entries):
        offset = <uint64_t>g.offsets[i] << 3
        if offset == 0:
            continue
        r = <const record_t*>(g.base + offset)
        seq = segment_seq(g, i)
        if record_check(<const char*>r, g.used - offset, g.salt) and r.seq == seq and (r.kind & KIND_MASK) == KIND_MESSAGE:
            stored += padded(r.bytes)
            counted += index_counts(log, r)
    log.bytes -= g.counted - min(counted, g.counted)
    g.counted = counted
    g.live_bytes = stored
    for i in range(g.entries):
        offset = <uint64_t>g.offsets[i] << 3
        if offset == 0:
            continue
        r = <const record_t*>(g.base + offset)
        seq = segment_seq(g, i)
        if record_check(<const char*>r, g.used - offset, g.salt) and r.seq == seq and (r.kind & KIND_MASK) == KIND_MESSAGE:
            continue
        g.counted += index_counts(log, r)     # index_drop takes it off again
        log.bytes += index_counts(log, r)
        g.live_bytes += padded(r.bytes)
        index_lost(log, seq, seq)
        index_drop(log, g, i, REMOVED_DAMAGED)


cdef void index_first(log_t* log, uint64_t from_seq) noexcept nogil:
    cdef segment_t* g = segments_find(log, from_seq) if log.msgs else NULL
    cdef uint32_t i
    if log.msgs and g == NULL:
        g = log.first
    while g != NULL:
        if g.live:
            i = 0
            if from_seq > g.first_seq:
                i = <uint32_t>segment_index_from(g, from_seq)
            while i < g.entries:
                if g.offsets[i]:
                    log.first_seq = segment_seq(g, i)
                    log.first_time_ns = segment_record(g, i).time_ns
                    return
                i += 1
        g = g.next
    log.first_seq = log.next_seq
    log.first_time_ns = 0


cdef segment_t* index_find(log_t* log, uint64_t seq, uint32_t* i) noexcept nogil:
    cdef segment_t* g = segments_find(log, seq)
    cdef int64_t at
    if g == NULL:
        return NULL
    at = segment_index(g, seq)
    if at < 0 or g.offsets[at] == 0:
        return NULL
    i[0] = <uint32_t>at
    return g


cdef void index_retire(log_t* log, segment_t* g) noexcept nogil:
    segments_unlink(log, g)
    if g.base <= <char*>log.mark < g.base + g.capacity:
        log.mark = NULL                 # of the batch that gathers: the next record makes another
    g.next = log.retired
    log.retired = g


cdef void index_empty(log_t* log, segment_t* g) noexcept nogil:
    """A sealed segment has no message left. In the middle it stays until compaction takes it together with its neighbours:
    the files' numbers have no gaps, so that recovery sees when one is missing."""
    if log.first == g:
        index_sweep(log)
    elif log.storage == STORAGE_MEMORY and not g.busy:
        index_retire(log, g)
    else:
        log.compact_wanted = True


cdef void index_sweep(log_t* log) noexcept nogil:
    """Sealed segments without messages at the front go, but for the last: it knows the next sequence."""
    cdef segment_t* g = log.first
    while g != NULL and g.live == 0 and g.sealed and not g.busy and (g.next != NULL or log.storage == STORAGE_MEMORY):
        index_retire(log, g)
        log.mark_wanted = True          # a mark says that what was in it is gone
        g = log.first


cdef void index_clear(log_t* log) noexcept nogil:
    cdef segment_t* g = log.first
    subjects_free(&log.subjects)
    subjects_init(&log.subjects)
    filter_reset(log)
    free(log.expiries)
    log.expiries = NULL
    log.expiries_count = log.expiries_capacity = 0
    while g != NULL:
        g.dead += g.live
        g.live = 0
        g.live_bytes = 0
        g.counted = 0
        g.entries = 0                   # none of them is live
        g.first_seq = g.end_seq
        g = g.next
    log.msgs = 0
    log.bytes = 0
    log.first_seq = log.next_seq
    log.first_time_ns = 0


cdef void index_lost(log_t* log, uint64_t first, uint64_t last) noexcept nogil:
    cdef range_t* l
    log.lost_msgs += last - first + 1
    if log.lost_count and log.lost[log.lost_count - 1].last + 1 == first:
        log.lost[log.lost_count - 1].last = last
    else:
        log.lost = <range_t*>grown(log.lost, &log.lost_capacity, log.lost_count, sizeof(range_t))
        l = &log.lost[log.lost_count]
        l.first = first
        l.last = last
        log.lost_count += 1
    if log.on_damage != NULL and not log.recovering:
        log.on_damage(log.context, log, first, last)


# ---- messages with a time of their own: a binary heap, the earliest first ----

cdef void expiry_push(log_t* log, int64_t expires_ns, uint64_t seq) noexcept nogil:
    cdef uint32_t i = log.expiries_count
    cdef uint32_t parent
    log.expiries = <expiry_t*>grown(log.expiries, &log.expiries_capacity, i, sizeof(expiry_t))
    log.expiries_count += 1
    while i:
        parent = (i - 1) >> 1
        if log.expiries[parent].expires_ns <= expires_ns:
            break
        log.expiries[i] = log.expiries[parent]
        i = parent
    log.expiries[i].expires_ns = expires_ns
    log.expiries[i].seq = seq


cdef void expiry_pop(log_t* log) noexcept nogil:
    cdef expiry_t last
    cdef uint32_t i = 0
    cdef uint32_t child
    log.expiries_count -= 1
    if log.expiries_count == 0:
        return
    last = log.expiries[log.expiries_count]
    while True:
        child = 2 * i + 1
        if child >= log.expiries_count:
            break
        if child + 1 < log.expiries_count and log.expiries[child + 1].expires_ns < log.expiries[child].expires_ns:
            child += 1
        if log.expiries[child].expires_ns >= last.expires_ns:
            break
        log.expiries[i] = log.expiries[child]
        i = child
    log.expiries[i] = last
