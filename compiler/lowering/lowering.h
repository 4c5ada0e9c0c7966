// What the lowering of the forward pass hands to that of the backward pass, and what both call. Private to lower*.c.
#ifndef HEP_LOWERING_H
#define HEP_LOWERING_H

#include "compiler/lowering/builder.h"
#include "compiler/model/iteration.h"

// Rows at one point of the way to the experts: stage 0 is the gate's output, stage i + 1 what the
// i-th exchange delivers. Buffers are NONE where a stage has none.
typedef struct {
    int32_t level, group;                            // of the exchange that leaves this stage; NONE at the last
    double row_capacity, send_capacity, record_rows; // rows of `rows`, of the send buffer, of `records`
    double origin_rows;                              // of the `origin` of the route that leaves
    int32_t rows, records, counts;                   // counts NONE at stage 0; rows NONE inside, where packed ones pass
    int32_t packed;                                  // the same rows as they travel; `rows` where that is as they are
    int32_t send_counts, origin, next_counts;        // of the exchange that leaves
} Stage;

enum { STAGES_MAX = LEVELS_MAX + 1 };

// What a codec remembers: NONE where it does not.
typedef struct {
    int32_t sent, replicas;
} CodecMemory;

// A gather of several levels, outermost first.
typedef struct {
    uint32_t sizes[LEVELS_MAX]; // members that each level brings together
    uint32_t once;              // what levels before this one bring is kept until the backward pass
    int32_t after;              // where it is not: the step that uses the same memory before; NONE
    bool passed_on;             // what the level before brought, over an outer level, is for the next one alone
    int32_t shard;              // what the levels so far left
} Gathering;

// A bundle on its way to those who read it.
typedef struct {
    int32_t layer, bundle;
    int32_t kept; // what levels that are gathered once left
    const char *suffix;
    Gathering levels;
} BundleGather;

typedef struct {
    int32_t x, y; // input of the pre-expert part and of the gate (or dense layer)
    uint32_t stage_count;
    Stage stages[STAGES_MAX];
    int32_t dense, experts;   // weights, as owned
    int32_t held_dense;       // what steps read: as owned, or gathered
    int32_t held;             // the same of experts
    int32_t kept_dense, kept; // what is kept of them until the backward pass, where the rest is gathered again
    int32_t mean;             // what the codec of the experts subtracts
    CodecMemory memory;       // of it
    BundleGather dense_ahead; // gathered over the slowest level with the bucket, where there is one;
    Gathering experts_ahead;
    bool is_dense_ahead, are_experts_ahead; // and which of the two are
} LoweredLayer;

// A weight buffer that the optimizer will update.
typedef struct {
    int32_t layer, weight, gradient;
} WeightUpdate;

enum { UPDATES_PER_LAYER_MAX = 2 };

// Of several laps, what leaves the last one for the outer levels takes memory that nothing else shares. Layers take
// turns: so many gradients of a size may be under way there.
enum { LEAVING_SLOTS = 4 };

typedef struct {
    int32_t *buffers; // [2 LEVELS_MAX layers], the one that waited longest first
    uint32_t count;
} LeavingSlots;

// A gradient on its way home.
typedef struct {
    int32_t layer, weights, gradient; // layer NONE: the embedding
    uint32_t sizes[LEVELS_MAX];       // members that each level brings together
    double step_s[LEVELS_MAX], bytes[LEVELS_MAX];
    double startup_s;        // of `step_s`, what it saves to join another
    double rows, owned_rows; // of shares: as many as are left, and what is owned
    uint32_t next;           // levels from this one inwards were crossed
    uint32_t packed;         // outermost levels that packets cross
    bool each_lap;           // levels inside the boundary are crossed once per lap,
    uint32_t once;           // which are those from this one on
    bool summed;             // what laps brought was added up
    int32_t sum;             // where that is; NONE: nowhere yet
    bool meets;              // the other half at the boundary
    char name[BUFFER_NAME_MAX];
    const char *suffix; // of buffers' names: NAME.LEVELsuffix
} ReturnPath;

enum { PENDING_MAX = 2 * PLAN_BUCKET_MAX }; // two of a layer, or of each layer of a bucket; one of the loss

// So many gathered shares that came over the outer levels may wait for the levels inside: of dense weights and of
// experts one that is read, and one that is made meanwhile. Those of a bucket count as one.
enum { OUTER_SLOTS = 4, OUTER_READS = 2 * PLAN_BUCKET_MAX + 1 };

