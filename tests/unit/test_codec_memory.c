// What codecs remember before the first iteration, and which experts a rank's tokens meet decoded: every rank makes and
// finds it alone, and the same as the others.
#include "ir/bundle.h"
#include "runtime/check/reference_codec.h"
#include "runtime/engine/engine_common.h"
#include "runtime/training/initial.h"
#include "runtime/training/weights.h"
#include "tensors.h"

enum { SEED = 3, LAYER = 1 };

// Two data centres of four GPUs, 16 experts, two of them a rank's.
static Plan *two_by_four(uint32_t outer, uint32_t inner)
{
    Plan *plan = plan_create();
    plan->cluster = (Cluster){.level_count = 2, .levels = {{"dc", 2, 1e9, 0, 0}, {"gpu", 4, 1e9, 0, 0}}};
    plan->model = (ModelDims){.name = "test",
                              .dtype = DTYPE_F32,
                              .layers = 2,
                              .hidden = 12,
                              .experts = 16,
                              .top_k = 2,
                              .inner = 25,
                              .activation = ACTIVATION_SWIGLU};
    plan->choices = arena_alloc_array(plan->arena, 1, sizeof(*plan->choices));
    plan->choices[plan->choice_count++] = (Choice){.layer = LAYER, .domain = {outer, inner}};
    return plan;
}

Test(codec_memory, the_mean_is_that_of_all_experts_as_they_are_stored)
{
    for (int d = 0; d < 3; d++) {
        Plan *plan = two_by_four(2, 1);
        plan->model.dtype = dtypes[d];
        uint64_t elements = model_expert_elements(&plan->model);
        Tensor mean = make(dtypes[d], 1, elements), all = make(dtypes[d], 16, elements);
        Tensor want = make(dtypes[d], 1, elements);
        cr_assert(initial_fill(&(Initial){plan, SEED, 5}, WEIGHT_MEAN, LAYER, mean));
        weights_fill_experts(&plan->model, SEED, LAYER, 0, 16, all);
        host_mean(16, all, want);
        cr_assert_arr_eq(mean.data, want.data, elements * dtype_bytes(dtypes[d]));
        plan_destroy(plan);
        finish();
    }
}

static void check_replicas(uint32_t outer, uint32_t inner)
{
    Plan *plan = two_by_four(outer, inner);
    uint64_t elements = model_expert_elements(&plan->model), bytes = elements * sizeof(float);
    for (uint64_t rank = 0; rank < 8; rank++) {
        Tensor replicas = make(DTYPE_F32, 2 * outer * inner, elements), sent = make(DTYPE_F32, 2, elements);
        Tensor expert = make(DTYPE_F32, 1, elements);
        uint32_t held = 0;
        const Initial initial = {plan, SEED, rank};
        cr_assert(initial_fill(&initial, WEIGHT_REPLICAS, LAYER, replicas));
        cr_assert(initial_fill(&initial, WEIGHT_SENT, LAYER, sent));
        for (uint32_t e = 0; e < 16; e++) {
            int64_t slot = plan_expert_slot(plan, plan->choices[0].domain, rank, e);
            weights_fill_experts(&plan->model, SEED, LAYER, e, 1, expert);
            if (slot >= 0)
                cr_assert_arr_eq((char *)replicas.data + (uint64_t)slot * bytes, expert.data, bytes);
            held += slot >= 0;
        }
        cr_assert_eq(held, replicas.rows);
        char *own = (char *)replicas.data + engine_own_slot(plan, &plan->experts, rank, LAYER) * bytes;
        cr_assert_arr_eq(own, sent.data, 2 * bytes, "own experts are where decoding looks for them");
    }
    plan_destroy(plan);
    finish();
}

Test(codec_memory, replicas_begin_as_the_weights_in_the_order_of_slots)
{
    check_replicas(2, 1);
    check_replicas(1, 4);
    check_replicas(2, 2);
    check_replicas(2, 4);
}

// With packets over the outer level alone: what it brings together are the shares of the ranks that differ there.
Test(codec_memory, replicas_of_outer_levels_are_those_that_packets_bring)
{
    Plan *plan = two_by_four(2, 4);
    plan->experts.whole_levels = 1;
    uint64_t elements = model_expert_elements(&plan->model), bytes = 2 * elements * sizeof(float);
    for (uint64_t rank = 0; rank < 8; rank++) {
        Tensor replicas = make(DTYPE_F32, 4, elements), own = make(DTYPE_F32, 2, elements);
        cr_assert(initial_fill(&(Initial){plan, SEED, rank}, WEIGHT_REPLICAS, LAYER, replicas));
        for (uint64_t dc = 0; dc < 2; dc++) {
            cr_assert(initial_fill(&(Initial){plan, SEED, 4 * dc + rank % 4}, WEIGHT_EXPERTS, LAYER, own));
            cr_assert_arr_eq((char *)replicas.data + dc * bytes, own.data, bytes);
        }
        cr_assert_eq(engine_own_slot(plan, &plan->experts, rank, LAYER), 2 * (rank / 4));
    }
    plan_destroy(plan);
    finish();
}

