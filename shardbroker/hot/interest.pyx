# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Interest across shards. Called by the engine; needs no GIL; never waits.

Plain subscriptions of literal subjects are bits in the shared directory. Patterns and queue groups are told to every
other shard over its control ring. Both happen while the SUB is carried out; the PONG that a client may wait for goes
out after interest_publish, so whoever learns of it publishes after the interest was visible.

A ring that is full never loses a record: what does not fit goes to an overflow queue, in order, and whoever caused it
is not read from until the queue has drained. While a connection's control records wait there, its output waits too.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from shardbroker.hot.accounts cimport account_told
from shardbroker.hot.bytes cimport sb_hash, sb_likely, sb_lowest, sb_unlikely
from shardbroker.hot.memory cimport mem_alloc
from shardbroker.hot.model cimport account_t, connection_t, members_t, queue_t, route_t, subscription_t
from shardbroker.hot.record cimport (
    RECORD_FRAGMENT, RECORD_MESSAGE, RECORD_PLAIN, RECORD_QUEUE, RECORD_RECEIPT, RECORD_RECEIPT_WANTED, RECORD_REQUEST,
    RECORD_SHOWN, RECORD_SNAPSHOT_BEGIN, RECORD_SNAPSHOT_END, RECORD_STALL, RECORD_WATCHED, fragment_record_t, interest_record_t,
    message_record_t, receipt_record_t, record_interest_check, shown_record_t, stall_record_t)
from shardbroker.hot.state cimport engine_t, message_t, peer_t, receipt_t, spill_queue_t, spill_t
from shardbroker.hot.sublist cimport (
    CHANGE_NONE, CHANGE_QUEUE, SUBJECT_INVALID, SUBJECT_PATTERN, change_t, subject_check, sublist_insert, sublist_queue,
    sublist_remote_forget, sublist_remote_plain, sublist_remote_queue, sublist_remove, sublist_subject,
    sublist_walk_interest)
from shardbroker.hot.watch cimport watch_all, watch_changed, watch_key
from shardbroker.shm.directory cimport (
    directory_add, directory_has_watchers, directory_prefetch, directory_remove, directory_shards, directory_version)
from shardbroker.shm.doorbell cimport doorbell_fence, doorbell_ring
from shardbroker.shm.layout cimport (
    SB_SLOT_BOOTING, SB_SLOT_DEAD, SB_SLOT_READY, membership_load, slot_epoch, slot_state)
from shardbroker.shm.membership cimport membership_bump, slot_attached_load, slot_attached_store
from shardbroker.shm.ring cimport (
    record_view, ring_body_bytes_max, ring_claim, ring_commit, ring_next, ring_publish, ring_readable, ring_reader_skip,
    ring_release, ring_writer)

cdef slow_publisher_t on_stall = NULL


cdef void interest_on_stall(slow_publisher_t call) noexcept nogil:
    global on_stall
    on_stall = call


# ---- writing records --------------------------------------------------------------------------------------------

cdef inline size_t padded(size_t n) noexcept nogil:
    return (n + 3) & ~<size_t>3


cdef char* spill(spill_queue_t* q, int kind, uint32_t bytes) noexcept nogil:
    """A place at the end of the overflow queue."""
    cdef spill_t* s = <spill_t*>mem_alloc(sizeof(spill_t) + bytes)
    s.next = NULL
    s.bytes = bytes
    s.sent = 0
    s.kind = kind
    if q.last == NULL:
        q.first = s
    else:
        q.last.next = s
    q.last = s
    q.bytes += bytes
    return <char*>s + sizeof(spill_t)


cdef void spill_pop(spill_queue_t* q) noexcept nogil:
    cdef spill_t* s = q.first
    q.first = s.next
    if q.first == NULL:
        q.last = NULL
    q.bytes -= s.bytes
    free(s)


