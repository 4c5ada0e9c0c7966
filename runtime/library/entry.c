// Who may be inside a context, and what becomes of a failure: public functions of contexts begin and end here.
#include <inttypes.h>
#include <stdlib.h>

#include "runtime/library/context.h"

// Ranks in faults are the plan's; what callers see are processes'.
int64_t context_process(const hep_context *context, int64_t rank)
{
    const Cluster *cluster = &context->plan->cluster;
    if (rank < 0 || (uint64_t)rank >= cluster_gpus(cluster))
        return -1;
    return (int64_t)cluster_process_of_rank(cluster, (uint64_t)rank);
}

void context_fail(hep_context *context, const Fault *fault)
{
    pthread_mutex_lock(&context->mutex);
    if (context->fault.kind == FAULT_NONE) {
        context->fault = *fault;
        if (context->fault.rank < 0)
            context->fault.rank = (int64_t)context->rank;
    }
    Fault cause = context->fault;
    bool first = !atomic_exchange(&context->failed, true);
    pthread_cond_broadcast(&context->changed);
    pthread_mutex_unlock(&context->mutex);
    if (first)
        context->comm->ops->abort(context->comm, &cause);
}

bool context_has_failed(const hep_context *context, Fault *fault)
{
    if (!atomic_load(&context->failed))
        return false;
    *fault = context->fault;
    return true;
}

static hep_status status_of(hep_context *context)
{
    pthread_mutex_lock(&context->mutex);
    hep_status status = library_status(&context->fault);
    pthread_mutex_unlock(&context->mutex);
    return status;
}

bool context_enter(hep_context *context, hep_status *status)
{
    Fault fault = {0};
    if (!context) {
        fault_set(&fault, FAULT_USAGE, "'context' is NULL");
        *status = library_end(&fault);
        return false;
    }
    if (atomic_exchange(&context->busy, true)) {
        fault_set(&fault, FAULT_MISMATCH, "another thread is inside a call of this context");
        context_fail(context, &fault); // unless it has before
        *status = status_of(context);
        return false;
    }
    if (!atomic_load(&context->failed)) {
        if (context->device)
            context->device->enter(context->mover);
        return true;
    }
    atomic_store(&context->busy, false);
    *status = status_of(context);
    return false;
}

bool context_enter_on(hep_context *context, void *stream, hep_status *status)
{
    Fault fault = {0};
    if (!context_enter(context, status))
        return false;
    if (!context->device || context->device->attach(context->mover, stream, &fault))
        return true;
    *status = context_leave(context, false, &fault);
    return false;
}

void context_tell(hep_context *context, uint32_t streams)
{
    const LinkOps *ops = context->link.handle->ops;
    bool of_caller = streams & CALLER_STREAMS;
    if (ops->tell && context->comm && atomic_load(&context->failed))
        ops->tell(context->comm, streams, context->ahead, of_caller ? context->ahead_count : 0);
}

void context_expect(hep_context *context, const Layer *layer, bool back)
{
    context->ahead_count = layer->hop_count;
    for (uint32_t h = 0; h < layer->hop_count; h++)
        context->ahead[back ? layer->hop_count - 1 - h : h] = layer->hops[h].meeting.channel;
}

hep_status context_leave(hep_context *context, bool ok, Fault *fault)
{
    if (!ok)
        context_fail(context, fault);
    context_tell(context, context->threads_run ? CALLER_STREAMS : ALL_STREAMS);
    if (context->device)
        context->device->leave(context->mover);
    context->ahead_count = 0;
    atomic_store(&context->busy, false);
    return atomic_load(&context->failed) ? status_of(context) : HEP_OK;
}

void hep_last_error(const hep_context *context, hep_error *error)
{
    Fault fault = {0}, ignored = {0};
    hep_error filled;
    if (context) {
        hep_context *locked = (hep_context *)context; // what is locked is not changed
        pthread_mutex_lock(&locked->mutex);
        fault = context->fault;
        pthread_mutex_unlock(&locked->mutex);
        if (fault.kind != FAULT_NONE) {
            fault.rank = context_process(context, fault.rank);
            fault.peer = context_process(context, fault.peer);
        }
    } else {
        fault = *library_last();
    }
    library_describe(&fault, &filled);
    if (!library_give(error, &filled, sizeof(filled), &ignored))
        return; // there is nowhere to say so
}

