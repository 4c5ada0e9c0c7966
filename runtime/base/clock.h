// The runtime's clock is that of ir/base/clock.h; absolute sleeping and waiting on it.
// Owns nothing; header only.
#ifndef HEP_CLOCK_H
#define HEP_CLOCK_H

#include <errno.h>
#include <pthread.h>

#include "ir/base/clock.h"

static inline struct timespec clock_timespec(double time_s)
{
    time_t seconds = (time_t)time_s;
    long nanoseconds = (long)((time_s - (double)seconds) * 1e9);
    return (struct timespec){.tv_sec = seconds, .tv_nsec = nanoseconds > 999999999L ? 999999999L : nanoseconds};
}

static inline void clock_sleep_until(double time_s)
{
    struct timespec until = clock_timespec(time_s);
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
        continue;
}

// A condition variable whose timed waits are on this clock.
static inline void clock_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attributes);
    pthread_condattr_destroy(&attributes);
}

#endif