cdef void spill_free(spill_queue_t* q) noexcept nogil:
    while q.first != NULL:
        spill_pop(q)


cdef char* claim(engine_t* e, uint32_t shard, bint control, int kind, uint32_t bytes, bint* spilled) noexcept nogil:
    """A place for a record body: in the ring, or in the overflow queue when the ring is full or has been."""
    cdef peer_t* p = &e.peers[shard]
    cdef ring_writer* w = p.control_out if control else p.data_out
    cdef spill_queue_t* q = &p.control_spill if control else &p.data_spill
    cdef void* body = NULL
    if q.first == NULL and bytes <= ring_body_bytes_max(w):
        body = ring_claim(w, bytes, <uint16_t>kind, 0)
    spilled[0] = body == NULL
    if body != NULL:
        return <char*>body
    e.stats.ring_full += 1
    e.stats.overflow_bytes += bytes
    if e.stats.overflow_bytes > e.stats.overflow_bytes_max:
        e.stats.overflow_bytes_max = e.stats.overflow_bytes
    if control:
        e.control_spilled_shards |= <uint64_t>1 << shard
    else:
        e.spilled_shards |= <uint64_t>1 << shard
        e.spilled_now |= <uint64_t>1 << shard
    return spill(q, kind, bytes)


cdef inline void commit(engine_t* e, uint32_t shard, bint control, bint spilled) noexcept nogil:
    if not spilled:
        ring_commit(e.peers[shard].control_out if control else e.peers[shard].data_out)
    e.told_shards |= <uint64_t>1 << shard


cdef void interest_send(engine_t* e, message_t* m, uint32_t shard, bint plain, queue_t** names, uint32_t names_count,
                        uint32_t redraws) noexcept nogil:
    """One message record to one shard, for its plain subscriptions and for the named queue groups."""
    cdef size_t queues_bytes = 0
    cdef size_t bytes, shown_bytes
    cdef uint32_t i
    cdef bint spilled
    cdef char* p
    cdef message_record_t* r
    for i in range(names_count):
        queues_bytes += 4 + padded(names[i].name_bytes)
    bytes = sizeof(message_record_t) + queues_bytes + m.subject_bytes + 1 + m.tail_bytes
    if sb_likely(m.shown == NULL):
        p = claim(e, shard, False, RECORD_MESSAGE, <uint32_t>bytes, &spilled)
    else:
        shown_bytes = (m.shown_bytes + 7) & ~<size_t>7
        bytes += sizeof(shown_record_t) + shown_bytes
        p = claim(e, shard, False, RECORD_SHOWN, <uint32_t>bytes, &spilled)
        (<shown_record_t*>p).shown_bytes = m.shown_bytes
        (<shown_record_t*>p).reserved = 0
        memcpy(p + sizeof(shown_record_t), m.shown, m.shown_bytes)
        p += sizeof(shown_record_t) + shown_bytes
    r = <message_record_t*>p
    r.account = m.account.id
    r.client_id = m.client_id
    r.imported = e.importing
    r.slot = m.slot
    r.header_bytes = m.header_bytes
    r.payload_bytes = m.payload_bytes
    r.subject_bytes = m.subject_bytes
    r.reply_bytes = m.reply_bytes
    r.queues_bytes = <uint32_t>queues_bytes
    r.queues = <uint16_t>names_count
    r.plain = plain
    r.redraws = <uint8_t>redraws
    p += sizeof(message_record_t)
    for i in range(names_count):
        (<uint32_t*>p)[0] = names[i].name_bytes
        memcpy(p + 4, names[i].name, names[i].name_bytes)
        p += 4 + padded(names[i].name_bytes)
    memcpy(p, m.subject, m.subject_bytes)
    p[m.subject_bytes] = c' '
    memcpy(p + m.subject_bytes + 1, m.tail, m.tail_bytes)
    commit(e, shard, False, spilled)
    e.stats.xs_out_msgs += 1
    e.stats.xs_out_bytes += bytes


