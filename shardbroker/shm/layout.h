/* The one definition of what shardbroker's processes share. Nobody writes an offset anywhere else: Cython reads this
 * file (layout.pxd), Python and numpy read the table of fields at its end (layout.pyx, stats.py).
 *
 * Rules: fixed-width integers; offsets, never pointers; one writing process for each word, named beside it (the few
 * words with several writers are changed by atomic operations only); fields of different writers are two cache lines
 * (128 bytes) apart, because the prefetcher fetches pairs. A change of anything here changes SB_LAYOUT_VERSION: a test
 * keeps a snapshot of the table.
 *
 * The segment; every part starts on a page. Pages are committed when first touched, so what is unused costs nothing.
 *
 *   +--------+-----------+----------------+-----------+--------------------------+--------------------------+
 *   | header | slots[64] | statistics[64] | directory | rings [writer][reader]   | control rings [w][r]     |
 *   +--------+-----------+----------------+-----------+--------------------------+--------------------------+
 *   |<----- mapped once by everyone (SegmentMap) ----->|<-- each mapped, twice, by its writer and reader -->|
 *
 *   With one shard there are no rings: the segment ends behind the directory. */
#ifndef SHARDBROKER_SHM_LAYOUT_H
#define SHARDBROKER_SHM_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#ifndef SB_DEBUG
#define SB_DEBUG 0 /* 1: single-writer checks that are too dear for production */
#endif

#define SB_MAGIC UINT64_C(0x314b524244524853) /* "SHRDBRK1" in memory */
#define SB_LAYOUT_VERSION 3
#define SB_SHARDS_MAX 64 /* the directory keeps a set of shards in 64 bits */

/* ---- header: line 0 and 1 are set once by the creator; offsets are from the start of the segment, in bytes ----
 *
 *  line 0   magic 8 | version 4 | header_bytes 4 | segment_bytes 8 | creator_pid 4 | shards 4 | ring_bytes 8
 *           | control_ring_bytes 8 | page_bytes 4 | slots_max 4 | slots_offset 8
 *  line 1   stats_offset 8 | directory_offset 8 | rings_offset 8 | control_rings_offset 8 | ring_stride 8
 *           | control_ring_stride 8 | slot_bytes 4 | stats_bytes 4 | level_bits 4 x u8 | reserved 4
 *  line 2   created_unix_ns 8 | fingerprint_key 2 x u64
 *  line 4   membership 8          the front, and a shard that becomes READY (atomic add) */
typedef struct {
    uint64_t magic;
    uint32_t version;
    uint32_t header_bytes;
    uint64_t segment_bytes;
    uint32_t creator_pid;
    uint32_t shards;
    uint64_t ring_bytes;         /* capacity of a data ring: a power of two */
    uint64_t control_ring_bytes; /* capacity of a control ring: a power of two */
    uint32_t page_bytes;
    uint32_t slots_max;
    uint64_t slots_offset;
    uint64_t stats_offset;
    uint64_t directory_offset;
    uint64_t rings_offset;
    uint64_t control_rings_offset;
    uint64_t ring_stride; /* one page of ring header and the ring's bytes */
    uint64_t control_ring_stride;
    uint32_t slot_bytes;
    uint32_t stats_bytes;
    uint8_t level_bits[4]; /* log2 of the slots in each level of the directory */
    uint32_t reserved_124;
    uint64_t created_unix_ns;
    uint64_t fingerprint_key[2]; /* random: clients cannot aim subjects at one bucket of the directory */
    uint64_t reserved_152[13];
    uint64_t membership; /* grows when any shard's epoch or state changes */
    uint64_t reserved_264[31];
} sb_header_t;

/* ---- slot: one per shard ----
 *
 *  line 0   pid 4 | epoch 4 | state 4 | restarts 4 | booted_unix_ns 8      the front; state also by the shard (READY)
 *  line 2   heartbeat_ns 8 | turn 8 | attached 4                           the shard
 *  line 4   asleep 4                            the shard sets and clears; a peer that rings exchanges it to 0 */
typedef struct {
    uint32_t pid;
    uint32_t epoch; /* 1 for the first process in this slot; one more for every replacement */
    uint32_t state; /* sb_slot_state */
    uint32_t restarts;
    uint64_t booted_unix_ns;
    uint64_t reserved_24[13];
    uint64_t heartbeat_ns; /* CLOCK_MONOTONIC, once a turn */
    uint64_t turn;
    uint32_t attached; /* epoch of the process that has taken its place in the rings */
    uint32_t reserved_148;
    uint64_t reserved_152[13];
    uint32_t asleep; /* 1: wants its eventfd written */
    uint32_t reserved_260;
    uint64_t reserved_264[15];
} sb_slot_t;

enum sb_slot_state {
    SB_SLOT_EMPTY = 0,
    SB_SLOT_BOOTING = 1, /* the front, before it starts the process */
    SB_SLOT_READY = 2,   /* the shard, when it has everybody's interest */
    SB_SLOT_DEAD = 3,    /* the front, when the process has ended */
};

