# What calls and pulls share: a connection with an output buffer and the beginning of an input that the last read cut.

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdlib cimport malloc
from libc.string cimport memchr, memcpy, memmove

from shardbroker.bench.net cimport (
    EPOLLIN, EPOLLOUT, EPOLL_CTL_MOD, LINE_MAX, MSG_DONTWAIT, MSG_NOSIGNAL, RECEIVE_BYTES, load_board, load_fail,
    load_fail_errno, load_watch, recv, send,
)


cdef struct wire:
    int fd
    bint blocked             # TCP takes no more, EPOLLOUT is awaited
    char* out
    size_t out_room
    size_t out_filled
    size_t out_sent
    char* carry              # carry_room bytes
    size_t carry_room
    size_t carried


cdef inline size_t wire_room(wire* w) noexcept nogil:
    return w.out_room - w.out_filled


cdef inline int wire_put(wire* w, const char* data, size_t count) noexcept nogil:
    """Append to the output; the caller has looked at wire_room."""
    memcpy(w.out + w.out_filled, data, count)
    w.out_filled += count
    return 0


cdef inline int wire_flush(wire* w, load_board* board, int epoll, int number, const char* who) noexcept nogil:
    """Write what TCP takes. -1: the connection is gone."""
    cdef ssize_t n
    if w.out_sent < w.out_filled:
        n = send(w.fd, w.out + w.out_sent, w.out_filled - w.out_sent, MSG_NOSIGNAL | MSG_DONTWAIT)
        if n < 0 and errno != EAGAIN and errno != EINTR:
            return load_fail_errno(board, who)
        if n > 0:
            w.out_sent += <size_t>n
    if w.out_sent == w.out_filled:
        w.out_sent = w.out_filled = 0
    elif w.out_sent > w.out_room // 2:
        memmove(w.out, w.out + w.out_sent, w.out_filled - w.out_sent)
        w.out_filled -= w.out_sent
        w.out_sent = 0
    if w.blocked != (w.out_filled > 0):
        w.blocked = w.out_filled > 0
        load_watch(epoll, EPOLL_CTL_MOD, w.fd, EPOLLIN | EPOLLOUT if w.blocked else EPOLLIN, number)
    return 0


cdef inline ssize_t wire_read(wire* w, load_board* board, char* buffer, const char* who) noexcept nogil:
    """What the last read left and what a read brings, in `buffer`: all bytes of it, 0 for nothing new, -1 for the end."""
    cdef ssize_t n
    memcpy(buffer, w.carry, w.carried)
    n = recv(w.fd, buffer + w.carried, RECEIVE_BYTES, MSG_DONTWAIT)
    if n <= 0:
        if n < 0 and (errno == EAGAIN or errno == EINTR):
            return 0
        if n == 0:
            return load_fail(board, who, w.carry, w.carried)
        return load_fail_errno(board, who)
    n += <ssize_t>w.carried
    w.carried = 0
    return n


cdef inline int wire_keep(wire* w, load_board* board, const char* at, size_t count) noexcept nogil:
    """Keep the beginning of a frame for the next read."""
    if count > w.carry_room:
        return load_fail(board, b"frame too long", at, count)
    memcpy(w.carry, at, count)
    w.carried = count
    return 0


cdef inline ssize_t wire_line(wire* w, load_board* board, const char* at, const char* stop) noexcept nogil:
    """A line that is no message: its bytes, 0 when it is not whole yet, -1 for a failure. A PING is answered."""
    cdef const char* end = <const char*>memchr(at, 10, stop - at)
    if end == NULL:
        return 0
    if at[0] == b'P' and at[1] == b'I':
        if wire_room(w) >= 6:
            wire_put(w, b"PONG\r\n", 6)
    elif at[0] != b'I' and not (at[0] == b'P' and at[1] == b'O'):
        return load_fail(board, b"got", at, end - at)
    return end + 1 - at


cdef inline int wire_make(wire* w, int fd, size_t out_room, size_t carry_room) except -1:
    """Buffers for one connection; their owner frees them."""
    w.fd = fd
    w.out_room = out_room
    w.carry_room = carry_room
    w.out = <char*>malloc(out_room)
    w.carry = <char*>malloc(carry_room)
    if w.out == NULL or w.carry == NULL:
        raise MemoryError
    return 0


cdef inline char* copied(bytes text) except NULL:
    """The bytes in memory of their own, for loops without the GIL."""
    cdef char* made = <char*>malloc(len(text) + 1)
    if made == NULL:
        raise MemoryError
    memcpy(made, <const char*>text, len(text) + 1)
    return made
