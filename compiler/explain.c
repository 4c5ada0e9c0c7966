// See explain.h. Sensitivities are found by planning again with a changed bandwidth; memory does not
// depend on bandwidth, so the prices already known decide what fits.
#include "compiler/explain.h"

#include <math.h>
#include <string.h>

static void print_share(Text *out, const char *what, double part_s, double whole_s)
{
    char value[FORMAT_MAX];
    if (part_s > 0)
        text_format(out, "  %-34s %11s %5.1f %%\n", what, format_time(value, part_s), 100 * part_s / whole_s);
}

static void print_breakdown(const IterationCost *cost, Text *out)
{
    text_format(out, "where the iteration goes:\n");
    print_share(out, "token exchange", cost->exchange_s, cost->iteration_s);
    print_share(out, "waiting for experts or a busy port", cost->gather_wait_s, cost->iteration_s);
    print_share(out, "all-reduce of dense gradients", cost->all_reduce_s, cost->iteration_s);
    print_share(out, "pre-expert (attention, gate)", cost->pre_expert_s, cost->iteration_s);
    print_share(out, "experts", cost->expert_s, cost->iteration_s);
    print_share(out, "other computation", cost->other_s, cost->iteration_s);
}

// The chosen configuration's iteration with one limit lifted: the bandwidth and latency of a level,
// or (level == level_count) the computation.
static double lifted_s(const Workload *work, const Mix *mix, uint32_t level)
{
    Arena *arena = arena_create();
    Spec changed = *work->spec;
    if (level < changed.cluster.level_count) {
        changed.cluster.levels[level].bandwidth_bytes_per_s = 1e30;
        changed.cluster.levels[level].latency_s = changed.cluster.levels[level].overhead_s = 0;
        changed.outer = level == 0 ? NULL : changed.outer;
    } else {
        changed.cluster.device.compute_flops = changed.cluster.device.memory_bandwidth = 1e30;
        changed.model.pre_expert_s = changed.model.expert_compute_s = 0;
    }
    IterationCost cost;
    cost_mix(workload_derive(&changed, arena), mix, changed.plan.dispatch, &cost);
    arena_destroy(arena);
    return cost.iteration_s;
}

static void print_binding(const Workload *work, const Solution *solution, Text *out)
{
    const Cluster *cluster = &work->spec->cluster;
    double now_s = solution->cost.iteration_s, best_s = now_s;
    const char *binding = NULL;
    char value[FORMAT_MAX];
    text_append(out, "what binds: this plan's iteration if one limit were lifted\n");
    for (uint32_t l = 0; l <= cluster->level_count; l++) {
        const char *name = l < cluster->level_count ? cluster->levels[l].name : "computation";
        double without_s = lifted_s(work, &solution->mix, l);
        text_format(out, "  %-34s %11s %5.1f %% less\n", name, format_time(value, without_s),
                    now_s > 0 ? 100 * (1 - without_s / now_s) : 0);
        if (without_s < best_s * (1 - 1e-9)) {
            best_s = without_s;
            binding = name;
        }
    }
    if (binding)
        text_format(out, "bound by: %s\n", binding);
    else
        text_append(out, "bound by: several limits at once\n");
}

static void print_rivals(const Workload *work, const Solution *solution, Text *out)
{
    char domain[256], value[FORMAT_MAX];
    double chosen_s = solution->cost.iteration_s;
    if (solution->runner_up == solution->count) {
        text_append(out, solution->status == STATUS_FORCED ? "runner-up: none, the domain was forced\n"
                                                           : "runner-up: none\n");
    } else {
        const Candidate *rival = &solution->candidates[solution->runner_up];
        text_format(out, "runner-up: %s, %s (%.1f %% slower)\n",
                    config_format(&work->spec->cluster, &rival->config, domain, sizeof domain),
                    format_time(value, rival->cost.iteration_s),
                    100 * (rival->cost.iteration_s / chosen_s - 1));
    }
    size_t excluded = 0, faster = 0;
    for (size_t i = 0; i < solution->count; i++) {
        excluded += !solution->candidates[i].fits;
        faster += !solution->candidates[i].fits && solution->candidates[i].cost.iteration_s < chosen_s;
    }
    text_format(out, "%zu configurations considered", solution->count);
    if (excluded)
        text_format(out, ", %zu do not fit the memory, %zu of these would be faster", excluded, faster);
    text_append(out, "\n");
}

