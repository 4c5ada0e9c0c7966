// Moves in host memory, by the host's kernels: see moves.h. Everything is done when its call returns.
#include <inttypes.h>
#include <stdlib.h>

#include "runtime/engine/moves.h"

// ---- memory ----------------------------------------------------------------------------------

static void *allocate(uint64_t bytes)
{
    enum { ALIGNMENT = 64 };
    return bytes < UINT64_MAX - ALIGNMENT ? aligned_alloc(ALIGNMENT, (bytes / ALIGNMENT + 1) * ALIGNMENT) : NULL;
}

static bool copy(MoveQueue *queue, void *to, const void *from, uint64_t bytes, Fault *fault)
{
    (void)queue, (void)fault;
    if (to != from && bytes > 0)
        memmove(to, from, bytes);
    return true;
}

static bool clear(MoveQueue *queue, void *at, uint64_t bytes, Fault *fault)
{
    (void)queue, (void)fault;
    if (bytes > 0)
        memset(at, 0, bytes);
    return true;
}

// ---- collectives -----------------------------------------------------------------------------

static bool exchange(const Meeting *meeting, const Exchange *of, Fault *fault)
{
    return meeting->comm->ops->exchange(meeting->comm, meeting->channel, of, fault);
}

static bool sum(MoveQueue *queue, const SumGroup *group, Tensor own, Tensor out, Fault *fault)
{
    (void)queue, (void)fault;
    comm_add_up(group, own, out.data);
    return true;
}

// ---- rows ------------------------------------------------------------------------------------

static bool route(MoveQueue *queue, const MoveRoute *of, const struct route_tensors *t, Fault *fault)
{
    (void)queue;
    uint64_t lost = host_route(of->table, of->rows, of->fanout, t->rows, t->records, t->next_rows, t->next_records,
                               t->send_rows, t->send_records, t->send_counts, t->origin);
    return lost == 0 || fault_set(fault, FAULT_RUN,
                                  "%" PRIu64 " rows do not fit in buffers of %" PRIu64 " and %" PRIu64
                                  " rows: more tokens chose experts of one domain than the plan reserves for",
                                  lost, t->next_rows.rows, t->send_rows.rows);
}

static bool unroute(MoveQueue *queue, const MoveRoute *of, const struct unroute_tensors *t, Tensor work, Fault *fault)
{
    (void)queue, (void)fault;
    host_unroute(of->table, of->rows, of->fanout, t->results, t->returned, t->send_counts, t->origin, t->rows, work);
    return true;
}

static bool unroute_backward(MoveQueue *queue, const MoveRoute *of, const struct unroute_backward_tensors *t,
                             Fault *fault)
{
    (void)queue, (void)fault;
    host_unroute_backward(of->table, of->fanout, t->drows, t->send_counts, t->origin, t->dresults, t->send_rows);
    return true;
}

static bool route_backward(MoveQueue *queue, const MoveRoute *of, const struct route_backward_tensors *t, Fault *fault)
{
    (void)queue, (void)fault;
    host_route_backward(of->table, of->rows, of->fanout, t->drows_next, t->drecords_next, t->returned,
                        t->returned_records, t->send_counts, t->origin, t->drows, t->drecords);
    return true;
}

static bool give_records(MoveQueue *queue, const GivenRecords *given, Fault *fault)
{
    (void)queue, (void)fault;
    host_give_records(given);
    return true;
}

static bool spread_pairs(MoveQueue *queue, const MovePairs *pairs, Tensor rows, Tensor of_pairs, Fault *fault)
{
    (void)queue, (void)fault;
    uint64_t bytes = rows.cols * dtype_bytes(rows.dtype);
    for (uint64_t i = 0; i < pairs->count; i++)
        memcpy((char *)of_pairs.data + i * bytes, (const char *)rows.data + pairs->order[i] / pairs->per_row * bytes,
               bytes);
    return true;
}

// Columns column .. column + count of all rows, in f32.
static void fold_block(const MovePairs *pairs, Tensor of_pairs, float *sums, uint64_t column, uint64_t count)
{
    float part[MOVE_FOLD_COLUMNS];
    uint64_t size = dtype_bytes(of_pairs.dtype);
    for (uint64_t i = 0; i < pairs->count; i++) {
        float *restrict to = sums + pairs->order[i] / pairs->per_row * count;
        host_to_f32((const char *)of_pairs.data + (i * of_pairs.cols + column) * size, of_pairs.dtype, part, count);
        for (uint64_t c = 0; c < count; c++)
            to[c] += part[c];
    }
}

