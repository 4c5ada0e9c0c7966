// The cost model against the published figures (HybridEP, arXiv 2510.19470) and against arithmetic
// done here by other means.
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "compiler/model/backward.h"
#include "compiler/model/iteration.h"
#include "ir/bundle.h"
#include "specs.h"

static double near(double a, double b)
{
    return fabs(a - b) <= 1e-12 * fmax(fabs(a), fabs(b));
}

static double iteration_s(const Spec *spec, uint32_t domain)
{
    Arena *arena = arena_create();
    IterationCost cost;
    Config config = {.domain = {domain}};
    cost_iteration(workload_derive(spec, arena), &config, spec->plan.dispatch, &cost);
    arena_destroy(arena);
    return cost.iteration_s;
}

Test(cost, table_four_best_domains)
{
    static const struct {
        double data, expert, pre_s;
        uint32_t best;
    } cases[] = {
        {8e6, 4.7e6, 0.49e-3, 2}, {8e6, 2.35e6, 0.49e-3, 4}, {3e6, 0.094e6, 0.99e-3, 8}, {3e6, 0.047e6, 0.99e-3, 8}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        Spec spec = spec_one_tier(8, 16e9, 0, cases[i].data, cases[i].expert, cases[i].pre_s);
        for (uint32_t domain = 1; domain <= 8; domain *= 2)
            cr_assert(domain == cases[i].best || iteration_s(&spec, domain) > iteration_s(&spec, cases[i].best),
                      "case %zu: domain %u is not worse than %u", i, domain, cases[i].best);
    }
}

Test(cost, mix_one_takes_1240_microseconds)
{
    Spec spec = spec_one_tier(8, 16e9, 0, 8e6, 4.7e6, 0.49e-3);
    cr_assert(near(iteration_s(&spec, 2), 0.00124));
}

// Latencies keep no port busy: that of a gather is over when the bytes of the exchange it meets are.
Test(cost, one_layer_one_tier_is_the_papers_formula)
{
    srand(7);
    for (int i = 0; i < 1000; i++) {
        double bandwidth = 1e9 + rand() % 1000 * 1e8, latency = rand() % 100 * 1e-6;
        double data = 1e5 + rand() % 1000 * 1e4, expert = 1e4 + rand() % 1000 * 1e4, pre = rand() % 100 * 1e-5;
        Spec spec = spec_one_tier(16, bandwidth, latency, data, expert, pre);
        for (uint32_t s = 1; s <= 16; s *= 2) {
            double gather = s > 1 ? expert * (s - 1) / bandwidth + (s == 16 ? latency : 0) : 0;
            double exchange = s < 16 ? latency + data * (16 - s) / 16 / bandwidth : 0;
            double expected = fmax(pre, gather) + 2 * exchange;
            cr_assert(fabs(iteration_s(&spec, s) - expected) < 1e-12, "S=%u: %g, not %g", s, iteration_s(&spec, s),
                      expected);
        }
    }
}

// Section III's closed form: p = 0 if 2D >= G P, else p* = 1 - B PE / (P (G - 1)), rounded to a
// feasible S by trying both neighbours.
Test(cost, closed_form_agrees_with_enumeration)
{
    srand(11);
    for (int i = 0; i < 1000; i++) {
        double bandwidth = 1e10, data = 1e4 + rand() % 10000 * 1e3, expert = 1e4 + rand() % 1000 * 1e4,
               pre = rand() % 1000 * 1e-6;
        uint32_t gpus = 1u << (1 + rand() % 5);
        Spec spec = spec_one_tier(gpus, bandwidth, 0, data, expert, pre);
        double best = INFINITY;
        for (uint32_t s = 1; s <= gpus; s *= 2)
            best = fmin(best, iteration_s(&spec, s));
        double closed;
        if (2 * data >= gpus * expert) {
            closed = iteration_s(&spec, gpus);
        } else {
            double ideal = fmin(gpus, 1 + bandwidth * pre / expert);
            uint32_t below = 1;
            while (below * 2 <= ideal)
                below *= 2;
            closed = fmin(iteration_s(&spec, below), iteration_s(&spec, below * 2 <= gpus ? below * 2 : below));
        }
        cr_assert(fabs(best - closed) <= 1e-12 * best, "G=%u D=%g P=%g PE=%g: %g, not %g", gpus, data, expert, pre,
                  closed, best);
    }
}

Test(cost, inner_ports_carry_outer_traffic)
{
    Cluster cluster = {.level_count = 2, .levels = {{"dc", 2, 1e9, 1e-3, 0}, {"gpu", 8, 1e8, 1e-5, 0}}};
    // Eight GPUs share the outer port: 8 V / 1 GB/s; their own ports of 100 MB/s are slower still.
    cr_assert(near(cost_collective_s(&cluster, 0, 1e6, 1), 1e-3 + 1e6 / 1e8));
    cluster.levels[1].bandwidth_bytes_per_s = 1e9;
    cr_assert(near(cost_collective_s(&cluster, 0, 1e6, 1), 1e-3 + 8e6 / 1e9));
    cr_assert_eq(cost_collective_s(&cluster, 0, 1e6, 0), 0);
}

