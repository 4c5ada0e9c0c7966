// Host kernels: one function per local op of ir/ops.def, single-threaded, no allocation. They are
// the oracle of every other engine. Matrix products go to OpenBLAS; tensors in f16 and bf16 are
// converted in scratch (`work`, as large as engines/host_scratch.h says), and sums are kept in f32.
#ifndef HEP_HOST_KERNELS_H
#define HEP_HOST_KERNELS_H

#include "engines/tensor.h"
#include "ir/codec.h"
#include "ir/model.h"
#include "ir/token_rows.h"

typedef struct {
    int32_t expert; // global; -1: none
    float weight;
} Record;

// How the gate chooses. LEARNED is the real thing; the others fix the choice, for tests and
// benchmarks, and still take the weights from the softmax over the chosen logits.
#define HEP_ROUTINGS(X)                                                                                                \
    X(LEARNED, "learned", "the top_k largest logits of the gate")                                                      \
    X(BALANCED, "balanced", "every expert gets the same number of tokens from every GPU")                              \
    X(SKEWED, "skewed", "one expert is chosen by most tokens, half of the experts by none")
#define X(name, ...) ROUTING_##name,
typedef enum { HEP_ROUTINGS(X) ROUTING_COUNT } Routing;
#undef X

// Address space that OpenBLAS takes for every thread that is inside a matrix product, and keeps. Where there is none it
// tries for ever.
enum { HOST_PRODUCT_BYTES = 128 << 20 };
// Once per process, before any kernel and any other thread: OpenBLAS to one thread per caller. Products take turns
// where `space_bytes` of address space, at least HOST_PRODUCT_BYTES, are too little for `callers` at once.
void host_kernels_init(uint64_t callers, uint64_t space_bytes);

void host_embed(const ModelDims *dims, Tensor tokens, Tensor embedding, Tensor x);
void host_pre_expert(const ModelDims *dims, Tensor x, Tensor attention, Tensor y, Tensor work);
void host_ffn(const ModelDims *dims, Tensor x, Tensor ffn, Tensor y, Tensor work);

// records: [tokens x top_k][1 record] (naive) or [tokens][top_k records] (dedup): same memory order.
// Records of a token are in descending logit order. `capacity_rows`: most records one expert may get from this
// rank, later tokens are dropped (expert = -1, weight 0); 0: no limit. The weights of a token are the softmax over the
// logits of its records that were kept.
void host_gate(const ModelDims *dims, Routing routing, uint64_t capacity_rows, Tensor x, Tensor router, Tensor rows,
               Tensor records, Tensor work);

// Where rows go at one level: for each expert the member of the exchange group that leads to it.
typedef struct {
    const int32_t *member_of_expert; // [experts]
    uint32_t experts;
    uint32_t members, own; // group size; this rank's index
    // Rows of one place: where exchanges are padded every member's rows lie at the start of a place of their own, and
    // records say -1 where it has no more. 0: one member's rows lie after another's.
    uint64_t place_rows;
} RouteTable;

// Which rows of the send buffer are for a member, and where in `origin` they are named; for the own member, which of
// the next stage. In ascending order of members: *sent is how many rows those before it have, 0 at first.
typedef struct {
    uint64_t first, count, origin_first;
} RouteRange;

static inline RouteRange route_range(const RouteTable *table, const int32_t *counts, uint32_t member, uint64_t *sent)
{
    uint64_t count = (uint64_t)counts[member], own = (uint64_t)counts[table->own];
    if (member == table->own)
        return (RouteRange){0, count, 0};
    RouteRange range = {*sent, count, (table->place_rows ? table->place_rows : own) + *sent};
    *sent += table->place_rows ? table->place_rows : count;
    return range;
}

// `row_count` record rows are present; a record row r uses hidden row r / fanout. Returns the
// number of rows that did not fit in `next_rows` or `send_rows` (0 = all is well; nothing is
// written beyond a buffer).
uint64_t host_route(const RouteTable *table, uint64_t row_count, uint32_t fanout, Tensor rows, Tensor records,
                    Tensor next_rows, Tensor next_records, Tensor send_rows, Tensor send_records, Tensor send_counts,
                    Tensor origin);
// counts [members]: how many rows it would put out for each; what host_route writes to send_counts.
void host_route_counts(const RouteTable *table, uint64_t row_count, Tensor records, int32_t *counts);
void host_unroute(const RouteTable *table, uint64_t row_count, uint32_t fanout, Tensor results, Tensor returned,
                  Tensor send_counts, Tensor origin, Tensor rows, Tensor work);

