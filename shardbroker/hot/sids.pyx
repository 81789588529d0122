# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The subscriptions of one connection by sid: see sids.pxd. Called by the engine; needs no GIL; no system call."""
from libc.stdint cimport uint32_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset

from shardbroker.hot.bytes cimport sb_hash
from shardbroker.hot.memory cimport mem_resize, mem_zero, slab_alloc
from shardbroker.hot.model cimport connection_t, subscription_t
from shardbroker.hot.state cimport engine_t

cdef enum:
    SIDS_FIRST = 4
    NUMBERED_FIRST = 4
    NUMBER_DIGITS_MAX = 8
    # A number has its place by index while it is at most so far above what the connection has; so the array stays within
    # twice what its subscriptions need, however the client counts.
    NUMBERED_AHEAD = 8
    NO_NUMBER = 0xFFFFFFFF


cdef inline uint32_t sid_number(const char* sid, uint32_t n) noexcept nogil:
    """The sid as a number, if it is written as one writes numbers: the text is as good as the number then."""
    cdef uint32_t value = 0
    cdef uint32_t i
    if n > NUMBER_DIGITS_MAX or n == 0 or (sid[0] == c'0' and n > 1):
        return NO_NUMBER
    for i in range(n):
        if not c'0' <= sid[i] <= c'9':
            return NO_NUMBER
        value = value * 10 + <uint32_t>(sid[i] - c'0')
    return value


cdef inline bint sid_is(subscription_t* sub, const char* sid, uint32_t n) noexcept nogil:
    return sub.sid_bytes == n + 1 and memcmp(sub.sid, sid, n) == 0


cdef inline uint32_t sid_home(connection_t* c, const char* sid, uint32_t n) noexcept nogil:
    return <uint32_t>sb_hash(sid, n, c.account.seed) & (c.sids_capacity - 1)


cdef subscription_t* sid_find(connection_t* c, const char* sid, uint32_t n) noexcept nogil:
    cdef uint32_t i = sid_number(sid, n)
    if i < c.numbered_capacity and c.numbered[i] != NULL:
        return c.numbered[i]
    if c.sids_count == 0:
        return NULL
    i = sid_home(c, sid, n)
    while c.sids[i] != NULL:
        if sid_is(c.sids[i], sid, n):
            return c.sids[i]
        i = (i + 1) & (c.sids_capacity - 1)
    return NULL


cdef void sids_resize(connection_t* c, uint32_t capacity) noexcept nogil:
    cdef subscription_t** old = c.sids
    cdef uint32_t old_capacity = c.sids_capacity
    cdef uint32_t i, j
    c.sids = <subscription_t**>mem_zero(capacity * sizeof(subscription_t*))
    c.sids_capacity = capacity
    for i in range(old_capacity):
        if old[i] != NULL:
            j = sid_home(c, old[i].sid, old[i].sid_bytes - 1)
            while c.sids[j] != NULL:
                j = (j + 1) & (capacity - 1)
            c.sids[j] = old[i]
    free(old)


cdef void sids_place(connection_t* c, subscription_t* sub) noexcept nogil:
    """Into the hash table."""
    cdef uint32_t i
    if c.sids_capacity == 0:
        sids_resize(c, SIDS_FIRST)
    elif c.sids_count * 4 >= c.sids_capacity * 3:
        sids_resize(c, c.sids_capacity * 2)
    i = sid_home(c, sub.sid, sub.sid_bytes - 1)
    while c.sids[i] != NULL:
        i = (i + 1) & (c.sids_capacity - 1)
    c.sids[i] = sub
    c.sids_count += 1


cdef void numbered_grow(connection_t* c, uint32_t number) noexcept nogil:
    """Room for a number: by a quarter, so that a million of them cost ten bytes each at the most."""
    cdef uint32_t capacity = c.numbered_capacity + c.numbered_capacity // 4
    if capacity < NUMBERED_FIRST:
        capacity = NUMBERED_FIRST
    if capacity <= number:
        capacity = number + 1
    c.numbered = <subscription_t**>mem_resize(c.numbered, capacity * sizeof(subscription_t*))
    memset(c.numbered + c.numbered_capacity, 0, (capacity - c.numbered_capacity) * sizeof(subscription_t*))
    c.numbered_capacity = capacity


cdef void numbered_dissolve(connection_t* c) noexcept nogil:
    """What is left of an array that has become mostly empty goes to the hash table."""
    cdef subscription_t** old = c.numbered
    cdef uint32_t capacity = c.numbered_capacity
    cdef uint32_t i
    c.numbered = NULL
    c.numbered_capacity = 0
    c.numbered_count = 0
    for i in range(capacity):
        if old[i] != NULL:
            sids_place(c, old[i])
    free(old)


cdef size_t subscription_bytes(uint32_t sid_bytes) noexcept nogil:
    """Deliveries copy at least four bytes of the sid."""
    return <size_t>(<char*>&(<subscription_t*>NULL).sid[0] - <char*>NULL) + (sid_bytes if sid_bytes > 4 else 4)


cdef subscription_t* sid_add(engine_t* e, connection_t* c, const char* sid, uint32_t n) noexcept nogil:
    """A subscription for a sid that is free."""
    cdef subscription_t* sub = <subscription_t*>slab_alloc(subscription_bytes(n + 1))
    cdef uint32_t number = sid_number(sid, n)
    sub.connection = c
    sub.home = NULL
    sub.delivered = 0
    sub.max = 0
    sub.index = 0
    sub.flags = 0
    sub.sid_bytes = <unsigned short>(n + 1)
    memcpy(sub.sid, sid, n)
    sub.sid[n] = c' '
    c.subscriptions += 1
    if number < c.numbered_capacity or number <= 2 * c.numbered_count + NUMBERED_AHEAD:
        if number >= c.numbered_capacity:
            numbered_grow(c, number)
        c.numbered[number] = sub
        c.numbered_count += 1
    else:
        sids_place(c, sub)
    return sub


cdef void sid_remove(engine_t* e, connection_t* c, subscription_t* sub) noexcept nogil:
    """Take a sid out; entries of the hash table behind it move up."""
    cdef uint32_t mask = c.sids_capacity - 1
    cdef uint32_t i = sid_number(sub.sid, sub.sid_bytes - 1)
    cdef uint32_t j, home
    c.subscriptions -= 1
    if i < c.numbered_capacity and c.numbered[i] == sub:
        c.numbered[i] = NULL
        c.numbered_count -= 1
        if c.numbered_count * 8 < c.numbered_capacity and c.numbered_capacity > 64:
            numbered_dissolve(c)
    else:
        i = sid_home(c, sub.sid, sub.sid_bytes - 1)
        while c.sids[i] != sub:
            i = (i + 1) & mask
        j = i
        while True:
            j = (j + 1) & mask
            if c.sids[j] == NULL:
                break
            home = sid_home(c, c.sids[j].sid, c.sids[j].sid_bytes - 1)
            if ((j - home) & mask) >= ((j - i) & mask):
                c.sids[i] = c.sids[j]
                i = j
        c.sids[i] = NULL
        c.sids_count -= 1
        if c.sids_capacity > 64 and c.sids_count * 8 < c.sids_capacity:
            sids_resize(c, c.sids_capacity // 2)
    if c.subscriptions == 0:
        sids_free(c)


cdef void sids_free(connection_t* c) noexcept nogil:
    """Both tables, which refer to nothing any more."""
    free(c.numbered)
    free(c.sids)
    c.numbered = NULL
    c.sids = NULL
    c.numbered_capacity = 0
    c.numbered_count = 0
    c.sids_capacity = 0
    c.sids_count = 0
