// Small plans for tests of the library.
#ifndef HEP_TEST_FIXED_PLANS_H
#define HEP_TEST_FIXED_PLANS_H

#include "compiled.h"
#include "ir/binary.h"
#include "runtime/hep.h"

typedef enum { FORWARD_EP, FORWARD_GATHER, FORWARD_PADDED, FORWARD_ONE, TRAINING_ONE } FixedPlan;

// The plan as the library reads it; what was compiled is freed.
static inline hep_plan *plan_handed_over(Compiled *compiled)
{
    uint8_t *bytes;
    size_t length;
    Fault fault = {0};
    cr_assert(plan_encode(compiled->plan, &bytes, &length, &fault), "%s", fault.message);
    hep_plan *plan;
    cr_assert_eq(hep_plan_parse(bytes, length, &plan), HEP_OK);
    free(bytes);
    compiled_free(compiled);
    return plan;
}

// Two layers of 8 experts, hidden 16, inner 8; 2 x 2 ranks, or one.
static inline hep_plan *fixed_plan(FixedPlan which)
{
    bool one = which == FORWARD_ONE || which == TRAINING_ONE;
    char text[1024];
    snprintf(text, sizeof(text),
             "cluster c { %s level gpu { count = %d  bandwidth = 10 Gbit/s  latency = 10 us }\n"
             "  device { compute = 1 TFLOP/s  memory = 8 GB  memory_bandwidth = 100 GB/s } }\n"
             "model m { layers = 2  hidden = 16  heads = 2  vocabulary = 64  sequence = 8  batch = 1  dtype = f32\n"
             "  moe { experts = 8  top_k = 2  inner = 8  activation = gelu } }\n"
             "plan { pass = %s  dispatch = dedup %s }\n",
             one ? "" : "level dc { count = 2  bandwidth = 1 Gbit/s  latency = 1 ms }", one ? 1 : 2,
             which == TRAINING_ONE ? "training" : "forward",
             which == FORWARD_PADDED ? "capacity = 1  exchange = padded" : "");
    Compiled compiled = compiled_from(text, one ? "gpu=1" : which == FORWARD_GATHER ? "dc=2,gpu=2" : "dc=1,gpu=1");
    return plan_handed_over(&compiled);
}

#endif
