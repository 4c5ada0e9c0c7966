// The exact method and its bounds on staged problems that are drawn at random, small enough to try every choice. What a
// choice takes is computed here by plain max-plus products of whole matrices; what a linear bound says of a choice, by
// its definition in multipliers.h.
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/solve/multipliers.h"
#include "compiler/solve/search.h"

enum { STAGES = 6, OPTIONS = 5, CLOCKS = 5 };

static double pick(double low, double high)
{
    return low + (high - low) * rand() / RAND_MAX;
}

static uint32_t one_of(uint32_t count)
{
    return (uint32_t)rand() % count;
}

// ---- random problems ---------------------------------------------------------------------------

static uint32_t random_edges(uint32_t clocks, StageEdge *edges)
{
    uint32_t count = 0;
    for (uint32_t to = 0; to < clocks; to++)
        for (uint32_t from = 0; from < clocks; from++)
            if (to == from || one_of(2))
                edges[count++] = (StageEdge){(uint8_t)to, (uint8_t)from};
    return count;
}

// Times by edge: components keep their own time, of other ways some options have none.
static const double *random_weights(const StageEdge *edges, uint32_t count, Arena *arena)
{
    double *weights = arena_alloc_array(arena, count + 1, sizeof(*weights));
    for (uint32_t e = 0; e < count; e++)
        weights[e] = edges[e].to != edges[e].from && one_of(4) == 0 ? -INFINITY : pick(0, 1);
    return weights;
}

static PlanStage random_stage(const StageProblem *problem, uint32_t option_count)
{
    StageOption *options = arena_alloc_array(problem->arena, option_count, sizeof(*options));
    for (uint32_t o = 0; o < option_count; o++)
        options[o] =
            (StageOption){.forward = random_weights(problem->forward, problem->forward_count, problem->arena),
                          .backward = random_weights(problem->backward, problem->backward_count, problem->arena),
                          .memory = pick(0, 10),
                          .candidate = o};
    return (PlanStage){options, option_count};
}

static StageProblem *random_problem(Arena *arena, uint32_t clocks, uint32_t stages, uint32_t option_count)
{
    StageProblem *problem = arena_alloc(arena, sizeof(*problem));
    problem->arena = arena;
    problem->clock_count = clocks;
    problem->training = one_of(2);
    problem->forward_count = random_edges(clocks, problem->forward);
    problem->backward_count = problem->training ? random_edges(clocks, problem->backward) : 0;
    problem->stage_count = stages;
    problem->stages = arena_alloc_array(arena, stages + 1, sizeof(*problem->stages));
    for (uint32_t k = 0; k < stages; k++)
        problem->stages[k] = k > 0 && one_of(2) ? problem->stages[k - 1] : random_stage(problem, option_count);
    problem->loss_s = pick(0, 1);
    for (uint32_t i = 0; i < clocks; i++) {
        problem->begin[i] = pick(0, 1);
        problem->turn[i] = one_of(4) ? pick(0, 1) : i == 0 ? 0 : -INFINITY;
        problem->end[i] = i == 0 || one_of(2) ? pick(0, 0.1) : -INFINITY;
    }
    problem->memory = one_of(3) ? INFINITY : stages * pick(2, 8);
    return problem;
}

// ---- what a choice takes -----------------------------------------------------------------------

static void passed(const StageEdge *edges, uint32_t count, const double *weights, double clock[CLOCKS])
{
    double after[CLOCKS];
    for (int i = 0; i < CLOCKS; i++)
        after[i] = -INFINITY;
    for (uint32_t e = 0; e < count; e++)
        after[edges[e].to] = fmax(after[edges[e].to], clock[edges[e].from] + weights[e]);
    memcpy(clock, after, sizeof(after));
}

static double taken_s(const StageProblem *problem, const uint32_t *choice)
{
    double clock[CLOCKS] = {0};
    memcpy(clock, problem->begin, problem->clock_count * sizeof(double));
    for (uint32_t k = 0; k < problem->stage_count; k++)
        passed(problem->forward, problem->forward_count, problem->stages[k].options[choice[k]].forward, clock);
    double forward_s = clock[0] + problem->loss_s, end_s = -INFINITY;
    if (!problem->training)
        return forward_s;
    memcpy(clock, problem->turn, problem->clock_count * sizeof(double));
    for (uint32_t k = problem->stage_count; k-- > 0;)
        passed(problem->backward, problem->backward_count, problem->stages[k].options[choice[k]].backward, clock);
    for (uint32_t i = 0; i < problem->clock_count; i++)
        end_s = fmax(end_s, clock[i] + problem->end[i]);
    return forward_s + end_s;
}

