// hepc: the program. Distinguishes inputs, calls the pipeline or loads a plan, and says what is to be printed.
#include <argp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "backends/diff.h"
#include "hepc/explain_print.h"
#include "hepc/output.h"
#include "hepc/passes_print.h"
#include "hepc/sweep_print.h"
#include "ir/base/exit_codes.h"
#include "ir/load/plan_file.h"
#include "ir/load/predictions.h"

// ---- plans as input --------------------------------------------------------------------------

static bool refuses(const Options *options, const char *what)
{
    const char *wrong = options->explain             ? "--explain"
                        : options->passes             ? "--passes"
                        : options->without            ? "-O0, --dump-before or --dump-after"
                        : options->dump == DUMP_AST   ? "--dump=ast"
                        : options->dump == DUMP_MODEL ? "--dump=model"
                        : options->dump == DUMP_MILP  ? "--dump=milp"
                        : options->checks.domain      ? "--domain"
                        : options->checks.define_count ? "-D"
                        : options->profile             ? "--profile"
                        : options->dispatch != NONE    ? "--dispatch"
                        : options->sweep_count         ? "--sweep"
                        : options->planner.prefetch != PREFETCH_UNLIMITED ? "--prefetch"
                        : options->planner.time_limit_s > 0               ? "--time-limit"
                        : options->planner.limits.gap > 0                 ? "--gap"
                                                       : NULL;
    if (wrong)
        fprintf(stderr, "hepc: %s needs a .hep file; '%s' is %s\n", wrong, options->input, what);
    return wrong;
}

static int use_plan(const Options *options, const Plan *plan)
{
    if (options->check) {
        printf("%s: good: %u steps, %u buffers\n", options->input, plan->step_count, plan->buffer_count);
        return FAULT_NONE;
    }
    Options shown = *options;
    if (options->dump == DUMP_NONE && !options->output && !options->simulate)
        shown.dump = DUMP_SUMMARY;
    return output_plan(&shown, plan, -1, NULL, false);
}

static int process_plan(const Options *options, const char *content, size_t length)
{
    if (refuses(options, plan_form(content, length) == PLAN_FORM_TEXT ? "a plan in text form" : "a binary plan"))
        return FAULT_USAGE;
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    Plan *plan = plan_load(options->input, content, length, diag);
    if (plan)
        predictions_check(options->input, plan, diag);
    output_diagnostics(diag);
    int code = plan ? use_plan(options, plan) : FAULT_INPUT;
    plan_destroy(plan);
    arena_destroy(arena);
    return code;
}

// ---- .hep as input ---------------------------------------------------------------------------

static CompileStage last_stage(const Options *options)
{
    switch (options->dump) {
    case DUMP_AST:
        return STAGE_PARSE;
    case DUMP_MODEL:
        return STAGE_CHECK;
    case DUMP_MILP:
        return STAGE_SOLVE;
    case DUMP_NONE:
    case DUMP_SUMMARY:
    case DUMP_IR:
    case DUMP_JSON:
    case DUMP_DOT:
    case DUMP_TRACE:
    case DUMP_HTML:
    case DUMP_CHAKRA:
    case DUMP_COUNT:
        return STAGE_PLAN;
    }
    return STAGE_PLAN;
}

static int print_compiled(const Options *options, const Compilation *compilation, Arena *arena)
{
    Text text = {0};
    if (options->check) {
        printf("%s: good\n", options->input);
        return FAULT_NONE;
    }
    if (options->dump == DUMP_AST) {
        ast_print(compilation->ast, &text);
        return output_text(options, &text);
    }
    if (options->dump == DUMP_MODEL) {
        output_model(compilation, &text);
        return output_text(options, &text);
    }
    if (options->dump == DUMP_MILP)
        return output_milp(options, compilation);
    if (options->passes) {
        passes_print(compilation, &text);
        return output_text(options, &text);
    }
    Explanation explanation;
    bool explain = options->explain || options->dump == DUMP_HTML;
    if (explain)
        explain_collect(compilation->work, &options->planner, &compilation->solution, arena, &explanation);
    if (options->dump == DUMP_HTML)
        explain_print_html(&explanation, &text);
    int code = output_plan(options, compilation->plan, compilation->solution.solve_s, text.data, !options->explain);
    text_free(&text);
    if (code == FAULT_NONE && options->explain) {
        (options->json ? explain_print_json : explain_print)(&explanation, &text);
        fputs(text.data, stdout);
        text_free(&text);
    }
    return code;
}

