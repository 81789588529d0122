# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The sublist of one account in one shard. Called by the engine; needs no GIL; never blocks or logs.

Two structures, as a subject is either literal or a pattern:

    literals   256 hash tables of literal_t (so that growing one of them never stalls the shard), each slot 16 bits
               of the hash and 48 of the pointer
    trie       trie_t per token of a pattern: children by token, `star` for *, `full` for >

A match is the union of both. A route keeps it, flattened, for a subject that is published again and again: targets
with equal sids stand together, because their frames are equal bytes. A literal subscription drops the route of its
own subject; a pattern advances the generation of its first token's bucket (or of all, when that token is a wildcard)
and routes of an older generation are not used. Subjects seen once get no route: a reply inbox is used once.

Matching follows server/sublist.go: tokens must not be empty, wildcards count only as whole tokens.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, qsort
from libc.string cimport memcmp, memcpy, memset

from shardbroker.hot.bytes cimport SB_SLACK, sb_hash
from shardbroker.hot.memory cimport mem_alloc, mem_resize, mem_zero, slab_alloc, slab_free
from shardbroker.hot.model cimport (
    GENERATION_BUCKETS, LITERAL_PARTS, NODE_LITERAL, NODE_QUEUE, NODE_TRIE, ROUTE_SETS, account_t,
    literal_t, literal_table_t, members_t, queue_group_t, queue_t, route_t, subscription_t, target_t, trie_t)

cdef enum:
    TAG_SHIFT = 48
    TABLE_FIRST = 16

cdef uint64_t POINTER_MASK = (<uint64_t>1 << 48) - 1
cdef route_t* dead_routes = NULL        # dropped this turn: a delivery under way may still read them


# ---- subjects ---------------------------------------------------------------------------------------------------

cdef int subject_check(const char* s, size_t n) noexcept nogil:
    """Whether a subscription may be made to it: tokens not empty, `>` only as the last (sublist.go Insert)."""
    cdef size_t i
    cdef size_t start = 0
    cdef bint pattern = False
    cdef bint full = False
    for i in range(n + 1):
        if i == n or s[i] == c'.':
            if i == start or full:
                return SUBJECT_INVALID
            if i - start == 1:
                if s[start] == c'*':
                    pattern = True
                elif s[start] == c'>':
                    full = True
            start = i + 1
    return SUBJECT_PATTERN if pattern or full else SUBJECT_LITERAL


cdef bint subject_is_literal(const char* s, size_t n) noexcept nogil:
    """Valid for publishing in pedantic mode (sublist.go IsValidLiteralSubject)."""
    return subject_check(s, n) == SUBJECT_LITERAL


cdef uint32_t subject_tokens(const char* s, size_t n) noexcept nogil:
    cdef uint32_t tokens = 1
    cdef size_t i
    for i in range(n):
        if s[i] == c'.':
            tokens += 1
    return tokens


cdef inline size_t token_end(const char* s, size_t start, size_t n) noexcept nogil:
    while start < n and s[start] != c'.':
        start += 1
    return start


cdef uint32_t bucket_of(const char* subject, size_t n) noexcept nogil:
    """Generation bucket of the first token."""
    return <uint32_t>(sb_hash(subject, token_end(subject, 0, n), 0) & (GENERATION_BUCKETS - 1))


# ---- members ----------------------------------------------------------------------------------------------------

cdef void members_add(members_t* m, subscription_t* sub) noexcept nogil:
    cdef subscription_t** items
    if m.count == 0 and m.capacity == 0:
        m.items = sub
    else:
        if m.capacity == 0:
            items = <subscription_t**>mem_alloc(4 * sizeof(subscription_t*))
            items[0] = <subscription_t*>m.items
            m.items = items
            m.capacity = 4
        elif m.count == m.capacity:
            m.capacity *= 2
            m.items = mem_resize(m.items, m.capacity * sizeof(subscription_t*))
        (<subscription_t**>m.items)[m.count] = sub
    sub.home = m
    sub.index = m.count
    m.count += 1


cdef void members_remove(members_t* m, subscription_t* sub) noexcept nogil:
    cdef subscription_t** items
    cdef subscription_t* last
    m.count -= 1
    if m.capacity == 0:
        m.items = NULL
        return
    items = <subscription_t**>m.items
    last = items[m.count]
    items[sub.index] = last
    last.index = sub.index
    if m.count == 0:
        free(m.items)
        m.items = NULL
        m.capacity = 0
    elif m.capacity > 16 and m.count * 4 < m.capacity:
        m.capacity //= 2
        m.items = mem_resize(m.items, m.capacity * sizeof(subscription_t*))


cdef inline uint8_t home_kind(members_t* m) noexcept nogil:
    return (<queue_t*>m).kind           # the same place in queue_t, literal_t and trie_t


