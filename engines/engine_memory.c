// See engine_memory.h.
#include "engines/engine_memory.h"

#include "engines/cuda_scratch.h"
#include "engines/cuda_step.h"
#include "engines/engine_facts.h"
#include "engines/host_scratch.h"
#include "engines/saturating.h"
#include "engines/sums.h"
#include "ir/unroll.h"

static uint64_t align(uint64_t bytes)
{
    return saturating_mul(bytes / BUFFER_ALIGNMENT + (bytes % BUFFER_ALIGNMENT != 0), BUFFER_ALIGNMENT);
}

static MemoryPart reserve(uint64_t *total, uint64_t bytes)
{
    MemoryPart part = {*total, align(bytes)};
    *total = saturating_add(*total, part.bytes);
    return part;
}

static uint64_t host_step_bytes(const Plan *plan, const Step *step)
{
    return saturating_mul(host_step_scratch(plan, step), sizeof(float));
}

static void scratch_most(const Plan *plan, uint64_t (*step_bytes)(const Plan *, const Step *),
                         uint64_t most[STREAM_COUNT])
{
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const Step *step = &plan->steps[s];
        if (step->when == WHEN_EVERY && step->micro_batch > 0) // as in the first
            continue;
        uint64_t bytes = step_bytes(plan, step), *of = &most[step_stream(plan, step)];
        *of = bytes > *of ? bytes : *of;
    }
}

void host_memory_lay_out(const Plan *plan, HostMemory *memory)
{
    uint64_t most[STREAM_COUNT] = {0};
    *memory = (HostMemory){.total = align(plan->arena_bytes)};
    scratch_most(plan, host_step_bytes, most);
    for (uint32_t s = 0; s < STREAM_COUNT; s++)
        memory->scratch[s] = reserve(&memory->total, most[s]);
    PlanSums sums = sums_of_plan(plan);
    for (uint32_t s = 0; s < SUM_STREAMS; s++)
        memory->sums[s] = reserve(&memory->total, sums.scratch[s]);
}

void cuda_memory_lay_out(const Plan *plan, bool records, CudaMemory *memory)
{
    uint64_t most[STREAM_COUNT] = {0}, *total = &memory->total;
    PlanSums sums = sums_of_plan(plan);
    *memory = (CudaMemory){.total = align(plan->arena_bytes)};
    scratch_most(plan, cuda_step_scratch, most);
    if (engine_has_stream(plan, STREAM_COMPUTE))
        most[STREAM_COMPUTE] = saturating_add(most[STREAM_COMPUTE], CUDA_BLAS_BYTES);
    for (uint32_t s = 0; s < STREAM_COUNT; s++)
        memory->queues[s] = reserve(total, most[s]);
    memory->maps = reserve(total, engine_map_entries(plan) * plan->choice_count * sizeof(int32_t));
    memory->lost = reserve(total, plan_executions(plan) * sizeof(uint64_t));
    memory->factors = reserve(total, CUDA_FACTORS_BYTES);
    memory->kept_counts = reserve(total, engine_kept_counts(plan) * sizeof(int32_t));
    for (uint32_t s = 0; s < SUM_STREAMS; s++)
        memory->sums[s] = reserve(total, sums.scratch[s]);
    memory->parts_stride = align(sums.members_most * sizeof(void *));
    memory->parts = reserve(total, sums.steps * memory->parts_stride);
    uint64_t kept = engine_decisions_bytes(plan) / sizeof(int32_t) * RECORD_BYTES;
    memory->kept_records = reserve(total, records ? kept : 0);
    memory->kept_x = reserve(total, records ? engine_final_bytes(plan) : 0);
}

// A communicator for every group and stream that meets in it.
static bool is_first_of_communicator(const Plan *plan, uint32_t index)
{
    const Step *step = &plan->steps[index];
    for (uint32_t s = 0; s < index; s++)
        if (plan->steps[s].group == step->group && step_stream(plan, &plan->steps[s]) == step_stream(plan, step))
            return false;
    return step->group != NONE;
}

uint64_t engine_library_bytes(const Plan *plan, EngineKind engine)
{
    uint64_t peers = 0;
    for (uint32_t s = 0; s < plan->step_count && engine == ENGINE_CUDA; s++)
        if (is_first_of_communicator(plan, s))
            peers += group_size(&plan->cluster, &plan->groups[plan->steps[s].group]) - 1;
    return saturating_mul(peers, NCCL_PEER_BYTES);
}

static uint64_t beside_arena(const Plan *plan, uint64_t total)
{
    return total < SATURATED ? total - plan->arena_bytes : SATURATED;
}

uint64_t engine_own_bytes(const Plan *plan, EngineKind engine)
{
    if (plan->model.abstract)
        return 0;
    HostMemory host;
    CudaMemory cuda;
    switch (engine) {
    case ENGINE_HOST:
        host_memory_lay_out(plan, &host);
        return beside_arena(plan, host.total);
    case ENGINE_CUDA:
        cuda_memory_lay_out(plan, plan->capacity > 0, &cuda); // what gates drop is counted
        return saturating_add(beside_arena(plan, cuda.total), engine_library_bytes(plan, engine));
    case ENGINE_KIND_COUNT:
        break;
    }
    return 0;
}
