# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The protocol parser. The rules are those of nats-server's parser.go and client.go (processPub, parseSub ...).

One call, one operation. What is not whole is parsed again from its first byte when more has come, so the result
cannot depend on how the input was split. A control line is at most max_control_line bytes, so that costs little; of a
long payload the length is known after the line, and the caller waits for that many bytes.

Verbs count in either case. A byte that no verb can have at its place is an error at once, without the line's end.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memchr

from shardbroker.hot.bytes cimport sb_likely, sb_load32, sb_size

cdef enum:
    TOKENS_MAX = 5
    BLANKS_MAX = 1024                   # verb and blanks before the argument, which do not count as control line
    WORD_PUB = 0x20627570               # "pub " as a little-endian word

cdef struct token_t:
    const char* at
    uint32_t bytes


cdef inline int finish_pub(const char* p, const char* end, const parse_limits_t* limits, operation_t* op,
                           const char* line_end, int64_t header, int64_t size) noexcept nogil:
    """Sizes are known and the line ends before `line_end`: check them, then the payload and its CRLF."""
    cdef size_t n = end - p
    cdef size_t payload_at = line_end - p
    if sb_likely(size >= 0):
        if size > limits.max_payload:
            return PARSE_PAYLOAD_TOO_LARGE
    else:
        return PARSE_ARGUMENTS
    if header > size:
        return PARSE_ARGUMENTS
    op.kind = OPERATION_PUB
    op.header_bytes = <int>header
    op.payload_bytes = <uint32_t>size
    op.payload = line_end
    op.bytes = payload_at + <size_t>size + 2
    if n < op.bytes:
        if n == op.bytes - 1 and p[n - 1] != c'\r':
            return PARSE_UNKNOWN
        return PARSE_MORE
    if p[op.bytes - 2] != c'\r' or p[op.bytes - 1] != c'\n':
        return PARSE_UNKNOWN
    return PARSE_DONE


cdef int parse_next(const char* p, const char* end, const parse_limits_t* limits, operation_t* op) noexcept nogil:
    cdef const char* q
    cdef const char* subject
    cdef const char* second
    cdef const char* last
    cdef int status
    # The likely case first: PUB with single spaces and CRLF
    if sb_likely((sb_load32(p) | 0x00202020) == WORD_PUB):
        subject = p + 4
        q = subject
        while <uint8_t>q[0] > 32:
            q += 1
        if sb_likely(q[0] == c' ' and q > subject):
            op.subject = subject
            op.subject_bytes = <uint32_t>(q - subject)
            q += 1
            second = q
            last = q
            while <uint8_t>q[0] > 32:
                q += 1
            op.reply_bytes = 0
            if q[0] == c' ' and q > second:
                op.reply = second
                op.reply_bytes = <uint32_t>(q - second)
                q += 1
                last = q
                while <uint8_t>q[0] > 32:
                    q += 1
            if sb_likely(q[0] == c'\r' and q[1] == c'\n' and q > last and q + 1 < end):
                if q - subject > limits.max_control_line:
                    return PARSE_LINE_TOO_LONG
                status = finish_pub(p, end, limits, op, q + 2, -1, sb_size(last, q - last))
                op.tail = second
                op.tail_bytes = op.bytes - (second - p)
                return status
    return parse_other(p, end, limits, op)


cdef inline int verb(const char* p, size_t n, const char* word, size_t length) noexcept nogil:
    """1: `p` begins with the word (given in lower case); 0: so far; -1: it does not."""
    cdef size_t i
    for i in range(length):
        if i == n:
            return 0
        if (p[i] | 0x20) != word[i] or <uint8_t>p[i] < 64:
            return -1
    return 1


cdef inline bint blank(char b) noexcept nogil:
    return b == c' ' or b == c'\t'


cdef int split(const char* p, const char* end, bint cr_is_blank, token_t* tokens) noexcept nogil:
    """Tokens between blanks; TOKENS_MAX when there are that many or more. -1: a CR among them that is no blank.

    In SUB and UNSUB a CR is a blank (client.go splitArg). In PUB and HPUB nats-server has it as a part of the token, and
    so of the MSG line that others get, whose parsers may take it for the blank it looks like: there we refuse it."""
    cdef int n = 0
    cdef const char* start
    while True:
        while p < end and (blank(p[0]) or (p[0] == c'\r' and cr_is_blank)):
            p += 1
        if p == end:
            return n
        start = p
        while p < end and not blank(p[0]):
            if p[0] == c'\r':
                if cr_is_blank:
                    break
                return -1
            p += 1
        tokens[n].at = start
        tokens[n].bytes = <uint32_t>(p - start)
        n += 1
        if n == TOKENS_MAX:
            return n