cdef void interest_request(engine_t* e, uint32_t shard, const char* data, uint32_t n) noexcept nogil:
    """Bytes for the control side of another shard, behind every message that went there before."""
    cdef bint spilled
    cdef char* p = claim(e, shard, False, RECORD_REQUEST, n, &spilled)
    memcpy(p, data, n)
    commit(e, shard, False, spilled)


cdef bint send_interest(engine_t* e, uint32_t shard, int kind, uint64_t account, uint32_t count, const char* subject,
                        uint32_t subject_bytes, const char* queue, uint32_t queue_bytes) noexcept nogil:
    cdef bint spilled
    cdef uint32_t bytes = <uint32_t>sizeof(interest_record_t) + subject_bytes + queue_bytes
    cdef char* p = claim(e, shard, True, kind, bytes, &spilled)
    cdef interest_record_t* r = <interest_record_t*>p
    r.epoch = e.epoch
    r.account = account
    r.count = count
    r.subject_bytes = subject_bytes
    r.queue_bytes = queue_bytes
    p += sizeof(interest_record_t)
    if subject_bytes:
        memcpy(p, subject, subject_bytes)
    if queue_bytes:
        memcpy(p + subject_bytes, queue, queue_bytes)
    commit(e, shard, True, spilled)
    e.stats.control_out += 1
    return spilled


cdef bint tell_all(engine_t* e, int kind, uint64_t account, uint32_t count, const char* subject, uint32_t subject_bytes,
                   const char* queue, uint32_t queue_bytes) noexcept nogil:
    """One interest record to every other shard; whether any had to wait in an overflow queue."""
    cdef bint spilled = False
    cdef uint32_t i
    for i in range(e.shards):
        if i != e.shard and peer_listens(e, i):
            if send_interest(e, i, kind, account, count, subject, subject_bytes, queue, queue_bytes):
                spilled = True
    return spilled


cdef inline bint peer_listens(engine_t* e, uint32_t shard) noexcept nogil:
    """A dead shard is told nothing: its replacement gets a snapshot."""
    cdef uint32_t state = slot_state(e.peers[shard].slot)
    return state != SB_SLOT_DEAD


# ---- local interest ---------------------------------------------------------------------------------------------

cdef bint tell_change(engine_t* e, account_t* a, change_t change, bint added, const char* subject,
                      uint32_t subject_bytes, const char* queue, uint32_t queue_bytes) noexcept nogil:
    cdef uint64_t hash
    if change.kind == CHANGE_NONE:
        return False
    if change.kind == CHANGE_QUEUE:
        return tell_all(e, RECORD_QUEUE, a.id, change.members, subject, subject_bytes, queue, queue_bytes)
    if change.pattern:
        return tell_all(e, RECORD_PLAIN, a.id, 1 if added else 0, subject, subject_bytes, NULL, 0)
    hash = fingerprint(a, subject, subject_bytes)
    if added:
        if directory_add(&e.directory, hash, e.shard) < 0:
            # The directory is full: told like a pattern.
            e.stats.directory_full += 1
            return tell_all(e, RECORD_PLAIN, a.id, 1, subject, subject_bytes, NULL, 0)
    elif in_directory(e, hash):
        directory_remove(&e.directory, hash, e.shard)
    else:
        return tell_all(e, RECORD_PLAIN, a.id, 0, subject, subject_bytes, NULL, 0)
    if sb_unlikely(directory_has_watchers(&e.directory)):
        return tell_watchers(e, a, hash, subject, subject_bytes)
    return False


cdef bint tell_watchers(engine_t* e, account_t* a, uint64_t hash, const char* subject, uint32_t subject_bytes) noexcept nogil:
    """This shard's interest in a literal subject has changed: for those who watch it."""
    cdef uint64_t left = directory_shards(&e.directory, watch_key(hash)) & other_shards(e)
    cdef uint32_t i
    cdef bint spilled = False
    while left:
        i = <uint32_t>sb_lowest(left)
        left &= left - 1
        if peer_listens(e, i) and send_interest(e, i, RECORD_WATCHED, a.id, 0, subject, subject_bytes, NULL, 0):
            spilled = True
    return spilled


