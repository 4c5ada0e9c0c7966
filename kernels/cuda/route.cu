// Routing at one level and its reverse. Rows are ranked by member (ranking.h), records and origins placed, and rows
// copied along the origins, which name every copy's source. The way back: a row's copies are listed, sorted by their
// place, and summed in that order, so that it is the same in every run.
#include "kernels/cuda/internal.h"
#include "kernels/cuda/ranking.h"
#include "kernels/cuda/sum_rows.h"

namespace
{

// Record rows by the members that lead to their experts.
struct MemberKeys {
    CudaRows present;
    const int32_t *member_of_expert;
    uint32_t experts;
    const Record *records;
    uint32_t per_item; // records a row

    __device__ uint64_t items(uint64_t *shared) const
    {
        return present_rows_shared(present, shared);
    }

    __device__ int32_t member(uint64_t row, uint32_t index) const
    {
        int32_t expert = records[row * per_item + index].expert;
        return static_cast<uint32_t>(expert) < experts ? member_of_expert[expert] : -1;
    }

    // -1 for padding, and for a member that an earlier record of the row leads to already.
    __device__ int32_t key(uint64_t row, uint32_t index) const
    {
        int32_t own = member(row, index);
        for (uint32_t i = 0; i < index; i++)
            if (member(row, i) == own)
                return -1;
        return own;
    }
};

// Where the copies for one side go: own rows, or those sent.
struct Side {
    Record *records;
    uint64_t rows; // that fit
};

struct PlaceCopies {
    MemberKeys keys;
    const uint32_t *begins, *counts; // by member
    uint32_t own;
    uint64_t place_rows; // of RouteTable
    Side next, send;
    int32_t *origin;
    uint64_t origin_rows;
    unsigned long long *lost;

