// Moves in a GPU's memory: what moves.h states, by the kernels of kernels/cuda and the communicator's collectives, put
// in line on streams. Queues, marks and waiting are in cuda_mover.c. Nothing waits here but for counts and what else is
// brought to the host.
#include "runtime/engine/cuda_mover.h"

static bool launched(cudaError_t error, Fault *fault)
{
    return cuda_check(error, "start a kernel", fault);
}

static bool copied(cudaError_t error, Fault *fault)
{
    return cuda_check(error, "enqueue a copy", fault);
}

// ---- memory ----------------------------------------------------------------------------------

static void *allocate(uint64_t bytes)
{
    void *memory = NULL;
    if (cudaMalloc(&memory, bytes > 0 ? bytes : 1) == cudaSuccess)
        return memory;
    cudaGetLastError(); // is said here, and not by the next kernel
    return NULL;
}

static void release(void *memory)
{
    cudaFree(memory);
}

static bool copy(MoveQueue *queue, void *to, const void *from, uint64_t bytes, Fault *fault)
{
    return to == from || bytes == 0 ||
           copied(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, queue->kernels.stream), fault);
}

static bool clear(MoveQueue *queue, void *at, uint64_t bytes, Fault *fault)
{
    return bytes == 0 || cuda_check(cudaMemsetAsync(at, 0, bytes, queue->kernels.stream), "enqueue zeros", fault);
}

// ---- collectives -----------------------------------------------------------------------------

static bool exchange(const Meeting *meeting, const Exchange *of, Fault *fault)
{
    Exchange known = *of;
    known.counts_known = true;
    return meeting->place.members == 1 || mover_exchange(meeting, &known, fault);
}

static bool sum(MoveQueue *queue, const SumGroup *group, Tensor own, Tensor out, Fault *fault)
{
    return launched(cuda_sum_with_own(&queue->kernels, own.data, group->own, group->scratch, group->members, out),
                    fault);
}

// ---- rows ------------------------------------------------------------------------------------

// Where there are none kernels are launched for one, and told on the device that there is none.
static CudaRows present(const MoveQueue *queue, const MoveRoute *of)
{
    if (of->rows > 0)
        return (CudaRows){.rows = of->rows};
    return (CudaRows){.counts = queue->mover->zero, .members = 1, .rows = 1};
}

static bool route(MoveQueue *queue, const MoveRoute *of, const struct route_tensors *t, Fault *fault)
{
    CudaScratch scratch = {0};
    CudaRows rows = present(queue, of);
    cuda_ranking_take(&scratch, rows.rows, of->table->members);
    return queue_reserve(queue, scratch.used, fault) &&
           launched(cuda_route(&queue->kernels, of->table, rows, of->fanout, t->rows, t->records, t->next_rows,
                               t->next_records, t->send_rows, t->send_records, t->send_counts, t->origin, NULL,
                               queue->mover->lost),
                    fault) &&
           mover_see_lost(queue, fault);
}

static bool reserve_lists(MoveQueue *queue, const MoveRoute *of, Fault *fault)
{
    CudaScratch scratch = {0};
    cuda_copy_lists_take(&scratch, of->rows / of->fanout + 1, of->copies_max);
    return queue_reserve(queue, scratch.used, fault);
}

static bool unroute(MoveQueue *queue, const MoveRoute *of, const struct unroute_tensors *t, Tensor work, Fault *fault)
{
    (void)work;
    return reserve_lists(queue, of, fault) &&
           launched(cuda_unroute(&queue->kernels, of->table, present(queue, of), of->fanout, of->copies_max, t->results,
                                 t->returned, t->send_counts, t->origin, t->rows),
                    fault);
}

static bool unroute_backward(MoveQueue *queue, const MoveRoute *of, const struct unroute_backward_tensors *t,
                             Fault *fault)
{
    return launched(cuda_unroute_backward(&queue->kernels, of->table, of->fanout, t->drows, t->send_counts, t->origin,
                                          t->dresults, t->send_rows),
                    fault);
}

static bool route_backward(MoveQueue *queue, const MoveRoute *of, const struct route_backward_tensors *t, Fault *fault)
{
    return reserve_lists(queue, of, fault) &&
           launched(cuda_route_backward(&queue->kernels, of->table, present(queue, of), of->fanout, of->copies_max,
                                        t->drows_next, t->drecords_next, t->returned, t->returned_records,
                                        t->send_counts, t->origin, t->drows, t->drecords),
                    fault);
}

static bool give_records(MoveQueue *queue, const GivenRecords *given, Fault *fault)
{
    return launched(cuda_give_records(&queue->kernels, given), fault);
}

static Tensor order_of(const MovePairs *pairs)
{
    return (Tensor){.data = (void *)pairs->order, .dtype = DTYPE_I32, .rows = pairs->count + 1, .cols = 1};
}

static Tensor count_of(const MovePairs *pairs)
{
    return (Tensor){.data = (void *)pairs->count_here, .dtype = DTYPE_I32, .rows = 1, .cols = 1};
}

