// Experts' weights: who may ask for what, and a thread of the context that gathers in the plan's order as far as slots
// allow; gradients return by jobs.c. Where the communicator wants one thread alone, the caller's does both; of a GPU it
// puts them in line (order.h), and a thread looks after what is there.
#include "runtime/library/experts.h"

#include <inttypes.h>
#include <stdlib.h>

#include "runtime/base/clock.h"
#include "runtime/library/jobs.h"
#include "runtime/library/order.h"

// ---- binding ---------------------------------------------------------------------------------------

static uint32_t dtype_bit(const hep_context *context)
{
    return 1u << context->plan->model.dtype;
}

// Parameters of the experts that a rank holds; their columns add up to an expert.
static bool take_held(const hep_context *context, const Layer *layer, const hep_tensor given[], TensorShape shape,
                      Tensor out[], Fault *fault)
{
    uint64_t elements = 0, expected = layer->shares.expert_elements;
    shape.rows = (int64_t)layer->shares.block_experts;
    shape.cols = -1;
    shape.dtypes = dtype_bit(context);
    for (uint32_t p = 0; p < layer->parameters; p++) {
        if (!tensor_take(context, &given[p], &shape, &out[p], fault))
            return false;
        elements += out[p].cols;
    }
    return elements == expected ||
           fault_set(fault, FAULT_USAGE,
                     "the parameters of an expert have %" PRIu64 " elements, the plan's have %" PRIu64, elements,
                     expected);
}

static bool take_owned(const hep_context *context, const Layer *layer, const hep_tensor given[], TensorShape shape,
                       Tensor out[], Fault *fault)
{
    for (uint32_t p = 0; p < layer->parameters; p++) {
        if (!layer->whole && p > 0)
            break; // one piece of a block
        shape.rows = (int64_t)layer->shares.rows;
        shape.cols = (int64_t)(layer->whole ? layer->full[p].cols : layer->shares.cols);
        if (!tensor_take(context, &given[p], &shape, &out[p], fault))
            return false;
    }
    return true;
}

// What of a layer hep_bind is given.
typedef struct {
    int layer, count;
    const hep_tensor *own, *grads, *full;
} Binding;

static bool bind(hep_context *context, const Binding *call, Fault *fault)
{
    Layer *layer = context_layer(context, call->layer, fault);
    if (!layer || !library_given(call->own, "own", fault) || !library_given(call->full, "full", fault))
        return false;
    if (call->count < 1 || call->count > PARAMETERS_MAX)
        return fault_set(fault, FAULT_USAGE, "%d parameters of an expert: expected 1 to %d", call->count,
                         PARAMETERS_MAX);
    pthread_mutex_lock(&context->mutex);
    bool moves = layer->state == EXPERTS_QUEUED || layer->state == EXPERTS_MOVING;
    for (const Job *job = context->jobs; job; job = job->next)
        moves = moves || job->kind == JOB_RETURN;
    pthread_mutex_unlock(&context->mutex);
    if (moves)
        return fault_set(fault, FAULT_MISMATCH, "layer %d is bound while transfers are under way", call->layer);
    Layer bound = *layer; // no thread looks at it before hep_begin
    bound.parameters = (uint32_t)call->count;
    uint32_t of_grads = dtype_bit(context) | 1u << HEP_F32;
    if (!take_held(context, &bound, call->full, (TensorShape){.name = "full"}, bound.full, fault) ||
        !take_owned(context, &bound, call->own, (TensorShape){.name = "own", .dtypes = dtype_bit(context)}, bound.own,
                    fault))
        return false;
    bound.has_grads = call->grads;
    if (call->grads && !take_owned(context, &bound, call->grads, (TensorShape){.name = "grads", .dtypes = of_grads},
                                   bound.grads, fault))
        return false;
    bound.present = false;
    bound.state = EXPERTS_IDLE;
    pthread_mutex_lock(&context->mutex);
    *layer = bound;
    pthread_mutex_unlock(&context->mutex);
    return true;
}

// Many parameters because they are what a layer is bound to: hep.h.
hep_status hep_bind(hep_context *context, int layer, int count, const hep_tensor own[], const hep_tensor grads[],
                    const hep_tensor full[])
{
    hep_status status;
    Fault fault = {0};
    if (!context_enter(context, &status))
        return status;
    Binding call = {.layer = layer, .count = count, .own = own, .grads = grads, .full = full};
    return context_leave(context, bind(context, &call, &fault), &fault);
}

// ---- gathers ---------------------------------------------------------------------------------------

static bool slot_free(const hep_context *context)
{
    return context->unlimited || context->in_use < context->plan->replica_slots;
}