// Four data centres that differ, of two GPUs each. By hand: 2 V over the slowest port or link of the outermost level,
// V over a GPU's own port, each group's own latency, and 10 us (3 us inside) for every peer.
Test(cost, heterogeneous_ports_and_links_are_those_of_the_group)
{
    OuterDomain domains[] = {{.domain = 1, .exchange = {1e-3, 6e-9}},
                             {.domain = 2, .gather = {5e-3, 7e-9}, .exchange = {2e-3, 5e-9}},
                             {.domain = 4, .gather = {3e-3, 9e-9}}};
    Outer outer = {.port_s_per_byte = 1e-9, .count = 3, .domains = domains};
    Spec spec = spec_one_tier(4, 1, 1, 8e6, 1e6, 0);
    spec.outer = &outer;
    spec.cluster.level_count = 2;
    spec.cluster.levels[0].overhead_s = 1e-5;
    spec.cluster.levels[1] = (Level){"gpu", 2, 5e9, 1e-4, 3e-6};
    cr_assert(near(cost_group_s(&spec, GROUP_EXCHANGE, 0, 4e6, 1), 2e-3 + 1e-5 + 2 * 4e6 * 5e-9));
    cr_assert(near(cost_group_s(&spec, GROUP_GATHER, 0, 4e6, 1), 5e-3 + 1e-5 + 2 * 4e6 * 7e-9));
    cr_assert(near(cost_group_s(&spec, GROUP_GATHER, 1, 4e6, 1), 1e-4 + 3e-6 + 4e6 / 5e9));
    cr_assert_eq(cost_group_s(&spec, GROUP_GATHER, 0, 4e6, 0), 0);

    Arena *arena = arena_create();
    const Workload *work = workload_derive(&spec, arena);
    LayerCost cost;
    // Tokens of all: 3/4 of 8 MB to three peers, whose links give each a third; 1/2 of it to the other GPU.
    cost_layer(work, 0, &(Config){.domain = {1, 1}}, DISPATCH_NAIVE, &cost);
    cr_assert(near(cost.dispatch_s[0], 0.02503), "%g", cost.dispatch_s[0]);
    cr_assert(near(cost.dispatch_s[1], 0.000903), "%g", cost.dispatch_s[1]);
    cr_assert(near(cost.port_exchange_s[WAY_DISPATCH][0], 0.012), "%g", cost.port_exchange_s[WAY_DISPATCH][0]);
    cr_assert(near(cost.port_exchange_s[WAY_DISPATCH][1], 0.002), "%g", cost.port_exchange_s[WAY_DISPATCH][1]);
    cr_assert_eq(cost.port_exchange_s[WAY_DISPATCH][2], 0);
    cr_assert_eq(cost.port_latency_s[0], 1e-3);
    cr_assert_eq(cost.port_latency_s[1], 1e-4);
    // Experts of three others, of 1 MB.
    cost_layer(work, 0, &(Config){.domain = {4, 1}}, DISPATCH_NAIVE, &cost);
    cr_assert(near(cost.gather_s[0], 0.02103), "%g", cost.gather_s[0]);
    cr_assert(near(cost.port_gather_s[0], 0.006), "%g", cost.port_gather_s[0]);
    cr_assert(near(cost.port_gather_s[1], 0.0006), "%g", cost.port_gather_s[1]);
    // A port that is slower than every link's share.
    outer.port_s_per_byte = 1e-8;
    cr_assert(near(cost_group_s(&spec, GROUP_GATHER, 0, 4e6, 3), 3e-3 + 3e-5 + 2 * 4e6 * 1e-8));
    // A GPU's own port that is slower than all of that.
    spec.cluster.levels[1].bandwidth_bytes_per_s = 1e7;
    cr_assert(near(cost_group_s(&spec, GROUP_GATHER, 0, 4e6, 3), 3e-3 + 3e-5 + 4e6 / 1e7));
    arena_destroy(arena);
}

// By hand: 16 tokens of 64 bytes visit two of eight experts, two on each of four GPUs: 32 rows, 24 of which are sent.
// In 8 bits a row is 16 + 2 bytes, up to 20, in 4 bits 8 + 2, up to 12. Packed and unpacked are activations.
Test(cost, packed_rows_cost_what_they_take)
{
    Spec spec = spec_small_gpt((uint32_t[]){4, 0, 0}, 8, 2);
    const double sent[TOKEN_WAYS] = {24 * 20, 24 * 12, 24 * 20, 24 * 64};
    spec.plan.pass = PASS_TRAINING;
    spec.plan.tokens[WAY_DISPATCH] = TOKENS_FP8;
    spec.plan.tokens[WAY_COMBINE] = TOKENS_INT4;
    spec.plan.tokens[WAY_DISPATCH_GRADIENT] = TOKENS_INT8;
    spec.cluster.device.quantize_bandwidth = 1e9;
    spec.cluster.device.dequantize_bandwidth = 2e9;
    Arena *arena = arena_create();
    LayerCost cost;
    Workload *work = workload_derive(&spec, arena);
    cost_layer(work, 0, &(Config){.domain = {1}}, DISPATCH_NAIVE, &cost);
    for (uint32_t way = 0; way < TOKEN_WAYS; way++)
        cr_assert(near(cost.payload_bytes[way][0], sent[way]), "way %u: %g", way, cost.payload_bytes[way][0]);
    // Three peers at 1e8 bytes/s. Rows have a record of 8 bytes, and peers a count; the way back a weight of 4 bytes.
    cr_assert(near(cost.dispatch_s[0], 2e-4 + (480 + 24 * 8 + 3 * 4) / 1e8), "%g", cost.dispatch_s[0]);
    cr_assert(near(cost.combine_s[0], 1e-4 + 288 / 1e8), "%g", cost.combine_s[0]);
    cr_assert(near(cost.encode_s[WAY_DISPATCH][0], 16 * 64 / 1e9) &&
              near(cost.decode_s[WAY_DISPATCH][0], 32 * 64 / 2e9));
    cr_assert(near(cost.encode_s[WAY_COMBINE][0], 32 * 64 / 1e9) && near(cost.decode_s[WAY_COMBINE][0], 24 * 64 / 2e9));
    cr_assert_eq(cost.encode_s[WAY_COMBINE_GRADIENT][0] + cost.decode_s[WAY_COMBINE_GRADIENT][0], 0);
    PassCost pass, full;
    cost_pass(work, 0, &cost, false, &pass);
    memset(cost.encode_s, 0, sizeof(cost.encode_s));
    memset(cost.decode_s, 0, sizeof(cost.decode_s));
    cost_pass(work, 0, &cost, false, &full);
    cr_assert(near(pass.before_s - full.before_s, 16 * 64 / 1e9 + 32 * 64 / 2e9));
    cr_assert(near(pass.after_s - full.after_s, 32 * 64 / 1e9 + 24 * 64 / 2e9));
    // Over three levels rows are packed once on the way out, before the first exchange, and unpacked after the last.
    spec.cluster.level_count = 3;
    for (uint32_t l = 0; l < 3; l++)
        spec.cluster.levels[l] = (Level){l == 0 ? "a" : l == 1 ? "b" : "c", 2, 1e8, 1e-4, 0};
    cost_layer(workload_derive(&spec, arena), 0, &(Config){.domain = {2, 1, 1}}, DISPATCH_NAIVE, &cost);
    cr_assert_eq(cost.encode_s[WAY_DISPATCH][0] + cost.decode_s[WAY_DISPATCH][0] + cost.decode_s[WAY_DISPATCH][1], 0);
    cr_assert(near(cost.encode_s[WAY_DISPATCH][1], 16 * 64 / 1e9) &&
              near(cost.decode_s[WAY_DISPATCH][2], 32 * 64 / 2e9));
    cr_assert_eq(cost.encode_s[WAY_DISPATCH][2], 0);
    cr_assert(cost.encode_s[WAY_COMBINE][1] > 0 && cost.encode_s[WAY_COMBINE][2] > 0);
    arena_destroy(arena);
}

