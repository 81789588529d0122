# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""One shard's engine. The functions over engine_t need no GIL, take no system call, and allocate nothing for a message
on the hot path; the class Engine owns the memory and is the Python face for the control side.

on_pub is the one place that decides what becomes of a message: counted, allowed, matched here, sent to other shards,
and, when nobody wants it, answered with 503.
"""
import os

cimport cython
from cpython.buffer cimport PyBUF_READ
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset

from shardbroker.hot.accounts cimport (
    account_known, account_named, account_of_id, accounts_free, accounts_init)
from shardbroker.hot.bytes cimport SB_NEVER, SB_SLACK, sb_digits, sb_hash, sb_likely, sb_lowest, sb_unlikely
from shardbroker.hot.connection cimport (
    LOG_ERROR, connection_close, connection_error, connection_free, connection_keep, connection_new, connection_ok,
    connection_ready, connection_restrict, connection_row, connection_send, connection_violation,
    connection_violation_queue, connection_wait, connections_reap, event_push, events_trim, free_dead, garbage, slots_trim,
    unsubscribe)
from shardbroker.hot.deliver cimport deliver_match, deliver_queue, deliver_route, mark_dirty, random_below
from shardbroker.hot.exchange cimport (
    exchange_free, exchange_init, exchange_request, exchange_set, exchange_subscribe)
from shardbroker.hot.interest cimport (
    interest_boot, interest_control, interest_free, interest_give_receipts, interest_lookup, interest_on_stall,
    interest_receipts_wanted, interest_request, interest_route, interest_send, interest_stall, interest_subscribe)
from shardbroker.hot.memory cimport mem_alloc, mem_resize, mem_trim, mem_zero
from shardbroker.hot.model cimport (
    CONNECTION_ASYNC_INFO, CONNECTION_AUTH_PENDING, CONNECTION_BLOCKED, CONNECTION_CLOSING, CONNECTION_CONNECTED,
    CONNECTION_FILTERED, CONNECTION_HEADERS, CONNECTION_HELD, CONNECTION_LINGERING, CONNECTION_MAPPED, CONNECTION_NO_ECHO,
    CONNECTION_NO_RESPONDERS, CONNECTION_PAUSED, CONNECTION_PEDANTIC, CONNECTION_PONG_OWED, CONNECTION_PONG_SENT,
    CONNECTION_READABLE, CONNECTION_READY, CONNECTION_RESTRICTED, CONNECTION_SINK, CONNECTION_STALLED,
    CONNECTION_TRANSPORT, CONNECTION_VERBOSE, account_t, connection_t, members_t, patterns_t, permissions_t, queue_t,
    route_t, subscription_t)
from shardbroker.hot.outbound cimport out_free_pools
from shardbroker.hot.parser cimport (
    OPERATION_CONNECT, OPERATION_ERR, OPERATION_INFO, OPERATION_PING, OPERATION_PONG, OPERATION_PUB, OPERATION_SUB,
    OPERATION_UNSUB, PARSE_DONE, PARSE_LINE_TOO_LONG, PARSE_MORE, PARSE_PAYLOAD_TOO_LARGE, PARSE_UNKNOWN, operation_t,
    parse_limits_t, parse_next)
from shardbroker.hot.permissions cimport (
    patterns_add, permissions_free, permissions_new, permissions_overlap, permissions_publish, permissions_ready,
    permissions_subscribe)
from shardbroker.hot.person cimport person_forget
from shardbroker.hot.reasons cimport (
    REASON_AUTHENTICATION_TIMEOUT, REASON_AUTHENTICATION_VIOLATION, REASON_MAX_CONNECTIONS_EXCEEDED,
    REASON_MAX_CONTROL_LINE_EXCEEDED, REASON_MAX_PAYLOAD_EXCEEDED, REASON_PARSE_ERROR, REASON_PROTOCOL_VIOLATION,
    REASON_RING_OVERFLOW, REASON_SERVER_SHUTDOWN, REASON_SLOW_CONSUMER_WRITE_DEADLINE, REASON_STALE_CONNECTION)
from shardbroker.hot.record cimport (
    RECORD_FRAGMENT, RECORD_MESSAGE, RECORD_RECEIPT_WANTED, RECORD_REQUEST, RECORD_SHOWN, fragment_record_t,
    message_record_t, receipt_record_t, record_message_check, record_shown_bytes, shown_record_t)
from shardbroker.hot.sids cimport sid_add, sid_at, sid_find, sids_end
from shardbroker.hot.sink cimport (
    sink_free, sink_new_in, sink_subscribe, sink_to_events, sink_unsubscribe, sinks_free_dead)
from shardbroker.hot.state cimport (
    ARENA_BYTES, ARENA_FLUSH_BYTES, DIRTY_FLUSH_BYTES, EVENT_ATTENTION, EVENT_CLOSED, EVENT_CONNECT, EVENT_LATENCY,
    EVENT_LOG, EVENT_MESSAGE, EVENT_NOTE, EVENT_OUTPUT_END, EVENT_PEER, EVENT_REQUEST, EVENT_SNAPSHOTS_COMPLETE, EVENT_TRACE,
    REDRAWS_MAX, REFERENCE_BYTES, SHARDS_MAX, engine_t, event_t, hook_function_t, message_t, peer_t, receipt_t)
from shardbroker.hot.sublist cimport (
    SUBJECT_INVALID, match_t, member_at, route_build, routes_drop_idle, routes_free_dead, subject_check,
    subject_is_literal, subject_tokens, sublist_match, sublist_queue, sublist_subject, sublist_walk)
from shardbroker.hot.transform cimport mapping_apply, mappings_set
from shardbroker.hot.transport cimport (
    transport_blocked, transport_feed, transport_hungry, transport_sent, transport_take)
from shardbroker.hot.watch cimport watches_free
from shardbroker.shm.directory cimport directory_map
from shardbroker.shm.layout cimport SB_SLOT_READY, SegmentMap, slot_epoch, slot_state
from shardbroker.shm.membership cimport membership_bump, slot_state_store
from shardbroker.shm.ring cimport (
    RingReader, RingWriter, record_view, ring_give_back, ring_next, ring_readable, ring_reader_skip,
    ring_release)

cdef enum:
    PREFIXES_MAX = 16
    PERMISSIONS_KEPT = 256              # sets; above it those that nobody has are given back
    NO_SUBSCRIPTIONS = 1 << 31          # not even one: 0 stands for no limit
    PREFIX_BYTES_MAX = 64
    NO_SLOT = 0xFFFFFFFF                # of a publisher that is no client
    REQUEST_BYTES_MAX = 16 << 20        # of the broker's own: lists of streams, chunks of a restore
    SECOND_NS = 1000000000
    MILLISECOND_NS = 1000000
    RECEIPT_NS = 1000000000             # a shard that is stopped must not keep others' PONGs for ever
    TRIM_CHANGES = 20000
    CONNECTION_CHANGES = 20             # a connection's memory against a subscription's
    ODD_PUBLISHER = CONNECTION_PEDANTIC | CONNECTION_RESTRICTED | CONNECTION_MAPPED
    STOP_PARSING = CONNECTION_CLOSING | CONNECTION_PAUSED | CONNECTION_STALLED | CONNECTION_HELD
    TABLE_WORDS = 11                    # of a row of connection_table
    VISITS_MAX = 4096                   # emptied places of subscriptions in one look

CONNECTION_FIELDS = (
    "slot", "client_id", "in_msgs", "in_bytes", "out_msgs", "out_bytes", "pending_bytes", "subscriptions", "rtt_ns",
    "last_activity_ns", "stalls", "connected")
EVENTS = {"connect": EVENT_CONNECT, "closed": EVENT_CLOSED, "log": EVENT_LOG, "trace": EVENT_TRACE,
          "snapshots_complete": EVENT_SNAPSHOTS_COMPLETE,
          "request": EVENT_REQUEST, "message": EVENT_MESSAGE, "peer": EVENT_PEER, "note": EVENT_NOTE,
          "attention": EVENT_ATTENTION, "output_end": EVENT_OUTPUT_END, "latency": EVENT_LATENCY}
FEED_SLACK = SB_SLACK


# ---- a message --------------------------------------------------------------------------------------------------

cdef inline route_t* route_find(account_t* a, message_t* m) noexcept nogil:
    cdef route_t** entry = &a.routes[2 * (m.hash & a.route_mask)]
    cdef route_t* r
    cdef int i
    for i in range(2):
        r = entry[i]
        if (r != NULL and r.hash == m.hash and r.subject_bytes == m.subject_bytes
                and r.generation == a.generations[r.bucket] + a.generation_any
                and memcmp(r.head + 5, m.subject, m.subject_bytes) == 0):
            return r
    return NULL


cdef route_t* route_of(engine_t* e, message_t* m) noexcept nogil:
    """The route of the message's subject, or NULL with e.match filled: a subject gets a route at its second publish,
    so that reply inboxes, used once, do not push the others out."""
    cdef account_t* a = m.account
    cdef route_t* r = route_find(a, m)
    cdef uint32_t* seen
    if sb_likely(r != NULL):
        e.stats.route_hits += 1
        return r
    e.stats.route_misses += 1
    sublist_match(a, m.subject, m.subject_bytes, m.hash, &e.match)
    seen = &a.seen[(m.hash >> 12) & a.route_mask]
    if seen[0] != <uint32_t>(m.hash >> 32):
        seen[0] = <uint32_t>(m.hash >> 32)
        return NULL
    return route_build(a, &e.match, m.subject, m.subject_bytes, m.hash)


cdef int draw_shard(engine_t* e, queue_t** queues, uint32_t count, uint32_t at) noexcept nogil:
    """The shard of the at-th remote member of a queue group; -1: there are not so many."""
    cdef uint32_t i, s
    for i in range(count):
        if queues[i].remote_total <= at:
            at -= queues[i].remote_total
            continue
        for s in range(e.shards):
            if at < queues[i].remote[s]:
                return <int>s
            at -= queues[i].remote[s]
    return -1


cdef int draw_member(engine_t* e, message_t* m, queue_t** queues, uint32_t count) noexcept nogil:
    """One member of a queue group over all shards, each equally likely. Delivers when it is here; otherwise its shard,
    or -1 when it is done or nobody can take it."""
    cdef uint32_t here = 0
    cdef uint32_t there = 0
    cdef uint32_t i, at
    for i in range(count):
        here += queues[i].members.count
        there += queues[i].remote_total
    if there == 0:
        deliver_queue(e, m, queues, count)
        return -1
    at = random_below(e, here + there)
    if at < here:
        if deliver_queue(e, m, queues, count):
            return -1
        at = random_below(e, there)     # only members here that must not get it (no echo): someone else's turn
    else:
        at -= here
    return draw_shard(e, queues, count, at)


cdef inline void forward(engine_t* e, message_t* m, uint32_t shard, bint plain, queue_t** names, uint32_t count) noexcept nogil:
    interest_send(e, m, shard, plain, names, count, 0)
    if sb_likely(m.publisher != NULL):
        m.publisher.sent_shards |= <uint64_t>1 << shard
    m.delivered += 1


cdef void dispatch_queues(engine_t* e, message_t* m, route_t* r, uint64_t remote) noexcept nogil:
    """Queue groups of a message that was published here, and the records to other shards. One record a shard carries
    its plain interest and the names of the groups that were drawn there."""
    cdef queue_t* names[SHARDS_MAX]
    cdef queue_t** drawn = &names[0]
    cdef int shards_few[SHARDS_MAX]
    cdef int* shards = &shards_few[0]
    cdef uint32_t groups = r.queue_groups_count if r != NULL else e.match.groups_count
    cdef uint32_t i, j, count
    cdef uint32_t n = 0
    cdef uint64_t bits = 0
    cdef int shard
    cdef queue_t** queues
    cdef queue_t** scratch = NULL
    cdef void* block = NULL
    if groups > SHARDS_MAX or r == NULL:
        # Three arrays of as many entries as there are queues
        i = e.match.queues_count if r == NULL else groups
        if groups > i:
            i = groups
        block = mem_alloc(i * (2 * sizeof(queue_t*) + sizeof(int)))
        drawn = <queue_t**>block
        scratch = drawn + i
        shards = <int*>(scratch + i)
    for i in range(groups):
        if r != NULL:
            queues = r.queues + r.queue_groups[i].first
            count = r.queue_groups[i].count
        else:
            queues = scratch
            count = 0
            for j in range(e.match.queues_count):
                if e.match.queues[j].group == i:
                    queues[count] = e.match.queues[j].queue
                    count += 1
        shard = draw_member(e, m, queues, count)
        if shard >= 0:
            drawn[n] = queues[0]
            shards[n] = shard
            bits |= <uint64_t>1 << shard
            n += 1
    bits |= remote
    while bits:
        shard = sb_lowest(bits)
        bits &= bits - 1
        # Bring this shard's names to the front, and send them.
        count = 0
        for i in range(n):
            if shards[i] == shard:
                drawn[i], drawn[count] = drawn[count], drawn[i]
                shards[i], shards[count] = shards[count], shards[i]
                count += 1
        forward(e, m, <uint32_t>shard, (remote >> shard) & 1, drawn, count)
        for i in range(count, n):
            drawn[i - count] = drawn[i]
            shards[i - count] = shards[i]
        n -= count
    free(block)


cdef void dispatch(engine_t* e, message_t* m) noexcept nogil:
    """Everywhere a message published here is wanted."""
    cdef route_t* r = route_of(e, m)
    cdef uint64_t remote
    cdef uint32_t groups
    if sb_likely(r != NULL):
        deliver_route(e, m, r)
        remote = interest_route(e, m, r)
        groups = r.queue_groups_count
    else:
        deliver_match(e, m)
        remote = interest_lookup(e, m)
        groups = e.match.groups_count
    if groups:
        dispatch_queues(e, m, r, remote)
        return
    while remote:
        forward(e, m, <uint32_t>sb_lowest(remote), True, NULL, 0)
        remote &= remote - 1


cdef void expire(engine_t* e) noexcept nogil:
    """Subscriptions that had their last message."""
    while e.expired_count:
        e.expired_count -= 1
        unsubscribe(e, e.expired[e.expired_count])


cdef void no_responders(engine_t* e, connection_t* c, message_t* m) noexcept nogil:
    """503 to a requester that holds a plain subscription of its reply subject (client.go processInboundClientMsg)."""
    cdef match_t* match = &e.match
    cdef subscription_t* sub = NULL
    cdef uint32_t i, j
    cdef char digits[24]
    cdef int n
    cdef size_t header_bytes = 32 + <size_t>m.subject_bytes
    sublist_match(c.account, m.reply, m.reply_bytes, sb_hash(m.reply, m.reply_bytes, c.account.seed), match)
    for i in range(match.lists_count):
        for j in range(match.lists[i].count):
            if member_at(match.lists[i], j).connection == c:
                sub = member_at(match.lists[i], j)
                break
        if sub != NULL:
            break
    if sub == NULL:
        return
    n = sb_digits(digits, header_bytes)
    connection_send(e, c, b"HMSG ", 5)
    connection_send(e, c, m.reply, m.reply_bytes)
    connection_send(e, c, b" ", 1)
    connection_send(e, c, sub.sid, sub.sid_bytes)
    connection_send(e, c, digits, n)
    connection_send(e, c, b" ", 1)
    connection_send(e, c, digits, n)
    connection_send(e, c, b"\r\nNATS/1.0 503\r\nNats-Subject: ", 30)
    connection_send(e, c, m.subject, m.subject_bytes)
    connection_send(e, c, b"\r\n\r\n\r\n", 6)


cdef inline bint begins(const char* s, uint32_t n, const char* prefix, uint32_t length) noexcept nogil:
    return n > length and memcmp(s, prefix, length) == 0


cdef bint reserved(engine_t* e, connection_t* c, message_t* m, const operation_t* op) noexcept nogil:
    """Subjects and replies that only servers may use: refused as nats-server does."""
    if begins(m.subject, m.subject_bytes, b"$NRG.", 5) or begins(m.subject, m.subject_bytes, b"_GR_.", 5):
        connection_violation(e, c, b"Permissions Violation for Publish to ", m.subject, m.subject_bytes, b"")
        return True
    if op.reply_bytes and (begins(op.reply, op.reply_bytes, b"_R_.", 4) or begins(op.reply, op.reply_bytes, b"_GR_.", 5)
                           or begins(op.reply, op.reply_bytes, b"$JS.ACK.", 8)):
        connection_violation(e, c, b"Permissions Violation for Publish with Reply of ", op.reply, op.reply_bytes, b"")
        return True
    return False


cdef size_t write_sizes(char* p, int32_t header_bytes, uint32_t payload_bytes) noexcept nogil:
    """"[header size ]size CRLF" of a message; how many bytes."""
    cdef size_t n = 0
    if header_bytes > 0:
        n += sb_digits(p, <uint64_t>header_bytes)
        p[n] = c' '
        n += 1
    n += sb_digits(p + n, payload_bytes)
    p[n] = c'\r'
    p[n + 1] = c'\n'
    return n + 2


cdef void rewrite(engine_t* e, message_t* m) noexcept nogil:
    """Write the tail of a PUB that was spaced oddly as a well spaced one would have it."""
    cdef size_t need = <size_t>m.reply_bytes + m.payload_bytes + 64 + SB_SLACK
    cdef size_t n = 0
    cdef char* p
    if e.borrowed:
        e.flush(e)                      # an earlier rewritten payload may still be referred to
    if need > e.rewritten_capacity:
        e.rewritten_capacity = need
        e.rewritten = <char*>mem_resize(e.rewritten, need)
    p = e.rewritten
    if m.reply_bytes:
        memcpy(p, m.reply, m.reply_bytes)
        n = m.reply_bytes
        p[n] = c' '
        n += 1
    n += write_sizes(p + n, m.header_bytes, m.payload_bytes)
    memcpy(p + n, m.payload, m.payload_bytes)
    m.payload = p + n
    n += m.payload_bytes
    p[n] = c'\r'
    p[n + 1] = c'\n'
    m.tail = p
    m.tail_bytes = n + 2


cdef bint on_pub_odd(engine_t* e, connection_t* c, const operation_t* op, message_t* m) noexcept nogil:
    """What few publishers need, in the order of parser.go and client.go processInboundClientMsg: pedantic mode, its account's
    mappings, its permissions (which are about the subject that it comes to). Whether to go on."""
    if c.flags & CONNECTION_PEDANTIC and not subject_is_literal(op.subject, op.subject_bytes):
        connection_error(e, c, b"Invalid Publish Subject")
    if c.flags & CONNECTION_MAPPED and c.account.mappings_count and not mapping_apply(e, c.account, &m.subject, &m.subject_bytes):
        # Its weight is the loss that was asked for.
        if c.flags & CONNECTION_VERBOSE:
            connection_ok(e, c)
        if op.reply_bytes and c.flags & CONNECTION_NO_RESPONDERS:
            m.reply = op.reply
            m.reply_bytes = op.reply_bytes
            no_responders(e, c, m)
        return False
    if c.flags & CONNECTION_RESTRICTED and not permissions_publish(e, c, m.subject, m.subject_bytes):
        connection_violation(e, c, b"Permissions Violation for Publish to ", m.subject, m.subject_bytes, b"")
        return False
    if c.flags & CONNECTION_MAPPED and c.account.services_count:
        if reserved(e, c, m, op):
            return False
        m.delivered = exchange_request(e, c.account, c, m.subject, m.subject_bytes, op.reply, op.reply_bytes,
                                       op.header_bytes, op.payload, op.payload_bytes, NULL, 0)
    return True


cdef inline void on_pub(engine_t* e, connection_t* c, const operation_t* op) noexcept nogil:
    """PUB and HPUB: limits were checked by the parser; count, allow, deliver here and elsewhere, or say 503."""
    cdef message_t m
    cdef char first
    c.in_msgs += 1
    c.in_bytes += op.payload_bytes
    e.stats.in_msgs += 1
    e.stats.in_bytes += op.payload_bytes
    m.subject = op.subject
    m.subject_bytes = op.subject_bytes
    m.delivered = 0
    if sb_unlikely(c.flags & ODD_PUBLISHER) and not on_pub_odd(e, c, op, &m):
        return
    first = m.subject[0]
    if sb_unlikely(first == c'$' or first == c'_' or op.reply_bytes) and reserved(e, c, &m, op):
        return
    if sb_unlikely(c.flags & CONNECTION_VERBOSE):
        connection_ok(e, c)
    m.account = c.account
    m.publisher = c
    m.client_id = c.client_id
    m.slot = c.slot
    m.from_shard = -1
    m.shown = NULL
    m.reply = op.reply
    m.reply_bytes = op.reply_bytes
    m.payload = op.payload
    m.payload_bytes = op.payload_bytes
    m.header_bytes = op.header_bytes if op.header_bytes > 0 else -1
    m.tail = op.tail
    m.tail_bytes = op.tail_bytes
    m.head = NULL
    m.bare_line = NULL
    if sb_unlikely(m.tail == NULL):
        rewrite(e, &m)
    m.hash = sb_hash(m.subject, m.subject_bytes, c.account.seed)
    dispatch(e, &m)
    if sb_unlikely(e.expired_count):
        expire(e)
    if sb_unlikely(first == c'$') and e.intercept != NULL and e.intercept(e, &m):
        m.delivered += 1
    if sb_unlikely(m.delivered == 0 and m.reply_bytes and c.flags & CONNECTION_NO_RESPONDERS):
        no_responders(e, c, &m)
    if sb_unlikely(e.stall_publisher):
        stall(e, c, 2 * MILLISECOND_NS)
    if sb_unlikely(e.spilled_now):
        # Its records wait for room in a ring: no more of them until there is.
        c.stall_shards |= e.spilled_now
        e.spilled_now = 0
        connection_wait(e, c, CONNECTION_STALLED)
        if e.stats.overflow_bytes > e.limits.overflow_bytes_max:
            connection_close(e, c, REASON_RING_OVERFLOW)


cdef void stall(engine_t* e, connection_t* c, uint64_t ns) noexcept nogil:
    """Do not read from a publisher for a moment: a receiver of its messages is behind."""
    e.stall_publisher = False
    if not e.limits.stall:
        return
    e.stats.stalls += 1
    c.stalled_until_ns = e.now_ns + ns
    connection_wait(e, c, CONNECTION_STALLED)


cdef void slow_publisher(engine_t* e, uint32_t slot, uint64_t client_id, uint32_t milliseconds) noexcept nogil:
    cdef connection_t* c
    if slot >= e.connections_count or milliseconds > 1000:
        return
    c = e.connections[slot]
    if c != NULL and c.client_id == client_id and c.flags & CONNECTION_CLOSING == 0:
        stall(e, c, milliseconds * <uint64_t>MILLISECOND_NS)


# ---- other operations -------------------------------------------------------------------------------------------

cdef void subscribe_violation(engine_t* e, connection_t* c, const operation_t* op) noexcept nogil:
    if op.queue_bytes:
        connection_violation_queue(e, c, b"Permissions Violation for Subscription to ", op.subject, op.subject_bytes,
                                   b" using queue ", op.queue, op.queue_bytes)
    else:
        connection_violation(e, c, b"Permissions Violation for Subscription to ", op.subject, op.subject_bytes, b"")


cdef void on_sub(engine_t* e, connection_t* c, const operation_t* op) noexcept nogil:
    """SUB, in the order of client.go processSub: limits, then the sid, then the subject."""
    cdef subscription_t* sub
    if op.queue_bytes == 5 and memcmp(op.queue, b"_sys_", 5) == 0:
        subscribe_violation(e, c, op)
        return
    if c.permissions != NULL and not permissions_subscribe(c.permissions, op.subject, op.subject_bytes, op.queue, op.queue_bytes):
        subscribe_violation(e, c, op)
        return
    if e.limits.max_subscription_tokens and subject_tokens(op.subject, op.subject_bytes) > e.limits.max_subscription_tokens:
        connection_violation(e, c, b"Permissions Violation for Subscription to ", op.subject, op.subject_bytes,
                             b", too many tokens")
        return
    if c.max_subscriptions and c.subscriptions >= (c.max_subscriptions & ~<uint32_t>NO_SUBSCRIPTIONS):
        connection_error(e, c, b"maximum subscriptions exceeded")
        return
    if op.sid_bytes > 60000:
        connection_close(e, c, REASON_PROTOCOL_VIOLATION)
        return
    if sid_find(c, op.sid, op.sid_bytes) == NULL:
        if subject_check(op.subject, op.subject_bytes) == SUBJECT_INVALID:
            connection_error(e, c, b"Invalid Subject")
            return
        if c.permissions != NULL and permissions_overlap(c.permissions, op.subject, op.subject_bytes, op.queue_bytes != 0):
            c.flags |= CONNECTION_FILTERED
        sub = sid_add(e, c, op.sid, op.sid_bytes)
        if interest_subscribe(e, c.account, sub, op.subject, op.subject_bytes, op.queue, op.queue_bytes):
            connection_wait(e, c, CONNECTION_HELD)
        if sb_unlikely(c.account.streams_count) and exchange_subscribe(e, c.account, sub, op.subject, op.subject_bytes,
                                                                       op.queue, op.queue_bytes):
            connection_wait(e, c, CONNECTION_HELD)
    if c.flags & CONNECTION_VERBOSE:
        connection_ok(e, c)


cdef void on_unsub(engine_t* e, connection_t* c, const operation_t* op) noexcept nogil:
    cdef subscription_t* sub = sid_find(c, op.sid, op.sid_bytes)
    if sub != NULL:
        if op.max > 0 and <uint64_t>op.max > sub.delivered:
            sub.max = <uint32_t>op.max
        else:
            unsubscribe(e, sub)
    if c.flags & CONNECTION_VERBOSE:
        connection_ok(e, c)


cdef void on_ping(engine_t* e, connection_t* c) noexcept nogil:
    """PONG, once the messages before it have been written to the subscribers, here and on other shards."""
    if sb_unlikely(c.sent_shards != 0):
        interest_receipts_wanted(e, c)
        if c.receipt_shards:
            c.receipt_until_ns = e.now_ns + RECEIPT_NS
            c.flags |= CONNECTION_PONG_OWED
            connection_wait(e, c, CONNECTION_STALLED)
            return
    pong(e, c)


cdef void pong(engine_t* e, connection_t* c) noexcept nogil:
    """PONG; after the first one, the INFO that tells a client its account (since nats-server 2.12)."""
    connection_send(e, c, b"PONG\r\n", 6)
    if c.flags & CONNECTION_CONNECTED and c.flags & CONNECTION_PONG_SENT == 0:
        c.flags |= CONNECTION_PONG_SENT
        if c.first_pong_info != NULL:
            connection_send(e, c, c.first_pong_info, c.first_pong_info_bytes)
            free(c.first_pong_info)
            c.first_pong_info = NULL


cdef void on_pong(engine_t* e, connection_t* c) noexcept nogil:
    c.pings_out = 0
    if c.ping_sent_ns:
        c.rtt_ns = e.now_ns - c.ping_sent_ns
        if c.rtt_ns == 0:
            c.rtt_ns = 1


cdef void trace(engine_t* e, connection_t* c, const operation_t* op, const char* p) noexcept nogil:
    """The operation as it came, without its payload; and the payload, cut at max_traced_msg_len."""
    cdef size_t n = op.bytes
    cdef size_t most
    if op.kind == OPERATION_PUB:
        n -= op.payload_bytes + 2
    while n and (p[n - 1] == c'\n' or p[n - 1] == c'\r'):
        n -= 1
    event_push(e, EVENT_TRACE, c, 0, p, n)
    if op.kind == OPERATION_PUB:
        most = e.limits.max_traced_bytes if e.limits.max_traced_bytes else op.payload_bytes
        event_push(e, EVENT_TRACE, c, 2, op.payload, op.payload_bytes if op.payload_bytes < most else most)


cdef void parse_failed(engine_t* e, connection_t* c, int status, const operation_t* op, const char* p, const char* end) noexcept nogil:
    """The -ERR and the close that nats-server has for it."""
    e.stats.protocol_errors += 1
    if status == PARSE_UNKNOWN:
        connection_error(e, c, b"Unknown Protocol Operation")
        event_push(e, EVENT_LOG, c, LOG_ERROR, p, 32 if end - p > 32 else <size_t>(end - p))
        connection_close(e, c, REASON_PROTOCOL_VIOLATION)
    elif status == PARSE_LINE_TOO_LONG:
        connection_error(e, c, b"maximum control line exceeded")
        connection_close(e, c, REASON_MAX_CONTROL_LINE_EXCEEDED)
    elif status == PARSE_PAYLOAD_TOO_LARGE:
        connection_error(e, c, b"Maximum Payload Violation")
        connection_close(e, c, REASON_MAX_PAYLOAD_EXCEEDED)
    else:
        connection_close(e, c, REASON_PROTOCOL_VIOLATION)


cdef void on_operation(engine_t* e, connection_t* c, const operation_t* op) noexcept nogil:
    """Everything but PUB."""
    if op.kind == OPERATION_PING:
        c.in_ns = e.now_ns
        on_ping(e, c)
    elif op.kind == OPERATION_SUB:
        c.in_ns = e.now_ns
        c.activity_ns = e.now_ns
        on_sub(e, c, op)
    elif op.kind == OPERATION_UNSUB:
        c.in_ns = e.now_ns
        c.activity_ns = e.now_ns
        on_unsub(e, c, op)
    elif op.kind == OPERATION_PONG:
        on_pong(e, c)
    elif op.kind == OPERATION_CONNECT:
        # Answered by the control side: what follows waits, because it depends on the options.
        c.flags |= CONNECTION_PAUSED
        c.activity_ns = e.now_ns
        event_push(e, EVENT_CONNECT, c, 0, op.argument, op.argument_bytes)
    elif op.kind == OPERATION_ERR:
        event_push(e, EVENT_LOG, c, LOG_ERROR, op.argument, op.argument_bytes)
        connection_close(e, c, REASON_PARSE_ERROR)
    elif op.kind == OPERATION_INFO and op.argument[0] != c'{':
        connection_close(e, c, REASON_PROTOCOL_VIOLATION)


cdef void engine_on_bytes(engine_t* e, connection_t* c, char* p, size_t n) noexcept nogil:
    """Parse and carry out n bytes; p[n] must be writable, with SB_SLACK readable bytes behind."""
    cdef char* end = p + n
    cdef parse_limits_t limits
    cdef operation_t op
    cdef int status = PARSE_DONE
    cdef bint published = False
    if c.flags & CONNECTION_CLOSING:
        return
    end[0] = 0
    op.bytes = 0
    limits.max_control_line = e.limits.max_control_line
    limits.max_payload = c.max_payload
    limits.headers = c.flags & CONNECTION_HEADERS != 0
    while p < end and c.flags & STOP_PARSING == 0:
        if sb_unlikely(c.flags & CONNECTION_AUTH_PENDING != 0) and (p[0] | 0x20) != c'c':
            if not e.limits.implicit_connect:
                engine_auth_violation(e, c)
                return
            # Who says no CONNECT is no_auth_user, if the control side lets it: as if a CONNECT had come first.
            c.flags |= CONNECTION_PAUSED
            event_push(e, EVENT_CONNECT, c, 1, NULL, 0)
            break
        status = parse_next(p, end, &limits, &op)
        if sb_unlikely(status != PARSE_DONE):
            break
        if sb_unlikely(e.limits.trace):
            trace(e, c, &op, p)
        p += op.bytes
        if sb_likely(op.kind == OPERATION_PUB):
            published = True
            on_pub(e, c, &op)
        else:
            on_operation(e, c, &op)
        if sb_unlikely(e.arena_used > ARENA_FLUSH_BYTES or e.dirty_bytes > DIRTY_FLUSH_BYTES):
            e.flush(e)
    if published:
        c.in_ns = e.now_ns
        c.activity_ns = e.now_ns
    if status < 0:
        parse_failed(e, c, status, &op, p, end)
    elif p < end and c.flags & CONNECTION_CLOSING == 0:
        connection_keep(e, c, p, end - p, op.bytes if status == PARSE_MORE else 0)


cdef void engine_auth_violation(engine_t* e, connection_t* c) noexcept nogil:
    e.stats.auth_errors += 1
    connection_error(e, c, b"Authorization Violation")
    connection_close(e, c, REASON_AUTHENTICATION_VIOLATION)


cdef void engine_on_partial(engine_t* e, connection_t* c) noexcept nogil:
    """Parse what was kept: an operation that is whole now, or input that had to wait."""
    cdef char* p = c.partial
    cdef size_t n = c.partial_bytes
    if p == NULL:
        return
    c.partial = NULL
    c.partial_bytes = 0
    c.partial_need = 0
    engine_on_bytes(e, c, p, n)
    garbage(e, p)                       # large payloads in it are sent from where they are


# ---- messages of the broker's own --------------------------------------------------------------------------------

cdef uint32_t engine_publish(engine_t* e, account_t* a, const char* subject, uint32_t subject_bytes, const char* shown,
                             uint32_t shown_bytes, const char* reply, uint32_t reply_bytes, int32_t header_bytes,
                             const char* payload, uint32_t payload_bytes) noexcept nogil:
    """Publish from inside this shard; to how many it went. It is routed by `subject`; receivers see `shown` when that is
    not NULL. header_bytes of the payload are headers, -1 without. All is copied or, from REFERENCE_BYTES on, kept until
    the flush. e.publish_behind says afterwards whether a receiver, or the ring to another shard, is behind.

    Not from within a sink. Home shard only.
    """
    cdef uint32_t delivered = engine_publish_on(e, a, subject, subject_bytes, shown, shown_bytes, reply, reply_bytes,
                                                header_bytes, payload, payload_bytes)
    if sb_unlikely(a.services_count):
        delivered += exchange_request(e, a, NULL, subject, subject_bytes, reply, reply_bytes, header_bytes, payload,
                                      payload_bytes, NULL, 0)
    e.publish_behind = e.stall_publisher or e.spilled_now != 0
    e.stall_publisher = False
    e.spilled_now = 0
    if sb_unlikely(e.arena_used > ARENA_FLUSH_BYTES or e.dirty_bytes > DIRTY_FLUSH_BYTES):
        e.flush(e)
    return delivered


cdef uint32_t engine_publish_on(engine_t* e, account_t* a, const char* subject, uint32_t subject_bytes, const char* shown,
                                uint32_t shown_bytes, const char* reply, uint32_t reply_bytes, int32_t header_bytes,
                                const char* payload, uint32_t payload_bytes) noexcept nogil:
    """The same in the midst of something: e.stall_publisher and e.spilled_now are left to the caller, and the flush."""
    cdef message_t m
    cdef size_t need = <size_t>reply_bytes + payload_bytes + 64
    cdef size_t n = 0
    cdef char* p
    if payload_bytes >= REFERENCE_BYTES:
        p = <char*>mem_alloc(need + SB_SLACK)
        garbage(e, p)
    else:
        if need + SB_SLACK > e.published_capacity:
            e.published_capacity = 2 * need + SB_SLACK
            e.published = <char*>mem_resize(e.published, e.published_capacity)
        p = e.published
    m.account = a
    m.publisher = NULL
    m.client_id = 0
    m.slot = NO_SLOT
    m.from_shard = -1
    m.subject = subject
    m.subject_bytes = subject_bytes
    m.shown = shown
    m.shown_bytes = shown_bytes
    m.reply = p
    m.reply_bytes = reply_bytes
    m.payload_bytes = payload_bytes
    m.header_bytes = header_bytes if header_bytes > 0 else -1
    m.delivered = 0
    m.head = NULL
    m.bare_line = NULL
    m.tail = p
    if reply_bytes:
        memcpy(p, reply, reply_bytes)
        n = reply_bytes
        p[n] = c' '
        n += 1
    n += write_sizes(p + n, m.header_bytes, payload_bytes)
    m.payload = p + n
    memcpy(p + n, payload, payload_bytes)
    n += payload_bytes
    p[n] = c'\r'
    p[n + 1] = c'\n'
    m.tail_bytes = n + 2
    m.hash = sb_hash(subject, subject_bytes, a.seed)
    dispatch(e, &m)
    if sb_unlikely(e.expired_count):
        expire(e)
    # A request from another account may be one to the broker.
    if e.importing and subject[0] == c'$' and e.intercept != NULL and e.intercept(e, &m):
        m.delivered += 1
    return m.delivered


cdef bint engine_interest(engine_t* e, account_t* a, const char* subject, uint32_t subject_bytes) noexcept nogil:
    """Whether anyone, on any shard, would get what is published to a literal subject. Not from within a sink."""
    cdef match_t* match = &e.match
    cdef message_t m
    cdef uint32_t i
    m.hash = sb_hash(subject, subject_bytes, a.seed)
    sublist_match(a, subject, subject_bytes, m.hash, match)
    for i in range(match.lists_count):
        if match.lists[i].count:
            return True
    for i in range(match.queues_count):
        if match.queues[i].queue.members.count or match.queues[i].queue.remote_total:
            return True
    return interest_lookup(e, &m) != 0


cdef void engine_send_peer(engine_t* e, uint32_t shard, const char* data, uint32_t n) noexcept nogil:
    """Bytes for the control side of another shard; they arrive there behind what was published before."""
    interest_request(e, shard, data, n)
    e.spilled_now = 0                   # no publisher to slow down


cdef void intercept_event(engine_t* e, message_t* m) noexcept nogil:
    """A message of a client as an event: subject, reply and payload in one block, their lengths beside it."""
    cdef size_t n = <size_t>m.subject_bytes + m.reply_bytes + m.payload_bytes
    cdef char* text = <char*>mem_alloc(n + 1)
    cdef event_t* v
    memcpy(text, m.subject, m.subject_bytes)
    if m.reply_bytes:
        memcpy(text + m.subject_bytes, m.reply, m.reply_bytes)
    memcpy(text + n - m.payload_bytes, m.payload, m.payload_bytes)
    event_push(e, EVENT_REQUEST, m.publisher, 0, NULL, 0)
    v = &e.events[e.events_count - 1]
    v.text = text
    v.text_bytes = n
    v.values[1] = m.subject_bytes
    v.values[2] = m.reply_bytes
    v.values[3] = <uint64_t>m.header_bytes if m.header_bytes > 0 else 0
    v.values[4] = <uint64_t>m.account
    e.events_bytes += n


# ---- messages from other shards ---------------------------------------------------------------------------------

cdef void on_record_queue(engine_t* e, message_t* m, route_t* r, const char* name, uint32_t n, uint32_t redraws,
                          uint32_t from_shard) noexcept nogil:
    """A queue group that was drawn to this shard. When its last member here is gone, it is drawn again."""
    cdef queue_t* few[16]
    cdef queue_t** queues = &few[0]
    cdef uint32_t count = 0
    cdef uint32_t i, there
    cdef int shard
    if r != NULL:
        for i in range(r.queue_groups_count):
            queues = r.queues + r.queue_groups[i].first
            if queues[0].name_bytes == n and memcmp(queues[0].name, name, n) == 0:
                count = r.queue_groups[i].count
                break
    else:
        for i in range(e.match.queues_count):
            if (count < 16 and e.match.queues[i].queue.name_bytes == n
                    and memcmp(e.match.queues[i].queue.name, name, n) == 0):
                queues[count] = e.match.queues[i].queue
                count += 1
    if count and deliver_queue(e, m, queues, count):
        return
    there = 0
    for i in range(count):
        there += queues[i].remote_total
    if there == 0 or redraws >= REDRAWS_MAX:
        e.stats.redraws_lost += 1
        return
    shard = draw_shard(e, queues, count, random_below(e, there))
    if shard >= 0:
        e.stats.redraws += 1
        interest_send(e, m, <uint32_t>shard, False, queues, 1, redraws + 1)


cdef void on_record(engine_t* e, uint32_t from_shard, int kind, const char* body, size_t n) noexcept nogil:
    """One whole record of a data ring."""
    cdef uint64_t at
    if sb_likely(kind == RECORD_MESSAGE):
        on_message_record(e, from_shard, body, n, NULL, 0)
    elif kind == RECORD_SHOWN:
        at = record_shown_bytes(body, n)
        if at == 0:
            e.stats.ring_corrupt += 1
        else:
            on_message_record(e, from_shard, body + at, n - at, body + sizeof(shown_record_t),
                              (<const shown_record_t*>body).shown_bytes)
    elif kind == RECORD_REQUEST:
        event_push(e, EVENT_PEER, NULL, <int>from_shard, body, n)
    elif kind == RECORD_RECEIPT_WANTED:
        on_receipt_wanted(e, from_shard, body, n)
    else:
        e.stats.ring_corrupt += 1


cdef void on_message_record(engine_t* e, uint32_t from_shard, const char* body, size_t n, const char* shown,
                            uint32_t shown_bytes) noexcept nogil:
    cdef const message_record_t* rec = <const message_record_t*>body
    cdef message_t m
    cdef route_t* r
    cdef uint32_t i, length
    cdef const char* names
    cdef account_t* a = e.account
    if not record_message_check(body, n):
        e.stats.ring_corrupt += 1
        return
    if sb_unlikely(rec.account != a.id):
        a = account_of_id(e, rec.account)
        if a == NULL:
            e.stats.ring_corrupt += 1
            return
    names = body + sizeof(message_record_t)
    m.account = a
    m.publisher = NULL
    m.client_id = rec.client_id
    m.slot = rec.slot
    m.from_shard = <int>from_shard
    m.hash = sb_hash(names + rec.queues_bytes, rec.subject_bytes, a.seed)
    m.subject = names + rec.queues_bytes
    m.subject_bytes = rec.subject_bytes
    m.shown = shown
    m.shown_bytes = shown_bytes
    m.tail = m.subject + rec.subject_bytes + 1
    m.tail_bytes = n - (m.tail - body)
    m.reply = m.tail
    m.reply_bytes = rec.reply_bytes
    m.payload_bytes = rec.payload_bytes
    m.payload = body + n - 2 - rec.payload_bytes
    m.header_bytes = rec.header_bytes
    if sb_unlikely(rec.redraws) and rec.slot < e.connections_count:
        # Drawn again, it may come back to the shard of its publisher, who may not want an echo.
        m.publisher = e.connections[rec.slot]
        if m.publisher != NULL and m.publisher.client_id != rec.client_id:
            m.publisher = NULL
    m.delivered = 0
    m.head = NULL
    m.bare_line = NULL
    if sb_unlikely(rec.imported):
        e.importing = True
    e.stats.xs_in_msgs += 1
    e.stats.xs_in_bytes += n
    r = route_of(e, &m)
    if rec.plain:
        if r != NULL:
            deliver_route(e, &m, r)
        else:
            deliver_match(e, &m)
    for i in range(rec.queues):  # no-cython-lint
        length = (<const uint32_t*>names)[0]
        on_record_queue(e, &m, r, names + 4, length, rec.redraws, from_shard)
        names += 4 + <size_t>((length + 3) & ~<uint32_t>3)
    if sb_unlikely(e.importing):
        e.importing = False
    if sb_unlikely(e.expired_count):
        expire(e)
    if sb_unlikely(e.stall_publisher):
        e.stall_publisher = False
        if e.limits.stall:
            interest_stall(e, &m)
    if sb_unlikely(e.arena_used > ARENA_FLUSH_BYTES or e.dirty_bytes > DIRTY_FLUSH_BYTES):
        e.flush(e)


cdef void on_fragment(engine_t* e, uint32_t from_shard, int kind, const char* body, size_t n) noexcept nogil:
    """A piece of a record that was too large for the ring; pieces come in order."""
    cdef peer_t* p = &e.peers[from_shard]
    cdef const fragment_record_t* f = <const fragment_record_t*>body
    # A name to show and a request's own words come on top of what one message can be.
    cdef uint64_t most = <uint64_t>e.limits.max_payload + 2 * <uint64_t>e.limits.max_control_line + REQUEST_BYTES_MAX
    cdef size_t piece
    cdef char* whole
    if n <= sizeof(fragment_record_t) or f.total_bytes > most:
        e.stats.ring_corrupt += 1
        return
    piece = n - sizeof(fragment_record_t)
    if f.offset == 0:
        free(p.assembly)
        p.assembly = <char*>mem_alloc(f.total_bytes + <size_t>SB_SLACK)
        p.assembly_bytes = 0
        p.assembly_total = f.total_bytes
    if p.assembly == NULL:
        return                          # the rest of a record whose beginning went to a former process
    if f.offset != p.assembly_bytes or f.total_bytes != p.assembly_total or piece > f.total_bytes - f.offset:
        e.stats.ring_corrupt += 1
        free(p.assembly)
        p.assembly = NULL
        return
    memcpy(p.assembly + f.offset, body + sizeof(fragment_record_t), piece)
    p.assembly_bytes += <uint32_t>piece
    if p.assembly_bytes == p.assembly_total:
        whole = p.assembly
        p.assembly = NULL
        on_record(e, from_shard, kind, whole, p.assembly_total)
        garbage(e, whole)


cdef void on_receipt_wanted(engine_t* e, uint32_t from_shard, const char* body, size_t n) noexcept nogil:
    cdef const receipt_record_t* r = <const receipt_record_t*>body
    cdef receipt_t* asked
    if n != sizeof(receipt_record_t):
        e.stats.ring_corrupt += 1
        return
    if e.receipts_count == e.receipts_capacity:
        e.receipts_capacity = e.receipts_capacity * 2 if e.receipts_capacity else 64
        e.receipts = <receipt_t*>mem_resize(e.receipts, e.receipts_capacity * sizeof(receipt_t))
    asked = &e.receipts[e.receipts_count]
    e.receipts_count += 1
    asked.client_id = r.client_id
    asked.slot = r.slot
    asked.number = r.number
    asked.shard = from_shard


cdef void engine_catch_up(engine_t* e) noexcept nogil:
    """Everything that other shards had published when some bytes were received, before those are acted on: interest,
    so that the flush promise holds; and messages, so that a PONG follows what its sender knows to be on the way."""
    interest_control(e)
    engine_on_rings(e, RING_ALL)


cdef bint engine_on_rings(engine_t* e, uint32_t most) noexcept nogil:
    """Deliver what other shards have sent, at most so many records of each ring. Whether more may be waiting."""
    cdef uint32_t i, n
    cdef peer_t* p
    cdef record_view v
    cdef int status
    cdef bint more = False
    for i in range(e.shards):
        if i == e.shard:
            continue
        p = &e.peers[i]
        if not ring_readable(p.data_in):
            continue
        e.alone_since_ns = e.now_ns
        status = 0
        n = 0
        while n < most:
            status = ring_next(p.data_in, &v)
            if status <= 0:
                break
            n += 1
            if sb_unlikely(v.kind == RECORD_FRAGMENT):
                on_fragment(e, i, v.flags, <const char*>v.body, v.bytes)
            else:
                on_record(e, i, v.kind, <const char*>v.body, v.bytes)
        e.spilled_now = 0               # of messages that were drawn again: no publisher here to slow down
        if status < 0:
            e.stats.ring_corrupt += 1
            ring_reader_skip(p.data_in)
        if e.borrowed:
            e.flush(e)                  # long payloads are sent from the ring: before the space is given back
        if p.data_in.head - p.data_in.released > p.data_in.capacity // 2:
            e.wake_shards |= <uint64_t>1 << i   # its writer may be waiting for room
        ring_release(p.data_in)
        if n == most:
            more = True
    return more


cdef bint engine_rings_waiting(engine_t* e) noexcept nogil:
    """Whether any ring to this shard has something to read."""
    cdef uint32_t i
    for i in range(e.shards):
        if i != e.shard and (ring_readable(e.peers[i].data_in) or ring_readable(e.peers[i].control_in)):
            return True
    return False


# ---- turns ------------------------------------------------------------------------------------------------------

cdef void engine_begin_turn(engine_t* e, uint64_t now_ns) noexcept nogil:
    e.now_ns = now_ns
    e.turn += 1


cdef bint engine_resume(engine_t* e) noexcept nogil:
    """Go on with connections whose reason to wait is over. Whether any still waits for time or for a ring."""
    cdef connection_t* c = e.waiting
    cdef connection_t* following
    cdef bint left = False
    e.waiting = NULL
    while c != NULL:
        following = c.wait_next
        if c.flags & CONNECTION_HELD and e.control_spilled_shards == 0:
            c.flags &= ~<uint32_t>CONNECTION_HELD
            c.write_deadline_ns = 0     # it was we who kept it waiting
            mark_dirty(e, c)
        if (c.flags & CONNECTION_STALLED and c.stall_shards & e.spilled_shards == 0 and c.stalled_until_ns <= e.now_ns
                and (c.receipt_shards == 0 or c.receipt_until_ns <= e.now_ns)):
            c.stall_shards = 0
            c.receipt_shards = 0
            c.flags &= ~<uint32_t>CONNECTION_STALLED
            if c.flags & CONNECTION_PONG_OWED:
                c.flags &= ~<uint32_t>CONNECTION_PONG_OWED
                pong(e, c)
        if c.flags & CONNECTION_CLOSING:
            c.flags &= ~<uint32_t>(CONNECTION_HELD | CONNECTION_STALLED)
        if c.flags & (CONNECTION_HELD | CONNECTION_STALLED):
            c.wait_next = e.waiting
            e.waiting = c
            left = True
        elif c.flags & STOP_PARSING == 0:
            engine_on_partial_waiting(e, c)
            if c.flags & CONNECTION_READABLE and c.flags & STOP_PARSING == 0:
                connection_ready(e, c)
        c = following
    return left


cdef void engine_on_partial_waiting(engine_t* e, connection_t* c) noexcept nogil:
    """Parse kept input, unless it waits for more bytes of one operation."""
    if c.partial != NULL and c.partial_bytes >= c.partial_need:
        engine_on_partial(e, c)


cdef void engine_hook(engine_t* e, hook_function_t function, void* context) noexcept nogil:
    """Add a hook, behind those that there are."""
    e.hooks[e.hooks_count].function = function
    e.hooks[e.hooks_count].context = context
    e.hooks_count += 1


cdef void run_hooks(engine_t* e) noexcept nogil:
    cdef uint64_t at = SB_NEVER
    cdef uint64_t wanted
    cdef uint32_t i
    # What a hook announces for the others while they run counts too.
    e.hooks_at_ns = SB_NEVER
    for i in range(e.hooks_count):
        wanted = e.hooks[i].function(e, e.hooks[i].context)
        if wanted < at:
            at = wanted
    if at < e.hooks_at_ns:
        e.hooks_at_ns = at


cdef bint engine_end_turn(engine_t* e) noexcept nogil:
    """Before the last flush of a turn. Whether closed connections have subscriptions left to take out."""
    if e.hooks_at_ns <= e.now_ns:
        run_hooks(e)
    if e.reaping != NULL:
        return connections_reap(e)
    return False


cdef void engine_after_flush(engine_t* e) noexcept nogil:
    """Nothing refers to this turn's memory any more."""
    cdef uint32_t i
    e.arena_used = 0
    e.dirty_bytes = 0
    e.borrowed = False
    for i in range(e.garbage_count):
        free(e.garbage[i])
    e.garbage_count = 0
    if sb_unlikely(e.receipts_count != 0):
        interest_give_receipts(e)


