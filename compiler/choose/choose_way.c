// Ways of saving memory are planned one after the other: what takes more memory comes first, and is faster where it
// fits.
#include <math.h>
#include <stdlib.h>

#include "compiler/choose/choosing.h"
#include "compiler/solve/frugality.h"

enum { SEARCHED_MAX = 4 };

typedef struct {
    Frugality how;
    double best_s; // of its best single choice that fits; infinite if none does; 0 where nothing is chosen
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
static bool gains_nothing(const Ranked *of, const Ranked *before, const Estimate *estimated)
{
    return of->how.regather_embedding && !before->how.regather_embedding && estimated->best_s <= estimated->least_s;
}

// The most promising first: the first alone where every choice fits beside it; the last alone where none fits anywhere,
// which says why. Returns how many are left.
static size_t rank_ways(const Spec *spec, Ranked *list, size_t count, Arena *arena)
{
    if (count < 2 || spec->plan.domain_request != DOMAIN_AUTO)
        return count;
    Ranked smallest = list[count - 1];
    Estimate before = {0};
    bool fits = count < 4; // of many ways the two that take least are asked first
    for (size_t i = count - 2; i < count && !fits; i++)
        fits = isfinite(estimate_spec(frugality_apply(spec, list[i].how, arena)).best_s);
    for (size_t i = 0; i < count; i++) {
        list[i].best_s = INFINITY;
        if (!fits || (i > 0 && gains_nothing(&list[i], &list[i - 1], &before)))
            continue;
        before = estimate_spec(frugality_apply(spec, list[i].how, arena));
        list[i].best_s = before.best_s;
        if (i == 0 && before.all_fit)
            return 1;
    }
    qsort(list, count, sizeof(*list), compare_ranked);
    if (isinf(list[0].best_s)) {
        list[0] = smallest;
        return 1;
    }
    return count;
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
