# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Imports. Called by the engine for accounts that have any; needs no GIL; accounts without imports never come here.

Streams: the importer's subscription stands, as a shadow, in the exporter's account, so that routing, also to other shards,
knows one account only. The shadow has no sid of its own: what it gets goes to its origin.

Services: a message of the importing account is published anew in the exporting one, with a reply subject that leads back to
this shard: "_R_.<shard and start>.<key>". Each shard has a subscription of the first part in the accounts that it has asked,
told to the others, so an answer comes from wherever the responder is; the key finds who asked, in what account, and under
what reply subject. Keys are a keyed hash of a counter: nobody can guess another's; and an answer counts only in the account
that was asked. Source of the rules: client.go addShadowSubscriptions, processServiceImport; accounts.go.
"""
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset

from shardbroker.hot.accounts cimport account_named
from shardbroker.hot.bytes cimport sb_hash
from shardbroker.hot.connection cimport bury, garbage
from shardbroker.hot.deliver cimport deliver_client, deliver_sink
from shardbroker.hot.engine cimport engine_publish_on
from shardbroker.hot.interest cimport interest_subscribe, interest_unsubscribe
from shardbroker.hot.latency cimport (
    LATENCY_ANSWERED, LATENCY_NOBODY_SERVES, LATENCY_TOO_LATE, latency_begin, latency_end, latency_forget, latency_next_ns,
    latency_refuse, latency_sweep, latency_wanted, responder_t)
from shardbroker.hot.memory cimport mem_alloc, mem_zero
from shardbroker.hot.model cimport (
    CONNECTION_SINK, RESPONSE_SINGLETON, SUBSCRIPTION_CLOSED, SUBSCRIPTION_SHADOW, SUBSCRIPTION_SHADOWED, account_t,
    connection_t, import_t, members_t, response_t, shadow_t, subscription_t)
from shardbroker.hot.permissions cimport pattern_matches
from shardbroker.hot.person cimport TELL_ACCOUNT, TELL_SERVER, with_info
from shardbroker.hot.sink cimport sink_free, sink_new_in, sink_subscribe
from shardbroker.hot.state cimport answer_t, engine_t, message_t
from shardbroker.hot.sublist cimport sublist_queue, sublist_subject, sublist_walk
from shardbroker.hot.transform cimport transform_apply, transform_make

cdef enum:
    KEY_BYTES = 16                      # hexadecimal digits
    ACK_BYTES = 8                       # of ACK

cdef const char* ACK = b"$JS.ACK."


# ---- shadows ----------------------------------------------------------------------------------------------------

cdef inline shadow_t* shadow_of(subscription_t* sub) noexcept nogil:
    return <shadow_t*>(<char*>sub - sizeof(shadow_t))


cdef inline subscription_t* of_shadow(shadow_t* s) noexcept nogil:
    return <subscription_t*>(<char*>s + sizeof(shadow_t))


cdef inline uint32_t bucket_of(engine_t* e, subscription_t* origin) noexcept nogil:
    return <uint32_t>((<uint64_t>origin >> 4) * <uint64_t>0x9E3779B97F4A7C15 >> 32) & (e.shadows_buckets - 1)


cdef void shadows_grow(engine_t* e) noexcept nogil:
    cdef uint32_t old = e.shadows_buckets
    cdef shadow_t** buckets = e.shadows
    cdef shadow_t* s
    cdef shadow_t* following
    cdef uint32_t i
    e.shadows_buckets = old * 2 if old else 64
    e.shadows = <shadow_t**>mem_zero(e.shadows_buckets * sizeof(shadow_t*))
    for i in range(old):
        s = buckets[i]
        while s != NULL:
            following = s.chained
            s.chained = e.shadows[bucket_of(e, s.origin)]
            e.shadows[bucket_of(e, s.origin)] = s
            s = following
    free(buckets)


cdef void shadow_free(subscription_t* sub) noexcept nogil:
    """The memory of a shadow that has been taken out."""
    free(shadow_of(sub))


cdef uint32_t token_at(const char* s, uint32_t start, uint32_t n) noexcept nogil:
    while start < n and s[start] != c'.':
        start += 1
    return start


cdef uint32_t intersect(const char* one, uint32_t n, const char* other, uint32_t m, char* out) noexcept nogil:
    """The pattern of what two valid patterns both match, as long as both together at most; 0: nothing."""
    cdef uint32_t i = 0
    cdef uint32_t k = 0
    cdef uint32_t length = 0
    cdef uint32_t i_end, k_end
    while True:
        i_end = token_at(one, i, n)
        k_end = token_at(other, k, m)
        if i_end - i == 1 and one[i] == c'>':
            memcpy(out + length, other + k, m - k)
            return length + m - k
        if k_end - k == 1 and other[k] == c'>':
            memcpy(out + length, one + i, n - i)
            return length + n - i
        if i_end - i == 1 and one[i] == c'*':
            memcpy(out + length, other + k, k_end - k)
            length += k_end - k
        elif (k_end - k == 1 and other[k] == c'*') or (k_end - k == i_end - i and memcmp(one + i, other + k, i_end - i) == 0):
            memcpy(out + length, one + i, i_end - i)
            length += i_end - i
        else:
            return 0
        if i_end == n or k_end == m:
            return length if i_end == n and k_end == m else 0
        out[length] = c'.'
        length += 1
        i = i_end + 1
        k = k_end + 1


cdef bint exchange_subscribe(engine_t* e, account_t* a, subscription_t* sub, const char* subject, uint32_t n,
                             const char* queue, uint32_t queue_bytes) noexcept nogil:
    """Shadows of a new subscription, in every account from which some of what it wants is imported. Whether telling the
    other shards has to wait."""
    cdef uint32_t i, there_bytes
    cdef import_t* made
    cdef const char* there
    cdef char* common
    cdef shadow_t* s
    cdef subscription_t* shadow
    cdef bint waits = False
    for i in range(a.streams_count):
        made = &a.streams[i]
        common = <char*>mem_alloc(n + made.local_bytes + 2)
        there_bytes = intersect(subject, n, made.local, made.local_bytes, common)
        there = common
        if there_bytes and made.to_remote != NULL:
            there = transform_apply(e, made.to_remote, common, there_bytes, &there_bytes)
        if there_bytes:
            s = <shadow_t*>mem_zero(sizeof(shadow_t) + sizeof(subscription_t) + sub.sid_bytes)
            s.origin = sub
            s.account = made.exporter
            s.import_ = made
            shadow = of_shadow(s)
            shadow.connection = sub.connection
            shadow.flags = SUBSCRIPTION_SHADOW
            shadow.sid_bytes = sub.sid_bytes
            memcpy(shadow.sid, sub.sid, sub.sid_bytes)
            sub.flags |= SUBSCRIPTION_SHADOWED
            if e.shadows_count >= e.shadows_buckets:
                shadows_grow(e)
            e.shadows_count += 1
            s.chained = e.shadows[bucket_of(e, sub)]
            e.shadows[bucket_of(e, sub)] = s
            if interest_subscribe(e, made.exporter, shadow, there, there_bytes, queue, queue_bytes):
                waits = True
        free(common)
    return waits


cdef bint exchange_unsubscribe(engine_t* e, subscription_t* sub) noexcept nogil:
    """Take the shadows of a subscription out. Whether telling the other shards has to wait."""
    cdef shadow_t** at = &e.shadows[bucket_of(e, sub)]
    cdef shadow_t* s
    cdef bint waits = False
    sub.flags &= ~<unsigned short>SUBSCRIPTION_SHADOWED
    while at[0] != NULL:
        s = at[0]
        if s.origin != sub:
            at = &s.chained
            continue
        at[0] = s.chained
        e.shadows_count -= 1
        if interest_unsubscribe(e, s.account, of_shadow(s)):
            waits = True
        bury(e, of_shadow(s))
    return waits


cdef bint exchange_deliver(engine_t* e, message_t* m, subscription_t* sub) noexcept nogil:
    """A message of the exporting account, to the origin of a shadow, under the name that it has there."""
    cdef shadow_t* s = shadow_of(sub)
    cdef subscription_t* origin = s.origin
    cdef message_t before
    cdef bint in_scratch = m.head == e.scratch
    cdef bint done
    # What came by a service import is not exported again (client.go processMsgResults).
    if e.importing or origin.flags & SUBSCRIPTION_CLOSED:
        return False
    before = m[0]
    if s.import_.to_local != NULL:
        m.subject = transform_apply(e, s.import_.to_local, m.subject, m.subject_bytes, &m.subject_bytes)
    if m.shown == NULL and s.import_.to_local != NULL:
        m.head = NULL
    m.account = origin.connection.account
    if origin.connection.flags & CONNECTION_SINK:
        done = deliver_sink(e, m, origin)
    else:
        done = deliver_client(e, m, origin)
    m.account = before.account
    m.subject = before.subject
    m.subject_bytes = before.subject_bytes
    # A head that was written for this one is no head for the others.
    m.head = before.head
    m.head_bytes = before.head_bytes
    if m.shown == NULL and (in_scratch or before.head == NULL):
        m.head = NULL
    return done


# ---- requests to other accounts ---------------------------------------------------------------------------------

cdef void response_unlink(engine_t* e, response_t* r) noexcept nogil:
    """Out of its bucket and its account's list."""
    cdef response_t** at = &e.responses[r.key & (e.responses_buckets - 1)]
    while at[0] != r:
        at = &at[0].chained
    at[0] = r.chained
    e.responses_count -= 1
    r.asker.responses -= 1
    if r.older != NULL:
        r.older.younger = r.younger
    else:
        r.asker.oldest = r.younger
    if r.younger != NULL:
        r.younger.older = r.older
    else:
        r.asker.youngest = r.older


