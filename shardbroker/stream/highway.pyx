# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""HighwayHash of 64 bits: what nats-server has behind each record of a block, and beside each `meta.inf`.

    highway64(key, data) -> 8 bytes         key: 32 bytes

Source: the reference in C, github.com/google/highwayhash.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

cdef struct state_t:
    uint64_t v0[4]
    uint64_t v1[4]
    uint64_t mul0[4]
    uint64_t mul1[4]


cdef inline uint64_t halves(uint64_t x) noexcept nogil:
    return x >> 32 | x << 32


cdef inline void zip_add(uint64_t b, uint64_t a, uint64_t* to_b, uint64_t* to_a) noexcept nogil:
    to_a[0] += ((((a & 0xff000000ULL) | (b & 0xff00000000ULL)) >> 24)
                | (((a & 0xff0000000000ULL) | (b & 0xff000000000000ULL)) >> 16)
                | (a & 0xff0000ULL) | ((a & 0xff00ULL) << 32) | ((b & 0xff00000000000000ULL) >> 8) | (a << 56))
    to_b[0] += ((((b & 0xff000000ULL) | (a & 0xff00000000ULL)) >> 24) | (b & 0xff0000ULL)
                | ((b & 0xff0000000000ULL) >> 16) | ((b & 0xff00ULL) << 24)
                | ((a & 0xff000000000000ULL) >> 8) | ((b & 0xffULL) << 48) | (a & 0xff00000000000000ULL))


cdef void update(state_t* s, const uint64_t* lanes) noexcept nogil:
    cdef int i
    for i in range(4):
        s.v1[i] += s.mul0[i] + lanes[i]
        s.mul0[i] ^= (s.v1[i] & 0xffffffffULL) * (s.v0[i] >> 32)
        s.v0[i] += s.mul1[i]
        s.mul1[i] ^= (s.v0[i] & 0xffffffffULL) * (s.v1[i] >> 32)
    zip_add(s.v1[1], s.v1[0], &s.v0[1], &s.v0[0])
    zip_add(s.v1[3], s.v1[2], &s.v0[3], &s.v0[2])
    zip_add(s.v0[1], s.v0[0], &s.v1[1], &s.v1[0])
    zip_add(s.v0[3], s.v0[2], &s.v1[3], &s.v1[2])


cdef void rest(state_t* s, const uint8_t* p, uint32_t n) noexcept nogil:
    """The last bytes, fewer than 32 and at least one."""
    cdef uint8_t packet[32]
    cdef uint64_t lanes[4]
    cdef uint32_t i, low, high
    cdef uint32_t odd = n & 3
    cdef const uint8_t* tail = p + (n & ~<uint32_t>3)
    memset(packet, 0, 32)
    for i in range(4):
        s.v0[i] += (<uint64_t>n << 32) + n
        low = <uint32_t>s.v1[i]
        high = <uint32_t>(s.v1[i] >> 32)
        s.v1[i] = <uint64_t>(low << n | low >> (32 - n)) | <uint64_t>(high << n | high >> (32 - n)) << 32
    memcpy(packet, p, n & ~<uint32_t>3)
    if n & 16:
        memcpy(packet + 28, tail + odd - 4, 4)
    elif odd:
        packet[16] = tail[0]
        packet[17] = tail[odd >> 1]
        packet[18] = tail[odd - 1]
    memcpy(lanes, packet, 32)
    update(s, lanes)


cdef uint64_t hashed(const char* key, const uint8_t* p, uint64_t n) noexcept nogil:
    cdef state_t s
    cdef uint64_t lanes[4]
    cdef uint64_t k
    cdef int i, _i
    s.mul0[0], s.mul0[1] = 0xdbe6d5d5fe4cce2fULL, 0xa4093822299f31d0ULL
    s.mul0[2], s.mul0[3] = 0x13198a2e03707344ULL, 0x243f6a8885a308d3ULL
    s.mul1[0], s.mul1[1] = 0x3bd39e10cb0ef593ULL, 0xc0acf169b5f18a8cULL
    s.mul1[2], s.mul1[3] = 0xbe5466cf34e90c6cULL, 0x452821e638d01377ULL
    for i in range(4):
        memcpy(&k, key + 8 * i, 8)
        s.v0[i] = s.mul0[i] ^ k
        s.v1[i] = s.mul1[i] ^ halves(k)
    while n >= 32:
        memcpy(lanes, p, 32)
        update(&s, lanes)
        p += 32
        n -= 32
    if n:
        rest(&s, p, <uint32_t>n)
    for _i in range(4):
        lanes[0], lanes[1] = halves(s.v0[2]), halves(s.v0[3])
        lanes[2], lanes[3] = halves(s.v0[0]), halves(s.v0[1])
        update(&s, lanes)
    return s.v0[0] + s.v1[0] + s.mul0[0] + s.mul1[0]


def highway64(bytes key, bytes data):
    cdef uint64_t out
    if len(key) != 32:
        raise ValueError("a key has 32 bytes")
    out = hashed(PyBytes_AS_STRING(key), <const uint8_t*>PyBytes_AS_STRING(data), len(data))
    return PyBytes_FromStringAndSize(<char*>&out, 8)
