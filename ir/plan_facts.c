// See plan_facts.h.
#include "ir/plan_facts.h"

#include <stdio.h>
#include <string.h>

#include "ir/bundle.h"
#include "ir/unroll.h"

PlanMessages plan_messages(const Plan *plan)
{
    PlanMessages messages = {0};
    if (plan->choice_count == 0)
        return messages;
    double gpus = (double)cluster_gpus(&plan->cluster);
    const uint32_t *domain = plan->choices[0].domain;
    for (uint32_t l = 0; l < plan->cluster.level_count; l++) {
        messages.exchange += gpus * (plan->cluster.levels[l].count / domain[l] - 1);
        if (l >= plan->replica_levels)
            messages.gather += gpus * (domain[l] - 1);
    }
    return messages;
}

double *plan_layers_seconds(const Plan *plan, OpShape shape, Arena *arena)
{
    double *seconds = arena_alloc_array(arena, plan->model.layers, sizeof(*seconds));
    for (uint32_t i = 0; i < plan->step_count; i++)
        if (plan->steps[i].layer != NONE && op_info((int)plan->steps[i].op)->shape == shape)
            seconds[plan->steps[i].layer] += plan_step_runs(plan, &plan->steps[i]) * plan->steps[i].cost_s;
    return seconds;
}

bool plan_gathers(const Plan *plan, const Choice *choice)
{
    for (uint32_t l = plan->replica_levels; l < plan->cluster.level_count; l++)
        if (choice->domain[l] > 1)
            return true;
    return false;
}

double plan_token_share(const Plan *plan, const Choice *choice, uint32_t level)
{
    double count = plan->cluster.levels[level].count;
    return count > 1 ? (count - choice->domain[level]) / (count - 1) : 0;
}

const TrafficKind traffic_kinds[] = {
    {"tokens", "exchange_bytes", 'e', offsetof(Traffic, exchange_bytes)},
    {"routing", "routing_bytes", 'q', offsetof(Traffic, routing_bytes)},
    {"experts", "gather_bytes", 'g', offsetof(Traffic, gather_bytes)},
    {"gradients", "reduce_bytes", 's', offsetof(Traffic, reduce_bytes)},
    {"dense weights", "dense_gather_bytes", 'd', offsetof(Traffic, dense_gather_bytes)},
    {"dense gradients", "dense_reduce_bytes", 'h', offsetof(Traffic, dense_reduce_bytes)},
};

size_t traffic_kind_count(const Plan *plan)
{
    return COUNT_OF(traffic_kinds) - (plan->pass == PASS_FORWARD ? 2 : 0);
}

double traffic_of_kind(const Traffic *traffic, size_t kind)
{
    return *(const double *)((const char *)traffic + traffic_kinds[kind].offset);
}

double traffic_total(const Traffic *traffic)
{
    double total = 0;
    for (size_t kind = 0; kind < COUNT_OF(traffic_kinds); kind++)
        total += traffic_of_kind(traffic, kind);
    return total;
}

double traffic_fill(const Traffic *traffic)
{
    return traffic->exchange_bytes > 0 ? 1 - traffic->padding_bytes / traffic->exchange_bytes : 1;
}

// What strategies are called in tables and in sentences, and which of them people run without a planner.
static const struct {
    const char *name, *title, *phrase;
    bool inside; // the phrase ends with the level
    bool is_baseline;
} strategy_names[] = {
    {"ep", "plain EP", "plain EP", false, true},
    {"ep_dedup", "EP, deduplicated", "deduplicated EP", false, true},
    {"ep_inside", "EP inside", "EP inside each ", true, true},
    {"gather", "gather only", "gather-only", false, false},
    {"uniform", "best single", "the best single choice", false, false},
    {"codec_dense", "dense experts", "dense experts", false, false},
    {"codec_sr", "experts by sr", "experts by sr", false, false},
    {"codec_delta", "experts by delta", "experts by delta", false, false},
    {"codec_sign", "experts by sign", "experts by sign", false, false},
    {"codec_q4", "experts by q4", "experts by q4", false, false},
    {"exact", "nothing lossy", "a plan without lossy choices", false, false},
    {"counted", "counted messages", "counted messages", false, false},
};

