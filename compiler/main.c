// hepc: the command line. Parses options, calls the pipeline or loads a plan, prints what was asked
// for. The only file of the compiler that prints or exits.
#include <argp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/chakra.h"
#include "backends/diff.h"
#include "backends/dot.h"
#include "backends/html.h"
#include "backends/json.h"
#include "backends/simulation_print.h"
#include "backends/summary.h"
#include "backends/trace.h"
#include "compiler/compile.h"
#include "compiler/explain.h"
#include "compiler/sweep.h"
#include "ir/binary.h"
#include "ir/plan_file.h"
#include "ir/plan_text.h"

#define HEP_DUMPS(X)                                                                                                   \
    X(SUMMARY, "summary", "what was planned and how it compares (the default)")                                        \
    X(AST, "ast", "the parsed input, printed back as .hep")                                                            \
    X(MODEL, "model", "sizes, volumes and times derived from the input")                                               \
    X(MILP, "milp", "the programme given to GLPK, in CPLEX LP format")                                                 \
    X(IR, "ir", "the schedule as text; hepc reads it back")                                                            \
    X(JSON, "json", "the plan for programs")                                                                           \
    X(DOT, "dot", "the schedule as a graph, for Graphviz")                                                             \
    X(TRACE, "trace", "the simulated run as Chrome trace events, for Perfetto and chrome://tracing")                   \
    X(HTML, "html", "a report to open in a browser: comparison, reasons, timeline, links, memory")                     \
    X(CHAKRA, "chakra", "Chakra traces for ASTRA-sim: files PREFIX.RANK.et and PREFIX.groups.json for -o PREFIX")

#define X(name, ...) DUMP_##name,
typedef enum { DUMP_NONE, HEP_DUMPS(X) DUMP_COUNT } DumpKind;
#undef X

static const char *const dump_names[] = {
    "",
#define X(name, text, doc) text,
    HEP_DUMPS(X)
#undef X
};

typedef struct {
    const char *input, *output, *merge;
    const char *diff; // what the input is compared with
    DumpKind dump;
    bool explain, json, check, simulate, help_language;
    CheckOptions checks;
    PlannerOptions planner;
    int dispatch;
    const char *sweeps[SWEEP_AXES_MAX];
    size_t sweep_count;
} Options;

enum {
    OPTION_DUMP = 256,
    OPTION_DOMAIN,
    OPTION_DISPATCH,
    OPTION_TIME_LIMIT,
    OPTION_GAP,
    OPTION_PREFETCH,
    OPTION_CHECK,
    OPTION_EXPLAIN,
    OPTION_JSON,
    OPTION_SWEEP,
    OPTION_SIMULATE,
    OPTION_EMIT,
    OPTION_DIFF,
    OPTION_MERGE,
    OPTION_LANGUAGE
};

static const PlannerOptions default_planner = {.prefetch = PREFETCH_UNLIMITED, .confirm = true};

enum { INPUT_LIMIT = 256 << 20 }; // bytes of a file

const char *argp_program_version = "hepc " HEP_VERSION;

static const char documentation[] =
    "Example: hepc samples/laptop.hep -o laptop.hepb\n\n"
    "Compile a model-and-cluster description into a communication plan for MoE training.\v"
    "Examples:\n"
    "  hepc samples/laptop.hep -o laptop.hepb\n"
    "  hepc -D \"link=1 Gbit/s\" --explain samples/laptop.hep\n"
    "  hepc --domain dc=2,gpu=1 -o forced.hepb samples/laptop.hep\n"
    "  hepc --dump=ir laptop.hepb > laptop.ir && hepc laptop.ir -o again.hepb\n"
    "  hepc --diff samples/laptop.hep -D \"link=1 Gbit/s\" samples/laptop.hep\n\n"
    "Dumps:\n"
#define X(name, text, doc) "  " text ": " doc "\n"
    HEP_DUMPS(X)
#undef X
    "\n";

