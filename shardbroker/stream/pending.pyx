# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The table of what is pending; see pending.pxd. Called by the consumer for deliveries, acknowledgements and timers; needs
no GIL; allocates a block for 64 entries when none is free.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from shardbroker.hot.memory cimport mem_alloc, mem_resize, mem_zero

cdef enum:
    BLOCK_ENTRIES = 64
    FIRST_CAPACITY = 16


cdef inline uint32_t slot_of(pendings_t* t, uint64_t seq) noexcept nogil:
    """Multiplied and from the top: sequences that a filter picks at a stride do not share slots."""
    return <uint32_t>((seq * <uint64_t>0x9E3779B97F4A7C15) >> 32) & (t.capacity - 1)


cdef void pending_init(pendings_t* t, const uint64_t* wait_ns, uint32_t steps) noexcept nogil:
    """steps: at least 1 waits, the first after one delivery; more deliveries than steps wait as the last."""
    memset(t, 0, sizeof(pendings_t))
    t.waits = <pending_list_t*>mem_zero(steps * sizeof(pending_list_t))
    t.wait_ns = <uint64_t*>mem_alloc(steps * sizeof(uint64_t))
    memcpy(t.wait_ns, wait_ns, steps * sizeof(uint64_t))
    t.steps = steps


cdef void pending_free(pendings_t* t) noexcept nogil:
    cdef pending_block_t* following
    while t.blocks != NULL:
        following = t.blocks.next
        free(t.blocks)
        t.blocks = following
    free(t.slots)
    free(t.heap)
    free(t.waits)
    free(t.wait_ns)
    memset(t, 0, sizeof(pendings_t))


cdef void pending_clear(pendings_t* t) noexcept nogil:
    """Nothing is pending, nothing exceeded."""
    cdef uint32_t i
    for i in range(t.capacity):
        if t.slots[i] != NULL:
            t.slots[i].next = t.free
            t.free = t.slots[i]
            t.slots[i] = NULL
    memset(t.waits, 0, t.steps * sizeof(pending_list_t))
    memset(&t.order, 0, sizeof(pending_list_t))
    memset(&t.queue, 0, sizeof(pending_list_t))
    t.used = t.count = t.redelivered = t.queued = t.heap_count = 0


# ---- the table --------------------------------------------------------------------------------------------------

cdef pending_t* pending_find(pendings_t* t, uint64_t seq) noexcept nogil:
    """The entry, pending or exceeded; NULL: none."""
    cdef uint32_t i
    if t.used == 0:
        return NULL
    i = slot_of(t, seq)
    while t.slots[i] != NULL:
        if t.slots[i].seq == seq:
            return t.slots[i]
        i = (i + 1) & (t.capacity - 1)
    return NULL


cdef void grow(pendings_t* t) noexcept nogil:
    cdef pending_t** old = t.slots
    cdef uint32_t old_capacity = t.capacity
    cdef uint32_t i, at
    t.capacity = old_capacity * 2 if old_capacity else FIRST_CAPACITY
    t.slots = <pending_t**>mem_zero(t.capacity * sizeof(pending_t*))
    for i in range(old_capacity):
        if old[i] != NULL:
            at = slot_of(t, old[i].seq)
            while t.slots[at] != NULL:
                at = (at + 1) & (t.capacity - 1)
            t.slots[at] = old[i]
    free(old)


cdef pending_t* entry_new(pendings_t* t) noexcept nogil:
    cdef pending_block_t* block
    cdef pending_t* entries
    cdef pending_t* p
    cdef uint32_t i
    if t.free == NULL:
        block = <pending_block_t*>mem_alloc(sizeof(pending_block_t) + BLOCK_ENTRIES * sizeof(pending_t))
        block.next = t.blocks
        t.blocks = block
        entries = <pending_t*>(block + 1)
        for i in range(BLOCK_ENTRIES):
            entries[i].next = t.free
            t.free = &entries[i]
    p = t.free
    t.free = p.next
    return p


cdef pending_t* insert(pendings_t* t, uint64_t seq, uint64_t dseq) noexcept nogil:
    cdef pending_t* p
    cdef uint32_t i
    if t.used >= t.capacity // 2:
        grow(t)
    p = entry_new(t)
    memset(p, 0, sizeof(pending_t))
    p.seq = seq
    p.dseq = dseq
    p.state = PENDING_LOOSE
    i = slot_of(t, seq)
    while t.slots[i] != NULL:
        i = (i + 1) & (t.capacity - 1)
    t.slots[i] = p
    t.used += 1
    return p


