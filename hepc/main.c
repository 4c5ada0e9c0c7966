// hepc: the program. Distinguishes inputs, calls the pipeline or loads a plan, and says what is to be printed.
#include <argp.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "backends/diff.h"
#include "hepc/explain_print.h"
#include "hepc/output.h"
#include "hepc/passes_print.h"
#include "hepc/sweep_print.h"
#include "ir/base/exit_codes.h"
#include "ir/load/plan_file.h"
#include "ir/load/predictions.h"

static void print_diagnostics(const Diag *diag)
{
    diag_print(diag, stderr, isatty(STDERR_FILENO) && !getenv("NO_COLOR"));
}

// ---- plans as input --------------------------------------------------------------------------

// Without options that only a .hep file can be asked for?
static bool check_plan_options(const Options *options, PlanForm form, Fault *fault)
{
    const char *wrong = options->explain                                  ? "--explain"
                        : options->passes                                 ? "--passes"
                        : options->without                                ? "-O0, --dump-before or --dump-after"
                        : options->dump == DUMP_AST                       ? "--dump=ast"
                        : options->dump == DUMP_MODEL                     ? "--dump=model"
                        : options->dump == DUMP_MILP                      ? "--dump=milp"
                        : options->checks.domain                          ? "--domain"
                        : options->checks.define_count                    ? "-D"
                        : options->profile                                ? "--profile"
                        : options->dispatch != NONE                       ? "--dispatch"
                        : options->sweep_count                            ? "--sweep"
                        : options->planner.prefetch != PREFETCH_UNLIMITED ? "--prefetch"
                        : options->planner.time_limit_s > 0               ? "--time-limit"
                        : options->planner.limits.gap > 0                 ? "--gap"
                                                                          : NULL;
    return !wrong || fault_set(fault, FAULT_USAGE, "%s needs a .hep file; '%s' is %s", wrong, options->input,
                               form == PLAN_FORM_TEXT ? "a plan in text form" : "a binary plan");
}

static bool use_plan(const Options *options, const Plan *plan, Fault *fault)
{
    if (options->check) {
        printf("%s: good: %u steps, %u buffers\n", options->input, plan->step_count, plan->buffer_count);
        return true;
    }
    Options shown = *options;
    if (options->dump == DUMP_NONE && !options->output && !options->simulate)
        shown.dump = DUMP_SUMMARY;
    return output_plan(&shown, plan, &(PlanContext){.solve_s = -1}, fault);
}

static bool process_plan(const Options *options, const char *content, size_t length, Fault *fault)
{
    if (!check_plan_options(options, plan_form(content, length), fault))
        return false;
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    Plan *plan = plan_load(options->input, content, length, diag);
    if (plan)
        predictions_check(options->input, plan, diag);
    print_diagnostics(diag);
    bool ok = plan ? use_plan(options, plan, fault) : fault_reported(fault, FAULT_INPUT);
    plan_destroy(plan);
    arena_destroy(arena);
    return ok;
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
    case DUMP_LAYOUT:
    case DUMP_DOT:
    case DUMP_TRACE:
    case DUMP_HTML:
    case DUMP_CHAKRA:
    case DUMP_COUNT:
        return STAGE_PLAN;
    }
    return STAGE_PLAN;
}

static bool print_compiled(const Options *options, const Compilation *compilation, Arena *arena, Fault *fault)
{
    Text text = {0};
    if (options->check) {
        printf("%s: good\n", options->input);
        return true;
    }
    if (options->dump == DUMP_AST) {
        ast_print(compilation->ast, &text);
        return output_text(options, &text, fault);
    }
    if (options->dump == DUMP_MODEL) {
        output_model(compilation, &text);
        return output_text(options, &text, fault);
    }
    if (options->dump == DUMP_MILP)
        return output_milp(options, compilation, fault);
    if (options->passes) {
        passes_print(compilation, &text);
        return output_text(options, &text, fault);
    }
    Explanation explanation;
    bool explain = options->explain || options->dump == DUMP_HTML;
    if (explain)
        explain_collect(compilation->work, &options->planner, &compilation->solution, arena, &explanation);
    if (options->dump == DUMP_HTML)
        explain_print_html(&explanation, &text);
    PlanContext context = {
        .solve_s = compilation->solution.solve_s, .reasons = text.data, .compare = !options->explain};
    bool ok = output_plan(options, compilation->plan, &context, fault);
    text_free(&text);
    if (ok && options->explain) {
        (options->json ? explain_print_json : explain_print)(&explanation, &text);
        fputs(text.data, stdout);
        text_free(&text);
    }
    return ok;
}

