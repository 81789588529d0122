# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Consumers, run: see deliver.pxd. Called once a turn by the hook of the shard; needs no GIL; no system call.

For each message: where it comes from (the redelivery queue, the list of last per subject, the log), who gets it (the push
subject, the request whose turn it is), whether it may go now (limits, window, pace), the publish, and only then what is
remembered of it: a message that found nobody was never delivered.

Only what is durable is delivered: a consumer never shows what a crash could take back.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from shardbroker.hot.bytes cimport sb_digits
from shardbroker.hot.memory cimport mem_alloc, mem_resize
from shardbroker.store.log cimport log_get, log_next
from shardbroker.store.model cimport LOG_MORE, LOG_OK, log_view_t
from shardbroker.stream.acks cimport acks_on_message
from shardbroker.stream.consumer cimport (
    ACK_NONE, EVENT_INACTIVE, EVENT_RESUMED, EVENT_SAVE, FLOW_ID_BYTES, LETTER_ACK, LETTER_FLOW, LETTER_REQUEST,
    MILLISECOND_NS, RETENTION_LIMITS, consumer_changed, consumer_heartbeat, consumer_interest, consumer_refused, consumer_schedule,
    consumer_status, consumer_t, consumer_wake, count_new, entry_changed, entry_due, entry_terminated, hub_event,
    hub_next_ns, hub_t, letter_size, letter_t, request_t, retained_settle, retained_settled, retained_t, timer_remove)
from shardbroker.stream.pending cimport pending_add, pending_due, pending_last_ns, pending_t, pending_wait
from shardbroker.stream.requests cimport request_given, requests_drop_first, requests_next, requests_on_message, requests_sweep

cdef enum:
    RUN_MESSAGES = 512                  # of one consumer in one turn
    RUN_BYTES = 256 << 10
    DUE_MAX = 4096                      # entries whose wait is over, taken in one turn
    BEHIND_MS = 1                       # a receiver does not keep up: tried again then
    SECOND_NS = 1000000000
    REPLAY_LEAST_NS = 1000000           # gaps up to a millisecond are not kept

cdef enum:
    NEXT_FOUND = 0
    NEXT_NONE = 1
    NEXT_STALLED = 2                    # too many are not acknowledged
    NEXT_MORE = 3                       # looked at many that do not match; to be continued


cdef int next_message(consumer_t* c, log_view_t* v, pending_t** again) noexcept nogil:
    """The next message for this consumer; `again` is its entry when it is a redelivery."""
    cdef uint64_t durable = c.stream.log.durable_seq
    cdef int status
    again[0] = NULL
    while c.table.queue.first != NULL:
        if log_get(c.stream.log, c.table.queue.first.seq, v) == LOG_OK:
            again[0] = c.table.queue.first
            return NEXT_FOUND
        entry_terminated(c, c.table.queue.first, b"Unacknowledged message was deleted", 34)
    if c.settings.max_ack_pending and c.table.count >= c.settings.max_ack_pending:
        return NEXT_STALLED
    while c.skips_at < c.skips_count:
        if log_get(c.stream.log, c.skips[c.skips_at], v) == LOG_OK:
            return NEXT_FOUND
        pass_skip(c)
    if c.seq > durable:
        return NEXT_NONE
    status = log_next(c.stream.log, c.seq, c.filter, v)
    if status == LOG_OK and v.seq <= durable:
        return NEXT_FOUND
    # Nothing up to there, but never beyond what is durable: sequences behind it may be given again.
    if status != LOG_MORE or v.seq > durable:
        c.seq = durable + 1
        return NEXT_NONE
    c.seq = v.seq
    return NEXT_MORE


cdef void pass_skip(consumer_t* c) noexcept nogil:
    """The first of the list is done; behind the last, every message counts."""
    c.seq = c.skips[c.skips_at] + 1
    c.skips_at += 1
    if c.skips_at == c.skips_count:
        c.seq = c.skips_resume + 1