cdef uint64_t engine_sweep_interval(engine_t* e) noexcept nogil:
    """How often timers are looked at: a tenth of the shortest of them, 10 to 500 ms."""
    cdef uint64_t ns = e.limits.ping_interval_ns
    if e.limits.write_deadline_ns < ns:
        ns = e.limits.write_deadline_ns
    if e.limits.auth_required and e.limits.auth_timeout_ns < ns:
        ns = e.limits.auth_timeout_ns
    ns //= 10
    if ns < 10 * <uint64_t>MILLISECOND_NS:
        return 10 * <uint64_t>MILLISECOND_NS
    return ns if ns < 500 * <uint64_t>MILLISECOND_NS else 500 * <uint64_t>MILLISECOND_NS


cdef void on_ping_timer(engine_t* e, connection_t* c) noexcept nogil:
    """client.go processPingTimer: a PING unless the client was heard of lately; stale when too many are unanswered."""
    c.ping_next_ns = e.now_ns + e.limits.ping_interval_ns
    if c.flags & (CONNECTION_STALLED | CONNECTION_HELD | CONNECTION_PAUSED):
        return                          # its PONG may be waiting with us
    if e.now_ns - c.in_ns < e.limits.ping_interval_ns and c.ping_sent_ns and e.now_ns - c.ping_sent_ns < 3600 * <uint64_t>SECOND_NS:
        return
    if c.pings_out + 1 > e.limits.ping_max:
        e.stats.stale_connections += 1
        connection_error(e, c, b"Stale Connection")
        connection_close(e, c, REASON_STALE_CONNECTION)
        return
    c.pings_out += 1
    c.ping_sent_ns = e.now_ns
    connection_send(e, c, b"PING\r\n", 6)


