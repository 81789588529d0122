"""What a consumer has delivered and not heard of: a table by stream sequence, the order of first delivery, and who is
due for redelivery when.

    pending_find / pending_add / pending_remove
    pending_wait            sent now: due again after the wait of its number of deliveries
    pending_delay           due at a time (a NAK with delay)
    pending_due             the next that is due now; pending_next_ns: when the next will be
    pending_queue / pending_unqueue    the queue of those that are to be redelivered, in the order they became so

Every entry is in the table. Those that count as pending are in the order list too, and in one of: the wait list of
their number of deliveries, the heap of delays, the queue. Those past max_deliver are in the table only.

Waits: with one ack_wait everything that was sent later is due later, and so it is for each step of a backoff. So a list
per step is in order of time without any sorting, and taking out, putting behind and asking for the first cost the same
whatever is pending. Only NAKs with delays need a heap.

Home shard only. Times are the engine's, monotonic ns.
"""
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

cdef enum:
    PENDING_WAITS = 1                   # in a wait list
    PENDING_DELAYED = 2                 # in the heap
    PENDING_QUEUED = 3                  # in the queue of redeliveries
    PENDING_LOOSE = 4                   # taken from one, about to be put in another
    PENDING_EXCEEDED = 5                # delivered as often as allowed: no longer pending, still remembered

cdef struct pending_t:
    uint64_t seq                        # of the stream
    uint64_t dseq                       # the consumer's sequence of its first delivery
    uint64_t sent_ns
    uint64_t due_ns                     # while delayed
    pending_t* order_next               # by first delivery, which is by seq too
    pending_t* order_previous
    pending_t* next                     # in its wait list or the queue; the free list
    pending_t* previous
    uint32_t redeliveries               # 0: delivered once
    uint32_t place                      # index of the wait list, or in the heap
    uint8_t state
    uint8_t changed                     # since it was last saved
    uint8_t saved                       # a saved state has it

cdef struct pending_list_t:
    pending_t* first
    pending_t* last

cdef struct pending_block_t:
    pending_block_t* next

cdef struct pendings_t:
    pending_t** slots                   # by seq, linear probing
    uint32_t capacity
    uint32_t used                       # slots taken: pending and exceeded
    uint32_t count                      # pending
    uint32_t redelivered                # of all, those delivered more than once
    uint32_t queued
    pending_list_t order
    pending_list_t queue
    pending_list_t* waits               # one for each step
    uint64_t* wait_ns
    uint32_t steps
    pending_t** heap                    # by due_ns
    uint32_t heap_count
    uint32_t heap_capacity
    pending_t* free
    pending_block_t* blocks

cdef void pending_init(pendings_t* t, const uint64_t* wait_ns, uint32_t steps) noexcept nogil
cdef void pending_set_waits(pendings_t* t, const uint64_t* wait_ns, uint32_t steps) noexcept nogil
cdef void pending_free(pendings_t* t) noexcept nogil
cdef void pending_clear(pendings_t* t) noexcept nogil
cdef pending_t* pending_find(pendings_t* t, uint64_t seq) noexcept nogil
cdef pending_t* pending_add(pendings_t* t, uint64_t seq, uint64_t dseq) noexcept nogil
cdef pending_t* pending_add_exceeded(pendings_t* t, uint64_t seq, uint64_t dseq, uint32_t redeliveries) noexcept nogil
cdef void pending_remove(pendings_t* t, pending_t* p) noexcept nogil
cdef void pending_exceed(pendings_t* t, pending_t* p) noexcept nogil
cdef void pending_wait(pendings_t* t, pending_t* p, uint64_t now_ns) noexcept nogil
cdef void pending_delay(pendings_t* t, pending_t* p, uint64_t due_ns) noexcept nogil
cdef void pending_queue(pendings_t* t, pending_t* p) noexcept nogil
cdef void pending_requeue_first(pendings_t* t, pending_t* p) noexcept nogil
cdef void pending_take(pendings_t* t, pending_t* p) noexcept nogil
cdef pending_t* pending_due(pendings_t* t, uint64_t now_ns) noexcept nogil
cdef uint64_t pending_next_ns(pendings_t* t) noexcept nogil
cdef uint64_t pending_last_ns(pendings_t* t) noexcept nogil
