// Initial weights. Every value is a hash of (seed, kind, layer, place in the
// whole tensor), so any process can make any tensor, or one expert of it, alone and get the same.
// Values are rounded to the dtype of the tensor they are written to. Layouts: ir/model.h, ModelDims.
#ifndef HEP_WEIGHTS_H
#define HEP_WEIGHTS_H

#include "kernels/host/kernels.h"

// Matrices are drawn with mean 0 and standard deviation 1/sqrt(fan-in), embeddings with 0.02 or
// 1/sqrt(hidden) if that is less, norm gains around 1 and biases around 0 with 0.02.
// `out` holds at least the elements of its kind, in any floating dtype.
void weights_fill_embedding(const ModelDims *dims, uint64_t seed, Tensor out);
void weights_fill_attention(const ModelDims *dims, uint64_t seed, uint32_t layer, Tensor out);
void weights_fill_router(const ModelDims *dims, uint64_t seed, uint32_t layer, Tensor out);
void weights_fill_ffn(const ModelDims *dims, uint64_t seed, uint32_t layer, Tensor out);
void weights_fill_experts(const ModelDims *dims, uint64_t seed, uint32_t layer, uint32_t first, uint32_t count,
                          Tensor out);
// `count` elements, from the element `first` of all the layer's experts one after another.
void weights_fill_expert_range(const ModelDims *dims, uint64_t seed, uint32_t layer, uint64_t first, uint64_t count,
                               Tensor out);
// out [1][elements]: the mean of all the layer's experts as they are stored in the dtype of `out`.
void weights_fill_mean_expert(const ModelDims *dims, uint64_t seed, uint32_t layer, Tensor out);
void weights_fill_shared(const ModelDims *dims, uint64_t seed, uint32_t layer, Tensor out);
// The same values by bundle: element `first` of the layer's dense weights, or of the embedding's bundle, and those
// after it, as many as `out` holds; 0 beyond the last one.
void weights_fill_dense(const ModelDims *dims, uint64_t seed, uint32_t layer, bool is_moe, uint64_t first, Tensor out);
void weights_fill_embedding_share(const ModelDims *dims, uint64_t seed, uint64_t first, Tensor out);

#endif
