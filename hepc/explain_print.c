// The explanation as text. Keeps to the lines that scripts/demo cuts out: "where" to "bound by".
#include <math.h>
#include <stdio.h>

#include "hepc/explain_print.h"

enum { RUNS_SHOWN = 3 };

// ---- what was chosen -------------------------------------------------------------------------

const char *explain_format_layers(const ConfigRun *run, char *out, size_t size)
{
    if (run->first_layer == run->last_layer)
        snprintf(out, size, "layer %u", run->first_layer);
    else
        snprintf(out, size, "layers %u..%u", run->first_layer, run->last_layer);
    return out;
}

static void print_rival(const Explanation *e, const Rival *rival, Text *out)
{
    char domain[256], value[FORMAT_MAX];
    double percent = 100 * (rival->iteration_s / e->solution->cost.iteration_s - 1);
    text_format(out, "%s: %s, %.2f %% %s\n",
                config_format(&e->work->spec->cluster, &rival->config, domain, sizeof(domain)),
                format_time(value, rival->iteration_s), fabs(percent), percent < 0 ? "faster" : "slower");
}

static void print_runs(const Explanation *e, Text *out)
{
    const Cluster *cluster = &e->work->spec->cluster;
    char layers[64], domain[256];
    for (size_t i = 0; i < e->run_count; i++) {
        const ExplainRun *run = &e->runs[i];
        text_format(out, "  %s: domain %s\n", explain_format_layers(&run->run, layers, sizeof(layers)),
                    config_format(cluster, &run->run.config, domain, sizeof(domain)));
        if (e->is_too_deep)
            continue;
        text_append(out, "    runner-up ");
        if (!run->runner_up.found) {
            text_append(out, "none\n");
            continue;
        }
        print_rival(e, &run->runner_up, out);
        for (uint32_t l = 0; l < cluster->level_count; l++) {
            if (!run->at_level[l].found)
                continue;
            text_format(out, "      not %s=%u but ", cluster->levels[l].name, run->run.config.domain[l]);
            print_rival(e, &run->at_level[l], out);
        }
    }
}

static void print_choice(const Explanation *e, Text *out)
{
    const Solution *solution = e->solution;
    double chosen_s = solution->cost.iteration_s;
    char value[FORMAT_MAX];
    text_format(out, "chosen: %s per iteration (%s, solver %s)\n", format_time(value, chosen_s),
                status_name(solution->status), solution->solver);
    print_runs(e, out);
    for (int b = 0; b < BASELINE_COUNT; b++) {
        if (!planner_has_baseline(b, e->work->spec))
            continue;
        text_format(out, "  against %-9s %11s: %.2fx%s\n", baseline_names[b],
                    format_time(value, solution->baselines[b].cost.iteration_s),
                    solution->baselines[b].cost.iteration_s / chosen_s,
                    solution->baselines[b].fits ? "" : " (does not fit)");
    }
    if (e->free_s > 0)
        text_format(out, "  the choice was forced; the planner's own takes %s (%.2fx)\n", format_time(value, e->free_s),
                    chosen_s / e->free_s);
    if (e->counted_s > 0)
        text_format(out, "  exchanges are padded: counted messages would make it %s, %.2f %% %s\n",
                    format_time(value, e->counted_s), 100 * fabs(1 - e->counted_s / chosen_s),
                    e->counted_s > chosen_s ? "slower" : "faster");
    size_t excluded = 0, faster = 0;
    for (size_t i = 0; i < solution->count; i++) {
        excluded += !solution->candidates[i].fits;
        faster += !solution->candidates[i].fits && solution->candidates[i].cost.iteration_s < chosen_s;
    }
    if (solution->status == STATUS_FORCED)
        return;
    text_format(out, "  %zu configurations considered", solution->count);
    if (excluded)
        text_format(out, "; %zu do not fit in all layers, %zu of these would be faster", excluded, faster);
    text_append(out, "\n");
}

// ---- where the time goes ---------------------------------------------------------------------

static void print_breakdown(const Explanation *e, Text *out)
{
    ExplainPart parts[EXPLAIN_PARTS_MAX];
    uint32_t count = explain_parts(e, parts);
    char value[FORMAT_MAX];
    text_append(out, "where the iteration goes:\n");
    for (uint32_t i = 0; i < count; i++)
        text_format(out, "  %-34s %11s %5.1f %%\n", parts[i].name, format_time(value, parts[i].time_s),
                    100 * parts[i].time_s / e->solution->cost.iteration_s);
}

static double percent_less(double now_s, double then_s)
{
    return now_s > 0 ? 100 * (1 - then_s / now_s) : 0;
}

