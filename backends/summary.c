// See summary.h. Every table names its units; bytes are per GPU and iteration unless said otherwise.
#include "backends/summary.h"

#include <string.h>

#include "backends/assignment.h"
#include "backends/decision.h"
#include "ir/codec.h"
#include "ir/plan_facts.h"
#include "ir/price.h"
#include "ir/simulate/simulate.h"
#include "ir/unroll.h"

// How dense weights travel, where that is not whole; and iterations in which everything does.
static void print_dense(const Plan *plan, Text *out)
{
    const Coding *dense = &plan->dense;
    char packing[FORMAT_MAX];
    if (coding_encodes(dense))
        text_format(out, "dense weights %s", codec_name(dense->codec));
    if (codec_info(dense->codec)->encodes)
        text_format(out, " %s", format_packing(packing, coding_packing(dense), plan->model.dtype));
    if (dense->whole_levels > 0)
        text_format(out, ", packets over %s alone",
                    plan->cluster.levels[coding_levels(dense, plan->cluster.level_count) - 1].name);
    if (dense->gradient != GRADIENT_DENSE)
        text_format(out, ", gradients home as %s %s", gradient_name(dense->gradient),
                    format_packing(packing, coding_gradient_packing(dense), plan->model.dtype));
    text_append(out, coding_encodes(dense) ? "\n" : "");
    if (plan->whole_iterations == 0 || plan->strategy_count == 0)
        return;
    Traffic traffic[LEVELS_MAX];
    memcpy(traffic, plan->strategies[0].traffic, sizeof(traffic));
    plan_add_whole_traffic(plan, 1, traffic);
    text_format(out, "packets are whole in the first %u iterations, which send", plan->whole_iterations);
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        text_format(out, "%s %s over %s", l > 0 ? "," : "", format_bytes(packing, traffic_total(&traffic[l])),
                    plan->cluster.levels[l].name);
    text_append(out, " per GPU\n");
}

// What everything that is not exact costs in loss, by our own study.
static void print_price(const Plan *plan, Text *out)
{
    LossyChoice choices[PRICED_PARTS];
    PricedPart missing;
    double increase;
    bool lossy = false;
    lossy_choices(&plan->experts, &plan->dense, plan->tokens, choices);
    for (int part = 0; part < PRICED_PARTS; part++)
        lossy |= choices[part].code != 0;
    lossy |= plan->sync.every > 0;
    if (!lossy || plan->pass == PASS_FORWARD)
        return;
    if (plan->sync.every > 0)
        text_append(out, "loss: docs/prices.md has no figure for local steps\n");
    else if (price_sum(choices, &increase, &missing))
        text_format(out, "loss: %.3g %% more than without, by the figures of docs/prices.md\n", 100 * increase);
    else
        text_format(out, "loss: docs/prices.md has no figure for these %s\n", priced_part_text(missing));
}

