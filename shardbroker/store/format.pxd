"""What stands in a segment file. docs/durability.md has the pictures.

    0      segment_header_t                              again at 2048, should the first be damaged
    4096   record, record, ...                           each at a multiple of 8; zeros behind the last

    record   record_t | [displaced u64] | [expires i64] | subject | tail | zeros to 8
             tail of a message: "[header_bytes ]payload_bytes CRLF headers payload CRLF"

A batch begins with a MARK, which says how far the log was durable when the batch was written. So a gap that a later
mark calls durable is damage, and one that none does is the torn end of a write that no one was told of.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "shardbroker/store/bytes.h" nogil:
    uint32_t sb_crc32c(uint32_t seed, const char* p, size_t n)
    uint32_t sb_crc32c_portable(uint32_t seed, const char* p, size_t n)
    uint32_t sb_crc32c_hardware(uint32_t seed, const char* p, size_t n)
    int sb_crc32c_fast()
    void sb_crc32c_init()
    uint32_t sb_crc32c_seed_of(uint32_t crc, const char* p, size_t n)
    const uint64_t SEGMENT_MAGIC

cdef enum:
    SEGMENT_VERSION = 1
    SEGMENT_HEADER_BYTES = 4096
    SEGMENT_COPY_AT = 2048
    SEGMENT_BYTES_MIN = 1 << 20
    SEGMENT_BYTES_MAX = 64 << 20
    RECORD_BYTES_MAX = 128 << 20
    SEGMENT_RESERVE = 4096              # kept free at the end for marks and removals

cdef enum:
    SEGMENT_REWRITTEN = 1               # by compaction: sequences may be missing in it

cdef enum:
    KIND_MESSAGE = 1
    KIND_REMOVE = 2                     # body: range_t ...
    KIND_MARK = 3                       # body: mark_t
    KIND_ERASED = 4                     # a message whose bytes were overwritten
    KIND_MASK = 0x0F
    FLAG_DISPLACED = 0x10
    FLAG_EXPIRES = 0x20

cdef struct segment_header_t:
    uint64_t magic
    uint32_t version
    uint32_t flags
    uint64_t id
    uint64_t covers                     # compaction put segments id..covers into this one
    uint64_t first_seq                  # none in it is lower
    uint64_t end_seq                    # SEGMENT_REWRITTEN: one behind the last that was in it; else 0
    uint64_t capacity
    int64_t created_ns
    uint32_t salt                       # seed of the records' checksums
    uint32_t crc                        # of the bytes before it

cdef struct record_t:
    uint32_t crc                        # of the bytes behind it, up to `bytes`
    uint32_t bytes                      # of the record, without the padding
    uint64_t seq                        # MARK, REMOVE: the next one
    int64_t time_ns
    int32_t header_bytes                # -1: no headers
    uint16_t subject_bytes
    uint8_t sizes_bytes                 # of the tail's first line, with CRLF
    uint8_t kind

cdef struct mark_t:
    uint64_t durable_seq                # when this batch was handed over
    uint64_t first_seq                  # messages before it are gone
    uint64_t reserved


cdef inline uint64_t padded(uint64_t n) noexcept nogil:
    return (n + 7) & ~<uint64_t>7


cdef inline uint64_t page_down(uint64_t n) noexcept nogil:
    return n & ~<uint64_t>4095


cdef inline uint64_t page_up(uint64_t n) noexcept nogil:
    return (n + 4095) & ~<uint64_t>4095


cdef inline uint32_t record_extra(const record_t* r) noexcept nogil:
    return ((r.kind & FLAG_DISPLACED) >> 1) + ((r.kind & FLAG_EXPIRES) >> 2)


cdef inline uint64_t* record_displaced(const record_t* r) noexcept nogil:
    """With FLAG_DISPLACED: the message that had to go for this one, to keep max_msgs_per_subject."""
    return <uint64_t*>(<char*>r + sizeof(record_t))


cdef inline int64_t* record_expires(const record_t* r) noexcept nogil:
    return <int64_t*>(<char*>r + sizeof(record_t) + ((r.kind & FLAG_DISPLACED) >> 1))


cdef inline const char* record_subject(const record_t* r) noexcept nogil:
    return <const char*>r + sizeof(record_t) + record_extra(r)


cdef inline uint32_t record_payload_bytes(const record_t* r) noexcept nogil:
    """Headers included."""
    return r.bytes - <uint32_t>sizeof(record_t) - record_extra(r) - r.subject_bytes - r.sizes_bytes - 2


cdef inline uint64_t counted_bytes(bint memory, uint32_t subject_bytes, int32_t header_bytes,
                                   uint32_t payload_bytes) noexcept nogil:
    """What a message counts towards max_bytes (filestore.go fileStoreMsgSizeRaw, memstore.go memStoreMsgSizeRaw)."""
    if memory:
        return <uint64_t>subject_bytes + payload_bytes + 16
    return <uint64_t>subject_bytes + payload_bytes + 30 + (4 if header_bytes > 0 else 0)


cdef inline bint record_check(const char* at, uint64_t room, uint32_t salt) noexcept nogil:
    """Whether a record stands at `at`, of which `room` bytes may be looked at. Every length is checked before use."""
    cdef const record_t* r = <const record_t*>at
    cdef uint8_t kind
    cdef uint64_t least
    cdef uint64_t payload
    if room < sizeof(record_t) or r.bytes < sizeof(record_t) or r.bytes > room or r.bytes > RECORD_BYTES_MAX:
        return False
    kind = r.kind & KIND_MASK
    if kind < KIND_MESSAGE or kind > KIND_ERASED or r.kind & 0xC0:
        return False
    least = sizeof(record_t)
    if kind == KIND_MESSAGE:
        least += <uint64_t>record_extra(r) + r.subject_bytes + r.sizes_bytes + 2
        if r.bytes < least or r.subject_bytes == 0 or r.sizes_bytes < 3:
            return False
        payload = r.bytes - least
        if r.header_bytes < -1 or (r.header_bytes > 0 and <uint64_t>r.header_bytes > payload):
            return False
    elif kind == KIND_MARK:
        if r.bytes != sizeof(record_t) + sizeof(mark_t):
            return False
    elif kind == KIND_ERASED:
        if r.bytes < least + record_extra(r):
            return False
    elif kind == KIND_REMOVE and (r.bytes - sizeof(record_t)) % 16:
        return False
    return sb_crc32c(salt, at + 4, r.bytes - 4) == r.crc
