// Questions about a checked spec.
#include "compiler/spec/spec.h"

#include <math.h>

#include "ir/bundle.h"
#include "ir/codec.h"

bool spec_layer_is_moe(const SpecModel *model, uint32_t index)
{
    if (model->is_moe)
        return model->is_moe[index];
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
        .shared_inner = model->shared_inner,
        .groups = model->groups,
        .group_top_k = model->group_top_k,
        .zero_experts = model->zero_experts,
        .expert_bits = model->expert_bits,
        .activation = model->activation,
        .total_parameters = model->total_parameters,
        .active_parameters = model->active_parameters,
    };
}

SpecMixer spec_mixer(const SpecModel *model, uint32_t layer)
{
    uint32_t index = model->mixer ? model->mixer[layer] : model->mixer_count;
    if (index < model->mixer_count)
        return model->mixers[index];
    double attended = (double)model->heads * model->head_dim, shared = (double)model->kv_heads * model->head_dim;
    return (SpecMixer){.name = "attention", .parameters = 2 * model->hidden * (attended + shared), .scored = attended};
}

bool spec_lists_layers(const SpecModel *model)
{
    return model->mixer_count > 0 || model->inner_each || model->dense_bits > 0;
}

uint32_t spec_layer_inner(const SpecModel *model, uint32_t layer)
{
    return model->inner_each ? model->inner_each[layer] : model->ffn_inner;
}

// Without the norms, router included: what is stored in few bits, and what is not.
static double dense_matrices(const SpecModel *model, uint32_t layer)
{
    ModelDims dims = spec_dims(model);
    double matrices = activation_matrices(model->activation);
    double feed_forward = spec_layer_is_moe(model, layer) ? (double)model_shared_elements(&dims)
                                                          : matrices * model->hidden * spec_layer_inner(model, layer);
    return spec_mixer(model, layer).parameters + feed_forward;
}

uint64_t spec_dense_elements(const SpecModel *model, uint32_t layer)
{
    ModelDims dims = spec_dims(model);
    double router = spec_layer_is_moe(model, layer) ? (double)(model_router_elements(&dims)) : 2.0 * model->hidden;
    return (uint64_t)(dense_matrices(model, layer) + router + 2.0 * model->hidden);
}

double spec_dense_bits(const SpecModel *model, uint32_t layer)
{
    if (model->dense_bits <= 0)
        return 0;
    double all = (double)spec_dense_elements(model, layer), matrices = dense_matrices(model, layer);
    return (matrices * model->dense_bits + (all - matrices) * 8.0 * dtype_bytes(model->dtype)) / all;
}

double spec_computing_part(const SpecModel *model)
{
    double outputs = (double)model->experts + model->zero_experts;
    return outputs > 0 ? model->experts / outputs : 1;
}

