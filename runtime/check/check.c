// Compares one rank's recorded iteration with the reference and turns the sums into a verdict. The
// tolerances are derived in tolerance.c.
#include "runtime/check/check.h"

#include <math.h>
#include <stdlib.h>

#include "ir/codec.h"
#include "runtime/check/tolerance.h"

uint64_t check_bytes(const Plan *plan)
{
    // x in double and float and about as much again four times in the reference; there the inner
    // vectors of all tokens as well, and one matrix as stored and in double; the mean of the experts.
    const ModelDims *dims = &plan->model;
    uint64_t inner = dims->inner, shared = model_shared_inner(dims);
    inner = shared > inner ? shared : inner;
    inner = dims->ffn_inner > inner ? dims->ffn_inner : inner;
    uint64_t widest = inner > dims->vocabulary ? inner : dims->vocabulary;
    return model_tokens(dims) * (dims->hidden * ((plan_packs_rows(plan) ? 7 : 6) * sizeof(double) + sizeof(float)) +
                                 2 * inner * sizeof(double)) +
           3 * widest * dims->hidden * 2 * sizeof(double) +
           (codec_info(plan->experts.codec)->has_mean ? model_expert_elements(dims) * dtype_bytes(dims->dtype) : 0);
}

static void compare(const float *x, const double *reference, uint64_t count, CheckPart *part)
{
    part->element_count = (double)count;
    for (uint64_t i = 0; i < count; i++) {
        double error = fabs((double)x[i] - reference[i]);
        part->max_abs_error = fmax(part->max_abs_error, isnan(error) ? INFINITY : error);
        part->square_sum += reference[i] * reference[i];
    }
}

bool check_rank(const Reference *reference, const Plan *plan, uint64_t rank, const EngineResult *result,
                CheckPart *part, Fault *fault)
{
    *part = (CheckPart){0};
    uint64_t count = model_tokens(&plan->model) * plan->model.hidden;
    if (!result->tokens || !result->x.data || result->x.rows * result->x.cols != count)
        return fault_set(fault, FAULT_INPUT, "the plan has no input or no final hidden state to check");
    ReferenceResult found = {0};
    double *expected = malloc(count * sizeof(*expected));
    float *x = malloc(count * sizeof(*x));
    bool ok = expected && x;
    if (!ok)
        fault_set(fault, FAULT_MEMORY, "out of memory for the check");
    ReferenceInput input = {.rank = rank, .tokens = result->tokens, .decisions = result->decisions};
    ok = ok && reference_run(reference, &input, expected, &found, fault);
    if (ok) {
        host_to_f32(result->x.data, result->x.dtype, x, count);
        compare(x, expected, count, part);
        double loss_error = fabs(result->last_loss - found.loss);
        part->loss_error = !result->has_loss ? 0 : isnan(loss_error) ? INFINITY : loss_error;
        part->choice_excess = found.choice_excess;
        part->packed = found.packed;
    }
    free(expected);
    free(x);
    return ok;
}

CheckVerdict check_conclude(const Plan *plan, const CheckPart *all, bool learned)
{
    CheckVerdict verdict = {.done = true, .max_abs_error = all->max_abs_error, .loss_error = all->loss_error};
    verdict.tolerance = tolerance_hidden(plan, all->packed) * sqrt(all->square_sum / fmax(all->element_count, 1));
    verdict.loss_tolerance = tolerance_hidden(plan, all->packed);
    verdict.choice_excess = learned ? all->choice_excess : 0;
    verdict.choice_tolerance = learned ? tolerance_choice(plan, all->packed) : 0;
    verdict.pass = verdict.max_abs_error <= verdict.tolerance && verdict.loss_error <= verdict.loss_tolerance &&
                   verdict.choice_excess <= verdict.choice_tolerance;
    return verdict;
}
