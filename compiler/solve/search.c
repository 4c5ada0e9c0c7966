// See search.h.
#include "compiler/solve/search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/solve/multipliers.h"
#include "ir/base/clock.h"

enum {
    FIRST_WIDTH = 24,
    WIDENING = 4,
    ROUNDS_MIN = 50,
    ROUNDS_MAX = 1500,
    LATE_ROUNDS = 20,       // after the deadline, and at least where stages are many: some bound is needed
    MOVES_STAGES_MAX = 160, // beyond, single moves cost too much
    DOMINANCE_SPAN = 96,    // so many better labels are compared with each label
};

static const double TIE = 1e-11;            // relative: differences below are rounding
static const double ROUNDS_WORK = 2e7;      // rounds x stages x options
static const double ROUNDS_WORK_MANY = 5e6; // the same, of many stages
static const double WORK_PER_STAGE = 8e3;   // label extensions: half a second for 61 layers
static const double WORK_LEAST = 5e4;

// Labels lie one after another in a Labels, as long as the clock's components in use demand.
typedef struct {
    double memory, bound_s;
    uint32_t parent, option; // in the stage before
    double clock[];          // [clock_count]; then, when training, the functional: [clock_count]
} Label;

typedef struct {
    char *data;
    size_t bytes; // of one
    uint32_t count;
} Labels;

typedef struct {
    uint32_t parent, option;
} Trace;

typedef struct {
    const StageProblem *problem;
    const SearchLimits *limits;
    SearchResult *out;
    Multipliers bounds[MULTIPLIERS_MAX];
    uint32_t bound_count;
    double *least_memory; // [stages + 1]: what the rest takes at least
    OptionsInPlay options;
    double *reduced_s; // [options of a stage]: scratch
    double cutoff_s;
    double work;
} Search;

static Labels labels_create(const StageProblem *problem, size_t count, Arena *arena)
{
    size_t numbers = problem->clock_count * (problem->training ? 2 : 1);
    size_t bytes = sizeof(Label) + numbers * sizeof(double);
    return (Labels){arena_alloc_array(arena, count, bytes), bytes, 0};
}

static Label *label_at(const Labels *labels, size_t index)
{
    return (Label *)(void *)(labels->data + index * labels->bytes);
}

static double *label_functional(const StageProblem *problem, Label *label)
{
    return label->clock + problem->clock_count;
}

static double best_known_s(const Search *s)
{
    return fmin(s->cutoff_s, s->out->found ? s->out->objective_s : INFINITY);
}

static double limit_s(const Search *s)
{
    return best_known_s(s) * (1 - TIE);
}

static bool out_of_time(Search *s)
{
    if (s->limits->deadline_s > 0 && clock_now_s() > s->limits->deadline_s)
        s->out->timed_out = true;
    return s->out->timed_out;
}

static void offer(Search *s, const uint32_t *choice)
{
    if (stages_memory(s->problem, choice) > s->problem->memory)
        return;
    double objective_s = stages_evaluate(s->problem, choice);
    if (s->out->found && objective_s >= s->out->objective_s * (1 - TIE))
        return;
    s->out->found = true;
    s->out->objective_s = objective_s;
    memcpy(s->out->choice, choice, s->problem->stage_count * sizeof(*choice));
}

// Of the same candidate everywhere, whatever memory it takes.
static double slowest_s(const StageProblem *problem, uint32_t *choice)
{
    double most_s = 0;
    for (uint32_t o = 0; o < problem->stages[0].option_count; o++) {
        for (uint32_t k = 0; k < problem->stage_count; k++)
            choice[k] = o;
        most_s = fmax(most_s, stages_evaluate(problem, choice));
    }
    return most_s;
}

// The same candidate everywhere, and the least memory everywhere.
static void try_uniform(Search *s, uint32_t *choice)
{
    const StageProblem *problem = s->problem;
    for (uint32_t o = 0; o < problem->stages[0].option_count; o++) {
        for (uint32_t k = 0; k < problem->stage_count; k++)
            choice[k] = o;
        offer(s, choice);
    }
    for (uint32_t k = 0; k < problem->stage_count; k++) {
        choice[k] = 0;
        for (uint32_t o = 1; o < problem->stages[k].option_count; o++)
            if (problem->stages[k].options[o].memory < problem->stages[k].options[choice[k]].memory)
                choice[k] = o;
    }
    offer(s, choice);
}