// By hand: 16 tokens visit two of eight experts, two on each of four GPUs. An expert accepts 1.5 * 16 * 2 / 8 = 6 rows
// from each, so three peers get 36 rows of 64 bytes, 24 of which are expected. Two experts of 16 x 32 and back are 8192
// bytes; a GPU encodes its own and decodes four, and gradients are encoded for three others and decoded once.
Test(cost, padding_and_codecs_cost_what_they_move)
{
    Spec spec = spec_small_gpt((uint32_t[]){4, 0, 0}, 8, 2);
    spec.plan.exchange = EXCHANGE_PADDED;
    spec.plan.capacity = 1.5;
    spec.cluster.device.encode_bandwidth = 5e8;
    spec.cluster.device.decode_bandwidth = 2e9;
    Arena *arena = arena_create();
    LayerCost cost;
    cost_layer(workload_derive(&spec, arena), 0, &(Config){.domain = {1}}, DISPATCH_NAIVE, &cost);
    cr_assert_eq(cost.send_rows[0], 24);
    cr_assert_eq(cost.payload_bytes[WAY_DISPATCH][0], 36 * 64);
    cr_assert_eq(cost.padding_bytes[WAY_DISPATCH][0], 12 * 64);
    cr_assert_eq(cost.codec_s, 0);
    // Half of the balanced load, two rows an expert and source: twelve rows are all that can be sent, and none is
    // padding.
    spec.plan.capacity = 0.5;
    cost_layer(workload_derive(&spec, arena), 0, &(Config){.domain = {1}}, DISPATCH_NAIVE, &cost);
    cr_assert_eq(cost.send_rows[0], 12);
    cr_assert_eq(cost.payload_bytes[WAY_DISPATCH][0], 12 * 64);
    cr_assert_eq(cost.padding_bytes[WAY_DISPATCH][0], 0);
    spec.plan.capacity = 1.5;
    spec.plan.pass = PASS_TRAINING;
    spec.plan.experts.codec = CODEC_DELTA;
    spec.plan.experts.gradient = GRADIENT_TOPK;
    spec.plan.experts.ratio = spec.plan.experts.gradient_ratio = 8;
    cost_layer(workload_derive(&spec, arena), 0, &(Config){.domain = {4}}, DISPATCH_NAIVE, &cost);
    cr_assert(near(cost.codec_s, 8192 * (1 / 5e8 + 4 / 2e9)), "%g", cost.codec_s);
    cr_assert(near(cost.sync_s, 8192 * (3 / 5e8 + 1 / 2e9)), "%g", cost.sync_s);
    arena_destroy(arena);
}

// By hand: 16 tokens of 16 numbers, two heads of 8, sequences of 8; two matrices of 16 x 32 an expert, two experts a
// GPU. A device of 4 GFLOP/s takes (1 + 32 / rows) times as long.
// 8 GPUs, two data centres of four. A share of 5000 elements of f32 is 20000 bytes. By `sign` its packet has a block of
// 4096 (514 bytes) and one of 904 (2 + 4 * 29), with two zeros 632; by `q4` 39 groups of 66 bytes and one of 8 elements
// (6), 2580.
Test(cost, dense_weights_in_packets)
{
    Spec spec = spec_small_gpt((uint32_t[]){2, 4, 0}, 8, 2);
    spec.plan.pass = PASS_TRAINING;
    spec.plan.dense = (Coding){CODEC_SIGN, 1, GRADIENT_Q4, 1, 1};
    BundleCost gather, back;
    cost_bundle(&spec, 20000, BUNDLE_GATHER, &gather);
    cost_bundle(&spec, 20000, BUNDLE_RETURN, &back);
    cr_expect_eq(gather.bytes[0], 632);
    cr_expect_eq(back.bytes[0], 2580);
    cr_expect_eq(gather.bytes[1], 2 * 3 * 20000.0); // inside whole: the shares of both
    cr_expect_eq(back.bytes[1], gather.bytes[1]);
    // The device quantizes and restores 5e8 bytes a second: a share and both; of gradients the other's and the own one.
    cr_expect_float_eq(gather.codec_s, (20000 + 2 * 20000) / 5e8, 1e-12);
    cr_expect_float_eq(back.codec_s, (20000 + 20000) / 5e8, 1e-12);
    spec.plan.dense.whole_levels = 0;
    cost_bundle(&spec, 20000, BUNDLE_GATHER, &gather);
    cost_bundle(&spec, 20000, BUNDLE_RETURN, &back);
    cr_expect_eq(gather.bytes[1], 2 * 3 * 632.0);
    cr_expect_eq(back.bytes[1], 2 * 3 * 2580.0);
    cr_expect_float_eq(gather.codec_s, (20000 + 8 * 20000) / 5e8, 1e-12);
    cr_expect_float_eq(back.codec_s, (20000 + 20000 + 2 * 3 * 20000 + 2 * 20000) / 5e8, 1e-12);
    cost_bundle_inside(&spec, 20000, 2, BUNDLE_GATHER, &gather);
    cr_expect_eq(gather.codec_s, 0);
}