static double memory_of(const StageProblem *problem, const uint32_t *choice, uint32_t stages)
{
    double total = 0;
    for (uint32_t k = 0; k < stages; k++)
        total += problem->stages[k].options[choice[k]].memory;
    return total;
}

static bool next_choice(const StageProblem *problem, uint32_t *choice)
{
    for (uint32_t k = 0; k < problem->stage_count; k++) {
        if (++choice[k] < problem->stages[k].option_count)
            return true;
        choice[k] = 0;
    }
    return false;
}

// The best of all choices; INFINITY where none fits.
static double best_s(const StageProblem *problem, uint32_t *best)
{
    uint32_t choice[STAGES] = {0};
    double least_s = INFINITY;
    do {
        double total_s = taken_s(problem, choice);
        if (memory_of(problem, choice, problem->stage_count) > problem->memory || total_s >= least_s)
            continue;
        least_s = total_s;
        memcpy(best, choice, sizeof(choice));
    } while (next_choice(problem, choice));
    return least_s;
}

// ---- the search --------------------------------------------------------------------------------

Test(search, finds_and_proves_the_best_of_all_choices)
{
    srand(21);
    int infeasible = 0;
    for (int i = 0; i < 600; i++) {
        Arena *arena = arena_create();
        StageProblem *problem = random_problem(arena, 1 + one_of(CLOCKS), 1 + one_of(4), 1 + one_of(4));
        uint32_t best[STAGES];
        double expected_s = best_s(problem, best);
        SearchResult result;
        search_solve(problem, &(SearchLimits){0}, INFINITY, arena, &result);
        cr_assert_eq(result.found, expected_s < INFINITY, "problem %d", i);
        infeasible += !result.found;
        if (!result.found) {
            cr_assert_eq(result.bound_s, INFINITY);
        } else {
            cr_assert_float_eq(result.objective_s, expected_s, 1e-9, "problem %d: %g, not %g", i, result.objective_s,
                               expected_s);
            cr_assert_float_eq(result.bound_s, expected_s, 1e-9, "problem %d: bound %g, not %g", i, result.bound_s,
                               expected_s);
            cr_assert_float_eq(taken_s(problem, result.choice), expected_s, 1e-9);
            cr_assert_float_eq(stages_evaluate(problem, result.choice), expected_s, 1e-9);
            cr_assert_leq(memory_of(problem, result.choice, problem->stage_count), problem->memory);
            for (uint32_t k = 0; k < problem->stage_count; k++)
                cr_assert(result.useful[k * problem->stages[0].option_count + result.choice[k]]);
        }
        arena_destroy(arena);
    }
    cr_assert(infeasible > 5 && infeasible < 150, "%d", infeasible);
}

// Below what is known: if there is something better, its options stay and no bound is above it.
Test(search, options_of_something_better_stay)
{
    srand(22);
    double dropped = 0, options = 0;
    for (int i = 0; i < 400; i++) {
        Arena *arena = arena_create();
        StageProblem *problem = random_problem(arena, 1 + one_of(CLOCKS), 2 + one_of(3), 2 + one_of(3));
        uint32_t best[STAGES];
        double least_s = best_s(problem, best), known_s = least_s * pick(1.0001, 1.01);
        SearchResult result;
        search_solve(problem, &(SearchLimits){.bound_only = true}, known_s, arena, &result);
        cr_assert(!result.found);
        cr_assert_leq(result.bound_s, least_s + 1e-9, "problem %d", i);
        for (uint32_t k = 0; k < problem->stage_count && least_s < INFINITY; k++) {
            const PlanStage *stage = &problem->stages[k];
            bool stays = false; // or one that is as good in everything
            for (uint32_t o = 0; o < stage->option_count; o++) {
                stays |= o == best[k] && result.useful[k * stage->option_count + o];
                dropped += !result.useful[k * stage->option_count + o];
                options++;
            }
            cr_assert(stays, "problem %d: stage %u", i, k);
        }
        arena_destroy(arena);
    }
    // Of choices that are not 0.5 % above the best on average, much less than three quarters of the options are part.
    cr_assert_gt(dropped, 0.25 * options, "%g of %g", dropped, options);
}

