"""Acknowledgements: `$JS.ACK.<stream>.<consumer>.<deliveries>.<seq>.<dseq>.<time>.<pending>`, and what the payload says.

    (nothing) +ACK +OK      settled
    -NAK [delay]            again, at once or later: "5s" or {"delay": ns}
    +WPI                    work in progress: the wait starts anew
    +NXT [request]          settled, and a pull request
    +TERM [reason]          settled, never again

Rules: nats-server's consumer.go processAck and what it calls. Home shard only.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from shardbroker.stream.consumer cimport consumer_t

cdef struct ack_t:
    uint64_t deliveries
    uint64_t seq
    uint64_t dseq

cdef bint ack_parse(consumer_t* c, const char* subject, uint32_t n, ack_t* out) noexcept nogil
cdef void acks_on_message(consumer_t* c, const char* subject, uint32_t subject_bytes, const char* reply, uint32_t reply_bytes,
                          const char* payload, uint32_t payload_bytes) noexcept nogil
cdef void nak_delayed(consumer_t* c, uint64_t seq, int64_t delay_ns) noexcept nogil
cdef void acks_answer(consumer_t* c, uint64_t change) noexcept nogil
