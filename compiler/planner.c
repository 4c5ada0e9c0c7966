// Enumerates and prices configurations, states the MILP, solves it, checks the answer against the
// cost model. The programme is written layer by layer, so that a choice per layer needs only more
// binaries, not other rows.
#include "compiler/planner.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "compiler/lower.h"

enum {
    CANDIDATES_MAX = 4096,
    MILP_CANDIDATES_MAX = 96,
    MILP_LAYERS_MAX = 128, // beyond, GLPK takes seconds to confirm what enumeration proves
    STEADY_PERIODS = 4, // from there on every period of layers takes the same memory
};

const char *const baseline_names[BASELINE_COUNT] = {"ep", "ep_dedup", "gather"};

Dispatch baseline_dispatch(int baseline, const Spec *spec)
{
    if (baseline == BASELINE_EP)
        return DISPATCH_NAIVE;
    return baseline == BASELINE_EP_DEDUP ? DISPATCH_DEDUP : spec->plan.dispatch;
}

const char *config_format(const Cluster *cluster, const Config *config, char *out, size_t size)
{
    size_t used = 0;
    out[0] = 0;
    for (uint32_t l = 0; l < cluster->level_count && used < size; l++)
        used += (size_t)snprintf(out + used, size - used, "%s%s=%u", l ? " " : "", cluster->levels[l].name,
                                 config->domain[l]);
    if (config->regather && used < size)
        snprintf(out + used, size - used, " regather");
    return out;
}

// ---- enumeration -----------------------------------------------------------------------------

static size_t count_divisors(uint32_t n)
{
    size_t count = 0;
    for (uint32_t d = 1; d <= n; d++)
        count += n % d == 0;
    return count;
}

static uint32_t nth_divisor(uint32_t n, size_t index)
{
    for (uint32_t d = 1; d <= n; d++)
        if (n % d == 0 && index-- == 0)
            return d;
    return n;
}

static Config uniform_config(const Spec *spec, bool whole)
{
    Config config = {0};
    for (uint32_t l = 0; l < spec->cluster.level_count; l++)
        config.domain[l] = whole || l < spec->replica_levels ? spec->cluster.levels[l].count : 1;
    return config;
}

// What a rank must hold for this configuration, exact for small models and extrapolated from two
// lowered prefixes of a deep one: beyond its first layers every period of `every` layers adds the same.
static double measure_memory(const Spec *spec, const Config *config, Dispatch dispatch)
{
    if (spec->model.abstract)
        return 0;
    uint32_t period = spec->model.every, layers = spec->model.layers, head = spec->model.first_dense;
    uint32_t shorter = head + (layers > head ? (layers - head) % period : 0) + STEADY_PERIODS * period;
    uint32_t longer = shorter + period;
    if (layers <= longer)
        return lower_arena_bytes(spec, config, dispatch, layers);
    double small = lower_arena_bytes(spec, config, dispatch, shorter);
    double large = lower_arena_bytes(spec, config, dispatch, longer);
    return large + (large - small) * ((layers - longer) / period);
}

static void price(const Workload *work, const Config *config, Dispatch dispatch, Candidate *candidate)
{
    candidate->config = *config;
    cost_iteration(work, config, dispatch, &candidate->cost);
    candidate->memory_bytes = measure_memory(work->spec, config, dispatch);
    candidate->fits = candidate->memory_bytes <= work->spec->cluster.device.memory_bytes;
}

static int compare_candidates(const void *a, const void *b)
{
    const Candidate *left = a, *right = b;
    double held_left = 1, held_right = 1;
    for (uint32_t l = 0; l < LEVELS_MAX; l++) {
        held_left *= fmax(1, left->config.domain[l]);
        held_right *= fmax(1, right->config.domain[l]);
    }
    if (held_left != held_right)
        return held_left < held_right ? -1 : 1;
    if (left->config.regather != right->config.regather)
        return left->config.regather ? 1 : -1;
    return memcmp(left->config.domain, right->config.domain, sizeof left->config.domain);
}

