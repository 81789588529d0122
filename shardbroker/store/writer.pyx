# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Helper threads of one shard. Jobs go through one queue under one mutex, a few times a turn at the most.

Threads start with the first job and block all signals: those are the main thread's. A thread never takes the GIL, so the
shard's loop never waits for one.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec

from shardbroker.hot.memory cimport mem_zero

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_create(pthread_t* t, void* attributes, void* (*start)(void*) noexcept nogil, void* argument)
    int pthread_join(pthread_t t, void** value)
    int pthread_mutex_init(pthread_mutex_t* m, void* attributes)
    int pthread_mutex_destroy(pthread_mutex_t* m)
    int pthread_mutex_lock(pthread_mutex_t* m)
    int pthread_mutex_unlock(pthread_mutex_t* m)
    int pthread_cond_init(pthread_cond_t* c, void* attributes)
    int pthread_cond_destroy(pthread_cond_t* c)
    int pthread_cond_wait(pthread_cond_t* c, pthread_mutex_t* m)
    int pthread_cond_timedwait(pthread_cond_t* c, pthread_mutex_t* m, const timespec* until)
    int pthread_cond_signal(pthread_cond_t* c)
    int pthread_cond_broadcast(pthread_cond_t* c)

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int SIG_SETMASK
    int sigfillset(sigset_t* s)
    int pthread_sigmask(int how, const sigset_t* s, sigset_t* old)

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd_write(int fd, uint64_t value)

cdef enum:
    THREADS_MAX = 16

cdef struct helpers_t:
    int eventfd
    int threads_max
    int threads
    int idle                            # threads that wait for a job
    bint stopping
    uint32_t waiting                    # jobs in the queue
    uint32_t running
    job_t* first
    job_t* last
    job_t* finished
    job_t* finished_last
    pthread_mutex_t mutex
    pthread_cond_t wanted               # there is a job, or it stops
    pthread_cond_t done                 # a job is finished
    pthread_t thread[THREADS_MAX]


cdef store_t* store_new(const files_t* files, int threads, int eventfd) noexcept nogil:
    cdef store_t* store = <store_t*>mem_zero(sizeof(store_t))
    cdef helpers_t* s = <helpers_t*>mem_zero(sizeof(helpers_t))
    store.files = files
    store.helpers = s
    s.eventfd = eventfd
    s.threads_max = threads if threads < THREADS_MAX else THREADS_MAX
    pthread_mutex_init(&s.mutex, NULL)
    pthread_cond_init(&s.wanted, NULL)
    pthread_cond_init(&s.done, NULL)
    return store


cdef void store_free(store_t* store) noexcept nogil:
    cdef helpers_t* s = <helpers_t*>store.helpers
    cdef int i
    pthread_mutex_lock(&s.mutex)
    s.stopping = True
    pthread_cond_broadcast(&s.wanted)
    pthread_mutex_unlock(&s.mutex)
    for i in range(s.threads):
        pthread_join(s.thread[i], NULL)
    pthread_cond_destroy(&s.wanted)
    pthread_cond_destroy(&s.done)
    pthread_mutex_destroy(&s.mutex)
    free(s)
    free(store)


cdef job_t* take(helpers_t* s) noexcept nogil:
    """The next job, under the mutex; NULL: none."""
    cdef job_t* job = s.first
    if job != NULL:
        s.first = job.next
        if s.first == NULL:
            s.last = NULL
        s.waiting -= 1
        s.running += 1
        job.next = NULL
    return job


cdef void finish(helpers_t* s, job_t* job) noexcept nogil:
    s.running -= 1
    if s.finished_last != NULL:
        s.finished_last.next = job
    else:
        s.finished = job
    s.finished_last = job


cdef void carry_out(job_t* job) noexcept nogil:
    cdef timespec began, ended
    if not job.quick:
        job.run(job)
        return
    clock_gettime(CLOCK_MONOTONIC, &began)
    job.run(job)
    clock_gettime(CLOCK_MONOTONIC, &ended)
    job.took_ns = <uint64_t>(ended.tv_sec - began.tv_sec) * 1000000000 + <uint64_t>(ended.tv_nsec - began.tv_nsec)


cdef bint carry_out_here(store_t* store, job_t* job) noexcept nogil:
    """A quick job, in the caller's thread; False: a thread had better do it."""
    cdef helpers_t* s = <helpers_t*>store.helpers
    cdef bint idle
    if store.quick_ns == 0 or store.quick_ns > AT_ONCE_NS:
        return False
    pthread_mutex_lock(&s.mutex)
    idle = s.first == NULL and s.running == 0 and s.finished == NULL
    s.running += idle
    pthread_mutex_unlock(&s.mutex)
    if not idle:
        return False
    store.at_once = False
    carry_out(job)
    pthread_mutex_lock(&s.mutex)
    finish(s, job)
    pthread_mutex_unlock(&s.mutex)
    store.did_at_once = True
    return True