cdef void response_drop(engine_t* e, response_t* r) noexcept nogil:
    """It is answered, or nobody waits for it; a report that is due has been made before."""
    latency_forget(e, r)
    response_unlink(e, r)
    free(r)


cdef response_t* response_find(engine_t* e, uint64_t key) noexcept nogil:
    cdef response_t* r
    if e.responses_count == 0:
        return NULL
    r = e.responses[key & (e.responses_buckets - 1)]
    while r != NULL and r.key != key:
        r = r.chained
    return r


cdef void responses_grow(engine_t* e) noexcept nogil:
    cdef uint32_t old = e.responses_buckets
    cdef response_t** buckets = e.responses
    cdef response_t* r
    cdef response_t* following
    cdef uint32_t i
    e.responses_buckets = old * 2 if old else 64
    e.responses = <response_t**>mem_zero(e.responses_buckets * sizeof(response_t*))
    for i in range(old):
        r = buckets[i]
        while r != NULL:
            following = r.chained
            r.chained = e.responses[r.key & (e.responses_buckets - 1)]
            e.responses[r.key & (e.responses_buckets - 1)] = r
            r = following
    free(buckets)


cdef response_t* response_new(engine_t* e, account_t* asker, account_t* answerer, const char* reply, uint32_t n, int type,
                              uint64_t lasts_ns) noexcept nogil:
    """Remember who asks. The oldest of the same account are forgotten when their time is over, or when there are too many."""
    cdef response_t* r
    while asker.oldest != NULL and (asker.oldest.expires_ns <= e.now_ns or asker.responses >= RESPONSES_MAX):
        latency_end(e, asker.oldest, LATENCY_TOO_LATE, NULL)
        response_drop(e, asker.oldest)
    r = <response_t*>mem_alloc(sizeof(response_t) + n)
    memset(r, 0, sizeof(response_t))
    r.asker = asker
    r.answerer = answerer
    r.type = type
    r.lasts_ns = lasts_ns
    r.expires_ns = e.now_ns + lasts_ns
    r.reply_bytes = n
    memcpy(r.reply, reply, n)
    while True:
        e.response_counter += 1
        r.key = sb_hash(<char*>&e.response_counter, 8, e.header.fingerprint_key[0] ^ e.header.fingerprint_key[1])
        if response_find(e, r.key) == NULL:
            break
    if e.responses_count >= e.responses_buckets:
        responses_grow(e)
    e.responses_count += 1
    asker.responses += 1
    r.chained = e.responses[r.key & (e.responses_buckets - 1)]
    e.responses[r.key & (e.responses_buckets - 1)] = r
    r.older = asker.youngest
    if asker.youngest != NULL:
        asker.youngest.younger = r
    else:
        asker.oldest = r
    asker.youngest = r
    return r