Test(cost, work_of_a_layer_is_counted)
{
    Spec spec = spec_small_gpt((uint32_t[]){4, 0, 0}, 8, 2);
    spec.model.shared_experts = 1;
    spec.cluster.levels[0].overhead_s = 1e-6;
    spec.plan.pass = PASS_TRAINING;
    cr_assert(near(workload_matrix_s(&spec.cluster.device, 4e9, 1), 33));
    cr_assert_eq(workload_matrix_s(&spec.cluster.device, 4e9, 0), 0);
    Arena *arena = arena_create();
    const Workload *work = workload_derive(&spec, arena);
    const LayerWork *layer = &work->layers[0];
    cr_assert(near(layer->gate_s, 2 * 16 * 16 * 8 / 4e9 * 3), "%g", layer->gate_s);
    cr_assert(near(layer->pre_expert_s, layer->gate_s + (32768 + 4096) / 4e9 * 3), "%g", layer->pre_expert_s);
    cr_assert_eq(layer->expert_flops, 65536);
    cr_assert_eq(layer->data_bytes, 2048);
    cr_assert_eq(layer->expert_bytes, 8192);
    LayerCost cost;
    cost_layer(work, 0, &(Config){.domain = {1}}, DISPATCH_DEDUP, &cost);
    cr_assert(near(cost.expert_s, 65536 / 4e9 * 3), "%g", cost.expert_s);
    // Attention 32 + 1024 numbers, router 32 + 128, shared expert 1024: a GPU owns 560, which three others gather.
    cr_assert(near(cost.dense.step_s[0], 1e-4 + 3e-6 + 3 * 2240 / 1e8), "%g", cost.dense.step_s[0]);
    cr_assert(near(cost.dense_return.step_s[0], cost.dense.step_s[0]));
    // Every fourth iteration the mean of the experts, 4096 bytes, is summed and subtracted from the 8192 held.
    spec.plan.experts.codec = CODEC_SR;
    spec.plan.experts.ratio = 8;
    spec.plan.shared_every = 4;
    cost_layer(workload_derive(&spec, arena), 0, &(Config){.domain = {4}}, DISPATCH_DEDUP, &cost);
    cr_assert_eq(cost.mean_bytes[0], 1536);
    // A sum goes to and fro: two start-ups, each 3072 bytes.
    cr_assert(near(cost.sync_s, 2 * (1e-4 + 3e-6 + 3072 / 1e8) / 4 + 8192 / 4 / 1e9), "%g", cost.sync_s);
    // Its port is busy a fourth of that in every iteration, besides 3 shares of 8192 bytes of gradients on their way.
    cr_assert(near(cost.port_reduce_s[0], 3 * 8192 / 1e8 + 2 * 3072 / 1e8 / 4), "%g", cost.port_reduce_s[0]);
    arena_destroy(arena);
}

static double level_s(double bytes)
{
    return 1e-4 + 3e-6 + bytes / 1e8; // four GPUs: latency, three messages, bytes through a port
}

// A sum that is rounded: a part of 2 bytes is added, and 4 are read, 2 written of each number in the end.
Test(cost, sums_of_16_bit_gradients)
{
    Spec spec = spec_small_gpt((uint32_t[]){4, 0, 0}, 8, 2);
    spec.model.dtype = DTYPE_BF16;
    cr_assert_eq(workload_sum_cost(&spec, 1000).part_s, 0); // of one micro-batch there is no sum
    spec.plan.micro_batches = 2;
    cr_assert(near(workload_sum_cost(&spec, 1000).part_s, 1000 * (2 + 4 + 4) / 1e9));
    cr_assert(near(workload_sum_cost(&spec, 1000).once_s, 1000 * (4 + 4 + 2) / 1e9));
}

// The layer of above in three micro-batches, by hand, every second. Sums of gradients are f32: adding a part of f32
// reads two numbers and writes one, clearing writes one, and nothing is rounded. Experts held: two of 1024 numbers;
// dense weights, with the padding of shares: four of 560.
Test(cost, a_pass_of_three_micro_batches)
{
    for (int again = 0; again < 2; again++) {
        Spec spec = spec_small_gpt((uint32_t[]){4, 0, 0}, 8, 2);
        spec.model.shared_experts = 1;
        spec.cluster.levels[0].overhead_s = 1e-6;
        spec.plan.pass = PASS_TRAINING;
        spec.plan.dispatch = DISPATCH_NAIVE;
        spec.plan.micro_batches = 3;
        spec.plan.recomputes = again;
        Arena *arena = arena_create();
        const Workload *work = workload_derive(&spec, arena);
        LayerCost cost;
        cost_layer(work, 0, &(Config){.domain = {1}}, DISPATCH_NAIVE, &cost);
        // 16 tokens x 2 records, 3/4 of them away: 24 rows of 64 bytes; with a record of 8 bytes each, and 3 counts.
        double gate_s = 2 * 16 * 16 * 8 / 4e9 * 3, attention_s = gate_s + (32768 + 4096) / 4e9 * 3;
        double shared_s = work->layers[0].dense_s, route_s = cost.route_s[0], expert_s = 65536 / 4e9 * 3;
        // Counts are a start-up ahead of it, each time that something is dispatched.
        double counts_s = level_s(0), rows_s = level_s(24 * 64 + cost.routing_bytes[0]);
        double out_s = counts_s + rows_s, back_s = level_s(24 * 64);
        // Rows are copied out and back, each copy read and written: 32 records' rows of 64 bytes.
        cr_assert(near(route_s, 2 * 32 * 64 / 1e9), "%g", route_s);
        cr_assert_eq(cost.routing_bytes[0], 24 * 8 + 3 * 4);
        cr_assert_eq(cost.counts_bytes[0], 3 * 4);
        cr_assert_eq(cost.weights_bytes[0], 24 * 4);
        cr_assert(near(cost.dispatch_s[0], out_s), "%g, not %g", cost.dispatch_s[0], out_s);
        cr_assert(near(cost.combine_s[0], back_s), "%g, not %g", cost.combine_s[0], back_s);
        cr_assert(near(work->layers[0].pre_expert_s, attention_s));
        cr_assert(near(cost.expert_s, expert_s));
        // Parts: 4 + 4 + 4 bytes a number; cleared once: 4.
        double experts = 2 * 1024, dense = 4 * 560;
        cr_assert(near(cost.expert_sums_s, experts * 12 / 1e9) && near(cost.expert_round_s, experts * 4 / 1e9));
        cr_assert(near(work->layers[0].dense_sums_s, dense * 12 / 1e9));
        cr_assert(near(work->layers[0].dense_round_s, dense * 4 / 1e9));

        PassCost forward, backward;
        cost_pass(work, 0, &cost, false, &forward);
        cost_pass(work, 0, &cost, true, &backward);
        double whole_s = attention_s + route_s + out_s + expert_s + back_s + shared_s;
        cr_assert(near(forward.before_s, attention_s + route_s + out_s));
        cr_assert(near(forward.compute_s, expert_s + 2 * whole_s));
        cr_assert(near(forward.after_s, back_s + shared_s));
        cr_assert(near(forward.pre_expert_s, 3 * attention_s) && near(forward.expert_s, 3 * expert_s));
        cr_assert(near(forward.exchange_s, 3 * (out_s + back_s)) && near(forward.other_s, 3 * (shared_s + route_s)));
        // The backward pass sends gradients out as results came back, and has the way out of the forward pass first.
        double again_s = again ? attention_s + route_s / 2 + out_s : 0;
        // Two matrices, of which the first one is multiplied again, and two gradients of each. Of attention, all
        // projections but the output of four again, and of scores and weighted values both.
        double backward_s = 2 * gate_s + (2.75 * 32768 + 3 * 4096) / 4e9 * 3;
        double before_s = again_s + route_s + counts_s + back_s, computed_s = 2.5 * expert_s + experts * 12 / 1e9;
        double after_s = rows_s + 2.5 * shared_s + backward_s + dense * 12 / 1e9;
        cr_assert(near(backward.before_s, before_s), "%g, not %g", backward.before_s, before_s);
        cr_assert(near(backward.compute_s, computed_s + 2 * (before_s + computed_s + after_s) + experts * 4 / 1e9));
        cr_assert(near(backward.after_s, after_s + dense * 4 / 1e9));
        cr_assert(near(backward.pre_expert_s, 3 * (backward_s + again * attention_s)));
        cr_assert(near(backward.exchange_s, 3 * (out_s + back_s + again * out_s)));
        cr_assert(near(backward.expert_s, 7.5 * expert_s));
        double sums_s = (experts + dense) * (3 * 12 + 4) / 1e9;
        cr_assert(near(backward.other_s, 3 * (2.5 * shared_s + route_s * (1 + again / 2.0)) + sums_s));
        cr_assert(
            near(forward.port_before_s[0], cost.port_exchange_s[WAY_DISPATCH][0] + 1e-4)); // the rows' last latency
        cr_assert(near(backward.port_before_s[0],
                       cost.port_exchange_s[WAY_COMBINE][0] + again * cost.port_exchange_s[WAY_DISPATCH][0] + 1e-4));
        cr_assert(
            near(backward.port_before_s[0] + backward.port_after_s[0],
                 3 * (cost.port_exchange_s[WAY_COMBINE][0] + (1 + again) * cost.port_exchange_s[WAY_DISPATCH][0])));
        cr_assert(near(cost_dense_pass_s(work, 0, false), 3 * (attention_s + shared_s)));
        cr_assert(near(cost_dense_pass_s(work, 0, true),
                       3 * (backward_s + again * attention_s + 2.5 * shared_s + dense * 12 / 1e9) + dense * 4 / 1e9));
        arena_destroy(arena);
    }
}