// Of records, what those who take them see: the slot of the expert ([experts], -1: not held), or `none` without a held
// one, and the weight, 0 there. order: which of the records, NULL: all as they are. experts: i64 if `wide`, else i32.
typedef struct {
    const Record *records;
    const uint32_t *order; // [count]
    uint64_t count;
    const int32_t *slots;
    int64_t none;
    void *experts; // [count]
    bool wide;
    float *weights; // [count]
} GivenRecords;

void host_give_records(const GivenRecords *given);
// Rows of whose records [rows][per_row] none names an expert become 0.
void host_clear_padding(const Record *records, uint32_t per_row, Tensor rows);

// The first `count` rows, [..][hidden], in a format that is not full, as packed rows, u8 [..][token_row_bytes]; and
// back.
void host_encode_rows(TokenFormat format, uint64_t count, Tensor rows, Tensor packed);
void host_decode_rows(TokenFormat format, uint64_t count, Tensor packed, Tensor rows);

// `slot_of_expert`: [experts], place in `experts` ([held][expert elements]) or -1 if not held.
// `row_count` record rows; results row r / fanout receives the sum. Returns the number of records
// whose expert is not held (0 = all is well).
uint64_t host_expert(const ModelDims *dims, const int32_t *slot_of_expert, uint64_t row_count, uint32_t fanout,
                     Tensor rows, Tensor records, Tensor experts, Tensor results, Tensor work);
void host_shared_expert(const ModelDims *dims, Tensor rows, Tensor shared, Tensor results, Tensor work);
void host_residual(Tensor x, Tensor results, Tensor shared, Tensor y);
// tokens: i32 [batch][sequence + 1]; loss: f32 [1], mean over this rank's tokens.
void host_loss(const ModelDims *dims, Tensor x, Tensor tokens, Tensor embedding, Tensor loss, Tensor work);

// ---- backward ------------------------------------------------------------------------------------
// Gradients have the dtype of what they belong to; sums are f32 until they are complete. A gradient by weights is laid
// out like them and written whole. `dx` is the gradient by a layer's output and becomes that by its input, where the
// op has it once; the loss is the mean over this rank's tokens.

// dx: out, [tokens][hidden]. dembedding: by the logits and the final norm; positions are 0.
void host_loss_backward(const ModelDims *dims, Tensor x, Tensor tokens, Tensor embedding, Tensor dx, Tensor dembedding,
                        Tensor work);
// Adds to dembedding what the looked-up words and positions get.
void host_embed_backward(const ModelDims *dims, Tensor tokens, Tensor dx, Tensor dembedding);
void host_pre_expert_backward(const ModelDims *dims, Tensor x, Tensor attention, Tensor dx, Tensor dattention,
                              Tensor work);
void host_ffn_backward(const ModelDims *dims, Tensor x, Tensor ffn, Tensor dx, Tensor dffn, Tensor work);
// dx: by `results`, which the residual adds to x; read only. drows: out, by `rows`.
void host_shared_expert_backward(const ModelDims *dims, Tensor rows, Tensor shared, Tensor dx, Tensor drows,
                                 Tensor dshared, Tensor work);

// drows: by the rows that unroute wrote. dresults: its own rows, at the start; those of others come by dispatch.
void host_unroute_backward(const RouteTable *table, uint32_t fanout, Tensor drows, Tensor send_counts, Tensor origin,
                           Tensor dresults, Tensor send_rows);
// Arguments and result as host_expert. drecords: f32 [record rows][records a row], by the gate weights, 0 for padding
// and for experts that are not held. dexperts: as many elements as `experts`, or more: 0 for an
// expert that no record names, and beyond the last.
uint64_t host_expert_backward(const ModelDims *dims, const int32_t *slot_of_expert, uint64_t row_count, uint32_t fanout,
                              Tensor rows, Tensor records, Tensor experts, Tensor dresults, Tensor drows,
                              Tensor drecords, Tensor dexperts, Tensor work);
// drows_next, drecords_next: by this rank's rows of the next stage, own rows first; `returned`: by those it sent.
// drecords: f32 [record rows][records a row], as returned_records and drecords_next.
void host_route_backward(const RouteTable *table, uint64_t row_count, uint32_t fanout, Tensor drows_next,
                         Tensor drecords_next, Tensor returned, Tensor returned_records, Tensor send_counts,
                         Tensor origin, Tensor drows, Tensor drecords);
// drecords: f32, in the order of `records`; dshared: by the same rows, or absent. `balance` weighs the
// load-balancing loss, balance x experts x sum over e of f_e p_e (Switch Transformer, section 2.2): f_e the share of
// this rank's kept records that name e, constant; p_e the mean over its tokens of the softmax over all logits. 0: none.
void host_gate_backward(const ModelDims *dims, float balance, Tensor x, Tensor records, Tensor drows, Tensor drecords,
                        Tensor dshared, Tensor router, Tensor dx, Tensor drouter, Tensor work);

