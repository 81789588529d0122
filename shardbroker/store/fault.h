/* Pages of a mapped file that cannot be read: somebody has cut the file, or the disk answers with an error.
 *
 * The kernel says SIGBUS. The handler puts a page of zeros in the place and lets the reader go on: the checksum of what it
 * reads is wrong then, so that the record is reported as damaged and never served, and the shard lives. Only addresses of
 * segments count; for any other the process ends as it would have.
 */
#ifndef SHARDBROKER_STORE_FAULT_H
#define SHARDBROKER_STORE_FAULT_H

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>

enum { SB_FAULT_RANGES = 65536 };     /* segments open at once; those beyond are not guarded */

typedef struct { volatile uintptr_t begin, end; } sb_fault_range_t;

/* One table a process: segment.pyx is the only one that includes this. Changes are made under the mutex. The handler takes none:
 * whoever reads a segment got it from the thread that entered it, so it sees the entry; others' it only passes over. */
static sb_fault_range_t sb_fault_table[SB_FAULT_RANGES];
static volatile uint32_t sb_fault_used;          /* none is at or above */
static volatile uint64_t sb_fault_count;
static pthread_mutex_t sb_fault_mutex = PTHREAD_MUTEX_INITIALIZER;
static int sb_fault_ready;

static void sb_fault_handler(int number, siginfo_t *info, void *context) {
    uintptr_t at = (uintptr_t)info->si_addr;
    uint32_t used = sb_fault_used;
    (void)context;
    for (uint32_t i = 0; i < used; i++) {
        uintptr_t begin = sb_fault_table[i].begin;
        if (begin == 0 || at < begin || at >= sb_fault_table[i].end)
            continue;
        if (mmap((void *)(at & ~(uintptr_t)4095), 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)
            == MAP_FAILED)
            break;
        sb_fault_count++;
        return;
    }
    signal(number, SIG_DFL);                    /* it comes again at once, and is final */
}

static void sb_fault_init(void) {
    struct sigaction action = {0};
    pthread_mutex_lock(&sb_fault_mutex);
    action.sa_sigaction = sb_fault_handler;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    sigemptyset(&action.sa_mask);
    if (!sb_fault_ready)
        sigaction(SIGBUS, &action, NULL);
    sb_fault_ready = 1;
    pthread_mutex_unlock(&sb_fault_mutex);
}

static void sb_fault_add(const char *base, uint64_t n) {
    uint32_t i = 0;
    pthread_mutex_lock(&sb_fault_mutex);
    while (i < sb_fault_used && sb_fault_table[i].begin)
        i++;
    if (i < SB_FAULT_RANGES) {
        sb_fault_table[i].end = (uintptr_t)base + n;
        sb_fault_table[i].begin = (uintptr_t)base;
        if (i == sb_fault_used)
            sb_fault_used++;
    }
    pthread_mutex_unlock(&sb_fault_mutex);
}

static void sb_fault_remove(const char *base) {
    pthread_mutex_lock(&sb_fault_mutex);
    for (uint32_t i = 0; i < sb_fault_used; i++)
        if (sb_fault_table[i].begin == (uintptr_t)base)
            sb_fault_table[i].begin = 0;
    while (sb_fault_used && sb_fault_table[sb_fault_used - 1].begin == 0)
        sb_fault_used--;
    pthread_mutex_unlock(&sb_fault_mutex);
}

static uint64_t sb_faults(void) { return sb_fault_count; }

#endif
