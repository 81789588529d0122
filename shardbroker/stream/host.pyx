# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The hub of a shard on its engine: publishes through it, listens with sinks of it, runs as a hook of its turns.

What a sink gets is copied and read in the hook. Python is called, with the GIL, from the hook's end and only when there
are events for it.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcmp
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec

from shardbroker.hot.connection cimport garbage
from shardbroker.hot.engine cimport Engine, engine_hook, engine_interest, engine_publish
from shardbroker.hot.model cimport account_t, connection_t, subscription_t
from shardbroker.hot.sink cimport sink_free, sink_new_in, sink_subscribe
from shardbroker.hot.state cimport engine_t, message_t, watch_t
from shardbroker.hot.watch cimport watch_add, watch_remove
from shardbroker.stream.capture cimport Capture, stream_t, stream_touch
from shardbroker.stream.consumer cimport (
    LETTER_ACK, LETTER_FLOW, LETTER_LEVEL, LETTER_REQUEST, consumer_t, consumer_told, host_t, hub_post, hub_t, retained_on_purged,
    retained_on_removed, retained_on_stored, retained_t, retained_wants)
from shardbroker.stream.consumer_model import API_LEVEL
from shardbroker.stream.deliver cimport hub_run
from shardbroker.stream.hub cimport Consumer, Hub, Retained

cdef uint64_t api_level = API_LEVEL


cdef uint32_t publish(void* context, void* account, const char* subject, uint32_t subject_bytes, const char* shown,
                      uint32_t shown_bytes, const char* reply, uint32_t reply_bytes, int32_t header_bytes, const char* payload,
                      uint32_t payload_bytes, const char* tail, uint32_t tail_bytes, bint* behind) noexcept nogil:
    cdef engine_t* e = <engine_t*>context
    cdef uint32_t n = engine_publish(e, <account_t*>account, subject, subject_bytes, shown, shown_bytes, reply, reply_bytes,
                                     header_bytes, payload, payload_bytes)
    behind[0] = e.publish_behind
    return n


cdef bint interest(void* context, void* account, const char* subject, uint32_t subject_bytes) noexcept nogil:
    return engine_interest(<engine_t*>context, <account_t*>account, subject, subject_bytes)


cdef void told(void* consumer) noexcept nogil:
    consumer_told(<consumer_t*>consumer)


cdef void* watch(void* context, void* account, const char* subject, uint32_t subject_bytes, consumer_t* c) noexcept nogil:
    return watch_add(<engine_t*>context, <account_t*>account, subject, subject_bytes, told, c)


cdef void unwatch(void* context, void* watch) noexcept nogil:
    watch_remove(<engine_t*>context, <watch_t*>watch)


cdef void keep_garbage(void* context, void* block) noexcept nogil:
    garbage(<engine_t*>context, block)


cdef void announce(void* context) noexcept nogil:
    (<engine_t*>context).hooks_at_ns = 0


cdef void clocks(void* context, uint64_t* now_ns, int64_t* time_ns) noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    now_ns[0] = <uint64_t>t.tv_sec * 1000000000 + <uint64_t>t.tv_nsec
    clock_gettime(CLOCK_REALTIME, &t)
    time_ns[0] = <int64_t>t.tv_sec * 1000000000 + t.tv_nsec


cdef uint64_t hook(engine_t* e, void* context) noexcept nogil:
    cdef hub_t* h = &(<EngineHub>context).h
    cdef uint64_t now_ns
    cdef int64_t time_ns
    cdef uint64_t following
    clocks(e, &now_ns, &time_ns)
    following = hub_run(h, now_ns, time_ns)
    if h.events_count:
        with gil:
            (<EngineHub>context).tell()
    return following


cdef bint wants_level(const message_t* m) noexcept nogil:
    """Whether its headers ask for an API level above ours (ADR-44)."""
    cdef const char* p = m.payload
    cdef const char* end = p + m.header_bytes
    cdef uint64_t v = 0
    while p + 24 < end:
        if p[0] == c'\n' and memcmp(p + 1, b"Nats-Required-Api-Level:", 24) == 0:
            p += 25
            while p < end and p[0] == c' ':
                p += 1
            if p >= end or not c'0' <= p[0] <= c'9':
                return True
            while p < end and c'0' <= p[0] <= c'9' and v < 1000000:
                v = v * 10 + <uint64_t>(p[0] - c'0')
                p += 1
            return v > api_level
        p += 1
    return False


