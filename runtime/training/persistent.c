// See persistent.h.
#include "runtime/training/persistent.h"

#include <stdlib.h>

#include "ir/bundle.h"

static const Name names[] = {
#define X(name, text) [PERSISTENCE_##name] = {text, 0},
    HEP_PERSISTENCES(X)
#undef X
};
const NameTable persistence_names = {"a persistence", names, (int)COUNT_OF(names)};

static PersistentInfo info_of_kind(const Plan *plan, WeightKind kind, int32_t layer, uint32_t parts)
{
    static const PersistentInfo of_experts[WEIGHT_KINDS] = {
        [WEIGHT_EXPERTS] = {.persistence = PERSISTENCE_OWN},
        [WEIGHT_SENT] = {.persistence = PERSISTENCE_OWN, .rebuild = REBUILD_WEIGHTS},
        [WEIGHT_REPLICAS] = {.persistence = PERSISTENCE_HELD, .rebuild = REBUILD_WEIGHTS},
        [WEIGHT_ERROR] = {.persistence = PERSISTENCE_HELD, .rebuild = REBUILD_ZERO},
        [WEIGHT_MEAN] = {.persistence = PERSISTENCE_EQUAL, .rebuild = REBUILD_MEAN},
    };
    static const PersistentInfo of_dense[WEIGHT_KINDS] = {
        [WEIGHT_EMBEDDING] = {.persistence = PERSISTENCE_SHARE},
        [WEIGHT_DENSE] = {.persistence = PERSISTENCE_SHARE},
        [WEIGHT_DENSE_SENT] = {.persistence = PERSISTENCE_SHARE, .rebuild = REBUILD_WEIGHTS},
        [WEIGHT_DENSE_REPLICAS] = {.persistence = PERSISTENCE_GATHERED, .rebuild = REBUILD_WEIGHTS},
        [WEIGHT_DENSE_ERROR] = {.persistence = PERSISTENCE_GATHERED, .rebuild = REBUILD_ZERO},
    };
    PersistentInfo info = of_dense[kind];
    if (kind == WEIGHT_NONE)
        return (PersistentInfo){.persistence = PERSISTENCE_EQUAL};
    if (info.persistence == PERSISTENCE_NONE)
        return of_experts[kind];
    if (plan->pass != PASS_TRAINING)
        info.persistence = PERSISTENCE_EQUAL;
    info.parts = parts;
    info.elements = bundle_shape(plan, bundle_weights(kind, layer), layer).elements;
    return info;
}

bool persistent_infos(const Plan *plan, PersistentInfo infos[])
{
    WeightKind *kinds = malloc((plan->buffer_count + 1) * sizeof(*kinds));
    if (!kinds)
        return false;
    bundle_kinds(plan, kinds);
    for (uint32_t b = 0; b < plan->buffer_count; b++) {
        BufferKind kind = plan->buffers[b].kind;
        infos[b] = (PersistentInfo){.persistence = PERSISTENCE_NONE};
        if (kind == BUFFER_WEIGHT || kind == BUFFER_REPLICA)
            infos[b] = info_of_kind(plan, kinds[b], plan->buffers[b].layer, 1);
        else if (kind == BUFFER_STATE)
            infos[b] = (PersistentInfo){.persistence = PERSISTENCE_EQUAL};
    }
    for (uint32_t s = 0; s < plan->step_count; s++) {
        if (plan->steps[s].op != OP_OPTIMIZER && plan->steps[s].op != OP_OUTER_STEP)
            continue;
        StepBuffers of = step_buffers(plan, &plan->steps[s]);
        int32_t kept = plan->steps[s].op == OP_OPTIMIZER ? of.optimizer.state : of.outer_step.outer;
        int32_t updated = plan->steps[s].op == OP_OPTIMIZER ? of.optimizer.weights : of.outer_step.weights;
        const Buffer *weights = &plan->buffers[updated], *state = &plan->buffers[kept];
        infos[kept] = info_of_kind(plan, kinds[updated], weights->layer,
                                   weights->cols ? (uint32_t)(state->cols / weights->cols) : 1);
        infos[kept].rebuild = plan->steps[s].op == OP_OUTER_STEP ? REBUILD_OUTER : REBUILD_NOT;
    }
    free(kinds);
    return true;
}
