// One dense bundle on its way: in equal shares of all ranks, one after another.
#include "runtime/library/coded.h"
#include "runtime/library/dense.h"

static Shares shares_of(hep_context *context, const Job *job, CallPurpose purpose)
{
    enum { TENSORS = 1 << 10 }; // calls of a bundle have so many numbers
    uint64_t ranks = cluster_gpus(&context->plan->cluster);
    Shares shares = {.tensor_count = 1,
                     .tensors = {job->all},
                     .rows = 1,
                     .slot = share_of_rank(&context->plan->cluster, 0, context->rank),
                     .crossing_count = context->dense_count,
                     .crossings = context->dense,
                     .context = context,
                     .call = {.purpose = purpose, .layer = NONE, .pass = job->number * TENSORS},
                     .lane = &context->courier_lane,
                     .whole = job->whole};
    shares.tensors[0].rows = ranks;
    shares.tensors[0].cols = job->all.cols / ranks;
    return shares;
}

// What crossings from `first` on moved.
static void count_bytes(const Shares *shares, const Coded *coded, uint32_t first, bool gradient,
                        _Atomic uint64_t of_levels[LEVELS_MAX])
{
    uint64_t together = 1, dense = shares->tensors[0].cols * dtype_bytes(shares->tensors[0].dtype);
    for (uint32_t c = 0; c < shares->crossing_count; c++) {
        const Crossing *crossing = &shares->crossings[c];
        uint64_t packet = coded_packet_bytes(coded, c, gradient, shares->whole), bytes = packet ? packet : dense;
        if (c >= first)
            atomic_fetch_add(&of_levels[crossing->level], together * bytes * (crossing->members - 1));
        together *= crossing->members;
    }
}

static Tensor own_place(const Shares *shares)
{
    Tensor place = shares->tensors[0];
    place.rows = 1;
    place.data = (char *)place.data + shares->slot * place.cols * dtype_bytes(place.dtype);
    return place;
}

bool dense_gather(hep_context *context, const Job *job, Fault *fault)
{
    Coded none = {0}, *coded = job->bundle ? &job->bundle->coded : &none;
    Shares shares = shares_of(context, job, CALL_OF_DENSE_GATHER);
    Tensor place = own_place(&shares);
    if (place.data != job->share.data && !context->moves->copy(shares.lane->queue, place.data, job->share.data,
                                                               place.cols * dtype_bytes(place.dtype), fault))
        return false;
    coded->is_fresh = coded->is_fresh && job->again;
    shares.whole = shares.whole || (coded->encodes && !coded->has_sent);
    uint32_t whole = coded_first_whole(coded), first = coded->is_fresh ? whole : 0;
    if (!coded_gather(coded, &shares, fault) || !shares_gather(&shares, whole, fault))
        return false;
    count_bytes(&shares, coded, first, false, context->dense_gathered);
    return true;
}

bool dense_return(hep_context *context, const Job *job, Fault *fault)
{
    Coded none = {0}, *coded = job->bundle ? &job->bundle->coded : &none;
    Shares shares = shares_of(context, job, CALL_OF_DENSE_RETURN);
    if (!coded_return(coded, &shares, fault))
        return false;
    count_bytes(&shares, coded, 0, true, context->dense_returned);
    return context->moves->add(shares.lane->queue, own_place(&shares), job->scale, job->share, fault);
}
