# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""accept(2) as a listener that hands descriptors on needs it: several at once, and no socket object for each.

Python's socket.accept asks the kernel for the family of each, makes it blocking, and wraps it; three system calls where one
is enough, and 10 us of objects that are thrown away at once.
"""
from libc.errno cimport errno
from libc.string cimport strerror

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    struct sockaddr:
        unsigned short sa_family
    struct sockaddr_storage:
        unsigned short ss_family
    int accept4(int fd, sockaddr* address, socklen_t* bytes, int flags)
    enum:
        AF_INET
        AF_INET6
        SOCK_CLOEXEC
        SOCK_NONBLOCK

cdef extern from "<arpa/inet.h>" nogil:
    struct in_addr:
        pass
    struct in6_addr:
        unsigned char s6_addr[16]
    struct sockaddr_in:
        unsigned short sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_port
        in6_addr sin6_addr
    bint IN6_IS_ADDR_V4MAPPED(in6_addr* address)
    const char* inet_ntop(int family, const void* address, char* text, socklen_t bytes)
    unsigned short ntohs(unsigned short port)
    enum:
        INET6_ADDRSTRLEN


def accept_connection(int listener):
    """(descriptor, ip, port) of the next connection; the descriptor is non-blocking and close-on-exec. Raises OSError.

    An IPv4 client of a listener for both is told by its IPv4 address.
    """
    cdef sockaddr_storage address
    cdef socklen_t n = sizeof(address)
    cdef char[INET6_ADDRSTRLEN] text
    cdef sockaddr_in6* v6 = <sockaddr_in6*>&address
    cdef int fd = accept4(listener, <sockaddr*>&address, &n, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if fd < 0:
        raise OSError(errno, strerror(errno).decode())
    if address.ss_family == AF_INET:
        inet_ntop(AF_INET, &(<sockaddr_in*>&address).sin_addr, text, sizeof(text))
        return fd, text.decode("ascii"), ntohs((<sockaddr_in*>&address).sin_port)
    if IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr):
        inet_ntop(AF_INET, &v6.sin6_addr.s6_addr[12], text, sizeof(text))
    else:
        inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof(text))
    return fd, text.decode("ascii"), ntohs(v6.sin6_port)
