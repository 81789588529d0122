"""The sublist: which subscriptions and queue groups want a subject, and the routes made from it.

    sublist_insert / sublist_remove            one subscription comes or goes
    sublist_remote_plain / sublist_remote_queue   what another shard wants, from its control ring
    sublist_match                              walk: literal table and pattern trie, result in match_t
    route_find -> route_build                  the cached result of a match, per subject

Home shard only.
"""
from libc.stdint cimport uint32_t, uint64_t

from shardbroker.hot.model cimport (
    account_t, connection_t, members_t, queue_t, route_t, subscription_t)

cdef enum:
    SUBJECT_INVALID = 0
    SUBJECT_LITERAL = 1
    SUBJECT_PATTERN = 2

cdef enum:
    CHANGE_NONE = 0
    CHANGE_FIRST = 1                    # the first plain subscription of this subject on this shard, or the last went
    CHANGE_QUEUE = 2                    # the number of members of a queue group changed

cdef struct change_t:
    # What an insert or a remove means to the other shards.
    int kind
    bint pattern
    uint32_t members                    # of the queue group, after the change

cdef struct queue_match_t:
    queue_t* queue
    uint32_t group                      # index of its name among the groups of this match

cdef struct match_t:
    # Filled by sublist_match, reused for the next. Pointers stay valid until the sublist changes.
    members_t** lists
    uint32_t lists_count
    uint32_t lists_capacity
    queue_match_t* queues
    uint32_t queues_count
    uint32_t queues_capacity
    uint32_t groups_count
    uint64_t remote                     # shards with a plain pattern that matches

cdef int subject_check(const char* s, size_t n) noexcept nogil
cdef bint subject_is_literal(const char* s, size_t n) noexcept nogil
cdef uint32_t subject_tokens(const char* s, size_t n) noexcept nogil
cdef void account_init(account_t* a, uint64_t id, uint64_t seed, uint64_t route_sets) noexcept nogil
cdef void account_free(account_t* a) noexcept nogil
cdef change_t sublist_insert(account_t* a, subscription_t* sub, const char* subject, size_t subject_bytes,
                             const char* queue, size_t queue_bytes) noexcept nogil
cdef change_t sublist_remove(account_t* a, subscription_t* sub) noexcept nogil
cdef size_t sublist_subject(members_t* home, char* out) noexcept nogil
cdef queue_t* sublist_queue(members_t* home) noexcept nogil
cdef void sublist_remote_plain(account_t* a, uint32_t shard, bint wanted, const char* pattern, size_t n) noexcept nogil
cdef void sublist_remote_queue(account_t* a, uint32_t shard, uint32_t shards, uint32_t members, const char* subject,
                               size_t subject_bytes, const char* queue, size_t queue_bytes) noexcept nogil
cdef void sublist_remote_forget(account_t* a, uint32_t shard) noexcept nogil
cdef void sublist_match(account_t* a, const char* subject, size_t n, uint64_t hash, match_t* m) noexcept nogil
cdef route_t* route_build(account_t* a, match_t* m, const char* subject, size_t n, uint64_t hash) noexcept nogil
cdef void route_drop(account_t* a, const char* subject, size_t n, uint64_t hash) noexcept nogil
cdef void routes_free_dead() noexcept nogil
cdef void routes_drop_idle(account_t* a, bint with_remote) noexcept nogil
cdef uint32_t bucket_of(const char* subject, size_t n) noexcept nogil

ctypedef void (*visit_t)(void* context, members_t* home, subscription_t* sub) noexcept nogil
cdef void sublist_walk(account_t* a, visit_t visit, void* context) noexcept nogil
# Every (subject, queue or none) with its local members: what a replaced shard has to be told.
ctypedef void (*visit_interest_t)(void* context, members_t* home, bint pattern) noexcept nogil
cdef void sublist_walk_interest(account_t* a, visit_interest_t visit, void* context) noexcept nogil


cdef inline subscription_t* member_at(members_t* m, uint32_t i) noexcept nogil:
    if m.capacity == 0:
        return <subscription_t*>m.items
    return (<subscription_t**>m.items)[i]


cdef inline bint same_bytes(const char* a, const char* b, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        if a[i] != b[i]:
            return False
    return True
