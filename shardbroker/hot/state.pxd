"""The state of one shard's engine, as one C struct that every part of the data path is handed.

Grouped by how long it lives: whole life, one turn, one message. Home shard only.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from shardbroker.hot.model cimport account_t, connection_t, measure_t, response_t, shadow_t, subscription_t
from shardbroker.hot.outbound cimport outbound_t
from shardbroker.hot.sublist cimport match_t
from shardbroker.shm.layout cimport directory_t, header_t, shard_stats_t, slot_t
from shardbroker.shm.ring cimport ring_reader, ring_writer

cdef enum:
    SHARDS_MAX = 64
    # Frames that several connections share lie in the arena until the flush: half a typical L2 cache.
    ARENA_BYTES = 512 << 10
    ARENA_FLUSH_BYTES = 192 << 10
    # Bytes copied into connections' own chunks before a flush: the same reason.
    DIRTY_FLUSH_BYTES = 512 << 10
    # From this payload on, bytes are referenced where they were received instead of copied.
    REFERENCE_BYTES = 2048
    REDRAWS_MAX = 3
    REAP_SUBSCRIPTIONS = 20000          # of closing connections, taken out in one turn
    REAP_CONNECTION = 64                # what the end of one costs beside: it is told to the control side

cdef enum:
    EVENT_CONNECT = 1
    EVENT_CLOSED = 2
    EVENT_LOG = 3
    EVENT_TRACE = 4
    EVENT_SNAPSHOTS_COMPLETE = 5
    EVENT_REQUEST = 6                   # a message of a client that the intercept took
    EVENT_MESSAGE = 7                   # a message to a sink whose messages go to Python
    EVENT_PEER = 8                      # a request of another shard
    EVENT_NOTE = 9                      # what rides on the engine wants its Python side
    EVENT_ATTENTION = 10                # a transport has output, or may be read again
    EVENT_OUTPUT_END = 11               # the last output of a transport's connection, which is gone
    EVENT_LATENCY = 12                  # how long a service took (hot/latency)

cdef struct event_t:
    int kind
    int number                          # close reason, log level, trace direction
    uint32_t slot
    uint64_t client_id
    char* text
    size_t text_bytes
    uint64_t values[12]                 # EVENT_CLOSED: the connection's last row; of a message: lengths in `text`

cdef struct spill_t:
    # A record that found its ring full, in the order in which it has to follow.
    spill_t* next
    uint32_t bytes
    uint32_t sent                       # of a record that goes in fragments
    int kind

cdef struct spill_queue_t:
    spill_t* first
    spill_t* last
    uint64_t bytes

cdef struct peer_t:
    # Another shard, as this one sees it.
    ring_writer* data_out
    ring_reader* data_in
    ring_writer* control_out
    ring_reader* control_in
    slot_t* slot
    int eventfd
    uint32_t epoch
    bint wants_snapshot                 # of ours; sent at the next turn
    bint in_snapshot
    bint snapshot_awaited
    spill_queue_t data_spill
    spill_queue_t control_spill
    char* assembly                      # a fragmented record under way
    uint32_t assembly_bytes
    uint32_t assembly_total
    uint64_t stalled_client             # the last publisher told to slow down, and in which turn
    uint64_t stalled_turn

cdef struct receipt_t:
    # Another shard wants to know when what it sent before has been written to sockets.
    uint64_t client_id
    uint32_t slot
    uint32_t number
    uint32_t shard

cdef struct limits_t:
    int64_t max_payload
    uint32_t max_control_line
    uint64_t max_pending
    uint32_t max_subscriptions
    uint32_t max_subscription_tokens
    uint64_t write_deadline_ns
    uint64_t ping_interval_ns
    uint32_t ping_max
    uint64_t auth_timeout_ns
    uint64_t overflow_bytes_max
    uint64_t spin_ns
    uint32_t max_traced_bytes
    bint headers
    bint auth_required
    bint trace
    bint debug
    bint stall
    bint implicit_connect               # a client may begin without CONNECT (no_auth_user)

cdef struct message_t:
    # A message on its way through this shard.
    account_t* account
    connection_t* publisher             # NULL: it came over a ring
    const char* subject
    const char* shown                   # subject that receivers see instead, or NULL
    const char* reply
    const char* tail                    # "[reply ]sizes CRLF payload CRLF"
    const char* payload                 # headers first, when there are any
    uint64_t hash
    uint64_t client_id                  # of the publisher
    size_t tail_bytes
    uint32_t slot
    uint32_t subject_bytes
    uint32_t shown_bytes
    uint32_t reply_bytes
    uint32_t payload_bytes
    int32_t header_bytes
    int32_t from_shard                  # -1: this one
    uint32_t delivered                  # to how many, here or on the way to other shards
    # Written when needed: the head of a MSG line, and the tail for clients without headers
    const char* head                    # "HMSG subject "
    uint32_t head_bytes
    const char* bare_line               # "[reply ]size CRLF" without the header bytes
    uint32_t bare_line_bytes

cdef struct answer_t:
    # What was published to a reply subject of ours, until the hook publishes it in the account that asked.
    answer_t* next
    account_t* asker
    account_t* answerer
    uint64_t key
    uint64_t lasts_ns
    uint64_t responder_id               # who published it
    uint32_t responder_slot
    int32_t responder_shard
    int type
    uint32_t subject_bytes
    uint32_t shown_bytes                # 0: receivers see the subject
    uint32_t reply_bytes
    int32_t header_bytes
    uint32_t payload_bytes
    char text[1]                        # subject, the one to show, reply, payload

cdef struct engine_t

ctypedef void (*flush_t)(engine_t* e) noexcept nogil
# Takes a message for a subscription of the broker's own. It may not publish, subscribe or unsubscribe: a delivery is
# under way. What it wants to do of that kind it does in a hook.
ctypedef void (*sink_t)(engine_t* e, message_t* m, subscription_t* sub, void* context) noexcept nogil
# Looks at a message of a client whose subject begins with `$`, after it was delivered; whether it took it.
ctypedef bint (*intercept_t)(engine_t* e, message_t* m) noexcept nogil
# Runs before the flush of a turn for which work was announced (e.hooks_at_ns). Returns when it wants to run again:
# monotonic ns, 0 at once, SB_NEVER not before something announces work.
ctypedef uint64_t (*hook_function_t)(engine_t* e, void* context) noexcept nogil

# Interest in a watched subject may have changed (hot/watch). It only takes note.
ctypedef void (*watch_call_t)(void* context) noexcept nogil

cdef struct watch_t:
    watch_t* next                       # in its bucket
    account_t* account
    uint64_t hash                       # of the subject in its account
    watch_call_t call
    void* context
    uint32_t subject_bytes
    char subject[1]

cdef enum:
    HOOKS_MAX = 8

cdef struct hook_t:
    hook_function_t function
    void* context

cdef struct engine_t:
    # Whole life
    uint32_t shard
    uint32_t shards
    limits_t limits
    account_t* account                  # $G
    account_t** accounts                # all that are known here, $G first (hot/accounts)
    uint32_t accounts_count
    uint32_t accounts_capacity
    account_t** accounts_by_id          # the same: open addressing by id, accounts_slots of them
    uint32_t accounts_slots
    shard_stats_t* stats
    slot_t* slot
    header_t* header
    directory_t directory
    peer_t* peers                       # by shard; this shard's own is unused
    uint64_t membership
    uint32_t snapshots_awaited
    uint32_t epoch
    connection_t** connections          # by slot
    uint32_t connections_capacity
    uint32_t connections_count
    uint32_t* slots_free
    uint32_t slots_free_count
    outbound_t out
    match_t match
    uint64_t random
    uint64_t now_ns
    uint64_t light_until_ns             # a connection that sends little was heard of lately: bulk is served in small bites
    # Whose bytes came last, and since when nobody else's have. Rings and transports count as others each time: who is behind
    # them is not known here. See stream/capture hook.
    uint64_t reader
    uint64_t alone_since_ns
    uint64_t turn
    flush_t flush                       # publish rings, then write sockets; set by the loop
    hook_t hooks[HOOKS_MAX]
    uint32_t hooks_count
    uint64_t hooks_at_ns                # when hooks have something to do: 0 now
    watch_t** watches                   # by hash, watches_buckets of them (hot/watch)
    uint32_t watches_buckets
    uint32_t watches_count
    bint watches_hooked
    bint watches_look                   # all are to be told
    uint64_t watches_next_ns            # not before then
    intercept_t intercept
    void* io
    shadow_t** shadows                  # by origin (hot/exchange)
    uint32_t shadows_buckets
    uint32_t shadows_count
    response_t** responses              # by key
    uint32_t responses_buckets
    uint32_t responses_count
    uint64_t response_counter
    answer_t* answers_first             # to be published by the hook
    answer_t* answers_last
    char answer_prefix[16]              # "_R_." and what is this process's
    uint32_t answer_prefix_bytes
    answer_t* answering                 # the one that the hook is publishing
    measure_t* measures_first           # hot/latency
    measure_t* measures_last
    uint32_t measures_count
    uint64_t measures_at_ns             # when to look at them again
    void* describe                      # Python: (slot, client id) -> who it is, members of a JSON object
    void* traced                        # Python: headers -> those that want a measurement, as JSON, or None
    char* server_name                   # as JSON
    uint32_t server_name_bytes
    uint64_t sweep_next_ns
    # One turn
    char* arena
    size_t arena_used
    size_t dirty_bytes
    bint borrowed                       # output refers to a receive buffer or a ring: flush before it is reused
    connection_t* dirty
    connection_t* closing               # after the flush their descriptors are closed
    connection_t* reaping               # closed, with subscriptions left to take out
    connection_t* waiting               # stalled or held
    connection_t* ready_first           # to be read from
    connection_t* ready_last
    uint64_t spilled_shards             # peers with records in the overflow queue, a bit a shard
    uint64_t control_spilled_shards
    uint64_t spilled_now                # peers whose ring was full for the message at hand
    uint64_t told_shards                # peers that control records were written for and not published
    uint64_t wake_shards                # peers with published records, to be woken after the fence
    subscription_t** expired            # reached UNSUB's max in this message
    uint32_t expired_count
    uint32_t expired_capacity
    subscription_t** dead               # to be freed at the end of the turn
    uint32_t dead_count
    uint32_t dead_capacity
    void** garbage                      # blocks that output may refer to until the flush
    uint32_t garbage_count
    uint32_t garbage_capacity
    receipt_t* receipts                 # asked for by other shards, given after the flush
    uint32_t receipts_count
    uint32_t receipts_capacity
    uint32_t receipt_number             # of the last one that this shard has asked for
    event_t* events
    uint32_t events_count
    uint32_t events_capacity
    uint64_t events_bytes
    # One message
    char* scratch                       # head of a MSG line
    size_t scratch_capacity
    char* bare                          # bare_line
    size_t bare_capacity
    char* rewritten                     # a PUB that was spaced oddly
    size_t rewritten_capacity
    char* published                     # tail of a message of the broker's own
    size_t published_capacity
    bint publish_behind                 # the last of these met a receiver or a ring that is behind
    connection_t* sinks_dead            # to be freed at the end of the turn
    char* transformed                   # the last transform's result
    char* mapped                        # what the message at hand was published to, after mapping
    bint looked_at                      # the receiver at hand may get it: deliver_to need not look again
    bint importing                      # the message at hand came by a service import
    bint stall_publisher                # a receiver is over three quarters of max_pending
