// See json.h. cJSON does the writing; this file decides names and order.
#include "backends/json.h"

#include <cjson/cJSON.h>

#include "backends/assignment.h"
#include "backends/decision.h"
#include "ir/plan_facts.h"
#include "ir/price.h"
#include "ir/simulate/simulate.h"
#include "ir/unroll.h"

static cJSON *add_object(cJSON *parent, const char *key)
{
    return cJSON_AddObjectToObject(parent, key);
}

static void add_cluster(cJSON *root, const Cluster *cluster)
{
    cJSON *object = add_object(root, "cluster");
    cJSON_AddStringToObject(object, "name", cluster->name);
    cJSON_AddNumberToObject(object, "gpus", (double)cluster_gpus(cluster));
    cJSON *levels = cJSON_AddArrayToObject(object, "levels");
    for (uint32_t l = 0; l < cluster->level_count; l++) {
        cJSON *level = cJSON_CreateObject();
        cJSON_AddStringToObject(level, "name", cluster->levels[l].name);
        cJSON_AddNumberToObject(level, "count", cluster->levels[l].count);
        cJSON_AddNumberToObject(level, "bandwidth_bytes_per_s", cluster->levels[l].bandwidth_bytes_per_s);
        cJSON_AddNumberToObject(level, "latency_s", cluster->levels[l].latency_s);
        cJSON_AddNumberToObject(level, "overhead_s", cluster->levels[l].overhead_s);
        cJSON_AddItemToArray(levels, level);
    }
}

// Of the outermost level's workers where they differ; links join positions.
static void add_ports(cJSON *root, const Cluster *cluster)
{
    cJSON *object = cJSON_GetObjectItem(root, "cluster"), *ports = cJSON_AddArrayToObject(object, "ports");
    for (uint32_t w = 0; w < cluster->port_count; w++) {
        cJSON *port = cJSON_CreateObject();
        cJSON_AddStringToObject(port, "name", cluster->ports[w].name);
        cJSON_AddNumberToObject(port, "worker", cluster->ports[w].worker);
        cJSON_AddNumberToObject(port, "bandwidth_bytes_per_s", cluster->ports[w].bandwidth_bytes_per_s);
        cJSON_AddNumberToObject(port, "latency_s", cluster->ports[w].latency_s);
        cJSON_AddItemToArray(ports, port);
    }
    cJSON *links = cJSON_AddArrayToObject(object, "links");
    for (uint32_t i = 0; i < cluster->link_count; i++) {
        cJSON *link = cJSON_CreateObject();
        cJSON_AddNumberToObject(link, "a", cluster->links[i].a);
        cJSON_AddNumberToObject(link, "b", cluster->links[i].b);
        cJSON_AddNumberToObject(link, "bandwidth_bytes_per_s", cluster->links[i].bandwidth_bytes_per_s);
        cJSON_AddNumberToObject(link, "latency_s", cluster->links[i].latency_s);
        cJSON_AddItemToArray(links, link);
    }
}

static void add_model(cJSON *root, const Plan *plan)
{
    const ModelDims *model = &plan->model;
    cJSON *object = add_object(root, "model");
    cJSON_AddStringToObject(object, "name", model->name);
    cJSON_AddBoolToObject(object, "abstract", model->abstract);
    cJSON_AddNumberToObject(object, "layers", model->layers);
    cJSON_AddNumberToObject(object, "moe_layers", plan->choice_count);
    cJSON_AddNumberToObject(object, "experts", model->experts);
    cJSON_AddNumberToObject(object, "top_k", model->top_k);
    if (model->groups) {
        cJSON_AddNumberToObject(object, "groups", model->groups);
        cJSON_AddNumberToObject(object, "group_top_k", model->group_top_k);
    }
    if (model->zero_experts)
        cJSON_AddNumberToObject(object, "zero_experts", model->zero_experts);
    if (model->expert_bits > 0)
        cJSON_AddNumberToObject(object, "expert_bits", model->expert_bits);
    cJSON_AddNumberToObject(object, "total_parameters", model->total_parameters);
    cJSON_AddNumberToObject(object, "active_parameters", model->active_parameters);
    cJSON_AddNumberToObject(object, "data_bytes", model->data_bytes);
    cJSON_AddNumberToObject(object, "expert_bytes", model->expert_bytes);
    cJSON_AddNumberToObject(object, "pre_expert_s", model->pre_expert_s);
    cJSON_AddNumberToObject(object, "replica_levels", plan->replica_levels);
}

