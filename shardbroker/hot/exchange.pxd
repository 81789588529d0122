"""What accounts give each other: imports of streams and of services.

    exchange_subscribe / _unsubscribe    a subscription in an importing account has shadows in the exporting ones
    exchange_deliver                     a message that a shadow gets: shown under its name in the importing account
    exchange_request                     a message of an account that imports services: requests to the exporting ones
    exchange_hook                        answers, back to the accounts that asked

Home shard only.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t

from shardbroker.hot.model cimport account_t, connection_t, import_t, subscription_t
from shardbroker.hot.state cimport engine_t, message_t

cdef enum:
    CHAIN_MAX = 16                      # services of services
    RESPONSES_MAX = 1 << 16             # requests of one account under way; above it the oldest are forgotten

cdef void exchange_init(engine_t* e) noexcept nogil
cdef void exchange_free(engine_t* e) noexcept nogil
cdef bint exchange_subscribe(engine_t* e, account_t* a, subscription_t* sub, const char* subject, uint32_t n,
                             const char* queue, uint32_t queue_bytes) noexcept nogil
cdef bint exchange_unsubscribe(engine_t* e, subscription_t* sub) noexcept nogil
cdef bint exchange_deliver(engine_t* e, message_t* m, subscription_t* sub) noexcept nogil
cdef uint32_t exchange_request(engine_t* e, account_t* a, connection_t* c, const char* subject, uint32_t n, const char* reply,
                               uint32_t reply_bytes, int32_t header_bytes, const char* payload, uint32_t payload_bytes,
                               const import_t* before, uint32_t depth) noexcept nogil
cdef int exchange_set(engine_t* e, account_t* a, list imports) except -1
cdef void shadow_free(subscription_t* sub) noexcept nogil
