// Token and position embeddings and their gradients. Tokens are sorted by word, those of one in their order, and summed
// in chunks of fixed size, so gradients do not depend on scheduling, and rows are read once however words are spread.
#include "kernels/cuda/device.h"
#include "kernels/cuda/ranking.h"

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

// A pass of a radix sort: tokens as the pass before left them, by a digit of their words.
struct WordDigits {
    const int32_t *words;
    const uint32_t *order; // NULL: the first pass
    uint64_t tokens;
    uint32_t sequence, shift, per_item;

    __device__ uint64_t items(uint64_t *) const
    {
        return tokens;
    }

    __device__ uint32_t token(uint64_t item) const
    {
        return order ? order[item] : static_cast<uint32_t>(item);
    }

    __device__ int32_t key(uint64_t item, uint32_t) const
    {
        return word_of(words, sequence, token(item)) >> shift & ((1 << CUDA_WORD_DIGIT) - 1);
    }
};

struct PlaceWord {
    WordDigits digits;
    const uint32_t *begins;
    uint32_t *order;

    __device__ void operator()(uint64_t item, uint32_t digit, uint32_t rank) const
    {
        order[begins[digit] + rank] = digits.token(item);
    }
};

// Tokens in the order of their words.
struct Sorted {
    const int32_t *words;
    const uint32_t *order;
    uint64_t tokens;
    uint32_t sequence;

    __device__ int32_t word(uint64_t place) const
    {
        return word_of(words, sequence, order[place]);
    }
};

constexpr int SUM_THREADS = 128, AT_ONCE = 4; // AT_ONCE: rows that a thread waits for together
constexpr uint64_t CHUNK = CUDA_WORD_CHUNK;

// A chunk of places, by a block: each word's rows are added to its gradient where all of them are in the chunk. What a
// word has in several is left in partial [chunks][2][hidden]: of the word that an earlier chunk begins, of the one that
// this chunk begins and does not end.
template <typename T>
__global__ void word_sums_kernel(Sorted sorted, const T *__restrict__ dx, T *__restrict__ dembedding,
                                 float *__restrict__ partial, uint64_t hidden, bool aligned)
{
    constexpr int LENGTH = Piece<T>::LENGTH;
    __shared__ int32_t words[CHUNK + 2]; // from the place before on; -1 where there is none
    __shared__ uint32_t order[CHUNK];
    uint64_t first = blockIdx.x * CHUNK, count = sorted.tokens - first < CHUNK ? sorted.tokens - first : CHUNK;
    for (uint64_t i = threadIdx.x; i < count + 2; i += SUM_THREADS) {
        bool inside = first + i >= 1 && first + i - 1 < sorted.tokens;
        words[i] = inside ? sorted.word(first + i - 1) : -1;
        if (i < count)
            order[i] = sorted.order[first + i];
    }
    __syncthreads();
    uint64_t at = (static_cast<uint64_t>(blockIdx.y) * SUM_THREADS + threadIdx.x) * LENGTH;
    if (at >= hidden)
        return;
    float *open = partial + blockIdx.x * 2 * hidden;
    Piece<T> sum = {}, rows[AT_ONCE];
    if (words[1] != words[0])
        sum.load(dembedding + static_cast<uint64_t>(words[1]) * hidden, at, hidden, aligned);
    bool begun_here = words[1] != words[0];
    for (uint64_t i = 0; i < count; i += AT_ONCE) {
#pragma unroll
        for (int r = 0; r < AT_ONCE; r++)
            if (i + r < count)
                rows[r].load(dx + order[i + r] * hidden, at, hidden, aligned);
#pragma unroll
        for (int r = 0; r < AT_ONCE; r++) {
            uint64_t own = i + r;
            if (own >= count)
                break;
            sum.add(rows[r]);
            int32_t word = words[own + 1], next = words[own + 2];
            if (word == next && own + 1 < count)
                continue;
            T *to = dembedding + static_cast<uint64_t>(word) * hidden;
            if (begun_here && word != next)
                sum.store(to, at, hidden, aligned);
            else
                for (int e = 0; e < LENGTH; e++)
                    if (at + e < hidden)
                        open[(begun_here ? hidden : 0) + at + e] = sum.values[e];
            begun_here = true;
            sum = {};
            if (own + 1 < count)
                sum.load(dembedding + static_cast<uint64_t>(next) * hidden, at, hidden, aligned);
        }
    }
}