static int process_hep(const Options *options, const char *content, size_t length)
{
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    CompileOptions compile = {.name = options->input, .text = content, .length = length,
                              .check = options->checks, .profile = options->profile, .dispatch = options->dispatch,
                              .planner = options->planner, .without = options->without,
                              .stop_after = last_stage(options)};
    Compilation compilation;
    Fault fault = {0};
    bool compiled = compile_file(&compile, arena, diag, &compilation, &fault);
    output_diagnostics(diag);
    int code = compiled ? print_compiled(options, &compilation, arena) : (int)fault.kind;
    compile_release(&compilation);
    arena_destroy(arena);
    return code;
}

static atomic_int interrupted;

static void on_interrupt(int signal)
{
    (void)signal;
    atomic_store(&interrupted, 1);
}

// The first interrupt ends the sweep with what is done, a second one ends the program.
static int process_sweep(const Options *options, const char *content, size_t length)
{
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    CompileOptions compile = {.name = options->input, .text = content, .length = length,
                              .check = options->checks, .profile = options->profile, .dispatch = options->dispatch,
                              .planner = options->planner, .without = options->without};
    Sweep sweep;
    SweepRequest request = {.axes = options->sweeps, .axis_count = options->sweep_count, .progress = true,
                            .stop = &interrupted};
    Fault fault = {0};
    int code = sweep_run(&compile, &request, arena, diag, &sweep, &fault) ? FAULT_NONE : (int)fault.kind;
    output_diagnostics(diag);
    Text text = {0};
    if (code == FAULT_NONE && sweep.row_count > 0) {
        if (options->output && text_ends_with(options->output, ".json"))
            sweep_print_json(&sweep, &text);
        else if (options->output && text_ends_with(options->output, ".svg"))
            sweep_print_plot(&sweep, &text);
        else if (options->output)
            sweep_print_csv(&sweep, &text);
        else
            sweep_print_table(&sweep, &text);
        int written = output_text(options, &text);
        code = code == FAULT_NONE ? written : code;
    }
    bool whole = sweep.row_count == sweep.point_count;
    arena_destroy(arena);
    return code == FAULT_NONE && !whole ? FAULT_RUN : code;
}

// ---- two inputs ------------------------------------------------------------------------------

typedef struct {
    char *content;
    Diag *diag;
    Compilation compilation; // of a .hep file
    Plan *loaded;            // of a plan
} Obtained;

static const Plan *obtained_plan(const Obtained *obtained)
{
    return obtained->loaded ? obtained->loaded : obtained->compilation.plan;
}

// `options->input` as a plan, whatever it is.
static int obtain_plan(const Options *options, Arena *arena, Obtained *obtained)
{
    size_t length;
    const char *error;
    obtained->content = file_read(options->input, INPUT_LIMIT, &length, &error);
    if (!obtained->content)
        return output_complain(options->input, error);
    obtained->diag = diag_create(arena);
    int code = FAULT_NONE;
    PlanForm form = plan_form(obtained->content, length);
    if (form == PLAN_FORM_NONE) {
        CompileOptions compile = {.name = options->input, .text = obtained->content, .length = length,
                                  .check = options->checks, .profile = options->profile, .dispatch = options->dispatch,
                                  .planner = options->planner, .without = options->without,
                                  .stop_after = STAGE_PLAN};
        Fault fault = {0};
        if (!compile_file(&compile, arena, obtained->diag, &obtained->compilation, &fault))
            code = (int)fault.kind;
    } else if (refuses(options, form == PLAN_FORM_TEXT ? "a plan in text form" : "a binary plan")) {
        code = FAULT_USAGE;
    } else {
        obtained->loaded = plan_load(options->input, obtained->content, length, obtained->diag);
        code = obtained->loaded ? FAULT_NONE : FAULT_INPUT;
        if (obtained->loaded)
            predictions_check(options->input, obtained->loaded, obtained->diag);
    }
    output_diagnostics(obtained->diag);
    return code;
}