cdef uint32_t ack_subject(consumer_t* c, const log_view_t* v, uint64_t deliveries, uint64_t left, char* out) noexcept nogil:
    """$JS.ACK.<stream>.<consumer>.<deliveries>.<seq>.<dseq>.<time>.<pending>"""
    cdef uint32_t n = c.ack_prefix.n
    memcpy(out, c.ack_prefix.bytes, n)
    n += <uint32_t>sb_digits(out + n, deliveries)
    out[n] = c'.'
    n += 1
    n += <uint32_t>sb_digits(out + n, v.seq)
    out[n] = c'.'
    n += 1
    n += <uint32_t>sb_digits(out + n, c.dseq)
    out[n] = c'.'
    n += 1
    n += <uint32_t>sb_digits(out + n, <uint64_t>v.time_ns)
    out[n] = c'.'
    n += 1
    return n + <uint32_t>sb_digits(out + n, left)


cdef void strip_payload(consumer_t* c, log_view_t* v) noexcept nogil:
    """Headers only: the payload's place is taken by a header with its size."""
    cdef hub_t* h = c.hub
    cdef uint32_t kept = <uint32_t>v.header_bytes - 2 if v.header_bytes > 2 else 0
    cdef uint32_t body = v.payload_bytes - (<uint32_t>v.header_bytes if v.header_bytes > 0 else 0)
    cdef char* block = <char*>mem_alloc(kept + 64)
    cdef uint32_t n = kept
    memcpy(block, v.payload, kept)
    if kept == 0:
        memcpy(block, b"NATS/1.0\r\n", 10)
        n = 10
    memcpy(block + n, b"Nats-Msg-Size: ", 15)
    n += 15
    n += <uint32_t>sb_digits(block + n, body)
    memcpy(block + n, b"\r\n\r\n", 4)
    n += 4
    h.host.garbage(h.host.context, block)
    v.payload = block
    v.payload_bytes = n
    v.header_bytes = <int32_t>n
    v.tail = NULL
    v.tail_bytes = 0


# ---- pace -------------------------------------------------------------------------------------------------------

cdef bint held(consumer_t* c, const log_view_t* v, uint64_t size) noexcept nogil:
    """Whether it has to wait: for the original gap between messages, or for the rate limit. Then hold_until_ns is set."""
    cdef uint64_t now = c.hub.now_ns
    cdef double need
    cdef uint64_t due
    if c.replay_to and c.replay_time and v.seq <= c.replay_to and v.time_ns - c.replay_time > REPLAY_LEAST_NS:
        due = c.replay_sent_ns + <uint64_t>(v.time_ns - c.replay_time)
        if due > now:
            c.hold_until_ns = due
            return True
    if c.settings.rate_bytes:
        c.tokens += <double>(now - c.tokens_ns) * <double>c.settings.rate_bytes / SECOND_NS
        c.tokens_ns = now
        if c.tokens > <double>c.settings.rate_burst:
            c.tokens = <double>c.settings.rate_burst
        need = <double>(size if size < c.settings.rate_burst else c.settings.rate_burst)
        if c.tokens < need:
            c.hold_until_ns = now + 1 + <uint64_t>((need - c.tokens) * SECOND_NS / <double>c.settings.rate_bytes)
            return True
        c.tokens -= <double>size
    return False


# ---- flow control -----------------------------------------------------------------------------------------------

cdef void ask_flow(consumer_t* c) noexcept nogil:
    """A message that the client answers when it has worked off what came before it (consumer.go sendFlowControl)."""
    cdef hub_t* h = c.hub
    cdef uint32_t i
    cdef bint behind = False
    if c.flow_prefix.n + 4 > FLOW_ID_BYTES:
        return
    memcpy(c.flow_id, c.flow_prefix.bytes, c.flow_prefix.n)
    c.flow_id_bytes = c.flow_prefix.n
    h.random ^= h.random >> 12
    h.random ^= h.random << 25
    h.random ^= h.random >> 27
    for i in range(4):
        c.flow_id[c.flow_id_bytes] = <char>(c'a' + ((h.random * <uint64_t>0x2545F4914F6CDD1D) >> (32 + 5 * i)) % 26)
        c.flow_id_bytes += 1
    c.flow_bytes = c.unconfirmed_bytes
    h.host.publish(h.host.context, c.stream.account, c.deliver.bytes, c.deliver.n, NULL, 0, c.flow_id, c.flow_id_bytes, 36,
                   b"NATS/1.0 100 FlowControl Request\r\n\r\n", 36, NULL, 0, &behind)


