// Pairs of workers: what the link between two costs, what a placement makes of them, and the least that any can.
#include <math.h>
#include <string.h>

#include "compiler/placement/placement_parts.h"
#include "ir/base/sort.h"

// Over all workers, the largest of their k-th least figures.
static double *least_figures(const double *matrix, uint32_t count, Arena *arena)
{
    double *least = arena_alloc_array(arena, count, sizeof(*least));
    double *sorted = arena_alloc_array(arena, count, sizeof(*sorted));
    for (uint32_t a = 0; a < count && count > 1; a++) {
        const double *row = matrix + (size_t)a * count;
        memcpy(sorted, row, a * sizeof(*sorted));
        memcpy(sorted + a, row + a + 1, (count - 1 - a) * sizeof(*sorted));
        sort_doubles(sorted, count - 1);
        for (uint32_t k = 0; k + 1 < count; k++)
            least[k] = fmax(least[k], sorted[k]);
    }
    return least;
}

Pairs *pairs_of_cluster(const Cluster *cluster, Arena *arena)
{
    Pairs *pairs = arena_alloc(arena, sizeof(*pairs));
    size_t count = cluster->port_count;
    pairs->count = cluster->port_count;
    pairs->s_per_byte = arena_alloc_array(arena, count * count, sizeof(*pairs->s_per_byte));
    pairs->latency_s = arena_alloc_array(arena, count * count, sizeof(*pairs->latency_s));
    for (size_t a = 0; a < count; a++)
        for (size_t b = 0; b < count; b++)
            if (a != b)
                pairs->latency_s[a * count + b] = fmax(cluster->ports[a].latency_s, cluster->ports[b].latency_s);
    for (uint32_t i = 0; i < cluster->link_count; i++) {
        const WorkerLink *link = &cluster->links[i];
        size_t there = link->a * count + link->b, back = link->b * count + link->a;
        pairs->s_per_byte[there] = pairs->s_per_byte[back] = 1 / link->bandwidth_bytes_per_s;
        pairs->latency_s[there] = pairs->latency_s[back] = link->latency_s;
    }
    pairs->least_s_per_byte = least_figures(pairs->s_per_byte, pairs->count, arena);
    pairs->least_latency_s = least_figures(pairs->latency_s, pairs->count, arena);
    return pairs;
}

void worst_pair_include(WorstPair *group, const Pairs *pairs, uint32_t a, uint32_t b)
{
    size_t at = (size_t)a * pairs->count + b;
    if (pairs->s_per_byte[at] > group->link_s_per_byte)
        group->link_s_per_byte = pairs->s_per_byte[at];
    if (pairs->latency_s[at] > group->latency_s)
        group->latency_s = pairs->latency_s[at];
}

PlacementProfile placement_profile(const Pairs *pairs, uint32_t domain, const uint32_t worker[])
{
    PlacementProfile profile = {0};
    for (uint32_t x = 0; x < pairs->count; x++) {
        for (uint32_t y = x + 1; y < (x / domain + 1) * domain; y++)
            worst_pair_include(&profile.row, pairs, worker[x], worker[y]);
        for (uint32_t y = x + domain; y < pairs->count; y += domain)
            worst_pair_include(&profile.column, pairs, worker[x], worker[y]);
    }
    return profile;
}

PlacementProfile placement_floor(const Pairs *pairs, uint32_t domain)
{
    PlacementProfile floor = {0};
    uint32_t columns = pairs->count / domain;
    if (domain > 1)
        floor.row = (WorstPair){pairs->least_latency_s[domain - 2], pairs->least_s_per_byte[domain - 2]};
    if (columns > 1)
        floor.column = (WorstPair){pairs->least_latency_s[columns - 2], pairs->least_s_per_byte[columns - 2]};
    return floor;
}

double *pairs_distinct_values(const Pairs *pairs, const double *matrix, Arena *arena, size_t *out)
{
    size_t count = pairs->count, pair_count = count * (count - 1) / 2, filled = 0;
    double *values = arena_alloc_array(arena, pair_count + 1, sizeof(*values));
    for (size_t a = 0; a < count; a++)
        for (size_t b = a + 1; b < count; b++)
            values[filled++] = matrix[a * count + b];
    sort_doubles(values, filled);
    *out = 0;
    for (size_t i = 0; i < filled; i++)
        if (!i || values[i] != values[i - 1])
            values[(*out)++] = values[i];
    return values;
}
