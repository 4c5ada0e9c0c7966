// See explain.h. Collects the records: runs and their rivals, limits lifted one by one, more bandwidth.
#include "compiler/explain/explain.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "compiler/solve/footprint.h"
#include "ir/base/tasks.h"
#include "ir/codec.h"

const double EXPLAIN_STEP = 1e9 / 8;

static const double UNLIMITED = 1e30;
static const double NEGLIGIBLE = 1e-9; // of the iteration: what is not a part but rounding

enum {
    PRICES_MAX = 4000000, // layers priced for runner-ups, before only the most promising are looked at
    RIVALS_MIN = 8,
};

// ---- runs ------------------------------------------------------------------------------------

size_t explain_runs(const Workload *work, const Config *configs, bool kinds, ConfigRun *out)
{
    size_t count = 0;
    uint32_t moe = 0, kind = 0;
    for (uint32_t k = 0; k < work->layer_count; k++) {
        if (!work->layers[k].is_moe)
            continue;
        const Config *config = &configs[moe++];
        if (count == 0 || !config_equal(config, &out[count - 1].config) || (kinds && work->layers[k].kind != kind))
            out[count++] = (ConfigRun){.first_layer = k, .config = *config};
        kind = work->layers[k].kind;
        out[count - 1].last_layer = k;
        out[count - 1].moe_layers++;
    }
    return count;
}

typedef struct {
    const Workload *work;
    const Solution *solution;
    const Candidate *candidates; // all there are, where a choice was forced too
    size_t count;
    double *price_s; // [count]: of the mix with that candidate in the run that is looked at
    bool *excluded;  // [count]: by memory
    Config *changed; // [moe_count]
} Rivalry;

static void set_run(Rivalry *r, uint32_t first_moe, uint32_t count, const Config *config)
{
    for (uint32_t i = 0; i < count; i++)
        r->changed[first_moe + i] = *config;
}

// The cheapest that fits; of those with another size at `level`, unless that is LEVELS_MAX.
static Rival find_rival(Rivalry *r, const ExplainRun *run, uint32_t first_moe, uint32_t level)
{
    for (;;) {
        size_t best = r->count;
        for (size_t c = 0; c < r->count; c++) {
            const Config *config = &r->candidates[c].config;
            bool other = level == LEVELS_MAX ? !config_equal(config, &run->run.config)
                                             : config->domain[level] != run->run.config.domain[level];
            if (other && !r->excluded[c] && (best == r->count || r->price_s[c] < r->price_s[best]))
                best = c;
        }
        if (best == r->count || !isfinite(r->price_s[best]))
            return (Rival){0};
        const Config *config = &r->candidates[best].config;
        set_run(r, first_moe, run->run.moe_layers, config);
        const Mix mix = {.configs = r->changed, .prefetch = r->solution->mix.prefetch};
        r->excluded[best] = !footprint_mix_fits(r->work, &mix);
        if (!r->excluded[best])
            return (Rival){.found = true, .config = *config, .iteration_s = r->price_s[best]};
    }
}

// Where there are very many candidates only those are priced that are best for all layers alike.
static double price_cutoff(const Rivalry *r, size_t runs)
{
    size_t affordable = PRICES_MAX / (runs * r->work->layer_count);
    affordable = affordable < RIVALS_MIN ? RIVALS_MIN : affordable;
    if (r->count <= affordable)
        return INFINITY;
    double low = 0, high = 0;
    for (size_t c = 0; c < r->count; c++)
        high = fmax(high, r->candidates[c].cost.iteration_s);
    for (int step = 0; step < 60; step++) {
        double middle = (low + high) / 2;
        size_t below = 0;
        for (size_t c = 0; c < r->count; c++)
            below += r->candidates[c].cost.iteration_s <= middle;
        *(below > affordable ? &high : &low) = middle;
    }
    return low;
}

