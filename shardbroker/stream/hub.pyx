# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The Python face of consumers: made, changed, asked, saved. Shard thread only; nothing here waits.

A subclass of Hub gives it a host: the engine of a shard (stream/host.pyx), or a test's lists (stream/probe.pyx).
"""
cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from shardbroker.hot.memory cimport mem_alloc
from shardbroker.store.filter cimport filter_free, filter_new
from shardbroker.store.handle cimport Log
from shardbroker.store.log cimport log_has, log_next
from shardbroker.store.model cimport LOG_MORE, LOG_OK, filter_t, log_view_t
from shardbroker.stream.acks cimport acks_answer, nak_delayed
from shardbroker.stream.consumer cimport (
    ACK_ALL, ACK_EXPLICIT, ACK_NONE, EVENT_ACKED, EVENT_INACTIVE, EVENT_MAX_DELIVERIES, EVENT_NAKED, EVENT_NAK_DELAY,
    EVENT_REQUEST, EVENT_RESUMED, EVENT_SAVE, EVENT_TERMINATED, LETTER_ACK, LETTER_FLOW, LETTER_REQUEST,
    RETENTION_INTEREST, RETENTION_LIMITS, RETENTION_WORK_QUEUE, consumer_advance, consumer_changed,
    consumer_expire_all, consumer_free, consumer_interest, consumer_needs, consumer_new, consumer_recount,
    consumer_schedule, consumer_set_waits, consumer_start, consumer_status, consumer_t, consumer_wake, consumer_watch, count_new,
    event_t, host_t, hub_free, hub_init, hub_post, hub_refresh, retained_on_purged, retained_on_removed,
    retained_on_stored, retained_settled, retained_wants, settings_t, text_t)
from shardbroker.stream.pending cimport (
    pending_add, pending_add_exceeded, pending_clear, pending_delay, pending_find, pending_t, pending_wait)
from shardbroker.stream.requests cimport pull_t, requests_add, requests_release, requests_sweep
from shardbroker.stream.state cimport consumer_encode

EVENTS = {"max_deliveries": EVENT_MAX_DELIVERIES, "naked": EVENT_NAKED, "terminated": EVENT_TERMINATED, "acked": EVENT_ACKED,
          "nak_delay": EVENT_NAK_DELAY, "request": EVENT_REQUEST, "inactive": EVENT_INACTIVE, "resumed": EVENT_RESUMED,
          "save": EVENT_SAVE}
ACKS = {"none": ACK_NONE, "all": ACK_ALL, "explicit": ACK_EXPLICIT}
RETENTIONS = {"limits": RETENTION_LIMITS, "interest": RETENTION_INTEREST, "workqueue": RETENTION_WORK_QUEUE}
LETTERS = {"ack": LETTER_ACK, "request": LETTER_REQUEST, "flow": LETTER_FLOW}
NS_MAX = 1 << 62                        # of any duration that is kept: no sum with a time overflows


cdef void set_text(text_t* t, bytes value) except *:
    """NUL-terminated, for those that are C constants' siblings."""
    free(t.bytes)
    t.n = <uint32_t>len(value)
    t.bytes = <char*>mem_alloc(t.n + <size_t>1)
    memcpy(t.bytes, <const char*>value, t.n)
    t.bytes[t.n] = 0


@cython.no_gc_clear
cdef class Hub:
    """All consumers of a shard. set_host is the subclass's first call."""

    cdef void set_host(self, const host_t* host, seed) except *:
        hub_init(&self.h, host, seed)

    def __dealloc__(self):
        hub_free(&self.h)

    def take_events(self):
        """(kind, consumer id, seq, dseq, deliveries, ns, text, reply) of each, oldest first; see EVENTS."""
        cdef uint32_t i
        cdef event_t* v
        cdef list out = []
        for i in range(self.h.events_count):
            v = &self.h.events[i]
            text = v.text[:v.text_bytes] if v.text_bytes else b""
            reply = v.text[v.text_bytes:v.text_bytes + v.reply_bytes] if v.reply_bytes else b""
            free(v.text)
            out.append((v.kind, v.consumer, v.seq, v.dseq, v.deliveries, v.ns, text, reply))
        self.h.events_count = 0
        return out

    def events_waiting(self):
        return self.h.events_count > 0

    def dirty(self):
        """Ids of the consumers whose state has changed since it was taken to be saved; they are no longer told."""
        cdef consumer_t* c = self.h.dirty
        cdef consumer_t* following
        cdef list out = []
        self.h.dirty = NULL
        self.h.save_asked = False
        self.h.save_wanted = False
        while c != NULL:
            following = c.dirty_next
            c.dirty = False
            c.dirty_next = NULL
            out.append(c.id)
            c = following
        return out

    def delivered(self):
        """(messages, bytes) that all consumers have delivered."""
        return self.h.delivered_msgs, self.h.delivered_bytes


