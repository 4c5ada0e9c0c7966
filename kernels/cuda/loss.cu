// The loss and its gradient: final norm, logits by the tied embedding, mean cross-entropy of the next token. Tokens go
// in blocks, so that scratch holds the logits of some of them only.
#include <math.h>

#include "kernels/cuda/internal.h"

namespace
{

__device__ int32_t next_word(const int32_t *words, uint32_t sequence, uint64_t token)
{
    return words[token / sequence * (sequence + 1ull) + token % sequence + 1];
}

struct Softmax {
    float largest, sum;
};

// By a whole block, in one pass: what was summed is scaled when a larger logit comes.
__device__ Softmax softmax_of(const float *logits, uint64_t words, float *scratch)
{
    float own = -INFINITY, sum = 0;
#pragma unroll 4
    for (uint64_t w = threadIdx.x; w < words; w += blockDim.x) {
        float logit = logits[w];
        if (logit > own) {
            sum = sum * expf(own - logit) + 1;
            own = logit;
        } else {
            sum += expf(logit - own);
        }
    }
    float largest = block_reduce(own, Max(), scratch);
    return {largest, block_reduce(own == -INFINITY ? sum : sum * expf(own - largest), Add(), scratch)};
}

// losses [tokens]; a block a token, `first` is the first of them.
__global__ void token_loss_kernel(const int32_t *__restrict__ words, const float *__restrict__ logits,
                                  double *__restrict__ losses, uint64_t first, uint32_t sequence, uint64_t vocabulary)
{
    __shared__ float scratch[WARP];
    const float *own = logits + blockIdx.x * vocabulary;
    uint64_t token = first + blockIdx.x;
    Softmax softmax = softmax_of(own, vocabulary, scratch);
    if (threadIdx.x == 0)
        losses[token] =
            log(static_cast<double>(softmax.sum)) + softmax.largest - own[next_word(words, sequence, token)];
}

// One block; the order of the sum depends on the count alone.
__global__ void mean_kernel(const double *__restrict__ losses, float *__restrict__ loss, uint64_t tokens)
{
    __shared__ double sums[BLOCK_THREADS];
    double sum = 0;
    for (uint64_t t = threadIdx.x; t < tokens; t += BLOCK_THREADS)
        sum += losses[t];
    sums[threadIdx.x] = sum;
    for (unsigned half = BLOCK_THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0)
        *loss = static_cast<float>(sums[0] / static_cast<double>(tokens));
}

// dlogits = softmax - 1 at the next word, not yet over the number of tokens: that would be too small for f16. May be
// the logits themselves.
template <typename T>
__global__ void logits_gradient_kernel(const int32_t *__restrict__ words, const float *logits, T *dlogits,
                                       uint64_t first, uint32_t sequence, uint64_t vocabulary)
{
    __shared__ float scratch[WARP];
    const float *own = logits + blockIdx.x * vocabulary;
    T *to = dlogits + blockIdx.x * vocabulary;
    Softmax softmax = softmax_of(own, vocabulary, scratch);
    uint64_t target = static_cast<uint64_t>(next_word(words, sequence, first + blockIdx.x));
    for (uint64_t w = threadIdx.x; w < vocabulary; w += blockDim.x)
        to[w] = from_f32<T>(expf(own[w] - softmax.largest) / softmax.sum - (w == target ? 1.0f : 0.0f));
}

template <typename T>
cudaError_t logits_gradient(cudaStream_t stream, const ModelDims *dims, const void *words, const float *logits,
                            void *dlogits, uint64_t first, uint64_t rows)
{
    return launch(stream, static_cast<unsigned>(rows), BLOCK_THREADS, 0, logits_gradient_kernel<T>,
                  static_cast<const int32_t *>(words), logits, static_cast<T *>(dlogits), first, dims->sequence,
                  dims->vocabulary);
}

// Where the final norm's parameters are in the embedding buffer.
uint64_t norm_place(const ModelDims *dims)
{
    return (static_cast<uint64_t>(dims->vocabulary) + dims->sequence) * dims->hidden;
}

cudaError_t norm_all(cudaStream_t stream, const ModelDims *dims, Tensor x, Tensor embedding, const CudaLoss &work)
{
    return norm_rows(stream, x.data, x.dtype, model_tokens(dims), dims->hidden,
                     element_at(embedding.data, embedding.dtype, norm_place(dims)), work.normed);
}

cudaError_t multiply_logits(const CudaQueue *queue, const ModelDims *dims, Tensor embedding, const CudaLoss &work,
                            uint64_t first, uint64_t rows)
{
    uint64_t hidden = dims->hidden;
    const void *normed = element_at(work.normed, embedding.dtype, first * hidden);
    return matrix_multiply(queue, rows, dims->vocabulary, hidden, 1, matrix_of(normed, embedding.dtype, hidden),
                           matrix_of(embedding.data, embedding.dtype, hidden, true), 0,
                           matrix_of(work.logits, DTYPE_F32, dims->vocabulary));
}

// From the gradients of a block's logits those by its rows, and, added up, that by the words' embeddings.
cudaError_t multiply_back(const CudaQueue *queue, const ModelDims *dims, Tensor embedding, const CudaLoss &work,
                          uint64_t first, uint64_t rows, float *gradient)
{
    uint64_t hidden = dims->hidden, vocabulary = dims->vocabulary;
    Dtype dtype = embedding.dtype;
    float share = 1.0f / static_cast<float>(model_tokens(dims));
    const void *normed = element_at(work.normed, dtype, first * hidden);
    TRY(matrix_multiply(queue, rows, hidden, vocabulary, share, matrix_of(work.dlogits, dtype, vocabulary),
                        matrix_of(embedding.data, dtype, hidden), 0,
                        matrix_of(work.dnormed + first * hidden, DTYPE_F32, hidden)));
    return matrix_multiply(queue, vocabulary, hidden, rows, share, matrix_of(work.dlogits, dtype, vocabulary, true),
                           matrix_of(normed, dtype, hidden), first > 0 ? 1.0f : 0.0f,
                           matrix_of(gradient, DTYPE_F32, hidden));
}

} // namespace

