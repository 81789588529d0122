/* The sends of a wide fan-out: sendmsg for each socket, all by one io_uring_enter, or by a kernel thread that watches the ring.
 *
 *     uring sendmsg|uring|sqpoll BYTES TURNS
 *
 * A turn sends BYTES on each of 64 TCP connections over loopback and waits until all are taken. Another process receives and
 * checks. Prints sends, wall ns, the sender's CPU ns (with its kernel thread), the receiver's CPU ns. Status 1 when anything
 * was wrong; 3, and why, when this kernel does not let us use io_uring.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SOCKETS = 64, READ_BYTES = 256 << 10, IDLE_MS = 1000 };

typedef struct {
    int fd;
    unsigned entries;
    _Atomic unsigned *sq_head, *sq_tail, *sq_flags, *cq_head, *cq_tail;
    unsigned sq_mask, cq_mask, *sq_array;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
} ring_t;

static uint64_t now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t cpu_ns(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000u + (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000u;
}

static void fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

/* ---- the ring, without a library ---- */

static void ring_open(ring_t *r, unsigned flags) {
    struct io_uring_params p = {0};
    p.flags = flags;
    p.sq_thread_idle = IDLE_MS;
    r->fd = (int)syscall(SYS_io_uring_setup, SOCKETS, &p);
    if (r->fd < 0) {
        printf("io_uring cannot be used here: %s\n", strerror(errno));
        exit(3);
    }
    size_t sq = p.sq_off.array + p.sq_entries * sizeof(unsigned), cq = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
    char *s = mmap(NULL, sq, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, IORING_OFF_SQ_RING);
    char *c = mmap(NULL, cq, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, IORING_OFF_CQ_RING);
    r->sqes = mmap(NULL, p.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd,
                   IORING_OFF_SQES);
    if (s == MAP_FAILED || c == MAP_FAILED || r->sqes == MAP_FAILED)
        fail("mmap of the ring");
    r->entries = p.sq_entries;
    r->sq_head = (_Atomic unsigned *)(s + p.sq_off.head);
    r->sq_tail = (_Atomic unsigned *)(s + p.sq_off.tail);
    r->sq_flags = (_Atomic unsigned *)(s + p.sq_off.flags);
    r->sq_mask = *(unsigned *)(s + p.sq_off.ring_mask);
    r->sq_array = (unsigned *)(s + p.sq_off.array);
    r->cq_head = (_Atomic unsigned *)(c + p.cq_off.head);
    r->cq_tail = (_Atomic unsigned *)(c + p.cq_off.tail);
    r->cq_mask = *(unsigned *)(c + p.cq_off.ring_mask);
    r->cqes = (struct io_uring_cqe *)(c + p.cq_off.cqes);
}

/* One turn: a send on each socket, and their completions. */
static void ring_turn(ring_t *r, const int *fds, const char *data, uint32_t bytes, int by_thread) {
    unsigned tail = atomic_load_explicit(r->sq_tail, memory_order_relaxed), seen = 0;
    for (unsigned i = 0; i < SOCKETS; i++) {
        unsigned at = (tail + i) & r->sq_mask;
        struct io_uring_sqe *e = &r->sqes[at];
        memset(e, 0, sizeof *e);
        e->opcode = IORING_OP_SEND;
        e->fd = fds[i];
        e->addr = (uint64_t)(uintptr_t)data;
        e->len = bytes;
        e->msg_flags = MSG_WAITALL | MSG_NOSIGNAL;
        r->sq_array[at] = at;
    }
    atomic_store_explicit(r->sq_tail, tail + SOCKETS, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);
    unsigned submit = SOCKETS;
    while (seen < SOCKETS) {
        unsigned flags = IORING_ENTER_GETEVENTS;
        if (by_thread) {
            submit = 0;
            if (atomic_load(r->sq_flags) & IORING_SQ_NEED_WAKEUP)
                flags |= IORING_ENTER_SQ_WAKEUP;
        }
        long n = syscall(SYS_io_uring_enter, r->fd, submit, SOCKETS - seen, flags, NULL, 0);
        if (n < 0 && errno != EINTR)
            fail("io_uring_enter");
        if (n > 0)
            submit -= (unsigned)n < submit ? (unsigned)n : submit;
        unsigned head = atomic_load_explicit(r->cq_head, memory_order_relaxed);
        for (; head != atomic_load_explicit(r->cq_tail, memory_order_acquire); head++, seen++) {
            int got = r->cqes[head & r->cq_mask].res;
            if (got != (int)bytes) {
                errno = got < 0 ? -got : EIO;
                fail("a send of the ring");
            }
        }
        atomic_store_explicit(r->cq_head, head, memory_order_release);
    }
}