typedef struct {
    const Workload *work;
    const Spec *spec;
    const Mix *mix;
    Dispatch dispatch;
    Arena *arena;
    Plan *plan;
    Builder *builder;
    double tokens;
    uint32_t fanout, records;      // record rows per token and records per row
    double share_rows, share_cols; // of the experts a rank owns
    // Of the MoE layer that is being lowered: lowering_enter sets them.
    const Config *config;
    LayerCost cost;
    double held_rows; // of shares, after gathering
    LoweredLayer *layers;
    uint32_t *moe_index; // [layers]: how many MoE layers come before
    int32_t *reads;      // expert steps of this pass so far, the order gathers wait in
    uint32_t read_count;
    int32_t tokens_buffer, final_x;
    int32_t embedding, held_embedding; // as owned, as steps read it
    int32_t kept_embedding;            // what is kept of it, where it is gathered again for the loss
    WeightUpdate *updates;
    uint32_t update_count;
    int32_t returned;          // the last step that brings gradients home; NONE if there was none
    int32_t home[RETURNS_MAX]; // the same after the layers before, latest first
    LeavingSlots leaving;
    int32_t outer_reads[OUTER_READS]; // the last steps that read what came over the outer levels alone, latest first
    int32_t limit;                    // what the next step of the computation waits for besides its data
    uint32_t bucket;                  // layers whose bundles cross the slowest level together; 0: each on its own
    bool joins;                       // of the bucket at hand, bundles have begun to
    int32_t outer_gather;             // the last gather over the outer levels since gradients went home
    int32_t gathered_first;           // of these, what returns over the outer levels wait for; NONE
    ReturnPath pending[PENDING_MAX];  // which have not crossed the outer levels
    uint32_t pending_count;
    int32_t embedding_sum; // where both halves of its gradient meet
} Lowering;

// lowering.c.
// Turns to an MoE layer: its configuration and what it costs.
void lowering_enter(Lowering *l, uint32_t layer);
// Notes the step that last reads the experts of a layer in this pass.
void lowering_note_read(Lowering *l, int32_t step);
void lowering_note_update(Lowering *l, int32_t layer, int32_t weight, int32_t gradient);
// The step a gather must wait for so that it runs ahead no farther than the mix allows; NONE. Of experts, of the layer
// that was entered; of dense weights; of the embedding, before the loss.
int32_t lowering_prefetch_limit(const Lowering *l);
int32_t lowering_dense_limit(const Lowering *l);
int32_t lowering_embedding_limit(const Lowering *l);
// Gradients that are whole until they are home, of weights that are gathered again: those of a layer wait for the layer
// RETURNS_MAX before. The step to wait for; NONE.
int32_t lowering_return_limit(const Lowering *l);
// The weights will be updated by the gradient, which is home.
void lowering_note_update(Lowering *l, int32_t layer, int32_t weight, int32_t gradient);
int32_t lowering_add_temporary(Lowering *l, uint32_t layer, const char *name, Dtype dtype, double rows, double cols);
// Expected seconds to read and write `bytes` of device memory.
double lowering_move_s(const Lowering *l, double bytes);
// The step of the computation waits for `limit`, too, which then holds no other one back.
int32_t lowering_limited(Lowering *l, int32_t step);
// A step of the computation that talks to nobody.
int32_t lowering_add_local(Lowering *l, Op op, int32_t layer, double cost_s, StepBuffers operands);

// lower_rows.c. Names of buffers end with `suffix`.
// Buffers for rows as an exchange carries them.
int32_t lowering_add_rows(Lowering *l, uint32_t layer, TokenWay way, const char *name, double rows);
// Rows at one end of an exchange at `level`, and how many they are: as OP_ENCODE_ROWS and OP_DECODE_ROWS take them.
typedef struct {
    int32_t rows, counts, send_counts;
    double capacity;
    uint32_t level;
} RowsEnd;
// Rows before the first exchange; those that arrived in a stage; those that were sent from one, and came back.
RowsEnd lowering_first_end(const Stage *first, int32_t rows);
RowsEnd lowering_arrived_end(const Stage *stage, int32_t rows);
RowsEnd lowering_returned_end(const Stage *from, int32_t rows);
// Packs rows for an exchange, or unpacks them after it, into a buffer called `name`; returns that, or `from.rows` where
// rows travel as they are.
int32_t lowering_encode_rows(Lowering *l, uint32_t layer, TokenWay way, const char *name, RowsEnd from);
int32_t lowering_decode_rows(Lowering *l, uint32_t layer, TokenWay way, const char *name, RowsEnd from);
// Attention of a layer, from its `x` to its `y`.
void lowering_attend(Lowering *l, uint32_t layer, const char *suffix);
// Rows of an MoE layer from `y` through the gate to those who hold the experts: sets the layer's stages, but for the
// rows of the last one.
void lowering_send_rows(Lowering *l, uint32_t layer, const char *suffix);
// The rows that the experts take, once they are there. What is computed while rows travel is added before.
void lowering_receive_rows(Lowering *l, uint32_t layer, const char *suffix);

// lower_sums.c.
// The gradient of some weights: what steps of a micro-batch write, and the sum over the iteration's. Where that has one
// micro-batch all three are one buffer; where what goes home is f32, it is the sum.
typedef struct {
    int32_t layer; // NONE for the embedding
    int32_t part, sum, whole;
    bool each_lap; // the sum is a lap's: what it becomes on its way home is added up (lowering_sum_laps)
} GradientSum;