cdef void count_flow(consumer_t* c, uint64_t size) noexcept nogil:
    c.unconfirmed_bytes += size
    if c.flow_id_bytes == 0:
        if c.unconfirmed_bytes > c.window_bytes // 2:
            ask_flow(c)
    elif c.unconfirmed_bytes - c.flow_bytes >= c.window_bytes:
        c.flow_bytes += size


cdef void on_flow(consumer_t* c, const char* subject, uint32_t subject_bytes) noexcept nogil:
    """The answer to the request that is out: the window doubles up to its most (consumer.go processFlowControl)."""
    if subject_bytes != c.flow_id_bytes or memcmp(subject, c.flow_id, subject_bytes) != 0:
        return
    c.window_bytes *= 2
    if c.window_bytes > c.window_bytes_max:
        c.window_bytes = c.window_bytes_max
    c.unconfirmed_bytes -= c.flow_bytes if c.flow_bytes < c.unconfirmed_bytes else c.unconfirmed_bytes
    c.flow_id_bytes = 0
    c.flow_bytes = 0
    consumer_wake(c)


# ---- one delivery -----------------------------------------------------------------------------------------------

cdef void remember(consumer_t* c, const log_view_t* v, pending_t* again) noexcept nogil:
    """It was delivered: position, floors, entry."""
    cdef pending_t* p = again
    cdef uint64_t dseq = c.dseq
    c.dseq += 1
    if again == NULL:
        c.pending -= 1 if c.pending else 0
        if c.skips_at < c.skips_count:
            pass_skip(c)
        else:
            c.seq = v.seq + 1
        if v.seq > c.delivered_seq:
            c.delivered_seq = v.seq
    if c.settings.ack_policy == ACK_NONE:
        c.floor_dseq = dseq
        c.floor_seq = v.seq
        consumer_changed(c)
        if c.stream.retention != RETENTION_LIMITS:
            retained_settled(c.stream, c.hub, v.seq)
        return
    if p == NULL:
        p = pending_add(&c.table, v.seq, dseq)
    else:
        if p.redeliveries == 0:
            c.table.redelivered += 1
        p.redeliveries += 1
    pending_wait(&c.table, p, c.hub.now_ns)
    entry_changed(c, p)


cdef enum:
    DELIVERED = 0
    NOBODY = 1                          # no request, or no subscriber
    HELD = 2
    BEHIND = 3                          # delivered; the receiver does not keep up