    __device__ void operator()(uint64_t row, uint32_t member, uint32_t rank) const
    {
        bool stays = member == own;
        uint64_t own_places = place_rows ? place_rows : counts[own];
        uint64_t first =
            place_rows ? (member - (member > own)) * place_rows : begins[member] - (member > own ? counts[own] : 0);
        uint64_t index = stays ? rank : first + rank;
        uint64_t order = stays ? index : own_places + index;
        const Side &side = stays ? next : send;
        if (index >= side.rows || order >= origin_rows || (place_rows && rank >= place_rows)) {
            atomicAdd(lost, 1ull);
            return;
        }
        origin[order] = static_cast<int32_t>(row);
        for (uint32_t i = 0; i < keys.per_item; i++) {
            bool leads = keys.member(row, i) == static_cast<int32_t>(member);
            Record record = keys.records[row * keys.per_item + i];
            side.records[index * keys.per_item + i] = leads ? record : Record{-1, 0.0f};
        }
    }
};

__global__ void counts_kernel(const uint32_t *__restrict__ counts, int32_t *__restrict__ send_counts,
                              int32_t *__restrict__ kept_counts, uint32_t members)
{
    uint32_t member = blockIdx.x * blockDim.x + threadIdx.x;
    if (member >= members)
        return;
    send_counts[member] = static_cast<int32_t>(counts[member]);
    if (kept_counts)
        kept_counts[member] = static_cast<int32_t>(counts[member]);
}

// ---- copies along origins ------------------------------------------------------------------------

// How many own rows there are, and how many were sent; with places, a place for those of every member.
struct SentRows {
    const int32_t *send_counts; // [members]
    uint32_t members, own;
    uint64_t place_rows; // of RouteTable
};

struct RowCounts {
    uint64_t own_places; // of own rows, before those sent
    uint64_t own, sent;  // rows; sent ones with their padding
};

__device__ RowCounts row_counts(const SentRows &rows)
{
    uint64_t own = static_cast<uint64_t>(rows.send_counts[rows.own]);
    if (rows.place_rows)
        return {rows.place_rows, own < rows.place_rows ? own : rows.place_rows, (rows.members - 1) * rows.place_rows};
    RowCounts counts = {own, own, 0};
    for (uint32_t m = 0; m < rows.members; m++)
        counts.sent += m == rows.own ? 0 : static_cast<uint64_t>(rows.send_counts[m]);
    return counts;
}

// Is there a row at `index` of what was sent, and not padding?
__device__ bool is_sent(const SentRows &rows, const RowCounts &counts, uint64_t index)
{
    if (index >= counts.sent || !rows.place_rows)
        return index < counts.sent;
    uint32_t member = static_cast<uint32_t>(index / rows.place_rows);
    member += member >= rows.own;
    return index % rows.place_rows < static_cast<uint64_t>(rows.send_counts[member]);
}

// By a whole block.
__device__ RowCounts row_counts_shared(const SentRows &rows)
{
    __shared__ RowCounts counts;
    if (threadIdx.x == 0)
        counts = row_counts(rows);
    __syncthreads();
    return counts;
}

// Bytes are enough: `Unit` is 16, 4 or 2 of them. Blocks from next_rows on copy sent rows. A block a row.
template <typename Unit>
__global__ void copy_rows_kernel(SentRows sent, const int32_t *__restrict__ origin, uint64_t origin_rows,
                                 uint32_t fanout, const Unit *__restrict__ from, Unit *__restrict__ next,
                                 uint64_t next_rows, Unit *__restrict__ send, uint64_t units)
{
    RowCounts counts = row_counts_shared(sent);
    bool stays = blockIdx.x < next_rows;
    uint64_t index = stays ? blockIdx.x : blockIdx.x - next_rows;
    uint64_t order = stays ? index : counts.own_places + index;
    if (!(stays ? index < counts.own : is_sent(sent, counts, index)) || order >= origin_rows)
        return;
    const Unit *source = from + static_cast<uint64_t>(origin[order]) / fanout * units;
    Unit *to = (stays ? next : send) + index * units;
#pragma unroll 4
    for (uint64_t i = threadIdx.x; i < units; i += blockDim.x)
        to[i] = source[i];
}

template <typename Unit>
cudaError_t copy_units(cudaStream_t stream, const SentRows &sent, Tensor origin, uint32_t fanout, Tensor from,
                       Tensor next, Tensor send, uint64_t row_bytes)
{
    uint64_t blocks = next.rows + send.rows;
    if (blocks == 0)
        return cudaSuccess;
    return launch(stream, static_cast<unsigned>(blocks), 128, 0, copy_rows_kernel<Unit>, sent,
                  static_cast<const int32_t *>(origin.data), origin.rows * origin.cols, fanout,
                  static_cast<const Unit *>(from.data), static_cast<Unit *>(next.data), next.rows,
                  static_cast<Unit *>(send.data), row_bytes / sizeof(Unit));
}

bool are_multiples(Tensor a, Tensor b, Tensor c, uint64_t row_bytes, uint64_t unit)
{
    uintptr_t all = reinterpret_cast<uintptr_t>(a.data) | reinterpret_cast<uintptr_t>(b.data) |
                    reinterpret_cast<uintptr_t>(c.data) | row_bytes;
    return all % unit == 0;
}

cudaError_t copy_rows(cudaStream_t stream, const SentRows &sent, Tensor origin, uint32_t fanout, Tensor from,
                      Tensor next, Tensor send)
{
    uint64_t row_bytes = from.cols * dtype_bytes(from.dtype);
    if (are_multiples(from, next, send, row_bytes, 16))
        return copy_units<uint4>(stream, sent, origin, fanout, from, next, send, row_bytes);
    if (are_multiples(from, next, send, row_bytes, 4))
        return copy_units<uint32_t>(stream, sent, origin, fanout, from, next, send, row_bytes);
    return copy_units<uint16_t>(stream, sent, origin, fanout, from, next, send, row_bytes);
}

// Records after the last row of every member, to the end of its place; own ones lie in the next stage.
__global__ void pad_places_kernel(SentRows sent, uint32_t per_row, Record *__restrict__ next, Record *__restrict__ send)
{
    uint64_t index = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x, place = index / per_row;
    if (place >= sent.members * sent.place_rows)
        return;
    bool stays = place < sent.place_rows;
    RowCounts counts = row_counts(sent);
    if (stays ? place >= counts.own : !is_sent(sent, counts, place - sent.place_rows))
        (stays ? next + index : send + index - sent.place_rows * per_row)[0] = {-1, 0.0f};
}

cudaError_t pad_places(cudaStream_t stream, const SentRows &sent, uint32_t per_row, Record *next, Record *send)
{
    uint64_t records = sent.members * sent.place_rows * per_row;
    return launch(stream, static_cast<unsigned>(blocks_for(records, BLOCK_THREADS)), BLOCK_THREADS, 0,
                  pad_places_kernel, sent, per_row, next, send);
}

// ---- the way back --------------------------------------------------------------------------------

using CopyLists = CudaCopyLists; // the copies of every row, in any order

__global__ void list_copies_kernel(SentRows sent, const int32_t *__restrict__ origin, uint64_t origin_rows,
                                   uint32_t fanout, uint64_t rows, CopyLists lists)
{
    RowCounts counts = row_counts_shared(sent);
    uint64_t place = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    bool is_row = place < counts.own_places ? place < counts.own : is_sent(sent, counts, place - counts.own_places);
    if (!is_row || place >= origin_rows)
        return;
    uint64_t row = static_cast<uint64_t>(origin[place]) / fanout;
    if (row >= rows)
        return;
    uint32_t index = atomicAdd(&lists.counts[row], 1u);
    if (index < lists.copies_max)
        lists.places[row * lists.copies_max + index] = static_cast<uint32_t>(place);
}

cudaError_t list_copies(cudaStream_t stream, const SentRows &sent, Tensor origin, uint32_t fanout, uint64_t rows,
                        const CopyLists &lists)
{
    uint64_t places = origin.rows * origin.cols;
    if (rows == 0 || places == 0)
        return cudaSuccess;
    TRY(cudaMemsetAsync(lists.counts, 0, rows * sizeof *lists.counts, stream));
    return launch(stream, static_cast<unsigned>(blocks_for(places, BLOCK_THREADS)), BLOCK_THREADS, 0,
                  list_copies_kernel, sent, static_cast<const int32_t *>(origin.data), places, fanout, rows, lists);
}

// The copies of one row; `kept` is the block's shared memory. Insertion sort: copies are few.
template <typename T> struct CopySources {
    CudaRows present;
    SentRows sent;
    uint32_t fanout;
    CopyLists lists;
    const T *own, *returned;
    uint64_t cols;
    uint64_t own_places;
    uint32_t copies;
    const uint32_t *sorted;

    __device__ bool begin(uint64_t row)
    {
        DYNAMIC_SHARED(memory);
        uint32_t *kept = reinterpret_cast<uint32_t *>(memory);
        __shared__ uint64_t row_total;
        if (threadIdx.x == 0) {
            row_total = present_rows(present) / fanout;
            uint32_t listed = row < row_total ? lists.counts[row] : 0;
            listed = listed < lists.copies_max ? listed : lists.copies_max;
            for (uint32_t i = 0; i < listed; i++) {
                uint32_t place = lists.places[row * lists.copies_max + i], at = i;
                for (; at > 0 && kept[at - 1] > place; at--)
                    kept[at] = kept[at - 1];
                kept[at] = place;
            }
            kept[lists.copies_max] = listed;
        }
        __syncthreads();
        own_places = sent.place_rows ? sent.place_rows : static_cast<uint64_t>(sent.send_counts[sent.own]);
        copies = kept[lists.copies_max];
        sorted = kept;
        return row < row_total;
    }

    __device__ uint32_t count() const
    {
        return copies;
    }

    __device__ Source<T> at(uint32_t j) const
    {
        uint64_t place = sorted[j];
        return {place < own_places ? own + place * cols : returned + (place - own_places) * cols, 1.0f};
    }
};

template <typename T>
__global__ void __launch_bounds__(SUM_THREADS)
    sum_copies_kernel(CopySources<T> sources, T *__restrict__ out, bool aligned)
{
    uint64_t row = blockIdx.x, cols = sources.cols;
    if (!sources.begin(row))
        return;
    for (uint64_t at = threadIdx.x * Piece<T>::LENGTH; at < cols; at += SUM_THREADS * Piece<T>::LENGTH) {
        Piece<T> sum = sum_of_sources<T>(sources, at, cols, aligned);
        sum.store(out + row * cols, at, cols, aligned);
    }
}

// What a copy's records got goes to the same places of the records they were copied from.
struct RecordSums {
    const int32_t *origin;
    const float *own, *returned; // [rows][per_row]
    float *out;                  // [record rows][per_row]
    uint32_t per_row;
};

template <typename T>
__device__ void sum_records(const CopySources<T> &sources, const RecordSums &records, uint64_t row)
{
    for (uint32_t i = threadIdx.x; i < sources.fanout * records.per_row; i += blockDim.x) {
        uint64_t record_row = row * sources.fanout + i / records.per_row;
        uint32_t column = i % records.per_row;
        float sum = 0;
        for (uint32_t j = 0; j < sources.count(); j++) {
            uint64_t place = sources.sorted[j];
            if (static_cast<uint64_t>(records.origin[place]) != record_row)
                continue;
            sum += place < sources.own_places
                       ? records.own[place * records.per_row + column]
                       : records.returned[(place - sources.own_places) * records.per_row + column];
        }
        records.out[record_row * records.per_row + column] = sum;
    }
}

template <typename T>
__global__ void __launch_bounds__(SUM_THREADS)
    route_backward_kernel(CopySources<T> sources, RecordSums records, T *__restrict__ out, bool aligned)
{
    uint64_t row = blockIdx.x, cols = sources.cols;
    if (!sources.begin(row))
        return;
    sum_records(sources, records, row);
    for (uint64_t at = threadIdx.x * Piece<T>::LENGTH; at < cols; at += SUM_THREADS * Piece<T>::LENGTH) {
        Piece<T> sum = sum_of_sources<T>(sources, at, cols, aligned);
        sum.store(out + row * cols, at, cols, aligned);
    }
}

struct WayBack {
    const CudaQueue *queue;
    SentRows sent;
    CudaRows present;
    uint32_t fanout, copies_max;
    Tensor own, returned, origin, rows;
};

template <typename T> cudaError_t sum_back(const WayBack &way, const RecordSums *records)
{
    CudaScratch scratch = scratch_of(way.queue);
    cudaStream_t stream = way.queue->stream;
    uint64_t rows = smaller(way.present.rows / way.fanout, way.rows.rows);
    CopyLists lists = cuda_copy_lists_take(&scratch, rows, way.copies_max);
    TRY(list_copies(stream, way.sent, way.origin, way.fanout, rows, lists));
    if (rows == 0)
        return cudaSuccess;
    CopySources<T> sources = {way.present,
                              way.sent,
                              way.fanout,
                              lists,
                              static_cast<const T *>(way.own.data),
                              static_cast<const T *>(way.returned.data),
                              way.rows.cols,
                              0,
                              0,
                              nullptr};
    bool aligned = is_aligned<T>(way.own.data, way.rows.cols) && is_aligned<T>(way.returned.data, way.rows.cols) &&
                   is_aligned<T>(way.rows.data, way.rows.cols);
    size_t shared_bytes = (way.copies_max + 1) * sizeof(uint32_t);
    T *out = static_cast<T *>(way.rows.data);
    if (records)
        return launch(stream, static_cast<unsigned>(rows), SUM_THREADS, shared_bytes, route_backward_kernel<T>, sources,
                      *records, out, aligned);
    return launch(stream, static_cast<unsigned>(rows), SUM_THREADS, shared_bytes, sum_copies_kernel<T>, sources, out,
                  aligned);
}

// ---- what callers see of records -----------------------------------------------------------------

template <typename Index> __global__ void give_records_kernel(GivenRecords given, Index *__restrict__ experts)
{
    uint64_t index = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (index >= given.count)
        return;
    Record record = given.records[given.order ? given.order[index] : index];
    int64_t slot = record.expert >= 0 ? given.slots[record.expert] : -1;
    slot = slot < 0 ? given.none : slot;
    experts[index] = static_cast<Index>(slot);
    given.weights[index] = slot == given.none ? 0.0f : record.weight;
}

template <typename Index> cudaError_t give_records(cudaStream_t stream, const GivenRecords &given)
{
    return launch(stream, static_cast<unsigned>(blocks_for(given.count, BLOCK_THREADS)), BLOCK_THREADS, 0,
                  give_records_kernel<Index>, given, static_cast<Index *>(given.experts));
}

// A block a row.
template <typename Unit>
__global__ void clear_padding_kernel(const Record *__restrict__ records, uint32_t per_row, Unit *__restrict__ rows,
                                     uint64_t units)
{
    uint64_t row = blockIdx.x;
    for (uint32_t i = 0; i < per_row; i++)
        if (records[row * per_row + i].expert >= 0)
            return;
    for (uint64_t i = threadIdx.x; i < units; i += blockDim.x)
        rows[row * units + i] = Unit{};
}

template <typename Unit>
cudaError_t clear_padding(cudaStream_t stream, const Record *records, uint32_t per_row, Tensor rows, uint64_t row_bytes)
{
    return launch(stream, static_cast<unsigned>(rows.rows), SUM_THREADS, 0, clear_padding_kernel<Unit>, records,
                  per_row, static_cast<Unit *>(rows.data), row_bytes / sizeof(Unit));
}

SentRows sent_of(const RouteTable *table, Tensor send_counts)
{
    return {static_cast<const int32_t *>(send_counts.data), table->members, table->own, table->place_rows};
}

} // namespace