static void print_limits(const Explanation *e, Text *out)
{
    const Cluster *cluster = &e->work->spec->cluster;
    double now_s = e->solution->cost.iteration_s;
    char value[FORMAT_MAX], name[128];
    text_append(out, "what binds: the iteration if one limit were lifted\n");
    for (uint32_t i = 0; i < e->limit_count; i++) {
        double less = percent_less(now_s, e->limits[i].iteration_s);
        text_format(out, "  %-34s %11s %5.1f %% %s\n", limit_name(cluster, &e->limits[i], name, sizeof(name)),
                    format_time(value, e->limits[i].iteration_s), fabs(less), less < -0.05 ? "more" : "less");
    }
    if (e->binding < e->limit_count)
        text_format(out, "bound by: %s\n", limit_name(cluster, &e->limits[e->binding], name, sizeof(name)));
    else
        text_append(out, "bound by: several limits at once\n");
}

// ---- sensitivities ---------------------------------------------------------------------------

const char *explain_format_quantity(const Explanation *e, Quantity quantity, double value, char out[FORMAT_MAX])
{
    switch (quantity) {
    case QUANTITY_BANDWIDTH:
        return format_bandwidth(out, value);
    case QUANTITY_MEMORY:
        return format_bytes(out, value);
    case QUANTITY_BATCH:
        snprintf(out, FORMAT_MAX, e->work->spec->model.abstract ? "%.3gx the volumes" : "%.0f", value);
        return out;
    case QUANTITY_RATIO:
        snprintf(out, FORMAT_MAX, "%.4g", value);
        return out;
    }
    return out;
}

void explain_append_choice(const Explanation *e, const Flip *flip, Text *out)
{
    const Workload *work = e->work;
    const Mix *mix = &e->solution->mix;
    Arena *arena = arena_create();
    ConfigRun *runs = arena_alloc_array(arena, work->moe_count, sizeof(*runs));
    size_t count = explain_runs(work, flip->configs, false, runs);
    char layers[64], domain[256];
    bool same = true;
    for (uint32_t i = 0; i < work->moe_count; i++)
        same = same && config_equal(&flip->configs[i], &mix->configs[i]);
    for (size_t i = 0; i < count && i < RUNS_SHOWN && !same; i++)
        text_format(out, "%s%s%s%s", i ? "; " : "",
                    count > 1 ? explain_format_layers(&runs[i], layers, sizeof(layers)) : "", count > 1 ? " " : "",
                    config_format(&work->spec->cluster, &runs[i].config, domain, sizeof(domain)));
    if (count > RUNS_SHOWN && !same)
        text_format(out, "; and %zu more runs", count - RUNS_SHOWN);
    if (same)
        text_append(out, "the same domains");
    if (flip->prefetch != mix->prefetch && flip->prefetch != PREFETCH_UNLIMITED)
        text_format(out, flip->prefetch ? ", gathers at most %u layer%s ahead" : ", gathers no layer ahead",
                    flip->prefetch, flip->prefetch == 1 ? "" : "s");
    else if (flip->prefetch != mix->prefetch)
        text_append(out, ", gathers as far ahead as they get");
    arena_destroy(arena);
}

const char *explain_flip_at(const Sensitivity *s, const Flip *flip)
{
    return fabs(log(flip->value / s->now)) < 0.005 ? "already at" : "at";
}

static void print_flip(const Explanation *e, const Sensitivity *s, const Flip *flip, const char *word, Text *out)
{
    char value[FORMAT_MAX];
    if (flip->searched == s->now)
        return;
    if (flip->outcome == FLIP_NONE) {
        text_format(out, "    %s: not up to %s\n", word,
                    explain_format_quantity(e, s->quantity, flip->searched, value));
        return;
    }
    text_format(out, "    %s: %s %s ", word, explain_flip_at(s, flip),
                explain_format_quantity(e, s->quantity, flip->value, value));
    if (fabs(log(flip->value / flip->holds)) > 0.01)
        text_format(out, "(not yet at %s) ", explain_format_quantity(e, s->quantity, flip->holds, value));
    if (flip->outcome == FLIP_NOTHING_FITS) {
        text_append(out, "nothing fits the memory\n");
        return;
    }
    explain_append_choice(e, flip, out);
    if (flip->kept_fits)
        text_format(out, " (%.1f %% faster there)\n", percent_less(flip->kept_s, flip->other_s));
    else
        text_append(out, " (the old choice does not fit there)\n");
}

static void print_sensitivities(const Explanation *e, Text *out)
{
    char now[FORMAT_MAX], margin[FORMAT_MAX];
    if (e->is_too_deep)
        text_format(out,
                    "\nwhat other choices would take, and where one is faster, is not looked for in models of more "
                    "than %d layers\n",
                    EXPLAIN_LAYERS_MAX);
    if (e->sensitivity_count == 0)
        return;
    text_format(out, "\nwhere another choice is more than %s %% faster, all else equal:\n",
                format_double(margin, 100 * EXPLAIN_MARGIN));
    for (uint32_t i = 0; i < e->sensitivity_count; i++) {
        const Sensitivity *s = &e->sensitivities[i];
        const char *level = s->quantity == QUANTITY_BANDWIDTH ? e->work->spec->cluster.levels[s->level].name : "";
        bool slowest = s->quantity == QUANTITY_BANDWIDTH && s->level == 0 && e->work->spec->outer;
        text_format(out, "  %s%s%s, now %s%s\n", level, *level ? " " : "", quantity_name(s->quantity),
                    explain_format_quantity(e, s->quantity, s->now, now),
                    slowest ? " at the slowest port, the others in proportion" : "");
        print_flip(e, s, &s->below, "less", out);
        print_flip(e, s, &s->above, "more", out);
    }
}