cdef int deliver(consumer_t* c, log_view_t* v, pending_t* again, uint64_t* bytes) noexcept nogil:
    cdef hub_t* h = c.hub
    cdef request_t* r = NULL
    cdef char* reply
    cdef uint32_t reply_bytes, n
    cdef uint64_t size
    cdef int64_t bytes_left
    cdef bint behind = False
    cdef bint batch_done = False
    n = c.ack_prefix.n + 128
    if n > h.scratch_capacity:
        h.scratch_capacity = 2 * <size_t>n
        h.scratch = <char*>mem_resize(h.scratch, h.scratch_capacity)
    reply = h.scratch
    reply_bytes = ack_subject(c, v, again.redeliveries + 2 if again != NULL else 1,
                              c.pending - 1 if again == NULL and c.pending else c.pending, reply)
    if c.settings.headers_only:
        strip_payload(c, v)
    size = <uint64_t>v.subject_bytes + reply_bytes + v.payload_bytes
    while True:
        if not c.settings.push:
            r = requests_next(c, size)
            if r == NULL:
                return NOBODY
        if held(c, v, size):
            return HELD
        if c.settings.push:
            n = h.host.publish(h.host.context, c.stream.account, c.deliver.bytes, c.deliver.n, v.subject, v.subject_bytes,
                               reply, reply_bytes, v.header_bytes, v.payload, v.payload_bytes, v.tail, v.tail_bytes, &behind)
            if n == 0:
                consumer_refused(c)
                return NOBODY
            break
        n = h.host.publish(h.host.context, c.stream.account, r.reply, r.reply_bytes, v.subject, v.subject_bytes,
                           reply, reply_bytes, v.header_bytes, v.payload, v.payload_bytes, v.tail, v.tail_bytes, &behind)
        if n:
            break
        requests_drop_first(c)
    h.delivered_msgs += 1
    h.delivered_bytes += size
    bytes[0] += size + 128
    if r != NULL:
        if r.bytes_left > 0:
            # What is left of its bytes; 0 would mean no limit, and then this was its last message.
            r.bytes_left -= <int64_t>size
        if r.left <= 1 and r.bytes_left > 0:
            batch_done = True
            bytes_left = r.bytes_left
    remember(c, v, again)
    if batch_done:
        consumer_status(c, r.reply, r.reply_bytes, b"409 Batch Completed", 0, bytes_left, True)
    if r != NULL:
        request_given(c, r)
    else:
        if c.settings.heartbeat_ns:
            c.heartbeat_next_ns = h.now_ns + c.settings.heartbeat_ns
        if c.window_bytes:
            count_flow(c, <uint64_t>c.deliver.n + reply_bytes + v.payload_bytes)
    c.delivered_time = <int64_t>h.now_ns + h.time_offset
    c.replay_time = v.time_ns
    c.replay_sent_ns = h.now_ns
    return BEHIND if behind else DELIVERED


cdef bint consumer_run(consumer_t* c) noexcept nogil:
    """Deliver what it can within the turn's budget. Whether there may be more to do at once."""
    cdef hub_t* h = c.hub
    cdef log_view_t v
    cdef pending_t* again
    cdef uint64_t bytes = 0
    cdef uint32_t n = 0
    cdef int status, done
    if c.told:
        consumer_interest(c)
    count_new(c)
    c.hold_until_ns = c.hold_until_ns if c.hold_until_ns > h.now_ns else 0
    while True:
        if n >= RUN_MESSAGES or bytes >= RUN_BYTES:
            return True
        if c.hold_until_ns:
            break
        if c.settings.pause_until_ns > h.now_ns:
            status = NEXT_NONE
        elif c.settings.push:
            if not c.active or (c.window_bytes and c.unconfirmed_bytes > c.window_bytes):
                break
            status = next_message(c, &v, &again)
        elif c.requests == NULL:
            break
        else:
            status = next_message(c, &v, &again)
        n += 1
        if status == NEXT_MORE:
            n += 63
            continue
        if status == NEXT_FOUND:
            done = deliver(c, &v, again, &bytes)
            if done == BEHIND:
                c.hold_until_ns = h.now_ns + BEHIND_MS * <uint64_t>MILLISECOND_NS
            if done != NOBODY:
                continue
            break
        # Nothing now. One-shot requests do not wait for more, unless it is acknowledgements that are missing.
        if c.one_shots and status != NEXT_STALLED:
            requests_sweep(c, True)
        break
    return False


# ---- time -------------------------------------------------------------------------------------------------------

cdef void check_inactive(consumer_t* c) noexcept nogil:
    """consumer.go deleteNotActive: nobody listens, asks, or has something in work, for as long as its threshold."""
    cdef uint64_t now = c.hub.now_ns
    cdef uint64_t last
    if c.settings.push and c.active:
        return
    if c.used_ns + c.settings.inactive_ns > now:
        return
    if not c.settings.push:
        if c.requests != NULL:
            requests_sweep(c, True)
            if c.requests != NULL:
                c.used_ns = now
                return
        last = pending_last_ns(&c.table) if c.settings.ack_policy != ACK_NONE else 0
        if last + c.settings.inactive_ns > now and last > c.used_ns:
            c.used_ns = last            # as if it had been used when the last of them is due
            return
    hub_event(c.hub, c, EVENT_INACTIVE, 0, 0, 0, NULL, 0)
    c.used_ns = now                     # should it not be deleted, it is told again


