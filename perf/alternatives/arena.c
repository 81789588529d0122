/* Payloads inline in each reader's ring, or once in the writer's arena with descriptors of 8 bytes.
 *
 *     arena inline|arena READERS BYTES all|one COUNT
 *
 * One process writes COUNT messages for all readers or for one in turn; each reader is a process. It copies what it gets to
 * memory of its own, as a shard does with what it delivers, and checks it. Prints deliveries, wall ns, the writer's CPU ns,
 * the readers' CPU ns, and how often anybody slept because a ring was full or empty. Status 1 when anything was wrong.
 */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { RING_BYTES = 4 << 20, DESCRIPTORS = 1 << 16, ARENA_BYTES = 4 << 20, BATCH = 16, READERS_MAX = 63, NAP_NS = 20000 };

typedef struct {
    _Alignas(64) _Atomic uint64_t written;        /* of inline: bytes; of arena: descriptors */
    _Alignas(64) _Atomic uint64_t read;
    _Atomic uint64_t released;                    /* arena bytes that this reader is done with */
    _Alignas(64) uint64_t wrong, sleeps, cpu_ns, got;
    _Alignas(64) char ring[RING_BYTES];           /* or DESCRIPTORS of 8 bytes */
} reader_t;

typedef struct {
    _Atomic int done;
    _Alignas(64) char arena[ARENA_BYTES];
    reader_t reader[];
} shared_t;

static shared_t *s;
static int readers, all, by_arena;
static uint32_t bytes;
static uint64_t sleeps;

static uint64_t now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void nap(uint64_t *count) {
    struct timespec t = {0, NAP_NS};
    nanosleep(&t, NULL);
    ++*count;
}

static uint64_t padded(uint64_t n) { return (n + 7) & ~(uint64_t)7; }

/* ---- the writer ---- */

static uint64_t position[READERS_MAX];            /* as `written`, not published yet */
static uint64_t arena_at;

static void publish(void) {
    for (int i = 0; i < readers; i++)
        atomic_store_explicit(&s->reader[i].written, position[i], memory_order_release);
}

/* n bytes in one piece: what does not fit before the end is skipped with a record of size 0. */
static char *claim_inline(int i, uint64_t n) {
    reader_t *r = &s->reader[i];
    uint64_t rest = RING_BYTES - position[i] % RING_BYTES;
    uint64_t wanted = rest < n ? rest + n : n;
    while (position[i] + wanted - atomic_load_explicit(&r->read, memory_order_acquire) > RING_BYTES) {
        publish();
        nap(&sleeps);
    }
    if (rest < n) {
        *(uint64_t *)(r->ring + position[i] % RING_BYTES) = 0;
        position[i] += rest;
    }
    char *p = r->ring + position[i] % RING_BYTES;
    position[i] += n;
    return p;
}

static uint64_t arena_free_from(void) {
    uint64_t least = arena_at;
    for (int i = 0; i < readers; i++) {
        uint64_t released = atomic_load_explicit(&s->reader[i].released, memory_order_acquire);
        if (atomic_load_explicit(&s->reader[i].read, memory_order_acquire) != position[i] && released < least)
            least = released;
    }
    return least;
}

static char *claim_arena(uint64_t n) {
    uint64_t rest = ARENA_BYTES - arena_at % ARENA_BYTES;
    if (rest < n)
        arena_at += rest;
    static uint64_t known;                        /* free up to here when it was looked at last */
    while (arena_at + n - known > ARENA_BYTES && arena_at + n - (known = arena_free_from()) > ARENA_BYTES) {
        publish();
        nap(&sleeps);
    }
    char *p = s->arena + arena_at % ARENA_BYTES;
    arena_at += n;
    return p;
}

static void describe(int i, uint64_t at) {
    reader_t *r = &s->reader[i];
    while (position[i] - atomic_load_explicit(&r->read, memory_order_acquire) >= DESCRIPTORS) {
        publish();
        nap(&sleeps);
    }
    ((uint64_t *)r->ring)[position[i]++ % DESCRIPTORS] = at;
}

