// Routing at one level: rows are copied to the members of the exchange group that lead to their
// experts, and partial results are summed back into the rows they came from. Copies only; what
// travels is the communicator's business.
#include "kernels/host/internal.h"

// The member that record `index` of a record row leads to; -1 for padding, and for a member that
// an earlier record of the row leads to already.
static int32_t new_member(const RouteTable *table, const Record *records, uint32_t index)
{
    if (records[index].expert < 0)
        return -1;
    int32_t member = table->member_of_expert[records[index].expert];
    assert(member >= 0 && (uint32_t)member < table->members);
    for (uint32_t i = 0; i < index; i++)
        if (records[i].expert >= 0 && table->member_of_expert[records[i].expert] == member)
            return -1;
    return member;
}

// The records of one row that lead to `member`, in their places, padding in the others': so the gradients by the
// records of all copies add up without a look at where each led.
static void copy_records(const RouteTable *table, const Record *from, uint32_t count, int32_t member, Record *to)
{
    for (uint32_t i = 0; i < count; i++) {
        bool leads = from[i].expert >= 0 && table->member_of_expert[from[i].expert] == member;
        to[i] = leads ? from[i] : (Record){.expert = -1, .weight = 0};
    }
}

typedef struct {
    const RouteTable *table;
    uint32_t records_per_row;
    Tensor rows, records; // read
    int32_t *origin;
    uint64_t origin_capacity;
    uint64_t own_places; // of `origin`, before those of the send buffer
} Router;

// Copies row and records to place `index` of a destination if they fit there; `order` is the copy's
// place in `origin`.
static bool place_copy(const Router *router, uint64_t record_row, uint32_t fanout, int32_t member, Tensor to_rows,
                       Tensor to_records, uint64_t index, uint64_t order)
{
    if (index >= to_rows.rows || index >= to_records.rows || order >= router->origin_capacity)
        return false;
    uint64_t hidden = router->rows.cols, per_row = router->records_per_row;
    memcpy(element_in(to_rows.data, to_rows.dtype, index * hidden),
           element_at(router->rows.data, router->rows.dtype, record_row / fanout * hidden),
           hidden * dtype_bytes(router->rows.dtype));
    copy_records(router->table, (const Record *)router->records.data + record_row * per_row, router->records_per_row,
                 member, (Record *)to_records.data + index * per_row);
    router->origin[order] = (int32_t)record_row;
    return true;
}

static void count_copies(const RouteTable *table, const Record *records, uint64_t row_count, uint32_t per_row,
                         int32_t *counts)
{
    memset(counts, 0, table->members * sizeof(*counts));
    for (uint64_t r = 0; r < row_count; r++) {
        for (uint32_t i = 0; i < per_row; i++) {
            int32_t member = new_member(table, records + r * per_row, i);
            if (member >= 0)
                counts[member]++;
        }
    }
}

void host_route_counts(const RouteTable *table, uint64_t row_count, Tensor records, int32_t *counts)
{
    count_copies(table, records.data, row_count, (uint32_t)(records.cols / 2), counts);
}

// Counts become the places of the members' first rows: own rows from 0, the others one after another.
static void counts_to_cursors(const RouteTable *table, int32_t *counts)
{
    int32_t sent = 0;
    for (uint32_t m = 0; m < table->members; m++) {
        int32_t count = table->place_rows ? (int32_t)table->place_rows : counts[m];
        counts[m] = m == table->own ? 0 : sent;
        sent += m == table->own ? 0 : count;
    }
}

// The reverse, once every cursor stands behind its member's last row.
static void cursors_to_counts(const RouteTable *table, int32_t *cursors)
{
    int32_t begin = 0;
    for (uint32_t m = 0; m < table->members; m++) {
        if (m == table->own)
            continue;
        int32_t end = cursors[m];
        cursors[m] = end - begin;
        begin = table->place_rows ? begin + (int32_t)table->place_rows : end;
    }
}

// Rows that their member's place has no room for.
static uint64_t overflow(const RouteTable *table, const int32_t *counts)
{
    uint64_t rows = 0;
    for (uint32_t m = 0; m < table->members; m++)
        rows += (uint64_t)counts[m] > table->place_rows ? (uint64_t)counts[m] - table->place_rows : 0;
    return rows;
}

// Records after the last row of every member, to the end of its place.
static void pad_places(const RouteTable *table, const int32_t *counts, Tensor next_records, Tensor send_records)
{
    uint64_t per_row = next_records.cols / 2, sent = 0;
    for (uint32_t m = 0; m < table->members; m++) {
        RouteRange range = route_range(table, counts, m, &sent);
        Record *of_member = (Record *)(m == table->own ? next_records : send_records).data + range.first * per_row;
        for (uint64_t i = range.count * per_row; i < table->place_rows * per_row; i++)
            of_member[i] = (Record){.expert = -1, .weight = 0};
    }
}

