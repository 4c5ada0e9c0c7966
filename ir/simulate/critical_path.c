// See critical_path.h.
#include "ir/simulate/critical_path.h"

#include <stdlib.h>

uint32_t critical_path(const Plan *plan, const Simulation *simulation, Arena *arena, PathStep **path)
{
    uint32_t class = (uint32_t)(simulation->last - simulation->classes), length = 0;
    int32_t step = NONE;
    for (uint32_t i = 0; i < plan->step_count; i++)
        if (step == NONE || simulation->last->steps[i].end_s >= simulation->last->steps[step].end_s)
            step = (int32_t)i;
    *path = arena_alloc_array(arena, plan->step_count, sizeof(**path));
    while (step != NONE) {
        double end_s = simulation->classes[class].steps[step].end_s;
        class = simulation->classes[class].steps[step].late_class;
        const SimulatedStep *at = &simulation->classes[class].steps[step];
        (*path)[length++] = (PathStep){(uint32_t)step, class, at->begin_s, end_s};
        step = at->cause;
    }
    for (uint32_t i = 0; i < length / 2; i++) {
        PathStep other = (*path)[i];
        (*path)[i] = (*path)[length - 1 - i];
        (*path)[length - 1 - i] = other;
    }
    return length;
}

static int compare_parts(const void *left, const void *right)
{
    const PathPart *a = left, *b = right;
    if (a->time_s != b->time_s)
        return (a->time_s < b->time_s) - (a->time_s > b->time_s);
    return a->info->op != b->info->op ? (a->info->op > b->info->op) - (a->info->op < b->info->op)
                                      : (a->level > b->level) - (a->level < b->level);
}

uint32_t critical_path_parts(const Plan *plan, const PathStep path[], uint32_t length, Arena *arena, PathPart **parts)
{
    size_t ops;
    uint32_t count = 0;
    op_table(&ops);
    *parts = arena_alloc_array(arena, ops * (LEVELS_MAX + 1), sizeof(**parts));
    for (uint32_t i = 0; i < length; i++) {
        const Step *step = &plan->steps[path[i].step];
        uint32_t at = 0;
        while (at < count && ((*parts)[at].info != op_info((int)step->op) || (*parts)[at].level != step->level))
            at++;
        if (at == count)
            (*parts)[count++] = (PathPart){.info = op_info((int)step->op), .level = step->level};
        (*parts)[at].steps++;
        (*parts)[at].time_s += path[i].end_s - path[i].begin_s;
    }
    if (count)
        qsort(*parts, count, sizeof(**parts), compare_parts);
    return count;
}
