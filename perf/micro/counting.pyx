# cython: language_level=3
"""Callgrind, from inside: begin and end counting, write a dump under a name. And what compiled us."""
from shardbroker.shm.layout cimport SB_DEBUG

cdef extern from "perf/micro/counting.h":
    int PERF_HAVE_CALLGRIND
    const char* PERF_COMPILER
    const char* PERF_COMPILER_VERSION
    int perf_under_valgrind()
    void perf_count_start()
    void perf_count_stop()
    void perf_count_dump(const char* name)

HAVE_CALLGRIND = bool(PERF_HAVE_CALLGRIND)      # its header was there when this was compiled
COMPILER = PERF_COMPILER.decode() + " " + PERF_COMPILER_VERSION.decode()
DEBUG_BUILD = bool(SB_DEBUG)


def under_valgrind():
    return bool(perf_under_valgrind())


def start():
    """Count from here, from 0."""
    perf_count_start()


def dump(bytes name):
    """Write what was counted since start() or the last dump to a file of its own, with this name in it."""
    perf_count_dump(name)


def stop():
    perf_count_stop()
