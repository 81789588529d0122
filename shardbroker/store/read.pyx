# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Reading: by sequence, by subject, by time, the next that matches, how many there are. Needs no GIL.

A view points into the segment. Its checksum is compared on every read; a record that fails is reported, taken out of the index
and passed over, never served.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcmp

from shardbroker.hot.memory cimport mem_alloc, mem_resize
from shardbroker.store.filter cimport filter_id
from shardbroker.store.format cimport (
    FLAG_EXPIRES, KIND_MASK, KIND_MESSAGE, record_check, record_expires, record_payload_bytes, record_subject, record_t)
from shardbroker.store.index cimport index_check, index_find
from shardbroker.store.model cimport LOG_DAMAGED, LOG_MORE, LOG_NOT_FOUND, LOG_OK
from shardbroker.store.segment cimport segment_index_from, segment_record, segment_seq, segments_find
from shardbroker.store.subjects cimport subject_at, subject_rank, subjects_find


cdef int view_entry(log_t* log, segment_t* g, uint32_t i, log_view_t* view) noexcept nogil:
    cdef const record_t* r = segment_record(g, i)
    cdef uint64_t seq = segment_seq(g, i)
    cdef const char* subject
    if (not record_check(<const char*>r, g.used - (<uint64_t>g.offsets[i] << 3), g.salt) or r.seq != seq
            or (r.kind & KIND_MASK) != KIND_MESSAGE):
        index_check(log, g)
        return LOG_DAMAGED
    subject = record_subject(r)
    view.seq = seq
    view.time_ns = r.time_ns
    view.expires_ns = record_expires(r)[0] if r.kind & FLAG_EXPIRES else 0
    view.subject = subject
    view.subject_bytes = r.subject_bytes
    view.tail = subject + r.subject_bytes
    view.payload_bytes = record_payload_bytes(r)
    view.tail_bytes = r.sizes_bytes + view.payload_bytes + 2
    view.payload = view.tail + r.sizes_bytes
    view.header_bytes = r.header_bytes
    view.subject_id = g.ids[i]
    return LOG_OK


cdef int log_get(log_t* log, uint64_t seq, log_view_t* view) noexcept nogil:
    cdef uint32_t i = 0
    cdef segment_t* g = index_find(log, seq, &i)
    if g == NULL:
        return LOG_NOT_FOUND
    return view_entry(log, g, i, view)


cdef bint log_has(log_t* log, uint64_t seq) noexcept nogil:
    cdef uint32_t i = 0
    return index_find(log, seq, &i) != NULL


cdef subject_t* log_subject(log_t* log, const char* subject, uint32_t n) noexcept nogil:
    cdef uint32_t id = subjects_find(&log.subjects, subject, n)
    return &log.subjects.items[id] if id else NULL


cdef int log_last_for(log_t* log, const char* subject, uint32_t n, log_view_t* view) noexcept nogil:
    cdef subject_t* u
    cdef int answer
    while True:
        u = log_subject(log, subject, n)
        if u == NULL:
            return LOG_NOT_FOUND
        answer = log_get(log, u.last, view)
        if answer != LOG_DAMAGED:
            return answer


cdef int log_first_for(log_t* log, const char* subject, uint32_t n, log_view_t* view) noexcept nogil:
    cdef subject_t* u
    cdef int answer
    while True:
        u = log_subject(log, subject, n)
        if u == NULL:
            return LOG_NOT_FOUND
        answer = log_get(log, u.first, view)
        if answer != LOG_DAMAGED:
            return answer


cdef int log_last(log_t* log, log_view_t* view) noexcept nogil:
    return log_previous(log, log.next_seq - 1, NULL, view)


# ---- next and previous ----

cdef uint64_t literal_next(log_t* log, filter_t* filter, uint64_t from_seq) noexcept nogil:
    """Lowest sequence >= from_seq over the filter's subjects; 0: none."""
    cdef uint64_t best = 0
    cdef uint64_t seq
    cdef uint32_t k, rank
    cdef subject_t* u
    for k in range(filter.count):
        u = log_subject(log, filter.patterns[k], filter.pattern_bytes[k])
        if u == NULL or u.last < from_seq:
            continue
        if u.first >= from_seq:
            seq = u.first
        else:
            rank = subject_rank(u, from_seq)
            seq = subject_at(u, rank)
        if best == 0 or seq < best:
            best = seq
    return best


cdef uint64_t literal_previous(log_t* log, filter_t* filter, uint64_t from_seq) noexcept nogil:
    """Highest sequence <= from_seq over the filter's subjects; 0: none."""
    cdef uint64_t best = 0
    cdef uint64_t seq
    cdef uint32_t k
    cdef subject_t* u
    for k in range(filter.count):
        u = log_subject(log, filter.patterns[k], filter.pattern_bytes[k])
        if u == NULL or u.first > from_seq:
            continue
        seq = u.last
        if seq > from_seq:
            seq = subject_at(u, subject_rank(u, from_seq + 1) - 1)
        if seq > best:
            best = seq
    return best