cdef void on_message(engine_t* e, message_t* m, subscription_t* sub, void* context) noexcept nogil:
    cdef consumer_t* c = <consumer_t*>context
    cdef uint32_t skip = <uint32_t>m.header_bytes if m.header_bytes > 0 else 0
    cdef uint32_t kind
    if sub == c.sink_ack:
        kind = LETTER_ACK
    elif sub == c.sink_request:
        if m.reply_bytes == 0:
            return
        kind = LETTER_LEVEL if skip and wants_level(m) else LETTER_REQUEST
    else:
        kind = LETTER_FLOW
    hub_post(c.hub, c, kind, m.subject, m.subject_bytes, m.reply, m.reply_bytes, m.payload + skip, m.payload_bytes - skip)


# ---- between a stream and its consumers ---------------------------------------------------------------------------

cdef void on_stored(void* consumers) noexcept nogil:
    retained_on_stored(<retained_t*>consumers)


cdef void on_gone(void* consumers, uint64_t seq, const char* subject, uint32_t subject_bytes, int reason) noexcept nogil:
    retained_on_removed(<retained_t*>consumers, seq, subject, subject_bytes, reason)


cdef void on_purged(void* consumers) noexcept nogil:
    retained_on_purged(<retained_t*>consumers)


cdef bint wants(void* consumers, const char* subject, uint32_t subject_bytes) noexcept nogil:
    return retained_wants(<retained_t*>consumers, subject, subject_bytes)


cdef void touch(void* owner) noexcept nogil:
    stream_touch(<stream_t*>owner)


cdef class EngineHub(Hub):
    """on_events: called without arguments when take_events() has something; what it raises goes to on_error(exception)."""

    cdef Engine engine
    cdef public object on_events
    cdef public object on_error

    def __init__(self, Engine engine, on_events, on_error):
        cdef host_t host
        self.engine = engine
        self.on_events = on_events
        self.on_error = on_error
        host.context = &engine.e
        host.publish = publish
        host.interest = interest
        host.watch = watch
        host.unwatch = unwatch
        host.garbage = keep_garbage
        host.announce = announce
        host.clock = clocks
        self.set_host(&host, engine.e.random)
        engine_hook(&engine.e, hook, <void*>self)

    cdef void tell(self) noexcept:
        try:
            self.on_events()
        except Exception as e:
            self.on_error(e)

    def bind(self, Retained stream, Capture capture):
        """A stream tells its consumers what was stored and removed, and asks whether they want a message."""
        stream.s.account = capture.s.account
        stream.s.owner = &capture.s
        stream.s.touch = touch
        capture.s.consumers = &stream.s
        capture.s.on_stored = on_stored
        capture.s.on_gone = on_gone
        capture.s.on_purged = on_purged
        capture.s.wants = wants

    def unbind(self, Retained stream, Capture capture):
        capture.s.on_stored = NULL
        capture.s.on_gone = NULL
        capture.s.on_purged = NULL
        capture.s.wants = NULL
        capture.s.consumers = NULL
        stream.s.touch = NULL

    def listen(self, Consumer consumer, bytes acks, bytes requests, bytes flow):
        """Subscribe to what clients send it; b"": not to that."""
        cdef consumer_t* c = consumer.c
        cdef connection_t* sink = sink_new_in(&self.engine.e, <account_t*>c.stream.account, on_message, c)
        c.sink = sink
        if acks:
            c.sink_ack = sink_subscribe(&self.engine.e, sink, acks, <uint32_t>len(acks), NULL, 0, 0)
        if requests:
            c.sink_request = sink_subscribe(&self.engine.e, sink, requests, <uint32_t>len(requests), NULL, 0, 0)
        if flow:
            c.sink_flow = sink_subscribe(&self.engine.e, sink, flow, <uint32_t>len(flow), NULL, 0, 0)

    def unlisten(self, Consumer consumer):
        """Before the consumer is closed."""
        if consumer.c != NULL and consumer.c.sink != NULL:
            sink_free(&self.engine.e, <connection_t*>consumer.c.sink)
            consumer.c.sink = NULL