@cython.no_gc_clear
cdef class Retained:
    """The consumers of one stream, as its log and its capture see them. `retention`: limits, interest or workqueue."""

    def __init__(self, Hub hub, Log log, str retention):
        self.hub = hub
        self.log = log
        self.s.log = log.log
        self.s.retention = RETENTIONS[retention]

    def __dealloc__(self):
        free(self.s.consumers)
        free(self.s.settled)

    def set_retention(self, str retention):
        self.s.retention = RETENTIONS[retention]

    def on_stored(self):
        """Messages have become durable."""
        retained_on_stored(&self.s)

    def on_removed(self, uint64_t seq, bytes subject, int reason):
        """A message is gone from the log."""
        retained_on_removed(&self.s, seq, subject, <uint32_t>len(subject), reason)

    def on_purged(self):
        """Many messages are gone, or sequences were skipped."""
        retained_on_purged(&self.s)

    def wants(self, bytes subject):
        """Whether any consumer would get a message of this subject."""
        return bool(retained_wants(&self.s, subject, <uint32_t>len(subject)))

    def settle_unneeded(self, uint64_t from_seq, uint64_t to_seq, most=100000):
        """Let the next run remove what no consumer needs, in this range. Where it stopped: to_seq + 1 at the end."""
        cdef log_view_t v
        cdef uint64_t at = from_seq
        cdef uint64_t left = most
        cdef uint32_t k
        cdef int status
        cdef bint needed
        while at <= to_seq and left:
            left -= 1
            status = log_next(self.s.log, at, NULL, &v)
            if status == LOG_MORE:
                at = v.seq
                continue
            if status != LOG_OK or v.seq > to_seq:
                return to_seq + 1
            needed = False
            for k in range(self.s.count):
                if consumer_needs(self.s.consumers[k], v.seq, v.subject, v.subject_bytes):
                    needed = True
                    break
            if not needed:
                retained_settled(&self.s, &self.hub.h, v.seq)
            at = v.seq + 1
        return at