static bool no_worse(const StageProblem *problem, const StageOption *a, const StageOption *b)
{
    for (uint32_t e = 0; e < problem->forward_count; e++)
        if (a->forward[e] > b->forward[e])
            return false;
    for (uint32_t e = 0; e < problem->backward_count; e++)
        if (a->backward[e] > b->backward[e])
            return false;
    return a->memory <= b->memory;
}

// An option that is worse than another by one number, or the same again.
static void add_worse(const StageProblem *problem, StageOption *options, uint32_t from, uint32_t to)
{
    double *forward = arena_alloc_array(problem->arena, problem->forward_count + 1, sizeof(double));
    double *backward = arena_alloc_array(problem->arena, problem->backward_count + 1, sizeof(double));
    memcpy(forward, options[from].forward, problem->forward_count * sizeof(double));
    memcpy(backward, options[from].backward, problem->backward_count * sizeof(double));
    options[to] = options[from];
    options[to].forward = forward;
    options[to].backward = backward;
    uint32_t how = one_of(4);
    forward[one_of(problem->forward_count)] += how == 1;
    options[to].memory += how == 2;
    if (problem->backward_count)
        backward[one_of(problem->backward_count)] += how == 3;
}

// With nothing known, what is dropped is what is worse than another in everything, the later one of two alike, and what
// leaves the other stages too little memory.
Test(search, options_that_are_worse_in_everything_are_dropped)
{
    srand(23);
    uint32_t dropped = 0;
    for (int i = 0; i < 300; i++) {
        Arena *arena = arena_create();
        StageProblem *problem = random_problem(arena, 1 + one_of(CLOCKS), 1 + one_of(3), OPTIONS);
        for (uint32_t k = 0; k < problem->stage_count; k++)
            if (k == 0 || problem->stages[k].options != problem->stages[k - 1].options)
                add_worse(problem, (StageOption *)problem->stages[k].options, one_of(2), 2 + one_of(3));
        double least[STAGES], all = 0;
        for (uint32_t k = 0; k < problem->stage_count; k++) {
            least[k] = INFINITY;
            for (uint32_t o = 0; o < OPTIONS; o++)
                least[k] = fmin(least[k], problem->stages[k].options[o].memory);
            all += least[k];
        }
        SearchResult result;
        search_solve(problem, &(SearchLimits){.bound_only = true}, INFINITY, arena, &result);
        for (uint32_t k = 0; k < problem->stage_count; k++)
            for (uint32_t o = 0; o < OPTIONS; o++) {
                const StageOption *options = problem->stages[k].options;
                bool stays = all - least[k] + options[o].memory <= problem->memory;
                for (uint32_t other = 0; other < OPTIONS; other++)
                    if (other != o && no_worse(problem, &options[other], &options[o]))
                        stays = stays && o < other && no_worse(problem, &options[o], &options[other]);
                dropped += !stays;
                cr_assert_eq(result.useful[k * OPTIONS + o], stays, "problem %d: option %u of stage %u", i, o, k);
            }
        arena_destroy(arena);
    }
    cr_assert_gt(dropped, 200);
}

