// The whole compiler as one call, and what each stage left behind for the dumps.
#ifndef HEP_COMPILE_H
#define HEP_COMPILE_H

#include "compiler/frontend/check.h"
#include "compiler/lowering/lower.h"
#include "compiler/solve/planner.h"
#include "ir/base/fault.h"

typedef enum { STAGE_PARSE, STAGE_CHECK, STAGE_SOLVE, STAGE_PLAN } CompileStage;

typedef struct {
    const char *name; // of the file, for messages and for includes relative to it
    const char *text; // its content, which must outlive the sink
    size_t length;
    CheckOptions check;                    // -D and --domain
    PlannerOptions planner;                // --time-limit, --gap, --prefetch
    const char *profile;                   // --profile, or NULL
    int dispatch;                          // --dispatch: a Dispatch, or NONE to take the file's
    PlanPassSet without;                   // -O0, --dump-before: passes that are skipped
    CompileStage stop_after;               // later results stay NULL
    void (*edit)(Ast *ast, void *context); // NULL, or changes the tree before it is checked
    void *edit_context;
} CompileOptions;

typedef struct {
    Ast *ast;
    const Spec *spec;
    const Workload *work; // with its workers placed, once there is a solution
    Solution solution;
    Plan *plan;         // freed by compile_release
    PlanPassSet passes; // that ran
} Compilation;

// Takes a .hep text through every stage. What is wrong is in `diag`; the fault has its kind and no message.
bool compile_file(const CompileOptions *options, Arena *arena, Diag *diag, Compilation *out, Fault *fault) MUST_CHECK;
void compile_release(Compilation *compilation);

#endif
