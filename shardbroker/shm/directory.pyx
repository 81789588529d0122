# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Changes of the interest directory. See directory.pxd for the structure and why its readers are right.

Called by the engine on a shard's 0 -> 1 and 1 -> 0 subscriptions of a (account, subject), and by the front for a dead
shard. Needs no GIL, allocates nothing, never blocks: every retry means that another process made progress. Memory is
the segment's.
"""
cimport cython
from posix.types cimport off_t
from posix.unistd cimport lseek

from shardbroker.shm.atomics cimport add_full_u64, cas_full_u32, cas_full_u128
from shardbroker.shm.layout cimport SB_DIRECTORY_LEVELS, SB_SHARDS_MAX

cdef extern from "<unistd.h>" nogil:
    const int SEEK_DATA
    const int SEEK_HOLE

cdef enum:
    PAGE_SLOTS = 256                    # 4 KiB

ctypedef enum found_t:
    FOUND_NOTHING = 0
    FOUND_OWN = 1           # the shard's bit is in *slot
    FOUND_KEY = 2           # the key is in *slot, without the bit


cdef uint32_t active(directory_t *d) noexcept nogil:
    cdef uint32_t levels = load_acquire_u32(&d.header.levels_active)
    return levels if levels <= SB_DIRECTORY_LEVELS else SB_DIRECTORY_LEVELS


cdef void directory_map(directory_t *d) noexcept nogil:
    """Map the first level, a megabyte, now: subjects spread over it at once, and a process that has it from the start is as
    large before its first thousand connections as after them."""
    cdef uint64_t slots = (d.bucket_masks[0] + 1) * SB_DIRECTORY_BUCKET
    cdef uint64_t i = 0
    while i < slots:
        load_relaxed_u64(&d.levels[0][i].fingerprint)
        i += PAGE_SLOTS


cdef void bump_version(directory_t *d, uint64_t fingerprint) noexcept nogil:
    # SYNC version: full, after the change; pairs with directory_version().
    add_full_u64(directory_version_of(d, fingerprint), 1)


cdef directory_slot_t *find_free(directory_t *d, uint32_t level, uint64_t fingerprint) noexcept nogil:
    """A free slot in the emptier of the key's two buckets, or NULL.

    Two buckets, the emptier taken, filled levels of 2^15, 2^18 and 2^21 slots to 75, 75 and 74 % before the next one
    was needed (random keys); one window of the same 16 slots is expected to overflow at about a third.
    """
    cdef directory_slot_t *first[2]
    cdef int free[2]
    cdef directory_slot_t *bucket
    cdef uint32_t which
    cdef uint32_t i
    for which in range(2):
        first[which] = NULL
        free[which] = 0
        bucket = directory_bucket(d, level, which, fingerprint)
        for i in range(SB_DIRECTORY_BUCKET):
            if load_relaxed_u64(&bucket[i].fingerprint) == 0:
                free[which] += 1
                if first[which] == NULL:
                    first[which] = &bucket[i]
    return first[1] if free[1] > free[0] else first[0]


cdef found_t find(directory_t *d, uint64_t fingerprint, uint64_t bit, directory_slot_t **slot) noexcept nogil:
    """The slot that has the shard's bit; else one that has the key."""
    cdef found_t result = FOUND_NOTHING
    cdef directory_slot_t *bucket
    cdef uint32_t level
    cdef uint32_t which
    cdef uint32_t i
    for level in range(active(d)):
        for which in range(2):
            bucket = directory_bucket(d, level, which, fingerprint)
            for i in range(SB_DIRECTORY_BUCKET):
                if load_acquire_u64(&bucket[i].fingerprint) != fingerprint:
                    continue
                if load_acquire_u64(&bucket[i].shards) & bit:
                    # The own bit is set and cleared by this shard only: if the key is still there, it is certain.
                    if load_acquire_u64(&bucket[i].fingerprint) == fingerprint:
                        slot[0] = &bucket[i]
                        return FOUND_OWN
                elif result == FOUND_NOTHING:
                    slot[0] = &bucket[i]
                    result = FOUND_KEY
    return result


cdef int directory_add(directory_t *d, uint64_t fingerprint, uint32_t shard) noexcept nogil:
    """Set the shard's bit for a key: 0, or -1 when the key's buckets are full in all levels.

    Home shard only (or whoever stands in for it). Setting it twice is setting it once.
    """
    cdef uint64_t bit = <uint64_t> 1 << shard
    cdef directory_slot_t *slot = NULL
    cdef found_t found
    cdef uint64_t shards
    cdef uint32_t level
    cdef uint32_t levels
    while True:
        found = find(d, fingerprint, bit, &slot)
        if found == FOUND_OWN:
            return 0
        if found == FOUND_KEY:
            shards = load_acquire_u64(&slot.shards)
            # An empty set with this key can only be a torn sight of a freed slot; the swap would fail, so look again.
            if shards and cas_full_u128(slot, fingerprint, shards, fingerprint, shards | bit):
                break
            continue
        levels = active(d)
        level = 0
        slot = NULL
        while level < levels and slot == NULL:
            slot = find_free(d, level, fingerprint)
            level += 1
        if slot == NULL:
            if levels == SB_DIRECTORY_LEVELS:
                return -1
            # SYNC levels_active: full, before the insert; pairs with the load in directory_shards(). Failing is fine:
            #                     another shard has just done it.
            cas_full_u32(&d.header.levels_active, levels, levels + 1)
            continue
        if cas_full_u128(slot, 0, 0, fingerprint, bit):
            break
    bump_version(d, fingerprint)
    return 0


