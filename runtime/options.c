// See options.h. Here, and in main.c, the runtime prints and exits.
#include "runtime/options.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/base/command.h"
#include "ir/base/exit_codes.h"
#include "runtime/plugin/plugin.h"
#include "runtime/report/report.h"
#include "runtime/signals.h"

enum {
    OPTION_WARMUP = 256,
    OPTION_SEED,
    OPTION_DATA,
    OPTION_LEARNING_RATE,
    OPTION_WEIGHT_DECAY,
    OPTION_BALANCE,
    OPTION_CHECKPOINT,
    OPTION_EVERY,
    OPTION_RESUME,
    OPTION_UNTIL,
    OPTION_OTHER_DATA,
    OPTION_VALIDATE,
    OPTION_VALIDATION,
    OPTION_SKIP_NONFINITE,
    OPTION_LOSSES,
    OPTION_CHECKPOINT_SIGNAL,
    OPTION_CHECK,
    OPTION_JSON,
    OPTION_EMULATE_LINKS,
    OPTION_ROUTING,
    OPTION_ENGINE,
    OPTION_COMMUNICATOR,
    OPTION_NO_GRAPH,
    OPTION_TIMEOUT,
    OPTION_STEPS,
    OPTION_TRACE,
    OPTION_TRACE_RANKS,
    OPTION_PROFILE,
    OPTION_CALIBRATE,
    OPTION_LEVELS,
    OPTION_OVERWRITE,
    OPTION_QUIET,
    OPTION_GENERATE,
};

enum { ITERATIONS_MAX = 1000000 };

static void print_version(FILE *out, struct argp_state *state)
{
    Text text = {0};
    (void)state;
    cuda_plugin_describe(&text);
    fprintf(out, "hep-run " HEP_VERSION "\nCUDA engine: %s\n", text.data);
    text_free(&text);
}

void (*argp_program_version_hook)(FILE *, struct argp_state *) = print_version;

// The text that ends --help: what is here of the engines is not for the man page.
static char *append_engines(int key, const char *text, void *input)
{
    Text whole = {0};
    char *codes = exit_codes_append(key, text, input);
    if (key != ARGP_KEY_HELP_POST_DOC || !text)
        return codes;
    text_format(&whole, "%s\nEngine cuda: ", codes);
    cuda_plugin_describe(&whole);
    text_append(&whole, "\n");
    if (codes != text)
        free(codes);
    return whole.data;
}

static const char documentation[] =
    "Example: hepc samples/laptop.hep -o laptop.hepb && hep-run laptop.hepb --emulate-links --check\n\n"
    "Execute a plan that hepc compiled, step by step, and report measured against predicted times and bytes. Every "
    "rank is a thread of this process, or, under mpirun or srun, a process. PLAN is a .hepb or .ir file; '-' reads "
    "standard input.\v"
    "Routing:\n"
#define X(name, text, doc) "  " text ": " doc "\n"
    HEP_ROUTINGS(X)
#undef X
        "\n"
        "Signals:\n"
        "  SIGTERM: end the iteration, write a checkpoint if --checkpoint is given, and exit with 75; a second signal "
        "ends the run at once\n"
        "  SIGINT: as SIGTERM\n"
        "  SIGHUP: as SIGTERM, unless it is ignored (nohup)\n"
        "  SIGUSR1: print the step that each stream of this process's ranks is at, to standard error, and continue\n"
        "\n";

// "; mpi: a process per rank", ...
#define HELP_OF_HOST_THREADS                                  "; "
#define HELP_OF_HOST_PROCESSES                                "; "
#define HELP_OF_DEVICE_THREADS                                "; with --engine cuda "
#define HELP_OF_DEVICE_PROCESSES                              "; with --engine cuda "
#define HEP_COMMUNICATOR(name, KIND, launcher, library, text) HELP_OF_##KIND #name ": " text

