/* What every part of the load generator needs: clock, epoll, dial, subject numbers, the board, histograms. */
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
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
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

/* The board: what the generators of one run tell each other while they run, in memory that all of them map. A group is
   one thread or process; it alone writes its line. A line has two cache lines, which the prefetcher fetches together. */
enum { LOAD_GROUPS_MAX = 64, LOAD_REASON_BYTES = 512 };
typedef struct {
    uint64_t count;         /* units so far: deliveries, answers, lives; see each loop */
    uint64_t sum;           /* of load_mix of what was received, modulo 2^64 */
    uint64_t sent;          /* messages written so far */
    uint64_t sent_sum;      /* of load_mix of what was sent */
    uint64_t finished;      /* flows whose last PONG is here */
    uint64_t last_ns;       /* when the last unit came */
    uint64_t padding[10];
} load_line;
typedef struct {
    uint64_t failed;        /* 1: somebody writes the reason, 2: it can be read. All groups end. */
    uint64_t stop;          /* 1: whoever waits for the run wants its end; what is sent already is waited for */
    uint64_t padding[14];
    char reason[LOAD_REASON_BYTES];
    load_line line[LOAD_GROUPS_MAX];
} load_board;

/* The first failure wins: 1 for the group that may write the reason, and then must load_set(&failed, 2). */
static inline int load_claim(load_board *b) {
    uint64_t none = 0;
    return __atomic_compare_exchange_n(&b->failed, &none, 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}
/* Record why the run fails: "what: 'text'", with at most 200 bytes of text. Always -1. */
static inline int load_fail(load_board *b, const char *what, const char *text, size_t bytes) {
    if (load_claim(b)) {
        snprintf(b->reason, LOAD_REASON_BYTES, "%s: '%.*s'", what, (int)(bytes < 200 ? bytes : 200), text);
        load_set(&b->failed, 2);
    }
    return -1;
}
static inline int load_fail_errno(load_board *b, const char *what) {
    const char *text = strerror(errno);
    return load_fail(b, what, text, strlen(text));
}
/* A message's share of a sum over messages: two lost and two doubled ones do not cancel out (splitmix64's finish). */
static inline uint64_t load_mix(uint64_t sequence, uint32_t publisher) {
    uint64_t z = sequence + ((uint64_t)publisher << 44) + 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* A histogram of times in ns: exact below 256, then 128 buckets for each power of two, so a bucket is never wider than
   1/128 of its values; 2^42 ns (73 minutes) and more count in the last. histogram.py says what is read from it. */
enum { LOAD_BUCKETS = 35 * 128 + 128 };
typedef struct { uint64_t total, least, most, sum, bucket[LOAD_BUCKETS]; } load_histogram;

static inline uint32_t load_bucket(uint64_t ns) {
    int shift;
    if (ns < 256) return (uint32_t)ns;
    if (ns >> 42) return LOAD_BUCKETS - 1;
    shift = 56 - __builtin_clzll(ns);           /* what is left after it lies in 128..255 */
    return (uint32_t)(shift * 128 + (int)(ns >> shift));
}
static inline void load_record(load_histogram *h, int64_t signed_ns) {
    uint64_t ns = signed_ns > 0 ? (uint64_t)signed_ns : 0;
    if (!h->total || ns < h->least) h->least = ns;
    if (ns > h->most) h->most = ns;
    h->total += 1;
    h->sum += ns;
    h->bucket[load_bucket(ns)] += 1;
}

/* epoll_wait with a time-out in ns; to the millisecond, rounded down, where the kernel has none (before 5.11). */
static int load_wait(int epoll, struct epoll_event *events, int count, int64_t ns) {
#ifdef SYS_epoll_pwait2
    static int missing;
    if (!missing) {
        struct timespec t;
        int n;
        t.tv_sec = ns / 1000000000;
        t.tv_nsec = ns % 1000000000;
        n = (int)syscall(SYS_epoll_pwait2, epoll, events, count, &t, NULL, (size_t)0);
        if (n >= 0 || errno != ENOSYS) return n;
        missing = 1;
    }
#endif
    return epoll_wait(epoll, events, count, (int)(ns / 1000000));
}
static int load_watch(int epoll, int op, int fd, uint32_t events, uint64_t number) {
    struct epoll_event e;
    e.events = events;
    e.data.u64 = number;
    return epoll_ctl(epoll, op, fd, &e);
}
/* Start a TCP connection to a host of 4 or 16 bytes and a port (network order) from `source` (IPv4 in network order, 0 the
   kernel's choice): several source addresses, because one has only 28,000 ports. -1 when there is no socket. */
static int load_dial(const unsigned char *host, size_t host_bytes, uint16_t port, uint32_t source) {
    struct sockaddr_in a;
    struct sockaddr_in6 a6;
    int v6 = host_bytes == 16, one = 1, done;
    int fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    if (source && !v6) {
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        a.sin_addr.s_addr = source;
        if (bind(fd, (struct sockaddr *)&a, sizeof a)) { close(fd); return -1; }
    }
    if (v6) {
        memset(&a6, 0, sizeof a6);
        a6.sin6_family = AF_INET6;
        memcpy(&a6.sin6_addr, host, 16);
        a6.sin6_port = port;
        done = connect(fd, (struct sockaddr *)&a6, sizeof a6);
    } else {
        memcpy(&a.sin_addr, host, 4);
        a.sin_port = port;
        done = connect(fd, (struct sockaddr *)&a, sizeof a);
    }
    if (done && errno != EINPROGRESS) { close(fd); return -1; }
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

/* One message as a client gets it, where the loop does not know beforehand what it looks like. */
typedef struct {
    const char *subject, *reply, *headers, *body;
    size_t subject_bytes, reply_bytes, header_bytes, body_bytes;
    uint64_t sid;
} load_message;

static inline const char *load_number(const char *at, const char *stop, uint64_t *value) {
    const char *from = at;
    uint64_t n = 0;
    while (at < stop && *at >= '0' && *at <= '9' && at - from < 10) n = n * 10 + (uint64_t)(*at++ - '0');
    *value = n;
    return at > from ? at : NULL;
}
/* MSG subject sid [reply] bytes, or HMSG subject sid [reply] header-bytes bytes, at `at`. The bytes of the whole frame, 0
   when it is not all there, -1 when it is no such thing or longer than `most`. */
static ssize_t load_parse(const char *at, const char *stop, size_t most, load_message *m) {
    const char *word[7], *end[7], *p = at, *line;
    int words = 0, headers = *at == 'H';
    uint64_t total = 0, first = 0;
    size_t look = (size_t)(stop - at) < 8192 ? (size_t)(stop - at) : 8192;
    line = (const char *)memchr(at, 10, look);
    if (!line) return look == 8192 ? -1 : 0;
    if (line == at || line[-1] != 13) return -1;
    while (p < line - 1) {
        if (words == 6) return -1;
        word[words] = p;
        while (p < line - 1 && *p != ' ') p++;
        end[words++] = p;
        if (p < line - 1) p++;
    }
    if (words < 4 + headers || words > 5 + headers) return -1;
    if ((size_t)(end[0] - word[0]) != 3u + (unsigned)headers || memcmp(end[0] - 3, "MSG", 3)) return -1;
    if (load_number(word[2], end[2], &m->sid) != end[2]) return -1;
    if (load_number(word[words - 1], end[words - 1], &total) != end[words - 1]) return -1;
    if (headers && (load_number(word[words - 2], end[words - 2], &first) != end[words - 2] || first > total)) return -1;
    if (total > most) return -1;
    m->subject = word[1];
    m->subject_bytes = (size_t)(end[1] - word[1]);
    m->reply = words == 5 + headers ? word[3] : NULL;
    m->reply_bytes = m->reply ? (size_t)(end[3] - word[3]) : 0;
    m->headers = line + 1;
    m->header_bytes = first;
    m->body = line + 1 + first;
    m->body_bytes = total - first;
    if ((size_t)(stop - line - 1) < total + 2) return 0;
    if (line[1 + total] != 13 || line[2 + total] != 10) return -1;
    return line + 3 + total - at;
}

#endif