cdef inline bint in_directory(engine_t* e, uint64_t hash) noexcept nogil:
    """Whether the directory had room for this shard's interest in a literal subject."""
    return directory_shards(&e.directory, hash) >> e.shard & 1


cdef bint interest_subscribe(engine_t* e, account_t* a, subscription_t* sub, const char* subject, uint32_t subject_bytes,
                             const char* queue, uint32_t queue_bytes) noexcept nogil:
    """Add a subscription; True when telling the others has to wait."""
    cdef change_t change
    if e.shards > 1 and queue_bytes == 0:
        # Of a literal subject: a dozen lines far apart, which come while the sublist is at work.
        directory_prefetch(&e.directory, fingerprint(a, subject, subject_bytes))
    change = sublist_insert(a, sub, subject, subject_bytes, queue, queue_bytes)
    e.stats.subscriptions += 1
    if sb_unlikely(e.watches_count != 0) and change.kind != CHANGE_NONE:
        watch_changed(e, a, change.pattern, subject, subject_bytes)
    if e.shards == 1:
        return False
    return tell_change(e, a, change, True, subject, subject_bytes, queue, queue_bytes)


cdef bint interest_unsubscribe(engine_t* e, account_t* a, subscription_t* sub) noexcept nogil:
    """Take a subscription out; True when telling the others has to wait. The subscription is not freed."""
    cdef queue_t* q
    cdef change_t change
    cdef char* text = NULL
    cdef size_t subject_bytes = 0
    cdef uint32_t queue_bytes = 0
    cdef bint waits = False
    e.stats.subscriptions -= 1
    if e.shards > 1 or e.watches_count:
        q = sublist_queue(sub.home)
        if q != NULL or sub.home.count == 1:
            # The subject is gone with its last subscription: keep it to name it.
            subject_bytes = sublist_subject(sub.home, NULL)
            if q != NULL:
                queue_bytes = q.name_bytes
            text = <char*>mem_alloc(subject_bytes + queue_bytes)
            sublist_subject(sub.home, text)
            if q != NULL:
                memcpy(text + subject_bytes, q.name, queue_bytes)
    change = sublist_remove(a, sub)
    if text != NULL:
        if sb_unlikely(e.watches_count != 0) and change.kind != CHANGE_NONE:
            watch_changed(e, a, change.pattern, text, <uint32_t>subject_bytes)
        if e.shards > 1:
            waits = tell_change(e, a, change, False, text, <uint32_t>subject_bytes, text + subject_bytes, queue_bytes)
        free(text)
    return waits


# ---- remote interest --------------------------------------------------------------------------------------------

cdef inline uint64_t fingerprint(account_t* a, const char* subject, size_t n) noexcept nogil:
    return sb_hash(subject, n, a.seed)


cdef inline uint64_t other_shards(engine_t* e) noexcept nogil:
    """Every shard that there is but this one: what else stands in shared memory is no shard."""
    return (~<uint64_t>0 >> (64 - e.shards)) & ~(<uint64_t>1 << e.shard)


cdef uint64_t interest_lookup(engine_t* e, message_t* m) noexcept nogil:
    """Other shards with plain interest in the subject that e.match was made for."""
    if e.shards == 1:
        return 0
    return (e.match.remote | directory_shards(&e.directory, m.hash)) & other_shards(e)