static const struct argp_option option_table[] = {
    {"iterations", 'n', "COUNT", 0, "measured iterations (10)", 0},
    {"warmup", OPTION_WARMUP, "COUNT", 0, "iterations before them that are not measured (1; of training plans 0)", 0},
    {"seed", OPTION_SEED, "NUMBER", 0, "of weights and tokens (0)", 0},
    {"data", OPTION_DATA, "FILE", 0, "take the tokens from the bytes of FILE instead of generating them", 0},
    {"learning-rate", OPTION_LEARNING_RATE, "RATE", 0, "of AdamW at its highest, instead of the plan's", 0},
    {"weight-decay", OPTION_WEIGHT_DECAY, "RATE", 0, "of AdamW, instead of the plan's", 0},
    {"balance", OPTION_BALANCE, "WEIGHT", 0, "of the load-balancing loss, instead of the plan's", 0},
    {"checkpoint", OPTION_CHECKPOINT, "DIR", 0,
     "write checkpoints to DIR, after the last iteration and as --every says; keep the last two", 0},
    {"every", OPTION_EVERY, "COUNT", 0, "iterations from one checkpoint to the next", 0},
    {"checkpoint-signal", OPTION_CHECKPOINT_SIGNAL, "SIGNAL", 0,
     "another signal that acts as SIGTERM, such as USR2, which a scheduler sends before its time limit", 0},
    {"resume", OPTION_RESUME, "DIR", 0,
     "resume from the last checkpoint in DIR, or from DIR if it is one itself; -n counts from there", 0},
    {"until", OPTION_UNTIL, "ITERATION", 0,
     "instead of -n: train up to this iteration, counted from the first of all; a --resume of the directory that "
     "--checkpoint names then starts afresh if there is no checkpoint yet, so one command starts or resumes",
     0},
    {"other-data", OPTION_OTHER_DATA, NULL, 0, "resume although the data, or the seed, are not the checkpoint's", 0},
    {"validate", OPTION_VALIDATE, "COUNT", 0,
     "every so many iterations, and after the last, compute the loss of held-out data", 0},
    {"validation", OPTION_VALIDATION, "SHARE", 0, "of the bytes of --data, at its end, that is held out (0.1)", 0},
    {"skip-nonfinite", OPTION_SKIP_NONFINITE, NULL, 0,
     "if a loss or gradient is not finite, skip that iteration's update instead of stopping", 0},
    {"losses", OPTION_LOSSES, "FILE", 0, "write a CSV row per iteration to FILE while training", 0},
    {"check", OPTION_CHECK, NULL, 0, "compare the last iteration with a dense reference; exit 1 if they differ", 0},
    {"emulate-links", OPTION_EMULATE_LINKS, NULL, 0,
     "hold transfers to the bandwidths and latencies of the plan's cluster", 0},
    {"routing", OPTION_ROUTING, "KIND", 0, "how the gate chooses: learned, balanced or skewed (learned)", 0},
    {"engine", OPTION_ENGINE, "NAME", 0, "what executes the steps: host or cuda (host)", 0},
    {"communicator", OPTION_COMMUNICATOR, "NAME", 0,
     "how ranks reach each other; unless given, as a launcher started them, else in one process"
#include "runtime/comm/communicators.def"
     ,
     0},
    {"no-graph", OPTION_NO_GRAPH, NULL, 0, "cuda: enqueue every step of every iteration, capture no graph", 0},
    {"timeout", OPTION_TIMEOUT, "SECONDS", 0, "give up when a peer is missing and nothing moves for so long (60)", 0},
    {"json", OPTION_JSON, "FILE", OPTION_ARG_OPTIONAL,
     "write the report as JSON to FILE; without FILE to standard output, instead of the tables", 0},
    {"steps", OPTION_STEPS, NULL, 0, "list every step instead of one line per op", 0},
    {"trace", OPTION_TRACE, "FILE", 0,
     "write the last iteration as Chrome trace events, for Perfetto; 'hepc --emit=trace --merge FILE' adds the "
     "simulated one",
     0},
    {"trace-ranks", OPTION_TRACE_RANKS, "RANKS", 0, "whose, such as 0-3,8 (the first 32)", 0},
    {"profile", OPTION_PROFILE, "FILE", 0,
     "write as JSON how long steps took and how often each expert was chosen, for 'hepc --profile FILE'", 0},
    {"calibrate", OPTION_CALIBRATE, "FILE", 0,
     "run no plan; measure links, matrix products and memory under this launcher, and write them as the cluster block "
     "of a .hep file. PLAN says which levels there are and how large an expert is",
     0},
    {"levels", OPTION_LEVELS, "LEVELS", 0, "calibrate these without a plan, outermost first, such as dc=4,gpu=2", 0},
    {"overwrite", OPTION_OVERWRITE, NULL, 0,
     "replace what an earlier run wrote with --json, --profile or --losses, instead of renaming it to FILE.~1~, ...",
     0},
    {"quiet", OPTION_QUIET, NULL, 0, "no progress line", 0},
    {"generate", OPTION_GENERATE, "KIND", OPTION_HIDDEN, "", 0},
    {0},
};

