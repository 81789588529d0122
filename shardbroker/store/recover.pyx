# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Recovery: every record of every segment is read and its checksum compared, and the index is built from them.

    list -> headers -> scan -> (a torn end: cut, and scan again) -> first_seq of the last mark -> the active segment

Where no record stands the scan looks for the next one that does. Such a gap is one of two things. If any mark behind it says
that the sequences missing there were durable, it is damage: reported, skipped, and the file is left as it is. If none does, it
is the end of what was ever promised, so everything behind it is cut off: the log is then a prefix of what was appended.

A segment whose head cannot be read is read all the same: its records' checksums say with which seed they were made, and two
that follow each other and agree are no chance. Then the head is damage, and nothing else is.

Files are input: every length is checked before use, and the searches for records have a bound.
"""
from libc.errno cimport ENOENT
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, qsort
from libc.string cimport memcpy, memmove, memset, strlen

from shardbroker.store.files cimport file_t, files_t
from shardbroker.store.format cimport (
    FLAG_DISPLACED, KIND_ERASED, KIND_MARK, KIND_MASK, KIND_MESSAGE, KIND_REMOVE, SEGMENT_HEADER_BYTES, SEGMENT_RESERVE,
    SEGMENT_REWRITTEN, mark_t, padded, page_down, page_up, record_check, record_displaced, record_t, sb_crc32c_seed_of,
    segment_header_t)
from shardbroker.store.index cimport grown, index_clear, index_drop, index_find, index_lost, index_put
from shardbroker.store.model cimport REMOVED_DELETED, range_t, segment_t
from shardbroker.store.read cimport seek
from shardbroker.store.segment cimport (
    PATH_BYTES_MAX, segment_add, segment_free, segment_header_read, segment_new, segment_path, segment_private,
    segment_shrink, segments_link)

cdef uint64_t SEGMENT_CAPACITY_MAX = <uint64_t>1 << 33     # a header that says more is not believed

cdef enum:
    SALVAGE_RECORD_BYTES = 1 << 16      # of a record that the seed is worked out from; a mark has 56
    SALVAGE_TRIES = 1 << 14

cdef uint64_t SEARCH_BYTES_MAX = <uint64_t>4 << 30    # checksums that the search for a record may compute, per log

cdef struct found_t:
    uint64_t id
    uint64_t size
    segment_t* segment                  # NULL: its header cannot be read
    uint64_t covers
    uint64_t end_seq                    # rewritten
    uint64_t capacity                   # by its header
    uint64_t first_seq                  # by its header
    uint32_t flags
    uint64_t end                        # of its records
    bint blank                          # nothing was ever written to it
    bint headless                       # its head cannot be read, its records can
    bint gone                           # it could not be read, was never promised, and has been removed
    bint replaced                       # by compaction
    bint clean                          # zeros behind the end

cdef struct hole_t:
    uint32_t at                         # index of the segment
    uint64_t offset
    uint64_t bytes
    uint64_t first                      # sequence that was expected there
    uint64_t next                       # sequence of what was found behind it; 0: nothing
    bint removed                        # and was removed later: an overwrite that was torn, or damage that costs nothing
    bint head                           # it begins with a segment's head

cdef struct scan_t:
    log_t* log
    found_t* found
    uint32_t count
    uint32_t capacity
    uint64_t* leftovers                 # ids of .tmp files
    uint32_t leftovers_count
    uint32_t leftovers_capacity
    hole_t* holes
    uint32_t holes_count
    uint32_t holes_capacity
    range_t* lost
    uint32_t lost_count
    uint32_t lost_capacity
    uint64_t durable                    # the highest that any mark says
    uint64_t first_seq
    uint64_t searched
    uint64_t origin                     # sequence that an empty log begins with
    bint hole_open                      # the last hole's `next` is not known yet
    bint gap_allowed                    # sequences may be missing here
    uint32_t at                         # the record that is looked at
    uint64_t offset
    uint32_t front                      # first segment that can be read
    uint32_t cut_at                     # segment; `count`: no cut
    uint64_t cut_offset


# ---- names and headers ----

cdef void on_name(void* context, const char* name) noexcept nogil:
    cdef scan_t* s = <scan_t*>context
    cdef uint64_t id = 0
    cdef uint32_t i
    cdef char c
    if strlen(name) != 20:
        return
    for i in range(16):
        c = name[i]
        if c'0' <= c <= c'9':
            id = id * 16 + <uint64_t>(c - c'0')
        elif c'a' <= c <= c'f':
            id = id * 16 + <uint64_t>(c - c'a' + 10)
        else:
            return
    if same(name + 16, b".seg"):
        s.found = <found_t*>grown(s.found, &s.capacity, s.count, sizeof(found_t))
        memset(&s.found[s.count], 0, sizeof(found_t))
        s.found[s.count].id = id
        s.count += 1
    elif same(name + 16, b".tmp"):
        s.leftovers = <uint64_t*>grown(s.leftovers, &s.leftovers_capacity, s.leftovers_count, 8)
        s.leftovers[s.leftovers_count] = id
        s.leftovers_count += 1


cdef bint same(const char* a, const char* b) noexcept nogil:
    return a[0] == b[0] and a[1] == b[1] and a[2] == b[2] and a[3] == b[3]


cdef int compare_found(const void* a, const void* b) noexcept nogil:
    cdef uint64_t x = (<const found_t*>a).id
    cdef uint64_t y = (<const found_t*>b).id
    return (x > y) - (x < y)


cdef bint all_zero(const char* p, uint64_t n) noexcept nogil:
    cdef uint64_t i = 0
    cdef uint64_t word
    while n - i >= 8:
        memcpy(&word, p + i, 8)
        if word:
            return False
        i += 8
    while i < n:
        if p[i]:
            return False
        i += 1
    return True


cdef inline bint may_be(const record_t* r, uint64_t room) noexcept nogil:
    """Whether a record could stand here, whatever the checksums' seed."""
    cdef int kind = r.kind & KIND_MASK
    return (sizeof(record_t) <= r.bytes <= room and KIND_MESSAGE <= kind <= KIND_ERASED and r.kind & 0xC0 == 0
            and r.header_bytes >= -1)


