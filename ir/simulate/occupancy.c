// See occupancy.h. Both curves are made of changes sorted by time.
#include "ir/simulate/occupancy.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ir/order.h"

typedef struct {
    double time_s, amount; // added to the value of `kind`
    int kind;
} Change;

static int compare_changes(const void *left, const void *right)
{
    const Change *a = left, *b = right;
    if (a->time_s != b->time_s)
        return a->time_s < b->time_s ? -1 : 1;
    return (a->amount > b->amount) - (a->amount < b->amount);
}

// ---- memory ----------------------------------------------------------------------------------

const BufferLife *occupancy_buffers(const Plan *plan, const Simulation *simulation, Arena *arena)
{
    const Lifetimes *lifetimes = lifetimes_create(plan, order_create(plan, arena), arena);
    BufferLife *lives = arena_alloc_array(arena, plan->buffer_count, sizeof(*lives));
    bool *touched = arena_alloc_array(arena, plan->buffer_count, sizeof(*touched));
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const int32_t *operands = step_operands(plan, &plan->steps[i]);
        const SimulatedStep *step = &simulation->last->steps[i];
        for (uint32_t k = 0; k < op_info((int)plan->steps[i].op)->operand_count; k++) {
            if (operands[k] == NONE)
                continue;
            BufferLife *life = &lives[operands[k]];
            bool again = touched[operands[k]];
            life->begin_s = again && life->begin_s < step->begin_s ? life->begin_s : step->begin_s;
            life->end_s = again && life->end_s > step->end_s ? life->end_s : step->end_s;
            touched[operands[k]] = true;
        }
    }
    for (uint32_t b = 0; b < plan->buffer_count; b++) {
        bool throughout = plan->buffers[b].kind != BUFFER_TEMPORARY || !touched[b];
        if (throughout)
            lives[b].begin_s = 0;
        if (throughout || lifetimes_lasts(lifetimes, b))
            lives[b].end_s = INFINITY;
    }
    return lives;
}

uint32_t occupancy_memory(const Plan *plan, const Simulation *simulation, Arena *arena, MemorySample **samples)
{
    const BufferLife *lives = occupancy_buffers(plan, simulation, arena);
    Change *changes = arena_alloc_array(arena, 2 * (uint64_t)plan->buffer_count, sizeof(*changes));
    uint32_t change_count = 0;
    MemorySample now = {0};
    for (uint32_t b = 0; b < plan->buffer_count; b++) {
        const Buffer *buffer = &plan->buffers[b];
        double bytes = (double)buffer_bytes(buffer);
        if (lives[b].begin_s > 0 || !isinf(lives[b].end_s))
            changes[change_count++] = (Change){lives[b].begin_s, bytes, (int)buffer->kind};
        else
            now.bytes[buffer->kind] += bytes;
        if (!isinf(lives[b].end_s))
            changes[change_count++] = (Change){lives[b].end_s, -bytes, (int)buffer->kind};
    }
    qsort(changes, change_count, sizeof(*changes), compare_changes);
    MemorySample *list = arena_alloc_array(arena, (uint64_t)change_count + 1, sizeof(*list));
    uint32_t count = 0;
    list[count++] = now;
    for (uint32_t i = 0; i < change_count; i++) {
        now.time_s = changes[i].time_s;
        now.bytes[changes[i].kind] += changes[i].amount;
        if (i + 1 < change_count && changes[i + 1].time_s == now.time_s)
            continue;
        if (list[count - 1].time_s == now.time_s)
            list[count - 1] = now;
        else if (memcmp(list[count - 1].bytes, now.bytes, sizeof(now.bytes)) != 0)
            list[count++] = now;
    }
    *samples = list;
    return count;
}

double memory_total(const MemorySample *sample)
{
    double total = 0;
    for (int k = 0; k < BUFFER_KIND_COUNT; k++)
        total += sample->bytes[k];
    return total;
}

const MemorySample *occupancy_peak(const MemorySample *samples, uint32_t count)
{
    const MemorySample *peak = samples;
    for (uint32_t i = 1; i < count; i++)
        if (memory_total(&samples[i]) > memory_total(peak))
            peak = &samples[i];
    return peak;
}

// ---- ports -----------------------------------------------------------------------------------

uint32_t occupancy_port(const Plan *plan, const Simulation *simulation, uint32_t level, Arena *arena,
                        PortSample **samples)
{
    double gpus = (double)cluster_gpus_below(&plan->cluster, level);
    Change *changes = arena_alloc_array(arena, 2 * (uint64_t)plan->step_count, sizeof(*changes));
    uint32_t change_count = 0;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const Step *step = &plan->steps[i];
        double begin_s = simulation->last->steps[i].begin_s, end_s = simulation->last->steps[i].end_s;
        if (step->group == NONE || step->level > (int32_t)level || end_s <= begin_s || step->bytes <= 0)
            continue;
        int stream = (int)step_stream(plan, step);
        double bytes_per_s = step->bytes * gpus / (end_s - begin_s);
        changes[change_count++] = (Change){begin_s, bytes_per_s, stream};
        changes[change_count++] = (Change){end_s, -bytes_per_s, stream};
    }
    qsort(changes, change_count, sizeof(*changes), compare_changes);
    PortSample *list = arena_alloc_array(arena, (uint64_t)change_count + 1, sizeof(*list));
    uint32_t count = 1;
    PortSample now = {0};
    for (uint32_t i = 0; i < change_count; i++) {
        // A stream has one transfer at a time: its rate is set, not added to, and is 0 after an end.
        now.time_s = changes[i].time_s;
        now.bytes_per_s[changes[i].kind] = changes[i].amount > 0 ? changes[i].amount : 0;
        if (list[count - 1].time_s != now.time_s)
            count++;
        list[count - 1] = now;
    }
    *samples = list;
    return count;
}