static cJSON *domain_array(const Plan *plan, const uint32_t domain[LEVELS_MAX])
{
    cJSON *array = cJSON_CreateArray();
    for (uint32_t l = 0; l < plan->cluster.level_count; l++)
        cJSON_AddItemToArray(array, cJSON_CreateNumber(domain[l]));
    return array;
}

// The innermost level that is crossed once by what is gathered: "all", "none" or a level's name.
static const char *once_name(const Plan *plan, bool regather, uint32_t once)
{
    return !regather ? "all" : once == 0 ? "none" : plan->cluster.levels[once - 1].name;
}

// The same of gradients, which cross so many outermost levels once per iteration of several laps.
static const char *once_by_gradients(const Plan *plan, uint32_t levels)
{
    bool all = plan_laps(plan).count == 1 || levels >= plan->cluster.level_count;
    return once_name(plan, !all, levels);
}

static void add_layers(cJSON *solution, const Plan *plan)
{
    cJSON *layers = cJSON_AddArrayToObject(solution, "layers");
    Arena *scratch = arena_create();
    const double *gather_s = plan_layers_seconds(plan, SHAPE_GATHER, scratch);
    const double *exchange_s = plan_layers_seconds(plan, SHAPE_EXCHANGE, scratch);
    for (uint32_t i = 0; i < plan->choice_count; i++) {
        const Choice *choice = &plan->choices[i];
        cJSON *layer = cJSON_CreateObject();
        cJSON_AddNumberToObject(layer, "layer", choice->layer);
        cJSON_AddItemToObject(layer, "domain", domain_array(plan, choice->domain));
        cJSON *share = cJSON_AddArrayToObject(layer, "a2a_fraction");
        cJSON *paper = cJSON_AddArrayToObject(layer, "a2a_fraction_paper"); // 1 - S / n, as HybridEP prints it
        for (uint32_t l = 0; l < plan->cluster.level_count; l++) {
            cJSON_AddItemToArray(share, cJSON_CreateNumber(plan_token_share(plan, choice, l)));
            double whole = (double)choice->domain[l] / plan->cluster.levels[l].count;
            cJSON_AddItemToArray(paper, cJSON_CreateNumber(1 - whole));
        }
        cJSON_AddNumberToObject(layer, "gather_s", gather_s[choice->layer]);
        cJSON_AddNumberToObject(layer, "exchange_s", exchange_s[choice->layer]);
        cJSON_AddBoolToObject(layer, "regather", choice->regather);
        cJSON_AddStringToObject(layer, "once", once_name(plan, choice->regather, choice->once));
        cJSON_AddStringToObject(layer, "once_gradient", once_by_gradients(plan, plan_gradient_levels(plan, choice)));
        cJSON_AddItemToArray(layers, layer);
    }
    arena_destroy(scratch);
}

static void add_verdict(cJSON *solution, const Plan *plan)
{
    const Strategy *best = plan_best_baseline(plan);
    Text decision = {0};
    decision_append(plan, &decision);
    cJSON_AddStringToObject(solution, "decision", decision.data ? decision.data : "");
    text_free(&decision);
    if (best) {
        cJSON_AddStringToObject(solution, "best_baseline", best->name);
        cJSON_AddNumberToObject(solution, "over_best_baseline", plan_speed_up(plan, best));
    } else { // none fits
        cJSON_AddNullToObject(solution, "best_baseline");
        cJSON_AddNullToObject(solution, "over_best_baseline");
    }
}

// null where the model has no tokens, or no parameters.
static void add_known(cJSON *object, const char *key, double value)
{
    if (value > 0)
        cJSON_AddNumberToObject(object, key, value);
    else
        cJSON_AddNullToObject(object, key);
}

static void add_throughput(cJSON *object, const Plan *plan, double iteration_s)
{
    add_known(object, "tokens_per_s", plan_tokens_per_s(plan, iteration_s));
    add_known(object, "flop_utilisation", plan_flop_utilisation(plan, iteration_s));
}

