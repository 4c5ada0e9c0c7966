// What the host kernels share: scratch, matrix products over stored weights, norms, activations
// and other vector functions. Not for use outside this folder and its tests.
#ifndef HEP_HOST_INTERNAL_H
#define HEP_HOST_INTERNAL_H

#include <assert.h>
#include <string.h>

#include "engines/host_scratch.h"
#include "ir/codec.h"
#include "kernels/host/kernels.h"

static inline uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

// The place of element `index` of a buffer.
static inline const void *element_at(const void *data, Dtype dtype, uint64_t index)
{
    return (const char *)data + index * dtype_bytes(dtype);
}

static inline void *element_in(void *data, Dtype dtype, uint64_t index)
{
    return (char *)data + index * dtype_bytes(dtype);
}

// ---- scratch: pieces of `work`, as engines/host_scratch.c counts them -----------------------------

typedef struct {
    float *next;
    uint64_t left;
} Scratch;

Scratch scratch_begin(Tensor work);
float *scratch_take(Scratch *scratch, uint64_t rows, uint64_t cols);
// `count` elements in f32: where they lie if they are f32, else converted into scratch.
const float *scratch_convert(Scratch *scratch, const void *data, Dtype dtype, uint64_t count);
// Room for a weight panel of this size; NULL for f32, which is used where it lies.
float *scratch_panel(Scratch *scratch, Dtype dtype, uint64_t rows, uint64_t cols);
// Where the `count` first elements of a gradient are summed in f32, zeroed: in place if it is f32, else in scratch
// until gradient_store.
float *scratch_gradient(Scratch *scratch, Tensor gradient, uint64_t count);
void gradient_store(const float *sum, Tensor gradient, uint64_t first, uint64_t count);

// ---- matrix products ---------------------------------------------------------------------------

// A stored matrix, or a part of one: `stride` elements from row to row.
typedef struct {
    const void *data;
    Dtype dtype;
    uint64_t stride;
} Weights;

// c [m][n] = a [m][k] b [k][n] + beta c. `panel` holds k x min(n, SCRATCH_COLUMNS), NULL if b is f32.
void matrix_multiply(uint64_t m, uint64_t n, uint64_t k, const float *a, uint64_t a_stride, Weights b, float beta,
                     float *c, uint64_t c_stride, float *panel);
// c [m][n] = alpha a [m][k] transposed b [n][k] + beta c. `panel` holds n x min(k, SCRATCH_COLUMNS), NULL if b is
// f32.
void matrix_multiply_transposed(uint64_t m, uint64_t n, uint64_t k, float alpha, const float *a, uint64_t a_stride,
                                Weights b, float beta, float *c, uint64_t c_stride, float *panel);
// c [m][n] += alpha transposed a [rows][m] b [rows][n], all f32: what `rows` rows add to the gradient of a matrix.
void matrix_add_gradient(uint64_t m, uint64_t n, uint64_t rows, float alpha, const float *a, uint64_t a_stride,
                         const float *b, uint64_t b_stride, float *c, uint64_t c_stride);

// ---- norm and feed-forward ---------------------------------------------------------------------

#define NORM_EPSILON 1e-5f

// out [rows][hidden] = LayerNorm(x) gain + bias. parameters: gain [hidden], bias [hidden].
void norm_rows(const void *x, Dtype dtype, uint64_t rows, uint64_t hidden, const float *parameters, float *out);
// d [rows][hidden]: in the gradient by out, out that by x. Adds to dparameters (laid out like parameters). `row`:
// [hidden], scratch.
void norm_backward(const void *x, Dtype dtype, uint64_t rows, uint64_t hidden, const float *parameters, float *d,
                   float *dparameters, float *row);

typedef struct {
    const ModelDims *dims;
    uint64_t inner;
    Dtype dtype;       // of the weights
    float *in, *out;   // [block][hidden]
    float *act, *gate; // [block][min(inner, SCRATCH_COLUMNS)]; gate only where the activation is gated
    float *panel;
} FeedForward;

FeedForward feed_forward_begin(const ModelDims *dims, Dtype dtype, uint64_t inner, uint64_t block, Scratch *scratch);
// out [rows][hidden] = down(activation(in up)); `weights` as laid out in ir/model.h.
void feed_forward_run(const FeedForward *ff, const void *weights, const float *in, uint64_t rows, float *out);

