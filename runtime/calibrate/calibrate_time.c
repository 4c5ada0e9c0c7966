// Work that all ranks do together, repeated and timed: see calibrate_internal.h.
#include <math.h>
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
        return fault_set(rank->fault, EXIT_FAULT, "interrupted while calibrating");
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

Spread calibrate_spread(double *samples, uint32_t count)
{
    qsort(samples, count, sizeof(*samples), compare_doubles);
    return (Spread){.median = samples[count / 2], .min = samples[0], .max = samples[count - 1], .count = count};
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
    return (Spread){amount / times.median, amount / times.max, amount / times.min, times.count};
}

bool calibrate_repeated(CalibrateRank *rank, CalibrateWork work, void *context, uint32_t *repeats, double amount,
                        Spread *per_second)
{
    static const double long_enough_s = 0.03; // many turns of the scheduler, where ranks share cores
    double time_s;
    Spread times;
    *repeats = 1;
    if (!calibrate_time(rank, work, context, 0, &time_s, 1) || !calibrate_time(rank, work, context, 0, &time_s, 1))
        return false;
    *repeats = (uint32_t)fmin(1e6, 1 + long_enough_s / fmax(time_s, 1e-7));
    if (!calibrate_sample(rank, work, context, SAMPLES, &times))
        return false;
    *per_second = calibrate_rate(times, amount * *repeats);
    return true;
}
