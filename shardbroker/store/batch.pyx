# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Batches: what a turn appended, and its way to the disk. Needs no GIL; blocks only where the policy says so.

    batch_room          the active segment, rolled over when it is full; the file is there, with its blocks, before a record is
    batch_submit        one write job for all that is new: pwrite, fdatasync, then unlink what the batch made empty
    write_done          durable_seq moves; what was submitted meanwhile follows as the next job

While a job is under way the next batch gathers: records are built in their place in the segment, so there are no two buffers
to switch. Segments that became empty are kept until the batch that emptied them is durable: were it torn, their messages
would be wanted again.
"""
from libc.errno cimport EDQUOT, ENOSPC
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset, strlen
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from shardbroker.hot.memory cimport mem_alloc, mem_zero
from shardbroker.store.files cimport file_t, files_t
from shardbroker.store.format cimport (
    FLAG_DISPLACED, KIND_ERASED, KIND_MARK, KIND_REMOVE, SEGMENT_BYTES_MIN, SEGMENT_HEADER_BYTES, SEGMENT_RESERVE,
    mark_t, padded, page_down, page_up, record_displaced, record_t, sb_crc32c, segment_header_t)
from shardbroker.store.index cimport grown, index_empty
from shardbroker.store.model cimport (
    LOG_FAILED, LOG_NO_SPACE, LOG_OK, STORAGE_MEMORY, SYNC_ALWAYS, erase_t, job_t, range_t)
from shardbroker.store.segment cimport (
    PATH_BYTES_MAX, segment_free, segment_header_write, segment_map, segment_new, segment_path, segment_record,
    segment_shrink, segments_link)
from shardbroker.store.writer cimport QUICK_BYTES, store_enqueue

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void* p, size_t n, unsigned int flags)

cdef enum:
    MARK_BYTES = sizeof(record_t) + sizeof(mark_t)
    MAP_STEP_BYTES = 256 << 10          # written, private: from here on it is mapped
    REMOVE_RANGES_MAX = 200             # in one record, so that it fits the reserve

cdef struct piece_t:
    segment_t* segment
    file_t* file
    const char* data
    uint64_t begin
    uint64_t end
    bint created
    bint truncate                       # nothing will follow

cdef struct write_job_t:
    job_t job
    const files_t* files
    const char* directory
    piece_t* pieces
    uint32_t pieces_count
    uint32_t pieces_capacity
    segment_t* drops                    # to be unlinked and freed
    erase_t* erases
    uint32_t erases_count
    uint32_t erases_capacity
    bint sync
    uint64_t last_seq
    uint64_t ticket


cdef int64_t wall_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_REALTIME, &t)
    return <int64_t>t.tv_sec * 1000000000 + t.tv_nsec


cdef inline bint no_space(int answer) noexcept nogil:
    return answer == -ENOSPC or answer == -EDQUOT


# ---- records that are no messages ----

cdef void put_mark(log_t* log, segment_t* g) noexcept nogil:
    cdef record_t* r = <record_t*>(g.base + g.used)
    cdef mark_t* m = <mark_t*>(<char*>r + sizeof(record_t))
    memset(r, 0, MARK_BYTES)
    r.bytes = MARK_BYTES
    r.seq = log.next_seq
    r.time_ns = log.last_time_ns
    r.header_bytes = -1
    r.kind = KIND_MARK
    m.durable_seq = log.synced_seq
    m.first_seq = log.marked_seq = log.first_seq
    m.reserved = log.jump_wanted
    log.jump_wanted = False
    r.crc = sb_crc32c(g.salt, <char*>r + 4, r.bytes - 4)
    g.used += padded(r.bytes)
    if log.mark == NULL:
        log.mark = r


cdef void batch_mark(log_t* log) noexcept nogil:
    cdef segment_t* g
    if log.storage == STORAGE_MEMORY:
        return
    g = batch_room(log, MARK_BYTES, True)
    if g != NULL:
        put_mark(log, g)
    else:
        log.mark_wanted = True


cdef void batch_skip(log_t* log, uint64_t next_seq) noexcept nogil:
    cdef segment_t* g = NULL
    if log.storage != STORAGE_MEMORY:
        g = batch_room(log, MARK_BYTES, True)       # its marks still say the old one
    log.next_seq = next_seq
    if log.msgs == 0:
        log.first_seq = next_seq
    log.jump_wanted = True
    if g != NULL:
        put_mark(log, g)
    else:
        log.mark_wanted = True


cdef void batch_removed(log_t* log, uint64_t seq) noexcept nogil:
    cdef range_t* l
    if log.storage == STORAGE_MEMORY:
        return
    if log.removals_count:
        l = &log.removals[log.removals_count - 1]
        if l.last + 1 == seq:
            l.last = seq
            return
        if l.first == seq + 1:
            l.first = seq
            return
    log.removals = <range_t*>grown(log.removals, &log.removals_capacity, log.removals_count, sizeof(range_t))
    l = &log.removals[log.removals_count]
    l.first = l.last = seq
    log.removals_count += 1


cdef bint put_removals(log_t* log) noexcept nogil:
    """REMOVE records for the ranges that wait. False: there is no room, they go on waiting."""
    cdef uint32_t done = 0
    cdef uint32_t n
    cdef uint64_t bytes
    cdef segment_t* g
    cdef record_t* r
    while done < log.removals_count:
        n = min(log.removals_count - done, <uint32_t>REMOVE_RANGES_MAX)
        bytes = sizeof(record_t) + n * sizeof(range_t)
        g = batch_room(log, bytes, True)
        if g == NULL:
            break
        r = <record_t*>(g.base + g.used)
        memset(r, 0, sizeof(record_t))
        r.bytes = <uint32_t>bytes
        r.seq = log.next_seq
        r.time_ns = log.last_time_ns
        r.header_bytes = -1
        r.kind = KIND_REMOVE
        memcpy(<char*>r + sizeof(record_t), log.removals + done, n * sizeof(range_t))
        r.crc = sb_crc32c(g.salt, <char*>r + 4, r.bytes - 4)
        g.used += padded(bytes)
        g.removals += n
        done += n
    if done < log.removals_count:
        log.removals_count -= done
        memcpy(log.removals, log.removals + done, log.removals_count * sizeof(range_t))
        return False
    log.removals_count = 0
    return True


cdef void batch_erase(log_t* log, segment_t* g, uint32_t i) noexcept nogil:
    """Overwrite the message's record once its removal is durable. Call before it leaves the index."""
    cdef record_t* r = segment_record(g, i)
    cdef erase_t* x
    if log.storage == STORAGE_MEMORY:
        memset(<char*>r + sizeof(record_t), 0, r.bytes - sizeof(record_t))
        return
    if g.busy:
        g.erased = True                 # compaction sees to it, in the file that it makes
        return
    log.erases = <erase_t*>grown(log.erases, &log.erases_capacity, log.erases_count, sizeof(erase_t))
    x = &log.erases[log.erases_count]
    log.erases_count += 1
    x.segment_id = g.id
    x.offset = <uint64_t>g.offsets[i] << 3
    x.bytes = r.bytes
    x.salt = g.salt
    x.seq = r.seq
    x.time_ns = r.time_ns
    x.displaced = record_displaced(r)[0] if r.kind & FLAG_DISPLACED else 0