static void print_heading(const Plan *plan, Text *out)
{
    const Cluster *cluster = &plan->cluster;
    char a[FORMAT_MAX], b[FORMAT_MAX];
    text_format(out, "cluster %s: %llu GPUs (", cluster->name, (unsigned long long)cluster_gpus(cluster));
    for (uint32_t l = 0; l < cluster->level_count; l++)
        text_format(out, "%s%u %s", l ? " x " : "", cluster->levels[l].count, cluster->levels[l].name);
    text_append(out, "), ");
    for (uint32_t l = 0; l < cluster->level_count; l++)
        text_format(out, "%s%s %s", l ? ", " : "", cluster->levels[l].name,
                    format_bandwidth(a, cluster->levels[l].bandwidth_bytes_per_s));
    text_append(out, "\n");
    const ModelDims *model = &plan->model;
    text_format(out, "model %s: %u layers, %u of them MoE", model->name, model->layers, plan->choice_count);
    if (model->experts)
        text_format(out, ", %u experts, top-%u", model->experts, model->top_k);
    if (model->total_parameters > 0)
        text_format(out, ", %s parameters, %s of them active", format_count(a, model->total_parameters),
                    format_count(b, model->active_parameters));
    text_format(out, "; per GPU and MoE layer D = %s tokens, P = %s experts, pre-expert %s\n",
                format_bytes(a, model->data_bytes), format_bytes(b, model->expert_bytes),
                format_time((char[FORMAT_MAX]){0}, model->pre_expert_s));
    text_format(out, "pass %s, ", pass_name(plan->pass));
    if (plan->micro_batches > 1)
        text_format(out, "%u micro-batches per iteration, ", plan->micro_batches);
    if (plan->lap > 0)
        text_format(out, "in laps of %u, ", plan->lap);
    text_format(out, "dispatch %s%s, migration %s", dispatch_name(plan->dispatch),
                plan->exchange == EXCHANGE_PADDED ? ", exchanges padded" : "", codec_name(plan->experts.codec));
    if (codec_info(plan->experts.codec)->encodes)
        text_format(out, " %s", format_packing(a, coding_packing(&plan->experts), model->dtype));
    if (plan->experts.whole_levels > 0)
        text_format(out, ", packets over %s alone", cluster->levels[plan_coded_levels(plan) - 1].name);
    if (plan->shared_every > 0)
        text_format(out, ", shared expert summed every %u iterations", plan->shared_every);
    if (plan->experts.gradient != GRADIENT_DENSE)
        text_format(out, ", gradients home as %s %s", gradient_name(plan->experts.gradient),
                    format_packing(a, coding_gradient_packing(&plan->experts), model->dtype));
    plan_append_tokens(plan, out);
    if (plan->replica_levels && plan->sync.every == 0)
        text_format(out, "; experts replicated over %s", cluster->levels[0].name);
    text_append(out, "\n");
    if (plan->sync.every > 0)
        text_format(out, "local steps: every %s trains apart, and meets the others after %u iteration%s (%s)\n",
                    cluster->levels[plan->replica_levels - 1].name, plan->sync.every, plan->sync.every == 1 ? "" : "s",
                    outer_optimizer_name(plan->sync.optimizer));
    print_dense(plan, out);
    print_price(plan, out);
    text_append(out, "\n");
}

// Columns are as wide as the names in them: two levels must not come to be called the same.
static int link_width(const Plan *plan, uint32_t level)
{
    int width = (int)strlen(plan->cluster.levels[level].name) + 5;
    return width > 12 ? width : 12;
}

static int domain_width(const Plan *plan)
{
    char domain[DOMAIN_TEXT_MAX];
    int width = 22;
    for (uint32_t i = 0; i < plan->strategy_count; i++) {
        int own = (int)strlen(plan_strategy_domain(plan, &plan->strategies[i], i == 0, domain, sizeof(domain)));
        width = own > width ? own : width;
    }
    return width;
}

static void print_strategy(const Plan *plan, const Strategy *strategy, bool chosen, const Strategy *best, Text *out)
{
    char domain[DOMAIN_TEXT_MAX], value[FORMAT_MAX], exposed[FORMAT_MAX];
    text_format(out, "%-17s %-*s %11s %11s", plan_strategy_title(strategy, chosen), domain_width(plan),
                plan_strategy_domain(plan, strategy, chosen, domain, sizeof(domain)),
                format_time(value, strategy->iteration_s), format_time(exposed, strategy->exposed_s));
    if (best && strategy->iteration_s > 0)
        text_format(out, " %8.2fx", best->iteration_s / strategy->iteration_s);
    else
        text_format(out, " %9s", "-");
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        text_format(out, " %*s", link_width(plan, l), format_bytes(value, traffic_total(&strategy->traffic[l])));
    text_format(out, " %11s%s\n", plan->model.abstract ? "-" : format_bytes(value, strategy->memory_bytes),
                strategy->fits ? "" : "  does not fit");
}

