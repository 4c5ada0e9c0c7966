// `--check`: the final hidden states and losses of a run against the dense reference.
#ifndef HEP_RUN_CHECK_H
#define HEP_RUN_CHECK_H

#include "runtime/check/reference.h"
#include "runtime/engine/engine.h"

// One rank's part; parts of all ranks add up to a verdict.
typedef struct {
    double max_abs_error; // largest |x - reference x|; infinite where x is not a number
    double loss_error;    // |loss - reference loss|
    double choice_excess; // of ReferenceResult
    double packed;        // likewise
    double square_sum;    // of the reference x
    double element_count;
} CheckPart;

typedef struct {
    bool done, pass;
    double max_abs_error, tolerance;   // of hidden states; tolerance_hidden x their root mean square
    double loss_error, loss_tolerance; // nats
    double choice_excess,
        choice_tolerance; // in units of the logits' root mean square; 0 where the gate does not choose
} CheckVerdict;

// Memory that check_rank takes for its while.
uint64_t check_bytes(const Plan *plan);
// Runs the reference on what the engine recorded. False and a fault when memory runs out, or when
// the plan leaves nothing to compare.
bool check_rank(const Reference *reference, const Plan *plan, uint64_t rank, const EngineResult *result,
                CheckPart *part, Fault *fault) MUST_CHECK;
// `all`: maxima of errors and of `packed`, and sums of the rest, over all ranks. `learned`: tokens take the experts
// with the largest logits; else the choice of experts is not judged.
CheckVerdict check_conclude(const Plan *plan, const CheckPart *all, bool learned);

#endif