cdef uint64_t interest_route(engine_t* e, message_t* m, route_t* r) noexcept nogil:
    """The same for a route: the directory is read again only when the key's partition has changed."""
    cdef uint64_t version
    if e.shards == 1:
        return 0
    version = directory_version(&e.directory, m.hash) + 1
    if r.directory_version != version:
        # The version was read first, so a change after it is seen next time.
        r.remote = (r.remote_patterns | directory_shards(&e.directory, m.hash)) & other_shards(e)
        r.directory_version = version
    return r.remote


cdef void forget_interest(engine_t* e, uint32_t shard) noexcept nogil:
    cdef uint32_t i
    for i in range(e.accounts_count):
        sublist_remote_forget(e.accounts[i], shard)


cdef void forget(engine_t* e, uint32_t shard) noexcept nogil:
    """Everything that is known of a shard's former process."""
    cdef peer_t* p = &e.peers[shard]
    cdef connection_t* c
    forget_interest(e, shard)
    e.stats.overflow_bytes -= p.data_spill.bytes + p.control_spill.bytes
    spill_free(&p.data_spill)
    spill_free(&p.control_spill)
    e.spilled_shards &= ~(<uint64_t>1 << shard)
    e.control_spilled_shards &= ~(<uint64_t>1 << shard)
    c = e.waiting
    while c != NULL:
        c.receipt_shards &= ~(<uint64_t>1 << shard)
        c = c.wait_next
    free(p.assembly)
    p.assembly = NULL
    p.in_snapshot = False
    if p.snapshot_awaited:
        p.snapshot_awaited = False
        e.snapshots_awaited -= 1


cdef void on_interest(engine_t* e, uint32_t shard, int kind, const char* body, size_t n) noexcept nogil:
    cdef peer_t* p = &e.peers[shard]
    cdef const interest_record_t* r = <const interest_record_t*>body
    cdef const char* subject = body + sizeof(interest_record_t)
    cdef const char* queue
    cdef account_t* a = e.account
    cdef int kind_of_subject
    if not record_interest_check(body, n):
        e.stats.ring_corrupt += 1
        return
    if r.epoch != p.epoch:
        if <int>(r.epoch - p.epoch) < 0:
            return                      # of a process that is gone
        interest_membership(e)          # a new one: the front said so before it could write anything
        if r.epoch != p.epoch:
            e.stats.ring_corrupt += 1
            return
    if slot_state(p.slot) == SB_SLOT_DEAD:
        return                          # nobody wants it any more
    if kind == RECORD_SNAPSHOT_BEGIN:
        forget_interest(e, shard)
        p.in_snapshot = True
        return
    if kind == RECORD_SNAPSHOT_END:
        watch_all(e)
        if p.in_snapshot and p.snapshot_awaited:
            p.snapshot_awaited = False
            e.snapshots_awaited -= 1
        p.in_snapshot = False
        return
    if p.snapshot_awaited and not p.in_snapshot:
        return                          # older than the snapshot, which has it
    queue = subject + r.subject_bytes
    if r.account != a.id:
        # Another shard may be the first to have someone of this account.
        a = account_told(e, r.account)
    kind_of_subject = subject_check(subject, r.subject_bytes) if r.subject_bytes else SUBJECT_INVALID
    if a == NULL or kind_of_subject == SUBJECT_INVALID or (kind == RECORD_QUEUE and r.queue_bytes == 0):
        e.stats.ring_corrupt += 1
        return
    if kind == RECORD_PLAIN:
        sublist_remote_plain(a, shard, r.count != 0, subject, r.subject_bytes)
    elif kind == RECORD_QUEUE:
        sublist_remote_queue(a, shard, e.shards, r.count, subject, r.subject_bytes, queue, r.queue_bytes)
    watch_changed(e, a, kind_of_subject == SUBJECT_PATTERN, subject, r.subject_bytes)


