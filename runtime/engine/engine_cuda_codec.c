// The codecs' ops of the CUDA engine: weights and gradients as packets, and the mean of experts, as engine_host_codec.c
// has them. Kernels do the work; here is whose rows are whose.
#include "runtime/engine/engine_cuda_internal.h"

static const CudaQueue *queue_of(const CudaStep *step)
{
    return &step->engine->queues[step->stream];
}

static bool launched(cudaError_t error, Fault *fault)
{
    return cuda_check(error, "start a kernel", fault);
}

static Packing packing_of(const CudaStep *step)
{
    return engine_packing(&step->packets, step->engine->whole);
}

static Tensor packets_of(const CudaStep *step, Tensor packets)
{
    return engine_packets(&step->packets, step->engine->whole, packets);
}

bool cuda_run_encode(CudaStep *step, Fault *fault)
{
    const struct encode_tensors *t = &step->operands.encode;
    const CodecInfo *codec = codec_info(step->packets.coding->codec);
    return launched(cuda_encode(queue_of(step), codec, packing_of(step), t->own, codec->remembers ? t->sent : t->mean,
                                packets_of(step, t->packet)),
                    fault);
}

bool cuda_run_decode(CudaStep *step, Fault *fault)
{
    const struct decode_tensors *t = &step->operands.decode;
    const CodecInfo *codec = codec_info(step->packets.coding->codec);
    return launched(cuda_decode(queue_of(step), codec, packing_of(step), step->packets.own_slot,
                                packets_of(step, t->packet), t->own, t->mean,
                                codec->remembers ? t->replicas : t->gathered),
                    fault);
}

bool cuda_run_mean_expert(CudaStep *step, Fault *fault)
{
    const struct mean_expert_tensors *t = &step->operands.mean_expert;
    return launched(cuda_mean(queue_of(step), step->engine->plan->model.experts, t->own_experts, t->mean), fault);
}

bool cuda_run_encode_gradient(CudaStep *step, Fault *fault)
{
    const struct encode_gradient_tensors *t = &step->operands.encode_gradient;
    uint64_t own_count = t->gathered.rows / step->place.members;
    return launched(cuda_encode_gradient(queue_of(step), packing_of(step), step->place.own * own_count, own_count,
                                         t->gathered, t->error, packets_of(step, t->packets)),
                    fault);
}

bool cuda_run_return_packets(CudaStep *step, Fault *fault)
{
    const struct return_packets_tensors *t = &step->operands.return_packets;
    Exchange exchange = engine_packet_exchange(packets_of(step, t->packets), packets_of(step, t->received),
                                               step->place.members, step->engine->sum_counts[0]);
    return cuda_exchange(step, &exchange, fault);
}

bool cuda_run_decode_gradient(CudaStep *step, Fault *fault)
{
    const struct decode_gradient_tensors *t = &step->operands.decode_gradient;
    return launched(cuda_decode_gradient(queue_of(step), packing_of(step), step->place.own, t->gathered,
                                         packets_of(step, t->received), t->shard),
                    fault);
}
