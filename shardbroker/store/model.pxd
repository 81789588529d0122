r"""The C structs of the store: a log, its segments, its index by subject, and what is told about it.

    store_t --- log_t --- segment_t --- segment_t ...     records, oldest segment first
                      \-- subject_t by id                 count, first, last, and where the others are
                      \-- filter_t ...                    what consumers ask for, with remembered answers

All of it belongs to one thread ("Home shard only."). The helper threads of the store see jobs, never these.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from shardbroker.store.files cimport file_t, files_t
from shardbroker.store.format cimport record_t

cdef enum:
    # What a call answers. 0 is well; 1 is "not finished, call again".
    LOG_OK = 0
    LOG_MORE = 1
    LOG_NOT_FOUND = -1
    LOG_NO_SPACE = -2                   # the disk is full; tried again by itself after a while
    LOG_FAILED = -3                     # a write or a sync failed: nothing is accepted until the log is opened again
    LOG_MAX_MSGS = -4                   # discard new, and the limit is reached
    LOG_MAX_BYTES = -5
    LOG_MAX_MSGS_PER_SUBJECT = -6
    LOG_TOO_LARGE = -7                  # a record is at most RECORD_BYTES_MAX
    LOG_DAMAGED = -8                    # its checksum is wrong: reported and taken out of the index
    LOG_BAD_SUBJECT = -9

cdef enum:
    # Why a message went; told to log_t.on_removed.
    REMOVED_DELETED = 1                 # log_remove
    REMOVED_PURGED = 2
    REMOVED_MAX_MSGS = 3
    REMOVED_MAX_BYTES = 4
    REMOVED_MAX_AGE = 5
    REMOVED_MAX_PER_SUBJECT = 6
    REMOVED_TTL = 7
    REMOVED_DAMAGED = 8
    REMOVED_UNWRITTEN = 9               # no log gives it any more: what is accepted is never taken back

cdef enum:
    STORAGE_FILE = 0
    STORAGE_MEMORY = 1

cdef enum:
    SYNC_ALWAYS = 0                     # durable_seq moves after fdatasync
    SYNC_INTERVAL = 1                   # durable_seq moves after the write; fdatasync every sync_interval_ns

cdef struct log_limits_t:
    # 0: no limit. Changed by log_set_limits only.
    uint64_t max_msgs
    uint64_t max_bytes
    uint64_t max_msgs_per_subject
    int64_t max_age_ns
    bint discard_new                    # else old messages make room
    bint discard_new_per_subject        # with discard_new: also for max_msgs_per_subject

cdef struct log_view_t:
    # One stored message. The bytes are the log's; they stay where they are until log_submit (the turn's end).
    uint64_t seq
    int64_t time_ns                     # Unix time
    int64_t expires_ns                  # 0: no TTL of its own
    const char* subject
    const char* tail                    # "[header_bytes ]bytes CRLF headers payload CRLF": what stands behind "subject sid "
    const char* payload                 # headers first, when there are any
    uint32_t subject_bytes
    uint32_t tail_bytes
    uint32_t payload_bytes              # headers included
    int32_t header_bytes                # -1: no headers
    uint32_t subject_id                 # of the log's index; valid while the subject has messages

cdef struct posting_t:
    # Sequences of one subject with more than one message, oldest first. While they follow one another without a gap
    # there are no entries: base, base + 1, ... A ring of differences to `base` otherwise.
    uint64_t base
    uint32_t* entries                   # NULL: a run; wide: of uint64_t, and base is 0
    uint32_t start
    uint32_t count
    uint32_t capacity
    bint wide

cdef struct subject_t:
    uint64_t first
    uint64_t last
    posting_t* posting                  # NULL while count < 2
    char* name                          # uint16_t length, then the bytes; NULL: this id is free
    uint32_t count
    uint32_t hash

cdef struct subject_slot_t:
    uint32_t hash
    uint32_t id                         # 0: free

cdef struct subject_part_t:
    subject_slot_t* slots               # open addressing, linear probing; NULL while empty
    uint32_t count
    uint32_t capacity

cdef enum:
    POOL_MOST = 256                     # larger pieces are malloc's
    POOL_CLASSES = 33                   # POOL_MOST // 8 + 1

cdef struct pool_t:
    # Small pieces of one log, in steps of 8 bytes, from chunks that are freed with it.
    void* free[POOL_CLASSES]           # given back, linked through their first word
    void* chunks
    char* at
    uint32_t left
    uint32_t chunk_bytes

cdef enum:
    SUBJECT_PARTS = 64                  # tables by hash, so that growing one does not stall the shard

cdef struct subjects_t:
    uint64_t seed
    subject_t* items                    # by id, 0 is never used
    uint32_t* free_ids
    uint32_t items_count                # ids ever given, with 0
    uint32_t items_capacity
    uint32_t free_count
    uint32_t free_capacity
    uint32_t live                       # subjects with messages
    subject_part_t parts[SUBJECT_PARTS]
    pool_t pool

cdef struct segment_t:
    # A run of records in one file, or in memory alone. `base` is address space for `capacity` bytes: what is written may
    # be a mapping of the file, the rest is private memory.
    segment_t* next                     # newer; in the list of the retired: the next of them
    segment_t* previous
    uint64_t id                         # names the file; grows
    uint64_t covers                     # ids up to this one are in it, by compaction; else id
    file_t* file                        # NULL: memory storage, or sealed and closed
    char* base
    uint64_t capacity
    uint64_t used                       # records end here
    uint64_t submitted                  # given to a job
    uint64_t written                    # in the file
    uint64_t mapped                     # below this, a page boundary, `base` is the file
    uint64_t first_seq                  # of the first entry
    uint64_t end_seq                    # one behind the last entry
    uint32_t* offsets                   # of the record, in 8 bytes; 0: no live message. By seq - first_seq
    uint32_t* ids                       # subject id of each
    uint32_t* deltas                    # seq - first_seq of each, ascending, in a segment with gaps; else NULL
    uint32_t entries                    # of these arrays
    uint32_t entries_capacity
    uint32_t live                       # messages
    uint32_t dead                       # messages that are gone and whose record is still in the file
    uint64_t live_bytes                 # of their records, padded
    uint64_t counted                    # of log_t.bytes
    uint64_t removals                   # of messages in older segments, said by records of this one
    uint32_t salt
    bint sealed                         # no more records
    bint closing                        # sealed, and the file is still open and preallocated
    bint created                        # the directory has not been synced since
    bint unsynced                       # written since the last fdatasync (SYNC_INTERVAL)
    bint damaged                        # never rewritten
    bint busy                           # compaction reads it
    bint erased                         # a message was to be overwritten while it was
    bint replaced                       # by compaction: its file's name is another's now

cdef struct expiry_t:
    int64_t expires_ns
    uint64_t seq

cdef struct store_t:
    # The logs of one shard and their helper threads; see store.writer.
    const files_t* files
    void* helpers
    bint at_once                        # home shard: a quick job may be done in its own thread; see store.writer
    bint did_at_once                    # one was, and waits to be collected
    uint64_t quick_ns                   # what a quick job takes, a moving average

cdef struct filter_t
cdef struct log_t
cdef struct job_t

# A message is gone. `subject_empty`: it was the last of its subject. Called in the middle of log functions: look, note,
# but call nothing that changes the log.
ctypedef void (*log_removed_t)(void* context, log_t* log, uint64_t seq, const char* subject, uint32_t subject_bytes,
                               bint subject_empty, int reason) noexcept nogil
# durable_seq or durable_ticket has moved, or log.state is no longer LOG_OK. From log_submit and store_collect.
ctypedef void (*log_durable_t)(void* context, log_t* log) noexcept nogil
# Damage was met while reading, between these sequences (inclusive).
ctypedef void (*log_damage_t)(void* context, log_t* log, uint64_t first, uint64_t last) noexcept nogil

cdef struct filter_t:
    # What a consumer wants: any of its patterns; none: every message. Made by filter_new, freed by filter_free.
    log_t* log
    filter_t* next
    filter_t* previous
    char** patterns                     # NUL-terminated
    uint32_t* pattern_bytes
    uint32_t count
    bint all                            # every subject matches
    bint literal                        # no wildcards
    uint64_t* known                     # 2 bits a subject id: 0 unknown, 1 no, 2 yes; patterns only
    uint32_t known_ids                  # capacity in ids

cdef struct range_t:
    uint64_t first
    uint64_t last

cdef struct erase_t:
    uint64_t segment_id
    uint64_t offset
    uint32_t bytes
    uint32_t salt
    uint64_t seq
    int64_t time_ns
    uint64_t displaced                  # the one thing in its body that is still needed

cdef struct job_t:
    # Work for a helper thread. The thread calls `run`, the home shard then `done`.
    job_t* next
    void (*run)(job_t* job) noexcept nogil
    void (*done)(job_t* job) noexcept nogil
    log_t* log
    int result                          # 0 or a negative errno
    bint quick                          # a small write and its sync, nothing else
    uint64_t took_ns                    # of a quick one that has been run

cdef struct log_t:
    # State, to read
    uint64_t first_seq                  # of the first message; next_seq while there is none
    uint64_t next_seq                   # last_seq is next_seq - 1
    uint64_t durable_seq                # acknowledge, and deliver, up to here
    uint64_t msgs
    uint64_t bytes                      # as nats-server counts them, see record_counted_bytes
    int64_t first_time_ns               # 0 while empty
    int64_t last_time_ns
    int state                           # LOG_OK, LOG_NO_SPACE, LOG_FAILED
    int error                           # of the last log_append that answered 0
    int error_number                    # errno behind `state`
    uint64_t ticket                     # the batch that gathers; changes made now are durable when
    uint64_t durable_ticket             # this reaches it
    uint64_t lost_msgs                  # found damaged, by recovery or by reading
    uint64_t torn_bytes                 # cut off by recovery: written, and never durable
    uint64_t damaged_bytes              # that recovery could make nothing of, in what was durable
    uint32_t damaged_segments           # without a readable header: left alone
    range_t* lost                       # where
    uint32_t lost_count
    uint32_t lost_capacity
    # Set by the owner
    log_limits_t limits
    void* context
    log_removed_t on_removed
    const record_t* removing            # while on_removed runs for the last of a subject that ended by age or TTL; NULL: damaged
    log_durable_t on_durable
    log_damage_t on_damage
    # Whole life
    store_t* store
    log_t* next                         # of the store
    log_t* previous
    char* directory
    int storage
    int sync
    int64_t sync_interval_ns
    uint64_t segment_bytes_max
    subjects_t subjects
    segment_t* first                    # first and last: NULL before the first record
    segment_t* last                     # the active one, unless it is sealed
    segment_t** order                   # by age, for binary search
    uint32_t order_count
    uint32_t order_capacity
    uint64_t segment_id_next
    segment_t* cursor                   # last looked at
    filter_t* filters
    expiry_t* expiries                  # binary heap by time; entries of removed messages stay until they come up
    uint32_t expiries_count
    uint32_t expiries_capacity
    # Between turns
    range_t* removals                   # to be written with this batch
    uint32_t removals_count
    uint32_t removals_capacity
    erase_t* erases                     # to be overwritten behind this batch
    uint32_t erases_count
    uint32_t erases_capacity
    record_t* mark                      # the first of this batch; NULL: it has none yet
    uint64_t marked_seq                 # first_seq in the last mark
    bint mark_wanted                    # first_seq was moved by a call, no record says so yet
    bint jump_wanted                    # sequences were skipped, no mark says so yet
    bint busy                           # the write job is with the helpers
    bint submit_again                   # log_submit came while it was
    bint stuck                          # a write met a full disk: it is repeated before anything else
    bint recovering
    bint sync_wanted                    # SYNC_INTERVAL: something was written since the last sync
    uint64_t synced_seq                 # survives losing power
    uint64_t synced_ticket
    uint32_t erases_busy                # with the write job
    bint closing
    void (*poke)(log_t* log) noexcept nogil     # synced_ticket has moved, and compaction waits for it
    int64_t sync_next_ns
    int64_t retry_ns                    # LOG_NO_SPACE: try again from here on
    segment_t* retired                  # to be unlinked and freed behind this batch
    job_t* write_job                    # the one of this log
    job_t* compact_job                  # under way; NULL: none
    bint compact_wanted                 # a sealed segment fell below half alive