// Sums over micro-batches, f32 [rows][cols]: sum += part; the sum in the gradient's dtype, rounded to nearest even.
void host_accumulate(Tensor part, Tensor sum);
void host_round(Tensor sum, Tensor gradient);

// to += scale x from, of any floating dtypes: rounded once to f32, and once to that of `to`.
void host_add_scaled(Tensor from, float scale, Tensor to);

// Hyper-parameters of one AdamW step.
typedef struct {
    float learning_rate, beta1, beta2, epsilon, weight_decay;
    float gradient_scale; // what gradients count: 1, or 1 / ranks for sums over ranks, less where they are clipped
    uint64_t step;        // 1 for the first
} AdamW;

// State of a weight buffer [rows][cols]: f32 [rows][2 cols], each row the first moments, then the second; [3 cols]
// with a master copy after them where weights are 16-bit. Weights decay by learning_rate x weight_decay, but for those
// in `undecayed`, ranges of the buffer's elements.
void host_optimizer_begin(Tensor weights, Tensor state); // before the first step: moments 0, master copy
// squares, before: f32 [1][1]; squares = before (0 if absent) + the sum of the gradient's squares.
void host_squares(Tensor gradient, Tensor before, Tensor squares);
// gradient: of the weights' dtype, or f32.
void host_optimizer(const AdamW *adamw, const ModelRanges *undecayed, Tensor weights, Tensor gradient, Tensor state);

// Local steps. outer: f32 [rows][cols], where the weights were when workers met last, then, of [rows][2 cols] in each
// row, the momentum. Weights and gradient are f32.
void host_outer_begin(Tensor weights, Tensor outer);
void host_outer_gradient(Tensor weights, Tensor outer, Tensor gradient); // outer - weights
// gradient: the sum over `workers`, of which the mean is taken. With momentum this is Nesterov's: momentum = factor x
// momentum + mean, and the step is along mean + factor x momentum. Without, the weights become the mean of the
// workers'.
typedef struct {
    float learning_rate, momentum;
    uint32_t workers;
} OuterStep;
void host_outer_step(const OuterStep *step, Tensor gradient, Tensor outer, Tensor weights);

// ---- compression ---------------------------------------------------------------------------------
// Packets: u8 [vectors][packing_bytes] as ir/codec.h and docs/packets.md lay them out. Where a packing has a ratio, it
// decides with the vectors' dtype how many elements a block keeps: its largest by magnitude, equal ones by lower index,
// NaN before all.

// One packet for each of this rank's experts [own][elements], of what differs from `base`: of a codec that remembers
// what was sent [own][elements], which every receiver holds and to which the packet is added; else the mean of experts
// [1][elements], 0 where it is absent (HybridEP, section IV-B).
void host_encode(const CodecInfo *codec, Packing packing, Tensor experts, Tensor base, Tensor packet);
// The packets of all experts that this rank holds, [held], into `experts` [held][elements]: of a codec that remembers
// added to what is there, as host_encode added them to what was sent; else mean + residual, rounded. The rows from
// own_first are this rank's: copied exactly from `own` [own][elements], their packets unread.
void host_decode(const CodecInfo *codec, Packing packing, uint64_t own_first, Tensor packet, Tensor own, Tensor mean,
                 Tensor experts);
// shared [1][elements] = sum of experts [own][elements] / all: this rank's summand of the mean over `all` experts.
void host_mean(uint64_t all, Tensor experts, Tensor shared);

// Gradients return as packets of gathered [held][elements] + error; what is left out becomes the error, and so travels
// later (error feedback; Stich et al., Sparsified SGD with Memory, algorithm 1). The `own_count` rows from own_first
// are this rank's: they do not travel, their errors and packets stay as they are.
void host_encode_gradient(Packing packing, uint64_t own_first, uint64_t own_count, Tensor gathered, Tensor error,
                          Tensor packets);
// shard [own][elements] = own rows of gathered [members x own][elements], plus the packets of the other members in
// their order, [members x own]. `own`: this rank's index among the members. Sums in f32, rounded once.
void host_decode_gradient(Packing packing, uint64_t own, Tensor gathered, Tensor received, Tensor shard);

// dtype conversion of `count` elements; `from` and `to` do not overlap.
void host_to_f32(const void *from, Dtype dtype, float *to, uint64_t count);
void host_from_f32(const float *from, void *to, Dtype dtype, uint64_t count);

#endif