cdef queue_t* queue_get(queue_t** list, void* node, const char* name, size_t n, bint make) noexcept nogil:
    cdef queue_t* q = list[0]
    while q != NULL:
        if q.name_bytes == n and memcmp(q.name, name, n) == 0:
            return q
        q = q.next
    if not make:
        return NULL
    q = <queue_t*>mem_zero(sizeof(queue_t) + n)
    q.kind = NODE_QUEUE
    q.name_bytes = <uint32_t>n
    memcpy(q.name, name, n)
    q.node = node
    q.next = list[0]
    list[0] = q
    return q


cdef void queue_free(queue_t** list, queue_t* q) noexcept nogil:
    cdef queue_t** at = list
    while at[0] != q:
        at = &at[0].next
    at[0] = q.next
    free(q.remote)
    free(q)


# ---- literal table ----------------------------------------------------------------------------------------------

cdef inline literal_table_t* literal_part(account_t* a, uint64_t hash) noexcept nogil:
    return &a.literals[(hash >> 40) & (LITERAL_PARTS - 1)]


cdef inline literal_t* literal_of(uint64_t slot) noexcept nogil:
    return <literal_t*>(slot & POINTER_MASK)


cdef literal_t* literal_find(account_t* a, const char* subject, size_t n, uint64_t hash) noexcept nogil:
    cdef literal_table_t* t = literal_part(a, hash)
    cdef uint64_t slot
    cdef uint64_t tag = hash >> TAG_SHIFT
    cdef uint32_t i
    cdef literal_t* l
    if t.count == 0:
        return NULL
    i = <uint32_t>hash & (t.capacity - 1)
    while True:
        slot = t.slots[i]
        if slot == 0:
            return NULL
        if slot >> TAG_SHIFT == tag:
            l = literal_of(slot)
            if l.subject_bytes == n and memcmp(l.subject, subject, n) == 0:
                return l
        i = (i + 1) & (t.capacity - 1)


cdef void literal_place(literal_table_t* t, uint64_t slot, uint64_t hash) noexcept nogil:
    cdef uint32_t i = <uint32_t>hash & (t.capacity - 1)
    while t.slots[i] != 0:
        i = (i + 1) & (t.capacity - 1)
    t.slots[i] = slot


cdef void literal_rehash(account_t* a, literal_table_t* t, uint32_t capacity) noexcept nogil:
    cdef uint64_t* old = t.slots
    cdef uint32_t old_capacity = t.capacity
    cdef uint32_t i
    cdef literal_t* l
    t.slots = <uint64_t*>mem_zero(capacity * sizeof(uint64_t))
    t.capacity = capacity
    for i in range(old_capacity):
        if old[i] != 0:
            l = literal_of(old[i])
            literal_place(t, old[i], sb_hash(l.subject, l.subject_bytes, a.seed))
    free(old)


cdef inline size_t literal_bytes(size_t subject_bytes) noexcept nogil:
    return <size_t>(<char*>&(<literal_t*>NULL).subject[0] - <char*>NULL) + subject_bytes


cdef literal_t* literal_make(account_t* a, const char* subject, size_t n, uint64_t hash) noexcept nogil:
    cdef literal_table_t* t = literal_part(a, hash)
    cdef literal_t* l = literal_find(a, subject, n, hash)
    if l != NULL:
        return l
    if t.capacity == 0 or t.count * 4 >= t.capacity * 3:
        literal_rehash(a, t, t.capacity * 2 if t.capacity else TABLE_FIRST)
    l = <literal_t*>slab_alloc(literal_bytes(n))
    l.plain.items = NULL
    l.plain.count = 0
    l.plain.capacity = 0
    l.kind = NODE_LITERAL
    l.subject_bytes = <uint32_t>n
    l.queues = NULL
    memcpy(l.subject, subject, n)
    literal_place(t, (hash >> TAG_SHIFT) << TAG_SHIFT | <uint64_t>l, hash)
    t.count += 1
    return l