bool planner_enumerate(const Workload *work, Arena *arena, Diag *diag, Candidate **candidates, size_t *count)
{
    const Spec *spec = work->spec;
    uint32_t levels = spec->cluster.level_count;
    size_t choices[LEVELS_MAX], total = 1;
    for (uint32_t l = 0; l < levels; l++) {
        choices[l] = l < spec->replica_levels ? 1 : count_divisors(spec->cluster.levels[l].count);
        total *= choices[l];
        if (total > CANDIDATES_MAX) {
            diag_error(diag, spec->cluster_span, "cluster '%s' allows more than %d combinations of domain sizes",
                       spec->cluster.name, CANDIDATES_MAX);
            diag_help(diag, "fix them with 'domain = { ... }' in the plan block, or merge levels");
            return false;
        }
    }
    bool regather = spec->plan.pass == PASS_TRAINING;
    *candidates = arena_alloc_array(arena, total * 2, sizeof **candidates);
    *count = 0;
    for (size_t index = 0; index < total; index++) {
        Config config = uniform_config(spec, false);
        size_t rest = index;
        for (uint32_t l = levels; l-- > spec->replica_levels; rest /= choices[l])
            config.domain[l] = nth_divisor(spec->cluster.levels[l].count, rest % choices[l]);
        price(work, &config, spec->plan.dispatch, &(*candidates)[(*count)++]);
        if (regather && config_held_shards(spec, &config) > 1) {
            config.regather = true;
            price(work, &config, spec->plan.dispatch, &(*candidates)[(*count)++]);
        }
    }
    qsort(*candidates, *count, sizeof **candidates, compare_candidates);
    return true;
}

size_t planner_best(const Candidate *candidates, size_t count, size_t except)
{
    size_t best = count;
    for (size_t i = 0; i < count; i++)
        if (i != except && candidates[i].fits &&
            (best == count || candidates[i].cost.iteration_s < candidates[best].cost.iteration_s * (1 - 1e-12)))
            best = i;
    return best;
}

// ---- the programme ---------------------------------------------------------------------------

// Longer names are cut; other solvers read up to 255 characters.
enum { LP_NAME_MAX = 160 };

// One MoE layer's coefficients under one configuration, in time units.
typedef struct {
    double before, queue, after, backward_before, backward_queue, backward_compute, backward_after, reduce;
    double port_before[LEVELS_MAX], port_after[LEVELS_MAX];
    double backward_port_before[LEVELS_MAX], backward_port_after[LEVELS_MAX], port_reduce[LEVELS_MAX];
} Terms;

typedef struct {
    Milp *milp;
    const Workload *work;
    size_t count;
    int *choose; // binaries
    Terms *terms;
    double unit_s;
    bool port_used[LEVELS_MAX];
    // Columns of the layer before; -1 stands for time 0.
    int end, queue, port[LEVELS_MAX], returned;
} Formulation;

static double sum_levels(const double values[LEVELS_MAX])
{
    double total = 0;
    for (uint32_t l = 0; l < LEVELS_MAX; l++)
        total += values[l];
    return total;
}

static void fill_terms(const LayerCost *cost, const Config *config, double unit_s, Terms *terms)
{
    double dispatch = sum_levels(cost->dispatch_s), combine = sum_levels(cost->combine_s);
    double route = sum_levels(cost->route_s), gather = sum_levels(cost->gather_s) + cost->codec_s;
    *terms = (Terms){
        .before = (route + dispatch) / unit_s,
        .queue = gather / unit_s,
        .after = (cost->expert_s + combine) / unit_s,
        .backward_before = (route + combine) / unit_s,
        .backward_queue = config->regather ? gather / unit_s : 0,
        .backward_compute = 2 * cost->expert_s / unit_s,
        .backward_after = dispatch / unit_s,
        .reduce = sum_levels(cost->reduce_s) / unit_s,
    };
    for (uint32_t j = 0; j < LEVELS_MAX; j++) {
        terms->port_before[j] = (cost->port_gather_s[j] + cost->port_dispatch_s[j]) / unit_s;
        terms->port_after[j] = cost->port_combine_s[j] / unit_s;
        terms->backward_port_before[j] =
            (cost->port_combine_s[j] + (config->regather ? cost->port_gather_s[j] : 0)) / unit_s;
        terms->backward_port_after[j] = cost->port_dispatch_s[j] / unit_s;
        terms->port_reduce[j] = cost->port_reduce_s[j] / unit_s;
    }
}

