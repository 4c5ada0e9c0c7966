// Ports and paths of the workers of the outermost level, which may differ. First in pairs, as in a tournament where
// everybody meets everybody once: two workers that talk to nobody else get what the slower of their ports and the path
// between them allow. Then each worker alone with all others, asking of each what it could carry in the pair: that is
// its port, even if it is faster than any other.
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/calibrate/calibrate_internal.h"

enum { WORKER_SAMPLES = 3 };

static const double heterogeneous_ratio = 1.25; // of ports, from which they are kept one by one

// Whom `worker` meets in a round of the tournament of `count`, itself where it rests: all but the last meet so that
// their numbers add up to the round, and whoever would meet itself meets the last.
static uint32_t partner_of(uint32_t worker, uint32_t round, uint32_t count)
{
    uint32_t even = count + count % 2, ring = even - 1, partner;
    if (worker == even - 1) {
        for (partner = 0; 2 * partner % ring != round; partner++)
            continue;
        return partner;
    }
    partner = (round + ring - worker) % ring;
    partner = partner == worker ? even - 1 : partner;
    return partner < count ? partner : worker;
}

static void clear_counts(LevelRun *run)
{
    memset(run->send_counts, 0, run->members * sizeof(*run->send_counts));
}

static bool measure_round(LevelRun *run, uint64_t rows, uint32_t round, Spread *pairs)
{
    uint32_t count = run->members, own_partner = partner_of(run->own, round, count);
    double samples[WORKERS_MAX][WORKER_SAMPLES], times[WORKERS_MAX];
    clear_counts(run);
    run->rows = rows;
    run->send_counts[own_partner] = own_partner == run->own ? 0 : (int32_t)rows;
    for (uint32_t i = 0; i < WORKER_SAMPLES; i++) {
        if (!calibrate_time(run->rank, level_exchange, run, run->own, times, count))
            return false;
        for (uint32_t worker = 0; worker < count; worker++)
            samples[worker][i] = fmax(times[worker], times[partner_of(worker, round, count)]);
    }
    for (uint32_t worker = 0; worker < count; worker++) {
        uint32_t partner = partner_of(worker, round, count);
        if (partner != worker)
            pairs[worker * count + partner] = level_rate(run, calibrate_spread(samples[worker], WORKER_SAMPLES));
    }
    return true;
}

// In proportion to what each of the others could carry in its pair.
static bool measure_port(LevelRun *run, uint64_t rows, uint32_t star, const Spread *pairs, Spread *port)
{
    double sum = 0;
    Spread times;
    clear_counts(run);
    run->rows = 0;
    for (uint32_t m = 0; m < run->members; m++)
        sum += pairs[star * run->members + m].median;
    for (uint32_t m = 0; m < run->members; m++) {
        int32_t share = (int32_t)((double)rows * pairs[star * run->members + m].median / sum);
        run->rows += (uint64_t)share;
        if (run->own == star)
            run->send_counts[m] = share;
        else if (run->own == m)
            run->send_counts[star] = share;
    }
    if (!calibrate_sample(run->rank, level_exchange, run, WORKER_SAMPLES, &times))
        return false;
    *port = level_rate(run, times);
    return true;
}

static bool measure(LevelRun *run, uint64_t rows, Spread *ports, Spread *pairs)
{
    uint32_t count = run->members;
    double all_at_once = run->rank->calibration->levels[0].bandwidth_bytes_per_s.median;
    uint32_t rounds = count + count % 2 - 1;
    for (uint32_t round = 0; round < rounds; round++) {
        calibrate_say(run->rank, "pairs of workers, round %" PRIu32 " of %" PRIu32, round + 1, rounds);
        if (!measure_round(run, rows, round, pairs))
            return false;
    }
    for (uint32_t worker = 0; worker < count; worker++) {
        calibrate_say(run->rank, "port %" PRIu32 " of %" PRIu32, worker + 1, count);
        double fastest = 0; // a fast port is given more to do
        for (uint32_t m = 0; m < count; m++)
            fastest = fmax(fastest, pairs[worker * count + m].median);
        double wanted = (double)rows * fmax(1, fastest / all_at_once);
        if (!measure_port(run, (uint64_t)fmin(wanted, (double)run->rows_max), worker, pairs, &ports[worker]))
            return false;
    }
    return true;
}

static int compare_medians(const void *a, const void *b)
{
    double x = ((const Spread *)a)->median, y = ((const Spread *)b)->median;
    return (x > y) - (x < y);
}

static Spread middle_of(const Spread *ports, uint32_t count, bool *heterogeneous)
{
    Spread sorted[WORKERS_MAX];
    memcpy(sorted, ports, count * sizeof(*ports));
    qsort(sorted, count, sizeof(*sorted), compare_medians);
    *heterogeneous = sorted[count - 1].median > heterogeneous_ratio * sorted[0].median;
    return sorted[count / 2];
}

bool calibrate_workers(LevelRun *run, uint64_t rows)
{
    Calibration *calibration = run->rank->calibration;
    uint32_t count = run->members;
    bool heterogeneous;
    calibration->ports = calloc(count, sizeof(*calibration->ports));
    calibration->pairs = calloc((size_t)count * count, sizeof(*calibration->pairs));
    if (!calibration->ports || !calibration->pairs)
        return fault_set(run->rank->fault, FAULT_MEMORY, "out of memory for %u workers", count);
    if (!measure(run, rows, calibration->ports, calibration->pairs))
        return false;
    Spread middle = middle_of(calibration->ports, count, &heterogeneous);
    if (heterogeneous) // all at once, the slowest held up the others
        calibration->levels[0] = (LevelMeasure){middle, calibration->levels[0].latency_s, 0};
    calibration->port_count = heterogeneous || run->rank->options->cluster->port_count ? count : 0;
    return true;
}