static void release_plan(Obtained *obtained)
{
    plan_destroy(obtained->loaded);
    compile_release(&obtained->compilation);
    free(obtained->content);
}

static int process_diff(const Options *options)
{
    Options as_it_stands = options_default(options->diff);
    Obtained obtained[2] = {0};
    Arena *arena = arena_create();
    int codes[2] = {obtain_plan(&as_it_stands, arena, &obtained[0]), obtain_plan(options, arena, &obtained[1])};
    int code = codes[0] != FAULT_NONE ? codes[0] : codes[1];
    if (code == FAULT_NONE) {
        const Plan *plans[2] = {obtained_plan(&obtained[0]), obtained_plan(&obtained[1])};
        const char *names[2] = {options->diff, options->input};
        const Diff *diff = diff_plans(plans, names, arena);
        Text text = {0};
        if (options->output && text_ends_with(options->output, ".json"))
            diff_print_json(diff, &text);
        else
            diff_print(diff, &text);
        code = output_text(options, &text);
        if (code == FAULT_NONE && !diff_is_empty(diff))
            code = FAULT_MISMATCH;
    }
    release_plan(&obtained[0]);
    release_plan(&obtained[1]);
    arena_destroy(arena);
    return code;
}

static int process(const Options *options)
{
    if (options->help_language) {
        check_print_reference(stdout);
        return FAULT_NONE;
    }
    size_t length;
    const char *error;
    if (file_is_same(options->input, options->output) ||
        (options->diff && file_is_same(options->diff, options->output))) {
        fprintf(stderr, "hepc: '%s' is the input: it will not be overwritten\n", options->output);
        return FAULT_USAGE;
    }
    // Rather now than after a long search; chakra's path is the beginning of many.
    if (options->output && options->dump != DUMP_CHAKRA && (error = file_probe(options->output)) != NULL)
        return output_complain(options->output, error);
    if (options->diff)
        return process_diff(options);
    char *content = file_read(options->input, INPUT_LIMIT, &length, &error);
    if (!content)
        return output_complain(options->input, error);
    int code;
    if (plan_form(content, length) != PLAN_FORM_NONE)
        code = process_plan(options, content, length);
    else
        code = options->sweep_count ? process_sweep(options, content, length) : process_hep(options, content, length);
    free(content);
    return code;
}

typedef struct {
    int argc;
    char **argv;
    Fault fault; // without a message where its cause has been printed
} Run;

static void run(void *context)
{
    Run *of = context;
    Options options;
    bool ok = options_parse(of->argc, of->argv, &options, &of->fault);
    if (ok && options.generate)
        ok = options_generate(options.generate, &of->fault);
    else if (ok)
        of->fault.kind = (FaultKind)process(&options);
    free(options.checks.defines);
}

int main(int argc, char **argv)
{
    Run of = {.argc = argc, .argv = argv};
    memory_guard_json();
    argp_err_exit_status = exit_code_of(FAULT_USAGE);
    Fault exhausted = {0};
    if (!memory_guard(run, &of, &exhausted))
        of.fault = exhausted;
    if (of.fault.message[0])
        fprintf(stderr, "hepc: %s\n", of.fault.message);
    if (fflush(stdout) != 0 || ferror(stdout))
        return exit_code_of((FaultKind)output_complain("standard output", "cannot be written"));
    return exit_code_of(of.fault.kind);
}
