// Ports as lines in virtual time: each knows until when it is taken. A chunk is appended to every
// port of its path and has passed when the last of them is through with it.
// Owns the ports; leaves copying, waiting and latencies to the communicator.
#include "runtime/links.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>

typedef struct {
    double seconds_per_byte;
    double next_free_s;
} Port;

typedef struct {
    uint64_t ranks_per_worker;
    uint32_t egress_first, ingress_first; // into ports
    double seconds_per_byte;
} PortLevel;

struct LinkEmulation {
    Cluster cluster;
    PortLevel levels[LEVELS_MAX];
    // One size for all transfers: ports serve chunks in the order they come, so transfers that share
    // a port share it evenly only if their chunks are alike.
    uint64_t chunk_bytes;
    pthread_mutex_t mutex; // guards next_free_s of all ports
    Port *ports;
};

enum { CHUNK_BYTES_MIN = 4096 };
static const double chunk_s = 1e-3; // of a chunk on the slowest port of the cluster

LinkEmulation *links_create(const Cluster *cluster)
{
    LinkEmulation *links = calloc(1, sizeof(*links));
    if (!links)
        return NULL;
    links->cluster = *cluster;
    pthread_mutex_init(&links->mutex, NULL);
    uint64_t port_count = 0, gpus = cluster_gpus(cluster);
    double slowest = 0; // seconds per byte
    for (uint32_t l = 0; l < cluster->level_count; l++) {
        PortLevel *level = &links->levels[l];
        level->ranks_per_worker = cluster_gpus_below(cluster, l);
        uint64_t workers = gpus / level->ranks_per_worker;
        level->egress_first = (uint32_t)port_count;
        level->ingress_first = (uint32_t)(port_count + workers);
        double bandwidth = cluster->levels[l].bandwidth_bytes_per_s;
        level->seconds_per_byte = bandwidth > 0 ? 1 / bandwidth : 0;
        slowest = fmax(slowest, level->seconds_per_byte);
        port_count += 2 * workers;
    }
    double chunk_bytes = slowest > 0 ? fmin(chunk_s / slowest, 1e12) : 1e12;
    links->chunk_bytes = chunk_bytes > CHUNK_BYTES_MIN ? (uint64_t)chunk_bytes : CHUNK_BYTES_MIN;
    links->ports = port_count < UINT32_MAX ? calloc(port_count, sizeof(*links->ports)) : NULL;
    if (!links->ports) {
        links_destroy(links);
        return NULL;
    }
    for (uint32_t l = 0; l < cluster->level_count; l++) {
        uint32_t end = l + 1 < cluster->level_count ? links->levels[l + 1].egress_first : (uint32_t)port_count;
        for (uint32_t p = links->levels[l].egress_first; p < end; p++)
            links->ports[p].seconds_per_byte = links->levels[l].seconds_per_byte;
    }
    return links;
}

void links_destroy(LinkEmulation *links)
{
    if (!links)
        return;
    pthread_mutex_destroy(&links->mutex);
    free(links->ports);
    free(links);
}

static uint32_t outermost_difference(const LinkEmulation *links, uint64_t a, uint64_t b)
{
    uint32_t level = 0;
    while (level < links->cluster.level_count &&
           a / links->levels[level].ranks_per_worker == b / links->levels[level].ranks_per_worker)
        level++;
    return level;
}

void links_flow_begin(const LinkEmulation *links, LinkFlow *flow, uint64_t from, uint64_t to, uint64_t bytes,
                      double start_s)
{
    *flow = (LinkFlow){.clock_s = start_s, .chunk_bytes = bytes};
    uint32_t outermost = outermost_difference(links, from, to);
    if (outermost == links->cluster.level_count)
        return;
    flow->latency_s = links->cluster.levels[outermost].latency_s;
    flow->overhead_s = links->cluster.levels[outermost].overhead_s;
    if (bytes > links->chunk_bytes)
        flow->chunk_bytes = links->chunk_bytes;
    for (uint32_t l = outermost; l < links->cluster.level_count; l++) {
        const PortLevel *level = &links->levels[l];
        flow->ports[flow->port_count++] = level->egress_first + (uint32_t)(from / level->ranks_per_worker);
        flow->ports[flow->port_count++] = level->ingress_first + (uint32_t)(to / level->ranks_per_worker);
    }
}

double links_flow_reserve(LinkEmulation *links, LinkFlow *flow, uint64_t bytes)
{
    double passed_s = flow->clock_s;
    pthread_mutex_lock(&links->mutex);
    for (uint32_t p = 0; p < flow->port_count; p++) {
        Port *port = &links->ports[flow->ports[p]];
        port->next_free_s = fmax(flow->clock_s, port->next_free_s) + (double)bytes * port->seconds_per_byte;
        passed_s = fmax(passed_s, port->next_free_s);
    }
    pthread_mutex_unlock(&links->mutex);
    flow->clock_s = passed_s;
    return passed_s;
}
