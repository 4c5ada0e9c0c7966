// What a run reports: a table for people and JSON for programs, from the same records.
#ifndef HEP_REPORT_H
#define HEP_REPORT_H

#include "ir/base/text.h"
#include "runtime/job/job.h"

typedef struct {
    const char *plan_name; // path, or "-"
    const char *version;   // of the program
    const Plan *plan;
    const JobOptions *options;
    const JobResult *result;
    bool every_step; // list steps one by one instead of by op
} Report;

const char *routing_name(Routing routing);
int routing_parse(const char *text); // -1 when unknown

void report_print(const Report *report, Text *out);
struct cJSON;
void report_add_json(const Report *report, struct cJSON *object);
void report_print_json(const Report *report, Text *out);
// The parts of both that are of training plans.
void report_print_losses(const JobResult *result, Text *out);
void report_print_training(const JobResult *result, Text *out);
void report_add_training(const JobResult *result, struct cJSON *object);

#endif
