// See priced.h. All combinations are priced in time by their best single choice, which takes no search.
#include "compiler/solve/priced.h"

#include <math.h>
#include <string.h>

#include "compiler/solve/planner.h"

bool priced_is_open(const Spec *spec)
{
    bool any = false;
    for (int part = 0; part < PRICED_PARTS; part++)
        any |= spec->plan.open[part];
    return any;
}

static void apply_coding(Coding *coding, const LossyChoice *weights, const LossyChoice *gradients)
{
    coding->codec = (Codec)weights->code;
    coding->ratio = weights->ratio;
    coding->gradient = (GradientReturn)gradients->code;
    coding->gradient_ratio = gradients->ratio;
    if (!coding_encodes(coding))
        coding->whole_levels = 0;
}

static const Spec *apply(const Spec *request, const LossyChoice choices[PRICED_PARTS], Arena *arena)
{
    Spec *spec = arena_alloc(arena, sizeof(*spec));
    *spec = *request;
    apply_coding(&spec->plan.experts, &choices[PRICED_EXPERTS], &choices[PRICED_GRADIENTS]);
    apply_coding(&spec->plan.dense, &choices[PRICED_DENSE], &choices[PRICED_DENSE_GRADIENTS]);
    for (uint32_t way = 0; way < TOKEN_WAYS && choices[PRICED_TOKENS].code >= 0; way++)
        spec->plan.tokens[way] = (TokenFormat)choices[PRICED_TOKENS].code;
    for (int part = 0; part < PRICED_PARTS; part++)
        spec->plan.open[part] = false;
    return spec;
}

typedef struct {
    LossyChoice choices[PRICED_PARTS];
    double best_s;
} Combination;

typedef struct {
    const Spec *request;
    LossyChoice exact[PRICED_PARTS];       // what is open is
    Combination best[PRICED_SEARCHED_MAX]; // the fastest first
    size_t count;
} Ranking;

static double estimate_s(const Spec *request, const LossyChoice choices[PRICED_PARTS])
{
    Arena *arena = arena_create();
    const Spec *spec = apply(request, choices, arena);
    double best_s = INFINITY;
    if (spec_coding_is_possible(spec))
        best_s = planner_estimate(workload_derive(spec, arena), arena).best_s;
    arena_destroy(arena);
    return best_s;
}

static bool is_exact(const Ranking *ranking, const LossyChoice choices[PRICED_PARTS])
{
    bool equal = true;
    for (int part = 0; part < PRICED_PARTS; part++)
        equal &= choices[part].code == ranking->exact[part].code;
    return equal;
}

static void enter(Ranking *ranking, const LossyChoice choices[PRICED_PARTS])
{
    Combination entered = {.best_s = estimate_s(ranking->request, choices)};
    memcpy(entered.choices, choices, sizeof(entered.choices));
    size_t place = ranking->count;
    while (place > 0 && ranking->best[place - 1].best_s > entered.best_s)
        place--;
    if (isinf(entered.best_s) || place == PRICED_SEARCHED_MAX)
        return;
    size_t last = ranking->count < PRICED_SEARCHED_MAX ? ranking->count++ : PRICED_SEARCHED_MAX - 1;
    for (size_t i = last; i > place; i--)
        ranking->best[i] = ranking->best[i - 1];
    ranking->best[place] = entered;
}

// Every choice of the parts from `part` on that are open. The first is exact: of equals it wins. Its depth is the
// number of parts. NOLINTNEXTLINE(misc-no-recursion)
static void enter_from(Ranking *ranking, int part, LossyChoice choices[PRICED_PARTS])
{
    const SpecPlan *plan = &ranking->request->plan;
    PricedPart missing;
    double increase;
    if (!price_sum(choices, &increase, &missing) || price_exceeds(increase, plan->max_loss_increase))
        return;
    if (part == PRICED_PARTS) {
        if (!is_exact(ranking, choices))
            enter(ranking, choices);
        return;
    }
    LossyChoice exact = choices[part];
    enter_from(ranking, part + 1, choices);
    const Price *price;
    for (size_t i = 0; plan->open[part] && (price = price_at(i)); i++) {
        if (price->part != (PricedPart)part)
            continue;
        choices[part] = price->choice;
        enter_from(ranking, part + 1, choices);
    }
    choices[part] = exact;
}

size_t priced_list(const Spec *request, Arena *arena, const Spec *out[PRICED_LIST_MAX])
{
    Ranking ranking = {.request = request};
    LossyChoice choices[PRICED_PARTS];
    lossy_choices(&request->plan.experts, &request->plan.dense, request->plan.tokens, choices);
    memcpy(ranking.exact, choices, sizeof(ranking.exact));
    enter_from(&ranking, 0, choices);
    out[0] = apply(request, ranking.exact, arena);
    for (size_t i = 0; i < ranking.count; i++)
        out[1 + i] = apply(request, ranking.best[i].choices, arena);
    return 1 + ranking.count;
}