void hep_abort(hep_context *context, const char *why)
{
    if (!context)
        return;
    Fault fault = {0};
    fault_set(&fault, FAULT_INTERRUPTED, "%s", why ? why : "the caller aborted");
    context_fail(context, &fault);
    if (atomic_exchange(&context->busy, true))
        return; // the call under way tells
    context_tell(context, context->threads_run ? CALLER_STREAMS : ALL_STREAMS);
    atomic_store(&context->busy, false);
}

int hep_rank(const hep_context *context)
{
    return context ? context->link.handle->rank : -1;
}

uint64_t context_iteration(const hep_context *context)
{
    return context->iterations > 0 ? context->iterations - 1 : 0;
}

Layer *context_layer(hep_context *context, int layer, Fault *fault)
{
    return library_choice(context->plan, layer, fault) ? &context->layers[layer] : NULL;
}

// The op of the schedule that a call stands for.
static Op op_of(CallPurpose purpose)
{
    static const Op ops[] = {[CALL_OF_DISPATCH] = OP_DISPATCH,
                             [CALL_OF_DISPATCH_FINISH] = OP_DISPATCH,
                             [CALL_OF_COMBINE] = OP_COMBINE,
                             [CALL_OF_COMBINE_BACKWARD] = OP_DISPATCH,
                             [CALL_OF_DISPATCH_BACKWARD] = OP_COMBINE_BACKWARD,
                             [CALL_OF_GATHER] = OP_GATHER,
                             [CALL_OF_RETURN] = OP_REDUCE_SCATTER};
    return (size_t)purpose < COUNT_OF(ops) ? ops[purpose] : (Op)0;
}

bool context_blame(const hep_context *context, const CommCall *call, uint32_t level, bool ok, Fault *fault)
{
    const Plan *plan = context->plan;
    bool last = call->purpose == CALL_OF_COMBINE_BACKWARD; // rows go out a second time
    if (ok || call->layer == NONE || fault->rank >= 0 || fault->step >= 0)
        return ok;
    for (uint32_t s = 0; s < plan->step_count && (last || fault->step < 0); s++) {
        const Step *step = &plan->steps[s];
        bool weights = step->op == OP_GATHER || step->op == OP_REDUCE_SCATTER || step->op == OP_RETURN_PACKETS;
        int32_t sent = step_operands(plan, step)[0];
        Op op = step->op == OP_RETURN_PACKETS ? OP_REDUCE_SCATTER : step->op;
        if (op == op_of(call->purpose) && step->layer == (int32_t)plan->choices[call->layer].layer &&
            step->level == (int32_t)level && (!weights || context->kinds[sent] == WEIGHT_EXPERTS))
            fault->step = s;
    }
    return ok;
}

void *pool_take(Pool *pool, uint64_t bytes, Fault *fault)
{
    const MoveOps *moves = pool->moves ? pool->moves : &host_moves;
    if (bytes <= pool->bytes && pool->memory)
        return pool->memory;
    if (moves->of_device && pool->memory && pool->outgrown_count < OUTGROWN_MAX) {
        pool->outgrown[pool->outgrown_count++] = pool->memory;
        bytes = bytes > 2 * pool->bytes ? bytes : 2 * pool->bytes; // so that this does not happen often
    } else {
        moves->release(pool->memory);
    }
    pool->bytes = bytes + 64;
    pool->memory = moves->allocate(pool->bytes);
    if (!pool->memory) {
        pool->bytes = 0;
        fault_set(fault, FAULT_MEMORY, "out of memory for %" PRIu64 " bytes of scratch", bytes);
    }
    return pool->memory;
}

void pool_free(Pool *pool)
{
    const MoveOps *moves = pool->moves ? pool->moves : &host_moves;
    while (pool->outgrown_count)
        moves->release(pool->outgrown[--pool->outgrown_count]);
    moves->release(pool->memory);
    pool->memory = NULL;
    pool->bytes = 0;
}
