"""The protocol parser: bytes to operations. Calls nobody, keeps nothing, allocates nothing."""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

cdef enum:
    OPERATION_PUB = 1                   # and HPUB: header_bytes tells
    OPERATION_SUB = 2
    OPERATION_UNSUB = 3
    OPERATION_PING = 4
    OPERATION_PONG = 5
    OPERATION_CONNECT = 6
    OPERATION_INFO = 7
    OPERATION_OK = 8
    OPERATION_ERR = 9

cdef enum:
    PARSE_DONE = 1                      # one operation, op.bytes long
    PARSE_MORE = 0                      # not whole yet; op.bytes is its length if that is known already, else 0
    PARSE_UNKNOWN = -1                  # -ERR 'Unknown Protocol Operation'
    PARSE_LINE_TOO_LONG = -2            # -ERR 'maximum control line exceeded'
    PARSE_PAYLOAD_TOO_LARGE = -3        # -ERR 'Maximum Payload Violation'
    PARSE_ARGUMENTS = -4                # closed without -ERR
    PARSE_HEADERS = -5                  # HPUB without headers in CONNECT: closed without -ERR

cdef struct parse_limits_t:
    uint32_t max_control_line
    int64_t max_payload
    bint headers                        # HPUB is allowed

cdef struct operation_t:
    int kind
    size_t bytes
    # PUB, HPUB, SUB
    const char* subject
    uint32_t subject_bytes
    # PUB, HPUB
    const char* reply
    uint32_t reply_bytes
    int32_t header_bytes                # -1: PUB
    uint32_t payload_bytes              # headers included
    const char* payload
    const char* tail                    # "[reply ]sizes CRLF payload CRLF" as it stands in the input, or NULL when the
    size_t tail_bytes                   # line was spaced oddly and has to be written anew
    # SUB, UNSUB
    const char* queue
    uint32_t queue_bytes
    const char* sid
    uint32_t sid_bytes
    int64_t max                         # UNSUB: -1 none or unreadable
    # CONNECT, INFO, -ERR
    const char* argument
    uint32_t argument_bytes

# `end[0]` must be readable and 0, and SB_SLACK bytes behind it readable.
cdef int parse_next(const char* p, const char* end, const parse_limits_t* limits, operation_t* op) noexcept nogil
