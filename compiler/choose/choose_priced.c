// What is left open within a price (`auto` beside `max_loss_increase`): the combinations whose figures in our study
// (ir/price.h) add up to no more than it. All are priced in time by their best single choice, which takes no search;
// the most promising are planned.
#include <math.h>
#include <string.h>

#include "compiler/choose/choosing.h"

enum { SEARCHED_MAX = 4, LIST_MAX = SEARCHED_MAX + 1 };

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
    Spec *spec = spec_copy(request, arena);
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
    LossyChoice exact[PRICED_PARTS]; // what is open is
    Combination best[SEARCHED_MAX];  // the fastest first
    size_t count;
} Ranking;

static double estimate_s(const Spec *request, const LossyChoice choices[PRICED_PARTS])
{
    Arena *arena = arena_create();
    const Spec *spec = apply(request, choices, arena);
    double best_s = spec_coding_is_possible(spec) ? estimate_spec(spec, false, NULL).best_s : INFINITY;
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
    if (isinf(entered.best_s) || place == SEARCHED_MAX)
        return;
    size_t last = ranking->count < SEARCHED_MAX ? ranking->count++ : SEARCHED_MAX - 1;
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

// The one in which all that is open is exact; then up to SEARCHED_MAX others by the time of their best single choice
// that fits. Returns how many.
static size_t list_specs(const Spec *request, Arena *arena, const Spec *out[LIST_MAX])
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

FaultKind choose_priced(const Attempt *attempt, Diag *diag, Chosen *out)
{
    static const double clear = 1e-9;
    const Spec *list[LIST_MAX];
    Arena *arena = attempt->arena;
    size_t count = list_specs(out->best.spec, arena, list);
    Attempt each = *attempt;
    each.share /= (double)count;
    Diag *of_best = NULL;
    Solution *exact = NULL;
    size_t taken = 0;
    FaultKind code = FAULT_NONE;
    for (size_t i = 0; i < count; i++) {
        Planned tried = {.spec = list[i]};
        Diag *of_tried = diag_create(arena);
        FaultKind now = choose_lap(&each, of_tried, &tried);
        bool better =
            now == FAULT_NONE &&
            (code != FAULT_NONE || tried.solution.cost.iteration_s < out->best.solution.cost.iteration_s * (1 - clear));
        if (i == 0 || better) {
            out->best = tried;
            of_best = of_tried;
            code = now;
            taken = i;
        }
        if (i > 0 || now != FAULT_NONE)
            continue;
        exact = arena_alloc(arena, sizeof(*exact));
        *exact = tried.solution;
    }
    out->exact = taken == 0 ? NULL : exact;
    diag_append(diag, of_best);
    return code;
}
