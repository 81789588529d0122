"""Records on rings: what one shard tells another. Bodies as they lie in memory; integers in host order.

    data ring       RECORD_MESSAGE    message_record_t, queue names (u32 length, bytes) x queues, subject, ' ', tail
                    RECORD_SHOWN      shown_record_t, the subject to show (padded to 8), and a message record behind it
                    RECORD_REQUEST    bytes between the control sides of two shards (stream/): opaque here
                    RECORD_FRAGMENT   fragment_record_t, a piece of a record that is too large for the ring; the
                                      record's flags say of which kind
                    RECORD_RECEIPT_WANTED   receipt_record_t    answer when what stands before has been written to sockets
    control ring    RECORD_PLAIN      interest_record_t, pattern                 (count: 1 wanted, 0 not any more)
                    RECORD_QUEUE      interest_record_t, subject, queue name     (count: members on that shard)
                    RECORD_SNAPSHOT_BEGIN, _END     interest_record_t            all interest of the sender between
                    RECORD_STALL      stall_record_t                             slow that publisher down
                    RECORD_RECEIPT    receipt_record_t                           the answer to RECORD_RECEIPT_WANTED
                    RECORD_WATCHED    interest_record_t, literal subject         interest in it has changed there (hot/watch)

`tail` is what stands behind the subject in a PUB line: "[reply ]size CRLF payload CRLF", which is also what stands
behind the sid in a MSG line. What comes from a ring is input: record_message_check looks at every length before use.
"""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    RECORD_MESSAGE = 1
    RECORD_FRAGMENT = 2
    RECORD_SHOWN = 3
    RECORD_REQUEST = 4
    RECORD_RECEIPT_WANTED = 5
    RECORD_PLAIN = 16
    RECORD_QUEUE = 17
    RECORD_SNAPSHOT_BEGIN = 18
    RECORD_SNAPSHOT_END = 19
    RECORD_STALL = 20
    RECORD_RECEIPT = 21
    RECORD_WATCHED = 22

cdef struct message_record_t:
    uint64_t account
    uint64_t client_id                  # of the publisher
    uint32_t slot                       # of the publisher on its shard
    int32_t header_bytes                # -1: no headers
    uint32_t payload_bytes              # headers included
    uint32_t subject_bytes
    uint32_t reply_bytes
    uint32_t queues_bytes               # of the queue names with their lengths
    uint16_t queues
    uint8_t plain                       # deliver to plain subscriptions
    uint8_t redraws                     # a queue member was gone so many times
    uint32_t imported                   # it came by a service import

cdef struct shown_record_t:
    uint32_t shown_bytes
    uint32_t reserved

cdef struct fragment_record_t:
    uint32_t total_bytes
    uint32_t offset

cdef struct interest_record_t:
    uint64_t account
    uint32_t epoch                      # of the sender
    uint32_t count
    uint32_t subject_bytes
    uint32_t queue_bytes

cdef struct stall_record_t:
    uint64_t client_id
    uint32_t slot
    uint32_t milliseconds

cdef struct receipt_record_t:
    uint64_t client_id                  # of the publisher whose PONG waits, on the shard that asks
    uint32_t slot
    uint32_t number


cdef inline uint64_t record_shown_bytes(const char* body, size_t n) noexcept nogil:
    """Bytes before the message record that a RECORD_SHOWN holds; 0 when its length cannot be."""
    cdef uint64_t at = sizeof(shown_record_t)
    cdef const shown_record_t* r = <const shown_record_t*>body
    if n < at or r.shown_bytes == 0:
        return 0
    at += (<uint64_t>r.shown_bytes + 7) & ~<uint64_t>7
    return at if at < n else 0


cdef inline bint record_message_check(const char* body, size_t n) noexcept nogil:
    """Whether a message record's lengths agree with its size and with each other."""
    cdef const message_record_t* r = <const message_record_t*>body
    cdef uint64_t at = sizeof(message_record_t)
    cdef uint64_t end
    cdef uint32_t i, length
    if n < at:
        return False
    end = at + r.queues_bytes
    if end + r.subject_bytes + 1 > n or r.subject_bytes == 0:
        return False
    for i in range(r.queues):  # no-cython-lint
        if at + 4 > end:
            return False
        length = (<const uint32_t*>(body + at))[0]
        at += 4 + ((<uint64_t>length + 3) & ~<uint64_t>3)
        if at > end or length == 0:
            return False
    if at != end:
        return False
    n -= end + r.subject_bytes + 1
    # The tail: reply and space, sizes, CRLF, payload, CRLF
    if r.reply_bytes and n < <uint64_t>r.reply_bytes + 1:
        return False
    if r.reply_bytes:
        n -= r.reply_bytes + 1
    if n < <uint64_t>r.payload_bytes + 5:
        return False
    return r.header_bytes < 0 or <uint32_t>r.header_bytes <= r.payload_bytes


cdef inline bint record_interest_check(const char* body, size_t n) noexcept nogil:
    cdef const interest_record_t* r = <const interest_record_t*>body
    return (n >= sizeof(interest_record_t)
            and n == sizeof(interest_record_t) + <uint64_t>r.subject_bytes + r.queue_bytes)
