// See persistent.h.
#include "runtime/training/persistent.h"

#include <string.h>

static const char *const names[] = {
#define X(name, text) [PERSISTENCE_##name] = text,
    HEP_PERSISTENCES(X)
#undef X
};

const char *persistence_name(Persistence persistence)
{
    return names[persistence];
}

int persistence_parse(const char *text)
{
    for (int p = 0; p < PERSISTENCE_COUNT; p++)
        if (strcmp(names[p], text) == 0)
            return p;
    return -1;
}

// Operands that hold experts, by the names that ops.def gives them.
static const struct {
    const char *operand;
    PersistentInfo info;
} of_experts[] = {
    {"experts", {PERSISTENCE_OWN, REBUILD_NOT}},      {"shard", {PERSISTENCE_OWN, REBUILD_NOT}},
    {"own", {PERSISTENCE_OWN, REBUILD_NOT}},          {"sent", {PERSISTENCE_OWN, REBUILD_WEIGHTS}},
    {"replicas", {PERSISTENCE_HELD, REBUILD_WEIGHTS}}, {"error", {PERSISTENCE_HELD, REBUILD_ZERO}},
    {"mean", {PERSISTENCE_EQUAL, REBUILD_MEAN}},
};

static const PersistentInfo *info_of_operand(const char *operand, bool weight)
{
    for (size_t i = 0; i < COUNT_OF(of_experts); i++)
        if (strcmp(of_experts[i].operand, operand) == 0 &&
            weight == (of_experts[i].info.persistence == PERSISTENCE_OWN && of_experts[i].info.rebuild == REBUILD_NOT))
            return &of_experts[i].info;
    return NULL;
}

// The weights whose optimizer state the buffer is, or NONE.
static int32_t weights_of_state(const Plan *plan, uint32_t buffer)
{
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const int32_t *operands = step_operands(plan, &plan->steps[s]);
        if (plan->steps[s].op == OP_OPTIMIZER && operands[2] == (int32_t)buffer)
            return operands[0];
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
                                             ? info_of_operand(op->operands[o].name, kind == BUFFER_WEIGHT)
                                             : NULL;
            if (info)
                return *info;
        }
    }
    return (PersistentInfo){PERSISTENCE_EQUAL, REBUILD_NOT};
}
