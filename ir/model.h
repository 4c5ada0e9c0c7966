// The model that a plan is for: its dimensions, how its weights lie in memory, how many there are. Owns ModelDims.
#ifndef HEP_MODEL_H
#define HEP_MODEL_H

#include "ir/names.h"

// Dimensions of the executed network. All zero but
// `layers`, `experts`, `top_k` and the volumes when `abstract`.
typedef struct {
    const char *name;
    bool abstract; // volumes and times were given; can be simulated, not executed
    Dtype dtype;
    uint32_t layers, hidden, heads, kv_heads, head_dim, vocabulary, sequence, batch;
    uint32_t ffn_inner;                             // of dense layers; 0 when there is none
    uint32_t experts, top_k, inner, shared_experts; // inner: of one expert
    uint32_t shared_inner;                          // of all shared experts together; 0: shared_experts x inner
    uint32_t groups, group_top_k; // a token's experts lie in group_top_k of so many equal groups; 0: anywhere
    uint32_t zero_experts;        // outputs of the router besides the experts that compute and send nothing
    double expert_bits;           // forward plans: bits in which a weight of an expert is stored; 0: those of dtype
    Activation activation;
    // Volumes and times of one MoE layer, per GPU and direction; of the dimensions, or as given.
    double data_bytes;                          // D: token data before deduplication
    double expert_bytes;                        // P: owned experts as sent, after compression
    double pre_expert_s;                        // PE
    double total_parameters, active_parameters; // of the whole model, and of what a token passes, positions not among
                                                // them; 0 if unknown
} ModelDims;

// Weight layouts, row-major, in elements of the model's dtype (f32 for router and norms is not
// used: one dtype throughout). H hidden, A = heads x head_dim, K = kv_heads x head_dim, I inner.
//   embedding  [vocabulary][H], positions [sequence][H], final norm gain [H], bias [H]
//   attention  norm gain [H], bias [H], Wq [H][A], Wk [H][K], Wv [H][K], Wo [A][H]
//   router     norm gain [H], bias [H], W [H][experts]
//   ffn        norm gain [H], bias [H], up [H][I'], (gate [H][I'] if swiglu), down [I'][H]; I' = ffn_inner
//   expert     up [H][I], (gate [H][I] if swiglu), down [I][H]; a rank's experts one after another
//   shared     like one expert with inner = model_shared_inner
// A layer's dense weights are one bundle of such parts: attention, then router and shared, or ffn.
uint64_t model_tokens(const ModelDims *); // per GPU: sequence x batch
uint64_t model_embedding_elements(const ModelDims *), model_attention_elements(const ModelDims *),
    model_router_elements(const ModelDims *), model_ffn_elements(const ModelDims *),
    model_expert_elements(const ModelDims *), model_shared_elements(const ModelDims *);
uint64_t model_shared_inner(const ModelDims *); // of all shared experts together

// How experts are stored: as elements of the model's dtype or, in fewer bits, as bytes.
Dtype model_expert_dtype(const ModelDims *);
uint64_t model_expert_units(const ModelDims *); // elements of that dtype that an expert takes
// Groups that limit a token: one bit each of those that experts lie in; 0 where nothing limits them. A token whose
// experts lie in group_top_k groups may choose from these alone, so that it uses the groups with the best experts.
enum { MODEL_GROUPS_MAX = 64 };
bool model_limits_groups(const ModelDims *);
uint64_t model_group_bit(const ModelDims *, uint32_t expert);
bool model_group_allows(const ModelDims *, uint64_t open, uint32_t expert);

// Bytes that so many weights take in so many bits each, rounded up.
uint64_t model_packed_bytes(uint64_t elements, double bits);

// Model FLOPs of a token in one iteration, as utilisation is counted: 2 per active parameter and those of attention
// scores over the causal half, times 3 with a backward pass; what recomputation or padding costs is not in it. 0 where
// parameters are not known.
double model_token_flops(const ModelDims *, Pass pass);

// Elements `first` to `first + count - 1` of a tensor.
typedef struct {
    uint64_t first, count;
} ModelRange;

typedef enum { DENSE_ATTENTION, DENSE_ROUTER, DENSE_SHARED, DENSE_FFN, DENSE_PARTS } DensePart;

// Of a layer with experts, or without: all its dense weights, and where a part of them lies.
uint64_t model_dense_elements(const ModelDims *, bool is_moe);
ModelRange model_dense_range(const ModelDims *, DensePart part);
// Whether a layer with experts, or without, has the part.
bool model_has_part(const ModelDims *, DensePart part, bool is_moe);

// Ascending ranges of a tensor.
typedef struct {
    uint32_t count;
    ModelRange ranges[2];
} ModelRanges;

// Norm gains and biases, which no weight decay is for, among the dense weights of a layer and in the embedding's
// bundle.
ModelRanges model_undecayed_dense(const ModelDims *), model_undecayed_embedding(const ModelDims *);

#endif