const char *explain_format_links(const EvenPoint *even, double value, char out[FORMAT_MAX])
{
    if (even->level < LEVELS_MAX)
        return format_bandwidth(out, value);
    snprintf(out, FORMAT_MAX, "%.3gx", value);
    return out;
}

void explain_append_even(const EvenPoint *even, Text *out)
{
    char value[FORMAT_MAX], holds[FORMAT_MAX];
    explain_format_links(even, even->value, value);
    explain_format_links(even, even->holds, holds);
    if (even->as_good && even->found)
        text_format(out, "now, and still at %s, no longer at %s", holds, value);
    else if (even->as_good)
        text_append(out, "now, and with any less");
    else if (even->found)
        text_format(out, "from %s on, not yet at %s", value, holds);
    else
        text_format(out, "at no bandwidth: even unlimited, it takes %.2fx as long", even->ep_s / even->best_s);
}

static void print_even(const Explanation *e, Text *out)
{
    char now[FORMAT_MAX];
    if (e->even_count == 0)
        return;
    text_format(out, "\nwhere plain EP, deduplicated, is as good as the best plan, within %g %%, all else equal%s:\n",
                100 * EXPLAIN_EVEN,
                e->solution->baselines[BASELINE_EP_DEDUP].fits ? "" : " (it does not fit the memory)");
    for (uint32_t i = 0; i < e->even_count; i++) {
        const EvenPoint *even = &e->even[i];
        if (even->level < LEVELS_MAX)
            text_format(out, "  %s bandwidth, now %s: ", e->work->spec->cluster.levels[even->level].name,
                        explain_format_links(even, even->now, now));
        else
            text_append(out, "  all bandwidths, in proportion: ");
        explain_append_even(even, out);
        text_append(out, "\n");
    }
}

void explain_append_micro_batches(const Explanation *e, const MicroBatchRow *row, Text *out)
{
    const Flip choice = {.configs = row->configs, .prefetch = row->prefetch};
    if (!row->fits) {
        text_append(out, "nothing fits the memory");
        return;
    }
    if (row->micro_batches == e->work->spec->plan.micro_batches)
        text_append(out, "now");
    else
        explain_append_choice(e, &choice, out);
    if (row->recomputes)
        text_append(out, ", activations recomputed");
}

static void print_micro_batches(const Explanation *e, Text *out)
{
    char each[FORMAT_MAX], all[FORMAT_MAX];
    if (e->micro_count == 0)
        return;
    text_format(out,
                "\nwhat micro-batches would make of an iteration, with the best choice for each number:\n"
                "  %-6s %12s %12s\n",
                "number", "of each", "iteration");
    for (uint32_t i = 0; i < e->micro_count; i++) {
        const MicroBatchRow *row = &e->micro[i];
        text_format(out, "  %-6u %12s %12s  ", row->micro_batches,
                    row->fits ? format_time(each, row->iteration_s / row->micro_batches) : "-",
                    row->fits ? format_time(all, row->iteration_s) : "-");
        explain_append_micro_batches(e, row, out);
        text_append(out, "\n");
    }
}

static void print_more(const Explanation *e, Text *out)
{
    double now_s = e->solution->cost.iteration_s;
    char saved[FORMAT_MAX], again[FORMAT_MAX];
    text_append(out, "\none more Gbit/s would save, per iteration:\n");
    for (uint32_t i = 0; i < e->more_count; i++) {
        const MoreBandwidth *more = &e->more[i];
        text_format(out, "  %-12s %11s %6.2f %%", e->work->spec->cluster.levels[more->level].name,
                    format_time(saved, fmax(0, now_s - more->iteration_s)),
                    fmax(0, percent_less(now_s, more->iteration_s)));
        if (more->replanned_s < more->iteration_s * (1 - EXPLAIN_MARGIN))
            text_format(out, ", %s with another choice", format_time(again, now_s - more->replanned_s));
        text_append(out, "\n");
    }
}

void explain_print(const Explanation *e, Text *out)
{
    print_choice(e, out);
    text_append(out, "\n");
    print_breakdown(e, out);
    print_limits(e, out);
    print_sensitivities(e, out);
    print_even(e, out);
    print_micro_batches(e, out);
    print_more(e, out);
}
