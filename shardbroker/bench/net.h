/* What every part of the load generator needs of the system: clock, atomics, epoll, dial, subject numbers. */
#ifndef LOAD_NET_H
#define LOAD_NET_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

typedef struct { uint64_t sequence; uint32_t subject; uint16_t publisher; uint16_t mark; } load_stamp;
_Static_assert(sizeof(load_stamp) == 16, "the stamp fills the smallest payload");

static inline int64_t load_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
static inline uint64_t load_get(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void load_set(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void load_add(uint64_t *p, uint64_t v) { __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL); }

static int load_watch(int epoll, int op, int fd, uint32_t events, uint64_t number) {
    struct epoll_event e;
    e.events = events;
    e.data.u64 = number;
    return epoll_ctl(epoll, op, fd, &e);
}
/* Start a TCP connection to host:port (network order) from `source` (network order, 0 the kernel's choice):
   several source addresses, because one has only 28,000 ports. -1 when there is no socket. */
static int load_dial(uint32_t host, uint16_t port, uint32_t source) {
    struct sockaddr_in a;
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    if (source) {
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        a.sin_addr.s_addr = source;
        if (bind(fd, (struct sockaddr *)&a, sizeof a)) { close(fd); return -1; }
    }
    a.sin_addr.s_addr = host;
    a.sin_port = port;
    if (connect(fd, (struct sockaddr *)&a, sizeof a) && errno != EINPROGRESS) { close(fd); return -1; }
    return fd;
}

/* An indexed subject ends in four letters, a number to base 32 (32^4 > 1M). Two digits at once, as they lie
   in memory, and back; filled by load_digits(), which every module calls when it is imported. */
static uint16_t load_pair_text[1024];
static uint8_t load_digit_value[256];

static void load_digits(void) {
    static const char digits[] = "abcdefghijklmnopqrstuvwxyz234567";
    int i;
    memset(load_digit_value, 255, 256);
    for (i = 0; i < 32; i++) load_digit_value[(uint8_t)digits[i]] = (uint8_t)i;
    for (i = 0; i < 1024; i++) {
        ((char *)&load_pair_text[i])[0] = digits[i >> 5];
        ((char *)&load_pair_text[i])[1] = digits[i & 31];
    }
}
static inline void put_index(char *at, uint32_t index) {
    memcpy(at, &load_pair_text[index >> 10 & 1023], 2);
    memcpy(at + 2, &load_pair_text[index & 1023], 2);
}
/* The number at `at` (four bytes), or -1. */
static inline int64_t get_index(const char *at) {
    uint32_t a = load_digit_value[(uint8_t)at[0]], b = load_digit_value[(uint8_t)at[1]];
    uint32_t c = load_digit_value[(uint8_t)at[2]], d = load_digit_value[(uint8_t)at[3]];
    return (a | b | c | d) > 31 ? -1 : (int64_t)(a << 15 | b << 10 | c << 5 | d);
}

#endif
