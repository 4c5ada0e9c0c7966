// The report of a run. `#` lines describe the run, then tables with a header and a units row, then
// verdict lines. Times of steps are medians over iterations of the slowest rank; they include
// waiting for peers.
#include "engines/engine_memory.h"
#include "ir/base/sort.h"
#include "ir/plan_facts.h"
#include "ir/unroll.h"
#include "runtime/job/exposure.h"
#include "runtime/report/columns.h"
#include "runtime/report/rates.h"
#include "runtime/report/report_internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const routing_names[] = {
#define X(name, text, doc) [ROUTING_##name] = text,
    HEP_ROUTINGS(X)
#undef X
};

const char *routing_name(Routing routing)
{
    return routing_names[routing];
}

int routing_parse(const char *text)
{
    for (int r = 0; r < ROUTING_COUNT; r++) {
        if (strcmp(routing_names[r], text) == 0)
            return r;
    }
    return -1;
}

// ---- what was run ----------------------------------------------------------------------------

static void print_domain(const Plan *plan, Text *out)
{
    if (plan->choice_count == 0) {
        text_append(out, "no MoE layers");
        return;
    }
    bool alike = true;
    for (uint32_t c = 1; c < plan->choice_count; c++)
        alike = alike && memcmp(plan->choices[c].domain, plan->choices[0].domain, sizeof(plan->choices->domain)) == 0;
    text_append(out, "domains");
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        text_format(out, " %s=%" PRIu32, plan->cluster.levels[l].name, plan->choices[0].domain[l]);
    text_append(out, alike ? "" : " (first MoE layer; others differ)");
}

static void print_choice(const Plan *plan, Text *out)
{
    print_domain(plan, out);
    text_format(out, ", dispatch %s%s, migration %s%s%s", dispatch_name(plan->dispatch),
                plan->exchange == EXCHANGE_PADDED ? ", exchanges padded" : "", codec_name(plan->experts.codec),
                coding_encodes(&plan->dense) ? ", dense weights " : "",
                coding_encodes(&plan->dense) ? codec_name(plan->dense.codec) : "");
    plan_append_tokens(plan, out);
    text_append(out, "\n");
}

static void print_description(const Report *report, Text *out)
{
    const Plan *plan = report->plan;
    const ModelDims *model = &plan->model;
    char a[FORMAT_MAX], b[FORMAT_MAX];
    text_format(out, "# hep-run %s, plan %s: ", report->version, report->plan_name);
    print_choice(plan, out);
    text_format(out,
                "# model %s: %" PRIu32 " layers (%" PRIu32 " MoE), hidden %" PRIu32 ", %" PRIu32
                " experts, top %" PRIu32 ", %s, %" PRIu64 " tokens per rank",
                model->name, model->layers, plan->choice_count, model->hidden, model->experts, model->top_k,
                dtype_name(model->dtype), model_tokens(model));
    if (plan->micro_batches > 1)
        text_format(out, " in each of %" PRIu32 " micro-batches", plan->micro_batches);
    if (plan->lap > 0)
        text_format(out, ", %" PRIu32 " a lap", plan->lap);
    text_format(out, ", %s pass\n", pass_name(plan->pass));
    text_format(out, "# cluster %s: %" PRIu64 " ranks", plan->cluster.name, report->result->ranks);
    for (uint32_t l = 0; l < plan->cluster.level_count; l++) {
        const Level *level = &plan->cluster.levels[l];
        text_format(out, "%s %" PRIu32 " %s at %s, %s", l ? ";" : " =", level->count, level->name,
                    format_bandwidth(a, level->bandwidth_bytes_per_s), format_time(b, level->latency_s));
    }
    text_format(
        out, "\n# engine %s, communicator %s, links %s; %s of memory per rank\n", report->result->engine,
        report->result->communicator,
        report->options->emulate_links ? "emulated at the cluster's bandwidths and latencies" : "not emulated",
        format_bytes(a, (double)plan->arena_bytes + (double)engine_own_bytes(plan, report->options->engine->kind)));
    if (report->options->engine->kind != plan->cluster.device.engine)
        text_format(out, "# the plan was made for engine '%s', which takes %s\n",
                    engine_kind_name(plan->cluster.device.engine), format_bytes(a, plan_memory_bytes(plan)));
    if (report->result->processors < report->result->processors_online)
        text_format(out, "# the %s may use %" PRIu32 " of %" PRIu32 " processors (affinity mask)\n",
                    report->options->comm ? "first rank" : "ranks", report->result->processors,
                    report->result->processors_online);
    if (report->result->replays)
        text_append(out, "# iterations are replayed as a CUDA graph\n");
    else if (report->result->replay_refusal)
        text_format(out, "# no CUDA graph: %s\n", report->result->replay_refusal);
    if (report->result->expert_refusal)
        text_format(out, "# experts are multiplied by wmma: %s\n", report->result->expert_refusal);
    text_format(out, "# routing %s, seed %" PRIu64 ", %" PRIu32 " iterations after %" PRIu32 " to warm up\n",
                routing_name(report->options->routing), report->result->seed, report->result->iterations,
                report->options->warmup);
    if (report->result->signal)
        text_format(out, "# a signal ended the run after iteration %" PRIu64 " of %" PRIu64 "\n", report->result->done,
                    report->result->planned);
    if (report->result->resumed)
        text_format(
            out, "# resumed from %s: this run begins with iteration %" PRIu64 "%s\n", report->result->resumed,
            report->result->first_iteration - report->options->warmup,
            report->result->same_strategy ? "" : "; strategy or number of ranks changed, experts were redistributed");
    if (report->result->resumed_otherwise)
        text_format(out, "# settings that are not the checkpoint's: %s\n", report->result->resumed_otherwise);
}

