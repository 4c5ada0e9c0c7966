// What turns the steps that a lowering wrote down into the schedule that runs. A lowering emits steps with the waits
// their data demand; passes decide when and where: each can be left out, and the plan stays correct, only slower or
// larger.
#ifndef HEP_PASSES_H
#define HEP_PASSES_H

#include "ir/plan.h"

typedef enum {
    PLAN_PASS_HOIST,   // gathers run ahead
    PLAN_PASS_OVERLAP, // sums of gradients run beside the backward pass
    PLAN_PASS_YIELD,   // gradients cross the outer levels after what the next layer gathers over them
    PLAN_PASS_PRUNE,   // waits that others imply are dropped
    PLAN_PASS_REUSE,   // buffers share memory
    PLAN_PASS_COUNT,
} PlanPass;

typedef uint32_t PlanPassSet; // a bit per pass

enum { PLAN_PASSES_NONE = 0, PLAN_PASSES_ALL = (1 << PLAN_PASS_COUNT) - 1 };

typedef struct {
    const char *name, *does;
    const char *requires_, *provides, *breaks; // properties of the plan
} PlanPassInfo;

const PlanPassInfo *plan_pass_info(PlanPass pass);
int plan_pass_parse(const char *name); // a PlanPass; negative for an unknown name

// Runs the passes of the set on a plan as lowered (every step with all its waits, no offsets) and gives buffers their
// offsets. False when sizes exceed 63 bits.
MUST_CHECK bool plan_passes_run(Plan *plan, PlanPassSet set, Arena *scratch);

#endif
