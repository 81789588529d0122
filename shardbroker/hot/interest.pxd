"""What other shards want, what this shard tells them, and the records that go to them.

    interest_subscribe / _unsubscribe     sublist and, when it matters to others, directory bit or control records
    interest_shards                       which other shards hold plain interest in a subject
    interest_send                         one message record to one shard
    interest_request                      bytes from one control side to another
    interest_control                      apply what others have told (after every receive, before parsing)
    interest_membership                   a shard died, came, or waits for a snapshot
    interest_receipts_wanted              ask where a publisher's messages went to say when they have been delivered
    interest_give_receipts                answer other shards that have asked so, after the flush
    interest_publish                      end of turn: tails, fence, doorbells

With one shard none of this touches a ring. Home shard only.
"""
from libc.stdint cimport uint32_t, uint64_t

from shardbroker.hot.model cimport account_t, connection_t, queue_t, route_t, subscription_t
from shardbroker.hot.state cimport engine_t, message_t

cdef bint interest_subscribe(engine_t* e, account_t* a, subscription_t* sub, const char* subject, uint32_t subject_bytes,
                             const char* queue, uint32_t queue_bytes) noexcept nogil
cdef bint interest_unsubscribe(engine_t* e, account_t* a, subscription_t* sub) noexcept nogil
cdef uint64_t interest_lookup(engine_t* e, message_t* m) noexcept nogil
cdef uint64_t interest_route(engine_t* e, message_t* m, route_t* r) noexcept nogil
cdef void interest_send(engine_t* e, message_t* m, uint32_t shard, bint plain, queue_t** names, uint32_t names_count,
                        uint32_t redraws) noexcept nogil
cdef void interest_request(engine_t* e, uint32_t shard, const char* data, uint32_t n) noexcept nogil
cdef void interest_stall(engine_t* e, message_t* m) noexcept nogil
cdef void interest_receipts_wanted(engine_t* e, connection_t* c) noexcept nogil
cdef void interest_give_receipts(engine_t* e) noexcept nogil
cdef bint interest_control(engine_t* e) noexcept nogil
cdef void interest_membership(engine_t* e) noexcept nogil
cdef void interest_drain_spills(engine_t* e) noexcept nogil
cdef void interest_publish(engine_t* e) noexcept nogil
cdef void interest_boot(engine_t* e) noexcept nogil
cdef void interest_free(engine_t* e) noexcept nogil
# Another shard asks to slow one of our publishers down: set by the engine.
ctypedef void (*slow_publisher_t)(engine_t* e, uint32_t slot, uint64_t client_id, uint32_t milliseconds) noexcept nogil
cdef void interest_on_stall(slow_publisher_t call) noexcept nogil
