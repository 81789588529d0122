# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Permissions of users. Called by the engine for connections that have any; needs no GIL; allocates only for the caches,
once, and for replies that may be answered.

One permissions_t is shared by all connections with equal permissions. Answers are kept by subject, with the subject itself,
so that a hash that collides opens nothing. Source of the rules: nats-server's client.go pubAllowedFullCheck, canSubscribe,
queueMatches, checkDenySub, setResponsePermissionIfNeeded. One difference: there `SUB foo.>` passes for an allowed `foo.*`
(the wildcard is matched as if it were a literal token); here all that a subscription can match must be allowed.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, qsort
from libc.string cimport memcmp, memcpy

from shardbroker.hot.bytes cimport sb_hash
from shardbroker.hot.memory cimport mem_alloc, mem_resize, mem_zero
from shardbroker.hot.model cimport (
    CACHED_BYTES_MAX, cached_t, connection_t, pattern_t, patterns_t, permissions_t, replies_t, reply_t)
from shardbroker.hot.state cimport engine_t
from shardbroker.hot.sublist cimport SUBJECT_PATTERN, subject_check


# ---- patterns ---------------------------------------------------------------------------------------------------

cdef inline uint32_t token_end(const char* s, uint32_t at, uint32_t n) noexcept nogil:
    while at < n and s[at] != c'.':
        at += 1
    return at


cdef inline bint is_token(const char* s, uint32_t at, uint32_t end, char wildcard) noexcept nogil:
    return end - at == 1 and s[at] == wildcard


cdef bint pattern_matches(const char* pattern, uint32_t pattern_bytes, const char* subject, uint32_t n) noexcept nogil:
    """Whether a pattern matches a subject whose tokens are all taken as they stand."""
    cdef uint32_t p = 0
    cdef uint32_t s = 0
    cdef uint32_t p_end, s_end
    while True:
        p_end = token_end(pattern, p, pattern_bytes)
        s_end = token_end(subject, s, n)
        if s_end == s:
            return False                # an empty token matches nothing
        if p_end == pattern_bytes and is_token(pattern, p, p_end, c'>'):
            return not has_empty(subject, s, n)
        if not is_token(pattern, p, p_end, c'*'):
            if p_end - p != s_end - s or memcmp(pattern + p, subject + s, s_end - s) != 0:
                return False
        if p_end == pattern_bytes or s_end == n:
            return p_end == pattern_bytes and s_end == n
        p = p_end + 1
        s = s_end + 1


cdef bint has_empty(const char* subject, uint32_t at, uint32_t n) noexcept nogil:
    cdef uint32_t i
    if at >= n or subject[n - 1] == c'.':
        return True
    for i in range(at + 1, n):
        if subject[i] == c'.' and subject[i - 1] == c'.':
            return True
    return False


cdef bint pattern_covers(const char* pattern, uint32_t pattern_bytes, const char* inner, uint32_t n) noexcept nogil:
    """Whether all that `inner` (a pattern too) matches is matched by the pattern."""
    cdef uint32_t p = 0
    cdef uint32_t s = 0
    cdef uint32_t p_end, s_end
    while True:
        p_end = token_end(pattern, p, pattern_bytes)
        s_end = token_end(inner, s, n)
        if s_end == s:
            return False
        if p_end == pattern_bytes and is_token(pattern, p, p_end, c'>'):
            return not has_empty(inner, s, n)
        if s_end == n and is_token(inner, s, s_end, c'>'):
            return False
        if not is_token(pattern, p, p_end, c'*'):
            if p_end - p != s_end - s or memcmp(pattern + p, inner + s, s_end - s) != 0:
                return False
        if p_end == pattern_bytes or s_end == n:
            return p_end == pattern_bytes and s_end == n
        p = p_end + 1
        s = s_end + 1


cdef bint patterns_collide(const char* one, uint32_t one_bytes, const char* other, uint32_t n) noexcept nogil:
    """Whether some subject matches both of two valid patterns."""
    cdef uint32_t p = 0
    cdef uint32_t s = 0
    cdef uint32_t p_end, s_end
    while True:
        p_end = token_end(one, p, one_bytes)
        s_end = token_end(other, s, n)
        if is_token(one, p, p_end, c'>') or is_token(other, s, s_end, c'>'):
            return True
        if not is_token(one, p, p_end, c'*') and not is_token(other, s, s_end, c'*'):
            if p_end - p != s_end - s or memcmp(one + p, other + s, s_end - s) != 0:
                return False
        if p_end == one_bytes or s_end == n:
            return p_end == one_bytes and s_end == n
        p = p_end + 1
        s = s_end + 1


