// Specs built by hand for tests of the cost model, planner and lowering.
#ifndef HEP_TEST_SPECS_H
#define HEP_TEST_SPECS_H

#include "compiler/spec/spec.h"

// One tier of `gpus` GPUs and one abstract MoE layer, forward, naive.
static inline Spec spec_one_tier(uint32_t gpus, double bandwidth, double latency_s, double data, double expert,
                                 double pre_s)
{
    Spec spec = {0};
    spec.cluster.name = "one";
    spec.cluster.level_count = 1;
    spec.cluster.levels[0] = (Level){"gpu", gpus, bandwidth, latency_s, 0};
    spec.cluster.device = (Device){60e12, 80e9, 2e12, 32, 1e12, 1e12, 1e12, 1e12, ENGINE_HOST, 0, 0};
    spec.model = (SpecModel){.name = "m",
                             .abstract = true,
                             .layers = 1,
                             .every = 1,
                             .top_k = 1,
                             .data_bytes = data,
                             .expert_bytes = expert,
                             .pre_expert_s = pre_s};
    spec.plan = (SpecPlan){.pass = PASS_FORWARD, .dispatch = DISPATCH_NAIVE, .micro_batches = 1};
    spec.plan.experts.ratio = spec.plan.experts.gradient_ratio = 1;
    spec.plan.dense.ratio = spec.plan.dense.gradient_ratio = 1;
    return spec;
}

// A small executable model on up to three levels (count 0 ends them).
static inline Spec spec_small_gpt(const uint32_t counts[3], uint32_t experts, uint32_t top_k)
{
    static const char *const names[] = {"dc", "node", "gpu"};
    Spec spec = {0};
    spec.cluster.name = "c";
    for (uint32_t l = 0; l < 3 && counts[l]; l++)
        spec.cluster.levels[spec.cluster.level_count++] =
            (Level){names[l], counts[l], 1e8 * (l * l + 1), 1e-4 / (l + 1), 0};
    spec.cluster.device = (Device){4e9, 1e9, 1e9, 32, 5e8, 5e8, 5e8, 5e8, ENGINE_HOST, 0, 0};
    spec.model = (SpecModel){.name = "gpt",
                             .dtype = DTYPE_F32,
                             .layers = 2,
                             .hidden = 16,
                             .heads = 2,
                             .kv_heads = 2,
                             .head_dim = 8,
                             .vocabulary = 64,
                             .sequence = 8,
                             .batch = 2,
                             .every = 1,
                             .experts = experts,
                             .top_k = top_k,
                             .inner = 32,
                             .activation = ACTIVATION_GELU};
    spec.plan = (SpecPlan){.pass = PASS_FORWARD, .dispatch = DISPATCH_DEDUP, .micro_batches = 1};
    spec.plan.experts.ratio = spec.plan.experts.gradient_ratio = 1;
    spec.plan.dense.ratio = spec.plan.dense.gradient_ratio = 1;
    return spec;
}

#endif
