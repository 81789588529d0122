"""The interest directory: fingerprint of (account, subject) -> set of shards, in shared memory, without locks.

    fingerprint   [ partition 12 bits | second bucket ... | ... first bucket ]
    levels        2^16, 2^18, 2^20, 2^23 slots of 16 bytes; in every level a key has two buckets of 8 slots (2 lines)
    slot          {fingerprint, shards}, changed by one 16-byte compare-and-swap: never half of it is seen

Any shard sets and clears its own bit, wherever the key is. A slot whose set becomes empty is freed in the same swap. A
level is used (for ever) once an insert finds its buckets full in the levels before. Two shards that insert a key at the
same time may make two slots of it: readers take the union over all slots, so that is harmless. A shard's bit for a key
is in one slot only and never moves, so interest that stands is seen by every scan: no false negatives.

A design with one owner per partition that grows and compacts it needs a grace period over all shards; fixed levels need
none and cost virtual memory only.
"""
from libc.stdint cimport uint32_t, uint64_t
from shardbroker.shm.atomics cimport fence_acquire, load_acquire_u32, load_acquire_u64, load_relaxed_u32, load_relaxed_u64, prefetch
from shardbroker.shm.layout cimport (
    SB_DIRECTORY_BUCKET, SB_DIRECTORY_PARTITION_BITS, SegmentMap, directory_slot_t, directory_t)


cdef inline directory_slot_t *directory_bucket(
        directory_t *d, uint32_t level, int which, uint64_t fingerprint) noexcept nogil:
    """The first slot of the first (0) or second (1) bucket of a key; for tiny levels the two may be one."""
    cdef uint64_t number = (fingerprint if which == 0 else fingerprint >> 32) & d.bucket_masks[level]
    return d.levels[level] + number * SB_DIRECTORY_BUCKET


cdef inline uint64_t directory_bucket_shards(directory_slot_t *slot, uint64_t fingerprint) noexcept nogil:
    """The union of the sets of a key in one bucket."""
    cdef uint64_t shards = 0
    cdef uint64_t found
    cdef uint32_t i
    for i in range(SB_DIRECTORY_BUCKET):
        # SYNC slot: the key, then the set, then the key again, in this order, against the 16-byte swaps in
        #            directory.pyx. A set read between two equal keys may belong to another key that came and went; then
        #            the key's own interest went too, so only a bit too many (one record for nothing) can result.
        if load_relaxed_u64(&slot[i].fingerprint) == fingerprint:
            fence_acquire()
            found = load_acquire_u64(&slot[i].shards)
            if load_relaxed_u64(&slot[i].fingerprint) == fingerprint:
                shards |= found
    return shards


cdef inline uint64_t directory_shards(directory_t *d, uint64_t fingerprint) noexcept nogil:
    """The shards that have this interest, one bit each. Any process. The fingerprint must not be 0.

    Reads all its slots in every active level (4 lines a level), no early end: see the note on duplicates above.
    """
    cdef uint64_t shards = 0
    cdef uint32_t level
    # SYNC levels_active: pairs with the swap in directory_add(), which comes before the insert into the new level.
    cdef uint32_t levels = load_acquire_u32(&d.header.levels_active)
    for level in range(levels if levels <= 4 else 4):
        shards |= directory_bucket_shards(directory_bucket(d, level, 0, fingerprint), fingerprint)
        shards |= directory_bucket_shards(directory_bucket(d, level, 1, fingerprint), fingerprint)
    return shards


cdef inline void directory_prefetch(directory_t *d, uint64_t fingerprint) noexcept nogil:
    """Let the processor fetch what directory_add() will look at."""
    cdef uint32_t level
    cdef char *bucket
    cdef int which
    for level in range(load_relaxed_u32(&d.header.levels_active)):
        if level >= 4:
            return
        for which in range(2):
            bucket = <char *> directory_bucket(d, level, which, fingerprint)
            prefetch(bucket)
            prefetch(bucket + 64)


cdef inline bint directory_has_watchers(directory_t *d) noexcept nogil:
    """Whether any shard has ever put a key here by which it wants to be told of changes (hot/watch). Any process."""
    # SYNC watched: relaxed is enough behind a change of ours, which is a full swap; pairs with directory_watched().
    return load_relaxed_u32(&d.header.watched) != 0


cdef inline uint64_t *directory_version_of(directory_t *d, uint64_t fingerprint) noexcept nogil:
    """The version word of the key's partition."""
    return d.versions + (fingerprint >> (64 - SB_DIRECTORY_PARTITION_BITS))


cdef inline uint64_t directory_version(directory_t *d, uint64_t fingerprint) noexcept nogil:
    """The version of the key's partition: while it stays, so does the set. Read it BEFORE directory_shards().

    Any process.
    """
    # SYNC version: pairs with the add after each change in directory.pyx: who sees the new version sees the change.
    return load_acquire_u64(directory_version_of(d, fingerprint))


cdef void directory_map(directory_t *d) noexcept nogil
cdef int directory_add(directory_t *d, uint64_t fingerprint, uint32_t shard) noexcept nogil
cdef void directory_remove(directory_t *d, uint64_t fingerprint, uint32_t shard) noexcept nogil
cdef void directory_watched(directory_t *d) noexcept nogil
cdef uint64_t directory_clear_shard(directory_t *d, uint32_t shard) noexcept nogil


cdef class Directory:
    cdef SegmentMap segment
    cdef directory_t d
