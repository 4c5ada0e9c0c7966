// Ways of saving memory are planned one after the other: what takes more memory comes first, and is faster where it
// fits.
#include <math.h>
#include <stdlib.h>

#include "compiler/choose/choosing.h"
#include "compiler/solve/frugality.h"

enum { SEARCHED_MAX = 4 };

typedef struct {
    Frugality how;
    double best_s;  // of its best single choice that fits; infinite if none does; 0 where nothing is chosen
    double least_s; // see Estimate
    bool *unfit;    // the same
    bool exact;     // were those lowered that decide?
} Ranked;

static size_t list_ways(const Spec *spec, Ranked out[FRUGALITIES_MAX])
{
    Frugality list[FRUGALITIES_MAX];
    size_t count = frugality_list(spec, list);
    for (size_t i = 0; i < count; i++)
        out[i] = (Ranked){.how = list[i]};
    return count;
}

static int compare_ranked(const void *a, const void *b)
{
    double left = ((const Ranked *)a)->best_s, right = ((const Ranked *)b)->best_s;
    return (left > right) - (left < right);
}

// Where memory does not slow down the same way with the embedding kept, gathering that again gains nothing.
static bool gains_nothing(const Ranked *of, const Ranked *before)
{
    return of->how.regather_embedding && !before->how.regather_embedding && before->best_s <= before->least_s;
}

// From the last on, which saves most: what does not fit there need not be looked at in ways that save less.
static void estimate_ways(const Spec *spec, Ranked *list, size_t count, Arena *arena)
{
    size_t domains = planner_domain_count(spec);
    for (size_t i = count; i-- > 0;) {
        bool *unfit = list[i].unfit = arena_alloc_array(arena, domains, sizeof(*unfit));
        for (size_t j = i + 1; j < count; j++)
            for (size_t d = 0; d < domains && frugality_covers(list[j].how, list[i].how); d++)
                unfit[d] |= list[j].unfit[d];
        Estimate of = estimate_spec(frugality_apply(spec, list[i].how, arena), false, unfit);
        list[i].best_s = of.best_s;
        list[i].least_s = of.least_s;
    }
    for (size_t i = 1; i < count; i++)
        if (gains_nothing(&list[i], &list[i - 1]))
            list[i].best_s = INFINITY;
}

static void sort_ways(Ranked *list, size_t count)
{
    qsort(list, count, sizeof(*list), compare_ranked);
}

// What is planned first takes the longest: that it is the best is made sure of.
static void confirm_first(const Spec *spec, Ranked *list, size_t count, Arena *arena)
{
    while (!list[0].exact && isfinite(list[0].best_s)) {
        Estimate of = estimate_spec(frugality_apply(spec, list[0].how, arena), true, list[0].unfit);
        list[0].best_s = of.best_s;
        list[0].exact = true;
        sort_ways(list, count);
    }
}

static bool all_fit(const Spec *spec, Arena *arena)
{
    return planner_all_fit(workload_derive(spec, arena));
}

// The most promising first: the first alone where every choice fits beside it; the last alone where none fits anywhere,
// which says why. Returns how many are left.
static size_t rank_ways(const Spec *spec, Ranked *list, size_t count, Arena *arena)
{
    if (count < 2 || spec->plan.domain_request != DOMAIN_AUTO)
        return count;
    if (all_fit(frugality_apply(spec, list[0].how, arena), arena))
        return 1;
    Ranked smallest = list[count - 1];
    estimate_ways(spec, list, count, arena);
    sort_ways(list, count);
    confirm_first(spec, list, count, arena);
    if (isfinite(list[0].best_s))
        return count;
    list[0] = smallest;
    return 1;
}

// Could it beat what was found? Mixes differ a little from single choices; what was found may be slower than its own
// best single choice seemed, where that took more memory than was estimated.
static bool is_worth_searching(const Ranked *of, size_t searched, FaultKind code, const Solution *found)
{
    static const double close = 1.01;
    if (isinf(of->best_s) || (of->best_s > 0 && searched >= SEARCHED_MAX))
        return false;
    return code != FAULT_NONE || of->best_s < (searched == 1 ? close : 1) * found->cost.iteration_s;
}

FaultKind choose_way(const Attempt *attempt, Diag *diag, Planned *out)
{
    const Spec *spec = out->spec;
    Arena *arena = attempt->arena;
    Ranked list[FRUGALITIES_MAX] = {0};
    size_t count = rank_ways(spec, list, list_ways(spec, list), arena);
    Planned best = *out;
    Diag *of_best = NULL;
    FaultKind code = FAULT_INFEASIBLE;
    Attempt next = *attempt;
    next.share /= fmin((double)count, SEARCHED_MAX);
    for (size_t i = 0; i < count && (i == 0 || is_worth_searching(&list[i], i, code, &best.solution)); i++) {
        Planned tried = {.spec = frugality_apply(spec, list[i].how, arena)};
        Diag *of_tried = diag_create(arena);
        next.known_s = code == FAULT_NONE ? best.solution.cost.iteration_s : attempt->known_s;
        FaultKind now = plan_spec(&next, of_tried, &tried);
        bool better = now == FAULT_NONE &&
                      (code != FAULT_NONE || tried.solution.cost.iteration_s < best.solution.cost.iteration_s);
        if (better || code != FAULT_NONE || (now != FAULT_NONE && now != FAULT_INFEASIBLE)) {
            best = tried;
            of_best = of_tried;
            code = now;
        }
        if (now != FAULT_INFEASIBLE && (now != FAULT_NONE || !tried.solution.memory_binds))
            break;
    }
    *out = best;
    diag_append(diag, of_best);
    return code;
}