cudaError_t cuda_route(const CudaQueue *queue, const RouteTable *table, CudaRows present, uint32_t fanout, Tensor rows,
                       Tensor records, Tensor next_rows, Tensor next_records, Tensor send_rows, Tensor send_records,
                       Tensor send_counts, Tensor origin, int32_t *kept_counts, uint64_t *lost)
{
    CudaScratch scratch = scratch_of(queue);
    Ranking ranking = cuda_ranking_take(&scratch, present.rows, table->members);
    MemberKeys keys = {present, table->member_of_expert, table->experts, static_cast<const Record *>(records.data),
                       static_cast<uint32_t>(records.cols / 2)};
    PlaceCopies place = {keys,
                         ranking.begins,
                         ranking.counts,
                         table->own,
                         table->place_rows,
                         {static_cast<Record *>(next_records.data), smaller(next_rows.rows, next_records.rows)},
                         {static_cast<Record *>(send_records.data), smaller(send_rows.rows, send_records.rows)},
                         static_cast<int32_t *>(origin.data),
                         origin.rows * origin.cols,
                         reinterpret_cast<unsigned long long *>(lost)};
    TRY(rank_count(queue->stream, keys, ranking));
    TRY(launch(queue->stream, static_cast<unsigned>(blocks_for(table->members, BLOCK_THREADS)), BLOCK_THREADS, 0,
               counts_kernel, ranking.counts, static_cast<int32_t *>(send_counts.data), kept_counts, table->members));
    TRY(rank_place(queue->stream, keys, place, ranking));
    if (table->place_rows)
        TRY(pad_places(queue->stream, sent_of(table, send_counts), keys.per_item, place.next.records,
                       place.send.records));
    next_rows.rows = place.next.rows;
    send_rows.rows = place.send.rows;
    return copy_rows(queue->stream, sent_of(table, send_counts), origin, fanout, rows, next_rows, send_rows);
}

