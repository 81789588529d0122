# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Streams, native: see capture.pxd. Nothing here needs the GIL for a message without headers of the broker's own.

Such a message goes from the delivery straight into the log, and its acknowledgement from the end of a turn straight into
the publisher's output. What needs more (Nats-* headers, transforms, republishing) is queued, in order and with everything
that follows it, and Python takes the queue as one batch in the same turn (stream.py).

A publisher that outruns the disk is slowed: over BACKLOG_BYTES that are not on the disk, its connection is not read for a
moment at a time, on whatever shard it is.
"""
from libc.stdint cimport int16_t, int32_t, int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memchr, memcmp, memcpy, memmove, memset
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from shardbroker.hot.bytes cimport SB_NEVER, sb_digits, sb_unlikely
from shardbroker.hot.connection cimport event_push
from shardbroker.hot.engine cimport Engine, engine_hook, engine_publish
from shardbroker.hot.memory cimport mem_alloc, mem_resize
from shardbroker.hot.model cimport connection_t, subscription_t
from shardbroker.hot.accounts cimport account_named
from shardbroker.hot.sink cimport sink_free, sink_new_in, sink_subscribe
from shardbroker.hot.state cimport EVENT_NOTE, engine_t, message_t
from shardbroker.store.format cimport counted_bytes, record_subject, record_t
from shardbroker.store.handle cimport Log, Store
from shardbroker.store.log cimport (
    log_append, log_deadline, log_get, log_last_for, log_seq_at, log_next, log_skip, log_submit, log_tick)
from shardbroker.store.model cimport (
    LOG_FAILED, LOG_MAX_BYTES, LOG_MAX_MSGS, LOG_MAX_MSGS_PER_SUBJECT, LOG_MORE, LOG_NO_SPACE, LOG_OK,
    REMOVED_MAX_AGE, REMOVED_PURGED, REMOVED_TTL, REMOVED_UNWRITTEN, log_t, log_view_t)
from shardbroker.store.writer cimport store_collect

cdef extern from "<string.h>" nogil:
    void* memmem(const void* haystack, size_t haystack_bytes, const void* needle, size_t needle_bytes)

cdef enum:
    ALONE_NS = 5000000
    BACKLOG_BYTES = 32 << 20            # a disk writes that in about 0.1 s
    ANSWERS_A_TURN = 16                 # some 10 us with their write
    BACKLOG_MSGS = 1 << 18
    HEADER_BYTES_MAX = 65535            # math.MaxUint16, as nats-server
    STREAM_NAME_TOKENS = 5              # $JS.API.DIRECT.GET.<stream>.<key>
    ANSWER_ROOM = 64
    TIME_BYTES = 40
    TICK_NS_MAX = 1000000000


# ---- time -------------------------------------------------------------------------------------------------------

cdef int64_t streams_now(streams_t* h) noexcept nogil:
    """Unix time in ns, read once a turn."""
    cdef timespec t
    if h.clock_turn != h.e.turn:
        h.clock_turn = h.e.turn
        clock_gettime(CLOCK_REALTIME, &t)
        h.now_ns = <int64_t>t.tv_sec * 1000000000 + <int64_t>t.tv_nsec
    return h.now_ns


cdef inline void two(char* p, uint32_t v) noexcept nogil:
    p[0] = <char>(c'0' + v // 10)
    p[1] = <char>(c'0' + v % 10)


cdef uint32_t write_time(char* p, int64_t ns) noexcept nogil:
    """RFC 3339 in UTC with as many digits of a second as are needed (Go's RFC3339Nano); at most 30 bytes. From 1970 on."""
    cdef int64_t seconds = ns // 1000000000
    cdef uint32_t rest = <uint32_t>(ns % 1000000000)
    cdef int64_t days = seconds // 86400
    cdef uint32_t of_day = <uint32_t>(seconds % 86400)
    # Days since 1970 to a date: eras of 400 years that begin in March
    cdef int64_t z = days + 719468
    cdef int64_t era = z // 146097
    cdef uint32_t doe = <uint32_t>(z - era * 146097)
    cdef uint32_t yoe = (doe - doe // 1460 + doe // 36524 - doe // 146096) // 365
    cdef uint32_t doy = doe - (365 * yoe + yoe // 4 - yoe // 100)
    cdef uint32_t mp = (5 * doy + 2) // 153
    cdef uint32_t day = doy - (153 * mp + 2) // 5 + 1
    cdef uint32_t month = mp + 3 if mp < 10 else mp - 9
    cdef uint32_t year = <uint32_t>(yoe + era * 400) + (1 if month <= 2 else 0)
    cdef uint32_t n = 19
    cdef uint32_t unit
    two(p, year // 100)
    two(p + 2, year % 100)
    p[4] = c'-'
    two(p + 5, month)
    p[7] = c'-'
    two(p + 8, day)
    p[10] = c'T'
    two(p + 11, of_day // 3600)
    p[13] = c':'
    two(p + 14, of_day // 60 % 60)
    p[16] = c':'
    two(p + 17, of_day % 60)
    if rest:
        p[n] = c'.'
        n += 1
        unit = 100000000
        while rest:
            p[n] = <char>(c'0' + rest // unit)
            rest %= unit
            unit //= 10
            n += 1
    p[n] = c'Z'
    return n + 1


# ---- answers ----------------------------------------------------------------------------------------------------

cdef void acks_grow(stream_t* s) noexcept nogil:
    cdef uint32_t capacity = s.acks_capacity * 2 if s.acks_capacity else 64
    cdef ack_t* acks = <ack_t*>mem_alloc(capacity * sizeof(ack_t))
    cdef uint32_t i
    for i in range(s.acks_count):
        acks[i] = s.acks[(s.acks_first + i) & (s.acks_capacity - 1)]
    free(s.acks)
    s.acks = acks
    s.acks_capacity = capacity
    s.acks_first = 0


cdef char* ack_room(stream_t* s, uint64_t n) noexcept nogil:
    """n bytes behind those of the answers that wait."""
    cdef uint64_t gone
    cdef uint32_t i
    if s.acks_count == 0:
        s.ack_bytes_used = 0
    if s.ack_bytes_used + n > s.ack_bytes_capacity:
        gone = s.acks[s.acks_first].at if s.acks_count else 0
        if gone > s.ack_bytes_capacity // 2:
            # Half of it is answered: the rest moves up.
            memmove(s.ack_bytes, s.ack_bytes + gone, s.ack_bytes_used - gone)
            s.ack_bytes_used -= gone
            for i in range(s.acks_count):
                s.acks[(s.acks_first + i) & (s.acks_capacity - 1)].at -= gone
        if s.ack_bytes_used + n > s.ack_bytes_capacity:
            s.ack_bytes_capacity = 2 * (s.ack_bytes_used + n) + 1024
            s.ack_bytes = <char*>mem_resize(s.ack_bytes, s.ack_bytes_capacity)
    return s.ack_bytes + s.ack_bytes_used


cdef void stream_answer(stream_t* s, uint64_t seq, const char* reply, uint32_t reply_bytes, int refused, const char* text,
                        uint32_t text_bytes) noexcept nogil:
    """An answer to `reply`: the acknowledgement of `seq` once that is durable; or with `refused` a prepared text; or with
    text_bytes that text, once `seq` is durable (0: at once, but after what was asked before)."""
    if reply_bytes and s.flags & STREAM_NO_ACK == 0:
        stream_send(s, seq, reply, reply_bytes, refused, text, text_bytes, -1)


cdef void stream_send(stream_t* s, uint64_t seq, const char* reply, uint32_t reply_bytes, int refused, const char* text,
                      uint32_t text_bytes, int32_t header_bytes) noexcept nogil:
    """The same of any message, whether the stream acknowledges or not."""
    cdef ack_t* a
    cdef char* p
    if reply_bytes > 65535:
        return
    p = ack_room(s, <uint64_t>reply_bytes + text_bytes)
    if reply_bytes:
        memcpy(p, reply, reply_bytes)
    if text_bytes:
        memcpy(p + reply_bytes, text, text_bytes)
    if s.acks_count == s.acks_capacity:
        acks_grow(s)
    a = &s.acks[(s.acks_first + s.acks_count) & (s.acks_capacity - 1)]
    s.acks_count += 1
    a.seq = seq
    a.at = s.ack_bytes_used
    a.reply_bytes = <uint16_t>reply_bytes
    a.refused = <int16_t>refused
    a.text_bytes = text_bytes
    a.header_bytes = header_bytes
    s.ack_bytes_used += <uint64_t>reply_bytes + text_bytes
    mark(s)


cdef bint answer_some(stream_t* s) noexcept nogil:
    """Send answers whose time has come, in the order of the questions. A sync makes a thousand due at once, for which
    light connections would wait half a millisecond: while one was heard of lately, a turn sends ANSWERS_A_TURN and a part of
    the others, so that as many go as come. Whether there are more."""
    cdef streams_t* h = s.home
    cdef engine_t* e = h.e
    cdef uint32_t left = s.acks_count
    if e.light_until_ns >= e.now_ns:
        left = ANSWERS_A_TURN + s.acks_count // 24
    cdef log_t* log = s.log
    cdef ack_t* a
    cdef const char* text
    cdef uint32_t n
    cdef int refused
    while s.acks_count:
        a = &s.acks[s.acks_first]
        refused = a.refused
        if a.seq > log.durable_seq and refused == 0:
            if log.state != LOG_FAILED:
                break
            refused = REFUSED_FAILED
        if left == 0:
            return True
        left -= 1
        if refused:
            text = s.texts[refused]
            n = s.texts_bytes[refused]
        elif a.text_bytes:
            text = s.ack_bytes + a.at + a.reply_bytes
            n = a.text_bytes
        else:
            n = s.answer_bytes
            n += sb_digits(s.answer + n, a.seq)
            s.answer[n] = c'}'
            n += 1
            text = s.answer
        engine_publish(e, s.account, s.ack_bytes + a.at, a.reply_bytes, NULL, 0, NULL, 0,
                       a.header_bytes if refused == 0 else -1, text, n)
        s.acks_first = (s.acks_first + 1) & (s.acks_capacity - 1)
        s.acks_count -= 1
    if s.acks_count == 0 and s.ack_bytes_capacity > 1 << 20:
        free(s.ack_bytes)
        s.ack_bytes = NULL
        s.ack_bytes_capacity = 0
        free(s.acks)
        s.acks = NULL
        s.acks_capacity = 0
        s.acks_first = 0
    return False


# ---- in ---------------------------------------------------------------------------------------------------------

cdef inline void mark(stream_t* s) noexcept nogil:
    """Have the hook look at it at the end of this turn."""
    if not s.dirty:
        s.dirty = True
        s.dirty_next = s.home.dirty
        s.home.dirty = s
        if not s.home.running:
            s.home.e.hooks_at_ns = 0


cdef void stream_touch(stream_t* s) noexcept nogil:
    """Its log was changed: submit that at the end of this turn."""
    s.touched = True
    mark(s)


cdef inline void note(streams_t* h) noexcept nogil:
    """Have Python called after this turn."""
    if not h.noted:
        h.noted = True
        event_push(h.e, EVENT_NOTE, NULL, 0, NULL, 0)


cdef int refusal(log_t* log) noexcept nogil:
    """The prepared answer for what log_append said."""
    if log.error == LOG_MAX_MSGS:
        return REFUSED_MAX_MSGS
    if log.error == LOG_MAX_BYTES:
        return REFUSED_MAX_BYTES
    if log.error == LOG_MAX_MSGS_PER_SUBJECT:
        return REFUSED_MAX_PER_SUBJECT
    if log.error == LOG_NO_SPACE:
        return REFUSED_NO_SPACE
    if log.error == LOG_FAILED:
        return REFUSED_FAILED
    return REFUSED_RECORD


cdef void count_used(streams_t* h, quota_t* q) noexcept nogil:
    """What the messages of an account come to on this shard."""
    cdef stream_t* s = h.first
    q.used[0] = q.used[1] = 0
    while s != NULL:
        if s.quota == q:
            q.used[s.log.storage != 0] += <int64_t>s.log.bytes
        s = s.next


cdef bint over_quota(stream_t* s, uint64_t more) noexcept nogil:
    """Whether so many bytes more are over what the account may have (wouldExceedLimits). What makes room by going counts
    from the next turn on."""
    cdef quota_t* q = s.quota
    cdef int kind = s.log.storage != 0
    if q.most[kind] < 0:
        return False
    if q.turn != s.home.e.turn:
        q.turn = s.home.e.turn
        count_used(s.home, q)
    if q.used[kind] + q.elsewhere[kind] + <int64_t>more > q.most[kind]:
        return True
    q.used[kind] += <int64_t>more
    return False


cdef uint64_t store_message(stream_t* s, const char* subject, uint32_t subject_bytes, int32_t header_bytes,
                            const char* payload, uint32_t payload_bytes, int64_t time_ns, int64_t ttl_ns,
                            int* refused) noexcept nogil:
    """The limits of a stream, in the order of processJetStreamMsg, and the log. The sequence, or 0 and *refused."""
    cdef log_t* log = s.log
    cdef uint64_t seq
    refused[0] = 0
    if sb_unlikely(s.flags & (STREAM_SEALED | STREAM_STOPPED) != 0):
        refused[0] = REFUSED_SEALED if s.flags & STREAM_SEALED else REFUSED_RESOURCES
        return 0
    if sb_unlikely(s.max_msg_size >= 0 and <int64_t>payload_bytes > s.max_msg_size):
        refused[0] = REFUSED_TOO_LARGE
        return 0
    if sb_unlikely(header_bytes > HEADER_BYTES_MAX):
        refused[0] = REFUSED_HEADERS
        return 0
    if sb_unlikely(s.flags & STREAM_INTEREST != 0) and (
            s.wants == NULL or not s.wants(s.consumers, subject, subject_bytes)):
        # Nobody wants it: its sequence is used, the message is not kept.
        seq = log.next_seq
        if log_skip(log, seq + 1) != LOG_OK:
            refused[0] = REFUSED_FAILED
            return 0
        s.touched = True
        return seq
    if sb_unlikely(s.quota.limited) and over_quota(s, counted_bytes(log.storage != 0, subject_bytes, header_bytes,
                                                                    payload_bytes)):
        refused[0] = REFUSED_ACCOUNT
        return 0
    seq = log_append(log, subject, subject_bytes, header_bytes, payload, payload_bytes,
                     time_ns if time_ns else streams_now(s.home), ttl_ns)
    s.touched = True
    if sb_unlikely(seq == 0):
        refused[0] = refusal(log)
        return 0
    s.stored_msgs += 1
    s.stored_bytes += payload_bytes
    return seq


cdef inline bint needs_python(message_t* m) noexcept nogil:
    """Whether its headers say anything to the broker: Nats-* names, a status behind the version."""
    return (m.header_bytes < 12 or memcmp(m.payload, b"NATS/1.0\r\n", 10) != 0
            or memmem(m.payload, <size_t>m.header_bytes, b"\nNats-", 6) != NULL)


cdef void enqueue(stream_t* s, message_t* m) noexcept nogil:
    cdef queued_t* q = <queued_t*>mem_alloc(sizeof(queued_t) + m.subject_bytes + m.reply_bytes + m.payload_bytes)
    cdef char* p = <char*>q + sizeof(queued_t)
    q.next = NULL
    q.subject_bytes = m.subject_bytes
    q.reply_bytes = m.reply_bytes
    q.payload_bytes = m.payload_bytes
    q.header_bytes = m.header_bytes
    memcpy(p, m.subject, m.subject_bytes)
    if m.reply_bytes:
        memcpy(p + m.subject_bytes, m.reply, m.reply_bytes)
    memcpy(p + m.subject_bytes + m.reply_bytes, m.payload, m.payload_bytes)
    if s.queued_last == NULL:
        s.queued_first = q
    else:
        s.queued_last.next = q
    s.queued_last = q
    s.queued_count += 1
    note(s.home)


cdef void on_message(engine_t* e, message_t* m, subscription_t* sub, void* context) noexcept nogil:
    """The sink of a stream's subjects."""
    cdef stream_t* s = <stream_t*>context
    cdef uint64_t seq
    cdef int refused
    if s.flags & STREAM_CLOSED:
        return
    mark(s)
    if s.log.next_seq - s.log.durable_seq > s.backlog_max:
        e.stall_publisher = True
    if (s.queued_first != NULL or s.flags & STREAM_BY_PYTHON
            or (m.header_bytes > 0 and needs_python(m))):
        enqueue(s, m)
        return
    seq = store_message(s, m.subject, m.subject_bytes, m.header_bytes, m.payload, m.payload_bytes, 0, 0, &refused)
    if m.reply_bytes:
        stream_answer(s, seq, m.reply, m.reply_bytes, refused, NULL, 0)


# ---- direct gets ------------------------------------------------------------------------------------------------

cdef inline void get_push(stream_t* s, const char* key, uint32_t key_bytes, uint64_t seq, message_t* m) noexcept nogil:
    cdef get_t* g = <get_t*>mem_alloc(sizeof(get_t) + key_bytes + m.reply_bytes)
    cdef streams_t* h = s.home
    g.next = NULL
    g.stream = s
    g.key_bytes = key_bytes
    g.reply_bytes = m.reply_bytes
    g.seq = seq
    memcpy(<char*>g + sizeof(get_t), key, key_bytes)
    if m.reply_bytes:
        memcpy(<char*>g + sizeof(get_t) + key_bytes, m.reply, m.reply_bytes)
    if h.gets_last == NULL:
        h.gets_first = g
    else:
        h.gets_last.next = g
    h.gets_last = g
    if not h.running:
        h.e.hooks_at_ns = 0


cdef uint64_t plain_seq(const char* p, uint32_t n) noexcept nogil:
    """N of {"seq":N} with single blanks or none around it; 0: something else, which Python reads."""
    cdef uint32_t i = 7
    cdef uint64_t v = 0
    if n < 9 or memcmp(p, b"{\"seq\":", 7) != 0:
        return 0
    if p[i] == c' ':
        i += 1
    if i == n or p[i] == c'0':
        return 0
    while i < n and c'0' <= p[i] <= c'9' and v < <uint64_t>1 << 59:
        v = v * 10 + <uint64_t>(p[i] - c'0')
        i += 1
    return v if i + 1 == n and p[i] == c'}' else 0


cdef inline bint by_key(const char* p, uint32_t n, const char** key, uint32_t* key_bytes) noexcept nogil:
    """Whether it is {"last_by_subj":"KEY"} with a KEY that needs no unquoting and is literal."""
    cdef uint32_t at = 17
    cdef uint32_t i
    if n < 20 or memcmp(p, b"{\"last_by_subj\":", 16) != 0:
        return False
    if p[16] == c' ':
        at = 18
    if p[at - 1] != c'"' or p[n - 1] != c'}' or p[n - 2] != c'"' or n - 2 <= at:
        return False
    for i in range(at, n - 2):
        if p[i] == c'"' or p[i] == c'\\' or p[i] == c'*' or p[i] == c'>' or <unsigned char>p[i] < 33:
            return False
    key[0] = p + at
    key_bytes[0] = n - 2 - at
    return True


cdef void on_get(engine_t* e, message_t* m, subscription_t* sub, void* context) noexcept nogil:
    """The sink of direct gets: the last of a literal subject and a sequence are answered natively."""
    cdef stream_t* s = <stream_t*>context
    cdef const char* key = NULL
    cdef uint32_t key_bytes = 0
    cdef uint64_t seq
    if s.flags & STREAM_CLOSED or m.reply_bytes == 0:
        return
    if m.header_bytes < 0 and s.queued_first == NULL:
        if sub == s.get_by_subject:
            key = m.subject + s.get_prefix_bytes
            key_bytes = m.subject_bytes - s.get_prefix_bytes
            if (m.payload_bytes == 0 and memchr(key, c'*', key_bytes) == NULL
                    and memchr(key, c'>', key_bytes) == NULL):
                get_push(s, key, key_bytes, 0, m)
                return
        else:
            seq = plain_seq(m.payload, m.payload_bytes)
            if seq:
                get_push(s, NULL, 0, seq, m)
                return
            if by_key(m.payload, m.payload_bytes, &key, &key_bytes):
                get_push(s, key, key_bytes, 0, m)
                return
    # Everything else is for Python, in order with what waits for it.
    mark(s)
    enqueue(s, m)


cdef void answer_get(engine_t* e, stream_t* s, log_view_t* v, const char* reply, uint32_t reply_bytes) noexcept nogil:
    """A message with the headers that say where it stands (getDirectRequest)."""
    cdef size_t head = v.header_bytes - 2 if v.header_bytes > 0 else 10
    cdef size_t body_at = <size_t>v.header_bytes if v.header_bytes > 0 else 0
    cdef size_t need = head + v.subject_bytes + v.payload_bytes + s.name_bytes + 160
    cdef char* block = <char*>mem_alloc(need)
    cdef char* p = block
    if v.header_bytes > 0:
        memcpy(p, v.payload, head)
    else:
        memcpy(p, b"NATS/1.0\r\n", 10)
    p += head
    memcpy(p, b"Nats-Stream: ", 13)
    p += 13
    memcpy(p, s.name, s.name_bytes)
    p += s.name_bytes
    memcpy(p, b"\r\nNats-Subject: ", 16)
    p += 16
    memcpy(p, v.subject, v.subject_bytes)
    p += v.subject_bytes
    memcpy(p, b"\r\nNats-Sequence: ", 17)
    p += 17
    p += sb_digits(p, v.seq)
    memcpy(p, b"\r\nNats-Time-Stamp: ", 19)
    p += 19
    p += write_time(p, v.time_ns)
    memcpy(p, b"\r\n\r\n", 4)
    p += 4
    head = p - block
    memcpy(p, v.payload + body_at, v.payload_bytes - body_at)
    p += v.payload_bytes - body_at
    engine_publish(e, s.account, reply, reply_bytes, NULL, 0, NULL, 0, <int32_t>head, block, <uint32_t>(p - block))
    free(block)


cdef void answer_gets(streams_t* h) noexcept nogil:
    cdef get_t* g
    cdef log_view_t v
    cdef const char* key
    cdef const char* reply
    cdef int status
    while h.gets_first != NULL:
        g = h.gets_first
        h.gets_first = g.next
        if h.gets_first == NULL:
            h.gets_last = NULL
        key = <const char*>g + sizeof(get_t)
        reply = key + g.key_bytes
        if g.stream.flags & STREAM_CLOSED == 0:
            if g.seq:
                status = log_get(g.stream.log, g.seq, &v)
            else:
                status = log_last_for(g.stream.log, key, g.key_bytes, &v)
            if status == LOG_OK:
                answer_get(h.e, g.stream, &v, reply, g.reply_bytes)
            else:
                engine_publish(h.e, g.stream.account, reply, g.reply_bytes, NULL, 0, NULL, 0, 34,
                               b"NATS/1.0 404 Message Not Found\r\n\r\n", 34)
        free(g)


cdef void drop_gets(streams_t* h, stream_t* s) noexcept nogil:
    """Forget the questions to a stream that is closed."""
    cdef get_t** at = &h.gets_first
    cdef get_t* g
    h.gets_last = NULL
    while at[0] != NULL:
        g = at[0]
        if g.stream == s:
            at[0] = g.next
            free(g)
        else:
            h.gets_last = g
            at = &g.next


# ---- the log's callbacks ----------------------------------------------------------------------------------------

cdef void on_durable(void* context, log_t* log) noexcept nogil:
    mark(<stream_t*>context)


cdef void on_removed(void* context, log_t* log, uint64_t seq, const char* subject, uint32_t subject_bytes,
                     bint subject_empty, int reason) noexcept nogil:
    cdef stream_t* s = <stream_t*>context
    mark(s)
    s.touched = True
    if reason == REMOVED_UNWRITTEN:
        # It never got to the disk: whoever waits for its acknowledgement is told. Sequences in the ring ascend.
        unwritten(s, seq)
        return
    if reason == REMOVED_PURGED:
        s.purged = True
    if s.on_gone != NULL:
        s.on_gone(s.consumers, seq, subject, subject_bytes, reason)
    if sb_unlikely(subject_empty and s.flags & STREAM_MARKERS
                   and (reason == REMOVED_MAX_AGE or reason == REMOVED_TTL)):
        with gil:
            ended(s, subject[:subject_bytes], header_of(log.removing))
        note(s.home)


cdef void unwritten(stream_t* s, uint64_t seq) noexcept nogil:
    cdef uint32_t i
    cdef ack_t* a
    for i in range(s.acks_count):
        a = &s.acks[(s.acks_first + i) & (s.acks_capacity - 1)]
        if a.seq == seq and a.refused == 0:
            a.refused = REFUSED_NO_SPACE
            a.seq = 0


cdef bytes header_of(const record_t* r):
    if r == NULL or r.header_bytes <= 0:
        return b""
    cdef const char* block = record_subject(r) + r.subject_bytes + r.sizes_bytes
    return block[:r.header_bytes]


cdef void ended(stream_t* s, bytes subject, bytes block) noexcept:
    (<Capture>s.capture).ended.append((subject, block))


cdef void on_damage(void* context, log_t* log, uint64_t first, uint64_t last) noexcept nogil:
    mark(<stream_t*>context)


# ---- the end of a turn ------------------------------------------------------------------------------------------

cdef bint finish(stream_t* s) noexcept nogil:
    """Whether something is left for the next turn."""
    cdef bint more = False
    if s.flags & STREAM_CLOSED:
        return False
    if s.touched:
        s.touched = False
        log_submit(s.log)
        # How many messages BACKLOG_BYTES are, as large as they come
        s.backlog_max = BACKLOG_BYTES // (s.stored_bytes // (s.stored_msgs + 1) + 1) + 16
        if s.backlog_max > BACKLOG_MSGS:
            s.backlog_max = BACKLOG_MSGS
    if s.acks_count:
        more = answer_some(s)
    if s.purged:
        s.purged = False
        if s.on_purged != NULL:
            s.on_purged(s.consumers)
    if s.log.durable_seq != s.told_seq:
        s.told_seq = s.log.durable_seq
        if s.flags & STREAM_FOLLOWED:
            note(s.home)
        if s.on_stored != NULL:
            s.on_stored(s.consumers)
    return more


cdef uint64_t look_at_ages(streams_t* h) noexcept nogil:
    """What is too old goes; when to look again, monotonic."""
    cdef stream_t* s = h.first
    cdef int64_t now = streams_now(h)
    cdef int64_t deadline
    cdef uint64_t wait = TICK_NS_MAX
    while s != NULL:
        deadline = log_deadline(s.log)
        if deadline and deadline <= now:
            if log_tick(s.log, now) == LOG_MORE:
                wait = 0
            s.touched = True
            mark(s)
            deadline = log_deadline(s.log)
        if deadline:
            if deadline <= now:
                wait = 0
            elif <uint64_t>(deadline - now) < wait:
                wait = <uint64_t>(deadline - now)
        s = s.next
    return h.e.now_ns + wait


cdef uint64_t hook(engine_t* e, void* context) noexcept nogil:
    """Everything that a turn has left to do for streams."""
    cdef streams_t* h = <streams_t*>context
    cdef stream_t* s
    cdef stream_t* later = NULL
    cdef bint more
    if h.store == NULL:
        return SB_NEVER
    h.running = True
    store_collect(h.store)
    if h.first != NULL and h.tick_at_ns <= e.now_ns:
        h.tick_at_ns = look_at_ages(h)
    # Nothing in here closes a stream (that is Python's, between turns), so those in `later` are in no list that a close looks at.
    # Whoever publishes alone need not wait for a thread to wake; others' requests need not wait for the disk.
    h.store.at_once = e.now_ns - e.alone_since_ns > ALONE_NS and e.ready_first == NULL
    while h.dirty != NULL:
        s = h.dirty
        h.dirty = s.dirty_next
        s.dirty = False
        more = finish(s)
        if h.store.did_at_once:
            store_collect(h.store)
        if more and not s.dirty:
            s.dirty = True
            s.dirty_next = later
            later = s
    h.dirty = later
    h.store.at_once = False
    if h.gets_first != NULL:
        answer_gets(h)
    h.running = False
    if h.dirty != NULL:
        return 0
    if h.first == NULL:
        return SB_NEVER
    return h.tick_at_ns


# ---- the Python face --------------------------------------------------------------------------------------------

cdef class Streams:
    """The native side of a shard's streams: a hook of `engine`, over `store`. Shard thread only."""

    def __cinit__(self, Engine engine, Store store):
        memset(&self.h, 0, sizeof(streams_t))
        self.engine = engine
        self.store = store
        self.h.e = &engine.e
        self.h.store = store.store
        self.h.clock_turn = <uint64_t>-1
        engine_hook(&engine.e, hook, &self.h)

    def now(self):
        """Unix time in ns, as messages of this turn get it."""
        return streams_now(&self.h)

    def work(self):
        """The captures that have something for Python: queued messages, ended subjects."""
        cdef stream_t* s = self.h.first
        cdef list found = []
        cdef Capture c
        self.h.noted = False
        while s != NULL:
            c = <Capture>s.capture
            if s.queued_first != NULL or c.ended or s.flags & STREAM_FOLLOWED:
                found.append(c)
            s = s.next
        return found

    def usage(self):
        """(bytes in files, bytes in memory) of all streams."""
        cdef stream_t* s = self.h.first
        cdef uint64_t files = 0
        cdef uint64_t memory = 0
        while s != NULL:
            if s.log.storage == 0:
                files += s.log.bytes
            else:
                memory += s.log.bytes
            s = s.next
        return files, memory

    def stop(self):
        """The store is about to be closed, while the loop may turn once more: nothing is done here any more."""
        self.h.store = NULL

    def stop_storage(self, bint memory, bint stopped):
        """Refuse messages to all streams of one storage, whatever their account, or take them again."""
        cdef stream_t* s = self.h.first
        while s != NULL:
            if (s.log.storage != 0) == memory:
                if stopped:
                    s.flags |= STREAM_STOPPED
                else:
                    s.flags &= ~<uint32_t>STREAM_STOPPED
            s = s.next


cdef class Quota:
    """What the messages of one account may take; of its streams on one shard, all of which have it."""

    def __cinit__(self):
        memset(&self.q, 0, sizeof(quota_t))
        self.q.most[0] = self.q.most[1] = -1
        self.q.turn = <uint64_t>-1

    def limit(self, int64_t files, int64_t memory):
        """Bytes at the most; negative: no limit."""
        self.q.most[0] = files
        self.q.most[1] = memory
        self.q.limited = files >= 0 or memory >= 0

    def elsewhere(self, int64_t files, int64_t memory):
        """What the other shards have of it."""
        self.q.elsewhere[0] = files
        self.q.elsewhere[1] = memory

    def used(self):
        """(bytes in files, bytes in memory) here."""
        if self.home == NULL:
            return 0, 0
        count_used(self.home, &self.q)
        return self.q.used[0], self.q.used[1]


cdef class Capture:
    """The native side of one stream over `log`, which it owns the callbacks of."""

    def __cinit__(self, Streams streams, Log log, owner, bytes account, Quota quota, bytes name, bytes answer, list texts):
        """account: whose messages it takes; quota: that account's. name: the stream's. answer: what an acknowledgement
        begins with, up to the sequence. texts: REFUSED_COUNT prepared answers."""
        cdef int i
        memset(&self.s, 0, sizeof(stream_t))
        self.streams = streams
        self.log = log
        self.owner = owner
        self.ended = []
        self.texts = [bytes(text) for text in texts]
        if len(texts) != REFUSED_COUNT:
            raise ValueError("one text for each refusal")
        for i in range(REFUSED_COUNT):
            self.s.texts[i] = <char*>(<bytes>self.texts[i])
            self.s.texts_bytes[i] = <uint32_t>len(self.texts[i])
        self.s.home = &streams.h
        self.quota = quota
        self.s.quota = &quota.q
        quota.home = &streams.h
        self.s.capture = <void*>self
        self.s.account = account_named(streams.h.e, account, <uint32_t>len(account))
        if self.s.account == NULL:
            raise ValueError(f"no room for the account {account!r}")
        self.name = name
        self.s.name = <char*>name
        self.s.name_bytes = <uint32_t>len(name)
        self.s.log = log.log
        self.s.max_msg_size = -1
        self.s.backlog_max = BACKLOG_MSGS // 16
        self.s.told_seq = log.log.durable_seq
        self.s.answer = <char*>mem_alloc(len(answer) + ANSWER_ROOM)
        self.s.answer_bytes = <uint32_t>len(answer)
        memcpy(self.s.answer, <char*>answer, len(answer))
        log.log.context = &self.s
        log.log.on_durable = on_durable
        log.log.on_removed = on_removed
        log.log.on_damage = on_damage
        self.s.next = streams.h.first
        if self.s.next != NULL:
            self.s.next.previous = &self.s
        streams.h.first = &self.s
        streams.h.tick_at_ns = 0
        streams.h.e.hooks_at_ns = 0

    def __dealloc__(self):
        if self.streams is not None:
            self.close()
        free(self.s.answer)
        free(self.s.acks)
        free(self.s.ack_bytes)

    def configure(self, *, bint no_ack, bint sealed, bint by_python, bint interest, bint markers, int64_t max_msg_size):
        """What the stream's configuration asks of it from now on."""
        cdef uint32_t flags = self.s.flags & (STREAM_STOPPED | STREAM_CLOSED | STREAM_FOLLOWED)
        if no_ack:
            flags |= STREAM_NO_ACK
        if sealed:
            flags |= STREAM_SEALED
        if by_python:
            flags |= STREAM_BY_PYTHON
        if interest:
            flags |= STREAM_INTEREST
        if markers:
            flags |= STREAM_MARKERS
        self.s.flags = flags
        self.s.max_msg_size = max_msg_size if max_msg_size > 0 else -1
        self.streams.h.tick_at_ns = 0
        self.touch()

    def subscribe(self, list subjects):
        """Take what is published to these subjects from now on, and to no others."""
        cdef connection_t* c
        cdef bytes subject
        if self.s.sink != NULL:
            sink_free(self.streams.h.e, self.s.sink)
            self.s.sink = NULL
        if not subjects or self.s.flags & STREAM_CLOSED:
            return
        c = sink_new_in(self.streams.h.e, self.s.account, on_message, &self.s)
        self.s.sink = c
        for subject in subjects:
            sink_subscribe(self.streams.h.e, c, subject, <uint32_t>len(subject), NULL, 0, 0)

    def serve_gets(self, list names):
        """Answer direct gets under these stream names (its own; with mirror_direct its origin's too); none: do not."""
        cdef connection_t* c
        cdef bytes subject
        cdef engine_t* e = self.streams.h.e
        if self.s.gets != NULL:
            sink_free(e, self.s.gets)
            self.s.gets = NULL
            self.s.get_by_subject = NULL
        if not names or self.s.flags & STREAM_CLOSED:
            return
        c = sink_new_in(e, self.s.account, on_get, &self.s)
        self.s.gets = c
        for name in names:
            # As members of a queue group: a stream and its mirrors share them (jsDirectGet, "_sys_" groups).
            subject = b"$JS.API.DIRECT.GET." + name
            sink_subscribe(e, c, subject, <uint32_t>len(subject), b"_dg_", 4, 0)
            subject += b".>"
            if self.s.get_by_subject == NULL:
                self.s.get_by_subject = sink_subscribe(e, c, subject, <uint32_t>len(subject), b"_dg_", 4, 0)
                self.s.get_prefix_bytes = <uint32_t>len(subject) - 1
            else:
                sink_subscribe(e, c, subject, <uint32_t>len(subject), b"_dg_", 4, 0)

    def follow(self, bint wanted):
        """Have the owner called (Streams.work) when more is durable."""
        if wanted:
            self.s.flags |= STREAM_FOLLOWED
        else:
            self.s.flags &= ~<uint32_t>STREAM_FOLLOWED

    def purged(self):
        """All that was in the log is gone: tell the consumers, who are not told of each message."""
        self.s.purged = True
        stream_touch(&self.s)

    def touch(self):
        """The log was changed from Python: submit it in this turn."""
        stream_touch(&self.s)

    def batch(self):
        """Queued messages, oldest first: (subject, reply, headers, payload). They are taken."""
        cdef queued_t* q
        cdef const char* p
        cdef uint32_t head
        cdef list out = []
        while self.s.queued_first != NULL:
            q = self.s.queued_first
            p = <const char*>q + sizeof(queued_t)
            head = <uint32_t>q.header_bytes if q.header_bytes > 0 else 0
            out.append((p[:q.subject_bytes], p[q.subject_bytes:q.subject_bytes + q.reply_bytes],
                        p[q.subject_bytes + q.reply_bytes:q.subject_bytes + q.reply_bytes + head],
                        p[q.subject_bytes + q.reply_bytes + head:
                          q.subject_bytes + q.reply_bytes + q.payload_bytes]))
            self.s.queued_first = q.next
            free(q)
        self.s.queued_last = NULL
        self.s.queued_count = 0
        return out

    def take_ended(self):
        """Subjects whose last message has aged out since the last call."""
        out, self.ended = self.ended, []
        return out

    def store(self, bytes subject, bytes headers, bytes payload, bytes reply=b"", int64_t ttl_ns=0, int64_t time_ns=0):
        """Store a message under the stream's limits and answer `reply`: its sequence, 0 when it was refused."""
        cdef uint64_t seq
        cdef int refused
        cdef bytes whole = headers + payload if headers else payload
        mark(&self.s)
        seq = store_message(&self.s, subject, <uint32_t>len(subject), <int32_t>len(headers) if headers else -1, whole,
                            <uint32_t>len(whole), time_ns, ttl_ns, &refused)
        stream_answer(&self.s, seq, reply, <uint32_t>len(reply), refused, NULL, 0)
        return seq

    def answer(self, bytes reply, bytes text, uint64_t after=0):
        """Answer `reply` with a text: after what was asked before, and once sequence `after` is durable."""
        stream_answer(&self.s, after, reply, <uint32_t>len(reply), 0, text, <uint32_t>len(text))
        mark(&self.s)

    def send(self, bytes subject, bytes headers, bytes payload, uint64_t after=0):
        """Publish a message of the stream's own, in order with its answers, once sequence `after` is durable."""
        cdef bytes whole = headers + payload
        stream_send(&self.s, after, subject, <uint32_t>len(subject), 0, whole, <uint32_t>len(whole),
                    <int32_t>len(headers) if headers else -1)

    def msg_ids(self, int64_t since_ns):
        """(sequence, time, id) of the messages since then that have a Nats-Msg-Id, oldest first."""
        cdef log_view_t v
        cdef uint64_t seq = log_seq_at(self.s.log, since_ns)
        cdef const char* at
        cdef const char* end
        cdef int status
        cdef list out = []
        while seq < self.s.log.next_seq:
            status = log_next(self.s.log, seq, NULL, &v)
            if status == LOG_MORE:
                seq = v.seq
                continue
            if status != LOG_OK:
                break
            seq = v.seq + 1
            if v.header_bytes <= 0:
                continue
            at = <const char*>memmem(v.payload, <size_t>v.header_bytes, b"\nNats-Msg-Id:", 13)
            if at != NULL:
                at += 13
                end = <const char*>memchr(at, c'\r', <size_t>(v.payload + v.header_bytes - at))
                if end != NULL:
                    out.append((v.seq, v.time_ns, at[:end - at].strip(b" ")))
        return out

    @property
    def stored(self):
        """(messages, payload bytes) stored since it was opened."""
        return self.s.stored_msgs, self.s.stored_bytes

    @property
    def waiting_answers(self):
        return self.s.acks_count

    def close(self):
        """Take no more messages and answer nothing more. The log is the caller's to close, afterwards."""
        cdef streams_t* h = self.s.home
        cdef stream_t** at
        if self.s.flags & STREAM_CLOSED:
            return
        self.subscribe([])
        self.serve_gets([])
        self.s.flags |= STREAM_CLOSED
        self.batch()
        drop_gets(h, &self.s)
        if self.s.next != NULL:
            self.s.next.previous = self.s.previous
        if self.s.previous != NULL:
            self.s.previous.next = self.s.next
        else:
            h.first = self.s.next
        at = &h.dirty
        while at[0] != NULL:
            if at[0] == &self.s:
                at[0] = self.s.dirty_next
                break
            at = &at[0].dirty_next
        self.s.dirty = False
        if self.log.log != NULL:
            self.log.log.context = NULL
            self.log.log.on_durable = NULL
            self.log.log.on_removed = NULL
            self.log.log.on_damage = NULL