# ---- lists of them ----------------------------------------------------------------------------------------------

cdef void patterns_add(patterns_t* list, const char* subject, uint32_t n, const char* queue, uint32_t queue_bytes) noexcept nogil:
    """Add an entry; the subject is valid."""
    cdef pattern_t* p
    list.items = <pattern_t*>mem_resize(list.items, (list.count + <size_t>1) * sizeof(pattern_t))
    p = &list.items[list.count]
    list.count += 1
    p.text = <char*>mem_alloc(n + queue_bytes + 1)
    memcpy(p.text, subject, n)
    if queue_bytes:
        memcpy(p.text + n, queue, queue_bytes)
        list.queues = True
    p.subject_bytes = n
    p.queue_bytes = queue_bytes
    p.wild = subject_check(subject, n) == SUBJECT_PATTERN


cdef int compare(const void* x, const void* y) noexcept nogil:
    cdef const pattern_t* a = <const pattern_t*>x
    cdef const pattern_t* b = <const pattern_t*>y
    cdef bint a_late = a.wild or a.queue_bytes != 0
    cdef bint b_late = b.wild or b.queue_bytes != 0
    if a_late != b_late:
        return 1 if a_late else -1
    if a.subject_bytes != b.subject_bytes:
        return -1 if a.subject_bytes < b.subject_bytes else 1
    return memcmp(a.text, b.text, a.subject_bytes)


cdef void patterns_sort(patterns_t* list) noexcept nogil:
    if list.count:
        qsort(list.items, list.count, sizeof(pattern_t), compare)
    list.literals = 0
    while (list.literals < list.count and not list.items[list.literals].wild
           and list.items[list.literals].queue_bytes == 0):
        list.literals += 1


cdef void patterns_free(patterns_t* list) noexcept nogil:
    cdef uint32_t i
    for i in range(list.count):
        free(list.items[i].text)
    free(list.items)


cdef bint has_literal(patterns_t* list, const char* subject, uint32_t n) noexcept nogil:
    cdef uint32_t low = 0
    cdef uint32_t high = list.literals
    cdef uint32_t middle
    cdef pattern_t* p
    cdef int order
    while low < high:
        middle = (low + high) // 2
        p = &list.items[middle]
        if p.subject_bytes != n:
            order = -1 if p.subject_bytes < n else 1
        else:
            order = memcmp(p.text, subject, n)
        if order == 0:
            return True
        if order < 0:
            low = middle + 1
        else:
            high = middle
    return False


cdef bint has_match(patterns_t* list, const char* subject, uint32_t n) noexcept nogil:
    """Whether an entry without a queue matches."""
    cdef uint32_t i
    if has_literal(list, subject, n):
        return True
    for i in range(list.literals, list.count):
        if list.items[i].queue_bytes == 0 and pattern_matches(list.items[i].text, list.items[i].subject_bytes, subject, n):
            return True
    return False


cdef int queue_matches(patterns_t* list, bint cover, const char* subject, uint32_t n, const char* queue,
                       uint32_t queue_bytes) noexcept nogil:
    """-1: no entry with a queue is about the subject; else whether one of those has this queue."""
    cdef int found = -1
    cdef uint32_t i
    cdef pattern_t* p
    cdef bint about
    if not list.queues:
        return -1
    for i in range(list.literals, list.count):
        p = &list.items[i]
        if p.queue_bytes == 0:
            continue
        about = (pattern_covers(p.text, p.subject_bytes, subject, n) if cover
                 else pattern_matches(p.text, p.subject_bytes, subject, n))
        if not about:
            continue
        if (p.queue_bytes == queue_bytes and memcmp(p.text + p.subject_bytes, queue, queue_bytes) == 0
                or pattern_covers(p.text + p.subject_bytes, p.queue_bytes, queue, queue_bytes)):
            return 1
        found = 0
    return found


# ---- a set of permissions ---------------------------------------------------------------------------------------

cdef permissions_t* permissions_new(uint64_t seed) noexcept nogil:
    """Everything is allowed until patterns are added."""
    cdef permissions_t* p = <permissions_t*>mem_zero(sizeof(permissions_t))
    p.seed = seed
    return p


cdef void permissions_ready(permissions_t* p) noexcept nogil:
    """When all patterns have been added."""
    patterns_sort(&p.publish_allow)
    patterns_sort(&p.publish_deny)
    patterns_sort(&p.subscribe_allow)
    patterns_sort(&p.subscribe_deny)


cdef void permissions_free(permissions_t* p) noexcept nogil:
    patterns_free(&p.publish_allow)
    patterns_free(&p.publish_deny)
    patterns_free(&p.subscribe_allow)
    patterns_free(&p.subscribe_deny)
    free(p.published)
    free(p.received)
    free(p)