cudaError_t cuda_unroute(const CudaQueue *queue, const RouteTable *table, CudaRows present, uint32_t fanout,
                         uint32_t copies_max, Tensor results, Tensor returned, Tensor send_counts, Tensor origin,
                         Tensor rows)
{
    WayBack way = {queue, sent_of(table, send_counts), present, fanout, copies_max, results, returned, origin, rows};
    return BY_DTYPE(rows.dtype, sum_back, way, nullptr);
}

cudaError_t cuda_unroute_backward(const CudaQueue *queue, const RouteTable *table, uint32_t fanout, Tensor drows,
                                  Tensor send_counts, Tensor origin, Tensor dresults, Tensor send_rows)
{
    return copy_rows(queue->stream, sent_of(table, send_counts), origin, fanout, drows, dresults, send_rows);
}

cudaError_t cuda_route_backward(const CudaQueue *queue, const RouteTable *table, CudaRows present, uint32_t fanout,
                                uint32_t copies_max, Tensor drows_next, Tensor drecords_next, Tensor returned,
                                Tensor returned_records, Tensor send_counts, Tensor origin, Tensor drows,
                                Tensor drecords)
{
    WayBack way = {queue, sent_of(table, send_counts), present, fanout, copies_max, drows_next, returned, origin,
                   drows};
    RecordSums records = {static_cast<const int32_t *>(origin.data), static_cast<const float *>(drecords_next.data),
                          static_cast<const float *>(returned_records.data), static_cast<float *>(drecords.data),
                          static_cast<uint32_t>(drecords.cols)};
    return BY_DTYPE(drows.dtype, sum_back, way, &records);
}

cudaError_t cuda_give_records(const CudaQueue *queue, const GivenRecords *given)
{
    if (given->count == 0)
        return cudaSuccess;
    return given->wide ? give_records<int64_t>(queue->stream, *given) : give_records<int32_t>(queue->stream, *given);
}

cudaError_t cuda_clear_padding(const CudaQueue *queue, const Record *records, uint32_t per_row, Tensor rows)
{
    uint64_t row_bytes = rows.cols * dtype_bytes(rows.dtype);
    if (rows.rows == 0)
        return cudaSuccess;
    if (are_multiples(rows, rows, rows, row_bytes, 16))
        return clear_padding<uint4>(queue->stream, records, per_row, rows, row_bytes);
    return clear_padding<uint16_t>(queue->stream, records, per_row, rows, row_bytes);
}
