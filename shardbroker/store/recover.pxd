"""Opening a log: what is on the disk becomes the index. Blocks; any thread, as long as it is the log's only one."""
from shardbroker.store.model cimport log_t

cdef int recover(log_t* log) noexcept nogil                        # 0 or a negative errno of the directory