// Takes the next layer of the queue; the mutex is held.
static uint32_t queue_pop(hep_context *context)
{
    uint32_t layer = context->queue[context->queue_first++];
    context->layers[layer].state = EXPERTS_MOVING;
    context->in_use++;
    return layer;
}

// The mutex is held, but not while weights move.
static void gather_next(hep_context *context)
{
    uint32_t layer = queue_pop(context);
    Fault fault = {0};
    pthread_mutex_unlock(&context->mutex);
    bool ok = experts_gather(context, layer, &fault) &&
              order_mark(context, LANE_GATHERS, &context->layers[layer].arrived, &fault);
    if (!ok)
        context_fail(context, &fault);
    pthread_mutex_lock(&context->mutex);
    context->layers[layer].state = ok ? EXPERTS_READY : EXPERTS_IDLE;
    context->layers[layer].present = ok;
    pthread_cond_broadcast(&context->changed);
}

// Of a GPU: puts in line what slots allow. All ranks do so in the same calls. The mutex is held.
static void gather_ahead(hep_context *context)
{
    while (context->device && context->queue_first < context->queue_end && slot_free(context) &&
           !atomic_load(&context->failed))
        gather_next(context);
}

static void *gatherer_run(void *argument)
{
    hep_context *context = argument;
    pthread_mutex_lock(&context->mutex);
    while (!context->stopping && !atomic_load(&context->failed)) {
        if (context->queue_first == context->queue_end || !slot_free(context))
            pthread_cond_wait(&context->changed, &context->mutex);
        else
            gather_next(context);
    }
    pthread_mutex_unlock(&context->mutex);
    context_tell(context, 1u << STREAM_MIGRATE);
    return NULL;
}

enum { BEGIN_FLAGS = HEP_BACKWARD | HEP_WEIGHTS_SAME | HEP_NO_REGATHER };

static bool check_begin(const hep_context *context, int flags, Fault *fault)
{
    if (flags & ~BEGIN_FLAGS)
        return fault_set(fault, FAULT_USAGE, "unknown flags %#x", (unsigned)flags);
    if (flags & HEP_BACKWARD && context->plan->pass != PASS_TRAINING)
        return fault_set(fault, FAULT_MISMATCH, "the plan has no backward pass: compile with 'pass = training'");
    for (uint32_t k = 0; k < context->plan->choice_count; k++) {
        if (!context->layers[k].parameters)
            return fault_set(fault, FAULT_MISMATCH, "layer %" PRIu32 " is not bound", k);
        if (context->layers[k].state == EXPERTS_QUEUED || context->layers[k].state == EXPERTS_MOVING)
            return fault_set(fault, FAULT_MISMATCH, "layer %" PRIu32 " was begun before, and nobody has waited for it",
                             k);
    }
    return true;
}

// The mutex is held.
static void queue_layers(hep_context *context, int flags)
{
    uint32_t count = context->plan->choice_count;
    context->backward = flags & HEP_BACKWARD;
    context->keeps = flags & HEP_NO_REGATHER;
    context->unlimited = context->plan->replica_slots == 0 || context->keeps;
    context->queue_first = context->queue_end = context->in_use = 0;
    bool same = flags & (HEP_BACKWARD | HEP_WEIGHTS_SAME);
    context->iterations += !same;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t k = context->backward ? count - 1 - i : i;
        Layer *layer = &context->layers[k];
        layer->has_kept = layer->has_kept && same;
        layer->coded.is_fresh = layer->coded.is_fresh && same;
        if (layer->present && same) {
            layer->state = EXPERTS_READY;
            continue;
        }
        layer->present = false;
        layer->state = EXPERTS_QUEUED;
        context->queue[context->queue_end++] = k;
    }
}

// Packets of the first iterations are opened by other kernels than later ones.
static void set_pace(hep_context *context)
{
    if (context->device)
        context->device->hurry(context->mover, context->iterations > 1 + context->plan->whole_iterations);
}

hep_status hep_begin(hep_context *context, int flags, void *stream)
{
    hep_status status;
    Fault fault = {0};
    if (!context_enter_on(context, stream, &status))
        return status;
    bool ok = order_after_caller(context, LANE_GATHERS, &context->begun, &fault);
    pthread_mutex_lock(&context->mutex);
    ok = ok && check_begin(context, flags, &fault);
    if (ok) {
        queue_layers(context, flags);
        set_pace(context);
        gather_ahead(context);
    }
    pthread_cond_broadcast(&context->changed);
    pthread_mutex_unlock(&context->mutex);
    return context_leave(context, ok, &fault);
}

