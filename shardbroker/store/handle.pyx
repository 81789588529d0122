# cython: language_level=3
"""Store and Log for Python: the control side's slow paths, and tests. Needs the GIL; takes it for callbacks.

Opening and closing release the GIL, so that a large log can be opened in a thread while the shard works.
"""
import errno
import os
import time
from typing import NamedTuple

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from shardbroker.store.batch cimport batch_moved, batch_quiet
from shardbroker.store.files cimport files_posix, files_reading, files_t
from shardbroker.store.filter cimport filter_free, filter_id, filter_new, filter_subject
from shardbroker.store.log cimport (
    log_append, log_close, log_deadline, log_deleted, log_first_for, log_get, log_has, log_last_for, log_last_seqs,
    log_next, log_open, log_options_t, log_pending, log_pending_subjects, log_previous, log_purge, log_remove,
    log_seq_at, log_set_limits, log_skip, log_subject, log_submit, log_sync, log_tick)
from shardbroker.store.model cimport (
    LOG_MORE, LOG_OK, REMOVED_DELETED, STORAGE_FILE, STORAGE_MEMORY, SYNC_ALWAYS, SYNC_INTERVAL, log_limits_t,
    log_view_t, range_t, subject_t)
from shardbroker.store.subjects cimport name_bytes, name_text
from shardbroker.store.writer cimport store_collect, store_free, store_idle, store_new, store_run, store_wait

TEXTS = {
    -1: "no message found",
    -2: "no space left for the stream's log",
    -3: "the stream's log failed to write and takes no more until it is opened again",
    -4: "maximum messages exceeded",
    -5: "maximum bytes exceeded",
    -6: "maximum messages per subject exceeded",
    -7: "message too large",
    -8: "message is damaged",
    -9: "bad subject",
}


class StoreError(Exception):
    """A call that could not be done; `code` is one of the LOG_ numbers of store/model.pxd."""

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(text or TEXTS.get(code, f"store error {code}"))
        self.code = code


class Message(NamedTuple):
    seq: int
    time_ns: int
    subject: bytes
    headers: bytes
    payload: bytes
    expires_ns: int


class SubjectState(NamedTuple):
    msgs: int
    first: int
    last: int


class State(NamedTuple):
    msgs: int
    bytes: int
    first_seq: int
    first_time_ns: int
    last_seq: int
    last_time_ns: int
    num_subjects: int
    num_deleted: int


cdef class Store:
    """The helper threads of one shard, and the eventfd that tells of finished work."""

    def __init__(self, int threads=2, files=None, bint read_only=False):
        cdef const files_t* table = files_reading() if read_only else files_posix()
        if files is not None:
            table = <const files_t*><size_t>files.address
        self.files = files
        self.eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.store = store_new(table, threads, self.eventfd)

    def collect(self):
        try:
            os.eventfd_read(self.eventfd)
        except BlockingIOError:
            pass
        return store_collect(self.store)

    def run(self):
        return store_run(self.store)

    @property
    def at_once(self):
        """Whether the next small write may be synced in the caller's thread. Ends with the first that is."""
        return bool(self.store.at_once)

    @at_once.setter
    def at_once(self, bint may):
        self.store.at_once = may

    @property
    def quick_ns(self):
        """What a small write and its sync take, ns, a moving average; 0 before the first."""
        return self.store.quick_ns

    def idle(self):
        return store_idle(self.store)

    def wait(self, double seconds=10.0):
        cdef double until = time.monotonic() + seconds
        while not store_idle(self.store):
            with nogil:
                store_wait(self.store, 100000000)
            self.collect()
            if time.monotonic() > until:
                raise TimeoutError("the store's helpers are not done")

    def close(self):
        """After all of its logs."""
        if self.store != NULL:
            with nogil:
                store_free(self.store)
            self.store = NULL
            os.close(self.eventfd)

    def __dealloc__(self):
        if self.store != NULL:
            store_free(self.store)
            os.close(self.eventfd)


