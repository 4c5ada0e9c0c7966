// See plan_file.h. What is wrong goes to the sink: parse errors with their place, everything else
// with the name of the file.
#include "ir/load/plan_file.h"

#include <string.h>

#include "ir/binary.h"
#include "ir/text/plan_text.h"
#include "ir/verify/verify.h"

// A plan in text form begins, after comments, with its keyword.
static bool is_text(const char *data)
{
    static const char keyword[] = "hep_plan";
    for (;;) {
        data += strspn(data, " \t\r\n");
        if (*data != '#')
            return strncmp(data, keyword, sizeof(keyword) - 1) == 0;
        data += strcspn(data, "\n");
    }
}

PlanForm plan_form(const char *data, size_t length)
{
    if (plan_is_binary((const uint8_t *)data, length))
        return PLAN_FORM_BINARY;
    return is_text(data) ? PLAN_FORM_TEXT : PLAN_FORM_NONE;
}

static void report_violations(const char *name, const VerifyReport *report, Diag *diag)
{
    for (uint32_t i = 0; i < verify_report_count(report); i++) {
        const Violation *violation = &report->items[i];
        if (violation->step == NONE)
            diag_error_plain(diag, "%s: the plan violates '%s': %s", name, property_name(violation->property),
                             violation->message);
        else
            diag_error_plain(diag, "%s: the plan violates '%s' at step %lld: %s", name,
                             property_name(violation->property), (long long)violation->step, violation->message);
    }
}

Plan *plan_load(const char *name, const char *data, size_t length, Diag *diag)
{
    Plan *plan = NULL;
    Fault fault = {0};
    switch (plan_form(data, length)) {
    case PLAN_FORM_NONE:
        diag_error_plain(diag, "%s: neither a binary plan nor a plan in text form", name);
        return NULL;
    case PLAN_FORM_BINARY:
        plan = plan_decode((const uint8_t *)data, length, &fault);
        if (!plan)
            diag_error_plain(diag, "%s: not a usable plan: %s", name, fault.message);
        break;
    case PLAN_FORM_TEXT:
        plan = plan_parse(data, length, diag_add_source(diag, name, data, length, NULL), diag);
        break;
    }
    if (!plan)
        return NULL;
    VerifyReport report;
    if (plan_verify(plan, &report))
        return plan;
    report_violations(name, &report, diag);
    plan_destroy(plan);
    return NULL;
}
