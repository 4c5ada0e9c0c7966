// Dense weights: flat bundles of the caller's, in equal shares of all ranks. Bound ones move in the background; others
// while the caller waits.
#include <inttypes.h>
#include <stdlib.h>

#include "runtime/library/coded.h"
#include "runtime/library/jobs.h"
#include "runtime/library/order.h"

enum { FLOATS = 1u << HEP_F32 | 1u << HEP_F16 | 1u << HEP_BF16 };

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

static bool take_share(const hep_context *context, const hep_tensor *share, TensorShape shape, Tensor *out,
                       Fault *fault)
{
    shape.rows = 1;
    return tensor_take(context, share, &shape, out, fault) &&
           (out->cols > 0 || fault_set(fault, FAULT_USAGE, "'%s' has no elements", shape.name));
}

// All ranks' shares, of as many elements as this one's.
static bool take_full(const hep_context *context, const hep_tensor *full, TensorShape shape, Tensor share, Tensor *out,
                      Fault *fault)
{
    shape.rows = 1;
    shape.cols = (int64_t)(cluster_gpus(&context->plan->cluster) * share.cols);
    return tensor_take(context, full, &shape, out, fault);
}

static TensorShape full_shape(const char *name, uint32_t dtypes)
{
    return (TensorShape){.name = name, .dtypes = dtypes};
}

static TensorShape own_shape(const char *name, int64_t cols)
{
    return (TensorShape){.name = name, .cols = cols, .dtypes = FLOATS};
}

// ---- bundles that are not bound --------------------------------------------------------------------

static bool check_unbound(const hep_context *context, Fault *fault)
{
    return !coding_encodes(&context->plan->dense) ||
           fault_set(fault, FAULT_MISMATCH,
                     "the plan compresses dense weights: what it remembers of a bundle belongs to hep_dense_bind");
}

// After what the caller's stream has been given.
static bool add_job(hep_context *context, const Job *job, Fault *fault)
{
    return order_after_caller(context, LANE_RETURNS, &context->given, fault) && jobs_add(context, job, fault);
}

static bool move_and_wait(hep_context *context, const Job *job, Fault *fault)
{
    return add_job(context, job, fault) && jobs_wait(context, NULL, fault) &&
           order_mark(context, LANE_RETURNS, &context->settled, fault) &&
           order_before_caller(context, context->settled, fault);
}

hep_status hep_dense_gather(hep_context *context, const hep_tensor *share, const hep_tensor *full, void *stream)
{
    hep_status status;
    Fault fault = {0};
    if (!context_enter_on(context, stream, &status))
        return status;
    Job job = {.kind = JOB_DENSE_GATHER, .number = NONE};
    bool ok = check_unbound(context, &fault) &&
              take_share(context, share, own_shape("share", -1), &job.share, &fault) &&
              take_full(context, full, full_shape("full", 1u << share->dtype), job.share, &job.all, &fault) &&
              move_and_wait(context, &job, &fault);
    return context_leave(context, ok, &fault);
}

hep_status hep_dense_return(hep_context *context, const hep_tensor *full, double scale, const hep_tensor *share,
                            void *stream)
{
    hep_status status;
    Fault fault = {0};
    if (!context_enter_on(context, stream, &status))
        return status;
    Job job = {.kind = JOB_DENSE_RETURN, .scale = scale, .number = NONE};
    bool ok = check_unbound(context, &fault) &&
              take_share(context, share, own_shape("share", -1), &job.share, &fault) &&
              take_full(context, full, full_shape("full", FLOATS), job.share, &job.all, &fault) &&
              move_and_wait(context, &job, &fault);
    return context_leave(context, ok, &fault);
}

// ---- bound bundles ---------------------------------------------------------------------------------

static bool check_number(int bundle, Fault *fault)
{
    return (bundle >= 0 && bundle < HEP_BUNDLES_MAX) ||
           fault_set(fault, FAULT_USAGE, "bundle %d: expected 0 to %d", bundle, HEP_BUNDLES_MAX - 1);
}

// NULL and a fault where none is bound.
static Bundle *find_bundle(const hep_context *context, int number, Fault *fault)
{
    if (!check_number(number, fault))
        return NULL;
    Bundle *bundle = (uint32_t)number < context->bundle_count ? context->bundles[number] : NULL;
    if (!bundle)
        fault_set(fault, FAULT_MISMATCH, "bundle %d is not bound", number);
    return bundle;
}

// The place of a number, which was not bound before.
static bool add_bundle(hep_context *context, int number, Fault *fault)
{
    uint32_t count = (uint32_t)number + 1;
    if (count > context->bundle_count) {
        Bundle **grown = realloc(context->bundles, count * sizeof(*grown));
        if (!grown)
            return fault_set(fault, FAULT_MEMORY, "out of memory for bundle %d", number);
        for (uint32_t b = context->bundle_count; b < count; b++)
            grown[b] = NULL;
        context->bundles = grown;
        context->bundle_count = count;
    }
    context->bundles[number] = calloc(1, sizeof(Bundle));
    return context->bundles[number] || fault_set(fault, FAULT_MEMORY, "out of memory for bundle %d", number);
}

// What of a bundle hep_dense_bind is given.
typedef struct {
    int number;
    const hep_tensor *share, *grad, *full;
} Binding;

