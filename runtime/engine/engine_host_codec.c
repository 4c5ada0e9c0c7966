// The codecs' ops of the host engine: experts and gradients as packets, and the mean of experts. Kernels do the work;
// here is whose rows are whose.
#include "runtime/engine/engine_host_internal.h"

bool host_run_encode(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct encode_tensors *t = &step->operands.encode;
    const Plan *plan = step->engine->plan;
    const CodecInfo *codec = codec_info(plan->codec);
    host_encode(codec, plan_packing(plan), t->own_experts, codec->remembers ? t->sent : t->mean, t->packet);
    return true;
}

bool host_run_decode(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct decode_tensors *t = &step->operands.decode;
    const Plan *plan = step->engine->plan;
    const CodecInfo *codec = codec_info(plan->codec);
    host_decode(codec, plan_packing(plan), step->of.own_slot, t->packet, t->own, t->mean,
                codec->remembers ? t->replicas : t->experts);
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
    host_encode_gradient(plan_gradient_packing(step->engine->plan), step->place.own * own_count, own_count, t->gathered,
                         t->error, t->packets);
    return true;
}

bool host_run_return_packets(const HostStep *step, Fault *fault)
{
    const struct return_packets_tensors *t = &step->operands.return_packets;
    Exchange exchange =
        engine_packet_exchange(t->packets, t->received, step->place.members, step->engine->sum_counts[0]);
    return host_exchange(step, &exchange, fault);
}

bool host_run_decode_gradient(const HostStep *step, Fault *fault)
{
    (void)fault;
    const struct decode_gradient_tensors *t = &step->operands.decode_gradient;
    host_decode_gradient(plan_gradient_packing(step->engine->plan), step->place.own, t->gathered, t->received,
                         t->shard);
    return true;
}