cdef bint salvage(segment_t* g, uint64_t size, segment_header_t* h) noexcept nogil:
    """A head for a segment that has lost its own, from the first two records that agree on a seed."""
    cdef uint64_t offset = SEGMENT_HEADER_BYTES
    cdef uint64_t behind
    cdef uint32_t tries = 0
    cdef uint32_t salt
    cdef const record_t* r
    cdef const record_t* next
    while offset + 2 * sizeof(record_t) <= size and tries < SALVAGE_TRIES:
        r = <const record_t*>(g.base + offset)
        behind = offset + padded(r.bytes)
        if r.bytes <= SALVAGE_RECORD_BYTES and may_be(r, size - offset) and behind + sizeof(record_t) <= size:
            next = <const record_t*>(g.base + behind)
            if may_be(next, size - behind) and next.seq >= r.seq:
                tries += 1
                salt = sb_crc32c_seed_of(r.crc, <const char*>r + 4, r.bytes - 4)
                if record_check(<const char*>r, size - offset, salt) and record_check(<const char*>next, size - behind, salt):
                    memset(h, 0, sizeof(segment_header_t))
                    h.salt = salt
                    h.first_seq = r.seq
                    # One that was not made by compaction begins with a mark.
                    if offset == SEGMENT_HEADER_BYTES and (r.kind & KIND_MASK) != KIND_MARK:
                        h.flags = SEGMENT_REWRITTEN
                    return True
        offset += 8
    return False