cdef void engine_sweep(engine_t* e) noexcept nogil:
    """Timers of all connections: authentication, pings, write deadlines, ends of lingering."""
    cdef uint32_t i
    cdef connection_t* c
    e.sweep_next_ns = e.now_ns + engine_sweep_interval(e)
    for i in range(e.connections_count):
        c = e.connections[i]
        if c == NULL:
            continue
        if c.flags & CONNECTION_CLOSING:
            if c.flags & CONNECTION_LINGERING and c.write_deadline_ns <= e.now_ns:
                c.flags &= ~<uint32_t>CONNECTION_LINGERING
                c.close_next = e.closing
                e.closing = c
            continue
        if c.auth_deadline_ns and c.auth_deadline_ns <= e.now_ns:
            e.stats.auth_errors += 1
            connection_error(e, c, b"Authentication Timeout")
            connection_close(e, c, REASON_AUTHENTICATION_TIMEOUT)
        elif c.write_deadline_ns and c.write_deadline_ns <= e.now_ns and c.flags & CONNECTION_HELD == 0:
            e.stats.slow_consumers += 1
            e.stats.slow_consumers_deadline += 1
            connection_close(e, c, REASON_SLOW_CONSUMER_WRITE_DEADLINE)
        elif c.ping_next_ns <= e.now_ns:
            on_ping_timer(e, c)


