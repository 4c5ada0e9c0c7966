// Dense weights: flat bundles of the caller's, in equal shares of all ranks, gathered and returned while he waits.
#include <inttypes.h>

#include "runtime/library/weights.h"

static bool check_elements(int64_t elements, Fault *fault)
{
    return elements > 0 || fault_set(fault, FAULT_USAGE, "a bundle of %" PRId64 " elements", elements);
}

hep_status hep_dense_share(const hep_context *context, int64_t elements, int64_t *share, int64_t *first)
{
    Fault fault = {0};
    if (!library_given(context, "context", &fault) || !check_elements(elements, &fault))
        return library_end(&fault);
    const Cluster *cluster = &context->plan->cluster;
    uint64_t each = share_elements((uint64_t)elements, cluster_gpus(cluster));
    if (share)
        *share = (int64_t)each;
    if (first)
        *first = (int64_t)(share_of_rank(cluster, 0, context->rank) * each);
    return HEP_OK;
}

// What the caller gave.
typedef struct {
    const hep_tensor *share, *full;
    CallPurpose purpose;
} Bundle;

// As shares of a bundle; the own one's tensor.
static bool take_bundle(hep_context *context, const Bundle *bundle, Shares *shares, Tensor *own, Fault *fault)
{
    const hep_tensor *share = bundle->share, *full = bundle->full;
    CallPurpose purpose = bundle->purpose;
    uint32_t dtypes = 1u << HEP_F32 | 1u << HEP_F16 | 1u << HEP_BF16;
    uint64_t ranks = cluster_gpus(&context->plan->cluster);
    TensorShape of_share = {"share", 1, -1, dtypes};
    if (!tensor_take(share, &of_share, own, fault))
        return false;
    TensorShape of_full = {"full", 1, (int64_t)(ranks * own->cols),
                           purpose == CALL_OF_DENSE_GATHER ? 1u << share->dtype : dtypes};
    *shares = (Shares){.tensor_count = 1,
                       .rows = 1,
                       .slot = share_of_rank(&context->plan->cluster, 0, context->rank),
                       .crossing_count = context->dense_count,
                       .crossings = context->dense,
                       .context = context,
                       .call = {.purpose = purpose, .layer = NONE},
                       .counts = context->counts,
                       .pool = &context->caller_pool};
    if (!tensor_take(full, &of_full, &shares->tensors[0], fault))
        return false;
    shares->tensors[0].rows = ranks;
    shares->tensors[0].cols = own->cols;
    return true;
}

static void count_bytes(const Shares *shares, _Atomic uint64_t of_levels[LEVELS_MAX])
{
    uint64_t bytes = shares->tensors[0].cols * dtype_bytes(shares->tensors[0].dtype);
    for (uint32_t c = 0; c < shares->crossing_count; c++) {
        const Crossing *crossing = &shares->crossings[c];
        atomic_fetch_add(&of_levels[crossing->level], bytes * (crossing->members - 1));
        bytes *= crossing->members;
    }
}

static Tensor own_place(const Shares *shares)
{
    Tensor place = shares->tensors[0];
    place.rows = 1;
    place.data = (char *)place.data + shares->slot * place.cols * dtype_bytes(place.dtype);
    return place;
}

static bool gather(hep_context *context, const hep_tensor *share, const hep_tensor *full, Fault *fault)
{
    Shares shares;
    Tensor own;
    if (!take_bundle(context, &(Bundle){share, full, CALL_OF_DENSE_GATHER}, &shares, &own, fault))
        return false;
    Tensor place = own_place(&shares);
    if (place.data != own.data)
        memmove(place.data, own.data, own.cols * dtype_bytes(own.dtype));
    count_bytes(&shares, context->dense_gathered);
    return shares_gather(&shares, 0, fault);
}

hep_status hep_dense_gather(hep_context *context, const hep_tensor *share, const hep_tensor *full, void *stream)
{
    (void)stream;
    hep_status status;
    Fault fault = {0};
    if (!context_enter(context, &status))
        return status;
    return context_leave(context, gather(context, share, full, &fault), &fault);
}

static bool send_home(hep_context *context, const hep_tensor *full, double scale, const hep_tensor *share, Fault *fault)
{
    Shares shares;
    Tensor own;
    if (!take_bundle(context, &(Bundle){share, full, CALL_OF_DENSE_RETURN}, &shares, &own, fault))
        return false;
    count_bytes(&shares, context->dense_returned);
    if (!shares_return(&shares, fault))
        return false;
    weights_add(own_place(&shares), scale, own);
    return true;
}

hep_status hep_dense_return(hep_context *context, const hep_tensor *full, double scale, const hep_tensor *share,
                            void *stream)
{
    (void)stream;
    hep_status status;
    Fault fault = {0};
    if (!context_enter(context, &status))
        return status;
    return context_leave(context, send_home(context, full, scale, share, &fault), &fault);
}
