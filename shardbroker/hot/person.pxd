"""Who asks, as the accounts that are asked are told: the header Nats-Request-Info, and the requestor of a latency report.

Of a client whose account shares nothing: the account, and the round trip. Else all that advisories have of a client; its
text comes from Python at its first request, and is kept with the connection. Source of the rules: client.go getClientInfo,
processServiceImport. Home shard only.
"""
from libc.stdint cimport int32_t, uint32_t

from shardbroker.hot.model cimport account_t, connection_t
from shardbroker.hot.state cimport engine_t

cdef enum:
    TELL_ACCOUNT = 0                    # account and round trip
    TELL_SERVER = 1                     # and the server: requests to the system account
    TELL_ALL = 2                        # share: true

cdef char* person_text(engine_t* e, connection_t* c, account_t* asker, account_t* by, int tell, uint32_t* n) noexcept nogil
cdef char* with_info(engine_t* e, connection_t* c, account_t* asker, account_t* by, int tell, int32_t* header_bytes,
                     const char* payload, uint32_t* payload_bytes) noexcept nogil
cdef void person_forget(connection_t* c) noexcept nogil