// The incumbent around one stage: what changing that stage's option alone gives follows from its maps.
typedef struct {
    double clock[STAGE_CLOCK_MAX], functional[STAGE_CLOCK_MAX]; // of the stages before
    double (*ahead)[STAGE_CLOCK_MAX];  // [stages + 1]: longest ways through this stage and those after, forward
    double (*turned)[STAGE_CLOCK_MAX]; // [stages + 1]: the clock of the backward pass after these stages
    double memory;                     // of all stages
} Around;

static void look_ahead(const StageProblem *problem, const uint32_t *choice, Around *around)
{
    uint32_t stages = problem->stage_count, count = problem->clock_count;
    for (uint32_t i = 0; i < STAGE_CLOCK_MAX; i++)
        around->ahead[stages][i] = i == 0 ? 0 : -INFINITY; // the chain ends the forward pass
    memcpy(around->turned[stages], problem->turn, sizeof(problem->turn));
    for (uint32_t k = stages; k-- > 0;) {
        const StageOption *option = &problem->stages[k].options[choice[k]];
        double *ahead = around->ahead[k], *turned = around->turned[k];
        for (uint32_t i = 0; i < count; i++)
            ahead[i] = turned[i] = -INFINITY;
        for (uint32_t e = 0; e < problem->forward_count; e++) {
            StageEdge edge = problem->forward[e];
            ahead[edge.from] = fmax(ahead[edge.from], option->forward[e] + around->ahead[k + 1][edge.to]);
        }
        for (uint32_t e = 0; e < problem->backward_count; e++) {
            StageEdge edge = problem->backward[e];
            turned[edge.to] = fmax(turned[edge.to], option->backward[e] + around->turned[k + 1][edge.from]);
        }
    }
    memcpy(around->clock, problem->begin, sizeof(around->clock));
    stages_begin_functional(problem, around->functional);
    around->memory = stages_memory(problem, choice);
}

static double changed_s(const StageProblem *problem, const Around *around, uint32_t stage, const StageOption *option)
{
    double forward_s = -INFINITY, backward_s = -INFINITY;
    for (uint32_t e = 0; e < problem->forward_count; e++) {
        StageEdge edge = problem->forward[e];
        double way_s = around->clock[edge.from] + option->forward[e] + around->ahead[stage + 1][edge.to];
        forward_s = way_s > forward_s ? way_s : forward_s;
    }
    for (uint32_t e = 0; e < problem->backward_count; e++) {
        StageEdge edge = problem->backward[e];
        double way_s = around->turned[stage + 1][edge.from] + option->backward[e] + around->functional[edge.to];
        backward_s = way_s > backward_s ? way_s : backward_s;
    }
    return forward_s + problem->loss_s + (problem->training ? backward_s : 0);
}

static void pass_stage(const StageProblem *problem, const StageOption *option, Around *around)
{
    double next[STAGE_CLOCK_MAX];
    stages_forward(problem, option, around->clock, next);
    memcpy(around->clock, next, problem->clock_count * sizeof(*next));
    if (!problem->training)
        return;
    stages_functional(problem, option, around->functional, next);
    memcpy(around->functional, next, problem->clock_count * sizeof(*next));
}

// Improves the incumbent by changing one stage at a time, until nothing helps.
static void try_moves(Search *s, uint32_t *choice, Arena *scratch)
{
    const StageProblem *problem = s->problem;
    if (!s->out->found || problem->stage_count > MOVES_STAGES_MAX)
        return;
    size_t stages = problem->stage_count;
    Around around = {.ahead = arena_alloc_array(scratch, stages + 1, sizeof(*around.ahead)),
                     .turned = arena_alloc_array(scratch, stages + 1, sizeof(*around.turned))};
    for (bool better = true; better && !out_of_time(s);) {
        double before_s = s->out->objective_s;
        look_ahead(problem, s->out->choice, &around);
        for (uint32_t k = 0; k < stages; k++) {
            const StageOption *options = problem->stages[k].options;
            for (uint32_t i = 0; i < s->options.kept_count[k]; i++) {
                uint32_t o = s->options.kept[k][i];
                double memory = around.memory - options[s->out->choice[k]].memory + options[o].memory;
                if (memory > problem->memory * (1 + TIE) ||
                    changed_s(problem, &around, k, &options[o]) >= s->out->objective_s * (1 - TIE))
                    continue;
                memcpy(choice, s->out->choice, stages * sizeof(*choice));
                choice[k] = o;
                offer(s, choice);
                around.memory = stages_memory(problem, s->out->choice);
            }
            pass_stage(problem, &options[s->out->choice[k]], &around);
        }
        better = s->out->objective_s < before_s * (1 - 1e-6);
    }
}

