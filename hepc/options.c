// See options.h.
#include "hepc/options.h"

#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compiler/frontend/syntax.h"
#include "ir/base/arena.h"
#include "ir/base/command.h"
#include "ir/base/exit_codes.h"

static const char *const dump_names[] = {"",
#define X(name, text, doc) text,
                                         HEP_DUMPS(X)
#undef X
};

enum {
    OPTION_DUMP = 256,
    OPTION_DOMAIN,
    OPTION_DISPATCH,
    OPTION_TIME_LIMIT,
    OPTION_GAP,
    OPTION_PROFILE,
    OPTION_PREFETCH,
    OPTION_CHECK,
    OPTION_EXPLAIN,
    OPTION_JSON,
    OPTION_SWEEP,
    OPTION_SIMULATE,
    OPTION_EMIT,
    OPTION_DIFF,
    OPTION_MERGE,
    OPTION_PASSES,
    OPTION_DUMP_BEFORE,
    OPTION_DUMP_AFTER,
    OPTION_LANGUAGE,
    OPTION_GENERATE
};

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
     "force the strategy: auto, ep, gather, or sizes such as dc=2,gpu=8 (levels not named: least); per layer "
     "\"0-3:dc=2,gpu=8; 4-11:gpu=8,regather\" (layers not named: ep); once=LEVEL keeps what that level and those "
     "outside gather, lap=N takes N micro-batches through a layer at a time",
     0},
    {"dispatch", OPTION_DISPATCH, "KIND", 0, "force naive or dedup, whatever the plan block says", 0},
    {"profile", OPTION_PROFILE, "FILE", 0,
     "take the times and the routing of every layer that 'hep-run --profile FILE' measured", 0},
    {"prefetch", OPTION_PREFETCH, "LAYERS", 0,
     "let gathers of dropped replicas run ahead by at most so many MoE layers, 0 to 8 (default: as memory allows)", 0},
    {"time-limit", OPTION_TIME_LIMIT, "SECONDS", 0,
     "stop searching then and report the gap; the plan may then differ between runs (default: none)", 0},
    {"gap", OPTION_GAP, "PERCENT", 0, "stop once the plan is proven within PERCENT of the optimum (default: 0)", 0},
    {"optimize", 'O', "LEVEL", 0,
     "0: skip the passes that decide when steps run and where buffers lie; 1 (the default): run them", 0},
    {"passes", OPTION_PASSES, NULL, 0, "say what each of these passes does to the schedule", 0},
    {"dump-before", OPTION_DUMP_BEFORE, "PASS", 0, "with --dump or --emit: of the schedule before PASS ran", 0},
    {"dump-after", OPTION_DUMP_AFTER, "PASS", 0, "the same, after PASS and before the next one", 0},
    {"explain", OPTION_EXPLAIN, NULL, 0,
     "say why: runner-ups, what binds, at which bandwidth, batch, ratio and memory the choice flips, from which "
     "bandwidth plain EP is as good, and what one more Gbit/s buys",
     0},
    {"json", OPTION_JSON, NULL, 0, "with --explain or --simulate: the same for programs", 0},
    {"sweep", OPTION_SWEEP, "NAME=VALUES", 0,
     "compile at every value and print a table; VALUES are 1,2,4 or FIRST:LAST:STEP or FIRST:LAST:logCOUNT; NAME is "
     "a 'let', LEVEL.bandwidth and the like (Gbit/s, ms), or a key such as batch; up to 4 times; -o X.csv, .json, .svg",
     0},
    {"simulate", OPTION_SIMULATE, NULL, 0, "run the schedule in predicted time: critical path, busy streams and ports",
     0},
    {"diff", OPTION_DIFF, "OTHER", 0,
     "say how FILE differs from OTHER, both .hep, .ir or .hepb, and exit 1 if it does; -D, --domain and the like are "
     "for FILE alone; -o FILE.json for programs",
     0},
    {"check", OPTION_CHECK, NULL, 0, "only check the input (a plan: run the verifier)", 0},
    {"help-language", OPTION_LANGUAGE, NULL, 0, "list every block and key of the .hep language", 0},
    {"generate", OPTION_GENERATE, "KIND", OPTION_HIDDEN, "", 0},
    {0},
};

// ---- what is generated when hepc is built ---------------------------------------------------

static const char *dump_word(size_t index)
{
    return index + 1 < DUMP_COUNT ? dump_names[index + 1] : NULL;
}