cdef class Filter:
    """What a consumer wants of a log."""

    def __init__(self, Log log not None, patterns=()):
        cdef uint32_t count = len(patterns)
        cdef list kept = [bytes(p) for p in patterns]
        cdef const char** texts = <const char**>malloc((count + 1) * sizeof(char*))
        cdef uint32_t* lengths = <uint32_t*>malloc((count + 1) * sizeof(uint32_t))
        cdef uint32_t i
        try:
            for i in range(count):
                if not kept[i]:
                    raise ValueError("an empty pattern")
                texts[i] = <const char*><bytes>kept[i]
                lengths[i] = <uint32_t>len(kept[i])
            self.filter = filter_new(log.open_log(), texts, lengths, count)
        finally:
            free(<void*>texts)
            free(lengths)
        self.owner = log
        log.filters.append(self)

    def matches(self, bytes subject not None):
        return filter_subject(self.filter, subject, <uint32_t>len(subject))

    def close(self):
        if self.filter != NULL:
            filter_free(self.filter)
            self.filter = NULL
            self.owner.filters.remove(self)

    def __dealloc__(self):
        if self.filter != NULL:
            filter_free(self.filter)


cdef filter_t* filter_of(Filter f) except? NULL:
    if f is None:
        return NULL
    if f.filter == NULL:
        raise ValueError("the filter is closed")
    return f.filter


cdef void removed(void* context, log_t* log, uint64_t seq, const char* subject, uint32_t subject_bytes, bint empty,
                  int reason) noexcept nogil:
    with gil:
        call_removed(<Log>context, seq, subject[:subject_bytes], empty, reason)


cdef void durable(void* context, log_t* log) noexcept nogil:
    with gil:
        call_durable(<Log>context)


cdef void damage(void* context, log_t* log, uint64_t first, uint64_t last) noexcept nogil:
    with gil:
        call_damage(<Log>context, first, last)


cdef object call_removed(Log log, uint64_t seq, bytes subject, bint empty, int reason):
    if log.on_removed is not None:
        log.on_removed(seq, subject, bool(empty), reason)


cdef object call_durable(Log log):
    if log.on_durable is not None:
        log.on_durable()


cdef object call_damage(Log log, uint64_t first, uint64_t last):
    if log.on_damage is not None:
        log.on_damage(first, last)


cdef void limits_set(log_limits_t* limits, dict given):
    memset(limits, 0, sizeof(log_limits_t))
    limits.max_msgs = given["max_msgs"]
    limits.max_bytes = given["max_bytes"]
    limits.max_msgs_per_subject = given["max_msgs_per_subject"]
    limits.max_age_ns = given["max_age_ns"]
    limits.discard_new = given["discard_new"]
    limits.discard_new_per_subject = given["discard_new_per_subject"]