# ---- the Python face --------------------------------------------------------------------------------------------

cdef void no_flush(engine_t* e) noexcept nogil:
    pass


cdef class _Rows:
    cdef list rows
    cdef uint64_t total
    cdef uint64_t most


cdef void collect(void* context, members_t* home, subscription_t* sub) noexcept nogil:
    if sub.connection.flags & CONNECTION_SINK:
        return
    with gil:
        (<_Rows>context).total += 1
        if (<_Rows>context).total <= (<_Rows>context).most:
            (<_Rows>context).rows.append(subscription_row(home, sub))


cdef account_subscriptions(engine_t* e, account_t* a, test_subject, _Rows rows):
    cdef uint32_t i, j
    cdef bytes s
    if test_subject is None:
        sublist_walk(a, collect, <void*>rows)
        return
    s = test_subject
    sublist_match(a, s, len(s), sb_hash(s, len(s), a.seed), &e.match)
    for i in range(e.match.lists_count):
        for j in range(e.match.lists[i].count):
            collect(<void*>rows, e.match.lists[i], member_at(e.match.lists[i], j))
    for i in range(e.match.queues_count):
        for j in range(e.match.queues[i].queue.members.count):
            collect(<void*>rows, &e.match.queues[i].queue.members, member_at(&e.match.queues[i].queue.members, j))


