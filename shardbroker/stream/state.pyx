# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The state of a consumer as bytes. Python (consumer_store.py) writes them and reads them back; here they are made.

    head     <IIqqqqqqqq    version and flags, counts, dseq, seq, delivered_seq, floor_dseq, floor_seq, resume, delivered_time,
                            acked_time
    removed  <Q each        entries that a former state has and that are gone
    entries  <QQqqIi each   seq, dseq, sent, due (0: by its wait), redeliveries, 1 when exceeded

A change holds the entries that are new or different; a whole state all of them. A reader takes a whole state and lays
the changes over it, in order. Times are Unix ns.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from shardbroker.stream.consumer cimport consumer_t
from shardbroker.stream.pending cimport PENDING_DELAYED, PENDING_EXCEEDED, PENDING_QUEUED, pending_find, pending_t

cdef enum:
    VERSION = 1
    WHOLE = 1 << 8

cdef packed struct head_t:
    uint32_t version
    uint32_t removed
    uint32_t entries
    uint32_t reserved
    uint64_t dseq
    uint64_t seq
    uint64_t delivered_seq
    uint64_t floor_dseq
    uint64_t floor_seq
    uint64_t resume
    int64_t delivered_time
    int64_t acked_time

cdef packed struct saved_entry_t:
    uint64_t seq
    uint64_t dseq
    int64_t sent
    int64_t due
    uint32_t redeliveries
    int32_t exceeded

HEAD = "<IIIIQQQQQQqq"
ENTRY = "<QQqqIi"
WHOLE_FLAG = WHOLE


cdef void fill(consumer_t* c, pending_t* p, saved_entry_t* e) noexcept nogil:
    cdef int64_t offset = c.hub.time_offset
    e.seq = p.seq
    e.dseq = p.dseq
    e.sent = <int64_t>p.sent_ns + offset
    e.due = 0
    if p.state == PENDING_DELAYED:
        e.due = <int64_t>p.due_ns + offset
    elif p.state == PENDING_QUEUED:
        e.due = 1                       # at once
    e.redeliveries = p.redeliveries
    e.exceeded = 1 if p.state == PENDING_EXCEEDED else 0
    p.saved = 1
    p.changed = 0


cdef object consumer_encode(consumer_t* c, bint whole):
    """(change, bytes). The lists of changes start anew."""
    cdef uint32_t most, i
    cdef uint32_t n = 0
    cdef uint32_t removed = 0
    cdef char* at
    cdef head_t* head
    cdef pending_t* p
    whole = whole or c.save_whole
    if whole:
        most = c.table.used
    else:
        most = c.changed_count
        removed = c.removed_count
    data = PyBytes_FromStringAndSize(NULL, sizeof(head_t) + removed * sizeof(uint64_t) + most * sizeof(saved_entry_t))
    at = PyBytes_AS_STRING(data)
    head = <head_t*>at
    at += sizeof(head_t)
    for i in range(removed):
        (<uint64_t*>at)[0] = c.removed[i]
        at += sizeof(uint64_t)
    if whole:
        for i in range(c.table.capacity):
            if c.table.slots[i] != NULL:
                fill(c, c.table.slots[i], <saved_entry_t*>at)
                at += sizeof(saved_entry_t)
                n += 1
    else:
        for i in range(most):
            p = pending_find(&c.table, c.changed[i])
            if p != NULL and p.changed:
                fill(c, p, <saved_entry_t*>at)
                at += sizeof(saved_entry_t)
                n += 1
    head.version = VERSION | (WHOLE if whole else 0)
    head.removed = removed
    head.entries = n
    head.reserved = 0
    head.dseq = c.dseq
    head.seq = c.seq
    head.delivered_seq = c.delivered_seq
    head.floor_dseq = c.floor_dseq
    head.floor_seq = c.floor_seq
    head.resume = c.skips_resume if c.skips_at < c.skips_count else 0
    head.delivered_time = c.delivered_time
    head.acked_time = c.acked_time
    c.removed_count = c.changed_count = 0
    c.save_whole = False
    return c.change, data[:at - PyBytes_AS_STRING(data)]
