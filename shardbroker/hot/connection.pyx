# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Connections of one shard. Called by the engine and the loop; needs no GIL; no system call.

Nothing is freed while a message is being delivered: a closed connection keeps its place until the loop has closed the
socket at the end of the turn, and subscriptions wait in a list of the dead. An idle connection costs this struct and
its descriptor; everything else is allocated when it is needed and given back when it is not.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, strlen

from shardbroker.hot.bytes cimport SB_SLACK
from shardbroker.hot.deliver cimport mark_dirty
from shardbroker.hot.exchange cimport exchange_unsubscribe, shadow_free
from shardbroker.hot.interest cimport interest_unsubscribe
from shardbroker.hot.memory cimport mem_alloc, mem_resize, mem_zero, slab_free
from shardbroker.hot.model cimport (
    CONNECTION_CLOSING, CONNECTION_FILTERED, CONNECTION_HELD, CONNECTION_OPEN, CONNECTION_PEDANTIC, CONNECTION_READY,
    CONNECTION_RESTRICTED, CONNECTION_STALLED, CONNECTION_TRANSPORT, CONNECTION_VERBOSE, SUBSCRIPTION_CLOSED,
    SUBSCRIPTION_SHADOW, SUBSCRIPTION_SHADOWED, connection_t, permissions_t, subscription_t)
from shardbroker.hot.outbound cimport out_append, out_drop, out_sent
from shardbroker.hot.permissions cimport replies_free
from shardbroker.hot.sids cimport sid_at, sid_clear, sid_remove, sids_end, sids_free, subscription_bytes
from shardbroker.hot.state cimport (
    EVENT_ATTENTION, EVENT_CLOSED, EVENT_TRACE, REAP_CONNECTION, REAP_SUBSCRIPTIONS, engine_t, event_t)

cdef enum:
    SIDS_FIRST = 4


# ---- the table --------------------------------------------------------------------------------------------------

cdef connection_t* connection_new(engine_t* e, int fd, uint64_t client_id) noexcept nogil:
    """A connection with the options that hold before CONNECT (client.go defaultOpts)."""
    cdef connection_t* c = <connection_t*>mem_zero(sizeof(connection_t))
    cdef uint32_t capacity
    if e.slots_free_count:
        e.slots_free_count -= 1
        c.slot = e.slots_free[e.slots_free_count]
    else:
        if e.connections_count == e.connections_capacity:
            capacity = e.connections_capacity * 2 if e.connections_capacity else 64
            e.connections = <connection_t**>mem_resize(e.connections, capacity * sizeof(connection_t*))
            e.slots_free = <uint32_t*>mem_resize(e.slots_free, capacity * sizeof(uint32_t))
            e.connections_capacity = capacity
        c.slot = e.connections_count
        e.connections_count += 1
    e.connections[c.slot] = c
    c.fd = fd
    c.client_id = client_id
    c.account = e.account
    c.max_payload = e.limits.max_payload
    c.max_subscriptions = e.limits.max_subscriptions
    c.account.connections += 1
    c.flags = CONNECTION_OPEN | CONNECTION_VERBOSE | CONNECTION_PEDANTIC
    c.spans = &c.spans_inline[0]
    c.spans_capacity = 1
    c.started_ns = e.now_ns
    c.activity_ns = e.now_ns
    c.in_ns = e.now_ns
    c.ping_next_ns = e.now_ns + e.limits.ping_interval_ns
    e.stats.connections += 1
    e.stats.connections_total += 1
    return c


cdef void connection_free(engine_t* e, connection_t* c) noexcept nogil:
    """After connection_close, with no subscription left and out of every list."""
    out_drop(&e.out, c)
    connection_restrict(e, c, NULL)
    c.account.closed_in_msgs += c.in_msgs
    c.account.closed_in_bytes += c.in_bytes
    c.account.closed_out_msgs += c.out_msgs
    c.account.closed_out_bytes += c.out_bytes
    free(c.partial)
    sids_free(c)
    free(c.first_pong_info)
    free(c.info)
    e.connections[c.slot] = NULL
    e.slots_free[e.slots_free_count] = c.slot
    e.slots_free_count += 1
    free(c)