static void write_all(uint64_t count, const char *payload) {
    for (uint64_t number = 0; number < count; number++) {
        int first = all ? 0 : (int)(number % (uint64_t)readers), end = all ? readers : first + 1;
        if (by_arena) {
            uint64_t n = padded(bytes);
            char *p = claim_arena(n);
            memcpy(p, payload, bytes);
            memcpy(p, &number, 8);
            for (int i = first; i < end; i++)
                describe(i, arena_at - n);
        } else {
            for (int i = first; i < end; i++) {
                char *p = claim_inline(i, 8 + padded(bytes));
                *(uint64_t *)p = bytes;
                memcpy(p + 8, payload, bytes);
                memcpy(p + 8, &number, 8);
            }
        }
        if (number % BATCH == BATCH - 1)
            publish();
    }
    publish();
    atomic_store(&s->done, 1);
}

/* ---- a reader ---- */

static void read_all(int i) {
    reader_t *r = &s->reader[i];
    char *own = malloc(bytes);
    uint64_t at = 0, due = all ? 0 : (uint64_t)i, step = all ? 1 : (uint64_t)readers, number;
    uint64_t began = now(CLOCK_PROCESS_CPUTIME_ID);
    for (;;) {
        int done = atomic_load(&s->done);
        uint64_t end = atomic_load_explicit(&r->written, memory_order_acquire);
        if (at == end) {
            if (done)
                break;
            nap(&r->sleeps);
            continue;
        }
        uint64_t released = 0;
        while (at != end) {
            const char *p;
            if (by_arena) {
                uint64_t where = ((uint64_t *)r->ring)[at++ % DESCRIPTORS];
                p = s->arena + where % ARENA_BYTES;
                released = where + padded(bytes);
            } else {
                p = r->ring + at % RING_BYTES;
                if (*(const uint64_t *)p == 0) {
                    at += RING_BYTES - at % RING_BYTES;
                    continue;
                }
                at += 8 + padded(bytes);
                p += 8;
            }
            memcpy(own, p, bytes);
            memcpy(&number, own, 8);
            r->wrong += number != due || (bytes > 8 && own[bytes - 1] != 'x');
            due += step;
            r->got++;
        }
        if (by_arena)
            atomic_store_explicit(&r->released, released, memory_order_release);
        atomic_store_explicit(&r->read, at, memory_order_release);
    }
    r->cpu_ns = now(CLOCK_PROCESS_CPUTIME_ID) - began;
    _exit(0);
}

int main(int argc, char **argv) {
    if (argc != 6)
        return 2;
    by_arena = strcmp(argv[1], "arena") == 0;
    readers = atoi(argv[2]);
    bytes = (uint32_t)strtoul(argv[3], NULL, 10);
    all = strcmp(argv[4], "all") == 0;
    uint64_t count = strtoull(argv[5], NULL, 10);
    if (readers < 1 || readers > READERS_MAX || bytes < 8 || bytes > RING_BYTES / 8)
        return 2;
    size_t size = sizeof(shared_t) + (size_t)readers * sizeof(reader_t);
    s = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (s == MAP_FAILED)
        return 2;
    char *payload = malloc(bytes);
    memset(payload, 'x', bytes);
    for (int i = 0; i < readers; i++)
        if (fork() == 0)
            read_all(i);
    uint64_t began = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    write_all(count, payload);
    cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    while (wait(NULL) > 0)
        ;
    uint64_t wall = now(CLOCK_MONOTONIC) - began, got = 0, wrong = 0, theirs = 0;
    for (int i = 0; i < readers; i++) {
        got += s->reader[i].got;
        wrong += s->reader[i].wrong;
        theirs += s->reader[i].cpu_ns;
        sleeps += s->reader[i].sleeps;
    }
    if (wrong || got != count * (all ? (uint64_t)readers : 1)) {
        fprintf(stderr, "%lu of %lu deliveries, %lu wrong\n", (unsigned long)got, (unsigned long)count, (unsigned long)wrong);
        return 1;
    }
    printf("%lu %lu %lu %lu %lu\n", (unsigned long)got, (unsigned long)wall, (unsigned long)cpu, (unsigned long)theirs,
           (unsigned long)sleeps);
    return 0;
}
