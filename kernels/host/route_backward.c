// Routing in reverse: gradients of results are copied to where results came from, gradients of all
// copies of a row are summed into it, and those of its records, which keep their places in every copy.
#include "kernels/host/internal.h"

enum { ROWS = 16, COLUMNS = 256 }; // summed at a time, on the stack

// to[first + i] = from[origin[i] / fanout].
static void copy_rows(Tensor from, const int32_t *origin, uint64_t count, uint32_t fanout, Tensor to, uint64_t first)
{
    uint64_t bytes = from.cols * dtype_bytes(from.dtype);
    assert(to.cols == from.cols && to.dtype == from.dtype && first + count <= to.rows);
    for (uint64_t i = 0; i < count; i++) {
        assert((uint64_t)origin[i] / fanout < from.rows);
        memcpy((char *)to.data + (first + i) * bytes, (const char *)from.data + (uint64_t)origin[i] / fanout * bytes,
               bytes);
    }
}

void host_unroute_backward(const RouteTable *table, uint32_t fanout, Tensor drows, Tensor send_counts, Tensor origin,
                           Tensor dresults, Tensor send_rows)
{
    const int32_t *origins = origin.data;
    uint64_t sent = 0;
    for (uint32_t m = 0; m < table->members; m++) {
        RouteRange range = route_range(table, send_counts.data, m, &sent);
        copy_rows(drows, origins + range.origin_first, range.count, fanout, m == table->own ? dresults : send_rows,
                  range.first);
    }
}

// Copies that are rows `first` .. `first + count` of both tensors; `origin` names their record rows, ascending.
typedef struct {
    const int32_t *origin;
    Tensor rows, records;
    uint64_t first, count;
} Copies;

// A part of the output: rows first .. end, columns column .. column + cols.
typedef struct {
    uint64_t first, end, column, cols;
    uint32_t fanout;
    float sums[ROWS][COLUMNS];
} Block;

static void add_rows(Block *block, const Copies *copies)
{
    Tensor from = copies->rows;
    float part[COLUMNS];
    for (uint64_t i = origin_lower_bound(copies->origin, copies->count, block->first * block->fanout);
         i < copies->count; i++) {
        uint64_t row = (uint64_t)copies->origin[i] / block->fanout;
        if (row >= block->end)
            return;
        float *restrict sum = block->sums[row - block->first];
        uint64_t place = (copies->first + i) * from.cols + block->column;
        host_to_f32(element_at(from.data, from.dtype, place), from.dtype, part, block->cols);
        for (uint64_t c = 0; c < block->cols; c++)
            sum[c] += part[c];
    }
}

static void add_records(const Copies *copies, Tensor drecords)
{
    uint64_t per_row = drecords.cols;
    for (uint64_t i = 0; i < copies->count; i++) {
        float *restrict to = (float *)drecords.data + (uint64_t)copies->origin[i] * per_row;
        const float *restrict from = (const float *)copies->records.data + (copies->first + i) * per_row;
        for (uint64_t r = 0; r < per_row; r++)
            to[r] += from[r];
    }
}

typedef struct {
    const RouteTable *table;
    const int32_t *counts, *origin;
    Copies own, returned; // the tensors; ranges of rows as `copies_of` says
} Reverse;

// What became of copies for `member`: its own rows are at the start of `own`, others in order in `returned`.
// *sent: rows of members before it.
static Copies copies_of(const Reverse *reverse, uint32_t member, uint64_t *sent)
{
    RouteRange range = route_range(reverse->table, reverse->counts, member, sent);
    Copies copies = member == reverse->table->own ? reverse->own : reverse->returned;
    copies.first = range.first;
    copies.count = range.count;
    copies.origin = reverse->origin + range.origin_first;
    return copies;
}

static void sum_block(const Reverse *reverse, Block *block, Tensor drows)
{
    memset(block->sums, 0, sizeof(block->sums));
    for (uint64_t m = 0, sent = 0; m < reverse->table->members; m++) {
        Copies copies = copies_of(reverse, (uint32_t)m, &sent);
        add_rows(block, &copies);
    }
    for (uint64_t row = block->first; row < block->end; row++)
        host_from_f32(block->sums[row - block->first],
                      element_in(drows.data, drows.dtype, row * drows.cols + block->column), drows.dtype, block->cols);
}

void host_route_backward(const RouteTable *table, uint64_t row_count, uint32_t fanout, Tensor drows_next,
                         Tensor drecords_next, Tensor returned, Tensor returned_records, Tensor send_counts,
                         Tensor origin, Tensor drows, Tensor drecords)
{
    uint64_t row_total = row_count / fanout;
    Reverse reverse = {.table = table,
                       .counts = send_counts.data,
                       .origin = origin.data,
                       .own = {.rows = drows_next, .records = drecords_next},
                       .returned = {.rows = returned, .records = returned_records}};
    assert(row_total <= drows.rows && row_count <= drecords.rows && drecords.dtype == DTYPE_F32);
    assert(drecords_next.cols == drecords.cols && returned_records.cols == drecords.cols);
    assert(drows_next.cols == drows.cols && returned.cols == drows.cols);
    if (row_count > 0)
        memset(drecords.data, 0, row_count * drecords.cols * sizeof(float));
    for (uint64_t m = 0, sent = 0; m < table->members; m++) {
        Copies copies = copies_of(&reverse, (uint32_t)m, &sent);
        add_records(&copies, drecords);
    }
    Block block = {.fanout = fanout};
    for (block.first = 0; block.first < row_total; block.first = block.end) {
        block.end = smaller(block.first + ROWS, row_total);
        for (block.column = 0; block.column < drows.cols; block.column += COLUMNS) {
            block.cols = smaller(COLUMNS, drows.cols - block.column);
            sum_block(&reverse, &block, drows);
        }
    }
}