cdef void slots_trim(engine_t* e) noexcept nogil:
    """Give back the end of the table that no connection is in."""
    cdef uint32_t i
    cdef uint32_t kept = 0
    cdef uint32_t capacity = 64
    while e.connections_count and e.connections[e.connections_count - 1] == NULL:
        e.connections_count -= 1
    for i in range(e.slots_free_count):
        if e.slots_free[i] < e.connections_count:
            e.slots_free[kept] = e.slots_free[i]
            kept += 1
    e.slots_free_count = kept
    while capacity < e.connections_count:
        capacity *= 2
    if capacity < e.connections_capacity:
        e.connections = <connection_t**>mem_resize(e.connections, capacity * sizeof(connection_t*))
        e.slots_free = <uint32_t*>mem_resize(e.slots_free, capacity * sizeof(uint32_t))
        e.connections_capacity = capacity


cdef void connection_close(engine_t* e, connection_t* c, uint32_t reason) noexcept nogil:
    """From now on nothing is parsed and nothing is added to its output; what is queued still goes out this turn."""
    if c.flags & CONNECTION_CLOSING:
        return
    c.flags |= CONNECTION_CLOSING
    c.close_reason = reason
    c.subscriptions_closed = c.subscriptions
    c.close_next = e.reaping
    e.reaping = c
    c.account.connections -= 1
    e.stats.connections -= 1
    e.stats.closed_total += 1


cdef void connection_restrict(engine_t* e, connection_t* c, permissions_t* p) noexcept nogil:
    """What it may do from now on; NULL: everything. Subscriptions that it has are not looked at."""
    replies_free(c)
    if c.permissions != NULL:
        c.permissions.references -= 1
    c.permissions = p
    c.flags &= ~<uint32_t>(CONNECTION_RESTRICTED | CONNECTION_FILTERED)
    if p != NULL:
        p.references += 1
        c.flags |= CONNECTION_RESTRICTED
        if p.responses:
            c.flags |= CONNECTION_FILTERED


cdef bint connections_reap(engine_t* e) noexcept nogil:
    """Take the subscriptions of closed connections out, a bounded number a turn, of a bounded number of connections; those
    that have none left go to e.closing. Whether more remains."""
    cdef uint32_t budget = REAP_SUBSCRIPTIONS
    cdef connection_t* c
    cdef subscription_t* sub
    cdef uint32_t i
    while e.reaping != NULL and budget:
        c = e.reaping
        i = 0
        while c.subscriptions and budget and i < sids_end(c):
            sub = sid_at(c, i)
            if sub != NULL:
                # The tables stay as they are but for this entry: nothing looks sids up any more.
                budget -= 1
                c.subscriptions -= 1
                if sub.flags & SUBSCRIPTION_SHADOWED:
                    exchange_unsubscribe(e, sub)
                interest_unsubscribe(e, c.account, sub)
                bury(e, sub)
                sid_clear(c, i)
            i += 1
        if c.subscriptions:
            break
        e.reaping = c.close_next
        budget -= REAP_CONNECTION if budget > REAP_CONNECTION else budget
        event_push(e, EVENT_CLOSED, c, <int>c.close_reason, NULL, 0)
        c.close_next = e.closing
        e.closing = c
    return e.reaping != NULL


cdef void connection_row(connection_t* c, uint64_t* row) noexcept nogil:
    """What monitoring shows of a connection; the order of engine.CONNECTION_FIELDS from in_msgs on."""
    row[0] = c.in_msgs
    row[1] = c.in_bytes
    row[2] = c.out_msgs
    row[3] = c.out_bytes
    row[4] = c.pending_bytes
    row[5] = c.subscriptions_closed if c.flags & CONNECTION_CLOSING else c.subscriptions
    row[6] = c.rtt_ns
    row[7] = c.activity_ns
    row[8] = c.stalls
    row[9] = c.flags


# ---- what a connection is sent outside of messages --------------------------------------------------------------

cdef void connection_send(engine_t* e, connection_t* c, const char* data, size_t n) noexcept nogil:
    if c.flags & CONNECTION_CLOSING:
        return
    out_append(&e.out, c, data, n)
    mark_dirty(e, c)
    if e.limits.trace and n > 2 and data[n - 1] == c'\n' and data[0] != c'\r':
        event_push(e, EVENT_TRACE, c, 1, data, n - 2)


