// See occupancy.h. Both curves are made of changes sorted by time.
#include "backends/occupancy.h"

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

typedef struct {
    bool touched;
    double begin_s, end_s;
} Use;

static Use *find_uses(const Plan *plan, const Simulation *simulation, Arena *arena)
{
    Use *uses = arena_alloc_array(arena, plan->buffer_count, sizeof *uses);
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const int32_t *operands = step_operands(plan, &plan->steps[i]);
        const SimulatedStep *step = &simulation->steps[i];
        for (uint32_t k = 0; k < op_info((int)plan->steps[i].op)->operand_count; k++) {
            if (operands[k] == NONE)
                continue;
            Use *use = &uses[operands[k]];
            use->begin_s = use->touched && use->begin_s < step->begin_s ? use->begin_s : step->begin_s;
            use->end_s = use->touched && use->end_s > step->end_s ? use->end_s : step->end_s;
            use->touched = true;
        }
    }
    return uses;
}

uint32_t occupancy_memory(const Plan *plan, const Simulation *simulation, Arena *arena, MemorySample **samples)
{
    const Lifetimes *lifetimes = lifetimes_create(plan, order_create(plan, arena), arena);
    const Use *uses = find_uses(plan, simulation, arena);
    Change *changes = arena_alloc_array(arena, 2 * (uint64_t)plan->buffer_count, sizeof *changes);
    uint32_t change_count = 0;
    MemorySample now = {0};
    for (uint32_t b = 0; b < plan->buffer_count; b++) {
        const Buffer *buffer = &plan->buffers[b];
        double bytes = (double)buffer_bytes(buffer);
        if (buffer->kind != BUFFER_TEMPORARY || !uses[b].touched)
            now.bytes[buffer->kind] += bytes;
        else
            changes[change_count++] = (Change){uses[b].begin_s, bytes, (int)buffer->kind};
        if (buffer->kind == BUFFER_TEMPORARY && uses[b].touched && !lifetimes_lasts(lifetimes, b))
            changes[change_count++] = (Change){uses[b].end_s, -bytes, (int)buffer->kind};
    }
    qsort(changes, change_count, sizeof *changes, compare_changes);
    MemorySample *list = arena_alloc_array(arena, (uint64_t)change_count + 1, sizeof *list);
    uint32_t count = 0;
    list[count++] = now;
    for (uint32_t i = 0; i < change_count; i++) {
        now.time_s = changes[i].time_s;
        now.bytes[changes[i].kind] += changes[i].amount;
        if (i + 1 < change_count && changes[i + 1].time_s == now.time_s)
            continue;
        if (list[count - 1].time_s == now.time_s)
            list[count - 1] = now;
        else if (memcmp(list[count - 1].bytes, now.bytes, sizeof now.bytes) != 0)
            list[count++] = now;
    }
    *samples = list;
    return count;
}

// ---- ports -----------------------------------------------------------------------------------

uint32_t occupancy_port(const Plan *plan, const Simulation *simulation, uint32_t level, Arena *arena,
                        PortSample **samples)
{
    double gpus = (double)cluster_gpus_below(&plan->cluster, level);
    Change *changes = arena_alloc_array(arena, 2 * (uint64_t)plan->step_count, sizeof *changes);
    uint32_t change_count = 0;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const Step *step = &plan->steps[i];
        double begin_s = simulation->steps[i].begin_s, end_s = simulation->steps[i].end_s;
        if (step->group == NONE || step->level > (int32_t)level || end_s <= begin_s || step->bytes <= 0)
            continue;
        int stream = (int)op_info((int)step->op)->stream;
        double bytes_per_s = step->bytes * gpus / (end_s - begin_s);
        changes[change_count++] = (Change){begin_s, bytes_per_s, stream};
        changes[change_count++] = (Change){end_s, -bytes_per_s, stream};
    }
    qsort(changes, change_count, sizeof *changes, compare_changes);
    PortSample *list = arena_alloc_array(arena, (uint64_t)change_count + 1, sizeof *list);
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
