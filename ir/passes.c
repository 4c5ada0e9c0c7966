// See passes.h. Where a lowering has done a pass's work already (gathers stand as far ahead as they may run, sums where
// their last summand is), leaving the pass out undoes that.
#include "ir/passes.h"

#include <string.h>

#include "ir/memory.h"
#include "ir/order.h"
#include "ir/unroll.h"

static Stream stream_of(const Plan *plan, uint32_t step)
{
    return op_info((int)plan->steps[step].op)->stream;
}

// ---- waits -----------------------------------------------------------------------------------

// Gives every step one more wait, if `extra` names one: steps[i] after extra[i].
static void add_waits(Plan *plan, const int32_t *extra)
{
    uint32_t *after = arena_alloc_array(plan->arena, (uint64_t)plan->after_count + plan->step_count, sizeof(*after));
    uint32_t count = 0;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        Step *step = &plan->steps[i];
        uint32_t first = count;
        bool known = extra[i] == NONE;
        for (uint32_t k = 0; k < step->after_count; k++) {
            uint32_t earlier = plan->after[step->after_first + k];
            if (!known && (uint32_t)extra[i] <= earlier) {
                after[count++] = (uint32_t)extra[i];
                known = true;
                if ((uint32_t)extra[i] == earlier)
                    continue;
            }
            after[count++] = earlier;
        }
        if (!known)
            after[count++] = (uint32_t)extra[i];
        step->after_first = first;
        step->after_count = count - first;
    }
    plan->after = after;
    plan->after_count = count;
}

// What migrates a layer's experts waits until those of the layer before were used.
static bool hold_gathers(Plan *plan, Arena *scratch)
{
    int32_t *extra = arena_alloc_array(scratch, plan->step_count, sizeof(*extra)), used = NONE;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        Op op = plan->steps[i].op;
        extra[i] = stream_of(plan, i) == STREAM_MIGRATE ? used : NONE;
        used = op == OP_EXPERT || op == OP_EXPERT_BACKWARD ? (int32_t)i : used;
    }
    add_waits(plan, extra);
    return true;
}

// Puts the steps into the order order[0], order[1], ... which keeps that of every stream, and renumbers the waits.
static void reorder(Plan *plan, const uint32_t *order, Arena *scratch)
{
    Step *steps = arena_alloc_array(plan->arena, plan->step_count, sizeof(*steps));
    uint32_t *place = arena_alloc_array(scratch, plan->step_count, sizeof(*place));
    for (uint32_t i = 0; i < plan->step_count; i++) {
        steps[i] = plan->steps[order[i]];
        place[order[i]] = i;
    }
    plan->steps = steps;
    for (uint32_t k = 0; k < plan->after_count; k++)
        plan->after[k] = place[plan->after[k]];
}

static bool begins_update(Op op)
{
    return op == OP_SQUARES || op == OP_OPTIMIZER;
}

// Nothing that computes before the updates waits for sums: they come after it. What the waits saved is memory alone.
static void drop_waits_for_sums(Plan *plan, uint32_t end)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        Step *step = &plan->steps[i];
        bool drops = i < end && stream_of(plan, i) != STREAM_SYNC;
        uint32_t first = count;
        for (uint32_t k = 0; k < step->after_count; k++) {
            uint32_t earlier = plan->after[step->after_first + k];
            if (!drops || stream_of(plan, earlier) != STREAM_SYNC)
                plan->after[count++] = earlier;
        }
        step->after_first = first;
        step->after_count = count - first;
    }
    plan->after_count = count;
}

