// Workers of the outermost level that differ: the worst port, the worst pair of any group, and which worker of the
// input a position is. Pure functions of a cluster whose ports and links are within the limits.
#include <string.h>

#include "ir/cluster.h"

static bool are_together(const Group *group, const WorkerLink *link)
{
    switch (group->kind) {
    case GROUP_GATHER:
        return link->a / group->domain == link->b / group->domain;
    case GROUP_EXCHANGE:
        return link->a % group->domain == link->b % group->domain;
    case GROUP_LEVEL:
    case GROUP_WORLD:
        return true;
    case GROUP_KIND_COUNT:
        break;
    }
    return false;
}

static uint64_t count_workers(const Cluster *cluster, const Group *group)
{
    return group->kind == GROUP_WORLD ? cluster->port_count : group_size(cluster, group);
}

// A worker with a peer that it has no link of its own with pays the latency of its port.
WorstPair cluster_worst_pair(const Cluster *cluster, const Group *group, uint32_t linked[])
{
    WorstPair worst = {0};
    memset(linked, 0, cluster->port_count * sizeof(*linked));
    for (uint32_t i = 0; i < cluster->link_count; i++) {
        const WorkerLink *link = &cluster->links[i];
        if (!are_together(group, link))
            continue;
        linked[link->a]++;
        linked[link->b]++;
        if (1 / link->bandwidth_bytes_per_s > worst.link_s_per_byte)
            worst.link_s_per_byte = 1 / link->bandwidth_bytes_per_s;
        if (link->latency_s > worst.latency_s)
            worst.latency_s = link->latency_s;
    }
    uint64_t peers = count_workers(cluster, group) - 1;
    for (uint32_t w = 0; w < cluster->port_count; w++)
        if (linked[w] < peers && cluster->ports[w].latency_s > worst.latency_s)
            worst.latency_s = cluster->ports[w].latency_s;
    return worst;
}

// Joins the two neighbours whose latencies are closest.
static void join_closest(PairLines *lines)
{
    uint32_t closest = 0;
    for (uint32_t i = 1; i + 1 < lines->count; i++)
        if (lines->lines[i + 1].latency_s - lines->lines[i].latency_s <
            lines->lines[closest + 1].latency_s - lines->lines[closest].latency_s)
            closest = i;
    lines->lines[closest].latency_s = lines->lines[closest + 1].latency_s;
    lines->count--;
    memmove(&lines->lines[closest + 1], &lines->lines[closest + 2],
            (lines->count - closest - 1) * sizeof(*lines->lines));
}

void pair_lines_add(PairLines *lines, PairLine line)
{
    uint32_t kept = 0, place = 0;
    for (uint32_t i = 0; i < lines->count; i++) {
        PairLine other = lines->lines[i];
        if (other.latency_s >= line.latency_s && other.s_per_byte >= line.s_per_byte)
            return; // nothing was dropped then: what the new line is above of, the other one is, too
        if (other.latency_s > line.latency_s || other.s_per_byte > line.s_per_byte)
            lines->lines[kept++] = other;
    }
    lines->count = kept;
    if (lines->count == PAIR_LINES_MAX)
        join_closest(lines);
    while (place < lines->count && lines->lines[place].latency_s < line.latency_s)
        place++;
    memmove(&lines->lines[place + 1], &lines->lines[place], (lines->count - place) * sizeof(*lines->lines));
    lines->lines[place] = line;
    lines->count++;
}

double pair_lines_s(const PairLines *lines, double bytes, double inner_s)
{
    double slowest_s = 0;
    for (uint32_t i = 0; i < lines->count; i++) {
        double transfer_s = bytes * lines->lines[i].s_per_byte;
        double line_s = lines->lines[i].latency_s + (transfer_s > inner_s ? transfer_s : inner_s);
        slowest_s = line_s > slowest_s ? line_s : slowest_s;
    }
    return slowest_s;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

PairLines cluster_pair_lines(const Cluster *cluster, const Group *group, uint32_t linked[])
{
    PairLines lines = {0};
    PairLine others = {0};
    uint64_t peers = count_workers(cluster, group) - 1;
    memset(linked, 0, cluster->port_count * sizeof(*linked));
    for (uint32_t i = 0; i < cluster->link_count && peers > 0; i++) {
        const WorkerLink *link = &cluster->links[i];
        if (!are_together(group, link))
            continue;
        linked[link->a]++;
        linked[link->b]++;
        double ports = larger(1 / cluster->ports[link->a].bandwidth_bytes_per_s,
                              1 / cluster->ports[link->b].bandwidth_bytes_per_s);
        pair_lines_add(&lines,
                       (PairLine){.latency_s = link->latency_s,
                                  .s_per_byte = larger(ports, 1 / link->bandwidth_bytes_per_s / (double)peers)});
    }
    for (uint32_t w = 0; w < cluster->port_count; w++) {
        if (linked[w] >= peers)
            continue;
        others.latency_s = larger(others.latency_s, cluster->ports[w].latency_s);
        others.s_per_byte = larger(others.s_per_byte, 1 / cluster->ports[w].bandwidth_bytes_per_s);
    }
    if (others.s_per_byte > 0)
        pair_lines_add(&lines, others);
    return lines;
}

double cluster_slowest_port(const Cluster *cluster)
{
    double slowest =
        cluster->port_count ? cluster->ports[0].bandwidth_bytes_per_s : cluster->levels[0].bandwidth_bytes_per_s;
    for (uint32_t w = 1; w < cluster->port_count; w++)
        if (cluster->ports[w].bandwidth_bytes_per_s < slowest)
            slowest = cluster->ports[w].bandwidth_bytes_per_s;
    return slowest;
}

uint64_t cluster_process_of_rank(const Cluster *cluster, uint64_t rank)
{
    uint64_t below = cluster_gpus_below(cluster, 0);
    return cluster->port_count ? cluster->ports[rank / below].worker * below + rank % below : rank;
}

uint64_t cluster_rank_of_process(const Cluster *cluster, uint64_t process)
{
    uint64_t below = cluster_gpus_below(cluster, 0), position = 0;
    if (!cluster->port_count)
        return process;
    while (cluster->ports[position].worker != process / below)
        position++;
    return position * below + process % below;
}