static const struct argp_option option_table[] = {
    {"output", 'o', "FILE", 0, "write the binary plan to FILE; with --dump or --emit, write that instead", 0},
    {"dump", OPTION_DUMP, "KIND", OPTION_ARG_OPTIONAL, "print KIND instead, one of the dumps listed below", 0},
    {"emit", OPTION_EMIT, "KIND", 0, "as --dump=KIND, for use with -o", 0},
    {"merge", OPTION_MERGE, "FILE", 0, "with --emit=trace: add the run that 'hep-run --trace FILE' wrote of this plan",
     0},
    {"define", 'D', "NAME=VALUE", 0, "override 'let NAME', e.g. -D \"link=10 Gbit/s\"; may be repeated", 0},
    {"domain", OPTION_DOMAIN, "SIZES", 0,
     "force the strategy: auto, ep, gather, or sizes such as dc=2,gpu=8 (levels not named: 1); for layers apart "
     "\"0-3:dc=2,gpu=8; 4-11:gpu=8,regather\" (layers not named: ep)", 0},
    {"dispatch", OPTION_DISPATCH, "KIND", 0, "force naive or dedup, whatever the plan block says", 0},
    {"prefetch", OPTION_PREFETCH, "LAYERS", 0,
     "let gathers of dropped replicas run ahead by at most so many MoE layers, 0 to 8 (default: as memory allows)", 0},
    {"time-limit", OPTION_TIME_LIMIT, "SECONDS", 0,
     "stop searching then and report the gap; the plan may then differ between runs (default: none)", 0},
    {"gap", OPTION_GAP, "PERCENT", 0, "stop once the plan is proven within PERCENT of the optimum (default: 0)", 0},
    {"explain", OPTION_EXPLAIN, NULL, 0,
     "say why: runner-ups, what binds, at which bandwidth, batch, ratio and memory the choice flips, and what one more "
     "Gbit/s buys", 0},
    {"json", OPTION_JSON, NULL, 0, "with --explain or --simulate: the same for programs", 0},
    {"sweep", OPTION_SWEEP, "NAME=VALUES", 0,
     "compile at every value and print a table; VALUES are 1,2,4 or FIRST:LAST:STEP or FIRST:LAST:logCOUNT; NAME is "
     "a 'let', LEVEL.bandwidth and the like (Gbit/s, ms), or a key such as batch; up to 4 times; -o X.csv, .json, .svg",
     0},
    {"simulate", OPTION_SIMULATE, NULL, 0,
     "run the schedule in predicted time: critical path, busy streams and ports", 0},
    {"diff", OPTION_DIFF, "OTHER", 0,
     "say how FILE differs from OTHER, both .hep, .ir or .hepb, and exit 1 if it does; -D, --domain and the like are "
     "for FILE alone; -o FILE.json for programs", 0},
    {"check", OPTION_CHECK, NULL, 0, "only check the input (a plan: run the verifier)", 0},
    {"help-language", OPTION_LANGUAGE, NULL, 0, "list every block and key of the .hep language", 0},
    {0},
};

static DumpKind parse_dump(const char *text, struct argp_state *state)
{
    for (int i = 1; text && i < DUMP_COUNT; i++)
        if (strcmp(text, dump_names[i]) == 0)
            return i;
    if (!text)
        return DUMP_SUMMARY;
    const char *near = nearest_word(text, dump_names + 1, DUMP_COUNT - 1);
    Text kinds = {0};
    for (int i = 1; i < DUMP_COUNT; i++)
        text_format(&kinds, "%s%s", i == 1 ? "" : i == DUMP_COUNT - 1 ? " or " : ", ", dump_names[i]);
    argp_error(state, "unknown output '%s': expected %s%s%s%s", text, kinds.data, near ? " (did you mean '" : "",
               near ? near : "", near ? "'?)" : "");
    text_free(&kinds);
    return DUMP_NONE;
}

static double parse_number(const char *text, const char *option, double low, double high, struct argp_state *state)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= low && value <= high))
        argp_error(state, "%s takes a number from %g to %g, got '%s'", option, low, high, text);
    return value;
}