@cython.no_gc_clear
cdef class Consumer:
    """One consumer, native. Made with its settings, placed with start_at or load, set going with start.

    texts: deliver (b"" for pull), ack_prefix, flow_prefix, the advisories' subjects, and the lines of three statuses, by
    the names of consumer_t. settings: by the names of settings_t.
    """

    def __init__(self, Retained stream, uint64_t id, patterns, waits, texts, settings, bint saved_on_disk):
        self.stream = stream
        self.id = id
        self.c = consumer_new(&stream.hub.h, &stream.s, id)
        self.c.saved_on_disk = saved_on_disk
        self.c.change = 1
        self.set_filter(patterns)
        self.set_waits(waits)
        self.set_texts(texts)
        self.set_settings(settings)

    def __dealloc__(self):
        if self.c != NULL:
            consumer_free(self.c)

    def close(self):
        """Out of every list and freed. Its Retained and its log are still there."""
        if self.c != NULL:
            consumer_free(self.c)
            self.c = NULL

    cdef consumer_t* open(self) except NULL:
        if self.c == NULL:
            raise RuntimeError("this consumer is closed")
        hub_refresh(self.c.hub)
        return self.c

    def set_filter(self, patterns):
        """Patterns of subjects, as bytes; none: everything."""
        cdef consumer_t* c = self.open()
        cdef uint32_t n = <uint32_t>len(patterns)
        cdef const char** list
        cdef uint32_t* lengths
        cdef uint32_t i
        cdef bytes pattern
        cdef filter_t* filter = NULL
        if n:
            list = <const char**>mem_alloc(n * (sizeof(char*) + sizeof(uint32_t)))
            lengths = <uint32_t*>(list + n)
            for i in range(n):
                pattern = patterns[i]
                list[i] = pattern
                lengths[i] = <uint32_t>len(pattern)
            filter = filter_new(self.stream.log.log, list, lengths, n)
            free(list)
        if c.filter != NULL:
            filter_free(c.filter)
        c.filter = filter

    def set_waits(self, waits):
        """ack_wait, or the steps of backoff, in ns; at least one."""
        cdef consumer_t* c = self.open()
        cdef uint32_t n = <uint32_t>len(waits)
        cdef uint64_t* list = <uint64_t*>mem_alloc(n * sizeof(uint64_t))
        cdef uint32_t i
        for i in range(n):
            list[i] = min(waits[i], NS_MAX)
        consumer_set_waits(c, list, n)
        free(list)
        consumer_schedule(c)

    def set_texts(self, texts):
        cdef consumer_t* c = self.open()
        set_text(&c.deliver, texts["deliver"])
        set_text(&c.ack_prefix, texts["ack_prefix"])
        set_text(&c.flow_prefix, texts["flow_prefix"])
        set_text(&c.advisory_naked, texts["advisory_naked"])
        set_text(&c.advisory_terminated, texts["advisory_terminated"])
        set_text(&c.advisory_max_deliveries, texts["advisory_max_deliveries"])
        set_text(&c.metric_acked, texts["metric_acked"])
        set_text(&c.over_batch, texts["over_batch"])
        set_text(&c.over_expires, texts["over_expires"])
        set_text(&c.over_bytes, texts["over_bytes"])

    def set_settings(self, settings):
        cdef settings_t* s = &self.open().settings
        s.ack_policy = ACKS[settings["ack_policy"]]
        s.push = settings["push"]
        s.headers_only = settings["headers_only"]
        s.flow_control = settings["flow_control"]
        s.replay_original = settings["replay_original"]
        s.direct = settings["direct"]
        s.max_ack_pending = min(settings["max_ack_pending"], 0xFFFFFFFF)
        s.max_deliver = min(settings["max_deliver"], 0xFFFFFFFF)
        s.max_waiting = min(settings["max_waiting"], 0xFFFFFFFF)
        s.max_batch = min(settings["max_batch"], 0xFFFFFFFF)
        s.sample_percent = min(settings["sample_percent"], 100)
        s.max_expires_ns = min(settings["max_expires_ns"], NS_MAX)
        s.max_bytes = min(settings["max_bytes"], NS_MAX)
        s.heartbeat_ns = min(settings["heartbeat_ns"], NS_MAX)
        s.inactive_ns = min(settings["inactive_ns"], NS_MAX)
        s.rate_bytes = min(settings["rate_bytes"], NS_MAX)
        s.rate_burst = max(1, min(settings["rate_burst"], NS_MAX))
        consumer_wake(self.c)
        consumer_schedule(self.c)

    def pause(self, int64_t until_ns):
        """Deliver nothing before that Unix time; 0: go on."""
        cdef consumer_t* c = self.open()
        cdef int64_t ns = until_ns - c.hub.time_offset
        c.settings.pause_until_ns = <uint64_t>ns if until_ns and ns > <int64_t>c.hub.now_ns else 0
        consumer_wake(c)
        consumer_schedule(c)

    # ---- where it stands ----

    def start_at(self, uint64_t seq, skips=(), uint64_t resume=0):
        """A new consumer. skips: sequences to deliver before going on behind `resume` (last per subject)."""
        cdef consumer_t* c = self.open()
        c.seq = seq
        c.dseq = 1
        c.delivered_seq = c.floor_seq = seq - 1 if seq else 0
        c.floor_dseq = 0
        self.set_skips(skips, resume)

    cdef void set_skips(self, skips, uint64_t resume) except *:
        cdef consumer_t* c = self.c
        cdef uint64_t i
        free(c.skips)
        c.skips = NULL
        c.skips_at = 0
        c.skips_count = len(skips)
        c.skips_resume = resume
        if c.skips_count:
            c.skips = <uint64_t*>mem_alloc(c.skips_count * sizeof(uint64_t))
            for i in range(c.skips_count):
                c.skips[i] = skips[i]

    def load(self, uint64_t dseq, uint64_t seq, uint64_t delivered_seq, uint64_t floor_dseq, uint64_t floor_seq, entries,
             exceeded, int64_t delivered_time=0, int64_t acked_time=0, skips=(), uint64_t resume=0):
        """As it was saved. entries: (seq, dseq, sent Unix ns, due Unix ns or 0, redeliveries), by seq; exceeded: (seq, dseq,
        redeliveries). Entries whose message is gone are left out."""
        cdef consumer_t* c = self.open()
        cdef pending_t* p
        cdef int64_t offset = c.hub.time_offset
        pending_clear(&c.table)
        c.seq = seq
        c.dseq = dseq
        c.delivered_seq = delivered_seq
        c.floor_dseq = floor_dseq
        c.floor_seq = floor_seq
        c.delivered_time = delivered_time
        c.acked_time = acked_time
        self.set_skips(skips, resume)
        kept = []
        for entry in entries:
            if log_has(c.stream.log, entry[0]):
                p = pending_add(&c.table, entry[0], entry[1])
                p.redeliveries = entry[4]
                p.saved = 1
                if p.redeliveries:
                    c.table.redelivered += 1
                kept.append(entry)
        for entry in exceeded:
            if log_has(c.stream.log, entry[0]):
                p = pending_add_exceeded(&c.table, entry[0], entry[1], entry[2])
                p.saved = 1
        # Wait lists are in the order of sending.
        kept.sort(key=sent_of)
        for entry in kept:
            p = pending_find(&c.table, entry[0])
            if entry[3]:
                pending_delay(&c.table, p, <uint64_t>max(1, entry[3] - offset))
            elif entry[2] - offset <= 0:
                pending_delay(&c.table, p, 1)
            else:
                pending_wait(&c.table, p, <uint64_t>(entry[2] - offset))
        if len(kept) == len(entries):
            return
        # Some are gone, as if they had been acknowledged.
        if c.table.count == 0:
            c.floor_seq = max(c.floor_seq, c.delivered_seq)
            c.floor_dseq = c.dseq - 1
        elif c.floor_seq < c.table.order.first.seq - 1:
            c.floor_seq = c.table.order.first.seq - 1
            c.floor_dseq = c.table.order.first.dseq - 1

    def start(self):
        consumer_start(self.open())

    def recount(self):
        """Count what is pending anew: its filter has changed."""
        consumer_recount(self.open())
        consumer_wake(self.c)

    def advance(self, uint64_t first_seq, bint forget):
        """After a purge; see consumer_advance."""
        consumer_advance(self.open(), first_seq, forget)

    def info(self):
        """The numbers of CONSUMER.INFO, exact as of now."""
        cdef consumer_t* c = self.open()
        count_new(c)
        if c.settings.push:
            consumer_interest(c)
        else:
            requests_sweep(c, False)
        consumer_schedule(c)
        return {
            "delivered_dseq": c.dseq - 1, "delivered_seq": c.delivered_seq, "floor_dseq": c.floor_dseq, "floor_seq": c.floor_seq,
            "ack_pending": c.table.count, "redelivered": c.table.redelivered, "waiting": c.requests_count, "pending": c.pending,
            "active": bool(c.active), "delivered_time": c.delivered_time, "acked_time": c.acked_time, "seq": c.seq,
            "paused": c.settings.pause_until_ns > c.hub.now_ns, "queued": c.table.queued}

    def entries(self):
        """(seq, dseq, redeliveries, state) of all that is pending, in order of first delivery."""
        cdef pending_t* p = self.open().table.order.first
        cdef list out = []
        while p != NULL:
            out.append((p.seq, p.dseq, p.redeliveries, p.state))
            p = p.order_next
        return out

    # ---- what is done to it ----

    def post(self, str kind, bytes subject, bytes reply, bytes payload):
        """As if a sink had taken this message in."""
        cdef consumer_t* c = self.open()
        hub_post(c.hub, c, LETTERS[kind], subject, <uint32_t>len(subject), reply, <uint32_t>len(reply), payload,
                 <uint32_t>len(payload))

    def request(self, bytes reply, int64_t batch, int64_t expires_ns, int64_t max_bytes, bint no_wait, int64_t heartbeat_ns):
        """A pull request that was read by Python."""
        cdef pull_t pull
        pull.batch = batch
        pull.expires_ns = expires_ns
        pull.max_bytes = max_bytes
        pull.no_wait = no_wait
        pull.heartbeat_ns = heartbeat_ns
        requests_add(self.open(), &pull, reply, <uint32_t>len(reply))

    def status(self, bytes reply, bytes line):
        """Answer a request with a status line, such as b"400 Bad Request"."""
        consumer_status(self.open(), reply, <uint32_t>len(reply), line, 0, 0, False)

    def nak(self, uint64_t seq, int64_t delay_ns):
        nak_delayed(self.open(), seq, delay_ns)

    def release(self, bytes line):
        """All waiting requests end with this status."""
        requests_release(self.open(), line)

    def has_interest(self):
        """Push: whether someone listens now."""
        return bool(consumer_interest(self.open()))

    def set_deliver(self, bytes subject):
        """Push: deliver elsewhere from now on; what is pending is delivered there again."""
        set_text(&self.open().deliver, subject)
        consumer_watch(self.c)
        consumer_expire_all(self.c)
        consumer_interest(self.c)
        consumer_wake(self.c)

    def needs(self, uint64_t seq, bytes subject):
        return bool(consumer_needs(self.open(), seq, subject, <uint32_t>len(subject)))

    # ---- saving ----

    def save(self, bint whole):
        """(change, blob): what is to be written, and which change it brings the saved state to. See state.pyx."""
        return consumer_encode(self.open(), whole)

    def saved(self, uint64_t change):
        """It is written: acknowledgements that waited for it are answered."""
        acks_answer(self.open(), change)

    def save_failed(self):
        """It is not: the next save has everything."""
        cdef consumer_t* c = self.open()
        c.save_whole = True
        consumer_changed(c)


def sent_of(entry):
    return entry[2]
