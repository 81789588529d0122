"""The native side of streams: messages into the log, acknowledgements out of it, single messages read.

    streams_t    of a shard: its store, the list of streams with work, the hook at the end of a turn
      stream_t   one stream: its log, its sink, the acknowledgements that wait for the disk

A turn: sink -> log_append, an ack_t for each message with a reply -> hook: log_submit -> (the disk) -> durable_seq ->
acknowledgements, and the consumers are told. Home shard only.
"""
from libc.stdint cimport int16_t, int32_t, int64_t, uint16_t, uint32_t, uint64_t

from shardbroker.hot.engine cimport Engine
from shardbroker.hot.model cimport account_t, connection_t, subscription_t
from shardbroker.hot.state cimport engine_t, message_t
from shardbroker.store.handle cimport Log, Store
from shardbroker.store.model cimport log_t, log_view_t, store_t

cdef enum:
    # What a stream is, set by Capture.configure
    STREAM_NO_ACK = 1 << 0
    STREAM_SEALED = 1 << 1
    STREAM_BY_PYTHON = 1 << 2           # every message: transforms, republish
    STREAM_INTEREST = 1 << 3            # kept only while some consumer wants it
    STREAM_STOPPED = 1 << 4             # the account's or the server's storage is used up
    STREAM_MARKERS = 1 << 5             # the end of a subject is told to Python
    STREAM_CLOSED = 1 << 6
    STREAM_FOLLOWED = 1 << 7            # Python is told when durable_seq has moved, once

cdef enum:
    # Prepared answers for what is refused natively; Capture.texts in this order.
    REFUSED_SEALED = 1
    REFUSED_TOO_LARGE = 2
    REFUSED_HEADERS = 3
    REFUSED_RESOURCES = 4
    REFUSED_MAX_MSGS = 5
    REFUSED_MAX_BYTES = 6
    REFUSED_MAX_PER_SUBJECT = 7
    REFUSED_RECORD = 8
    REFUSED_NO_SPACE = 9
    REFUSED_FAILED = 10
    REFUSED_ACCOUNT = 11
    REFUSED_COUNT = 12

# What consumers are told; set by whoever has them, with `consumers` as the context. All run on the stream's shard.
ctypedef void (*stored_t)(void* consumers) noexcept nogil           # durable_seq has moved; once a turn
ctypedef void (*gone_t)(void* consumers, uint64_t seq, const char* subject, uint32_t subject_bytes,
                        int reason) noexcept nogil                  # a message was removed; changes nothing in the log
ctypedef void (*purged_t)(void* consumers) noexcept nogil           # many were, or sequences were skipped
ctypedef bint (*wants_t)(void* consumers, const char* subject, uint32_t subject_bytes) noexcept nogil

cdef struct ack_t:
    # An answer that waits: after what was asked before, and until `seq` is durable.
    uint64_t seq                        # 0: as soon as it is its turn
    uint64_t at                         # of its reply in ack_bytes, the text of its own behind it
    uint32_t text_bytes                 # 0: an acknowledgement, or a prepared refusal
    int32_t header_bytes                # of the text; -1: none
    uint16_t reply_bytes
    int16_t refused

cdef struct queued_t:
    # A message that waits for Python: subject, reply, payload behind the struct.
    queued_t* next
    uint32_t subject_bytes
    uint32_t reply_bytes
    uint32_t payload_bytes
    int32_t header_bytes

cdef struct get_t:
    # A direct get: key (or payload, with `by_payload`), reply behind the struct.
    get_t* next
    stream_t* stream
    uint32_t key_bytes
    uint32_t reply_bytes
    uint64_t seq                        # of a get by sequence; 0: the last of the key

cdef struct quota_t:
    # What an account's messages may take on all shards together; [0] in files, [1] in memory. Bytes.
    int64_t most[2]                     # -1: no limit
    int64_t elsewhere[2]                # on the other shards, as they said last
    int64_t used[2]                     # on this one, counted anew in each turn that stores something
    uint64_t turn
    bint limited

cdef struct stream_t:
    streams_t* home
    quota_t* quota                      # the account's
    void* capture                       # the Capture that holds this
    account_t* account
    log_t* log
    stream_t* next                      # of the shard
    stream_t* previous
    stream_t* dirty_next
    bint dirty
    bint touched                        # the log has changes to submit
    uint32_t flags
    int64_t max_msg_size                # -1: no limit
    connection_t* sink                  # the stream's subjects; NULL: takes no messages
    connection_t* gets                  # direct gets, or NULL
    subscription_t* get_by_subject      # the one whose subject ends with the key
    uint32_t get_prefix_bytes           # of that subject, before the key
    # Acknowledgements
    ack_t* acks                         # ring of a power of two
    uint32_t acks_capacity
    uint32_t acks_first
    uint32_t acks_count
    char* ack_bytes
    uint64_t ack_bytes_used
    uint64_t ack_bytes_capacity
    const char* name                    # of the stream
    uint32_t name_bytes
    char* answer                        # {"stream":"S","seq": and room for the rest
    uint32_t answer_bytes
    const char* texts[12]               # REFUSED_COUNT
    uint32_t texts_bytes[12]
    # For Python
    queued_t* queued_first
    queued_t* queued_last
    uint32_t queued_count
    uint64_t told_seq                   # durable_seq when consumers were last told
    bint purged
    uint64_t backlog_max                # messages that are not durable yet, before publishers are slowed
    # Counters
    uint64_t stored_msgs
    uint64_t stored_bytes
    # Consumers
    void* consumers
    stored_t on_stored
    gone_t on_gone
    purged_t on_purged
    wants_t wants

cdef struct streams_t:
    engine_t* e
    store_t* store
    stream_t* first
    stream_t* dirty
    get_t* gets_first
    get_t* gets_last
    uint64_t clock_turn                 # the turn that now_ns was read in
    int64_t now_ns                      # Unix time
    uint64_t tick_at_ns                 # monotonic: when logs are to be looked at for ages
    bint noted                          # Python has been told that there is work
    bint running                        # in the hook: what it marks it finishes itself

cdef class Streams:
    """All of a shard's."""
    cdef streams_t h
    cdef readonly Engine engine
    cdef readonly Store store

cdef class Quota:
    """An account's, for all of its streams on a shard."""
    cdef quota_t q
    cdef streams_t* home                # NULL: no stream has it yet

cdef class Capture:
    """One stream's native side."""
    cdef stream_t s
    cdef readonly Streams streams
    cdef readonly Quota quota           # owns s.quota
    cdef readonly Log log
    cdef object texts
    cdef bytes name
    cdef public object owner            # the Stream
    cdef list ended                     # subjects whose last message has aged out

cdef int64_t streams_now(streams_t* h) noexcept nogil
cdef void stream_touch(stream_t* s) noexcept nogil
cdef void stream_send(stream_t* s, uint64_t seq, const char* subject, uint32_t subject_bytes, int refused,
                      const char* text, uint32_t text_bytes, int32_t header_bytes) noexcept nogil
cdef void stream_answer(stream_t* s, uint64_t seq, const char* reply, uint32_t reply_bytes, int refused, const char* text,
                        uint32_t text_bytes) noexcept nogil
