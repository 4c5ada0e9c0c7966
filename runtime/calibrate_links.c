// Measures ports and latencies, level by level. Every rank exchanges rows with its siblings of the level, all groups
// at the same time, so that all ranks below a port share it, and both directions are busy. Where workers of the
// outermost level may differ, each one in turn is the only one that talks to all others: the others' ports are
// then less busy than its own.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/calibrate_internal.h"

enum { ROW_BYTES = 1024, FIRST_ROWS = 32, LATENCY_SAMPLES = SAMPLES_MAX, STAR_SAMPLES = 3, STARS_MAX = 64 };

static const double unlike_ratio = 1.25;  // of ports, from which they are written one by one

typedef struct {
    CalibrateRank *rank;
    int channel;
    uint32_t level, members, own; // own: this rank's index in its group
    uint64_t rows;                // that pass it each way; in a star, that pass the star
    uint32_t row_bytes;           // up to ROW_BYTES
    char *send, *recv;            // [rows_max][ROW_BYTES]
    uint64_t rows_max;
    int32_t *send_counts, *recv_counts; // [members]
} LevelRun;

static bool exchange_once(void *context, Fault *fault)
{
    LevelRun *run = context;
    Comm *comm = run->rank->comm;
    Exchange exchange = {
        .part_count = 1,
        .parts = {{.send = run->send, .recv = run->recv, .row_bytes = run->row_bytes}},
        .send_counts = run->send_counts,
        .recv_counts = run->recv_counts,
        .recv_capacity = run->rows_max,
    };
    return comm->ops->exchange(comm, run->channel, &exchange, fault);
}

// As many rows to every sibling.
static void set_counts(LevelRun *run, uint64_t rows)
{
    run->rows = rows / (run->members - 1) * (run->members - 1);
    for (uint32_t m = 0; m < run->members; m++)
        run->send_counts[m] = m == run->own ? 0 : (int32_t)(rows / (run->members - 1));
}

// Between `star` and all others alone, in proportion to what the others' ports take.
static void set_star_counts(LevelRun *run, uint64_t rows, uint32_t star, const Spread *ports)
{
    double sum = 0;
    run->rows = 0;
    for (uint32_t m = 0; m < run->members; m++)
        sum += m == star ? 0 : ports[m].median;
    for (uint32_t m = 0; m < run->members; m++) {
        uint32_t other = run->own == star ? m : run->own;
        bool talks = m != run->own && (run->own == star || m == star);
        run->send_counts[m] = talks ? (int32_t)((double)rows * ports[other].median / sum) : 0;
        run->rows += m == star ? 0 : (uint64_t)((double)rows * ports[m].median / sum);
    }
}

static double port_bytes(const LevelRun *run)
{
    return (double)cluster_gpus_below(run->rank->options->cluster, run->level) * (double)run->rows * run->row_bytes;
}

// Finds a number of rows that takes long enough; all ranks see the same times and choose alike.
static bool find_rows(LevelRun *run, uint64_t *rows)
{
    double time_s = 0, long_enough_s = run->rank->options->sample_s;
    *rows = (uint64_t)fmin(fmax(FIRST_ROWS, run->members - 1), (double)run->rows_max);
    for (;;) {
        set_counts(run, *rows);
        if (!calibrate_time(run->rank, exchange_once, run, &time_s))
            return false;
        if (time_s >= long_enough_s || *rows == run->rows_max)
            return true;
        double wanted = (double)*rows * fmin(4, 1.2 * long_enough_s / fmax(time_s, 1e-6));
        *rows = (uint64_t)fmin(fmax(wanted, (double)*rows + 1), (double)run->rows_max);
    }
}

// What a latency takes of the time is no part of the rate.
static Spread rate_without(Spread times, double latency_s, double bytes)
{
    Spread net = {fmax(times.median - latency_s, 0.1 * times.median), fmax(times.min - latency_s, 0.1 * times.min),
                  fmax(times.max - latency_s, 0.1 * times.max), times.count};
    return calibrate_rate(net, bytes);
}

static bool measure_level(LevelRun *run, LevelMeasure *measure, uint64_t *rows)
{
    Spread times;
    set_counts(run, run->members - 1);
    run->row_bytes = 1;
    if (!calibrate_sample(run->rank, exchange_once, run, LATENCY_SAMPLES, &measure->latency_s))
        return false;
    run->row_bytes = ROW_BYTES;
    if (!find_rows(run, rows) || !calibrate_sample(run->rank, exchange_once, run, SAMPLES, &times))
        return false;
    measure->port_bytes = port_bytes(run);
    measure->bandwidth_bytes_per_s = rate_without(times, measure->latency_s.median, measure->port_bytes);
    return true;
}