static int add_time(Formulation *f, const char *what, uint32_t layer)
{
    char name[LP_NAME_MAX];
    snprintf(name, sizeof name, "%.120s_L%u", what, layer);
    return milp_add_continuous(f->milp, name, 0);
}

// later - earlier - sum_c coefficient(c) choose_c >= constant; `offset` locates the coefficient in Terms.
static void row_after(Formulation *f, const char *what, uint32_t layer, int later, int earlier, size_t offset,
                      double constant)
{
    char name[LP_NAME_MAX];
    snprintf(name, sizeof name, "%.120s_L%u", what, layer);
    milp_row_begin(f->milp, name);
    milp_row_term(f->milp, later, 1);
    if (earlier >= 0)
        milp_row_term(f->milp, earlier, -1);
    for (size_t c = 0; offset != SIZE_MAX && c < f->count; c++)
        milp_row_term(f->milp, f->choose[c], -*(const double *)((const char *)&f->terms[c] + offset));
    milp_row_end_at_least(f->milp, constant);
}

#define TERM(field) offsetof(Terms, field)
#define NO_TERM SIZE_MAX

static void formulate_ports(Formulation *f, const char *pass, uint32_t layer, int start, size_t before, size_t after)
{
    const Cluster *cluster = &f->work->spec->cluster;
    for (uint32_t j = 0; j < cluster->level_count; j++) {
        if (!f->port_used[j])
            continue;
        char name[LP_NAME_MAX];
        snprintf(name, sizeof name, "%sport_%s_before", pass, cluster->levels[j].name);
        int busy_before = add_time(f, name, layer);
        row_after(f, name, layer, busy_before, f->port[j], before + j * sizeof(double), 0);
        snprintf(name, sizeof name, "%sport_%s_free", pass, cluster->levels[j].name);
        row_after(f, name, layer, start, busy_before, NO_TERM, 0);
        snprintf(name, sizeof name, "%sport_%s", pass, cluster->levels[j].name);
        int busy = add_time(f, name, layer);
        row_after(f, name, layer, busy, busy_before, after + j * sizeof(double), 0);
        f->port[j] = busy;
    }
}

static void formulate_forward(Formulation *f, uint32_t layer)
{
    const LayerWork *work = &f->work->layers[layer];
    double pre = work->pre_expert_s / f->unit_s, dense = work->dense_s / f->unit_s;
    int end = add_time(f, "end", layer);
    if (!work->is_moe) {
        row_after(f, "dense", layer, end, f->end, NO_TERM, pre + dense);
        f->end = end;
        return;
    }
    int start = add_time(f, "start", layer), queue = add_time(f, "queue", layer);
    row_after(f, "gathered", layer, queue, f->queue, TERM(queue), 0);
    row_after(f, "tokens_there", layer, start, f->end, TERM(before), pre);
    row_after(f, "experts_there", layer, start, queue, NO_TERM, 0);
    formulate_ports(f, "", layer, start, TERM(port_before), TERM(port_after));
    row_after(f, "combined", layer, end, start, TERM(after), dense);
    f->end = end;
    f->queue = queue;
}

