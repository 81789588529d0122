/* CRC32C (Castagnoli), by the processor where it can, else by tables; and the few system names that Cython lacks.
 *
 * sb_crc32c(seed, p, n) chains: the answer may be the seed of the next call. With a seed of its own each segment has its
 * own checksums, so that a record's bytes inside someone's payload are no valid record.
 */
#ifndef SHARDBROKER_STORE_BYTES_H
#define SHARDBROKER_STORE_BYTES_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <stdint.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#define SEGMENT_MAGIC 0x31474F4C42530A0Dull     /* CR LF "SBLOG1": a text mode transfer would break it */

#if defined(__x86_64__)
#include <nmmintrin.h>
__attribute__((target("sse4.2")))
static uint32_t sb_crc32c_hardware(uint32_t seed, const char *p, size_t n) {
    uint64_t c = ~seed;
    while (n >= 32) {
        uint64_t v[4];
        memcpy(v, p, 32);
        c = _mm_crc32_u64(c, v[0]);
        c = _mm_crc32_u64(c, v[1]);
        c = _mm_crc32_u64(c, v[2]);
        c = _mm_crc32_u64(c, v[3]);
        p += 32; n -= 32;
    }
    while (n >= 8) { uint64_t v; memcpy(&v, p, 8); c = _mm_crc32_u64(c, v); p += 8; n -= 8; }
    while (n) { c = _mm_crc32_u8((uint32_t)c, (uint8_t)*p++); n--; }
    return ~(uint32_t)c;
}
static inline int sb_crc32c_fast(void) { return __builtin_cpu_supports("sse4.2"); }
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
static uint32_t sb_crc32c_hardware(uint32_t seed, const char *p, size_t n) {
    uint32_t c = ~seed;
    while (n >= 8) { uint64_t v; memcpy(&v, p, 8); c = __crc32cd(c, v); p += 8; n -= 8; }
    while (n) { c = __crc32cb(c, (uint8_t)*p++); n--; }
    return ~c;
}
static inline int sb_crc32c_fast(void) { return 1; }
#else
static uint32_t sb_crc32c_hardware(uint32_t seed, const char *p, size_t n) { (void)p; (void)n; return seed; }
static inline int sb_crc32c_fast(void) { return 0; }
#endif

/* Slicing by eight; the tables are made by the first module that asks, before any thread exists. */
static uint32_t sb_crc32c_tables[8][256];
static int sb_crc32c_ready;

static void sb_crc32c_init(void) {
    uint32_t i, j, c;
    if (sb_crc32c_ready) return;
    for (i = 0; i < 256; i++) {
        c = i;
        for (j = 0; j < 8; j++) c = (c >> 1) ^ (0x82F63B78u & (0u - (c & 1)));
        sb_crc32c_tables[0][i] = c;
    }
    for (i = 0; i < 256; i++)
        for (j = 1; j < 8; j++)
            sb_crc32c_tables[j][i] = (sb_crc32c_tables[j - 1][i] >> 8) ^ sb_crc32c_tables[0][sb_crc32c_tables[j - 1][i] & 255];
    sb_crc32c_ready = 1;
}

static uint32_t sb_crc32c_portable(uint32_t seed, const char *p, size_t n) {
    uint32_t c = ~seed, low, high;
    while (n >= 8) {
        memcpy(&low, p, 4); memcpy(&high, p + 4, 4);
        low ^= c;
        c = sb_crc32c_tables[7][low & 255] ^ sb_crc32c_tables[6][(low >> 8) & 255]
          ^ sb_crc32c_tables[5][(low >> 16) & 255] ^ sb_crc32c_tables[4][low >> 24]
          ^ sb_crc32c_tables[3][high & 255] ^ sb_crc32c_tables[2][(high >> 8) & 255]
          ^ sb_crc32c_tables[1][(high >> 16) & 255] ^ sb_crc32c_tables[0][high >> 24];
        p += 8; n -= 8;
    }
    while (n) { c = (c >> 8) ^ sb_crc32c_tables[0][(c ^ (uint8_t)*p++) & 255]; n--; }
    return ~c;
}

static inline uint32_t sb_crc32c(uint32_t seed, const char *p, size_t n) {
    return sb_crc32c_fast() ? sb_crc32c_hardware(seed, p, n) : sb_crc32c_portable(seed, p, n);
}

/* The seed with which these bytes have this checksum. There is exactly one: a checksum is its seed, moved by n bytes, which
 * can be undone, exclusive-or what the bytes add; so 32 equations with 32 unknowns, solved by elimination. */
static inline uint32_t sb_crc32c_seed_of(uint32_t crc, const char *p, size_t n) {
    uint32_t base = sb_crc32c(0, p, n), columns[32], from[32], seed = 0;
    int bit, i;
    for (i = 0; i < 32; i++) {
        columns[i] = sb_crc32c(1u << i, p, n) ^ base;
        from[i] = 1u << i;
    }
    crc ^= base;
    for (bit = 0; bit < 32; bit++) {
        /* Of the columns that are left, one that has this bit stands for it; it is taken out of the others. */
        for (i = bit; i < 32 && !(columns[i] >> bit & 1); i++) {}
        if (i == 32) return 0;                  /* cannot be */
        uint32_t column = columns[i], mask = from[i];
        columns[i] = columns[bit]; from[i] = from[bit];
        columns[bit] = column; from[bit] = mask;
        for (i = bit + 1; i < 32; i++)
            if (columns[i] >> bit & 1) { columns[i] ^= column; from[i] ^= mask; }
        if (crc >> bit & 1) { crc ^= column; seed ^= mask; }
    }
    return seed;
}

#endif