static void explain_run(Rivalry *r, uint32_t first_moe, double cutoff_s, ExplainRun *run)
{
    Mix mix = {.configs = r->changed, .prefetch = r->solution->mix.prefetch};
    memcpy(r->changed, r->solution->mix.configs, r->work->moe_count * sizeof(*r->changed));
    memset(r->excluded, 0, r->count * sizeof(*r->excluded));
    for (size_t c = 0; c < r->count; c++) {
        r->price_s[c] = INFINITY;
        if (r->candidates[c].cost.iteration_s > cutoff_s)
            continue;
        set_run(r, first_moe, run->run.moe_layers, &r->candidates[c].config);
        IterationCost cost;
        cost_mix(r->work, &mix, r->work->spec->plan.dispatch, &cost);
        r->price_s[c] = cost.iteration_s;
    }
    run->runner_up = find_rival(r, run, first_moe, LEVELS_MAX);
    for (uint32_t l = 0; l < r->work->spec->cluster.level_count; l++)
        run->at_level[l] = find_rival(r, run, first_moe, l);
}

static void collect_runs(const Workload *work, const Solution *solution, Arena *arena, Explanation *out)
{
    ConfigRun *runs = arena_alloc_array(arena, work->moe_count + 1, sizeof(*runs));
    out->run_count = explain_runs(work, solution->mix.configs, true, runs);
    out->runs = arena_alloc_array(arena, out->run_count + 1, sizeof(*out->runs));
    Arena *scratch = arena_create();
    Rivalry r = {.work = work, .solution = solution, .candidates = solution->candidates, .count = solution->count};
    if (solution->status == STATUS_FORCED) {
        Candidate *all;
        r.count = 0;
        if (planner_enumerate(work, scratch, diag_create(scratch), &all, &r.count))
            r.candidates = all;
        else
            r.count = 0; // too many to look at
    }
    r.price_s = arena_alloc_array(scratch, r.count + 1, sizeof(*r.price_s));
    r.excluded = arena_alloc_array(scratch, r.count + 1, sizeof(*r.excluded));
    r.changed = arena_alloc_array(scratch, work->moe_count + 1, sizeof(*r.changed));
    double cutoff_s = out->run_count ? price_cutoff(&r, out->run_count) : 0;
    uint32_t first_moe = 0;
    for (size_t i = 0; i < out->run_count; i++) {
        out->runs[i] = (ExplainRun){.run = runs[i]};
        explain_run(&r, first_moe, cutoff_s, &out->runs[i]);
        first_moe += runs[i].moe_layers;
    }
    arena_destroy(scratch);
}

// ---- limits ----------------------------------------------------------------------------------

// No gather takes time in the queue, on a port or in the codec, but for its latency.
static void lift_gathers(const Workload *work, Workload *changed, Spec *spec, Arena *arena)
{
    changed->layers = arena_alloc_array(arena, work->layer_count, sizeof(*changed->layers));
    memcpy(changed->layers, work->layers, work->layer_count * sizeof(*changed->layers));
    for (uint32_t k = 0; k < work->layer_count; k++)
        changed->layers[k].sent_bytes = 0;
    spec->plan.experts.codec = CODEC_DENSE;
    spec->plan.experts.whole_levels = 0;
    workload_set_spec(changed, spec);
}

static double lifted_s(const Workload *work, const Solution *solution, const ExplainLimit *limit)
{
    Arena *arena = arena_create();
    Spec spec = *work->spec;
    Workload same = *work, *changed = &same;
    workload_set_spec(&same, &spec);
    switch (limit->kind) {
    case LIMIT_LINK:
        spec.cluster.levels[limit->level].bandwidth_bytes_per_s = UNLIMITED;
        spec.cluster.levels[limit->level].latency_s = spec.cluster.levels[limit->level].overhead_s = 0;
        spec.outer = limit->level == 0 ? NULL : spec.outer;
        break;
    case LIMIT_GATHER_QUEUE:
        lift_gathers(work, changed, &spec, arena);
        break;
    case LIMIT_COMPUTE:
        spec.cluster.device.compute_flops = spec.cluster.device.memory_bandwidth = UNLIMITED;
        spec.model.times = NULL;
        spec.model.pre_expert_s = spec.model.expert_compute_s = 0;
        spec.model.each[VOLUME_PRE_EXPERT] = spec.model.each[VOLUME_EXPERT_COMPUTE] = NULL;
        changed = workload_derive(&spec, arena);
        break;
    case LIMIT_MEMORY: // lifted by planning again, not here
        break;
    }
    IterationCost cost;
    cost_mix(changed, &solution->mix, spec.plan.dispatch, &cost);
    arena_destroy(arena);
    return cost.iteration_s;
}