static void add_solution(cJSON *root, const Plan *plan, double solve_s)
{
    cJSON *object = add_object(root, "solution");
    cJSON_AddStringToObject(object, "solver", plan->solver);
    cJSON_AddStringToObject(object, "status", status_name(plan->status));
    cJSON_AddNumberToObject(object, "gap", plan->gap);
    cJSON_AddNumberToObject(object, "bound_s", plan->iteration_s * (1 - plan->gap));
    if (plan->replica_slots) // gathered layers alive at a time; null: no limit
        cJSON_AddNumberToObject(object, "replica_slots", plan->replica_slots);
    else
        cJSON_AddNullToObject(object, "replica_slots");
    cJSON_AddBoolToObject(object, "regather_dense", plan->regather_dense);
    cJSON_AddBoolToObject(object, "regather_embedding", plan->regather_embedding);
    cJSON_AddStringToObject(object, "once_dense", once_name(plan, plan->regather_dense, plan->once_dense));
    cJSON_AddStringToObject(object, "once_dense_gradient", once_by_gradients(plan, plan_dense_gradient_levels(plan)));
    if (solve_s >= 0)
        cJSON_AddNumberToObject(object, "solve_s", solve_s);
    else
        cJSON_AddNullToObject(object, "solve_s");
    cJSON_AddNumberToObject(object, "iteration_s", plan->iteration_s);
    cJSON_AddNumberToObject(object, "simulated_s", simulated_iteration_s(plan));
    cJSON_AddNumberToObject(object, "micro_batch_s", plan->iteration_s / plan->micro_batches);
    add_throughput(object, plan, plan->iteration_s);
    add_verdict(object, plan);
    add_layers(object, plan);
}

static void add_traffic(cJSON *parent, const Plan *plan, const Strategy *strategy)
{
    cJSON *array = cJSON_AddArrayToObject(parent, "traffic");
    for (uint32_t l = 0; l < plan->cluster.level_count; l++) {
        const Traffic *traffic = &strategy->traffic[l];
        cJSON *object = cJSON_CreateObject();
        cJSON_AddStringToObject(object, "level", plan->cluster.levels[l].name);
        cJSON_AddNumberToObject(object, "exchange_bytes", traffic->exchange_bytes);
        cJSON_AddNumberToObject(object, "padding_bytes", traffic->padding_bytes);
        cJSON_AddNumberToObject(object, "routing_bytes", traffic->routing_bytes);
        cJSON_AddNumberToObject(object, "gather_bytes", traffic->gather_bytes);
        cJSON_AddNumberToObject(object, "reduce_bytes", traffic->reduce_bytes);
        cJSON_AddNumberToObject(object, "dense_gather_bytes", traffic->dense_gather_bytes);
        cJSON_AddNumberToObject(object, "dense_reduce_bytes", traffic->dense_reduce_bytes);
        cJSON_AddItemToArray(array, object);
    }
}

static void add_baselines(cJSON *root, const Plan *plan)
{
    cJSON *object = add_object(root, "baselines");
    for (uint32_t i = 1; i < plan->strategy_count; i++) {
        const Strategy *strategy = &plan->strategies[i];
        cJSON *baseline = add_object(object, strategy->name);
        cJSON_AddNumberToObject(baseline, "iteration_s", strategy->iteration_s);
        cJSON_AddNumberToObject(baseline, "exposed_s", strategy->exposed_s);
        add_throughput(baseline, plan, strategy->iteration_s);
        cJSON_AddStringToObject(baseline, "dispatch", dispatch_name(strategy->dispatch));
        cJSON_AddItemToObject(baseline, "domain", domain_array(plan, strategy->domain));
        cJSON_AddNumberToObject(baseline, "memory_bytes", strategy->memory_bytes);
        cJSON_AddBoolToObject(baseline, "fits", strategy->fits);
        add_traffic(baseline, plan, strategy);
    }
}

// In what rows travel, by what they are.
static void add_tokens(cJSON *root, const Plan *plan)
{
    cJSON *tokens = add_object(root, "tokens");
    for (uint32_t way = 0; way < (plan->pass == PASS_TRAINING ? TOKEN_WAYS : WAY_COMBINE + 1); way++)
        cJSON_AddStringToObject(tokens, token_way_name((TokenWay)way), token_format_name(plan->tokens[way]));
}

