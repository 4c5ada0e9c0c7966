// What an engine takes of a rank's memory, and where each part lies in it: the arena of the plan's buffers, then the
// engine's own. The compiler counts it, the engine allocates it: both ask here.
#ifndef HEP_ENGINE_MEMORY_H
#define HEP_ENGINE_MEMORY_H

#include "engines/sums.h"

enum {
    // Of every communicator, for each of its other members: NCCL's documented default of NCCL_BUFFSIZE. It allocates by
    // itself, and does not say how much before it has.
    NCCL_PEER_BYTES = 4 << 20,
    CUDA_FACTORS_BYTES = 64, // an optimizer step's factors
};

typedef struct {
    uint64_t offset, bytes; // multiples of BUFFER_ALIGNMENT
} MemoryPart;

typedef struct {
    MemoryPart scratch[STREAM_COUNT]; // of the stream's step that takes most; steps of a stream follow each other
    MemoryPart sums[SUM_STREAMS];     // what sums receive
    uint64_t total;                   // with the arena
} HostMemory;

void host_memory_lay_out(const Plan *plan, HostMemory *memory);

typedef struct {
    MemoryPart queues[STREAM_COUNT]; // scratch as above; in the stream that computes, cuBLAS's workspace before it
    MemoryPart maps;                 // places of experts
    MemoryPart lost;                 // rows without a place, by step
    MemoryPart factors;
    MemoryPart kept_counts; // of routes, where exchanges are padded
    MemoryPart sums[SUM_STREAMS];
    MemoryPart parts;                // of every step that sums, the places of the summands
    uint64_t parts_stride;           // from one such step to the next
    MemoryPart kept_records, kept_x; // of `records`: what is kept of an iteration
    uint64_t total;
} CudaMemory;

void cuda_memory_lay_out(const Plan *plan, bool records, CudaMemory *memory);

// What the engine that the plan names takes beside the arena, with what its libraries allocate by themselves. Saturates
// (saturating.h); 0 for abstract models.
uint64_t engine_own_bytes(const Plan *plan, EngineKind engine);
// NCCL's part of that: 0 for the host.
uint64_t engine_library_bytes(const Plan *plan, EngineKind engine);

#endif