cdef object subscription_row(members_t* home, subscription_t* sub):
    """(subject, queue or None, sid, delivered, max, slot, client id, account)"""
    cdef size_t n = sublist_subject(home, NULL)
    cdef bytearray subject = bytearray(n)
    cdef queue_t* q = sublist_queue(home)
    sublist_subject(home, <char*>subject)
    return (bytes(subject), q.name[:q.name_bytes] if q != NULL else None, sub.sid[:sub.sid_bytes - 1], sub.delivered,
            sub.max, sub.connection.slot, sub.connection.client_id,
            sub.connection.account.name[:sub.connection.account.name_bytes])


cdef object connection_tuple(connection_t* c):
    cdef uint64_t row[12]
    connection_row(c, row)
    return (c.slot, c.client_id, row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8],
            bool(row[9] & CONNECTION_CONNECTED))


cdef object message_tuple(event_t* v, bytes text):
    """A request: (kind, slot, client id, subject, reply, headers, payload, account). Of a sink: (kind, sink, sid, the same up to
    the payload)."""
    cdef size_t sid = 0 if v.kind == EVENT_REQUEST else v.values[0]
    cdef size_t reply_at = sid + v.values[1]
    cdef size_t payload_at = reply_at + v.values[2]
    cdef size_t body_at = payload_at + v.values[3]
    cdef account_t* a
    if v.kind == EVENT_REQUEST:
        a = <account_t*>v.values[4]
        return (v.kind, v.slot, v.client_id, text[:reply_at], text[reply_at:payload_at], text[payload_at:body_at],
                text[body_at:], a.name[:a.name_bytes])
    return (v.kind, v.client_id, text[:sid], text[sid:reply_at], text[reply_at:payload_at], text[payload_at:body_at],
            text[body_at:])


cdef object latency_tuple(event_t* v, bytes text):
    """(kind, status, account, subject of reports, who asks, headers that wanted it (both JSON), ns since the request, round trip
    of who asks, (shard, slot, client id) of who answered or None)."""
    cdef size_t person_at = v.values[0]
    cdef size_t why_at = person_at + v.values[1]
    cdef account_t* a = <account_t*>v.values[4]
    responder = (v.values[5], v.slot, v.client_id) if v.client_id else None
    return (v.kind, v.number, a.name[:a.name_bytes], text[:person_at], text[person_at:why_at], text[why_at:], v.values[2],
            v.values[3], responder)


# Subjects of the broker's own services, one set for each process: what is intercepted, and what is not though it begins
# like it. Set once at start.
cdef char prefix_text[PREFIXES_MAX][PREFIX_BYTES_MAX]
cdef uint32_t prefix_bytes[PREFIXES_MAX]
cdef bint prefix_except[PREFIXES_MAX]
cdef uint32_t prefix_count = 0


cdef int set_prefixes(list wanted, list exceptions) except -1:
    global prefix_count
    if len(wanted) + len(exceptions) > PREFIXES_MAX:
        raise ValueError(f"at most {PREFIXES_MAX} prefixes")
    prefix_count = 0
    for prefix in exceptions + wanted:
        if not 0 < len(prefix) <= PREFIX_BYTES_MAX or prefix[:1] != b"$":
            raise ValueError(f"{prefix!r} is no prefix")
        memcpy(prefix_text[prefix_count], <char*>(<bytes>prefix), len(prefix))
        prefix_bytes[prefix_count] = <uint32_t>len(prefix)
        prefix_except[prefix_count] = prefix_count < <uint32_t>len(exceptions)
        prefix_count += 1


cdef bint lacks_token(const char* s, uint32_t n) noexcept nogil:
    """Whether it is no subject, for want of a token between two dots or at the end."""
    cdef uint32_t i
    for i in range(n):
        if s[i] == c'.' and (i + 1 == n or s[i + 1] == c'.'):
            return True
    return False


cdef bint intercept_by_prefix(engine_t* e, message_t* m) noexcept nogil:
    cdef uint32_t i
    for i in range(prefix_count):
        if begins(m.subject, m.subject_bytes, prefix_text[i], prefix_bytes[i]):
            # What is no subject reaches nobody, and whoever asks is told so.
            if prefix_except[i] or lacks_token(m.subject, m.subject_bytes):
                return False
            intercept_event(e, m)
            return True
    return False