bool is_standard(const char *path)
{
    return path && strcmp(path, "-") == 0;
}

int standard_outputs(const Options *options)
{
    return is_standard(options->json) + is_standard(options->trace) + is_standard(options->profile);
}

static uint64_t parse_number(struct argp_state *state, const char *option, const char *text, uint64_t min, uint64_t max)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || value < min || value > max)
        argp_error(state, "--%s '%s': expected a whole number from %" PRIu64 " to %" PRIu64, option, text, min, max);
    return value;
}

static double parse_seconds(struct argp_state *state, const char *option, const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(value) || value <= 0 || value > 1e6)
        argp_error(state, "--%s '%s': expected seconds, more than 0 and at most 1000000", option, text);
    return value;
}

static const EngineOps *parse_engine(struct argp_state *state, const char *name)
{
    const EngineOps *engine = engine_find(name);
    if (engine)
        return engine;
    Text known = {0};
    for (size_t e = 0; engine_name(e); e++)
        text_format(&known, "%s'%s'", e ? ", " : "", engine_name(e));
    argp_error(state, "unknown engine '%s': this program has %s", name, known.data);
    text_free(&known);
    return NULL;
}

static double parse_rate(struct argp_state *state, const char *option, const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= 0 && value <= 1e30))
        argp_error(state, "--%s '%s': expected a number, 0 or more", option, text);
    return value;
}

static double parse_share(struct argp_state *state, const char *option, const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= 0 && value < 1))
        argp_error(state, "--%s '%s': expected a share, from 0 to less than 1", option, text);
    return value;
}

static const Communicator *parse_communicator(struct argp_state *state, const char *name)
{
    const Communicator *communicator = communicator_find(name);
    Text known = {0};
    for (size_t c = 0; !communicator && c < COMMUNICATOR_COUNT; c++)
        text_format(&known, "%s%s", c == 0 ? "" : c + 1 == COMMUNICATOR_COUNT ? " or " : ", ", communicator_name(c));
    if (!communicator)
        argp_error(state, "unknown communicator '%s': expected %s", name, known.data);
    text_free(&known);
    return communicator;
}

// Host memory and device memory move in different ways.
static void check_communicator(struct argp_state *state, const Options *options)
{
    const Communicator *named = options->communicator;
    if (named && named->of_device != (options->job.engine == &cuda_engine))
        argp_error(state, "--communicator %s goes with --engine %s", named->name,
                   named->of_device ? cuda_engine.name : host_engine.name);
}

// ---- what is generated when hep-run is built -------------------------------------------------

static const char *routing_word(size_t index)
{
#define X(name, text, doc) text,
    static const char *const words[] = {HEP_ROUTINGS(X)};
#undef X
    return index < COUNT_OF(words) ? words[index] : NULL;
}

static const char *input_ending(size_t index)
{
    static const char *const endings[] = {"hepb", "ir"};
    return index < COUNT_OF(endings) ? endings[index] : NULL;
}

bool options_generate(const char *kind, Fault *fault)
{
    static const CommandWords words[] = {{OPTION_ENGINE, engine_name},
                                         {OPTION_COMMUNICATOR, communicator_name},
                                         {OPTION_ROUTING, routing_word},
                                         {OPTION_CHECKPOINT_SIGNAL, signals_name},
                                         {COMMAND_ARGUMENT, input_ending}};
    static const Command command = {.name = "hep-run",
                                    .purpose = "execute a communication plan",
                                    .version = HEP_VERSION,
                                    .argument = "PLAN",
                                    .documentation = documentation,
                                    .see_also = "hepc",
                                    .options = option_table,
                                    .words = words,
                                    .word_count = COUNT_OF(words)};
    Text out = {0};
    if (!command_generate(&command, kind, &out))
        return fault_set(fault, FAULT_USAGE, "--generate '%s': expected man, bash, zsh or fish", kind);
    bool ok = file_write("-", out.data, out.length, fault) || fault_prefix(fault, "standard output");
    text_free(&out);
    return ok;
}

// ---- parsing ---------------------------------------------------------------------------------

static Routing parse_routing(struct argp_state *state, const char *name)
{
    int routing = routing_parse(name);
    if (routing < 0)
        argp_error(state, "unknown routing '%s': expected learned, balanced or skewed", name);
    return (Routing)routing;
}

