# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Transforms and mappings. Applied by the engine to what is published in an account that maps, and by imports; needs no GIL.

A transform_t is one block: the struct, its pieces, their token numbers, their text. Nothing is checked here that
shardbroker/transform.py has checked; results agree with Transform.apply, which is the oracle.
"""
from libc.stdint cimport uint32_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy

from shardbroker.hot.bytes cimport sb_digits
from shardbroker.hot.deliver cimport random_below
from shardbroker.hot.memory cimport mem_alloc, mem_zero
from shardbroker.hot.model cimport account_t, destination_t, mapping_t, piece_t, transform_t
from shardbroker.hot.permissions cimport pattern_matches
from shardbroker.hot.state cimport engine_t
from shardbroker.hot.sublist cimport SUBJECT_LITERAL, SUBJECT_PATTERN, subject_check

cdef enum:
    TEXT = 0
    WILDCARD = 1
    PARTITION = 2
    SPLIT_FROM_LEFT = 3
    SPLIT_FROM_RIGHT = 4
    SLICE_FROM_LEFT = 5
    SLICE_FROM_RIGHT = 6
    RIGHT = 7
    LEFT = 8
    SPLIT = 9
    RANDOM = 10
    REST = 11
    NO_REST = 0xFFFFFFFF
    TOKENS_MAX = 2048                   # a control line has no more

_FUNCTIONS = ("", "wildcard", "partition", "splitfromleft", "splitfromright", "slicefromleft", "slicefromright", "right",
              "left", "split", "random")


cdef transform_t* transform_make(object transform) except NULL:
    """One block, to be freed with free()."""
    cdef transform_t* t
    cdef piece_t* p
    cdef char* at
    cdef bytes text
    cdef size_t text_bytes
    cdef uint32_t tokens
    rows = []
    for piece in transform.pieces:
        if piece.text == ">" and not piece.function:
            rows.append((REST, b"", (), 0))
        else:
            text = (piece.delimiter if piece.function == "split" else piece.text).encode("utf-8", "surrogateescape")
            rows.append((_FUNCTIONS.index(piece.function), text, piece.tokens, piece.number))
    tokens = sum([len(row[2]) for row in rows])
    text_bytes = sum([len(row[1]) for row in rows])
    t = <transform_t*>mem_zero(sizeof(transform_t) + len(rows) * sizeof(piece_t) + tokens * sizeof(uint32_t) + text_bytes + 1)
    t.pieces = <piece_t*>(<char*>t + sizeof(transform_t))
    t.tokens = <uint32_t*>(t.pieces + len(rows))
    at = <char*>(t.tokens + tokens)
    t.rest = NO_REST
    if transform.source == ">" or transform.source.endswith(".>"):
        t.rest = <uint32_t>transform.source.count(".")
    tokens = 0
    for function, text, positions, number in rows:
        p = &t.pieces[t.pieces_count]
        t.pieces_count += 1
        p.function = function
        p.number = number
        p.text = at
        p.text_bytes = <uint32_t>len(text)
        memcpy(at, <char*>text, len(text))
        at += len(text)
        t.text_bytes += <uint32_t>len(text)
        p.first = tokens
        p.count = <uint32_t>len(positions)
        for position in positions:
            t.tokens[tokens] = position
            tokens += 1
    return t


cdef inline size_t put(char* out, const char* s, size_t n) noexcept nogil:
    memcpy(out, s, n)
    return n


cdef size_t cut(char* out, const char* token, uint32_t n, uint32_t at) noexcept nogil:
    """A token in two."""
    memcpy(out, token, at)
    out[at] = c'.'
    memcpy(out + at + 1, token + at, n - at)
    return n + <size_t>1


cdef size_t slices(char* out, const char* token, uint32_t n, uint32_t size, uint32_t first) noexcept nogil:
    """A token in pieces of a size; the first one may be shorter."""
    cdef size_t length = 0
    cdef uint32_t at = 0
    cdef uint32_t step = first if first else size
    while at < n:
        if at:
            out[length] = c'.'
            length += 1
        if step > n - at:
            step = n - at
        length += put(out + length, token + at, step)
        at += step
        step = size
    return length


cdef size_t split(char* out, const char* token, uint32_t n, const char* delimiter, uint32_t m) noexcept nogil:
    """A token at a delimiter, empty parts left out; without one, its characters (of UTF-8)."""
    cdef size_t length = 0
    cdef uint32_t at = 0
    cdef uint32_t start = 0
    while at <= n:
        if m == 0:
            if at and (at == n or <unsigned char>token[at] & 0xC0 != 0x80) and at > start:
                if length:
                    out[length] = c'.'
                    length += 1
                length += put(out + length, token + start, at - start)
                start = at
            at += 1
        elif at == n or (at + m <= n and memcmp(token + at, delimiter, m) == 0):
            if at > start:
                if length:
                    out[length] = c'.'
                    length += 1
                length += put(out + length, token + start, at - start)
            at = at + m if at < n else n + 1
            start = at
        else:
            at += 1
    return length


cdef uint32_t fnv(uint32_t value, const char* s, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        value = (value ^ <unsigned char>s[i]) * <uint32_t>0x01000193
    return value


cdef const char* transform_apply(engine_t* e, const transform_t* t, const char* subject, uint32_t n, uint32_t* bytes) noexcept nogil:
    """What a subject that matches the source becomes. In memory that lasts until the next transform: `subject` may lie
    there too."""
    cdef uint32_t starts[TOKENS_MAX + 1]
    cdef uint32_t count = 0
    cdef uint32_t i, k, value, size, at
    cdef size_t need = (<size_t>t.pieces_count + 1) * (2 * <size_t>n + 24) + t.text_bytes
    cdef size_t length = 0
    cdef const piece_t* p
    cdef const char* token
    cdef char* out
    starts[0] = 0
    for i in range(n):
        if subject[i] == c'.' and count < TOKENS_MAX - 1:
            count += 1
            starts[count] = i + 1
    count += 1
    starts[count] = n + 1
    out = <char*>mem_alloc(need)
    for i in range(t.pieces_count):
        p = &t.pieces[i]
        if i:
            out[length] = c'.'
            length += 1
        if p.function == TEXT:
            length += put(out + length, p.text, p.text_bytes)
            continue
        if p.function == REST:
            at = starts[t.rest] if t.rest < count else n
            length += put(out + length, subject + at, n - at)
            continue
        if p.function == RANDOM:
            value = <uint32_t>(p.number if p.number >= 0 else -p.number)
            length += <size_t>sb_digits(out + length, random_below(e, value) if value else 0)
            continue
        if p.function == PARTITION:
            value = <uint32_t>0x811C9DC5
            if p.count == 0:
                value = fnv(value, subject, n)
            for k in range(p.count):
                at = t.tokens[p.first + k]
                value = fnv(value, subject + starts[at], starts[at + 1] - 1 - starts[at])
            size = <uint32_t>p.number
            length += <size_t>sb_digits(out + length, value % size if size else 0)
            continue
        at = t.tokens[p.first]
        token = subject + starts[at]
        size = starts[at + 1] - 1 - starts[at]
        if p.function == SPLIT:
            length += split(out + length, token, size, p.text, p.text_bytes)
        elif p.function == WILDCARD or not 0 < p.number < size:
            length += put(out + length, token, size)
        elif p.function == SPLIT_FROM_LEFT:
            length += cut(out + length, token, size, <uint32_t>p.number)
        elif p.function == SPLIT_FROM_RIGHT:
            length += cut(out + length, token, size, size - <uint32_t>p.number)
        elif p.function == LEFT:
            length += put(out + length, token, <size_t>p.number)
        elif p.function == RIGHT:
            length += put(out + length, token + size - p.number, <size_t>p.number)
        elif p.function == SLICE_FROM_LEFT:
            length += slices(out + length, token, size, <uint32_t>p.number, 0)
        else:
            length += slices(out + length, token, size, <uint32_t>p.number, size % <uint32_t>p.number)
    free(e.transformed)
    e.transformed = out
    bytes[0] = <uint32_t>length
    return out


# ---- mappings ---------------------------------------------------------------------------------------------------

cdef bint mapping_apply(engine_t* e, account_t* a, const char** subject, uint32_t* n) noexcept nogil:
    """Change the subject as the first mapping that it matches says. False: it is dropped."""
    cdef uint32_t i, k, draw
    cdef mapping_t* m
    cdef destination_t* d
    for i in range(a.mappings_count):
        m = &a.mappings[i]
        if m.wild:
            if not pattern_matches(m.source, m.source_bytes, subject[0], n[0]):
                continue
        elif m.source_bytes != n[0] or memcmp(m.source, subject[0], n[0]) != 0:
            continue
        draw = random_below(e, 100) if m.count != 1 or m.destinations[0].below != 100 else 0
        for k in range(m.count):
            d = &m.destinations[k]
            if draw < d.below:
                subject[0] = transform_apply(e, d.transform, subject[0], n[0], n)
                # Imports transform while it is delivered.
                free(e.mapped)
                e.mapped = e.transformed
                e.transformed = NULL
                # split() may leave nothing of a token; no client could be told such a subject, so nobody gets the message.
                return subject_check(subject[0], n[0]) == SUBJECT_LITERAL
        return False
    return True


cdef int mappings_set(account_t* a, list mappings) except -1:
    """Other mappings: (source, [(weights up to and with this one, Transform)]) in the order in which they are tried."""
    cdef mapping_t* m
    cdef bytes source
    mappings_free(a)
    if not mappings:
        return 0
    a.mappings = <mapping_t*>mem_zero(len(mappings) * sizeof(mapping_t))
    for source, destinations in mappings:
        m = &a.mappings[a.mappings_count]
        a.mappings_count += 1
        m.source = <char*>mem_alloc(len(source) + 1)
        memcpy(m.source, <char*>source, len(source))
        m.source_bytes = <uint32_t>len(source)
        m.wild = subject_check(source, len(source)) == SUBJECT_PATTERN
        m.destinations = <destination_t*>mem_zero((len(destinations) + 1) * sizeof(destination_t))
        for below, transform in destinations:
            m.destinations[m.count].below = below
            m.destinations[m.count].transform = transform_make(transform)
            m.count += 1
    return 0


cdef void mappings_free(account_t* a) noexcept nogil:
    cdef uint32_t i, k
    for i in range(a.mappings_count):
        for k in range(a.mappings[i].count):
            free(a.mappings[i].destinations[k].transform)
        free(a.mappings[i].destinations)
        free(a.mappings[i].source)
    free(a.mappings)
    a.mappings = NULL
    a.mappings_count = 0