// ---- steps -----------------------------------------------------------------------------------

static const char *level_name(const Plan *plan, int32_t level)
{
    return level == NONE ? "-" : plan->cluster.levels[level].name;
}

static void print_rate(StepRate rate, Text *out)
{
    if (rate.kind == RATE_NONE)
        text_format(out, " %15s %8s\n", "-", "-");
    else
        text_format(out, " %9.4g %-5s %8.1f\n", rate.achieved / (rate.kind == RATE_FLOPS ? 1e12 : 1e9),
                    rate.kind == RATE_FLOPS ? "TFLOP" : "GB", 100 * rate.achieved / rate.limit);
}

static void print_every_step(const Report *report, Text *out)
{
    const Plan *plan = report->plan;
    text_format(out, "\n%6s %-19s %-8s %6s %-10s %12s %8s %15s %8s\n", "step", "op", "level", "layer", "stream",
                "median", "share", "rate", "of limit");
    text_format(out, "%6s %-19s %-8s %6s %-10s %12s %8s %15s %8s\n", "", "", "", "", "", "ms", "%", "per second", "%");
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const Step *step = &plan->steps[s];
        const OpInfo *info = op_info(step->op);
        char layer[16] = "-";
        if (step->layer != NONE)
            snprintf(layer, sizeof(layer), "%" PRId32, step->layer);
        char number[32];
        snprintf(number, sizeof(number), "%" PRIu32, plan->unrolled ? step->written : s);
        if (plan->unrolled && step_repeats(step))
            snprintf(number, sizeof(number), "%" PRIu32 "/%" PRIu32, step->written, step->micro_batch);
        text_format(out, "%6s %-19s %-8s %6s %-10s %12.4f %8.1f", number, info->name, level_name(plan, step->level),
                    layer, stream_name(step_stream(plan, step)), 1e3 * report->result->step_s[s],
                    100 * report->result->step_s[s] / report->result->median_s);
        print_rate(step_rate(plan, step, report->result->step_s[s]), out);
    }
    if (plan->unrolled)
        text_append(out, "# step 7/2: step 7 of the plan, in micro-batch 2 (from 0)\n");
    text_append(out, "# rate: FLOPs of matrix products, experts at the balanced load, or bytes that left the GPU; "
                     "limit: the cluster's\n# figures\n");
}

// Steps of one op and level, over all layers.
typedef struct {
    Op op;
    int32_t level;
    uint32_t count;
    double min_s, median_s, max_s, sum_s;
} StepGroup;