// `whole`: the buffer of what goes home, as large as one part.
GradientSum lowering_begin_sum(Lowering *l, int32_t layer, int32_t whole, bool each_lap);
// A part of another kind, that begins as zeros, and is added to the same sum. And the sum's own part, as zeros.
int32_t lowering_add_cleared_part(Lowering *l, const GradientSum *of, const char *suffix);
int32_t lowering_clear_part(Lowering *l, const GradientSum *of);
void lowering_accumulate(Lowering *l, const GradientSum *of, int32_t part);
// Ends the sum; `whole` holds it.
void lowering_end_sum(Lowering *l, const GradientSum *of);

// The iteration's sum of what laps bring, in f32 and as large as `part`: the owner's `gradient`, or, for NONE, one that
// travels on.
int32_t lowering_begin_laps(Lowering *l, int32_t layer, int32_t part, int32_t gradient);
void lowering_add_lap(Lowering *l, int32_t layer, int32_t part, int32_t sum);
// What travels on, where weights have 16 bits.
void lowering_round_laps(Lowering *l, int32_t layer, int32_t sum, int32_t rounded);

// lower_migration.c.
// Do gradients of the experts, or of dense weights, go home over the levels inside the boundary once per lap?
bool lowering_returns_each_lap(const Lowering *l);
bool lowering_returns_dense_each_lap(const Lowering *l);
// All-gathers the experts of a layer, outer level first, or again what was not kept of them; returns the buffer the
// expert step reads.
int32_t lowering_add_gathers(Lowering *l, uint32_t layer, bool again, int32_t after_step);
// All-gathers a bundle that all GPUs own shares of, outer level first; returns the buffer that steps read: the bundle's
// own where there is nothing to gather. `layer`: NONE for the embedding. `kept`: what is kept of it for the backward
// pass, where the rest is gathered again.
int32_t lowering_gather_bundle(Lowering *l, int32_t layer, int32_t bundle, int32_t after_step, int32_t *kept);
int32_t lowering_gather_bundle_again(Lowering *l, int32_t layer, int32_t bundle, int32_t kept, int32_t after_step);
// All-gathers dense weights, or experts of the layer that was entered, of a layer over the slowest level alone, ahead
// of the others, which the two functions above then do. Where there is nothing to gather, or no way to, nothing.
void lowering_gather_dense_ahead(Lowering *l, uint32_t layer);
void lowering_gather_experts_ahead(Lowering *l, uint32_t layer);
// Outermost levels over which a bundle is gathered once, where it is gathered again; and those that its gradients cross
// once, where they return in every lap.
uint32_t lowering_once_levels(const Lowering *l, int32_t layer);
uint32_t lowering_gradient_levels(const Lowering *l, int32_t layer);
// What a bundle costs, one way.
BundleCost lowering_bundle_cost(const Lowering *l, int32_t bundle, BundleWay way);
// Gradients as packets to the members of a group; what these leave out goes another time. `step`: their return.
void lowering_return_packets(Lowering *l, int32_t weights, StepSpec step, int32_t gradient, int32_t shard);
// A buffer for the gradient of a bundle as steps read it.
int32_t lowering_add_bundle_gradient(Lowering *l, int32_t layer, int32_t bundle, int32_t held);
// The same where the embedding is gathered again: a buffer for each half.
int32_t lowering_add_half_gradient(Lowering *l, const char *suffix);
// The gradient of a weight buffer: as large. One that is a sum over micro-batches is f32; one that arrives over a link
// has the dtype in which it travels, that of the weights.
int32_t lowering_add_gradient(Lowering *l, int32_t weight, int32_t layer);
int32_t lowering_add_gradient_sum(Lowering *l, int32_t weight, int32_t layer);
// Sums a buffer over the ranks, one level after another, inner first; in each of `every` iterations.
void lowering_add_sums(Lowering *l, int32_t layer, int32_t summed, uint32_t from_level, uint32_t to_level,
                       double every);
// Sums the shared expert of codec `sr` again, where the layer has one, from the weights before their update: nothing in
// this iteration needs it any more.
void lowering_add_mean(Lowering *l, uint32_t layer);

// lower_returns.c.
// Gradients go home over the levels inside, and are noted for the update once they are there: of a bundle, of gathered
// experts; where the embedding is gathered again, what the loss left, then that of the words, which meet at the
// boundary.
void lowering_return_bundle(Lowering *l, int32_t layer, int32_t bundle, int32_t gradient);
void lowering_return_experts(Lowering *l, uint32_t layer, int32_t dheld);
void lowering_return_loss_half(Lowering *l, int32_t gradient);
void lowering_return_words_half(Lowering *l, int32_t gradient);
// Where the next layer has gathered what it needs: they go on over the outer levels. Those of a bucket together.
void lowering_go_home(Lowering *l);

// lower_backward.c.
void lowering_add_backward(Lowering *l);

#endif