// What chunks left of the word that chunk blockIdx.x begins and does not end.
template <typename T>
__global__ void open_words_kernel(Sorted sorted, T *__restrict__ dembedding, const float *__restrict__ partial,
                                  uint64_t hidden, bool aligned)
{
    constexpr int LENGTH = Piece<T>::LENGTH;
    uint64_t first = blockIdx.x * CHUNK, after = first + CHUNK;
    uint64_t at = (static_cast<uint64_t>(blockIdx.y) * SUM_THREADS + threadIdx.x) * LENGTH;
    if (at >= hidden || after >= sorted.tokens)
        return;
    int32_t word = sorted.word(after - 1);
    bool begun_before = first > 0 && sorted.word(first - 1) == word;
    if (begun_before || sorted.word(after) != word)
        return;
    Piece<T> sum;
    for (int e = 0; e < LENGTH; e++)
        sum.values[e] = at + e < hidden ? partial[(blockIdx.x * 2 + 1) * hidden + at + e] : 0;
    for (; after < sorted.tokens && sorted.word(after) == word; after += CHUNK)
        for (int e = 0; e < LENGTH; e++)
            sum.values[e] += at + e < hidden ? partial[after / CHUNK * 2 * hidden + at + e] : 0;
    sum.store(dembedding + static_cast<uint64_t>(word) * hidden, at, hidden, aligned);
}

// A block a position and as many columns as its threads take.
template <typename T>
__global__ void position_gradient_kernel(const T *__restrict__ dx, T *__restrict__ dpositions, uint64_t tokens,
                                         uint32_t sequence, uint64_t hidden, bool aligned)
{
    uint64_t at = (static_cast<uint64_t>(blockIdx.y) * SUM_THREADS + threadIdx.x) * Piece<T>::LENGTH;
    T *to = dpositions + blockIdx.x * hidden;
    Piece<T> sum, row;
    if (at >= hidden)
        return;
    sum.load(to, at, hidden, aligned);
#pragma unroll 4
    for (uint64_t t = blockIdx.x; t < tokens; t += sequence) {
        row.load(dx + t * hidden, at, hidden, aligned);
        sum.add(row);
    }
    sum.store(to, at, hidden, aligned);
}

uint32_t digits_of(uint32_t vocabulary)
{
    uint32_t digits = 1;
    while (static_cast<uint64_t>(vocabulary - 1) >> digits * CUDA_WORD_DIGIT > 0)
        digits++;
    return digits;
}

cudaError_t sort_by_word(cudaStream_t stream, const ModelDims *dims, const int32_t *words, const CudaEmbed &work,
                         const uint32_t **order)
{
    *order = nullptr;
    for (uint32_t digit = 0; digit < digits_of(dims->vocabulary); digit++) {
        WordDigits digits = {words, *order, model_tokens(dims), dims->sequence, digit * CUDA_WORD_DIGIT, 1};
        PlaceWord place = {digits, work.ranking.begins, work.orders[digit % 2]};
        TRY(rank_count(stream, digits, work.ranking));
        TRY(rank_place(stream, digits, place, work.ranking));
        *order = work.orders[digit % 2];
    }
    return cudaSuccess;
}

template <typename T>
cudaError_t embed_backward(const CudaQueue *queue, const ModelDims *dims, Tensor tokens, Tensor dx, Tensor dembedding)
{
    CudaScratch scratch = scratch_of(queue);
    CudaEmbed work = cuda_embed_take(&scratch, dims);
    const T *from = static_cast<const T *>(dx.data);
    T *to = static_cast<T *>(dembedding.data);
    uint64_t count = model_tokens(dims), hidden = dims->hidden;
    bool aligned = is_aligned<T>(from, hidden) && is_aligned<T>(to, hidden);
    Sorted sorted = {static_cast<const int32_t *>(tokens.data), nullptr, count, dims->sequence};
    unsigned columns = static_cast<unsigned>(blocks_for(hidden, SUM_THREADS * Piece<T>::LENGTH));
    dim3 chunks(static_cast<unsigned>(blocks_for(count, CHUNK)), columns);
    TRY(sort_by_word(queue->stream, dims, sorted.words, work, &sorted.order));
    TRY(launch(queue->stream, chunks, SUM_THREADS, 0, word_sums_kernel<T>, sorted, from, to, work.partial, hidden,
               aligned));
    TRY(launch(queue->stream, chunks, SUM_THREADS, 0, open_words_kernel<T>, sorted, to,
               static_cast<const float *>(work.partial), hidden, aligned));
    return launch(queue->stream, dim3(dims->sequence, columns), SUM_THREADS, 0, position_gradient_kernel<T>, from,
                  to + dims->vocabulary * hidden, count, dims->sequence, hidden, aligned);
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
