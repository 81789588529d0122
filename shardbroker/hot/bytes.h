/* Small byte routines of the data path: a keyed 64-bit hash, copies that may overrun, digits.
 *
 * The hash is of the multiply-and-fold family (128-bit product of two 64-bit words, halves xored), keyed with a
 * seed that is drawn once per broker, so that a client cannot choose subjects that collide. Every shard of one
 * broker uses the same seed: the hash of (account, subject) is also the fingerprint in the interest directory.
 */
#ifndef SHARDBROKER_HOT_BYTES_H
#define SHARDBROKER_HOT_BYTES_H

#include <stdint.h>
#include <stddef.h>
#include <string.h>

/* Bytes past the end of a copy that sb_copy may read and write. Every buffer it touches has this much slack. */
#define SB_SLACK 64

/* A time that never comes, in monotonic ns. */
#define SB_NEVER UINT64_MAX

static inline uint64_t sb_load64(const char *p) { uint64_t v; memcpy(&v, p, 8); return v; }
static inline uint32_t sb_load32(const char *p) { uint32_t v; memcpy(&v, p, 4); return v; }

static inline uint64_t sb_fold(uint64_t a, uint64_t b) {
    unsigned __int128 r = (unsigned __int128)a * b;
    return (uint64_t)r ^ (uint64_t)(r >> 64);
}

/* Hash of n bytes; reads only [p, p + n). Never 0: the directory keeps 0 for a free slot. */
static inline uint64_t sb_hash(const char *p, size_t n, uint64_t seed) {
    const uint64_t k0 = 0x9E3779B97F4A7C15ull, k1 = 0xD6E8FEB86659FD93ull, k2 = 0xA0761D6478BD642Full;
    uint64_t h = seed ^ sb_fold(seed ^ k0, n ^ k1), a, b;
    while (n > 16) {
        h = sb_fold(sb_load64(p) ^ k1, sb_load64(p + 8) ^ h);
        p += 16;
        n -= 16;
    }
    if (n >= 8) {
        a = sb_load64(p);
        b = sb_load64(p + n - 8);
    } else if (n >= 4) {
        a = sb_load32(p);
        b = sb_load32(p + n - 4);
    } else if (n > 0) {
        a = ((uint64_t)(uint8_t)p[0] << 16) | ((uint64_t)(uint8_t)p[n >> 1] << 8) | (uint8_t)p[n - 1];
        b = 0;
    } else {
        a = b = 0;
    }
    h = sb_fold(k2 ^ h, sb_fold(a ^ k1, b ^ h));
    return h ? h : 1;
}

/* Copy n bytes in blocks of 32, reading and writing up to 31 bytes past the end: both sides have SB_SLACK. */
static inline void sb_copy(char *dst, const char *src, size_t n) {
    char *end = dst + n;
    do {
        memcpy(dst, src, 32);
        dst += 32;
        src += 32;
    } while (dst < end);
}

/* Decimal digits of v at p; how many. Room for 20. */
static inline int sb_digits(char *p, uint64_t v) {
    char t[20];
    int n = 0, i;
    do { t[n++] = (char)('0' + v % 10); v /= 10; } while (v);
    for (i = 0; i < n; i++) p[i] = t[n - 1 - i];
    return n;
}

/* A size as nats-server reads it (util.go parseSize): 1 to 9 digits, else -1. */
static inline int64_t sb_size(const char *p, size_t n) {
    int64_t v = 0;
    size_t i;
    if (n == 0 || n > 9) return -1;
    for (i = 0; i < n; i++) {
        unsigned d = (unsigned)(uint8_t)p[i] - '0';
        if (d > 9) return -1;
        v = v * 10 + d;
    }
    return v;
}

static inline int sb_bits(uint64_t v) { return __builtin_popcountll(v); }
static inline int sb_lowest(uint64_t v) { return __builtin_ctzll(v); }
#define sb_likely(x) __builtin_expect(!!(x), 1)
#define sb_unlikely(x) __builtin_expect(!!(x), 0)
#define sb_prefetch(p) __builtin_prefetch(p)

#endif