static void formulate_backward(Formulation *f, uint32_t layer)
{
    const LayerWork *work = &f->work->layers[layer];
    double rest = 2 * (work->pre_expert_s + work->dense_s) / f->unit_s;
    int end = add_time(f, "back_end", layer);
    if (!work->is_moe) {
        row_after(f, "back_dense", layer, end, f->end, NO_TERM, rest);
        f->end = end;
        return;
    }
    int start = add_time(f, "back_start", layer), queue = add_time(f, "back_queue", layer);
    int computed = add_time(f, "back_computed", layer), returned = add_time(f, "returned", layer);
    row_after(f, "back_gathered", layer, queue, f->queue, TERM(backward_queue), 0);
    row_after(f, "back_tokens_there", layer, start, f->end, TERM(backward_before), 0);
    // Without regathering the queue stands still at the start of the backward pass: no constraint.
    row_after(f, "back_experts_there", layer, start, queue, NO_TERM, 0);
    formulate_ports(f, "back_", layer, start, TERM(backward_port_before), TERM(backward_port_after));
    row_after(f, "back_compute", layer, computed, start, TERM(backward_compute), 0);
    row_after(f, "return_computed", layer, returned, computed, TERM(reduce), 0);
    if (f->returned >= 0)
        row_after(f, "return_queue", layer, returned, f->returned, TERM(reduce), 0);
    for (uint32_t j = 0; j < f->work->spec->cluster.level_count; j++) {
        if (!f->port_used[j])
            continue;
        char name[LP_NAME_MAX];
        snprintf(name, sizeof name, "return_port_%s", f->work->spec->cluster.levels[j].name);
        int busy = add_time(f, name, layer);
        row_after(f, name, layer, busy, f->port[j], TERM(port_reduce) + j * sizeof(double), 0);
        snprintf(name, sizeof name, "returned_port_%s", f->work->spec->cluster.levels[j].name);
        row_after(f, name, layer, returned, busy, NO_TERM, 0);
        f->port[j] = busy;
    }
    row_after(f, "back_combined", layer, end, computed, TERM(backward_after), rest);
    f->end = end;
    f->queue = queue;
    f->returned = returned;
}

static void formulate_choice(Formulation *f, const Candidate *candidates)
{
    const Cluster *cluster = &f->work->spec->cluster;
    for (size_t c = 0; c < f->count; c++) {
        char name[LP_NAME_MAX] = "use", part[40];
        for (uint32_t l = 0; l < cluster->level_count; l++) {
            snprintf(part, sizeof part, "_%.24s%u", cluster->levels[l].name, candidates[c].config.domain[l]);
            strncat(name, part, sizeof name - strlen(name) - 1);
        }
        if (candidates[c].config.regather)
            strncat(name, "_regather", sizeof name - strlen(name) - 1);
        f->choose[c] = milp_add_binary(f->milp, name, 0);
    }
    milp_row_begin(f->milp, "one_choice");
    for (size_t c = 0; c < f->count; c++)
        milp_row_term(f->milp, f->choose[c], 1);
    milp_row_end_equal(f->milp, 1);
    milp_row_begin(f->milp, "memory_share");
    for (size_t c = 0; c < f->count; c++)
        milp_row_term(f->milp, f->choose[c], candidates[c].memory_bytes / cluster->device.memory_bytes);
    milp_row_end_at_most(f->milp, 1);
}

