// The verifier's property of flow: what every buffer holds, followed step by step through the whole
// schedule. Why this proves delivery is written in docs/ir.md. Owns the walk, its begin and its end; relies on
// reads and races (any order that the edges allow gives the values of the plan's order), and on exchange and
// gather (groups are those of the choices). Abstract plans have no buffers and no flow.
#include <string.h>

#include "ir/bundle.h"
#include "ir/verify/verify_flow.h"

static void (*const flows[])(Flow *) = {
#define HEP_OP(name, text, ...) [OP_##name] = flow_##text,
#include "ir/ops.def"
};

static void flow_step(Flow *flow)
{
    const Step *step = &flow->plan->steps[flow->step];
    flow->layer = step->layer;
    flow->level = step->level == NONE ? 0 : (uint32_t)step->level;
    flows[step->op](flow);
}

static void begin(Flow *flow)
{
    const Plan *plan = flow->plan;
    const Cluster *cluster = &plan->cluster;
    flow->all = plan_shared_levels(plan);
    flow->apart = plan->sync.every > 0 ? cluster_wide_levels(cluster) & ~flow->all : 0;
    flow->shared = plan->pass == PASS_TRAINING ? flow->all : 0;
    flow->kinds = flow->verifier->kinds;
    for (uint32_t k = 0; k <= plan->model.layers; k++) {
        LayerFlow *layer = &flow->layers[k];
        memset(layer, 0xff, sizeof(*layer)); // NONE
        layer->exchanged = layer->gathered = 0;
        const Choice *choice = k < plan->model.layers ? verify_find_choice(plan, (int32_t)k) : NULL;
        for (uint32_t l = 0; choice && l < cluster->level_count; l++) {
            layer->exchanged |= (uint32_t)(cluster->levels[l].count > choice->domain[l]) << l;
            layer->gathered |= (uint32_t)(l >= plan->replica_levels && choice->domain[l] > 1) << l;
        }
    }
    for (uint32_t b = 0; b < plan->buffer_count; b++) {
        const Buffer *buffer = &plan->buffers[b];
        flow->values[b] = value_plain(HOLDS_NOTHING, buffer->layer);
        if (buffer->kind == BUFFER_WEIGHT)
            flow->values[b] = value_split(HOLDS_WEIGHT, buffer->layer, 0, (int32_t)b);
        else if (buffer->kind == BUFFER_REPLICA)
            flow->values[b] = value_split(HOLDS_REMEMBERED, buffer->layer, 0, (int32_t)b);
        flow->weight_count += buffer->kind == BUFFER_WEIGHT;
        if (buffer->kind == BUFFER_INPUT)
            flow->values[b].holds = HOLDS_TOKENS;
        else if (buffer->kind == BUFFER_STATE)
            flow->values[b].holds = HOLDS_STATE;
    }
}

// The mean of experts is whole again, where training began to sum it.
static void verify_mean_end(const Flow *flow, const LayerFlow *layer)
{
    int32_t mean = layer->remembered[WEIGHT_MEAN][0];
    if (mean == NONE)
        return;
    Value value = flow->values[mean];
    bool whole = value.holds == HOLDS_MEAN && value.levels == flow->all;
    if (flow->plan->pass == PASS_TRAINING ? !whole : value.holds != HOLDS_REMEMBERED)
        verify_fail(flow->verifier, PROPERTY_FLOW, NONE,
                    "'%.40s' is not the mean of all experts when the iteration ends", flow->plan->buffers[mean].name);
}

// Training updates every weight once; both passes end with a loss.
static void verify_end(const Flow *flow)
{
    bool loss = false;
    for (uint32_t b = 0; b < flow->plan->buffer_count; b++) {
        loss |= flow->values[b].holds == HOLDS_LOSS;
        bool updated = flow->values[b].holds == HOLDS_UPDATED, equal = flow->values[b].holds == HOLDS_EQUAL;
        if (flow->plan->sync.every > 0 && flow->plan->buffers[b].kind == BUFFER_WEIGHT) {
            if (!equal)
                verify_fail(flow->verifier, PROPERTY_FLOW, NONE, "'%.40s' differs where workers train apart: %s",
                            flow->plan->buffers[b].name,
                            updated ? "it is updated, and they do not meet" : "it is not updated");
        } else if (flow->plan->buffers[b].kind == BUFFER_WEIGHT && updated != (flow->plan->pass == PASS_TRAINING))
            verify_fail(flow->verifier, PROPERTY_FLOW, NONE, "'%.40s' is %s when the iteration ends",
                        flow->plan->buffers[b].name, updated ? "updated by a forward pass" : "not updated");
    }
    for (uint32_t k = 0; k < flow->plan->model.layers; k++)
        verify_mean_end(flow, &flow->layers[k]);
    if (!loss)
        verify_fail(flow->verifier, PROPERTY_FLOW, NONE, "the schedule ends without a loss");
}

void verify_flow(Verifier *verifier)
{
    const Plan *plan = verifier->plan;
    if (plan->model.abstract || verifier->report->total) // values follow edges and groups that are in order
        return;
    Flow flow = {.verifier = verifier,
                 .plan = plan,
                 .values = arena_alloc_array(verifier->scratch, plan->buffer_count, sizeof(Value)),
                 .layers = arena_alloc_array(verifier->scratch, (size_t)plan->model.layers + 1, sizeof(LayerFlow)),
                 .ways = arena_alloc_array(verifier->scratch, (size_t)plan->buffer_count + 1, sizeof(int8_t))};
    plan_packed_ways(plan, flow.ways);
    begin(&flow);
    for (flow.step = 0; flow.step < plan->step_count; flow.step++)
        flow_step(&flow);
    verify_end(&flow);
}
