"""A consumer as C structs: where it stands in its log, what it has delivered, who waits for messages; and the hub of all
consumers of a shard, which runs them.

    hub_t -- runnable --> consumer_t -- table --> pendings_t          delivered, not acknowledged
          -- timers  --> consumer_t -- requests -> request_t ...      pull requests, first come first
          -- events  --> Python: advisories, requests in odd shapes, consumers nobody uses
    retained_t -> consumer_t ...   all consumers of one stream: what was stored, removed and settled is told through it

    on a message that was stored, an acknowledgement, a request, a timer:  consumer_wake
    near the end of a turn:  hub_run -> consumer_run (each runnable one, within a budget) -> host.publish

The hub knows no engine and no socket: what it needs of them is in host_t, and a test gives another one.
Home shard only: the owner of the stream. Times are the engine's, monotonic ns, but where `time` is said: Unix ns.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from shardbroker.store.model cimport filter_t, log_t, log_view_t
from shardbroker.stream.pending cimport pending_t, pendings_t

cdef enum:
    ACK_NONE = 0
    ACK_ALL = 1
    ACK_EXPLICIT = 2

cdef enum:
    RETENTION_LIMITS = 0
    RETENTION_INTEREST = 1
    RETENTION_WORK_QUEUE = 2

cdef enum:
    # For Python, with the consumer's id
    EVENT_MAX_DELIVERIES = 1            # seq, deliveries
    EVENT_NAKED = 2                     # seq, dseq, deliveries
    EVENT_TERMINATED = 3                # seq, dseq, deliveries; text: the reason
    EVENT_ACKED = 4                     # a sampled ack: seq, dseq, deliveries, ns since it was sent
    EVENT_NAK_DELAY = 5                 # a delay in an odd shape: seq; text: the argument
    EVENT_REQUEST = 6                   # a pull request in an odd shape; text: payload; reply
    EVENT_INACTIVE = 7                  # nobody has used it for its threshold
    EVENT_RESUMED = 8                   # a pause is over
    EVENT_SAVE = 9                      # an acknowledgement waits to be made durable

cdef enum:
    FLOW_ID_BYTES = 600

# One publish of the hub. `shown`: the subject that the receiver sees. `tail` is what stands behind the reply of a frame:
# "[header_bytes ]bytes CRLF payload CRLF"; NULL: payload and header_bytes are all there is. To how many it went, here or on
# the way to other shards. `behind`: whether some receiver or ring does not keep up.
ctypedef uint32_t (*publish_t)(void* context, void* account, const char* subject, uint32_t subject_bytes,
                               const char* shown, uint32_t shown_bytes, const char* reply, uint32_t reply_bytes,
                               int32_t header_bytes, const char* payload, uint32_t payload_bytes, const char* tail,
                               uint32_t tail_bytes, bint* behind) noexcept nogil
ctypedef bint (*interest_t)(void* context, void* account, const char* subject, uint32_t subject_bytes) noexcept nogil
cdef struct consumer_t

# From now on consumer_told(c) is called when the interest in its subject may have changed; what unwatch wants, or NULL: it
# cannot be told, and looks itself. watch itself may be NULL.
ctypedef void* (*hub_watch_t)(void* context, void* account, const char* subject, uint32_t subject_bytes,
                              consumer_t* c) noexcept nogil
ctypedef void (*hub_unwatch_t)(void* context, void* watch) noexcept nogil
# A block that output may refer to until the flush.
ctypedef void (*garbage_t)(void* context, void* block) noexcept nogil
# The hub has something to do: hub_run is to be called before this turn's flush.
ctypedef void (*announce_t)(void* context) noexcept nogil
ctypedef void (*clock_t)(void* context, uint64_t* now_ns, int64_t* time_ns) noexcept nogil

cdef struct host_t:
    void* context
    publish_t publish
    interest_t interest
    hub_watch_t watch
    hub_unwatch_t unwatch
    garbage_t garbage
    announce_t announce
    clock_t clock

cdef struct settings_t:
    # Of a consumer's configuration, what the native side needs. 0 is none, unless said otherwise
    int ack_policy
    bint push
    bint headers_only
    bint flow_control
    bint replay_original
    bint direct
    uint32_t max_ack_pending
    uint32_t max_deliver
    uint32_t max_waiting
    uint32_t max_batch
    uint32_t sample_percent
    uint64_t max_expires_ns
    uint64_t max_bytes
    uint64_t heartbeat_ns
    uint64_t inactive_ns
    uint64_t rate_bytes                 # a second
    uint64_t rate_burst
    uint64_t pause_until_ns             # on the engine's clock

cdef struct request_t:
    # A pull request that waits.
    request_t* next
    int64_t left                        # messages it still may have
    int64_t bytes_left                  # 0 or less: not limited
    uint64_t given
    uint64_t expires_ns                 # 0: never
    uint64_t heartbeat_ns
    uint64_t heartbeat_next_ns
    bint no_wait
    uint32_t reply_bytes
    char reply[1]

cdef struct event_t:
    int kind
    uint64_t consumer
    uint64_t seq
    uint64_t dseq
    uint64_t deliveries
    uint64_t ns
    uint32_t text_bytes
    uint32_t reply_bytes                # behind the text
    char* text

cdef struct text_t:
    char* bytes
    uint32_t n

cdef struct waiting_ack_t:
    # The answer to an acknowledgement that is due when the state that has it is saved.
    waiting_ack_t* next
    uint64_t change                     # of its consumer
    uint32_t reply_bytes
    char reply[1]

cdef struct consumer_t:
    # Whole life
    hub_t* hub
    retained_t* stream
    uint64_t id
    filter_t* filter                    # NULL: everything
    settings_t settings
    text_t deliver                      # push: the subject
    text_t ack_prefix                   # "$JS.ACK.stream.consumer."
    text_t flow_prefix                  # "$JS.FC.stream.consumer."
    text_t advisory_naked
    text_t advisory_terminated
    text_t advisory_max_deliveries
    text_t metric_acked
    text_t over_batch                   # the line of a status, NUL-terminated
    text_t over_expires
    text_t over_bytes
    bint saved_on_disk                  # its state is kept over a restart
    # Position
    uint64_t seq                        # next to look at
    uint64_t dseq                       # next to give
    uint64_t delivered_seq              # the highest of the stream that was delivered
    uint64_t floor_dseq
    uint64_t floor_seq
    uint64_t pending                    # matching messages in [seq, counted_to], plus skips that are left
    uint64_t counted_to
    uint64_t* skips                     # last per subject: what to deliver before going on behind skips_resume
    uint64_t skips_at
    uint64_t skips_count
    uint64_t skips_resume
    pendings_t table
    int64_t delivered_time              # 0: never
    int64_t acked_time
    # Push
    bint active                         # someone listens on `deliver`
    void* watch                         # the host's: it tells when that may have changed
    bint told                           # it has
    uint64_t interest_next_ns           # when to look without being told; 0: not
    uint64_t heartbeat_next_ns
    # Flow control (client-side acknowledged window, as nats-server's)
    uint64_t window_bytes
    uint64_t window_bytes_max
    uint64_t unconfirmed_bytes
    uint64_t flow_bytes                 # confirmed by the answer to flow_id
    uint32_t flow_id_bytes              # 0: none is out
    char flow_id[FLOW_ID_BYTES]
    # Pull
    request_t* requests
    request_t* requests_last
    uint32_t requests_count
    uint32_t one_shots                  # requests with no_wait
    uint64_t requests_next_ns           # 0: none has a time
    uint64_t requests_checked_ns
    uint64_t used_ns                    # last request, delivery or acknowledgement
    # Pace
    uint64_t hold_until_ns              # replay, rate
    int64_t replay_time                 # of the last message delivered; 0: none yet
    uint64_t replay_sent_ns
    uint64_t replay_to                  # sequences behind it are not held back
    double tokens
    uint64_t tokens_ns
    # State to be saved
    uint64_t change                     # counts changes
    uint64_t change_saved
    bint dirty                          # in the hub's list
    uint64_t* removed                   # saved entries that are gone
    uint32_t removed_count
    uint32_t removed_capacity
    uint64_t* changed                   # entries that are new or other than saved
    uint32_t changed_count
    uint32_t changed_capacity
    bint save_whole                     # too many changes to tell apart
    waiting_ack_t* acks
    waiting_ack_t* acks_last
    # Links
    void* sink                          # the host's: its connection, and what its subscriptions are for
    void* sink_ack
    void* sink_request
    void* sink_flow
    bint runnable
    bint closed
    consumer_t* run_next
    consumer_t* dirty_next
    uint64_t timer_ns                   # in the heap; 0: not in it
    uint32_t timer_place

ctypedef void (*touch_t)(void* owner) noexcept nogil

cdef struct retained_t:
    # All consumers of one stream.
    void* account                       # whose subjects they are
    void* owner                         # the stream: told that its log has changed
    touch_t touch
    log_t* log
    int retention
    consumer_t** consumers
    uint32_t count
    uint32_t capacity
    uint64_t* settled                   # interest, work queue: acknowledged, to be looked at in the hook
    uint32_t settled_count
    uint32_t settled_capacity
    retained_t* settled_next
    bint settling

cdef enum:
    LETTER_ACK = 1
    LETTER_REQUEST = 2
    LETTER_FLOW = 3
    LETTER_LEVEL = 4                    # a request of an API level that we do not have

cdef struct letter_t:
    # A message to a sink; subject, reply and payload (without headers) follow, padded to 8.
    consumer_t* consumer                # NULL: gone meanwhile
    uint32_t kind
    uint32_t subject_bytes
    uint32_t reply_bytes
    uint32_t payload_bytes

cdef struct hub_t:
    host_t host
    uint64_t now_ns
    int64_t time_offset                 # Unix time less now_ns
    bint announced
    bint save_asked                     # EVENT_SAVE is on its way to Python
    bint save_wanted                    # an answer waits for a save: at once
    char* inbox                         # letters of sinks since the last run
    size_t inbox_bytes
    size_t inbox_capacity
    char* inbox_spare                   # the one that is being read, or will be written next
    size_t inbox_spare_capacity
    consumer_t* run_first
    consumer_t* run_last
    consumer_t** timers
    uint32_t timers_count
    uint32_t timers_capacity
    event_t* events
    uint32_t events_count
    uint32_t events_capacity
    consumer_t* dirty
    retained_t* settled
    uint64_t random
    char* scratch                       # ack subjects, headers
    size_t scratch_capacity
    uint64_t delivered_msgs
    uint64_t delivered_bytes

cdef enum:
    STATUS_BYTES = 256
    MILLISECOND_NS = 1000000

cdef extern from *:
    """#define CONSUMER_NEVER UINT64_MAX"""
    uint64_t NEVER "CONSUMER_NEVER"

