// The pieces of scratch that CUDA kernels take: how large each is, and in which order they lie. Kernels take them from
// a queue's memory, the formulas below from none, which sums them up: there is one statement of both. C, and without
// CUDA, so that the compiler counts what the engine reserves. `*_take` functions are kernels/cuda's alone.
#ifndef HEP_CUDA_SCRATCH_H
#define HEP_CUDA_SCRATCH_H

#ifdef __cplusplus
extern "C" {
#endif

#include "engines/tensor.h"
#include "ir/model.h"

enum {
    CUDA_BLAS_BYTES = 32 << 20, // what cuBLAS wants for itself on the newest architectures
    CUDA_RANK_ITEMS = 256,      // that a block of threads ranks
    CUDA_NORM_CHUNK = 64,       // rows whose gradients of a norm's parameters are summed first
    CUDA_FUSED_HEAD_MAX = 256,  // elements of a head that attention keeps in shared memory; wider ones go in blocks
    CUDA_WIDE_QUERIES = 256,    // of such a block
    CUDA_GROUPED_TILE = 128,    // rows of an expert that a block of threads multiplies
    CUDA_FEW_EXPERTS = 64,      // that the gate chooses among in one launch
    CUDA_LOGITS_MAX = 1 << 25,  // of the loss at once, but for 256 tokens at least
    CUDA_WORD_DIGIT = 6,        // bits that a pass sorts tokens by
    CUDA_WORD_CHUNK = 32,       // sorted tokens whose gradients are summed first
    CUDA_SQUARE_BLOCKS = 1024,  // partial sums at most; their number does not depend on the GPU
};

typedef struct {
    char *memory; // NULL: sizes only
    uint64_t used, bytes;
} CudaScratch;

// The next piece, 256-byte aligned; NULL without memory.
void *cuda_scratch_take(CudaScratch *scratch, uint64_t count, uint64_t element_bytes);

typedef struct {
    uint64_t blocks; // of items
    uint32_t keys;
    uint32_t *table;  // [blocks][keys]: counts, later what lies before the block
    uint32_t *counts; // [keys]
    uint32_t *begins; // [keys + 1]: exclusive sums of the counts
} CudaRanking;

CudaRanking cuda_ranking_take(CudaScratch *scratch, uint64_t item_bound, uint64_t keys);

typedef struct {
    CudaRanking ranking; // of digits of words
    uint32_t *orders[2]; // [tokens]
    float *partial;      // [chunks][2][hidden]
} CudaEmbed;

CudaEmbed cuda_embed_take(CudaScratch *scratch, const ModelDims *dims);

typedef struct {
    float *moments; // [rows][2]
    float *partial; // [chunks][2 hidden]
} CudaNormSums;

CudaNormSums cuda_norm_sums_take(CudaScratch *scratch, uint64_t rows, uint64_t hidden);

// Queries, keys and values, one after another, so that heads of one count take one batch of products.
typedef struct {
    void *q, *k, *v; // [tokens][A], [tokens][K], [tokens][K]
} CudaProjections;

// Of heads that are wider than CUDA_FUSED_HEAD_MAX.
typedef struct {
    float *scores, *dp; // [heads][block][sequence]
    void *p, *dscores;  // the same in the dtype; f32: the same memory
    float *dk, *dv;     // [tokens][K]; f32: those of the core
} CudaAttentionWide;

typedef struct {
    void *normed; // [tokens][hidden]
    CudaProjections in;
    void *context; // [tokens][A]
    CudaAttentionWide wide;
    // Of the backward pass:
    void *dcontext;    // likewise
    CudaProjections d; // gradients by `in`
    float *sums;       // [tokens][heads][4]
    float *dnormed;    // [tokens][hidden]
    CudaNormSums norm_sums;
} CudaAttention;

CudaAttention cuda_attention_take(CudaScratch *scratch, const ModelDims *dims, Dtype dtype, bool is_backward);

// What the inner dimension of some rows holds: [rows][inner] each, in the weights' dtype.
typedef struct {
    void *up, *gate;  // gate: NULL unless the activation is gated
    void *act, *dact; // of the backward pass only
} CudaInner;

typedef struct {
    CudaInner inner;
    void *normed;
    // Of the backward pass:
    float *din;
    CudaNormSums norm_sums;
} CudaFfn;

CudaFfn cuda_ffn_take(CudaScratch *scratch, const ModelDims *dims, Dtype dtype, uint64_t rows, bool is_backward);

typedef struct {
    CudaInner inner;
    float *din; // of the backward pass: sums of both matrices' parts, of 16-bit gradients
} CudaShared;

CudaShared cuda_shared_take(CudaScratch *scratch, const ModelDims *dims, Dtype dtype, uint64_t rows, bool is_backward);

typedef struct {
    float *exact;   // [tokens][hidden]: norm(x) before rounding
    float *weights; // [hidden][experts], of 16-bit routers
    float *logits;  // [tokens][experts]; their gradients
    CudaRanking ranking;
    uint8_t *dropped; // [tokens][top_k]
    // Of the backward pass:
    void *rows; // norm(x), rounded
    float *dnormed, *drouter;
    uint32_t *counts; // [experts + 1]
    CudaNormSums norm_sums;
} CudaGate;

CudaGate cuda_gate_take(CudaScratch *scratch, const ModelDims *dims, Dtype dtype, uint64_t tokens, bool is_backward);

// The copies of every row, in any order: places in the order of origins.
typedef struct {
    uint32_t *counts; // [rows]
    uint32_t *places; // [rows][copies_max]
    uint32_t copies_max;
} CudaCopyLists;

CudaCopyLists cuda_copy_lists_take(CudaScratch *scratch, uint64_t rows, uint32_t copies_max);

typedef struct {
    CudaRanking ranking;
    uint64_t place_bound;   // most pairs that have a place: those whose expert is held
    uint32_t *pairs, *rows; // by place
    uint32_t *places;       // by pair
    uint32_t *tile_begins;  // [held + 1]
    uint32_t *tiles;        // [][2]: slot, first sorted place
    CudaInner inner;
    void *results; // [pairs][hidden], by place; of the backward pass: gradients by the rows
} CudaExpert;

// Of so many pairs at most `held_pairs` name an expert that is held; `experts`: those.
CudaExpert cuda_expert_take(CudaScratch *scratch, const ModelDims *dims, Tensor experts, uint64_t pairs,
                            uint64_t held_pairs, bool is_backward);

typedef struct {
    uint64_t block; // rows whose logits are held at once
    void *normed;   // [tokens][hidden]
    float *logits;  // [block][vocabulary]
    double *losses; // [tokens]
    // Of the backward pass:
    void *dlogits;   // [block][vocabulary]: the logits themselves in f32
    float *dnormed;  // [tokens][hidden]
    float *gradient; // [vocabulary][hidden], of 16-bit embeddings
    CudaNormSums norm_sums;
} CudaLoss;

CudaLoss cuda_loss_take(CudaScratch *scratch, const ModelDims *dims, Dtype dtype, bool is_backward);

double *cuda_squares_take(CudaScratch *scratch);

#ifdef __cplusplus
}
#endif

#endif
