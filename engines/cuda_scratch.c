// See cuda_scratch.h. Sums and products saturate.
#include "engines/cuda_scratch.h"

#include <assert.h>

#include "engines/saturating.h"

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t times(uint64_t a, uint64_t b)
{
    return saturating_mul(a, b);
}

static uint64_t blocks_for(uint64_t count, uint64_t per_block)
{
    return count / per_block + (count % per_block != 0);
}

void *cuda_scratch_take(CudaScratch *scratch, uint64_t count, uint64_t element_bytes)
{
    uint64_t begin = scratch->used, bytes = times(count, element_bytes);
    scratch->used = saturating_add(begin, times(blocks_for(bytes, 256), 256));
    assert(!scratch->memory || scratch->used <= scratch->bytes); // else the engine reserved less than cuda_step_scratch
    return scratch->memory ? scratch->memory + begin : NULL;
}

static void *take_elements(CudaScratch *scratch, Dtype dtype, uint64_t count)
{
    return cuda_scratch_take(scratch, count, dtype_bytes(dtype));
}

static float *take_floats(CudaScratch *scratch, uint64_t count)
{
    return cuda_scratch_take(scratch, count, sizeof(float));
}

static uint32_t *take_words(CudaScratch *scratch, uint64_t count)
{
    return cuda_scratch_take(scratch, count, sizeof(uint32_t));
}

// ---- ranking and norm ------------------------------------------------------------------------------------------

CudaRanking cuda_ranking_take(CudaScratch *scratch, uint64_t item_bound, uint64_t keys)
{
    CudaRanking ranking = {.blocks = blocks_for(item_bound, CUDA_RANK_ITEMS), .keys = (uint32_t)keys};
    ranking.table = take_words(scratch, times(ranking.blocks, keys));
    ranking.counts = take_words(scratch, keys);
    ranking.begins = take_words(scratch, keys + 1);
    return ranking;
}

CudaEmbed cuda_embed_take(CudaScratch *scratch, const ModelDims *dims)
{
    CudaEmbed work;
    uint64_t tokens = model_tokens(dims);
    work.ranking = cuda_ranking_take(scratch, tokens, 1 << CUDA_WORD_DIGIT);
    work.orders[0] = take_words(scratch, tokens);
    work.orders[1] = take_words(scratch, tokens);
    work.partial = take_floats(scratch, times(blocks_for(tokens, CUDA_WORD_CHUNK), 2ull * dims->hidden));
    return work;
}

CudaNormSums cuda_norm_sums_take(CudaScratch *scratch, uint64_t rows, uint64_t hidden)
{
    CudaNormSums sums;
    sums.moments = take_floats(scratch, times(rows, 2));
    sums.partial = take_floats(scratch, times(blocks_for(rows, CUDA_NORM_CHUNK), 2 * hidden));
    return sums;
}

// ---- attention -------------------------------------------------------------------------------------------------

static CudaProjections projections_take(CudaScratch *scratch, const ModelDims *dims, Dtype dtype)
{
    uint64_t tokens = model_tokens(dims), size = dtype_bytes(dtype);
    uint64_t queries = times(tokens, times(dims->heads, dims->head_dim));
    uint64_t keys = times(tokens, times(dims->kv_heads, dims->head_dim));
    char *all = take_elements(scratch, dtype, saturating_add(queries, times(2, keys)));
    return all ? (CudaProjections){all, all + queries * size, all + (queries + keys) * size} : (CudaProjections){0};
}

static CudaAttentionWide attention_wide_take(CudaScratch *scratch, const ModelDims *dims, Dtype dtype, bool is_backward)
{
    CudaAttentionWide work = {0};
    uint64_t keys = times(model_tokens(dims), times(dims->kv_heads, dims->head_dim));
    uint64_t scores = times(dims->heads, times(smaller(dims->sequence, CUDA_WIDE_QUERIES), dims->sequence));
    bool is_f32 = dtype == DTYPE_F32;
    work.scores = take_floats(scratch, scores);
    work.p = is_f32 ? work.scores : take_elements(scratch, dtype, scores);
    if (!is_backward)
        return work;
    work.dp = take_floats(scratch, scores);
    work.dscores = is_f32 ? work.dp : take_elements(scratch, dtype, scores);
    work.dk = take_floats(scratch, keys);
    work.dv = take_floats(scratch, keys);
    return work;
}

CudaAttention cuda_attention_take(CudaScratch *scratch, const ModelDims *dims, Dtype dtype, bool is_backward)
{
    CudaAttention work = {0};
    uint64_t tokens = model_tokens(dims), rows = times(tokens, dims->hidden);
    uint64_t queries = times(tokens, times(dims->heads, dims->head_dim));
    work.normed = take_elements(scratch, dtype, rows);
    work.in = projections_take(scratch, dims, dtype);
    work.context = take_elements(scratch, dtype, queries);
    if (dims->head_dim > CUDA_FUSED_HEAD_MAX)
        work.wide = attention_wide_take(scratch, dims, dtype, is_backward);
    if (!is_backward)
        return work;
    work.dcontext = take_elements(scratch, dtype, queries);
    work.d = projections_take(scratch, dims, dtype);
    work.sums = take_floats(scratch, times(4, times(tokens, dims->heads)));
    work.dnormed = take_floats(scratch, rows);
    work.norm_sums = cuda_norm_sums_take(scratch, tokens, dims->hidden);
    return work;
}

// ---- feed-forward layers ---------------------------------------------------------------------------------------

