// The checked input: what a .hep file says, in SI units, complete with defaults, no names left to
// resolve. Produced by check.c from the AST; consumed by the cost model, which derives volumes and
// times from it. Owns data types only.
#ifndef HEP_SPEC_H
#define HEP_SPEC_H

#include "compiler/spec/outer.h"
#include "ir/base/diag.h"
#include "ir/plan.h"
#include "ir/price.h"
#include "ir/unroll.h"

// What an abstract workload may give layer by layer.
// What a run measured of one layer (profile.h). Seconds on one GPU for MeasuredTimes.tokens tokens.
typedef struct {
    double pre_expert_s, gate_s, dense_s; // as in LayerWork, but the gate apart
    // The busiest GPU's experts: time, and what it computed in that time, so many rows for each expert. 0: not known.
    double expert_s, expert_flops, expert_rows;
    // The same of the backward pass; 0: not measured.
    double pre_expert_backward_s, gate_backward_s, dense_backward_s, expert_backward_s;
} MeasuredLayer;

typedef struct {
    double tokens, loss_s, loss_backward_s; // the last 0: not measured
    MeasuredLayer *layers;                  // [model layers]
} MeasuredTimes;

typedef enum { VOLUME_DATA, VOLUME_EXPERT, VOLUME_PRE_EXPERT, VOLUME_EXPERT_COMPUTE, VOLUME_COUNT } Volume;

// What mixes tokens in some of the layers before the experts, where that is not attention over the whole sequence
// with projections as the model's heads have them.
typedef struct {
    const char *name;
    double parameters; // of its projections, one layer, without norms
    double scored;     // elements of a row that scores and weighted values of one pair of tokens take: heads x head_dim
    double state;      // FLOPs per token besides projections and scores: of a recurrent state
    uint32_t window;   // tokens that one sees: itself and those before; 0: all
    uint32_t chunk;    // tokens of a chunk, the only ones that they see; 0: no chunks
    Span span;
} SpecMixer;

typedef struct {
    const char *name;
    bool abstract; // `moe { data expert pre_expert expert_compute }` were given instead of dimensions
    Dtype dtype;
    uint32_t layers, hidden, heads, kv_heads, head_dim, vocabulary, sequence, batch;
    uint32_t ffn_inner;   // dense layers' inner size
    uint32_t first_dense; // so many layers at the start are dense
    uint32_t every;       // then layer i is MoE if (i + 1) % every == 0
    bool *is_moe;         // [layers], instead; NULL: as these two say
    uint32_t *inner_each; // [layers], dense layers' inner sizes where they differ, 0: none; NULL: ffn_inner
    uint32_t mixer_count;
    SpecMixer *mixers; // [mixer_count]
    uint32_t *mixer;   // [layers], index of the layer's; mixer_count: attention as the heads have it; NULL: all layers
    uint32_t experts, top_k, inner, shared_experts, shared_inner; // the last as in ModelDims
    uint32_t groups, group_top_k, zero_experts;                   // as in ModelDims
    double dense_bits, expert_bits; // in which forward plans store weights; 0: those of dtype
    Activation activation;
    // Abstract workloads: per GPU, MoE layer and direction.
    double data_bytes, expert_bytes, pre_expert_s, expert_compute_s;
    double *popularity;         // [experts]: how often each is chosen, in proportion; NULL: all alike
    double **layer_popularity;  // [layers], of a profile, NULL for dense layers; NULL: `popularity` everywhere
    const MeasuredTimes *times; // of a profile; NULL: derived from FLOPs
    double *each[VOLUME_COUNT]; // [layers], where layers differ; else NULL
    uint32_t each_count[VOLUME_COUNT];
    bool published;        // read from a configuration: parameters are counted as those who publish models do
    bool head_apart;       // of such a model: the output is not tied to the embedding
    uint32_t extra_layers; // of such a model: layers of extra prediction heads, which are not counted
    // Of the whole network, and of what one token passes; 0 for abstract workloads.
    double total_parameters, active_parameters;
    Span span, moe_span;
} SpecModel;

// How far out gradients have a boundary of their own: as is fastest and fits, nowhere, or as asked for.
typedef enum { GRADIENTS_AUTO, GRADIENTS_AS_WEIGHTS, GRADIENTS_FORCED } GradientRequest;

