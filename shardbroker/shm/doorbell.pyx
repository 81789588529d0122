# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The Python face of the doorbell, for tests and tools; the engine uses the inline functions of doorbell.pxd."""
cimport cython


@cython.final
cdef class Doorbell:
    """Doorbell(segment, shard, eventfd): the flag in one shard's slot and its eventfd (not owned)."""

    def __cinit__(self, SegmentMap segment, int shard, int eventfd):
        self.slot = segment.checked_slot(shard)
        self.segment = segment
        self.eventfd = eventfd

    def ring(self):
        """Fence, then wake the shard if it sleeps; True when a wake-up was sent. Any other process."""
        doorbell_fence()
        return doorbell_ring(self.slot, self.eventfd)

    def set_asleep(self):
        """Announce sleep, fence; look at all inbound rings again after it. Home shard only."""
        doorbell_set_asleep(self.slot)

    def awake(self):
        """Take the announcement back and empty the eventfd. Home shard only."""
        doorbell_awake(self.slot)
        doorbell_drain(self.eventfd)

    @property
    def asleep(self):
        """Does the flag say asleep? Any process."""
        return load_relaxed_u32(&self.slot.asleep) != 0
