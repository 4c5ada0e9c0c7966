// The pipeline, flat: read, parse, check, derive, choose, lower, verify. Data flows one way.
#include "compiler/compile.h"

#include "compiler/choose/choose.h"
#include "compiler/describe.h"
#include "compiler/frontend/profile.h"
#include "compiler/frontend/read.h"
#include "compiler/solve/footprint.h"
#include "ir/verify/verify.h"

static FaultKind report_unaddressable(const Spec *spec, double bytes, Diag *diag)
{
    char need[FORMAT_MAX], have[FORMAT_MAX];
    diag_error(diag, spec->memory_span, "the plan needs %s per GPU, the device has %s", format_bytes(need, bytes),
               format_bytes(have, spec->cluster.device.memory_bytes));
    return FAULT_INFEASIBLE;
}

static FaultKind report_violations(const VerifyReport *report, Diag *diag)
{
    for (uint32_t i = 0; i < verify_report_count(report); i++)
        diag_error_plain(diag, "internal: the lowered schedule fails '%s' at step %lld: %s",
                         property_name(report->items[i].property), (long long)report->items[i].step,
                         report->items[i].message);
    return FAULT_INTERNAL;
}

static FaultKind make_plan(const Chosen *chosen, PlanPassSet passes, Diag *diag, Compilation *out)
{
    double bytes = 0;
    out->plan = choose_passes(&chosen->best, passes, &out->passes, &bytes);
    if (!out->plan || bytes > out->spec->cluster.device.memory_bytes)
        return report_unaddressable(out->spec, bytes, diag);
    describe_choice(chosen, out->plan);
    VerifyReport report;
    if (!plan_verify(out->plan, &report))
        return report_violations(&report, diag);
    return FAULT_NONE;
}

// NULL after reporting that the profile is not one of this model.
static const Spec *apply_overrides(const Spec *checked, const CompileOptions *options, Arena *arena, Diag *diag)
{
    Spec *spec = arena_alloc(arena, sizeof(*spec));
    *spec = *checked;
    spec->footprints = footprint_table_create(arena);
    if (options->dispatch != NONE)
        spec->plan.dispatch = (Dispatch)options->dispatch;
    return !options->profile || profile_read(options->profile, &spec->model, arena, diag) ? spec : NULL;
}

static FaultKind run_stages(const CompileOptions *options, Arena *arena, Diag *diag, Compilation *out)
{
    out->ast = read_text(options->name, options->text, options->length, arena, diag);
    if (!out->ast)
        return FAULT_INPUT;
    if (options->stop_after == STAGE_PARSE)
        return FAULT_NONE;
    if (options->edit)
        options->edit(out->ast, options->edit_context);
    const Spec *checked = check_ast(out->ast, &options->check, arena, diag);
    if (!checked)
        return FAULT_INPUT;
    out->spec = apply_overrides(checked, options, arena, diag);
    if (!out->spec)
        return FAULT_INPUT;
    out->work = choose_begin(out->spec, arena);
    if (options->stop_after == STAGE_CHECK)
        return FAULT_NONE;
    Chosen chosen;
    FaultKind code = choose(out->spec, &options->planner, arena, diag, &chosen);
    out->spec = chosen.best.spec;
    out->work = chosen.best.work;
    out->solution = chosen.best.solution;
    if (code != FAULT_NONE || options->stop_after == STAGE_SOLVE)
        return code;
    return make_plan(&chosen, PLAN_PASSES_ALL & ~options->without, diag, out);
}

bool compile_file(const CompileOptions *options, Arena *arena, Diag *diag, Compilation *out, Fault *fault)
{
    *out = (Compilation){0};
    FaultKind kind = run_stages(options, arena, diag, out);
    return kind == FAULT_NONE || fault_reported(fault, kind);
}

void compile_release(Compilation *compilation)
{
    plan_destroy(compilation->plan);
    compilation->plan = NULL;
}