// Collects the times of the steps like `step` into `times`.
static StepGroup group_of(const Report *report, const Step *like, double *times)
{
    const Plan *plan = report->plan;
    StepGroup group = {.op = like->op, .level = like->level};
    for (uint32_t s = 0; s < plan->step_count; s++) {
        if (plan->steps[s].op != like->op || plan->steps[s].level != like->level)
            continue;
        times[group.count++] = report->result->step_s[s];
        group.sum_s += report->result->step_s[s];
    }
    sort_doubles(times, group.count);
    group.min_s = times[0];
    group.median_s = times[group.count / 2];
    group.max_s = times[group.count - 1];
    return group;
}

static bool is_first_of_group(const Plan *plan, uint32_t index)
{
    for (uint32_t s = 0; s < index; s++) {
        if (plan->steps[s].op == plan->steps[index].op && plan->steps[s].level == plan->steps[index].level)
            return false;
    }
    return true;
}

static void print_step_groups(const Report *report, Text *out)
{
    const Plan *plan = report->plan;
    double *times = calloc((size_t)plan->step_count + 1, sizeof(*times));
    if (!times)
        return;
    text_format(out, "\n%-19s %-8s %-10s %6s %10s %10s %10s %10s %8s\n", "op", "level", "stream", "steps", "min",
                "median", "max", "sum", "share");
    text_format(out, "%-19s %-8s %-10s %6s %10s %10s %10s %10s %8s\n", "", "", "", "", "ms", "ms", "ms", "ms", "%");
    for (uint32_t s = 0; s < plan->step_count; s++) {
        if (!is_first_of_group(plan, s))
            continue;
        StepGroup group = group_of(report, &plan->steps[s], times);
        const OpInfo *info = op_info(group.op);
        text_format(out, "%-19s %-8s %-10s %6" PRIu32 " %10.3f %10.3f %10.3f %10.3f %8.1f\n", info->name,
                    level_name(plan, group.level), stream_name(step_stream(plan, &plan->steps[s])), group.count,
                    1e3 * group.min_s, 1e3 * group.median_s, 1e3 * group.max_s, 1e3 * group.sum_s,
                    100 * group.sum_s / report->result->median_s);
    }
    text_append(out, "# times are the slowest rank's, with its waits for peers; share is of the median iteration, and "
                     "streams overlap,\n# so that shares add up to more than 100 %\n");
    free(times);
}

// ---- iteration, traffic, verdict -------------------------------------------------------------

static void print_iterations(const Report *report, Text *out)
{
    const JobResult *result = report->result;
    double predicted_s = report->plan->iteration_s;
    text_format(out, "\n%-12s %10s %10s %10s %10s %20s\n", "iteration", "min", "median", "max", "predicted",
                "measured/predicted");
    text_format(out, "%-12s %10s %10s %10s %10s %20s\n", "", "ms", "ms", "ms", "ms", "");
    text_format(out, "%-12s %10.3f %10.3f %10.3f %10.3f ", "", 1e3 * result->min_s, 1e3 * result->median_s,
                1e3 * result->max_s, 1e3 * predicted_s);
    if (predicted_s > 0)
        text_format(out, "%20.2f\n", result->median_s / predicted_s);
    else
        text_format(out, "%20s\n", "-");
    if (report->plan->micro_batches > 1)
        text_format(out, "# per micro-batch: %.3f ms (median), predicted %.3f ms\n",
                    1e3 * result->median_s / report->plan->micro_batches,
                    1e3 * predicted_s / report->plan->micro_batches);
    char tokens[FORMAT_MAX];
    text_format(out, "# %s tokens/s on all ranks, in the median\n",
                format_count(tokens, plan_tokens_per_s(report->plan, result->median_s)));
    if (!report->options->emulate_links)
        text_append(out, "# the prediction is for the plan's links; --emulate-links holds this run to them\n");
}

static void print_traffic(const Report *report, Text *out)
{
    const Plan *plan = report->plan;
    text_format(out, "\n%-8s", "traffic");
    columns_print_titles(traffic_columns, out);
    text_format(out, " %10s\n%-8s", "of planned", "level");
    columns_print_units(traffic_columns, out);
    text_format(out, " %10s\n", "%");
    for (uint32_t l = 0; l < plan->cluster.level_count; l++) {
        const JobTraffic *traffic = &report->result->traffic[l];
        text_format(out, "%-8s", plan->cluster.levels[l].name);
        columns_print_row(traffic_columns, traffic, out);
        if (traffic->planned_bytes > 0)
            text_format(out, " %10.1f\n", 100 * traffic->bytes / traffic->planned_bytes);
        else
            text_format(out, " %10s\n", traffic->bytes > 0 ? "more" : "-");
    }
}

