// See stages.h. The maps are read off the recursion by asking it for its response to each component
// of the clock alone.
#include "compiler/solve/stages.h"

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

static void respond(const Building *b, uint32_t layer, const LayerCost *cost, const Config *config, bool backward,
                    Response response)
{
    const ClockedLayer of = {layer, cost, config, b->prefetch};
    for (int from = 0; from < CLOCK_SIZE; from++) {
        Clock clock;
        for (int i = 0; i < CLOCK_SIZE; i++)
            clock.at_s[i] = i == from ? 0 : -INFINITY;
        if (backward)
            clock_backward(b->work, &of, &clock, NULL);
        else
            clock_forward(b->work, &of, &clock, NULL);
        for (int to = 0; to < CLOCK_SIZE; to++)
            response[to][from] = clock.at_s[to];
    }
}

// Chain, queue, the ports that carry anything, gradients on their way, and as many reads as a gather looks back.
static void choose_components(Building *b)
{
    StageProblem *problem = b->problem;
    uint32_t reads = 0;
    bool port[LEVELS_MAX] = {false};
    for (uint32_t k = 0; k < b->work->layer_count; k++) {
        if (!b->work->layers[k].is_moe || b->work->layers[k].kind != k)
            continue;
        for (uint32_t c = 0; c < b->count; c++) {
            LayerCost cost;
            cost_layer(b->work, k, &b->candidates[c].config, b->dispatch, &cost);
            for (uint32_t j = 0; j < LEVELS_MAX; j++)
                port[j] = port[j] || cost_port_s(&cost, j) > 0;
            uint32_t window = mix_window(b->work->spec->plan.pass, &b->candidates[c].config, b->prefetch);
            if (window <= PREFETCH_MAX && window + 1 > reads)
                reads = window + 1;
        }
    }
    uint32_t count = 0;
    b->used[count++] = CLOCK_CHAIN;
    b->used[count++] = CLOCK_QUEUE;
    if (problem->training)
        b->used[count++] = CLOCK_RETURN;
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
            if (finite && count < STAGE_EDGES_MAX)
                edges[count++] = (StageEdge){(uint8_t)to, (uint8_t)from};
        }
    return count;
}

static const double *weights(const Building *b, const StageEdge *edges, uint32_t count, Response response)
{
    double *out = arena_alloc_array(b->problem->arena, count ? count : 1, sizeof *out);
    for (uint32_t e = 0; e < count; e++)
        out[e] = response[b->used[edges[e].to]][b->used[edges[e].from]];
    return out;
}

static void add_stages(Building *b)
{
    const Workload *work = b->work;
    StageProblem *problem = b->problem;
    Arena *scratch = arena_create();
    uint32_t *kinds = arena_alloc_array(scratch, work->layer_count, sizeof *kinds), kind_count = 0;
    for (uint32_t k = 0; k < work->layer_count; k++)
        if (work->layers[k].is_moe && work->layers[k].kind == k)
            kinds[kind_count++] = k;
    uint32_t total = kind_count * b->count;
    Response *forward = arena_alloc_array(scratch, total ? total : 1, sizeof *forward);
    Response *backward = arena_alloc_array(scratch, total ? total : 1, sizeof *backward);
    for (uint32_t i = 0; i < kind_count; i++)
        for (uint32_t c = 0; c < b->count; c++) {
            LayerCost cost;
            cost_layer(work, kinds[i], &b->candidates[c].config, b->dispatch, &cost);
            respond(b, kinds[i], &cost, &b->candidates[c].config, false, forward[i * b->count + c]);
            if (problem->training)
                respond(b, kinds[i], &cost, &b->candidates[c].config, true, backward[i * b->count + c]);
        }
    problem->forward_count = list_edges(b, total, forward, problem->forward);
    problem->backward_count = problem->training ? list_edges(b, total, backward, problem->backward) : 0;

    StageOption **options = arena_alloc_array(scratch, work->layer_count, sizeof *options);
    for (uint32_t i = 0; i < kind_count; i++) {
        options[kinds[i]] = arena_alloc_array(problem->arena, b->count, sizeof **options);
        for (uint32_t c = 0; c < b->count; c++)
            options[kinds[i]][c] = (StageOption){
                .forward = weights(b, problem->forward, problem->forward_count, forward[i * b->count + c]),
                .backward = weights(b, problem->backward, problem->backward_count, backward[i * b->count + c]),
                .memory = b->candidates[c].memory,
                .candidate = b->candidates[c].index,
            };
    }
    double forward_s = 0, backward_s = 0;
    for (uint32_t k = 0; k < work->layer_count; k++) {
        const LayerWork *layer = &work->layers[k];
        if (!layer->is_moe) {
            forward_s += layer->pre_expert_s + layer->dense_s;
            backward_s += 2 * (layer->pre_expert_s + layer->dense_s);
            continue;
        }
        problem->stages[problem->stage_count++] = (PlanStage){
            .options = options[layer->kind], .option_count = b->count,
            .lead_forward_s = forward_s, .lead_backward_s = backward_s,
        };
        forward_s = backward_s = 0;
    }
    problem->trail_forward_s = forward_s + work->loss_s;
    problem->trail_backward_s = backward_s;
    arena_destroy(scratch);
}

