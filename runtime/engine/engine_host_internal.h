// The host engine's state for one rank, which its parts share: engine_host.c makes it, engine_host_ops.c and
// engine_host_codec.c execute steps with it. Everything that a step needs is resolved when the engine is created.
#ifndef HEP_ENGINE_HOST_INTERNAL_H
#define HEP_ENGINE_HOST_INTERNAL_H

#include "kernels/host/step.h"
#include "runtime/engine/engine_common.h"

typedef struct HostEngine HostEngine;
typedef struct HostStep HostStep;
typedef bool (*HostHandler)(const HostStep *step, Fault *fault);

struct HostStep {
    HostEngine *engine;
    HostHandler run;
    uint32_t index;
    StepTensors operands;
    int channel;      // of collectives
    uint32_t own;     // index in the step's group; of gradients that are packed: in that of the packets' step
    uint32_t members; // of it
    uint64_t message_rows; // of exchanges that are padded, else 0
    uint64_t own_slot; // of own experts among those held, where experts are decoded
    RouteTable route; // of route and unroute, and their backward forms
    uint32_t fanout;  // record rows a row, of the backward forms
    const int32_t *slot_of_expert;
    int32_t *decisions; // where a gate's choice is recorded, or NULL
    bool is_final;      // its output is the final hidden state
};

struct HostEngine {
    const EngineOps *ops;
    const Plan *plan;
    Comm *comm;
    EngineOptions options;
    uint64_t capacity_rows; // of the gate
    char *arena;
    HostStep *steps;
    ExpertMaps maps;
    int *channels; // [group][stream], -1 while not opened
    void *sum_scratch; // of the one stream that sums
    int32_t *sum_counts;
    uint64_t updates;  // of the optimizer, from 1
    float learning_rate;
    int64_t nonfinite_step; // see EngineResult
    int32_t *decisions;
    void *final_x;
    Tensor loss, tokens, x;
};

HostHandler host_handler(Op op); // NULL where the engine does not have the op

// Of codecs, in engine_host_codec.c: what their steps need when the engine is created, and their handlers.
bool host_codec_resolve(HostStep *step, Fault *fault) MUST_CHECK;
bool host_run_encode(const HostStep *step, Fault *fault);
bool host_run_decode(const HostStep *step, Fault *fault);
bool host_run_mean_expert(const HostStep *step, Fault *fault);
bool host_run_encode_gradient(const HostStep *step, Fault *fault);
bool host_run_return_packets(const HostStep *step, Fault *fault);
bool host_run_decode_gradient(const HostStep *step, Fault *fault);

#endif