cdef void directory_remove(directory_t *d, uint64_t fingerprint, uint32_t shard) noexcept nogil:
    """Clear the shard's bit for a key; nothing happens when it is not set. Home shard only."""
    cdef uint64_t bit = <uint64_t> 1 << shard
    cdef directory_slot_t *slot = NULL
    while find(d, fingerprint, bit, &slot) == FOUND_OWN:
        if clear_bit(d, slot, fingerprint, bit):
            return


cdef void directory_watched(directory_t *d) noexcept nogil:
    """From now on, and for ever, directory_has_watchers() is true."""
    # SYNC watched: full, before the watcher looks at the interest; pairs with the load in directory_has_watchers(). Of a
    #               change and a watcher one sees the other. Failing is fine: it is set already.
    cas_full_u32(&d.header.watched, 0, 1)


cdef bint clear_bit(directory_t *d, directory_slot_t *slot, uint64_t fingerprint, uint64_t bit) noexcept nogil:
    """Take the bit out of a slot that has this key; frees the slot with the last bit. False: it was not there."""
    cdef uint64_t shards
    while True:
        shards = load_acquire_u64(&slot.shards)
        if not shards & bit or load_acquire_u64(&slot.fingerprint) != fingerprint:
            return False
        if cas_full_u128(slot, fingerprint, shards, 0 if shards == bit else fingerprint, shards & ~bit):
            bump_version(d, fingerprint)
            return True


cdef uint64_t clear_slots(
        directory_t *d, directory_slot_t *slot, uint64_t count, uint64_t bit) noexcept nogil:
    cdef uint64_t cleared = 0
    cdef uint64_t fingerprint
    cdef uint64_t i
    for i in range(count):
        fingerprint = load_acquire_u64(&slot[i].fingerprint)
        if fingerprint and clear_bit(d, &slot[i], fingerprint, bit):
            cleared += 1
    return cleared


cdef uint64_t directory_clear_shard(directory_t *d, uint32_t shard) noexcept nogil:
    """Clear a dead shard's bit everywhere: returns how many slots had it. Front only, after the process was reaped.

    Goes over the committed parts of the file only (SEEK_DATA): reading a hole of a shared mapping would commit it.
    """
    cdef uint64_t bit = <uint64_t> 1 << shard
    cdef uint64_t cleared = 0
    cdef uint64_t start
    cdef uint64_t end
    cdef off_t data
    cdef off_t hole
    cdef uint32_t level
    for level in range(active(d)):
        start = d.file_offsets[level]
        end = start + (d.bucket_masks[level] + 1) * SB_DIRECTORY_BUCKET * sizeof(directory_slot_t)
        while start < end:
            data = lseek(d.fd, <off_t> start, SEEK_DATA)
            if data < 0 or <uint64_t> data >= end:
                break                                       # ENXIO: nothing but a hole to the end of the file
            hole = lseek(d.fd, data, SEEK_HOLE)
            if hole < 0 or <uint64_t> hole > end:
                hole = <off_t> end
            cleared += clear_slots(
                d, d.levels[level] + (<uint64_t> data - d.file_offsets[level]) // sizeof(directory_slot_t),
                <uint64_t> (hole - data) // sizeof(directory_slot_t), bit)
            start = <uint64_t> hole
    return cleared


cdef check(SegmentMap segment, uint64_t fingerprint, uint32_t shard):
    segment.checked()
    if fingerprint == 0:
        raise ValueError("fingerprint 0 means a free slot")
    if shard >= SB_SHARDS_MAX:
        raise ValueError(f"shards are 0 to {SB_SHARDS_MAX - 1}")


@cython.final
cdef class Directory:
    """Directory(segment): the interest directory for Python. Fingerprints are 1 to 2^64 - 1, shards 0 to 63."""

    def __cinit__(self, SegmentMap segment):
        segment.checked()
        self.segment = segment
        self.d = segment.directory()

    def add(self, uint64_t fingerprint, uint32_t shard):
        """Set the shard's bit; False when there is no room in any level."""
        check(self.segment, fingerprint, shard)
        return directory_add(&self.d, fingerprint, shard) == 0

    def remove(self, uint64_t fingerprint, uint32_t shard):
        """Clear the shard's bit."""
        check(self.segment, fingerprint, shard)
        directory_remove(&self.d, fingerprint, shard)

    def shards(self, uint64_t fingerprint):
        """The set of shards as an int, one bit each."""
        check(self.segment, fingerprint, 0)
        return directory_shards(&self.d, fingerprint)

    def version(self, uint64_t fingerprint):
        """The version of the key's partition."""
        check(self.segment, fingerprint, 0)
        return directory_version(&self.d, fingerprint)

    def clear_shard(self, uint32_t shard):
        """Clear a dead shard's bit everywhere; returns how many slots had it. Front only, after it was reaped."""
        check(self.segment, 1, shard)
        return directory_clear_shard(&self.d, shard)

    @property
    def levels_active(self):
        """How many of the levels are in use: 1 to 4."""
        self.segment.checked()
        return active(&self.d)

    def items(self):
        """Every taken slot as (fingerprint, set of shards); a key may come twice. Touches all active levels."""
        self.segment.checked()
        cdef uint64_t i
        cdef uint32_t level
        cdef directory_slot_t *slot
        result = []
        for level in range(active(&self.d)):
            for i in range((self.d.bucket_masks[level] + 1) * SB_DIRECTORY_BUCKET):
                slot = &self.d.levels[level][i]
                if slot.fingerprint:
                    result.append((slot.fingerprint, slot.shards))
        return result