# ---- the hub ----
cdef void hub_init(hub_t* h, const host_t* host, uint64_t seed) noexcept nogil
cdef void hub_free(hub_t* h) noexcept nogil
cdef void hub_refresh(hub_t* h) noexcept nogil
cdef uint64_t hub_next_ns(hub_t* h) noexcept nogil
cdef event_t* hub_event(hub_t* h, consumer_t* c, int kind, uint64_t seq, uint64_t dseq, uint64_t deliveries,
                        const char* text, uint32_t text_bytes) noexcept nogil

cdef size_t letter_size(const letter_t* l) noexcept nogil
cdef void hub_post(hub_t* h, consumer_t* c, uint32_t kind, const char* subject, uint32_t subject_bytes, const char* reply,
                   uint32_t reply_bytes, const char* payload, uint32_t payload_bytes) noexcept nogil

# ---- consumers ----
cdef consumer_t* consumer_new(hub_t* h, retained_t* stream, uint64_t id) noexcept nogil
cdef void consumer_free(consumer_t* c) noexcept nogil
cdef void consumer_set_waits(consumer_t* c, const uint64_t* waits, uint32_t n) noexcept nogil
cdef void consumer_start(consumer_t* c) noexcept nogil
cdef void consumer_wake(consumer_t* c) noexcept nogil
cdef void consumer_schedule(consumer_t* c) noexcept nogil
cdef void consumer_recount(consumer_t* c) noexcept nogil
cdef void consumer_changed(consumer_t* c) noexcept nogil
cdef void consumer_settled(consumer_t* c, pending_t* p) noexcept nogil
cdef bint consumer_interest(consumer_t* c) noexcept nogil
cdef void consumer_told(consumer_t* c) noexcept nogil
cdef void consumer_watch(consumer_t* c) noexcept nogil
cdef void consumer_refused(consumer_t* c) noexcept nogil
cdef void consumer_expire_all(consumer_t* c) noexcept nogil
cdef bint consumer_needs(consumer_t* c, uint64_t seq, const char* subject, uint32_t n) noexcept nogil
cdef void consumer_status(consumer_t* c, const char* reply, uint32_t reply_bytes, const char* line,
                          int64_t msgs, int64_t bytes, bint with_pending) noexcept nogil
