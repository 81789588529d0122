# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The index by subject. Called by the log; needs no GIL, does no I/O.

    slots[hash] -> id -> subject_t {count, first, last} -> posting_t: the other sequences, when there are any

A subject with one message costs its item (40 bytes), its name and a slot; one whose messages follow one another costs a
posting of 40 bytes more, however many they are; any other 4 bytes a message and the slack of a growing array.
"""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset

from shardbroker.hot.bytes cimport sb_hash
from shardbroker.hot.memory cimport mem_alloc, mem_resize, mem_zero
from shardbroker.shm.layout cimport SB_DEBUG
from shardbroker.store.model cimport POOL_MOST, SUBJECT_PARTS, pool_t, subject_part_t, subject_slot_t

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void* p, size_t n, unsigned int flags)

cdef enum:
    PART_FIRST = 8


cdef void subjects_init(subjects_t* s) noexcept nogil:
    memset(s, 0, sizeof(subjects_t))
    if getrandom(&s.seed, 8, 0) != 8:
        s.seed = <uint64_t>s * <uint64_t>0x9E3779B97F4A7C15
    s.items_count = 1


cdef void posting_free(pool_t* pool, posting_t* p) noexcept nogil:
    free(p.entries)
    pool_free(pool, p, sizeof(posting_t))


cdef void subjects_free(subjects_t* s) noexcept nogil:
    cdef uint32_t i
    for i in range(1, s.items_count):
        if s.items[i].name != NULL:
            if s.items[i].posting != NULL:
                posting_free(&s.pool, s.items[i].posting)
            pool_free(&s.pool, s.items[i].name, name_bytes(&s.items[i]) + 2)
    for i in range(<uint32_t>SUBJECT_PARTS):
        free(s.parts[i].slots)
    free(s.items)
    free(s.free_ids)
    pool_close(&s.pool)
    memset(s, 0, sizeof(subjects_t))
    s.items_count = 1


# ---- small pieces: names and postings. A log may be opened in a helper thread, so each has a pool of its own ----

cdef void* pool_alloc(pool_t* pool, size_t n) noexcept nogil:
    cdef size_t size = (n + 7) & ~<size_t>7
    cdef void* p
    cdef char* chunk
    if size > POOL_MOST or SB_DEBUG:
        return mem_alloc(n)
    p = pool.free[size // 8]
    if p != NULL:
        pool.free[size // 8] = (<void**>p)[0]
        return p
    if pool.left < size:
        pool.chunk_bytes = min(pool.chunk_bytes * <uint32_t>2, <uint32_t>65536) if pool.chunk_bytes else 512
        chunk = <char*>mem_alloc(pool.chunk_bytes)
        (<void**>chunk)[0] = pool.chunks
        pool.chunks = chunk
        pool.at = chunk + 8
        pool.left = pool.chunk_bytes - 8
    p = pool.at
    pool.at += size
    pool.left -= <uint32_t>size
    return p


cdef void pool_free(pool_t* pool, void* p, size_t n) noexcept nogil:
    cdef size_t size = (n + 7) & ~<size_t>7
    if size > POOL_MOST or SB_DEBUG:
        free(p)
        return
    (<void**>p)[0] = pool.free[size // 8]
    pool.free[size // 8] = p


cdef void pool_close(pool_t* pool) noexcept nogil:
    cdef void* p = pool.chunks
    cdef void* next
    while p != NULL:
        next = (<void**>p)[0]
        free(p)
        p = next


# ---- names ----

cdef inline subject_part_t* part_of(subjects_t* s, uint64_t hash) noexcept nogil:
    return &s.parts[hash >> 58]


cdef inline uint32_t find_hashed(subjects_t* s, const char* name, uint32_t n, uint64_t hash) noexcept nogil:
    cdef subject_part_t* part = part_of(s, hash)
    cdef uint32_t mask = part.capacity - 1
    cdef uint32_t at = <uint32_t>hash & mask
    cdef subject_t* u
    if part.slots == NULL:
        return 0
    while part.slots[at].id:
        if part.slots[at].hash == <uint32_t>hash:
            u = &s.items[part.slots[at].id]
            if name_bytes(u) == n and memcmp(name_text(u), name, n) == 0:
                return part.slots[at].id
        at = (at + 1) & mask
    return 0


cdef uint32_t subjects_find(subjects_t* s, const char* name, uint32_t n) noexcept nogil:
    return find_hashed(s, name, n, sb_hash(name, n, s.seed))


cdef inline void slot_put(subject_part_t* part, uint32_t hash, uint32_t id) noexcept nogil:
    cdef uint32_t mask = part.capacity - 1
    cdef uint32_t at = hash & mask
    while part.slots[at].id:
        at = (at + 1) & mask
    part.slots[at].hash = hash
    part.slots[at].id = id


cdef void part_resize(subject_part_t* part, uint32_t capacity) noexcept nogil:
    cdef subject_slot_t* old = part.slots
    cdef uint32_t count = part.capacity
    cdef uint32_t i
    part.slots = <subject_slot_t*>mem_zero(capacity * sizeof(subject_slot_t))
    part.capacity = capacity
    for i in range(count):
        if old[i].id:
            slot_put(part, old[i].hash, old[i].id)
    free(old)


cdef uint32_t subjects_add(subjects_t* s, const char* name, uint32_t n, bint* fresh) noexcept nogil:
    cdef uint64_t hash = sb_hash(name, n, s.seed)
    cdef uint32_t id = find_hashed(s, name, n, hash)
    cdef subject_part_t* part
    cdef subject_t* u
    fresh[0] = id == 0
    if id:
        return id
    part = part_of(s, hash)
    if part.count * 4 >= part.capacity * 3:
        part_resize(part, part.capacity * 2 if part.capacity else PART_FIRST)
    if s.free_count:
        s.free_count -= 1
        id = s.free_ids[s.free_count]
    else:
        if s.items_count >= s.items_capacity:
            s.items_capacity = s.items_capacity + s.items_capacity // 2 if s.items_capacity else 8
            s.items = <subject_t*>mem_resize(s.items, s.items_capacity * sizeof(subject_t))
        id = s.items_count
        s.items_count += 1
    u = &s.items[id]
    memset(u, 0, sizeof(subject_t))
    u.hash = <uint32_t>hash
    u.name = <char*>pool_alloc(&s.pool, n + 2)
    (<uint16_t*>u.name)[0] = <uint16_t>n
    memcpy(u.name + 2, name, n)
    slot_put(part, <uint32_t>hash, id)
    part.count += 1
    s.live += 1
    return id


cdef void subjects_drop(subjects_t* s, uint32_t id) noexcept nogil:
    cdef subject_t* u = &s.items[id]
    cdef subject_part_t* part = part_of(s, sb_hash(name_text(u), name_bytes(u), s.seed))
    cdef uint32_t mask = part.capacity - 1
    cdef uint32_t at = u.hash & mask
    cdef uint32_t hole, home
    while part.slots[at].id != id:
        at = (at + 1) & mask
    # Those behind it that would no longer be found move up.
    hole = at
    while True:
        at = (at + 1) & mask
        if part.slots[at].id == 0:
            break
        home = part.slots[at].hash & mask
        if ((at - home) & mask) >= ((at - hole) & mask):
            part.slots[hole] = part.slots[at]
            hole = at
    part.slots[hole].id = 0
    part.count -= 1
    if part.capacity > 64 and part.count * 8 < part.capacity:
        part_resize(part, part.capacity // 2)
    pool_free(&s.pool, u.name, name_bytes(u) + 2)
    u.name = NULL
    if u.posting != NULL:
        posting_free(&s.pool, u.posting)
        u.posting = NULL
    if s.free_count >= s.free_capacity:
        s.free_capacity = s.free_capacity * 2 if s.free_capacity else 16
        s.free_ids = <uint32_t*>mem_resize(s.free_ids, s.free_capacity * sizeof(uint32_t))
    s.free_ids[s.free_count] = id
    s.free_count += 1
    s.live -= 1


# ---- sequences ----

cdef inline uint64_t entry(const posting_t* p, uint32_t i) noexcept nogil:
    if p.entries == NULL:
        return p.base + i
    i += p.start
    if i >= p.capacity:
        i -= p.capacity
    if p.wide:
        return (<uint64_t*>p.entries)[i]
    return p.base + p.entries[i]


cdef inline void entry_set(posting_t* p, uint32_t i, uint64_t seq) noexcept nogil:
    i += p.start
    if i >= p.capacity:
        i -= p.capacity
    if p.wide:
        (<uint64_t*>p.entries)[i] = seq
    else:
        p.entries[i] = <uint32_t>(seq - p.base)


cdef void posting_store(posting_t* p, uint32_t capacity, bint wide) noexcept nogil:
    """The same sequences in an array of this capacity, from its beginning."""
    cdef posting_t n = p[0]
    cdef uint32_t i
    n.capacity = capacity
    n.start = 0
    n.wide = wide
    n.base = 0 if wide else entry(p, 0)
    n.entries = <uint32_t*>mem_alloc(<size_t>capacity * (8 if wide else 4))
    for i in range(p.count):
        entry_set(&n, i, entry(p, i))
    free(p.entries)
    p[0] = n


cdef void subject_push(subjects_t* s, subject_t* u, uint64_t seq) noexcept nogil:
    cdef posting_t* p = u.posting
    u.count += 1
    if u.count == 1:
        u.first = u.last = seq
        return
    if p == NULL:
        p = u.posting = <posting_t*>pool_alloc(&s.pool, sizeof(posting_t))
        memset(p, 0, sizeof(posting_t))
        p.base = u.last
        p.count = 1
    u.last = seq
    if p.entries == NULL:
        if seq == p.base + p.count:
            p.count += 1
            return
        posting_store(p, p.count + p.count // 2 + 3, seq - p.base > <uint64_t>0xFFFFFFFF)
    elif not p.wide and seq - p.base > <uint64_t>0xFFFFFFFF:
        posting_store(p, p.capacity, seq - entry(p, 0) > <uint64_t>0xFFFFFFFF)
    if p.count == p.capacity:
        posting_store(p, p.capacity + p.capacity // 2 + 1, p.wide)
    p.count += 1
    entry_set(p, p.count - 1, seq)


cdef uint32_t posting_rank(posting_t* p, uint64_t seq) noexcept nogil:
    """How many entries are below seq."""
    cdef uint32_t low = 0
    cdef uint32_t high = p.count
    cdef uint32_t middle
    if p.entries == NULL:
        if seq <= p.base:
            return 0
        return p.count if seq - p.base >= p.count else <uint32_t>(seq - p.base)
    while low < high:
        middle = (low + high) >> 1
        if entry(p, middle) < seq:
            low = middle + 1
        else:
            high = middle
    return low


cdef uint32_t subject_rank(subject_t* u, uint64_t seq) noexcept nogil:
    if u.count == 0 or seq <= u.first:
        return 0
    if seq > u.last:
        return u.count
    return posting_rank(u.posting, seq)


cdef uint64_t subject_at(subject_t* u, uint32_t index) noexcept nogil:
    if index == 0:
        return u.first
    return entry(u.posting, index)


cdef bint subject_remove(subjects_t* s, subject_t* u, uint64_t seq) noexcept nogil:
    """Takes out one sequence; from a long posting by moving the shorter side."""
    cdef posting_t* p = u.posting
    cdef uint32_t at, i
    if u.count == 0 or seq < u.first or seq > u.last:
        return False
    if u.count == 1:
        u.count = 0
        return True
    at = posting_rank(p, seq)
    if at >= p.count or entry(p, at) != seq:
        return False
    if p.entries == NULL and 0 < at < p.count - 1:
        posting_store(p, p.count, p.count > <uint64_t>0xFFFFFFF0)
    if at == 0:
        if p.entries == NULL:
            p.base += 1
        else:
            p.start = p.start + 1 if p.start + 1 < p.capacity else 0
    elif p.entries != NULL:
        if at < p.count // 2:
            for i in range(at, 0, -1):
                entry_set(p, i, entry(p, i - 1))
            p.start = p.start + 1 if p.start + 1 < p.capacity else 0
        else:
            for i in range(at, p.count - 1):
                entry_set(p, i, entry(p, i + 1))
    p.count -= 1
    u.count -= 1
    u.first = entry(p, 0)
    u.last = entry(p, p.count - 1)
    if p.count == 1:
        posting_free(&s.pool, p)
        u.posting = NULL
    elif p.entries != NULL and p.capacity > 16 and p.count * 4 < p.capacity:
        posting_store(p, p.count * 2, p.wide)
    return True
