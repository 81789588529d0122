"""The C structs of one shard: connections, subscriptions, the nodes they hang on, routes.

All of it is memory of one process and one thread ("Home shard only."): no locks, no atomics.

    connection_t --sids--> subscription_t --home--> members_t = literal_t.plain | trie_t.plain | queue_t.members
    route_t --targets--> (connection_t, subscription_t)            built from a match, dropped when interest changes

A subscription is freed at the end of a turn only, so a route or a match under way never points at freed memory.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    # what a connection may do, is doing, or waits for
    CONNECTION_OPEN = 1 << 0
    CONNECTION_CLOSING = 1 << 1         # no more input is parsed, no more output is added
    CONNECTION_LINGERING = 1 << 2       # its last bytes are sent; input is read and thrown away until it ends
    CONNECTION_DIRTY = 1 << 3           # in the list of connections with output of this turn
    CONNECTION_BLOCKED = 1 << 4         # the socket took less than it was given; an edge will say when it takes more
    CONNECTION_READABLE = 1 << 5        # the socket may have bytes that have not been read
    CONNECTION_READY = 1 << 6           # in the list of connections to read from
    CONNECTION_HANGUP = 1 << 7          # the peer has closed its side: read to the end
    CONNECTION_PAUSED = 1 << 8          # a CONNECT is being answered; nothing after it is parsed meanwhile
    CONNECTION_STALLED = 1 << 9         # not read for a moment, because a receiver or a ring is behind
    CONNECTION_HELD = 1 << 10           # its interest has not been told to every shard yet: no input, no output
    CONNECTION_AUTH_PENDING = 1 << 11   # only CONNECT is allowed
    CONNECTION_CONNECTED = 1 << 12      # CONNECT has been accepted
    CONNECTION_VERBOSE = 1 << 13
    CONNECTION_PEDANTIC = 1 << 14
    CONNECTION_NO_ECHO = 1 << 15
    CONNECTION_HEADERS = 1 << 16
    CONNECTION_NO_RESPONDERS = 1 << 17
    CONNECTION_PONG_SENT = 1 << 18
    CONNECTION_ASYNC_INFO = 1 << 19     # CONNECT said protocol 1: INFO may come at any time
    CONNECTION_SINK = 1 << 20           # no socket: the broker's own, its messages go to a function (hot/sink)
    CONNECTION_PONG_OWED = 1 << 21      # a PING is answered when other shards have confirmed what came before it
    CONNECTION_RESTRICTED = 1 << 22     # what it publishes is checked (hot/permissions)
    CONNECTION_FILTERED = 1 << 23       # what it receives is checked: a denied subject, a reply that it may answer
    CONNECTION_MAPPED = 1 << 24         # its account maps subjects, or imports services
    CONNECTION_TRANSPORT = 1 << 25      # its bytes are transformed (TLS, WebSocket) by the control side, which has the socket

cdef enum:
    SUBSCRIPTION_CLOSED = 1 << 0        # out of every list; freed at the end of the turn
    SUBSCRIPTION_SHADOW = 1 << 1        # of another one, which is in an account that imports: behind a shadow_t
    SUBSCRIPTION_SHADOWED = 1 << 2      # has shadows

cdef enum:
    NODE_LITERAL = 0
    NODE_TRIE = 1
    NODE_QUEUE = 2

cdef struct chunk_t:
    # Output memory that connections own: a header, then `capacity` bytes and SB_SLACK.
    chunk_t* next                       # in the pool only
    uint32_t capacity
    uint32_t used
    uint32_t spans                      # spans that point into it
    uint32_t size_class                 # pool it returns to; 0: none, freed

cdef struct span_t:
    # A run of output bytes, in order. Without a chunk it is borrowed (frames of this turn, a receive buffer, a
    # ring) and is valid until the flush, which copies what the socket did not take.
    char* data
    size_t bytes
    chunk_t* chunk

cdef enum:
    CACHED_BYTES_MAX = 54

cdef struct pattern_t:
    # One entry of a permission (hot/permissions).
    char* text                          # subject, then queue
    uint32_t subject_bytes
    uint32_t queue_bytes                # 0: none
    bint wild

cdef struct patterns_t:
    # Literals without a queue first, sorted; then the others.
    pattern_t* items
    uint32_t count
    uint32_t literals
    bint given                          # there is such a list, even if it is empty
    bint queues                         # some entry names a queue

cdef struct cached_t:
    uint64_t hash
    uint8_t bytes
    uint8_t answer
    char subject[CACHED_BYTES_MAX]

cdef struct permissions_t:
    uint32_t references                 # connections that have it
    patterns_t publish_allow
    patterns_t publish_deny
    patterns_t subscribe_allow
    patterns_t subscribe_deny
    bint responses                      # it may answer requests
    int64_t responses_max               # each so often; not positive: any number
    uint64_t responses_ns               # and so long; 0: for ever
    uint64_t seed                       # of the caches' hash
    cached_t* published                 # answers by subject; NULL: nobody has asked yet
    cached_t* received

cdef struct reply_t:
    reply_t* chained                    # same bucket
    reply_t* younger
    uint64_t hash
    uint64_t at_ns
    int64_t used
    uint32_t bytes
    bint dropped                        # out of its bucket; freed when it is the oldest
    char subject[1]

cdef struct replies_t:
    reply_t** buckets
    uint32_t buckets_count
    uint32_t count
    uint32_t kept                       # with those that were dropped
    reply_t* oldest
    reply_t* youngest

cdef struct connection_t:
    # Per connection, whole life
    int fd
    uint32_t slot
    uint32_t flags
    uint32_t pings_out
    uint64_t client_id
    account_t* account
    # Input that is not a whole operation yet
    char* partial
    uint32_t partial_bytes
    uint32_t partial_need               # whole length of the operation, once its control line is known; else 0
    # Subscriptions by sid (hot/sids): by number, where clients count; else open addressing, linear probing
    subscription_t** numbered
    subscription_t** sids
    uint32_t numbered_capacity
    uint32_t numbered_count
    uint32_t sids_capacity
    uint32_t sids_count
    uint32_t subscriptions
    uint32_t subscriptions_closed       # how many it had when it was closed
    uint32_t read_bytes_usual           # moving average over its last eight reads or so
    # What it may do
    permissions_t* permissions          # NULL: everything
    replies_t* replies                  # reply subjects that it may answer (allow_responses); NULL: none yet
    int64_t max_payload
    uint32_t max_subscriptions          # 0: no limit
    # Output
    span_t* spans
    uint32_t spans_first
    uint32_t spans_end
    uint32_t spans_capacity
    chunk_t* tail                       # chunk that the next private bytes go to
    uint64_t pending_bytes
    span_t spans_inline[1]
    # Counters
    uint64_t in_msgs
    uint64_t in_bytes
    uint64_t out_msgs
    uint64_t out_bytes
    uint64_t stalls
    # Times, monotonic ns
    uint64_t started_ns
    uint64_t activity_ns                # last message or interest change
    uint64_t in_ns                      # last input that counts for the ping timer
    uint64_t ping_sent_ns
    uint64_t rtt_ns
    uint64_t ping_next_ns
    uint64_t auth_deadline_ns           # 0: none
    uint64_t write_deadline_ns          # 0: nothing is waiting
    uint64_t write_deadline_bytes       # bytes that must leave before the deadline
    uint64_t stalled_until_ns
    # Links
    connection_t* dirty_next
    connection_t* ready_next
    connection_t* wait_next             # stalled or held
    connection_t* close_next
    char* first_pong_info               # INFO to send after the first PONG, freed then
    uint32_t first_pong_info_bytes
    uint32_t close_reason
    uint32_t info_bytes
    char* info                          # what accounts that it asks are told of it (hot/person); NULL: not asked for yet
    uint64_t stall_shards               # full rings that it waits for, a bit a shard
    # Of a sink only
    void* sink                          # state.sink_t
    void* sink_context
    uint64_t sid_last
    uint64_t sent_shards                # where its messages went since its last PING
    uint64_t receipt_shards             # whose receipts its PONG waits for, not longer than until
    uint64_t receipt_until_ns
    uint32_t receipt_number

cdef struct members_t:
    # Subscriptions of one (subject, queue). One member is kept in `items` itself, more in an array.
    void* items
    uint32_t count
    uint32_t capacity                   # 0: `items` is the member

cdef struct subscription_t:
    connection_t* connection
    members_t* home
    uint64_t delivered
    uint32_t max                        # UNSUB's limit, 0: none (nats-server reads at most nine digits)
    uint32_t index                      # in home
    uint16_t sid_bytes                  # with the space behind it
    uint16_t flags                      # SUBSCRIPTION_
    char sid[4]                         # "12 ": as it stands in a MSG line; at least 4 bytes are allocated from here

cdef struct queue_t:
    members_t members
    uint8_t kind
    uint32_t name_bytes
    void* node                          # literal_t or trie_t
    queue_t* next
    uint32_t* remote                    # members by shard; NULL while there are none
    uint32_t remote_total
    char name[1]

cdef struct literal_t:
    members_t plain
    uint8_t kind
    uint32_t subject_bytes
    queue_t* queues
    char subject[1]

cdef struct trie_t:
    members_t plain
    uint8_t kind
    uint32_t token_bytes
    queue_t* queues
    uint64_t remote                     # other shards with a plain subscription of this pattern
    trie_t* parent
    trie_t* star
    trie_t* full                        # `>`
    trie_t** children                   # by hash of the token, linear probing
    uint32_t children_count
    uint32_t children_capacity
    char token[1]

cdef struct literal_table_t:
    uint64_t* slots                     # 16 bits of hash, 48 of pointer; 0 empty
    uint32_t count
    uint32_t capacity

cdef struct target_t:
    connection_t* connection
    subscription_t* subscription

cdef struct queue_group_t:
    # One queue name on one route: every (pattern, queue) of that name that matches.
    uint32_t first                      # in route.queues
    uint32_t count

cdef struct route_t:
    uint64_t hash
    uint64_t generation                 # of the account's wildcards when it was built
    uint64_t directory_version
    uint64_t remote_patterns            # shards, from wildcards
    uint64_t remote                     # shards, from wildcards and the directory
    uint32_t subject_bytes
    uint32_t bucket                     # of its first token
    uint32_t targets_count
    uint32_t groups_count
    uint32_t queues_count
    uint32_t queue_groups_count
    target_t* targets                   # same sids together
    uint32_t* groups                    # lengths of the runs of one sid
    queue_t** queues
    queue_group_t* queue_groups
    route_t* next
    char head[1]                        # "HMSG subject ", SB_SLACK behind it

cdef enum:
    LITERAL_PARTS = 256
    GENERATION_BUCKETS = 256
    ROUTE_SETS = 4096                   # two routes a set; so many in an account that is busy
    ROUTE_SETS_FIRST = 64               # and in one that is not

cdef struct piece_t:
    # One token of a transform's destination (hot/transform).
    int function
    uint32_t text_bytes
    const char* text                    # the token itself, or a delimiter
    int64_t number
    uint32_t first                      # of its tokens, in transform.tokens
    uint32_t count

cdef struct transform_t:
    piece_t* pieces
    uint32_t* tokens                    # numbers of tokens of the source
    uint32_t pieces_count
    uint32_t text_bytes                 # of all pieces
    uint32_t rest                       # the token where `>` of the source begins

cdef struct destination_t:
    uint32_t below                      # percent: drawn below this, and not below the one before
    transform_t* transform

cdef struct mapping_t:
    char* source
    uint32_t source_bytes
    bint wild
    destination_t* destinations
    uint32_t count

cdef enum:
    RESPONSE_SINGLETON = 0
    RESPONSE_STREAM = 1
    RESPONSE_CHUNKED = 2

cdef struct import_t:
    # What an account takes from another (hot/exchange).
    account_t* exporter
    char* local                         # pattern here
    char* remote                        # pattern there
    uint32_t local_bytes
    uint32_t remote_bytes
    transform_t* to_local               # NULL: the subject stays. Streams only
    transform_t* to_remote
    int response_type                   # services only, from here on
    int tell                            # person.pxd TELL_
    uint64_t response_ns
    char* results                       # where reports of its latency go there; NULL: it is not measured
    uint32_t results_bytes
    uint32_t sampling                   # percent of the requests; 0: those that say so

cdef struct shadow_t:
    # A subscription of an importing account, standing in the exporting one: its subscription_t lies behind it.
    subscription_t* origin
    account_t* account                  # where it stands
    import_t* import_
    shadow_t* chained                   # same bucket of e.shadows, by origin

cdef struct response_t:
    # A request that went to another account; whoever publishes there to _R_.<this shard>.<key> answers it.
    response_t* chained                 # same bucket
    response_t* younger                 # of the same asking account
    response_t* older
    account_t* asker
    account_t* answerer
    uint64_t key
    uint64_t expires_ns
    uint64_t lasts_ns
    measure_t* measure                  # NULL: it is not measured, or not any more
    int type
    uint32_t reply_bytes
    char reply[1]

cdef struct measure_t:
    # A request whose latency is reported (hot/latency).
    measure_t* next                     # e.measures_first
    measure_t* before
    response_t* response
    uint64_t started_ns
    uint64_t rtt_ns                     # of who asks
    uint32_t results_bytes
    uint32_t person_bytes
    uint32_t why_bytes
    char text[1]                        # where reports go, who asks, the headers that wanted it (JSON)

cdef struct account_t:
    # One account's subject space: its sublist and its routes.
    uint64_t id                         # the same on every shard: from its name (hot/accounts)
    uint64_t seed                       # of every hash of this account's subjects
    char* name                          # NULL: only another shard has named it so far
    uint32_t name_bytes
    bint mapped                         # it maps subjects, or imports services
    literal_table_t literals[LITERAL_PARTS]
    trie_t* root
    uint64_t patterns                   # subscriptions (and remote interest) in the trie
    uint64_t generation_any             # changes of patterns that begin with a wildcard
    uint64_t generations[GENERATION_BUCKETS]
    route_t** routes                    # (route_mask + 1) x 2
    uint64_t route_mask                 # sets less one
    uint32_t* seen                      # filter, route_mask + 1: a route is built at a subject's second publish
    uint64_t subscriptions
    uint64_t inserts
    uint64_t removes
    uint64_t matches
    uint64_t routes_cached
    # Connections of clients: open ones, and what those that have gone had counted
    uint64_t connections
    mapping_t* mappings
    uint32_t mappings_count
    uint32_t streams_count              # imports
    uint32_t services_count
    import_t* streams
    import_t* services
    connection_t* answers               # sink of the answers that are published here to requests of this shard
    response_t* oldest                  # requests of this account that went to others
    response_t* youngest
    uint32_t responses
    uint64_t closed_in_msgs
    uint64_t closed_in_bytes
    uint64_t closed_out_msgs
    uint64_t closed_out_bytes
    uint64_t live[4]                    # scratch of Engine.account_rows: the same of the open ones