StageProblem *stages_build(const Workload *work, const StageCandidate *candidates, uint32_t count, uint32_t prefetch,
                           double memory_free, Arena *arena)
{
    StageProblem *problem = arena_alloc(arena, sizeof *problem);
    problem->arena = arena;
    problem->training = work->spec->plan.pass == PASS_TRAINING;
    problem->memory = memory_free;
    problem->stages = arena_alloc_array(arena, work->moe_count ? work->moe_count : 1, sizeof *problem->stages);
    Building b = {.work = work, .candidates = candidates, .count = count, .prefetch = prefetch,
                  .dispatch = work->spec->plan.dispatch, .problem = problem};
    choose_components(&b);
    add_stages(&b);
    Clock begin = clock_begin(), turn = clock_begin_backward(work, 0);
    double tail_s = iteration_tail_s(work);
    for (uint32_t i = 0; i < problem->clock_count; i++) {
        problem->begin[i] = begin.at_s[b.used[i]];
        problem->turn[i] = turn.at_s[b.used[i]];
        bool ends = b.used[i] == CLOCK_CHAIN || b.used[i] == CLOCK_RETURN;
        problem->end[i] = ends ? tail_s : -INFINITY;
    }
    return problem;
}

void stages_forward(const StageProblem *problem, uint32_t stage, const StageOption *option,
                    const double in[STAGE_CLOCK_MAX], double out[STAGE_CLOCK_MAX])
{
    double lead_s = problem->stages[stage].lead_forward_s;
    for (uint32_t i = 0; i < problem->clock_count; i++)
        out[i] = -INFINITY;
    for (uint32_t e = 0; e < problem->forward_count; e++) {
        StageEdge edge = problem->forward[e];
        double at_s = in[edge.from] + (edge.from == 0 ? lead_s : 0) + option->forward[e];
        if (at_s > out[edge.to])
            out[edge.to] = at_s;
    }
}

// The functional before a stage's backward pass, given the one after it; then past the dense layers
// that come after the stage in the model, which the backward pass meets first.
void stages_functional(const StageProblem *problem, uint32_t stage, const StageOption *option,
                       const double in[STAGE_CLOCK_MAX], double out[STAGE_CLOCK_MAX])
{
    for (uint32_t i = 0; i < problem->clock_count; i++)
        out[i] = -INFINITY;
    for (uint32_t e = 0; e < problem->backward_count; e++) {
        StageEdge edge = problem->backward[e];
        double after_s = in[edge.to] + option->backward[e];
        if (after_s > out[edge.from])
            out[edge.from] = after_s;
    }
    bool last = stage + 1 == problem->stage_count;
    out[0] += last ? problem->trail_backward_s : problem->stages[stage + 1].lead_backward_s;
}

void stages_begin_functional(const StageProblem *problem, double out[STAGE_CLOCK_MAX])
{
    memcpy(out, problem->end, sizeof problem->end);
    out[0] += problem->stage_count ? problem->stages[0].lead_backward_s : problem->trail_backward_s;
}

static double stages_total(const StageProblem *problem, const double clock[STAGE_CLOCK_MAX],
                           const double functional[STAGE_CLOCK_MAX])
{
    double forward_s = clock[0] + problem->trail_forward_s;
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
    memcpy(clock[0], problem->begin, sizeof clock[0]);
    stages_begin_functional(problem, functional[0]);
    for (uint32_t k = 0; k < problem->stage_count; k++) {
        const StageOption *option = &problem->stages[k].options[choice[k]];
        stages_forward(problem, k, option, clock[k % 2], clock[(k + 1) % 2]);
        if (problem->training)
            stages_functional(problem, k, option, functional[k % 2], functional[(k + 1) % 2]);
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
