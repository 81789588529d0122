"""Sleep and wake between shards: a flag in the sleeper's slot, a full fence on both sides, an eventfd.

    sleeper                                        waker, once a turn
    doorbell_set_asleep(slot)   store 1, fence     ring_publish(...)         store tails
    look at all inbound tails again                doorbell_fence()          one fence for all peers
    sleep in epoll_wait, or not                    doorbell_ring(slot, fd)   for each peer written to
    doorbell_awake(slot)        store 0

Without a fence that keeps a store before a later load on BOTH sides, each may read the old value of the other's word,
and the sleeper would sleep on a ring with records in it (Dekker; real on x86 too, it is the store buffer). Membarrier
would take the fence from the waker (as seastar does), but its expedited form covers the threads of one process only.
"""
from libc.stdint cimport uint64_t
from posix.unistd cimport read, write
from shardbroker.shm.atomics cimport exchange_full_u32, fence_full, load_relaxed_u32, store_relaxed_u32
from shardbroker.shm.layout cimport SegmentMap, slot_t


cdef inline void doorbell_fence() noexcept nogil:
    """The waker's fence: after its last ring_publish, before its first doorbell_ring. Once a turn."""
    fence_full()


cdef inline bint doorbell_ring(slot_t *slot, int eventfd) noexcept nogil:
    """Wake the shard of this slot if it sleeps, after the caller's doorbell_fence(). True: a wake-up was sent.

    One eventfd write for each sleep, however many shards ring: the exchange gives the 1 to one of them.
    """
    cdef uint64_t one = 1
    # SYNC asleep: the caller's fence pairs with the one in doorbell_set_asleep(). Relaxed is enough after it: if this
    #              reads 0, the sleeper's second look at the tails comes later and finds the records.
    if not load_relaxed_u32(&slot.asleep):
        return False
    if not exchange_full_u32(&slot.asleep, 0):
        return False
    # EAGAIN means that the counter is full: then the sleeper has a wake-up waiting anyway.
    return write(eventfd, &one, sizeof(one)) == sizeof(one)


cdef inline void doorbell_set_asleep(slot_t *slot) noexcept nogil:
    """Announce sleep. The caller must look at all its inbound rings again before it sleeps. Home shard only."""
    store_relaxed_u32(&slot.asleep, 1)
    # SYNC asleep: this fence pairs with doorbell_fence() of the waker. Without it the flag could still be in the
    #              store buffer when the tails are looked at.
    fence_full()


cdef inline void doorbell_awake(slot_t *slot) noexcept nogil:
    """Back from sleep, or not gone to sleep after all. Home shard only.

    Relaxed: a waker that still reads 1 sends one wake-up too many, which costs a turn and nothing else.
    """
    store_relaxed_u32(&slot.asleep, 0)


cdef inline void doorbell_drain(int eventfd) noexcept nogil:
    """Empty the own (non-blocking) eventfd, so that it is not readable any more."""
    cdef uint64_t count
    cdef ssize_t got = read(eventfd, &count, sizeof(count))
    cdef bint ignored = got != sizeof(count)    # EAGAIN: nobody rang
    if ignored:
        return


cdef class Doorbell:
    cdef SegmentMap segment
    cdef slot_t *slot
    cdef readonly int eventfd           # not owned