// How full padded messages were.
static void print_fill(const Report *report, Text *out)
{
    const Plan *plan = report->plan;
    for (uint32_t l = 0; l < plan->cluster.level_count && plan->exchange == EXCHANGE_PADDED; l++) {
        const JobTraffic *traffic = &report->result->traffic[l];
        if (traffic->exchange_bytes <= 0)
            continue;
        text_format(out, "padded exchanges over %s: %.1f %% of the bytes of rows were rows, %.0f B/GPU padding",
                    plan->cluster.levels[l].name, 100 * (1 - traffic->padding_bytes / traffic->exchange_bytes),
                    traffic->padding_bytes);
        if (plan->strategy_count > 0)
            text_format(out, " (planned %.0f)", plan->strategies[0].traffic[l].padding_bytes);
        text_append(out, "\n");
    }
}

// Who gets more rows than others computes for longer, and others wait.
static void print_received(const Report *report, Text *out)
{
    const Plan *plan = report->plan;
    for (uint32_t l = 0; l < plan->cluster.level_count; l++) {
        const JobTraffic *traffic = &report->result->traffic[l];
        if (traffic->received_rows > 0)
            text_format(out,
                        "tokens received over %s: %.0f rows/GPU on average, %.0f by the busiest rank: %.2f times\n",
                        plan->cluster.levels[l].name, traffic->received_rows, traffic->most_received_rows,
                        traffic->most_received_rows / traffic->received_rows);
    }
}

// What gates dropped beyond the capacity, layer by layer.
static void print_dropped(const Report *report, Text *out)
{
    const Plan *plan = report->plan;
    const double *dropped = report->result->dropped;
    if (!dropped)
        return;
    double sum = 0, most = 0;
    text_format(out, "\n%-12s %10s\n%-12s %10s\n", "dropped", "layer", "", "%");
    for (uint32_t c = 0; c < plan->choice_count; c++) {
        char layer[FORMAT_MAX];
        snprintf(layer, sizeof(layer), "layer %" PRIu32, plan->choices[c].layer);
        text_format(out, "%-12s %10.2f\n", layer, 100 * dropped[c]);
        sum += dropped[c] / plan->choice_count;
        most = fmax(most, dropped[c]);
    }
    text_format(out, "capacity %g dropped %.2f %% of what gates chose, at most %.2f %% in a layer\n", plan->capacity,
                100 * sum, 100 * most);
}

// ---- who waits for whom ----------------------------------------------------------------------

enum { RANKS_SHOWN = 16 };

static double awaited_of(const Report *report, uint64_t rank)
{
    double awaited_s = report->result->rank_times[rank].awaited_s;
    return isnan(awaited_s) ? 0 : awaited_s;
}

// Is it among the RANKS_SHOWN ranks that others wait for longest? Of equals the first.
static bool is_shown(const Report *report, uint64_t rank)
{
    uint64_t before = 0;
    for (uint64_t r = 0; r < report->result->ranks; r++)
        before += awaited_of(report, r) > awaited_of(report, rank) ||
                  (awaited_of(report, r) == awaited_of(report, rank) && r < rank);
    return before < RANKS_SHOWN;
}

static double mean_s(const JobResult *result)
{
    double sum_s = 0;
    for (uint32_t i = 0; i < result->iterations; i++)
        sum_s += result->iteration_s[i];
    return sum_s / result->iterations;
}

int64_t report_slow_rank(const Report *report)
{
    return waits_slow_rank(report->result->rank_times, report->result->ranks, mean_s(report->result));
}

// Copies between threads pass no link.
int64_t report_slow_worker(const Report *report)
{
    bool has_links = report->options->comm || report->options->emulate_links;
    return has_links ? waits_slow_worker(&report->plan->cluster, report->result->rank_times, mean_s(report->result))
                     : -1;
}