// The schedule, played with its ports shared fairly, beside the model the solver decides by.
static void print_simulated(const Plan *plan, Text *out)
{
    char value[FORMAT_MAX];
    double simulated_s = simulated_iteration_s(plan);
    text_format(out, "this plan's schedule, simulated: %s", format_time(value, simulated_s));
    if (plan->iteration_s > 0)
        text_format(out, " (%s against the prediction)", format_change(value, simulated_s / plan->iteration_s - 1));
    if (plan->micro_batches > 1)
        text_format(out, ", %s per micro-batch", format_time(value, simulated_s / plan->micro_batches));
    text_append(out, "\n");
}

static void print_throughput(const Plan *plan, Text *out)
{
    char tokens[FORMAT_MAX];
    double tokens_per_s = plan_tokens_per_s(plan, plan->iteration_s);
    double utilisation = plan_flop_utilisation(plan, plan->iteration_s);
    if (tokens_per_s <= 0)
        return;
    text_format(out, "this plan: %s tokens/s on all GPUs", format_count(tokens, tokens_per_s));
    if (utilisation > 0)
        text_format(out, ", model FLOP utilisation %.3g %%", 100 * utilisation);
    text_append(out, "\n");
}

void summary_print_comparison(const Plan *plan, Text *out)
{
    const Strategy *best = plan_best_baseline(plan);
    decision_append(plan, out);
    text_append(out, "\n\n");
    int domains = domain_width(plan);
    text_format(out, "%-17s %-*s %11s %11s %9s", "strategy", domains, "domain", "predicted", "exposed", "speed-up");
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        text_format(out, " %*s link", link_width(plan, l) - 5, plan->cluster.levels[l].name);
    text_format(out, " %11s\n%-17s %-*s %11s %11s %9s", "memory", "", domains, "workers", "iteration", "transfers",
                "over best");
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        text_format(out, " %*s", link_width(plan, l), "sent/GPU");
    text_format(out, " %11s\n", "per GPU");
    for (uint32_t i = 1; i < plan->strategy_count; i++)
        print_strategy(plan, &plan->strategies[i], false, best, out);
    if (plan->strategy_count > 0)
        print_strategy(plan, &plan->strategies[0], true, best, out);
    assignment_print_line(plan, out);
    print_throughput(plan, out);
    print_simulated(plan, out);
}

static void print_choices(const Plan *plan, Text *out)
{
    char domain[DOMAIN_TEXT_MAX], gathered[FORMAT_MAX + 128], returned[FORMAT_MAX + 128];
    text_format(out, "choice (%s, solver %s", status_name(plan->status), plan->solver);
    if (plan->status == STATUS_FEASIBLE)
        text_format(out, ", the cost model's bound is %.3g %% lower", 100 * plan->gap);
    if (plan->replica_slots)
        text_format(out, ", room for the experts of %u gathered layer%s at a time", plan->replica_slots,
                    plan->replica_slots == 1 ? "" : "s");
    text_append(out, "):\n");
    for (uint32_t i = 0; i < plan->choice_count;) {
        uint32_t end = plan_choice_run_end(plan, i);
        text_format(out, "  layers %u..%u: domain %s", plan->choices[i].layer, plan->choices[end - 1].layer,
                    plan_format_domain(plan, plan->choices[i].domain, domain, sizeof(domain)));
        if (plan->pass == PASS_TRAINING)
            text_format(out, ", replicas %s%s",
                        plan_format_gathered(plan, plan->choices[i].regather, plan->choices[i].once, gathered,
                                             sizeof(gathered)),
                        plan_format_returned(plan, plan->choices[i].returns_apart, plan->choices[i].once_gradient,
                                             returned, sizeof(returned)));
        text_append(out, "\n");
        i = end;
    }
    if (plan->pass == PASS_TRAINING && !plan->model.abstract)
        text_format(out, "  dense weights: shared out over all GPUs%s%s, %s for the backward pass%s\n",
                    plan->sync.every > 0 ? " of a " : "",
                    plan->sync.every > 0 ? plan->cluster.levels[plan->replica_levels - 1].name : "",
                    plan_format_gathered(plan, plan->regather_dense, plan->once_dense, gathered, sizeof(gathered)),
                    plan_format_returned(plan, plan->returns_dense_apart, plan->once_dense_gradient, returned,
                                         sizeof(returned)));
    if (plan->regather_embedding)
        text_append(out, "  embedding: gathered for each use, each half of its gradient returns after it\n");
    if (plan->pass == PASS_TRAINING && !plan->model.abstract)
        text_format(out, "  activations: %s\n",
                    plan->recompute ? "recomputed in the backward pass, from each layer's input"
                                    : "kept for the backward pass");
    if (plan->abreast > 0)
        text_format(out, "  micro-batches: %u at a time pass a layer in turns\n", plan->abreast);
    if (plan->bucket > 0)
        text_format(out, "  buckets: weights of %u layer%s cross the slowest level together\n", plan->bucket,
                    plan->bucket == 1 ? "" : "s");
    text_append(out, "\n");
}

