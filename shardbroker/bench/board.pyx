# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The board of a run, and histograms: what the compiled loops write and Python reads.

The board is in a mapping that all generator processes share, or in this process's memory when they are threads. Only
small reads from Python; the loops work on the C structs of net.h. Needs the GIL everywhere.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from shardbroker.bench.net cimport (
    LOAD_BUCKETS, LOAD_GROUPS_MAX, load_board, load_bucket, load_get, load_histogram, load_mix, load_now,
    load_record, load_set,
)

BYTES = sizeof(load_board)
BUCKETS = LOAD_BUCKETS
GROUPS_MAX = LOAD_GROUPS_MAX
HISTOGRAM_BYTES = sizeof(load_histogram)


cdef class Board:
    """memory: a writable buffer of BYTES or more that all processes of the run map; None: memory of its own."""

    def __cinit__(self, memory=None):
        cdef unsigned char[::1] view
        if memory is None:
            self.b = <load_board*>calloc(1, sizeof(load_board))
            if self.b == NULL:
                raise MemoryError
            self.owned = True
        else:
            view = memory
            if view.shape[0] < <Py_ssize_t>sizeof(load_board):
                raise ValueError("the board's memory is too small")
            self.memory = view
            self.b = <load_board*>&view[0]

    def __dealloc__(self):
        if self.owned:
            free(self.b)

    def clear(self):
        """Forget the last phase. Only while no group runs."""
        memset(self.b, 0, sizeof(load_board))

    def stop(self):
        """Ask all groups to send no more, and to end when what is under way has arrived."""
        load_set(&self.b.stop, 1)

    @property
    def stopped(self):
        """Whether `stop` was called."""
        return load_get(&self.b.stop) != 0

    @property
    def reason(self):
        """Why the run has failed; empty while it has not."""
        return self.b.reason.decode("utf-8", "backslashreplace") if load_get(&self.b.failed) == 2 else ""

    def fail(self, str reason):
        """End the run from outside; the first reason wins."""
        cdef bytes text = reason.encode()[:LOAD_REASON_BYTES_ROOM]
        if load_get(&self.b.failed) == 0:
            load_set(&self.b.failed, 1)
            memset(self.b.reason, 0, LOAD_REASON_BYTES_ROOM + 1)
            for i, letter in enumerate(text):
                self.b.reason[i] = letter
            load_set(&self.b.failed, 2)

    def lines(self):
        """(count, sent, finished, last_ns) of every group."""
        return [(load_get(&self.b.line[i].count), load_get(&self.b.line[i].sent),
                 load_get(&self.b.line[i].finished), load_get(&self.b.line[i].last_ns))
                for i in range(LOAD_GROUPS_MAX)]

    def sums(self):
        """(sum of what was received, sum of what was sent) over all groups, modulo 2^64."""
        cdef uint64_t received = 0, sent = 0
        cdef int i
        for i in range(LOAD_GROUPS_MAX):
            received += self.b.line[i].sum
            sent += self.b.line[i].sent_sum
        return received, sent


cdef enum:
    LOAD_REASON_BYTES_ROOM = 500


def record(values):
    """The bytes of a histogram in which `values` (ns) were counted, as the loops count them."""
    cdef load_histogram* h = <load_histogram*>calloc(1, sizeof(load_histogram))
    cdef int64_t ns
    if h == NULL:
        raise MemoryError
    try:
        for ns in values:
            load_record(h, ns)
        return (<char*>h)[:sizeof(load_histogram)]
    finally:
        free(h)


def sum_of(uint64_t count):
    """What a sum is when the messages 1 to `count` of publisher 0 have come once, modulo 2^64."""
    cdef uint64_t total = 0, i
    for i in range(1, count + 1):
        total += load_mix(i, 0)
    return total


def bucket_of(uint64_t ns):
    """The number of the bucket that counts `ns`."""
    return load_bucket(ns)


def now_ns():
    """CLOCK_MONOTONIC, as the loops read it."""
    return load_now()