// A layer in line, while nothing moves and no slot is free: the caller alone could free one.
static bool is_stuck(const hep_context *context, const Layer *layer)
{
    if (layer->state != EXPERTS_QUEUED || slot_free(context))
        return false;
    for (uint32_t k = 0; k < context->plan->choice_count; k++)
        if (context->layers[k].state == EXPERTS_MOVING)
            return false;
    return true;
}

// The mutex is held.
static bool await_layer(hep_context *context, int index, Fault *fault)
{
    Layer *layer = &context->layers[index];
    while (layer->state == EXPERTS_QUEUED || layer->state == EXPERTS_MOVING) {
        if (context_has_failed(context, fault))
            return false;
        if (!context->threads_run && !context->device)
            gather_next(context);
        else if (is_stuck(context, layer))
            return fault_set(fault, FAULT_MISMATCH,
                             "layer %d waits for a slot, of which the plan has %" PRIu32
                             ": hep_used of an earlier layer was not called",
                             index, context->plan->replica_slots);
        else
            pthread_cond_wait(&context->changed, &context->mutex);
    }
    if (context_has_failed(context, fault))
        return false;
    if (layer->present && layer->state != EXPERTS_IDLE)
        return true;
    return fault_set(fault, FAULT_MISMATCH, "hep_begin did not start a gather of layer %d%s", index,
                     layer->state == EXPERTS_USED ? ", whose experts were dropped after their use" : "");
}

static bool check_pass_flags(int flags, Fault *fault)
{
    return !(flags & ~(HEP_BACKWARD | HEP_NO_REGATHER)) ||
           fault_set(fault, FAULT_USAGE, "unknown flags %#x", (unsigned)flags);
}

hep_status hep_gathered(hep_context *context, int layer, int flags, void *stream)
{
    hep_status status;
    Fault fault = {0};
    if (!context_enter_on(context, stream, &status))
        return status;
    bool ok = check_pass_flags(flags, &fault) && context_layer(context, layer, &fault);
    if (ok) {
        double begin_s = clock_now_s();
        pthread_mutex_lock(&context->mutex);
        ok = await_layer(context, layer, &fault);
        context->waited_s += clock_now_s() - begin_s;
        pthread_mutex_unlock(&context->mutex);
        ok = ok && order_before_caller(context, context->layers[layer].arrived, &fault);
    }
    return context_leave(context, ok, &fault);
}

// The mutex is held.
static bool release(hep_context *context, int index, int flags, Fault *fault)
{
    Layer *layer = &context->layers[index];
    if (layer->state != EXPERTS_READY)
        return fault_set(fault, FAULT_MISMATCH, "hep_used of layer %d without hep_gathered", index);
    bool drops = context->plan->pass == PASS_TRAINING ? layer->choice->regather : context->plan->replica_slots > 0;
    layer->state = EXPERTS_USED;
    layer->present = !drops || context->keeps || flags & HEP_NO_REGATHER;
    if (context->in_use > 0)
        context->in_use--;
    return true;
}

hep_status hep_used(hep_context *context, int layer, int flags, void *stream)
{
    hep_status status;
    Fault fault = {0};
    if (!context_enter_on(context, stream, &status))
        return status;
    bool ok = check_pass_flags(flags, &fault) && context_layer(context, layer, &fault) &&
              order_after_caller(context, LANE_GATHERS, &context->released, &fault);
    if (ok) {
        pthread_mutex_lock(&context->mutex);
        ok = release(context, layer, flags, &fault);
        if (ok)
            gather_ahead(context);
        pthread_cond_broadcast(&context->changed);
        pthread_mutex_unlock(&context->mutex);
    }
    return context_leave(context, ok, &fault);
}

// ---- gradients -------------------------------------------------------------------------------------

static bool check_return(const hep_context *context, int index, const Layer *layer, int count, Fault *fault)
{
    if (context->plan->pass != PASS_TRAINING)
        return fault_set(fault, FAULT_MISMATCH, "the plan has no backward pass: compile with 'pass = training'");
    if (!layer->parameters || !layer->has_grads)
        return fault_set(fault, FAULT_MISMATCH, "layer %d was bound without 'grads'", index);
    return (uint32_t)count == layer->parameters ||
           fault_set(fault, FAULT_USAGE, "%d gradients: layer %d was bound with %" PRIu32 " parameters", count, index,
                     layer->parameters);
}

static bool check_columns(const Layer *layer, const Job *job, Fault *fault)
{
    for (uint32_t p = 0; p < layer->parameters; p++)
        if (job->full[p].cols != layer->full[p].cols)
            return fault_set(fault, FAULT_USAGE, "gradient %" PRIu32 " has %" PRIu64 " columns, the parameter %" PRIu64,
                             p, job->full[p].cols, layer->full[p].cols);
    return true;
}

