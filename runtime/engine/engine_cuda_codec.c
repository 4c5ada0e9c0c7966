// The codecs' ops of the CUDA engine: experts and gradients as packets, and the mean of experts, as engine_host_codec.c
// has them. Kernels do the work; here is whose rows are whose.
#include "runtime/engine/engine_cuda_internal.h"

bool cuda_codec_resolve(CudaStep *step, Fault *fault)
{
    PacketPlace place = {step->own_slot, step->own, step->members};
    if (!engine_packet_place(step->engine->plan, step->engine->comm->rank, step->index, &place, fault))
        return false;
    step->own_slot = place.own_slot;
    step->own = place.own;
    step->members = place.members;
    return true;
}

static const CudaQueue *queue_of(const CudaStep *step)
{
    return &step->engine->queues[step->stream];
}

static bool launched(cudaError_t error, Fault *fault)
{
    return cuda_check(error, "start a kernel", fault);
}

bool cuda_run_encode(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    return launched(cuda_encode(queue_of(step), step->engine->plan->codec_ratio, t[0], t[1], t[2], t[3]), fault);
}

bool cuda_run_decode(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    return launched(
        cuda_decode(queue_of(step), step->engine->plan->codec_ratio, step->own_slot, t[0], t[1], t[2], t[3], t[4]),
        fault);
}

bool cuda_run_mean_expert(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    return launched(cuda_mean(queue_of(step), step->engine->plan->model.experts, t[0], t[1]), fault);
}

bool cuda_run_encode_gradient(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    uint64_t own_count = t[0].rows / step->members;
    return launched(cuda_encode_gradient(queue_of(step), step->engine->plan->gradient_ratio, step->own * own_count,
                                         own_count, t[0], t[1], t[2]),
                    fault);
}

bool cuda_run_return_packets(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    Exchange exchange = engine_packet_exchange(t[0], t[1], step->members, step->engine->sum_counts);
    Comm *comm = step->engine->comm;
    return comm->device->exchange(comm, step->channel, &exchange, step->engine->streams[step->stream], fault);
}

bool cuda_run_decode_gradient(CudaStep *step, Fault *fault)
{
    const Tensor *t = step->operands;
    return launched(
        cuda_decode_gradient(queue_of(step), step->engine->plan->gradient_ratio, step->own, t[0], t[1], t[2]), fault);
}