cdef void hex_put(char* out, uint64_t value, int digits) noexcept nogil:
    cdef int i
    for i in range(digits):
        out[digits - 1 - i] = (<const char*>b"0123456789abcdef")[value & 15]
        value >>= 4


cdef bint hex_get(const char* s, int digits, uint64_t* value) noexcept nogil:
    cdef int i
    value[0] = 0
    for i in range(digits):
        if c'0' <= s[i] <= c'9':
            value[0] = value[0] << 4 | <uint64_t>(s[i] - c'0')
        elif c'a' <= s[i] <= c'f':
            value[0] = value[0] << 4 | <uint64_t>(s[i] - c'a' + 10)
        else:
            return False
    return True


cdef void await_answers(engine_t* e, account_t* a) noexcept nogil:
    """Be there for what is published in this account to reply subjects of ours."""
    cdef char subject[32]
    if a.answers != NULL:
        return
    a.answers = sink_new_in(e, a, answer_arrived, NULL)
    memcpy(subject, e.answer_prefix, e.answer_prefix_bytes)
    subject[e.answer_prefix_bytes] = c'>'
    sink_subscribe(e, a.answers, subject, e.answer_prefix_bytes + 1, NULL, 0, 0)


cdef uint32_t forward(engine_t* e, account_t* asker, account_t* answerer, connection_t* c, const char* subject, uint32_t n,
                      const char* shown, uint32_t shown_bytes, const char* reply, uint32_t reply_bytes,
                      int32_t header_bytes, const char* payload, uint32_t payload_bytes, int type, uint64_t lasts_ns,
                      const import_t* made, uint32_t depth) noexcept nogil:
    """Publish in another account, with a reply subject that leads back. To how many it went. shown: as in engine_publish. made:
    the import that a request came by; NULL: it is an answer."""
    cdef char back[64]
    cdef const char* back_at = back
    cdef uint32_t back_bytes = 0
    cdef response_t* r = NULL
    cdef uint64_t key = 0
    cdef uint32_t delivered
    cdef bint importing = e.importing
    cdef bint acknowledges = reply_bytes > ACK_BYTES and memcmp(reply, ACK, ACK_BYTES) == 0
    cdef char* why = NULL
    cdef uint32_t why_bytes = 0
    cdef bint measured = (made != NULL and c != NULL and made.results != NULL
                          and latency_wanted(e, made, header_bytes, payload, &why, &why_bytes))
    if acknowledges:
        # Clients read the place in the stream out of it, and import $JS.ACK.> (client.go processServiceImport).
        back_at = reply
        back_bytes = reply_bytes
    elif reply_bytes:
        await_answers(e, answerer)
        r = response_new(e, asker, answerer, reply, reply_bytes, type, lasts_ns)
        key = r.key
        memcpy(back, e.answer_prefix, e.answer_prefix_bytes)
        hex_put(back + e.answer_prefix_bytes, key, KEY_BYTES)
        back_bytes = e.answer_prefix_bytes + KEY_BYTES
        if measured and type == RESPONSE_SINGLETON:
            latency_begin(e, made, c, r, why, why_bytes)
    elif measured:
        latency_refuse(e, made, c, why, why_bytes)
    free(why)
    e.importing = True
    delivered = engine_publish_on(e, answerer, subject, n, shown, shown_bytes, back_at, back_bytes, header_bytes, payload,
                                  payload_bytes)
    e.importing = importing
    if answerer.services_count and depth < CHAIN_MAX:
        delivered += exchange_request(e, answerer, c, subject, n, back_at, back_bytes, header_bytes, payload, payload_bytes,
                                      made, depth + 1)
    if delivered == 0 and key:
        r = response_find(e, key)
        if r != NULL:
            latency_end(e, r, LATENCY_NOBODY_SERVES, NULL)
            response_drop(e, r)
    return delivered