cdef cached_t* cached(cached_t** table, uint64_t hash, const char* subject, uint32_t n, bint* known) noexcept nogil:
    """Where the answer for a subject is kept, or will be; NULL: it is too long for that."""
    cdef cached_t* entry
    known[0] = False
    if n > CACHED_BYTES_MAX:
        return NULL
    if table[0] == NULL:
        table[0] = <cached_t*>mem_zero(CACHE_ENTRIES * sizeof(cached_t))
    entry = &table[0][hash & (CACHE_ENTRIES - 1)]
    if entry.hash == hash and entry.bytes == n and memcmp(entry.subject, subject, n) == 0:
        known[0] = True
        return entry
    entry.hash = hash
    entry.bytes = <uint8_t>n
    memcpy(entry.subject, subject, n)
    return entry


cdef bint permissions_publish(engine_t* e, connection_t* c, const char* subject, uint32_t n) noexcept nogil:
    """Whether a restricted connection may publish to a subject; a right to answer is used up by this."""
    cdef permissions_t* p = c.permissions
    cdef uint64_t hash = sb_hash(subject, n, p.seed)
    return permissions_listed(p, subject, n, hash) or (c.replies != NULL and replies_use(e, c, subject, n, hash))


cdef bint permissions_listed(permissions_t* p, const char* subject, uint32_t n, uint64_t hash) noexcept nogil:
    """Whether it may be published to for ever, by the lists."""
    cdef bint known
    cdef bint allowed
    cdef cached_t* entry
    if not p.publish_allow.given and not p.publish_deny.given:
        return True
    entry = cached(&p.published, hash, subject, n, &known)
    if known:
        allowed = entry.answer
    else:
        allowed = not p.publish_allow.given or has_match(&p.publish_allow, subject, n)
        if allowed and p.publish_deny.given:
            allowed = not has_match(&p.publish_deny, subject, n)
        if entry != NULL:
            entry.answer = allowed
    return allowed


cdef bint permissions_subscribe(permissions_t* p, const char* subject, uint32_t n, const char* queue,
                                uint32_t queue_bytes) noexcept nogil:
    """Whether this subscription may be made. A queue's name beside an allowed subject restricts the queues; without one
    that is allowed plainly it allows only these."""
    cdef bint allowed = True
    cdef uint32_t i
    cdef int by_queue
    cdef pattern_t* item
    if p.subscribe_allow.given:
        allowed = has_literal(&p.subscribe_allow, subject, n)
        for i in range(p.subscribe_allow.literals, p.subscribe_allow.count):
            if allowed:
                break
            item = &p.subscribe_allow.items[i]
            allowed = item.queue_bytes == 0 and pattern_covers(item.text, item.subject_bytes, subject, n)
        if queue_bytes:
            by_queue = queue_matches(&p.subscribe_allow, True, subject, n, queue, queue_bytes)
            if by_queue >= 0:
                allowed = by_queue == 1
    if allowed and p.subscribe_deny.given:
        allowed = permissions_receive_now(p, subject, n, queue, queue_bytes)
    return allowed


cdef bint permissions_overlap(permissions_t* p, const char* subject, uint32_t n, bint queue) noexcept nogil:
    """Whether some of what an allowed subscription gets is denied."""
    cdef uint32_t i
    if not queue and subject_check(subject, n) != SUBJECT_PATTERN:
        return False
    for i in range(p.subscribe_deny.count):
        if patterns_collide(p.subscribe_deny.items[i].text, p.subscribe_deny.items[i].subject_bytes, subject, n):
            return True
    return False


cdef bint permissions_receive_now(permissions_t* p, const char* subject, uint32_t n, const char* queue,
                                  uint32_t queue_bytes) noexcept nogil:
    if has_match(&p.subscribe_deny, subject, n):
        return False
    return queue_bytes == 0 or queue_matches(&p.subscribe_deny, False, subject, n, queue, queue_bytes) != 1


cdef bint permissions_receive(permissions_t* p, const char* subject, uint32_t n, const char* queue,
                              uint32_t queue_bytes) noexcept nogil:
    """Whether no deny is against a message to this subject, by a subscription of this queue."""
    cdef bint known
    cdef cached_t* entry
    if not p.subscribe_deny.given:
        return True
    if queue_bytes and p.subscribe_deny.queues:
        return permissions_receive_now(p, subject, n, queue, queue_bytes)
    entry = cached(&p.received, sb_hash(subject, n, p.seed), subject, n, &known)
    if known:
        return entry.answer
    known = not has_match(&p.subscribe_deny, subject, n)
    if entry != NULL:
        entry.answer = known
    return known


