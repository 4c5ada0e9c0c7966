// Ports and links as lines in virtual time: each knows until when it is taken. A chunk is appended to every
// port of its path and has passed when the last of them is through with it.
// Owns the ports and links; leaves copying, waiting and latencies to the communicator.
#include "runtime/comm/links.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>

typedef struct {
    double seconds_per_byte;
    double next_free_s;
} Port;

typedef struct {
    uint64_t ranks_per_worker, workers;
    uint32_t egress_first, ingress_first; // into ports
} PortLevel;

struct LinkEmulation {
    Cluster cluster;
    PortLevel levels[LEVELS_MAX];
    uint32_t link_first; // into ports: of each link of the cluster first the way up in positions, then down
    // One size for all transfers: ports serve chunks in the order they come, so transfers that share
    // a port share it evenly only if their chunks are alike.
    uint64_t chunk_bytes;
    pthread_mutex_t mutex; // guards next_free_s of all ports
    Port *ports;
};

enum { CHUNK_BYTES_MIN = 4096 };
static const double chunk_s = 1e-3; // of a chunk on the slowest port of the cluster

// Numbers the ports level by level, egress before ingress, then the links; returns how many there are.
static uint64_t number_ports(LinkEmulation *links)
{
    const Cluster *cluster = &links->cluster;
    uint64_t port_count = 0, gpus = cluster_gpus(cluster);
    for (uint32_t l = 0; l < cluster->level_count; l++) {
        PortLevel *level = &links->levels[l];
        level->ranks_per_worker = cluster_gpus_below(cluster, l);
        level->workers = gpus / level->ranks_per_worker;
        level->egress_first = (uint32_t)port_count;
        level->ingress_first = (uint32_t)(port_count + level->workers);
        port_count += 2 * level->workers;
    }
    links->link_first = (uint32_t)port_count;
    return port_count + 2 * (uint64_t)cluster->link_count;
}

static double seconds_per_byte(double bytes_per_s)
{
    return bytes_per_s > 0 ? 1 / bytes_per_s : 0;
}

// Gives every port its rate; returns that of the slowest, seconds per byte.
static double set_rates(LinkEmulation *links)
{
    const Cluster *cluster = &links->cluster;
    double slowest = 0;
    for (uint32_t l = 0; l < cluster->level_count; l++) {
        const PortLevel *level = &links->levels[l];
        for (uint64_t w = 0; w < level->workers; w++) {
            double rate = seconds_per_byte(l == 0 && cluster->port_count ? cluster->ports[w].bandwidth_bytes_per_s
                                                                         : cluster->levels[l].bandwidth_bytes_per_s);
            links->ports[level->egress_first + w].seconds_per_byte = rate;
            links->ports[level->ingress_first + w].seconds_per_byte = rate;
            slowest = fmax(slowest, rate);
        }
    }
    for (uint32_t i = 0; i < cluster->link_count; i++) {
        double rate = seconds_per_byte(cluster->links[i].bandwidth_bytes_per_s);
        links->ports[links->link_first + 2 * i].seconds_per_byte = rate;
        links->ports[links->link_first + 2 * i + 1].seconds_per_byte = rate;
        slowest = fmax(slowest, rate);
    }
    return slowest;
}

LinkEmulation *links_create(const Cluster *cluster)
{
    LinkEmulation *links = calloc(1, sizeof(*links));
    if (!links)
        return NULL;
    links->cluster = *cluster;
    pthread_mutex_init(&links->mutex, NULL);
    uint64_t port_count = number_ports(links);
    links->ports = port_count < UINT32_MAX ? calloc(port_count, sizeof(*links->ports)) : NULL;
    if (!links->ports) {
        links_destroy(links);
        return NULL;
    }
    double slowest = set_rates(links);
    double chunk_bytes = slowest > 0 ? fmin(chunk_s / slowest, 1e12) : 1e12;
    links->chunk_bytes = chunk_bytes > CHUNK_BYTES_MIN ? (uint64_t)chunk_bytes : CHUNK_BYTES_MIN;
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

// The link between two positions, a < b; NULL where their ports alone limit them.
static const WorkerLink *find_link(const Cluster *cluster, uint32_t a, uint32_t b)
{
    uint32_t low = 0, high = cluster->link_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const WorkerLink *link = &cluster->links[middle];
        if (link->a < a || (link->a == a && link->b < b))
            low = middle + 1;
        else
            high = middle;
    }
    const WorkerLink *link = &cluster->links[low];
    return low < cluster->link_count && link->a == a && link->b == b ? link : NULL;
}

// Between two workers of the outermost level: the link of their own, or the ports' latency.
static void pass_outermost(const LinkEmulation *links, LinkFlow *flow, uint32_t from, uint32_t to)
{
    const Cluster *cluster = &links->cluster;
    if (!cluster->port_count)
        return;
    const WorkerLink *link = find_link(cluster, from < to ? from : to, from < to ? to : from);
    flow->latency_s = link ? link->latency_s : fmax(cluster->ports[from].latency_s, cluster->ports[to].latency_s);
    if (link)
        flow->ports[flow->port_count++] = links->link_first + 2 * (uint32_t)(link - cluster->links) + (from > to);
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
    if (outermost == 0)
        pass_outermost(links, flow, (uint32_t)(from / links->levels[0].ranks_per_worker),
                       (uint32_t)(to / links->levels[0].ranks_per_worker));
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
