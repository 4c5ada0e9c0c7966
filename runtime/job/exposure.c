// See exposure.h.
#include "runtime/job/exposure.h"

#include <inttypes.h>
#include <math.h>

enum { LAYERS_SHOWN = 6 };

static Stream stream_of(const Plan *plan, uint32_t step)
{
    return op_info((int)plan->steps[step].op)->stream;
}

void exposure_add(const Plan *plan, const StepTime *times, double *waited_s)
{
    double computed_s = -INFINITY; // end of the compute stream's step before
    for (uint32_t s = 0; s < plan->step_count; s++) {
        const Step *step = &plan->steps[s];
        if (stream_of(plan, s) != STREAM_COMPUTE)
            continue;
        double other_s = computed_s, migrated_s = -INFINITY;
        for (uint32_t a = 0; a < step->after_count; a++) {
            uint32_t awaited = plan->after[step->after_first + a];
            double *ready_s = stream_of(plan, awaited) == STREAM_MIGRATE ? &migrated_s : &other_s;
            *ready_s = fmax(*ready_s, times[awaited].end_s);
        }
        if (migrated_s > other_s && other_s > -INFINITY)
            waited_s[s] += migrated_s - other_s;
        computed_s = times[s].end_s;
    }
}

typedef struct {
    double time_s, exposed_s;
    uint32_t steps;
} Sums;

static Sums sum_up(const Plan *plan, const double *step_s, const double *waited_s)
{
    Sums sums = {0};
    for (uint32_t s = 0; s < plan->step_count; s++) {
        bool migrates = stream_of(plan, s) == STREAM_MIGRATE;
        sums.time_s += migrates ? step_s[s] : 0;
        sums.steps += migrates;
        sums.exposed_s += waited_s[s];
    }
    return sums;
}

static bool is_backward(const Plan *plan, uint32_t step)
{
    return plan->steps[step].op == OP_EXPERT_BACKWARD;
}

// Of the steps that waited longest, the one in place `place`, counted from 0; NONE after the last that waited.
static int64_t find_place(const Plan *plan, const double *waited_s, uint32_t place)
{
    for (uint32_t s = 0; s < plan->step_count; s++) {
        uint32_t before = 0;
        for (uint32_t other = 0; waited_s[s] > 0 && other < plan->step_count; other++)
            before += waited_s[other] > waited_s[s] || (waited_s[other] == waited_s[s] && other < s);
        if (waited_s[s] > 0 && before == place)
            return s;
    }
    return NONE;
}

void exposure_print(const Plan *plan, const double *step_s, const double *waited_s, Text *out)
{
    Sums sums = sum_up(plan, step_s, waited_s);
    if (sums.steps == 0)
        return;
    text_format(out, "migration: %.3f ms per iteration in %" PRIu32 " steps, %.3f ms of it exposed (%.0f %%)",
                1e3 * sums.time_s, sums.steps, 1e3 * sums.exposed_s,
                sums.time_s > 0 ? 100 * sums.exposed_s / sums.time_s : 0);
    int64_t step = find_place(plan, waited_s, 0);
    for (uint32_t place = 0; place < LAYERS_SHOWN && step != NONE; step = find_place(plan, waited_s, ++place))
        text_format(out, "%s layer %" PRId32 "%s %.3f ms", place ? "," : ":", plan->steps[step].layer,
                    is_backward(plan, (uint32_t)step) ? " backward" : "", 1e3 * waited_s[step]);
    text_format(out, "%s\n# exposed: computation had nothing else to wait for than these experts\n",
                step == NONE ? "" : ", ...");
}

void exposure_add_json(const Plan *plan, const double *step_s, const double *waited_s, cJSON *report)
{
    Sums sums = sum_up(plan, step_s, waited_s);
    cJSON *migration = cJSON_AddObjectToObject(report, "migration");
    cJSON_AddNumberToObject(migration, "time_s", sums.time_s);
    cJSON_AddNumberToObject(migration, "exposed_s", sums.exposed_s);
    cJSON *layers = cJSON_AddArrayToObject(migration, "layers");
    for (uint32_t s = 0; s < plan->step_count; s++) {
        if (waited_s[s] <= 0)
            continue;
        cJSON *item = cJSON_CreateObject();
        cJSON_AddNumberToObject(item, "layer", plan->steps[s].layer);
        cJSON_AddStringToObject(item, "op", op_info((int)plan->steps[s].op)->name);
        cJSON_AddNumberToObject(item, "exposed_s", waited_s[s]);
        cJSON_AddItemToArray(layers, item);
    }
}