/* ---- statistics: one row per shard, written by that shard only, read by anyone at any time ---- */
#define SB_LAG_BUCKETS 32 /* bucket i counts values of i binary digits: [2^(i-1), 2^i) ns; the last one also more */
#define SB_STATS_FIELDS(X)                                                                                            \
    X(connections) X(connections_total) X(closed_total) X(subscriptions)                                              \
    X(in_msgs) X(in_bytes) X(out_msgs) X(out_bytes)                                                                   \
    X(xs_out_msgs) X(xs_out_bytes) X(xs_in_msgs) X(xs_in_bytes) /* cross-shard: over rings */                         \
    X(slow_consumers) X(slow_consumers_deadline) X(stalls) X(stale_connections)                                       \
    X(auth_errors) X(protocol_errors)                                                                                 \
    X(wakeups_sent) X(wakeups_missed) X(turns) X(turns_python)                                                        \
    X(ring_full) X(ring_corrupt) X(overflow_bytes) X(overflow_bytes_max)                                              \
    X(redraws) X(redraws_lost) X(control_out) X(control_in)                                                           \
    X(route_hits) X(route_misses) X(directory_full)                                                                   \
    X(rss_bytes) X(cpu_user_us) X(cpu_system_us) X(loop_lag_ns_max) X(loop_lag_ns_sum)

typedef struct {
#define SB_STATS_MEMBER(name) uint64_t name;
    SB_STATS_FIELDS(SB_STATS_MEMBER)
#undef SB_STATS_MEMBER
    uint64_t loop_lag_buckets[SB_LAG_BUCKETS];
} __attribute__((aligned(128))) sb_shard_stats_t;

/* ---- directory: fingerprint -> set of shards ----
 *
 *   page 0        directory header      levels_active, watched: several writers, compare-and-swap, only grow
 *   page 1 ...    versions[4096]        several writers, atomic add: one for each partition (top 12 bits of a key)
 *   then          levels 0, 1, 2, 3     buckets of 8 slots (two lines); a slot changes by 16-byte compare-and-swap only */
#define SB_DIRECTORY_PARTITION_BITS 12
#define SB_DIRECTORY_PARTITIONS (1 << SB_DIRECTORY_PARTITION_BITS)
#define SB_DIRECTORY_LEVELS 4
#define SB_DIRECTORY_BUCKET 8

typedef struct {
    uint32_t levels_active;
    uint32_t watched; /* 1: some keys are those of watchers (hot/watch) */
    uint64_t reserved_8[15];
} sb_directory_header_t;

typedef struct {
    uint64_t fingerprint; /* 0: free */
    uint64_t shards;      /* bit i: shard i has this interest. 0 only in a free slot */
} __attribute__((aligned(16))) sb_directory_slot_t;

/* ---- ring header: one page before the bytes of each ring ----
 *
 *  line 0   magic 4 | version 2 | flags 2 | bytes 8 | writer 4 | reader 4    whoever attaches first (same values)
 *  line 2   tail 8 | writer_pid 4                 the writer only; release, once after a batch
 *  line 4   head 8 | reader_pid 4                 the reader only; release, after the copy
 *  page 1   records: body_bytes 4 | kind 2 | flags 2 | body | pad to 8      a power of two of bytes, mapped twice
 *
 * Positions (tail, head) are 64-bit, only grow, are multiples of 8, and are masked on use. Only the tail store
 * publishes, so a writer killed at any point leaves a consistent ring. */
#define SB_RING_MAGIC 0x474e4952u /* "RING" */
#define SB_RING_CONTROL 1         /* flag: a control ring */
#define SB_RING_BYTES_MAX (UINT64_C(1) << 31)

typedef struct {
    uint32_t magic;
    uint16_t version;
    uint16_t flags;
    uint64_t bytes;
    uint32_t writer;
    uint32_t reader;
    uint64_t reserved_24[13];
    uint64_t tail;
    uint32_t writer_pid;
    uint32_t reserved_140;
    uint64_t reserved_144[14];
    uint64_t head;
    uint32_t reader_pid;
    uint32_t reserved_268;
    uint64_t reserved_272[14];
} sb_ring_header_t;

#define SB_RECORD_KIND_MAX 63 /* kinds are 1 to 63: zeroed memory is never a record. Their meaning: hot/record */
typedef struct {
    uint32_t body_bytes;
    uint16_t kind;
    uint16_t flags;
} sb_record_header_t;

/* ---- what must hold ---- */
_Static_assert(sizeof(sb_header_t) == 512, "header is 8 lines");
_Static_assert(offsetof(sb_header_t, membership) == 256, "membership has other writers: two lines away");
_Static_assert(sizeof(sb_slot_t) == 384, "slot is 3 pairs of lines");
_Static_assert(offsetof(sb_slot_t, heartbeat_ns) == 128, "the shard's line");
_Static_assert(offsetof(sb_slot_t, asleep) == 256, "the doorbell's line");
_Static_assert(sizeof(sb_shard_stats_t) % 128 == 0, "rows of different shards are two lines apart");
_Static_assert(sizeof(sb_directory_header_t) == 128, "directory header is 2 lines");
_Static_assert(sizeof(sb_directory_slot_t) == 16, "a slot is what one compare-and-swap changes");
_Static_assert(sizeof(sb_ring_header_t) == 384, "ring header is 3 pairs of lines");
_Static_assert(offsetof(sb_ring_header_t, tail) == 128, "the writer's line");
_Static_assert(offsetof(sb_ring_header_t, head) == 256, "the reader's line");
_Static_assert(sizeof(sb_record_header_t) == 8, "record header is one word, read at once");