void spec_count_parameters(SpecModel *model)
{
    ModelDims dims = spec_dims(model);
    double hidden = model->hidden, expert = (double)model_expert_elements(&dims), moe_layers = 0;
    double everywhere = (double)model_embedding_elements(&dims);
    if (model->published)
        everywhere = (model->head_apart ? 2 : 1) * hidden * model->vocabulary + hidden;
    for (uint32_t k = 0; k < model->layers; k++) {
        bool is_moe = spec_layer_is_moe(model, k);
        moe_layers += is_moe;
        everywhere += (double)spec_dense_elements(model, k);
        if (!model->published)
            continue;
        bool has_mixer = spec_mixer(model, k).parameters > 0, has_inner = is_moe || spec_layer_inner(model, k) > 0;
        everywhere -= (4.0 - has_mixer - has_inner) * hidden; // one gain for each part that is there, and no bias
    }
    model->total_parameters = everywhere + moe_layers * model->experts * expert;
    double positions = model->published ? 0 : (double)model->sequence * hidden; // of which a token adds one row
    model->active_parameters = everywhere - positions + moe_layers * model->top_k * spec_computing_part(model) * expert;
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

uint32_t spec_replica_levels(const Spec *spec)
{
    const Cluster *cluster = &spec->cluster;
    uint32_t requested = spec->plan.replicas, experts = spec->model.experts;
    if (spec->plan.pass == PASS_TRAINING)
        return 0;
    if (experts >= cluster_gpus(cluster))
        return requested;
    for (uint32_t kept = requested > 0 ? requested : 1; kept < cluster->level_count; kept++)
        if (experts % share_gpus(cluster, kept) == 0)
            return kept;
    return requested;
}

uint64_t spec_owners(const Spec *spec)
{
    return share_gpus(&spec->cluster, spec->replica_levels);
}

uint32_t spec_shared_levels(const Spec *spec)
{
    return cluster_wide_levels(&spec->cluster) >> spec->replica_levels << spec->replica_levels;
}

bool spec_owns_whole_experts(const Spec *spec)
{
    return spec->model.experts % share_gpus(&spec->cluster, spec->replica_levels) == 0;
}

uint32_t spec_coded_levels(const Spec *spec)
{
    return coding_levels(&spec->plan.experts, spec->cluster.level_count);
}

bool spec_needs_whole_experts(const Spec *spec)
{
    return !spec->model.abstract && (int)spec->plan.experts.codec != CODEC_AUTO &&
           codec_info(spec->plan.experts.codec)->has_mean;
}

bool spec_encodes_experts(const Spec *spec)
{
    bool weights = (int)spec->plan.experts.codec != CODEC_AUTO && codec_info(spec->plan.experts.codec)->encodes;
    return !spec->model.abstract && (weights || spec->plan.experts.gradient != GRADIENT_DENSE);
}

bool spec_encodes(const Spec *spec)
{
    return spec_encodes_experts(spec) || coding_encodes(&spec->plan.dense);
}

bool spec_coding_is_possible(const Spec *spec)
{
    bool whole = !spec_needs_whole_experts(spec) || spec_owns_whole_experts(spec);
    bool again = spec->plan.once_dense == ONCE_DENSE_NONE || spec->plan.once_embedding == ONCE_DENSE_NONE;
    return whole && !(again && coding_encodes(&spec->plan.dense)) && (spec->plan.lap == 0 || !spec_encodes(spec));
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

bool spec_can_regather_embedding(const Spec *spec)
{
    return spec->plan.pass == PASS_TRAINING && !spec->model.abstract && spec->plan.micro_batches > 1 &&
           !coding_encodes(&spec->plan.dense) && spec_shared_levels(spec) >> spec_embedding_levels(spec);
}

bool spec_regathers_embedding(const Spec *spec)
{
    return spec->plan.regather_embedding && spec_can_regather_embedding(spec);
}

uint32_t spec_dense_gradient_levels(const Spec *spec)
{
    const SpecPlan *plan = &spec->plan;
    uint32_t kept = plan->regather_dense ? plan->dense_levels : spec->cluster.level_count;
    return plan->returns_apart && plan->gradient_levels < kept ? plan->gradient_levels : kept;
}

uint32_t spec_embedding_levels(const Spec *spec)
{
    return spec->plan.regather_dense ? spec->plan.dense_levels : 0;
}

Laps spec_laps(const Spec *spec)
{
    uint32_t all = spec->plan.micro_batches, lap = spec->plan.lap;
    uint32_t each = lap > 0 && all % lap == 0 ? lap : all;
    return (Laps){all / each, each};
}

uint32_t spec_abreast_possible(const Spec *spec)
{
    uint32_t each = spec_laps(spec).each;
    return each % 2 == 0 ? 2 : each % 3 == 0 ? 3 : 1;
}

uint32_t spec_abreast(const Spec *spec)
{
    return spec->plan.interleaves ? spec_abreast_possible(spec) : 1;
}

uint32_t spec_outer_levels(const Spec *spec)
{
    uint32_t wide = spec_shared_levels(spec), outermost = 1;
    if (spec->plan.pass != PASS_TRAINING || spec->model.abstract || spec_encodes(spec))
        return 0;
    while (wide && !(wide >> (outermost - 1) & 1))
        outermost++;
    return wide && wide >> outermost ? outermost : 0;
}

uint32_t spec_bucket(const Spec *spec)
{
    bool can = spec->plan.pass == PASS_TRAINING && !spec->model.abstract && !spec_encodes(spec) &&
               spec_laps(spec).count == 1 && spec->plan.sync.every == 0 && cluster_wide_levels(&spec->cluster) != 0;
    return can ? spec->plan.bucket : 0;
}

uint32_t spec_bucket_level(const Spec *spec)
{
    uint32_t wide = cluster_wide_levels(&spec->cluster), level = 0;
    while (!(wide >> level & 1))
        level++;
    return level;
}

void spec_ep_domain(const Spec *spec, uint32_t domain[LEVELS_MAX])
{
    for (uint32_t l = 0; l < LEVELS_MAX; l++)
        domain[l] = 0;
    (void)spec_least_domain(spec, domain);
}
