/* Callgrind's client requests, or nothing where its header was not there when this was compiled. */
#ifndef PERF_COUNTING_H
#define PERF_COUNTING_H

#if defined(__has_include)
#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#define PERF_HAVE_CALLGRIND 1
#endif
#endif

#ifdef PERF_HAVE_CALLGRIND
static inline int perf_under_valgrind(void) { return RUNNING_ON_VALGRIND != 0; }
static inline void perf_count_start(void) { CALLGRIND_START_INSTRUMENTATION; CALLGRIND_ZERO_STATS; }
static inline void perf_count_stop(void) { CALLGRIND_STOP_INSTRUMENTATION; }
static inline void perf_count_dump(const char *name) { CALLGRIND_DUMP_STATS_AT(name); }
#else
#define PERF_HAVE_CALLGRIND 0
static inline int perf_under_valgrind(void) { return 0; }
static inline void perf_count_start(void) {}
static inline void perf_count_stop(void) {}
static inline void perf_count_dump(const char *name) { (void)name; }
#endif

#ifdef __VERSION__
#define PERF_COMPILER_VERSION __VERSION__
#else
#define PERF_COMPILER_VERSION "unknown"
#endif
#ifdef __clang__
#define PERF_COMPILER "clang"
#else
#define PERF_COMPILER "gcc"
#endif

#endif