cdef pending_t* pending_add(pendings_t* t, uint64_t seq, uint64_t dseq) noexcept nogil:
    """A first delivery; seq is in no entry, and above all that are pending. To be followed by pending_wait."""
    cdef pending_t* p = insert(t, seq, dseq)
    p.order_previous = t.order.last
    if t.order.last != NULL:
        t.order.last.order_next = p
    else:
        t.order.first = p
    t.order.last = p
    t.count += 1
    return p


cdef pending_t* pending_add_exceeded(pendings_t* t, uint64_t seq, uint64_t dseq, uint32_t redeliveries) noexcept nogil:
    """One that a saved state has as delivered too often."""
    cdef pending_t* p = insert(t, seq, dseq)
    p.state = PENDING_EXCEEDED
    p.redeliveries = redeliveries
    t.redelivered += 1
    return p


cdef void unslot(pendings_t* t, pending_t* p) noexcept nogil:
    """Out of the table; those behind move up, so that no search stops early."""
    cdef uint32_t mask = t.capacity - 1
    cdef uint32_t i = slot_of(t, p.seq)
    cdef uint32_t j, home
    while t.slots[i] != p:
        i = (i + 1) & mask
    j = i
    while True:
        j = (j + 1) & mask
        if t.slots[j] == NULL:
            break
        home = slot_of(t, t.slots[j].seq)
        if ((j - home) & mask) >= ((j - i) & mask):
            t.slots[i] = t.slots[j]
            i = j
    t.slots[i] = NULL
    t.used -= 1


cdef void unorder(pendings_t* t, pending_t* p) noexcept nogil:
    if p.order_previous != NULL:
        p.order_previous.order_next = p.order_next
    else:
        t.order.first = p.order_next
    if p.order_next != NULL:
        p.order_next.order_previous = p.order_previous
    else:
        t.order.last = p.order_previous
    p.order_next = p.order_previous = NULL
    t.count -= 1


cdef void pending_remove(pendings_t* t, pending_t* p) noexcept nogil:
    """It is settled."""
    if p.state != PENDING_EXCEEDED:
        pending_take(t, p)
        unorder(t, p)
    if p.redeliveries or p.state == PENDING_EXCEEDED:
        t.redelivered -= 1
    unslot(t, p)
    p.next = t.free
    t.free = p


cdef void pending_exceed(pendings_t* t, pending_t* p) noexcept nogil:
    """No longer pending, and remembered: it was delivered as often as it may be."""
    pending_take(t, p)
    unorder(t, p)
    if p.redeliveries == 0:
        t.redelivered += 1
    p.state = PENDING_EXCEEDED


# ---- lists and heap ---------------------------------------------------------------------------------------------

cdef inline void append(pending_list_t* l, pending_t* p) noexcept nogil:
    p.next = NULL
    p.previous = l.last
    if l.last != NULL:
        l.last.next = p
    else:
        l.first = p
    l.last = p


cdef inline void unlink(pending_list_t* l, pending_t* p) noexcept nogil:
    if p.previous != NULL:
        p.previous.next = p.next
    else:
        l.first = p.next
    if p.next != NULL:
        p.next.previous = p.previous
    else:
        l.last = p.previous
    p.next = p.previous = NULL


cdef inline void heap_put(pendings_t* t, pending_t* p, uint32_t at) noexcept nogil:
    t.heap[at] = p
    p.place = at


cdef inline bint sooner(const pending_t* a, const pending_t* b) noexcept nogil:
    """By time; of those due together the older message first."""
    return a.due_ns < b.due_ns or (a.due_ns == b.due_ns and a.seq < b.seq)


