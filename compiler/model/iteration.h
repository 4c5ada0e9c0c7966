// The iteration that the layers' costs add up to (docs/cost-model.md, "Time of an iteration"): the chain of
// computation and exchanges, the gather queue that runs ahead, the busy time of every port. The
// recursion is a max-plus linear map of the clock, layer by layer; the exact method relies on that.
#ifndef HEP_ITERATION_H
#define HEP_ITERATION_H

#include "compiler/model/cost.h"

// A configuration for every MoE layer, in layer order, and how far gathers may run ahead.
typedef struct {
    const Config *configs; // [moe_count]
    uint32_t prefetch;     // of dropped replicas: see mix_window
} Mix;

enum {
    PREFETCH_UNLIMITED = UINT32_MAX,
    PREFETCH_MAX = 8,      // the deepest limited prefetch
    PREFETCH_REGATHER = 1, // replicas that are gathered again run ahead by one layer, or nothing is saved
    RETURNS_MAX = 2,       // where they are, gradients of so many layers exist whole at a time, for the same reason
};

// How many gathers may be ahead of the expert step that runs: the gather of MoE layer i waits until
// the experts of MoE layer i - window - 1 were read. Unlimited where the replica is kept anyway.
uint32_t mix_window(Pass pass, const Config *config, uint32_t prefetch);

// The same of the part of it that crosses the outer levels: unlimited where what they bring is kept.
uint32_t mix_outer_window(const Workload *work, const Config *config, uint32_t prefetch);

// The same of the gather of a layer's dense weights: until the experts of that many MoE layers before were read.
uint32_t dense_window(const Workload *work, uint32_t prefetch);
uint32_t dense_outer_window(const Workload *work, uint32_t prefetch);
// The same of the embedding's gather before the loss.
uint32_t embedding_window(uint32_t prefetch);
uint32_t embedding_outer_window(const Workload *work, uint32_t prefetch);

// Can the gathers of a layer's weights join those of other layers in a bucket? What they bring is kept, so that they
// wait for nothing. Of experts, under the configuration; of dense weights.
bool experts_gather_in_buckets(const Workload *work, const Config *config);
bool dense_gathers_in_buckets(const Workload *work);
// What dense weights of a layer, and its experts, save over the slowest level where they join others of their bucket.
double dense_join_saves_s(const Workload *work, uint32_t layer, const BundleCost *dense, BundleWay way);
double experts_join_saves_s(const Workload *work, uint32_t layer, const LayerCost *cost, const Config *config,
                            BundleWay way);

// Do gradients of weights wait for those of the layer RETURNS_MAX before, so that they do not pile up? Where memory is
// saved: the weights are gathered again, or activations are computed again.
bool dense_returns_are_limited(const Workload *work);
bool expert_returns_are_limited(const Workload *work, const Config *config);

// Where things stand, seconds since the iteration began.
enum {
    CLOCK_CHAIN,                           // computation and exchanges
    CLOCK_QUEUE,                           // gathers
    CLOCK_OUTER,                           // those over the outer levels, where there are (spec_outer_levels)
    CLOCK_RETURN,                          // gradients on their way home
    CLOCK_OUTER_RETURN,                    // those over the outer levels, where there are: at home
    CLOCK_HOME,                            // those of the layers before were home, latest first
    CLOCK_PORT = CLOCK_HOME + RETURNS_MAX, // of each level: busy until
    CLOCK_READ = CLOCK_PORT + LEVELS_MAX,  // experts of the MoE layers before were read, latest first
    CLOCK_SIZE = CLOCK_READ + PREFETCH_MAX + 1,
};

typedef struct {
    double at_s[CLOCK_SIZE];
} Clock;

typedef struct {
    double iteration_s;
    Traffic traffic[LEVELS_MAX];
    // Where the time of the chain went (seconds, sums over layers; they add up to iteration_s).
    double pre_expert_s, exchange_s, expert_s, gather_wait_s, other_s; // waits: for experts, for busy ports
    double return_s; // training: gradients on their way home after the backward pass
} IterationCost;

// One layer of a mix; cost and configuration are looked at where it has experts.
typedef struct {
    uint32_t layer;
    const LayerCost *cost;
    const PassCost *passes; // forward, backward
    const Config *config;
    uint32_t prefetch; // of the mix
    bool first, last;  // of the laps of an iteration: its gathers bring what is kept, its returns reach the owners
} ClockedLayer;

// Adds one layer's forward or backward pass to the clock, and to `out` what it spent, if given.
void clock_forward(const Workload *work, const ClockedLayer *of, Clock *clock, IterationCost *out);
void clock_backward(const Workload *work, const ClockedLayer *of, Clock *clock, IterationCost *out);
// Of times by level: what the outer levels take, and the others.
double outer_levels_s(const Workload *work, const double of_level[LEVELS_MAX]);
double inner_levels_s(const Workload *work, const double of_level[LEVELS_MAX]);
// The clock before the first layer, when the embedding was gathered, and before the backward pass when the forward pass
// ended at `forward_s`, the first half of the embedding's gradient being on its way home where it returns in halves.
Clock clock_begin(const Workload *work);
Clock clock_begin_backward(const Workload *work, double forward_s);
double iteration_loss_s(const Workload *work); // of all micro-batches of a lap, forward
// Seconds of what follows the backward pass, the same for every mix: the embedding's gradient on its way home, the norm
// and the optimizer.
double iteration_tail_s(const Workload *work);

void cost_mix(const Workload *work, const Mix *mix, Dispatch dispatch, IterationCost *out);
// Of the waits within a mix, those that would not be there if gradients passed no port.
double cost_gradient_wait_s(const Workload *work, const Mix *mix, Dispatch dispatch);
// The same configuration for every MoE layer, gathers running ahead without limit.
void cost_iteration(const Workload *work, const Config *config, Dispatch dispatch, IterationCost *out);
// `config` for every MoE layer, in the arena.
Mix mix_uniform(const Workload *work, const Config *config, uint32_t prefetch, Arena *arena);

#endif