cdef uint32_t exchange_request(engine_t* e, account_t* a, connection_t* c, const char* subject, uint32_t n, const char* reply,
                               uint32_t reply_bytes, int32_t header_bytes, const char* payload, uint32_t payload_bytes,
                               const import_t* before, uint32_t depth) noexcept nogil:
    """Everything that a message published in this account asks of others. To how many it went there. before: the import that
    it came by; NULL: it was published here."""
    cdef uint32_t i, there_bytes, size
    cdef uint32_t delivered = 0
    cdef import_t* made
    cdef const char* there
    cdef char* text
    cdef char* name
    cdef int32_t headers
    cdef int tell
    cdef account_t* asker = c.account if c != NULL else a
    for i in range(a.services_count):
        made = &a.services[i]
        if not pattern_matches(made.local, made.local_bytes, subject, n):
            continue
        there = subject
        there_bytes = n
        if made.to_remote != NULL:
            there = transform_apply(e, made.to_remote, subject, n, &there_bytes)
        # A chain transforms again.
        name = <char*>mem_alloc(there_bytes + 1)
        memcpy(name, there, there_bytes)
        headers = header_bytes
        size = payload_bytes
        # What a chain tells of who asks is what its first account shares (client.go processServiceImport).
        tell = made.tell if before == NULL else before.tell
        if tell == TELL_ACCOUNT and made.tell != TELL_ACCOUNT:
            tell = TELL_SERVER
        text = with_info(e, c, asker, a if before != NULL and asker != a else NULL, tell, &headers, payload, &size)
        delivered += forward(e, a, made.exporter, c, name, there_bytes, NULL, 0, reply, reply_bytes, headers, text, size,
                             made.response_type, made.response_ns, made, depth)
        free(text)
        free(name)
    return delivered


