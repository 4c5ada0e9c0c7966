// Work that all ranks do together, repeated and timed: see calibrate_internal.h.
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/calibrate/calibrate_internal.h"

bool calibrate_time(CalibrateRank *rank, CalibrateWork work, void *context, uint32_t part, double *times,
                    uint32_t count)
{
    const CommOps *comm = rank->comm->ops;
    const atomic_int *interrupted = rank->options->interrupted;
    if (interrupted && atomic_load(interrupted))
        return fault_set(rank->fault, FAULT_INTERRUPTED, "interrupted while calibrating");
    if (!comm->barrier(rank->comm, rank->fault))
        return false;
    memset(times, 0, count * sizeof(*times));
    double start_s = clock_now_s();
    if (!work(context, rank->fault))
        return false;
    times[part] = clock_now_s() - start_s;
    return comm->all_reduce_max(rank->comm, times, count, rank->fault);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// One sample that was held up says nothing, but half of them must agree. On a busy machine nearly all may be held up,
// alike: then the fastest is far from the middle.
static bool is_unreliable(const double *sorted, uint32_t count)
{
    static const double middle_half = 2, fastest = 3;
    double low = sorted[count / 4], high = sorted[count - 1 - count / 4];
    return high > middle_half * low || sorted[count / 2] > fastest * sorted[0];
}

Spread calibrate_spread(double *samples, uint32_t count)
{
    qsort(samples, count, sizeof(*samples), compare_doubles);
    return (Spread){.median = samples[count / 2],
                    .min = samples[0],
                    .max = samples[count - 1],
                    .count = count,
                    .unreliable = is_unreliable(samples, count)};
}

bool calibrate_sample(CalibrateRank *rank, CalibrateWork work, void *context, uint32_t count, Spread *times)
{
    double samples[SAMPLES_MAX];
    for (uint32_t i = 0; i < count; i++)
        if (!calibrate_time(rank, work, context, 0, &samples[i], 1))
            return false;
    *times = calibrate_spread(samples, count);
    return true;
}

Spread calibrate_rate(Spread times, double amount)
{
    return (Spread){amount / times.median, amount / times.max, amount / times.min, times.count, times.unreliable};
}

bool calibrate_repeated(CalibrateRank *rank, CalibrateWork work, void *context, uint32_t *repeats, double amount,
                        Spread *per_second)
{
    static const double long_enough_s = 0.03; // many turns of the scheduler, where ranks share cores
    double time_s;
    Spread times;
    *repeats = 1;
    for (int i = 0; i < 2; i++) // the first time warms up
        if (!calibrate_time(rank, work, context, 0, &time_s, 1))
            return false;
    *repeats = (uint32_t)fmin(1e6, 1 + long_enough_s / fmax(time_s, 1e-7));
    if (!calibrate_sample(rank, work, context, SAMPLES, &times))
        return false;
    *per_second = calibrate_rate(times, amount * *repeats);
    return true;
}

void calibrate_say(const CalibrateRank *rank, const char *format, ...)
{
    char what[128];
    va_list arguments;
    if (!rank->shows || !rank->options->progress)
        return;
    va_start(arguments, format);
    vsnprintf(what, sizeof(what), format, arguments);
    va_end(arguments);
    rank->options->progress(rank->options->context, what);
}