// Is `a` at least as good as `b` in everything?
static bool option_dominates(const StageProblem *problem, const StageOption *a, const StageOption *b)
{
    bool all = a->memory <= b->memory;
    for (uint32_t e = 0; e < problem->forward_count && all; e++)
        all = a->forward[e] <= b->forward[e];
    for (uint32_t e = 0; e < problem->backward_count && all; e++)
        all = a->backward[e] <= b->backward[e];
    return all;
}

static void prune_dominated(Search *s)
{
    const StageProblem *problem = s->problem;
    for (uint32_t k = 0; k < problem->stage_count; k++) {
        const PlanStage *stage = &problem->stages[k];
        if (k > 0 && stage->options == problem->stages[k - 1].options) {
            s->options.kept_count[k] = s->options.kept_count[k - 1];
            memcpy(s->options.kept[k], s->options.kept[k - 1], s->options.kept_count[k] * sizeof(**s->options.kept));
            continue;
        }
        for (uint32_t o = 0; o < stage->option_count; o++) {
            bool dominated = false;
            for (uint32_t other = 0; other < stage->option_count && !dominated; other++)
                dominated = other != o && option_dominates(problem, &stage->options[other], &stage->options[o]) &&
                            (other < o || !option_dominates(problem, &stage->options[o], &stage->options[other]));
            if (!dominated)
                s->options.kept[k][s->options.kept_count[k]++] = o;
        }
    }
}

// Drops options that leave too little memory for the other stages.
static void fix_by_memory(Search *s)
{
    const StageProblem *problem = s->problem;
    for (uint32_t k = 0; k < problem->stage_count && problem->memory < INFINITY; k++) {
        double least = s->least_memory[k] - s->least_memory[k + 1], others = s->least_memory[0] - least;
        uint32_t left = 0;
        for (uint32_t i = 0; i < s->options.kept_count[k]; i++) {
            uint32_t o = s->options.kept[k][i];
            if (others + problem->stages[k].options[o].memory <= problem->memory * (1 + TIE))
                s->options.kept[k][left++] = o;
        }
        s->options.kept_count[k] = left;
    }
}

static bool is_infeasible(const Search *s)
{
    bool feasible = true;
    for (uint32_t k = 0; k < s->problem->stage_count; k++)
        feasible = feasible && s->options.kept_count[k] > 0;
    return !feasible;
}

// Drops options that no choice better than the incumbent can contain.
static void fix_by_reduced_cost(Search *s)
{
    for (uint32_t b = 0; b < s->bound_count; b++)
        for (uint32_t k = 0; k < s->problem->stage_count; k++) {
            uint32_t left = 0;
            multipliers_reduced_s(s->problem, &s->options, &s->bounds[b], k, s->reduced_s);
            for (uint32_t i = 0; i < s->options.kept_count[k]; i++) {
                uint32_t o = s->options.kept[k][i];
                double with_s = s->bounds[b].value_s + s->reduced_s[i];
                if (!(with_s >= limit_s(s))) // NaN where the bound is -INFINITY, and says nothing
                    s->options.kept[k][left++] = o;
            }
            s->options.kept_count[k] = left;
        }
}

