// See stages.h. The maps are read off the recursion by asking it for its response to each component
// of the clock alone.
#include "compiler/solve/stages.h"

#include <assert.h>
#include <math.h>
#include <string.h>

// Full response of one option: [to][from].
typedef double Response[CLOCK_SIZE][CLOCK_SIZE];

typedef struct {
    const Workload *work;
    const StageCandidate *candidates;
    uint32_t count, prefetch;
    Dispatch dispatch;
    StageProblem *problem;
    uint8_t used[CLOCK_SIZE]; // clock component of each component in use
} Building;

// Layers of one stage: `first` to `last`, of which `moe` has experts.
typedef struct {
    uint32_t first, moe, last;
} StageLayers;

// The layer with experts of a stage, as one option has it.
typedef struct {
    const StageLayers *layers;
    const LayerCost *cost;
    const Config *config;
} StageChoice;

// All of `clocks`: [clock_count].
static void pass_layer(const Building *b, const StageChoice *choice, uint32_t layer, bool backward, Clock *clocks)
{
    static const Config none = {0};
    bool is_moe = layer == choice->layers->moe;
    LayerCost dense;
    PassCost passes[2] = {0};
    if (is_moe)
        cost_pass(b->work, layer, choice->cost, backward, &passes[backward]);
    else
        cost_layer(b->work, layer, &none, b->dispatch, &dense);
    const ClockedLayer of = {.layer = layer,
                             .cost = is_moe ? choice->cost : &dense,
                             .passes = passes,
                             .config = is_moe ? choice->config : &none,
                             .prefetch = b->prefetch,
                             .first = true,
                             .last = true};
    for (uint32_t i = 0; i < b->problem->clock_count; i++)
        (backward ? clock_backward : clock_forward)(b->work, &of, &clocks[i], NULL);
}

// Of the components in use: what the others hold, nothing waits for.
static void respond(const Building *b, const StageChoice *choice, bool backward, Response response)
{
    const StageLayers *layers = choice->layers;
    Clock clocks[CLOCK_SIZE];
    for (uint32_t from = 0; from < b->problem->clock_count; from++)
        for (int i = 0; i < CLOCK_SIZE; i++)
            clocks[from].at_s[i] = i == b->used[from] ? 0 : -INFINITY;
    for (uint32_t i = 0; i <= layers->last - layers->first; i++)
        pass_layer(b, choice, backward ? layers->last - i : layers->first + i, backward, clocks);
    for (uint32_t from = 0; from < b->problem->clock_count; from++)
        for (int to = 0; to < CLOCK_SIZE; to++)
            response[to][b->used[from]] = clocks[from].at_s[to];
}

static void look_back(uint32_t window, uint32_t *reads)
{
    if (window <= PREFETCH_MAX && window + 1 > *reads)
        *reads = window + 1;
}

// Chain, queue, the ports that carry anything, gradients on their way, and as many reads as a gather looks back.
static void choose_components(Building *b)
{
    StageProblem *problem = b->problem;
    uint32_t reads = 0;
    if (spec_regathers_embedding(b->work->spec)) {
        look_back(embedding_window(b->prefetch), &reads);
        look_back(embedding_outer_window(b->work, b->prefetch), &reads);
    }
    bool port[LEVELS_MAX] = {false}, waits_for_returns = dense_returns_are_limited(b->work);
    for (uint32_t k = 0; k < b->work->layer_count; k++) {
        if (!b->work->layers[k].is_moe || b->work->layers[k].kind != k)
            continue;
        for (uint32_t c = 0; c < b->count; c++) {
            LayerCost cost;
            cost_layer(b->work, k, &b->candidates[c].config, b->dispatch, &cost);
            for (uint32_t j = 0; j < LEVELS_MAX; j++)
                port[j] = port[j] || cost_port_s(&cost, j) > 0;
            waits_for_returns = waits_for_returns || expert_returns_are_limited(b->work, &b->candidates[c].config);
            uint32_t windows[] = {mix_window(b->work->spec->plan.pass, &b->candidates[c].config, b->prefetch),
                                  mix_outer_window(b->work, &b->candidates[c].config, b->prefetch),
                                  dense_window(b->work, b->prefetch), dense_outer_window(b->work, b->prefetch)};
            for (size_t w = 0; w < COUNT_OF(windows); w++)
                look_back(windows[w], &reads);
        }
    }
    uint32_t count = 0;
    b->used[count++] = CLOCK_CHAIN;
    bool outer = b->work->outer_levels > 0;
    b->used[count++] = CLOCK_QUEUE;
    if (outer)
        b->used[count++] = CLOCK_OUTER;
    if (problem->training)
        b->used[count++] = CLOCK_RETURN;
    if (outer)
        b->used[count++] = CLOCK_OUTER_RETURN;
    for (uint32_t i = 0; waits_for_returns && i < RETURNS_MAX; i++)
        b->used[count++] = (uint8_t)(CLOCK_HOME + i);
    for (uint32_t j = 0; j < LEVELS_MAX; j++)
        if (port[j])
            b->used[count++] = (uint8_t)(CLOCK_PORT + j);
    for (uint32_t i = 0; i < reads; i++)
        b->used[count++] = (uint8_t)(CLOCK_READ + i);
    problem->clock_count = count;
}