// The best plan with one quantity at `value`, or the same plan if that is better: what is found again with less
// effort may be worse.
static double replanned_s(const Workload *work, const PlannerOptions *options, const Solution *solution,
                          Quantity quantity, uint32_t level, double value)
{
    Arena *arena = arena_create();
    const Workload *changed = explain_change(work, quantity, level, value, arena);
    PlannerOptions again = explain_options(options);
    IterationCost kept;
    cost_mix(changed, &solution->mix, changed->spec->plan.dispatch, &kept);
    again.cutoff_s = kept.iteration_s;
    Solution other;
    bool infeasible;
    double best_s = kept.iteration_s;
    if (solution->status != STATUS_FORCED &&
        planner_solve(changed, &again, arena, diag_create(arena), &other, &infeasible))
        best_s = fmin(best_s, other.objective_s);
    arena_destroy(arena);
    return best_s;
}

const char *limit_name(const Cluster *cluster, const ExplainLimit *limit, char *out, size_t size)
{
    switch (limit->kind) {
    case LIMIT_LINK:
        snprintf(out, size, "links of level %s", cluster->levels[limit->level].name);
        break;
    case LIMIT_GATHER_QUEUE:
        snprintf(out, size, "gather queue");
        break;
    case LIMIT_COMPUTE:
        snprintf(out, size, "computation");
        break;
    case LIMIT_MEMORY:
        snprintf(out, size, "memory");
        break;
    }
    return out;
}

// ---- all together ----------------------------------------------------------------------------

// What plans again, once or more often: each by itself, on a thread of its own.
typedef struct Inquiry {
    void (*run)(const ExplainedChoice *choice, const struct Inquiry *of, Arena *arena);
    Quantity quantity;
    uint32_t number; // the level, or micro-batches
    void *record;    // of the kind that `run` fills
} Inquiry;

enum { INQUIRIES_MAX = SENSITIVITIES_MAX + 2 * LEVELS_MAX + 1 + MICRO_BATCH_ROWS_MAX + 1 };

typedef struct {
    const ExplainedChoice *choice;
    Inquiry list[INQUIRIES_MAX];
    Arena *arenas[INQUIRIES_MAX]; // of what records point to
    uint32_t count;
} Inquiries;

static void inquire_sensitivity(const ExplainedChoice *choice, const Inquiry *of, Arena *arena)
{
    *(Sensitivity *)of->record = explain_sensitivity(choice, of->quantity, of->number, arena);
}

static void inquire_even(const ExplainedChoice *choice, const Inquiry *of, Arena *arena)
{
    (void)arena;
    *(EvenPoint *)of->record = explain_even(choice->work, choice->options, choice->solution, of->number);
}

static void inquire_micro_row(const ExplainedChoice *choice, const Inquiry *of, Arena *arena)
{
    *(MicroBatchRow *)of->record = explain_micro_row(choice, of->number, arena);
}

static void inquire_more(const ExplainedChoice *choice, const Inquiry *of, Arena *arena)
{
    MoreBandwidth *more = of->record;
    const Workload *work = choice->work;
    double then = more->now_bytes_per_s + EXPLAIN_STEP;
    Arena *scratch = arena_create();
    const Workload *changed = explain_change(work, QUANTITY_BANDWIDTH, of->number, then, scratch);
    IterationCost cost;
    cost_mix(changed, &choice->solution->mix, changed->spec->plan.dispatch, &cost);
    more->iteration_s = cost.iteration_s;
    more->replanned_s = replanned_s(work, choice->options, choice->solution, QUANTITY_BANDWIDTH, of->number, then);
    arena_destroy(scratch);
    (void)arena;
}

