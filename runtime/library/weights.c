// See weights.h.
#include "runtime/library/weights.h"

#include "engines/sums.h"

void shares_block(const Shares *shares, uint32_t end, uint64_t *first, uint64_t *count)
{
    *count = 1;
    for (uint32_t c = 0; c < end; c++)
        *count *= shares->crossings[c].members;
    *first = shares->slot / *count * *count;
}

static Tensor rows_of(const Shares *shares, uint32_t tensor, uint64_t first_share, uint64_t share_count)
{
    Tensor of = shares->tensors[tensor];
    uint64_t row_bytes = of.cols * dtype_bytes(of.dtype);
    of.data = (char *)of.data + first_share * shares->rows * row_bytes;
    of.rows = share_count * shares->rows;
    return of;
}

// The tensors `first` to at most MOVE_PARTS_MAX more, at one level: what members have, and what they have together.
static MovedShards moved(const Shares *shares, uint32_t crossing, uint32_t first)
{
    MovedShards out = {.counts = shares->lane->counts};
    uint64_t inner_first, inner, outer_first, outer;
    shares_block(shares, crossing, &inner_first, &inner);
    shares_block(shares, crossing + 1, &outer_first, &outer);
    for (uint32_t t = first; t < shares->tensor_count && out.count < MOVE_PARTS_MAX; t++, out.count++) {
        out.shard[out.count] = rows_of(shares, t, inner_first, inner);
        out.gathered[out.count] = rows_of(shares, t, outer_first, outer);
    }
    return out;
}

bool shares_gather(const Shares *shares, uint32_t first, Fault *fault)
{
    for (uint32_t c = first; c < shares->crossing_count; c++) {
        Meeting meeting = shares->crossings[c].gather;
        meeting.call = shares->call;
        meeting.queue = shares->lane->queue;
        for (uint32_t t = 0; t < shares->tensor_count; t += MOVE_PARTS_MAX) {
            MovedShards parts = moved(shares, c, t);
            meeting.call.pass = shares->call.pass + (int32_t)t;
            bool ok = move_gather(&meeting, &parts, fault);
            if (!context_blame(shares->context, &shares->call, shares->crossings[c].level, ok, fault))
                return false;
        }
    }
    return true;
}

static uint64_t scatter_scratch(const MovedShards *parts, uint32_t members)
{
    uint64_t bytes = 0;
    for (uint32_t p = 0; p < parts->count; p++)
        bytes += sums_scatter_scratch(members, parts->shard[p].rows * parts->shard[p].cols, parts->shard[p].dtype);
    return bytes;
}

bool shares_return(const Shares *shares, uint32_t crossing, Fault *fault)
{
    Meeting meeting = shares->crossings[crossing].home;
    meeting.call = shares->call;
    meeting.queue = shares->lane->queue;
    for (uint32_t t = 0; t < shares->tensor_count; t += MOVE_PARTS_MAX) {
        MovedShards parts = moved(shares, crossing, t);
        meeting.call.pass = shares->call.pass + (int32_t)t;
        void *scratch = pool_take(&shares->lane->sums, scatter_scratch(&parts, meeting.place.members) + 1, fault);
        if (!scratch || !move_scatter(&meeting, &parts, scratch, fault))
            return false;
    }
    return true;
}