static bool fold_pairs(MoveQueue *queue, const MovePairs *pairs, const struct route_backward_tensors *t, Tensor work,
                       Fault *fault)
{
    (void)queue, (void)fault;
    Tensor rows = t->drows;
    float *sums = work.data, *records = t->drecords.data;
    const float *of_pairs = t->drecords_next.data;
    uint64_t size = dtype_bytes(rows.dtype);
    for (uint64_t column = 0; column < rows.cols; column += MOVE_FOLD_COLUMNS) {
        uint64_t count = rows.cols - column < MOVE_FOLD_COLUMNS ? rows.cols - column : MOVE_FOLD_COLUMNS;
        memset(sums, 0, rows.rows * count * sizeof(*sums));
        fold_block(pairs, t->drows_next, sums, column, count);
        for (uint64_t r = 0; r < rows.rows; r++)
            host_from_f32(sums + r * count, (char *)rows.data + (r * rows.cols + column) * size, rows.dtype, count);
    }
    if (!records)
        return true;
    memset(records, 0, pairs->rows * pairs->per_row * sizeof(*records));
    for (uint64_t i = 0; i < pairs->count; i++)
        records[pairs->order[i]] = of_pairs[i];
    return true;
}

static bool clear_padding(MoveQueue *queue, const Record *records, uint32_t per_row, Tensor rows, Fault *fault)
{
    (void)queue, (void)fault;
    host_clear_padding(records, per_row, rows);
    return true;
}

static bool encode_rows(MoveQueue *queue, TokenFormat format, Tensor rows, Tensor packed, Fault *fault)
{
    (void)queue, (void)fault;
    host_encode_rows(format, rows.rows, rows, packed);
    return true;
}

static bool decode_rows(MoveQueue *queue, TokenFormat format, Tensor packed, Tensor rows, Fault *fault)
{
    (void)queue, (void)fault;
    host_decode_rows(format, rows.rows, packed, rows);
    return true;
}

// ---- weights ---------------------------------------------------------------------------------

static bool encode(MoveQueue *queue, const CodecInfo *codec, Packing packing, const struct encode_tensors *t,
                   Fault *fault)
{
    (void)queue, (void)fault;
    host_encode(codec, packing, t->own, codec->remembers ? t->sent : t->mean, t->packet);
    return true;
}

// Many parameters because MoveOps.decode has them: those of a kernel.
static bool decode(MoveQueue *queue, const CodecInfo *codec, Packing packing, uint64_t own_first,
                   const struct decode_tensors *t, Fault *fault)
{
    (void)queue, (void)fault;
    host_decode(codec, packing, own_first, t->packet, t->own, t->mean, codec->remembers ? t->replicas : t->gathered);
    return true;
}

static bool mean(MoveQueue *queue, uint64_t all, Tensor experts, Tensor out, Fault *fault)
{
    (void)queue, (void)fault;
    host_mean(all, experts, out);
    return true;
}

static bool encode_gradient(MoveQueue *queue, Packing packing, const MessagePlace *place,
                            const struct encode_gradient_tensors *t, Fault *fault)
{
    (void)queue, (void)fault;
    uint64_t own_count = t->gathered.rows / place->members;
    host_encode_gradient(packing, place->own * own_count, own_count, t->gathered, t->error, t->packets);
    return true;
}

static bool decode_gradient(MoveQueue *queue, Packing packing, const MessagePlace *place,
                            const struct decode_gradient_tensors *t, Fault *fault)
{
    (void)queue, (void)fault;
    host_decode_gradient(packing, place->own, t->gathered, t->received, t->shard);
    return true;
}

static bool add(MoveQueue *queue, Tensor from, double scale, Tensor to, Fault *fault)
{
    (void)queue, (void)fault;
    host_add_scaled(from, (float)scale, to);
    return true;
}

const MoveOps host_moves = {.allocate = allocate,
                            .release = free,
                            .copy = copy,
                            .clear = clear,
                            .put = copy,
                            .bring = copy,
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