static void bound_label(const Search *s, uint32_t stage, Label *label)
{
    const StageProblem *problem = s->problem;
    const double *functional = label_functional(problem, label);
    double best_s = -INFINITY;
    for (uint32_t b = 0; b < s->bound_count; b++) {
        const Multipliers *m = &s->bounds[b];
        double bound_s = m->rest_s[stage];
        if (m->memory_price > 0)
            bound_s += m->memory_price * (label->memory - problem->memory);
        for (uint32_t i = 0; i < problem->clock_count; i++) {
            if (m->clock_weight[stage][i] > 0)
                bound_s += m->clock_weight[stage][i] * label->clock[i];
            if (m->functional_weight[stage][i] > 0)
                bound_s += m->functional_weight[stage][i] * functional[i];
        }
        best_s = fmax(best_s, bound_s);
    }
    label->bound_s = best_s;
}

// Labels are big: this is sorted in their place. They come in the order of parents and options.
typedef struct {
    double bound_s;
    uint32_t label;
} Rank;

static bool rank_before(const Rank *a, const Rank *b)
{
    return a->bound_s < b->bound_s || (a->bound_s == b->bound_s && a->label < b->label);
}

// Makes a heap of `ranks` again, of which only ranks[at] may come after its children; the first comes first.
static void rank_sink(Rank *ranks, uint32_t count, uint32_t at)
{
    Rank sinking = ranks[at];
    for (uint32_t child; (child = 2 * at + 1) < count; at = child) {
        child += child + 1 < count && rank_before(&ranks[child + 1], &ranks[child]);
        if (!rank_before(&ranks[child], &sinking))
            break;
        ranks[at] = ranks[child];
    }
    ranks[at] = sinking;
}

static bool label_dominates(const StageProblem *problem, const Label *a, const Label *b)
{
    if (a->memory > b->memory)
        return false;
    uint32_t numbers = problem->clock_count * (problem->training ? 2 : 1);
    for (uint32_t i = 0; i < numbers; i++)
        if (a->clock[i] > b->clock[i])
            return false;
    return true;
}

// Takes the best `width` labels by bound, without the dominated ones, from `from` into `to`. Returns the least
// bound of those cut off.
static double thin_out(const Search *s, const Labels *from, Rank *ranks, Labels *to, uint32_t width)
{
    for (uint32_t i = 0; i < from->count; i++)
        ranks[i] = (Rank){label_at(from, i)->bound_s, i};
    for (uint32_t i = from->count / 2; i-- > 0;)
        rank_sink(ranks, from->count, i);
    to->count = 0;
    for (uint32_t left = from->count; left > 0;) {
        const Label *label = label_at(from, ranks[0].label);
        ranks[0] = ranks[--left];
        rank_sink(ranks, left, 0);
        bool dominated = false;
        uint32_t first = to->count > DOMINANCE_SPAN ? to->count - DOMINANCE_SPAN : 0;
        for (uint32_t j = to->count; j-- > first && !dominated;)
            dominated = label_dominates(s->problem, label_at(to, j), label);
        if (dominated)
            continue;
        if (to->count == width)
            return label->bound_s; // the least of the rest
        memcpy(label_at(to, to->count++), label, from->bytes);
    }
    return INFINITY;
}

static void keep_best(Search *s, const Labels *kept, Trace **traces, uint32_t *choice)
{
    const StageProblem *problem = s->problem;
    for (uint32_t i = 0; i < kept->count; i++) {
        const Label *label = label_at(kept, i);
        uint32_t at = label->parent;
        choice[problem->stage_count - 1] = label->option;
        for (uint32_t k = problem->stage_count - 1; k-- > 0;) {
            choice[k] = traces[k][at].option;
            at = traces[k][at].parent;
        }
        offer(s, choice);
        if (label->bound_s >= limit_s(s))
            break;
    }
}

static void begin_label(const StageProblem *problem, Label *label)
{
    double functional[STAGE_CLOCK_MAX];
    memcpy(label->clock, problem->begin, problem->clock_count * sizeof(double));
    stages_begin_functional(problem, functional);
    if (problem->training)
        memcpy(label_functional(problem, label), functional, problem->clock_count * sizeof(double));
}