cdef uint64_t seek(log_t* log, uint64_t from_seq, filter_t* filter, segment_t** segment, uint32_t* index) noexcept nogil:
    """Where the first message with seq >= from_seq is that matches; not NULL and not `all` for a filter. 0: none; if more was
    looked at than SCAN_MESSAGES_MAX, segment is NULL and the answer is where to go on."""
    cdef segment_t* g
    cdef uint32_t i
    cdef uint32_t looked = 0
    if from_seq < log.first_seq:
        from_seq = log.first_seq
    segment[0] = NULL
    if from_seq >= log.next_seq or log.msgs == 0:
        return 0
    if filter != NULL and filter.literal:
        from_seq = literal_next(log, filter, from_seq)
        if from_seq:
            segment[0] = index_find(log, from_seq, index)
        return from_seq
    g = segments_find(log, from_seq)
    if g == NULL:
        g = log.first
    while g != NULL:
        i = segment_index_from(g, from_seq) if g.live else g.entries
        while i < g.entries:
            if g.offsets[i] and (filter == NULL or filter_id(filter, g.ids[i])):
                log.cursor = g
                segment[0] = g
                index[0] = i
                return segment_seq(g, i)
            i += 1
            looked += 1
            if looked > SCAN_MESSAGES_MAX and i < g.entries:
                return segment_seq(g, i)
        g = g.next
    return 0


cdef int log_next(log_t* log, uint64_t from_seq, filter_t* filter, log_view_t* view) noexcept nogil:
    cdef segment_t* g
    cdef uint32_t i = 0
    if filter != NULL and filter.all:
        filter = NULL
    while True:
        from_seq = seek(log, from_seq, filter, &g, &i)
        if from_seq == 0:
            return LOG_NOT_FOUND
        if g == NULL:
            view.seq = from_seq
            return LOG_MORE
        if view_entry(log, g, i, view) == LOG_OK:
            return LOG_OK
        from_seq += 1


cdef int log_previous(log_t* log, uint64_t from_seq, filter_t* filter, log_view_t* view) noexcept nogil:
    cdef segment_t* g
    cdef uint32_t i
    cdef uint64_t seq
    if filter != NULL and filter.all:
        filter = NULL
    if from_seq >= log.next_seq:
        from_seq = log.next_seq - 1
    while from_seq >= log.first_seq and from_seq and log.msgs:
        if filter != NULL and filter.literal:
            seq = literal_previous(log, filter, from_seq)
            if seq == 0:
                return LOG_NOT_FOUND
            if log_get(log, seq, view) == LOG_OK:
                return LOG_OK
            from_seq = seq - 1
            continue
        g = segments_find(log, from_seq)
        while g != NULL:
            i = segment_index_from(g, from_seq + 1) if g.live else 0
            while i > 0:
                i -= 1
                if g.offsets[i] and (filter == NULL or filter_id(filter, g.ids[i])):
                    seq = segment_seq(g, i)
                    if view_entry(log, g, i, view) == LOG_OK:
                        return LOG_OK
                    from_seq = seq - 1
                    break
            else:
                g = g.previous
                continue
            break
        if g == NULL:
            return LOG_NOT_FOUND
    return LOG_NOT_FOUND


# ---- counts ----

cdef uint64_t count_from(log_t* log, filter_t* filter, uint64_t from_seq) noexcept nogil:
    """By looking at each entry from there on."""
    cdef segment_t* g = segments_find(log, from_seq)
    cdef uint64_t total = 0
    cdef uint32_t i
    if g == NULL:
        g = log.first
    while g != NULL:
        i = segment_index_from(g, from_seq)
        if i == 0 and filter == NULL:
            total += g.live
        elif filter == NULL:
            for i in range(i, g.entries):
                total += g.offsets[i] != 0
        elif g.live:
            for i in range(i, g.entries):
                total += g.offsets[i] != 0 and filter_id(filter, g.ids[i])
        g = g.next
    return total


cdef uint64_t count_subjects(log_t* log, filter_t* filter, uint64_t from_seq, bint last_only) noexcept nogil:
    """By looking at each subject."""
    cdef subject_t* u
    cdef uint64_t total = 0
    cdef uint32_t k
    if filter != NULL and filter.literal:
        for k in range(filter.count):
            u = log_subject(log, filter.patterns[k], filter.pattern_bytes[k])
            if u != NULL and u.last >= from_seq and not repeated(filter, k):
                total += 1 if last_only else u.count - subject_rank(u, from_seq)
        return total
    for k in range(1, log.subjects.items_count):
        u = &log.subjects.items[k]
        if u.name != NULL and u.last >= from_seq and (filter == NULL or filter_id(filter, k)):
            total += 1 if last_only else u.count - subject_rank(u, from_seq)
    return total


