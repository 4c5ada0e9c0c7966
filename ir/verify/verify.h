// The verifier: is a plan safe to execute, and does it do what it claims? Runs after lowering, on
// load and for `--check`. What a violated property means is described in docs/ir.md.
#ifndef HEP_VERIFY_H
#define HEP_VERIFY_H

#include "ir/plan.h"

// X(NAME, "name", "what holds"), in the order in which they are checked. Later properties rely on
// earlier ones: checking stops after the first of `limits`, `groups`, `choices`, `steps` and `edges`
// that is violated.
#define HEP_PROPERTIES(X)                                                                                              \
    X(LIMITS, "limits", "codes are known, indices in range, numbers finite, sizes without overflow, names unique")     \
    X(GROUPS, "groups", "a group's level exists and its domain size divides the level's count")                        \
    X(CHOICES, "choices", "one per MoE layer, ascending; sizes divide counts, and their domains the experts")          \
    X(STEPS, "steps", "a step names the kind of group its op needs, and its level; local steps send nothing")          \
    X(EDGES, "edges", "'after' edges point to steps of other streams that come before, so that no wait is cyclic")     \
    X(OPERANDS, "operands", "operands are there unless optional, with the dtype and shape their op expects")           \
    X(SIZES, "sizes", "rows, records and weights are as large as tokens, top_k, members and the model say")            \
    X(LOOP, "loop", "steps of every micro-batch touch what is a micro-batch's; sums are whole before they are read")   \
    X(READS, "reads", "what a step reads was written by a step that happens before it, or is there from the start")    \
    X(RACES, "races", "two steps that touch a buffer, one of them writing, are ordered")                               \
    X(MEMORY, "memory", "buffers are aligned, inside the arena, and share memory only when never alive together")      \
    X(EXCHANGE, "exchange", "rows go out level by level, meet the experts once, and return the way they came")         \
    X(GATHER, "gather", "experts are gathered at every sharing level with S > 1, outer first; gradients go back")      \
    X(FLOW, "flow", "every step gets the values its op means, of its layer and stage; weights are updated once")       \
    X(TRAFFIC, "traffic", "steps send what their tensors and rows make them, and add up to the strategy's traffic")    \
    X(CLAIMS, "claims", "times, memory, volumes and names that the plan states of itself agree with each other")
#define X(name, ...) PROPERTY_##name,
typedef enum { HEP_PROPERTIES(X) PROPERTY_COUNT } Property;
#undef X

const char *property_name(Property property);
const char *property_doc(Property property);

enum { VIOLATIONS_MAX = 20, VIOLATION_BYTES = 400 };

typedef struct {
    Property property;
    int64_t step; // NONE where it is not about one step
    char message[VIOLATION_BYTES];
} Violation;

typedef struct {
    uint32_t total; // of which the first VIOLATIONS_MAX are kept
    Violation items[VIOLATIONS_MAX];
} VerifyReport;

static inline uint32_t verify_report_count(const VerifyReport *report)
{
    return report->total < VIOLATIONS_MAX ? report->total : VIOLATIONS_MAX;
}

// True when every property holds; else the report says what does not.
MUST_CHECK bool plan_verify(const Plan *plan, VerifyReport *report);

#endif
