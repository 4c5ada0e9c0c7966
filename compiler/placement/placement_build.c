// Greedy placements to start from: groups of one kind (columns, or rows) are filled one by one, each begun by the
// worker whose links leave least choice; then the members of each group are lined up with those of the groups
// before it, the hardest first.
#include <stdlib.h>
#include <string.h>

#include "compiler/placement/placement_parts.h"

typedef struct {
    double hardness; // slowness of the last of so many links as the worker needs
    uint32_t worker;
} Ranked;

static int compare_ranked(const void *a, const void *b)
{
    const Ranked *x = a, *y = b;
    if (x->hardness != y->hardness)
        return x->hardness > y->hardness ? -1 : 1;
    return x->worker < y->worker ? -1 : 1;
}

static int compare_slowness(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// All workers, the hardest first.
static uint32_t *rank_workers(const Search *search)
{
    uint32_t count = search->count, needed = search->domain + search->columns - 2;
    double *sorted = arena_alloc_array(search->arena, count, sizeof(*sorted));
    Ranked *ranked = arena_alloc_array(search->arena, count, sizeof(*ranked));
    uint32_t *order = arena_alloc_array(search->arena, count, sizeof(*order));
    for (uint32_t w = 0; w < count; w++) {
        memcpy(sorted, search->pairs->s_per_byte + (size_t)w * count, count * sizeof(*sorted));
        qsort(sorted, count, sizeof(*sorted), compare_slowness); // its own 0 first
        ranked[w] = (Ranked){sorted[needed], w};
    }
    qsort(ranked, count, sizeof(*ranked), compare_ranked);
    for (uint32_t i = 0; i < count; i++)
        order[i] = ranked[i].worker;
    return order;
}

static bool is_better(const WorstPair *a, const WorstPair *b)
{
    return a->link_s_per_byte != b->link_s_per_byte ? a->link_s_per_byte < b->link_s_per_byte
                                                    : a->latency_s < b->latency_s;
}

// Fills `group` with `members` workers that are not taken: the hardest left, then whoever has the least bad link to
// those already in; of equals the hardest.
static void fill_group(const Search *search, const uint32_t order[], uint32_t members, bool taken[], WorstPair worst[],
                       uint32_t group[])
{
    uint32_t count = search->count;
    memset(worst, 0, count * sizeof(*worst));
    for (uint32_t member = 0; member < members; member++) {
        uint32_t pick = count;
        for (uint32_t i = 0; i < count; i++)
            if (!taken[order[i]] && (pick == count || is_better(&worst[order[i]], &worst[pick])))
                pick = order[i];
        taken[pick] = true;
        group[member] = pick;
        for (uint32_t w = 0; w < count; w++)
            worst_pair_include(&worst[w], search->pairs, pick, w);
    }
}

void placement_build(Search *search, bool columns, uint32_t worker[])
{
    uint32_t count = search->count, members = columns ? search->columns : search->domain, lines = members;
    const uint32_t *order = rank_workers(search);
    bool *taken = arena_alloc_array(search->arena, count, sizeof(*taken));
    WorstPair *worst = arena_alloc_array(search->arena, count, sizeof(*worst));
    uint32_t *group = arena_alloc_array(search->arena, members, sizeof(*group));
    uint32_t *line = arena_alloc_array(search->arena, count, sizeof(*line)); // [lines][groups]: who is lined up
    bool *filled = arena_alloc_array(search->arena, lines, sizeof(*filled));
    uint32_t groups = count / members;
    for (uint32_t g = 0; g < groups; g++) {
        fill_group(search, order, members, taken, worst, group);
        memset(filled, 0, lines * sizeof(*filled));
        for (uint32_t m = 0; m < members; m++) {
            uint32_t best = lines;
            WorstPair least = {0};
            for (uint32_t l = 0; l < lines; l++) {
                WorstPair here = {0};
                for (uint32_t before = 0; before < g && !filled[l]; before++)
                    worst_pair_include(&here, search->pairs, group[m], line[l * groups + before]);
                if (!filled[l] && (best == lines || is_better(&here, &least))) {
                    least = here;
                    best = l;
                }
            }
            filled[best] = true;
            line[best * groups + g] = group[m];
        }
    }
    for (uint32_t l = 0; l < lines; l++)
        for (uint32_t g = 0; g < groups; g++)
            worker[columns ? l * search->domain + g : g * search->domain + l] = line[l * groups + g];
}
