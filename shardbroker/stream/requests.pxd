"""Pull requests: read, checked, queued, answered.

    requests_on_message -> request_parse -> requests_add        one comes in
    requests_next -> (the message is published) -> request_given      whose turn it is; it had its message
    requests_sweep          out of time, out of interest, or one-shot and nothing there; heartbeats

Statuses and their texts: nats-server's consumer.go processNextMsgRequest, nextWaiting, processWaiting.
Home shard only.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from shardbroker.stream.consumer cimport consumer_t, request_t

cdef struct pull_t:
    # A request as it was asked.
    int64_t batch
    int64_t expires_ns                  # from now; 0: never
    int64_t max_bytes
    int64_t heartbeat_ns
    bint no_wait

cdef enum:
    PULL_READ = 0
    PULL_ODD = 1                        # for Python to read

cdef int request_parse(const char* p, uint32_t n, pull_t* out) noexcept nogil
cdef void requests_on_message(consumer_t* c, const char* reply, uint32_t reply_bytes, const char* payload,
                              uint32_t payload_bytes) noexcept nogil
cdef void requests_add(consumer_t* c, const pull_t* pull, const char* reply, uint32_t reply_bytes) noexcept nogil
cdef request_t* requests_next(consumer_t* c, uint64_t size) noexcept nogil
cdef void requests_drop_first(consumer_t* c) noexcept nogil
cdef void request_given(consumer_t* c, request_t* r) noexcept nogil
cdef int64_t requests_sweep(consumer_t* c, bint end_of_stream) noexcept nogil
cdef void requests_release(consumer_t* c, const char* line) noexcept nogil