cdef void literal_drop_if_empty(account_t* a, literal_t* l) noexcept nogil:
    """Take an unused literal out; entries behind it move up (linear probing without tombstones)."""
    cdef uint64_t hash
    cdef literal_table_t* t
    cdef uint32_t i, j, home
    if l.plain.count != 0 or l.queues != NULL:
        return
    hash = sb_hash(l.subject, l.subject_bytes, a.seed)
    t = literal_part(a, hash)
    i = <uint32_t>hash & (t.capacity - 1)
    while literal_of(t.slots[i]) != l:
        i = (i + 1) & (t.capacity - 1)
    j = i
    while True:
        j = (j + 1) & (t.capacity - 1)
        if t.slots[j] == 0:
            break
        home = <uint32_t>sb_hash(literal_of(t.slots[j]).subject, literal_of(t.slots[j]).subject_bytes,
                                 a.seed) & (t.capacity - 1)
        # The entry at j may move to i unless its home lies in (i, j].
        if ((j - home) & (t.capacity - 1)) >= ((j - i) & (t.capacity - 1)):
            t.slots[i] = t.slots[j]
            i = j
    t.slots[i] = 0
    t.count -= 1
    slab_free(l, literal_bytes(l.subject_bytes))
    if t.count == 0:
        free(t.slots)
        t.slots = NULL
        t.capacity = 0
    elif t.capacity > 1024 and t.count * 8 < t.capacity:
        literal_rehash(a, t, t.capacity // 2)


# ---- pattern trie -----------------------------------------------------------------------------------------------

cdef trie_t* trie_new(trie_t* parent, const char* token, size_t n) noexcept nogil:
    cdef trie_t* t = <trie_t*>mem_zero(sizeof(trie_t) + n)
    t.kind = NODE_TRIE
    t.token_bytes = <uint32_t>n
    memcpy(t.token, token, n)
    t.parent = parent
    return t


cdef trie_t* trie_child(account_t* a, trie_t* t, const char* token, size_t n) noexcept nogil:
    cdef uint32_t i
    cdef trie_t* child
    if t.children_count == 0:
        return NULL
    i = <uint32_t>sb_hash(token, n, a.seed) & (t.children_capacity - 1)
    while True:
        child = t.children[i]
        if child == NULL:
            return NULL
        if child.token_bytes == n and memcmp(child.token, token, n) == 0:
            return child
        i = (i + 1) & (t.children_capacity - 1)


cdef void trie_place(account_t* a, trie_t* t, trie_t* child) noexcept nogil:
    cdef uint32_t i = <uint32_t>sb_hash(child.token, child.token_bytes, a.seed) & (t.children_capacity - 1)
    while t.children[i] != NULL:
        i = (i + 1) & (t.children_capacity - 1)
    t.children[i] = child


cdef void trie_resize(account_t* a, trie_t* t, uint32_t capacity) noexcept nogil:
    cdef trie_t** old = t.children
    cdef uint32_t old_capacity = t.children_capacity
    cdef uint32_t i
    t.children = <trie_t**>mem_zero(capacity * sizeof(trie_t*))
    t.children_capacity = capacity
    for i in range(old_capacity):
        if old[i] != NULL:
            trie_place(a, t, old[i])
    free(old)


cdef trie_t* trie_make(account_t* a, const char* pattern, size_t n) noexcept nogil:
    """The node of a valid pattern."""
    cdef trie_t* t
    cdef trie_t* child
    cdef size_t start = 0
    cdef size_t end
    if a.root == NULL:
        a.root = trie_new(NULL, b"", 0)
    t = a.root
    while True:
        end = token_end(pattern, start, n)
        if end - start == 1 and pattern[start] == c'*':
            if t.star == NULL:
                t.star = trie_new(t, b"*", 1)
            t = t.star
        elif end - start == 1 and pattern[start] == c'>':
            if t.full == NULL:
                t.full = trie_new(t, b">", 1)
            t = t.full
        else:
            child = trie_child(a, t, pattern + start, end - start)
            if child == NULL:
                child = trie_new(t, pattern + start, end - start)
                if t.children_capacity == 0:
                    trie_resize(a, t, 4)
                elif t.children_count * 4 >= t.children_capacity * 3:
                    trie_resize(a, t, t.children_capacity * 2)
                trie_place(a, t, child)
                t.children_count += 1
            t = child
        if end == n:
            return t
        start = end + 1


cdef trie_t* trie_find(account_t* a, const char* pattern, size_t n) noexcept nogil:
    cdef trie_t* t = a.root
    cdef size_t start = 0
    cdef size_t end
    while t != NULL:
        end = token_end(pattern, start, n)
        if end - start == 1 and pattern[start] == c'*':
            t = t.star
        elif end - start == 1 and pattern[start] == c'>':
            t = t.full
        else:
            t = trie_child(a, t, pattern + start, end - start)
        if end == n:
            return t
        start = end + 1
    return NULL


cdef void trie_unlink(account_t* a, trie_t* parent, trie_t* t) noexcept nogil:
    cdef uint32_t i, j, home
    cdef uint32_t mask
    if parent.star == t:
        parent.star = NULL
        return
    if parent.full == t:
        parent.full = NULL
        return
    mask = parent.children_capacity - 1
    i = <uint32_t>sb_hash(t.token, t.token_bytes, a.seed) & mask
    while parent.children[i] != t:
        i = (i + 1) & mask
    j = i
    while True:
        j = (j + 1) & mask
        if parent.children[j] == NULL:
            break
        home = <uint32_t>sb_hash(parent.children[j].token, parent.children[j].token_bytes, a.seed) & mask
        if ((j - home) & mask) >= ((j - i) & mask):
            parent.children[i] = parent.children[j]
            i = j
    parent.children[i] = NULL
    parent.children_count -= 1
    if parent.children_count == 0:
        free(parent.children)
        parent.children = NULL
        parent.children_capacity = 0
    elif parent.children_capacity > 64 and parent.children_count * 8 < parent.children_capacity:
        trie_resize(a, parent, parent.children_capacity // 2)


cdef void trie_drop_if_empty(account_t* a, trie_t* t) noexcept nogil:
    cdef trie_t* parent
    while (t != NULL and t.plain.count == 0 and t.queues == NULL and t.remote == 0 and t.star == NULL
           and t.full == NULL and t.children_count == 0):
        parent = t.parent
        if parent == NULL:
            a.root = NULL
        else:
            trie_unlink(a, parent, t)
        free(t)
        t = parent


cdef void pattern_changed(account_t* a, const char* pattern, size_t n) noexcept nogil:
    """Routes that this pattern may match are not to be used any more."""
    cdef size_t end = token_end(pattern, 0, n)
    if end == 1 and (pattern[0] == c'*' or pattern[0] == c'>'):
        a.generation_any += 1
    else:
        a.generations[bucket_of(pattern, n)] += 1


cdef size_t trie_subject(trie_t* t, char* out) noexcept nogil:
    """The pattern of a node; NULL `out` only counts."""
    cdef size_t n = 0
    if t.parent != NULL and t.parent.parent != NULL:
        n = trie_subject(t.parent, out)
        if out != NULL:
            out[n] = c'.'
        n += 1
    if out != NULL:
        memcpy(out + n, t.token, t.token_bytes)
    return n + t.token_bytes


# ---- insert and remove ------------------------------------------------------------------------------------------

cdef void account_init(account_t* a, uint64_t id, uint64_t seed, uint64_t route_sets) noexcept nogil:
    memset(a, 0, sizeof(account_t))
    a.id = id
    a.seed = seed
    a.route_mask = route_sets - 1
    a.routes = <route_t**>mem_zero(2 * route_sets * sizeof(route_t*))
    a.seen = <uint32_t*>mem_zero(route_sets * sizeof(uint32_t))


cdef void account_free(account_t* a) noexcept nogil:
    """After every subscription is gone and remote interest is forgotten."""
    cdef uint32_t i
    for i in range(2 * (a.route_mask + 1)):
        free(a.routes[i])
    free(a.routes)
    free(a.seen)
    free(a.name)
    for i in range(LITERAL_PARTS):
        free(a.literals[i].slots)


cdef inline bint queue_is_new(queue_t* q) noexcept nogil:
    """Whether routes do not hold this queue group; for a plain subscription (NULL) always: routes list those."""
    return q == NULL or (q.members.count == 0 and q.remote_total == 0)


cdef change_t sublist_insert(account_t* a, subscription_t* sub, const char* subject, size_t subject_bytes,
                             const char* queue, size_t queue_bytes) noexcept nogil:
    """Add a subscription to a subject that subject_check has passed. No queue: queue_bytes 0."""
    cdef change_t change
    cdef members_t* home
    cdef literal_t* l
    cdef trie_t* t
    cdef queue_t* q = NULL
    cdef uint64_t hash
    change.pattern = subject_check(subject, subject_bytes) == SUBJECT_PATTERN
    if change.pattern:
        t = trie_make(a, subject, subject_bytes)
        home = &t.plain
        if queue_bytes:
            q = queue_get(&t.queues, t, queue, queue_bytes, True)
        a.patterns += 1
        if queue_is_new(q):
            pattern_changed(a, subject, subject_bytes)
    else:
        hash = sb_hash(subject, subject_bytes, a.seed)
        l = literal_make(a, subject, subject_bytes, hash)
        home = &l.plain
        if queue_bytes:
            q = queue_get(&l.queues, l, queue, queue_bytes, True)
        if queue_is_new(q):
            route_drop(a, subject, subject_bytes, hash)
    if q != NULL:
        home = &q.members
    members_add(home, sub)
    a.subscriptions += 1
    a.inserts += 1
    change.members = home.count
    change.kind = CHANGE_QUEUE if q != NULL else CHANGE_FIRST if home.count == 1 else CHANGE_NONE
    return change


cdef change_t sublist_remove(account_t* a, subscription_t* sub) noexcept nogil:
    """Take a subscription out. Its home may be gone afterwards: name it to other shards before calling."""
    cdef change_t change
    cdef members_t* home = sub.home
    cdef uint8_t kind = home_kind(home)
    cdef queue_t* q = NULL
    cdef void* node = home
    cdef literal_t* l
    cdef trie_t* t
    cdef bint routed
    members_remove(home, sub)
    a.subscriptions -= 1
    a.removes += 1
    change.members = home.count
    change.kind = CHANGE_QUEUE if kind == NODE_QUEUE else CHANGE_FIRST if home.count == 0 else CHANGE_NONE
    if kind == NODE_QUEUE:
        q = <queue_t*>home
        node = q.node
    routed = queue_is_new(q)            # empty now: as good as new, so routes must not keep it
    change.pattern = (<literal_t*>node).kind == NODE_TRIE
    if change.pattern:
        t = <trie_t*>node
        a.patterns -= 1
        if routed:
            trie_changed(a, t)
            if q != NULL:
                queue_free(&t.queues, q)
        trie_drop_if_empty(a, t)
    else:
        l = <literal_t*>node
        if routed:
            route_drop(a, l.subject, l.subject_bytes, sb_hash(l.subject, l.subject_bytes, a.seed))
            if q != NULL:
                queue_free(&l.queues, q)
        literal_drop_if_empty(a, l)
    return change


cdef void trie_changed(account_t* a, trie_t* t) noexcept nogil:
    while t.parent != NULL and t.parent.parent != NULL:
        t = t.parent
    pattern_changed(a, t.token, t.token_bytes)


cdef size_t sublist_subject(members_t* home, char* out) noexcept nogil:
    """The subject of a subscription's home; NULL `out` only counts."""
    cdef void* node = home
    if home_kind(home) == NODE_QUEUE:
        node = (<queue_t*>home).node
    if (<literal_t*>node).kind == NODE_TRIE:
        return trie_subject(<trie_t*>node, out)
    if out != NULL:
        memcpy(out, (<literal_t*>node).subject, (<literal_t*>node).subject_bytes)
    return (<literal_t*>node).subject_bytes


cdef queue_t* sublist_queue(members_t* home) noexcept nogil:
    return <queue_t*>home if home_kind(home) == NODE_QUEUE else NULL


# ---- what other shards want -------------------------------------------------------------------------------------

cdef void sublist_remote_plain(account_t* a, uint32_t shard, bint wanted, const char* pattern, size_t n) noexcept nogil:
    """Shard `shard` has (or has no longer) a plain subscription of this pattern. The pattern has been checked."""
    cdef trie_t* t
    cdef uint64_t bit = <uint64_t>1 << shard
    if wanted:
        t = trie_make(a, pattern, n)
        if t.remote & bit == 0:
            t.remote |= bit
            a.patterns += 1
    else:
        t = trie_find(a, pattern, n)
        if t == NULL or t.remote & bit == 0:
            return
        t.remote &= ~bit
        a.patterns -= 1
        trie_drop_if_empty(a, t)
    pattern_changed(a, pattern, n)


cdef void queue_remote_set(queue_t* q, uint32_t shard, uint32_t shards, uint32_t members) noexcept nogil:
    if q.remote == NULL:
        q.remote = <uint32_t*>mem_zero(shards * sizeof(uint32_t))
    q.remote_total += members - q.remote[shard]
    q.remote[shard] = members


cdef void sublist_remote_queue(account_t* a, uint32_t shard, uint32_t shards, uint32_t members, const char* subject,
                               size_t subject_bytes, const char* queue, size_t queue_bytes) noexcept nogil:
    """Shard `shard` has now so many members of this queue group on this subject or pattern."""
    cdef trie_t* t
    cdef literal_t* l
    cdef queue_t* q
    cdef uint64_t hash
    if subject_check(subject, subject_bytes) == SUBJECT_PATTERN:
        t = trie_make(a, subject, subject_bytes)
        q = queue_get(&t.queues, t, queue, queue_bytes, True)
        a.patterns += <uint64_t>members
        if q.remote != NULL:
            a.patterns -= q.remote[shard]
        queue_remote_set(q, shard, shards, members)
        if q.members.count == 0 and q.remote_total == 0:
            queue_free(&t.queues, q)
        trie_drop_if_empty(a, t)
        pattern_changed(a, subject, subject_bytes)
    else:
        hash = sb_hash(subject, subject_bytes, a.seed)
        l = literal_make(a, subject, subject_bytes, hash)
        q = queue_get(&l.queues, l, queue, queue_bytes, True)
        queue_remote_set(q, shard, shards, members)
        route_drop(a, subject, subject_bytes, hash)
        if q.members.count == 0 and q.remote_total == 0:
            queue_free(&l.queues, q)
        literal_drop_if_empty(a, l)


cdef void queues_forget(queue_t** list, uint32_t shard, uint64_t* dropped) noexcept nogil:
    cdef queue_t* q = list[0]
    cdef queue_t* following
    while q != NULL:
        following = q.next
        if q.remote != NULL and q.remote[shard]:
            dropped[0] += q.remote[shard]
            q.remote_total -= q.remote[shard]
            q.remote[shard] = 0
            if q.members.count == 0 and q.remote_total == 0:
                queue_free(list, q)
        q = following


cdef void trie_forget(account_t* a, trie_t* t, uint32_t shard) noexcept nogil:
    """Depth first; a node that ends up empty is dropped by its parent's visit, so children are collected first."""
    cdef uint32_t i
    cdef uint32_t n = 0
    cdef uint64_t bit = <uint64_t>1 << shard
    cdef uint64_t dropped = 0
    cdef trie_t** children
    if t.star != NULL:
        trie_forget(a, t.star, shard)
    if t.full != NULL:
        trie_forget(a, t.full, shard)
    if t.children_count:
        children = <trie_t**>mem_alloc(t.children_count * sizeof(trie_t*))
        for i in range(t.children_capacity):
            if t.children[i] != NULL:
                children[n] = t.children[i]
                n += 1
        for i in range(n):
            trie_forget(a, children[i], shard)
        free(children)
    if t.remote & bit:
        t.remote &= ~bit
        dropped += 1
    queues_forget(&t.queues, shard, &dropped)
    a.patterns -= dropped
    if (t.parent != NULL and t.plain.count == 0 and t.queues == NULL and t.remote == 0 and t.star == NULL
            and t.full == NULL and t.children_count == 0):
        trie_unlink(a, t.parent, t)
        free(t)


cdef void sublist_remote_forget(account_t* a, uint32_t shard) noexcept nogil:
    """A shard has died: nothing it wanted is wanted any more. Walks everything; every route is rebuilt."""
    cdef uint32_t i, j, n
    cdef literal_table_t* t
    cdef literal_t** found
    cdef uint64_t dropped = 0
    if a.root != NULL:
        trie_forget(a, a.root, shard)
        trie_drop_if_empty(a, a.root)
    for i in range(LITERAL_PARTS):
        t = &a.literals[i]
        n = 0
        for j in range(t.capacity):
            if t.slots[j] != 0 and literal_of(t.slots[j]).queues != NULL:
                n += 1
        if n == 0:
            continue
        found = <literal_t**>mem_alloc(n * sizeof(literal_t*))
        n = 0
        for j in range(t.capacity):
            if t.slots[j] != 0 and literal_of(t.slots[j]).queues != NULL:
                found[n] = literal_of(t.slots[j])
                n += 1
        for j in range(n):
            queues_forget(&found[j].queues, shard, &dropped)
            literal_drop_if_empty(a, found[j])
        free(found)
    routes_drop_all(a)


# ---- match ------------------------------------------------------------------------------------------------------

cdef void match_list(match_t* m, members_t* list) noexcept nogil:
    if m.lists_count == m.lists_capacity:
        m.lists_capacity = m.lists_capacity * 2 if m.lists_capacity else 16
        m.lists = <members_t**>mem_resize(m.lists, m.lists_capacity * sizeof(members_t*))
    m.lists[m.lists_count] = list
    m.lists_count += 1


cdef void match_queues(match_t* m, queue_t* q) noexcept nogil:
    """Queue groups go by name: patterns that match together share one group (sublist.go addNodeToResults)."""
    cdef uint32_t i
    cdef uint32_t group
    while q != NULL:
        group = m.groups_count
        for i in range(m.queues_count):
            if (m.queues[i].queue.name_bytes == q.name_bytes
                    and memcmp(m.queues[i].queue.name, q.name, q.name_bytes) == 0):
                group = m.queues[i].group
                break
        if group == m.groups_count:
            m.groups_count += 1
        if m.queues_count == m.queues_capacity:
            m.queues_capacity = m.queues_capacity * 2 if m.queues_capacity else 16
            m.queues = <queue_match_t*>mem_resize(m.queues, m.queues_capacity * sizeof(queue_match_t))
        m.queues[m.queues_count].queue = q
        m.queues[m.queues_count].group = group
        m.queues_count += 1
        q = q.next


cdef inline void match_node(match_t* m, trie_t* t) noexcept nogil:
    if t.plain.count:
        match_list(m, &t.plain)
    if t.queues != NULL:
        match_queues(m, t.queues)
    m.remote |= t.remote


cdef void trie_match(account_t* a, trie_t* t, const char* s, size_t start, size_t n, match_t* m) noexcept nogil:
    """Every node is visited at most once, so a match costs no more than the trie has nodes."""
    cdef size_t end
    cdef trie_t* child
    while True:
        if t.full != NULL:
            match_node(m, t.full)
        end = token_end(s, start, n)
        child = trie_child(a, t, s + start, end - start)
        if end == n:
            if child != NULL:
                match_node(m, child)
            if t.star != NULL:
                match_node(m, t.star)
            return
        if child != NULL and t.star != NULL:
            trie_match(a, child, s, end + 1, n, m)
            t = t.star
        elif child != NULL:
            t = child
        elif t.star != NULL:
            t = t.star
        else:
            return
        start = end + 1


cdef inline bint has_empty_token(const char* s, size_t n) noexcept nogil:
    cdef size_t i
    if n == 0 or s[0] == c'.' or s[n - 1] == c'.':
        return True
    for i in range(1, n):
        if s[i] == c'.' and s[i - 1] == c'.':
            return True
    return False


cdef void sublist_match(account_t* a, const char* subject, size_t n, uint64_t hash, match_t* m) noexcept nogil:
    cdef literal_t* l = literal_find(a, subject, n, hash)
    m.lists_count = 0
    m.queues_count = 0
    m.groups_count = 0
    m.remote = 0
    a.matches += 1
    if l != NULL:
        if l.plain.count:
            match_list(m, &l.plain)
        if l.queues != NULL:
            match_queues(m, l.queues)
    # A subject with an empty token matches nothing, not even `>`.
    if a.root != NULL and not has_empty_token(subject, n):
        trie_match(a, a.root, subject, 0, n, m)


# ---- routes -----------------------------------------------------------------------------------------------------

cdef int compare_targets(const void* x, const void* y) noexcept nogil:
    cdef subscription_t* a = (<target_t*>x).subscription
    cdef subscription_t* b = (<target_t*>y).subscription
    if a.sid_bytes != b.sid_bytes:
        return -1 if a.sid_bytes < b.sid_bytes else 1
    return memcmp(a.sid, b.sid, a.sid_bytes)


cdef inline size_t aligned(size_t n) noexcept nogil:
    return (n + 7) & ~<size_t>7


cdef route_t* route_build(account_t* a, match_t* m, const char* subject, size_t n, uint64_t hash) noexcept nogil:
    """Make and cache the route of a subject from its match. Directory fields are left to the caller."""
    cdef uint32_t targets = 0
    cdef uint32_t i, j, k, runs
    cdef size_t head_bytes, at
    cdef char* p
    cdef route_t* r
    cdef route_t** entry
    if a.routes_cached > a.route_mask and a.route_mask + 1 < ROUTE_SETS:
        routes_grow(a)
    entry = &a.routes[2 * (hash & a.route_mask)]
    for i in range(m.lists_count):
        targets += m.lists[i].count
    head_bytes = aligned(<size_t>(<char*>&(<route_t*>NULL).head[0] - <char*>NULL) + n + 6 + SB_SLACK)
    p = <char*>mem_alloc(head_bytes + targets * (sizeof(target_t) + sizeof(uint64_t))
                         + m.queues_count * sizeof(queue_t*) + m.groups_count * sizeof(queue_group_t))
    r = <route_t*>p
    at = head_bytes
    r.targets = <target_t*>(p + at)
    at += targets * sizeof(target_t)
    r.queues = <queue_t**>(p + at)
    at += m.queues_count * sizeof(queue_t*)
    r.queue_groups = <queue_group_t*>(p + at)
    at += m.groups_count * sizeof(queue_group_t)
    r.groups = <uint32_t*>(p + at)
    r.hash = hash
    r.bucket = bucket_of(subject, n)
    r.generation = a.generations[r.bucket] + a.generation_any
    r.directory_version = 0
    r.remote_patterns = m.remote
    r.remote = m.remote
    r.subject_bytes = <uint32_t>n
    r.next = NULL
    memcpy(r.head, b"HMSG ", 5)
    memcpy(r.head + 5, subject, n)
    r.head[5 + n] = c' '
    # Targets, those with one sid together
    k = 0
    for i in range(m.lists_count):
        for j in range(m.lists[i].count):
            r.targets[k].subscription = member_at(m.lists[i], j)
            r.targets[k].connection = r.targets[k].subscription.connection
            k += 1
    r.targets_count = targets
    if targets > 1:
        qsort(r.targets, targets, sizeof(target_t), compare_targets)
    runs = 0
    for i in range(targets):
        if i == 0 or compare_targets(&r.targets[i - 1], &r.targets[i]) != 0:
            r.groups[runs] = 0
            runs += 1
        r.groups[runs - 1] += 1
    r.groups_count = runs
    # Queue groups by name
    k = 0
    for i in range(m.groups_count):
        r.queue_groups[i].first = k
        for j in range(m.queues_count):
            if m.queues[j].group == i:
                r.queues[k] = m.queues[j].queue
                k += 1
        r.queue_groups[i].count = k - r.queue_groups[i].first
    r.queues_count = k
    r.queue_groups_count = m.groups_count
    # The newer of the two stays; the older goes.
    if entry[1] != NULL:
        route_kill(a, entry[1])
    entry[1] = entry[0]
    entry[0] = r
    a.routes_cached += 1
    return r


cdef void route_kill(account_t* a, route_t* r) noexcept nogil:
    global dead_routes
    r.next = dead_routes
    dead_routes = r
    a.routes_cached -= 1


cdef void routes_free_dead() noexcept nogil:
    """At the end of a turn, when nothing is being delivered."""
    global dead_routes
    cdef route_t* r
    while dead_routes != NULL:
        r = dead_routes
        dead_routes = r.next
        free(r)


cdef void route_drop(account_t* a, const char* subject, size_t n, uint64_t hash) noexcept nogil:
    cdef route_t** entry = &a.routes[2 * (hash & a.route_mask)]
    cdef int i
    for i in range(2):
        if (entry[i] != NULL and entry[i].hash == hash and entry[i].subject_bytes == n
                and memcmp(entry[i].head + 5, subject, n) == 0):
            route_kill(a, entry[i])
            entry[i] = NULL
            return


cdef void routes_drop_idle(account_t* a, bint with_remote) noexcept nogil:
    """Drop routes that lead nowhere: of subjects that someone wanted once. One that is published to still comes back."""
    cdef uint32_t i
    cdef route_t* r
    if a.routes_cached == 0:
        return
    for i in range(2 * (a.route_mask + 1)):
        r = a.routes[i]
        # With other shards, what the directory said when it was last looked at may be over: it can be looked up again.
        if r != NULL and r.targets_count == 0 and r.queue_groups_count == 0 and (with_remote or r.remote == 0):
            route_kill(a, r)
            a.routes[i] = NULL


cdef void routes_drop_all(account_t* a) noexcept nogil:
    cdef uint32_t i
    if a.routes_cached == 0:
        return
    for i in range(2 * (a.route_mask + 1)):
        if a.routes[i] != NULL:
            route_kill(a, a.routes[i])
            a.routes[i] = NULL


cdef void routes_grow(account_t* a) noexcept nogil:
    """More sets, for an account that publishes to more subjects. It fills them anew."""
    cdef uint64_t sets = (a.route_mask + 1) * 8
    routes_drop_all(a)
    if sets > ROUTE_SETS:
        sets = ROUTE_SETS
    free(a.routes)
    free(a.seen)
    a.route_mask = sets - 1
    a.routes = <route_t**>mem_zero(2 * sets * sizeof(route_t*))
    a.seen = <uint32_t*>mem_zero(sets * sizeof(uint32_t))


# ---- walks for monitoring and snapshots -------------------------------------------------------------------------

cdef void walk_members(members_t* home, visit_t visit, void* context) noexcept nogil:
    cdef uint32_t i
    for i in range(home.count):
        visit(context, home, member_at(home, i))


cdef void walk_queues(queue_t* q, visit_t visit, visit_interest_t interest, bint pattern, void* context) noexcept nogil:
    while q != NULL:
        if visit != NULL:
            walk_members(&q.members, visit, context)
        elif q.members.count:
            interest(context, &q.members, pattern)
        q = q.next


cdef void walk_trie(trie_t* t, visit_t visit, visit_interest_t interest, void* context) noexcept nogil:
    cdef uint32_t i
    if visit != NULL:
        walk_members(&t.plain, visit, context)
    elif t.plain.count:
        interest(context, &t.plain, True)
    walk_queues(t.queues, visit, interest, True, context)
    if t.star != NULL:
        walk_trie(t.star, visit, interest, context)
    if t.full != NULL:
        walk_trie(t.full, visit, interest, context)
    for i in range(t.children_capacity):
        if t.children[i] != NULL:
            walk_trie(t.children[i], visit, interest, context)


cdef void walk(account_t* a, visit_t visit, visit_interest_t interest, void* context) noexcept nogil:
    cdef uint32_t i, j
    cdef literal_t* l
    for i in range(LITERAL_PARTS):
        for j in range(a.literals[i].capacity):
            if a.literals[i].slots[j]:
                l = literal_of(a.literals[i].slots[j])
                if visit != NULL:
                    walk_members(&l.plain, visit, context)
                elif l.plain.count:
                    interest(context, &l.plain, False)
                walk_queues(l.queues, visit, interest, False, context)
    if a.root != NULL:
        walk_trie(a.root, visit, interest, context)


cdef void sublist_walk(account_t* a, visit_t visit, void* context) noexcept nogil:
    walk(a, visit, NULL, context)


cdef void sublist_walk_interest(account_t* a, visit_interest_t visit, void* context) noexcept nogil:
    walk(a, NULL, visit, context)
