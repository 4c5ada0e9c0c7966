// What is in use when, over the simulated time of one rank: live bytes of its arena by kind of
// buffer, and the load of the ports its transfers pass. Reads a plan and its simulation. Pure.
#ifndef HEP_OCCUPANCY_H
#define HEP_OCCUPANCY_H

#include "ir/plan.h"
#include "ir/simulate/simulate.h"

// Holds from time_s until the next sample. Ascending in time, the first at 0; samples equal to the
// one before them are omitted.
typedef struct {
    double time_s, bytes[BUFFER_KIND_COUNT];
} MemorySample;

typedef struct {
    double time_s, bytes_per_s[STREAM_COUNT];
} PortSample;

// When a buffer counts as live. A temporary: from the start of its first step to the end of its last, or
// without end (infinite) where its contents stay readable. Others, and what no step touches: throughout.
typedef struct {
    double begin_s, end_s;
} BufferLife;

const BufferLife *occupancy_buffers(const Plan *plan, const Simulation *simulation, Arena *arena); // [buffer_count]

uint32_t occupancy_memory(const Plan *plan, const Simulation *simulation, Arena *arena, MemorySample **samples);
// Through the port of one worker of `level`, all its GPUs together. A transfer counts with its mean
// rate from begin to end, so transfers that shared the port may seem to exceed it for a moment.
uint32_t occupancy_port(const Plan *plan, const Simulation *simulation, uint32_t level, Arena *arena,
                        PortSample **samples);
// The sample with the most bytes, all kinds together.
const MemorySample *occupancy_peak(const MemorySample *samples, uint32_t count);
double memory_total(const MemorySample *sample);

#endif