# ---- answers ----------------------------------------------------------------------------------------------------

cdef void answer_arrived(engine_t* e, message_t* m, subscription_t* sub, void* context) noexcept nogil:
    """Something published to a reply subject of ours: kept for the hook, since a delivery is under way."""
    cdef uint64_t key
    cdef response_t* r
    cdef answer_t* answer
    cdef char* at
    cdef uint32_t shown_bytes = m.shown_bytes if m.shown != NULL else 0
    cdef responder_t responder
    if (m.subject_bytes != e.answer_prefix_bytes + KEY_BYTES
            or not hex_get(m.subject + e.answer_prefix_bytes, KEY_BYTES, &key)):
        return
    r = response_find(e, key)
    if r == NULL or r.answerer != m.account:
        return
    if e.answering != NULL:
        # The answer of a chain: of who answered at its end.
        responder.client_id = e.answering.responder_id
        responder.slot = e.answering.responder_slot
        responder.shard = e.answering.responder_shard
    else:
        responder.client_id = m.client_id
        responder.slot = m.slot
        responder.shard = m.from_shard if m.from_shard >= 0 else <int32_t>e.shard
    if r.expires_ns > e.now_ns:
        latency_end(e, r, LATENCY_ANSWERED, &responder)
        answer = <answer_t*>mem_alloc(sizeof(answer_t) + <size_t>r.reply_bytes + shown_bytes + m.reply_bytes + m.payload_bytes + 1)
        answer.next = NULL
        answer.asker = r.asker
        answer.answerer = r.answerer
        answer.key = key
        answer.type = r.type
        answer.lasts_ns = r.lasts_ns
        answer.responder_id = responder.client_id
        answer.responder_slot = responder.slot
        answer.responder_shard = responder.shard
        answer.subject_bytes = r.reply_bytes
        answer.shown_bytes = shown_bytes
        answer.reply_bytes = m.reply_bytes
        answer.header_bytes = m.header_bytes
        answer.payload_bytes = m.payload_bytes
        at = answer.text
        memcpy(at, r.reply, r.reply_bytes)
        at += r.reply_bytes
        # What a stream delivers is seen under the subject that it was stored under.
        if shown_bytes:
            memcpy(at, m.shown, shown_bytes)
        at += shown_bytes
        if m.reply_bytes:
            memcpy(at, m.reply, m.reply_bytes)
        memcpy(at + m.reply_bytes, m.payload, m.payload_bytes)
        if e.answers_last == NULL:
            e.answers_first = answer
        else:
            e.answers_last.next = answer
        e.answers_last = answer
        e.hooks_at_ns = 0
        r.expires_ns = e.now_ns + r.lasts_ns
    else:
        m.delivered -= 1                # too late: as if nobody were there
        latency_end(e, r, LATENCY_TOO_LATE, NULL)
        response_drop(e, r)
        return
    # One answer, or the empty one that ends several.
    if r.type == RESPONSE_SINGLETON or m.payload_bytes == 0:
        response_drop(e, r)


