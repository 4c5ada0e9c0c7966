// Measures ports and latencies, level by level. Every rank exchanges rows with its siblings of the level, all groups
// at the same time, so that all ranks below a port share it, and both directions are busy.
#include <math.h>
#include <stdlib.h>

#include "runtime/calibrate/calibrate_internal.h"

enum { ROW_BYTES = 1024, FIRST_ROWS = 32, LATENCY_SAMPLES = SAMPLES_MAX };

// As many rows to every sibling.
static void set_counts(LevelRun *run, uint64_t rows)
{
    run->rows = rows / (run->members - 1) * (run->members - 1);
    for (uint32_t m = 0; m < run->members; m++)
        run->send_counts[m] = m == run->own ? 0 : (int32_t)(rows / (run->members - 1));
}

// Finds a number of rows that takes long enough; all ranks see the same times and choose alike.
static bool find_rows(LevelRun *run, uint64_t *rows)
{
    double time_s = 0, long_enough_s = run->rank->options->sample_s;
    *rows = (uint64_t)fmin(fmax(FIRST_ROWS, run->members - 1), (double)run->rows_max);
    for (;;) {
        set_counts(run, *rows);
        if (!calibrate_time(run->rank, level_exchange, run, 0, &time_s, 1))
            return false;
        if (time_s >= long_enough_s || *rows == run->rows_max)
            return true;
        double wanted = (double)*rows * fmin(4, 1.2 * long_enough_s / fmax(time_s, 1e-6));
        *rows = (uint64_t)fmin(fmax(wanted, (double)*rows + 1), (double)run->rows_max);
    }
}

static const char *level_name(const LevelRun *run)
{
    return run->rank->options->cluster->levels[run->level].name;
}

static bool measure_level(LevelRun *run, LevelMeasure *measure, uint64_t *rows)
{
    Spread times;
    set_counts(run, run->members - 1);
    run->row_bytes = 1;
    calibrate_say(run->rank, "latency of level '%s'", level_name(run));
    if (!calibrate_sample(run->rank, level_exchange, run, LATENCY_SAMPLES, &measure->latency_s))
        return false;
    run->row_bytes = ROW_BYTES;
    calibrate_say(run->rank, "bandwidth of level '%s'", level_name(run));
    if (!find_rows(run, rows) || !calibrate_sample(run->rank, level_exchange, run, SAMPLES, &times))
        return false;
    measure->port_bytes = level_port_bytes(run);
    measure->bandwidth_bytes_per_s = level_rate(run, times);
    return true;
}

// ---- levels ----------------------------------------------------------------------------------

static char *rows_allocate(const CalibrateRank *rank, uint64_t rows)
{
    const CalibrateDevice *device = rank->options->device;
    return device ? device->allocate(rank->comm, rows * ROW_BYTES) : calloc(rows, ROW_BYTES);
}

static void rows_release(const CalibrateDevice *device, char *rows)
{
    if (device)
        device->release(rows);
    else
        free(rows);
}

static void run_close(LevelRun *run)
{
    const CalibrateDevice *device = run->rank->options->device;
    rows_release(device, run->send);
    rows_release(device, run->recv);
    if (device)
        device->level_end(run->on_device);
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
    run->send = rows_allocate(rank, run->rows_max);
    run->recv = rows_allocate(rank, run->rows_max);
    run->send_counts = calloc(run->members, sizeof(*run->send_counts));
    run->recv_counts = calloc(run->members, sizeof(*run->recv_counts));
    if (!run->send || !run->recv || !run->send_counts || !run->recv_counts)
        return fault_set(rank->fault, FAULT_MEMORY, "out of memory for rows");
    const CalibrateDevice *device = rank->options->device;
    if (device) {
        run->on_device = device->level_begin(rank->comm, run->members, run->own, rank->fault);
        if (!run->on_device)
            return false;
    }
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
                  (l > 0 || run.members < 3 || run.members > WORKERS_MAX || calibrate_workers(&run, rows));
        run_close(&run);
        if (!ok)
            return false;
    }
    return true;
}
