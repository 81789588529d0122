# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Loops over single parts of shm/ in one process: ring, doorbell, directory. As hot_loops.pyx: `run(passes)` does the
whole input and returns a sum to be checked; no Python for an operation, no GIL.

    Ring        claim, copy in, commit; publish; next, copy out, release
    Bell        the waker's fence and look, and the whole sleep and wake with its eventfd
    Lookups     directory_version and directory_shards of a list of keys
    Changes     directory_add and directory_remove
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from shardbroker.shm.directory cimport (
    Directory, directory_add, directory_remove, directory_shards, directory_version)
from shardbroker.shm.doorbell cimport (
    Doorbell, doorbell_awake, doorbell_drain, doorbell_fence, doorbell_ring, doorbell_set_asleep)
from shardbroker.shm.ring cimport (
    RingReader, RingWriter, record_view, ring_claim, ring_commit, ring_next, ring_publish, ring_release)


cdef class Ring:
    """`records` records of `body_bytes` (8 or more), published and released after each `batch`. The sum: of their
    numbers, read from the bytes that were copied out."""
    cdef RingWriter writer
    cdef RingReader reader
    cdef uint32_t body_bytes
    cdef int records, batch
    cdef char* source
    cdef char* copy

    def __cinit__(self, RingWriter writer, RingReader reader, uint32_t body_bytes, int records, int batch):
        self.writer = writer
        self.reader = reader
        self.body_bytes = body_bytes
        self.records = records
        self.batch = batch
        self.source = <char*>calloc(1, body_bytes)
        self.copy = <char*>calloc(1, body_bytes)
        if self.source == NULL or self.copy == NULL or body_bytes < 8 or records % batch:
            raise ValueError("body_bytes is 8 or more, records a multiple of batch")

    def __dealloc__(self):
        free(self.source)
        free(self.copy)

    def run(self, int passes):
        cdef uint64_t total = 0
        cdef uint64_t number
        cdef record_view view
        cdef char* body
        cdef int i, j, k
        cdef int got = 1
        with nogil:
            for i in range(passes):  # no-cython-lint
                number = 0
                for j in range(self.records // self.batch):  # no-cython-lint
                    for k in range(self.batch):  # no-cython-lint
                        number += 1
                        body = <char*>ring_claim(&self.writer.w, self.body_bytes, 1, 0)
                        if body == NULL:
                            got = -2
                            break
                        memcpy(body, self.source, self.body_bytes)
                        memcpy(body, &number, 8)
                        ring_commit(&self.writer.w)
                    if got < 0:
                        break
                    ring_publish(&self.writer.w)
                    while True:
                        got = ring_next(&self.reader.r, &view)
                        if got <= 0:
                            break
                        memcpy(self.copy, view.body, view.bytes)
                        total += (<uint64_t*>self.copy)[0]
                    ring_release(&self.reader.r)
                if got < 0:
                    break
        if got < 0:
            raise AssertionError("ring full" if got == -2 else "ring corrupt")
        return total


cdef class Bell:
    """sleeps=False: the peer is awake: fence and look. True: it says it sleeps, is rung, reads its eventfd. The sum:
    wake-ups sent. eventfd: a real one, non-blocking."""
    cdef Doorbell bell
    cdef int rounds
    cdef bint sleeps

    def __cinit__(self, Doorbell bell, int rounds, bint sleeps):
        self.bell = bell
        self.rounds = rounds
        self.sleeps = sleeps

    def run(self, int passes):
        cdef uint64_t sent = 0
        cdef int i, j
        with nogil:
            for i in range(passes):  # no-cython-lint
                for j in range(self.rounds):  # no-cython-lint
                    if self.sleeps:
                        doorbell_set_asleep(self.bell.slot)
                    doorbell_fence()
                    sent += doorbell_ring(self.bell.slot, self.bell.eventfd)
                    if self.sleeps:
                        doorbell_drain(self.bell.eventfd)
                        doorbell_awake(self.bell.slot)
        return sent


cdef class _Keys:
    cdef uint64_t* keys
    cdef int count

    def __cinit__(self, list keys):
        cdef int i
        self.count = len(keys)
        self.keys = <uint64_t*>malloc(max(self.count, 1) * 8)
        if self.keys == NULL:
            raise MemoryError
        for i in range(self.count):
            self.keys[i] = keys[i]

    def __dealloc__(self):
        free(self.keys)


cdef class Lookups:
    """The version and the set of each key. The sum: of the sets."""
    cdef Directory directory
    cdef _Keys keys

    def __cinit__(self, Directory directory, list keys):
        self.directory = directory
        self.keys = _Keys(keys)

    def run(self, int passes):
        cdef uint64_t total = 0
        cdef uint64_t versions = 0
        cdef int i, j
        with nogil:
            for i in range(passes):  # no-cython-lint
                for j in range(self.keys.count):
                    versions |= directory_version(&self.directory.d, self.keys.keys[j])
                    total += directory_shards(&self.directory.d, self.keys.keys[j])
        return total + (versions >> 63)


cdef class Changes:
    """Add a shard's bit to each key, then take all away again. The sum: adds that had room."""
    cdef Directory directory
    cdef _Keys keys
    cdef uint32_t shard

    def __cinit__(self, Directory directory, list keys, uint32_t shard):
        self.directory = directory
        self.keys = _Keys(keys)
        self.shard = shard

    def run(self, int passes):
        cdef uint64_t total = 0
        cdef int i, j
        with nogil:
            for i in range(passes):  # no-cython-lint
                for j in range(self.keys.count):
                    total += directory_add(&self.directory.d, self.keys.keys[j], self.shard) == 0
                for j in range(self.keys.count):
                    directory_remove(&self.directory.d, self.keys.keys[j], self.shard)
        return total