static void inquire_memory(const ExplainedChoice *choice, const Inquiry *of, Arena *arena)
{
    (void)arena;
    *(double *)of->record = replanned_s(choice->work, choice->options, choice->solution, QUANTITY_MEMORY, 0, UNLIMITED);
}

static void add_inquiry(Inquiries *all, Inquiry inquiry)
{
    all->list[all->count++] = inquiry;
}

// With a table of footprints of its own, which begins as all know.
static void run_inquiry(void *context, uint32_t index)
{
    const Inquiries *all = context;
    const Inquiry *of = &all->list[index];
    Arena *scratch = arena_create();
    ExplainedChoice choice = *all->choice;
    Spec spec = *choice.work->spec;
    Workload work = *choice.work;
    spec.footprints = spec.footprints ? footprint_table_beside(spec.footprints, scratch) : NULL;
    workload_set_spec(&work, &spec);
    choice.work = &work;
    of->run(&choice, of, all->arenas[index]);
    arena_destroy(scratch);
}

static void run_inquiries(Inquiries *all, Arena *arena)
{
    for (uint32_t i = 0; i < all->count; i++)
        all->arenas[i] = arena_create();
    tasks_run(run_inquiry, all, all->count);
    for (uint32_t i = 0; i < all->count; i++)
        arena_join(arena, all->arenas[i]);
}

static void ask_sensitivity(Inquiries *all, Explanation *out, Quantity quantity, uint32_t level)
{
    add_inquiry(all, (Inquiry){.run = inquire_sensitivity,
                               .quantity = quantity,
                               .number = level,
                               .record = &out->sensitivities[out->sensitivity_count++]});
}

static void ask_even(Inquiries *all, Explanation *out, uint32_t level)
{
    add_inquiry(all, (Inquiry){.run = inquire_even, .number = level, .record = &out->even[out->even_count++]});
}

static void ask_sensitivities(Inquiries *all, Explanation *out)
{
    const Spec *spec = all->choice->work->spec;
    uint32_t numbers[MICRO_BATCH_ROWS_MAX];
    out->micro_count = explain_micro_batches(all->choice, numbers);
    for (uint32_t i = 0; i < out->micro_count; i++)
        add_inquiry(all, (Inquiry){.run = inquire_micro_row, .number = numbers[i], .record = &out->micro[i]});
    for (uint32_t l = 0; l < spec->cluster.level_count; l++)
        if (spec->cluster.levels[l].count > 1)
            ask_sensitivity(all, out, QUANTITY_BANDWIDTH, l);
    ask_sensitivity(all, out, QUANTITY_BATCH, 0);
    if (codec_info(spec->plan.experts.codec)->encodes && packet_has_ratio(coding_packing(&spec->plan.experts).form))
        ask_sensitivity(all, out, QUANTITY_RATIO, 0);
    if (!spec->model.abstract)
        ask_sensitivity(all, out, QUANTITY_MEMORY, 0);
    for (uint32_t l = 0; l < spec->cluster.level_count; l++)
        if (spec->cluster.levels[l].count > 1)
            ask_even(all, out, l);
    if (out->even_count > 1)
        ask_even(all, out, LEVELS_MAX);
}

static void ask_limits(Inquiries *all, Explanation *out)
{
    const Workload *work = all->choice->work;
    const Spec *spec = work->spec;
    for (uint32_t l = 0; l < spec->cluster.level_count; l++)
        if (spec->cluster.levels[l].count > 1)
            out->limits[out->limit_count++] = (ExplainLimit){.kind = LIMIT_LINK, .level = l};
    out->limits[out->limit_count++] = (ExplainLimit){.kind = LIMIT_GATHER_QUEUE};
    out->limits[out->limit_count++] = (ExplainLimit){.kind = LIMIT_COMPUTE};
    if (!spec->model.abstract)
        out->limits[out->limit_count++] = (ExplainLimit){.kind = LIMIT_MEMORY};
    for (uint32_t i = 0; i < out->limit_count; i++) {
        ExplainLimit *limit = &out->limits[i];
        if (limit->kind == LIMIT_MEMORY)
            add_inquiry(all, (Inquiry){.run = inquire_memory, .record = &limit->iteration_s});
        else
            limit->iteration_s = lifted_s(work, all->choice->solution, limit);
    }
}