// What the command line asks of the compiler, for `content` as input.
static CompileOptions compile_options(const Options *options, const char *content, size_t length)
{
    return (CompileOptions){.name = options->input,
                            .text = content,
                            .length = length,
                            .check = options->checks,
                            .profile = options->profile,
                            .dispatch = options->dispatch,
                            .planner = options->planner,
                            .without = options->without};
}

static bool process_hep(const Options *options, const char *content, size_t length, Fault *fault)
{
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    CompileOptions compile = compile_options(options, content, length);
    compile.stop_after = last_stage(options);
    Compilation compilation;
    bool ok = compile_file(&compile, arena, diag, &compilation, fault);
    print_diagnostics(diag);
    ok = ok && print_compiled(options, &compilation, arena, fault);
    compile_release(&compilation);
    arena_destroy(arena);
    return ok;
}

static atomic_int interrupted;

static void on_interrupt(int signal)
{
    (void)signal;
    atomic_store(&interrupted, 1);
}

static void show_point(size_t done, size_t count)
{
    fprintf(stderr, "\rhepc: point %zu of %zu%s", done, count, done < count && !atomic_load(&interrupted) ? "" : "\n");
}

static void show_refused(const char *point, const Diag *causes)
{
    fprintf(stderr, "hepc: at %s:\n", point);
    diag_print(causes, stderr, false);
}

static bool print_sweep(const Options *options, const Sweep *sweep, Fault *fault)
{
    Text text = {0};
    if (options->output && text_ends_with(options->output, ".json"))
        sweep_print_json(sweep, &text);
    else if (options->output && text_ends_with(options->output, ".svg"))
        sweep_print_plot(sweep, &text);
    else if (options->output)
        sweep_print_csv(sweep, &text);
    else
        sweep_print_table(sweep, &text);
    return output_text(options, &text, fault);
}

