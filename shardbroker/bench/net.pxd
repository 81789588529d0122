# What net.h gives the modules of the load generator, and their common constants.

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

cdef extern from "shardbroker/bench/net.h":
    ctypedef struct load_stamp:
        uint64_t sequence
        uint32_t subject
        uint16_t publisher
        uint16_t mark
    int64_t load_now() noexcept nogil
    uint64_t load_get(const uint64_t*) noexcept nogil
    void load_set(uint64_t*, uint64_t) noexcept nogil
    enum:
        LOAD_GROUPS_MAX
        LOAD_REASON_BYTES
        LOAD_BUCKETS
    ctypedef struct load_line:
        uint64_t count
        uint64_t sum
        uint64_t sent
        uint64_t sent_sum
        uint64_t finished
        uint64_t last_ns
    ctypedef struct load_board:
        uint64_t failed
        uint64_t stop
        char* reason
        load_line* line
    int load_claim(load_board*) noexcept nogil
    int load_fail(load_board*, const char* what, const char* text, size_t count) noexcept nogil
    int load_fail_errno(load_board*, const char* what) noexcept nogil
    uint64_t load_mix(uint64_t sequence, uint32_t publisher) noexcept nogil
    ctypedef struct load_histogram:
        uint64_t total
        uint64_t least
        uint64_t most
        uint64_t sum
        uint64_t* bucket
    uint32_t load_bucket(uint64_t ns) noexcept nogil
    void load_record(load_histogram*, int64_t ns) noexcept nogil
    int load_wait(int epoll, epoll_event* events, int count, int64_t ns) noexcept nogil
    int load_watch(int epoll, int op, int fd, uint32_t events, uint64_t number) noexcept nogil
    int load_dial(const unsigned char* host, size_t host_bytes, uint16_t port, uint32_t source) noexcept nogil

    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLLERR
        EPOLLHUP
        EPOLL_CTL_ADD
        EPOLL_CTL_MOD
        EPOLL_CTL_DEL
        MSG_NOSIGNAL
        MSG_DONTWAIT
    int epoll_create1(int flags) noexcept nogil
    int epoll_wait(int epoll, epoll_event* events, int count, int timeout_ms) noexcept nogil
    ssize_t send(int fd, const void* data, size_t count, int flags) noexcept nogil
    ssize_t recv(int fd, void* data, size_t count, int flags) noexcept nogil
    int close(int fd) noexcept nogil
    void load_digits() noexcept nogil
    void put_index(char* at, uint32_t index) noexcept nogil
    int64_t get_index(const char* at) noexcept nogil
    ctypedef struct load_message:
        const char* subject
        const char* reply
        const char* headers
        const char* body
        size_t subject_bytes
        size_t reply_bytes
        size_t header_bytes
        size_t body_bytes
        uint64_t sid
    const char* load_number(const char* at, const char* stop, uint64_t* value) noexcept nogil
    ssize_t load_parse(const char* at, const char* stop, size_t most, load_message* m) noexcept nogil
    void* memmem(const void* data, size_t count, const void* part, size_t part_count) noexcept nogil

cdef enum:
    MARK = 0x5342            # "BS": the stamp's last two bytes, so that any other payload is recognised
    LINE_MAX = 8192          # longest control line of a server that is kept over two reads (INFO is the longest)
    RECEIVE_BYTES = 256 * 1024   # one read; half of the L2 cache of the machines at hand
    EVENTS_MAX = 256
