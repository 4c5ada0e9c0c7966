// CUDA kernels: the counterpart of every function of kernels/host/kernels.h, launched on a stream. Shapes, orders of
// rows and records and what gradients mean are stated there; what differs is stated here. `data` of every Tensor and
// every table is a device pointer, 16-byte aligned. A launcher only enqueues: it neither allocates nor waits nor reads
// device memory on the host, so it may be captured in a graph. It returns what CUDA says about the launch.
// Results do not depend on how blocks are scheduled: no floating-point atomics, sums in a fixed order.
#ifndef HEP_CUDA_KERNELS_H
#define HEP_CUDA_KERNELS_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "engines/cuda_scratch.h"
#include "ir/codec.h"
#include "kernels/host/kernels.h"

struct cublasContext;

// A stream with what its kernels need. Steps of a stream run one after another, so they share the scratch.
typedef struct {
    cudaStream_t stream;
    struct cublasContext *blas; // NULL where the stream multiplies no matrices
    void *work;                 // device memory, 256-byte aligned
    uint64_t work_bytes;
    bool warp_groups; // multiply experts by wgmma where cuda_expert_kernel says that it works
} CudaQueue;

// `work`: device memory of `work_bytes` that the caller keeps until the queue is gone; if `multiplies`, the first
// CUDA_BLAS_BYTES of it are cuBLAS's.
cudaError_t cuda_queue_create(CudaQueue *queue, cudaStream_t stream, bool multiplies, void *work, uint64_t work_bytes);
void cuda_queue_destroy(CudaQueue *queue); // takes half-built ones; neither stream nor scratch are destroyed

// 16-bit matrices of experts whose rows are whole vectors of 16 bytes are multiplied by the instructions of warp groups
// (wgmma) where the device has them, all others by those of warps (wmma).
typedef struct {
    bool warp_groups;
    const char *refusal; // why not; NULL if they are used
} CudaExpertKernel;

// The first call of the process for the current device decides: it multiplies small matrices both ways and compares,
// for which it takes some memory and waits, so that no stream may be captured meanwhile. HEP_EXPERT_KERNEL=wmma or
// wgmma in the environment says which it is to be, wgmma without comparing. Every queue that multiplies asks.
cudaError_t cuda_expert_kernel(CudaExpertKernel *kernel);

// How many rows (of records) are present: the sum of `counts` [members] on the device, or, without, `rows`. Kernels are
// launched for `rows`, the most there can be.
typedef struct {
    const int32_t *counts;
    uint32_t members;
    uint64_t rows;
    uint32_t skipped; // 1 + the member whose rows are not among them; 0: none
} CudaRows;

cudaError_t cuda_embed(const CudaQueue *queue, const ModelDims *dims, Tensor tokens, Tensor embedding, Tensor x);
cudaError_t cuda_pre_expert(const CudaQueue *queue, const ModelDims *dims, Tensor x, Tensor attention, Tensor y);
cudaError_t cuda_ffn(const CudaQueue *queue, const ModelDims *dims, Tensor x, Tensor ffn, Tensor y);
// Logits are f32 products of f32 rows, as on the host: the choice does not hang on the rounding of 16-bit rows.
cudaError_t cuda_gate(const CudaQueue *queue, const ModelDims *dims, Routing routing, uint64_t capacity_rows, Tensor x,
                      Tensor router, Tensor rows, Tensor records);

// `table->member_of_expert` is a device array. Rows that do not fit are added to *lost (device). Records that name no
// expert of the model are padding: that is what is found where an exchange was broken off. The counts are also written
// to `kept_counts` [members] (device), unless that is NULL.
cudaError_t cuda_route(const CudaQueue *queue, const RouteTable *table, CudaRows present, uint32_t fanout, Tensor rows,
                       Tensor records, Tensor next_rows, Tensor next_records, Tensor send_rows, Tensor send_records,
                       Tensor send_counts, Tensor origin, int32_t *kept_counts, uint64_t *lost);
// `copies_max`: most copies of one row of `rows`, top_k of the model.
cudaError_t cuda_unroute(const CudaQueue *queue, const RouteTable *table, CudaRows present, uint32_t fanout,
                         uint32_t copies_max, Tensor results, Tensor returned, Tensor send_counts, Tensor origin,
                         Tensor rows);
// Everything `given` points at is device memory, but the struct.
cudaError_t cuda_give_records(const CudaQueue *queue, const GivenRecords *given);
cudaError_t cuda_clear_padding(const CudaQueue *queue, const Record *records, uint32_t per_row, Tensor rows);
cudaError_t cuda_encode_rows(const CudaQueue *queue, TokenFormat format, CudaRows present, Tensor rows, Tensor packed);
cudaError_t cuda_decode_rows(const CudaQueue *queue, TokenFormat format, CudaRows present, Tensor packed, Tensor rows);
// Where experts are: `slot_of_expert` [experts] is a device array, the slots are rows of the step's experts. Most
// records that name one of these.
typedef struct {
    const int32_t *slot_of_expert;
    uint64_t held_records;
} CudaSlots;

// Records whose expert is not held, and those beyond the most, are added to *lost (device).
cudaError_t cuda_expert(const CudaQueue *queue, const ModelDims *dims, CudaSlots slots, CudaRows present,
                        uint32_t fanout, Tensor rows, Tensor records, Tensor experts, Tensor results, uint64_t *lost);
cudaError_t cuda_shared_expert(const CudaQueue *queue, const ModelDims *dims, Tensor rows, Tensor shared,
                               Tensor results);
