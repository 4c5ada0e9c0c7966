// Host kernels: one function per local op of ir/ops.def, single-threaded, no allocation. They are
// the oracle of every other engine. Matrix products go to OpenBLAS; tensors in f16 and bf16 are
// converted in the scratch their op reserves, and sums are kept in f32.
#ifndef HEP_HOST_KERNELS_H
#define HEP_HOST_KERNELS_H

#include "ir/plan.h"

// A buffer of the plan in this rank's arena: row-major [rows][cols].
typedef struct {
    void *data; // NULL for an absent operand
    Dtype dtype;
    uint64_t rows, cols;
} Tensor;

typedef struct {
    int32_t expert; // global; -1: none
    float weight;
} Record;

// How the gate chooses. LEARNED is the real thing; the others fix the choice, for tests and
// benchmarks, and still take the weights from the softmax over the chosen logits.
#define HEP_ROUTINGS(X)                                                                                  \
    X(LEARNED, "learned", "the top_k largest logits of the gate")                                        \
    X(BALANCED, "balanced", "every expert gets the same number of tokens from every GPU")                \
    X(SKEWED, "skewed", "one expert is chosen by most tokens, half of the experts by none")
#define X(name, ...) ROUTING_##name,
typedef enum { HEP_ROUTINGS(X) ROUTING_COUNT } Routing;
#undef X

// Once per process, before any kernel: OpenBLAS to one thread per caller.
void host_kernels_init(void);

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
    uint32_t members, own;           // group size; this rank's index
} RouteTable;

// `row_count` record rows are present; a record row r uses hidden row r / fanout. Returns the
// number of rows that did not fit in `next_rows` or `send_rows` (0 = all is well; nothing is
// written beyond a buffer).
uint64_t host_route(const RouteTable *table, uint64_t row_count, uint32_t fanout, Tensor rows, Tensor records,
                    Tensor next_rows, Tensor next_records, Tensor send_rows, Tensor send_records, Tensor send_counts,
                    Tensor origin);
void host_unroute(const RouteTable *table, uint64_t row_count, uint32_t fanout, Tensor results, Tensor returned,
                  Tensor send_counts, Tensor origin, Tensor rows, Tensor work);

// `slot_of_expert`: [experts], place in `experts` ([held][expert elements]) or -1 if not held.
// `row_count` record rows; results row r / fanout receives the sum. Returns the number of records
// whose expert is not held (0 = all is well).
uint64_t host_expert(const ModelDims *dims, const int32_t *slot_of_expert, uint64_t row_count, uint32_t fanout,
                     Tensor rows, Tensor records, Tensor experts, Tensor results, Tensor work);
void host_shared_expert(const ModelDims *dims, Tensor rows, Tensor shared, Tensor results, Tensor work);
void host_residual(Tensor x, Tensor results, Tensor shared, Tensor y);
// tokens: i32 [batch][sequence + 1]; loss: f32 [1], mean over this rank's tokens.
void host_loss(const ModelDims *dims, Tensor x, Tensor tokens, Tensor embedding, Tensor loss, Tensor work);

// dtype conversion of `count` elements; `from` and `to` do not overlap.
void host_to_f32(const void *from, Dtype dtype, float *to, uint64_t count);
void host_from_f32(const float *from, void *to, Dtype dtype, uint64_t count);

#endif