cdef int parse_other(const char* p, const char* end, const parse_limits_t* limits, operation_t* op) noexcept nogil:
    """Every operation, in any spacing."""
    cdef size_t n = end - p
    cdef int is_verb, kind
    cdef size_t verb_bytes
    cdef bint needs_blank = True
    cdef bint has_argument = True
    cdef const char* q
    cdef const char* newline
    cdef const char* line_end
    op.bytes = 0
    kind = 0
    verb_bytes = 0
    is_verb = -1
    # Which verb? At most two share a first letter.
    if p[0] == c'P' or p[0] == c'p':
        if n == 1:
            return PARSE_MORE
        if p[1] == c'U' or p[1] == c'u':
            is_verb = verb(p, n, b"pub", 3)
            verb_bytes = 3
            kind = OPERATION_PUB
        elif p[1] == c'I' or p[1] == c'i':
            is_verb = verb(p, n, b"ping", 4)
            verb_bytes = 4
            kind = OPERATION_PING
            has_argument = False
        else:
            is_verb = verb(p, n, b"pong", 4)
            verb_bytes = 4
            kind = OPERATION_PONG
            has_argument = False
    elif p[0] == c'H' or p[0] == c'h':
        is_verb = verb(p, n, b"hpub", 4)
        verb_bytes = 4
        kind = OPERATION_PUB
    elif p[0] == c'S' or p[0] == c's':
        is_verb = verb(p, n, b"sub", 3)
        verb_bytes = 3
        kind = OPERATION_SUB
    elif p[0] == c'U' or p[0] == c'u':
        is_verb = verb(p, n, b"unsub", 5)
        verb_bytes = 5
        kind = OPERATION_UNSUB
    elif p[0] == c'C' or p[0] == c'c':
        is_verb = verb(p, n, b"connect", 7)
        verb_bytes = 7
        kind = OPERATION_CONNECT
        needs_blank = False
    elif p[0] == c'I' or p[0] == c'i':
        is_verb = verb(p, n, b"info", 4)
        verb_bytes = 4
        kind = OPERATION_INFO
        needs_blank = False
    elif p[0] == c'+':
        is_verb = verb(p + 1, n - 1, b"ok", 2)
        verb_bytes = 3
        kind = OPERATION_OK
        has_argument = False
    elif p[0] == c'-':
        is_verb = verb(p + 1, n - 1, b"err", 3)
        verb_bytes = 4
        kind = OPERATION_ERR
    if is_verb < 0:
        return PARSE_UNKNOWN
    if is_verb == 0:
        return PARSE_MORE
    q = p + verb_bytes
    if has_argument:
        if q == end:
            return PARSE_MORE
        if needs_blank and not blank(q[0]):
            return PARSE_UNKNOWN
        while q < end and blank(q[0]):
            q += 1
    newline = <const char*>memchr(q, c'\n', end - q) if q < end else NULL
    if newline == NULL:
        # A CR at the end may be the line's own.
        line_end = end - 1 if end > q and (end - 1)[0] == c'\r' else end
        if (line_end - q > <ssize_t>limits.max_control_line
                or line_end - p > <ssize_t>limits.max_control_line + BLANKS_MAX):
            return PARSE_LINE_TOO_LONG
        # HPUB without leave is refused when its line is whole; until then it is any line.
        return PARSE_MORE
    line_end = newline
    if line_end > q and (line_end - 1)[0] == c'\r':
        line_end -= 1
    if line_end - q > limits.max_control_line or line_end - p > <ssize_t>limits.max_control_line + BLANKS_MAX:
        return PARSE_LINE_TOO_LONG
    op.kind = kind
    op.bytes = newline + 1 - p
    op.argument = q
    op.argument_bytes = <uint32_t>(line_end - q)
    if kind == OPERATION_PUB:
        return parse_pub(p, end, q, line_end, newline, verb_bytes == 4, limits, op)
    if kind == OPERATION_SUB or kind == OPERATION_UNSUB:
        return parse_sub(q, line_end, op)
    return PARSE_DONE


cdef int parse_pub(const char* p, const char* end, const char* line, const char* line_end, const char* newline,
                   bint header, const parse_limits_t* limits, operation_t* op) noexcept nogil:
    cdef token_t tokens[TOKENS_MAX]
    cdef int count
    cdef int sizes = 2 if header else 1
    cdef int status, i
    cdef size_t length = 0
    cdef int64_t header_bytes = -1
    cdef int64_t size
    if header and not limits.headers:
        return PARSE_HEADERS
    count = split(line, line_end, False, tokens)
    if count != 1 + sizes and count != 2 + sizes:
        return PARSE_ARGUMENTS
    op.subject = tokens[0].at
    op.subject_bytes = tokens[0].bytes
    op.reply_bytes = 0
    if count == 2 + sizes:
        op.reply = tokens[1].at
        op.reply_bytes = tokens[1].bytes
    size = sb_size(tokens[count - 1].at, tokens[count - 1].bytes)
    if header:
        header_bytes = sb_size(tokens[count - 2].at, tokens[count - 2].bytes)
        if header_bytes < 0:
            return PARSE_ARGUMENTS
    status = finish_pub(p, end, limits, op, newline + 1, header_bytes, size)
    # As it would be written: then what follows the subject can be passed on as it is.
    op.tail = NULL
    op.tail_bytes = 0
    for i in range(count):
        length += tokens[i].bytes + 1
        if 0 < i < count - 1 and tokens[i].at[tokens[i].bytes] != c' ':
            return status               # a tab
    if length == <size_t>(line_end - line) + 1 and newline - line_end == 1 and header_bytes != 0:
        op.tail = tokens[1].at
        op.tail_bytes = op.bytes - (tokens[1].at - p)
    return status


cdef int parse_sub(const char* line, const char* line_end, operation_t* op) noexcept nogil:
    cdef token_t tokens[TOKENS_MAX]
    cdef int count = split(line, line_end, True, tokens)
    op.queue_bytes = 0
    op.max = -1
    if op.kind == OPERATION_SUB:
        if count != 2 and count != 3:
            return PARSE_ARGUMENTS
        op.subject = tokens[0].at
        op.subject_bytes = tokens[0].bytes
        op.sid = tokens[count - 1].at
        op.sid_bytes = tokens[count - 1].bytes
        if count == 3:
            op.queue = tokens[1].at
            op.queue_bytes = tokens[1].bytes
        return PARSE_DONE
    if count != 1 and count != 2:
        return PARSE_ARGUMENTS
    op.sid = tokens[0].at
    op.sid_bytes = tokens[0].bytes
    if count == 2:
        op.max = sb_size(tokens[1].at, tokens[1].bytes)
    return PARSE_DONE