// Adds label `index` under every option of a stage that may still lead to something better to `next`.
static void extend(Search *s, uint32_t stage, const Labels *labels, uint32_t index, Labels *next)
{
    const StageProblem *problem = s->problem;
    Label *label = label_at(labels, index);
    for (uint32_t o = 0; o < s->options.kept_count[stage]; o++) {
        Label *longer = label_at(next, next->count);
        longer->option = s->options.kept[stage][o];
        longer->parent = index;
        const StageOption *option = &problem->stages[stage].options[longer->option];
        longer->memory = label->memory + option->memory;
        if (longer->memory + s->least_memory[stage + 1] > problem->memory)
            continue;
        stages_forward(problem, option, label->clock, longer->clock);
        if (problem->training)
            stages_functional(problem, option, label_functional(problem, label), label_functional(problem, longer));
        bound_label(s, stage + 1, longer);
        next->count += longer->bound_s < limit_s(s);
    }
}

// One sweep through the stages. Returns a lower bound on every choice it did not look at.
static double sweep(Search *s, uint32_t width, uint32_t *choice)
{
    const StageProblem *problem = s->problem;
    Arena *arena = arena_create();
    uint32_t options_max = 1;
    for (uint32_t k = 0; k < problem->stage_count; k++)
        options_max = s->options.kept_count[k] > options_max ? s->options.kept_count[k] : options_max;
    Labels labels = labels_create(problem, width, arena);
    Labels next = labels_create(problem, (size_t)width * options_max, arena);
    Rank *ranks = arena_alloc_array(arena, (size_t)width * options_max, sizeof(*ranks));
    Trace **traces = arena_alloc_array(arena, problem->stage_count, sizeof(*traces));
    begin_label(problem, label_at(&labels, 0));
    labels.count = 1;
    double cut_s = INFINITY;
    for (uint32_t k = 0; k < problem->stage_count && labels.count > 0; k++) {
        next.count = 0;
        for (uint32_t i = 0; i < labels.count; i++)
            extend(s, k, &labels, i, &next);
        s->work += (double)labels.count * s->options.kept_count[k];
        s->out->label_count += next.count;
        cut_s = fmin(cut_s, thin_out(s, &next, ranks, &labels, width));
        traces[k] = arena_alloc_array(arena, labels.count ? labels.count : 1, sizeof(**traces));
        for (uint32_t i = 0; i < labels.count; i++)
            traces[k][i] = (Trace){label_at(&labels, i)->parent, label_at(&labels, i)->option};
        if (out_of_time(s) && k + 1 < problem->stage_count) {
            cut_s = -INFINITY;
            labels.count = 0;
        }
    }
    keep_best(s, &labels, traces, choice);
    arena_destroy(arena);
    return cut_s;
}

static void prepare(Search *s, Arena *arena)
{
    const StageProblem *problem = s->problem;
    uint32_t stages = problem->stage_count;
    s->out->choice = arena_alloc_array(arena, stages + 1, sizeof(*s->out->choice));
    s->options.kept = arena_alloc_array(arena, stages + 1, sizeof(*s->options.kept));
    s->options.kept_count = arena_alloc_array(arena, stages + 1, sizeof(*s->options.kept_count));
    s->least_memory = arena_alloc_array(arena, stages + 1, sizeof(*s->least_memory));
    uint32_t options_max = 0;
    for (uint32_t k = 0; k < stages; k++)
        options_max = problem->stages[k].option_count > options_max ? problem->stages[k].option_count : options_max;
    s->reduced_s = arena_alloc_array(arena, (size_t)options_max + 1, sizeof(*s->reduced_s));
    for (uint32_t k = stages; k-- > 0;) {
        const PlanStage *stage = &problem->stages[k];
        s->options.kept[k] = arena_alloc_array(arena, stage->option_count, sizeof(**s->options.kept));
        double least = INFINITY;
        for (uint32_t o = 0; o < stage->option_count; o++)
            least = fmin(least, stage->options[o].memory);
        s->least_memory[k] = s->least_memory[k + 1] + least;
    }
    prune_dominated(s);
    fix_by_memory(s);
}

static void report_useful(const Search *s, Arena *arena)
{
    uint32_t columns = s->problem->stages[0].option_count;
    s->out->useful = arena_alloc_array(arena, (size_t)s->problem->stage_count * columns, sizeof(*s->out->useful));
    for (uint32_t k = 0; k < s->problem->stage_count; k++) {
        for (uint32_t i = 0; i < s->options.kept_count[k]; i++)
            s->out->useful[(size_t)k * columns + s->options.kept[k][i]] = true;
        if (s->out->found)
            s->out->useful[(size_t)k * columns + s->out->choice[k]] = true;
    }
}