static void print_traffic(const Plan *plan, Text *out)
{
    char value[FORMAT_MAX];
    size_t kinds = traffic_kind_count(plan);
    text_format(out, "%-10s", "traffic");
    for (size_t kind = 0; kind < kinds; kind++)
        text_format(out, " %15s", traffic_kinds[kind].title);
    text_format(out, " %14s\n%-10s", "through a port", "level");
    for (size_t kind = 0; kind < kinds; kind++)
        text_format(out, " %15s", "sent/GPU");
    text_format(out, " %14s\n", "sent");
    for (uint32_t l = 0; l < plan->cluster.level_count && plan->strategy_count > 0; l++) {
        text_format(out, "%-10s", plan->cluster.levels[l].name);
        for (size_t kind = 0; kind < kinds; kind++)
            text_format(out, " %15s", format_bytes(value, traffic_of_kind(&plan->strategies[0].traffic[l], kind)));
        text_format(out, " %14s\n", format_bytes(value, plan_port_bytes(plan, l)));
    }
    for (uint32_t l = 0; l < plan->cluster.level_count && plan->exchange == EXCHANGE_PADDED; l++)
        if (plan->strategy_count > 0 && plan->strategies[0].traffic[l].exchange_bytes > 0)
            text_format(out, "padded exchanges over %s: %.1f %% of the tokens sent are expected to be tokens\n",
                        plan->cluster.levels[l].name, 100 * traffic_fill(&plan->strategies[0].traffic[l]));
    text_append(out, "\n");
}

void summary_print(const Plan *plan, uint64_t plan_bytes, Text *out)
{
    char value[FORMAT_MAX], size[FORMAT_MAX];
    print_heading(plan, out);
    print_choices(plan, out);
    assignment_print(plan, out);
    summary_print_comparison(plan, out);
    text_append(out, "\n");
    print_traffic(plan, out);
    PlanMessages messages = plan_messages(plan);
    text_format(out, "messages per layer, all GPUs: %.0f in one exchange, %.0f in the gathers\n", messages.exchange,
                messages.gather);
    text_format(out, "memory per GPU: %s in %u buffers", format_bytes(value, (double)plan->arena_bytes),
                plan->buffer_count);
    if (plan->engine_bytes)
        text_format(out, ", %s for engine '%s'", format_bytes(value, (double)plan->engine_bytes),
                    engine_kind_name(plan->cluster.device.engine));
    text_append(out, "\n");
    text_format(out, "schedule: %u steps", plan->step_count);
    if (plan->micro_batches > 1)
        text_format(out, ", executed %llu times in an iteration", (unsigned long long)plan_executions(plan));
    text_format(out, ", %u groups, %u cross-stream waits; plan file %s\n", plan->group_count, plan->after_count,
                format_bytes(size, (double)plan_bytes));
}
