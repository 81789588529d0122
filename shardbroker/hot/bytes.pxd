from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "shardbroker/hot/bytes.h" nogil:
    enum:
        SB_SLACK
    uint64_t SB_NEVER
    uint64_t sb_load64(const char* p)
    uint32_t sb_load32(const char* p)
    uint64_t sb_hash(const char* p, size_t n, uint64_t seed)
    void sb_copy(char* dst, const char* src, size_t n)
    int sb_digits(char* p, uint64_t v)
    int64_t sb_size(const char* p, size_t n)
    int sb_bits(uint64_t v)
    int sb_lowest(uint64_t v)
    bint sb_likely(bint x)
    bint sb_unlikely(bint x)
    void sb_prefetch(const void* p)