// The first interrupt ends the sweep with what is done, a second one ends the program.
static bool process_sweep(const Options *options, const char *content, size_t length, Fault *fault)
{
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    struct sigaction hang_up;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    if (sigaction(SIGHUP, NULL, &hang_up) == 0 && hang_up.sa_handler != SIG_IGN) // nohup
        sigaction(SIGHUP, &action, NULL);
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    CompileOptions compile = compile_options(options, content, length);
    Sweep sweep;
    SweepRequest request = {.axes = options->sweeps,
                            .axis_count = options->sweep_count,
                            .stop = &interrupted,
                            .progress = isatty(STDERR_FILENO) ? show_point : NULL,
                            .refused = show_refused};
    bool ok = sweep_run(&compile, &request, arena, diag, &sweep, fault);
    print_diagnostics(diag);
    if (ok && sweep.row_count > 0)
        ok = print_sweep(options, &sweep, fault);
    if (ok && sweep.row_count != sweep.point_count)
        ok = fault_reported(fault, FAULT_INTERRUPTED);
    arena_destroy(arena);
    return ok;
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
static bool obtain_plan(const Options *options, Arena *arena, Obtained *obtained, Fault *fault)
{
    size_t length;
    obtained->content = file_read(options->input, INPUT_LIMIT, &length, fault);
    if (!obtained->content)
        return fault_prefix(fault, "%s", options->input);
    obtained->diag = diag_create(arena);
    bool ok = true;
    PlanForm form = plan_form(obtained->content, length);
    if (form == PLAN_FORM_NONE) {
        CompileOptions compile = compile_options(options, obtained->content, length);
        compile.stop_after = STAGE_PLAN;
        ok = compile_file(&compile, arena, obtained->diag, &obtained->compilation, fault);
    } else if (!check_plan_options(options, form, fault)) {
        ok = false;
    } else {
        obtained->loaded = plan_load(options->input, obtained->content, length, obtained->diag);
        if (obtained->loaded)
            predictions_check(options->input, obtained->loaded, obtained->diag);
        else
            ok = fault_reported(fault, FAULT_INPUT);
    }
    print_diagnostics(obtained->diag);
    return ok;
}

static void release_plan(Obtained *obtained)
{
    plan_destroy(obtained->loaded);
    compile_release(&obtained->compilation);
    free(obtained->content);
}

static bool print_diff(const Options *options, const Diff *diff, Fault *fault)
{
    Text text = {0};
    if (options->output && text_ends_with(options->output, ".json"))
        diff_print_json(diff, &text);
    else
        diff_print(diff, &text);
    return output_text(options, &text, fault) && (diff_is_empty(diff) || fault_reported(fault, FAULT_MISMATCH));
}

static bool process_diff(const Options *options, Fault *fault)
{
    Options as_it_stands = options_default(options->diff);
    Obtained obtained[2] = {0};
    Arena *arena = arena_create();
    bool ok =
        obtain_plan(&as_it_stands, arena, &obtained[0], fault) && obtain_plan(options, arena, &obtained[1], fault);
    if (ok) {
        const Plan *plans[2] = {obtained_plan(&obtained[0]), obtained_plan(&obtained[1])};
        const char *names[2] = {options->diff, options->input};
        ok = print_diff(options, diff_plans(plans, names, arena), fault);
    }
    release_plan(&obtained[0]);
    release_plan(&obtained[1]);
    arena_destroy(arena);
    return ok;
}

static bool process(const Options *options, Fault *fault)
{
    if (options->help_language) {
        check_print_reference(stdout);
        return true;
    }
    size_t length;
    if (file_is_same(options->input, options->output) ||
        (options->diff && file_is_same(options->diff, options->output)))
        return fault_set(fault, FAULT_USAGE, "'%s' is the input: it will not be overwritten", options->output);
    // Rather now than after a long search; chakra's path is the beginning of many.
    if (options->output && options->dump != DUMP_CHAKRA && !file_probe(options->output, fault))
        return fault_prefix(fault, "%s", options->output);
    if (options->diff)
        return process_diff(options, fault);
    char *content = file_read(options->input, INPUT_LIMIT, &length, fault);
    if (!content)
        return fault_prefix(fault, "%s", options->input);
    bool ok = plan_form(content, length) != PLAN_FORM_NONE ? process_plan(options, content, length, fault)
              : options->sweep_count                       ? process_sweep(options, content, length, fault)
                                                           : process_hep(options, content, length, fault);
    free(content);
    return ok;
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
    ok = ok && (options.generate ? options_generate(options.generate, &of->fault) : process(&options, &of->fault));
    if (!ok && of->fault.kind == FAULT_NONE)
        fault_set(&of->fault, FAULT_INTERNAL, "a failure without a cause");
    free(options.checks.defines);
}

// argp ends the program by itself after --help: whether that could be written is known at the end alone.
static void check_output(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return;
    fputs("hepc: standard output: cannot be written\n", stderr);
    _exit(exit_code_of(FAULT_IO));
}

// Thousands of plans are lowered and forgotten: what they took is not to be given back to the system each time.
static void keep_freed_memory(void)
{
#ifdef M_TRIM_THRESHOLD
    mallopt(M_TRIM_THRESHOLD, 256 << 20);
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
#endif
}

int main(int argc, char **argv)
{
    Run of = {.argc = argc, .argv = argv};
    atexit(check_output);
    signal(SIGXFSZ, SIG_IGN); // a limit of file sizes is a fault like others
    keep_freed_memory();
    memory_guard_json();
    argp_err_exit_status = exit_code_of(FAULT_USAGE);
    Fault exhausted = {0};
    if (!memory_guard(run, &of, &exhausted))
        of.fault = exhausted;
    if (of.fault.message[0])
        fprintf(stderr, "hepc: %s\n", of.fault.message);
    return exit_code_of(of.fault.kind);
}