uint64_t host_route(const RouteTable *table, uint64_t row_count, uint32_t fanout, Tensor rows, Tensor records,
                    Tensor next_rows, Tensor next_records, Tensor send_rows, Tensor send_records, Tensor send_counts,
                    Tensor origin)
{
    uint32_t per_row = (uint32_t)(records.cols / 2);
    int32_t *cursors = send_counts.data;
    const Record *all = records.data;
    uint64_t unplaced = 0;
    assert(row_count <= records.rows && row_count <= INT32_MAX / per_row);
    assert(send_counts.rows * send_counts.cols >= table->members);
    assert(next_records.cols == records.cols && next_rows.cols == rows.cols && next_rows.dtype == rows.dtype);
    Router router = {.table = table,
                     .records_per_row = per_row,
                     .rows = rows,
                     .records = records,
                     .origin = origin.data,
                     .origin_capacity = origin.rows * origin.cols};
    count_copies(table, all, row_count, per_row, cursors);
    router.own_places = table->place_rows ? table->place_rows : (uint64_t)cursors[table->own];
    if (table->place_rows && (unplaced = overflow(table, cursors)) > 0)
        return unplaced;
    counts_to_cursors(table, cursors);
    for (uint64_t r = 0; r < row_count; r++) {
        for (uint32_t i = 0; i < per_row; i++) {
            int32_t member = new_member(table, all + r * per_row, i);
            if (member < 0)
                continue;
            bool stays = (uint32_t)member == table->own;
            uint64_t index = (uint64_t)cursors[member]++;
            uint64_t order = stays ? index : router.own_places + index;
            unplaced += !place_copy(&router, r, fanout, member, stays ? next_rows : send_rows,
                                    stays ? next_records : send_records, index, order);
        }
    }
    cursors_to_counts(table, cursors);
    if (table->place_rows)
        pad_places(table, cursors, next_records, send_records);
    return unplaced;
}

// ---- the way back ----------------------------------------------------------------------------------

uint64_t origin_lower_bound(const int32_t *origin, uint64_t count, uint64_t bound)
{
    uint64_t low = 0;
    while (low < count) {
        uint64_t middle = low + (count - low) / 2;
        if ((uint64_t)origin[middle] < bound)
            low = middle + 1;
        else
            count = middle;
    }
    return low;
}

typedef struct {
    uint64_t first, end; // output rows of this block
    uint32_t fanout;
    uint64_t hidden;
    float *sums; // [block][hidden]
    float *row;  // [hidden]
} SumBlock;

// Adds those of one member's rows that belong to the block; `origin` names their record rows.
static void add_member(const SumBlock *block, const int32_t *origin, Tensor from, uint64_t from_first, uint64_t count)
{
    uint64_t hidden = block->hidden;
    for (uint64_t i = origin_lower_bound(origin, count, block->first * block->fanout); i < count; i++) {
        uint64_t row = (uint64_t)origin[i] / block->fanout;
        if (row >= block->end)
            return;
        float *restrict sum = block->sums + (row - block->first) * hidden;
        float *restrict part = block->row;
        host_to_f32(element_at(from.data, from.dtype, (from_first + i) * hidden), from.dtype, part, hidden);
        for (uint64_t h = 0; h < hidden; h++)
            sum[h] += part[h];
    }
}

void host_unroute(const RouteTable *table, uint64_t row_count, uint32_t fanout, Tensor results, Tensor returned,
                  Tensor send_counts, Tensor origin, Tensor rows, Tensor work)
{
    const int32_t *counts = send_counts.data, *origins = origin.data;
    uint64_t own_count = (uint64_t)counts[table->own], row_total = row_count / fanout, hidden = rows.cols;
    Scratch scratch = scratch_begin(work);
    SumBlock block = {.fanout = fanout, .hidden = hidden};
    block.sums = scratch_take(&scratch, SCRATCH_SUM_ROWS, hidden);
    block.row = scratch_take(&scratch, 1, hidden);
    assert(row_total <= rows.rows && own_count <= results.rows);
    for (block.first = 0; block.first < row_total; block.first = block.end) {
        block.end = smaller(block.first + SCRATCH_SUM_ROWS, row_total);
        memset(block.sums, 0, (block.end - block.first) * hidden * sizeof(*block.sums));
        add_member(&block, origins, results, 0, own_count);
        uint64_t sent = 0;
        for (uint32_t m = 0; m < table->members; m++) {
            RouteRange range = route_range(table, counts, m, &sent);
            if (m != table->own)
                add_member(&block, origins + range.origin_first, returned, range.first, range.count);
        }
        host_from_f32(block.sums, element_in(rows.data, rows.dtype, block.first * hidden), rows.dtype,
                      (block.end - block.first) * hidden);
    }
}

void host_give_records(const GivenRecords *given)
{
    for (uint64_t i = 0; i < given->count; i++) {
        Record record = given->records[given->order ? given->order[i] : i];
        int64_t slot = record.expert >= 0 ? given->slots[record.expert] : -1;
        slot = slot < 0 ? given->none : slot;
        if (given->wide)
            ((int64_t *)given->experts)[i] = slot;
        else
            ((int32_t *)given->experts)[i] = (int32_t)slot;
        given->weights[i] = slot == given->none ? 0 : record.weight;
    }
}

void host_clear_padding(const Record *records, uint32_t per_row, Tensor rows)
{
    uint64_t bytes = rows.cols * dtype_bytes(rows.dtype);
    for (uint64_t r = 0; r < rows.rows; r++) {
        bool is_padding = true;
        for (uint32_t i = 0; i < per_row; i++)
            is_padding = is_padding && records[r * per_row + i].expert < 0;
        if (is_padding)
            memset((char *)rows.data + r * bytes, 0, bytes);
    }
}
