// The report of a run for programs; docs/running.md lists its keys.
#include "runtime/report/report_internal.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>

#include "ir/base/sort.h"
#include "ir/codec.h"
#include "ir/plan_facts.h"
#include "ir/unroll.h"
#include "runtime/check/tolerance.h"
#include "runtime/job/exposure.h"
#include "runtime/job/preflight.h"
#include "runtime/report/columns.h"
#include "runtime/report/rates.h"
#include "runtime/training/training.h"

static cJSON *json_times(const JobResult *result)
{
    cJSON *times = cJSON_CreateObject();
    cJSON_AddNumberToObject(times, "min", result->min_s);
    cJSON_AddNumberToObject(times, "median", result->median_s);
    cJSON_AddNumberToObject(times, "max", result->max_s);
    return times;
}

// By MoE layer: what was dropped, as a share of what gates chose.
static cJSON *json_dropped(const Report *report)
{
    cJSON *dropped = cJSON_CreateArray();
    for (uint32_t c = 0; c < report->plan->choice_count; c++) {
        cJSON *layer = cJSON_CreateObject();
        cJSON_AddNumberToObject(layer, "layer", report->plan->choices[c].layer);
        cJSON_AddNumberToObject(layer, "share", report->result->dropped[c]);
        cJSON_AddItemToArray(dropped, layer);
    }
    return dropped;
}

static cJSON *json_traffic(const Report *report)
{
    cJSON *levels = cJSON_CreateArray();
    for (uint32_t l = 0; l < report->plan->cluster.level_count; l++) {
        cJSON *level = cJSON_CreateObject();
        cJSON_AddStringToObject(level, "level", report->plan->cluster.levels[l].name);
        columns_add_json(traffic_columns, &report->result->traffic[l], level);
        cJSON_AddItemToArray(levels, level);
    }
    return levels;
}

static cJSON *json_check(const CheckVerdict *verdict)
{
    if (!verdict->done)
        return cJSON_CreateNull();
    cJSON *check = cJSON_CreateObject();
    cJSON_AddNumberToObject(check, "max_abs_error", verdict->max_abs_error);
    cJSON_AddNumberToObject(check, "tolerance", verdict->tolerance);
    cJSON_AddNumberToObject(check, "loss_error", verdict->loss_error);
    cJSON_AddNumberToObject(check, "loss_tolerance", verdict->loss_tolerance);
    cJSON_AddNumberToObject(check, "choice_excess", verdict->choice_excess);
    cJSON_AddNumberToObject(check, "choice_tolerance", verdict->choice_tolerance);
    cJSON_AddBoolToObject(check, "pass", verdict->pass);
    return check;
}

static cJSON *json_steps(const Report *report)
{
    const Plan *plan = report->plan;
    cJSON *steps = cJSON_CreateArray();
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const Step *step = &plan->steps[s];
        cJSON *item = cJSON_CreateObject();
        cJSON_AddStringToObject(item, "op", op_info(step->op)->name);
        if (plan->unrolled && step_repeats(step))
            cJSON_AddNumberToObject(item, "micro_batch", step->micro_batch);
        if (step->layer == NONE)
            cJSON_AddNullToObject(item, "layer");
        else
            cJSON_AddNumberToObject(item, "layer", step->layer);
        if (step->level == NONE)
            cJSON_AddNullToObject(item, "level");
        else
            cJSON_AddStringToObject(item, "level", plan->cluster.levels[step->level].name);
        cJSON_AddStringToObject(item, "stream", stream_name(step_stream(plan, step)));
        cJSON_AddNumberToObject(item, "median_s", report->result->step_s[s]);
        cJSON_AddNumberToObject(item, "predicted_s", step->cost_s);
        StepRate rate = step_rate(plan, step, report->result->step_s[s]);
        if (rate.kind != RATE_NONE) {
            cJSON_AddNumberToObject(item, rate.kind == RATE_FLOPS ? "flop_per_s" : "bytes_per_s", rate.achieved);
            cJSON_AddNumberToObject(item, "limit_per_s", rate.limit);
        }
        cJSON_AddItemToArray(steps, item);
    }
    return steps;
}

