# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Watches: see watch.pxd. Needs no GIL; no system call.

A pattern may concern any of them. They are not compared with it one by one, as it may be one of ten thousand that a client
subscribes to: everybody is told in the hook, and never more than LOOK_NS a watch, which is 1 % of the time.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy

from shardbroker.hot.bytes cimport SB_NEVER, sb_hash
from shardbroker.hot.memory cimport mem_alloc, mem_zero
from shardbroker.shm.directory cimport directory_add, directory_remove, directory_watched

cdef enum:
    BUCKETS_MIN = 64
    LOOK_NS = 20000                     # a watch that is told costs about 200 ns: one look at the interest in its subject


cdef uint64_t hook(engine_t* e, void* context) noexcept nogil:
    """Tell everybody, if that is wanted and not too soon."""
    cdef watch_t* w
    cdef uint32_t i
    if not e.watches_look:
        return SB_NEVER
    if e.now_ns < e.watches_next_ns:
        return e.watches_next_ns
    e.watches_look = False
    e.watches_next_ns = e.now_ns + <uint64_t>e.watches_count * LOOK_NS
    for i in range(e.watches_buckets):
        w = e.watches[i]
        while w != NULL:
            w.call(w.context)
            w = w.next
    return SB_NEVER


cdef void grow(engine_t* e) noexcept nogil:
    cdef uint32_t buckets = e.watches_buckets * 2 if e.watches_buckets else BUCKETS_MIN
    cdef watch_t** made = <watch_t**>mem_zero(buckets * sizeof(watch_t*))
    cdef watch_t* w
    cdef watch_t** at
    cdef uint32_t i
    for i in range(e.watches_buckets):
        while e.watches[i] != NULL:
            w = e.watches[i]
            e.watches[i] = w.next
            at = &made[w.hash & (buckets - 1)]
            w.next = at[0]
            at[0] = w
    free(e.watches)
    e.watches = made
    e.watches_buckets = buckets


cdef inline bint same(const watch_t* w, account_t* a, uint64_t hash, const char* subject, uint32_t n) noexcept nogil:
    return w.hash == hash and w.account == a and w.subject_bytes == n and memcmp(w.subject, subject, n) == 0


cdef watch_t* watch_add(engine_t* e, account_t* a, const char* subject, uint32_t n, watch_call_t call,
                        void* context) noexcept nogil:
    """NULL when other shards cannot be asked to tell: there is no room in the directory. Look at the interest afterwards."""
    cdef watch_t* w
    cdef watch_t** at
    cdef uint64_t hash = sb_hash(subject, n, a.seed)
    if e.shards > 1:
        directory_watched(&e.directory)
        if directory_add(&e.directory, watch_key(hash), e.shard) < 0:
            return NULL
    if not e.watches_hooked:
        e.watches_hooked = True
        e.hooks[e.hooks_count].function = hook
        e.hooks[e.hooks_count].context = NULL
        e.hooks_count += 1
    if e.watches_count >= e.watches_buckets:
        grow(e)
    w = <watch_t*>mem_alloc(sizeof(watch_t) + n)
    w.account = a
    w.hash = hash
    w.call = call
    w.context = context
    w.subject_bytes = n
    memcpy(w.subject, subject, n)
    at = &e.watches[hash & (e.watches_buckets - 1)]
    w.next = at[0]
    at[0] = w
    e.watches_count += 1
    return w


cdef void watch_remove(engine_t* e, watch_t* w) noexcept nogil:
    cdef watch_t** at = &e.watches[w.hash & (e.watches_buckets - 1)]
    cdef watch_t** own = NULL
    cdef bint others = False
    while at[0] != NULL:
        if at[0] == w:
            own = at
        elif at[0].hash == w.hash:
            others = True               # the directory knows no more than the hash
        at = &at[0].next
    own[0] = w.next
    if not others and e.shards > 1:
        directory_remove(&e.directory, watch_key(w.hash), e.shard)
    e.watches_count -= 1
    free(w)


cdef void watch_changed(engine_t* e, account_t* a, bint pattern, const char* subject, uint32_t n) noexcept nogil:
    cdef watch_t* w
    cdef uint64_t hash
    if e.watches_count == 0:
        return
    if pattern:
        watch_all(e)
        return
    hash = sb_hash(subject, n, a.seed)
    w = e.watches[hash & (e.watches_buckets - 1)]
    while w != NULL:
        if same(w, a, hash, subject, n):
            w.call(w.context)
        w = w.next


cdef void watch_all(engine_t* e) noexcept nogil:
    if e.watches_count:
        e.watches_look = True
        e.hooks_at_ns = 0


cdef void watches_free(engine_t* e) noexcept nogil:
    cdef watch_t* w
    cdef uint32_t i
    for i in range(e.watches_buckets):
        while e.watches[i] != NULL:
            w = e.watches[i]
            e.watches[i] = w.next
            free(w)
    free(e.watches)
    e.watches = NULL
    e.watches_buckets = e.watches_count = 0