cudaError_t cuda_loss(const CudaQueue *queue, const ModelDims *dims, Tensor x, Tensor tokens, Tensor embedding,
                      Tensor loss)
{
    CudaScratch scratch = scratch_of(queue);
    CudaLoss work = cuda_loss_take(&scratch, dims, embedding.dtype, false);
    uint64_t count = model_tokens(dims), block = work.block;
    TRY(norm_all(queue->stream, dims, x, embedding, work));
    for (uint64_t first = 0; first < count; first += block) {
        uint64_t rows = smaller(block, count - first);
        TRY(multiply_logits(queue, dims, embedding, work, first, rows));
        TRY(launch(queue->stream, static_cast<unsigned>(rows), BLOCK_THREADS, 0, token_loss_kernel,
                   static_cast<const int32_t *>(tokens.data), work.logits, work.losses, first, dims->sequence,
                   dims->vocabulary));
    }
    return launch(queue->stream, 1, BLOCK_THREADS, 0, mean_kernel, work.losses, static_cast<float *>(loss.data), count);
}

cudaError_t cuda_loss_backward(const CudaQueue *queue, const ModelDims *dims, Tensor x, Tensor tokens, Tensor embedding,
                               Tensor dx, Tensor dembedding)
{
    CudaScratch scratch = scratch_of(queue);
    Dtype dtype = embedding.dtype;
    CudaLoss work = cuda_loss_take(&scratch, dims, dtype, true);
    cudaStream_t stream = queue->stream;
    uint64_t count = model_tokens(dims), block = work.block, hidden = dims->hidden;
    uint64_t words = static_cast<uint64_t>(dims->vocabulary) * hidden;
    float *gradient = work.gradient ? work.gradient : static_cast<float *>(dembedding.data);
    TRY(norm_all(stream, dims, x, embedding, work));
    for (uint64_t first = 0; first < count; first += block) {
        uint64_t rows = smaller(block, count - first);
        TRY(multiply_logits(queue, dims, embedding, work, first, rows));
        TRY(BY_DTYPE(dtype, logits_gradient, stream, dims, tokens.data, work.logits, work.dlogits, first, rows));
        TRY(multiply_back(queue, dims, embedding, work, first, rows, gradient));
    }
    if (work.gradient)
        TRY(convert(stream, work.gradient, DTYPE_F32, dembedding.data, dtype, words));
    TRY(cudaMemsetAsync(element_in(dembedding.data, dtype, words), 0, dims->sequence * hidden * dtype_bytes(dtype),
                        stream));
    return norm_backward(stream, x.data, x.dtype, count, hidden, element_at(embedding.data, dtype, norm_place(dims)),
                         work.dnormed, nullptr, dx.data, element_in(dembedding.data, dtype, norm_place(dims)),
                         work.norm_sums);
}