static const char *pass_word(size_t index)
{
    return index < PLAN_PASS_COUNT ? plan_pass_info((PlanPass)index)->name : NULL;
}

static const char *dispatch_word(size_t index)
{
    return index < DISPATCH_COUNT ? dispatch_name((Dispatch)index) : NULL;
}

static const char *level_word(size_t index)
{
    static const char *const words[] = {"0", "1"};
    return index < COUNT_OF(words) ? words[index] : NULL;
}

static const char *domain_word(size_t index)
{
    static const char *const words[] = {"auto", "ep", "gather"};
    return index < COUNT_OF(words) ? words[index] : NULL;
}

static const char *input_ending(size_t index)
{
    static const char *const endings[] = {"hep", "ir", "hepb"};
    return index < COUNT_OF(endings) ? endings[index] : NULL;
}

bool options_generate(const char *kind, Fault *fault)
{
    static const CommandWords words[] = {{OPTION_DUMP, dump_word},
                                         {OPTION_EMIT, dump_word},
                                         {OPTION_DISPATCH, dispatch_word},
                                         {OPTION_DOMAIN, domain_word},
                                         {OPTION_DUMP_BEFORE, pass_word},
                                         {OPTION_DUMP_AFTER, pass_word},
                                         {'O', level_word},
                                         {COMMAND_ARGUMENT, input_ending}};
    static const char purpose[] = "compile a model and a cluster into a communication plan for MoE training";
    static const Command command = {.name = "hepc",
                                    .purpose = purpose,
                                    .version = HEP_VERSION,
                                    .argument = "FILE",
                                    .documentation = documentation,
                                    .see_also = "hep-run",
                                    .options = option_table,
                                    .words = words,
                                    .word_count = COUNT_OF(words)};
    Text out = {0};
    if (!command_generate(&command, kind, &out) && !syntax_print(kind, &out))
        return fault_set(fault, FAULT_USAGE, "--generate '%s': expected man, bash, zsh, fish, vim or textmate", kind);
    bool ok = file_write("-", out.data, out.length, fault) || fault_prefix(fault, "standard output");
    text_free(&out);
    return ok;
}

// ---- parsing ---------------------------------------------------------------------------------

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

// All passes from `first` on are left out.
static void leave_out_from(Options *options, int first)
{
    for (int p = first; p < PLAN_PASS_COUNT; p++)
        options->without |= 1u << p;
}

static void parse_dump_pass(const char *name, bool after, Options *options, struct argp_state *state)
{
    if (options->dump_pass != NONE)
        argp_error(state, "one of --dump-before and --dump-after at a time: a dump shows one schedule");
    options->dump_pass = plan_pass_parse(name);
    Text names = {0};
    for (int p = 0; p < PLAN_PASS_COUNT; p++)
        text_format(&names, "%s%s",
                    p == 0                     ? ""
                    : p == PLAN_PASS_COUNT - 1 ? " or "
                                               : ", ",
                    plan_pass_info((PlanPass)p)->name);
    if (options->dump_pass < 0)
        argp_error(state, "unknown pass '%s': expected %s", name, names.data);
    text_free(&names);
    leave_out_from(options, options->dump_pass + after);
}

static double parse_number(const char *text, const char *option, double low, double high, struct argp_state *state)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= low && value <= high))
        argp_error(state, "%s takes a number from %g to %g, got '%s'", option, low, high, text);
    return value;
}

static bool is_sweep_form(const char *output)
{
    return text_ends_with(output, ".csv") || text_ends_with(output, ".json") || text_ends_with(output, ".svg") ||
           strcmp(output, "-") == 0;
}

