// The codecs' ops of the host engine: experts and gradients as packets, and the mean of experts. Kernels do the work;
// here is whose rows are whose.
#include "runtime/engine/engine_host_internal.h"

bool host_codec_resolve(HostStep *step, Fault *fault)
{
    PacketPlace place = {step->own_slot, step->own, step->members};
    if (!engine_packet_place(step->engine->plan, step->engine->comm->rank, step->index, &place, fault))
        return false;
    step->own_slot = place.own_slot;
    step->own = place.own;
    step->members = place.members;
    return true;
}

bool host_run_encode(const HostStep *step, Fault *fault)
{
    (void)fault;
    const Tensor *t = step->operands;
    host_encode(step->engine->plan->codec_ratio, t[0], t[1], t[2], t[3]);
    return true;
}

bool host_run_decode(const HostStep *step, Fault *fault)
{
    (void)fault;
    const Tensor *t = step->operands;
    host_decode(step->engine->plan->codec_ratio, step->own_slot, t[0], t[1], t[2], t[3], t[4]);
    return true;
}

bool host_run_mean_expert(const HostStep *step, Fault *fault)
{
    (void)fault;
    const Tensor *t = step->operands;
    host_mean(step->engine->plan->model.experts, t[0], t[1]);
    return true;
}

bool host_run_encode_gradient(const HostStep *step, Fault *fault)
{
    (void)fault;
    const Tensor *t = step->operands;
    uint64_t own_count = t[0].rows / step->members;
    host_encode_gradient(step->engine->plan->gradient_ratio, step->own * own_count, own_count, t[0], t[1], t[2]);
    return true;
}

bool host_run_return_packets(const HostStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    Exchange exchange = engine_packet_exchange(t[0], t[1], step->members, step->engine->sum_counts);
    Comm *comm = step->engine->comm;
    return comm->ops->exchange(comm, step->channel, &exchange, fault);
}

bool host_run_decode_gradient(const HostStep *step, Fault *fault)
{
    (void)fault;
    const Tensor *t = step->operands;
    host_decode_gradient(step->engine->plan->gradient_ratio, step->own, t[0], t[1], t[2]);
    return true;
}
