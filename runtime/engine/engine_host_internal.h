// The host engine's state for one rank, which its parts share: engine_host.c makes it, engine_host_ops.c and
// engine_host_codec.c execute steps with it. Everything that a step needs is resolved when the engine is created.
#ifndef HEP_ENGINE_HOST_INTERNAL_H
#define HEP_ENGINE_HOST_INTERNAL_H

#include "engines/engine_memory.h"
#include "runtime/engine/engine_common.h"

typedef struct HostEngine HostEngine;
typedef struct HostStep HostStep;
typedef bool (*HostHandler)(const HostStep *step, Fault *fault);

// What a step needs beside its operands.
struct HostStep {
    HostEngine *engine;
    HostHandler run;
    uint32_t index;
    StepTensors operands;
    Tensor work;        // its scratch; nothing where the op takes none
    int channel;        // of steps that meet others
    MessagePlace place; // among those; of gradients that are packed, among those that the packets travel between
    StepPackets packets;
    union { // of the op; of others
        StepRoute route;
        const int32_t *slot_of_expert;
        int32_t *decisions;    // where its choice is recorded, or NULL
        bool is_final;         // its output is the final hidden state
        ModelRanges undecayed; // of optimizer steps
        PackedRows packed;     // of steps that pack rows or unpack them
    } of;
};

struct HostEngine {
    const EngineOps *ops;
    const Plan *plan;
    Comm *comm;
    EngineOptions options;
    uint64_t capacity_rows; // of the gate
    HostMemory layout;
    char *memory; // one allocation: the plan's arena, then the engine's own
    HostStep *steps;
    ExpertMaps maps;
    WeightKind *kinds;                   // [buffers]
    int *channels;                       // [group][stream], -1 while not opened
    int32_t *sum_counts[SUM_STREAMS];    // in one allocation, with those of gathers:
    int32_t *gather_counts[SUM_STREAMS]; // of streams that gather
    uint64_t updates;                    // of the optimizer, from 1
    float learning_rate;
    bool whole;             // packets hold whole values in this iteration
    int64_t nonfinite_step; // see EngineResult
    int32_t *decisions;
    void *final_x;
    Tensor loss, tokens, x; // of the first micro-batch; x of the last
};

bool host_exchange(const HostStep *step, const Exchange *exchange, Fault *fault) MUST_CHECK;

// One for every op, in engine_host_ops.c and engine_host_codec.c.
#define HEP_OP(name, text, ...) bool host_run_##text(const HostStep *step, Fault *fault);
#include "ir/ops.def"

#endif
