# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Blocks of S2, which is Snappy with one thing more: a copy that repeats the last distance.

    decode_block(block, most) -> bytes          ValueError when it is none, or is more than `most` bytes
    masked_crc(data) -> int                     as in front of a block in the framing format

Snappy's block format: github.com/google/snappy format_description.txt. What S2 adds: a copy of the first kind with a
distance of 0 repeats the last one; lengths 5, 6 and 7 there say that 1, 2 or 3 bytes of length follow.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from shardbroker.store.format cimport sb_crc32c, sb_crc32c_init

sb_crc32c_init()


cdef inline uint32_t little(const uint8_t* s, int n) noexcept nogil:
    cdef uint32_t value = 0
    cdef int i
    for i in range(n):
        value |= <uint32_t>s[i] << (8 * i)
    return value


cdef bint decode(const uint8_t* s, const uint8_t* end, uint8_t* out, uint64_t size) noexcept nogil:
    """Whether the block is whole and fills the place exactly."""
    cdef uint64_t at = 0
    cdef uint64_t distance = 0
    cdef uint64_t length, i
    cdef uint32_t tag, kind
    cdef int more
    while s < end:
        tag = s[0]
        kind = tag & 3
        s += 1
        if kind == 0:
            # bytes as they are: up to 60, or 1 to 4 bytes say how many
            length = tag >> 2
            if length >= 60:
                more = <int>length - 59
                if end - s < more:
                    return False
                length = little(s, more)
                s += more
            length += 1
            if <uint64_t>(end - s) < length or size - at < length:
                return False
            memcpy(out + at, s, length)
            s += length
            at += length
            continue
        more = 1 if kind == 1 else (2 if kind == 2 else 4)
        if end - s < more:
            return False
        if kind == 1:
            length = tag >> 2 & 7
            i = (tag & 0xe0) << 3 | s[0]
            s += 1
            if i != 0:
                distance = i
            elif length >= 5:
                more = <int>length - 4
                if end - s < more:
                    return False
                length = little(s, more) + (4 if more == 1 else (1 << 8 if more == 2 else 1 << 16))
                s += more
            length += 4
        else:
            length = (tag >> 2) + 1
            distance = little(s, more)
            s += more
        if distance == 0 or distance > at or size - at < length:
            return False
        if distance >= length:
            memcpy(out + at, out + at - distance, length)
        else:
            for i in range(length):
                out[at + i] = out[at + i - distance]
        at += length
    return at == size


def decode_block(bytes block, uint64_t most):
    cdef const uint8_t* s = <const uint8_t*>PyBytes_AS_STRING(block)
    cdef const uint8_t* end = s + len(block)
    cdef uint64_t size = 0
    cdef int shift = 0
    cdef uint8_t tag
    cdef bint whole
    cdef uint8_t* place
    while True:
        if s == end or shift > 28:
            raise ValueError("a compressed block has no length")
        tag = s[0]
        size |= <uint64_t>(tag & 0x7f) << shift
        s += 1
        if tag < 0x80:
            break
        shift += 7
    if size > most:
        raise ValueError("a compressed block is too long")
    out = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    place = <uint8_t*>PyBytes_AS_STRING(out)
    with nogil:
        whole = decode(s, end, place, size)
    if not whole:
        raise ValueError("a compressed block is damaged")
    return out


def masked_crc(bytes data):
    cdef uint32_t crc = sb_crc32c(0, PyBytes_AS_STRING(data), len(data))
    return ((crc >> 15 | crc << 17) + <uint32_t>0xa282ead8) & 0xffffffff
