# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The log of one stream: append, remove, limits, times. Called by streams and consumers; needs no GIL.

    log_append     limits that refuse, room, the record in its place with its checksum, the index, limits that make room
    log_remove     index, then a REMOVE record with the batch; at the front a mark that says the new first_seq is enough
    log_tick       ages and TTLs from the front of their queues, intervals, compaction

Whatever is removed by a limit is not written down message by message: a record names the message of its subject that it
displaced, marks name the first sequence, and ages and TTLs are in the records.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset, strlen

from shardbroker.hot.bytes cimport sb_digits, sb_unlikely
from shardbroker.hot.memory cimport mem_alloc, mem_zero
from shardbroker.store.batch cimport (
    batch_close, batch_erase, batch_mark, batch_open, batch_pending, batch_removed, batch_retry, batch_roll, batch_room,
    batch_skip, batch_submit, batch_sync, wall_ns)
from shardbroker.store.compact cimport compact_cancel, compact_poke, compact_start
from shardbroker.store.format cimport (
    FLAG_DISPLACED, FLAG_EXPIRES, KIND_MESSAGE, RECORD_BYTES_MAX, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN,
    counted_bytes, padded, record_check, record_displaced, record_t, sb_crc32c)
from shardbroker.store.index cimport (
    expiry_pop, index_add, index_clear, index_counts, index_drop, index_find, index_sweep)
from shardbroker.store.model cimport (
    LOG_BAD_SUBJECT, LOG_FAILED, LOG_MAX_BYTES, LOG_MAX_MSGS, LOG_MAX_MSGS_PER_SUBJECT, LOG_MORE, LOG_NOT_FOUND,
    LOG_NO_SPACE, LOG_OK, LOG_TOO_LARGE, REMOVED_MAX_AGE, REMOVED_MAX_BYTES, REMOVED_MAX_MSGS,
    REMOVED_MAX_PER_SUBJECT, REMOVED_PURGED, REMOVED_TTL, STORAGE_MEMORY, SYNC_ALWAYS, expiry_t, segment_t)
from shardbroker.store.recover cimport recover
from shardbroker.store.read cimport log_pending, seek
from shardbroker.store.segment cimport segment_free, segment_record, segment_seq
from shardbroker.store.subjects cimport subjects_add, subjects_find, subjects_free, subjects_init
from shardbroker.store.writer cimport store_collect, store_wait

cdef enum:
    TICK_REMOVALS_MAX = 20000           # of one log_tick: a few milliseconds
    SUBJECT_BYTES_MAX = 32767
    SEGMENT_BYTES_LEAST = 16384


# ---- life ----

cdef int log_open(store_t* store, const log_options_t* options, log_t** out) noexcept nogil:
    """Reads what is in the directory. LOG_OK, or a negative errno when it cannot be read at all."""
    cdef log_t* log = <log_t*>mem_zero(sizeof(log_t))
    cdef int answer = 0
    log.store = store
    log.storage = options.storage
    log.sync = options.sync
    log.sync_interval_ns = options.sync_interval_ns
    log.segment_bytes_max = options.segment_bytes_max if options.segment_bytes_max else SEGMENT_BYTES_MAX
    log.segment_bytes_max = max(log.segment_bytes_max, <uint64_t>SEGMENT_BYTES_LEAST)
    log.limits = options.limits
    log.first_seq = log.next_seq = options.first_seq if options.first_seq else 1
    log.segment_id_next = 1
    log.ticket = 1
    subjects_init(&log.subjects)
    if options.storage != STORAGE_MEMORY:
        log.directory = <char*>mem_alloc(strlen(options.directory) + 1)
        memcpy(log.directory, options.directory, strlen(options.directory) + 1)
    batch_open(log)
    log.poke = compact_poke
    if log.storage != STORAGE_MEMORY:
        log.recovering = True
        answer = recover(log)
        log.recovering = False
    log.durable_seq = log.synced_seq = log.next_seq - 1
    out[0] = log
    if answer:
        log.state = LOG_FAILED
        log_close(log)
        out[0] = NULL
        return answer
    index_sweep(log)
    if options.first_seq > log.next_seq:
        log_skip(log, options.first_seq)
    # What has expired goes first, so that it pushes nothing else out.
    while expire(log, options.now_ns if options.now_ns else wall_ns()) == LOG_MORE:
        pass
    log_set_limits(log, &options.limits, 0)
    return LOG_OK