cdef bint interest_control(engine_t* e) noexcept nogil:
    """Apply what the others have told. Cheap when nothing has come: one load for each other shard."""
    cdef uint32_t i
    cdef peer_t* p
    cdef record_view v
    cdef int status
    cdef bint any = False
    cdef const stall_record_t* s
    for i in range(e.shards):
        if i == e.shard:
            continue
        p = &e.peers[i]
        if not ring_readable(p.control_in):
            continue
        any = True
        while True:
            status = ring_next(p.control_in, &v)
            if status <= 0:
                break
            e.stats.control_in += 1
            if v.kind == RECORD_STALL:
                s = <const stall_record_t*>v.body
                if v.bytes == sizeof(stall_record_t) and on_stall != NULL:
                    on_stall(e, s.slot, s.client_id, s.milliseconds)
            elif v.kind == RECORD_RECEIPT:
                on_receipt(e, i, <const char*>v.body, v.bytes)
            elif RECORD_PLAIN <= v.kind <= RECORD_SNAPSHOT_END or v.kind == RECORD_WATCHED:
                on_interest(e, i, v.kind, <const char*>v.body, v.bytes)
            else:
                e.stats.ring_corrupt += 1
        if status < 0:
            e.stats.ring_corrupt += 1
            ring_reader_skip(p.control_in)
        ring_release(p.control_in)
    return any


cdef void interest_receipts_wanted(engine_t* e, connection_t* c) noexcept nogil:
    """Ask every shard that the connection's messages went to; c.receipt_shards says who will answer."""
    cdef uint64_t left = c.sent_shards
    cdef uint32_t i
    cdef bint spilled
    cdef receipt_record_t* r
    c.sent_shards = 0
    c.receipt_shards = 0
    e.receipt_number += 1
    c.receipt_number = e.receipt_number
    while left:
        i = <uint32_t>sb_lowest(left)
        left &= left - 1
        if not peer_listens(e, i):
            continue
        r = <receipt_record_t*>claim(e, i, False, RECORD_RECEIPT_WANTED, <uint32_t>sizeof(receipt_record_t), &spilled)
        r.client_id = c.client_id
        r.slot = c.slot
        r.number = c.receipt_number
        commit(e, i, False, spilled)
        c.receipt_shards |= <uint64_t>1 << i
    c.stall_shards |= e.spilled_now
    e.spilled_now = 0


cdef void interest_give_receipts(engine_t* e) noexcept nogil:
    cdef uint32_t i
    cdef bint spilled
    cdef receipt_t* asked
    cdef receipt_record_t* r
    for i in range(e.receipts_count):
        asked = &e.receipts[i]
        if not peer_listens(e, asked.shard):
            continue
        r = <receipt_record_t*>claim(e, asked.shard, True, RECORD_RECEIPT, <uint32_t>sizeof(receipt_record_t), &spilled)
        r.client_id = asked.client_id
        r.slot = asked.slot
        r.number = asked.number
        commit(e, asked.shard, True, spilled)
        e.stats.control_out += 1
    e.receipts_count = 0


cdef void on_receipt(engine_t* e, uint32_t shard, const char* body, size_t n) noexcept nogil:
    cdef const receipt_record_t* r = <const receipt_record_t*>body
    cdef connection_t* c
    if n != sizeof(receipt_record_t):
        e.stats.ring_corrupt += 1
        return
    c = e.connections[r.slot] if r.slot < e.connections_count else NULL
    if c != NULL and c.client_id == r.client_id and c.receipt_number == r.number:
        c.receipt_shards &= ~(<uint64_t>1 << shard)


cdef void interest_stall(engine_t* e, message_t* m) noexcept nogil:
    """Ask the publisher's shard to slow it down: a receiver here is behind. Once a turn for each publisher."""
    cdef peer_t* p = &e.peers[m.from_shard]
    cdef bint spilled
    cdef stall_record_t* s
    if p.stalled_turn == e.turn and p.stalled_client == m.client_id:
        return
    p.stalled_turn = e.turn
    p.stalled_client = m.client_id
    s = <stall_record_t*>claim(e, <uint32_t>m.from_shard, True, RECORD_STALL, <uint32_t>sizeof(stall_record_t), &spilled)
    s.client_id = m.client_id
    s.slot = m.slot
    s.milliseconds = 5
    commit(e, <uint32_t>m.from_shard, True, spilled)