cdef void* thread_main(void* argument) noexcept nogil:
    cdef helpers_t* s = <helpers_t*>argument
    cdef job_t* job
    pthread_mutex_lock(&s.mutex)
    while True:
        job = take(s)
        if job == NULL:
            if s.stopping:
                break
            s.idle += 1
            pthread_cond_wait(&s.wanted, &s.mutex)
            s.idle -= 1
            continue
        pthread_mutex_unlock(&s.mutex)
        carry_out(job)
        pthread_mutex_lock(&s.mutex)
        finish(s, job)
        pthread_cond_broadcast(&s.done)
        if s.eventfd >= 0:
            eventfd_write(s.eventfd, 1)
    pthread_mutex_unlock(&s.mutex)
    return NULL


cdef void start_thread(helpers_t* s) noexcept nogil:
    cdef sigset_t everything, before
    sigfillset(&everything)
    pthread_sigmask(SIG_SETMASK, &everything, &before)
    if pthread_create(&s.thread[s.threads], NULL, thread_main, s) == 0:
        s.threads += 1
    pthread_sigmask(SIG_SETMASK, &before, NULL)


cdef void store_enqueue(store_t* store, job_t* job) noexcept nogil:
    cdef helpers_t* s = <helpers_t*>store.helpers
    cdef bint here
    job.next = NULL
    job.result = 0
    if store.at_once and job.quick and carry_out_here(store, job):
        return
    pthread_mutex_lock(&s.mutex)
    if s.last != NULL:
        s.last.next = job
    else:
        s.first = job
    s.last = job
    s.waiting += 1
    if s.idle < <int>s.waiting and s.threads < s.threads_max:
        start_thread(s)
    # No thread can be had at all: the work is done here, late but done.
    here = s.threads == 0 and s.threads_max > 0
    pthread_cond_signal(&s.wanted)
    pthread_mutex_unlock(&s.mutex)
    if here:
        store_run(store)


cdef uint32_t store_run(store_t* store) noexcept nogil:
    cdef helpers_t* s = <helpers_t*>store.helpers
    cdef job_t* job
    cdef uint32_t count = 0
    while True:
        pthread_mutex_lock(&s.mutex)
        job = take(s)
        pthread_mutex_unlock(&s.mutex)
        if job == NULL:
            return count
        carry_out(job)
        pthread_mutex_lock(&s.mutex)
        finish(s, job)
        pthread_mutex_unlock(&s.mutex)
        if s.eventfd >= 0:
            eventfd_write(s.eventfd, 1)
        count += 1


cdef uint32_t store_collect(store_t* store) noexcept nogil:
    cdef helpers_t* s = <helpers_t*>store.helpers
    cdef job_t* job
    cdef job_t* next
    cdef uint32_t count = 0
    pthread_mutex_lock(&s.mutex)
    job = s.finished
    s.finished = s.finished_last = NULL
    pthread_mutex_unlock(&s.mutex)
    store.did_at_once = False
    while job != NULL:
        next = job.next
        job.next = NULL
        if job.quick:
            store.quick_ns += (<int64_t>job.took_ns - <int64_t>store.quick_ns) // 8 if store.quick_ns else job.took_ns
        job.done(job)
        count += 1
        job = next
    return count


cdef bint store_idle(store_t* store) noexcept nogil:
    cdef helpers_t* s = <helpers_t*>store.helpers
    cdef bint idle
    pthread_mutex_lock(&s.mutex)
    idle = s.first == NULL and s.running == 0 and s.finished == NULL
    pthread_mutex_unlock(&s.mutex)
    return idle


cdef bint store_wait(store_t* store, int64_t timeout_ns) noexcept nogil:
    """Until a job waits to be collected. False: the time is over, or nothing is under way."""
    cdef helpers_t* s = <helpers_t*>store.helpers
    cdef timespec until
    cdef bint finished
    if s.threads == 0:
        store_run(store)
    clock_gettime(CLOCK_REALTIME, &until)
    timeout_ns += until.tv_nsec
    until.tv_sec += timeout_ns // 1000000000
    until.tv_nsec = timeout_ns % 1000000000
    pthread_mutex_lock(&s.mutex)
    while s.finished == NULL and (s.first != NULL or s.running):
        if pthread_cond_timedwait(&s.done, &s.mutex, &until) != 0:
            break
    finished = s.finished != NULL
    pthread_mutex_unlock(&s.mutex)
    return finished