// One thing goes to standard output at a time.
static void refuse_mixtures(const Options *options, struct argp_state *state)
{
    const struct {
        const char *name;
        bool given;
    } outputs[] = {{"--dump or --emit", options->dump != DUMP_NONE},
                   {"--explain", options->explain},
                   {"--sweep", options->sweep_count > 0},
                   {"--diff", options->diff},
                   {"--simulate", options->simulate},
                   {"--check", options->check}};
    const char *first = NULL;
    for (size_t i = 0; i < COUNT_OF(outputs); i++) {
        if (!outputs[i].given)
            continue;
        if (first)
            argp_error(state, "%s and %s do not go together", first, outputs[i].name);
        first = outputs[i].name;
    }
    if (options->dump == DUMP_CHAKRA && (!options->output || !strcmp(options->output, "-")))
        argp_error(state, "--emit=chakra writes a file per rank: give -o PREFIX");
    if (options->merge && options->dump != DUMP_TRACE)
        argp_error(state, "--merge adds a run to a simulated one: it needs --emit=trace");
    if (options->json && !options->explain && !options->simulate)
        argp_error(state, "--json goes with --explain or --simulate; the plan itself for programs is --dump=json");
    if (options->check && options->output)
        argp_error(state, "--check writes nothing: it does not go together with --output");
}

static error_t parse_option(int key, char *argument, struct argp_state *state)
{
    Options *options = state->input;
    switch (key) {
    case 'o':
        options->output = argument;
        return 0;
    case 'D':
        options->checks.defines = realloc(options->checks.defines,
                                          (options->checks.define_count + 1) * sizeof *options->checks.defines);
        options->checks.defines[options->checks.define_count++] = argument;
        return 0;
    case OPTION_DUMP:
    case OPTION_EMIT:
        options->dump = parse_dump(argument, state);
        return 0;
    case OPTION_DIFF:
        options->diff = argument;
        return 0;
    case OPTION_MERGE:
        options->merge = argument;
        return 0;
    case OPTION_DOMAIN:
        options->checks.domain = argument;
        return 0;
    case OPTION_DISPATCH:
        options->dispatch = dispatch_parse(argument);
        if (options->dispatch < 0)
            argp_error(state, "unknown dispatch '%s': expected naive or dedup", argument);
        return 0;
    case OPTION_PREFETCH:
        options->planner.prefetch = (uint32_t)parse_number(argument, "--prefetch", 0, PREFETCH_MAX, state);
        return 0;
    case OPTION_TIME_LIMIT:
        options->planner.limits.time_limit_s = parse_number(argument, "--time-limit", 1e-3, 1e6, state);
        return 0;
    case OPTION_GAP:
        options->planner.limits.gap = parse_number(argument, "--gap", 0, 100, state) / 100;
        return 0;
    case OPTION_EXPLAIN:
        options->explain = true;
        return 0;
    case OPTION_JSON:
        options->json = true;
        return 0;
    case OPTION_SWEEP:
        if (options->sweep_count == SWEEP_AXES_MAX)
            argp_error(state, "at most %d --sweep options", SWEEP_AXES_MAX);
        options->sweeps[options->sweep_count++] = argument;
        return 0;
    case OPTION_SIMULATE:
        options->simulate = true;
        return 0;
    case OPTION_CHECK:
        options->check = true;
        return 0;
    case OPTION_LANGUAGE:
        options->help_language = true;
        return 0;
    case ARGP_KEY_ARG:
        if (options->input)
            argp_error(state, "one input file at a time: '%s' and '%s'", options->input, argument);
        options->input = argument;
        return 0;
    case ARGP_KEY_END:
        if (!options->input && !options->help_language)
            argp_error(state, "no input file: give a .hep, .ir or .hepb file ('-' reads standard input)");
        refuse_mixtures(options, state);
        return 0;
    }
    return ARGP_ERR_UNKNOWN;
}

static char *append_exit_codes(int key, const char *text, void *input)
{
    (void)input;
    if (key != ARGP_KEY_HELP_POST_DOC || !text)
        return (char *)text;
    char *whole = NULL;
    if (asprintf(&whole, "%s%s", text, exit_codes_help()) < 0)
        return (char *)text;
    return whole;
}

