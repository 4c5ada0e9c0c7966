// One exchange of a rank with its siblings of a level, and what its time makes of the port.
#include <math.h>
#include <string.h>

#include "runtime/calibrate/calibrate_internal.h"

bool level_exchange(void *context, Fault *fault)
{
    LevelRun *run = context;
    Comm *comm = run->rank->comm;
    memcpy(run->recv_counts, run->send_counts, run->members * sizeof(*run->recv_counts)); // everybody gets as much back
    Exchange exchange = {
        .part_count = 1,
        .parts = {{.send = run->send, .recv = run->recv, .row_bytes = run->row_bytes}},
        .send_counts = run->send_counts,
        .recv_counts = run->recv_counts,
        .counts_known = true,
        .recv_capacity = run->rows_max,
    };
    const CalibrateDevice *device = run->rank->options->device;
    return device ? device->exchange(run->on_device, run->channel, &exchange, fault)
                  : comm->ops->exchange(comm, run->channel, &exchange, fault);
}

double level_port_bytes(const LevelRun *run)
{
    return (double)cluster_gpus_below(run->rank->options->cluster, run->level) * (double)run->rows * run->row_bytes;
}

Spread level_rate(const LevelRun *run, Spread times)
{
    double latency_s = run->rank->calibration->levels[run->level].latency_s.median;
    Spread net = {fmax(times.median - latency_s, 0.1 * times.median), fmax(times.min - latency_s, 0.1 * times.min),
                  fmax(times.max - latency_s, 0.1 * times.max), times.count, times.unreliable};
    return calibrate_rate(net, level_port_bytes(run));
}
