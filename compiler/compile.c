// The pipeline, flat: read, parse, check, derive, solve, lower, verify. Data flows one way.
#include "compiler/compile.h"

#include <math.h>
#include <string.h>

#include "compiler/lower.h"
#include "compiler/place.h"
#include "compiler/read.h"
#include "ir/verify.h"

static void copy_strategy(Strategy *strategy, const char *name, Dispatch dispatch, const Candidate *candidate)
{
    *strategy = (Strategy){
        .name = name,
        .dispatch = dispatch,
        .iteration_s = candidate->cost.iteration_s,
        .memory_bytes = candidate->memory_bytes,
        .fits = candidate->fits,
    };
    memcpy(strategy->domain, candidate->config.domain, sizeof strategy->domain);
    memcpy(strategy->traffic, candidate->cost.traffic, sizeof strategy->traffic);
}

// What the solver knows about the plan: the comparison table and the proof.
static void describe_solution(const Spec *spec, const Solution *solution, Plan *plan)
{
    plan->solver = arena_copy_string(plan->arena, solution->solver, strlen(solution->solver));
    plan->status = solution->status;
    plan->gap = solution->gap;
    plan->iteration_s = solution->objective_s;
    plan->strategy_count = 1 + BASELINE_COUNT;
    plan->strategies = arena_alloc_array(plan->arena, plan->strategy_count, sizeof *plan->strategies);
    copy_strategy(&plan->strategies[0], "chosen", spec->plan.dispatch, &solution->candidates[solution->chosen]);
    plan->strategies[0].memory_bytes = (double)plan->arena_bytes;
    for (int b = 0; b < BASELINE_COUNT; b++)
        copy_strategy(&plan->strategies[1 + b], baseline_names[b], baseline_dispatch(b, spec), &solution->baselines[b]);
}

static ExitCode report_unaddressable(const Spec *spec, double bytes, Diag *diag)
{
    char need[FORMAT_MAX], have[FORMAT_MAX];
    diag_error(diag, spec->memory_span, "the plan needs %s per GPU, the device has %s", format_bytes(need, bytes),
               format_bytes(have, spec->cluster.device.memory_bytes));
    return EXIT_INFEASIBLE;
}

static ExitCode report_violations(const VerifyReport *report, Diag *diag)
{
    for (uint32_t i = 0; i < verify_report_count(report); i++)
        diag_error_plain(diag, "internal: the lowered schedule fails '%s' at step %lld: %s",
                         property_name(report->items[i].property), (long long)report->items[i].step,
                         report->items[i].message);
    return EXIT_INTERNAL;
}

static ExitCode make_plan(Diag *diag, Compilation *out)
{
    const Spec *spec = out->spec;
    const Candidate *chosen = &out->solution.candidates[out->solution.chosen];
    double bytes = 0;
    out->plan = lower(out->work, &chosen->config, spec->plan.dispatch, &bytes);
    if (!out->plan || bytes > spec->cluster.device.memory_bytes)
        return report_unaddressable(spec, bytes, diag);
    describe_solution(spec, &out->solution, out->plan);
    VerifyReport report;
    if (!plan_verify(out->plan, &report))
        return report_violations(&report, diag);
    return EXIT_DONE;
}

static const Spec *apply_overrides(const Spec *checked, const CompileOptions *options, Arena *arena)
{
    if (options->dispatch == NONE)
        return checked;
    Spec *spec = arena_alloc(arena, sizeof *spec);
    *spec = *checked;
    spec->plan.dispatch = (Dispatch)options->dispatch;
    return spec;
}

ExitCode compile_file(const CompileOptions *options, Arena *arena, Diag *diag, Compilation *out)
{
    *out = (Compilation){0};
    out->ast = read_text(options->name, options->text, options->length, arena, diag);
    if (!out->ast)
        return EXIT_INPUT;
    if (options->stop_after == STAGE_PARSE)
        return EXIT_DONE;
    const Spec *checked = check_ast(out->ast, &options->check, arena, diag);
    if (!checked)
        return EXIT_INPUT;
    out->spec = apply_overrides(checked, options, arena);
    out->work = workload_derive(out->spec, arena);
    if (options->stop_after == STAGE_CHECK)
        return EXIT_DONE;
    bool infeasible = false;
    if (!place_and_solve(out->work, arena, diag, &out->work, &out->solution, &infeasible))
        return infeasible ? EXIT_INFEASIBLE : EXIT_INPUT;
    if (options->stop_after == STAGE_SOLVE)
        return EXIT_DONE;
    return make_plan(diag, out);
}

void compile_release(Compilation *compilation)
{
    plan_destroy(compilation->plan);
    compilation->plan = NULL;
}
