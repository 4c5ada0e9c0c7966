// How large a model's tensors are. Layouts are those written beside the declarations in model.h.
#include "ir/model.h"

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
    return norm_elements(dims) + (uint64_t)dims->hidden * dims->experts;
}

uint64_t model_ffn_elements(const ModelDims *dims)
{
    return norm_elements(dims) + feed_forward_elements(dims, dims->ffn_inner);
}

uint64_t model_expert_elements(const ModelDims *dims)
{
    return feed_forward_elements(dims, dims->inner);
}

uint64_t model_shared_elements(const ModelDims *dims)
{
    return feed_forward_elements(dims, (uint64_t)dims->shared_experts * dims->inner);
}