cdef void connection_error(engine_t* e, connection_t* c, const char* text) noexcept nogil:
    """-ERR 'text'."""
    connection_violation(e, c, text, NULL, 0, b"")


cdef size_t quote(char* out, const char* name, uint32_t n) noexcept nogil:
    """A name as Go's %q would quote it; at most 4 n + 2 bytes."""
    cdef size_t at = 1
    cdef uint32_t i
    cdef char b
    out[0] = c'"'
    for i in range(n):
        b = name[i]
        if b == c'"' or b == c'\\':
            out[at] = c'\\'
            out[at + 1] = b
            at += 2
        elif 0 <= b < 32 or b == 127:
            out[at] = c'\\'
            out[at + 1] = c'x'
            out[at + 2] = (<const char*>b"0123456789abcdef")[(b >> 4) & 15]
            out[at + 3] = (<const char*>b"0123456789abcdef")[b & 15]
            at += 4
        else:
            out[at] = b
            at += 1
    out[at] = c'"'
    return at + 1


cdef void connection_violation(engine_t* e, connection_t* c, const char* what, const char* name, uint32_t name_bytes,
                               const char* behind) noexcept nogil:
    """-ERR 'what "name"behind'."""
    connection_violation_queue(e, c, what, name, name_bytes, behind, NULL, 0)


cdef void connection_violation_queue(engine_t* e, connection_t* c, const char* what, const char* name, uint32_t name_bytes,
                                     const char* behind, const char* queue, uint32_t queue_bytes) noexcept nogil:
    """-ERR 'what "name"behind"queue"'."""
    cdef size_t n = strlen(what)
    cdef size_t m = strlen(behind)
    cdef size_t at = 6
    cdef char* text = <char*>mem_alloc(n + m + 4 * (<size_t>name_bytes + queue_bytes) + 16)
    memcpy(text, b"-ERR '", 6)
    memcpy(text + at, what, n)
    at += n
    if name != NULL:
        at += quote(text + at, name, name_bytes)
    memcpy(text + at, behind, m)
    at += m
    if queue != NULL:
        at += quote(text + at, queue, queue_bytes)
    memcpy(text + at, b"'\r\n", 3)
    connection_send(e, c, text, at + 3)
    free(text)


cdef void connection_ok(engine_t* e, connection_t* c) noexcept nogil:
    connection_send(e, c, b"+OK\r\n", 5)


# ---- input that has to wait -------------------------------------------------------------------------------------

cdef void connection_keep(engine_t* e, connection_t* c, const char* p, size_t n, size_t need) noexcept nogil:
    """Keep n unparsed bytes; `need` is the length of the operation they begin, when it is known."""
    cdef size_t capacity = need if need > n else n
    c.partial = <char*>mem_alloc(capacity + SB_SLACK)
    memcpy(c.partial, p, n)
    c.partial_bytes = <uint32_t>n
    c.partial_need = <uint32_t>need


cdef void connection_keep_behind(engine_t* e, connection_t* c, const char* p, size_t n) noexcept nogil:
    """Put n bytes behind the kept input, none of which has been parsed."""
    cdef char* joined
    if c.flags & CONNECTION_CLOSING:
        return
    joined = <char*>mem_alloc(c.partial_bytes + n + SB_SLACK)
    if c.partial != NULL:
        memcpy(joined, c.partial, c.partial_bytes)
        free(c.partial)
    memcpy(joined + c.partial_bytes, p, n)
    c.partial = joined
    c.partial_bytes += <uint32_t>n
    c.partial_need = 0


cdef void connection_sent(engine_t* e, connection_t* c, size_t n) noexcept nogil:
    """Its socket, or its transport, took the first n bytes of its output."""
    out_sent(&e.out, c, n)
    if c.write_deadline_ns:
        if n >= c.write_deadline_bytes:
            c.write_deadline_ns = 0
        else:
            c.write_deadline_bytes -= n