static cJSON *json_ranks(const JobResult *result)
{
    cJSON *ranks = cJSON_CreateArray();
    for (uint64_t r = 0; r < result->ranks; r++) {
        cJSON *rank = cJSON_CreateObject();
        cJSON_AddNumberToObject(rank, "rank", (double)r);
        columns_add_json(rank_columns, &result->rank_times[r], rank);
        cJSON_AddItemToArray(ranks, rank);
    }
    return ranks;
}

// How far the weights have moved before the measured iteration `index`, at most: the sum of the learning rates.
static double moved_before(const Report *report, uint32_t index)
{
    const TrainingSettings settings = preflight_engine_options(report->plan, report->options).training;
    uint64_t updates = report->plan->pass == PASS_TRAINING ? report->result->first_iteration - 1 + index : 0;
    double moved = 0;
    for (uint64_t i = 0; i < updates; i++)
        moved += training_rate(&settings, i);
    return moved;
}

// Of every iteration the losses of those who train apart.
static cJSON *json_losses_apart(const JobResult *result)
{
    cJSON *iterations = cJSON_CreateArray();
    for (uint32_t i = 0; result->has_loss && i < result->iterations; i++)
        cJSON_AddItemToArray(
            iterations, cJSON_CreateDoubleArray(result->apart_loss + (size_t)i * result->apart, (int)result->apart));
    return iterations;
}

// What rounding may do to each iteration's loss, or null where packets may differ by more: which elements travel is a
// choice, too.
static void json_add_loss_tolerances(const Report *report, const char *key, double turned, cJSON *root)
{
    const Plan *plan = report->plan;
    bool packs = plan_packs_rows(plan);
    bool exact = !coding_encodes(&plan->experts) && !coding_encodes(&plan->dense) && !packs;
    cJSON *tolerances = cJSON_AddArrayToObject(root, key);
    for (uint32_t i = 0; report->result->has_loss && i < report->result->iterations; i++) {
        double moved = moved_before(report, i);
        bool known = exact || (moved == 0 && !packs);
        cJSON_AddItemToArray(tolerances,
                             known ? cJSON_CreateNumber(tolerance_loss(plan, moved, turned)) : cJSON_CreateNull());
    }
}

static void json_add_tolerances(const Report *report, cJSON *root)
{
    double turns = 0;
    json_add_loss_tolerances(report, "loss_tolerance", 0, root);
    if (report->options->routing != ROUTING_LEARNED)
        return;
    for (uint32_t i = 0; i < report->result->iterations; i++)
        turns += tolerance_turns(report->plan, moved_before(report, i));
    double most = tolerance_count(2 * turns);
    cJSON_AddNumberToObject(root, "choices_tolerance", most);
    json_add_loss_tolerances(report, "loss_tolerance_turned", most, root);
}

// How long steps of the traced ranks began after all that they wait for, the step before them in their stream among it.
// Returns how many there are.
static size_t idle_times(const Report *report, double *idle_s)
{
    const Plan *plan = report->plan;
    size_t count = 0;
    for (uint32_t t = 0; t < report->options->trace_count; t++) {
        const StepTime *times = report->result->trace + (size_t)t * plan->step_count;
        double stream_end_s[STREAM_COUNT] = {0};
        for (uint32_t s = 0; s < plan->step_count; s++) {
            double *end_s = &stream_end_s[step_stream(plan, &plan->steps[s])], free_s = *end_s;
            for (uint32_t a = 0; a < plan->steps[s].after_count; a++)
                free_s = fmax(free_s, times[plan->after[plan->steps[s].after_first + a]].end_s);
            if (*end_s > 0 && times[s].end_s > 0)
                idle_s[count++] = fmax(0, times[s].start_s - free_s);
            *end_s = fmax(*end_s, times[s].end_s);
        }
    }
    return count;
}

