// The plan: one SPMD schedule for all ranks, and everything needed to run, check, simulate or show
// it. This header is the vocabulary shared by the compiler (which builds plans), the backends
// (which write them out) and the runtime (which executes them). Owns the data types only: those of the choice and of
// the schedule; the cluster, the model and the codes have headers of their own, which this one includes.
//
// All byte figures are per GPU unless a name says otherwise. Times are seconds.
#ifndef HEP_PLAN_H
#define HEP_PLAN_H

#include <string.h>

#include "ir/base/arena.h"
#include "ir/cluster.h"
#include "ir/codec.h"
#include "ir/model.h"
#include "ir/names.h"
#include "ir/ops.h"
#include "ir/share.h"
#include "ir/token_rows.h"

// ---- plan ------------------------------------------------------------------------------------

// The dense weights of one layer of a model that can be planned, not executed: its layers mix tokens in ways that
// hep-run does not know, or store weights in fewer bits than a dtype has.
typedef struct {
    const char *mixer; // what mixes tokens, as the input names it
    uint64_t elements; // of the layer's dense bundle
    double bits;       // of a stored weight, on average; 0: those of the model's dtype
} LayerDims;

// One per MoE layer, in layer order.
typedef struct {
    uint32_t layer;              // index in the model
    uint32_t domain[LEVELS_MAX]; // S_l; n_l at replica levels, where nothing is gathered or exchanged; prod n_l/S_l
                                 // divides the experts
    bool regather;               // drop replicas after the forward pass, gather again in the backward pass,
    uint32_t once;               // but for what was gathered over so many outermost levels, which is kept
    bool returns_apart;          // several laps: gradients have a boundary of their own, outside that of the weights:
    uint32_t once_gradient;      // they cross so many outermost levels once per iteration, the others in every lap
} Choice;

// Expected bytes one GPU sends over a level in one iteration.
typedef struct {
    double exchange_bytes; // token rows, both directions, all passes
    double padding_bytes;  // of these, what fills messages up to their size; 0 where exchanges are counted
    double routing_bytes;  // records and counts that travel with them
    double gather_bytes;   // experts
    double reduce_bytes;   // their gradients, and sums over ranks
    double dense_gather_bytes, dense_reduce_bytes; // shares of dense weights and of the embedding; their gradients
} Traffic;

// A strategy that was evaluated; the first of a plan is the chosen one, the others are the
// comparison table's ("ep", "ep_dedup", "ep_inside", "gather", "uniform": the best single choice; plan_facts.h).
typedef struct {
    const char *name;
    Dispatch dispatch;
    uint32_t domain[LEVELS_MAX];                 // of the first MoE layer
    double iteration_s, exposed_s, memory_bytes; // exposed: of the iteration, spent on communication alone
    bool fits;
    Traffic traffic[LEVELS_MAX];
} Strategy;

// What an optimizer step does: AdamW, its learning rate over the iterations, and what the gradient is made of.
typedef struct {
    double learning_rate, beta1, beta2, epsilon, weight_decay;
    uint32_t warmup, decay; // iterations of the linear rise, and of the cosine fall after it; 0: none
    double final_rate;      // the learning rate after the fall, over `learning_rate`
    double clip;            // the largest norm of the whole gradient; 0: no limit
    double balance;         // weight of the loss that makes loads of experts alike
} TrainingSettings;

// Local steps: workers of the outermost levels train apart. After every so many iterations what their weights moved
// since the last time is averaged over them, the outer gradient, and the weights of all become the same.
typedef struct {
    uint32_t every; // iterations; 0: there are no local steps
    OuterOptimizer optimizer;
    double learning_rate, momentum; // of the outer optimizer
} LocalSteps;

typedef struct {
    const char *name;
    Dtype dtype;
    uint64_t rows, cols;
    BufferKind kind;
    int32_t layer;   // whose weights or temporaries; NONE if of no layer
    BufferSpan span; // SPAN_ITERATION where an iteration is one micro-batch; `rows` are those of one value
    uint64_t offset; // in the rank's arena, bytes, multiple of BUFFER_ALIGNMENT
} Buffer;

enum { BUFFER_ALIGNMENT = 256 };