Milp *planner_formulate(const Workload *work, const Candidate *candidates, size_t count, double *time_unit_s)
{
    const Spec *spec = work->spec;
    double longest_s = 0;
    for (size_t c = 0; c < count; c++)
        longest_s = fmax(longest_s, candidates[c].cost.iteration_s);
    double unit_s = longest_s > 0 ? pow(10, floor(log10(longest_s)) - 2) : 1; // times of 100 to 1000
    char name[160];
    snprintf(name, sizeof name, "hep %.48s on %.48s, times in units of %g s", spec->model.name, spec->cluster.name,
             unit_s);

    Arena *arena = arena_create();
    Formulation f = {.milp = milp_create(name), .work = work, .count = count, .unit_s = unit_s};
    f.choose = arena_alloc_array(arena, count, sizeof *f.choose);
    f.terms = arena_alloc_array(arena, count, sizeof *f.terms);
    f.end = f.queue = f.returned = -1;
    uint32_t moe = 0;
    while (moe < work->layer_count && !work->layers[moe].is_moe)
        moe++;
    for (uint32_t j = 0; j < LEVELS_MAX; j++)
        f.port[j] = -1;
    for (size_t c = 0; c < count; c++) {
        LayerCost cost;
        cost_layer(work, moe, &candidates[c].config, spec->plan.dispatch, &cost);
        fill_terms(&cost, &candidates[c].config, unit_s, &f.terms[c]);
        for (uint32_t j = 0; j < LEVELS_MAX; j++)
            f.port_used[j] = f.port_used[j] || f.terms[c].port_before[j] + f.terms[c].port_after[j] > 0;
    }
    formulate_choice(&f, candidates);
    int iteration = milp_add_continuous(f.milp, "iteration", 1);
    for (uint32_t k = 0; k < work->layer_count; k++)
        formulate_forward(&f, k);
    double loss = work->loss_s / unit_s;
    if (spec->plan.pass == PASS_FORWARD) {
        row_after(&f, "last", work->layer_count, iteration, f.end, NO_TERM, loss);
    } else {
        int middle = milp_add_continuous(f.milp, "forward_done", 0);
        row_after(&f, "forward", work->layer_count, middle, f.end, NO_TERM, loss);
        f.queue = middle;
        for (uint32_t j = 0; j < LEVELS_MAX; j++)
            f.port[j] = middle;
        int backward = milp_add_continuous(f.milp, "backward_begins", 0);
        row_after(&f, "loss", work->layer_count, backward, middle, NO_TERM, 2 * loss);
        f.end = backward;
        for (uint32_t k = work->layer_count; k-- > 0;)
            formulate_backward(&f, k);
        double tail = candidates[0].cost.tail_s / unit_s; // the same for every candidate
        row_after(&f, "last", work->layer_count, iteration, f.end, NO_TERM, tail);
        if (f.returned >= 0)
            row_after(&f, "last_return", work->layer_count, iteration, f.returned, NO_TERM, tail);
    }
    *time_unit_s = unit_s;
    arena_destroy(arena);
    return f.milp;
}

// ---- solving ---------------------------------------------------------------------------------

// Leaves the candidates that no other beats in both time and memory, at most MILP_CANDIDATES_MAX.
static size_t prune(const Candidate *all, size_t count, Candidate *kept)
{
    size_t left = 0;
    for (size_t i = 0; i < count; i++) {
        bool dominated = !all[i].fits;
        for (size_t j = 0; count > MILP_CANDIDATES_MAX && j < count && !dominated; j++)
            dominated = j != i && all[j].cost.iteration_s <= all[i].cost.iteration_s &&
                        all[j].memory_bytes <= all[i].memory_bytes &&
                        (j < i || all[j].cost.iteration_s < all[i].cost.iteration_s ||
                         all[j].memory_bytes < all[i].memory_bytes);
        if (!dominated)
            kept[left++] = all[i];
    }
    return left;
}

