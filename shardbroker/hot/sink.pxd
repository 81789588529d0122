"""Subscriptions of the broker's own: what is published to them goes to a function instead of a socket.

    sink_new / _in (an account) -> sink_subscribe ... sink_unsubscribe -> sink_free

A sink is a connection without a socket. It is announced to the other shards like any other, so a message finds it from
everywhere, in the order in which its publisher sent it; it is not among the clients (connz, limits, slow consumers).
Home shard only.
"""
from libc.stdint cimport uint32_t, uint64_t

from shardbroker.hot.model cimport account_t, connection_t, subscription_t
from shardbroker.hot.state cimport engine_t, sink_t

cdef connection_t* sink_new(engine_t* e, sink_t sink, void* context) noexcept nogil
cdef connection_t* sink_new_in(engine_t* e, account_t* a, sink_t sink, void* context) noexcept nogil
cdef subscription_t* sink_subscribe(engine_t* e, connection_t* c, const char* subject, uint32_t subject_bytes,
                                    const char* queue, uint32_t queue_bytes, uint64_t sid) noexcept nogil
cdef void sink_unsubscribe(engine_t* e, subscription_t* sub) noexcept nogil
cdef void sink_free(engine_t* e, connection_t* c) noexcept nogil
cdef void sinks_free_dead(engine_t* e) noexcept nogil
# The sink whose messages become events for Python (Engine.sink); the context is its number.
cdef sink_t sink_to_events() noexcept nogil