const char *token_way_name(TokenWay way)
{
    static const char *const names[TOKEN_WAYS] = {[WAY_DISPATCH] = "dispatch",
                                                  [WAY_COMBINE] = "combine",
                                                  [WAY_DISPATCH_GRADIENT] = "dispatch_gradient",
                                                  [WAY_COMBINE_GRADIENT] = "combine_gradient"};
    return names[way];
}

void plan_append_tokens(const Plan *plan, Text *out)
{
    uint32_t ways = plan->pass == PASS_TRAINING ? TOKEN_WAYS : WAY_COMBINE + 1;
    bool alike = true;
    for (uint32_t way = 1; way < ways; way++)
        alike &= plan->tokens[way] == plan->tokens[0];
    if (!plan_packs_rows(plan))
        return;
    text_append(out, ", rows in ");
    for (uint32_t way = 0; way < (alike ? 1 : ways); way++) {
        text_format(out, "%s%s", way ? ", " : "", token_format_name(plan->tokens[way]));
        if (!alike)
            text_format(out, " (%s)", token_way_name((TokenWay)way));
    }
}

const char *format_packing(char out[FORMAT_MAX], Packing packing, Dtype dtype)
{
    int digits = packet_has_ratio(packing.form) ? 15 : 3;
    snprintf(out, FORMAT_MAX, "1/%.*g", digits, packing_ratio(packing, dtype));
    return out;
}

const char *plan_strategy_title(const Strategy *strategy, bool chosen)
{
    for (size_t i = 0; i < COUNT_OF(strategy_names) && !chosen; i++)
        if (strcmp(strategy->name, strategy_names[i].name) == 0)
            return strategy_names[i].title;
    return chosen ? "this plan" : strategy->name;
}

// The outermost level that has several workers.
static const char *outermost_name(const Cluster *cluster)
{
    uint32_t level = 0;
    while (level + 1 < cluster->level_count && cluster->levels[level].count < 2)
        level++;
    return cluster->levels[level].name;
}

void plan_append_strategy(const Plan *plan, const Strategy *strategy, Text *out)
{
    size_t i = 0;
    while (i < COUNT_OF(strategy_names) && strcmp(strategy->name, strategy_names[i].name) != 0)
        i++;
    text_append(out, i < COUNT_OF(strategy_names) ? strategy_names[i].phrase : strategy->name);
    if (i < COUNT_OF(strategy_names) && strategy_names[i].inside)
        text_append(out, outermost_name(&plan->cluster));
}

const Strategy *plan_best_baseline(const Plan *plan)
{
    const Strategy *best = NULL;
    for (size_t i = 0; i < COUNT_OF(strategy_names); i++) {
        const Strategy *one = strategy_names[i].is_baseline ? plan_find_baseline(plan, strategy_names[i].name) : NULL;
        if (one && one->fits && one->iteration_s > 0 && (!best || one->iteration_s < best->iteration_s))
            best = one;
    }
    return best;
}

double plan_speed_up(const Plan *plan, const Strategy *over)
{
    double chosen_s = plan->strategy_count > 0 ? plan->strategies[0].iteration_s : 0;
    return over && chosen_s > 0 ? over->iteration_s / chosen_s : 0;
}

double plan_tokens_per_s(const Plan *plan, double iteration_s)
{
    if (plan->model.abstract || !(iteration_s > 0))
        return 0;
    return (double)model_tokens(&plan->model) * plan->micro_batches * (double)cluster_gpus(&plan->cluster) /
           iteration_s;
}

double plan_flop_utilisation(const Plan *plan, double iteration_s)
{
    const Device *device = &plan->cluster.device;
    double peak_flops = device->peak_flops > 0 ? device->peak_flops : device->compute_flops;
    double flops = plan_tokens_per_s(plan, iteration_s) * model_token_flops(&plan->model, plan->pass);
    return flops / (peak_flops * (double)cluster_gpus(&plan->cluster));
}

const Strategy *plan_find_baseline(const Plan *plan, const char *name)
{
    for (uint32_t i = 1; i < plan->strategy_count; i++)
        if (strcmp(plan->strategies[i].name, name) == 0)
            return &plan->strategies[i];
    return NULL;
}