/* ---- the table of fields, for Python: owner, name, offset, bytes of one element, elements ---- */
typedef struct {
    const char *owner;
    const char *name;
    uint32_t offset;
    uint32_t bytes;
    uint32_t count;
} sb_field_t;

#define SB_FIELD(type, name) {#type, #name, offsetof(type, name), sizeof(((type *)0)->name), 1},
#define SB_ARRAY(type, name)                                                                                          \
    {#type, #name, offsetof(type, name), sizeof(((type *)0)->name[0]),                                                \
     sizeof(((type *)0)->name) / sizeof(((type *)0)->name[0])},
#define SB_STATS_ENTRY(name) SB_FIELD(sb_shard_stats_t, name)

static const sb_field_t sb_fields[] = {
    SB_FIELD(sb_header_t, magic) SB_FIELD(sb_header_t, version) SB_FIELD(sb_header_t, header_bytes)
    SB_FIELD(sb_header_t, segment_bytes) SB_FIELD(sb_header_t, creator_pid) SB_FIELD(sb_header_t, shards)
    SB_FIELD(sb_header_t, ring_bytes) SB_FIELD(sb_header_t, control_ring_bytes) SB_FIELD(sb_header_t, page_bytes)
    SB_FIELD(sb_header_t, slots_max) SB_FIELD(sb_header_t, slots_offset) SB_FIELD(sb_header_t, stats_offset)
    SB_FIELD(sb_header_t, directory_offset) SB_FIELD(sb_header_t, rings_offset)
    SB_FIELD(sb_header_t, control_rings_offset) SB_FIELD(sb_header_t, ring_stride)
    SB_FIELD(sb_header_t, control_ring_stride) SB_FIELD(sb_header_t, slot_bytes) SB_FIELD(sb_header_t, stats_bytes)
    SB_ARRAY(sb_header_t, level_bits) SB_FIELD(sb_header_t, reserved_124) SB_FIELD(sb_header_t, created_unix_ns)
    SB_ARRAY(sb_header_t, fingerprint_key) SB_ARRAY(sb_header_t, reserved_152) SB_FIELD(sb_header_t, membership)
    SB_ARRAY(sb_header_t, reserved_264)

    SB_FIELD(sb_slot_t, pid) SB_FIELD(sb_slot_t, epoch) SB_FIELD(sb_slot_t, state) SB_FIELD(sb_slot_t, restarts)
    SB_FIELD(sb_slot_t, booted_unix_ns) SB_ARRAY(sb_slot_t, reserved_24) SB_FIELD(sb_slot_t, heartbeat_ns)
    SB_FIELD(sb_slot_t, turn) SB_FIELD(sb_slot_t, attached) SB_FIELD(sb_slot_t, reserved_148)
    SB_ARRAY(sb_slot_t, reserved_152) SB_FIELD(sb_slot_t, asleep)
    SB_FIELD(sb_slot_t, reserved_260) SB_ARRAY(sb_slot_t, reserved_264)

    SB_STATS_FIELDS(SB_STATS_ENTRY) SB_ARRAY(sb_shard_stats_t, loop_lag_buckets)

    SB_FIELD(sb_directory_header_t, levels_active) SB_FIELD(sb_directory_header_t, watched)
    SB_ARRAY(sb_directory_header_t, reserved_8)
    SB_FIELD(sb_directory_slot_t, fingerprint) SB_FIELD(sb_directory_slot_t, shards)

    SB_FIELD(sb_ring_header_t, magic) SB_FIELD(sb_ring_header_t, version) SB_FIELD(sb_ring_header_t, flags)
    SB_FIELD(sb_ring_header_t, bytes) SB_FIELD(sb_ring_header_t, writer) SB_FIELD(sb_ring_header_t, reader)
    SB_ARRAY(sb_ring_header_t, reserved_24) SB_FIELD(sb_ring_header_t, tail) SB_FIELD(sb_ring_header_t, writer_pid)
    SB_FIELD(sb_ring_header_t, reserved_140) SB_ARRAY(sb_ring_header_t, reserved_144)
    SB_FIELD(sb_ring_header_t, head) SB_FIELD(sb_ring_header_t, reader_pid)
    SB_FIELD(sb_ring_header_t, reserved_268) SB_ARRAY(sb_ring_header_t, reserved_272)

    SB_FIELD(sb_record_header_t, body_bytes) SB_FIELD(sb_record_header_t, kind) SB_FIELD(sb_record_header_t, flags)
};
#define SB_FIELDS_COUNT (sizeof(sb_fields) / sizeof(sb_fields[0]))

#endif