// Label extensions of a sweep of width 1, at most.
static double sweep_work(const Search *s)
{
    double work = 0;
    for (uint32_t k = 0; k < s->problem->stage_count; k++)
        work += s->options.kept_count[k];
    return work;
}

// The share of the usual work that is worth spending on what can still be won.
static double worth(const Search *s)
{
    static const double all = 1e-2, least = 0.1;
    double best_s = best_known_s(s), gap = best_s < INFINITY ? (best_s - s->out->bound_s) / best_s : 1;
    return fmin(1, fmax(least, gap / all));
}

// Sweeps with ever wider beams, until nothing that was cut off can be better, or the work is done.
static void widen(Search *s, double effort, uint32_t *choice)
{
    uint32_t stages = s->problem->stage_count;
    bool many = stages > STAGES_MANY;
    double work_max = effort * fmax(WORK_LEAST, WORK_PER_STAGE * (many ? STAGES_MANY : stages) * worth(s));
    double first = many ? fmax(1, fmin(FIRST_WIDTH, work_max / fmax(1, sweep_work(s)))) : FIRST_WIDTH;
    for (uint32_t width = (uint32_t)first;; width *= WIDENING) {
        double cut_s = sweep(s, width, choice);
        double best_s = best_known_s(s);
        s->out->bound_s = fmax(s->out->bound_s, fmin(best_s, cut_s));
        if (cut_s >= best_s * (1 - TIE) || s->out->timed_out || s->work > work_max)
            break;
        if (s->out->found && s->out->bound_s >= s->out->objective_s * (1 - s->limits->gap))
            break;
        fix_by_reduced_cost(s);
        if (many && s->work + (double)width * WIDENING * sweep_work(s) > work_max)
            break;
    }
}

void search_solve(const StageProblem *problem, const SearchLimits *limits, double cutoff_s, Arena *arena,
                  SearchResult *out)
{
    *out = (SearchResult){0};
    Arena *scratch = arena_create();
    Search s = {.problem = problem, .limits = limits, .out = out, .cutoff_s = cutoff_s};
    prepare(&s, arena);
    uint32_t *choice = arena_alloc_array(scratch, problem->stage_count + 1, sizeof(*choice));
    if (problem->stage_count == 0) {
        out->found = true;
        out->objective_s = out->bound_s = stages_evaluate(problem, choice);
        arena_destroy(scratch);
        return;
    }
    if (is_infeasible(&s)) {
        out->bound_s = INFINITY;
        report_useful(&s, arena);
        arena_destroy(scratch);
        return;
    }
    if (!limits->bound_only) {
        try_uniform(&s, choice);
        try_moves(&s, choice, scratch);
    }
    double incumbent_s = fmin(cutoff_s, out->found ? out->objective_s : INFINITY);
    if (incumbent_s == INFINITY)
        incumbent_s = slowest_s(problem, choice);
    // Fewer rounds where every round is long.
    double size = (double)problem->stage_count * problem->stages[0].option_count;
    double effort = limits->effort > 0 ? limits->effort : 1;
    bool many = problem->stage_count > STAGES_MANY;
    double rounds_least = many ? LATE_ROUNDS : ROUNDS_MIN, rounds_work = many ? ROUNDS_WORK_MANY : ROUNDS_WORK;
    uint32_t rounds = (uint32_t)fmin(ROUNDS_MAX, fmax(rounds_least, effort * rounds_work / fmax(1, size)));
    if (out_of_time(&s))
        rounds = rounds < LATE_ROUNDS ? rounds : LATE_ROUNDS;
    s.bound_count = multipliers_find(problem, &s.options, incumbent_s, rounds, s.bounds, scratch);
    out->bound_s = -INFINITY;
    for (uint32_t b = 0; b < s.bound_count; b++)
        out->bound_s = fmax(out->bound_s, s.bounds[b].value_s);
    fix_by_reduced_cost(&s);
    if (!limits->bound_only && out->bound_s < best_known_s(&s) * (1 - limits->gap))
        widen(&s, effort, choice);
    report_useful(&s, arena);
    arena_destroy(scratch);
}
