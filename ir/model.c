// How large a model's tensors are. Layouts are those written beside the declarations in model.h.
#include "ir/model.h"

#include <math.h>

uint64_t model_tokens(const ModelDims *dims)
{
    return (uint64_t)dims->sequence * dims->batch;
}

// Norm gain and bias, before every block.
static uint64_t norm_elements(const ModelDims *dims)
{
    return 2 * (uint64_t)dims->hidden;
}

static uint64_t feed_forward_elements(const ModelDims *dims, uint64_t inner)
{
    return activation_matrices(dims->activation) * (uint64_t)dims->hidden * inner;
}

double model_token_flops(const ModelDims *dims, Pass pass)
{
    if (dims->abstract || dims->active_parameters <= 0)
        return 0;
    double attended = (double)dims->heads * dims->head_dim; // scores and weighted values of half a sequence on average
    double scores = 2.0 * dims->layers * dims->sequence * attended;
    return (pass == PASS_TRAINING ? 3 : 1) * (2 * dims->active_parameters + scores);
}

uint64_t model_embedding_elements(const ModelDims *dims)
{
    return ((uint64_t)dims->vocabulary + dims->sequence) * dims->hidden + norm_elements(dims);
}

uint64_t model_attention_elements(const ModelDims *dims)
{
    uint64_t query = (uint64_t)dims->heads * dims->head_dim, key = (uint64_t)dims->kv_heads * dims->head_dim;
    return norm_elements(dims) + 2 * (uint64_t)dims->hidden * (query + key);
}

uint64_t model_router_elements(const ModelDims *dims)
{
    return norm_elements(dims) + (uint64_t)dims->hidden * ((uint64_t)dims->experts + dims->zero_experts);
}

uint64_t model_ffn_elements(const ModelDims *dims)
{
    return norm_elements(dims) + feed_forward_elements(dims, dims->ffn_inner);
}

uint64_t model_expert_elements(const ModelDims *dims)
{
    return feed_forward_elements(dims, dims->inner);
}

uint64_t model_shared_inner(const ModelDims *dims)
{
    return dims->shared_inner ? dims->shared_inner : (uint64_t)dims->shared_experts * dims->inner;
}

uint64_t model_shared_elements(const ModelDims *dims)
{
    return feed_forward_elements(dims, model_shared_inner(dims));
}

uint64_t model_packed_bytes(uint64_t elements, double bits)
{
    return (uint64_t)ceil((double)elements * bits / 8);
}

bool model_limits_groups(const ModelDims *dims)
{
    return dims->groups > dims->group_top_k;
}

uint64_t model_group_bit(const ModelDims *dims, uint32_t expert)
{
    return model_limits_groups(dims) ? 1ull << expert / (dims->experts / dims->groups) : 0;
}

bool model_group_allows(const ModelDims *dims, uint64_t open, uint32_t expert)
{
    uint32_t count = 0;
    for (uint64_t rest = open; rest; rest &= rest - 1)
        count++;
    return !model_limits_groups(dims) || count < dims->group_top_k || (open & model_group_bit(dims, expert));
}

Dtype model_expert_dtype(const ModelDims *dims)
{
    return dims->expert_bits > 0 ? DTYPE_U8 : dims->dtype;
}

uint64_t model_expert_units(const ModelDims *dims)
{
    uint64_t elements = model_expert_elements(dims);
    return dims->expert_bits > 0 ? model_packed_bytes(elements, dims->expert_bits) : elements;
}

bool model_has_part(const ModelDims *dims, DensePart part, bool is_moe)
{
    switch (part) {
    case DENSE_ATTENTION:
        return true;
    case DENSE_ROUTER:
        return is_moe;
    case DENSE_SHARED:
        return is_moe && model_shared_inner(dims) > 0;
    case DENSE_FFN:
        return !is_moe;
    case DENSE_PARTS:
        break;
    }
    return false;
}

ModelRange model_dense_range(const ModelDims *dims, DensePart part)
{
    uint64_t attention = model_attention_elements(dims);
    switch (part) {
    case DENSE_ATTENTION:
        return (ModelRange){0, attention};
    case DENSE_ROUTER:
        return (ModelRange){attention, model_router_elements(dims)};
    case DENSE_SHARED:
        return (ModelRange){attention + model_router_elements(dims), model_shared_elements(dims)};
    case DENSE_FFN:
        return (ModelRange){attention, model_ffn_elements(dims)};
    case DENSE_PARTS:
        break;
    }
    return (ModelRange){0};
}

uint64_t model_dense_elements(const ModelDims *dims, bool is_moe)
{
    uint64_t elements = 0;
    for (int part = 0; part < DENSE_PARTS; part++)
        if (model_has_part(dims, (DensePart)part, is_moe))
            elements += model_dense_range(dims, (DensePart)part).count;
    return elements;
}

// The norm before attention, and that before the router or the dense feed-forward part.
ModelRanges model_undecayed_dense(const ModelDims *dims)
{
    return (ModelRanges){2, {{0, norm_elements(dims)}, {model_attention_elements(dims), norm_elements(dims)}}};
}

ModelRanges model_undecayed_embedding(const ModelDims *dims)
{
    return (ModelRanges){1, {{model_embedding_elements(dims) - norm_elements(dims), norm_elements(dims)}}};
}