// By hand. Feed-forward networks of m matrices: 2 m gradients, and the m - 1 into the inner dimension again. Attention
// of 8 heads and 2 for keys and values: the output has 8 of 20 parts of the projections, and is not computed again.
Test(cost, backward_passes_are_what_kernels_compute)
{
    cr_assert(near(backward_feed_forward(ACTIVATION_SWIGLU), 8.0 / 3));
    cr_assert_eq(backward_feed_forward(ACTIVATION_RELU), 2.5);
    Spec spec = spec_small_gpt((uint32_t[]){4, 0, 0}, 8, 2);
    cr_assert_eq(backward_gate(&spec), 2);
    spec.training.balance = 0.01;
    cr_assert_eq(backward_gate(&spec), 3);
    cr_assert_eq(backward_loss(&spec), 3);
    spec.model.vocabulary = 1025; // in blocks of 1024
    cr_assert_eq(backward_loss(&spec), 4);
    spec.model.heads = 8;
    MixerFlops forward = {.projected = 200, .scored = 10, .state = 1};
    cr_assert(near(backward_mixer(&spec, 0, forward), 400 + 120 + 30 + 3));
    spec.cluster.device.engine = ENGINE_CUDA;
    cr_assert_eq(backward_loss(&spec), 3);
    cr_assert(near(backward_mixer(&spec, 0, forward), 400 + 120 + 45 + 3));
    spec.model.head_dim = 257; // not fused
    cr_assert(near(backward_mixer(&spec, 0, forward), 400 + 120 + 30 + 3));
    SpecMixer mixer = {.name = "other"};
    uint32_t of[] = {0, 1};
    spec.model.mixers = &mixer;
    spec.model.mixer_count = 1;
    spec.model.mixer = of;
    cr_assert(near(backward_mixer(&spec, 0, forward), 400 + 200 + 30 + 3)); // its output is not known
    cr_assert(near(backward_mixer(&spec, 1, forward), 400 + 120 + 30 + 3));
}

// A rate of their own, a tenth of the forward pass's; abstract workloads take twice their times.
Test(cost, backward_passes_have_a_rate)
{
    Spec spec = spec_small_gpt((uint32_t[]){4, 0, 0}, 8, 2);
    Arena *arena = arena_create();
    spec.plan.pass = PASS_TRAINING;
    spec.cluster.device.backward_flops = 4e8;
    const Workload *work = workload_derive(&spec, arena);
    cr_assert(near(workload_backward_s(&spec.cluster.device, 4e8, 32), 2));
    cr_assert(near(work->loss_backward_s, 10 * 3 * work->loss_s));
    cr_assert(near(work->layers[0].gate_backward_s, 10 * 2 * work->layers[0].gate_s));
    LayerCost cost;
    cost_layer(work, 0, &(Config){.domain = {1}}, DISPATCH_DEDUP, &cost);
    cr_assert(near(cost.expert_backward_s, 10 * 2.5 * cost.expert_s));
    Spec abstract = spec_one_tier(4, 1e9, 0, 1e6, 1e6, 0.5);
    abstract.model.expert_compute_s = 0.25;
    work = workload_derive(&abstract, arena);
    cost_layer(work, 0, &(Config){.domain = {1}}, DISPATCH_DEDUP, &cost);
    cr_assert_eq(work->layers[0].pre_expert_backward_s, 1);
    cr_assert_eq(cost.expert_backward_s, 0.5);
    arena_destroy(arena);
}