typedef struct {
    const ModelDims *dims;
    uint64_t inner;
    Dtype dtype;            // of the weights
    float *in, *dout, *din; // [block][hidden]: input, gradient by the output, gradient by the input
    float *act, *dact;      // [block][min(inner, SCRATCH_COLUMNS)]
    float *up, *gate;       // as act; gate only where the activation is gated
    float *panel;
    float *gradient; // of the weights, in f32 and laid out like them; the caller sets it
} FeedForwardBackward;

FeedForwardBackward feed_forward_backward_begin(const ModelDims *dims, Dtype dtype, uint64_t inner, uint64_t block,
                                                Scratch *scratch);
// From `in` and `dout`, `rows` rows of them: writes `din`, adds to `gradient`. Where row_weights [rows] are given, the
// output counted times these: adds the gradients by them to drow_weights [rows].
void feed_forward_backward_run(const FeedForwardBackward *ff, const void *weights, uint64_t rows,
                               const float *row_weights, float *drow_weights);

// y = x + add, `count` elements; x and y in `dtype`, and possibly the same.
void residual_store(const void *x, const float *add, void *y, Dtype dtype, uint64_t count);

// ---- routing -----------------------------------------------------------------------------------

// The first of `count` ascending origins that is not below `bound`.
uint64_t origin_lower_bound(const int32_t *origin, uint64_t count, uint64_t bound);

// ---- selection ---------------------------------------------------------------------------------

// The indices, ascending, of the `kept` largest magnitudes of `count` values, kept <= count <= CODEC_BLOCK. Equal ones
// by lower index, NaN before all.
void select_largest(const float *values, uint32_t count, uint32_t kept, uint16_t *indices);

// ---- packets -----------------------------------------------------------------------------------

// The part of a packet that belongs to one block of a vector.
typedef struct {
    PacketForm form;
    Dtype dtype;    // of the vector
    uint64_t first; // of its elements in the vector
    uint32_t count, kept;
    uint8_t *data;
    uint32_t bytes, padding; // zeros after the last block's part
} PacketBlock;

// `index`: of the block in a vector [cols] of `vectors`.
PacketBlock packet_block(Packing packing, Tensor vectors, uint64_t index, void *packet);
void packet_write(const PacketBlock *block, const float *values); // values [count]
// to [count] += factor x what the part decodes to; factor 1 or -1.
void packet_add(const PacketBlock *block, float factor, float *to);
// Of forms that keep the largest: those elements, [kept].
void packet_elements(const PacketBlock *block, uint16_t *indices, float *values);

// ---- vectors -----------------------------------------------------------------------------------

// Partial results in lanes, so that the compiler may vectorise without reordering a single sum.
enum { LANES = 16 };

float vector_max(const float *x, uint64_t count);
float vector_sum(const float *x, uint64_t count);
float vector_dot(const float *x, const float *y, uint64_t count);
void vector_multiply(float *x, const float *y, uint64_t count);         // x = x y
void vector_exp(float *x, uint64_t count, float shift);                 // x = exp(x - shift)
void vector_gelu(float *x, uint64_t count);                             // the tanh form
void vector_silu_multiply(float *x, const float *gate, uint64_t count); // x = x silu(gate)
// act = the activation of its arguments, these become the derivatives by themselves.
void vector_gelu_derivative(float *x, float *act, uint64_t count);
void vector_silu_multiply_derivative(float *x, float *gate, float *act, uint64_t count);

#define EXP_LEAST (-87.3f) // results stay in the normal range between these
#define EXP_MOST  88.3f

// exp(x) within 2 ulp, x clamped to [least, most]. NaN stays NaN.
static inline __attribute__((always_inline)) float exp_clamped(float x, float least, float most)
{
    const float round = 12582912.0f; // 1.5 x 2^23: adding it rounds to an integer, kept in the low bits
    x = x < least ? least : x;
    x = x > most ? most : x;
    float shifted = x * 1.44269504f + round;
    float n = shifted - round;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f; // ln 2 in two parts
    float p = 1.9875691500e-4f;                          // Cephes expf, |r| <= ln(2) / 2
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof(bits));
    bits = (bits - 0x4B400000u + 127u) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof(scale));
    return p * scale;
}

static inline float exp_f32(float x)
{
    return exp_clamped(x, EXP_LEAST, EXP_MOST);
}

// ---- conversion without special instructions, for processors without them and for tests --------

void convert_f16_to_f32_portable(const uint16_t *from, float *to, uint64_t count);
void convert_f32_to_f16_portable(const float *from, uint16_t *to, uint64_t count);

// The bits of a float, and back.
static inline __attribute__((always_inline)) uint32_t float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static inline __attribute__((always_inline)) float bits_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

#endif