cdef void connection_wait(engine_t* e, connection_t* c, uint32_t flag) noexcept nogil:
    """Stop reading and parsing until the engine takes `flag` (STALLED or HELD) away again."""
    if c.flags & (CONNECTION_STALLED | CONNECTION_HELD) == 0:
        c.wait_next = e.waiting
        e.waiting = c
    c.flags |= flag


cdef void connection_ready(engine_t* e, connection_t* c) noexcept nogil:
    """Put it at the end of the list of connections to read from; of a transport, tell the control side."""
    if c.flags & CONNECTION_READY:
        return
    c.flags |= CONNECTION_READY
    if c.flags & CONNECTION_TRANSPORT:
        event_push(e, EVENT_ATTENTION, c, 0, NULL, 0)
        return
    c.ready_next = NULL
    if e.ready_last == NULL:
        e.ready_first = c
    else:
        e.ready_last.ready_next = c
    e.ready_last = c


# ---- subscriptions --------------------------------------------------------------------------------------------

cdef void unsubscribe(engine_t* e, subscription_t* sub) noexcept nogil:
    """Take a subscription out of the sublist and its connection; freed at the end of the turn."""
    cdef connection_t* c = sub.connection
    if sub.flags & SUBSCRIPTION_CLOSED:
        return
    sub.flags |= SUBSCRIPTION_CLOSED
    sid_remove(e, c, sub)
    if sub.flags & SUBSCRIPTION_SHADOWED and exchange_unsubscribe(e, sub):
        connection_wait(e, c, CONNECTION_HELD)
    if interest_unsubscribe(e, c.account, sub):
        connection_wait(e, c, CONNECTION_HELD)
    bury(e, sub)


# ---- what is freed later ----------------------------------------------------------------------------------------

cdef void bury(engine_t* e, subscription_t* sub) noexcept nogil:
    sub.flags |= SUBSCRIPTION_CLOSED
    if e.dead_count == e.dead_capacity:
        e.dead_capacity = e.dead_capacity * 2 if e.dead_capacity else 64
        e.dead = <subscription_t**>mem_resize(e.dead, e.dead_capacity * sizeof(subscription_t*))
    e.dead[e.dead_count] = sub
    e.dead_count += 1


cdef void garbage(engine_t* e, void* block) noexcept nogil:
    """Free a block after the flush: output may refer to it until then."""
    if block == NULL:
        return
    if e.garbage_count == e.garbage_capacity:
        e.garbage_capacity = e.garbage_capacity * 2 if e.garbage_capacity else 16
        e.garbage = <void**>mem_resize(e.garbage, e.garbage_capacity * sizeof(void*))
    e.garbage[e.garbage_count] = block
    e.garbage_count += 1


cdef void free_dead(engine_t* e) noexcept nogil:
    """At the end of a turn."""
    cdef uint32_t i
    for i in range(e.dead_count):
        if e.dead[i].flags & SUBSCRIPTION_SHADOW:
            shadow_free(e.dead[i])
        else:
            slab_free(e.dead[i], subscription_bytes(e.dead[i].sid_bytes))
    e.dead_count = 0
    if e.dead_capacity > 65536:
        free(e.dead)
        e.dead = NULL
        e.dead_capacity = 0


# ---- events for the control side --------------------------------------------------------------------------------

cdef void events_trim(engine_t* e) noexcept nogil:
    """Give the table of a burst back."""
    if e.events_count == 0:
        free(e.events)
        e.events = NULL
        e.events_capacity = 0


cdef void event_push(engine_t* e, int kind, connection_t* c, int number, const char* text, size_t n) noexcept nogil:
    cdef event_t* v
    if e.events_count == e.events_capacity:
        e.events_capacity = e.events_capacity * 2 if e.events_capacity else 64
        e.events = <event_t*>mem_resize(e.events, e.events_capacity * sizeof(event_t))
    v = &e.events[e.events_count]
    e.events_count += 1
    e.events_bytes += n
    v.kind = kind
    v.number = number
    v.slot = c.slot if c != NULL else 0
    v.client_id = c.client_id if c != NULL else 0
    v.text = NULL
    v.text_bytes = n
    if n:
        v.text = <char*>mem_alloc(n)
        memcpy(v.text, text, n)
    if kind == EVENT_CLOSED:
        connection_row(c, v.values)