static void json_add_idle(const Report *report, cJSON *root)
{
    double *idle_s = calloc((size_t)report->options->trace_count * report->plan->step_count + 1, sizeof(*idle_s));
    size_t count = idle_s && report->result->trace ? idle_times(report, idle_s) : 0;
    if (count > 0) {
        double sum_s = 0;
        for (size_t i = 0; i < count; i++)
            sum_s += idle_s[i];
        sort_doubles(idle_s, count);
        cJSON *idle = cJSON_AddObjectToObject(root, "idle");
        cJSON_AddNumberToObject(idle, "count", (double)count);
        cJSON_AddNumberToObject(idle, "mean_s", sum_s / (double)count);
        cJSON_AddNumberToObject(idle, "median_s", idle_s[count / 2]);
        cJSON_AddNumberToObject(idle, "max_s", idle_s[count - 1]);
    }
    free(idle_s);
}

static void json_add_index(cJSON *root, const char *name, int64_t index)
{
    if (index < 0)
        cJSON_AddNullToObject(root, name);
    else
        cJSON_AddNumberToObject(root, name, (double)index);
}

void report_add_json(const Report *report, cJSON *root)
{
    const JobResult *result = report->result;
    cJSON_AddStringToObject(root, "plan", report->plan_name);
    cJSON_AddStringToObject(root, "version", report->version);
    cJSON_AddStringToObject(root, "engine", result->engine);
    cJSON_AddStringToObject(root, "communicator", result->communicator);
    if (result->replays || result->replay_refusal)
        cJSON_AddBoolToObject(root, "replays", result->replays);
    if (result->replay_refusal)
        cJSON_AddStringToObject(root, "replay_refusal", result->replay_refusal);
    if (result->expert_refusal)
        cJSON_AddStringToObject(root, "expert_refusal", result->expert_refusal);
    cJSON_AddNumberToObject(root, "ranks", (double)result->ranks);
    cJSON_AddNumberToObject(root, "iterations", result->iterations);
    cJSON_AddBoolToObject(root, "interrupted", result->signal != 0);
    cJSON_AddNumberToObject(root, "warmup", report->options->warmup);
    cJSON_AddNumberToObject(root, "seed", (double)result->seed);
    cJSON_AddStringToObject(root, "routing", routing_name(report->options->routing));
    cJSON_AddBoolToObject(root, "emulated_links", report->options->emulate_links);
    cJSON_AddNumberToObject(root, "processors", result->processors);
    cJSON_AddNumberToObject(root, "processors_online", result->processors_online);
    cJSON_AddItemToObject(root, "iteration_s", json_times(result));
    cJSON_AddItemToObject(root, "iterations_s", cJSON_CreateDoubleArray(result->iteration_s, (int)result->iterations));
    cJSON_AddNumberToObject(root, "predicted_s", report->plan->iteration_s);
    cJSON_AddNumberToObject(root, "micro_batches", report->plan->micro_batches);
    cJSON_AddNumberToObject(root, "tokens_per_s", plan_tokens_per_s(report->plan, result->median_s));
    cJSON_AddItemToObject(root, "traffic", json_traffic(report));
    if (result->dropped)
        cJSON_AddItemToObject(root, "dropped", json_dropped(report));
    cJSON_AddItemToObject(root, "check", json_check(&result->check));
    int loss_count = result->has_loss ? (int)result->iterations : 0;
    cJSON_AddItemToObject(root, "loss", cJSON_CreateDoubleArray(result->loss, loss_count));
    if (result->apart > 0)
        cJSON_AddItemToObject(root, "loss_apart", json_losses_apart(result));
    json_add_tolerances(report, root);
    if (report->plan->pass == PASS_TRAINING)
        report_add_training(result, root);
    cJSON_AddItemToObject(root, "steps", json_steps(report));
    exposure_add_json(report->plan, result->step_s, result->exposed_s, root);
    json_add_idle(report, root);
    cJSON_AddItemToObject(root, "rank_times", json_ranks(result));
    json_add_index(root, "slow_rank", report_slow_rank(report));
    json_add_index(root, "slow_worker", report_slow_worker(report));
}

void report_print_json(const Report *report, Text *out)
{
    cJSON *root = cJSON_CreateObject();
    report_add_json(report, root);
    char *printed = cJSON_Print(root);
    if (printed) {
        text_append(out, printed);
        text_append(out, "\n");
    }
    cJSON_free(printed);
    cJSON_Delete(root);
}