// What of a layer hep_return is given.
typedef struct {
    int layer, count;
    const hep_tensor *full;
    double scale;
} Returning;

static bool begin_return(hep_context *context, const Returning *call, Fault *fault)
{
    const Layer *layer = context_layer(context, call->layer, fault);
    if (!layer || !library_given(call->full, "full_grads", fault) ||
        !check_return(context, call->layer, layer, call->count, fault))
        return false;
    Job job = {.kind = JOB_RETURN,
               .layer = (uint32_t)call->layer,
               .scale = call->scale,
               .whole = context_iteration(context) < context->plan->whole_iterations};
    return take_held(context, layer, call->full, (TensorShape){.name = "full_grads"}, job.full, fault) &&
           check_columns(layer, &job, fault) && jobs_add(context, &job, fault);
}

// Many parameters because they are what a return has: hep.h.
hep_status hep_return(hep_context *context, int layer, int count, const hep_tensor full_grads[], double scale,
                      void *stream)
{
    hep_status status;
    Fault fault = {0};
    if (!context_enter_on(context, stream, &status))
        return status;
    Returning call = {.layer = layer, .count = count, .full = full_grads, .scale = scale};
    bool ok =
        order_after_caller(context, LANE_RETURNS, &context->given, &fault) && begin_return(context, &call, &fault);
    return context_leave(context, ok, &fault);
}

hep_status hep_finish(hep_context *context, void *stream)
{
    hep_status status;
    Fault fault = {0};
    if (!context_enter_on(context, stream, &status))
        return status;
    bool ok = jobs_wait(context, NULL, &fault) && order_mark(context, LANE_RETURNS, &context->settled, &fault) &&
              order_before_caller(context, context->settled, &fault);
    return context_leave(context, ok, &fault);
}

// ---- the threads -----------------------------------------------------------------------------------

// The step of the plan that a call of this context stands for, as far as that tells.
static void blame(const hep_context *context, const CommCall *call, Fault *fault)
{
    const Layer *layer = call->layer >= 0 ? &context->layers[call->layer] : NULL;
    bool weights = call->purpose == CALL_OF_GATHER || call->purpose == CALL_OF_RETURN;
    if (!layer || (weights ? layer->crossing_count == 0 : (uint32_t)call->pass >= layer->hop_count))
        return;
    uint32_t level = weights ? layer->crossings[0].level : layer->hops[call->pass].level;
    (void)context_blame(context, call, level, false, fault);
}

// Looks after what is in line on a GPU: nobody else waits for it, and what has failed there would not end.
static void *watcher_run(void *argument)
{
    static const double every_s = 0.02;
    hep_context *context = argument;
    bool ok = true;
    pthread_mutex_lock(&context->mutex);
    while (ok && !context->stopping && !atomic_load(&context->failed)) {
        struct timespec until = clock_timespec(clock_now_s() + every_s);
        pthread_cond_timedwait(&context->changed, &context->mutex, &until);
        Fault fault = {0};
        CommCall call = {.layer = NONE};
        pthread_mutex_unlock(&context->mutex);
        ok = context->device->look(context->mover, &call, &fault);
        if (!ok) {
            blame(context, &call, &fault);
            context_fail(context, &fault);
        }
        pthread_mutex_lock(&context->mutex);
    }
    pthread_mutex_unlock(&context->mutex);
    return NULL;
}

bool experts_start(hep_context *context, Fault *fault)
{
    if (context->device) {
        context->is_watched = pthread_create(&context->watcher, NULL, watcher_run, context) == 0;
        return context->is_watched || fault_set(fault, FAULT_MEMORY, "a thread cannot be started");
    }
    if (context->link.handle->one_thread)
        return true;
    if (pthread_create(&context->gatherer, NULL, gatherer_run, context) != 0)
        return fault_set(fault, FAULT_MEMORY, "a thread cannot be started");
    if (!jobs_start(context, fault)) {
        pthread_mutex_lock(&context->mutex);
        context->stopping = true;
        pthread_cond_broadcast(&context->changed);
        pthread_mutex_unlock(&context->mutex);
        pthread_join(context->gatherer, NULL);
        return false;
    }
    context->threads_run = true;
    return true;
}

void experts_stop(hep_context *context)
{
    pthread_mutex_lock(&context->mutex);
    context->stopping = true;
    pthread_cond_broadcast(&context->changed);
    pthread_mutex_unlock(&context->mutex);
    if (context->threads_run)
        pthread_join(context->gatherer, NULL);
    if (context->is_watched)
        pthread_join(context->watcher, NULL);
    jobs_stop(context);
}
