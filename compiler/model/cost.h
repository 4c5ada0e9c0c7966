// The cost model of one MoE layer (docs/cost-model.md): volumes, times and traffic under a
// configuration. Pure functions of the workload; the planner's coefficients and the printed
// predictions both come from here.
#ifndef HEP_COST_H
#define HEP_COST_H

#include "compiler/model/workload.h"

// One point of the choice: domain sizes (n_l at replica levels; spec_domain_is_valid), replicas kept or gathered again.
typedef struct {
    uint32_t domain[LEVELS_MAX];
    bool regather;
    uint32_t once;          // where they are gathered again: so many outermost levels whose gathered shares are kept
    bool returns_apart;     // several laps: gradients have a boundary of their own, outside that of the weights:
    uint32_t once_gradient; // they cross so many outermost levels once per iteration, the others in every lap
} Config;

bool config_equal(const Config *a, const Config *b);

// Outermost levels whose gathered shares are kept throughout, and those that gradients cross once per iteration.
uint32_t config_kept_levels(const Spec *spec, const Config *config);
uint32_t config_gradient_levels(const Spec *spec, const Config *config);
// Gradients cross so many outermost levels once per iteration, but no more than those whose shares are kept. Where that
// makes no difference they have no boundary of their own.
void config_set_gradient_levels(const Spec *spec, Config *config, uint32_t levels);
void config_plan_gradients(const Spec *spec, Config *config); // as the spec is planned

// A bundle of which every GPU owns a share, one way.
typedef struct {
    double step_s[LEVELS_MAX], bytes[LEVELS_MAX];
    double port_s[LEVELS_MAX]; // busy time of the port of level j, summed over the levels
    double codec_s;            // encoding and decoding
    double startup_s;          // of `step_s`, what it saves to join another bundle over the level of buckets
} BundleCost;

// Gathered outermost level first, or its gradient returned the other way.
typedef enum { BUNDLE_GATHER, BUNDLE_RETURN } BundleWay;

void cost_bundle(const Spec *spec, double share_bytes, BundleWay way, BundleCost *cost);
// Of that what levels from `first` inwards take, which packets do not cross unless it is 0.
void cost_bundle_inside(const Spec *spec, double share_bytes, uint32_t first, BundleWay way, BundleCost *cost);

// The embedding: once per iteration over all levels; where it is gathered again, over the levels inside the boundary
// before each of its uses, and half of its gradient after each.
typedef struct {
    BundleCost gather, home;
    BundleCost again, half;
    double half_sums_s; // adding a half up where it ends
} EmbeddingCost;

void cost_embedding(const Workload *work, EmbeddingCost *cost);

// What one layer costs under a configuration; of a layer without experts its dense weights alone.
typedef struct {
    double dispatch_s[LEVELS_MAX], combine_s[LEVELS_MAX]; // one exchange each way at that level
    double dispatch_backward_s[LEVELS_MAX], combine_backward_s[LEVELS_MAX];
    double gather_s[LEVELS_MAX], reduce_s[LEVELS_MAX];
    double startup_s;           // of experts over the level of buckets, either way: see BundleCost
    double route_s[LEVELS_MAX]; // moving rows in and out of send buffers
    double expert_s, expert_backward_s;
    double send_rows[LEVELS_MAX]; // expected rows a GPU sends to others, one way
    // Rows of one exchange, as large as they travel, and of that what is expected to be no row.
    double payload_bytes[TOKEN_WAYS][LEVELS_MAX], padding_bytes[TOKEN_WAYS][LEVELS_MAX];
    double routing_bytes[LEVELS_MAX]; // of one dispatch, besides
    // Packing rows for an exchange and unpacking them after it; on the way out once, at the first and the last level.
    double encode_s[TOKEN_WAYS][LEVELS_MAX], decode_s[TOKEN_WAYS][LEVELS_MAX];
    // Besides gradients of rows: their counts on the way out, and those of gate weights on the way back.
    double counts_bytes[LEVELS_MAX], weights_bytes[LEVELS_MAX];
    double busiest[LEVELS_MAX]; // bytes of the busiest GPU over those, which are averages
    double gather_bytes[LEVELS_MAX], reduce_bytes[LEVELS_MAX];
    // Busy time of the port of level j by everything that passes it, summed over the levels.
    double port_exchange_s[TOKEN_WAYS][LEVELS_MAX], port_gather_s[LEVELS_MAX], port_reduce_s[LEVELS_MAX];
    double port_latency_s[LEVELS_MAX]; // of what passes the port of level j last before experts are computed
    double expert_sums_s;              // several micro-batches: adding up gradients of held experts, of one of them
    double expert_round_s;             // and what is done once: clearing, and rounding the sum
    // Gathered again, with encoding and decoding; over the outer levels apart.
    double again_s, again_outer_s, port_again_s[LEVELS_MAX], again_bytes[LEVELS_MAX];
    double codec_s;                // encode + decode
    double mean_bytes[LEVELS_MAX]; // of the shared expert's sum, per iteration
    double sync_s;                 // on the way home besides `reduce_s`: encoding, the shared expert's sum
    BundleCost dense, dense_again, dense_return; // training: dense weights gathered, again, gradients on their way home
    // Several laps: what of the returns each of them has, and adding that up where it ends.
    double lap_reduce_s[LEVELS_MAX], lap_reduce_bytes[LEVELS_MAX], port_lap_reduce_s[LEVELS_MAX], lap_sums_s;
    BundleCost dense_lap_return;
    double dense_lap_sums_s;
} LayerCost;