cdef int load(scan_t* s, found_t* x) noexcept nogil:
    """Its header and its bytes. 0 or a negative errno; damage is none."""
    cdef log_t* log = s.log
    cdef const files_t* f = log.store.files
    cdef char path[PATH_BYTES_MAX]
    cdef char page[SEGMENT_HEADER_BYTES]
    cdef segment_header_t h
    cdef file_t* file
    cdef int64_t n
    cdef int answer
    segment_path(path, log.directory, x.id, b".seg")
    answer = f.open(f, path, False, &file)
    if answer:
        return answer
    n = f.size(file)
    if n < 0:
        f.close(file)
        return <int>n
    x.size = <uint64_t>n
    memset(page, 0, SEGMENT_HEADER_BYTES)
    n = f.read(file, page, SEGMENT_HEADER_BYTES, 0)
    x.headless = (n < 0 or not segment_header_read(page, &h) or h.id != x.id or h.covers < h.id
                  or h.capacity > SEGMENT_CAPACITY_MAX)
    if x.headless and (x.size <= SEGMENT_HEADER_BYTES or x.size > SEGMENT_CAPACITY_MAX):
        x.blank = n >= 0 and all_zero(page, SEGMENT_HEADER_BYTES)
        f.close(file)
        return 0
    x.segment = segment_new(x.id, 0, x.size if x.headless else max(h.capacity, x.size))
    if x.segment == NULL:
        f.close(file)
        return -ENOENT
    if f.maps:
        answer = f.map(file, x.segment.base, 0, page_up(x.size))
        x.segment.mapped = page_up(x.size)
    else:
        n = f.read(file, x.segment.base, x.size, 0)
        if n < 0:
            # What cannot be read is damage like any other.
            memset(x.segment.base + SEGMENT_HEADER_BYTES, 0xFF, x.size - SEGMENT_HEADER_BYTES)
    f.close(file)                       # there may be more segments than descriptors
    if x.headless:
        if not salvage(x.segment, x.size, &h):
            x.blank = all_zero(page, SEGMENT_HEADER_BYTES)
            segment_free(x.segment)
            x.segment = NULL
            return answer
        h.capacity = x.size
        h.covers = x.id
        if h.flags & SEGMENT_REWRITTEN and x + 1 < s.found + s.count:
            h.covers = (x + 1).id - 1   # numbers have no gaps
    x.covers = x.segment.covers = h.covers
    x.flags = h.flags
    x.end_seq = h.end_seq
    x.capacity = h.capacity
    x.first_seq = x.segment.first_seq = h.first_seq
    x.segment.salt = h.salt
    return answer


# ---- the scan ----

cdef void add_lost(scan_t* s, uint64_t first, uint64_t last) noexcept nogil:
    s.lost = <range_t*>grown(s.lost, &s.lost_capacity, s.lost_count, sizeof(range_t))
    s.lost[s.lost_count].first = first
    s.lost[s.lost_count].last = last
    s.lost_count += 1


cdef void add_hole(scan_t* s, uint32_t at, uint64_t offset, uint64_t bytes) noexcept nogil:
    cdef hole_t* h
    if s.hole_open:                     # two in a row without a record between: one hole
        h = &s.holes[s.holes_count - 1]
        h.bytes += bytes
        return
    s.holes = <hole_t*>grown(s.holes, &s.holes_capacity, s.holes_count, sizeof(hole_t))
    h = &s.holes[s.holes_count]
    s.holes_count += 1
    h.at = at
    h.offset = offset
    h.bytes = bytes
    h.first = s.log.next_seq
    h.next = 0
    h.removed = h.head = False
    s.hole_open = True


cdef void arrive(scan_t* s, uint64_t seq) noexcept nogil:
    """A record says that the next sequence is `seq`, and next_seq is where we are."""
    if s.hole_open:
        s.holes[s.holes_count - 1].next = seq
    elif seq > s.log.next_seq and not s.gap_allowed:
        add_hole(s, s.at, s.offset, 0)
        s.holes[s.holes_count - 1].next = seq
    s.hole_open = False
    if seq > s.log.next_seq:
        s.log.next_seq = seq
        if s.log.msgs == 0:
            s.log.first_seq = seq