// How weights of a kind of bundle travel.
static void add_coding(cJSON *object, const Plan *plan, const Coding *coding)
{
    bool encodes = codec_info(coding->codec)->encodes, returns = coding->gradient != GRADIENT_DENSE;
    double sent = encodes ? packing_ratio(coding_packing(coding), plan->model.dtype) : 1;
    double returned = returns ? packing_ratio(coding_gradient_packing(coding), plan->model.dtype) : 1;
    cJSON_AddStringToObject(object, "codec", codec_name(coding->codec));
    cJSON_AddNumberToObject(object, "codec_ratio", sent);
    cJSON_AddNumberToObject(object, "whole_levels", coding->whole_levels);
    cJSON_AddStringToObject(object, "gradient", gradient_name(coding->gradient));
    cJSON_AddNumberToObject(object, "gradient_ratio", returned);
}

static void add_sync(cJSON *root, const LocalSteps *sync)
{
    cJSON *object = add_object(root, "sync");
    cJSON_AddNumberToObject(object, "every", sync->every);
    cJSON_AddStringToObject(object, "optimizer", outer_optimizer_name(sync->optimizer));
    cJSON_AddNumberToObject(object, "learning_rate", sync->learning_rate);
    cJSON_AddNumberToObject(object, "momentum", sync->momentum);
}

// What everything that is not exact costs of the loss, by our own study; null where it has no figure.
static void add_price(cJSON *root, const Plan *plan)
{
    LossyChoice choices[PRICED_PARTS];
    PricedPart missing;
    double increase;
    lossy_choices(&plan->experts, &plan->dense, plan->tokens, choices);
    if (plan->pass == PASS_TRAINING && plan->sync.every == 0 && price_sum(choices, &increase, &missing))
        cJSON_AddNumberToObject(root, "loss_increase", increase);
    else
        cJSON_AddNullToObject(root, "loss_increase");
}

void json_print(const Plan *plan, double solve_s, uint64_t plan_bytes, Text *out)
{
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "format", "hep-plan");
    cJSON_AddNumberToObject(root, "version", 1);
    add_cluster(root, &plan->cluster);
    if (plan->cluster.port_count)
        add_ports(root, &plan->cluster);
    add_model(root, plan);
    cJSON_AddStringToObject(root, "pass", pass_name(plan->pass));
    cJSON_AddNumberToObject(root, "micro_batches", plan->micro_batches);
    cJSON_AddNumberToObject(root, "lap", plan_laps(plan).each);
    cJSON_AddNumberToObject(root, "abreast", plan_abreast(plan));
    cJSON_AddNumberToObject(root, "bucket", plan->bucket);
    cJSON_AddBoolToObject(root, "recompute", plan->recompute);
    cJSON_AddStringToObject(root, "dispatch", dispatch_name(plan->dispatch));
    cJSON_AddStringToObject(root, "exchange", exchange_kind_name(plan->exchange));
    add_coding(root, plan, &plan->experts);
    cJSON_AddNumberToObject(root, "shared_every", plan->shared_every);
    add_coding(add_object(root, "dense"), plan, &plan->dense);
    cJSON_AddNumberToObject(root, "whole_iterations", plan->whole_iterations);
    add_tokens(root, plan);
    add_sync(root, &plan->sync);
    add_price(root, plan);
    add_solution(root, plan, solve_s);
    assignment_add_json(root, plan);
    add_baselines(root, plan);
    if (plan->strategy_count > 0)
        add_traffic(root, plan, &plan->strategies[0]);
    PlanMessages messages = plan_messages(plan);
    cJSON *counts = add_object(root, "messages");
    cJSON_AddNumberToObject(counts, "exchange", messages.exchange);
    cJSON_AddNumberToObject(counts, "gather", messages.gather);
    cJSON_AddNumberToObject(root, "memory_bytes", plan_memory_bytes(plan));
    cJSON_AddStringToObject(root, "engine", engine_kind_name(plan->cluster.device.engine));
    cJSON_AddNumberToObject(root, "engine_bytes", (double)plan->engine_bytes);
    cJSON_AddNumberToObject(root, "steps", plan->step_count);
    cJSON_AddNumberToObject(root, "executions", (double)plan_executions(plan));
    cJSON_AddNumberToObject(root, "plan_bytes", (double)plan_bytes);
    char *text = cJSON_Print(root);
    text_append(out, text);
    text_append(out, "\n");
    cJSON_free(text);
    cJSON_Delete(root);
}
