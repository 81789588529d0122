"""Who is there: a shard's state and place in the rings, as it tells the others. Inline; no GIL.

A change is a store to the shard's slot and then one to the header's `membership`, which every shard looks at once a
turn: who sees the new number sees the change.
"""
from libc.stdint cimport uint32_t

from shardbroker.shm.atomics cimport add_full_u64, load_acquire_u32, store_release_u32
from shardbroker.shm.layout cimport header_t, slot_t


cdef inline void membership_bump(header_t *header) noexcept nogil:
    """Tell every shard to look at the slots again. Any process."""
    add_full_u64(&header.membership, 1)


cdef inline void slot_state_store(slot_t *slot, uint32_t state) noexcept nogil:
    """Home shard only (BOOTING -> READY)."""
    store_release_u32(&slot.state, state)


cdef inline void slot_attached_store(slot_t *slot, uint32_t epoch) noexcept nogil:
    """This process reads its rings from here on. Home shard only."""
    # SYNC attached: release pairs with the acquire load in slot_attached_load(). Without it a peer could write a
    #                snapshot that the new reader then skips.
    store_release_u32(&slot.attached, epoch)


cdef inline uint32_t slot_attached_load(slot_t *slot) noexcept nogil:
    """The epoch of the process that has taken its place in the rings. Any process."""
    return load_acquire_u32(&slot.attached)
