# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""See person.pxd. Called by exchange and latency for messages that go to another account; nobody else comes here. Needs the
GIL only where a client is told of whole for the first time.
"""
from libc.stdint cimport int32_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from shardbroker.hot.bytes cimport sb_digits
from shardbroker.hot.memory cimport mem_alloc
from shardbroker.hot.model cimport account_t, connection_t
from shardbroker.hot.state cimport engine_t

cdef const char* HEX = b"0123456789abcdef"


cdef inline uint32_t put(char* out, const char* text, uint32_t n) noexcept nogil:
    memcpy(out, text, n)
    return n


cdef uint32_t put_quoted(char* out, const char* text, uint32_t n) noexcept nogil:
    """A JSON string: at most 6 n + 2 bytes."""
    cdef uint32_t length = 1
    cdef uint32_t i
    cdef char b
    out[0] = c'"'
    for i in range(n):
        b = text[i]
        if b == c'"' or b == c'\\' or 0 <= b < 32:
            memcpy(out + length, b"\\u00", 4)
            out[length + 4] = HEX[b >> 4]
            out[length + 5] = HEX[b & 15]
            length += 6
        else:
            out[length] = b
            length += 1
    out[length] = c'"'
    return length + 1


cdef void remember(engine_t* e, connection_t* c) noexcept nogil:
    """Keep what Python says of a client: the members of a JSON object, from a quotation mark to the last value."""
    with gil:
        try:
            text = (<object>e.describe)(c.slot, c.client_id)
        except Exception:
            text = b""                  # it is told of by its account only; the describer logs
        c.info = <char*>mem_alloc(<size_t>len(text) + 1)
        memcpy(c.info, <char*>text, len(text))
        c.info_bytes = <uint32_t>len(text)


cdef void person_forget(connection_t* c) noexcept nogil:
    """It is someone else now, or gone."""
    free(c.info)
    c.info = NULL
    c.info_bytes = 0


cdef char* person_text(engine_t* e, connection_t* c, account_t* asker, account_t* by, int tell, uint32_t* n) noexcept nogil:
    """A JSON object of who asks; the caller frees it. c NULL: the broker itself. by: the account whose import the request
    came through before this one, NULL when it is the first."""
    cdef char* out
    cdef uint32_t length = 1
    cdef uint32_t info_bytes = 0
    if tell == TELL_ALL and c != NULL and e.describe != NULL:
        if c.info == NULL:
            remember(e, c)
        info_bytes = c.info_bytes
    out = <char*>mem_alloc(<size_t>info_bytes + e.server_name_bytes + 6 * (
        <size_t>asker.name_bytes + (by.name_bytes if by != NULL else 0)) + 96)
    out[0] = c'{'
    if info_bytes:
        length += put(out + length, c.info, info_bytes)
        out[length] = c','
        length += 1
    length += put(out + length, b'"acc":', 6)
    length += put_quoted(out + length, asker.name, asker.name_bytes)
    if by != NULL:
        length += put(out + length, b',"svc":', 7)
        length += put_quoted(out + length, by.name, by.name_bytes)
    if c != NULL and c.rtt_ns:
        length += put(out + length, b',"rtt":', 7)
        length += <uint32_t>sb_digits(out + length, c.rtt_ns)
    if tell != TELL_ACCOUNT and info_bytes == 0 and e.server_name_bytes:
        length += put(out + length, b',"server":', 10)
        length += put(out + length, e.server_name, e.server_name_bytes)
    out[length] = c'}'
    n[0] = length + 1
    return out


cdef bint is_info(const char* line, uint32_t n) noexcept nogil:
    """Whether a header line is Nats-Request-Info, which only the broker may say."""
    cdef uint32_t i
    cdef char b
    if n < 18 or line[17] != c':':
        return False
    for i in range(17):
        b = line[i]
        if c'A' <= b <= c'Z':
            b += 32
        if b != (<const char*>b"nats-request-info")[i]:
            return False
    return True


cdef char* with_info(engine_t* e, connection_t* c, account_t* asker, account_t* by, int tell, int32_t* header_bytes,
                     const char* payload, uint32_t* payload_bytes) noexcept nogil:
    """The payload with a header that says who asks, in the place of any that was there."""
    cdef uint32_t before = <uint32_t>header_bytes[0] if header_bytes[0] > 0 else 0
    cdef uint32_t body = payload_bytes[0] - before
    cdef uint32_t person_bytes
    cdef char* person = person_text(e, c, asker, by, tell, &person_bytes)
    cdef char* out = <char*>mem_alloc(<size_t>payload_bytes[0] + person_bytes + 64)
    cdef uint32_t length = 0
    cdef uint32_t at = 0
    cdef uint32_t end
    if before:
        while at < before:
            end = at
            while end + 1 < before and not (payload[end] == c'\r' and payload[end + 1] == c'\n'):
                end += 1
            end = end + 2 if end + 1 < before else before
            if end - at <= 2:
                break                   # the empty line at the end
            if not is_info(payload + at, end - at):
                length += put(out + length, payload + at, end - at)
            at = end
    else:
        length = put(out, b"NATS/1.0\r\n", 10)
    length += put(out + length, b"Nats-Request-Info: ", 19)
    length += put(out + length, person, person_bytes)
    length += put(out + length, b"\r\n\r\n", 4)
    free(person)
    header_bytes[0] = <int32_t>length
    length += put(out + length, payload + before, body)
    payload_bytes[0] = length
    return out
