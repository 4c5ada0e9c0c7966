// The codecs' ops of the host engine: weights and gradients as packets, and the mean of experts. Kernels do the work;
// here is whose rows are whose.
#include "runtime/engine/engine_host_internal.h"

static Packing packing_of(const HostStep *step)
{
    return engine_packing(&step->packets, step->engine->whole);
}

static Tensor packets_of(const HostStep *step, Tensor packets)
{
    return engine_packets(&step->packets, step->engine->whole, packets);
}

bool host_run_encode(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct encode_tensors *t = &step->operands.encode;
    const CodecInfo *codec = codec_info(step->packets.coding->codec);
    host_encode(codec, packing_of(step), t->own, codec->remembers ? t->sent : t->mean, packets_of(step, t->packet));
    return true;
}

bool host_run_decode(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct decode_tensors *t = &step->operands.decode;
    const CodecInfo *codec = codec_info(step->packets.coding->codec);
    host_decode(codec, packing_of(step), step->packets.own_slot, packets_of(step, t->packet), t->own, t->mean,
                codec->remembers ? t->replicas : t->gathered);
    return true;
}

bool host_run_mean_expert(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct mean_expert_tensors *t = &step->operands.mean_expert;
    host_mean(step->engine->plan->model.experts, t->own_experts, t->mean);
    return true;
}

bool host_run_encode_gradient(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct encode_gradient_tensors *t = &step->operands.encode_gradient;
    uint64_t own_count = t->gathered.rows / step->place.members;
    host_encode_gradient(packing_of(step), step->place.own * own_count, own_count, t->gathered, t->error,
                         packets_of(step, t->packets));
    return true;
}

bool host_run_return_packets(const HostStep *step, Fault *fault)
{
    const struct return_packets_tensors *t = &step->operands.return_packets;
    Exchange exchange = engine_packet_exchange(packets_of(step, t->packets), packets_of(step, t->received),
                                               step->place.members, step->engine->sum_counts[0]);
    return host_exchange(step, &exchange, fault);
}

bool host_run_decode_gradient(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct decode_gradient_tensors *t = &step->operands.decode_gradient;
    host_decode_gradient(packing_of(step), step->place.own, t->gathered, packets_of(step, t->received), t->shard);
    return true;
}
