// See bundle.h.
#include "ir/bundle.h"

#include <string.h>

uint64_t share_elements(uint64_t elements, uint64_t owners)
{
    uint64_t share = elements / owners + (elements % owners > 0);
    return (share + SHARE_ALIGNMENT - 1) / SHARE_ALIGNMENT * SHARE_ALIGNMENT;
}

uint64_t share_of_rank(const Cluster *cluster, uint64_t rank)
{
    uint64_t index = 0, stride = 1;
    for (uint32_t l = 0; l < cluster->level_count; l++) {
        index += cluster_coordinate(cluster, rank, l) * stride;
        stride *= cluster->levels[l].count;
    }
    return index;
}

uint32_t cluster_wide_levels(const Cluster *cluster)
{
    uint32_t levels = 0;
    for (uint32_t l = 0; l < cluster->level_count; l++)
        levels |= (uint32_t)(cluster->levels[l].count > 1) << l;
    return levels;
}

bool plan_layer_is_moe(const Plan *plan, int32_t layer)
{
    uint32_t low = 0, high = plan->choice_count; // choices ascend
    while (layer >= 0 && low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (plan->choices[middle].layer == (uint32_t)layer)
            return true;
        if (plan->choices[middle].layer < (uint32_t)layer)
            low = middle + 1;
        else
            high = middle;
    }
    return false;
}

BundleShape bundle_shape(const Plan *plan, WeightKind kind, int32_t layer)
{
    const ModelDims *dims = &plan->model;
    uint64_t elements = kind == WEIGHT_EMBEDDING ? model_embedding_elements(dims)
                                                 : model_dense_elements(dims, plan_layer_is_moe(plan, layer));
    Dtype dtype = dims->dtype;
    if (kind != WEIGHT_EMBEDDING && layer >= 0 && (uint32_t)layer < plan->layer_count) {
        const LayerDims *own = &plan->layers[layer];
        elements = own->bits > 0 ? model_packed_bytes(own->elements, own->bits) : own->elements;
        dtype = own->bits > 0 ? DTYPE_U8 : dtype;
    }
    if (plan->pass == PASS_FORWARD)
        return (BundleShape){elements, 1, elements, dtype};
    uint64_t owners = cluster_gpus(&plan->cluster);
    return (BundleShape){elements, owners, share_elements(elements, owners), dtype};
}

ModelRanges bundle_undecayed(const Plan *plan, WeightKind kind, int32_t layer, uint64_t rank)
{
    ModelRanges own = {0};
    if (kind != WEIGHT_DENSE && kind != WEIGHT_EMBEDDING)
        return own;
    const ModelDims *dims = &plan->model;
    ModelRanges whole = kind == WEIGHT_DENSE ? model_undecayed_dense(dims) : model_undecayed_embedding(dims);
    BundleShape shape = bundle_shape(plan, kind, layer);
    uint64_t begin = shape.owners > 1 ? share_of_rank(&plan->cluster, rank) * shape.share : 0;
    uint64_t end = begin + shape.share;
    for (uint32_t r = 0; r < whole.count; r++) {
        ModelRange range = whole.ranges[r];
        uint64_t first = range.first > begin ? range.first : begin;
        uint64_t last = range.first + range.count < end ? range.first + range.count : end;
        if (first < last)
            own.ranges[own.count++] = (ModelRange){first - begin, last - first};
    }
    return own;
}

// What codecs remember are no weights, and the other way round: a step may use both as operands of one name.
static bool is_of_kind(WeightKind kind, BufferKind buffer)
{
    bool remembered = kind == WEIGHT_MEAN || kind == WEIGHT_SENT || kind == WEIGHT_REPLICAS || kind == WEIGHT_ERROR;
    return kind != WEIGHT_NONE && remembered == (buffer == BUFFER_REPLICA);
}

static void note_kind(const Plan *plan, WeightKind kinds[], int32_t buffer, WeightKind kind)
{
    if (buffer != NONE && kinds[buffer] == WEIGHT_NONE && is_of_kind(kind, plan->buffers[buffer].kind))
        kinds[buffer] = kind;
}

// Uses come after gathers and before returns: backwards for what is gathered, forwards for gradients.
void bundle_kinds(const Plan *plan, WeightKind kinds[])
{
    memset(kinds, 0, plan->buffer_count * sizeof(*kinds)); // WEIGHT_NONE
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const OpInfo *info = op_info((int)plan->steps[s].op);
        for (uint32_t o = 0; o < info->operand_count; o++)
            note_kind(plan, kinds, step_operands(plan, &plan->steps[s])[o], operand_weight(info->operands[o].operand));
    }
    for (uint32_t s = plan->step_count; s-- > 0;) {
        StepBuffers of = step_buffers(plan, &plan->steps[s]);
        if (plan->steps[s].op == OP_GATHER && of.gather.gathered != NONE)
            note_kind(plan, kinds, of.gather.shard, kinds[of.gather.gathered]);
    }
    for (uint32_t s = 0; s < plan->step_count; s++) {
        StepBuffers of = step_buffers(plan, &plan->steps[s]);
        if (plan->steps[s].op == OP_REDUCE_SCATTER && of.reduce_scatter.gathered != NONE)
            note_kind(plan, kinds, of.reduce_scatter.shard, kinds[of.reduce_scatter.gathered]);
        else if (plan->steps[s].op == OP_ACCUMULATE && of.accumulate.part != NONE)
            note_kind(plan, kinds, of.accumulate.sum, kinds[of.accumulate.part]);
        else if (plan->steps[s].op == OP_ADD_RETURNED && of.add_returned.part != NONE)
            note_kind(plan, kinds, of.add_returned.sum, kinds[of.add_returned.part]);
        else if (plan->steps[s].op == OP_ROUND && of.round.sum != NONE)
            note_kind(plan, kinds, of.round.gradient, kinds[of.round.sum]);
        else if (plan->steps[s].op == OP_ROUND_RETURNED && of.round_returned.sum != NONE)
            note_kind(plan, kinds, of.round_returned.gradient, kinds[of.round_returned.sum]);
    }
}
