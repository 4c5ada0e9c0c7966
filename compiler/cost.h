// The cost model (design section 3): volumes, times and traffic of a configuration, layer by layer,
// and the iteration time they add up to. Pure functions of the checked spec; the planner's
// coefficients and the printed predictions both come from here.
#ifndef HEP_COST_H
#define HEP_COST_H

#include "compiler/spec.h"

// Work of one model layer on one GPU, before any choice. Times are of the forward pass.
typedef struct {
    bool is_moe;
    double pre_expert_s;     // PE: attention, and the gate where there is one
    double dense_s;          // dense feed-forward layer, or the shared experts of an MoE layer
    double expert_flops;     // of all records of one GPU's tokens
    double expert_compute_s; // given (abstract workloads); else 0 and expert_flops counts
    double data_bytes;       // D: tokens x top_k x row bytes; one direction, before deduplication
    double expert_bytes;     // P: owned experts, uncompressed
    double sent_bytes;       // P as sent, after compression
    double tokens;           // 0 for abstract workloads
    double row_bytes;        // bytes of a hidden vector; 0 for abstract workloads
} LayerWork;

typedef struct {
    const Spec *spec;
    uint32_t layer_count, moe_count;
    LayerWork *layers;        // [layer_count], in the arena
    double loss_s;            // final norm, logits and cross-entropy
    double dense_gradient_bytes; // replicated parameters, all-reduced when training
    double dense_gradients;      // in so many buffers, each a collective of its own
    double optimizer_s;
} Workload;

Workload *workload_derive(const Spec *spec, Arena *arena);

// One point of the choice: domain sizes (n_l at replica levels), replicas kept or gathered again.
typedef struct {
    uint32_t domain[LEVELS_MAX];
    bool regather;
} Config;

// What one MoE layer costs under a configuration.
typedef struct {
    double dispatch_s[LEVELS_MAX], combine_s[LEVELS_MAX]; // one exchange each way at that level
    double gather_s[LEVELS_MAX], reduce_s[LEVELS_MAX];
    double route_s[LEVELS_MAX];                           // moving rows in and out of send buffers
    double expert_s;                                      // forward; twice that backward
    double send_rows[LEVELS_MAX];                         // expected rows a GPU sends to others, one way
    double payload_bytes[LEVELS_MAX], routing_bytes[LEVELS_MAX]; // of one dispatch; a combine carries the payload
    double gather_bytes[LEVELS_MAX], reduce_bytes[LEVELS_MAX];
    // Busy time of the port of level j by everything that passes it, summed over the levels.
    double port_dispatch_s[LEVELS_MAX], port_combine_s[LEVELS_MAX], port_gather_s[LEVELS_MAX],
        port_reduce_s[LEVELS_MAX];
    double codec_s;                                       // encode + decode
} LayerCost;

// t_l(V, peers) = a_l + o_l peers + max_{j >= l} c_j V / B_j; 0 without peers.
double cost_collective_s(const Cluster *cluster, uint32_t level, double bytes, double peers);

// Expected distinct domain prefixes at `level` that the top_k experts of a token fall into, under
// uniform routing (hypergeometric); top_k for naive dispatch.
double cost_expected_copies(const Spec *spec, Dispatch dispatch, const Config *config, uint32_t level);

void cost_layer(const Workload *work, uint32_t layer, const Config *config, Dispatch dispatch, LayerCost *cost);

typedef struct {
    double iteration_s;
    Traffic traffic[LEVELS_MAX];
    // Where the time of the chain went (seconds, sums over layers; they add up to iteration_s).
    double pre_expert_s, exchange_s, expert_s, gather_wait_s, other_s;
    double all_reduce_s; // training: dense gradients, after everything else
    double tail_s;       // training, included above: all_reduce_s and the optimizer
} IterationCost;

// The same configuration for every MoE layer.
void cost_iteration(const Workload *work, const Config *config, Dispatch dispatch, IterationCost *out);

// Bytes AdamW reads and writes per parameter: weight, gradient, two f32 moments, and an f32 master copy of 16-bit
// weights.
double optimizer_bytes_per_parameter(Dtype dtype);

// Product of S over the levels that shard experts: how many shards a GPU holds after gathering.
double config_held_shards(const Spec *spec, const Config *config);

#endif
