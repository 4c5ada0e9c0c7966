// See outer.h. One pass over the links per domain size.
#include "compiler/spec/outer.h"

#include <math.h>
#include <string.h>

const Outer *outer_measure(const Cluster *cluster, Arena *arena)
{
    uint32_t count = cluster->port_count, divisors = 0;
    if (!count)
        return NULL;
    for (uint32_t size = 1; size <= count; size++)
        divisors += count % size == 0;
    Outer *outer = arena_alloc(arena, sizeof(*outer));
    outer->domains = arena_alloc_array(arena, divisors, sizeof(*outer->domains));
    uint32_t *linked = arena_alloc_array(arena, count, sizeof(*linked));
    for (uint32_t size = 1; size <= count; size++) {
        if (count % size)
            continue;
        OuterDomain *domain = &outer->domains[outer->count++];
        domain->domain = size;
        domain->gather = cluster_worst_pair(cluster, &(Group){GROUP_GATHER, 0, size}, linked);
        domain->exchange = cluster_worst_pair(cluster, &(Group){GROUP_EXCHANGE, 0, size}, linked);
        domain->gather_lines = cluster_pair_lines(cluster, &(Group){GROUP_GATHER, 0, size}, linked);
        domain->exchange_lines = cluster_pair_lines(cluster, &(Group){GROUP_EXCHANGE, 0, size}, linked);
    }
    outer->port_s_per_byte = 1 / cluster_slowest_port(cluster);
    return outer;
}

static const OuterDomain *find_domain(const Outer *outer, uint32_t domain)
{
    size_t low = 0, high = outer->count - 1;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (outer->domains[middle].domain < domain)
            low = middle + 1;
        else
            high = middle;
    }
    return &outer->domains[low];
}

const WorstPair *outer_group(const Outer *outer, GroupKind kind, uint32_t domain)
{
    const OuterDomain *found = find_domain(outer, domain);
    return kind == GROUP_GATHER ? &found->gather : &found->exchange;
}

const PairLines *outer_lines(const Outer *outer, GroupKind kind, uint32_t domain)
{
    const OuterDomain *found = find_domain(outer, domain);
    return kind == GROUP_GATHER ? &found->gather_lines : &found->exchange_lines;
}

static void scale_lines(PairLines *lines, double factor)
{
    for (uint32_t i = 0; i < lines->count; i++)
        lines->lines[i].s_per_byte /= factor;
}

const Outer *outer_scale(const Outer *outer, double factor, Arena *arena)
{
    if (!outer)
        return NULL;
    Outer *scaled = arena_alloc(arena, sizeof(*scaled));
    *scaled = *outer;
    scaled->port_s_per_byte /= factor;
    scaled->domains = arena_alloc_array(arena, outer->count, sizeof(*scaled->domains));
    for (size_t d = 0; d < outer->count; d++) {
        scaled->domains[d] = outer->domains[d];
        scaled->domains[d].gather.link_s_per_byte /= factor;
        scaled->domains[d].exchange.link_s_per_byte /= factor;
        scale_lines(&scaled->domains[d].gather_lines, factor);
        scale_lines(&scaled->domains[d].exchange_lines, factor);
    }
    return scaled;
}

// Peers of the smallest group that both positions are in; 0 if they are in none.
static uint64_t peers_together(const Plan *plan, const WorkerLink *link)
{
    uint64_t least = 0;
    for (uint32_t g = 0; g < plan->group_count; g++) {
        const Group *group = &plan->groups[g];
        if (group->kind != GROUP_WORLD && group->level != 0)
            continue;
        if ((group->kind == GROUP_GATHER && link->a / group->domain != link->b / group->domain) ||
            (group->kind == GROUP_EXCHANGE && link->a % group->domain != link->b % group->domain))
            continue;
        uint64_t members = group->kind == GROUP_WORLD ? plan->cluster.port_count : group_size(&plan->cluster, group);
        if (members > 1 && (!least || members - 1 < least))
            least = members - 1;
    }
    return least;
}

static bool can_limit(const Plan *plan, const WorkerLink *link)
{
    const WorkerPort *a = &plan->cluster.ports[link->a], *b = &plan->cluster.ports[link->b];
    uint64_t peers = peers_together(plan, link);
    if (!peers)
        return false;
    double share = fmin(a->bandwidth_bytes_per_s, b->bandwidth_bytes_per_s) / (double)peers;
    return link->bandwidth_bytes_per_s < share || link->latency_s != fmax(a->latency_s, b->latency_s);
}

void outer_describe(const Cluster *placed, Plan *plan)
{
    Cluster *cluster = &plan->cluster;
    cluster->port_count = placed->port_count;
    cluster->link_count = 0;
    if (!placed->port_count)
        return;
    cluster->ports = arena_alloc_array(plan->arena, placed->port_count, sizeof(*cluster->ports));
    for (uint32_t w = 0; w < placed->port_count; w++) {
        cluster->ports[w] = placed->ports[w];
        cluster->ports[w].name = arena_copy_string(plan->arena, placed->ports[w].name, strlen(placed->ports[w].name));
    }
    uint32_t limiting = 0;
    for (uint32_t i = 0; i < placed->link_count; i++)
        limiting += can_limit(plan, &placed->links[i]);
    cluster->links = arena_alloc_array(plan->arena, limiting, sizeof(*cluster->links));
    for (uint32_t i = 0; i < placed->link_count; i++)
        if (can_limit(plan, &placed->links[i]))
            cluster->links[cluster->link_count++] = placed->links[i];
}