// Pairs are the rows of the next stage of an exchange in which everything stays here.
static const RouteTable alone = {.members = 1};

static bool spread_pairs(MoveQueue *queue, const MovePairs *pairs, Tensor rows, Tensor of_pairs, Fault *fault)
{
    Tensor none = of_pairs;
    none.rows = 0;
    return launched(cuda_unroute_backward(&queue->kernels, &alone, pairs->per_row, rows, count_of(pairs),
                                          order_of(pairs), of_pairs, none),
                    fault);
}

static bool fold_pairs(MoveQueue *queue, const MovePairs *pairs, const struct route_backward_tensors *t, Tensor work,
                       Fault *fault)
{
    MoveRoute of = {
        .table = &alone, .rows = pairs->rows * pairs->per_row, .fanout = pairs->per_row, .copies_max = pairs->per_row};
    if (!t->drecords.data) {
        struct unroute_tensors sums = {.results = t->drows_next,
                                       .returned = t->drows_next,
                                       .send_counts = count_of(pairs),
                                       .origin = order_of(pairs),
                                       .rows = t->drows};
        return unroute(queue, &of, &sums, work, fault);
    }
    struct route_backward_tensors all = *t;
    all.returned = t->drows_next;
    all.returned_records = t->drecords_next;
    all.send_counts = count_of(pairs);
    all.origin = order_of(pairs);
    all.drecords.rows = of.rows;
    all.drecords.cols = 1;
    return route_backward(queue, &of, &all, fault);
}

static bool clear_padding(MoveQueue *queue, const Record *records, uint32_t per_row, Tensor rows, Fault *fault)
{
    return launched(cuda_clear_padding(&queue->kernels, records, per_row, rows), fault);
}

static bool encode_rows(MoveQueue *queue, TokenFormat format, Tensor rows, Tensor packed, Fault *fault)
{
    return rows.rows == 0 ||
           launched(cuda_encode_rows(&queue->kernels, format, (CudaRows){.rows = rows.rows}, rows, packed), fault);
}

static bool decode_rows(MoveQueue *queue, TokenFormat format, Tensor packed, Tensor rows, Fault *fault)
{
    return rows.rows == 0 ||
           launched(cuda_decode_rows(&queue->kernels, format, (CudaRows){.rows = rows.rows}, packed, rows), fault);
}

// ---- weights ---------------------------------------------------------------------------------

static bool encode(MoveQueue *queue, const CodecInfo *codec, Packing packing, const struct encode_tensors *t,
                   Fault *fault)
{
    return launched(
        cuda_encode(&queue->kernels, codec, packing, t->own, codec->remembers ? t->sent : t->mean, t->packet), fault);
}

// Many parameters because MoveOps.decode has them: those of a kernel.
static bool decode(MoveQueue *queue, const CodecInfo *codec, Packing packing, uint64_t own_first,
                   const struct decode_tensors *t, Fault *fault)
{
    return launched(cuda_decode(&queue->kernels, codec, packing, own_first, t->packet, t->own, t->mean,
                                codec->remembers ? t->replicas : t->gathered),
                    fault);
}

static bool mean(MoveQueue *queue, uint64_t all, Tensor experts, Tensor out, Fault *fault)
{
    return launched(cuda_mean(&queue->kernels, all, experts, out), fault);
}

static bool encode_gradient(MoveQueue *queue, Packing packing, const MessagePlace *place,
                            const struct encode_gradient_tensors *t, Fault *fault)
{
    uint64_t own_count = t->gathered.rows / place->members;
    return launched(cuda_encode_gradient(&queue->kernels, packing, place->own * own_count, own_count, t->gathered,
                                         t->error, t->packets),
                    fault);
}

static bool decode_gradient(MoveQueue *queue, Packing packing, const MessagePlace *place,
                            const struct decode_gradient_tensors *t, Fault *fault)
{
    return launched(cuda_decode_gradient(&queue->kernels, packing, place->own, t->gathered, t->received, t->shard),
                    fault);
}

static bool add(MoveQueue *queue, Tensor from, double scale, Tensor to, Fault *fault)
{
    return launched(cuda_add_scaled(&queue->kernels, from, (float)scale, to), fault);
}

const MoveOps cuda_moves = {.of_device = true,
                            .allocate = allocate,
                            .release = release,
                            .copy = copy,
                            .clear = clear,
                            .put = queue_put,
                            .bring = queue_bring,
                            .exchange = exchange,
                            .sum = sum,
                            .route = route,
                            .unroute = unroute,
                            .unroute_backward = unroute_backward,
                            .route_backward = route_backward,
                            .give_records = give_records,
                            .spread_pairs = spread_pairs,
                            .fold_pairs = fold_pairs,
                            .clear_padding = clear_padding,
                            .encode_rows = encode_rows,
                            .decode_rows = decode_rows,
                            .encode = encode,
                            .decode = decode,
                            .mean = mean,
                            .encode_gradient = encode_gradient,
                            .decode_gradient = decode_gradient,
                            .add = add};
