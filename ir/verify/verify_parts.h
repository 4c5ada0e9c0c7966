// What the parts of the verifier share. Private to verify*.c.
#ifndef HEP_VERIFY_PARTS_H
#define HEP_VERIFY_PARTS_H

#include "ir/order.h"
#include "ir/verify/verify.h"

typedef struct {
    const Plan *written; // as it is stored
    const Plan *plan;    // what is looked at: one micro-batch of it, whose indices are the same, or more, unrolled
    VerifyReport *report;
    Arena *scratch;
    const Order *order;      // once edges are checked
    const WeightKind *kinds; // [buffers]: see bundle_kinds
} Verifier;

// verify_report.c.
void verify_fail(Verifier *verifier, Property property, int64_t step, const char *format, ...) PRINTF_LIKE(4, 5);

static inline const OpInfo *step_info(const Step *step)
{
    return op_info((int)step->op);
}

// Does the step carry shares of dense weights or of the embedding, or their gradients?
bool verify_carries_dense(const Verifier *verifier, const Step *step);

// The choice of an MoE layer; NULL for other layers. Choices ascend.
const Choice *verify_find_choice(const Plan *plan, int32_t layer);

void verify_operands(Verifier *verifier);
void verify_sizes(Verifier *verifier); // after operands
void verify_loop(Verifier *verifier);
void verify_accesses(Verifier *verifier); // reads and races
void verify_memory(Verifier *verifier);
void verify_overlaps(Verifier *verifier); // part of memory
void verify_layers(Verifier *verifier);   // exchange and gather
void verify_flow(Verifier *verifier);     // after all of the above
void verify_traffic(Verifier *verifier);
void verify_claims(Verifier *verifier);

#endif