static void append_slow(const Report *report, Text *out)
{
    const Cluster *cluster = &report->plan->cluster;
    int64_t rank = report_slow_rank(report), worker = report_slow_worker(report);
    if (rank >= 0)
        text_format(out,
                    "slow rank: %" PRId64
                    ": the others wait %.3f ms per iteration for it to come; look at its processor "
                    "and at what else runs there\n",
                    rank, 1e3 * awaited_of(report, (uint64_t)rank));
    if (worker >= 0 && cluster->port_count)
        text_format(out, "slow link: that of %s: what comes from there comes last\n", cluster->ports[worker].name);
    else if (worker >= 0)
        text_format(out, "slow link: that of %s[%" PRId64 "]: what comes from there comes last\n",
                    cluster->levels[0].name, worker);
}

static void print_ranks(const Report *report, Text *out)
{
    const JobResult *result = report->result;
    text_format(out, "\n%-8s", "rank");
    columns_print_titles(rank_columns, out);
    text_format(out, "\n%-8s", "");
    columns_print_units(rank_columns, out);
    text_append(out, "\n");
    for (uint64_t r = 0; r < result->ranks; r++) {
        if (!is_shown(report, r))
            continue;
        text_format(out, "%-8" PRIu64, r);
        columns_print_row(rank_columns, &result->rank_times[r], out);
        text_append(out, "\n");
    }
    if (result->ranks > 0 && isnan(result->rank_times[0].awaited_s))
        text_append(out,
                    "# of devices it is known what collectives take, not who came late: rows have the waits in them\n");
    text_append(
        out, "# per iteration; late: waiting for peers that had not come; rows: moving them after that; awaited: how "
             "long each\n# other rank waited for this one; last: how long each took rows where this one "
             "delivered last\n");
    if (result->ranks > RANKS_SHOWN)
        text_format(out, "# the %d ranks that others wait for longest; --json has all\n", RANKS_SHOWN);
    append_slow(report, out);
    exposure_print(report->plan, result->step_s, result->exposed_s, out);
}

// The last losses of those who train apart, of whom a table shows a few.
static void print_apart(const Report *report, Text *out)
{
    enum { LISTED = 8 };
    const JobResult *result = report->result;
    if (result->apart == 0 || !result->has_loss || result->iterations == 0)
        return;
    const double *losses = result->apart_loss + (size_t)(result->iterations - 1) * result->apart;
    text_format(out, "loss of each %s, in the last iteration:",
                report->plan->cluster.levels[report->plan->replica_levels - 1].name);
    for (uint32_t w = 0; w < result->apart && w < LISTED; w++)
        text_format(out, " %.6f", losses[w]);
    text_append(out, result->apart > LISTED ? " ...\n" : "\n");
}

static void print_verdict(const Report *report, Text *out)
{
    const JobResult *result = report->result;
    const CheckVerdict *check = &result->check;
    text_append(out, "\n");
    if (result->has_loss && report->plan->pass == PASS_TRAINING)
        text_format(out, "loss: %.6f in the first of these iterations, %.6f in the last (mean over ranks)\n",
                    result->loss[0], result->loss[result->iterations - 1]);
    else if (result->has_loss)
        text_format(out, "loss: %.6f in the last iteration (mean over ranks)\n", result->loss[result->iterations - 1]);
    print_apart(report, out);
    if (report->plan->pass == PASS_TRAINING)
        report_print_training(result, out);
    if (check->done)
        text_format(out,
                    "check: %s: largest error of a hidden state %.3g, tolerance %.3g; of a rank's loss %.3g, tolerance "
                    "%.3g; against a dense reference in double\n",
                    check->pass ? "passed" : "FAILED", check->max_abs_error, check->tolerance, check->loss_error,
                    check->loss_tolerance);
    if (check->done && check->choice_excess > check->choice_tolerance)
        text_format(out,
                    "a token passed over an expert that it likes better by %.3g of the logits' size, tolerance %.3g\n",
                    check->choice_excess, check->choice_tolerance);
}

void report_print(const Report *report, Text *out)
{
    print_description(report, out);
    if (report->every_step)
        print_every_step(report, out);
    else
        print_step_groups(report, out);
    print_iterations(report, out);
    print_traffic(report, out);
    print_fill(report, out);
    print_received(report, out);
    print_dropped(report, out);
    print_ranks(report, out);
    if (report->plan->pass == PASS_TRAINING && report->result->has_loss)
        report_print_losses(report->result, out);
    print_verdict(report, out);
}
