# cython: language_level=3
"""A door for tests, tools and benchmarks: files that a Python object plays, checksums, loops without Python in them.

Nothing of the broker uses it. `Files` takes the GIL for every call, from whatever thread.
"""
from libc.errno cimport EIO
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from shardbroker.store.files cimport file_t, files_t, visit_name_t
from shardbroker.store.format cimport sb_crc32c, sb_crc32c_fast, sb_crc32c_hardware, sb_crc32c_init, sb_crc32c_portable
from shardbroker.store.handle cimport Filter, Log
from shardbroker.store.log cimport log_append, log_get, log_next, log_submit
from shardbroker.store.model cimport LOG_OK, log_view_t
from shardbroker.store.segment cimport segment_faults

sb_crc32c_init()


def crc32c(bytes data not None, uint32_t seed=0):
    return sb_crc32c(seed, data, <size_t>len(data))


def crc32c_each(bytes data not None, uint32_t seed=0):
    """(by the processor or None, by tables)."""
    return (sb_crc32c_hardware(seed, data, <size_t>len(data)) if sb_crc32c_fast() else None,
            sb_crc32c_portable(seed, data, <size_t>len(data)))


cdef class Files:
    """A files_t whose functions are the methods of `disk`; see sim.disk for what they are. They raise OSError."""
    cdef files_t table
    cdef public object disk
    cdef public dict opened
    cdef int64_t next_number

    def __init__(self, disk):
        self.disk = disk
        self.opened = {}
        self.next_number = 1
        memset(&self.table, 0, sizeof(files_t))
        self.table.context = <void*>self
        self.table.open = play_open
        self.table.close = play_close
        self.table.write = play_write
        self.table.read = play_read
        self.table.sync = play_sync
        self.table.allocate = play_allocate
        self.table.truncate = play_truncate
        self.table.size = play_size
        self.table.rename = play_rename
        self.table.remove = play_remove
        self.table.list = play_list
        self.table.sync_directory = play_sync_directory

    @property
    def address(self):
        return <size_t>&self.table


cdef int failure(object error):
    return -error.errno if isinstance(error, OSError) and error.errno else -EIO


cdef int play_open(const files_t* f, const char* path, bint create, file_t** file) noexcept nogil:
    with gil:
        return do_open(<Files>f.context, f, path, create, file)


cdef int do_open(Files self, const files_t* f, bytes path, bint create, file_t** file):
    try:
        handle = self.disk.open(path.decode(), bool(create))
    except OSError as e:
        return failure(e)
    file[0] = <file_t*>malloc(sizeof(file_t))
    file[0].files = f
    file[0].number = self.next_number
    self.next_number += 1
    self.opened[file[0].number] = handle
    return 0


cdef void play_close(file_t* file) noexcept nogil:
    with gil:
        del (<Files>file.files.context).opened[file.number]
    free(file)


cdef object handle_of(file_t* file):
    return (<Files>file.files.context).opened[file.number]


cdef int play_write(file_t* file, const char* data, uint64_t n, uint64_t offset) noexcept nogil:
    with gil:
        try:
            (<Files>file.files.context).disk.write(handle_of(file), data[:n], offset)
        except OSError as e:
            return failure(e)
    return 0


cdef int64_t play_read(file_t* file, char* data, uint64_t n, uint64_t offset) noexcept nogil:
    cdef const char* source
    with gil:
        try:
            found = (<Files>file.files.context).disk.read(handle_of(file), n, offset)
        except OSError as e:
            return failure(e)
        source = found
        memcpy(data, source, <size_t>len(found))
        return <int64_t>len(found)


cdef int play_sync(file_t* file) noexcept nogil:
    with gil:
        try:
            (<Files>file.files.context).disk.sync(handle_of(file))
        except OSError as e:
            return failure(e)
    return 0


cdef int play_allocate(file_t* file, uint64_t n) noexcept nogil:
    with gil:
        try:
            (<Files>file.files.context).disk.allocate(handle_of(file), n)
        except OSError as e:
            return failure(e)
    return 0


cdef int play_truncate(file_t* file, uint64_t n) noexcept nogil:
    with gil:
        try:
            (<Files>file.files.context).disk.truncate(handle_of(file), n)
        except OSError as e:
            return failure(e)
    return 0


cdef int64_t play_size(file_t* file) noexcept nogil:
    with gil:
        return <int64_t>(<Files>file.files.context).disk.size(handle_of(file))


cdef int play_rename(const files_t* f, const char* source, const char* target) noexcept nogil:
    with gil:
        try:
            (<Files>f.context).disk.rename(source.decode(), target.decode())
        except OSError as e:
            return failure(e)
    return 0


cdef int play_remove(const files_t* f, const char* path) noexcept nogil:
    with gil:
        try:
            (<Files>f.context).disk.remove(path.decode())
        except OSError as e:
            return failure(e)
    return 0


cdef int play_list(const files_t* f, const char* path, visit_name_t visit, void* context) noexcept nogil:
    with gil:
        return do_list(<Files>f.context, path, visit, context)


cdef int do_list(Files self, bytes path, visit_name_t visit, void* context):
    cdef bytes text
    for name in self.disk.list(path.decode()):
        text = name.encode()
        visit(context, text)
    return 0


cdef int play_sync_directory(const files_t* f, const char* path) noexcept nogil:
    with gil:
        try:
            (<Files>f.context).disk.sync_directory(path.decode())
        except OSError as e:
            return failure(e)
    return 0


def faults():
    """Pages of mapped files that could not be read so far, in this process."""
    return segment_faults()


# ---- loops for benchmarks ----

def fill(Log log not None, list subjects not None, bytes payload not None, uint64_t count, uint32_t turn=256, int64_t time_ns=1):
    """Appends `count` messages, over the subjects in turn; log_submit after every `turn`. How many were taken."""
    cdef uint32_t n = <uint32_t>len(subjects)
    cdef const char** texts = <const char**>malloc(n * sizeof(char*))
    cdef uint32_t* lengths = <uint32_t*>malloc(n * sizeof(uint32_t))
    cdef const char* body = payload
    cdef uint32_t bytes_each = <uint32_t>len(payload)
    cdef uint64_t i
    cdef uint64_t taken = 0
    cdef uint32_t k
    for k in range(n):
        texts[k] = <const char*><bytes>subjects[k]
        lengths[k] = <uint32_t>len(subjects[k])
    k = 0
    with nogil:
        for i in range(count):
            if log_append(log.log, texts[k], lengths[k], -1, body, bytes_each, time_ns, 0):
                taken += 1
            k += 1
            if k == n:
                k = 0
            if i % turn == turn - 1:
                log_submit(log.log)
        log_submit(log.log)
    free(<void*>texts)
    free(lengths)
    return taken


def walk(Log log not None, Filter filter=None, uint64_t from_seq=1):
    """Reads every message that matches: (how many, bytes of their tails)."""
    cdef log_view_t v
    cdef uint64_t count = 0
    cdef uint64_t total = 0
    v.seq = from_seq - 1
    with nogil:
        while log_next(log.log, v.seq + 1, filter.filter if filter is not None else NULL, &v) == LOG_OK:
            count += 1
            total += v.tail_bytes
    return count, total


def gets(Log log not None, list seqs not None):
    """Reads these sequences; how many are there."""
    cdef log_view_t v
    cdef uint64_t count = 0
    for seq in seqs:
        count += log_get(log.log, seq, &v) == LOG_OK
    return count