static int complain(const char *path, const char *reason)
{
    fprintf(stderr, "hepc: %s: %s\n", path, reason);
    return EXIT_IO;
}

static int write_output(const Options *options, const void *data, size_t length)
{
    const char *path = options->output ? options->output : "-";
    const char *error = file_write(path, data, length);
    return error ? complain(path, error) : EXIT_DONE;
}

static int write_text(const Options *options, Text *text)
{
    int code = write_output(options, text->data ? text->data : "", text->length);
    text_free(text);
    return code;
}

// ---- printing --------------------------------------------------------------------------------

static void print_model(const Compilation *compilation, Text *out)
{
    const Spec *spec = compilation->spec;
    const Workload *work = compilation->work;
    char a[FORMAT_MAX], b[FORMAT_MAX], c[FORMAT_MAX], d[FORMAT_MAX];
    text_format(out, "model %s on cluster %s, one GPU, forward pass, before any choice\n\n", spec->model.name,
                spec->cluster.name);
    const SpecModel *model = &spec->model;
    if (!model->abstract)
        text_format(out,
                    "%u layers, hidden %u, heads %u (%u for keys and values) of %u, vocabulary %u, %s\n"
                    "%u experts of %u, top-%u, %u shared; dense layers of %u; %s parameters, %s of them active\n\n",
                    model->layers, model->hidden, model->heads, model->kv_heads, model->head_dim, model->vocabulary,
                    dtype_name(model->dtype), model->experts, model->inner, model->top_k, model->shared_experts,
                    model->ffn_inner, format_count(a, model->total_parameters),
                    format_count(b, model->active_parameters));
    text_format(out, "%-9s %-6s %12s %12s %12s %12s\n", "layers", "kind", "tokens D", "experts P", "pre-expert",
                "dense");
    for (uint32_t k = 0; k < work->layer_count;) {
        uint32_t end = k + 1;
        while (end < work->layer_count && memcmp(&work->layers[end], &work->layers[k], sizeof work->layers[k]) == 0)
            end++;
        const LayerWork *layer = &work->layers[k];
        char range[32];
        snprintf(range, sizeof range, end - k > 1 ? "%u..%u" : "%u", k, end - 1);
        text_format(out, "%-9s %-6s %12s %12s %12s %12s\n", range, layer->is_moe ? "MoE" : "dense",
                    format_bytes(a, layer->data_bytes), format_bytes(b, layer->sent_bytes),
                    format_time(c, layer->pre_expert_s), format_time(d, layer->dense_s));
        k = end;
    }
    text_format(out, "\nexperts as sent; uncompressed gradients to all-reduce when training: %s; loss %s\n",
                format_bytes(a, work->dense_gradient_bytes), format_time(b, work->loss_s));
    for (uint32_t l = 0; l < spec->cluster.level_count; l++)
        text_format(out, "level %-8s %6u workers, port %s, latency %s, %llu GPUs share it\n",
                    spec->cluster.levels[l].name,
                    spec->cluster.levels[l].count, format_bandwidth(a, spec->cluster.levels[l].bandwidth_bytes_per_s),
                    format_time(b, spec->cluster.levels[l].latency_s),
                    (unsigned long long)cluster_gpus_below(&spec->cluster, l));
    if (spec->replica_levels)
        text_format(out, "experts are replicated over the %u outermost level(s)\n", spec->replica_levels);
}

static int print_milp(const Options *options, const Compilation *compilation)
{
    Text text = {0};
    const char *error = NULL;
    Arena *arena = arena_create();
    Formulated formulated = planner_formulate(compilation->work, &compilation->solution, arena);
    bool printed = milp_print(formulated.milp, &text, &error);
    milp_destroy(formulated.milp);
    arena_destroy(arena);
    if (!printed) {
        text_free(&text);
        return complain("--dump=milp", error);
    }
    return write_text(options, &text);
}

typedef struct {
    uint8_t *bytes;
    size_t length;
} Encoded;

static int write_file(const char *path, Text *text)
{
    const char *error = file_write(path, text->data ? text->data : "", text->length);
    text->length = 0;
    return error ? complain(path, error) : EXIT_DONE;
}