typedef struct {
    Op op;
    int32_t layer, level, group;       // NONE where it has none; group indexes plan->groups
    StepWhen when;                     // WHEN_EVERY where an iteration is one micro-batch
    bool joined;                       // one collective with the step before it on its stream: see plan_run_next
    uint32_t operand_first;            // into plan->operands; as many as op_info says; NONE if absent
    uint32_t after_first, after_count; // into plan->after: steps of other streams (unroll.h, "Waits")
    double cost_s;                     // predicted time of this step alone
    double bytes;                      // expected bytes one GPU sends in it; 0 for LOCAL
    double busiest;                    // bytes of the GPU that sends or receives most over those; 0 where all are alike
    uint32_t micro_batch, written;     // of an unrolled plan: its micro-batch, and which step of the plan as written
} Step;

typedef struct {
    Arena *arena; // owns everything below
    Cluster cluster;
    ModelDims model;
    Pass pass;
    Dispatch dispatch;
    ExchangeKind exchange;     // padded: every message is as large as `plan_message_rows` says
    Coding experts, dense;     // how both travel; the embedding as dense weights do
    uint32_t shared_every;     // iterations between two sums of the mean expert that `sr` subtracts; 0: none
    uint32_t whole_iterations; // training: in so many first iterations packets hold whole values
    double capacity;           // rows per expert and source over the balanced load; 0: nothing is dropped
    // Outermost levels whose workers have all experts from the start; when training, all weights: they train apart.
    uint32_t replica_levels;
    LocalSteps sync;
    uint32_t replica_slots; // gathered layers alive at once, where replicas are dropped after use; 0: no limit
    uint32_t outer_levels;  // training: gathers and returns over so many outermost levels have streams of their own
    bool regather_dense;    // training: the same of gathered dense weights, and of so many outermost levels
    uint32_t once_dense;
    bool returns_dense_apart; // training: the same of gradients of dense weights as of those of experts
    uint32_t once_dense_gradient;
    bool regather_embedding; // training: the same of the embedding, for both of its uses, whose gradients return apart
    uint32_t micro_batches;  // of an iteration; weights are updated once. `steps` say when each runs
    uint32_t lap;            // of these, so many pass a layer before the next one; 0: all (unroll.h)
    uint32_t abreast;        // of those, so many at a time, in turns; 0: one after the other
    uint32_t bucket;         // training: weights of so many layers travel together where they can; 0: one by one
    bool recompute;          // training: a layer's activations are dropped after the forward pass, computed again
    // In what rows travel.
    TokenFormat tokens[TOKEN_WAYS];
    const char *solver;
    SolveStatus status;
    double gap;                // relative; 0 when proven
    double iteration_s;        // the solver's objective, = the cost model's on the choices
    uint64_t arena_bytes;      // of a rank's buffers
    uint64_t engine_bytes;     // what the engine of the device takes of a rank's memory besides (engines/)
    bool unrolled;             // every step runs once, every buffer holds one value (unroll.h); never stored
    bool one_lap;              // unrolled: a lap of several, before and after which others are; never stored
    TrainingSettings training; // where `pass` is training

    uint32_t layer_count; // of `layers`: all of the model's, or 0 where the dimensions say it all
    uint32_t choice_count, strategy_count, group_count, buffer_count, step_count, operand_count, after_count;
    LayerDims *layers;
    Choice *choices;
    Strategy *strategies;
    Group *groups;
    Buffer *buffers;
    Step *steps;       // in an order that is valid to execute one by one
    int32_t *operands; // buffer indices or NONE
    uint32_t *after;   // step indices
} Plan;

// Are two layers planned alike?
bool choices_equal(const Choice *a, const Choice *b);

// Outermost levels that gradients cross once per iteration of several laps: those of experts under the choice, and of
// dense weights. Levels inside they cross in every lap.
uint32_t plan_gradient_levels(const Plan *plan, const Choice *choice);
uint32_t plan_dense_gradient_levels(const Plan *plan);

Plan *plan_create(void); // empty, with its own arena
void plan_destroy(Plan *plan);

double plan_memory_bytes(const Plan *plan); // what a rank takes: its arena and what the engine takes besides

static inline const int32_t *step_operands(const Plan *plan, const Step *step)
{
    return plan->operands + step->operand_first;
}

// The stream that a step runs on: its op's, or where it crosses one of the plan's outer levels the outer one of those.
// What the stream carries is what the op's own does.
Stream step_stream(const Plan *plan, const Step *step);
// Does the plan know the stream? The outer ones exist where it has outer levels.
bool plan_has_stream(const Plan *plan, Stream stream);