cdef void heap_up(pendings_t* t, pending_t* p, uint32_t at) noexcept nogil:
    while at > 0 and sooner(p, t.heap[(at - 1) // 2]):
        heap_put(t, t.heap[(at - 1) // 2], at)
        at = (at - 1) // 2
    heap_put(t, p, at)


cdef void heap_down(pendings_t* t, pending_t* p, uint32_t at) noexcept nogil:
    cdef uint32_t child
    while True:
        child = 2 * at + 1
        if child >= t.heap_count:
            break
        if child + 1 < t.heap_count and sooner(t.heap[child + 1], t.heap[child]):
            child += 1
        if not sooner(t.heap[child], p):
            break
        heap_put(t, t.heap[child], at)
        at = child
    heap_put(t, p, at)


cdef void heap_remove(pendings_t* t, pending_t* p) noexcept nogil:
    cdef uint32_t at = p.place
    cdef pending_t* moved
    t.heap_count -= 1
    moved = t.heap[t.heap_count]
    if moved == p:
        return
    if sooner(moved, p):
        heap_up(t, moved, at)
    else:
        heap_down(t, moved, at)


cdef void pending_take(pendings_t* t, pending_t* p) noexcept nogil:
    """Out of the list, heap or queue that it is in; it stays pending."""
    if p.state == PENDING_WAITS:
        unlink(&t.waits[p.place], p)
    elif p.state == PENDING_DELAYED:
        heap_remove(t, p)
    elif p.state == PENDING_QUEUED:
        unlink(&t.queue, p)
        t.queued -= 1
    p.state = PENDING_LOOSE


cdef void pending_wait(pendings_t* t, pending_t* p, uint64_t now_ns) noexcept nogil:
    """It was sent, or is being worked on: due again after the wait for its number of deliveries."""
    pending_take(t, p)
    p.sent_ns = now_ns
    p.place = p.redeliveries if p.redeliveries < t.steps else t.steps - 1
    p.state = PENDING_WAITS
    append(&t.waits[p.place], p)


cdef void pending_delay(pendings_t* t, pending_t* p, uint64_t due_ns) noexcept nogil:
    pending_take(t, p)
    if t.heap_count == t.heap_capacity:
        t.heap_capacity = t.heap_capacity * 2 if t.heap_capacity else 16
        t.heap = <pending_t**>mem_resize(t.heap, t.heap_capacity * sizeof(pending_t*))
    p.due_ns = due_ns
    p.state = PENDING_DELAYED
    t.heap_count += 1
    heap_up(t, p, t.heap_count - 1)


cdef void pending_queue(pendings_t* t, pending_t* p) noexcept nogil:
    """To be redelivered, after those that are queued."""
    pending_take(t, p)
    p.state = PENDING_QUEUED
    append(&t.queue, p)
    t.queued += 1


cdef void pending_requeue_first(pendings_t* t, pending_t* p) noexcept nogil:
    """Back to the head of the queue: nobody could take it."""
    pending_take(t, p)
    p.state = PENDING_QUEUED
    p.previous = NULL
    p.next = t.queue.first
    if p.next != NULL:
        p.next.previous = p
    else:
        t.queue.last = p
    t.queue.first = p
    t.queued += 1


# ---- time -------------------------------------------------------------------------------------------------------

cdef pending_t* first_due(pendings_t* t, uint64_t* due_ns) noexcept nogil:
    """Whose turn is next, and when."""
    cdef pending_t* found = NULL
    cdef uint32_t i
    cdef uint64_t ns
    due_ns[0] = 0
    if t.heap_count:
        found = t.heap[0]
        due_ns[0] = found.due_ns
    for i in range(t.steps):
        if t.waits[i].first != NULL:
            ns = t.waits[i].first.sent_ns + t.wait_ns[i]
            if found == NULL or ns < due_ns[0]:
                found = t.waits[i].first
                due_ns[0] = ns
    return found


cdef pending_t* pending_due(pendings_t* t, uint64_t now_ns) noexcept nogil:
    """One that is due, or NULL. The caller takes it out of its list."""
    cdef uint64_t ns
    cdef pending_t* p = first_due(t, &ns)
    return p if p != NULL and ns <= now_ns else NULL


cdef uint64_t pending_next_ns(pendings_t* t) noexcept nogil:
    """When the next is due; 0: nothing waits."""
    cdef uint64_t ns
    first_due(t, &ns)
    return ns


cdef uint64_t pending_last_ns(pendings_t* t) noexcept nogil:
    """When the last will be due; 0: nothing waits. Of delays only the first is looked at."""
    cdef uint64_t last = t.heap[0].due_ns if t.heap_count else 0
    cdef uint32_t i
    for i in range(t.steps):
        if t.waits[i].last != NULL and t.waits[i].last.sent_ns + t.wait_ns[i] > last:
            last = t.waits[i].last.sent_ns + t.wait_ns[i]
    return last


cdef void pending_set_waits(pendings_t* t, const uint64_t* wait_ns, uint32_t steps) noexcept nogil:
    """Other waits, from when each was sent: an update of ack_wait or backoff."""
    cdef pending_list_t* old = t.waits
    cdef uint32_t old_steps = t.steps
    cdef uint32_t i, place
    cdef pending_t* p
    cdef pending_t* least
    free(t.wait_ns)
    t.waits = <pending_list_t*>mem_zero(steps * sizeof(pending_list_t))
    t.wait_ns = <uint64_t*>mem_alloc(steps * sizeof(uint64_t))
    memcpy(t.wait_ns, wait_ns, steps * sizeof(uint64_t))
    t.steps = steps
    # Merged by when they were sent: every list stays in order of time.
    while True:
        place = 0
        least = NULL
        for i in range(old_steps):
            if old[i].first != NULL and (least == NULL or old[i].first.sent_ns < least.sent_ns):
                least = old[i].first
                place = i
        if least == NULL:
            break
        unlink(&old[place], least)
        p = least
        p.place = p.redeliveries if p.redeliveries < steps else steps - 1
        append(&t.waits[p.place], p)
    free(old)