cdef void consumer_advance(consumer_t* c, uint64_t first_seq, bint forget) noexcept nogil

cdef void consumer_heartbeat(consumer_t* c, const char* to, uint32_t to_bytes) noexcept nogil

# ---- for the files above this one ----
cdef void hub_announce(hub_t* h) noexcept nogil
cdef void timer_remove(consumer_t* c) noexcept nogil
cdef void unlink_run(consumer_t* c) noexcept nogil
cdef void requests_free(consumer_t* c) noexcept nogil
cdef void count_new(consumer_t* c) noexcept nogil
cdef void entry_changed(consumer_t* c, pending_t* p) noexcept nogil
cdef void entry_due(consumer_t* c, pending_t* p) noexcept nogil
cdef void entry_terminated(consumer_t* c, pending_t* p, const char* reason, uint32_t reason_bytes) noexcept nogil
cdef uint32_t text_add(char* out, uint32_t at, const char* text) noexcept nogil
cdef uint32_t number_add(char* out, uint32_t at, int64_t number) noexcept nogil
cdef void retained_settled(retained_t* s, hub_t* h, uint64_t seq) noexcept nogil
cdef void retained_settle(retained_t* s) noexcept nogil

# ---- what the stream tells ----
cdef void retained_on_stored(retained_t* s) noexcept nogil
cdef void retained_on_removed(retained_t* s, uint64_t seq, const char* subject, uint32_t subject_bytes,
                              int reason) noexcept nogil
cdef void retained_on_purged(retained_t* s) noexcept nogil
cdef bint retained_wants(retained_t* s, const char* subject, uint32_t subject_bytes) noexcept nogil