uint32_t plan_choice_run_end(const Plan *plan, uint32_t first)
{
    uint32_t end = first + 1;
    while (end < plan->choice_count && choices_equal(&plan->choices[end], &plan->choices[first]))
        end++;
    return end;
}

double plan_port_bytes(const Plan *plan, uint32_t level)
{
    double through = 0;
    for (uint32_t outer = 0; outer <= level && plan->strategy_count > 0; outer++)
        through += traffic_total(&plan->strategies[0].traffic[outer]);
    return through * (double)cluster_gpus_below(&plan->cluster, level);
}

// What a rank sends in a step in which packets hold whole values; `bytes` of one that sends none.
static double whole_bytes(const Plan *plan, const Step *step, const WeightKind kinds[])
{
    OpShape shape = op_info((int)step->op)->shape;
    int32_t sent = shape == SHAPE_GATHER || step->op == OP_RETURN_PACKETS ? step_buffers(plan, step).all[0] : NONE;
    if (sent == NONE || plan->buffers[sent].dtype != DTYPE_U8)
        return step->bytes;
    uint64_t elements = bundle_vector_elements(plan, kinds[sent], step->layer);
    double members = (double)group_size(&plan->cluster, &plan->groups[step->group]);
    double packets = (double)plan->buffers[sent].rows * (members - 1) / (shape == SHAPE_GATHER ? 1 : members);
    return packets * (double)packing_bytes((Packing){PACKET_WHOLE, 1}, elements, plan->model.dtype);
}

void plan_add_whole_traffic(const Plan *plan, double share, Traffic traffic[LEVELS_MAX])
{
    if (plan->whole_iterations == 0)
        return;
    Arena *arena = arena_create();
    WeightKind *kinds = arena_alloc_array(arena, (size_t)plan->buffer_count + 1, sizeof(*kinds));
    bundle_kinds(plan, kinds);
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const Step *step = &plan->steps[i];
        double more = share * plan_step_runs(plan, step) * (whole_bytes(plan, step, kinds) - step->bytes);
        if (more == 0)
            continue;
        Traffic *of = &traffic[step->level];
        bool dense = plan_coding(plan, kinds[step_buffers(plan, step).all[0]]) == &plan->dense;
        if (step->op == OP_GATHER)
            *(dense ? &of->dense_gather_bytes : &of->gather_bytes) += more;
        else
            *(dense ? &of->dense_reduce_bytes : &of->reduce_bytes) += more;
    }
    arena_destroy(arena);
}

const char *plan_format_domain(const Plan *plan, const uint32_t domain[LEVELS_MAX], char *out, size_t size)
{
    size_t used = 0;
    out[0] = 0;
    for (uint32_t l = 0; l < plan->cluster.level_count && used < size; l++)
        used +=
            (size_t)snprintf(out + used, size - used, "%s%s=%u", l ? " " : "", plan->cluster.levels[l].name, domain[l]);
    return out;
}

const char *plan_strategy_domain(const Plan *plan, const Strategy *strategy, bool chosen, char *out, size_t size)
{
    if (chosen && plan->choice_count > 0 && plan_choice_run_end(plan, 0) < plan->choice_count)
        return "per layer";
    return plan_format_domain(plan, strategy->domain, out, size);
}

const char *plan_format_returned(const Plan *plan, bool apart, uint32_t once, char *out, size_t size)
{
    out[0] = 0;
    if (apart && once == 0)
        snprintf(out, size, ", gradients return in every lap");
    else if (apart)
        snprintf(out, size, ", gradients return inside '%.60s' in every lap", plan->cluster.levels[once - 1].name);
    return out;
}

const char *plan_format_gathered(const Plan *plan, bool regather, uint32_t once, char *out, size_t size)
{
    if (!regather)
        snprintf(out, size, "kept");
    else if (once == 0)
        snprintf(out, size, "gathered again");
    else
        snprintf(out, size, "kept over '%.60s', gathered again inside", plan->cluster.levels[once - 1].name);
    return out;
}
