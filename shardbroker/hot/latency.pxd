"""How long services of other accounts take, for those who export them (`latency` of an export).

    latency_wanted      whether a request is measured: drawn by percent, or asked for by a header of tracing
    latency_begin       keep what the report needs beside the response that is awaited
    latency_end         report: answered (200), or why not
    latency_sweep       one that is not answered in time, or that nobody waits for any more

Reports are events; shard/latency.py makes the messages of them. Source of the rules: accounts.go shouldSample,
sendTrackingLatency, sendBackendErrorTrackingLatency, sendReplyInterestLostTrackLatency. Home shard only.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t

from shardbroker.hot.model cimport connection_t, import_t, response_t
from shardbroker.hot.state cimport engine_t

cdef enum:
    LATENCY_ANSWERED = 200
    LATENCY_NO_REPLY = 400              # the request had no reply subject
    LATENCY_NOBODY_WAITS = 408
    LATENCY_NOBODY_SERVES = 503
    LATENCY_TOO_LATE = 504

cdef struct responder_t:
    # Who answered. No client id: the broker itself.
    uint64_t client_id
    uint32_t slot
    int32_t shard

cdef bint latency_wanted(engine_t* e, const import_t* made, int32_t header_bytes, const char* payload, char** why,
                         uint32_t* why_bytes) noexcept nogil
cdef void latency_begin(engine_t* e, const import_t* made, connection_t* c, response_t* r, const char* why,
                        uint32_t why_bytes) noexcept nogil
cdef void latency_refuse(engine_t* e, const import_t* made, connection_t* c, const char* why,
                         uint32_t why_bytes) noexcept nogil
cdef void latency_end(engine_t* e, response_t* r, int status, const responder_t* responder) noexcept nogil
cdef void latency_forget(engine_t* e, response_t* r) noexcept nogil
cdef response_t* latency_sweep(engine_t* e, uint32_t* budget) noexcept nogil
cdef uint64_t latency_next_ns(engine_t* e) noexcept nogil