cdef void log_close(log_t* log) noexcept nogil:
    cdef segment_t* g
    cdef segment_t* next
    compact_cancel(log)
    if log.state != LOG_FAILED and log.storage != STORAGE_MEMORY:
        # A last mark, so that all of it is known to have been durable.
        settle(log)
        if log.last != NULL and not log.last.sealed and log.state == LOG_OK:
            batch_mark(log)
            settle(log)
        if log.sync != SYNC_ALWAYS and log.sync_wanted:
            batch_sync(log)
    wait_jobs(log)
    g = log.first
    while g != NULL:
        next = g.next
        segment_free(g)
        g = next
    batch_close(log)
    subjects_free(&log.subjects)
    free(log.order)
    free(log.expiries)
    free(log.lost)
    free(log.directory)
    free(log)


cdef void wait_jobs(log_t* log) noexcept nogil:
    while log.busy or log.compact_job != NULL:
        store_wait(log.store, 1000000000)
        store_collect(log.store)


cdef void settle(log_t* log) noexcept nogil:
    """Everything so far on the disk, as far as that goes."""
    while True:
        batch_submit(log)
        wait_jobs(log)
        if log.state != LOG_OK or not batch_pending(log):
            break


# ---- append ----

cdef uint64_t refuse(log_t* log, int code) noexcept nogil:
    log.error = code
    return 0


cdef int state_refuses(log_t* log) noexcept nogil:
    if log.state == LOG_NO_SPACE and wall_ns() >= log.retry_ns:
        batch_retry(log)
    return log.state


cdef int limits_refuse(log_t* log, const char* subject, uint32_t subject_bytes, uint64_t counted) noexcept nogil:
    """Discard new (filestore.go storeRawMsg): a message that replaces one of its subject is let through."""
    cdef uint64_t most = log.limits.max_msgs_per_subject
    cdef uint64_t oldest = 0
    cdef uint32_t id
    cdef uint32_t i = 0
    cdef bint replaces = False
    cdef segment_t* g
    if most:
        id = subjects_find(&log.subjects, subject, subject_bytes)
        if id and log.subjects.items[id].count >= most:
            if log.limits.discard_new_per_subject:
                return LOG_MAX_MSGS_PER_SUBJECT
            replaces = True
            g = index_find(log, log.subjects.items[id].first, &i)
            oldest = index_counts(log, segment_record(g, i))
    if log.limits.max_msgs and log.msgs >= log.limits.max_msgs and not replaces:
        return LOG_MAX_MSGS
    if log.limits.max_bytes and log.bytes + counted > log.limits.max_bytes and (not replaces or oldest < counted):
        return LOG_MAX_BYTES
    return LOG_OK


cdef inline void drop_first(log_t* log, int reason) noexcept nogil:
    cdef uint32_t i = 0
    cdef segment_t* g = index_find(log, log.first_seq, &i)
    index_drop(log, g, i, reason)


cdef void make_room(log_t* log) noexcept nogil:
    """Discard old: from the front, until the limits hold."""
    if log.limits.discard_new:
        return
    while log.limits.max_msgs and log.msgs > log.limits.max_msgs:
        drop_first(log, REMOVED_MAX_MSGS)
    while log.limits.max_bytes and log.bytes > log.limits.max_bytes and log.msgs:
        drop_first(log, REMOVED_MAX_BYTES)


