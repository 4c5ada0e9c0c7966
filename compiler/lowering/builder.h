// Assembles a Plan: grows its tables, hands out indices, keeps the last step of each stream's
// dependency simple to state. Knows nothing of models or costs.
#ifndef HEP_BUILDER_H
#define HEP_BUILDER_H

#include "ir/plan.h"

typedef struct Builder Builder;

// Tables grow in scratch memory of `arena`; builder_finish copies them into the plan.
Builder *builder_create(Arena *arena, Plan *plan);
void builder_finish(Builder *builder);

typedef struct {
    Dtype dtype;
    double rows, cols; // doubles, so that a capacity too large for memory is still a number
    BufferKind kind;
    int32_t layer;
} BufferShape;

// A buffer's name with the longest level's in it, whole: names that are cut short may be alike.
enum { BUFFER_NAME_MAX = 160 };

// Name is formatted; returns the buffer's index.
int32_t builder_add_buffer(Builder *builder, BufferShape shape, const char *format, ...) PRINTF_LIKE(3, 4);
// Returns the index of an equal group if there is one.
int32_t builder_add_group(Builder *builder, GroupKind kind, int32_t level, uint32_t domain);

typedef struct {
    Op op;
    int32_t layer, level, group;
    double cost_s, bytes;
    double busiest; // of the bytes, over the average; 0 where all GPUs are alike
    StepWhen when;  // of several micro-batches; WHEN_EVERY: as is usual for the op
    bool each_lap;  // what would run once per iteration runs once per lap
    // It joins the step before it on its stream, where that is alike and began no earlier than what this one waits for;
    // then it takes so much less.
    bool joins;
    double startup_s;
} StepSpec;

// Operands by name: `(StepBuffers){.gather = {.shard = a, .gathered = b}}`; every operand of the op is named, and
// absent ones are NONE. Dependencies follow from the buffers: the step waits for the last writer of what it reads and,
// for what it writes, for the last writer and all readers, where these run on other streams. Returns the step's index.
int32_t builder_add_step(Builder *builder, StepSpec step, StepBuffers operands);
// One more edge (a prefetch limit, say); ignored when both steps share a stream. What a joined step waits for, the
// first of its run does, or else it joins no more.
void builder_add_after(Builder *builder, int32_t step, int32_t earlier);

// Bytes all buffers together would need; beyond what a plan can hold when it exceeds 2^62.
double builder_total_bytes(const Builder *builder);
const Buffer *builder_buffer(const Builder *builder, int32_t index);

#endif
