# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Compaction: segments of which less than half is alive are rewritten, and small neighbours become one.

    compact_start   home     chooses a run of neighbours, copies their arrays
    build_run       helper   copies the live records, and what the run says of older segments, into a new segment; writes it
                             beside the old ones as id.tmp and syncs it
    (wait)          home     until the removals that it relied on are durable themselves: were they torn, the messages
                             would be wanted again
    swap_run        helper   renames it over the first of the old, syncs the directory, removes the others
    swap_done       home     takes the new segment into the index; what went meanwhile is dead in it

A REMOVE record, or a displaced message, of a dropped record is kept as long as the segment of the message it names still
has dead records: without it that message would be back after a restart. A crash leaves the old files, or the new one with
`covers` naming those that it replaces.
"""
from libc.errno cimport EIO
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from shardbroker.hot.memory cimport mem_alloc, mem_resize, mem_zero
from shardbroker.store.batch cimport batch_erase, batch_sync, wall_ns
from shardbroker.store.files cimport file_t, files_t
from shardbroker.store.format cimport (
    FLAG_DISPLACED, KIND_MASK, KIND_MESSAGE, KIND_REMOVE, SEGMENT_BYTES_MIN, SEGMENT_HEADER_BYTES, SEGMENT_REWRITTEN,
    padded, record_check, record_displaced, record_t, sb_crc32c, segment_header_t)
from shardbroker.store.index cimport grown, index_check, index_empty, index_sweep
from shardbroker.store.model cimport LOG_FAILED, STORAGE_MEMORY, SYNC_ALWAYS, job_t, range_t, segment_t
from shardbroker.store.segment cimport (
    PATH_BYTES_MAX, segment_add, segment_free, segment_header_write, segment_index, segment_map, segment_new,
    segment_path, segments_link, segments_unlink)
from shardbroker.store.writer cimport store_enqueue

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void* p, size_t n, unsigned int flags)

cdef enum:
    RUN_SEGMENTS_MAX = 64
    RUN_RANGES = 200                    # in one REMOVE record

cdef struct part_t:
    # A segment of the run as the helper sees it: what does not change while it works.
    segment_t* segment                  # home shard only
    const char* base
    uint64_t used
    uint64_t first_seq
    uint32_t salt
    uint32_t entries
    uint32_t* offsets                   # copies
    uint32_t* deltas                    # NULL: none

cdef struct compact_job_t:
    job_t job
    const files_t* files                # NULL: memory storage
    const char* directory
    part_t parts[RUN_SEGMENTS_MAX]
    uint32_t parts_count
    range_t* older                      # sequences in older segments with dead records
    uint32_t older_count
    range_t* kept                       # removals of those, to be said again
    uint32_t kept_count
    uint32_t kept_capacity
    uint64_t first_seq
    uint64_t end_seq
    uint64_t ticket                     # must be durable before the old files go
    bint built
    uint32_t damaged                    # part in which a checksum failed, one-based
    # The new segment and its messages
    segment_t* made
    uint64_t* seqs
    uint32_t* offsets
    uint32_t count
    uint32_t capacity


cdef inline bint worn(const segment_t* g) noexcept nogil:
    return g.live_bytes * 2 < g.used - SEGMENT_HEADER_BYTES


cdef bint usable(log_t* log, const segment_t* g) noexcept nogil:
    return (g.sealed and not g.damaged and not g.busy and not g.closing
            and (log.storage == STORAGE_MEMORY or (g.written == g.used and not g.unsynced)))


cdef void compact_start(log_t* log) noexcept nogil:
    cdef segment_t* g = log.first
    cdef compact_job_t* c
    cdef part_t* p
    cdef uint64_t live
    if log.erases_count or log.erases_busy:
        return                          # they name records by their place
    log.compact_wanted = False
    while g != NULL and not (worn(g) and usable(log, g)):
        g = g.next
    if g == NULL:
        return
    while g.previous != NULL and usable(log, g.previous) and g.previous.live_bytes < SEGMENT_BYTES_MIN // 4:
        g = g.previous
    c = <compact_job_t*>mem_zero(sizeof(compact_job_t))
    c.job.log = log
    c.job.run = build_run
    c.job.done = build_done
    if log.storage != STORAGE_MEMORY:
        c.files = log.store.files
        c.directory = log.directory
    c.first_seq = g.first_seq
    # The batch that gathers holds removals that are believed here, if it holds anything.
    c.ticket = log.ticket if unsaid(log) else log.ticket - 1
    find_older(log, c, g)
    live = 0
    while (g != NULL and usable(log, g) and c.parts_count < RUN_SEGMENTS_MAX
            and (worn(g) or g.live_bytes < SEGMENT_BYTES_MIN // 4)
            and (c.parts_count == 0 or live + g.live_bytes <= log.segment_bytes_max)
            and g.end_seq - c.first_seq < <uint64_t>0xFFFFFFFE):
        live += g.live_bytes
        p = &c.parts[c.parts_count]
        c.parts_count += 1
        p.segment = g
        p.base = g.base
        p.used = g.used
        p.first_seq = g.first_seq
        p.salt = g.salt
        p.entries = g.entries
        p.offsets = <uint32_t*>mem_alloc(<size_t>g.entries * 4 + 4)
        memcpy(p.offsets, g.offsets, <size_t>g.entries * 4)
        if g.deltas != NULL:
            p.deltas = <uint32_t*>mem_alloc(<size_t>g.entries * 4 + 4)
            memcpy(p.deltas, g.deltas, <size_t>g.entries * 4)
        g.busy = True
        g.erased = False
        g = g.next
        # Sequences that were skipped behind it count as its own.
        c.end_seq = g.first_seq if g != NULL else log.next_seq
    log.compact_job = &c.job
    store_enqueue(log.store, &c.job)


cdef void find_older(log_t* log, compact_job_t* c, segment_t* until) noexcept nogil:
    cdef segment_t* g = log.first
    cdef uint32_t capacity = 0
    while g != until:
        if g.dead or g.damaged:
            c.older = <range_t*>grown(c.older, &capacity, c.older_count, sizeof(range_t))
            c.older[c.older_count].first = g.first_seq
            c.older[c.older_count].last = g.end_seq - 1
            if g.damaged:
                # What it has lost it does not know of; without the removal that would be reported again, as missing.
                c.older[c.older_count].first = g.previous.end_seq if g.previous != NULL else 0
                c.older[c.older_count].last = g.next.first_seq
            c.older_count += 1
        g = g.next


# ---- helper ----

cdef bint matters(compact_job_t* c, uint64_t first, uint64_t last) noexcept nogil:
    """Whether a removal names messages that an older segment may still hold."""
    cdef uint32_t i
    for i in range(c.older_count):
        if first <= c.older[i].last and last >= c.older[i].first:
            return True
    return False


cdef void keep_removal(compact_job_t* c, uint64_t first, uint64_t last) noexcept nogil:
    if matters(c, first, last):
        c.kept = <range_t*>grown(c.kept, &c.kept_capacity, c.kept_count, sizeof(range_t))
        c.kept[c.kept_count].first = first
        c.kept[c.kept_count].last = last
        c.kept_count += 1


cdef bint gather_removals(compact_job_t* c, part_t* p) noexcept nogil:
    """From REMOVE records and from the dead; the living take theirs along. False: one cannot be read."""
    cdef uint32_t i = 0
    cdef uint64_t offset = SEGMENT_HEADER_BYTES
    cdef const record_t* r
    cdef const range_t* ranges
    cdef uint32_t k
    while offset < p.used:
        r = <const record_t*>(p.base + offset)
        if not record_check(<const char*>r, p.used - offset, p.salt):
            return False
        if (r.kind & KIND_MASK) == KIND_REMOVE:
            ranges = <const range_t*>(<const char*>r + sizeof(record_t))
            for k in range(<uint32_t>((r.bytes - sizeof(record_t)) // sizeof(range_t))):
                keep_removal(c, ranges[k].first, ranges[k].last)
        elif r.kind & FLAG_DISPLACED:
            while i < p.entries and <uint64_t>p.offsets[i] << 3 < offset:
                i += 1
            if i == p.entries or <uint64_t>p.offsets[i] << 3 != offset:
                keep_removal(c, record_displaced(r)[0], record_displaced(r)[0])
        offset += padded(r.bytes)
    return True


cdef uint64_t live_bytes(const part_t* p) noexcept nogil:
    cdef uint64_t total = 0
    cdef uint32_t i
    for i in range(p.entries):
        if p.offsets[i]:
            total += padded((<const record_t*>(p.base + (<uint64_t>p.offsets[i] << 3))).bytes)
    return total


cdef void put_kept(compact_job_t* c, segment_t* g) noexcept nogil:
    cdef uint32_t done = 0
    cdef uint32_t n
    cdef record_t* r
    while done < c.kept_count:
        n = min(c.kept_count - done, <uint32_t>RUN_RANGES)
        r = <record_t*>(g.base + g.used)
        memset(r, 0, sizeof(record_t))
        r.bytes = <uint32_t>(sizeof(record_t) + n * sizeof(range_t))
        r.seq = c.first_seq
        r.header_bytes = -1
        r.kind = KIND_REMOVE
        memcpy(<char*>r + sizeof(record_t), c.kept + done, n * sizeof(range_t))
        r.crc = sb_crc32c(g.salt, <char*>r + 4, r.bytes - 4)
        g.used += padded(r.bytes)
        g.removals += n
        done += n


cdef bint copy_part(compact_job_t* c, segment_t* g, part_t* p) noexcept nogil:
    cdef const record_t* r
    cdef record_t* copy
    cdef uint64_t offset, seq
    cdef uint32_t i
    for i in range(p.entries):
        offset = <uint64_t>p.offsets[i] << 3
        if offset == 0:
            continue
        r = <const record_t*>(p.base + offset)
        seq = p.first_seq + (p.deltas[i] if p.deltas != NULL else i)
        if (not record_check(<const char*>r, p.used - offset, p.salt) or r.seq != seq
                or (r.kind & KIND_MASK) != KIND_MESSAGE):
            return False
        copy = <record_t*>(g.base + g.used)
        memcpy(copy, r, r.bytes)
        copy.crc = sb_crc32c(g.salt, <char*>copy + 4, copy.bytes - 4)
        if c.count == c.capacity:
            c.capacity = c.capacity * 2 + 64
            c.seqs = <uint64_t*>mem_resize(c.seqs, <size_t>c.capacity * 8)
            c.offsets = <uint32_t*>mem_resize(c.offsets, <size_t>c.capacity * 4)
        c.seqs[c.count] = seq
        c.offsets[c.count] = <uint32_t>(g.used >> 3)
        c.count += 1
        g.used += padded(copy.bytes)
        if copy.kind & FLAG_DISPLACED and matters(c, record_displaced(copy)[0], record_displaced(copy)[0]):
            g.removals += 1
    return True


cdef void build_run(job_t* base) noexcept nogil:
    """Helper thread."""
    cdef compact_job_t* c = <compact_job_t*>base
    cdef segment_header_t h
    cdef segment_t* g
    cdef uint64_t bytes = SEGMENT_HEADER_BYTES
    cdef uint32_t i
    for i in range(c.parts_count):
        if c.files != NULL and not gather_removals(c, &c.parts[i]):
            c.damaged = i + 1
            base.result = -EIO
            return
        bytes += live_bytes(&c.parts[i])
    bytes += <uint64_t>(c.kept_count + RUN_RANGES) * sizeof(range_t) + (c.kept_count // RUN_RANGES + 1) * sizeof(record_t)
    g = segment_new(c.parts[0].segment.id, c.first_seq, bytes)
    if g == NULL:
        base.result = -EIO
        return
    c.made = g
    getrandom(&g.salt, 4, 0)
    memset(&h, 0, sizeof(h))
    h.flags = SEGMENT_REWRITTEN
    h.id = g.id
    h.covers = g.covers = c.parts[c.parts_count - 1].segment.covers
    h.first_seq = c.first_seq
    h.end_seq = c.end_seq
    h.created_ns = wall_ns()
    h.salt = g.salt
    put_kept(c, g)
    for i in range(c.parts_count):
        if not copy_part(c, g, &c.parts[i]):
            c.damaged = i + 1
            base.result = -EIO
            return
    h.capacity = g.used
    segment_header_write(g.base, &h)
    g.sealed = True
    if c.files != NULL:
        base.result = write_beside(c, g)


cdef int write_beside(compact_job_t* c, segment_t* g) noexcept nogil:
    cdef const files_t* f = c.files
    cdef char path[PATH_BYTES_MAX]
    cdef file_t* file
    cdef int answer
    segment_path(path, c.directory, g.id, b".tmp")
    answer = f.open(f, path, True, &file)
    if answer:
        return answer
    answer = f.truncate(file, 0)
    if answer == 0:
        answer = f.allocate(file, g.used)
    if answer == 0:
        answer = f.write(file, g.base, g.used, 0)
    if answer == 0:
        answer = f.sync(file)
    if answer:
        f.close(file)
        f.remove(f, path)
        return answer
    g.file = file
    g.submitted = g.written = g.used
    return 0


cdef void swap_run(job_t* base) noexcept nogil:
    """Helper thread."""
    cdef compact_job_t* c = <compact_job_t*>base
    cdef const files_t* f = c.files
    cdef char source[PATH_BYTES_MAX]
    cdef char target[PATH_BYTES_MAX]
    cdef uint32_t i
    segment_path(source, c.directory, c.made.id, b".tmp")
    segment_path(target, c.directory, c.made.id, b".seg")
    base.result = f.rename(f, source, target)
    if base.result == 0:
        base.result = f.sync_directory(f, c.directory)
    if base.result:
        return
    for i in range(1, c.parts_count):
        segment_path(target, c.directory, c.parts[i].segment.id, b".seg")
        f.remove(f, target)


# ---- home shard ----

cdef void build_done(job_t* base) noexcept nogil:
    cdef compact_job_t* c = <compact_job_t*>base
    cdef log_t* log = base.log
    if base.result or log.closing:
        give_up(log, c)
        return
    c.built = True
    if c.files == NULL:
        swap_done(base)
    else:
        compact_poke(log)


cdef void compact_poke(log_t* log) noexcept nogil:
    cdef compact_job_t* c = <compact_job_t*>log.compact_job
    if c == NULL or not c.built or c.job.run == swap_run:
        return
    if log.synced_ticket < c.ticket:
        if log.sync != SYNC_ALWAYS and log.durable_ticket >= c.ticket:
            batch_sync(log)
        return
    c.job.run = swap_run
    c.job.done = swap_done
    store_enqueue(log.store, &c.job)


cdef bint unsaid(log_t* log) noexcept nogil:
    return log.mark != NULL or log.removals_count > 0 or log.mark_wanted


cdef void swap_done(job_t* base) noexcept nogil:
    cdef compact_job_t* c = <compact_job_t*>base
    cdef log_t* log = base.log
    cdef segment_t* g = c.made
    cdef segment_t* old
    cdef uint32_t i
    cdef uint32_t k = 0
    cdef int64_t at
    cdef bint erased = False
    if base.result:
        # The rename may have happened or not, so no file of this name may be written any more.
        log.error_number = -base.result
        log.state = LOG_FAILED
        give_up(log, c)
        if log.on_durable != NULL:
            log.on_durable(log.context, log)
        return
    for i in range(c.count):
        while c.seqs[i] >= c.parts[k].segment.end_seq and k + 1 < c.parts_count:
            k += 1
        old = c.parts[k].segment
        at = segment_index(old, c.seqs[i])
        if at >= 0 and old.offsets[at]:
            segment_add(g, c.seqs[i], <uint64_t>c.offsets[i] << 3, old.ids[at])
            g.live += 1
        else:
            segment_add(g, c.seqs[i], 0, 0)
            g.dead += 1
    for i in range(c.parts_count):
        old = c.parts[i].segment
        g.live_bytes += old.live_bytes
        g.counted += old.counted
        erased |= old.erased
    if g.entries == 0:
        g.first_seq = c.first_seq
    if c.end_seq > g.end_seq:
        g.end_seq = c.end_seq
    segments_link(log, g, c.parts[c.parts_count - 1].segment)
    for i in range(c.parts_count):
        old = c.parts[i].segment
        segments_unlink(log, old)
        old.replaced = True             # its memory stays until the turn's end: views
        old.next = log.retired
        log.retired = old
    if g.file != NULL:
        segment_map(g)
        g.file.files.close(g.file)
        g.file = NULL
    if erased:
        erase_dead(log, c, g)
    log.compact_job = NULL
    log.compact_wanted = True           # there may be more
    compact_free(c)
    if g.live == 0:
        index_empty(log, g)
    index_sweep(log)


cdef void erase_dead(log_t* log, compact_job_t* c, segment_t* g) noexcept nogil:
    """Messages that were removed with their bytes while they were being copied."""
    cdef uint32_t i
    for i in range(c.count):
        if g.offsets[i] == 0:
            g.offsets[i] = c.offsets[i]
            batch_erase(log, g, i)
            g.offsets[i] = 0


cdef void give_up(log_t* log, compact_job_t* c) noexcept nogil:
    cdef char path[PATH_BYTES_MAX]
    cdef segment_t* g
    cdef uint32_t i, k
    for i in range(c.parts_count):
        g = c.parts[i].segment
        g.busy = False
        if c.damaged == i + 1:
            index_check(log, g)
        if g.erased:
            for k in range(min(g.entries, c.parts[i].entries)):
                if g.offsets[k] == 0 and c.parts[i].offsets[k]:
                    g.offsets[k] = c.parts[i].offsets[k]
                    batch_erase(log, g, k)
                    g.offsets[k] = 0
            g.erased = False
    if c.made != NULL:
        if c.files != NULL and c.made.file != NULL and c.job.run != swap_run:
            segment_path(path, c.directory, c.made.id, b".tmp")
            c.files.remove(c.files, path)
        segment_free(c.made)
    log.compact_job = NULL
    compact_free(c)
    index_sweep(log)


cdef void compact_free(compact_job_t* c) noexcept nogil:
    cdef uint32_t i
    for i in range(c.parts_count):
        free(c.parts[i].offsets)
        free(c.parts[i].deltas)
    free(c.older)
    free(c.kept)
    free(c.seqs)
    free(c.offsets)
    free(c)


cdef void compact_cancel(log_t* log) noexcept nogil:
    cdef compact_job_t* c = <compact_job_t*>log.compact_job
    log.closing = True
    if c != NULL and c.built and c.job.run != swap_run:
        give_up(log, c)