static double now_s(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void solve_programme(const Workload *work, Arena *arena, Solution *solution)
{
    MilpResult result = {.status = MILP_FAILED};
    double unit_s = 1;
    if (work->layer_count <= MILP_LAYERS_MAX) {
        Candidate *kept = arena_alloc_array(arena, solution->count, sizeof *kept);
        size_t left = prune(solution->candidates, solution->count, kept);
        Milp *milp = planner_formulate(work, kept, left, &unit_s);
        result = milp_solve(milp);
        milp_destroy(milp);
    }
    // With one choice for all layers the answer can be checked completely: price every candidate.
    // Among equals the canonical first is taken, so that the plan does not depend on GLPK's path.
    size_t best = planner_best(solution->candidates, solution->count, SIZE_MAX);
    double best_s = solution->candidates[best].cost.iteration_s;
    bool agrees = result.status == MILP_OPTIMAL && fabs(result.objective * unit_s - best_s) <= 1e-6 * best_s;
    solution->chosen = best;
    solution->objective_s = best_s;
    solution->status = STATUS_OPTIMAL;
    solution->solver = agrees ? milp_solver_name() : "enumeration";
}

// The next larger figure of three digits: what is advised must do when typed in.
static double round_up(double bytes)
{
    double unit = pow(10, floor(log10(bytes)) - 2);
    return ceil(bytes / unit) * unit;
}

static void report_too_big(const Workload *work, const Candidate *smallest, const char *subject, Diag *diag)
{
    const Spec *spec = work->spec;
    char need[FORMAT_MAX], have[FORMAT_MAX], missing[FORMAT_MAX], config[256];
    double memory = spec->cluster.device.memory_bytes;
    diag_error(diag, spec->memory_span, "%s: %s needs %s per GPU, the device has %s (%s missing)", subject,
               config_format(&spec->cluster, &smallest->config, config, sizeof config),
               format_bytes(need, round_up(smallest->memory_bytes)), format_bytes(have, memory),
               format_bytes(missing, smallest->memory_bytes - memory));
    Spec capped = *spec;
    capped.plan.capacity = 2;
    if (spec->plan.capacity == 0 && measure_memory(&capped, &smallest->config, spec->plan.dispatch) <= memory)
        diag_help(diag, "nothing may be dropped, so exchange buffers hold the worst case; "
                        "'capacity = 2' in the plan block bounds them at twice the balanced load, and fits");
    // A deep model's figure is extrapolated: one per cent more is certain to do.
    diag_help(diag, "or use more GPUs, a smaller batch, or 'memory = %s'",
              format_bytes(need, round_up(1.01 * smallest->memory_bytes)));
}

static size_t smallest_candidate(const Solution *solution)
{
    size_t smallest = 0;
    for (size_t i = 1; i < solution->count; i++)
        if (solution->candidates[i].memory_bytes < solution->candidates[smallest].memory_bytes)
            smallest = i;
    return smallest;
}

static bool choose_forced(const Workload *work, Arena *arena, Diag *diag, Solution *solution, bool *infeasible)
{
    const Spec *spec = work->spec;
    Config config = uniform_config(spec, spec->plan.domain_wish == DOMAIN_GATHER);
    if (spec->plan.domain_wish == DOMAIN_FORCED)
        memcpy(config.domain, spec->plan.domain, sizeof config.domain);
    solution->candidates = arena_alloc_array(arena, 1, sizeof *solution->candidates);
    solution->count = 1;
    price(work, &config, spec->plan.dispatch, solution->candidates);
    solution->status = STATUS_FORCED;
    solution->solver = "none";
    solution->objective_s = solution->candidates[0].cost.iteration_s;
    if (!solution->candidates[0].fits) {
        *infeasible = true;
        report_too_big(work, solution->candidates, "the forced domain does not fit", diag);
        return false;
    }
    return true;
}

bool planner_solve(const Workload *work, Arena *arena, Diag *diag, Solution *solution, bool *infeasible)
{
    const Spec *spec = work->spec;
    double begin_s = now_s();
    *infeasible = false;
    *solution = (Solution){0};
    if (spec->plan.domain_wish != DOMAIN_AUTO) {
        if (!choose_forced(work, arena, diag, solution, infeasible))
            return false;
    } else {
        if (!planner_enumerate(work, arena, diag, &solution->candidates, &solution->count))
            return false;
        if (planner_best(solution->candidates, solution->count, SIZE_MAX) == solution->count) {
            *infeasible = true;
            report_too_big(work, &solution->candidates[smallest_candidate(solution)],
                           "no plan fits: even the smallest", diag);
            return false;
        }
        solve_programme(work, arena, solution);
    }
    solution->runner_up = planner_best(solution->candidates, solution->count, solution->chosen);
    if (solution->runner_up == solution->count)
        solution->runner_up = solution->chosen;
    for (int b = 0; b < BASELINE_COUNT; b++) {
        Config config = uniform_config(spec, b == BASELINE_GATHER);
        price(work, &config, baseline_dispatch(b, spec), &solution->baselines[b]);
    }
    solution->solve_s = now_s() - begin_s;
    return true;
}
