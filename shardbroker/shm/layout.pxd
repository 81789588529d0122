"""Cython view of layout.h, and SegmentMap: the mapping of one segment in this process.

Only names and types stand here; sizes, offsets and pictures are in layout.h, which the C compiler reads.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "shardbroker/shm/layout.h" nogil:
    const int SB_DEBUG
    const uint64_t SB_MAGIC
    const uint32_t SB_LAYOUT_VERSION
    const uint32_t SB_SHARDS_MAX
    const uint32_t SB_LAG_BUCKETS
    const uint32_t SB_DIRECTORY_PARTITION_BITS
    const uint32_t SB_DIRECTORY_PARTITIONS
    const uint32_t SB_DIRECTORY_LEVELS
    const uint32_t SB_DIRECTORY_BUCKET
    const uint32_t SB_RING_MAGIC
    const uint32_t SB_RING_CONTROL
    const uint64_t SB_RING_BYTES_MAX
    const uint32_t SB_RECORD_KIND_MAX
    const uint32_t SB_SLOT_EMPTY
    const uint32_t SB_SLOT_BOOTING
    const uint32_t SB_SLOT_READY
    const uint32_t SB_SLOT_DEAD

    ctypedef struct header_t "sb_header_t":
        uint64_t magic
        uint32_t version
        uint32_t header_bytes
        uint64_t segment_bytes
        uint32_t creator_pid
        uint32_t shards
        uint64_t ring_bytes
        uint64_t control_ring_bytes
        uint32_t page_bytes
        uint32_t slots_max
        uint64_t slots_offset
        uint64_t stats_offset
        uint64_t directory_offset
        uint64_t rings_offset
        uint64_t control_rings_offset
        uint64_t ring_stride
        uint64_t control_ring_stride
        uint32_t slot_bytes
        uint32_t stats_bytes
        uint8_t level_bits[4]
        uint64_t created_unix_ns
        uint64_t fingerprint_key[2]     # the seed of the subject fingerprint: the same in every shard
        uint64_t membership             # changes with any shard's epoch or state; read it with membership_load()

    ctypedef struct slot_t "sb_slot_t":
        uint32_t pid                    # the front
        uint32_t epoch                  # the front
        uint32_t state                  # the front; the shard BOOTING -> READY
        uint32_t restarts               # the front
        uint64_t booted_unix_ns         # the front
        uint64_t heartbeat_ns           # the shard; CLOCK_MONOTONIC
        uint64_t turn                   # the shard
        uint32_t attached               # the shard: the epoch that reads its rings from here on
        uint32_t attached               # the shard; see membership.pxd
        uint32_t asleep                 # see doorbell.pxd

    ctypedef struct shard_stats_t "sb_shard_stats_t":   # all by the shard itself: counters.pxd
        uint64_t connections
        uint64_t connections_total
        uint64_t closed_total
        uint64_t subscriptions
        uint64_t in_msgs
        uint64_t in_bytes
        uint64_t out_msgs
        uint64_t out_bytes
        uint64_t xs_out_msgs
        uint64_t xs_out_bytes
        uint64_t xs_in_msgs
        uint64_t xs_in_bytes
        uint64_t slow_consumers
        uint64_t slow_consumers_deadline
        uint64_t stalls
        uint64_t stale_connections
        uint64_t auth_errors
        uint64_t protocol_errors
        uint64_t wakeups_sent
        uint64_t wakeups_missed
        uint64_t turns
        uint64_t turns_python
        uint64_t ring_full
        uint64_t ring_corrupt
        uint64_t overflow_bytes
        uint64_t overflow_bytes_max
        uint64_t redraws
        uint64_t redraws_lost
        uint64_t control_out
        uint64_t control_in
        uint64_t route_hits
        uint64_t route_misses
        uint64_t directory_full
        uint64_t rss_bytes
        uint64_t cpu_user_us
        uint64_t cpu_system_us
        uint64_t loop_lag_ns_max
        uint64_t loop_lag_ns_sum
        uint64_t loop_lag_buckets[32]

    ctypedef struct directory_header_t "sb_directory_header_t":
        uint32_t levels_active
        uint32_t watched

    ctypedef struct directory_slot_t "sb_directory_slot_t":
        uint64_t fingerprint
        uint64_t shards

    ctypedef struct ring_header_t "sb_ring_header_t":
        uint32_t magic
        uint16_t version
        uint16_t flags
        uint64_t bytes
        uint32_t writer
        uint32_t reader
        uint64_t tail
        uint32_t writer_pid
        uint64_t head
        uint32_t reader_pid

    ctypedef struct record_header_t "sb_record_header_t":
        uint32_t body_bytes
        uint16_t kind
        uint16_t flags

    ctypedef struct field_t "sb_field_t":
        const char *owner
        const char *name
        uint32_t offset
        uint32_t bytes
        uint32_t count

    const field_t sb_fields[]
    const size_t SB_FIELDS_COUNT


# Where one process sees the directory. Private; the operations are in directory.pxd.
ctypedef struct directory_t:
    directory_header_t *header
    uint64_t *versions                  # [SB_DIRECTORY_PARTITIONS]
    directory_slot_t *levels[4]
    uint64_t bucket_masks[4]            # buckets of a level minus 1
    uint64_t file_offsets[4]            # of each level in the segment; directory_clear_shard() asks for holes
    int fd


cdef class SegmentMap:
    """One segment, mapped by this process up to its rings. Pointers taken from it live until close()."""
    cdef char *base
    cdef readonly size_t mapped_bytes
    cdef readonly int fd                # owned: close() closes it
    cdef readonly bint writable
    cdef Py_ssize_t exports             # memoryviews and numpy arrays that keep the mapping

    cdef header_t *header(self) noexcept nogil
    cdef slot_t *slot(self, uint32_t shard) noexcept nogil
    cdef shard_stats_t *stats(self, uint32_t shard) noexcept nogil
    cdef directory_t directory(self) noexcept nogil
    cdef uint64_t ring_offset(self, uint32_t writer, uint32_t reader, bint control) noexcept nogil
    cdef header_t *checked(self) except NULL
    cdef slot_t *checked_slot(self, uint32_t shard) except NULL


cdef uint64_t membership_load(header_t *header) noexcept nogil
cdef void slot_beat(slot_t *slot, uint64_t now_ns) noexcept nogil
cdef uint32_t slot_state(slot_t *slot) noexcept nogil
cdef uint32_t slot_epoch(slot_t *slot) noexcept nogil
