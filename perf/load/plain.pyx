# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Plain publish and subscribe on servers that do not speak NATS: any protocol whose frames differ in the payload only.

    [publisher] --head, payload, tail--> [ server ] --head, payload, tail--> [subscriber] ...
                <--answer to each, or none--

The protocol is a handful of byte strings (dialects.py), so one loop does Redis and MQTT. As in the package's generator
(shardbroker/bench/generator.pyx): epoll, one thread, no GIL, nothing allocated in the loop; a payload begins with a 16-byte
stamp {sequence, 0, publisher, mark} and has letters x behind it; a subscriber checks every byte, and that each
publisher's sequence has no hole, no repetition and no swap. Publishers write as fast as TCP takes it until the time is
over, then `ping`, and end with its `pong`. Any difference ends the run with LoadError.
"""
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint16_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memmove, memset

from shardbroker.bench.net cimport (
    EPOLLIN, EPOLLOUT, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EVENTS_MAX, MARK, MSG_DONTWAIT, MSG_NOSIGNAL, RECEIVE_BYTES,
    close, epoll_create1, epoll_event, epoll_wait, load_now, load_stamp, load_watch, recv, send)

from shardbroker.bench import LoadError

cdef enum:
    BATCH_BYTES = 64 * 1024
    BATCH_FRAMES_LEAST = 8
    FINE = 0                            # why a run ended
    FAIL_ERRNO = 1
    FAIL_CLOSED = 2
    FAIL_FRAME = 3
    FAIL_ORDER = 4
    FAIL_ANSWER = 5
    FAIL_STALLED = 6

WORDS = {FAIL_ERRNO: "a system call failed", FAIL_CLOSED: "the server closed a connection",
         FAIL_FRAME: "a subscriber got other bytes than were sent", FAIL_ORDER: "a message is missing, doubled or swapped",
         FAIL_ANSWER: "a publisher got another answer than it should", FAIL_STALLED: "nothing moved for 20 s"}

cdef int64_t STALL_NS = 20_000_000_000

cdef struct text_t:
    char* at
    size_t bytes

cdef struct flow_t:
    int fd
    char* batch
    size_t sent, filled
    uint64_t sequence                   # of the last frame in the batch
    uint64_t answered                   # frames that the server has answered
    size_t carried
    char carry[64]                      # beginning of an answer
    bint pinged, finished
    int64_t finished_ns

cdef struct sink_t:
    int fd
    uint64_t* next                      # by publisher
    uint64_t received
    size_t carried
    char* carry


cdef class Plain:
    """One run: flows and sinks are descriptors of connections that are greeted and subscribed.

    pub_head, pub_tail, message_head, message_tail: what stands around a payload on its way in and out. answer: what the
    server says to each message, b"" for nothing. ping, pong: how a publisher learns that all before was taken.
    """
    cdef text_t texts[7]
    cdef list kept
    cdef flow_t* flows
    cdef sink_t* sinks
    cdef int flows_count, sinks_count
    cdef size_t payload, frame_in, frame_out
    cdef int frames
    cdef char* filling
    cdef char* buffer
    cdef int64_t deadline_ns, last_ns
    cdef uint64_t limit

    def __cinit__(self, flows, sinks, *, bytes pub_head, bytes pub_tail, bytes message_head, bytes message_tail,
                  bytes answer, bytes ping, bytes pong, int payload_bytes, uint64_t limit=2 ** 62):
        cdef int i, j
        cdef load_stamp stamp
        cdef char* at
        self.kept = [pub_head, pub_tail, message_head, message_tail, answer, ping, pong]
        for i in range(7):
            self.texts[i].at = <char*><bytes>self.kept[i]
            self.texts[i].bytes = len(self.kept[i])
        if payload_bytes < 16 or len(answer) > 32 or len(pong) > 32 or not flows:
            raise ValueError("payload_bytes, answer or pong out of range, or no publisher")
        self.payload = payload_bytes
        self.limit = limit
        self.frame_in = len(pub_head) + payload_bytes + len(pub_tail)
        self.frame_out = len(message_head) + payload_bytes + len(message_tail)
        self.frames = max(BATCH_BYTES // <int>self.frame_in, BATCH_FRAMES_LEAST)
        self.flows_count, self.sinks_count = len(flows), len(sinks)
        self.flows = <flow_t*>calloc(self.flows_count, sizeof(flow_t))
        self.sinks = <sink_t*>calloc(max(self.sinks_count, 1), sizeof(sink_t))
        self.filling = <char*>malloc(payload_bytes)
        self.buffer = <char*>malloc(RECEIVE_BYTES + self.frame_out + 64)
        if self.flows == NULL or self.sinks == NULL or self.filling == NULL or self.buffer == NULL:
            raise MemoryError
        memset(self.filling, c'x', payload_bytes)
        memset(&stamp, 0, sizeof(stamp))
        stamp.mark = MARK
        for i in range(self.flows_count):
            self.flows[i].fd = flows[i]
            self.flows[i].batch = <char*>malloc(self.frames * self.frame_in + len(ping))
            if self.flows[i].batch == NULL:
                raise MemoryError
            stamp.publisher = <uint16_t>i
            for j in range(self.frames):
                at = self.flows[i].batch + j * self.frame_in
                memcpy(at, self.texts[0].at, self.texts[0].bytes)
                at += self.texts[0].bytes
                memcpy(at, self.filling, payload_bytes)
                memcpy(at, &stamp, 16)
                memcpy(at + payload_bytes, self.texts[1].at, self.texts[1].bytes)
        for i in range(self.sinks_count):
            self.sinks[i].fd = sinks[i]
            self.sinks[i].carry = <char*>malloc(self.frame_out)
            self.sinks[i].next = <uint64_t*>calloc(self.flows_count, 8)
            if self.sinks[i].carry == NULL or self.sinks[i].next == NULL:
                raise MemoryError

    def __dealloc__(self):
        cdef int i
        if self.flows != NULL:
            for i in range(self.flows_count):
                free(self.flows[i].batch)
        if self.sinks != NULL:
            for i in range(self.sinks_count):
                free(self.sinks[i].carry)
                free(self.sinks[i].next)
        free(self.flows)
        free(self.sinks)
        free(self.filling)
        free(self.buffer)

    cdef int fill(self, flow_t* f, int64_t now) noexcept nogil:
        """The next batch; the ping once the time is over."""
        cdef int i
        cdef uint64_t frames = <uint64_t>self.frames
        cdef char* at = f.batch + self.texts[0].bytes
        f.sent = 0
        if f.sequence >= self.limit or now >= self.deadline_ns:
            memcpy(f.batch, self.texts[5].at, self.texts[5].bytes)
            f.filled = self.texts[5].bytes
            f.pinged = True
            return 0
        if self.limit - f.sequence < frames:
            frames = self.limit - f.sequence
        for i in range(<int>frames):  # no-cython-lint
            f.sequence += 1
            memcpy(at, &f.sequence, 8)
            at += self.frame_in
        f.filled = frames * self.frame_in
        return 0

    cdef int write(self, flow_t* f) noexcept nogil:
        cdef ssize_t n
        if f.sent == f.filled:
            if f.pinged:
                return FINE
            self.fill(f, load_now())
        n = send(f.fd, f.batch + f.sent, f.filled - f.sent, MSG_NOSIGNAL | MSG_DONTWAIT)
        if n < 0:
            return FINE if errno == EAGAIN or errno == EINTR else FAIL_ERRNO
        f.sent += <size_t>n
        return FINE

    cdef int read_answers(self, flow_t* f) noexcept nogil:
        """Answers, each compared; behind the last of them, the pong."""
        cdef text_t* answer = &self.texts[4]
        cdef text_t* pong = &self.texts[6]
        cdef char* at = self.buffer
        cdef char* stop
        cdef ssize_t n
        memcpy(at, f.carry, f.carried)
        n = recv(f.fd, at + f.carried, RECEIVE_BYTES, MSG_DONTWAIT)
        if n <= 0:
            if n == 0:
                return FAIL_CLOSED
            return FINE if errno == EAGAIN or errno == EINTR else FAIL_ERRNO
        stop = at + f.carried + n
        while at < stop:
            if answer.bytes and f.answered < f.sequence:
                if <size_t>(stop - at) < answer.bytes:
                    break
                if memcmp(at, answer.at, answer.bytes):
                    return FAIL_ANSWER
                at += answer.bytes
                f.answered += 1
            else:
                if <size_t>(stop - at) < pong.bytes:
                    break
                if not f.pinged or f.finished or memcmp(at, pong.at, pong.bytes):
                    return FAIL_ANSWER
                at += pong.bytes
                f.finished = True
                f.finished_ns = load_now()
        f.carried = <size_t>(stop - at)
        memmove(f.carry, at, f.carried)
        return FINE

    cdef int read_messages(self, sink_t* s) noexcept nogil:
        cdef text_t* head = &self.texts[2]
        cdef text_t* tail = &self.texts[3]
        cdef char* at = self.buffer
        cdef char* stop
        cdef load_stamp stamp
        cdef ssize_t n
        memcpy(at, s.carry, s.carried)
        n = recv(s.fd, at + s.carried, RECEIVE_BYTES, MSG_DONTWAIT)
        if n <= 0:
            if n == 0:
                return FAIL_CLOSED
            return FINE if errno == EAGAIN or errno == EINTR else FAIL_ERRNO
        stop = at + s.carried + n
        while <size_t>(stop - at) >= self.frame_out:
            if memcmp(at, head.at, head.bytes):
                return FAIL_FRAME
            at += head.bytes
            memcpy(&stamp, at, 16)
            if stamp.mark != MARK or stamp.subject or stamp.publisher >= self.flows_count:
                return FAIL_FRAME
            if memcmp(at + 16, self.filling, self.payload - 16):
                return FAIL_FRAME
            if stamp.sequence != s.next[stamp.publisher] + 1:
                return FAIL_ORDER
            s.next[stamp.publisher] += 1
            at += self.payload
            if memcmp(at, tail.at, tail.bytes):
                return FAIL_FRAME
            at += tail.bytes
            s.received += 1
        s.carried = <size_t>(stop - at)
        memcpy(s.carry, at, s.carried)
        self.last_ns = load_now()
        return FINE

    cdef bint finished(self) noexcept nogil:
        cdef int i, j
        for i in range(self.flows_count):
            if not self.flows[i].finished:
                return False
        for i in range(self.sinks_count):
            for j in range(self.flows_count):
                if self.sinks[i].next[j] != self.flows[j].sequence:
                    return False
        return True

    cdef int loop(self) noexcept nogil:
        cdef epoll_event events[EVENTS_MAX]
        cdef int epoll = epoll_create1(0)
        cdef int i, n, number
        cdef int status = FINE
        cdef int64_t moved_ns = load_now()
        cdef flow_t* f
        if epoll < 0:
            return FAIL_ERRNO
        for i in range(self.flows_count):
            load_watch(epoll, EPOLL_CTL_ADD, self.flows[i].fd, EPOLLIN | EPOLLOUT, i)
        for i in range(self.sinks_count):
            load_watch(epoll, EPOLL_CTL_ADD, self.sinks[i].fd, EPOLLIN, self.flows_count + i)
        while status == FINE and not self.finished():
            n = epoll_wait(epoll, events, EVENTS_MAX, 10)
            if n < 0 and errno != EINTR:
                status = FAIL_ERRNO
            for i in range(n):          # deliveries first: what is read here the server need not keep
                number = <int>events[i].data.u64
                if status == FINE and number >= self.flows_count:
                    status = self.read_messages(&self.sinks[number - self.flows_count])
            for i in range(n):
                number = <int>events[i].data.u64
                if status == FINE and number < self.flows_count:
                    f = &self.flows[number]
                    if events[i].events & ~<unsigned int>EPOLLOUT:
                        status = self.read_answers(f)
                    if status == FINE and events[i].events & EPOLLOUT:
                        status = self.write(f)
                        if f.pinged and f.sent == f.filled:
                            load_watch(epoll, EPOLL_CTL_MOD, f.fd, EPOLLIN, number)
            if n > 0:
                moved_ns = load_now()
            elif status == FINE and load_now() - moved_ns > STALL_NS:
                status = FAIL_STALLED
        close(epoll)
        return status

    def run(self, double seconds):
        """All of it. {published, received, seconds}; LoadError."""
        cdef int64_t began = load_now()
        cdef int64_t ended
        cdef int status, i
        self.deadline_ns = began + <int64_t>(seconds * 1e9)
        with nogil:
            status = self.loop()
        published = sum([self.flows[i].sequence for i in range(self.flows_count)])
        received = sum([self.sinks[i].received for i in range(self.sinks_count)])
        if status != FINE:
            raise LoadError(f"{WORDS[status]} ({published} messages published, {received} received)")
        ended = max([self.flows[i].finished_ns for i in range(self.flows_count)])
        if self.sinks_count:
            ended = max(ended, self.last_ns)
        return {"published": published, "received": received, "seconds": (ended - began) / 1e9}
