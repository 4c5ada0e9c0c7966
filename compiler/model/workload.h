// The work of a model on one GPU, before any choice: volumes and times of every layer, derived from
// the checked spec. The cost model prices configurations of it.
#ifndef HEP_WORKLOAD_H
#define HEP_WORKLOAD_H

#include "compiler/model/routing.h"

// One model layer on one GPU. Times are of the forward pass unless their names say otherwise.
typedef struct {
    bool is_moe;
    uint32_t kind;       // the first layer that is just like this one
    double pre_expert_s; // PE: attention, and the gate where there is one
    double gate_s;       // the gate's part of it; 0 for abstract workloads
    double dense_s;      // dense feed-forward layer, or the shared experts of an MoE layer
    double pre_expert_backward_s, gate_backward_s, dense_backward_s;
    double expert_flops;      // of all records of one GPU's tokens
    double expert_compute_s;  // given (abstract workloads); else 0 and expert_flops counts
    double expert_backward;   // FLOPs of the experts' backward pass, or its time, over those of the forward pass
    double data_bytes;        // D: tokens x top_k x row bytes; one direction, before deduplication
    double expert_bytes;      // P: a GPU's share of the experts, uncompressed
    double sent_bytes;        // P as sent, after compression
    double returned_bytes;    // its gradient as sent
    double dense_share_bytes; // training: what a GPU owns of the dense weights; 0 for abstract workloads
    double dense_sums_s;      // several micro-batches: adding up gradients of the dense weights, of one of them
    double dense_round_s;     // and what is done once: clearing, and rounding the sum
    double mean_bytes;        // one expert's; the shared expert of codec `sr`, where it has one
    double tokens;            // 0 for abstract workloads
    double row_bytes;         // bytes of a hidden vector; 0 for abstract workloads
    double expert_scale;      // time of the experts over that of their FLOPs: 1 unless measured
    double expert_backward_scale;
    // What a row takes as it travels, over `row_bytes`: 1 where it is not packed.
    double packed_share[TOKEN_WAYS];
    Popularity *routing; // NULL: uniform
} LayerWork;

typedef struct {
    const Spec *spec; // set with workload_set_spec, which finds out the three that follow
    uint32_t outer_levels;
    uint32_t bucket, bucket_level; // see spec_bucket; the level is of no meaning where the former is 0
    uint32_t layer_count, moe_count;
    LayerWork *layers; // [layer_count], in the arena
    double loss_s;     // final norm, logits and cross-entropy
    double loss_backward_s;
    double dense_bytes;           // dense weights of all layers, embedding and final norm, whole
    double embedding_share_bytes; // training: what a GPU owns of embedding and final norm
    double owned_gradient_bytes;  // of everything that a GPU owns: what the optimizer reads
    double optimizer_s;
    double embedding_part_s;  // several micro-batches: adding up one of the two parts of the embedding's gradient,
    double embedding_zeros_s; // which the words' begins as,
    double embedding_round_s; // and what is done once for a sum, clearing and rounding it: of each lap
} Workload;

Workload *workload_derive(const Spec *spec, Arena *arena);
// The same work by another spec, which differs in nothing that times and volumes depend on.
void workload_set_spec(Workload *work, const Spec *spec);

// Does the layer's dense bundle begin what its bucket gathers over the slowest level, and end what it returns? Its
// experts, with a domain of so many workers there? What does not joins that, and saves a start-up.
bool workload_leads_bucket(const Workload *work, uint32_t layer);
bool workload_experts_lead_bucket(const Workload *work, uint32_t layer, uint32_t domain);

// The same work with counted exchanges; `spec` is filled and must live as long.
Workload workload_counted(const Workload *work, Spec *spec);

// Time of matrix products of `rows` rows that cost `flops` in total on one GPU: rate halves at half_rate_rows. Those of
// the backward pass may have a rate of their own.
double workload_matrix_s(const Device *device, double flops, double rows);
double workload_backward_s(const Device *device, double flops, double rows);

// What summing gradients of so many elements over the micro-batches of an iteration takes: 0 where there is one.
typedef struct {
    double part_s; // adding those of one micro-batch to the f32 sum
    double once_s; // clearing that, and rounding it where weights have 16 bits
} SumCost;

SumCost workload_sum_cost(const Spec *spec, double elements);
// The same of a bundle's gradients, `once_s` of each lap; `each_lap`: their sums go home once per lap.
SumCost workload_lap_sum_cost(const Spec *spec, double elements, bool each_lap);
// Do sums of dense weights' gradients go home once per lap?
bool workload_returns_dense_each_lap(const Spec *spec);

// GPUs that share a copy of the experts.
double workload_shards(const Spec *spec);

// Bytes AdamW reads and writes per parameter: weight, gradient, two f32 moments, and an f32 master copy of 16-bit
// weights.
double optimizer_bytes_per_parameter(Dtype dtype);

#endif
