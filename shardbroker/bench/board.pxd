# The board of a run; see net.h for its lines and board.pyx for who has it.

from shardbroker.bench.net cimport load_board


cdef class Board:
    cdef load_board* b
    cdef bint owned
    cdef object memory       # keeps a shared mapping alive
