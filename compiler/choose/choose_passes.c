// See choose.h.
#include <math.h>

#include "compiler/choose/choose.h"
#include "compiler/lowering/lower.h"
#include "ir/simulate/simulate.h"

enum { STEPS_MAX = 200000 }; // larger plans are lowered as they are asked for

static const double CLEAR = 1e-6;

Plan *choose_passes(const Planned *planned, PlanPassSet asked, PlanPassSet *ran, double *bytes)
{
    static const PlanPass doubtful[] = {PLAN_PASS_HOIST, PLAN_PASS_OVERLAP, PLAN_PASS_YIELD};
    const Solution *solution = &planned->solution;
    Dispatch dispatch = planned->spec->plan.dispatch;
    Plan *best = lower_with(planned->work, &solution->mix, dispatch, asked, bytes);
    bool tries = best && !solution->timed_out && best->step_count <= STEPS_MAX;
    double best_s = tries ? simulated_iteration_s(best) : 0;
    *ran = asked;
    for (size_t i = 0; i < COUNT_OF(doubtful) && tries; i++) {
        PlanPassSet fewer = *ran & ~(1u << doubtful[i]);
        if (fewer == *ran)
            continue;
        double other_bytes = 0;
        Plan *other = lower_with(planned->work, &solution->mix, dispatch, fewer, &other_bytes);
        double other_s = other ? simulated_iteration_s(other) : 0;
        bool better = other && other_bytes <= fmax(*bytes, planned->spec->cluster.device.memory_bytes) &&
                      other_s < best_s * (1 - CLEAR);
        plan_destroy(better ? best : other);
        best = better ? other : best;
        best_s = better ? other_s : best_s;
        *bytes = better ? other_bytes : *bytes;
        *ran = better ? fewer : *ran;
    }
    return best;
}