# ---- segments ----

cdef int create_file(log_t* log, segment_t* g) noexcept nogil:
    """The file of a new segment with all its blocks, or nothing. 0 or a negative errno."""
    cdef const files_t* f = log.store.files
    cdef char path[PATH_BYTES_MAX]
    cdef int answer
    segment_path(path, log.directory, g.id, b".seg")
    answer = f.open(f, path, True, &g.file)
    if answer:
        g.file = NULL
        return answer
    answer = f.allocate(g.file, g.capacity)
    if answer:
        f.close(g.file)
        g.file = NULL
        f.remove(f, path)
    return answer


cdef segment_t* roll(log_t* log, uint64_t need) noexcept nogil:
    cdef segment_t* g
    cdef segment_t* before = log.last
    cdef segment_header_t h
    cdef uint64_t least = page_up(need + SEGMENT_HEADER_BYTES + SEGMENT_RESERVE + 2 * MARK_BYTES)
    cdef uint64_t capacity = 0
    cdef uint32_t i
    cdef int answer = 0
    # As large as all before it together: small streams stay small, large ones have few files.
    for i in range(log.order_count):
        capacity += log.order[i].used
        if capacity > log.segment_bytes_max:
            break
    if log.limits.max_bytes and capacity > log.limits.max_bytes // 4:
        capacity = log.limits.max_bytes // 4
    capacity = page_up(min(max(capacity, <uint64_t>SEGMENT_BYTES_MIN), log.segment_bytes_max))
    capacity = max(capacity, least)
    while True:
        g = segment_new(log.segment_id_next, log.next_seq, capacity)
        if g == NULL:
            answer = -ENOSPC
        elif log.storage != STORAGE_MEMORY:
            answer = create_file(log, g)
            if answer:
                segment_free(g)
        if answer == 0:
            break
        if capacity == least or not no_space(answer):
            # Nothing is lost, and nothing was promised: it is tried again after a while.
            log.state = LOG_NO_SPACE
            log.error_number = -answer
            log.retry_ns = wall_ns() + RETRY_NS
            return NULL
        capacity = max(page_down(capacity // 4), least)
        answer = 0
    log.segment_id_next += 1
    getrandom(&g.salt, 4, 0)
    memset(&h, 0, sizeof(h))
    h.id = h.covers = g.id
    h.first_seq = log.next_seq
    h.capacity = g.capacity
    h.created_ns = wall_ns()
    h.salt = g.salt
    segment_header_write(g.base, &h)
    g.created = log.storage != STORAGE_MEMORY
    if before != NULL and not before.sealed:
        seal(log, before)
    segments_link(log, g, log.last)
    if before != NULL and before.live == 0:
        index_empty(log, before)
    if log.storage != STORAGE_MEMORY:
        put_mark(log, g)
    return g


cdef void seal(log_t* log, segment_t* g) noexcept nogil:
    g.sealed = True
    g.closing = log.storage != STORAGE_MEMORY
    segment_shrink(g)
    if g.live_bytes * 2 < g.used - SEGMENT_HEADER_BYTES:
        log.compact_wanted = True


cdef segment_t* batch_room(log_t* log, uint64_t need, bint control) noexcept nogil:
    cdef segment_t* g = log.last
    if log.mark == NULL:
        need += MARK_BYTES
    if (g == NULL or g.sealed or g.used + need + (0 if control else SEGMENT_RESERVE) > g.capacity
            or (g.entries and log.next_seq - g.first_seq > <uint64_t>0xFFFFFFFE)):
        g = roll(log, need)
    elif log.mark == NULL and log.storage != STORAGE_MEMORY:
        put_mark(log, g)
    return g


cdef bint batch_quiet(log_t* log) noexcept nogil:
    """Whether nothing is under way or gathers that has to do with its files."""
    return (not log.busy and log.compact_job == NULL and log.mark == NULL and log.retired == NULL and log.removals_count == 0
            and log.erases_count == 0 and log.erases_busy == 0 and not log.stuck)


cdef void batch_moved(log_t* log, const char* directory) noexcept nogil:
    """Its directory has another name. Only while it is quiet."""
    cdef size_t n = strlen(directory) + 1
    free(log.directory)
    log.directory = <char*>mem_alloc(n)
    memcpy(log.directory, directory, n)
    if log.write_job != NULL:
        (<write_job_t*>log.write_job).directory = log.directory


cdef void batch_roll(log_t* log) noexcept nogil:
    roll(log, 0)


# ---- jobs ----

cdef int batch_open(log_t* log) noexcept nogil:
    cdef write_job_t* job = <write_job_t*>mem_zero(sizeof(write_job_t))
    job.job.log = log
    job.job.run = write_run
    job.job.done = write_done
    job.files = log.store.files
    job.directory = log.directory
    log.write_job = &job.job
    return 0


cdef void batch_close(log_t* log) noexcept nogil:
    cdef write_job_t* job = <write_job_t*>log.write_job
    free(job.pieces)
    free(job.erases)
    free(job)
    free(log.removals)
    free(log.erases)
    free_retired(&log.retired)


cdef void free_retired(segment_t** list) noexcept nogil:
    cdef segment_t* g = list[0]
    cdef segment_t* next
    while g != NULL:
        next = g.next
        segment_free(g)
        g = next
    list[0] = NULL


cdef void write_run(job_t* base) noexcept nogil:
    """Helper thread."""
    cdef write_job_t* job = <write_job_t*>base
    cdef const files_t* f = job.files
    cdef char path[PATH_BYTES_MAX]
    cdef piece_t* p
    cdef segment_t* g
    cdef uint32_t i
    cdef bint created = False
    cdef int answer = 0
    for i in range(job.pieces_count):
        p = &job.pieces[i]
        created |= p.created
        if p.end > p.begin:
            answer = f.write(p.file, p.data + p.begin, p.end - p.begin, p.begin)
            if answer:
                base.result = answer
                return
        if p.truncate:
            f.truncate(p.file, p.end)   # gives the rest back; were it to fail, nothing depends on it
    if job.sync:
        for i in range(job.pieces_count):
            answer = f.sync(job.pieces[i].file)
            if answer:
                # What the kernel could not write it may have forgotten: a sync that succeeds next proves nothing.
                base.result = -1000 + answer if no_space(answer) else answer
                return
        if created:
            answer = f.sync_directory(f, job.directory)
            if answer:
                base.result = -1000 + answer if no_space(answer) else answer
                return
    for i in range(job.erases_count):
        erase(job, &job.erases[i])
    g = job.drops
    while g != NULL:
        if g.file != NULL:
            f.close(g.file)
            g.file = NULL
        if not g.replaced:
            segment_path(path, job.directory, g.id, b".seg")
            f.remove(f, path)
        g = g.next


cdef void erase(write_job_t* job, erase_t* x) noexcept nogil:
    """Zeros over the body of a record; its head stays, so that the file can still be read through, and what it displaced."""
    cdef const files_t* f = job.files
    cdef char path[PATH_BYTES_MAX]
    cdef file_t* file
    cdef char* blank = <char*>malloc(x.bytes)
    if blank == NULL:
        return
    blank_record(blank, x)
    segment_path(path, job.directory, x.segment_id, b".seg")
    if f.open(f, path, False, &file) == 0:
        f.write(file, blank, x.bytes, x.offset)
        f.sync(file)
        f.close(file)
    free(blank)


cdef void blank_record(char* at, const erase_t* x) noexcept nogil:
    cdef record_t* r = <record_t*>at
    memset(at, 0, x.bytes)
    r.bytes = x.bytes
    r.seq = x.seq
    r.time_ns = x.time_ns
    r.header_bytes = -1
    r.kind = KIND_ERASED
    if x.displaced:
        r.kind = KIND_ERASED | FLAG_DISPLACED
        record_displaced(r)[0] = x.displaced
    r.crc = sb_crc32c(x.salt, at + 4, x.bytes - 4)


cdef void erased_here(log_t* log, const erase_t* x) noexcept nogil:
    """The same bytes, should they still be private memory."""
    cdef uint32_t i
    cdef segment_t* g
    for i in range(log.order_count):
        g = log.order[i]
        if g.id == x.segment_id and x.offset + x.bytes <= g.used and x.salt == g.salt:
            if x.offset >= g.mapped:
                blank_record(g.base + x.offset, x)
            elif x.offset + x.bytes > g.mapped:
                # It straddles: the mapped part is the file already.
                memset(g.base + g.mapped, 0, x.offset + x.bytes - g.mapped)
            return


cdef void piece_written(segment_t* g, bint truncate) noexcept nogil:
    if truncate:
        segment_map(g)
        g.closing = False
        g.file.files.close(g.file)
        g.file = NULL
    elif g.written - g.mapped >= MAP_STEP_BYTES:
        segment_map(g)


cdef void keep_for_next(log_t* log, write_job_t* job) noexcept nogil:
    """What a failed job was to unlink and to overwrite goes with the next."""
    cdef segment_t* g = job.drops
    cdef uint32_t i
    while g != NULL:
        job.drops = g.next
        g.next = log.retired
        log.retired = g
        g = job.drops
    log.erases_busy = 0
    for i in range(job.erases_count):
        log.erases = <erase_t*>grown(log.erases, &log.erases_capacity, log.erases_count, sizeof(erase_t))
        log.erases[log.erases_count] = job.erases[i]
        log.erases_count += 1
    job.erases_count = 0


cdef void failed(log_t* log, int answer) noexcept nogil:
    """A full disk can be tried again, since every byte is still in memory. Nothing else can: after a failed sync the
    kernel may call pages clean that never reached the disk."""
    if no_space(answer):
        log.state = LOG_NO_SPACE
        log.stuck = True
        log.error_number = -answer
        log.retry_ns = wall_ns() + RETRY_NS
    else:
        log.state = LOG_FAILED
        log.error_number = -answer if answer > -1000 else -(answer + 1000)
    if log.on_durable != NULL:
        log.on_durable(log.context, log)


cdef void write_done(job_t* base) noexcept nogil:
    """Home shard."""
    cdef write_job_t* job = <write_job_t*>base
    cdef log_t* log = base.log
    cdef piece_t* p
    cdef uint32_t i
    log.busy = False
    if base.result:
        for i in range(job.pieces_count):
            p = &job.pieces[i]
            if p.end > p.begin:
                p.segment.submitted = p.begin
        job.pieces_count = 0
        keep_for_next(log, job)
        failed(log, base.result)
        return
    for i in range(job.pieces_count):
        p = &job.pieces[i]
        p.segment.written = max(p.segment.written, p.end)
        p.segment.created &= not job.sync
        piece_written(p.segment, p.truncate)
    job.pieces_count = 0
    free_retired(&job.drops)
    for i in range(job.erases_count):
        erased_here(log, &job.erases[i])
    job.erases_count = 0
    if log.stuck:
        log.stuck = False
        log.state = LOG_OK
    log.erases_busy = 0
    if job.sync:
        log.synced_seq = max(log.synced_seq, job.last_seq)
        log.synced_ticket = job.ticket
    if log.sync == SYNC_ALWAYS:
        log.durable_seq = job.last_seq
        log.durable_ticket = job.ticket
        if log.on_durable != NULL:
            log.on_durable(log.context, log)
    if log.compact_job != NULL:
        log.poke(log)
    if log.submit_again or (log.sync != SYNC_ALWAYS and (log.retired != NULL or log.erases_count)):
        log.submit_again = False
        batch_submit(log)


cdef void add_piece(write_job_t* job, segment_t* g, uint64_t end) noexcept nogil:
    """The segment's bytes from what was submitted before to `end`."""
    cdef piece_t* p
    job.pieces = <piece_t*>grown(job.pieces, &job.pieces_capacity, job.pieces_count, sizeof(piece_t))
    p = &job.pieces[job.pieces_count]
    job.pieces_count += 1
    p.segment = g
    p.file = g.file
    p.data = g.base
    p.begin = g.submitted
    p.end = end
    p.created = g.created
    p.truncate = g.closing
    g.submitted = end


cdef void take_extras(log_t* log, write_job_t* job) noexcept nogil:
    """What is to be unlinked and overwritten once the batch is safe."""
    cdef uint32_t i
    job.drops = log.retired
    log.retired = NULL
    for i in range(log.erases_count):
        job.erases = <erase_t*>grown(job.erases, &job.erases_capacity, job.erases_count, sizeof(erase_t))
        job.erases[job.erases_count] = log.erases[i]
        job.erases_count += 1
    log.erases_busy = log.erases_count
    log.erases_count = 0


cdef bint batch_pending(log_t* log) noexcept nogil:
    return (log.mark != NULL or log.removals_count > 0 or log.mark_wanted or log.erases_count > 0 or log.retired != NULL
            or log.stuck or (log.storage == STORAGE_MEMORY and log.durable_seq + 1 != log.next_seq))


cdef bint is_quick(write_job_t* job) noexcept nogil:
    """Whether it is one small write to a file that is there, and its sync."""
    cdef piece_t* p = &job.pieces[0]
    return (job.pieces_count == 1 and job.drops == NULL and job.erases_count == 0 and not p.created and not p.truncate
            and p.end - p.begin <= QUICK_BYTES)


cdef int batch_submit(log_t* log) noexcept nogil:
    cdef write_job_t* job = <write_job_t*>log.write_job
    cdef segment_t* g
    cdef mark_t* m
    cdef bint waiting
    if log.state == LOG_FAILED:
        return log.state
    if not batch_pending(log):
        return log.state
    if log.storage == STORAGE_MEMORY:
        free_retired(&log.retired)
        log.mark_wanted = False
        return now_durable(log)
    if log.busy and log.sync == SYNC_ALWAYS:
        log.submit_again = True
        return log.state
    waiting = log.removals_count > 0 and not put_removals(log)
    if log.mark_wanted or (log.mark != NULL and log.marked_seq != log.first_seq):
        log.mark_wanted = False
        batch_mark(log)
    if log.mark != NULL:
        # Since the mark was made the disk may have gone on.
        m = <mark_t*>(<char*>log.mark + sizeof(record_t))
        g = log.last
        while <char*>log.mark < g.base or <char*>log.mark >= g.base + g.capacity:
            g = g.previous
        if m.durable_seq != log.synced_seq:
            m.durable_seq = log.synced_seq
            log.mark.crc = sb_crc32c(g.salt, <char*>log.mark + 4, log.mark.bytes - 4)
        log.mark = NULL
    g = log.last
    while g != NULL and g.previous != NULL and (g.previous.used > g.previous.submitted or g.previous.closing):
        g = g.previous
    if log.sync != SYNC_ALWAYS:
        return submit_written(log, g)
    while g != NULL:
        if g.used > g.submitted or g.closing:
            add_piece(job, g, g.used)
        g = g.next
    if not waiting:
        take_extras(log, job)
    job.sync = True
    job.last_seq = log.next_seq - 1
    job.ticket = log.ticket - 1 if waiting else log.ticket
    log.ticket += not waiting
    log.busy = True
    job.job.quick = is_quick(job)
    store_enqueue(log.store, &job.job)
    return log.state


cdef int now_durable(log_t* log) noexcept nogil:
    log.durable_seq = log.next_seq - 1
    log.durable_ticket = log.ticket
    log.ticket += 1
    if log.on_durable != NULL:
        log.on_durable(log.context, log)
    return log.state


cdef int submit_written(log_t* log, segment_t* g) noexcept nogil:
    """SYNC_INTERVAL: into the page cache here and now, which survives the death of this process."""
    cdef const files_t* f = log.store.files
    cdef int answer
    while g != NULL:
        if g.used > g.submitted:
            answer = f.write(g.file, g.base + g.submitted, g.used - g.submitted, g.submitted)
            if answer:
                failed(log, answer)
                return log.state
            g.submitted = g.written = g.used
            g.unsynced = True
            log.sync_wanted = True
        if g.closing:
            f.truncate(g.file, g.used)
            g.closing = False
            segment_map(g)              # its file stays open until it is synced
        elif g.written - g.mapped >= MAP_STEP_BYTES:
            segment_map(g)
        g = g.next
    if log.stuck:
        log.stuck = False
        log.state = LOG_OK
    if log.sync_wanted and log.sync_next_ns == 0:
        log.sync_next_ns = wall_ns() + log.sync_interval_ns
    now_durable(log)
    if log.retired != NULL or log.erases_count:
        batch_sync(log)                 # what made them empty has to be safe before they go
    return log.state


cdef void batch_sync(log_t* log) noexcept nogil:
    cdef write_job_t* job = <write_job_t*>log.write_job
    cdef segment_t* g = log.first
    if log.busy or log.state == LOG_FAILED:
        return
    while g != NULL:
        if g.unsynced and g.file != NULL:
            g.unsynced = False
            add_piece(job, g, g.submitted)
            # Only what nothing follows: a record that waits in memory is written by log_submit, perhaps before this runs.
            job.pieces[job.pieces_count - 1].truncate = g.sealed and not g.closing and g.submitted == g.used
        g = g.next
    job.sync = True
    job.last_seq = log.durable_seq
    job.ticket = log.durable_ticket
    log.sync_wanted = False
    log.sync_next_ns = 0
    if log.mark == NULL and log.removals_count == 0 and not log.mark_wanted:
        take_extras(log, job)           # else what they go for may be in the batch that gathers
    log.busy = True
    job.job.quick = False
    store_enqueue(log.store, &job.job)


cdef void batch_retry(log_t* log) noexcept nogil:
    """After LOG_NO_SPACE, when its time has come."""
    if log.stuck:
        log.retry_ns = wall_ns() + RETRY_NS
        if log.sync == SYNC_ALWAYS and log.busy:
            return
        batch_submit(log)
    else:
        log.state = LOG_OK
        batch_submit(log)
