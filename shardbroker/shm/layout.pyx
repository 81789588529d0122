# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""layout.h for Python, and SegmentMap: one segment mapped into this process, checked before use.

Called by segment.py (create, attach), by the front (slots), by ring, doorbell and directory (addresses) and by stats.py
(fields). SegmentMap owns its mapping and its descriptor; the cdef methods need no GIL and never fail: the caller keeps
shard numbers below header().shards. Imports no numpy: workers do without it.
"""
import os
import time
from collections import namedtuple

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.errno cimport errno
from libc.string cimport memcmp, memcpy, memset
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport _SC_PAGESIZE, sysconf

from shardbroker.shm.atomics cimport (
    add_full_u64, load_acquire_u32, load_acquire_u64, load_relaxed_u32, load_relaxed_u64, store_relaxed_u32,
    store_relaxed_u64, store_release_u32)

MAGIC = SB_MAGIC
VERSION = SB_LAYOUT_VERSION
SHARDS_MAX = SB_SHARDS_MAX
LAG_BUCKETS = SB_LAG_BUCKETS
RECORD_KIND_MAX = SB_RECORD_KIND_MAX
DIRECTORY_PARTITIONS = SB_DIRECTORY_PARTITIONS
DIRECTORY_LEVELS = SB_DIRECTORY_LEVELS
RING_BYTES_MIN = 4096
RING_BYTES_MAX = SB_RING_BYTES_MAX
SLOT_EMPTY = SB_SLOT_EMPTY
SLOT_BOOTING = SB_SLOT_BOOTING
SLOT_READY = SB_SLOT_READY
SLOT_DEAD = SB_SLOT_DEAD
SLOT_STATES = ("EMPTY", "BOOTING", "READY", "DEAD")
# 1, 4, 16 and 128 MiB of 16-byte slots: room for some 7 million distinct literal subjects; a million take 22 MB.
LEVEL_BITS = (16, 18, 20, 23)

Field = namedtuple("Field", "name offset bytes count")
Field.__doc__ = "One field of a struct of layout.h: byte offset, bytes of an element, number of elements."
SlotRow = namedtuple("SlotRow", "pid epoch state restarts booted_unix_ns heartbeat_ns turn attached asleep")
SlotRow.__doc__ = "A copy of one shard's slot; state is one of the SLOT_ numbers, heartbeat_ns is CLOCK_MONOTONIC."


class LayoutError(Exception):
    """A descriptor that is not a segment of this layout, or not whole."""


def structs():
    """name -> (size in bytes, tuple of Field in order of offset), for every struct of layout.h."""
    sizes = {
        "header": sizeof(header_t), "slot": sizeof(slot_t), "shard_stats": sizeof(shard_stats_t),
        "directory_header": sizeof(directory_header_t), "directory_slot": sizeof(directory_slot_t),
        "ring_header": sizeof(ring_header_t), "record_header": sizeof(record_header_t),
    }
    fields = {name: [] for name in sizes}
    cdef size_t i
    for i in range(SB_FIELDS_COUNT):
        owner = (<bytes> sb_fields[i].owner).decode()
        fields[owner.removeprefix("sb_").removesuffix("_t")].append(
            Field((<bytes> sb_fields[i].name).decode(), sb_fields[i].offset, sb_fields[i].bytes, sb_fields[i].count))
    return {name: (size, tuple(sorted(fields[name], key=lambda field: field.offset))) for name, size in sizes.items()}


def dtype_spec(str name):
    """What numpy.dtype() takes for one struct: names, formats, offsets, itemsize. Reserved fields are left out."""
    size, fields = structs()[name]
    shown = [field for field in fields if not field.name.startswith("reserved")]
    formats = [f"u{field.bytes}" if field.count == 1 else (f"u{field.bytes}", (field.count,)) for field in shown]
    return {"names": [field.name for field in shown], "formats": formats,
            "offsets": [field.offset for field in shown], "itemsize": size}


# ---- words that several processes watch ----

cdef uint64_t membership_load(header_t *header) noexcept nogil:
    """The membership generation. Any process, once a turn."""
    # SYNC membership: pairs with the add in bump_membership(): who sees the new generation sees epoch and state too.
    return load_acquire_u64(&header.membership)


cdef void bump_membership(header_t *header) noexcept nogil:
    # SYNC membership: full, after the stores of epoch and state; pairs with membership_load().
    add_full_u64(&header.membership, 1)


cdef void slot_beat(slot_t *slot, uint64_t now_ns) noexcept nogil:
    """One more turn, at now_ns (CLOCK_MONOTONIC). Home shard only; relaxed, each word stands alone."""
    store_relaxed_u64(&slot.turn, load_relaxed_u64(&slot.turn) + 1)
    store_relaxed_u64(&slot.heartbeat_ns, now_ns)


cdef uint32_t slot_state(slot_t *slot) noexcept nogil:
    # SYNC state: pairs with the release stores in SegmentMap.mark_*(): READY is seen after what made it ready.
    return load_acquire_u32(&slot.state)


cdef uint32_t slot_epoch(slot_t *slot) noexcept nogil:
    return load_acquire_u32(&slot.epoch)


# ---- geometry ----

cdef uint64_t pages(uint64_t size, uint64_t page) noexcept:
    return (size + page - 1) // page * page


cdef uint64_t level_offset(header_t *h, uint32_t level) noexcept nogil:
    """Where a level of the directory starts, from the start of the segment; level 4 is the end of the directory."""
    cdef uint64_t page = h.page_bytes
    cdef uint64_t offset = h.directory_offset + page
    offset += (SB_DIRECTORY_PARTITIONS * sizeof(uint64_t) + page - 1) // page * page
    cdef uint32_t i
    for i in range(level):
        offset += ((<uint64_t> 1 << h.level_bits[i]) * sizeof(directory_slot_t) + page - 1) // page * page
    return offset


cdef fill_geometry(header_t *h):
    """Everything that follows from page_bytes, shards, ring sizes and level_bits. LayoutError when those are bad."""
    cdef uint64_t page = sysconf(_SC_PAGESIZE)
    if h.page_bytes != page:
        raise LayoutError(f"segment has pages of {h.page_bytes} bytes, this kernel {page}")
    if not 1 <= h.shards <= SB_SHARDS_MAX:
        raise LayoutError(f"shards is {h.shards}, not 1 to {SB_SHARDS_MAX}")
    for size in (h.ring_bytes, h.control_ring_bytes):
        if size & (size - 1) or not max(page, <uint64_t> RING_BYTES_MIN) <= size <= SB_RING_BYTES_MAX:
            raise LayoutError(f"a ring of {size} bytes: not a power of two from one page to 2 GiB")
    for bits in h.level_bits:
        if not 3 <= bits <= 24:
            raise LayoutError(f"a directory level of 2^{bits} slots: not 2^3 to 2^24")
    cdef uint64_t pairs = h.shards * h.shards if h.shards > 1 else 0
    h.magic = SB_MAGIC
    h.version = SB_LAYOUT_VERSION
    h.header_bytes = sizeof(header_t)
    h.slots_max = SB_SHARDS_MAX
    h.slot_bytes = sizeof(slot_t)
    h.stats_bytes = sizeof(shard_stats_t)
    h.slots_offset = pages(sizeof(header_t), page)
    h.stats_offset = h.slots_offset + pages(SB_SHARDS_MAX * sizeof(slot_t), page)
    h.directory_offset = h.stats_offset + pages(SB_SHARDS_MAX * sizeof(shard_stats_t), page)
    h.ring_stride = page + h.ring_bytes
    h.control_ring_stride = page + h.control_ring_bytes
    h.rings_offset = level_offset(h, SB_DIRECTORY_LEVELS)
    h.control_rings_offset = h.rings_offset + pairs * h.ring_stride
    h.segment_bytes = h.control_rings_offset + pairs * h.control_ring_stride


cdef check_header(const header_t *found, uint64_t file_bytes):
    """LayoutError unless this header is what this build would have written."""
    cdef header_t wanted
    if found.magic != SB_MAGIC:
        raise LayoutError("no shardbroker segment: wrong magic")
    if found.version != SB_LAYOUT_VERSION:
        raise LayoutError(f"segment has layout version {found.version}, this program {SB_LAYOUT_VERSION}")
    memcpy(&wanted, found, sizeof(wanted))
    fill_geometry(&wanted)
    wanted.membership = 0
    cdef header_t copy
    memcpy(&copy, found, sizeof(copy))
    copy.membership = 0
    if memcmp(&wanted, &copy, sizeof(wanted)) != 0:
        raise LayoutError("segment header contradicts itself: sizes and offsets do not agree")
    if file_bytes < wanted.segment_bytes:
        raise LayoutError(f"segment has {file_bytes} bytes, its header says {wanted.segment_bytes}")


def format_segment(int fd, *, uint32_t shards, uint64_t ring_bytes, uint64_t control_ring_bytes,
                   level_bits=LEVEL_BITS):
    """Give an empty shared-memory file its size and header. Commits the header's page only. Creator only.

    Ring sizes in bytes, powers of two from one page up (unused with one shard); level_bits: log2 of the slots in the
    four levels of the directory. Raises LayoutError when a size is out of range.
    """
    cdef header_t header
    memset(&header, 0, sizeof(header))
    header.page_bytes = sysconf(_SC_PAGESIZE)
    header.shards = shards
    header.ring_bytes = ring_bytes
    header.control_ring_bytes = control_ring_bytes
    if len(level_bits) != SB_DIRECTORY_LEVELS:
        raise LayoutError(f"the directory has {SB_DIRECTORY_LEVELS} levels")
    for i, bits in enumerate(level_bits):
        header.level_bits[<int> i] = bits
    fill_geometry(&header)
    header.creator_pid = os.getpid()
    header.created_unix_ns = time.time_ns()
    key = os.urandom(16)
    header.fingerprint_key[0] = int.from_bytes(key[:8], "little")
    header.fingerprint_key[1] = int.from_bytes(key[8:], "little")
    header.membership = 1
    os.ftruncate(fd, header.segment_bytes)
    cdef bytes raw = (<char *> &header)[:sizeof(header)]
    os.pwrite(fd, raw, 0)
    # Part of the directory's first page: one level is always active.
    os.pwrite(fd, (1).to_bytes(4, "little"), header.directory_offset)


@cython.final
cdef class SegmentMap:
    """SegmentMap(fd, writable=True): map a segment, check its header; takes over the descriptor.

    Raises LayoutError (not a segment of this layout) or OSError; the descriptor is then still the caller's.
    Gives a buffer of the mapped bytes: header, slots, statistics and directory, but not the rings.
    """

    def __cinit__(self, int fd, bint writable=True):
        cdef header_t header
        raw = os.pread(fd, sizeof(header), 0)
        if len(raw) != sizeof(header):
            raise LayoutError("no shardbroker segment: too short")
        memcpy(&header, <char *> raw, sizeof(header))
        check_header(&header, os.fstat(fd).st_size)
        cdef void *base = mmap(
            NULL, header.rings_offset, PROT_READ | PROT_WRITE if writable else PROT_READ, MAP_SHARED, fd, 0)
        if base == MAP_FAILED:
            raise OSError(errno, "cannot map the segment")
        self.base = <char *> base
        self.mapped_bytes = header.rings_offset
        self.writable = writable
        self.fd = fd

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.mapped_bytes)
            os.close(self.fd)

    def close(self):
        """Unmap, close the descriptor. BufferError while numpy arrays or memoryviews look at it. Idempotent.

        Only when nothing native uses its pointers any more: an Engine, Directory or Doorbell of it must be gone.
        """
        if self.base == NULL:
            return
        if self.exports:
            raise BufferError(f"{self.exports} buffers of the segment are in use")
        munmap(self.base, self.mapped_bytes)
        self.base = NULL
        os.close(self.fd)
        self.fd = -1

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        self.checked()
        PyBuffer_FillInfo(buffer, self, self.base, self.mapped_bytes, not self.writable, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.exports -= 1

    # ---- addresses, for compiled callers ----

    cdef header_t *header(self) noexcept nogil:
        return <header_t *> self.base

    cdef slot_t *slot(self, uint32_t shard) noexcept nogil:
        return <slot_t *> (self.base + self.header().slots_offset + shard * sizeof(slot_t))

    cdef shard_stats_t *stats(self, uint32_t shard) noexcept nogil:
        return <shard_stats_t *> (self.base + self.header().stats_offset + shard * sizeof(shard_stats_t))

    cdef directory_t directory(self) noexcept nogil:
        cdef directory_t d
        cdef header_t *h = self.header()
        cdef uint32_t level
        d.header = <directory_header_t *> (self.base + h.directory_offset)
        d.versions = <uint64_t *> (self.base + h.directory_offset + h.page_bytes)
        for level in range(SB_DIRECTORY_LEVELS):
            d.file_offsets[level] = level_offset(h, level)
            d.levels[level] = <directory_slot_t *> (self.base + d.file_offsets[level])
            d.bucket_masks[level] = ((<uint64_t> 1 << h.level_bits[level]) // SB_DIRECTORY_BUCKET) - 1
        d.fd = self.fd
        return d

    cdef uint64_t ring_offset(self, uint32_t writer, uint32_t reader, bint control) noexcept nogil:
        cdef header_t *h = self.header()
        cdef uint64_t index = <uint64_t> writer * h.shards + reader
        if control:
            return h.control_rings_offset + index * h.control_ring_stride
        return h.rings_offset + index * h.ring_stride

    cdef header_t *checked(self) except NULL:
        """The header, or ValueError when closed."""
        if self.base == NULL:
            raise ValueError("the segment is closed")
        return self.header()

    cdef slot_t *checked_slot(self, uint32_t shard) except NULL:
        if shard >= self.checked().shards:
            raise IndexError(f"shard {shard} of {self.header().shards}")
        return self.slot(shard)

    # ---- the header and the slots, for Python ----

    @property
    def shards(self):
        """Number of shards."""
        return self.checked().shards

    @property
    def ring_bytes(self):
        """Capacity of a data ring."""
        return self.checked().ring_bytes

    @property
    def control_ring_bytes(self):
        """Capacity of a control ring."""
        return self.checked().control_ring_bytes

    @property
    def segment_bytes(self):
        """The whole segment, rings included; virtual: most of it is never touched."""
        return self.checked().segment_bytes

    @property
    def membership(self):
        """Generation of all shards' epochs and states."""
        return membership_load(self.checked())

    def header_fields(self):
        """The header as a dict: name -> int, or a tuple of ints for an array."""
        self.checked()
        _, fields = structs()["header"]
        result = {}
        for name, offset, size, count in fields:
            if name.startswith("reserved"):
                continue
            values = tuple(
                int.from_bytes((self.base + <size_t> (offset + i * size))[:size], "little") for i in range(count))
            result[name] = values[0] if count == 1 else values
        return result

    def check(self):
        """LayoutError unless the header is (still) whole and the file long enough."""
        check_header(self.checked(), os.fstat(self.fd).st_size)

    def slot_row(self, uint32_t shard):
        """A copy of one shard's slot. Any process; each number is whole, together they are no snapshot."""
        cdef slot_t *slot = self.checked_slot(shard)
        return SlotRow(load_relaxed_u32(&slot.pid), slot_epoch(slot), slot_state(slot),
                       load_relaxed_u32(&slot.restarts), load_relaxed_u64(&slot.booted_unix_ns),
                       load_relaxed_u64(&slot.heartbeat_ns), load_relaxed_u64(&slot.turn),
                       load_relaxed_u32(&slot.attached), load_relaxed_u32(&slot.asleep))

    def ready_shards(self):
        """The shards that may be given connections, as a list of numbers. Any process."""
        cdef uint32_t shard
        return [shard for shard in range(self.checked().shards) if slot_state(self.slot(shard)) == SB_SLOT_READY]

    def mark_booting(self, uint32_t shard):
        """A new process is about to be started in this slot: returns its epoch (1 for the first). Front only.

        Also makes the slot's doorbell and heartbeat fresh; the dead process's statistics row goes on.
        """
        cdef slot_t *slot = self.checked_slot(shard)
        if slot.epoch:
            store_relaxed_u32(&slot.restarts, slot.restarts + 1)
        store_relaxed_u32(&slot.pid, 0)
        store_relaxed_u64(&slot.booted_unix_ns, time.time_ns())
        store_relaxed_u64(&slot.heartbeat_ns, time.monotonic_ns())
        store_relaxed_u32(&slot.asleep, 0)
        store_release_u32(&slot.epoch, slot.epoch + 1)
        store_release_u32(&slot.state, SB_SLOT_BOOTING)
        bump_membership(self.header())
        return slot.epoch

    def set_pid(self, uint32_t shard, uint32_t pid):
        """The process that was started in this slot. Front only."""
        store_relaxed_u32(&self.checked_slot(shard).pid, pid)

    def mark_ready(self, uint32_t shard):
        """The shard has all interest and may be given connections. Home shard only."""
        store_release_u32(&self.checked_slot(shard).state, SB_SLOT_READY)
        bump_membership(self.header())

    def mark_dead(self, uint32_t shard):
        """The shard's process has ended. Front only, after it was reaped. Then clear its bits in the directory."""
        store_release_u32(&self.checked_slot(shard).state, SB_SLOT_DEAD)
        store_relaxed_u32(&self.slot(shard).asleep, 0)
        bump_membership(self.header())
