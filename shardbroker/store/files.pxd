"""The file interface: everything that the store asks of a disk, as a table of functions.

`files_posix()` is the real one. The simulator (store/sim) is the other: it tears, drops, reorders and fails. Every function
may be called from a helper thread and needs no GIL, except the simulator's, which takes it. Answers are 0 or a negative
errno; sizes are bytes.
"""
from libc.stdint cimport int64_t, uint64_t

cdef struct file_t:
    # An open file. `number` is the descriptor, or the simulator's own.
    int64_t number
    const files_t* files

ctypedef void (*visit_name_t)(void* context, const char* name) noexcept nogil

cdef struct files_t:
    void* context
    bint maps                           # map() works; else contents are read into memory
    int (*open)(const files_t* f, const char* path, bint create, file_t** file) noexcept nogil
    void (*close)(file_t* file) noexcept nogil
    int (*write)(file_t* file, const char* data, uint64_t n, uint64_t offset) noexcept nogil    # all of it, or an error
    int64_t (*read)(file_t* file, char* data, uint64_t n, uint64_t offset) noexcept nogil       # less at the end
    int (*sync)(file_t* file) noexcept nogil                                                    # data and size
    int (*allocate)(file_t* file, uint64_t n) noexcept nogil                                    # n bytes are its own
    int (*truncate)(file_t* file, uint64_t n) noexcept nogil
    int64_t (*size)(file_t* file) noexcept nogil
    int (*map)(file_t* file, char* at, uint64_t offset, uint64_t n) noexcept nogil              # over memory that exists
    int (*rename)(const files_t* f, const char* source, const char* target) noexcept nogil
    int (*remove)(const files_t* f, const char* path) noexcept nogil
    int (*list)(const files_t* f, const char* path, visit_name_t visit, void* context) noexcept nogil
    int (*sync_directory)(const files_t* f, const char* path) noexcept nogil

cdef const files_t* files_posix() noexcept nogil
cdef const files_t* files_reading() noexcept nogil      # reads the real files; everything else is said to be done and is not
