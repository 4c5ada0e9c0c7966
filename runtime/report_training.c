// What the report of a training has besides: held-out losses, updates that were left out, checkpoints.
#include <cjson/cJSON.h>
#include <inttypes.h>

#include "runtime/report.h"

void report_print_training(const JobResult *result, Text *out)
{
    const CheckpointTimes *checkpoints = &result->checkpoints;
    char bytes[FORMAT_MAX], mean[FORMAT_MAX], max[FORMAT_MAX];
    if (result->validation_count > 0)
        text_format(out, "validation: loss %.6f behind iteration %" PRIu64 ", %.6f behind iteration %" PRIu64 "\n",
                    result->validation[0].loss, result->validation[0].iteration,
                    result->validation[result->validation_count - 1].loss,
                    result->validation[result->validation_count - 1].iteration);
    if (result->skipped > 0)
        text_format(out, "skipped: %" PRIu64 " iterations had a loss or gradient that is not finite, and no update\n",
                    result->skipped);
    if (checkpoints->count > 0)
        text_format(out,
                    "checkpoints: %" PRIu32 " written, the last behind iteration %" PRIu64
                    "; %s each, training stood still for %s on average, %s at most\n",
                    checkpoints->count, checkpoints->iteration, format_bytes(bytes, (double)checkpoints->bytes),
                    format_time(mean, checkpoints->sum_s / checkpoints->count), format_time(max, checkpoints->max_s));
}

void report_add_training(const JobResult *result, cJSON *root)
{
    cJSON_AddNumberToObject(root, "first_iteration", (double)result->first_iteration);
    if (result->resumed)
        cJSON_AddStringToObject(root, "resumed", result->resumed);
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