typedef enum { DOMAIN_AUTO, DOMAIN_FORCED, DOMAIN_EP, DOMAIN_GATHER } DomainRequest;

// What was asked for some of the layers: domain sizes, replicas gathered again.
typedef struct {
    uint32_t first_layer, last_layer;
    uint32_t domain[LEVELS_MAX];
    bool regather;
    uint32_t once; // where they are: outermost levels that are gathered once
    bool gives_gradients;
    uint32_t once_gradient; // where it does: outermost levels that gradients cross once
} ForcedRun;

enum { CODEC_AUTO = CODEC_COUNT }; // requested: whichever is fastest

typedef struct {
    Pass pass;
    Dispatch dispatch;
    ExchangeKind exchange;
    PlacementRequest placement;
    DomainRequest domain_request;
    uint32_t domain[LEVELS_MAX]; // for DOMAIN_FORCED: spec_least_domain of those named
    uint32_t forced_count;       // runs of layers with their own; of layers in several the last counts
    ForcedRun *forced;
    Coding experts, dense;     // how both travel; of experts the codec may be CODEC_AUTO
    double max_loss_increase;  // what everything that is not exact may cost together; infinite: anything
    bool open[PRICED_PARTS];   // whichever is fastest within that; exact until it is chosen
    uint32_t shared_every;     // of sr, 0: without a shared expert
    uint32_t whole_iterations; // so many first iterations in which packets hold whole values
    double capacity;           // 0: nothing is dropped
    uint32_t replicas;         // forward: outermost levels over which experts are gathered once, as requested; 0: none
    OnceDense once_dense, once_embedding; // as requested
    bool regather_dense;                  // what is planned with: of ONCE_DENSE_AUTO one after the other,
    uint32_t dense_levels;                // with so many outermost levels whose gathered shares are kept all the same,
    GradientRequest gradient_request;     // levels that gradients cross once, as requested;
    bool returns_apart;                   // planned with: they have a boundary of their own, outside that of weights,
    uint32_t gradient_levels;             // so many outermost levels; of experts unless `forced` says
    bool regather_embedding; // the same of the embedding, over the same levels: see spec_regathers_embedding
    uint32_t micro_batches;  // of an iteration
    uint32_t lap_request;    // micro-batches of a lap, as requested; 0: the planner's choice
    uint32_t lap;            // what is planned with; 0: all micro-batches
    Recompute recompute;     // as requested
    bool recomputes;         // what is planned with: of RECOMPUTE_AUTO one after the other
    Interleave interleave;   // as requested
    bool interleaves;        // what is planned with, where a lap allows it (spec_abreast)
    uint32_t bucket_request; // layers, 0 or BUCKET_AUTO, as requested
    uint32_t bucket;         // what is planned with, where it can be (spec_bucket)
    // In what rows travel: what `tokens` says of all ways, and what that comes to; of a forward pass gradients in none.
    LocalSteps sync;
    TokenFormat tokens_all, tokens[TOKEN_WAYS];
    Span span, domain_span, codec_span, capacity_span;
} SpecPlan;

typedef struct {
    Cluster cluster;    // ports and links in the order of the input until workers are placed
    const Outer *outer; // of its outermost level as its workers stand; NULL while they are alike
    Span cluster_span, level_spans[LEVELS_MAX], memory_span;
    SpecModel model;
    SpecPlan plan;
    TrainingSettings training;
    // Outermost levels whose workers have all experts from the start. Their domain is S_l = n_l and nothing is gathered
    // there. Forward passes have them, as experts do not change; and training with local steps, where these workers
    // have all other weights, too, and train apart.
    uint32_t replica_levels;
    struct FootprintTable *footprints; // what was measured of specs with this memory, or NULL (solve/footprint.h)
} Spec;

// In a forward pass as many outermost levels as were requested; with fewer experts than GPUs at least the fewest
// without which every GPU has whole experts, if there are some. 0 in training, where every expert has one owner.
uint32_t spec_replica_levels(const Spec *spec);

// GPUs that share all weights out among them, when training: where workers train apart those of one. And the levels
// with several workers that they are shared out over, one bit each.
uint64_t spec_owners(const Spec *spec);
uint32_t spec_shared_levels(const Spec *spec);