// With any gap allowed, the answer is what changing one stage at a time comes to: no other option of any stage is
// faster that fits, and none of the same option everywhere. Every other problem has exactly the memory of one choice.
Test(search, no_single_change_is_better)
{
    srand(27);
    for (int i = 0; i < 200; i++) {
        Arena *arena = arena_create();
        StageProblem *problem = random_problem(arena, 1 + one_of(CLOCKS), 2 + one_of(STAGES - 1), 2 + one_of(4));
        uint32_t options = problem->stages[0].option_count, choice[STAGES];
        for (uint32_t k = 0; k < problem->stage_count; k++)
            choice[k] = one_of(options);
        if (i % 2)
            problem->memory = stages_memory(problem, choice);
        SearchResult result;
        search_solve(problem, &(SearchLimits){.gap = 1}, INFINITY, arena, &result);
        for (uint32_t k = 0; k < problem->stage_count && result.found; k++)
            for (uint32_t o = 0; o < options; o++) {
                memcpy(choice, result.choice, problem->stage_count * sizeof(*choice));
                choice[k] = o;
                if (memory_of(problem, choice, problem->stage_count) <= problem->memory)
                    cr_assert_geq(taken_s(problem, choice), result.objective_s * (1 - 1.1e-6), "problem %d", i);
            }
        for (uint32_t o = 0; o < options && result.found; o++) {
            for (uint32_t k = 0; k < problem->stage_count; k++)
                choice[k] = o;
            if (memory_of(problem, choice, problem->stage_count) <= problem->memory)
                cr_assert_geq(taken_s(problem, choice), result.objective_s * (1 - 1e-9), "problem %d", i);
        }
        cr_assert_eq(result.label_count, 0); // nothing else was tried
        arena_destroy(arena);
    }
}

// Where a beam is narrow, or time is over, the answer is one, and the bound still is below every choice.
Test(search, bounds_hold_where_the_search_is_cut_short)
{
    srand(24);
    for (int i = 0; i < 24; i++) {
        Arena *arena = arena_create();
        StageProblem *problem = random_problem(arena, CLOCKS, i % 8 == 0 ? 300 : 12 + one_of(12), OPTIONS);
        SearchLimits limits = {.effort = i % 2 ? 1e-7 : 1e-3, .deadline_s = i % 3 == 0 ? 1e-3 : 0};
        SearchResult cut, full, near;
        search_solve(problem, &limits, INFINITY, arena, &cut);
        search_solve(problem, &(SearchLimits){.effort = 0.05}, INFINITY, arena, &full);
        search_solve(problem, &(SearchLimits){.effort = 0.05, .gap = 0.1}, INFINITY, arena, &near);
        cr_assert_eq(cut.timed_out, i % 3 == 0);
        cr_assert(!full.timed_out);
        if (full.found && cut.found) {
            double least_s = fmin(full.objective_s, fmin(cut.objective_s, near.objective_s));
            cr_assert(cut.bound_s <= least_s + 1e-9 && full.bound_s <= least_s + 1e-9 &&
                      near.bound_s <= least_s + 1e-9);
            cr_assert_float_eq(cut.objective_s, stages_evaluate(problem, cut.choice), 1e-9);
            cr_assert(near.objective_s <= full.objective_s / 0.9 + 1e-9);
            cr_assert_leq(near.label_count, full.label_count);
            cr_assert_leq(memory_of(problem, cut.choice, problem->stage_count), problem->memory);
        }
        arena_destroy(arena);
    }
}

// ---- bounds ------------------------------------------------------------------------------------

static OptionsInPlay all_options(const StageProblem *problem, Arena *arena)
{
    OptionsInPlay all = {arena_alloc_array(arena, problem->stage_count, sizeof(*all.kept)),
                         arena_alloc_array(arena, problem->stage_count, sizeof(*all.kept_count))};
    for (uint32_t k = 0; k < problem->stage_count; k++) {
        all.kept[k] = arena_alloc_array(arena, problem->stages[k].option_count, sizeof(**all.kept));
        while (all.kept_count[k] < problem->stages[k].option_count) {
            all.kept[k][all.kept_count[k]] = all.kept_count[k];
            all.kept_count[k]++;
        }
    }
    return all;
}

