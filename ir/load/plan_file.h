// Plan files as programs meet them: which form is it, and load it safely. Reading the file itself is
// the caller's.
#ifndef HEP_PLAN_FILE_H
#define HEP_PLAN_FILE_H

#include "ir/base/diag.h"
#include "ir/plan.h"

typedef enum { PLAN_FORM_NONE, PLAN_FORM_BINARY, PLAN_FORM_TEXT } PlanForm;

// `data` is NUL-terminated after `length`. A damaged plan still has its form.
PlanForm plan_form(const char *data, size_t length);

// Decodes or parses, then verifies. NULL after reporting to `diag`; `data` must outlive the sink.
Plan *plan_load(const char *name, const char *data, size_t length, Diag *diag) MUST_CHECK;

#endif
