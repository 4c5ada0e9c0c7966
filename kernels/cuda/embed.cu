// Token and position embeddings and their gradients. A word's tokens are summed in the order of tokens by the block of
// the first of them, so gradients do not depend on scheduling.
#include "kernels/cuda/device.h"

namespace
{

__device__ int32_t word_of(const int32_t *words, uint32_t sequence, uint64_t token)
{
    return words[token / sequence * (sequence + 1ull) + token % sequence];
}

// x [tokens][hidden]; a block a token.
template <typename T>
__global__ void embed_kernel(const int32_t *__restrict__ words, const T *__restrict__ embedding, T *__restrict__ x,
                             uint32_t sequence, uint32_t vocabulary, uint64_t hidden, bool aligned)
{
    uint64_t token = blockIdx.x;
    const T *word = embedding + static_cast<uint64_t>(word_of(words, sequence, token)) * hidden;
    const T *position = embedding + (vocabulary + token % sequence) * hidden;
    Piece<T> a, b;
    for (uint64_t i = threadIdx.x * Piece<T>::LENGTH; i < hidden; i += blockDim.x * Piece<T>::LENGTH) {
        a.load(word, i, hidden, aligned);
        b.load(position, i, hidden, aligned);
        a.add(b);
        a.store(x + token * hidden, i, hidden, aligned);
    }
}

template <typename T>
cudaError_t embed(const CudaQueue *queue, const ModelDims *dims, Tensor tokens, Tensor embedding, Tensor x)
{
    return launch(queue->stream, static_cast<unsigned>(model_tokens(dims)), 128, 0, embed_kernel<T>,
                  static_cast<const int32_t *>(tokens.data), static_cast<const T *>(embedding.data),
                  static_cast<T *>(x.data), dims->sequence, dims->vocabulary, dims->hidden,
                  is_aligned<T>(embedding.data, dims->hidden) && is_aligned<T>(x.data, dims->hidden));
}

// ---- backward ------------------------------------------------------------------------------------

// Whether an earlier token has the word of `token`. By the whole block.
__device__ bool is_first_of_its_word(const int32_t *words, uint32_t sequence, uint64_t token)
{
    __shared__ int earlier;
    if (threadIdx.x == 0)
        earlier = 0;
    __syncthreads();
    int32_t word = word_of(words, sequence, token);
    for (uint64_t t = threadIdx.x; t < token; t += blockDim.x)
        if (word_of(words, sequence, t) == word)
            earlier = 1; // whoever writes writes the same
    __syncthreads();
    return !earlier;
}

// A row's sum so far, kept in registers: COLUMNS x threads columns at a time.
constexpr int COLUMNS = 4;

template <typename T> __device__ void add_row(float *sum, const T *row, uint64_t first, uint64_t hidden)
{
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
        uint64_t column = first + c * blockDim.x + threadIdx.x;
        sum[c] += column < hidden ? to_f32(row[column]) : 0;
    }
}

template <typename T> __device__ void store_row(const float *sum, T *row, uint64_t first, uint64_t hidden)
{
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
        uint64_t column = first + c * blockDim.x + threadIdx.x;
        if (column < hidden)
            row[column] = from_f32<T>(sum[c]);
    }
}

// A block a token; those that are the first of their word add up all of its tokens.
template <typename T>
__global__ void word_gradient_kernel(const int32_t *__restrict__ words, const T *__restrict__ dx,
                                     T *__restrict__ dembedding, uint64_t tokens, uint32_t sequence, uint64_t hidden)
{
    __shared__ unsigned char alike[BLOCK_THREADS];
    uint64_t token = blockIdx.x;
    if (!is_first_of_its_word(words, sequence, token))
        return;
    int32_t word = word_of(words, sequence, token);
    T *to = dembedding + static_cast<uint64_t>(word) * hidden;
    for (uint64_t column = 0; column < hidden; column += COLUMNS * blockDim.x) {
        float sum[COLUMNS] = {};
        add_row(sum, to, column, hidden);
        for (uint64_t first = token; first < tokens; first += blockDim.x) {
            uint64_t own = first + threadIdx.x;
            __syncthreads();
            alike[threadIdx.x] = own < tokens && word_of(words, sequence, own) == word;
            __syncthreads();
            for (uint64_t t = 0; t < blockDim.x; t++)
                if (alike[t])
                    add_row(sum, dx + (first + t) * hidden, column, hidden);
        }
        store_row(sum, to, column, hidden);
    }
}

// A block a position.
template <typename T>
__global__ void position_gradient_kernel(const T *__restrict__ dx, T *__restrict__ dpositions, uint64_t tokens,
                                         uint32_t sequence, uint64_t hidden)
{
    T *to = dpositions + blockIdx.x * hidden;
    for (uint64_t column = 0; column < hidden; column += COLUMNS * blockDim.x) {
        float sum[COLUMNS] = {};
        add_row(sum, to, column, hidden);
        for (uint64_t t = blockIdx.x; t < tokens; t += sequence)
            add_row(sum, dx + t * hidden, column, hidden);
        store_row(sum, to, column, hidden);
    }
}

template <typename T>
cudaError_t embed_backward(const CudaQueue *queue, const ModelDims *dims, Tensor tokens, Tensor dx, Tensor dembedding)
{
    const T *from = static_cast<const T *>(dx.data);
    T *to = static_cast<T *>(dembedding.data);
    uint64_t count = model_tokens(dims), hidden = dims->hidden;
    TRY(launch(queue->stream, static_cast<unsigned>(count), BLOCK_THREADS, 0, word_gradient_kernel<T>,
               static_cast<const int32_t *>(tokens.data), from, to, count, dims->sequence, hidden));
    return launch(queue->stream, dims->sequence, BLOCK_THREADS, 0, position_gradient_kernel<T>, from,
                  to + dims->vocabulary * hidden, count, dims->sequence, hidden);
}

} // namespace

cudaError_t cuda_embed(const CudaQueue *queue, const ModelDims *dims, Tensor tokens, Tensor embedding, Tensor x)
{
    return BY_DTYPE(x.dtype, embed, queue, dims, tokens, embedding, x);
}

cudaError_t cuda_embed_backward(const CudaQueue *queue, const ModelDims *dims, Tensor tokens, Tensor dx,
                                Tensor dembedding)
{
    return BY_DTYPE(dx.dtype, embed_backward, queue, dims, tokens, dx, dembedding);
}
