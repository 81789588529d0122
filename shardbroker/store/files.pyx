# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The real files: POSIX calls, repeated when a signal interrupts and until all bytes are written. Any thread, no GIL."""
from libc.errno cimport EINTR, EIO, ENOSPC, EOPNOTSUPP, EINVAL, errno
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from posix.fcntl cimport O_CREAT, O_DIRECTORY, O_RDONLY, O_RDWR, open as posix_open
from posix.stat cimport fstat, struct_stat
from posix.types cimport off_t
from posix.unistd cimport close as posix_close, fdatasync, fsync, ftruncate, pread, pwrite, unlink

cdef extern from "shardbroker/store/bytes.h" nogil:
    int O_CLOEXEC
    int PROT_READ, MAP_SHARED, MAP_FIXED
    void* MAP_FAILED
    void* mmap(void* at, size_t n, int protection, int flags, int fd, off_t offset)
    int fallocate(int fd, int mode, off_t offset, off_t n)

cdef extern from "<dirent.h>" nogil:
    ctypedef struct DIR
    cdef struct dirent:
        char* d_name
    DIR* opendir(const char* path)
    dirent* readdir(DIR* d)
    int closedir(DIR* d)

cdef extern from "<stdio.h>" nogil:
    int posix_rename "rename"(const char* source, const char* target)


cdef int real_open(const files_t* f, const char* path, bint create, file_t** file) noexcept nogil:
    cdef int fd
    while True:
        fd = posix_open(path, O_RDWR | O_CLOEXEC | (O_CREAT if create else 0), 0o600)
        if fd >= 0:
            break
        if errno != EINTR:
            return -errno
    file[0] = <file_t*>malloc(sizeof(file_t))
    if file[0] == NULL:
        posix_close(fd)
        return -ENOSPC
    file[0].number = fd
    file[0].files = f
    return 0


cdef void real_close(file_t* file) noexcept nogil:
    posix_close(<int>file.number)
    free(file)


cdef int real_write(file_t* file, const char* data, uint64_t n, uint64_t offset) noexcept nogil:
    cdef ssize_t done
    while n:
        done = pwrite(<int>file.number, data, n, <off_t>offset)
        if done < 0:
            if errno == EINTR:
                continue
            return -errno
        if done == 0:
            return -EIO
        data += done
        offset += <uint64_t>done
        n -= <uint64_t>done
    return 0


cdef int64_t real_read(file_t* file, char* data, uint64_t n, uint64_t offset) noexcept nogil:
    cdef int64_t total = 0
    cdef ssize_t done
    while n:
        done = pread(<int>file.number, data, n, <off_t>offset)
        if done < 0:
            if errno == EINTR:
                continue
            return -errno
        if done == 0:
            break
        data += done
        offset += <uint64_t>done
        n -= <uint64_t>done
        total += done
    return total


cdef int real_sync(file_t* file) noexcept nogil:
    return 0 if fdatasync(<int>file.number) == 0 else -errno


cdef int real_allocate(file_t* file, uint64_t n) noexcept nogil:
    """Blocks for n bytes, so that a write cannot run out of space. A file system that cannot promise grows as it is
    written, and a full disk is met there."""
    while fallocate(<int>file.number, 0, 0, <off_t>n) != 0:
        if errno == EINTR:
            continue
        if errno == EOPNOTSUPP or errno == EINVAL:
            return 0 if ftruncate(<int>file.number, <off_t>n) == 0 else -errno
        return -errno
    return 0


cdef int real_truncate(file_t* file, uint64_t n) noexcept nogil:
    while ftruncate(<int>file.number, <off_t>n) != 0:
        if errno != EINTR:
            return -errno
    return 0


cdef int64_t real_size(file_t* file) noexcept nogil:
    cdef struct_stat st
    return st.st_size if fstat(<int>file.number, &st) == 0 else -errno


cdef int real_map(file_t* file, char* at, uint64_t offset, uint64_t n) noexcept nogil:
    cdef void* p = mmap(at, n, PROT_READ, MAP_SHARED | MAP_FIXED, <int>file.number, <off_t>offset)
    return 0 if p != MAP_FAILED else -errno


cdef int real_rename(const files_t* f, const char* source, const char* target) noexcept nogil:
    return 0 if posix_rename(source, target) == 0 else -errno


cdef int real_remove(const files_t* f, const char* path) noexcept nogil:
    return 0 if unlink(path) == 0 else -errno


cdef int real_list(const files_t* f, const char* path, visit_name_t visit, void* context) noexcept nogil:
    cdef DIR* d = opendir(path)
    cdef dirent* entry
    if d == NULL:
        return -errno
    while True:
        entry = readdir(d)
        if entry == NULL:
            break
        visit(context, entry.d_name)
    closedir(d)
    return 0


cdef int real_sync_directory(const files_t* f, const char* path) noexcept nogil:
    cdef int fd = posix_open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    cdef int answer = 0
    if fd < 0:
        return -errno
    if fsync(fd) != 0:
        answer = -errno
    posix_close(fd)
    return answer


cdef files_t real
memset(&real, 0, sizeof(files_t))
real.maps = True
real.open = real_open
real.close = real_close
real.write = real_write
real.read = real_read
real.sync = real_sync
real.allocate = real_allocate
real.truncate = real_truncate
real.size = real_size
real.map = real_map
real.rename = real_rename
real.remove = real_remove
real.sync_directory = real_sync_directory
real.list = real_list


cdef const files_t* files_posix() noexcept nogil:
    return &real


# ---- for looking at a log without touching it ----

cdef int reading_open(const files_t* f, const char* path, bint create, file_t** file) noexcept nogil:
    cdef int fd = posix_open(path, O_RDONLY | O_CLOEXEC)
    if fd < 0:
        return -errno
    file[0] = <file_t*>malloc(sizeof(file_t))
    if file[0] == NULL:
        posix_close(fd)
        return -ENOSPC
    file[0].number = fd
    file[0].files = f
    return 0


cdef int reading_write(file_t* file, const char* data, uint64_t n, uint64_t offset) noexcept nogil:
    return 0


cdef int reading_file(file_t* file) noexcept nogil:
    return 0


cdef int reading_size(file_t* file, uint64_t n) noexcept nogil:
    return 0


cdef int reading_rename(const files_t* f, const char* source, const char* target) noexcept nogil:
    return 0


cdef int reading_name(const files_t* f, const char* path) noexcept nogil:
    return 0


cdef files_t reading = real
reading.open = reading_open
reading.write = reading_write
reading.sync = reading_file
reading.allocate = reading_size
reading.truncate = reading_size
reading.rename = reading_rename
reading.remove = reading_name
reading.sync_directory = reading_name


cdef const files_t* files_reading() noexcept nogil:
    return &reading