// What all micro-batches of a lap's pass take of one layer with experts. The chain of the first one waits for the
// experts between `before_s` and `compute_s`; what follows of it and all of the others comes after that wait.
typedef struct {
    double before_s;                                            // until the experts are needed
    double compute_s;                                           // from there until they were read for the last time
    double after_s;                                             // from there to the end of the layer
    double port_before_s[LEVELS_MAX], port_after_s[LEVELS_MAX]; // busy time of ports: before the wait, after it
    double pre_expert_s, exchange_s, expert_s, other_s;         // what they add up to, by kind
} PassCost;

void cost_pass(const Workload *work, uint32_t layer, const LayerCost *cost, bool backward, PassCost *pass);
// The same of a layer without experts: all of its chain.
double cost_dense_pass_s(const Workload *work, uint32_t layer, bool backward);

// t_l(V, peers) = a_l + o_l peers + max_{j >= l} c_j V / B_j; 0 without peers.
double cost_collective_s(const Cluster *cluster, uint32_t level, double bytes, double peers);
// The same for groups of a kind, where workers of the outermost level differ: the slowest pair p counts,
// o peers + max_p ( a_p + max( c_0 V max(s_port, s_link / peers), max_{j >= 1} c_j V / B_j ) ), s in seconds per byte.
double cost_group_s(const Spec *spec, GroupKind kind, uint32_t level, double bytes, double peers);
// A sum over the workers of a level: everybody gets the summands of a part, then the sums of all others. Each way is a
// collective of its own, with its start-up. `bytes`: sent, both ways together.
double cost_sum_s(const Spec *spec, uint32_t level, double bytes);

// Packets of so many dense bytes, made and read.
double cost_encode_s(const Device *device, PacketForm form, double bytes);
double cost_decode_s(const Device *device, PacketForm form, double bytes);

// Expected distinct domain prefixes at `level` that the top_k experts of a token fall into, under uniform routing or
// that of the layer (routing.h); for naive dispatch one for each expert that computes.
double cost_expected_copies(const Workload *work, const LayerWork *layer, Dispatch dispatch, const Config *config,
                            uint32_t level);

void cost_layer(const Workload *work, uint32_t layer, const Config *config, Dispatch dispatch, LayerCost *cost);

double cost_levels_s(const double of_level[LEVELS_MAX]); // the sum

// Time that the port of level `level` is busy with the layer in all passes.
double cost_port_s(const LayerCost *cost, uint32_t level);

// Product of S over the levels that share experts: how many shares a GPU holds after gathering.
double config_held_shards(const Spec *spec, const Config *config);
// The same over the levels that packets cross.
double config_coded_shards(const Spec *spec, const Config *config);

// Shares of a layer's gradients that are added up, in f32, throughout several laps.
double config_summed_shards(const Spec *spec, const Config *config);

// The next way to gather the same domain again, after keeping all: all levels, then all but the outermost, and so on,
// where levels inside and outside gather anything. False, and unchanged, after the last.
bool config_next_kept(const Spec *spec, Config *config);
// The same, but that before it gradients of several laps have every boundary outside that of the weights, unless the
// spec says which.
bool config_next_way(const Spec *spec, Config *config);

// What it takes of an iteration that workers which train apart meet, by what a GPU owns of a bundle, bytes in f32: a
// part of what it takes when they do. The sum goes over every level that they are workers of.
typedef struct {
    double gradient_s, step_s, sum_s[LEVELS_MAX], sum_bytes[LEVELS_MAX];
} OuterCost;

OuterCost cost_outer(const Spec *spec, double bytes);

#endif