static void send_turn(const int *fds, const char *data, uint32_t bytes) {
    for (int i = 0; i < SOCKETS; i++) {
        struct iovec v = {(void *)data, bytes};
        struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
        if (sendmsg(fds[i], &m, MSG_NOSIGNAL) != (ssize_t)bytes)
            fail("sendmsg");
    }
}

/* ---- the other side ---- */

static void receive(const int *fds, uint64_t each, int result) {
    static char buffer[READ_BYTES];
    struct epoll_event events[SOCKETS];
    uint64_t left = SOCKETS * each, wrong = 0, began = cpu_ns();
    int epoll = epoll_create1(0);
    for (int i = 0; i < SOCKETS; i++) {
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fds[i]};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &e);
    }
    while (left) {
        int n = epoll_wait(epoll, events, SOCKETS, 10000);
        if (n <= 0)
            break;
        for (int i = 0; i < n; i++) {
            ssize_t got = recv(events[i].data.fd, buffer, sizeof buffer, 0);
            if (got <= 0)
                _exit(1);
            left -= (uint64_t)got;
            wrong += buffer[0] != 'x' || buffer[got - 1] != 'x';
        }
    }
    uint64_t said[2] = {cpu_ns() - began, left + wrong};
    _exit(write(result, said, sizeof said) != sizeof said);
}

static void connected(int *here, int *there) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&a, n) || listen(listener, SOCKETS) ||
        getsockname(listener, (struct sockaddr *)&a, &n))
        fail("listen");
    for (int i = 0; i < SOCKETS; i++) {
        here[i] = socket(AF_INET, SOCK_STREAM, 0);
        if (here[i] < 0 || connect(here[i], (struct sockaddr *)&a, n) || (there[i] = accept(listener, NULL, NULL)) < 0)
            fail("connect");
        setsockopt(here[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    close(listener);
}

int main(int argc, char **argv) {
    if (argc != 4)
        return 2;
    int by_ring = strcmp(argv[1], "sendmsg") != 0, by_thread = strcmp(argv[1], "sqpoll") == 0;
    uint32_t bytes = (uint32_t)strtoul(argv[2], NULL, 10);
    uint64_t turns = strtoull(argv[3], NULL, 10), said[2];
    int here[SOCKETS], there[SOCKETS], result[2];
    ring_t ring = {0};
    if (bytes == 0 || turns == 0)
        return 2;
    if (by_ring)
        ring_open(&ring, by_thread ? IORING_SETUP_SQPOLL : 0);
    char *data = malloc(bytes);
    memset(data, 'x', bytes);
    connected(here, there);
    if (pipe(result))
        fail("pipe");
    pid_t other = fork();
    if (other == 0)
        receive(there, turns * bytes, result[1]);
    uint64_t began = now(CLOCK_MONOTONIC), cpu = cpu_ns();
    for (uint64_t i = 0; i < turns; i++) {
        if (by_ring)
            ring_turn(&ring, here, data, bytes, by_thread);
        else
            send_turn(here, data, bytes);
    }
    cpu = cpu_ns() - cpu;
    close(result[1]);
    if (read(result[0], said, sizeof said) != sizeof said || said[1]) {
        fprintf(stderr, "not all of it arrived as it was sent\n");
        return 1;
    }
    uint64_t wall = now(CLOCK_MONOTONIC) - began;
    waitpid(other, NULL, 0);
    printf("%lu %lu %lu %lu\n", (unsigned long)(turns * SOCKETS), (unsigned long)wall, (unsigned long)cpu, (unsigned long)said[0]);
    return 0;
}