# ---- membership -------------------------------------------------------------------------------------------------

cdef struct snapshot_t:
    engine_t* e
    account_t* account
    uint32_t shard


cdef void snapshot_visit(void* context, members_t* home, bint pattern) noexcept nogil:
    cdef snapshot_t* s = <snapshot_t*>context
    cdef queue_t* q = sublist_queue(home)
    cdef size_t n
    cdef char* text
    n = sublist_subject(home, NULL)
    text = <char*>mem_alloc(n)
    sublist_subject(home, text)
    if q == NULL and not pattern and in_directory(s.e, fingerprint(s.account, text, n)):
        free(text)
        return
    if q == NULL:
        send_interest(s.e, s.shard, RECORD_PLAIN, s.account.id, 1, text, <uint32_t>n, NULL, 0)
    else:
        send_interest(s.e, s.shard, RECORD_QUEUE, s.account.id, home.count, text, <uint32_t>n, q.name, q.name_bytes)
    free(text)


cdef void send_snapshot(engine_t* e, uint32_t shard) noexcept nogil:
    cdef snapshot_t s
    cdef uint32_t i
    s.e = e
    s.shard = shard
    send_interest(e, shard, RECORD_SNAPSHOT_BEGIN, e.account.id, 0, NULL, 0, NULL, 0)
    for i in range(e.accounts_count):
        s.account = e.accounts[i]
        sublist_walk_interest(s.account, snapshot_visit, &s)
    send_interest(e, shard, RECORD_SNAPSHOT_END, e.account.id, 0, NULL, 0, NULL, 0)


cdef void interest_membership(engine_t* e) noexcept nogil:
    """Look at who is there, when the front (or a shard that became ready) says that it has changed."""
    cdef uint64_t now = membership_load(e.header)
    cdef uint32_t i, epoch, state
    cdef peer_t* p
    if now == e.membership:
        return
    e.membership = now
    watch_all(e)                        # what a dead one was interested in is taken out of the directory
    for i in range(e.shards):
        if i == e.shard:
            continue
        p = &e.peers[i]
        epoch = slot_epoch(p.slot)
        state = slot_state(p.slot)
        if <int>(epoch - p.epoch) > 0 or state == SB_SLOT_DEAD:
            if p.epoch != 0:
                forget(e, i)
            if <int>(epoch - p.epoch) > 0:
                p.epoch = epoch
                p.wants_snapshot = epoch > 1
        # It has taken its place in the rings: what is written from now on reaches it.
        if p.wants_snapshot and slot_attached_load(p.slot) == p.epoch:
            p.wants_snapshot = False
            send_snapshot(e, i)


cdef void interest_boot(engine_t* e) noexcept nogil:
    """Take this shard's place among the others. A replacement drops what was meant for its predecessor and learns the
    others' interest from snapshots; e.snapshots_awaited says how many are to come."""
    cdef uint32_t i, state
    cdef peer_t* p
    e.epoch = slot_epoch(e.slot)
    e.membership = membership_load(e.header)
    for i in range(e.shards):
        if i == e.shard:
            continue
        p = &e.peers[i]
        p.epoch = slot_epoch(p.slot)
        state = slot_state(p.slot)
        if e.epoch > 1:
            ring_reader_skip(p.data_in)
            ring_reader_skip(p.control_in)
            if state == SB_SLOT_READY or state == SB_SLOT_BOOTING:
                p.snapshot_awaited = True
                e.snapshots_awaited += 1
        if state == SB_SLOT_BOOTING and p.epoch > 1:
            p.wants_snapshot = True     # a replacement that may have come before us, and awaits ours too
    slot_attached_store(e.slot, e.epoch)
    membership_bump(e.header)
    for i in range(e.shards):
        if i != e.shard and e.epoch > 1:
            e.wake_shards |= <uint64_t>1 << i


