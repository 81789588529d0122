# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Accounts by name and by id. Called by the engine when a connection or a ring names one; needs no GIL; no system call.

An account's id is a keyed hash of its name, so that all shards agree on it without a word, whoever meets the account first
and however often shards are replaced; $G is 0. The key is drawn once per broker: nobody outside can aim at another's id. An
account stays known until the shard ends: connections, routes and remote interest refer to it.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy

from shardbroker.hot.bytes cimport sb_hash
from shardbroker.hot.memory cimport mem_alloc, mem_resize, mem_zero
from shardbroker.hot.model cimport ROUTE_SETS, ROUTE_SETS_FIRST, account_t
from shardbroker.hot.state cimport engine_t
from shardbroker.hot.sublist cimport account_free, account_init
from shardbroker.hot.transform cimport mappings_free


cdef inline uint64_t id_of(engine_t* e, const char* name, uint32_t n) noexcept nogil:
    if n == 2 and memcmp(name, b"$G", 2) == 0:
        return 0
    return sb_hash(name, n, e.header.fingerprint_key[1])


cdef void place(engine_t* e, account_t* a) noexcept nogil:
    cdef uint32_t i = <uint32_t>a.id & (e.accounts_slots - 1)
    while e.accounts_by_id[i] != NULL:
        i = (i + 1) & (e.accounts_slots - 1)
    e.accounts_by_id[i] = a


cdef account_t* account_of_id(engine_t* e, uint64_t id) noexcept nogil:
    cdef uint32_t i = <uint32_t>id & (e.accounts_slots - 1)
    cdef account_t* a
    while True:
        a = e.accounts_by_id[i]
        if a == NULL or a.id == id:
            return a
        i = (i + 1) & (e.accounts_slots - 1)


cdef account_t* account_told(engine_t* e, uint64_t id) noexcept nogil:
    """NULL: there are too many."""
    cdef account_t* a = account_of_id(e, id)
    cdef uint32_t i
    if a != NULL or e.accounts_count == ACCOUNTS_MAX:
        return a
    a = <account_t*>mem_alloc(sizeof(account_t))
    # Of equal subjects in two accounts neither hash nor fingerprint is equal.
    account_init(a, id, e.header.fingerprint_key[0] if id == 0 else sb_hash(<char*>&id, 8, e.header.fingerprint_key[0]),
                 ROUTE_SETS if id == 0 else ROUTE_SETS_FIRST)
    if e.accounts_count == e.accounts_capacity:
        e.accounts_capacity = e.accounts_capacity * 2 if e.accounts_capacity else 4
        e.accounts = <account_t**>mem_resize(e.accounts, e.accounts_capacity * sizeof(account_t*))
    e.accounts[e.accounts_count] = a
    e.accounts_count += 1
    if 2 * e.accounts_count > e.accounts_slots:
        free(e.accounts_by_id)
        e.accounts_slots = 4 * e.accounts_count
        while e.accounts_slots & (e.accounts_slots - 1):
            e.accounts_slots += e.accounts_slots & (~e.accounts_slots + 1)
        e.accounts_by_id = <account_t**>mem_zero(e.accounts_slots * sizeof(account_t*))
        for i in range(e.accounts_count):
            place(e, e.accounts[i])
    else:
        place(e, a)
    return a


cdef account_t* account_known(engine_t* e, const char* name, uint32_t n) noexcept nogil:
    """The account of this name, or NULL: nobody here has been in it."""
    cdef account_t* a = account_of_id(e, id_of(e, name, n))
    return a if a != NULL and a.name_bytes == n and memcmp(a.name, name, n) == 0 else NULL


cdef account_t* account_named(engine_t* e, const char* name, uint32_t n) noexcept nogil:
    """NULL: there are too many, or (once in 2^64) its id is another's."""
    cdef account_t* a = account_told(e, id_of(e, name, n))
    if a == NULL:
        return NULL
    if a.name == NULL:
        a.name = <char*>mem_alloc(n + 1)
        memcpy(a.name, name, n)
        a.name_bytes = n
    return a if a.name_bytes == n and memcmp(a.name, name, n) == 0 else NULL


cdef void accounts_init(engine_t* e) noexcept nogil:
    e.accounts_slots = 4
    e.accounts_by_id = <account_t**>mem_zero(e.accounts_slots * sizeof(account_t*))
    e.account = account_named(e, b"$G", 2)


cdef void accounts_free(engine_t* e) noexcept nogil:
    """After every subscription is gone and remote interest is forgotten."""
    cdef uint32_t i
    for i in range(e.accounts_count):
        mappings_free(e.accounts[i])
        account_free(e.accounts[i])
        free(e.accounts[i])
    free(e.accounts)
    free(e.accounts_by_id)