// Plans are binary: under these endings nobody looks for one, and a description would be lost.
static void refuse_wrong_ending(const Options *options, struct argp_state *state)
{
    static const struct {
        const char *ending, *option;
    } others[] = {{".hep", NULL},         {".ir", "--dump=ir"}, {".html", "--emit=html"}, {".json", "--emit=json"},
                  {".dot", "--emit=dot"}, {".svg", "--sweep"},  {".csv", "--sweep"},      {".lp", "--dump=milp"}};
    if (!options->output || options->dump != DUMP_NONE || options->sweep_count > 0 || options->diff)
        return;
    for (size_t i = 0; i < COUNT_OF(others); i++) {
        if (!text_ends_with(options->output, others[i].ending))
            continue;
        argp_error(state, "'%s' would be a binary plan: name it .hepb%s%s", options->output,
                   others[i].option ? ", or give " : "", others[i].option ? others[i].option : "");
    }
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
                   {"--passes", options->passes},
                   {"--check", options->check}};
    const char *first = NULL;
    for (size_t i = 0; i < COUNT_OF(outputs); i++) {
        if (!outputs[i].given)
            continue;
        if (first)
            argp_error(state, "%s and %s do not go together", first, outputs[i].name);
        first = outputs[i].name;
    }
    if (options->dump == DUMP_CHAKRA && (!options->output || strcmp(options->output, "-") == 0))
        argp_error(state, "--emit=chakra writes a file per rank: give -o PREFIX");
    if (options->merge && options->dump != DUMP_TRACE)
        argp_error(state, "--merge adds a run to a simulated one: it needs --emit=trace");
    if (options->json && !options->explain && !options->simulate)
        argp_error(state, "--json goes with --explain or --simulate; the plan itself for programs is --dump=json");
    if (options->dump_pass != NONE && options->dump == DUMP_NONE)
        argp_error(state, "--dump-before and --dump-after say of which schedule: they need --dump or --emit");
    if (options->dump_pass != NONE && options->no_passes)
        argp_error(state, "-O0 leaves all passes out: no --dump-before or --dump-after goes with it");
    if (options->sweep_count > 0 && options->output && !is_sweep_form(options->output))
        argp_error(state, "a sweep is written as .csv, .json or .svg, not as '%s'", options->output);
    refuse_wrong_ending(options, state);
    if (options->check && options->output)
        argp_error(state, "--check writes nothing: it does not go together with --output");
}

// Long because every option is a case.
static error_t parse_option(int key, char *argument, struct argp_state *state)
{
    Options *options = state->input;
    switch (key) {
    case 'o':
        options->output = argument;
        return 0;
    case 'D':
        options->checks.defines =
            realloc(options->checks.defines, (options->checks.define_count + 1) * sizeof(*options->checks.defines));
        if (!options->checks.defines)
            memory_exhausted();
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
        options->dispatch = name_code(&dispatch_names, argument);
        if (options->dispatch < 0)
            argp_error(state, "unknown dispatch '%s': expected naive or dedup", argument);
        return 0;
    case OPTION_PROFILE:
        options->profile = argument;
        return 0;
    case OPTION_PREFETCH:
        options->planner.prefetch = (uint32_t)parse_number(argument, "--prefetch", 0, PREFETCH_MAX, state);
        return 0;
    case OPTION_TIME_LIMIT:
        options->planner.time_limit_s = parse_number(argument, "--time-limit", 1e-3, 1e6, state);
        return 0;
    case OPTION_GAP:
        options->planner.limits.gap = parse_number(argument, "--gap", 0, 100, state) / 100;
        return 0;
    case 'O':
        options->no_passes = parse_number(argument, "-O", 0, 1, state) == 0;
        return 0;
    case OPTION_PASSES:
        options->passes = true;
        return 0;
    case OPTION_DUMP_BEFORE:
    case OPTION_DUMP_AFTER:
        parse_dump_pass(argument, key == OPTION_DUMP_AFTER, options, state);
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
    case OPTION_GENERATE:
        options->generate = argument;
        return 0;
    case ARGP_KEY_ARG:
        if (options->input)
            argp_error(state, "one input file at a time: '%s' and '%s'", options->input, argument);
        options->input = argument;
        return 0;
    case ARGP_KEY_END:
        if (options->generate)
            return 0;
        if (!options->input && !options->help_language)
            argp_error(state, "no input file: give a .hep, .ir or .hepb file ('-' reads standard input)");
        refuse_mixtures(options, state);
        if (options->no_passes)
            leave_out_from(options, 0);
        return 0;
    }
    return ARGP_ERR_UNKNOWN;
}

Options options_default(const char *input)
{
    return (Options){.input = input,
                     .dispatch = NONE,
                     .dump_pass = NONE,
                     .planner = {.prefetch = PREFETCH_UNLIMITED, .glpk = true, .advise = true}};
}

bool options_parse(int argc, char **argv, Options *options, Fault *fault)
{
    static const struct argp parser = {option_table, parse_option,      "FILE", documentation,
                                       NULL,         exit_codes_append, NULL};
    *options = options_default(NULL);
    if (!command_knows_options(option_table, argc, argv, fault))
        return false;
    error_t error = argp_parse(&parser, argc, argv, 0, NULL, options);
    return !error || fault_set(fault, error == ENOMEM ? FAULT_MEMORY : FAULT_USAGE, "the command line: %s",
                               strerrordesc_np(error));
}