cudaError_t cuda_residual(const CudaQueue *queue, Tensor x, Tensor results, Tensor shared, Tensor y);
cudaError_t cuda_loss(const CudaQueue *queue, const ModelDims *dims, Tensor x, Tensor tokens, Tensor embedding,
                      Tensor loss);

// ---- backward ------------------------------------------------------------------------------------

cudaError_t cuda_loss_backward(const CudaQueue *queue, const ModelDims *dims, Tensor x, Tensor tokens, Tensor embedding,
                               Tensor dx, Tensor dembedding);
cudaError_t cuda_embed_backward(const CudaQueue *queue, const ModelDims *dims, Tensor tokens, Tensor dx,
                                Tensor dembedding);
cudaError_t cuda_pre_expert_backward(const CudaQueue *queue, const ModelDims *dims, Tensor x, Tensor attention,
                                     Tensor dx, Tensor dattention);
cudaError_t cuda_ffn_backward(const CudaQueue *queue, const ModelDims *dims, Tensor x, Tensor ffn, Tensor dx,
                              Tensor dffn);
cudaError_t cuda_shared_expert_backward(const CudaQueue *queue, const ModelDims *dims, Tensor rows, Tensor shared,
                                        Tensor dx, Tensor drows, Tensor dshared);
cudaError_t cuda_unroute_backward(const CudaQueue *queue, const RouteTable *table, uint32_t fanout, Tensor drows,
                                  Tensor send_counts, Tensor origin, Tensor dresults, Tensor send_rows);
cudaError_t cuda_expert_backward(const CudaQueue *queue, const ModelDims *dims, CudaSlots slots, CudaRows present,
                                 uint32_t fanout, Tensor rows, Tensor records, Tensor experts, Tensor dresults,
                                 Tensor drows, Tensor drecords, Tensor dexperts, uint64_t *lost);
cudaError_t cuda_route_backward(const CudaQueue *queue, const RouteTable *table, CudaRows present, uint32_t fanout,
                                uint32_t copies_max, Tensor drows_next, Tensor drecords_next, Tensor returned,
                                Tensor returned_records, Tensor send_counts, Tensor origin, Tensor drows,
                                Tensor drecords);
cudaError_t cuda_gate_backward(const CudaQueue *queue, const ModelDims *dims, float balance, Tensor x, Tensor records,
                               Tensor drows, Tensor drecords, Tensor dshared, Tensor router, Tensor dx, Tensor drouter);

// Sums over micro-batches, in f32, as host_accumulate and host_round have them.
cudaError_t cuda_accumulate(const CudaQueue *queue, Tensor part, Tensor sum);
cudaError_t cuda_round(const CudaQueue *queue, Tensor sum, Tensor gradient);

// The product and the sum may be rounded together.
cudaError_t cuda_add_scaled(const CudaQueue *queue, Tensor from, float scale, Tensor to);

// The constants of an AdamW step. Kernels read them on the device, so that a captured graph serves every step.
typedef struct {
    float scale, beta1, beta2, rate, decay, correction, epsilon;
    float clip; // the largest norm of gradients times scale; 0: no limit
} AdamWFactors;

AdamWFactors cuda_adamw_factors(const AdamW *adamw, double clip);
// squares = before (0 if absent) + the sum of the gradient's squares, in double precision until it is complete.
cudaError_t cuda_squares(const CudaQueue *queue, Tensor gradient, Tensor before, Tensor squares);
cudaError_t cuda_optimizer_begin(const CudaQueue *queue, Tensor weights, Tensor state);
// gradient: of the weights' dtype, or f32. squares: of all gradients, f32 [1]; where they are given, gradients shrink
// to the factors' largest norm.
cudaError_t cuda_optimizer(const CudaQueue *queue, const AdamWFactors *factors, const ModelRanges *undecayed,
                           Tensor squares, Tensor weights, Tensor gradient, Tensor state);

// ---- compression ---------------------------------------------------------------------------------

cudaError_t cuda_encode(const CudaQueue *queue, const CodecInfo *codec, Packing packing, Tensor experts, Tensor base,
                        Tensor packet);
cudaError_t cuda_decode(const CudaQueue *queue, const CodecInfo *codec, Packing packing, uint64_t own_first,
                        Tensor packet, Tensor own, Tensor mean, Tensor experts);
cudaError_t cuda_mean(const CudaQueue *queue, uint64_t all, Tensor experts, Tensor shared);
cudaError_t cuda_encode_gradient(const CudaQueue *queue, Packing packing, uint64_t own_first, uint64_t own_count,
                                 Tensor gathered, Tensor error, Tensor packets);
cudaError_t cuda_decode_gradient(const CudaQueue *queue, Packing packing, uint64_t own, Tensor gathered,
                                 Tensor received, Tensor shard);

// ---- sums ----------------------------------------------------------------------------------------

// out = the sum of `part_count` parts of its shape and dtype, added in order in f32 and rounded once. `parts` is a
// device array; a part may be `out` itself.
cudaError_t cuda_sum(const CudaQueue *queue, const void *const *parts, uint32_t part_count, Tensor out);
// The same of parts that lie one after another in `others`, but for the one with the number `own_index`, at `own`.
cudaError_t cuda_sum_with_own(const CudaQueue *queue, const void *own, uint32_t own_index, const void *others,
                              uint32_t part_count, Tensor out); // many parameters: where parts lie

#ifdef __cplusplus
}
#endif

#endif
