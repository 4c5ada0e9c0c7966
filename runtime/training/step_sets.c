// See step_sets.h.
#include "runtime/training/step_sets.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/training/persistent.h"

static bool writes(OperandRole role)
{
    return role == ROLE_OUT || role == ROLE_INOUT || role == ROLE_PART;
}

static bool reads(OperandRole role)
{
    return role == ROLE_IN || role == ROLE_INOUT || role == ROLE_PART; // what other steps wrote stays
}

// Does the step use a buffer of the set in that way?
static bool step_uses(const Plan *plan, uint32_t step, bool (*how)(OperandRole), const bool set[])
{
    const OpInfo *op = op_info((int)plan->steps[step].op);
    const int32_t *operands = step_operands(plan, &plan->steps[step]);
    for (uint32_t o = 0; o < op->operand_count; o++)
        if (operands[o] != NONE && how(op->operands[o].role) && set[operands[o]])
            return true;
    return false;
}

// Adds to the set what the step uses in that way, or takes it out.
static void set_mark(const Plan *plan, uint32_t step, bool (*how)(OperandRole), bool value, bool set[])
{
    const OpInfo *op = op_info((int)plan->steps[step].op);
    const int32_t *operands = step_operands(plan, &plan->steps[step]);
    for (uint32_t o = 0; o < op->operand_count; o++)
        if (operands[o] != NONE && how(op->operands[o].role))
            set[operands[o]] = value;
}

bool step_sets_evaluation(const Plan *plan, bool skipped_steps[])
{
    bool *needed = calloc(plan->buffer_count + 1, sizeof(*needed)), found = false;
    for (uint32_t s = plan->step_count; needed && s-- > 0;) {
        Op op = plan->steps[s].op;
        bool takes_part = op == OP_LOSS || (op != OP_OPTIMIZER && plan_step_period(plan, &plan->steps[s]) == 1 &&
                                            step_uses(plan, s, writes, needed));
        found = found || op == OP_LOSS;
        skipped_steps[s] = !takes_part;
        if (!takes_part)
            continue;
        set_mark(plan, s, writes, false, needed);
        set_mark(plan, s, reads, true, needed);
    }
    free(needed);
    return found;
}

static bool overlap(const Buffer *a, const Buffer *b)
{
    return a->offset < b->offset + buffer_bytes(b) && b->offset < a->offset + buffer_bytes(a);
}

// Whether a step writes, or scratches, memory of a buffer of the set.
static bool step_destroys(const Plan *plan, uint32_t step, const bool set[])
{
    const OpInfo *op = op_info((int)plan->steps[step].op);
    const int32_t *operands = step_operands(plan, &plan->steps[step]);
    for (uint32_t o = 0; o < op->operand_count; o++)
        for (uint32_t b = 0; operands[o] != NONE && op->operands[o].role != ROLE_IN && b < plan->buffer_count; b++)
            if (set[b] && overlap(&plan->buffers[operands[o]], &plan->buffers[b]))
                return true;
    return false;
}

bool step_sets_update(const Plan *plan, bool first[], bool second[])
{
    bool *updated = calloc(plan->buffer_count + 1, sizeof(*updated)); // what the second part has written
    bool *used = calloc(plan->buffer_count + 1, sizeof(*used));       // what it reads
    bool ok = updated && used;
    for (uint32_t s = 0; ok && s < plan->step_count; s++) {
        first[s] = plan->steps[s].op == OP_OPTIMIZER || step_uses(plan, s, reads, updated);
        second[s] = !first[s];
        if (first[s]) {
            set_mark(plan, s, writes, true, updated);
            set_mark(plan, s, reads, true, used);
        } else if (step_destroys(plan, s, used)) {
            ok = false;
        }
    }
    free(updated);
    free(used);
    return ok;
}

bool step_sets_written(const Plan *plan, const bool skipped_steps[], bool buffers[])
{
    PersistentInfo *infos = malloc((plan->buffer_count + 1) * sizeof(*infos));
    if (!infos || !persistent_infos(plan, infos)) {
        free(infos);
        return false;
    }
    memset(buffers, 0, plan->buffer_count * sizeof(*buffers));
    for (uint32_t s = 0; s < plan->step_count; s++)
        if (!skipped_steps[s])
            set_mark(plan, s, writes, true, buffers);
    for (uint32_t b = 0; b < plan->buffer_count; b++)
        buffers[b] = buffers[b] && infos[b].persistence != PERSISTENCE_NONE;
    free(infos);
    return true;
}