cdef void removed_range(scan_t* s, uint64_t first, uint64_t last) noexcept nogil:
    cdef segment_t* g = NULL
    cdef uint32_t i = 0
    cdef uint64_t seq = first
    cdef hole_t* h
    while seq <= last:
        seq = seek(s.log, seq, NULL, &g, &i)
        if seq == 0 or seq > last:
            break
        if g != NULL:
            index_drop(s.log, g, i, REMOVED_DELETED)
            seq += 1
    # It may name one that was found damaged: no loss then.
    for i in range(s.holes_count):
        h = &s.holes[i]
        if h.next > h.first and first <= h.first and h.next - 1 <= last:
            h.next = h.first
            h.removed = True


cdef void on_record(scan_t* s, segment_t* g, uint64_t offset) noexcept nogil:
    cdef log_t* log = s.log
    cdef const record_t* r = <const record_t*>(g.base + offset)
    cdef const mark_t* m
    cdef const range_t* ranges
    cdef segment_t* other
    cdef uint32_t i = 0
    cdef uint32_t k
    cdef int kind = r.kind & KIND_MASK
    if kind == KIND_MARK:
        m = <const mark_t*>(<const char*>r + sizeof(record_t))
        s.durable = max(s.durable, m.durable_seq)
        s.first_seq = max(s.first_seq, m.first_seq)
        if r.seq >= log.next_seq:
            s.gap_allowed |= m.reserved & 1
            arrive(s, r.seq)
            s.gap_allowed = s.found != NULL and rewritten(s, g)
        log.last_time_ns = max(log.last_time_ns, r.time_ns)
        return
    if kind == KIND_MESSAGE or kind == KIND_ERASED:
        if r.seq < log.next_seq:
            return                      # it is known: a copy that compaction left
        arrive(s, r.seq)
        if kind == KIND_ERASED:
            segment_add(g, r.seq, 0, 0)
            g.dead += 1
            log.next_seq = r.seq + 1
            if log.msgs == 0:
                log.first_seq = log.next_seq
        else:
            index_put(log, g, r.seq, offset)
        if r.kind & FLAG_DISPLACED:
            other = index_find(log, record_displaced(r)[0], &i)
            if other != NULL and record_displaced(r)[0] != r.seq:
                index_drop(log, other, i, REMOVED_DELETED)
            if other != g:
                g.removals += 1
        return
    if r.seq >= log.next_seq:
        arrive(s, r.seq)
    ranges = <const range_t*>(<const char*>r + sizeof(record_t))
    for k in range(<uint32_t>((r.bytes - sizeof(record_t)) // sizeof(range_t))):
        if ranges[k].first <= ranges[k].last:
            removed_range(s, ranges[k].first, ranges[k].last)
        g.removals += 1


cdef bint rewritten(scan_t* s, segment_t* g) noexcept nogil:
    cdef uint32_t i
    for i in range(s.count):
        if s.found[i].segment == g:
            return (s.found[i].flags & SEGMENT_REWRITTEN) != 0
    return False


cdef uint64_t search(scan_t* s, segment_t* g, uint64_t offset, uint64_t end) noexcept nogil:
    """Where the next record stands that may follow, or `end`."""
    cdef const record_t* r
    while offset + sizeof(record_t) <= end and s.searched < SEARCH_BYTES_MAX:
        r = <const record_t*>(g.base + offset)
        # Few places pass the first comparison, so few checksums are computed.
        if (r.bytes >= sizeof(record_t) and r.bytes <= end - offset and r.seq >= s.log.next_seq
                and r.seq - s.log.next_seq < <uint64_t>1 << 32):
            s.searched += r.bytes
            if record_check(<const char*>r, end - offset, g.salt):
                return offset
        offset += 8
    return end


cdef bint skip_by_head(scan_t* s, uint32_t at, segment_t* g, uint64_t offset, uint64_t end) noexcept nogil:
    """A record whose head is believable and whose body is not: a flipped bit, or an overwrite that was torn. When another
    record stands where it says that it ends, it is known which message this was."""
    cdef const record_t* r = <const record_t*>(g.base + offset)
    cdef const record_t* next
    cdef uint64_t behind
    cdef int kind = r.kind & KIND_MASK
    if s.hole_open or r.bytes < sizeof(record_t) or r.bytes > end - offset or r.seq < s.log.next_seq:
        return False
    behind = offset + padded(r.bytes)
    if behind + sizeof(record_t) > end or kind < KIND_MESSAGE or kind > KIND_ERASED:
        return False
    next = <const record_t*>(g.base + behind)
    if not record_check(<const char*>next, end - behind, g.salt) or next.seq < r.seq:
        return False
    if r.seq > s.log.next_seq and not s.gap_allowed:
        return False
    if kind != KIND_MARK and kind != KIND_REMOVE and next.seq == r.seq:
        return False                    # then which it was is not known
    add_hole(s, at, offset, padded(r.bytes))
    if kind == KIND_MARK or kind == KIND_REMOVE:
        arrive(s, r.seq)
    else:
        s.holes[s.holes_count - 1].first = r.seq
        arrive(s, r.seq)
        s.holes[s.holes_count - 1].next = r.seq + 1
        segment_add(g, r.seq, 0, 0)
        g.dead += 1
        s.log.next_seq = r.seq + 1
        if s.log.msgs == 0:
            s.log.first_seq = s.log.next_seq
    g.damaged = True
    return True


cdef void scan_segment(scan_t* s, uint32_t at) noexcept nogil:
    cdef found_t* x = &s.found[at]
    cdef segment_t* g = x.segment
    cdef uint64_t end = x.size
    cdef uint64_t offset = SEGMENT_HEADER_BYTES
    cdef uint64_t found
    cdef const record_t* r
    if at == s.cut_at:
        end = min(end, s.cut_offset)
    s.gap_allowed = at == s.front or (x.flags & SEGMENT_REWRITTEN) != 0
    s.at = at
    x.clean = True
    x.end = offset
    g.damaged = x.headless
    if x.headless:
        # Of a segment that was promised it is damage; else the write of its beginning was torn, and all of it goes.
        add_hole(s, at, 0, SEGMENT_HEADER_BYTES)
        s.holes[s.holes_count - 1].head = True
    elif x.flags & SEGMENT_REWRITTEN and s.hole_open and x.first_seq > s.log.next_seq:
        # What is missing behind its first sequence is no loss: compaction left it out.
        s.holes[s.holes_count - 1].next = s.log.next_seq = x.first_seq
        s.hole_open = False
        if s.log.msgs == 0:
            s.log.first_seq = x.first_seq
    while offset + sizeof(record_t) <= end:
        r = <const record_t*>(g.base + offset)
        if record_check(<const char*>r, end - offset, g.salt):
            g.used = offset + padded(r.bytes)
            s.offset = offset
            on_record(s, g, offset)
            offset = g.used
            x.end = offset
            continue
        if all_zero(g.base + offset, end - offset):
            break
        if skip_by_head(s, at, g, offset, end):
            offset += padded(r.bytes)
            g.used = x.end = offset
            continue
        found = search(s, g, offset + 8, end)
        add_hole(s, at, offset, found - offset)
        if found == end:
            x.clean = False
            break
        g.damaged = True
        offset = found
    if x.end == SEGMENT_HEADER_BYTES and not x.flags & SEGMENT_REWRITTEN:
        # A segment begins with a mark, in the same write as its head: nothing of this one was ever promised, nor that its
        # head's sequence would come.
        add_hole(s, at, 0, 0)
    if x.flags & SEGMENT_REWRITTEN and x.end_seq > s.log.next_seq and not s.hole_open:
        s.log.next_seq = x.end_seq
        if s.log.msgs == 0:
            s.log.first_seq = x.end_seq
    if x.flags & SEGMENT_REWRITTEN:
        g.end_seq = max(g.end_seq, x.end_seq)
        s.durable = max(s.durable, max(x.end_seq, g.end_seq) - 1)       # compaction waits for it
    g.used = x.end


cdef void scan_all(scan_t* s) noexcept nogil:
    """From nothing, up to the cut."""
    cdef log_t* log = s.log
    cdef uint64_t expected = 0
    cdef uint32_t i
    cdef segment_t* g
    index_clear(log)
    log.first_seq = log.next_seq = s.origin
    log.last_time_ns = 0
    while log.first != NULL:
        g = log.first
        log.first = g.next
        g.next = g.previous = NULL
    log.last = log.cursor = NULL
    log.order_count = 0
    s.holes_count = s.lost_count = 0
    s.hole_open = False
    s.durable = s.first_seq = 0
    s.front = 0
    for i in range(s.count):
        if i > s.cut_at or (i == s.cut_at and s.cut_offset == 0):
            break
        g = s.found[i].segment
        if s.found[i].replaced or (g == NULL and s.found[i].blank):
            if log.first == NULL:
                s.front = i + 1
            continue                    # the numbers that are missing are noticed at the next
        if log.first != NULL and s.found[i].id != expected:
            add_hole(s, i, 0, 0)        # a file is not there
        expected = s.found[i].id + 1
        if g == NULL:
            if log.first == NULL:
                s.front = i + 1
            add_hole(s, i, 0, s.found[i].size)
            continue
        expected = s.found[i].covers + 1
        g.entries = g.live = g.dead = 0
        g.live_bytes = g.counted = g.removals = 0
        if log.first == NULL and s.found[i].first_seq > log.next_seq:
            log.first_seq = log.next_seq = s.found[i].first_seq
        # Not what its head says: should all of its records be missing, others will take their sequences.
        g.end_seq = g.first_seq = log.next_seq
        free(g.deltas)
        g.deltas = NULL
        segments_link(log, g, log.last)
        scan_segment(s, i)
    if s.front < s.count and s.found[s.front].segment != NULL and s.first_seq < s.found[s.front].first_seq and s.first_seq:
        missing_front(s)


cdef void missing_front(scan_t* s) noexcept nogil:
    """The last mark says that there were messages before the first file that there is."""
    cdef hole_t* h
    s.holes = <hole_t*>grown(s.holes, &s.holes_capacity, s.holes_count, sizeof(hole_t))
    memmove(s.holes + 1, s.holes, s.holes_count * sizeof(hole_t))
    s.holes_count += 1
    h = &s.holes[0]
    h.at = s.front
    h.offset = h.bytes = 0
    h.removed = h.head = False
    h.first = s.first_seq
    h.next = s.found[s.front].first_seq


cdef bint find_cut(scan_t* s) noexcept nogil:
    """The first hole whose sequences no mark calls durable: all behind it was never promised. False: none, or it is known."""
    cdef uint32_t i
    cdef hole_t* h
    cdef uint64_t offset
    for i in range(s.holes_count):
        h = &s.holes[i]
        if h.next and (h.next < s.first_seq or (h.next == s.first_seq and not h.head)):
            continue                    # all of it was removed later: its segment was on its way out
        if h.first > s.durable:
            # A segment of which nothing is left goes too: its head names a sequence that will not come.
            offset = h.offset if h.offset > SEGMENT_HEADER_BYTES else 0
            if h.at > s.cut_at or (h.at == s.cut_at and offset >= s.cut_offset):
                return False
            s.cut_at = h.at
            s.cut_offset = offset
            return True
    return False


# ---- after the scan ----

cdef void cut(scan_t* s) noexcept nogil:
    """What stands behind the cut leaves the disk."""
    cdef log_t* log = s.log
    cdef const files_t* f = log.store.files
    cdef char path[PATH_BYTES_MAX]
    cdef found_t* x = &s.found[s.cut_at]
    cdef uint64_t end = x.size
    cdef uint32_t i
    if x.segment != NULL and s.cut_offset:
        while end > s.cut_offset and x.segment.base[end - 1] == 0:
            end -= 1
        log.torn_bytes += end - s.cut_offset
    for i in range(s.cut_at + (s.cut_offset > 0), s.count):
        x = &s.found[i]
        if x.replaced or (x.segment == NULL and x.blank):
            continue
        log.torn_bytes += x.size - SEGMENT_HEADER_BYTES if x.size > SEGMENT_HEADER_BYTES else 0
        segment_path(path, log.directory, x.id, b".seg")
        if x.segment != NULL:
            segment_free(x.segment)
            x.segment = NULL
        x.gone = True
        f.remove(f, path)


cdef bint settle_segment(scan_t* s, uint32_t at, bint last) noexcept nogil:
    """Its file ends where its records do; the last goes on being written, if it is whole. Whether a sync is needed."""
    cdef log_t* log = s.log
    cdef found_t* x = &s.found[at]
    cdef segment_t* g = x.segment
    cdef const files_t* f = log.store.files
    cdef bint open_end = (last and not g.damaged and x.size >= x.capacity and not x.flags & SEGMENT_REWRITTEN
                          and g.used + 2 * SEGMENT_RESERVE < x.capacity)
    cdef bint torn = at == s.cut_at
    # What is cut off has to go, also behind damage: later marks would call it durable.
    cdef bint shorten = not open_end and x.size > g.used and (torn or (x.clean and not g.damaged))
    # From the segment of the last message that is known to be durable on: what this process may have left unsynced.
    cdef bint changed = g.end_seq > s.durable or torn or shorten
    cdef char path[PATH_BYTES_MAX]
    segment_path(path, log.directory, x.id, b".seg")
    if (open_end or changed) and f.open(f, path, False, &g.file):
        g.file = NULL
        g.sealed = True
        g.damaged = True                # it was there a moment ago
    g.submitted = g.written = g.used
    if not x.clean and not torn:
        g.damaged = True                # garbage at its end, where there was something once: left as it is
        open_end = False
    if g.file != NULL and open_end:
        segment_private(g, page_down(g.used))
        if torn:
            memset(g.base + g.used, 0, page_up(g.used) - g.used)
            open_end = f.truncate(g.file, g.used) == 0 and f.allocate(g.file, g.capacity) == 0
    elif g.file != NULL and shorten:
        segment_private(g, page_up(g.used))
        f.truncate(g.file, g.used)
    g.sealed = g.sealed or not open_end
    if g.file != NULL and changed:
        f.sync(g.file)
    if g.sealed:
        segment_shrink(g)
        if g.file != NULL:
            f.close(g.file)
            g.file = NULL
        if g.live_bytes * 2 < g.used - SEGMENT_HEADER_BYTES:
            log.compact_wanted = True
    return changed


cdef void report(scan_t* s) noexcept nogil:
    """Holes and gaps become log.lost; those of messages that are gone anyway do not count."""
    cdef log_t* log = s.log
    cdef hole_t* h
    cdef uint32_t i, k
    cdef range_t x
    for i in range(s.holes_count):
        h = &s.holes[i]
        if s.cut_at < s.count and h.at == s.cut_at and h.first > s.durable:
            continue
        if h.removed or (h.next and h.next <= s.first_seq):
            if h.head and h.next >= s.first_seq:
                log.damaged_bytes += h.bytes
            continue
        log.damaged_bytes += h.bytes
        if h.next == 0:
            h.next = max(log.next_seq, s.durable + 1)
        if h.next > h.first:
            add_lost(s, h.first, h.next - 1)
    if s.durable >= log.next_seq:
        # Durable once, and not there: its file is gone, or ends too early.
        if s.lost_count == 0 or s.lost[s.lost_count - 1].last < s.durable:
            add_lost(s, log.next_seq, s.durable)
        log.next_seq = s.durable + 1
        if log.msgs == 0:
            log.first_seq = log.next_seq
    # In order, as index_lost merges neighbours
    for i in range(1, s.lost_count):
        x = s.lost[i]
        k = i
        while k > 0 and s.lost[k - 1].first > x.first:
            s.lost[k] = s.lost[k - 1]
            k -= 1
        s.lost[k] = x
    for i in range(s.lost_count):
        x = s.lost[i]
        if x.last >= s.first_seq:
            index_lost(log, max(x.first, s.first_seq), x.last)


cdef void drop_front(scan_t* s) noexcept nogil:
    cdef log_t* log = s.log
    cdef uint32_t i = 0
    cdef segment_t* g
    while log.msgs and log.first_seq < s.first_seq:
        g = index_find(log, log.first_seq, &i)
        index_drop(log, g, i, REMOVED_DELETED)
    if log.msgs == 0 and log.first_seq < log.next_seq:
        log.first_seq = log.next_seq


cdef int recover(log_t* log) noexcept nogil:
    cdef scan_t s
    cdef const files_t* f = log.store.files
    cdef char path[PATH_BYTES_MAX]
    cdef uint32_t i, k
    cdef uint32_t last = 0
    cdef bint changed = False
    cdef int answer
    memset(&s, 0, sizeof(s))
    s.log = log
    s.origin = log.first_seq
    answer = f.list(f, log.directory, on_name, &s)
    if answer == 0:
        if s.count:
            qsort(s.found, s.count, sizeof(found_t), compare_found)
        for i in range(s.count):
            answer = load(&s, &s.found[i])
            if answer:
                break
    if answer:
        for i in range(s.count):
            if s.found[i].segment != NULL:
                segment_free(s.found[i].segment)
        scan_free(&s)
        return answer
    for i in range(s.leftovers_count):
        segment_path(path, log.directory, s.leftovers[i], b".tmp")
        f.remove(f, path)
        changed = True
    # Compaction that was interrupted between its rename and its removals
    for i in range(s.count):
        for k in range(i + 1, s.count):
            if s.found[i].segment == NULL or s.found[k].id > s.found[i].covers:
                break
            if s.found[k].segment != NULL:
                segment_free(s.found[k].segment)
                s.found[k].segment = NULL
            s.found[k].replaced = True
            segment_path(path, log.directory, s.found[k].id, b".seg")
            f.remove(f, path)
            changed = True
    s.cut_at = s.count
    scan_all(&s)
    while find_cut(&s):
        # Without what is cut off the marks say less, and an earlier gap may turn out to be the end.
        scan_all(&s)
        changed = True
    if changed and s.cut_at < s.count:
        cut(&s)
    report(&s)
    drop_front(&s)
    for i in range(s.count):
        if s.found[i].segment != NULL:
            last = i
            log.segment_id_next = s.found[i].covers + 1
        elif s.found[i].covers == 0 and not s.found[i].blank and not s.found[i].gone:
            log.damaged_segments += 1
            log.segment_id_next = s.found[i].id + 1
    for i in range(s.count):
        if s.found[i].segment != NULL:
            changed |= settle_segment(&s, i, i == last)
        elif s.found[i].blank:
            segment_path(path, log.directory, s.found[i].id, b".seg")
            f.remove(f, path)
            changed = True
    if changed:
        f.sync_directory(f, log.directory)
    scan_free(&s)
    return 0


cdef void scan_free(scan_t* s) noexcept nogil:
    free(s.found)
    free(s.leftovers)
    free(s.holes)
    free(s.lost)
