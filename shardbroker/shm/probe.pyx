# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""A door for tests and measurements only: native loops over a ring, a doorbell and the directory.

Races show at native speed, not at Python's. Every loop runs without the GIL, in one of two or more processes.
"""
from libc.stdint cimport uint32_t, uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, time_t, timespec

from shardbroker.shm.atomics cimport load_relaxed_u32
from shardbroker.shm.directory cimport Directory, directory_add, directory_remove, directory_shards
from shardbroker.shm.doorbell cimport (
    Doorbell, doorbell_awake, doorbell_drain, doorbell_fence, doorbell_ring, doorbell_set_asleep)
from shardbroker.shm.ring cimport (
    RingReader, RingWriter, record_view, ring_claim, ring_commit, ring_next, ring_publish, ring_readable, ring_release)

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    const short POLLIN
    int poll(pollfd *fds, unsigned long count, int timeout_ms)


cdef extern from *:
    """
    static inline void sb_spin_turn(void) { __asm__ __volatile__("" ::: "memory"); }
    """
    void spin_turn "sb_spin_turn"() noexcept nogil


cdef enum:
    GONE_SECONDS = 60                   # the other process is taken for dead
    ENOUGH = 4                          # word: the last round is over


cdef inline uint64_t mix(uint64_t x) noexcept nogil:
    """splitmix64: the n-th pseudo-random number."""
    x = (x + 1) * <uint64_t> 0x9e3779b97f4a7c15
    x = (x ^ (x >> 30)) * <uint64_t> 0xbf58476d1ce4e5b9
    x = (x ^ (x >> 27)) * <uint64_t> 0x94d049bb133111eb
    return x ^ (x >> 31)


def mixed(uint64_t x):
    """The n-th pseudo-random number, as the loops draw it."""
    return mix(x)


cdef inline uint32_t words_of(uint64_t number, uint32_t words_min, uint32_t words_max) noexcept nogil:
    return words_min + <uint32_t> (mix(number) % (words_max - words_min + 1)) if words_max > words_min else words_min


def pump(RingWriter writer, uint64_t first, uint64_t count, uint32_t words_min, uint32_t words_max, uint32_t batch):
    """Write records number `first` and on, of words_min to words_max 8-byte words, publishing after each batch.

    Word i of record n is n + i * n. A full ring is published and waited for. Returns how often that was.
    """
    cdef uint64_t number
    cdef uint64_t full = 0
    cdef uint64_t *body
    cdef uint32_t words
    cdef uint32_t i
    with nogil:
        for number in range(first, first + count):
            words = words_of(number, words_min, words_max)
            while True:
                body = <uint64_t *> ring_claim(&writer.w, words * 8, 1 + (number & 31), number & 0xffff)
                if body != NULL:
                    break
                full += 1
                ring_publish(&writer.w)
                sched_yield()
            for i in range(words):
                body[i] = number + i * number
            ring_commit(&writer.w)
            if (number + 1) % batch == 0:
                ring_publish(&writer.w)
        ring_publish(&writer.w)
    return full


def drain(RingReader reader, uint64_t first, uint64_t count, uint32_t words_min, uint32_t words_max, uint32_t batch,
          bint wait=True):
    """Read up to `count` records of pump() and check every word; releases after each batch.

    wait=False: until the ring is empty. Returns how many were read; AssertionError names the first that is wrong.
    """
    cdef uint64_t done = 0
    cdef uint64_t number = first
    cdef uint64_t wrong
    cdef uint64_t *body
    cdef record_view view
    cdef uint32_t i
    cdef int got = 1
    with nogil:
        while done < count:
            got = ring_next(&reader.r, &view)
            if got < 0:
                break
            if got == 0:
                ring_release(&reader.r)
                if not wait:
                    break
                sched_yield()
                continue
            body = <uint64_t *> view.body
            wrong = (view.bytes ^ (8 * words_of(number, words_min, words_max))) | (view.kind ^ (1 + (number & 31)))
            wrong |= view.flags ^ (number & 0xffff)
            for i in range(view.bytes // 8):
                wrong |= body[i] ^ (number + i * number)
            if wrong:
                got = -2
                break
            number += 1
            done += 1
            if done % batch == 0:
                ring_release(&reader.r)
        ring_release(&reader.r)
    if got < 0:
        raise AssertionError(f"record {number} at position {reader.r.head}: {'corrupt' if got == -1 else 'wrong bytes'}")
    return done


def ping_pong(RingWriter writer, RingReader reader, Doorbell own, Doorbell peer, uint64_t rounds, bint serves):
    """Send one record to and fro, sleeping in between with a cap of 100 ms, as a shard does.

    The times before answering and before falling asleep vary by about a microsecond, so that the answer meets the other
    side at every point of its falling asleep. Returns (sleeps, sleeps that ended by the cap with a record waiting:
    the lost wake-ups).
    """
    cdef uint64_t sleeps = 0
    cdef uint64_t missed = 0
    cdef uint64_t number = 0
    cdef uint64_t spin
    cdef uint64_t idle = 0
    cdef record_view view
    cdef pollfd waiter
    cdef bint turn = serves
    cdef int got = 0
    waiter.fd = own.eventfd
    waiter.events = POLLIN
    with nogil:
        while number < rounds:
            if turn:
                for spin in range(mix(number + serves) & 1023):  # no-cython-lint
                    spin_turn()
                if ring_claim(&writer.w, 8, 1, 0) == NULL:
                    got = -1
                    break
                ring_commit(&writer.w)
                ring_publish(&writer.w)
                doorbell_fence()
                doorbell_ring(peer.slot, peer.eventfd)
                turn = False
            got = ring_next(&reader.r, &view)
            if got == 0:
                for spin in range(mix(number ^ <uint64_t> 0x5555) & 1023):  # no-cython-lint
                    if ring_readable(&reader.r):
                        break
                doorbell_set_asleep(own.slot)
                if not ring_readable(&reader.r):
                    sleeps += 1
                    if poll(&waiter, 1, 100) == 0:
                        idle += 1
                        # A record is there. Its writer may be just about to ring; if not in 5 s, it never will.
                        if ring_readable(&reader.r) and poll(&waiter, 1, 5000) == 0:
                            missed += 1
                        if idle > 100:
                            got = -1
                            break
                    else:
                        idle = 0
                doorbell_awake(own.slot)
                doorbell_drain(own.eventfd)
                continue
            if got < 0:
                break
            ring_release(&reader.r)
            number += 1
            turn = True
        if turn and got >= 0 and not serves:                    # the last answer
            ring_claim(&writer.w, 8, 1, 0)
            ring_commit(&writer.w)
            ring_publish(&writer.w)
            doorbell_fence()
            doorbell_ring(peer.slot, peer.eventfd)
    if got < 0:
        raise AssertionError(f"stopped in round {number} of {rounds}: ring full or corrupt, or the other side is gone")
    return sleeps, missed


cdef inline bint say(RingWriter writer, uint64_t word) noexcept nogil:
    cdef uint64_t *body = <uint64_t *> ring_claim(&writer.w, 8, 1, 0)
    if body == NULL:
        return False
    body[0] = word
    ring_commit(&writer.w)
    return ring_publish(&writer.w)


cdef inline time_t seconds_now() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec


cdef inline uint64_t hear(RingReader reader) noexcept nogil:
    """Wait for the next record: its word, or all ones when the ring is corrupt or nothing comes for GONE_SECONDS."""
    cdef record_view view
    cdef uint64_t tries = 0
    cdef int got = ring_next(&reader.r, &view)
    cdef time_t until = 0
    while got == 0:
        tries += 1
        if tries & 1023 == 0:
            sched_yield()
            if until == 0:
                until = seconds_now() + GONE_SECONDS
            elif seconds_now() > until:
                break
        got = ring_next(&reader.r, &view)
    if got != 1:
        return ~<uint64_t> 0
    tries = (<uint64_t *> view.body)[0]
    ring_release(&reader.r)
    return tries


def wake_race(RingWriter writer, RingReader reader, Doorbell sleeper, uint64_t rounds, bint wakes, time_t seconds):
    """The two halves of the doorbell against each other, without system calls. Returns (rounds that would sleep for ever,
    rounds), of which there are fewer when the waker's seconds are over: where others use the processors, each takes long.

    In each round one side publishes, fences and looks at the flag (wakes=True); the other sets the flag, fences and
    looks at the ring. That neither sees the other is what the fences forbid; it is counted by the sleeper.
    """
    cdef uint64_t lost = 0
    cdef uint64_t number
    cdef uint64_t spin
    cdef uint64_t word = 0
    cdef bint saw
    cdef time_t until = seconds_now() + seconds
    with nogil:
        for number in range(rounds):
            if wakes and number & 1023 == 0 and seconds_now() >= until:
                say(writer, ENOUGH)
                rounds = number
                break
            for spin in range(mix(number + wakes * rounds) & 255):  # no-cython-lint
                spin_turn()
            if wakes:
                say(writer, 2)
                doorbell_fence()
                saw = load_relaxed_u32(&sleeper.slot.asleep) != 0
                say(writer, saw)
                word = hear(reader)                             # the sleeper is ready for the next round
            else:
                doorbell_set_asleep(sleeper.slot)
                saw = ring_readable(&reader.r)
                word = hear(reader)
                if word == ENOUGH:
                    rounds = number
                    doorbell_awake(sleeper.slot)
                    break
                if word == 2:
                    word = hear(reader)
                    lost += word == 0 and not saw
                doorbell_awake(sleeper.slot)
                say(writer, 3)
            if word > ENOUGH:
                break
    if word > ENOUGH:
        raise AssertionError(f"stopped in round {number} of {rounds}: the other side is gone")
    return lost, rounds


def hammer(Directory directory, uint32_t shard, uint64_t seed, uint64_t operations, uint64_t keys):
    """Add or remove the shard's bit of a random key out of `keys`, again and again.

    Operation i draws r = mixed(seed + i): key mixed(r // 2 % keys) | 1, added when r is odd, removed when it is even.
    Returns (adds that failed, times that the bit was not found as this process had left it).
    """
    cdef uint64_t full = 0
    cdef uint64_t lost = 0
    cdef uint64_t i
    cdef uint64_t draw
    cdef uint64_t key
    cdef bytearray memory = bytearray(keys)
    cdef unsigned char *left = <unsigned char *> <char *> memory
    with nogil:
        for i in range(operations):
            draw = mix(seed + i)
            key = mix((draw >> 1) % keys) | 1
            lost += (directory_shards(&directory.d, key) >> shard & 1) != left[(draw >> 1) % keys]
            left[(draw >> 1) % keys] = draw & 1
            if draw & 1:
                if directory_add(&directory.d, key, shard) != 0:
                    full += 1
                    left[(draw >> 1) % keys] = 0
            else:
                directory_remove(&directory.d, key, shard)
    return full, lost


def watch(Directory directory, uint64_t must, uint64_t keys, uint64_t rounds):
    """Read all keys of hammer(), `rounds` times: how often a shard of the set `must` was missing."""
    cdef uint64_t missing = 0
    cdef uint64_t i
    cdef uint64_t j
    with nogil:
        for i in range(rounds):  # no-cython-lint
            for j in range(keys):
                missing += (directory_shards(&directory.d, mix(j) | 1) & must) != must
    return missing