// Sums come after the last step of the backward pass, before the first update or the norm.
static bool hold_sums(Plan *plan, Arena *scratch)
{
    if (plan_laps(plan).count > 1) // those of one lap are the next one's
        return true;
    uint32_t *order = arena_alloc_array(scratch, plan->step_count, sizeof(*order)), count = 0, end = 0;
    while (end < plan->step_count && !begins_update(plan->steps[end].op))
        end++;
    drop_waits_for_sums(plan, end);
    for (int sums = 0; sums < 2; sums++)
        for (uint32_t i = 0; i < end; i++)
            if ((stream_of(plan, i) == STREAM_SYNC) == sums)
                order[count++] = i;
    for (uint32_t i = end; i < plan->step_count; i++)
        order[count++] = i;
    reorder(plan, order, scratch);
    int32_t *extra = arena_alloc_array(scratch, plan->step_count, sizeof(*extra)), computed = NONE;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        extra[i] = stream_of(plan, i) == STREAM_SYNC ? computed : NONE;
        computed = i < end && stream_of(plan, i) == STREAM_COMPUTE ? (int32_t)i : computed;
    }
    add_waits(plan, extra);
    return true;
}

// Gradients share the outer levels with gathers: nothing that returns there needs what is gathered.
static bool drop_waits_for_gathers(Plan *plan, Arena *scratch)
{
    (void)scratch;
    uint32_t count = 0;
    for (uint32_t i = 0; i < plan->step_count; i++) {
        Step *step = &plan->steps[i];
        bool returns = step_stream(plan, step) == STREAM_SYNC_OUTER;
        uint32_t first = count;
        for (uint32_t k = 0; k < step->after_count; k++) {
            uint32_t earlier = plan->after[step->after_first + k];
            if (!returns || earlier >= i || step_stream(plan, &plan->steps[earlier]) != STREAM_MIGRATE_OUTER)
                plan->after[count++] = earlier;
        }
        step->after_first = first;
        step->after_count = count - first;
    }
    plan->after_count = count;
    return true;
}

static bool prune(Plan *plan, Arena *scratch)
{
    (void)scratch;
    order_prune_after(plan);
    return true;
}

static bool place_apart(Plan *plan, Arena *scratch)
{
    (void)scratch;
    return memory_plan_apart(plan);
}

// ---- the passes ------------------------------------------------------------------------------

// What runs with the pass, and what without it; NULL: nothing is to be done then.
typedef bool PassRun(Plan *plan, Arena *scratch);

static const struct {
    PlanPassInfo info;
    PassRun *with, *without;
} passes[PLAN_PASS_COUNT] = {
    [PLAN_PASS_HOIST] = {{"hoist", "gathers run ahead as far as the queue and the prefetch depth allow",
                          "waits point to earlier steps", "gathers wait for their data and slots alone",
                          "pruned waits, offsets"},
                         NULL,
                         hold_gathers},
    [PLAN_PASS_OVERLAP] = {{"overlap", "sums of gradients run beside the backward pass of earlier layers",
                            "waits point to earlier steps", "sums follow their last summand", "pruned waits, offsets"},
                           NULL,
                           hold_sums},
    [PLAN_PASS_YIELD] = {{"yield", "gradients cross the outer levels after what the next layer gathers over them",
                          "waits point to earlier steps", "gathers have the outer levels for themselves",
                          "pruned waits, offsets"},
                         NULL,
                         drop_waits_for_gathers},
    [PLAN_PASS_PRUNE] = {{"prune", "waits that other waits or the order of a stream imply are dropped",
                          "waits point to earlier steps", "every wait orders something", "-"},
                         prune,
                         NULL},
    [PLAN_PASS_REUSE] = {{"reuse", "buffers whose lifetimes do not meet share memory", "the final waits and order",
                          "offsets", "-"},
                         memory_plan,
                         place_apart},
};

const PlanPassInfo *plan_pass_info(PlanPass pass)
{
    return &passes[pass].info;
}

int plan_pass_parse(const char *name)
{
    for (int p = 0; p < PLAN_PASS_COUNT; p++)
        if (strcmp(name, passes[p].info.name) == 0)
            return p;
    return -1;
}

bool plan_passes_run(Plan *plan, PlanPassSet set, Arena *scratch)
{
    for (int p = 0; p < PLAN_PASS_COUNT; p++) {
        PassRun *run = set & 1u << p ? passes[p].with : passes[p].without;
        if (run && !run(plan, scratch))
            return false;
    }
    return true;
}
