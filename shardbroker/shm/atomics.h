/* Atomic operations on plain integers of shared memory. The name carries the ordering.
 *
 * GCC and Clang builtins on ordinary fixed-width integers: Cython does not know C11 `_Atomic`, and `volatile` orders
 * nothing. On x86-64 an acquire load and a release store are plain moves; only fence_full costs (20 to 30 cycles).
 * Used only inside shm/: everything else calls the named operations of ring, doorbell, directory and counters. */
#ifndef SHARDBROKER_SHM_ATOMICS_H
#define SHARDBROKER_SHM_ATOMICS_H

#include <stdint.h>

#if !defined(__GNUC__)
#error "shardbroker needs the __atomic builtins of GCC or Clang"
#endif

static inline uint32_t sb_load_relaxed_u32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline uint64_t sb_load_relaxed_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline uint32_t sb_load_acquire_u32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline uint64_t sb_load_acquire_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }

static inline void sb_store_relaxed_u32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline void sb_store_relaxed_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline void sb_store_release_u32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void sb_store_release_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }

static inline uint32_t sb_exchange_full_u32(uint32_t *p, uint32_t v) {
    return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);
}
static inline uint64_t sb_add_full_u64(uint64_t *p, uint64_t v) { return __atomic_add_fetch(p, v, __ATOMIC_SEQ_CST); }
static inline int sb_cas_full_u32(uint32_t *p, uint32_t expected, uint32_t wanted) {
    return __atomic_compare_exchange_n(p, &expected, wanted, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* Fetch a line for reading and writing; no ordering. */
static inline void sb_prefetch_line(const void *p) { __builtin_prefetch(p, 1); }

/* Loads before stay before everything after. */
static inline void sb_fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
/* The only one that also keeps a store before a later load (sleeping and waking needs it on both sides). */
static inline void sb_fence_full(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

/* Replaces the 16 bytes at p (16-aligned) when they are (low, high); full ordering. 1 when replaced.
 * x86-64: written as assembly, because GCC turns the 16-byte builtins into calls of libatomic (which may lock in
 * process-private memory, useless between processes) unless the whole file is compiled with -mcx16. */
static inline int sb_cas_full_u128(void *p, uint64_t low, uint64_t high, uint64_t new_low, uint64_t new_high) {
#if defined(__x86_64__)
    unsigned char done;
    __asm__ __volatile__("lock cmpxchg16b %1\n\tsete %0"
                         : "=q"(done), "+m"(*(unsigned __int128 *)p), "+a"(low), "+d"(high)
                         : "b"(new_low), "c"(new_high)
                         : "memory", "cc");
    return done;
#elif defined(__aarch64__)
    unsigned __int128 expected = ((unsigned __int128)high << 64) | low;
    unsigned __int128 wanted = ((unsigned __int128)new_high << 64) | new_low;
    return __sync_bool_compare_and_swap((unsigned __int128 *)p, expected, wanted);
#else
#error "shardbroker has a 128-bit compare-and-swap for x86-64 and arm64 only"
#endif
}

#endif
