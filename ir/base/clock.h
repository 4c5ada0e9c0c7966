// The time that passes, in seconds. Owns nothing; header only.
#ifndef HEP_BASE_CLOCK_H
#define HEP_BASE_CLOCK_H

#include <time.h>

// CLOCK_MONOTONIC.
static inline double clock_now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

#endif