static int write_chakra(const Options *options, const Plan *plan)
{
    uint64_t ranks = cluster_gpus(&plan->cluster);
    if (!chakra_available()) {
        fputs("hepc: --emit=chakra: built without protobuf-c: run scripts/install-deps and build again\n", stderr);
        return EXIT_USAGE;
    }
    if (ranks > CHAKRA_RANKS_MAX) {
        fprintf(stderr, "hepc: --emit=chakra writes a file per rank: %llu are too many, at most %d\n",
                (unsigned long long)ranks, CHAKRA_RANKS_MAX);
        return EXIT_USAGE;
    }
    Arena *arena = arena_create();
    const Chakra *chakra = chakra_create(plan, arena);
    Text text = {0};
    chakra_print_groups(chakra, &text);
    int code = write_file(arena_format(arena, "%s.groups.json", options->output), &text);
    for (uint64_t rank = 0; rank < ranks && code == EXIT_DONE; rank++) {
        chakra_print_rank(chakra, rank, &text);
        code = write_file(arena_format(arena, "%s.%llu.et", options->output, (unsigned long long)rank), &text);
    }
    text_free(&text);
    arena_destroy(arena);
    return code;
}

// The simulated run, with a real one beside it if there is one.
static int print_trace(const Options *options, const Plan *plan)
{
    Text text = {0};
    TraceRun run = {0};
    const char *error = NULL;
    char *content = options->merge ? file_read(options->merge, INPUT_LIMIT, &run.length, &error) : NULL;
    if (error)
        return complain(options->merge, error);
    run.text = content;
    error = trace_print(plan, content ? &run : NULL, &text);
    free(content);
    if (!error)
        return write_text(options, &text);
    text_free(&text);
    fprintf(stderr, "hepc: %s: %s\n", options->merge, error);
    return EXIT_INPUT;
}

// `reasons`: for the report; NULL for a plan as input, which does not hold them.
static int print_plan(const Options *options, const Plan *plan, double solve_s, const char *reasons,
                      const Encoded *encoded)
{
    Text text = {0};
    switch (options->dump) {
    case DUMP_IR:
        plan_print(plan, &text);
        break;
    case DUMP_JSON:
        json_print(plan, solve_s, encoded->length, &text);
        break;
    case DUMP_DOT:
        dot_print(plan, &text);
        break;
    case DUMP_TRACE:
        return print_trace(options, plan);
    case DUMP_HTML:
        html_print(plan, reasons, &text);
        break;
    case DUMP_CHAKRA:
        return write_chakra(options, plan);
    case DUMP_SUMMARY:
        summary_print(plan, encoded->length, &text);
        break;
    case DUMP_AST: // these come before there is a plan
    case DUMP_MODEL:
    case DUMP_MILP:
    case DUMP_NONE:
    case DUMP_COUNT:
        break;
    }
    return write_text(options, &text);
}

// ---- plans as input --------------------------------------------------------------------------

static void print_simulation(const Options *options, const Plan *plan)
{
    Arena *arena = arena_create();
    Text text = {0};
    (options->json ? simulation_print_json : simulation_print)(plan, simulate(plan, arena), &text);
    fputs(text.data, stdout);
    text_free(&text);
    arena_destroy(arena);
}

static int finish(const Options *options, const Plan *plan, double solve_s, const char *reasons, bool compare)
{
    Encoded encoded = {0};
    char error[PLAN_ERROR_MAX];
    if (!plan_encode(plan, &encoded.bytes, &encoded.length, error)) {
        fprintf(stderr, "hepc: %s: the plan cannot be written: %s\n", options->input, error);
        return EXIT_INPUT;
    }
    int code = EXIT_DONE;
    if (options->dump != DUMP_NONE) {
        code = print_plan(options, plan, solve_s, reasons, &encoded);
    } else {
        if (options->output)
            code = write_output(options, encoded.bytes, encoded.length);
        bool to_stdout = options->output && strcmp(options->output, "-") == 0;
        if (to_stdout || code != EXIT_DONE)
            compare = false;
        else if (options->simulate)
            print_simulation(options, plan);
        if (compare && !options->simulate) {
            Text text = {0};
            summary_print_comparison(plan, &text);
            fputs(text.data, stdout);
            text_free(&text);
        }
    }
    free(encoded.bytes);
    return code;
}