// Weight and gradient are read, the weight written; two moments, and of 16 bits a master copy, read and written in f32.
// A layer's dense weights are 1024 of attention, 64 of norms, 128 of the router; words and places 72 x 16, the last
// norm 32. Of four GPUs each owns 304, 2048 of experts, and 296.
// Two micro-batches abreast: attention 0-1 and 1-2, rows on their way out 1-3 and 3-5, experts 3-4 and 5-6, results on
// their way back 5-7 and 7-9. One after the other they would take 6 each.
Test(cost, micro_batches_abreast_hide_exchanges)
{
    Spec spec = {.plan = {.pass = PASS_TRAINING, .micro_batches = 4, .interleaves = true}};
    LayerWork layer = {.is_moe = true, .pre_expert_s = 1};
    const Workload work = {.spec = &spec, .layers = &layer, .layer_count = 1, .moe_count = 1};
    const LayerCost cost = {.dispatch_s = {2}, .combine_s = {2}, .expert_s = 1};
    PassCost pass;
    cost_pass(&work, 0, &cost, false, &pass);
    cr_expect(near(pass.before_s + pass.compute_s + pass.after_s, 2 * 9));
    cr_expect(near(pass.pre_expert_s, 4) && near(pass.expert_s, 4) && near(pass.other_s, 0));
    cr_expect(near(pass.exchange_s, 18 - 8));
    spec.plan.lap = 1; // which has nothing to go abreast
    cost_pass(&work, 0, &cost, false, &pass);
    cr_expect(near(pass.before_s + pass.compute_s + pass.after_s, 6) && near(pass.exchange_s, 4));
    // Three: attention until 3, rows out 1-7, experts 3-4, 5-6 and 7-8, results back 7-9, 9-11 and 11-13.
    spec.plan.lap = 3;
    spec.plan.micro_batches = 9;
    cost_pass(&work, 0, &cost, false, &pass);
    cr_expect(near(pass.before_s + pass.compute_s + pass.after_s, 13));
}

Test(cost, an_optimizer_moves_what_a_gpu_owns)
{
    cr_assert_eq(optimizer_bytes_per_parameter(DTYPE_F32), 3 * 4 + 2 * 2 * 4);
    cr_assert_eq(optimizer_bytes_per_parameter(DTYPE_BF16), 3 * 2 + 2 * 3 * 4);
    Spec spec = spec_small_gpt((uint32_t[]){4, 0, 0}, 8, 2);
    spec.plan.pass = PASS_TRAINING;
    Arena *arena = arena_create();
    const Workload *work = workload_derive(&spec, arena);
    cr_assert_eq(work->dense_bytes, 4 * (2 * 1216 + 1184));
    cr_assert_eq(work->owned_gradient_bytes, 4 * (2 * (304 + 2048) + 296));
    cr_assert(near(work->optimizer_s, 28 * (2 * (304 + 2048) + 296) / 1e9));
    arena_destroy(arena);
}

// All again, then all but what came over the outermost level, where both levels gather. Packets are decoded after all
// levels, so they are gathered again whole.
Test(cost, what_is_gathered_again)
{
    Spec spec = spec_small_gpt((uint32_t[]){2, 2, 0}, 8, 2);
    Config config = {.domain = {2, 2}};
    cr_assert(config_next_kept(&spec, &config));
    cr_assert(config.regather);
    cr_assert_eq(config.once, 0);
    cr_assert(config_next_kept(&spec, &config));
    cr_assert_eq(config.once, 1);
    cr_assert(!config_next_kept(&spec, &config));
    config = (Config){.domain = {2, 1}, .regather = true};
    cr_assert(!config_next_kept(&spec, &config));
    config = (Config){.domain = {1, 1}};
    cr_assert(!config_next_kept(&spec, &config));
    spec.plan.experts.codec = CODEC_SR;
    config = (Config){.domain = {2, 2}, .regather = true};
    cr_assert(!config_next_kept(&spec, &config));
    cr_assert_eq(config.once, 0);
}

// By hand, as above: 16 tokens in sequences of 8, a device of 4 GFLOP/s that takes three times as long for 16 rows.
Test(cost, mixers_are_counted)
{
    Spec spec = spec_small_gpt((uint32_t[]){4, 0, 0}, 8, 2);
    SpecMixer mixers[] = {{.name = "sliding", .parameters = 1000, .scored = 16, .window = 2},
                          {.name = "chunked", .parameters = 1000, .scored = 16, .chunk = 4},
                          {.name = "state", .parameters = 500, .state = 70},
                          {.name = "whole", .parameters = 1000, .scored = 16, .window = 8}};
    uint32_t of[] = {0, 1, 2, 3, 4}, inner[] = {0, 0, 10, 0, 0};
    bool is_moe[] = {true, true, false, false, true};
    spec.model.layers = 5;
    spec.model.mixers = mixers;
    spec.model.mixer_count = 4;
    spec.model.mixer = of;
    spec.model.is_moe = is_moe;
    spec.model.inner_each = inner;
    Arena *arena = arena_create();
    const Workload *work = workload_derive(&spec, arena);
    // A token of 8 sees 2 - 4/16 of a window of 2, half of a chunk of 4, half of all 8: of 16 elements each way.
    const double flops[] = {2 * 16 * 1000 + 4 * 16 * 1.75 * 16, 2 * 16 * 1000 + 4 * 16 * 2 * 16, 2 * 16 * 500 + 16 * 70,
                            2 * 16 * 1000 + 4 * 16 * 4 * 16, 2 * 16 * 1024 + 4 * 16 * 4 * 16};
    for (uint32_t k = 0; k < 5; k++) {
        double expected = flops[k] / 4e9 * 3 + work->layers[k].gate_s;
        cr_assert(near(work->layers[k].pre_expert_s, expected), "layer %u: %g", k, work->layers[k].pre_expert_s);
        cr_assert_eq(work->layers[k].is_moe, is_moe[k]);
    }
    cr_assert(near(work->layers[2].dense_s, 2 * 16 * 2 * 16 * 10 / 4e9 * 3), "%g", work->layers[2].dense_s);
    cr_assert_eq(work->layers[3].dense_s, 0);
    cr_assert_eq(work->moe_count, 3);
    // Two norms of 32; router 128; feed-forward 2 x 16 x 10.
    cr_assert_eq(spec_dense_elements(&spec.model, 0), 1000 + 64 + 128);
    cr_assert_eq(spec_dense_elements(&spec.model, 2), 500 + 64 + 320);
    cr_assert_eq(spec_dense_elements(&spec.model, 3), 1000 + 64);
    cr_assert_eq(spec_dense_elements(&spec.model, 4), 1024 + 64 + 128);
    arena_destroy(arena);
}

