"""Watches: whoever delivers to a subject is told when someone may have come to listen there, or the last may have gone.

    watch_add      a literal subject -> `call` when its interest may have changed; engine_interest says what it is now
    watch_changed  interest in a subject has changed, here or (its control record) on another shard
    watch_all      any interest may have changed: a shard died, or came

What changes here is told as the SUB is carried out. Of other shards, patterns and queue groups come over the control rings
anyway. Plain interest in a literal subject is only a bit in the directory: so the watcher's shard has a bit there too, under
a second key of the subject, and whoever changes the first looks at the second, and sends a RECORD_WATCHED to those in it.
Both sides change first and look then, so a change is seen by the watcher's own look, or told.

`call` only takes note: it runs in the midst of a SUB, and may not publish, subscribe or watch. Home shard only.
"""
from libc.stdint cimport uint32_t, uint64_t

from shardbroker.hot.model cimport account_t
from shardbroker.hot.state cimport engine_t, watch_call_t, watch_t

cdef watch_t* watch_add(engine_t* e, account_t* a, const char* subject, uint32_t n, watch_call_t call,
                        void* context) noexcept nogil
cdef void watch_remove(engine_t* e, watch_t* w) noexcept nogil
cdef void watch_changed(engine_t* e, account_t* a, bint pattern, const char* subject, uint32_t n) noexcept nogil
cdef void watch_all(engine_t* e) noexcept nogil
cdef void watches_free(engine_t* e) noexcept nogil


cdef inline uint64_t watch_key(uint64_t fingerprint) noexcept nogil:
    """The key in the directory under which those who watch a subject are found. Never 0."""
    cdef uint64_t key = fingerprint ^ <uint64_t>0x57A7C4ED57A7C4ED
    return key if key else 1