cdef uint64_t log_append(log_t* log, const char* subject, uint32_t subject_bytes, int32_t header_bytes,
                         const char* payload, uint32_t payload_bytes, int64_t time_ns, int64_t ttl_ns) noexcept nogil:
    cdef char sizes[32]
    cdef uint32_t sizes_bytes = 0
    cdef uint64_t need, displaced, seq
    cdef uint64_t most = log.limits.max_msgs_per_subject
    cdef uint32_t id
    cdef uint32_t i = 0
    cdef int code
    cdef bint fresh
    cdef segment_t* g
    cdef record_t* r
    cdef char* at
    if sb_unlikely(log.state != LOG_OK) and state_refuses(log) != LOG_OK:
        return refuse(log, log.state)
    if sb_unlikely(subject_bytes == 0 or subject_bytes > SUBJECT_BYTES_MAX):
        return refuse(log, LOG_BAD_SUBJECT)
    if sb_unlikely(header_bytes > 0 and <uint32_t>header_bytes > payload_bytes):
        return refuse(log, LOG_TOO_LARGE)
    if log.limits.discard_new:
        code = limits_refuse(log, subject, subject_bytes, counted_bytes(
            log.storage == STORAGE_MEMORY, subject_bytes, header_bytes, payload_bytes))
        if code:
            return refuse(log, code)
    if header_bytes >= 0:
        sizes_bytes = <uint32_t>sb_digits(sizes, <uint64_t>header_bytes)
        sizes[sizes_bytes] = c' '
        sizes_bytes += 1
    sizes_bytes += <uint32_t>sb_digits(sizes + sizes_bytes, payload_bytes)
    sizes[sizes_bytes] = c'\r'
    sizes[sizes_bytes + 1] = c'\n'
    sizes_bytes += 2
    need = sizeof(record_t) + 16 + <uint64_t>subject_bytes + sizes_bytes + payload_bytes + 2
    if sb_unlikely(need > RECORD_BYTES_MAX):
        return refuse(log, LOG_TOO_LARGE)
    g = batch_room(log, padded(need), False)
    if sb_unlikely(g == NULL):
        return refuse(log, log.state)
    id = subjects_add(&log.subjects, subject, subject_bytes, &fresh)
    displaced = log.subjects.items[id].first if most and log.subjects.items[id].count >= most else 0
    # The record, from its head to the padding
    seq = log.next_seq
    r = <record_t*>(g.base + g.used)
    r.seq = seq
    r.time_ns = time_ns if time_ns > log.last_time_ns else log.last_time_ns
    r.header_bytes = header_bytes
    r.subject_bytes = <uint16_t>subject_bytes
    r.sizes_bytes = <uint8_t>sizes_bytes
    r.kind = KIND_MESSAGE
    at = <char*>r + sizeof(record_t)
    if displaced:
        r.kind |= FLAG_DISPLACED
        memcpy(at, &displaced, 8)
        at += 8
    if ttl_ns > 0:
        r.kind |= FLAG_EXPIRES
        ttl_ns = r.time_ns + ttl_ns if ttl_ns < <int64_t>0x7FFFFFFFFFFFFFFF - r.time_ns else <int64_t>0x7FFFFFFFFFFFFFFF
        memcpy(at, &ttl_ns, 8)
        at += 8
    memcpy(at, subject, subject_bytes)
    at += subject_bytes
    memcpy(at, sizes, sizes_bytes)
    at += sizes_bytes
    memcpy(at, payload, payload_bytes)
    at += payload_bytes
    at[0] = c'\r'
    at[1] = c'\n'
    at += 2
    memset(at, 0, 8)
    r.bytes = <uint32_t>(at - <char*>r)
    r.crc = sb_crc32c(g.salt, <char*>r + 4, r.bytes - 4)
    g.used += padded(r.bytes)
    index_add(log, g, seq, <uint64_t>(<char*>r - g.base), id)
    # What has to go for it
    if displaced:
        if index_find(log, displaced, &i) != g:
            g.removals += 1
        remove_displaced(log, id, most)
    if log.limits.max_msgs or log.limits.max_bytes:
        make_room(log)
    log.error = LOG_OK
    return seq


cdef void remove_displaced(log_t* log, uint32_t id, uint64_t most) noexcept nogil:
    cdef uint32_t i = 0
    cdef segment_t* g
    while log.subjects.items[id].count > most:
        g = index_find(log, log.subjects.items[id].first, &i)
        index_drop(log, g, i, REMOVED_MAX_PER_SUBJECT)


cdef int log_skip(log_t* log, uint64_t next_seq) noexcept nogil:
    if next_seq > log.next_seq:
        batch_skip(log, next_seq)
    return log.state


# ---- remove ----

cdef void name_displaced(log_t* log, segment_t* g, uint32_t i) noexcept nogil:
    """A removal says as well which message the removed one had pushed out. Nobody looks for damage in what is gone: were the
    place that says so now damaged, the older message would be back without a word."""
    cdef const record_t* r = segment_record(g, i)
    cdef uint32_t k = 0
    cdef uint64_t displaced
    if not record_check(<const char*>r, g.used - (<uint64_t>g.offsets[i] << 3), g.salt):
        return
    displaced = record_displaced(r)[0]
    if displaced >= log.first.first_seq and displaced < r.seq and index_find(log, displaced, &k) == NULL:
        batch_removed(log, displaced)


cdef inline void remove_entry(log_t* log, segment_t* g, uint32_t i, bint erase, int reason) noexcept nogil:
    cdef uint64_t seq = segment_seq(g, i)
    if erase:
        batch_erase(log, g, i)
    if seq == log.first_seq:
        log.mark_wanted = True          # first_seq says it all
    else:
        batch_removed(log, seq)
        if log.storage != STORAGE_MEMORY and segment_record(g, i).kind & FLAG_DISPLACED:
            name_displaced(log, g, i)
    index_drop(log, g, i, reason)


cdef int log_remove(log_t* log, uint64_t seq, bint erase, int reason) noexcept nogil:
    cdef uint32_t i = 0
    cdef segment_t* g = index_find(log, seq, &i)
    if g == NULL:
        return LOG_NOT_FOUND
    remove_entry(log, g, i, erase, reason)
    return LOG_OK


cdef uint64_t purge_all(log_t* log) noexcept nogil:
    cdef uint64_t count = log.msgs
    index_clear(log)
    log.removals_count = 0
    if log.storage == STORAGE_MEMORY:
        if log.last != NULL:
            log.last.sealed = True
    else:
        batch_mark(log)
        if log.last != NULL and log.state == LOG_OK and log.last.used > SEGMENT_BYTES_MIN:
            batch_roll(log)
    index_sweep(log)
    return count