// Does every GPU own whole experts, not parts of some?
bool spec_owns_whole_experts(const Spec *spec);
uint32_t spec_coded_levels(const Spec *spec); // outermost levels that packets cross, where there are any

// Does the codec subtract the mean of all experts, which takes whole ones? `auto` does where it can.
bool spec_needs_whole_experts(const Spec *spec);
// Are weights or gradients of experts encoded? With `auto` they are where they can be.
bool spec_encodes_experts(const Spec *spec);
// Are weights or gradients of any bundle?
bool spec_encodes(const Spec *spec);
// Can its codecs be planned with the rest: whole experts where a mean is subtracted, one lap, dense weights kept?
bool spec_coding_is_possible(const Spec *spec);
// Do the places that the sizes make divide the experts? Sizes divide their levels' counts.
bool spec_domain_is_valid(const Spec *spec, const uint32_t domain[LEVELS_MAX]);
// The valid sizes that gather least, among them those with the largest sizes outermost; where `domain` is not 0 its
// sizes are taken. 1 where the GPUs divide the experts. False if there are none.
bool spec_least_domain(const Spec *spec, uint32_t domain[LEVELS_MAX]);
// The same with no requested size, for which a valid domain always exists.
void spec_ep_domain(const Spec *spec, uint32_t domain[LEVELS_MAX]);

// The volume of one layer.
double spec_volume(const SpecModel *model, Volume volume, uint32_t layer);

// The network's dimensions as plans carry them; volumes are left 0.
ModelDims spec_dims(const SpecModel *model);

// Sets the parameter counts from the dimensions: those of the network that is executed or, of a published model, its
// own: without positions and biases, and with an output apart where it has one.
void spec_count_parameters(SpecModel *model);

// What mixes the tokens of a layer.
SpecMixer spec_mixer(const SpecModel *model, uint32_t layer);
// Is there a layer whose mixer or inner size the dimensions do not give? Then plans list all layers, and are not
// executed.
bool spec_lists_layers(const SpecModel *model);
// Of a layer that is dense: its inner size, 0 where it has no feed-forward part.
uint32_t spec_layer_inner(const SpecModel *model, uint32_t layer);
// A layer's dense bundle: its elements, and the bits that one takes in a forward pass, on average; 0: those of dtype.
uint64_t spec_dense_elements(const SpecModel *model, uint32_t layer);
double spec_dense_bits(const SpecModel *model, uint32_t layer);
// Of the experts that a token chooses, the part that computes.
double spec_computing_part(const SpecModel *model);

// Can the embedding be gathered for each of its uses in a lap, and its gradient return in two halves, one after each?
// Where there are several micro-batches, and it is not encoded. Is it planned with?
bool spec_can_regather_embedding(const Spec *spec);
bool spec_regathers_embedding(const Spec *spec);
// Outermost levels over which it is then gathered once, and its gradient returns once, all the same.
uint32_t spec_embedding_levels(const Spec *spec);

// Outermost levels that gradients of dense weights cross once per iteration of several laps; the others in every lap.
uint32_t spec_dense_gradient_levels(const Spec *spec);

// How an iteration is planned: so many laps of so many micro-batches; one of all, where `lap` does not divide these.
Laps spec_laps(const Spec *spec);

// How many micro-batches of a lap can go abreast (ir/unroll.h): the fewest, of two or three, that divide it; 1: none.
// And how many do.
uint32_t spec_abreast_possible(const Spec *spec);
uint32_t spec_abreast(const Spec *spec);

// Outermost levels over which training gathers weights and returns gradients on streams of their own, so that nothing
// slow stands between the transfers inside: the outermost one with several workers, where there are more inside. 0
// where weights or gradients of experts are encoded, which the streams inside do for all levels.
uint32_t spec_outer_levels(const Spec *spec);

// Layers whose weights cross the slowest level together, and their gradients; 0: every bundle on its own, as where
// there is no training, several laps, or anything encoded. Buckets are counted from the first layer.
enum { BUCKET_AUTO = UINT32_MAX };
uint32_t spec_bucket(const Spec *spec);
// The slowest level, where there are buckets: the outermost with several workers.
uint32_t spec_bucket_level(const Spec *spec);

// Is layer `index` (0-based) an MoE layer?
bool spec_layer_is_moe(const SpecModel *model, uint32_t index);

#endif