# ---- rights to answer -------------------------------------------------------------------------------------------

cdef reply_t* reply_find(replies_t* r, const char* subject, uint32_t n, uint64_t hash) noexcept nogil:
    cdef reply_t* reply = r.buckets[hash & (r.buckets_count - 1)]
    while reply != NULL and (reply.hash != hash or reply.bytes != n or memcmp(reply.subject, subject, n) != 0):
        reply = reply.chained
    return reply


cdef void reply_drop(replies_t* r, reply_t* reply) noexcept nogil:
    """Out of its bucket; it stays in the list by age until it is the oldest there."""
    cdef reply_t** at = &r.buckets[reply.hash & (r.buckets_count - 1)]
    while at[0] != reply:
        at = &at[0].chained
    at[0] = reply.chained
    reply.dropped = True
    r.count -= 1


cdef void replies_prune(engine_t* e, connection_t* c) noexcept nogil:
    """Free the oldest: those that were dropped, have expired, or are too many. All expire after equal times, so that the
    others behind the first that stays may stay too."""
    cdef replies_t* r = c.replies
    cdef uint64_t lasts = c.permissions.responses_ns
    cdef reply_t* reply
    while r.oldest != NULL:
        reply = r.oldest
        if not reply.dropped:
            if r.kept <= REPLIES_MAX and (lasts == 0 or e.now_ns - reply.at_ns <= lasts):
                return
            reply_drop(r, reply)
        r.oldest = reply.younger
        r.kept -= 1
        free(reply)
    r.youngest = NULL


cdef void replies_grow(replies_t* r) noexcept nogil:
    cdef reply_t* reply = r.oldest
    free(r.buckets)
    r.buckets_count *= 2
    r.buckets = <reply_t**>mem_zero(r.buckets_count * sizeof(reply_t*))
    while reply != NULL:
        if not reply.dropped:
            reply.chained = r.buckets[reply.hash & (r.buckets_count - 1)]
            r.buckets[reply.hash & (r.buckets_count - 1)] = reply
        reply = reply.younger


cdef void replies_note(engine_t* e, connection_t* c, const char* reply, uint32_t n) noexcept nogil:
    """A request has been delivered to a connection with the right to answer: from now on, as often as it says."""
    cdef replies_t* r = c.replies
    cdef uint64_t hash = sb_hash(reply, n, c.permissions.seed)
    cdef reply_t* made
    if permissions_listed(c.permissions, reply, n, hash):
        return
    if r == NULL:
        r = <replies_t*>mem_zero(sizeof(replies_t))
        r.buckets_count = 16
        r.buckets = <reply_t**>mem_zero(r.buckets_count * sizeof(reply_t*))
        c.replies = r
    made = reply_find(r, reply, n, hash)
    if made != NULL:
        reply_drop(r, made)
    made = <reply_t*>mem_alloc(sizeof(reply_t) + n)
    made.hash = hash
    made.at_ns = e.now_ns
    made.used = 0
    made.bytes = n
    made.dropped = False
    made.younger = NULL
    memcpy(made.subject, reply, n)
    made.chained = r.buckets[hash & (r.buckets_count - 1)]
    r.buckets[hash & (r.buckets_count - 1)] = made
    if r.youngest == NULL:
        r.oldest = made
    else:
        r.youngest.younger = made
    r.youngest = made
    r.count += 1
    r.kept += 1
    replies_prune(e, c)
    if r.count > r.buckets_count:
        replies_grow(r)


cdef bint replies_use(engine_t* e, connection_t* c, const char* subject, uint32_t n, uint64_t hash) noexcept nogil:
    """Whether the connection may answer to this subject, once more."""
    cdef replies_t* r = c.replies
    cdef permissions_t* p = c.permissions
    cdef reply_t* reply
    if not p.responses:
        return False
    reply = reply_find(r, subject, n, hash)
    if reply == NULL:
        return False
    reply.used += 1
    if (p.responses_max > 0 and reply.used > p.responses_max
            or p.responses_ns and e.now_ns - reply.at_ns > p.responses_ns):
        reply_drop(r, reply)
        return False
    return True


cdef void replies_free(connection_t* c) noexcept nogil:
    """All rights are gone."""
    cdef replies_t* r = c.replies
    cdef reply_t* reply
    if r == NULL:
        return
    while r.oldest != NULL:
        reply = r.oldest
        r.oldest = reply.younger
        free(reply)
    free(r.buckets)
    free(r)
    c.replies = NULL