// Of a choice, before every stage: a bound on all choices that begin like it lies between what the multipliers say of
// those options alone, and what the choice takes, whose memory is paid for.
static void check_choice(const StageProblem *problem, const Multipliers *m, double (*reduced_s)[OPTIONS],
                         const uint32_t *choice)
{
    double clock[STAGE_CLOCK_MAX], functional[STAGE_CLOCK_MAX], next[STAGE_CLOCK_MAX], linear_s = m->value_s;
    double used = 0, rounding_s = 1e-9 * (1 + problem->stage_count);
    double all = memory_of(problem, choice, problem->stage_count);
    double most_s = taken_s(problem, choice) + m->memory_price * (all < problem->memory ? 0 : all - problem->memory);
    memcpy(clock, problem->begin, sizeof(clock));
    stages_begin_functional(problem, functional);
    for (uint32_t k = 0; k <= problem->stage_count; k++) {
        double bound_s = m->rest_s[k];
        if (m->memory_price > 0)
            bound_s += m->memory_price * (used - problem->memory);
        for (uint32_t i = 0; i < problem->clock_count; i++) {
            bound_s += m->clock_weight[k][i] > 0 ? m->clock_weight[k][i] * clock[i] : 0;
            bound_s += m->functional_weight[k][i] > 0 ? m->functional_weight[k][i] * functional[i] : 0;
        }
        cr_assert(bound_s >= linear_s - rounding_s, "stage %u: %g, not %g", k, bound_s, linear_s);
        cr_assert(bound_s <= most_s + rounding_s, "stage %u: %g above %g", k, bound_s, most_s);
        cr_assert(k > 0 || isinf(bound_s) || fabs(bound_s - m->value_s) < rounding_s);
        if (k == problem->stage_count)
            return;
        const StageOption *option = &problem->stages[k].options[choice[k]];
        linear_s += reduced_s[k][choice[k]];
        used += option->memory;
        stages_forward(problem, option, clock, next);
        memcpy(clock, next, sizeof(clock));
        if (problem->training) {
            stages_functional(problem, option, functional, next);
            memcpy(functional, next, sizeof(functional));
        }
    }
}

Test(multipliers, bound_every_choice_and_all_that_begin_like_it)
{
    srand(25);
    for (int i = 0; i < 200; i++) {
        Arena *arena = arena_create();
        StageProblem *problem = random_problem(arena, 1 + one_of(CLOCKS), 1 + one_of(4), 1 + one_of(OPTIONS));
        OptionsInPlay all = all_options(problem, arena);
        uint32_t best[STAGES] = {0};
        double least_s = best_s(problem, best);
        Multipliers bounds[MULTIPLIERS_MAX];
        uint32_t count = multipliers_find(problem, &all, least_s < INFINITY ? least_s : 100, 300, bounds, arena);
        cr_assert(count >= 1 && count <= MULTIPLIERS_MAX);
        for (uint32_t b = 0; b < count; b++) {
            double reduced_s[STAGES][OPTIONS];
            cr_assert_leq(bounds[b].value_s, bounds[0].value_s);
            for (uint32_t k = 0; k < problem->stage_count; k++) {
                double least = INFINITY;
                multipliers_reduced_s(problem, &all, &bounds[b], k, reduced_s[k]);
                for (uint32_t o = 0; o < problem->stages[k].option_count; o++)
                    least = fmin(least, reduced_s[k][o]);
                cr_assert_eq(least, 0);
            }
            uint32_t choice[STAGES] = {0};
            do
                check_choice(problem, &bounds[b], reduced_s, choice);
            while (next_choice(problem, choice));
        }
        arena_destroy(arena);
    }
}

// Where stages are very many, alike ones mix their options in equal shares: the bound is one all the same.
Test(multipliers, bound_choices_of_very_many_stages)
{
    enum { MANY = 3000, CHOICES = 40 };
    srand(26);
    for (int i = 0; i < 4; i++) {
        Arena *arena = arena_create();
        StageProblem *problem = random_problem(arena, 1 + one_of(CLOCKS), MANY, 1 + one_of(OPTIONS));
        problem->memory = MANY * 6.0;
        OptionsInPlay all = all_options(problem, arena);
        uint32_t *choice = arena_alloc_array(arena, MANY, sizeof(*choice));
        double least_s = INFINITY;
        for (uint32_t k = 0; k < MANY; k++) { // which takes least memory
            const PlanStage *stage = &problem->stages[k];
            for (uint32_t o = 1; o < stage->option_count; o++)
                choice[k] = stage->options[o].memory < stage->options[choice[k]].memory ? o : choice[k];
        }
        if (memory_of(problem, choice, MANY) <= problem->memory)
            least_s = taken_s(problem, choice);
        Multipliers bounds[MULTIPLIERS_MAX];
        uint32_t count = multipliers_find(problem, &all, least_s < INFINITY ? least_s : 2 * MANY, 60, bounds, arena);
        double(*reduced_s)[OPTIONS] = arena_alloc_array(arena, MANY, sizeof(*reduced_s));
        for (uint32_t b = 0; b < count; b++) {
            for (uint32_t k = 0; k < MANY; k++)
                multipliers_reduced_s(problem, &all, &bounds[b], k, reduced_s[k]);
            check_choice(problem, &bounds[b], reduced_s, choice);
            for (int c = 0; c < CHOICES; c++) {
                for (uint32_t k = 0; k < MANY; k++)
                    choice[k] = one_of(problem->stages[k].option_count);
                check_choice(problem, &bounds[b], reduced_s, choice);
            }
        }
        arena_destroy(arena);
    }
}