cdef uint64_t log_purge(log_t* log, filter_t* filter, uint64_t before_seq, uint64_t keep) noexcept nogil:
    cdef uint64_t count = 0
    cdef uint64_t most, seq
    cdef uint32_t i = 0
    cdef segment_t* g
    if before_seq == 1:
        return 0                        # up to but not including the first
    if filter != NULL and filter.all:
        filter = NULL
    if filter == NULL and before_seq == 0 and keep == 0:
        return purge_all(log)
    if filter == NULL:
        while log.msgs and (log.first_seq < before_seq if before_seq else log.msgs > keep):
            drop_first(log, REMOVED_PURGED)
            count += 1
        log.mark_wanted |= count > 0
        if before_seq > log.next_seq:
            log_skip(log, before_seq)
        return count
    most = log_pending(log, filter, 0)
    if keep:
        if keep >= most:
            return 0
        most -= keep
    seq = log.first_seq
    while count < most:
        seq = seek(log, seq, filter, &g, &i)
        if seq == 0 or (before_seq and seq >= before_seq):
            break
        if g == NULL:
            continue                    # a long way without a match
        remove_entry(log, g, i, False, REMOVED_PURGED)
        count += 1
        seq += 1
    return count


# ---- limits, times, the turn's end ----

cdef void log_set_limits(log_t* log, const log_limits_t* limits, int64_t now_ns) noexcept nogil:
    """The new limits hold at once, but for ages: log_tick sees to those."""
    cdef uint64_t most = limits.max_msgs_per_subject
    cdef uint64_t before = log.msgs
    cdef uint32_t id
    cdef uint32_t i = 0
    cdef segment_t* g
    log.limits = limits[0]
    if most:
        for id in range(1, log.subjects.items_count):
            while log.subjects.items[id].name != NULL and log.subjects.items[id].count > most:
                g = index_find(log, log.subjects.items[id].first, &i)
                remove_entry(log, g, i, False, REMOVED_MAX_PER_SUBJECT)
    make_room(log)
    # Limits may be wider next time: what has gone stays gone.
    log.mark_wanted |= before > log.msgs or (now_ns != 0 and log.next_seq > 1)


cdef int expire(log_t* log, int64_t now_ns) noexcept nogil:
    """Ages and TTLs, a few milliseconds of them. LOG_MORE: not all."""
    cdef uint32_t count = 0
    cdef uint32_t i = 0
    cdef expiry_t due
    cdef segment_t* g
    while log.limits.max_age_ns and log.msgs and log.first_time_ns <= now_ns - log.limits.max_age_ns:
        if count >= TICK_REMOVALS_MAX:
            return LOG_MORE
        drop_first(log, REMOVED_MAX_AGE)
        count += 1
    while log.expiries_count and log.expiries[0].expires_ns <= now_ns:
        if count >= TICK_REMOVALS_MAX:
            return LOG_MORE
        due = log.expiries[0]
        expiry_pop(log)
        g = index_find(log, due.seq, &i)
        if g != NULL:
            index_drop(log, g, i, REMOVED_TTL)
        count += 1
    return LOG_OK


cdef int log_tick(log_t* log, int64_t now_ns) noexcept nogil:
    if log.state == LOG_NO_SPACE and wall_ns() >= log.retry_ns:
        batch_retry(log)
    if expire(log, now_ns) == LOG_MORE:
        return LOG_MORE
    if log.sync_next_ns and wall_ns() >= log.sync_next_ns:
        batch_sync(log)
    if log.compact_wanted and log.compact_job == NULL and log.state == LOG_OK:
        compact_start(log)
    return LOG_OK


cdef inline int64_t sooner(int64_t a, int64_t b) noexcept nogil:
    return b if a == 0 or b < a else a


cdef int64_t log_deadline(log_t* log) noexcept nogil:
    cdef int64_t next = 0
    if log.limits.max_age_ns and log.msgs:
        next = log.first_time_ns + log.limits.max_age_ns
    if log.expiries_count:
        next = sooner(next, log.expiries[0].expires_ns)
    if log.sync_next_ns:
        next = sooner(next, log.sync_next_ns)
    if log.state == LOG_NO_SPACE:
        next = sooner(next, log.retry_ns)
    if log.compact_wanted and log.compact_job == NULL and log.state == LOG_OK:
        next = sooner(next, 1)
    return next


cdef int log_submit(log_t* log) noexcept nogil:
    return batch_submit(log)


cdef void log_sync(log_t* log) noexcept nogil:
    if log.sync != SYNC_ALWAYS and log.storage != STORAGE_MEMORY:
        batch_sync(log)