static void find_binding(Explanation *out)
{
    double least_s = out->solution->cost.iteration_s * (1 - EXPLAIN_MARGIN);
    out->binding = out->limit_count;
    for (uint32_t i = 0; i < out->limit_count; i++) {
        if (out->limits[i].iteration_s < least_s) {
            least_s = out->limits[i].iteration_s;
            out->binding = i;
        }
    }
}

static void ask_more(Inquiries *all, Explanation *out)
{
    const Workload *work = all->choice->work;
    for (uint32_t l = 0; l < work->spec->cluster.level_count; l++) {
        if (work->spec->cluster.levels[l].count < 2)
            continue;
        MoreBandwidth *more = &out->more[out->more_count++];
        *more = (MoreBandwidth){.level = l, .now_bytes_per_s = explain_now(work, QUANTITY_BANDWIDTH, l)};
        add_inquiry(all, (Inquiry){.run = inquire_more, .number = l, .record = more});
    }
}

// What the planner would have chosen.
static double free_choice_s(const Workload *work, const PlannerOptions *options)
{
    Arena *arena = arena_create();
    Spec spec = *work->spec;
    spec.plan.domain_request = DOMAIN_AUTO;
    Workload free_work = *work;
    workload_set_spec(&free_work, &spec);
    PlannerOptions again = explain_options(options);
    Solution solution;
    bool infeasible;
    bool solved = planner_solve(&free_work, &again, arena, diag_create(arena), &solution, &infeasible);
    double result_s = solved ? solution.objective_s : 0;
    arena_destroy(arena);
    return result_s;
}

static double counted_s(const Workload *work, const Solution *solution)
{
    Spec spec;
    Workload counted = workload_counted(work, &spec);
    IterationCost cost;
    cost_mix(&counted, &solution->mix, spec.plan.dispatch, &cost);
    return cost.iteration_s;
}

uint32_t explain_parts(const Explanation *e, ExplainPart parts[EXPLAIN_PARTS_MAX])
{
    const IterationCost *cost = &e->solution->cost;
    const ExplainPart all[] = {
        {"token exchange", cost->exchange_s},
        {"waiting for gathered experts", cost->gather_wait_s - e->gradient_wait_s},
        {"waiting for gradients on the ports", e->gradient_wait_s},
        {"gradients after the backward pass", cost->return_s},
        {"pre-expert (attention, gate)", cost->pre_expert_s},
        {"experts", cost->expert_s},
        {"other computation", cost->other_s},
    };
    uint32_t count = 0;
    for (size_t i = 0; i < COUNT_OF(all); i++)
        if (all[i].time_s > NEGLIGIBLE * cost->iteration_s)
            parts[count++] = all[i];
    return count;
}

void explain_collect(const Workload *work, const PlannerOptions *options, const Solution *solution, Arena *arena,
                     Explanation *out)
{
    *out = (Explanation){.work = work, .solution = solution, .is_too_deep = work->layer_count > EXPLAIN_LAYERS_MAX};
    out->gradient_wait_s = cost_gradient_wait_s(work, &solution->mix, work->spec->plan.dispatch);
    bool is_forced = solution->status == STATUS_FORCED, probes = !is_forced && !out->is_too_deep;
    const ExplainedChoice choice = {work, options, solution, probes ? explain_slack(work, options, solution) : 0};
    collect_runs(work, solution, arena, out);
    if (work->spec->plan.exchange == EXCHANGE_PADDED)
        out->counted_s = counted_s(work, solution);
    if (is_forced)
        out->free_s = free_choice_s(work, options);
    Inquiries all = {.choice = &choice};
    if (probes)
        ask_sensitivities(&all, out);
    ask_limits(&all, out);
    ask_more(&all, out);
    run_inquiries(&all, arena);
    find_binding(out);
}