// ---- one component: a knapsack -----------------------------------------------------------------

// Of a choice of one option for each stage, times and memory added up: the linear relaxation, by taking steps along
// the lower convex hulls of the stages in the order of what they save for the memory.
static double relaxed_s(const StageProblem *problem)
{
    double memory = problem->memory, total_s = problem->begin[0] + problem->loss_s;
    uint32_t at[STAGES];
    for (uint32_t k = 0; k < problem->stage_count; k++) { // the least memory
        at[k] = 0;
        for (uint32_t o = 1; o < problem->stages[k].option_count; o++)
            if (problem->stages[k].options[o].memory < problem->stages[k].options[at[k]].memory)
                at[k] = o;
        memory -= problem->stages[k].options[at[k]].memory;
        total_s += problem->stages[k].options[at[k]].forward[0];
    }
    while (memory >= 0) {
        double steepest = 0;
        uint32_t stage = 0, to = 0;
        for (uint32_t k = 0; k < problem->stage_count; k++)
            for (uint32_t o = 0; o < problem->stages[k].option_count; o++) {
                const StageOption *now = &problem->stages[k].options[at[k]], *next = &problem->stages[k].options[o];
                double saved_s = now->forward[0] - next->forward[0], more = next->memory - now->memory;
                if (more > 0 && saved_s / more > steepest) {
                    steepest = saved_s / more;
                    stage = k;
                    to = o;
                }
            }
        if (steepest <= 0)
            return total_s;
        double more = problem->stages[stage].options[to].memory - problem->stages[stage].options[at[stage]].memory;
        total_s -= steepest * fmin(more, memory);
        memory -= more;
        at[stage] = to;
    }
    return total_s;
}

Test(multipliers, come_close_to_the_linear_relaxation_of_a_knapsack)
{
    srand(26);
    int priced = 0;
    double missing_s = 0, paid_s = 0;
    for (int i = 0; i < 100; i++) {
        Arena *arena = arena_create();
        StageProblem *problem = random_problem(arena, 1, STAGES, OPTIONS);
        problem->training = false;
        problem->backward_count = 0;
        OptionsInPlay all = all_options(problem, arena);
        double least = 0, free_s = problem->begin[0] + problem->loss_s;
        for (uint32_t k = 0; k < problem->stage_count; k++) {
            double memory = INFINITY, fastest_s = INFINITY;
            for (uint32_t o = 0; o < OPTIONS; o++) {
                memory = fmin(memory, problem->stages[k].options[o].memory);
                fastest_s = fmin(fastest_s, problem->stages[k].options[o].forward[0]);
            }
            least += memory;
            free_s += fastest_s;
        }
        problem->memory = i % 4 == 0 ? INFINITY : least * pick(1.05, 2.5);
        double expected_s = relaxed_s(problem);
        Multipliers bounds[MULTIPLIERS_MAX];
        uint32_t best[STAGES];
        double least_s = best_s(problem, best);
        multipliers_find(problem, &all, least_s, 1000, bounds, arena);
        cr_assert(bounds[0].value_s <= expected_s + 1e-9, "%d: %g above %g", i, bounds[0].value_s, expected_s);
        missing_s += expected_s - bounds[0].value_s;
        paid_s += expected_s - free_s;
        priced += bounds[0].memory_price > 0;
        arena_destroy(arena);
    }
    cr_assert_gt(priced, 40);
    // Of what a bound without a price for memory would miss, at most a tenth is missed.
    cr_assert_lt(missing_s, 0.1 * paid_s, "%g of %g", missing_s, paid_s);
}