# ---- end of turn ------------------------------------------------------------------------------------------------

cdef bint drain_spill(engine_t* e, spill_queue_t* q, ring_writer* w) noexcept nogil:
    """Move records from the overflow queue to the ring, large ones in fragments. Whether it is empty."""
    cdef spill_t* s
    cdef void* body
    cdef uint32_t room, piece
    cdef fragment_record_t* f
    while q.first != NULL:
        s = q.first
        room = ring_body_bytes_max(w)
        if s.bytes <= room:
            body = ring_claim(w, s.bytes, <uint16_t>s.kind, 0)
            if body == NULL:
                return False
            memcpy(body, <char*>s + sizeof(spill_t), s.bytes)
            ring_commit(w)
        else:
            while s.sent < s.bytes:
                piece = s.bytes - s.sent
                if piece > room - sizeof(fragment_record_t):
                    piece = room - <uint32_t>sizeof(fragment_record_t)
                f = <fragment_record_t*>ring_claim(w, piece + <uint32_t>sizeof(fragment_record_t), RECORD_FRAGMENT,
                                                   <uint16_t>s.kind)
                if f == NULL:
                    return False
                f.total_bytes = s.bytes
                f.offset = s.sent
                memcpy(<char*>f + sizeof(fragment_record_t), <char*>s + sizeof(spill_t) + s.sent, piece)
                ring_commit(w)
                s.sent += piece
        e.stats.overflow_bytes -= s.bytes
        spill_pop(q)
    return True


cdef void interest_drain_spills(engine_t* e) noexcept nogil:
    """Give waiting records another try."""
    cdef uint64_t left = e.spilled_shards | e.control_spilled_shards
    cdef uint32_t i
    while left:
        i = <uint32_t>sb_lowest(left)
        left &= left - 1
        if drain_spill(e, &e.peers[i].control_spill, e.peers[i].control_out):
            e.control_spilled_shards &= ~(<uint64_t>1 << i)
        if drain_spill(e, &e.peers[i].data_spill, e.peers[i].data_out):
            e.spilled_shards &= ~(<uint64_t>1 << i)
        e.told_shards |= <uint64_t>1 << i


cdef void interest_publish(engine_t* e) noexcept nogil:
    """Make the turn's records visible, control before data, then wake who sleeps. Before any socket is written."""
    cdef uint64_t told = e.told_shards
    cdef uint64_t wake = e.wake_shards
    cdef uint32_t i
    if told | wake == 0:
        return
    while told:
        i = <uint32_t>sb_lowest(told)
        told &= told - 1
        if ring_publish(e.peers[i].control_out):
            wake |= <uint64_t>1 << i
    told = e.told_shards
    while told:
        i = <uint32_t>sb_lowest(told)
        told &= told - 1
        if ring_publish(e.peers[i].data_out):
            wake |= <uint64_t>1 << i
    e.told_shards = 0
    e.wake_shards = 0
    if wake == 0:
        return
    # SYNC sleep: pairs with the fence between "asleep" and the last look at the tails in the loop. One of the two
    #             sees the other's store, so a record is never left with its reader asleep.
    doorbell_fence()
    while wake:
        i = <uint32_t>sb_lowest(wake)
        wake &= wake - 1
        if doorbell_ring(e.peers[i].slot, e.peers[i].eventfd):
            e.stats.wakeups_sent += 1


cdef void interest_free(engine_t* e) noexcept nogil:
    cdef uint32_t i
    for i in range(e.shards):
        if i != e.shard and e.shards > 1:
            spill_free(&e.peers[i].data_spill)
            spill_free(&e.peers[i].control_spill)
            free(e.peers[i].assembly)
            forget_interest(e, i)