// ---- workers of the outermost level ----------------------------------------------------------

static int compare_medians(const void *a, const void *b)
{
    double x = ((const Spread *)a)->median, y = ((const Spread *)b)->median;
    return (x > y) - (x < y);
}

// Twice: what the first round finds of the others' ports says how much each of them can be asked to carry. Times, and
// so shares, are the same on every rank.
static bool measure_ports(LevelRun *run, uint64_t rows, Spread *ports)
{
    double latency_s = run->rank->calibration->levels[0].latency_s.median;
    double all_at_once = run->rank->calibration->levels[0].bandwidth_bytes_per_s.median;
    Spread found[STARS_MAX];
    for (uint32_t worker = 0; worker < run->members; worker++)
        ports[worker].median = 1;
    for (int round = 0; round < 2; round++) {
        for (uint32_t worker = 0; worker < run->members; worker++) {
            Spread times;
            double faster = round ? ports[worker].median / all_at_once : 1;
            set_star_counts(run, (uint64_t)fmin((double)rows * faster, (double)run->rows_max), worker, ports);
            if (!calibrate_sample(run->rank, exchange_once, run, STAR_SAMPLES, &times))
                return false;
            found[worker] = rate_without(times, latency_s, port_bytes(run));
        }
        memcpy(ports, found, run->members * sizeof(*ports));
    }
    return true;
}

// Keeps the workers' own bandwidths if they differ, or if the cluster has names for them.
static bool measure_workers(LevelRun *run, uint64_t rows)
{
    Calibration *calibration = run->rank->calibration;
    uint32_t count = run->members;
    Spread *ports = calloc(2 * (size_t)count, sizeof(*ports)), *sorted = ports + count;
    if (!ports)
        return fault_set(run->rank->fault, EXIT_FAULT, "out of memory for ports");
    if (!measure_ports(run, rows, ports)) {
        free(ports);
        return false;
    }
    for (uint32_t p = 0; p < count; p++)
        sorted[p] = ports[p];
    qsort(sorted, count, sizeof(*sorted), compare_medians);
    bool unlike = sorted[count - 1].median > unlike_ratio * sorted[0].median;
    if (!unlike && !run->rank->options->cluster->port_count) {
        free(ports);
        return true;
    }
    calibration->ports = ports;
    calibration->port_count = count;
    if (unlike) // all at once, the slowest held up the others
        calibration->levels[0] = (LevelMeasure){sorted[count / 2], calibration->levels[0].latency_s, 0};
    return true;
}

// ---- levels ----------------------------------------------------------------------------------

static void run_close(LevelRun *run)
{
    free(run->send);
    free(run->recv);
    free(run->send_counts);
    free(run->recv_counts);
}

static bool run_open(CalibrateRank *rank, uint32_t level, LevelRun *run)
{
    const Cluster *cluster = rank->options->cluster;
    Group group = {.kind = GROUP_LEVEL, .level = (int32_t)level, .domain = 1};
    *run = (LevelRun){.rank = rank, .level = level, .members = cluster->levels[level].count};
    run->own = (uint32_t)group_index(cluster, &group, rank->comm->rank);
    run->rows_max = (uint64_t)fmax((double)(rank->bytes_max / ROW_BYTES), run->members - 1);
    run->send = calloc(run->rows_max, ROW_BYTES);
    run->recv = calloc(run->rows_max, ROW_BYTES);
    run->send_counts = calloc(run->members, sizeof(*run->send_counts));
    run->recv_counts = calloc(run->members, sizeof(*run->recv_counts));
    if (!run->send || !run->recv || !run->send_counts || !run->recv_counts)
        return fault_set(rank->fault, EXIT_FAULT, "out of memory for rows");
    run->channel = rank->comm->ops->open(rank->comm, &group, STREAM_EXCHANGE, rank->fault);
    return run->channel >= 0;
}

bool calibrate_links(CalibrateRank *rank)
{
    const Cluster *cluster = rank->options->cluster;
    for (uint32_t l = 0; l < cluster->level_count; l++) {
        if (cluster->levels[l].count < 2)
            continue;
        LevelRun run;
        uint64_t rows;
        bool ok = run_open(rank, l, &run) && measure_level(&run, &rank->calibration->levels[l], &rows) &&
                  (l > 0 || run.members < 3 || run.members > STARS_MAX || measure_workers(&run, rows));
        run_close(&run);
        if (!ok)
            return false;
    }
    return true;
}