static int parse_signal(struct argp_state *state, const char *name)
{
    int signal = signals_parse(name);
    Text names = {0};
    for (size_t n = 0; signal == 0 && signals_name(n); n++)
        text_format(&names, "%s%s", n == 0 ? "" : signals_name(n + 1) ? ", " : " or ", signals_name(n));
    if (signal == 0)
        argp_error(state, "--checkpoint-signal '%s': expected %s", name, names.data);
    text_free(&names);
    return signal;
}

static void check_calibrate(struct argp_state *state, const Options *options)
{
    if (options->levels && !options->calibrate)
        argp_error(state, "--levels goes with --calibrate; a plan says its own");
    if (options->levels && (options->input || options->job.emulate_links))
        argp_error(state, "--levels stands in for a plan%s",
                   options->input ? ": give one of them" : ", but says no bandwidths to emulate");
    if (options->calibrate && (options->job.check || options->json || options->trace || options->profile))
        argp_error(state, "--calibrate runs no plan: --check, --json, --trace and --profile do not go with it");
}

// The plan is not written over, nor one output over another.
static void refuse_overwriting(struct argp_state *state, const Options *options)
{
    const struct {
        const char *option, *path;
    } outputs[] = {{"--json", options->json},
                   {"--trace", options->trace},
                   {"--profile", options->profile},
                   {"--losses", options->job.training.loss_log},
                   {"--calibrate", options->calibrate}};
    for (size_t i = 0; i < COUNT_OF(outputs); i++) {
        if (file_is_same(options->input, outputs[i].path))
            argp_error(state, "%s '%s': that is the plan: it will not be overwritten", outputs[i].option,
                       outputs[i].path);
        for (size_t k = 0; k < i; k++)
            if (outputs[i].path && outputs[k].path && !is_standard(outputs[i].path) &&
                strcmp(outputs[i].path, outputs[k].path) == 0)
                argp_error(state, "%s and %s write to one file, '%s'", outputs[k].option, outputs[i].option,
                           outputs[i].path);
    }
}

static void check_training(struct argp_state *state, const Options *options)
{
    const TrainingOptions *training = &options->job.training;
    if (training->checkpoint_every > 0 && !training->checkpoint)
        argp_error(state, "--every says how often --checkpoint DIR is written to: give that, too");
    if (training->other_data && !training->resume)
        argp_error(state, "--other-data goes with --resume");
    if (training->until > 0 && options->iterations_given)
        argp_error(state, "--until counts iterations from the first of all, -n from where this run begins: give one");
    if (training->until > 0 && options->warmup_given && options->job.warmup > 0)
        argp_error(state, "--until counts all iterations, measured or not: give no --warmup");
    if (options->validation_given && !options->job.data_path)
        argp_error(state, "--validation divides the bytes of --data FILE: give that, too");
    if (training->validate_every > 0 && options->job.data_path && training->validation_share == 0)
        argp_error(state, "--validate computes the loss of held-out bytes, and --validation 0 holds none out");
    if (options->training_option && options->calibrate)
        argp_error(state, "--calibrate runs no plan: --%s does not go with it", options->training_option);
    if (options->job.check && training->resume)
        argp_error(state, "--check compares with a reference that has the initial weights: not with --resume");
    if (options->job.check && training->validate_every > 0)
        argp_error(state, "--check looks at the last forward pass: not with --validate");
}

// Of those that only training plans have a use for.
static error_t parse_training_option(int key, char *argument, struct argp_state *state)
{
    Options *options = state->input;
    TrainingOptions *training = &options->job.training;
    switch (key) {
    case OPTION_LEARNING_RATE:
        options->job.learning_rate = parse_rate(state, "learning-rate", argument);
        return 0;
    case OPTION_WEIGHT_DECAY:
        options->job.weight_decay = parse_rate(state, "weight-decay", argument);
        return 0;
    case OPTION_BALANCE:
        options->job.balance = parse_rate(state, "balance", argument);
        return 0;
    case OPTION_CHECKPOINT:
        training->checkpoint = argument;
        return 0;
    case OPTION_EVERY:
        training->checkpoint_every = (uint32_t)parse_number(state, "every", argument, 1, ITERATIONS_MAX);
        return 0;
    case OPTION_RESUME:
        training->resume = argument;
        return 0;
    case OPTION_UNTIL:
        training->until = parse_number(state, "until", argument, 1, ITERATIONS_MAX);
        return 0;
    case OPTION_OTHER_DATA:
        training->other_data = true;
        return 0;
    case OPTION_VALIDATE:
        training->validate_every = (uint32_t)parse_number(state, "validate", argument, 1, ITERATIONS_MAX);
        return 0;
    case OPTION_VALIDATION:
        training->validation_share = parse_share(state, "validation", argument);
        options->validation_given = true;
        return 0;
    case OPTION_SKIP_NONFINITE:
        training->skip_nonfinite = true;
        return 0;
    case OPTION_LOSSES:
        training->loss_log = argument;
        return 0;
    }
    return ARGP_ERR_UNKNOWN;
}