static bool refuses(const Options *options, const char *what)
{
    const char *wrong = options->explain             ? "--explain"
                        : options->dump == DUMP_AST   ? "--dump=ast"
                        : options->dump == DUMP_MODEL ? "--dump=model"
                        : options->dump == DUMP_MILP  ? "--dump=milp"
                        : options->checks.domain      ? "--domain"
                        : options->checks.define_count ? "-D"
                        : options->dispatch != NONE    ? "--dispatch"
                                                       : NULL;
    if (wrong)
        fprintf(stderr, "hepc: %s needs a .hep file; '%s' is %s\n", wrong, options->input, what);
    return wrong;
}

static int use_plan(const Options *options, const Plan *plan)
{
    if (options->check) {
        printf("%s: good: %u steps, %u buffers\n", options->input, plan->step_count, plan->buffer_count);
        return EXIT_DONE;
    }
    Options shown = *options;
    if (options->dump == DUMP_NONE && !options->output && !options->simulate)
        shown.dump = DUMP_SUMMARY;
    return finish(&shown, plan, -1, NULL, false);
}

static void print_diagnostics(const Diag *diag)
{
    diag_print(diag, stderr, isatty(STDERR_FILENO) && !getenv("NO_COLOR"));
}

static int process_plan(const Options *options, const char *content, size_t length)
{
    if (refuses(options, plan_form(content, length) == PLAN_FORM_TEXT ? "a plan in text form" : "a binary plan"))
        return EXIT_USAGE;
    Arena *arena = arena_create();
    Diag *diag = diag_create(arena);
    Plan *plan = plan_load(options->input, content, length, diag);
    print_diagnostics(diag);
    int code = plan ? use_plan(options, plan) : EXIT_INPUT;
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
        return EXIT_DONE;
    }
    if (options->dump == DUMP_AST) {
        ast_print(compilation->ast, &text);
        return write_text(options, &text);
    }
    if (options->dump == DUMP_MODEL) {
        print_model(compilation, &text);
        return write_text(options, &text);
    }
    if (options->dump == DUMP_MILP)
        return print_milp(options, compilation);
    Explanation explanation;
    bool explain = options->explain || options->dump == DUMP_HTML;
    if (explain)
        explain_collect(compilation->work, &options->planner, &compilation->solution, arena, &explanation);
    if (options->dump == DUMP_HTML)
        explain_print_html(&explanation, &text);
    int code = finish(options, compilation->plan, compilation->solution.solve_s, text.data, !options->explain);
    text_free(&text);
    if (code == EXIT_DONE && options->explain) {
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
                              .check = options->checks, .dispatch = options->dispatch,
                              .planner = options->planner,
                              .stop_after = last_stage(options)};
    Compilation compilation;
    int code = compile_file(&compile, arena, diag, &compilation);
    print_diagnostics(diag);
    if (code == EXIT_DONE)
        code = print_compiled(options, &compilation, arena);
    compile_release(&compilation);
    arena_destroy(arena);
    return code;
}

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal)
{
    (void)signal;
    interrupted = 1;
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), tail = strlen(end);
    return length >= tail && !strcmp(text + length - tail, end);
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
                              .check = options->checks, .dispatch = options->dispatch,
                              .planner = options->planner};
    Sweep sweep;
    int code = sweep_run(&compile, options->sweeps, options->sweep_count, true, &interrupted, arena, diag, &sweep);
    print_diagnostics(diag);
    Text text = {0};
    if (code == EXIT_DONE && sweep.row_count > 0) {
        if (options->output && ends_with(options->output, ".json"))
            sweep_print_json(&sweep, &text);
        else if (options->output && ends_with(options->output, ".svg"))
            sweep_print_plot(&sweep, &text);
        else if (options->output)
            sweep_print_csv(&sweep, &text);
        else
            sweep_print_table(&sweep, &text);
        int written = write_text(options, &text);
        code = code == EXIT_DONE ? written : code;
    }
    bool whole = sweep.row_count == sweep.point_count;
    arena_destroy(arena);
    return code == EXIT_DONE && !whole ? EXIT_FAULT : code;
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
        return complain(options->input, error);
    obtained->diag = diag_create(arena);
    int code = EXIT_DONE;
    PlanForm form = plan_form(obtained->content, length);
    if (form == PLAN_FORM_NONE) {
        CompileOptions compile = {.name = options->input, .text = obtained->content, .length = length,
                                  .check = options->checks, .dispatch = options->dispatch,
                                  .planner = options->planner, .stop_after = STAGE_PLAN};
        code = compile_file(&compile, arena, obtained->diag, &obtained->compilation);
    } else if (refuses(options, form == PLAN_FORM_TEXT ? "a plan in text form" : "a binary plan")) {
        code = EXIT_USAGE;
    } else {
        obtained->loaded = plan_load(options->input, obtained->content, length, obtained->diag);
        code = obtained->loaded ? EXIT_DONE : EXIT_INPUT;
    }
    print_diagnostics(obtained->diag);
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
    Options as_it_stands = {.input = options->diff, .dispatch = NONE, .planner = default_planner};
    Obtained obtained[2] = {0};
    Arena *arena = arena_create();
    int codes[2] = {obtain_plan(&as_it_stands, arena, &obtained[0]), obtain_plan(options, arena, &obtained[1])};
    int code = codes[0] != EXIT_DONE ? codes[0] : codes[1];
    if (code == EXIT_DONE) {
        const Plan *plans[2] = {obtained_plan(&obtained[0]), obtained_plan(&obtained[1])};
        const char *names[2] = {options->diff, options->input};
        const Diff *diff = diff_plans(plans, names, arena);
        Text text = {0};
        if (options->output && ends_with(options->output, ".json"))
            diff_print_json(diff, &text);
        else
            diff_print(diff, &text);
        code = write_text(options, &text);
        if (code == EXIT_DONE && !diff_is_empty(diff))
            code = EXIT_MISMATCH;
    }
    release_plan(&obtained[0]);
    release_plan(&obtained[1]);
    arena_destroy(arena);
    return code;
}

