// Questions about a checked spec.
#include "compiler/spec/spec.h"

bool spec_layer_is_moe(const SpecModel *model, uint32_t index)
{
    return index >= model->first_dense && (index + 1) % model->every == 0;
}

ModelDims spec_dims(const SpecModel *model)
{
    return (ModelDims){
        .name = model->name, .abstract = model->abstract, .dtype = model->dtype, .layers = model->layers,
        .hidden = model->hidden, .heads = model->heads, .kv_heads = model->kv_heads, .head_dim = model->head_dim,
        .vocabulary = model->vocabulary, .sequence = model->sequence, .batch = model->batch,
        .ffn_inner = model->ffn_inner, .experts = model->experts, .top_k = model->top_k, .inner = model->inner,
        .shared_experts = model->shared_experts, .activation = model->activation,
        .total_parameters = model->total_parameters, .active_parameters = model->active_parameters,
    };
}

void spec_count_parameters(SpecModel *model)
{
    ModelDims dims = spec_dims(model);
    double everywhere = (double)model_embedding_elements(&dims), expert = (double)model_expert_elements(&dims);
    double moe_layers = 0;
    for (uint32_t k = 0; k < model->layers; k++) {
        bool is_moe = spec_layer_is_moe(model, k);
        moe_layers += is_moe;
        everywhere += (double)model_attention_elements(&dims);
        everywhere += is_moe ? (double)(model_router_elements(&dims) + model_shared_elements(&dims))
                             : (double)model_ffn_elements(&dims);
    }
    model->total_parameters = everywhere + moe_layers * model->experts * expert;
    model->active_parameters = everywhere + moe_layers * model->top_k * expert;
}

double spec_volume(const SpecModel *model, Volume volume, uint32_t layer)
{
    const double alike[VOLUME_COUNT] = {
        [VOLUME_DATA] = model->data_bytes,
        [VOLUME_EXPERT] = model->expert_bytes,
        [VOLUME_PRE_EXPERT] = model->pre_expert_s,
        [VOLUME_EXPERT_COMPUTE] = model->expert_compute_s,
    };
    return model->each[volume] ? model->each[volume][layer] : alike[volume];
}

uint32_t spec_replica_levels(const Cluster *cluster, uint64_t experts)
{
    uint64_t sharding = cluster_gpus(cluster);
    for (uint32_t replicas = 0; replicas < cluster->level_count; replicas++) {
        if (experts % sharding == 0)
            return replicas;
        if (experts >= cluster_gpus(cluster))
            break; // enough for every GPU to own some: then all must own as many
        sharding /= cluster->levels[replicas].count;
    }
    return cluster->level_count;
}