// Of dense weights and of the embedding packets over the outer level bring the shares of the ranks that differ there:
// neighbours, since gathers lay shares down outermost level first. All shares together are the bundle.
Test(codec_memory, replicas_of_dense_weights_are_the_shares_next_to_the_own_one)
{
    static const struct {
        int32_t layer;
        WeightKind kind;
    } bundles[] = {{LAYER, WEIGHT_DENSE}, {NONE, WEIGHT_EMBEDDING}};
    Plan *plan = two_by_four(2, 4);
    plan->pass = PASS_TRAINING;
    plan->model.heads = plan->model.kv_heads = 3;
    plan->model.head_dim = 4;
    plan->model.vocabulary = 33;
    plan->model.sequence = 5;
    plan->dense.whole_levels = 1;
    for (size_t b = 0; b < COUNT_OF(bundles); b++) {
        uint64_t share = bundle_shape(plan, bundles[b].kind, bundles[b].layer).share, bytes = share * sizeof(float);
        for (uint64_t rank = 0; rank < 8; rank++) {
            Tensor replicas = make(DTYPE_F32, 2, share), sent = make(DTYPE_F32, 1, share);
            Tensor own = make(DTYPE_F32, 1, share), error = make(DTYPE_F32, 2, share), zero = make(DTYPE_F32, 2, share);
            const Initial initial = {plan, SEED, rank};
            memset(zero.data, 0, 2 * bytes);
            cr_assert(initial_fill(&initial, WEIGHT_DENSE_REPLICAS, bundles[b].layer, replicas));
            cr_assert(initial_fill(&initial, WEIGHT_DENSE_SENT, bundles[b].layer, sent));
            cr_assert(initial_fill(&initial, WEIGHT_DENSE_ERROR, bundles[b].layer, error));
            cr_assert_arr_eq(error.data, zero.data, 2 * bytes);
            for (uint64_t dc = 0; dc < 2; dc++) {
                cr_assert(
                    initial_fill(&(Initial){plan, SEED, 4 * dc + rank % 4}, bundles[b].kind, bundles[b].layer, own));
                cr_assert_arr_eq((char *)replicas.data + dc * bytes, own.data, bytes);
                cr_assert(rank / 4 != dc || memcmp(sent.data, own.data, bytes) == 0);
            }
            cr_assert_eq(engine_own_slot(plan, &plan->dense, rank, bundles[b].layer), rank / 4);
        }
    }
    plan->dense.whole_levels =
        0; // packets over both levels: gpu 3 of dc 1 comes after the 3 before it, of two dcs each
    cr_assert_eq(engine_own_slot(plan, &plan->dense, 7, LAYER), 1 + 3 * 2);
    cr_assert_eq(engine_own_slot(plan, &plan->dense, 2, LAYER), 0 + 2 * 2);
    plan_destroy(plan);
    finish();
}

// Follows a row from level to level, as the exchanges take it, and asks whether it ends at the owner.
Test(codec_memory, an_expert_is_decoded_unless_its_owner_computes_it)
{
    const uint32_t domains[][2] = {{1, 1}, {2, 1}, {1, 2}, {2, 2}, {1, 4}, {2, 4}};
    for (size_t d = 0; d < COUNT_OF(domains); d++) {
        Plan *plan = two_by_four(domains[d][0], domains[d][1]);
        const ExpertShares shares = plan_expert_shares(plan, plan->choices[0].domain);
        uint32_t decoded = 0;
        for (uint64_t rank = 0; rank < 8; rank++)
            for (uint32_t e = 0; e < 16; e++) {
                uint64_t at = rank;
                for (uint32_t l = 0; l < 2; l++) {
                    Group group = {GROUP_EXCHANGE, (int32_t)l, domains[d][l]};
                    at = group_member_rank(&plan->cluster, &group, at, share_member(&shares, e, l));
                }
                uint64_t first = share_owned(&shares, at).first / model_expert_elements(&plan->model);
                bool owner = e >= first && e < first + 2;
                cr_assert_eq(reference_is_decoded(plan, plan->choices[0].domain, rank, e), !owner, "rank %d, expert %u",
                             (int)rank, e);
                decoded += !owner;
            }
        uint32_t held = domains[d][0] * domains[d][1];
        cr_assert_eq(decoded, 8 * 16 * (held - 1) / held);
        plan_destroy(plan);
    }
}