// Eight experts on four GPUs, two each of two matrices of 16 x 32: 1024 weights.
Test(cost, weights_in_few_bits)
{
    Spec spec = spec_small_gpt((uint32_t[]){4, 0, 0}, 8, 2);
    spec.model.expert_bits = 4.25;
    spec.model.dense_bits = 8;
    Arena *arena = arena_create();
    const Workload *work = workload_derive(&spec, arena);
    cr_assert_eq(work->layers[0].expert_bytes, 2 * 1024 * 4.25 / 8);
    cr_assert_eq(work->layers[0].sent_bytes, 2 * 1024 * 4.25 / 8);
    cr_assert_eq(work->layers[0].row_bytes, 64); // activations keep their type
    // 1024 weights of attention in bytes; norms and router, 64 + 128, in f32.
    cr_assert(near(spec_dense_bits(&spec.model, 0) * (1024 + 192), 1024 * 8 + 192 * 32));
    LayerCost cost;
    cost_layer(work, 0, &(Config){.domain = {4}}, DISPATCH_DEDUP, &cost);
    cr_assert_eq(cost.gather_bytes[0], 3 * 2 * 1024 * 4.25 / 8);
    arena_destroy(arena);
}

// Four of the twelve choices compute nothing: two thirds of the rows and of the work are left.
Test(cost, zero_experts_compute_and_send_nothing)
{
    Spec spec = spec_small_gpt((uint32_t[]){4, 0, 0}, 8, 3);
    spec.model.zero_experts = 4;
    Arena *arena = arena_create();
    const Workload *work = workload_derive(&spec, arena);
    cr_assert(near(work->layers[0].gate_s, 2 * 16 * 16 * 12 / 4e9 * 3));
    cr_assert(near(work->layers[0].expert_flops, 2 * 16 * 2 * 2 * 16 * 32)); // two of three
    LayerCost cost;
    cost_layer(work, 0, &(Config){.domain = {1}}, DISPATCH_NAIVE, &cost);
    cr_assert(near(cost.send_rows[0], 16 * 2 * 3 / 4.0)); // to three of four GPUs
    cr_assert(near(cost.payload_bytes[WAY_DISPATCH][0], 16 * 2 * 3 / 4.0 * 64));
    cr_assert_eq(spec_computing_part(&spec.model), 8.0 / 12);
    arena_destroy(arena);
}

// Counted over all choices of k of E experts.
static double expected_distinct(uint32_t experts, uint32_t top_k, uint32_t domains)
{
    double hits = 0, choices = 0;
    for (uint32_t set = 0; set < 1u << experts; set++) {
        if ((uint32_t)__builtin_popcount(set) != top_k)
            continue;
        choices++;
        for (uint32_t d = 0; d < domains; d++)
            hits += (set >> (d * experts / domains) & ((1u << experts / domains) - 1)) != 0;
    }
    return hits / choices;
}

Test(cost, deduplicated_copies_are_the_expected_distinct_domains)
{
    for (uint32_t top_k = 1; top_k <= 4; top_k++) {
        Spec spec = spec_small_gpt((uint32_t[]){2, 2, 2}, 16, top_k);
        Config config = {.domain = {1, 2, 1}};
        Arena *arena = arena_create();
        const Workload *work = workload_derive(&spec, arena);
        const LayerWork *layer = &work->layers[0];
        for (uint32_t l = 0; l < 3; l++) {
            double expected = expected_distinct(16, top_k, l < 2 ? 2 : 4);
            cr_assert(fabs(cost_expected_copies(work, layer, DISPATCH_DEDUP, &config, l) - expected) < 1e-12);
        }
        cr_assert_eq(cost_expected_copies(work, layer, DISPATCH_NAIVE, &config, 2), top_k);
        arena_destroy(arena);
    }
}

Test(cost, gathers_send_each_expert_once_over_the_outer_port)
{
    Spec spec = spec_small_gpt((uint32_t[]){4, 4, 0}, 32, 2);
    spec.plan.dispatch = DISPATCH_NAIVE;
    Arena *arena = arena_create();
    Workload *work = workload_derive(&spec, arena);
    Config config = {.domain = {2, 4}};
    LayerCost cost;
    cost_layer(work, 0, &config, DISPATCH_NAIVE, &cost);
    double expert_bytes = work->layers[0].expert_bytes, data_bytes = work->layers[0].data_bytes;
    cr_assert(near(expert_bytes, 2 * 2 * 16 * 32 * 4.0)); // 2 experts a GPU, 2 matrices
    cr_assert(near(data_bytes, 16 * 2 * 16 * 4.0));
    cr_assert(near(cost.gather_bytes[0], expert_bytes));         // from the one peer in the other data centre
    cr_assert(near(cost.gather_bytes[1], 2 * expert_bytes * 3)); // then both shards from three neighbours
    cr_assert(near(cost.payload_bytes[WAY_DISPATCH][0], data_bytes / 2));
    cr_assert_eq(cost.payload_bytes[WAY_DISPATCH][1], 0);
    arena_destroy(arena);
}

Test(cost, replica_levels_exchange_and_gather_nothing)
{
    Spec spec = spec_small_gpt((uint32_t[]){2, 4, 0}, 4, 2);
    spec.replica_levels = 1;
    Arena *arena = arena_create();
    Workload *work = workload_derive(&spec, arena);
    Config config = {.domain = {2, 1}};
    LayerCost cost;
    cost_layer(work, 0, &config, DISPATCH_DEDUP, &cost);
    cr_assert_eq(cost.payload_bytes[WAY_DISPATCH][0], 0);
    cr_assert_eq(cost.gather_bytes[0], 0);
    cr_assert_gt(cost.payload_bytes[WAY_DISPATCH][1], 0);
    cr_assert_eq(config_held_shards(&spec, &config), 1);
    arena_destroy(arena);
}

