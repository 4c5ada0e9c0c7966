// What the report of a training has besides: held-out losses, updates that were skipped, checkpoints.
#include <cjson/cJSON.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "runtime/report/report.h"

enum { LOSS_ROWS = 10 };

// The last held-out loss after iterations first..last, or NULL.
static const Validation *validation_in(const JobResult *result, uint64_t first, uint64_t last)
{
    const Validation *found = NULL;
    for (uint32_t v = 0; v < result->validation_count; v++)
        if (result->validation[v].iteration >= first && result->validation[v].iteration <= last)
            found = &result->validation[v];
    return found;
}

// Means over about a tenth of the iterations each.
void report_print_losses(const JobResult *result, Text *out)
{
    uint32_t rows = result->iterations < LOSS_ROWS ? result->iterations : LOSS_ROWS;
    text_format(out, "\n%-12s %12s %12s %12s\n", "loss", "iterations", "mean", "held out");
    for (uint32_t r = 0; r < rows; r++) {
        uint32_t first = (uint32_t)((uint64_t)result->iterations * r / rows), count = 0;
        uint32_t end = (uint32_t)((uint64_t)result->iterations * (r + 1) / rows);
        uint64_t number = result->first_iteration + first, last = result->first_iteration + end - 1;
        char span[2 * FORMAT_MAX];
        double sum = 0;
        for (uint32_t i = first; i < end; i++) {
            sum += isfinite(result->loss[i]) ? result->loss[i] : 0;
            count += isfinite(result->loss[i]);
        }
        if (number == last)
            snprintf(span, sizeof(span), "%" PRIu64, last);
        else
            snprintf(span, sizeof(span), "%" PRIu64 "-%" PRIu64, number, last);
        text_format(out, "%-12s %12s ", "", span);
        if (count > 0)
            text_format(out, "%12.6f ", sum / count);
        else
            text_format(out, "%12s ", "not finite");
        const Validation *validation = validation_in(result, number, last);
        if (validation)
            text_format(out, "%12.6f\n", validation->loss);
        else
            text_format(out, "%12s\n", "-");
    }
}

void report_print_training(const JobResult *result, Text *out)
{
    const CheckpointTimes *checkpoints = &result->checkpoints;
    char bytes[FORMAT_MAX], mean[FORMAT_MAX], max[FORMAT_MAX];
    if (result->validation_count > 0)
        text_format(out, "validation: loss %.6f after iteration %" PRIu64 ", %.6f after iteration %" PRIu64 "\n",
                    result->validation[0].loss, result->validation[0].iteration,
                    result->validation[result->validation_count - 1].loss,
                    result->validation[result->validation_count - 1].iteration);
    if (result->skipped > 0)
        text_format(out, "skipped: %" PRIu64 " iterations had a loss or gradient that is not finite, and no update\n",
                    result->skipped);
    if (checkpoints->count > 0)
        text_format(out,
                    "checkpoints: %" PRIu32 " written, the last after iteration %" PRIu64
                    "; %s each, training stood still for %s on average, %s at most\n",
                    checkpoints->count, checkpoints->iteration, format_bytes(bytes, (double)checkpoints->bytes),
                    format_time(mean, checkpoints->sum_s / checkpoints->count), format_time(max, checkpoints->max_s));
}

void report_add_training(const JobResult *result, cJSON *root)
{
    cJSON_AddNumberToObject(root, "first_iteration", (double)result->first_iteration);
    if (result->resumed)
        cJSON_AddStringToObject(root, "resumed", result->resumed);
    if (result->resumed_otherwise)
        cJSON_AddStringToObject(root, "resumed_otherwise", result->resumed_otherwise);
    cJSON *validation = cJSON_AddArrayToObject(root, "validation");
    for (uint32_t v = 0; v < result->validation_count; v++) {
        cJSON *item = cJSON_CreateObject();
        cJSON_AddNumberToObject(item, "iteration", (double)result->validation[v].iteration);
        cJSON_AddNumberToObject(item, "loss", result->validation[v].loss);
        cJSON_AddItemToArray(validation, item);
    }
    cJSON_AddNumberToObject(root, "skipped", (double)result->skipped);
    const CheckpointTimes *times = &result->checkpoints;
    cJSON *checkpoints = cJSON_AddObjectToObject(root, "checkpoints");
    cJSON_AddNumberToObject(checkpoints, "count", times->count);
    cJSON_AddNumberToObject(checkpoints, "iteration", (double)times->iteration);
    cJSON_AddNumberToObject(checkpoints, "bytes", (double)times->bytes);
    cJSON_AddNumberToObject(checkpoints, "sum_s", times->sum_s);
    cJSON_AddNumberToObject(checkpoints, "max_s", times->max_s);
}