cdef int add_patterns(patterns_t* list, entries, bint queues) except -1:
    """Entries of a permission, `SUBJECT` or `SUBJECT QUEUE`; None: there is no such list. What is no subject is left out."""
    cdef bytes subject, queue
    if entries is None:
        return 0
    list.given = True
    for entry in entries:
        words = entry.encode("utf-8", "surrogateescape").split()
        if not 1 <= len(words) <= 1 + queues or subject_check(words[0], len(words[0])) == SUBJECT_INVALID:
            continue
        subject = words[0]
        queue = words[1] if len(words) == 2 else b""
        patterns_add(list, subject, <uint32_t>len(subject), queue, <uint32_t>len(queue))
    return 0


# A collector that cleared it first would unmap the rings that the last unsubscriptions are told over: a crash.
@cython.no_gc_clear
cdef class Engine:
    """One shard's engine, as the control side uses it. Shard thread only.

    shard, shards: which of how many. segment: the shared segment's SegmentMap. eventfds: one eventfd for each shard,
    by shard. settings: options.EngineSettings.
    """

    def __cinit__(self, int shard, int shards, SegmentMap segment, list eventfds, settings):
        cdef int i
        cdef RingWriter w
        cdef RingReader r
        rings = []
        memset(&self.e, 0, sizeof(engine_t))
        if not 1 <= shards <= SHARDS_MAX or not 0 <= shard < shards:
            raise ValueError(f"shard {shard} of {shards}: there are 1 to {SHARDS_MAX} shards")
        self.segment = segment
        self.e.shard = shard
        self.e.shards = shards
        self.e.header = segment.header()
        self.e.slot = segment.slot(shard)
        self.e.stats = segment.stats(shard)
        self.e.directory = segment.directory()
        self.e.flush = no_flush
        self.e.hooks_at_ns = SB_NEVER
        self.e.random = self.e.header.fingerprint_key[1] ^ (<uint64_t>(shard + 1) * <uint64_t>0x9E3779B97F4A7C15)
        if self.e.random == 0:
            self.e.random = 1
        self.e.arena = <char*>mem_alloc(ARENA_BYTES + SB_SLACK)
        accounts_init(&self.e)
        self.e.peers = <peer_t*>mem_zero(SHARDS_MAX * sizeof(peer_t))
        self.e.stats.connections = 0
        self.e.stats.closed_total = self.e.stats.connections_total      # a predecessor's are all gone
        self.e.stats.subscriptions = 0
        self.e.stats.overflow_bytes = 0
        self.apply(settings)
        if shards > 1:
            directory_map(&self.e.directory)
            for i in range(shards):
                if i == shard:
                    continue
                self.e.peers[i].slot = segment.slot(i)
                self.e.peers[i].eventfd = eventfds[i]
                w = RingWriter(segment, shard, i, False)
                self.e.peers[i].data_out = &w.w
                rings.append(w)
                w = RingWriter(segment, shard, i, True)
                self.e.peers[i].control_out = &w.w
                rings.append(w)
                r = RingReader(segment, i, shard, False)
                self.e.peers[i].data_in = &r.r
                rings.append(r)
                r = RingReader(segment, i, shard, True)
                self.e.peers[i].control_in = &r.r
                rings.append(r)
        self.sinks = []
        self.permissions = {}
        self.permissions_kept = PERMISSIONS_KEPT
        self.rings = tuple(rings)           # a list the collector would empty
        interest_on_stall(slow_publisher)
        interest_boot(&self.e)
        exchange_init(&self.e)

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.e.connections_count):
            if self.e.connections[i] != NULL:
                connection_close(&self.e, self.e.connections[i], REASON_SERVER_SHUTDOWN)
        if self.e.account != NULL:
            while connections_reap(&self.e):
                pass
            for sink in self.sinks:
                if sink is not None:
                    sink_free(&self.e, <connection_t*><uint64_t>sink)
            for i in range(self.e.connections_count):
                if self.e.connections[i] != NULL:
                    connection_free(&self.e, self.e.connections[i])
            if self.e.peers != NULL:
                interest_free(&self.e)
            watches_free(&self.e)
            routes_free_dead()
            exchange_free(&self.e)
            for made in self.permissions.values():
                permissions_free(<permissions_t*><uint64_t>made)
            accounts_free(&self.e)
        sinks_free_dead(&self.e)
        free_dead(&self.e)
        self.e.receipts_count = 0
        engine_after_flush(&self.e)
        out_free_pools(&self.e.out)
        for i in range(self.e.events_count):
            free(self.e.events[i].text)
        free(self.e.events)
        free(self.e.connections)
        free(self.e.slots_free)
        free(self.e.arena)
        free(self.e.peers)
        free(self.e.expired)
        free(self.e.dead)
        free(self.e.garbage)
        free(self.e.receipts)
        free(self.e.scratch)
        free(self.e.bare)
        free(self.e.rewritten)
        free(self.e.published)
        free(self.e.match.lists)
        free(self.e.match.queues)

    cdef account_t* account_of(self, bytes name) except NULL:
        cdef account_t* a = account_named(&self.e, name, <uint32_t>len(name))
        if a == NULL:
            raise ValueError(f"no room for account {name!r}")
        return a

    cdef permissions_t* permissions_of(self, permissions) except? NULL:
        """One for all connections with equal permissions; those that nobody has any more are given back in time."""
        cdef permissions_t* p
        if permissions is None:
            return NULL
        made = self.permissions.get(permissions)
        if made is not None:
            return <permissions_t*><uint64_t>made
        if len(self.permissions) >= self.permissions_kept:
            for key, made in list(self.permissions.items()):
                p = <permissions_t*><uint64_t>made
                if p.references == 0:
                    permissions_free(p)
                    del self.permissions[key]
            self.permissions_kept = max(PERMISSIONS_KEPT, 2 * len(self.permissions))
        p = permissions_new(self.e.header.fingerprint_key[1])
        if permissions.publish is not None:
            add_patterns(&p.publish_allow, permissions.publish.allow, False)
            add_patterns(&p.publish_deny, permissions.publish.deny or None, False)
        if permissions.subscribe is not None:
            add_patterns(&p.subscribe_allow, permissions.subscribe.allow, True)
            add_patterns(&p.subscribe_deny, permissions.subscribe.deny or None, True)
        if permissions.responses is not None:
            p.responses = True
            p.responses_max = permissions.responses.max_messages
            p.responses_ns = <uint64_t>(max(0.0, permissions.responses.expires) * SECOND_NS)
        permissions_ready(p)
        self.permissions[permissions] = <uint64_t>p
        return p

    cdef connection_t* find(self, uint32_t slot, uint64_t client_id):
        cdef connection_t* c
        if slot >= self.e.connections_count:
            return NULL
        c = self.e.connections[slot]
        return c if c != NULL and c.client_id == client_id else NULL

    cdef void check_ready(self) noexcept:
        """READY, and said so once, when every other shard's interest is known."""
        if self.snapshots_reported or self.e.snapshots_awaited:
            return
        self.snapshots_reported = True
        slot_state_store(self.e.slot, SB_SLOT_READY)
        membership_bump(self.e.header)
        event_push(&self.e, EVENT_SNAPSHOTS_COMPLETE, NULL, 0, NULL, 0)

    def apply(self, settings):
        """Take new limits; connections that exist keep what they were told in their INFO."""
        self._settings = settings
        self.e.limits.max_payload = settings.max_payload
        self.e.limits.max_control_line = settings.max_control_line
        self.e.limits.max_pending = settings.max_pending
        self.e.limits.max_subscriptions = settings.max_subscriptions
        self.e.limits.max_subscription_tokens = settings.max_subscription_tokens
        self.e.limits.write_deadline_ns = settings.write_deadline_ns
        self.e.limits.ping_interval_ns = settings.ping_interval_ns
        self.e.limits.ping_max = settings.ping_max
        self.e.limits.auth_timeout_ns = settings.auth_timeout_ns
        self.e.limits.overflow_bytes_max = settings.overflow_bytes_max
        self.e.limits.spin_ns = settings.spin_ns
        self.e.limits.max_traced_bytes = max(0, settings.max_traced_bytes)
        self.e.limits.headers = settings.headers
        self.e.limits.auth_required = settings.auth_required
        self.e.limits.trace = settings.trace
        self.e.limits.debug = settings.debug
        self.e.limits.stall = settings.stall
        self.e.limits.implicit_connect = settings.implicit_connect

    @property
    def settings(self):
        return self._settings

    def adopt(self, int fd, uint64_t client_id, bytes info, *, bint auth_required=False):
        """Own a connected non-blocking socket from now on and send it its INFO line. Returns its slot."""
        cdef connection_t* c = connection_new(&self.e, fd, client_id)
        if auth_required:
            c.flags |= CONNECTION_AUTH_PENDING
            c.auth_deadline_ns = self.e.now_ns + self.e.limits.auth_timeout_ns
        connection_send(&self.e, c, info, len(info))
        if self.attach != NULL:
            self.attach(&self.e, c)
        return c.slot

    def adopt_transport(self, uint64_t client_id, bytes info, *, bint auth_required=False, uint64_t handshake_ns=0):
        """The same for a connection whose socket the control side keeps; handshake_ns are added to the time for CONNECT.
        Returns its slot. Its output waits until `transport_blocked` says otherwise."""
        cdef connection_t* c = connection_new(&self.e, -1, client_id)
        c.flags |= CONNECTION_TRANSPORT | CONNECTION_BLOCKED
        if auth_required:
            c.flags |= CONNECTION_AUTH_PENDING
            c.auth_deadline_ns = self.e.now_ns + self.e.limits.auth_timeout_ns + handshake_ns
        connection_send(&self.e, c, info, len(info))
        return c.slot

    def feed(self, uint32_t slot, uint64_t client_id, unsigned char[::1] buffer, size_t n):
        """n plain bytes of a transport, at the beginning of a buffer with FEED_SLACK more. Whether it may be fed more;
        if not, an `attention` event says when to ask `hungry` again."""
        cdef connection_t* c = self.find(slot, client_id)
        cdef bint more
        if n + SB_SLACK > <size_t>buffer.shape[0]:
            raise ValueError(f"{n} bytes need {n + SB_SLACK} bytes of buffer, not {buffer.shape[0]}")
        if c == NULL or n == 0:
            return c != NULL and transport_hungry(c)
        with nogil:
            more = transport_feed(&self.e, c, <char*>&buffer[0], n)
        return more

    def hungry(self, uint32_t slot, uint64_t client_id):
        """Whether a transport may be fed."""
        cdef connection_t* c = self.find(slot, client_id)
        return c != NULL and transport_hungry(c)

    def output(self, uint32_t slot, uint64_t client_id):
        """The next plain bytes of a transport's output where they lie: valid until `output_taken`. None when there are
        none, or they may not go yet."""
        cdef connection_t* c = self.find(slot, client_id)
        if c == NULL or c.flags & (CONNECTION_BLOCKED | CONNECTION_HELD | CONNECTION_CLOSING) or c.pending_bytes == 0:
            return None
        return PyMemoryView_FromMemory(c.spans[c.spans_first].data, c.spans[c.spans_first].bytes, PyBUF_READ)

    def output_taken(self, uint32_t slot, uint64_t client_id, size_t n):
        """The first n bytes of what `output` gave are on their way; the memory is ours again."""
        cdef connection_t* c = self.find(slot, client_id)
        if c != NULL and c.flags & CONNECTION_CLOSING == 0:
            transport_sent(&self.e, c, min(n, <size_t>c.pending_bytes))

    def take_greeting(self, uint32_t slot, uint64_t client_id):
        """All of a transport's output so far, although it waits: the INFO, when it is to go out in the clear after all."""
        cdef connection_t* c = self.find(slot, client_id)
        if c == NULL:
            return b""
        out = PyBytes_FromStringAndSize(NULL, c.pending_bytes)
        transport_take(&self.e, c, PyBytes_AS_STRING(out), c.pending_bytes)
        return out

    def settle(self, uint32_t slot, uint64_t client_id, int fd):
        """A transport that turned out to need none: the data path takes its non-blocking socket, and owns it."""
        cdef connection_t* c = self.find(slot, client_id)
        if c == NULL or c.flags & CONNECTION_CLOSING:
            os.close(fd)
            return
        c.flags &= ~<uint32_t>(CONNECTION_TRANSPORT | CONNECTION_BLOCKED)
        c.fd = fd
        if c.spans_first < c.spans_end:
            mark_dirty(&self.e, c)
        if self.attach != NULL:
            self.attach(&self.e, c)

    def transport_blocked(self, uint32_t slot, uint64_t client_id, bint blocked):
        """A transport's socket is full, or takes more again."""
        cdef connection_t* c = self.find(slot, client_id)
        if c != NULL:
            transport_blocked(&self.e, c, blocked)

    def refuse(self, int fd, uint64_t client_id, bytes info, bytes error):
        """INFO, -ERR and close, for a connection above max_connections."""
        cdef connection_t* c = connection_new(&self.e, fd, client_id)
        connection_send(&self.e, c, info, len(info))
        connection_error(&self.e, c, error)
        if self.attach != NULL:
            self.attach(&self.e, c)
        connection_close(&self.e, c, REASON_MAX_CONNECTIONS_EXCEEDED)
        return c.slot

    def connected(self, uint32_t slot, uint64_t client_id, *, bint verbose, bint pedantic, bint echo, bint headers,
                  bint no_responders, int protocol, bytes first_pong_info=b"", bint implicit=False):
        """Accept a CONNECT: its options hold for what follows, which is parsed now. `implicit`: none was sent."""
        cdef connection_t* c = self.find(slot, client_id)
        cdef uint32_t flags
        if c == NULL or c.flags & CONNECTION_CLOSING:
            return
        flags = c.flags & ~<uint32_t>(CONNECTION_VERBOSE | CONNECTION_PEDANTIC | CONNECTION_NO_ECHO | CONNECTION_HEADERS
                                      | CONNECTION_NO_RESPONDERS | CONNECTION_ASYNC_INFO | CONNECTION_AUTH_PENDING
                                      | CONNECTION_PAUSED)
        if verbose:
            flags |= CONNECTION_VERBOSE
        if pedantic:
            flags |= CONNECTION_PEDANTIC
        if not echo:
            flags |= CONNECTION_NO_ECHO
        if headers and self.e.limits.headers:
            flags |= CONNECTION_HEADERS
        if no_responders:
            flags |= CONNECTION_NO_RESPONDERS
        if protocol >= 1:
            flags |= CONNECTION_ASYNC_INFO
        c.auth_deadline_ns = 0
        # The first PING comes early, to measure the round trip (client.go setFirstPingTimer).
        c.ping_next_ns = min(self.e.limits.ping_interval_ns, <uint64_t>2 * SECOND_NS)
        c.ping_next_ns += self.e.now_ns + random_below(&self.e, <uint32_t>(c.ping_next_ns // 5 + 1))
        if not c.flags & CONNECTION_CONNECTED:
            c.rtt_ns = max(<uint64_t>1, self.e.now_ns - c.started_ns)
        c.flags = flags | CONNECTION_CONNECTED
        if first_pong_info and not c.flags & CONNECTION_PONG_SENT:
            free(c.first_pong_info)
            c.first_pong_info = <char*>mem_alloc(len(first_pong_info))
            memcpy(c.first_pong_info, <char*>first_pong_info, len(first_pong_info))
            c.first_pong_info_bytes = <uint32_t>len(first_pong_info)
        if verbose and not implicit:
            connection_ok(&self.e, c)
        with nogil:
            if c.flags & STOP_PARSING == 0:
                engine_on_partial_waiting(&self.e, c)
                if c.flags & CONNECTION_READABLE and c.flags & STOP_PARSING == 0:
                    connection_ready(&self.e, c)

    def enter(self, uint32_t slot, uint64_t client_id, bytes account, permissions=None, *, int64_t max_payload=-1,
              int64_t max_subscriptions=-1):
        """Who a connection is from now on: its account, what it may do (auth.model.Permissions; None: everything), and its
        own limits (negative: those of the broker only). Before connected(). Subscriptions of another account are dropped.
        """
        cdef connection_t* c = self.find(slot, client_id)
        cdef account_t* a = self.account_of(account)
        cdef permissions_t* p = self.permissions_of(permissions)
        if c == NULL or c.flags & CONNECTION_CLOSING:
            return
        person_forget(c)
        if c.account != a:
            self.drop_subscriptions(slot, client_id)
            c.account.connections -= 1
            c.account = a
            a.connections += 1
        connection_restrict(&self.e, c, p)
        c.flags &= ~<uint32_t>CONNECTION_MAPPED
        if a.mapped:
            c.flags |= CONNECTION_MAPPED
        self.limit(slot, client_id, max_payload, max_subscriptions)

    def set_account(self, bytes name, list mappings, list imports):
        """What an account maps and imports from now on, for all connections that are in it and will be.

        mappings: see transform.pyx mappings_set; imports: exchange.pyx exchange_set. Both have been checked.
        """
        cdef account_t* a = self.account_of(name)
        cdef uint32_t i
        cdef connection_t* c
        mappings_set(a, mappings)
        exchange_set(&self.e, a, imports)
        a.mapped = a.mappings_count or a.services_count
        for i in range(self.e.connections_count):
            c = self.e.connections[i]
            if c != NULL and c.account == a:
                c.flags &= ~<uint32_t>CONNECTION_MAPPED
                if a.mapped:
                    c.flags |= CONNECTION_MAPPED

    def introduce(self, bytes server_name, describe, traced):
        """What imports need to tell who asks and to measure: see person.pyx and latency.pyx. server_name: as JSON.
        describe(slot, client id): members of a JSON object. traced(headers): those that want a measurement, as JSON, or None.
        """
        self.introduced = (server_name, describe, traced)
        self.e.server_name = server_name
        self.e.server_name_bytes = <uint32_t>len(server_name)
        self.e.describe = <void*>describe
        self.e.traced = <void*>traced

    def limit(self, uint32_t slot, uint64_t client_id, int64_t max_payload, int64_t max_subscriptions):
        """The limits of one connection, negative: those of the broker only. Whether it keeps to the number of subscriptions."""
        cdef connection_t* c = self.find(slot, client_id)
        if c == NULL:
            return True
        c.max_payload = self.e.limits.max_payload
        if 0 <= max_payload < c.max_payload:
            c.max_payload = max_payload
        # 0 is no limit in the engine and a limit for an account.
        c.max_subscriptions = self.e.limits.max_subscriptions
        if max_subscriptions >= 0 and (c.max_subscriptions == 0 or max_subscriptions < c.max_subscriptions):
            c.max_subscriptions = <uint32_t>max_subscriptions if max_subscriptions else NO_SUBSCRIPTIONS
        return c.max_subscriptions == 0 or c.subscriptions <= (c.max_subscriptions & ~<uint32_t>NO_SUBSCRIPTIONS)

    def restrict(self, uint32_t slot, uint64_t client_id, permissions):
        """Other permissions for a connection that stays. Subscriptions that they do not allow are taken out: (subject, queue
        or None, sid) of each, to be told."""
        cdef connection_t* c = self.find(slot, client_id)
        cdef permissions_t* p = self.permissions_of(permissions)
        cdef subscription_t* sub
        cdef uint32_t i
        removed = []
        if c == NULL or c.flags & CONNECTION_CLOSING:
            return removed
        person_forget(c)
        connection_restrict(&self.e, c, p)
        if p == NULL:
            return removed
        for subject, queue, sid in [subscription_row(sid_at(c, i).home, sid_at(c, i))[:3] for i in range(sids_end(c))
                                    if sid_at(c, i) != NULL]:
            if permissions_subscribe(p, subject, len(subject), queue if queue else b"", len(queue) if queue else 0):
                if permissions_overlap(p, subject, len(subject), queue is not None):
                    c.flags |= CONNECTION_FILTERED
                continue
            sub = sid_find(c, sid, len(sid))
            if sub != NULL:
                unsubscribe(&self.e, sub)
                removed.append((subject, queue, sid))
        return removed

    def account_rows(self):
        """(name, connections, subscriptions, in_msgs, in_bytes, out_msgs, out_bytes) of each account that has a name here."""
        cdef uint32_t i
        cdef account_t* a
        cdef connection_t* c
        with nogil:
            for i in range(self.e.accounts_count):
                memset(self.e.accounts[i].live, 0, sizeof(self.e.accounts[i].live))
            for i in range(self.e.connections_count):
                c = self.e.connections[i]
                if c != NULL:
                    c.account.live[0] += c.in_msgs
                    c.account.live[1] += c.in_bytes
                    c.account.live[2] += c.out_msgs
                    c.account.live[3] += c.out_bytes
        rows = []
        for i in range(self.e.accounts_count):
            a = self.e.accounts[i]
            if a.name != NULL:
                rows.append((a.name[:a.name_bytes], a.connections, a.subscriptions, a.closed_in_msgs + a.live[0],
                             a.closed_in_bytes + a.live[1], a.closed_out_msgs + a.live[2], a.closed_out_bytes + a.live[3]))
        return rows

    def drop_subscriptions(self, uint32_t slot, uint64_t client_id):
        """Take out all subscriptions of a connection: a second CONNECT starts afresh."""
        cdef connection_t* c = self.find(slot, client_id)
        cdef subscription_t* sub
        cdef uint32_t i
        if c == NULL:
            return
        i = 0
        while c.subscriptions:
            sub = sid_at(c, i % sids_end(c))
            if sub != NULL:
                unsubscribe(&self.e, sub)
            else:
                i += 1

    def error(self, uint32_t slot, uint64_t client_id, bytes text, reason=None):
        """Send -ERR 'text'; close with `reason` unless that is None."""
        cdef connection_t* c = self.find(slot, client_id)
        if c == NULL:
            return
        connection_error(&self.e, c, text)
        if reason is not None:
            if reason == REASON_AUTHENTICATION_VIOLATION:
                self.e.stats.auth_errors += 1
            connection_close(&self.e, c, reason)

    def send(self, uint32_t slot, uint64_t client_id, bytes data):
        """Queue protocol bytes to one connection."""
        cdef connection_t* c = self.find(slot, client_id)
        if c != NULL:
            connection_send(&self.e, c, data, len(data))

    def broadcast(self, bytes data, int min_protocol=1):
        """Queue protocol bytes (an INFO line) to every connection of at least this protocol."""
        cdef uint32_t i
        cdef connection_t* c
        for i in range(self.e.connections_count):
            c = self.e.connections[i]
            if c != NULL and (min_protocol < 1 or c.flags & CONNECTION_ASYNC_INFO):
                connection_send(&self.e, c, data, len(data))

    def close(self, uint32_t slot, uint64_t client_id, uint32_t reason):
        """Close a connection after what is queued to it."""
        cdef connection_t* c = self.find(slot, client_id)
        if c != NULL:
            connection_close(&self.e, c, reason)

    def stop(self):
        """Close every connection; the last output goes out in the next turn."""
        cdef uint32_t i
        for i in range(self.e.connections_count):
            if self.e.connections[i] != NULL:
                connection_close(&self.e, self.e.connections[i], REASON_SERVER_SHUTDOWN)

    # What rides on the engine (stream/): its own messages and subscriptions

    def publish(self, bytes subject, bytes payload, bytes reply=b"", bytes headers=b"", shown=None, bytes account=b"$G"):
        """Publish from inside the shard; to how many it went. headers: a whole header block ("NATS/1.0\\r\\n...").

        It goes out at the next flush. Receivers see `shown` instead of `subject` when that is given.
        """
        cdef bytes name = b"" if shown is None else shown
        cdef bytes whole = headers + payload if headers else payload
        return engine_publish(&self.e, self.account_of(account), subject, len(subject), NULL if shown is None else <char*>name,
                              len(name), reply, len(reply), len(headers) if headers else -1, whole, len(whole))

    def interest(self, bytes subject, bytes account=b"$G"):
        """Whether anyone, on any shard, would get what is published to this literal subject."""
        return engine_interest(&self.e, self.account_of(account), subject, len(subject))

    def interest_told(self):
        """Whether every change of interest of this shard is on its way to the others (see the control rings)."""
        return self.e.control_spilled_shards == 0

    def sink(self, bytes account=b"$G"):
        """A new sink whose messages become events: its number, for sink_subscribe."""
        cdef connection_t* c = sink_new_in(&self.e, self.account_of(account), sink_to_events(), <void*><uint64_t>(len(self.sinks)))
        self.sinks.append(<uint64_t>c)
        return len(self.sinks) - 1

    def sink_subscribe(self, int sink, bytes subject, bytes queue=b""):
        """Subscribe it; the sid (text) that the events of this subscription have. Raises ValueError for a bad subject."""
        cdef connection_t* c = <connection_t*><uint64_t>self.sinks[sink]
        cdef subscription_t* sub
        if subject_check(subject, len(subject)) == SUBJECT_INVALID:
            raise ValueError(f"invalid subject {subject!r}")
        sub = sink_subscribe(&self.e, c, subject, len(subject), queue, len(queue), 0)
        return sub.sid[:sub.sid_bytes - 1]

    def sink_unsubscribe(self, int sink, bytes sid):
        """Take one of its subscriptions out."""
        cdef connection_t* c = <connection_t*><uint64_t>self.sinks[sink]
        cdef subscription_t* sub = sid_find(c, sid, len(sid))
        if sub != NULL:
            sink_unsubscribe(&self.e, sub)

    def sink_close(self, int sink):
        """Take all its subscriptions out; its number is not used again."""
        if self.sinks[sink] is not None:
            sink_free(&self.e, <connection_t*><uint64_t>self.sinks[sink])
            self.sinks[sink] = None

    def intercept(self, prefixes):
        """From now on messages of clients whose subject begins with one of these (each begins with `$`) become
        `request` events, whoever else gets them. Prefixes that begin with `!` are exceptions. Adds to those before."""
        before = self.prefixes or ([], [])
        wanted = list(before[0]), list(before[1])
        for prefix in prefixes:
            wanted[prefix.startswith(b"!")].append(prefix.lstrip(b"!"))
        set_prefixes(wanted[0], wanted[1])
        self.prefixes = wanted
        self.e.intercept = intercept_by_prefix

    def send_peer(self, uint32_t shard, bytes data):
        """Bytes to the control side of another shard: a `peer` event there, behind what was published before."""
        if shard >= self.e.shards or shard == self.e.shard:
            raise ValueError(f"shard {shard} is no other shard")
        if <uint64_t>len(data) > <uint64_t>self.e.limits.max_payload + REQUEST_BYTES_MAX:
            raise ValueError(f"{len(data)} bytes are too many for a request to another shard")
        engine_send_peer(&self.e, shard, data, <uint32_t>len(data))

    def peer_ready(self, uint32_t shard):
        """Whether that shard serves. What is sent to one that does not may be lost."""
        return shard == self.e.shard or slot_state(self.e.peers[shard].slot) == SB_SLOT_READY

    def peer_epoch(self, uint32_t shard):
        """Counts the processes that have been that shard."""
        return self.e.epoch if shard == self.e.shard else slot_epoch(self.e.peers[shard].slot)

    def wake_hooks(self):
        """Let hooks run in the next turn, which does not wait."""
        self.e.hooks_at_ns = 0

    def connections(self):
        """A row (CONNECTION_FIELDS) for each open connection."""
        cdef uint32_t i
        return [connection_tuple(self.e.connections[i]) for i in range(self.e.connections_count)
                if self.e.connections[i] != NULL and not self.e.connections[i].flags & CONNECTION_CLOSING]

    def connection_table(self, uint32_t first, uint32_t most, account=None):
        """What monitoring sorts and adds up, of the connections in `most` slots from `first` on: (slot to go on with, or -1;
        rows). A row is TABLE_WORDS native words: client id, slot, and CONNECTION_FIELDS from in_msgs to stalls."""
        cdef uint32_t i = first
        cdef uint32_t end = min(self.e.connections_count, first + most) if first < self.e.connections_count else first
        cdef account_t* wanted = NULL
        cdef connection_t* c
        cdef bytes name
        cdef bytearray rows = bytearray((end - first) * TABLE_WORDS * sizeof(uint64_t))
        cdef uint64_t* out = <uint64_t*><char*>rows
        cdef uint64_t row[12]
        if account is not None:
            name = account
            wanted = account_known(&self.e, name, <uint32_t>len(name))
            if wanted == NULL:
                return -1, b""
        with nogil:
            for i in range(first, end):
                c = self.e.connections[i]
                if c == NULL or c.flags & CONNECTION_CLOSING or (wanted != NULL and c.account != wanted):
                    continue
                connection_row(c, row)
                out[0] = c.client_id
                out[1] = i
                memcpy(out + 2, row, 9 * sizeof(uint64_t))
                out += TABLE_WORDS
        return (end if end < self.e.connections_count else -1), bytes(rows[:<char*>out - <char*>rows])

    def connection(self, uint32_t slot, uint64_t client_id):
        """The row of one connection, or None."""
        cdef connection_t* c = self.find(slot, client_id)
        return None if c == NULL or c.flags & CONNECTION_CLOSING else connection_tuple(c)

    def subscriptions(self, uint32_t slot, uint64_t client_id, uint32_t first=0, uint32_t most=0xffffffff):
        """(at which to go on, or -1; rows): (subject, queue or None, sid, delivered, max, slot, client id, account) of a
        connection's subscriptions, from the place `first` on, at most so many."""
        cdef connection_t* c = self.find(slot, client_id)
        cdef uint32_t i = first
        cdef uint32_t visited = 0
        cdef list rows = []
        if c == NULL or c.flags & CONNECTION_CLOSING:
            return -1, rows
        # Emptied places cost a look only; a turn of this is no longer for them.
        while i < sids_end(c) and <uint32_t>len(rows) < most and (visited < VISITS_MAX or most == 0xffffffff):
            if sid_at(c, i) != NULL:
                rows.append(subscription_row(sid_at(c, i).home, sid_at(c, i)))
            visited += 1
            i += 1
        return (i if i < sids_end(c) else -1), rows

    cdef list accounts_named(self, account):
        """Addresses of all accounts, or of one."""
        cdef uint32_t i
        cdef bytes name
        if account is None:
            return [<uint64_t>self.e.accounts[i] for i in range(self.e.accounts_count)]
        name = account
        return [<uint64_t>a for a in (<uint64_t>account_known(&self.e, name, <uint32_t>len(name)),) if a]

    def all_subscriptions(self, test_subject=None, account=None):
        """(subject, queue or None, sid, delivered, max, slot, client id, account) of every subscription, or of those of one
        account; with a subject, only those that it would reach."""
        return self.subscriptions_where(test_subject, account, 1 << 62)[1]

    def subscriptions_where(self, test_subject, account, uint64_t most):
        """(how many, the first so many of them) of the same."""
        cdef _Rows rows = _Rows()
        rows.rows = []
        rows.most = most
        for a in self.accounts_named(account):
            account_subscriptions(&self.e, <account_t*><uint64_t>a, test_subject, rows)
        return rows.total, rows.rows

    def sublist_stats(self, account=None):
        """The numbers of /subsz for this shard, over all accounts or of one. Hits and misses are those of all."""
        cdef account_t* a
        cdef uint64_t i
        cdef uint64_t most = 0
        cdef uint64_t total = 0
        cdef uint64_t routes = 0
        cdef uint64_t subscriptions = 0
        cdef uint64_t inserts = 0
        cdef uint64_t removes = 0
        cdef route_t* r
        for address in self.accounts_named(account):
            a = <account_t*><uint64_t>address
            subscriptions += a.subscriptions
            inserts += a.inserts
            removes += a.removes
            for i in range(2 * (a.route_mask + 1) if a.routes_cached else 0):
                r = a.routes[i]
                if r != NULL:
                    routes += 1
                    total += r.targets_count + r.queue_groups_count
                    most = max(most, <uint64_t>r.targets_count + r.queue_groups_count)
        hits = self.e.stats.route_hits
        misses = self.e.stats.route_misses
        return {
            "num_subscriptions": subscriptions, "num_cache": routes, "num_inserts": inserts,
            "num_removes": removes, "num_matches": hits + misses,
            "cache_hit_rate": hits / (hits + misses) if hits + misses else 0.0,
            "max_fanout": most, "avg_fanout": total / routes if routes else 0.0,
        }

    def memory(self):
        """Bytes in output chunks and numbers of what is allocated, to find leaks."""
        cdef uint32_t i
        return {"out_bytes": self.e.out.bytes_owned, "connections": self.e.stats.connections,
                "subscriptions": sum([self.e.accounts[i].subscriptions for i in range(self.e.accounts_count)]),
                "patterns": sum([self.e.accounts[i].patterns for i in range(self.e.accounts_count)]),
                "routes": sum([self.e.accounts[i].routes_cached for i in range(self.e.accounts_count)]),
                "overflow_bytes": self.e.stats.overflow_bytes}

    def trim(self, forget):
        """Give unused memory back once things are quiet after many came and went. For a timer of about a second.

        forget(): the control side's part, called before free memory goes back to the system."""
        cdef uint32_t i
        cdef uint64_t changes = CONNECTION_CHANGES * (self.e.stats.connections_total + self.e.stats.closed_total)
        for i in range(self.e.accounts_count):
            changes += self.e.accounts[i].inserts + self.e.accounts[i].removes
        if changes != self.changes_seen:
            self.changes_seen = changes
        elif changes - self.changes_trimmed > TRIM_CHANGES:
            self.changes_trimmed = changes
            forget()
            with nogil:
                out_free_pools(&self.e.out)
                slots_trim(&self.e)
                events_trim(&self.e)
                for i in range(self.e.accounts_count):
                    routes_drop_idle(self.e.accounts[i], self.e.shards > 1)
                routes_free_dead()
                for i in range(self.e.shards):
                    if i != self.e.shard:
                        ring_give_back(self.e.peers[i].data_out)
                        ring_give_back(self.e.peers[i].control_out)
                mem_trim()

    def take_events(self):
        """What the control side has to know, oldest first; see EVENTS."""
        cdef uint32_t i
        cdef connection_t* c
        cdef event_t* v
        cdef list out = []
        for i in range(self.e.events_count):
            v = &self.e.events[i]
            text = v.text[:v.text_bytes] if v.text != NULL else b""
            free(v.text)
            v.text = NULL
            if v.kind == EVENT_CONNECT:
                out.append((v.kind, v.slot, v.client_id, None if v.number else text))
            elif v.kind == EVENT_CLOSED:
                out.append((v.kind, v.slot, v.client_id, v.number, (
                    v.slot, v.client_id, v.values[0], v.values[1], v.values[2], v.values[3], v.values[4], v.values[5],
                    v.values[6], v.values[7], v.values[8], bool(v.values[9] & CONNECTION_CONNECTED))))
            elif v.kind == EVENT_ATTENTION:
                c = self.find(v.slot, v.client_id)
                if c != NULL:
                    c.flags &= ~<uint32_t>CONNECTION_READY
                    out.append((v.kind, v.slot, v.client_id))
            elif v.kind == EVENT_OUTPUT_END:
                out.append((v.kind, v.client_id, v.number, text))
            elif v.kind == EVENT_SNAPSHOTS_COMPLETE or v.kind == EVENT_NOTE:
                out.append((v.kind,))
            elif v.kind == EVENT_REQUEST or v.kind == EVENT_MESSAGE:
                out.append(message_tuple(v, text))
            elif v.kind == EVENT_PEER:
                out.append((v.kind, v.number, text))
            elif v.kind == EVENT_LATENCY:
                out.append(latency_tuple(v, text))
            elif v.kind == EVENT_LOG:
                out.append((v.kind, v.number, v.slot, v.client_id, text))
            else:
                out.append((v.kind, v.slot, v.client_id, v.number, text))
        self.e.events_count = 0
        self.e.events_bytes = 0
        return out
