// Questions about a checked spec.
#include "compiler/spec/spec.h"

#include "ir/codec.h"

bool spec_layer_is_moe(const SpecModel *model, uint32_t index)
{
    return index >= model->first_dense && (index + 1) % model->every == 0;
}

ModelDims spec_dims(const SpecModel *model)
{
    return (ModelDims){
        .name = model->name,
        .abstract = model->abstract,
        .dtype = model->dtype,
        .layers = model->layers,
        .hidden = model->hidden,
        .heads = model->heads,
        .kv_heads = model->kv_heads,
        .head_dim = model->head_dim,
        .vocabulary = model->vocabulary,
        .sequence = model->sequence,
        .batch = model->batch,
        .ffn_inner = model->ffn_inner,
        .experts = model->experts,
        .top_k = model->top_k,
        .inner = model->inner,
        .shared_experts = model->shared_experts,
        .activation = model->activation,
        .total_parameters = model->total_parameters,
        .active_parameters = model->active_parameters,
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
    double positions = (double)model->sequence * model->hidden; // of which a token adds one row
    model->active_parameters = everywhere - positions + moe_layers * model->top_k * expert;
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

uint32_t spec_replica_levels(const Cluster *cluster, Pass pass, uint64_t experts)
{
    if (pass == PASS_TRAINING || experts >= cluster_gpus(cluster))
        return 0;
    for (uint32_t kept = 1; kept < cluster->level_count; kept++)
        if (experts % share_gpus(cluster, kept) == 0)
            return kept;
    return 0;
}

bool spec_owns_whole_experts(const Spec *spec)
{
    return spec->model.experts % share_gpus(&spec->cluster, spec->replica_levels) == 0;
}

bool spec_encodes_experts(const Spec *spec)
{
    bool weights = (int)spec->plan.codec != CODEC_AUTO && codec_info(spec->plan.codec)->encodes;
    return !spec->model.abstract && (weights || spec->plan.gradient != GRADIENT_DENSE);
}

bool spec_domain_is_valid(const Spec *spec, const uint32_t domain[LEVELS_MAX])
{
    return spec->model.experts % share_places(&spec->cluster, domain) == 0;
}

static uint64_t greatest_common_divisor(uint64_t a, uint64_t b)
{
    while (b) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

// Every prime factor of the experts goes to the innermost levels that can take it, which leaves most places in all and
// fewest outermost. An abstract workload that does not say how many experts there are goes with any sizes.
bool spec_least_domain(const Spec *spec, uint32_t domain[LEVELS_MAX])
{
    const Cluster *cluster = &spec->cluster;
    uint64_t rest = spec->model.experts, taken = 1;
    for (uint32_t l = 0; l < cluster->level_count; l++) {
        if (l < spec->replica_levels)
            domain[l] = cluster->levels[l].count;
        taken *= domain[l] ? cluster->levels[l].count / domain[l] : 1;
    }
    if (rest % taken != 0)
        return false;
    rest /= taken;
    for (uint32_t l = cluster->level_count; l-- > 0;) {
        uint64_t count = cluster->levels[l].count;
        if (domain[l])
            continue;
        uint64_t members = rest ? greatest_common_divisor(count, rest) : count;
        domain[l] = (uint32_t)(count / members);
        rest /= members;
    }
    return true;
}

void spec_ep_domain(const Spec *spec, uint32_t domain[LEVELS_MAX])
{
    for (uint32_t l = 0; l < LEVELS_MAX; l++)
        domain[l] = 0;
    (void)spec_least_domain(spec, domain);
}
