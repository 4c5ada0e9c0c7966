// Writes profiles: see profile.h. Times are those of the report, medians of the slowest rank; waits for peers are in
// none of them, as only steps that compute are taken.
#include "runtime/report/profile.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>

// Of an op in a layer, of no layer: NONE. Micro-batches and recomputed activations execute it several times: the mean.
static double op_s(const Report *report, Op op, int32_t layer)
{
    double sum = 0, executions = 0;
    for (uint32_t s = 0; s < report->plan->step_count; s++) {
        const Step *step = &report->plan->steps[s];
        if (step->op != op || step->layer != layer)
            continue;
        sum += report->result->step_s[s];
        executions++;
    }
    return executions > 0 ? sum / executions : 0;
}

static void add_backward(const Report *report, int32_t layer, cJSON *item)
{
    if (report->plan->pass != PASS_TRAINING)
        return;
    cJSON_AddNumberToObject(item, "pre_expert_backward_s", op_s(report, OP_PRE_EXPERT_BACKWARD, layer));
    cJSON_AddNumberToObject(item, "dense_backward_s",
                            op_s(report, OP_FFN_BACKWARD, layer) + op_s(report, OP_SHARED_EXPERT_BACKWARD, layer));
    cJSON_AddNumberToObject(item, "gate_backward_s", op_s(report, OP_GATE_BACKWARD, layer));
    cJSON_AddNumberToObject(item, "expert_backward_s", op_s(report, OP_EXPERT_BACKWARD, layer));
}

static const Choice *choice_of(const Plan *plan, uint32_t layer)
{
    for (uint32_t c = 0; c < plan->choice_count; c++)
        if (plan->choices[c].layer == layer)
            return &plan->choices[c];
    return NULL;
}

typedef struct {
    double held;    // experts of a GPU
    double busiest; // choices that fall on the busiest domain, over the average one's
} ExpertLoad;

static ExpertLoad load_of(const Plan *plan, const Choice *choice, const double *histogram)
{
    uint64_t domains = share_places(&plan->cluster, choice->domain);
    ExpertLoad load = {.held = (double)plan->model.experts / (double)domains, .busiest = 1};
    double *chosen = calloc(domains, sizeof(*chosen)), total = 0, most = 0;
    for (uint32_t e = 0; chosen && e < plan->model.experts; e++) {
        chosen[e / (plan->model.experts / domains)] += histogram[e];
        total += histogram[e];
    }
    for (uint64_t d = 0; chosen && d < domains; d++)
        most = fmax(most, chosen[d]);
    if (total > 0)
        load.busiest = most * (double)domains / total;
    free(chosen);
    return load;
}

static cJSON *json_layer(const Report *report, uint32_t layer)
{
    const Plan *plan = report->plan;
    const ModelDims *model = &plan->model;
    const Choice *choice = choice_of(plan, layer);
    cJSON *item = cJSON_CreateObject();
    int32_t index = (int32_t)layer;
    cJSON_AddNumberToObject(item, "layer", layer);
    cJSON_AddNumberToObject(item, "pre_expert_s", op_s(report, OP_PRE_EXPERT, index));
    cJSON_AddNumberToObject(item, "dense_s", op_s(report, OP_FFN, index) + op_s(report, OP_SHARED_EXPERT, index));
    add_backward(report, index, item);
    if (!choice)
        return item;
    const double *histogram = report->result->histogram + (size_t)(choice - plan->choices) * model->experts;
    ExpertLoad load = load_of(plan, choice, histogram);
    double rows = (double)model_tokens(model) * model->top_k;
    cJSON_AddNumberToObject(item, "gate_s", op_s(report, OP_GATE, index));
    cJSON_AddNumberToObject(item, "expert_s", op_s(report, OP_EXPERT, index));
    cJSON_AddNumberToObject(item, "expert_rows", rows / load.held);
    cJSON_AddNumberToObject(item, "expert_flops",
                            2 * rows * load.busiest * activation_matrices(model->activation) * model->hidden *
                                model->inner);
    cJSON_AddItemToObject(item, "histogram", cJSON_CreateDoubleArray(histogram, (int)model->experts));
    return item;
}

static cJSON *json_layers(const Report *report)
{
    cJSON *layers = cJSON_CreateArray();
    for (uint32_t k = 0; k < report->plan->model.layers; k++)
        cJSON_AddItemToArray(layers, json_layer(report, k));
    return layers;
}

void profile_print(const Report *report, Text *out)
{
    const ModelDims *model = &report->plan->model;
    cJSON *root = cJSON_CreateObject(), *dims = cJSON_AddObjectToObject(root, "model");
    cJSON_AddStringToObject(root, "format", "hep-profile");
    cJSON_AddNumberToObject(root, "profile_version", 1);
    cJSON_AddNumberToObject(dims, "layers", model->layers);
    cJSON_AddNumberToObject(dims, "hidden", model->hidden);
    cJSON_AddNumberToObject(dims, "sequence", model->sequence);
    cJSON_AddNumberToObject(dims, "batch", model->batch);
    cJSON_AddNumberToObject(dims, "experts", model->experts);
    cJSON_AddNumberToObject(dims, "top_k", model->top_k);
    cJSON_AddNumberToObject(dims, "inner", model->inner);
    cJSON_AddNumberToObject(root, "loss_s", op_s(report, OP_LOSS, NONE));
    if (report->plan->pass == PASS_TRAINING)
        cJSON_AddNumberToObject(root, "loss_backward_s", op_s(report, OP_LOSS_BACKWARD, NONE));
    cJSON_AddItemToObject(root, "layers", json_layers(report));
    report_add_json(report, root);
    char *printed = cJSON_Print(root);
    if (printed)
        text_append(out, printed);
    text_append(out, "\n");
    cJSON_free(printed);
    cJSON_Delete(root);
}