cdef class Log:
    """The messages of one stream. See handle.pyi for the meaning of each call."""

    def __init__(self, Store store not None, directory=None, *, int64_t sync_interval_ns=0, uint64_t segment_bytes_max=0,
                 uint64_t first_seq=0, max_msgs=0, max_bytes=0, max_msgs_per_subject=0, max_age_ns=0, discard_new=False,
                 discard_new_per_subject=False, int64_t now_ns=0):
        cdef log_options_t options
        cdef bytes path = b"" if directory is None else os.fsencode(directory)
        cdef int answer
        memset(&options, 0, sizeof(options))
        if len(path) > 3800 or b"\0" in path:
            raise ValueError("a directory's path is at most 3800 bytes")
        options.directory = path
        options.storage = STORAGE_MEMORY if directory is None else STORAGE_FILE
        options.sync = SYNC_INTERVAL if sync_interval_ns else SYNC_ALWAYS
        options.sync_interval_ns = sync_interval_ns
        options.segment_bytes_max = segment_bytes_max
        options.first_seq = first_seq
        options.now_ns = now_ns
        limits_set(&options.limits, {
            "max_msgs": max_msgs, "max_bytes": max_bytes, "max_msgs_per_subject": max_msgs_per_subject,
            "max_age_ns": max_age_ns, "discard_new": discard_new, "discard_new_per_subject": discard_new_per_subject})
        self.store = store
        self.filters = []
        with nogil:
            answer = log_open(store.store, &options, &self.log)
        if answer:
            raise OSError(-answer, errno.errorcode.get(-answer, ""), directory)
        self.log.context = <void*>self
        self.log.on_removed = removed
        self.log.on_durable = durable
        self.log.on_damage = damage

    cdef log_t* open_log(self) except NULL:
        if self.log == NULL:
            raise ValueError("the log is closed")
        return self.log

    def quiet(self):
        """Whether nothing is being written: then, and in the same turn, its directory may be renamed; moved() says so."""
        return bool(batch_quiet(self.open_log()))

    def moved(self, directory):
        cdef bytes path = os.fsencode(directory)
        if not batch_quiet(self.open_log()):
            raise RuntimeError("the log is being written")
        if len(path) > 3800 or b"\0" in path:
            raise ValueError("a directory's path is at most 3800 bytes")
        if self.log.storage == STORAGE_FILE:
            batch_moved(self.log, path)

    def close(self):
        """Writes and syncs what is left. Blocks."""
        if self.log != NULL:
            for filter in list(self.filters):
                filter.close()
            with nogil:
                log_close(self.log)
            self.log = NULL

    @property
    def first_seq(self):
        return self.open_log().first_seq

    @property
    def last_seq(self):
        return self.open_log().next_seq - 1

    @property
    def durable_seq(self):
        return self.open_log().durable_seq

    @property
    def ticket(self):
        return self.open_log().ticket

    @property
    def durable_ticket(self):
        return self.open_log().durable_ticket

    @property
    def synced_ticket(self):
        return self.open_log().synced_ticket

    @property
    def status(self):
        return self.open_log().state

    @property
    def error_number(self):
        return self.open_log().error_number

    def set_limits(self, *, max_msgs=0, max_bytes=0, max_msgs_per_subject=0, max_age_ns=0, discard_new=False,
                   discard_new_per_subject=False, int64_t now_ns=0):
        cdef log_limits_t limits
        limits_set(&limits, {
            "max_msgs": max_msgs, "max_bytes": max_bytes, "max_msgs_per_subject": max_msgs_per_subject,
            "max_age_ns": max_age_ns, "discard_new": discard_new, "discard_new_per_subject": discard_new_per_subject})
        log_set_limits(self.open_log(), &limits, now_ns or time.time_ns())

    def append(self, bytes subject not None, bytes payload not None, bytes headers=b"", int64_t time_ns=0, int64_t ttl_ns=0):
        cdef bytes body = headers + payload if headers else payload
        cdef log_t* log = self.open_log()
        cdef uint64_t seq
        if len(body) > 0x7FFFFFFF:
            raise StoreError(-7)
        if time_ns == 0:
            time_ns = time.time_ns()
        seq = log_append(log, subject, <uint32_t>len(subject), <int32_t>len(headers) if headers else -1, body,
                         <uint32_t>len(body), time_ns, ttl_ns)
        if seq == 0:
            raise StoreError(log.error)
        return seq

    def skip(self, uint64_t next_seq):
        log_skip(self.open_log(), next_seq)

    def remove(self, uint64_t seq, bint erase=False):
        return log_remove(self.open_log(), seq, erase, REMOVED_DELETED) == LOG_OK

    def purge(self, Filter filter=None, uint64_t before_seq=0, uint64_t keep=0):
        return log_purge(self.open_log(), filter_of(filter), before_seq, keep)

    def submit(self):
        return log_submit(self.open_log())

    def sync(self):
        log_sync(self.open_log())

    def tick(self, int64_t now_ns):
        return log_tick(self.open_log(), now_ns) == LOG_MORE

    def retry(self):
        """After LOG_NO_SPACE: do not wait, the next change or tick may try again."""
        self.open_log().retry_ns = 0

    def deadline(self):
        return log_deadline(self.open_log())

    cdef object message(self, int answer, log_view_t* v):
        cdef int32_t n
        if answer != LOG_OK:
            return None
        n = v.header_bytes if v.header_bytes > 0 else 0
        return Message(v.seq, v.time_ns, v.subject[:v.subject_bytes], v.payload[:n], v.payload[n:v.payload_bytes], v.expires_ns)

    def get(self, uint64_t seq):
        cdef log_view_t v
        return self.message(log_get(self.open_log(), seq, &v), &v)

    def tail(self, uint64_t seq):
        """What is sent behind "subject sid ": sizes, CRLF, headers, payload, CRLF. None: no such message."""
        cdef log_view_t v
        if log_get(self.open_log(), seq, &v) != LOG_OK:
            return None
        return v.tail[:v.tail_bytes]

    def last_for(self, bytes subject not None):
        cdef log_view_t v
        return self.message(log_last_for(self.open_log(), subject, <uint32_t>len(subject), &v), &v)

    def first_for(self, bytes subject not None):
        cdef log_view_t v
        return self.message(log_first_for(self.open_log(), subject, <uint32_t>len(subject), &v), &v)

    def next(self, uint64_t from_seq, Filter filter=None):
        cdef log_view_t v
        cdef int answer
        v.seq = from_seq
        while True:
            answer = log_next(self.open_log(), v.seq, filter_of(filter), &v)
            if answer != LOG_MORE:
                return self.message(answer, &v)

    def previous(self, uint64_t from_seq, Filter filter=None):
        cdef log_view_t v
        return self.message(log_previous(self.open_log(), from_seq, filter_of(filter), &v), &v)

    def pending(self, Filter filter=None, uint64_t from_seq=0):
        return log_pending(self.open_log(), filter_of(filter), from_seq)

    def pending_subjects(self, Filter filter=None, uint64_t from_seq=0):
        return log_pending_subjects(self.open_log(), filter_of(filter), from_seq)

    def seq_at(self, int64_t time_ns):
        return log_seq_at(self.open_log(), time_ns)

    def has(self, uint64_t seq):
        return log_has(self.open_log(), seq)

    def subject(self, bytes subject not None):
        cdef subject_t* u = log_subject(self.open_log(), subject, <uint32_t>len(subject))
        return None if u == NULL else SubjectState(u.count, u.first, u.last)

    def subjects(self, Filter filter=None):
        cdef log_t* log = self.open_log()
        cdef filter_t* f = filter_of(filter)
        cdef subject_t* u
        cdef uint32_t i
        cdef dict found = {}
        for i in range(1, log.subjects.items_count):
            u = &log.subjects.items[i]
            if u.name != NULL and (f == NULL or filter_id(f, i)):
                found[name_text(u)[:name_bytes(u)]] = u.count
        return found

    def last_seqs(self, Filter filter=None, uint64_t up_to=0):
        cdef uint64_t count = 0
        cdef uint64_t* seqs = log_last_seqs(self.open_log(), filter_of(filter), up_to, &count)
        cdef uint64_t i
        try:
            return [seqs[i] for i in range(count)]
        finally:
            free(seqs)

    def deleted(self, uint32_t most=0):
        cdef uint32_t count = 0
        cdef uint64_t messages = 0
        cdef range_t* ranges = log_deleted(self.open_log(), most, &count, &messages)
        cdef uint32_t i
        try:
            return [(ranges[i].first, ranges[i].last) for i in range(count)]
        finally:
            free(ranges)

    def lost(self):
        cdef log_t* log = self.open_log()
        cdef uint32_t i
        return [(log.lost[i].first, log.lost[i].last) for i in range(log.lost_count)]

    def recovered(self):
        """What opening found: bytes cut off, bytes and segments damaged, messages lost."""
        cdef log_t* log = self.open_log()
        return {"torn_bytes": log.torn_bytes, "damaged_bytes": log.damaged_bytes,
                "damaged_segments": log.damaged_segments, "lost_msgs": log.lost_msgs}

    def state(self):
        cdef log_t* log = self.open_log()
        return State(log.msgs, log.bytes, log.first_seq, log.first_time_ns, log.next_seq - 1, log.last_time_ns,
                     log.subjects.live, log.next_seq - log.first_seq - log.msgs)

    def segments(self):
        """(id, first_seq, live, dead, used bytes, live bytes, sealed) of each, oldest first: for tests and tools."""
        cdef log_t* log = self.open_log()
        cdef list found = []
        cdef uint32_t i
        for i in range(log.order_count):
            g = log.order[i]
            found.append((g.id, g.first_seq, g.live, g.dead, g.used, g.live_bytes, bool(g.sealed)))
        return found
