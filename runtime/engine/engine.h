// An engine executes the steps of a plan for one rank: it owns the rank's memory, knows how each op
// is done and calls the communicator for those that talk. One table of functions per kind.
#ifndef HEP_ENGINE_H
#define HEP_ENGINE_H

#include <stdatomic.h>

#include "kernels/host/kernels.h"
#include "runtime/comm/comm_threads.h"

typedef struct Engine Engine; // one rank's

typedef struct {
    // Called by `create` alone: writes what a buffer of a layer's weights, or of what codecs remember of them, holds
    // before the first iteration. False: nothing is known of it. NULL: all will be written from outside.
    bool (*fill)(const void *context, WeightKind kind, int32_t layer, Tensor out);
    const void *fill_context;
    Routing routing;
    TrainingSettings training;  // of training plans: what an optimizer step does
    bool graphs;                // replay iterations as a whole where that can be
    bool begins;                // StepTime.start_s is when the step was seen to begin, even where looking takes time
    const atomic_bool *stopped; // ends `create` soon when it becomes true; may be NULL
    bool record;                // keep gate decisions and the final hidden state of the last iteration
} EngineOptions;

typedef struct {
    const int32_t *tokens; // [micro-batches][batch][sequence + 1], copied; not looked at where the plan takes none
    uint64_t update;       // from 1: which of the optimizer
    float learning_rate;   // of that update
    bool whole;            // packets hold whole values (Plan.whole_iterations)
} EngineIteration;

// What the last iteration left behind; pointers are the engine's, NULL where nothing was recorded. Of several
// micro-batches tokens, decisions and x are those of the last.
typedef struct {
    bool has_loss;
    double loss;              // mean over the micro-batches
    double last_loss;         // of the last one
    int64_t nonfinite_step;   // first step whose output was not finite when the loss was found not to be; -1: not known
    const int32_t *tokens;    // [batch][sequence + 1]
    const int32_t *decisions; // [plan->choice_count][tokens][top_k], -1 for a dropped record
    const int32_t *all_decisions; // the same of all micro-batches, one after another
    Tensor x;                     // [tokens][hidden], before the final norm
} EngineResult;

typedef struct {
    double start_s, end_s; // CLOCK_MONOTONIC; start is after the steps it waits for, at once unless `begins` is set
} StepTime;

// What an engine has whose memory is a device's.
typedef struct {
    // What is free of the memory of the device of this rank, or of this process.
    uint64_t (*free_bytes)(const Comm *comm);
    // The communicator of a rank whose peers are threads of this process. `leave` takes NULL.
    Comm *(*join)(ThreadWorld *world, uint64_t rank, Fault *fault);
    void (*leave)(Comm *comm);
} EngineDevice;

// What an engine has that enqueues steps: they are done when `finish` returns, not when `execute` does.
typedef struct {
    // Enqueues all steps at once. False without a fault: they are to be executed one by one.
    bool (*replay)(Engine *engine, const bool *left_out, Fault *fault);
    // Waits until a step that was enqueued is done.
    bool (*complete)(Engine *engine, uint32_t step, Fault *fault);
    // All steps were enqueued: waits until they are done, and replaces the times of those that it measured itself. A
    // fault may name rank and step.
    bool (*finish)(Engine *engine, StepTime times[], Fault *fault);
    // Why `replay` does not, or NULL: reported.
    const char *(*replay_refusal)(const Engine *engine);
    // Why experts are not multiplied by the device's fastest instructions, or NULL: reported.
    const char *(*expert_refusal)(const Engine *engine);
} EngineQueue;

// Every function is there; a part that is NULL is one that the engine does without.
typedef struct {
    const char *name;
    EngineKind kind;            // whose memory engines/ counts
    const EngineDevice *device; // NULL: its memory is the host's, its communicators are those of threads and processes
    const EngineQueue *queue;   // NULL: a step is done when `execute` returns
    // Whether this build and this machine have what the engine needs: else false and a fault.
    bool (*available)(Fault *fault);
    // Derived from the engine's own dispatch: there is no second list.
    bool (*supports)(Op op);
    // Memory that `create` takes for one rank of the plan; UINT64_MAX when it cannot be addressed.
    uint64_t (*bytes)(const Plan *plan, const EngineOptions *options);
    // Allocates everything, fills the weights and opens the channels. The plan is verified and has
    // supported ops only. NULL and a fault on failure.
    Engine *(*create)(const Plan *plan, Comm *comm, const EngineOptions *options, Fault *fault);
    void (*destroy)(Engine *engine); // takes NULL
    // Fills the inputs of an iteration. No step is under way.
    void (*begin)(Engine *engine, const EngineIteration *iteration);
    // Steps of different streams may run at the same time, in the order that the plan gives.
    bool (*execute)(Engine *engine, uint32_t step, Fault *fault);
    EngineResult (*result)(const Engine *engine);
    // Copies `bytes` of a buffer, from `offset` on, out or in. No step is under way.
    bool (*read)(const Engine *engine, uint32_t buffer, uint64_t offset, uint64_t bytes, void *out, Fault *fault);
    bool (*write)(Engine *engine, uint32_t buffer, uint64_t offset, uint64_t bytes, const void *from, Fault *fault);
} EngineOps;

extern const EngineOps host_engine;
// Outside of its plug-in its name, `available`, which is false, and `supports` alone: engine_cuda_named.c.
extern const EngineOps cuda_engine;

const EngineOps *engine_find(const char *name); // NULL for an unknown name
const char *engine_name(size_t index);          // NULL beyond the last engine

#endif
