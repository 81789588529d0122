"""The accounts that a shard knows: each is a subject space of its own.

    account_named      the account of this name, made when it is new      (CONNECT, imports, system account)
    account_of_id      the account that a ring record names; NULL: there is none
    account_told       the same, made when it is new: another shard has interest in it

Home shard only.
"""
from libc.stdint cimport uint32_t, uint64_t

from shardbroker.hot.model cimport account_t
from shardbroker.hot.state cimport engine_t

cdef enum:
    # Of one shard: 7 KiB each. More are refused, so that no peer can use up the memory.
    ACCOUNTS_MAX = 1 << 17

cdef void accounts_init(engine_t* e) noexcept nogil
cdef void accounts_free(engine_t* e) noexcept nogil
cdef account_t* account_named(engine_t* e, const char* name, uint32_t n) noexcept nogil
cdef account_t* account_known(engine_t* e, const char* name, uint32_t n) noexcept nogil
cdef account_t* account_of_id(engine_t* e, uint64_t id) noexcept nogil
cdef account_t* account_told(engine_t* e, uint64_t id) noexcept nogil
