// See persistent.h.
#include "runtime/training/persistent.h"

static const Name names[] = {
#define X(name, text) [PERSISTENCE_##name] = {text, 0},
    HEP_PERSISTENCES(X)
#undef X
};
const NameTable persistence_names = {"a persistence", names, (int)COUNT_OF(names)};

// What of experts is of interest; the rest is the same on every rank.
static const PersistentInfo of_experts[WEIGHT_KINDS] = {
    [WEIGHT_EXPERTS] = {PERSISTENCE_OWN, REBUILD_NOT},       [WEIGHT_SENT] = {PERSISTENCE_OWN, REBUILD_WEIGHTS},
    [WEIGHT_REPLICAS] = {PERSISTENCE_HELD, REBUILD_WEIGHTS}, [WEIGHT_ERROR] = {PERSISTENCE_HELD, REBUILD_ZERO},
    [WEIGHT_MEAN] = {PERSISTENCE_EQUAL, REBUILD_MEAN},
};

static const PersistentInfo *info_of_operand(Operand operand, bool weight)
{
    WeightKind kind = operand_weight(operand);
    bool told = of_experts[kind].persistence != PERSISTENCE_NONE && weight == (kind == WEIGHT_EXPERTS);
    return told ? &of_experts[kind] : NULL;
}

// The weights whose optimizer state the buffer is, or NONE.
static int32_t weights_of_state(const Plan *plan, uint32_t buffer)
{
    for (uint32_t s = 0; s < plan->step_count; s++) {
        StepBuffers of = step_buffers(plan, &plan->steps[s]);
        if (plan->steps[s].op == OP_OPTIMIZER && of.optimizer.state == (int32_t)buffer)
            return of.optimizer.weights;
    }
    return NONE;
}

PersistentInfo persistent_info(const Plan *plan, uint32_t buffer)
{
    BufferKind kind = plan->buffers[buffer].kind;
    if (kind == BUFFER_STATE) {
        int32_t weights = weights_of_state(plan, buffer);
        return weights == NONE ? (PersistentInfo){PERSISTENCE_EQUAL, REBUILD_NOT}
                               : persistent_info(plan, (uint32_t)weights);
    }
    if (kind == BUFFER_INPUT || kind == BUFFER_TEMPORARY || kind == BUFFER_GRADIENT)
        return (PersistentInfo){PERSISTENCE_NONE, REBUILD_NOT};
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const OpInfo *op = op_info((int)plan->steps[s].op);
        for (uint32_t o = 0; o < op->operand_count; o++) {
            const PersistentInfo *info = step_operands(plan, &plan->steps[s])[o] == (int32_t)buffer
                                             ? info_of_operand(op->operands[o].operand, kind == BUFFER_WEIGHT)
                                             : NULL;
            if (info)
                return *info;
        }
    }
    return (PersistentInfo){PERSISTENCE_EQUAL, REBUILD_NOT};
}