static bool is_same_file(const char *input, const char *output)
{
    struct stat in, out;
    return output && stat(input, &in) == 0 && stat(output, &out) == 0 && S_ISREG(in.st_mode) &&
           in.st_dev == out.st_dev && in.st_ino == out.st_ino;
}

static int process(const Options *options)
{
    if (options->help_language) {
        check_print_reference(stdout);
        return EXIT_DONE;
    }
    size_t length;
    const char *error;
    if (is_same_file(options->input, options->output) ||
        (options->diff && is_same_file(options->diff, options->output))) {
        fprintf(stderr, "hepc: '%s' is the input: it will not be overwritten\n", options->output);
        return EXIT_USAGE;
    }
    // Rather now than after a long search; chakra's path is the beginning of many.
    if (options->output && options->dump != DUMP_CHAKRA && (error = file_probe(options->output)) != NULL)
        return complain(options->output, error);
    if (options->diff)
        return process_diff(options);
    char *content = file_read(options->input, INPUT_LIMIT, &length, &error);
    if (!content)
        return complain(options->input, error);
    int code;
    if (plan_form(content, length) != PLAN_FORM_NONE)
        code = process_plan(options, content, length);
    else
        code = options->sweep_count ? process_sweep(options, content, length) : process_hep(options, content, length);
    free(content);
    return code;
}

int main(int argc, char **argv)
{
    static const struct argp parser = {option_table, parse_option,      "FILE", documentation,
                                       NULL,         append_exit_codes, NULL};
    argp_err_exit_status = EXIT_USAGE;
    Options options = {.dispatch = NONE, .planner = default_planner};
    argp_parse(&parser, argc, argv, 0, NULL, &options);
    int code = process(&options);
    free(options.checks.defines);
    if (fflush(stdout) != 0 || ferror(stdout))
        return complain("standard output", "cannot be written");
    return code;
}