cdef uint64_t exchange_hook(engine_t* e, void* context) noexcept nogil:
    """Publish what has been answered in the accounts that asked. When it wants to look after those that are not."""
    cdef answer_t* answer
    cdef response_t* r
    cdef uint32_t budget = 0
    cdef uint32_t delivered
    cdef char* shown
    cdef char* reply
    while e.answers_first != NULL:
        answer = e.answers_first
        e.answers_first = answer.next
        if e.answers_first == NULL:
            e.answers_last = NULL
        shown = answer.text + answer.subject_bytes
        reply = shown + answer.shown_bytes
        e.answering = answer
        delivered = forward(e, answer.answerer, answer.asker, NULL, answer.text, answer.subject_bytes,
                            shown if answer.shown_bytes else NULL, answer.shown_bytes, reply, answer.reply_bytes,
                            answer.header_bytes, reply + answer.reply_bytes, answer.payload_bytes, answer.type,
                            answer.lasts_ns, NULL, CHAIN_MAX)
        e.answering = NULL
        e.stall_publisher = False
        e.spilled_now = 0
        if delivered == 0:
            # Nobody waits for it any more.
            r = response_find(e, answer.key)
            if r != NULL:
                response_drop(e, r)
        free(answer)
    if e.measures_first != NULL:
        while True:
            r = latency_sweep(e, &budget)
            if r == NULL:
                break
            response_drop(e, r)
    return latency_next_ns(e)


# ---- what there is to exchange ----------------------------------------------------------------------------------

cdef void imports_drop(engine_t* e, account_t* a) noexcept nogil:
    """Forget the imports; a delivery of this turn may still look at them."""
    cdef uint32_t i, k
    cdef import_t* list
    cdef uint32_t count
    for k in range(2):
        list = a.streams if k == 0 else a.services
        count = a.streams_count if k == 0 else a.services_count
        for i in range(count):
            garbage(e, list[i].local)
            garbage(e, list[i].remote)
            garbage(e, list[i].to_local)
            garbage(e, list[i].to_remote)
            garbage(e, list[i].results)
        garbage(e, list)
    a.streams = NULL
    a.services = NULL
    a.streams_count = 0
    a.services_count = 0


cdef class _Found:
    cdef list subs


cdef void find_origin(void* context, members_t* home, subscription_t* sub) noexcept nogil:
    if sub.flags & (SUBSCRIPTION_CLOSED | SUBSCRIPTION_SHADOW):
        return
    with gil:
        (<_Found>context).subs.append((<uint64_t>home, <uint64_t>sub))


