// See builder.h. Dependencies are derived from buffer accesses, so that a lowering cannot forget one.
#include "compiler/lowering/builder.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/unroll.h"

typedef struct {
    uint32_t *items;
    uint32_t count, capacity;
} List;

// Who touched a buffer last.
typedef struct {
    int32_t writer;
    List readers; // since that write
} Access;

struct Builder {
    Arena *arena;
    Plan *plan;
    Buffer *buffers;
    Access *accesses;
    Group *groups;
    Step *steps;
    List *after;                                       // per step
    int32_t latest[STREAM_COUNT], first[STREAM_COUNT]; // step of each stream, and of the run that it is of; NONE
    uint32_t length[STREAM_COUNT];                     // of that run
    double joined_startup_s;                           // of the latest step that joined
    int32_t *operands;
    uint32_t buffer_capacity, group_capacity, step_capacity, operand_capacity;
    double total_bytes;
};

static void *grow(Arena *arena, void *old, uint32_t count, uint32_t *capacity, size_t element)
{
    if (count < *capacity)
        return old;
    uint32_t larger = *capacity ? 2 * *capacity : 64;
    void *fresh = arena_alloc_array(arena, larger, element);
    if (count)
        memcpy(fresh, old, count * element);
    *capacity = larger;
    return fresh;
}

static void list_add(Arena *arena, List *list, uint32_t item)
{
    list->items = grow(arena, list->items, list->count, &list->capacity, sizeof(*list->items));
    list->items[list->count++] = item;
}

Builder *builder_create(Arena *arena, Plan *plan)
{
    Builder *builder = arena_alloc(arena, sizeof(*builder));
    builder->arena = arena;
    builder->plan = plan;
    memset(builder->latest, 0xff, sizeof(builder->latest)); // NONE
    return builder;
}

int32_t builder_add_buffer(Builder *builder, BufferShape shape, const char *format, ...)
{
    Plan *plan = builder->plan;
    uint32_t capacity = builder->buffer_capacity;
    builder->accesses = grow(builder->arena, builder->accesses, plan->buffer_count, &capacity, sizeof(Access));
    builder->buffers =
        grow(builder->arena, builder->buffers, plan->buffer_count, &builder->buffer_capacity, sizeof(Buffer));
    char name[BUFFER_NAME_MAX];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(name, sizeof(name), format, arguments);
    va_end(arguments);
    (void)length; // used by the assertion alone, if at all
    assert(length > 0 && (size_t)length < sizeof(name));
    if (shape.rows > INT32_MAX) // row indices and counts are 32-bit: no plan can hold this
        builder->total_bytes += 0x1p63;
    builder->total_bytes += shape.rows * shape.cols * dtype_bytes(shape.dtype);
    bool huge = builder->total_bytes > 0x1p62;
    builder->buffers[plan->buffer_count] = (Buffer){
        .name = arena_copy_string(plan->arena, name, strlen(name)),
        .dtype = shape.dtype,
        .rows = huge ? 0 : (uint64_t)shape.rows,
        .cols = huge ? 0 : (uint64_t)shape.cols,
        .kind = shape.kind,
        .layer = shape.layer,
    };
    builder->accesses[plan->buffer_count].writer = NONE;
    return (int32_t)plan->buffer_count++;
}

int32_t builder_add_group(Builder *builder, GroupKind kind, int32_t level, uint32_t domain)
{
    Plan *plan = builder->plan;
    for (uint32_t i = 0; i < plan->group_count; i++) {
        const Group *group = &builder->groups[i];
        if (group->kind == kind && group->level == level && group->domain == domain)
            return (int32_t)i;
    }
    builder->groups = grow(builder->arena, builder->groups, plan->group_count, &builder->group_capacity, sizeof(Group));
    builder->groups[plan->group_count] = (Group){.kind = kind, .level = level, .domain = domain};
    return (int32_t)plan->group_count++;
}

static Stream stream_of(const Builder *builder, uint32_t step)
{
    return step_stream(builder->plan, &builder->steps[step]);
}

// The step ends the run that it joined, and begins one.
static void part(Builder *builder, int32_t step)
{
    Step *of = &builder->steps[step];
    Stream stream = stream_of(builder, (uint32_t)step);
    assert(builder->latest[stream] == step);
    of->joined = false;
    of->cost_s += builder->joined_startup_s;
    builder->first[stream] = step;
    builder->length[stream] = 1;
}

void builder_add_after(Builder *builder, int32_t step, int32_t earlier)
{
    assert(earlier < step);
    if (stream_of(builder, (uint32_t)step) == stream_of(builder, (uint32_t)earlier))
        return;
    if (builder->steps[step].joined && earlier < builder->first[stream_of(builder, (uint32_t)step)])
        step = builder->first[stream_of(builder, (uint32_t)step)];
    else if (builder->steps[step].joined)
        part(builder, step);
    List *list = &builder->after[step];
    for (uint32_t i = 0; i < list->count; i++) {
        if (stream_of(builder, list->items[i]) != stream_of(builder, (uint32_t)earlier))
            continue;
        if (list->items[i] < (uint32_t)earlier) // the later step of a stream implies the earlier
            list->items[i] = (uint32_t)earlier;
        return;
    }
    list_add(builder->arena, list, (uint32_t)earlier);
}

