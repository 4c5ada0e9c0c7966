// What the parts of the verifier call: names of properties, the report of what is violated, the choice of a layer.
#include <stdarg.h>
#include <stdio.h>

#include "ir/verify/verify_parts.h"

static const struct {
    const char *name, *doc;
} properties[] = {
#define X(name, text, doc) {text, doc},
    HEP_PROPERTIES(X)
#undef X
};

const char *property_name(Property property)
{
    return (unsigned)property < PROPERTY_COUNT ? properties[property].name : NULL;
}

const char *property_doc(Property property)
{
    return (unsigned)property < PROPERTY_COUNT ? properties[property].doc : NULL;
}

void verify_fail(Verifier *verifier, Property property, int64_t step, const char *format, ...)
{
    VerifyReport *report = verifier->report;
    if (report->total++ >= VIOLATIONS_MAX)
        return;
    Violation *violation = &report->items[report->total - 1];
    violation->property = property;
    violation->step = step >= 0 && verifier->plan->unrolled ? verifier->plan->steps[step].written : step;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(violation->message, sizeof(violation->message), format, arguments);
    va_end(arguments);
}

bool verify_carries_dense(const Verifier *verifier, const Step *step)
{
    OpShape shape = step_info(step)->shape;
    if (verifier->plan->model.abstract || (shape != SHAPE_GATHER && shape != SHAPE_SCATTER))
        return false;
    int32_t sent = step_buffers(verifier->plan, step).all[0];
    WeightKind kind = sent == NONE ? WEIGHT_NONE : verifier->kinds[sent];
    return kind == WEIGHT_DENSE || kind == WEIGHT_EMBEDDING || kind == WEIGHT_DENSE_REPLICAS;
}

const Choice *verify_find_choice(const Plan *plan, int32_t layer)
{
    uint32_t low = 0, high = plan->choice_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if ((int64_t)plan->choices[middle].layer < layer)
            low = middle + 1;
        else
            high = middle;
    }
    return low < plan->choice_count && (int64_t)plan->choices[low].layer == layer ? &plan->choices[low] : NULL;
}