// The operands of one step by name: `step_buffers(plan, step).route.origin`, of a step whose op is known.
typedef union {
    int32_t all[OPERANDS_MAX];
#define HEP_OP(name, text, code, stream, shape, operands, doc)                                                         \
    struct {                                                                                                           \
        int32_t operands;                                                                                              \
    } text;
#include "ir/ops.def"
} StepBuffers;

static inline StepBuffers step_buffers(const Plan *plan, const Step *step)
{
    StepBuffers buffers;
    memcpy(buffers.all, step_operands(plan, step), op_info((int)step->op)->operand_count * sizeof(int32_t));
    return buffers;
}

// The buffer of an operand that several ops have; NONE (NULL) where it is absent, or the op has none of it.
int32_t step_operand(const Plan *plan, const Step *step, Operand operand);
const Buffer *step_buffer(const Plan *plan, const Step *step, Operand operand);
// What a step that is not local sends.
const Buffer *step_sent(const Plan *plan, const Step *step);

// A run: a step that meets others and the joined ones that follow it on its stream. They are one collective, which
// begins when what the first waits for is done, and pays one start-up; all of them are done when it is. The step that
// follows `step` in its run; NONE at its end.
int64_t plan_run_next(const Plan *plan, uint32_t step);
enum { PLAN_RUN_MAX = 16, PLAN_BUCKET_MAX = 8 }; // steps of a run; layers, each of which has two bundles

// Start-ups that a step pays one after another: none where it joins another; a sum goes to and fro, and counts go ahead
// of the rows of a counted dispatch, which cannot be placed before.
uint32_t plan_step_startups(const Plan *plan, const Step *step);

bool plan_packs_rows(const Plan *plan); // of any way
// Does a step of the op carry rows from one place to another as they are, packed or not?
bool plan_moves_rows(Op op);
// What the rows are that a step exchanges. Packed rows in a buffer are what the first step that moves them says, a
// TokenWay; -1 where none does. `ways` [buffers]: the same of all, and TOKEN_WAYS where steps do not agree.
TokenWay plan_exchange_way(const Plan *plan, const Step *step);
int plan_packed_way(const Plan *plan, int32_t buffer);
void plan_packed_ways(const Plan *plan, int8_t ways[]);

// Iterations from one execution of a step to the next: the mean of experts is not summed every time, the first being in
// iteration 0; workers that train apart meet after so many iterations. And whether it runs in an iteration.
uint32_t plan_step_period(const Plan *plan, const Step *step);
bool plan_step_is_due(const Plan *plan, const Step *step, uint64_t iteration);

// Bytes of one value: rows x cols x element size; the loader has checked it fits. Rounded up to the alignment, which is
// the distance from one value to the next: false when that exceeds 63 bits.
uint64_t buffer_bytes(const Buffer *buffer);
MUST_CHECK bool buffer_aligned_bytes(const Buffer *buffer, uint64_t *out);

enum { RECORD_BYTES = 8 }; // i32 expert, f32 gate weight: a records buffer is i32 [rows][2 x records per row]

// Rows and columns of the experts' buffer of a rank, the same in all layers: what it owns of a layer.
typedef struct {
    uint64_t rows, cols;
    bool whole; // a row is an expert; otherwise there is one row, of elements
} ShareShape;

ShareShape plan_share_shape(const Plan *plan);
// How a bundle travels of which a buffer holds weights, or what is made of these: see bundle_kinds (ir/bundle.h).
const Coding *plan_coding(const Plan *plan, WeightKind kind);
// Bytes of a place for the packet of a vector, which may hold it whole.
uint64_t plan_packet_bytes(const Plan *plan, Packing packing, uint64_t elements);
// Of experts: how many outermost levels packets cross, where there are any, and how many shares they bring together
// there.
uint32_t plan_coded_levels(const Plan *plan);
uint64_t plan_coded_members(const Plan *plan, const uint32_t domain[LEVELS_MAX]);
// What the domain size vector S (of one layer) puts where. For plans whose choices are valid.
ExpertShares plan_expert_shares(const Plan *plan, const uint32_t domain[LEVELS_MAX]);
// Slot of `expert` among those that `rank` holds after gathering: its index in the block of the rank's place; -1 if not
// held.
int64_t plan_expert_slot(const Plan *plan, const uint32_t domain[LEVELS_MAX], uint64_t rank, uint32_t expert);

#endif
