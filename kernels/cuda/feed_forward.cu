// Dense layers and shared experts, and their gradients: products by cuBLAS over all rows at once, activations between
// them. Activations of the inner dimension are kept in the weights' dtype.
#include "kernels/cuda/activation.h"
#include "kernels/cuda/internal.h"

namespace
{

template <typename T>
__global__ void activate_kernel(Activation activation, const T *up, const T *gate, T *act, uint64_t count, bool aligned)
{
    uint64_t at = (static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * Piece<T>::LENGTH;
    bool whole = aligned && at + Piece<T>::LENGTH <= count;
    Piece<T> u, g = {};
    if (at >= count)
        return;
    u.load(up, at, count, whole);
    if (gate)
        g.load(gate, at, count, whole);
#pragma unroll
    for (int i = 0; i < Piece<T>::LENGTH; i++)
        u.values[i] = activation_of(activation, u.values[i], g.values[i]);
    u.store(act, at, count, whole);
}

template <typename T>
cudaError_t activate_as(cudaStream_t stream, Activation activation, const void *up, const void *gate, void *act,
                        uint64_t count)
{
    if (count == 0)
        return cudaSuccess;
    return launch(stream, static_cast<unsigned>(blocks_for(count, BLOCK_THREADS * Piece<T>::LENGTH)), BLOCK_THREADS, 0,
                  activate_kernel<T>, activation, static_cast<const T *>(up), static_cast<const T *>(gate),
                  static_cast<T *>(act), count,
                  is_aligned<T>(up, 0) && is_aligned<T>(gate, 0) && is_aligned<T>(act, 0));
}

// A block a row. In: what up and gate made, and the gradient by their activation. Out: in `act` the activation, in `up`
// and `gate` the gradients by them; all times the row's weight, whose gradient is the product of activation and
// gradient.
template <typename T>
__global__ void activation_backward_kernel(Activation activation, ActivationRows rows, T *up, T *gate, T *act,
                                           const T *__restrict__ dact, uint64_t inner, bool aligned)
{
    __shared__ float scratch[WARP];
    uint64_t row = blockIdx.x;
    if (rows.count && row >= *rows.count)
        return;
    uint64_t pair = rows.pairs ? rows.pairs[row] : row, first = row * inner;
    float weight = rows.records ? rows.records[pair].weight : 1.0f, sum = 0;
    Piece<T> u, g = {}, d, a;
    for (uint64_t at = threadIdx.x * Piece<T>::LENGTH; at < inner; at += blockDim.x * Piece<T>::LENGTH) {
        u.load(up + first, at, inner, aligned);
        if (gate)
            g.load(gate + first, at, inner, aligned);
        d.load(dact + first, at, inner, aligned);
#pragma unroll
        for (int i = 0; i < Piece<T>::LENGTH; i++) {
            Derivatives derivatives = derivatives_of(activation, u.values[i], g.values[i]);
            sum += derivatives.act * d.values[i];
            a.values[i] = derivatives.act * weight;
            u.values[i] = derivatives.by_up * d.values[i] * weight;
            g.values[i] = derivatives.by_gate * d.values[i] * weight;
        }
        a.store(act + first, at, inner, aligned);
        u.store(up + first, at, inner, aligned);
        if (gate)
            g.store(gate + first, at, inner, aligned);
    }
    if (!rows.drecords)
        return;
    sum = block_reduce(sum, Add(), scratch);
    if (threadIdx.x == 0)
        rows.drecords[pair] = sum;
}

template <typename T>
cudaError_t activation_backward_as(cudaStream_t stream, Activation activation, const ActivationRows &rows,
                                   const CudaInner &inner, uint64_t row_bound, uint64_t cols)
{
    if (row_bound == 0)
        return cudaSuccess;
    return launch(stream, static_cast<unsigned>(row_bound), BLOCK_THREADS, 0, activation_backward_kernel<T>, activation,
                  rows, static_cast<T *>(inner.up), static_cast<T *>(inner.gate), static_cast<T *>(inner.act),
                  static_cast<const T *>(inner.dact), cols, cols % Piece<T>::LENGTH == 0);
}

// ---- layers --------------------------------------------------------------------------------------

struct Layer {
    const ModelDims *dims;
    Dtype dtype;
    uint64_t rows, inner;
    const void *weights; // up, gate, down
    CudaInner buffers;

    uint64_t matrix() const
    {
        return static_cast<uint64_t>(dims->hidden) * inner;
    }

    bool gated() const
    {
        return dims->activation == ACTIVATION_SWIGLU;
    }

    Matrix into(uint64_t index, bool transposed) const // up or gate: [hidden][inner]
    {
        return matrix_of(element_at(weights, dtype, index * matrix()), dtype, inner, transposed);
    }

    Matrix down(bool transposed) const // [inner][hidden]
    {
        uint64_t before = gated() ? 2 : 1;
        return matrix_of(element_at(weights, dtype, before * matrix()), dtype, dims->hidden, transposed);
    }
};

cudaError_t multiply_in(const CudaQueue *queue, const Layer &layer, const void *in)
{
    uint64_t hidden = layer.dims->hidden, inner = layer.inner;
    Matrix rows = matrix_of(in, layer.dtype, hidden);
    TRY(matrix_multiply(queue, layer.rows, inner, hidden, 1, rows, layer.into(0, false), 0,
                        matrix_of(layer.buffers.up, layer.dtype, inner)));
    if (!layer.gated())
        return cudaSuccess;
    return matrix_multiply(queue, layer.rows, inner, hidden, 1, rows, layer.into(1, false), 0,
                           matrix_of(layer.buffers.gate, layer.dtype, inner));
}

// out [rows][hidden] = down(activation(in up)) + beta out.
cudaError_t forward(const CudaQueue *queue, const Layer &layer, const void *in, float beta, void *out)
{
    const CudaInner &b = layer.buffers;
    TRY(multiply_in(queue, layer, in));
    TRY(activate(queue->stream, layer.dims->activation, layer.dtype, b.up, b.gate, b.up, layer.rows * layer.inner));
    return matrix_multiply(queue, layer.rows, layer.dims->hidden, layer.inner, 1,
                           matrix_of(b.up, layer.dtype, layer.inner), layer.down(false), beta,
                           matrix_of(out, layer.dtype, layer.dims->hidden));
}

// gradient [m][n] = a [rows][m] transposed b [rows][n].
cudaError_t weight_gradient(const CudaQueue *queue, const Layer &layer, uint64_t m, uint64_t n, const void *a,
                            const void *b, void *gradient)
{
    return matrix_multiply(queue, m, n, layer.rows, 1, matrix_of(a, layer.dtype, m, true), matrix_of(b, layer.dtype, n),
                           0, matrix_of(gradient, layer.dtype, n));
}

// din: [rows][hidden] in din_dtype. dweights: laid out like the weights.
cudaError_t backward(const CudaQueue *queue, const Layer &layer, const void *in, const void *dout, void *din,
                     Dtype din_dtype, void *dweights)
{
    uint64_t hidden = layer.dims->hidden, inner = layer.inner;
    const CudaInner &b = layer.buffers;
    Dtype dtype = layer.dtype;
    uint64_t down_place = (layer.gated() ? 2 : 1) * layer.matrix();
    TRY(multiply_in(queue, layer, in));
    TRY(matrix_multiply(queue, layer.rows, inner, hidden, 1, matrix_of(dout, dtype, hidden), layer.down(true), 0,
                        matrix_of(b.dact, dtype, inner)));
    TRY(activation_backward(queue->stream, layer.dims->activation, dtype, {}, b, layer.rows, inner));
    TRY(weight_gradient(queue, layer, inner, hidden, b.act, dout, element_in(dweights, dtype, down_place)));
    TRY(weight_gradient(queue, layer, hidden, inner, in, b.up, dweights));
    TRY(matrix_multiply(queue, layer.rows, hidden, inner, 1, matrix_of(b.up, dtype, inner), layer.into(0, true), 0,
                        matrix_of(din, din_dtype, hidden)));
    if (!layer.gated())
        return cudaSuccess;
    TRY(weight_gradient(queue, layer, hidden, inner, in, b.gate, element_in(dweights, dtype, layer.matrix())));
    return matrix_multiply(queue, layer.rows, hidden, inner, 1, matrix_of(b.gate, dtype, inner), layer.into(1, true), 1,
                           matrix_of(din, din_dtype, hidden));
}

} // namespace

cudaError_t activate(cudaStream_t stream, Activation activation, Dtype dtype, const void *up, const void *gate,
                     void *act, uint64_t count)
{
    return BY_DTYPE(dtype, activate_as, stream, activation, up, gate, act, count);
}

cudaError_t activation_backward(cudaStream_t stream, Activation activation, Dtype dtype, const ActivationRows &rows,
                                const CudaInner &inner, uint64_t row_bound, uint64_t cols)
{
    return BY_DTYPE(dtype, activation_backward_as, stream, activation, rows, inner, row_bound, cols);
}

cudaError_t cuda_ffn(const CudaQueue *queue, const ModelDims *dims, Tensor x, Tensor ffn, Tensor y)
{
    CudaScratch scratch = scratch_of(queue);
    CudaFfn work = cuda_ffn_take(&scratch, dims, ffn.dtype, x.rows, false);
    const void *weights = element_at(ffn.data, ffn.dtype, 2ull * dims->hidden);
    Layer layer = {dims, ffn.dtype, x.rows, dims->ffn_inner, weights, work.inner};
    TRY(norm_rows(queue->stream, x.data, x.dtype, x.rows, dims->hidden, ffn.data, work.normed));
    TRY(cudaMemcpyAsync(y.data, x.data, x.rows * dims->hidden * dtype_bytes(x.dtype), cudaMemcpyDeviceToDevice,
                        queue->stream));
    return forward(queue, layer, work.normed, 1, y.data); // rounded once, after the residual is added
}

cudaError_t cuda_ffn_backward(const CudaQueue *queue, const ModelDims *dims, Tensor x, Tensor ffn, Tensor dx,
                              Tensor dffn)
{
    CudaScratch scratch = scratch_of(queue);
    uint64_t rows = x.rows, hidden = dims->hidden;
    CudaFfn work = cuda_ffn_take(&scratch, dims, ffn.dtype, rows, true);
    const void *weights = element_at(ffn.data, ffn.dtype, 2 * hidden);
    Layer layer = {dims, ffn.dtype, rows, dims->ffn_inner, weights, work.inner};
    TRY(norm_rows(queue->stream, x.data, x.dtype, rows, hidden, ffn.data, work.normed));
    TRY(backward(queue, layer, work.normed, dx.data, work.din, DTYPE_F32,
                 element_in(dffn.data, dffn.dtype, 2 * hidden)));
    return norm_backward(queue->stream, x.data, x.dtype, rows, hidden, ffn.data, work.din, dx.data, dx.data, dffn.data,
                         work.norm_sums);
}

cudaError_t cuda_shared_expert(const CudaQueue *queue, const ModelDims *dims, Tensor rows, Tensor shared,
                               Tensor results)
{
    CudaScratch scratch = scratch_of(queue);
    CudaShared work = cuda_shared_take(&scratch, dims, shared.dtype, rows.rows, false);
    uint64_t inner = model_shared_inner(dims);
    Layer layer = {dims, shared.dtype, rows.rows, inner, shared.data, work.inner};
    return forward(queue, layer, rows.data, 0, results.data);
}

cudaError_t cuda_shared_expert_backward(const CudaQueue *queue, const ModelDims *dims, Tensor rows, Tensor shared,
                                        Tensor dx, Tensor drows, Tensor dshared)
{
    CudaScratch scratch = scratch_of(queue);
    CudaShared work = cuda_shared_take(&scratch, dims, shared.dtype, rows.rows, true);
    uint64_t inner = model_shared_inner(dims);
    Layer layer = {dims, shared.dtype, rows.rows, inner, shared.data, work.inner};
    TRY(backward(queue, layer, rows.data, dx.data, work.din, DTYPE_F32, dshared.data));
    return convert(queue->stream, work.din, DTYPE_F32, drows.data, drows.dtype, rows.rows * dims->hidden);
}
