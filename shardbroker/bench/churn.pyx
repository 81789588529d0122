# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Connections that come and go.

    connect -> INFO -> CONNECT, PING -> PONG -> close, `width` of them at a time. Unit: one whole life.
"""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr, memcmp, memcpy, strerror

from shardbroker.bench.net cimport (
    EPOLLIN, EPOLL_CTL_ADD, EVENTS_MAX, LINE_MAX, MSG_DONTWAIT, MSG_NOSIGNAL, REASON_BYTES, close,
    epoll_create1, epoll_event, epoll_wait, load_dial, load_digits, load_now, load_watch, recv, send,
)

from shardbroker.bench import LoadError

load_digits()


cdef enum:
    CHURN_WIDTH_MAX = 128

cdef struct life:
    int fd
    bint greeted             # INFO has been seen and CONNECT sent
    int64_t born_ns
    size_t have
    char text[LINE_MAX]


cdef int life_begin(life* one, int epoll, int number, uint32_t host, uint16_t port,
                    uint32_t source) noexcept nogil:
    one.fd = load_dial(host, port, source)
    if one.fd < 0:
        return -1
    one.greeted = False
    one.have = 0
    one.born_ns = load_now()
    return load_watch(epoll, EPOLL_CTL_ADD, one.fd, EPOLLIN, number)


cdef int run_churn(life* lives, int width, uint32_t host, uint16_t port, bint loopback, int64_t deadline_ns,
                   const char* hello, size_t hello_bytes, uint64_t* done, uint32_t* samples,
                   uint64_t samples_max, char* reason) noexcept nogil:
    cdef epoll_event events[EVENTS_MAX]
    cdef int epoll = epoll_create1(0), i, n, living = 0, result = 0
    cdef uint32_t turn = 0
    cdef ssize_t got
    cdef life* one
    cdef char* pong
    cdef int64_t now
    for i in range(width):
        if life_begin(&lives[i], epoll, i, host, port, source_of(host, loopback, turn)):
            snprintf(reason, REASON_BYTES, b"connect: %s", strerror(errno))
            result = -1
            break
        turn += 1
        living += 1
    while living and result == 0:
        n = epoll_wait(epoll, events, EVENTS_MAX, 20000)
        if n == 0:
            snprintf(reason, REASON_BYTES, b"no answer for 20 s")
            result = -1
        for i in range(n):
            one = &lives[events[i].data.u64]
            got = recv(one.fd, one.text + one.have, LINE_MAX - 1 - one.have, MSG_DONTWAIT)
            if got <= 0:
                snprintf(reason, REASON_BYTES, b"closed by the server: %s '%.*s'",
                         strerror(errno if got < 0 else 0),
                         <int>(one.have if one.have < 200 else 200), one.text)
                result = -1
                break
            one.have += <size_t>got
            if not one.greeted:
                if memchr(one.text, 10, one.have) == NULL:
                    continue
                if memcmp(one.text, b"INFO ", 5):
                    snprintf(reason, REASON_BYTES, b"not INFO: '%.*s'", 100, one.text)
                    result = -1
                    break
                one.greeted = True
                one.have = 0
                if send(one.fd, hello, hello_bytes, MSG_NOSIGNAL | MSG_DONTWAIT) != <ssize_t>hello_bytes:
                    snprintf(reason, REASON_BYTES, b"could not send CONNECT")
                    result = -1
                    break
                continue
            if one.have < 6:
                continue
            pong = one.text                         # a server may repeat INFO before the PONG
            while memcmp(pong, b"INFO ", 5) == 0 and memchr(pong, 10, one.have - (pong - one.text)) != NULL:
                pong = <char*>memchr(pong, 10, one.have - (pong - one.text)) + 1
            if one.text + one.have - pong < 6:
                continue
            if memcmp(pong, b"PONG\r\n", 6):
                if pong[0] == b'I':
                    continue
                snprintf(reason, REASON_BYTES, b"not PONG: '%.*s'", <int>(one.text + one.have - pong), pong)
                result = -1
                break
            close(one.fd)
            one.fd = -1
            now = load_now()
            if done[0] < samples_max:
                samples[done[0]] = <uint32_t>(now - one.born_ns)
            done[0] += 1
            if now >= deadline_ns:
                living -= 1
            else:
                if life_begin(one, epoll, <int>(one - lives), host, port, source_of(host, loopback, turn)):
                    snprintf(reason, REASON_BYTES, b"connect: %s", strerror(errno))
                    result = -1
                    break
                turn += 1
    for i in range(width):
        if lives[i].fd > 0:
            close(lives[i].fd)
    close(epoll)
    return result


cdef uint32_t source_of(uint32_t host, bint loopback, uint32_t turn) noexcept nogil:
    """127.0.0.1 .. 127.0.0.8 in turn when the server is on the loopback, in network order; 0 otherwise."""
    if not loopback:
        return 0
    return (host & 0x00ffffffU) | (1 + turn % 8) << 24


def churn(bytes host, int port, *, double seconds, int width, bytes hello):
    """Connect, greet and close for `seconds`, `width` at a time. host: four bytes. hello: CONNECT and PING.

    Returns connections, seconds and latencies_ns (uint32, from connect to PONG).
    """
    cdef life* lives
    cdef uint32_t* samples
    cdef uint64_t done = 0, samples_max = 1 << 20
    cdef uint32_t address
    cdef uint16_t network_port = <uint16_t>(port >> 8 | (port & 255) << 8)
    cdef char reason[REASON_BYTES]
    cdef int64_t started_ns
    cdef bint loopback = host[0] == 127
    cdef int result
    cdef const char* text = hello
    cdef size_t text_bytes = len(hello)
    if not 1 <= width <= CHURN_WIDTH_MAX or len(host) != 4:
        raise ValueError("width or host out of range")
    memcpy(&address, <const char*>host, 4)
    reason[0] = 0
    lives = <life*>calloc(width, sizeof(life))
    samples = <uint32_t*>malloc(samples_max * 4)
    try:
        if lives == NULL or samples == NULL:
            raise MemoryError
        started_ns = load_now()
        with nogil:
            result = run_churn(lives, width, address, network_port, loopback,
                               started_ns + <int64_t>(seconds * 1e9), text, text_bytes, &done, samples,
                               samples_max, reason)
        if result:
            raise LoadError(reason.decode("utf-8", "backslashreplace"))
        return {"connections": done, "seconds": (load_now() - started_ns) / 1e9,
                "latencies_ns": (<char*>samples)[:min(done, samples_max) * 4]}
    finally:
        free(lives)
        free(samples)
