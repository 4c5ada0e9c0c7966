// See order.h.
#include "runtime/library/order.h"

static MoveQueue *queue_of(const hep_context *context, MoveLane lane)
{
    return context->device->queue(context->mover, lane);
}

bool order_mark(hep_context *context, MoveLane lane, MoveMark **mark, Fault *fault)
{
    return !context->device || context->device->mark(queue_of(context, lane), mark, fault);
}

bool order_after_caller(hep_context *context, MoveLane lane, MoveMark **mark, Fault *fault)
{
    return !context->device || (order_mark(context, LANE_CALLER, mark, fault) &&
                                context->device->follow(queue_of(context, lane), *mark, fault));
}

bool order_before_caller(hep_context *context, const MoveMark *mark, Fault *fault)
{
    return !context->device || context->device->follow(queue_of(context, LANE_CALLER), mark, fault);
}

bool order_settle(hep_context *context, Fault *fault)
{
    return !context->device || (context->device->drain(queue_of(context, LANE_GATHERS), fault) &&
                                context->device->drain(queue_of(context, LANE_RETURNS), fault));
}

void order_forget(const hep_context *context, MoveMark *mark)
{
    if (context->device)
        context->device->unmark(mark);
}