cdef void on_timer(consumer_t* c) noexcept nogil:
    cdef hub_t* h = c.hub
    cdef pending_t* p
    cdef uint32_t n = 0
    timer_remove(c)
    if c.settings.ack_policy != ACK_NONE:
        while n < DUE_MAX:
            p = pending_due(&c.table, h.now_ns)
            if p == NULL:
                break
            entry_due(c, p)
            n += 1
    if c.settings.pause_until_ns and c.settings.pause_until_ns <= h.now_ns:
        c.settings.pause_until_ns = 0
        hub_event(h, c, EVENT_RESUMED, 0, 0, 0, NULL, 0)
    if c.requests_next_ns and c.requests_next_ns <= h.now_ns:
        requests_sweep(c, True)
    if c.settings.push:
        if c.interest_next_ns and c.interest_next_ns <= h.now_ns:
            consumer_interest(c)
        if c.heartbeat_next_ns and c.heartbeat_next_ns <= h.now_ns:
            if c.active:
                consumer_heartbeat(c, c.deliver.bytes, c.deliver.n)
            c.heartbeat_next_ns = h.now_ns + c.settings.heartbeat_ns
    if c.settings.inactive_ns:
        check_inactive(c)
    consumer_wake(c)


# ---- a turn -----------------------------------------------------------------------------------------------------

cdef void read_inbox(hub_t* h) noexcept nogil:
    """What sinks took in. Delivering an answer may bring more: that goes to the other buffer, for the next run."""
    cdef char* p = h.inbox
    cdef size_t n = h.inbox_bytes
    cdef size_t capacity = h.inbox_capacity
    cdef size_t at = 0
    cdef letter_t* l
    cdef const char* text
    h.inbox = h.inbox_spare
    h.inbox_capacity = h.inbox_spare_capacity
    h.inbox_bytes = 0
    while at < n:
        l = <letter_t*>(p + at)
        at += letter_size(l)
        if l.consumer == NULL:
            continue
        text = <const char*>(l + 1)
        if l.kind == LETTER_ACK:
            acks_on_message(l.consumer, text, l.subject_bytes, text + l.subject_bytes, l.reply_bytes,
                            text + l.subject_bytes + l.reply_bytes, l.payload_bytes)
        elif l.kind == LETTER_REQUEST:
            requests_on_message(l.consumer, text + l.subject_bytes, l.reply_bytes, text + l.subject_bytes + l.reply_bytes,
                                l.payload_bytes)
        elif l.kind == LETTER_FLOW:
            on_flow(l.consumer, text, l.subject_bytes)
        elif l.reply_bytes:
            consumer_status(l.consumer, text + l.subject_bytes, l.reply_bytes, b"412 Required Api Level", 0, 0, False)
    h.inbox_spare = p
    h.inbox_spare_capacity = capacity


cdef uint64_t hub_run(hub_t* h, uint64_t now_ns, int64_t time_ns) noexcept nogil:
    """One turn of all consumers that have something to do: what came in, whose time has come, deliveries, removals.
    Bounded: what is left makes it ask to be run again at once."""
    cdef consumer_t* c
    cdef consumer_t* list
    cdef retained_t* s
    h.announced = True                  # what is announced meanwhile is seen below
    h.now_ns = now_ns
    h.time_offset = time_ns - <int64_t>now_ns
    if h.inbox_bytes:
        read_inbox(h)
    while h.timers_count and h.timers[0].timer_ns <= now_ns:
        on_timer(h.timers[0])
    list = h.run_first
    h.run_first = h.run_last = NULL
    while list != NULL:
        c = list
        list = c.run_next
        c.runnable = False
        if consumer_run(c):
            consumer_wake(c)
        consumer_schedule(c)
    while h.settled != NULL:
        s = h.settled
        h.settled = s.settled_next
        s.settling = False
        retained_settle(s)
    if h.dirty != NULL and (h.save_wanted or not h.save_asked):
        h.save_asked = True
        hub_event(h, NULL, EVENT_SAVE, h.save_wanted, 0, 0, NULL, 0)
    h.announced = False
    if h.run_first != NULL or h.inbox_bytes:
        return 0
    return hub_next_ns(h)