// Two MoE layers on one level without latency, nothing gathered: what the backward pass of the first one waits for are
// the sums of the second one's gradients, as far as all computation since the forward pass does not hide them: ports
// pass every exchange while the computation stands still for it.
Test(cost, waits_for_gradients_are_told_from_waits_for_experts)
{
    Spec spec = spec_small_gpt((uint32_t[]){4, 0, 0}, 16, 2);
    spec.cluster.levels[0].latency_s = 0;
    spec.plan.pass = PASS_TRAINING;
    ModelDims dims = spec_dims(&spec.model);
    for (double bandwidth = 1e5; bandwidth < 1e9; bandwidth *= 10) {
        Arena *arena = arena_create();
        spec.cluster.levels[0].bandwidth_bytes_per_s = bandwidth;
        const Workload *work = workload_derive(&spec, arena);
        Config config = {.domain = {1}};
        Mix mix = mix_uniform(work, &config, PREFETCH_UNLIMITED, arena);
        LayerCost cost;
        cost_layer(work, 1, &config, DISPATCH_DEDUP, &cost);
        IterationCost iteration;
        cost_mix(work, &mix, DISPATCH_DEDUP, &iteration);
        double computed_s = work->layers[0].pre_expert_s + cost.route_s[0] + cost.expert_s;
        // 64 words fit the loss's scratch: logits again, and two gradients.
        double hidden_s =
            3 * work->loss_s + work->layers[1].pre_expert_backward_s + 2 * cost.route_s[0] + cost.expert_backward_s;
        double waited_s = fmax(0, cost.dense_return.port_s[0] - hidden_s);
        // Embedding and first layer are waited for; the second layer's weights arrive while the first one computes.
        double element = dtype_bytes(spec.model.dtype), dense_s = cost.dense.step_s[0];
        double embedding_bytes = element * (double)share_elements(model_embedding_elements(&dims), 4);
        double begin_s = 3 * embedding_bytes / bandwidth;
        double gathers_s = begin_s + dense_s + fmax(0, dense_s - computed_s);
        cr_assert_float_eq(iteration.gather_wait_s, gathers_s + waited_s, 1e-9 + 1e-9 * (gathers_s + waited_s),
                           "%g and %g at %g", iteration.gather_wait_s, gathers_s + waited_s, bandwidth);
        cr_assert_float_eq(cost_gradient_wait_s(work, &mix, DISPATCH_DEDUP), waited_s, 1e-9 + 1e-9 * waited_s);
        arena_destroy(arena);
    }
    // A forward pass has no gradients to wait for, however long it waits for experts.
    Arena *arena = arena_create();
    spec.plan.pass = PASS_FORWARD;
    spec.cluster.levels[0].bandwidth_bytes_per_s = 1e5;
    const Workload *work = workload_derive(&spec, arena);
    Config config = {.domain = {4}};
    Mix mix = mix_uniform(work, &config, PREFETCH_UNLIMITED, arena);
    IterationCost iteration;
    cost_mix(work, &mix, DISPATCH_DEDUP, &iteration);
    cr_assert_gt(iteration.gather_wait_s, 0);
    cr_assert_eq(cost_gradient_wait_s(work, &mix, DISPATCH_DEDUP), 0);
    arena_destroy(arena);
}

Test(cost, training_costs_more_and_returns_gradients)
{
    Spec spec = spec_small_gpt((uint32_t[]){2, 4, 0}, 16, 2);
    Arena *arena = arena_create();
    Config config = {.domain = {2, 1}};
    IterationCost forward, training;
    cost_iteration(workload_derive(&spec, arena), &config, DISPATCH_DEDUP, &forward);
    spec.plan.pass = PASS_TRAINING;
    cost_iteration(workload_derive(&spec, arena), &config, DISPATCH_DEDUP, &training);
    cr_assert_gt(training.iteration_s, 2.5 * forward.iteration_s);
    cr_assert(near(training.traffic[1].exchange_bytes, 2 * forward.traffic[1].exchange_bytes));
    cr_assert(near(training.traffic[0].reduce_bytes, forward.traffic[0].gather_bytes));
    // Of what all GPUs own together, each sends its share to the other data centre, and the gradient of as much.
    ModelDims dims = spec_dims(&spec.model);
    double elements = (double)share_elements(model_embedding_elements(&dims), 8);
    for (uint32_t k = 0; k < spec.model.layers; k++)
        elements += (double)share_elements(model_dense_elements(&dims, true), 8);
    cr_assert(near(training.traffic[0].dense_gather_bytes, elements * dtype_bytes(spec.model.dtype)));
    cr_assert(near(training.traffic[0].dense_reduce_bytes, elements * dtype_bytes(spec.model.dtype)));
    cr_assert(near(training.traffic[1].dense_gather_bytes, 2 * 3 * elements * dtype_bytes(spec.model.dtype)));
    arena_destroy(arena);
}

// Latency is all that counts: start-ups of gathers queue, then those of returns. Of four layers, each with dense
// weights and experts, a bucket of two leaves one of four start-ups each way where experts are gathered from all data
// centres, two of three where half of them gather, as experts and dense weights have groups of their own then.
Test(cost, buckets_pay_one_start_up)
{
    Spec spec = spec_small_gpt((uint32_t[]){4, 2, 0}, 16, 2);
    spec.model.layers = 4;
    spec.plan.pass = PASS_TRAINING;
    spec.cluster.levels[0].latency_s = 1;
    spec.cluster.levels[0].overhead_s = 0.1; // of a message: three peers, or one
    static const struct {
        uint32_t domain, bucket;
        double saved_s; // each way
    } cases[] = {{4, 1, 4 * 1.3},           {4, 2, 6 * 1.3}, {4, 3, 6 * 1.3},          {4, 4, 7 * 1.3},
                 {2, 2, 2 * 1.3 + 2 * 1.1}, {1, 2, 2 * 1.3}, {2, 4, 3 * 1.3 + 3 * 1.1}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        double s[2];
        for (int with = 0; with < 2; with++) {
            Arena *arena = arena_create();
            spec.plan.bucket = with ? cases[i].bucket : 0;
            Config config = {.domain = {cases[i].domain, 1}};
            const Workload *work = workload_derive(&spec, arena);
            Clock clock = clock_begin(work);
            double begin_s = clock.at_s[CLOCK_OUTER];
            for (uint32_t k = 0; k < 4; k++) {
                LayerCost layer;
                PassCost passes[2];
                cost_layer(work, k, &config, DISPATCH_DEDUP, &layer);
                cost_pass(work, k, &layer, false, &passes[0]);
                cost_pass(work, k, &layer, true, &passes[1]);
                const ClockedLayer of = {.layer = k,
                                         .cost = &layer,
                                         .passes = passes,
                                         .config = &config,
                                         .prefetch = PREFETCH_UNLIMITED,
                                         .first = true,
                                         .last = true};
                clock_forward(work, &of, &clock, NULL);
            }
            s[with] = clock.at_s[CLOCK_OUTER] - begin_s;
            arena_destroy(arena);
        }
        cr_assert_float_eq(s[0] - s[1], cases[i].saved_s, 1e-9, "%zu: saves %g s, not %g", i, s[0] - s[1],
                           cases[i].saved_s);
    }
}
