"""Connections whose bytes are transformed before they are NATS (TLS, WebSocket): the control side has the socket.

    transport_feed      plain bytes in, as if they had been read
    transport_take      plain bytes out, as if a socket took them
    transport_sent      the same for bytes that were read where they lie
    transport_end       the last of them, when the connection is closed

The engine says with EVENT_ATTENTION that there is output, or that it may be fed again. Home shard only.
"""
from shardbroker.hot.model cimport connection_t
from shardbroker.hot.state cimport engine_t

cdef bint transport_feed(engine_t* e, connection_t* c, char* p, size_t n) noexcept nogil
cdef bint transport_hungry(connection_t* c) noexcept nogil
cdef size_t transport_take(engine_t* e, connection_t* c, char* p, size_t n) noexcept nogil
cdef void transport_sent(engine_t* e, connection_t* c, size_t n) noexcept nogil
cdef void transport_blocked(engine_t* e, connection_t* c, bint blocked) noexcept nogil
cdef void transport_end(engine_t* e, connection_t* c) noexcept nogil
