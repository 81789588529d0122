# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Mapping of rings, and their Python face. The operations are the inline functions of ring.pxd.

RingWriter and RingReader are made once for each peer by the engine (which then works on `.w` and `.r` without the GIL),
and by tests and tools. Each owns its mapping of the ring; the segment may be closed before them.
"""
import os
from collections import namedtuple

cimport cython
from libc.errno cimport errno
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, PROT_NONE, PROT_READ, PROT_WRITE, mmap,
    munmap)
from posix.types cimport off_t
from posix.unistd cimport getpid

from shardbroker.shm.atomics cimport load_acquire_u32, store_relaxed_u32, store_relaxed_u64, store_release_u32
from shardbroker.shm.layout cimport SB_LAYOUT_VERSION, SB_RING_CONTROL, SB_RING_MAGIC, header_t

from shardbroker.shm.layout import LayoutError

RingInfo = namedtuple("RingInfo", "capacity tail head writer_pid reader_pid")
RingInfo.__doc__ = "A copy of one ring's header: bytes, positions and processes (0: never attached)."


cdef extern from "<sys/mman.h>" nogil:
    enum:
        MADV_REMOVE
    int madvise(void *address, size_t n, int advice)


cdef char *map_ring(
        SegmentMap segment, uint32_t writer, uint32_t reader, bint control, bint writable, size_t *mapped) except NULL:
    """Map ring header, bytes, and the bytes again behind them. The address of the header; *mapped is for munmap."""
    cdef header_t *h = segment.checked()
    if writer >= h.shards or reader >= h.shards or writer == reader:
        raise ValueError(f"no ring from shard {writer} to shard {reader} of {h.shards}")
    cdef uint64_t capacity = h.control_ring_bytes if control else h.ring_bytes
    cdef uint64_t page = h.page_bytes
    cdef off_t offset = <off_t> segment.ring_offset(writer, reader, control)
    cdef int protection = PROT_READ | PROT_WRITE if writable else PROT_READ
    cdef size_t size = page + 2 * capacity
    # Reserve the whole range first, so that the two mappings cannot hit anything else.
    cdef char *base = <char *> mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if base == <char *> MAP_FAILED:
        raise OSError(errno, "cannot reserve addresses for a ring")
    if (mmap(base, page + capacity, protection, MAP_SHARED | MAP_FIXED, segment.fd, offset) == MAP_FAILED
            or mmap(base + page + capacity, capacity, protection, MAP_SHARED | MAP_FIXED, segment.fd,
                    offset + <off_t> page) == MAP_FAILED):
        error = errno
        munmap(base, size)
        raise OSError(error, "cannot map a ring")
    mapped[0] = size
    return base


cdef identify(ring_header_t *header, SegmentMap segment, uint32_t writer, uint32_t reader, bint control, bint write):
    """Write who the ring belongs to, or check it: LayoutError when another ring or layout stands there.

    Both ends may do this at the same time: they store the same values.
    """
    cdef uint64_t capacity = segment.header().control_ring_bytes if control else segment.header().ring_bytes
    cdef uint16_t flags = SB_RING_CONTROL if control else 0
    # SYNC magic: pairs with the release below: who sees the magic sees the rest of the line.
    cdef uint32_t magic = load_acquire_u32(&header.magic)
    if magic == 0 and write:
        header.version = SB_LAYOUT_VERSION
        header.flags = flags
        header.bytes = capacity
        header.writer = writer
        header.reader = reader
        store_release_u32(&header.magic, SB_RING_MAGIC)
    elif magic == 0:
        raise LayoutError(f"ring {writer} -> {reader} was never used")
    elif (magic != SB_RING_MAGIC or header.version != SB_LAYOUT_VERSION or header.flags != flags
            or header.bytes != capacity or header.writer != writer or header.reader != reader):
        raise LayoutError(f"ring {writer} -> {reader} has a wrong header")


cdef bint ring_give_back(ring_writer *w) noexcept nogil:
    """Give the pages of an empty ring back to the system; whether it was empty. They come back, zeroed, when written.

    A lap touches every page of a ring, and they would stay. Only the writer may: what lies behind the tail is its own, and
    a reader that has released everything looks at nothing before it. Ring writer only.
    """
    if w.claimed or w.tail != w.published or ring_used(w) != 0:
        return False
    madvise(w.data, w.capacity, MADV_REMOVE)
    return True


@cython.final
cdef class RingWriter:
    """RingWriter(segment, writer, reader, control=False): the writing end; goes on at the published tail.

    One process at a time. Raises ValueError (no such ring), LayoutError (its header is not ours) or OSError.
    """

    def __cinit__(self, SegmentMap segment, uint32_t writer, uint32_t reader, bint control=False):
        self.mapping = map_ring(segment, writer, reader, control, True, &self.mapping_bytes)
        self.w.header = <ring_header_t *> self.mapping
        identify(self.w.header, segment, writer, reader, control, True)
        self.w.data = self.mapping + segment.header().page_bytes
        self.w.capacity = segment.header().control_ring_bytes if control else segment.header().ring_bytes
        # What a dead predecessor published stands; what it had not published never happened.
        self.w.tail = load_acquire_u64(&self.w.header.tail) & ~<uint64_t> 7
        self.w.published = self.w.tail
        self.w.head_cached = load_acquire_u64(&self.w.header.head)
        store_relaxed_u64(&self.w.header.tail, self.w.tail)
        store_relaxed_u32(&self.w.header.writer_pid, getpid())

    def __dealloc__(self):
        if self.mapping != NULL:
            munmap(self.mapping, self.mapping_bytes)

    def push(self, const unsigned char[::1] body, uint16_t kind=1, uint16_t flags=0):
        """Claim, fill and commit one record; False when the ring is full. ValueError when it is too long for ever."""
        if <uint64_t> body.shape[0] > ring_body_bytes_max(&self.w):
            raise ValueError(f"a record of {body.shape[0]} bytes: at most {ring_body_bytes_max(&self.w)}")
        cdef void *place = ring_claim(&self.w, <uint32_t> body.shape[0], kind, flags)
        if place == NULL:
            return False
        if body.shape[0]:
            memcpy(place, &body[0], body.shape[0])
        ring_commit(&self.w)
        return True

    def claim(self, uint32_t size, uint16_t kind=1, uint16_t flags=0):
        """Claim a record and leave it so (tests: a writer that dies here). False when the ring is full."""
        return ring_claim(&self.w, size, kind, flags) != NULL

    def give_back(self):
        """Give the pages of the ring back when it is empty; whether it was."""
        return ring_give_back(&self.w)

    def commit(self):
        """The claimed record counts."""
        ring_commit(&self.w)

    def publish(self):
        """Show everything pushed to the reader; True when there was something new."""
        return ring_publish(&self.w)

    @property
    def used(self):
        """Bytes that the reader has not released."""
        return ring_used(&self.w)

    @property
    def free(self):
        """Bytes for new records, with their headers."""
        return ring_free_bytes(&self.w)

    @property
    def body_bytes_max(self):
        """The longest body of a record."""
        return ring_body_bytes_max(&self.w)

    @property
    def tail(self):
        """Position behind the last committed record."""
        return self.w.tail

    def poke(self, uint64_t position, const unsigned char[::1] raw):
        """Overwrite ring bytes at a position (tests: a writer gone mad)."""
        cdef Py_ssize_t i
        for i in range(raw.shape[0]):
            self.w.data[(position + <uint64_t> i) & (self.w.capacity - 1)] = <char> raw[i]

    def poke_tail(self, uint64_t tail):
        """Publish any tail at all (tests: a writer gone mad)."""
        self.w.tail = tail
        self.w.published = tail
        store_release_u64(&self.w.header.tail, tail)


@cython.final
cdef class RingReader:
    """RingReader(segment, writer, reader, control=False, peek=False): the reading end; goes on at the released head.

    One process at a time, except with peek=True: a tool that looks at the unread records and changes nothing.
    Raises ValueError (no such ring), LayoutError (its header is not ours) or OSError.
    """

    def __cinit__(self, SegmentMap segment, uint32_t writer, uint32_t reader, bint control=False, bint peek=False):
        self.mapping = map_ring(segment, writer, reader, control, not peek, &self.mapping_bytes)
        self.r.header = <ring_header_t *> self.mapping
        identify(self.r.header, segment, writer, reader, control, not peek)
        self.r.data = self.mapping + segment.header().page_bytes
        self.r.capacity = segment.header().control_ring_bytes if control else segment.header().ring_bytes
        self.r.head = load_acquire_u64(&self.r.header.head) & ~<uint64_t> 7
        self.r.released = self.r.head
        self.r.tail_cached = self.r.head
        self.r.peek = peek
        if not peek:
            store_relaxed_u32(&self.r.header.reader_pid, getpid())

    def __dealloc__(self):
        if self.mapping != NULL:
            munmap(self.mapping, self.mapping_bytes)

    def readable(self):
        """Is anything published that was not taken?"""
        return ring_readable(&self.r)

    def next(self):
        """Take one record: (kind, flags, body as bytes), None when there is none. LayoutError when corrupt."""
        cdef record_view view
        cdef int got = ring_next(&self.r, &view)
        if got < 0:
            raise LayoutError(f"no record at position {self.r.head}")
        return (view.kind, view.flags, view.body[:view.bytes]) if got else None

    def read(self, records_max=None):
        """Take up to records_max records (None: all), then release: a list of (kind, flags, body)."""
        result = []
        while records_max is None or len(result) < records_max:
            record = self.next()
            if record is None:
                break
            result.append(record)
        ring_release(&self.r)
        return result

    def release(self):
        """Give the space of everything taken back to the writer."""
        ring_release(&self.r)

    def skip(self):
        """Drop everything published so far."""
        ring_reader_skip(&self.r)

    @property
    def unread(self):
        """Bytes published and not taken."""
        return ring_unread_bytes(&self.r)

    @property
    def head(self):
        """Position behind the last record taken."""
        return self.r.head


def ring_info(SegmentMap segment, uint32_t writer, uint32_t reader, bint control=False):
    """The ring's header as RingInfo, or None when nobody has attached to it yet. Any process; changes nothing."""
    cdef header_t *h = segment.checked()
    if writer >= h.shards or reader >= h.shards or writer == reader:
        raise ValueError(f"no ring from shard {writer} to shard {reader} of {h.shards}")
    cdef ring_header_t header
    cdef bytes raw = os.pread(segment.fd, sizeof(header), <off_t> segment.ring_offset(writer, reader, control))
    memcpy(&header, <char *> raw, sizeof(header))
    if header.magic == 0:
        return None
    return RingInfo(header.bytes, header.tail, header.head, header.writer_pid, header.reader_pid)
