// See diff_steps.h. Steps are sorted by what they are known by; equal neighbours of the two plans are
// the same step. Order is compared by a longest increasing run: O(n log n) in all.
#include "backends/diff_steps.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    int32_t layer, op;
    const char *level_name;
    uint32_t index; // in its plan
} Key;

static int compare_what(const Key *a, const Key *b)
{
    if (a->layer != b->layer)
        return a->layer < b->layer ? -1 : 1;
    if (a->op != b->op)
        return a->op < b->op ? -1 : 1;
    return strcmp(a->level_name, b->level_name);
}

static int compare_keys(const void *left, const void *right)
{
    const Key *a = left, *b = right;
    int what = compare_what(a, b);
    return what ? what : (a->index > b->index) - (a->index < b->index);
}

static Key *sort_steps(const Plan *plan, Arena *arena)
{
    Key *keys = arena_alloc_array(arena, (size_t)plan->step_count + 1, sizeof(*keys));
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const Step *step = &plan->steps[i];
        const char *level = step->level == NONE ? "" : plan->cluster.levels[step->level].name;
        keys[i] = (Key){.layer = step->layer, .op = (int32_t)step->op, .level_name = level, .index = i};
    }
    qsort(keys, plan->step_count, sizeof(*keys), compare_keys);
    return keys;
}

static bool same_group(const Plan *a, const Step *x, const Plan *b, const Step *y)
{
    if (x->group == NONE || y->group == NONE)
        return x->group == y->group;
    const Group *one = &a->groups[x->group], *other = &b->groups[y->group];
    return one->kind == other->kind && one->domain == other->domain &&
           group_size(&a->cluster, one) == group_size(&b->cluster, other);
}

static bool same_operands(const Plan *a, const Step *x, const Plan *b, const Step *y)
{
    const int32_t *one = step_operands(a, x), *other = step_operands(b, y);
    for (uint32_t k = 0; k < op_info((int)x->op)->operand_count; k++) {
        if ((one[k] == NONE) != (other[k] == NONE))
            return false;
        if (one[k] == NONE)
            continue;
        const Buffer *s = &a->buffers[one[k]], *t = &b->buffers[other[k]];
        if (s->dtype != t->dtype || s->rows != t->rows || s->cols != t->cols || s->kind != t->kind)
            return false;
    }
    return true;
}

// Both wait for the same steps; edges of either are compared through the match.
static bool same_waits(const Plan *a, const Step *x, const Plan *b, const Step *y, const StepMatch *of_a)
{
    if (x->after_count != y->after_count)
        return false;
    for (uint32_t i = 0; i < x->after_count; i++) {
        int32_t other = of_a[a->after[x->after_first + i]].other;
        bool found = false;
        for (uint32_t k = 0; k < y->after_count && !found; k++)
            found = (int32_t)b->after[y->after_first + k] == other;
        if (!found)
            return false;
    }
    return true;
}

// Of the steps of one stream that both plans have, in the order of plan 0: those outside a longest run
// that ascends in plan 1 have moved. Patience sorting, the piles kept by their last step.
static void mark_moved(const Plan *const plans[2], Stream stream, StepMatch *matches[2], Arena *arena)
{
    uint32_t count = plans[0]->step_count, piles = 0;
    uint32_t *tops = arena_alloc_array(arena, (size_t)count + 1, sizeof(*tops));
    int32_t *before = arena_alloc_array(arena, (size_t)count + 1, sizeof(*before));
    for (uint32_t i = 0; i < count; i++) {
        int32_t other = matches[0][i].other;
        if (other == NONE || step_stream(plans[0], &plans[0]->steps[i]) != stream)
            continue;
        uint32_t low = 0, high = piles;
        while (low < high) {
            uint32_t middle = (low + high) / 2;
            if (matches[0][tops[middle]].other < other)
                low = middle + 1;
            else
                high = middle;
        }
        before[i] = low > 0 ? (int32_t)tops[low - 1] : NONE;
        tops[low] = i;
        piles += low == piles;
        matches[0][i].moved = true;
    }
    for (int32_t i = piles > 0 ? (int32_t)tops[piles - 1] : NONE; i != NONE; i = before[i])
        matches[0][i].moved = false;
}

void diff_match_steps(const Plan *const plans[2], StepMatch *matches[2], Arena *arena)
{
    Key *keys[2];
    for (int p = 0; p < 2; p++) {
        keys[p] = sort_steps(plans[p], arena);
        matches[p] = arena_alloc_array(arena, (size_t)plans[p]->step_count + 1, sizeof(*matches[p]));
        for (uint32_t i = 0; i < plans[p]->step_count; i++)
            matches[p][i].other = NONE;
    }
    for (uint32_t i = 0, k = 0; i < plans[0]->step_count && k < plans[1]->step_count;) {
        int order = compare_what(&keys[0][i], &keys[1][k]);
        if (order == 0) {
            matches[0][keys[0][i].index].other = (int32_t)keys[1][k].index;
            matches[1][keys[1][k].index].other = (int32_t)keys[0][i].index;
        }
        i += order <= 0;
        k += order >= 0;
    }
    for (int s = 0; s < STREAM_COUNT; s++)
        mark_moved(plans, (Stream)s, matches, arena);
    for (uint32_t i = 0; i < plans[0]->step_count; i++) {
        StepMatch *one = &matches[0][i];
        if (one->other == NONE)
            continue;
        const Step *x = &plans[0]->steps[i], *y = &plans[1]->steps[one->other];
        one->changed = x->when != y->when || x->bytes != y->bytes || x->cost_s != y->cost_s ||
                       !same_group(plans[0], x, plans[1], y) || !same_operands(plans[0], x, plans[1], y) ||
                       !same_waits(plans[0], x, plans[1], y, matches[0]);
        matches[1][one->other].changed = one->changed;
        matches[1][one->other].moved = one->moved;
    }
}