cdef bint repeated(filter_t* f, uint32_t k) noexcept nogil:
    cdef uint32_t j
    for j in range(k):
        if f.pattern_bytes[j] == f.pattern_bytes[k] and memcmp(f.patterns[j], f.patterns[k], f.pattern_bytes[k]) == 0:
            return True
    return False


cdef uint64_t log_pending(log_t* log, filter_t* filter, uint64_t from_seq) noexcept nogil:
    if filter != NULL and filter.all:
        filter = NULL
    if from_seq < log.first_seq:
        from_seq = log.first_seq
    if log.msgs == 0 or from_seq >= log.next_seq:
        return 0
    if filter == NULL:
        return log.msgs if from_seq == log.first_seq else count_from(log, NULL, from_seq)
    if filter.literal or log.subjects.live < log.next_seq - from_seq:
        return count_subjects(log, filter, from_seq, False)
    return count_from(log, filter, from_seq)


cdef uint64_t log_pending_subjects(log_t* log, filter_t* filter, uint64_t from_seq) noexcept nogil:
    if filter != NULL and filter.all:
        filter = NULL
    if filter == NULL and from_seq <= log.first_seq:
        return log.subjects.live
    return count_subjects(log, filter, from_seq, True)


# ---- times, lists ----

cdef uint64_t log_seq_at(log_t* log, int64_t time_ns) noexcept nogil:
    """Times do not go back within a log, so this is a binary search, stepping over what is removed."""
    cdef uint64_t low = log.first_seq
    cdef uint64_t high = log.next_seq
    cdef uint64_t middle, found
    cdef segment_t* g
    cdef uint32_t i
    while low < high:
        middle = low + ((high - low) >> 1)
        # the first live message at or behind the middle
        g = segments_find(log, middle)
        found = 0
        while g != NULL:
            i = segment_index_from(g, middle)
            while i < g.entries and g.offsets[i] == 0:
                i += 1
            if i < g.entries:
                found = segment_seq(g, i)
                break
            g = g.next
        if found == 0 or found >= high:
            high = middle
        elif segment_record(g, i).time_ns >= time_ns:
            high = middle
        else:
            low = found + 1
    # low is the bound; the message itself may stand behind a gap
    g = segments_find(log, low)
    while g != NULL:
        i = segment_index_from(g, low)
        while i < g.entries and g.offsets[i] == 0:
            i += 1
        if i < g.entries:
            return segment_seq(g, i)
        g = g.next
    return log.next_seq


cdef int compare_seqs(const void* a, const void* b) noexcept nogil:
    cdef uint64_t x = (<const uint64_t*>a)[0]
    cdef uint64_t y = (<const uint64_t*>b)[0]
    return (x > y) - (x < y)


cdef uint64_t* log_last_seqs(log_t* log, filter_t* filter, uint64_t up_to, uint64_t* count) noexcept nogil:
    cdef uint64_t* out = <uint64_t*>mem_alloc((<size_t>log.subjects.live + 1) * 8)
    cdef uint64_t n = 0
    cdef uint64_t seq
    cdef uint32_t k, rank
    cdef subject_t* u
    if filter != NULL and filter.all:
        filter = NULL
    for k in range(1, log.subjects.items_count):
        u = &log.subjects.items[k]
        if u.name == NULL or (filter != NULL and not filter_id(filter, k)):
            continue
        seq = u.last
        if up_to and seq > up_to:
            rank = subject_rank(u, up_to + 1)
            if rank == 0:
                continue
            seq = subject_at(u, rank - 1)
        out[n] = seq
        n += 1
    if n:
        qsort(out, n, 8, compare_seqs)
    count[0] = n
    return out


cdef range_t* log_deleted(log_t* log, uint32_t most, uint32_t* count, uint64_t* messages) noexcept nogil:
    cdef range_t* out = NULL
    cdef uint32_t n = 0
    cdef uint32_t capacity = 0
    cdef uint64_t expected = log.first_seq
    cdef uint64_t seq
    cdef segment_t* g = log.first
    cdef uint32_t i
    while g != NULL and (most == 0 or n < most):
        for i in range(g.entries):
            if g.offsets[i] == 0:
                continue
            seq = segment_seq(g, i)
            if seq > expected:
                if n == capacity:
                    capacity = capacity * 2 + 16
                    out = <range_t*>mem_resize(out, capacity * sizeof(range_t))
                out[n].first = expected
                out[n].last = seq - 1
                n += 1
                if n == most:
                    break
            expected = seq + 1
        g = g.next
    if expected < log.next_seq and (most == 0 or n < most) and log.msgs:
        out = <range_t*>mem_resize(out, (n + 1) * sizeof(range_t))
        out[n].first = expected
        out[n].last = log.next_seq - 1
        n += 1
    count[0] = n
    messages[0] = log.next_seq - log.first_seq - log.msgs
    return out
