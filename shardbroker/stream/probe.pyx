# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""A door for tests only: a hub whose host is two Python lists and a clock that stands still.

    hub = ProbeHub(); hub.listeners.add(b"inbox"); hub.run(now) -> when it wants to run again
    hub.published: [(subject, shown, reply, header_bytes, payload), ...]
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free

from shardbroker.stream.consumer cimport NEVER, host_t
from shardbroker.stream.deliver cimport hub_run
from shardbroker.stream.hub cimport Hub

TIME_OFFSET = 1_700_000_000_000_000_000         # Unix time at 0 on the hub's clock


cdef class ProbeHub(Hub):
    cdef public object published
    cdef public object listeners        # subjects that someone wants
    cdef public bint behind             # every publish meets a receiver that is behind
    cdef public bint announced
    cdef public uint64_t now
    cdef list garbage

    def __cinit__(self):
        cdef host_t host
        self.published = []
        self.listeners = set()
        self.garbage = []
        self.now = 1_000_000_000
        host.context = <void*>self
        host.publish = publish
        host.interest = interest
        host.watch = NULL
        host.unwatch = NULL
        host.garbage = garbage
        host.announce = announce
        host.clock = clock
        self.set_host(&host, 1)

    def run(self, now=None):
        """One turn. The time of the next, on this clock; 0 at once; None never."""
        cdef uint64_t following
        if now is not None:
            self.now = now
        self.announced = False
        with nogil:
            following = hub_run(&self.h, self.now, <int64_t>self.now + <int64_t>1700000000000000000)
        for block in self.garbage:
            free(<void*><uint64_t>block)
        self.garbage.clear()
        return None if following == NEVER else following


cdef uint32_t publish(void* context, void* account, const char* subject, uint32_t subject_bytes, const char* shown,
                      uint32_t shown_bytes, const char* reply, uint32_t reply_bytes, int32_t header_bytes, const char* payload,
                      uint32_t payload_bytes, const char* tail, uint32_t tail_bytes, bint* behind) noexcept nogil:
    with gil:
        hub = <ProbeHub>context
        to = subject[:subject_bytes]
        hub.published.append((to, shown[:shown_bytes] if shown != NULL else None, reply[:reply_bytes] if reply_bytes else b"",
                              header_bytes, payload[:payload_bytes] if payload_bytes else b""))
        behind[0] = hub.behind
        if to not in hub.listeners:
            hub.published.pop()
            return 0
        return 1


cdef bint interest(void* context, void* account, const char* subject, uint32_t subject_bytes) noexcept nogil:
    with gil:
        return subject[:subject_bytes] in (<ProbeHub>context).listeners


cdef void garbage(void* context, void* block) noexcept nogil:
    with gil:
        (<ProbeHub>context).garbage.append(<uint64_t>block)


cdef void announce(void* context) noexcept nogil:
    with gil:
        (<ProbeHub>context).announced = True


cdef void clock(void* context, uint64_t* now_ns, int64_t* time_ns) noexcept nogil:
    with gil:
        now_ns[0] = (<ProbeHub>context).now
        time_ns[0] = <int64_t>now_ns[0] + <int64_t>1700000000000000000