// The best candidate when the bandwidth of `level` is `factor` times what it is.
static size_t choice_at(const Workload *work, const Solution *solution, uint32_t level, double factor,
                        Candidate *scratch, Arena *arena)
{
    Spec changed = *work->spec;
    changed.cluster.levels[level].bandwidth_bytes_per_s *= factor;
    if (level == 0)
        changed.outer = outer_scale(changed.outer, factor, arena);
    Workload *other = workload_derive(&changed, arena);
    memcpy(scratch, solution->candidates, solution->count * sizeof *scratch);
    for (size_t i = 0; i < solution->count; i++)
        cost_iteration(other, &scratch[i].config, changed.plan.dispatch, &scratch[i].cost);
    return planner_best(scratch, solution->count, SIZE_MAX);
}

// The factor nearest to 1 in the direction of `step` at which the choice changes; 0 if none within
// a thousandfold. *other: the choice beyond it.
static double find_flip(const Workload *work, const Solution *solution, uint32_t level, double step,
                        Candidate *scratch, size_t *other)
{
    double near = 1, far = 1;
    Arena *arena = arena_create();
    do {
        near = far;
        far *= step;
        *other = choice_at(work, solution, level, far, scratch, arena);
    } while (*other == solution->uniform && far < 1e3 && far > 1e-3);
    for (int i = 0; *other != solution->uniform && i < 30 && fabs(far / near - 1) > 1e-3; i++) {
        double middle = sqrt(near * far);
        size_t choice = choice_at(work, solution, level, middle, scratch, arena);
        if (choice == solution->uniform) {
            near = middle;
        } else {
            far = middle;
            *other = choice;
        }
    }
    arena_destroy(arena);
    return *other == solution->uniform ? 0 : far;
}

static void print_sensitivity(const Workload *work, const Solution *solution, Arena *arena, Text *out)
{
    const Cluster *cluster = &work->spec->cluster;
    Candidate *scratch = arena_alloc_array(arena, solution->count, sizeof *scratch);
    char now[FORMAT_MAX], then[FORMAT_MAX], domain[256];
    text_append(out, "the choice flips, all else equal:\n");
    for (uint32_t l = 0; l < cluster->level_count; l++) {
        static const double steps[] = {0.8, 1.25};
        for (size_t direction = 0; direction < COUNT_OF(steps); direction++) {
            size_t other;
            double factor = find_flip(work, solution, l, steps[direction], scratch, &other);
            const char *word = direction ? "above" : "below";
            double bandwidth = cluster->levels[l].bandwidth_bytes_per_s;
            if (factor > 0)
                text_format(out, "  %s %s %s (now %s): domain %s\n", cluster->levels[l].name, word,
                            format_bandwidth(then, bandwidth * factor), format_bandwidth(now, bandwidth),
                            config_format(cluster, &solution->candidates[other].config, domain, sizeof domain));
            else
                text_format(out, "  %s %s: never within a thousandfold of %s\n", cluster->levels[l].name, word,
                            format_bandwidth(now, bandwidth));
        }
    }
}

// Runs of MoE layers with the same configuration.
static void print_runs(const Workload *work, const Solution *solution, Text *out)
{
    char domain[256];
    uint32_t moe = 0, first = 0;
    for (uint32_t k = 0; k < work->layer_count; k++) {
        if (!work->layers[k].is_moe)
            continue;
        const Config *config = &solution->mix.configs[moe];
        if (moe == 0 || !config_equal(config, config - 1))
            first = k;
        moe++;
        if (moe < work->moe_count && config_equal(config, config + 1))
            continue;
        text_format(out, "  layers %u..%u: domain %s\n", first, k,
                    config_format(&work->spec->cluster, config, domain, sizeof domain));
    }
}

void explain_print(const Workload *work, const Solution *solution, Arena *arena, Text *out)
{
    double chosen_s = solution->cost.iteration_s;
    char value[FORMAT_MAX], other[FORMAT_MAX];
    text_format(out, "chosen: %s per iteration (%s, solver %s)\n", format_time(value, chosen_s),
                status_name(solution->status), solution->solver);
    print_runs(work, solution, out);
    for (int b = 0; b < BASELINE_COUNT; b++)
        text_format(out, "  against %-9s %11s: %.2fx%s\n", baseline_names[b],
                    format_time(other, solution->baselines[b].cost.iteration_s),
                    solution->baselines[b].cost.iteration_s / chosen_s,
                    solution->baselines[b].fits ? "" : " (does not fit)");
    text_append(out, "\n");
    print_breakdown(&solution->cost, out);
    print_binding(work, solution, out);
    text_append(out, "\n");
    print_rivals(work, solution, out);
    if (solution->status != STATUS_FORCED)
        print_sensitivity(work, solution, arena, out);
}
