"""The atomic operations of atomics.h: the name carries the ordering. Used inside shm/ only."""
from libc.stdint cimport uint32_t, uint64_t


cdef extern from "shardbroker/shm/atomics.h" nogil:
    uint32_t load_relaxed_u32 "sb_load_relaxed_u32"(const uint32_t *p) noexcept
    uint64_t load_relaxed_u64 "sb_load_relaxed_u64"(const uint64_t *p) noexcept
    uint32_t load_acquire_u32 "sb_load_acquire_u32"(const uint32_t *p) noexcept
    uint64_t load_acquire_u64 "sb_load_acquire_u64"(const uint64_t *p) noexcept
    void store_relaxed_u32 "sb_store_relaxed_u32"(uint32_t *p, uint32_t value) noexcept
    void store_relaxed_u64 "sb_store_relaxed_u64"(uint64_t *p, uint64_t value) noexcept
    void store_release_u32 "sb_store_release_u32"(uint32_t *p, uint32_t value) noexcept
    void store_release_u64 "sb_store_release_u64"(uint64_t *p, uint64_t value) noexcept
    uint32_t exchange_full_u32 "sb_exchange_full_u32"(uint32_t *p, uint32_t value) noexcept
    uint64_t add_full_u64 "sb_add_full_u64"(uint64_t *p, uint64_t value) noexcept
    bint cas_full_u32 "sb_cas_full_u32"(uint32_t *p, uint32_t expected, uint32_t wanted) noexcept
    bint cas_full_u128 "sb_cas_full_u128"(
        void *p, uint64_t low, uint64_t high, uint64_t new_low, uint64_t new_high) noexcept
    void prefetch "sb_prefetch_line"(const void *p) noexcept
    void fence_acquire "sb_fence_acquire"() noexcept
    void fence_full "sb_fence_full"() noexcept