static const char *option_name(int key)
{
    const struct argp_option *option = option_table;
    while (option->key != key)
        option++;
    return option->name;
}

// Long because every option is a case.
static error_t parse_option(int key, char *argument, struct argp_state *state)
{
    Options *options = state->input;
    if (parse_training_option(key, argument, state) == 0) {
        options->training_option = options->training_option ? options->training_option : option_name(key);
        return 0;
    }
    switch (key) {
    case 'n':
        options->job.iterations = (uint32_t)parse_number(state, "iterations", argument, 1, ITERATIONS_MAX);
        options->iterations_given = true;
        return 0;
    case OPTION_WARMUP:
        options->job.warmup = (uint32_t)parse_number(state, "warmup", argument, 0, ITERATIONS_MAX);
        options->warmup_given = true;
        return 0;
    case OPTION_SEED:
        options->job.seed = parse_number(state, "seed", argument, 0, UINT64_MAX);
        options->job.seed_given = true;
        return 0;
    case OPTION_DATA:
        options->job.data_path = argument;
        return 0;
    case OPTION_CHECK:
        options->job.check = true;
        return 0;
    case OPTION_EMULATE_LINKS:
        options->job.emulate_links = true;
        return 0;
    case OPTION_ROUTING:
        options->job.routing = parse_routing(state, argument);
        return 0;
    case OPTION_ENGINE:
        options->job.engine = parse_engine(state, argument);
        return 0;
    case OPTION_COMMUNICATOR:
        options->communicator = parse_communicator(state, argument);
        return 0;
    case OPTION_NO_GRAPH:
        options->job.graphs = false;
        return 0;
    case OPTION_TIMEOUT:
        options->job.timeout_s = parse_seconds(state, "timeout", argument);
        return 0;
    case OPTION_JSON:
        options->json = argument ? argument : "-";
        return 0;
    case OPTION_STEPS:
        options->every_step = true;
        return 0;
    case OPTION_TRACE:
        options->trace = argument;
        return 0;
    case OPTION_TRACE_RANKS:
        options->trace_ranks = argument;
        return 0;
    case OPTION_PROFILE:
        options->profile = argument;
        options->job.count_choices = true;
        return 0;
    case OPTION_CALIBRATE:
        options->calibrate = argument;
        return 0;
    case OPTION_LEVELS:
        options->levels = argument;
        return 0;
    case OPTION_CHECKPOINT_SIGNAL:
        options->signal = parse_signal(state, argument);
        return 0;
    case OPTION_OVERWRITE:
        options->job.overwrite = true;
        return 0;
    case OPTION_QUIET:
        options->quiet = true;
        return 0;
    case OPTION_GENERATE:
        options->generate = argument;
        return 0;
    case ARGP_KEY_ARG:
        if (options->input)
            argp_error(state, "one plan at a time: '%s' and '%s'", options->input, argument);
        options->input = argument;
        return 0;
    case ARGP_KEY_END:
        if (options->generate)
            return 0;
        check_calibrate(state, options);
        check_training(state, options);
        check_communicator(state, options);
        if (!options->input && !options->levels)
            argp_error(state, "no plan: give a .hepb or .ir file ('-' reads standard input)");
        if (options->trace_ranks && !options->trace)
            argp_error(state, "--trace-ranks says whose times --trace FILE writes: give that, too");
        if (standard_outputs(options) > 1)
            argp_error(state, "only one of --json, --trace and --profile can go to standard output");
        refuse_overwriting(state, options);
        return 0;
    }
    return ARGP_ERR_UNKNOWN;
}

bool options_parse(int argc, char **argv, Options *options, Fault *fault)
{
    static const struct argp parser = {option_table, parse_option, "PLAN", documentation, NULL, append_engines, NULL};
    *options = (Options){.job = job_options_default()};
    if (!command_knows_options(option_table, argc, argv, fault))
        return false;
    error_t error = argp_parse(&parser, argc, argv, 0, NULL, options);
    return !error || fault_set(fault, error == ENOMEM ? FAULT_MEMORY : FAULT_USAGE, "the command line: %s",
                               strerrordesc_np(error));
}