static void depend(Builder *builder, int32_t step, int32_t buffer, OperandRole role)
{
    Access *access = &builder->accesses[buffer];
    if (access->writer != NONE && access->writer != step)
        builder_add_after(builder, step, access->writer);
    if (role == ROLE_IN) {
        list_add(builder->arena, &access->readers, (uint32_t)step);
        return;
    }
    for (uint32_t i = 0; i < access->readers.count; i++)
        if ((int32_t)access->readers.items[i] != step)
            builder_add_after(builder, step, (int32_t)access->readers.items[i]);
    access->readers.count = 0;
    access->writer = step;
}

// What migrates weights comes before all micro-batches, what sends gradients home and what updates after them.
static StepWhen usual_when(Op op)
{
    switch (op_info((int)op)->stream) {
    case STREAM_MIGRATE:
    case STREAM_MIGRATE_OUTER:
        return WHEN_FIRST;
    case STREAM_SYNC:
    case STREAM_SYNC_OUTER:
        return WHEN_LAST;
    case STREAM_COMPUTE:
        return op == OP_ROUND || op == OP_SQUARES || op == OP_OPTIMIZER || op == OP_OUTER_GRADIENT ||
                       op == OP_OUTER_STEP
                   ? WHEN_LAST
                   : WHEN_EVERY;
    case STREAM_EXCHANGE:
    case STREAM_COUNT:
        break;
    }
    return WHEN_EVERY;
}

static StepWhen when_of(const Plan *plan, const StepSpec *spec)
{
    StepWhen when = spec->when == WHEN_EVERY ? usual_when(spec->op) : spec->when;
    Laps laps = plan_laps(plan);
    if (plan->micro_batches == 1 || plan->model.abstract)
        return WHEN_EVERY;
    if (!spec->each_lap || laps.count == 1 || when == WHEN_EVERY)
        return when;
    return laps.each == 1 ? WHEN_EVERY : when == WHEN_FIRST ? WHEN_LAP_FIRST : WHEN_LAP_LAST;
}

// Notes the step as the latest of its stream, of the run of the one before if it asks for that and they are alike.
static void add_to_run(Builder *builder, int32_t index, const StepSpec *spec)
{
    Step *step = &builder->steps[index];
    Stream stream = stream_of(builder, (uint32_t)index);
    const Step *before = builder->latest[stream] == NONE ? NULL : &builder->steps[builder->latest[stream]];
    builder->latest[stream] = index;
    step->joined = spec->joins && before && before->op == step->op && before->group == step->group &&
                   before->when == step->when && builder->length[stream] < PLAN_RUN_MAX;
    builder->first[stream] = step->joined ? builder->first[stream] : index;
    builder->length[stream] = step->joined ? builder->length[stream] + 1 : 1;
    builder->joined_startup_s = spec->startup_s;
    step->cost_s -= step->joined ? spec->startup_s : 0;
}

int32_t builder_add_step(Builder *builder, StepSpec spec, StepBuffers operands)
{
    Plan *plan = builder->plan;
    const OpInfo *info = op_info(spec.op);
    uint32_t capacity = builder->step_capacity;
    builder->after = grow(builder->arena, builder->after, plan->step_count, &capacity, sizeof(List));
    builder->steps = grow(builder->arena, builder->steps, plan->step_count, &builder->step_capacity, sizeof(Step));
    int32_t index = (int32_t)plan->step_count++;
    builder->steps[index] = (Step){
        .op = spec.op,
        .layer = spec.layer,
        .level = spec.level,
        .group = spec.group,
        .when = when_of(plan, &spec),
        .operand_first = plan->operand_count,
        .cost_s = spec.cost_s,
        .bytes = spec.bytes,
        .busiest = spec.busiest > 1 ? spec.busiest : 0,
    };
    add_to_run(builder, index, &spec);
    for (uint32_t i = 0; i < info->operand_count; i++) {
        builder->operands = grow(builder->arena, builder->operands, plan->operand_count, &builder->operand_capacity,
                                 sizeof(*builder->operands));
        builder->operands[plan->operand_count++] = operands.all[i];
        if (operands.all[i] != NONE)
            depend(builder, index, operands.all[i], info->operands[i].role);
    }
    return index;
}

double builder_total_bytes(const Builder *builder)
{
    return builder->total_bytes;
}

const Buffer *builder_buffer(const Builder *builder, int32_t index)
{
    return &builder->buffers[index];
}

static void *keep(Arena *arena, const void *items, uint32_t count, size_t element)
{
    void *copy = arena_alloc_array(arena, count ? count : 1, element);
    if (count)
        memcpy(copy, items, count * element);
    return copy;
}

static int compare_indices(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return (left > right) - (left < right);
}

void builder_finish(Builder *builder)
{
    Plan *plan = builder->plan;
    plan->buffers = keep(plan->arena, builder->buffers, plan->buffer_count, sizeof(Buffer));
    plan->groups = keep(plan->arena, builder->groups, plan->group_count, sizeof(Group));
    plan->steps = keep(plan->arena, builder->steps, plan->step_count, sizeof(Step));
    plan->operands = keep(plan->arena, builder->operands, plan->operand_count, sizeof(int32_t));
    for (uint32_t i = 0; i < plan->step_count; i++)
        plan->after_count += builder->after[i].count;
    plan->after = arena_alloc_array(plan->arena, plan->after_count ? plan->after_count : 1, sizeof(uint32_t));
    uint32_t next = 0;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        const List *list = &builder->after[i];
        if (list->count)
            qsort(list->items, list->count, sizeof(*list->items), compare_indices);
        plan->steps[i].after_first = next;
        plan->steps[i].after_count = list->count;
        if (list->count)
            memcpy(plan->after + next, list->items, list->count * sizeof(*list->items));
        next += list->count;
    }
}