cdef int exchange_set(engine_t* e, account_t* a, list imports) except -1:
    """Other imports: (is a service, exporter's name, local pattern, pattern there, Transform to local or None, Transform to
    there or None, type of responses, ns that they last, how much is told of who asks, where reports of the latency go or
    b"", percent that are measured). Subscriptions that there are get other shadows."""
    cdef _Found found = _Found()
    cdef import_t* made
    cdef subscription_t* sub
    cdef members_t* home
    cdef bytes local, remote, exporter, text, queue
    found.subs = []
    sublist_walk(a, find_origin, <void*>found)
    for _, address in found.subs:
        sub = <subscription_t*><uint64_t>address
        if sub.flags & SUBSCRIPTION_SHADOWED:
            exchange_unsubscribe(e, sub)
    imports_drop(e, a)
    a.streams = <import_t*>mem_zero((len(imports) + 1) * sizeof(import_t))
    a.services = <import_t*>mem_zero((len(imports) + 1) * sizeof(import_t))
    for service, exporter, local, remote, to_local, to_remote, response_type, response_ns, tell, results, sampling in imports:
        made = &a.services[a.services_count] if service else &a.streams[a.streams_count]
        made.exporter = account_named(e, exporter, <uint32_t>len(exporter))
        if made.exporter == NULL:
            continue
        made.local = <char*>mem_alloc(len(local) + 1)
        memcpy(made.local, <char*>local, len(local))
        made.local_bytes = <uint32_t>len(local)
        made.remote = <char*>mem_alloc(len(remote) + 1)
        memcpy(made.remote, <char*>remote, len(remote))
        made.remote_bytes = <uint32_t>len(remote)
        made.to_local = transform_make(to_local) if to_local is not None else NULL
        made.to_remote = transform_make(to_remote) if to_remote is not None else NULL
        made.response_type = response_type
        made.response_ns = response_ns
        made.tell = tell
        made.sampling = sampling
        if results:
            text = results
            made.results = <char*>mem_alloc(len(text) + 1)
            memcpy(made.results, <char*>text, len(text))
            made.results_bytes = <uint32_t>len(text)
        if service:
            a.services_count += 1
            await_answers(e, made.exporter)
        else:
            a.streams_count += 1
    for home_address, address in found.subs:
        sub = <subscription_t*><uint64_t>address
        home = <members_t*><uint64_t>home_address
        text = bytes(sublist_subject(home, NULL))
        sublist_subject(home, <char*>text)
        queue = sublist_queue(home).name[:sublist_queue(home).name_bytes] if sublist_queue(home) != NULL else b""
        exchange_subscribe(e, a, sub, text, <uint32_t>len(text), queue, <uint32_t>len(queue))
    return 0


cdef void exchange_init(engine_t* e) noexcept nogil:
    """What answers to this process are named: its shard, and a number that its predecessors had not."""
    memcpy(e.answer_prefix, b"_R_.", 4)
    hex_put(e.answer_prefix + 4, e.shard, 2)
    hex_put(e.answer_prefix + 6, sb_hash(<char*>&e.epoch, 4, e.header.fingerprint_key[1]), 6)
    e.answer_prefix[12] = c'.'
    e.answer_prefix_bytes = 13
    e.hooks[e.hooks_count].function = exchange_hook
    e.hooks[e.hooks_count].context = NULL
    e.hooks_count += 1


cdef void exchange_free(engine_t* e) noexcept nogil:
    """Before the accounts are freed."""
    cdef uint32_t i
    cdef account_t* a
    cdef answer_t* answer
    for i in range(e.accounts_count):
        a = e.accounts[i]
        if a.answers != NULL:
            sink_free(e, a.answers)
            a.answers = NULL
        while a.oldest != NULL:
            response_drop(e, a.oldest)
        imports_drop(e, a)
    while e.answers_first != NULL:
        answer = e.answers_first
        e.answers_first = answer.next
        free(answer)
    free(e.responses)
    free(e.shadows)
    free(e.transformed)
    free(e.mapped)
