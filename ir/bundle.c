// See bundle.h.
#include "ir/bundle.h"

#include <string.h>

uint64_t share_elements(uint64_t elements, uint64_t owners)
{
    uint64_t share = elements / owners + (elements % owners > 0);
    return (share + SHARE_ALIGNMENT - 1) / SHARE_ALIGNMENT * SHARE_ALIGNMENT;
}

uint64_t share_of_rank(const Cluster *cluster, uint32_t kept_levels, uint64_t rank)
{
    uint64_t index = 0, stride = 1;
    for (uint32_t l = kept_levels; l < cluster->level_count; l++) {
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

uint32_t plan_shared_levels(const Plan *plan)
{
    return cluster_wide_levels(&plan->cluster) >> plan->replica_levels << plan->replica_levels;
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
    uint64_t owners = share_gpus(&plan->cluster, plan->replica_levels);
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
    uint64_t begin = shape.owners > 1 ? share_of_rank(&plan->cluster, plan->replica_levels, rank) * shape.share : 0;
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

WeightKind bundle_weights(WeightKind kind, int32_t layer)
{
    bool remembered = kind == WEIGHT_DENSE_SENT || kind == WEIGHT_DENSE_REPLICAS || kind == WEIGHT_DENSE_ERROR;
    return !remembered ? kind : layer == NONE ? WEIGHT_EMBEDDING : WEIGHT_DENSE;
}

uint64_t bundle_vector_elements(const Plan *plan, WeightKind kind, int32_t layer)
{
    bool shared = kind == WEIGHT_DENSE || kind == WEIGHT_EMBEDDING;
    return shared ? bundle_shape(plan, kind, layer).share : plan_share_shape(plan).cols;
}

static bool is_memory(WeightKind kind)
{
    return kind >= WEIGHT_MEAN;
}

static void note_kind(WeightKind kinds[], int32_t buffer, WeightKind kind)
{
    if (buffer != NONE && kinds[buffer] == WEIGHT_NONE)
        kinds[buffer] = kind;
}

// One buffer holds what another one does, or what is made of it.
static void pass_on(WeightKind kinds[], int32_t from, int32_t to)
{
    if (from != NONE)
        note_kind(kinds, to, kinds[from]);
}

// Weights are known where they are used: what they were made of came before.
static void trace_weights(const Plan *plan, WeightKind kinds[])
{
    for (uint32_t s = plan->step_count; s-- > 0;) {
        StepBuffers of = step_buffers(plan, &plan->steps[s]);
        if (plan->steps[s].op == OP_GATHER) {
            pass_on(kinds, of.gather.gathered, of.gather.shard);
        } else if (plan->steps[s].op == OP_DECODE) {
            int32_t decoded = of.decode.replicas == NONE ? of.decode.gathered : of.decode.replicas;
            pass_on(kinds, decoded, of.decode.packet);
            pass_on(kinds, decoded, of.decode.own);
        } else if (plan->steps[s].op == OP_ENCODE) {
            pass_on(kinds, of.encode.packet, of.encode.own);
        }
    }
}

// Gradients are known where they are made: what is made of them comes after.
static void trace_gradients(const Plan *plan, WeightKind kinds[])
{
    for (uint32_t s = 0; s < plan->step_count; s++) {
        StepBuffers of = step_buffers(plan, &plan->steps[s]);
        switch (plan->steps[s].op) {
        case OP_REDUCE_SCATTER:
            pass_on(kinds, of.reduce_scatter.gathered, of.reduce_scatter.shard);
            break;
        case OP_ENCODE_GRADIENT:
            pass_on(kinds, of.encode_gradient.gathered, of.encode_gradient.packets);
            break;
        case OP_RETURN_PACKETS:
            pass_on(kinds, of.return_packets.packets, of.return_packets.received);
            break;
        case OP_DECODE_GRADIENT:
            pass_on(kinds, of.decode_gradient.gathered, of.decode_gradient.shard);
            break;
        case OP_ACCUMULATE:
            pass_on(kinds, of.accumulate.part, of.accumulate.sum);
            break;
        case OP_ADD_RETURNED:
            pass_on(kinds, of.add_returned.part, of.add_returned.sum);
            break;
        case OP_ROUND:
            pass_on(kinds, of.round.sum, of.round.gradient);
            break;
        case OP_ROUND_RETURNED:
            pass_on(kinds, of.round_returned.sum, of.round_returned.gradient);
            break;
        default:
            break;
        }
    }
}

static void note_memory(const Plan *plan, WeightKind kinds[], int32_t buffer, WeightKind kind)
{
    if (buffer != NONE && plan->buffers[buffer].kind == BUFFER_REPLICA && kinds[buffer] == WEIGHT_NONE)
        kinds[buffer] = kind;
}

static WeightKind memory_of(const WeightKind kinds[], int32_t weights, WeightKind of_experts, WeightKind of_dense)
{
    bool dense = weights != NONE && (kinds[weights] == WEIGHT_DENSE || kinds[weights] == WEIGHT_EMBEDDING);
    return dense ? of_dense : of_experts;
}

// What codecs remember are no weights, although steps use replicas as such: they are called what they are.
static void name_memories(const Plan *plan, WeightKind kinds[])
{
    for (uint32_t b = 0; b < plan->buffer_count; b++)
        if (plan->buffers[b].kind == BUFFER_REPLICA)
            kinds[b] = WEIGHT_NONE;
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const Step *step = &plan->steps[s];
        StepBuffers of = step_buffers(plan, step);
        note_memory(plan, kinds, step_operand(plan, step, OPERAND_mean), WEIGHT_MEAN);
        if (step->op == OP_ENCODE)
            note_memory(plan, kinds, of.encode.sent, memory_of(kinds, of.encode.own, WEIGHT_SENT, WEIGHT_DENSE_SENT));
        else if (step->op == OP_DECODE)
            note_memory(plan, kinds, of.decode.replicas,
                        memory_of(kinds, of.decode.own, WEIGHT_REPLICAS, WEIGHT_DENSE_REPLICAS));
        else if (step->op == OP_ENCODE_GRADIENT)
            note_memory(plan, kinds, of.encode_gradient.error,
                        memory_of(kinds, of.encode_gradient.gathered, WEIGHT_ERROR, WEIGHT_DENSE_ERROR));
    }
}

void bundle_kinds(const Plan *plan, WeightKind kinds[])
{
    memset(kinds, 0, plan->buffer_count * sizeof(*kinds)); // WEIGHT_NONE
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const OpInfo *info = op_info((int)plan->steps[s].op);
        for (uint32_t o = 0; o < info->operand_count; o++) {
            WeightKind kind = operand_weight(info->operands[o].operand);
            if (!is_memory(kind))
                note_kind(kinds, step_operands(plan, &plan->steps[s])[o], kind);
        }
    }
    trace_weights(plan, kinds);
    trace_gradients(plan, kinds);
    name_memories(plan, kinds);
}