static uint32_t list_edges(const Building *b, uint32_t response_count, Response *responses, StageEdge *edges)
{
    uint32_t count = 0;
    for (uint32_t to = 0; to < b->problem->clock_count; to++)
        for (uint32_t from = 0; from < b->problem->clock_count; from++) {
            bool finite = false;
            for (uint32_t r = 0; r < response_count && !finite; r++)
                finite = responses[r][b->used[to]][b->used[from]] > -INFINITY;
            assert(!finite || count < STAGE_EDGES_MAX);
            if (finite)
                edges[count++] = (StageEdge){(uint8_t)to, (uint8_t)from};
        }
    return count;
}

static const double *weights(const Building *b, const StageEdge *edges, uint32_t count, Response response)
{
    double *out = arena_alloc_array(b->problem->arena, count ? count : 1, sizeof(*out));
    for (uint32_t e = 0; e < count; e++)
        out[e] = response[b->used[edges[e].to]][b->used[edges[e].from]];
    return out;
}

static bool stages_alike(const Workload *work, const StageLayers *a, const StageLayers *b)
{
    if (a->last - a->first != b->last - b->first || a->moe - a->first != b->moe - b->first)
        return false;
    for (uint32_t i = 0; i <= a->last - a->first; i++)
        if (work->layers[a->first + i].kind != work->layers[b->first + i].kind ||
            workload_leads_bucket(work, a->first + i) != workload_leads_bucket(work, b->first + i))
            return false;
    return workload_experts_lead_bucket(work, a->moe, 0) == workload_experts_lead_bucket(work, b->moe, 0);
}

// Cuts the layers into stages; returns how many. kinds [stages]: the first stage that is just like each.
static uint32_t cut_stages(const Workload *work, StageLayers *stages, uint32_t *kinds)
{
    uint32_t count = 0, first = 0;
    for (uint32_t k = 0; k < work->layer_count; k++) {
        if (work->layers[k].is_moe) {
            stages[count++] = (StageLayers){first, k, k};
            first = k + 1;
        }
    }
    if (count)
        stages[count - 1].last = work->layer_count - 1;
    for (uint32_t i = 0; i < count; i++) {
        bool waits = i + 1 == count && spec_regathers_embedding(work->spec); // after its last layer, for the embedding
        kinds[i] = waits ? i : 0;
        while (kinds[i] < i && (kinds[kinds[i]] != kinds[i] || !stages_alike(work, &stages[kinds[i]], &stages[i])))
            kinds[i]++;
    }
    return count;
}

// The options of every kind of stage: responses of all, then the edges that any of them has.
static void fill_options(Building *b, const StageLayers *stages, const uint32_t *kinds, uint32_t count,
                         StageOption **options, Arena *scratch)
{
    StageProblem *problem = b->problem;
    uint32_t *of_kind = arena_alloc_array(scratch, count + 1, sizeof(*of_kind)), kind_count = 0;
    for (uint32_t i = 0; i < count; i++)
        if (kinds[i] == i)
            of_kind[kind_count++] = i;
    uint32_t total = kind_count * b->count;
    Response *forward = arena_alloc_array(scratch, total ? total : 1, sizeof(*forward));
    Response *backward = arena_alloc_array(scratch, total ? total : 1, sizeof(*backward));
    for (uint32_t i = 0; i < kind_count; i++)
        for (uint32_t c = 0; c < b->count; c++) {
            const StageLayers *stage = &stages[of_kind[i]];
            LayerCost cost;
            cost_layer(b->work, stage->moe, &b->candidates[c].config, b->dispatch, &cost);
            const StageChoice choice = {stage, &cost, &b->candidates[c].config};
            respond(b, &choice, false, forward[i * b->count + c]);
            if (problem->training)
                respond(b, &choice, true, backward[i * b->count + c]);
        }
    problem->forward_count = list_edges(b, total, forward, problem->forward);
    problem->backward_count = problem->training ? list_edges(b, total, backward, problem->backward) : 0;
    for (uint32_t i = 0; i < kind_count; i++) {
        options[of_kind[i]] = arena_alloc_array(problem->arena, b->count, sizeof(**options));
        for (uint32_t c = 0; c < b->count; c++)
            options[of_kind[i]][c] = (StageOption){
                .forward = weights(b, problem->forward, problem->forward_count, forward[i * b->count + c]),
                .backward = weights(b, problem->backward, problem->backward_count, backward[i * b->count + c]),
                .memory = b->candidates[c].memory,
                .candidate = b->candidates[c].index,
            };
    }
}