static CudaInner inner_take(CudaScratch *scratch, const ModelDims *dims, Dtype dtype, uint64_t elements,
                            bool is_backward)
{
    CudaInner inner = {0};
    inner.up = take_elements(scratch, dtype, elements);
    if (dims->activation == ACTIVATION_SWIGLU)
        inner.gate = take_elements(scratch, dtype, elements);
    if (is_backward) {
        inner.act = take_elements(scratch, dtype, elements);
        inner.dact = take_elements(scratch, dtype, elements);
    }
    return inner;
}

CudaFfn cuda_ffn_take(CudaScratch *scratch, const ModelDims *dims, Dtype dtype, uint64_t rows, bool is_backward)
{
    CudaFfn work = {0};
    work.normed = take_elements(scratch, dtype, times(rows, dims->hidden));
    work.inner = inner_take(scratch, dims, dtype, times(rows, dims->ffn_inner), is_backward);
    if (is_backward) {
        work.din = take_floats(scratch, times(rows, dims->hidden));
        work.norm_sums = cuda_norm_sums_take(scratch, rows, dims->hidden);
    }
    return work;
}

CudaShared cuda_shared_take(CudaScratch *scratch, const ModelDims *dims, Dtype dtype, uint64_t rows, bool is_backward)
{
    CudaShared work = {0};
    work.inner = inner_take(scratch, dims, dtype, times(rows, model_shared_inner(dims)), is_backward);
    if (is_backward)
        work.din = take_floats(scratch, times(rows, dims->hidden));
    return work;
}

// ---- experts ---------------------------------------------------------------------------------------------------

CudaGate cuda_gate_take(CudaScratch *scratch, const ModelDims *dims, Dtype dtype, uint64_t tokens, bool is_backward)
{
    CudaGate work = {0};
    uint64_t rows = times(tokens, dims->hidden), matrix = times(dims->hidden, dims->experts);
    if (is_backward || dims->experts > CUDA_FEW_EXPERTS) {
        work.exact = take_floats(scratch, rows);
        work.weights = dtype == DTYPE_F32 ? NULL : take_floats(scratch, matrix);
        work.logits = take_floats(scratch, times(tokens, dims->experts));
    }
    if (!is_backward) {
        work.ranking = cuda_ranking_take(scratch, tokens, dims->experts);
        work.dropped = cuda_scratch_take(scratch, times(tokens, dims->top_k), 1);
        return work;
    }
    work.rows = take_elements(scratch, dtype, rows);
    work.dnormed = take_floats(scratch, rows);
    work.drouter = dtype == DTYPE_F32 ? NULL : take_floats(scratch, matrix);
    work.counts = take_words(scratch, dims->experts + 1ull);
    work.norm_sums = cuda_norm_sums_take(scratch, tokens, dims->hidden);
    return work;
}

CudaCopyLists cuda_copy_lists_take(CudaScratch *scratch, uint64_t rows, uint32_t copies_max)
{
    CudaCopyLists lists;
    lists.counts = take_words(scratch, rows);
    lists.places = take_words(scratch, times(rows, copies_max));
    lists.copies_max = copies_max;
    return lists;
}

CudaExpert cuda_expert_take(CudaScratch *scratch, const ModelDims *dims, Tensor experts, uint64_t pairs,
                            uint64_t held_pairs, bool is_backward)
{
    CudaExpert work = {.place_bound = smaller(pairs, held_pairs)};
    uint64_t held = experts.rows, places = work.place_bound;
    work.ranking = cuda_ranking_take(scratch, pairs, held);
    work.pairs = take_words(scratch, places);
    work.rows = take_words(scratch, places);
    work.places = take_words(scratch, pairs);
    work.tile_begins = take_words(scratch, held + 1);
    work.tiles = take_words(scratch, times(2, places / CUDA_GROUPED_TILE + smaller(held, places)));
    if (is_backward)
        work.inner = inner_take(scratch, dims, experts.dtype, times(places, dims->inner), true);
    else
        work.inner.act = take_elements(scratch, experts.dtype, times(places, dims->inner));
    work.results = take_elements(scratch, experts.dtype, times(places, dims->hidden));
    return work;
}

// ---- loss and optimizer ----------------------------------------------------------------------------------------

CudaLoss cuda_loss_take(CudaScratch *scratch, const ModelDims *dims, Dtype dtype, bool is_backward)
{
    CudaLoss work = {0};
    uint64_t tokens = model_tokens(dims), rows = times(tokens, dims->hidden);
    uint64_t block = dims->vocabulary ? CUDA_LOGITS_MAX / dims->vocabulary / 256 * 256 : 0;
    work.block = smaller(tokens, block > 256 ? block : 256);
    uint64_t logits = times(work.block, dims->vocabulary);
    work.normed = take_elements(scratch, dtype, rows);
    work.logits = take_floats(scratch, logits);
    if (!is_backward) {
        work.losses = cuda_scratch_take(scratch, tokens, sizeof(double));
        return work;
    }
    work.dlogits = dtype == DTYPE_F32 ? work.logits : take_elements(scratch, dtype, logits);
    work.dnormed = take_floats(scratch, rows);
    work.gradient = dtype == DTYPE_F32 ? NULL : take_floats(scratch, times(dims->vocabulary, dims->hidden));
    work.norm_sums = cuda_norm_sums_take(scratch, tokens, dims->hidden);
    return work;
}

double *cuda_squares_take(CudaScratch *scratch)
{
    return cuda_scratch_take(scratch, CUDA_SQUARE_BLOCKS, sizeof(double));
}