static bool take_binding(const hep_context *context, const Binding *call, Bundle *out, Fault *fault)
{
    if (!take_share(context, call->share, own_shape("share", -1), &out->share, fault) ||
        !take_full(context, call->full, full_shape("full", 1u << call->share->dtype), out->share, &out->full, fault))
        return false;
    out->has_grad = call->grad;
    return !call->grad ||
           take_share(context, call->grad, own_shape("grad", (int64_t)out->share.cols), &out->grad, fault);
}

static bool bind(hep_context *context, const Binding *call, Fault *fault)
{
    Bundle taken = {0};
    if (!check_number(call->number, fault) || !take_binding(context, call, &taken, fault))
        return false;
    Bundle *bundle = (uint32_t)call->number < context->bundle_count ? context->bundles[call->number] : NULL;
    if (!bundle) {
        CodedShape shape = {.coding = &context->plan->dense,
                            .level_count = context->plan->cluster.level_count,
                            .crossing_count = context->dense_count,
                            .crossings = context->dense,
                            .rows = 1,
                            .cols = taken.share.cols,
                            .dtype = taken.share.dtype};
        shape.lane = &context->courier_lane;
        shape.moves = context->moves;
        if (!coded_make(&taken.coded, &shape, fault))
            return false;
        if (!add_bundle(context, call->number, fault)) {
            coded_free(&taken.coded);
            return false;
        }
        *context->bundles[call->number] = taken;
        return true;
    }
    pthread_mutex_lock(&context->mutex);
    bool moves = bundle->moving > 0;
    pthread_mutex_unlock(&context->mutex);
    if (moves)
        return fault_set(fault, FAULT_MISMATCH, "bundle %d is bound while it is on its way", call->number);
    if (bundle->share.cols != taken.share.cols || bundle->share.dtype != taken.share.dtype)
        return fault_set(fault, FAULT_USAGE, "bundle %d had %" PRIu64 " elements a share before, or another dtype",
                         call->number, bundle->share.cols);
    bundle->share = taken.share;
    bundle->grad = taken.grad;
    bundle->full = taken.full;
    bundle->has_grad = taken.has_grad;
    bundle->is_gathered = false;
    return true;
}

// Many parameters because they are what a bundle is bound to: hep.h.
hep_status hep_dense_bind(hep_context *context, int bundle, const hep_tensor *share, const hep_tensor *grad,
                          const hep_tensor *full)
{
    hep_status status;
    Fault fault = {0};
    if (!context_enter(context, &status))
        return status;
    Binding call = {.number = bundle, .share = share, .grad = grad, .full = full};
    return context_leave(context, bind(context, &call, &fault), &fault);
}

hep_status hep_dense_begin(hep_context *context, int bundle, int flags, void *stream)
{
    hep_status status;
    Fault fault = {0};
    if (!context_enter_on(context, stream, &status))
        return status;
    Bundle *of = find_bundle(context, bundle, &fault);
    bool ok =
        of && (!(flags & ~HEP_WEIGHTS_SAME) || fault_set(&fault, FAULT_USAGE, "unknown flags %#x", (unsigned)flags));
    if (ok) {
        bool again = flags & HEP_WEIGHTS_SAME && of->gathers > 0;
        of->gathers += !again;
        Job job = {.kind = JOB_DENSE_GATHER,
                   .whole = of->gathers <= context->plan->whole_iterations,
                   .bundle = of,
                   .share = of->share,
                   .all = of->full,
                   .number = bundle,
                   .again = again};
        ok = add_job(context, &job, &fault);
    }
    return context_leave(context, ok, &fault);
}

hep_status hep_dense_gathered(hep_context *context, int bundle, void *stream)
{
    hep_status status;
    Fault fault = {0};
    if (!context_enter_on(context, stream, &status))
        return status;
    const Bundle *of = find_bundle(context, bundle, &fault);
    bool ok = of && jobs_wait(context, of, &fault) &&
              (of->is_gathered ||
               fault_set(&fault, FAULT_MISMATCH, "hep_dense_begin did not start a gather of bundle %d", bundle)) &&
              order_before_caller(context, of->done, &fault);
    return context_leave(context, ok, &fault);
}

static bool send(hep_context *context, int number, const hep_tensor *full, double scale, Fault *fault)
{
    Bundle *of = find_bundle(context, number, fault);
    if (!of)
        return false;
    if (context->plan->pass != PASS_TRAINING)
        return fault_set(fault, FAULT_MISMATCH, "the plan has no backward pass: compile with 'pass = training'");
    if (!of->has_grad)
        return fault_set(fault, FAULT_MISMATCH, "bundle %d was bound without 'grad'", number);
    Job job = {.kind = JOB_DENSE_RETURN,
               .scale = scale,
               .whole = of->returns < context->plan->whole_iterations,
               .bundle = of,
               .share = of->grad,
               .number = number};
    uint32_t dtypes = of->coded.returns ? 1u << of->share.dtype : FLOATS;
    if (!take_full(context, full, full_shape("full_grad", dtypes), of->share, &job.all, fault) ||
        !add_job(context, &job, fault))
        return false;
    of->returns++;
    return true;
}

hep_status hep_dense_send(hep_context *context, int bundle, const hep_tensor *full_grad, double scale, void *stream)
{
    hep_status status;
    Fault fault = {0};
    if (!context_enter_on(context, stream, &status))
        return status;
    return context_leave(context, send(context, bundle, full_grad, scale, &fault), &fault);
}