static void add_stages(Building *b)
{
    const Workload *work = b->work;
    StageProblem *problem = b->problem;
    Arena *scratch = arena_create();
    StageLayers *stages = arena_alloc_array(scratch, work->moe_count + 1, sizeof(*stages));
    uint32_t *kinds = arena_alloc_array(scratch, work->moe_count + 1, sizeof(*kinds));
    StageOption **options = arena_alloc_array(scratch, work->moe_count + 1, sizeof(*options));
    uint32_t count = cut_stages(work, stages, kinds);
    fill_options(b, stages, kinds, count, options, scratch);
    for (uint32_t i = 0; i < count; i++)
        problem->stages[problem->stage_count++] = (PlanStage){.options = options[kinds[i]], .option_count = b->count};
    problem->loss_s = iteration_loss_s(work);
    arena_destroy(scratch);
}

StageProblem *stages_build(const Workload *work, const StageCandidate *candidates, uint32_t count, uint32_t prefetch,
                           double memory_free, Arena *arena)
{
    StageProblem *problem = arena_alloc(arena, sizeof(*problem));
    problem->arena = arena;
    problem->training = work->spec->plan.pass == PASS_TRAINING;
    problem->memory = memory_free;
    problem->stages = arena_alloc_array(arena, work->moe_count ? work->moe_count : 1, sizeof(*problem->stages));
    Building b = {.work = work,
                  .candidates = candidates,
                  .count = count,
                  .prefetch = prefetch,
                  .dispatch = work->spec->plan.dispatch,
                  .problem = problem};
    choose_components(&b);
    add_stages(&b);
    Clock begin = clock_begin(work), turn = clock_begin_backward(work, 0);
    double tail_s = iteration_tail_s(work);
    for (uint32_t i = 0; i < problem->clock_count; i++) {
        problem->begin[i] = begin.at_s[b.used[i]];
        problem->turn[i] = turn.at_s[b.used[i]];
        bool ends = b.used[i] == CLOCK_CHAIN || b.used[i] == CLOCK_RETURN || b.used[i] == CLOCK_OUTER_RETURN;
        problem->end[i] = ends ? tail_s : -INFINITY;
    }
    return problem;
}

void stages_forward(const StageProblem *problem, const StageOption *option, const double in[STAGE_CLOCK_MAX],
                    double out[STAGE_CLOCK_MAX])
{
    for (uint32_t i = 0; i < problem->clock_count; i++)
        out[i] = -INFINITY;
    for (uint32_t e = 0; e < problem->forward_count; e++) {
        StageEdge edge = problem->forward[e];
        double at_s = in[edge.from] + option->forward[e];
        if (at_s > out[edge.to])
            out[edge.to] = at_s;
    }
}

// The functional before a stage's backward pass, given the one after it.
void stages_functional(const StageProblem *problem, const StageOption *option, const double in[STAGE_CLOCK_MAX],
                       double out[STAGE_CLOCK_MAX])
{
    for (uint32_t i = 0; i < problem->clock_count; i++)
        out[i] = -INFINITY;
    for (uint32_t e = 0; e < problem->backward_count; e++) {
        StageEdge edge = problem->backward[e];
        double after_s = in[edge.to] + option->backward[e];
        if (after_s > out[edge.from])
            out[edge.from] = after_s;
    }
}

void stages_begin_functional(const StageProblem *problem, double out[STAGE_CLOCK_MAX])
{
    memcpy(out, problem->end, sizeof(problem->end));
}

static double stages_total(const StageProblem *problem, const double clock[STAGE_CLOCK_MAX],
                           const double functional[STAGE_CLOCK_MAX])
{
    double forward_s = clock[0] + problem->loss_s;
    if (!problem->training)
        return forward_s;
    double after_s = -INFINITY;
    for (uint32_t i = 0; i < problem->clock_count; i++)
        after_s = fmax(after_s, problem->turn[i] + functional[i]);
    return forward_s + after_s;
}

double stages_evaluate(const StageProblem *problem, const uint32_t *choice)
{
    double clock[2][STAGE_CLOCK_MAX], functional[2][STAGE_CLOCK_MAX];
    memcpy(clock[0], problem->begin, sizeof(clock[0]));
    stages_begin_functional(problem, functional[0]);
    for (uint32_t k = 0; k < problem->stage_count; k++) {
        const StageOption *option = &problem->stages[k].options[choice[k]];
        stages_forward(problem, option, clock[k % 2], clock[(k + 1) % 2]);
        if (problem->training)
            stages_functional(problem, option, functional[k % 2], functional[(k + 1) % 2]);
    }
    return stages_total(problem, clock[problem->stage_count % 2], functional[problem->stage_count % 2]);
}

double stages_memory(const StageProblem *problem, const uint32_t *choice)
{
    double total = 0;
    for (uint32_t k = 0; k < problem->stage_count; k++)
        total += problem->stages[k].options[choice[k]].memory;
    return total;
}
